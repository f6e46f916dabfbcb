// See stream_pool_blocks.h.
#include "src/device/stream_pool_blocks.h"

#include <new>

#include "src/base/bits.h"
#include "src/base/check.h"

namespace glebe::device {

using os::Lock;

bool BlockTable::open(std::uint32_t blocks_max) noexcept {
  const std::uint64_t records = std::uint64_t{blocks_max} + 1;  // number 0 stands for none
  const std::uint64_t buckets = blocks_max > kFirstBuckets ? blocks_max : kFirstBuckets;
  if (!block_memory_.reserve(records * sizeof(Block), records * sizeof(Block), 4 * kKiB) ||
      !bucket_memory_.reserve(buckets * sizeof(Bucket), buckets * sizeof(Bucket), 4 * kKiB) ||
      !bucket_memory_.grow_to(kFirstBuckets * sizeof(Bucket))) {
    close();
    return false;
  }
  blocks_max_ = blocks_max;
  bucket_count_.store(kFirstBuckets, std::memory_order_relaxed);
  taken_ = 0;
  end_ = 1;
  first_unused_ = kNoBlock;
  return true;
}

void BlockTable::close() noexcept {
  block_memory_.release();
  bucket_memory_.release();
  bucket_count_.store(0, std::memory_order_relaxed);
}

BlockNumber BlockTable::take() noexcept {
  const Lock lock(mutex_);
  if (taken_ == blocks_max_) return kNoBlock;
  // One more bucket for each block beyond the first ones: show() needs no memory.
  if (!bucket_memory_.grow_to((taken_ + 1) * sizeof(Bucket))) return kNoBlock;
  BlockNumber number = first_unused_;
  if (number != kNoBlock) {
    first_unused_ = blocks()[number].next;
  } else {
    number = end_;
    if (!block_memory_.grow_to((std::uint64_t{number} + 1) * sizeof(Block))) return kNoBlock;
    new (&blocks()[number]) Block;
    ++end_;
  }
  ++taken_;
  return number;
}

void BlockTable::give(BlockNumber number) noexcept {
  const Lock lock(mutex_);
  Block& block = blocks()[number];
  block.word.store(0, std::memory_order_relaxed);
  block.next = first_unused_;
  first_unused_ = number;
  --taken_;
}

// Addresses differ in their high bits and in those above the alignment: a product mixes both (Knuth).
std::uint32_t BlockTable::bucket_of(cuda::DevicePointer address, std::uint32_t count) noexcept {
  const std::uint64_t mixed = (address / kDeviceAlignBytes) * 0x9E3779B97F4A7C15u;
  const auto hash = static_cast<std::uint32_t>(mixed >> 32);
  const std::uint32_t round = std::uint32_t{1} << log2_floor(count);
  const std::uint32_t bucket = hash & (2 * round - 1);
  return bucket < count ? bucket : hash & (round - 1);
}

// Writers are serialised by the lock. Everything between is stored with release, so that who sees any of it
// sees that the version is odd too.
void BlockTable::begin_write() noexcept {
  version_.store(version_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}
void BlockTable::end_write() noexcept {
  version_.store(version_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

void BlockTable::show(BlockNumber number, cuda::DevicePointer address, BlockState state) noexcept {
  const Lock lock(mutex_);
  begin_write();
  if (taken_ > bucket_count_.load(std::memory_order_relaxed)) split();
  Bucket& bucket = buckets()[bucket_of(address, bucket_count_.load(std::memory_order_relaxed))];
  Block& block = blocks()[number];
  block.word.store(block_word(address, state), std::memory_order_release);
  block.in_bucket.store(bucket.load(std::memory_order_relaxed), std::memory_order_release);
  bucket.store(number, std::memory_order_release);
  end_write();
}

void BlockTable::hide(BlockNumber number) noexcept {
  const Lock lock(mutex_);
  const Block& block = blocks()[number];
  Bucket* link = &buckets()[bucket_of(block.address(), bucket_count_.load(std::memory_order_relaxed))];
  BlockNumber at = link->load(std::memory_order_relaxed);
  while (at != number) {
    CHECK(at != kNoBlock);
    link = &blocks()[at].in_bucket;
    at = link->load(std::memory_order_relaxed);
  }
  begin_write();
  link->store(block.in_bucket.load(std::memory_order_relaxed), std::memory_order_release);
  end_write();
}

// The bucket whose turn it is gives away those of its blocks that belong to the new one.
void BlockTable::split() noexcept {
  const std::uint32_t count = bucket_count_.load(std::memory_order_relaxed);
  const std::uint32_t from = count - (std::uint32_t{1} << log2_floor(count));
  BlockNumber at = buckets()[from].load(std::memory_order_relaxed);
  bucket_count_.store(count + 1, std::memory_order_release);
  BlockNumber kept = kNoBlock, moved = kNoBlock;
  while (at != kNoBlock) {
    Block& block = blocks()[at];
    const BlockNumber next = block.in_bucket.load(std::memory_order_relaxed);
    BlockNumber& first = bucket_of(block.address(), count + 1) == from ? kept : moved;
    block.in_bucket.store(first, std::memory_order_release);
    first = at;
    at = next;
  }
  buckets()[from].store(kept, std::memory_order_release);
  buckets()[count].store(moved, std::memory_order_release);
}

BlockNumber BlockTable::search(cuda::DevicePointer address, std::uint32_t steps_max,
                               bool* is_complete) const noexcept {
  const std::uint32_t count = bucket_count_.load(std::memory_order_acquire);
  BlockNumber at = buckets()[bucket_of(address, count)].load(std::memory_order_acquire);
  for (std::uint32_t step = 0; at != kNoBlock && step < steps_max; ++step) {
    const Block& block = blocks()[at];
    if ((block.word.load(std::memory_order_acquire) & ~kBlockStateMask) == address) return at;
    at = block.in_bucket.load(std::memory_order_acquire);
  }
  *is_complete = at == kNoBlock;
  return kNoBlock;
}

BlockNumber BlockTable::find(cuda::DevicePointer address) noexcept {
  if (address == 0 || !is_aligned(address, kDeviceAlignBytes)) return kNoBlock;
  bool is_complete = false;
  for (std::uint32_t attempt = 0; attempt < kTriesMax; ++attempt) {
    // The loads of the search are acquire, so the second look at the version comes after them.
    const std::uint32_t before = version_.load(std::memory_order_acquire);
    const BlockNumber found = search(address, kStepsMax, &is_complete);
    if (found != kNoBlock) return found;
    if (is_complete && before % 2 == 0 && version_.load(std::memory_order_relaxed) == before) return kNoBlock;
  }
  const Lock lock(mutex_);
  return search(address, UINT32_MAX, &is_complete);
}

}  // namespace glebe::device
