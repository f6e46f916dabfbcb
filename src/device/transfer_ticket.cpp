// Tickets: what is asked for is checked and written down, waited for, cancelled and forgotten. See
// transfer.h.
#include <new>

#include "platform/process.h"
#include "platform/service.h"
#include "src/base/check.h"
#include "src/device/transfer.h"
#include "src/device/transfer_item.h"

namespace glebe::device {

using os::Lock;

namespace {

constexpr std::uint64_t kLookNs = 100'000'000;  // who waits looks again so often

cuda::DevicePointer address_of(const std::byte* host) noexcept {
  return reinterpret_cast<std::uintptr_t>(host);
}

bool wraps(std::uint64_t base, std::uint64_t size_bytes) noexcept { return base + size_bytes < base; }

}  // namespace

Outcome TransferQueue::validate(const Transfer& what) const noexcept {
  if (what.kind > TransferKind::fill || what.options.host > HostMemory::pinned) return Status::bad_argument;
  if (static_cast<unsigned>(what.options.priority) >= kTransferPriorities) return Status::bad_argument;
  if (what.size_bytes == 0) return {};
  if (what.device == 0 || wraps(what.device, what.size_bytes)) return Status::bad_argument;
  const std::byte* const host = what.kind == TransferKind::upload ? what.from : what.to;
  const bool has_host = what.kind == TransferKind::upload || what.kind == TransferKind::download;
  if (has_host && (host == nullptr || wraps(address_of(host), what.size_bytes))) return Status::bad_argument;
  if (what.kind != TransferKind::copy) return {};
  if (what.source == 0 || wraps(what.source, what.size_bytes)) return Status::bad_argument;
  const bool is_apart =
      what.source + what.size_bytes <= what.device || what.device + what.size_bytes <= what.source;
  return is_apart ? Outcome() : Outcome(Status::bad_argument);
}

// Whether the device can read or write all of the host's memory by itself. A range that lies in several
// registrations counts as pageable.
bool TransferQueue::is_pinned(const Transfer& what) noexcept {
  if (what.kind == TransferKind::copy || what.kind == TransferKind::fill || what.size_bytes == 0)
    return false;
  if (what.options.host != HostMemory::unknown) return what.options.host == HostMemory::pinned;
  const cuda::DevicePointer at = address_of(what.kind == TransferKind::upload ? what.from : what.to);
  const CurrentContext current(*gpu_);
  const cuda::Driver& driver = gpu_->driver();
  unsigned type = 0;
  cuda::DevicePointer start = 0;
  std::size_t size_bytes = 0;
  using Attribute = cuda::PointerAttribute;
  if (driver.pointer_get_attribute(&type, Attribute::memory_type, at) != cuda::Result::success) return false;
  if (type != static_cast<unsigned>(cuda::MemoryType::host)) return false;
  if (driver.pointer_get_attribute(&start, Attribute::range_start, at) != cuda::Result::success) return false;
  if (driver.pointer_get_attribute(&size_bytes, Attribute::range_size, at) != cuda::Result::success) {
    return false;
  }
  return at >= start && at - start < size_bytes && what.size_bytes <= size_bytes - (at - start);
}

// All records of a call, or none.
TransferBatch* TransferQueue::make_batch(std::size_t count, Outcome* why) noexcept {
  *why = Status::over_budget;
  if (count > options_.transfers_max - items_used_ || batches_used_ == options_.transfers_max) return nullptr;
  *why = Status::no_host_memory;
  // Free records and new ones together: enough memory for all that are used afterwards.
  if (!items_memory_.grow_to((items_used_ + count) * sizeof(TransferItem)) ||
      !batches_memory_.grow_to((std::size_t{batches_used_} + 1) * sizeof(TransferBatch))) {
    return nullptr;
  }
  *why = {};
  TransferBatch* batch = free_batches_;
  if (batch != nullptr) {
    free_batches_ = batch->next_free;
  } else {
    batch = reinterpret_cast<TransferBatch*>(batches_memory_.base()) + batches_made_++;
  }
  new (batch) TransferBatch;
  TransferItem** link = &batch->first;
  for (std::size_t i = 0; i < count; ++i) {
    TransferItem* item = free_items_;
    if (item != nullptr) {
      free_items_ = item->next_in_batch;
    } else {
      item = reinterpret_cast<TransferItem*>(items_memory_.base()) + items_made_++;
    }
    new (item) TransferItem;
    item->batch = batch;
    *link = item;
    link = &item->next_in_batch;
  }
  batch->count = static_cast<std::uint32_t>(count);
  batch->left.store(batch->count, std::memory_order_relaxed);
  items_used_ += batch->count;
  ++batches_used_;
  return batch;
}

void TransferQueue::forget(TransferBatch& batch) noexcept {
  const Lock lock(mutex_);
  CHECK(batch.left.load(std::memory_order_relaxed) == 0);
  for (TransferItem* item = batch.first; item != nullptr;) {
    TransferItem* const next = item->next_in_batch;
    item->next_in_batch = free_items_;
    free_items_ = item;
    item = next;
  }
  items_used_ -= batch.count;
  --batches_used_;
  batch.next_free = free_batches_;
  free_batches_ = &batch;
}

// With the queue's lock held.
void TransferQueue::accept(TransferItem& item, const Transfer& what, bool is_direct) noexcept {
  item.what = what;
  item.result.is_direct = is_direct;
  item.start_ns = os::clock_fine_ns();
  const std::uint64_t timeout_ns = what.options.timeout_ns;
  if (timeout_ns != 0 && !wraps(item.start_ns, timeout_ns)) item.deadline_ns = item.start_ns + timeout_ns;
  if (item.deadline_ns < next_deadline_ns_) next_deadline_ns_ = item.deadline_ns;
  pending_.fetch_add(1, std::memory_order_relaxed);
  ++stats_of(item).accepted;
  item.state = TransferItem::State::in_no_list;
  const Outcome outcome = validate(what);
  if (!outcome.ok()) return stop(item, outcome);
  if (what.size_bytes == 0) {
    item.result.outcome = {};
    return end(item);
  }
  item.state = TransferItem::State::waiting;
  lane_of(item).waiting[static_cast<unsigned>(what.options.priority)].push_back(&item);
}

Ticket TransferQueue::submit(std::span<const Transfer> transfers) noexcept {
  Ticket ticket;
  ticket.queue_ = this;
  {
    const Lock lock(mutex_);
    ticket.refused_ = Status::cancelled;
    if (is_open_) ticket.batch_ = make_batch(transfers.size(), &ticket.refused_);
    // Counted until all are accepted, so that close() waits for it.
    if (ticket.batch_ != nullptr) pending_.fetch_add(1, std::memory_order_relaxed);
  }
  if (ticket.batch_ == nullptr) return ticket;
  TransferItem* item = ticket.batch_->first;
  for (const Transfer& what : transfers) {
    const bool is_direct = validate(what).ok() && is_pinned(what);
    const Lock lock(mutex_);
    accept(*item, what, is_direct);
    if (is_cancelling_ && item->state != TransferItem::State::ended) stop(*item, Status::cancelled);
    item = item->next_in_batch;
  }
  pending_.fetch_sub(1, std::memory_order_release);
  done_.change();
  work_.change();
  return ticket;
}

Ticket TransferQueue::upload(cuda::DevicePointer to, const void* from, std::uint64_t size_bytes,
                             const TransferOptions& options) noexcept {
  Transfer what;
  what.kind = TransferKind::upload;
  what.device = to;
  what.from = static_cast<const std::byte*>(from);
  what.size_bytes = size_bytes;
  what.options = options;
  return submit({&what, 1});
}

Ticket TransferQueue::download(void* to, cuda::DevicePointer from, std::uint64_t size_bytes,
                               const TransferOptions& options) noexcept {
  Transfer what;
  what.kind = TransferKind::download;
  what.device = from;
  what.to = static_cast<std::byte*>(to);
  what.size_bytes = size_bytes;
  what.options = options;
  return submit({&what, 1});
}

Ticket TransferQueue::copy(cuda::DevicePointer to, cuda::DevicePointer from, std::uint64_t size_bytes,
                           const TransferOptions& options) noexcept {
  Transfer what;
  what.kind = TransferKind::copy;
  what.device = to;
  what.source = from;
  what.size_bytes = size_bytes;
  what.options = options;
  return submit({&what, 1});
}

Ticket TransferQueue::fill(cuda::DevicePointer to, std::uint8_t value, std::uint64_t size_bytes,
                           const TransferOptions& options) noexcept {
  Transfer what;
  what.kind = TransferKind::fill;
  what.device = to;
  what.value = value;
  what.size_bytes = size_bytes;
  what.options = options;
  return submit({&what, 1});
}

// True: all have ended.
bool TransferQueue::wait_for(TransferBatch& batch, std::uint64_t timeout_ns) noexcept {
  const std::uint64_t start_ns = os::clock_fine_ns();
  for (unsigned rounds = 0;;) {
    const std::uint32_t seen = done_.word.load(std::memory_order_acquire);
    // Acquire pairs with the release in end(): the bytes are there.
    if (batch.left.load(std::memory_order_acquire) == 0) return true;
    const std::uint64_t waited_ns = os::clock_fine_ns() - start_ns;
    if (waited_ns >= timeout_ns) return false;
    if (options_.threads != 0) {
      const std::uint64_t left_ns = timeout_ns - waited_ns;
      done_.sleep(seen, left_ns < kLookNs ? left_ns : kLookNs);
    } else if (help()) {
      rounds = 0;
    } else {
      idle(&rounds);
    }
  }
}

// Whether there was something to cancel.
bool TransferQueue::cancel(TransferBatch& batch) noexcept {
  bool is_any = false;
  {
    const Lock lock(mutex_);
    for (TransferItem* item = batch.first; item != nullptr; item = item->next_in_batch) {
      if (item->state == TransferItem::State::ended) continue;
      is_any = true;
      if (!item->is_stopped) stop(*item, Status::cancelled);
    }
  }
  work_.change();
  return is_any;
}

Ticket::Ticket(Ticket&& other) noexcept
    : queue_(other.queue_), batch_(other.batch_), refused_(other.refused_) {
  other.queue_ = nullptr;
  other.batch_ = nullptr;
}

Ticket& Ticket::operator=(Ticket&& other) noexcept {
  if (this == &other) return *this;
  release();
  queue_ = other.queue_;
  batch_ = other.batch_;
  refused_ = other.refused_;
  other.queue_ = nullptr;
  other.batch_ = nullptr;
  return *this;
}

bool Ticket::done() noexcept {
  if (batch_ == nullptr || queue_->wait_for(*batch_, 0)) return true;
  if (queue_->options_.threads != 0) return false;
  static_cast<void>(queue_->help());
  return queue_->wait_for(*batch_, 0);
}

Outcome Ticket::wait(std::uint64_t timeout_ns) noexcept {
  if (batch_ == nullptr) return refused_;
  if (!queue_->wait_for(*batch_, timeout_ns)) return Status::not_ready;
  return result().outcome;
}

Outcome Ticket::cancel() noexcept {
  if (batch_ == nullptr || !queue_->cancel(*batch_)) return {};
  static_cast<void>(queue_->wait_for(*batch_, kForever));
  for (std::size_t i = 0; i < size(); ++i) {
    if (item(i).outcome.status == Status::cancelled) return Status::cancelled;
  }
  return {};
}

void Ticket::release() noexcept {
  if (batch_ == nullptr) return;
  static_cast<void>(queue_->wait_for(*batch_, kForever));
  queue_->forget(*batch_);
  batch_ = nullptr;
}

TransferResult Ticket::item(std::size_t index) noexcept {
  TransferResult result;
  result.outcome = refused_;
  if (batch_ == nullptr) return result;
  CHECK(index < batch_->count);
  const Lock lock(queue_->mutex_);
  const TransferItem* item = batch_->first;
  for (; index > 0; --index) item = item->next_in_batch;
  result = item->result;
  if (item->state != TransferItem::State::ended) result.outcome = Status::not_ready;
  return result;
}

std::size_t Ticket::size() const noexcept { return batch_ != nullptr ? batch_->count : 0; }

TransferResult Ticket::result() noexcept {
  TransferResult all;
  all.outcome = refused_;
  if (batch_ == nullptr) return all;
  all.outcome = {};
  all.is_direct = true;
  const Lock lock(queue_->mutex_);
  for (const TransferItem* item = batch_->first; item != nullptr; item = item->next_in_batch) {
    const bool has_ended = item->state == TransferItem::State::ended;
    const Outcome outcome = has_ended ? item->result.outcome : Outcome(Status::not_ready);
    if (all.outcome.ok()) all.outcome = outcome;
    all.moved_bytes += item->result.moved_bytes;
    all.pieces += item->result.pieces;
    all.retries += item->result.retries;
    all.is_direct = all.is_direct && item->result.is_direct;
    if (item->result.duration_ns > all.duration_ns) all.duration_ns = item->result.duration_ns;
  }
  return all;
}

}  // namespace glebe::device
