// The cache of tiles: which pages stay, which go, what waits. On an atlas in memory of the host where the
// texture does not matter, on a sparse array where streams do. What would break: a page that is used and
// loses its memory, a request that is lost, a budget that is exceeded.
#include <algorithm>

#include "tests/device_tile_rig.h"

namespace device_test {
namespace {

// A cache over an atlas in memory of the host: no GPU at all.
struct HostCache {
  explicit HostCache(std::uint32_t tiles_max, std::uint32_t tiles_per_update = 64,
                     const TileShape& shape = rgba8_shape(4096, 4096, 13),
                     std::uint32_t requests_max = 4096) {
    REQUIRE(memory.open({.chunk_bytes = align(tiles_max), .max_bytes = align(tiles_max)}, {}, {}).ok());
    TileAtlasOptions wanted;
    wanted.shape = shape;
    wanted.tiles_max = tiles_max;
    wanted.memory = memory.block_source();
    REQUIRE(atlas.open(wanted).ok());
    options.binder = atlas.binder();
    options.tiles_max = tiles_max;
    options.tiles_per_update = tiles_per_update;
    options.requests_max = requests_max;
    options.fill = Filler::fill;
    options.fill_self = &filler;
  }
  ~HostCache() {
    CHECK(cache.validate());
    CHECK(cache.close().ok());
    CHECK(atlas.resident() == 0);
    CHECK(atlas.close().ok());
    CHECK(memory.stats().live_bytes == 0);
  }
  static std::uint64_t align(std::uint32_t tiles) { return glebe::align_up(tiles * kTileBytes, kMiB) + kMiB; }

  [[nodiscard]] const std::uint32_t* look(TilePage page) const {
    return reinterpret_cast<const std::uint32_t*>(static_cast<std::uintptr_t>(atlas.address_of(page)));
  }
  [[nodiscard]] bool is_right(TilePage page) const {
    return atlas.address_of(page) != 0 && is_true(atlas.shape(), page, look(page));
  }

  MemoryPool<HostSource, HeapEngine> memory;
  TileAtlas atlas;
  TileCache cache;
  Filler filler;
  TileCacheOptions options;
};

// The tail of 4096 x 4096 in tiles of 128: levels 6 to 12.
constexpr std::uint32_t kTail = 7;

TilePage page(unsigned number) { return {0, 0, number % 32, number / 32}; }

TEST_CASE("W2 0-3 the page that was asked for longest ago makes room, pinned ones and the tail stay",
          "[device]") {
  HostCache at(kTail + 4);
  REQUIRE(at.cache.open(at.options).ok());
  CHECK(at.cache.stats().resident == kTail);
  CHECK(at.cache.stats().pinned == kTail);
  for (unsigned i = 0; i < 4; ++i) {
    const TilePage wanted = page(i);
    REQUIRE(at.cache.update({&wanted, 1}).ok());
  }
  CHECK(at.cache.stats().evicted == 0);
  // 0 is asked for again, 1 is pinned: 2 goes first, then 3, then 0.
  const TilePage again = page(0);
  REQUIRE(at.cache.update({&again, 1}).ok());
  REQUIRE(at.cache.pin(page(1)).ok());
  for (const auto& [comes, goes] : {std::pair(10u, 2u), {11u, 3u}, {12u, 0u}, {13u, 10u}}) {
    REQUIRE(at.cache.is_resident(page(goes)));
    const TilePage wanted = page(comes);
    REQUIRE(at.cache.update({&wanted, 1}).ok());
    CHECK(at.cache.is_resident(page(comes)));
    CHECK(at.is_right(page(comes)));
    CHECK_FALSE(at.cache.is_resident(page(goes)));
    CHECK(at.is_right(page(1)));
    CHECK(at.cache.validate());
  }
  for (unsigned level = 6; level < 13; ++level) CHECK(at.is_right(TilePage(level, 0, 0, 0)));
  CHECK(at.cache.stats().evicted == 4);
  // All are pinned: nothing makes room, and the request waits.
  for (const unsigned number : {11u, 12u, 13u}) REQUIRE(at.cache.pin(page(number)).ok());
  const TilePage late = page(20);
  REQUIRE(at.cache.update({&late, 1}).ok());
  CHECK_FALSE(at.cache.is_resident(late));
  CHECK(at.cache.stats().waiting == 1);
  REQUIRE(at.cache.unpin(page(12)).ok());
  REQUIRE(at.cache.update({}).ok());
  CHECK(at.is_right(late));
  CHECK(at.cache.unpin(late).status == Status::bad_argument);
  CHECK(at.cache.unpin(TilePage(6, 0, 0, 0)).status == Status::bad_argument);
  CHECK(at.cache.pin(page(99)).status == Status::not_owned);
}

TEST_CASE("W3 a cache refuses budgets without room and parts that are missing", "[device]") {
  HostCache at(kTail + 4);
  const auto refused = [&](auto change) {
    TileCacheOptions options = at.options;
    change(options);
    return at.cache.open(options).status == Status::bad_argument && at.atlas.resident() == 0;
  };
  CHECK(refused([](TileCacheOptions& o) { o.tiles_max = kTail; }));
  CHECK(refused([](TileCacheOptions& o) { o.tiles_max = 0; }));
  CHECK(refused([](TileCacheOptions& o) { o.tiles_per_update = 0; }));
  CHECK(refused([](TileCacheOptions& o) { o.tiles_per_update = TileCache::kBatchMax + 1; }));
  CHECK(refused([](TileCacheOptions& o) { o.requests_max = 0; }));
  CHECK(refused([](TileCacheOptions& o) { o.fill = nullptr; }));
  CHECK(refused([](TileCacheOptions& o) { o.binder = {}; }));
  CHECK(at.cache.update({}).status == Status::bad_argument);
  CHECK(at.cache.flush().status == Status::bad_argument);
  CHECK(at.cache.end_use(nullptr).status == Status::bad_argument);
  // A tail that cannot be filled: nothing is left, and the next try works.
  at.filler.is_ready = false;
  CHECK(at.cache.open(at.options).status == Status::not_ready);
  CHECK(at.atlas.resident() == 0);
  at.filler.is_ready = true;
  at.filler.broken.insert(TilePage(9, 0, 0, 0));
  CHECK(at.cache.open(at.options).status == Status::io_error);
  CHECK(at.atlas.resident() == 0);
  at.filler.broken.clear();
  CHECK(at.cache.open(at.options).ok());
}

TEST_CASE("W6 W8 what is not ready for 30 frames waits, and its ancestors stand in for it", "[device]") {
  HostCache at(kTail + 100, 16);
  REQUIRE(at.cache.open(at.options).ok());
  std::vector<TilePage> wanted;
  for (unsigned i = 0; i < 64; ++i) wanted.push_back(page(i));
  for (unsigned i = 0; i < 16; ++i) wanted.emplace_back(1u, 0u, i % 16, i / 16);
  at.filler.is_ready = false;
  for (int frame = 0; frame < 30; ++frame) {
    // Asked for once: the cache keeps them.
    REQUIRE(
        at.cache.update(frame == 0 ? std::span<const TilePage>(wanted) : std::span<const TilePage>()).ok());
    CHECK(at.cache.stats().waiting == wanted.size());
    for (const TilePage one : wanted) {
      const TilePage above = at.cache.resident_ancestor(one);
      REQUIRE(above.level() == 6);
      REQUIRE(at.is_right(above));
    }
  }
  at.filler.is_ready = true;
  int frames = 0;
  for (; at.cache.stats().waiting != 0 && frames < 100; ++frames) {
    REQUIRE(at.cache.update({}).ok());
    if (frames == 0) {
      for (unsigned i = 64; i < 80; ++i) CHECK(at.cache.is_resident(wanted[i]));  // coarse ones come first
      CHECK(at.cache.resident_ancestor(wanted[0]) == TilePage(1, 0, 0, 0));
    }
  }
  CHECK(frames == 5);
  for (const TilePage one : wanted) REQUIRE(at.is_right(one));
}

TEST_CASE("W7 W8 a budget under camera motion: never exceeded, every request served or counted", "[device]") {
  HostCache at(kTail + 40, 24, rgba8_shape(4096, 4096, 13), 64);
  REQUIRE(at.cache.open(at.options).ok());
  std::uint64_t asked = 0;
  for (unsigned frame = 0; frame < 200; ++frame) {
    std::vector<TilePage> wanted;
    for (unsigned row = 0; row < 6; ++row) {
      for (unsigned column = 0; column < 6; ++column)
        wanted.emplace_back(0u, 0u, (frame / 4 + column) % 32, (frame / 7 + row) % 32);
    }
    asked += wanted.size();
    REQUIRE(at.cache.update(wanted).ok());
    const TileCacheStats stats = at.cache.stats();
    REQUIRE(stats.resident <= kTail + 40);
    REQUIRE(at.atlas.resident() == stats.resident);
    REQUIRE(stats.waiting <= 64);
    REQUIRE(stats.hits + stats.misses == asked);
    if (frame % 10 != 0) continue;
    for (const TilePage one : wanted) {
      if (at.cache.is_resident(one)) REQUIRE(at.is_right(one));
    }
  }
  CHECK(at.cache.stats().evicted > 100);
  // The camera stands still: what it sees comes, whatever waited or was turned away.
  std::vector<TilePage> still;
  for (unsigned i = 0; i < 36; ++i) still.emplace_back(0u, 0u, 10 + i % 6, 20 + i / 6);
  int frames = 0;
  const auto is_served = [&](TilePage one) { return at.cache.is_resident(one); };
  for (; !std::all_of(still.begin(), still.end(), is_served) && frames < 20; ++frames) {
    REQUIRE(at.cache.update(still).ok());
  }
  CHECK(frames <= 8);
  // A flood: what there is no room to keep is counted.
  std::vector<TilePage> flood;
  for (unsigned i = 0; i < 900; ++i) flood.push_back(page(i));
  const TileCacheStats before = at.cache.stats();
  REQUIRE(at.cache.update(flood).ok());
  const TileCacheStats after = at.cache.stats();
  CHECK(after.overflows - before.overflows == after.misses - before.misses - (64 - before.waiting));
}

TEST_CASE("W9 prefetch, evict, flush, and figures of a cache that nobody asked", "[device]") {
  HostCache at(kTail + 8);
  CHECK(at.cache.stats().hit_rate() == 0);
  CHECK(at.cache.stats().utilisation() == 0);
  REQUIRE(at.cache.open(at.options).ok());
  CHECK(at.cache.stats().hit_rate() == 0);
  CHECK(at.cache.stats().utilisation() == Approx(7.0 / 15));
  const TilePage wanted[] = {page(1), page(2), page(3), page(1)};
  at.cache.prefetch(wanted);
  CHECK(at.cache.stats().requests == 0);
  CHECK(at.cache.stats().waiting == 3);
  REQUIRE(at.cache.update({}).ok());
  CHECK(at.cache.stats().resident == kTail + 3);
  REQUIRE(at.cache.update(wanted).ok());
  CHECK(at.cache.stats().hit_rate() == 1);
  CHECK(at.cache.evict(page(9)).status == Status::not_owned);
  CHECK(at.cache.evict(TilePage(7, 0, 0, 0)).status == Status::in_use);
  REQUIRE(at.cache.pin(page(2)).ok());
  CHECK(at.cache.evict(page(2)).status == Status::in_use);
  REQUIRE(at.cache.evict(page(1)).ok());
  CHECK_FALSE(at.cache.is_resident(page(1)));
  CHECK(at.atlas.address_of(page(1)) == 0);
  REQUIRE(at.cache.begin_use(nullptr).ok());
  CHECK(at.cache.evict(page(3)).status == Status::in_use);
  CHECK(at.cache.flush().status == Status::in_use);
  CHECK(at.cache.update(wanted).status == Status::in_use);
  REQUIRE(at.cache.end_use(nullptr).ok());
  at.cache.prefetch({&wanted[0], 1});
  REQUIRE(at.cache.flush().ok());
  CHECK(at.cache.stats().waiting == 0);
  CHECK(at.cache.stats().resident == kTail + 1);  // what is pinned
  CHECK(at.is_right(page(2)));
  const TilePage odd[] = {{0, 0, 32, 0}, {13, 0, 0, 0}, TilePage()};
  REQUIRE(at.cache.update(odd).ok());
  CHECK(at.cache.stats().refused == 3);
  CHECK_FALSE(at.cache.is_resident(TilePage()));
  CHECK(at.cache.pin(TilePage()).status == Status::not_owned);
  // A page that cannot be filled is dropped, and can be asked for again.
  at.filler.broken.insert(page(5));
  const TilePage broken = page(5);
  REQUIRE(at.cache.update({&broken, 1}).ok());
  CHECK(at.cache.stats().fill_failures == 1);
  CHECK(at.cache.stats().waiting == 0);
  at.filler.broken.clear();
  REQUIRE(at.cache.update({&broken, 1}).ok());
  CHECK(at.is_right(broken));
}

// Passes on to an atlas, and refuses what it is told to.
struct RefusingBinder {
  TileBinder to;
  unsigned writes_refused = 0, removals_refused = 0;
  static Outcome exchange(void* self, std::span<const TilePage> out, std::span<const TilePage> in) {
    auto& binder = *static_cast<RefusingBinder*>(self);
    if (in.empty() && binder.removals_refused != 0) return --binder.removals_refused, Status::io_error;
    return binder.to.exchange(binder.to.self, out, in);
  }
  static Outcome write(void* self, TilePage page, const std::byte* from) {
    auto& binder = *static_cast<RefusingBinder*>(self);
    if (binder.writes_refused != 0) return --binder.writes_refused, Status::io_error;
    return binder.to.write(binder.to.self, page, from);
  }
};

TEST_CASE("W5 a page whose write and removal were both refused can be asked for again", "[device]") {
  HostCache at(kTail + 4);
  RefusingBinder binder{at.options.binder};
  at.options.binder.self = &binder;
  at.options.binder.exchange = RefusingBinder::exchange;
  at.options.binder.write = RefusingBinder::write;
  REQUIRE(at.cache.open(at.options).ok());
  const TilePage wanted[] = {page(1), page(2)};
  binder.writes_refused = 1;
  binder.removals_refused = 2;
  CHECK(at.cache.update(wanted).status == Status::io_error);
  CHECK_FALSE(at.cache.is_resident(page(1)));
  CHECK(at.cache.update({}).status == Status::io_error);  // the driver refuses still
  CHECK(at.cache.validate());
  CHECK(at.cache.update({}).ok());
  CHECK(at.is_right(page(1)));
  CHECK(at.is_right(page(2)));
  CHECK(at.cache.stats().evicted == 0);
  CHECK(at.cache.close().ok());  // before the binder goes
}

// --- On a device ---

TEST_CASE("W3 X3 a cache refuses blocks below a tile, and streams that are captured", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    Tiles tiles(gpu, 4 * kGranule);
    CacheRig at(rig, gpu, 1);
    SparseArray array;
    REQUIRE(array.open(gpu, tiles.pool, rgba8_array(rgba8_shape(512, 512, 1), 6, at.at.stream)).ok());
    at.options.binder = array.binder();
    at.options.tiles_max = 6;
    TileCache cache;
    StagingRing small_blocks;
    StagingOptions split;
    split.policy = StagingPolicy::split;
    split.ring_bytes = kTileBytes;
    REQUIRE(small_blocks.open(gpu, at.fences, split).ok());
    TileCacheOptions refused = at.options;
    refused.staging = &small_blocks;
    CHECK(cache.open(refused).status == Status::bad_argument);
    small_blocks.close();

    REQUIRE(cache.open(at.options).ok());
    const cuda::Stream other = rig.stream();
    for (const cuda::Stream stream : {other, at.at.stream}) {
      rig.emulated->set_capture_status(stream, cuda::CaptureStatus::active);
      CHECK(cache.begin_use(stream).status == Status::unsupported);
      CHECK(cache.end_use(stream).status == Status::bad_argument);  // none began
      rig.emulated->set_capture_status(stream, cuda::CaptureStatus::none);
      REQUIRE(cache.begin_use(stream).ok());
      rig.emulated->set_capture_status(stream, cuda::CaptureStatus::active);
      CHECK(cache.end_use(stream).status == Status::unsupported);
      CHECK(cache.update({}).status == Status::in_use);
      rig.emulated->set_capture_status(stream, cuda::CaptureStatus::none);
      CHECK(cache.end_use(stream).ok());
    }
    CHECK(cache.close().ok());
    CHECK(array.close().ok());
    CHECK(rig.driver.stream_destroy(other) == cuda::Result::success);
  });
}

TEST_CASE("W5 a cache over a sparse array with layers: every page and the tails are right", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    Tiles tiles(gpu, 4 * kGranule);
    CacheRig at(rig, gpu, 8);
    SparseArray array;
    const TileShape shape = rgba8_shape(700, 500, 10, 3);
    REQUIRE(array.open(gpu, tiles.pool, rgba8_array(shape, 40, at.at.stream)).ok());
    TileCache cache;
    at.options.binder = array.binder();
    at.options.tiles_max = 50;  // 27 of the tails
    REQUIRE(cache.open(at.options).ok());
    std::vector<TilePage> wanted;
    for (unsigned layer = 0; layer < 3; ++layer) {
      for (unsigned i = 0; i < 5; ++i) wanted.emplace_back(0u, layer, i + 1, layer);
    }
    for (int frame = 0; frame < 4; ++frame) REQUIRE(cache.update(wanted).ok());
    for (unsigned level = array.shape().tail_first_level; level < 10; ++level) {
      for (unsigned layer = 0; layer < 3; ++layer) wanted.emplace_back(level, layer, 0u, 0u);
    }
    for (const TilePage one : wanted) {
      REQUIRE(cache.is_resident(one));
      REQUIRE(is_true(array.shape(), one, at.at.look(array, one)));
    }
    CHECK(cache.validate());
    CHECK(cache.close().ok());
    CHECK(array.resident() == 0);
    CHECK(array.close().ok());
  });
}

// Work in other streams looks at pages while the cache gives their memory to others: it must see what was
// there between begin_use() and end_use().
void look_while_pages_change(Rig& rig, Gpu& gpu, std::uint64_t seed) {
  Tiles tiles(gpu, 4 * kGranule);
  CacheRig at(rig, gpu, 4);
  SparseArray array;
  const TileShape shape = rgba8_shape(1024, 1024, 1);
  REQUIRE(array.open(gpu, tiles.pool, rgba8_array(shape, 6, at.at.stream)).ok());
  TileCache cache;
  at.options.binder = array.binder();
  at.options.tiles_max = 6;
  REQUIRE(cache.open(at.options).ok());
  constexpr unsigned kStreams = 3, kLooks = 12;
  cuda::Stream streams[kStreams];
  for (cuda::Stream& stream : streams) stream = rig.stream();
  std::uint32_t* seen = rig.pinned(kLooks * kTileBytes / 4);
  Random random(seed);
  std::vector<TilePage> looked;
  const auto compare = [&] {
    for (const cuda::Stream stream : streams) {
      REQUIRE(rig.driver.stream_synchronize(stream) == cuda::Result::success);
    }
    for (std::size_t i = 0; i < looked.size(); ++i) {
      REQUIRE(is_true(shape, looked[i], seen + i * kTileBytes / 4));
    }
    looked.clear();
  };
  for (int frame = 0; frame < 24; ++frame) {
    TilePage wanted[3];
    for (TilePage& one : wanted) one = TilePage(0, 0, random.below(8), random.below(8));
    REQUIRE(cache.update(wanted).ok());
    const cuda::Stream stream = streams[random.below(kStreams)];
    REQUIRE(cache.begin_use(stream).ok());
    for (const TilePage one : wanted) {
      if (!cache.is_resident(one) || looked.size() == kLooks) continue;
      at.at.queue_look(array, one, seen + looked.size() * kTileBytes / 4, stream);
      looked.push_back(one);
    }
    REQUIRE(cache.end_use(stream).ok());
    if (looked.size() == kLooks) compare();
  }
  compare();
  CHECK(cache.stats().evicted > 10);
  CHECK(cache.validate());
  CHECK(cache.close().ok());
  CHECK(array.close().ok());
  CHECK(rig.driver.mem_free_host(seen) == cuda::Result::success);
  for (const cuda::Stream stream : streams) CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
}

TEST_CASE("X3 W2 pages that other streams look at keep their memory until these have passed", "[device]") {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    INFO("seed " << seed);
    on_gpu(gpu_test::small(GpuSchedule::adversarial, seed),
           [seed](Rig& rig, Gpu& gpu) { look_while_pages_change(rig, gpu, seed); });
  }
  on_gpu(gpu_test::small(GpuSchedule::threaded),
         [](Rig& rig, Gpu& gpu) { look_while_pages_change(rig, gpu, 99); });
}

}  // namespace
}  // namespace device_test
