// Cases that were written while the known bugs of tests/mutations were injected, most of them because no
// other test failed. The id of the bug stands at the start of the name.
#include <glebe/glebe.h>

#include <atomic>
#include <thread>
#include <vector>

#include "src/heap/reclaim.h"
#include "src/heap/small.h"
#include "src/vm/directory.h"
#include "tests/heap_calls.h"

#include "tests/catch.h"

using namespace glebe;
using namespace glebe::heap;

namespace {

// Whether `read`, run by another thread, is still not done a while after it began. The caller holds a lock.
template <class Read>
bool is_waiting(Read read, std::thread& thread) {
  static std::atomic<bool> has_begun, is_done;
  has_begun.store(false);
  is_done.store(false);
  thread = std::thread([read] {
    has_begun.store(true);
    read();
    is_done.store(true);
  });
  while (!has_begun.load()) std::this_thread::yield();
  sleep_ms(50);
  return !is_done.load();
}

// What a walk of the medium or large heap, which holds the lock, sees of a reader of the statistics.
struct Waiting {
  void (*read)();
  std::thread thread;
  bool is_asked = false, is_waiting = false;
};
void ask_once(void* context, void*, std::size_t, std::uint16_t) {
  Waiting& waiting = *static_cast<Waiting*>(context);
  if (waiting.is_asked) return;
  waiting.is_asked = true;
  waiting.is_waiting = is_waiting(waiting.read, waiting.thread);
}
void require_reader_waits(std::size_t size_bytes, decltype(&medium_walk) walk, void (*read)()) {
  void* block = allocate(size_bytes);
  Waiting waiting{read, {}};
  walk(ask_once, &waiting);
  REQUIRE(waiting.is_asked);
  waiting.thread.join();
  release(block);
  REQUIRE(waiting.is_waiting);
}

glebe_stats stats_now() {
  glebe_stats stats{};
  stats.struct_bytes = sizeof stats;
  glebe_stats_get(&stats);
  return stats;
}

// Three slabs of 4 KiB blocks; the first and the second are then wholly freed. The second is released,
// because the first still has room.
struct ReleasedSlab {
  Heap* heap = create_heap();
  std::vector<void*> blocks;
  unsigned per_slab = class_infos[class_of(4096)].blocks;

  ReleasedSlab() {
    for (unsigned i = 0; i < 3 * per_slab; ++i) {
      blocks.push_back(allocate_from(heap, 4096, 0));
      std::memset(blocks.back(), 0xEE, 4096);
    }
    for (unsigned i = 0; i < 2 * per_slab; ++i) release(blocks[i]);
  }
  ~ReleasedSlab() { destroy_heap(heap); }
  ReleasedSlab(const ReleasedSlab&) = delete;
  ReleasedSlab& operator=(const ReleasedSlab&) = delete;
};

}  // namespace

TEST_CASE("mut-B07 a sized free goes by the class of the block, not by the size that was given", "[heap]") {
  REQUIRE(open_fast_path());
  const HeapCounts before = trimmed_counts();
  std::vector<void*> blocks;
  for (unsigned i = 0; i < 20; ++i) blocks.push_back(glebe_malloc(16));
  void* const wide = glebe_malloc(100);
  REQUIRE(wide != nullptr);
  glebe_free_sized(wide, 16);
  bool is_given_as_narrow = false;
  for (unsigned i = 0; i < 200; ++i) {
    blocks.push_back(glebe_malloc(16));
    is_given_as_narrow = is_given_as_narrow || blocks.back() == wide;
  }
  REQUIRE_FALSE(is_given_as_narrow);
  for (void* block : blocks) glebe_free(block);
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("mut-B11 the statistics of the small heap wait for its lock", "[heap]") {
  release(allocate(100));
  Heap& own = *own_heap();
  std::thread thread;
  own.lock.lock();
  const bool is_locked_out = is_waiting(
      [] {
        SmallStats stats;
        small_stats(stats);
      },
      thread);
  own.lock.unlock();
  thread.join();
  REQUIRE(is_locked_out);
}

TEST_CASE("mut-B11 the statistics of the medium heap wait for its lock", "[heap]") {
  require_reader_waits(500'000, medium_walk, [] { static_cast<void>(medium_stats()); });
}

TEST_CASE("mut-B11 the statistics of the large heap wait for its lock", "[heap]") {
  require_reader_waits(40 * kMiB, large_walk, [] { static_cast<void>(large_stats()); });
}

TEST_CASE("mut-B14 a medium block that a thread keeps is not kept twice", "[heap]") {
  const HeapCounts before = trimmed_counts();
  {
    MisuseScope misuse;
    void* block = allocate(100'000);
    release(block);
    release(block);
    REQUIRE(misuse.reports(Misuse::double_free) == 1);
    void* first = allocate(100'000);
    void* second = allocate(100'000);
    REQUIRE(first != second);
    release(first);
    release(second);
    static_cast<void>(trim());
    REQUIRE(misuse.all_reports() == 1);
  }
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("mut-C06 the largest free run is one of the free runs, not their sum", "[heap]") {
  void* before = glebe_malloc(kMiB);
  void* between = glebe_malloc(kMiB);
  void* behind = glebe_malloc(kMiB);
  REQUIRE((before != nullptr && between != nullptr && behind != nullptr));
  glebe_free(before);
  glebe_free(behind);
  const glebe_stats stats = stats_now();
  glebe_free(between);
  REQUIRE(stats.medium_largest_free_bytes >= kMiB);
  REQUIRE(stats.medium_largest_free_bytes + kMiB <= stats.medium_free_bytes);
}

TEST_CASE("mut-G01 blocks of others that a thread freed just before its end are not lost", "[heap]") {
  const HeapCounts before = trimmed_counts();
  std::vector<void*> blocks;
  for (unsigned i = 0; i < kRingBlocks / 2; ++i) blocks.push_back(allocate(100));
  std::thread thread([&] {
    void* own = allocate(100);  // so that the thread has a heap with rings
    for (void* block : blocks) release(block);
    release(own);
  });
  thread.join();
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("mut-G03 the addresses of a slab that was released belong to nobody", "[heap]") {
  const ReleasedSlab released;
  REQUIRE(released.heap->slab_count == 2);
  for (unsigned i = released.per_slab; i < 2 * released.per_slab; ++i) {
    REQUIRE(vm::entry_of(released.blocks[i]) == vm::kEntryNone);
  }
  REQUIRE(heap_of(released.blocks[2 * released.per_slab]) == released.heap);
}

TEST_CASE("mut-G05 calloc clears blocks of a new slab in memory that another slab used", "[heap]") {
  static_cast<void>(trim());
  const ReleasedSlab released;
  std::vector<void*> blocks;
  bool is_zero = true;
  for (unsigned i = 0; i < 20 * released.per_slab; ++i) {
    blocks.push_back(allocate_zeroed(4096));
    is_zero = is_zero && is_all(blocks.back(), 4096, 0);
  }
  for (void* block : blocks) release(block);
  REQUIRE(is_zero);
}

TEST_CASE("mut-G05 calloc clears the last free block of a slab that was full before", "[heap]") {
  REQUIRE(open_fast_path());
  static_cast<void>(trim());
  constexpr unsigned kSlabs = 4;
  const unsigned per_slab = class_infos[class_of(4096)].blocks;
  std::vector<void*> blocks;
  for (unsigned i = 0; i < kSlabs * per_slab; ++i) {
    blocks.push_back(allocate(4096));
    std::memset(blocks.back(), 0xEE, 4096);
  }
  bool is_zero = true;
  for (void*& block : blocks) {
    release(block);
    static_cast<void>(trim());  // from the magazine to the slab, which has no other free block
    block = allocate_zeroed(4096);
    is_zero = is_zero && is_all(block, 4096, 0);
  }
  for (void* block : blocks) release(block);
  REQUIRE(is_zero);
}

TEST_CASE("mut-G07 a thread that was metered gets every block back", "[heap]") {
  const std::uint32_t delay_before = purge_delay_ms;
  REQUIRE(open_fast_path());
  const HeapCounts before = trimmed_counts();
  purge_delay_ms = 60'000;  // the backlog stays, and with it the mode
  std::vector<void*> blocks;
  for (unsigned i = 0; i < 24 * 1024; ++i) blocks.push_back(allocate(1024));
  for (void* block : blocks) release(block);
  blocks.clear();
  Heap& own = *own_heap();
  bool was_metered = false;
  for (unsigned i = 0; i < 2'000'000 && !was_metered; ++i) {
    release(allocate(64));
    if (i % 64 == 0) release(allocate_slow(200));
    was_metered = ThreadBank::get() == &own.metered;
  }
  for (unsigned i = 0; i < 300; ++i) blocks.push_back(allocate(64));
  for (void* block : blocks) release(block);
  purge_delay_ms = delay_before;
  REQUIRE(was_metered);
  REQUIRE(open_fast_path());
  REQUIRE(trimmed_counts() == before);
}
