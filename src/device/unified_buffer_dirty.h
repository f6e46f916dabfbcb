// Which units of 64 KiB of a unified buffer differ between host and device (namespace glebe::device): a
// bitmap, in place for buffers of up to 16 MiB, in memory of its own for larger ones. Not thread-safe: who
// changes the buffer has it alone.
#pragma once

#include <bit>
#include <cstdint>

#include "platform/vm.h"
#include "src/base/bits.h"

namespace glebe::device {

inline constexpr std::uint64_t kUnifiedUnitBytes = 64 * kKiB;

struct UnitRange {
  std::uint64_t first = 0, end = 0;
  [[nodiscard]] constexpr bool is_empty() const noexcept { return first >= end; }
};

class DirtyMap {
 public:
  DirtyMap() noexcept = default;
  ~DirtyMap() { close(); }
  DirtyMap(const DirtyMap&) = delete;
  DirtyMap& operator=(const DirtyMap&) = delete;

  // Makes room for a buffer of that size and keeps what is dirty. False: no memory; nothing has changed.
  [[nodiscard]] bool make_room(std::uint64_t size_bytes) noexcept {
    const std::uint64_t units = divide_up(size_bytes, kUnifiedUnitBytes);
    const std::size_t needed_bytes = divide_up(units, 64) * sizeof(std::uint64_t);
    if (needed_bytes <= room_bytes()) return true;
    const std::size_t bytes = align_up(needed_bytes, os::page_bytes());
    void* memory = os::reserve(bytes, os::page_bytes());
    if (memory == nullptr) return false;
    if (!os::commit(memory, bytes)) {
      os::release(memory, bytes);
      return false;
    }
    auto* more = static_cast<std::uint64_t*>(memory);
    for (std::uint64_t i = 0; i < divide_up(units_, 64); ++i) more[i] = words()[i];
    if (memory_ != nullptr) os::release(memory_, memory_bytes_);
    memory_ = more;
    memory_bytes_ = bytes;
    return true;
  }
  // The buffer has that size now, for which there is room; nothing is dirty.
  void start(std::uint64_t size_bytes) noexcept {
    clear_all();
    units_ = divide_up(size_bytes, kUnifiedUnitBytes);
  }
  void close() noexcept {
    clear_all();
    if (memory_ != nullptr) os::release(memory_, memory_bytes_);
    memory_ = nullptr;
    memory_bytes_ = 0;
    units_ = 0;
  }

  [[nodiscard]] UnitRange all() const noexcept { return {0, units_}; }
  [[nodiscard]] bool any() const noexcept { return count_ != 0; }
  [[nodiscard]] bool is_set(std::uint64_t unit) const noexcept {
    return (words()[unit / 64] >> (unit % 64) & 1) != 0;
  }
  // Bytes of the dirty units in a buffer of that size.
  [[nodiscard]] std::uint64_t bytes(std::uint64_t size_bytes) const noexcept {
    const std::uint64_t beyond = units_ * kUnifiedUnitBytes - size_bytes;
    return count_ * kUnifiedUnitBytes - (count_ != 0 && is_set(units_ - 1) ? beyond : 0);
  }

  void set(UnitRange range) noexcept { change(range, true); }
  void clear(UnitRange range) noexcept { change(range, false); }
  void clear_all() noexcept {
    if (count_ != 0) change(all(), false);
  }

  // The first run of dirty units within `within`; empty: there is none.
  [[nodiscard]] UnitRange next_run(UnitRange within) const noexcept {
    const std::uint64_t first = find(within, true);
    return {first, find({first, within.end}, false)};
  }

 private:
  static constexpr std::uint64_t kWordsInPlace = 4;

  [[nodiscard]] std::size_t room_bytes() const noexcept {
    return memory_ != nullptr ? memory_bytes_ : sizeof in_place_;
  }
  [[nodiscard]] std::uint64_t* words() noexcept { return memory_ != nullptr ? memory_ : in_place_; }
  [[nodiscard]] const std::uint64_t* words() const noexcept {
    return memory_ != nullptr ? memory_ : in_place_;
  }

  // Word by word: the bits of a range in one of them.
  [[nodiscard]] static std::uint64_t mask_of(std::uint64_t word, UnitRange range) noexcept {
    const std::uint64_t from = range.first > word * 64 ? range.first - word * 64 : 0;
    const std::uint64_t to = range.end < (word + 1) * 64 ? range.end - word * 64 : 64;
    return bit_range(static_cast<unsigned>(from), static_cast<unsigned>(to - from));
  }
  void change(UnitRange range, bool is_dirty) noexcept {
    if (range.is_empty()) return;
    for (std::uint64_t i = range.first / 64; i <= (range.end - 1) / 64; ++i) {
      std::uint64_t& word = words()[i];
      count_ -= count_bits(word);
      word = is_dirty ? word | mask_of(i, range) : word & ~mask_of(i, range);
      count_ += count_bits(word);
    }
  }
  // The first unit with that value, or the end.
  [[nodiscard]] std::uint64_t find(UnitRange within, bool value) const noexcept {
    if (within.is_empty()) return within.end;
    for (std::uint64_t i = within.first / 64; i <= (within.end - 1) / 64; ++i) {
      const std::uint64_t word = (value ? words()[i] : ~words()[i]) & mask_of(i, within);
      if (word != 0) return i * 64 + static_cast<unsigned>(std::countr_zero(word));
    }
    return within.end;
  }

  std::uint64_t in_place_[kWordsInPlace] = {};
  std::uint64_t* memory_ = nullptr;  // instead of in_place_, if there is one
  std::size_t memory_bytes_ = 0;
  std::uint64_t units_ = 0, count_ = 0;  // in all; dirty
};

}  // namespace glebe::device
