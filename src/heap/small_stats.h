// What the small heap holds, counted when asked (namespace glebe::heap).
//
// The fast path counts nothing: blocks in use are what was carved out of slabs less what lies in magazines,
// depots, rings and inboxes. Takes each heap's lock in turn, never two at once. Exact when no other thread
// runs; otherwise each number is as of a slightly different moment. Never allocates.
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/heap/heap.h"
#include "src/heap/size_class.h"

namespace glebe::heap {

struct ClassStats {
  std::size_t slabs;
  std::size_t live_blocks;    // handed out to the program
  std::size_t cached_blocks;  // free, in magazines, depots, rings and inboxes
  std::size_t free_blocks;    // free, in the bitmaps of slabs
};

struct SmallStats {
  std::size_t live_blocks, live_bytes;  // bytes are those of whole blocks: the class size
  std::size_t cached_blocks, cached_bytes;
  std::size_t free_blocks, free_bytes;
  std::size_t slab_bytes;  // granules of all slabs
  std::size_t heaps;       // of threads that are alive, first-class or shared
  std::size_t orphans;     // of threads that have ended, waiting to be adopted
  std::size_t first_class_heaps;
  ClassStats classes[kClassCount];
};
void small_stats(SmallStats& stats) noexcept;

// One heap object that is in use (every state but HeapState::unused).
struct HeapStats {
  HeapState state;
  std::uint16_t id;  // of a first-class heap, otherwise 0
  std::size_t slabs;
  std::size_t blocks_carved;    // taken out of bitmaps since the heap was made
  std::size_t blocks_returned;  // put back into them
};
// Calls visit for every heap in the order of creation. The visitor does not allocate.
void walk_heaps(void (*visit)(void* context, const HeapStats& heap), void* context) noexcept;

}  // namespace glebe::heap
