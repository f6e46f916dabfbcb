// A batch of objects on their way to the page files (namespace glebe::paging). Its memory is laid out as the
// file will be: each object begins at a multiple of a unit, so that one write carries any number of
// neighbours. Belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/base/bits.h"
#include "src/paging/codec.h"
#include "src/paging/file_space.h"

namespace glebe::paging {

struct BatchEntry {
  Handle written;              // kNoObject until it is
  std::uint32_t offset_bytes;  // in the batch
  std::uint32_t stored_bytes, size_bytes;
  std::uint32_t index;  // of its record, while it is being written
  Form form;

  [[nodiscard]] std::uint32_t units() const noexcept {
    return static_cast<std::uint32_t>(divide_up(stored_bytes, kUnitBytes));
  }
};

struct BatchParts {
  explicit BatchParts(Batch& batch) noexcept
      : data(batch.base_),
        entries(reinterpret_cast<BatchEntry*>(batch.base_ + kBatchBytes + kPageBytes)),
        count(batch.count_) {}

  // One object where it lies, which nobody writes to by way of this.
  BatchParts(const std::byte* object, BatchEntry* entry) noexcept
      : data(const_cast<std::byte*>(object)), entries(entry), count(1) {}

  // Copies an object into the batch. False: no room.
  [[nodiscard]] static bool add(Batch& batch, const Stored& stored) noexcept;

  std::byte* data;  // and a page behind it, which direct I/O may write as the end of the last sector
  BatchEntry* entries;
  unsigned count;
};

}  // namespace glebe::paging
