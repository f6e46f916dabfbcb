// Memory pools by the C and C++ interface: every source with every engine. What would break: a pairing that
// is another one, a bad argument that is taken, a function that answers for a pool that cannot do it.
#include <glebe/device_memory_pool.hpp>

#include "tests/device_api_rig.h"

namespace api_test {
namespace {

constexpr std::uint64_t kTile = 64 * kKiB;

glebe_memory_pool_options options_of(glebe_source source, glebe_engine engine) {
  glebe_memory_pool_options options = {};
  options.source = source;
  options.engine = engine;
  options.chunk_bytes = 2 * kMiB;
  options.max_bytes = 6 * kMiB;
  options.block_bytes = kTile;
  return options;
}

// What every pairing does: blocks up to the cap, frees, misuse, trim.
void use_pool(const glebe::MemoryPool& pool, const glebe_memory_pool_options& options) {
  const std::uint64_t most = options.max_bytes / kTile;
  std::vector<glebe::DeviceAddress> blocks;
  glebe::DeviceAddress block = 0;
  glebe::DeviceResult result = glebe_device_ok;
  while (blocks.size() <= most) {
    result = pool.allocate(kTile, &block, options.source == glebe_source_tiles ? 0 : 256);
    if (result != glebe_device_ok) break;
    blocks.push_back(block);
  }
  CHECK(result == glebe_device_over_budget);
  REQUIRE(blocks.size() == (options.engine == glebe_engine_none ? 3 : most));
  CHECK(pool.allocate(0, &block) == glebe_device_bad_argument);
  CHECK(pool.allocate(UINT64_MAX, &block) != glebe_device_ok);
  CHECK(pool.allocate(kTile, &block, 3) == glebe_device_bad_argument);
  const glebe_memory_pool_stats full = pool.stats();
  CHECK(full.live_blocks == blocks.size());
  CHECK(full.chunk_bytes == options.max_bytes);
  CHECK(full.chunks == 3);
  CHECK(full.hits + full.misses == full.requests);
  CHECK(full.failures >= 1);
  CHECK(pool.usable_size(blocks[1]) >= kTile);
  CHECK(pool.usable_size(blocks[1] + 256) == 0);
  CHECK(pool.free(blocks[1] + 1) == glebe_device_not_owned);
  CHECK(pool.free(blocks[1]) == glebe_device_ok);
  CHECK(pool.free(blocks[1]) != glebe_device_ok);
  CHECK(pool.set_max(options.max_bytes * 64) == glebe_device_bad_argument);
  CHECK(pool.set_max(kTile) == glebe_device_ok);
  blocks.erase(blocks.begin() + 1);
  for (const glebe::DeviceAddress left : blocks) CHECK(pool.free(left) == glebe_device_ok);
  const std::uint64_t idle = pool.stats().chunk_bytes;
  CHECK(idle == (options.engine == glebe_engine_none ? 0 : options.max_bytes));
  CHECK(pool.trim() == idle);
  CHECK(pool.stats().chunks == 0);
  CHECK(pool.stats().allocated == pool.stats().freed);
  CHECK(pool.allocate(2 * kMiB, &block) == glebe_device_over_budget);
}

TEST_CASE("1-1 by the interface every source goes with every engine", "[device]") {
  const glebe::Device device = opened();
  for (int source = glebe_source_host; source <= glebe_source_device_async; ++source) {
    for (int engine = glebe_engine_heap; engine <= glebe_engine_none; ++engine) {
      CAPTURE(source, engine);
      const auto options = options_of(static_cast<glebe_source>(source), static_cast<glebe_engine>(engine));
      glebe::MemoryPool pool;
      REQUIRE(pool.open(device, options) == glebe_device_ok);
      use_pool(pool, options);
      // What only some can do.
      const bool is_numbers = source == glebe_source_numbers, is_tiles = source == glebe_source_tiles;
      REQUIRE(pool.set_max(options.max_bytes) == glebe_device_ok);
      glebe::DeviceAddress item = 0;
      std::uint64_t* objects = nullptr;
      glebe_tile_run run = {};
      CHECK(pool.allocate_item(&item) ==
            (engine == glebe_engine_fixed ? glebe_device_ok : glebe_device_unsupported));
      CHECK(pool.allocate_objects(1000, &objects) ==
            (is_numbers || is_tiles ? glebe_device_unsupported : glebe_device_ok));
      CHECK((objects != nullptr) == (!is_numbers && !is_tiles));
      CHECK(pool.allocate_tiles(1, &run) == (is_tiles ? glebe_device_ok : glebe_device_unsupported));
      CHECK((run.handle != 0) == is_tiles);
      CHECK(run.count == (is_tiles ? 1 : 0));
      pool.close();
      CHECK_FALSE(pool);
    }
  }
  CHECK(device.info().free_bytes == 32 * kMiB);
}

TEST_CASE("P13 a memory pool of the interface opens, or says why not", "[device]") {
  const glebe::Device device = opened();
  glebe_memory_pool* pool = nullptr;
  glebe_memory_pool_options options = options_of(glebe_source_host, glebe_engine_heap);
  CHECK(glebe_memory_pool_open(nullptr, &options, &pool) == glebe_device_bad_argument);
  options.struct_bytes = sizeof options;
  CHECK(glebe_memory_pool_open(nullptr, &options, nullptr) == glebe_device_bad_argument);
  CHECK(glebe_memory_pool_open(nullptr, nullptr, &pool) == glebe_device_bad_argument);
  const auto refuses = [&](auto change) {
    glebe_memory_pool_options wrong = options;
    change(wrong);
    return glebe_memory_pool_open(device.handle(), &wrong, &pool) == glebe_device_bad_argument;
  };
  CHECK(refuses([](auto& wrong) { wrong.source = nameless<glebe_source>(6); }));
  CHECK(refuses([](auto& wrong) { wrong.engine = nameless<glebe_engine>(5); }));
  CHECK(refuses([](auto& wrong) { wrong.max_bytes = 0; }));
  CHECK(refuses([](auto& wrong) { wrong.address_bytes = kMiB; }));
  CHECK(refuses([](auto& wrong) { wrong.align_max_bytes = 3; }));
  CHECK(refuses([](auto& wrong) { wrong.unit_bytes = 3; }));
  CHECK(refuses([](auto& wrong) {
    wrong.engine = glebe_engine_fixed;
    wrong.block_bytes = 0;
  }));
  CHECK(refuses([](auto& wrong) {
    wrong.engine = glebe_engine_ring;
    wrong.align_bytes = 3;
  }));
  CHECK(refuses([](auto& wrong) {
    wrong.engine = glebe_engine_bins;
    wrong.bin_count = 17;
  }));
  CHECK(refuses([](auto& wrong) {
    wrong.engine = glebe_engine_bins;
    wrong.slab_bytes = 3;
  }));
  CHECK(refuses([](auto& wrong) {
    wrong.source = glebe_source_device;
    wrong.chunk_bytes = kMiB;  // not what the device gives
  }));
  CHECK(refuses([](auto& wrong) {
    wrong.source = glebe_source_numbers;
    wrong.is_cleared = 1;
  }));
  for (const glebe_source source :
       {glebe_source_pinned, glebe_source_device, glebe_source_tiles, glebe_source_device_async}) {
    options.source = source;
    CHECK(glebe_memory_pool_open(nullptr, &options, &pool) == glebe_device_bad_argument);
  }
  CHECK(pool == nullptr);
  CHECK(glebe_memory_pool_close(nullptr) == glebe_device_ok);
}

TEST_CASE("P13 calls of a memory pool of the interface refuse what makes no sense", "[device]") {
  glebe::MemoryPool pool;
  REQUIRE(pool.open(options_of(glebe_source_host, glebe_engine_heap)) == glebe_device_ok);
  std::uint64_t address = 7;
  glebe_tile_run run = {};
  glebe_memory_pool_stats stats = {};
  glebe_memory_pool* const handle = pool.handle();
  CHECK(glebe_memory_pool_allocate(nullptr, 1, 0, &address) == glebe_device_bad_argument);
  CHECK(glebe_memory_pool_allocate(handle, 1, 0, nullptr) == glebe_device_bad_argument);
  CHECK(glebe_memory_pool_allocate_item(nullptr, &address) == glebe_device_bad_argument);
  CHECK(glebe_memory_pool_allocate_item(handle, nullptr) == glebe_device_bad_argument);
  CHECK(glebe_memory_pool_allocate_tiles(nullptr, 1, &run) == glebe_device_bad_argument);
  CHECK(glebe_memory_pool_allocate_tiles(handle, 1, nullptr) == glebe_device_bad_argument);
  const auto objects = [&](std::uint64_t count, std::uint64_t bytes, std::uint64_t alignment) {
    return glebe_memory_pool_allocate_objects(handle, count, bytes, alignment, &address);
  };
  CHECK(objects(0, 8, 8) == glebe_device_bad_argument);
  CHECK(objects(8, 0, 8) == glebe_device_bad_argument);
  CHECK(objects(8, 8, 0) == glebe_device_bad_argument);
  CHECK(objects(8, 8, 12) == glebe_device_bad_argument);
  CHECK(objects((UINT64_MAX >> 3) + 2, 8, 8) == glebe_device_bad_argument);  // would wrap around to 8
  CHECK(address == 7);
  CHECK(objects(1000, 24, 4096) == glebe_device_ok);
  CHECK(address % 4096 == 0);
  CHECK(pool.usable_size(address) >= 24000);
  std::memset(reinterpret_cast<void*>(static_cast<std::uintptr_t>(address)), 1, 24000);
  // Without a device nothing is freed after a stream, and there is nothing to wait for.
  CHECK(pool.free_after(nullptr, {&address, 1}) == glebe_device_unsupported);
  CHECK(pool.retire() == glebe_device_ok);
  CHECK(pool.synchronize() == glebe_device_ok);
  CHECK(glebe_memory_pool_free_after(handle, nullptr, nullptr, 1) == glebe_device_bad_argument);
  CHECK(glebe_memory_pool_free_after(handle, nullptr, &address, 0) == glebe_device_bad_argument);
  CHECK(glebe_memory_pool_free_after(nullptr, nullptr, &address, 1) == glebe_device_bad_argument);
  CHECK(glebe_memory_pool_free(nullptr, address) == glebe_device_bad_argument);
  CHECK(glebe_memory_pool_retire(nullptr) == glebe_device_bad_argument);
  CHECK(glebe_memory_pool_synchronize(nullptr) == glebe_device_bad_argument);
  CHECK(glebe_memory_pool_set_max(nullptr, 1) == glebe_device_bad_argument);
  CHECK(glebe_memory_pool_trim(nullptr, 0) == 0);
  CHECK(glebe_memory_pool_usable_size(nullptr, address) == 0);
  glebe_memory_pool_get_stats(nullptr, &stats);
  glebe_memory_pool_get_stats(handle, nullptr);
  CHECK(stats.requests == 0);
  CHECK(pool.free(address) == glebe_device_ok);
}

TEST_CASE("X4 P15 blocks of the interface's memory pools wait for their stream, and are cleared",
          "[device]") {
  const glebe::Device device = opened();
  Stream stream(device);
  glebe_memory_pool_options options = options_of(glebe_source_device, glebe_engine_heap);
  glebe::MemoryPool pool;
  REQUIRE(pool.open(device, options) == glebe_device_ok);
  glebe::DeviceAddress blocks[2] = {};
  for (auto& block : blocks) REQUIRE(pool.allocate(1000, &block) == glebe_device_ok);
  const glebe::DeviceAddress wrong[2] = {blocks[0], blocks[1] + 256 * 64};
  CHECK(pool.free_after(stream, wrong) == glebe_device_not_owned);
  CHECK(pool.stats().waiting_blocks == 0);  // none of them
  REQUIRE(pool.free_after(stream, blocks) == glebe_device_ok);
  CHECK(pool.free(blocks[0]) == glebe_device_double_free);
  CHECK(pool.synchronize() == glebe_device_ok);
  CHECK(pool.stats().live_blocks == 0);
  REQUIRE(pool.allocate(1000, &blocks[0]) == glebe_device_ok);
  REQUIRE(pool.free_after(stream, {blocks, 1}) == glebe_device_ok);
  CHECK(pool.retire() == glebe_device_ok);
  CHECK(pool.stats().waiting_blocks == 0);

  options = options_of(glebe_source_host, glebe_engine_fixed);
  options.is_cleared = 1;
  glebe::MemoryPool cleared;
  REQUIRE(cleared.open(device, options) == glebe_device_ok);
  glebe::DeviceAddress item = 0, again = 0;
  REQUIRE(cleared.allocate_item(&item) == glebe_device_ok);
  auto* const bytes = reinterpret_cast<unsigned char*>(static_cast<std::uintptr_t>(item));
  std::memset(bytes, 0xEE, kTile);
  REQUIRE(cleared.free(item) == glebe_device_ok);
  REQUIRE(cleared.allocate_item(&again) == glebe_device_ok);
  CHECK(again == item);
  CHECK(std::count(bytes, bytes + kTile, 0) == static_cast<std::ptrdiff_t>(kTile));
  // With a device these are freed after a stream as well, and by it.
  CHECK(cleared.free_after(stream, {&again, 1}) == glebe_device_ok);
  CHECK(cleared.synchronize() == glebe_device_ok);
  CHECK(cleared.stats().live_blocks == 0);
}

TEST_CASE("1-1 options of the interface's memory pools reach their engines", "[device]") {
  glebe::DeviceAddress block = 0;
  glebe_memory_pool_options options = options_of(glebe_source_numbers, glebe_engine_fixed);
  options.block_bytes = 1;
  options.chunk_bytes = 10;
  options.max_bytes = 25;
  glebe::MemoryPool numbers;
  REQUIRE(numbers.open(options) == glebe_device_ok);
  for (unsigned i = 0; i < 25; ++i) {
    REQUIRE(numbers.allocate_item(&block) == glebe_device_ok);
    CHECK(block < 25);
  }
  CHECK(numbers.allocate_item(&block) == glebe_device_over_budget);

  options = options_of(glebe_source_numbers, glebe_engine_heap);
  options.chunk_bytes = options.max_bytes = 64;
  glebe::MemoryPool runs;
  REQUIRE(runs.open(options) == glebe_device_ok);
  CHECK(runs.allocate(63, &block) == glebe_device_ok);  // the unit of numbers is one
  CHECK(runs.allocate(1, &block) == glebe_device_ok);

  options = options_of(glebe_source_host, glebe_engine_heap);
  options.unit_bytes = 4096;
  glebe::MemoryPool units;
  REQUIRE(units.open(options) == glebe_device_ok);
  REQUIRE(units.allocate(1, &block) == glebe_device_ok);
  CHECK(units.usable_size(block) == 4096);

  options = options_of(glebe_source_host, glebe_engine_ring);
  options.blocks_max = 2;
  options.align_bytes = 1024;
  options.max_bytes = options.chunk_bytes;
  glebe::MemoryPool ring;
  REQUIRE(ring.open(options) == glebe_device_ok);
  REQUIRE(ring.allocate(1, &block) == glebe_device_ok);
  CHECK(block % 1024 == 0);
  REQUIRE(ring.allocate(1, &block) == glebe_device_ok);
  CHECK(block % 1024 == 0);
  CHECK(ring.allocate(1, &block) == glebe_device_over_budget);

  options = options_of(glebe_source_host, glebe_engine_bins);
  options.unit_bytes = 16;
  options.bin_count = 2;
  options.slab_bytes = 4096;
  glebe::MemoryPool bins;
  REQUIRE(bins.open(options) == glebe_device_ok);
  REQUIRE(bins.allocate(20, &block) == glebe_device_ok);
  CHECK(bins.usable_size(block) == 32);
  REQUIRE(bins.allocate(40, &block) == glebe_device_ok);
  CHECK(bins.usable_size(block) == 48);  // longer than the last bin: the heap's
}

}  // namespace
}  // namespace api_test
