// What a cache of tiles needs of a texture, as a table of functions (namespace glebe::device): SparseArray
// and TileAtlas are the two. Pages of the tail belong to the texture like all others; whoever binds decides
// what memory they have.
#pragma once

#include <span>

#include "src/device/gpu.h"
#include "src/device/tile_page.h"

namespace glebe::device {

struct TileBinder {
  void* self = nullptr;
  TileShape shape;
  // Takes the memory of the pages `out` away and puts memory behind the pages `in`, in the order of the
  // texture's stream; contents are undefined. All of it or nothing. bad_argument: a page that is none;
  // not_owned: one of `out` has no memory; in_use: one of `in` has; over_budget, out_of_memory: no tiles.
  Outcome (*exchange)(void* self, std::span<const TilePage> out, std::span<const TilePage> in) = nullptr;
  // Queues the copy of a page from memory that stays as it is until the stream has passed: rows of
  // tile_width texels, also where the texture ends within the tile. It has memory. A failure queues nothing.
  Outcome (*write)(void* self, TilePage page, const std::byte* from) = nullptr;
};

// The table of a texture that has both functions as members, and outlives the table.
template <class Texture>
[[nodiscard]] TileBinder make_binder(Texture* texture, const TileShape& shape) noexcept {
  TileBinder binder;
  binder.self = texture;
  binder.shape = shape;
  binder.exchange = [](void* self, std::span<const TilePage> out, std::span<const TilePage> in) {
    return static_cast<Texture*>(self)->exchange(out, in);
  };
  binder.write = [](void* self, TilePage page, const std::byte* from) {
    return static_cast<Texture*>(self)->write(page, from);
  };
  return binder;
}

}  // namespace glebe::device
