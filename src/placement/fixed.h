// Equal blocks in a numbered range: one bit per block, 1 = free, in words that lie outside the managed range.
//
// FixedSlab is one run of blocks with its words given to every call: the small heap keeps the counters in a
// page record and the words elsewhere. FixedRange joins any number of runs to one range of 64-bit offsets.
// Neither has memory of its own, neither is thread-safe: the owner's lock guards the counters and the words.
// Blocks are handed out from the lowest free one upwards, so that the upper part of a range empties.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "src/base/bits.h"
#include "src/base/check.h"
#include "src/base/list.h"
#include "src/placement/result.h"

namespace glebe::placement {

inline constexpr std::uint32_t kWordBits = 64;

// Division of byte offsets by a block size through a multiplication.
//
// With inverse = ceil(2^35 / size) = (2^35 + e) / size, 0 <= e < size, the product offset * inverse / 2^35
// exceeds offset / size by offset * e / (size * 2^35). The floor is right as long as that is below 1 / size,
// that is offset * e < 2^35; here offset < 2^18 and e < 2^15. The inverse of 16, the smallest size, is 2^31:
// 32 bits hold all.
inline constexpr unsigned kInverseShift = 35;
inline constexpr std::uint32_t kInverseOffsetMax = std::uint32_t{1} << 18;  // offsets below this
inline constexpr std::uint32_t kInverseSizeMin = 16;
inline constexpr std::uint32_t kInverseSizeMax = std::uint32_t{1} << 15;

[[nodiscard]] constexpr std::uint32_t block_inverse(std::uint32_t block_bytes) noexcept {
  return static_cast<std::uint32_t>(divide_up(std::uint64_t{1} << kInverseShift, block_bytes));
}
// Index of the block that contains the byte at `offset`: exact for every offset below kInverseOffsetMax.
[[nodiscard]] constexpr std::uint32_t block_index(std::uint32_t offset, std::uint32_t inverse) noexcept {
  return static_cast<std::uint32_t>((std::uint64_t{offset} * inverse) >> kInverseShift);
}
// Whether a block starts at `offset`, whose block has the number `index`.
[[nodiscard]] constexpr bool is_block_start(std::uint32_t offset, std::uint32_t index,
                                            std::uint32_t block_bytes) noexcept {
  return index * block_bytes == offset;
}

// Block size for a request and an alignment: the size rounded up to a multiple of the alignment, which need
// not be a power of two (512 at 100 gives 600). 0 when one of them is 0 or the result does not fit.
[[nodiscard]] constexpr std::uint64_t fixed_block_bytes(std::uint64_t size_bytes,
                                                        std::uint64_t alignment) noexcept {
  if (size_bytes == 0 || alignment == 0 || size_bytes > ~std::uint64_t{0} - (alignment - 1)) return 0;
  return divide_up(size_bytes, alignment) * alignment;
}

// A run of at most 2^32 - 64 equal blocks. `words` is always the same array of word_count(block_count) words.
struct FixedSlab {
  std::uint32_t free_count = 0;
  std::uint32_t block_count = 0;
  std::uint32_t hint_word = 0;  // no word in front of this one has a free block

  [[nodiscard]] static constexpr std::uint32_t word_count(std::uint32_t blocks) noexcept {
    return blocks / kWordBits + (blocks % kWordBits != 0 ? 1u : 0u);
  }

  [[nodiscard]] bool is_full() const noexcept { return free_count == 0; }
  [[nodiscard]] bool is_empty() const noexcept { return free_count == block_count; }

  // All blocks free. Bits behind the last block stay 0 for ever: they are never handed out, never accepted.
  void init(std::uint64_t* words, std::uint32_t blocks) noexcept {
    free_count = blocks;
    block_count = blocks;
    hint_word = 0;
    const std::uint32_t full_words = blocks / kWordBits;
    for (std::uint32_t at = 0; at < full_words; ++at) words[at] = ~std::uint64_t{0};
    if (blocks % kWordBits != 0) words[full_words] = bit_range(0, blocks % kWordBits);
  }

  [[nodiscard]] bool is_free(const std::uint64_t* words, std::uint32_t index) const noexcept {
    ASSERT(index < block_count);
    return (words[index / kWordBits] >> (index % kWordBits) & 1) != 0;
  }

  // How many blocks take_batch() would take.
  [[nodiscard]] std::uint32_t batch_size(std::uint32_t count_max) const noexcept {
    return count_max < free_count ? count_max : free_count;
  }

  // Takes up to `count_max` free blocks, the lowest first, and calls sink(index) for each in ascending order.
  // Returns how many. The sink does not touch this slab.
  template <typename Sink>
  std::uint32_t take_batch(std::uint64_t* words, std::uint32_t count_max, Sink&& sink) noexcept {
    const std::uint32_t wanted = batch_size(count_max);
    std::uint32_t left = wanted;
    std::uint32_t at = hint_word;
    while (left != 0) {
      // free_count promises that a free bit lies ahead.
      while (words[at] == 0) ++at;
      std::uint64_t word = words[at];
      for (; word != 0 && left != 0; word &= word - 1, --left) {
        sink(at * kWordBits + static_cast<std::uint32_t>(std::countr_zero(word)));
      }
      words[at] = word;
    }
    ASSERT(wanted == 0 || at < word_count(block_count));
    hint_word = at;
    free_count -= wanted;
    return wanted;
  }

  // Takes the lowest free block. The slab is not full.
  [[nodiscard]] std::uint32_t take(std::uint64_t* words) noexcept {
    ASSERT(!is_full());
    std::uint32_t at = hint_word;
    while (words[at] == 0) ++at;
    hint_word = at;
    --free_count;
    const unsigned bit = static_cast<unsigned>(std::countr_zero(words[at]));
    words[at] &= words[at] - 1;
    return at * kWordBits + bit;
  }

  // Gives one block back. Unless the answer is ok nothing has changed.
  [[nodiscard]] Status put(std::uint64_t* words, std::uint32_t index) noexcept {
    if (index >= block_count) return Status::out_of_range;
    const std::uint32_t at = index / kWordBits;
    const std::uint64_t bit = std::uint64_t{1} << (index % kWordBits);
    if ((words[at] & bit) != 0) return Status::double_free;
    words[at] |= bit;
    ++free_count;
    if (at < hint_word) hint_word = at;
    return Status::ok;
  }

  // Gives the blocks [64 * at, 64 * at + 64) back whose bit is set in `mask`: all of them, or none unless ok.
  [[nodiscard]] Status put_mask(std::uint64_t* words, std::uint32_t at, std::uint64_t mask) noexcept {
    return put_counted(words, at, mask, count_bits(mask));
  }
  // The same when the number of bits in `mask` is known.
  [[nodiscard]] Status put_counted(std::uint64_t* words, std::uint32_t at, std::uint64_t mask,
                                   std::uint32_t count) noexcept {
    if (mask == 0) return Status::ok;
    if (at >= word_count(block_count)) return Status::out_of_range;
    if ((mask & ~valid_bits(at)) != 0) return Status::out_of_range;
    if ((words[at] & mask) != 0) return Status::double_free;
    words[at] |= mask;
    free_count += count;
    if (at < hint_word) hint_word = at;
    return Status::ok;
  }

  // Calls sink(index) for each block that is in use, in ascending order. For heap walks.
  template <typename Sink>
  void for_each_used(const std::uint64_t* words, Sink&& sink) const noexcept {
    for (std::uint32_t at = 0; at < word_count(block_count); ++at) {
      expand(~words[at] & valid_bits(at), at * kWordBits, sink);
    }
  }

  // Whether counters and words agree. For tests and debug builds.
  [[nodiscard]] bool validate(const std::uint64_t* words) const noexcept {
    std::uint64_t seen = 0;
    for (std::uint32_t at = 0; at < word_count(block_count); ++at) {
      if ((words[at] & ~valid_bits(at)) != 0) return false;
      if (at < hint_word && words[at] != 0) return false;
      seen += count_bits(words[at]);
    }
    return seen == free_count;
  }

 private:
  // The bits of word `at` that stand for blocks.
  [[nodiscard]] std::uint64_t valid_bits(std::uint32_t at) const noexcept {
    const std::uint32_t left = block_count - at * kWordBits;
    return left >= kWordBits ? ~std::uint64_t{0} : bit_range(0, left);
  }
  template <typename Sink>
  static void expand(std::uint64_t bits, std::uint32_t first, Sink& sink) noexcept {
    for (; bits != 0; bits &= bits - 1) {
      sink(first + static_cast<std::uint32_t>(std::countr_zero(bits)));
    }
  }
};

// One added range of a FixedRange; lives at the start of the metadata that the caller gave with it.
struct FixedChunk : ListNode<> {
  std::uint64_t range_offset = 0;  // as added
  std::uint64_t range_bytes = 0;
  std::uint64_t first_offset = 0;  // of block 0, aligned
  FixedSlab slab;
  std::uint64_t* words = nullptr;
};

// Equal blocks in ranges of 64-bit offsets that come and go. With block size 1 it hands out numbers.
class FixedRange {
 public:
  // `block_bytes` and `alignment` as rounded by fixed_block_bytes(); a block starts at a multiple of
  // `alignment`. `table` has room for as many ranges as may be added at the same time. Both outlive the
  // engine.
  FixedRange(std::uint64_t block_bytes, std::uint64_t alignment, std::span<FixedChunk*> table) noexcept
      : block_bytes_(fixed_block_bytes(block_bytes, alignment)), alignment_(alignment), table_(table) {}
  FixedRange(const FixedRange&) = delete;
  FixedRange& operator=(const FixedRange&) = delete;

  // Bytes of metadata, aligned to 8, for a range of `block_count` blocks.
  [[nodiscard]] static constexpr std::size_t bytes_needed(std::uint32_t block_count) noexcept {
    return sizeof(FixedChunk) + sizeof(std::uint64_t) * FixedSlab::word_count(block_count);
  }
  // How many blocks the range would give.
  [[nodiscard]] std::uint64_t blocks_in(std::uint64_t offset, std::uint64_t size_bytes) const noexcept;

  // Adds [offset, offset + size_bytes), which overlaps no other range. Fails with bad_argument (no block
  // fits, more than 2^31 blocks, the end wraps, overlap, engine with block size 0) or exhausted (table full,
  // metadata short).
  [[nodiscard]] Status add_range(std::uint64_t offset, std::uint64_t size_bytes,
                                 std::span<std::byte> metadata) noexcept;
  // Takes back exactly one range as it was added; its metadata belongs to the caller again. Fails with
  // out_of_range (no such range) or in_use (live blocks in it).
  [[nodiscard]] Status remove_range(std::uint64_t offset, std::uint64_t size_bytes) noexcept;
  // Forgets all ranges, with whatever is live in them.
  void clear() noexcept;

  // One block for `size_bytes` <= block size at an offset that is a multiple of `alignment`, one that divides
  // the alignment of the engine. Fails with bad_argument (0, or such an alignment), too_large or exhausted.
  [[nodiscard]] Placement allocate(std::uint64_t size_bytes, std::uint64_t alignment = 1) noexcept;
  // Gives the block back that starts at `offset`.
  [[nodiscard]] Status free(std::uint64_t offset) noexcept;

  [[nodiscard]] std::uint64_t block_bytes() const noexcept { return block_bytes_; }
  [[nodiscard]] std::uint64_t block_count() const noexcept { return block_count_; }
  [[nodiscard]] std::uint64_t free_count() const noexcept { return free_count_; }
  [[nodiscard]] std::uint64_t free_bytes() const noexcept { return free_count_ * block_bytes_; }
  [[nodiscard]] bool is_full() const noexcept { return free_count_ == 0; }
  [[nodiscard]] std::size_t range_count() const noexcept { return range_count_; }
  // The range that holds `offset`, nullptr if none does. Valid until ranges are added or removed.
  [[nodiscard]] const FixedChunk* range_at(std::uint64_t offset) const noexcept { return find(offset); }
  [[nodiscard]] bool validate() const noexcept;

 private:
  // Number of ranges in the table that start at or in front of `offset`.
  [[nodiscard]] std::size_t ranges_up_to(std::uint64_t offset) const noexcept;
  [[nodiscard]] FixedChunk* find(std::uint64_t offset) const noexcept;
  [[nodiscard]] bool overlaps(std::uint64_t offset, std::uint64_t size_bytes) const noexcept;

  std::uint64_t block_bytes_;
  std::uint64_t alignment_;
  std::span<FixedChunk*> table_;  // the first range_count_ entries, sorted by offset
  std::size_t range_count_ = 0;
  std::uint64_t block_count_ = 0;
  std::uint64_t free_count_ = 0;
  List<FixedChunk> partial_;  // ranges with free blocks; the one that is drawn from stands in front
};

}  // namespace glebe::placement
