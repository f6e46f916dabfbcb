// Pages and tiles of sparse arrays; see sparse_tiles.h.
#include "src/device/sparse_tiles.h"

#include "src/base/check.h"

namespace glebe::device {
namespace {

unsigned texel_bytes_of(const SparseArrayOptions& options) noexcept {
  switch (options.format) {
    case cuda::ArrayFormat::unsigned8:
    case cuda::ArrayFormat::signed8:
      return options.channels;
    case cuda::ArrayFormat::unsigned16:
    case cuda::ArrayFormat::signed16:
    case cuda::ArrayFormat::float16:
      return 2 * options.channels;
    case cuda::ArrayFormat::unsigned32:
    case cuda::ArrayFormat::signed32:
    case cuda::ArrayFormat::float32:
      return 4 * options.channels;
  }
  return 0;
}

}  // namespace

// --- Opening and closing ---

Outcome SparseArray::open(Gpu& gpu, TilePool& pool, const SparseArrayOptions& options) noexcept {
  Outcome outcome = close();
  if (!outcome.ok()) return outcome;
  if (!gpu.facts().has_sparse_arrays) return Status::unsupported;
  constexpr std::uint32_t kTilesMax = 1u << 26;
  const bool is_sound = options.channels == 1 || options.channels == 2 || options.channels == 4;
  if (!is_sound || options.width == 0 || options.height == 0 || options.levels == 0 ||
      options.tiles_max == 0 || options.tiles_max > kTilesMax) {
    return Status::bad_argument;
  }
  gpu_ = &gpu;
  pool_ = &pool;
  stream_ = options.stream;
  tiles_max_ = options.tiles_max;
  tail_count_ = tails_taken_ = 0;
  spare_count_ = 0;
  outcome = make(options);
  // What was queued for the tail ends before its tiles go back; a driver that refuses that too is asked again
  // by the next close().
  if (!outcome.ok()) static_cast<void>(close());
  return outcome;
}

Outcome SparseArray::make(const SparseArrayOptions& options) noexcept {
  cuda::ArrayDescription wanted = {};
  wanted.width = options.width;
  wanted.height = options.height;
  wanted.depth = options.layers;
  wanted.format = options.format;
  wanted.channels = options.channels;
  wanted.flags = cuda::kArraySparse | (options.layers != 0 ? unsigned{cuda::kArrayLayered} : 0);
  const unsigned levels_max = log2_floor(wanted.width > wanted.height ? wanted.width : wanted.height) + 1;
  const unsigned levels = options.levels < levels_max ? options.levels : levels_max;
  if (levels > kLevelsMax) return Status::bad_argument;
  {
    const CurrentContext current(*gpu_);
    const Outcome outcome = gpu_->check(gpu_->driver().mipmapped_array_create(&array_, &wanted, levels));
    if (!outcome.ok()) {
      array_ = nullptr;
      const bool is_refused = outcome.driver == cuda::Result::invalid_value;
      return is_refused ? Outcome(Status::bad_argument, outcome.driver) : outcome;
    }
  }
  shape_.levels = levels;
  const Outcome outcome = ask_shape(options);
  return outcome.ok() ? map_tail() : outcome;
}

Outcome SparseArray::ask_shape(const SparseArrayOptions& options) noexcept {
  const CurrentContext current(*gpu_);
  Outcome outcome = gpu_->check(gpu_->driver().mipmapped_array_get_sparse_properties(&properties_, array_));
  for (unsigned level = 0; outcome.ok() && level < shape_.levels; ++level) {
    outcome = gpu_->check(gpu_->driver().mipmapped_array_get_level(&levels_[level], array_, level));
  }
  if (!outcome.ok()) return outcome;
  shape_.width = options.width;
  shape_.height = options.height;
  shape_.layers = options.layers != 0 ? options.layers : 1;
  shape_.tile_width = properties_.tile.width;
  shape_.tile_height = properties_.tile.height;
  shape_.texel_bytes = texel_bytes_of(options);
  const unsigned first = properties_.tail_first_level;
  shape_.tail_first_level = properties_.tail_bytes != 0 && first < shape_.levels ? first : shape_.levels;
  const std::uint64_t tile_bytes = std::uint64_t{shape_.tile_width} * shape_.tile_height * shape_.texel_bytes;
  if (tile_bytes != kTileBytes || properties_.tail_bytes % kTileBytes != 0) return Status::unsupported;
  const bool is_single = (properties_.flags & cuda::kSingleMipTail) != 0;
  if (shape_.tail_first_level != shape_.levels) tail_count_ = is_single ? 1 : shape_.layers;
  const std::uint64_t info_count =
      std::uint64_t{2} * tiles_max_ + tail_count_ + shape_.pages_from(shape_.tail_first_level);
  const std::uint64_t info_bytes = info_count * sizeof(cuda::ArrayMapInfo);
  const std::uint64_t spare_bytes = tiles_max_ * sizeof(std::uint64_t);
  const std::uint64_t tail_bytes = (std::uint64_t{tail_count_} + 1) * sizeof(std::uint64_t);
  // Who leaves is in the table until who comes is.
  const bool has_tables = tiles_.open(std::uint64_t{2} * tiles_max_) &&
                          infos_.reserve(info_bytes, info_bytes, 4 * kKiB) &&
                          spare_.reserve(spare_bytes, spare_bytes, 4 * kKiB) && spare_.grow_to(spare_bytes) &&
                          tails_.reserve(tail_bytes, tail_bytes, 4 * kKiB) && tails_.grow_to(tail_bytes);
  return has_tables ? Outcome() : Outcome(Status::no_host_memory);
}

// One run of tiles for each tail.
Outcome SparseArray::map_tail() noexcept {
  if (tail_count_ == 0) return {};
  if (!infos_.grow_to(tail_count_ * sizeof(cuda::ArrayMapInfo))) return Status::no_host_memory;
  for (; tails_taken_ < tail_count_; ++tails_taken_) {
    TileRun run;
    const Outcome outcome = pool_->allocate_tiles(properties_.tail_bytes / kTileBytes, &run);
    if (!outcome.ok()) return outcome;
    tails()[tails_taken_] = run.address;
    cuda::ArrayMapInfo& info = infos()[tails_taken_];
    info = info_of(TilePage(0, 0, 0, 0));
    info.subresource_type = cuda::SubresourceType::mip_tail;
    info.part.tail = {tails_taken_, 0, properties_.tail_bytes};
    set_memory(info, run.address);
  }
  return map(tail_count_);
}

Outcome SparseArray::close() noexcept {
  if (array_ != nullptr) {
    const CurrentContext current(*gpu_);
    Outcome outcome = gpu_->check(gpu_->driver().stream_synchronize(stream_));
    if (!outcome.ok() && !gpu_->is_lost()) return outcome;
    outcome = gpu_->check(gpu_->driver().mipmapped_array_destroy(array_));
    if (!outcome.ok() && !gpu_->is_lost()) return outcome;
    array_ = nullptr;
  }
  if (pool_ == nullptr) return {};
  for (const TileEntry& entry : tiles_.all()) {
    if (entry.page != 0) CHECK(pool_->free(entry.value).ok());
  }
  for (; tails_taken_ != 0; --tails_taken_) CHECK(pool_->free(tails()[tails_taken_ - 1]).ok());
  for (; spare_count_ != 0; --spare_count_) CHECK(pool_->free(spare()[spare_count_ - 1]).ok());
  tiles_.close();
  infos_.release();
  spare_.release();
  tails_.release();
  pool_ = nullptr;
  return {};
}

// --- Pages ---

cuda::ArrayMapInfo SparseArray::info_of(TilePage page) const noexcept {
  cuda::ArrayMapInfo info = {};
  info.resource_type = cuda::ResourceType::mipmapped_array;
  info.resource.mipmap = array_;
  info.part.level = {page.level(),
                     page.layer(),
                     static_cast<unsigned>(page.column()) * shape_.tile_width,
                     static_cast<unsigned>(page.row()) * shape_.tile_height,
                     0,
                     shape_.tile_width,
                     shape_.tile_height,
                     1};
  info.operation = cuda::MemoryOperation::unmap;
  info.device_mask = 1u << gpu_->device();
  return info;
}

void SparseArray::set_memory(cuda::ArrayMapInfo& info, std::uint64_t address) const noexcept {
  const TileSource::Place place = pool_->place_of(address);
  info.operation = cuda::MemoryOperation::map;
  info.handle = place.handle;
  info.offset_bytes = place.offset_bytes;
}

// Marks the pages that leave.
Outcome SparseArray::mark_leaving(std::span<const TilePage> out, std::size_t* marked) noexcept {
  for (*marked = 0; *marked < out.size(); ++*marked) {
    const TilePage page = out[*marked];
    if (!shape_.holds(page) || shape_.is_tail(page)) return Status::bad_argument;
    std::uint64_t* tile = tiles_.find(page);
    if (tile == nullptr) return Status::not_owned;
    if ((*tile & kLeaving) != 0) return Status::bad_argument;  // twice in the list
    *tile |= kLeaving;
  }
  return {};
}

// Puts the pages that come into the table, without tiles so far.
Outcome SparseArray::add_coming(std::span<const TilePage> in, std::uint64_t room, Change* change) noexcept {
  for (; change->added < in.size(); ++change->added) {
    const TilePage page = in[change->added];
    if (!shape_.holds(page)) return Status::bad_argument;
    if (shape_.is_tail(page)) continue;
    if (change->coming == room) return Status::over_budget;
    if (!tiles_.insert(page, 0)) return Status::in_use;
    ++change->coming;
  }
  return {};
}

// Fresh tiles of the pool until there are `count` without a page.
Outcome SparseArray::take(std::uint64_t count) noexcept {
  while (spare_count_ < count) {
    TileRun run;
    const Outcome outcome = pool_->allocate_tiles(1, &run);
    if (!outcome.ok()) return outcome;
    spare()[spare_count_++] = run.address;
  }
  return {};
}

// What the list says to the driver: who leaves, and who comes with which tile.
Outcome SparseArray::map(std::span<const TilePage> out, std::span<const TilePage> in) noexcept {
  if (!infos_.grow_to((out.size() + in.size()) * sizeof(cuda::ArrayMapInfo))) return Status::no_host_memory;
  std::uint32_t count = 0;
  for (const TilePage page : out) infos()[count++] = info_of(page);
  std::uint64_t number = 0;  // of those that come
  for (const TilePage page : in) {
    if (shape_.is_tail(page)) continue;
    std::uint64_t* tile = tiles_.find(page);
    *tile = number < out.size() ? *tiles_.find(out[number]) & ~kLeaving
                                : spare()[spare_count_ - 1 - (number - out.size())];
    infos()[count] = info_of(page);
    set_memory(infos()[count++], *tile);
    ++number;
  }
  return count != 0 ? map(count) : Outcome();
}

Outcome SparseArray::map(std::uint32_t count) noexcept {
  const CurrentContext current(*gpu_);
  return gpu_->check(gpu_->driver().mem_map_array_async(infos(), count, stream_));
}

Outcome SparseArray::exchange(std::span<const TilePage> out, std::span<const TilePage> in) noexcept {
  if (!is_open() || out.size() > tiles_max_ ||
      in.size() > std::uint64_t{tiles_max_} + shape_.pages_from(shape_.tail_first_level)) {
    return Status::bad_argument;
  }
  Change change;
  change.spare_before = spare_count_;
  const std::uint64_t room = tiles_max_ - tiles_.count() + out.size();
  Outcome outcome = mark_leaving(out, &change.marked);
  if (outcome.ok()) outcome = add_coming(in, room, &change);
  const std::uint64_t fresh = change.coming > out.size() ? change.coming - out.size() : 0;
  if (outcome.ok()) outcome = take(fresh);
  if (outcome.ok()) outcome = map(out, in);
  if (!outcome.ok()) {
    undo(out, in, change);
    return outcome;
  }
  spare_count_ -= fresh;
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (i >= change.coming) spare()[spare_count_++] = *tiles_.find(out[i]) & ~kLeaving;
  }
  for (const TilePage page : out) tiles_.erase(page);
  // A pool that does not take them gets them with the next ones.
  if (spare_count_ != 0 && pool_->free_after(stream_, {spare(), spare_count_}).ok()) spare_count_ = 0;
  return {};
}

void SparseArray::undo(std::span<const TilePage> out, std::span<const TilePage> in,
                       const Change& change) noexcept {
  for (const TilePage page : in.first(change.added)) {
    if (!shape_.is_tail(page)) tiles_.erase(page);
  }
  for (const TilePage page : out.first(change.marked)) *tiles_.find(page) &= ~kLeaving;
  while (spare_count_ > change.spare_before) CHECK(pool_->free(spare()[--spare_count_]).ok());
}

Outcome SparseArray::write(TilePage page, const std::byte* from) noexcept {
  if (!is_open() || from == nullptr || !shape_.holds(page)) return Status::bad_argument;
  if (!is_resident(page)) return Status::not_owned;
  const std::uint64_t x = page.column() * shape_.tile_width, y = page.row() * shape_.tile_height;
  const std::uint64_t columns = shape_.width_of(page.level()) - x, rows = shape_.height_of(page.level()) - y;
  cuda::Copy3D copy = {};
  copy.from.type = cuda::MemoryType::host;
  copy.from.host = from;
  copy.from.pitch_bytes = std::size_t{shape_.tile_width} * shape_.texel_bytes;
  copy.to.type = cuda::MemoryType::array;
  copy.to.array = levels_[page.level()];
  copy.to.x_bytes = x * shape_.texel_bytes;
  copy.to.y = y;
  copy.to.z = page.layer();
  copy.width_bytes = (columns < shape_.tile_width ? columns : shape_.tile_width) * shape_.texel_bytes;
  copy.height = rows < shape_.tile_height ? rows : shape_.tile_height;
  copy.depth = 1;
  const CurrentContext current(*gpu_);
  return gpu_->check(gpu_->driver().memcpy_3d_async(&copy, stream_));
}

TileBinder SparseArray::binder() noexcept { return make_binder(this, shape_); }

}  // namespace glebe::device
