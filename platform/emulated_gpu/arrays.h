// Sparse arrays of the emulated GPU (namespace glebe::os::emulated): 2D, layered or not, with or without
// mip levels. Nothing else: no other arrays, no 3D, no block compressed formats.
//
// An array has a table with one entry for each tile of 64 KiB: where its bytes are in a tile pool, or
// nothing. Copies go from tile to tile; what has no memory reads as zero, and what is written there is lost.
// The levels that are smaller than a tile lie one behind the other in the mip tail, which has entries too.
// Entries change when the operation's turn in its stream comes, under the lock of the machine; copies read
// them without it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "platform/cuda/types.h"
#include "platform/emulated_gpu/physical.h"

namespace glebe::os::emulated {

inline constexpr std::size_t kArrayTileBytes = 64 * kKiB;
inline constexpr unsigned kArrayLevelsMax = 18;

struct ArrayTile {
  std::byte* at;
  Piece* piece;  // counts a mapping
};

}  // namespace glebe::os::emulated

// What the handles of the table point to.
namespace glebe::os::cuda {

struct ArrayObject {
  MipmappedArrayObject* owner;
  unsigned level;
};

struct MipmappedArrayObject {
  ArrayDescription description;
  bool is_mipmapped;  // otherwise it is known by the handle of its only level
  unsigned levels, layers, element_bytes;
  unsigned tile_width, tile_height;                         // elements
  unsigned tail_first_level;                                // `levels`: there is no tail
  std::uint64_t tail_bytes;                                 // of a layer
  std::uint64_t first_tile[emulated::kArrayLevelsMax + 1];  // of a level, or of the tail, in its layer
  std::uint64_t tail_offset[emulated::kArrayLevelsMax + 1];
  std::uint64_t layer_tiles, mapped_tiles;
  emulated::ArrayTile* tiles;
  ArrayObject level_arrays[emulated::kArrayLevelsMax];
};

}  // namespace glebe::os::cuda

namespace glebe::os::emulated {

// A box of an array and rows in linear memory, of which one is copied to the other.
struct ArrayCopy {
  cuda::MipmappedArrayObject* array;
  unsigned level;
  bool is_to_array;
  std::size_t x_bytes, y, layer;
  std::byte* linear;
  std::size_t pitch_bytes, slice_bytes;
  std::size_t width_bytes, height, depth;
};
void copy_box(const ArrayCopy& copy) noexcept;

// Tiles that get memory or lose it: a box of a level, or a part of the tail.
struct ArrayMapping {
  cuda::MipmappedArrayObject* array;
  PhysicalMemory* physical;
  std::uint64_t first_tile, row_tiles;  // number in the table; from one row of the level to the next
  std::uint32_t columns, rows;
  Piece* piece;  // counts a mapping for each tile until apply() or give_up(); nullptr: unmap
  std::byte* from;

  [[nodiscard]] std::uint32_t count() const noexcept { return columns * rows; }
};
void apply(ArrayMapping& mapping) noexcept;
void give_up(ArrayMapping& mapping) noexcept;  // it does not come to that

[[nodiscard]] constexpr std::size_t level_size(std::size_t size, unsigned level) noexcept {
  return size >> level != 0 ? size >> level : 1;
}
// Fills in everything but the table. False: a size, format or flag that a sparse array cannot have.
[[nodiscard]] bool lay_out(cuda::MipmappedArrayObject& array, const cuda::ArrayDescription& wanted,
                           unsigned levels) noexcept;
[[nodiscard]] bool open_tiles(cuda::MipmappedArrayObject& array) noexcept;
void close_tiles(cuda::MipmappedArrayObject& array, PhysicalMemory& physical) noexcept;

}  // namespace glebe::os::emulated
