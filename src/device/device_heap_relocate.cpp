// A block of whole chunks moves to another address without a copy. See device_heap.h.
//
// The new place is placed and counted like a block whose memory is being mapped. Then the handles are mapped
// there too. What is at the old address is a run that belongs to nobody until the alias is dropped.
#include "src/base/check.h"
#include "src/device/device_heap.h"

namespace glebe::device {

using os::Lock;
using placement::Run;
using placement::Tag;

Outcome DeviceHeap::relocate(cuda::DevicePointer address, cuda::DevicePointer* new_address) noexcept {
  std::uint32_t unit = 0;
  Run run;
  ChunkRange from;
  {
    const Lock lock(space_.table_lock());
    if (!is_block(address, &unit)) return misuse(address);
    if (is_held(unit)) return Status::in_use;
    if (!is_of_whole_chunks(unit)) return Status::bad_argument;
    const Tag& own = engine_.tag(unit);
    from = space_.chunks_of(bytes_of(unit, own.length));
    const std::uint32_t align_units = std::uint32_t{1} << (own.mark >> kAlignShift);
    const std::uint32_t align_chunks = align_units > units_in_chunk_ ? align_units / units_in_chunk_ : 1;
    const std::uint32_t window = find_window(from, align_chunks);
    if (window == from.first) return Status::out_of_addresses;
    const std::uint32_t free_first = occupy({window, window + (from.end - from.first)});
    run = engine_.allocate_at(free_first, window * units_in_chunk_, own.length);
    CHECK(!run.empty());
    add_place(unit, run);
  }
  const Outcome outcome = space_.alias(from, run.first / units_in_chunk_);
  const Lock lock(space_.table_lock());
  if (!outcome.ok()) {
    engine_.tag(unit).mark &= static_cast<std::uint8_t>(~unsigned{kMoving});
    withdraw(run.first);
    return outcome;
  }
  engine_.tag(unit).mark |= kPending;
  engine_.tag(run.first).mark &= static_cast<std::uint8_t>(~unsigned{kPending});
  *new_address = space_.base() + run.first * kHeapUnitBytes;
  const HeapBlock block = block_at(run.first);
  write_trace(Event::freed, address, block.requested_bytes);
  write_trace(Event::allocated, block.address, block.requested_bytes);
  return {};
}

Outcome DeviceHeap::finish_relocation(cuda::DevicePointer old_address) noexcept {
  const std::uint64_t offset = old_address - space_.base();
  if (offset >= space_.reserved_bytes() || offset % kHeapUnitBytes != 0) return Status::not_owned;
  const auto unit = static_cast<std::uint32_t>(offset / kHeapUnitBytes);
  ChunkRange from;
  {
    const Lock lock(space_.table_lock());
    constexpr unsigned kLeft = kPending | kMoving;
    const bool is_left = engine_.is_allocated_start(unit) && (engine_.tag(unit).mark & kLeft) == kLeft;
    if (!is_left) return Status::not_owned;
    engine_.tag(unit).mark &= static_cast<std::uint8_t>(~unsigned{kMoving});  // this call's, nobody else's
    from = space_.chunks_of(bytes_of(unit, engine_.run_length(unit)));
  }
  const Outcome outcome = space_.drop_alias(from);
  const Lock lock(space_.table_lock());
  if (outcome.ok()) {
    give_back(unit);
  } else {
    engine_.tag(unit).mark |= kMoving;
  }
  return outcome;
}

// Whether a block fills its chunks, and its mappings hold nothing else.
bool DeviceHeap::is_of_whole_chunks(std::uint32_t unit) const noexcept {
  const std::uint32_t length = engine_.run_length(unit);
  if (unit % units_in_chunk_ != 0 || length % units_in_chunk_ != 0) return false;
  const ChunkRange chunks = space_.chunks_of(bytes_of(unit, length));
  if (!space_.is_mapped(chunks)) return false;
  const ChunkEntry& last = space_.entry(chunks.end - 1);
  const std::uint32_t last_part = last.kind == ChunkKind::coarse ? space_.coarse_chunks() - 1 : 0;
  return space_.entry(chunks.first).part == 0 && last.part == last_part;
}

// The lowest row of as many empty chunks as `below` has, in front of it, whose mappings are cached and lie in
// it whole; below.first when there is none.
std::uint32_t DeviceHeap::find_window(ChunkRange below, std::uint32_t align_chunks) const noexcept {
  const std::uint32_t count = below.end - below.first;
  std::uint32_t at = 0;
  while (at + count <= below.first) {
    at = static_cast<std::uint32_t>(align_up(space_.next_empty(at, below.first), align_chunks));
    const std::uint32_t end = at + count;
    if (end > below.first) break;
    const std::uint32_t busy = space_.next_busy(at, end);
    if (busy < end) {
      at = busy + 1;
      continue;
    }
    const ChunkRange first{at, at + 1}, last{end - 1, end};
    const bool cuts_first = space_.is_mapped(first) && space_.entry(at).part != 0;
    const ChunkEntry& tail = space_.entry(end - 1);
    const std::uint32_t tail_part = tail.kind == ChunkKind::coarse ? space_.coarse_chunks() - 1 : 0;
    if (!cuts_first && (!space_.is_mapped(last) || tail.part == tail_part)) return at;
    ++at;
  }
  return below.first;
}

}  // namespace glebe::device
