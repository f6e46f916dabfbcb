// Transient blocks that are freed roughly in the order in which they were placed: staging buffers, uploads.
//
// A ring draws from one or more ranges of 64-bit offsets. In each range blocks follow one another and wrap
// around at the end; a freed block is used again as soon as all older blocks of its range are freed as well,
// in whatever order that happens. A block ends in one of two ways: free() at once, or submit() with an epoch,
// after which the device may still read it and complete() of that epoch or a later one frees it.
//
// Every block has an entry in metadata of the caller, outside the range. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "src/placement/result.h"

namespace glebe::placement {

enum class RingState : std::uint8_t { freed, live, submitted };

// One block. Positions count the bytes of the range's whole history, so they only rise; the offset is the
// remainder.
struct RingEntry {
  std::uint64_t position = 0;
  std::uint64_t size_bytes = 0;
  std::uint64_t epoch = 0;
  RingState state = RingState::freed;
};

// One range: `entries` is a circular queue of its blocks, oldest first.
struct RingRange {
  std::uint64_t offset = 0;
  std::uint64_t size_bytes = 0;
  std::span<RingEntry> entries;
  std::size_t first = 0;   // oldest entry
  std::size_t count = 0;   // entries in the queue, freed ones that wait for older blocks included
  std::uint64_t head = 0;  // position behind the newest block; 0 while the queue is empty
};

class Ring {
 public:
  // `table` has room for as many ranges as may be added at the same time.
  explicit Ring(std::span<RingRange> table) noexcept : table_(table) {}
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // Adds [offset, offset + size_bytes), disjoint from the other ranges, for at most entries.size() blocks at
  // a time. Fails with bad_argument (empty, wrapping or overlapping range, no entries) or exhausted (table
  // full).
  [[nodiscard]] Status add_range(std::uint64_t offset, std::uint64_t size_bytes,
                                 std::span<RingEntry> entries) noexcept;
  // Takes back exactly one range as it was added. Fails with out_of_range or in_use (blocks not freed).
  [[nodiscard]] Status remove_range(std::uint64_t offset, std::uint64_t size_bytes) noexcept;

  // A block of exactly size_bytes at a multiple of `alignment`, a power of two. Starts with the range of the
  // last success and moves on to the next ones. Fails with bad_argument; too_large when it would not fit an
  // empty ring; exhausted when it does not fit now, which counts as a stall. A failure changes nothing else.
  [[nodiscard]] Placement allocate(std::uint64_t size_bytes, std::uint64_t alignment) noexcept;

  // Frees the block that starts at `offset`. double_free when it was submitted, or freed while older blocks
  // still keep its place from being used again; out_of_range when no block starts there (any more).
  [[nodiscard]] Status free(std::uint64_t offset) noexcept;
  // Hands the block to the device: it stays where it is until complete(epoch). Freed at once when that epoch
  // is complete already. Answers as free() does.
  [[nodiscard]] Status submit(std::uint64_t offset, std::uint64_t epoch) noexcept;
  // Everything submitted up to `epoch` is done. Epochs rise; an older one than before changes nothing. Cost:
  // a walk over the blocks in flight.
  void complete(std::uint64_t epoch) noexcept;

  // Bytes of the live block that starts at `offset`; 0: none does.
  [[nodiscard]] std::uint64_t size_of(std::uint64_t offset) const noexcept;
  // The longest block that would be placed now without an alignment. A walk over the ranges.
  [[nodiscard]] std::uint64_t largest_free() const noexcept;
  // Blocks that are placed and not freed, and the part of them that is submitted and not complete.
  [[nodiscard]] std::uint64_t live_bytes() const noexcept { return live_bytes_; }
  [[nodiscard]] std::uint64_t live_count() const noexcept { return live_count_; }
  [[nodiscard]] std::uint64_t bytes_in_flight() const noexcept { return bytes_in_flight_; }
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept { return capacity_bytes_; }
  // Allocations that found no room, and those that went on to another range.
  [[nodiscard]] std::uint64_t stall_count() const noexcept { return stall_count_; }
  [[nodiscard]] std::uint64_t move_count() const noexcept { return move_count_; }
  [[nodiscard]] std::size_t range_count() const noexcept { return range_count_; }
  [[nodiscard]] std::size_t current_range() const noexcept { return current_; }
  [[nodiscard]] bool validate() const noexcept;

 private:
  [[nodiscard]] RingRange* range_of(std::uint64_t offset) const noexcept;
  [[nodiscard]] bool fits_empty(std::uint64_t size_bytes, std::uint64_t alignment) const noexcept;
  [[nodiscard]] bool place(RingRange& range, std::uint64_t size_bytes, std::uint64_t alignment,
                           std::uint64_t* offset) noexcept;
  void finish(RingRange& range, RingEntry& entry) noexcept;
  void reclaim(RingRange& range) noexcept;
  [[nodiscard]] bool validate_range(const RingRange& range) const noexcept;

  std::span<RingRange> table_;  // the first range_count_ entries, in the order in which they were added
  std::size_t range_count_ = 0;
  std::size_t current_ = 0;
  std::uint64_t capacity_bytes_ = 0;
  std::uint64_t live_bytes_ = 0;
  std::uint64_t live_count_ = 0;
  std::uint64_t bytes_in_flight_ = 0;
  std::uint64_t completed_epoch_ = 0;
  bool any_epoch_completed_ = false;
  std::uint64_t stall_count_ = 0;
  std::uint64_t move_count_ = 0;
};

}  // namespace glebe::placement
