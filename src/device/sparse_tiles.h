// Sparse arrays of a device: textures of which only some tiles have memory (namespace glebe::device).
//
//   ChunkPool arenas;  arenas.open(gpu, {.chunk_bytes = kTileArenaBytes, .is_tile_pool = true, ...});
//   TilePool tiles;    tiles.open({.chunk_bytes = kTileArenaBytes, .max_bytes = ..., .gpu = &gpu}, {&arenas},
//                                 {.unit_bytes = kTileBytes});
//   SparseArray array; array.open(gpu, tiles, {.width = 16384, .height = 16384, .levels = 15, ...});
//
// A TilePool is a MemoryPool of tiles: runs of whole tiles inside one arena, an exact cap. A SparseArray puts
// tiles of it behind its pages, by one call of the driver for each exchange(), however many pages, in the
// array's own stream. Tiles that leave a page serve the next one in that same call; what is left over goes
// back to the pool, which hands it out when the stream has passed. The mip tail has memory from open() to
// close(). Other streams that use the texture are ordered with the array's stream by whoever uses it
// (TileCache does so).
//
// Not thread-safe, but several arrays may share a pool.
#pragma once

#include <cstdint>
#include <span>

#include "src/device/memory_pool.h"
#include "src/device/tile_binder.h"
#include "src/device/tile_table.h"

namespace glebe::device {

inline constexpr std::uint64_t kTileArenaBytes = 32 * kMiB;
using TilePool = MemoryPool<TileSource, HeapEngine>;

struct SparseArrayOptions {
  std::uint64_t width = 0, height = 0;  // texels of level 0
  unsigned layers = 0;                  // 0: not layered
  unsigned levels = 1;                  // more than there can be: as many as there can be
  cuda::ArrayFormat format = cuda::ArrayFormat::unsigned8;
  unsigned channels = 4;          // 1, 2 or 4
  std::uint32_t tiles_max = 0;    // pages with memory at the same time, the tail not counted
  cuda::Stream stream = nullptr;  // of all that the array does; outlives it
};

class SparseArray {
 public:
  SparseArray() noexcept = default;
  ~SparseArray() { static_cast<void>(close()); }
  SparseArray(const SparseArray&) = delete;
  SparseArray& operator=(const SparseArray&) = delete;

  // Makes the array and maps its tail. `gpu` and `pool`, opened with that GPU, outlive it. unsupported: the
  // device has no sparse arrays; bad_argument; over_budget, out_of_memory: no tiles for the tail;
  // no_host_memory; others as the driver answers. A failure leaves nothing.
  Outcome open(Gpu& gpu, TilePool& pool, const SparseArrayOptions& options) noexcept;
  // Waits for the stream, then gives the array and all tiles back. May be called twice. When the driver
  // refuses, it can be called again, and nothing else.
  Outcome close() noexcept;
  [[nodiscard]] bool is_open() const noexcept { return array_ != nullptr; }

  // As TileBinder::exchange. The pages of the tail are there already: in `in` they are passed over, in `out`
  // they are a bad_argument. One call of the driver at most.
  Outcome exchange(std::span<const TilePage> out, std::span<const TilePage> in) noexcept;
  // As TileBinder::write; `from` is pinned.
  Outcome write(TilePage page, const std::byte* from) noexcept;

  [[nodiscard]] bool is_resident(TilePage page) const noexcept {
    return shape_.holds(page) && (shape_.is_tail(page) || tiles_.find(page) != nullptr);
  }
  [[nodiscard]] std::uint64_t resident() const noexcept { return tiles_.count(); }  // without the tail
  [[nodiscard]] const TileShape& shape() const noexcept { return shape_; }
  [[nodiscard]] cuda::MipmappedArray array() const noexcept { return array_; }  // for textures and surfaces
  [[nodiscard]] TileBinder binder() noexcept;

 private:
  static constexpr unsigned kLevelsMax = 31;
  static constexpr std::uint64_t kLeaving = std::uint64_t{1} << 63;  // in tiles_, within exchange()

  Outcome make(const SparseArrayOptions& options) noexcept;
  Outcome ask_shape(const SparseArrayOptions& options) noexcept;
  Outcome map_tail() noexcept;
  // How far an exchange has come.
  struct Change {
    std::size_t marked = 0, added = 0;  // of `out`, of `in`
    std::uint64_t coming = 0;           // of those added, the ones that get a tile
    std::uint64_t spare_before = 0;
  };
  Outcome mark_leaving(std::span<const TilePage> out, std::size_t* marked) noexcept;
  Outcome add_coming(std::span<const TilePage> in, std::uint64_t room, Change* change) noexcept;
  Outcome take(std::uint64_t count) noexcept;
  Outcome map(std::span<const TilePage> out, std::span<const TilePage> in) noexcept;
  Outcome map(std::uint32_t count) noexcept;
  void undo(std::span<const TilePage> out, std::span<const TilePage> in, const Change& change) noexcept;
  [[nodiscard]] cuda::ArrayMapInfo info_of(TilePage page) const noexcept;
  void set_memory(cuda::ArrayMapInfo& info, std::uint64_t address) const noexcept;
  [[nodiscard]] cuda::ArrayMapInfo* infos() const noexcept {
    return reinterpret_cast<cuda::ArrayMapInfo*>(infos_.base());
  }
  [[nodiscard]] std::uint64_t* spare() const noexcept {
    return reinterpret_cast<std::uint64_t*>(spare_.base());
  }
  [[nodiscard]] std::uint64_t* tails() const noexcept {
    return reinterpret_cast<std::uint64_t*>(tails_.base());
  }

  Gpu* gpu_ = nullptr;
  TilePool* pool_ = nullptr;
  cuda::Stream stream_ = nullptr;
  cuda::MipmappedArray array_ = nullptr;
  cuda::Array levels_[kLevelsMax] = {};
  TileShape shape_;
  cuda::SparseProperties properties_ = {};
  std::uint32_t tiles_max_ = 0, tail_count_ = 0, tails_taken_ = 0;
  TileTable tiles_;  // page -> address in the pool
  paging::GrowingMemory infos_, tails_;
  // Tiles without a page, free in the order of the stream: used first, and given to the pool when it takes
  // them.
  paging::GrowingMemory spare_;
  std::uint64_t spare_count_ = 0;
};

}  // namespace glebe::device
