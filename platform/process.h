// The process: environment, standard error, clock, entropy, figures and limits (namespace glebe::os).
// Nothing here allocates, uses stdio or takes a lock of libc. Thread-safe. errno is preserved.
#pragma once

#include <cstddef>
#include <cstdint>

namespace glebe::os {

// Value of an environment variable, or nullptr. Read without getenv(), so that it works before libc is ready.
// nullptr in a set-user-id process, where the environment belongs to somebody else (secure_getenv(3)).
[[nodiscard]] const char* environment(const char* name) noexcept;

// Writes all bytes to standard error (or to another descriptor), resuming after short writes. Failure is
// ignored: there is nowhere to report it.
void write_error(const char* text, std::size_t size_bytes) noexcept;

// Ends the process as abort(3) does.
[[noreturn]] void abort_process() noexcept;

// Milliseconds of a coarse monotonic clock (some ms of resolution, a few ns to read), and nanoseconds of a
// fine one.
[[nodiscard]] std::uint64_t clock_coarse_ms() noexcept;
[[nodiscard]] std::uint64_t clock_fine_ns() noexcept;

// 64 random bits of the system (getrandom(2)), or a mix of clock and addresses where it fails.
[[nodiscard]] std::uint64_t entropy() noexcept;

// Figures of the whole process, in bytes; 0 when the system does not tell.
struct ProcessMemory {
  std::size_t resident, resident_peak, virtual_size;
  std::size_t major_faults, minor_faults;
};
[[nodiscard]] ProcessMemory process_memory() noexcept;

// Limits that bound us, in bytes; SIZE_MAX when there is none. address_space is RLIMIT_AS; memory is the
// smallest limit of the memory control groups above this process (v1 and v2, memory.high counts too), or of
// the job object.
struct MemoryLimits {
  std::size_t address_space, memory, physical;
  bool strict_overcommit;  // vm.overcommit_memory=2: committed bytes are charged in full
};
[[nodiscard]] std::size_t address_space_limit() noexcept;  // cheap: one system call
[[nodiscard]] MemoryLimits memory_limits() noexcept;       // reads several files

[[nodiscard]] std::uint64_t process_id() noexcept;

}  // namespace glebe::os
