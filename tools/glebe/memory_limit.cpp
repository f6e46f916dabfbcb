#include "tools/glebe/memory_limit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "platform/linux/memory_group.h"
#include "platform/process.h"
#include "tools/glebe/problem.h"

namespace glebe::tool {
namespace {

constexpr char kForms[] =
    "use a number of bytes with an optional unit K, M, G or T (--memory 512M), a percentage "
    "(--memory 50%) or auto";

// What the kernel tells of the groups of another process, by the names that it has there.
os::MemoryGroup group_of(const std::string& names) {
  os::GroupPlaces places;
  places.names = names.c_str();
  return os::MemoryGroup(places);
}

std::optional<std::uint64_t> known(std::size_t bytes) {
  return bytes == SIZE_MAX ? std::nullopt : std::optional<std::uint64_t>(bytes);
}

std::uint64_t unit_of(const std::string& text, const std::string& suffix) {
  if (suffix.empty()) return 1;
  const std::size_t unit = std::string("KMGT").find(static_cast<char>(std::toupper(suffix[0])));
  const std::string rest = suffix.substr(1);
  if (unit == std::string::npos || !(rest.empty() || rest == "iB" || rest == "B")) {
    throw Problem(fmt::format("--memory {}: the unit \"{}\" is not known; {}", text, suffix, kForms));
  }
  return std::uint64_t{1} << (10 * (unit + 1));
}

MemoryWish part_of_allowed(const std::string& text, double percent) {
  constexpr double kLeast = 0.0001;  // as the library has it
  if (percent < kLeast || percent > 100) {
    throw Problem(fmt::format("--memory {}: a percentage lies above 0 and is at most 100", text));
  }
  const os::MemoryLimits limits = os::memory_limits();
  const auto allowed = static_cast<double>(std::min(limits.memory, limits.physical));
  return {fmt::format("{:.4f}%", percent), static_cast<std::uint64_t>(allowed * percent / 100.0)};
}

}  // namespace

std::optional<std::uint64_t> cgroup_limit_bytes(const std::string& process) {
  return known(group_of("/proc/" + process + "/cgroup").smallest_limit());
}

std::optional<std::uint64_t> cgroup_usage_bytes(const std::string& process) {
  const os::MemoryGroup::Usage usage = group_of("/proc/" + process + "/cgroup").nearest();
  return usage.limit == SIZE_MAX ? std::nullopt : known(usage.used);
}

std::optional<MemoryWish> parse_memory(const std::string& text) {
  if (text == "auto") return std::nullopt;
  std::size_t used = 0;
  double number = -1;
  const bool starts_well = !text.empty() && (std::isdigit(static_cast<unsigned char>(text[0])) != 0);
  try {
    if (starts_well) number = std::stod(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used == 0) throw Problem(fmt::format("--memory {}: not a number; {}", text, kForms));
  const std::string suffix = text.substr(used);
  MemoryWish wish;
  if (suffix == "%") {
    wish = part_of_allowed(text, number);
  } else {
    const double product = number * static_cast<double>(unit_of(text, suffix));
    if (!(product < 9e18))
      throw Problem(fmt::format("--memory {}: more than any machine has; {}", text, kForms));
    wish.bytes = static_cast<std::uint64_t>(product);
    wish.option = fmt::format("{}", wish.bytes);
  }
  if (wish.bytes < kMemoryMinimumBytes) {
    throw Problem(
        fmt::format("--memory {}: {} is too little for a program to make progress; give at least {}", text,
                    shown_bytes(wish.bytes), shown_bytes(kMemoryMinimumBytes)));
  }
  return wish;
}

std::string shown_bytes(std::uint64_t bytes) {
  const char* const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(units); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} bytes", bytes) : fmt::format("{:.1f} {}", value, units[unit]);
}

}  // namespace glebe::tool
