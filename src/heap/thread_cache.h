// The slow side of the thread cache: magazines run empty and full, depots, modes (namespace glebe::heap).
//
// Modes. A program that frees much memory and then goes on at a low rate must give that memory back without calling
// anything and without a thread of ours; yet the fast path has no clock. While free memory waits to be purged:
//   closed    malloc and free take the slow path, which reads the coarse clock and does what is due;
//   metered   many slow paths within one tick of the clock mean a busy thread: malloc takes from the bank `metered`, whose
//             magazines run dry, so that the clock is looked at once per magazine;
//   open      nothing waits: the thread's pointer names `slots`, and the fast path serves everything.
// Everything here is called by the owner of the heap with in_slow_path set.
#pragma once

#include "src/heap/heap.h"

namespace glebe::heap {

// A block of the class from the magazine, the depot or the slabs; nullptr without memory. *is_zero is set when the block
// is known to read as zero.
[[nodiscard]] void* next_block(Heap& heap, unsigned size_class, bool* is_zero) noexcept;

// Puts a block into the magazine of its class, making room first.
void keep_block(Heap& heap, unsigned size_class, void* block) noexcept;

// Gives every cached block back to its slab and sends the rings.
void flush_caches(Heap& heap) noexcept;

// Looks at the clock: maintenance that is due, rings to send, the mode to be in.
void tick(Heap& heap) noexcept;

// Blocks in the magazines and depots of a class; exact for the owner, approximate for anybody else.
[[nodiscard]] unsigned cached_blocks(const Heap& heap, unsigned size_class) noexcept;

}  // namespace glebe::heap
