// glebe: the C interface, and the only promise about binary compatibility. C99 and later, and C++.
//
// Every function may be called from any thread at any time, unless its comment says otherwise. Sizes are
// bytes. Blocks belong to the caller until they are freed; any thread may free a block, whichever thread or
// heap it came from. Where the comment names errno values, errno is unchanged on success. What a misuse does
// (a double free, a pointer that is not ours) is set by the option on_misuse; docs/options.md lists the
// options and docs/stats.md the numbers.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define GLEBE_API
#else
#define GLEBE_API __attribute__((visibility("default")))
#endif

#if defined(__cplusplus)
extern "C" {
#endif

// "major.minor.patch" of the library that runs. Static storage.
GLEBE_API const char* glebe_version(void);

// --- Blocks ---

// A block of at least size bytes, aligned to 16; size 0 is served as 1. NULL and errno ENOMEM when the system
// has no memory or size is above PTRDIFF_MAX. The contents are undefined. Freed by glebe_free.
GLEBE_API void* glebe_malloc(size_t size);

// Like glebe_malloc(count * size) with every byte zero; the product is checked (ENOMEM). Fresh pages are not
// touched.
GLEBE_API void* glebe_calloc(size_t count, size_t size);

// Changes the size of a block, in place where possible, and keeps the contents up to the smaller size. block
// NULL is glebe_malloc(size); size 0 frees the block and returns NULL. On failure NULL and ENOMEM: the block
// is unchanged. A block of a first-class heap stays in that heap.
GLEBE_API void* glebe_realloc(void* block, size_t size);

// A block aligned to `alignment` bytes. NULL and errno EINVAL when alignment is not a power of two, ENOMEM as
// above.
GLEBE_API void* glebe_aligned_alloc(size_t alignment, size_t size);

// Frees a block of any function here. NULL is allowed. errno is preserved.
GLEBE_API void glebe_free(void* block);

// Like glebe_free, for a caller that knows the size it asked for. A size that cannot be right is a misuse; it
// is found when the block takes the slow path.
GLEBE_API void glebe_free_sized(void* block, size_t size);

// Bytes that may be used in a live block, at least what was asked for; 0 for NULL and for memory that is not
// ours. For another pointer into our memory, a freed block too, the answer is unspecified.
GLEBE_API size_t glebe_usable_size(const void* block);

// The usable size that glebe_malloc(size) would give; 0 when size is above PTRDIFF_MAX.
GLEBE_API size_t glebe_good_size(size_t size);

// 1 when the address lies in memory that glebe manages, live or not; otherwise 0. Any pointer value is
// allowed.
GLEBE_API int glebe_owns(const void* address);

// Gives all free memory back to the system now, after emptying the calling thread's caches. Returns the bytes
// given back. Takes time in proportion to the heap; memory comes back by itself otherwise (option
// purge_delay_ms).
GLEBE_API size_t glebe_trim(void);

// --- First-class heaps ---

// A set of blocks that can be freed at once. Blocks are allocated from and freed to it by any thread.
typedef struct glebe_heap glebe_heap;

// A new, empty heap. NULL and errno ENOMEM when there is no memory for it. Ended by glebe_heap_free.
GLEBE_API glebe_heap* glebe_heap_new(void);

// Frees every block of the heap and the heap. No thread uses the heap or its blocks any more. NULL is
// allowed; another pointer that is not a live heap is a misuse.
GLEBE_API void glebe_heap_free(glebe_heap* heap);

// Like glebe_malloc, glebe_calloc and glebe_aligned_alloc, from the heap. A pointer that is not a live heap
// is a misuse; where that does not end the process: NULL and errno EINVAL.
GLEBE_API void* glebe_heap_malloc(glebe_heap* heap, size_t size);
GLEBE_API void* glebe_heap_calloc(glebe_heap* heap, size_t count, size_t size);
GLEBE_API void* glebe_heap_aligned_alloc(glebe_heap* heap, size_t alignment, size_t size);

// The first-class heap that a live block belongs to; NULL for blocks of the process heap and for memory that
// is not ours. For a pointer to anything else in our memory the answer is unspecified.
GLEBE_API glebe_heap* glebe_heap_of(const void* block);

// --- Inspection ---

// A block that a walk found.
typedef struct glebe_block {
  void* address;
  size_t size;  // usable bytes
} glebe_block;

// Calls visit(context, block) for every live block of every heap, after emptying the calling thread's caches.
// Free blocks in the caches of other threads are visited as well: exact when no other thread has used the
// heap. The visitor must not allocate or free.
GLEBE_API void glebe_heap_walk(void (*visit)(void* context, const glebe_block* block), void* context);

// 1 when all structures are consistent and all counters equal a recount, else 0. For tests: no other thread
// allocates or frees meanwhile.
GLEBE_API int glebe_heap_validate(void);

// --- Statistics ---

// A snapshot. All numbers are exact when no other thread runs. docs/stats.md explains each of them.
typedef struct glebe_stats {
  // Set by the caller to sizeof(glebe_stats): later versions add fields at the end.
  uint64_t struct_bytes;

  uint64_t live_bytes;   // blocks in use, at their usable size
  uint64_t live_blocks;

  uint64_t reserved_bytes;        // addresses
  uint64_t committed_bytes;       // addresses that may be accessed
  uint64_t committed_peak_bytes;
  uint64_t metadata_bytes;        // the part of committed_bytes that is not for blocks
  uint64_t dirty_bytes;           // free memory that still has pages
  uint64_t purged_bytes_total;    // pages given back since the start
  uint64_t huge_chunks;           // chunks for which huge pages were asked

  uint64_t resident_bytes;  // of the whole process, as the system counts
  uint64_t resident_peak_bytes;
  uint64_t virtual_bytes;
  uint64_t major_faults;
  uint64_t minor_faults;

  uint64_t heaps;              // in use
  uint64_t orphan_heaps;       // of threads that have ended
  uint64_t first_class_heaps;

  uint64_t small_live_bytes;  // blocks up to 32 KiB
  uint64_t small_live_blocks;
  uint64_t small_cached_bytes;
  uint64_t small_cached_blocks;
  uint64_t small_free_bytes;
  uint64_t small_free_blocks;
  uint64_t small_slab_bytes;

  uint64_t medium_live_bytes;  // blocks up to 32 MiB
  uint64_t medium_live_blocks;
  uint64_t medium_cached_bytes;
  uint64_t medium_cached_blocks;
  uint64_t medium_free_bytes;
  uint64_t medium_dirty_bytes;
  uint64_t medium_largest_free_bytes;
  uint64_t medium_range_bytes;
  uint64_t medium_allocations;
  uint64_t medium_frees;

  uint64_t large_live_bytes;  // blocks above
  uint64_t large_live_blocks;
  uint64_t large_idle_bytes;
  uint64_t large_allocations;
  uint64_t large_frees;
  uint64_t large_grown_in_place;
  uint64_t large_moved;

  uint64_t failed_allocations;  // calls that returned NULL for want of memory
  uint64_t misuse_reports;

  uint64_t reserve_calls;  // calls to the system
  uint64_t commit_calls;
  uint64_t decommit_calls;
  uint64_t purge_calls;
  uint64_t protect_calls;
  uint64_t move_calls;
  uint64_t advise_calls;
  // The paging tier; all 0 where it is off (docs/paging.md).
  uint64_t paging_mode;
  uint64_t paging_budget_bytes;
  uint64_t paging_used_bytes;
  uint64_t paging_staged_bytes;
  uint64_t paging_out_bytes;
  uint64_t paging_compressed_bytes;
  uint64_t paging_stored_bytes;
  uint64_t paging_file_bytes;
  uint64_t paging_page_outs;
  uint64_t paging_page_ins;
  uint64_t paging_file_page_ins;
  uint64_t paging_faults;
  uint64_t paging_zero_fills;
  uint64_t paging_second_chances;
  uint64_t paging_read_ahead_pages;
  uint64_t paging_dropped_pages;
  uint64_t paging_moved_pages;
  uint64_t paging_refused_pages;
  uint64_t paging_free_pages;
  uint64_t paging_stall_ns_total;
  uint64_t paging_throttles;
  uint64_t paging_throttle_ns_total;
  uint64_t paging_evictor_cpu_ns;
  uint64_t paging_forks;
  uint64_t paging_takeovers;
  uint64_t paging_store_errors;
  uint64_t paging_stall_p50_ns;
  uint64_t paging_stall_p99_ns;
  uint64_t paging_saved_peak_bytes;
  uint64_t paging_saved_average_bytes;
  uint64_t paging_mapped_bytes;
  uint64_t paging_maps;
  uint64_t paging_maps_refused;
  uint64_t paging_follows;
} glebe_stats;

// Fills the fields that fit in stats->struct_bytes and keeps that number. Returns 0, or -1 and errno EINVAL
// when struct_bytes is smaller than its own field.
GLEBE_API int glebe_stats_get(glebe_stats* stats);

// Writes the snapshot as JSON, with the names above, the size classes and the heaps. At most size bytes are
// written, the last one a zero; buffer may be NULL when size is 0. Returns the length of the whole text
// without the zero, so that a result >= size means that it was cut off.
GLEBE_API size_t glebe_stats_json(char* buffer, size_t size);

// Writes a readable report to standard error.
GLEBE_API void glebe_stats_print(void);

// --- Options ---

// The name of option number `index`, counted from 0; NULL behind the last. Static storage.
GLEBE_API const char* glebe_option_name(size_t index);

// Stores the value in force: a flag as 0 or 1, on_misuse as 0 abort, 1 warn, 2 ignore, times in milliseconds,
// sizes in bytes; a size that was given as a percentage as 2^63 plus the share in millionths. Returns 0, or
// -1 and errno EINVAL when there is no such option.
GLEBE_API int glebe_option_get(const char* name, uint64_t* value);

#if defined(__cplusplus)
}
#endif
