// FixedRange: equal blocks in several ranges. The blocks inside one range are the business of FixedSlab.
// A range is in partial_ exactly while it has a free block.
#include "src/placement/fixed.h"

#include <new>

namespace glebe::placement {
namespace {

constexpr std::uint64_t kRangeBlocksMax = std::uint64_t{1} << 31;

}  // namespace

std::uint64_t FixedRange::blocks_in(std::uint64_t offset, std::uint64_t size_bytes) const noexcept {
  if (block_bytes_ == 0) return 0;
  const std::uint64_t misfit = offset % alignment_;
  const std::uint64_t skipped = misfit == 0 ? 0 : alignment_ - misfit;
  return size_bytes <= skipped ? 0 : (size_bytes - skipped) / block_bytes_;
}

Status FixedRange::add_range(std::uint64_t offset, std::uint64_t size_bytes,
                             std::span<std::byte> metadata) noexcept {
  if (size_bytes > ~offset) return Status::bad_argument;
  const std::uint64_t blocks = blocks_in(offset, size_bytes);
  if (blocks == 0 || blocks > kRangeBlocksMax || overlaps(offset, size_bytes)) return Status::bad_argument;
  if (range_count_ == table_.size()) return Status::exhausted;
  const auto count = static_cast<std::uint32_t>(blocks);
  if (metadata.size() < bytes_needed(count)) return Status::exhausted;

  CHECK(is_aligned(reinterpret_cast<std::uintptr_t>(metadata.data()), alignof(FixedChunk)));
  auto* const chunk = new (metadata.data()) FixedChunk;
  chunk->words = reinterpret_cast<std::uint64_t*>(metadata.data() + sizeof(FixedChunk));
  chunk->range_offset = offset;
  chunk->range_bytes = size_bytes;
  chunk->first_offset = divide_up(offset, alignment_) * alignment_;
  chunk->slab.init(chunk->words, count);

  const std::size_t position = ranges_up_to(offset);
  for (std::size_t at = range_count_; at > position; --at) table_[at] = table_[at - 1];
  table_[position] = chunk;
  ++range_count_;
  partial_.push_back(chunk);
  block_count_ += blocks;
  free_count_ += blocks;
  return Status::ok;
}

Status FixedRange::remove_range(std::uint64_t offset, std::uint64_t size_bytes) noexcept {
  FixedChunk* const chunk = find(offset);
  if (chunk == nullptr || chunk->range_offset != offset || chunk->range_bytes != size_bytes) {
    return Status::out_of_range;
  }
  if (!chunk->slab.is_empty()) return Status::in_use;
  const std::size_t position = ranges_up_to(offset) - 1;
  for (std::size_t at = position + 1; at < range_count_; ++at) table_[at - 1] = table_[at];
  --range_count_;
  partial_.remove(chunk);
  block_count_ -= chunk->slab.block_count;
  free_count_ -= chunk->slab.block_count;
  return Status::ok;
}

void FixedRange::clear() noexcept {
  while (partial_.pop_front() != nullptr) {
  }
  range_count_ = 0;
  block_count_ = 0;
  free_count_ = 0;
}

Placement FixedRange::allocate(std::uint64_t size_bytes, std::uint64_t alignment) noexcept {
  if (size_bytes == 0 || alignment == 0 || alignment_ % alignment != 0)
    return no_placement(Status::bad_argument);
  if (size_bytes > block_bytes_) return no_placement(Status::too_large);
  FixedChunk* const chunk = partial_.first();
  if (chunk == nullptr) return no_placement(Status::exhausted);
  const std::uint32_t index = chunk->slab.take(chunk->words);
  --free_count_;
  if (chunk->slab.is_full()) partial_.remove(chunk);
  return Placement{chunk->first_offset + index * block_bytes_, block_bytes_, Status::ok};
}

Status FixedRange::free(std::uint64_t offset) noexcept {
  FixedChunk* const chunk = find(offset);
  if (chunk == nullptr || offset < chunk->first_offset) return Status::out_of_range;
  const std::uint64_t distance = offset - chunk->first_offset;
  const std::uint64_t index = distance / block_bytes_;
  if (distance % block_bytes_ != 0 || index >= chunk->slab.block_count) return Status::out_of_range;
  const bool was_full = chunk->slab.is_full();
  const Status status = chunk->slab.put(chunk->words, static_cast<std::uint32_t>(index));
  if (status != Status::ok) return status;
  ++free_count_;
  if (was_full) partial_.push_front(chunk);
  return Status::ok;
}

std::size_t FixedRange::ranges_up_to(std::uint64_t offset) const noexcept {
  std::size_t low = 0;
  std::size_t high = range_count_;
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (table_[middle]->range_offset <= offset) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

FixedChunk* FixedRange::find(std::uint64_t offset) const noexcept {
  const std::size_t position = ranges_up_to(offset);
  if (position == 0) return nullptr;
  FixedChunk* const chunk = table_[position - 1];
  return offset - chunk->range_offset < chunk->range_bytes ? chunk : nullptr;
}

bool FixedRange::overlaps(std::uint64_t offset, std::uint64_t size_bytes) const noexcept {
  if (find(offset) != nullptr) return true;
  const std::size_t position = ranges_up_to(offset);
  return position < range_count_ && table_[position]->range_offset - offset < size_bytes;
}

bool FixedRange::validate() const noexcept {
  std::uint64_t blocks = 0;
  std::uint64_t free_blocks = 0;
  std::size_t partial = 0;
  for (std::size_t at = 0; at < range_count_; ++at) {
    const FixedChunk* const chunk = table_[at];
    if (at > 0 && chunk->range_offset - table_[at - 1]->range_offset < table_[at - 1]->range_bytes)
      return false;
    if (!chunk->slab.validate(chunk->words)) return false;
    if (partial_.contains(chunk) == chunk->slab.is_full()) return false;
    partial += chunk->slab.is_full() ? 0u : 1u;
    blocks += chunk->slab.block_count;
    free_blocks += chunk->slab.free_count;
  }
  if (!partial_.validate(partial)) return false;
  return partial_.count() == partial && blocks == block_count_ && free_blocks == free_count_;
}

}  // namespace glebe::placement
