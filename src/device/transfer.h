// Transfers between the host and a device, and on the device: any length, asynchronous, in pieces (namespace
// glebe::device).
//
// A transfer is cut into pieces. Those of pageable memory go through a staging ring (staging.h), those of
// pinned memory straight; several pieces make a submission, which ends with a fence, and up to in_flight_max
// submissions of a direction are under way at the same time. So the host fills one block while the device
// reads another, and many small transfers share a fence. Each direction (uploads, downloads, work on the
// device) has a stream of its own. Within a direction the highest priority goes first, piece by piece; equal
// ones go in the order of their calls. Otherwise transfers are not ordered: who needs the bytes of one for
// the next waits for its ticket. Work of the program's own streams is not waited for either.
//
// The work is done by threads of the queue, or, without any, by whoever waits, polls or closes. A call that
// submits makes no driver call but the question whether the memory is pinned. No driver call is made while
// the queue's lock is held. Thread-safe, except open().
//
// A driver that answers neither "done" nor "under way" is asked again, after a time that doubles, and
// meanwhile nothing is queued in that direction. Transfers that wait for kOddAnswersMax such answers in a row
// end as failed, with its answer. The device may go on with what it has, so their memory must not be used
// again before a later transfer of the direction has ended well. As soon as the driver tells again such are
// served.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "platform/thread.h"
#include "src/base/list.h"
#include "src/device/event_pool.h"
#include "src/device/gpu.h"
#include "src/device/staging.h"
#include "src/device/transfer_fence.h"
#include "src/paging/budget.h"
#include "src/paging/growing_memory.h"

namespace glebe::device {

class TransferQueue;
struct TransferBatch;
struct TransferItem;
struct TransferLane;
struct TransferPiece;
struct TransferSubmission;

enum class TransferKind : std::uint8_t { upload, download, copy, fill };
enum class TransferPriority : std::uint8_t { low, normal, high };
inline constexpr unsigned kTransferPriorities = 3;
enum class TransferDirection : std::uint8_t { upload, download, device };  // copies and fills are `device`
inline constexpr unsigned kTransferDirections = 3;
// unknown: the driver is asked. pinned: by mem_host_alloc or mem_host_register.
enum class HostMemory : std::uint8_t { unknown, pageable, pinned };

struct TransferOptions {
  TransferPriority priority = TransferPriority::normal;
  HostMemory host = HostMemory::unknown;
  // Reads everything back when it has arrived and compares checksums of all bytes with the source.
  bool is_verified = false;
  unsigned retries_max = 8;  // in a row, of answers that may pass: out_of_memory
  // From the call on; what has not been queued by then is not queued any more, and it ends as timed_out. 0:
  // none.
  std::uint64_t timeout_ns = 0;
};

// What is to be done. Memory of the host stays the caller's, unchanged until the transfer has ended.
struct Transfer {
  TransferKind kind = TransferKind::upload;
  cuda::DevicePointer device = 0;   // where it goes; of a download, where it comes from
  const std::byte* from = nullptr;  // of an upload
  std::byte* to = nullptr;          // of a download
  cuda::DevicePointer source = 0;   // of a copy; the ranges do not overlap
  std::uint64_t size_bytes = 0;
  std::uint8_t value = 0;  // of a fill
  TransferOptions options;
};

struct TransferResult {
  Outcome outcome = Status::not_ready;  // until it has ended
  std::uint64_t moved_bytes = 0;        // that arrived: always the first ones of the range
  std::uint32_t pieces = 0;
  std::uint32_t retries = 0;
  bool is_direct = false;         // of an upload or download: not through a staging ring
  std::uint64_t duration_ns = 0;  // from the call to the end
};

// One call's transfers. Moves, and is used by one thread at a time. The queue outlives it.
class [[nodiscard]] Ticket {
 public:
  static constexpr std::uint64_t kForever = ~std::uint64_t{0};

  constexpr Ticket() noexcept = default;
  ~Ticket() { release(); }
  Ticket(Ticket&& other) noexcept;
  Ticket& operator=(Ticket&& other) noexcept;

  // Whether all have ended. Without threads this is what makes them go on.
  [[nodiscard]] bool done() noexcept;
  // Waits for the end of all. The outcome of the first one that failed; not_ready: the time is over first.
  Outcome wait(std::uint64_t timeout_ns = kForever) noexcept;
  // Ends what has not ended; when it returns nothing touches the caller's memory any more, unless a transfer
  // failed because the driver did not tell, see above. ok: all had ended before. cancelled: some had not;
  // their results tell how many bytes had arrived.
  Outcome cancel() noexcept;
  // Waits for the end and forgets the results. Without effect on an empty ticket.
  void release() noexcept;

  // All together: the first failure, sums of the rest, the longest duration.
  [[nodiscard]] TransferResult result() noexcept;
  // One by one, in the order of the call; index < size().
  [[nodiscard]] TransferResult item(std::size_t index) noexcept;
  [[nodiscard]] std::size_t size() const noexcept;

 private:
  friend class TransferQueue;

  TransferQueue* queue_ = nullptr;
  TransferBatch* batch_ = nullptr;  // nullptr: nothing was accepted
  Outcome refused_;                 // why
};

struct TransferQueueOptions {
  static constexpr unsigned kThreadsMax = 8;
  static constexpr unsigned kInFlightMax = 16;
  static constexpr std::uint32_t kOddAnswersMax = 16;

  unsigned threads = 1;                  // 0: whoever waits or polls does the work
  unsigned rings = 1;                    // per direction, see staging.h
  std::size_t ring_bytes = 16 * kMiB;    // pinned, of each ring, for uploads and for downloads
  std::size_t piece_bytes = kMiB;        // a submission holds about as much; at most ring_bytes
  std::size_t direct_bytes = 16 * kMiB;  // piece of what needs no staging
  unsigned in_flight_max = 4;            // submissions of a direction at a time; 1 to kInFlightMax
  std::uint32_t transfers_max = 65536;   // that have no end yet or a ticket still
  std::uint64_t backoff_ns = 100'000;    // before what is tried again; doubles, less a random part
  std::uint64_t backoff_max_ns = 10'000'000;
  std::uint64_t seed = 1;            // of the random part
  bool is_write_combined = false;    // the rings for uploads
  paging::Budget* budget = nullptr;  // charged for the rings; outlives the queue
  paging::BudgetTag tag = 0;
};

struct TransferStats {
  std::uint64_t accepted = 0, succeeded = 0, failed = 0, cancelled = 0, timed_out = 0;  // transfers
  std::uint64_t bytes = 0, staged_bytes = 0;  // that arrived; the part that went through a ring
  std::uint64_t verified_bytes = 0, corrupt = 0;
  std::uint64_t pieces = 0, submissions = 0, retries = 0;
  std::uint32_t in_flight = 0, peak_in_flight = 0;  // submissions
  std::uint64_t stalls = 0, stalled_ns = 0;         // the ring had no room for the next piece
  std::uint64_t busy_ns = 0;                        // something was in flight

  [[nodiscard]] double bytes_per_second() const noexcept {
    return busy_ns == 0 ? 0.0 : 1e9 * static_cast<double>(bytes) / static_cast<double>(busy_ns);
  }
};

enum class TransferClose : std::uint8_t { wait, cancel };  // what becomes of transfers that have not ended

class TransferQueue {
 public:
  TransferQueue() noexcept;
  ~TransferQueue();
  TransferQueue(const TransferQueue&) = delete;
  TransferQueue& operator=(const TransferQueue&) = delete;

  // `gpu` and `events` outlive the queue. bad_argument; over_budget; out_of_memory; no_host_memory, also when
  // no thread can be started; in_use: tickets of an earlier use are there. A failure leaves nothing behind.
  Outcome open(Gpu& gpu, EventPool& events, const TransferQueueOptions& options) noexcept;
  // Refuses new transfers, ends the others as told, then gives everything back. Tickets stay readable. May be
  // called twice, and while others wait for their tickets; a second caller can turn `wait` into `cancel`, and
  // returns when the first one does.
  void close(TransferClose how) noexcept;

  // One transfer, or several under one ticket. The ticket of what was refused has ended: bad_argument, for
  // each one by itself; over_budget: transfers_max; no_host_memory; cancelled: the queue is closed.
  Ticket submit(std::span<const Transfer> transfers) noexcept;
  Ticket upload(cuda::DevicePointer to, const void* from, std::uint64_t size_bytes,
                const TransferOptions& options = {}) noexcept;
  Ticket download(void* to, cuda::DevicePointer from, std::uint64_t size_bytes,
                  const TransferOptions& options = {}) noexcept;
  Ticket copy(cuda::DevicePointer to, cuda::DevicePointer from, std::uint64_t size_bytes,
              const TransferOptions& options = {}) noexcept;
  Ticket fill(cuda::DevicePointer to, std::uint8_t value, std::uint64_t size_bytes,
              const TransferOptions& options = {}) noexcept;

  // Goes on with what there is, without waiting; false: nothing could be done now. For programs that have no
  // threads here and look in now and then.
  bool help() noexcept;
  [[nodiscard]] std::uint64_t pending() const noexcept { return pending_.load(std::memory_order_acquire); }
  // Since open(); stays readable after close().
  [[nodiscard]] TransferStats stats(TransferDirection direction) noexcept;

 private:
  friend class Ticket;
  // A word that changes, and how many threads sleep until it does: without any, nobody calls the kernel.
  struct Signal {
    std::atomic<std::uint32_t> word{0}, sleepers{0};
    void change() noexcept;
    void sleep(std::uint32_t seen, std::uint64_t timeout_ns) noexcept;
  };

  // Opening and closing (transfer.cpp).
  Outcome check(const TransferQueueOptions& options) const noexcept;
  Outcome open_tables() noexcept;
  void close_tables() noexcept;
  void finish_all() noexcept;
  Outcome open_lane(TransferLane& lane, unsigned number) noexcept;
  Outcome start_threads() noexcept;
  void stop_threads() noexcept;
  void close_lanes() noexcept;
  static void enter_thread(void* self) noexcept;
  void work() noexcept;
  void idle(unsigned* rounds) noexcept;

  // Records and tickets (transfer_ticket.cpp).
  [[nodiscard]] TransferBatch* make_batch(std::size_t count, Outcome* why) noexcept;
  void forget(TransferBatch& batch) noexcept;
  void accept(TransferItem& item, const Transfer& what, bool is_direct) noexcept;
  [[nodiscard]] bool is_pinned(const Transfer& what) noexcept;
  [[nodiscard]] Outcome validate(const Transfer& what) const noexcept;
  [[nodiscard]] bool wait_for(TransferBatch& batch, std::uint64_t timeout_ns) noexcept;
  bool cancel(TransferBatch& batch) noexcept;

  // Pieces (transfer_lane.cpp). The first group is called with the lane's driver lock held.
  bool drive(TransferLane& lane) noexcept;
  bool retire(TransferLane& lane) noexcept;
  void ask(TransferLane& lane) noexcept;
  void pop(TransferLane& lane) noexcept;
  Outcome put_fence(TransferLane& lane, TransferSubmission& submission) noexcept;
  void give_up(TransferLane& lane, Outcome why) noexcept;
  bool start(TransferLane& lane) noexcept;
  [[nodiscard]] bool choose(TransferLane& lane, const TransferSubmission& with,
                            TransferPiece* piece) noexcept;
  Outcome issue(TransferLane& lane, TransferPiece& piece) noexcept;
  Outcome queue_copy(const TransferLane& lane, const TransferPiece& piece) noexcept;
  void put_back(TransferItem& item, Outcome why) noexcept;
  void commit(TransferLane& lane, const TransferPiece& piece) noexcept;
  void finish(TransferLane& lane, TransferPiece& piece) noexcept;
  void give_block(TransferLane& lane, const TransferPiece& piece) noexcept;
  void absorb(TransferPiece& piece) noexcept;
  // With the queue's lock held.
  void stop(TransferItem& item, Outcome why) noexcept;
  void pass_on(TransferItem& item) noexcept;
  void end(TransferItem& item) noexcept;
  void stop_all(Outcome why, std::uint64_t deadline_ns) noexcept;
  void stop_lane(TransferLane& lane, Outcome why, std::uint64_t deadline_ns) noexcept;
  [[nodiscard]] std::uint64_t backoff_ns(unsigned attempts) noexcept;
  [[nodiscard]] TransferStats& stats_of(const TransferItem& item) noexcept;
  [[nodiscard]] TransferLane& lane_of(const TransferItem& item) noexcept;
  void expire() noexcept;

  Gpu* gpu_ = nullptr;
  EventPool* events_ = nullptr;
  TransferQueueOptions options_;
  paging::GrowingMemory lanes_memory_;
  TransferLane* lanes_ = nullptr;  // kTransferDirections of them

  os::Mutex mutex_;  // the queue's lock: all below, the lists of the lanes, and the records
  paging::GrowingMemory items_memory_, batches_memory_;
  std::uint32_t items_made_ = 0, batches_made_ = 0, items_used_ = 0, batches_used_ = 0;
  TransferItem* free_items_ = nullptr;
  TransferBatch* free_batches_ = nullptr;
  bool is_open_ = false;        // accepts transfers
  bool is_closing_ = false;     // somebody is inside close() and will give everything back
  bool is_cancelling_ = false;  // nothing goes on to another pass
  TransferStats stats_[kTransferDirections];
  std::uint64_t random_ = 0;
  std::uint64_t next_deadline_ns_ = ~std::uint64_t{0};

  Signal work_;  // changes when there is something to do
  Signal done_;  // changes when a transfer has ended
  std::atomic<std::uint64_t> pending_{0};
  std::atomic<std::uint32_t> threads_{0}, helpers_{0};
  std::atomic<bool> is_ending_{false};  // threads go home
  std::atomic<bool> is_shut_{true};     // nobody may help any more
};

}  // namespace glebe::device
