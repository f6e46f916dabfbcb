// Memory of the host that several processes see (namespace glebe::os). Linux only.
//
// It is a file without a name, handed over by its descriptor. Its size is sealed, so that nobody who has it
// can make a page of it disappear under the others. Nothing here allocates; thread-safe; errno is preserved.
#pragma once

#include <cstddef>

namespace glebe::os {

struct SharedMemory {
  std::byte* base = nullptr;   // nullptr: the system refused
  std::size_t size_bytes = 0;  // of the mapping
  int descriptor = -1;         // the caller's to close, or to hand over
};

// Zeros, of at least that size, readable and writable, at a page border.
[[nodiscard]] SharedMemory make_shared_memory(std::size_t size_bytes) noexcept;
// The memory that a descriptor stands for, which stays the caller's. Refused: anything that is not sealed,
// and less than `size_bytes`.
[[nodiscard]] SharedMemory open_shared_memory(int descriptor, std::size_t size_bytes) noexcept;
// Takes the mapping away; the descriptor stays.
void unmap_shared_memory(const SharedMemory& memory) noexcept;

}  // namespace glebe::os
