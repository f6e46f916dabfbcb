// The device heap, one behaviour at a time: sizes and alignments, caps, what trim gives back, misuse, counts.
#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <sstream>

#include "tests/heap_rig.h"
#include "tests/random.h"

namespace device_test {
namespace {

TEST_CASE("X1 device heap: sizes from 1 byte to the whole device, 256-byte alignment", "[device]") {
  on_heap(small_heap(), [](Rig& rig, DeviceHeap& heap) {
    for (const std::uint64_t size :
         {1ull, 255ull, 256ull, 257ull, 4096ull, 2097152ull, 2097153ull, 33554432ull}) {
      const cuda::DevicePointer block = take(heap, size);
      CHECK(block % 256 == 0);
      CHECK(heap.size_of(block) == glebe::align_up(size, 256));
      // The first and the last word are there.
      const std::uint64_t last = heap.size_of(block) - 4;
      REQUIRE(rig.store_word(block, 17, nullptr) == cuda::Result::success);
      REQUIRE(rig.store_word(block + last, 18, nullptr) == cuda::Result::success);
      CHECK(rig.read_word(block) == 17);
      CHECK(rig.read_word(block + last) == 18);
      CHECK(heap.free(block).ok());
    }
    CHECK(refusal(heap, 32 * kMiB + 1) == Status::out_of_memory);
    CHECK(heap.validate());
  });
}

TEST_CASE("P13 device heap: sizes that make no sense", "[device]") {
  on_heap(small_heap(), [](Rig&, DeviceHeap& heap) {
    CHECK(refusal(heap, 0) == Status::bad_argument);
    for (const std::uint64_t size :
         {UINT64_MAX, UINT64_MAX - 255, std::uint64_t{1} << 63, std::uint64_t{INT64_MAX},
          std::uint64_t{1} << 32, std::uint64_t{256 * kMiB + 1}}) {
      CHECK(refusal(heap, size) == Status::out_of_addresses);
    }
    CHECK(heap.stats().failures == 7);
    CHECK(heap.stats().space.creates == 0);
    CHECK(heap.stats().space.held_bytes == 0);
  });
}

TEST_CASE("P14 P4 device heap: every power of two as alignment, others refused", "[device]") {
  on_heap(small_heap(), [](Rig&, DeviceHeap& heap) {
    std::vector<cuda::DevicePointer> blocks;
    for (std::uint64_t align = 1; align <= 8 * kMiB; align *= 2) {
      blocks.push_back(take(heap, 300));  // so that nothing is aligned by chance
      blocks.push_back(take(heap, 300, align));
      CHECK(blocks.back() % align == 0);
    }
    CHECK(refusal(heap, 300, 16 * kMiB) == Status::bad_argument);
    for (const std::uint64_t align : {3ull, 100ull, 257ull, 768ull, 1ull << 63}) {
      CHECK(refusal(heap, 300, align) == Status::bad_argument);
    }
    CHECK(heap.validate());
    for (const cuda::DevicePointer block : blocks) CHECK(heap.free(block).ok());
  });
}

TEST_CASE("P3 mut-B05 device heap: the cap is exact and usable again", "[device]") {
  DeviceHeapOptions options = small_heap();
  options.limit_bytes = 5 * kGranule;
  on_heap(options, [](Rig& rig, DeviceHeap& heap) {
    for (int round = 0; round < 3; ++round) {
      std::vector<cuda::DevicePointer> blocks;
      for (unsigned i = 0; i < 5; ++i) blocks.push_back(take(heap, kGranule));
      CHECK(refusal(heap, 1) == Status::over_budget);
      CHECK(heap.budget().used_bytes() == 5 * kGranule);
      CHECK(rig.emulated->usage().device_bytes == 5 * kGranule);
      for (const cuda::DevicePointer block : blocks) CHECK(heap.free(block).ok());
      // The same memory in one piece, and in very small ones.
      const cuda::DevicePointer whole = take(heap, 5 * kGranule);
      CHECK(refusal(heap, 256) == Status::over_budget);
      CHECK(heap.free(whole).ok());
      CHECK(refusal(heap, 5 * kGranule + 1) == Status::over_budget);
    }
    CHECK(heap.budget().peak_bytes() == 5 * kGranule);
  });
}

TEST_CASE("P3 device heap: the headroom stays free, and a limit can change at any time", "[device]") {
  DeviceHeapOptions options = small_heap();
  options.headroom_bytes = 8 * kMiB;
  on_heap(options, [](Rig& rig, DeviceHeap& heap) {
    const cuda::DevicePointer block = take(heap, 24 * kMiB);
    CHECK(refusal(heap, 1) == Status::over_budget);
    CHECK(rig.emulated->usage().device_bytes == 24 * kMiB);
    CHECK(heap.free(block).ok());
    CHECK(heap.set_limit(0).status == Status::bad_argument);
    CHECK(heap.set_limit(8 * kMiB).ok());
    CHECK(rig.emulated->usage().device_bytes == 8 * kMiB);
    const cuda::DevicePointer half = take(heap, 8 * kMiB);
    CHECK(heap.set_limit(4 * kMiB).status == Status::in_use);
    CHECK(refusal(heap, 1) == Status::over_budget);
    CHECK(heap.free(half).ok());
    CHECK(heap.set_limit(4 * kMiB).ok());
    CHECK(rig.emulated->usage().device_bytes <= 4 * kMiB);
    CHECK(heap.set_limit(glebe::paging::kNoLimit).ok());
    CHECK(heap.free(take(heap, 24 * kMiB)).ok());
  });
}

TEST_CASE("P6 mut-B03 device heap: trim gives back chunks without blocks, and only those", "[device]") {
  on_heap(small_heap(), [](Rig& rig, DeviceHeap& heap) {
    std::vector<cuda::DevicePointer> blocks;
    for (unsigned i = 0; i < 8; ++i) blocks.push_back(take(heap, kMiB));
    for (unsigned i = 0; i < 8; ++i)
      REQUIRE(rig.store_word(blocks[i], 100 + i, nullptr) == cuda::Result::success);
    REQUIRE(heap.stats().space.held_bytes == 8 * kMiB);
    CHECK(heap.trim(0) == 0);
    for (const unsigned i : {1u, 2u, 3u}) CHECK(heap.free(blocks[i]).ok());  // blocks 2 and 3 shared a chunk
    CHECK(heap.stats().space.cached_bytes == kGranule);
    CHECK(heap.trim(kGranule) == 0);
    CHECK(heap.trim(0) == kGranule);
    CHECK(rig.emulated->usage().device_bytes == 6 * kMiB);
    for (const unsigned i : {0u, 4u, 5u, 6u, 7u}) CHECK(rig.read_word(blocks[i]) == 100 + i);
    for (const unsigned i : {0u, 4u, 5u, 6u, 7u}) CHECK(heap.free(blocks[i]).ok());
    CHECK(heap.stats().space.cached_bytes == 6 * kMiB);
    CHECK(heap.trim(0) == 6 * kMiB);
    CHECK(heap.stats().space.held_bytes == 0);
    CHECK(rig.emulated->usage().mappings == 0);
  });
}

TEST_CASE("P8 X6 device heap: a request that fails is refused, and fits later", "[device]") {
  on_heap(small_heap(), [](Rig&, DeviceHeap& heap) {
    const cuda::DevicePointer first = take(heap, 20 * kMiB);
    CHECK(refusal(heap, 20 * kMiB) == Status::out_of_memory);
    CHECK(heap.stats().live_bytes == 20 * kMiB);
    CHECK(heap.stats().failures == 1);
    CHECK(heap.validate());
    const cuda::DevicePointer rest = take(heap, 12 * kMiB);
    CHECK(refusal(heap, 1) == Status::out_of_memory);
    CHECK(heap.free(first).ok());
    CHECK(heap.free(take(heap, 20 * kMiB)).ok());
    CHECK(heap.free(rest).ok());
    CHECK(heap.free(take(heap, 32 * kMiB)).ok());
  });
}

struct Spare {
  DeviceHeap* heap = nullptr;
  std::vector<cuda::DevicePointer> blocks;
  unsigned asked = 0;
};

TEST_CASE("P8 device heap: the program is asked to free before a request fails", "[device]") {
  Spare spare;
  DeviceHeapOptions options = small_heap();
  options.context = &spare;
  options.reclaim = [](void* context, std::uint64_t) {
    auto& own = *static_cast<Spare*>(context);
    ++own.asked;
    if (own.blocks.empty()) return false;
    const bool is_freed = own.heap->free(own.blocks.back()).ok();
    own.blocks.pop_back();
    return is_freed;
  };
  on_heap(options, [&](Rig&, DeviceHeap& heap) {
    spare.heap = &heap;
    for (unsigned i = 0; i < 4; ++i) spare.blocks.push_back(take(heap, 8 * kMiB));
    const cuda::DevicePointer block = take(heap, 16 * kMiB);
    CHECK(spare.asked == 2);
    CHECK(refusal(heap, 24 * kMiB) == Status::out_of_memory);
    CHECK(spare.asked == 5);  // two blocks more, then nothing
    CHECK(heap.stats().failures == 1);
    CHECK(heap.free(block).ok());
  });
}

TEST_CASE("1-6 P8 device heap: memory that is freed in pieces serves one large block without a copy",
          "[device]") {
  on_heap(small_heap(), [](Rig& rig, DeviceHeap& heap) {
    std::vector<cuda::DevicePointer> blocks;
    for (unsigned i = 0; i < 16; ++i) blocks.push_back(take(heap, kGranule));
    const std::uint64_t creates = heap.stats().space.creates;
    for (unsigned i = 0; i < 16; i += 2) CHECK(heap.free(blocks[i]).ok());
    for (unsigned i = 1; i < 16; i += 2)
      REQUIRE(rig.store_word(blocks[i], 50 + i, nullptr) == cuda::Result::success);
    // 16 MiB are free, no two chunks of them neighbours.
    const cuda::DevicePointer large = take(heap, 16 * kMiB);
    CHECK(heap.stats().space.creates == creates);
    CHECK(heap.stats().space.chunks_remapped >= 7);
    REQUIRE(rig.store_word(large + 16 * kMiB - 4, 1, nullptr) == cuda::Result::success);
    for (unsigned i = 1; i < 16; i += 2) CHECK(rig.read_word(blocks[i]) == 50 + i);
    CHECK(refusal(heap, 1) == Status::out_of_memory);
    CHECK(heap.free(large).ok());
    for (unsigned i = 1; i < 16; i += 2) CHECK(heap.free(blocks[i]).ok());
  });
}

TEST_CASE("P9 P10 device heap: in the steady state nothing is created or mapped", "[device]") {
  on_heap(small_heap(), [](Rig&, DeviceHeap& heap) {
    const auto round = [&heap] {
      std::vector<cuda::DevicePointer> blocks;
      for (std::uint64_t i = 0; i < 40; ++i) blocks.push_back(take(heap, 1000 + i * i * 700));
      for (const cuda::DevicePointer block : blocks) CHECK(heap.free(block).ok());
    };
    round();
    const DeviceHeapStats before = heap.stats();
    for (unsigned i = 0; i < 50; ++i) round();
    const DeviceHeapStats after = heap.stats();
    CHECK(after.space.creates == before.space.creates);
    CHECK(after.space.maps == before.space.maps);
    CHECK(after.space.unmaps == before.space.unmaps);
    CHECK(after.space.set_accesses == before.space.set_accesses);
    CHECK(after.hits == before.hits + 50 * 40);
    CHECK(after.allocations == after.frees);
    CHECK(after.hits + after.misses == after.allocations);
    CHECK(after.live_bytes == 0);
    CHECK(after.requested_bytes == 0);
    CHECK(after.live_blocks == 0);
    CHECK(after.free_bytes == 0);
    CHECK(after.space.cached_bytes == after.space.mapped_bytes);
  });
}

TEST_CASE("K1 X7 device heap: each operation moves exactly its counters; peaks only rise", "[device]") {
  on_heap(small_heap(), [](Rig&, DeviceHeap& heap) {
    DeviceHeapStats stats = heap.stats();
    CHECK(stats.live_bytes + stats.allocations + stats.frees + stats.failures + stats.hits + stats.misses ==
          0);
    CHECK(stats.space.reserved_bytes == 256 * kMiB);
    HeapTag mesh = 0, again = 0, other = 0;
    REQUIRE(heap.tag("mesh", &mesh).ok());
    REQUIRE(heap.tag("mesh", &again).ok());
    REQUIRE(heap.tag("light", &other).ok());
    CHECK(mesh == again);
    CHECK(mesh != other);
    CHECK(heap.tag("", &other).status == Status::bad_argument);
    const cuda::DevicePointer first = take(heap, 1000, 0, mesh);
    const cuda::DevicePointer second = take(heap, 5 * kMiB, 0, other);
    stats = heap.stats();
    CHECK(stats.live_bytes == 1024 + 5 * kMiB);
    CHECK(stats.requested_bytes == 1000 + 5 * kMiB);
    CHECK(stats.space.creates == 3);
    CHECK(stats.space.maps == 3);
    CHECK(stats.space.set_accesses == 2);
    CHECK(stats.space.unmaps == 0);
    CHECK(stats.misses == 2);
    CHECK(stats.free_bytes == 6 * kMiB - stats.live_bytes);
    CHECK(stats.largest_free_bytes == stats.free_bytes);
    CHECK(stats.external_fragmentation == 0);
    CHECK(heap.tag_stats(mesh).live_bytes == 1024);
    CHECK(heap.tag_stats(mesh).name == "mesh");
    CHECK(heap.tag_stats(other).live_blocks == 1);
    CHECK(heap.free(second).ok());
    CHECK(heap.tag_stats(other).live_bytes == 0);
    CHECK(heap.tag_stats(other).peak_bytes == 5 * kMiB);
    stats = heap.stats();
    CHECK(stats.live_bytes == 1024);
    CHECK(stats.peak_live_bytes == 1024 + 5 * kMiB);
    CHECK(stats.space.peak_mapped_bytes == 6 * kMiB);
    CHECK(stats.frees == 1);
    heap.reset_peaks();
    CHECK(heap.stats().peak_live_bytes == 1024);
    CHECK(stats.peak_live_bytes == 1024 + 5 * kMiB);  // a snapshot stays what it was
    cuda::DevicePointer none = 0;
    CHECK(heap.allocate({100, 0, 7}, &none).status == Status::bad_argument);
    CHECK(heap.stats().failures == 1);
    CHECK(heap.free(first).ok());
  });
}

TEST_CASE("S11 mut-B14 device heap: double free, foreign and interior addresses", "[device]") {
  on_heap(small_heap(), [](Rig&, DeviceHeap& heap) {
    const cuda::DevicePointer small = take(heap, 1000);
    const cuda::DevicePointer other = take(heap, 1000);
    const cuda::DevicePointer large = take(heap, 9 * kMiB);
    CHECK(heap.free(small + 256).status == Status::not_owned);
    CHECK(heap.free(small + 1).status == Status::not_owned);
    CHECK(heap.free(large + kGranule).status == Status::not_owned);
    CHECK(heap.free(0).status == Status::not_owned);
    CHECK(heap.free(UINT64_MAX).status == Status::not_owned);
    CHECK(heap.free(heap.space().base() - 256).status == Status::not_owned);
    CHECK(heap.free(heap.space().base() + 200 * kMiB).status == Status::not_owned);
    CHECK(heap.free(small).ok());
    CHECK(heap.free(small).status == Status::double_free);
    CHECK(heap.free(large).ok());
    CHECK(heap.free(large).status == Status::double_free);
    CHECK(heap.free(other).ok());
    CHECK(heap.free(other).status == Status::double_free);  // its chunk holds nothing any more
    CHECK(heap.size_of(other) == 0);
    CHECK(heap.grow_in_place(other, 4096).status == Status::double_free);
    CHECK(heap.shrink(other, 10).status == Status::double_free);
    CHECK(heap.pin(large + 1).status == Status::not_owned);
    CHECK(heap.stats().misuses == 13);
    CHECK(heap.stats().frees == 3);
  });
}

TEST_CASE("S11 device heap: a double free is one of what was a block", "[device]") {
  on_heap(small_heap(), [](Rig&, DeviceHeap& heap) {
    Random random(test_seed());
    std::vector<cuda::DevicePointer> blocks;
    std::set<cuda::DevicePointer> given;
    unsigned refused = 0;
    for (int i = 0; i < 300; ++i) {
      cuda::DevicePointer block = 0;
      const std::uint64_t size = random.one_in(3) ? (1 + random.below(16)) * kMiB : 1 + random.below(kMiB);
      if (heap.allocate({size, 0, 0}, &block).ok()) {
        given.insert(block);
        blocks.push_back(block);
      } else {
        ++refused;
      }
      if (heap.allocate_mapped({size, 0, 0}, &block).ok()) {
        given.insert(block);
        blocks.push_back(block);
      }
      while (blocks.size() > random.below(12)) {
        const std::size_t at = random.below(blocks.size());
        REQUIRE(heap.free(blocks[at]).ok());
        REQUIRE(heap.free(blocks[at]).status == Status::double_free);
        if (at % 2 == 0) REQUIRE(heap.shrink(blocks[at], 1).status == Status::double_free);
        blocks[at] = blocks.back();
        blocks.pop_back();
      }
    }
    CHECK(refused > 0);
    for (const cuda::DevicePointer block : blocks) REQUIRE(heap.free(block).ok());
    // Starts of holes and chunks, and of requests that were refused, are no blocks and never were.
    Expect expect;
    const cuda::DevicePointer base = heap.space().base();
    for (cuda::DevicePointer at = base; at < base + 100 * kMiB; at += 256) {
      if (given.count(at) == 0) expect(heap.free(at).status == Status::not_owned);
    }
    REQUIRE(expect.failed_line() == 0);
  });
}

TEST_CASE("K4 device heap: the walk shows each block, the leak list what is left", "[device]") {
  using List = std::vector<HeapBlock>;
  List leaks;
  on_gpu(gpu_test::small(), [&](Rig& rig, Gpu& gpu) {
    DeviceHeapOptions options = small_heap();
    options.context = &leaks;
    options.leak = [](void* context, const HeapBlock& block) {
      static_cast<List*>(context)->push_back(block);
    };
    DeviceHeap heap;
    REQUIRE(heap.open(gpu, options).ok());
    HeapTag mesh = 0;
    REQUIRE(heap.tag("mesh", &mesh).ok());
    const cuda::DevicePointer first = take(heap, 700);
    const cuda::DevicePointer gone = take(heap, 3 * kMiB);
    const cuda::DevicePointer last = take(heap, 4 * kMiB + 5, 0, mesh);
    CHECK(heap.free(gone).ok());
    List blocks;
    heap.walk(
        [](void* context, const HeapBlock& block) {
          static_cast<List*>(context)->push_back(block);
          return true;
        },
        &blocks);
    REQUIRE(blocks.size() == 2);
    CHECK(blocks[0].address == first);
    CHECK(blocks[0].requested_bytes == 700);
    CHECK(blocks[0].size_bytes == 768);
    CHECK(blocks[1].address == last);
    CHECK(blocks[1].requested_bytes == 4 * kMiB + 5);
    CHECK(blocks[1].tag == mesh);
    CHECK(heap.close() == 2);
    REQUIRE(leaks.size() == 2);
    CHECK(leaks[1].address == last);
    CHECK(heap.close() == 0);
    CHECK(rig.emulated->usage().handles == 0);
    REQUIRE(heap.open(gpu, small_heap()).ok());  // can be opened again
    CHECK(heap.free(take(heap, 100)).ok());
  });
}

TEST_CASE("L6 device heap: blocks grow and shrink where they are", "[device]") {
  on_heap(small_heap(), [](Rig& rig, DeviceHeap& heap) {
    const cuda::DevicePointer block = take(heap, 1000);
    fill(rig, heap, block, 7);
    for (const std::uint64_t size : {1024ull, 1025ull, 2097152ull, 3000000ull, 12582912ull, 33554432ull}) {
      const std::uint64_t before_bytes = heap.size_of(block);
      CHECK(heap.grow_in_place(block, size).ok());
      CHECK(heap.size_of(block) == glebe::align_up(size, 256));
      CHECK(holds(rig, block, 7, before_bytes));
      fill(rig, heap, block, 7);
      CHECK(heap.validate());
    }
    CHECK(heap.grow_in_place(block, 33554433).status == Status::out_of_memory);
    CHECK(heap.size_of(block) == 32 * kMiB);
    CHECK(heap.grow_in_place(block, 257 * kMiB).status == Status::out_of_addresses);
    CHECK(heap.grow_in_place(block, 100).status == Status::bad_argument);
    CHECK(heap.shrink(block, 33 * kMiB).status == Status::bad_argument);
    CHECK(heap.shrink(block, 0).status == Status::bad_argument);
    CHECK(heap.shrink(block, 2500000).ok());
    CHECK(heap.validate());
    CHECK(heap.stats().live_bytes == heap.size_of(block));
    CHECK(heap.stats().requested_bytes == 2500000);
    const cuda::DevicePointer next = take(heap, 100);  // in the hole behind
    CHECK(next == block + heap.size_of(block));
    CHECK(heap.grow_in_place(block, 2600000).status == Status::out_of_addresses);
    CHECK(heap.free(next).ok());
    CHECK(holds(rig, block, 7, heap.size_of(block)));
    CHECK(heap.pin(block).ok());
    CHECK(heap.free(block).status == Status::in_use);
    CHECK(heap.shrink(block, 100).status == Status::in_use);
    CHECK(heap.unpin(block).ok());
    CHECK(heap.unpin(block).status == Status::bad_argument);
    CHECK(heap.free(block).ok());
  });
}

TEST_CASE("1-12 device heap: memory made ready in advance costs no call later", "[device]") {
  on_heap(small_heap(), [](Rig& rig, DeviceHeap& heap) {
    CHECK(heap.prewarm(16 * kMiB).ok());
    CHECK(heap.stats().space.cached_bytes == 16 * kMiB);
    CHECK(rig.emulated->usage().total_creates == 8);
    const std::uint64_t maps = heap.stats().space.maps;
    const cuda::DevicePointer block = take(heap, 16 * kMiB);
    CHECK(heap.stats().space.maps == maps);
    CHECK(heap.stats().hits == 1);
    CHECK(heap.prewarm(64 * kMiB).status == Status::out_of_memory);
    CHECK(heap.stats().space.held_bytes == 32 * kMiB);
    CHECK(heap.free(block).ok());
    CHECK(heap.trim(0) == 32 * kMiB);
  });
}

TEST_CASE("1-12 device heap: a source of blocks that can tell what it has at hand", "[device]") {
  on_heap(small_heap(), [](Rig&, DeviceHeap& heap) {
    const BlockSource source = heap.source();
    cuda::DevicePointer first = 0, second = 0;
    CHECK(source.allocate_idle(source.self, kMiB, 0, &first).status == Status::out_of_memory);
    REQUIRE(source.allocate(source.self, kMiB, 0, &first).ok());
    const std::uint64_t maps = heap.stats().space.maps;
    CHECK(source.allocate_idle(source.self, 2 * kMiB, 0, &second).status == Status::out_of_memory);
    CHECK(source.allocate_idle(source.self, 0, 0, &second).status == Status::bad_argument);
    CHECK(heap.validate());
    REQUIRE(source.allocate_idle(source.self, kMiB, 0, &second).ok());
    CHECK(heap.stats().space.maps == maps);
    CHECK(heap.stats().failures == 0);
    CHECK(heap.stats().live_bytes == kGranule);
    CHECK(source.free(source.self, first).ok());
    CHECK(source.free(source.self, second).ok());
    CHECK(source.trim(source.self, 0) == kGranule);
  });
}

TEST_CASE("1-20 device heap: the trace has a line for each call", "[device]") {
  using Lines = std::vector<std::string>;
  Lines lines;
  DeviceHeapOptions options = small_heap();
  options.context = &lines;
  options.trace = [](void* context, std::string_view line) {
    static_cast<Lines*>(context)->emplace_back(line);
  };
  on_heap(options, [&](Rig&, DeviceHeap& heap) {
    const cuda::DevicePointer block = take(heap, 1000);
    CHECK(refusal(heap, 64 * kMiB) == Status::out_of_memory);
    CHECK(heap.free(block).ok());
  });
  REQUIRE(lines.size() == 3);
  const char* actions[] = {",allocate,0x", ",allocate failure,0x0,67108864,0", ",free,0x"};
  for (unsigned i = 0; i < 3; ++i) {
    INFO(lines[i]);
    CHECK(lines[i].find(actions[i]) != std::string::npos);
    CHECK(std::count(lines[i].begin(), lines[i].end(), ',') == 5);
  }
  CHECK(lines[0].substr(lines[0].size() - 7) == ",1000,0");
  CHECK(lines[2].substr(lines[2].size() - 7) == ",1000,0");
}

// What a replay of the trace has live: size by address. False: a line that makes no sense then.
bool replay(const std::vector<std::string>& lines, std::map<std::uint64_t, std::uint64_t>& live) {
  for (const std::string& line : lines) {
    std::vector<std::string> fields;
    std::istringstream in(line);
    for (std::string field; std::getline(in, field, ',');) fields.push_back(field);
    if (fields.size() != 6) return false;
    const std::uint64_t address = std::stoull(fields[3], nullptr, 16), size = std::stoull(fields[4]);
    if (fields[2] == "allocate" && !live.emplace(address, size).second) return false;
    if (fields[2] == "free" && (live.count(address) == 0 || live[address] != size)) return false;
    if (fields[2] == "free") live.erase(address);
  }
  return true;
}

TEST_CASE("1-20 device heap: a replay of the trace has the same blocks", "[device]") {
  std::vector<std::string> lines;
  DeviceHeapOptions options = small_heap();
  options.context = &lines;
  options.trace = [](void* context, std::string_view line) {
    static_cast<std::vector<std::string>*>(context)->emplace_back(line);
  };
  on_heap(options, [&](Rig&, DeviceHeap& heap) {
    const cuda::DevicePointer block = take(heap, 1000);
    const cuda::DevicePointer low = take(heap, kGranule, kGranule);
    const cuda::DevicePointer whole = take(heap, kGranule, kGranule);
    CHECK(heap.shrink(block, 300).ok());
    CHECK(heap.grow_in_place(block, 500).ok());           // where memory is mapped
    CHECK(heap.grow_in_place(whole, 5 * kMiB - 7).ok());  // where it is not
    CHECK(heap.shrink(whole, 2 * kMiB).ok());
    CHECK(heap.free(low).ok());
    cuda::DevicePointer moved = 0;
    CHECK(heap.relocate(whole, &moved).ok());
    CHECK(heap.finish_relocation(whole).ok());
    std::map<std::uint64_t, std::uint64_t> live;
    CHECK(replay(lines, live));
    CHECK(live == std::map<std::uint64_t, std::uint64_t>{{block, 500}, {moved, 2 * kMiB}});
    CHECK(heap.free(block).ok());
    CHECK(heap.free(moved).ok());
  });
}

TEST_CASE("K5 device heap: options that make no sense", "[device]") {
  on_gpu(gpu_test::small(), [](Rig&, Gpu& gpu) {
    DeviceHeap heap;
    DeviceHeapOptions options = small_heap();
    options.fine_bytes = 3 * kMiB;
    CHECK(heap.open(gpu, options).status == Status::bad_argument);
    options = small_heap();
    options.fine_bytes = kMiB;
    CHECK(heap.open(gpu, options).status == Status::bad_argument);
    options = small_heap();
    options.coarse_bytes = kMiB;
    CHECK(heap.open(gpu, options).status == Status::bad_argument);
    options = small_heap();
    options.limit_bytes = 0;
    CHECK(heap.open(gpu, options).status == Status::bad_argument);
    options = small_heap();
    options.reserve_bytes = 8 * glebe::kTiB;
    CHECK(heap.open(gpu, options).status == Status::bad_argument);
    options.reserve_bytes = 2 * kGiB;  // more addresses than the machine has
    CHECK(heap.open(gpu, options).status == Status::out_of_addresses);
    CHECK(heap.open(gpu, small_heap()).ok());
  });
}

}  // namespace
}  // namespace device_test
