// The process on Linux: environment, standard error, clocks, entropy, figures and limits, and the last words
// of panic(). No state. System calls are made by syscall(2) where the wrapper of libc is a cancellation
// point: a thread that is cancelled inside malloc would leave locks behind.
#include "platform/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "platform/linux/memory_group.h"
#include "platform/linux/system.h"
#include "platform/service.h"
#include "src/base/bits.h"
#include "src/base/check.h"
#include "src/base/text.h"

extern char** environ;

namespace glebe {

void panic(const char* file, int line, const char* condition) noexcept {
  // One write, so that messages of several threads do not mix.
  char buffer[512];
  Text text(buffer);
  text.append("glebe: internal error: ").append(condition).append(" at ").append(file).append(":");
  text.append_signed(line).append("\n");
  os::write_error_of_program(text.c_str(), text.size());
  os::abort_process();
}

}  // namespace glebe

namespace glebe::os {
namespace {

constexpr int kMaxInterruptions = 1000;
constexpr int kMaxWriteTries = 100;  // without progress; each waits for 10 ms at most

std::uint64_t clock_ns(clockid_t clock) noexcept {
  const ErrnoScope errno_scope;
  timespec now{};
  static_cast<void>(::clock_gettime(clock, &now));
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

std::size_t parse_limit(const char* text) noexcept {
  if (*text < '0' || *text > '9') return SIZE_MAX;
  std::uint64_t value = 0;
  for (; *text >= '0' && *text <= '9'; ++text) {
    if (value > (UINT64_MAX - 9) / 10) return SIZE_MAX;
    value = value * 10 + static_cast<std::uint64_t>(*text - '0');
  }
  return value >= std::uint64_t{1} << 62 ? SIZE_MAX : static_cast<std::size_t>(value);
}

const char* field_at(const char* line, unsigned number) noexcept {
  for (;; --number) {
    while (*line == ' ') ++line;
    if (*line == '\0' || number == 0) return *line != '\0' ? line : nullptr;
    while (*line != ' ' && *line != '\0') ++line;
  }
}

std::size_t kib_field(const char* text, const char* key) noexcept {
  const char* at = std::strstr(text, key);
  if (at == nullptr) return 0;
  at += std::strlen(key);
  while (*at == ' ' || *at == '\t') ++at;
  const std::size_t kib = parse_limit(at);
  return kib == SIZE_MAX ? 0 : kib * kKiB;
}

std::size_t read_system_file(const char* path, char* to, std::size_t capacity) noexcept {
  const auto file = static_cast<int>(::syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0));
  if (file < 0) return 0;
  std::size_t length = 0;
  for (int interruptions = 0; length < capacity - 1 && interruptions < kMaxInterruptions;) {
    const long count = ::syscall(SYS_read, file, to + length, capacity - 1 - length);
    if (count == 0 || (count < 0 && errno != EINTR)) break;
    if (count > 0) length += static_cast<std::size_t>(count);
    if (count < 0) ++interruptions;
  }
  ::syscall(SYS_close, file);
  to[length] = '\0';
  return length;
}

const char* environment(const char* name) noexcept {
  const ErrnoScope errno_scope;
  if (environ == nullptr || ::getauxval(AT_SECURE) != 0) return nullptr;
  const std::size_t length = std::strlen(name);
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (std::strncmp(*entry, name, length) == 0 && (*entry)[length] == '=') return *entry + length + 1;
  }
  return nullptr;
}

void write_error(const char* text, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  for (int tries = 0; size_bytes != 0 && tries < kMaxWriteTries; ++tries) {
    const long count = ::syscall(SYS_write, STDERR_FILENO, text, size_bytes);
    if (count > 0) {
      text += count;
      size_bytes -= static_cast<std::size_t>(count);
      tries = 0;
      continue;
    }
    if (count < 0 && errno != EINTR && errno != EAGAIN) return;
    // Somebody made the descriptor non-blocking and the reader is slow.
    pollfd writable{STDERR_FILENO, POLLOUT, 0};
    timespec wait{0, 10'000'000};
    ::syscall(SYS_ppoll, &writable, 1, &wait, nullptr, 0);
  }
}

void abort_process() noexcept { std::abort(); }

std::uint64_t clock_coarse_ms() noexcept { return clock_ns(CLOCK_MONOTONIC_COARSE) / 1'000'000u; }

std::uint64_t clock_fine_ns() noexcept { return clock_ns(CLOCK_MONOTONIC); }

std::uint64_t entropy() noexcept {
  const ErrnoScope errno_scope;
  constexpr unsigned kNonBlocking = 1;  // GRND_NONBLOCK: early in the boot there is nothing yet to wait for
  std::uint64_t value = 0;
  if (::syscall(SYS_getrandom, &value, sizeof value, kNonBlocking) == static_cast<long>(sizeof value))
    return value;
  value = clock_fine_ns() ^ (process_id() << 32) ^ reinterpret_cast<std::uintptr_t>(&value);
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;  // the finaliser of splitmix64
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

ProcessMemory process_memory() noexcept {
  const ErrnoScope errno_scope;
  ProcessMemory result{};
  char status[4 * kKiB];
  if (read_system_file("/proc/self/status", status, sizeof status) != 0) {
    result.resident = kib_field(status, "\nVmRSS:");
    result.resident_peak = kib_field(status, "\nVmHWM:");
    result.virtual_size = kib_field(status, "\nVmSize:");
  }
  rusage usage{};
  if (::getrusage(RUSAGE_SELF, &usage) == 0) {
    result.major_faults = static_cast<std::size_t>(usage.ru_majflt);
    result.minor_faults = static_cast<std::size_t>(usage.ru_minflt);
  }
  return result;
}

std::size_t address_space_limit() noexcept {
  const ErrnoScope errno_scope;
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return SIZE_MAX;
  return static_cast<std::size_t>(limit.rlim_cur);
}

MemoryLimits memory_limits() noexcept {
  const ErrnoScope errno_scope;
  MemoryLimits result{address_space_limit(), MemoryGroup().smallest_limit(), SIZE_MAX, false};
  struct sysinfo info {};
  if (::sysinfo(&info) == 0) result.physical = static_cast<std::size_t>(info.totalram) * info.mem_unit;
  char text[16];
  result.strict_overcommit =
      read_system_file("/proc/sys/vm/overcommit_memory", text, sizeof text) != 0 && text[0] == '2';
  return result;
}

std::uint64_t process_id() noexcept { return static_cast<std::uint64_t>(::getpid()); }

}  // namespace glebe::os
