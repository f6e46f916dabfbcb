// Work on whole ranges of the pager's memory, unit by unit, in threads of the program (namespace
// glebe::paging). Private to the pager.
//
// No signal may interrupt a thread of the program while it holds a lock of a group: the handler might touch a
// page of that very group, and whoever answers the fault would wait for the lock for ever.
#pragma once

#include "platform/service.h"
#include "src/paging/pager_state.h"

namespace glebe::paging {

// Holds the locks of every group of a unit.
class [[nodiscard]] UnitLock {
 public:
  explicit UnitLock(std::uint64_t unit) noexcept : first_(unit * kGroupsPerUnit) {
    for (unsigned i = 0; i < kGroupsPerUnit; ++i) pager.table.lock(first_ + i);
  }
  ~UnitLock() {
    for (unsigned i = 0; i < kGroupsPerUnit; ++i) pager.table.unlock(first_ + i);
  }
  UnitLock(const UnitLock&) = delete;
  UnitLock& operator=(const UnitLock&) = delete;

 private:
  const os::SignalsBlocked no_signals_;  // first in, last out
  std::uint64_t first_;
};

// A new mapping takes the place of the old in a unit, and faults there are not ours any more. Locks held.
inline void note_replaced(UnitRecord& record) noexcept {
  record.watched.store(WatchState::lost, std::memory_order_relaxed);
  pager.lost_units.fetch_add(1, std::memory_order_relaxed);
}

// Drops what is out of pages [first_page, end_page), unread. Locks of their groups held. (discard.cpp)
void drop_pages(std::uint64_t first_page, std::uint64_t end_page) noexcept;

// Calls act(record, base, size) for the part of each unit that the range covers, with the unit locked and
// nothing in that part out any more. Answers of act are 0 or an error; returns the first error.
template <class Act>
int for_each_unit(void* base, std::size_t size_bytes, Act act) noexcept {
  auto* at = static_cast<std::byte*>(base);
  std::byte* const end = at + size_bytes;
  int error = 0;
  while (at < end) {
    const std::uint64_t page = pager.table.page_of(at);
    const std::uint64_t unit = page / (kUnitBytes / kPageBytes);
    std::byte* const unit_end = pager.table.base() + (unit + 1) * kUnitBytes;
    std::byte* const stop = unit_end < end ? unit_end : end;
    {
      UnitLock hold(unit);
      UnitRecord& record = pager.table.unit(unit);
      if (record.pages_out.load(std::memory_order_relaxed) != 0) drop_pages(page, pager.table.page_of(stop));
      const int failed = act(record, at, static_cast<std::size_t>(stop - at));
      if (error == 0) error = failed;
    }
    at = stop;
  }
  return error;
}

}  // namespace glebe::paging
