// A pass of compaction: blocks leave chunks that hold little, for holes in chunks that hold something anyway.
// See device_heap.h.
//
// What is free in a chunk that is to become empty is taken out of the engine first, so that no block goes
// there, neither of this pass nor of anybody else. Then each block in it is given a second place, which
// counts as live at once. A chunk of which one block finds no place stays as it is, and what was planned for
// the others of it is undone. commit_pass() makes the new places blocks; end_pass() puts everything back into
// the engine and frees one place of each block.
#include "src/base/check.h"
#include "src/device/device_heap.h"

namespace glebe::device {

using os::Lock;
using placement::kNoUnit;
using placement::Run;
using placement::Tag;

Outcome DeviceHeap::begin_pass(const HeapPassOptions& options, std::span<HeapMove> moves,
                               std::size_t* count) noexcept {
  *count = 0;
  if (options.fill_max_percent > 100) return Status::bad_argument;
  const std::uint64_t largest_bytes = largest_possible();
  const Lock lock(space_.table_lock());
  if (is_pass_open_) return Status::in_use;
  is_pass_open_ = true;
  largest_before_bytes_ = largest_bytes;
  source_count_ = 0;
  Pass pass{options, moves, 0, 0};
  const std::uint64_t fill_max = space_.chunk_bytes() / 100 * options.fill_max_percent;
  // From the top, so that the upper part of the range empties.
  for (std::uint32_t chunk = frontier_; chunk-- > 0 && source_count_ < kPassChunksMax;) {
    const ChunkEntry& entry = space_.entry(chunk);
    if (entry.live_blocks == 0 || entry.pins != 0 || entry.live_bytes > fill_max) continue;
    const std::uint32_t first_run = first_run_in(chunk);
    if (first_run == kNoUnit || !can_empty(pass, chunk, first_run)) continue;
    hide(chunk, first_run);
    if (plan_moves(pass, chunk, first_run)) {
      sources_[source_count_++] = {chunk, first_run};
    } else {
      show(chunk, first_run);
    }
  }
  *count = pass.count;
  return {};
}

// Start of the run that holds the first unit of a chunk; kNoUnit when that is a block which fills the chunk
// in front as well: it is too large to be moved, and looking for its start too slow.
std::uint32_t DeviceHeap::first_run_in(std::uint32_t chunk) const noexcept {
  if (chunk > 0) {
    const ChunkEntry& before = space_.entry(chunk - 1);
    if (before.live_bytes == space_.chunk_bytes() && before.live_blocks == 1) return kNoUnit;
  }
  return engine_.run_containing(chunk * units_in_chunk_);
}

// Whether every block with bytes in a chunk may be moved, and all of them fit into what the pass has left.
bool DeviceHeap::can_empty(const Pass& pass, std::uint32_t chunk, std::uint32_t first_run) const noexcept {
  const std::uint32_t end = (chunk + 1) * units_in_chunk_;
  std::uint64_t bytes = pass.bytes;
  std::size_t count = pass.count;
  for (std::uint32_t at = first_run; at < end; at = engine_.next_run(at)) {
    if (!engine_.is_allocated_start(at)) continue;
    const HeapBlock block = block_at(at);
    if (!is_live(at) || is_held(at) || block.size_bytes > space_.chunk_bytes()) return false;
    if (pass.options.may_move != nullptr && !pass.options.may_move(pass.options.context, block)) return false;
    bytes += block.size_bytes;
    if (bytes > pass.options.max_bytes || ++count > pass.moves.size()) return false;
  }
  return true;
}

// Takes what is free in a chunk out of the engine.
void DeviceHeap::hide(std::uint32_t chunk, std::uint32_t first_run) noexcept {
  const std::uint32_t begin = chunk * units_in_chunk_, end = begin + units_in_chunk_;
  for (std::uint32_t at = first_run; at < end; at = engine_.next_run(at)) {
    if (!engine_.is_free_start(at)) continue;
    const std::uint32_t behind = at + engine_.run_length(at);
    const std::uint32_t from = at > begin ? at : begin;
    const std::uint32_t until = behind < end ? behind : end;
    CHECK(!engine_.take_at(at, from, until - from).empty());
    hidden_units_ += until - from;
    at = from;
  }
}

// The opposite. The first run of the chunk is what it was, or begins with the chunk now.
void DeviceHeap::show(std::uint32_t chunk, std::uint32_t first_run) noexcept {
  const std::uint32_t begin = chunk * units_in_chunk_, end = begin + units_in_chunk_;
  std::uint32_t at = engine_.is_allocated_start(first_run) ? first_run : begin;
  while (at < end) {
    const std::uint32_t next = engine_.next_run(at);
    if (at >= begin && !engine_.is_allocated_start(at)) {
      hidden_units_ -= engine_.run_length(at);
      CHECK(!engine_.put_back(at).empty());
    }
    at = next;
  }
}

// A second place for each block of a chunk, or for none.
bool DeviceHeap::plan_moves(Pass& pass, std::uint32_t chunk, std::uint32_t first_run) noexcept {
  const std::size_t count = pass.count;
  const std::uint64_t bytes = pass.bytes;
  const std::uint32_t end = (chunk + 1) * units_in_chunk_;
  std::uint32_t at = engine_.is_allocated_start(first_run) ? first_run : chunk * units_in_chunk_;
  for (; at < end; at = engine_.next_run(at)) {
    if (!engine_.is_allocated_start(at) || plan_move(pass, at)) continue;
    while (pass.count > count) cancel(pass.moves[--pass.count]);
    pass.bytes = bytes;
    return false;
  }
  return true;
}

bool DeviceHeap::plan_move(Pass& pass, std::uint32_t unit) noexcept {
  const Tag& from = engine_.tag(unit);
  const Run run = engine_.allocate(from.length, std::uint32_t{1} << (from.mark >> kAlignShift));
  if (run.empty()) return false;
  const ByteRange bytes = bytes_of(run.first, run.length);
  if (!space_.is_mapped(space_.chunks_of(bytes))) {  // its chunk is being mapped, or will not be
    CHECK(!engine_.withdraw(run.first).empty());
    return false;
  }
  add_place(unit, run);
  const HeapBlock block = block_at(unit);
  HeapMove& move = pass.moves[pass.count++];
  move = {block.address, space_.base() + run.first * kHeapUnitBytes, block.size_bytes, block.tag};
  pass.bytes += block.size_bytes;
  return true;
}

// A second place for a block, which holds its memory and is nobody's until the block is there.
void DeviceHeap::add_place(std::uint32_t unit, const Run& run) noexcept {
  Tag& from = engine_.tag(unit);
  Tag& to = engine_.tag(run.first);
  to.owner = from.owner;
  to.previous = from.previous;
  to.next = 0;
  to.mark = from.mark | kPending;
  from.mark |= kMoving;
  space_.add_live(bytes_of(run.first, run.length), 1);
}

void DeviceHeap::cancel(const HeapMove& move) noexcept {
  engine_.tag(unit_of(move.from)).mark &= static_cast<std::uint8_t>(~unsigned{kMoving});
  if (!move.keeps_target) withdraw(unit_of(move.to));
}

// The block is at its new place; the old one is left, not free.
void DeviceHeap::commit(const HeapMove& move) noexcept {
  Tag& from = engine_.tag(unit_of(move.from));
  if ((from.mark & kMoving) == 0) return;  // it was before
  const HeapBlock block = block_at(unit_of(move.from));
  from.mark = static_cast<std::uint8_t>((from.mark | kPending) & ~unsigned{kMoving});
  engine_.tag(unit_of(move.to)).mark &= static_cast<std::uint8_t>(~unsigned{kPending});
  write_trace(Event::freed, move.from, block.requested_bytes);
  write_trace(Event::allocated, move.to, block.requested_bytes);
}

void DeviceHeap::commit_pass(std::span<const HeapMove> moves) noexcept {
  const Lock lock(space_.table_lock());
  if (!is_pass_open_) return;
  for (const HeapMove& move : moves) {
    if (!move.is_cancelled) commit(move);
  }
}

HeapPassResult DeviceHeap::end_pass(std::span<const HeapMove> moves) noexcept {
  HeapPassResult result;
  if (!finish_moves(moves, result)) return result;
  result.largest_after_bytes = largest_possible();
  return result;
}

bool DeviceHeap::finish_moves(std::span<const HeapMove> moves, HeapPassResult& result) noexcept {
  const Lock lock(space_.table_lock());
  if (!is_pass_open_) return false;
  for (unsigned i = 0; i < source_count_; ++i) show(sources_[i].chunk, sources_[i].first_run);
  for (const HeapMove& move : moves) {
    if (move.is_cancelled) {
      cancel(move);
      continue;
    }
    commit(move);
    result.chunks_emptied += give_back(unit_of(move.from));
    ++result.blocks_moved;
    result.bytes_moved += move.size_bytes;
  }
  result.largest_before_bytes = largest_before_bytes_;
  source_count_ = 0;
  is_pass_open_ = false;
  return true;
}

}  // namespace glebe::device
