// The mapped zone: memory that the program maps itself, placed where the pager can take it out (namespace
// glebe::paging).
//
// Some programs have an allocator of their own over mmap(2): CPython's arenas, the collector of GCC,
// browsers, Java. While the pager runs, their anonymous private mappings are runs of pages in a part of the
// primary region (vm::Region::mapped_zone), so that page table, staging area and clock hand cover them like
// the heap. To the program they are mappings like others: every page can be unmapped, protected, replaced,
// moved and advised on its own, and calls answer what the kernel would (src/api/mapping.cpp has the calls).
//
// What the zone knows of each run: its protection, and whether it is *own*, which means that something lies
// there that the pager keeps its hands off (a file, shared memory, pages that a child must not get). Nothing
// else needs to be known, because a page that is out comes back whatever the protection of its place became
// meanwhile, and UFFDIO_MOVE refuses what differs from plain anonymous memory in protection, locks or kind.
//
// One lock, held across the system calls of one operation, with signals blocked. Threads of the program use
// it; the pager's own threads never do. A thread that forks waits for the lock, but not for long. When it is
// still held by then, the zone is frozen in the child: what is mapped stays valid, and nothing more is
// placed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "platform/memory_calls.h"

namespace glebe::paging {

inline constexpr std::size_t kMappedBytesMin = 64 * 1024;  // shorter mappings are not worth a place

// The range, empty until the zone is open. Set once.
struct ZoneBounds {
  std::atomic<std::uintptr_t> base{0};
  std::atomic<std::size_t> size_bytes{0};
  [[nodiscard]] bool overlaps(const void* address, std::size_t size) const noexcept {
    const std::uintptr_t start = base.load(std::memory_order_relaxed);
    const auto from = reinterpret_cast<std::uintptr_t>(address);
    return from < start + size_bytes.load(std::memory_order_acquire) && from + size > start;
  }
  [[nodiscard]] bool contains(const void* address, std::size_t size) const noexcept {
    const std::uintptr_t start = base.load(std::memory_order_relaxed);
    const auto from = reinterpret_cast<std::uintptr_t>(address);
    const std::size_t bytes = size_bytes.load(std::memory_order_acquire);
    return from >= start && size <= bytes && from - start <= bytes - size;
  }
};
extern constinit ZoneBounds zone_bounds;

// Called once the pager runs in the mode uffd. Without a zone in the region nothing happens, and mappings
// stay the kernel's.
void open_mapped_zone() noexcept;
// Nothing more is placed from now on: mlockall(2) wants what is mapped later in memory.
void close_mapped_zone() noexcept;
// Around fork(2): waits a moment for the lock, so that the child's zone is seldom frozen, and lets it go.
void mapped_zone_before_fork() noexcept;
void mapped_zone_after_fork() noexcept;
void mapped_zone_in_child() noexcept;
void unlock_mapped_zone_tables() noexcept;  // see PageTable::unlock_memory()

// A new mapping with PROT_NONE or PROT_READ | PROT_WRITE, a multiple of the page; it reads as zero. `hint` is
// where the program would like it, or nullptr. nullptr: no room, or the zone is closed.
[[nodiscard]] void* zone_map(std::size_t size_bytes, void* hint, int protection) noexcept;

// The rest answer like the system calls, 0 or an address or -errno. Ranges are whole pages inside the zone.
[[nodiscard]] int zone_unmap(void* base, std::size_t size_bytes) noexcept;
[[nodiscard]] int zone_protect(void* base, std::size_t size_bytes, int protection) noexcept;
[[nodiscard]] long zone_map_fixed(const os::MapRequest& request) noexcept;  // with MAP_FIXED
// mremap(2) from the zone, to wherever; its arguments are such that the kernel would not refuse them.
[[nodiscard]] long zone_remap(const os::RemapRequest& request) noexcept;
// mremap(2) with MREMAP_FIXED from outside into the zone.
[[nodiscard]] long zone_remap_into(const os::RemapRequest& request) noexcept;
// Whether every page of the range is mapped.
[[nodiscard]] bool zone_is_mapped(const void* base, std::size_t size_bytes) noexcept;
// These pages depend on their place from now on (MADV_DONTFORK).
[[nodiscard]] int zone_keep(void* base, std::size_t size_bytes) noexcept;

struct ZoneStats {
  std::uint64_t bytes;    // mapped now
  std::uint64_t maps;     // calls of mmap that were served
  std::uint64_t refused;  // calls that were not, for want of room
};
[[nodiscard]] ZoneStats zone_stats() noexcept;

}  // namespace glebe::paging
