// Memory of the library's own (namespace glebe::paging): mapped, zero, never in the heap; the system gives
// pages as they are written. For tables, for what one thread of the pager works with, and for objects behind
// handles of the C interface. Given back by unmap_own() and end_own() only.
#pragma once

#include <cstddef>
#include <new>

#include "platform/process.h"
#include "platform/vm.h"
#include "src/base/bits.h"

namespace glebe::paging {

// At least `size_bytes`, page aligned. nullptr: no addresses, or no commit charge.
[[nodiscard]] inline void* map_own(std::size_t size_bytes) noexcept {
  const std::size_t bytes = align_up(size_bytes, os::page_bytes());
  void* base = os::reserve(bytes, os::page_bytes());
  if (base == nullptr || os::commit(base, bytes)) return base;
  os::release(base, bytes);
  return nullptr;
}

// Gives back what map_own() made with the same size.
inline void unmap_own(void* base, std::size_t size_bytes) noexcept {
  os::release(base, align_up(size_bytes, os::page_bytes()));
}

// An object in pages of its own. nullptr as above.
template <class Object>
[[nodiscard]] Object* make_own() noexcept {
  static_assert(alignof(Object) <= 4096);
  void* memory = map_own(sizeof(Object));
  return memory != nullptr ? new (memory) Object : nullptr;
}

// The end of an object of make_own().
template <class Object>
void end_own(Object* object) noexcept {
  object->~Object();
  unmap_own(object, sizeof(Object));
}

}  // namespace glebe::paging
