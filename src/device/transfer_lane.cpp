// One direction of a transfer queue: choosing the next piece, queueing it, and what happens when its fence is
// reached. See transfer.h and transfer_item.h.
//
// Whoever drives a lane holds its driver lock and takes the queue's lock for moments only: to choose a piece,
// to write down that it was queued or failed, and that it has arrived. Driver calls and copies by the CPU lie
// between. A piece that was chosen counts as in flight, so a transfer that is stopped meanwhile ends when the
// piece does.
#include <cstring>

#include "platform/process.h"
#include "src/base/check.h"
#include "src/device/transfer.h"
#include "src/device/transfer_item.h"
#include "src/paging/checksum.h"

namespace glebe::device {

using os::Lock;

namespace {

bool holds_only(const std::byte* data, std::size_t size_bytes, std::uint8_t value) noexcept {
  if (data[0] != std::byte{value}) return false;
  return std::memcmp(data, data + 1, size_bytes - 1) == 0;
}

bool is_upload_lane(const TransferLane& lane) noexcept {
  return lane.number == static_cast<unsigned>(TransferDirection::upload);
}

}  // namespace

TransferStats& TransferQueue::stats_of(const TransferItem& item) noexcept {
  return stats_[static_cast<unsigned>(item.counted_as())];
}

TransferLane& TransferQueue::lane_of(const TransferItem& item) noexcept {
  return lanes_[static_cast<unsigned>(item.direction())];
}

// True: something was done; there may be more.
bool TransferQueue::drive(TransferLane& lane) noexcept {
  if (!lane.driver.try_lock()) return false;
  bool has_moved = false;
  {
    const CurrentContext current(*gpu_);
    has_moved = retire(lane);
    while (start(lane)) has_moved = true;
  }
  lane.driver.unlock();
  return has_moved;
}

// --- What has arrived ---

bool TransferQueue::retire(TransferLane& lane) noexcept {
  if (lane.count == 0) return false;
  ask(lane);
  bool has_moved = false;
  while (lane.count > 0) {
    TransferSubmission& oldest = lane.submissions[lane.first];
    if (!oldest.has_fence || !lane.fences.is_reached(oldest.fence)) break;
    for (unsigned i = 0; i < oldest.count; ++i) finish(lane, oldest.pieces[i]);
    pop(lane);
    has_moved = true;
  }
  return has_moved;
}

// Asks the driver how far it is; after an odd answer not before some time has passed.
void TransferQueue::ask(TransferLane& lane) noexcept {
  const std::uint64_t now_ns = os::clock_fine_ns();
  if (lane.odd_answers != 0 && now_ns < lane.ask_again_ns) return;
  TransferSubmission& newest =
      lane.submissions[(lane.first + lane.count - 1) % TransferQueueOptions::kInFlightMax];
  Outcome outcome = newest.has_fence ? Outcome() : put_fence(lane, newest);
  const Outcome polled = is_upload_lane(lane) ? lane.ring.poll() : lane.fences.poll();
  if (outcome.ok() && polled.status != Status::device_lost) outcome = polled;
  if (outcome.ok()) {
    lane.odd_answers = lane.patience_used = 0;
    return;
  }
  bool is_awaited = !newest.is_given_up;
  {
    const Lock lock(mutex_);
    if (lane.odd_answers < TransferQueueOptions::kOddAnswersMax) ++lane.odd_answers;
    lane.ask_again_ns = now_ns + backoff_ns(lane.odd_answers);
    for (const List<TransferItem>& list : lane.waiting) is_awaited = is_awaited || !list.is_empty();
  }
  lane.patience_used = is_awaited ? lane.patience_used + 1 : 0;
  if (lane.patience_used >= TransferQueueOptions::kOddAnswersMax) {
    give_up(lane, {Status::failed, outcome.driver});
  }
}

// The oldest submission is dealt with.
void TransferQueue::pop(TransferLane& lane) noexcept {
  lane.first = (lane.first + 1) % TransferQueueOptions::kInFlightMax;
  --lane.count;
  const std::uint64_t now_ns = os::clock_fine_ns();
  const Lock lock(mutex_);
  TransferStats& stats = stats_[lane.number];
  stats.in_flight = lane.count;
  stats.busy_ns += now_ns - lane.busy_since_ns;
  lane.busy_since_ns = now_ns;
  if (lane.full_since_ns != 0) stats.stalled_ns += now_ns - lane.full_since_ns;
  lane.full_since_ns = 0;
}

// Nobody can tell what the device still does here: the transfers end, and the submissions stay, with their
// blocks, until the driver tells again.
void TransferQueue::give_up(TransferLane& lane, Outcome why) noexcept {
  lane.patience_used = 0;
  const Lock lock(mutex_);
  for (std::uint32_t i = 0; i < lane.count; ++i) {
    TransferSubmission& submission = lane.submissions[(lane.first + i) % TransferQueueOptions::kInFlightMax];
    if (submission.is_given_up) continue;
    submission.is_given_up = true;
    for (unsigned piece = 0; piece < submission.count; ++piece) {
      TransferItem& item = *submission.pieces[piece].item;
      submission.pieces[piece].item = nullptr;
      if (!item.is_stopped) stop(item, why);
      if (--item.pieces_in_flight == 0) end(item);
    }
  }
  stop_lane(lane, why, ~std::uint64_t{0});
}

// The piece is with the device no more.
void TransferQueue::finish(TransferLane& lane, TransferPiece& piece) noexcept {
  if (piece.item == nullptr) return give_block(lane, piece);
  TransferItem& item = *piece.item;
  const bool is_lost = gpu_->is_lost();
  bool is_wanted = false;
  {
    const Lock lock(mutex_);
    if (is_lost && !item.is_stopped) stop(item, Status::device_lost);
    is_wanted = !item.is_stopped;
  }
  if (is_wanted) absorb(piece);
  give_block(lane, piece);
  const Lock lock(mutex_);
  CHECK(item.pieces_in_flight > 0);
  --item.pieces_in_flight;
  // What a transfer that was stopped had on its way has arrived all the same, unless we were to carry it on.
  const bool has_arrived = is_wanted || (!is_lost && item.result.outcome.status != Status::device_lost &&
                                         (item.what.kind != TransferKind::download || item.result.is_direct));
  TransferStats& stats = stats_of(item);
  if (has_arrived && item.pass == TransferItem::Pass::move) {
    item.result.moved_bytes += piece.size_bytes;
    ++item.result.pieces;
    stats.bytes += piece.size_bytes;
    ++stats.pieces;
    if (piece.block.data != nullptr) stats.staged_bytes += piece.size_bytes;
  } else if (is_wanted) {
    stats.verified_bytes += piece.size_bytes;
  }
  if (is_wanted) item.passed_bytes += piece.size_bytes;
  if (item.pieces_in_flight > 0) return;
  if (item.is_stopped) return end(item);
  if (item.passed_bytes == item.what.size_bytes) pass_on(item);
}

// Blocks of uploads go back by their fences.
void TransferQueue::give_block(TransferLane& lane, const TransferPiece& piece) noexcept {
  if (piece.block.data != nullptr && !is_upload_lane(lane)) lane.ring.give(piece.block);
}

// What the CPU does with bytes that came back. Pieces come in order, so each sum covers all bytes before it.
void TransferQueue::absorb(TransferPiece& piece) noexcept {
  TransferItem& item = *piece.item;
  const Transfer& what = item.what;
  const std::byte* const data = piece.block.data;
  const std::size_t size_bytes = piece.size_bytes;
  if (item.pass == TransferItem::Pass::move) {
    if (what.kind == TransferKind::download && data != nullptr) {
      std::memcpy(what.to + piece.offset, data, size_bytes);
    }
    return;
  }
  const bool is_target = item.pass == TransferItem::Pass::read_target;
  if (what.kind == TransferKind::fill) {
    if (!holds_only(data, size_bytes, what.value)) item.sums[0] = ~item.sums[1];
    return;
  }
  std::uint64_t& sum = item.sums[is_target ? 0 : 1];
  sum = paging::checksum(data, size_bytes, sum);
  if (what.kind == TransferKind::copy) return;
  const std::byte* const host = what.kind == TransferKind::upload ? what.from : what.to;
  item.sums[1] = paging::checksum(host + piece.offset, size_bytes, item.sums[1]);
}

// All bytes of a pass have arrived.
void TransferQueue::pass_on(TransferItem& item) noexcept {
  using Pass = TransferItem::Pass;
  const bool is_copy = item.what.kind == TransferKind::copy;
  const bool is_last =
      !item.what.options.is_verified || item.pass == (is_copy ? Pass::read_source : Pass::read_target);
  if (is_last) {
    item.result.outcome = item.sums[0] == item.sums[1] ? Outcome() : Outcome(Status::corrupt);
    return end(item);
  }
  if (is_cancelling_) return stop(item, Status::cancelled);
  item.pass = item.pass == Pass::move ? Pass::read_target : Pass::read_source;
  item.issued_bytes = item.passed_bytes = 0;
  item.attempts = 0;
  item.state = TransferItem::State::waiting;
  if (item.deadline_ns < next_deadline_ns_) next_deadline_ns_ = item.deadline_ns;
  lane_of(item).waiting[static_cast<unsigned>(item.what.options.priority)].push_back(&item);
}

// --- What is queued next ---

bool TransferQueue::start(TransferLane& lane) noexcept {
  if (lane.count == options_.in_flight_max) return false;
  if (lane.full_since_ns != 0 && lane.count > 0) return false;  // nothing was given back since
  if (lane.odd_answers != 0) return false;                      // first the driver has to tell again
  TransferSubmission& submission =
      lane.submissions[(lane.first + lane.count) % TransferQueueOptions::kInFlightMax];
  submission.count = 0;
  submission.size_bytes = 0;
  submission.is_given_up = false;
  TransferPiece piece;
  while (submission.count < TransferSubmission::kPiecesMax && choose(lane, submission, &piece)) {
    const Outcome outcome = issue(lane, piece);
    if (outcome.status == Status::not_ready) break;
    if (!outcome.ok()) continue;
    commit(lane, piece);
    submission.pieces[submission.count++] = piece;
    submission.size_bytes += piece.size_bytes;
  }
  if (submission.count == 0) return false;
  // Without a fence the device has the pieces all the same; ask() tries again.
  static_cast<void>(put_fence(lane, submission));
  if (lane.count++ == 0) lane.busy_since_ns = os::clock_fine_ns();
  const Lock lock(mutex_);
  TransferStats& stats = stats_[lane.number];
  ++stats.submissions;
  stats.in_flight = lane.count;
  if (lane.count > stats.peak_in_flight) stats.peak_in_flight = lane.count;
  return submission.has_fence;
}

Outcome TransferQueue::put_fence(TransferLane& lane, TransferSubmission& submission) noexcept {
  // Room for it is there: the lane is the only one to use its queue of fences.
  static_assert(TransferQueueOptions::kInFlightMax < FenceQueue::kFencesMax);
  Outcome outcome;
  if (is_upload_lane(lane)) {
    StagingBlock blocks[TransferSubmission::kPiecesMax];
    unsigned count = 0;
    for (unsigned i = 0; i < submission.count; ++i) {
      if (submission.pieces[i].block.data != nullptr) blocks[count++] = submission.pieces[i].block;
    }
    outcome = lane.ring.submit({blocks, count}, lane.stream, &submission.fence);
  } else {
    outcome = lane.fences.record(lane.stream, submission.size_bytes, &submission.fence);
  }
  submission.has_fence = outcome.ok();
  return outcome;
}

// The next piece of the first transfer of the highest priority that may go on. False: there is none, or it
// does not fit into this submission.
bool TransferQueue::choose(TransferLane& lane, const TransferSubmission& with,
                           TransferPiece* piece) noexcept {
  const std::uint64_t now_ns = os::clock_fine_ns();
  const Lock lock(mutex_);
  for (unsigned priority = kTransferPriorities; priority-- > 0;) {
    TransferItem* item = lane.waiting[priority].first();
    while (item != nullptr && item->not_before_ns > now_ns) item = List<TransferItem>::next(item);
    if (item == nullptr) continue;
    const std::size_t most = item->is_staged() ? options_.piece_bytes : options_.direct_bytes;
    const std::uint64_t left = item->what.size_bytes - item->issued_bytes;
    const std::size_t size_bytes = left < most ? static_cast<std::size_t>(left) : most;
    if (with.count != 0 && with.size_bytes + size_bytes > options_.piece_bytes) return false;
    ++item->pieces_in_flight;
    *piece = {item, item->issued_bytes, size_bytes, {}};
    return true;
  }
  return false;
}

// ok: the device has it. not_ready: the ring is full. Otherwise the transfer was put back or stopped.
Outcome TransferQueue::issue(TransferLane& lane, TransferPiece& piece) noexcept {
  TransferItem& item = *piece.item;
  Outcome outcome;
  if (gpu_->is_lost()) {
    outcome = Status::device_lost;
  } else if (item.is_staged()) {
    outcome = lane.ring.take(piece.size_bytes, &piece.block);
  }
  if (outcome.status == Status::not_ready) {
    lane.full_since_ns = os::clock_fine_ns();
    put_back(item, outcome);
    const Lock lock(mutex_);
    ++stats_[lane.number].stalls;
    return outcome;
  }
  if (outcome.ok()) {
    const bool is_upload = item.what.kind == TransferKind::upload && item.pass == TransferItem::Pass::move;
    if (is_upload && piece.block.data != nullptr) {
      std::memcpy(piece.block.data, item.what.from + piece.offset, piece.size_bytes);
    }
    outcome = queue_copy(lane, piece);
    if (!outcome.ok() && piece.block.data != nullptr) lane.ring.give(piece.block);
  }
  if (!outcome.ok()) put_back(item, outcome);
  // For the caller a piece that failed is not the end of the submission, whatever the driver said.
  return outcome.status == Status::not_ready ? Outcome(Status::failed, outcome.driver) : outcome;
}

Outcome TransferQueue::queue_copy(const TransferLane& lane, const TransferPiece& piece) noexcept {
  const TransferItem& item = *piece.item;
  const Transfer& what = item.what;
  const cuda::Driver& driver = gpu_->driver();
  const cuda::DevicePointer device = what.device + piece.offset;
  if (item.pass != TransferItem::Pass::move) {
    const cuda::DevicePointer from =
        item.pass == TransferItem::Pass::read_target ? device : what.source + piece.offset;
    return gpu_->check(driver.memcpy_d2h_async(piece.block.data, from, piece.size_bytes, lane.stream));
  }
  switch (what.kind) {
    case TransferKind::upload: {
      const std::byte* const from = piece.block.data != nullptr ? piece.block.data : what.from + piece.offset;
      return gpu_->check(driver.memcpy_h2d_async(device, from, piece.size_bytes, lane.stream));
    }
    case TransferKind::download: {
      std::byte* const to = piece.block.data != nullptr ? piece.block.data : what.to + piece.offset;
      return gpu_->check(driver.memcpy_d2h_async(to, device, piece.size_bytes, lane.stream));
    }
    case TransferKind::copy:
      return gpu_->check(
          driver.memcpy_d2d_async(device, what.source + piece.offset, piece.size_bytes, lane.stream));
    case TransferKind::fill:
      return gpu_->check(driver.memset_d8_async(device, what.value, piece.size_bytes, lane.stream));
  }
  return Status::bad_argument;
}

// The device has the piece.
void TransferQueue::commit(TransferLane& lane, const TransferPiece& piece) noexcept {
  TransferItem& item = *piece.item;
  const Lock lock(mutex_);
  item.issued_bytes += piece.size_bytes;
  item.attempts = 0;
  if (item.state != TransferItem::State::waiting || item.issued_bytes != item.what.size_bytes) return;
  lane.waiting[static_cast<unsigned>(item.what.options.priority)].remove(&item);
  item.state = TransferItem::State::in_no_list;
}

// The piece that was chosen last did not get to the device: again later, or never.
void TransferQueue::put_back(TransferItem& item, Outcome why) noexcept {
  const std::uint64_t now_ns = os::clock_fine_ns();
  const Lock lock(mutex_);
  --item.pieces_in_flight;
  if (item.is_stopped) {
    if (item.pieces_in_flight == 0) end(item);
    return;
  }
  if (why.status == Status::not_ready) return;
  const bool may_pass = why.status == Status::out_of_memory;
  if (!may_pass || item.attempts >= item.what.options.retries_max) return stop(item, why);
  ++item.attempts;
  ++item.result.retries;
  ++stats_of(item).retries;
  item.not_before_ns = now_ns + backoff_ns(item.attempts);
}

// Doubles with each attempt; up to a half of it is taken away at random, so that several that failed together
// do not come back together.
std::uint64_t TransferQueue::backoff_ns(unsigned attempts) noexcept {
  std::uint64_t wait_ns = options_.backoff_ns;
  for (unsigned i = 1; i < attempts && wait_ns < options_.backoff_max_ns; ++i) wait_ns *= 2;
  if (wait_ns > options_.backoff_max_ns) wait_ns = options_.backoff_max_ns;
  // SplitMix64 (Steele, Lea, Flood 2014).
  random_ += 0x9E3779B97F4A7C15u;
  std::uint64_t z = random_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return wait_ns - (z ^ (z >> 31)) % (wait_ns / 2 + 1);
}

// --- The end, with the queue's lock held ---

// No piece more. It ends now, or when the last piece in flight does.
void TransferQueue::stop(TransferItem& item, Outcome why) noexcept {
  item.is_stopped = true;
  item.result.outcome = why;
  if (item.state == TransferItem::State::waiting) {
    lane_of(item).waiting[static_cast<unsigned>(item.what.options.priority)].remove(&item);
    item.state = TransferItem::State::in_no_list;
  }
  if (item.pieces_in_flight == 0) end(item);
}

void TransferQueue::end(TransferItem& item) noexcept {
  CHECK(item.pieces_in_flight == 0);
  item.state = TransferItem::State::ended;
  item.result.duration_ns = os::clock_fine_ns() - item.start_ns;
  TransferStats& stats = stats_of(item);
  switch (item.result.outcome.status) {
    case Status::ok:
      ++stats.succeeded;
      break;
    case Status::cancelled:
      ++stats.cancelled;
      break;
    case Status::timed_out:
      ++stats.timed_out;
      break;
    default:
      ++stats.failed;
      if (item.result.outcome.status == Status::corrupt) ++stats.corrupt;
  }
  item.batch->left.fetch_sub(1, std::memory_order_release);  // pairs with wait_for()
  pending_.fetch_sub(1, std::memory_order_release);
  done_.change();
}

// Stops all that wait for a piece to be queued and whose deadline is not after `deadline_ns`.
void TransferQueue::stop_all(Outcome why, std::uint64_t deadline_ns) noexcept {
  next_deadline_ns_ = ~std::uint64_t{0};
  for (unsigned i = 0; i < kTransferDirections; ++i) stop_lane(lanes_[i], why, deadline_ns);
}

void TransferQueue::stop_lane(TransferLane& lane, Outcome why, std::uint64_t deadline_ns) noexcept {
  for (const List<TransferItem>& list : lane.waiting) {
    for (TransferItem* item = list.first(); item != nullptr;) {
      TransferItem* const next = List<TransferItem>::next(item);
      const std::uint64_t its_ns = item->deadline_ns;
      if (its_ns <= deadline_ns) stop(*item, why);
      if (its_ns > deadline_ns && its_ns < next_deadline_ns_) next_deadline_ns_ = its_ns;
      item = next;
    }
  }
}

void TransferQueue::expire() noexcept {
  const bool is_lost = gpu_->is_lost();
  const std::uint64_t now_ns = os::clock_fine_ns();
  const Lock lock(mutex_);
  if (is_lost) return stop_all(Status::device_lost, ~std::uint64_t{0});
  if (now_ns >= next_deadline_ns_) stop_all(Status::timed_out, now_ns);
}

}  // namespace glebe::device
