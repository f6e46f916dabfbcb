// Errors of the user: what was wrong, with which pointer, and what happens then (namespace glebe::heap).
//
// One policy for the process. A report is one line on standard error, written without allocating:
//   glebe: double free of 0x7f..., in a block of 48 bytes (aborting; ...)
#pragma once

#include <cstddef>
#include <cstdint>

namespace glebe::heap {

enum class Misuse : std::uint8_t {
  double_free,       // the block is free already
  interior_pointer,  // inside our memory, but not the start of a block
  foreign_pointer,   // not our memory
  size_mismatch,     // sized free with a size that does not fit the block
  write_after_free,  // debug fill found changed at reuse
  bad_heap,          // a destroyed or unknown first-class heap
};
inline constexpr unsigned kMisuseKinds = 6;

enum class MisuseAction : std::uint8_t { abort, warn, ignore };
extern constinit MisuseAction misuse_action;

// Reports and then does what misuse_action says. Returns only for warn and ignore: the caller leaves the
// pointer alone (nothing is freed, nothing is lost but the block). `size_bytes` is 0 when it is not known.
// Thread-safe.
void report_misuse(Misuse kind, const void* address, std::size_t size_bytes) noexcept;

// How many of each kind were reported so far.
[[nodiscard]] std::size_t misuse_count(Misuse kind) noexcept;

}  // namespace glebe::heap
