// SlotSpace: which slots are taken. Invariant: free + live + withdrawn slots of a sub-range are all its
// slots.
#include "src/placement/slot.h"

namespace glebe::placement {
namespace {

// All sub-ranges together are at most 2^62 long: lengths in bytes never wrap.
constexpr unsigned kSubrangeShiftMax = 57;
static_assert(SlotSpace::kSubrangesMax <= 1u << (62 - kSubrangeShiftMax));

std::uint32_t slots_in(const SlotLayout& layout, unsigned subrange) noexcept {
  return std::uint32_t{1} << (layout.subrange_shift - layout.shift_min - subrange);
}
std::size_t withdrawn_words(std::uint32_t slots) noexcept {
  return static_cast<std::size_t>(divide_up(slots, 64));
}

}  // namespace

bool SlotSpace::is_valid(const SlotLayout& layout) noexcept {
  if (layout.subrange_count == 0 || layout.subrange_count > kSubrangesMax) return false;
  if (layout.subrange_shift > kSubrangeShiftMax || layout.shift_min > layout.subrange_shift) return false;
  if (layout.subrange_shift - layout.shift_min > 24) return false;
  const unsigned longest = layout.shift_min + layout.subrange_count - 1;
  if (longest > layout.subrange_shift || !is_aligned(layout.base, slot_bytes(longest))) return false;
  const std::uint64_t length = static_cast<std::uint64_t>(layout.subrange_count) << layout.subrange_shift;
  return length - 1 <= ~layout.base;  // the last byte has an offset
}

std::size_t SlotSpace::words_needed(const SlotLayout& layout) noexcept {
  std::size_t words = 0;
  for (unsigned at = 0; at < layout.subrange_count; ++at) {
    const std::uint32_t slots = slots_in(layout, at);
    words += BitTree::words_needed(slots) + withdrawn_words(slots);
  }
  return words;
}

Status SlotSpace::init(const SlotLayout& layout, std::span<std::uint64_t> words) noexcept {
  if (!is_valid(layout)) return Status::bad_argument;
  if (words.size() < words_needed(layout)) return Status::exhausted;
  layout_ = layout;
  live_count_ = 0;
  std::uint64_t* next = words.data();
  for (unsigned at = 0; at < layout.subrange_count; ++at) {
    Subrange& range = ranges_[at];
    const std::uint32_t slots = slots_in(layout, at);
    range.taken.init(next, slots);
    next += BitTree::words_needed(slots);
    range.withdrawn = next;
    next += withdrawn_words(slots);
    range.free_count = slots;
  }
  return Status::ok;
}

Placement SlotSpace::allocate(std::uint64_t size_bytes, std::uint64_t alignment) noexcept {
  if (size_bytes == 0 || !is_power_of_two(alignment)) return no_placement(Status::bad_argument);
  const unsigned shift = slot_shift_for(size_bytes > alignment ? size_bytes : alignment, layout_.shift_min);
  if (shift >= layout_.shift_min + layout_.subrange_count) return no_placement(Status::too_large);
  for (unsigned at = shift - layout_.shift_min; at < layout_.subrange_count; ++at) {
    Subrange& range = ranges_[at];
    if (range.free_count == 0) continue;
    const std::uint32_t index = range.taken.find_first_clear();
    CHECK(index != BitTree::kNone);
    range.taken.set(index);
    --range.free_count;
    ++live_count_;
    return Placement{start_of({at, index}), slot_bytes(shift_of(at)), Status::ok};
  }
  return no_placement(Status::exhausted);
}

Status SlotSpace::free(std::uint64_t offset) noexcept {
  if (!is_slot_start(offset)) return Status::out_of_range;
  const SlotId slot = slot_at(offset);
  const SlotState state = state_of(slot);
  if (state == SlotState::withdrawn) return Status::out_of_range;
  if (state == SlotState::free) return Status::double_free;
  ranges_[slot.subrange].taken.clear(slot.index);
  ++ranges_[slot.subrange].free_count;
  --live_count_;
  return Status::ok;
}

Status SlotSpace::withdraw(std::uint64_t offset) noexcept {
  if (!is_slot_start(offset)) return Status::out_of_range;
  const SlotId slot = slot_at(offset);
  Subrange& range = ranges_[slot.subrange];
  switch (state_of(slot)) {
    case SlotState::withdrawn:
      return Status::out_of_range;
    case SlotState::live:
      --live_count_;
      break;
    case SlotState::free:
      range.taken.set(slot.index);
      --range.free_count;
      break;
  }
  range.withdrawn[slot.index / 64] |= std::uint64_t{1} << (slot.index % 64);
  return Status::ok;
}

bool SlotSpace::validate() const noexcept {
  std::uint64_t live = 0;
  for (unsigned at = 0; at < layout_.subrange_count; ++at) {
    const Subrange& range = ranges_[at];
    if (!range.taken.validate()) return false;
    std::uint32_t free_slots = 0;
    for (std::uint32_t index = 0; index < slot_count(at); ++index) {
      const bool is_withdrawn = (range.withdrawn[index / 64] >> (index % 64) & 1) != 0;
      if (is_withdrawn && !range.taken.test(index)) return false;
      free_slots += range.taken.test(index) ? 0u : 1u;
      live += state_of({at, index}) == SlotState::live ? 1u : 0u;
    }
    if (free_slots != range.free_count) return false;
  }
  return live == live_count_;
}

}  // namespace glebe::placement
