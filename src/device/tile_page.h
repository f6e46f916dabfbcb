// Pages of a texture that is resident in parts (namespace glebe::device): a page is what one tile of 64 KiB
// holds, and its number says everything about it, level and layer too. Values only; 64 bits throughout, so
// that a texture of 2^30 texels a side with all its levels is counted right.
#pragma once

#include <compare>
#include <cstdint>

#include "src/base/bits.h"

namespace glebe::device {

class TilePage {
 public:
  static constexpr unsigned kAxisBits = 24, kLayerBits = 11, kLevelBits = 5;

  constexpr TilePage() noexcept = default;  // no page
  constexpr TilePage(std::uint64_t level, std::uint64_t layer, std::uint64_t column,
                     std::uint64_t row) noexcept
      : bits_(level << (kLayerBits + 2 * kAxisBits) | layer << (2 * kAxisBits) | interleave(column, row)) {}

  [[nodiscard]] constexpr unsigned level() const noexcept {
    return static_cast<unsigned>(bits_ >> (kLayerBits + 2 * kAxisBits));
  }
  [[nodiscard]] constexpr unsigned layer() const noexcept {
    return static_cast<unsigned>(bits_ >> (2 * kAxisBits)) & ((1u << kLayerBits) - 1);
  }
  [[nodiscard]] constexpr std::uint64_t column() const noexcept { return gather(bits_); }
  [[nodiscard]] constexpr std::uint64_t row() const noexcept { return gather(bits_ >> 1); }
  [[nodiscard]] constexpr std::uint64_t bits() const noexcept { return bits_; }
  [[nodiscard]] constexpr auto operator<=>(const TilePage&) const noexcept = default;

 private:
  [[nodiscard]] static constexpr std::uint64_t interleave(std::uint64_t column, std::uint64_t row) noexcept {
    std::uint64_t bits = 0;
    for (unsigned i = 0; i < kAxisBits; ++i)
      bits |= (column >> i & 1) << (2 * i) | (row >> i & 1) << (2 * i + 1);
    return bits;
  }
  [[nodiscard]] static constexpr std::uint64_t gather(std::uint64_t bits) noexcept {
    std::uint64_t value = 0;
    for (unsigned i = 0; i < kAxisBits; ++i) value |= (bits >> (2 * i) & 1) << i;
    return value;
  }

  std::uint64_t bits_ = ~std::uint64_t{0};
};

// What pages a texture has. Sizes are texels; levels halve, rounded down, but never below 1.
struct TileShape {
  std::uint64_t width = 0, height = 0;
  unsigned layers = 1, levels = 1;
  unsigned tile_width = 0, tile_height = 0, texel_bytes = 0;  // a tile of them is kTileBytes
  unsigned tail_first_level = 0;  // levels from here on are smaller than a tile, and always resident

  [[nodiscard]] constexpr std::uint64_t width_of(unsigned level) const noexcept {
    return width >> level != 0 ? width >> level : 1;
  }
  [[nodiscard]] constexpr std::uint64_t height_of(unsigned level) const noexcept {
    return height >> level != 0 ? height >> level : 1;
  }
  [[nodiscard]] constexpr std::uint64_t columns(unsigned level) const noexcept {
    return divide_up(width_of(level), tile_width);
  }
  [[nodiscard]] constexpr std::uint64_t rows(unsigned level) const noexcept {
    return divide_up(height_of(level), tile_height);
  }
  // Of one layer of a level; of all of them.
  [[nodiscard]] constexpr std::uint64_t pages_of(unsigned level) const noexcept {
    return columns(level) * rows(level);
  }
  [[nodiscard]] constexpr std::uint64_t pages_from(unsigned first_level) const noexcept {
    std::uint64_t pages = 0;
    for (unsigned level = first_level; level < levels; ++level) pages += pages_of(level) * layers;
    return pages;
  }
  [[nodiscard]] constexpr bool holds(TilePage page) const noexcept {
    return page.level() < levels && page.layer() < layers && page.column() < columns(page.level()) &&
           page.row() < rows(page.level());
  }
  [[nodiscard]] constexpr bool is_tail(TilePage page) const noexcept {
    return page.level() >= tail_first_level;
  }
  // The page of the next level that shows the same part. A level whose size was rounded down has no page for
  // the last column or row of its finer one; the neighbour stands for it. The last level has no parent.
  [[nodiscard]] constexpr TilePage parent(TilePage page) const noexcept {
    const unsigned level = page.level() + 1;
    if (level >= levels) return {};
    const std::uint64_t column = page.column() / 2, row = page.row() / 2;
    const std::uint64_t column_max = columns(level) - 1, row_max = rows(level) - 1;
    return {level, page.layer(), column < column_max ? column : column_max, row < row_max ? row : row_max};
  }
  // Calls sink(page) for each page whose parent this is.
  template <class Sink>
  constexpr void for_each_child(TilePage page, Sink&& sink) const noexcept {
    if (page.level() == 0) return;
    for (std::uint64_t y = 0; y < 3; ++y) {
      for (std::uint64_t x = 0; x < 3; ++x) {
        const TilePage child(page.level() - 1, page.layer(), page.column() * 2 + x, page.row() * 2 + y);
        if (holds(child) && parent(child) == page) sink(child);
      }
    }
  }
};

// Levels, counted from `shape.width` and `shape.height`, down to the last one of at least one tile each way.
[[nodiscard]] constexpr unsigned tail_start(const TileShape& shape) noexcept {
  unsigned level = 0;
  while (level < shape.levels && shape.width_of(level) >= shape.tile_width &&
         shape.height_of(level) >= shape.tile_height) {
    ++level;
  }
  return level;
}

}  // namespace glebe::device
