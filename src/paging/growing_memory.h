// Memory that grows at its end: addresses are reserved at once, memory is committed in steps as it is used
// (namespace glebe::paging). What was committed reads as zero at first. Not thread-safe: the owner's lock
// guards grow_to(); what lies below the size that it allowed may be used by any thread.
#pragma once

#include <cstddef>

#include "platform/vm.h"
#include "src/base/bits.h"

namespace glebe::paging {

class GrowingMemory {
 public:
  GrowingMemory() noexcept = default;
  ~GrowingMemory() { release(); }
  GrowingMemory(const GrowingMemory&) = delete;
  GrowingMemory& operator=(const GrowingMemory&) = delete;

  // Reserves `wanted_bytes`, or half of it again and again while the system refuses, but no less than
  // `least_bytes`. Both are rounded up to `align_bytes`, to which the base is aligned: a power of two, at
  // least a page.
  [[nodiscard]] bool reserve(std::size_t wanted_bytes, std::size_t least_bytes,
                             std::size_t align_bytes) noexcept {
    release();
    for (std::size_t size = wanted_bytes;; size /= 2) {
      const std::size_t rounded = align_up(size < least_bytes ? least_bytes : size, align_bytes);
      base_ = static_cast<std::byte*>(os::reserve(rounded, align_bytes));
      reserved_bytes_ = base_ != nullptr ? rounded : 0;
      if (base_ != nullptr || size <= least_bytes) return base_ != nullptr;
    }
  }

  // Makes the first `size_bytes` usable. False: beyond the reservation, or no memory; nothing has changed.
  [[nodiscard]] bool grow_to(std::size_t size_bytes) noexcept {
    if (size_bytes <= committed_bytes_) return true;
    if (size_bytes > reserved_bytes_) return false;
    // An eighth more than before, so that few calls are made for much memory and little is charged for few.
    std::size_t end = align_up(size_bytes + committed_bytes_ / 8, kStepBytes);
    if (end > reserved_bytes_) end = reserved_bytes_;
    if (!os::commit(base_ + committed_bytes_, end - committed_bytes_)) return false;
    committed_bytes_ = end;
    return true;
  }

  void release() noexcept {
    if (base_ != nullptr) os::release(base_, reserved_bytes_);
    base_ = nullptr;
    reserved_bytes_ = committed_bytes_ = 0;
  }

  [[nodiscard]] std::byte* base() const noexcept { return base_; }
  [[nodiscard]] std::size_t reserved_bytes() const noexcept { return reserved_bytes_; }

 private:
  static constexpr std::size_t kStepBytes = 64 * kKiB;

  std::byte* base_ = nullptr;
  std::size_t reserved_bytes_ = 0;
  std::size_t committed_bytes_ = 0;
};

}  // namespace glebe::paging
