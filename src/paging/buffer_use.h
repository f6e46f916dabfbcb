// Holds a buffer for the length of an operation. Part of BufferPager; see Buffer::life.
#pragma once

#include "src/paging/buffer_pager.h"

namespace glebe::paging {

struct BufferPager::Use {
  Use(BufferPager& owner, BufferHandle handle) noexcept : pager(owner), buffer(owner.record_of(handle)) {
    if (buffer != nullptr && !pager.hold(*buffer, static_cast<std::uint32_t>(handle >> 32))) buffer = nullptr;
  }
  ~Use() {
    if (buffer != nullptr) pager.let_go(*buffer, 0, 1);
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  // The hold goes on after this object; somebody calls let_go().
  Buffer* keep() noexcept {
    Buffer* const kept = buffer;
    buffer = nullptr;
    return kept;
  }

  BufferPager& pager;
  Buffer* buffer;  // nullptr: the handle names nothing
};

}  // namespace glebe::paging
