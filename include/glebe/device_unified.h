// glebe: unified buffers of a GPU, the C interface. C99 and later, and C++. Linux. Link libglebe-gpu.a.
//
// A unified buffer is bytes of which the host, the device or both have a copy. It is used through guards: one
// is opened for a range and a use, and brings the copy of that side up to date; only what differs is moved,
// and nothing twice. Any number of readers may have guards at the same time, or one writer; who does not fit
// waits. A fresh buffer is all zeros and has no memory at all.
//
// Work on the device is ordered by events and not by waiting: a guard of the device names a stream, copies to
// the device are queued there, and what is under way in other streams comes first. A guard of the host waits
// until its bytes are there.
//
// Sizes and offsets are bytes, times nanoseconds. Any thread may call any function at any time, unless its
// comment says otherwise; close calls come last. A failed call has left contents, state and accounts as they
// were and stored nothing, unless a comment says so. What device.h says of results, streams and fork holds.
#pragma once

#include <glebe/device.h>

#if defined(__cplusplus)
extern "C" {
#endif

// What all buffers of a device share.
typedef struct glebe_unified glebe_unified;
typedef uint64_t
    glebe_unified_buffer;  // of one glebe_unified; 0 names none; that of a closed one is found out

typedef struct glebe_unified_options {
  size_t struct_bytes;        // sizeof(glebe_unified_options)
  glebe_device_heap* heap;    // where memory of the device comes from, outlives it; NULL: from the driver
  uint64_t host_limit_bytes;  // of memory of the host, for all buffers; 0: none
  uint64_t wait_ns;           // for guards of others, then timed_out; 0: for ever
  int32_t refuses_to_wait;    // 1: in_use at once where one would wait for guards of others
  uint32_t buffers_max;       // that exist at the same time; 0: 65536
  uint64_t piece_bytes;       // of one copy: a move can be cancelled between two, at least 64 KiB; 0: 16 MiB
} glebe_unified_options;

// options NULL: the defaults. bad_argument, no_host_memory, out_of_memory (streams).
GLEBE_API glebe_device_result glebe_unified_open(glebe_device* device, const glebe_unified_options* options,
                                                 glebe_unified** unified);
// in_use: there are buffers, or shares; it is still open. NULL is allowed.
GLEBE_API glebe_device_result glebe_unified_close(glebe_unified* unified);

// --- Buffers ---

typedef enum glebe_unified_side { glebe_unified_host = 0, glebe_unified_device = 1 } glebe_unified_side;

// A new buffer of 1 to 2^46 bytes. is_pinned 1: its memory on the host is the driver's pinned one, 0:
// ordinary pages. over_budget: buffers_max.
GLEBE_API glebe_device_result glebe_unified_create(glebe_unified* unified, uint64_t size, int is_pinned,
                                                   glebe_unified_buffer* buffer);
// Memory of the caller's becomes a buffer: `host`, an address on the device, or both, with valid and then
// equal contents. It is never freed here and outlives the buffer. bad_argument also when both are 0.
GLEBE_API glebe_device_result glebe_unified_adopt(glebe_unified* unified, uint64_t size, void* host,
                                                  uint64_t address, glebe_unified_buffer* buffer);
// One more owner. not_owned: closed already, here and below.
GLEBE_API glebe_device_result glebe_unified_retain(glebe_unified* unified, glebe_unified_buffer buffer);
// One owner less; the last one closes the buffer, after transfers, and after guards of other threads as
// wait_ns says. in_use: this thread has a guard. After a failure the buffer is there as before.
GLEBE_API glebe_device_result glebe_unified_release(glebe_unified* unified, glebe_unified_buffer buffer);
// The same for an owner who cannot come back: while there are guards, the last of them closes it, and where
// another thread changes it and must not be waited for, that one does. Who retains it before that takes the
// place of who left.
GLEBE_API void glebe_unified_abandon(glebe_unified* unified, glebe_unified_buffer buffer);

// A part of a buffer: a value, copied as one likes. size 0: from offset to the end as it is at the call.
typedef struct glebe_unified_range {
  glebe_unified_buffer buffer;
  uint64_t offset;
  uint64_t size;
} glebe_unified_range;
// A part of a part: *part = `size` bytes from `offset` on in *whole. bad_argument: empty, or not inside.
// *part may be *whole. Whether they lie in the buffer is found out when they are used.
GLEBE_API glebe_device_result glebe_unified_slice(const glebe_unified_range* whole, uint64_t offset,
                                                  uint64_t size, glebe_unified_range* part);

// --- Guards ---

typedef enum glebe_unified_use {
  glebe_unified_host_read = 0,
  glebe_unified_host_write = 1,      // some of the bytes
  glebe_unified_host_overwrite = 2,  // every byte of the range: what is there need not be copied
  glebe_unified_device_read = 3,
  glebe_unified_device_write = 4,
  glebe_unified_device_overwrite = 5
} glebe_unified_use;

// All zeros before its first use. Stays where it is while it is open, and is opened and ended by one thread
// at a time; it may be opened again.
typedef struct glebe_unified_guard {
  void* data;        // of a use of the host: the first byte of the range; otherwise NULL
  uint64_t address;  // of a use of the device: the same for work in the stream of the guard; otherwise 0
  uint64_t size;
  uint64_t opaque[16];
} glebe_unified_guard;

// Gives a call up that waits or moves bytes. All zeros before; written by glebe_cancel_flag_set
// alone.
typedef struct glebe_cancel_flag {
  uint32_t opaque;
} glebe_cancel_flag;
GLEBE_API void glebe_cancel_flag_set(glebe_cancel_flag* flag, int is_cancelled);  // 0: no more

// Opens a guard. `stream` is looked at for uses of the device. cancel may be NULL. bad_argument: outside of
// the buffer, or empty. in_use: this guard is open, or this thread has a guard that it would wait for.
// unsupported: the stream is being captured into a graph; a guard that ends during that stands for all work
// that the device has until then.
// timed_out, cancelled; out_of_memory, over_budget, no_host_memory, lost, failed.
GLEBE_API glebe_device_result glebe_unified_access(glebe_unified* unified, const glebe_unified_range* range,
                                                   glebe_unified_use use, void* stream,
                                                   const glebe_cancel_flag* cancel,
                                                   glebe_unified_guard* guard);
// Ends it: on the device work that is queued in the stream so far belongs to it, and none after that. Never
// fails: what cannot be ordered by an event is waited for. NULL and one that is not open are allowed.
GLEBE_API void glebe_unified_end(glebe_unified_guard* guard);

// --- Contents and memory ---

// Starts to bring the copy of a side up to date and does not wait, except for memory of the host that is not
// pinned. `stream` is looked at for the device.
GLEBE_API glebe_device_result glebe_unified_prefetch(glebe_unified* unified, const glebe_unified_range* range,
                                                     glebe_unified_side side, void* stream);
// Gives the memory of a side up; the contents stay on the other one. Waits until the memory is idle. cancel
// may be NULL.
GLEBE_API glebe_device_result glebe_unified_evict(glebe_unified* unified, glebe_unified_buffer buffer,
                                                  glebe_unified_side side, const glebe_cancel_flag* cancel);
// Gives contents and memory of both sides up: all zeros, as a fresh buffer.
GLEBE_API glebe_device_result glebe_unified_discard(glebe_unified* unified, glebe_unified_buffer buffer);
// Keeps the first min(old, new) bytes; more bytes are zero. Addresses change.
GLEBE_API glebe_device_result glebe_unified_resize(glebe_unified* unified, glebe_unified_buffer buffer,
                                                   uint64_t size);
// Copies of a pattern of 1, 2, 4, 8 or 16 bytes, of which the range is a multiple. If the driver fails in the
// middle of a fill on the device with a pattern of 2, 8 or 16 bytes, a part of the range has it.
GLEBE_API glebe_device_result glebe_unified_fill(glebe_unified* unified, const glebe_unified_range* range,
                                                 const void* pattern, size_t pattern_bytes,
                                                 glebe_unified_side side, void* stream);
// Ranges of the same size, which may overlap. After a failure `from` may have memory on that side which it
// had not.
GLEBE_API glebe_device_result glebe_unified_copy(glebe_unified* unified, const glebe_unified_range* to,
                                                 const glebe_unified_range* from, glebe_unified_side side,
                                                 void* stream);
// Gives memory of the caller's to a buffer that has none on the device; it is never freed here.
GLEBE_API glebe_device_result glebe_unified_attach(glebe_unified* unified, glebe_unified_buffer buffer,
                                                   uint64_t address);
// Takes the memory of the device away from the buffer, idle and with the newest contents, which stay on the
// host too. It is the caller's now: to be freed by the heap, or as cuMemFree does, unless it was attached.
GLEBE_API glebe_device_result glebe_unified_detach(glebe_unified* unified, glebe_unified_buffer buffer,
                                                   uint64_t* address);
// Memory of a side was written from outside: all of its contents are the newest. bad_argument: the buffer has
// no memory there.
GLEBE_API glebe_device_result glebe_unified_mark_written(glebe_unified* unified, glebe_unified_buffer buffer,
                                                         glebe_unified_side side);
// Waits until nothing is under way that touches the buffer.
GLEBE_API glebe_device_result glebe_unified_wait_idle(glebe_unified* unified, glebe_unified_buffer buffer);

typedef enum glebe_unified_state {
  glebe_unified_host_only = 0,  // there is no memory on the device
  glebe_unified_device_only = 1,
  glebe_unified_synchronized = 2,  // both have a copy, and they are equal
  glebe_unified_host_dirty = 3,    // both have memory; what differs was written by the host
  glebe_unified_device_dirty = 4
} glebe_unified_state;
// "host_only" and so on. Static storage; never NULL.
GLEBE_API const char* glebe_unified_state_text(glebe_unified_state state);

// Bytes and copies are those that were queued.
typedef struct glebe_unified_info {
  glebe_unified_state state;
  uint32_t readers, writers;                // guards
  uint32_t pending;                         // events not known to have passed
  uint64_t size, host_bytes, device_bytes;  // of its contents; of memory
  uint64_t dirty_bytes;                     // that differ
  uint64_t align_bytes;                     // memory on both sides starts at a multiple of this, at most 256
  uint64_t to_device_bytes, to_device_copies, to_host_bytes, to_host_copies;
  uint64_t host_allocations, device_allocations;
} glebe_unified_info;
// Waits for a move that is under way.
GLEBE_API glebe_device_result glebe_unified_get_info(glebe_unified* unified, glebe_unified_buffer buffer,
                                                     glebe_unified_info* info);
typedef struct glebe_unified_stats {
  uint64_t buffers;                   // that exist
  uint64_t host_bytes, device_bytes;  // memory of all, without what was adopted
} glebe_unified_stats;
GLEBE_API void glebe_unified_get_stats(glebe_unified* unified, glebe_unified_stats* stats);

// --- Shared between processes ---

// A unified buffer whose memory on the host, on the device or both is that of another process too. One of
// them uses it at a time; they tell each other whose turn it is by means of their own. Each process opens the
// device by itself. One thread at a time for each share; guards of its buffer are used as those of any other.
typedef struct glebe_unified_share glebe_unified_share;

typedef struct glebe_unified_share_options {
  size_t struct_bytes;   // sizeof(glebe_unified_share_options)
  uint64_t size;         // of the buffer
  int32_t has_host;      // 1: the side of the host is shared
  int32_t has_device;    // 1: that of the device, in whole chunks
  int32_t is_pageable;   // 1: the host's is not registered with the driver, so that copies are staged
  uint64_t chunk_bytes;  // of the device's; 0: as small as their number, 63 at most, allows
} glebe_unified_share_options;

// bad_argument: no side, or too many chunks. unsupported: the device has no memory to share.
GLEBE_API glebe_device_result glebe_unified_share_create(glebe_unified* unified,
                                                         const glebe_unified_share_options* options,
                                                         glebe_unified_share** share);
// Hands the memory over through a stream socket of the domain AF_UNIX, connected to the other process, after
// hand_over. io_error: it is gone.
GLEBE_API glebe_device_result glebe_unified_share_send(glebe_unified_share* share, int socket);
// Waits for what the other process sends. io_error: it is gone. bad_argument: that is no share.
GLEBE_API glebe_device_result glebe_unified_share_receive(glebe_unified* unified, int socket, int is_pageable,
                                                          glebe_unified_share** share);
// The buffer, which belongs to the share: it is not released. 0 for NULL.
GLEBE_API glebe_unified_buffer glebe_unified_share_buffer(glebe_unified_share* share);
// When it returns all work of this process is done, and all shared sides have all of the contents.
GLEBE_API glebe_device_result glebe_unified_share_hand_over(glebe_unified_share* share);
// The other process did that: what this one has besides is out of date. in_use: this process used both sides
// since it handed them over.
GLEBE_API glebe_device_result glebe_unified_share_take_over(glebe_unified_share* share);
// Waits for the device; the memory lives on where others have it. Any failure: the share is still open. NULL
// is allowed.
GLEBE_API glebe_device_result glebe_unified_share_close(glebe_unified_share* share);

#if defined(__cplusplus)
}
#endif
