// Address space: chunks and their memory, the ledger, the directory, regions, dirty lists. What needs a fresh
// process or a system that refuses is in heap_fresh_linux_test.cpp.
#include <algorithm>
#include <cstring>
#include <vector>

#include "platform/vm.h"
#include "src/vm/chunk.h"
#include "src/vm/directory.h"
#include "src/vm/ledger.h"
#include "src/vm/metadata.h"

#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;
using namespace glebe::vm;

namespace {

struct LedgerNow {
  std::size_t committed, dirty;
  LedgerNow()
      : committed(ledger.committed_bytes.load() - ledger.metadata_bytes.load()),
        dirty(ledger.dirty_bytes.load()) {}
  friend bool operator==(const LedgerNow&, const LedgerNow&) = default;
};

struct NoHugePages {
  ChunkPolicy before = chunk_policy;
  NoHugePages() { chunk_policy.huge_pages = false; }
  ~NoHugePages() { chunk_policy = before; }
  NoHugePages(const NoHugePages&) = delete;
  NoHugePages& operator=(const NoHugePages&) = delete;
};

std::uint32_t u32(std::size_t value) { return static_cast<std::uint32_t>(value); }

bool is_zero(const void* at, std::size_t size_bytes) {
  const auto* bytes = static_cast<const char*>(at);
  return bytes[0] == 0 && std::memcmp(bytes, bytes + 1, size_bytes - 1) == 0;
}

}  // namespace

TEST_CASE("V1 V2 a chunk is committed, written, purged, recommitted as zero, and leaves the ledger as it was",
          "[vm]") {
  const LedgerNow before;
  ChunkRecord* chunk = acquire_chunks(1, ChunkKind::small, 0);
  REQUIRE(chunk != nullptr);
  REQUIRE(chunk->committed_bytes == 0);
  REQUIRE(LedgerNow() == before);
  REQUIRE(commit_prefix(*chunk, 256 * kKiB));
  REQUIRE(chunk->committed_bytes >= 256 * kKiB);
  REQUIRE(LedgerNow().committed == before.committed + chunk->committed_bytes);
  REQUIRE(os::resident_bytes(chunk->base, chunk->committed_bytes) == 0);
  REQUIRE(take_pages(*chunk, 0, 64));
  std::memset(chunk->base, 0xC3, 256 * kKiB);
  REQUIRE(os::resident_bytes(chunk->base, 256 * kKiB) == 256 * kKiB);
  give_pages(*chunk, 0, 64);
  REQUIRE(LedgerNow().dirty == before.dirty + 256 * kKiB);
  const std::size_t purged = ledger.purged_bytes_total.load();
  REQUIRE(purge_pages(*chunk, 0, 64));
  REQUIRE(ledger.purged_bytes_total.load() == purged + 256 * kKiB);
  REQUIRE(LedgerNow().dirty == before.dirty);
  REQUIRE(os::resident_bytes(chunk->base, 256 * kKiB) == 0);
  REQUIRE(is_zero(chunk->base, 256 * kKiB));
  std::byte* const base = chunk->base;
  std::memset(base, 0xC3, 4096);
  REQUIRE(take_pages(*chunk, 0, 1));
  give_pages(*chunk, 0, 1);
  release_chunks(chunk, 1);
  REQUIRE(LedgerNow() == before);
  chunk = acquire_chunks(1, ChunkKind::medium, 3);
  REQUIRE(chunk->base == base);  // best fit: the same place
  REQUIRE(commit_prefix(*chunk, 4096));
  REQUIRE(is_zero(base, 4096));
  release_chunks(chunk, 1);
  REQUIRE(LedgerNow() == before);
}

TEST_CASE("V3 commit is idempotent, only grows, and covers what was asked across chunks", "[vm]") {
  const LedgerNow before;
  ChunkRecord* chunks = acquire_chunks(3, ChunkKind::medium, 1);
  REQUIRE(chunks != nullptr);
  REQUIRE(commit_prefix(*chunks, 100'000 / 4096 * 4096));
  const std::uint32_t committed = chunks->committed_bytes;
  REQUIRE(commit_prefix(*chunks, 4096));
  REQUIRE(commit_prefix(*chunks, committed));
  REQUIRE(chunks->committed_bytes == committed);
  Region& region = *region_of(chunks->base);
  const std::size_t start = kChunkBytes - 8192;
  REQUIRE(commit_range(region, chunks->base + start, kChunkBytes + 16384));
  REQUIRE(chunks[0].committed_bytes == kChunkBytes);
  REQUIRE(chunks[1].committed_bytes == kChunkBytes);
  REQUIRE(chunks[2].committed_bytes >= 8192);
  std::memset(chunks->base + start, 1, kChunkBytes + 16384);
  std::size_t sum = 0;
  for (unsigned i = 0; i < 3; ++i) sum += chunks[i].committed_bytes;
  REQUIRE(LedgerNow().committed == before.committed + sum);
  release_chunks(chunks, 3);
  REQUIRE(LedgerNow() == before);
}

namespace {

// Chunks and what their pages are said to be, next to what the ledger says.
class ChunkModel {
 public:
  explicit ChunkModel(std::uint64_t seed) : random_(seed) {}

  void step() {
    if (owned_.size() < 3 || (owned_.size() < 12 && random_.one_in(20))) {
      owned_.push_back({acquire_chunks(1, ChunkKind::small, 0)});
      if (!expect(owned_.back().chunk != nullptr)) return;
    }
    const std::size_t which = random_.below(owned_.size());
    change(owned_[which]);
    check();
    if (!random_.one_in(200)) return;
    give_back(owned_[which]);
    owned_[which] = owned_.back();
    owned_.pop_back();
  }
  void finish() {
    for (Owned& each : owned_) give_back(each);
    owned_.clear();
  }

  Expect expect;

 private:
  struct Owned {
    ChunkRecord* chunk;
    std::vector<bool> used = std::vector<bool>(kPagesPerChunk), touched = std::vector<bool>(kPagesPerChunk);
  };

  static long count_in(const std::vector<bool>& bits, unsigned first, unsigned count) {
    return std::count(bits.begin() + first, bits.begin() + first + count, true);
  }
  static void set(std::vector<bool>& bits, unsigned first, unsigned count, bool value) {
    std::fill(bits.begin() + first, bits.begin() + first + count, value);
  }

  // Takes, gives or purges a run of pages, whichever the run allows.
  void change(Owned& at) {
    const unsigned first = random_.below32(kPagesPerChunk);
    const unsigned count = 1 + random_.below32(std::min(64u, kPagesPerChunk - first));
    const long used = count_in(at.used, first, count);
    const std::size_t end_bytes = (first + count) * kPageBytes;
    if (used == static_cast<long>(count)) {
      give_pages(*at.chunk, first, count);
      set(at.used, first, count, false);
    } else if (used == 0 && random_.one_in(2)) {
      expect(commit_prefix(*at.chunk, u32(end_bytes)));
      expect(take_pages(*at.chunk, first, count) == (count_in(at.touched, first, count) == 0));
      set(at.used, first, count, true);
      set(at.touched, first, count, true);
    } else if (used == 0 && end_bytes <= at.chunk->committed_bytes) {
      expect(purge_pages(*at.chunk, first, count));
      set(at.touched, first, count, false);
    }
    expect(touched_pages(*at.chunk, first, count) == count_in(at.touched, first, count));
  }

  void check() {
    std::size_t committed = 0, dirty = 0;
    for (const Owned& each : owned_) {
      unsigned pages = 0;
      for (unsigned p = 0; p < kPagesPerChunk; ++p) pages += each.touched[p] && !each.used[p];
      expect(each.chunk->dirty_pages == pages);
      expect(each.chunk->used_pages == count_in(each.used, 0, kPagesPerChunk));
      committed += each.chunk->committed_bytes;
      dirty += pages * kPageBytes;
    }
    const LedgerNow now;
    expect(now.committed == start_.committed + committed && now.dirty == start_.dirty + dirty);
  }

  static void give_back(Owned& at) {
    for (unsigned p = 0; p < kPagesPerChunk; ++p) {
      if (at.used[p]) give_pages(*at.chunk, p, 1);
    }
    release_chunks(at.chunk, 1);
  }

  Random random_;
  LedgerNow start_;
  std::vector<Owned> owned_;
};

}  // namespace

TEST_CASE("V2 mut-E05 the ledger equals a recount after any mixture of calls", "[vm]") {
  NoHugePages no_huge_pages;
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  const LedgerNow before;
  ChunkModel model(seed);
  for (unsigned step = 0; step < 4000; ++step) model.step();
  model.finish();
  REQUIRE(model.expect.failed_line() == 0);
  REQUIRE(LedgerNow() == before);
}

TEST_CASE("V6 regions and large sub-ranges are aligned, and their parts do not overlap", "[vm]") {
  REQUIRE(ensure_primary());
  const unsigned count = region_count.load();
  for (unsigned i = 0; i < count; ++i) {
    const Region& region = regions[i];
    REQUIRE(is_aligned(reinterpret_cast<std::uintptr_t>(region.chunk_base), kChunkBytes));
    const std::byte* end = region.base + region.large.size_bytes() + region.mapped_zone_bytes;
    REQUIRE(region.metadata == end);
    end += region.metadata_bytes;
    for (unsigned t = 0; t < kTableCount; ++t) {
      const Table& table = region.tables[t];
      const std::byte* start = t == kDirectory ? table.start - table.reserved_bytes : table.start;
      REQUIRE(start >= end);
      end = start + table.reserved_bytes;
    }
    REQUIRE(end == region.chunk_base);
    REQUIRE(region.chunk_base + region.chunk_count * kChunkBytes <= region.base + region.reserved_bytes);
    if (region.large.base != nullptr) {
      const std::size_t subrange = std::size_t{1} << region.large.subrange_shift;
      REQUIRE(is_aligned(reinterpret_cast<std::uintptr_t>(region.large.base), subrange));
    }
  }
}

TEST_CASE("the directory tells the owner of an address and no other", "[vm]") {
  ChunkRecord* chunk = acquire_chunks(2, ChunkKind::medium, 0);
  REQUIRE(chunk != nullptr);
  Region& region = *region_of(chunk->base);
  for (const std::size_t offset :
       {std::size_t{0}, std::size_t{1}, kGranuleBytes, kChunkBytes, 2 * kChunkBytes - 1}) {
    REQUIRE(entry_of(chunk->base + offset) == kEntryMedium);
  }
  set_entries(region, region.granule_of(chunk->base) + 5, 3, 0x12340);
  REQUIRE(entry_of(chunk->base + 5 * kGranuleBytes) == 0x12340);
  REQUIRE(entry_of(chunk->base + 8 * kGranuleBytes - 1) == 0x12340);
  REQUIRE(entry_of(chunk->base + 5 * kGranuleBytes - 1) == kEntryMedium);
  REQUIRE(entry_of(chunk->base + 8 * kGranuleBytes) == kEntryMedium);
  release_chunks(chunk, 2);
  REQUIRE(entry_of(chunk->base) == kEntryNone);
  REQUIRE(entry_of(chunk->base + 6 * kGranuleBytes) == kEntryNone);
  int on_stack = 0;
  const Region& primary = regions[0];
  const void* const foreign[] = {nullptr,
                                 &on_stack,
                                 reinterpret_cast<void*>(~std::uintptr_t{0}),
                                 reinterpret_cast<void*>(std::uintptr_t{1} << 63),
                                 primary.base,
                                 primary.chunk_base - 1,
                                 primary.chunk_base + primary.chunk_count * kChunkBytes,
                                 primary.chunk_base + std::size_t{primary.chunks_covered} * kChunkBytes};
  for (const void* address : foreign) REQUIRE(entry_of(address) == kEntryNone);
}

TEST_CASE("addresses of several regions find their region and their entries", "[vm]") {
  REQUIRE(ensure_primary());
  const std::size_t requested = requested_chunk_space_bytes;
  const std::size_t reserved = ledger.reserved_bytes.load();
  requested_chunk_space_bytes = 8 * kMiB;
  Region* added[2] = {};
  {
    os::Lock hold(region_lock);
    added[0] = add_region(1);
    added[1] = add_region(20);  // larger than asked for in general
    REQUIRE(added[0] != nullptr);
    REQUIRE(added[1] != nullptr);
    REQUIRE(cover_chunks(*added[0], 2));
  }
  requested_chunk_space_bytes = requested;
  REQUIRE(added[0]->chunk_count == 4);
  REQUIRE(added[1]->chunk_count == 20);
  REQUIRE(added[0]->large.base == nullptr);
  REQUIRE(ledger.reserved_bytes.load() == reserved + added[0]->reserved_bytes + added[1]->reserved_bytes);
  for (Region* region : added) {
    const std::size_t bytes = region->chunk_count * kChunkBytes;
    REQUIRE(region_of(region->chunk_base) == region);
    REQUIRE(region_of(region->chunk_base + bytes - 1) == region);
    REQUIRE(region_of(region->chunk_base + bytes) != region);
    REQUIRE(region_of(region->chunk_base - 1) != region);
    REQUIRE(entry_of(region->chunk_base + bytes - 1) == kEntryNone);
  }
  set_entries(*added[0], 0, 2, 0x5550);
  REQUIRE(entry_of(added[0]->chunk_base) == 0x5550);
  REQUIRE(entry_of(added[0]->chunk_base + 2 * kGranuleBytes - 1) == 0x5550);
  REQUIRE(entry_of(added[0]->chunk_base + 2 * kGranuleBytes) == kEntryNone);
  REQUIRE(entry_of(added[1]->chunk_base) == kEntryNone);
  set_entries(*added[0], 0, 2, kEntryNone);
  REQUIRE(region_of(regions[0].chunk_base) == &regions[0]);
}

TEST_CASE("records of our own are zero, aligned, apart and counted", "[vm]") {
  const std::size_t before = ledger.metadata_bytes.load();
  std::vector<std::byte*> records;
  std::size_t sum = 0;
  for (std::size_t align = 1; align <= 64 * kKiB; align *= 2) {
    auto* at = static_cast<std::byte*>(metadata_allocate(1000, align));
    REQUIRE(at != nullptr);
    REQUIRE(is_aligned(reinterpret_cast<std::uintptr_t>(at), align));
    REQUIRE(is_zero(at, 1000));
    std::memset(at, 0xAB, 1000);
    records.push_back(at);
    sum += 1000;
  }
  std::sort(records.begin(), records.end());
  for (std::size_t i = 1; i < records.size(); ++i) REQUIRE(records[i] - records[i - 1] >= 1000);
  REQUIRE(ledger.metadata_bytes.load() >= before);
  REQUIRE(regions[0].metadata_used <= regions[0].metadata_committed);
  REQUIRE(sum <= regions[0].metadata_used);
  REQUIRE(metadata_allocate(std::size_t{1} << 60, 64) == nullptr);
}

TEST_CASE("P8 a run of chunks that no region can hold is refused and nothing changes", "[vm]") {
  REQUIRE(ensure_primary());
  const LedgerNow before;
  const unsigned regions_before = region_count.load();
  REQUIRE(acquire_chunks(0, ChunkKind::small, 0) == nullptr);
  REQUIRE(acquire_chunks(~0u, ChunkKind::small, 0) == nullptr);  // 8 PiB
  REQUIRE(region_count.load() == regions_before);
  REQUIRE(LedgerNow() == before);
  ChunkRecord* chunk = acquire_chunks(1, ChunkKind::small, 0);
  REQUIRE(chunk != nullptr);
  release_chunks(chunk, 1);
}

TEST_CASE("a dirty list gives the oldest chunk, after its delay and its second chances", "[vm]") {
  ChunkRecord chunks[3] = {};
  DirtyList list;
  for (ChunkRecord& chunk : chunks) chunk.dirty_pages = chunk.used_pages = 1;
  list.update(chunks[0], 100);
  list.update(chunks[1], 110);
  list.update(chunks[2], 120);
  list.update(chunks[0], 130);  // listed already: keeps its age
  REQUIRE(list.pop_due(340, 250) == nullptr);
  REQUIRE(list.pop_due(350, 250) == &chunks[0]);
  chunks[1].active = true;
  REQUIRE(list.pop_due(370, 250) == &chunks[2]);
  // chunks[1] was put off three times as long as it stays active.
  REQUIRE(list.pop_due(619, 250) == nullptr);
  chunks[1].active = true;
  REQUIRE(list.pop_due(620, 250) == nullptr);
  chunks[1].active = true;
  REQUIRE(list.pop_due(870, 250) == nullptr);
  chunks[1].active = true;
  REQUIRE(list.pop_due(1120, 250) == &chunks[1]);
  REQUIRE(list.is_empty());
  list.update(chunks[1], 0xFFFFFFF0u);  // the clock wraps
  REQUIRE(list.pop_due(0xFFFFFFFFu, 250) == nullptr);
  REQUIRE(list.pop_due(300, 250) == &chunks[1]);
  list.update(chunks[0], 1);
  list.update(chunks[2], 2);
  chunks[0].dirty_pages = 0;
  list.update(chunks[0], 3);
  REQUIRE(list.pop_any() == &chunks[2]);
  REQUIRE(list.pop_any() == nullptr);
  list.remove(chunks[0]);  // not listed: nothing happens
  chunks[0].dirty_pages = 1;
  list.update(chunks[0], 4);
  chunks[0].active = true;
  REQUIRE(list.pop_due(4, 0) == &chunks[0]);  // no delay, no second chance
}

TEST_CASE("V2 huge pages are asked for when the heap is large enough, and the ledger stays exact", "[vm]") {
  const ChunkPolicy policy = chunk_policy;
  const LedgerNow before;
  const std::size_t huge_before = ledger.huge_chunks.load();
  chunk_policy = {std::size_t{1} << 60, true};
  ChunkRecord* small_heap = acquire_chunks(1, ChunkKind::small, 0);
  consider_huge(*small_heap);
  REQUIRE_FALSE(small_heap->huge);
  chunk_policy = {0, false};
  consider_huge(*small_heap);
  REQUIRE_FALSE(small_heap->huge);
  REQUIRE(small_heap->committed_bytes == 0);
  chunk_policy = {0, true};
  ChunkRecord* large_heap = acquire_chunks(1, ChunkKind::small, 0);
  consider_huge(*large_heap);
  const bool is_huge = large_heap->huge;
  const bool is_supported = os::huge_pages_on_advice();
  REQUIRE(large_heap->committed_bytes == (is_huge ? kChunkBytes : 0));
  REQUIRE(LedgerNow().committed == before.committed + large_heap->committed_bytes);
  REQUIRE(ledger.huge_chunks.load() == huge_before + (is_huge ? 1 : 0));
  if (!is_supported) REQUIRE_FALSE(is_huge);
  release_chunks(large_heap, 1);
  release_chunks(small_heap, 1);
  chunk_policy = policy;
  REQUIRE(ledger.huge_chunks.load() == huge_before);
  REQUIRE(LedgerNow() == before);
}
