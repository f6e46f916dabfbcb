// A GPU that is made of host memory: the driver's table with the driver's semantics, for machines and tests
// without a device (namespace glebe::os). Linux only.
//
// What is kept of the real thing: addresses are reserved first, memory is created without an address, mapped,
// and usable only after access was set; granularity is 2 MiB and the capacity is exact; the CPU faults when
// it touches device memory; fresh memory holds a pattern; copies check their operands when they are called
// and move bytes when their turn in the stream comes; a kernel that touches what is not mapped makes the
// context answer ILLEGAL_ADDRESS from then on; wrong calls get the driver's codes. What is not: speed, and
// anything about peers and graphs (their attributes say "not supported"), and of arrays all but sparse ones
// (arrays.h). Memory of a pool is the device's from where its allocation stands in a stream to where its free
// stands: a stream that uses it earlier or later, which a device may forgive, faults.
//
// Several can be open at once, each with memory, streams and errors of its own. Nothing here calls malloc.
// All calls of the table are thread-safe; open(), close() and the functions below it are not, except usage().
// A forked child must not use the emulators of its parent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "platform/cuda/driver.h"
#include "src/base/bits.h"

namespace glebe::os {

namespace emulated {
class Machine;
}

inline constexpr std::size_t kEmulatedGranuleBytes = 2 * kMiB;

// When the work in streams is done.
enum class GpuSchedule : std::uint8_t {
  eager,     // before the call that queues it returns
  threaded,  // by a thread per stream
  // By whoever waits or polls, one operation at a time, always of a stream that is drawn by lot among those
  // that may go on; a poll does between none and three. The same seed and calls give the same order.
  adversarial,
};

// A launch as a kernel sees it.
struct KernelCall {
  unsigned grid[3];
  unsigned block[3];
  const std::byte* parameters;  // copied one behind the other when the kernel was launched
  std::uintptr_t window_begin, window_bytes;
  std::ptrdiff_t distance;

  // Where a device address is to be read and written from inside a kernel. Memory that is not mapped faults
  // there, which is the kernel's error, not the process's.
  template <class T>
  [[nodiscard]] T* at(cuda::DevicePointer address) const noexcept {
    const auto from = static_cast<std::uintptr_t>(address);
    const bool is_ours = from - window_begin < window_bytes;
    return reinterpret_cast<T*>(is_ours ? from + static_cast<std::uintptr_t>(distance) : from);
  }
  // The parameter that starts `offset_bytes` behind the first one.
  template <class T>
  [[nodiscard]] T parameter(std::size_t offset_bytes) const noexcept {
    T value;
    __builtin_memcpy(&value, parameters + offset_bytes, sizeof value);
    return value;
  }
};

// A function that stands for a kernel: modules whose text has an entry of that name can launch it. It must do
// nothing that a jump out of it (on a fault) would leave undone: no locks, no objects with destructors.
struct EmulatedKernel {
  static constexpr unsigned kParametersMax = 8;
  const char* name;
  void (*run)(const KernelCall& call);
  std::uint8_t parameter_bytes[kParametersMax];  // up to the first 0
};

class EmulatedGpu {
 public:
  static constexpr std::size_t kKernelsMax = 64;

  struct Options {
    std::size_t device_bytes = 256 * kMiB;  // capacity of the device, a multiple of the granule
    std::size_t host_bytes = 256 * kMiB;    // of pinned host memory and of physical memory of the host
    std::size_t address_bytes = 64 * kGiB;  // device addresses that can be reserved
    GpuSchedule schedule = GpuSchedule::eager;
    std::uint64_t seed = 1;     // of the adversarial order and of the pattern in fresh memory
    bool has_host_numa = true;  // whether physical memory of the host can be mapped
    bool has_memory_pools = true;
    bool has_sparse_arrays = true;
    bool is_poisoned = true;  // fresh physical memory holds a pattern; otherwise it is zero
    std::span<const EmulatedKernel> kernels = {};  // outlive the emulator; at most kKernelsMax
  };

  constexpr EmulatedGpu() noexcept = default;
  ~EmulatedGpu() { close(); }
  EmulatedGpu(const EmulatedGpu&) = delete;
  EmulatedGpu& operator=(const EmulatedGpu&) = delete;

  // False: the system has no addresses, no memory or no file for it. May be opened again after close().
  [[nodiscard]] bool open(const Options& options) noexcept;
  // Gives everything back, whatever the program forgot. Work that waits is dropped; a running host function
  // or kernel is waited for.
  void close() noexcept;
  // The table; works until close(). init() must be called as with the real driver.
  [[nodiscard]] cuda::Driver driver() const noexcept;

  // What is there now. When a program has given everything back all are 0 but total_creates, calls of which
  // the result is undefined in the driver, and streams of threads (kStreamPerThread), which stay.
  struct Usage {
    std::uint64_t reservations, mappings, handles;  // ranges of addresses; mapped ranges; physical memory
    std::uint64_t device_bytes, host_bytes;         // physical memory by location, with cuMemAlloc and pinned
    std::uint64_t streams, events, modules, arrays, host_ranges;
    std::uint64_t pools;               // that somebody made, with those that wait for their last memory
    std::uint64_t waiting_operations;  // queued, not done
    std::uint64_t total_creates;       // physical memory created since open()
    std::uint64_t undefined_calls;     // calls that the driver calls undefined: they must not happen
  };
  [[nodiscard]] Usage usage() const noexcept;

  // The capacity from now on. What is in use above it stays.
  void set_device_bytes(std::size_t size_bytes) noexcept;
  // What stream_is_capturing() answers for a stream.
  void set_capture_status(cuda::Stream stream, cuda::CaptureStatus status) noexcept;
  // adversarial: does up to `count` operations now; returns how many could be done.
  unsigned run(unsigned count) noexcept;

 private:
  emulated::Machine* machine_ = nullptr;
};

}  // namespace glebe::os
