// The process that is measured: one workload, or one soak, under one allocator. It is this program again,
// started by launch.h with the allocator in LD_PRELOAD, and it answers over the pipe of protocol.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace torture {

inline constexpr char kChildArgument[] = "--child";

struct ChildTask {
  std::string workload;  // name in all_workloads(), or kSoakTask
  std::string library;   // resolved path that malloc must come from; kLibc for the C library
  std::string trace;     // prepared trace, or empty
  std::uint64_t seed;
  double scale;
  unsigned threads;
  unsigned soak_seconds;  // only for kSoakTask
};

inline constexpr char kSoakTask[] = "soak";
inline constexpr char kLibc[] = "libc";

// The arguments after the program name that make run_child() see `task`.
[[nodiscard]] std::vector<std::string> child_arguments(const ChildTask& task);

// Runs the task that the arguments describe and returns the exit status. argv[1] is kChildArgument.
int run_child(int argc, char** argv);

}  // namespace torture
