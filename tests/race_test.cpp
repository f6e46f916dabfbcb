// Eight threads that allocate, hand blocks to each other and free what they get, end and are followed by
// others, use heaps together, while one thread reads every statistic and trims. Meant for the thread
// sanitizer and run in every build.
#include <atomic>
#include <thread>
#include <vector>

#include "src/heap/granule_pool.h"
#include "src/vm/region.h"
#include "tests/heap_calls.h"

#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;
using namespace glebe::heap;

namespace {

// A sanitizer's shadow leaves no room for the reservation that is made by default, nor for the pager's second
// one as long as it. Before the first test of any file: the region is reserved once.
[[maybe_unused]] const bool is_prepared = [] {
  if (kThreadSanitizer || kAddressSanitizer) vm::requested_chunk_space_bytes = 16 * kGiB;
  return true;
}();

constexpr unsigned kThreads = 8;
constexpr unsigned kExchangeCells = 512;
constexpr unsigned kSteps = kThreadSanitizer ? 6'000 : 30'000;

// What every block starts with. Written by the thread that allocated it, read by the one that frees it.
struct Header {
  std::size_t size;
  std::size_t seed;
};

struct Shared {
  std::atomic<Header*> exchange[kExchangeCells] = {};
  Heap* heaps[2] = {};
  std::atomic<unsigned> failures{0};
  std::atomic<bool> is_done{false};

  void check(bool condition) {
    if (!condition) failures.fetch_add(1, std::memory_order_relaxed);
  }
};

constexpr std::size_t kCheckedBytes = 512;  // of the body of a block

Header* make_block(Shared& shared, Random& random) {
  std::size_t size = sizeof(Header) + random.below(std::uint64_t{1} << random.below(12));
  if (random.one_in(64)) size = sizeof(Header) + random.below(300'000);
  if (random.one_in(4096)) size = 33 * kMiB;
  void* block = nullptr;
  const std::uint64_t kind = random.below(16);
  if (kind < 2) {
    block = allocate_from(shared.heaps[kind], size, 0);
  } else if (kind == 2) {
    block = allocate_aligned(size, std::size_t{1} << random.below(13));
  } else if (kind == 3) {
    block = allocate_zeroed(size);
  } else {
    block = allocate(size);
  }
  if (block == nullptr) {
    shared.check(false);
    return nullptr;
  }
  auto* header = static_cast<Header*>(block);
  const std::size_t body = size - sizeof(Header);
  if (kind == 3) shared.check(is_all(header + 1, body < kCheckedBytes ? body : kCheckedBytes, 0));
  header->size = size;
  header->seed = static_cast<std::size_t>(random.next());
  write_pattern(header + 1, body < kCheckedBytes ? body : kCheckedBytes, header->seed);
  return header;
}

void drop_block(Shared& shared, Header* header) {
  if (header == nullptr) return;
  const std::size_t body = header->size - sizeof(Header);
  shared.check(has_pattern(header + 1, body < kCheckedBytes ? body : kCheckedBytes, header->seed));
  shared.check(usable_bytes(header) >= header->size);
  release(header);
}

// Each block that is put into a cell comes out of it once, in whichever thread.
void churn(Shared& shared, std::uint64_t seed) {
  Random random(seed);
  std::vector<Header*> own;
  for (unsigned step = 0; step < kSteps; ++step) {
    Header* fresh = make_block(shared, random);
    if (random.one_in(3)) {
      own.push_back(fresh);
    } else {
      // Release pairs with the acquire of the thread that takes it.
      std::atomic<Header*>& cell = shared.exchange[random.below(kExchangeCells)];
      drop_block(shared, cell.exchange(fresh, std::memory_order_acq_rel));
    }
    if (own.size() > 100) {
      const std::size_t at = random.below(own.size());
      drop_block(shared, own[at]);
      own[at] = own.back();
      own.pop_back();
    }
    if (random.one_in(64) && !own.empty()) {
      Header*& header = own.back();
      const std::size_t size = sizeof(Header) + kCheckedBytes + random.below(5000);
      if (header->size >= sizeof(Header) + kCheckedBytes) {
        header = static_cast<Header*>(reallocate(header, size));
        header->size = size;
      }
    }
  }
  for (Header* header : own) drop_block(shared, header);
}

void read_statistics(Shared& shared) {
  while (!shared.is_done.load(std::memory_order_acquire)) {
    SmallStats small;
    small_stats(small);
    shared.check(small.heaps <= 1000);
    shared.check(small.live_bytes <= vm::ledger.reserved_bytes.load());
    shared.check(small.cached_bytes <= small.slab_bytes + kMiB);
    std::size_t heaps = 0;
    walk_heaps([](void* count, const HeapStats&) { ++*static_cast<std::size_t*>(count); }, &heaps);
    shared.check(heaps >= 1);
    shared.check(medium_stats().live_bytes <= vm::ledger.reserved_bytes.load());
    shared.check(large_stats().live_bytes <= vm::ledger.reserved_bytes.load());
    shared.check(granule_stats().used_bytes <= vm::ledger.reserved_bytes.load());
    shared.check(vm::ledger.committed_bytes.load() >= vm::ledger.metadata_bytes.load());
    static_cast<void>(trim());
    sleep_ms(2);
  }
}

void run_rounds(Shared& shared, std::uint64_t seed, unsigned rounds) {
  for (Heap*& heap : shared.heaps) heap = create_heap();
  std::thread reader([&] { read_statistics(shared); });
  for (unsigned round = 0; round < rounds; ++round) {
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < kThreads; ++t) {
      threads.emplace_back([&shared, seed, round, t] { churn(shared, seed + round * 100 + t); });
    }
    for (std::thread& thread : threads) thread.join();
  }
  shared.is_done.store(true, std::memory_order_release);
  reader.join();
  for (std::atomic<Header*>& cell : shared.exchange) drop_block(shared, cell.exchange(nullptr));
  for (Heap* heap : shared.heaps) destroy_heap(heap);
}

}  // namespace

TEST_CASE("P16 K1 eight threads of random frees across threads lose nothing, statistics read meanwhile",
          "[race]") {
  const HeapCounts before = trimmed_counts();
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Shared shared;
  run_rounds(shared, seed, 3);
  REQUIRE(shared.failures.load() == 0);
  REQUIRE(validate());
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("P16 threads are born and die by the hundred while their blocks live on", "[race]") {
  const HeapCounts before = trimmed_counts();
  std::atomic<void*> cells[64] = {};
  std::atomic<unsigned> failures{0};
  for (unsigned wave = 0; wave < 25; ++wave) {
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t, wave] {
        for (unsigned i = 0; i < 64; ++i) {
          auto* block = static_cast<unsigned char*>(allocate(100 + t));
          if (block == nullptr) return static_cast<void>(failures.fetch_add(1));
          std::memset(block, static_cast<int>(wave + t), 100);
          auto* other = static_cast<unsigned char*>(cells[i].exchange(block, std::memory_order_acq_rel));
          if (other != nullptr && !is_all(other, 100, other[0])) failures.fetch_add(1);
          release(other);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  for (std::atomic<void*>& cell : cells) release(cell.exchange(nullptr));
  REQUIRE(failures.load() == 0);
  REQUIRE(validate());
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("P16 a first allocation in many threads at once makes one heap each", "[race]") {
  std::atomic<bool> go{false};
  std::atomic<unsigned> failures{0};
  Heap* heaps[kThreads] = {};
  std::atomic<unsigned> arrived{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
      void* block = allocate(64);
      if (block == nullptr) failures.fetch_add(1);
      heaps[t] = own_heap();
      arrived.fetch_add(1);
      while (arrived.load() < kThreads) std::this_thread::yield();
      release(block);
    });
  }
  go.store(true, std::memory_order_release);
  for (std::thread& thread : threads) thread.join();
  REQUIRE(failures.load() == 0);
  for (unsigned t = 0; t < kThreads; ++t) {
    REQUIRE(heaps[t] != nullptr);
    for (unsigned other = 0; other < t; ++other) REQUIRE(heaps[t] != heaps[other]);
  }
}
