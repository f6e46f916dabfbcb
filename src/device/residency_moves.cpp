// Chunks come and go: see the move sequence in docs/design.md, "GPU".
//
// A call works in steps of a few chunks. One step: victims are chosen and their copies to the host queued;
// while these run, contents are read from the file; then each copy is waited for and its chunk unmapped; the
// handles that became free are mapped where chunks are wanted, and their copies to the device queued, which
// nobody waits for here. So the copies to the device of one step overlap those to the host of the next.
// Everything is undone by the same means: what came leaves without a copy, because its old copies are kept
// until the end of the call, and what had left is fetched back.
#include "src/base/check.h"
#include "src/device/residency_internal.h"

namespace glebe::device {

using os::Lock;

void ResidentHeap::begin(Operation& operation) noexcept {
  operation = Operation{};
  ++stamp_;
}

// Brings all that is wanted; the chunks are `fetching` then, until the caller commits.
Outcome ResidentHeap::bring(Operation& operation) noexcept {
  Outcome outcome = usable();
  const unsigned width = options_.in_flight < slot_count_ ? options_.in_flight : slot_count_;
  std::uint32_t next = operation.wanted.first;
  while (next != kNone && outcome.ok()) {
    Batch batch;
    for (std::uint32_t i = next; i != kNone && batch.wanted_count < width; i = chunk(i).next) {
      batch.wanted[batch.wanted_count++] = i;
      chunk(i).is_in_batch = true;
    }
    const unsigned planned = batch.wanted_count;
    outcome = bring_batch(operation, batch);
    for (unsigned i = 0; i < planned; ++i) chunk(batch.wanted[i]).is_in_batch = false;
    next = chunk(batch.wanted[batch.wanted_count - 1]).next;
  }
  if (!outcome.ok()) undo(operation);
  return outcome;
}

Outcome ResidentHeap::bring_batch(Operation& operation, Batch& batch) noexcept {
  Outcome outcome = take_victims(batch);
  // Reading overlaps the copies to the host if there is a slot for it now.
  for (unsigned i = 0; i < batch.wanted_count && outcome.ok(); ++i) {
    if (!must_load(chunk(batch.wanted[i]))) continue;
    outcome = load(chunk(batch.wanted[i]));
    if (outcome.status == Status::out_of_memory && batch.victim_count != 0) outcome = {};
  }
  if (outcome.ok()) outcome = finish_victims(operation, batch);
  for (unsigned i = 0; i < batch.wanted_count && outcome.ok(); ++i) {
    if (must_load(chunk(batch.wanted[i]))) outcome = load(chunk(batch.wanted[i]));
  }
  if (outcome.ok()) outcome = map_wanted(batch);
  abandon(batch);
  return outcome;
}

// Memory for what is wanted: from the pool while the budget allows it, otherwise from victims.
Outcome ResidentHeap::take_victims(Batch& batch) noexcept {
  for (unsigned i = 0; i < batch.wanted_count; ++i) {
    Outcome refusal;
    if (take_handle(&batch.handles[batch.handle_count], &refusal)) {
      ++batch.handle_count;
      continue;
    }
    if (refusal.status == Status::device_lost) return refusal;
    Chunk* victim = choose_victim();
    if (victim == nullptr) return refusal.ok() ? Outcome(Status::over_budget) : refusal;
    const Outcome outcome = start_eviction(*victim, batch);
    if (outcome.ok()) continue;
    if (outcome.status != Status::out_of_memory || i == 0) return outcome;
    batch.wanted_count = i;  // no slot before this step has ended: the others come with the next one
    break;
  }
  return {};
}

Outcome ResidentHeap::finish_victims(Operation& operation, Batch& batch) noexcept {
  while (batch.finished < batch.victim_count) {
    const std::uint32_t index = batch.victims[batch.finished];
    const Outcome outcome =
        finish_eviction(chunk(index), batch.copied[batch.finished], &batch.handles[batch.handle_count]);
    if (!outcome.ok()) return outcome;
    ++batch.finished;
    ++batch.handle_count;
    chunk(index).next = operation.evicted;
    operation.evicted = index;
  }
  return {};
}

Outcome ResidentHeap::map_wanted(Batch& batch) noexcept {
  Outcome outcome;
  unsigned mapped = 0;
  while (mapped < batch.wanted_count && outcome.ok()) {
    Chunk& which = chunk(batch.wanted[mapped]);
    outcome = map_chunk(which, batch.handles[batch.handle_count - 1]);
    if (!outcome.ok()) break;
    --batch.handle_count;
    ++mapped;
    outcome = fill_chunk(which);
  }
  const Outcome recorded = record_fills({batch.wanted, mapped});
  return outcome.ok() ? recorded : outcome;
}

// Ends a step: victims that have not left stay, and memory that nobody got idles in the pool.
void ResidentHeap::abandon(Batch& batch) noexcept {
  for (unsigned i = batch.victim_count; i-- > batch.finished;) stay(chunk(batch.victims[i]), batch.copied[i]);
  while (batch.handle_count != 0) give_handle(batch.handles[--batch.handle_count]);
}

// Evicts those of the list that are resident. in_use: one is pinned. The caller undoes.
Outcome ResidentHeap::evict_list(Operation& operation, const ChunkList& list) noexcept {
  Outcome outcome;
  std::uint32_t next = list.first;
  while (next != kNone && outcome.ok()) {
    Batch batch;
    outcome = start_listed(&next, batch);
    if (outcome.ok()) outcome = finish_victims(operation, batch);
    abandon(batch);
  }
  return outcome;
}

// Starts as many as go at the same time; *next is the first one behind them. (What has left goes on another
// list, by the same link.)
Outcome ResidentHeap::start_listed(std::uint32_t* next, Batch& batch) noexcept {
  const unsigned width = options_.in_flight < slot_count_ ? options_.in_flight : slot_count_;
  while (*next != kNone && batch.victim_count < width) {
    Chunk& which = chunk(*next);
    bool is_ours = false;
    Outcome outcome = claim(which, &is_ours);
    if (is_ours) outcome = start_eviction(which, batch);
    // No slot before those that were started have left: it comes with the next ones.
    if (outcome.status == Status::out_of_memory && batch.victim_count != 0) return {};
    if (!outcome.ok()) return outcome;
    *next = which.next;
  }
  return {};
}

// A resident chunk becomes `evicting`; others are passed over. in_use: it is pinned.
Outcome ResidentHeap::claim(Chunk& which, bool* is_ours) noexcept {
  const Lock lock(mutex_);
  if (which.pins != 0) return Status::in_use;
  *is_ours = which.state == ChunkState::resident;
  if (!*is_ours) return {};
  victims_.remove(&which);
  change(which, ChunkMove::begin_evict);
  return {};
}

// Evicts `count` victims. over_budget: there are not so many. The caller undoes.
Outcome ResidentHeap::evict_any(Operation& operation, std::uint32_t count) noexcept {
  Outcome outcome;
  const unsigned width = options_.in_flight < slot_count_ ? options_.in_flight : slot_count_;
  while (count != 0 && outcome.ok()) {
    Batch batch;
    while (count != 0 && outcome.ok() && batch.victim_count < width) {
      Chunk* victim = choose_victim();
      outcome = victim != nullptr ? start_eviction(*victim, batch) : Outcome(Status::over_budget);
      if (outcome.ok()) --count;
      if (outcome.status != Status::out_of_memory || batch.victim_count == 0) continue;
      outcome = {};
      break;
    }
    if (outcome.ok()) outcome = finish_victims(operation, batch);
    abandon(batch);
  }
  return outcome;
}

void ResidentHeap::undo(Operation& operation) noexcept {
  for (std::uint32_t i = operation.wanted.first; i != kNone; i = chunk(i).next) undo_wanted(chunk(i));
  std::uint32_t failures = 0;
  for (std::uint32_t i = operation.evicted; i != kNone; i = chunk(i).next) {
    if (!put_back(chunk(i)).ok()) ++failures;
  }
  const Lock lock(mutex_);
  ++stats_.undone;
  stats_.undo_failures += failures;
}

// Takes a chunk that came back to where it was.
void ResidentHeap::undo_wanted(Chunk& which) noexcept {
  const bool has_new_slot = which.slot != kNone && which.slot_stamp == stamp_;
  if (which.state != ChunkState::fetching) {
    if (which.state != ChunkState::in_host || !has_new_slot || which.place == 0) return;
    const Lock lock(mutex_);
    free_slot(which);
    change(which, ChunkMove::spill);
    return;
  }
  const std::uint32_t index = index_of(which);
  if (which.is_filled && !wait_mark(which.ready, StallCause::copy_in).ok()) {
    static_cast<void>(mover_.drain_in());
  }
  note(index, true, false);
  if (!mover_.unmap(address_of(index)).ok() && !mover_.unmap(address_of(index)).ok()) {
    mover_.set_broken();  // mapped with contents that nobody knows
    return;
  }
  const cuda::MemoryHandle handle = which.handle;
  {
    const Lock lock(mutex_);
    which.handle = 0;
    which.has_memory = which.is_filled = false;
    ++which.generation;
    forget_uses(which);
    if (has_new_slot && which.place != 0) free_slot(which);
    leave(which);
  }
  give_handle(handle);
  note(index, true, true);
}

// Brings a victim back.
Outcome ResidentHeap::put_back(Chunk& which) noexcept {
  Outcome outcome;
  const std::uint32_t index = index_of(which);
  cuda::MemoryHandle handle = 0;
  which.plan = Access::read;
  if (must_load(which)) outcome = load(which);
  if (!outcome.ok()) return outcome;
  if (!take_handle(&handle, &outcome)) return outcome.ok() ? Outcome(Status::over_budget) : outcome;
  outcome = map_chunk(which, handle);
  if (!outcome.ok()) {
    give_handle(handle);
    return outcome;
  }
  outcome = fill_chunk(which);
  const Outcome recorded = record_fills({&index, 1});
  if (!outcome.ok() || !recorded.ok()) {
    undo_wanted(which);
    return outcome.ok() ? recorded : outcome;
  }
  const Lock lock(mutex_);
  change(which, ChunkMove::arrive);
  which.is_filled = false;
  victims_.put_back(&which);
  if (which.slot != kNone && which.slot_stamp == stamp_) free_slot(which);
  set_cost(which);
  return outcome;
}

// False: refusal says why; it is ok when the budget is used up.
bool ResidentHeap::take_handle(cuda::MemoryHandle* handle, Outcome* refusal) noexcept {
  *refusal = {};
  if (held_ >= budget_chunks_.load(std::memory_order_relaxed)) return false;
  *refusal = options_.pool->take(handle);
  if (!refusal->ok()) return false;
  ++held_;
  return true;
}

void ResidentHeap::give_handle(cuda::MemoryHandle handle) noexcept {
  CHECK(held_ > 0);
  --held_;
  if (mover_.is_broken()) {
    options_.pool->discard(handle);  // it may still be mapped: not for others
  } else {
    options_.pool->give(handle);
  }
}

ResidentHeap::Chunk* ResidentHeap::choose_victim() noexcept {
  const paging::Acceptor unpinned{
      [](void*, paging::VictimItem* item) { return static_cast<Chunk*>(item)->pins == 0; }, nullptr};
  const Lock lock(mutex_);
  victims_.set_now(now_);
  auto* victim = static_cast<Chunk*>(victims_.take(unpinned));
  if (victim != nullptr) change(*victim, ChunkMove::begin_evict);
  return victim;
}

// Queues the copy of a chunk that is `evicting`, if it needs one, and adds it to the batch. A failure leaves
// it where it is.
Outcome ResidentHeap::start_eviction(Chunk& which, Batch& batch) noexcept {
  MarkIndex copied = 0;
  Outcome outcome;
  if (!which.is_blank && !has_copy(which)) outcome = copy_out(which, &copied);
  if (!outcome.ok()) {
    stay(which, 0);
    return outcome;
  }
  batch.copied[batch.victim_count] = copied;
  batch.victims[batch.victim_count++] = index_of(which);
  return outcome;
}

Outcome ResidentHeap::copy_out(Chunk& which, MarkIndex* copied) noexcept {
  SlotIndex taken = kNone;
  Outcome outcome = take_slot(index_of(which), &taken);
  if (!outcome.ok()) return outcome;
  cuda::Event event = nullptr;
  MarkIndex mark = 0;
  outcome = events_.take(&event);
  if (outcome.ok()) {
    const Lock lock(mutex_);
    mark = marks_.add(event, mover_.out_id(), marks_.begin());
    if (mark == 0) events_.give(event);
  }
  if (outcome.ok()) outcome = mark != 0 ? copy_to_slot(which, taken, mark) : Outcome(Status::no_host_memory);
  const Lock lock(mutex_);
  if (outcome.ok()) {
    which.slot = taken;
    which.slot_stamp = stamp_;
    *copied = mark;
  } else {
    marks_.drop(mark);
    give_slot(taken);
  }
  return outcome;
}

// The copy waits for whoever uses the chunk, and for the copy that may still read the slot.
Outcome ResidentHeap::copy_to_slot(Chunk& which, SlotIndex taken, MarkIndex mark) noexcept {
  cuda::Event before[kUsesMax + 2];
  unsigned count = 0;
  cuda::Event done = nullptr;
  {
    const Lock lock(mutex_);
    for (const MarkIndex use : which.uses) {
      if (!marks_.is_passed(use)) before[count++] = marks_.event(use);
    }
    if (!marks_.is_passed(which.ready)) before[count++] = marks_.event(which.ready);
    if (!marks_.is_passed(slot(taken).mark)) before[count++] = marks_.event(slot(taken).mark);
    done = marks_.event(mark);
  }
  for (unsigned i = 0; i < count; ++i) {
    const Outcome outcome = mover_.out_after(before[i]);
    if (!outcome.ok()) return outcome;
  }
  return mover_.copy_out(slot_memory(taken), address_of(index_of(which)), done);
}

// Its contents are elsewhere, or nobody needs them: takes its memory away.
Outcome ResidentHeap::finish_eviction(Chunk& which, MarkIndex copied, cuda::MemoryHandle* handle) noexcept {
  const std::uint32_t index = index_of(which);
  const std::uint64_t begin_ns = os::clock_fine_ns();
  Outcome outcome = copied != 0 ? wait_mark(copied, StallCause::copy_out) : wait_idle(which);
  if (!outcome.ok()) return outcome;
  const std::uint64_t waited_ns = os::clock_fine_ns() - begin_ns;
  note(index, true, false);
  outcome = mover_.unmap(address_of(index));
  if (!outcome.ok()) return outcome;
  {
    const Lock lock(mutex_);
    *handle = which.handle;
    which.handle = 0;
    which.has_memory = false;
    ++which.generation;
    forget_uses(which);
    marks_.drop(copied);
    if (copied != 0) copy_ns_ = waited_ns + 1;
    ++(copied != 0      ? stats_.evictions_dirty
       : which.is_blank ? stats_.evictions_blank
                        : stats_.evictions_clean);
    leave(which);
  }
  note(index, true, true);
  return outcome;
}

void ResidentHeap::stay(Chunk& which, MarkIndex copied) noexcept {
  if (copied != 0 && !wait_mark(copied, StallCause::copy_out).ok()) static_cast<void>(mover_.drain_out());
  const Lock lock(mutex_);
  if (copied != 0) free_slot(which);
  marks_.drop(copied);
  change(which, ChunkMove::stay);
  victims_.put_back(&which);
}

// To the state that its copies say. Under mutex_.
void ResidentHeap::leave(Chunk& which) noexcept {
  CHECK(has_copy(which) != which.is_blank);
  change(which, which.is_blank        ? ChunkMove::leave_blank
                : which.slot != kNone ? ChunkMove::leave_to_host
                                      : ChunkMove::leave_to_disk);
}

// Until everybody who used the chunk is past it.
Outcome ResidentHeap::wait_idle(Chunk& which) noexcept {
  Outcome outcome;
  for (const MarkIndex use : which.uses) {
    if (outcome.ok()) outcome = wait_mark(use, StallCause::use);
  }
  return outcome.ok() ? wait_mark(which.ready, StallCause::copy_in) : outcome;
}

// The caller, or the chunk that it has for itself, holds a reference.
Outcome ResidentHeap::wait_mark(MarkIndex mark, StallCause cause) noexcept {
  cuda::Event event = nullptr;
  {
    const Lock lock(mutex_);
    if (marks_.is_passed(mark)) return {};
    event = marks_.event(mark);
  }
  Outcome outcome;
  {
    const Stall stall(*this, cause);
    outcome = mover_.wait(event);
  }
  const Lock lock(mutex_);
  if (outcome.ok()) marks_.set_passed(mark);
  return outcome;
}

// A failure leaves the handle to the caller.
Outcome ResidentHeap::map_chunk(Chunk& which, cuda::MemoryHandle handle) noexcept {
  const std::uint32_t index = index_of(which);
  {
    const Lock lock(mutex_);
    change(which, ChunkMove::begin_fetch);
  }
  note(index, false, false);
  const Outcome outcome = mover_.map(address_of(index), handle);
  const Lock lock(mutex_);
  if (!outcome.ok()) {
    leave(which);
    return outcome;
  }
  which.handle = handle;
  which.has_memory = true;
  ++which.generation;
  return outcome;
}

bool ResidentHeap::must_load(const Chunk& which) const noexcept {
  return which.state == ChunkState::on_disk && which.plan != Access::discard;
}

Outcome ResidentHeap::fill_chunk(Chunk& which) noexcept {
  if (which.is_blank || which.plan == Access::discard) return {};
  CHECK(which.slot != kNone);
  const Outcome outcome = mover_.copy_in(address_of(index_of(which)), slot_memory(which.slot));
  which.is_filled = outcome.ok();
  return outcome;
}

// One event behind the copies of a step. Where it cannot be had they are waited for.
Outcome ResidentHeap::record_fills(std::span<const std::uint32_t> arrived) noexcept {
  bool is_any_filled = false;
  for (const std::uint32_t index : arrived) is_any_filled = is_any_filled || chunk(index).is_filled;
  MarkIndex mark = 0;
  Outcome outcome;
  if (is_any_filled) {
    cuda::Event event = nullptr;
    bool is_recorded = events_.take(&event).ok();
    if (is_recorded) {
      is_recorded = mover_.record_in(event).ok();
      const Lock lock(mutex_);
      if (is_recorded) mark = marks_.add(event, mover_.in_id(), marks_.begin());
      if (mark == 0) events_.give(event);
    }
    if (mark == 0) outcome = mover_.drain_in();
  }
  for (const std::uint32_t index : arrived) {
    Chunk& which = chunk(index);
    const Lock lock(mutex_);
    if (which.is_filled && mark != 0) {
      which.ready = mark;
      marks_.refer(mark);
    }
    const bool is_loaded = which.slot_stamp == stamp_;
    ++(!which.is_filled ? which.is_blank ? stats_.fetches_blank : stats_.fetches_discard
       : is_loaded      ? stats_.fetches_disk
                        : stats_.fetches_host);
  }
  for (const std::uint32_t index : arrived) note(index, false, true);
  const Lock lock(mutex_);
  marks_.drop(mark);
  return outcome;
}

}  // namespace glebe::device
