// Regions: the reserved address space and its fixed parts (namespace glebe::vm).
//
// One region, the primary, is reserved at first use and normally holds everything for the life of the
// process:
//
//   base                                                              chunk_base
//   | large slots | mapped zone | metadata | chunk records | chunk tags | slab records | slab bitmaps | page
//   tags | directory | chunks
//
// The mapped zone is for memory that the program maps itself (src/paging/mapped_zone.h): no block lies there.
// Further regions (metadata, tables, directory and chunks, no large slots) are added when the primary is
// full, which happens only where the system allowed no more than a small one. Tables are committed by a
// frontier that follows the highest chunk in use, so nothing is paid for addresses that are not used. Regions
// are never released.
//
// The directory has one 8-byte entry per granule and grows down from chunk_base, so that the entry of an
// address is at a constant distance whatever the size of the region. region_lock guards adding regions and
// moving frontiers; reading needs no lock.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "platform/thread.h"
#include "src/base/bits.h"
#include "src/placement/tlsf.h"

namespace glebe::vm {

inline constexpr std::size_t kPageBytes = 4 * kKiB;      // os page: the unit of medium extents and of purging
inline constexpr std::size_t kGranuleBytes = 16 * kKiB;  // the unit of ownership and of the directory
inline constexpr std::size_t kChunkBytes = 2 * kMiB;     // the unit of huge pages and of the chunk space
inline constexpr unsigned kGranuleShift = 14;
inline constexpr unsigned kPagesPerChunk = kChunkBytes / kPageBytes;
inline constexpr unsigned kGranulesPerChunk = kChunkBytes / kGranuleBytes;
inline constexpr std::size_t kSlabRecordBytes = 64;   // per granule
inline constexpr std::size_t kSlabBitmapBytes = 128;  // per granule: one bit per 16 bytes
static_assert(kSlabRecordBytes * kGranulesPerChunk % kPageBytes ==
              0);  // what a chunk's notes fill is whole pages
static_assert(kSlabBitmapBytes * kGranulesPerChunk % kPageBytes == 0);
inline constexpr unsigned kRegionMax = 64;

struct ChunkRecord;  // src/vm/chunk.h

// Large slots: sub-range number j holds slots of 2^(kLargeShiftMin + j) bytes; all sub-ranges are equally
// long.
inline constexpr unsigned kLargeShiftMin = 26;  // 64 MiB
struct LargeSpace {
  std::byte* base = nullptr;    // aligned to the longest slot; nullptr when there are no sub-ranges
  unsigned subrange_shift = 0;  // each sub-range is 2^subrange_shift bytes long
  unsigned subrange_count = 0;  // the last one holds one slot
  [[nodiscard]] std::size_t size_bytes() const noexcept {
    return static_cast<std::size_t>(subrange_count) << subrange_shift;
  }
};

// A table beside the chunk space that is committed as the chunks it describes come into use.
struct Table {
  std::byte* start = nullptr;  // lowest address of entry 0; for the directory, one past entry 0
  std::size_t bytes_per_chunk = 0;
  std::size_t reserved_bytes = 0;
  std::size_t committed_bytes = 0;
};

enum TableIndex : unsigned {
  kChunkRecords,
  kChunkTags,
  kSlabRecords,
  kSlabBitmaps,
  kPageTags,
  kDirectory,
  kTableCount
};

struct Region {
  std::byte* base = nullptr;
  std::size_t reserved_bytes = 0;
  std::byte* chunk_base = nullptr;  // multiple of kChunkBytes
  std::uint32_t chunk_count = 0;
  std::uint32_t chunks_covered = 0;  // tables are committed for chunks [0, chunks_covered)
  LargeSpace large;
  std::byte* mapped_zone = nullptr;  // behind the large slots, where there are any
  std::size_t mapped_zone_bytes = 0;
  Table tables[kTableCount];
  std::byte* metadata = nullptr;  // bump arena, see metadata.h
  std::size_t metadata_bytes = 0, metadata_used = 0, metadata_committed = 0;
  placement::Tlsf chunk_space;  // places runs of chunks, guarded by region_lock
  bool frozen = false;  // in a forked child: what is free here is unknown, nothing more is placed here

  [[nodiscard]] bool contains(const void* address) const noexcept {
    return static_cast<std::size_t>(static_cast<const std::byte*>(address) - chunk_base) <
           static_cast<std::size_t>(chunk_count) * kChunkBytes;
  }
  [[nodiscard]] std::uint32_t granule_of(const void* address) const noexcept {
    return static_cast<std::uint32_t>(
        static_cast<std::size_t>(static_cast<const std::byte*>(address) - chunk_base) >> kGranuleShift);
  }
  [[nodiscard]] std::uint32_t page_of(const void* address) const noexcept {
    return static_cast<std::uint32_t>(
        static_cast<std::size_t>(static_cast<const std::byte*>(address) - chunk_base) / kPageBytes);
  }
  [[nodiscard]] std::byte* page_address(std::uint32_t page) const noexcept {
    return chunk_base + std::size_t{page} * kPageBytes;
  }
  [[nodiscard]] std::byte* granule_address(std::uint32_t granule) const noexcept {
    return chunk_base + std::size_t{granule} * kGranuleBytes;
  }
  // The directory entry of a granule whose chunk is covered.
  [[nodiscard]] std::atomic<std::uintptr_t>& directory_entry(std::uint32_t granule) const noexcept {
    return reinterpret_cast<std::atomic<std::uintptr_t>*>(
        chunk_base)[-1 - static_cast<std::ptrdiff_t>(granule)];
  }
  [[nodiscard]] placement::Tag* page_tags() const noexcept {
    return reinterpret_cast<placement::Tag*>(tables[kPageTags].start);
  }
  [[nodiscard]] std::byte* slab_record(std::uint32_t granule) const noexcept {
    return tables[kSlabRecords].start + std::size_t{granule} * kSlabRecordBytes;
  }
  [[nodiscard]] std::uint64_t* slab_bitmap(std::uint32_t granule) const noexcept {
    return reinterpret_cast<std::uint64_t*>(tables[kSlabBitmaps].start +
                                            std::size_t{granule} * kSlabBitmapBytes);
  }
};

extern constinit Region regions[kRegionMax];
extern constinit std::atomic<unsigned> region_count;
extern constinit os::Mutex region_lock;

// How much address space to ask for, in bytes; set before the first use, 0 means the default ladder.
extern constinit std::size_t requested_chunk_space_bytes;

// Reserves the primary region unless it exists. False when the system gives not even the smallest one.
// Thread-safe.
[[nodiscard]] bool ensure_primary() noexcept;

// Adds a region whose chunk space holds at least `chunk_count` chunks in one run. Caller holds region_lock.
[[nodiscard]] Region* add_region(std::uint32_t chunk_count) noexcept;

// Commits the tables for chunks [0, chunk_end) of the region. Caller holds region_lock. On false nothing is
// lost.
[[nodiscard]] bool cover_chunks(Region& region, std::uint32_t chunk_end) noexcept;

// The region whose chunk space holds the address, or nullptr. Any pointer value is allowed.
[[nodiscard]] Region* region_of_slow(const void* address) noexcept;
[[nodiscard]] inline Region* region_of(const void* address) noexcept {
  if (regions[0].contains(address)) [[likely]]
    return &regions[0];
  return region_of_slow(address);
}

}  // namespace glebe::vm
