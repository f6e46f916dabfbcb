// Compaction of a device heap by the library's own copies (namespace glebe::device): passes of DeviceHeap
// with the copying done. What is free in pieces of a chunk and more needs none of this, the heap remaps it by
// itself; this is for what is free inside chunks that hold a few small blocks.
#pragma once

#include <cstdint>

#include "src/device/device_heap.h"

namespace glebe::device {

struct DefragmentOptions {
  std::uint64_t max_bytes = UINT64_MAX;  // to copy
  unsigned fill_max_percent = 25;        // see HeapPassOptions
  // Which blocks may move. The device does not use these while defragment() runs, and the program can change
  // the pointers to them. Called with the lock of the heap held. Must be set.
  bool (*may_move)(void* context, const HeapBlock& block) = nullptr;
  // Has moved, contents and all: `to` is a block, which may be used and freed at once; `from` is none, and
  // nobody is given what lies there until all of the pass were told. Called without a lock; may call the
  // heap, except for another pass. Must be set.
  void (*moved)(void* context, const HeapMove& move) = nullptr;
  void* context = nullptr;
  // Of the copies, which are waited for. It must not be captured, nor a stream that the default one joins
  // when this is the default stream.
  cuda::Stream stream = nullptr;
};

struct DefragmentResult {
  Outcome outcome;  // why it ended early; the figures are those of what was done
  std::uint64_t passes = 0, blocks_moved = 0, bytes_moved = 0;
  std::uint64_t chunks_emptied = 0;
  std::uint64_t largest_before_bytes = 0, largest_after_bytes = 0;  // see HeapPassResult
  std::uint64_t duration_us = 0;
};

// Moves blocks until nothing more can be emptied, or max_bytes are copied. A copy that fails leaves all
// blocks of its pass where they were; when the driver cannot tell either that the copies have ended, nobody
// is given what they write to until the heap is closed. bad_argument; unsupported: the stream is captured,
// nothing was done; in_use: one is under way, there is one at a time for each heap. Any thread; other threads
// may use the heap meanwhile.
DefragmentResult defragment(DeviceHeap& heap, const DefragmentOptions& options) noexcept;

}  // namespace glebe::device
