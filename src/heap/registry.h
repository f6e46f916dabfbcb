// All heaps: which exist, which belongs to this thread, which wait for a new thread (namespace glebe::heap).
//
// Heap objects are created from metadata memory and reused, never unmapped. The registry's lock guards the
// lists of unused and orphaned heaps and the ids of first-class heaps; the list of all heaps only grows and
// is read without it.
#pragma once

#include "src/heap/heap.h"

namespace glebe::heap {

// This thread's heap, made or adopted if it has none yet. nullptr when there is no memory for one, or when
// the thread is past its exit hook: then shared_heap() serves.
[[nodiscard]] Heap* own_heap() noexcept;

// The heap of threads that have none of their own, used under its lock; nullptr without memory.
[[nodiscard]] Heap* shared_heap() noexcept;

[[nodiscard]] Heap* new_first_class_heap() noexcept;
void retire_first_class_heap(Heap& heap) noexcept;                // nothing of it is live any more
[[nodiscard]] Heap* first_class_heap(std::uint16_t id) noexcept;  // nullptr when there is none of that id

// The latest of all heaps; the others follow by next_heap.
[[nodiscard]] Heap* first_heap() noexcept;

// In a forked child (fork.h): every heap but this thread's own becomes an orphan, or frozen.
void registry_in_child() noexcept;

// Takes a heap's lock unless this thread holds it already (a signal handler interrupted a slow path): then
// false, and the caller does without the heap.
[[nodiscard]] inline bool lock_heap(Heap& heap) noexcept {
  if (heap.lock.try_lock()) return true;
  if (heap.lock.held_by_me()) return false;
  heap.lock.lock();
  return true;
}

}  // namespace glebe::heap
