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
#include "src/paging/pager.h"
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

// The upper end of the bucket below which `share` of 100 faults lie.
std::uint64_t stall_percentile(const paging::PagerStats& pager, unsigned share) noexcept {
  std::uint64_t total = 0, below = 0;
  for (const std::uint64_t bucket : pager.latency) total += bucket;
  for (unsigned i = 0; i < paging::kLatencyBuckets && total != 0; ++i) {
    below += pager.latency[i];
    if (below * 100 >= total * share) return std::uint64_t{2} << i;
  }
  return 0;
}

void add_paging(Snapshot& to) noexcept {
  const paging::PagerStats pager = paging::pager_stats();
  to.paging_mode = static_cast<std::uint64_t>(pager.mode);
  to.paging_budget_bytes = pager.budget_bytes;
  to.paging_used_bytes = pager.used_bytes;
  to.paging_staged_bytes = pager.staged_bytes;
  to.paging_out_bytes = pager.out_bytes;
  to.paging_compressed_bytes = pager.compressed_bytes;
  to.paging_stored_bytes = pager.stored_bytes;
  to.paging_file_bytes = pager.file_bytes;
  to.paging_page_outs = pager.page_outs;
  to.paging_page_ins = pager.page_ins;
  to.paging_file_page_ins = pager.file_page_ins;
  to.paging_faults = pager.faults;
  to.paging_zero_fills = pager.zero_fills;
  to.paging_second_chances = pager.second_chances;
  to.paging_read_ahead_pages = pager.read_ahead_pages;
  to.paging_dropped_pages = pager.dropped_pages;
  to.paging_moved_pages = pager.moved_pages;
  to.paging_refused_pages = pager.refused_pages;
  to.paging_free_pages = pager.free_pages;
  to.paging_stall_ns_total = pager.stall_ns;
  to.paging_throttles = pager.throttles;
  to.paging_throttle_ns_total = pager.throttle_ns;
  to.paging_evictor_cpu_ns = pager.evictor_cpu_ns;
  to.paging_forks = pager.forks;
  to.paging_takeovers = pager.takeovers;
  to.paging_store_errors = pager.store_errors;
  to.paging_mapped_bytes = pager.mapped_bytes;
  to.paging_maps = pager.maps;
  to.paging_maps_refused = pager.maps_refused;
  to.paging_follows = pager.follows;
  to.paging_stall_p50_ns = stall_percentile(pager, 50);
  to.paging_stall_p99_ns = stall_percentile(pager, 99);
  to.paging_saved_peak_bytes = pager.saved_bytes_peak;
  to.paging_saved_average_bytes = pager.saved_bytes_average;
}

}  // namespace

void take_snapshot(Snapshot& snapshot) noexcept {
  add_small(snapshot);
  add_medium(snapshot);
  add_large(snapshot);
  add_ledger(snapshot);
  add_system(snapshot);
  add_paging(snapshot);
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
