// One GPU as the layers of this folder see it: the driver's table, the context, facts about the device, and
// what the driver's answers mean (namespace glebe::device).
//
// The context is the device's primary one, which the CUDA runtime uses too, so that addresses and streams of
// the program are ours as well. It is made current by CurrentContext for the length of a call and what was
// current before comes back. Once the driver has answered with an error that the context does not survive (a
// kernel touched what is not mapped), the GPU is lost: every further call of the driver would fail, and
// is_lost() tells so without asking it. Functions answer with an Outcome; nothing is thrown and nothing is
// printed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "platform/cuda/driver.h"
#include "src/base/text.h"

namespace glebe::device {

namespace cuda = os::cuda;

enum class Status : std::uint8_t {
  ok,
  bad_argument,      // a size, alignment, address, stream or option that makes no sense
  out_of_memory,     // the device, or pinned memory of the host, has no room; all that is idle was given back
  over_budget,       // a cap of the caller's would be exceeded
  out_of_addresses,  // the reservation has no room
  no_host_memory,    // the library's own tables cannot grow
  not_owned,         // no block of ours starts there
  double_free,
  in_use,       // live, leased, pinned or exported
  not_ready,    // the work that it waits for is under way
  cancelled,    // by the caller
  timed_out,    // its deadline passed
  corrupt,      // what was read is not what was written
  io_error,     // of a page file
  device_lost,  // the context is gone; until the process ends nothing works
  unsupported,  // this device or driver cannot do it
  failed,       // any other answer of the driver, in Outcome::driver
};

// "out of device memory"; lower case, no full stop.
[[nodiscard]] const char* describe(Status status) noexcept;

// Whether the driver refused because streams are captured: its errors 900 to 908.
[[nodiscard]] constexpr bool is_of_capture(cuda::Result answer) noexcept {
  const int number = static_cast<int>(answer);
  return number >= 900 && number <= 908;
}

// How a call ended. `driver` is what the driver answered when it was the driver that refused.
struct [[nodiscard]] Outcome {
  Status status = Status::ok;
  cuda::Result driver = cuda::Result::success;

  constexpr Outcome() noexcept = default;
  constexpr Outcome(Status why, cuda::Result answer = cuda::Result::success) noexcept  // NOLINT: on purpose
      : status(why), driver(answer) {}
  [[nodiscard]] constexpr bool ok() const noexcept { return status == Status::ok; }
};

// What a device can do, asked once.
struct GpuFacts {
  char name[64] = {};
  int driver_version = 0;              // 1000 * major + 10 * minor
  std::uint64_t total_bytes = 0;       // of its memory
  std::size_t granule_bytes = 0;       // physical memory comes in multiples of this; a power of two
  std::size_t host_granule_bytes = 0;  // the same for memory of the host; 0: cannot be mapped on the device
  int host_node = 0;                   // NUMA node next to the device
  bool has_write_value = false;        // a stream can write 64-bit words that the host polls
  bool has_sparse_arrays = false;      // textures of which only some tiles have memory
  bool has_shareable_handles = false;  // physical memory can be handed to another process as a descriptor
};

class Gpu {
 public:
  constexpr Gpu() noexcept = default;
  ~Gpu() { close(); }
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  // `driver` is copied and initialised already (load_driver() does that, an emulated one needs init());
  // what it works on outlives this object. bad_argument: no such device. unsupported: it has no virtual
  // memory management. A failed open leaves nothing behind.
  Outcome open(const cuda::Driver& driver, int ordinal = 0) noexcept;
  // Everything made with this GPU is closed before. May be called twice.
  void close() noexcept;

  [[nodiscard]] bool is_open() const noexcept { return context_ != nullptr; }
  [[nodiscard]] const cuda::Driver& driver() const noexcept { return driver_; }
  [[nodiscard]] const GpuFacts& facts() const noexcept { return facts_; }
  [[nodiscard]] cuda::Device device() const noexcept { return device_; }
  [[nodiscard]] cuda::Context context() const noexcept { return context_; }

  // What an answer of the driver means. Remembers that the device is lost. Thread-safe.
  Outcome check(cuda::Result answer) noexcept;
  [[nodiscard]] bool is_lost() const noexcept { return is_lost_.load(std::memory_order_relaxed); }

  // Whether work can be queued in a stream to be done now. unsupported: it is captured, or it is the default
  // stream and joins one that is. With the context current.
  Outcome check_not_captured(cuda::Stream stream) noexcept;

  // Physical memory of this device, or of the host next to it, for mem_create.
  [[nodiscard]] cuda::AllocationProperties properties(cuda::LocationType location) const noexcept;
  // Full access by the device to what is mapped.
  [[nodiscard]] cuda::AccessDescription device_access() const noexcept;
  // Free memory of the device at this moment, 0 when the driver does not tell. About 6 us.
  [[nodiscard]] std::uint64_t free_bytes() noexcept;

 private:
  Outcome ask_facts() noexcept;

  cuda::Driver driver_;
  cuda::Device device_ = 0;
  cuda::Context context_ = nullptr;
  GpuFacts facts_;
  std::atomic<bool> is_lost_{false};
};

// Makes the context of a GPU current in the calling thread for a scope. Around every call of the driver but
// those that a comment calls free of a context. Within it the thread's calls do not spoil what the program
// captures into graphs, in this thread or another one (cuThreadExchangeStreamCaptureMode, relaxed). What the
// driver refused to change is not put back either: a thread never ends with what it did not have.
class [[nodiscard]] CurrentContext {
 public:
  explicit CurrentContext(const Gpu& gpu) noexcept;
  ~CurrentContext();
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;

 private:
  const Gpu& gpu_;
  cuda::Context before_ = nullptr;
  cuda::CaptureMode mode_ = cuda::CaptureMode::relaxed;  // the other one than the thread has now
  bool has_set_context_ = false, has_set_mode_ = false;
};

}  // namespace glebe::device
