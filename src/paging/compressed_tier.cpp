// The compressed tier; see compressed_tier.h.
#include "src/paging/compressed_tier.h"

#include <cstring>

#include "platform/process.h"
#include "src/base/check.h"

namespace glebe::paging {
namespace {

constexpr std::size_t kSmallSlabBytes = 32 * kKiB;
constexpr std::size_t kLargeSlabBytes = 256 * kKiB;
constexpr std::size_t kSmallSlotMax = 65 * 64;  // a page that did not compress, and its head
constexpr std::size_t kSlotStep = 64;
constexpr std::size_t kIdleKept = 4;       // empty slabs that keep their memory, of each arena
constexpr std::size_t kAddressShare = 16;  // of the address space, when that is limited
constexpr std::uint32_t kStepUpFull = 12;  // larger classes that are looked at before the tier says full

// Where many slots fit into a slab, sizes in steps of 64 bytes; slots that fit equally often are one class,
// the longest of them.
constexpr SlotClasses small_classes() {
  SlotClasses classes;
  for (std::size_t size = kSlotStep; size <= kSmallSlotMax; size += kSlotStep) {
    const std::size_t slot = align_down(kSmallSlabBytes / (kSmallSlabBytes / size), kSlotAlign);
    if (classes.count != 0 && classes.bytes[classes.count - 1] == slot) continue;
    classes.bytes[classes.count++] = static_cast<std::uint32_t>(slot);
  }
  return classes;
}

// Every number of slots from 63 down to 4.
constexpr SlotClasses large_classes() {
  SlotClasses classes;
  for (std::size_t slots = kLargeSlabBytes / kSmallSlotMax; slots >= 4; --slots) {
    classes.bytes[classes.count++] =
        static_cast<std::uint32_t>(align_down(kLargeSlabBytes / slots, kSlotAlign));
  }
  return classes;
}

constexpr SlotClasses kSmallClasses = small_classes();
constexpr SlotClasses kLargeClasses = large_classes();
static_assert(kSmallClasses.bytes[kSmallClasses.count - 1] >= kPageBytes + 8);
static_assert(kLargeClasses.bytes[kLargeClasses.count - 1] >= kObjectBytesMax);

// A handle of the kind slot: kind, arena, offset in units of kSlotAlign.
constexpr unsigned kArenaShift = kHandleKindBits;
constexpr unsigned kOffsetShift = kArenaShift + 1;
constexpr std::uint64_t offset_of(Handle handle) { return (handle >> kOffsetShift) * kSlotAlign; }

// A handle of the kind fill: kind, size - 1, one bit that tells how, 37 bits of the word.
constexpr unsigned kSizeBits = 16;
constexpr unsigned kRepeatShift = kHandleKindBits + kSizeBits;
constexpr unsigned kWordShift = kRepeatShift + 1;
constexpr unsigned kFillWordBits = kHandleBits - kWordShift;
static_assert(kFillWordBits > 32);

constexpr std::uint64_t sign_extend(std::uint64_t word) {
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(word << (64 - kFillWordBits)) >>
                                    (64 - kFillWordBits));
}

}  // namespace

// In front of what is stored in a slot.
struct CompressedTier::Head {
  std::uint16_t stored_bytes, size_less_1;
  Form form;
  std::uint8_t unused[3];
};

Handle fill_handle(std::uint64_t word, std::size_t size_bytes) noexcept {
  const std::uint64_t low = word & 0xffffffffu;
  const bool repeats = word >> 32 == low;
  if (!repeats && sign_extend(word & bit_range(0, kFillWordBits)) != word) return kNoObject;
  const std::uint64_t bits = repeats ? low : word & bit_range(0, kFillWordBits);
  return static_cast<Handle>(HandleKind::fill) | (size_bytes - 1) << kHandleKindBits |
         std::uint64_t{repeats} << kRepeatShift | bits << kWordShift;
}

FillObject fill_object(Handle handle) noexcept {
  const std::uint64_t bits = handle >> kWordShift;
  const bool repeats = (handle >> kRepeatShift & 1) != 0;
  return {repeats ? bits << 32 | bits : sign_extend(bits),
          (handle >> kHandleKindBits & bit_range(0, kSizeBits)) + 1};
}

bool CompressedTier::open(std::size_t limit_bytes) noexcept {
  set_limit(limit_bytes);
  // More than the machine has is never held: addresses for all of it, whatever the limit is now. Where
  // addresses are limited, others need them too.
  const std::size_t physical = os::memory_limits().physical;
  const std::size_t share = os::address_space_limit() / kAddressShare;
  std::size_t range = physical != 0 && physical < kTiB ? physical : kTiB;
  if (share < range) range = share;
  return arenas_[0].open(kSmallSlabBytes, kSmallClasses, range) &&
         arenas_[1].open(kLargeSlabBytes, kLargeClasses, range);
}

bool CompressedTier::add_slab(SlabArena& arena, std::uint32_t class_index) noexcept {
  const std::size_t held = slab_bytes_.load(std::memory_order_relaxed);
  const std::size_t limit = limit_.load(std::memory_order_relaxed);
  const bool may_be_new = held <= limit && arena.slab_bytes() <= limit - held;
  bool is_new = false;
  if (!arena.add_slab(class_index, may_be_new, &is_new)) return false;
  if (is_new) slab_bytes_.store(held + arena.slab_bytes(), std::memory_order_relaxed);
  return true;
}

std::uint64_t CompressedTier::take_slot(SlabArena& arena, std::size_t size_bytes) noexcept {
  const std::uint32_t class_index = arena.class_for(size_bytes);
  for (int tries = 0; tries < 2; ++tries) {
    {
      os::Lock hold(lock_);
      const std::uint64_t slot = arena.take(class_index, 0);
      if (slot != SlabArena::kNoSlot) return slot;
      if (add_slab(arena, class_index)) return arena.take(class_index, 0);
    }
    // What the other arena keeps idle may be what stands between us and the limit.
    SlabArena& other = &arena == &arenas_[0] ? arenas_[1] : arenas_[0];
    if (purge_idle(other, 0) == 0) break;
  }
  os::Lock hold(lock_);
  return arena.take(class_index, kStepUpFull);
}

void CompressedTier::count(const Head& head, std::size_t slot_bytes, bool is_added) noexcept {
  const std::size_t sign = is_added ? 1 : ~std::size_t{0};
  constexpr auto kOrder = std::memory_order_relaxed;
  objects_.fetch_add(sign, kOrder);
  object_bytes_.fetch_add(sign * (std::size_t{head.size_less_1} + 1), kOrder);
  compressed_bytes_.fetch_add(sign * head.stored_bytes, kOrder);
  slot_bytes_.fetch_add(sign * slot_bytes, kOrder);
  if (head.form == Form::fill) fill_objects_.fetch_add(sign, kOrder);
}

PutResult CompressedTier::put(const Stored& stored, Handle* handle) noexcept {
  const std::size_t size_bytes = sizeof(Head) + stored.stored_bytes;
  CHECK(stored.stored_bytes <= UINT16_MAX);
  if (is_sealed_ || size_bytes > arenas_[1].slot_bytes_max()) return PutResult::full;
  const unsigned index = size_bytes <= arenas_[0].slot_bytes_max() ? 0 : 1;
  const std::uint64_t offset = take_slot(arenas_[index], size_bytes);
  if (offset == SlabArena::kNoSlot) return PutResult::full;
  const Head head{static_cast<std::uint16_t>(stored.stored_bytes),
                  static_cast<std::uint16_t>(stored.size_bytes - 1),
                  stored.form,
                  {}};
  std::byte* const slot = arenas_[index].slot(offset);
  std::memcpy(slot, &head, sizeof head);
  std::memcpy(slot + sizeof head, stored.data, stored.stored_bytes);
  count(head, arenas_[index].slot_bytes_at(offset), true);
  *handle = static_cast<Handle>(HandleKind::slot) | std::uint64_t{index} << kArenaShift |
            offset / kSlotAlign << kOffsetShift;
  return PutResult::stored;
}

void CompressedTier::count_fill(std::size_t size_bytes) noexcept {
  objects_.fetch_add(1, std::memory_order_relaxed);
  object_bytes_.fetch_add(size_bytes, std::memory_order_relaxed);
  fill_objects_.fetch_add(1, std::memory_order_relaxed);
}

const SlabArena& CompressedTier::arena_of(Handle handle) const noexcept {
  return arenas_[handle >> kArenaShift & 1];
}

Stored CompressedTier::stored(Handle handle) const noexcept {
  const std::byte* const slot = arena_of(handle).slot(offset_of(handle));
  Head head;
  std::memcpy(&head, slot, sizeof head);
  return Stored{slot + sizeof head, head.stored_bytes, std::uint32_t{head.size_less_1} + 1, head.form};
}

std::size_t CompressedTier::slot_bytes(Handle handle) const noexcept {
  return arena_of(handle).slot_bytes_at(offset_of(handle));
}

void CompressedTier::drop(Handle handle) noexcept {
  if (handle_kind(handle) == HandleKind::fill) {
    objects_.fetch_sub(1, std::memory_order_relaxed);
    object_bytes_.fetch_sub(fill_object(handle).size_bytes, std::memory_order_relaxed);
    fill_objects_.fetch_sub(1, std::memory_order_relaxed);
    return;
  }
  SlabArena& arena = arenas_[handle >> kArenaShift & 1];
  const std::uint64_t offset = offset_of(handle);
  Head head;
  std::memcpy(&head, arena.slot(offset), sizeof head);
  count(head, arena.slot_bytes_at(offset), false);
  if (is_sealed_) return;
  bool has_surplus = false;
  {
    os::Lock hold(lock_);
    arena.put(offset);
    has_surplus = arena.idle_slabs() > kIdleKept;
  }
  if (has_surplus) static_cast<void>(purge_idle(arena, kIdleKept));
}

// Gives the memory of idle slabs back until `kept` are left. Returns bytes.
std::size_t CompressedTier::purge_idle(SlabArena& arena, std::size_t kept) noexcept {
  std::size_t purged_bytes = 0;
  for (bool is_done = false; !is_done;) {
    Slab* slab = nullptr;
    {
      os::Lock hold(lock_);
      if (arena.idle_slabs() > kept) slab = arena.take_idle();
    }
    if (slab == nullptr) return purged_bytes;
    const bool is_purged = os::purge(arena.memory(slab), arena.slab_bytes());
    os::Lock hold(lock_);
    if (is_purged) {
      arena.add_vacant(slab);
      slab_bytes_.fetch_sub(arena.slab_bytes(), std::memory_order_relaxed);
      purged_bytes += arena.slab_bytes();
    } else {
      arena.add_idle(slab);  // the system may be willing another time
      is_done = true;
    }
  }
  return purged_bytes;
}

std::size_t CompressedTier::trim() noexcept {
  return is_sealed_ ? 0 : purge_idle(arenas_[0], 0) + purge_idle(arenas_[1], 0);
}

void CompressedTier::add_to(StoreStats& stats) const noexcept {
  constexpr auto kOrder = std::memory_order_relaxed;
  stats.objects = objects_.load(kOrder);
  stats.object_bytes = object_bytes_.load(kOrder);
  stats.same_filled_objects = fill_objects_.load(kOrder);
  stats.compressed_bytes = compressed_bytes_.load(kOrder);
  stats.slot_bytes = slot_bytes_.load(kOrder);
  stats.slab_bytes = slab_bytes_.load(kOrder);
}

void CompressedTier::seal_in_child() noexcept {
  is_sealed_ = true;
  lock_.reset_in_child();
}

}  // namespace glebe::paging
