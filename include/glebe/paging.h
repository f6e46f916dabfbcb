// glebe: pageable buffers and budgets, the C interface. C99 and later, and C++. Linux.
//
// A pager owns buffers. A buffer has a size, an address that only a resize changes, and contents that live in
// up to four tiers: host memory, a compressed tier in host memory, a device, page files. Its bytes may be
// accessed while a range of it is pinned; what is not pinned may leave at any time: when it is asked to by
// name, or when the budget of the host needs room. Contents are never lost: they leave a tier only when
// another one has them, and a failure leaves everything where it was.
//
// A buffer is cut into extents (64 KiB by default, the last one may be shorter); everything works on whole
// extents: a pin of one byte keeps its extent.
//
// Sizes and offsets are bytes. Any thread may call any function at any time, unless its comment says
// otherwise. Functions answer with a glebe_result; glebe_result_text() says what it means and what to do.
// Unless a comment says so, what a failed call should have changed is unchanged and what it should have
// stored is not written. errno is not used.
//
// fork(2): in a child every function answers glebe_in_child, except glebe_pager_free(), which gives the
// memory back there. The bytes of ranges that were pinned at the fork stay accessible in the child until
// then, as private copies. The parent goes on as if nothing had happened.
#pragma once

#include <glebe/glebe.h>

#if defined(__cplusplus)
extern "C" {
#endif

typedef enum glebe_result {
  glebe_ok = 0,
  glebe_bad_handle = 1,       // no such buffer or ticket, or not any more
  glebe_bad_argument = 2,     // a size, range, tier, name, pointer or option that makes no sense
  glebe_not_resident = 3,     // the content is elsewhere and implicit page-in is off
  glebe_pinned = 4,           // a copy that would go is pinned, or what would be copied is being written
  glebe_last_copy = 5,        // the only valid copy: only glebe_discard drops it
  glebe_over_budget = 6,      // the tier's budget refuses and nothing more can be moved out of it
  glebe_no_memory = 7,        // the system refuses memory or addresses, or a table of the pager is full
  glebe_no_tier = 8,          // the pager was opened without that tier, or its directory cannot be used
  glebe_tier_full = 9,        // compressed tier or page files take no more: limit, full disk, write error
  glebe_incompressible = 10,  // the compressed tier does not keep what does not shrink
  glebe_io_error = 11,        // the page file cannot be read now; the content is still there
  glebe_corrupt = 12,         // what was read is not what was written: that content is lost
  glebe_device_error = 13,    // the device refused memory or a transfer
  glebe_codec_error = 14,     // the buffer's codec refused the content
  glebe_wrong_type = 15,      // the buffer of that name has another type_id
  glebe_too_many_pins = 16,   // an extent counts up to 4095 readers and 255 writers for host and device each
  glebe_cancelled = 17,       // the ticket was cancelled before its operation began
  glebe_busy = 18,            // the operation has begun already, or others keep the extent in flight
  glebe_in_child = 19         // this is a fork of the process that opened the pager
} glebe_result;

// One sentence: what it means and what to do. Static storage; never NULL.
GLEBE_API const char* glebe_result_text(glebe_result result);

typedef enum glebe_tier {
  glebe_tier_host = 0,
  glebe_tier_compressed = 1,  // host memory, compressed
  glebe_tier_device = 2,
  glebe_tier_file = 3
} glebe_tier;

typedef enum glebe_operation {
  glebe_page = 2,         // a valid copy in the tier; the source stays, and neither is dirty
  glebe_swap = 3,         // the copy in the tier stays alone; all others are given back
  glebe_evict = 4,        // give up the tier's copy; if it is the only one, it goes to the compressed tier,
                          // else to a file, else to the host
  glebe_invalidate = 5,   // the tier's copy is out of date; refused for the only one
  glebe_synchronise = 6,  // where host or device has a copy: both have it
  glebe_discard = 7       // drop all copies on purpose: the range reads as zero afterwards
} glebe_operation;

typedef enum glebe_access { glebe_read = 0, glebe_write = 1 } glebe_access;

typedef enum glebe_usage {
  glebe_usage_static = 0,     // written seldom
  glebe_usage_dynamic = 1,    // rewritten often: a crawl takes it under severe pressure only
  glebe_usage_streaming = 2,  // used once: leaves before all others
  glebe_usage_fixed = 3       // leaves only when it is asked to by name
} glebe_usage;

// Which extent leaves next.
typedef enum glebe_victims {
  glebe_victims_lru = 0,      // the one that was not used for the longest time
  glebe_victims_clock = 1,    // by arrival; used ones get one more round
  glebe_victims_s3_fifo = 2,  // what is used once leaves soon, what is used often stays (the default)
  glebe_victims_fifo = 3,     // by arrival in memory
  glebe_victims_oldest = 4,   // by creation of the buffer
  glebe_victims_largest = 5,  // of the largest buffer first
  glebe_victims_two_q = 6     // new ones leave by arrival; what comes back soon after that, by its last use
} glebe_victims;

// When a crawl moves an extent out. Age is epochs since the last use, pressure use / limit of the tier.
typedef enum glebe_trigger {
  glebe_trigger_age = 0,           // age > age_limit
  glebe_trigger_pressure = 1,      // pressure > start of the tier
  glebe_trigger_conservative = 2,  // age > 2 * age_limit and pressure > severe
  glebe_trigger_hybrid = 3,        // pressure > low_memory, or age > age_limit and pressure > start
  glebe_trigger_watermark = 4      // from pressure > low_memory on, until pressure <= start
} glebe_trigger;

typedef enum glebe_codec { glebe_codec_lz4 = 0, glebe_codec_zstd = 1 } glebe_codec;

// --- Budgets ---

// A ledger with a limit: bytes are charged before memory is taken and discharged after it was given back.
typedef struct glebe_budget glebe_budget;

typedef enum glebe_budget_action {
  glebe_budget_enforce = 0,  // a charge above the limit is refused: the count never exceeds the limit
  glebe_budget_warn = 1,     // it is counted and `warn` is told
  glebe_budget_reclaim = 2   // `reclaim` is asked to free bytes and the charge tried again, up to 16 times
} glebe_budget_action;

typedef enum glebe_budget_result {
  glebe_budget_ok = 0,
  glebe_budget_exceeded = 1,      // refused; nothing was counted
  glebe_budget_over_release = 2,  // more than the tag holds was given back; nothing was counted
  glebe_budget_unknown_tag = 3,
  glebe_budget_bad_argument = 4,
  glebe_budget_too_many_tags = 5,  // 64
  glebe_budget_no_memory = 6
} glebe_budget_result;

typedef struct glebe_budget_consumer {
  char name[32];
  uint64_t bytes;
} glebe_budget_consumer;

// A charge that was refused or exceeds, as it was seen at that moment.
typedef struct glebe_budget_error {
  char label[32];
  uint64_t requested_bytes;
  uint64_t used_bytes;
  uint64_t limit_bytes;
  uint32_t top_count;
  glebe_budget_consumer top[4];  // the tags that hold most, the largest first
} glebe_budget_error;

// Called by the thread that charges, with no lock held. `reclaim` may discharge this budget and use others;
// it returns 0 when nothing more can be freed. Either may be NULL, reclaim not with glebe_budget_reclaim.
typedef struct glebe_budget_callbacks {
  int (*reclaim)(void* context, uint64_t needed_bytes);
  void (*warn)(void* context, const glebe_budget_error* error);
  void* context;
} glebe_budget_callbacks;

#define GLEBE_NO_LIMIT UINT64_MAX

// A new budget; ended by glebe_budget_free. label: 1 to 31 bytes, longer ones are cut. limit_bytes: from 1 to
// GLEBE_NO_LIMIT. callbacks: copied; may be NULL.
GLEBE_API glebe_budget_result glebe_budget_new(const char* label, uint64_t limit_bytes,
                                               glebe_budget_action action,
                                               const glebe_budget_callbacks* callbacks,
                                               glebe_budget** budget);
// Nobody uses it any more. NULL is allowed; not for budgets of a pager.
GLEBE_API void glebe_budget_free(glebe_budget* budget);

// Both at run time. A limit below what is in use refuses charges until enough was given back.
GLEBE_API glebe_budget_result glebe_budget_set_limit(glebe_budget* budget, uint64_t limit_bytes);
GLEBE_API glebe_budget_result glebe_budget_set_action(glebe_budget* budget, glebe_budget_action action);

// The number of the tag of that name (1 to 31 bytes), made when it is new. Tag 0, "other", is always there.
GLEBE_API glebe_budget_result glebe_budget_tag(glebe_budget* budget, const char* name, uint32_t* tag);

// Counts size bytes. glebe_budget_exceeded: *error (may be NULL) says everything about it.
GLEBE_API glebe_budget_result glebe_budget_charge(glebe_budget* budget, uint32_t tag, uint64_t size,
                                                  glebe_budget_error* error);
GLEBE_API glebe_budget_result glebe_budget_discharge(glebe_budget* budget, uint32_t tag, uint64_t size);

GLEBE_API uint64_t glebe_budget_used(const glebe_budget* budget);
GLEBE_API uint64_t glebe_budget_peak(const glebe_budget* budget);
GLEBE_API uint64_t glebe_budget_limit(const glebe_budget* budget);
GLEBE_API uint64_t glebe_budget_tag_used(const glebe_budget* budget, uint32_t tag);

// What an error about a charge of `requested` bytes would say now.
GLEBE_API void glebe_budget_report(const glebe_budget* budget, uint64_t requested, glebe_budget_error* error);
// An error as one line of text: label, requested, in use, limit, top consumers, what to do. Writes at most
// size bytes, the last one a zero; returns the length written without it.
GLEBE_API size_t glebe_budget_error_text(const glebe_budget_error* error, char* buffer, size_t size);

// --- Pagers ---

typedef struct glebe_pager glebe_pager;

// A device as a table of functions. They are called by any thread with no lock held and may block. Addresses
// are the device's own; UINT64_MAX stands for "no room".
typedef struct glebe_device_memory {
  void* context;                                     // outlives the pager
  uint64_t (*allocate)(void* context, size_t size);  // contents undefined
  void (*free)(void* context, uint64_t address, size_t size);
  int (*copy_in)(void* context, uint64_t to, const void* from, size_t size);  // 0: failed
  int (*copy_out)(void* context, void* to, uint64_t from, size_t size);       // 0: failed
} glebe_device_memory;

// Set struct_bytes to sizeof and call glebe_pager_options_init() for the defaults in brackets.
typedef struct glebe_pager_options {
  uint64_t struct_bytes;
  uint64_t host_bytes;   // budget of resident extents [2 GiB]
  uint32_t host_action;  // glebe_budget_action when everything that can leave has left [enforce]
  glebe_budget_callbacks host_callbacks;
  uint64_t device_bytes;              // budget of the device tier [1 GiB]
  const glebe_device_memory* device;  // copied; NULL: none, or the emulated one [NULL]
  uint64_t emulated_device_bytes;     // a device in host memory of that capacity, for tests [0: none]
  uint64_t compressed_bytes;          // host memory of the compressed tier [0: there is none]
  const char* directory;              // of the page files, which have no names there [NULL: there are none]
  uint64_t file_bytes;                // budget of page files, before compression [GLEBE_NO_LIMIT]
  uint64_t file_bytes_max;            // of each page file [2 GiB]
  uint32_t codec;                     // glebe_codec of the compressed tier [lz4]
  uint64_t extent_bytes;              // a power of two from the os page to 2 MiB [64 KiB]
  uint64_t address_bytes;             // most that all buffers may measure together [1 TiB]
  uint32_t victims;                   // glebe_victims [s3_fifo]
  uint32_t trigger;                   // glebe_trigger [hybrid]
  uint32_t age_limit;                 // epochs [20]
  // Pressures in millionths of the limit, not falling in this order except that host and device are apart.
  uint32_t host_start;           // [800000]
  uint32_t device_start;         // [500000]
  uint32_t low_memory;           // [900000]
  uint32_t severe;               // [950000]
  uint32_t no_implicit_page_in;  // 1: pinning what is not in memory answers glebe_not_resident [0]
  uint32_t watch_system;         // 1: host pressure is also that of the control group or machine [0]
  uint32_t workers;              // threads for asynchronous calls, at most 64; 0: they complete at once [2]
} glebe_pager_options;

// glebe_bad_argument: struct_bytes is smaller than the structure of this version.
GLEBE_API glebe_result glebe_pager_options_init(glebe_pager_options* options);

// A new pager; several live side by side, in one directory too. options NULL: the defaults.
// glebe_bad_argument, glebe_no_memory, glebe_no_tier (the directory).
GLEBE_API glebe_result glebe_pager_new(const glebe_pager_options* options, glebe_pager** pager);
// Completes what was queued, ends the threads, drops all buffers and page files. No other call is in
// progress, and nothing that was pinned is used any more. NULL is allowed.
GLEBE_API void glebe_pager_free(glebe_pager* pager);

// The ledger of a tier, owned by the pager. That of the compressed tier counts the slots its objects lie in,
// to say who has them; what bounds its memory is glebe_pager_set_limit. NULL: no such tier.
GLEBE_API glebe_budget* glebe_pager_budget(glebe_pager* pager, glebe_tier tier);
// At run time; limit_bytes from 1. Nothing is moved out at once: what exceeds leaves with the next need.
GLEBE_API glebe_result glebe_pager_set_limit(glebe_pager* pager, glebe_tier tier, uint64_t limit_bytes);
// Use / limit in millionths; 0 without a limit.
GLEBE_API uint32_t glebe_pager_pressure(glebe_pager* pager, glebe_tier tier);

// The logical clock, for example frames. Returns the new epoch.
GLEBE_API uint32_t glebe_pager_advance_epoch(glebe_pager* pager);

// Looks at `percent` (1 to 100) of the extents in host memory, and of those on the device, at least 10, in
// the order of the victims, and moves out what the trigger wants, as long as it wants any. Returns bytes.
GLEBE_API uint64_t glebe_pager_crawl(glebe_pager* pager, uint32_t percent);
// Moves at least `bytes` out of host memory (1 MiB or a sixteenth of the budget at a time), whatever the
// trigger says, as far as there is anything that can go. Returns bytes.
GLEBE_API uint64_t glebe_pager_reclaim(glebe_pager* pager, uint64_t bytes);
// Gives back memory of the compressed tier and space of page files in which nothing lies, all at once instead
// of little by little. Returns bytes.
GLEBE_API uint64_t glebe_pager_compact(glebe_pager* pager);
// A thread that crawls every interval_ms (from 1), and at once when the use of the host or the device rises
// over one of its marks (start, low_memory, severe). Calling it again changes both numbers.
GLEBE_API glebe_result glebe_pager_start_crawler(glebe_pager* pager, uint32_t interval_ms, uint32_t percent);
GLEBE_API void glebe_pager_stop_crawler(glebe_pager* pager);  // returns when the thread has ended

// --- Buffers ---

typedef uint64_t glebe_buffer;  // of one pager; 0 names nothing, and a closed one never names another
typedef uint64_t glebe_ticket;  // of one pager; 0 names nothing

// Turns an extent into fewer bytes when it leaves for the compressed tier or a file, and back. Called by any
// thread, with no lock held; must not call the pager.
typedef struct glebe_buffer_codec {
  // Writes at most capacity bytes (the extent's size), returns how many; 0 refuses: the extent stays.
  size_t (*encode)(void* context, const void* from, size_t size, void* to, size_t capacity);
  // Writes exactly capacity bytes; 0: this is not what encode made.
  int (*decode)(void* context, const void* from, size_t size, void* to, size_t capacity);
  void* context;  // outlives the buffer
} glebe_buffer_codec;

typedef struct glebe_buffer_options {
  uint64_t struct_bytes;            // sizeof
  const char* name;                 // 1 to 63 bytes, copied; NULL: none
  uint32_t usage;                   // glebe_usage
  uint32_t tag;                     // of the host budget; the other ledgers count under the same name
  uint64_t type_id;                 // of what is in it; 0: bytes
  const glebe_buffer_codec* codec;  // copied; NULL: none
} glebe_buffer_options;

// A new buffer of size bytes, from 1. It reads as zero and takes no memory until it is used. options may be
// NULL. glebe_bad_argument also when the name exists. *buffer is a reference, given back by
// glebe_buffer_close.
GLEBE_API glebe_result glebe_buffer_new(glebe_pager* pager, size_t size, const glebe_buffer_options* options,
                                        glebe_buffer* buffer);
// The buffer of the name in options, or a new one (*is_new, may be NULL, is 1). An existing one keeps its
// size and options. Threads that open the same name get the same buffer. One more reference.
GLEBE_API glebe_result glebe_buffer_open(glebe_pager* pager, size_t size, const glebe_buffer_options* options,
                                         glebe_buffer* buffer, int* is_new);
// glebe_bad_handle: there is none. One more reference.
GLEBE_API glebe_result glebe_buffer_find(glebe_pager* pager, const char* name, glebe_buffer* buffer);
// The buffer keeps its references and loses its name.
GLEBE_API glebe_result glebe_buffer_remove_name(glebe_pager* pager, const char* name);
// Gives a reference back. With the last one the buffer ends, as soon as nothing of it is pinned or moved.
GLEBE_API glebe_result glebe_buffer_close(glebe_pager* pager, glebe_buffer buffer);

// Brings [offset, offset + size) into host memory and keeps it there until it is unpinned; size 0: to the
// end. *data: its first byte, the same address each time until the buffer is resized. glebe_write makes the
// host's copy the only one. Pins nest. glebe_over_budget: all that is pinned together exceeds the budget.
GLEBE_API glebe_result glebe_buffer_pin(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size,
                                        glebe_access access, void** data);
// Exactly what was pinned, also after the buffer was closed.
GLEBE_API glebe_result glebe_buffer_unpin(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size,
                                          glebe_access access);
// The same on the device. Extents are not contiguous there: while they are pinned,
// glebe_buffer_device_address gives the address of the byte at `offset`, good to the end of its extent.
GLEBE_API glebe_result glebe_buffer_pin_device(glebe_pager* pager, glebe_buffer buffer, size_t offset,
                                               size_t size, glebe_access access);
GLEBE_API glebe_result glebe_buffer_unpin_device(glebe_pager* pager, glebe_buffer buffer, size_t offset,
                                                 size_t size, glebe_access access);
GLEBE_API glebe_result glebe_buffer_device_address(glebe_pager* pager, glebe_buffer buffer, size_t offset,
                                                   uint64_t* address);

// Copy size bytes out of or into the buffer, pinning one extent at a time, so that the whole need not fit in
// memory. A failure leaves what was copied so far.
GLEBE_API glebe_result glebe_buffer_read(glebe_pager* pager, glebe_buffer buffer, size_t offset, void* to,
                                         size_t size);
GLEBE_API glebe_result glebe_buffer_write(glebe_pager* pager, glebe_buffer buffer, size_t offset,
                                          const void* from, size_t size);

// Why a range was refused with glebe_bad_argument. problem: glebe_range_problem; the other numbers as said
// there, 0 where nothing is said.
typedef enum glebe_range_problem {
  glebe_range_right = 0,              // nothing is wrong with the range
  glebe_range_outside = 1,            // empty, or offset + size > limit, the size of the buffer
  glebe_range_source_outside = 2,     // the same of the buffer that is read
  glebe_range_lengths_differ = 3,     // size bytes from offset on in the source, limit in the destination
  glebe_range_not_whole_elements = 4  // size is no multiple of limit, the size of an element
} glebe_range_problem;
typedef struct glebe_range_error {
  uint32_t problem;
  uint64_t offset;
  uint64_t size;
  uint64_t limit;
} glebe_range_error;
// One line: what is wrong, where, and what would be right. Writes at most size bytes, the last one a zero;
// returns the length written without it.
GLEBE_API size_t glebe_range_error_text(const glebe_range_error* error, char* buffer, size_t size);

// The functions from here to glebe_buffer_resize go extent by extent, so that the whole need not fit in
// memory. What other threads read meanwhile may be old, new or, of a fill with zeros, both mixed. A failure
// leaves what was done so far, except of a range that is refused. error may be NULL.
//
// Sets each element in [offset, offset + size) (size 0: to the end) to the element_size bytes at element,
// from 1 on; elements may lie across extents.
GLEBE_API glebe_result glebe_buffer_fill(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size,
                                         const void* element, size_t element_size, glebe_range_error* error);
// Zeros. Exactly the range, unlike glebe_discard; extents that lie in it as a whole and are not pinned give
// their memory back.
GLEBE_API glebe_result glebe_buffer_clear(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size,
                                          glebe_range_error* error);
// Copies size bytes, as memmove does when both are one buffer and overlap. size 0: from both offsets to the
// ends, which must be equally far away.
typedef struct glebe_copy_ranges {
  glebe_buffer from;
  glebe_buffer to;
  size_t from_offset;
  size_t to_offset;
  size_t size;
} glebe_copy_ranges;
GLEBE_API glebe_result glebe_buffer_copy(glebe_pager* pager, const glebe_copy_ranges* what,
                                         glebe_range_error* error);
// Changes the size, from 1. The first bytes, as many as there are before and after, keep their values in
// whatever tier they are, and are not moved out of it, except that of the extent in which the smaller size
// ends only the host keeps a copy. What is new reads as zero. The address may change. glebe_pinned: something
// is pinned. glebe_busy: asynchronous operations of the buffer, or calls of other threads, did not end within
// about two seconds. Any failure: nothing has changed.
GLEBE_API glebe_result glebe_buffer_resize(glebe_pager* pager, glebe_buffer buffer, size_t size);

// Does the operation on every extent that the range touches (size 0: to the end); answers with the first
// failure after all were tried.
GLEBE_API glebe_result glebe_buffer_move(glebe_pager* pager, glebe_buffer buffer, size_t offset, size_t size,
                                         glebe_operation operation, glebe_tier tier);
// The same for count whole buffers of the pager: many small ones leave for a file with one large write.
GLEBE_API glebe_result glebe_buffer_move_many(glebe_pager* pager, const glebe_buffer* buffers, size_t count,
                                              glebe_operation operation, glebe_tier tier);
// Returns at once and does what glebe_buffer_move does on a worker; workers begin in the order of the calls.
// Moves of at most 128 KiB to files that wait next to each other leave with one write. The ticket is given
// back by glebe_ticket_wait or glebe_ticket_release. With 65536 tickets out it is done at once: *ticket is 0
// and the answer is that of the operation.
GLEBE_API glebe_result glebe_buffer_move_async(glebe_pager* pager, glebe_buffer buffer, size_t offset,
                                               size_t size, glebe_operation operation, glebe_tier tier,
                                               glebe_ticket* ticket);
// Told about the end of an asynchronous operation: exactly once, with its result, before its ticket counts as
// done. It runs on the worker that did the operation, on the thread that cancels the ticket (with
// glebe_cancelled), or inside the call that asked, where that does the operation at once (no workers, or no
// ticket left). No lock is held. It may call every function of the pager and of others, also for the same
// buffer, and ask for more asynchronous operations, except: glebe_pager_free, glebe_pager_wait_all, and
// glebe_ticket_wait for a ticket that is not done, which may wait for the very thread it runs on. Workers do
// nothing else meanwhile, so it should be short. Workers block all signals.
typedef struct glebe_completion {
  void (*done)(void* context, glebe_result result);
  void* context;  // outlives the call of done
} glebe_completion;

// As glebe_buffer_move_async; completion is copied. ticket may be NULL: nobody waits or cancels. glebe_ok:
// done was called or will be, and knows the result; any other answer: nothing was begun, and it never will.
GLEBE_API glebe_result glebe_buffer_move_notify(glebe_pager* pager, glebe_buffer buffer, size_t offset,
                                                size_t size, glebe_operation operation, glebe_tier tier,
                                                const glebe_completion* completion, glebe_ticket* ticket);
// Brings the range into host memory when no other asynchronous work waits. No ticket.
GLEBE_API glebe_result glebe_buffer_prefetch(glebe_pager* pager, glebe_buffer buffer, size_t offset,
                                             size_t size);

// Waits for the end, gives the ticket back, answers with the result of the operation.
GLEBE_API glebe_result glebe_ticket_wait(glebe_pager* pager, glebe_ticket ticket);
GLEBE_API int glebe_ticket_is_done(glebe_pager* pager, glebe_ticket ticket);  // 1 also for unknown tickets
// glebe_busy: it has begun. The ticket is still to be waited for or released.
GLEBE_API glebe_result glebe_ticket_cancel(glebe_pager* pager, glebe_ticket ticket);
GLEBE_API void glebe_ticket_release(glebe_pager* pager, glebe_ticket ticket);  // the operation goes on
// Until no asynchronous operation of the pager is waiting or running.
GLEBE_API void glebe_pager_wait_all(glebe_pager* pager);

typedef struct glebe_buffer_info {
  void* address;
  uint64_t size;
  uint64_t extents;
  uint64_t valid_bytes[4];  // by glebe_tier; what has several valid copies counts in each
  uint64_t dirty_bytes;     // newest in one tier of memory only
  uint64_t unbacked_bytes;  // never written, or discarded
  uint64_t pinned_bytes;    // of extents that are pinned
  uint32_t usage;
  uint32_t age;  // epochs since the last use of the extent used last
  uint64_t type_id;
} glebe_buffer_info;
GLEBE_API glebe_result glebe_buffer_get_info(glebe_pager* pager, glebe_buffer buffer,
                                             glebe_buffer_info* info);

// --- Statistics ---

// Numbers since the start, or as of now. Exact when no call is in progress:
// resident_bytes + paged_out_bytes + unbacked_bytes == total_bytes.
typedef struct glebe_pager_stats {
  uint64_t struct_bytes;  // sizeof, by the caller: later versions add fields at the end
  uint64_t buffers;
  uint64_t extents;
  uint64_t total_bytes;
  uint64_t resident_bytes;   // in host or device memory
  uint64_t paged_out_bytes;  // in the compressed tier or a file only
  uint64_t unbacked_bytes;
  uint64_t tier_bytes[4];  // valid copies, by glebe_tier
  uint64_t tier_used[4];   // as the budgets count: host and device whole os pages, compressed what it takes
  uint64_t tier_limit[4];
  uint64_t tier_peak[4];  // of the budgets; compressed: as of now
  uint64_t pins;
  uint64_t page_ins;           // extents copied into host memory
  uint64_t implicit_page_ins;  // extents brought in by a pin
  uint64_t page_outs;          // extents copied to the compressed tier or a file
  uint64_t zero_fills;
  uint64_t clean_drops;  // extents that left host memory without being copied
  uint64_t bytes_in;
  uint64_t bytes_out;
  uint64_t device_bytes_in;
  uint64_t device_bytes_out;
  uint64_t evictions;  // by need of room or by a crawl
  uint64_t refused_pinned;
  uint64_t spoiled;  // written while on the way to a file, so that the copy was thrown away
  uint64_t failed_copies;
  uint64_t waits;          // for an operation of somebody else on the same extent
  uint64_t failed_purges;  // memory that the system did not take back, for example because it is locked
  uint64_t crawls;
  uint64_t crawled_extents;
  uint64_t prefetches;
  uint64_t requests;  // asynchronous ones
  uint64_t pending;   // of them, as of now
  uint64_t epoch;
  uint64_t page_in_ns[40];  // page-ins that took 2^i ns and more, below 2^(i+1)
  uint64_t compressed_objects;
  uint64_t compressed_object_bytes;  // before compression
  uint64_t file_live_bytes;
  uint64_t file_allocated_bytes;   // as the file system counts
  uint64_t store_errors;           // failed writes, failed and corrupt reads
  uint64_t system_resident_bytes;  // of the process
  uint64_t system_used_bytes;      // of the control group or the machine
  uint64_t system_limit_bytes;
  uint64_t system_stalled;  // millionths of the last ten seconds in which a task waited for memory
} glebe_pager_stats;

// Fills the fields that fit in stats->struct_bytes and keeps that number.
GLEBE_API glebe_result glebe_pager_get_stats(glebe_pager* pager, glebe_pager_stats* stats);

// 1 when all extents are in legal states and all counters equal a recount, else 0. For tests: no other call
// is in progress.
GLEBE_API int glebe_pager_validate(glebe_pager* pager);

#if defined(__cplusplus)
}
#endif
