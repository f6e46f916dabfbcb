// How a pool places blocks in its chunks (namespace glebe::device): the placement engines over the offsets of
// the pool, each with tables of its own, and one that places nothing.
//
// An engine never touches the memory it places. The end of a chunk is a barrier: no block lies in two chunks,
// and free space of neighbours is not joined, whatever their addresses are. Not thread-safe: the lock of the
// pool guards an engine.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "src/device/block_source.h"
#include "src/device/pool_source.h"
#include "src/paging/growing_memory.h"
#include "src/placement/fixed.h"
#include "src/placement/ring.h"
#include "src/placement/tlsf.h"

namespace glebe::device {

// kKeepsChunks: a chunk outlives its blocks until trim; otherwise a chunk is as long as its only block and
// goes with it.
template <class E>
concept PlacementEngine = requires(E engine, const E& view, const typename E::Options& options,
                                   const PoolSpace& space, PoolChunk chunk, std::uint64_t value) {
  { E::kKeepsChunks } -> std::convertible_to<bool>;
  // bad_argument, no_host_memory. close() forgets everything and may be called twice.
  { engine.open(options, space) }
  noexcept->std::same_as<Outcome>;
  { engine.close() }
  noexcept;
  // Chunks are multiples of the first, blocks start at multiples of the second.
  { view.grain_bytes() }
  noexcept->std::same_as<std::uint64_t>;
  { view.step_bytes() }
  noexcept->std::same_as<std::uint64_t>;
  // Length that a fresh chunk needs for such a block, wherever it lies; 0: no chunk would do.
  { view.chunk_bytes_for(value, value) }
  noexcept->std::same_as<std::uint64_t>;
  // Makes room in the tables for a chunk; false: no memory. Then add() cannot fail.
  { engine.prepare(chunk) }
  noexcept->std::same_as<bool>;
  { engine.add(chunk) }
  noexcept;
  // Takes back a chunk as it was added; in_use: a block lies in it.
  { engine.remove(chunk) }
  noexcept->std::same_as<placement::Status>;
  // As in src/placement: the alignment is a power of two, or what the engine says.
  { engine.allocate(value, value) }
  noexcept->std::same_as<placement::Placement>;
  // In a chunk that was just added and is long enough by chunk_bytes_for(): does not fail.
  { engine.allocate_in(chunk, value, value) }
  noexcept->std::same_as<placement::Placement>;
  { engine.free(value) }
  noexcept->std::same_as<placement::Status>;
  // Bytes of the block that starts there; 0: none does.
  { view.size_of(value) }
  noexcept->std::same_as<std::uint64_t>;
  { view.capacity_bytes() }
  noexcept->std::same_as<std::uint64_t>;
  { view.live_bytes() }
  noexcept->std::same_as<std::uint64_t>;
  { view.live_count() }
  noexcept->std::same_as<std::uint64_t>;
  { view.largest_free() }
  noexcept->std::same_as<std::uint64_t>;
  { view.validate() }
  noexcept->std::same_as<bool>;
};

template <class E>
concept OneSizeEngine = requires(const E& engine) {
  engine.item_bytes();
};

// What a block of this alignment may lose in front of it in a fresh chunk.
[[nodiscard]] std::uint64_t alignment_slack(const PoolSpace& space, std::uint64_t align_bytes) noexcept;

// Blocks of one size: the fastest, nothing is lost between blocks.
class FixedEngine {
 public:
  struct Options {
    std::uint64_t block_bytes = 0;  // rounded up to a multiple of align_bytes
    std::uint64_t align_bytes = 0;  // 0: the largest power of two that divides block_bytes
  };
  static constexpr bool kKeepsChunks = true;

  Outcome open(const Options& options, const PoolSpace& space) noexcept;
  void close() noexcept;
  [[nodiscard]] std::uint64_t grain_bytes() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t step_bytes() const noexcept { return align_bytes_; }
  [[nodiscard]] std::uint64_t chunk_bytes_for(std::uint64_t size_bytes,
                                              std::uint64_t align_bytes) const noexcept;
  [[nodiscard]] bool prepare(PoolChunk chunk) noexcept;
  void add(PoolChunk chunk) noexcept;
  [[nodiscard]] placement::Status remove(PoolChunk chunk) noexcept;
  [[nodiscard]] placement::Placement allocate(std::uint64_t size_bytes, std::uint64_t align_bytes) noexcept {
    return range_->allocate(size_bytes, align_bytes);
  }
  [[nodiscard]] placement::Placement allocate_in(PoolChunk, std::uint64_t size_bytes,
                                                 std::uint64_t align_bytes) noexcept {
    return allocate(size_bytes, align_bytes);
  }
  [[nodiscard]] placement::Status free(std::uint64_t offset) noexcept { return range_->free(offset); }
  [[nodiscard]] std::uint64_t size_of(std::uint64_t offset) const noexcept;
  [[nodiscard]] std::uint64_t item_bytes() const noexcept { return range_->block_bytes(); }
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept {
    return range_->block_count() * range_->block_bytes();
  }
  [[nodiscard]] std::uint64_t live_bytes() const noexcept { return live_count() * range_->block_bytes(); }
  [[nodiscard]] std::uint64_t live_count() const noexcept {
    return range_->block_count() - range_->free_count();
  }
  [[nodiscard]] std::uint64_t largest_free() const noexcept {
    return range_->is_full() ? 0 : range_->block_bytes();
  }
  [[nodiscard]] bool validate() const noexcept { return range_->validate(); }

 private:
  PoolSpace space_;
  std::uint64_t align_bytes_ = 1, record_bytes_ = 0;
  std::optional<placement::FixedRange> range_;
  paging::GrowingMemory records_;  // of each chunk, by offset / chunk_bytes
  paging::GrowingMemory table_;    // FixedChunk*, in the order of offsets
};

// Blocks of any size: two-level segregated fit, constant time.
class HeapEngine {
 public:
  struct Options {
    std::uint64_t unit_bytes = kDeviceAlignBytes;  // sizes are rounded up to it; a power of two
    placement::TlsfPolicy policy = placement::TlsfPolicy::first;
  };
  static constexpr std::uint64_t kUnitDefault = kDeviceAlignBytes;
  static constexpr bool kKeepsChunks = true;

  Outcome open(const Options& options, const PoolSpace& space) noexcept;
  void close() noexcept;
  [[nodiscard]] std::uint64_t grain_bytes() const noexcept { return unit_bytes_; }
  [[nodiscard]] std::uint64_t step_bytes() const noexcept { return unit_bytes_; }
  [[nodiscard]] std::uint64_t chunk_bytes_for(std::uint64_t size_bytes,
                                              std::uint64_t align_bytes) const noexcept;
  [[nodiscard]] bool prepare(PoolChunk chunk) noexcept;
  void add(PoolChunk chunk) noexcept;
  [[nodiscard]] placement::Status remove(PoolChunk chunk) noexcept;
  [[nodiscard]] placement::Placement allocate(std::uint64_t size_bytes, std::uint64_t align_bytes) noexcept;
  [[nodiscard]] placement::Placement allocate_in(PoolChunk chunk, std::uint64_t size_bytes,
                                                 std::uint64_t align_bytes) noexcept;
  [[nodiscard]] placement::Status free(std::uint64_t offset) noexcept;
  [[nodiscard]] std::uint64_t size_of(std::uint64_t offset) const noexcept;
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept { return units_.range_units() * unit_bytes_; }
  [[nodiscard]] std::uint64_t live_bytes() const noexcept {
    return std::uint64_t{units_.range_units() - units_.free_units()} * unit_bytes_;
  }
  [[nodiscard]] std::uint64_t live_count() const noexcept { return live_count_; }
  [[nodiscard]] std::uint64_t largest_free() const noexcept { return units_.largest_free() * unit_bytes_; }
  [[nodiscard]] bool validate() const noexcept { return units_.free_units() <= units_.range_units(); }

 private:
  [[nodiscard]] std::uint32_t unit_of(std::uint64_t bytes) const noexcept {
    return static_cast<std::uint32_t>(bytes / unit_bytes_);
  }

  PoolSpace space_;
  std::uint64_t unit_bytes_ = kUnitDefault, live_count_ = 0;
  std::uint64_t used_units_ = 0;  // the tags of units below this were used before
  placement::Tlsf units_;
  paging::GrowingMemory tags_;
};

// Temporary blocks that are freed soon, in any order. A block above the usual chunk gets one of its own.
class RingEngine {
 public:
  struct Options {
    std::uint32_t blocks_max = 1024;                // in one chunk at a time
    std::uint64_t align_bytes = kDeviceAlignBytes;  // of every block at least; a power of two
  };
  static constexpr bool kKeepsChunks = true;

  Outcome open(const Options& options, const PoolSpace& space) noexcept;
  void close() noexcept;
  [[nodiscard]] std::uint64_t grain_bytes() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t step_bytes() const noexcept { return align_bytes_; }
  [[nodiscard]] std::uint64_t chunk_bytes_for(std::uint64_t size_bytes,
                                              std::uint64_t align_bytes) const noexcept;
  [[nodiscard]] bool prepare(PoolChunk chunk) noexcept;
  void add(PoolChunk chunk) noexcept;
  [[nodiscard]] placement::Status remove(PoolChunk chunk) noexcept {
    return ring_->remove_range(chunk.offset, chunk.size_bytes);
  }
  [[nodiscard]] placement::Placement allocate(std::uint64_t size_bytes, std::uint64_t align_bytes) noexcept {
    return ring_->allocate(size_bytes, align_bytes > align_bytes_ ? align_bytes : align_bytes_);
  }
  [[nodiscard]] placement::Placement allocate_in(PoolChunk, std::uint64_t size_bytes,
                                                 std::uint64_t align_bytes) noexcept {
    return allocate(size_bytes, align_bytes);
  }
  [[nodiscard]] placement::Status free(std::uint64_t offset) noexcept { return ring_->free(offset); }
  [[nodiscard]] std::uint64_t size_of(std::uint64_t offset) const noexcept { return ring_->size_of(offset); }
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept { return ring_->capacity_bytes(); }
  [[nodiscard]] std::uint64_t live_bytes() const noexcept { return ring_->live_bytes(); }
  [[nodiscard]] std::uint64_t live_count() const noexcept { return ring_->live_count(); }
  [[nodiscard]] std::uint64_t largest_free() const noexcept { return ring_->largest_free(); }
  [[nodiscard]] bool validate() const noexcept { return ring_->validate(); }

 private:
  [[nodiscard]] placement::RingRange* ranges() const noexcept {
    return reinterpret_cast<placement::RingRange*>(ranges_.base());
  }

  PoolSpace space_;
  std::uint32_t blocks_max_ = 0;
  std::uint64_t align_bytes_ = 1;
  std::optional<placement::Ring> ring_;
  paging::GrowingMemory ranges_;   // RingRange of each chunk
  paging::GrowingMemory entries_;  // blocks_max of each chunk, by offset / chunk_bytes
};

// No placement: each block is a chunk of its own, which comes when the block does and goes with it.
class PassEngine {
 public:
  struct Options {};
  static constexpr bool kKeepsChunks = false;

  Outcome open(const Options& options, const PoolSpace& space) noexcept;
  void close() noexcept;
  [[nodiscard]] std::uint64_t grain_bytes() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t step_bytes() const noexcept { return space_.chunk_bytes; }
  [[nodiscard]] std::uint64_t chunk_bytes_for(std::uint64_t size_bytes,
                                              std::uint64_t align_bytes) const noexcept;
  [[nodiscard]] bool prepare(PoolChunk chunk) noexcept;
  void add(PoolChunk chunk) noexcept;
  [[nodiscard]] placement::Status remove(PoolChunk chunk) noexcept;
  // Only a chunk that could not be given back when its block was freed is there for another block.
  [[nodiscard]] placement::Placement allocate(std::uint64_t size_bytes, std::uint64_t align_bytes) noexcept;
  [[nodiscard]] placement::Placement allocate_in(PoolChunk, std::uint64_t size_bytes,
                                                 std::uint64_t align_bytes) noexcept {
    return allocate(size_bytes, align_bytes);
  }
  [[nodiscard]] placement::Status free(std::uint64_t offset) noexcept;
  [[nodiscard]] std::uint64_t size_of(std::uint64_t offset) const noexcept;
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept { return capacity_bytes_; }
  [[nodiscard]] std::uint64_t live_bytes() const noexcept { return live_bytes_; }
  [[nodiscard]] std::uint64_t live_count() const noexcept { return live_count_; }
  [[nodiscard]] std::uint64_t largest_free() const noexcept { return 0; }
  [[nodiscard]] bool validate() const noexcept { return live_bytes_ <= capacity_bytes_; }

 private:
  struct Record {
    std::uint64_t chunk_bytes, block_bytes;  // 0: none
  };
  [[nodiscard]] Record* record_at(std::uint64_t offset) const noexcept;

  PoolSpace space_;
  std::uint64_t record_count_ = 0;  // that have memory
  std::uint64_t chunk_count_ = 0, live_count_ = 0, capacity_bytes_ = 0, live_bytes_ = 0;
  paging::GrowingMemory records_;  // by offset / chunk_bytes
};

static_assert(PlacementEngine<FixedEngine> && PlacementEngine<HeapEngine>);
static_assert(PlacementEngine<RingEngine> && PlacementEngine<PassEngine>);

}  // namespace glebe::device
