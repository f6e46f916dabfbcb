// Which other streams use a block (namespace glebe::device). Part of stream_pool.h: most blocks are used by
// one stream, so these are entries of a table, chained by number, and not a part of the block's record.
#pragma once

#include <cstdint>

#include "platform/thread.h"
#include "src/paging/growing_memory.h"

namespace glebe::device {

inline constexpr std::uint32_t kNoUse = 0;

struct StreamUse {
  std::uint64_t epoch = 0;  // of that slot: the use is over when it is reached
  std::uint32_t slot = 0, generation = 0;
  std::uint32_t next = kNoUse;
};

class UseTable {
 public:
  constexpr UseTable() noexcept = default;
  UseTable(const UseTable&) = delete;
  UseTable& operator=(const UseTable&) = delete;

  [[nodiscard]] bool open(std::uint32_t uses_max) noexcept {
    uses_max_ = uses_max;
    end_ = 1;
    first_unused_ = kNoUse;
    const std::uint64_t bytes = (std::uint64_t{uses_max} + 1) * sizeof(StreamUse);
    return memory_.reserve(bytes, bytes, 4 * kKiB);
  }
  void close() noexcept { memory_.release(); }

  // An entry; kNoUse: no host memory. Thread-safe.
  [[nodiscard]] std::uint32_t take() noexcept {
    const os::Lock lock(mutex_);
    std::uint32_t number = first_unused_;
    if (number != kNoUse) {
      first_unused_ = (*this)[number].next;
      return number;
    }
    if (end_ > uses_max_ || !memory_.grow_to((std::uint64_t{end_} + 1) * sizeof(StreamUse))) return kNoUse;
    return end_++;
  }
  // Gives back a whole chain. Thread-safe.
  void give(std::uint32_t first) noexcept {
    const os::Lock lock(mutex_);
    while (first != kNoUse) {
      const std::uint32_t next = (*this)[first].next;
      (*this)[first].next = first_unused_;
      first_unused_ = first;
      first = next;
    }
  }
  [[nodiscard]] StreamUse& operator[](std::uint32_t number) const noexcept {
    return reinterpret_cast<StreamUse*>(memory_.base())[number];
  }

 private:
  os::Mutex mutex_;
  paging::GrowingMemory memory_;
  std::uint32_t uses_max_ = 0, end_ = 1, first_unused_ = kNoUse;
};

}  // namespace glebe::device
