// A heap: the small blocks of one thread, or of one first-class heap (namespace glebe::heap).
//
// The slots come first: per size class a pointer into an array of free blocks (the magazine). Only the thread
// that owns the heap touches slots, depots and rings; a first-class heap has no owner thread, and `lock`
// guards them as well. Slabs (small.h) and everything below `lock` are guarded by it. Heap objects are never
// unmapped and never move: a stale directory entry still names a heap.
//
// Lock order: heap, granule pool, medium shard, large, vm. Two heap locks are never held at once.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "platform/thread.h"
#include "src/base/list.h"
#include "src/heap/size_class.h"

namespace glebe::heap {

struct SlabRecord;  // small.h
struct Heap;

// Blocks of one heap that another thread freed (remote.h).
inline constexpr unsigned kRingBlocks = 60;
struct Ring : StackNode<> {
  Heap* heap = nullptr;
  std::uint32_t count = 0;
  std::uint32_t size_bytes = 0;
  void* blocks[kRingBlocks];
};

// A magazine is an array of kMagazineEntries pointers, aligned to its size. The cell at `base` holds nullptr;
// blocks lie above it up to `top`; it is full when the cell above `top` would start the next array. How many
// blocks a class keeps is set by where base sits.
inline constexpr unsigned kMagazineEntries = 128;
inline constexpr std::size_t kMagazineBytes = kMagazineEntries * sizeof(void*);

struct Slot {
  void** top;
  void** base;
};
static_assert(sizeof(Slot) == kSlotBytes);

// unused: may become any heap; orphan: its thread ended, the next thread takes it over; shared: for threads
// past their exit hook, under its lock; frozen: in a forked child, its state is unknown, what is freed to it
// is dropped.
enum class HeapState : std::uint8_t { unused, thread_owned, orphan, first_class, shared, frozen };

inline constexpr unsigned kRingCount = 16;
inline constexpr std::size_t kHeapAlign = 4 * kKiB;

// The slots of all classes. A thread's pointer names the bank that malloc takes from; free pushes to the bank
// `slots` of the heap whatever malloc uses. Taking from `metered` therefore runs dry after a bounded number
// of allocations, and the slow path gets to look at the clock (thread_cache.h, "Modes").
struct Bank {
  Slot slot[kClassCount];

  [[nodiscard]] Slot* slot_at(std::size_t offset_bytes) noexcept {
    return reinterpret_cast<Slot*>(reinterpret_cast<char*>(slot) + offset_bytes);
  }
  // Whether a directory entry names a slot of the heap that this bank belongs to: `slots` lies behind
  // `metered`, and nothing in the bytes behind `slots` is ever named by an entry.
  [[nodiscard]] bool owns_slot(std::uintptr_t entry) const noexcept {
    return entry - reinterpret_cast<std::uintptr_t>(slot) < 2 * sizeof(slot);
  }
};

// Medium blocks that a thread keeps for its next request of about that size; pages is 0 in an unused entry.
struct Span {
  void* address;
  std::uint32_t pages;
};
inline constexpr unsigned kSpanCount = 8;

struct alignas(kHeapAlign) Heap {
  Bank metered;
  Bank slots;

  // Owner only.
  void** depots[kClassCount] = {};  // full magazines, linked through their base cells
  std::uint8_t depot_counts[kClassCount] = {};
  std::uint8_t depot_lows[kClassCount] = {};  // the lowest depot_counts since caches were trimmed last
  std::uint64_t busy_classes[2] = {};         // bits: a slow path used the class since then
  std::uint32_t depot_bytes = 0;              // blocks in all depots
  bool spans_used = false;
  void** spare_magazines = nullptr;  // linked through cell 0
  Ring* rings[kRingCount] = {};      // remote.h
  Span spans[kSpanCount] = {};
  std::uint32_t span_pages = 0;    // sum over spans
  std::uint32_t next_span = 0;     // the entry to replace next
  std::uint32_t last_tick_ms = 0;  // coarse clock of the last slow path that looked
  std::uint32_t last_flush_ms = 0;
  std::uint32_t last_trim_ms = 0;
  std::uint16_t closed_passes = 0;  // slow paths within one tick of the clock
  std::uint16_t id = 0;             // first-class heaps: from 1, the owner word of medium and large blocks
  bool in_slow_path = false;        // the owner is changing what only the owner touches (fork.h)
  std::atomic<HeapState> state{HeapState::unused};

  os::Mutex lock;
  SlabRecord* available[kClassCount] = {};  // slabs with at least one free block
  SlabRecord* slabs = nullptr;              // every slab of the heap
  Heap* next_heap = nullptr;                // all heaps, latest first; never changes once set
  Heap* next_free = nullptr;                // orphans, or unused heaps
  PushStack<Ring> inbox;                    // rings of our blocks, from other threads
  std::atomic<std::uint32_t> inbox_blocks{0};
  // Counters of slow paths, written under the lock.
  std::size_t blocks_carved = 0;    // blocks taken out of bitmaps
  std::size_t blocks_returned = 0;  // blocks put back into bitmaps
  std::size_t slab_count = 0;
};
static_assert(sizeof(Heap) == kHeapAlign);
static_assert(offsetof(Heap, slots) == sizeof(Bank));

// From a directory entry (any value above the special ones) to heap and class.
[[nodiscard]] inline Heap* heap_of_entry(std::uintptr_t entry) noexcept {
  return reinterpret_cast<Heap*>(entry & ~(kHeapAlign - 1));
}
[[nodiscard]] inline unsigned class_of_entry(std::uintptr_t entry) noexcept {
  return static_cast<unsigned>(((entry & (kHeapAlign - 1)) - sizeof(Bank)) / sizeof(Slot));
}

// The bottom of every magazine that does not exist yet: empty for malloc, and full for free, because the cell
// behind it would start the next array.
struct alignas(kMagazineBytes) NullMagazine {
  void* cells[kMagazineEntries];
};
extern constinit NullMagazine null_magazine;
inline constexpr void** kNullCell = &null_magazine.cells[kMagazineEntries - 1];

// A bank whose magazines are empty for ever. A thread's pointer names it before the thread's first
// allocation, and whenever the thread is to take the slow path: the thread's own heap is then found by
// os::exit_value().
extern constinit Bank closed_bank;
using ThreadBank = os::ThreadSlot<Bank, &closed_bank>;

// Reads a word that another thread may be writing without atomics, the owner of a heap or the holder of its
// lock. What the caller wants of it is a value as of some moment (statistics), or bits that nobody changes
// now (the state of a live block). The one place where a write and a read are not ordered on purpose, so the
// thread sanitizer looks away.
template <class T>
[[nodiscard]] __attribute__((no_sanitize("thread"))) T peek(const T& word) noexcept {
  static_assert(sizeof(T) <= sizeof(void*));
  return const_cast<const volatile T&>(word);
}

[[nodiscard]] inline Heap* heap_of_bank(Bank* bank) noexcept {
  return reinterpret_cast<Heap*>(reinterpret_cast<std::uintptr_t>(bank) & ~(kHeapAlign - 1));
}

}  // namespace glebe::heap
