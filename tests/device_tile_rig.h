// What the tests of tiles share: a texture whose every texel says where it belongs, in a sparse array, in an
// atlas on the device or in one of the host; and the look at what is really there.
#pragma once

#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "src/device/driver_source.h"
#include "src/device/event_pool.h"
#include "src/device/memory_pool.h"
#include "src/device/sparse_tiles.h"
#include "src/device/staging.h"
#include "src/device/tile_atlas.h"
#include "src/device/tile_cache.h"
#include "tests/device_rig.h"
#include "tests/random.h"

namespace device_test {

inline constexpr unsigned kTexelBytes = 4;
inline constexpr unsigned kTileTexels = 128;  // a side of a tile

// The texel of a texture that is nowhere else the same: no two places, levels or layers are alike.
inline std::uint32_t truth(unsigned level, unsigned layer, std::uint64_t x, std::uint64_t y) {
  std::uint64_t z = (y << 34 ^ x << 4 ^ level) * 0x9E3779B97F4A7C15u + layer * 0xD1B54A32D192ED03u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  return static_cast<std::uint32_t>((z ^ (z >> 27)) >> 16) | 1u;  // never 0
}
inline std::uint32_t truth(TilePage page, unsigned x, unsigned y) {
  return truth(page.level(), page.layer(), page.column() * kTileTexels + x, page.row() * kTileTexels + y);
}
inline void fill_truth(TilePage page, std::byte* to) {
  auto* texels = reinterpret_cast<std::uint32_t*>(to);
  for (unsigned y = 0; y < kTileTexels; ++y) {
    for (unsigned x = 0; x < kTileTexels; ++x) texels[y * kTileTexels + x] = truth(page, x, y);
  }
}

// Which of the texels of a page, as far as the texture goes, are as `expected` says.
template <class Expected>
bool is_page(const TileShape& shape, TilePage page, const std::uint32_t* texels, Expected expected) {
  const std::uint64_t columns = shape.width_of(page.level()) - page.column() * kTileTexels;
  const std::uint64_t rows = shape.height_of(page.level()) - page.row() * kTileTexels;
  for (unsigned y = 0; y < kTileTexels && y < rows; ++y) {
    for (unsigned x = 0; x < kTileTexels && x < columns; ++x) {
      if (texels[y * kTileTexels + x] != expected(x, y)) return false;
    }
  }
  return true;
}
inline bool is_true(const TileShape& shape, TilePage page, const std::uint32_t* texels) {
  return is_page(shape, page, texels, [page](unsigned x, unsigned y) { return truth(page, x, y); });
}

inline TileShape rgba8_shape(std::uint64_t width, std::uint64_t height, unsigned levels,
                             unsigned layers = 1) {
  TileShape shape;
  shape.width = width;
  shape.height = height;
  shape.levels = levels;
  shape.layers = layers;
  shape.tile_width = shape.tile_height = kTileTexels;
  shape.texel_bytes = kTexelBytes;
  return shape;
}

// A pool of tiles.
struct Tiles {
  Tiles(Gpu& gpu, std::uint64_t max_bytes, std::uint64_t arena_bytes = kGranule) {
    REQUIRE(arenas.open(gpu, {.chunk_bytes = arena_bytes, .is_tile_pool = true}).ok());
    REQUIRE(pool.open({.chunk_bytes = arena_bytes, .max_bytes = max_bytes, .gpu = &gpu}, {&arenas},
                      {.unit_bytes = kTileBytes})
                .ok());
  }
  ~Tiles() {
    CHECK(pool.close().ok());
    arenas.close();
  }

  ChunkPool arenas;
  TilePool pool;
};

// A stream and a pinned tile for looking.
struct TileStream {
  explicit TileStream(Rig& a_rig) : rig(a_rig), stream(a_rig.stream()) {
    seen = rig.pinned(kTileBytes / 4);
    source = rig.pinned(kTileBytes / 4);
  }
  ~TileStream() {
    CHECK(rig.driver.stream_synchronize(stream) == cuda::Result::success);
    CHECK(rig.driver.mem_free_host(seen) == cuda::Result::success);
    CHECK(rig.driver.mem_free_host(source) == cuda::Result::success);
    CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
  }

  // Queues the copy of a page of a sparse array to a pinned tile.
  void queue_look(const SparseArray& array, TilePage page, std::uint32_t* to, cuda::Stream in) const {
    const TileShape& shape = array.shape();
    const std::uint64_t x = page.column() * kTileTexels, y = page.row() * kTileTexels;
    const std::uint64_t columns = shape.width_of(page.level()) - x, rows = shape.height_of(page.level()) - y;
    cuda::Copy3D copy = {};
    copy.from.type = cuda::MemoryType::array;
    REQUIRE(rig.driver.mipmapped_array_get_level(&copy.from.array, array.array(), page.level()) ==
            cuda::Result::success);
    copy.from.x_bytes = x * kTexelBytes;
    copy.from.y = y;
    copy.from.z = page.layer();
    copy.to.type = cuda::MemoryType::host;
    copy.to.host = to;
    copy.to.pitch_bytes = kTileTexels * kTexelBytes;
    copy.width_bytes = (columns < kTileTexels ? columns : kTileTexels) * kTexelBytes;
    copy.height = rows < kTileTexels ? rows : kTileTexels;
    copy.depth = 1;
    REQUIRE(rig.driver.memcpy_3d_async(&copy, in) == cuda::Result::success);
  }
  const std::uint32_t* look(const SparseArray& array, TilePage page) const {
    queue_look(array, page, seen, stream);
    REQUIRE(rig.driver.stream_synchronize(stream) == cuda::Result::success);
    return seen;
  }
  // What a page of an atlas holds, found through the copy of its table on the device. nullptr: no slot.
  const std::uint32_t* look(const TileAtlas& atlas, TilePage page) const {
    std::vector<TileEntry> table(atlas.table_entries());
    REQUIRE(rig.driver.memcpy_d2h_async(table.data(), atlas.table_address(), table.size() * sizeof(TileEntry),
                                        stream) == cuda::Result::success);
    REQUIRE(rig.driver.stream_synchronize(stream) == cuda::Result::success);
    std::uint64_t at = TileTable::hash(page.bits() + 1) & (table.size() - 1);
    while (table[at].page != 0 && table[at].page != page.bits() + 1) at = (at + 1) & (table.size() - 1);
    if (table[at].page == 0) return nullptr;
    const cuda::DevicePointer from = atlas.slots_address() + table[at].value * kTileBytes;
    REQUIRE(rig.driver.memcpy_d2h_async(seen, from, kTileBytes, stream) == cuda::Result::success);
    REQUIRE(rig.driver.stream_synchronize(stream) == cuda::Result::success);
    return seen;
  }
  // Writes the truth of a page. The source is used again, so it waits.
  Outcome write(SparseArray& array, TilePage page) const {
    fill_truth(page, reinterpret_cast<std::byte*>(source));
    const Outcome outcome = array.write(page, reinterpret_cast<const std::byte*>(source));
    REQUIRE(rig.driver.stream_synchronize(stream) == cuda::Result::success);
    return outcome;
  }

  Rig& rig;
  cuda::Stream stream;
  std::uint32_t *seen, *source;
};

inline SparseArrayOptions rgba8_array(const TileShape& shape, std::uint32_t tiles_max, cuda::Stream stream) {
  SparseArrayOptions options;
  options.width = shape.width;
  options.height = shape.height;
  options.levels = shape.levels;
  options.layers = shape.layers > 1 ? shape.layers : 0;
  options.tiles_max = tiles_max;
  options.stream = stream;
  return options;
}

// Fills pages with the truth, unless it is told otherwise.
struct Filler {
  std::set<TilePage> not_ready, broken;
  bool is_ready = true;
  std::uint64_t calls = 0;
  static TileFill fill(void* self, TilePage page, std::byte* to) {
    auto& filler = *static_cast<Filler*>(self);
    ++filler.calls;
    if (filler.broken.contains(page)) return TileFill::failed;
    if (!filler.is_ready || filler.not_ready.contains(page)) return TileFill::not_ready;
    fill_truth(page, to);
    return TileFill::ready;
  }
};

// What a cache on a device stands on.
struct CacheRig {
  CacheRig(Rig& rig, Gpu& gpu, std::uint32_t tiles_per_update) : at(rig) {
    REQUIRE(events.open(gpu).ok());
    fences.open(gpu, events);
    StagingOptions wanted;
    wanted.ring_bytes = 2 * tiles_per_update * kTileBytes;
    REQUIRE(ring.open(gpu, fences, wanted).ok());
    options.gpu = &gpu;
    options.staging = &ring;
    options.events = &events;
    options.stream = at.stream;
    options.tiles_per_update = tiles_per_update;
    options.fill = Filler::fill;
    options.fill_self = &filler;
  }
  ~CacheRig() {
    ring.close();
    fences.close();
    events.close();
  }

  TileStream at;
  EventPool events;
  FenceQueue fences;
  StagingRing ring;
  Filler filler;
  TileCacheOptions options;
};

}  // namespace device_test
