// Requests, pins and uses of a cache of tiles; how pages get their memory stands in tile_cache_load.cpp. See
// tile_cache.h.
#include "src/device/tile_cache.h"

#include <new>

#include "src/base/check.h"

namespace glebe::device {

// --- Opening and closing ---

bool TileCache::is_sound(const TileCacheOptions& options) noexcept {
  const TileBinder& binder = options.binder;
  if (binder.exchange == nullptr || binder.write == nullptr || options.fill == nullptr) return false;
  const TileShape& shape = binder.shape;
  if (shape.levels == 0 || shape.layers == 0 || shape.tile_width == 0 || shape.tile_height == 0) return false;
  if (options.tiles_max <= shape.pages_from(shape.tail_first_level)) return false;
  if (options.tiles_per_update == 0 || options.tiles_per_update > kBatchMax) return false;
  if (options.requests_max == 0) return false;
  if (options.gpu == nullptr) return options.staging == nullptr;
  if (options.staging == nullptr || options.events == nullptr) return false;
  if (options.staging->block_max_bytes() < kTileBytes) return false;
  return options.staging->capacity_bytes() >= options.tiles_per_update * kTileBytes;
}

bool TileCache::open_tables() noexcept {
  const auto has_room = [](paging::GrowingMemory& memory, std::uint64_t size_bytes) {
    return memory.reserve(size_bytes, size_bytes, 4 * kKiB) && memory.grow_to(size_bytes);
  };
  const std::uint64_t scratch_bytes = options_.gpu == nullptr ? options_.tiles_per_update * kTileBytes : 1;
  return table_.open(options_.tiles_max) && waiting_table_.open(options_.requests_max) &&
         has_room(slots_, options_.tiles_max * sizeof(Slot)) &&
         has_room(waiting_, options_.requests_max * sizeof(TilePage)) && has_room(batch_, sizeof(Batch)) &&
         has_room(scratch_, scratch_bytes);
}

Outcome TileCache::open(const TileCacheOptions& options) noexcept {
  Outcome outcome = close();
  if (!outcome.ok()) return outcome;
  if (!is_sound(options)) return Status::bad_argument;
  options_ = options;
  stats_ = {};
  waiting_count_ = open_uses_ = use_count_ = 0;
  if (!open_tables()) {
    close_tables();
    return Status::no_host_memory;
  }
  new (batch_.base()) Batch;
  for (std::uint32_t i = 0; i < options_.tiles_max; ++i) free_.push_back(new (slots() + i) Slot);
  is_open_ = true;
  outcome = fill_tail();
  if (!outcome.ok()) static_cast<void>(close());
  return outcome;
}

void TileCache::close_tables() noexcept {
  while (free_.pop_front() != nullptr) {
  }
  while (stale_.pop_front() != nullptr) {
  }
  while (order_.pop_front() != nullptr) {
  }
  table_.close();
  waiting_table_.close();
  slots_.release();
  waiting_.release();
  batch_.release();
  scratch_.release();
}

Outcome TileCache::close() noexcept {
  if (!is_open_) return {};
  Outcome outcome = drain();
  if (!outcome.ok()) return outcome;
  outcome = release_pages();
  if (!outcome.ok() && outcome.status != Status::device_lost) return outcome;
  is_open_ = false;
  close_tables();
  return {};
}

// Waits for all uses, and for what the cache has queued.
Outcome TileCache::drain() noexcept {
  if (options_.gpu == nullptr) return {};
  Gpu& gpu = *options_.gpu;
  const CurrentContext current(gpu);
  for (; use_count_ != 0; --use_count_) {
    const Outcome outcome = gpu.check(gpu.driver().event_synchronize(uses_[use_count_ - 1]));
    if (!outcome.ok() && !gpu.is_lost()) return outcome;
    options_.events->give(uses_[use_count_ - 1]);
  }
  const Outcome outcome = gpu.check(gpu.driver().stream_synchronize(options_.stream));
  return gpu.is_lost() ? Outcome() : outcome;
}

// Gives the memory of all pages back to the texture. A tail that is the texture's own stays there.
Outcome TileCache::release_pages() noexcept {
  batch().leaving = 0;
  for (std::uint32_t i = 0; i < options_.tiles_max; ++i) {
    Slot& slot = slots()[i];
    if (!slot.is_used) continue;
    if (options_.binder.shape.is_tail(slot.page)) {
      const Outcome outcome = exchange({&slot.page, 1}, {});
      if (!outcome.ok() && outcome.status != Status::bad_argument) return outcome;
      slot.is_used = false;
      continue;
    }
    batch().slots[batch().leaving] = &slot;
    batch().out[batch().leaving++] = slot.page;
    const Outcome outcome = batch().leaving == kBatchMax ? release_batch() : Outcome();
    if (!outcome.ok()) return outcome;
  }
  return release_batch();
}

Outcome TileCache::release_batch() noexcept {
  Batch& all = batch();
  if (all.leaving == 0) return {};
  const Outcome outcome = exchange({all.out, all.leaving}, {});
  if (!outcome.ok()) return outcome;
  for (; all.leaving != 0; --all.leaving) all.slots[all.leaving - 1]->is_used = false;
  return outcome;
}

// --- Requests ---

TileCache::Slot* TileCache::find(TilePage page) const noexcept {
  const std::uint64_t* number = is_open_ ? table_.find(page) : nullptr;
  return number != nullptr ? slots() + *number : nullptr;
}

void TileCache::count_request(TilePage page) noexcept {
  if (!options_.binder.shape.holds(page)) {
    ++stats_.refused;
    return;
  }
  ++stats_.requests;
  Slot* slot = find(page);
  if (slot == nullptr) {
    ++stats_.misses;
    return keep(page);
  }
  ++stats_.hits;
  slot->last_asked = stats_.updates;
  if (slot->pins != 0) return;
  order_.remove(slot);
  order_.push_back(slot);
}

void TileCache::keep(TilePage page) noexcept {
  if (waiting_table_.find(page) != nullptr) return;
  if (waiting_count_ == options_.requests_max) {
    ++stats_.overflows;
    return;
  }
  CHECK(waiting_table_.insert(page, 0));
  waiting()[waiting_count_++] = page;
}

// Closes up the list of requests: those that were served, or dropped, go.
void TileCache::drop_served() noexcept {
  std::uint32_t kept = 0;
  for (std::uint32_t i = 0; i < waiting_count_; ++i) {
    const TilePage page = waiting()[i];
    if (page == TilePage()) continue;
    if (find(page) != nullptr) {
      waiting_table_.erase(page);
    } else {
      waiting()[kept++] = page;
    }
  }
  waiting_count_ = kept;
}

Outcome TileCache::update(std::span<const TilePage> requests) noexcept {
  if (!is_open_) return Status::bad_argument;
  if (open_uses_ != 0) return Status::in_use;
  ++stats_.updates;
  for (const TilePage page : requests) count_request(page);
  if (waiting_count_ == 0) return {};
  Outcome outcome = choose(room_for_batch());
  if (batch().count != 0) {
    const Outcome loaded = load();
    if (outcome.ok()) outcome = loaded;
  }
  drop_served();
  return outcome;
}

void TileCache::prefetch(std::span<const TilePage> pages) noexcept {
  if (!is_open_) return;
  for (const TilePage page : pages) {
    if (options_.binder.shape.holds(page) && find(page) == nullptr) keep(page);
  }
}

TilePage TileCache::resident_ancestor(TilePage page) const noexcept {
  const TileShape& shape = options_.binder.shape;
  if (!is_open_ || !shape.holds(page)) return {};
  while (page != TilePage() && find(page) == nullptr) page = shape.parent(page);
  return page;
}

// --- Uses ---

Outcome TileCache::check_not_captured(cuda::Stream stream) const noexcept {
  if (options_.gpu == nullptr) return {};
  const CurrentContext current(*options_.gpu);
  return options_.gpu->check_not_captured(stream);
}

Outcome TileCache::begin_use(cuda::Stream stream) noexcept {
  if (!is_open_) return Status::bad_argument;
  Outcome outcome = check_not_captured(stream);
  if (!outcome.ok()) return outcome;
  if (options_.gpu != nullptr && stream != options_.stream) {
    Gpu& gpu = *options_.gpu;
    cuda::Event event = nullptr;
    outcome = options_.events->take(&event);
    if (!outcome.ok()) return outcome;
    const CurrentContext current(gpu);
    outcome = gpu.check(gpu.driver().event_record(event, options_.stream));
    if (outcome.ok()) outcome = gpu.check(gpu.driver().stream_wait_event(stream, event, 0));
    options_.events->give(event);
    if (!outcome.ok()) return outcome;
  }
  ++open_uses_;
  return {};
}

Outcome TileCache::end_use(cuda::Stream stream) noexcept {
  if (open_uses_ == 0) return Status::bad_argument;
  Outcome outcome = check_not_captured(stream);
  if (!outcome.ok()) return outcome;
  if (options_.gpu != nullptr && stream != options_.stream) {
    Gpu& gpu = *options_.gpu;
    if (use_count_ == kUsesMax) outcome = wait_for_uses();
    if (!outcome.ok()) return outcome;
    cuda::Event event = nullptr;
    outcome = options_.events->take(&event);
    if (!outcome.ok()) return outcome;
    const CurrentContext current(gpu);
    outcome = gpu.check(gpu.driver().event_record(event, stream));
    if (!outcome.ok()) {
      options_.events->give(event);
      return outcome;
    }
    uses_[use_count_++] = event;
  }
  --open_uses_;
  return {};
}

// What the cache queues from now on comes after them.
Outcome TileCache::wait_for_uses() noexcept {
  for (; use_count_ != 0; --use_count_) {
    Gpu& gpu = *options_.gpu;
    const CurrentContext current(gpu);
    const cuda::Event event = uses_[use_count_ - 1];
    const Outcome outcome = gpu.check(gpu.driver().stream_wait_event(options_.stream, event, 0));
    if (!outcome.ok()) return outcome;
    options_.events->give(event);
  }
  return {};
}

// --- Pins, evictions ---

Outcome TileCache::pin(TilePage page) noexcept {
  Slot* slot = find(page);
  if (slot == nullptr) return Status::not_owned;
  if (slot->pins++ == 0) {
    order_.remove(slot);
    ++stats_.pinned;
  }
  return {};
}

Outcome TileCache::unpin(TilePage page) noexcept {
  Slot* slot = find(page);
  if (slot == nullptr) return Status::not_owned;
  const std::uint32_t kept = options_.binder.shape.is_tail(page) ? 1 : 0;
  if (slot->pins <= kept) return Status::bad_argument;
  if (--slot->pins == 0) {
    slot->last_asked = stats_.updates;
    order_.push_back(slot);
    --stats_.pinned;
  }
  return {};
}

Outcome TileCache::evict(TilePage page) noexcept {
  Slot* slot = find(page);
  if (slot == nullptr) return Status::not_owned;
  if (slot->pins != 0 || open_uses_ != 0) return Status::in_use;
  order_.remove(slot);
  order_.push_front(slot);
  return evict_first(1);
}

Outcome TileCache::flush() noexcept {
  if (!is_open_) return Status::bad_argument;
  if (open_uses_ != 0) return Status::in_use;
  for (; waiting_count_ != 0; --waiting_count_) waiting_table_.erase(waiting()[waiting_count_ - 1]);
  while (!order_.is_empty()) {
    const Outcome outcome = evict_first(kBatchMax);
    if (!outcome.ok()) return outcome;
  }
  return {};
}

// --- What there is ---

TileCacheStats TileCache::stats() const noexcept {
  TileCacheStats stats = stats_;
  stats.resident = table_.count();
  stats.waiting = waiting_count_;
  stats.tiles_max = is_open_ ? options_.tiles_max : 0;
  return stats;
}

bool TileCache::validate() const noexcept {
  if (!is_open_) return true;
  std::uint64_t with_page = 0, pinned = 0;
  for (std::uint32_t i = 0; i < options_.tiles_max; ++i) {
    const Slot& slot = slots()[i];
    if (!slot.is_used) continue;
    if (slot.is_stale ? find(slot.page) != nullptr : find(slot.page) != &slot) return false;
    if (!slot.is_stale) ++with_page;
    if (slot.pins != 0) ++pinned;
    if (!slot.is_stale && (slot.pins == 0) != order_.contains(&slot)) return false;
  }
  for (std::uint32_t i = 0; i < waiting_count_; ++i) {
    if (waiting_table_.find(waiting()[i]) == nullptr) return false;
  }
  return with_page == table_.count() && pinned == stats_.pinned && waiting_table_.count() == waiting_count_;
}

}  // namespace glebe::device
