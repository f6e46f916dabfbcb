// The way up to the paging tier (namespace glebe::vm).
//
// While paging is on, memory of the chunk space and of the large slots may be missing although it is in use:
// its contents are elsewhere. Whoever gives such memory back, or asks what it holds, goes through these
// functions; with paging off each is one load and a call of the platform. The hooks are set once, when paging
// starts, and cleared never.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "platform/vm.h"

namespace glebe::vm {

struct PagingHooks {
  // Like os::purge and os::decommit; contents elsewhere are dropped unread.
  bool (*purge)(void* base, std::size_t size_bytes);
  bool (*decommit)(void* base, std::size_t size_bytes);
  // Of `count` (at most 64) pages that were just freed: drops what is elsewhere, unread. Returns a mask of
  // the pages that have no memory now and read as zero. Never waits.
  std::uint64_t (*drop_paged_out)(std::byte* first_page, unsigned count);
  // Pages of the range whose contents are elsewhere; a guess without locks.
  unsigned (*paged_out_pages)(const std::byte* first_page, unsigned count);
};
extern constinit std::atomic<const PagingHooks*> paging_hooks;

// Set while the process is above its budget: waits, for a bounded time, until it is not. The caller holds no
// lock.
extern constinit std::atomic<void (*)()> wait_for_room;

[[nodiscard]] inline const PagingHooks* paging() noexcept {
  return paging_hooks.load(std::memory_order_acquire);  // pairs with the release when paging starts
}

// Before memory is taken: lets the paging tier catch up when the process is above its budget.
inline void wait_under_pressure() noexcept {
  if (void (*const wait)() = wait_for_room.load(std::memory_order_relaxed); wait != nullptr) [[unlikely]]
    wait();
}

[[nodiscard]] inline bool purge_memory(void* base, std::size_t size_bytes) noexcept {
  const PagingHooks* hooks = paging();
  return hooks != nullptr ? hooks->purge(base, size_bytes) : os::purge(base, size_bytes);
}
[[nodiscard]] inline bool decommit_memory(void* base, std::size_t size_bytes) noexcept {
  const PagingHooks* hooks = paging();
  return hooks != nullptr ? hooks->decommit(base, size_bytes) : os::decommit(base, size_bytes);
}

}  // namespace glebe::vm
