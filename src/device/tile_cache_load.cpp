// How pages of a cache get memory and contents: choose what to fill, fill it, choose who makes room, exchange
// the memory, copy. See tile_cache.h.
#include "src/base/check.h"
#include "src/device/tile_cache.h"

namespace glebe::device {

Outcome TileCache::exchange(std::span<const TilePage> out, std::span<const TilePage> in) noexcept {
  return options_.binder.exchange(options_.binder.self, out, in);
}

// How many pages could get memory now: there is none for more than were not asked for in this update.
std::uint32_t TileCache::room_for_batch() const noexcept {
  const std::uint32_t most = options_.tiles_per_update;
  std::uint32_t room = 0;
  for (const Slot* slot = free_.first(); slot != nullptr && room < most; slot = free_.next(slot)) ++room;
  for (const Slot* slot = stale_.first(); slot != nullptr && room < most; slot = stale_.next(slot)) ++room;
  for (const Slot* slot = order_.first(); slot != nullptr && room < most; slot = order_.next(slot)) {
    if (slot->last_asked == stats_.updates) break;  // and so were all behind it
    ++room;
  }
  return room;
}

Outcome TileCache::take_block(StagingBlock* block) noexcept {
  if (options_.gpu != nullptr) return options_.staging->take(kTileBytes, block);
  *block = {scratch_.base() + batch().count * kTileBytes, kTileBytes};
  return {};
}

TileFill TileCache::fill_next(TilePage page, const StagingBlock& block) noexcept {
  const TileFill answer = options_.fill(options_.fill_self, page, block.data);
  if (answer == TileFill::not_ready) ++stats_.not_ready;
  if (answer == TileFill::failed) ++stats_.fill_failures;
  if (answer != TileFill::ready) return answer;
  Batch& next = batch();
  next.in[next.count] = page;
  next.blocks[next.count++] = block;
  return answer;
}

// Fills up to `count_max` of the requests that wait, coarse ones first, else in the order in which they came.
Outcome TileCache::choose(std::uint32_t count_max) noexcept {
  batch().count = 0;
  StagingBlock block;
  Outcome outcome;
  for (unsigned level = options_.binder.shape.levels; level-- != 0;) {
    for (std::uint32_t i = 0; i < waiting_count_ && batch().count < count_max; ++i) {
      const TilePage page = waiting()[i];
      if (page == TilePage() || page.level() != level) continue;
      if (block.data == nullptr) outcome = take_block(&block);
      if (!outcome.ok()) return outcome.status == Status::not_ready ? Outcome() : outcome;
      const TileFill answer = fill_next(page, block);
      if (answer == TileFill::ready) block = {};
      if (answer != TileFill::failed) continue;
      waiting_table_.erase(page);
      waiting()[i] = TilePage();
    }
  }
  if (block.data != nullptr && options_.gpu != nullptr) options_.staging->give(block);
  return {};
}

// Pages without contents lose their memory. A call of its own: one of them may be among those that come next.
Outcome TileCache::drop_stale() noexcept {
  Batch& next = batch();
  next.leaving = 0;
  for (const Slot* slot = stale_.first(); slot != nullptr; slot = stale_.next(slot)) {
    CHECK(next.leaving < kBatchMax);
    next.out[next.leaving++] = slot->page;
  }
  if (next.leaving == 0) return {};
  const Outcome outcome = exchange({next.out, next.leaving}, {});
  if (!outcome.ok()) return outcome;
  while (Slot* slot = stale_.pop_front()) {
    slot->is_used = slot->is_stale = false;
    free_.push_back(slot);
  }
  return {};
}

// A slot for each page of the batch: free ones, then those of the pages that were asked for longest ago.
void TileCache::choose_slots() noexcept {
  Batch& next = batch();
  next.leaving = 0;
  for (std::uint32_t i = 0; i < next.count; ++i) {
    Slot* slot = free_.pop_front();
    if (slot == nullptr) slot = order_.pop_front();
    CHECK(slot != nullptr);
    if (slot->is_used) next.out[next.leaving++] = slot->page;
    next.slots[i] = slot;
  }
}

// The memory stays where it is.
void TileCache::put_back_slots() noexcept {
  Batch& next = batch();
  for (std::uint32_t i = next.count; i-- != 0;) {
    Slot* slot = next.slots[i];
    (slot->is_used ? order_ : free_).push_front(slot);
  }
}

// The pages that left are gone; those that came have memory without contents.
void TileCache::hand_over_slots() noexcept {
  Batch& next = batch();
  for (std::uint32_t i = 0; i < next.count; ++i) {
    Slot& slot = *next.slots[i];
    if (slot.is_used) {
      table_.erase(slot.page);
      ++stats_.evicted;
    }
    slot.page = next.in[i];
    slot.last_asked = stats_.updates;
    slot.is_used = slot.is_stale = true;
  }
}

// The pages of the batch get memory and their contents. Blocks are used up, or given back.
Outcome TileCache::load() noexcept {
  Batch& next = batch();
  Outcome outcome = drop_stale();
  if (!outcome.ok()) {
    give_blocks(0);
    return outcome;
  }
  choose_slots();
  outcome = wait_for_uses();
  if (outcome.ok()) outcome = exchange({next.out, next.leaving}, {next.in, next.count});
  if (!outcome.ok()) {
    put_back_slots();
    give_blocks(0);
    return outcome;
  }
  hand_over_slots();
  std::uint32_t written = 0;
  outcome = write_batch(&written);
  if (written < next.count) take_back(written);
  give_blocks(written);
  const Outcome submitted = submit(written);
  return outcome.ok() ? submitted : outcome;
}

Outcome TileCache::write_batch(std::uint32_t* written) noexcept {
  Batch& next = batch();
  for (*written = 0; *written < next.count; ++*written) {
    Slot* slot = next.slots[*written];
    const Outcome outcome =
        options_.binder.write(options_.binder.self, slot->page, next.blocks[*written].data);
    if (!outcome.ok()) return outcome;
    slot->is_stale = false;
    CHECK(table_.insert(slot->page, static_cast<std::uint64_t>(slot - slots())));
    order_.push_back(slot);
    ++stats_.filled;
    stats_.filled_bytes += kTileBytes;
  }
  return {};
}

// Pages that could not be written lose their memory again; where the driver refuses that too, before the next
// ones come.
void TileCache::take_back(std::uint32_t first) noexcept {
  Batch& next = batch();
  const bool is_done = exchange({next.in + first, next.count - first}, {}).ok();
  for (std::uint32_t i = first; i < next.count; ++i) {
    Slot* slot = next.slots[i];
    if (is_done) slot->is_used = slot->is_stale = false;
    (is_done ? free_ : stale_).push_back(slot);
  }
}

void TileCache::give_blocks(std::uint32_t first) noexcept {
  if (options_.gpu == nullptr) return;
  for (std::uint32_t i = first; i < batch().count; ++i) options_.staging->give(batch().blocks[i]);
}

// The blocks are free when the copies are done. Where the driver records nothing, the host waits; where it
// does not even wait, nobody can tell when the copies are done, and the blocks are lost to the ring.
Outcome TileCache::submit(std::uint32_t count) noexcept {
  if (options_.gpu == nullptr || count == 0) return {};
  Fence fence = 0;
  const Outcome outcome = options_.staging->submit({batch().blocks, count}, options_.stream, &fence);
  if (outcome.ok()) return outcome;
  Gpu& gpu = *options_.gpu;
  const CurrentContext current(gpu);
  const bool is_done = gpu.check(gpu.driver().stream_synchronize(options_.stream)).ok() || gpu.is_lost();
  if (!is_done) {
    options_.staging->abandon();
    return outcome;
  }
  for (std::uint32_t i = 0; i < count; ++i) options_.staging->give(batch().blocks[i]);
  return {};
}

// The pages that were asked for longest ago lose their memory, up to `count_max` of them.
Outcome TileCache::evict_first(std::uint32_t count_max) noexcept {
  Outcome outcome = wait_for_uses();
  if (!outcome.ok()) return outcome;
  Batch& next = batch();
  next.leaving = 0;
  for (const Slot* slot = order_.first(); slot != nullptr && next.leaving < count_max;
       slot = order_.next(slot)) {
    next.out[next.leaving++] = slot->page;
  }
  outcome = exchange({next.out, next.leaving}, {});
  if (!outcome.ok()) return outcome;
  for (; next.leaving != 0; --next.leaving) {
    Slot* slot = order_.pop_front();
    table_.erase(slot->page);
    slot->is_used = false;
    free_.push_back(slot);
    ++stats_.evicted;
  }
  return {};
}

// --- The tail ---

Outcome TileCache::fill_tail() noexcept {
  const TileShape& shape = options_.binder.shape;
  batch().count = 0;
  Outcome outcome;
  for (unsigned level = shape.tail_first_level; outcome.ok() && level < shape.levels; ++level) {
    outcome = fill_level(level);
  }
  if (outcome.ok()) return batch().count != 0 ? load_tail() : outcome;
  give_blocks(0);
  return outcome;
}

Outcome TileCache::fill_level(unsigned level) noexcept {
  const TileShape& shape = options_.binder.shape;
  const std::uint64_t columns = shape.columns(level), pages = shape.pages_of(level);
  for (std::uint64_t i = 0; i < pages * shape.layers; ++i) {
    const TilePage page(level, i / pages, i % pages % columns, i % pages / columns);
    StagingBlock block;
    Outcome outcome = take_block(&block);
    if (!outcome.ok()) return outcome;
    const TileFill answer = fill_next(page, block);
    if (answer != TileFill::ready) {
      if (options_.gpu != nullptr) options_.staging->give(block);
      return answer == TileFill::not_ready ? Status::not_ready : Status::io_error;
    }
    if (batch().count < options_.tiles_per_update) continue;
    outcome = load_tail();
    if (!outcome.ok()) return outcome;
  }
  return {};
}

Outcome TileCache::load_tail() noexcept {
  const Outcome outcome = load();
  for (std::uint32_t i = 0; outcome.ok() && i < batch().count; ++i) CHECK(pin(batch().in[i]).ok());
  batch().count = 0;
  return outcome;
}

}  // namespace glebe::device
