// glebe: memory pools, the C interface. C99 and later, and C++. Linux. Link libglebe-gpu.a.
//
// A memory pool is one source of chunks and one engine that places blocks in them, and any source goes with
// any engine. A block that finds no room takes one chunk more, never beyond the cap and never for nothing.
// Chunks go back by trim, and only those without a block.
//
// Sizes are bytes (of the source glebe_source_numbers: numbers). Any thread may call any function at any
// time; close comes last. A failed call has changed and stored nothing, unless a comment says so. What
// device.h says of results, streams and fork holds; a pool over memory of the host or numbers needs no
// device.
#pragma once

#include <glebe/device.h>

#if defined(__cplusplus)
extern "C" {
#endif

typedef struct glebe_memory_pool glebe_memory_pool;

typedef enum glebe_source {
  glebe_source_host = 0,
  glebe_source_pinned = 1,  // of the host, registered with the driver: the device uses it by itself
  glebe_source_device = 2,
  glebe_source_tiles = 3,    // for sparse arrays: handles that are mapped nowhere; blocks are tiles of 64 KiB
  glebe_source_numbers = 4,  // 0, 1, 2, ... for what the caller keeps: no memory at all
  glebe_source_device_async = 5  // of the device, by a pool of the driver in the order of one stream
} glebe_source;
typedef enum glebe_engine {
  glebe_engine_heap = 0,   // blocks of any size
  glebe_engine_fixed = 1,  // of one size: nothing is lost between them
  glebe_engine_bins = 2,   // of doubling sizes, in front of a heap
  glebe_engine_ring = 3,   // temporary ones, which are freed soon, in any order
  glebe_engine_none = 4    // each block is a chunk, which comes and goes with it
} glebe_engine;

typedef struct glebe_memory_pool_options {
  size_t struct_bytes;  // sizeof(glebe_memory_pool_options)
  glebe_source source;
  glebe_engine engine;
  uint64_t max_bytes;        // of all chunks, not 0; the last one is shorter if the source can do that
  uint64_t chunk_bytes;      // that are taken at once; engine none: what sizes are rounded up to; 0: 2 MiB
  uint64_t address_bytes;    // reserved, the most that set_max allows; 0: twice max_bytes where there are any
  uint64_t align_max_bytes;  // largest alignment of a block with an address, a power of two; 0: 2 MiB
  uint64_t headroom_bytes;   // of the memory of the device, which a chunk leaves to others
  int32_t is_cleared;        // 1: a block is set to zero when it is freed; not for tiles and numbers
  uint32_t blocks_max;       // ring: in one chunk at a time; 0: 1024
  uint64_t block_bytes;      // fixed: their size, not 0
  uint64_t align_bytes;      // fixed and ring: of every block at least, a power of two; 0: fixed: the largest
                             // one that divides block_bytes, ring: 256
  uint64_t unit_bytes;  // heap and bins: what sizes are rounded up to, a power of two; 0: 256, of numbers 1
  uint32_t bin_count;   // bins: up to 16, of which the first one has unit_bytes; 0: 8
  uint64_t slab_bytes;  // bins: a power of two that divides chunk_bytes; 0: 64 KiB
  void* stream;  // device_async: chunks come and go in its order; NULL: the default stream. It outlives the
                 // pool
  uint64_t release_threshold_bytes;  // device_async: that the driver's pool keeps when chunks are given back
} glebe_memory_pool_options;

// `device` may be NULL for host and numbers, then free_after is unsupported. Also unsupported: device_async
// on a device without memory pools. Blocks of device_async lie at multiples of 512 at most. bad_argument,
// also for sizes that this source or engine cannot do; no_host_memory, out_of_addresses, unsupported, or as
// the driver answers.
GLEBE_API glebe_device_result glebe_memory_pool_open(glebe_device* device,
                                                     const glebe_memory_pool_options* options,
                                                     glebe_memory_pool** pool);
// Waits for what free_after holds, then gives all memory back, also that of blocks which were not freed. Any
// failure: it can be called again, and nothing else. NULL is allowed.
GLEBE_API glebe_device_result glebe_memory_pool_close(glebe_memory_pool* pool);

// A block at a multiple of `alignment`, a power of two; 0: as the engine likes. The address is that of the
// host, of the device, or a number; contents are undefined. over_budget: the cap; bad_argument: a size or
// alignment that this engine or source cannot do; out_of_memory and others: the source.
GLEBE_API glebe_device_result glebe_memory_pool_allocate(glebe_memory_pool* pool, uint64_t size,
                                                         uint64_t alignment, uint64_t* address);
// A block of the size of the engine. unsupported: it has not one size.
GLEBE_API glebe_device_result glebe_memory_pool_allocate_item(glebe_memory_pool* pool, uint64_t* address);
// Room for `count` objects of object_bytes each, both from 1, at a multiple of `alignment`, a power of two.
// unsupported: a source without addresses.
GLEBE_API glebe_device_result glebe_memory_pool_allocate_objects(glebe_memory_pool* pool, uint64_t count,
                                                                 uint64_t object_bytes, uint64_t alignment,
                                                                 uint64_t* address);
typedef struct glebe_tile_run {
  uint64_t address;  // what free wants
  uint64_t handle;   // CUmemGenericAllocationHandle, the pool's
  uint64_t offset;   // in the handle
  uint64_t count;
} glebe_tile_run;
// `count` tiles next to each other in one handle. unsupported: another source than tiles.
GLEBE_API glebe_device_result glebe_memory_pool_allocate_tiles(glebe_memory_pool* pool, uint64_t count,
                                                               glebe_tile_run* run);

// The block that starts there, which nothing uses any more. not_owned; double_free; with is_cleared also as
// the driver answers.
GLEBE_API glebe_device_result glebe_memory_pool_free(glebe_memory_pool* pool, uint64_t address);
// Frees `count` blocks, from 1, after the work that is in the stream now: all or none. unsupported: there is
// no device, is_cleared and the device would have to clear them, or the stream is being captured into a
// graph.
GLEBE_API glebe_device_result glebe_memory_pool_free_after(glebe_memory_pool* pool, void* stream,
                                                           const uint64_t* addresses, size_t count);
// Frees what the streams have passed. Allocating does so when it finds no room.
GLEBE_API glebe_device_result glebe_memory_pool_retire(glebe_memory_pool* pool);
// Waits until all that free_after holds now is freed.
GLEBE_API glebe_device_result glebe_memory_pool_synchronize(glebe_memory_pool* pool);

// Gives back chunks without blocks until at most `keep` bytes of them are left; returns the bytes.
GLEBE_API uint64_t glebe_memory_pool_trim(glebe_memory_pool* pool, uint64_t keep);
// The cap from now on. Below what there is: nothing is taken until chunks were given back. bad_argument:
// above address_bytes.
GLEBE_API glebe_device_result glebe_memory_pool_set_max(glebe_memory_pool* pool, uint64_t max_bytes);
// Bytes of the block that starts there; 0: none does.
GLEBE_API uint64_t glebe_memory_pool_usable_size(glebe_memory_pool* pool, uint64_t address);

// One moment: the numbers belong together.
typedef struct glebe_memory_pool_stats {
  uint64_t requests, hits, misses;  // hits + misses == requests; a hit took no chunk
  uint64_t failures;                // of the misses
  uint64_t allocated, freed;        // blocks; allocated - freed == live_blocks
  uint64_t live_blocks, live_bytes, peak_live_bytes;
  uint64_t waiting_blocks;  // of the live ones: for a stream
  uint64_t capacity_bytes;  // what blocks can use of the chunks
  uint64_t largest_free_bytes;
  uint64_t chunks, chunk_bytes, peak_chunk_bytes;
  uint64_t chunks_taken, chunks_given;  // in all
} glebe_memory_pool_stats;
GLEBE_API void glebe_memory_pool_get_stats(glebe_memory_pool* pool, glebe_memory_pool_stats* stats);

#if defined(__cplusplus)
}
#endif
