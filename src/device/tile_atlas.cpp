// Slots and their table; see tile_atlas.h.
#include "src/device/tile_atlas.h"

#include <cstring>

#include "src/base/check.h"

namespace glebe::device {

bool TileAtlas::is_sound(const TileAtlasOptions& options) noexcept {
  const TileShape& shape = options.shape;
  if (shape.tile_width == 0 || shape.tile_height == 0 || shape.texel_bytes == 0) return false;
  if (std::uint64_t{shape.tile_width} * shape.tile_height * shape.texel_bytes != kTileBytes) return false;
  constexpr std::uint64_t kSizeMax = std::uint64_t{1} << 30;
  if (shape.width == 0 || shape.height == 0 || shape.width > kSizeMax || shape.height > kSizeMax)
    return false;
  if (shape.layers == 0 || shape.layers > 1u << TilePage::kLayerBits) return false;
  if (shape.columns(0) > 1u << TilePage::kAxisBits || shape.rows(0) > 1u << TilePage::kAxisBits) return false;
  const std::uint64_t longest = shape.width > shape.height ? shape.width : shape.height;
  if (shape.levels == 0 || shape.levels > log2_floor(longest) + 1) return false;
  return options.tiles_max != 0 && options.memory.allocate != nullptr;
}

Outcome TileAtlas::open(const TileAtlasOptions& options) noexcept {
  Outcome outcome = close();
  if (!outcome.ok()) return outcome;
  if (!is_sound(options)) return Status::bad_argument;
  options_ = options;
  options_.shape.tail_first_level = tail_start(options.shape);
  outcome = make();
  if (!outcome.ok()) static_cast<void>(close());
  return outcome;
}

Outcome TileAtlas::make() noexcept {
  const std::uint64_t slot_bytes = options_.tiles_max * sizeof(std::uint32_t);
  const std::uint64_t leaving_bytes = options_.tiles_max * sizeof(std::uint64_t);
  // Who leaves is in the table until who comes is.
  if (!table_.open(std::uint64_t{2} * options_.tiles_max) ||
      !free_.reserve(slot_bytes, slot_bytes, 4 * kKiB) || !free_.grow_to(slot_bytes) ||
      !leaving_.reserve(leaving_bytes, leaving_bytes, 4 * kKiB) || !leaving_.grow_to(leaving_bytes)) {
    return Status::no_host_memory;
  }
  free_count_ = options_.tiles_max;
  for (std::uint32_t i = 0; i < free_count_; ++i) free_slots()[i] = free_count_ - 1 - i;
  const BlockSource& memory = options_.memory;
  Outcome outcome = memory.allocate(memory.self, options_.tiles_max * kTileBytes, 0, &slots_address_);
  if (!outcome.ok()) slots_address_ = 0;
  if (!outcome.ok() || options_.gpu == nullptr) return outcome;
  outcome = memory.allocate(memory.self, table_entries() * sizeof(TileEntry), 0, &table_address_);
  if (!outcome.ok()) {
    table_address_ = 0;
    return outcome;
  }
  Gpu& gpu = *options_.gpu;
  const CurrentContext current(gpu);
  return gpu.check(
      gpu.driver().memset_d8_async(table_address_, 0, table_entries() * sizeof(TileEntry), options_.stream));
}

Outcome TileAtlas::close() noexcept {
  if (options_.gpu != nullptr && slots_address_ != 0) {
    const CurrentContext current(*options_.gpu);
    const Outcome outcome = options_.gpu->check(options_.gpu->driver().stream_synchronize(options_.stream));
    if (!outcome.ok() && !options_.gpu->is_lost()) return outcome;
  }
  const BlockSource& memory = options_.memory;
  for (cuda::DevicePointer* address : {&table_address_, &slots_address_}) {
    if (*address == 0) continue;
    const Outcome outcome = memory.free(memory.self, *address);
    if (!outcome.ok()) return outcome;
    *address = 0;
  }
  table_.close();
  free_.release();
  leaving_.release();
  return {};
}

// Brings the copy on the device up to date. Entries are in pageable memory, which the driver has read when
// the call returns, up to 64 KiB.
Outcome TileAtlas::upload() noexcept {
  if (options_.gpu == nullptr) {
    table_.forget_changed();
    return {};
  }
  constexpr std::uint64_t kPartEntries = 64 * kKiB / sizeof(TileEntry);
  Gpu& gpu = *options_.gpu;
  const CurrentContext current(gpu);
  const TileTable::Range range = table_.changed();
  for (std::uint64_t at = range.first; at < range.end; at += kPartEntries) {
    const std::uint64_t count = range.end - at < kPartEntries ? range.end - at : kPartEntries;
    const Outcome outcome = gpu.check(
        gpu.driver().memcpy_h2d_async(table_address_ + at * sizeof(TileEntry), table_.all().data() + at,
                                      count * sizeof(TileEntry), options_.stream));
    if (!outcome.ok()) return outcome;
  }
  table_.forget_changed();
  return {};
}

// Takes the pages out of the table and keeps their slots; *gone says how many.
Outcome TileAtlas::take_out(std::span<const TilePage> out, std::size_t* gone) noexcept {
  for (*gone = 0; *gone < out.size(); ++*gone) {
    const TilePage page = out[*gone];
    if (!options_.shape.holds(page)) return Status::bad_argument;
    const std::uint64_t* slot = table_.find(page);
    if (slot == nullptr) return Status::not_owned;
    leaving()[*gone] = *slot;
    table_.erase(page);
  }
  return {};
}

// The slots that were left serve those that come, then the free ones, the last one first.
Outcome TileAtlas::put_in(std::span<const TilePage> in, std::size_t gone, std::size_t* come) noexcept {
  for (*come = 0; *come < in.size(); ++*come) {
    if (!options_.shape.holds(in[*come])) return Status::bad_argument;
    if (*come == gone + free_count_) return Status::over_budget;
    const std::uint64_t slot =
        *come < gone ? leaving()[*come] : free_slots()[free_count_ - 1 - (*come - gone)];
    if (!table_.insert(in[*come], slot)) return Status::in_use;
  }
  return {};
}

Outcome TileAtlas::exchange(std::span<const TilePage> out, std::span<const TilePage> in) noexcept {
  if (!is_open() || out.size() > options_.tiles_max) return Status::bad_argument;
  std::size_t gone = 0, come = 0;
  Outcome outcome = take_out(out, &gone);
  if (outcome.ok()) outcome = put_in(in, gone, &come);
  if (outcome.ok()) outcome = upload();
  if (!outcome.ok()) {
    for (std::size_t i = 0; i < come; ++i) table_.erase(in[i]);
    for (std::size_t i = 0; i < gone; ++i) CHECK(table_.insert(out[i], leaving()[i]));
    // What went to the device of it goes back, now or with the next exchange.
    static_cast<void>(upload());
    return outcome;
  }
  if (come > gone) free_count_ -= static_cast<std::uint32_t>(come - gone);
  for (std::size_t i = come; i < gone; ++i) {
    free_slots()[free_count_++] = static_cast<std::uint32_t>(leaving()[i]);
  }
  return {};
}

Outcome TileAtlas::write(TilePage page, const std::byte* from) noexcept {
  if (!is_open() || from == nullptr) return Status::bad_argument;
  const std::uint64_t to = address_of(page);
  if (to == 0) return Status::not_owned;
  if (options_.gpu == nullptr) {
    std::memcpy(reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(to)), from, kTileBytes);
    return {};
  }
  const CurrentContext current(*options_.gpu);
  return options_.gpu->check(options_.gpu->driver().memcpy_h2d_async(to, from, kTileBytes, options_.stream));
}

TileBinder TileAtlas::binder() noexcept { return make_binder(this, options_.shape); }

}  // namespace glebe::device
