// How the host learns that work in streams is done, for what queues copies: numbered fences that are reached
// in the order of their numbers (namespace glebe::device).
//
// A fence is an event of a pool, recorded in a stream behind the work. Fence n counts as reached when the
// events of all fences up to n have happened, so "everything up to n" is one comparison, and a ring can give
// its memory back in order. Where that order is not the streams' own, a slow stream holds the others back:
// one FenceQueue for a stream, or for streams that run at the same pace.
//
// No driver call is made while the lock is held. A device that is lost has reached every fence: nothing runs
// there any more. Any other refusal of the driver is no proof that work has ended, so it reaches no fence.
// When no event can be recorded, record() waits for the stream instead. No handle of a stream is kept.
#pragma once

#include <atomic>
#include <cstdint>

#include "platform/thread.h"
#include "src/base/list.h"
#include "src/device/event_pool.h"
#include "src/device/gpu.h"

namespace glebe::device {

using Fence = std::uint64_t;  // counted from 1; 0 is always reached

class FenceQueue {
 public:
  static constexpr std::uint32_t kFencesMax = 128;  // not reached yet, at the same time
  static constexpr std::uint32_t kCloseTries = 64;  // of close(), for a driver that answers with errors

  constexpr FenceQueue() noexcept = default;
  ~FenceQueue() { close(); }
  FenceQueue(const FenceQueue&) = delete;
  FenceQueue& operator=(const FenceQueue&) = delete;

  // `gpu` and `events` outlive the queue.
  void open(Gpu& gpu, EventPool& events) noexcept;
  // Waits until every fence is reached. A driver that answers with errors only is asked kCloseTries times;
  // then the fences that are left are forgotten without having been reached. May be called twice.
  void close() noexcept;
  [[nodiscard]] bool is_open() const noexcept { return gpu_ != nullptr; }

  // A fence behind all that was queued in `stream`; `size_bytes` counts as in flight until it is reached.
  // With kFencesMax of them it waits for the oldest one first. Thread-safe. failed, out_of_memory: the driver
  // neither records nor waits; there is no fence, and what was queued may go on for ever. unsupported: the
  // stream is being captured, and there is no fence.
  Outcome record(cuda::Stream stream, std::uint64_t size_bytes, Fence* fence) noexcept;
  // Looks which fences are reached, without waiting. Thread-safe. device_lost: all are. failed,
  // out_of_memory: the driver did not tell; nothing has changed.
  Outcome poll() noexcept;
  // Waits. Thread-safe. As poll().
  Outcome wait(Fence fence) noexcept;

  // Acquire pairs with the release of whoever saw the event: what the device wrote is there.
  [[nodiscard]] Fence reached() const noexcept { return reached_.load(std::memory_order_acquire); }
  [[nodiscard]] bool is_reached(Fence fence) const noexcept { return fence <= reached(); }
  [[nodiscard]] std::uint64_t recorded() noexcept;
  [[nodiscard]] std::uint32_t in_flight() noexcept;
  [[nodiscard]] std::uint64_t bytes_in_flight() noexcept;

 private:
  struct Entry {
    cuda::Event event = nullptr;  // nullptr: the work is done already
    std::uint64_t size_bytes = 0;
  };

  // Of a thread that asks the driver about the fence that is the oldest one when it begins.
  struct Look : ListNode<> {
    Entry entry;
    Fence fence = 0;
  };

  Outcome mark(cuda::Stream stream, cuda::Event* event) noexcept;
  [[nodiscard]] Fence push(const Entry& entry) noexcept;
  [[nodiscard]] bool begin_look(Look* look) noexcept;
  Outcome ask(const Entry& entry, bool must_wait) noexcept;
  void end_look(Look& look, bool is_done) noexcept;
  void pop(Fence fence) noexcept;

  Gpu* gpu_ = nullptr;
  EventPool* events_ = nullptr;
  os::Mutex mutex_;
  // Under the lock: a circular queue, oldest first. The oldest one is fence reached_ + 1.
  Entry entries_[kFencesMax];
  std::uint32_t first_ = 0, count_ = 0;
  List<Look> looks_;  // that are under way
  std::uint64_t bytes_in_flight_ = 0;
  std::atomic<Fence> reached_{0};  // written under the lock
};

}  // namespace glebe::device
