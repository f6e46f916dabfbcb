// Leases. The short way, when everything is resident: one lock, pins, and the stream waits for copies that
// are still under way. The long way, under the mover's lock: pins, a look at the budget, then
// residency_moves.cpp. Nothing becomes final before all of it has succeeded: only then are old copies of what
// will be written given up.
#include "src/base/check.h"
#include "src/device/residency_internal.h"

namespace glebe::device {

using os::Lock;

// ---- the tables of leases; all under mutex_ ----

Outcome ResidentHeap::add_range(const LeaseRange& range, std::uint32_t number) noexcept {
  if (range.count == 0) return {};
  std::uint32_t taken = free_ranges_;
  if (taken != 0) {
    free_ranges_ = lease_range(taken).next;
  } else {
    if (!ranges_.grow_to((ranges_made_ + 1) * sizeof(LeaseRange))) return Status::no_host_memory;
    taken = ++ranges_made_;
  }
  lease_range(taken) = range;
  lease_range(taken).next = lease_record(number).first_range;
  lease_record(number).first_range = taken;
  return {};
}

// Chunks that a use covers in part only keep what lies beside it, so discarding them is writing to them.
Outcome ResidentHeap::add_use_ranges(const ChunkUse& use, Intent intent, std::uint32_t number) noexcept {
  const std::uint32_t index = chunk_at(use.address);
  if (index >= chunks_made_ || chunk(index).state == ChunkState::absent) return Status::not_owned;
  const std::uint32_t start = chunk(index).first;
  const std::uint64_t end = address_of(start) + chunk(start).run * std::uint64_t{chunk_bytes_};
  const std::uint64_t rest_bytes = end - use.address;
  const std::uint64_t birth = chunk(start).birth;
  const std::uint64_t size_bytes = use.size_bytes != 0 ? use.size_bytes : rest_bytes;
  if (size_bytes > rest_bytes || static_cast<unsigned>(use.access) > 2) return Status::bad_argument;
  const std::uint64_t begin_offset = use.address - base_, end_offset = begin_offset + size_bytes;
  auto first = static_cast<std::uint32_t>(begin_offset / chunk_bytes_);
  auto beyond = static_cast<std::uint32_t>(divide_up(end_offset, chunk_bytes_));
  if (intent == Intent::hint || use.access != Access::discard) {
    const Access access = intent == Intent::hint ? Access::read : use.access;
    return add_range({birth, first, beyond - first, 0, access}, number);
  }
  Outcome outcome;
  if (begin_offset % chunk_bytes_ != 0) outcome = add_range({birth, first++, 1, 0, Access::write}, number);
  if (outcome.ok() && end_offset % chunk_bytes_ != 0 && first < beyond) {
    outcome = add_range({birth, --beyond, 1, 0, Access::write}, number);
  }
  return outcome.ok() ? add_range({birth, first, beyond - first, 0, Access::discard}, number) : outcome;
}

Outcome ResidentHeap::make_lease(std::span<const ChunkUse> uses, Intent intent,
                                 std::uint32_t* number) noexcept {
  std::uint32_t taken = free_leases_;
  if (taken != 0) {
    free_leases_ = lease_record(taken).next_free;
  } else {
    if (!leases_.grow_to((leases_made_ + 1) * sizeof(LeaseRecord))) return Status::no_host_memory;
    taken = ++leases_made_;
    lease_record(taken).generation = 0;
  }
  LeaseRecord& record = lease_record(taken);
  record = LeaseRecord{nullptr, 0, 0, 0, record.generation + 1, true, false};
  ++stats_.live_leases;
  Outcome outcome;
  for (const ChunkUse& use : uses) {
    if (outcome.ok()) outcome = add_use_ranges(use, intent, taken);
  }
  *number = taken;
  if (!outcome.ok()) end_lease(taken);
  return outcome;
}

void ResidentHeap::end_lease(std::uint32_t number) noexcept {
  LeaseRecord& record = lease_record(number);
  while (record.first_range != 0) {
    const std::uint32_t freed = record.first_range;
    record.first_range = lease_range(freed).next;
    lease_range(freed).next = free_ranges_;
    free_ranges_ = freed;
  }
  record.is_live = false;
  record.next_free = free_leases_;
  free_leases_ = number;
  --stats_.live_leases;
}

void ResidentHeap::pin_lease(std::uint32_t number) noexcept {
  for_each_chunk(number, [this](Chunk& which, Access) { pin(which); });
}

void ResidentHeap::unpin_lease(std::uint32_t number) noexcept {
  for_each_chunk(number, [this](Chunk& which, Access) { unpin(which); });
}

// ---- acquiring ----

Outcome ResidentHeap::acquire(std::span<const ChunkUse> uses, cuda::Stream stream, Lease* lease,
                              Shortfall* shortfall) noexcept {
  std::uint32_t number = 0;
  const Outcome outcome = acquire_any({uses, stream, Intent::lease}, &number, shortfall);
  if (!outcome.ok()) return outcome;
  const Lock lock(mutex_);
  *lease = Lease{number, lease_record(number).generation};
  return outcome;
}

Outcome ResidentHeap::prefetch(std::span<const ChunkUse> uses, cuda::Stream stream) noexcept {
  std::uint32_t number = 0;
  const Outcome outcome = acquire_any({uses, stream, Intent::hint}, &number, nullptr);
  if (!outcome.ok()) return outcome;
  const Lock lock(mutex_);
  unpin_lease(number);
  end_lease(number);
  return outcome;
}

Outcome ResidentHeap::acquire_any(const Asked& asked, std::uint32_t* number, Shortfall* shortfall) noexcept {
  Outcome outcome = usable();
  if (!outcome.ok()) return outcome;
  if (asked.uses.empty()) return Status::bad_argument;
  unsigned long long stream_id = 0;
  {
    const CurrentContext current(*gpu_);
    outcome = gpu_->check_not_captured(asked.stream);
    if (outcome.ok()) outcome = gpu_->check(gpu_->driver().stream_get_id(asked.stream, &stream_id));
  }
  if (!outcome.ok()) return outcome;
  bool is_resident = true, is_settled = false;
  {
    const Lock lock(mutex_);
    outcome = make_lease(asked.uses, asked.intent, number);
    if (!outcome.ok()) return outcome;
    lease_record(*number).stream = asked.stream;
    lease_record(*number).stream_id = stream_id;
    for_each_chunk(*number, [&is_resident](const Chunk& which, Access) {
      is_resident = is_resident && which.state == ChunkState::resident;
    });
    if (is_resident) pin_lease(*number);
    is_settled = is_resident && newest_ready(*number) == 0;
    if (is_settled) {
      commit_lease(*number);
      ++stats_.hits;
    }
  }
  if (!is_settled) outcome = is_resident ? acquire_resident(*number) : acquire_moving(*number, shortfall);
  if (file_.is_open()) file_.sweep();
  return outcome;
}

// Everything is there and pinned; copies may still run.
Outcome ResidentHeap::acquire_resident(std::uint32_t number) noexcept {
  MarkIndex mark = 0;
  cuda::Stream stream = nullptr;
  {
    const Lock lock(mutex_);
    mark = newest_ready(number);
    if (mark != 0) marks_.refer(mark);
    stream = lease_record(number).stream;
  }
  const Outcome outcome = wait_ready(stream, mark);
  const Lock lock(mutex_);
  marks_.drop(mark);
  if (outcome.ok()) {
    commit_lease(number);
    ++stats_.hits;
  } else {
    unpin_lease(number);
    end_lease(number);
  }
  return outcome;
}

Outcome ResidentHeap::acquire_moving(std::uint32_t number, Shortfall* shortfall) noexcept {
  const Mover mover(*this);
  Operation operation;
  begin(operation);
  cuda::Stream stream = nullptr;
  {
    const Lock lock(mutex_);
    if (!is_still_ours(number)) {
      end_lease(number);
      return Status::not_owned;
    }
    const std::uint32_t others = pinned_;
    plan_lease(number, operation);
    if (pinned_ > budget_chunks_.load(std::memory_order_relaxed)) {
      const std::uint32_t added = pinned_ - others;
      report(shortfall, added, others);
      ++stats_.over_budget;
      unpin_lease(number);
      end_lease(number);
      return Status::over_budget;
    }
    stream = lease_record(number).stream;
  }
  Outcome outcome = bring(operation);
  if (outcome.ok()) {
    MarkIndex mark = 0;
    {
      const Lock lock(mutex_);
      mark = newest_ready(number);
      if (mark != 0) marks_.refer(mark);
    }
    outcome = wait_ready(stream, mark);
    {
      const Lock lock(mutex_);
      marks_.drop(mark);
    }
    if (!outcome.ok()) undo(operation);
  }
  const Lock lock(mutex_);
  if (outcome.ok()) {
    commit_lease(number);
    return outcome;
  }
  unpin_lease(number);
  end_lease(number);
  if (outcome.status == Status::over_budget || outcome.status == Status::out_of_memory) {
    report(shortfall, operation.wanted.count, pinned_);
  }
  return outcome;
}

// Allocations may have been freed, and their chunks allocated again, while the mover's lock was waited for.
bool ResidentHeap::is_still_ours(std::uint32_t number) noexcept {
  for (std::uint32_t at = lease_record(number).first_range; at != 0; at = lease_range(at).next) {
    const Chunk& first = chunk(chunk(lease_range(at).first).first);
    if (first.state == ChunkState::absent || first.birth != lease_range(at).birth) return false;
  }
  return true;
}

// Pins all, and lists what has to come, with what will be done with it: the strongest of all uses.
void ResidentHeap::plan_lease(std::uint32_t number, Operation& operation) noexcept {
  for_each_chunk(number, [this, &operation](Chunk& which, Access access) {
    pin(which);
    if (which.plan_stamp == stamp_) {
      if (which.plan != access) which.plan = Access::write;
      return;
    }
    which.plan_stamp = stamp_;
    which.plan = access;
    if (which.state != ChunkState::resident) append(operation.wanted, index_of(which));
  });
}

void ResidentHeap::commit_lease(std::uint32_t number) noexcept {
  ++now_;
  ++stats_.leases;
  for_each_chunk(number, [this](Chunk& which, Access access) { commit_chunk(which, access); });
}

void ResidentHeap::commit_chunk(Chunk& which, Access access) noexcept {
  if (which.state == ChunkState::fetching) {
    change(which, ChunkMove::arrive);
    which.is_filled = which.is_asleep = false;
    victims_.insert(&which);
  } else {
    victims_.touch(&which);
  }
  which.last_use.store(now_, std::memory_order_relaxed);
  if (access != Access::read) {
    free_slot(which);
    file_.retire(which.place);
    which.place = 0;
    which.is_blank = false;
  }
  set_cost(which);
}

// The last of the copies to the device that fill chunks of the lease: they end in order. 0: all have ended.
MarkIndex ResidentHeap::newest_ready(std::uint32_t number) noexcept {
  MarkIndex newest = 0;
  for_each_chunk(number, [this, &newest](Chunk& which, Access) {
    if (marks_.is_passed(which.ready)) return;
    if (newest == 0 || marks_.number(which.ready) > marks_.number(newest)) newest = which.ready;
  });
  return newest;
}

// The stream goes on behind the mark, to which the caller has a reference. The host waits where the stream
// cannot be told.
Outcome ResidentHeap::wait_ready(cuda::Stream stream, MarkIndex mark) noexcept {
  cuda::Event event = nullptr;
  {
    const Lock lock(mutex_);
    if (marks_.is_passed(mark)) return {};
    event = marks_.event(mark);
  }
  const CurrentContext current(*gpu_);
  if (gpu_->driver().event_query(event) != cuda::Result::success) {
    const Outcome outcome = gpu_->check(gpu_->driver().stream_wait_event(stream, event, 0));
    return outcome.ok() ? outcome : wait_mark(mark, StallCause::copy_in);
  }
  const Lock lock(mutex_);
  marks_.set_passed(mark);
  return {};
}

// ---- releasing ----

Outcome ResidentHeap::release(Lease lease) noexcept {
  if (gpu_ == nullptr) return Status::bad_argument;
  LeaseRecord record{};
  Outcome outcome = begin_release(lease, &record);
  if (!outcome.ok()) return outcome;
  MarkIndex mark = 0;
  outcome = mark_release(record, &mark);
  if (outcome.ok() && mark != 0) outcome = mark_uses(lease.number, mark);
  const Lock lock(mutex_);
  marks_.drop(mark);
  lease_record(lease.number).is_releasing = false;
  if (outcome.ok() || outcome.status == Status::device_lost) {
    unpin_lease(lease.number);
    end_lease(lease.number);
  }
  return outcome;
}

Outcome ResidentHeap::begin_release(Lease lease, LeaseRecord* record) noexcept {
  const Lock lock(mutex_);
  if (lease.number == 0 || lease.number > leases_made_) return Status::not_owned;
  LeaseRecord& found = lease_record(lease.number);
  if (!found.is_live || found.is_releasing || found.generation != lease.generation) return Status::not_owned;
  found.is_releasing = true;
  *record = found;
  return {};
}

// Where the stream is now. No mark: it had to be waited for, so there is nothing left to wait for later.
Outcome ResidentHeap::mark_release(const LeaseRecord& record, MarkIndex* mark) noexcept {
  const Outcome lost = usable();
  if (!lost.ok()) return lost;
  const CurrentContext current(*gpu_);
  // The stream of a thread is another one in another thread, and a stream may be gone: then everything that
  // was queued is waited for.
  unsigned long long stream_id = 0;
  const cuda::Result found = gpu_->driver().stream_get_id(record.stream, &stream_id);
  if (found != cuda::Result::success || stream_id != record.stream_id) {
    return gpu_->check(gpu_->driver().ctx_synchronize());
  }
  Outcome outcome = gpu_->check_not_captured(record.stream);
  if (!outcome.ok()) return outcome;
  cuda::Event event = nullptr;
  outcome = events_.take(&event);
  if (outcome.ok()) {
    std::uint64_t begun = 0;
    {
      const Lock lock(mutex_);
      begun = marks_.begin();
    }
    outcome = gpu_->check(gpu_->driver().event_record(event, record.stream));
    const Lock lock(mutex_);
    if (outcome.ok()) *mark = marks_.add(event, record.stream_id, begun);
    if (*mark == 0) events_.give(event);
  }
  if (*mark != 0) return outcome;
  return gpu_->check(gpu_->driver().stream_synchronize(record.stream));
}

// Notes the mark in every chunk of the lease. A chunk that remembers enough streams already gives up one that
// has passed; if none has, the host waits for one.
Outcome ResidentHeap::mark_uses(std::uint32_t number, MarkIndex mark) noexcept {
  for (;;) {
    MarkIndex in_the_way[kUsesMax] = {};
    if (add_uses(number, mark, in_the_way)) return {};
    bool has_passed = false;
    for (const MarkIndex use : in_the_way) has_passed = poll_mark(use) || has_passed;
    const Outcome outcome = has_passed ? Outcome() : wait_mark(in_the_way[0], StallCause::streams);
    const Lock lock(mutex_);
    for (const MarkIndex use : in_the_way) marks_.drop(use);
    if (!outcome.ok()) return outcome;
  }
}

// False: the marks of a chunk that has no room, with references for the caller.
bool ResidentHeap::add_uses(std::uint32_t number, MarkIndex mark,
                            MarkIndex (&in_the_way)[kUsesMax]) noexcept {
  const Lock lock(mutex_);
  Chunk* full = nullptr;
  for_each_chunk(number, [this, mark, &full](Chunk& which, Access) {
    if (full == nullptr && !add_use(which, mark)) full = &which;
  });
  if (full == nullptr) return true;
  for (unsigned i = 0; i < kUsesMax; ++i) {
    in_the_way[i] = full->uses[i];
    marks_.refer(in_the_way[i]);
  }
  return false;
}

// Whether the mark, to which the caller has a reference, was passed; asks the driver.
bool ResidentHeap::poll_mark(MarkIndex mark) noexcept {
  cuda::Event event = nullptr;
  {
    const Lock lock(mutex_);
    if (marks_.is_passed(mark)) return true;
    event = marks_.event(mark);
  }
  const CurrentContext current(*gpu_);
  if (gpu_->driver().event_query(event) != cuda::Result::success) return false;
  const Lock lock(mutex_);
  marks_.set_passed(mark);
  return true;
}

// False: the chunk remembers as many as it can, and none of them was passed as far as is known.
bool ResidentHeap::add_use(Chunk& which, MarkIndex mark) noexcept {
  const std::uint64_t stream_id = marks_.stream_id(mark);
  MarkIndex* place = nullptr;
  for (MarkIndex& use : which.uses) {
    if (use == mark) return true;
    // What was queued earlier in the same stream ends earlier.
    if (use != 0 && marks_.stream_id(use) == stream_id && marks_.is_before(use, mark)) {
      place = &use;
      break;
    }
    if (use != 0 && marks_.stream_id(use) == stream_id && marks_.is_before(mark, use)) return true;
    if (marks_.is_passed(use) && place == nullptr) place = &use;
  }
  if (place == nullptr) return false;
  marks_.drop(*place);
  *place = mark;
  marks_.refer(mark);
  return true;
}

}  // namespace glebe::device
