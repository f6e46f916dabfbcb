// The large heap: blocks above 32 MiB, each alone in an address slot of 2^k bytes (namespace glebe::heap).
//
// Slots lie in the large sub-ranges of the primary region (vm::LargeSpace), placed by placement::slot; one
// 64-byte record per slot outside the range. Only what was asked for is committed; growth up to the slot's
// end commits more in place and never copies; beyond it pages are moved to a longer slot (os::move_pages). A
// freed slot keeps its pages for a while in an idle cache (at most max(64 MiB, 1/8 of live large bytes);
// blocks above 1 GiB never) and is decommitted when it is due, so that alloc/free loops do not fault the same
// pages again. Where the region has no sub-ranges, or all fitting slots are in use, a block gets a
// reservation of its own, found through a sorted table. One lock; it is held across commit and decommit of
// the slot's bookkeeping but not across long purges.
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/heap/medium.h"

namespace glebe::heap {

// Like medium_allocate, for any size up to PTRDIFF_MAX and any alignment that is a power of two >= 4096 (at
// least 1 GiB must work; the slot is chosen so that its start is aligned). Sizes are rounded to os pages. A
// block that is small but needs an alignment above 32 MiB comes here too. A block served from the idle cache
// is not zero
// (*is_zero = false) unless its pages are fresh.
[[nodiscard]] void* large_allocate(std::size_t size_bytes, std::size_t align_bytes, std::uint16_t owner,
                                   bool* is_zero) noexcept;

// Whether the address lies in the large sub-ranges or in a reservation of a large block. Any pointer value.
// Cheap for addresses outside.
[[nodiscard]] bool large_contains(const void* address) noexcept;

[[nodiscard]] FreeStatus large_free(void* address) noexcept;
[[nodiscard]] std::size_t large_usable(const void* address) noexcept;  // 0 when no block starts here
[[nodiscard]] std::uint16_t large_owner(const void* address) noexcept;

// In place: grows up to the slot, shrinks (tail decommitted when at least 64 KiB). False: unchanged.
[[nodiscard]] bool large_resize(void* address, std::size_t new_size_bytes) noexcept;

// Moves the block to a slot that holds new_size_bytes without copying; returns its new address, or nullptr
// when the system cannot move pages: then the block is unchanged and the caller copies.
[[nodiscard]] void* large_move(void* address, std::size_t new_size_bytes) noexcept;

// Decommits idle slots that have been free for delay_ms (0: all). Returns bytes given back.
std::size_t large_purge(std::uint64_t now_ms, std::uint32_t delay_ms) noexcept;
std::size_t large_trim() noexcept;  // all of them; may be called with other heap locks held
void large_free_owner(std::uint16_t owner) noexcept;

// See medium_in_child(): when the lock was held by another thread, free slots of unknown state are never used
// again.
void large_in_child() noexcept;

struct LargeStats {
  std::size_t live_bytes, live_blocks;  // committed bytes of live blocks
  std::size_t idle_bytes;               // in the idle cache (counted as dirty in the ledger)
  std::size_t allocations, frees, grown_in_place, moved;
};
[[nodiscard]] LargeStats large_stats() noexcept;
void large_walk(void (*visit)(void* context, void* address, std::size_t size_bytes, std::uint16_t owner),
                void* context) noexcept;
[[nodiscard]] bool large_validate() noexcept;

}  // namespace glebe::heap
