// Large blocks, each alone in a slot of 2^k addresses with room to grow in place.
//
// The space is a row of sub-ranges of equal length, 2^subrange_shift; sub-range j holds slots of 2^(shift_min
// + j). The base is a multiple of the longest slot, so every slot is aligned to its own length. The lowest
// free slot is handed out first: a program that repeats itself gets the same addresses, and the records of
// slots stay dense. Metadata is the caller's: bits, nothing in the slots. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "src/base/bits.h"
#include "src/placement/bit_tree.h"
#include "src/placement/result.h"

namespace glebe::placement {

// Exponent of the shortest slot for a size that is at least 2^shift_min long; 64 for sizes above 2^63.
[[nodiscard]] constexpr unsigned slot_shift_for(std::uint64_t size_bytes, unsigned shift_min) noexcept {
  const unsigned shift = log2_ceil(size_bytes);
  return shift < shift_min ? shift_min : shift;
}
[[nodiscard]] constexpr std::uint64_t slot_bytes(unsigned shift) noexcept {
  return std::uint64_t{1} << shift;
}
// The bits of an offset that lie inside a slot of 2^shift bytes.
[[nodiscard]] constexpr std::uint64_t slot_mask(unsigned shift) noexcept { return slot_bytes(shift) - 1; }

struct SlotLayout {
  std::uint64_t base = 0;       // multiple of the longest slot
  unsigned shift_min = 0;       // slots of sub-range 0 are 2^shift_min long
  unsigned subrange_shift = 0;  // every sub-range is 2^subrange_shift long, at least as long as its slots
  unsigned subrange_count = 0;  // 1 .. kSubrangesMax
};

enum class SlotState : std::uint8_t { free, live, withdrawn };

struct SlotId {
  unsigned subrange = 0;
  std::uint32_t index = 0;  // in the sub-range
};

class SlotSpace {
 public:
  static constexpr unsigned kSubrangesMax = 32;

  constexpr SlotSpace() noexcept = default;
  SlotSpace(const SlotSpace&) = delete;
  SlotSpace& operator=(const SlotSpace&) = delete;

  // Whether the numbers make sense: aligned base, no wrap, at most 2^24 slots in a sub-range.
  [[nodiscard]] static bool is_valid(const SlotLayout& layout) noexcept;
  // Words of metadata for a valid layout.
  [[nodiscard]] static std::size_t words_needed(const SlotLayout& layout) noexcept;

  // All slots free. `words` are zero. Fails with bad_argument (layout) or exhausted (too few words).
  [[nodiscard]] Status init(const SlotLayout& layout, std::span<std::uint64_t> words) noexcept;

  // The lowest slot of the shortest kind that holds `size_bytes` and starts at a multiple of `alignment`, a
  // power of two; a longer one when all of those are taken. size_bytes of the answer is the length of the
  // slot. Fails with bad_argument, too_large (no slot of this space can ever hold it) or exhausted.
  [[nodiscard]] Placement allocate(std::uint64_t size_bytes, std::uint64_t alignment = 1) noexcept;

  // Gives the slot back that starts at `offset`.
  [[nodiscard]] Status free(std::uint64_t offset) noexcept;
  // Takes a slot, free or live, out of use for ever. A withdrawn slot answers out_of_range to free().
  [[nodiscard]] Status withdraw(std::uint64_t offset) noexcept;

  [[nodiscard]] bool contains(std::uint64_t offset) const noexcept {
    return offset - layout_.base < static_cast<std::uint64_t>(layout_.subrange_count)
                                       << layout_.subrange_shift;
  }
  // The slot around an offset of the space, and back to the slot's start and length.
  [[nodiscard]] SlotId slot_at(std::uint64_t offset) const noexcept {
    const std::uint64_t distance = offset - layout_.base;
    const auto subrange = static_cast<unsigned>(distance >> layout_.subrange_shift);
    const std::uint64_t inside = distance & slot_mask(layout_.subrange_shift);
    return {subrange, static_cast<std::uint32_t>(inside >> shift_of(subrange))};
  }
  [[nodiscard]] std::uint64_t start_of(SlotId slot) const noexcept {
    return layout_.base + (static_cast<std::uint64_t>(slot.subrange) << layout_.subrange_shift) +
           (static_cast<std::uint64_t>(slot.index) << shift_of(slot.subrange));
  }
  [[nodiscard]] unsigned shift_of(unsigned subrange) const noexcept { return layout_.shift_min + subrange; }
  [[nodiscard]] std::uint32_t slot_count(unsigned subrange) const noexcept {
    return std::uint32_t{1} << (layout_.subrange_shift - shift_of(subrange));
  }
  [[nodiscard]] SlotState state_of(SlotId slot) const noexcept {
    const Subrange& range = ranges_[slot.subrange];
    if (!range.taken.test(slot.index)) return SlotState::free;
    return (range.withdrawn[slot.index / 64] >> (slot.index % 64) & 1) != 0 ? SlotState::withdrawn
                                                                            : SlotState::live;
  }
  // Whether `offset` is the start of a slot of this space.
  [[nodiscard]] bool is_slot_start(std::uint64_t offset) const noexcept {
    return contains(offset) && start_of(slot_at(offset)) == offset;
  }

  [[nodiscard]] const SlotLayout& layout() const noexcept { return layout_; }
  [[nodiscard]] std::uint64_t live_count() const noexcept { return live_count_; }
  [[nodiscard]] std::uint32_t free_count(unsigned subrange) const noexcept {
    return ranges_[subrange].free_count;
  }

  // Calls visit(SlotId) for each live slot, sub-range by sub-range in ascending order.
  template <typename Visit>
  void for_each_live(Visit&& visit) const {
    for (unsigned at = 0; at < layout_.subrange_count; ++at) {
      const BitTree& taken = ranges_[at].taken;
      for (auto i = taken.find_set_from(0); i != BitTree::kNone; i = taken.find_set_from(i + 1)) {
        if (state_of({at, i}) == SlotState::live) visit(SlotId{at, i});
      }
    }
  }

  [[nodiscard]] bool validate() const noexcept;

 private:
  struct Subrange {
    BitTree taken;                       // live and withdrawn slots
    std::uint64_t* withdrawn = nullptr;  // one bit per slot
    std::uint32_t free_count = 0;
  };

  SlotLayout layout_;
  std::uint64_t live_count_ = 0;
  Subrange ranges_[kSubrangesMax];
};

}  // namespace glebe::placement
