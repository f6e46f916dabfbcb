// The medium heap: blocks above 32 KiB up to 32 MiB as runs of os pages (namespace glebe::heap).
//
// Ranges of up to 16 chunks (vm/chunk.h) belong to shards; each shard has one placement::Tlsf engine per
// region over the region's page tags, a lock, and a DirtyList. One shard serves until allocating threads are
// seen to wait for each other; then there are up to one per CPU, and a thread uses that of its CPU and tries
// the others when its own has no room without growing. Directory entries of all granules of a medium chunk
// are vm::kEntryMedium, so a medium pointer is told by one load; the tags say whether it is the start of a
// block. A range is opened chunk by chunk, so that memory which has pages is placed before fresh memory, and
// a run is committed (vm::commit_range) when it is handed out. Pages given back are dirty until purged; a
// range that is wholly free is released when it is due for purging, and on trim. Locks: one per shard, taken
// after nothing and before the locks of vm. Chunks are acquired without holding it, through obtain_chunks()
// (heap/reclaim.h). Purging holds it, for a bounded number of chunks at a time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace glebe::heap {

inline constexpr std::size_t kMediumMaxBytes = std::size_t{32} << 20;

// What freeing a pointer found. The caller reports everything but ok as misuse.
enum class FreeStatus : std::uint8_t { ok, double_free, interior, foreign };

// A block of at least size_bytes (1 .. kMediumMaxBytes), aligned to align_bytes (a power of two >= 4096; up
// to kMediumMaxBytes; larger alignments are large blocks). nullptr when the system has no memory. *is_zero
// tells whether every byte reads as zero without having been touched. `owner` is the id of a first-class
// heap, 0 for none.
[[nodiscard]] void* medium_allocate(std::size_t size_bytes, std::size_t align_bytes, std::uint16_t owner,
                                    bool* is_zero) noexcept;

// The pointer's directory entry is kEntryMedium; anything else about it may be wrong.
[[nodiscard]] FreeStatus medium_free(void* address) noexcept;

// Usable bytes of the block that starts here (a multiple of 4096), 0 when no block starts here.
[[nodiscard]] std::size_t medium_usable(const void* address) noexcept;
[[nodiscard]] std::uint16_t medium_owner(const void* address) noexcept;

// Grows or shrinks the block where it is. False: no room there, the block is unchanged. Shrinking gives the
// tail back when it is at least 64 KiB or a quarter of the block; otherwise it succeeds without a change.
[[nodiscard]] bool medium_resize(void* address, std::size_t new_size_bytes) noexcept;

// Purges free pages that have been dirty for delay_ms (0: all), at most `budget` chunks per shard; returns
// bytes purged.
std::size_t medium_purge(std::uint64_t now_ms, std::uint32_t delay_ms, unsigned budget) noexcept;

// Purges everything and releases ranges that are wholly free. Returns the bytes decommitted or purged. May be
// called with other heap locks held: shards whose lock is taken are passed over.
std::size_t medium_trim() noexcept;

// Frees every block of a first-class heap. Cost: one walk over all runs.
void medium_free_owner(std::uint16_t owner) noexcept;

// In a forked child, while it has one thread: shards whose lock is held by a thread that does not exist here
// are frozen: their lock is reset, what is free in their ranges is forgotten (never placed again), blocks in
// them stay valid, and freeing such a block only marks it. A lock held by the forking thread itself is left
// alone.
void medium_in_child() noexcept;

struct MediumStats {
  std::size_t live_bytes, live_blocks;  // handed out
  std::size_t free_bytes, dirty_bytes;  // free runs; of these touched
  std::size_t largest_free_bytes, range_bytes;
  std::size_t allocations, frees;  // operations since the start
};
[[nodiscard]] MediumStats medium_stats() noexcept;

// Calls visit(context, address, size_bytes) for every live block, shard by shard under its lock: the visitor
// does not allocate. validate: engines consistent, counters equal to a recount, page bitmaps agree with the
// tags.
void medium_walk(void (*visit)(void* context, void* address, std::size_t size_bytes, std::uint16_t owner),
                 void* context) noexcept;
[[nodiscard]] bool medium_validate() noexcept;

}  // namespace glebe::heap
