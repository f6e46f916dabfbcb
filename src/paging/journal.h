// What pages held before they were paged in or freed, kept for a moment (namespace glebe::paging).
//
// A forked child sees the page table as of the fork. Until it has taken over its own faults (pager_fork.cpp),
// the parent answers them, although pages may have changed state in the parent since. So a page that stops
// being out leaves its old word here, and what the word names is given up only when no child can need it any
// more and some time has passed. While an entry exists the page has the bit kJournaled and does not go out
// again, hence a page has at most one entry.
#pragma once

#include "platform/thread.h"
#include "src/paging/page_table.h"

namespace glebe::paging {

struct JournalEntry {
  std::uint64_t page;
  PageWord old;
  std::uint32_t sequence;  // of forks: entries before a fork mean nothing to its child
  std::uint32_t time_ms;
};

class Journal {
 public:
  [[nodiscard]] bool open() noexcept;  // false: no memory

  void append(std::uint64_t page, PageWord old, std::uint32_t sequence, std::uint32_t now_ms) noexcept;

  // The oldest entry, when it is at least age_ms old. It stays until pop(), which comes after the page has
  // lost its bit: so a child that is forked in between finds each page that has the bit in its journal. Both
  // are for one thread.
  [[nodiscard]] bool oldest(std::uint32_t now_ms, std::uint32_t age_ms, JournalEntry* entry) noexcept;
  void pop() noexcept;

  // The word that the page had at the fork `sequence`, if it changed since.
  [[nodiscard]] bool find(std::uint64_t page, std::uint32_t sequence, PageWord* old) noexcept;

  [[nodiscard]] bool is_empty() const noexcept { return count_.load(std::memory_order_relaxed) == 0; }
  // In a forked child, of which nobody depends: calls visit(page) for each entry and forgets them all.
  template <class Visit>
  void reset_in_child(Visit visit) noexcept {
    for (std::uint64_t i = head_; i != tail_; ++i) visit(ring_[i % kCapacity].page);
    forget_in_child();
  }

 private:
  // One entry per page that is out while an unclaimed child lives: enough for 256 GiB.
  static constexpr std::uint64_t kCapacity = std::uint64_t{1} << 26;
  void forget_in_child() noexcept;

  os::Mutex lock_;
  JournalEntry* ring_ = nullptr;
  std::uint64_t head_ = 0;  // the oldest
  std::uint64_t tail_ = 0;
  std::atomic<std::uint64_t> count_{0};
};

}  // namespace glebe::paging
