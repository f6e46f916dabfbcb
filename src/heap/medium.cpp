// The medium heap: which shard serves a call, and what happens when there is no room; see medium.h.
//
// One shard is in use until allocating threads are seen to wait for each other; then their number grows
// towards the number of CPUs. Fewer shards leave fewer half-empty ranges.
#include "src/heap/medium.h"

#include <climits>

#include "platform/process.h"
#include "platform/thread.h"
#include "src/base/check.h"
#include "src/heap/medium_shard.h"
#include "src/heap/reclaim.h"

namespace glebe::heap {

namespace {

using vm::ChunkRecord;
using vm::kPageBytes;

constexpr unsigned kShardMax = 16;
constexpr std::uint32_t kRangeChunksFirst = 2;  // a shard's ranges double up to kRangeChunksMax
constexpr std::uint32_t kRangeChunksMax = 16;
constexpr std::uint8_t kFreedWhileFrozen = 1;  // Tag::mark

constinit MediumShard shards[kShardMax];
constinit std::atomic<unsigned> shards_in_use{1};
constinit std::atomic<unsigned> shards_useful{0};  // at most one per CPU; 0: not known yet

// Another thread holds the lock that this one wants: use more shards, if there are CPUs for them.
unsigned add_shards(unsigned in_use) {
  unsigned useful = shards_useful.load(std::memory_order_relaxed);
  if (useful == 0) {
    const unsigned cpus = os::cpu_count();
    useful = cpus < kShardMax ? cpus : kShardMax;
    shards_useful.store(useful, std::memory_order_relaxed);
  }
  if (in_use >= useful) return in_use;
  const unsigned more = in_use * 2 < useful ? in_use * 2 : useful;
  shards_in_use.store(more, std::memory_order_relaxed);
  return more;
}

// Locks a shard for this thread and returns its number.
unsigned lock_shard() {
  unsigned in_use = shards_in_use.load(std::memory_order_relaxed);
  unsigned index = in_use == 1 ? 0 : os::current_cpu() % in_use;
  if (shards[index].lock.try_lock()) return index;
  in_use = add_shards(in_use);
  index = os::current_cpu() % in_use;
  for (unsigned tries = 0; tries < in_use; ++tries) {
    if (shards[(index + tries) % in_use].lock.try_lock()) return (index + tries) % in_use;
  }
  shards[index].lock.lock();
  return index;
}

MediumBlock place_elsewhere(const MediumRequest& request, unsigned index) {
  const unsigned in_use = shards_in_use.load(std::memory_order_relaxed);
  for (unsigned i = 0; i < in_use; ++i) {
    if (i == index || !shards[i].lock.try_lock()) continue;
    const MediumBlock block = shards[i].place(request);
    shards[i].lock.unlock();
    if (block.status == MediumPlaced::placed) return block;
  }
  return {};
}

// Gives the shard a new range in which the request fits and places it there. `owned` is how many chunks it
// has.
MediumBlock place_in_new_range(const MediumRequest& request, unsigned index, std::uint32_t owned) {
  MediumShard& shard = shards[index];
  const auto shard_number = static_cast<std::uint8_t>(index);
  const std::uint32_t needed = chunks_for(request);
  std::uint32_t count = owned;
  if (count < kRangeChunksFirst) count = kRangeChunksFirst;
  if (count > kRangeChunksMax) count = kRangeChunksMax;
  if (count < needed) count = needed;
  ChunkRecord* chunks = vm::acquire_chunks(count, vm::ChunkKind::medium, shard_number);
  if (chunks == nullptr) {
    count = needed;
    chunks = obtain_chunks(count, vm::ChunkKind::medium, shard_number);
    if (chunks == nullptr) return {nullptr, false, MediumPlaced::no_memory};
  }
  shard.lock.lock();
  const bool added = shard.add_range(chunks, count, request);
  const MediumBlock block =
      added ? shard.place(request) : MediumBlock{nullptr, false, MediumPlaced::no_memory};
  shard.lock.unlock();
  if (!added) vm::release_chunks(chunks, count);
  return block;
}

MediumBlock place_somewhere(const MediumRequest& request) {
  const unsigned index = lock_shard();
  MediumBlock block = shards[index].place(request);
  const std::uint32_t owned = shards[index].chunk_count();
  shards[index].lock.unlock();
  if (block.status == MediumPlaced::no_room) block = place_elsewhere(request, index);
  if (block.status == MediumPlaced::no_room) block = place_in_new_range(request, index, owned);
  return block;
}

// Gives the chunks of ranges that were taken out of a shard back; returns the bytes that were committed.
std::size_t release_ranges(MediumShard& shard, List<MediumRange>& free_ranges) {
  if (free_ranges.is_empty()) return 0;
  std::size_t released = 0;
  for (MediumRange* range = free_ranges.first(); range != nullptr; range = List<MediumRange>::next(range)) {
    for (std::uint32_t i = 0; i < range->chunk_count; ++i) released += range->first_chunk[i].committed_bytes;
    vm::release_chunks(range->first_chunk, range->chunk_count);
  }
  os::Lock hold(shard.lock);
  shard.recycle(free_ranges);
  return released;
}

// What a pointer into medium chunks refers to; region is nullptr when it points elsewhere.
struct Located {
  vm::Region* region = nullptr;
  ChunkRecord* chunk = nullptr;
  placement::Tag* tag = nullptr;  // of the page; nullptr when the pointer is not the start of a page
};

Located locate(const void* address) {
  vm::Region* region = vm::region_of(address);
  if (region == nullptr) return {};
  ChunkRecord* chunk = vm::chunk_of(*region, address);
  if (chunk->kind != vm::ChunkKind::medium) return {};
  const bool is_page = is_aligned(reinterpret_cast<std::uintptr_t>(address), kPageBytes);
  return {region, chunk, is_page ? region->page_tags() + region->page_of(address) : nullptr};
}

// The tag of the live block that starts here, or nullptr. Needs no lock for a block that the caller holds.
const placement::Tag* live_tag(const void* address) {
  const placement::Tag* tag = locate(address).tag;
  return tag != nullptr && placement::Tlsf::is_allocated(*tag) && tag->mark != kFreedWhileFrozen ? tag
                                                                                                 : nullptr;
}

FreeStatus free_frozen(placement::Tag& tag) {
  if (!placement::Tlsf::is_allocated(tag)) return FreeStatus::interior;
  if (tag.mark == kFreedWhileFrozen) return FreeStatus::double_free;
  tag.mark = kFreedWhileFrozen;
  return FreeStatus::ok;
}

}  // namespace

void* medium_allocate(std::size_t size_bytes, std::size_t align_bytes, std::uint16_t owner,
                      bool* is_zero) noexcept {
  CHECK(size_bytes - 1 < kMediumMaxBytes);
  CHECK(align_bytes <= kMediumMaxBytes);
  const MediumRequest request{static_cast<std::uint32_t>(divide_up(size_bytes, kPageBytes)),
                              static_cast<std::uint32_t>(align_bytes / kPageBytes), owner};
  MediumBlock block = place_somewhere(request);
  if (block.address == nullptr) [[unlikely]] {
    if (release_free_memory() == 0) return nullptr;
    block = place_somewhere(request);
    if (block.address == nullptr) return nullptr;
  }
  *is_zero = block.is_zero;
  if (block.is_zero) before_growth(size_bytes);
  return block.address;
}

FreeStatus medium_free(void* address) noexcept {
  const Located at = locate(address);
  if (at.region == nullptr) return FreeStatus::foreign;
  if (at.tag == nullptr) return FreeStatus::interior;
  if (at.chunk->frozen) [[unlikely]]
    return free_frozen(*at.tag);
  MediumShard& shard = shards[at.chunk->shard];
  os::Lock hold(shard.lock);
  return shard.give_back(*at.region, address);
}

std::size_t medium_usable(const void* address) noexcept {
  const placement::Tag* tag = live_tag(address);
  return tag != nullptr ? std::size_t{tag->length} * kPageBytes : 0;
}

std::uint16_t medium_owner(const void* address) noexcept {
  const placement::Tag* tag = live_tag(address);
  return tag != nullptr ? tag->owner : std::uint16_t{0};
}

bool medium_resize(void* address, std::size_t new_size_bytes) noexcept {
  if (new_size_bytes - 1 >= kMediumMaxBytes) return false;
  const Located at = locate(address);
  if (at.tag == nullptr) return false;
  if (at.chunk->frozen) [[unlikely]]
    return new_size_bytes <= medium_usable(address);
  MediumShard& shard = shards[at.chunk->shard];
  os::Lock hold(shard.lock);
  return shard.resize(*at.region, address, static_cast<std::uint32_t>(divide_up(new_size_bytes, kPageBytes)));
}

std::size_t medium_purge(std::uint64_t now_ms, std::uint32_t delay_ms, unsigned budget) noexcept {
  std::size_t purged = 0;
  const auto now = static_cast<std::uint32_t>(now_ms);
  for (MediumShard& shard : shards) {
    if (!shard.lock.try_lock()) continue;  // busy: the next tick comes soon
    List<MediumRange> free_ranges;
    purged += shard.purge(now, delay_ms, budget, free_ranges);
    shard.lock.unlock();
    purged += release_ranges(shard, free_ranges);
  }
  return purged;
}

std::size_t medium_trim() noexcept {
  std::size_t given = 0;
  for (MediumShard& shard : shards) {
    if (!shard.lock.try_lock()) continue;
    List<MediumRange> free_ranges;
    shard.take_free_ranges(free_ranges);
    given += shard.purge(0, 0, UINT_MAX, free_ranges);
    shard.lock.unlock();
    given += release_ranges(shard, free_ranges);
  }
  return given;
}

void medium_free_owner(std::uint16_t owner) noexcept {
  for (MediumShard& shard : shards) {
    os::Lock hold(shard.lock);
    shard.free_owner(owner);
  }
}

void medium_in_child() noexcept {
  for (unsigned i = 0; i < kShardMax; ++i) {
    MediumShard& shard = shards[i];
    if (!shard.lock.is_held() || shard.lock.held_by_me()) continue;
    shard.lock.reset_in_child();
    shard.forget(static_cast<std::uint8_t>(i));
  }
}

MediumStats medium_stats() noexcept {
  MediumStats stats{};
  for (MediumShard& shard : shards) {
    os::Lock hold(shard.lock);
    shard.add_stats(stats);
  }
  return stats;
}

void medium_walk(MediumVisit visit, void* context) noexcept {
  for (MediumShard& shard : shards) {
    os::Lock hold(shard.lock);
    shard.walk(visit, context);
  }
}

bool medium_validate() noexcept {
  bool is_valid = true;
  for (unsigned i = 0; i < kShardMax; ++i) {
    os::Lock hold(shards[i].lock);
    is_valid = shards[i].validate(static_cast<std::uint8_t>(i)) && is_valid;
  }
  return is_valid;
}

}  // namespace glebe::heap
