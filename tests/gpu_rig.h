// What the tests of the GPU driver share: drivers to try, pieces of memory, kernels, and the table of
// answers.
//
// for_each_driver() runs a test on the emulated driver under each schedule, and on the real one where there
// is one. On the emulator nothing may be left at the end, so each test gives back what it took.
#pragma once

#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "platform/cuda/driver.h"
#include "platform/emulated_gpu/emulated_gpu.h"
#include "tests/catch.h"

namespace gpu_test {

using namespace glebe::os::cuda;
using glebe::kGiB;
using glebe::kKiB;
using glebe::kMiB;
using glebe::os::EmulatedGpu;
using glebe::os::EmulatedKernel;
using glebe::os::GpuSchedule;
using glebe::os::KernelCall;

// Driver version and date of the rows whose source is `recorded`.
inline constexpr char kRecordedFrom[] = "";

enum class Probe {
#define PROBE(name, result, source, what) name,
#include "tests/gpu_contract.def"
#undef PROBE
};
enum class Source { documented, seen, assumed, recorded };
struct ProbeRow {
  const char* name;
  Result result;
  Source source;
  const char* what;
};
inline const ProbeRow& row_of(Probe probe) {
  static constexpr ProbeRow kRows[] = {
#define PROBE(name, result, source, what) {#name, Result::result, Source::source, what},
#include "tests/gpu_contract.def"
#undef PROBE
  };
  return kRows[static_cast<unsigned>(probe)];
}

// The kernels of the tests: text for a real driver, functions for the emulated one.
extern const char kModuleText[];
extern const EmulatedKernel kKernels[2];

constexpr std::size_t kGranule = 2 * kMiB;  // of the emulator, and of every device that was seen so far

class Rig {
 public:
  Rig(const Driver& table, EmulatedGpu* emulated_gpu) : driver(table), emulated(emulated_gpu) {}

  Driver driver;
  EmulatedGpu* emulated;      // nullptr: the real driver
  bool is_concurrent = true;  // work goes on while nobody waits for it
  Context context = nullptr;
  Module module = nullptr;

  // Initialises the driver and makes its context current.
  void start();
  void stop();
  // After a fault: a fresh context. False on a real driver, where the process has lost the device.
  [[nodiscard]] bool recover();

  void expect(Probe probe, Result got) const;

  [[nodiscard]] static AllocationProperties properties(LocationType type = LocationType::device);
  [[nodiscard]] DevicePointer reserve(std::size_t size_bytes) const;
  [[nodiscard]] MemoryHandle create(std::size_t size_bytes, LocationType type = LocationType::device) const;
  void map(DevicePointer address, std::size_t size_bytes, MemoryHandle handle) const;
  [[nodiscard]] Result set_access(DevicePointer address, std::size_t size_bytes, AccessFlags flags,
                                  LocationType type = LocationType::device) const;
  // Memory of the device that is ready for use, and its end.
  [[nodiscard]] DevicePointer memory(std::size_t size_bytes, AccessFlags flags = kAccessReadWrite) const;
  void give_back(DevicePointer address, std::size_t size_bytes) const;

  [[nodiscard]] Stream stream(unsigned flags = kStreamNonBlocking) const;
  [[nodiscard]] Event event(unsigned flags = kEventDisableTiming) const;
  // Pinned memory of the host, filled with 0.
  [[nodiscard]] std::uint32_t* pinned(std::size_t words) const;

  // One kernel on one thread: writes a word; copies words.
  [[nodiscard]] Result store_word(DevicePointer to, std::uint32_t value, Stream in) const;
  [[nodiscard]] Result copy_words(DevicePointer to, DevicePointer from, std::uint32_t count, Stream in) const;

  [[nodiscard]] std::uint32_t read_word(DevicePointer from) const;
};

// The second runs the body on a real driver in a process of its own, which runs only the test of this name:
// for tests that break the context on purpose.
using Body = void (*)(Rig& rig);
void for_each_driver(Body body);
void for_each_driver_in_own_process(const char* test_name, Body body);

// Work that stands still in a stream until the gate is opened, or ends: a test that fails in between must not
// wait for it for ever, so whatever waits for the stream when it ends stands before the gate. For streams
// that go on by themselves (Rig::is_concurrent).
class Gate {
 public:
  Gate(const Rig& rig, Stream stream) {
    REQUIRE(rig.driver.launch_host_function(
                stream,
                [](void* self) {
                  auto& gate = *static_cast<Gate*>(self);
                  while (!gate.is_open_.load()) std::this_thread::sleep_for(std::chrono::microseconds(50));
                  gate.is_left_.store(true);  // nothing of it is touched from here on
                },
                this) == Result::success);
  }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  ~Gate() {
    open();
    while (!is_left_.load()) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  void open() { is_open_.store(true); }

 private:
  std::atomic<bool> is_open_{false}, is_left_{false};
};

// Runs `body` on an emulator that was opened with these options, and looks that nothing is left.
template <class EmulatedBody>
void on_emulator(const EmulatedGpu::Options& options, EmulatedBody body) {
  EmulatedGpu gpu;
  REQUIRE(gpu.open(options));
  Rig rig(gpu.driver(), &gpu);
  rig.is_concurrent = options.schedule == GpuSchedule::threaded;
  rig.start();
  body(rig);
  rig.stop();
  const EmulatedGpu::Usage usage = gpu.usage();
  CHECK(usage.reservations == 0);
  CHECK(usage.mappings == 0);
  CHECK(usage.handles == 0);
  CHECK(usage.device_bytes == 0);
  CHECK(usage.host_bytes == 0);
  CHECK(usage.streams == 0);
  CHECK(usage.events == 0);
  CHECK(usage.modules == 0);
  CHECK(usage.arrays == 0);
  CHECK(usage.host_ranges == 0);
  CHECK(usage.pools == 0);
  CHECK(usage.waiting_operations == 0);
}

// A machine with little of everything.
inline EmulatedGpu::Options small(GpuSchedule schedule = GpuSchedule::eager, std::uint64_t seed = 1) {
  EmulatedGpu::Options options;
  options.device_bytes = 32 * kMiB;
  options.host_bytes = 32 * kMiB;
  options.address_bytes = kGiB;
  options.schedule = schedule;
  options.seed = seed;
  options.kernels = kKernels;
  return options;
}

}  // namespace gpu_test
