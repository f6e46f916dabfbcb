// Pools over a GPU: memory of the device, pinned memory and tiles, with every engine. What would break: a
// block in two handles, two tiles at one place, a device that is full for ever after.
#include "src/device/async_source.h"
#include "tests/device_pool_rig.h"

namespace device_test {
namespace {

constexpr std::uint64_t align_of(std::uint64_t align_max_bytes) {
  return align_max_bytes < 64 * kKiB ? align_max_bytes : 64 * kKiB;
}

template <class Source, class Engine>
typename Engine::Options device_engine() {
  if constexpr (std::is_same_v<Engine, FixedEngine>) return {.block_bytes = 64 * kKiB};
  if constexpr (std::is_same_v<Engine, RingEngine>) {
    return {.blocks_max = 64, .align_bytes = align_of(Source::kAlignMaxBytes)};
  }
  return engine_options<Engine>(64 * kKiB);
}

// Blocks of 64 KiB up to the cap and down again: twice, with a trim in between.
template <class Source, class Engine>
void fill_twice(const typename Source::Options& source) {
  MemoryPool<Source, Engine> pool;
  REQUIRE(pool.open(kOptions, source, device_engine<Source, Engine>()).ok());
  for (int round = 0; round < 2; ++round) {
    std::map<std::uint64_t, bool> blocks;
    std::uint64_t address = 0;
    Outcome outcome;
    const std::uint64_t align_bytes = align_of(Source::kAlignMaxBytes);
    while ((outcome = pool.allocate(64 * kKiB, align_bytes, &address)).ok()) {
      REQUIRE(blocks.emplace(address, true).second);
      const auto next = blocks.upper_bound(address);
      REQUIRE((next == blocks.end() || next->first - address >= 64 * kKiB));
    }
    CHECK(outcome.status == Status::over_budget);
    CHECK(blocks.size() == (Engine::kKeepsChunks ? 8 * kGranule / (64 * kKiB) : 8));
    CHECK(pool.stats().chunk_bytes == 8 * kGranule);
    CHECK(pool.validate());
    for (const auto& block : blocks) REQUIRE(pool.free(block.first).ok());
    CHECK_FALSE(pool.free(blocks.begin()->first).ok());
    CHECK(pool.trim(0) == (Engine::kKeepsChunks ? 8 * kGranule : 0));
    CHECK(pool.stats().chunk_bytes == 0);
  }
}

template <class Source>
void fill_twice_with_each_engine(const typename Source::Options& source) {
  fill_twice<Source, FixedEngine>(source);
  fill_twice<Source, HeapEngine>(source);
  fill_twice<Source, RingEngine>(source);
  fill_twice<Source, BinnedEngine>(source);
  fill_twice<Source, PassEngine>(source);
}

TEST_CASE("1-1 P3 every source with every engine, up to the cap and down again", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ChunkPool memory, tiles;
    REQUIRE(memory.open(gpu, handles()).ok());
    REQUIRE(tiles.open(gpu, handles(true)).ok());
    fill_twice_with_each_engine<HostSource>({});
    fill_twice_with_each_engine<PinnedSource>({&gpu});
    fill_twice_with_each_engine<DeviceSource>({&memory});
    fill_twice_with_each_engine<DeviceAsyncSource>({&gpu, nullptr, 0});
    fill_twice_with_each_engine<TileSource>({&tiles});
    fill_twice_with_each_engine<NumberSource>({});
    // Physical memory was made once and used again by all of them.
    CHECK(memory.stats().created == 8);
    CHECK(tiles.stats().created == 8);
    CHECK(rig.emulated->usage().host_ranges == 0);
  });
}

TEST_CASE("1-11 the example of the requirements: tiles up to a gigabyte", "[device]") {
  EmulatedGpu::Options large = gpu_test::small();
  large.device_bytes = 2 * kGiB;
  on_gpu(large, [](Rig&, Gpu& gpu) {
    ChunkPool chunks;
    REQUIRE(chunks.open(gpu, handles(true)).ok());
    MemoryPool<TileSource, FixedEngine> pool;
    REQUIRE(
        pool.open({.chunk_bytes = 2 * kMiB, .max_bytes = kGiB}, {&chunks}, {.block_bytes = kTileBytes}).ok());
    std::map<std::pair<cuda::MemoryHandle, std::uint64_t>, std::uint64_t> places;
    TileRun run;
    for (unsigned i = 0; i < kGiB / kTileBytes; ++i) {
      REQUIRE(pool.allocate_tiles(1, &run).ok());
      places[{run.handle, run.offset_bytes}] = run.address;
    }
    CHECK(places.size() == kGiB / kTileBytes);  // no two tiles share a place
    CHECK(pool.allocate_tiles(1, &run).status == Status::over_budget);
    CHECK(pool.stats().chunks == 512);
    for (const auto& place : places) REQUIRE(pool.free(place.second).ok());
    CHECK(pool.trim(0) == kGiB);
  });
}

TEST_CASE("P5 mut-B02 mut-B12 runs of tiles: handle and offset, whole tiles only, inside one handle",
          "[device]") {
  on_gpu(gpu_test::small(), [](Rig&, Gpu& gpu) {
    ChunkPool chunks, untiled;
    REQUIRE(chunks.open(gpu, handles(true)).ok());
    REQUIRE(untiled.open(gpu, handles()).ok());
    MemoryPool<TileSource, HeapEngine> pool;
    CHECK(pool.open(kOptions, {&untiled}, {.unit_bytes = kTileBytes}).status == Status::bad_argument);
    REQUIRE(pool.open(kOptions, {&chunks}, {.unit_bytes = kTileBytes}).ok());
    std::map<std::pair<cuda::MemoryHandle, std::uint64_t>, TileRun> runs;
    Random random(5);
    TileRun run;
    for (unsigned i = 0; i < 2000; ++i) {
      const std::uint64_t count = random.one_in(3) ? 1 : random.one_in(2) ? 4 : 1 + random.below(32);
      if (random.one_in(2) && !runs.empty()) {
        const auto at = std::next(runs.begin(), static_cast<long>(random.below(runs.size())));
        REQUIRE(pool.free(at->second.address).ok());
        runs.erase(at);
      }
      if (!pool.allocate_tiles(count, &run).ok()) continue;
      REQUIRE(run.count == count);
      REQUIRE(run.offset_bytes % kTileBytes == 0);
      REQUIRE(run.offset_bytes + count * kTileBytes <= kGranule);
      const auto next = runs.lower_bound({run.handle, run.offset_bytes});
      if (next != runs.end() && next->first.first == run.handle) {
        REQUIRE(run.offset_bytes + count * kTileBytes <= next->first.second);
      }
      if (next != runs.begin() && std::prev(next)->first.first == run.handle) {
        const TileRun& before = std::prev(next)->second;
        REQUIRE(before.offset_bytes + before.count * kTileBytes <= run.offset_bytes);
      }
      runs[{run.handle, run.offset_bytes}] = run;
    }
    std::uint64_t address = 0;
    const std::uint64_t taken = pool.stats().chunks_taken;
    for (const std::uint64_t size_bytes :
         {std::uint64_t{1}, kTileBytes - 1, kTileBytes + 1, 5 * kTileBytes / 2}) {
      CHECK(pool.allocate(size_bytes, 0, &address).status == Status::bad_argument);
    }
    CHECK(pool.allocate_tiles(0, &run).status == Status::bad_argument);
    CHECK(pool.allocate_tiles(33, &run).status == Status::bad_argument);  // longer than a handle
    CHECK_FALSE(pool.allocate_tiles(UINT64_MAX / 2, &run).ok());
    CHECK(pool.stats().chunks_taken == taken);
    for (const auto& one : runs) CHECK(pool.free(one.second.address).ok());
    CHECK(pool.validate());
  });
}

TEST_CASE("1-4 P6 P8 memory of the device: contents, long blocks, the device's end, headroom", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ChunkPool chunks;
    REQUIRE(chunks.open(gpu, handles()).ok());
    MemoryPool<DeviceSource, HeapEngine> pool;
    PoolOptions options = kOptions;
    options.max_bytes = 64 * kMiB;  // more than the device has
    REQUIRE(pool.open(options, {&chunks}, {}).ok());
    // One block over three handles, written at both ends.
    std::uint64_t large = 0, small = 0;
    REQUIRE(pool.allocate(5 * kMiB, kGranule, &large).ok());
    CHECK(large % kGranule == 0);
    REQUIRE(rig.store_word(large, 17, nullptr) == cuda::Result::success);
    REQUIRE(rig.store_word(large + 5 * kMiB - 4, 18, nullptr) == cuda::Result::success);
    CHECK(rig.read_word(large) == 17);
    CHECK(rig.read_word(large + 5 * kMiB - 4) == 18);
    CHECK(pool.stats().chunk_bytes == 6 * kMiB);
    // Until the device is full, and on after something was freed.
    std::vector<std::uint64_t> blocks;
    Outcome outcome;
    while ((outcome = pool.allocate(kMiB, 0, &small)).ok()) blocks.push_back(small);
    CHECK(outcome.status == Status::out_of_memory);
    CHECK(pool.stats().chunk_bytes == 32 * kMiB);
    CHECK(pool.free(blocks.back()).ok());
    CHECK(pool.allocate(kMiB, 0, &small).ok());
    for (const std::uint64_t block : blocks) {
      if (block != small) CHECK(pool.free(block).ok());
    }
    CHECK(pool.free(small).ok());
    CHECK(pool.trim(0) == 26 * kMiB);
    CHECK(rig.read_word(large) == 17);
    CHECK(pool.free(large).ok());
    CHECK(pool.close().ok());
    chunks.trim(0);

    options.headroom_bytes = 20 * kMiB;
    REQUIRE(pool.open(options, {&chunks}, {}).ok());
    REQUIRE(pool.allocate(12 * kMiB, 0, &large).ok());
    CHECK(pool.allocate(kMiB, 0, &small).status == Status::out_of_memory);
    CHECK(gpu.free_bytes() == 20 * kMiB);
    CHECK(pool.free(large).ok());
  });
}

TEST_CASE("1-4 a pool is a source of blocks for what is built on them", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ChunkPool chunks;
    REQUIRE(chunks.open(gpu, handles()).ok());
    DevicePool pool;
    REQUIRE(pool.open(kOptions, {&chunks}, {}).ok());
    const BlockSource source = pool.block_source();
    cuda::DevicePointer address = 0;
    REQUIRE(source.allocate(source.self, 1000, 0, &address).ok());
    CHECK(address % kDeviceAlignBytes == 0);
    REQUIRE(rig.store_word(address + 996, 5, nullptr) == cuda::Result::success);
    CHECK(rig.read_word(address + 996) == 5);
    CHECK(source.free(source.self, address).ok());
    CHECK(source.free(source.self, address).status == Status::double_free);
    CHECK(source.trim(source.self, 0) == kGranule);
  });
}

}  // namespace
}  // namespace device_test
