#include "src/paging/mapped_pages.h"

#include <sys/mman.h>

#include <bit>
#include <cerrno>

#include "platform/memory_calls.h"
#include "src/paging/unit_lock.h"

namespace glebe::paging {
namespace {

constexpr int kAdvicePopulateRead = 22;

// Set with the first page that is kept: until then nobody looks for kept pages.
constinit std::atomic<bool> is_any_kept{false};

// Lock of the groups held.
void let_go(std::byte* base, std::size_t size_bytes) noexcept {
  if (!is_any_kept.load(std::memory_order_relaxed)) return;
  const std::uint64_t first = pager.table.page_of(base), end = first + size_bytes / kPageBytes;
  for (std::uint64_t page = first; page < end; ++page) {
    const PageWord word = pager.table.get(page);
    if (word.is(PageWord::kKept)) pager.table.set(page, word.without(PageWord::kKept));
  }
}

// Keeps the pages of one group that are not out. Returns a mask of those that are, from `begin` on.
std::uint32_t keep_in_group(std::uint64_t begin, std::uint64_t end) noexcept {
  const os::SignalsBlocked no_signals;
  GroupLock hold(pager.table, begin / kGroupPages);
  std::uint32_t out = 0;
  for (std::uint64_t page = begin; page < end; ++page) {
    const PageWord word = pager.table.get(page);
    if (word.is_out()) {
      out |= 1u << (page - begin);
    } else {
      pager.table.set(page, word.with(PageWord::kKept));
    }
  }
  return out;
}

// Touches a page by way of the kernel, so that one without access is an error and not a signal.
int bring_back(std::byte* page) noexcept {
  if (os::advise_call(page, kPageBytes, kAdvicePopulateRead) == 0) return 0;
  if (const int error = os::protect_call(page, kPageBytes, PROT_READ); error != 0) return error;
  const int error = os::advise_call(page, kPageBytes, kAdvicePopulateRead);
  const int closed = os::protect_call(page, kPageBytes, PROT_NONE);
  return error != 0 ? error : closed;
}

int bring_back(std::uint64_t first_page, std::uint32_t mask) noexcept {
  for (; mask != 0; mask &= mask - 1) {
    const auto at = first_page + static_cast<unsigned>(std::countr_zero(mask));
    if (const int error = bring_back(pager.table.address_of(at)); error != 0) return error;
  }
  return 0;
}

}  // namespace

bool is_pageable(const void* base, std::size_t size_bytes) noexcept {
  const auto* const last = static_cast<const std::byte*>(base) + size_bytes - 1;
  return pager.table.contains(base) && pager.table.contains(last);
}

int replace_pages(void* base, std::size_t size_bytes, int protection, int flags) noexcept {
  return for_each_unit(base, size_bytes, [=](UnitRecord& record, std::byte* at, std::size_t bytes) {
    note_replaced(record);
    let_go(at, bytes);
    const long mapped = os::map_call({at, bytes, protection, flags | MAP_FIXED, -1, 0});
    return os::is_failure(mapped) ? static_cast<int>(mapped) : 0;
  });
}

int discard_pages(void* base, std::size_t size_bytes, int advice) noexcept {
  return for_each_unit(base, size_bytes, [=](UnitRecord&, std::byte* at, std::size_t bytes) {
    return os::advise_call(at, bytes, advice);
  });
}

void forget_pages(void* base, std::size_t size_bytes) noexcept {
  is_any_kept.store(true, std::memory_order_relaxed);
  static_cast<void>(for_each_unit(base, size_bytes, [](UnitRecord& record, std::byte* at, std::size_t bytes) {
    note_replaced(record);
    const std::uint64_t first = pager.table.page_of(at), end = first + bytes / kPageBytes;
    for (std::uint64_t page = first; page < end; ++page)
      pager.table.set(page, pager.table.get(page).with(PageWord::kKept));
    return 0;
  }));
}

int keep_pages(void* base, std::size_t size_bytes) noexcept {
  is_any_kept.store(true, std::memory_order_relaxed);
  const std::uint64_t first = pager.table.page_of(base), end = first + size_bytes / kPageBytes;
  constexpr unsigned kTries = 1000;  // a page that came back is not the next to go
  for (std::uint64_t page = first; page < end;) {
    const std::uint64_t group_end = (page / kGroupPages + 1) * kGroupPages;
    const std::uint64_t stop = group_end < end ? group_end : end;
    std::uint32_t out = 0;
    for (unsigned tries = 0; (out = keep_in_group(page, stop)) != 0; ++tries) {
      if (const int error = bring_back(page, out); error != 0) return error;
      if (tries == kTries) return -EAGAIN;
    }
    page = stop;
  }
  return 0;
}

}  // namespace glebe::paging
