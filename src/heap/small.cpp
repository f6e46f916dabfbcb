#include "src/heap/small.h"

#include "src/base/check.h"
#include "src/heap/allocate.h"
#include "src/heap/debug_fill.h"
#include "src/heap/granule_pool.h"
#include "src/heap/misuse.h"
#include "src/vm/directory.h"
#include "src/vm/pageable.h"

namespace glebe::heap {
namespace {

constexpr unsigned kCandidates = 4;  // slabs that compete for being used up first
constexpr std::uint32_t kFreshBatchBytes =
    2 * kKiB;  // from this block size on, fresh blocks are taken one by one

void link_available(Heap& heap, SlabRecord& slab) {
  SlabRecord*& head = heap.available[slab.size_class];
  slab.previous_available = nullptr;
  slab.next_available = head;
  if (head != nullptr) head->previous_available = &slab;
  head = &slab;
  slab.is_available = true;
}

void unlink_available(Heap& heap, SlabRecord& slab) {
  SlabRecord*& head = heap.available[slab.size_class];
  (slab.previous_available != nullptr ? slab.previous_available->next_available : head) = slab.next_available;
  if (slab.next_available != nullptr) slab.next_available->previous_available = slab.previous_available;
  slab.is_available = false;
}

void link_slab(Heap& heap, SlabRecord& slab) {
  slab.previous = nullptr;
  slab.next = heap.slabs;
  if (heap.slabs != nullptr) heap.slabs->previous = &slab;
  heap.slabs = &slab;
  ++heap.slab_count;
}

void unlink_slab(Heap& heap, SlabRecord& slab) {
  (slab.previous != nullptr ? slab.previous->next : heap.slabs) = slab.next;
  if (slab.next != nullptr) slab.next->previous = slab.previous;
  --heap.slab_count;
}

SlabRecord* new_slab(Heap& heap, unsigned size_class) {
  const ClassInfo& info = class_infos[size_class];
  bool is_zero = false;
  std::byte* start = take_granules(info.granules, &is_zero);
  if (start == nullptr) return nullptr;
  if (settings.debug_fill) {
    fill(start, info.granules * vm::kGranuleBytes, kFillSlabNew);
    is_zero = false;
  }
  const vm::Region& region = *vm::region_of(start);
  const std::uint32_t granule = region.granule_of(start);
  auto& slab = *reinterpret_cast<SlabRecord*>(region.slab_record(granule));
  slab.start = start;
  slab.size_class = static_cast<std::uint8_t>(size_class);
  slab.fresh = is_zero ? 0 : info.blocks;
  slab.blocks.init(region.slab_bitmap(granule), info.blocks);
  link_slab(heap, slab);
  link_available(heap, slab);
  vm::set_entries(region, granule, info.granules,
                  reinterpret_cast<std::uintptr_t>(&heap.slots.slot[size_class]));
  return &slab;
}

void release_slab(Heap& heap, SlabRecord& slab) {
  const ClassInfo& info = class_infos[slab.size_class];
  if (slab.is_available) unlink_available(heap, slab);
  unlink_slab(heap, slab);
  const vm::Region& region = *vm::region_of(slab.start);
  vm::set_entries(region, region.granule_of(slab.start), info.granules, vm::kEntryNone);
  if (settings.debug_fill) fill(slab.start, info.granules * vm::kGranuleBytes, kFillSlabReleased);
  give_granules(slab.start, info.granules);
}

// With paging on: the fullest of the first few slabs that are all in memory, so that nothing has to be paged
// in to allocate. Without one among them, none, unless there are so many that the free blocks in them
// outweigh a new slab.
SlabRecord* choose_present(const vm::PagingHooks& hooks, const Heap& heap, unsigned size_class) {
  constexpr unsigned kLooked = 16;
  const unsigned pages = class_infos[size_class].granules * unsigned{vm::kGranuleBytes / vm::kPageBytes};
  SlabRecord* best = nullptr;
  SlabRecord* emptiest = nullptr;
  unsigned looked = 0;
  for (SlabRecord* slab = heap.available[size_class]; looked < kLooked && slab != nullptr;
       ++looked, slab = slab->next_available) {
    if (emptiest == nullptr || slab->blocks.free_count > emptiest->blocks.free_count) emptiest = slab;
    if (hooks.paged_out_pages(slab->start, pages) != 0) continue;
    if (best == nullptr || slab->blocks.free_count < best->blocks.free_count) best = slab;
  }
  return best == nullptr && looked == kLooked ? emptiest : best;
}

// The slab to take from: the fullest of the first few, the lowest address on ties, so that sparse slabs can
// empty.
SlabRecord* choose_slab(const Heap& heap, unsigned size_class) {
  if (const vm::PagingHooks* hooks = vm::paging(); hooks != nullptr)
    return choose_present(*hooks, heap, size_class);
  SlabRecord* best = heap.available[size_class];
  if (best == nullptr) return nullptr;
  SlabRecord* slab = best->next_available;
  for (unsigned i = 1; i < kCandidates && slab != nullptr; ++i, slab = slab->next_available) {
    const bool fuller = slab->blocks.free_count < best->blocks.free_count;
    const bool lower = slab->blocks.free_count == best->blocks.free_count && slab->start < best->start;
    if (fuller || lower) best = slab;
  }
  return best;
}

// How many blocks to take at once, see take_blocks().
unsigned batch_limit(const SlabRecord& slab, unsigned wanted, std::uint32_t block_bytes) {
  if (block_bytes < kFreshBatchBytes) return wanted;
  const unsigned fresh = slab.blocks.block_count - slab.fresh;
  const unsigned recycled = slab.blocks.free_count - fresh;
  if (recycled == 0) return 1;
  return recycled < wanted ? recycled : wanted;
}

unsigned take_from(Heap& heap, SlabRecord& slab, std::span<void*> cells, bool* is_zero) {
  const std::uint32_t bytes = class_infos[slab.size_class].block_bytes;
  const unsigned limit = batch_limit(slab, static_cast<unsigned>(cells.size()), bytes);
  void** cell = cells.data() + slab.blocks.batch_size(limit);
  std::byte* const start = slab.start;
  std::uint32_t last = 0;
  const unsigned taken = slab.blocks.take_batch(bitmap_of(slab), limit, [&](std::uint32_t index) {
    *--cell = start + std::size_t{index} * bytes;
    last = index;
  });
  *is_zero = taken == 1 && last >= slab.fresh;
  if (last >= slab.fresh) slab.fresh = static_cast<std::uint16_t>(last + 1);
  if (slab.blocks.is_full()) unlink_available(heap, slab);
  return taken;
}

// After blocks were put back: the slab has free blocks again, or is wholly free. The last slab of a class
// with free blocks stays, because the owner will want it again; an orphan has no owner.
void settle(Heap& heap, SlabRecord& slab) {
  if (slab.blocks.free_count == 0) return;
  if (!slab.is_available) link_available(heap, slab);
  if (!slab.blocks.is_empty()) return;
  const bool is_last = slab.next_available == nullptr && slab.previous_available == nullptr;
  if (!is_last || heap.state.load(std::memory_order_relaxed) == HeapState::orphan) release_slab(heap, slab);
}

// Whether every block that overlaps the page is free.
bool is_page_free(const SlabRecord& slab, const std::byte* page) {
  const std::uint32_t bytes = class_infos[slab.size_class].block_bytes;
  const auto offset = static_cast<std::uint32_t>(page - slab.start);
  const std::uint64_t* bitmap = bitmap_of(slab);
  std::uint32_t index = offset / bytes;
  const std::uint32_t last = (offset + std::uint32_t{vm::kPageBytes} - 1) / bytes;
  for (; index <= last && index < slab.blocks.block_count; ++index) {
    if ((bitmap[index / placement::kWordBits] >> (index % placement::kWordBits) & 1) == 0) return false;
  }
  return true;
}

// The slab that a batch of blocks goes back to, block after block, and the word of its bitmap that is being
// gathered.
struct PutRun {
  SlabRecord* slab = nullptr;
  std::uint64_t* bitmap = nullptr;
  std::byte* start = nullptr;
  std::size_t slab_bytes = 0;  // 0: no slab, so that no block lies in it
  std::uint32_t block_bytes = 0, inverse = 0;
};
struct PutWord {
  std::uint64_t mask = 0;
  std::uint32_t number = 0, count = 0;
};

// The slab of a block; slab_bytes is 0 when it has none any more.
PutRun open_run(const Heap& heap, void* block) {
  const std::uintptr_t entry = vm::entry_of(block);
  if (entry <= vm::kEntryMedium || heap_of_entry(entry) != &heap) {
    // The slab was released since: every block of it was free, so this one was given back before.
    report_misuse(Misuse::double_free, block, 0);
    return {};
  }
  const ClassInfo& info = class_infos[class_of_entry(entry)];
  SlabRecord* slab = slab_of(block, class_of_entry(entry));
  return {slab,        bitmap_of(*slab), slab->start, info.granules * vm::kGranuleBytes, info.block_bytes,
          info.inverse};
}

// Something in the word is wrong: finds out which block.
void put_singly(Heap& heap, const PutRun& run, const PutWord& word) {
  for (std::uint32_t i = 0; i < placement::kWordBits; ++i) {
    if ((word.mask >> i & 1) == 0) continue;
    const std::uint32_t index = word.number * placement::kWordBits + i;
    const placement::Status status = run.slab->blocks.put(run.bitmap, index);
    if (status == placement::Status::ok) {
      ++heap.blocks_returned;
      continue;
    }
    const bool is_double = status == placement::Status::double_free;
    report_misuse(is_double ? Misuse::double_free : Misuse::interior_pointer,
                  run.start + std::size_t{index} * run.block_bytes, run.block_bytes);
  }
}

inline void put_word(Heap& heap, const PutRun& run, const PutWord& word) {
  if (word.count == 0) return;
  const placement::Status status =
      run.slab->blocks.put_counted(run.bitmap, word.number, word.mask, word.count);
  if (status != placement::Status::ok) [[unlikely]]
    return put_singly(heap, run, word);
  heap.blocks_returned += word.count;
}

}  // namespace

unsigned take_blocks(Heap& heap, unsigned size_class, std::span<void*> cells, bool* is_zero) noexcept {
  SlabRecord* slab = choose_slab(heap, size_class);
  if (slab == nullptr) slab = new_slab(heap, size_class);
  if (slab == nullptr) return 0;
  const unsigned taken = take_from(heap, *slab, cells, is_zero);
  heap.blocks_carved += taken;
  return taken;
}

void put_blocks(Heap& heap, void* const* blocks, unsigned count) noexcept {
  PutRun run;
  PutWord word;
  for (unsigned i = 0; i < count; ++i) {
    void* const block = blocks[i];
    auto offset = static_cast<std::size_t>(static_cast<std::byte*>(block) - run.start);
    if (offset >= run.slab_bytes) [[unlikely]] {
      put_word(heap, run, word);
      if (run.slab != nullptr) settle(heap, *run.slab);
      run = open_run(heap, block);
      word = {};
      if (run.slab_bytes == 0) continue;
      offset = static_cast<std::size_t>(static_cast<std::byte*>(block) - run.start);
    }
    const std::uint32_t index = placement::block_index(static_cast<std::uint32_t>(offset), run.inverse);
    const std::uint64_t bit = std::uint64_t{1} << (index % placement::kWordBits);
    if (index / placement::kWordBits != word.number) {
      put_word(heap, run, word);
      word = {0, index / static_cast<std::uint32_t>(placement::kWordBits), 0};
    }
    if (!placement::is_block_start(static_cast<std::uint32_t>(offset), index, run.block_bytes)) [[unlikely]] {
      report_misuse(Misuse::interior_pointer, block, run.block_bytes);
    } else if ((word.mask & bit) != 0) [[unlikely]] {
      report_misuse(Misuse::double_free, block, run.block_bytes);
    } else {
      word.mask |= bit;
      ++word.count;
    }
  }
  put_word(heap, run, word);
  if (run.slab != nullptr) settle(heap, *run.slab);
}

std::size_t release_empty_slabs(Heap& heap) noexcept {
  std::size_t granules = 0;
  SlabRecord* next = nullptr;
  for (SlabRecord* slab = heap.slabs; slab != nullptr; slab = next) {
    next = slab->next;
    if (!slab->blocks.is_empty()) continue;
    granules += class_infos[slab->size_class].granules;
    release_slab(heap, *slab);
  }
  return granules;
}

void visit_free_pages(std::byte* granule,
                      void (*give_back)(void* context, std::byte* page, unsigned page_count),
                      void* context) noexcept {
  const std::uintptr_t entry = vm::entry_of(granule);
  if (entry <= vm::kEntryMedium || settings.debug_fill)
    return;  // the fill patterns of free blocks are checked
  Heap& heap = *heap_of_entry(entry);
  if (heap.lock.held_by_me() || !heap.lock.try_lock()) return;
  const bool is_still_so =
      vm::entry_of(granule) == entry && heap.state.load(std::memory_order_relaxed) != HeapState::frozen;
  if (is_still_so) {
    const SlabRecord& slab = *slab_of(granule, class_of_entry(entry));
    constexpr unsigned kPages = vm::kGranuleBytes / vm::kPageBytes;
    for (unsigned first = 0, stop = 0; first < kPages && slab.blocks.free_count != 0; first = stop) {
      stop = first + 1;
      if (!is_page_free(slab, granule + first * vm::kPageBytes)) continue;
      while (stop < kPages && is_page_free(slab, granule + stop * vm::kPageBytes)) ++stop;
      give_back(context, granule + first * vm::kPageBytes, stop - first);
    }
  }
  heap.lock.unlock();
}

void release_all_slabs(Heap& heap) noexcept {
  while (heap.slabs != nullptr) release_slab(heap, *heap.slabs);
}

SlabRecord* slab_of(const void* address, unsigned size_class) noexcept {
  const std::size_t slab_bytes = class_infos[size_class].granules * vm::kGranuleBytes;
  const auto start = reinterpret_cast<std::uintptr_t>(address) & ~(slab_bytes - 1);
  const vm::Region& region = *vm::region_of(address);
  return reinterpret_cast<SlabRecord*>(region.slab_record(region.granule_of(reinterpret_cast<void*>(start))));
}

std::uint64_t* bitmap_of(const SlabRecord& slab) noexcept {
  const vm::Region& region = *vm::region_of(slab.start);
  return region.slab_bitmap(region.granule_of(slab.start));
}

BlockState block_state(const void* address, unsigned size_class) noexcept {
  const SlabRecord& slab = *slab_of(address, size_class);
  const ClassInfo& info = class_infos[size_class];
  const auto offset = static_cast<std::uint32_t>(static_cast<const std::byte*>(address) - slab.start);
  const std::uint32_t index = placement::block_index(offset, info.inverse);
  if (!placement::is_block_start(offset, index, info.block_bytes) || index >= info.blocks)
    return BlockState::interior;
  // Without the lock: neighbours in the word come and go, the bit of a live block stays.
  const std::uint64_t word = peek(bitmap_of(slab)[index / placement::kWordBits]);
  return (word >> (index % placement::kWordBits) & 1) != 0 ? BlockState::free : BlockState::taken;
}

}  // namespace glebe::heap
