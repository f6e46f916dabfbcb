// Opening, closing and the threads of a transfer queue. See transfer.h.
#include "src/device/transfer.h"

#include <new>

#include "platform/process.h"
#include "platform/service.h"
#include "src/base/check.h"
#include "src/device/transfer_item.h"

namespace glebe::device {

using os::Lock;

namespace {

constexpr std::uint64_t kLookNs = 100'000'000;  // who sleeps without work looks again so often
constexpr std::uint64_t kPollNs = 50'000;       // and so often while a device works
constexpr unsigned kYieldRounds = 64;           // looks at the device before the first sleep

}  // namespace

TransferQueue::TransferQueue() noexcept = default;

TransferQueue::~TransferQueue() {
  close(TransferClose::wait);
  CHECK(batches_used_ == 0);  // a ticket outlives its queue
}

void TransferQueue::Signal::change() noexcept {
  word.fetch_add(1, std::memory_order_seq_cst);  // pairs with the acquire of those who wait
  if (sleepers.load(std::memory_order_seq_cst) != 0) os::wake_all(word);
}

// Either the change of the word is seen here, or the sleeper by who changes it.
void TransferQueue::Signal::sleep(std::uint32_t seen, std::uint64_t timeout_ns) noexcept {
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  if (word.load(std::memory_order_seq_cst) == seen) os::wait_on(word, seen, timeout_ns);
  sleepers.fetch_sub(1, std::memory_order_relaxed);
}

Outcome TransferQueue::check(const TransferQueueOptions& options) const noexcept {
  if (options.threads > TransferQueueOptions::kThreadsMax) return Status::bad_argument;
  if (options.piece_bytes == 0 || options.direct_bytes == 0) return Status::bad_argument;
  if (options.piece_bytes > options.ring_bytes) return Status::bad_argument;
  if (options.in_flight_max == 0 || options.in_flight_max > TransferQueueOptions::kInFlightMax) {
    return Status::bad_argument;
  }
  if (options.transfers_max == 0 || options.backoff_ns == 0) return Status::bad_argument;
  if (options.backoff_ns > options.backoff_max_ns) return Status::bad_argument;
  return {};
}

Outcome TransferQueue::open(Gpu& gpu, EventPool& events, const TransferQueueOptions& options) noexcept {
  close(TransferClose::wait);
  if (batches_used_ != 0) return Status::in_use;
  Outcome outcome = check(options);
  if (!outcome.ok()) return outcome;
  gpu_ = &gpu;
  events_ = &events;
  options_ = options;
  random_ = options.seed;
  is_cancelling_ = false;
  for (TransferStats& stats : stats_) stats = {};
  next_deadline_ns_ = ~std::uint64_t{0};
  outcome = open_tables();
  for (unsigned i = 0; i < kTransferDirections && outcome.ok(); ++i) outcome = open_lane(lanes_[i], i);
  if (outcome.ok()) {
    is_shut_.store(false, std::memory_order_seq_cst);
    outcome = start_threads();
  }
  if (!outcome.ok()) {
    stop_threads();
    close_lanes();
    close_tables();
    return outcome;
  }
  const Lock lock(mutex_);
  is_open_ = true;
  return {};
}

Outcome TransferQueue::open_tables() noexcept {
  items_made_ = batches_made_ = 0;
  free_items_ = nullptr;
  free_batches_ = nullptr;
  const std::size_t items_bytes = options_.transfers_max * sizeof(TransferItem);
  const std::size_t batches_bytes = options_.transfers_max * sizeof(TransferBatch);
  const std::size_t lanes_bytes = kTransferDirections * sizeof(TransferLane);
  if (!items_memory_.reserve(items_bytes, items_bytes, 4 * kKiB) ||
      !batches_memory_.reserve(batches_bytes, batches_bytes, 4 * kKiB) ||
      !lanes_memory_.reserve(lanes_bytes, lanes_bytes, 4 * kKiB) || !lanes_memory_.grow_to(lanes_bytes)) {
    return Status::no_host_memory;
  }
  auto* lanes = reinterpret_cast<TransferLane*>(lanes_memory_.base());
  for (unsigned i = 0; i < kTransferDirections; ++i) new (lanes + i) TransferLane;
  lanes_ = lanes;
  return {};
}

void TransferQueue::close_tables() noexcept {
  lanes_memory_.release();
  items_memory_.release();
  batches_memory_.release();
}

Outcome TransferQueue::open_lane(TransferLane& lane, unsigned number) noexcept {
  lane.number = number;
  {
    const CurrentContext current(*gpu_);
    const Outcome outcome = gpu_->check(gpu_->driver().stream_create(&lane.stream, cuda::kStreamNonBlocking));
    if (!outcome.ok()) {
      lane.stream = nullptr;
      return outcome;
    }
  }
  lane.fences.open(*gpu_, *events_);
  if (number == static_cast<unsigned>(TransferDirection::device)) return {};
  StagingOptions ring;
  ring.direction = static_cast<StagingDirection>(number);
  ring.policy = StagingPolicy::fail;
  ring.rings = options_.rings;
  ring.ring_bytes = options_.ring_bytes;
  ring.blocks_max = TransferQueueOptions::kInFlightMax * TransferSubmission::kPiecesMax;
  ring.is_write_combined = options_.is_write_combined && number == 0;
  ring.budget = options_.budget;
  ring.tag = options_.tag;
  return lane.ring.open(*gpu_, lane.fences, ring);
}
static_assert(static_cast<unsigned>(TransferDirection::upload) ==
              static_cast<unsigned>(StagingDirection::upload));
static_assert(static_cast<unsigned>(TransferDirection::download) ==
              static_cast<unsigned>(StagingDirection::download));

void TransferQueue::close_lanes() noexcept {
  TransferLane* lanes = nullptr;
  {
    // A second caller of close() that cancels looks for them with the lock held.
    const Lock lock(mutex_);
    lanes = lanes_;
    lanes_ = nullptr;
  }
  if (lanes == nullptr) return;
  for (unsigned i = 0; i < kTransferDirections; ++i) {
    TransferLane& lane = lanes[i];
    if (lane.count != 0) lane.ring.abandon();  // what was given up
    lane.ring.close();
    lane.fences.close();
    if (lane.stream != nullptr) {
      const CurrentContext current(*gpu_);
      static_cast<void>(gpu_->check(gpu_->driver().stream_destroy(lane.stream)));
    }
    lane.~TransferLane();
  }
}

Outcome TransferQueue::start_threads() noexcept {
  is_ending_.store(false, std::memory_order_relaxed);
  for (unsigned i = 0; i < options_.threads; ++i) {
    threads_.fetch_add(1, std::memory_order_relaxed);
    if (os::start_service_thread(enter_thread, this, "glebe-transfer")) continue;
    threads_.fetch_sub(1, std::memory_order_relaxed);
    return Status::no_host_memory;
  }
  return {};
}

// Returns when nobody is inside drive() and nobody will be.
void TransferQueue::stop_threads() noexcept {
  is_ending_.store(true, std::memory_order_release);  // pairs with the acquire in work()
  is_shut_.store(true, std::memory_order_seq_cst);    // pairs with help()
  for (;;) {
    const std::uint32_t left = threads_.load(std::memory_order_acquire);  // pairs with the end of work()
    if (left == 0) break;
    work_.change();
    os::wait_on(threads_, left, kPollNs);
  }
  while (helpers_.load(std::memory_order_seq_cst) != 0) os::yield();
}

void TransferQueue::close(TransferClose how) noexcept {
  bool is_first = false;
  {
    const Lock lock(mutex_);
    is_first = is_open_;
    if (!is_open_ && !is_closing_) return;
    is_open_ = false;
    is_closing_ = true;
    if (how == TransferClose::cancel && !is_cancelling_) {
      is_cancelling_ = true;
      if (lanes_ != nullptr) stop_all(Status::cancelled, ~std::uint64_t{0});
    }
  }
  work_.change();
  if (is_first) {
    finish_all();
    stop_threads();
    close_lanes();
    const Lock lock(mutex_);
    is_closing_ = false;
    done_.change();
    return;
  }
  for (;;) {
    const std::uint32_t seen = done_.word.load(std::memory_order_acquire);
    {
      const Lock lock(mutex_);
      if (!is_closing_) return;
    }
    done_.sleep(seen, kLookNs);
  }
}

// Until nothing is pending.
void TransferQueue::finish_all() noexcept {
  for (unsigned rounds = 0; pending() != 0;) {
    const std::uint32_t seen = done_.word.load(std::memory_order_acquire);
    if (pending() == 0) return;
    if (options_.threads != 0) {
      done_.sleep(seen, kLookNs);
    } else if (help()) {
      rounds = 0;
    } else {
      idle(&rounds);
    }
  }
}

void TransferQueue::enter_thread(void* self) noexcept { static_cast<TransferQueue*>(self)->work(); }

void TransferQueue::work() noexcept {
  for (unsigned rounds = 0; !is_ending_.load(std::memory_order_acquire);) {
    const std::uint32_t seen = work_.word.load(std::memory_order_acquire);
    if (help()) {
      rounds = 0;
    } else if (pending() != 0) {
      idle(&rounds);
    } else {
      work_.sleep(seen, kLookNs);
    }
  }
  // The last access: whoever waits for it may free the queue.
  std::atomic<std::uint32_t>& threads = threads_;
  threads.fetch_sub(1, std::memory_order_release);  // pairs with the acquire in stop_threads()
  os::wake_all(threads);
}

// Nothing could be done now: the device works, or a retry waits for its time.
void TransferQueue::idle(unsigned* rounds) noexcept {
  if (++*rounds <= kYieldRounds) {
    os::yield();
    return;
  }
  work_.sleep(work_.word.load(std::memory_order_acquire), kPollNs);
}

bool TransferQueue::help() noexcept {
  helpers_.fetch_add(1, std::memory_order_seq_cst);  // pairs with stop_threads()
  bool has_moved = false;
  if (!is_shut_.load(std::memory_order_seq_cst)) {
    expire();
    for (unsigned i = 0; i < kTransferDirections; ++i) has_moved |= drive(lanes_[i]);
  }
  helpers_.fetch_sub(1, std::memory_order_seq_cst);
  return has_moved;
}

TransferStats TransferQueue::stats(TransferDirection direction) noexcept {
  const Lock lock(mutex_);
  return stats_[static_cast<unsigned>(direction)];
}

}  // namespace glebe::device
