// Memory for our own records: heap objects, magazines, rings (namespace glebe::vm).
//
// A bump arena at the front of each region, apart from every block. What is taken is never given back: each
// user keeps its own list of records to reuse, so the arena is bounded by the peak number of records.
#pragma once

#include <cstddef>

namespace glebe::vm {

// Zeroed memory, aligned to `align_bytes` (a power of two, at most 64 KiB), or nullptr. Thread-safe.
[[nodiscard]] void* metadata_allocate(std::size_t size_bytes, std::size_t align_bytes) noexcept;

}  // namespace glebe::vm
