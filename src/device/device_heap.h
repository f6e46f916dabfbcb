// A heap of device memory (namespace glebe::device): blocks of any size at stable device addresses, on
// physical chunks that follow the live bytes.
//
// Addresses are plenty (several times the device's memory), memory is not: so a block is placed where the
// fewest chunks have to hold bytes that did not before, among those places where the fewest have to be
// mapped, and the chunks behind what was freed move to where they are needed. External fragmentation of
// chunk size and above thus costs no memory; what is left is the free space inside chunks that hold a live
// block. Everything that the heap knows lies in host memory; device memory is never read or written.
//
// All functions are thread-safe but open() and close(). A block is handed out mapped; its contents are
// undefined. Whoever frees has proved that the device does not use the block any more. Errors are outcomes,
// and a call that failed has changed no block and no count but that of failures. A call that finds its memory
// mapped takes one short lock and never calls the driver.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "src/device/block_source.h"
#include "src/device/device_space.h"
#include "src/placement/tlsf.h"

namespace glebe::device {

using HeapTag = std::uint16_t;  // who a block belongs to; 0 is "other" and always there

inline constexpr std::uint64_t kHeapUnitBytes = kDeviceAlignBytes;  // sizes are rounded up to this
inline constexpr unsigned kHeapTagsMax = 64;
inline constexpr std::size_t kHeapTagNameMax = 31;
inline constexpr unsigned kHeapReclaimRounds = 16;  // tries of one request at most

// A live block, as walk() and the leak list show it.
struct HeapBlock {
  cuda::DevicePointer address = 0;
  std::uint64_t size_bytes = 0;       // a multiple of kHeapUnitBytes
  std::uint64_t requested_bytes = 0;  // what was asked for
  HeapTag tag = 0;
  std::uint32_t pins = 0;
};

struct DeviceHeapOptions {
  std::uint64_t reserve_bytes = 0;       // addresses; 0: four times the device's memory, at most 512 GiB
  std::size_t fine_bytes = 2 * kMiB;     // see DeviceSpaceOptions
  std::size_t coarse_bytes = 32 * kMiB;  // the largest alignment, too
  std::uint64_t limit_bytes = paging::kNoLimit;  // of chunks, idle ones counted; not 0
  std::uint64_t headroom_bytes = 0;              // of the device, which stays free for others
  // Of several heaps together, then limit_bytes is not looked at; outlives the heap. Its own one otherwise.
  // Its callbacks are called with no lock held and may use the heap; reclaim before the function below.
  paging::Budget* budget = nullptr;
  paging::BudgetTag budget_tag = 0;

  // Asked with no lock held when there is no room: frees blocks of this heap, at least so many bytes if it
  // can. False: there is nothing to free.
  bool (*reclaim)(void* context, std::uint64_t needed_bytes) = nullptr;
  // One line for each call, without its end: Thread,Time,Action,Pointer,Size,Stream, as RMM writes and
  // replays it; a block that grows, shrinks or moves is freed and allocated again, which are two. Called with
  // the lock of the heap held, so that the order is true: must not call the heap.
  void (*trace)(void* context, std::string_view line) = nullptr;
  // Each block that is still there at close().
  void (*leak)(void* context, const HeapBlock& block) = nullptr;
  void* context = nullptr;  // of all three
};

struct HeapRequest {
  std::uint64_t size_bytes = 0;
  std::uint64_t align_bytes = 0;  // a power of two up to coarse_bytes; 0 and below 256 are 256
  HeapTag tag = 0;
};

struct HeapTagStats {
  std::string_view name;  // lives as long as the heap is open
  std::uint64_t live_bytes = 0, peak_bytes = 0, live_blocks = 0;
};

// A block that is to lie elsewhere, so that the chunk in which it lies becomes empty.
struct HeapMove {
  cuda::DevicePointer from = 0, to = 0;
  std::uint64_t size_bytes = 0;  // to copy: all that size_of() tells, not only what was asked for
  HeapTag tag = 0;
  bool is_cancelled = false;  // set by the caller: it stays where it is
  // Set by the caller with is_cancelled: a copy may still write to `to`, now or later, and nobody can tell;
  // nobody is given what lies there until close().
  bool keeps_target = false;
};

struct HeapPassOptions {
  std::uint64_t max_bytes = UINT64_MAX;  // to copy, in all
  unsigned fill_max_percent = 25;        // chunks that hold more than this stay as they are
  // Which blocks may move; nullptr: all that are not pinned. Called with the lock of the heap held.
  bool (*may_move)(void* context, const HeapBlock& block) = nullptr;
  void* context = nullptr;
};

struct HeapPassResult {
  std::uint64_t blocks_moved = 0, bytes_moved = 0;
  std::uint64_t chunks_emptied = 0;  // mapped still, and free for any use
  // The largest request that needs no new memory of the device: in chunks without blocks, or in one hole.
  std::uint64_t largest_before_bytes = 0, largest_after_bytes = 0;
};

inline constexpr unsigned kPassChunksMax = 256;  // that one pass empties at most

struct DeviceHeapStats {
  DeviceSpaceStats space;
  std::uint64_t live_bytes = 0, peak_live_bytes = 0;  // of blocks, rounded
  std::uint64_t requested_bytes = 0;                  // of the same, as asked for
  std::uint64_t live_blocks = 0, allocations = 0, frees = 0;
  std::uint64_t hits = 0;        // allocations that found their memory mapped; hits + misses == allocations
  std::uint64_t misses = 0;      // that had chunks mapped
  std::uint64_t failures = 0;    // requests that were refused
  std::uint64_t misuses = 0;     // frees of what is no block
  std::uint64_t free_bytes = 0;  // of chunks that hold blocks: mapped, and in no block
  std::uint64_t largest_free_bytes = 0;  // of those, in one piece
  // Of chunks that hold none, mapped or not. All of it can serve a request anywhere, but for the chunks of a
  // coarse mapping in which something lies.
  std::uint64_t idle_bytes = 0;
  // 1 - largest free / free of the chunks that hold blocks, in thousandths; and 1 - requested / live.
  unsigned external_fragmentation = 0, internal_fragmentation = 0;
};

class DeviceHeap {
 public:
  constexpr DeviceHeap() noexcept = default;
  ~DeviceHeap() { close(); }
  DeviceHeap(const DeviceHeap&) = delete;
  DeviceHeap& operator=(const DeviceHeap&) = delete;

  // `gpu` outlives the heap. bad_argument, out_of_addresses, no_host_memory; a failed open leaves nothing.
  Outcome open(Gpu& gpu, const DeviceHeapOptions& options) noexcept;
  // Reports the blocks that are still there, gives everything back to the device, and answers with their
  // number. May be called twice.
  std::uint64_t close() noexcept;

  // bad_argument: size 0, an alignment that is no power of two or too large, an unknown tag.
  // out_of_addresses, over_budget, out_of_memory, no_host_memory, device_lost, failed.
  Outcome allocate(const HeapRequest& request, cuda::DevicePointer* address) noexcept;
  // The same from memory that is mapped already, without a call of the driver or of reclaim. out_of_memory:
  // none is, which counts as no failure.
  Outcome allocate_mapped(const HeapRequest& request, cuda::DevicePointer* address) noexcept;
  // not_owned: no block starts there; double_free: one did; in_use: it is pinned, grows, or a pass moves it.
  Outcome free(cuda::DevicePointer address) noexcept;
  // Bytes that the block may use, a multiple of kHeapUnitBytes; 0: no block starts there.
  [[nodiscard]] std::uint64_t size_of(cuda::DevicePointer address) noexcept;
  // Makes a block longer or shorter where it is; contents stay. grow: out_of_addresses when what lies behind
  // is taken, and as allocate(). shrink: what is cut off was not used by the device any more.
  Outcome grow_in_place(cuda::DevicePointer address, std::uint64_t new_bytes) noexcept;
  Outcome shrink(cuda::DevicePointer address, std::uint64_t new_bytes) noexcept;

  // The chunks behind a block stay what they are, and it cannot be freed, until it is unpinned as often.
  // in_use: another thread makes it grow, or a pass moves it.
  Outcome pin(cuda::DevicePointer address) noexcept;
  Outcome unpin(cuda::DevicePointer address) noexcept;

  // See DeviceSpace: only chunks without live bytes are given back.
  std::uint64_t trim(std::uint64_t keep_bytes) noexcept { return space_.trim(keep_bytes); }
  Outcome prewarm(std::uint64_t bytes) noexcept { return space_.prewarm(bytes); }
  // Lowers the limit, giving back what idles above it, or raises it. in_use: live blocks need more than that;
  // it holds for what comes. bad_argument: 0, or the budget is not the heap's own.
  Outcome set_limit(std::uint64_t limit_bytes) noexcept;
  [[nodiscard]] const paging::Budget& budget() const noexcept { return *space_options_.budget; }

  // The tag of that name, made when it is new. bad_argument: no name, too long, or too many.
  Outcome tag(std::string_view name, HeapTag* tag) noexcept;
  [[nodiscard]] HeapTagStats tag_stats(HeapTag tag) noexcept;

  [[nodiscard]] DeviceHeapStats stats() noexcept;
  void reset_peaks() noexcept;  // to what is live now
  // Shows every block in the order of addresses, with the lock of the heap held. False: stop.
  void walk(bool (*visit)(void* context, const HeapBlock& block), void* context) noexcept;
  // Whether all tables agree. Walks everything; not while calls that map are under way.
  [[nodiscard]] bool validate() noexcept;

  // A pass of compaction. begin_pass() finds blocks whose moving empties chunks, and room for them in chunks
  // that hold blocks anyway; it fills the front of `moves` and tells how many. The caller copies the bytes,
  // on the device, and has its own pointers changed; until then nobody writes to these blocks or frees them
  // (in_use), and both places are theirs. commit_pass() with the same moves: those that are not cancelled are
  // at their new places, which are blocks like any other; the old ones are none, and nobody's. end_pass()
  // does the same when it was not done, and frees the old ones: the device does not use them any more.
  // in_use: a pass is under way. Bounded by max_bytes, by the moves that fit and by kPassChunksMax.
  Outcome begin_pass(const HeapPassOptions& options, std::span<HeapMove> moves, std::size_t* count) noexcept;
  void commit_pass(std::span<const HeapMove> moves) noexcept;
  HeapPassResult end_pass(std::span<const HeapMove> moves) noexcept;

  // Gives a block of whole chunks (address and size are multiples of them) a lower address, without a copy:
  // its chunks are mapped there as well. From then on the block is at the new address, and the old one leads
  // to the same memory until finish_relocation() unmaps it, when the device uses it no more. For addresses
  // that are fragmented; memory never is by chunks. bad_argument: not of whole chunks. out_of_addresses: no
  // room lower down. in_use: pinned, or a pass moves it. not_owned, double_free; and as allocate(). A failure
  // leaves the block where it is.
  Outcome relocate(cuda::DevicePointer address, cuda::DevicePointer* new_address) noexcept;
  // not_owned: no block was moved from there, or another call is finishing it. failed, device_lost: the old
  // address is still mapped.
  Outcome finish_relocation(cuda::DevicePointer old_address) noexcept;

  [[nodiscard]] BlockSource source() noexcept;
  [[nodiscard]] Gpu& gpu() const noexcept { return space_.gpu(); }
  [[nodiscard]] DeviceSpace& space() noexcept { return space_; }

 private:
  // Where a block goes: units [first, first + length), and the chunks that hold nothing so far and will.
  struct Place {
    std::uint64_t first = 0;
    ChunkRange fresh;
    std::uint32_t broken = 0;    // coarse mappings that hold nothing so far and would not be used whole
    std::uint32_t unmapped = 0;  // of the fresh ones
    bool is_found = false;
    [[nodiscard]] std::uint32_t cost() const noexcept { return fresh.end - fresh.first; }
  };
  struct Hollow {  // chunks that hold nothing, and the units that are free with them
    ChunkRange chunks;
    std::uint64_t low = 0, high = 0;
  };
  struct Wanted {
    std::uint32_t length = 0, align_units = 1;
    bool must_be_mapped = false;
  };
  struct Tagged {
    char name[kHeapTagNameMax + 1];
    std::uint64_t live_bytes, peak_bytes, live_blocks;
  };
  enum class Event : std::uint8_t { allocated, refused, freed };

  [[nodiscard]] ByteRange bytes_of(std::uint32_t first, std::uint32_t length) const noexcept {
    return {first * kHeapUnitBytes, length * kHeapUnitBytes};
  }
  [[nodiscard]] bool is_block(cuda::DevicePointer address, std::uint32_t* unit) const noexcept;
  // In Tag::mark of a block, with the exponent of its alignment in units behind them.
  static constexpr std::uint8_t kPending = 1;  // nobody was given it yet, or it is not there any more
  static constexpr std::uint8_t kMoving = 2;   // a pass copies it elsewhere, or it grows: it is held
  static constexpr unsigned kAlignShift = 2;
  // Whether a block starts at a unit that somebody was given.
  [[nodiscard]] bool is_live(std::uint32_t unit) const noexcept {
    return engine_.is_allocated_start(unit) && (engine_.tag(unit).mark & kPending) == 0;
  }
  // Whether a block has to stay as it is.
  [[nodiscard]] bool is_held(std::uint32_t unit) const noexcept {
    return engine_.tag(unit).next != 0 || (engine_.tag(unit).mark & kMoving) != 0;
  }
  [[nodiscard]] HeapBlock block_at(std::uint32_t unit) const noexcept;

  Outcome examine(const HeapRequest& request, Wanted* wanted) const noexcept;
  Outcome try_allocate(const HeapRequest& request, Wanted wanted, cuda::DevicePointer* address,
                       Shortage* shortage) noexcept;
  Outcome misuse(cuda::DevicePointer address) noexcept;
  void resized(const HeapBlock& before, std::uint64_t new_bytes) noexcept;
  void count(const HeapBlock& block) noexcept;
  void discount(const HeapBlock& block) noexcept;
  [[nodiscard]] std::uint64_t largest_possible() noexcept;
  void write_trace(Event event, cuda::DevicePointer address, std::uint64_t size_bytes) noexcept;

  // Placement, with the table lock held.
  Outcome place(Wanted wanted, placement::Run* run) noexcept;
  [[nodiscard]] Place find_place(Wanted wanted) const noexcept;
  void try_hollow(Wanted wanted, ChunkRange chunks, Place& best) const noexcept;
  void consider(std::uint64_t start, Wanted wanted, const Hollow& hollow, Place& best) const noexcept;
  [[nodiscard]] std::uint32_t broken_by(ChunkRange chunks) const noexcept;
  [[nodiscard]] bool extend_to(std::uint32_t chunk_end) noexcept;
  std::uint32_t occupy(ChunkRange chunks) noexcept;
  void vacate(ChunkRange chunks, std::uint32_t free_first) noexcept;
  std::uint32_t give_back(std::uint32_t first) noexcept;
  void withdraw(std::uint32_t first) noexcept;
  [[nodiscard]] bool can_grow(std::uint32_t first, std::uint32_t new_length) const noexcept;
  Outcome grow(std::uint32_t first, std::uint32_t new_length) noexcept;
  void cut(std::uint32_t first, std::uint32_t new_length) noexcept;
  [[nodiscard]] std::uint32_t length_of(std::uint64_t size_bytes) const noexcept;

  [[nodiscard]] bool is_of_whole_chunks(std::uint32_t unit) const noexcept;
  [[nodiscard]] std::uint32_t find_window(ChunkRange below, std::uint32_t align_chunks) const noexcept;

  // Of a pass, with the table lock held.
  struct Pass {
    HeapPassOptions options;
    std::span<HeapMove> moves;
    std::size_t count = 0;
    std::uint64_t bytes = 0;
  };
  [[nodiscard]] std::uint32_t first_run_in(std::uint32_t chunk) const noexcept;
  [[nodiscard]] bool can_empty(const Pass& pass, std::uint32_t chunk, std::uint32_t first_run) const noexcept;
  void hide(std::uint32_t chunk, std::uint32_t first_run) noexcept;
  void show(std::uint32_t chunk, std::uint32_t first_run) noexcept;
  [[nodiscard]] bool plan_moves(Pass& pass, std::uint32_t chunk, std::uint32_t first_run) noexcept;
  [[nodiscard]] bool plan_move(Pass& pass, std::uint32_t unit) noexcept;
  void add_place(std::uint32_t unit, const placement::Run& run) noexcept;
  void cancel(const HeapMove& move) noexcept;
  [[nodiscard]] bool finish_moves(std::span<const HeapMove> moves, HeapPassResult& result) noexcept;
  void commit(const HeapMove& move) noexcept;
  [[nodiscard]] std::uint32_t unit_of(cuda::DevicePointer address) const noexcept {
    return static_cast<std::uint32_t>((address - space_.base()) / kHeapUnitBytes);
  }

  DeviceSpace space_;
  DeviceHeapOptions options_;
  DeviceSpaceOptions space_options_;
  paging::Budget budget_;
  std::uint32_t units_in_chunk_ = 0;
  paging::GrowingMemory tags_memory_;  // of the engine, for the chunks below the frontier

  // Under space_.table_lock(). The engine knows the units of all chunks below the frontier; those of chunks
  // that hold no block are taken out of it (one run for each chunk), so that whatever it places without being
  // asked where lies in chunks that hold something already.
  placement::Tlsf engine_;
  std::uint32_t frontier_ = 0;
  DeviceHeapStats counts_;  // of what is counted here
  struct Source {
    std::uint32_t chunk, first_run;
  };
  bool is_pass_open_ = false;
  std::uint64_t largest_before_bytes_ = 0;  // of the pass that is under way, as the sources are
  std::uint64_t hidden_units_ = 0;          // free units that are out of the engine
  unsigned source_count_ = 0;
  Source sources_[kPassChunksMax] = {};  // chunks whose free units are out of the engine meanwhile
  unsigned tag_count_ = 1;
  Tagged tagged_[kHeapTagsMax] = {{"other", 0, 0, 0}};
};

}  // namespace glebe::device
