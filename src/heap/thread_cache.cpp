#include "src/heap/thread_cache.h"

#include <cstring>
#include <utility>

#include "platform/process.h"
#include "src/base/check.h"
#include "src/heap/allocate.h"
#include "src/heap/medium.h"
#include "src/heap/misuse.h"
#include "src/heap/reclaim.h"
#include "src/heap/registry.h"
#include "src/heap/remote.h"
#include "src/heap/small.h"
#include "src/vm/ledger.h"
#include "src/vm/metadata.h"

namespace glebe::heap {
namespace {

constexpr unsigned kMagazinesPerGrowth = 4;
constexpr unsigned kClosedPassesMax = 16;  // slow paths within a tick that make a thread busy
constexpr std::uint32_t kFlushIntervalMs = 100;
constexpr std::uint32_t kTrimIntervalMs = 4;
constexpr std::uint32_t kDepotBytesMax = kMiB;   // in all depots of a thread
constexpr std::size_t kPendingBytes = 2 * kMiB;  // dirty memory worth looking at the clock for

void** array_of(void** cell) {
  return reinterpret_cast<void**>(reinterpret_cast<std::uintptr_t>(cell) & ~(kMagazineBytes - 1));
}

void** base_in(void** array, unsigned size_class) {
  return array + (kMagazineEntries - 1 - class_infos[size_class].magazine_blocks);
}

void recycle_magazine(Heap& heap, void** cell) {
  void** array = array_of(cell);
  array[0] = heap.spare_magazines;
  heap.spare_magazines = array;
}

// An array for a magazine, or nullptr without memory.
void** new_array(Heap& heap) {
  if (heap.spare_magazines == nullptr) {
    auto* arrays =
        static_cast<std::byte*>(vm::metadata_allocate(kMagazinesPerGrowth * kMagazineBytes, kMagazineBytes));
    if (arrays == nullptr) return nullptr;
    for (unsigned i = kMagazinesPerGrowth; i-- > 0;) {
      recycle_magazine(heap, reinterpret_cast<void**>(arrays + i * kMagazineBytes));
    }
  }
  void** array = heap.spare_magazines;
  heap.spare_magazines = static_cast<void**>(array[0]);
  return array;
}

// Gives the slot an empty magazine if it has none. False without memory.
bool ensure_magazine(Heap& heap, Slot& slot, unsigned size_class) {
  if (slot.base != kNullCell) return true;
  void** array = new_array(heap);
  if (array == nullptr) return false;
  void** base = base_in(array, size_class);
  *base = nullptr;
  slot = {base, base};
  return true;
}

std::uint32_t magazine_bytes(unsigned size_class) {
  return class_infos[size_class].magazine_blocks * class_infos[size_class].block_bytes;
}

bool take_from_depot(Heap& heap, Slot& slot, unsigned size_class) {
  void** base = heap.depots[size_class];
  if (base == nullptr) return false;
  if (slot.base != kNullCell) recycle_magazine(heap, slot.base);
  heap.depots[size_class] = static_cast<void**>(*base);
  const std::uint8_t left = --heap.depot_counts[size_class];
  heap.depot_bytes -= magazine_bytes(size_class);
  if (left < heap.depot_lows[size_class]) heap.depot_lows[size_class] = left;
  *base = nullptr;
  slot = {base + class_infos[size_class].magazine_blocks, base};
  return true;
}

bool put_into_depot(Heap& heap, Slot& slot, unsigned size_class) {
  if (heap.depot_counts[size_class] >= class_infos[size_class].depot_magazines) return false;
  if (heap.depot_bytes + magazine_bytes(size_class) > kDepotBytesMax) return false;
  void** array = new_array(heap);
  if (array == nullptr) return false;
  *slot.base = heap.depots[size_class];
  heap.depots[size_class] = slot.base;
  ++heap.depot_counts[size_class];
  heap.depot_bytes += magazine_bytes(size_class);
  void** base = base_in(array, size_class);
  *base = nullptr;
  slot = {base, base};
  return true;
}

constexpr std::uint32_t kSpanPagesMax = kSpanBytesMax / vm::kPageBytes;
constexpr std::uint32_t kSpanPagesTotal = kMiB / vm::kPageBytes;  // kept by one thread

void drop_span(Heap& heap, Span& span) {
  if (span.pages == 0) return;
  const std::size_t size_bytes = span.pages * vm::kPageBytes;
  heap.span_pages -= span.pages;
  span.pages = 0;
  // Two threads may both keep a block that the program freed twice.
  if (medium_free(span.address) != FreeStatus::ok)
    report_misuse(Misuse::double_free, span.address, size_bytes);
}

// Fills half of the magazine from the slabs and returns one block more. The slot is empty.
void* refill(Heap& heap, unsigned size_class, bool* is_zero) {
  Slot& slot = heap.slots.slot[size_class];
  if (take_from_depot(heap, slot, size_class)) return *slot.top--;
  const bool has_magazine = ensure_magazine(heap, slot, size_class);
  const unsigned half = class_infos[size_class].magazine_blocks / 2u;
  void* single = nullptr;
  const std::span<void*> cells =
      has_magazine ? std::span<void*>(slot.base + 1, half) : std::span<void*>(&single, 1);
  if (!lock_heap(heap)) return nullptr;
  if (!heap.inbox.looks_empty()) drain_inbox(heap);
  const unsigned taken = take_blocks(heap, size_class, cells, is_zero);
  heap.lock.unlock();
  if (taken == 0) return nullptr;
  if (has_magazine) slot.top = slot.base + taken - 1;
  return cells[taken - 1];
}

// Gives the older half of a full magazine back.
void flush_half(Heap& heap, Slot& slot) {
  const unsigned count = static_cast<unsigned>(slot.top - slot.base);
  const unsigned half = (count + 1) / 2;
  void** first = slot.base + 1;
  if (!lock_heap(heap)) return;
  if (!heap.inbox.looks_empty()) drain_inbox(heap);
  put_blocks(heap, first, half);
  heap.lock.unlock();
  std::memmove(first, first + half, (count - half) * sizeof(void*));
  slot.top -= half;
}

void flush_slot(Heap& heap, Slot& slot) {
  put_blocks(heap, slot.base + 1, static_cast<unsigned>(slot.top - slot.base));
  slot.top = slot.base;
}

// Empties all magazines of the depot but the `kept` that were put there last.
void flush_depot(Heap& heap, unsigned size_class, unsigned kept) {
  void** unlinked = reinterpret_cast<void**>(&heap.depots[size_class]);
  for (unsigned i = 0; i < kept; ++i) unlinked = static_cast<void**>(*unlinked);
  while (void** base = static_cast<void**>(*unlinked)) {
    put_blocks(heap, base + 1, class_infos[size_class].magazine_blocks);
    *unlinked = *base;
    --heap.depot_counts[size_class];
    heap.depot_bytes -= magazine_bytes(size_class);
    recycle_magazine(heap, base);
  }
  heap.depot_lows[size_class] = heap.depot_counts[size_class];
}

void note_use(Heap& heap, unsigned size_class) {
  heap.busy_classes[size_class / 64] |= std::uint64_t{1} << (size_class % 64);
}

bool was_used(const Heap& heap, unsigned size_class) {
  return (heap.busy_classes[size_class / 64] >> (size_class % 64) & 1) != 0;
}

// Gives back what the thread did not need since the last time: magazines at the bottom of the depots, the
// magazines of classes that no slow path used, idle spans. A cached block keeps its slab from becoming free,
// so caches are kept only where they serve.
void trim_caches(Heap& heap) {
  if (!heap.spans_used) {
    for (Span& span : heap.spans) drop_span(heap, span);
  }
  heap.spans_used = false;
  if (!lock_heap(heap)) return;
  for (unsigned c = 0; c < kClassCount; ++c) {
    if (heap.depot_lows[c] != 0) flush_depot(heap, c, heap.depot_counts[c] - heap.depot_lows[c]);
    heap.depot_lows[c] = heap.depot_counts[c];
    if (!was_used(heap, c)) {
      flush_slot(heap, heap.slots.slot[c]);
      flush_slot(heap, heap.metered.slot[c]);
    }
  }
  heap.busy_classes[0] = heap.busy_classes[1] = 0;
  if (!heap.inbox.looks_empty()) drain_inbox(heap);
  heap.lock.unlock();
}

enum class Mode : std::uint8_t { closed, metered, open };

// Leaving `metered`: its blocks go where the other modes look.
void merge_metered(Heap& heap) {
  for (unsigned c = 0; c < kClassCount; ++c) {
    Slot& metered = heap.metered.slot[c];
    if (metered.top == metered.base) continue;
    Slot& slot = heap.slots.slot[c];
    if (slot.top == slot.base) {
      std::swap(slot, metered);
    } else if (lock_heap(heap)) {
      flush_slot(heap, metered);
      heap.lock.unlock();
    }
  }
}

void set_mode(Heap& heap, Mode mode) {
  Bank* bank = mode == Mode::open ? &heap.slots : mode == Mode::metered ? &heap.metered : &closed_bank;
  Bank* before = ThreadBank::get();
  if (bank == before) return;
  if (before == &heap.metered) merge_metered(heap);
  ThreadBank::set(bank);
}

bool is_kept(const Heap& heap, const void* block) {
  for (const Span& span : heap.spans) {
    if (span.pages != 0 && span.address == block) return true;
  }
  return false;
}

// An unused entry, emptied for `pages` more.
Span& make_room(Heap& heap, std::uint32_t pages) {
  for (unsigned i = 0; i < kSpanCount && heap.span_pages + pages > kSpanPagesTotal; ++i) {
    drop_span(heap, heap.spans[(heap.next_span + i) % kSpanCount]);
  }
  for (Span& span : heap.spans) {
    if (span.pages == 0) return span;
  }
  Span& oldest = heap.spans[heap.next_span++ % kSpanCount];
  drop_span(heap, oldest);
  return oldest;
}

}  // namespace

void* next_block(Heap& heap, unsigned size_class, bool* is_zero) noexcept {
  note_use(heap, size_class);
  Slot& slot = heap.slots.slot[size_class];
  void* block = *slot.top;
  if (block != nullptr) {
    --slot.top;
  } else {
    block = refill(heap, size_class, is_zero);
  }
  if (ThreadBank::get() == &heap.metered && slot.top != slot.base) {
    Slot& metered = heap.metered.slot[size_class];
    if (metered.top == metered.base) {
      std::swap(slot, metered);
    }
  }
  return block;
}

void keep_block(Heap& heap, unsigned size_class, void* block) noexcept {
  note_use(heap, size_class);
  Slot& slot = heap.slots.slot[size_class];
  if (!ensure_magazine(heap, slot, size_class)) return free_into(heap, block);
  const bool is_full =
      ((reinterpret_cast<std::uintptr_t>(slot.top) + sizeof(void*)) & (kMagazineBytes - 1)) == 0;
  if (is_full && !put_into_depot(heap, slot, size_class)) {
    flush_half(heap, slot);
    if (slot.top - slot.base == class_infos[size_class].magazine_blocks)
      return;  // inside our own signal handler
  }
  *++slot.top = block;
}

void* take_span(Heap& heap, std::size_t size_bytes) noexcept {
  const auto pages = static_cast<std::uint32_t>(divide_up(size_bytes, vm::kPageBytes));
  for (Span& span : heap.spans) {
    if (span.pages < pages || span.pages > pages + pages / 8) continue;
    heap.span_pages -= span.pages;
    span.pages = 0;
    heap.spans_used = true;
    return span.address;
  }
  return nullptr;
}

bool keep_span(Heap& heap, void* block) noexcept {
  const auto pages = static_cast<std::uint32_t>(medium_usable(block) / vm::kPageBytes);
  if (pages == 0 || pages > kSpanPagesMax || medium_owner(block) != 0) return false;
  if (is_kept(heap, block)) {
    report_misuse(Misuse::double_free, block, pages * vm::kPageBytes);
    return true;
  }
  make_room(heap, pages) = {block, pages};
  heap.span_pages += pages;
  return true;
}

void flush_caches(Heap& heap) noexcept {
  for (Span& span : heap.spans) drop_span(heap, span);
  send_all_rings(heap);
  if (!lock_heap(heap)) return;
  for (unsigned c = 0; c < kClassCount; ++c) {
    flush_depot(heap, c, 0);
    flush_slot(heap, heap.slots.slot[c]);
    flush_slot(heap, heap.metered.slot[c]);
  }
  drain_inbox(heap);
  heap.lock.unlock();
}

void tick(Heap& heap) noexcept {
  const std::uint64_t now = os::clock_coarse_ms();
  const auto now_ms = static_cast<std::uint32_t>(now);
  const bool is_pending = is_purge_pending();
  const bool is_closed = ThreadBank::get() == &closed_bank;
  if (now_ms == heap.last_tick_ms) {
    // Much can be freed within one tick of the clock: from now on the clock is looked at.
    if (is_pending && ThreadBank::get() == &heap.slots) return set_mode(heap, Mode::closed);
    if (!is_closed || is_checked() || ++heap.closed_passes < kClosedPassesMax) return;
    return set_mode(heap, is_pending ? Mode::metered : Mode::open);
  }
  heap.last_tick_ms = now_ms;
  heap.closed_passes = 0;
  send_all_rings(heap);
  if (is_closed && now_ms - heap.last_flush_ms >= kFlushIntervalMs) {
    heap.last_flush_ms = now_ms;
    flush_caches(heap);
    if (lock_heap(heap)) {
      static_cast<void>(release_empty_slabs(heap));
      heap.lock.unlock();
    }
  }
  if (now_ms - heap.last_trim_ms >= kTrimIntervalMs) {
    heap.last_trim_ms = now_ms;
    trim_caches(heap);
  }
  maintain(now);
  set_mode(heap, is_pending || is_checked() ? Mode::closed : Mode::open);
}

bool is_purge_pending() noexcept {
  return vm::ledger.dirty_bytes.load(std::memory_order_relaxed) >= kPendingBytes;
}

unsigned cached_blocks(const Heap& heap, unsigned size_class) noexcept {
  const unsigned blocks = class_infos[size_class].magazine_blocks;
  unsigned cached = peek(heap.depot_counts[size_class]) * blocks;
  for (const Bank* bank : {&heap.slots, &heap.metered}) {
    // Only top is read, which tells the fill by itself: another thread may be exchanging the magazine.
    void** const top = peek(bank->slot[size_class].top);
    if (top != kNullCell) cached += static_cast<unsigned>(top - base_in(array_of(top), size_class));
  }
  return cached;
}

}  // namespace glebe::heap
