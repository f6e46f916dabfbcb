#include "src/paging/journal.h"

#include "platform/vm.h"
#include "src/base/check.h"

namespace glebe::paging {

bool Journal::open() noexcept {
  constexpr std::size_t kBytes = kCapacity * sizeof(JournalEntry);
  void* base = os::reserve(kBytes, os::page_bytes());
  if (base == nullptr) return false;
  if (!os::commit(base, kBytes)) {
    os::release(base, kBytes);
    return false;
  }
  ring_ = static_cast<JournalEntry*>(base);
  return true;
}

void Journal::append(std::uint64_t page, PageWord old, std::uint32_t sequence,
                     std::uint32_t now_ms) noexcept {
  os::Lock hold(lock_);
  CHECK(tail_ - head_ < kCapacity);
  ring_[tail_++ % kCapacity] = {page, old, sequence, now_ms};
  count_.store(tail_ - head_, std::memory_order_relaxed);
}

bool Journal::oldest(std::uint32_t now_ms, std::uint32_t age_ms, JournalEntry* entry) noexcept {
  os::Lock hold(lock_);
  if (head_ == tail_) return false;
  const JournalEntry& first = ring_[head_ % kCapacity];
  if (static_cast<std::int32_t>(now_ms - first.time_ms) < static_cast<std::int32_t>(age_ms)) return false;
  *entry = first;
  return true;
}

void Journal::pop() noexcept {
  os::Lock hold(lock_);
  CHECK(head_ != tail_);
  ++head_;
  count_.store(tail_ - head_, std::memory_order_relaxed);
  if (head_ == tail_) head_ = tail_ = 0;  // stays in the first pages of the ring
}

bool Journal::find(std::uint64_t page, std::uint32_t sequence, PageWord* old) noexcept {
  os::Lock hold(lock_);
  for (std::uint64_t i = head_; i != tail_; ++i) {
    const JournalEntry& entry = ring_[i % kCapacity];
    if (entry.page != page || static_cast<std::int32_t>(entry.sequence - sequence) < 0) continue;
    *old = entry.old;
    return true;
  }
  return false;
}

void Journal::forget_in_child() noexcept {
  lock_.reset_in_child();
  head_ = tail_ = 0;
  count_.store(0, std::memory_order_relaxed);
}

}  // namespace glebe::paging
