// What the kernel says about this process and this machine. The process figures are read without allocating.
#pragma once

#include <cstdint>
#include <string>

namespace torture {

struct MemoryNow {
  std::uint64_t rss_kib;
  std::uint64_t peak_rss_kib;
};

// Of this process, from /proc/self/status. The peak (VmHWM) belongs to the address space and begins at exec,
// whereas ru_maxrss of getrusage starts with the memory of the process that called fork: with it, every small
// workload would show the size of the launcher. Start-up of program, libraries and allocator is included;
// nothing is subtracted.
[[nodiscard]] MemoryNow memory_now() noexcept;

[[nodiscard]] std::uint64_t monotonic_ns() noexcept;

struct Machine {
  std::string cpu;
  unsigned cores;
  std::string kernel;
  std::string governor;    // "unknown" where the kernel does not show it
  std::string huge_pages;  // setting of transparent huge pages
  std::uint64_t memory_mib;
};

[[nodiscard]] Machine read_machine();

}  // namespace torture
