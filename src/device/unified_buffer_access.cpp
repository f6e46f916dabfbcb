// Guards: who may change a buffer, what is made valid before a guard opens, and what is known when it is
// closed. See unified_buffer_memory.h.
//
// One access: begin_change() waits for guards that do not go with it and takes the buffer; prepare() makes
// the memory that the table of states asks for, moves what is dirty, and undoes it when a part of it fails;
// publish() changes the state; the guard is linked; end_change() lets the buffer go. Whoever changes a buffer
// waits for the device only, never for a guard, so end_guard() may wait for that.
#include "platform/process.h"
#include "platform/service.h"
#include "src/base/check.h"
#include "src/device/unified_buffer_record.h"

namespace glebe::device {

using os::Lock;

namespace {

constexpr std::uint64_t kLookNs = 1'000'000;       // how often who may be cancelled looks
constexpr std::uint64_t kSleepNs = 1'000'000'000;  // how often anybody else does, woken or not

// Of the units, those of which every byte is in the range.
UnitRange covered_units(const UnifiedMemory::Request& request, std::uint64_t size_bytes) noexcept {
  const std::uint64_t begin = request.range.offset_bytes, end = begin + request.range.size_bytes;
  UnitRange covered = {divide_up(begin, kUnifiedUnitBytes),
                       end == size_bytes ? divide_up(end, kUnifiedUnitBytes) : end / kUnifiedUnitBytes};
  if (covered.is_empty()) covered = {};
  return covered;
}

UnifiedHandle handle_of(const UnifiedRecord& record) noexcept {
  return std::uint64_t{record.generation} << 32 | (record.index + 1);
}

}  // namespace

void UnifiedGuard::close() noexcept {
  if (memory_ == nullptr) return;
  memory_->end_guard(*this);
  memory_ = nullptr;
  record_ = nullptr;
  host_ = nullptr;
  address_ = 0;
  size_bytes_ = 0;
}

// Under the lock: whether a use would wait for a guard, and whether that one belongs to this thread.
Status UnifiedMemory::look_at_guards(const UnifiedRecord& record, UnifiedUse use) noexcept {
  Status found = Status::ok;
  for (const UnifiedGuard* guard = record.guards.first(); guard != nullptr;
       guard = record.guards.next(guard)) {
    if (is_read(use) && is_read(guard->use_)) continue;
    if (guard->thread_ == os::thread_id()) return Status::in_use;
    found = Status::not_ready;
  }
  return found;
}

// not_ready: wait, for as long as wait->sleep_ns, for the change that wait->seen counts.
Status UnifiedMemory::try_change(UnifiedRecord& record, const Claim& claim, Wait* wait) noexcept {
  const Lock lock(record.mutex);
  if (wait->is_counted) --record.waiters;
  wait->is_counted = false;
  if (record.generation != claim.buffer >> 32 || record.users == 0) return Status::not_owned;
  const Status guards = claim.minds_guards ? look_at_guards(record, claim.use) : Status::ok;
  if (guards == Status::in_use) return guards;
  if (guards == Status::ok && !record.is_changing) {
    record.is_changing = true;
    wait->late_touches = record.late_touches;
    record.late_touches = 0;
    return Status::ok;
  }
  if (guards == Status::not_ready && !claim.waits_for_guards) return Status::not_ready;
  wait->seen = record.change.load(std::memory_order_relaxed);
  wait->sleep_ns = claim.cancel != nullptr ? kLookNs : kSleepNs;
  if (guards == Status::not_ready && options_.wait_ns != kWaitForever) {
    if (options_.wait_ns == 0) return Status::in_use;
    const std::uint64_t now_ns = os::clock_fine_ns();
    if (wait->deadline_ns == 0) wait->deadline_ns = now_ns + options_.wait_ns;
    if (now_ns >= wait->deadline_ns) return Status::timed_out;
    if (wait->deadline_ns - now_ns < wait->sleep_ns) wait->sleep_ns = wait->deadline_ns - now_ns;
  }
  if (claim.cancel != nullptr && claim.cancel->load(std::memory_order_relaxed)) return Status::cancelled;
  ++record.waiters;
  wait->is_counted = true;
  return Status::not_ready;
}

Outcome UnifiedMemory::begin_change(const Claim& claim, UnifiedRecord** found) noexcept {
  UnifiedRecord* record = record_of(claim.buffer);
  if (record == nullptr) return Status::not_owned;
  Wait wait;
  for (;;) {
    const Status status = try_change(*record, claim, &wait);
    if (status == Status::ok) {
      *found = record;
      if (wait.late_touches != 0) note_unordered(*record, wait.late_touches);
    }
    if (status != Status::not_ready || !wait.is_counted) return status;
    // Called back by whoever was asked for memory: somebody may be waiting for this thread.
    if (is_asking()) return give_up(*record);
    os::wait_on(record->change, wait.seen, wait.sleep_ns);
  }
}

Outcome UnifiedMemory::give_up(UnifiedRecord& record) noexcept {
  const Lock lock(record.mutex);
  --record.waiters;
  return Status::in_use;
}

// Under the lock: whether the caller is to close the buffer for the owner who left.
bool UnifiedMemory::take_due(UnifiedRecord& record) noexcept {
  const bool is_due = record.is_abandoned && record.guards.is_empty();
  if (is_due) record.is_abandoned = false;
  return is_due;
}

void UnifiedMemory::end_change(UnifiedRecord& record) noexcept {
  bool is_awaited = false, is_due = false;
  UnifiedHandle handle = 0;
  {
    const Lock lock(record.mutex);
    record.is_changing = false;
    record.change.fetch_add(1, std::memory_order_relaxed);
    is_awaited = record.waiters != 0;
    is_due = take_due(record);
    handle = handle_of(record);
  }
  if (is_awaited) os::wake_all(record.change);
  if (is_due) abandon(handle);
}

// Of the device: what the program queued in the stream is behind an event from now on. Who is called back for
// memory must not wait for a change, which may be its own thread's; the next change notes what it did.
void UnifiedMemory::end_guard(UnifiedGuard& guard) noexcept {
  UnifiedRecord& record = *guard.record_;
  const UnifiedHandle handle = handle_of(record);  // it stays while there is a guard
  const bool is_device = !is_host_use(guard.use_);
  const unsigned touches = is_read(guard.use_) ? kReadsDevice : kWritesDevice;
  bool is_changed = false;
  if (is_device) {
    UnifiedRecord* same = nullptr;
    const Status status = begin_change({.buffer = handle, .minds_guards = false}, &same).status;
    is_changed = status == Status::ok;
    CHECK(is_changed || status == Status::in_use);
    if (is_changed) note_end(record, guard.stream_, touches);
  }
  bool is_awaited = false, is_due = false;
  {
    const Lock lock(record.mutex);
    record.guards.remove(&guard);
    if (is_changed) record.is_changing = false;
    if (is_device && !is_changed) record.late_touches |= touches;
    record.change.fetch_add(1, std::memory_order_relaxed);
    is_awaited = record.waiters != 0;
    is_due = take_due(record);
  }
  if (is_awaited) os::wake_all(record.change);
  if (is_due) abandon(handle);
}

Outcome UnifiedMemory::resolve(const UnifiedRecord& record, const Request& request, Work* work) noexcept {
  const UnifiedRange& range = request.range;
  if (range.size_bytes == 0 || range.offset_bytes > record.size_bytes) return Status::bad_argument;
  if (range.size_bytes > record.size_bytes - range.offset_bytes) return Status::bad_argument;
  const std::uint64_t end = range.offset_bytes + range.size_bytes;
  work->use = request.use;
  work->offset_bytes = range.offset_bytes;
  work->size_bytes = range.size_bytes;
  work->units = {range.offset_bytes / kUnifiedUnitBytes, divide_up(end, kUnifiedUnitBytes)};
  work->covered = {};
  work->stream = request.stream;
  work->cancel = request.cancel;
  const bool is_host = is_host_use(request.use);
  if (request.use != (is_host ? UnifiedUse::host_overwrite : UnifiedUse::device_overwrite)) return {};
  work->covered = covered_units(request, record.size_bytes);
  const bool is_all = work->covered.first == 0 && work->covered.end == record.dirty.all().end;
  if (!is_all) work->use = is_host ? UnifiedUse::host_write : UnifiedUse::device_write;
  return {};
}

Outcome UnifiedMemory::access(const Request& request, UnifiedGuard* guard) noexcept {
  if (guard == nullptr) return Status::bad_argument;
  guard->close();
  UnifiedRecord* record = nullptr;
  Outcome outcome =
      begin_change({.buffer = request.range.buffer, .use = request.use, .cancel = request.cancel}, &record);
  if (!outcome.ok()) return outcome;
  Work work;
  outcome = resolve(*record, request, &work);
  if (outcome.ok()) outcome = prepare(*record, work);
  if (outcome.ok()) {
    const bool is_host = is_host_use(work.use);
    guard->memory_ = this;
    guard->record_ = record;
    guard->thread_ = os::thread_id();
    guard->use_ = work.use;
    guard->stream_ = work.stream;
    guard->host_ = is_host ? record->host + work.offset_bytes : nullptr;
    guard->address_ = is_host ? 0 : record->device + work.offset_bytes;
    guard->size_bytes_ = work.size_bytes;
    const Lock lock(record->mutex);
    record->guards.push_back(guard);
  }
  end_change(*record);
  return outcome;
}

Outcome UnifiedMemory::access_and_do(const Request& request, const Deed& deed) noexcept {
  UnifiedRecord* record = nullptr;
  Outcome outcome = begin_change({.buffer = request.range.buffer,
                                  .use = request.use,
                                  .cancel = request.cancel,
                                  .waits_for_guards = deed.waits_for_guards},
                                 &record);
  if (!outcome.ok()) return outcome;
  Work work;
  outcome = resolve(*record, request, &work);
  work.body = deed.body;
  work.context = deed.context;
  if (outcome.ok()) outcome = prepare(*record, work);
  end_change(*record);
  return outcome;
}

Outcome UnifiedMemory::prefetch(const UnifiedRange& range, UnifiedSide side, cuda::Stream stream) noexcept {
  const bool is_host = side == UnifiedSide::host;
  const Request request = {range, is_host ? UnifiedUse::host_read : UnifiedUse::device_read,
                           is_host ? copies_ : stream};
  UnifiedRecord* record = nullptr;
  Outcome outcome = begin_change({.buffer = range.buffer, .use = request.use}, &record);
  if (!outcome.ok()) return outcome;
  Work work;
  outcome = resolve(*record, request, &work);
  work.waits = false;
  if (outcome.ok()) outcome = prepare(*record, work);
  end_change(*record);
  return outcome;
}

Outcome UnifiedMemory::prepare(UnifiedRecord& record, const Work& work) noexcept {
  if (is_host_use(work.use) && record.is_broken) return Status::device_lost;
  if (work.is_cancelled()) return Status::cancelled;
  if (!is_host_use(work.use) && work.use < UnifiedUse::evict_device) {
    // An event that is recorded then belongs to the graph, and tells nothing about the stream.
    const CurrentContext current(*gpu_);
    const Outcome outcome = gpu_->check_not_captured(work.stream);
    if (!outcome.ok()) return outcome;
  }
  if (record.is_blank) return prepare_blank(record, work);
  const UnifiedState before = record.state;
  const UnifiedStep step = step_of(before, work.use);
  Outcome outcome;
  if (step.makes_host) outcome = make_host(record);
  if (step.makes_device) outcome = make_device(record);
  if (!outcome.ok()) return outcome;
  const bool has_made = step.makes_host || step.makes_device;
  if (has_made) {
    // Fresh memory is out of date everywhere.
    record.state = step.makes_host ? UnifiedState::device_dirty : UnifiedState::host_dirty;
    record.dirty.set(record.dirty.all());
  }
  outcome = move_and_do(record, work);
  if (outcome.ok()) {
    publish(record, work);
    return outcome;
  }
  // If it cannot be given back it stays: out of date, and known to be.
  if (has_made && (step.makes_host ? drop_host(record) : drop_device(record)).ok()) {
    record.state = before;
    record.dirty.clear_all();
  }
  return outcome;
}

Outcome UnifiedMemory::move_and_do(UnifiedRecord& record, const Work& work) noexcept {
  const UnifiedMove direction = step_of(record.state, work.use).moves;
  if (direction != UnifiedMove::none) {
    const Outcome outcome = move(record, work, direction);
    if (!outcome.ok()) return outcome;
  }
  if (work.use >= UnifiedUse::evict_device) return evict_now(record, work);
  if (!is_host_use(work.use)) {
    const unsigned others = is_read(work.use) ? kWritesDevice : kTouchesDevice;
    const Outcome outcome = order_after(record, work.stream, others);
    return outcome.ok() ? do_body(record, work) : outcome;
  }
  if (!work.waits) return {};
  const Outcome outcome =
      wait_for(record, is_read(work.use) ? unsigned{kWritesHost} : kTouchesHost, work.cancel);
  if (outcome.ok() && record.is_broken) return Status::device_lost;
  return outcome.ok() ? do_body(record, work) : outcome;
}

// What it queued may be under way even if it failed. Then the units may be half written: the side that had
// everything is right about them, and the other one is not.
Outcome UnifiedMemory::do_body(UnifiedRecord& record, const Work& work) noexcept {
  if (work.body == nullptr) return {};
  const Outcome outcome = work.body(*this, record, work);
  if (is_host_use(work.use)) return outcome;
  note_use(record, work.stream, kWritesDevice);
  if (outcome.ok() || record.is_blank || !record.has_host || !record.has_device) return outcome;
  if (record.state == UnifiedState::synchronized) record.state = UnifiedState::host_dirty;
  record.dirty.set(work.units);
  return outcome;
}

// Nothing was written yet: whoever comes first gets zeros, and nothing moves.
Outcome UnifiedMemory::prepare_blank(UnifiedRecord& record, const Work& work) noexcept {
  if (work.use == UnifiedUse::evict_device) return drop_device(record);
  if (work.use == UnifiedUse::evict_host) return drop_host(record);
  const bool is_host = is_host_use(work.use);
  const bool is_all = work.covered.first == 0 && work.covered.end == record.dirty.all().end;
  Outcome outcome = is_host ? make_host(record) : make_device(record);
  if (!outcome.ok()) return outcome;
  if (is_host && !is_all) __builtin_memset(record.host, 0, record.size_bytes);
  if (!is_host) outcome = order_after(record, work.stream, kTouchesDevice);
  if (!is_host && !is_all && outcome.ok()) {
    const CurrentContext current(*gpu_);
    outcome = gpu_->check(gpu_->driver().memset_d8_async(record.device, 0, record.size_bytes, work.stream));
    if (outcome.ok()) note_use(record, work.stream, kWritesDevice);
  }
  if (outcome.ok()) outcome = do_body(record, work);
  if (!outcome.ok()) {
    // What cannot be given back stays, and is filled with zeros once more when somebody comes.
    static_cast<void>(is_host ? drop_host(record) : drop_device(record));
    return outcome;
  }
  record.is_blank = false;
  record.state = is_host ? UnifiedState::host_only : UnifiedState::device_only;
  if (!record.has_host || !record.has_device) return outcome;
  record.state = is_host ? UnifiedState::host_dirty : UnifiedState::device_dirty;
  record.dirty.set(record.dirty.all());
  return outcome;
}

void UnifiedMemory::publish(UnifiedRecord& record, const Work& work) noexcept {
  if (work.use >= UnifiedUse::evict_device) return;
  const UnifiedStep step = step_of(record.state, work.use);
  if (is_read(work.use)) {
    if (step.moves == UnifiedMove::none) return;
    record.dirty.clear(work.units);
    if (!record.dirty.any()) record.state = step.next;
    return;
  }
  if (is_dirty(step.next)) {
    // All that the other side had written was moved, or is not needed.
    if (record.state != step.next) record.dirty.clear_all();
    record.dirty.set(work.units);
  }
  record.state = step.next;
}

// The side that stays has all of the contents: what was dirty there was moved, or nothing was.
Outcome UnifiedMemory::evict_now(UnifiedRecord& record, const Work& work) noexcept {
  const bool is_device = work.use == UnifiedUse::evict_device;
  const UnifiedStep step = step_of(record.state, work.use);
  Outcome outcome;
  if (step.moves != UnifiedMove::none) {
    outcome = wait_for(record, kTouchesAll, work.cancel);
    if (outcome.ok() && gpu_->is_lost()) outcome = Status::device_lost;
    if (!outcome.ok()) return outcome;
    record.dirty.clear_all();
    record.state = UnifiedState::synchronized;
  }
  outcome = is_device ? drop_device(record) : drop_host(record);
  if (!outcome.ok()) return outcome;
  record.dirty.clear_all();
  record.state = is_device ? UnifiedState::host_only : UnifiedState::device_only;
  return outcome;
}

Outcome UnifiedMemory::evict(UnifiedHandle buffer, UnifiedSide side, const CancelFlag* cancel) noexcept {
  const bool is_device = side == UnifiedSide::device;
  UnifiedRecord* record = nullptr;
  Outcome outcome = begin_change({.buffer = buffer, .cancel = cancel}, &record);
  if (!outcome.ok()) return outcome;
  Work work;
  work.use = is_device ? UnifiedUse::evict_device : UnifiedUse::evict_host;
  work.size_bytes = record->size_bytes;
  work.units = record->dirty.all();
  work.stream = copies_;
  work.cancel = cancel;
  outcome = prepare(*record, work);
  end_change(*record);
  return outcome;
}

Outcome UnifiedMemory::wait_idle(UnifiedHandle buffer) noexcept {
  UnifiedRecord* record = nullptr;
  Outcome outcome = begin_change({.buffer = buffer, .minds_guards = false}, &record);
  if (!outcome.ok()) return outcome;
  outcome = wait_for(*record, kTouchesAll, nullptr);
  if (outcome.ok() && gpu_->is_lost()) outcome = Status::device_lost;
  end_change(*record);
  return outcome;
}

Outcome UnifiedMemory::info(UnifiedHandle buffer, UnifiedInfo* info) noexcept {
  UnifiedRecord* record = nullptr;
  const Outcome outcome = begin_change({.buffer = buffer, .minds_guards = false}, &record);
  if (!outcome.ok()) return outcome;
  *info = record->counts;
  info->state = record->state;
  info->size_bytes = record->size_bytes;
  info->host_bytes = record->has_host ? record->size_bytes : 0;
  info->device_bytes = record->has_device ? record->size_bytes : 0;
  info->dirty_bytes = record->dirty.bytes(record->size_bytes);
  info->pending = record->pending_count;
  const std::uint64_t addresses =
      (record->is_host_foreign ? reinterpret_cast<std::uintptr_t>(record->host) : 0) |
      (record->is_device_foreign ? record->device : 0) | kDeviceAlignBytes;
  info->align_bytes = addresses & (~addresses + 1);
  {
    const Lock lock(record->mutex);
    for (const UnifiedGuard* guard = record->guards.first(); guard != nullptr;
         guard = record->guards.next(guard)) {
      ++(is_read(guard->use_) ? info->readers : info->writers);
    }
  }
  end_change(*record);
  return outcome;
}

}  // namespace glebe::device
