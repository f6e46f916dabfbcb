// Changes of mappings: every one of them is a transaction under the growth lock, of which the chunk table
// learns when it has succeeded. See device_space.h.
//
// back(): collect handles (idle ones, then cached ones from elsewhere, then new ones), map each, allow access
// to all of a row in one call, publish. Whatever fails, the steps before are undone and the handles kept.
// Cached mappings leave the table first and the driver after: a block that is placed there meanwhile finds
// them gone and waits for the growth lock.
#include "src/base/check.h"
#include "src/device/device_space.h"

namespace glebe::device {

using os::Lock;

void DeviceSpace::close() noexcept {
  if (gpu_ == nullptr) return;
  if (base_ != 0) {
    const Lock growth(growth_lock_);
    const CurrentContext current(*gpu_);
    for (std::uint32_t at = 0; (at = next_mapped(at, chunk_count_)) < chunk_count_;) {
      const std::uint32_t end = next_unmapped(at, chunk_count_);
      unmap_row({at, end});
      give_row({at, end});
      at = end;
    }
    static_cast<void>(gpu_->check(gpu_->driver().mem_address_free(base_, reserved_bytes_)));
    base_ = 0;
  }
  fine_pool_.close();
  coarse_pool_.close();
  table_.release();
  entries_ = nullptr;
  gpu_ = nullptr;
}

// The handles of a row go to their pools.
void DeviceSpace::give_row(ChunkRange row) noexcept {
  for (std::uint32_t at = row.first; at < row.end; at += entries_in(entries_[at].kind)) {
    if (!entries_[at].is_alias) pool_of(entries_[at].kind).give(entries_[at].handle);
  }
}

Outcome DeviceSpace::back(ChunkRange chunks, Shortage* shortage) noexcept {
  Outcome outcome;
  {
    const Lock growth(growth_lock_);
    outcome = back_held(chunks, Moves::allowed);
    shortage->missing_bytes = missing_bytes_;
  }
  tell_excess();
  return outcome;
}

bool DeviceSpace::reclaim(Shortage* shortage) noexcept {
  if (shortage->missing_bytes == 0 || shortage->is_over) return false;
  if (shortage->asked == paging::kReclaimRounds) return false;
  ++shortage->asked;
  // Even who can free nothing more may have freed something.
  shortage->is_over = !options_.budget->reclaim(shortage->missing_bytes);
  return true;
}

// A budget that only warns does so here, once for all that a request took.
void DeviceSpace::tell_excess() noexcept {
  std::uint64_t excess_bytes = fine_pool_.take_excess();
  if (coarse_chunks_ > 1) excess_bytes += coarse_pool_.take_excess();
  if (excess_bytes != 0) options_.budget->tell_excess(excess_bytes, nullptr);
}

void DeviceSpace::note_missing(std::uint64_t size_bytes) noexcept {
  const bool can_reclaim =
      options_.budget != nullptr && options_.budget->action() == paging::BudgetAction::reclaim;
  missing_bytes_ = can_reclaim ? size_bytes : 0;
}

Outcome DeviceSpace::back_held(ChunkRange chunks, Moves moves) noexcept {
  missing_bytes_ = 0;
  const Need need = plan(chunks, moves);
  if (need.fine + need.coarse == 0) return {};
  if (gpu_->is_lost()) return Status::device_lost;
  if (!has_room_for(need, moves)) return Status::over_budget;
  const CurrentContext current(*gpu_);
  if (moves == Moves::allowed) {
    gather(ChunkKind::coarse, need.coarse);
    gather(ChunkKind::fine, need.fine);
  }
  Outcome outcome = collect(chunks, moves);
  if (!outcome.ok()) return outcome;
  missing_bytes_ = 0;  // of a coarse chunk, say, in whose place fine ones were found
  outcome = map_collected(chunks);
  if (!outcome.ok()) {
    give_collected(chunks);
    return outcome;
  }
  publish(chunks);
  return {};
}

// Makes up to `count` chunks of a kind idle, as far as there are cached ones: many at once, because
// neighbours go by one call.
std::uint32_t DeviceSpace::gather(ChunkKind kind, std::uint32_t count) noexcept {
  if (count == 0) return 0;
  const std::uint64_t idle = pool_of(kind).stats().idle_chunks;
  if (count <= idle) return 0;
  const std::uint32_t moved = evict(kind, count - static_cast<std::uint32_t>(idle));
  remapped_.fetch_add(moved, std::memory_order_relaxed);
  return moved;
}

// How many handles it takes to back a range.
DeviceSpace::Need DeviceSpace::plan(ChunkRange chunks, Moves moves) noexcept {
  Need need;
  for (std::uint32_t at = chunks.first; (at = next_unmapped(at, chunks.end)) < chunks.end;) {
    const std::uint32_t end = next_mapped(at, chunks.end);
    const bool with_coarse = moves == Moves::allowed && coarse_chunks_ > 1;
    const std::uint32_t coarse = with_coarse ? (end - at) / coarse_chunks_ : 0;
    need.coarse += coarse;
    need.fine += end - at - coarse * coarse_chunks_;
    at = end;
  }
  return need;
}

// Whether the budget has room, counting what is idle and cached: a request that cannot be met is refused
// before anything moves for it. A budget that only warns has room.
bool DeviceSpace::has_room_for(const Need& need, Moves moves) noexcept {
  if (options_.budget == nullptr || options_.budget->action() == paging::BudgetAction::warn) return true;
  const std::uint64_t limit = options_.budget->limit_bytes();
  if (limit == paging::kNoLimit) return true;
  const std::uint64_t wanted =
      need.fine * bytes_in(ChunkKind::fine) + need.coarse * bytes_in(ChunkKind::coarse);
  const std::uint64_t used = options_.budget->used_bytes();
  std::uint64_t available = idle_bytes() + (used < limit ? limit - used : 0);
  if (moves == Moves::allowed) {
    const Lock lock(table_lock_);
    available += cached_bytes_;
  }
  if (wanted <= available) return true;
  if (wanted <= limit) note_missing(wanted - available);  // above it, freeing everything would not help
  return false;
}

std::uint64_t DeviceSpace::idle_bytes() noexcept {
  std::uint64_t bytes = fine_pool_.stats().idle_chunks * options_.fine_bytes;
  if (coarse_chunks_ > 1) bytes += coarse_pool_.stats().idle_chunks * options_.coarse_bytes;
  return bytes;
}

// Gives every entry that is not mapped its handle.
Outcome DeviceSpace::collect(ChunkRange chunks, Moves moves) noexcept {
  bool with_coarse = moves == Moves::allowed && coarse_chunks_ > 1;
  for (std::uint32_t at = chunks.first; (at = next_unmapped(at, chunks.end)) < chunks.end;) {
    const std::uint32_t end = next_mapped(at, chunks.end);
    cuda::MemoryHandle handle = 0;
    if (with_coarse && end - at >= coarse_chunks_) {
      with_coarse = take_new(ChunkKind::coarse, &handle).ok();
      // What cannot be had in one piece is made of fine chunks.
      if (!with_coarse) gather(ChunkKind::fine, plan({at, chunks.end}, Moves::none).fine);
    }
    if (handle != 0) {
      assign(at, ChunkKind::coarse, handle);
      at += coarse_chunks_;
      continue;
    }
    const Outcome outcome = take_fine(&handle, moves);
    if (!outcome.ok()) {
      give_collected(chunks);
      return outcome;
    }
    assign(at, ChunkKind::fine, handle);
    ++at;
  }
  return {};
}

// An idle chunk or a new one, which leaves the headroom free.
Outcome DeviceSpace::take_new(ChunkKind kind, cuda::MemoryHandle* handle) noexcept {
  ChunkPool& pool = pool_of(kind);
  if (pool.take_idle(handle)) return {};
  if (options_.headroom_bytes != 0 && gpu_->free_bytes() < options_.headroom_bytes + bytes_in(kind)) {
    return gpu_->is_lost() ? Status::device_lost : Status::over_budget;
  }
  const Outcome outcome = pool.take(handle);
  if (outcome.status == Status::over_budget) note_missing(bytes_in(kind));
  return outcome;
}

// A fine chunk, for which everything that idles is given up if need be.
Outcome DeviceSpace::take_fine(cuda::MemoryHandle* handle, Moves moves) noexcept {
  for (;;) {
    const Outcome outcome = take_new(ChunkKind::fine, handle);
    const bool is_full = outcome.status == Status::over_budget || outcome.status == Status::out_of_memory;
    if (!is_full || moves == Moves::none) return outcome;
    if (gather(ChunkKind::fine, 1) != 0) continue;
    if (coarse_chunks_ == 1) return outcome;
    const std::uint64_t idle = coarse_pool_.stats().idle_chunks;
    if (idle == 0 && gather(ChunkKind::coarse, 1) == 0) return outcome;
    if (coarse_pool_.trim(idle == 0 ? 0 : (idle - 1) * options_.coarse_bytes) == 0) return outcome;
  }
}

void DeviceSpace::assign(std::uint32_t first, ChunkKind kind, cuda::MemoryHandle handle) noexcept {
  const std::uint32_t count = entries_in(kind);
  for (std::uint32_t i = 0; i < count; ++i) {
    ChunkEntry& own = entries_[first + i];
    own.part = static_cast<std::uint16_t>(i);
    own.kind = kind;
    planned_[(first + i) / 64] |= std::uint64_t{1} << ((first + i) % 64);
  }
  entries_[first].handle = handle;
}

// What was collected and is not mapped goes back to the pools.
void DeviceSpace::give_collected(ChunkRange chunks) noexcept {
  for (std::uint32_t at = chunks.first; (at = next_planned(at, chunks.end)) < chunks.end;) {
    const ChunkKind kind = entries_[at].kind;
    pool_of(kind).give(entries_[at].handle);
    entries_[at].handle = 0;
    const std::uint32_t end = at + entries_in(kind);
    for (; at < end; ++at) planned_[at / 64] &= ~(std::uint64_t{1} << (at % 64));
  }
}

// Maps what was collected and allows access to it, or none of it.
Outcome DeviceSpace::map_collected(ChunkRange chunks) noexcept {
  for (std::uint32_t at = chunks.first; (at = next_planned(at, chunks.end)) < chunks.end;) {
    const ChunkEntry& own = entries_[at];
    maps_.fetch_add(1, std::memory_order_relaxed);
    const Outcome outcome =
        gpu_->check(gpu_->driver().mem_map(address_of(at), bytes_in(own.kind), 0, own.handle, 0));
    if (!outcome.ok()) {
      unmap_collected({chunks.first, at});
      return outcome;
    }
    at += entries_in(own.kind);
  }
  return allow_access(chunks);
}

// One call for each row of new mappings: the driver allows it, and it waits for the device once.
Outcome DeviceSpace::allow_access(ChunkRange chunks) noexcept {
  const cuda::AccessDescription access = gpu_->device_access();
  for (std::uint32_t at = chunks.first; (at = next_planned(at, chunks.end)) < chunks.end;) {
    const std::uint32_t end = next_unplanned(at, chunks.end);
    set_accesses_.fetch_add(1, std::memory_order_relaxed);
    const Outcome outcome = gpu_->check(
        gpu_->driver().mem_set_access(address_of(at), std::uint64_t{end - at} << shift_, &access, 1));
    if (!outcome.ok()) {
      unmap_collected(chunks);
      return outcome;
    }
    at = end;
  }
  return {};
}

void DeviceSpace::unmap_collected(ChunkRange chunks) noexcept {
  for (std::uint32_t at = chunks.first; (at = next_planned(at, chunks.end)) < chunks.end;) {
    const std::uint32_t end = next_unplanned(at, chunks.end);
    unmap_row({at, end});
    at = end;
  }
}

void DeviceSpace::publish(ChunkRange chunks) noexcept {
  const Lock lock(table_lock_);
  for (std::uint32_t at = chunks.first; (at = next_planned(at, chunks.end)) < chunks.end;) {
    set_mapped(at, true);
    const std::uint32_t end = at + entries_in(entries_[at].kind);
    for (; at < end; ++at) planned_[at / 64] &= ~(std::uint64_t{1} << (at % 64));
  }
}

// One call for a row of whole mappings.
bool DeviceSpace::unmap_call(ChunkRange chunks) noexcept {
  unmaps_.fetch_add(1, std::memory_order_relaxed);
  const std::uint64_t size_bytes = std::uint64_t{chunks.end - chunks.first} << shift_;
  return gpu_->check(gpu_->driver().mem_unmap(address_of(chunks.first), size_bytes)).ok();
}

// The same for one mapping, which may have gone already: a driver that fails at a row may have unmapped a
// part of it.
bool DeviceSpace::unmap_one(ChunkRange mapping) noexcept {
  if (unmap_call(mapping)) return true;
  unsigned long long flags = 0;
  const cuda::Location device = gpu_->device_access().location;
  return gpu_->driver().mem_get_access(&flags, &device, address_of(mapping.first)) ==
         cuda::Result::invalid_value;
}

// The same, one by one where the driver refuses the row. A mapping that stays then is one of a device that is
// lost, on which nothing is mapped again.
void DeviceSpace::unmap_row(ChunkRange chunks) noexcept {
  if (unmap_call(chunks)) return;
  for (std::uint32_t at = chunks.first; at < chunks.end;) {
    const std::uint32_t end = at + entries_in(entries_[at].kind);
    static_cast<void>(unmap_call({at, end}));
    at = end;
  }
}

// Unmaps up to `count` cached mappings, the oldest first; their handles are idle then. Neighbours go by one
// call.
std::uint32_t DeviceSpace::evict(ChunkKind kind, std::uint32_t count) noexcept {
  std::uint32_t leaving = 0;  // a chain through `next`
  std::uint32_t taken = 0;
  {
    const Lock lock(table_lock_);
    while (taken < count && cached_of(kind).oldest != 0) {
      const std::uint32_t first = cached_of(kind).oldest - 1;
      leave_cached(first);
      set_mapped(first, false);
      entries_[first].leave = Leave::leaving;
      entries_[first].next = leaving;
      leaving = first + 1;
      ++taken;
    }
  }
  std::uint32_t evicted = 0;
  for (std::uint32_t link = leaving; link != 0; link = entries_[link - 1].next) {
    if (entries_[link - 1].leave != Leave::leaving) continue;  // went with a neighbour
    evicted += unmap_leaving(row_of_leaving(link - 1));
  }
  // What the driver kept comes back into the table, and only now: joining a list changes the links.
  while (evicted < taken && leaving != 0) {
    const std::uint32_t first = leaving - 1;
    leaving = entries_[first].next;
    if (entries_[first].leave != Leave::kept) continue;
    entries_[first].leave = Leave::none;
    const Lock lock(table_lock_);
    set_mapped(first, true);
  }
  return evicted;
}

// The mappings of one kind next to one that leaves, which leave too.
ChunkRange DeviceSpace::row_of_leaving(std::uint32_t first) noexcept {
  const std::uint32_t count = entries_in(entries_[first].kind);
  ChunkRange row{first, first + count};
  while (row.first >= count && entries_[row.first - count].leave == Leave::leaving) row.first -= count;
  while (row.end < chunk_count_ && entries_[row.end].leave == Leave::leaving) row.end += count;
  return row;
}

// Unmaps a row that left the table, one by one where the driver refuses the row; the handles go to their
// pool. Answers with their number.
std::uint32_t DeviceSpace::unmap_leaving(ChunkRange row) noexcept {
  const ChunkKind kind = entries_[row.first].kind;
  const std::uint32_t count = entries_in(kind);
  const bool is_one_call = unmap_call(row);
  std::uint32_t unmapped = 0;
  for (std::uint32_t at = row.first; at < row.end; at += count) {
    const bool is_done = is_one_call || unmap_one({at, at + count});
    entries_[at].leave = is_done ? Leave::none : Leave::kept;
    if (!is_done) continue;
    pool_of(kind).give(entries_[at].handle);
    ++unmapped;
  }
  return unmapped;
}

Outcome DeviceSpace::alias(ChunkRange from, std::uint32_t to) noexcept {
  const Lock growth(growth_lock_);
  if (gpu_->is_lost()) return Status::device_lost;
  const CurrentContext current(*gpu_);
  const ChunkRange there{to, to + (from.end - from.first)};
  Outcome outcome = make_bare(there);
  if (!outcome.ok()) return outcome;
  for (std::uint32_t at = from.first; at < from.end; at += entries_in(entries_[at].kind)) {
    assign(to + (at - from.first), entries_[at].kind, entries_[at].handle);
  }
  outcome = map_collected(there);
  if (!outcome.ok()) {
    for (std::uint32_t at = there.first; at < there.end; ++at) {
      planned_[at / 64] &= ~(std::uint64_t{1} << (at % 64));
    }
    return outcome;
  }
  {
    const Lock lock(table_lock_);
    for (std::uint32_t at = from.first; at < from.end; at += entries_in(entries_[at].kind)) {
      entries_[at].is_alias = true;
      mapped_bytes_ -= bytes_in(entries_[at].kind);
    }
  }
  publish(there);
  return {};
}

Outcome DeviceSpace::drop_alias(ChunkRange from) noexcept {
  const Lock growth(growth_lock_);
  const CurrentContext current(*gpu_);
  const bool is_one_call = is_mapped(from) && unmap_call(from);
  bool is_left = false;
  for (std::uint32_t at = from.first; at < from.end; at += entries_in(entries_[at].kind)) {
    if (!is_mapped_bit(at)) continue;  // went at a try before
    if (!is_one_call && !unmap_one({at, at + entries_in(entries_[at].kind)})) {
      is_left = true;
      continue;
    }
    const Lock lock(table_lock_);
    CHECK(entries_[at].is_alias);
    set_mapped(at, false);
  }
  if (!is_left) return {};
  return gpu_->is_lost() ? Status::device_lost : Status::failed;
}

// Unmaps what is mapped in a range, which nobody uses; the handles are idle then.
Outcome DeviceSpace::make_bare(ChunkRange chunks) noexcept {
  for (std::uint32_t at = chunks.first; (at = next_mapped(at, chunks.end)) < chunks.end;) {
    const ChunkKind kind = entries_[at].kind;
    const ChunkRange own{at, at + entries_in(kind)};
    if (entries_[at].part != 0 || own.end > chunks.end) return Status::in_use;  // mapped since it was chosen
    {
      const Lock lock(table_lock_);
      set_mapped(at, false);
    }
    if (!unmap_call(own)) {
      const Lock lock(table_lock_);
      set_mapped(at, true);
      return gpu_->is_lost() ? Status::device_lost : Status::failed;
    }
    pool_of(kind).give(entries_[at].handle);
    at = own.end;
  }
  return {};
}

Outcome DeviceSpace::prewarm(std::uint64_t cached_bytes) noexcept {
  Shortage shortage;
  Outcome outcome;
  do {
    {
      const Lock growth(growth_lock_);
      outcome = prewarm_held(cached_bytes);
      shortage.missing_bytes = missing_bytes_;
    }
    tell_excess();
  } while (!outcome.ok() && reclaim(&shortage));
  return outcome;
}

Outcome DeviceSpace::prewarm_held(std::uint64_t cached_bytes) noexcept {
  missing_bytes_ = 0;
  for (;;) {
    std::uint64_t missing = 0;
    ChunkRange row;
    {
      const Lock lock(table_lock_);
      if (cached_bytes_ >= cached_bytes) return {};
      missing = divide_up(cached_bytes - cached_bytes_, options_.fine_bytes);
      row.first = next_unmapped(0, chunk_count_);
      row.end = next_mapped(row.first, chunk_count_);
    }
    if (row.empty()) return Status::out_of_addresses;
    if (row.end - row.first > missing) row.end = row.first + static_cast<std::uint32_t>(missing);
    const Outcome outcome = back_held(row, Moves::none);
    if (!outcome.ok()) return outcome;
  }
}

std::uint64_t DeviceSpace::trim(std::uint64_t keep_bytes) noexcept {
  const Lock growth(growth_lock_);
  const CurrentContext current(*gpu_);
  std::uint64_t released = trim_kind(ChunkKind::fine, keep_bytes);
  if (coarse_chunks_ > 1) released += trim_kind(ChunkKind::coarse, keep_bytes);
  return released;
}

// Gives chunks of one kind back until at most so many bytes of both kinds are idle or cached; the idle ones
// first.
std::uint64_t DeviceSpace::trim_kind(ChunkKind kind, std::uint64_t keep_bytes) noexcept {
  ChunkPool& pool = pool_of(kind);
  for (std::uint64_t released = 0;;) {
    std::uint64_t spare = idle_bytes();
    {
      const Lock lock(table_lock_);
      spare += cached_bytes_;
    }
    if (spare <= keep_bytes) return released;
    const std::uint64_t wanted = divide_up(spare - keep_bytes, bytes_in(kind));
    const std::uint64_t idle = pool.stats().idle_chunks;
    const std::uint64_t from_idle = wanted < idle ? wanted : idle;
    released += pool.trim((idle - from_idle) * bytes_in(kind));
    if (from_idle == wanted) return released;
    if (evict(kind, static_cast<std::uint32_t>(wanted - from_idle)) == 0) return released;
  }
}

}  // namespace glebe::device
