// The clock hand of the evictor (namespace glebe::paging): it goes round two ranges of addresses, one after
// the other.
//
// What lies between the ranges and behind them are the heap's own notes, which must never go out: nobody
// brings them back. So the hand never stands at the end of a range, not even for a moment between two rounds:
// when it comes there, it is at the start of the other one. Used by one thread.
#pragma once

#include <cstdint>

namespace glebe::paging {

class ClockHand {
 public:
  struct Range {
    std::uintptr_t begin = 0, end = 0;
  };

  // `first` lies below `second`, and may be empty. The hand stands at its start.
  void open(const Range& first, const Range& second) noexcept {
    ranges_[0] = first;
    ranges_[1] = second;
    at_ = first.begin;
  }
  [[nodiscard]] const Range& range(unsigned number) const noexcept { return ranges_[number]; }

  // From the hand to the end of the range that it is in; never empty.
  [[nodiscard]] Range ahead() const noexcept {
    return {at_, is_in_first() ? ranges_[0].end : ranges_[1].end};
  }
  // The hand goes on to an address in ahead(), or its end. True: a turn is complete.
  bool go_to(std::uintptr_t address) noexcept {
    const bool was_in_first = is_in_first();
    const bool is_at_end = address >= ahead().end;
    at_ = !is_at_end ? address : was_in_first ? ranges_[1].begin : ranges_[0].begin;
    return is_at_end && !was_in_first;
  }

 private:
  [[nodiscard]] bool is_in_first() const noexcept { return at_ < ranges_[0].end; }

  Range ranges_[2];
  std::uintptr_t at_ = 0;
};

}  // namespace glebe::paging
