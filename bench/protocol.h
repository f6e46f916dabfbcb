// What a child process tells the program that started it: fixed-size messages over one pipe. A message is
// smaller than PIPE_BUF, so concurrent writers do not mix. Both ends are the same binary, so the layout is
// the compiler's.
#pragma once

#include <cstddef>
#include <cstdint>

namespace torture {

inline constexpr int kResultDescriptor = 3;
inline constexpr int kExitVerification = 3;
inline constexpr std::size_t kTextBytes = 256;

enum class MessageKind : std::uint64_t { kResult = 1, kSample = 2, kFailure = 3 };

struct Message {
  MessageKind kind;
  std::uint64_t wall_ns;          // result: duration of the workload; sample: time since the start
  std::uint64_t cpu_ns;           // user and system time of all threads during the workload
  std::uint64_t start_rss_kib;    // before the workload: program, libraries, start-up of the allocator
  std::uint64_t peak_rss_kib;     // of the whole process since exec
  std::uint64_t rss_kib;          // sample: now; result: after everything was freed
  std::uint64_t trimmed_rss_kib;  // result: after malloc_trim(0)
  std::uint64_t minor_faults;     // of the whole process
  std::uint64_t major_faults;
  std::int64_t live_bytes;   // sample: requested bytes alive; result: their peak, 0 when not tracked
  std::uint64_t operations;  // sample: allocator calls so far
  char text[kTextBytes];     // failure: what was wrong
};

// Sends `message` to the parent; a broken pipe ends the process. Allocates nothing.
void send_message(const Message& message) noexcept;

// Reports a failed check and ends the process at once with kExitVerification. Allocates nothing, any thread
// may call.
[[noreturn]] void fail(const char* format, ...) noexcept __attribute__((format(printf, 1, 2), cold));

}  // namespace torture
