// Ring. Invariants of a range: the entries of the queue have rising positions that do not overlap; the first
// one is not freed (reclaim() runs after every free); from the first position to the head is at most the
// length of the range, so no two blocks share a byte, and a remainder names at most one block.
#include "src/placement/ring.h"

#include "src/base/bits.h"
#include "src/base/check.h"

namespace glebe::placement {
namespace {

// Bytes from `offset` to the next multiple of `alignment`.
std::uint64_t padding_for(std::uint64_t offset, std::uint64_t alignment) noexcept {
  return (~offset + 1) & (alignment - 1);
}

RingEntry& entry_at(const RingRange& range, std::size_t number) noexcept {
  const std::size_t at = range.first + number;
  return range.entries[at < range.entries.size() ? at : at - range.entries.size()];
}

// The entry of the block at `offset`, nullptr if none starts there. Positions rise, so this is a binary
// search.
RingEntry* find_entry(const RingRange& range, std::uint64_t offset) noexcept {
  if (range.count == 0) return nullptr;
  const std::uint64_t oldest = entry_at(range, 0).position;
  const std::uint64_t inside = offset - range.offset;
  const std::uint64_t oldest_inside = oldest % range.size_bytes;
  const std::uint64_t distance =
      inside >= oldest_inside ? inside - oldest_inside : inside + (range.size_bytes - oldest_inside);
  const std::uint64_t position = oldest + distance;
  std::size_t low = 0;
  std::size_t high = range.count;
  while (high - low > 1) {
    const std::size_t middle = low + (high - low) / 2;
    (entry_at(range, middle).position <= position ? low : high) = middle;
  }
  RingEntry& entry = entry_at(range, low);
  return entry.position == position ? &entry : nullptr;
}

}  // namespace

Status Ring::add_range(std::uint64_t offset, std::uint64_t size_bytes,
                       std::span<RingEntry> entries) noexcept {
  if (size_bytes == 0 || size_bytes > ~offset || entries.empty()) return Status::bad_argument;
  for (std::size_t at = 0; at < range_count_; ++at) {
    const RingRange& other = table_[at];
    if (offset - other.offset < other.size_bytes || other.offset - offset < size_bytes)
      return Status::bad_argument;
  }
  if (range_count_ == table_.size()) return Status::exhausted;
  table_[range_count_++] = RingRange{offset, size_bytes, entries, 0, 0, 0};
  capacity_bytes_ += size_bytes;
  return Status::ok;
}

Status Ring::remove_range(std::uint64_t offset, std::uint64_t size_bytes) noexcept {
  RingRange* const range = range_of(offset);
  if (range == nullptr || range->offset != offset || range->size_bytes != size_bytes)
    return Status::out_of_range;
  if (range->count != 0) return Status::in_use;
  const auto position = static_cast<std::size_t>(range - table_.data());
  for (std::size_t at = position + 1; at < range_count_; ++at) table_[at - 1] = table_[at];
  --range_count_;
  if (current_ > position) --current_;
  if (current_ == range_count_) current_ = 0;
  capacity_bytes_ -= size_bytes;
  return Status::ok;
}

Placement Ring::allocate(std::uint64_t size_bytes, std::uint64_t alignment) noexcept {
  if (size_bytes == 0 || !is_power_of_two(alignment)) return no_placement(Status::bad_argument);
  std::size_t at = current_;
  for (std::size_t tried = 0; tried < range_count_; ++tried) {
    std::uint64_t offset = 0;
    if (place(table_[at], size_bytes, alignment, &offset)) {
      if (tried != 0) ++move_count_;
      current_ = at;
      live_bytes_ += size_bytes;
      ++live_count_;
      return Placement{offset, size_bytes, Status::ok};
    }
    at = at + 1 == range_count_ ? 0 : at + 1;
  }
  if (!fits_empty(size_bytes, alignment)) return no_placement(Status::too_large);
  ++stall_count_;
  return no_placement(Status::exhausted);
}

Status Ring::free(std::uint64_t offset) noexcept {
  RingRange* const range = range_of(offset);
  RingEntry* const entry = range == nullptr ? nullptr : find_entry(*range, offset);
  if (entry == nullptr) return Status::out_of_range;
  if (entry->state != RingState::live) return Status::double_free;
  finish(*range, *entry);
  reclaim(*range);
  return Status::ok;
}

Status Ring::submit(std::uint64_t offset, std::uint64_t epoch) noexcept {
  if (any_epoch_completed_ && epoch <= completed_epoch_) return free(offset);
  RingRange* const range = range_of(offset);
  RingEntry* const entry = range == nullptr ? nullptr : find_entry(*range, offset);
  if (entry == nullptr) return Status::out_of_range;
  if (entry->state != RingState::live) return Status::double_free;
  entry->state = RingState::submitted;
  entry->epoch = epoch;
  bytes_in_flight_ += entry->size_bytes;
  return Status::ok;
}

void Ring::complete(std::uint64_t epoch) noexcept {
  if (any_epoch_completed_ && epoch <= completed_epoch_) return;
  any_epoch_completed_ = true;
  completed_epoch_ = epoch;
  for (std::size_t at = 0; at < range_count_; ++at) {
    RingRange& range = table_[at];
    for (std::size_t number = 0; number < range.count; ++number) {
      RingEntry& entry = entry_at(range, number);
      if (entry.state == RingState::submitted && entry.epoch <= epoch) finish(range, entry);
    }
    reclaim(range);
  }
}

std::uint64_t Ring::size_of(std::uint64_t offset) const noexcept {
  const RingRange* const range = range_of(offset);
  const RingEntry* const entry = range == nullptr ? nullptr : find_entry(*range, offset);
  return entry != nullptr && entry->state == RingState::live ? entry->size_bytes : 0;
}

std::uint64_t Ring::largest_free() const noexcept {
  std::uint64_t largest = 0;
  for (std::size_t at = 0; at < range_count_; ++at) {
    const RingRange& range = table_[at];
    if (range.count == range.entries.size()) continue;
    std::uint64_t free_bytes = range.size_bytes;
    if (range.count != 0) {
      // Behind the newest block: up to the end of the range, or up to the oldest block; or in front of that.
      const std::uint64_t oldest = entry_at(range, 0).position;
      const std::uint64_t left = range.size_bytes - (range.head - oldest);
      const std::uint64_t up_to_end = range.size_bytes - range.head % range.size_bytes;
      const std::uint64_t behind = left < up_to_end ? left : up_to_end;
      free_bytes = behind > left - behind ? behind : left - behind;
    }
    if (free_bytes > largest) largest = free_bytes;
  }
  return largest;
}

RingRange* Ring::range_of(std::uint64_t offset) const noexcept {
  for (std::size_t at = 0; at < range_count_; ++at) {
    if (offset - table_[at].offset < table_[at].size_bytes) return &table_[at];
  }
  return nullptr;
}

bool Ring::fits_empty(std::uint64_t size_bytes, std::uint64_t alignment) const noexcept {
  for (std::size_t at = 0; at < range_count_; ++at) {
    const std::uint64_t padding = padding_for(table_[at].offset, alignment);
    if (padding < table_[at].size_bytes && size_bytes <= table_[at].size_bytes - padding) return true;
  }
  return false;
}

// Appends a block behind the newest one, or at the start of the range when the rest up to its end is too
// short.
bool Ring::place(RingRange& range, std::uint64_t size_bytes, std::uint64_t alignment,
                 std::uint64_t* offset) noexcept {
  if (range.count == range.entries.size() || size_bytes > range.size_bytes) return false;
  std::uint64_t inside = range.head % range.size_bytes;
  std::uint64_t lap = range.head - inside;  // position of the start of the range in this lap
  std::uint64_t padding = padding_for(range.offset + inside, alignment);
  if (padding > range.size_bytes - inside || size_bytes > range.size_bytes - inside - padding) {
    lap += range.size_bytes;
    inside = 0;
    padding = padding_for(range.offset, alignment);
    if (padding > range.size_bytes - size_bytes) return false;
  }
  const std::uint64_t position = lap + inside + padding;
  const std::uint64_t oldest = range.count == 0 ? position : entry_at(range, 0).position;
  if (position + size_bytes - oldest > range.size_bytes) return false;
  range.head = position + size_bytes;
  ++range.count;
  entry_at(range, range.count - 1) = RingEntry{position, size_bytes, 0, RingState::live};
  *offset = range.offset + inside + padding;
  return true;
}

void Ring::finish(RingRange& range, RingEntry& entry) noexcept {
  CHECK(range.count > 0);
  CHECK(live_count_ > 0);
  CHECK(live_bytes_ >= entry.size_bytes);
  if (entry.state == RingState::submitted) {
    CHECK(bytes_in_flight_ >= entry.size_bytes);
    bytes_in_flight_ -= entry.size_bytes;
  }
  entry.state = RingState::freed;
  live_bytes_ -= entry.size_bytes;
  --live_count_;
}

// Drops freed blocks from the old end of the queue. An empty range starts over at its first byte.
void Ring::reclaim(RingRange& range) noexcept {
  while (range.count > 0 && entry_at(range, 0).state == RingState::freed) {
    range.first = range.first + 1 == range.entries.size() ? 0 : range.first + 1;
    --range.count;
  }
  if (range.count == 0) range.head = 0;
}

bool Ring::validate_range(const RingRange& range) const noexcept {
  if (range.count == 0) return range.head == 0;
  if (range.count > range.entries.size() || entry_at(range, 0).state == RingState::freed) return false;
  const std::uint64_t oldest = entry_at(range, 0).position;
  std::uint64_t end = oldest;
  for (std::size_t number = 0; number < range.count; ++number) {
    const RingEntry& entry = entry_at(range, number);
    if (entry.position < end || entry.size_bytes == 0) return false;
    if (entry.position % range.size_bytes + entry.size_bytes > range.size_bytes) return false;
    end = entry.position + entry.size_bytes;
  }
  return end == range.head && end - oldest <= range.size_bytes;
}

bool Ring::validate() const noexcept {
  std::uint64_t capacity = 0, live = 0, live_blocks = 0, in_flight = 0;
  for (std::size_t at = 0; at < range_count_; ++at) {
    const RingRange& range = table_[at];
    if (!validate_range(range)) return false;
    capacity += range.size_bytes;
    for (std::size_t number = 0; number < range.count; ++number) {
      const RingEntry& entry = entry_at(range, number);
      if (entry.state == RingState::freed) continue;
      live += entry.size_bytes;
      ++live_blocks;
      if (entry.state == RingState::submitted) in_flight += entry.size_bytes;
    }
  }
  if (capacity != capacity_bytes_ || live != live_bytes_) return false;
  return live_blocks == live_count_ && in_flight == bytes_in_flight_;
}

}  // namespace glebe::placement
