// Every call of the driver that sparse arrays, atlases and the cache make, made to fail at its n-th use: what
// has contents has the right ones, nothing is left, and it works on. What would break: a step that is not
// undone.
#include "tests/device_tile_rig.h"

namespace device_test {
namespace {

// Random requests; looks at every page that the cache calls resident.
class Use {
 public:
  Use(CacheRig& at, TileCache& cache, std::uint64_t seed) : at_(at), cache_(cache), random_(seed) {}

  template <class Texture>
  void step(const Texture& texture, cuda::Stream other) {
    std::vector<TilePage> wanted;
    for (int i = 0; i < 4; ++i) wanted.emplace_back(random_.below(2), 0u, random_.below(4), random_.below(4));
    const TilePage pinned = wanted[0];
    static_cast<void>(cache_.update(wanted));
    REQUIRE(cache_.validate());
    const bool is_pinned = random_.one_in(3) && cache_.pin(pinned).ok();
    if (cache_.begin_use(other).ok()) end_use(other);
    if (random_.one_in(4)) static_cast<void>(cache_.evict(wanted[1]));
    if (random_.one_in(9)) static_cast<void>(cache_.flush());
    if (is_pinned) REQUIRE(cache_.unpin(pinned).ok());
    REQUIRE(cache_.validate());
    if (random_.one_in(4)) look(texture);
  }
  template <class Texture>
  void look(const Texture& texture) {
    const TileShape& shape = texture.shape();
    for (unsigned level = 0; level < shape.levels; ++level) {
      for (std::uint64_t i = 0; i < shape.pages_of(level); ++i) {
        const TilePage page(level, 0, i % shape.columns(level), i / shape.columns(level));
        if (!cache_.is_resident(page)) continue;
        const std::uint32_t* seen = at_.at.look(texture, page);
        REQUIRE(seen != nullptr);
        REQUIRE(is_true(shape, page, seen));
      }
    }
  }

 private:
  void end_use(cuda::Stream other) {
    for (int tries = 0; !cache_.end_use(other).ok(); ++tries) REQUIRE(tries < 20);
  }

  CacheRig& at_;
  TileCache& cache_;
  Random random_;
};

struct Fault {
  cuda::Call call;
  cuda::Result result;
  std::uint64_t count;
};

constexpr std::uint32_t kPages = 8;

SparseArrayOptions array_options(CacheRig& at) {
  return rgba8_array(rgba8_shape(512, 512, 10), kPages, at.at.stream);
}

// Opens, uses and closes, with one call failing. The rig's own calls go past the failing driver.
void use_sparse(Rig& rig, Gpu& gpu, FailingDriver& failing, FailingDriver::Plan plan) {
  Tiles tiles(gpu, kGranule);
  CacheRig at(rig, gpu, 4);
  const cuda::Stream other = rig.stream();
  {
    SparseArray array;
    TileCache cache;
    failing.fail(plan);
    if (array.open(gpu, tiles.pool, array_options(at)).ok()) {
      at.options.binder = array.binder();
      at.options.tiles_max = kPages + 8;
      if (cache.open(at.options).ok()) {
        Use use(at, cache, plan.nth * 7 + 1);
        for (int i = 0; i < 12; ++i) use.step(array, other);
        failing.stop_failing();
        use.step(array, other);
        use.look(array);
      }
    }
    failing.stop_failing();
    REQUIRE(cache.close().ok());
    REQUIRE(array.close().ok());
  }
  REQUIRE(tiles.pool.synchronize().ok());
  REQUIRE(tiles.pool.stats().live_bytes == 0);
  REQUIRE(rig.emulated->usage().arrays == 0);
  REQUIRE(rig.driver.stream_destroy(other) == cuda::Result::success);
}

void use_atlas(Rig& rig, Gpu& gpu, FailingDriver& failing, FailingDriver::Plan plan) {
  CacheRig at(rig, gpu, 4);
  const cuda::Stream other = rig.stream();
  TileAtlasOptions options;
  options.shape = rgba8_shape(512, 512, 10);
  options.tiles_max = kPages + 8;
  options.memory = driver_source(gpu);
  options.gpu = &gpu;
  options.stream = at.at.stream;
  {
    TileAtlas atlas;
    TileCache cache;
    failing.fail(plan);
    if (atlas.open(options).ok()) {
      at.options.binder = atlas.binder();
      at.options.tiles_max = kPages + 8;
      if (cache.open(at.options).ok()) {
        Use use(at, cache, plan.nth * 7 + 1);
        for (int i = 0; i < 12; ++i) {
          use.step(atlas, other);
          // A failed exchange may leave the table on the device behind; the next one that works mends it.
        }
        failing.stop_failing();
        use.step(atlas, other);
        use.look(atlas);
      }
    }
    failing.stop_failing();
    REQUIRE(cache.close().ok());
    REQUIRE(atlas.resident() == 0);
    REQUIRE(atlas.close().ok());
  }
  REQUIRE(rig.driver.stream_destroy(other) == cuda::Result::success);
}

template <class Body>
void fail_each_use(std::span<const Fault> faults, Body body) {
  EmulatedGpu::Options machine = gpu_test::small();
  machine.is_poisoned = false;
  on_failing_gpu(machine, [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    for (const Fault& fault : faults) {
      std::uint64_t n = 1;
      for (; n <= 60; ++n) {
        INFO("call " << symbol_of(fault.call) << " use " << n << " count " << fault.count);
        const std::uint64_t before = failing.failures(fault.call);
        body(rig, gpu, failing, FailingDriver::Plan{fault.call, n, fault.count, fault.result});
        if (failing.failures(fault.call) == before) break;  // there is no n-th use
      }
      INFO("call " << symbol_of(fault.call));
      CHECK(n > 1);  // it is used
    }
  });
}

using cuda::Call;
using cuda::Result;

TEST_CASE("X6 W5 sparse array and cache: each call of the driver fails at each of its uses", "[device]") {
  const Fault faults[] = {
      {Call::mem_create, Result::out_of_memory, 1},
      {Call::mipmapped_array_create, Result::out_of_memory, 1},
      {Call::mipmapped_array_create, Result::invalid_value, 1},
      {Call::mipmapped_array_get_sparse_properties, Result::unknown, 1},
      {Call::mipmapped_array_get_level, Result::unknown, 1},
      {Call::mem_map_array_async, Result::unknown, 1},
      {Call::mem_map_array_async, Result::unknown, 3},
      {Call::memcpy_3d_async, Result::unknown, 1},
      {Call::memcpy_3d_async, Result::unknown, 5},
      {Call::event_create, Result::out_of_memory, 1},
      {Call::event_record, Result::unknown, 1},
      {Call::event_record, Result::unknown, 4},
      {Call::event_query, Result::unknown, 1},
      {Call::stream_wait_event, Result::unknown, 1},
      {Call::stream_wait_event, Result::unknown, 3},
      {Call::stream_is_capturing, Result::unknown, 1},
  };
  fail_each_use(faults, use_sparse);
}

TEST_CASE("X6 W5 sparse array: closing that the driver refuses can be asked for again", "[device]") {
  EmulatedGpu::Options machine = gpu_test::small();
  machine.is_poisoned = false;
  on_failing_gpu(machine, [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    Tiles tiles(gpu, kGranule);
    CacheRig at(rig, gpu, 4);
    SparseArray array;
    REQUIRE(array.open(gpu, tiles.pool, array_options(at)).ok());
    const TilePage page(0, 0, 1, 1);
    REQUIRE(array.exchange({}, {&page, 1}).ok());
    failing.fail({Call::stream_synchronize, 1, 1, Result::unknown});
    CHECK_FALSE(array.close().ok());
    failing.fail({Call::mipmapped_array_destroy, 1, 1, Result::unknown});
    CHECK_FALSE(array.close().ok());
    CHECK(tiles.pool.stats().live_bytes != 0);
    failing.stop_failing();
    CHECK(array.close().ok());
    CHECK(tiles.pool.stats().live_bytes == 0);
  });
}

TEST_CASE("X6 W5 atlas and cache: each call of the driver fails at each of its uses", "[device]") {
  const Fault faults[] = {
      {Call::mem_alloc, Result::out_of_memory, 1},   {Call::memset_d8_async, Result::unknown, 1},
      {Call::memcpy_h2d_async, Result::unknown, 1},  {Call::memcpy_h2d_async, Result::unknown, 4},
      {Call::stream_wait_event, Result::unknown, 1},
  };
  fail_each_use(faults, use_atlas);
}

}  // namespace
}  // namespace device_test
