// The debug option: fill patterns, and no caches, so that misuse is found at once (namespace glebe::heap).
//
// Small blocks go straight to and from their slab: a double or interior free is found when it happens, and a
// block is checked for writes since it was freed when it is handed out again. Patterns: memory of a new slab
// 0xFA and of a released one 0xFF; a block 0xA1 when it is allocated and 0xDE when it is freed. 0xDA and 0xDF
// are the patterns for device memory. Medium and large blocks are filled, but given back to the system: they
// are not checked at reuse.
#pragma once

#include "src/heap/heap.h"

namespace glebe::heap {

inline constexpr unsigned char kFillSlabNew = 0xFA, kFillSlabReleased = 0xFF;
inline constexpr unsigned char kFillAllocated = 0xA1, kFillFreed = 0xDE;

// A filled block of the class, or nullptr without memory.
[[nodiscard]] void* allocate_checked(Heap& heap, unsigned size_class) noexcept;

// Frees a block whose directory entry names a slot of `heap`, at once.
void free_checked(Heap& heap, unsigned size_class, void* block) noexcept;

void fill(void* block, std::size_t size_bytes, unsigned char pattern) noexcept;

}  // namespace glebe::heap
