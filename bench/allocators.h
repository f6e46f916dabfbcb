// The allocators that are compared: names, and the shared libraries behind them.
#pragma once

#include <string>
#include <vector>

namespace torture {

struct Allocator {
  std::string name;
  std::string library;  // resolved path for LD_PRELOAD; kLibc for none; empty when not installed
  std::string missing;  // where it was looked for, when absent
  [[nodiscard]] bool present() const { return !library.empty(); }
};

// The allocators for `names`: glebe, libc, mimalloc, jemalloc, tcmalloc, or name=/path/to/library.so.
// `glebe_library` may be empty; then libglebe is searched next to the program and in the build. Throws
// std::invalid_argument with a message for unknown names, duplicates, and paths given explicitly that cannot
// be read.
[[nodiscard]] std::vector<Allocator> find_allocators(const std::vector<std::string>& names,
                                                     const std::string& glebe_library);

// The library that records traces, or an empty string.
[[nodiscard]] std::string find_recorder();

// This program, resolved.
[[nodiscard]] std::string own_path();

}  // namespace torture
