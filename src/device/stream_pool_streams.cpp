// Which streams there are and how far the device has come with them. See stream_pool.h and
// stream_pool_slot.h.
#include <new>

#include "src/base/check.h"
#include "src/device/stream_pool.h"

namespace glebe::device {

using os::Lock;

namespace {

constexpr std::uint64_t kNoId = UINT64_MAX;

cuda::Stream special(std::uintptr_t number) noexcept { return reinterpret_cast<cuda::Stream>(number); }
StreamKind kind_of(cuda::Stream stream) noexcept {
  if (stream == nullptr || stream == special(cuda::kStreamLegacy)) return StreamKind::legacy;
  return stream == special(cuda::kStreamPerThread) ? StreamKind::per_thread : StreamKind::ordinary;
}

}  // namespace

// --- Streams by their ids ---

Outcome StreamPool::find_stream(cuda::Stream stream, StreamRef* ref) noexcept {
  Outcome outcome = check_open();
  if (!outcome.ok()) return outcome;
  const StreamKind kind = kind_of(stream);
  const std::uint32_t legacy = legacy_slot_.load(std::memory_order_acquire);
  if (kind == StreamKind::legacy && legacy != 0) {
    *ref = {legacy - 1, slots()[legacy - 1].generation.load(std::memory_order_relaxed)};
    return {};
  }
  std::uint64_t id = kNoId;
  outcome = id_of(stream, &id);
  if (!outcome.ok())
    return outcome.status == Status::failed ? Outcome(Status::bad_argument, outcome.driver) : outcome;
  if (find_slot(id, ref)) return {};
  const CurrentContext current(*gpu_);
  outcome = new_slot(stream, id, ref);
  // The last epochs of streams that are gone hold their slots: the whole device tells that they are done.
  if (outcome.status == Status::no_host_memory && prove_all().ok()) outcome = new_slot(stream, id, ref);
  if (outcome.ok() && kind == StreamKind::legacy) {
    legacy_slot_.store(ref->slot + 1, std::memory_order_release);
  }
  return outcome;
}

// Ids of ordinary streams are unique in the process, whatever context is current. The special handles mean a
// stream of the current one.
Outcome StreamPool::id_of(cuda::Stream stream, std::uint64_t* id) noexcept {
  unsigned long long number = 0;
  cuda::Result answer = cuda::Result::invalid_context;
  if (kind_of(stream) == StreamKind::ordinary) answer = gpu_->driver().stream_get_id(stream, &number);
  if (answer != cuda::Result::success) {
    const CurrentContext current(*gpu_);
    answer = gpu_->driver().stream_get_id(stream, &number);
  }
  *id = number;
  return gpu_->check(answer);
}

// Takes no lock. What it misses while entries are written is found under the lock, before a slot is made.
bool StreamPool::find_slot(std::uint64_t id, StreamRef* ref) const noexcept {
  const std::uint32_t mask = entry_count_ - 1;
  auto at = static_cast<std::uint32_t>((id * 0x9E3779B97F4A7C15u) >> 32);
  for (std::uint32_t step = 0; step < entry_count_; ++step, ++at) {
    const std::uint32_t entry = entries()[at & mask].load(std::memory_order_acquire);
    if (entry == 0) return false;
    if (entry == kErased) continue;
    const StreamSlot& slot = slots()[entry - 1];
    if (slot.id.load(std::memory_order_acquire) != id) continue;
    *ref = {entry - 1, slot.generation.load(std::memory_order_acquire)};
    if (slot.id.load(std::memory_order_relaxed) == id) return true;
  }
  return false;
}

void StreamPool::enter(std::uint64_t id, std::uint32_t slot) noexcept {
  const std::uint32_t mask = entry_count_ - 1;
  auto at = static_cast<std::uint32_t>((id * 0x9E3779B97F4A7C15u) >> 32);
  for (;; ++at) {
    const std::uint32_t entry = entries()[at & mask].load(std::memory_order_relaxed);
    if (entry != 0 && entry != kErased) continue;
    if (entry == kErased) --erased_;
    entries()[at & mask].store(slot + 1, std::memory_order_release);
    return;
  }
}

// Makes refs to a slot stale if nothing needs it any more.
bool StreamPool::retire(StreamSlot& slot) noexcept {
  const Lock lock(slot.lock);
  if (slot.idle_blocks != 0 || slot.open_frees != 0 || slot.is_used_open || slot.is_deferring ||
      slot.uses.load(std::memory_order_relaxed) != 0) {
    return false;
  }
  slot.generation.store(slot.generation.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  return true;
}

// The slot cannot be found any more.
void StreamPool::erase(StreamSlot& slot) noexcept {
  if (slot.id.exchange(kNoId, std::memory_order_acq_rel) == kNoId) return;
  for (std::uint32_t i = 0; i < entry_count_; ++i) {
    if (entries()[i].load(std::memory_order_relaxed) != slot.index + 1) continue;
    entries()[i].store(kErased, std::memory_order_release);
    ++erased_;
    break;
  }
  known_streams_.fetch_sub(1, std::memory_order_relaxed);
  if (erased_ > entry_count_ / 4) rebuild_entries();
}

void StreamPool::rebuild_entries() noexcept {
  for (std::uint32_t i = 0; i < entry_count_; ++i) entries()[i].store(0, std::memory_order_release);
  erased_ = 0;
  for (std::uint32_t i = 0; i < slot_count(); ++i) {
    const std::uint64_t id = slots()[i].id.load(std::memory_order_relaxed);
    if (id != kNoId) enter(id, i);
  }
}

Outcome StreamPool::new_slot(cuda::Stream stream, std::uint64_t id, StreamRef* ref) noexcept {
  const Lock lock(streams_mutex_);
  if (find_slot(id, ref)) return {};
  StreamSlot* slot = unused_slot();
  if (slot == nullptr) return gpu_->is_lost() ? Status::device_lost : Status::no_host_memory;
  {
    const Lock slow(slot->slow);
    slot->kind.store(kind_of(stream), std::memory_order_relaxed);
    slot->handle.store(stream, std::memory_order_relaxed);
    slot->is_gone.store(false, std::memory_order_relaxed);
  }
  if (slot->generation.load(std::memory_order_relaxed) == 0) {
    slot->generation.store(1, std::memory_order_relaxed);
  }
  slot->id.store(id, std::memory_order_release);
  enter(id, slot->index);
  known_streams_.fetch_add(1, std::memory_order_relaxed);
  *ref = {slot->index, slot->generation.load(std::memory_order_relaxed)};
  return {};
}

// Streams that nobody said were destroyed, and those of other threads, which may have ended: looked for only
// when there is no other way.
bool StreamPool::may_be_left(StreamSlot& slot) noexcept {
  const Reach found = reach(slot);
  const bool is_of_thread = slot.kind.load(std::memory_order_relaxed) == StreamKind::per_thread;
  return found == Reach::gone || (found == Reach::unknown && is_of_thread);
}

// A new one, or that of a stream that is gone and whose blocks the device is done with.
StreamSlot* StreamPool::unused_slot() noexcept {
  const std::uint32_t count = slot_count();
  const bool can_grow =
      count < options_.streams_max && slot_memory_.grow_to((count + 1) * sizeof(StreamSlot));
  for (std::uint32_t i = 0; i < count; ++i) {
    StreamSlot& slot = slots()[i];
    const Lock slow(slot.slow);
    if (!slot.is_gone.load(std::memory_order_relaxed) && (can_grow || !may_be_left(slot))) continue;
    poll(slot);
    settle_limbo(slot);
    give_back_from(slot, UINT64_MAX);
    if (slot.closed_count != 0 || !retire(slot)) continue;
    erase(slot);
    return &slot;
  }
  if (!can_grow) return nullptr;
  auto* slot = new (&slots()[count]) StreamSlot;
  slot->index = count;
  slot_count_.store(count + 1, std::memory_order_release);
  return slot;
}

Outcome StreamPool::forget_stream(StreamRef ref) noexcept {
  Outcome outcome = check_open();
  if (!outcome.ok()) return outcome;
  StreamSlot* slot = slot_of(ref);
  if (slot == nullptr || slot->kind.load(std::memory_order_relaxed) == StreamKind::legacy)
    return Status::bad_argument;
  const CurrentContext current(*gpu_);
  const Lock streams(streams_mutex_);
  const Lock slow(slot->slow);
  if (slot->generation.load(std::memory_order_relaxed) != ref.generation) return Status::bad_argument;
  end_deferring(*slot);
  // An event, so that others can wait for it when the stream is gone.
  if (slot->closed_count == StreamSlot::kClosedMax) static_cast<void>(wait_for_closed(*slot));
  outcome = close_epoch(*slot, true);
  slot->is_gone.store(true, std::memory_order_relaxed);
  {
    const Lock lock(slot->lock);
    slot->last_epoch = slot->open_epoch.load(std::memory_order_relaxed) - (outcome.ok() ? 1 : 0);
    slot->is_used_open |= !outcome.ok();
    slot->generation.store(ref.generation + 1, std::memory_order_release);
  }
  erase(*slot);
  if (outcome.ok() || outcome.status == Status::device_lost) return outcome;
  return {Status::not_ready, outcome.driver};
}

Outcome StreamPool::forget_stream(cuda::Stream stream) noexcept {
  Outcome outcome = check_open();
  if (!outcome.ok()) return outcome;
  std::uint64_t id = kNoId;
  outcome = id_of(stream, &id);
  StreamRef ref;
  if (outcome.ok() && find_slot(id, &ref)) return forget_stream(ref);
  return outcome.status == Status::device_lost ? outcome : Outcome(Status::bad_argument, outcome.driver);
}

// --- Captures ---

Outcome StreamPool::begin_capture(StreamRef ref) noexcept {
  const Outcome outcome = check_open();
  if (!outcome.ok()) return outcome;
  StreamSlot* slot = slot_of(ref);
  if (slot == nullptr) return Status::bad_argument;
  const Lock lock(slot->lock);
  if (slot->generation.load(std::memory_order_relaxed) != ref.generation) return Status::bad_argument;
  if (slot->is_deferring) return Status::in_use;
  slot->is_deferring = true;
  captures_.fetch_add(1, std::memory_order_relaxed);
  return {};
}

Outcome StreamPool::end_capture(StreamRef ref) noexcept {
  const Outcome outcome = check_open();
  if (!outcome.ok()) return outcome;
  StreamSlot* slot = slot_of(ref);
  if (slot == nullptr) return Status::bad_argument;
  {
    const Lock lock(slot->lock);
    if (slot->generation.load(std::memory_order_relaxed) != ref.generation || !slot->is_deferring) {
      return Status::bad_argument;
    }
  }
  end_deferring(*slot);
  return {};
}

// What was freed meanwhile is freed now.
void StreamPool::end_deferring(StreamSlot& slot) noexcept {
  const Lock lock(slot.lock);
  if (!slot.is_deferring) return;
  slot.is_deferring = false;
  captures_.fetch_sub(1, std::memory_order_relaxed);
  while (slot.deferred.back != kNoBlock) {
    const BlockNumber number = slot.deferred.back;
    slot.take(blocks_, slot.deferred, number);
    slot.put(blocks_, slot.lists[blocks_[number].size_class], number);
  }
}

// --- Epochs. `slow` is held and the context is current ---

// Also without `slow`. The handle that is remembered may be another stream's by now: its id tells. It may
// also be the stream of another thread, which only that thread can name.
StreamPool::Reach StreamPool::reach(StreamSlot& slot) noexcept {
  if (slot.is_gone.load(std::memory_order_relaxed)) return Reach::gone;
  const StreamKind kind = slot.kind.load(std::memory_order_relaxed);
  const cuda::Stream handle = slot.handle.load(std::memory_order_relaxed);
  if (kind != StreamKind::legacy) {
    unsigned long long id = 0;
    const cuda::Result answer = gpu_->driver().stream_get_id(handle, &id);
    const bool is_other = answer == cuda::Result::success && id != slot.id.load(std::memory_order_relaxed);
    if (kind == StreamKind::per_thread && (is_other || answer != cuda::Result::success)) {
      return Reach::unknown;
    }
    if (is_other || answer == cuda::Result::invalid_handle) {
      slot.is_gone.store(true, std::memory_order_relaxed);
      return Reach::gone;
    }
    if (!gpu_->check(answer).ok()) return Reach::unknown;
  }
  auto status = cuda::CaptureStatus::none;
  const cuda::Result answer = gpu_->driver().stream_is_capturing(handle, &status);
  // The default stream refuses the question while another one that it joins is captured.
  if (is_of_capture(answer)) return Reach::capturing;
  if (!gpu_->check(answer).ok()) return Reach::unknown;
  return status == cuda::CaptureStatus::none ? Reach::ready : Reach::capturing;
}

std::uint64_t* StreamPool::word_of(std::uint32_t slot) const noexcept {
  return reinterpret_cast<std::uint64_t*>(timeline_ + std::size_t{slot} * kTimelineStride);
}

// Whether there is something that no closed epoch covers.
bool StreamPool::has_open(StreamSlot& slot) noexcept {
  const Lock lock(slot.lock);
  return slot.open_frees != 0 || slot.is_used_open;
}

Outcome StreamPool::mark_epoch(StreamSlot& slot, std::uint64_t epoch, cuda::Event event) noexcept {
  if (event != nullptr) {
    const Outcome outcome =
        gpu_->check(gpu_->driver().event_record(event, slot.handle.load(std::memory_order_relaxed)));
    if (outcome.ok()) events_recorded_.fetch_add(1, std::memory_order_relaxed);
    return outcome;
  }
  const auto word = static_cast<cuda::DevicePointer>(reinterpret_cast<std::uintptr_t>(word_of(slot.index)));
  return gpu_->check(gpu_->driver().stream_write_value64(slot.handle.load(std::memory_order_relaxed), word,
                                                         epoch, cuda::kWriteValueDefault));
}

// Opens the next epoch first and marks the stream then, so that what is freed meanwhile counts to the next
// one. When the mark fails, what was open counts to the next one as well.
Outcome StreamPool::close_epoch(StreamSlot& slot, bool must_be_event) noexcept {
  if (gpu_->is_lost()) return Status::device_lost;
  if (slot.closed_count == StreamSlot::kClosedMax || reach(slot) != Reach::ready) {
    return gpu_->is_lost() ? Status::device_lost : Status::not_ready;
  }
  cuda::Event event = nullptr;
  if (must_be_event || timeline_ == nullptr) {
    const Outcome outcome = events_.take(&event);
    if (!outcome.ok()) return outcome;
  }
  std::uint64_t epoch, frees, bytes;
  bool was_used;
  {
    const Lock lock(slot.lock);
    epoch = slot.open_epoch.load(std::memory_order_relaxed);
    slot.open_epoch.store(epoch + 1, std::memory_order_relaxed);
    frees = slot.open_frees;
    bytes = slot.open_bytes;
    was_used = slot.is_used_open;
    slot.open_frees = slot.open_bytes = 0;
    slot.is_used_open = false;
  }
  Outcome outcome = mark_epoch(slot, epoch, event);
  if (!outcome.ok() && event == nullptr) {
    // The device does not write there: an event does it.
    outcome = events_.take(&event);
    if (outcome.ok()) outcome = mark_epoch(slot, epoch, event);
  }
  if (outcome.ok()) {
    slot.push_closed({epoch, stamp_.fetch_add(1, std::memory_order_relaxed), event});
    epochs_closed_.fetch_add(1, std::memory_order_relaxed);
    return {};
  }
  if (event != nullptr) events_.give(event);
  const Lock lock(slot.lock);
  // As before, unless something counts to the next epoch already; then this one goes with it.
  if (slot.open_frees == 0 && !slot.is_used_open) slot.open_epoch.store(epoch, std::memory_order_relaxed);
  slot.open_frees += frees;
  slot.open_bytes += bytes;
  slot.is_used_open |= was_used;
  return outcome;
}

void StreamPool::pop_reached(StreamSlot& slot, std::uint64_t epoch) noexcept {
  while (slot.closed_count != 0 && slot.oldest().number <= epoch) {
    if (slot.oldest().event != nullptr) events_.give(slot.oldest().event);
    slot.pop_closed();
  }
  if (epoch != UINT64_MAX && !slot.is_reached(epoch)) {
    slot.reached_epoch.store(epoch, std::memory_order_release);  // pairs with is_reached()
  }
}

void StreamPool::poll(StreamSlot& slot) noexcept {
  while (slot.closed_count != 0) {
    const ClosedEpoch& oldest = slot.oldest();
    bool is_done;
    if (oldest.event == nullptr) {
      // Pairs with the write of the device, which comes after all that was queued before it.
      is_done = __atomic_load_n(word_of(slot.index), __ATOMIC_ACQUIRE) >= oldest.number;
    } else {
      // An event that is asked while anything is captured may spoil the capture.
      if (captures_.load(std::memory_order_relaxed) != 0) return;
      polls_.fetch_add(1, std::memory_order_relaxed);
      is_done = gpu_->check(gpu_->driver().event_query(oldest.event)).ok();
    }
    if (!is_done) return;
    pop_reached(slot, oldest.number);
  }
}

// Waiting on the host may spoil a capture, so the streams are asked before, in case nobody announced one.
// Streams that the pool does not know are not.
bool StreamPool::is_any_captured() noexcept {
  if (captures_.load(std::memory_order_relaxed) != 0) return true;
  for (std::uint32_t i = 0; i < slot_count(); ++i) {
    if (reach(slots()[i]) == Reach::capturing) return true;
  }
  return false;
}

// --- Waiting on the host. `slow` of the slot is held where one is given ---

// Where the first closed epoch stands that has an event. A word cannot be waited for, as the device may have
// an error; an event behind it can. False: there is none and none can be recorded.
bool StreamPool::first_event(StreamSlot& slot, std::uint32_t* place) noexcept {
  for (*place = 0; *place < slot.closed_count; ++*place) {
    if (slot.at(*place).event != nullptr) return true;
  }
  if (slot.closed_count < StreamSlot::kClosedMax) return close_epoch(slot, true).ok();
  --*place;
  return mark_newest(slot);
}

// There is no room for one more closed epoch: an event takes the place of the word of the newest one.
bool StreamPool::mark_newest(StreamSlot& slot) noexcept {
  cuda::Event event = nullptr;
  if (reach(slot) != Reach::ready || !events_.take(&event).ok()) return false;
  ClosedEpoch& newest = slot.at(slot.closed_count - 1);
  if (mark_epoch(slot, newest.number, event).ok()) {
    newest.event = event;
    return true;
  }
  events_.give(event);
  return false;
}

// Until the device has reached the oldest closed epoch. False: that cannot be found out.
bool StreamPool::wait_for_closed(StreamSlot& slot) noexcept {
  poll(slot);
  if (slot.closed_count == 0) return true;
  std::uint32_t place = 0;
  if (captures_.load(std::memory_order_relaxed) != 0 || !first_event(slot, &place)) return false;
  const ClosedEpoch closed = slot.at(place);
  host_waits_.fetch_add(1, std::memory_order_relaxed);
  if (!gpu_->check(gpu_->driver().event_synchronize(closed.event)).ok()) return false;
  pop_reached(slot, closed.number);
  return true;
}

// False: nothing is waited for any more, or nothing can be.
bool StreamPool::wait_for_oldest() noexcept {
  if (is_any_captured()) return false;
  StreamSlot* oldest = nullptr;
  std::uint64_t stamp = UINT64_MAX;
  bool is_stuck = false;
  for (std::uint32_t i = 0; i < slot_count(); ++i) {
    StreamSlot& slot = slots()[i];
    const Lock slow(slot.slow);
    if (slot.closed_count == 0 && has_open(slot) && !close_epoch(slot, true).ok()) is_stuck = true;
    if (slot.closed_count == 0 || slot.oldest().stamp >= stamp) continue;
    stamp = slot.oldest().stamp;
    oldest = &slot;
  }
  if (oldest != nullptr) {
    const Lock slow(oldest->slow);
    if (wait_for_closed(*oldest)) return true;
    is_stuck = true;
  }
  return is_stuck && prove_all().ok();
}

// What no event tells, of streams that are gone or of other threads, the whole device tells.
Outcome StreamPool::prove_all() noexcept {
  if (gpu_->is_lost()) return Status::device_lost;
  if (is_any_captured()) return Status::not_ready;
  const Lock proving(prove_mutex_);
  const std::uint32_t count = slot_count();
  for (std::uint32_t i = 0; i < count; ++i) {
    StreamSlot& slot = slots()[i];
    const Lock slow(slot.slow);
    const Lock lock(slot.lock);
    slot.proof_epoch = slot.open_epoch.load(std::memory_order_relaxed);
    slot.open_epoch.store(slot.proof_epoch + 1, std::memory_order_relaxed);
    slot.proof_frees = slot.open_frees;
    slot.proof_bytes = slot.open_bytes;
    slot.proof_used = slot.is_used_open;
    slot.open_frees = slot.open_bytes = 0;
    slot.is_used_open = false;
  }
  device_waits_.fetch_add(1, std::memory_order_relaxed);
  const Outcome outcome = gpu_->check(gpu_->driver().ctx_synchronize());
  for (std::uint32_t i = 0; i < count; ++i) {
    StreamSlot& slot = slots()[i];
    const Lock slow(slot.slow);
    if (outcome.ok()) {
      pop_reached(slot, slot.proof_epoch);
      continue;
    }
    const Lock lock(slot.lock);
    const bool is_untouched = slot.open_epoch.load(std::memory_order_relaxed) == slot.proof_epoch + 1;
    if (is_untouched && slot.open_frees == 0 && !slot.is_used_open) {
      slot.open_epoch.store(slot.proof_epoch, std::memory_order_relaxed);
    }
    slot.open_frees += slot.proof_frees;
    slot.open_bytes += slot.proof_bytes;
    slot.is_used_open |= slot.proof_used;
  }
  return outcome;
}

bool StreamPool::synchronize_slot(StreamSlot& slot) noexcept {
  const Lock slow(slot.slow);
  poll(slot);
  if (has_open(slot)) {
    if (slot.closed_count == StreamSlot::kClosedMax && !wait_for_closed(slot)) return false;
    if (!close_epoch(slot, true).ok()) return false;
  }
  while (slot.closed_count != 0) {
    if (!wait_for_closed(slot)) return false;
  }
  return true;
}

Outcome StreamPool::synchronize() noexcept {
  Outcome outcome = check_open();
  if (!outcome.ok()) return outcome;
  const CurrentContext current(*gpu_);
  if (is_any_captured()) return Status::not_ready;
  bool is_proved = true;
  for (std::uint32_t i = 0; i < slot_count(); ++i) is_proved &= synchronize_slot(slots()[i]);
  if (!is_proved) outcome = prove_all();
  for (std::uint32_t i = 0; i < slot_count(); ++i) settle_limbo(slots()[i]);
  return outcome;
}

void StreamPool::give_uses(std::uint32_t first) noexcept {
  for (std::uint32_t at = first; at != kNoUse; at = uses_[at].next) {
    slots()[uses_[at].slot].uses.fetch_sub(1, std::memory_order_relaxed);
  }
  uses_.give(first);
}

// The streams that keep blocks in the limbo of this one: at most kUsersMax, some of them perhaps twice.
unsigned StreamPool::users_of(StreamSlot& slot, std::uint32_t* users) noexcept {
  unsigned count = 0;
  const Lock lock(slot.lock);
  for (BlockNumber at = slot.limbo.back; at != kNoBlock; at = blocks_[at].previous) {
    std::uint32_t use = blocks_[at].uses.load(std::memory_order_relaxed);
    for (; use != kNoUse; use = uses_[use].next) {
      if (count > 0 && users[count - 1] == uses_[use].slot) continue;
      if (slots()[uses_[use].slot].is_reached(uses_[use].epoch)) continue;
      users[count++] = uses_[use].slot;
      if (count == kUsersMax) return count;
    }
  }
  return count;
}

// Finds out how far those streams are. No lock is held.
void StreamPool::ask_users(StreamSlot& slot) noexcept {
  std::uint32_t users[kUsersMax];
  const unsigned count = users_of(slot, users);
  for (unsigned i = 0; i < count; ++i) {
    StreamSlot& user = slots()[users[i]];
    if (!user.slow.try_lock()) continue;
    poll(user);
    if (has_open(user)) static_cast<void>(close_epoch(user, false));
    poll(user);
    user.slow.unlock();
  }
}

bool StreamPool::is_unused(const Block& block) const noexcept {
  std::uint32_t at = block.uses.load(std::memory_order_relaxed);
  while (at != kNoUse && slots()[uses_[at].slot].is_reached(uses_[at].epoch)) at = uses_[at].next;
  return at == kNoUse;
}

// From now on only its own stream counts. Under the lock.
void StreamPool::leave_limbo(StreamSlot& slot, BlockNumber number) noexcept {
  Block& block = blocks_[number];
  give_uses(block.uses.exchange(kNoUse, std::memory_order_relaxed));
  slot.move(blocks_, slot.limbo, slot.is_deferring ? slot.deferred : slot.lists[block.size_class], number);
}

// Blocks whose other users are done leave the limbo.
void StreamPool::settle_limbo(StreamSlot& slot) noexcept {
  const Lock lock(slot.lock);
  BlockNumber number = slot.limbo.front;
  while (number != kNoBlock) {
    const BlockNumber next = blocks_[number].next;
    if (is_unused(blocks_[number])) leave_limbo(slot, number);
    number = next;
  }
}

}  // namespace glebe::device
