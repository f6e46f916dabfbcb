// The slow side of the thread cache: magazines run empty and full, depots, modes (namespace glebe::heap).
//
// Modes. A program that frees much memory and then goes on at a low rate must give that memory back without
// calling anything and without a thread of ours; yet the fast path has no clock. While free memory waits to
// be purged:
//   closed    malloc and free take the slow path, which reads the coarse clock and does what is due;
//   metered   many slow paths within one tick of the clock mean a busy thread: malloc takes from the bank
//   `metered`, whose
//             magazines run dry, so that the clock is looked at once per magazine;
//   open      nothing waits: the thread's pointer names `slots`, and the fast path serves everything.
// Everything here is called by the owner of the heap with in_slow_path set.
#pragma once

#include "src/heap/heap.h"

namespace glebe::heap {

// A block of the class from the magazine, the depot or the slabs; nullptr without memory. *is_zero is set
// when the block is known to read as zero.
[[nodiscard]] void* next_block(Heap& heap, unsigned size_class, bool* is_zero) noexcept;

// Puts a block into the magazine of its class, making room first.
void keep_block(Heap& heap, unsigned size_class, void* block) noexcept;

// Medium blocks of up to kSpanBytesMax. take_span returns one that is not much larger than asked for, or
// nullptr; keep_span takes a block that is being freed, or refuses it (false): then the medium heap gets it.
// A block that is kept already is reported as a double free.
inline constexpr std::size_t kSpanBytesMax = 256 * kKiB;
[[nodiscard]] void* take_span(Heap& heap, std::size_t size_bytes) noexcept;
[[nodiscard]] bool keep_span(Heap& heap, void* block) noexcept;

// Gives every cached block back to where it came from and sends the rings.
void flush_caches(Heap& heap) noexcept;

// Looks at the clock: maintenance that is due, rings to send, the mode to be in.
void tick(Heap& heap) noexcept;

// Blocks in the magazines and depots of a class; exact for the owner, approximate for anybody else.
[[nodiscard]] unsigned cached_blocks(const Heap& heap, unsigned size_class) noexcept;

// Whether free memory waits to be purged, so that slow paths should look at the clock.
[[nodiscard]] bool is_purge_pending() noexcept;

}  // namespace glebe::heap
