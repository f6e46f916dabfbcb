// One shard of the medium heap; see medium_shard.h.
#include "src/heap/medium_shard.h"

#include <new>

#include "platform/process.h"
#include "src/base/check.h"
#include "src/vm/ledger.h"
#include "src/vm/metadata.h"

namespace glebe::heap {

namespace {

using placement::kNoUnit;
using placement::Run;
using placement::Status;
using placement::Tlsf;
using vm::ChunkRecord;
using vm::kPageBytes;
using vm::kPagesPerChunk;

// Dirty pieces shorter than this are not worth a system call while the program runs.
constexpr unsigned kPurgePagesMin = 4;
constexpr std::uint32_t kOpenShare = 16;
constexpr unsigned kRangesLookedMax = 4;  // ranges looked at for chunks that are not open yet
// A block shrinks in place when the tail has at least so many pages, or a quarter of the block.
constexpr std::uint32_t kShrinkPagesMin = 16;

// Calls apply(chunk, first page in it, pages) for every chunk that a run of units overlaps.
template <class Apply>
void for_each_chunk(const vm::Region& region, Run run, Apply apply) {
  std::byte* address = unit_address(region, run.first);
  while (run.length != 0) {
    ChunkRecord& chunk = *vm::chunk_of(region, address);
    const unsigned first = static_cast<unsigned>(static_cast<std::size_t>(address - chunk.base) / kPageBytes);
    const unsigned here = run.length < kPagesPerChunk - first ? run.length : kPagesPerChunk - first;
    apply(chunk, first, here);
    address += std::size_t{here} * kPageBytes;
    run.length -= here;
  }
}

MediumRange& range_of(const ChunkRecord& chunk) { return *reinterpret_cast<MediumRange*>(chunk.used[0]); }

std::uint32_t now_ms() { return static_cast<std::uint32_t>(os::clock_coarse_ms()); }

FreeStatus free_status(Status status) {
  if (status == Status::ok) return FreeStatus::ok;
  return status == Status::double_free ? FreeStatus::double_free : FreeStatus::interior;
}

}  // namespace

std::uint32_t chunks_for(const MediumRequest& request) noexcept {
  // A run of chunks starts at a multiple of the chunk size, so only a larger alignment needs slack.
  const std::uint32_t slack = request.align_pages > kPagesPerChunk ? request.align_pages - kPagesPerChunk : 0;
  return static_cast<std::uint32_t>(divide_up(request.pages + slack, kPagesPerChunk));
}

MediumBlock MediumShard::place(const MediumRequest& request) noexcept {
  const MediumBlock block = place_in_open(request);
  if (block.status != MediumPlaced::no_room || !open_more(request)) return block;
  return place_in_open(request);
}

// Opens more chunks of a range for the request: as many as it may need, or a sixteenth of what is open. What
// was never used stays out of the engine as long as possible, so that memory which has pages is placed first.
bool MediumShard::open_more(const MediumRequest& request) noexcept {
  std::uint32_t wanted = chunks_for(request);
  if (wanted < open_chunk_count_ / kOpenShare) wanted = open_chunk_count_ / kOpenShare;
  unsigned looked = 0;
  for (MediumRange* range = ranges_.last(); range != nullptr && looked < kRangesLookedMax; ++looked) {
    const std::uint32_t left = range->chunk_count - range->opened_chunks;
    if (left >= chunks_for(request)) {
      const std::uint32_t more = left < wanted ? left : wanted;
      open_chunks(*range, more);
      return true;
    }
    range = List<MediumRange>::previous(range);
  }
  return false;
}

void MediumShard::open_chunks(MediumRange& range, std::uint32_t count) noexcept {
  const Status status =
      engine_of(*range.region).extend_range(range.first_unit, range.unit_count(), count * kPagesPerChunk);
  CHECK(status == Status::ok);
  range.opened_chunks += count;
  open_chunk_count_ += count;
}

MediumBlock MediumShard::place_in_open(const MediumRequest& request) noexcept {
  const unsigned regions_now =
      vm::region_count.load(std::memory_order_acquire);  // pairs with vm::add_region()
  for (unsigned i = 0; i < regions_now; ++i) {
    if (engines_[i] == nullptr) continue;
    const Run run = engines_[i]->allocate(request.pages, request.align_pages);
    if (!run.empty()) return open(vm::regions[i], run, request.owner);
  }
  return {};
}

// Commits a run that was just placed; where the system refuses, the run is free again.
MediumBlock MediumShard::open(vm::Region& region, Run run, std::uint16_t owner) noexcept {
  Tlsf& engine = engine_of(region);
  std::byte* const address = unit_address(region, run.first);
  for_each_chunk(region, run, [](ChunkRecord& chunk, unsigned, unsigned) {
    if (chunk.used_pages == 0 && chunk.dirty_pages == 0) vm::consider_huge(chunk);
  });
  if (!vm::commit_range(region, address, std::size_t{run.length} * kPageBytes)) {
    CHECK(engine.free(run.first).status == Status::ok);
    return {nullptr, false, MediumPlaced::no_memory};
  }
  engine.tag(run.first).owner = owner;
  ++allocations_;
  ++live_blocks_;
  return {address, take(region, run.first, run.length), MediumPlaced::placed};
}

// Notes that pages are handed out; true when all of them read as zero.
bool MediumShard::take(const vm::Region& region, std::uint32_t unit, std::uint32_t count) noexcept {
  bool is_zero = true;
  for_each_chunk(region, {unit, count, Status::ok}, [&](ChunkRecord& chunk, unsigned first, unsigned here) {
    is_zero = vm::take_pages(chunk, first, here) && is_zero;
    if (chunk.dirty_pages == 0) dirty_.remove(chunk);
  });
  live_pages_ += count;
  return is_zero;
}

void MediumShard::give(const vm::Region& region, std::uint32_t unit, std::uint32_t count) noexcept {
  const std::uint32_t now = now_ms();
  for_each_chunk(region, {unit, count, Status::ok}, [&](ChunkRecord& chunk, unsigned first, unsigned here) {
    vm::give_pages(chunk, first, here);
    dirty_.update(chunk, now);
  });
  live_pages_ -= count;
}

FreeStatus MediumShard::give_back(const vm::Region& region, void* address) noexcept {
  if (!has_engine(region)) return FreeStatus::interior;
  Tlsf& engine = engine_of(region);
  const std::uint32_t unit = unit_of(region, address);
  const std::uint32_t length = engine.run_length(unit);
  const Status status = engine.free(unit).status;
  if (status != Status::ok) return free_status(status);
  give(region, unit, length);
  --live_blocks_;
  ++frees_;
  return FreeStatus::ok;
}

bool MediumShard::resize(const vm::Region& region, void* address, std::uint32_t new_pages) noexcept {
  if (!has_engine(region)) return false;
  Tlsf& engine = engine_of(region);
  const std::uint32_t unit = unit_of(region, address);
  if (!engine.is_allocated_start(unit)) return false;
  const std::uint32_t old_pages = engine.run_length(unit);
  if (new_pages <= old_pages) {
    const std::uint32_t tail = old_pages - new_pages;
    if (tail < kShrinkPagesMin && tail * 4 < old_pages) return true;
    CHECK(engine.shrink(unit, new_pages).status == Status::ok);
    give(region, unit + new_pages, tail);
    return true;
  }
  if (engine.grow_in_place(unit, new_pages).empty()) {
    if (!open_behind(region, unit, new_pages)) return false;
    if (engine.grow_in_place(unit, new_pages).empty()) return false;
  }
  const std::uint32_t extra = new_pages - old_pages;
  if (!vm::commit_range(region, unit_address(region, unit + old_pages), std::size_t{extra} * kPageBytes)) {
    CHECK(engine.shrink(unit, old_pages).status == Status::ok);
    return false;
  }
  static_cast<void>(take(region, unit + old_pages, extra));
  return true;
}

// Opens the chunks behind a block that may grow into them: nothing lies between it and the end of what is
// open.
bool MediumShard::open_behind(const vm::Region& region, std::uint32_t unit,
                              std::uint32_t new_pages) noexcept {
  MediumRange& range = range_of(*vm::chunk_of(region, unit_address(region, unit)));
  Tlsf& engine = engine_of(region);
  const std::uint32_t open_end = range.first_unit + range.unit_count();
  const std::uint32_t block_end = unit + engine.run_length(unit);
  if (block_end != open_end) {
    const bool is_free = engine.is_free_start(block_end);
    if (!is_free || block_end + engine.run_length(block_end) != open_end) return false;
  }
  const auto needed =
      static_cast<std::uint32_t>(divide_up(unit + new_pages - range.first_unit, kPagesPerChunk));
  if (needed <= range.opened_chunks || needed > range.chunk_count) return false;
  open_chunks(range, needed - range.opened_chunks);
  return true;
}

bool MediumShard::ensure_engine(const vm::Region& region) noexcept {
  Tlsf*& engine = engines_[&region - vm::regions];
  if (engine != nullptr) return true;
  void* memory = vm::metadata_allocate(sizeof(Tlsf), alignof(Tlsf));
  if (memory == nullptr) return false;
  engine = new (memory) Tlsf;
  attach_engine(region);
  return true;
}

void MediumShard::attach_engine(const vm::Region& region) noexcept {
  // Unit 0 lies before the first chunk, and so does its tag: neither is ever accessed.
  const std::uint32_t lead = unit_of(region, region.chunk_base);
  const std::uintptr_t tags =
      reinterpret_cast<std::uintptr_t>(region.page_tags()) - lead * sizeof(placement::Tag);
  const std::uint64_t units = std::uint64_t{region.chunk_count} * kPagesPerChunk + lead;
  const std::uint64_t capacity = units < placement::kTlsfUnitsMax ? units : placement::kTlsfUnitsMax;
  engine_of(region).attach(reinterpret_cast<placement::Tag*>(tags), static_cast<std::uint32_t>(capacity),
                           placement::TlsfPolicy::best_fit);
}

MediumRange* MediumShard::new_range_record() noexcept {
  if (MediumRange* record = spare_.pop_front()) return record;
  void* memory = vm::metadata_allocate(sizeof(MediumRange), alignof(MediumRange));
  return memory != nullptr ? new (memory) MediumRange : nullptr;
}

bool MediumShard::add_range(ChunkRecord* first_chunk, std::uint32_t chunk_count,
                            const MediumRequest& request) noexcept {
  vm::Region& region = *vm::region_of(first_chunk->base);
  if (!ensure_engine(region)) return false;
  MediumRange* range = new_range_record();
  if (range == nullptr) return false;
  range->region = &region;
  range->first_chunk = first_chunk;
  range->first_unit = unit_of(region, first_chunk->base);
  range->chunk_count = chunk_count;
  range->opened_chunks = chunks_for(request);
  CHECK(range->opened_chunks <= chunk_count);
  // Refused at the very end of the largest region, where unit numbers end.
  if (engine_of(region).add_range(range->first_unit, range->unit_count()) != Status::ok) {
    spare_.push_front(range);
    return false;
  }
  for (std::uint32_t i = 0; i < chunk_count; ++i) {
    first_chunk[i].used[0] = reinterpret_cast<std::uintptr_t>(range);
  }
  ranges_.push_back(range);
  chunk_count_ += chunk_count;
  open_chunk_count_ += range->opened_chunks;
  return true;
}

bool MediumShard::is_free(const MediumRange& range) const noexcept {
  const Tlsf& engine = engine_of(*range.region);
  return engine.is_free_start(range.first_unit) && engine.run_length(range.first_unit) == range.unit_count();
}

void MediumShard::take_out(MediumRange& range, List<MediumRange>& free_ranges) noexcept {
  CHECK(engine_of(*range.region).remove_range(range.first_unit, range.unit_count()) == Status::ok);
  for (std::uint32_t i = 0; i < range.chunk_count; ++i) {
    dirty_.remove(range.first_chunk[i]);
    range.first_chunk[i].used[0] = 0;
  }
  chunk_count_ -= range.chunk_count;
  open_chunk_count_ -= range.opened_chunks;
  ranges_.remove(&range);
  free_ranges.push_back(&range);
}

void MediumShard::take_free_ranges(List<MediumRange>& free_ranges) noexcept {
  MediumRange* next = nullptr;
  for (MediumRange* range = ranges_.first(); range != nullptr; range = next) {
    next = List<MediumRange>::next(range);
    if (is_free(*range)) take_out(*range, free_ranges);
  }
}

std::size_t MediumShard::purge(std::uint32_t now, std::uint32_t delay_ms, unsigned budget,
                               List<MediumRange>& free_ranges) noexcept {
  std::size_t purged = 0;
  for (unsigned i = 0; i < budget; ++i) {
    ChunkRecord* chunk = dirty_.pop_due(now, delay_ms);
    if (chunk == nullptr) break;
    MediumRange& range = range_of(*chunk);
    if (is_free(range)) {
      take_out(range, free_ranges);
      continue;
    }
    purged += purge_chunk(*chunk, delay_ms == 0);
    // What was not worth it, or was refused, is looked at again after another delay.
    if (delay_ms != 0) dirty_.update(*chunk, now);
  }
  return purged;
}

std::size_t MediumShard::purge_chunk(ChunkRecord& chunk, bool everything) noexcept {
  const unsigned dirty_before = chunk.dirty_pages;
  if (chunk.used_pages == 0) {
    static_cast<void>(vm::purge_pages(chunk, 0, chunk.committed_bytes / kPageBytes));
  } else if (everything || !chunk.huge || !chunk.active || chunk.dirty_pages >= kPagesPerChunk * 3 / 4) {
    // Breaking up a huge page pays when most of it is free, or when it has been quiet.
    purge_runs(chunk, *range_of(chunk).region, everything);
  }
  return (dirty_before - chunk.dirty_pages) * kPageBytes;
}

// Purges the parts of free runs that lie in a chunk.
void MediumShard::purge_runs(ChunkRecord& chunk, const vm::Region& region, bool everything) noexcept {
  const Tlsf& engine = engine_of(region);
  const std::uint32_t chunk_first = unit_of(region, chunk.base);
  const std::uint32_t committed_end =
      chunk_first + static_cast<std::uint32_t>(chunk.committed_bytes / kPageBytes);
  const unsigned least = everything ? 1 : kPurgePagesMin;
  std::uint32_t at = engine.run_containing(chunk_first);
  for (; at != kNoUnit && at < committed_end; at = engine.next_run(at)) {
    if (!engine.is_free_start(at)) continue;
    const std::uint32_t run_end = at + engine.run_length(at);
    const std::uint32_t first = at > chunk_first ? at : chunk_first;
    const std::uint32_t end = run_end < committed_end ? run_end : committed_end;
    if (vm::touched_pages(chunk, first - chunk_first, end - first) < least) continue;
    static_cast<void>(vm::purge_pages(chunk, first - chunk_first, end - first));
  }
}

void MediumShard::free_owner(std::uint16_t owner) noexcept {
  for (MediumRange* range = ranges_.first(); range != nullptr; range = List<MediumRange>::next(range)) {
    free_owner_in(*range, owner);
  }
}

void MediumShard::free_owner_in(const MediumRange& range, std::uint16_t owner) noexcept {
  Tlsf& engine = engine_of(*range.region);
  for (std::uint32_t at = range.first_unit; at != kNoUnit; at = engine.next_run(at)) {
    if (!engine.is_allocated_start(at) || engine.tag(at).owner != owner) continue;
    const std::uint32_t length = engine.run_length(at);
    const Run freed = engine.free(at);
    give(*range.region, at, length);
    --live_blocks_;
    ++frees_;
    at = freed.first;
  }
}

void MediumShard::forget(std::uint8_t index) noexcept {
  const unsigned regions_now =
      vm::region_count.load(std::memory_order_acquire);  // pairs with vm::add_region()
  for (unsigned i = 0; i < regions_now; ++i) {
    const vm::Region& region = vm::regions[i];
    for (std::uint32_t c = 0; c < region.chunks_covered; ++c) {
      ChunkRecord& chunk = *vm::chunk_of(region, region.chunk_base + std::size_t{c} * vm::kChunkBytes);
      if (chunk.kind != vm::ChunkKind::medium || chunk.shard != index || chunk.frozen) continue;
      chunk.frozen = true;
      vm::ledger.dirty_bytes.fetch_sub(chunk.dirty_pages * kPageBytes, std::memory_order_relaxed);
      chunk.dirty_pages = 0;
    }
    if (engines_[i] != nullptr) attach_engine(region);
  }
  // Placement new, because the lists may be in the middle of a change.
  new (&ranges_) List<MediumRange>;
  new (&spare_) List<MediumRange>;
  dirty_.forget_all();
  chunk_count_ = open_chunk_count_ = 0;
  live_pages_ = live_blocks_ = 0;
}

void MediumShard::walk(MediumVisit visit, void* context) const noexcept {
  for (const MediumRange* range = ranges_.first(); range != nullptr; range = List<MediumRange>::next(range)) {
    const Tlsf& engine = engine_of(*range->region);
    for (std::uint32_t at = range->first_unit; at != kNoUnit; at = engine.next_run(at)) {
      if (!engine.is_allocated_start(at)) continue;
      const std::size_t size_bytes = std::size_t{engine.run_length(at)} * kPageBytes;
      visit(context, unit_address(*range->region, at), size_bytes, engine.tag(at).owner);
    }
  }
}

void MediumShard::add_stats(MediumStats& stats) const noexcept {
  stats.live_bytes += live_pages_ * kPageBytes;
  stats.live_blocks += live_blocks_;
  stats.allocations += allocations_;
  stats.frees += frees_;
  stats.range_bytes += std::size_t{chunk_count_} * vm::kChunkBytes;
  for (const MediumRange* range = ranges_.first(); range != nullptr; range = List<MediumRange>::next(range)) {
    for (std::uint32_t i = 0; i < range->chunk_count; ++i) {
      stats.dirty_bytes += range->first_chunk[i].dirty_pages * kPageBytes;
    }
  }
  stats.free_bytes += std::size_t{chunk_count_ - open_chunk_count_} * vm::kChunkBytes;
  for (const Tlsf* engine : engines_) {
    if (engine == nullptr) continue;
    stats.free_bytes += engine->free_units() * kPageBytes;
    const std::size_t largest = engine->largest_free() * kPageBytes;
    if (largest > stats.largest_free_bytes) stats.largest_free_bytes = largest;
  }
}

// What validate() counts in the tags.
struct MediumShard::Counted {
  std::size_t live_pages = 0, live_blocks = 0, chunks = 0;
};

bool MediumShard::validate(std::uint8_t index) const noexcept {
  struct Cursor {
    const vm::Region* region;
    const MediumRange* at;
  };
  const auto next = [](void* context, placement::Range* range) {
    Cursor& cursor = *static_cast<Cursor*>(context);
    while (cursor.at != nullptr && cursor.at->region != cursor.region)
      cursor.at = List<MediumRange>::next(cursor.at);
    if (cursor.at == nullptr) return false;
    *range = {cursor.at->first_unit, cursor.at->unit_count()};
    cursor.at = List<MediumRange>::next(cursor.at);
    return true;
  };
  for (unsigned i = 0; i < vm::kRegionMax; ++i) {
    Cursor cursor{&vm::regions[i], ranges_.first()};
    if (engines_[i] != nullptr && !engines_[i]->validate(next, &cursor)) return false;
  }
  Counted counted;
  for (const MediumRange* range = ranges_.first(); range != nullptr; range = List<MediumRange>::next(range)) {
    if (!validate_chunks(*range, index, counted)) return false;
  }
  return counted.chunks == chunk_count_ && counted.live_blocks == live_blocks_ &&
         counted.live_pages == live_pages_;
}

// The pages that the tags say are handed out are touched, and the chunk's counters agree with tags and
// bitmap.
bool MediumShard::validate_chunks(const MediumRange& range, std::uint8_t index,
                                  Counted& counted) const noexcept {
  const Tlsf& engine = engine_of(*range.region);
  std::size_t untouched_used = 0;
  const std::size_t pages_before = counted.live_pages;
  for (std::uint32_t at = range.first_unit; at != kNoUnit; at = engine.next_run(at)) {
    if (!engine.is_allocated_start(at)) continue;
    const std::uint32_t length = engine.run_length(at);
    counted.live_pages += length;
    ++counted.live_blocks;
    for_each_chunk(*range.region, {at, length, Status::ok},
                   [&](ChunkRecord& chunk, unsigned first, unsigned here) {
                     untouched_used += here - vm::touched_pages(chunk, first, here);
                   });
  }
  std::size_t used_pages = 0;
  for (std::uint32_t i = 0; i < range.chunk_count; ++i) {
    const ChunkRecord& chunk = range.first_chunk[i];
    if (chunk.kind != vm::ChunkKind::medium || chunk.shard != index || &range_of(chunk) != &range)
      return false;
    if (chunk.used_pages + chunk.dirty_pages != vm::touched_pages(chunk, 0, kPagesPerChunk)) return false;
    used_pages += chunk.used_pages;
  }
  counted.chunks += range.chunk_count;
  return untouched_used == 0 && used_pages == counted.live_pages - pages_before;
}

}  // namespace glebe::heap
