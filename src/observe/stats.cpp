// Collects the numbers of the layers below into one snapshot. No state but the counter of failed allocations.
#include <algorithm>

#include "platform/process.h"
#include "platform/vm.h"
#include "src/heap/large.h"
#include "src/heap/medium.h"
#include "src/heap/misuse.h"
#include "src/heap/registry.h"
#include "src/heap/small_stats.h"
#include "src/observe/observe.h"
#include "src/vm/ledger.h"
#include "src/vm/region.h"

namespace glebe::observe {

constinit std::atomic<std::uint64_t> failed_allocations{0};

namespace {

void add_small(Snapshot& to) noexcept {
  heap::SmallStats small{};
  heap::small_stats(small);
  to.heaps = small.heaps;
  to.orphan_heaps = small.orphans;
  to.first_class_heaps = small.first_class_heaps;
  to.small_live_bytes = small.live_bytes;
  to.small_live_blocks = small.live_blocks;
  to.small_cached_bytes = small.cached_bytes;
  to.small_cached_blocks = small.cached_blocks;
  to.small_free_bytes = small.free_bytes;
  to.small_free_blocks = small.free_blocks;
  to.small_slab_bytes = small.slab_bytes;
  for (unsigned i = 0; i < heap::kClassCount; ++i) to.classes[i] = small.classes[i];
}

// What threads keep for reuse is in use for the medium heap, and free for the program.
void add_medium_cached(Snapshot& to) noexcept {
  for (const heap::Heap* heap = heap::first_heap(); heap != nullptr; heap = heap->next_heap) {
    for (const heap::Span& span : heap->spans) {
      const std::uint32_t pages = heap::peek(span.pages);
      to.medium_cached_bytes += pages * vm::kPageBytes;
      to.medium_cached_blocks += pages != 0 ? 1 : 0;
    }
  }
}

void add_medium(Snapshot& to) noexcept {
  to.medium_cached_bytes = to.medium_cached_blocks = 0;
  add_medium_cached(to);
  const heap::MediumStats medium = heap::medium_stats();
  to.medium_live_bytes = medium.live_bytes - std::min(to.medium_cached_bytes, medium.live_bytes);
  to.medium_live_blocks = medium.live_blocks - std::min(to.medium_cached_blocks, medium.live_blocks);
  to.medium_free_bytes = medium.free_bytes;
  to.medium_dirty_bytes = medium.dirty_bytes;
  to.medium_largest_free_bytes = medium.largest_free_bytes;
  to.medium_range_bytes = medium.range_bytes;
  to.medium_allocations = medium.allocations;
  to.medium_frees = medium.frees;
}

void add_large(Snapshot& to) noexcept {
  const heap::LargeStats large = heap::large_stats();
  to.large_live_bytes = large.live_bytes;
  to.large_live_blocks = large.live_blocks;
  to.large_idle_bytes = large.idle_bytes;
  to.large_allocations = large.allocations;
  to.large_frees = large.frees;
  to.large_grown_in_place = large.grown_in_place;
  to.large_moved = large.moved;
}

void add_ledger(Snapshot& to) noexcept {
  // Relaxed: each number is exact by itself, see ledger.h.
  constexpr auto kRelaxed = std::memory_order_relaxed;
  to.reserved_bytes = vm::ledger.reserved_bytes.load(kRelaxed);
  to.committed_bytes = vm::ledger.committed_bytes.load(kRelaxed);
  to.committed_peak_bytes = vm::ledger.committed_peak_bytes.load(kRelaxed);
  to.metadata_bytes = vm::ledger.metadata_bytes.load(kRelaxed);
  to.dirty_bytes = vm::ledger.dirty_bytes.load(kRelaxed);
  to.purged_bytes_total = vm::ledger.purged_bytes_total.load(kRelaxed);
  to.huge_chunks = vm::ledger.huge_chunks.load(kRelaxed);
}

void add_system(Snapshot& to) noexcept {
  const os::ProcessMemory process = os::process_memory();
  to.resident_bytes = process.resident;
  to.resident_peak_bytes = process.resident_peak;
  to.virtual_bytes = process.virtual_size;
  to.major_faults = process.major_faults;
  to.minor_faults = process.minor_faults;
  const os::VmCalls calls = os::vm_calls();
  to.reserve_calls = calls.reserve;
  to.commit_calls = calls.commit;
  to.decommit_calls = calls.decommit;
  to.purge_calls = calls.purge;
  to.protect_calls = calls.protect;
  to.move_calls = calls.move;
  to.advise_calls = calls.advise;
}

}  // namespace

void take_snapshot(Snapshot& snapshot) noexcept {
  add_small(snapshot);
  add_medium(snapshot);
  add_large(snapshot);
  add_ledger(snapshot);
  add_system(snapshot);
  snapshot.live_bytes = snapshot.small_live_bytes + snapshot.medium_live_bytes + snapshot.large_live_bytes;
  snapshot.live_blocks =
      snapshot.small_live_blocks + snapshot.medium_live_blocks + snapshot.large_live_blocks;
  snapshot.failed_allocations = failed_allocations.load(std::memory_order_relaxed);
  snapshot.misuse_reports = 0;
  for (unsigned kind = 0; kind < heap::kMisuseKinds; ++kind) {
    snapshot.misuse_reports += heap::misuse_count(static_cast<heap::Misuse>(kind));
  }
}

}  // namespace glebe::observe
