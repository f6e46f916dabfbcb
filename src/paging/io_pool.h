// The io_uring queues of a store (namespace glebe::paging). A queue belongs to one thread at a time; who
// finds none free does its requests in turn, which is never wrong. Queues are opened when they are first
// needed. Thread-safe.
#pragma once

#include <atomic>
#include <span>

#include "platform/io_queue.h"

namespace glebe::paging {

class IoPool {
 public:
  IoPool() noexcept = default;
  IoPool(const IoPool&) = delete;
  IoPool& operator=(const IoPool&) = delete;

  // No queue is used from now on: by choice, or because they belong to the parent of this process.
  void forbid() noexcept { is_forbidden_.store(true, std::memory_order_relaxed); }

  // Does all requests; see IoQueue::run().
  void run(std::span<os::IoRequest> requests) noexcept {
    if (requests.size() > 1 && !is_forbidden_.load(std::memory_order_relaxed)) {
      for (Entry& entry : entries_) {
        // Acquire pairs with the release below: the queue is as its last user left it.
        if (entry.is_taken.exchange(true, std::memory_order_acquire)) continue;
        run_with(entry, requests);
        entry.is_taken.store(false, std::memory_order_release);
        return;
      }
    }
    os::run_in_turn(requests);
  }

  [[nodiscard]] std::size_t open_count() const noexcept {
    return open_count_.load(std::memory_order_relaxed);
  }

 private:
  static constexpr unsigned kQueues = 4;

  struct Entry {
    std::atomic<bool> is_taken{false};
    os::IoQueue queue;
  };

  void run_with(Entry& entry, std::span<os::IoRequest> requests) noexcept {
    if (!entry.queue.is_open()) {
      if (entry.queue.open()) {
        open_count_.fetch_add(1, std::memory_order_relaxed);
      } else {
        forbid();  // the kernel has none, or a sandbox does not allow it
      }
    }
    const bool was_open = entry.queue.is_open();
    entry.queue.run(requests);
    if (was_open && !entry.queue.is_open()) open_count_.fetch_sub(1, std::memory_order_relaxed);
  }

  Entry entries_[kQueues];
  std::atomic<std::size_t> open_count_{0};
  std::atomic<bool> is_forbidden_{false};
};

}  // namespace glebe::paging
