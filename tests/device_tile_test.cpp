// Pages and tiles: numbers of pages, the table of those that are there, sparse arrays over a pool of tiles
// and atlases. What would break: two pages with one number, a tile behind two pages, memory that a page keeps
// after it left.
#include "tests/device_tile_rig.h"

namespace device_test {
namespace {

TEST_CASE("W1 mut-C07 numbers of pages: level, layer, column and row, each for itself", "[device]") {
  std::set<std::uint64_t> seen;
  for (unsigned level = 0; level < 4; ++level) {
    for (unsigned layer = 0; layer < 3; ++layer) {
      for (unsigned row = 0; row < 17; ++row) {
        for (unsigned column = 0; column < 33; ++column) {
          const TilePage page(level, layer, column, row);
          REQUIRE(page.level() == level);
          REQUIRE(page.layer() == layer);
          REQUIRE(page.column() == column);
          REQUIRE(page.row() == row);
          REQUIRE(seen.insert(page.bits()).second);
        }
      }
    }
  }
  const std::uint64_t far = (std::uint64_t{1} << TilePage::kAxisBits) - 1;
  const TilePage last(30, 2047, far, far - 1);
  CHECK(last.level() == 30);
  CHECK(last.layer() == 2047);
  CHECK(last.column() == far);
  CHECK(last.row() == far - 1);
  CHECK(last != TilePage());
  // Neighbours in the square lie near each other: a square of 2 x 2 has four numbers in a row.
  CHECK(TilePage(0, 0, 7, 5).bits() == TilePage(0, 0, 6, 4).bits() + 3);
}

TEST_CASE("W1 pages of each level, also where sizes are no powers of two", "[device]") {
  const TileShape shape = rgba8_shape(1000, 600, 10);
  CHECK(shape.pages_of(0) == 8 * 5);
  CHECK(shape.pages_of(1) == 4 * 3);  // 500 x 300
  CHECK(shape.pages_of(2) == 2 * 2);  // 250 x 150
  CHECK(shape.pages_of(3) == 1);      // 125 x 75
  CHECK(shape.pages_of(9) == 1);
  CHECK(tail_start(shape) == 3);
  CHECK(shape.pages_from(0) == 40 + 12 + 4 + 7);
  CHECK(tail_start(rgba8_shape(4096, 64, 5)) == 0);
  CHECK(tail_start(rgba8_shape(128, 128, 1)) == 1);
}

TEST_CASE("W1 each page but those of the last level has one parent, which has it as a child", "[device]") {
  for (const TileShape& shape :
       {rgba8_shape(1000, 600, 10, 2), rgba8_shape(257, 769, 10), rgba8_shape(2048, 128, 12)}) {
    for (unsigned level = 0; level < shape.levels; ++level) {
      std::uint64_t children = 0;
      for (unsigned layer = 0; layer < shape.layers; ++layer) {
        for (std::uint64_t row = 0; row < shape.rows(level); ++row) {
          for (std::uint64_t column = 0; column < shape.columns(level); ++column) {
            const TilePage page(level, layer, column, row);
            REQUIRE(shape.holds(page));
            const TilePage parent = shape.parent(page);
            REQUIRE(shape.holds(parent) == (level + 1 < shape.levels));
            if (level + 1 < shape.levels) REQUIRE(parent.layer() == layer);
            shape.for_each_child(page, [&](TilePage child) {
              REQUIRE(shape.parent(child) == page);
              ++children;
            });
          }
        }
      }
      CHECK(children == (level == 0 ? 0 : shape.pages_of(level - 1) * shape.layers));
    }
  }
}

TEST_CASE("W11 pages of 16K, 256K and 2^30 texels a side are counted in 64 bits", "[device]") {
  CHECK(rgba8_shape(16384, 16384, 15).pages_of(0) == 16384);
  CHECK(rgba8_shape(16384, 16384, 15).pages_from(0) == 16384 + 4096 + 1024 + 256 + 64 + 16 + 4 + 1 + 7);
  CHECK(rgba8_shape(262144, 262144, 19).pages_of(0) == 2048 * 2048);
  const TileShape huge = rgba8_shape(std::uint64_t{1} << 30, std::uint64_t{1} << 30, 31);
  CHECK(huge.pages_of(0) == std::uint64_t{1} << 46);
  CHECK(huge.holds(TilePage(0, 0, (1 << 23) - 1, (1 << 23) - 1)));
  CHECK_FALSE(huge.holds(TilePage(0, 0, 1 << 23, 0)));
}

TEST_CASE("W1 the table of pages against a map, with entries that come and go", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  TileTable table;
  REQUIRE(table.open(300));
  CHECK(table.find(TilePage()) == nullptr);
  std::map<TilePage, std::uint64_t> model;
  Expect expect;
  for (int i = 0; i < 100000; ++i) {
    const TilePage page(random.below(3), 0, random.below(20), random.below(20));
    if (random.one_in(2) && (model.size() < 300 || model.contains(page))) {
      const std::uint64_t value = random.next();
      expect(table.insert(page, value) == model.emplace(page, value).second);
    } else {
      expect(table.erase(page) == (model.erase(page) == 1));
    }
    const TilePage other(random.below(3), 0, random.below(20), random.below(20));
    const std::uint64_t* found = table.find(other);
    const auto known = model.find(other);
    expect((found != nullptr) == (known != model.end()));
    if (found != nullptr && known != model.end()) expect(*found == known->second);
    expect(table.count() == model.size());
  }
  REQUIRE(expect.failed_line() == 0);
}

// --- Sparse arrays ---

TEST_CASE("P5 W5 mut-B02 each page of a sparse array has a tile of its own, and keeps it", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    Tiles tiles(gpu, 4 * kGranule);
    TileStream at(rig);
    SparseArray array;
    const TileShape shape = rgba8_shape(1000, 600, 10);
    REQUIRE(array.open(gpu, tiles.pool, rgba8_array(shape, 64, at.stream)).ok());
    CHECK(array.shape().tail_first_level == 3);
    std::vector<TilePage> pages;
    for (unsigned level = 0; level < 3; ++level) {
      for (std::uint64_t row = 0; row < shape.rows(level); ++row) {
        for (std::uint64_t column = 0; column < shape.columns(level); ++column) {
          pages.emplace_back(level, 0u, column, row);
        }
      }
    }
    REQUIRE(array.exchange({}, pages).ok());
    CHECK(array.resident() == pages.size());
    for (unsigned level = 3; level < 10; ++level) pages.emplace_back(level, 0u, 0u, 0u);
    for (const TilePage page : pages) {
      CHECK(array.is_resident(page));
      REQUIRE(at.write(array, page).ok());
    }
    for (const TilePage page : pages) REQUIRE(is_true(array.shape(), page, at.look(array, page)));
    // 56 tiles and one for the tail: two arenas of 32.
    CHECK(tiles.pool.stats().live_bytes == 57 * kTileBytes);
    CHECK(tiles.arenas.stats().chunks == 2);
    CHECK(array.close().ok());
    CHECK(tiles.pool.stats().live_bytes == 0);
  });
}

TEST_CASE("P5 mut-B12 runs of tiles up to an arena, and what a run cannot be", "[device]") {
  EmulatedGpu::Options machine = gpu_test::small();
  machine.device_bytes = 64 * kMiB;
  machine.is_poisoned = false;
  on_gpu(machine, [](Rig&, Gpu& gpu) {
    Tiles tiles(gpu, 2 * kTileArenaBytes, kTileArenaBytes);
    TileRun one, four, arena, more;
    REQUIRE(tiles.pool.allocate_tiles(1, &one).ok());
    REQUIRE(tiles.pool.allocate_tiles(4, &four).ok());
    CHECK(one.handle == four.handle);
    CHECK((four.offset_bytes >= one.offset_bytes + kTileBytes ||
           four.offset_bytes + 4 * kTileBytes <= one.offset_bytes));
    REQUIRE(tiles.pool.allocate_tiles(512, &arena).ok());
    CHECK(arena.handle != one.handle);
    CHECK(arena.offset_bytes == 0);
    CHECK(tiles.pool.place_of(four.address).handle == four.handle);
    CHECK(tiles.pool.place_of(four.address).offset_bytes == four.offset_bytes);
    for (const std::uint64_t count : {std::uint64_t{0}, std::uint64_t{513}, std::uint64_t{65535}}) {
      CHECK_FALSE(tiles.pool.allocate_tiles(count, &more).ok());
    }
    CHECK(tiles.pool.allocate(kTileBytes + 1, 0, &more.address).status == Status::bad_argument);
    CHECK(tiles.pool.stats().live_bytes == 517 * kTileBytes);
    for (const TileRun& run : {one, four, arena}) CHECK(tiles.pool.free(run.address).ok());
    CHECK(tiles.pool.trim(0) == 2 * kTileArenaBytes);
  });
}

TEST_CASE("P5 1-14 a handle of the largest run: 65535 tiles", "[device]") {
  EmulatedGpu::Options machine = gpu_test::small();
  machine.device_bytes = 4 * kGiB;
  machine.is_poisoned = false;
  on_gpu(machine, [](Rig&, Gpu& gpu) {
    Tiles tiles(gpu, 4 * kGiB, 4 * kGiB);
    TileRun run, rest;
    REQUIRE(tiles.pool.allocate_tiles(65535, &run).ok());
    REQUIRE(tiles.pool.allocate_tiles(1, &rest).ok());
    CHECK(run.handle == rest.handle);
    CHECK(run.offset_bytes + rest.offset_bytes == (run.offset_bytes == 0 ? 65535 * kTileBytes : kTileBytes));
    CHECK(tiles.pool.allocate_tiles(1, &rest).status == Status::over_budget);
  });
}

TEST_CASE("W5 tiles change pages in one call, and leave nothing of the old page", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    Tiles tiles(gpu, kGranule);
    TileStream at(rig);
    SparseArray array;
    const TileShape shape = rgba8_shape(1024, 1024, 1);
    REQUIRE(array.open(gpu, tiles.pool, rgba8_array(shape, 4, at.stream)).ok());
    const TilePage a(0, 0, 1, 1), b(0, 0, 2, 1), c(0, 0, 7, 7), d(0, 0, 0, 3), e(0, 0, 4, 4);
    const TilePage first[] = {a, b, c, d};
    REQUIRE(array.exchange({}, first).ok());
    for (const TilePage page : first) REQUIRE(at.write(array, page).ok());
    const TilePage out[] = {a, c}, in[] = {e};
    REQUIRE(array.exchange(out, in).ok());
    CHECK(array.resident() == 3);
    REQUIRE(at.write(array, e).ok());
    for (const TilePage page : {b, d, e}) REQUIRE(is_true(shape, page, at.look(array, page)));
    for (const TilePage page : {a, c}) {
      CHECK_FALSE(array.is_resident(page));
      REQUIRE(is_page(shape, page, at.look(array, page), [](unsigned, unsigned) { return 0u; }));
      CHECK(array.write(page, reinterpret_cast<const std::byte*>(at.source)).status == Status::not_owned);
    }
    REQUIRE(tiles.pool.synchronize().ok());
    CHECK(tiles.pool.stats().live_bytes == 3 * kTileBytes);
    CHECK(array.close().ok());
  });
}

TEST_CASE("W3 a sparse array refuses what makes no sense, and nothing changes", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    Tiles tiles(gpu, kGranule);
    TileStream at(rig);
    SparseArray array;
    const TileShape shape = rgba8_shape(1024, 1024, 8);
    for (const auto& wrong : {rgba8_shape(0, 1024, 1), rgba8_shape(1024, 0, 1), rgba8_shape(1024, 1024, 0),
                              rgba8_shape(1 << 20, 8, 1)}) {
      CHECK(array.open(gpu, tiles.pool, rgba8_array(wrong, 4, at.stream)).status == Status::bad_argument);
    }
    CHECK(array.open(gpu, tiles.pool, rgba8_array(shape, 0, at.stream)).status == Status::bad_argument);
    CHECK_FALSE(array.is_open());
    CHECK(rig.emulated->usage().arrays == 0);
    REQUIRE(array.open(gpu, tiles.pool, rgba8_array(shape, 3, at.stream)).ok());
    const TilePage a(0, 0, 0, 0), b(1, 0, 0, 0), c(0, 0, 8, 0), tail(5, 0, 0, 0);
    const TilePage two[] = {a, b}, twice[] = {a, a}, four[] = {a, b, {0, 0, 1, 0}, {0, 0, 2, 0}};
    const auto refused = [&](std::span<const TilePage> out, std::span<const TilePage> in) {
      const std::uint64_t resident = array.resident(), live = tiles.pool.stats().live_bytes;
      const Outcome outcome = array.exchange(out, in);
      CHECK(array.resident() == resident);
      CHECK(tiles.pool.stats().live_bytes == live);
      return outcome.status;
    };
    CHECK(refused({}, {&c, 1}) == Status::bad_argument);
    CHECK(refused({}, twice) == Status::in_use);
    CHECK(refused({}, four) == Status::over_budget);
    CHECK(refused({&a, 1}, {}) == Status::not_owned);
    CHECK(refused({&tail, 1}, {}) == Status::bad_argument);
    REQUIRE(array.exchange({}, two).ok());
    CHECK(refused(twice, {}) == Status::bad_argument);
    CHECK(refused({&a, 1}, {&b, 1}) == Status::in_use);
    CHECK(refused({}, two) == Status::in_use);
    CHECK(array.is_resident(tail));
    REQUIRE(at.write(array, tail).ok());
    REQUIRE(is_true(array.shape(), tail, at.look(array, tail)));
    CHECK(array.close().ok());
  });
}

TEST_CASE("W3 sparse arrays: a device without them says so", "[device]") {
  EmulatedGpu::Options machine = gpu_test::small();
  machine.has_sparse_arrays = false;
  on_gpu(machine, [](Rig& rig, Gpu& gpu) {
    Tiles tiles(gpu, kGranule);
    TileStream at(rig);
    SparseArray array;
    CHECK_FALSE(gpu.facts().has_sparse_arrays);
    CHECK(array.open(gpu, tiles.pool, rgba8_array(rgba8_shape(512, 512, 1), 4, at.stream)).status ==
          Status::unsupported);
  });
}

TEST_CASE("P3 W3 arrays that share a pool stop at its cap, exactly", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    Tiles tiles(gpu, kGranule);  // 32 tiles
    TileStream at(rig);
    SparseArray one, other;
    const TileShape shape = rgba8_shape(1024, 1024, 1);
    REQUIRE(one.open(gpu, tiles.pool, rgba8_array(shape, 64, at.stream)).ok());
    REQUIRE(other.open(gpu, tiles.pool, rgba8_array(shape, 64, at.stream)).ok());
    std::vector<TilePage> pages;
    for (unsigned i = 0; i < 20; ++i) pages.emplace_back(0u, 0u, i % 8, i / 8);
    REQUIRE(one.exchange({}, pages).ok());
    CHECK(other.exchange({}, pages).status == Status::over_budget);
    CHECK(other.resident() == 0);
    CHECK(tiles.pool.stats().live_bytes == 20 * kTileBytes);
    REQUIRE(other.exchange({}, std::span(pages).first(12)).ok());
    REQUIRE(one.exchange(std::span(pages).first(8), {}).ok());
    REQUIRE(other.exchange({}, std::span(pages).subspan(12)).ok());  // once their stream has passed
    CHECK(one.close().ok());
    CHECK(other.close().ok());
  });
}

// --- Atlases ---

TEST_CASE("W2 slots of an atlas: taken, left, taken again, used up", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    TileStream at(rig);
    TileAtlas atlas;
    TileAtlasOptions options;
    options.shape = rgba8_shape(4096, 4096, 13);
    options.tiles_max = 8;
    options.memory = driver_source(gpu);
    options.gpu = &gpu;
    options.stream = at.stream;
    REQUIRE(atlas.open(options).ok());
    std::vector<TilePage> pages;
    for (unsigned i = 0; i < 8; ++i) pages.emplace_back(i % 3, 0u, i, 7 - i);
    REQUIRE(atlas.exchange({}, pages).ok());
    std::set<std::uint64_t> places;
    for (const TilePage page : pages) CHECK(places.insert(atlas.address_of(page)).second);
    CHECK(places.size() == 8);
    const TilePage more(0, 0, 31, 31);
    CHECK(atlas.exchange({}, {&more, 1}).status == Status::over_budget);
    CHECK(atlas.exchange({}, {&pages[0], 1}).status == Status::over_budget);
    CHECK(atlas.exchange({&more, 1}, {}).status == Status::not_owned);
    REQUIRE(atlas.exchange({&pages[3], 1}, {&more, 1}).ok());
    CHECK(atlas.address_of(pages[3]) == 0);
    CHECK(places.contains(atlas.address_of(more)));
    fill_truth(more, reinterpret_cast<std::byte*>(at.source));
    REQUIRE(atlas.write(more, reinterpret_cast<const std::byte*>(at.source)).ok());
    const std::uint32_t* seen = at.look(atlas, more);
    REQUIRE(seen != nullptr);
    CHECK(is_true(atlas.shape(), more, seen));
    CHECK(at.look(atlas, pages[3]) == nullptr);
    REQUIRE(atlas.exchange(std::span(pages).first(3), {}).ok());
    CHECK(atlas.resident() == 5);
    CHECK(atlas.exchange({}, std::span(pages).first(4)).status == Status::over_budget);
    CHECK(atlas.resident() == 5);
    REQUIRE(atlas.exchange({}, std::span(pages).first(3)).ok());
    CHECK(atlas.close().ok());
  });
}

TEST_CASE("W3 an atlas refuses a tile that is none, no slots and sizes beyond its pages", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    TileStream at(rig);
    TileAtlas atlas;
    TileAtlasOptions good;
    good.shape = rgba8_shape(4096, 4096, 13);
    good.tiles_max = 8;
    good.memory = driver_source(gpu);
    good.gpu = &gpu;
    good.stream = at.stream;
    const auto refused = [&](auto change) {
      TileAtlasOptions options = good;
      change(options);
      return atlas.open(options).status == Status::bad_argument && !atlas.is_open();
    };
    CHECK(refused([](TileAtlasOptions& o) { o.shape.tile_width = 0; }));
    CHECK(refused([](TileAtlasOptions& o) { o.shape.tile_height = 96; }));
    CHECK(refused([](TileAtlasOptions& o) { o.shape.texel_bytes = 3; }));
    CHECK(refused([](TileAtlasOptions& o) { o.shape.width = 0; }));
    CHECK(refused([](TileAtlasOptions& o) { o.shape.width = (std::uint64_t{1} << 30) + 1; }));
    CHECK(refused([](TileAtlasOptions& o) { o.shape.layers = 2049; }));
    CHECK(refused([](TileAtlasOptions& o) { o.shape.levels = 14; }));
    CHECK(refused([](TileAtlasOptions& o) { o.tiles_max = 0; }));
    CHECK(refused([](TileAtlasOptions& o) { o.memory = {}; }));
    CHECK(atlas.open(good).ok());
    CHECK(atlas.close().ok());
  });
}

}  // namespace
}  // namespace device_test
