// Device memory behind stable addresses of which only a part is on the device at a time (namespace
// glebe::device): what does not fit is in pinned host memory, and behind that in page files.
//
// An allocation is a run of chunks inside one reservation; its address never changes. Before work on the
// device uses allocations it takes a lease on them: acquire() brings every chunk to the device, or nothing,
// and lets the stream wait for the copies; release() notes how far the stream has come, and no chunk leaves
// before that point was passed. Touching an address without a lease can fault, and a fault on the device ends
// the context: that is why leases exist.
//
// A chunk is clean while a copy of it on the host or in the file is valid: only read leases since it came.
// Clean chunks leave without a copy. A lease that discards says that everything will be overwritten, so
// nothing is fetched.
//
// Calls that fail leave every chunk where it was before: what had left is fetched back and what had come
// leaves again. If the driver refuses that too, chunks stay where their contents are; nothing is ever lost.
// What was done on the host to make room stays done: chunks that went to the file, second copies given up.
//
// Thread-safe. A lease on resident chunks takes one short lock. Everything that moves is done by the calling
// thread under a second lock, the mover's; copies go on in streams of the heap after a call returned. Streams
// that are being captured take no part (unsupported): acquire before the capture begins. See docs/design.md,
// "GPU".
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "platform/thread.h"
#include "src/base/text.h"
#include "src/device/chunk_pool.h"
#include "src/device/event_pool.h"
#include "src/device/mover.h"
#include "src/device/residency_file.h"
#include "src/device/residency_marks.h"
#include "src/device/residency_state.h"
#include "src/device/residency_victims.h"
#include "src/placement/tlsf.h"

namespace glebe::device {

enum class Access : std::uint8_t {
  read,
  write,    // read and write
  discard,  // everything will be overwritten before it is read: chunks that lie wholly inside come unfilled
};

// A part of an allocation.
struct ChunkUse {
  cuda::DevicePointer address = 0;
  std::uint64_t size_bytes = 0;  // 0: to the end of the allocation
  Access access = Access::read;
};

struct Lease {
  std::uint32_t number = 0;  // 0: none
  std::uint32_t generation = 0;
};

// Why a call found no room, as of that moment.
struct Shortfall {
  std::uint64_t needed_bytes = 0;  // that the call wants on the device
  std::uint64_t pinned_bytes = 0;  // of others, that cannot leave
  std::uint64_t budget_bytes = 0;
  std::uint64_t host_bytes = 0, host_free_bytes = 0;  // of the host tier

  // "96.0 MiB needed, 8.0 MiB pinned by others, of a budget of 64.0 MiB; ...".
  void describe(Text& text) const noexcept;
};

// A chunk leaves the device or comes to it. Told before and after, with the heap's mover lock held: the
// callback must not call the heap. `generation` counts the changes of the memory behind the address.
struct MoveNote {
  cuda::DevicePointer address;
  std::uint64_t size_bytes;
  std::uint32_t generation;
  bool is_leaving;
  bool is_done;  // false: it is about to happen, and may still fail
};

struct ResidencyOptions {
  // Chunks of the device; its chunk_bytes are the unit of everything here. Outlives the heap, and may be
  // shared: what other heaps leave idle in it is used.
  ChunkPool* pool = nullptr;
  std::uint64_t address_bytes = 0;  // that can be allocated; a multiple of the chunk
  std::uint64_t budget_bytes = 0;   // on the device at most
  std::uint64_t host_bytes = 0;     // pinned slots, at least one chunk
  const char* directory = nullptr;  // of the page files; nullptr: none
  std::uint64_t disk_bytes_max = UINT64_MAX;
  unsigned in_flight = 3;  // chunks under way in each direction, 1 .. kInFlightMax
  VictimOrder order = VictimOrder::lru;
  void (*on_move)(void* context, const MoveNote& note) = nullptr;
  void* context = nullptr;
};

enum class StallCause : std::uint8_t {
  copy_out,  // until victims were copied to the host
  use,       // until streams had passed their last use of a chunk that leaves
  copy_in,   // until a slot or a chunk was free of a copy to the device
  disk_read,
  disk_write,
  mover,    // until another thread had moved its chunks
  streams,  // more streams used a chunk than it can remember
};
inline constexpr unsigned kStallCauses = 7;

struct ResidencyStats {
  std::uint64_t chunks[kChunkStates] = {};  // by ChunkState; absent ones are not counted
  std::uint64_t chunk_bytes = 0, budget_bytes = 0;
  std::uint64_t pinned_chunks = 0;  // leased, exported or both
  std::uint64_t resident_peak = 0;  // resident chunks
  std::uint64_t slots = 0, used_slots = 0, file_chunks = 0;
  std::uint64_t leases = 0, live_leases = 0, hits = 0;  // hits: everything was there
  std::uint64_t over_budget = 0;                        // leases refused
  std::uint64_t evictions_dirty = 0, evictions_clean = 0, evictions_blank = 0;
  std::uint64_t fetches_host = 0, fetches_disk = 0, fetches_blank = 0, fetches_discard = 0;
  std::uint64_t spills = 0, dropped_copies = 0;  // host to disk; copies of the host given up for their slot
  std::uint64_t undone = 0, undo_failures = 0;   // calls; chunks that stayed elsewhere
  std::uint64_t disk_bytes_written = 0, disk_bytes_read = 0;
  std::uint64_t stalls[kStallCauses] = {}, stall_ns[kStallCauses] = {};
  MoverStats mover;
};

inline constexpr std::uint32_t kAllTags = UINT32_MAX;
inline constexpr std::uint32_t kNoIndex = UINT32_MAX;  // of no chunk, no slot

class ResidentHeap {
 public:
  static constexpr unsigned kInFlightMax = 4;
  static constexpr unsigned kUsesMax = 6;  // streams that a chunk remembers
  static constexpr std::uint32_t kChunksMax = std::uint32_t{1} << 22;

  ResidentHeap() noexcept = default;
  ~ResidentHeap() { close(); }
  ResidentHeap(const ResidentHeap&) = delete;
  ResidentHeap& operator=(const ResidentHeap&) = delete;

  // `gpu` outlives the heap. bad_argument; io_error: no page files there; whatever the driver refuses. A
  // failed open leaves nothing behind.
  Outcome open(Gpu& gpu, const ResidencyOptions& options) noexcept;
  // Waits for the last uses and gives everything back, allocations and leases included.
  void close() noexcept;

  // Addresses for whole chunks, nothing behind them yet: contents are undefined until they are written.
  // out_of_addresses, no_host_memory, bad_argument. Makes no call of the driver.
  Outcome allocate(std::uint64_t size_bytes, std::uint32_t tag, cuda::DevicePointer* address) noexcept;
  // in_use: leased or exported. double_free, not_owned. Blocks until its last uses have passed. Where the
  // driver fails and then refuses to map again what was unmapped, those chunks have lost their contents.
  Outcome free(cuda::DevicePointer address) noexcept;
  [[nodiscard]] std::uint64_t size_of(cuda::DevicePointer address) noexcept;  // 0: no allocation starts there

  // Brings all of it to the device, pins it there until release(), and makes `stream` wait for the copies.
  // over_budget: it can never fit, or others hold too much: see *shortfall (may be nullptr). out_of_memory:
  // host and file have no room for what would have to leave. unsupported: the stream is being captured.
  // not_owned, bad_argument, io_error, corrupt.
  // Ranges may overlap. A failure leaves everything as it was.
  Outcome acquire(std::span<const ChunkUse> uses, cuda::Stream stream, Lease* lease,
                  Shortfall* shortfall = nullptr) noexcept;
  // After the work was queued in the stream of the lease, which still exists: chunks stay until it is past
  // this point. A lease on the stream of a thread that another thread releases makes that one wait for
  // everything. not_owned: no such lease. Any other failure (unsupported: the stream is being captured): the
  // lease is still held. device_lost ends it.
  Outcome release(Lease lease) noexcept;
  // acquire() for reading without a pin: a hint that costs the copies now instead of later. Others may leave
  // for it, `stream` waits for the copies, and it fails like acquire().
  Outcome prefetch(std::span<const ChunkUse> uses, cuda::Stream stream) noexcept;

  // Chunks above a smaller budget leave now. over_budget: pinned ones alone exceed it; nothing changed.
  Outcome set_budget(std::uint64_t budget_bytes) noexcept;
  // level 1: what has this tag leaves the device, contents are kept. level 2: contents are given up on every
  // tier, also of those chunks that free() would lose. in_use: some of it is leased; nothing changed. The
  // memory idles in the pool: ChunkPool::trim() gives it to others.
  Outcome sleep(std::uint32_t tag, unsigned level) noexcept;
  // What sleep() sent away comes back to the same addresses. over_budget: nothing changed.
  Outcome wake(std::uint32_t tag, Shortfall* shortfall = nullptr) noexcept;

  // The chunks of an allocation come to the device and keep their physical memory until unpin_physical():
  // for what was exported or registered. Nested. Others may write to it, so it counts as written.
  Outcome pin_physical(cuda::DevicePointer address) noexcept;
  Outcome unpin_physical(cuda::DevicePointer address) noexcept;  // not_owned: it is not pinned

  [[nodiscard]] ResidencyStats stats() noexcept;
  // State of the chunk that holds the address; absent outside.
  [[nodiscard]] ChunkState state_of(cuda::DevicePointer address) noexcept;
  [[nodiscard]] std::uint32_t generation_of(cuda::DevicePointer address) noexcept;
  // Walks all chunks, slots and counters. For tests and debug builds.
  [[nodiscard]] bool validate() noexcept;

 private:
  static constexpr std::uint32_t kNone = kNoIndex;
  using SlotIndex = std::uint32_t;  // kNone: none

  struct Chunk : paging::VictimItem {
    cuda::MemoryHandle handle = 0;
    std::uint32_t first = 0, run = 0;  // of the allocation; run: chunks, in its first one
    std::uint32_t tag = 0, generation = 0;
    std::uint32_t pins = 0, exports = 0;
    SlotIndex slot = kNoIndex;
    FilePlaceIndex place = 0;
    MarkIndex ready = 0;  // the copy to the device that fills it
    MarkIndex uses[kUsesMax] = {};
    std::uint32_t next = kNoIndex;  // of a list of the call that moves it
    std::uint32_t plan_stamp = 0;   // the call that planned for it last
    std::uint32_t slot_stamp = 0;   // the call that took its slot
    Access plan = Access::read;
    ChunkState state = ChunkState::absent;
    bool has_memory = false;
    bool is_blank = false;     // nobody wrote to it
    bool is_asleep = false;    // to be brought back by wake()
    bool is_filled = false;    // while fetching: a copy was queued
    bool is_in_batch = false;  // comes with the step that is under way
    bool was_start = false;    // an allocation started here that was freed
  };

  struct Slot {
    std::uint32_t owner;  // chunk
    SlotIndex next_free;
    MarkIndex mark;  // the last copy to the device that reads it
    bool is_used;
  };

  struct LeaseRecord {
    cuda::Stream stream;
    std::uint64_t stream_id;
    std::uint32_t first_range, next_free, generation;
    bool is_live, is_releasing;
  };
  struct LeaseRange {
    std::uint64_t birth;  // of the allocation
    std::uint32_t first, count, next;
    Access access;
  };

  // A list of chunks, linked by Chunk::next.
  struct ChunkList {
    std::uint32_t first = kNoIndex, last = kNoIndex, count = 0;
  };
  // What one call does; the list of what it evicted is a stack.
  struct Operation {
    ChunkList wanted;
    std::uint32_t evicted = kNoIndex;
  };
  // One step of it: chunks that come and the victims whose memory they get.
  struct Batch {
    std::uint32_t wanted[kInFlightMax], victims[kInFlightMax];
    cuda::MemoryHandle handles[kInFlightMax];
    MarkIndex copied[kInFlightMax];
    unsigned wanted_count = 0, victim_count = 0, handle_count = 0, finished = 0;
  };

  class Mover;  // holds the mover's lock for a scope
  class Stall;  // counts and times a wait

  // residency.cpp: tables and states. All under mutex_.
  Outcome open_tables(const ResidencyOptions& options) noexcept;
  Outcome open_device() noexcept;
  void wait_for_all() noexcept;
  [[nodiscard]] Chunk& chunk(std::uint32_t index) noexcept {
    return reinterpret_cast<Chunk*>(chunks_.base())[index];
  }
  [[nodiscard]] std::uint32_t index_of(const Chunk& which) noexcept {
    return static_cast<std::uint32_t>(&which - reinterpret_cast<Chunk*>(chunks_.base()));
  }
  [[nodiscard]] Slot& slot(SlotIndex index) noexcept { return reinterpret_cast<Slot*>(slots_.base())[index]; }
  [[nodiscard]] std::byte* slot_memory(SlotIndex index) const noexcept {
    return slab_ + std::size_t{index} * chunk_bytes_;
  }
  [[nodiscard]] cuda::DevicePointer address_of(std::uint32_t index) const noexcept {
    return base_ + std::uint64_t{index} * chunk_bytes_;
  }
  [[nodiscard]] std::uint32_t chunk_at(cuda::DevicePointer address) const noexcept;  // kNone: outside
  [[nodiscard]] std::uint32_t start_at(cuda::DevicePointer address) noexcept;
  void change(Chunk& which, ChunkMove move) noexcept;
  void pin(Chunk& which) noexcept;
  void unpin(Chunk& which) noexcept;
  void forget_uses(Chunk& which) noexcept;
  void free_slot(Chunk& which) noexcept;
  void set_cost(Chunk& which) noexcept;
  [[nodiscard]] bool has_copy(const Chunk& which) const noexcept {
    return which.slot != kNone || which.place != 0;
  }
  void append(ChunkList& list, std::uint32_t index) noexcept;
  [[nodiscard]] Outcome usable() const noexcept;
  Outcome drop_memory(const ChunkList& list) noexcept;
  void drop_contents(const ChunkList& list) noexcept;
  [[nodiscard]] FilePlaceIndex forget_contents(Chunk& which) noexcept;
  void note(std::uint32_t index, bool is_leaving, bool is_done) noexcept;

  // residency_lease.cpp
  enum class Intent : std::uint8_t { lease, hint };
  [[nodiscard]] LeaseRecord& lease_record(std::uint32_t number) noexcept {
    return reinterpret_cast<LeaseRecord*>(leases_.base())[number - 1];
  }
  [[nodiscard]] LeaseRange& lease_range(std::uint32_t number) noexcept {
    return reinterpret_cast<LeaseRange*>(ranges_.base())[number - 1];
  }
  // Calls visit(chunk, access) for each chunk of a lease, once per range that holds it. Under mutex_.
  template <class Visit>
  void for_each_chunk(std::uint32_t number, Visit visit) noexcept {
    for (std::uint32_t at = lease_record(number).first_range; at != 0; at = lease_range(at).next) {
      const LeaseRange& range = lease_range(at);
      for (std::uint32_t i = 0; i < range.count; ++i) visit(chunk(range.first + i), range.access);
    }
  }
  Outcome make_lease(std::span<const ChunkUse> uses, Intent intent, std::uint32_t* number) noexcept;
  Outcome add_use_ranges(const ChunkUse& use, Intent intent, std::uint32_t number) noexcept;
  Outcome add_range(const LeaseRange& range, std::uint32_t number) noexcept;
  void end_lease(std::uint32_t number) noexcept;
  void pin_lease(std::uint32_t number) noexcept;
  void unpin_lease(std::uint32_t number) noexcept;
  void plan_lease(std::uint32_t number, Operation& operation) noexcept;
  void commit_lease(std::uint32_t number) noexcept;
  void commit_chunk(Chunk& which, Access access) noexcept;
  [[nodiscard]] MarkIndex newest_ready(std::uint32_t number) noexcept;
  Outcome wait_ready(cuda::Stream stream, MarkIndex mark) noexcept;
  Outcome acquire_resident(std::uint32_t number) noexcept;
  Outcome acquire_moving(std::uint32_t number, Shortfall* shortfall) noexcept;
  struct Asked {
    std::span<const ChunkUse> uses;
    cuda::Stream stream;
    Intent intent;
  };
  Outcome acquire_any(const Asked& asked, std::uint32_t* number, Shortfall* shortfall) noexcept;
  Outcome begin_release(Lease lease, LeaseRecord* record) noexcept;
  Outcome mark_release(const LeaseRecord& record, MarkIndex* mark) noexcept;
  Outcome mark_uses(std::uint32_t number, MarkIndex mark) noexcept;
  [[nodiscard]] bool add_uses(std::uint32_t number, MarkIndex mark,
                              MarkIndex (&in_the_way)[kUsesMax]) noexcept;
  [[nodiscard]] bool poll_mark(MarkIndex mark) noexcept;
  [[nodiscard]] bool is_still_ours(std::uint32_t number) noexcept;
  [[nodiscard]] bool add_use(Chunk& which, MarkIndex mark) noexcept;

  // residency_moves.cpp and residency_slots.cpp: under the mover's lock, mutex_ for the tables alone.
  void begin(Operation& operation) noexcept;
  Outcome bring(Operation& operation) noexcept;
  Outcome bring_batch(Operation& operation, Batch& batch) noexcept;
  Outcome take_victims(Batch& batch) noexcept;
  Outcome finish_victims(Operation& operation, Batch& batch) noexcept;
  Outcome map_wanted(Batch& batch) noexcept;
  Outcome evict_list(Operation& operation, const ChunkList& list) noexcept;
  Outcome start_listed(std::uint32_t* next, Batch& batch) noexcept;
  Outcome claim(Chunk& which, bool* is_ours) noexcept;
  Outcome evict_any(Operation& operation, std::uint32_t count) noexcept;
  void abandon(Batch& batch) noexcept;
  void undo(Operation& operation) noexcept;
  void undo_wanted(Chunk& which) noexcept;
  Outcome put_back(Chunk& which) noexcept;
  [[nodiscard]] bool take_handle(cuda::MemoryHandle* handle, Outcome* refusal) noexcept;
  void give_handle(cuda::MemoryHandle handle) noexcept;
  [[nodiscard]] Chunk* choose_victim() noexcept;
  Outcome start_eviction(Chunk& which, Batch& batch) noexcept;
  Outcome copy_out(Chunk& which, MarkIndex* copied) noexcept;
  Outcome copy_to_slot(Chunk& which, SlotIndex taken, MarkIndex mark) noexcept;
  Outcome finish_eviction(Chunk& which, MarkIndex copied, cuda::MemoryHandle* handle) noexcept;
  void stay(Chunk& which, MarkIndex copied) noexcept;
  void leave(Chunk& which) noexcept;
  Outcome wait_idle(Chunk& which) noexcept;
  Outcome wait_mark(MarkIndex mark, StallCause cause) noexcept;
  Outcome map_chunk(Chunk& which, cuda::MemoryHandle handle) noexcept;
  Outcome fill_chunk(Chunk& which) noexcept;
  Outcome record_fills(std::span<const std::uint32_t> arrived) noexcept;
  [[nodiscard]] bool must_load(const Chunk& which) const noexcept;
  Outcome load(Chunk& which) noexcept;
  Outcome take_slot(std::uint32_t owner, SlotIndex* taken) noexcept;
  void give_slot(SlotIndex taken) noexcept;
  [[nodiscard]] bool find_slot(std::uint32_t owner, SlotIndex* taken, std::uint32_t* loser) noexcept;
  [[nodiscard]] unsigned rank_of(const Chunk& owner) noexcept;
  [[nodiscard]] std::uint32_t choose_slot_owner(bool* must_spill) noexcept;
  Outcome spill(Chunk& which) noexcept;
  void report(Shortfall* shortfall, std::uint64_t needed_chunks, std::uint64_t other_chunks) noexcept;

  // residency_sleep.cpp
  [[nodiscard]] ChunkList chunks_of(std::uint32_t tag) noexcept;
  Outcome send_to_host(const ChunkList& list) noexcept;
  Outcome bring_pinned(Operation& operation, Shortfall* shortfall) noexcept;
  [[nodiscard]] bool is_right(const Chunk& which) noexcept;

  Gpu* gpu_ = nullptr;
  ResidencyOptions options_;
  std::size_t chunk_bytes_ = 0;
  std::uint32_t chunk_count_ = 0, slot_count_ = 0;
  cuda::DevicePointer base_ = 0;
  std::byte* slab_ = nullptr;
  EventPool events_;
  ChunkMover mover_;
  ChunkFile file_;

  // The mover's lock: taken before mutex_, held while chunks move. Guards held_ and budget_chunks_ for
  // writing.
  os::Mutex moves_;
  std::uint32_t held_ = 0;  // handles that chunks have, or that are on their way to one
  std::uint32_t stamp_ = 0;
  std::atomic<std::uint32_t> budget_chunks_{0};

  // Everything below is under mutex_; no driver call is made while it is held. A chunk that is evicting or
  // fetching belongs to the mover, who may read it without the lock.
  os::Mutex mutex_;
  paging::GrowingMemory chunks_, tags_, slots_, leases_, ranges_;
  std::uint32_t chunks_made_ = 0;  // that were constructed, from the front
  placement::Tlsf placement_;
  StreamMarks marks_;
  ChunkVictims victims_{VictimOrder::lru};
  SlotIndex free_slots_ = kNone;
  std::uint32_t used_slots_ = 0;
  std::uint32_t leases_made_ = 0, free_leases_ = 0, ranges_made_ = 0, free_ranges_ = 0;
  std::uint32_t pinned_ = 0;                 // chunks with a pin
  std::uint32_t now_ = 0;                    // counts leases
  std::uint64_t copy_ns_ = 1, disk_ns_ = 1;  // what a copy, and a read of the disk, took last
  ResidencyStats stats_;
};

}  // namespace glebe::device
