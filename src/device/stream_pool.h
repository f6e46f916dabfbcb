// Allocation in the order of streams (namespace glebe::device): a block that is freed in a stream is at once
// free for what that stream does next, and for others as soon as the device is done with it.
//
// The blocks come from any BlockSource. Freeing puts a block on a list of its stream, allocating takes one of
// the same size class from there: the stream's own order makes that safe, so no call of the driver is needed.
// Everything else is the slow path. A miss looks, in this order, for
//   1. memory that the source has at hand (where the source can tell),
//   2. a block that another stream freed and that the device is done with (completed epochs, see
//      stream_pool_slot.h; the oldest of each stream first, so a slow stream hides nothing of the others),
//   3. a block that another stream freed while the device still works there: this stream then waits for that
//      on the device, by an event, and the host goes on,
//   4. more memory of the source,
//   5. room that appears when idle blocks are given back to the source, waiting for the oldest ones, and at
//      last the program's callback.
// 1 to 3 can be switched off one by one. A failure leaves an account of where the memory is.
//
// Streams are told apart by their ids (cuStreamGetId), because the handle of a destroyed stream is used again
// for another one. A StreamRef names a stream without asking the driver; the functions that take a handle ask
// for its id each time. A program calls forget_stream() before it destroys a stream, because the pool uses
// handles that it remembered. It asks for the id again before, and so finds a stream that is gone as far as
// the driver refuses its handle or knows it as another one's; but the driver does not promise to survive a
// handle of a destroyed stream. The last blocks of a stream that nobody forgot, and those of another thread's
// own stream (cuStreamPerThread), are free for others only after a wait for the whole device, which the pool
// does when it has nothing else left.
//
// Thread-safe, but open() and close(). A stream's own lock is all that the quick paths take.
#pragma once

#include <atomic>
#include <cstdint>

#include "platform/thread.h"
#include "src/device/block_source.h"
#include "src/device/event_pool.h"
#include "src/device/stream_pool_blocks.h"
#include "src/device/stream_pool_slot.h"
#include "src/device/stream_pool_uses.h"
#include "src/paging/growing_memory.h"

namespace glebe::device {

struct StreamPoolOptions {
  BlockSource source;                   // outlives the pool
  std::uint32_t streams_max = 1024;     // that have blocks at the same time; about 7 KiB each when used
  std::uint32_t blocks_max = 1u << 22;  // taken from the source at the same time
  bool reuse_source_idle = true;        // 1 of the list above; needs BlockSource::allocate_idle
  bool reuse_completed = true;          // 2
  bool reuse_with_wait = true;          // 3
  bool use_timeline = true;  // how far a stream is, is read from memory where the device can write it
  // Asked when nothing else is left, with the size that is missing: true means that something was given back
  // to the source. Called without locks; may free blocks of this pool. Not from within a capture.
  bool (*on_pressure)(void* user, std::uint64_t missing_bytes) = nullptr;
  void* user = nullptr;
};

// A stream of the program. Valid until the stream is forgotten. That of a thread's own stream may go stale
// sooner, when it has nothing in the pool and there is no room for another stream.
struct StreamRef {
  std::uint32_t slot = 0, generation = 0;
};

struct StreamPoolStats {
  std::uint64_t requests = 0, failures = 0;       // requests = failures + the sum of origins
  std::uint64_t origins[kBlockOrigins] = {};      // successful allocations by BlockOrigin
  std::uint64_t frees = 0, refused_frees = 0;     // refused: foreign addresses, double frees
  std::uint64_t live_blocks = 0, live_bytes = 0;  // that the program has, with rounding
  std::uint64_t wanted_bytes = 0;                 // the same as the program asked for it
  std::uint64_t idle_blocks = 0, idle_bytes = 0;  // freed, kept by streams
  std::uint64_t held_blocks = 0, held_bytes = 0;  // taken from the source and not given back
  std::uint64_t peak_held_bytes = 0;
  std::uint64_t given_back = 0;  // blocks, to the source
  std::uint64_t epochs_closed = 0, events_recorded = 0;
  std::uint64_t polls = 0;         // events that were asked
  std::uint64_t stream_waits = 0;  // a stream was made to wait for another one
  std::uint64_t host_waits = 0;    // the host waited for a stream
  std::uint64_t device_waits = 0;  // the host waited for the whole device
  std::uint32_t streams = 0;       // known now
};

// Why the last allocation failed, and where the memory was then.
struct StreamPoolFailure {
  std::uint64_t size_bytes = 0, align_bytes = 0;
  Outcome outcome;  // the source's
  std::uint64_t live_blocks = 0, live_bytes = 0, idle_blocks = 0, idle_bytes = 0;
  std::uint64_t held_bytes = 0;
  std::uint32_t streams = 0;
};

class StreamPool {
 public:
  // An epoch is closed by the free that finds so much in it, if there is more than one stream.
  static constexpr std::uint64_t kEpochFrees = 64, kEpochBytes = 16 * kMiB;

  constexpr StreamPool() noexcept = default;
  ~StreamPool();  // close(); if that fails, all memory is left to the source
  StreamPool(const StreamPool&) = delete;
  StreamPool& operator=(const StreamPool&) = delete;

  // `gpu` outlives the pool. bad_argument, no_host_memory, out_of_memory (pinned memory of the timeline).
  Outcome open(Gpu& gpu, const StreamPoolOptions& options) noexcept;
  // Waits until the device has done all that was queued in its context, then gives every block back to the
  // source, also those that the program did not free; the answer is the first refusal of the source, which
  // then keeps the block. Where it cannot wait (not_ready: a stream is being captured) nothing has changed. A
  // device that is lost is not waited for. May be called twice.
  Outcome close() noexcept;
  [[nodiscard]] bool is_open() const noexcept { return gpu_ != nullptr; }

  // The stream of a handle, for the functions below; nullptr and cuStreamLegacy are the same one, and
  // cuStreamPerThread is the stream of the calling thread. bad_argument: no such stream. no_host_memory: too
  // many streams.
  Outcome find_stream(cuda::Stream stream, StreamRef* ref) noexcept;

  // A block of at least `size_bytes` at a multiple of `align_bytes` (0: 256), for work that is queued in the
  // stream from now on. bad_argument: no size, more than 1 TiB, no power of two, or a stale ref.
  // out_of_memory, over_budget, out_of_addresses: last_failure() tells more; nothing has changed.
  Outcome allocate(std::uint64_t size_bytes, std::uint64_t align_bytes, StreamRef ref,
                   cuda::DevicePointer* address) noexcept;
  Outcome allocate(std::uint64_t size_bytes, std::uint64_t align_bytes, cuda::Stream stream,
                   cuda::DevicePointer* address) noexcept;
  // Frees the block that starts there once the device has done what is queued in the stream now, and in those
  // that record_use() named. The stream need not be the one of the allocation. not_owned, double_free,
  // bad_argument: nothing has changed.
  Outcome deallocate(cuda::DevicePointer address, StreamRef ref) noexcept;
  Outcome deallocate(cuda::DevicePointer address, cuda::Stream stream) noexcept;
  // Another stream uses a live block too: what is queued there until the block is freed counts.
  Outcome record_use(cuda::DevicePointer address, StreamRef ref) noexcept;
  Outcome record_use(cuda::DevicePointer address, cuda::Stream stream) noexcept;

  // Before the program destroys a stream. Its blocks stay with the pool. not_ready: its last blocks are free
  // for others only after a wait for the whole device; it is forgotten all the same. bad_argument: the
  // default stream, which is always there, or a stream that is not known.
  Outcome forget_stream(StreamRef ref) noexcept;
  Outcome forget_stream(cuda::Stream stream) noexcept;

  // Around the capture of a stream into a graph. What is freed in the stream between the two is free for
  // nobody before the end; what is allocated is used by nothing that is queued. A block that launches of the
  // graph use must stay allocated as long as there are launches.
  Outcome begin_capture(StreamRef ref) noexcept;
  Outcome end_capture(StreamRef ref) noexcept;

  // Waits until all that was freed so far is free for everybody.
  Outcome synchronize() noexcept;
  // Gives idle blocks that the device is done with back to the source until at most `keep_bytes` are idle,
  // and lets the source trim itself to the rest of that. Never waits. Returns the bytes given to the source.
  std::uint64_t trim(std::uint64_t keep_bytes) noexcept;

  // One moment of all counters.
  [[nodiscard]] StreamPoolStats stats() noexcept;
  [[nodiscard]] StreamPoolFailure last_failure() noexcept;

 private:
  struct Request {
    std::uint64_t size_bytes, align_bytes;
    unsigned size_class;
  };
  // Whether the handle of a stream can be used here and now. unknown: of another thread, or no answer.
  enum class Reach : std::uint8_t { ready, capturing, unknown, gone };
  using SourceCall = decltype(BlockSource::allocate);
  using StreamEntry = std::atomic<std::uint32_t>;  // slot number + 1; 0: end of a search; kErased

  static constexpr std::uint32_t kErased = UINT32_MAX;
  static constexpr std::uint32_t kTimelineStride = 64;  // bytes: a cache line for each slot's word
  static constexpr unsigned kLooksMax = 8;              // blocks of a list that are looked at for alignment
  static constexpr unsigned kBatch = 64;                // blocks that go back to the source at a time
  static constexpr unsigned kUsersMax = 16;             // streams that are asked for one limbo
  static constexpr unsigned kRoundsMax = 1024;          // of waiting for room
  static constexpr unsigned kCallbacksMax = 16;

  [[nodiscard]] StreamSlot* slots() const noexcept {
    return reinterpret_cast<StreamSlot*>(slot_memory_.base());
  }
  [[nodiscard]] StreamEntry* entries() const noexcept {
    return reinterpret_cast<StreamEntry*>(entry_memory_.base());
  }
  [[nodiscard]] std::uint32_t slot_count() const noexcept {
    return slot_count_.load(std::memory_order_acquire);  // pairs with the release of new_slot()
  }
  // nullptr: no such slot.
  [[nodiscard]] StreamSlot* slot_of(StreamRef ref) const noexcept {
    return ref.slot < slot_count() ? &slots()[ref.slot] : nullptr;
  }
  [[nodiscard]] Outcome check_open() const noexcept;
  [[nodiscard]] Outcome check_request(Request& request) const noexcept;

  // stream_pool.cpp: open, close, the quick paths, numbers.
  void abandon(bool are_blocks_free) noexcept;
  [[nodiscard]] bool take_newest(const Request& request, StreamSlot& slot,
                                 cuda::DevicePointer* address) noexcept;
  template <class Work>
  Outcome with_stream(cuda::Stream stream, const Work& work) noexcept;
  [[nodiscard]] Outcome keep_live(Block& block) noexcept;
  [[nodiscard]] Outcome refuse_free(cuda::DevicePointer address, StreamSlot& slot) noexcept;
  [[nodiscard]] Outcome deallocate_used(BlockNumber number, StreamRef ref) noexcept;
  [[nodiscard]] Outcome give_live_back(BlockNumber number) noexcept;

  // stream_pool_streams.cpp: which streams there are, and how far they have come.
  [[nodiscard]] Outcome id_of(cuda::Stream stream, std::uint64_t* id) noexcept;
  [[nodiscard]] bool find_slot(std::uint64_t id, StreamRef* ref) const noexcept;
  [[nodiscard]] Outcome new_slot(cuda::Stream stream, std::uint64_t id, StreamRef* ref) noexcept;
  [[nodiscard]] StreamSlot* unused_slot() noexcept;
  [[nodiscard]] bool may_be_left(StreamSlot& slot) noexcept;
  void enter(std::uint64_t id, std::uint32_t slot) noexcept;
  [[nodiscard]] bool retire(StreamSlot& slot) noexcept;
  void erase(StreamSlot& slot) noexcept;
  void rebuild_entries() noexcept;
  [[nodiscard]] Reach reach(StreamSlot& slot) noexcept;
  [[nodiscard]] bool has_open(StreamSlot& slot) noexcept;
  Outcome close_epoch(StreamSlot& slot, bool must_be_event) noexcept;
  [[nodiscard]] Outcome mark_epoch(StreamSlot& slot, std::uint64_t epoch, cuda::Event event) noexcept;
  void poll(StreamSlot& slot) noexcept;
  void pop_reached(StreamSlot& slot, std::uint64_t epoch) noexcept;
  [[nodiscard]] bool first_event(StreamSlot& slot, std::uint32_t* place) noexcept;
  [[nodiscard]] bool mark_newest(StreamSlot& slot) noexcept;
  [[nodiscard]] bool wait_for_closed(StreamSlot& slot) noexcept;
  [[nodiscard]] bool is_any_captured() noexcept;
  [[nodiscard]] bool wait_for_oldest() noexcept;
  Outcome prove_all() noexcept;
  [[nodiscard]] bool synchronize_slot(StreamSlot& slot) noexcept;
  void end_deferring(StreamSlot& slot) noexcept;
  void give_uses(std::uint32_t first) noexcept;
  [[nodiscard]] unsigned users_of(StreamSlot& slot, std::uint32_t* users) noexcept;
  void ask_users(StreamSlot& slot) noexcept;
  [[nodiscard]] bool is_unused(const Block& block) const noexcept;
  void leave_limbo(StreamSlot& slot, BlockNumber number) noexcept;
  void settle_limbo(StreamSlot& slot) noexcept;
  [[nodiscard]] std::uint64_t* word_of(std::uint32_t slot) const noexcept;

  // stream_pool_miss.cpp: where a block comes from when the stream has none.
  Outcome allocate_slow(const Request& request, StreamRef ref, cuda::DevicePointer* address) noexcept;
  [[nodiscard]] BlockNumber take_own(const Request& request, StreamSlot& slot) noexcept;
  [[nodiscard]] BlockNumber find_completed(const Request& request, const StreamSlot& slot,
                                           bool may_poll) noexcept;
  [[nodiscard]] BlockNumber find_waiting(const Request& request, const StreamSlot& slot) noexcept;
  [[nodiscard]] BlockNumber take_reached(const Request& request, StreamSlot& from) noexcept;
  [[nodiscard]] BlockNumber oldest_fit(const Request& request, const StreamSlot& from) const noexcept;
  [[nodiscard]] BlockNumber take_with_wait(const Request& request, StreamSlot& from,
                                           cuda::Stream stream) noexcept;
  [[nodiscard]] cuda::Event event_for(StreamSlot& slot, std::uint64_t epoch) noexcept;
  [[nodiscard]] BlockNumber look_everywhere(const Request& request, StreamSlot& slot, BlockOrigin* origin,
                                            Outcome* outcome) noexcept;
  Outcome take_from_source(const Request& request, SourceCall call, BlockNumber* number) noexcept;
  Outcome reclaim(const Request& request, bool may_wait, BlockNumber* number) noexcept;
  std::uint64_t give_back_reached(std::uint64_t keep_bytes, bool may_poll) noexcept;
  [[nodiscard]] unsigned take_batch(StreamSlot& slot, unsigned size_class, BlockNumber* batch) noexcept;
  std::uint64_t give_back_from(StreamSlot& slot, std::uint64_t bytes_max) noexcept;
  [[nodiscard]] bool give_to_source(BlockNumber number) noexcept;
  void note_failure(const Request& request, StreamSlot& slot, Outcome outcome) noexcept;

  Gpu* gpu_ = nullptr;
  StreamPoolOptions options_;
  EventPool events_;
  BlockTable blocks_;
  UseTable uses_;
  paging::GrowingMemory slot_memory_, entry_memory_;
  std::byte* timeline_ = nullptr;  // pinned memory with a word for each slot, or nullptr
  std::atomic<std::uint32_t> slot_count_{0}, known_streams_{0};
  std::atomic<std::uint32_t> legacy_slot_{0};  // number + 1
  std::atomic<std::uint32_t> captures_{0};     // under way; meanwhile no event is asked or waited for
  std::atomic<std::uint64_t> stamp_{0};
  std::atomic<std::uint64_t> epochs_closed_{0}, events_recorded_{0}, polls_{0};
  std::atomic<std::uint64_t> stream_waits_{0}, host_waits_{0}, device_waits_{0}, given_back_{0};

  // Order of locks: streams_mutex_ or prove_mutex_, StreamSlot::slow, StreamSlot::lock, held_mutex_.
  os::Mutex streams_mutex_;  // of writing the entries and of making slots
  std::uint32_t entry_count_ = 0, erased_ = 0;
  os::Mutex prove_mutex_;  // one wait for the whole device at a time
  os::Mutex uses_mutex_;   // of chains of live blocks
  os::Mutex held_mutex_;   // of what follows
  std::uint64_t held_blocks_ = 0, held_bytes_ = 0, peak_held_bytes_ = 0;
  StreamPoolFailure failure_;
};

}  // namespace glebe::device
