// How much memory the control group and the machine have left, and whether tasks wait for memory (namespace
// glebe::os). Linux only. Reads small files of /proc and /sys; never allocates; thread-safe; errno preserved.
#pragma once

#include <cstddef>
#include <cstdint>

namespace glebe::os {

// In bytes; 0 where the system does not tell.
struct MemoryPressure {
  // Of the nearest control group of this process that has a limit, itself or one above it; without one, of
  // the innermost that counts memory.
  std::size_t group_used;
  std::size_t group_limit;                       // the smaller of memory.high and memory.max; SIZE_MAX: none
  std::size_t machine_total, machine_available;  // MemTotal, MemAvailable
  // Share of the last ten seconds in which at least one task of the group (or of the machine) waited for
  // memory, in millionths (pressure stall information).
  std::uint32_t stalled;
};
[[nodiscard]] MemoryPressure memory_pressure() noexcept;

}  // namespace glebe::os
