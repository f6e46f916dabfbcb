// The whole heap looked at: walk, validate, statistics.
#include <algorithm>
#include <map>
#include <set>
#include <thread>
#include <vector>

#include "src/heap/granule_pool.h"
#include "src/heap/small.h"
#include "src/vm/chunk.h"
#include "src/vm/directory.h"
#include "tests/heap_calls.h"

#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;
using namespace glebe::heap;

namespace {

using Walked = std::map<void*, std::size_t>;

Walked walk_all() {
  // The visitor does not use glebe, but std::map uses libc's malloc, which is another heap.
  Walked walked;
  walk(
      [](void* context, const BlockVisit& block) {
        static_cast<Walked*>(context)->emplace(block.address, block.size_bytes);
      },
      &walked);
  return walked;
}

SmallStats small_now() {
  SmallStats stats;
  small_stats(stats);
  return stats;
}

}  // namespace

TEST_CASE("K4 a walk visits every live block with its usable size, and nothing else", "[heap]") {
  static_cast<void>(trim());
  const Walked before = walk_all();
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Heap* heap = create_heap();
  std::vector<void*> live;
  for (unsigned i = 0; i < 4000; ++i) {
    const std::size_t size = random.one_in(100) ? 1 + random.below(3'000'000) : 1 + random.below(5000);
    live.push_back(i % 5 == 0 ? allocate_from(heap, size, 0) : allocate(size));
    if (i == 2000) live.push_back(allocate(35 * kMiB));
    if (!random.one_in(3)) continue;
    const std::size_t at = random.below(live.size());
    release(live[at]);
    live[at] = live.back();
    live.pop_back();
  }
  const Walked now = walk_all();
  REQUIRE(now.size() == before.size() + live.size());
  Expect expect;
  for (void* block : live) {
    const auto found = now.find(block);
    expect(found != now.end() && found->second == usable_bytes(block));
  }
  REQUIRE(expect.failed_line() == 0);
  // The leak list: what was not freed, exactly.
  std::set<void*> leaked(live.begin(), live.begin() + 7);
  for (std::size_t i = 7; i < live.size(); ++i) release(live[i]);
  std::set<void*> listed;
  for (const auto& [address, size] : walk_all()) {
    if (before.count(address) == 0) listed.insert(address);
  }
  REQUIRE(listed == leaked);
  for (void* block : leaked) release(block);
  destroy_heap(heap);
  REQUIRE(walk_all() == before);
}

TEST_CASE("K4 validate finds a changed bitmap, counter, list and class of a slab", "[heap]") {
  Heap* heap = create_heap();
  std::vector<void*> blocks;
  for (unsigned i = 0; i < 100; ++i) blocks.push_back(allocate_from(heap, 512, 0));
  const unsigned c = class_of(512);
  SlabRecord& slab = *slab_of(blocks[0], c);
  REQUIRE(validate());
  SECTION("a bit of a live block") {
    bitmap_of(slab)[0] ^= 1;
    REQUIRE_FALSE(validate());
    bitmap_of(slab)[0] ^= 1;
  }
  SECTION("a bit behind the last block") {
    const std::uint32_t word = placement::FixedSlab::word_count(slab.blocks.block_count) - 1;
    const std::uint32_t bits = slab.blocks.block_count % 64;
    REQUIRE(slab_of(blocks[0], c)->blocks.block_count == 32);
    bitmap_of(slab)[word] ^= std::uint64_t{1} << bits;
    REQUIRE_FALSE(validate());
    bitmap_of(slab)[word] ^= std::uint64_t{1} << bits;
  }
  SECTION("the count of free blocks") {
    ++slab.blocks.free_count;
    REQUIRE_FALSE(validate());
    --slab.blocks.free_count;
  }
  SECTION("the count of slabs") {
    ++heap->slab_count;
    REQUIRE_FALSE(validate());
    --heap->slab_count;
  }
  SECTION("the note whether a slab is listed as available") {
    slab.is_available = !slab.is_available;
    REQUIRE_FALSE(validate());
    slab.is_available = !slab.is_available;
  }
  SECTION("the size class of a slab") {
    slab.size_class = static_cast<std::uint8_t>(c + 1);
    REQUIRE_FALSE(validate());
    slab.size_class = static_cast<std::uint8_t>(c);
  }
  REQUIRE(validate());
  destroy_heap(heap);
  REQUIRE(validate());
}

TEST_CASE("K4 validate finds a changed directory entry and a changed chunk record", "[heap]") {
  Heap* heap = create_heap();
  void* block = allocate_from(heap, 512, 0);
  SlabRecord& slab = *slab_of(block, class_of(512));
  REQUIRE(validate());
  SECTION("a directory entry") {
    const vm::Region& region = *vm::region_of(slab.start);
    const std::uintptr_t entry = vm::entry_of(slab.start);
    vm::set_entries(region, region.granule_of(slab.start), 1, entry + sizeof(Slot));
    REQUIRE_FALSE(validate());
    vm::set_entries(region, region.granule_of(slab.start), 1, entry);
  }
  SECTION("the pages of a chunk") {
    vm::ChunkRecord& chunk = *vm::chunk_of(*vm::region_of(slab.start), slab.start);
    ++chunk.used_pages;
    REQUIRE_FALSE(validate());
    --chunk.used_pages;
    chunk.used[1] ^= std::uint64_t{1} << 63;
    REQUIRE_FALSE(validate());
    chunk.used[1] ^= std::uint64_t{1} << 63;
    const std::size_t page = static_cast<std::size_t>(slab.start - chunk.base) / vm::kPageBytes;
    chunk.touched[page / 64] ^= std::uint64_t{1} << (page % 64);
    REQUIRE_FALSE(validate());
    chunk.touched[page / 64] ^= std::uint64_t{1} << (page % 64);
  }
  REQUIRE(validate());
  destroy_heap(heap);
  REQUIRE(validate());
}

TEST_CASE("K4 validate finds a lost carved block of a thread's heap", "[heap]") {
  void* block = allocate(100);
  Heap& own = *own_heap();
  REQUIRE(validate());
  ++own.blocks_carved;
  REQUIRE_FALSE(validate());
  --own.blocks_carved;
  REQUIRE(validate());
  release(block);
}

TEST_CASE("K1 each operation moves exactly its counters, and a snapshot is independent", "[heap]") {
  static_cast<void>(trim());
  const SmallStats start = small_now();
  const MediumStats medium_start = medium_stats();
  const LargeStats large_start = large_stats();
  const unsigned c = class_of(1000);
  void* small = allocate(1000);
  const SmallStats one = small_now();
  REQUIRE(one.live_blocks == start.live_blocks + 1);
  REQUIRE(one.live_bytes == start.live_bytes + class_bytes(c));
  REQUIRE(one.classes[c].live_blocks == start.classes[c].live_blocks + 1);
  REQUIRE(one.classes[c].slabs == start.classes[c].slabs + 1);
  const std::size_t blocks = class_infos[c].blocks;
  REQUIRE(one.classes[c].free_blocks + one.classes[c].cached_blocks + 1 ==
          start.classes[c].free_blocks + start.classes[c].cached_blocks + blocks);
  release(small);
  const SmallStats none = small_now();
  REQUIRE(none.live_blocks == start.live_blocks);
  REQUIRE(none.classes[c].cached_blocks >= 1);
  REQUIRE(one.live_blocks == start.live_blocks + 1);  // the snapshot did not change
  void* medium = allocate(100'000);
  REQUIRE(medium_stats().live_bytes == medium_start.live_bytes + usable_bytes(medium));
  REQUIRE(medium_stats().allocations == medium_start.allocations + 1);
  release(medium);
  static_cast<void>(trim());
  REQUIRE(medium_stats().live_bytes == medium_start.live_bytes);
  REQUIRE(medium_stats().frees == medium_start.frees + 1);
  void* large = allocate(50 * kMiB);
  REQUIRE(large_stats().live_blocks == large_start.live_blocks + 1);
  REQUIRE(large_stats().live_bytes >= large_start.live_bytes + 50 * kMiB);
  release(large);
  REQUIRE(large_stats().live_blocks == large_start.live_blocks);
  REQUIRE(large_stats().frees == large_start.frees + 1);
}

TEST_CASE("K1 the peak of committed bytes only rises", "[heap]") {
  const std::size_t peak = vm::ledger.committed_peak_bytes.load();
  REQUIRE(peak >= vm::ledger.committed_bytes.load());
  void* block = allocate(30 * kMiB);
  const std::size_t after = vm::ledger.committed_peak_bytes.load();
  REQUIRE(after >= vm::ledger.committed_bytes.load());
  release(block);
  static_cast<void>(trim());
  REQUIRE(vm::ledger.committed_peak_bytes.load() == after);
}

TEST_CASE("K3 allocation cycles like those of a renderer return to the baseline", "[heap]") {
  std::vector<void*> frame;
  const HeapCounts before = trimmed_counts();
  std::size_t metadata = 0;
  for (unsigned cycle = 0; cycle < 30; ++cycle) {
    for (unsigned i = 0; i < 300; ++i) frame.push_back(allocate(1 + i * i));
    for (unsigned i = 0; i < 5; ++i) frame.push_back(allocate((cycle % 5 + 1) * 700'000));
    if (cycle % 2 == 0) std::reverse(frame.begin(), frame.end());
    for (void* block : frame) release(block);
    frame.clear();
    if (cycle == 9) metadata = vm::ledger.metadata_bytes.load();
    if (cycle % 10 == 9) REQUIRE(trimmed_counts() == before);
  }
  REQUIRE(vm::ledger.metadata_bytes.load() == metadata);
}

TEST_CASE("P11 P12 every order of frees and 95 % pressure give everything back", "[heap]") {
  const HeapCounts before = trimmed_counts();
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  constexpr std::size_t kBudget = 64 * kMiB;
  for (unsigned order = 0; order < 4; ++order) {
    std::vector<void*> live;
    std::size_t bytes = 0;
    const auto fill = [&] {
      while (bytes < kBudget / 100 * 95) {
        live.push_back(allocate(1 + random.below(random.one_in(20) ? 200'000 : 3000)));
        bytes += usable_bytes(live.back());
      }
    };
    fill();
    for (std::size_t i = 0; i < live.size() / 2; ++i) {
      std::size_t at = live.size() - 1;                          // last in, first out
      if (order == 1) at = i;                                    // first in, first out
      if (order == 2) at = random.below(live.size());            // random
      if (order == 3) at = i / 64 * 128 % live.size() + i % 64;  // bursts
      if (at >= live.size()) at = live.size() - 1;
      bytes -= usable_bytes(live[at]);
      release(live[at]);
      live[at] = live.back();
      live.pop_back();
    }
    fill();
    REQUIRE(validate());
    for (void* block : live) release(block);
    REQUIRE(trimmed_counts() == before);
  }
}
