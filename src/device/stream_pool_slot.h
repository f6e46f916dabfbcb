// What a stream pool keeps for one stream: the blocks that were freed in it, and how far the device has come
// with it (namespace glebe::device). Part of stream_pool.h.
//
// A slot has an open epoch, a number. Whatever is freed in the stream is marked with it. Closing an epoch
// queues a mark in the stream (an event, or a word that the device writes to pinned memory) and opens the
// next one; when the device has reached the mark, all blocks of that epoch and of those before are free for
// everybody. For the stream itself they are free at once: whatever it does next comes after.
//
// Blocks of one size class are a list with the newest first. The stream takes from the front; everybody else
// takes from the back, where the epochs are oldest. So a block that one stream still uses hides no other.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "platform/thread.h"
#include "src/base/bits.h"
#include "src/device/stream_pool_blocks.h"

namespace glebe::device {

// Requests are rounded up to a size class: multiples of 256 bytes up to 2 KiB, then 8 classes for each
// doubling (at most an eighth more than was asked for), above 64 MiB 32 of them (at most 1/32 more).
inline constexpr std::uint64_t kPooledMaxBytes = kTiB;
inline constexpr unsigned kFineClasses = 8;
inline constexpr std::uint64_t kFineMaxBytes = kFineClasses * kDeviceAlignBytes;  // 2 KiB
inline constexpr std::uint64_t kMiddleMaxBytes = 64 * kMiB;
inline constexpr unsigned kMiddleSteps = 8, kCoarseSteps = 32;
inline constexpr unsigned kMiddleClasses =
    kMiddleSteps * (log2_floor(kMiddleMaxBytes) - log2_floor(2 * kKiB));
inline constexpr unsigned kCoarseClasses =
    kCoarseSteps * (log2_floor(kPooledMaxBytes) - log2_floor(kMiddleMaxBytes));
inline constexpr unsigned kSizeClasses = kFineClasses + kMiddleClasses + kCoarseClasses;

// Sizes in (2^k, 2^(k+1)] in steps of 2^k / kSteps; `size_bytes` is above `base_bytes` = 2^j.
template <unsigned kSteps>
[[nodiscard]] constexpr unsigned stepped_class(std::uint64_t size_bytes, std::uint64_t base_bytes) noexcept {
  const unsigned power = log2_floor(size_bytes - 1);
  const unsigned shift = power - log2_floor(kSteps);
  const auto step = static_cast<unsigned>(((size_bytes - 1) >> shift) & (kSteps - 1));
  return (power - log2_floor(base_bytes)) * kSteps + step;
}
template <unsigned kSteps>
[[nodiscard]] constexpr std::uint64_t stepped_bytes(unsigned number, std::uint64_t base_bytes) noexcept {
  const std::uint64_t power_bytes = base_bytes << (number / kSteps);
  return power_bytes + (number % kSteps + 1) * (power_bytes / kSteps);
}

// 0 < size_bytes <= kPooledMaxBytes.
[[nodiscard]] constexpr unsigned size_class_of(std::uint64_t size_bytes) noexcept {
  if (size_bytes <= kFineMaxBytes) return static_cast<unsigned>((size_bytes - 1) / kDeviceAlignBytes);
  if (size_bytes <= kMiddleMaxBytes) {
    return kFineClasses + stepped_class<kMiddleSteps>(size_bytes, kFineMaxBytes);
  }
  return kFineClasses + kMiddleClasses + stepped_class<kCoarseSteps>(size_bytes, kMiddleMaxBytes);
}
[[nodiscard]] constexpr std::uint64_t bytes_of_class(unsigned size_class) noexcept {
  if (size_class < kFineClasses) return (size_class + 1) * kDeviceAlignBytes;
  if (size_class < kFineClasses + kMiddleClasses) {
    return stepped_bytes<kMiddleSteps>(size_class - kFineClasses, kFineMaxBytes);
  }
  return stepped_bytes<kCoarseSteps>(size_class - kFineClasses - kMiddleClasses, kMiddleMaxBytes);
}
static_assert(size_class_of(kPooledMaxBytes) == kSizeClasses - 1);
static_assert(bytes_of_class(kSizeClasses - 1) == kPooledMaxBytes);
static_assert(bytes_of_class(size_class_of(kFineMaxBytes + 1)) == kFineMaxBytes + kDeviceAlignBytes);

// Where the block of a successful allocation came from.
enum class BlockOrigin : std::uint8_t {
  same_stream,  // freed in that stream before: no call of the driver
  source_idle,  // the source had it
  completed,    // freed in another stream, which is done with it
  waited_for,   // freed in another stream, for which this one waits on the device
  source,       // the source, which may have made it
  reclaimed,    // the source, after blocks were given back to it
};
inline constexpr unsigned kBlockOrigins = 6;

// Blocks in order of their epochs, newest first.
struct BlockList {
  BlockNumber front = kNoBlock, back = kNoBlock;

  void push_front(const BlockTable& blocks, BlockNumber number) noexcept;
  void push_back(const BlockTable& blocks, BlockNumber number) noexcept;
  void remove(const BlockTable& blocks, BlockNumber number) noexcept;
};

// A closed epoch that the device may not have reached.
struct ClosedEpoch {
  std::uint64_t number;
  std::uint64_t stamp;  // of all epochs of the pool, in the order in which they were closed
  cuda::Event event;    // nullptr: the stream writes the number to the slot's word
};

struct SlotCounts {
  std::uint64_t origins[kBlockOrigins] = {};
  std::uint64_t requests = 0, failures = 0, frees = 0, refused_frees = 0;
  // Modulo 2^64: blocks may be allocated in one slot and freed in another. Sums over all slots are right.
  std::uint64_t live_blocks = 0, live_bytes = 0, wanted_bytes = 0;
};

enum class StreamKind : std::uint8_t {
  ordinary,
  legacy,      // cuStreamLegacy, or nullptr: always there
  per_thread,  // cuStreamPerThread: its handle means another stream in each thread
};

struct alignas(64) StreamSlot {
  static constexpr unsigned kClosedMax = 64;

  // --- Of the fast path: `lock` guards it ---
  os::Mutex lock;
  std::atomic<std::uint32_t> generation{0};      // 0: never used; changes when the stream is forgotten
  std::atomic<std::uint64_t> open_epoch{1};      // written under the lock
  std::atomic<std::uint64_t> reached_epoch{0};   // this one and all before it are done; written under `slow`
  std::uint64_t open_frees = 0, open_bytes = 0;  // idle blocks that are marked with the open epoch
  bool is_deferring = false;     // the stream is being captured: what is freed waits for the end of that
  bool is_used_open = false;     // a block that another stream freed is marked with the open epoch
  std::uint64_t last_epoch = 0;  // once it is forgotten: whoever used a block in it is done then
  std::uint64_t idle_blocks = 0, idle_bytes = 0;  // of all lists
  SlotCounts counts;
  BlockList deferred;  // freed during a capture
  BlockList limbo;     // freed here, while other streams use them too
  BlockList lists[kSizeClasses];

  std::atomic<std::uint32_t> uses{0};  // that name this slot, and calls that need it: nobody takes it over

  // --- Of the slow path: `slow` guards it, which is taken before `lock` and held during calls of the driver
  os::Mutex slow;
  std::uint32_t index = 0;  // of this slot
  std::atomic<StreamKind> kind{StreamKind::ordinary};
  // Forgotten, or destroyed by the program: its handle is not used any more.
  std::atomic<bool> is_gone{false};
  std::atomic<cuda::Stream> handle{nullptr};
  std::atomic<std::uint64_t> id{0};  // of cuStreamGetId; written under the lock of the table of streams
  // What the wait for the whole device that is under way will prove, and what was open before it.
  std::uint64_t proof_epoch = 0, proof_frees = 0, proof_bytes = 0;
  bool proof_used = false;
  std::uint32_t first_closed = 0, closed_count = 0;
  ClosedEpoch closed[kClosedMax] = {};

  [[nodiscard]] ClosedEpoch& oldest() noexcept { return closed[first_closed]; }
  [[nodiscard]] ClosedEpoch& at(std::uint32_t place) noexcept {
    return closed[(first_closed + place) % kClosedMax];
  }
  void push_closed(const ClosedEpoch& epoch) noexcept { at(closed_count++) = epoch; }
  void pop_closed() noexcept {
    first_closed = (first_closed + 1) % kClosedMax;
    --closed_count;
  }

  [[nodiscard]] bool is_reached(std::uint64_t epoch) const noexcept {
    // Pairs with the release of who saw the device reach it.
    return epoch <= reached_epoch.load(std::memory_order_acquire);
  }

  // Under the lock. An idle block of a class, or of deferred or limbo, comes and goes; counts follow.
  void put(const BlockTable& blocks, BlockList& list, BlockNumber number) noexcept;
  void take(const BlockTable& blocks, BlockList& list, BlockNumber number) noexcept;
  // An idle block whose epoch stays, as nothing that has not been reached is older.
  void put_last(const BlockTable& blocks, BlockNumber number) noexcept;
  // From one list of this slot to another one, with its epoch.
  void move(const BlockTable& blocks, BlockList& from, BlockList& to, BlockNumber number) noexcept;
  // The block becomes the program's.
  void hand_out(Block& block, std::uint64_t wanted, BlockOrigin origin) noexcept;
};

}  // namespace glebe::device
