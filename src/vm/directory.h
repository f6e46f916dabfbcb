// The directory: from any address to the size-class slot of its owner in one computed load (namespace
// glebe::vm).
//
// An entry is the address of a heap's size-class slot (heap and class in one word), or one of the small
// values below. Entries of the primary region are found without knowing the region: directory_last is the
// address of the byte before the chunk space, and (directory_last - address) >> 14 is -(granule + 1), so one
// unsigned compare with -(granule count) tells every foreign pointer, nullptr included. Entries change only
// under the lock of the owning structure; readers are lock-free.
#pragma once

#include "src/vm/region.h"

namespace glebe::vm {

inline constexpr std::uintptr_t kEntryNone = 0;    // not ours, or free
inline constexpr std::uintptr_t kEntryMedium = 1;  // granule of a medium range

// The root: two words that every free reads. Before the primary region exists no address that a program can
// hold passes the compare. (Defined inline: a definition is known to be hidden and is then addressed
// directly, a declaration is not.)
alignas(16) inline constinit std::atomic<std::uintptr_t> directory_last{(std::uintptr_t{1} << 63) -
                                                                        1};  // chunk_base - 1
inline constinit std::atomic<std::uint64_t> directory_lowest_index{
    ~std::uint64_t{0}};  // 2^64 - number of covered granules

// The directory index of an address in the primary region; any pointer value is allowed.
[[nodiscard]] inline std::uint64_t directory_index(const void* address) noexcept {
  const auto distance = static_cast<std::intptr_t>(directory_last.load(std::memory_order_relaxed) -
                                                   reinterpret_cast<std::uintptr_t>(address));
  return static_cast<std::uint64_t>(distance >> kGranuleShift);
}
[[nodiscard]] inline bool is_primary_index(std::uint64_t index) noexcept {
  return index >= directory_lowest_index.load(std::memory_order_relaxed);
}

// The entry for an index that is_primary_index().
[[nodiscard]] inline std::uintptr_t primary_entry(std::uint64_t index) noexcept {
  const auto* end = reinterpret_cast<const std::atomic<std::uintptr_t>*>(
      directory_last.load(std::memory_order_relaxed) + 1);
  return end[static_cast<std::int64_t>(index)].load(std::memory_order_relaxed);
}

// The entry of any address in any region; kEntryNone for every other pointer value.
[[nodiscard]] inline std::uintptr_t entry_of(const void* address) noexcept {
  const std::uint64_t index = directory_index(address);
  if (is_primary_index(index)) return primary_entry(index);
  const Region* region = region_of_slow(address);
  if (region == nullptr || region->granule_of(address) >= region->chunks_covered * kGranulesPerChunk)
    return kEntryNone;
  return region->directory_entry(region->granule_of(address)).load(std::memory_order_relaxed);
}

// Sets the entries of `count` granules from the one that holds `address`.
inline void set_entries(const Region& region, std::uint32_t granule, std::uint32_t count,
                        std::uintptr_t value) noexcept {
  for (std::uint32_t i = 0; i < count; ++i) {
    region.directory_entry(granule + i).store(value, std::memory_order_relaxed);
  }
}

}  // namespace glebe::vm
