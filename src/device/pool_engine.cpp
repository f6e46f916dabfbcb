// The engines of pools; see pool_engine.h. Tables are indexed by the number of the chunk, and the records of
// a chunk are made ready before it is there, so that adding one cannot fail.
#include "src/device/pool_engine.h"

#include <new>

#include "src/base/bits.h"
#include "src/base/check.h"

namespace glebe::device {

using placement::FixedChunk;
using placement::FixedRange;
using placement::FixedSlab;
using placement::no_placement;
using placement::Placement;
using placement::Ring;
using placement::RingEntry;
using placement::RingRange;
using placement::Run;

std::uint64_t alignment_slack(const PoolSpace& space, std::uint64_t align_bytes) noexcept {
  return space.chunk_bytes % align_bytes == 0 ? 0 : align_bytes - 1;
}

namespace {

std::uint64_t chunks_in(const PoolSpace& space) noexcept { return space.size_bytes / space.chunk_bytes; }

std::uint64_t chunk_end(const PoolSpace& space, PoolChunk chunk) noexcept {
  return divide_up(chunk.offset + chunk.size_bytes, space.chunk_bytes);
}

// The sum, or 0 when it is beyond the space.
std::uint64_t length_for(const PoolSpace& space, std::uint64_t size_bytes,
                         std::uint64_t align_bytes) noexcept {
  const std::uint64_t slack = alignment_slack(space, align_bytes);
  return size_bytes <= space.size_bytes && slack <= space.size_bytes - size_bytes ? size_bytes + slack : 0;
}

}  // namespace

// --- Blocks of one size ---

Outcome FixedEngine::open(const Options& options, const PoolSpace& space) noexcept {
  close();
  if (options.align_bytes > space.align_bytes) return Status::bad_argument;
  const std::uint64_t lowest_bit = options.block_bytes & (~options.block_bytes + 1);
  const std::uint64_t align_bytes = options.align_bytes != 0 ? options.align_bytes : lowest_bit;
  const std::uint64_t block_bytes = placement::fixed_block_bytes(options.block_bytes, align_bytes);
  const std::uint64_t blocks = block_bytes == 0 ? 0 : space.chunk_bytes / block_bytes;
  if (blocks == 0 || blocks > std::uint64_t{1} << 31) return Status::bad_argument;
  record_bytes_ = align_up(FixedRange::bytes_needed(static_cast<std::uint32_t>(blocks)), alignof(FixedChunk));
  const std::uint64_t chunks = chunks_in(space);
  if (record_bytes_ > (std::uint64_t{1} << 46) / chunks ||
      !records_.reserve(chunks * record_bytes_, chunks * record_bytes_, 4 * kKiB) ||
      !table_.reserve(chunks * sizeof(FixedChunk*), chunks * sizeof(FixedChunk*), 4 * kKiB)) {
    records_.release();
    return Status::no_host_memory;
  }
  space_ = space;
  align_bytes_ = align_bytes;
  range_.emplace(options.block_bytes, align_bytes,
                 std::span(reinterpret_cast<FixedChunk**>(table_.base()), chunks));
  return {};
}

void FixedEngine::close() noexcept {
  range_.reset();
  records_.release();
  table_.release();
}

std::uint64_t FixedEngine::chunk_bytes_for(std::uint64_t size_bytes,
                                           std::uint64_t align_bytes) const noexcept {
  if (size_bytes > range_->block_bytes() || align_bytes_ % align_bytes != 0) return 0;
  const std::uint64_t bytes = range_->block_bytes() + alignment_slack(space_, align_bytes_);
  return bytes <= space_.chunk_bytes ? bytes : 0;
}

bool FixedEngine::prepare(PoolChunk chunk) noexcept {
  const std::uint64_t end = chunk_end(space_, chunk);
  return records_.grow_to(end * record_bytes_) &&
         table_.grow_to((range_->range_count() + 1) * sizeof(FixedChunk*));
}

void FixedEngine::add(PoolChunk chunk) noexcept {
  std::byte* const record = records_.base() + chunk.offset / space_.chunk_bytes * record_bytes_;
  CHECK(range_->add_range(chunk.offset, chunk.size_bytes, {record, record_bytes_}) == placement::Status::ok);
}

placement::Status FixedEngine::remove(PoolChunk chunk) noexcept {
  return range_->remove_range(chunk.offset, chunk.size_bytes);
}

std::uint64_t FixedEngine::size_of(std::uint64_t offset) const noexcept {
  const FixedChunk* const chunk = range_->range_at(offset);
  if (chunk == nullptr || offset < chunk->first_offset) return 0;
  const std::uint64_t distance = offset - chunk->first_offset;
  const std::uint64_t index = distance / range_->block_bytes();
  if (distance % range_->block_bytes() != 0 || index >= chunk->slab.block_count) return 0;
  return chunk->slab.is_free(chunk->words, static_cast<std::uint32_t>(index)) ? 0 : range_->block_bytes();
}

// --- Blocks of any size ---

Outcome HeapEngine::open(const Options& options, const PoolSpace& space) noexcept {
  close();
  if (!is_power_of_two(options.unit_bytes) || space.chunk_bytes % options.unit_bytes != 0) {
    return Status::bad_argument;
  }
  const std::uint64_t units = space.size_bytes / options.unit_bytes;
  if (units > placement::kTlsfUnitsMax) return Status::bad_argument;
  const std::uint64_t table_bytes = units * sizeof(placement::Tag);
  if (!tags_.reserve(table_bytes, table_bytes, 4 * kKiB)) return Status::no_host_memory;
  space_ = space;
  unit_bytes_ = options.unit_bytes;
  units_.attach(reinterpret_cast<placement::Tag*>(tags_.base()), static_cast<std::uint32_t>(units),
                options.policy);
  return {};
}

void HeapEngine::close() noexcept {
  units_.attach(nullptr, 0);
  tags_.release();
  live_count_ = used_units_ = 0;
}

std::uint64_t HeapEngine::chunk_bytes_for(std::uint64_t size_bytes,
                                          std::uint64_t align_bytes) const noexcept {
  if (size_bytes > space_.size_bytes) return 0;
  const std::uint64_t bytes = length_for(space_, align_up(size_bytes, unit_bytes_), align_bytes);
  return align_up(bytes, unit_bytes_);
}

bool HeapEngine::prepare(PoolChunk chunk) noexcept {
  return tags_.grow_to((chunk.offset + chunk.size_bytes) / unit_bytes_ * sizeof(placement::Tag));
}

void HeapEngine::add(PoolChunk chunk) noexcept {
  const std::uint32_t first = unit_of(chunk.offset), count = unit_of(chunk.size_bytes);
  // The engine wants tags that are zero; those that were never used are.
  auto* tags = reinterpret_cast<placement::Tag*>(tags_.base());
  for (std::uint64_t unit = first; unit < first + std::uint64_t{count} && unit < used_units_; ++unit) {
    tags[unit] = {};
  }
  if (first + std::uint64_t{count} > used_units_) used_units_ = first + std::uint64_t{count};
  CHECK(units_.add_range(first, count) == placement::Status::ok);
}

placement::Status HeapEngine::remove(PoolChunk chunk) noexcept {
  return units_.remove_range(unit_of(chunk.offset), unit_of(chunk.size_bytes));
}

Placement HeapEngine::allocate(std::uint64_t size_bytes, std::uint64_t align_bytes) noexcept {
  if (size_bytes == 0 || !is_power_of_two(align_bytes)) return no_placement(placement::Status::bad_argument);
  if (size_bytes > space_.size_bytes || align_bytes > space_.size_bytes) {
    return no_placement(placement::Status::too_large);
  }
  const std::uint32_t align_units = align_bytes <= unit_bytes_ ? 1 : unit_of(align_bytes);
  const Run run = units_.allocate(unit_of(align_up(size_bytes, unit_bytes_)), align_units);
  if (run.empty()) return no_placement(run.status);
  ++live_count_;
  return {run.first * unit_bytes_, run.length * unit_bytes_, placement::Status::ok};
}

// The search of the engine may stop before it comes to the fresh chunk when many others are of no use for the
// alignment.
Placement HeapEngine::allocate_in(PoolChunk chunk, std::uint64_t size_bytes,
                                  std::uint64_t align_bytes) noexcept {
  const std::uint64_t first = divide_up(chunk.offset, align_bytes) * align_bytes;
  const Run run = units_.allocate_at(unit_of(chunk.offset), unit_of(align_up(first, unit_bytes_)),
                                     unit_of(align_up(size_bytes, unit_bytes_)));
  if (run.empty()) return no_placement(run.status);
  ++live_count_;
  return {run.first * unit_bytes_, run.length * unit_bytes_, placement::Status::ok};
}

placement::Status HeapEngine::free(std::uint64_t offset) noexcept {
  if (offset % unit_bytes_ != 0 || offset >= space_.size_bytes) return placement::Status::out_of_range;
  const placement::Status status = units_.free(unit_of(offset)).status;
  if (status == placement::Status::ok) --live_count_;
  return status;
}

std::uint64_t HeapEngine::size_of(std::uint64_t offset) const noexcept {
  if (offset % unit_bytes_ != 0 || offset >= space_.size_bytes) return 0;
  const std::uint32_t unit = unit_of(offset);
  return units_.is_allocated_start(unit) ? units_.run_length(unit) * unit_bytes_ : 0;
}

// --- Temporary blocks ---

Outcome RingEngine::open(const Options& options, const PoolSpace& space) noexcept {
  close();
  const std::uint64_t chunks = chunks_in(space);
  if (options.blocks_max == 0 || options.blocks_max > (std::uint64_t{1} << 40) / chunks ||
      !is_power_of_two(options.align_bytes) || options.align_bytes > space.align_bytes) {
    return Status::bad_argument;
  }
  const std::uint64_t entries_bytes = chunks * options.blocks_max * sizeof(RingEntry);
  const std::uint64_t ranges_bytes = chunks * sizeof(RingRange);
  if (!entries_.reserve(entries_bytes, entries_bytes, 4 * kKiB) ||
      !ranges_.reserve(ranges_bytes, ranges_bytes, 4 * kKiB)) {
    entries_.release();
    return Status::no_host_memory;
  }
  space_ = space;
  blocks_max_ = options.blocks_max;
  align_bytes_ = options.align_bytes;
  ring_.emplace(std::span(ranges(), chunks));
  return {};
}

void RingEngine::close() noexcept {
  ring_.reset();
  ranges_.release();
  entries_.release();
}

std::uint64_t RingEngine::chunk_bytes_for(std::uint64_t size_bytes,
                                          std::uint64_t align_bytes) const noexcept {
  return length_for(space_, size_bytes, align_bytes > align_bytes_ ? align_bytes : align_bytes_);
}

bool RingEngine::prepare(PoolChunk chunk) noexcept {
  return entries_.grow_to(chunk_end(space_, chunk) * blocks_max_ * sizeof(RingEntry)) &&
         ranges_.grow_to((ring_->range_count() + 1) * sizeof(RingRange));
}

void RingEngine::add(PoolChunk chunk) noexcept {
  auto* const entries = reinterpret_cast<RingEntry*>(entries_.base());
  const std::span own(entries + chunk.offset / space_.chunk_bytes * blocks_max_, blocks_max_);
  CHECK(ring_->add_range(chunk.offset, chunk.size_bytes, own) == placement::Status::ok);
}

// --- One chunk for each block ---

Outcome PassEngine::open(const Options&, const PoolSpace& space) noexcept {
  close();
  const std::uint64_t table_bytes = chunks_in(space) * sizeof(Record);
  if (!records_.reserve(table_bytes, table_bytes, 4 * kKiB)) return Status::no_host_memory;
  space_ = space;
  return {};
}

void PassEngine::close() noexcept {
  records_.release();
  record_count_ = chunk_count_ = live_count_ = capacity_bytes_ = live_bytes_ = 0;
}

PassEngine::Record* PassEngine::record_at(std::uint64_t offset) const noexcept {
  const std::uint64_t index = offset / space_.chunk_bytes;
  if (offset % space_.chunk_bytes != 0 || index >= record_count_) return nullptr;
  return reinterpret_cast<Record*>(records_.base()) + index;
}

std::uint64_t PassEngine::chunk_bytes_for(std::uint64_t size_bytes,
                                          std::uint64_t align_bytes) const noexcept {
  return alignment_slack(space_, align_bytes) == 0 && size_bytes <= space_.size_bytes ? size_bytes : 0;
}

bool PassEngine::prepare(PoolChunk chunk) noexcept {
  const std::uint64_t end = chunk.offset / space_.chunk_bytes + 1;
  if (!records_.grow_to(end * sizeof(Record))) return false;
  if (end > record_count_) record_count_ = end;
  return true;
}

void PassEngine::add(PoolChunk chunk) noexcept {
  *record_at(chunk.offset) = {chunk.size_bytes, 0};
  ++chunk_count_;
  capacity_bytes_ += chunk.size_bytes;
}

placement::Status PassEngine::remove(PoolChunk chunk) noexcept {
  Record* const record = record_at(chunk.offset);
  if (record == nullptr || record->chunk_bytes != chunk.size_bytes) return placement::Status::out_of_range;
  if (record->block_bytes != 0) return placement::Status::in_use;
  *record = {0, 0};
  --chunk_count_;
  capacity_bytes_ -= chunk.size_bytes;
  return placement::Status::ok;
}

Placement PassEngine::allocate(std::uint64_t size_bytes, std::uint64_t align_bytes) noexcept {
  if (size_bytes == 0 || !is_power_of_two(align_bytes)) return no_placement(placement::Status::bad_argument);
  if (chunk_count_ == live_count_) return no_placement(placement::Status::exhausted);
  for (std::uint64_t i = 0; i < record_count_; ++i) {
    const std::uint64_t offset = i * space_.chunk_bytes;
    Record& record = *record_at(offset);
    if (record.chunk_bytes < size_bytes || record.block_bytes != 0) continue;
    if (offset % align_bytes != 0) continue;
    record.block_bytes = record.chunk_bytes;
    ++live_count_;
    live_bytes_ += record.block_bytes;
    return {offset, record.block_bytes, placement::Status::ok};
  }
  return no_placement(placement::Status::exhausted);
}

placement::Status PassEngine::free(std::uint64_t offset) noexcept {
  Record* const record = record_at(offset);
  if (record == nullptr || record->chunk_bytes == 0) return placement::Status::out_of_range;
  if (record->block_bytes == 0) return placement::Status::double_free;
  --live_count_;
  live_bytes_ -= record->block_bytes;
  record->block_bytes = 0;
  return placement::Status::ok;
}

std::uint64_t PassEngine::size_of(std::uint64_t offset) const noexcept {
  const Record* const record = record_at(offset);
  return record != nullptr ? record->block_bytes : 0;
}

}  // namespace glebe::device
