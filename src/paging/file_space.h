// The space of one page file: which units of 512 bytes are free, and which parts have storage although
// nothing is in them (namespace glebe::paging).
//
// Runs of units are placed by the TLSF engine, so gaps between objects are found, joined and used again. Per
// block of 64 KiB the units in use are counted, and a bit says that something was written there since the
// file system gave no storage for it: an idle block, one with storage and nothing in it, is worth a hole.
//
// Metadata is outside the file: 16 bytes for each unit, in memory that is touched only where runs begin and
// end. Not thread-safe: the lock of the tier guards it. Only numbers; nothing here does I/O.
#pragma once

#include <cstdint>

#include "src/base/bits.h"
#include "src/paging/growing_memory.h"
#include "src/placement/tlsf.h"

namespace glebe::paging {

inline constexpr std::uint64_t kUnitBytes = 512;
inline constexpr std::uint32_t kBlockUnits = 128;
inline constexpr std::uint64_t kBlockBytes = kBlockUnits * kUnitBytes;  // 64 KiB

class FileSpace {
 public:
  using Run = placement::Run;

  FileSpace() noexcept = default;
  FileSpace(const FileSpace&) = delete;
  FileSpace& operator=(const FileSpace&) = delete;

  // Reserves metadata for a file of at most `units_max`. The file is empty. False: no addresses.
  [[nodiscard]] bool open(std::uint32_t units_max) noexcept;

  // Units that the file may use now; the caps of the tier decide about more.
  [[nodiscard]] std::uint32_t units() const noexcept { return units_; }
  [[nodiscard]] std::uint32_t units_max() const noexcept { return engine_.capacity_units(); }
  [[nodiscard]] std::uint32_t free_units() const noexcept { return engine_.free_units(); }
  [[nodiscard]] std::uint32_t largest_free_units() const noexcept { return engine_.largest_free(); }
  [[nodiscard]] std::uint32_t idle_blocks() const noexcept { return idle_blocks_; }

  // Adds units at the end. False: beyond the maximum, or no memory for metadata.
  [[nodiscard]] bool grow(std::uint32_t units) noexcept;
  // Takes all free units off the end. Returns how many.
  std::uint32_t shrink() noexcept;

  // A run that is free so far; empty when there is none. It may be cut into runs of its own.
  [[nodiscard]] Run take(std::uint32_t units, std::uint32_t align_units) noexcept;
  void split(std::uint32_t first, std::uint32_t units) noexcept;
  [[nodiscard]] std::uint32_t run_units(std::uint32_t first) const noexcept {
    return engine_.run_length(first);
  }
  void put(std::uint32_t first) noexcept;
  // Something is about to be written there: its blocks get storage. True: one of them had none.
  bool mark_written(std::uint32_t first, std::uint32_t units) noexcept;

  // Idle blocks in one free run, taken so that nobody uses them while a hole is punched; then put_hole().
  // Looks at blocks from *block on and moves it. False: no more.
  struct Hole {
    std::uint32_t run_first;           // what put_hole() wants
    std::uint32_t first_block, count;  // whole blocks, the first and the last one idle
  };
  [[nodiscard]] bool take_hole(std::uint32_t* block, Hole* hole) noexcept;
  // `is_punched`: they have no storage any more.
  void put_hole(const Hole& hole, bool is_punched) noexcept;

  [[nodiscard]] bool validate() const noexcept;

 private:
  // Per block: how many of its units are in use, and whether it has storage.
  struct Block {
    std::uint8_t used_units;
    bool has_storage;
  };
  [[nodiscard]] Block* blocks() const noexcept { return reinterpret_cast<Block*>(block_table_.base()); }
  void count_used(std::uint32_t first, std::uint32_t units, bool is_added) noexcept;
  [[nodiscard]] std::uint32_t run_at_block(std::uint32_t block) const noexcept;

  placement::Tlsf engine_;
  GrowingMemory tags_, block_table_;
  std::uint32_t units_ = 0;
  std::uint32_t idle_blocks_ = 0;
};

}  // namespace glebe::paging
