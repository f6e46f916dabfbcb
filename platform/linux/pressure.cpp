// Memory pressure on Linux: control groups of both versions, /proc/meminfo, pressure stall information.
#include "platform/pressure.h"

#include <cstring>

#include "platform/linux/system.h"
#include "src/base/bits.h"

namespace glebe::os {
namespace {

constexpr std::size_t kPathMax = 512;

std::size_t meminfo_bytes(const char* text, const char* key) noexcept {
  const char* at = std::strstr(text, key);
  if (at == nullptr) return 0;
  at += std::strlen(key);
  while (*at == ' ') ++at;
  const std::size_t kib = parse_limit(at);
  return kib == SIZE_MAX ? 0 : kib * kKiB;
}

// "some avg10=1.23 ..." in millionths.
std::uint32_t stalled_share(const char* text) noexcept {
  const char* at = std::strstr(text, "some avg10=");
  if (at == nullptr) return 0;
  at += std::strlen("some avg10=");
  const std::size_t whole = parse_limit(at);
  if (whole > 100) return 0;
  while (*at >= '0' && *at <= '9') ++at;
  std::size_t hundredths = 0;
  if (at[0] == '.' && at[1] >= '0' && at[1] <= '9') {
    hundredths = static_cast<std::size_t>(at[1] - '0') * 10;
    if (at[2] >= '0' && at[2] <= '9') hundredths += static_cast<std::size_t>(at[2] - '0');
  }
  return static_cast<std::uint32_t>(whole * 10'000 + hundredths * 100);
}

// A folder of control groups, and a file in it by name.
class GroupFolder {
 public:
  // `line` is the part of /proc/self/cgroup behind the controllers, up to the end of its line.
  GroupFolder(const char* mount, const char* line) noexcept {
    const std::size_t mount_length = std::strlen(mount);
    const char* end = std::strchr(line, '\n');
    const std::size_t length = end != nullptr ? static_cast<std::size_t>(end - line) : std::strlen(line);
    if (mount_length + length + 64 > sizeof path_) return;
    std::memcpy(path_, mount, mount_length);
    std::memcpy(path_ + mount_length, line, length);
    length_ = mount_length + length;
    while (length_ > mount_length && path_[length_ - 1] == '/') --length_;
    mount_length_ = mount_length;
  }
  // Inside a container the name may be the host's: then only the mount point answers.
  std::size_t read(const char* file, char* to, std::size_t capacity) noexcept {
    if (length_ == 0) return 0;
    std::strcpy(path_ + length_, file);
    std::size_t got = read_system_file(path_, to, capacity);
    if (got == 0) {
      char root[128];
      if (mount_length_ + std::strlen(file) + 1 > sizeof root) return 0;
      std::memcpy(root, path_, mount_length_);
      std::strcpy(root + mount_length_, file);
      got = read_system_file(root, to, capacity);
    }
    return got;
  }
  std::size_t number(const char* file) noexcept {
    char text[64];
    return read(file, text, sizeof text) != 0 ? parse_limit(text) : SIZE_MAX;
  }

 private:
  char path_[kPathMax] = {};
  std::size_t length_ = 0, mount_length_ = 0;
};

// False: not this version.
bool read_group(const char* groups, MemoryPressure& out) noexcept {
  char text[256];
  if (const char* line = std::strstr(groups, ":memory:"); line != nullptr) {
    GroupFolder folder("/sys/fs/cgroup/memory", line + std::strlen(":memory:"));
    const std::size_t used = folder.number("/memory.usage_in_bytes");
    if (used == SIZE_MAX) return false;
    out.group_used = used;
    out.group_limit = folder.number("/memory.limit_in_bytes");
    return true;
  }
  const char* line = std::strncmp(groups, "0::", 3) == 0 ? groups : std::strstr(groups, "\n0::");
  if (line == nullptr) return false;
  GroupFolder folder("/sys/fs/cgroup", std::strstr(line, "::") + 2);
  const std::size_t used = folder.number("/memory.current");
  if (used == SIZE_MAX) return false;
  out.group_used = used;
  const std::size_t high = folder.number("/memory.high"), max = folder.number("/memory.max");
  out.group_limit = high < max ? high : max;
  if (folder.read("/memory.pressure", text, sizeof text) != 0) out.stalled = stalled_share(text);
  return true;
}

}  // namespace

MemoryPressure memory_pressure() noexcept {
  const ErrnoScope errno_scope;
  MemoryPressure out = {};
  out.group_limit = SIZE_MAX;
  char text[4 * kKiB];
  if (read_system_file("/proc/self/cgroup", text, sizeof text) != 0) static_cast<void>(read_group(text, out));
  if (read_system_file("/proc/meminfo", text, sizeof text) != 0) {
    out.machine_total = meminfo_bytes(text, "MemTotal:");
    out.machine_available = meminfo_bytes(text, "MemAvailable:");
  }
  if (out.stalled == 0 && read_system_file("/proc/pressure/memory", text, sizeof text) != 0) {
    out.stalled = stalled_share(text);
  }
  return out;
}

}  // namespace glebe::os
