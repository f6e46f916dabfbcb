// Records of large blocks. Slots are numbered through all sub-ranges, reservations follow behind the last
// slot.
#include "src/heap/large_table.h"

#include "platform/vm.h"
#include "src/base/check.h"
#include "src/vm/ledger.h"
#include "src/vm/metadata.h"

namespace glebe::heap {
namespace {

constexpr std::size_t kCacheLineBytes = 64;
constexpr std::size_t kSortedStart = 128;

std::uintptr_t address_of(const void* pointer) noexcept { return reinterpret_cast<std::uintptr_t>(pointer); }

}  // namespace

// The slots of the primary region, as far as there are any and there is memory to describe them.
void LargeTable::attach_slots() noexcept {
  if (is_attached_ || !vm::ensure_primary()) return;
  is_attached_ = true;
  const vm::LargeSpace& space = vm::regions[0].large;
  if (space.base == nullptr) return;
  const placement::SlotLayout layout{address_of(space.base), vm::kLargeShiftMin, space.subrange_shift,
                                     space.subrange_count};
  CHECK(placement::SlotSpace::is_valid(layout));
  const std::size_t words = placement::SlotSpace::words_needed(layout);
  void* const bits = vm::metadata_allocate(words * sizeof(std::uint64_t), kCacheLineBytes);
  std::size_t slots = 0;
  for (unsigned at = 0; at < layout.subrange_count; ++at) {
    slots += std::size_t{1} << (layout.subrange_shift - layout.shift_min - at);
  }
  const std::size_t leaves = divide_up(slots, kLeafRecords);
  void* const pointers = vm::metadata_allocate(leaves * sizeof(Leaf*), kCacheLineBytes);
  if (bits == nullptr || pointers == nullptr) return;
  slot_leaves_ = static_cast<Leaf**>(pointers);
  slot_count_ = slots;
  const placement::Status status = slots_.init(layout, {static_cast<std::uint64_t*>(bits), words});
  CHECK(status == placement::Status::ok);
}

// Sub-range j has half as many slots as sub-range j - 1.
std::size_t LargeTable::number_of(placement::SlotId slot) const noexcept {
  const std::size_t first_count = slots_.slot_count(0);
  return 2 * first_count - 2 * (first_count >> slot.subrange) + slot.index;
}

LargeRecord* LargeTable::slot_record(placement::SlotId slot, bool create) noexcept {
  const std::size_t number = number_of(slot);
  Leaf*& leaf = slot_leaves_[number / kLeafRecords];
  if (leaf == nullptr) {
    if (!create) return nullptr;
    // Zeroed memory is an array of unused records.
    leaf = static_cast<Leaf*>(vm::metadata_allocate(sizeof(Leaf), kCacheLineBytes));
    if (leaf == nullptr) return nullptr;
  }
  return &leaf->records[number % kLeafRecords];
}

LargeRecord* LargeTable::place(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  attach_slots();
  LargeRecord* record = is_frozen_ ? nullptr : place_slot(size_bytes, align_bytes);
  if (record == nullptr) record = place_reservation(size_bytes, align_bytes);
  if (record == nullptr) return nullptr;
  record->size_bytes = size_bytes;
  record->committed_bytes = 0;
  record->touched_bytes = 0;
  record->owner = 0;
  record->state = LargeState::opening;
  return record;
}

LargeRecord* LargeTable::place_slot(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  if (slot_count_ == 0) return nullptr;
  const placement::Placement found = slots_.allocate(size_bytes, align_bytes);
  if (found.empty()) return nullptr;
  LargeRecord* const record = slot_record(slots_.slot_at(found.offset), true);
  if (record == nullptr) {
    const placement::Status status = slots_.free(found.offset);
    CHECK(status == placement::Status::ok);
    return nullptr;
  }
  CHECK(record->state == LargeState::unused);
  record->base = reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(found.offset));
  record->capacity_bytes = static_cast<std::size_t>(found.size_bytes);
  record->flags = 0;
  return record;
}

LargeRecord* LargeTable::unused_reservation() noexcept {
  if (unused_reservations_.is_empty() && reservation_leaf_count_ < kReservationLeavesMax) {
    auto* const leaf = static_cast<Leaf*>(vm::metadata_allocate(sizeof(Leaf), kCacheLineBytes));
    if (leaf == nullptr) return nullptr;
    reservation_leaves_[reservation_leaf_count_++] = leaf;
    for (LargeRecord& record : leaf->records) unused_reservations_.push_back(&record);
  }
  return unused_reservations_.pop_front();
}

LargeRecord* LargeTable::place_reservation(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  if (sorted_count_ == sorted_capacity_ && !grow_sorted()) return nullptr;
  LargeRecord* const record = unused_reservation();
  if (record == nullptr) return nullptr;
  void* const base = os::reserve(size_bytes, align_bytes);
  if (base == nullptr) {
    unused_reservations_.push_front(record);
    return nullptr;
  }
  vm::ledger.reserved_bytes.fetch_add(size_bytes, std::memory_order_relaxed);
  record->base = static_cast<std::byte*>(base);
  record->capacity_bytes = size_bytes;
  record->flags = LargeRecord::kReservation;
  insert_sorted(record);
  return record;
}

LargeTable::Addresses LargeTable::remove(LargeRecord& record) noexcept {
  CHECK(record.state == LargeState::closing);
  record.state = LargeState::unused;
  if (record.is(LargeRecord::kReservation)) {
    const std::size_t position = reservations_up_to(address_of(record.base)) - 1;
    CHECK(sorted_[position] == &record);
    for (std::size_t at = position + 1; at < sorted_count_; ++at) sorted_[at - 1] = sorted_[at];
    --sorted_count_;
    note_bounds();
    unused_reservations_.push_front(&record);
    return {record.base, record.capacity_bytes};
  }
  CHECK(record.committed_bytes == 0);
  if (!is_frozen_) {
    const placement::Status status = slots_.free(address_of(record.base));
    CHECK(status == placement::Status::ok);
  }
  return {};
}

LargeRecord* LargeTable::find(const void* address) noexcept {
  if (slot_count_ != 0 && slots_.contains(address_of(address))) {
    LargeRecord* const record = slot_record(slots_.slot_at(address_of(address)), false);
    return record == nullptr || record->base == nullptr ? nullptr : record;
  }
  const std::size_t position = reservations_up_to(address_of(address));
  if (position == 0) return nullptr;
  LargeRecord* const record = sorted_[position - 1];
  return address_of(address) - address_of(record->base) < record->capacity_bytes ? record : nullptr;
}

bool LargeTable::may_contain(const void* address) const noexcept {
  // Pairs with the release in ensure_primary(): the region is complete. Before, there is no large block.
  if (vm::region_count.load(std::memory_order_acquire) == 0) return false;
  const vm::LargeSpace& space = vm::regions[0].large;
  if (address_of(address) - address_of(space.base) < space.size_bytes()) return true;
  return address_of(address) >= lowest_.load(std::memory_order_relaxed) &&
         address_of(address) <= highest_.load(std::memory_order_relaxed);
}

LargeRecord* LargeTable::next(std::size_t* number) noexcept {
  const std::size_t slot_leaves = divide_up(slot_count_, kLeafRecords);
  const std::size_t leaves = slot_leaves + reservation_leaf_count_;
  for (std::size_t at = *number / kLeafRecords; at < leaves; ++at) {
    Leaf* const leaf = at < slot_leaves ? slot_leaves_[at] : reservation_leaves_[at - slot_leaves];
    const std::size_t first = at == *number / kLeafRecords ? *number % kLeafRecords : 0;
    if (leaf == nullptr) continue;
    for (std::size_t i = first; i < kLeafRecords; ++i) {
      if (leaf->records[i].state == LargeState::unused) continue;
      *number = at * kLeafRecords + i;
      return &leaf->records[i];
    }
  }
  return nullptr;
}

std::size_t LargeTable::reservations_up_to(std::uintptr_t address) const noexcept {
  std::size_t low = 0;
  std::size_t high = sorted_count_;
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (address_of(sorted_[middle]->base) <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Metadata is never given back: doubling bounds what the old arrays cost by the size of the new one.
bool LargeTable::grow_sorted() noexcept {
  const std::size_t capacity = sorted_capacity_ == 0 ? kSortedStart : 2 * sorted_capacity_;
  auto* const array =
      static_cast<LargeRecord**>(vm::metadata_allocate(capacity * sizeof(LargeRecord*), kCacheLineBytes));
  if (array == nullptr) return false;
  for (std::size_t at = 0; at < sorted_count_; ++at) array[at] = sorted_[at];
  sorted_ = array;
  sorted_capacity_ = capacity;
  return true;
}

void LargeTable::insert_sorted(LargeRecord* record) noexcept {
  const std::size_t position = reservations_up_to(address_of(record->base));
  for (std::size_t at = sorted_count_; at > position; --at) sorted_[at] = sorted_[at - 1];
  sorted_[position] = record;
  ++sorted_count_;
  note_bounds();
}

void LargeTable::note_bounds() noexcept {
  std::uintptr_t lowest = ~std::uintptr_t{0};
  std::uintptr_t highest = 0;
  if (sorted_count_ != 0) {
    const LargeRecord* const last = sorted_[sorted_count_ - 1];
    lowest = address_of(sorted_[0]->base);
    highest = address_of(last->base) + last->capacity_bytes - 1;
  }
  lowest_.store(lowest, std::memory_order_relaxed);
  highest_.store(highest, std::memory_order_relaxed);
}

void LargeTable::freeze() noexcept {
  is_frozen_ = true;
  unused_reservations_.forget_all();
  // A new array: the old one may be half written, or half copied. Only live blocks matter here.
  std::size_t number = align_up(slot_count_, kLeafRecords);
  std::size_t live = 0;
  for (LargeRecord* record = next(&number); record != nullptr; ++number, record = next(&number)) ++live;
  sorted_ = nullptr;
  sorted_count_ = 0;
  sorted_capacity_ = 0;
  while (sorted_capacity_ < live) {
    if (!grow_sorted()) break;  // blocks that are not listed are foreign from now on: they leak
  }
  number = align_up(slot_count_, kLeafRecords);
  for (LargeRecord* record = next(&number); record != nullptr; ++number, record = next(&number)) {
    if (record->state == LargeState::live && sorted_count_ < sorted_capacity_) insert_sorted(record);
  }
}

bool LargeTable::validate() noexcept {
  if (is_frozen_) return true;  // what is free is unknown
  if (slot_count_ != 0 && !slots_.validate()) return false;
  std::size_t slots_in_use = 0, reservations_in_use = 0, number = 0;
  for (LargeRecord* record = next(&number); record != nullptr; ++number, record = next(&number)) {
    if (find(record->base) != record) return false;
    if (find(record->base + record->capacity_bytes - 1) != record) return false;
    ++(record->is(LargeRecord::kReservation) ? reservations_in_use : slots_in_use);
  }
  for (std::size_t at = 1; at < sorted_count_; ++at) {
    if (sorted_[at - 1]->base + sorted_[at - 1]->capacity_bytes > sorted_[at]->base) return false;
  }
  const std::size_t slots_taken = slot_count_ == 0 ? 0 : static_cast<std::size_t>(slots_.live_count());
  return slots_in_use == slots_taken && reservations_in_use == sorted_count_;
}

}  // namespace glebe::heap
