// What a pool is told when it is opened, and what it tells (namespace glebe::device). Values only.
#pragma once

#include <cstdint>

#include "src/base/bits.h"
#include "src/device/gpu.h"

namespace glebe::device {

struct PoolOptions {
  std::uint64_t chunk_bytes =
      0;                        // how much is taken at once; without an engine: what sizes are rounded up to
  std::uint64_t max_bytes = 0;  // of all chunks; the last one is shorter if the source can do that
  std::uint64_t address_bytes = 0;  // reserved, the most that set_max() allows; 0: twice max_bytes where
                                    // there are addresses
  std::uint64_t align_max_bytes = 2 * kMiB;  // largest alignment of a block with an address
  std::uint64_t headroom_bytes = 0;          // of the source's free memory that a chunk leaves to others
  Gpu* gpu = nullptr;                        // for free_after(); outlives the pool
  bool is_cleared = false;                   // a block is set to zero when it is freed
};

// One moment: the numbers belong together.
struct PoolStats {
  std::uint64_t requests = 0, hits = 0, misses = 0;  // hits + misses == requests; a hit took no chunk
  std::uint64_t failures = 0;                        // of the misses
  std::uint64_t allocated = 0, freed = 0;            // blocks; allocated - freed == live_blocks
  std::uint64_t live_blocks = 0, live_bytes = 0, peak_live_bytes = 0;
  std::uint64_t waiting_blocks = 0;  // of the live ones: for a stream
  std::uint64_t capacity_bytes = 0;  // what blocks can use of the chunks
  std::uint64_t largest_free_bytes = 0;
  std::uint64_t chunks = 0, chunk_bytes = 0, peak_chunk_bytes = 0;
  std::uint64_t chunks_taken = 0, chunks_given = 0;  // in all
};

struct TileRun {
  std::uint64_t address = 0;  // what free() wants
  cuda::MemoryHandle handle = 0;
  std::uint64_t offset_bytes = 0;  // in the handle
  std::uint64_t count = 0;
};

}  // namespace glebe::device
