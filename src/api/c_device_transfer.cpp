// The C interface of include/glebe/device_transfer.h: checks pointers, converts types. State is what the
// handle points to: a queue, and a table of tickets that tells released ones from others.
#include <glebe/device_transfer.h>

#include <new>
#include <span>

#include "platform/thread.h"
#include "src/api/device_handles.h"
#include "src/device/event_pool.h"
#include "src/device/transfer.h"
#include "src/paging/growing_memory.h"

namespace glebe::api {
namespace {

using os::Lock;

// A ticket by its number. Its thread may be inside a call without the lock, as `users` tells.
struct TicketSlot {
  dev::Ticket ticket;
  std::uint32_t generation = 0;  // odd: in use
  std::uint32_t users = 0;
  std::uint32_t next_free = 0;  // index + 1
};

struct OwnQueue {
  static constexpr std::size_t kAtOnce = 16;  // transfers of a call that are converted without memory

  ~OwnQueue() {
    for (std::uint32_t i = 0; i < slot_count; ++i) slots()[i].~TicketSlot();
  }
  [[nodiscard]] TicketSlot* slots() const noexcept { return reinterpret_cast<TicketSlot*>(table.base()); }

  dev::EventPool events;
  dev::TransferQueue queue;
  std::uint32_t slots_max = 0;
  os::Mutex mutex;  // guards what follows
  paging::GrowingMemory table;
  std::uint32_t slot_count = 0, free_slot = 0;
};

OwnQueue& own(glebe_transfer_queue* queue) noexcept { return *reinterpret_cast<OwnQueue*>(queue); }

glebe_transfer_ticket name_of(std::uint32_t index, const TicketSlot& slot) noexcept {
  return std::uint64_t{slot.generation} << 32 | (index + 1);
}

// Under the lock. nullptr: no such ticket.
TicketSlot* find(OwnQueue& queue, glebe_transfer_ticket ticket) noexcept {
  const auto index = static_cast<std::uint32_t>(ticket) - 1;
  if (index >= queue.slot_count) return nullptr;
  TicketSlot& slot = queue.slots()[index];
  return slot.generation == ticket >> 32 && slot.generation % 2 == 1 ? &slot : nullptr;
}

// A slot that nobody knows yet. over_budget, no_host_memory.
dev::Outcome take_slot(OwnQueue& queue, TicketSlot** taken) noexcept {
  const Lock lock(queue.mutex);
  if (queue.free_slot == 0) {
    if (queue.slot_count == queue.slots_max) return dev::Status::over_budget;
    const std::size_t table_bytes = (std::size_t{queue.slot_count} + 1) * sizeof(TicketSlot);
    if (!queue.table.grow_to(table_bytes)) return dev::Status::no_host_memory;
    new (queue.slots() + queue.slot_count) TicketSlot;
    queue.free_slot = ++queue.slot_count;
  }
  *taken = queue.slots() + (queue.free_slot - 1);
  queue.free_slot = (*taken)->next_free;
  return {};
}

// Under the lock.
void put_slot(OwnQueue& queue, TicketSlot& slot) noexcept {
  slot.next_free = queue.free_slot;
  queue.free_slot = static_cast<std::uint32_t>(&slot - queue.slots()) + 1;
}

// A call with a ticket, which nobody releases meanwhile.
class TicketUse {
 public:
  TicketUse(glebe_transfer_queue* queue, glebe_transfer_ticket ticket) noexcept : queue_(own(queue)) {
    const Lock lock(queue_.mutex);
    slot_ = find(queue_, ticket);
    if (slot_ != nullptr) ++slot_->users;
  }
  ~TicketUse() {
    if (slot_ == nullptr) return;
    const Lock lock(queue_.mutex);
    --slot_->users;
  }
  TicketUse(const TicketUse&) = delete;
  TicketUse& operator=(const TicketUse&) = delete;

  explicit operator bool() const noexcept { return slot_ != nullptr; }
  dev::Ticket* operator->() const noexcept { return &slot_->ticket; }

 private:
  OwnQueue& queue_;
  TicketSlot* slot_ = nullptr;
};

bool convert(const glebe_transfer_queue_options& from, dev::TransferQueueOptions* to) noexcept {
  if (from.struct_bytes < sizeof from || from.threads < -1) return false;
  if (from.threads != 0) to->threads = from.threads < 0 ? 0 : static_cast<unsigned>(from.threads);
  if (from.rings != 0) to->rings = from.rings;
  if (from.ring_bytes != 0) to->ring_bytes = from.ring_bytes;
  if (from.piece_bytes != 0) to->piece_bytes = from.piece_bytes;
  if (from.piece_bytes == 0 && to->piece_bytes > to->ring_bytes) to->piece_bytes = to->ring_bytes;
  if (from.direct_bytes != 0) to->direct_bytes = from.direct_bytes;
  if (from.in_flight_max != 0) to->in_flight_max = from.in_flight_max;
  if (from.transfers_max != 0) to->transfers_max = from.transfers_max;
  if (from.backoff_ns != 0) to->backoff_ns = from.backoff_ns;
  if (from.backoff_max_ns != 0) to->backoff_max_ns = from.backoff_max_ns;
  if (from.seed != 0) to->seed = from.seed;
  to->is_write_combined = from.is_write_combined != 0;
  return true;
}

// False: a wrong structure. What makes no sense otherwise is for the queue to refuse.
bool convert(const glebe_transfer& from, dev::Transfer* to) noexcept {
  if (from.struct_bytes < sizeof from || from.retries_max < -1 || from.priority < glebe_transfer_low ||
      from.priority > glebe_transfer_high || from.kind < glebe_transfer_upload ||
      from.kind > glebe_transfer_fill || from.memory < glebe_transfer_unknown ||
      from.memory > glebe_transfer_pinned) {
    return false;
  }
  to->kind = static_cast<dev::TransferKind>(from.kind);
  to->device = from.device;
  to->from = static_cast<const std::byte*>(from.from);
  to->to = static_cast<std::byte*>(from.to);
  to->source = from.source;
  to->size_bytes = from.size;
  to->value = from.value;
  to->options.priority = static_cast<dev::TransferPriority>(from.priority - glebe_transfer_low);
  to->options.host = static_cast<dev::HostMemory>(from.memory);
  to->options.is_verified = from.is_verified != 0;
  if (from.retries_max != 0) {
    to->options.retries_max = from.retries_max < 0 ? 0 : static_cast<unsigned>(from.retries_max);
  }
  to->options.timeout_ns = from.timeout_ns;
  return true;
}

void convert(const dev::TransferResult& from, glebe_transfer_result* to) noexcept {
  *to = {};
  to->result = to_c(from.outcome);
  to->pieces = from.pieces;
  to->retries = from.retries;
  to->is_direct = from.is_direct ? 1 : 0;
  to->moved_bytes = from.moved_bytes;
  to->duration_ns = from.duration_ns;
}

bool is_end(glebe_transfer_end how) noexcept {
  return how == glebe_transfer_end_wait || how == glebe_transfer_end_cancel;
}

// Converted, in memory that is the caller's to give back when it is not `few`. nullptr: there is none.
dev::Transfer* room_for(std::size_t count, dev::Transfer (&few)[OwnQueue::kAtOnce]) noexcept {
  if (count <= OwnQueue::kAtOnce) return few;
  auto* const many = static_cast<dev::Transfer*>(paging::map_own(count * sizeof(dev::Transfer)));
  for (std::size_t i = 0; many != nullptr && i < count; ++i) new (many + i) dev::Transfer;
  return many;
}

dev::Outcome submit(OwnQueue& queue, std::span<const dev::Transfer> transfers,
                    glebe_transfer_ticket* ticket) noexcept {
  TicketSlot* slot = nullptr;
  const dev::Outcome outcome = take_slot(queue, &slot);
  if (!outcome.ok()) return outcome;
  slot->ticket = queue.queue.submit(transfers);
  const Lock lock(queue.mutex);
  if (slot->ticket.size() == 0) {  // refused as a whole
    put_slot(queue, *slot);
    return slot->ticket.wait(0);
  }
  ++slot->generation;
  *ticket = name_of(static_cast<std::uint32_t>(slot - queue.slots()), *slot);
  return {};
}

}  // namespace
}  // namespace glebe::api

using namespace glebe::api;

extern "C" {

glebe_device_result glebe_transfer_queue_open(glebe_device* device,
                                              const glebe_transfer_queue_options* options,
                                              glebe_transfer_queue** queue) {
  dev::TransferQueueOptions wanted;
  if (device == nullptr || queue == nullptr || (options != nullptr && !convert(*options, &wanted))) {
    return glebe_device_bad_argument;
  }
  OwnQueue* const made = make_own<OwnQueue>();
  if (made == nullptr) return glebe_device_no_host_memory;
  dev::Gpu& gpu = own(device).gpu;
  dev::Outcome outcome = made->events.open(gpu);
  if (outcome.ok()) outcome = made->queue.open(gpu, made->events, wanted);
  const std::size_t table_bytes = std::size_t{wanted.transfers_max} * sizeof(TicketSlot);
  if (outcome.ok() && !made->table.reserve(table_bytes, table_bytes, 4 * glebe::kKiB)) {
    outcome = dev::Status::no_host_memory;
  }
  if (!outcome.ok()) {
    end_own(made);
    return to_c(outcome);
  }
  made->slots_max = wanted.transfers_max;
  *queue = reinterpret_cast<glebe_transfer_queue*>(made);
  return glebe_device_ok;
}

glebe_device_result glebe_transfer_queue_stop(glebe_transfer_queue* queue, glebe_transfer_end how) {
  if (queue == nullptr || !is_end(how)) return glebe_device_bad_argument;
  own(queue).queue.close(static_cast<dev::TransferClose>(how));
  return glebe_device_ok;
}

glebe_device_result glebe_transfer_queue_close(glebe_transfer_queue* queue, glebe_transfer_end how) {
  if (!is_end(how)) return glebe_device_bad_argument;
  if (queue == nullptr) return glebe_device_ok;
  own(queue).queue.close(static_cast<dev::TransferClose>(how));
  end_own(&own(queue));
  return glebe_device_ok;
}

glebe_device_result glebe_transfer_submit(glebe_transfer_queue* queue, const glebe_transfer* transfers,
                                          size_t count, glebe_transfer_ticket* ticket) {
  if (queue == nullptr || transfers == nullptr || count == 0 || ticket == nullptr) {
    return glebe_device_bad_argument;
  }
  if (count > own(queue).slots_max) return glebe_device_over_budget;
  dev::Transfer few[OwnQueue::kAtOnce];
  dev::Transfer* const converted = room_for(count, few);
  if (converted == nullptr) return glebe_device_no_host_memory;
  std::size_t good = 0;
  while (good < count && convert(transfers[good], &converted[good])) ++good;
  dev::Outcome outcome = dev::Status::bad_argument;
  if (good == count) outcome = submit(own(queue), {converted, count}, ticket);
  if (converted != few) glebe::paging::unmap_own(converted, count * sizeof(dev::Transfer));
  return to_c(outcome);
}

glebe_device_result glebe_transfer_wait(glebe_transfer_queue* queue, glebe_transfer_ticket ticket,
                                        uint64_t timeout_ns) {
  if (queue == nullptr) return glebe_device_bad_argument;
  const TicketUse use(queue, ticket);
  return use ? to_c(use->wait(timeout_ns)) : glebe_device_not_owned;
}

glebe_device_result glebe_transfer_poll(glebe_transfer_queue* queue, glebe_transfer_ticket ticket) {
  if (queue == nullptr) return glebe_device_bad_argument;
  const TicketUse use(queue, ticket);
  if (!use) return glebe_device_not_owned;
  return use->done() ? glebe_device_ok : glebe_device_not_ready;
}

glebe_device_result glebe_transfer_cancel(glebe_transfer_queue* queue, glebe_transfer_ticket ticket) {
  if (queue == nullptr) return glebe_device_bad_argument;
  const TicketUse use(queue, ticket);
  return use ? to_c(use->cancel()) : glebe_device_not_owned;
}

glebe_device_result glebe_transfer_get_result(glebe_transfer_queue* queue, glebe_transfer_ticket ticket,
                                              size_t index, glebe_transfer_result* result) {
  if (queue == nullptr || result == nullptr) return glebe_device_bad_argument;
  const TicketUse use(queue, ticket);
  if (!use) return glebe_device_not_owned;
  if (index != SIZE_MAX && index >= use->size()) return glebe_device_bad_argument;
  convert(index == SIZE_MAX ? use->result() : use->item(index), result);
  return glebe_device_ok;
}

glebe_device_result glebe_transfer_release(glebe_transfer_queue* queue, glebe_transfer_ticket ticket) {
  if (queue == nullptr) return glebe_device_bad_argument;
  OwnQueue& own_queue = own(queue);
  TicketSlot* slot = nullptr;
  {
    const glebe::os::Lock lock(own_queue.mutex);
    slot = find(own_queue, ticket);
    if (slot == nullptr) return glebe_device_not_owned;
    if (slot->users != 0) return glebe_device_in_use;
    ++slot->generation;  // nobody finds it any more
  }
  slot->ticket.release();
  const glebe::os::Lock lock(own_queue.mutex);
  put_slot(own_queue, *slot);
  return glebe_device_ok;
}

int glebe_transfer_help(glebe_transfer_queue* queue) {
  return queue != nullptr && own(queue).queue.help() ? 1 : 0;
}

uint64_t glebe_transfer_pending(glebe_transfer_queue* queue) {
  return queue != nullptr ? own(queue).queue.pending() : 0;
}

glebe_device_result glebe_transfer_get_stats(glebe_transfer_queue* queue, glebe_transfer_direction direction,
                                             glebe_transfer_stats* stats) {
  if (queue == nullptr || stats == nullptr || direction < glebe_transfer_to_device ||
      direction > glebe_transfer_on_device) {
    return glebe_device_bad_argument;
  }
  const dev::TransferStats from = own(queue).queue.stats(static_cast<dev::TransferDirection>(direction));
  *stats = {};
  stats->accepted = from.accepted;
  stats->succeeded = from.succeeded;
  stats->failed = from.failed;
  stats->cancelled = from.cancelled;
  stats->timed_out = from.timed_out;
  stats->bytes = from.bytes;
  stats->staged_bytes = from.staged_bytes;
  stats->verified_bytes = from.verified_bytes;
  stats->corrupt = from.corrupt;
  stats->pieces = from.pieces;
  stats->submissions = from.submissions;
  stats->retries = from.retries;
  stats->stalls = from.stalls;
  stats->stalled_ns = from.stalled_ns;
  stats->busy_ns = from.busy_ns;
  stats->in_flight = from.in_flight;
  stats->peak_in_flight = from.peak_in_flight;
  return glebe_device_ok;
}

}  // extern "C"
