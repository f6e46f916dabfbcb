// Memory pressure on Linux: control groups of both versions, /proc/meminfo, pressure stall information.
#include "platform/pressure.h"

#include <cstring>

#include "platform/linux/memory_group.h"
#include "platform/linux/system.h"
#include "src/base/bits.h"

namespace glebe::os {
namespace {

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

}  // namespace

MemoryPressure memory_pressure() noexcept {
  const ErrnoScope errno_scope;
  MemoryPressure out = {};
  char text[4 * kKiB];
  MemoryGroup group;
  const MemoryGroup::Usage usage = group.nearest();
  out.group_used = usage.used;
  out.group_limit = usage.limit;
  if (group.pressure(text, sizeof text) != 0) out.stalled = stalled_share(text);
  if (read_system_file("/proc/meminfo", text, sizeof text) != 0) {
    out.machine_total = kib_field(text, "MemTotal:");
    out.machine_available = kib_field(text, "MemAvailable:");
  }
  if (out.stalled == 0 && read_system_file("/proc/pressure/memory", text, sizeof text) != 0) {
    out.stalled = stalled_share(text);
  }
  return out;
}

}  // namespace glebe::os
