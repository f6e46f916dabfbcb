// The kernel's swap: hints what goes there, and what it holds (namespace glebe::os). Linux only. Reads small
// files of /proc and /sys; never allocates; thread-safe; errno preserved.
#pragma once

#include <cstddef>

namespace glebe::os {

// Hints to the kernel's own paging: take the pages out now, or sooner than others. (madvise(2), MADV_PAGEOUT
// and MADV_COLD.) False: refused for part of the range, or all of it.
bool page_out_by_kernel(void* base, std::size_t size_bytes) noexcept;
bool mark_cold(void* base, std::size_t size_bytes) noexcept;

[[nodiscard]] bool has_swap() noexcept;  // swap space; whether this process may use it is its memory cgroup's

// Bytes of this process that are in swap space (VmSwap, proc_pid_status(5)); 0 when it cannot be told.
[[nodiscard]] std::size_t swapped_bytes() noexcept;

// Swap space of the whole machine.
struct SwapSpace {
  std::size_t used_bytes;  // by pages that are out
  std::size_t ram_bytes;   // that zswap and zram take for the compressed ones among them
};
[[nodiscard]] SwapSpace look_at_swap() noexcept;

}  // namespace glebe::os
