// First-class heaps: blocks of every size, use from several threads, destruction with everything that is
// live.
#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "src/heap/small.h"
#include "tests/heap_calls.h"

#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;
using namespace glebe::heap;

TEST_CASE("P1 a heap is created, knows its blocks and is gone after it was destroyed", "[heap]") {
  const HeapCounts before = trimmed_counts();
  Heap* heap = create_heap();
  REQUIRE(heap != nullptr);
  REQUIRE(is_first_class(heap));
  void* const outside = allocate(100);
  std::vector<void*> blocks;
  for (const std::size_t size : {1u, 100u, 32'768u, 40'000u, 1'000'000u, 40'000'000u}) {
    blocks.push_back(allocate_from(heap, size, 0));
    REQUIRE(blocks.back() != nullptr);
    REQUIRE(usable_bytes(blocks.back()) >= size);
    REQUIRE(heap_of(blocks.back()) == heap);
    std::memset(blocks.back(), 0x77, size);
  }
  REQUIRE(heap_of(outside) == nullptr);
  release(blocks[1]);
  release(blocks[3]);
  REQUIRE(validate());
  destroy_heap(heap);
  REQUIRE_FALSE(is_first_class(heap));
  REQUIRE(usable_bytes(blocks[0]) == 0);
  REQUIRE(usable_bytes(blocks[5]) == 0);
  release(outside);
  REQUIRE(validate());
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("P16 destroying twice, or something that is no heap, is reported and harmless", "[heap]") {
  MisuseScope misuse;
  Heap* heap = create_heap();
  void* block = allocate_from(heap, 64, 0);
  destroy_heap(nullptr);
  REQUIRE(misuse.all_reports() == 0);
  destroy_heap(heap);
  destroy_heap(heap);
  REQUIRE(misuse.reports(Misuse::bad_heap) == 1);
  destroy_heap(own_heap());
  REQUIRE(misuse.reports(Misuse::bad_heap) == 2);
  alignas(4096) static char no_heap[4096];
  destroy_heap(reinterpret_cast<Heap*>(no_heap));
  REQUIRE(misuse.reports(Misuse::bad_heap) == 3);
  release(block);  // freed with its heap
  REQUIRE(misuse.reports(Misuse::double_free) == 1);
  REQUIRE(validate());
}

TEST_CASE("P9 heaps are reused: 2000 in turn need no more records than one", "[heap]") {
  destroy_heap(create_heap());
  const std::size_t metadata = vm::ledger.metadata_bytes.load();
  std::set<Heap*> distinct;
  for (unsigned i = 0; i < 2000; ++i) {
    Heap* heap = create_heap();
    distinct.insert(heap);
    static_cast<void>(allocate_from(heap, 1 + i * 7 % 5000, 0));
    destroy_heap(heap);
  }
  REQUIRE(distinct.size() == 1);
  REQUIRE(vm::ledger.metadata_bytes.load() == metadata);
}

TEST_CASE("P14 blocks of a heap are aligned as asked", "[heap]") {
  Heap* heap = create_heap();
  Expect expect;
  for (unsigned shift = 0; shift <= 26; ++shift) {
    const std::size_t align = std::size_t{1} << shift;
    for (const std::size_t size : {std::size_t{1}, align, align + 1}) {
      void* block = allocate_from(heap, size, align);
      expect(block != nullptr && reinterpret_cast<std::uintptr_t>(block) % align == 0);
      expect(usable_bytes(block) >= size && heap_of(block) == heap);
      if (size > align) release(block);
    }
  }
  REQUIRE(expect.failed_line() == 0);
  destroy_heap(heap);
  REQUIRE(validate());
}

TEST_CASE("P13 a heap refuses impossible sizes", "[heap]") {
  Heap* heap = create_heap();
  REQUIRE(allocate_from(heap, SIZE_MAX, 0) == nullptr);
  REQUIRE(allocate_from(heap, SIZE_MAX / 2 + 1, 64) == nullptr);
  REQUIRE(allocate_from(heap, 10, SIZE_MAX / 2 + 1) == nullptr);
  REQUIRE(allocate_from(heap, 0, 0) != nullptr);
  destroy_heap(heap);
}

TEST_CASE("P9 destroying one heap leaves the blocks of others and of the process alone", "[heap]") {
  const HeapCounts before = trimmed_counts();
  Heap* heaps[3] = {create_heap(), create_heap(), create_heap()};
  struct Block {
    void* at;
    std::size_t size;
  };
  std::vector<Block> blocks[4];
  for (unsigned i = 0; i < 2000; ++i) {
    const std::size_t size = i % 50 == 0 ? 50'000 + i : 1 + i * 37 % 2000;
    const unsigned who = i % 4;
    void* at = who < 3 ? allocate_from(heaps[who], size, 0) : allocate(size);
    write_pattern(at, size, i);
    blocks[who].push_back({at, size});
  }
  destroy_heap(heaps[1]);
  destroy_heap(heaps[0]);
  Expect expect;
  for (unsigned i = 0; i < 500; ++i) {
    expect(has_pattern(blocks[2][i].at, blocks[2][i].size, i * 4 + 2));
    expect(has_pattern(blocks[3][i].at, blocks[3][i].size, i * 4 + 3));
    release(blocks[3][i].at);
  }
  REQUIRE(expect.failed_line() == 0);
  destroy_heap(heaps[2]);
  REQUIRE(validate());
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("P16 one heap is used by eight threads at once", "[heap]") {
  const HeapCounts before = trimmed_counts();
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Heap* heap = create_heap();
  std::atomic<unsigned> failures{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      Random random(seed + t);
      struct Block {
        void* at;
        std::size_t size, seed;
      };
      std::vector<Block> live;
      for (unsigned i = 0; i < 5000; ++i) {
        if (live.size() < 50 || random.one_in(2)) {
          const std::size_t size = 1 + random.below(random.one_in(40) ? 100'000 : 700);
          void* at = allocate_from(heap, size, 0);
          if (at == nullptr || heap_of(at) != heap) failures.fetch_add(1);
          write_pattern(at, size, i + t * 10'000);
          live.push_back({at, size, i + t * 10'000});
          continue;
        }
        const std::size_t at = random.below(live.size());
        if (!has_pattern(live[at].at, live[at].size, live[at].seed)) failures.fetch_add(1);
        release(live[at].at);
        live[at] = live.back();
        live.pop_back();
      }
      for (const Block& block : live) {
        if (!has_pattern(block.at, block.size, block.seed)) failures.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(failures.load() == 0);
  REQUIRE(validate());
  destroy_heap(heap);
  REQUIRE(validate());
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("P8 realloc of a heap's block keeps contents", "[heap]") {
  Heap* heap = create_heap();
  void* block = allocate_from(heap, 100, 0);
  write_pattern(block, 100, 5);
  for (const std::size_t size : {200u, 5000u, 40'000u, 1'000'000u, 50u}) {
    void* moved = reallocate(block, size);
    REQUIRE(moved != nullptr);
    REQUIRE(has_pattern(moved, size < 100 ? size : 100, 5));
    block = moved;
  }
  release(block);
  destroy_heap(heap);
  REQUIRE(validate());
}
