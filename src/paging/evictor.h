// The state of the thread that takes pages out; evictor.cpp says how (namespace glebe::paging). Used by one
// thread.
#pragma once

#include <new>
#include <span>

#include "platform/fault.h"
#include "src/paging/clock_hand.h"
#include "src/paging/page_table.h"
#include "src/vm/region.h"

namespace glebe::paging {

// Numbers of groups, first in, first out.
class GroupQueue {
 public:
  [[nodiscard]] bool open(std::uint64_t capacity) noexcept;
  [[nodiscard]] bool push(std::uint64_t group) noexcept {
    if (tail_ - head_ == capacity_) return false;
    ring_[tail_++ % capacity_] = group;
    return true;
  }
  [[nodiscard]] std::uint64_t front() const noexcept { return ring_[head_ % capacity_]; }
  std::uint64_t pop() noexcept { return ring_[head_++ % capacity_]; }
  [[nodiscard]] std::uint64_t count() const noexcept { return tail_ - head_; }

 private:
  std::uint64_t* ring_ = nullptr;
  std::uint64_t capacity_ = 0, head_ = 0, tail_ = 0;
};

class Evictor {
 public:
  // In a forked child with the parent's: its queues go on, because what is staged, and what is said to be in
  // a queue, was inherited too.
  [[nodiscard]] bool open(const Evictor* parents) noexcept;
  void run() noexcept;  // never returns
  // In a child that copied this one: the pages that were on their way to a file there are not here.
  void forget_batch() const noexcept;

 private:
  static constexpr unsigned kChancesRefused = 3;
  static constexpr unsigned kSpanPages = 4 * kGroupPages;
  struct BatchPage {
    std::uint64_t page;
    PageWord word;
  };
  // Pages that are looked at together; bit i stands for page first + i.
  struct Span {
    std::uint64_t first = 0;  // a multiple of kSpanPages
    std::uint64_t present = 0;
    std::uint64_t candidates = 0;
  };

  [[nodiscard]] std::size_t look(std::size_t budget, bool is_stuck) noexcept;
  void once_a_second(std::uint64_t now_ms) noexcept;
  void watch_growth(std::size_t used, std::size_t budget, std::uint64_t now_ms) noexcept;
  [[nodiscard]] std::size_t compressed_limit(std::size_t budget) noexcept;
  [[nodiscard]] bool keep_budget(std::size_t used, std::size_t budget) noexcept;
  [[nodiscard]] bool take_idle(std::uint64_t now_ms) noexcept;
  void give_back_free_memory() noexcept;
  void give_back_free_pages(std::uint64_t group) noexcept;
  unsigned stage_beside(std::uint64_t wanted_pages) noexcept;
  unsigned stage(std::uint64_t wanted_pages) noexcept;
  unsigned stage_runs(std::span<const os::PageScan::Run> runs, std::uint64_t wanted_pages,
                      std::uintptr_t* reached) noexcept;
  unsigned stage_span(Span& span) noexcept;
  unsigned stage_candidates(const Span& span, std::uint64_t passable) noexcept;
  unsigned stage_run(const Span& span, unsigned begin, unsigned end) noexcept;
  [[nodiscard]] static unsigned candidates_from(const Span& span, unsigned begin, unsigned end) noexcept;
  [[nodiscard]] static unsigned end_of_candidates(const Span& span, unsigned begin, unsigned end) noexcept;
  static void mark(const Span& span, unsigned begin, unsigned end, bool is_staged) noexcept;
  [[nodiscard]] static bool is_candidate(std::uint64_t page) noexcept;
  unsigned put_away_oldest(std::uint64_t wanted_pages, std::uint64_t keep_pages,
                           std::uint16_t minimum_age) noexcept;
  unsigned put_away(std::uint64_t group) noexcept;
  [[nodiscard]] bool put_away_page(std::uint64_t page, bool is_missing) noexcept;
  unsigned finish_batch() noexcept;
  [[nodiscard]] bool finish_page(const BatchPage& item, Handle written) noexcept;
  void add_cold(std::uint64_t group) noexcept;
  void purge_later(std::uint64_t page) noexcept;
  void purge_now() noexcept;
  void write_cold(std::size_t wanted_bytes) noexcept;

  ClockHand hand_;                                 // over the large slots, then the chunks
  std::uint64_t purge_begin_ = 0, purge_end_ = 0;  // staged copies that nobody needs
  GroupQueue staged_;                              // groups with staged pages
  GroupQueue cold_;                                // groups with compressed pages
  Scratch scratch_;
  Batch batch_;
  BatchPage batch_pages_[kBatchObjectsMax] = {};
  std::uint16_t tick_ = 0;  // of 100 ms
  unsigned fruitless_rounds_ = 0;
  std::size_t compressed_max_ = 0;
  std::uint32_t seen_lost_ = 0;
  std::uint64_t last_watch_ms_ = 0;
  std::uint64_t last_trim_ms_ = 0, last_idle_round_ms_ = 0, paused_until_ms_ = 0, last_page_ins_ = 0;
};

}  // namespace glebe::paging
