// In which order the transparent pager takes pages (namespace glebe::paging): the orders of policy.h, as far
// as they can be known of memory whose touches nobody reports. What is known is when a page came back, when
// the clock hand first saw it, and what the heap keeps there.
//
// The evictor's clock hand goes round the present pages. For each group of 16 pages (64 KiB) it asks
// may_go(); in a group that may go, a page goes unless it has chances left (PageWord). So an order decides by
// two means:
//   clock     every group may go; a page that was touched while it was staged is passed over three times, and
//             so is one that came back from the store soon: before half as many pages went out as are
//             resident (the refault distance of Linux, mm/workingset.c)
//   fifo      every group may go, and no page has chances: by turns, in the order of addresses
//   s3_fifo   a group earns a chance, up to three, each time that one of its pages comes back, and uses up
//   one
//             per turn. The staging area is the small queue of that algorithm, the heap the large one
//   lru       by the last known touch of the group: when a page of it came back or was first touched, or when
//   the
//             hand first saw it
//   oldest    by when the hand first saw the group; what was freed and is used again keeps its age
//   largest   by the size of the blocks there (of large ones that of their slot)
// The last three are ranks. No turn sorts anything: the hand counts the groups that stay by rank, and at the
// end of a turn the eighth of them with the highest ranks is released for the next one.
//
// The evictor alone calls may_go(), set_time(), set_resident(), note_gone() and end_turn(); the others may be
// called by any thread. A word per group or a byte per page, only for the orders that need it; the table
// costs memory where the heap has some.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "src/paging/policy.h"

namespace glebe::paging {

class VictimOrder {
 public:
  static constexpr unsigned kRanks = 128;
  static constexpr unsigned kShareOfTurn = 8;  // one group in so many is released for a turn
  static constexpr std::uint32_t kChancesMax = 3;

  // How a page came back: from the staging area, from the store, or for the first time (it was never touched,
  // or freed; known only where the faults of its unit are ours).
  enum class Return : std::uint8_t { staged, stored, fresh };

  // For groups [0, group_count) of `group_pages` each. `bytes_of` tells the size of the blocks in a group;
  // only `largest` asks. False: no addresses, or no commit charge, for the table.
  struct Groups {
    std::uint64_t count;
    unsigned pages;  // of each
  };
  [[nodiscard]] bool open(VictimKind kind, const Groups& groups,
                          std::size_t (*bytes_of)(std::uint64_t group)) noexcept;

  [[nodiscard]] VictimKind kind() const noexcept { return kind_; }

  // How often the clock hand passes over a page that came back.
  [[nodiscard]] unsigned chances(std::uint64_t page, Return from) const noexcept {
    if (kind_ != VictimKind::clock || from == Return::fresh) return 0;
    return from == Return::staged || went_lately(page) ? kChancesMax : 0;
  }

  // Time in pages that went: an epoch is an eighth of the resident pages long, from 1 to 255 and round. 0 is
  // never; lately is half as many pages ago as are resident.
  [[nodiscard]] std::uint8_t epoch() const noexcept { return epoch_.load(std::memory_order_relaxed); }
  [[nodiscard]] bool is_lately(unsigned then) const noexcept {
    return is_within(then, kEpochsOfResident / 2);
  }

  // Whether the page went, or moved on to a file, in this epoch or the last.
  [[nodiscard]] bool went_just_now(std::uint64_t page) const noexcept;

  // A page went to the store; one moved on to a file.
  void note_gone(std::uint64_t page) noexcept;
  void note_moved_on(std::uint64_t page) noexcept;
  // About how many pages are in RAM now.
  void set_resident(std::uint64_t pages) noexcept { resident_ = pages; }

  // A page of the group came back, because a thread touched it.
  void note_use(std::uint64_t group, Return from) noexcept;

  void set_time(std::uint32_t tick) noexcept { tick_.store(tick, std::memory_order_relaxed); }
  [[nodiscard]] bool may_go(std::uint64_t group) noexcept;
  void end_turn() noexcept;

  // After mlockall(2): the table need not stay in RAM where nothing was written.
  void unlock_memory() const noexcept;

  // Four ranks per doubling, so that a table of 128 covers every 32-bit number.
  [[nodiscard]] static unsigned rank_of(std::uint32_t value) noexcept;

 private:
  [[nodiscard]] bool is_ranked() const noexcept {
    return kind_ == VictimKind::lru || kind_ == VictimKind::oldest || kind_ == VictimKind::largest;
  }
  [[nodiscard]] bool is_within(unsigned then, unsigned epochs) const noexcept {
    return then != 0 && (epoch() + UINT8_MAX - then) % UINT8_MAX <= epochs;
  }
  [[nodiscard]] bool went_lately(std::uint64_t page) const noexcept;
  [[nodiscard]] bool use_chance(std::atomic<std::uint32_t>& chances) const noexcept;
  [[nodiscard]] std::uint32_t age_of(std::uint64_t group) const noexcept;

  VictimKind kind_ = VictimKind::clock;
  std::size_t (*bytes_of_)(std::uint64_t group) = nullptr;
  // s3_fifo: chances. lru, oldest: a tick plus 1; 0: not seen so far.
  std::atomic<std::uint32_t>* words_ = nullptr;
  static constexpr unsigned kEpochsOfResident = 8;
  // clock: the epoch in which a page went.
  std::atomic<std::uint8_t>* epochs_ = nullptr;
  std::atomic<std::uint8_t> epoch_{1};
  std::uint64_t resident_ = 0, gone_in_epoch_ = 0;
  void* table_ = nullptr;
  std::size_t table_bytes_ = 0;
  std::atomic<std::uint32_t> tick_{0};
  unsigned limit_ = kRanks;  // ranks from here on may go; nothing before the first turn has counted
  std::uint64_t stayed_[kRanks] = {};
};

}  // namespace glebe::paging
