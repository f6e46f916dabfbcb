// How a region is laid out, how large the first one is, and how tables follow the chunks.
#include "src/vm/region.h"

#include "platform/process.h"
#include "platform/vm.h"
#include "src/base/check.h"
#include "src/vm/chunk.h"
#include "src/vm/directory.h"
#include "src/vm/ledger.h"

namespace glebe::vm {

constinit Region regions[kRegionMax];
constinit std::atomic<unsigned> region_count{0};
constinit os::Mutex region_lock;
constinit std::size_t requested_chunk_space_bytes = 0;

namespace {

// Chunks are covered (their tables committed) in steps: few kernel calls, few committed bytes that nobody
// needs.
constexpr std::uint32_t kCoverStepChunks = 16;
constexpr std::size_t kTableStepBytes = 16 * kKiB;

constexpr std::size_t kTableBytesPerChunk[kTableCount] = {
    sizeof(ChunkRecord),
    sizeof(placement::Tag),
    kSlabRecordBytes* kGranulesPerChunk,
    kSlabBitmapBytes* kGranulesPerChunk,
    sizeof(placement::Tag) * kPagesPerChunk,
    sizeof(std::uintptr_t) * kGranulesPerChunk,
};

struct Shape {
  std::size_t chunk_bytes;        // multiple of kChunkBytes
  unsigned large_subrange_shift;  // 0: no large slots
  std::size_t mapped_zone_bytes;  // multiple of kChunkBytes
};

// What is asked for, one after the other, until the system agrees.
constexpr Shape kLadder[] = {
    {8 * kTiB, 41, kTiB}, {1 * kTiB, 36, 256 * kGiB}, {64 * kGiB, 33, 16 * kGiB}, {64 * kGiB, 0, 0},
    {4 * kGiB, 0, 0},     {1 * kGiB, 0, 0},           {256 * kMiB, 0, 0},         {64 * kMiB, 0, 0},
    {32 * kMiB, 0, 0},    {16 * kMiB, 0, 0},          {4 * kMiB, 0, 0},           {2 * kMiB, 0, 0},
};
constexpr std::size_t kReserveCostMax = 64 * kMiB;  // of memory that addresses alone may take
constexpr std::size_t kAddressSpaceShare = 8;  // at most this fraction of a limited address space at a time

std::size_t metadata_bytes_for(std::size_t chunk_bytes) {
  const std::size_t share = chunk_bytes / 64;
  return share < kMiB ? kMiB : align_up(share, kMiB);
}

std::size_t table_bytes(unsigned table, std::size_t chunk_count) {
  return align_up(kTableBytesPerChunk[table] * chunk_count, kTableStepBytes);
}

// Assigns addresses to the parts of a region that starts at `at` behind the large slots.
void place_parts(Region& region, std::byte* at) {
  region.metadata = at;
  at += region.metadata_bytes;
  for (unsigned i = 0; i < kTableCount; ++i) {
    Table& table = region.tables[i];
    table.bytes_per_chunk = kTableBytesPerChunk[i];
    table.reserved_bytes = table_bytes(i, region.chunk_count);
    // The directory ends where the chunks start; everything between it and the table before is slack.
    table.start = i == kDirectory ? region.chunk_base : at;
    table.committed_bytes = 0;
    at += table.reserved_bytes;
  }
  CHECK(at <= region.chunk_base);
}

bool reserve_region(Region& region, const Shape& shape) {
  LargeSpace large;
  if (shape.large_subrange_shift != 0) {
    large.subrange_shift = shape.large_subrange_shift;
    large.subrange_count = shape.large_subrange_shift - kLargeShiftMin + 1;
  }
  const std::size_t chunk_count = shape.chunk_bytes / kChunkBytes;
  std::size_t front = metadata_bytes_for(shape.chunk_bytes);
  for (unsigned i = 0; i < kTableCount; ++i) front += table_bytes(i, chunk_count);
  const std::size_t front_aligned = align_up(front, kChunkBytes);
  const std::size_t zone_bytes = os::kHasMappings && large.subrange_count != 0 ? shape.mapped_zone_bytes : 0;
  const std::size_t total = large.size_bytes() + zone_bytes + front_aligned + shape.chunk_bytes;
  // Unless the size was asked for.
  if (requested_chunk_space_bytes == 0 && os::reserve_cost_bytes(total) > kReserveCostMax) return false;
  const std::size_t alignment =
      large.subrange_count != 0 ? std::size_t{1} << large.subrange_shift : kChunkBytes;
  auto* base = static_cast<std::byte*>(os::reserve(total, alignment));
  if (base == nullptr) return false;
  region.base = base;
  region.reserved_bytes = total;
  if (large.subrange_count != 0) large.base = base;
  region.large = large;
  region.mapped_zone = zone_bytes != 0 ? base + large.size_bytes() : nullptr;
  region.mapped_zone_bytes = zone_bytes;
  region.metadata_bytes = metadata_bytes_for(shape.chunk_bytes);
  region.chunk_count = static_cast<std::uint32_t>(chunk_count);
  region.chunk_base = base + large.size_bytes() + zone_bytes + front_aligned;
  place_parts(region, base + large.size_bytes() + zone_bytes);
  region.chunk_space.attach(reinterpret_cast<placement::Tag*>(region.tables[kChunkTags].start),
                            region.chunk_count, placement::TlsfPolicy::best_fit);
  ledger.reserved_bytes.fetch_add(total, std::memory_order_relaxed);
  return true;
}

bool cover_table(Table& table, bool grows_down, std::size_t end_bytes) {
  std::size_t wanted = align_up(end_bytes, kTableStepBytes);
  if (wanted > table.reserved_bytes) wanted = table.reserved_bytes;
  if (wanted <= table.committed_bytes) return true;
  const std::size_t grown = wanted - table.committed_bytes;
  std::byte* from = grows_down ? table.start - wanted : table.start + table.committed_bytes;
  if (!os::commit(from, grown)) return false;
  ledger_commit(grown);
  ledger.metadata_bytes.fetch_add(grown, std::memory_order_relaxed);
  table.committed_bytes = wanted;
  return true;
}

// The largest chunk space to ask for: what the options say, and a share of a limited address space.
std::size_t chunk_bytes_allowed() {
  const std::size_t limit = os::address_space_limit();
  std::size_t allowed = limit == SIZE_MAX ? SIZE_MAX : align_down(limit / kAddressSpaceShare, kChunkBytes);
  if (requested_chunk_space_bytes != 0 && requested_chunk_space_bytes < allowed) {
    allowed = align_up(requested_chunk_space_bytes, kChunkBytes);
  }
  return allowed < kChunkBytes ? kChunkBytes : allowed;
}

// The large slots that go with a chunk space that was asked for: they take no more addresses than it does,
// and no more does the mapped zone.
unsigned large_shift_for(std::size_t chunk_bytes) {
  unsigned shift = 0;
  for (unsigned next = kLargeShiftMin; (std::size_t{next - kLargeShiftMin + 1} << next) <= chunk_bytes;
       ++next)
    shift = next;
  return shift;
}

bool reserve_by_ladder(Region& region, std::size_t chunk_bytes_least, bool with_large) {
  const std::size_t allowed = chunk_bytes_allowed();
  // Where a limit is what bounds us, large blocks do better with reservations of their own.
  const bool is_asked = requested_chunk_space_bytes != 0 && requested_chunk_space_bytes <= allowed;
  if (is_asked && with_large && chunk_bytes_least <= allowed &&
      reserve_region(region, {allowed, large_shift_for(allowed), allowed < kTiB ? allowed : kTiB})) {
    return true;
  }
  for (Shape shape : kLadder) {
    if (shape.chunk_bytes > allowed) {
      // The steps above the allowed size collapse into one try with just that size.
      shape = {align_down(allowed, kChunkBytes), 0, 0};
    }
    if (shape.chunk_bytes < chunk_bytes_least) shape = {chunk_bytes_least, 0, 0};
    if (!with_large) shape.large_subrange_shift = 0;
    if (reserve_region(region, shape)) return true;
    if (shape.chunk_bytes == chunk_bytes_least) return false;
  }
  return false;
}

}  // namespace

bool ensure_primary() noexcept {
  if (region_count.load(std::memory_order_acquire) != 0)
    return true;  // pairs with the release in publish below
  os::Lock hold(region_lock);
  if (region_count.load(std::memory_order_relaxed) != 0) return true;
  CHECK(os::page_bytes() == kPageBytes);  // larger os pages are not supported
  if (!reserve_by_ladder(regions[0], kChunkBytes, true)) return false;
  directory_last = reinterpret_cast<std::uintptr_t>(regions[0].chunk_base) - 1;
  region_count.store(1, std::memory_order_release);
  return true;
}

Region* add_region(std::uint32_t chunk_count) noexcept {
  const unsigned at = region_count.load(std::memory_order_relaxed);
  if (at == kRegionMax) return nullptr;
  if (!reserve_by_ladder(regions[at], std::size_t{chunk_count} * kChunkBytes, false)) return nullptr;
  region_count.store(at + 1, std::memory_order_release);  // pairs with the acquire in region_of_slow()
  return &regions[at];
}

bool cover_chunks(Region& region, std::uint32_t chunk_end) noexcept {
  CHECK(chunk_end <= region.chunk_count);
  if (chunk_end <= region.chunks_covered) return true;
  std::uint32_t wanted = static_cast<std::uint32_t>(align_up(chunk_end, kCoverStepChunks));
  if (wanted > region.chunk_count) wanted = region.chunk_count;
  for (unsigned i = 0; i < kTableCount; ++i) {
    if (!cover_table(region.tables[i], i == kDirectory, region.tables[i].bytes_per_chunk * wanted))
      return false;
  }
  region.chunks_covered = wanted;
  if (&region == &regions[0]) {
    directory_lowest_index = ~std::uint64_t{0} - std::uint64_t{wanted} * kGranulesPerChunk + 1;
  }
  return true;
}

Region* region_of_slow(const void* address) noexcept {
  const unsigned count = region_count.load(std::memory_order_acquire);
  for (unsigned i = 0; i < count; ++i) {
    if (regions[i].contains(address)) return &regions[i];
  }
  return nullptr;
}

}  // namespace glebe::vm
