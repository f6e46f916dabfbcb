// mmap, munmap, mremap, mprotect and madvise of the program (preload library only). Without the pager each is
// the system call and nothing else. With it, anonymous private mappings of 64 KiB and more are placed in the
// mapped zone (src/paging/mapped_zone.h), and calls that name addresses of the zone, or throw away what pages
// of the heap hold, are done there. Everything else goes to the kernel as it came. What libc maps for itself
// (stacks of threads, libraries) does not come here.
//
// posix_madvise is libc's own: its one advice that would matter, POSIX_MADV_DONTNEED, does nothing there.
#include <sys/mman.h>

#include <cerrno>
#include <cstdarg>

#include "platform/memory_calls.h"
#include "src/base/bits.h"
#include "src/paging/mapped_pages.h"
#include "src/paging/mapped_zone.h"
#include "src/paging/pager.h"

namespace {

using namespace glebe;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kAddressesEnd = std::size_t{1} << 47;
constexpr int kRemapFlags = 7;  // MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP
constexpr int kRemapStays = 4;
constexpr int kDontNeedLocked = 24, kGuardInstall = 102;

long answer_or_errno(long answer) noexcept {
  if (!os::is_failure(answer)) return answer;
  errno = static_cast<int>(-answer);
  return -1;
}

bool is_page(const void* address) noexcept {
  return is_aligned(reinterpret_cast<std::uintptr_t>(address), kPage);
}

// Rounds a length up to pages as the kernel does. False: it refuses the range whatever lies there.
bool is_range(const void* address, std::size_t* size_bytes) noexcept {
  if (*size_bytes == 0 || *size_bytes > kAddressesEnd) return false;
  *size_bytes = align_up(*size_bytes, kPage);
  return is_page(address) && reinterpret_cast<std::uintptr_t>(address) <= kAddressesEnd - *size_bytes;
}

// Cuts a range at the ends of the zone. The part in the zone is part[1]; empty parts have no bytes.
struct Part {
  std::byte* base;
  std::size_t size_bytes;
};
void cut_at_zone(void* address, std::size_t size_bytes, Part (&parts)[3]) noexcept {
  auto* const begin = static_cast<std::byte*>(address);
  std::byte* const end = begin + size_bytes;
  auto* const from = reinterpret_cast<std::byte*>(paging::zone_bounds.base.load(std::memory_order_relaxed));
  std::byte* const to = from + paging::zone_bounds.size_bytes.load(std::memory_order_relaxed);
  std::byte* const low = begin < from ? from : begin;
  std::byte* const high = end < to ? end : to;
  parts[0] = {begin, begin < from ? static_cast<std::size_t>(from - begin) : 0};
  parts[1] = {low, static_cast<std::size_t>(high - low)};
  parts[2] = {high, static_cast<std::size_t>(end - high)};
}

// Does a call on each part of a range, in order, until one fails.
template <class InZone, class Elsewhere>
int do_in_parts(void* address, std::size_t size_bytes, InZone in_zone, Elsewhere elsewhere) noexcept {
  Part parts[3];
  cut_at_zone(address, size_bytes, parts);
  for (unsigned i = 0; i < 3; ++i) {
    if (parts[i].size_bytes == 0) continue;
    const int error =
        i == 1 ? in_zone(parts[i].base, parts[i].size_bytes) : elsewhere(parts[i].base, parts[i].size_bytes);
    if (error != 0) return error;
  }
  return 0;
}

bool is_for_zone(const os::MapRequest& request) noexcept {
  if ((request.flags & ~MAP_NORESERVE) != (MAP_PRIVATE | MAP_ANONYMOUS)) return false;
  if (request.protection != PROT_NONE && request.protection != (PROT_READ | PROT_WRITE)) return false;
  if (request.size_bytes < paging::kMappedBytesMin || request.size_bytes > kAddressesEnd) return false;
  if (request.offset != 0 || paging::pager_mode() != paging::PagerMode::uffd) return false;
  // A hint elsewhere is a wish that only the kernel can grant.
  return request.address == nullptr || paging::zone_bounds.contains(request.address, 1);
}

long map(os::MapRequest request) noexcept {
  if (is_for_zone(request)) {
    void* const placed =
        paging::zone_map(align_up(request.size_bytes, kPage), request.address, request.protection);
    return placed != nullptr ? static_cast<long>(reinterpret_cast<std::uintptr_t>(placed))
                             : os::map_call(request);
  }
  std::size_t size_bytes = request.size_bytes;
  const bool is_fixed = (request.flags & MAP_FIXED) != 0 && request.offset % static_cast<long>(kPage) == 0;
  if (!is_fixed || !is_range(request.address, &size_bytes) ||
      !paging::zone_bounds.contains(request.address, size_bytes))
    return os::map_call(request);
  request.size_bytes = size_bytes;
  return paging::zone_map_fixed(request);
}

int unmap(void* address, std::size_t size_bytes) noexcept {
  std::size_t rounded = size_bytes;
  if (!paging::zone_bounds.overlaps(address, size_bytes) || !is_range(address, &rounded))
    return os::unmap_call(address, size_bytes);
  return do_in_parts(address, rounded, paging::zone_unmap, os::unmap_call);
}

int protect(void* address, std::size_t size_bytes, int protection) noexcept {
  constexpr int kKnown = PROT_READ | PROT_WRITE | PROT_EXEC;
  std::size_t rounded = size_bytes;
  if ((protection & ~kKnown) != 0 || !paging::zone_bounds.overlaps(address, size_bytes) ||
      !is_range(address, &rounded))
    return os::protect_call(address, size_bytes, protection);
  const auto in_zone = [protection](void* at, std::size_t bytes) {
    return paging::zone_protect(at, bytes, protection);
  };
  const auto elsewhere = [protection](void* at, std::size_t bytes) {
    return os::protect_call(at, bytes, protection);
  };
  return do_in_parts(address, rounded, in_zone, elsewhere);
}

// Whether the kernel would look at what lies there at all.
bool is_remap(const os::RemapRequest& request, std::size_t* old_bytes, std::size_t* new_bytes) noexcept {
  *old_bytes = request.old_bytes;
  *new_bytes = request.new_bytes;
  const bool is_fixed = (request.flags & MREMAP_FIXED) != 0, stays = (request.flags & kRemapStays) != 0;
  if ((request.flags & ~kRemapFlags) != 0 || !is_range(request.address, old_bytes) ||
      !is_range(is_fixed ? request.new_address : nullptr, new_bytes))
    return false;
  if ((is_fixed || stays) && (request.flags & MREMAP_MAYMOVE) == 0) return false;
  if (stays && *old_bytes != *new_bytes) return false;
  if (!is_fixed) return true;
  const auto from = reinterpret_cast<std::uintptr_t>(request.address);
  const auto to = reinterpret_cast<std::uintptr_t>(request.new_address);
  return from + *old_bytes <= to || to + *new_bytes <= from;  // they do not overlap
}

long remap(os::RemapRequest request) noexcept {
  std::size_t old_bytes = 0, new_bytes = 0;
  const bool is_from_zone = paging::zone_bounds.overlaps(request.address, 1);
  const bool is_into_zone = (request.flags & MREMAP_FIXED) != 0 &&
                            paging::zone_bounds.contains(request.new_address, request.new_bytes);
  if ((!is_from_zone && !is_into_zone) || !is_remap(request, &old_bytes, &new_bytes))
    return os::remap_call(request);
  request.old_bytes = old_bytes;
  request.new_bytes = new_bytes;
  if (!is_from_zone) return paging::zone_remap_into(request);
  return paging::zone_bounds.contains(request.address, old_bytes) ? paging::zone_remap(request) : -EFAULT;
}

// What is done to pages that the pager knows, before or instead of the system call.
int advise_known(void* base, std::size_t size_bytes, int advice) noexcept {
  switch (advice) {
    case MADV_DONTNEED:
    case kDontNeedLocked:
      return paging::discard_pages(base, size_bytes, advice);
    case MADV_FREE:
      // Pages that the kernel may take at any moment must not be moved about: they go now.
      return paging::discard_pages(base, size_bytes, MADV_DONTNEED);
    case kGuardInstall:
      if (const int error = paging::discard_pages(base, size_bytes, MADV_DONTNEED); error != 0) return error;
      break;
    case MADV_DONTFORK:
    case MADV_WIPEONFORK:
      // A child must not find in our tables what it does not get.
      if (const int error = paging::zone_bounds.contains(base, size_bytes)
                                ? paging::zone_keep(base, size_bytes)
                                : paging::keep_pages(base, size_bytes);
          error != 0)
        return error;
      break;
    default:
      break;
  }
  return os::advise_call(base, size_bytes, advice);
}

int advise(void* address, std::size_t size_bytes, int advice) noexcept {
  std::size_t rounded = size_bytes;
  if (paging::pager_mode() != paging::PagerMode::uffd || !is_range(address, &rounded) ||
      !paging::is_pageable(address, rounded))
    return os::advise_call(address, size_bytes, advice);
  if (!paging::zone_bounds.overlaps(address, rounded)) return advise_known(address, rounded, advice);
  int result = 0;
  const auto in_zone = [advice, &result](void* at, std::size_t bytes) {
    if (!paging::zone_is_mapped(at, bytes)) result = -ENOMEM;
    return advise_known(at, bytes, advice);
  };
  const auto elsewhere = [advice](void* at, std::size_t bytes) { return os::advise_call(at, bytes, advice); };
  const int error = do_in_parts(address, rounded, in_zone, elsewhere);
  return error != 0 ? error : result;
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Under names of their own, because with 64-bit offsets the header makes one name of both.
EXPORTED void* glebe_map(void* address, std::size_t size_bytes, int protection, int flags, int descriptor,
                         std::int64_t offset) noexcept __asm__("mmap");
EXPORTED void* glebe_map64(void* address, std::size_t size_bytes, int protection, int flags, int descriptor,
                           std::int64_t offset) noexcept __asm__("mmap64");

// NOLINTBEGIN(readability-function-size): six parameters, as mmap(2) has.
void* glebe_map(void* address, std::size_t size_bytes, int protection, int flags, int descriptor,
                std::int64_t offset) noexcept {
  return reinterpret_cast<void*>(
      answer_or_errno(map({address, size_bytes, protection, flags, descriptor, offset})));
}
void* glebe_map64(void* address, std::size_t size_bytes, int protection, int flags, int descriptor,
                  std::int64_t offset) noexcept {
  return glebe_map(address, size_bytes, protection, flags, descriptor, offset);
}
// NOLINTEND(readability-function-size)

EXPORTED int munmap(void* address, std::size_t size_bytes) noexcept {
  return static_cast<int>(answer_or_errno(unmap(address, size_bytes)));
}

EXPORTED int mprotect(void* address, std::size_t size_bytes, int protection) noexcept {
  return static_cast<int>(answer_or_errno(protect(address, size_bytes, protection)));
}

EXPORTED void* mremap(void* address, std::size_t old_bytes, std::size_t new_bytes, int flags, ...) noexcept {
  void* new_address = nullptr;
  if ((flags & (MREMAP_FIXED | kRemapStays)) != 0) {
    std::va_list rest;
    va_start(rest, flags);
    new_address = va_arg(rest, void*);
    va_end(rest);
  }
  return reinterpret_cast<void*>(answer_or_errno(remap({address, old_bytes, new_bytes, flags, new_address})));
}

EXPORTED int madvise(void* address, std::size_t size_bytes, int advice) noexcept {
  return static_cast<int>(answer_or_errno(advise(address, size_bytes, advice)));
}
