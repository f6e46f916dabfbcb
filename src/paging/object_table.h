// The records of objects in page files: where an object lies and what proves that it is it (namespace
// glebe::paging).
//
// 32 bytes each, in memory that grows at its end; a record that is given back is used again under another
// generation. A handle names the record and 22 bits of its generation: what was dropped is found out until
// the record was used four million times more. Not thread-safe: the lock of the tier guards take() and put();
// find() may be called by whoever has the object, at any time.
#pragma once

#include <atomic>
#include <cstdint>

#include "src/base/check.h"
#include "src/paging/codec.h"
#include "src/paging/compressed_tier.h"
#include "src/paging/growing_memory.h"

namespace glebe::paging {

enum class ObjectState : std::uint8_t { vacant, live, parked };

struct FileObject {
  std::uint64_t checksum;
  std::uint32_t unit;        // the first one, in its file
  std::uint32_t generation;  // counts the uses of this record
  std::uint32_t hold_stamp;  // holds that had been made before it (file_tier.h)
  std::uint32_t next;        // of the vacant or of the parked records: index + 1
  std::uint16_t stored_less_1, size_less_1;
  std::uint16_t file;
  Form form;
  ObjectState state;

  // What its checksum knows besides its bytes.
  [[nodiscard]] std::uint64_t identity(std::uint32_t index) const noexcept {
    return std::uint64_t{generation} << 32 | index;
  }
  [[nodiscard]] std::uint32_t stored_bytes() const noexcept { return std::uint32_t{stored_less_1} + 1; }
  [[nodiscard]] std::uint32_t size_bytes() const noexcept { return std::uint32_t{size_less_1} + 1; }
};
static_assert(sizeof(FileObject) == 32);

class ObjectTable {
 public:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};

  // Addresses for as many records as the store may ever have. False: not even for a few.
  [[nodiscard]] bool open(std::uint64_t records_max) noexcept {
    constexpr std::uint64_t kLeast = 64 * 1024;
    const std::uint64_t wanted = records_max < kCapacityMax ? records_max : kCapacityMax;
    return memory_.reserve(wanted * sizeof(FileObject), kLeast * sizeof(FileObject), os::page_bytes());
  }

  // A record whose generation has not been seen yet, or kNone.
  [[nodiscard]] std::uint32_t take() noexcept {
    const std::uint32_t top = top_.load(std::memory_order_relaxed);
    std::uint32_t index = vacant_ - 1;
    if (vacant_ != 0) {
      vacant_ = at(index).next;
    } else {
      if (!memory_.grow_to((std::size_t{top} + 1) * sizeof(FileObject))) return kNone;
      index = top;
      top_.store(top + 1, std::memory_order_relaxed);
    }
    ++at(index).generation;
    at(index).state = ObjectState::live;
    return index;
  }
  void put(std::uint32_t index) noexcept {
    CHECK(at(index).state != ObjectState::vacant);
    at(index).state = ObjectState::vacant;
    at(index).next = vacant_;
    vacant_ = index + 1;
  }

  [[nodiscard]] FileObject& at(std::uint32_t index) noexcept {
    return reinterpret_cast<FileObject*>(memory_.base())[index];
  }

  [[nodiscard]] Handle handle(std::uint32_t index) noexcept {
    return static_cast<Handle>(HandleKind::file) | std::uint64_t{index} << kHandleKindBits |
           (std::uint64_t{at(index).generation} & kGenerationMask) << kGenerationShift;
  }
  [[nodiscard]] static std::uint32_t index_of(Handle handle) noexcept {
    return static_cast<std::uint32_t>(handle >> kHandleKindBits);
  }
  // The record of a live object; nullptr when the handle names none.
  [[nodiscard]] FileObject* find(Handle handle) noexcept {
    const std::uint32_t index = index_of(handle);
    if (index >= top_.load(std::memory_order_relaxed)) return nullptr;
    FileObject& object = at(index);
    const std::uint64_t generation = handle >> kGenerationShift;
    return object.state == ObjectState::live && (object.generation & kGenerationMask) == generation ? &object
                                                                                                    : nullptr;
  }

 private:
  static constexpr std::uint64_t kCapacityMax = std::uint64_t{1} << 30;
  static constexpr unsigned kGenerationShift = kHandleKindBits + 32;
  static constexpr std::uint64_t kGenerationMask = bit_range(0, kHandleBits - kGenerationShift);

  GrowingMemory memory_;
  std::atomic<std::uint32_t> top_{0};  // records ever used
  std::uint32_t vacant_ = 0;           // index + 1
};

}  // namespace glebe::paging
