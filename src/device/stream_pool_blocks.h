// The records of the blocks that a stream pool has, and the way from an address to its record (namespace
// glebe::device).
//
// A record stands for a block that came from the source and did not go back, whether the program has it or it
// waits in a stream. Records lie in one table and are named by number, 0 being none; the ways from one to
// the next (lists of a stream, chains of a bucket) are numbers too.
//
// Addresses are found by linear hashing (Litwin 1980): there are about as many buckets as blocks, and a new
// block splits one bucket, so the table grows without ever being made anew. A search takes no lock: it reads
// a version before and after, and looks again when somebody wrote meanwhile. What it finds proves itself: the
// word of a record holds the address with its state in the low bits, and whoever wants the block exchanges
// that word as a whole, so a record that meanwhile stands for another block is not mistaken for this one.
#pragma once

#include <atomic>
#include <cstdint>

#include "platform/thread.h"
#include "src/device/block_source.h"
#include "src/paging/growing_memory.h"

namespace glebe::device {

using BlockNumber = std::uint32_t;
inline constexpr BlockNumber kNoBlock = 0;

// Low bits of Block::word; addresses are multiples of kDeviceAlignBytes.
enum class BlockState : std::uint64_t {
  none = 0,
  live,  // the program has it
  idle,  // freed: it waits in a stream, or is on its way back to the source
};
inline constexpr std::uint64_t kBlockStateMask = kDeviceAlignBytes - 1;
[[nodiscard]] constexpr std::uint64_t block_word(cuda::DevicePointer address, BlockState state) noexcept {
  return address | static_cast<std::uint64_t>(state);
}

// One cache line. Who changed the word to `live` last wrote the rest before; while a block is idle, the lock
// of the stream that has it guards everything but the word and the chain.
struct alignas(64) Block {
  std::atomic<std::uint64_t> word{0};
  std::uint64_t size_bytes = 0;           // asked of the source
  std::uint64_t wanted_bytes = 0;         // asked by the program
  std::uint64_t epoch = 0;                // of the stream in which it was freed
  std::atomic<BlockNumber> in_bucket{0};  // the next in the chain of its bucket
  BlockNumber next = 0, previous = 0;     // in the list of a stream; next: among unused records
  std::atomic<std::uint32_t> uses{0};     // first of the other streams that use it
  std::uint16_t size_class = 0;

  [[nodiscard]] cuda::DevicePointer address() const noexcept {
    return word.load(std::memory_order_relaxed) & ~kBlockStateMask;
  }
};
static_assert(sizeof(Block) == 64);

class BlockTable {
 public:
  constexpr BlockTable() noexcept = default;
  BlockTable(const BlockTable&) = delete;
  BlockTable& operator=(const BlockTable&) = delete;

  // Reserves addresses for `blocks_max` records, 68 bytes each; memory comes as they are used.
  [[nodiscard]] bool open(std::uint32_t blocks_max) noexcept;
  void close() noexcept;

  // A record that stands for nothing yet, with room for it in the hash; kNoBlock: no host memory, or as many
  // as there can be. Thread-safe, as all below.
  [[nodiscard]] BlockNumber take() noexcept;
  // Gives back a record that cannot be found (any more).
  void give(BlockNumber number) noexcept;
  // From now on the record stands for the block at `address`, and find() sees it. No other does.
  void show(BlockNumber number, cuda::DevicePointer address, BlockState state) noexcept;
  // find() does not see it any more; the word keeps the address.
  void hide(BlockNumber number) noexcept;

  // The record of the block that starts there; kNoBlock: there is none. Takes no lock unless others write
  // all the time.
  [[nodiscard]] BlockNumber find(cuda::DevicePointer address) noexcept;
  [[nodiscard]] Block& operator[](BlockNumber number) const noexcept { return blocks()[number]; }
  // Records [1, end) were used at some time. Not while others take records.
  [[nodiscard]] BlockNumber end() const noexcept { return end_; }

 private:
  using Bucket = std::atomic<BlockNumber>;
  static constexpr std::uint32_t kFirstBuckets = 1024;  // 4 KiB
  static constexpr std::uint32_t kStepsMax = 64, kTriesMax = 4;

  [[nodiscard]] Block* blocks() const noexcept { return reinterpret_cast<Block*>(block_memory_.base()); }
  [[nodiscard]] Bucket* buckets() const noexcept { return reinterpret_cast<Bucket*>(bucket_memory_.base()); }
  [[nodiscard]] static std::uint32_t bucket_of(cuda::DevicePointer address, std::uint32_t count) noexcept;
  // At most `steps_max` steps along a chain. *is_complete: the end was reached.
  [[nodiscard]] BlockNumber search(cuda::DevicePointer address, std::uint32_t steps_max,
                                   bool* is_complete) const noexcept;
  void split() noexcept;
  void begin_write() noexcept;
  void end_write() noexcept;

  paging::GrowingMemory block_memory_, bucket_memory_;
  std::atomic<std::uint32_t> bucket_count_{0};
  std::atomic<std::uint32_t> version_{0};  // odd while somebody writes
  os::Mutex mutex_;                        // of all that follows, and of writing
  std::uint32_t blocks_max_ = 0, taken_ = 0;
  BlockNumber end_ = 1, first_unused_ = kNoBlock;
};

}  // namespace glebe::device
