// A texture that is resident in parts, without sparse arrays (namespace glebe::device): tiles lie in linear
// memory, one slot of 64 KiB each, and a table says which page is in which slot. It works on every device,
// and without one in memory of the host.
//
// The table has as many entries as slots need, however large the texture is. On a device it has a copy there
// (table_address()), brought up to date in the stream by each exchange(), so that a kernel finds a page as
// TileTable does; it goes on to the parent when there is none. Not thread-safe.
#pragma once

#include <cstdint>
#include <span>

#include "src/device/block_source.h"
#include "src/device/pool_source.h"
#include "src/device/tile_binder.h"
#include "src/device/tile_table.h"

namespace glebe::device {

struct TileAtlasOptions {
  TileShape shape;                // a tile of it has 64 KiB; its tail_first_level is worked out here
  std::uint32_t tiles_max = 0;    // slots: pages at the same time, those of the tail too
  BlockSource memory;             // of the device, or of the host without `gpu`; outlives the atlas
  Gpu* gpu = nullptr;             // nullptr: memory of the host, and no stream
  cuda::Stream stream = nullptr;  // of all that the atlas does; outlives it
};

class TileAtlas {
 public:
  TileAtlas() noexcept = default;
  ~TileAtlas() { static_cast<void>(close()); }
  TileAtlas(const TileAtlas&) = delete;
  TileAtlas& operator=(const TileAtlas&) = delete;

  // bad_argument: a tile that is not 64 KiB, sizes of 0 or beyond what a page can tell, no slots;
  // no_host_memory; others as `memory` answers. A failure leaves nothing.
  Outcome open(const TileAtlasOptions& options) noexcept;
  // Waits for the stream, then gives the memory back. May be called twice. When the driver refuses, it can be
  // called again, and nothing else.
  Outcome close() noexcept;
  [[nodiscard]] bool is_open() const noexcept { return slots_address_ != 0; }

  // As TileBinder::exchange. After a failure of the driver the copy of the table on the device may be
  // behind until the next call that works.
  Outcome exchange(std::span<const TilePage> out, std::span<const TilePage> in) noexcept;
  // As TileBinder::write.
  Outcome write(TilePage page, const std::byte* from) noexcept;

  // Where the tile of a page is; 0: it has none.
  [[nodiscard]] std::uint64_t address_of(TilePage page) const noexcept {
    const std::uint64_t* slot = is_open() ? table_.find(page) : nullptr;
    return slot != nullptr ? slots_address_ + *slot * kTileBytes : 0;
  }
  [[nodiscard]] std::uint64_t resident() const noexcept { return table_.count(); }
  [[nodiscard]] const TileShape& shape() const noexcept { return options_.shape; }
  // For kernels: the slots, the copy of the table on the device (0 without a GPU), and its entries.
  [[nodiscard]] std::uint64_t slots_address() const noexcept { return slots_address_; }
  [[nodiscard]] std::uint64_t table_address() const noexcept { return table_address_; }
  [[nodiscard]] std::uint64_t table_entries() const noexcept { return table_.all().size(); }
  [[nodiscard]] TileBinder binder() noexcept;

 private:
  [[nodiscard]] static bool is_sound(const TileAtlasOptions& options) noexcept;
  Outcome make() noexcept;
  Outcome take_out(std::span<const TilePage> out, std::size_t* gone) noexcept;
  Outcome put_in(std::span<const TilePage> in, std::size_t gone, std::size_t* come) noexcept;
  Outcome upload() noexcept;
  [[nodiscard]] std::uint32_t* free_slots() const noexcept {
    return reinterpret_cast<std::uint32_t*>(free_.base());
  }
  [[nodiscard]] std::uint64_t* leaving() const noexcept {
    return reinterpret_cast<std::uint64_t*>(leaving_.base());
  }

  TileAtlasOptions options_;
  cuda::DevicePointer slots_address_ = 0, table_address_ = 0;
  TileTable table_;                // page -> slot
  paging::GrowingMemory free_;     // slots without a page, the last one is used next
  paging::GrowingMemory leaving_;  // within exchange(): slots of the pages that leave
  std::uint32_t free_count_ = 0;
};

}  // namespace glebe::device
