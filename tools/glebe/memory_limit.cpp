#include "tools/glebe/memory_limit.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <sstream>

#include "tools/glebe/problem.h"

namespace glebe::tool {
namespace {

constexpr char kForms[] =
    "use a number of bytes with an optional unit K, M, G or T (--memory 512M), a percentage "
    "(--memory 50%) or auto";

// The folder of the process in the hierarchy of memory cgroups, with the name of the file that limits it and
// of the one that counts.
struct Cgroup {
  std::string root, path, limit_file, usage_file;
};

std::optional<Cgroup> memory_cgroup(const std::string& process) {
  std::ifstream lines("/proc/" + process + "/cgroup");
  std::optional<Cgroup> unified;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string names = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (names.find(",memory,") != std::string::npos) {
      return Cgroup{"/sys/fs/cgroup/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes"};
    }
    if (names == ",,") unified = Cgroup{"/sys/fs/cgroup", path, "memory.max", "memory.current"};
  }
  return unified;
}

std::optional<std::uint64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  if (!(file >> value)) return std::nullopt;  // missing, or the word "max"
  return value;
}

std::uint64_t machine_bytes() {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
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

std::uint64_t part_of_allowed(const std::string& text, double percent) {
  if (percent <= 0 || percent > 100) {
    throw Problem(fmt::format("--memory {}: a percentage lies above 0 and is at most 100", text));
  }
  const std::uint64_t allowed = std::min(cgroup_limit_bytes().value_or(UINT64_MAX), machine_bytes());
  return static_cast<std::uint64_t>(static_cast<double>(allowed) * percent / 100.0);
}

}  // namespace

std::optional<std::uint64_t> cgroup_limit_bytes(const std::string& process) {
  const std::optional<Cgroup> cgroup = memory_cgroup(process);
  if (!cgroup) return std::nullopt;
  // A limit of a folder above counts as well. In a container the folder may be shown as the root.
  std::uint64_t lowest = UINT64_MAX;
  for (std::string path = cgroup->path;; path = path.substr(0, path.rfind('/'))) {
    const std::string folder = path == "/" ? "" : path;
    lowest =
        std::min(lowest, number_in(cgroup->root + folder + "/" + cgroup->limit_file).value_or(UINT64_MAX));
    if (folder.empty()) break;
  }
  // Version 1 says "no limit" by a number near the largest one.
  return lowest >= std::uint64_t{1} << 60 ? std::nullopt : std::optional(lowest);
}

std::optional<std::uint64_t> cgroup_usage_bytes(const std::string& process) {
  const std::optional<Cgroup> cgroup = memory_cgroup(process);
  if (!cgroup) return std::nullopt;
  return number_in(cgroup->root + (cgroup->path == "/" ? "" : cgroup->path) + "/" + cgroup->usage_file);
}

std::optional<std::uint64_t> parse_memory(const std::string& text) {
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
  std::uint64_t bytes = 0;
  if (suffix == "%") {
    bytes = part_of_allowed(text, number);
  } else {
    const double product = number * static_cast<double>(unit_of(text, suffix));
    if (!(product < 9e18))
      throw Problem(fmt::format("--memory {}: more than any machine has; {}", text, kForms));
    bytes = static_cast<std::uint64_t>(product);
  }
  if (bytes < kMemoryMinimumBytes) {
    throw Problem(
        fmt::format("--memory {}: {} is too little for a program to make progress; give at least {}", text,
                    shown_bytes(bytes), shown_bytes(kMemoryMinimumBytes)));
  }
  return bytes;
}

std::string shown_bytes(std::uint64_t bytes) {
  const char* const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(units); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} bytes", bytes) : fmt::format("{:.1f} {}", value, units[unit]);
}

}  // namespace glebe::tool
