// glebe: memory of a GPU, the C interface. C99 and later, and C++. Linux. Link libglebe-gpu.a.
//
// A device is a GPU with the driver's virtual memory management (CUDA 12.0 or later; the driver is loaded at
// run time, nothing links it), or, on request, an emulated one over memory of the host for machines without.
// On a device there are three kinds of memory, which may be used side by side:
//   heap      blocks of any size at stable addresses; physical memory moves to where live bytes are
//   pool      the same in the order of streams: what a stream frees, it may use again at once
//   resident  more memory than the device has: chunks leave to the host and to page files, and leases bring
//             them back before work uses them
//
// Addresses are device addresses (CUdeviceptr) and streams are those of the driver (CUstream; NULL is the
// legacy default stream): what is made here can be used with the CUDA driver and runtime, whose primary
// context it lives in. Sizes are bytes. Any thread may call any function at any time, unless its comment says
// otherwise; close and free calls come last. Functions answer with a glebe_device_result; unless a comment
// says so, a failed call has changed nothing and stored nothing. errno is not used. A device does not work in
// a child of fork(2), as its driver does not.
#pragma once

#include <glebe/glebe.h>

#if defined(__cplusplus)
extern "C" {
#endif

typedef enum glebe_device_result {
  glebe_device_ok = 0,
  glebe_device_bad_argument = 1,   // a size, alignment, address, stream or option that makes no sense
  glebe_device_out_of_memory = 2,  // the device, or pinned memory of the host, has no room
  glebe_device_over_budget = 3,    // a limit of the caller's would be exceeded
  glebe_device_out_of_addresses = 4,
  glebe_device_no_host_memory = 5,  // tables of the library cannot grow
  glebe_device_not_owned = 6,       // no block starts there
  glebe_device_double_free = 7,
  glebe_device_in_use = 8,     // live, leased or pinned
  glebe_device_not_ready = 9,  // the work that it waits for is under way
  glebe_device_cancelled = 10,
  glebe_device_timed_out = 11,
  glebe_device_corrupt = 12,      // what was read from a page file is not what was written
  glebe_device_io_error = 13,     // a page file cannot be read or written
  glebe_device_lost = 14,         // the context is gone; until the process ends nothing works
  glebe_device_unsupported = 15,  // this device or driver cannot do it, or there is none
  glebe_device_failed = 16        // any other answer of the driver
} glebe_device_result;

// A few words: what it means. Static storage; never NULL.
GLEBE_API const char* glebe_device_result_text(glebe_device_result result);

// --- The device ---

typedef struct glebe_device glebe_device;

typedef enum glebe_device_kind {
  glebe_device_real = 0,     // the GPU with this ordinal
  glebe_device_emulated = 1  // host memory that behaves like one; work is done when it is queued
} glebe_device_kind;

typedef struct glebe_device_options {
  size_t struct_bytes;  // sizeof(glebe_device_options)
  glebe_device_kind kind;
  int32_t ordinal;               // of a real one
  uint64_t emulated_bytes;       // of an emulated one: memory of the device, a multiple of 2 MiB
  uint64_t emulated_host_bytes;  // and pinned memory of the host
} glebe_device_options;

// Opens a device. options NULL: the first real one. On failure `message` (may be NULL) gets one sentence on
// what was found and what to do. unsupported: there is no usable GPU or driver.
GLEBE_API glebe_device_result glebe_device_open(const glebe_device_options* options, glebe_device** device,
                                                char* message, size_t message_bytes);
// Everything made on it was freed or closed before. NULL is allowed.
GLEBE_API void glebe_device_close(glebe_device* device);

typedef struct glebe_device_info {
  char name[64];
  int32_t driver_version;  // 1000 * major + 10 * minor
  int32_t is_emulated;
  uint64_t total_bytes, free_bytes;
  uint64_t granule_bytes;  // physical memory comes in multiples of this
} glebe_device_info;
GLEBE_API glebe_device_result glebe_device_get_info(glebe_device* device, glebe_device_info* info);

// Copies to and from memory of the device and waits for the copy, not for streams. For programs without the
// toolkit, and for the emulated device.
GLEBE_API glebe_device_result glebe_device_write(glebe_device* device, uint64_t to, const void* from,
                                                 size_t size);
GLEBE_API glebe_device_result glebe_device_read(glebe_device* device, void* to, uint64_t from, size_t size);

// Streams that do not wait for the default stream, for the same programs.
GLEBE_API glebe_device_result glebe_device_stream_open(glebe_device* device, void** stream);
GLEBE_API glebe_device_result glebe_device_stream_synchronize(glebe_device* device, void* stream);
GLEBE_API glebe_device_result glebe_device_stream_close(glebe_device* device, void* stream);
// Queues a copy or a fill in a stream. Memory of the host must stay as it is until the stream has done it.
GLEBE_API glebe_device_result glebe_device_queue_write(glebe_device* device, uint64_t to, const void* from,
                                                       size_t size, void* stream);
GLEBE_API glebe_device_result glebe_device_queue_read(glebe_device* device, void* to, uint64_t from,
                                                      size_t size, void* stream);
GLEBE_API glebe_device_result glebe_device_queue_fill(glebe_device* device, uint64_t to, uint8_t value,
                                                      size_t size, void* stream);

// --- Heap ---

typedef struct glebe_device_heap glebe_device_heap;

// A live block, as walk and the leak list show it.
typedef struct glebe_device_block {
  uint64_t address;
  uint64_t size;       // bytes that may be used
  uint64_t requested;  // bytes that were asked for
  uint32_t tag;
  uint32_t pins;
} glebe_device_block;

typedef struct glebe_device_heap_options {
  size_t struct_bytes;      // sizeof(glebe_device_heap_options)
  uint64_t limit_bytes;     // of physical memory; 0: none
  uint64_t headroom_bytes;  // of the device, which stays free for others
  uint64_t reserve_bytes;   // of addresses; 0: four times the memory of the device, at most 512 GiB
  uint64_t chunk_bytes;     // physical memory for blocks; 0: 2 MiB
  uint64_t coarse_bytes;    // physical memory for large blocks, and the largest alignment; 0: 32 MiB
  // Asked with no lock held when there is no room: frees blocks of this heap, at least so many bytes if it
  // can. Returns 0 when there is nothing to free. May be NULL.
  int (*reclaim)(void* context, uint64_t needed_bytes);
  void* context;  // of all three functions
  // One line for each request and free, `length` bytes without an end:
  // Thread,Time,Action,Pointer,Size,Stream, as RMM writes and replays it. Called with the lock of the heap
  // held, so that the order is true: must not call the heap. May be NULL.
  void (*trace)(void* context, const char* line, size_t length);
  // Each block that is still there when the heap is closed. May be NULL.
  void (*leak)(void* context, const glebe_device_block* block);
} glebe_device_heap_options;

// options NULL: the defaults.
GLEBE_API glebe_device_result glebe_device_heap_open(glebe_device* device,
                                                     const glebe_device_heap_options* options,
                                                     glebe_device_heap** heap);
// Frees every block that is left; returns how many there were. The device uses none of them any more.
GLEBE_API uint64_t glebe_device_heap_close(glebe_device_heap* heap);
// A block of at least `size` bytes at a multiple of `alignment`, a power of two; 0 stands for 256. Contents
// are undefined. bad_argument: size 0, or an alignment that is no power of two or above coarse_bytes of the
// heap (32 MiB unless told), since its addresses begin at a multiple of that.
GLEBE_API glebe_device_result glebe_device_heap_allocate(glebe_device_heap* heap, uint64_t size,
                                                         uint64_t alignment, uint64_t* address);
// The same for a tag of this heap. bad_argument also: no such tag.
GLEBE_API glebe_device_result glebe_device_heap_allocate_tagged(glebe_device_heap* heap, uint64_t size,
                                                                uint64_t alignment, uint32_t tag,
                                                                uint64_t* address);
// The device does not use the block any more. in_use: it is pinned, or is being moved.
GLEBE_API glebe_device_result glebe_device_heap_free(glebe_device_heap* heap, uint64_t address);
// Changes the size of a block where it is; contents stay. out_of_addresses: what lies behind is taken.
GLEBE_API glebe_device_result glebe_device_heap_resize(glebe_device_heap* heap, uint64_t address,
                                                       uint64_t size);
// Bytes that may be used; 0: no block starts there.
GLEBE_API uint64_t glebe_device_heap_usable_size(glebe_device_heap* heap, uint64_t address);
// Gives idle physical memory back until at most `keep` bytes idle; returns the bytes given back.
GLEBE_API uint64_t glebe_device_heap_trim(glebe_device_heap* heap, uint64_t keep);
// in_use: live blocks need more than that; the limit holds for what comes.
GLEBE_API glebe_device_result glebe_device_heap_set_limit(glebe_device_heap* heap, uint64_t limit);

typedef struct glebe_device_heap_stats {
  uint64_t live_bytes, peak_live_bytes, requested_bytes, live_blocks;
  uint64_t allocations, frees, failures;
  uint64_t hits, misses;  // found their memory mapped; had some mapped
  uint64_t free_bytes, largest_free_bytes, idle_bytes;
  uint64_t physical_bytes, mapped_bytes, peak_mapped_bytes;  // of the device
  uint64_t created_chunks;  // physical memory that was created, in all: the driver's slowest call
  uint64_t misuses;         // frees of what is no block
  // In thousandths: 1 - largest free / free, of the memory that is mapped for blocks; 1 - requested / live.
  uint32_t external_fragmentation, internal_fragmentation;
} glebe_device_heap_stats;
GLEBE_API void glebe_device_heap_get_stats(glebe_device_heap* heap, glebe_device_heap_stats* stats);
// The peaks begin again at what is live now.
GLEBE_API void glebe_device_heap_reset_peaks(glebe_device_heap* heap);
// Creates physical memory until `size` bytes idle. Keeps what it made when it fails; over_budget,
// out_of_memory and as the driver answers.
GLEBE_API glebe_device_result glebe_device_heap_prewarm(glebe_device_heap* heap, uint64_t size);

// Who blocks belong to: the tag of that name, made when it is new; 1 to 31 bytes, copied. Tag 0 is "other"
// and always there. bad_argument: no name, too long, or the 65th tag of the heap.
GLEBE_API glebe_device_result glebe_device_heap_tag(glebe_device_heap* heap, const char* name, uint32_t* tag);
typedef struct glebe_device_tag_stats {
  char name[32];
  uint64_t live_bytes, peak_bytes, live_blocks;
} glebe_device_tag_stats;
// bad_argument: no such tag.
GLEBE_API glebe_device_result glebe_device_heap_get_tag_stats(glebe_device_heap* heap, uint32_t tag,
                                                              glebe_device_tag_stats* stats);
// Shows every live block in the order of addresses, until `visit` returns 0. It is called with the lock of
// the heap held and must not call the heap.
GLEBE_API glebe_device_result glebe_device_heap_walk(
    glebe_device_heap* heap, int (*visit)(void* context, const glebe_device_block* block), void* context);

// The physical memory behind a block stays what it is, and it is neither freed nor moved, until it is
// unpinned as often: for memory that somebody else has registered. not_owned, double_free: no block starts
// there. bad_argument (unpin): it is not pinned.
GLEBE_API glebe_device_result glebe_device_heap_pin(glebe_device_heap* heap, uint64_t address);
GLEBE_API glebe_device_result glebe_device_heap_unpin(glebe_device_heap* heap, uint64_t address);

// Gives a block of whole chunks (address and size are multiples of the chunk) a lower address without a copy:
// its memory is mapped there as well. The block is at *new_address from now on; the old address leads to the
// same memory until finish_relocation, when the device uses it no more. bad_argument: not of whole chunks.
// out_of_addresses: no room lower down. in_use: pinned, or being moved. not_owned, double_free; else as
// allocate.
GLEBE_API glebe_device_result glebe_device_heap_relocate(glebe_device_heap* heap, uint64_t address,
                                                         uint64_t* new_address);
// not_owned: no block was relocated from there, or another call is finishing it. failed, lost: the old
// address is still mapped.
GLEBE_API glebe_device_result glebe_device_heap_finish_relocation(glebe_device_heap* heap,
                                                                  uint64_t old_address);

// Compaction: moves blocks out of chunks that hold little, so that these are free for any use. It copies;
// what is free in whole chunks needs none of it.
typedef struct glebe_device_move {
  uint64_t from, to;
  uint64_t size;  // bytes that were copied
  uint32_t tag;
} glebe_device_move;
typedef struct glebe_device_defragment_options {
  size_t struct_bytes;        // sizeof(glebe_device_defragment_options)
  uint64_t max_bytes;         // to copy; 0: no limit
  uint32_t fill_max_percent;  // chunks that hold more than this, 1 to 100, stay as they are; 0: 25
  // Not 0: this block may move. The device does not use it while defragment runs, and the program can change
  // its pointers to it. Called with the lock of the heap held: must not call the heap. Not NULL.
  int (*may_move)(void* context, const glebe_device_block* block);
  // It has moved, contents and all; `from` is no block any more. Called without a lock: may call the heap,
  // but not for another pass. Not NULL.
  void (*moved)(void* context, const glebe_device_move* move);
  void* context;
  void* stream;  // of the copies, which are waited for
} glebe_device_defragment_options;
typedef struct glebe_device_defragment_result {
  uint64_t passes, blocks_moved, bytes_moved;
  uint64_t chunks_emptied;  // still mapped, and free for any use
  // The largest request that needs no new memory of the device.
  uint64_t largest_before_bytes, largest_after_bytes;
  uint64_t duration_us;
} glebe_device_defragment_result;
// Moves blocks until nothing more can be emptied, or max_bytes are copied. One at a time for each heap:
// in_use. unsupported: the stream is being captured, or is the default one and joins such a stream; nothing
// was done. A copy that fails leaves the blocks of its pass where they were; *result (may be NULL) has the
// figures of what was done, after a failure too. Other threads may use the heap meanwhile.
GLEBE_API glebe_device_result glebe_device_heap_defragment(glebe_device_heap* heap,
                                                           const glebe_device_defragment_options* options,
                                                           glebe_device_defragment_result* result);

// --- Pool: memory in the order of streams, on a heap ---

typedef struct glebe_device_pool glebe_device_pool;

// The heap outlives the pool.
GLEBE_API glebe_device_result glebe_device_pool_open(glebe_device_heap* heap, glebe_device_pool** pool);
// Waits for the device and gives everything back. Any failure: the pool is still open.
GLEBE_API glebe_device_result glebe_device_pool_close(glebe_device_pool* pool);
// For work that is queued in the stream from now on.
GLEBE_API glebe_device_result glebe_device_pool_allocate(glebe_device_pool* pool, uint64_t size, void* stream,
                                                         uint64_t* address);
// Once the device has done what is queued in the stream now, and in those that record_use named.
GLEBE_API glebe_device_result glebe_device_pool_free(glebe_device_pool* pool, uint64_t address, void* stream);
GLEBE_API glebe_device_result glebe_device_pool_record_use(glebe_device_pool* pool, uint64_t address,
                                                           void* stream);
// Before a stream is destroyed. bad_argument: no such stream is known.
GLEBE_API glebe_device_result glebe_device_pool_forget_stream(glebe_device_pool* pool, void* stream);
// Gives idle blocks that the device is done with back to the heap, and the heap's idle memory to the device.
GLEBE_API uint64_t glebe_device_pool_trim(glebe_device_pool* pool, uint64_t keep);

typedef struct glebe_device_pool_stats {
  uint64_t requests, failures, frees;
  uint64_t same_stream, other_streams, from_heap;  // where the blocks of successful requests came from
  uint64_t live_blocks, live_bytes, idle_blocks, idle_bytes, peak_held_bytes;
} glebe_device_pool_stats;
GLEBE_API void glebe_device_pool_get_stats(glebe_device_pool* pool, glebe_device_pool_stats* stats);

// --- Resident memory: more than the device holds ---

typedef struct glebe_device_resident glebe_device_resident;

typedef struct glebe_device_resident_options {
  size_t struct_bytes;     // sizeof(glebe_device_resident_options)
  uint64_t address_bytes;  // that can be allocated; a multiple of the chunk
  uint64_t budget_bytes;   // on the device at most
  uint64_t host_bytes;     // pinned memory of the host for what left, at least a chunk
  uint64_t chunk_bytes;    // what moves at once; 0: 32 MiB
  const char* directory;   // of page files, for what does not fit there either; NULL: none
} glebe_device_resident_options;

GLEBE_API glebe_device_result glebe_device_resident_open(glebe_device* device,
                                                         const glebe_device_resident_options* options,
                                                         glebe_device_resident** resident);
// Waits for the last uses and gives everything back.
GLEBE_API void glebe_device_resident_close(glebe_device_resident* resident);
// Whole chunks with a stable address. Contents are undefined until they are written. `tag` is any number but
// UINT32_MAX, for sleep and wake.
GLEBE_API glebe_device_result glebe_device_resident_allocate(glebe_device_resident* resident, uint64_t size,
                                                             uint32_t tag, uint64_t* address);
GLEBE_API glebe_device_result glebe_device_resident_free(glebe_device_resident* resident, uint64_t address);

typedef enum glebe_device_access {
  glebe_device_access_read = 0,
  glebe_device_access_write = 1,   // read and write
  glebe_device_access_discard = 2  // everything is overwritten before it is read
} glebe_device_access;
typedef struct glebe_device_use {
  uint64_t address;
  uint64_t size;  // 0: to the end of the allocation
  glebe_device_access access;
} glebe_device_use;
typedef struct glebe_device_lease {
  uint32_t number, generation;
} glebe_device_lease;

// Brings all of up to 1024 uses to the device or nothing, keeps it there until release, and makes the stream
// wait for the copies. over_budget: `message` (may be NULL) says what is needed and who holds what.
// unsupported: the stream is being captured into a graph; the same from release, which leaves the lease held.
GLEBE_API glebe_device_result glebe_device_acquire(glebe_device_resident* resident,
                                                   const glebe_device_use* uses, size_t count, void* stream,
                                                   glebe_device_lease* lease, char* message,
                                                   size_t message_bytes);
// After the work was queued in the stream of the lease.
GLEBE_API glebe_device_result glebe_device_release(glebe_device_resident* resident, glebe_device_lease lease);
// The same copies now, without a lease.
GLEBE_API glebe_device_result glebe_device_prefetch(glebe_device_resident* resident,
                                                    const glebe_device_use* uses, size_t count, void* stream);
GLEBE_API glebe_device_result glebe_device_resident_set_budget(glebe_device_resident* resident,
                                                               uint64_t budget);
// Everything with this tag (UINT32_MAX: all) leaves the device: level 1 keeps the contents, 2 gives them up.
GLEBE_API glebe_device_result glebe_device_sleep(glebe_device_resident* resident, uint32_t tag,
                                                 unsigned level);
GLEBE_API glebe_device_result glebe_device_wake(glebe_device_resident* resident, uint32_t tag);

typedef struct glebe_device_resident_stats {
  uint64_t chunk_bytes, budget_bytes, resident_bytes, peak_resident_bytes;
  uint64_t host_bytes, disk_bytes;  // of chunks whose contents are only there
  uint64_t clean_evictions, dirty_evictions, host_fetches, disk_fetches;
  uint64_t created_chunks;
} glebe_device_resident_stats;
GLEBE_API void glebe_device_resident_get_stats(glebe_device_resident* resident,
                                               glebe_device_resident_stats* stats);

#if defined(__cplusplus)
}
#endif
