// Virtual memory of this process: reserve, commit, decommit, purge, release (namespace glebe::os).
//
// Preconditions of every call that takes a range, checked once by the callers in src/vm and not here:
//   base and size_bytes are multiples of page_bytes(), size_bytes > 0, the range lies in one reservation.
// All functions are thread-safe, never allocate, preserve errno, and report failure as a value.
#pragma once

#include <cstddef>

namespace glebe::os {

// Whether mappings that the program makes itself can be served from a reservation (src/api/mapping.cpp).
#if defined(_WIN32)
inline constexpr bool kHasMappings = false;
#else
inline constexpr bool kHasMappings = true;
#endif

// Size of the pages that the system maps, in bytes. Read once from the system; a power of two.
[[nodiscard]] std::size_t page_bytes() noexcept;

// Takes a range of addresses without memory behind it; any access traps. Returns nullptr when the system
// refuses. `align_bytes` is a power of two >= page_bytes(). No commit charge, no reserve accounting.
[[nodiscard]] void* reserve(std::size_t size_bytes, std::size_t align_bytes) noexcept;

// Memory that a reservation of this size takes by itself, in bytes. 0 on Linux and Windows, where addresses
// cost nothing until they are used; not so under wine. Not before main() on Windows: the answer may be 0
// there.
[[nodiscard]] std::size_t reserve_cost_bytes(std::size_t size_bytes) noexcept;

// Gives a whole reservation back: the same base and size as reserve() returned and took.
void release(void* base, std::size_t size_bytes) noexcept;

// Allows reading and writing. Fresh pages read as zero. Idempotent. On false nothing is lost: pages that were
// committed before keep their contents.
[[nodiscard]] bool commit(void* base, std::size_t size_bytes) noexcept;

// Takes memory and access away and returns the commit charge; contents are lost, the addresses stay reserved.
// On false the range is unchanged or partly decommitted; it is never handed to anybody else.
[[nodiscard]] bool decommit(void* base, std::size_t size_bytes) noexcept;

// Gives the physical memory of a committed range back; the range stays committed and reads as zero
// afterwards. On false the contents are unspecified mixtures of old bytes and zeros: treat them as dirty.
[[nodiscard]] bool purge(void* base, std::size_t size_bytes) noexcept;

// Takes all access away from a committed range without giving its memory back, or allows it again (guards).
[[nodiscard]] bool protect_none(void* base, std::size_t size_bytes) noexcept;
[[nodiscard]] bool unprotect(void* base, std::size_t size_bytes) noexcept;

// Moves the pages of a committed range to another reserved or committed range without copying bytes; the
// source range is reserved and uncommitted afterwards, the destination committed. False when the system
// cannot: then both ranges are unchanged. Ranges do not overlap.
[[nodiscard]] bool move_pages(void* from, void* to, std::size_t size_bytes) noexcept;

// Asks for huge pages (2 MiB) in the range, or for small ones. A hint: failure changes nothing.
void advise_huge(void* base, std::size_t size_bytes, bool use_huge_pages) noexcept;

// Whether advise_huge() has an effect on this system (transparent huge pages set to "madvise").
[[nodiscard]] bool huge_pages_on_advice() noexcept;

// Bytes of [base, base + size_bytes) that are in physical memory now (mincore(2)); 0 when it cannot be told.
// For tests and statistics.
[[nodiscard]] std::size_t resident_bytes(const void* base, std::size_t size_bytes) noexcept;

// Counts of the calls that reached the kernel since the start of the process, for statistics and for
// benchmarks that count system calls. Relaxed counters.
struct VmCalls {
  std::size_t reserve, commit, decommit, purge, protect, move, advise;
};
[[nodiscard]] VmCalls vm_calls() noexcept;

}  // namespace glebe::os
