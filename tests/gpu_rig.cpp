// What the tests of the GPU driver share; see gpu_rig.h.
#include "tests/gpu_rig.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

extern char** environ;

namespace gpu_test {

// One thread each; words are 32 bits. PTX of a version that every driver from 12.0 on compiles.
const char kModuleText[] = R"(.version 7.0
.target sm_70
.address_size 64
.visible .entry store_word(.param .u64 to, .param .u32 value)
{
  .reg .u64 %rd<2>;
  .reg .u32 %r<2>;
  ld.param.u64 %rd1, [to];
  ld.param.u32 %r1, [value];
  st.global.u32 [%rd1], %r1;
  ret;
}
.visible .entry copy_words(.param .u64 to, .param .u64 from, .param .u32 count)
{
  .reg .u64 %rd<3>;
  .reg .u32 %r<4>;
  .reg .pred %p<2>;
  ld.param.u64 %rd1, [to];
  ld.param.u64 %rd2, [from];
  ld.param.u32 %r1, [count];
next:
  setp.eq.u32 %p1, %r1, 0;
  @%p1 bra done;
  ld.global.u32 %r2, [%rd2];
  st.global.u32 [%rd1], %r2;
  add.u64 %rd1, %rd1, 4;
  add.u64 %rd2, %rd2, 4;
  sub.u32 %r1, %r1, 1;
  bra next;
done:
  ret;
}
)";

const EmulatedKernel kKernels[2] = {
    {"store_word",
     [](const KernelCall& call) {
       *call.at<volatile std::uint32_t>(call.parameter<DevicePointer>(0)) = call.parameter<std::uint32_t>(8);
     },
     {8, 4}},
    {"copy_words",
     [](const KernelCall& call) {
       auto* to = call.at<volatile std::uint32_t>(call.parameter<DevicePointer>(0));
       const auto* from = call.at<const volatile std::uint32_t>(call.parameter<DevicePointer>(8));
       const auto count = call.parameter<std::uint32_t>(16);
       for (std::uint32_t i = 0; i < count; ++i) to[i] = from[i];
     },
     {8, 8, 4}},
};

void Rig::start() {
  REQUIRE(driver.init(0) == Result::success);
  REQUIRE(driver.primary_ctx_retain(&context, 0) == Result::success);
  REQUIRE(driver.ctx_set_current(context) == Result::success);
  REQUIRE(driver.module_load_data(&module, kModuleText) == Result::success);
}

// After a fault the context refuses everything until its end.
void Rig::stop() {
  static_cast<void>(driver.module_unload(module));
  CHECK(driver.ctx_set_current(nullptr) == Result::success);
  CHECK(driver.primary_ctx_release(0) == Result::success);
}

bool Rig::recover() {
  if (emulated == nullptr) return false;
  stop();
  start();
  return true;
}

void Rig::expect(Probe probe, Result got) const {
  const ProbeRow& row = row_of(probe);
  INFO(row.what << (emulated != nullptr ? ", emulated driver" : ", real driver"));
  CHECK(std::string(name_of(got)) == name_of(row.result));
  if (emulated == nullptr && std::getenv("GLEBE_GPU_RECORD") != nullptr) {
    std::printf("PROBE(%s, %d %s, recorded, \"%s\")\n", row.name, static_cast<int>(got), name_of(got),
                row.what);
  }
}

AllocationProperties Rig::properties(LocationType type) {
  AllocationProperties wanted = {};
  wanted.type = AllocationType::pinned;
  wanted.location = {type, 0};
  return wanted;
}

DevicePointer Rig::reserve(std::size_t size_bytes) const {
  DevicePointer address = 0;
  REQUIRE(driver.mem_address_reserve(&address, size_bytes, 0, 0, 0) == Result::success);
  return address;
}

MemoryHandle Rig::create(std::size_t size_bytes, LocationType type) const {
  const AllocationProperties wanted = properties(type);
  MemoryHandle handle = 0;
  REQUIRE(driver.mem_create(&handle, size_bytes, &wanted, 0) == Result::success);
  return handle;
}

void Rig::map(DevicePointer address, std::size_t size_bytes, MemoryHandle handle) const {
  REQUIRE(driver.mem_map(address, size_bytes, 0, handle, 0) == Result::success);
}

Result Rig::set_access(DevicePointer address, std::size_t size_bytes, AccessFlags flags,
                       LocationType type) const {
  const AccessDescription access = {{type, 0}, flags};
  return driver.mem_set_access(address, size_bytes, &access, 1);
}

DevicePointer Rig::memory(std::size_t size_bytes, AccessFlags flags) const {
  const DevicePointer address = reserve(size_bytes);
  const MemoryHandle handle = create(size_bytes);
  map(address, size_bytes, handle);
  REQUIRE(driver.mem_release(handle) == Result::success);
  REQUIRE(set_access(address, size_bytes, flags) == Result::success);
  return address;
}

void Rig::give_back(DevicePointer address, std::size_t size_bytes) const {
  CHECK(driver.mem_unmap(address, size_bytes) == Result::success);
  CHECK(driver.mem_address_free(address, size_bytes) == Result::success);
}

Stream Rig::stream(unsigned flags) const {
  Stream made = nullptr;
  REQUIRE(driver.stream_create(&made, flags) == Result::success);
  return made;
}

Event Rig::event(unsigned flags) const {
  Event made = nullptr;
  REQUIRE(driver.event_create(&made, flags) == Result::success);
  return made;
}

std::uint32_t* Rig::pinned(std::size_t words) const {
  void* made = nullptr;
  REQUIRE(driver.mem_host_alloc(&made, words * 4, 0) == Result::success);
  std::memset(made, 0, words * 4);
  return static_cast<std::uint32_t*>(made);
}

Result Rig::store_word(DevicePointer to, std::uint32_t value, Stream in) const {
  Function function = nullptr;
  const Result result = driver.module_get_function(&function, module, "store_word");
  if (result != Result::success) return result;
  void* parameters[] = {&to, &value};
  return driver.launch_kernel(function, 1, 1, 1, 1, 1, 1, 0, in, parameters, nullptr);
}

Result Rig::copy_words(DevicePointer to, DevicePointer from, std::uint32_t count, Stream in) const {
  Function function = nullptr;
  const Result result = driver.module_get_function(&function, module, "copy_words");
  if (result != Result::success) return result;
  void* parameters[] = {&to, &from, &count};
  return driver.launch_kernel(function, 1, 1, 1, 1, 1, 1, 0, in, parameters, nullptr);
}

std::uint32_t Rig::read_word(DevicePointer from) const {
  std::uint32_t word = 0;
  REQUIRE(driver.memcpy_d2h(&word, from, sizeof word) == Result::success);
  return word;
}

namespace {

constexpr char kOwnProcess[] = "GLEBE_GPU_OWN_PROCESS";

const LoadedDriver& real_driver() {
  static const LoadedDriver loaded = load_driver();
  return loaded;
}

void on_emulators(Body body) {
  for (const GpuSchedule schedule : {GpuSchedule::eager, GpuSchedule::threaded, GpuSchedule::adversarial}) {
    INFO("schedule " << static_cast<int>(schedule));
    EmulatedGpu::Options options;
    options.device_bytes = 64 * kMiB;
    options.host_bytes = 64 * kMiB;
    options.schedule = schedule;
    options.kernels = kKernels;
    on_emulator(options, body);
  }
}

void on_real(Body body, bool is_usable_at_end) {
  Rig rig(real_driver().driver, nullptr);
  rig.start();
  // The driver loads a kernel when it is launched first, and may wait for the device to be idle: not while a
  // test holds a stream.
  const DevicePointer address = rig.memory(kGranule);
  REQUIRE(rig.store_word(address, 1, nullptr) == Result::success);
  REQUIRE(rig.copy_words(address + 4, address, 1, nullptr) == Result::success);
  REQUIRE(rig.driver.ctx_synchronize() == Result::success);
  rig.give_back(address, kGranule);
  body(rig);
  if (is_usable_at_end) rig.stop();
}

}  // namespace

void for_each_driver(Body body) {
  if (std::getenv(kOwnProcess) == nullptr) on_emulators(body);
  if (real_driver().support == Support::present) on_real(body, true);
}

// A context that faulted is lost for its process.
void for_each_driver_in_own_process(const char* test_name, Body body) {
  if (std::getenv(kOwnProcess) != nullptr) {
    on_real(body, false);
    return;
  }
  on_emulators(body);
  if (real_driver().support != Support::present) return;
  ::setenv(kOwnProcess, "1", 1);
  char program[] = "/proc/self/exe";
  std::string name = test_name;
  char* arguments[] = {program, name.data(), nullptr};
  pid_t child = 0;
  const bool is_started = ::posix_spawn(&child, program, nullptr, nullptr, arguments, environ) == 0;
  ::unsetenv(kOwnProcess);
  REQUIRE(is_started);
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

TEST_CASE("X contract: the answers of a real GPU driver are compared where there is one", "[gpu]") {
  char buffer[200];
  glebe::Text text(buffer);
  explain(real_driver(), text);
  const bool is_real = real_driver().support == Support::present;
  if (!is_real) WARN("the contract was compared with the emulated driver only: " << text.c_str());
  // The table says where its rows come from: none from a device so far.
  for (unsigned i = 0; i <= static_cast<unsigned>(Probe::copy_box_null); ++i) {
    const ProbeRow& row = row_of(static_cast<Probe>(i));
    INFO(row.name);
    CHECK((row.source != Source::recorded || kRecordedFrom[0] != '\0'));
  }
}

}  // namespace gpu_test
