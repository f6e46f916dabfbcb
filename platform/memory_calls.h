// The system calls that change mappings, past whatever libc or a preloaded library calls mmap (namespace
// glebe::os). Linux only.
//
// The preload library puts functions of its own in the place of mmap, munmap, mremap, mprotect and madvise
// (src/api/mapping.cpp), and inside the library these names mean its own. So everything below that layer goes
// to the kernel by these. Arguments and answers are the kernel's: an address, a count or 0, and -errno for a
// failure. errno is preserved. Safe in signal handlers and before libc is ready.
#pragma once

#include <cstddef>
#include <cstdint>

namespace glebe::os {

// What mmap(2) is asked for; protection and flags are its own bits.
struct MapRequest {
  void* address;
  std::size_t size_bytes;
  int protection;
  int flags;
  int descriptor;
  std::int64_t offset;
};
// What mremap(2) is asked for.
struct RemapRequest {
  void* address;
  std::size_t old_bytes, new_bytes;
  int flags;
  void* new_address;  // with MREMAP_FIXED and MREMAP_DONTUNMAP only
};

[[nodiscard]] long map_call(const MapRequest& request) noexcept;
[[nodiscard]] long remap_call(const RemapRequest& request) noexcept;
[[nodiscard]] int unmap_call(void* base, std::size_t size_bytes) noexcept;
[[nodiscard]] int protect_call(void* base, std::size_t size_bytes, int protection) noexcept;
[[nodiscard]] int advise_call(void* base, std::size_t size_bytes, int advice) noexcept;

// Answers between -4095 and -1 are failures; addresses never are.
[[nodiscard]] inline bool is_failure(long answer) noexcept { return answer < 0 && answer >= -4095; }

}  // namespace glebe::os
