// glebe: transfers between the host and a GPU, the C interface. C99 and later, and C++. Linux. Link
// libglebe-gpu.a.
//
// A queue moves ranges of any length, asynchronously and in pieces: memory of the host that is not pinned
// goes through rings of pinned memory, pinned memory straight. Uploads, downloads and work on the device have
// a stream each, and in each of them the highest priority goes first, piece by piece; equal ones go in the
// order of their calls. Otherwise transfers are not ordered, neither among each other nor with streams of the
// program: who needs the bytes of one for the next waits for its ticket.
//
// A driver that answers neither "done" nor "under way" is asked again, at growing distances; transfers that
// wait for too many such answers in a row end as failed. The device may go on with what it has, so their
// memory, which it may still read or write where no ring is in between, must not be used again before a later
// transfer of the direction has ended well.
//
// Sizes are bytes, times nanoseconds. Any thread may call any function at any time; close comes last. A
// failed call has changed and stored nothing, unless a comment says so. What device.h says of results and
// fork holds.
#pragma once

#include <glebe/device.h>

#if defined(__cplusplus)
extern "C" {
#endif

typedef struct glebe_transfer_queue glebe_transfer_queue;

typedef struct glebe_transfer_queue_options {
  size_t struct_bytes;        // sizeof(glebe_transfer_queue_options)
  int32_t threads;            // that do the work: 1 to 8; 0: one; -1: none, whoever waits or polls does it
  uint32_t rings;             // of pinned memory for each direction, 1 to 8; 0: one
  uint64_t ring_bytes;        // of each, a multiple of 256; 0: 16 MiB
  uint64_t piece_bytes;       // a submission holds about as much; at most ring_bytes; 0: 1 MiB or that
  uint64_t direct_bytes;      // piece of what needs no ring; 0: 16 MiB
  uint32_t in_flight_max;     // submissions of a direction at a time, 1 to 16; 0: 4
  uint32_t transfers_max;     // that have not ended, or have a ticket still; 0: 65536
  uint64_t backoff_ns;        // before the first retry, doubles, less a random part; 0: 0.1 ms
  uint64_t backoff_max_ns;    // 0: 10 ms
  uint64_t seed;              // of the random part; 0: 1
  int32_t is_write_combined;  // 1: the rings for uploads: faster to write, very slow to read
} glebe_transfer_queue_options;

// options NULL: the defaults. bad_argument; out_of_memory (pinned memory); no_host_memory, also when no
// thread can be started.
GLEBE_API glebe_device_result glebe_transfer_queue_open(glebe_device* device,
                                                        const glebe_transfer_queue_options* options,
                                                        glebe_transfer_queue** queue);

typedef enum glebe_transfer_end {
  glebe_transfer_end_wait = 0,   // transfers that have not ended go on to their end
  glebe_transfer_end_cancel = 1  // they are cancelled
} glebe_transfer_end;
// Refuses new transfers, ends the others as told and gives pinned memory and threads back; tickets and
// statistics stay. A second call can turn waiting into cancelling. bad_argument: no such end.
GLEBE_API glebe_device_result glebe_transfer_queue_stop(glebe_transfer_queue* queue, glebe_transfer_end how);
// The same, and then the tickets go as well. bad_argument: no such end; it is still open. NULL is allowed.
GLEBE_API glebe_device_result glebe_transfer_queue_close(glebe_transfer_queue* queue, glebe_transfer_end how);

// --- Transfers ---

typedef enum glebe_transfer_kind {
  glebe_transfer_upload = 0,
  glebe_transfer_download = 1,
  glebe_transfer_copy = 2,  // on the device
  glebe_transfer_fill = 3
} glebe_transfer_kind;
typedef enum glebe_transfer_priority {
  glebe_transfer_low = -1,
  glebe_transfer_normal = 0,
  glebe_transfer_high = 1
} glebe_transfer_priority;
typedef enum glebe_transfer_memory {  // of the host
  glebe_transfer_unknown = 0,         // the driver is asked
  glebe_transfer_pageable = 1,
  glebe_transfer_pinned = 2  // by the driver: cuMemHostAlloc, cuMemHostRegister
} glebe_transfer_memory;

// What is to be done. Zeros stand for the usual. Memory of the host stays the caller's, and as it is, until
// the transfer has ended; longer where the queue gave up on the driver, see above.
typedef struct glebe_transfer {
  size_t struct_bytes;  // sizeof(glebe_transfer)
  glebe_transfer_kind kind;
  glebe_transfer_priority priority;
  uint64_t device;      // where it goes; of a download, where it comes from
  const void* from;     // of an upload
  void* to;             // of a download
  uint64_t source;      // of a copy: on the device; the ranges do not overlap
  uint64_t size;        // 0: it has ended at once
  uint8_t value;        // of a fill
  uint8_t is_verified;  // 1: all is read back when it has arrived, and compared with the source by checksums
  glebe_transfer_memory memory;
  int32_t retries_max;  // in a row, of answers that may pass (out_of_memory); 0: 8; -1: none
  // Deadline, from the call on: what has not been queued by then is not queued any more, and it ends as
  // timed_out. 0: none.
  uint64_t timeout_ns;
} glebe_transfer;

// Of one queue; 0 names none, and that of a released one is found out.
typedef uint64_t glebe_transfer_ticket;

// Starts `count` transfers, from 1, under one ticket, which is to be released. Each that makes no sense has
// ended with bad_argument, the others go on. Refused as a whole: bad_argument: a wrong structure;
// over_budget: transfers_max; no_host_memory; cancelled: the queue was stopped.
GLEBE_API glebe_device_result glebe_transfer_submit(glebe_transfer_queue* queue,
                                                    const glebe_transfer* transfers, size_t count,
                                                    glebe_transfer_ticket* ticket);

typedef struct glebe_transfer_result {
  glebe_device_result result;  // not_ready: it has not ended
  uint32_t pieces, retries;
  int32_t is_direct;     // of an upload or download: not through a ring
  uint64_t moved_bytes;  // that arrived: always the first ones of the range
  uint64_t duration_ns;  // from the call to the end
} glebe_transfer_result;

// Waits for the end of all, at most so long; UINT64_MAX: for ever. The result of the first one that failed;
// not_ready: the time was over first; not_owned: no such ticket.
GLEBE_API glebe_device_result glebe_transfer_wait(glebe_transfer_queue* queue, glebe_transfer_ticket ticket,
                                                  uint64_t timeout_ns);
// Whether all have ended: ok, not_ready, not_owned. Without threads this is what makes them go on.
GLEBE_API glebe_device_result glebe_transfer_poll(glebe_transfer_queue* queue, glebe_transfer_ticket ticket);
// Ends what has not ended; when it returns nothing touches the caller's memory any more, unless a transfer
// failed because the queue gave up on the driver, see above. ok: all had ended before; cancelled: some had
// not, and their results tell how many bytes had arrived; not_owned.
GLEBE_API glebe_device_result glebe_transfer_cancel(glebe_transfer_queue* queue,
                                                    glebe_transfer_ticket ticket);
// Of the transfer with this index in the call; SIZE_MAX: of all together: the first failure, sums, the
// longest duration. not_owned; bad_argument: no such index.
GLEBE_API glebe_device_result glebe_transfer_get_result(glebe_transfer_queue* queue,
                                                        glebe_transfer_ticket ticket, size_t index,
                                                        glebe_transfer_result* result);
// Waits for the end and forgets the ticket. in_use: another thread is in a call with it. not_owned.
GLEBE_API glebe_device_result glebe_transfer_release(glebe_transfer_queue* queue,
                                                     glebe_transfer_ticket ticket);

// Goes on with what there is, without waiting; 0: nothing could be done now. For queues without threads.
GLEBE_API int glebe_transfer_help(glebe_transfer_queue* queue);
// Transfers that have not ended, at this moment.
GLEBE_API uint64_t glebe_transfer_pending(glebe_transfer_queue* queue);

typedef enum glebe_transfer_direction {
  glebe_transfer_to_device = 0,
  glebe_transfer_to_host = 1,
  glebe_transfer_on_device = 2  // copies and fills
} glebe_transfer_direction;
// Since it was opened.
typedef struct glebe_transfer_stats {
  uint64_t accepted, succeeded, failed, cancelled, timed_out;  // transfers
  uint64_t bytes, staged_bytes;                                // that arrived; the part that went by a ring
  uint64_t verified_bytes;                                     // by is_verified
  uint64_t corrupt;                                            // transfers that arrived changed
  uint64_t pieces, submissions, retries;
  uint64_t stalls, stalled_ns;         // the ring had no room for the next piece
  uint64_t busy_ns;                    // something was in flight
  uint32_t in_flight, peak_in_flight;  // submissions
} glebe_transfer_stats;
// bad_argument: no such direction.
GLEBE_API glebe_device_result glebe_transfer_get_stats(glebe_transfer_queue* queue,
                                                       glebe_transfer_direction direction,
                                                       glebe_transfer_stats* stats);

#if defined(__cplusplus)
}
#endif
