#include "src/heap/reclaim.h"

#include "platform/process.h"
#include "src/heap/granule_pool.h"
#include "src/heap/large.h"
#include "src/heap/medium.h"
#include "src/vm/ledger.h"

namespace glebe::heap {

constinit std::uint32_t purge_delay_ms = 250;

namespace {

constexpr unsigned kMaintainChunks = 32;  // purged by one call of maintain(), per part of the heap
constexpr unsigned kGrowthChunks = 2;  // purged before growth, per part of the heap, beyond the growth itself
constexpr std::size_t kPeakMarginShare =
    16;  // a little above the peak is not growth: the same work, placed otherwise
constexpr std::size_t kPeakMarginMin = 2 * kMiB;
constexpr std::size_t kDirtyLimitMin = 16 * kMiB;
constexpr std::size_t kDirtyShare = 4;

constinit std::atomic<std::uint64_t> last_maintained_ms{0};
constinit std::atomic<std::size_t> footprint_peak{0};

}  // namespace

vm::ChunkRecord* obtain_chunks(std::uint32_t count, vm::ChunkKind kind, std::uint8_t shard) noexcept {
  vm::ChunkRecord* chunks = vm::acquire_chunks(count, kind, shard);
  if (chunks != nullptr || release_free_memory() == 0) return chunks;
  return vm::acquire_chunks(count, kind, shard);
}

std::size_t release_free_memory() noexcept { return granules_trim() + medium_trim() + large_trim(); }

void before_growth(std::size_t size_bytes) noexcept {
  const std::size_t footprint = vm::footprint_bytes() + size_bytes;
  std::size_t peak = footprint_peak.load(std::memory_order_relaxed);
  if (footprint <= peak + peak / kPeakMarginShare + kPeakMarginMin) return;
  const std::size_t limit =
      footprint / kDirtyShare > kDirtyLimitMin ? footprint / kDirtyShare : kDirtyLimitMin;
  if (vm::ledger.dirty_bytes.load(std::memory_order_relaxed) > limit) {
    return purge_dirty(static_cast<unsigned>(size_bytes / vm::kChunkBytes) + kGrowthChunks);
  }
  while (peak < footprint &&
         !footprint_peak.compare_exchange_weak(peak, footprint, std::memory_order_relaxed)) {
  }
}

void purge_dirty(unsigned chunks) noexcept {
  const std::uint64_t now_ms = os::clock_coarse_ms();
  static_cast<void>(granules_purge(static_cast<std::uint32_t>(now_ms), 0, chunks));
  static_cast<void>(medium_purge(now_ms, 0, chunks));
  static_cast<void>(large_purge(now_ms, 0));
}

void maintain(std::uint64_t now_ms) noexcept {
  std::uint64_t last = last_maintained_ms.load(std::memory_order_relaxed);
  if (now_ms - last < kMaintainIntervalMs) return;
  // One thread does the work of an interval.
  if (!last_maintained_ms.compare_exchange_strong(last, now_ms, std::memory_order_relaxed)) return;
  static_cast<void>(granules_purge(static_cast<std::uint32_t>(now_ms), purge_delay_ms, kMaintainChunks));
  static_cast<void>(medium_purge(now_ms, purge_delay_ms, kMaintainChunks));
  static_cast<void>(large_purge(now_ms, purge_delay_ms));
}

}  // namespace glebe::heap
