// Tiles of sparse arrays; see arrays.h.
#include "platform/emulated_gpu/arrays.h"

#include <cstring>

#include "platform/vm.h"
#include "src/base/check.h"

namespace glebe::os::emulated {

using cuda::ArrayFormat;
using cuda::MipmappedArrayObject;

namespace {

// Assumed: a device tells its own by attributes (MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH and its like).
constexpr std::size_t kWidthMax = 131072, kHeightMax = 65536, kMipmappedMax = 32768, kLayersMax = 2048;

unsigned element_bytes_of(const cuda::ArrayDescription& wanted) noexcept {
  if (wanted.channels != 1 && wanted.channels != 2 && wanted.channels != 4) return 0;
  switch (wanted.format) {
    case ArrayFormat::unsigned8:
    case ArrayFormat::signed8:
      return wanted.channels;
    case ArrayFormat::unsigned16:
    case ArrayFormat::signed16:
    case ArrayFormat::float16:
      return 2 * wanted.channels;
    case ArrayFormat::unsigned32:
    case ArrayFormat::signed32:
    case ArrayFormat::float32:
      return 4 * wanted.channels;
  }
  return 0;
}

std::uint64_t table_bytes(const MipmappedArrayObject& array) noexcept {
  return align_up(array.layer_tiles * array.layers * sizeof(ArrayTile), page_bytes());
}

// Levels that are smaller than a tile in any direction, packed.
void lay_out_tail(MipmappedArrayObject& array, std::uint64_t first_tile) noexcept {
  std::uint64_t offset = 0;
  array.first_tile[array.tail_first_level] = first_tile;
  for (unsigned level = array.tail_first_level; level < array.levels; ++level) {
    array.tail_offset[level] = offset;
    offset += level_size(array.description.width, level) * level_size(array.description.height, level) *
              array.element_bytes;
  }
  array.tail_bytes = align_up(offset, kArrayTileBytes);
  array.layer_tiles = first_tile + array.tail_bytes / kArrayTileBytes;
}

struct Spot {
  std::size_t x_bytes, y, layer;
};

// Where a byte of a level is, and for how many bytes its row goes on there; nullptr: no memory.
std::byte* find_run(const ArrayCopy& copy, const Spot& spot, std::size_t* run_bytes) noexcept {
  const auto [x_bytes, y, layer] = spot;
  const MipmappedArrayObject& array = *copy.array;
  const std::uint64_t base = layer * array.layer_tiles + array.first_tile[copy.level];
  const std::size_t width_bytes = level_size(array.description.width, copy.level) * array.element_bytes;
  std::uint64_t tile = 0, in_tile = 0;
  if (copy.level < array.tail_first_level) {
    const std::size_t row_bytes = std::size_t{array.tile_width} * array.element_bytes;
    tile = base + y / array.tile_height * divide_up(width_bytes, row_bytes) + x_bytes / row_bytes;
    in_tile = y % array.tile_height * row_bytes + x_bytes % row_bytes;
    *run_bytes = row_bytes - x_bytes % row_bytes;
  } else {
    const std::uint64_t offset = array.tail_offset[copy.level] + y * width_bytes + x_bytes;
    tile = layer * array.layer_tiles + array.first_tile[array.tail_first_level] + offset / kArrayTileBytes;
    in_tile = offset % kArrayTileBytes;
    *run_bytes = kArrayTileBytes - in_tile;
  }
  // Pairs with release in set(): a copy in another stream may look while an entry changes.
  std::byte* at = __atomic_load_n(&array.tiles[tile].at, __ATOMIC_ACQUIRE);
  return at == nullptr ? nullptr : at + in_tile;
}

void copy_row(const ArrayCopy& copy, std::size_t row, std::size_t slice) noexcept {
  std::byte* linear = copy.linear + slice * copy.slice_bytes + row * copy.pitch_bytes;
  for (std::size_t done = 0; done < copy.width_bytes;) {
    std::size_t run_bytes = 0;
    std::byte* at = find_run(copy, {copy.x_bytes + done, copy.y + row, copy.layer + slice}, &run_bytes);
    if (run_bytes > copy.width_bytes - done) run_bytes = copy.width_bytes - done;
    if (copy.is_to_array) {
      if (at != nullptr) std::memcpy(at, linear + done, run_bytes);
    } else if (at != nullptr) {
      std::memcpy(linear + done, at, run_bytes);
    } else {
      std::memset(linear + done, 0, run_bytes);
    }
    done += run_bytes;
  }
}

void set(const ArrayMapping& mapping, std::uint64_t tile, std::byte* at) noexcept {
  MipmappedArrayObject& array = *mapping.array;
  ArrayTile& entry = array.tiles[tile];
  __atomic_store_n(&entry.at, at, __ATOMIC_RELEASE);  // pairs with acquire in find_run()
  if (entry.piece != nullptr) {
    mapping.physical->drop_mapping(entry.piece);
    --array.mapped_tiles;
  }
  entry.piece = mapping.piece;
  if (mapping.piece != nullptr) ++array.mapped_tiles;
}

}  // namespace

bool lay_out(MipmappedArrayObject& array, const cuda::ArrayDescription& wanted, unsigned levels) noexcept {
  const bool is_layered = (wanted.flags & cuda::kArrayLayered) != 0;
  const bool is_limited = is_layered || array.is_mipmapped;
  array.description = wanted;
  array.element_bytes = element_bytes_of(wanted);
  array.layers = is_layered ? static_cast<unsigned>(wanted.depth) : 1;
  if (array.element_bytes == 0 || wanted.width == 0 || wanted.height == 0) return false;
  if (wanted.width > (is_limited ? kMipmappedMax : kWidthMax)) return false;
  if (wanted.height > (is_limited ? kMipmappedMax : kHeightMax)) return false;
  if (is_layered ? wanted.depth == 0 || wanted.depth > kLayersMax : wanted.depth != 0) return false;
  // 1 byte: 256 x 256, 2: 256 x 128, 4: 128 x 128, 8: 128 x 64, 16: 64 x 64.
  const unsigned shift = log2_floor(array.element_bytes);
  array.tile_width = 256u >> (shift / 2);
  array.tile_height = 256u >> ((shift + 1) / 2);
  const unsigned levels_max = log2_floor(wanted.width > wanted.height ? wanted.width : wanted.height) + 1;
  array.levels = levels < levels_max ? levels : levels_max;
  array.tail_first_level = array.levels;
  std::uint64_t tile = 0;
  for (unsigned level = 0; level < array.levels; ++level) {
    const std::size_t width = level_size(wanted.width, level), height = level_size(wanted.height, level);
    array.level_arrays[level] = {&array, level};
    if (array.tail_first_level != array.levels) continue;
    if (array.is_mipmapped && (width < array.tile_width || height < array.tile_height)) {
      array.tail_first_level = level;
      continue;
    }
    array.first_tile[level] = tile;
    tile += divide_up(width, array.tile_width) * divide_up(height, array.tile_height);
  }
  lay_out_tail(array, tile);
  return true;
}

bool open_tiles(MipmappedArrayObject& array) noexcept {
  void* base = reserve(table_bytes(array), page_bytes());
  if (base == nullptr) return false;
  if (!commit(base, table_bytes(array))) {
    release(base, table_bytes(array));
    return false;
  }
  array.tiles = static_cast<ArrayTile*>(base);
  return true;
}

void close_tiles(MipmappedArrayObject& array, PhysicalMemory& physical) noexcept {
  const std::uint64_t count = array.layer_tiles * array.layers;
  for (std::uint64_t tile = 0; tile < count && array.mapped_tiles != 0; ++tile) {
    if (array.tiles[tile].piece == nullptr) continue;
    physical.drop_mapping(array.tiles[tile].piece);
    --array.mapped_tiles;
  }
  release(array.tiles, table_bytes(array));
}

void copy_box(const ArrayCopy& copy) noexcept {
  for (std::size_t slice = 0; slice < copy.depth; ++slice) {
    for (std::size_t row = 0; row < copy.height; ++row) copy_row(copy, row, slice);
  }
}

void apply(ArrayMapping& mapping) noexcept {
  std::byte* from = mapping.piece != nullptr ? mapping.from : nullptr;
  for (std::uint32_t row = 0; row < mapping.rows; ++row) {
    for (std::uint32_t column = 0; column < mapping.columns; ++column) {
      set(mapping, mapping.first_tile + row * mapping.row_tiles + column, from);
      if (from != nullptr) from += kArrayTileBytes;
    }
  }
  mapping.piece = nullptr;
}

void give_up(ArrayMapping& mapping) noexcept {
  if (mapping.piece == nullptr) return;
  for (std::uint32_t i = 0; i < mapping.count(); ++i) mapping.physical->drop_mapping(mapping.piece);
  mapping.piece = nullptr;
}

}  // namespace glebe::os::emulated
