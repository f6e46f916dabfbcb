#include "src/heap/granule_pool.h"

#include <bit>

#include "platform/process.h"
#include "src/base/check.h"
#include "src/heap/reclaim.h"
#include "src/vm/chunk.h"
#include "src/vm/metadata.h"

namespace glebe::heap {
namespace {

using vm::ChunkKind;
using vm::ChunkRecord;
using vm::kGranulesPerChunk;

// What fits into a chunk: the sets that a request looks through, in this order.
enum Fit : std::uint8_t { kFull = 0, kOne = 1, kFour = 2, kSixteen = 3, kEmpty = 4 };
constexpr unsigned kFitSets = 4;  // sets for kOne .. kEmpty
constexpr unsigned kPagesPerGranule = vm::kGranuleBytes / vm::kPageBytes;

// Sets of chunk numbers, one per kind of fit, with two levels of summaries: the lowest member is found in
// three steps. The words of the four sets are interleaved, so that a small heap touches one page of each
// level.
struct Words {
  std::uint64_t of[kFitSets];
};
constexpr unsigned kTopWords = 16;
struct ChunkSets {
  Words* low = nullptr;       // a bit per chunk
  Words* middle = nullptr;    // a bit per word of `low`
  Words top[kTopWords] = {};  // a bit per word of `middle`

  void insert(std::uint32_t chunk, unsigned set) {
    low[chunk / 64].of[set] |= std::uint64_t{1} << (chunk % 64);
    middle[chunk / 4096].of[set] |= std::uint64_t{1} << (chunk / 64 % 64);
    top[chunk / 262144].of[set] |= std::uint64_t{1} << (chunk / 4096 % 64);
  }
  void remove(std::uint32_t chunk, unsigned set) {
    if ((low[chunk / 64].of[set] &= ~(std::uint64_t{1} << (chunk % 64))) != 0) return;
    if ((middle[chunk / 4096].of[set] &= ~(std::uint64_t{1} << (chunk / 64 % 64))) != 0) return;
    top[chunk / 262144].of[set] &= ~(std::uint64_t{1} << (chunk / 4096 % 64));
  }
  // The lowest member, or -1.
  [[nodiscard]] std::int64_t lowest(unsigned set) const {
    for (unsigned i = 0; i < kTopWords; ++i) {
      if (top[i].of[set] == 0) continue;
      const unsigned m = i * 64 + static_cast<unsigned>(std::countr_zero(top[i].of[set]));
      const unsigned l = m * 64 + static_cast<unsigned>(std::countr_zero(middle[m].of[set]));
      return std::int64_t{l} * 64 + std::countr_zero(low[l].of[set]);
    }
    return -1;
  }
};
static_assert(std::size_t{kTopWords} * 262144 * vm::kChunkBytes >= 8 * kTiB);

struct Pool {
  os::Mutex lock;  // guards everything here and the records of small chunks
  ChunkSets sets[vm::kRegionMax];
  vm::DirtyList dirty;
  std::size_t chunks = 0, used_granules = 0;
};
constinit Pool pool;

std::uint32_t chunk_number(const vm::Region& region, const ChunkRecord& chunk) {
  return region.granule_of(chunk.base) / kGranulesPerChunk;
}

// Bits of the groups of 4 (16) aligned granules that are wholly free, at the first bit of each group.
std::uint64_t free_fours(std::uint64_t free) {
  return free & (free >> 1) & (free >> 2) & (free >> 3) & 0x1111111111111111u;
}
std::uint64_t free_sixteens(std::uint64_t free) {
  const std::uint64_t fours = free_fours(free);
  return fours & (fours >> 4) & (fours >> 8) & (fours >> 12) & 0x0001000100010001u;
}

Fit fit_of(const ChunkRecord& chunk) {
  const std::uint64_t low = ~chunk.used[0], high = ~chunk.used[1];
  if ((low & high) == ~std::uint64_t{0}) return kEmpty;
  if ((free_sixteens(low) | free_sixteens(high)) != 0) return kSixteen;
  if ((free_fours(low) | free_fours(high)) != 0) return kFour;
  return (low | high) != 0 ? kOne : kFull;
}

void refile(const vm::Region& region, ChunkRecord& chunk) {
  const Fit fit = fit_of(chunk);
  if (fit == chunk.fit) return;
  ChunkSets& sets = pool.sets[&region - vm::regions];
  const std::uint32_t number = chunk_number(region, chunk);
  if (chunk.fit != kFull) sets.remove(number, chunk.fit - 1u);
  if (fit != kFull) sets.insert(number, fit - 1u);
  chunk.fit = fit;
}

bool ensure_sets(const vm::Region& region) {
  ChunkSets& sets = pool.sets[&region - vm::regions];
  if (sets.low != nullptr) return true;
  const std::size_t low_words = divide_up(region.chunk_count, 64), middle_words = divide_up(low_words, 64);
  auto* middle = static_cast<Words*>(vm::metadata_allocate(middle_words * sizeof(Words), 64));
  auto* low = static_cast<Words*>(vm::metadata_allocate(low_words * sizeof(Words), 64));
  if (low == nullptr || middle == nullptr) return false;
  sets.middle = middle;
  sets.low = low;
  return true;
}

// The first granule to use for a request in a chunk where it fits. Single granules come from groups that are
// broken already, if there are any.
unsigned place_in_chunk(const ChunkRecord& chunk, unsigned count) {
  for (unsigned half = 0; half < 2; ++half) {
    const std::uint64_t free = ~chunk.used[half];
    std::uint64_t starts = free;
    if (count == 16) starts = free_sixteens(free);
    if (count == 4) starts = free_fours(free);
    if (count == 1) {
      const std::uint64_t broken = free & ~(free_fours(free) * 15);
      if (broken != 0) starts = broken;
    }
    if (starts != 0) return half * 64 + static_cast<unsigned>(std::countr_zero(starts));
  }
  CHECK(false);
}

// A chunk in which `count` granules fit, of those that the pool has.
ChunkRecord* find_chunk(unsigned count, vm::Region** region_found) {
  const unsigned first_set = (count == 16 ? kSixteen : count == 4 ? kFour : kOne) - 1u;
  const unsigned regions_now = vm::region_count.load(std::memory_order_acquire);
  for (unsigned set = first_set; set < kFitSets; ++set) {
    for (unsigned i = 0; i < regions_now; ++i) {
      if (pool.sets[i].low == nullptr) continue;
      const std::int64_t number = pool.sets[i].lowest(set);
      if (number < 0) continue;
      *region_found = &vm::regions[i];
      return vm::chunk_of(vm::regions[i],
                          vm::regions[i].chunk_base + static_cast<std::size_t>(number) * vm::kChunkBytes);
    }
  }
  return nullptr;
}

ChunkRecord* grow(vm::Region** region_found) {
  before_growth(vm::kChunkBytes);
  ChunkRecord* chunk = obtain_chunks(1, ChunkKind::small, 0);
  if (chunk == nullptr) return nullptr;
  vm::Region& region = *vm::region_of(chunk->base);
  if (!ensure_sets(region)) {
    vm::release_chunks(chunk, 1);
    return nullptr;
  }
  ++pool.chunks;
  refile(region, *chunk);
  vm::consider_huge(*chunk);
  *region_found = &region;
  return chunk;
}

void mark(ChunkRecord& chunk, unsigned first, unsigned count, bool used) {
  const std::uint64_t mask = bit_range(first % 64, count);
  std::uint64_t& word = chunk.used[first / 64];
  CHECK((word & mask) == (used ? 0 : mask));
  word ^= mask;
}

// Purges the dirty free granules of a chunk; the whole chunk in one call when nothing in it is used.
// `everything`: a huge page too that is in use for the most part, and where something still happens.
std::size_t purge_chunk(ChunkRecord& chunk, bool everything) {
  const unsigned dirty_before = chunk.dirty_pages;
  const auto committed = static_cast<unsigned>(chunk.committed_bytes / vm::kPageBytes);
  if (chunk.used_pages == 0) {
    static_cast<void>(vm::purge_pages(chunk, 0, committed));
    vm::purge_notes(chunk);
    return (dirty_before - chunk.dirty_pages) * vm::kPageBytes;
  }
  // Breaking up a huge page pays when most of it is free, or when it has been quiet: dirty memory that stays
  // for ever would keep every thread looking at the clock (thread_cache.h, "Modes").
  if (!everything && chunk.huge && chunk.active && chunk.dirty_pages < vm::kPagesPerChunk * 3 / 4) return 0;
  unsigned at = 0;
  while (at < kGranulesPerChunk) {
    const std::uint64_t rest = ~chunk.used[at / 64] >> (at % 64);
    if (rest == 0) {
      at = (at / 64 + 1) * 64;
      continue;
    }
    at += static_cast<unsigned>(std::countr_zero(rest));
    const std::uint64_t run_bits = ~(~chunk.used[at / 64] >> (at % 64));
    unsigned run = static_cast<unsigned>(std::countr_zero(run_bits));
    if (run > 64 - at % 64) run = 64 - at % 64;
    const unsigned first = at * kPagesPerGranule;
    unsigned pages = run * kPagesPerGranule;
    if (first < committed) {
      if (pages > committed - first) pages = committed - first;
      static_cast<void>(vm::purge_pages(chunk, first, pages));
    }
    at += run;
  }
  return (dirty_before - chunk.dirty_pages) * vm::kPageBytes;
}

void release_chunk(ChunkRecord& chunk) {
  vm::Region& region = *vm::region_of(chunk.base);
  pool.dirty.remove(chunk);
  pool.sets[&region - vm::regions].remove(chunk_number(region, chunk), chunk.fit - 1u);
  chunk.fit = kFull;
  --pool.chunks;
  vm::release_chunks(&chunk, 1);
}

}  // namespace

std::byte* take_granules(unsigned count, bool* is_zero) noexcept {
  os::Lock hold(pool.lock);
  vm::Region* region = nullptr;
  ChunkRecord* chunk = find_chunk(count, &region);
  if (chunk == nullptr) chunk = grow(&region);
  if (chunk == nullptr) return nullptr;
  const unsigned first = place_in_chunk(*chunk, count);
  if (!vm::commit_prefix(*chunk, static_cast<std::uint32_t>((first + count) * vm::kGranuleBytes)))
    return nullptr;
  mark(*chunk, first, count, true);
  *is_zero = vm::take_pages(*chunk, first * kPagesPerGranule, count * kPagesPerGranule);
  if (chunk->dirty_pages == 0) pool.dirty.remove(*chunk);
  refile(*region, *chunk);
  pool.used_granules += count;
  return chunk->base + std::size_t{first} * vm::kGranuleBytes;
}

void give_granules(std::byte* start, unsigned count) noexcept {
  os::Lock hold(pool.lock);
  vm::Region& region = *vm::region_of(start);
  ChunkRecord& chunk = *vm::chunk_of(region, start);
  CHECK(chunk.kind == ChunkKind::small);
  if (chunk.frozen) return;
  const unsigned first =
      static_cast<unsigned>(static_cast<std::size_t>(start - chunk.base) >> vm::kGranuleShift);
  mark(chunk, first, count, false);
  vm::give_pages(chunk, first * kPagesPerGranule, count * kPagesPerGranule);
  pool.dirty.update(chunk, static_cast<std::uint32_t>(os::clock_coarse_ms()));
  refile(region, chunk);
  pool.used_granules -= count;
}

std::size_t granules_purge(std::uint32_t now_ms, std::uint32_t delay_ms, unsigned budget) noexcept {
  const bool is_mine = pool.lock.held_by_me();      // called by before_growth() on our own behalf
  if (!is_mine && !pool.lock.try_lock()) return 0;  // somebody is at it; the next tick comes soon
  std::size_t purged = 0;
  for (unsigned i = 0; i < budget; ++i) {
    ChunkRecord* chunk = pool.dirty.pop_due(now_ms, delay_ms);
    if (chunk == nullptr) break;
    purged += purge_chunk(*chunk, delay_ms == 0);
    // What could not or should not be purged is looked at again after another delay.
    if (delay_ms != 0) pool.dirty.update(*chunk, now_ms);
  }
  if (!is_mine) pool.lock.unlock();
  return purged;
}

std::size_t granules_trim() noexcept {
  if (pool.lock.held_by_me()) return 0;
  os::Lock hold(pool.lock);
  std::size_t given = 0;
  for (ChunkRecord* chunk = pool.dirty.pop_any(); chunk != nullptr; chunk = pool.dirty.pop_any()) {
    given += purge_chunk(*chunk, true);
  }
  const unsigned regions_now = vm::region_count.load(std::memory_order_acquire);
  for (unsigned i = 0; i < regions_now; ++i) {
    if (pool.sets[i].low == nullptr) continue;
    for (std::int64_t n = pool.sets[i].lowest(kEmpty - 1u); n >= 0; n = pool.sets[i].lowest(kEmpty - 1u)) {
      ChunkRecord& chunk = *vm::chunk_of(
          vm::regions[i], vm::regions[i].chunk_base + static_cast<std::size_t>(n) * vm::kChunkBytes);
      given += chunk.committed_bytes;
      release_chunk(chunk);
    }
  }
  return given;
}

void granules_in_child() noexcept {
  if (!pool.lock.is_held() || pool.lock.held_by_me()) return;
  pool.lock.reset_in_child();
  pool.dirty.forget_all();
  pool.chunks = pool.used_granules = 0;  // from now on frozen chunks are not counted
  const unsigned regions_now = vm::region_count.load(std::memory_order_acquire);
  for (unsigned i = 0; i < regions_now; ++i) {
    const vm::Region& region = vm::regions[i];
    if (pool.sets[i].low == nullptr) continue;
    for (std::uint32_t c = 0; c < region.chunks_covered; ++c) {
      ChunkRecord& chunk = *vm::chunk_of(region, region.chunk_base + std::size_t{c} * vm::kChunkBytes);
      if (chunk.kind != ChunkKind::small) continue;
      for (unsigned set = 0; set < kFitSets; ++set) pool.sets[i].remove(c, set);
      chunk.frozen = true;
      chunk.fit = kFull;
    }
  }
}

GranuleStats granule_stats() noexcept {
  os::Lock hold(pool.lock);
  const std::size_t used = pool.used_granules * vm::kGranuleBytes;
  return {pool.chunks, used, pool.chunks * vm::kChunkBytes - used};
}

bool granules_validate() noexcept {
  os::Lock hold(pool.lock);
  std::size_t chunks = 0, used = 0;
  const unsigned regions_now = vm::region_count.load(std::memory_order_acquire);
  for (unsigned i = 0; i < regions_now; ++i) {
    const vm::Region& region = vm::regions[i];
    for (std::uint32_t c = 0; c < region.chunks_covered; ++c) {
      const ChunkRecord& chunk = *vm::chunk_of(region, region.chunk_base + std::size_t{c} * vm::kChunkBytes);
      if (chunk.kind != ChunkKind::small || chunk.frozen) continue;
      const unsigned here = count_bits(chunk.used[0]) + count_bits(chunk.used[1]);
      if (chunk.used_pages != here * kPagesPerGranule || chunk.fit != fit_of(chunk)) return false;
      const unsigned touched = vm::touched_pages(chunk, 0, vm::kPagesPerChunk);
      if (touched != chunk.dirty_pages + chunk.used_pages) return false;  // a used page is always touched
      ++chunks;
      used += here;
    }
  }
  return chunks == pool.chunks && used == pool.used_granules;
}

}  // namespace glebe::heap
