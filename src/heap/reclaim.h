// Getting address space and memory when there is none left, and giving it back in time (namespace
// glebe::heap).
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/vm/chunk.h"

namespace glebe::heap {

// vm::acquire_chunks, and once more after every part of the heap gave back what it does not use. May be
// called with the lock of the small pool held, never with a medium shard's or the large heap's.
[[nodiscard]] vm::ChunkRecord* obtain_chunks(std::uint32_t count, vm::ChunkKind kind,
                                             std::uint8_t shard) noexcept;

// Gives back everything that is free in all parts of the heap, now: dirty pages, wholly free chunks, idle
// slots. Returns bytes. Passes over parts whose lock is held by this thread.
std::size_t release_free_memory() noexcept;

// When memory is about to be taken that nobody touched before and the footprint is about to exceed its peak:
// first purges dirty free memory elsewhere if there is more of it than the limit (16 MiB or a quarter of the
// footprint), so that a program that moves from one size to another does not pay for both. Below the peak
// nothing is gained by purging early: that is maintain()'s job. Called without heap locks, or with the small
// pool's.
void before_growth(std::size_t size_bytes) noexcept;

// Purges dirty memory whatever its age, in at most `chunks` chunks per part of the heap.
void purge_dirty(unsigned chunks) noexcept;

// Purges what is due. Called from slow paths with the coarse clock, at most every kMaintainIntervalMs; cheap
// otherwise.
void maintain(std::uint64_t now_ms) noexcept;
inline constexpr std::uint32_t kMaintainIntervalMs = 50;

// How long free memory keeps its pages (the option purge_delay_ms).
extern constinit std::uint32_t purge_delay_ms;

}  // namespace glebe::heap
