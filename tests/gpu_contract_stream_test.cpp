// What the GPU driver promises about copies, streams, events, kernels and faults, on the emulated driver and
// on a real one. What would break: code that was tested on the emulator meets a device that orders or answers
// otherwise.
#include <chrono>
#include <thread>
#include <vector>

#include "tests/gpu_rig.h"

using namespace gpu_test;

namespace {

void append_digit(void* text) {
  auto* digits = static_cast<std::vector<int>*>(text);
  digits->push_back(static_cast<int>(digits->size()));
}

}  // namespace

TEST_CASE("X contract: the driver wants to be initialised and a context", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    Stream made = nullptr;
    Device device = 0;
    rig.expect(Probe::init_flags, driver.init(1));
    rig.expect(Probe::device_ordinal, driver.device_get(&device, 99));
    REQUIRE(driver.ctx_set_current(nullptr) == Result::success);
    Context current = rig.context;
    CHECK(driver.ctx_get_current(&current) == Result::success);
    CHECK(current == nullptr);
    rig.expect(Probe::no_context, driver.stream_create(&made, kStreamNonBlocking));
    REQUIRE(driver.ctx_set_current(rig.context) == Result::success);
    // A context is current in one thread.
    Result elsewhere = Result::success;
    std::thread([&] { elsewhere = driver.stream_create(&made, kStreamNonBlocking); }).join();
    rig.expect(Probe::no_context, elsewhere);
    CHECK(made == nullptr);
  });
  EmulatedGpu fresh;
  REQUIRE(fresh.open({}));
  const Rig rig(fresh.driver(), &fresh);
  DevicePointer address = 0;
  int count = 0;
  rig.expect(Probe::before_init, rig.driver.mem_address_reserve(&address, kGranule, 0, 0, 0));
  rig.expect(Probe::before_init, rig.driver.device_get_count(&count));
}

TEST_CASE("X2 contract: copies in all directions carry every byte", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    // Not multiples of anything: the last bytes count.
    constexpr std::size_t kBytes = 3 * kMiB + 5, kWords = kBytes / 4 + 1;
    const DevicePointer first = rig.memory(2 * kGranule), second = rig.memory(2 * kGranule);
    std::uint32_t* from = rig.pinned(kWords);
    std::uint32_t* to = rig.pinned(kWords);
    for (std::size_t i = 0; i < kWords; ++i) from[i] = static_cast<std::uint32_t>(i * 2654435761u);
    const Stream in = rig.stream();
    REQUIRE(driver.memcpy_h2d_async(first + 1, from, kBytes, in) == Result::success);
    REQUIRE(driver.memcpy_d2d_async(second + 3, first + 1, kBytes, in) == Result::success);
    REQUIRE(driver.memcpy_d2h_async(to, second + 3, kBytes, in) == Result::success);
    REQUIRE(driver.stream_synchronize(in) == Result::success);
    CHECK(std::memcmp(from, to, kBytes) == 0);
    std::vector<unsigned char> pageable(kBytes);
    REQUIRE(driver.memcpy_d2h(pageable.data(), second + 3, kBytes) == Result::success);
    CHECK(std::memcmp(from, pageable.data(), kBytes) == 0);
    CHECK(driver.stream_destroy(in) == Result::success);
    rig.give_back(first, 2 * kGranule);
    rig.give_back(second, 2 * kGranule);
    CHECK(driver.mem_free_host(from) == Result::success);
    CHECK(driver.mem_free_host(to) == Result::success);
  });
}

TEST_CASE("X contract: a copy checks its operands when it is called", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    const DevicePointer address = rig.reserve(3 * kGranule);
    const MemoryHandle handle = rig.create(kGranule);
    std::uint32_t words[4] = {1, 2, 3, 4};
    rig.expect(Probe::copy_to_unmapped, driver.memcpy_h2d(address, words, sizeof words));
    rig.map(address, kGranule, handle);
    rig.expect(Probe::copy_to_no_access, driver.memcpy_h2d(address, words, sizeof words));
    rig.expect(Probe::copy_from_no_access, driver.memcpy_d2h(words, address, sizeof words));
    rig.expect(Probe::fill_no_access, driver.memset_d8_async(address, 1, 16, nullptr));
    REQUIRE(rig.set_access(address, kGranule, kAccessRead) == Result::success);
    rig.expect(Probe::copy_to_read_only, driver.memcpy_h2d(address, words, sizeof words));
    rig.expect(Probe::copy_from_read_only, driver.memcpy_d2h(words, address, sizeof words));
    REQUIRE(rig.set_access(address, kGranule, kAccessReadWrite) == Result::success);
    // The end of the mapping counts as well as its beginning.
    rig.expect(Probe::copy_to_unmapped, driver.memcpy_h2d(address + kGranule - 8, words, sizeof words));
    rig.expect(Probe::fill_odd_address, driver.memset_d32_async(address + 2, 1, 1, nullptr));
    rig.expect(Probe::write_value_odd, driver.stream_write_value32(nullptr, address + 2, 1, 0));
    CHECK(driver.memcpy_h2d(address + kGranule - 16, words, sizeof words) == Result::success);
    CHECK(driver.mem_unmap(address, kGranule) == Result::success);
    CHECK(driver.mem_release(handle) == Result::success);
    CHECK(driver.mem_address_free(address, 3 * kGranule) == Result::success);
  });
}

TEST_CASE("X contract: a small source in pageable memory is taken when the copy is called", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const DevicePointer address = rig.memory(kGranule);
    const Stream in = rig.stream();
    std::vector<std::uint32_t> source(16 * kKiB / 4, 5);
    REQUIRE(rig.driver.memcpy_h2d_async(address, source.data(), 16 * kKiB, in) == Result::success);
    std::fill(source.begin(), source.end(), 6);
    REQUIRE(rig.driver.stream_synchronize(in) == Result::success);
    CHECK(rig.read_word(address) == 5);
    CHECK(rig.read_word(address + 16 * kKiB - 4) == 5);
    CHECK(rig.driver.stream_destroy(in) == Result::success);
    rig.give_back(address, kGranule);
  });
}

TEST_CASE("X contract: a stream does its work in order", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const DevicePointer address = rig.memory(kGranule);
    const Stream in = rig.stream();
    std::vector<int> digits;
    for (std::uint32_t i = 0; i < 50; ++i) {
      REQUIRE(rig.store_word(address, i, in) == Result::success);
      REQUIRE(rig.copy_words(address + 4 + 4 * i, address, 1, in) == Result::success);
      REQUIRE(rig.driver.launch_host_function(in, append_digit, &digits) == Result::success);
    }
    REQUIRE(rig.driver.stream_synchronize(in) == Result::success);
    CHECK(digits.size() == 50);
    for (std::uint32_t i = 0; i < 50; ++i) CHECK(rig.read_word(address + 4 + 4 * i) == i);
    CHECK(rig.driver.stream_query(in) == Result::success);
    CHECK(rig.driver.stream_destroy(in) == Result::success);
    rig.give_back(address, kGranule);
  });
}

TEST_CASE("X3 contract: streams pass each other, events make them wait", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    if (!rig.is_concurrent) return;
    const DevicePointer address = rig.memory(kGranule);
    const Stream slow = rig.stream(), quick = rig.stream();
    const Event done = rig.event();
    rig.expect(Probe::event_never_recorded, driver.event_query(done));
    REQUIRE(driver.memset_d32_async(address, 0, 2, quick) == Result::success);
    REQUIRE(driver.stream_synchronize(quick) == Result::success);
    Gate gate(rig, slow);
    REQUIRE(rig.store_word(address, 7, slow) == Result::success);
    REQUIRE(driver.event_record(done, slow) == Result::success);
    rig.expect(Probe::event_pending, driver.event_query(done));
    rig.expect(Probe::stream_pending, driver.stream_query(slow));
    // The other stream goes on, until it is told to wait.
    REQUIRE(rig.store_word(address + 4, 8, quick) == Result::success);
    REQUIRE(driver.stream_synchronize(quick) == Result::success);
    REQUIRE(driver.stream_wait_event(quick, done, 0) == Result::success);
    REQUIRE(rig.copy_words(address + 8, address, 1, quick) == Result::success);
    rig.expect(Probe::stream_pending, driver.stream_query(quick));
    gate.open();
    REQUIRE(driver.stream_synchronize(quick) == Result::success);
    CHECK(driver.event_query(done) == Result::success);
    CHECK(rig.read_word(address + 8) == 7);
    CHECK(driver.event_destroy(done) == Result::success);
    CHECK(driver.stream_destroy(slow) == Result::success);
    CHECK(driver.stream_destroy(quick) == Result::success);
    rig.give_back(address, kGranule);
  });
}

TEST_CASE("X contract: a wait refers to what was recorded when it was called", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    if (!rig.is_concurrent) return;
    const Stream slow = rig.stream(), other = rig.stream();
    const Event event = rig.event();
    REQUIRE(driver.event_record(event, slow) == Result::success);
    REQUIRE(driver.event_synchronize(event) == Result::success);
    Gate gate(rig, slow);
    REQUIRE(driver.stream_wait_event(other, event, 0) == Result::success);
    REQUIRE(driver.event_record(event, slow) == Result::success);
    // Recorded again behind the gate; the earlier wait does not care.
    CHECK(driver.stream_synchronize(other) == Result::success);
    CHECK(driver.event_query(event) == Result::not_ready);
    gate.open();
    CHECK(driver.event_synchronize(event) == Result::success);
    CHECK(driver.event_destroy(event) == Result::success);
    CHECK(driver.stream_destroy(slow) == Result::success);
    CHECK(driver.stream_destroy(other) == Result::success);
  });
}

TEST_CASE("X contract: a wait is not met by a later recording in a quicker stream", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    if (!rig.is_concurrent) return;
    const DevicePointer address = rig.memory(kGranule);
    const Stream slow = rig.stream(), quick = rig.stream(), waiting = rig.stream();
    const Event event = rig.event();
    REQUIRE(rig.store_word(address, 1, slow) == Result::success);
    REQUIRE(driver.stream_synchronize(slow) == Result::success);
    Gate gate(rig, slow);
    REQUIRE(rig.store_word(address, 7, slow) == Result::success);
    REQUIRE(driver.event_record(event, slow) == Result::success);
    REQUIRE(driver.stream_wait_event(waiting, event, 0) == Result::success);
    REQUIRE(rig.copy_words(address + 4, address, 1, waiting) == Result::success);
    REQUIRE(driver.event_record(event, quick) == Result::success);
    REQUIRE(driver.stream_synchronize(quick) == Result::success);
    CHECK(driver.event_query(event) == Result::success);  // asks about the last recording
    // Time for a driver that gets it wrong to go on.
    for (int look = 0; look < 20 && driver.stream_query(waiting) == Result::not_ready; ++look) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    CHECK(driver.stream_query(waiting) == Result::not_ready);
    gate.open();
    REQUIRE(driver.stream_synchronize(waiting) == Result::success);
    CHECK(rig.read_word(address + 4) == 7);
    CHECK(driver.event_destroy(event) == Result::success);
    for (const Stream stream : {slow, quick, waiting}) {
      CHECK(driver.stream_destroy(stream) == Result::success);
    }
    rig.give_back(address, kGranule);
  });
}

TEST_CASE("X contract: the default stream joins blocking streams and no others", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    if (!rig.is_concurrent) return;
    const DevicePointer address = rig.memory(kGranule);
    const Stream blocking = rig.stream(kStreamDefault), separate = rig.stream(kStreamNonBlocking);
    Gate gate(rig, blocking);
    REQUIRE(rig.store_word(address, 1, blocking) == Result::success);
    REQUIRE(rig.copy_words(address + 4, address, 1, nullptr) == Result::success);  // behind `blocking`
    REQUIRE(rig.store_word(address + 8, 3, separate) == Result::success);
    CHECK(driver.stream_synchronize(separate) == Result::success);
    CHECK(driver.stream_query(nullptr) == Result::not_ready);
    gate.open();
    CHECK(driver.stream_synchronize(nullptr) == Result::success);
    CHECK(rig.read_word(address + 4) == 1);
    CHECK(driver.stream_destroy(blocking) == Result::success);
    CHECK(driver.stream_destroy(separate) == Result::success);
    rig.give_back(address, kGranule);
  });
}

TEST_CASE("X contract: a destroyed stream does what waits in it; handles have numbers of their own",
          "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    const DevicePointer address = rig.memory(kGranule);
    unsigned long long first_id = 0, second_id = 0;
    const Stream first = rig.stream();
    REQUIRE(driver.stream_get_id(first, &first_id) == Result::success);
    REQUIRE(rig.store_word(address, 99, first) == Result::success);
    REQUIRE(driver.stream_destroy(first) == Result::success);
    const Stream second = rig.stream();
    REQUIRE(driver.stream_get_id(second, &second_id) == Result::success);
    CHECK(first_id != second_id);
    CHECK(driver.ctx_synchronize() == Result::success);
    CHECK(rig.read_word(address) == 99);
    CaptureStatus status = CaptureStatus::active;
    CHECK(driver.stream_is_capturing(second, &status) == Result::success);
    CHECK(status == CaptureStatus::none);
    CHECK(driver.stream_destroy(second) == Result::success);
    rig.expect(Probe::stream_null_place, driver.stream_create(nullptr, kStreamNonBlocking));
    rig.give_back(address, kGranule);
  });
}

TEST_CASE("X contract: time between events, where they keep it", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    const Event start = rig.event(kEventDefault), end = rig.event(kEventDefault), plain = rig.event();
    const Stream in = rig.stream();
    float duration_ms = -1;
    rig.expect(Probe::elapsed_never_recorded, driver.event_elapsed_time(&duration_ms, start, end));
    REQUIRE(driver.event_record(start, in) == Result::success);
    REQUIRE(driver.event_record(plain, in) == Result::success);
    REQUIRE(driver.event_record(end, in) == Result::success);
    REQUIRE(driver.event_synchronize(end) == Result::success);
    rig.expect(Probe::elapsed_without_timing, driver.event_elapsed_time(&duration_ms, start, plain));
    CHECK(driver.event_elapsed_time(&duration_ms, start, end) == Result::success);
    CHECK(duration_ms >= 0);
    for (const Event event : {start, end, plain}) CHECK(driver.event_destroy(event) == Result::success);
    CHECK(driver.stream_destroy(in) == Result::success);
  });
}

TEST_CASE("X contract: a value written in a stream is a fence that the host can poll", "[gpu]") {
  for_each_driver([](Rig& rig) {
    const Driver& driver = rig.driver;
    std::uint32_t* fence = rig.pinned(4);
    const auto address = static_cast<DevicePointer>(reinterpret_cast<std::uintptr_t>(fence));
    const Stream in = rig.stream();
    REQUIRE(driver.stream_write_value32(in, address, 17, 0) == Result::success);
    REQUIRE(driver.stream_write_value64(in, address + 8, 0x1122334455667788, 0) == Result::success);
    REQUIRE(driver.stream_synchronize(in) == Result::success);
    CHECK(fence[0] == 17);
    CHECK(fence[2] == 0x55667788);
    CHECK(driver.stream_destroy(in) == Result::success);
    CHECK(driver.mem_free_host(fence) == Result::success);
  });
}

TEST_CASE("X contract: a host function must not call the driver", "[gpu]") {
  for_each_driver([](Rig& rig) {
    struct Inside {
      const Driver* driver;
      Result result;
    } inside = {&rig.driver, Result::success};
    const Stream in = rig.stream();
    rig.expect(Probe::host_function_null, rig.driver.launch_host_function(in, nullptr, nullptr));
    const auto call = [](void* data) {
      auto& seen = *static_cast<Inside*>(data);
      std::size_t free_bytes = 0, total_bytes = 0;
      seen.result = seen.driver->mem_get_info(&free_bytes, &total_bytes);
    };
    REQUIRE(rig.driver.launch_host_function(in, call, &inside) == Result::success);
    REQUIRE(rig.driver.stream_synchronize(in) == Result::success);
    rig.expect(Probe::call_in_host_function, inside.result);
    CHECK(rig.driver.stream_destroy(in) == Result::success);
  });
}

TEST_CASE("X contract: kernels are looked up by name and launched on a grid", "[gpu]") {
  for_each_driver([](Rig& rig) {
    Function function = nullptr;
    rig.expect(Probe::function_not_there, rig.driver.module_get_function(&function, rig.module, "store"));
    REQUIRE(rig.driver.module_get_function(&function, rig.module, "store_word") == Result::success);
    DevicePointer to = 0;
    std::uint32_t value = 0;
    void* parameters[] = {&to, &value};
    rig.expect(Probe::launch_empty_grid,
               rig.driver.launch_kernel(function, 0, 1, 1, 1, 1, 1, 0, nullptr, parameters, nullptr));
  });
}

// --- Faults. Each ends its context. ---

namespace {

enum class Touch { unmapped, no_access, read_only };

// Launches a kernel that touches what it may not, and follows what the driver answers from then on.
void fault(Rig& rig, Touch touch) {
  const Driver& driver = rig.driver;
  const DevicePointer address = rig.memory(kGranule), bare = rig.reserve(kGranule);
  const Stream in = rig.stream();
  const Event event = rig.event();
  if (touch != Touch::unmapped) {
    const AccessFlags flags = touch == Touch::read_only ? kAccessRead : kAccessNone;
    REQUIRE(rig.set_access(address, kGranule, flags) == Result::success);
  }
  // The launch itself is accepted: the device finds out.
  REQUIRE(rig.store_word(touch == Touch::unmapped ? bare : address, 1, in) == Result::success);
  const Probe probe = touch == Touch::unmapped
                          ? Probe::kernel_unmapped
                          : (touch == Touch::no_access ? Probe::kernel_no_access : Probe::kernel_read_only);
  rig.expect(probe, driver.stream_synchronize(in));
  const AllocationProperties wanted = Rig::properties();
  MemoryHandle handle = 0;
  std::uint32_t word = 0;
  rig.expect(Probe::after_fault_create, driver.mem_create(&handle, kGranule, &wanted, 0));
  rig.expect(Probe::after_fault_copy, driver.memcpy_d2h(&word, address, 4));
  rig.expect(Probe::after_fault_query, driver.event_query(event));
  if (!rig.recover()) return;
  rig.give_back(address, kGranule);
  CHECK(driver.mem_address_free(bare, kGranule) == Result::success);
}

}  // namespace

TEST_CASE("X contract: a kernel that touches what is not mapped loses the context", "[gpu]") {
  for_each_driver_in_own_process("X contract: a kernel that touches what is not mapped loses the context",
                                 [](Rig& rig) { fault(rig, Touch::unmapped); });
}

TEST_CASE("X contract: a kernel that touches memory without access loses the context", "[gpu]") {
  for_each_driver_in_own_process("X contract: a kernel that touches memory without access loses the context",
                                 [](Rig& rig) { fault(rig, Touch::no_access); });
}

TEST_CASE("X contract: a kernel that writes memory for reading loses the context", "[gpu]") {
  for_each_driver_in_own_process("X contract: a kernel that writes memory for reading loses the context",
                                 [](Rig& rig) { fault(rig, Touch::read_only); });
}

TEST_CASE("X contract: unmapping does not wait for kernels that use the memory", "[gpu]") {
  for_each_driver_in_own_process("X contract: unmapping does not wait for kernels that use the memory",
                                 [](Rig& rig) {
                                   if (!rig.is_concurrent) return;
                                   const DevicePointer address = rig.memory(kGranule);
                                   const Stream in = rig.stream();
                                   Gate gate(rig, in);
                                   REQUIRE(rig.store_word(address, 1, in) == Result::success);
                                   // Whether a real driver waits here nobody wrote down. If it does, it is
                                   // not to wait for ever; then the kernel is done before, and the last
                                   // answer differs.
                                   std::thread opener([&] {
                                     if (rig.emulated == nullptr)
                                       std::this_thread::sleep_for(std::chrono::seconds(2));
                                     while (rig.emulated != nullptr && rig.emulated->usage().mappings != 0)
                                       std::this_thread::yield();
                                     gate.open();
                                   });
                                   rig.expect(Probe::unmap_in_use, rig.driver.mem_unmap(address, kGranule));
                                   opener.join();
                                   rig.expect(Probe::kernel_unmapped, rig.driver.stream_synchronize(in));
                                   if (!rig.recover()) return;
                                   CHECK(rig.driver.mem_address_free(address, kGranule) == Result::success);
                                 });
}
