// How much memory the user allows: "512M", "50%" or "auto".
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace glebe::tool {

inline constexpr std::uint64_t kMemoryMinimumBytes = std::uint64_t{16} << 20;

// The value of the library's option `memory`, and how many bytes that is now.
struct MemoryWish {
  std::string option;
  std::uint64_t bytes = 0;
};

// Nothing for "auto". A percentage is one of what the system allows this process: its memory cgroup's limit,
// or the machine's memory when that is less; the library follows it when it changes. Throws Problem.
[[nodiscard]] std::optional<MemoryWish> parse_memory(const std::string& text);

// The smallest limit of the memory cgroups that the process is in (version 1 or 2), or nothing.
[[nodiscard]] std::optional<std::uint64_t> cgroup_limit_bytes(const std::string& process = "self");

// Memory that the nearest limited one of these cgroups uses now, page cache included, or nothing.
[[nodiscard]] std::optional<std::uint64_t> cgroup_usage_bytes(const std::string& process);

// "1.5 GiB"
[[nodiscard]] std::string shown_bytes(std::uint64_t bytes);

}  // namespace glebe::tool
