// Slots of equal size in slabs of equal size; see slab_arena.h.
#include "src/paging/slab_arena.h"

#include <new>

#include "src/base/check.h"

namespace glebe::paging {

using placement::FixedSlab;
using placement::Status;

bool SlabArena::open(std::size_t slab_bytes, const SlotClasses& classes, std::size_t range_bytes) noexcept {
  classes_ = &classes;
  slab_bytes_ = slab_bytes;
  CHECK(slab_bytes / classes.bytes[0] <= kSlotsPerSlabMax);
  if (!memory_.reserve(range_bytes, slab_bytes, slab_bytes)) return false;
  const std::size_t records = memory_.reserved_bytes() / slab_bytes * sizeof(Slab);
  if (!records_.reserve(records, records, os::page_bytes())) return false;
  // Slabs come and go alone: a huge page would keep the memory of those that went.
  os::advise_huge(memory_.base(), memory_.reserved_bytes(), false);
  return true;
}

std::uint32_t SlabArena::class_for(std::size_t size_bytes) const noexcept {
  std::uint32_t low = 0;
  std::uint32_t high = classes_->count - 1;
  while (low < high) {
    const std::uint32_t middle = (low + high) / 2;
    if (classes_->bytes[middle] < size_bytes) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// A fuller slab first, so that the others empty.
Slab* SlabArena::fullest(std::uint32_t class_index) const noexcept {
  Slab* best = partial_[class_index].first();
  if (best == nullptr) return nullptr;
  const Slab* at = best;
  for (unsigned seen = 1; seen < kCandidates; ++seen) {
    at = List<Slab>::next(at);
    if (at == nullptr) break;
    if (at->slots.free_count < best->slots.free_count) best = const_cast<Slab*>(at);
  }
  return best;
}

std::uint64_t SlabArena::take(std::uint32_t class_index, std::uint32_t step_up) noexcept {
  for (std::uint32_t index = class_index; index < classes_->count && index <= class_index + step_up;
       ++index) {
    Slab* const slab = fullest(index);
    if (slab == nullptr) continue;
    const std::uint32_t slot = slab->slots.take(slab->words);
    if (slab->slots.is_full()) partial_[index].remove(slab);
    return static_cast<std::uint64_t>(slab - slabs()) * slab_bytes_ + std::uint64_t{slot} * slot_bytes(index);
  }
  return kNoSlot;
}

Slab* SlabArena::new_slab() noexcept {
  if (Slab* const vacant = vacant_.pop_front()) return vacant;
  const std::size_t count = std::size_t{slab_count_} + 1;
  if (!memory_.grow_to(count * slab_bytes_) || !records_.grow_to(count * sizeof(Slab))) return nullptr;
  return ::new (&slabs()[slab_count_++]) Slab;
}

bool SlabArena::add_slab(std::uint32_t class_index, bool may_be_new, bool* is_new) noexcept {
  Slab* slab = idle_.pop_front();
  *is_new = slab == nullptr;
  if (slab != nullptr) {
    --idle_count_;
  } else {
    slab = may_be_new ? new_slab() : nullptr;
    if (slab == nullptr) return false;
  }
  slab->class_index = class_index;
  slab->slots.init(slab->words, static_cast<std::uint32_t>(slab_bytes_ / slot_bytes(class_index)));
  partial_[class_index].push_front(slab);
  return true;
}

void SlabArena::put(std::uint64_t offset) noexcept {
  const std::uint64_t number = offset / slab_bytes_;
  CHECK(number < slab_count_);
  Slab* const slab = &slabs()[number];
  const std::uint32_t bytes = slot_bytes(slab->class_index);
  const auto inside = static_cast<std::uint32_t>(offset % slab_bytes_);
  const bool was_full = slab->slots.is_full();
  CHECK(inside % bytes == 0);
  CHECK(slab->slots.put(slab->words, inside / bytes) == Status::ok);
  if (slab->slots.is_empty()) {
    if (!was_full) partial_[slab->class_index].remove(slab);
    add_idle(slab);
  } else if (was_full) {
    partial_[slab->class_index].push_back(slab);
  }
}

Slab* SlabArena::take_idle() noexcept {
  Slab* const slab = idle_.pop_back();
  if (slab != nullptr) --idle_count_;
  return slab;
}

void SlabArena::add_idle(Slab* slab) noexcept {
  idle_.push_front(slab);
  ++idle_count_;
}

std::byte* SlabArena::memory(const Slab* slab) const noexcept {
  return memory_.base() + static_cast<std::size_t>(slab - slabs()) * slab_bytes_;
}

std::uint32_t SlabArena::slot_bytes_at(std::uint64_t offset) const noexcept {
  return slot_bytes(slabs()[offset / slab_bytes_].class_index);
}

}  // namespace glebe::paging
