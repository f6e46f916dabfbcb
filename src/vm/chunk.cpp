// Acquiring, committing, purging and releasing chunks.
#include "src/vm/chunk.h"

#include <bit>

#include "platform/process.h"
#include "platform/vm.h"
#include "src/base/check.h"
#include "src/vm/directory.h"
#include "src/vm/ledger.h"
#include "src/vm/pageable.h"

namespace glebe::vm {

constinit ChunkPolicy chunk_policy;
constinit std::atomic<const PagingHooks*> paging_hooks{nullptr};
constinit std::atomic<void (*)()> wait_for_room{nullptr};

namespace {

constexpr std::uint32_t kFrontierChunks = 16;  // the chunk space grows by ranges of at least this many chunks
// Below this much committed memory chunks are committed in small steps, above whole.
constexpr std::size_t kSmallHeapBytes = 4 * kMiB;
constexpr std::uint32_t kSmallStepBytes = 64 * kKiB;
constexpr unsigned kSecondChances = 3;
constexpr unsigned kLookedMax = 64;            // chunks given a second chance in one call
constexpr std::uint64_t kStallNs = 1'000'000;  // a huge page that took longer to come means compaction
constexpr std::uint64_t kStallPauseMsFirst = 10'000;
constexpr std::uint64_t kStallPauseMsMax = 640'000;

struct StallGuard {
  std::atomic<std::uint64_t> paused_until_ms{0};
  std::atomic<std::uint64_t> pause_ms{kStallPauseMsFirst};
};
constinit StallGuard stall_guard;

ChunkRecord* record_at(const Region& region, std::uint32_t chunk) {
  return reinterpret_cast<ChunkRecord*>(region.tables[kChunkRecords].start) + chunk;
}

// Adds fresh chunks at the frontier of the region's chunk space. Caller holds region_lock.
bool extend_chunk_space(Region& region, std::uint32_t count) {
  const std::uint32_t frontier = region.chunk_space.range_units();
  const std::uint32_t left = region.chunk_count - frontier;
  if (count > left) return false;
  std::uint32_t added = count > kFrontierChunks ? count : kFrontierChunks;
  if (added > left) added = left;
  if (!cover_chunks(region, frontier + added)) return false;
  return region.chunk_space.add_range(frontier, added) == placement::Status::ok;
}

placement::Run place_run(Region& region, std::uint32_t count) {
  if (region.frozen) return {};
  placement::Run run = region.chunk_space.allocate(count);
  if (run.empty() && extend_chunk_space(region, count)) run = region.chunk_space.allocate(count);
  return run;
}

void account_touched(unsigned added, unsigned removed) {
  ledger.chunk_touched_bytes.fetch_add((std::size_t{added} - removed) * kPageBytes,
                                       std::memory_order_relaxed);
}

void forget_touched(ChunkRecord& chunk) {
  account_touched(0, touched_pages(chunk, 0, kPagesPerChunk));
  for (std::uint64_t& word : chunk.touched) word = 0;
}

// Decommits the committed prefix, or at least purges it; says how much stays committed in the record.
void empty_chunk(ChunkRecord& chunk) {
  if (chunk.committed_bytes == 0) return;
  if (decommit_memory(chunk.base, kChunkBytes)) {
    ledger_decommit(chunk.committed_bytes);
    ledger.chunk_committed_bytes.fetch_sub(chunk.committed_bytes, std::memory_order_relaxed);
    chunk.committed_bytes = 0;
    forget_touched(chunk);
  } else if (purge_memory(chunk.base, chunk.committed_bytes)) {
    forget_touched(chunk);
  }
}

void account_dirty(ChunkRecord& chunk, unsigned added, unsigned removed) {
  CHECK(chunk.dirty_pages + added >= removed);
  chunk.dirty_pages = static_cast<std::uint16_t>(chunk.dirty_pages + added - removed);
  ledger.dirty_bytes.fetch_add((std::size_t{added} - removed) * kPageBytes, std::memory_order_relaxed);
}

ChunkRecord* open_run(const Region& region, placement::Run run, ChunkKind kind, std::uint8_t shard) {
  for (std::uint32_t i = 0; i < run.length; ++i) {
    ChunkRecord& chunk = *record_at(region, run.first + i);
    CHECK(chunk.kind == ChunkKind::free);
    chunk.base = region.chunk_base + std::size_t{run.first + i} * kChunkBytes;
    chunk.used[0] = chunk.used[1] = 0;
    chunk.dirty_pages = chunk.used_pages = 0;
    chunk.next = chunk.previous = nullptr;
    chunk.kind = kind;
    chunk.shard = shard;
    chunk.active = chunk.frozen = false;
    chunk.chances = chunk.fit = 0;
    // Pages that the system would neither decommit nor purge when the chunk was released.
    account_dirty(chunk, touched_pages(chunk, 0, kPagesPerChunk), 0);
  }
  const std::uintptr_t entry = kind == ChunkKind::medium ? kEntryMedium : kEntryNone;
  set_entries(region, run.first * kGranulesPerChunk, run.length * kGranulesPerChunk, entry);
  return record_at(region, run.first);
}

// Calls apply(word, mask) for the words that cover pages [first, first + count).
template <class Apply>
void for_each_mask(unsigned first, unsigned count, Apply apply) {
  while (count != 0) {
    const unsigned bit = first % 64;
    const unsigned here = count < 64 - bit ? count : 64 - bit;
    apply(first / 64, bit_range(bit, here));
    first += here;
    count -= here;
  }
}

// Of pages that were just freed: what is paged out is dropped unread, and reads as zero.
void drop_paged_out(const PagingHooks& hooks, ChunkRecord& chunk, unsigned first, unsigned count) {
  for_each_mask(first, count, [&](unsigned word, std::uint64_t mask) {
    const auto bit = static_cast<unsigned>(std::countr_zero(mask));
    std::byte* page = chunk.base + (word * 64 + bit) * kPageBytes;
    const std::uint64_t dropped = hooks.drop_paged_out(page, count_bits(mask)) << bit & chunk.touched[word];
    chunk.touched[word] &= ~dropped;
    account_touched(0, count_bits(dropped));
  });
}

// Times the first touch of a huge page: memory compaction in the kernel can take milliseconds, and then the
// pages are not worth asking for until it has calmed down.
void touch_and_guard(std::byte* page) {
  const std::uint64_t start = os::clock_fine_ns();
  *reinterpret_cast<volatile std::byte*>(page) = std::byte{0};
  const std::uint64_t now_ms = os::clock_coarse_ms();
  if (os::clock_fine_ns() - start <= kStallNs) return;
  const std::uint64_t pause = stall_guard.pause_ms.load(std::memory_order_relaxed);
  stall_guard.paused_until_ms.store(now_ms + pause, std::memory_order_relaxed);
  stall_guard.pause_ms.store(pause * 2 < kStallPauseMsMax ? pause * 2 : kStallPauseMsMax,
                             std::memory_order_relaxed);
}

}  // namespace

ChunkRecord* acquire_chunks(std::uint32_t count, ChunkKind kind, std::uint8_t shard) noexcept {
  if (count == 0 || !ensure_primary()) return nullptr;
  os::Lock hold(region_lock);
  const unsigned regions_now = region_count.load(std::memory_order_relaxed);
  for (unsigned i = 0; i < regions_now; ++i) {
    const placement::Run run = place_run(regions[i], count);
    if (!run.empty()) return open_run(regions[i], run, kind, shard);
  }
  Region* added = add_region(count);
  if (added == nullptr) return nullptr;
  const placement::Run run = place_run(*added, count);
  return run.empty() ? nullptr : open_run(*added, run, kind, shard);
}

void purge_notes(const ChunkRecord& chunk) noexcept {
  const Region& region = *region_of(chunk.base);
  const std::uint32_t granule = region.granule_of(chunk.base);
  static_cast<void>(os::purge(region.slab_record(granule), kSlabRecordBytes * kGranulesPerChunk));
  static_cast<void>(os::purge(region.slab_bitmap(granule), kSlabBitmapBytes * kGranulesPerChunk));
}

void release_chunks(ChunkRecord* first, std::uint32_t count) noexcept {
  Region* region = region_of(first->base);
  CHECK(region != nullptr);
  for (std::uint32_t i = 0; i < count; ++i) {
    ChunkRecord& chunk = first[i];
    CHECK(chunk.kind != ChunkKind::free);
    CHECK(chunk.used_pages == 0);
    account_dirty(chunk, 0, chunk.dirty_pages);
    empty_chunk(chunk);
    if (chunk.huge) {
      chunk.huge = false;
      ledger.huge_chunks.fetch_sub(1, std::memory_order_relaxed);
    }
  }
  os::Lock hold(region_lock);
  set_entries(*region, region->granule_of(first->base), count * kGranulesPerChunk, kEntryNone);
  for (std::uint32_t i = 0; i < count; ++i) first[i].kind = ChunkKind::free;
  if (region->frozen) return;
  const std::uint32_t chunk = region->granule_of(first->base) / kGranulesPerChunk;
  CHECK(region->chunk_space.free(chunk).status == placement::Status::ok);
}

bool commit_prefix(ChunkRecord& chunk, std::uint32_t end_bytes) noexcept {
  if (end_bytes <= chunk.committed_bytes) return true;
  const bool small_heap = ledger.committed_bytes.load(std::memory_order_relaxed) < kSmallHeapBytes;
  std::uint32_t wanted = small_heap ? static_cast<std::uint32_t>(align_up(end_bytes, kSmallStepBytes))
                                    : static_cast<std::uint32_t>(kChunkBytes);
  if (!os::commit(chunk.base + chunk.committed_bytes, wanted - chunk.committed_bytes)) {
    wanted = end_bytes;  // the last bytes of a strict limit
    if (!os::commit(chunk.base + chunk.committed_bytes, wanted - chunk.committed_bytes)) return false;
  }
  ledger_commit(wanted - chunk.committed_bytes);
  ledger.chunk_committed_bytes.fetch_add(wanted - chunk.committed_bytes, std::memory_order_relaxed);
  chunk.committed_bytes = wanted;
  return true;
}

bool commit_range(const Region& region, const void* address, std::size_t size_bytes) noexcept {
  const auto* at = static_cast<const std::byte*>(address);
  const std::byte* end = at + size_bytes;
  while (at < end) {
    ChunkRecord& chunk = *chunk_of(region, at);
    const std::byte* chunk_end = chunk.base + kChunkBytes;
    const std::byte* stop = end < chunk_end ? end : chunk_end;
    if (!commit_prefix(chunk, static_cast<std::uint32_t>(stop - chunk.base))) return false;
    at = stop;
  }
  return true;
}

bool take_pages(ChunkRecord& chunk, unsigned first, unsigned count) noexcept {
  unsigned were_touched = 0;
  for_each_mask(first, count, [&](unsigned word, std::uint64_t mask) {
    were_touched += count_bits(chunk.touched[word] & mask);
    chunk.touched[word] |= mask;
  });
  account_dirty(chunk, 0, were_touched);
  account_touched(count - were_touched, 0);
  chunk.used_pages = static_cast<std::uint16_t>(chunk.used_pages + count);
  chunk.active = true;
  return were_touched == 0;
}

void give_pages(ChunkRecord& chunk, unsigned first, unsigned count) noexcept {
  CHECK(chunk.used_pages >= count);
  if (const PagingHooks* hooks = paging(); hooks != nullptr) drop_paged_out(*hooks, chunk, first, count);
  account_dirty(chunk, touched_pages(chunk, first, count), 0);
  chunk.used_pages = static_cast<std::uint16_t>(chunk.used_pages - count);
  chunk.active = true;
}

unsigned touched_pages(const ChunkRecord& chunk, unsigned first, unsigned count) noexcept {
  unsigned touched = 0;
  for_each_mask(first, count, [&](unsigned word, std::uint64_t mask) {
    touched += count_bits(chunk.touched[word] & mask);
  });
  return touched;
}

bool purge_pages(ChunkRecord& chunk, unsigned first, unsigned count) noexcept {
  const unsigned touched = touched_pages(chunk, first, count);
  if (touched == 0) return true;
  if (!purge_memory(chunk.base + first * kPageBytes, count * kPageBytes)) return false;
  for_each_mask(first, count, [&](unsigned word, std::uint64_t mask) { chunk.touched[word] &= ~mask; });
  account_dirty(chunk, 0, touched);
  account_touched(0, touched);
  ledger.purged_bytes_total.fetch_add(touched * kPageBytes, std::memory_order_relaxed);
  return true;
}

void consider_huge(ChunkRecord& chunk) noexcept {
  if (!chunk_policy.huge_pages || chunk.huge) return;
  if (footprint_bytes() < chunk_policy.huge_minimum_bytes) return;
  if (!os::huge_pages_on_advice()) return;
  if (os::clock_coarse_ms() < stall_guard.paused_until_ms.load(std::memory_order_relaxed)) return;
  if (!commit_prefix(chunk, kChunkBytes)) return;
  os::advise_huge(chunk.base, kChunkBytes, true);
  chunk.huge = true;
  ledger.huge_chunks.fetch_add(1, std::memory_order_relaxed);
  touch_and_guard(chunk.base);
}

void DirtyList::append(ChunkRecord& chunk) noexcept {
  chunk.previous = tail_;
  chunk.next = nullptr;
  (tail_ != nullptr ? tail_->next : head_) = &chunk;
  tail_ = &chunk;
}

void DirtyList::remove(ChunkRecord& chunk) noexcept {
  if (chunk.previous == nullptr && chunk.next == nullptr && head_ != &chunk) return;  // not listed
  (chunk.previous != nullptr ? chunk.previous->next : head_) = chunk.next;
  (chunk.next != nullptr ? chunk.next->previous : tail_) = chunk.previous;
  chunk.next = chunk.previous = nullptr;
}

void DirtyList::update(ChunkRecord& chunk, std::uint32_t now_ms) noexcept {
  const bool listed = chunk.previous != nullptr || chunk.next != nullptr || head_ == &chunk;
  if (chunk.dirty_pages == 0) {
    if (listed) remove(chunk);
    return;
  }
  if (listed) return;
  chunk.dirty_since_ms = now_ms;
  chunk.active = false;
  chunk.chances = 0;
  append(chunk);
}

ChunkRecord* DirtyList::pop_due(std::uint32_t now_ms, std::uint32_t delay_ms) noexcept {
  for (unsigned looked = 0; looked < kLookedMax; ++looked) {
    ChunkRecord* chunk = head_;
    if (chunk == nullptr || now_ms - chunk->dirty_since_ms < delay_ms) return nullptr;
    remove(*chunk);
    const bool may_wait = chunk->active && chunk->used_pages != 0 && chunk->chances != kSecondChances;
    if (!may_wait || delay_ms == 0) return chunk;
    chunk->active = false;
    ++chunk->chances;
    chunk->dirty_since_ms = now_ms;
    append(*chunk);
  }
  return nullptr;
}

ChunkRecord* DirtyList::pop_any() noexcept {
  ChunkRecord* chunk = head_;
  if (chunk != nullptr) remove(*chunk);
  return chunk;
}

}  // namespace glebe::vm
