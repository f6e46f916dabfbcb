// The mapped zone's state, shared by mapped_zone.cpp and zone_moves.cpp (namespace glebe::paging).
#pragma once

#include "platform/service.h"
#include "platform/thread.h"
#include "src/paging/mapped_zone.h"
#include "src/paging/page_table.h"
#include "src/paging/zone_table.h"

namespace glebe::paging {

struct Zone {
  os::Mutex lock;
  ZoneTable table;
  std::byte* base = nullptr;
  bool is_held_for_fork = false;
  bool is_frozen = false;  // in a forked child: the table is not to be looked at
  std::atomic<bool> is_closed{false};
  std::atomic<std::uint64_t> maps{0}, refused{0};

  [[nodiscard]] std::uint32_t page_of(const void* address) const noexcept {
    return static_cast<std::uint32_t>(
        static_cast<std::size_t>(static_cast<const std::byte*>(address) - base) / kPageBytes);
  }
  [[nodiscard]] std::byte* address_of(std::uint32_t page) const noexcept {
    return base + std::size_t{page} * kPageBytes;
  }
  [[nodiscard]] std::uint32_t end_of(const void* address, std::size_t size_bytes) const noexcept {
    return page_of(address) + static_cast<std::uint32_t>(size_bytes / kPageBytes);
  }
};
extern constinit Zone zone;

// A thread of the program is in the zone: no handler of a signal that calls mmap may interrupt it. A handler
// may run while the thread forks, and has the lock already then: nothing is half done in between.
class [[nodiscard]] ZoneLock {
 public:
  ZoneLock() noexcept : is_ours_(!zone.lock.held_by_me()) {
    if (is_ours_) zone.lock.lock();
  }
  ~ZoneLock() {
    if (is_ours_) zone.lock.unlock();
  }
  ZoneLock(const ZoneLock&) = delete;
  ZoneLock& operator=(const ZoneLock&) = delete;

 private:
  const os::SignalsBlocked no_signals_;  // first in, last out
  const bool is_ours_;
};

// What the functions of mapped_zone.h do, with the lock held.
[[nodiscard]] int unmap_in_zone(std::uint32_t begin, std::uint32_t end) noexcept;
[[nodiscard]] long map_fixed_in_zone(const os::MapRequest& request) noexcept;
// A new mapping whose pages have the protection; kNoUnit when there is no room.
[[nodiscard]] std::uint32_t place_in_zone(std::size_t size_bytes, std::uint32_t hint,
                                          int protection) noexcept;

}  // namespace glebe::paging
