// The front of the heap: allocate and free blocks of any size (namespace glebe::heap).
//
// The inline functions are the fast path: they succeed when the thread's magazine of the class holds a block
// (or room for one), touch neither the block nor a lock, and otherwise say so; the caller then calls the
// *_slow function, which handles everything. Nothing here sets errno, throws, or knows about options: that is
// src/api.
//
// The first call of a *_slow function must come after the settings below were made (src/api does that).
#pragma once

#include "src/heap/heap.h"
#include "src/heap/size_class.h"
#include "src/vm/directory.h"

namespace glebe::heap {

// A block of at least size_bytes, 16-byte aligned, or nullptr: then call allocate_slow with the same size.
[[nodiscard]] inline void* allocate_fast(std::size_t size_bytes) noexcept {
  if (size_bytes > kSmallMaxBytes) [[unlikely]]
    return nullptr;
  Slot* slot = ThreadBank::get()->slot_at(class_offset_of(size_bytes));
  void** top = slot->top;
  void* block = *top;  // nullptr at the bottom of the magazine: the empty test is the load itself
  if (block != nullptr) [[likely]]
    slot->top = top - 1;
  return block;
}

// Frees a block into this thread's magazine. False: nothing was done, call free_slow. Any pointer value is
// allowed.
[[nodiscard]] inline bool free_fast(void* block) noexcept {
  const std::uint64_t index = vm::directory_index(block);
  if (!vm::is_primary_index(index)) [[unlikely]]
    return false;
  const std::uintptr_t entry = vm::primary_entry(index);
  if (!ThreadBank::get()->owns_slot(entry)) [[unlikely]]
    return false;
  Slot* slot = reinterpret_cast<Slot*>(entry);
  void** top = slot->top + 1;
  if ((reinterpret_cast<std::uintptr_t>(top) & (kMagazineBytes - 1)) == 0) [[unlikely]]
    return false;
  *top = block;
  slot->top = top;
  return true;
}

// Any size up to PTRDIFF_MAX; nullptr when the system has no memory, or for a larger size.
[[nodiscard]] void* allocate_slow(std::size_t size_bytes) noexcept;

// Any pointer but nullptr. Misuse is reported (misuse.h).
void free_slow(void* block) noexcept;

// Like allocate, with every byte zero; memory that is known to be fresh is not touched.
[[nodiscard]] void* allocate_zeroed(std::size_t size_bytes) noexcept;

// Aligned to align_bytes, a power of two. The block's usable size is at least size_bytes.
[[nodiscard]] void* allocate_aligned(std::size_t size_bytes, std::size_t align_bytes) noexcept;

// Changes the size of a live block, in place where possible; contents are kept up to the smaller size.
// nullptr: no memory, the block is unchanged. `size_bytes` > 0. A pointer that is not ours is reported and
// nullptr returned.
[[nodiscard]] void* reallocate(void* block, std::size_t size_bytes) noexcept;

// Usable bytes of a live block; 0 for anything else (nothing is reported).
[[nodiscard]] std::size_t usable_bytes(const void* block) noexcept;

// The usable size that a request would get.
[[nodiscard]] std::size_t rounded_bytes(std::size_t size_bytes) noexcept;

// Checks a sized free: true when a block of the class of size_bytes (and alignment, 0 for none) can start
// here.
[[nodiscard]] bool size_fits(const void* block, std::size_t size_bytes, std::size_t align_bytes) noexcept;

// Whether the address lies in memory that glebe manages (live or not).
[[nodiscard]] bool owns(const void* address) noexcept;

// --- first-class heaps (heap.h has the type) ---
[[nodiscard]] Heap* create_heap() noexcept;  // nullptr: no memory, or 65,000 heaps exist
void destroy_heap(
    Heap* heap) noexcept;  // frees every block of it; nullptr is allowed. No thread uses it any more
[[nodiscard]] bool is_first_class(const Heap* heap) noexcept;  // alive and made by create_heap
[[nodiscard]] void* allocate_from(Heap* heap, std::size_t size_bytes,
                                  std::size_t align_bytes) noexcept;  // 0: default
// The first-class heap of a live block, nullptr for the process heap.
[[nodiscard]] Heap* heap_of(const void* block) noexcept;

// --- the whole heap ---
// Flushes this thread's caches and gives back everything that is free. Returns the bytes given back.
std::size_t trim() noexcept;

// Calls visit for every live block, after this thread's caches were flushed. Blocks that other threads keep
// in their caches are visited too: exact when no other thread has any. The visitor does not allocate or free.
struct BlockVisit {
  void* address;
  std::size_t size_bytes;
};
void walk(void (*visit)(void* context, const BlockVisit& block), void* context) noexcept;

// Every structure consistent, every counter equal to a recount. For tests: no other thread allocates
// meanwhile.
[[nodiscard]] bool validate() noexcept;

// What the options set before the first allocation; see docs/options.md.
struct Settings {
  bool debug_fill = false;  // no caches; fill patterns written and checked, see debug_fill.h
  bool zero_on_free = false;
};
extern constinit Settings settings;

// Whether an option asks for checks or clearing with every call: then nothing is cached.
[[nodiscard]] inline bool is_checked() noexcept { return settings.debug_fill || settings.zero_on_free; }

}  // namespace glebe::heap
