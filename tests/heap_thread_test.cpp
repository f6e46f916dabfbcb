// Magazines and depots of a thread, threads that end and are followed by others, blocks freed by another
// thread, and the modes of a thread while free memory waits to be given back.
#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "platform/process.h"
#include "platform/vm.h"
#include "src/heap/reclaim.h"
#include "src/heap/remote.h"
#include "src/heap/small.h"
#include "src/heap/thread_cache.h"
#include "tests/heap_calls.h"

#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;
using namespace glebe::heap;

namespace {

unsigned cache_limit(unsigned size_class) {
  return class_infos[size_class].magazine_blocks * (1u + class_infos[size_class].depot_magazines);
}

// Lets one thread wait for another by steps; a test that goes wrong ends with false instead of hanging.
class Steps {
 public:
  void reach(int step) { at_.store(step, std::memory_order_release); }
  [[nodiscard]] bool wait_for(int step) const {
    for (unsigned ms = 0; ms < 20'000; ++ms) {
      if (at_.load(std::memory_order_acquire) >= step) return true;
      sleep_ms(1);
    }
    return false;
  }

 private:
  std::atomic<int> at_{0};
};

template <class Body>
void in_thread(Body body) {
  std::thread thread(body);
  thread.join();
}

std::size_t heap_count() {
  std::size_t heaps = 0;
  for (const Heap* heap = first_heap(); heap != nullptr; heap = heap->next_heap) ++heaps;
  return heaps;
}

}  // namespace

TEST_CASE("P11 a thread gets the block back that it freed last", "[heap]") {
  REQUIRE(open_fast_path());
  for (const std::size_t size : {16u, 48u, 500u, 4096u, 20'000u, 32'768u}) {
    INFO(size);
    void* first = allocate(size);
    void* second = allocate(size);
    release(first);
    release(second);
    REQUIRE(allocate(size) == second);
    REQUIRE(allocate(size) == first);
    release(first);
    release(second);
  }
}

TEST_CASE("an empty magazine is refilled by half of it from the lowest addresses", "[heap]") {
  REQUIRE(open_fast_path());
  Heap& own = *own_heap();
  const unsigned c = class_of(96);
  static_cast<void>(trim());
  REQUIRE(cached_blocks(own, c) == 0);
  const std::size_t carved = own.blocks_carved;
  auto* first = static_cast<char*>(allocate(96));
  const unsigned half = class_infos[c].magazine_blocks / 2u;
  REQUIRE(own.blocks_carved == carved + half);
  REQUIRE(cached_blocks(own, c) == half - 1);
  auto* second = static_cast<char*>(allocate(96));
  REQUIRE(second == first + 96);
  release(first);
  release(second);
}

TEST_CASE("P10 S10 full magazines go to the depot and what is more goes back to the slabs", "[heap]") {
  REQUIRE(open_fast_path());
  const HeapCounts before = trimmed_counts();
  Heap& own = *own_heap();
  Expect expect;
  for (const std::size_t size : {16u, 256u, 1024u, 8192u, 32'768u}) {
    const unsigned c = class_of(size);
    const unsigned limit = cache_limit(c);
    std::vector<void*> blocks;
    for (unsigned i = 0; i < limit + 3 * class_infos[c].magazine_blocks; ++i)
      blocks.push_back(allocate(size));
    static_cast<void>(trim());
    const std::size_t live = own.blocks_carved - own.blocks_returned;
    unsigned most = 0;
    for (void* block : blocks) {
      release(block);
      const unsigned cached = cached_blocks(own, c);
      expect(cached <= limit);
      if (cached > most) most = cached;
    }
    expect(most == limit);
    expect(own.depot_counts[c] == class_infos[c].depot_magazines);
    expect(own.blocks_carved - own.blocks_returned < live);
    // All of it serves again, each block once.
    std::set<void*> again;
    for (std::size_t i = 0; i < blocks.size(); ++i) again.insert(allocate(size));
    expect(again.size() == blocks.size() && again.count(nullptr) == 0);
    for (void* block : again) release(block);
  }
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(validate());
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("mut-D01 P10 carved is live plus cached plus returned, after every step", "[heap]") {
  REQUIRE(open_fast_path());
  static_cast<void>(trim());
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Heap& own = *own_heap();
  std::size_t cached_before = 0;
  for (unsigned c = 0; c < kClassCount; ++c) cached_before += cached_blocks(own, c);
  const std::size_t in_use_before = own.blocks_carved - own.blocks_returned - cached_before;
  std::vector<void*> live;
  Expect expect;
  for (unsigned step = 0; step < 20'000; ++step) {
    if (live.empty() || random.below(100) < 52) {
      live.push_back(allocate(1 + random.below(4096)));
    } else {
      const std::size_t at = random.below(live.size());
      release(live[at]);
      live[at] = live.back();
      live.pop_back();
    }
    if (step % 16 != 0) continue;
    std::size_t cached = 0;
    for (unsigned c = 0; c < kClassCount; ++c) cached += cached_blocks(own, c);
    expect(own.blocks_carved - own.blocks_returned == in_use_before + live.size() + cached);
  }
  for (void* block : live) release(block);
  REQUIRE(expect.failed_line() == 0);
}

TEST_CASE("P9 a thread that ends leaves nothing in its caches", "[heap]") {
  const HeapCounts before = trimmed_counts();
  Heap* ended = nullptr;
  std::vector<void*> kept;
  in_thread([&] {
    std::vector<void*> blocks;
    for (unsigned i = 0; i < 5000; ++i) blocks.push_back(allocate(16 + i % 3000));
    for (unsigned i = 0; i < 5000; ++i) {
      if (i % 100 != 0)
        release(blocks[i]);
      else
        kept.push_back(blocks[i]);
    }
    ended = own_heap();
  });
  REQUIRE(ended != nullptr);
  REQUIRE(ended->state.load() == HeapState::orphan);
  for (unsigned c = 0; c < kClassCount; ++c) REQUIRE(cached_blocks(*ended, c) == 0);
  REQUIRE(ended->blocks_carved - ended->blocks_returned >= kept.size());
  SmallStats stats;
  small_stats(stats);
  REQUIRE(stats.orphans >= 1);
  for (void* block : kept) release(block);  // into a heap that has no thread
  REQUIRE(trimmed_counts() == before);
  REQUIRE(ended->slabs == nullptr);
}

TEST_CASE("P9 new threads take over the heaps of those that ended", "[heap]") {
  in_thread([] { release(allocate(100)); });
  const std::size_t heaps = heap_count();
  Heap* last = nullptr;
  Expect expect;
  for (unsigned i = 0; i < 50; ++i) {
    in_thread([&] {
      release(allocate(100));
      expect(last == nullptr || own_heap() == last);
      last = own_heap();
    });
  }
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(heap_count() == heaps);
}

TEST_CASE("P9 an adopted heap hands out what its former thread left, and its live blocks stay", "[heap]") {
  std::vector<unsigned char*> kept;
  in_thread([&] {
    for (unsigned i = 0; i < 200; ++i) {
      kept.push_back(static_cast<unsigned char*>(allocate(512)));
      write_pattern(kept.back(), 512, i);
    }
    for (unsigned i = 0; i < 100; ++i) release(allocate(512));
  });
  Expect expect;
  in_thread([&] {
    for (unsigned i = 0; i < 200; ++i) {
      void* block = allocate(512);
      std::memset(block, 0xEE, 512);
      release(block);
    }
    for (unsigned i = 0; i < 200; ++i) {
      expect(has_pattern(kept[i], 512, i));
      release(kept[i]);
    }
  });
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(validate());
}

TEST_CASE("blocks freed by another thread come back while their owner sleeps", "[heap]") {
  const HeapCounts before = trimmed_counts();
  std::vector<void*> blocks;
  Steps steps;
  Heap* owner_heap = nullptr;
  std::thread owner([&] {
    for (unsigned i = 0; i < 2000; ++i) blocks.push_back(allocate(64 + i % 512));
    owner_heap = own_heap();
    steps.reach(1);
    static_cast<void>(steps.wait_for(2));
  });
  const bool started = steps.wait_for(1);
  std::size_t live_before = 0, live_after = 0, waiting = 0;
  if (started) {
    live_before = owner_heap->blocks_carved - owner_heap->blocks_returned;
    for (void* block : blocks) release(block);
    static_cast<void>(trim());
    live_after = owner_heap->blocks_carved - owner_heap->blocks_returned;
    waiting = owner_heap->inbox_blocks.load();
  }
  steps.reach(2);
  owner.join();
  REQUIRE(started);
  REQUIRE(live_before >= 2000);
  REQUIRE(live_after + 2000 == live_before);
  REQUIRE(waiting == 0);
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("a ring whose destination is locked waits in the inbox until the owner or trim drains it",
          "[heap]") {
  const HeapCounts before = trimmed_counts();
  std::vector<void*> blocks;
  Steps steps;
  Heap* owner_heap = nullptr;
  std::thread owner([&] {
    for (unsigned i = 0; i < 600; ++i) blocks.push_back(allocate(100));
    owner_heap = own_heap();
    owner_heap->lock.lock();
    steps.reach(1);
    static_cast<void>(steps.wait_for(2));
    owner_heap->lock.unlock();
    steps.reach(3);
    static_cast<void>(steps.wait_for(4));
    // The next refill drains the inbox.
    std::vector<void*> more;
    for (unsigned i = 0; i < 600; ++i) more.push_back(allocate(100));
    for (void* block : more) release(block);
    steps.reach(5);
  });
  const bool started = steps.wait_for(1);
  std::uint32_t waiting = 0, after_owner = 1;
  if (started) {
    for (void* block : blocks) release(block);
    send_all_rings(*own_heap());
    waiting = owner_heap->inbox_blocks.load();
  }
  steps.reach(2);
  static_cast<void>(steps.wait_for(3));
  steps.reach(4);
  static_cast<void>(steps.wait_for(5));
  if (started) after_owner = owner_heap->inbox_blocks.load();
  owner.join();
  REQUIRE(started);
  REQUIRE(waiting == 600);
  REQUIRE(after_owner == 0);
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("a sender that finds the inbox too full drains it itself", "[heap]") {
  const HeapCounts before = trimmed_counts();
  constexpr unsigned kBlocks = 9000;
  std::vector<void*> blocks;
  Steps steps;
  Heap* owner_heap = nullptr;
  std::thread owner([&] {
    for (unsigned i = 0; i < kBlocks; ++i) blocks.push_back(allocate(32));
    owner_heap = own_heap();
    owner_heap->lock.lock();
    steps.reach(1);
    for (unsigned ms = 0; ms < 20'000 && owner_heap->inbox_blocks.load() < 4096; ++ms) sleep_ms(1);
    sleep_ms(20);  // the sender waits for the lock by now
    owner_heap->lock.unlock();
    static_cast<void>(steps.wait_for(2));
  });
  const bool started = steps.wait_for(1);
  std::uint32_t waiting = ~0u;
  if (started) {
    for (void* block : blocks) release(block);
    send_all_rings(*own_heap());
    waiting = owner_heap->inbox_blocks.load();
  }
  steps.reach(2);
  owner.join();
  REQUIRE(started);
  REQUIRE(waiting == 0);
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("S11 a medium block that two threads free is reported, whichever keeps it", "[heap]") {
  const HeapCounts before = trimmed_counts();
  MisuseScope misuse;
  void* block = allocate(100'000);
  in_thread([&] {
    release(block);
    release(block);  // kept by this thread: found at once
  });
  REQUIRE(misuse.reports(Misuse::double_free) == 1);
  void* other = allocate(100'000);
  Steps steps;
  std::thread second([&] {
    release(other);
    steps.reach(1);
    static_cast<void>(steps.wait_for(2));
  });
  static_cast<void>(steps.wait_for(1));
  release(other);
  static_cast<void>(trim());
  steps.reach(2);
  second.join();
  REQUIRE(misuse.reports(Misuse::double_free) == 2);
  REQUIRE(misuse.all_reports() == 2);
  REQUIRE(validate());
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("rings to more heaps than there are rings lose nothing", "[heap]") {
  const HeapCounts before = trimmed_counts();
  constexpr unsigned kThreads = 24;
  std::vector<void*> blocks[kThreads];
  {
    Steps steps;
    std::atomic<unsigned> ready{0};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (unsigned i = 0; i < 200; ++i) blocks[t].push_back(allocate(48));
        ready.fetch_add(1);
        static_cast<void>(steps.wait_for(1));
      });
    }
    for (unsigned ms = 0; ms < 20'000 && ready.load() < kThreads; ++ms) sleep_ms(1);
    for (unsigned i = 0; i < 200 && ready.load() == kThreads; ++i) {
      for (unsigned t = 0; t < kThreads; ++t) release(blocks[t][i]);
    }
    steps.reach(1);
    for (std::thread& thread : threads) thread.join();
  }
  REQUIRE(trimmed_counts() == before);
  REQUIRE(validate());
}

namespace {

// Frees 24 MiB of small blocks without a trim, so that more than 2 MiB of dirty memory wait.
void make_dirty_backlog() {
  std::vector<void*> blocks;
  for (unsigned i = 0; i < 24 * 1024; ++i) {
    blocks.push_back(allocate(1024));
    *static_cast<char*>(blocks.back()) = 1;
  }
  for (void* block : blocks) release(block);
}

struct PurgeDelay {
  std::uint32_t before = purge_delay_ms;
  explicit PurgeDelay(std::uint32_t ms) { purge_delay_ms = ms; }
  ~PurgeDelay() { purge_delay_ms = before; }
  PurgeDelay(const PurgeDelay&) = delete;
  PurgeDelay& operator=(const PurgeDelay&) = delete;
};

}  // namespace

TEST_CASE("a thread with a dirty backlog looks at the clock, and a busy one takes from metered magazines",
          "[heap]") {
  PurgeDelay delay(60'000);  // nothing is purged while this test runs
  REQUIRE(open_fast_path());
  Heap& own = *own_heap();
  make_dirty_backlog();
  REQUIRE(vm::ledger.dirty_bytes.load() > 2 * kMiB);
  bool was_closed = false, was_metered = false;
  for (unsigned i = 0; i < 2'000'000 && !(was_closed && was_metered); ++i) {
    release(allocate(64));
    if (i % 64 == 0) release(allocate_slow(200));  // a slow path now and then, as in any program
    was_closed = was_closed || ThreadBank::get() == &closed_bank;
    was_metered = was_metered || ThreadBank::get() == &own.metered;
  }
  REQUIRE(was_closed);
  REQUIRE(was_metered);
  // Blocks that are taken while metered come from the metered bank and the others, each once.
  std::set<void*> distinct;
  std::vector<void*> blocks;
  for (unsigned i = 0; i < 5000; ++i) blocks.push_back(allocate(64));
  for (void* block : blocks) REQUIRE(distinct.insert(block).second);
  for (void* block : blocks) release(block);
  REQUIRE(open_fast_path());
  REQUIRE(validate());
}

TEST_CASE("V1 a program that goes on at a low rate gets its memory purged and its fast path back", "[heap]") {
  PurgeDelay delay(100);
  REQUIRE(open_fast_path());
  Heap& own = *own_heap();
  make_dirty_backlog();
  REQUIRE(vm::ledger.dirty_bytes.load() > 2 * kMiB);
  const std::size_t purged_before = vm::ledger.purged_bytes_total.load();
  bool is_open = false;
  for (unsigned passes = 0; passes < 300 && !is_open; ++passes) {
    sleep_ms(10);
    release(allocate(64));
    is_open = vm::ledger.dirty_bytes.load() < 2 * kMiB && ThreadBank::get() == &own.slots;
  }
  REQUIRE(is_open);
  REQUIRE(vm::ledger.purged_bytes_total.load() > purged_before + 16 * kMiB);
  REQUIRE(validate());
}

TEST_CASE("V1 a backlog that appears within one tick of the clock does not stay unnoticed", "[heap]") {
  PurgeDelay delay(60'000);
  Heap& own = *own_heap();
  bool same_tick = false;
  for (unsigned tries = 0; tries < 50 && !same_tick; ++tries) {
    std::vector<void*> blocks;
    for (unsigned i = 0; i < 64; ++i) blocks.push_back(allocate(64 * kKiB));
    REQUIRE(open_fast_path());
    release(allocate_slow(200));
    const bool was_open = ThreadBank::get() == &own.slots;
    const std::uint64_t start_ms = os::clock_coarse_ms();
    const bool ticked = own.last_tick_ms == static_cast<std::uint32_t>(start_ms);
    for (void* block : blocks) release(block);
    same_tick = was_open && ticked && os::clock_coarse_ms() == start_ms;
  }
  REQUIRE(same_tick);
  REQUIRE(vm::ledger.dirty_bytes.load() > 2 * kMiB);
  REQUIRE(ThreadBank::get() != &own.slots);
  REQUIRE(open_fast_path());
}

TEST_CASE("V1 half-empty chunks with huge pages do not keep a thread off its fast path for ever", "[heap]") {
  PurgeDelay delay(50);
  const vm::ChunkPolicy policy = vm::chunk_policy;
  vm::chunk_policy = {0, true};
  REQUIRE(open_fast_path());
  Heap& own = *own_heap();
  std::vector<char*> blocks, kept;
  for (unsigned i = 0; i < 1024; ++i) {
    blocks.push_back(static_cast<char*>(allocate(32'768)));
    std::memset(blocks.back(), 1, 32'768);
  }
  // Every other slab of 256 KiB is freed: half of each chunk.
  for (char* block : blocks) {
    const bool is_kept = reinterpret_cast<std::uintptr_t>(block) / (256 * kKiB) % 2 == 0;
    is_kept ? kept.push_back(block) : release(block);
  }
  const std::size_t dirty = vm::ledger.dirty_bytes.load();
  bool is_open = false;
  for (unsigned passes = 0; passes < 150 && !is_open; ++passes) {
    sleep_ms(10);
    release(allocate(64));
    is_open = vm::ledger.dirty_bytes.load() < 2 * kMiB && ThreadBank::get() == &own.slots;
  }
  for (char* block : kept) release(block);
  vm::chunk_policy = policy;
  REQUIRE(dirty > 8 * kMiB);
  REQUIRE(is_open);
  REQUIRE(open_fast_path());
}
