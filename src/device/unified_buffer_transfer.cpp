// Memory of a buffer on both sides, copies between them, and events of work under way. See
// unified_buffer_memory.h.
//
// What was queued and may not be done is a list of {event, stream, what it touches}. Work in another stream
// waits for an event inside of the device, the host waits for it in wait_for(), and memory is given back when
// nothing is listed that touches it. Whatever is queued is listed, also when the call behind it fails; where
// no event can be recorded, the stream is waited for at once, and where that fails too, the entry stands for
// the whole device.
#include "platform/service.h"
#include "platform/vm.h"
#include "src/base/check.h"
#include "src/device/unified_buffer_record.h"

namespace glebe::device {

namespace {

constexpr std::uint64_t kPollNs = 20'000;  // between two looks at an event by who may be cancelled

// A device that is lost has lost its memory too.
Outcome freed(const Outcome& outcome) noexcept {
  return outcome.status == Status::device_lost ? Outcome() : outcome;
}

}  // namespace

Outcome UnifiedMemory::allocate_host(UnifiedRecord& record, std::uint64_t size_bytes,
                                     std::byte** base) noexcept {
  const Asking asking(*this);
  paging::Budget* budget = options_.budget;
  if (budget != nullptr && budget->charge(options_.tag, size_bytes, nullptr) != paging::BudgetResult::ok) {
    return Status::over_budget;
  }
  Outcome outcome;
  void* memory = nullptr;
  if (record.is_pinned) {
    const CurrentContext current(*gpu_);
    outcome = gpu_->check(gpu_->driver().mem_host_alloc(&memory, size_bytes, cuda::kHostPortable));
  } else {
    const std::size_t bytes = align_up(size_bytes, os::page_bytes());
    memory = os::reserve(bytes, os::page_bytes());
    if (memory == nullptr) {
      outcome = Status::no_host_memory;
    } else if (!os::commit(memory, bytes)) {
      os::release(memory, bytes);
      outcome = Status::no_host_memory;
    }
  }
  if (!outcome.ok()) {
    if (budget != nullptr) {
      CHECK(budget->discharge(options_.tag, size_bytes) == paging::BudgetResult::ok);
    }
    return outcome;
  }
  *base = static_cast<std::byte*>(memory);
  ++record.counts.host_allocations;
  add_memory(static_cast<std::int64_t>(size_bytes), 0);
  return outcome;
}

Outcome UnifiedMemory::free_host(UnifiedRecord& record, std::byte* base, std::uint64_t size_bytes) noexcept {
  if (record.is_pinned) {
    const CurrentContext current(*gpu_);
    const Outcome outcome = freed(gpu_->check(gpu_->driver().mem_free_host(base)));
    if (!outcome.ok()) return outcome;
  } else {
    os::release(base, align_up(size_bytes, os::page_bytes()));
  }
  if (options_.budget != nullptr) {
    CHECK(options_.budget->discharge(options_.tag, size_bytes) == paging::BudgetResult::ok);
  }
  add_memory(-static_cast<std::int64_t>(size_bytes), 0);
  return {};
}

Outcome UnifiedMemory::allocate_device(UnifiedRecord& record, std::uint64_t size_bytes,
                                       cuda::DevicePointer* address) noexcept {
  if (gpu_->is_lost()) return Status::device_lost;
  const Asking asking(*this);
  const Outcome outcome = options_.source.allocate(options_.source.self, size_bytes, 0, address);
  if (!outcome.ok()) return outcome;
  ++record.counts.device_allocations;
  add_memory(0, static_cast<std::int64_t>(size_bytes));
  return outcome;
}

Outcome UnifiedMemory::free_device(cuda::DevicePointer address, std::uint64_t size_bytes) noexcept {
  const Outcome outcome = freed(options_.source.free(options_.source.self, address));
  if (outcome.ok()) add_memory(0, -static_cast<std::int64_t>(size_bytes));
  return outcome;
}

Outcome UnifiedMemory::make_host(UnifiedRecord& record) noexcept {
  if (record.has_host) return {};
  if (!record.is_host_foreign) {
    const Outcome outcome = allocate_host(record, record.size_bytes, &record.host);
    if (!outcome.ok()) return outcome;
  }
  record.has_host = true;
  return {};
}

Outcome UnifiedMemory::make_device(UnifiedRecord& record) noexcept {
  if (record.has_device) return {};
  if (!record.is_device_foreign) {
    const Outcome outcome = allocate_device(record, record.size_bytes, &record.device);
    if (!outcome.ok()) return outcome;
  }
  record.has_device = true;
  return {};
}

Outcome UnifiedMemory::drop_host(UnifiedRecord& record) noexcept {
  Outcome outcome = wait_for(record, kTouchesHost, nullptr);
  if (!outcome.ok() || !record.has_host) return outcome;
  if (!record.is_host_foreign) {
    outcome = free_host(record, record.host, record.size_bytes);
    if (!outcome.ok()) return outcome;
    record.host = nullptr;
  }
  record.has_host = false;
  return {};
}

Outcome UnifiedMemory::drop_device(UnifiedRecord& record) noexcept {
  Outcome outcome = wait_for(record, kTouchesDevice, nullptr);
  if (!outcome.ok() || !record.has_device) return outcome;
  if (!record.is_device_foreign) {
    outcome = free_device(record.device, record.size_bytes);
    if (!outcome.ok()) return outcome;
    record.device = 0;
  }
  record.has_device = false;
  return {};
}

// What is written last goes last, so that a failure in between leaves a buffer with its contents.
Outcome UnifiedMemory::drop_both(UnifiedRecord& record) noexcept {
  Outcome outcome = wait_for(record, kTouchesAll, nullptr);
  if (!outcome.ok()) return outcome;
  const bool is_device_newest =
      record.state == UnifiedState::device_only || record.state == UnifiedState::device_dirty;
  const bool has_both = record.has_host && record.has_device;
  outcome = is_device_newest ? drop_host(record) : drop_device(record);
  if (!outcome.ok()) return outcome;
  if (has_both) {
    record.dirty.clear_all();
    record.state = is_device_newest ? UnifiedState::device_only : UnifiedState::host_only;
  }
  return is_device_newest ? drop_device(record) : drop_host(record);
}

// Dirty units, merged where they are neighbours: those of the range on a read, otherwise all but those that
// will be overwritten.
Outcome UnifiedMemory::move(UnifiedRecord& record, const Work& work, UnifiedMove direction) noexcept {
  const bool to_host = direction == UnifiedMove::to_host;
  const cuda::Stream stream = to_host ? copies_ : work.stream;
  const UnitRange all = record.dirty.all();
  const UnitRange parts[2] = {is_read(work.use) ? work.units : UnitRange{0, work.covered.first},
                              is_read(work.use) ? UnitRange{} : UnitRange{work.covered.end, all.end}};
  if (record.dirty.next_run(parts[0]).is_empty() && record.dirty.next_run(parts[1]).is_empty()) return {};
  Outcome outcome =
      order_after(record, stream, to_host ? kTouchesHost | kWritesDevice : kTouchesDevice | kWritesHost);
  if (!outcome.ok()) return outcome;
  for (const UnitRange& part : parts) {
    if (outcome.ok()) outcome = move_units(record, work, {part, direction, stream});
  }
  note_use(record, stream, to_host ? kReadsDevice | kWritesHost : kReadsHost | kWritesDevice);
  return outcome;
}

Outcome UnifiedMemory::move_units(UnifiedRecord& record, const Work& work, const Course& course) noexcept {
  const bool to_host = course.direction == UnifiedMove::to_host;
  const CurrentContext current(*gpu_);
  UnitRange left = course.units;
  for (UnitRange run = record.dirty.next_run(left); !run.is_empty(); run = record.dirty.next_run(left)) {
    left.first = run.end;
    std::uint64_t at = run.first * kUnifiedUnitBytes, end = run.end * kUnifiedUnitBytes;
    if (end > record.size_bytes) end = record.size_bytes;
    while (at < end) {
      if (work.is_cancelled()) return Status::cancelled;
      const std::uint64_t bytes = end - at < options_.piece_bytes ? end - at : options_.piece_bytes;
      const Outcome outcome = gpu_->check(
          to_host
              ? gpu_->driver().memcpy_d2h_async(record.host + at, record.device + at, bytes, course.stream)
              : gpu_->driver().memcpy_h2d_async(record.device + at, record.host + at, bytes, course.stream));
      if (!outcome.ok()) return outcome;
      (to_host ? record.counts.to_host_bytes : record.counts.to_device_bytes) += bytes;
      ++(to_host ? record.counts.to_host_copies : record.counts.to_device_copies);
      at += bytes;
    }
  }
  return {};
}

// The host waits. On a lost device nothing is under way any more, and what was to come to the host is not
// there.
Outcome UnifiedMemory::wait_for(UnifiedRecord& record, unsigned touches, const CancelFlag* cancel) noexcept {
  if (record.pending_count == 0) return {};
  const CurrentContext current(*gpu_);
  const cuda::Driver& driver = gpu_->driver();
  unsigned i = 0;
  while (i < record.pending_count) {
    const PendingUse& use = record.pending[i];
    if ((use.touches & touches) == 0) {
      ++i;
      continue;
    }
    if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) return Status::cancelled;
    const bool is_polled = cancel != nullptr && use.event != nullptr;
    const Outcome outcome = gpu_->check(
        is_polled ? driver.event_query(use.event)
                  : (use.event != nullptr ? driver.event_synchronize(use.event) : driver.ctx_synchronize()));
    if (outcome.status == Status::not_ready) {
      os::sleep_ns(kPollNs);
      continue;
    }
    if (!outcome.ok() && outcome.status != Status::device_lost) return outcome;
    if (!outcome.ok() && (use.touches & kWritesHost) != 0) record.is_broken = true;
    forget_use(record, i);
  }
  return {};
}

// Work that is queued in the stream from now on waits on the device.
Outcome UnifiedMemory::order_after(UnifiedRecord& record, cuda::Stream stream, unsigned touches) noexcept {
  if (record.pending_count == 0) return {};
  const CurrentContext current(*gpu_);
  unsigned long long id = 0;
  Outcome outcome = gpu_->check(gpu_->driver().stream_get_id(stream, &id));
  if (!outcome.ok()) return outcome;
  for (unsigned i = 0; i < record.pending_count && outcome.ok(); ++i) {
    const PendingUse& use = record.pending[i];
    if ((use.touches & touches) == 0 || (use.event != nullptr && use.stream_id == id)) continue;
    if (use.event != nullptr) {
      outcome = gpu_->check(gpu_->driver().stream_wait_event(stream, use.event, 0));
      continue;
    }
    outcome = gpu_->check(gpu_->driver().ctx_synchronize());
    if (!outcome.ok()) return outcome;
    while (record.pending_count > 0) forget_use(record, record.pending_count - 1);
  }
  return outcome;
}

void UnifiedMemory::forget_use(UnifiedRecord& record, unsigned index) noexcept {
  if (record.pending[index].event != nullptr) events_.give(record.pending[index].event);
  --record.pending_count;
  for (unsigned i = index; i < record.pending_count; ++i) record.pending[i] = record.pending[i + 1];
}

// Without any that has passed; if none has, the oldest two become one that stands for the whole device.
void UnifiedMemory::make_room_for_use(UnifiedRecord& record) noexcept {
  for (unsigned i = record.pending_count; i > 0; --i) {
    const PendingUse& use = record.pending[i - 1];
    const bool has_passed =
        use.event != nullptr && gpu_->driver().event_query(use.event) == cuda::Result::success;
    if (has_passed) forget_use(record, i - 1);
  }
  if (record.pending_count < UnifiedRecord::kPendingMax) return;
  PendingUse& second = record.pending[1];
  second.touches |= record.pending[0].touches;
  if (second.event != nullptr) events_.give(second.event);
  second.event = nullptr;
  second.stream_id = 0;
  forget_use(record, 0);
}

// Work that no event stands for: all that the device does is waited for.
void UnifiedMemory::note_unordered(UnifiedRecord& record, unsigned touches) noexcept {
  if (record.pending_count == UnifiedRecord::kPendingMax) {
    const CurrentContext current(*gpu_);
    make_room_for_use(record);
  }
  record.pending[record.pending_count++] = {nullptr, 0, touches};
}

// A guard ends. An event that is recorded during a capture is a part of the graph.
void UnifiedMemory::note_end(UnifiedRecord& record, cuda::Stream stream, unsigned touches) noexcept {
  const CurrentContext current(*gpu_);
  const bool is_captured = gpu_->check_not_captured(stream).status == Status::unsupported;
  is_captured ? note_unordered(record, touches) : note_use(record, stream, touches);
}

// Whatever was queued in the stream so far and touches the buffer is behind an event now.
void UnifiedMemory::note_use(UnifiedRecord& record, cuda::Stream stream, unsigned touches) noexcept {
  const CurrentContext current(*gpu_);
  const cuda::Driver& driver = gpu_->driver();
  unsigned long long id = 0;
  if (!gpu_->check(driver.stream_get_id(stream, &id)).ok()) id = 0;
  for (unsigned i = 0; i < record.pending_count && id != 0; ++i) {
    const PendingUse& use = record.pending[i];
    if (use.event == nullptr || use.stream_id != id || use.touches != touches) continue;
    // A later recording in the same stream stands for the earlier one too.
    if (gpu_->check(driver.event_record(use.event, stream)).ok()) return;
  }
  if (record.pending_count == UnifiedRecord::kPendingMax) make_room_for_use(record);
  PendingUse& use = record.pending[record.pending_count];
  use = {nullptr, id, touches};
  if (events_.take(&use.event).ok()) {
    if (gpu_->check(driver.event_record(use.event, stream)).ok()) {
      ++record.pending_count;
      return;
    }
    events_.give(use.event);
    use.event = nullptr;
  }
  if (gpu_->check(driver.stream_synchronize(stream)).ok()) return;
  ++record.pending_count;
}

}  // namespace glebe::device
