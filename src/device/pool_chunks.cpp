// See pool_chunks.h. A unit of the engine is one usual chunk; a longer one takes several.
#include "src/device/pool_chunks.h"

#include "src/base/bits.h"
#include "src/base/check.h"

namespace glebe::device {

using placement::Run;
using placement::Tag;

Outcome PoolChunks::open(const PoolSpace& space, std::uint64_t max_bytes) noexcept {
  close();
  const std::uint64_t units = space.size_bytes / space.chunk_bytes;
  if (units == 0 || units > kChunksMax) return Status::bad_argument;
  if (!tags_.reserve(units * sizeof(Tag), units * sizeof(Tag), 4 * kKiB) ||
      !lengths_.reserve(units * sizeof(std::uint64_t), units * sizeof(std::uint64_t), 4 * kKiB)) {
    close();
    return Status::no_host_memory;
  }
  // A low place among equals, so that the upper part of the space stays free for long chunks.
  places_.attach(reinterpret_cast<Tag*>(tags_.base()), static_cast<std::uint32_t>(units),
                 placement::TlsfPolicy::best_fit);
  space_ = space;
  max_bytes_ = max_bytes;
  return {};
}

void PoolChunks::close() noexcept {
  places_.attach(nullptr, 0);
  tags_.release();
  lengths_.release();
  units_ = 0;
  bytes_ = 0;
}

// Makes room for a run of this length at the end of what has tables, and for as much again as there is.
bool PoolChunks::extend(std::uint32_t units) noexcept {
  constexpr std::uint32_t kStepMin = 256;
  const std::uint32_t left = places_.capacity_units() - units_;
  std::uint32_t extra = units > units_ ? units : units_;
  if (extra < kStepMin) extra = kStepMin;
  if (extra > left) extra = left;
  if (extra == 0) return false;
  const std::uint64_t end = std::uint64_t{units_} + extra;
  if (!tags_.grow_to(end * sizeof(Tag)) || !lengths_.grow_to(end * sizeof(std::uint64_t))) return false;
  const placement::Status status =
      units_ == 0 ? places_.add_range(0, extra) : places_.extend_range(0, units_, extra);
  CHECK(status == placement::Status::ok);
  units_ += extra;
  return true;
}

Outcome PoolChunks::take(std::uint64_t size_bytes, PoolChunk* chunk) noexcept {
  if (size_bytes > max_bytes_ || bytes_ > max_bytes_ - size_bytes) return Status::over_budget;
  const std::uint64_t units = divide_up(size_bytes, space_.chunk_bytes);
  if (units == 0 || units > places_.capacity_units()) return Status::out_of_addresses;
  const auto length = static_cast<std::uint32_t>(units);
  Run run = places_.allocate(length);
  if (run.empty()) {
    const bool is_at_end = units_ == places_.capacity_units();
    if (!extend(length)) return is_at_end ? Status::out_of_addresses : Status::no_host_memory;
    run = places_.allocate(length);
    if (run.empty()) return Status::out_of_addresses;
  }
  *chunk = {run.first * space_.chunk_bytes, size_bytes};
  lengths()[run.first] = size_bytes;
  bytes_ += size_bytes;
  return {};
}

void PoolChunks::give(PoolChunk chunk) noexcept {
  const auto unit = static_cast<std::uint32_t>(chunk.offset / space_.chunk_bytes);
  CHECK(lengths()[unit] == chunk.size_bytes);
  CHECK(places_.free(unit).status == placement::Status::ok);
  lengths()[unit] = 0;
  bytes_ -= chunk.size_bytes;
}

PoolChunk PoolChunks::next(std::uint64_t offset) const noexcept {
  if (units_ == 0) return {};
  for (std::uint64_t unit = divide_up(offset, space_.chunk_bytes); unit < units_; ++unit) {
    if (lengths()[unit] != 0) return {unit * space_.chunk_bytes, lengths()[unit]};
  }
  return {};
}

}  // namespace glebe::device
