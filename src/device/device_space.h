// A range of device addresses, reserved once, and the physical chunks that come and go behind it (namespace
// glebe::device).
//
// The range is a row of fine chunks (2 MiB); the chunk table has one entry for each. A mapping is one handle:
// a fine one backs one entry, a coarse one (32 MiB) backs a row of them and costs the driver as much as one
// fine chunk does. Whoever places blocks in the range (DeviceHeap) tells which entries hold live bytes. A
// mapping without any stays mapped: it is cached, oldest first out, and its memory moves elsewhere only when
// it is needed there, or goes back to the device by trim(). So what is freed and allocated again costs no
// call of the driver.
//
// Two locks. table_lock() guards the chunk table and what its owner builds on it; it is held for a moment
// only, never while the driver is called. The growth lock is held through every change of mappings, so that
// these happen one after the other; whoever finds memory that is not mapped yet waits for it. Order: growth,
// then table. Idleness of the device is nothing that this file can see: bytes that are not live are not in
// use, because whoever frees has proved it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "platform/thread.h"
#include "src/base/bits.h"
#include "src/device/chunk_pool.h"
#include "src/device/gpu.h"
#include "src/paging/budget.h"
#include "src/paging/growing_memory.h"

namespace glebe::device {

struct DeviceSpaceOptions {
  std::uint64_t reserve_bytes = 0;       // rounded up to coarse chunks; 0: four times the device's memory
  std::size_t fine_bytes = 2 * kMiB;     // a power of two, a multiple of the device's granule
  std::size_t coarse_bytes = 32 * kMiB;  // a power of two, fine_bytes (no coarse chunks) to 1024 of them
  paging::Budget* budget = nullptr;      // charged for every chunk that exists; outlives the space
  paging::BudgetTag budget_tag = 0;      // of that budget
  std::uint64_t headroom_bytes = 0;      // of the device, which new chunks leave to others
};

// What a budget lacks for one request, and what was done about it: see DeviceSpace::reclaim().
struct Shortage {
  std::uint64_t missing_bytes = 0;  // 0: the budget is not what a request failed for
  unsigned asked = 0;               // how often
  bool is_over = false;             // nothing more can be freed
};

// Entries [first, end) of the chunk table.
struct ChunkRange {
  std::uint32_t first = 0, end = 0;
  [[nodiscard]] constexpr bool empty() const noexcept { return first >= end; }
};
// Bytes [offset_bytes, offset_bytes + size_bytes) of the space.
struct ByteRange {
  std::uint64_t offset_bytes = 0, size_bytes = 0;
};

enum class ChunkKind : std::uint8_t { fine, coarse };
enum class Leave : std::uint8_t { none, leaving, kept };  // taken out of the table; kept by the driver

struct ChunkEntry {
  cuda::MemoryHandle handle;     // of the mapping, in its first entry
  std::uint32_t live_bytes;      // of blocks
  std::uint32_t live_blocks;     // that have bytes here
  std::uint32_t pins;            // the backing must not change, blocks or not
  std::uint32_t generation;      // rises when the backing changes
  std::uint32_t previous, next;  // links of the cached mappings as entry + 1, in the first entry
  std::uint32_t busy;            // entries of the mapping with blocks or pins, in the first entry
  std::uint16_t part;            // entries of the mapping in front of this one
  ChunkKind kind;                // of the mapping
  bool is_cached;                // in the list of its kind, in the first entry
  bool is_alias;                 // the handle belongs to a mapping elsewhere, in the first entry
  Leave leave;                   // in the first entry; of the growth lock
};

struct DeviceSpaceStats {
  std::uint64_t reserved_bytes = 0;
  std::uint64_t mapped_bytes = 0, peak_mapped_bytes = 0;
  std::uint64_t cached_bytes = 0;  // of mappings without live bytes and pins: part of the mapped bytes
  std::uint64_t empty_bytes = 0;   // of chunks that are mapped without: the cached ones, and parts of others
  std::uint64_t idle_bytes = 0;    // of chunks that are mapped nowhere
  std::uint64_t held_bytes = 0;    // of the device: mapped and idle
  std::uint64_t fine_chunks = 0, coarse_chunks = 0;  // that exist
  // Calls of the driver, by kind, those that failed too for the first three.
  std::uint64_t maps = 0, set_accesses = 0, unmaps = 0, creates = 0, releases = 0;
  std::uint64_t chunks_remapped = 0;  // handles that were cached somewhere and went on to be used elsewhere
};

class DeviceSpace {
 public:
  constexpr DeviceSpace() noexcept = default;
  ~DeviceSpace() { close(); }
  DeviceSpace(const DeviceSpace&) = delete;
  DeviceSpace& operator=(const DeviceSpace&) = delete;

  // `gpu` outlives the space. bad_argument, out_of_addresses, no_host_memory; a failed open leaves nothing.
  Outcome open(Gpu& gpu, const DeviceSpaceOptions& options) noexcept;
  // Unmaps and releases everything, live or not. May be called twice.
  void close() noexcept;

  [[nodiscard]] Gpu& gpu() const noexcept { return *gpu_; }
  [[nodiscard]] bool is_open() const noexcept { return gpu_ != nullptr; }
  [[nodiscard]] cuda::DevicePointer base() const noexcept { return base_; }  // a multiple of coarse_bytes
  [[nodiscard]] std::uint64_t reserved_bytes() const noexcept { return reserved_bytes_; }
  [[nodiscard]] std::size_t chunk_bytes() const noexcept { return options_.fine_bytes; }
  [[nodiscard]] std::uint32_t chunk_count() const noexcept { return chunk_count_; }
  [[nodiscard]] std::uint32_t coarse_chunks() const noexcept { return coarse_chunks_; }  // fine ones in one
  [[nodiscard]] ChunkRange chunks_of(ByteRange bytes) const noexcept {
    return {static_cast<std::uint32_t>(bytes.offset_bytes >> shift_),
            static_cast<std::uint32_t>((bytes.offset_bytes + bytes.size_bytes - 1) >> shift_) + 1};
  }
  [[nodiscard]] os::Mutex& table_lock() noexcept { return table_lock_; }

  // With table_lock() held.

  // The bytes are live from now on: a block, or more bytes of one (`blocks` 1 or 0). Nothing is mapped by it.
  void add_live(ByteRange bytes, std::uint32_t blocks) noexcept;
  // The opposite; answers with the entries that hold nothing any more.
  ChunkRange remove_live(ByteRange bytes, std::uint32_t blocks) noexcept;
  // The backing of entries with blocks must not change, or may again.
  void pin(ChunkRange chunks) noexcept;
  void unpin(ChunkRange chunks) noexcept;
  [[nodiscard]] bool is_mapped(ChunkRange chunks) const noexcept;
  [[nodiscard]] bool is_empty(std::uint32_t chunk) const noexcept {
    return (empty_[chunk / 64] >> (chunk % 64) & 1) != 0;
  }
  // The lowest entry of [from, end) that is empty, that is not, that is mapped; `end` when there is none.
  [[nodiscard]] std::uint32_t next_empty(std::uint32_t from, std::uint32_t end) const noexcept;
  [[nodiscard]] std::uint32_t next_busy(std::uint32_t from, std::uint32_t end) const noexcept;
  [[nodiscard]] std::uint32_t next_mapped(std::uint32_t from, std::uint32_t end) const noexcept;
  [[nodiscard]] std::uint32_t next_unmapped(std::uint32_t from, std::uint32_t end) const noexcept;
  [[nodiscard]] std::uint32_t unmapped_count(ChunkRange chunks) const noexcept;
  [[nodiscard]] const ChunkEntry& entry(std::uint32_t chunk) const noexcept { return entries_[chunk]; }
  // Whether table, bitmaps, lists and counters agree. Walks everything.
  [[nodiscard]] bool validate() const noexcept;

  // Without any lock held; the callbacks of the budget are called so, too.

  // Maps what is not mapped of entries that all hold live bytes of the caller's. All or nothing: after a
  // failure what was not mapped is not mapped. over_budget, out_of_memory, device_lost, failed. Chunks that
  // were cached elsewhere may be idle then. The budget is not asked to reclaim: `shortage` tells of how much.
  Outcome back(ChunkRange chunks, Shortage* shortage) noexcept;
  // Asks the budget to reclaim what a request lacks. True: try again; at most kReclaimRounds times.
  [[nodiscard]] bool reclaim(Shortage* shortage) noexcept;
  // Maps the memory behind `from`, whole mappings that hold nothing but live bytes of the caller's, at as
  // many entries from `to` on as well, which hold live bytes of his and nobody else's. From then on it
  // belongs to the new place, and `from` is an alias. in_use: what is mapped there is not there alone; as
  // back().
  Outcome alias(ChunkRange from, std::uint32_t to) noexcept;
  // Unmaps an alias. failed, device_lost: it stays, or a part of it does; may be tried again.
  Outcome drop_alias(ChunkRange from) noexcept;
  // Maps fine chunks in advance until `cached_bytes` are cached. Keeps what it made when it fails.
  Outcome prewarm(std::uint64_t cached_bytes) noexcept;
  // Gives chunks that are idle or cached back to the device, the oldest first, until at most `keep_bytes` are
  // left of them; answers with the bytes given back.
  std::uint64_t trim(std::uint64_t keep_bytes) noexcept;
  [[nodiscard]] DeviceSpaceStats stats() noexcept;

 private:
  struct Cached {  // mappings of one kind without live bytes, oldest first; links are entry + 1
    std::uint32_t oldest = 0, newest = 0;
    std::uint32_t count = 0;
  };
  struct Need {  // handles that a range wants
    std::uint32_t fine = 0, coarse = 0;
  };
  enum class Moves : bool { allowed, none };  // whether cached chunks may be used; then coarse ones are too

  [[nodiscard]] Outcome open_table() noexcept;
  [[nodiscard]] Outcome open_pools() noexcept;
  [[nodiscard]] std::uint32_t entries_in(ChunkKind kind) const noexcept {
    return kind == ChunkKind::coarse ? coarse_chunks_ : 1;
  }
  [[nodiscard]] std::uint64_t bytes_in(ChunkKind kind) const noexcept {
    return std::uint64_t{entries_in(kind)} << shift_;
  }
  [[nodiscard]] cuda::DevicePointer address_of(std::uint32_t chunk) const noexcept {
    return base_ + (std::uint64_t{chunk} << shift_);
  }
  [[nodiscard]] ChunkPool& pool_of(ChunkKind kind) noexcept {
    return kind == ChunkKind::coarse ? coarse_pool_ : fine_pool_;
  }
  [[nodiscard]] Cached& cached_of(ChunkKind kind) noexcept { return cached_[static_cast<unsigned>(kind)]; }
  [[nodiscard]] bool is_mapped_bit(std::uint32_t chunk) const noexcept {
    return (mapped_[chunk / 64] >> (chunk % 64) & 1) != 0;
  }

  // With table_lock() held.
  void set_busy(std::uint32_t chunk) noexcept;
  void set_empty(std::uint32_t chunk) noexcept;
  void join_cached(std::uint32_t first) noexcept;
  void leave_cached(std::uint32_t first) noexcept;
  void set_mapped(std::uint32_t first, bool is_mapped) noexcept;
  [[nodiscard]] bool validate_lists() const noexcept;
  [[nodiscard]] std::uint32_t next_planned(std::uint32_t from, std::uint32_t end) const noexcept;
  [[nodiscard]] std::uint32_t next_unplanned(std::uint32_t from, std::uint32_t end) const noexcept;

  // With the growth lock held; the table lock is taken inside.
  Outcome back_held(ChunkRange chunks, Moves moves) noexcept;
  [[nodiscard]] Need plan(ChunkRange chunks, Moves moves) noexcept;
  [[nodiscard]] bool has_room_for(const Need& need, Moves moves) noexcept;
  void note_missing(std::uint64_t size_bytes) noexcept;
  Outcome prewarm_held(std::uint64_t cached_bytes) noexcept;
  Outcome collect(ChunkRange chunks, Moves moves) noexcept;
  Outcome take_new(ChunkKind kind, cuda::MemoryHandle* handle) noexcept;
  Outcome take_fine(cuda::MemoryHandle* handle, Moves moves) noexcept;
  void assign(std::uint32_t first, ChunkKind kind, cuda::MemoryHandle handle) noexcept;
  void give_collected(ChunkRange chunks) noexcept;
  Outcome map_collected(ChunkRange chunks) noexcept;
  Outcome allow_access(ChunkRange chunks) noexcept;
  void unmap_collected(ChunkRange chunks) noexcept;
  void publish(ChunkRange chunks) noexcept;
  Outcome make_bare(ChunkRange chunks) noexcept;
  std::uint32_t gather(ChunkKind kind, std::uint32_t count) noexcept;
  std::uint32_t evict(ChunkKind kind, std::uint32_t count) noexcept;
  [[nodiscard]] ChunkRange row_of_leaving(std::uint32_t first) noexcept;
  [[nodiscard]] bool unmap_call(ChunkRange chunks) noexcept;
  [[nodiscard]] bool unmap_one(ChunkRange mapping) noexcept;
  void unmap_row(ChunkRange chunks) noexcept;
  void give_row(ChunkRange row) noexcept;
  std::uint64_t trim_kind(ChunkKind kind, std::uint64_t keep_bytes) noexcept;
  std::uint32_t unmap_leaving(ChunkRange row) noexcept;
  [[nodiscard]] std::uint64_t idle_bytes() noexcept;
  [[nodiscard]] std::uint64_t empty_count() const noexcept;
  void tell_excess() noexcept;

  Gpu* gpu_ = nullptr;
  DeviceSpaceOptions options_;
  cuda::DevicePointer base_ = 0;
  std::uint64_t reserved_bytes_ = 0;
  unsigned shift_ = 0;
  std::uint32_t chunk_count_ = 0, coarse_chunks_ = 1;
  ChunkPool fine_pool_, coarse_pool_;
  paging::GrowingMemory table_;

  os::Mutex growth_lock_, table_lock_;
  // Under the table lock; bits of mapped_ change only while the growth lock is held too, and so do handle,
  // part and kind of an entry. Those of an entry that is not mapped belong to the holder of the growth lock.
  ChunkEntry* entries_ = nullptr;
  std::uint64_t* empty_ = nullptr;
  std::uint64_t* mapped_ = nullptr;
  Cached cached_[2];
  std::uint64_t mapped_bytes_ = 0, peak_mapped_bytes_ = 0, cached_bytes_ = 0;
  std::uint64_t* planned_ = nullptr;  // growth lock: entries whose mapping is being made
  std::uint64_t missing_bytes_ = 0;   // growth lock: what the budget lacked for the last request
  std::atomic<std::uint64_t> maps_{0}, set_accesses_{0}, unmaps_{0}, remapped_{0};
};

}  // namespace glebe::device
