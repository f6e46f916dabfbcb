#include "src/paging/page_table.h"

#include "platform/fault.h"
#include "platform/thread.h"
#include "platform/vm.h"
#include "src/paging/own_memory.h"

namespace glebe::paging {
namespace {

template <class Record>
Record* open_table(std::size_t count) noexcept {
  return static_cast<Record*>(map_own(count * sizeof(Record)));
}

template <class Record>
void close_table(Record* table, std::size_t count) noexcept {
  if (table != nullptr) os::release(table, align_up(count * sizeof(Record), vm::kPageBytes));
}

}  // namespace

bool PageTable::open(std::byte* base, std::size_t size_bytes) noexcept {
  const std::size_t pages = size_bytes / kPageBytes, groups = size_bytes / kGroupBytes,
                    units = size_bytes / kUnitBytes;
  words_ = open_table<std::atomic<std::uint64_t>>(pages);
  groups_ = open_table<GroupRecord>(groups);
  units_ = open_table<UnitRecord>(units);
  if (words_ != nullptr && groups_ != nullptr && units_ != nullptr) {
    base_ = base;
    size_bytes_ = size_bytes;
    return true;
  }
  close_table(words_, pages);
  close_table(groups_, groups);
  close_table(units_, units);
  return false;
}

void PageTable::unlock_memory() const noexcept {
  os::unlock_memory(words_, align_up(size_bytes_ / kPageBytes * sizeof *words_, vm::kPageBytes));
  os::unlock_memory(groups_, align_up(size_bytes_ / kGroupBytes * sizeof *groups_, vm::kPageBytes));
  os::unlock_memory(units_, align_up(size_bytes_ / kUnitBytes * sizeof *units_, vm::kPageBytes));
}

bool PageTable::try_lock(std::uint64_t group) const noexcept {
  std::atomic<std::uint32_t>& lock = groups_[group].lock;
  std::uint32_t seen = lock.load(std::memory_order_relaxed);
  // Acquire pairs with the release in unlock().
  return seen != held_ && lock.compare_exchange_strong(seen, held_, std::memory_order_acquire);
}

void PageTable::lock(std::uint64_t group) const noexcept {
  constexpr int kSpins = 200;
  for (int spins = 0; !try_lock(group); ++spins) {
    if (spins >= kSpins) os::yield();
  }
}

void PageTable::unlock(std::uint64_t group) const noexcept {
  groups_[group].lock.store(0, std::memory_order_release);
}

}  // namespace glebe::paging
