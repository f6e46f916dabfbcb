// Staging rings: pinned memory of the host through which bytes go to a device and come back (namespace
// glebe::device).
//
// A device copies at full speed only from and to memory that is pinned, and pinning is slow. So one slab is
// pinned at the start and used in rounds: take a block, queue the copies that use it, submit it. An upload's
// block is used again when the fence behind those copies is reached, not before: the device reads it when its
// turn comes, long after the call. A download's block is given back by whoever has read it. The slab is cut
// into one or more rings (placement::Ring); where a block does not fit at the end of a ring it starts over at
// the front, and where a ring is full the next one is tried. A request that finds no room anywhere counts as
// a stall, and the time that it waits is counted too.
//
// Pinned memory is scarce, so the slab is charged to a budget of the caller's. No driver call is made while
// the lock is held. Thread-safe, except open() and close().
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "platform/thread.h"
#include "src/device/gpu.h"
#include "src/device/transfer_fence.h"
#include "src/paging/budget.h"
#include "src/paging/growing_memory.h"
#include "src/placement/ring.h"

namespace glebe::device {

enum class StagingDirection : std::uint8_t { upload, download };

// What take() does when there is no room, or never will be.
enum class StagingPolicy : std::uint8_t {
  wait,   // waits for room; a request larger than a ring is refused
  fail,   // answers not_ready; a request larger than a ring is refused
  split,  // as wait, but a request above block_max_bytes() gets a block of that size: the caller goes on with
          // the rest, and copies overlap with the filling of the next block
};

struct StagingOptions {
  StagingDirection direction = StagingDirection::upload;
  StagingPolicy policy = StagingPolicy::wait;
  unsigned rings = 1;                // 1 to kRingsMax
  std::size_t ring_bytes = 0;        // of each; a multiple of kStagingAlignBytes
  std::uint32_t blocks_max = 1024;   // of each ring, at the same time
  bool is_write_combined = false;    // fast to write, very slow to read by the CPU: for uploads only
  paging::Budget* budget = nullptr;  // charged while open; outlives the ring; nullptr: none
  paging::BudgetTag tag = 0;
};

// Pinned memory at a multiple of kStagingAlignBytes; the taker's until it is submitted or given back.
struct StagingBlock {
  std::byte* data = nullptr;
  std::size_t size_bytes = 0;
};

struct StagingStats {
  std::uint64_t taken = 0, given = 0, submitted = 0;  // blocks
  std::uint64_t live_bytes = 0, peak_live_bytes = 0;  // taken, not used up
  std::uint64_t bytes_in_flight = 0;                  // of uploads: submitted, fence not reached
  std::uint64_t stalls = 0;                           // requests that found no room at first
  std::uint64_t waited_ns = 0, longest_wait_ns = 0;   // by those that waited
  std::uint64_t splits = 0;                           // blocks that were smaller than asked for
  std::uint64_t refused = 0;                          // not_ready, bad_argument, cancelled
  std::uint64_t moves = 0;                            // requests that went on to another ring
};

class StagingRing {
 public:
  static constexpr unsigned kRingsMax = 8;
  static constexpr std::size_t kStagingAlignBytes = 256;
  static constexpr unsigned kSplitParts = 4;  // blocks that a ring holds at least under `split`

  StagingRing() noexcept : ring_(ranges_) {}
  ~StagingRing() { close(); }
  StagingRing(const StagingRing&) = delete;
  StagingRing& operator=(const StagingRing&) = delete;

  // `gpu` and `fences` outlive the ring. bad_argument, over_budget, out_of_memory (the system pins no more),
  // no_host_memory: nothing has changed.
  Outcome open(Gpu& gpu, FenceQueue& fences, const StagingOptions& options) noexcept;
  // Waits until the device has let go of the slab, then gives it back. Every block was submitted or given
  // back, and nobody is inside a call. May be called twice. Blocks without a fence (submit() failed, or they
  // were abandoned) make it wait for all work of the context. Where the driver answers with errors only,
  // nobody can tell whether the device has let go: then the slab stays pinned, and in the budget, for ever.
  // So it does where the driver does not take it back, because the device is lost.
  void close() noexcept;
  // Ends all waiting: calls of take() under way and later ones answer `cancelled`.
  void stop() noexcept;

  // A block of `size_bytes`, or under `split` of block_max_bytes() if that is less. bad_argument: 0, or more
  // than can ever be had. not_ready: no room now (`fail`). device_lost, and what the driver answered to a
  // wait. A failure takes nothing.
  Outcome take(std::size_t size_bytes, StagingBlock* block) noexcept;
  // From now on blocks may be left with the device for ever: close() does not insist on having them back.
  void abandon() noexcept { is_abandoned_.store(true, std::memory_order_relaxed); }
  // Makes a block free now. Nothing on the device uses it (any more).
  void give(const StagingBlock& block) noexcept;
  // Of an upload ring: the blocks are free again when what was queued in `stream` until now is done. A
  // failure leaves them with the caller: the driver neither records nor waits, so nobody can tell, or
  // (unsupported) the stream is being captured.
  Outcome submit(std::span<const StagingBlock> blocks, cuda::Stream stream, Fence* fence) noexcept;

  // Frees what the device has let go of. As FenceQueue::poll().
  Outcome poll() noexcept;
  // Waits until the fence is reached.
  Outcome wait(Fence fence) noexcept;

  // The largest block that take() can give.
  [[nodiscard]] std::size_t block_max_bytes() const noexcept;
  [[nodiscard]] std::size_t capacity_bytes() const noexcept { return slab_bytes_; }
  [[nodiscard]] StagingStats stats() noexcept;
  [[nodiscard]] bool validate() noexcept;  // for tests

 private:
  Outcome check(const StagingOptions& options) const noexcept;
  Outcome pin(std::size_t size_bytes) noexcept;
  void unpin() noexcept;
  [[nodiscard]] bool is_idle() noexcept;
  [[nodiscard]] placement::Status place(std::size_t size_bytes, StagingBlock* block) noexcept;
  void wait_for_change(std::uint32_t seen, unsigned rounds) noexcept;
  Outcome take_slow(std::size_t size_bytes, StagingBlock* block) noexcept;
  void settle() noexcept;
  void refuse() noexcept;
  [[nodiscard]] std::uint64_t offset_of(const StagingBlock& block) const noexcept;
  void tell_change() noexcept;

  Gpu* gpu_ = nullptr;
  FenceQueue* fences_ = nullptr;
  StagingOptions options_;
  std::byte* slab_ = nullptr;
  std::size_t slab_bytes_ = 0;
  os::Mutex mutex_;
  // Under the lock.
  paging::GrowingMemory entries_;
  placement::RingRange ranges_[kRingsMax];
  placement::Ring ring_;
  StagingStats stats_;
  std::atomic<bool> is_stopped_{false}, is_abandoned_{false};
  std::atomic<bool> has_unfenced_{false};  // a submission has failed
  std::atomic<std::uint32_t> change_{0};   // changes when a block becomes free, and by stop()
};

}  // namespace glebe::device
