// Where large blocks can be: the slots of the primary region, and reservations of single blocks (namespace
// glebe::heap).
//
// One 64-byte record per slot, made 64 at a time when the first of them is used, and one per reservation.
// Used by large.cpp only, which guards the whole table with its lock; may_contain() alone needs none.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "src/base/list.h"
#include "src/placement/slot.h"
#include "src/vm/region.h"

namespace glebe::heap {

// unused: nothing here. opening, closing: one thread commits or decommits it, without the lock. idle: free,
// but its pages are kept for the next block.
enum class LargeState : std::uint8_t { unused, opening, live, idle, closing };

struct alignas(64) LargeRecord : ListNode<> {
  static constexpr std::uint8_t kReservation = 1;  // of its own, not a slot
  static constexpr std::uint8_t kMoved = 2;        // pages came from elsewhere: several kernel mappings
  static constexpr std::uint8_t kRecommit = 4;  // a decommit failed: parts of the committed prefix may trap

  std::byte* base = nullptr;  // null until the record is used for the first time
  std::size_t capacity_bytes = 0;
  std::size_t size_bytes = 0;       // of the live block, a multiple of the os page
  std::size_t committed_bytes = 0;  // prefix that is committed
  std::size_t touched_bytes = 0;    // idle: how much of it may hold pages; 0 means that it reads as zero
  std::uint32_t freed_at_ms = 0;    // coarse clock, wraps
  std::uint16_t owner = 0;
  LargeState state = LargeState::unused;
  std::uint8_t flags = 0;

  [[nodiscard]] bool is(std::uint8_t flag) const noexcept { return (flags & flag) != 0; }
};
static_assert(sizeof(LargeRecord) == 64);

class LargeTable {
 public:
  constexpr LargeTable() noexcept = default;

  // A place for `size_bytes` at a multiple of `align_bytes`: the lowest free slot that fits, or a new
  // reservation. The record is opening, nothing is committed. nullptr: no addresses or no memory for the
  // record.
  [[nodiscard]] LargeRecord* place(std::size_t size_bytes, std::size_t align_bytes) noexcept;

  // Takes a closing record out of use. Of a slot nothing is committed, and it can be placed again (in a
  // frozen table it is left alone). The addresses of a reservation are the caller's now, who releases them
  // without the lock; the answer is empty for a slot.
  struct Addresses {
    std::byte* base = nullptr;
    std::size_t size_bytes = 0;
  };
  [[nodiscard]] Addresses remove(LargeRecord& record) noexcept;

  // The record of the slot or reservation around an address; nullptr where there was never a block.
  [[nodiscard]] LargeRecord* find(const void* address) noexcept;

  // Whether find() could succeed, without the lock. Any pointer value.
  [[nodiscard]] bool may_contain(const void* address) const noexcept;

  // The record with the lowest number >= *number that is not unused, whose number is stored; nullptr when
  // there is none. Numbers of slots come first; a reservation keeps its number while it exists.
  [[nodiscard]] LargeRecord* next(std::size_t* number) noexcept;

  // In a forked child, when another thread was changing the table: slots are not handed out any more, and the
  // list of reservations is made anew from the records.
  void freeze() noexcept;
  [[nodiscard]] bool is_frozen() const noexcept { return is_frozen_; }

  [[nodiscard]] bool validate() noexcept;

 private:
  static constexpr std::size_t kLeafRecords = 64;
  struct Leaf {
    LargeRecord records[kLeafRecords];
  };
  static constexpr std::size_t kReservationLeavesMax = 1024;

  void attach_slots() noexcept;
  [[nodiscard]] std::size_t number_of(placement::SlotId slot) const noexcept;
  [[nodiscard]] LargeRecord* slot_record(placement::SlotId slot, bool create) noexcept;
  [[nodiscard]] LargeRecord* place_slot(std::size_t size_bytes, std::size_t align_bytes) noexcept;
  [[nodiscard]] LargeRecord* place_reservation(std::size_t size_bytes, std::size_t align_bytes) noexcept;
  [[nodiscard]] LargeRecord* unused_reservation() noexcept;
  [[nodiscard]] std::size_t reservations_up_to(std::uintptr_t address) const noexcept;
  [[nodiscard]] bool grow_sorted() noexcept;
  void insert_sorted(LargeRecord* record) noexcept;
  void note_bounds() noexcept;

  placement::SlotSpace slots_;
  bool is_attached_ = false;  // attach_slots() ran; there may still be no slots
  bool is_frozen_ = false;
  std::size_t slot_count_ = 0;
  Leaf** slot_leaves_ = nullptr;  // one pointer per 64 slots

  Leaf* reservation_leaves_[kReservationLeavesMax] = {};
  std::size_t reservation_leaf_count_ = 0;
  List<LargeRecord> unused_reservations_;
  LargeRecord** sorted_ = nullptr;  // reservations in use, by address
  std::size_t sorted_count_ = 0;
  std::size_t sorted_capacity_ = 0;
  // Lowest and highest byte of all reservations, for may_contain().
  std::atomic<std::uintptr_t> lowest_{~std::uintptr_t{0}};
  std::atomic<std::uintptr_t> highest_{0};
};

}  // namespace glebe::heap
