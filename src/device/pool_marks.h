// One bit for each place where a block can start: blocks that are on their way out (namespace glebe::device).
// A block whose free waits for a stream is live for the engine; the mark tells a second free from the first.
// Not thread-safe: the lock of the pool guards it.
#pragma once

#include <cstdint>

#include "src/device/gpu.h"
#include "src/paging/growing_memory.h"

namespace glebe::device {

class PoolMarks {
 public:
  // Places are multiples of `step_bytes` below `space_bytes`. False: no addresses for the bits.
  [[nodiscard]] bool open(std::uint64_t space_bytes, std::uint64_t step_bytes) noexcept {
    step_bytes_ = step_bytes;
    word_count_ = 0;
    count_ = 0;
    const std::uint64_t size_bytes = (space_bytes / step_bytes / 64 + 1) * sizeof(std::uint64_t);
    return words_.reserve(size_bytes, size_bytes, 4 * kKiB);
  }
  void close() noexcept {
    words_.release();
    word_count_ = 0;
  }

  [[nodiscard]] bool test(std::uint64_t offset) const noexcept {
    const std::uint64_t number = offset / step_bytes_;
    return number / 64 < word_count_ && (words()[number / 64] >> (number % 64) & 1) != 0;
  }
  // False: no memory for the bit.
  [[nodiscard]] bool set(std::uint64_t offset) noexcept {
    const std::uint64_t number = offset / step_bytes_;
    if (number / 64 >= word_count_) {
      if (!words_.grow_to((number / 64 + 1) * sizeof(std::uint64_t))) return false;
      word_count_ = number / 64 + 1;
    }
    words()[number / 64] |= std::uint64_t{1} << (number % 64);
    ++count_;
    return true;
  }
  // Of one that is set.
  void reset(std::uint64_t offset) noexcept {
    const std::uint64_t number = offset / step_bytes_;
    words()[number / 64] &= ~(std::uint64_t{1} << (number % 64));
    --count_;
  }
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }

 private:
  [[nodiscard]] std::uint64_t* words() const noexcept {
    return reinterpret_cast<std::uint64_t*>(words_.base());
  }

  std::uint64_t step_bytes_ = 1, word_count_ = 0, count_ = 0;
  paging::GrowingMemory words_;
};

}  // namespace glebe::device
