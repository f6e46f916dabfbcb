// Looking at the whole heap: walk, validate, statistics of the small heap.
#include "src/heap/allocate.h"
#include "src/heap/granule_pool.h"
#include "src/heap/large.h"
#include "src/heap/medium.h"
#include "src/heap/registry.h"
#include "src/heap/small.h"
#include "src/heap/small_stats.h"
#include "src/heap/thread_cache.h"

namespace glebe::heap {
namespace {

using Visit = void (*)(void*, const BlockVisit&);
struct Visitor {
  Visit visit;
  void* context;
};

void walk_slab(const SlabRecord& slab, const Visitor& visitor) {
  const std::uint32_t bytes = class_infos[slab.size_class].block_bytes;
  slab.blocks.for_each_used(bitmap_of(slab), [&](std::uint32_t index) {
    visitor.visit(visitor.context, {slab.start + std::size_t{index} * bytes, bytes});
  });
}

void visit_big(void* context, void* address, std::size_t size_bytes, std::uint16_t) {
  const auto& visitor = *static_cast<const Visitor*>(context);
  visitor.visit(visitor.context, {address, size_bytes});
}

bool slab_is_sound(const Heap& heap, const SlabRecord& slab) {
  const ClassInfo& info = class_infos[slab.size_class];
  if (slab.blocks.block_count != info.blocks || !slab.blocks.validate(bitmap_of(slab))) return false;
  if (slab.is_available != !slab.blocks.is_full()) return false;
  const vm::Region& region = *vm::region_of(slab.start);
  const auto entry = reinterpret_cast<std::uintptr_t>(&heap.slots.slot[slab.size_class]);
  for (unsigned i = 0; i < info.granules; ++i) {
    if (vm::entry_of(slab.start + i * vm::kGranuleBytes) != entry) return false;
  }
  return region.slab_record(region.granule_of(slab.start)) == reinterpret_cast<const std::byte*>(&slab);
}

bool heap_is_sound(Heap& heap) {
  if (heap.state.load(std::memory_order_relaxed) == HeapState::frozen) return true;  // nothing is known of it
  os::Lock hold(heap.lock);
  std::size_t slabs = 0, available = 0, listed = 0, taken = 0;
  for (const SlabRecord* slab = heap.slabs; slab != nullptr; slab = slab->next) {
    if (!slab_is_sound(heap, *slab)) return false;
    ++slabs;
    available += slab->is_available;
    taken += slab->blocks.block_count - slab->blocks.free_count;
  }
  for (unsigned c = 0; c < kClassCount; ++c) {
    for (const SlabRecord* slab = heap.available[c]; slab != nullptr; slab = slab->next_available) {
      if (slab->size_class != c) return false;
      ++listed;
    }
  }
  const bool released_live =
      heap.state.load(std::memory_order_relaxed) == HeapState::first_class || heap.id != 0;
  if (!released_live && heap.blocks_carved - heap.blocks_returned != taken) return false;
  return slabs == heap.slab_count && available == listed;
}

std::size_t blocks_in_rings() {
  std::size_t blocks = 0;
  for (const Heap* heap = first_heap(); heap != nullptr; heap = heap->next_heap) {
    blocks += heap->inbox_blocks.load(std::memory_order_relaxed);
    for (Ring* const& each : heap->rings) {
      const Ring* ring = peek(each);
      if (ring != nullptr) blocks += peek(ring->count);
    }
  }
  return blocks;
}

// What is cached was counted a moment after what is taken, and may be more by now. validate() is the exact
// balance.
void subtract(std::size_t& from, std::size_t blocks) { from -= from < blocks ? from : blocks; }

void add_heap(Heap& heap, SmallStats& stats) {
  os::Lock hold(heap.lock);
  for (const SlabRecord* slab = heap.slabs; slab != nullptr; slab = slab->next) {
    const ClassInfo& info = class_infos[slab->size_class];
    ClassStats& of_class = stats.classes[slab->size_class];
    ++of_class.slabs;
    of_class.free_blocks += slab->blocks.free_count;
    of_class.live_blocks += slab->blocks.block_count - slab->blocks.free_count;
    stats.slab_bytes += info.granules * vm::kGranuleBytes;
  }
  for (unsigned c = 0; c < kClassCount; ++c) {
    const std::size_t cached = cached_blocks(heap, c);
    stats.classes[c].cached_blocks += cached;
    subtract(stats.classes[c].live_blocks, cached);
  }
}

void count_heap(const Heap& heap, SmallStats& stats) {
  const HeapState state = heap.state.load(std::memory_order_relaxed);
  stats.orphans += state == HeapState::orphan;
  stats.first_class_heaps += state == HeapState::first_class;
  stats.heaps +=
      state == HeapState::thread_owned || state == HeapState::first_class || state == HeapState::shared;
}

void visit_each(Heap* heap, void (*visit)(void*, const HeapStats&), void* context) {
  const HeapState state = heap->state.load(std::memory_order_relaxed);
  if (state == HeapState::unused) return;
  os::Lock hold(heap->lock);
  visit(context, {state, heap->id, heap->slab_count, heap->blocks_carved, heap->blocks_returned});
}

}  // namespace

void walk(Visit visit, void* context) noexcept {
  if (Heap* own = own_heap()) flush_caches(*own);
  Visitor visitor{visit, context};
  for (Heap* heap = first_heap(); heap != nullptr; heap = heap->next_heap) {
    os::Lock hold(heap->lock);
    for (const SlabRecord* slab = heap->slabs; slab != nullptr; slab = slab->next) walk_slab(*slab, visitor);
  }
  medium_walk(visit_big, &visitor);
  large_walk(visit_big, &visitor);
}

bool validate() noexcept {
  for (Heap* heap = first_heap(); heap != nullptr; heap = heap->next_heap) {
    if (!heap_is_sound(*heap)) return false;
  }
  return granules_validate() && medium_validate() && large_validate();
}

void small_stats(SmallStats& stats) noexcept {
  stats = {};
  for (Heap* heap = first_heap(); heap != nullptr; heap = heap->next_heap) {
    count_heap(*heap, stats);
    add_heap(*heap, stats);
  }
  for (unsigned c = 0; c < kClassCount; ++c) {
    const ClassStats& of_class = stats.classes[c];
    const std::size_t bytes = class_infos[c].block_bytes;
    stats.live_blocks += of_class.live_blocks;
    stats.live_bytes += of_class.live_blocks * bytes;
    stats.cached_blocks += of_class.cached_blocks;
    stats.cached_bytes += of_class.cached_blocks * bytes;
    stats.free_blocks += of_class.free_blocks;
    stats.free_bytes += of_class.free_blocks * bytes;
  }
  // Blocks that wait in rings and inboxes are free too; their classes are not known.
  const std::size_t waiting = blocks_in_rings();
  subtract(stats.live_blocks, waiting);
  stats.cached_blocks += waiting;
}

void walk_heaps(void (*visit)(void* context, const HeapStats& heap), void* context) noexcept {
  for (Heap* heap = first_heap(); heap != nullptr; heap = heap->next_heap) visit_each(heap, visit, context);
}

}  // namespace glebe::heap
