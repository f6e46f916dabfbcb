// Reads this process's memory figures from /proc/self with raw reads into a stack buffer: the reader must not
// allocate, because the figures are about the allocator. Any thread may call it.
#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace process_test {

// Returns the value in KiB of a line such as "VmRSS:" of /proc/self/status, or 0 when it cannot be read.
inline std::size_t status_kib(const char* name) {
  char text[8192];
  const int file = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  std::size_t length = 0;
  for (ssize_t got = 1; got > 0 && length < sizeof text - 1;) {
    got = read(file, text + length, sizeof text - 1 - length);
    if (got > 0) length += static_cast<std::size_t>(got);
  }
  close(file);
  text[length] = '\0';
  const char* line = std::strstr(text, name);
  return line == nullptr ? 0 : std::strtoul(line + std::strlen(name), nullptr, 10);
}

inline std::size_t rss_kib() { return status_kib("VmRSS:"); }
inline std::size_t peak_rss_kib() { return status_kib("VmHWM:"); }

}  // namespace process_test
