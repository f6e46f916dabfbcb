// Slots of equal size in slabs of equal size: the memory of the compressed tier (namespace glebe::paging).
//
// An arena is one range of addresses, cut into slabs of one length; a slab is cut into slots of one class.
// Which slots are free stands in bits outside of the slabs (placement/fixed.h), so a slab holds nothing but
// what was put there, and a free slot is never touched. A slab that becomes empty is idle: it keeps its
// memory for the next class that needs one, until take_idle() hands it over to be purged; then only its
// addresses remain, vacant.
//
// Not thread-safe: the lock of the tier guards everything but slot(), which is arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "src/base/list.h"
#include "src/paging/growing_memory.h"
#include "src/placement/fixed.h"

namespace glebe::paging {

inline constexpr std::uint32_t kSlotsPerSlabMax = 1024;
inline constexpr std::uint32_t kSlotClassesMax = 64;
inline constexpr std::size_t kSlotAlign = 16;  // of sizes and offsets of slots, bytes

struct Slab : ListNode<> {
  placement::FixedSlab slots;
  std::uint32_t class_index = 0;
  std::uint64_t words[placement::FixedSlab::word_count(kSlotsPerSlabMax)] = {};
};

// Sizes of the slots of an arena, ascending, each a multiple of kSlotAlign.
struct SlotClasses {
  std::uint32_t bytes[kSlotClassesMax] = {};
  std::uint32_t count = 0;
};

class SlabArena {
 public:
  SlabArena() noexcept = default;
  SlabArena(const SlabArena&) = delete;
  SlabArena& operator=(const SlabArena&) = delete;

  // Slabs of `slab_bytes`, a power of two, cut by `classes`, which outlives the arena. Reserves addresses for
  // `range_bytes` of them, or for fewer when the system refuses. False: not even for one slab.
  [[nodiscard]] bool open(std::size_t slab_bytes, const SlotClasses& classes,
                          std::size_t range_bytes) noexcept;

  [[nodiscard]] std::size_t slab_bytes() const noexcept { return slab_bytes_; }
  [[nodiscard]] std::size_t slot_bytes_max() const noexcept { return classes_->bytes[classes_->count - 1]; }
  [[nodiscard]] std::uint32_t slot_bytes(std::uint32_t class_index) const noexcept {
    return classes_->bytes[class_index];
  }
  // The smallest class that holds `size_bytes` <= slot_bytes_max().
  [[nodiscard]] std::uint32_t class_for(std::size_t size_bytes) const noexcept;

  // A slot of this class in a slab that has one free, or of one of the next `step_up` larger classes.
  // kNoSlot: there is none.
  static constexpr std::uint64_t kNoSlot = ~std::uint64_t{0};
  [[nodiscard]] std::uint64_t take(std::uint32_t class_index, std::uint32_t step_up) noexcept;

  // Gives the class another slab: an idle one, or one whose memory is new; then *is_new. False: neither.
  [[nodiscard]] bool add_slab(std::uint32_t class_index, bool may_be_new, bool* is_new) noexcept;

  // Gives a slot back. When its slab is empty now, it is idle. Checks that it was taken.
  void put(std::uint64_t offset) noexcept;

  [[nodiscard]] std::size_t idle_slabs() const noexcept { return idle_count_; }
  // Takes an idle slab out, to be purged without a lock and then given to add_vacant(), or to add_idle() if
  // the system refused to purge it. nullptr: none.
  [[nodiscard]] Slab* take_idle() noexcept;
  void add_vacant(Slab* slab) noexcept { vacant_.push_front(slab); }
  void add_idle(Slab* slab) noexcept;
  [[nodiscard]] std::byte* memory(const Slab* slab) const noexcept;

  // Bytes of a slot's address range; the class of the slab that holds it.
  [[nodiscard]] std::byte* slot(std::uint64_t offset) const noexcept { return memory_.base() + offset; }
  [[nodiscard]] std::uint32_t slot_bytes_at(std::uint64_t offset) const noexcept;

 private:
  static constexpr unsigned kCandidates = 16;  // slabs of which the fullest is chosen

  [[nodiscard]] Slab* slabs() const noexcept { return reinterpret_cast<Slab*>(records_.base()); }
  [[nodiscard]] Slab* fullest(std::uint32_t class_index) const noexcept;
  [[nodiscard]] Slab* new_slab() noexcept;

  const SlotClasses* classes_ = nullptr;
  std::size_t slab_bytes_ = 0;
  std::uint32_t slab_count_ = 0;  // ever used: the others have no memory and no record yet
  std::size_t idle_count_ = 0;
  GrowingMemory memory_, records_;
  List<Slab> idle_;                      // empty, with memory
  List<Slab> vacant_;                    // empty, without
  List<Slab> partial_[kSlotClassesMax];  // with free slots, not empty
};

}  // namespace glebe::paging
