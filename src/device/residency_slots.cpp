// The host tier: slots of pinned memory, and what goes from them to the file and back.
//
// A slot is taken from the free ones; then from a chunk that has another copy; then from a resident chunk,
// which must be copied again when it leaves; then a chunk of the host goes to the file. Among equals the one
// that was not leased for longest gives its slot.
#include "src/base/check.h"
#include "src/device/residency_internal.h"

namespace glebe::device {
namespace {

constexpr unsigned kNever = 4;       // rank of a slot that must stay
constexpr unsigned kFirstSpill = 2;  // ranks from here on cost a write to the file

}  // namespace

using os::Lock;

Outcome ResidentHeap::take_slot(std::uint32_t owner, SlotIndex* taken) noexcept {
  // Each round frees a slot, and nobody but the mover takes any.
  for (;;) {
    std::uint32_t loser = kNone;
    if (find_slot(owner, taken, &loser)) return {};
    if (loser == kNone) return Status::out_of_memory;
    const Outcome outcome = spill(chunk(loser));
    if (!outcome.ok()) return outcome;
  }
}

// False: the chunk *loser must go to the file first; kNone: no chunk can.
bool ResidentHeap::find_slot(std::uint32_t owner, SlotIndex* taken, std::uint32_t* loser) noexcept {
  const Lock lock(mutex_);
  if (free_slots_ == kNone) {
    bool must_spill = false;
    *loser = choose_slot_owner(&must_spill);
    if (*loser == kNone || must_spill) return false;
    Chunk& which = chunk(*loser);
    free_slot(which);
    if (which.state == ChunkState::in_host) change(which, ChunkMove::spill);
    set_cost(which);
    ++stats_.dropped_copies;
  }
  *taken = free_slots_;
  Slot& entry = slot(*taken);
  free_slots_ = entry.next_free;
  entry.owner = owner;
  entry.is_used = true;
  ++used_slots_;
  return true;
}

// Under mutex_.
void ResidentHeap::give_slot(SlotIndex taken) noexcept {
  Slot& entry = slot(taken);
  CHECK(entry.is_used);
  entry.is_used = false;
  entry.owner = kNone;
  entry.next_free = free_slots_;
  free_slots_ = taken;
  --used_slots_;
}

// How dear it is to take the slot of this chunk.
unsigned ResidentHeap::rank_of(const Chunk& owner) noexcept {
  if (owner.slot == kNone || owner.is_in_batch) return kNever;
  const bool is_resident = owner.state == ChunkState::resident;
  // While its copy to the device is not recorded, nothing tells when the slot may be used.
  const bool has_come = owner.state == ChunkState::fetching && (owner.ready != 0 || !owner.is_filled);
  if (!is_resident && !has_come && owner.state != ChunkState::in_host) return kNever;
  if (owner.place != 0) return 0;
  if (is_resident) return 1;
  if (!file_.is_open()) return kNever;
  return owner.pins == 0 ? kFirstSpill : kFirstSpill + 1;
}

std::uint32_t ResidentHeap::choose_slot_owner(bool* must_spill) noexcept {
  std::uint32_t chosen = kNone, oldest = 0;
  unsigned best = kNever;
  for (SlotIndex i = 0; i < slot_count_; ++i) {
    // A slot that was just taken has an owner that does not know it yet.
    const std::uint32_t owner = slot(i).is_used ? slot(i).owner : kNone;
    if (owner == kNone || chunk(owner).slot != i) continue;
    const unsigned rank = rank_of(chunk(owner));
    const std::uint32_t age = now_ - chunk(owner).last_use.load(std::memory_order_relaxed);
    if (rank > best || rank == kNever || (rank == best && chosen != kNone && age <= oldest)) continue;
    best = rank;
    oldest = age;
    chosen = owner;
  }
  *must_spill = best >= kFirstSpill;
  return chosen;
}

// Writes a chunk of the host to the file and frees its slot.
Outcome ResidentHeap::spill(Chunk& which) noexcept {
  FilePlaceIndex place = 0;
  Outcome outcome;
  {
    const Stall stall(*this, StallCause::disk_write);
    outcome = file_.write(slot_memory(which.slot), &place);
  }
  if (!outcome.ok()) return outcome;
  const Lock lock(mutex_);
  which.place = place;
  free_slot(which);
  if (which.state == ChunkState::in_host) change(which, ChunkMove::spill);
  ++stats_.spills;
  return outcome;
}

// Reads a chunk of the file into a slot; the copy in the file stays valid.
Outcome ResidentHeap::load(Chunk& which) noexcept {
  SlotIndex taken = kNone;
  Outcome outcome = take_slot(index_of(which), &taken);
  if (!outcome.ok()) return outcome;
  MarkIndex mark = 0;
  {
    const Lock lock(mutex_);
    mark = slot(taken).mark;
  }
  outcome = wait_mark(mark, StallCause::copy_in);
  if (outcome.ok()) {
    const Stall stall(*this, StallCause::disk_read);
    outcome = file_.read(which.place, slot_memory(taken));
    const std::uint64_t read_ns = stall.elapsed_ns() + 1;
    const Lock lock(mutex_);
    disk_ns_ = read_ns;
  }
  const Lock lock(mutex_);
  if (!outcome.ok()) {
    give_slot(taken);
    return outcome;
  }
  which.slot = taken;
  which.slot_stamp = stamp_;
  change(which, ChunkMove::load);
  return outcome;
}

void ResidentHeap::report(Shortfall* shortfall, std::uint64_t needed_chunks,
                          std::uint64_t other_chunks) noexcept {
  if (shortfall == nullptr) return;
  shortfall->needed_bytes = needed_chunks * chunk_bytes_;
  shortfall->pinned_bytes = other_chunks * chunk_bytes_;
  shortfall->budget_bytes = budget_chunks_.load(std::memory_order_relaxed) * std::uint64_t{chunk_bytes_};
  shortfall->host_bytes = slot_count_ * std::uint64_t{chunk_bytes_};
  shortfall->host_free_bytes = (slot_count_ - used_slots_) * std::uint64_t{chunk_bytes_};
}

}  // namespace glebe::device
