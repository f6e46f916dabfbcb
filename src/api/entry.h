// What malloc, glebe_malloc and operator new have in common: the calls of the heap with the errno rules of
// the C library (namespace glebe::api). The callers try heap::allocate_fast and heap::free_fast first,
// inline, and end in one of these as a tail call.
//
// Each reads the options before the heap is used first, sets errno to ENOMEM when it returns nullptr for want
// of memory, and leaves errno alone otherwise. All are thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/heap/allocate.h"

namespace glebe::api {

inline constexpr std::size_t kSizeMax = PTRDIFF_MAX;  // larger requests fail
inline constexpr std::size_t kDefaultAlignBytes = 16;  // of every block

// Counts the failure, sets errno and returns nullptr.
void* out_of_memory() noexcept;

[[nodiscard]] void* allocate_slow(std::size_t size_bytes) noexcept;
[[nodiscard]] void* allocate_zeroed(std::size_t count, std::size_t size_bytes) noexcept;

// `align_bytes` is a power of two.
[[nodiscard]] void* allocate_aligned(std::size_t size_bytes, std::size_t align_bytes) noexcept;

// realloc(3): nullptr allocates, size 0 frees.
[[nodiscard]] void* reallocate(void* block, std::size_t size_bytes) noexcept;

// nullptr is allowed.
void free_slow(void* block) noexcept;

// Checks first that a block of this size and alignment (0: default) can be meant.
void free_sized_slow(void* block, std::size_t size_bytes, std::size_t align_bytes) noexcept;

[[nodiscard]] inline void* allocate(std::size_t size_bytes) noexcept {
  if (void* block = heap::allocate_fast(size_bytes)) [[likely]] return block;
  return allocate_slow(size_bytes);
}
inline void free_block(void* block) noexcept {
  if (!heap::free_fast(block)) [[unlikely]] free_slow(block);
}
inline void free_block_sized(void* block, std::size_t size_bytes, std::size_t align_bytes) noexcept {
  if (!heap::free_fast(block)) [[unlikely]] free_sized_slow(block, size_bytes, align_bytes);
}

}  // namespace glebe::api
