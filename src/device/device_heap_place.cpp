// Where blocks go; see device_heap.h.
//
// First a hole in chunks that hold blocks already: the engine knows no others. Then the rows of chunks that
// hold nothing, each with the holes that touch it. In each row up to four places are compared: from the hole
// in front, from the first chunk, from the first chunk that is mapped, and up to the end of the hole behind.
// The best is the one for which the fewest chunks begin to hold something, for that is the memory it costs;
// then the one that leaves coarse mappings whole; then the one for which the least has to be mapped; then the
// lowest address, so that the upper part of the range empties.
#include "src/base/check.h"
#include "src/device/device_heap.h"

namespace glebe::device {

using placement::Run;
using placement::Tag;

namespace {

constexpr unsigned kHollowsMax = 512;  // rows that are looked at before the best so far is taken

}  // namespace

Outcome DeviceHeap::place(Wanted wanted, Run* run) noexcept {
  *run = engine_.allocate(wanted.length, wanted.align_units);
  if (!run->empty()) return {};
  const Place found = find_place(wanted);
  if (!found.is_found) return Status::out_of_addresses;
  if (found.fresh.end > frontier_ && !extend_to(found.fresh.end)) return Status::no_host_memory;
  const std::uint32_t free_first = occupy(found.fresh);
  *run = engine_.allocate_at(free_first, static_cast<std::uint32_t>(found.first), wanted.length);
  CHECK(!run->empty());
  return {};
}

DeviceHeap::Place DeviceHeap::find_place(Wanted wanted) const noexcept {
  Place best;
  const std::uint32_t whole = wanted.length / units_in_chunk_;
  const std::uint32_t good = whole > 1 ? whole : 1;
  std::uint32_t end = 0;
  for (unsigned seen = 0; seen < kHollowsMax || !best.is_found; ++seen) {
    const std::uint32_t first = space_.next_empty(end, frontier_);
    end = space_.next_busy(first, frontier_);
    if (end == frontier_) end = space_.chunk_count();
    if (first < end) try_hollow(wanted, {first, end}, best);
    if (end == space_.chunk_count()) break;
    if (best.is_found && best.cost() <= good && best.unmapped + best.broken == 0) break;
  }
  return best;
}

void DeviceHeap::try_hollow(Wanted wanted, ChunkRange chunks, Place& best) const noexcept {
  const std::uint64_t begin = std::uint64_t{chunks.first} * units_in_chunk_;
  const std::uint64_t behind = std::uint64_t{chunks.end} * units_in_chunk_;
  Hollow hollow{chunks, begin, behind};
  if (chunks.first < frontier_) {
    hollow.low -= engine_.free_before(static_cast<std::uint32_t>(begin));
  } else {
    hollow.low -= engine_.free_at_end(0, frontier_ * units_in_chunk_);
  }
  const bool is_last = chunks.end == space_.chunk_count();
  if (!is_last && engine_.is_free_start(static_cast<std::uint32_t>(behind))) {
    hollow.high += engine_.run_length(static_cast<std::uint32_t>(behind));
  }
  if (hollow.high - hollow.low < wanted.length) return;
  consider(align_up(hollow.low, wanted.align_units), wanted, hollow, best);
  consider(align_up(begin, wanted.align_units), wanted, hollow, best);
  const std::uint32_t mapped = space_.next_mapped(chunks.first, chunks.end);
  if (mapped < chunks.end) {
    consider(align_up(std::uint64_t{mapped} * units_in_chunk_, wanted.align_units), wanted, hollow, best);
  }
  if (!is_last) consider(align_down(hollow.high - wanted.length, wanted.align_units), wanted, hollow, best);
}

void DeviceHeap::consider(std::uint64_t start, Wanted wanted, const Hollow& hollow,
                          Place& best) const noexcept {
  if (start < hollow.low || start + wanted.length > hollow.high) return;
  const auto from = static_cast<std::uint32_t>(start / units_in_chunk_);
  const auto until = static_cast<std::uint32_t>(divide_up(start + wanted.length, units_in_chunk_));
  Place place;
  place.first = start;
  place.fresh.first = from > hollow.chunks.first ? from : hollow.chunks.first;
  place.fresh.end = until < hollow.chunks.end ? until : hollow.chunks.end;
  if (place.fresh.empty()) return;
  if (best.is_found && place.cost() > best.cost()) return;
  place.broken = broken_by(place.fresh);
  place.unmapped = space_.unmapped_count(place.fresh);
  place.is_found = true;
  if (best.is_found && place.cost() == best.cost()) {
    if (place.broken > best.broken) return;
    if (place.broken == best.broken && place.unmapped >= best.unmapped) return;
  }
  best = place;
}

// Cached coarse mappings that lie in a range in part. Only the first and the last chunk can be of one.
std::uint32_t DeviceHeap::broken_by(ChunkRange chunks) const noexcept {
  std::uint32_t broken = 0, before = space_.chunk_count();
  for (const std::uint32_t at : {chunks.first, chunks.end - 1}) {
    if (!space_.is_mapped({at, at + 1}) || space_.entry(at).kind != ChunkKind::coarse) continue;
    const std::uint32_t head = at - space_.entry(at).part;
    const bool is_whole = head >= chunks.first && head + space_.coarse_chunks() <= chunks.end;
    if (!is_whole && head != before && space_.entry(head).busy == 0) ++broken;
    before = head;
  }
  return broken;
}

// The engine learns of more chunks, none of which holds anything. False: no memory for their tags.
bool DeviceHeap::extend_to(std::uint32_t chunk_end) noexcept {
  const std::uint64_t tags_bytes = std::uint64_t{chunk_end} * units_in_chunk_ * sizeof(Tag);
  if (!tags_memory_.grow_to(tags_bytes)) return false;
  const std::uint32_t units = frontier_ * units_in_chunk_;
  const std::uint32_t extra = (chunk_end - frontier_) * units_in_chunk_;
  const std::uint32_t free_first = units - engine_.free_at_end(0, units);
  const placement::Status status =
      frontier_ == 0 ? engine_.add_range(0, extra) : engine_.extend_range(0, units, extra);
  CHECK(status == placement::Status::ok);
  vacate({frontier_, chunk_end}, free_first);
  frontier_ = chunk_end;
  return true;
}

// The engine may place in these chunks; answers with the start of the free run that they are part of.
std::uint32_t DeviceHeap::occupy(ChunkRange chunks) noexcept {
  std::uint32_t free_first = 0;
  for (std::uint32_t at = chunks.first; at < chunks.end; ++at) {
    const Run run = engine_.put_back(at * units_in_chunk_);
    CHECK(!run.empty());
    free_first = run.first;
  }
  return free_first;
}

// The opposite, for chunks of which every unit is free, in the free run that starts at `free_first`.
void DeviceHeap::vacate(ChunkRange chunks, std::uint32_t free_first) noexcept {
  for (std::uint32_t at = chunks.first; at < chunks.end; ++at) {
    const Run run = engine_.take_at(free_first, at * units_in_chunk_, units_in_chunk_);
    CHECK(!run.empty());
    free_first = (at + 1) * units_in_chunk_;
  }
}

// Frees a run; answers with the number of chunks that hold nothing any more.
std::uint32_t DeviceHeap::give_back(std::uint32_t first) noexcept {
  const std::uint32_t length = engine_.run_length(first);
  const Run freed = engine_.free(first);
  CHECK(!freed.empty());
  const ChunkRange emptied = space_.remove_live(bytes_of(first, length), 1);
  vacate(emptied, freed.first);
  return emptied.empty() ? 0 : emptied.end - emptied.first;
}

// The same for a run that nobody was told of.
void DeviceHeap::withdraw(std::uint32_t first) noexcept {
  const std::uint32_t length = engine_.run_length(first);
  const Run freed = engine_.withdraw(first);
  CHECK(!freed.empty());
  vacate(space_.remove_live(bytes_of(first, length), 1), freed.first);
}

// Whether the units behind a block are free up to the new end, in chunks that hold something or not.
bool DeviceHeap::can_grow(std::uint32_t first, std::uint32_t new_length) const noexcept {
  const std::uint64_t end = std::uint64_t{first} + new_length;
  if (end > std::uint64_t{space_.chunk_count()} * units_in_chunk_) return false;
  for (std::uint64_t at = first + engine_.run_length(first); at < end;) {
    const std::uint64_t chunk = at / units_in_chunk_;
    if (chunk >= frontier_) return true;
    if (engine_.is_free_start(static_cast<std::uint32_t>(at))) {
      at += engine_.run_length(static_cast<std::uint32_t>(at));
    } else if (at % units_in_chunk_ == 0 && space_.is_empty(static_cast<std::uint32_t>(chunk))) {
      at += units_in_chunk_;
    } else {
      return false;
    }
  }
  return true;
}

Outcome DeviceHeap::grow(std::uint32_t first, std::uint32_t new_length) noexcept {
  if (!can_grow(first, new_length)) return Status::out_of_addresses;
  const std::uint32_t old_end = first + engine_.run_length(first);
  const std::uint32_t new_end = first + new_length;
  const ChunkRange chunks = space_.chunks_of(bytes_of(old_end, new_end - old_end));
  if (chunks.end > frontier_ && !extend_to(chunks.end)) return Status::no_host_memory;
  for (std::uint32_t at = chunks.first; at < chunks.end; ++at) {
    if (space_.is_empty(at)) occupy({at, at + 1});
  }
  CHECK(!engine_.grow_in_place(first, new_length).empty());
  // In the chunk in which it ended so far the block is counted already.
  const auto border = static_cast<std::uint32_t>(align_up(old_end, units_in_chunk_));
  const std::uint32_t same_end = border < new_end ? border : new_end;
  space_.add_live(bytes_of(old_end, same_end - old_end), 0);
  if (new_end > same_end) space_.add_live(bytes_of(same_end, new_end - same_end), 1);
  return {};
}

void DeviceHeap::cut(std::uint32_t first, std::uint32_t new_length) noexcept {
  const std::uint32_t old_end = first + engine_.run_length(first);
  const std::uint32_t new_end = first + new_length;
  const Run freed = engine_.shrink(first, new_length);
  CHECK(!freed.empty());
  const auto border = static_cast<std::uint32_t>(align_up(new_end, units_in_chunk_));
  const std::uint32_t same_end = border < old_end ? border : old_end;
  space_.remove_live(bytes_of(new_end, same_end - new_end), 0);
  if (old_end <= same_end) return;
  vacate(space_.remove_live(bytes_of(same_end, old_end - same_end), 1), freed.first);
}

}  // namespace glebe::device
