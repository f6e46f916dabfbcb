// Reads single numbers of the library's statistics by name, in the process itself. Without the library, or
// when it has no such number, the answer is kNoNumber. Nothing here allocates. For one thread.
#pragma once
#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace paging_test {

inline constexpr std::uint64_t kNoNumber = UINT64_MAX;

inline std::uint64_t number(const char* name) {
  static char text[256 * 1024];
  using Write = std::size_t (*)(char*, std::size_t);
  static const auto write_json = reinterpret_cast<Write>(dlsym(RTLD_DEFAULT, "glebe_stats_json"));
  if (write_json == nullptr || write_json(text, sizeof text) == 0) return kNoNumber;
  char quoted[96];
  const int length = std::snprintf(quoted, sizeof quoted, "\"%s\":", name);
  const char* found = std::strstr(text, quoted);
  return found == nullptr ? kNoNumber : std::strtoull(found + length, nullptr, 10);
}

}  // namespace paging_test
