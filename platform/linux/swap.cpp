// madvise(2), /proc/self/status, /proc/meminfo and the statistics of zram devices.
#include "platform/swap.h"

#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <cstring>

#include "platform/linux/system.h"
#include "platform/memory_calls.h"
#include "src/base/bits.h"
#include "src/base/text.h"

namespace glebe::os {
namespace {

// Linux 5.4; libc of older systems does not declare them.
constexpr int kAdviceCold = 20, kAdvicePageout = 21;

// Bytes that zram devices take that are swap space: the third number of their statistics.
std::size_t zram_bytes() noexcept {
  constexpr unsigned kDevicesMax = 8;
  std::size_t total = 0;
  char swaps[2 * kKiB];
  if (read_system_file("/proc/swaps", swaps, sizeof swaps) == 0) return 0;
  for (unsigned device = 0; device < kDevicesMax; ++device) {
    char path_space[64], name_space[32], content[256];
    Text name(name_space);
    name.append("/dev/zram").append_unsigned(device);
    if (std::strstr(swaps, name.c_str()) == nullptr) continue;
    Text path(path_space);
    path.append("/sys/block/zram").append_unsigned(device).append("/mm_stat");
    if (read_system_file(path.c_str(), content, sizeof content) == 0) continue;
    constexpr unsigned kUsedField = 2;
    const char* const at = field_at(content, kUsedField);
    const std::size_t used = at != nullptr ? parse_limit(at) : SIZE_MAX;
    if (used != SIZE_MAX) total += used;
  }
  return total;
}

}  // namespace

bool page_out_by_kernel(void* base, std::size_t size_bytes) noexcept {
  return advise_call(base, size_bytes, kAdvicePageout) == 0;
}
bool mark_cold(void* base, std::size_t size_bytes) noexcept {
  return advise_call(base, size_bytes, kAdviceCold) == 0;
}

bool has_swap() noexcept {
  const ErrnoScope errno_scope;
  struct sysinfo info = {};
  return ::sysinfo(&info) == 0 && info.totalswap != 0;
}

std::size_t swapped_bytes() noexcept {
  const ErrnoScope errno_scope;
  char text[4 * kKiB];
  return read_system_file("/proc/self/status", text, sizeof text) != 0 ? kib_field(text, "VmSwap:") : 0;
}

SwapSpace look_at_swap() noexcept {
  const ErrnoScope errno_scope;
  SwapSpace out = {};
  char text[4 * kKiB];
  if (read_system_file("/proc/meminfo", text, sizeof text) == 0) return out;
  out.used_bytes = kib_field(text, "SwapTotal:") - kib_field(text, "SwapFree:");
  out.ram_bytes = kib_field(text, "Zswap:") + zram_bytes();
  return out;
}

}  // namespace glebe::os
