// What moves many chunks at once: budgets, sleeping and waking, physical pins; and the figures.
#include "src/base/check.h"
#include "src/device/residency_internal.h"

namespace glebe::device {

using os::Lock;

Outcome ResidentHeap::set_budget(std::uint64_t budget_bytes) noexcept {
  Outcome outcome = usable();
  if (!outcome.ok()) return outcome;
  const std::uint64_t wanted = budget_bytes / chunk_bytes_;
  if (wanted == 0) return Status::bad_argument;
  const Mover mover(*this);
  const auto budget = wanted < chunk_count_ ? static_cast<std::uint32_t>(wanted) : chunk_count_;
  const std::uint32_t before = budget_chunks_.load(std::memory_order_relaxed);
  {
    const Lock lock(mutex_);
    if (pinned_ > budget) return Status::over_budget;
    // From here on leases that would exceed it are refused.
    budget_chunks_.store(budget, std::memory_order_relaxed);
  }
  Operation operation;
  begin(operation);
  if (held_ > budget) outcome = evict_any(operation, held_ - budget);
  if (outcome.ok()) return outcome;
  budget_chunks_.store(before, std::memory_order_relaxed);
  undo(operation);
  return outcome;
}

// All allocated chunks with this tag. Under mutex_ and the mover's lock.
ResidentHeap::ChunkList ResidentHeap::chunks_of(std::uint32_t tag) noexcept {
  ChunkList list;
  for (std::uint32_t i = 0; i < chunks_made_; ++i) {
    const bool is_meant = chunk(i).state != ChunkState::absent && (tag == kAllTags || chunk(i).tag == tag);
    if (is_meant) append(list, i);
  }
  return list;
}

Outcome ResidentHeap::sleep(std::uint32_t tag, unsigned level) noexcept {
  Outcome outcome = usable();
  if (!outcome.ok()) return outcome;
  if (level != 1 && level != 2) return Status::bad_argument;
  const Mover mover(*this);
  ChunkList list;
  {
    const Lock lock(mutex_);
    list = chunks_of(tag);
  }
  if (level == 1) return send_to_host(list);
  for (std::uint32_t i = list.first; i != kNone; i = chunk(i).next) {
    chunk(i).plan = chunk(i).state == ChunkState::unbacked ? Access::read : Access::discard;
  }
  outcome = drop_memory(list);
  if (!outcome.ok()) return outcome;
  drop_contents(list);
  const Lock lock(mutex_);
  for (std::uint32_t i = list.first; i != kNone; i = chunk(i).next) {
    if (chunk(i).plan == Access::discard) chunk(i).is_asleep = true;
  }
  return outcome;
}

// Chunks that are resident leave and are noted for wake().
Outcome ResidentHeap::send_to_host(const ChunkList& list) noexcept {
  Operation operation;
  begin(operation);
  const Outcome outcome = evict_list(operation, list);
  if (!outcome.ok()) {
    undo(operation);
    return outcome;
  }
  const Lock lock(mutex_);
  for (std::uint32_t i = operation.evicted; i != kNone; i = chunk(i).next) chunk(i).is_asleep = true;
  return outcome;
}

Outcome ResidentHeap::wake(std::uint32_t tag, Shortfall* shortfall) noexcept {
  const Outcome outcome = usable();
  if (!outcome.ok()) return outcome;
  const Mover mover(*this);
  Operation operation;
  begin(operation);
  {
    const Lock lock(mutex_);
    for (std::uint32_t i = 0; i < chunks_made_; ++i) {
      Chunk& which = chunk(i);
      const bool is_meant = which.is_asleep && (tag == kAllTags || which.tag == tag);
      if (!is_meant || which.state == ChunkState::absent || which.state == ChunkState::resident) continue;
      which.plan = Access::read;
      append(operation.wanted, i);
    }
  }
  return bring_pinned(operation, shortfall);
}

// Brings what is wanted for whoever comes first: nothing stays pinned.
Outcome ResidentHeap::bring_pinned(Operation& operation, Shortfall* shortfall) noexcept {
  {
    const Lock lock(mutex_);
    if (pinned_ + operation.wanted.count > budget_chunks_.load(std::memory_order_relaxed)) {
      report(shortfall, operation.wanted.count, pinned_);
      ++stats_.over_budget;
      return Status::over_budget;
    }
    for (std::uint32_t i = operation.wanted.first; i != kNone; i = chunk(i).next) pin(chunk(i));
  }
  const Outcome outcome = bring(operation);
  const Lock lock(mutex_);
  if (outcome.ok()) ++now_;
  for (std::uint32_t i = operation.wanted.first; i != kNone; i = chunk(i).next) {
    if (outcome.ok()) commit_chunk(chunk(i), Access::read);
    unpin(chunk(i));
  }
  return outcome;
}

Outcome ResidentHeap::pin_physical(cuda::DevicePointer address) noexcept {
  Outcome outcome = usable();
  if (!outcome.ok()) return outcome;
  const ChunkUse use{address, 0, Access::write};
  {
    const Lock lock(mutex_);
    if (start_at(address) == kNone) return Status::not_owned;
  }
  std::uint32_t number = 0;
  outcome = acquire_any({{&use, 1}, nullptr, Intent::lease}, &number, nullptr);
  if (!outcome.ok()) return outcome;
  // Others than streams may use it from now on, so the host waits for the copies.
  MarkIndex mark = 0;
  {
    const Lock lock(mutex_);
    mark = newest_ready(number);
    if (mark != 0) marks_.refer(mark);
  }
  outcome = wait_mark(mark, StallCause::copy_in);
  const Lock lock(mutex_);
  marks_.drop(mark);
  if (outcome.ok()) {
    for_each_chunk(number, [](Chunk& which, Access) { ++which.exports; });
  } else {
    unpin_lease(number);
  }
  end_lease(number);  // the pins stay
  return outcome;
}

Outcome ResidentHeap::unpin_physical(cuda::DevicePointer address) noexcept {
  if (gpu_ == nullptr) return Status::bad_argument;
  const Lock lock(mutex_);
  const std::uint32_t first = start_at(address);
  if (first == kNone || chunk(first).exports == 0) return Status::not_owned;
  for (std::uint32_t i = first; i < first + chunk(first).run; ++i) {
    --chunk(i).exports;
    unpin(chunk(i));
  }
  return {};
}

ResidencyStats ResidentHeap::stats() noexcept {
  ResidencyStats stats;
  if (gpu_ == nullptr) return stats;
  {
    const Lock lock(mutex_);
    stats = stats_;
    stats.pinned_chunks = pinned_;
    stats.used_slots = used_slots_;
  }
  stats.chunk_bytes = chunk_bytes_;
  stats.budget_bytes = budget_chunks_.load(std::memory_order_relaxed) * std::uint64_t{chunk_bytes_};
  stats.slots = slot_count_;
  stats.mover = mover_.stats();
  if (!file_.is_open()) return stats;
  stats.file_chunks = file_.places();
  stats.disk_bytes_written = file_.bytes_written();
  stats.disk_bytes_read = file_.bytes_read();
  return stats;
}

ChunkState ResidentHeap::state_of(cuda::DevicePointer address) noexcept {
  if (gpu_ == nullptr) return ChunkState::absent;
  const Lock lock(mutex_);
  const std::uint32_t index = chunk_at(address);
  return index < chunks_made_ ? chunk(index).state : ChunkState::absent;
}

std::uint32_t ResidentHeap::generation_of(cuda::DevicePointer address) noexcept {
  if (gpu_ == nullptr) return 0;
  const Lock lock(mutex_);
  const std::uint32_t index = chunk_at(address);
  return index < chunks_made_ ? chunk(index).generation : 0;
}

bool ResidentHeap::is_right(const Chunk& which) noexcept {
  const ChunkCopies copies{which.has_memory, which.slot != kNone, which.place != 0};
  if (!is_consistent(which.state, copies)) return false;
  if (which.has_memory != (which.handle != 0) || which.exports > which.pins) return false;
  if (which.state == ChunkState::evicting || which.state == ChunkState::fetching)
    return false;  // nobody moves
  if ((which.state == ChunkState::resident) != which.is_queued()) return false;
  if (which.pins != 0 && which.state != ChunkState::resident) return false;
  return which.slot == kNone || (slot(which.slot).is_used && &chunk(slot(which.slot).owner) == &which);
}

bool ResidentHeap::validate() noexcept {
  const Mover mover(*this);
  if (file_.is_open()) file_.sweep();
  const Lock lock(mutex_);
  std::uint64_t counts[kChunkStates] = {};
  std::uint32_t pinned = 0, slots = 0, free_slots = 0, places = 0, handles = 0;
  for (std::uint32_t i = 0; i < chunks_made_; ++i) {
    const Chunk& which = chunk(i);
    if (!is_right(which)) return false;
    if (which.state != ChunkState::absent) ++counts[static_cast<unsigned>(which.state)];
    if (which.pins != 0) ++pinned;
    if (which.slot != kNone) ++slots;
    if (which.place != 0) ++places;
    if (which.has_memory) ++handles;
  }
  for (SlotIndex i = free_slots_; i != kNone && free_slots <= slot_count_; i = slot(i).next_free)
    ++free_slots;
  for (unsigned i = 0; i < kChunkStates; ++i) {
    if (counts[i] != stats_.chunks[i]) return false;
  }
  const bool are_files_right = !file_.is_open() || file_.places() == places;
  return are_files_right && pinned == pinned_ && slots == used_slots_ && handles == held_ &&
         slots + free_slots == slot_count_ && victims_.count() == handles;
}

void Shortfall::describe(Text& text) const noexcept {
  text.append_size(needed_bytes).append(" needed, ").append_size(pinned_bytes);
  text.append(" pinned by others, of a budget of ").append_size(budget_bytes).append("; ");
  text.append_size(host_free_bytes).append(" of ").append_size(host_bytes).append(" free on the host");
}

}  // namespace glebe::device
