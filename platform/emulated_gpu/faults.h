// Device-side faults (namespace glebe::os::emulated): work of the emulated GPU runs under a guard, and
// touching what is not mapped in the window that the device sees ends the work instead of the process.
//
// One handler for SIGSEGV and SIGBUS in the process; faults that are not under a guard, or lie elsewhere, go
// to whatever handler was there before. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

namespace glebe::os::emulated {

struct GuardedRange {
  std::uintptr_t begin;
  std::size_t size_bytes;
};

// Runs body(argument) on the calling thread. False: it touched an address of the range that it may not touch,
// and was left there and then: what it had locked or was to undo would stay so, so it has nothing of the
// kind.
[[nodiscard]] bool run_guarded(const GuardedRange& range, void (*body)(void* argument),
                               void* argument) noexcept;

// A thread of ours that blocks all signals must let those of its own faults through.
void allow_fault_signals() noexcept;

}  // namespace glebe::os::emulated
