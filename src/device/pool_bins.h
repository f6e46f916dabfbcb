// Fixed sizes in front of a heap (namespace glebe::device): bins of doubling sizes, whose blocks lie in
// slabs, and a heap for the slabs and for everything longer.
//
// Which bin a block belongs to is read from the table of slabs by its address, never from a size that
// somebody names. A slab starts at a multiple of its length, so each block is aligned to its own size. An
// empty slab goes back to the heap at once, so chunks empty. Not thread-safe: the pool's lock guards it.
#pragma once

#include <cstdint>

#include "src/device/pool_engine.h"
#include "src/placement/fixed.h"

namespace glebe::device {

class BinnedEngine {
 public:
  struct Options {
    std::uint64_t unit_bytes = kDeviceAlignBytes;  // blocks of the first bin; a power of two
    unsigned bin_count = 8;                        // the sizes double: up to 32 KiB from 256 bytes
    std::uint64_t slab_bytes = 64 * kKiB;          // a power of two that divides the usual chunk
  };
  static constexpr unsigned kBinsMax = 16;
  static constexpr bool kKeepsChunks = true;

  Outcome open(const Options& options, const PoolSpace& space) noexcept;
  void close() noexcept;
  [[nodiscard]] std::uint64_t grain_bytes() const noexcept { return heap_.grain_bytes(); }
  [[nodiscard]] std::uint64_t step_bytes() const noexcept { return heap_.step_bytes(); }
  [[nodiscard]] std::uint64_t chunk_bytes_for(std::uint64_t size_bytes,
                                              std::uint64_t align_bytes) const noexcept;
  [[nodiscard]] bool prepare(PoolChunk chunk) noexcept;
  void add(PoolChunk chunk) noexcept { heap_.add(chunk); }
  [[nodiscard]] placement::Status remove(PoolChunk chunk) noexcept { return heap_.remove(chunk); }
  [[nodiscard]] placement::Placement allocate(std::uint64_t size_bytes, std::uint64_t align_bytes) noexcept;
  [[nodiscard]] placement::Placement allocate_in(PoolChunk chunk, std::uint64_t size_bytes,
                                                 std::uint64_t align_bytes) noexcept;
  [[nodiscard]] placement::Status free(std::uint64_t offset) noexcept;
  [[nodiscard]] std::uint64_t size_of(std::uint64_t offset) const noexcept;
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept { return heap_.capacity_bytes(); }
  [[nodiscard]] std::uint64_t live_bytes() const noexcept {
    return heap_.live_bytes() - slab_count_ * slab_bytes_ + binned_bytes_;
  }
  [[nodiscard]] std::uint64_t live_count() const noexcept {
    return heap_.live_count() - slab_count_ + binned_count_;
  }
  // Of the heap; a bin may have free blocks besides.
  [[nodiscard]] std::uint64_t largest_free() const noexcept { return heap_.largest_free(); }
  [[nodiscard]] bool validate() const noexcept;

 private:
  static constexpr std::uint32_t kNone = 0;  // links are number + 1

  struct Slab {
    placement::FixedSlab blocks;
    std::uint32_t bin;             // number + 1; 0: the heap's
    std::uint32_t previous, next;  // slabs of the bin with free blocks
  };

  // The bin for a block, or bin_count_: it is the heap's.
  [[nodiscard]] unsigned bin_for(std::uint64_t size_bytes, std::uint64_t align_bytes) const noexcept;
  [[nodiscard]] std::uint64_t block_bytes(unsigned bin) const noexcept { return unit_bytes_ << bin; }
  [[nodiscard]] Slab* slab_at(std::uint64_t offset) const noexcept;  // nullptr: no slab of a bin is there
  [[nodiscard]] Slab& slab(std::uint64_t number) const noexcept {
    return *reinterpret_cast<Slab*>(slabs_.base() + number * record_bytes_);
  }
  [[nodiscard]] static std::uint64_t* words(Slab& slab) noexcept {
    return reinterpret_cast<std::uint64_t*>(&slab + 1);
  }
  void make_slab(std::uint64_t offset, unsigned bin) noexcept;
  [[nodiscard]] placement::Placement take_block(unsigned bin) noexcept;
  void link(std::uint32_t number, unsigned bin) noexcept;
  void unlink(std::uint32_t number, unsigned bin) noexcept;

  HeapEngine heap_;
  std::uint64_t unit_bytes_ = 0, slab_bytes_ = 1, record_bytes_ = 0;
  unsigned bin_count_ = 0;
  std::uint32_t first_[kBinsMax] = {};  // slabs with free blocks, as links
  std::uint64_t slab_count_ = 0, binned_count_ = 0, binned_bytes_ = 0;
  std::uint64_t record_count_ = 0;  // slabs that have records
  paging::GrowingMemory slabs_;     // records, by offset / slab_bytes, each with its words behind it
};

static_assert(PlacementEngine<BinnedEngine>);

}  // namespace glebe::device
