// The granule pool: the chunks behind all slabs (namespace glebe::heap).
//
// Slabs take 1, 4 or 16 granules, aligned to that many, from chunks that all heaps share. A chunk is chosen
// by what still fits in it: the smallest sufficient kind first, the lowest address on ties, a wholly free
// chunk last, so that sparse chunks drain and whole chunks become free. One lock guards the pool and the
// records of its chunks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace glebe::heap {

// `count` (1, 4 or 16) committed granules, aligned to `count` granules, or nullptr when there is no memory.
// *is_zero tells whether they were never touched since they were committed or purged. Their directory entries
// are kEntryNone. May be called with a heap's lock held.
[[nodiscard]] std::byte* take_granules(unsigned count, bool* is_zero) noexcept;

// Gives them back, exactly as taken. Their directory entries are kEntryNone again.
void give_granules(std::byte* start, unsigned count) noexcept;

// Purges free granules that have been dirty for delay_ms (0: all), at most `budget` chunks; returns bytes.
std::size_t granules_purge(std::uint32_t now_ms, std::uint32_t delay_ms, unsigned budget) noexcept;

// Purges everything and gives wholly free chunks back. Passes when this thread holds the pool's lock.
std::size_t granules_trim() noexcept;

// In a forked child (fork.h).
void granules_in_child() noexcept;

struct GranuleStats {
  std::size_t chunks, used_bytes, free_bytes;
};
[[nodiscard]] GranuleStats granule_stats() noexcept;
[[nodiscard]] bool granules_validate() noexcept;

}  // namespace glebe::heap
