// mremap(2) of mappings in the zone. Plain memory is copied, piece by piece, because pages that are out have
// no place that the kernel could move; what is own is moved by the kernel.
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "src/paging/mapped_pages.h"
#include "src/paging/zone_state.h"

#if !defined(MREMAP_DONTUNMAP)
#define MREMAP_DONTUNMAP 4
#endif

namespace glebe::paging {
namespace {

constexpr int kReadWrite = PROT_READ | PROT_WRITE;

std::byte* bytes_of(void* address) noexcept { return static_cast<std::byte*>(address); }
long answer_of(const void* address) noexcept {
  return static_cast<long>(reinterpret_cast<std::uintptr_t>(address));
}

// Copies the pages that hold something; the others are zero in a new mapping as well. What was copied is
// given back at once, so that a move needs no more memory than the mapping had.
void copy_pages(std::byte* to, std::byte* from, std::size_t size_bytes) noexcept {
  alignas(64) static constexpr std::byte zeros[kPageBytes] = {};
  for (std::size_t done = 0; done < size_bytes;) {
    const std::size_t end = done + kUnitBytes < size_bytes ? done + kUnitBytes : size_bytes;
    const std::size_t start = done;
    for (; done < end; done += kPageBytes) {
      if (std::memcmp(from + done, zeros, kPageBytes) != 0) std::memcpy(to + done, from + done, kPageBytes);
    }
    static_cast<void>(discard_pages(from + start, end - start, MADV_DONTNEED));
  }
}

// A new mapping for the pages, readable and writable; a failure of the kernel where there is none.
long open_destination(const os::RemapRequest& request) noexcept {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  const bool is_fixed = (request.flags & MREMAP_FIXED) != 0;
  if (is_fixed && zone_bounds.contains(request.new_address, request.new_bytes)) {
    return map_fixed_in_zone({request.new_address, request.new_bytes, kReadWrite, kFlags | MAP_FIXED, -1, 0});
  }
  if (!is_fixed && !zone.is_closed.load(std::memory_order_relaxed)) {
    const std::uint32_t first = place_in_zone(request.new_bytes, placement::kNoUnit, kReadWrite);
    if (first != placement::kNoUnit) return answer_of(zone.address_of(first));
  }
  void* const address = is_fixed ? request.new_address : nullptr;
  return os::map_call({address, request.new_bytes, kReadWrite, kFlags | (is_fixed ? MAP_FIXED : 0), -1, 0});
}

int set_protection(void* base, std::size_t size_bytes, int protection) noexcept {
  if (protection == kReadWrite) return 0;
  if (!zone_bounds.contains(base, size_bytes)) return os::protect_call(base, size_bytes, protection);
  const int error = os::protect_call(base, size_bytes, protection);
  if (error == 0) {
    zone.table.claim(zone.page_of(base), zone.end_of(base, size_bytes),
                     static_cast<std::uint8_t>(protection & kProtectionBits));
  }
  return error;
}

// Moves plain memory whose pages all have this protection.
long move_plain(const os::RemapRequest& request, int protection) noexcept {
  const std::size_t kept = request.old_bytes < request.new_bytes ? request.old_bytes : request.new_bytes;
  const long moved = open_destination(request);
  if (os::is_failure(moved)) return moved;
  auto* const to = reinterpret_cast<std::byte*>(moved);
  const bool is_readable = (protection & PROT_READ) != 0;
  int error = is_readable ? 0 : os::protect_call(request.address, request.old_bytes, PROT_READ);
  if (error == 0) {
    copy_pages(to, bytes_of(request.address), kept);
    error = set_protection(to, request.new_bytes, protection);
  }
  // Protecting what is whole mappings of its own fails only where the system is out of mappings.
  if (error != 0) return error;
  if ((request.flags & MREMAP_DONTUNMAP) == 0) {
    error = unmap_in_zone(zone.page_of(request.address), zone.end_of(request.address, request.old_bytes));
  } else {
    error = discard_pages(request.address, request.old_bytes, MADV_DONTNEED);
    if (error == 0 && !is_readable) error = os::protect_call(request.address, request.old_bytes, protection);
  }
  return error != 0 ? error : moved;
}

// The kernel moves the pages, by way of a place of its choice, so that no hole is left in the zone for a
// moment, where another thread's mapping might land.
long move_by_kernel(const os::RemapRequest& request) noexcept {
  if (const int error = keep_pages(request.address, request.old_bytes); error != 0) return error;
  const bool is_into_zone =
      (request.flags & MREMAP_FIXED) != 0 && zone_bounds.contains(request.new_address, request.new_bytes);
  if (is_into_zone) {
    if (const int error = keep_pages(request.new_address, request.new_bytes); error != 0) return error;
  }
  const long between = os::remap_call(
      {request.address, request.old_bytes, request.old_bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr});
  if (os::is_failure(between)) return between;
  auto* const there = reinterpret_cast<void*>(between);
  const int flags = MREMAP_MAYMOVE | (request.flags & MREMAP_FIXED);
  const long moved =
      os::remap_call({there, request.old_bytes, request.new_bytes, flags, request.new_address});
  if (os::is_failure(moved)) {
    const long back = os::remap_call(
        {there, request.old_bytes, request.old_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, request.address});
    static_cast<void>(back);  // out of kernel memory: the contents stay where nobody looks
    return moved;
  }
  if (is_into_zone) {
    forget_pages(request.new_address, request.new_bytes);
    if (!zone.is_frozen) {
      zone.table.claim(zone.page_of(request.new_address), zone.end_of(request.new_address, request.new_bytes),
                       kOwn | kReadWrite);
    }
  }
  if ((request.flags & MREMAP_DONTUNMAP) != 0) return moved;
  const int error =
      unmap_in_zone(zone.page_of(request.address), zone.end_of(request.address, request.old_bytes));
  return error != 0 ? error : moved;
}

// In a frozen zone nothing is known of the pages: those that can be read are taken for plain memory.
long move_frozen(const os::RemapRequest& request) noexcept {
  constexpr int kAdvicePopulateRead = 22;
  if ((request.flags & MREMAP_MAYMOVE) == 0) return -ENOMEM;
  const bool is_readable = os::advise_call(request.address, request.old_bytes, kAdvicePopulateRead) == 0;
  return is_readable ? move_plain(request, kReadWrite) : move_by_kernel(request);
}

// Grows a mapping where it is. False: what follows is taken.
bool grow(const os::RemapRequest& request, int protection, long* answer) noexcept {
  const std::uint32_t end = zone.end_of(request.address, request.old_bytes);
  const std::size_t extra = request.new_bytes - request.old_bytes;
  if (!zone.table.extend(end, static_cast<std::uint32_t>(extra / kPageBytes))) return false;
  *answer = answer_of(request.address);
  if (protection == PROT_NONE) return true;
  const int error = os::protect_call(zone.address_of(end), extra, protection);
  if (error == 0) return true;
  *answer = error;
  static_cast<void>(unmap_in_zone(end, end + static_cast<std::uint32_t>(extra / kPageBytes)));
  return true;
}

}  // namespace

long zone_remap(const os::RemapRequest& request) noexcept {
  constexpr int kMoves = MREMAP_FIXED | MREMAP_DONTUNMAP;
  ZoneLock hold;
  const std::uint32_t begin = zone.page_of(request.address);
  const std::uint32_t end = zone.end_of(request.address, request.old_bytes);
  const bool is_resize = (request.flags & kMoves) == 0;
  if (zone.is_frozen && (!is_resize || request.new_bytes > request.old_bytes)) return move_frozen(request);
  const Piece first =
      zone.is_frozen ? Piece{begin, end, begin, true, kReadWrite} : zone.table.piece_at(begin, end);
  if (!first.is_mapped) return -EFAULT;
  if (is_resize && request.new_bytes <= request.old_bytes) {
    const int error = unmap_in_zone(zone.end_of(request.address, request.new_bytes), end);
    return error != 0 ? error : answer_of(request.address);
  }
  // What grows or moves is one mapping of the kernel, where nothing has been done to parts of it.
  for (std::uint32_t at = first.end; at < end;) {
    const Piece piece = zone.table.piece_at(at, end);
    if (!piece.is_mapped || piece.mark != first.mark) return -EFAULT;
    at = piece.end;
  }
  const int protection = first.mark & kProtectionBits;
  long answer = 0;
  if (is_resize && (first.mark & kOwn) == 0 && grow(request, protection, &answer)) return answer;
  if ((request.flags & MREMAP_MAYMOVE) == 0) return -ENOMEM;
  return (first.mark & kOwn) != 0 ? move_by_kernel(request) : move_plain(request, protection);
}

long zone_remap_into(const os::RemapRequest& request) noexcept {
  ZoneLock hold;
  if (const int error = keep_pages(request.new_address, request.new_bytes); error != 0) return error;
  const long moved = os::remap_call(request);
  if (os::is_failure(moved)) return moved;
  forget_pages(request.new_address, request.new_bytes);
  if (!zone.is_frozen) {
    zone.table.claim(zone.page_of(request.new_address), zone.end_of(request.new_address, request.new_bytes),
                     kOwn | kReadWrite);
  }
  return moved;
}

}  // namespace glebe::paging
