// Textures that are much larger than their memory: random requests against the procedural truth, and camera
// paths over 4096 texels a side in a sparse array and 262144 in an atlas. What would break: a page with the
// contents of another one, or memory that grows with the texture.
#include "platform/process.h"
#include "tests/device_tile_rig.h"

namespace device_test {
namespace {

// Random work on a cache; every texel of every resident page is looked at.
template <class Texture>
void work_at_random(CacheRig& at, Texture& texture, std::uint32_t tiles_max, std::uint64_t seed) {
  Random random(seed);
  TileCache cache;
  at.options.binder = texture.binder();
  at.options.tiles_max = tiles_max;
  REQUIRE(cache.open(at.options).ok());
  const TileShape shape = texture.shape();
  std::set<TilePage> seen;  // pages that were resident once
  const auto any_page = [&] {
    const unsigned level = random.below32(shape.levels);
    return TilePage(level, random.below(shape.layers), random.below(shape.columns(level)),
                    random.below(shape.rows(level)));
  };
  const auto look_at_all = [&] {
    std::uint64_t resident = 0;
    for (const TilePage page : seen) {
      if (!cache.is_resident(page)) continue;
      ++resident;
      const std::uint32_t* texels = at.at.look(texture, page);
      REQUIRE(texels != nullptr);
      REQUIRE(is_true(shape, page, texels));
    }
    REQUIRE(resident <= tiles_max);
  };
  for (int step = 0; step < 120; ++step) {
    std::vector<TilePage> wanted;
    for (std::uint64_t i = random.below(20); i != 0; --i) wanted.push_back(any_page());
    at.filler.not_ready.clear();
    if (random.one_in(3) && !wanted.empty()) at.filler.not_ready.insert(wanted[0]);
    REQUIRE(cache.update(wanted).ok());
    for (const TilePage page : wanted) seen.insert(page);
    if (random.one_in(5) && cache.is_resident(any_page())) static_cast<void>(cache.evict(any_page()));
    if (random.one_in(40)) REQUIRE(cache.flush().ok());
    REQUIRE(cache.validate());
    if (random.one_in(8)) look_at_all();
  }
  look_at_all();
  CHECK(cache.stats().evicted != 0);
  CHECK(cache.close().ok());
}

TEST_CASE("W5 W7 random requests: every texel of every resident page is the truth", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  for (const GpuSchedule schedule : {GpuSchedule::eager, GpuSchedule::adversarial}) {
    on_gpu(gpu_test::small(schedule, seed), [&](Rig& rig, Gpu& gpu) {
      CacheRig at(rig, gpu, 8);
      const TileShape shape = rgba8_shape(900, 1100, 11, 2);
      {
        Tiles tiles(gpu, 2 * kGranule);
        SparseArray array;
        REQUIRE(array.open(gpu, tiles.pool, rgba8_array(shape, 40, at.at.stream)).ok());
        work_at_random(at, array, 40, seed);
        CHECK(array.close().ok());
      }
      TileAtlas atlas;
      REQUIRE(atlas.open({shape, 40, driver_source(gpu), &gpu, at.at.stream}).ok());
      work_at_random(at, atlas, 40, seed + 1);
      CHECK(atlas.close().ok());
    });
  }
}

// A camera that glides over a texture and comes nearer and farther: what it sees is `kView` texels a side of
// one level.
struct Camera {
  static constexpr std::uint64_t kView = 640;
  unsigned level;
  std::uint64_t x, y;  // of the view, texels of the level

  static Camera at(const TileShape& shape, unsigned frame) {
    const unsigned level = frame % 60 < 40 ? 0 : 2;
    const std::uint64_t width = shape.width_of(level) - kView, height = shape.height_of(level) - kView;
    return {level, frame * 24 % width, frame * 17 % height};
  }
  [[nodiscard]] std::vector<TilePage> pages(const TileShape& shape) const {
    std::vector<TilePage> pages;
    for (std::uint64_t row = y / kTileTexels; row <= (y + kView - 1) / kTileTexels; ++row) {
      for (std::uint64_t column = x / kTileTexels; column <= (x + kView - 1) / kTileTexels; ++column) {
        const TilePage page(level, 0, column, row);
        pages.push_back(page);
        if (shape.parent(page) != TilePage()) pages.push_back(shape.parent(page));
      }
    }
    return pages;
  }
};

struct Flight {
  std::uint64_t frames_to_converge = 0, samples = 0, wrong = 0, from_ancestors = 0;
};

// Flies, and compares sampled texels with the truth: of the level that is there.
template <class Texture>
Flight fly(CacheRig& at, Texture& texture, TileCache& cache, unsigned frames) {
  Flight flight;
  Random random(3);
  const TileShape shape = texture.shape();
  for (unsigned frame = 0; frame < frames; ++frame) {
    const Camera camera = Camera::at(shape, frame);
    REQUIRE(cache.update(camera.pages(shape)).ok());
    for (int i = 0; i < 6; ++i) {
      const std::uint64_t x = camera.x + random.below(Camera::kView);
      const std::uint64_t y = camera.y + random.below(Camera::kView);
      const TilePage wanted(camera.level, 0, x / kTileTexels, y / kTileTexels);
      const TilePage there = cache.resident_ancestor(wanted);
      REQUIRE(shape.holds(there));
      const unsigned up = there.level() - camera.level;
      const std::uint32_t* texels = at.at.look(texture, there);
      REQUIRE(texels != nullptr);
      const std::uint32_t texel = texels[(y >> up) % kTileTexels * kTileTexels + (x >> up) % kTileTexels];
      if (texel != truth(there.level(), 0, x >> up, y >> up)) ++flight.wrong;
      if (up != 0) ++flight.from_ancestors;
      ++flight.samples;
    }
  }
  const std::vector<TilePage> last = Camera::at(shape, frames).pages(shape);
  const auto is_complete = [&] {
    for (const TilePage page : last) {
      if (!cache.is_resident(page)) return false;
    }
    return true;
  };
  for (; !is_complete() && flight.frames_to_converge < 100; ++flight.frames_to_converge) {
    REQUIRE(cache.update(last).ok());
  }
  return flight;
}

TEST_CASE("N15 2-7 a texture of 64 MiB in 16 MiB of tiles: every sampled texel is the truth", "[device]") {
  EmulatedGpu::Options machine = gpu_test::small();
  machine.is_poisoned = false;
  machine.device_bytes = kTileArenaBytes;
  on_gpu(machine, [](Rig& rig, Gpu& gpu) {
    constexpr std::uint32_t kTiles = 16 * kMiB / kTileBytes;
    CacheRig at(rig, gpu, 16);
    Tiles tiles(gpu, 16 * kMiB);
    SparseArray array;
    // The tail takes tiles of the same budget.
    REQUIRE(
        array.open(gpu, tiles.pool, rgba8_array(rgba8_shape(4096, 4096, 13), kTiles - 1, at.at.stream)).ok());
    TileCache cache;
    at.options.binder = array.binder();
    at.options.tiles_max = kTiles - 1;
    REQUIRE(cache.open(at.options).ok());
    const Flight flight = fly(at, array, cache, 150);
    CHECK(flight.wrong == 0);
    CHECK(flight.samples == 900);
    CHECK(flight.frames_to_converge <= 8);
    const TileCacheStats stats = cache.stats();
    CHECK(stats.evicted != 0);
    CHECK(stats.hit_rate() > 0.5);
    CHECK(rig.emulated->usage().device_bytes <= 16 * kMiB);
    CHECK(tiles.pool.stats().peak_live_bytes <= 16 * kMiB);
    CHECK(cache.close().ok());
    CHECK(array.close().ok());
  });
}

TEST_CASE("N15 2-7 W11 a texture of 341 GiB with a budget of 16 MiB takes memory for the budget",
          "[device]") {
  EmulatedGpu::Options machine = gpu_test::small();
  machine.is_poisoned = false;
  machine.device_bytes = kTileArenaBytes;
  on_gpu(machine, [](Rig& rig, Gpu& gpu) {
    constexpr std::uint32_t kTiles = 15 * kMiB / kTileBytes;
    const std::uint64_t before = glebe::os::process_memory().resident;
    CacheRig at(rig, gpu, 16);
    TileAtlas atlas;
    REQUIRE(
        atlas.open({rgba8_shape(262144, 262144, 19), kTiles, driver_source(gpu), &gpu, at.at.stream}).ok());
    CHECK(atlas.shape().pages_from(0) == 5592405 + 7);
    CHECK(atlas.table_entries() <= 4 * kTiles * 2);
    TileCache cache;
    at.options.binder = atlas.binder();
    at.options.tiles_max = kTiles;
    REQUIRE(cache.open(at.options).ok());
    const Flight flight = fly(at, atlas, cache, 150);
    CHECK(flight.wrong == 0);
    CHECK(flight.frames_to_converge <= 8);
    CHECK(cache.stats().evicted != 0);
    // A word for each page would be 21 MiB more. The slots, the ring and the tables are less than 32 MiB.
    CHECK(glebe::os::process_memory().resident - before < 40 * kMiB);
    CHECK(cache.close().ok());
    CHECK(atlas.close().ok());
  });
}

}  // namespace
}  // namespace device_test
