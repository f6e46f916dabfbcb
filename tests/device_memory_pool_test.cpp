// Pools without a device: each engine over memory of the host and over numbers. What would break: a block
// that is too small, unaligned or in two chunks, a cap that is passed, a chunk that goes with a block in it,
// and statistics that do not add up.
#include "src/device/memory_pool.h"

#include <deque>

#include "tests/device_pool_rig.h"

namespace device_test {
namespace {

// Random blocks against a model: contents, alignment, chunks as barriers, accounts.
template <class Engine>
void run_random(std::uint64_t seed, unsigned rounds) {
  constexpr std::uint64_t kChunk = 16 * kKiB, kMax = 24 * kChunk + 4 * kKiB;
  Random random(seed);
  Expect expect;
  MemoryPool<HostSource, Engine> pool;
  REQUIRE(pool.open({.chunk_bytes = kChunk, .max_bytes = kMax}, {}, engine_options<Engine>(64)).ok());
  std::map<std::uint64_t, std::pair<std::uint64_t, unsigned char>> model;  // address: bytes, filled with
  const auto free_one = [&](auto at) {
    const auto [address, block] = *at;
    for (std::uint64_t i = 0; i < block.first; i += 61) {
      expect(pointer(address)[i] == std::byte{block.second});
    }
    expect(pool.free(address).ok());
    expect(!pool.free(address).ok());
    model.erase(at);
  };
  for (unsigned round = 0; round < rounds; ++round) {
    if (random.one_in(2 + round / 500 % 3) && !model.empty()) {
      auto at = model.lower_bound(model.begin()->first + random.below(kMax));
      free_one(at == model.end() ? model.begin() : at);
      continue;
    }
    if (random.one_in(50)) static_cast<void>(pool.trim(random.below(4) * kChunk));
    const std::uint64_t size_bytes = 1 + random.below(4096);
    const std::uint64_t align_bytes = std::uint64_t{1} << random.below(13);
    std::uint64_t address = 0;
    const Outcome outcome = pool.allocate(size_bytes, align_bytes, &address);
    if (!outcome.ok()) {
      expect(outcome.status == Status::over_budget);
      continue;
    }
    expect(address % align_bytes == 0);
    expect(pool.size_of(address) >= size_bytes);
    const auto after = model.lower_bound(address);
    expect(after == model.end() || address + size_bytes <= after->first);
    expect(after == model.begin() || std::prev(after)->first + std::prev(after)->second.first <= address);
    const auto value = static_cast<unsigned char>(random.below(256));
    std::memset(pointer(address), value, size_bytes);
    model[address] = {size_bytes, value};
    const PoolStats stats = pool.stats();
    expect(stats.live_blocks == model.size());
    expect(stats.chunk_bytes <= kMax);
    expect(stats.hits + stats.misses == stats.requests);
    if (round % 64 == 0) expect(pool.validate());
  }
  while (!model.empty()) free_one(model.begin());
  const PoolStats stats = pool.stats();
  expect(stats.live_blocks == 0 && stats.live_bytes == 0 && stats.allocated == stats.freed);
  expect(stats.failures < stats.requests && (stats.hits > 0) == Engine::kKeepsChunks);
  static_cast<void>(pool.trim(0));
  expect(pool.stats().chunks == 0 && pool.stats().chunk_bytes == 0);
  expect(pool.validate());
  REQUIRE(expect.failed_line() == 0);
}

TEST_CASE("1-11 the examples of the requirements: defaults, and small blocks up to a megabyte", "[device]") {
  MemoryPool<HostSource, HeapEngine> plain;
  REQUIRE(plain.open({.chunk_bytes = 2 * kMiB, .max_bytes = kGiB}, {}, {}).ok());
  std::uint64_t address = 0;
  REQUIRE(plain.allocate(1000, 0, &address).ok());
  CHECK(address % kDeviceAlignBytes == 0);
  CHECK(plain.size_of(address) == 1024);
  CHECK(plain.free(address).ok());

  MemoryPool<HostSource, FixedEngine> small;
  REQUIRE(small.open({.chunk_bytes = kKiB, .max_bytes = kMiB}, {}, {.block_bytes = 64}).ok());
  std::vector<std::uint64_t> blocks(kMiB / 64);
  for (std::uint64_t& block : blocks) {
    REQUIRE(small.allocate_item(&block).ok());
    std::memset(pointer(block), 0xA5, 64);
  }
  const PoolStats full = small.stats();
  CHECK(full.chunks == 1024);
  CHECK(full.chunk_bytes == kMiB);
  CHECK(full.live_bytes == kMiB);
  CHECK(small.allocate_item(&address).status == Status::over_budget);
  CHECK(small.stats().chunks == 1024);
  for (const std::uint64_t block : blocks) REQUIRE(small.free(block).ok());
  CHECK(small.trim(0) == kMiB);
  CHECK(small.stats().chunks_given == 1024);
}

TEST_CASE("P1 1-12 numbers are handed out, run out, come back, and more are added", "[device]") {
  MemoryPool<NumberSource, FixedEngine> numbers;
  REQUIRE(
      numbers.open({.chunk_bytes = 10, .max_bytes = 25, .address_bytes = 40}, {}, {.block_bytes = 1}).ok());
  std::vector<bool> is_taken(40);
  std::uint64_t number = 0;
  for (unsigned i = 0; i < 25; ++i) {
    REQUIRE(numbers.allocate_item(&number).ok());
    REQUIRE(number < 25);
    CHECK_FALSE(is_taken[number]);
    is_taken[number] = true;
  }
  CHECK(numbers.stats().chunk_bytes == 25);
  CHECK(numbers.allocate_item(&number).status == Status::over_budget);
  CHECK(numbers.free(7).ok());
  CHECK(numbers.free(7).status == Status::double_free);
  CHECK(numbers.free(25).status == Status::not_owned);
  REQUIRE(numbers.allocate_item(&number).ok());
  CHECK(number == 7);
  CHECK(numbers.set_max(41).status == Status::bad_argument);
  CHECK(numbers.set_max(35).ok());
  for (unsigned i = 0; i < 10; ++i) CHECK(numbers.allocate_item(&number).ok());
  CHECK(numbers.allocate_item(&number).status == Status::over_budget);
  CHECK(numbers.validate());

  // Runs of numbers, by the engine for any size.
  MemoryPool<NumberSource, HeapEngine> runs;
  REQUIRE(runs.open({.chunk_bytes = 64, .max_bytes = 128}, {}, {.unit_bytes = 1}).ok());
  std::uint64_t first = 0, second = 0;
  REQUIRE(runs.allocate(40, 1, &first).ok());
  REQUIRE(runs.allocate(40, 1, &second).ok());
  CHECK(second / 64 != first / 64);
  CHECK(runs.allocate(30, 1, &number).status == Status::over_budget);
  CHECK(runs.allocate(24, 8, &number).ok());
}

TEST_CASE("P2 1-13 without an engine each block is a chunk, and goes when it is freed", "[device]") {
  MemoryPool<HostSource, PassEngine> pool;
  REQUIRE(pool.open({.chunk_bytes = 4 * kKiB, .max_bytes = 64 * kKiB}, {}, {}).ok());
  std::uint64_t one = 0, other = 0;
  REQUIRE(pool.allocate(100, 4096, &one).ok());
  REQUIRE(pool.allocate(20 * kKiB, 16, &other).ok());
  std::memset(pointer(one), 1, 100);
  std::memset(pointer(other), 2, 20 * kKiB);
  CHECK(pool.stats().chunk_bytes == 24 * kKiB);
  CHECK(pool.allocate(44 * kKiB, 0, &other).status == Status::over_budget);
  CHECK(pool.allocate(1, 8192, &other).status == Status::bad_argument);
  CHECK(pool.free(one + 64).status == Status::not_owned);
  CHECK(pool.free(one).ok());
  CHECK(pool.stats().chunk_bytes == 20 * kKiB);
  CHECK_FALSE(pool.free(one).ok());
  CHECK(pool.free(other).ok());
  CHECK(pool.stats().chunks == 0);
  CHECK(pool.stats().chunks_given == 2);
  CHECK(pool.stats().live_blocks == 0);
  CHECK(pool.validate());
}

TEST_CASE("P3 mut-B05 the cap is exact, also when it is no multiple of a chunk", "[device]") {
  MemoryPool<HostSource, HeapEngine> pool;
  REQUIRE(pool.open({.chunk_bytes = 64 * kKiB, .max_bytes = 168 * kKiB}, {}, {.unit_bytes = 4096}).ok());
  for (int round = 0; round < 3; ++round) {
    std::vector<std::uint64_t> blocks(42);
    for (std::uint64_t& block : blocks) REQUIRE(pool.allocate(4096, 0, &block).ok());
    std::uint64_t more = 0;
    CHECK(pool.allocate(4096, 0, &more).status == Status::over_budget);
    CHECK(pool.stats().chunk_bytes == 168 * kKiB);
    CHECK(pool.stats().peak_chunk_bytes == 168 * kKiB);
    for (const std::uint64_t block : blocks) CHECK(pool.free(block).ok());
    if (round == 1) CHECK(pool.trim(64 * kKiB) == 104 * kKiB);
  }
  // A lower cap keeps what there is and takes nothing more.
  CHECK(pool.set_max(64 * kKiB).ok());
  std::uint64_t large = 0;
  CHECK(pool.allocate(66 * kKiB, 0, &large).status == Status::over_budget);
  CHECK(pool.trim(0) == 168 * kKiB);
  REQUIRE(pool.allocate(64 * kKiB, 0, &large).ok());
  CHECK(pool.stats().chunk_bytes == 64 * kKiB);
  CHECK(pool.free(large).ok());
}

struct alignas(128) Line {
  char bytes[128];
};

TEST_CASE("P4 items, objects and arrays have their alignment and their count", "[device]") {
  MemoryPool<HostSource, HeapEngine> pool;
  REQUIRE(pool.open({.chunk_bytes = 64 * kKiB, .max_bytes = kMiB}, {}, {.unit_bytes = 16}).ok());
  std::uint32_t* words = nullptr;
  Line* lines = nullptr;
  REQUIRE(pool.allocate_objects(1000, &words).ok());
  REQUIRE(pool.allocate_objects(9, &lines).ok());
  CHECK(reinterpret_cast<std::uintptr_t>(lines) % 128 == 0);
  for (unsigned i = 0; i < 1000; ++i) words[i] = i;
  std::memset(lines, 1, 9 * sizeof(Line));
  CHECK(words[999] == 999);
  CHECK(pool.size_of(reinterpret_cast<std::uintptr_t>(words)) == 4000);
  CHECK(pool.size_of(reinterpret_cast<std::uintptr_t>(lines)) == 9 * 128);
  CHECK(pool.allocate_objects(UINT64_MAX / 2, &words).status == Status::bad_argument);
  CHECK(pool.allocate_objects(0, &words).status == Status::bad_argument);

  MemoryPool<HostSource, FixedEngine> items;
  REQUIRE(items.open({.chunk_bytes = 6000, .max_bytes = 60000}, {}, {.block_bytes = 100, .align_bytes = 32})
              .ok());
  std::uint64_t item = 0;
  REQUIRE(items.allocate_item(&item).ok());
  CHECK(item % 32 == 0);
  CHECK(items.size_of(item) == 128);
}

TEST_CASE("P6 mut-B03 trim gives back chunks without blocks and no others", "[device]") {
  MemoryPool<HostSource, HeapEngine> pool;
  REQUIRE(pool.open({.chunk_bytes = 64 * kKiB, .max_bytes = kMiB}, {}, {.unit_bytes = 64 * kKiB}).ok());
  std::vector<std::uint64_t> blocks(8);
  for (std::uint64_t& block : blocks) {
    REQUIRE(pool.allocate(64 * kKiB, 0, &block).ok());
    std::memset(pointer(block), static_cast<int>(block / (64 * kKiB)), 64 * kKiB);
  }
  CHECK(pool.trim(0) == 0);
  for (unsigned i = 0; i < 8; i += 2) CHECK(pool.free(blocks[i]).ok());
  CHECK(pool.trim(2 * 64 * kKiB) == 2 * 64 * kKiB);
  CHECK(pool.stats().chunks == 6);
  CHECK(pool.trim(0) == 2 * 64 * kKiB);
  CHECK(pool.stats().chunks == 4);
  for (unsigned i = 1; i < 8; i += 2) {
    const auto value = static_cast<std::byte>(blocks[i] / (64 * kKiB));
    CHECK(pointer(blocks[i])[0] == value);
    CHECK(pointer(blocks[i])[64 * kKiB - 1] == value);
    CHECK(pool.free(blocks[i]).ok());
  }
}

TEST_CASE("P7 mut-B10 a pool does not move", "[device]") {
  using Pool = MemoryPool<HostSource, HeapEngine>;
  STATIC_REQUIRE_FALSE(std::is_move_constructible_v<Pool>);
  STATIC_REQUIRE_FALSE(std::is_move_assignable_v<Pool>);
  STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<Pool>);
}

TEST_CASE("P8 P9 P12 a pool that is exhausted recovers, and counts down to nothing", "[device]") {
  MemoryPool<HostSource, HeapEngine> pool;
  REQUIRE(pool.open({.chunk_bytes = 64 * kKiB, .max_bytes = 512 * kKiB}, {}, {.unit_bytes = 256}).ok());
  std::vector<std::uint64_t> blocks;
  std::uint64_t address = 0;
  for (int round = 0; round < 20; ++round) {
    while (pool.stats().live_bytes < 512 * kKiB / 100 * 95 && pool.allocate(1024, 0, &address).ok()) {
      blocks.push_back(address);
    }
    CHECK(pool.stats().live_bytes >= 512 * kKiB / 100 * 95);
    CHECK(pool.allocate(400 * kKiB, 0, &address).status == Status::over_budget);
    for (std::size_t i = 0; i < blocks.size(); i += 2) CHECK(pool.free(blocks[i]).ok());
    std::vector<std::uint64_t> left;
    for (std::size_t i = 1; i < blocks.size(); i += 2) left.push_back(blocks[i]);
    blocks = left;
  }
  for (const std::uint64_t block : blocks) CHECK(pool.free(block).ok());
  CHECK(pool.stats().live_blocks == 0);
  CHECK(pool.stats().largest_free_bytes == 64 * kKiB);
}

TEST_CASE("P10 P11 random blocks against a model, with every engine over memory of the host", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  run_random<FixedEngine>(seed, 6000);
  run_random<HeapEngine>(seed, 6000);
  run_random<RingEngine>(seed, 6000);
  run_random<BinnedEngine>(seed, 6000);
  run_random<PassEngine>(seed, 2000);
}

// Blocks come and go in one order, twenty times; each has a byte of its own at both ends until it goes.
enum class Pattern { sequential, first_in_first_out, last_in_first_out, random, bursty };

template <class Engine>
void run_pattern(Pattern pattern, std::uint64_t seed) {
  constexpr std::uint64_t kChunk = 16 * kKiB, kMax = 32 * kChunk;
  Random random(seed);
  Expect expect;
  MemoryPool<HostSource, Engine> pool;
  REQUIRE(pool.open({.chunk_bytes = kChunk, .max_bytes = kMax}, {}, engine_options<Engine>(64)).ok());
  std::deque<std::pair<std::uint64_t, std::uint64_t>> live;  // address and size, the oldest first
  const auto mark_of = [](std::uint64_t address) { return static_cast<std::byte>(address / 64 * 37 + 11); };
  const auto take = [&] {
    const std::uint64_t size_bytes = 1 + random.below(2048);
    std::uint64_t address = 0;
    if (!expect(pool.allocate(size_bytes, 0, &address).ok())) return;
    pointer(address)[0] = pointer(address)[size_bytes - 1] = mark_of(address);
    live.emplace_back(address, size_bytes);
  };
  const auto give = [&](std::size_t at) {
    const auto [address, size_bytes] = live[at];
    expect(pointer(address)[0] == mark_of(address));
    expect(pointer(address)[size_bytes - 1] == mark_of(address));
    expect(pool.free(address).ok());
    live.erase(live.begin() + static_cast<std::ptrdiff_t>(at));
  };
  for (int round = 0; round < 20; ++round) {
    const std::size_t burst = pattern == Pattern::bursty ? 1 + random.below(20) : 20;
    for (std::size_t i = 0; i < burst; ++i) {
      take();
      if (pattern == Pattern::sequential) give(0);
    }
    std::size_t kept = round == 19 ? 0 : pattern == Pattern::bursty ? random.below(4) : 5;
    while (live.size() > kept) {
      const bool is_newest = pattern == Pattern::last_in_first_out;
      const bool is_any = pattern == Pattern::random || pattern == Pattern::bursty;
      give(is_newest ? live.size() - 1 : is_any ? random.below(live.size()) : 0);
    }
    expect(pool.stats().live_blocks == live.size());
    expect(pool.validate());
  }
  const PoolStats stats = pool.stats();
  expect(stats.allocated == stats.freed && stats.live_bytes == 0);
  expect(stats.hits + stats.misses == stats.requests && stats.failures == 0);
  static_cast<void>(pool.trim(0));
  expect(pool.stats().chunks == 0);
  REQUIRE(expect.failed_line() == 0);
}

TEST_CASE("P11 blocks that go in every usual order, with every engine", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  for (const Pattern pattern : {Pattern::sequential, Pattern::first_in_first_out, Pattern::last_in_first_out,
                                Pattern::random, Pattern::bursty}) {
    INFO("pattern " << static_cast<int>(pattern));
    run_pattern<FixedEngine>(pattern, seed);
    run_pattern<HeapEngine>(pattern, seed);
    run_pattern<RingEngine>(pattern, seed);
    run_pattern<BinnedEngine>(pattern, seed);
    run_pattern<PassEngine>(pattern, seed);
  }
}

TEST_CASE("P13 D11 sizes that make no sense are refused and take no chunk", "[device]") {
  MemoryPool<HostSource, HeapEngine> pool;
  REQUIRE(pool.open({.chunk_bytes = 64 * kKiB, .max_bytes = kMiB}, {}, {}).ok());
  std::uint64_t address = 77;
  CHECK(pool.allocate(0, 0, &address).status == Status::bad_argument);
  constexpr std::uint64_t kSizes[] = {
      UINT64_MAX, UINT64_MAX - 4096,     std::uint64_t{1} << 63, (std::uint64_t{1} << 63) - 1,
      kMiB + 1,   std::uint64_t{1} << 32};
  for (const std::uint64_t size_bytes : kSizes) {
    CHECK(pool.allocate(size_bytes, 0, &address).status == Status::over_budget);
  }
  CHECK(address == 77);
  CHECK(pool.stats().chunks == 0);
  CHECK(pool.stats().failures == 6);
  CHECK(pool.allocate(kMiB, 0, &address).ok());
  CHECK(pool.free(address).ok());
  CHECK(pool.free(0).status == Status::not_owned);
  CHECK(pool.free(UINT64_MAX).status == Status::not_owned);

  PoolOptions bad = {.chunk_bytes = 0, .max_bytes = kMiB};
  MemoryPool<HostSource, HeapEngine> other;
  CHECK(other.open(bad, {}, {}).status == Status::bad_argument);
  bad = {.chunk_bytes = 64 * kKiB, .max_bytes = 0};
  CHECK(other.open(bad, {}, {}).status == Status::bad_argument);
  bad = {.chunk_bytes = 64 * kKiB, .max_bytes = UINT64_MAX};
  CHECK(other.open(bad, {}, {}).status == Status::bad_argument);
  bad = {.chunk_bytes = 64 * kKiB + 1, .max_bytes = kMiB};
  CHECK(other.open(bad, {}, {}).status == Status::bad_argument);
  CHECK_FALSE(other.is_open());
}

TEST_CASE("P14 mut-B06 alignments are kept by every engine, others refused", "[device]") {
  MemoryPool<HostSource, HeapEngine> heap;
  MemoryPool<HostSource, RingEngine> ring;
  MemoryPool<HostSource, BinnedEngine> bins;
  const PoolOptions options = {.chunk_bytes = 64 * kKiB, .max_bytes = 16 * kMiB};
  REQUIRE(heap.open(options, {}, {.unit_bytes = 64}).ok());
  REQUIRE(ring.open(options, {}, {.blocks_max = 64, .align_bytes = 1}).ok());
  REQUIRE(bins.open(options, {}, {.unit_bytes = 64}).ok());
  std::uint64_t address = 0;
  for (std::uint64_t align_bytes = 1; align_bytes <= 2 * kMiB; align_bytes *= 2) {
    for (const std::uint64_t size_bytes : {1u, 32u, 64u, 1000u, 5000u}) {
      INFO(size_bytes << " at " << align_bytes);
      REQUIRE(heap.allocate(size_bytes, align_bytes, &address).ok());
      CHECK(address % align_bytes == 0);
      if (align_bytes >= 64 * kKiB) CHECK(heap.free(address).ok());
      REQUIRE(bins.allocate(size_bytes, align_bytes, &address).ok());
      CHECK(address % align_bytes == 0);
      CHECK(bins.size_of(address) >= size_bytes);
      if (align_bytes >= 64 * kKiB) CHECK(bins.free(address).ok());
      REQUIRE(ring.allocate(size_bytes, align_bytes, &address).ok());
      CHECK(address % align_bytes == 0);
      std::memset(pointer(address), 1, size_bytes);
      CHECK(ring.free(address).ok());
    }
  }
  for (const std::uint64_t align_bytes : {std::uint64_t{3}, std::uint64_t{48}, 4 * kMiB, UINT64_MAX}) {
    CHECK(heap.allocate(64, align_bytes, &address).status == Status::bad_argument);
    CHECK(bins.allocate(64, align_bytes, &address).status == Status::bad_argument);
    CHECK(ring.allocate(64, align_bytes, &address).status == Status::bad_argument);
  }
  // 64 bytes at 4096 out of a bin of 64: the case of the catalogue.
  REQUIRE(bins.allocate(64, 64, &address).ok());
  REQUIRE(bins.allocate(64, 4096, &address).ok());
  CHECK(address % 4096 == 0);
}

TEST_CASE("S1 S8 blocks of one size: rounded, no larger request, no finer alignment", "[device]") {
  MemoryPool<HostSource, FixedEngine> pool;
  const PoolOptions options = {.chunk_bytes = 12 * kKiB, .max_bytes = kMiB};
  REQUIRE(pool.open(options, {}, {.block_bytes = 128, .align_bytes = 512}).ok());
  std::uint64_t address = 0;
  REQUIRE(pool.allocate(512, 512, &address).ok());
  CHECK(address % 512 == 0);
  CHECK(pool.size_of(address) == 512);
  CHECK(pool.allocate(513, 1, &address).status == Status::bad_argument);
  CHECK(pool.allocate(64, 1024, &address).status == Status::bad_argument);
  CHECK(pool.stats().chunks == 1);
  CHECK(pool.open(options, {}, {.block_bytes = 0}).status == Status::bad_argument);
  CHECK(pool.open(options, {}, {.block_bytes = 13 * kKiB}).status == Status::bad_argument);

  // Alignments that are no powers of two are for numbers only.
  MemoryPool<NumberSource, FixedEngine> numbers;
  REQUIRE(numbers.open({.chunk_bytes = 6000, .max_bytes = 6000}, {}, {.block_bytes = 512, .align_bytes = 100})
              .ok());
  REQUIRE(numbers.allocate_item(&address).ok());
  REQUIRE(numbers.allocate_item(&address).ok());
  CHECK(address == 600);
}

TEST_CASE("S9 1-9 bins of doubling sizes, and a heap for what is longer", "[device]") {
  MemoryPool<HostSource, BinnedEngine> pool;
  REQUIRE(pool.open({.chunk_bytes = 256 * kKiB, .max_bytes = 4 * kMiB}, {}, {.unit_bytes = 64}).ok());
  struct Case {
    std::uint64_t size_bytes, block_bytes;
  };
  constexpr Case kCases[] = {
      {1, 64}, {64, 64}, {65, 128}, {1000, 1024}, {8192, 8192}, {8193, 8256}, {200 * 1024, 200 * 1024}};
  for (const Case& one : kCases) {
    std::uint64_t address = 0;
    REQUIRE(pool.allocate(one.size_bytes, 0, &address).ok());
    CHECK(pool.size_of(address) == one.block_bytes);
    CHECK(pool.free(address).ok());
  }
  CHECK(pool.stats().live_blocks == 0);
  CHECK(pool.stats().largest_free_bytes == 256 * kKiB);  // empty slabs are the heap's again
  CHECK(pool.trim(0) == pool.stats().peak_chunk_bytes);
}

TEST_CASE("S11 mut-B14 mut-B07 double frees and foreign addresses, with every engine", "[device]") {
  const auto try_frees = [](auto& pool, std::uint64_t size_bytes) {
    std::uint64_t kept = 0, address = 0;
    REQUIRE(pool.allocate(size_bytes, 0, &kept).ok());
    REQUIRE(pool.allocate(size_bytes, 0, &address).ok());
    const PoolStats before = pool.stats();
    CHECK(pool.free(address + 1).status == Status::not_owned);
    CHECK(pool.free(address ^ (std::uint64_t{1} << 62)).status == Status::not_owned);
    CHECK(pool.stats().live_blocks == before.live_blocks);
    REQUIRE(pool.free(address).ok());
    const Status again = pool.free(address).status;
    CHECK((again == Status::double_free || again == Status::not_owned));
    CHECK(pool.stats().live_blocks == 1);
    CHECK(pool.stats().live_bytes == before.live_bytes / 2);
    CHECK(pool.free(kept).ok());
    CHECK(pool.validate());
  };
  const PoolOptions options = {.chunk_bytes = 64 * kKiB, .max_bytes = kMiB};
  MemoryPool<HostSource, FixedEngine> fixed;
  MemoryPool<HostSource, HeapEngine> heap;
  MemoryPool<HostSource, RingEngine> ring;
  MemoryPool<HostSource, BinnedEngine> bins;
  MemoryPool<HostSource, PassEngine> pass;
  REQUIRE(fixed.open(options, {}, engine_options<FixedEngine>(64)).ok());
  REQUIRE(heap.open(options, {}, engine_options<HeapEngine>(64)).ok());
  REQUIRE(ring.open(options, {}, engine_options<RingEngine>(64)).ok());
  REQUIRE(bins.open(options, {}, engine_options<BinnedEngine>(64)).ok());
  REQUIRE(pass.open(options, {}, {}).ok());
  for (const std::uint64_t size_bytes : {64u, 128u, 512u, 4096u}) {
    try_frees(fixed, size_bytes);
    try_frees(heap, size_bytes);
    try_frees(ring, size_bytes);
    try_frees(bins, size_bytes);
    try_frees(pass, size_bytes);
  }
}

TEST_CASE("C8 mut-B01 a block never lies in two chunks, and chunks do not join", "[device]") {
  MemoryPool<HostSource, HeapEngine> pool;
  REQUIRE(pool.open({.chunk_bytes = 64 * kKiB, .max_bytes = kMiB}, {}, {.unit_bytes = 1024}).ok());
  std::vector<std::uint64_t> blocks(4);
  for (std::uint64_t& block : blocks) REQUIRE(pool.allocate(64 * kKiB, 0, &block).ok());
  CHECK(blocks[1] == blocks[0] + 64 * kKiB);  // neighbours by address
  for (const std::uint64_t block : blocks) CHECK(pool.free(block).ok());
  CHECK(pool.stats().largest_free_bytes == 64 * kKiB);
  // Blocks of 40 KiB: one in each chunk, although two chunks have room for three.
  for (std::uint64_t& block : blocks) {
    REQUIRE(pool.allocate(40 * kKiB, 0, &block).ok());
    CHECK((block - blocks[0]) % (64 * kKiB) == 0);
  }
  CHECK(pool.stats().chunks == 4);
  // Taking one chunk away leaves its neighbours whole.
  CHECK(pool.free(blocks[1]).ok());
  CHECK(pool.trim(0) == 64 * kKiB);
  std::uint64_t rest = 0;
  for (int i = 0; i < 3; ++i) {
    REQUIRE(pool.allocate(24 * kKiB, 0, &rest).ok());
    CHECK(rest - blocks[1] >= 64 * kKiB);
  }
  CHECK(pool.stats().chunks == 3);
  CHECK(pool.validate());
}

TEST_CASE("R1 R5 R6 R10 a ring in a pool: in order, out of order, for ever, and its range goes", "[device]") {
  MemoryPool<HostSource, RingEngine> pool;
  REQUIRE(
      pool.open({.chunk_bytes = 4096, .max_bytes = 8192}, {}, {.blocks_max = 64, .align_bytes = 32}).ok());
  std::vector<std::uint64_t> blocks(8);
  for (unsigned i = 0; i < 8; ++i) {
    REQUIRE(pool.allocate(100, 32, &blocks[i]).ok());
    CHECK(blocks[i] == blocks[0] + i * 128);
  }
  for (const unsigned i : {5u, 1u, 7u, 0u, 3u, 2u, 6u, 4u}) CHECK(pool.free(blocks[i]).ok());
  CHECK(pool.stats().largest_free_bytes == 4096);
  for (unsigned i = 0; i < 1u << 20; ++i) {
    std::uint64_t address = 0;
    if (!pool.allocate(1 + i % 3000, 32, &address).ok() || !pool.free(address).ok()) FAIL("loop " << i);
  }
  CHECK(pool.stats().chunks == 1);
  CHECK(pool.trim(0) == 4096);
  CHECK(pool.stats().chunks == 0);
}

TEST_CASE("R7 mut-B04 a request that fails takes no chunk; a long one has its own", "[device]") {
  MemoryPool<HostSource, RingEngine> ring;
  MemoryPool<HostSource, HeapEngine> heap;
  MemoryPool<HostSource, FixedEngine> fixed;
  const PoolOptions options = {.chunk_bytes = 4096, .max_bytes = 64 * kKiB};
  REQUIRE(ring.open(options, {}, {}).ok());
  REQUIRE(heap.open(options, {}, {}).ok());
  REQUIRE(fixed.open(options, {}, {.block_bytes = 64}).ok());
  std::uint64_t address = 0;
  for (int i = 0; i < 100; ++i) {
    CHECK_FALSE(ring.allocate(65 * kKiB, 0, &address).ok());
    CHECK_FALSE(heap.allocate(65 * kKiB, 0, &address).ok());
    CHECK_FALSE(fixed.allocate(65, 0, &address).ok());
    CHECK_FALSE(fixed.allocate(64, 128, &address).ok());
    CHECK_FALSE(heap.allocate(64 * kKiB, 2 * kMiB, &address).ok());  // with what alignment costs
  }
  CHECK(ring.stats().chunks_taken == 0);
  CHECK(heap.stats().chunks_taken == 0);
  CHECK(fixed.stats().chunks_taken == 0);
  REQUIRE(ring.allocate(20 * kKiB, 0, &address).ok());
  CHECK(ring.stats().chunks == 1);
  CHECK(ring.stats().chunk_bytes == 20 * kKiB);
  CHECK(ring.free(address).ok());
  CHECK(ring.trim(0) == 20 * kKiB);
}

TEST_CASE("P15 memory that is freed is cleared when asked", "[device]") {
  MemoryPool<HostSource, HeapEngine> pool;
  const PoolOptions options = {.chunk_bytes = 64 * kKiB, .max_bytes = kMiB, .is_cleared = true};
  REQUIRE(pool.open(options, {}, {.unit_bytes = 64}).ok());
  std::uint64_t address = 0, neighbour = 0;
  REQUIRE(pool.allocate(1000, 0, &address).ok());
  REQUIRE(pool.allocate(64, 0, &neighbour).ok());
  std::memset(pointer(address), 0xFF, 1024);
  std::memset(pointer(neighbour), 0xEE, 64);
  CHECK(pool.free(address).ok());
  CHECK(pool.free(address).status == Status::double_free);
  for (unsigned i = 0; i < 1024; ++i) REQUIRE(pointer(address)[i] == std::byte{0});
  CHECK(pointer(neighbour)[0] == std::byte{0xEE});
  CHECK(pool.free(neighbour).ok());

  MemoryPool<NumberSource, HeapEngine> numbers;
  CHECK(numbers.open(options, {}, {}).status == Status::bad_argument);
}

TEST_CASE("P16 a pool that was closed says so, and closing twice is nothing", "[device]") {
  MemoryPool<HostSource, HeapEngine> pool;
  std::uint64_t address = 0;
  CHECK(pool.allocate(64, 0, &address).status == Status::bad_argument);
  REQUIRE(pool.open({.chunk_bytes = 64 * kKiB, .max_bytes = kMiB}, {}, {}).ok());
  REQUIRE(pool.allocate(64, 0, &address).ok());
  CHECK(pool.close().ok());
  CHECK(pool.close().ok());
  CHECK(pool.allocate(64, 0, &address).status == Status::bad_argument);
  CHECK(pool.free(address).status == Status::not_owned);
  CHECK(pool.trim(0) == 0);
  CHECK(pool.size_of(address) == 0);
  CHECK(pool.synchronize().ok());
  CHECK(pool.set_max(1).status == Status::bad_argument);
  REQUIRE(pool.open({.chunk_bytes = 64 * kKiB, .max_bytes = kMiB}, {}, {}).ok());
  CHECK(pool.stats().requests == 0);
  CHECK(pool.stats().chunks == 0);
}

}  // namespace
}  // namespace device_test
