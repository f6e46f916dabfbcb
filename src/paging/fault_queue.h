// Faults on their way from one thread of the pager to another (namespace glebe::paging). Private to
// fault_server.cpp and disk_reader.cpp.
#pragma once

#include <atomic>
#include <cstdint>

#include "platform/service.h"
#include "platform/thread.h"
#include "src/paging/page_table.h"

namespace glebe::paging {

inline constexpr unsigned kQueueMax = 4096;

struct Fault {
  std::uint64_t page;
  std::uint64_t start_ns;
  PageWord old;  // disk readers: the word that was marked busy
  bool is_write;
};

// First in, first out. Thread-safe.
class FaultQueue {
 public:
  [[nodiscard]] bool push(const Fault& fault) noexcept {
    {
      os::Lock hold(lock_);
      if (count_ == kQueueMax) return false;
      faults_[(first_ + count_++) % kQueueMax] = fault;
    }
    posts_.fetch_add(1, std::memory_order_release);
    os::wake_one(posts_);
    return true;
  }
  [[nodiscard]] bool pop(Fault* fault) noexcept {
    os::Lock hold(lock_);
    if (count_ == 0) return false;
    *fault = faults_[first_];
    first_ = (first_ + 1) % kQueueMax;
    --count_;
    return true;
  }
  void wait(Fault* fault) noexcept {
    for (;;) {
      const std::uint32_t seen = posts_.load(std::memory_order_acquire);
      if (pop(fault)) return;
      constexpr std::uint64_t kNapNs = 1'000'000'000;
      os::wait_on(posts_, seen, kNapNs);
    }
  }
  [[nodiscard]] bool is_empty() noexcept {
    os::Lock hold(lock_);
    return count_ == 0;
  }
  // Calls visit(page) for each fault that waits or that was taken out lately.
  template <class Visit>
  void visit_in_child(Visit visit) const noexcept {
    constexpr unsigned kTaken = 64;
    static_assert(kTaken < kQueueMax);
    const unsigned visited = count_ + kTaken < kQueueMax ? count_ + kTaken : kQueueMax;
    for (unsigned i = 0; i < visited; ++i) visit(faults_[(first_ + kQueueMax - kTaken + i) % kQueueMax].page);
  }
  void reset_in_child() noexcept {
    lock_.reset_in_child();
    first_ = count_ = 0;
  }

 private:
  os::Mutex lock_;
  std::atomic<std::uint32_t> posts_{0};
  unsigned first_ = 0, count_ = 0;
  Fault faults_[kQueueMax] = {};
};
// A fault was answered: its time is counted.
void note_answered(const Fault& fault) noexcept;

// disk_reader.cpp. The page is in a file. Lock of its group held. False: try again later.
[[nodiscard]] bool leave_to_disk_readers(Fault& fault) noexcept;
[[nodiscard]] bool start_disk_readers() noexcept;

}  // namespace glebe::paging
