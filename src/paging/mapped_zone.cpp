#include "src/paging/mapped_zone.h"

#include <sys/mman.h>

#include <cerrno>

#include "src/base/check.h"
#include "src/paging/mapped_pages.h"
#include "src/paging/pager.h"
#include "src/paging/zone_state.h"
#include "src/vm/pageable.h"
#include "src/vm/region.h"

namespace glebe::paging {

constinit ZoneBounds zone_bounds;
constinit Zone zone;

namespace {

constexpr std::size_t kLongestShare = 8;  // one mapping takes at most this part of the zone
constexpr int kFreeFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
// Flags of an anonymous private mapping that change nothing about its pages.
constexpr int kPlainFlags =
    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE | MAP_STACK | MAP_POPULATE | MAP_NONBLOCK;

bool is_plain(const os::MapRequest& request) noexcept {
  return (request.flags & (MAP_PRIVATE | MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB)) ==
         (MAP_PRIVATE | MAP_ANONYMOUS);
}

// Puts a file, or whatever else is not anonymous and private, over pages of the zone. When the kernel
// refuses, it left what was there.
long map_foreign(const os::MapRequest& request) noexcept {
  const long mapped = os::map_call(request);
  if (os::is_failure(mapped)) return mapped;
  forget_pages(request.address, request.size_bytes);
  return mapped;
}

}  // namespace

void open_mapped_zone() noexcept {
  const vm::Region& region = vm::regions[0];
  const std::size_t pages = region.mapped_zone_bytes / kPageBytes;
  if (region.mapped_zone == nullptr || !zone.table.open(static_cast<std::uint32_t>(pages))) return;
  zone.base = region.mapped_zone;
  zone_bounds.base.store(reinterpret_cast<std::uintptr_t>(zone.base), std::memory_order_relaxed);
  // Release pairs with the acquire in ZoneBounds: whoever sees the size, sees the table.
  zone_bounds.size_bytes.store(region.mapped_zone_bytes, std::memory_order_release);
}

void close_mapped_zone() noexcept { zone.is_closed.store(true, std::memory_order_relaxed); }

void unlock_mapped_zone_tables() noexcept {
  if (zone.base != nullptr) zone.table.unlock_memory();
}

void mapped_zone_before_fork() noexcept {
  constexpr unsigned kTurns = 1000;
  if (zone.base == nullptr) return;
  for (unsigned i = 0; i < kTurns; ++i) {
    if (zone.lock.try_lock()) {
      zone.is_held_for_fork = true;
      return;
    }
    os::yield();
  }
}

void mapped_zone_after_fork() noexcept {
  if (!zone.lock.held_by_me() || !zone.is_held_for_fork) return;
  zone.is_held_for_fork = false;
  zone.lock.unlock();
}

void mapped_zone_in_child() noexcept {
  mapped_zone_after_fork();
  if (!zone.lock.is_held() || zone.lock.held_by_me()) return;
  zone.lock.reset_in_child();
  zone.is_frozen = true;
}

std::uint32_t place_in_zone(std::size_t size_bytes, std::uint32_t hint, int protection) noexcept {
  const auto length = static_cast<std::uint32_t>(size_bytes / kPageBytes);
  if (zone.is_frozen || size_bytes > zone_bounds.size_bytes.load(std::memory_order_relaxed) / kLongestShare)
    return placement::kNoUnit;
  const std::uint32_t first = zone.table.place(length, hint, static_cast<std::uint8_t>(protection));
  if (first == placement::kNoUnit || protection == PROT_NONE) return first;
  if (os::protect_call(zone.address_of(first), size_bytes, protection) == 0) return first;
  // Parts of it may be accessible by now. What cannot be given back either is lost.
  static_cast<void>(unmap_in_zone(first, first + length));
  return placement::kNoUnit;
}

void* zone_map(std::size_t size_bytes, void* hint, int protection) noexcept {
  if (zone.base == nullptr || zone.is_closed.load(std::memory_order_relaxed)) return nullptr;
  if (protection != PROT_NONE) vm::wait_under_pressure();
  const std::uint32_t wished = zone_bounds.contains(hint, 1) ? zone.page_of(hint) : placement::kNoUnit;
  std::uint32_t first;
  {
    ZoneLock hold;
    first = place_in_zone(size_bytes, wished, protection);
  }
  (first == placement::kNoUnit ? zone.refused : zone.maps).fetch_add(1, std::memory_order_relaxed);
  return first == placement::kNoUnit ? nullptr : zone.address_of(first);
}

int unmap_in_zone(std::uint32_t begin, std::uint32_t end) noexcept {
  if (zone.is_frozen) {
    return replace_pages(zone.address_of(begin), std::size_t{end - begin} * kPageBytes, PROT_NONE,
                         kFreeFlags);
  }
  while (begin < end) {
    const Piece piece = zone.table.piece_at(begin, end);
    begin = piece.end;
    if (!piece.is_mapped) continue;
    const int error = replace_pages(zone.address_of(piece.begin),
                                    std::size_t{piece.end - piece.begin} * kPageBytes, PROT_NONE, kFreeFlags);
    if (error != 0) return error;
    zone.table.release(piece);
  }
  return 0;
}

int zone_unmap(void* base, std::size_t size_bytes) noexcept {
  ZoneLock hold;
  return unmap_in_zone(zone.page_of(base), zone.end_of(base, size_bytes));
}

int zone_protect(void* base, std::size_t size_bytes, int protection) noexcept {
  ZoneLock hold;
  if (zone.is_frozen) return os::protect_call(base, size_bytes, protection);
  const std::uint32_t begin = zone.page_of(base), end = zone.end_of(base, size_bytes);
  const std::uint32_t mapped = zone.table.mapped_until(begin, end);
  if (mapped == begin) return -ENOMEM;
  const int error = os::protect_call(base, std::size_t{mapped - begin} * kPageBytes, protection);
  if (error != 0) return error;
  for (std::uint32_t at = begin; at < mapped;) {
    const Piece piece = zone.table.piece_at(at, mapped);
    const int mark = (piece.mark & kOwn) | (protection & kProtectionBits);
    zone.table.claim(piece.begin, piece.end, static_cast<std::uint8_t>(mark));
    at = piece.end;
  }
  return mapped == end ? 0 : -ENOMEM;
}

long map_fixed_in_zone(const os::MapRequest& request) noexcept {
  const auto answer = static_cast<long>(reinterpret_cast<std::uintptr_t>(request.address));
  long mapped = answer;
  if (is_plain(request)) {
    const int error =
        replace_pages(request.address, request.size_bytes, request.protection, request.flags & ~MAP_FIXED);
    if (error != 0) mapped = error;
  } else {
    mapped = map_foreign(request);
  }
  if (os::is_failure(mapped) || zone.is_frozen) return mapped;
  const bool is_own = !is_plain(request) || (request.flags & ~kPlainFlags) != 0;
  const int mark = (request.protection & kProtectionBits) | (is_own ? kOwn : 0);
  zone.table.claim(zone.page_of(request.address), zone.end_of(request.address, request.size_bytes),
                   static_cast<std::uint8_t>(mark));
  return answer;
}

long zone_map_fixed(const os::MapRequest& request) noexcept {
  ZoneLock hold;
  return map_fixed_in_zone(request);
}

bool zone_is_mapped(const void* base, std::size_t size_bytes) noexcept {
  ZoneLock hold;
  const std::uint32_t end = zone.end_of(base, size_bytes);
  return zone.is_frozen || zone.table.mapped_until(zone.page_of(base), end) == end;
}

int zone_keep(void* base, std::size_t size_bytes) noexcept {
  ZoneLock hold;
  const int error = keep_pages(base, size_bytes);
  if (error != 0 || zone.is_frozen) return error;
  const std::uint32_t end = zone.end_of(base, size_bytes);
  for (std::uint32_t at = zone.page_of(base); at < end;) {
    const Piece piece = zone.table.piece_at(at, end);
    if (piece.is_mapped)
      zone.table.claim(piece.begin, piece.end, static_cast<std::uint8_t>(piece.mark | kOwn));
    at = piece.end;
  }
  return 0;
}

ZoneStats zone_stats() noexcept {
  if (zone.base == nullptr) return {};
  ZoneLock hold;
  const std::uint64_t pages = zone.is_frozen ? 0 : zone.table.mapped_pages();
  return {pages * kPageBytes, zone.maps.load(std::memory_order_relaxed),
          zone.refused.load(std::memory_order_relaxed)};
}

}  // namespace glebe::paging
