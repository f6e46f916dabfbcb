// The slow side of the front: which part of the heap serves a request, and which part a pointer belongs to.
#include "src/heap/allocate.h"

#include <cstdint>
#include <cstring>

#include "src/base/check.h"
#include "src/heap/debug_fill.h"
#include "src/heap/large.h"
#include "src/heap/medium.h"
#include "src/heap/misuse.h"
#include "src/heap/reclaim.h"
#include "src/heap/registry.h"
#include "src/heap/remote.h"
#include "src/heap/small.h"
#include "src/heap/thread_cache.h"
#include "src/vm/pageable.h"

namespace glebe::heap {

constinit Settings settings;

namespace {

// Marks the heap as changing for the scope (fork.h). Plain stores in program order: only a snapshot of this
// thread's writes is ever looked at.
class SlowPath {
 public:
  explicit SlowPath(Heap& heap) : heap_(heap), outer_(heap.in_slow_path) {
    heap_.in_slow_path = true;
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  ~SlowPath() {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    heap_.in_slow_path = outer_;
  }
  SlowPath(const SlowPath&) = delete;
  SlowPath& operator=(const SlowPath&) = delete;

 private:
  Heap& heap_;
  bool outer_;
};

// A block of a heap that has no owner thread, under its lock.
void* take_under_lock(Heap& heap, unsigned size_class, bool* is_zero) {
  if (settings.debug_fill) return allocate_checked(heap, size_class);
  void* block = nullptr;
  if (!lock_heap(heap)) return nullptr;
  if (!heap.inbox.looks_empty()) drain_inbox(heap);
  const unsigned taken = take_blocks(heap, size_class, {&block, 1}, is_zero);
  heap.lock.unlock();
  return taken != 0 ? block : nullptr;
}

void* allocate_small(unsigned size_class, bool* is_zero) {
  vm::wait_under_pressure();
  Heap* heap = own_heap();
  if (heap != nullptr && !heap->in_slow_path) [[likely]] {
    SlowPath scope(*heap);
    void* block = is_checked() ? allocate_checked(*heap, size_class) : next_block(*heap, size_class, is_zero);
    tick(*heap);
    if (block != nullptr) return block;
  }
  // Past the thread's exit hook, inside a signal handler that interrupted the slow path, or out of memory.
  Heap* shared = shared_heap();
  return shared != nullptr ? take_under_lock(*shared, size_class, is_zero) : nullptr;
}

void tick_own() {
  Heap* heap = own_heap();
  if (heap == nullptr || heap->in_slow_path) return;
  SlowPath scope(*heap);
  tick(*heap);
}

// A medium block from this thread's few, the clock looked at only when there is a reason.
void* allocate_span(std::size_t size_bytes) {
  Heap* heap = own_heap();
  if (heap == nullptr || heap->in_slow_path || is_checked()) return nullptr;
  SlowPath scope(*heap);
  void* block = take_span(*heap, size_bytes);
  if (block != nullptr && is_purge_pending()) tick(*heap);
  return block;
}

bool free_span(void* block) {
  const vm::PagingHooks* hooks = vm::paging();
  // A block whose contents are elsewhere is freed for good, so that nothing has to be paged in for its next
  // owner.
  if (hooks != nullptr && hooks->paged_out_pages(static_cast<std::byte*>(block), 64) != 0) return false;
  Heap* heap = own_heap();
  if (heap == nullptr || heap->in_slow_path || is_checked()) return false;
  SlowPath scope(*heap);
  if (!keep_span(*heap, block)) return false;
  if (is_purge_pending()) tick(*heap);
  return true;
}

void* allocate_big(std::size_t size_bytes, std::size_t align_bytes, std::uint16_t owner, bool* is_zero) {
  if (size_bytes > PTRDIFF_MAX) return nullptr;
  vm::wait_under_pressure();
  if (size_bytes <= kSpanBytesMax && align_bytes <= vm::kPageBytes && owner == 0) {
    if (void* block = allocate_span(size_bytes)) return block;
  }
  if (align_bytes < vm::kPageBytes) align_bytes = vm::kPageBytes;
  tick_own();
  void* block = size_bytes <= kMediumMaxBytes && align_bytes <= kMediumMaxBytes
                    ? medium_allocate(size_bytes, align_bytes, owner, is_zero)
                    : large_allocate(size_bytes, align_bytes, owner, is_zero);
  if (block != nullptr && settings.debug_fill && !*is_zero) fill(block, size_bytes, kFillAllocated);
  return block;
}

// The class whose blocks are aligned as asked, or kClassCount when the small heap has none.
unsigned aligned_class(std::size_t size_bytes, std::size_t align_bytes) {
  if (size_bytes > kSmallMaxBytes || align_bytes > kSmallMaxBytes) return kClassCount;
  std::size_t size = align_up(size_bytes == 0 ? 1 : size_bytes, align_bytes);
  while (size <= kSmallMaxBytes) {
    const unsigned size_class = class_of(size);
    if (is_aligned(class_bytes(size_class), align_bytes)) return size_class;
    size = align_up(class_bytes(size_class) + 1, align_bytes);
  }
  return kClassCount;
}

void report_status(FreeStatus status, const void* block) {
  switch (status) {
    case FreeStatus::ok:
      return;
    case FreeStatus::double_free:
      return report_misuse(Misuse::double_free, block, 0);
    case FreeStatus::interior:
      return report_misuse(Misuse::interior_pointer, block, 0);
    case FreeStatus::foreign:
      return report_misuse(Misuse::foreign_pointer, block, 0);
  }
}

void free_small(void* block, std::uintptr_t entry) {
  Heap& destination = *heap_of_entry(entry);
  const unsigned size_class = class_of_entry(entry);
  if (is_checked()) return free_checked(destination, size_class, block);
  Heap* own = own_heap();
  const HeapState state = destination.state.load(std::memory_order_relaxed);
  const bool is_shared =
      state == HeapState::first_class || state == HeapState::shared || state == HeapState::frozen;
  if (own == nullptr || own->in_slow_path || is_shared) return free_into(destination, block);
  SlowPath scope(*own);
  if (&destination == own) {
    keep_block(*own, size_class, block);
    return tick(*own);
  }
  free_remote(*own, destination, block, class_infos[size_class].block_bytes);
}

void free_big(void* block, std::uintptr_t entry) {
  if (is_checked()) {
    const std::size_t bytes = usable_bytes(block);
    fill(block, bytes, settings.debug_fill ? kFillFreed : 0);
  }
  if (entry == vm::kEntryMedium && free_span(block)) return;
  report_status(entry == vm::kEntryMedium ? medium_free(block) : large_free(block), block);
  tick_own();
}

// In place, where it is possible and does not keep more than twice what is needed.
bool resize_in_place(void* block, std::size_t old_bytes, std::size_t size_bytes) {
  if (vm::entry_of(block) > vm::kEntryMedium) return size_bytes <= old_bytes && size_bytes >= old_bytes / 2;
  if (size_bytes <= kSmallMaxBytes) return false;
  if (vm::entry_of(block) == vm::kEntryMedium) {
    return size_bytes <= kMediumMaxBytes && medium_resize(block, size_bytes);
  }
  return size_bytes > kMediumMaxBytes && large_resize(block, size_bytes);
}

}  // namespace

void* allocate_slow(std::size_t size_bytes) noexcept {
  bool is_zero = false;
  if (size_bytes <= kSmallMaxBytes) return allocate_small(class_of(size_bytes), &is_zero);
  return allocate_big(size_bytes, 0, 0, &is_zero);
}

void free_slow(void* block) noexcept {
  const std::uintptr_t entry = vm::entry_of(block);
  if (entry > vm::kEntryMedium) return free_small(block, entry);
  if (entry == vm::kEntryMedium || large_contains(block)) return free_big(block, entry);
  const bool was_ours = vm::region_of(block) != nullptr;
  report_misuse(was_ours ? Misuse::double_free : Misuse::foreign_pointer, block, 0);
}

void* allocate_zeroed(std::size_t size_bytes) noexcept {
  bool is_zero = false;
  void* block = nullptr;
  if (size_bytes <= kSmallMaxBytes) {
    block = allocate_fast(size_bytes);
    if (block == nullptr) block = allocate_small(class_of(size_bytes), &is_zero);
  } else {
    block = allocate_big(size_bytes, 0, 0, &is_zero);
  }
  if (block != nullptr && (!is_zero || is_checked())) std::memset(block, 0, size_bytes);
  return block;
}

void* allocate_aligned(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  CHECK(is_power_of_two(align_bytes));
  if (size_bytes > PTRDIFF_MAX || align_bytes > PTRDIFF_MAX) return nullptr;
  const unsigned size_class = aligned_class(size_bytes, align_bytes);
  bool is_zero = false;
  if (size_class == kClassCount)
    return allocate_big(size_bytes == 0 ? 1 : size_bytes, align_bytes, 0, &is_zero);
  void* block = allocate_fast(class_bytes(size_class));
  return block != nullptr ? block : allocate_small(size_class, &is_zero);
}

void* reallocate(void* block, std::size_t size_bytes) noexcept {
  const std::uintptr_t entry = vm::entry_of(block);
  if (entry > vm::kEntryMedium && !is_checked()) {
    // Most calls: the block is large enough and not twice too large. Nothing about it is read or changed.
    const std::size_t bytes = class_infos[class_of_entry(entry)].block_bytes;
    if (size_bytes <= bytes && size_bytes >= bytes / 2) return block;
  }
  if (size_bytes > PTRDIFF_MAX) return nullptr;
  const std::size_t old_bytes = usable_bytes(block);
  if (old_bytes == 0) {
    report_misuse(owns(block) ? Misuse::interior_pointer : Misuse::foreign_pointer, block, 0);
    return nullptr;
  }
  if (resize_in_place(block, old_bytes, size_bytes)) return block;
  if (old_bytes > kMediumMaxBytes && size_bytes > kMediumMaxBytes && large_contains(block)) {
    if (void* moved = large_move(block, size_bytes)) return moved;
  }
  Heap* const heap = heap_of(block);  // a block of a first-class heap stays in it
  void* fresh = heap != nullptr ? allocate_from(heap, size_bytes, 0) : allocate_fast(size_bytes);
  if (fresh == nullptr && heap == nullptr) fresh = allocate_slow(size_bytes);
  if (fresh == nullptr) return nullptr;
  std::memcpy(fresh, block, old_bytes < size_bytes ? old_bytes : size_bytes);
  if (!free_fast(block)) free_slow(block);
  return fresh;
}

std::size_t usable_bytes(const void* block) noexcept {
  const std::uintptr_t entry = vm::entry_of(block);
  if (entry > vm::kEntryMedium) {
    const unsigned size_class = class_of_entry(entry);
    return block_state(block, size_class) == BlockState::taken ? class_infos[size_class].block_bytes : 0;
  }
  if (entry == vm::kEntryMedium) return medium_usable(block);
  return large_contains(block) ? large_usable(block) : 0;
}

std::size_t rounded_bytes(std::size_t size_bytes) noexcept {
  if (size_bytes <= kSmallMaxBytes) return class_bytes(class_of(size_bytes));
  return size_bytes > PTRDIFF_MAX ? 0 : align_up(size_bytes, vm::kPageBytes);
}

bool size_fits(const void* block, std::size_t size_bytes, std::size_t align_bytes) noexcept {
  const std::size_t usable = usable_bytes(block);
  if (usable < size_bytes) return false;
  return align_bytes == 0 || is_aligned(reinterpret_cast<std::uintptr_t>(block), align_bytes);
}

bool owns(const void* address) noexcept {
  return vm::region_of(address) != nullptr || large_contains(address);
}

std::size_t trim() noexcept {
  Heap* heap = own_heap();
  if (heap != nullptr && !heap->in_slow_path) {
    SlowPath scope(*heap);
    flush_caches(*heap);
  }
  for (Heap* each = first_heap(); each != nullptr; each = each->next_heap) {
    if (each->state.load(std::memory_order_relaxed) == HeapState::frozen || !lock_heap(*each)) continue;
    drain_inbox(*each);
    static_cast<void>(release_empty_slabs(*each));
    each->lock.unlock();
  }
  return release_free_memory();
}

// --- first-class heaps ---

Heap* create_heap() noexcept { return new_first_class_heap(); }

bool is_first_class(const Heap* heap) noexcept {
  for (Heap* each = first_heap(); each != nullptr; each = each->next_heap) {
    if (each == heap) return each->state.load(std::memory_order_relaxed) == HeapState::first_class;
  }
  return false;
}

void destroy_heap(Heap* heap) noexcept {
  if (heap == nullptr) return;
  if (!is_first_class(heap)) return report_misuse(Misuse::bad_heap, heap, 0);
  {
    os::Lock hold(heap->lock);
    release_all_slabs(*heap);
  }
  medium_free_owner(heap->id);
  large_free_owner(heap->id);
  retire_first_class_heap(*heap);
}

void* allocate_from(Heap* heap, std::size_t size_bytes, std::size_t align_bytes) noexcept {
  if (size_bytes > PTRDIFF_MAX || align_bytes > PTRDIFF_MAX) return nullptr;
  bool is_zero = false;
  const unsigned size_class = aligned_class(size_bytes, align_bytes == 0 ? 1 : align_bytes);
  if (size_class != kClassCount) return take_under_lock(*heap, size_class, &is_zero);
  return allocate_big(size_bytes, align_bytes, heap->id, &is_zero);
}

Heap* heap_of(const void* block) noexcept {
  const std::uintptr_t entry = vm::entry_of(block);
  if (entry > vm::kEntryMedium) {
    Heap* heap = heap_of_entry(entry);
    return heap->state.load(std::memory_order_relaxed) == HeapState::first_class ? heap : nullptr;
  }
  if (entry == vm::kEntryMedium) return first_class_heap(medium_owner(block));
  return large_contains(block) ? first_class_heap(large_owner(block)) : nullptr;
}

}  // namespace glebe::heap
