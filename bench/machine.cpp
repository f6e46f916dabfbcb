#include "bench/machine.h"

#include <fcntl.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

namespace torture {
namespace {

// The number behind `name` in the text of /proc/self/status, 0 when it is not there.
std::uint64_t field_of(const char* text, const char* name) noexcept {
  const char* const place = std::strstr(text, name);
  return place == nullptr ? 0 : std::strtoull(place + std::strlen(name), nullptr, 10);
}

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  return std::getline(file, line) ? line : "unknown";
}

// The value of the first line of `path` that begins with `name`, "unknown" when there is none.
std::string value_of(const char* path, const std::string& name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, name.size(), name) != 0) continue;
    const std::size_t start = line.find_first_not_of(" \t:", name.size());
    return start == std::string::npos ? "unknown" : line.substr(start);
  }
  return "unknown";
}

}  // namespace

MemoryNow memory_now() noexcept {
  char text[4096];
  const int file = ::open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  if (file < 0) return MemoryNow{0, 0};
  const ssize_t count = ::read(file, text, sizeof text - 1);
  ::close(file);
  text[count < 0 ? 0 : count] = '\0';
  return MemoryNow{field_of(text, "\nVmRSS:"), field_of(text, "\nVmHWM:")};
}

std::uint64_t monotonic_ns() noexcept {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec);
}

Machine read_machine() {
  Machine machine;
  machine.cpu = value_of("/proc/cpuinfo", "model name");
  machine.cores = std::thread::hardware_concurrency();
  utsname name;
  machine.kernel = ::uname(&name) == 0 ? std::string(name.sysname) + " " + name.release : "unknown";
  machine.governor = first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  machine.huge_pages = first_line("/sys/kernel/mm/transparent_hugepage/enabled");
  machine.memory_mib = std::strtoull(value_of("/proc/meminfo", "MemTotal").c_str(), nullptr, 10) / 1024;
  return machine;
}

}  // namespace torture
