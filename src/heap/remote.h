// Remote frees: blocks that go back to another thread's heap (namespace glebe::heap).
//
// A thread gathers such blocks in rings, one per destination heap, without touching the blocks. A ring that
// is full, or old, is handed over in one step: put into the bitmaps directly when the destination's lock is
// free, else pushed on its inbox. Whoever holds the lock of a heap may drain its inbox, so nothing is
// stranded when the owner sleeps.
#pragma once

#include "src/heap/heap.h"

namespace glebe::heap {

// Frees a block of `destination`, a heap of another thread or an orphan. `size_bytes` is its class size.
// `own` is this thread's heap.
void free_remote(Heap& own, Heap& destination, void* block, std::uint32_t size_bytes) noexcept;

// Hands every ring of this thread over.
void send_all_rings(Heap& own) noexcept;

// Puts the blocks of the inbox back. Caller holds the heap's lock.
void drain_inbox(Heap& heap) noexcept;

// Frees one block into a heap at once, under its lock.
void free_into(Heap& destination, void* block) noexcept;

// In a forked child (fork.h).
void rings_in_child() noexcept;

}  // namespace glebe::heap
