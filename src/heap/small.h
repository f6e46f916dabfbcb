// Slabs: runs of granules cut into equal blocks; the small heap's store of blocks (namespace glebe::heap).
//
// A slab's record lies in the region's table of slab records at its first granule, its bitmap (1 = free) in
// the table of bitmaps: neither is near the blocks, and nothing here reads or writes a block. Slabs are
// aligned to their size, so the slab of a block is found by masking its address. Every function needs the
// lock of the heap that owns the slabs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "src/heap/heap.h"
#include "src/placement/fixed.h"
#include "src/vm/region.h"

namespace glebe::heap {

struct alignas(vm::kSlabRecordBytes) SlabRecord {
  placement::FixedSlab blocks;
  std::uint16_t fresh;  // blocks from this number on were never handed out and read as zero
  std::uint8_t size_class;
  bool is_available;  // in the heap's list of slabs with free blocks
  std::byte* start;
  SlabRecord* next_available;
  SlabRecord* previous_available;
  SlabRecord* next;  // in the heap's list of all slabs
  SlabRecord* previous;
};
static_assert(sizeof(SlabRecord) == vm::kSlabRecordBytes);

// Takes up to cells.size() blocks of a class, from a slab that has some or from a new one, and writes them
// into the first cells in descending order of address, so that a magazine hands them out ascending. Returns
// how many; 0 when there is no memory. When exactly one block is taken and it is known to read as zero
// without having been touched, *is_zero is set. Blocks of at least 2 KiB are never taken in batches that
// include fresh ones, so that calloc can leave them untouched.
[[nodiscard]] unsigned take_blocks(Heap& heap, unsigned size_class, std::span<void*> cells,
                                   bool* is_zero) noexcept;

// Gives blocks of the heap back to their slabs, of any classes in any order. Slabs that become empty are
// released unless they are the last of their class with free blocks. A pointer that is no block, or is free
// already, is reported as misuse. A block that belongs to another heap by now is not expected: ownership of a
// live slab does not change.
void put_blocks(Heap& heap, void* const* blocks, unsigned count) noexcept;

// Releases every slab that is wholly free. Returns the number of granules given back.
std::size_t release_empty_slabs(Heap& heap) noexcept;

// For the paging tier: calls give_back(context, page, page_count) for runs of os pages in the granule at
// `granule` that hold no taken block, with the lock of their heap held, so that none of these blocks is
// handed out meanwhile. Nothing happens when the granule is not part of a slab, or when the lock of its heap
// is taken. Takes that lock itself.
void visit_free_pages(std::byte* granule,
                      void (*give_back)(void* context, std::byte* page, unsigned page_count),
                      void* context) noexcept;

// Releases every slab, with live blocks or without.
void release_all_slabs(Heap& heap) noexcept;

// The slab that holds an address whose directory entry is a slot, and its bitmap.
[[nodiscard]] SlabRecord* slab_of(const void* address, unsigned size_class) noexcept;
[[nodiscard]] std::uint64_t* bitmap_of(const SlabRecord& slab) noexcept;

// Whether a block starts at the address, and whether it is free in the bitmap.
enum class BlockState : std::uint8_t { taken, free, interior };
[[nodiscard]] BlockState block_state(const void* address, unsigned size_class) noexcept;

}  // namespace glebe::heap
