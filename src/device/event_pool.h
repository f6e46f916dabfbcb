// Events that are used again (namespace glebe::device): without timing, created when none is idle. Creating
// one takes a lock inside the driver, and recording into an idle one does not.
#pragma once

#include <cstdint>

#include "platform/thread.h"
#include "src/device/gpu.h"
#include "src/paging/growing_memory.h"

namespace glebe::device {

class EventPool {
 public:
  static constexpr std::uint64_t kEventsMax = 65536;  // that exist at the same time

  constexpr EventPool() noexcept = default;
  ~EventPool() { close(); }
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;

  // `gpu` outlives the pool. no_host_memory.
  Outcome open(Gpu& gpu) noexcept;
  // All events were given back before. May be called twice.
  void close() noexcept;

  // An event that nobody waits for. Thread-safe. out_of_memory, no_host_memory, device_lost, failed.
  Outcome take(cuda::Event* event) noexcept;
  // An event that was recorded, or not, and whose answer is not asked for any more. Thread-safe; never fails
  // and never calls the driver: a new record replaces the old one, and a stream that waits for the old one
  // goes on waiting for that (cuStreamWaitEvent captures the state at the call).
  void give(cuda::Event event) noexcept;

  [[nodiscard]] std::uint64_t created() noexcept;  // that exist, idle or not
  [[nodiscard]] std::uint64_t idle() noexcept;

 private:
  [[nodiscard]] cuda::Event* stack() noexcept;

  Gpu* gpu_ = nullptr;
  os::Mutex mutex_;
  paging::GrowingMemory memory_;  // of the stack; has room for every event that exists
  std::uint64_t created_ = 0, idle_ = 0;
};

}  // namespace glebe::device
