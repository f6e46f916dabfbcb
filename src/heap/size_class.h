// Size classes of the small heap: 16-byte steps to 256, then 8 classes per doubling to 32 KiB (namespace
// glebe::heap).
//
// A request of n bytes gets a block of class_bytes(class_of(n)). Waste: below 256 bytes at most 15 bytes;
// above, at most 1/9 of the block (11.1 %), because a class is at most 9/8 of the one before: proven by
// static_assert below. Request 0 is served as 1. Classes of 2^k bytes are aligned to 2^k, because slabs are.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "src/base/bits.h"
#include "src/placement/fixed.h"

namespace glebe::heap {

inline constexpr unsigned kClassCount = 72;
inline constexpr std::size_t kSmallMaxBytes = 32 * kKiB;
inline constexpr std::size_t kSlotBytes = 16;  // sizeof(Slot): class offsets count in these

constexpr std::uint32_t class_bytes(unsigned size_class) noexcept {
  if (size_class < 16) return (size_class + 1) * 16;
  const unsigned doubling = (size_class - 16) / 8, step = (size_class - 16) % 8 + 1;
  return (256u << doubling) + step * (32u << doubling);
}

// The class of a request, computed; the table below holds the same for the fast path.
constexpr unsigned class_of(std::size_t size_bytes) noexcept {
  if (size_bytes <= 16) return 0;
  if (size_bytes <= 256) return static_cast<unsigned>((size_bytes - 1) / 16);
  const unsigned doubling = log2_floor(size_bytes - 1) - 8;
  return 16 + doubling * 8 +
         static_cast<unsigned>((size_bytes - 1 - (std::size_t{256} << doubling)) >> (5 + doubling));
}

// Bytes from the first slot to the slot of the class, by size in 16-byte units, rounded up.
inline constexpr std::size_t kClassTableEntries = kSmallMaxBytes / 16 + 1;
constexpr std::array<std::uint16_t, kClassTableEntries> make_class_offsets() noexcept {
  std::array<std::uint16_t, kClassTableEntries> table{};
  for (std::size_t i = 0; i < kClassTableEntries; ++i) {
    table[i] = static_cast<std::uint16_t>(class_of(i == 0 ? 1 : i * 16) * kSlotBytes);
  }
  return table;
}
inline constexpr std::array<std::uint16_t, kClassTableEntries> class_offsets = make_class_offsets();

[[nodiscard]] inline std::size_t class_offset_of(std::size_t size_bytes) noexcept {
  return class_offsets[(size_bytes + 15) >> 4];
}

// What the slabs of a class look like.
struct ClassInfo {
  std::uint32_t block_bytes;
  std::uint32_t inverse;          // for placement::block_index
  std::uint16_t blocks;           // per slab
  std::uint16_t magazine_blocks;  // capacity of a magazine
  std::uint8_t granules;          // per slab: 1, 4 or 16, so that a slab holds at least 8 blocks
  std::uint8_t depot_magazines;   // full magazines kept behind the one in use
};

inline constexpr unsigned kGranuleSize = 16 * kKiB;

constexpr ClassInfo make_class_info(unsigned size_class) noexcept {
  const std::uint32_t bytes = class_bytes(size_class);
  const unsigned granules = bytes <= kKiB ? 1 : bytes <= 8 * kKiB ? 4 : 16;
  const std::size_t fits = 16 * kKiB / bytes;
  const std::size_t least = bytes <= 8 * kKiB ? 8 : 4;
  const std::size_t magazine = fits < least ? least : fits > 127 ? 127 : fits;
  const std::size_t depot = 256 * kKiB / (bytes * magazine);
  return {bytes,
          placement::block_inverse(bytes),
          static_cast<std::uint16_t>(granules * kGranuleSize / bytes),
          static_cast<std::uint16_t>(magazine),
          static_cast<std::uint8_t>(granules),
          static_cast<std::uint8_t>(depot > 64 ? 64 : depot)};
}
constexpr std::array<ClassInfo, kClassCount> make_class_infos() noexcept {
  std::array<ClassInfo, kClassCount> table{};
  for (unsigned i = 0; i < kClassCount; ++i) table[i] = make_class_info(i);
  return table;
}
inline constexpr std::array<ClassInfo, kClassCount> class_infos = make_class_infos();

// The table covers every size, classes ascend, and the worst waste is as stated above.
constexpr bool classes_are_sound() noexcept {
  if (class_bytes(kClassCount - 1) != kSmallMaxBytes || class_of(kSmallMaxBytes) != kClassCount - 1)
    return false;
  for (unsigned c = 1; c < kClassCount; ++c) {
    const std::uint32_t bytes = class_bytes(c), below = class_bytes(c - 1);
    if (bytes <= below || bytes % 16 != 0) return false;
    if (class_of(bytes) != c || class_of(below + 1) != c) return false;
    if (bytes > 256 && (bytes - (below + 1)) * 9 > bytes) return false;
  }
  return true;
}
static_assert(classes_are_sound());

}  // namespace glebe::heap
