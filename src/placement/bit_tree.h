// A bitmap that finds its lowest clear bit in a bounded number of steps, however full it is.
//
// Level 0 has one bit per item, 1 = taken. A bit of a higher level is 1 when the whole word below it is
// taken; the top level is a single word. Bits behind the capacity are taken on every level. The words are the
// caller's and all zero at init, which then writes one word per level only: a large map over untouched memory
// costs nothing until it is used. Not thread-safe.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "src/base/bits.h"
#include "src/base/check.h"

namespace glebe::placement {

class BitTree {
 public:
  static constexpr unsigned kLevelsMax = 4;
  static constexpr std::uint32_t kCapacityMax = std::uint32_t{1} << 24;  // 64^4
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};

  // Words for a map of `capacity` items, 1 .. kCapacityMax.
  [[nodiscard]] static constexpr std::size_t words_needed(std::uint32_t capacity) noexcept {
    std::size_t words = 0;
    std::uint64_t items = capacity;
    do {
      items = divide_up(items, 64);
      words += items;
    } while (items > 1);
    return words;
  }

  // Everything clear. `words` holds words_needed(capacity) zeros.
  void init(std::uint64_t* words, std::uint32_t capacity) noexcept {
    CHECK(capacity > 0);
    CHECK(capacity <= kCapacityMax);
    capacity_ = capacity;
    level_count_ = 0;
    std::uint64_t items = capacity;
    do {
      const std::uint64_t word_count = divide_up(items, 64);
      levels_[level_count_++] = words;
      if (items % 64 != 0) words[word_count - 1] = ~bit_range(0, static_cast<unsigned>(items % 64));
      words += word_count;
      items = word_count;
    } while (items > 1);
  }

  [[nodiscard]] std::uint32_t capacity() const noexcept { return capacity_; }
  [[nodiscard]] bool test(std::uint32_t item) const noexcept {
    ASSERT(item < capacity_);
    return (levels_[0][item / 64] >> (item % 64) & 1) != 0;
  }

  void set(std::uint32_t item) noexcept {
    ASSERT(item < capacity_);
    for (unsigned level = 0; level < level_count_; ++level) {
      std::uint64_t& word = levels_[level][item / 64];
      word |= std::uint64_t{1} << (item % 64);
      if (word != ~std::uint64_t{0}) return;
      item /= 64;
    }
  }

  void clear(std::uint32_t item) noexcept {
    ASSERT(item < capacity_);
    for (unsigned level = 0; level < level_count_; ++level) {
      std::uint64_t& word = levels_[level][item / 64];
      const bool was_full = word == ~std::uint64_t{0};
      word &= ~(std::uint64_t{1} << (item % 64));
      if (!was_full) return;
      item /= 64;
    }
  }

  // The lowest clear item, kNone when all are taken.
  [[nodiscard]] std::uint32_t find_first_clear() const noexcept {
    std::uint32_t item = 0;
    for (unsigned level = level_count_; level > 0; --level) {
      const std::uint64_t clear_bits = ~levels_[level - 1][item];
      if (clear_bits == 0) {
        ASSERT(level == level_count_);  // only the top may be full: below it the parent's bit promised room
        return kNone;
      }
      item = item * 64 + static_cast<std::uint32_t>(std::countr_zero(clear_bits));
    }
    return item;
  }

  // The lowest set item that is not below `from`, kNone when there is none. Walks words; for lists of what is
  // taken.
  [[nodiscard]] std::uint32_t find_set_from(std::uint32_t from) const noexcept {
    for (std::uint32_t at = from; at < capacity_; at = (at / 64 + 1) * 64) {
      const std::uint64_t bits = levels_[0][at / 64] & (~std::uint64_t{0} << (at % 64));
      if (bits == 0) continue;
      const std::uint32_t found = at / 64 * 64 + static_cast<std::uint32_t>(std::countr_zero(bits));
      return found < capacity_ ? found : kNone;
    }
    return kNone;
  }

  // Whether every level says of the one below what it should. For tests and debug builds.
  [[nodiscard]] bool validate() const noexcept {
    std::uint32_t items = capacity_;
    for (unsigned level = 0; level < level_count_; ++level) {
      const std::uint32_t word_count = (items + 63) / 64;
      for (std::uint32_t item = 0; item < word_count * 64; ++item) {
        const bool is_set = (levels_[level][item / 64] >> (item % 64) & 1) != 0;
        if (item >= items && !is_set) return false;
        if (item >= items || level == 0) continue;
        if (is_set != (levels_[level - 1][item] == ~std::uint64_t{0})) return false;
      }
      items = word_count;
    }
    return items == 1;
  }

 private:
  std::uint64_t* levels_[kLevelsMax] = {};
  std::uint32_t capacity_ = 0;
  unsigned level_count_ = 0;
};

}  // namespace glebe::placement
