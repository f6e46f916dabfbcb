// Chunks: 2 MiB pieces of the chunk space, given to the small pool and to the medium shards (namespace
// glebe::vm).
//
// A chunk belongs to one part of the heap at a time, and that part's lock guards its record. Memory in a
// chunk is committed by a frontier (a prefix of the chunk), so that small programs stay small and nothing is
// committed that was not asked for. One bit per page says whether the page may hold data: a page whose bit is
// clear reads as zero and has no physical memory, which is what calloc and the purger want to know.
#pragma once

#include "src/vm/region.h"

namespace glebe::vm {

enum class ChunkKind : std::uint8_t { free, small, medium };

struct alignas(64) ChunkRecord {
  std::uint64_t touched[kPagesPerChunk / 64];  // page may hold data; cleared by purge and decommit

  std::byte* base;    // address of the chunk
  ChunkRecord* next;  // in the DirtyList of the owner
  ChunkRecord* previous;
  std::uint64_t used[2];          // small pool: granules handed out; medium heap: its range
  std::uint32_t committed_bytes;  // prefix of the chunk that is readable and writable
  std::uint32_t dirty_since_ms;   // coarse clock, when the chunk joined the dirty list (wraps after 49 days)
  std::uint16_t dirty_pages;      // pages that are free and touched
  std::uint16_t used_pages;       // pages handed out
  ChunkKind kind;
  std::uint8_t shard;    // medium: which shard owns it
  bool huge;             // huge pages were asked for
  bool active;           // something was placed or freed here since dirty_since_ms
  bool frozen;           // in a forked child: its bookkeeping is unknown, nothing is placed here any more
  std::uint8_t chances;  // delays granted because the chunk was active
  std::uint8_t fit;      // small pool: what still fits, see granule_pool.h
};
static_assert(sizeof(ChunkRecord) == 128);

// Takes `count` adjacent chunks for `kind`; their records are reset, nothing is committed (committed_bytes
// may be larger than 0 where memory was kept committed). Returns the record of the first (records of a run
// are adjacent), or nullptr when no address space is left. Thread-safe.
[[nodiscard]] ChunkRecord* acquire_chunks(std::uint32_t count, ChunkKind kind, std::uint8_t shard) noexcept;

// Gives chunks back, decommitted. Nothing of them is in use, none is on a dirty list. Where the system
// refuses to decommit, the memory is purged and stays committed for the next owner. Thread-safe.
void release_chunks(ChunkRecord* first, std::uint32_t count) noexcept;

// The record of the chunk that holds an address of a covered chunk.
[[nodiscard]] inline ChunkRecord* chunk_of(const Region& region, const void* address) noexcept {
  const std::size_t offset =
      static_cast<std::size_t>(static_cast<const std::byte*>(address) - region.chunk_base);
  return reinterpret_cast<ChunkRecord*>(region.tables[kChunkRecords].start) + offset / kChunkBytes;
}

// The functions below need the lock of the chunk's owner.

// Makes bytes [0, end_bytes) of the chunk committed, in steps that grow with the heap. False: out of memory.
[[nodiscard]] bool commit_prefix(ChunkRecord& chunk, std::uint32_t end_bytes) noexcept;

// Commits every chunk that [address, address + size_bytes) overlaps far enough. The chunks are one run.
[[nodiscard]] bool commit_range(const Region& region, const void* address, std::size_t size_bytes) noexcept;

// Pages [first, first + count) of the chunk change from free to handed out, and back. take_pages marks them
// touched and takes them off the dirty count; it returns true when none of them could hold data before (they
// read as zero).
bool take_pages(ChunkRecord& chunk, unsigned first, unsigned count) noexcept;
void give_pages(ChunkRecord& chunk, unsigned first, unsigned count) noexcept;  // touched and free: dirty

// Gives back the physical memory of the free pages [first, first + count): clears their touched bits and the
// dirty count. When the system refuses, the pages stay dirty and false is returned.
bool purge_pages(ChunkRecord& chunk, unsigned first, unsigned count) noexcept;

// Gives back the memory of the slab records and bitmaps of a chunk in which nothing is used: they are written
// anew when slabs are made in it.
void purge_notes(const ChunkRecord& chunk) noexcept;

// Pages in [first, first + count) whose touched bit is set.
[[nodiscard]] unsigned touched_pages(const ChunkRecord& chunk, unsigned first, unsigned count) noexcept;

// Asks for huge pages when the heap is large enough for them to cost little (docs/design.md, "Huge pages").
// For a chunk that was just acquired, before anything in it is touched.
void consider_huge(ChunkRecord& chunk) noexcept;

// What the options set: see docs/options.md.
struct ChunkPolicy {
  std::size_t huge_minimum_bytes = 32 * kMiB;  // committed heap from which chunks get huge pages
  bool huge_pages = true;
};
extern constinit ChunkPolicy chunk_policy;

// Chunks of one owner that hold dirty pages, oldest first. Guarded by the owner's lock.
class DirtyList {
 public:
  // Notes that the chunk has dirty pages (or none any more) and that it was active.
  void update(ChunkRecord& chunk, std::uint32_t now_ms) noexcept;
  void remove(ChunkRecord& chunk) noexcept;
  // The oldest chunk that has been dirty for delay_ms, taken off the list; nullptr when none is due. A chunk
  // that was active in the meantime and is in use is given kSecondChances more delays.
  [[nodiscard]] ChunkRecord* pop_due(std::uint32_t now_ms, std::uint32_t delay_ms) noexcept;
  [[nodiscard]] ChunkRecord* pop_any() noexcept;
  [[nodiscard]] bool is_empty() const noexcept { return head_ == nullptr; }
  void forget_all() noexcept { head_ = tail_ = nullptr; }  // in a forked child, see heap/fork.h

 private:
  void append(ChunkRecord& chunk) noexcept;
  ChunkRecord* head_ = nullptr;
  ChunkRecord* tail_ = nullptr;
};

}  // namespace glebe::vm
