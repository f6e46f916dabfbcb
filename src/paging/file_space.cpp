// The space of one page file; see file_space.h.
#include "src/paging/file_space.h"

#include "src/base/check.h"

namespace glebe::paging {

using placement::Run;
using placement::Status;
using placement::Tag;

bool FileSpace::open(std::uint32_t units_max) noexcept {
  const std::size_t tags = std::size_t{units_max} * sizeof(Tag);
  const std::size_t table = (units_max / kBlockUnits + 1) * sizeof(Block);
  if (!tags_.reserve(tags, tags, os::page_bytes())) return false;
  if (!block_table_.reserve(table, table, os::page_bytes())) return false;
  engine_.attach(reinterpret_cast<Tag*>(tags_.base()), units_max, placement::TlsfPolicy::best_fit);
  return true;
}

bool FileSpace::grow(std::uint32_t units) noexcept {
  if (units == 0 || units > units_max() - units_) return false;
  const std::size_t end = std::size_t{units_} + units;
  if (!tags_.grow_to(end * sizeof(Tag))) return false;
  if (!block_table_.grow_to((end / kBlockUnits + 1) * sizeof(Block))) return false;
  const Status status = units_ == 0 ? engine_.add_range(0, units) : engine_.extend_range(0, units_, units);
  CHECK(status == Status::ok);
  units_ += units;
  return true;
}

std::uint32_t FileSpace::shrink() noexcept {
  const std::uint32_t removed = engine_.free_at_end(0, units_);
  if (removed == 0) return 0;
  const Status status =
      removed == units_ ? engine_.remove_range(0, units_) : engine_.shrink_range(0, units_, removed);
  CHECK(status == Status::ok);
  units_ -= removed;
  // What is cut off has no storage any more. A block that is cut in two keeps its mark.
  for (std::uint32_t block = static_cast<std::uint32_t>(divide_up(units_, kBlockUnits));
       block <= (units_ + removed - 1) / kBlockUnits; ++block) {
    if (!blocks()[block].has_storage) continue;
    CHECK(blocks()[block].used_units == 0);
    blocks()[block].has_storage = false;
    --idle_blocks_;
  }
  return removed;
}

Run FileSpace::take(std::uint32_t units, std::uint32_t align_units) noexcept {
  const Run run = engine_.allocate(units, align_units);
  if (!run.empty()) count_used(run.first, run.length, true);
  return run;
}

void FileSpace::split(std::uint32_t first, std::uint32_t units) noexcept {
  CHECK(!engine_.split(first, units).empty());
}

void FileSpace::put(std::uint32_t first) noexcept {
  const std::uint32_t units = engine_.run_length(first);
  CHECK(!engine_.free(first).empty());
  count_used(first, units, false);
}

void FileSpace::count_used(std::uint32_t first, std::uint32_t units, bool is_added) noexcept {
  for (std::uint32_t at = first; at < first + units;) {
    const std::uint32_t end = (at / kBlockUnits + 1) * kBlockUnits;
    const std::uint32_t count = (end < first + units ? end : first + units) - at;
    Block& block = blocks()[at / kBlockUnits];
    if (block.used_units == 0 && block.has_storage) --idle_blocks_;
    const std::uint32_t used = is_added ? block.used_units + count : block.used_units - count;
    CHECK(used <= kBlockUnits);
    block.used_units = static_cast<std::uint8_t>(used);
    if (used == 0 && block.has_storage) ++idle_blocks_;
    at += count;
  }
}

bool FileSpace::mark_written(std::uint32_t first, std::uint32_t units) noexcept {
  bool is_new = false;
  for (std::uint32_t block = first / kBlockUnits; block <= (first + units - 1) / kBlockUnits; ++block) {
    is_new = is_new || !blocks()[block].has_storage;
    blocks()[block].has_storage = true;  // not idle: the caller's run is in it
  }
  return is_new;
}

// Start of the free run that contains the first unit of a block. It lies in that block's first unit or in the
// block before, provided that something is in use there; otherwise kNoUnit.
std::uint32_t FileSpace::run_at_block(std::uint32_t block) const noexcept {
  const std::uint32_t end = block * kBlockUnits;
  for (std::uint32_t back = 0; back <= kBlockUnits && back <= end; ++back) {
    if (engine_.is_free_start(end - back)) {
      return engine_.run_length(end - back) > back ? end - back : placement::kNoUnit;
    }
  }
  return placement::kNoUnit;
}

bool FileSpace::take_hole(std::uint32_t* block, Hole* hole) noexcept {
  const std::uint32_t count = units_ / kBlockUnits;  // a last block that is cut belongs to the tail
  for (; *block < count && idle_blocks_ != 0; ++*block) {
    if (blocks()[*block].used_units != 0 || !blocks()[*block].has_storage) continue;
    std::uint32_t first_free = *block;
    while (first_free != 0 && blocks()[first_free - 1].used_units == 0) --first_free;
    const std::uint32_t run = run_at_block(first_free);
    CHECK(run != placement::kNoUnit);
    std::uint32_t last = *block;
    for (std::uint32_t at = *block; at < count && blocks()[at].used_units == 0; ++at) {
      if (blocks()[at].has_storage) last = at;
    }
    *hole = Hole{run, *block, last - *block + 1};
    *block = last + 1;
    CHECK(engine_.take_free_run(run) != 0);
    return true;
  }
  return false;
}

void FileSpace::put_hole(const Hole& hole, bool is_punched) noexcept {
  static_cast<void>(engine_.put_back(hole.run_first));
  if (!is_punched) return;
  for (std::uint32_t at = hole.first_block; at < hole.first_block + hole.count; ++at) {
    if (!blocks()[at].has_storage) continue;
    blocks()[at].has_storage = false;
    --idle_blocks_;
  }
}

bool FileSpace::validate() const noexcept {
  const placement::Range range{0, units_};
  return engine_.validate({&range, units_ != 0 ? std::size_t{1} : std::size_t{0}});
}

}  // namespace glebe::paging
