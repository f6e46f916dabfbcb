// The command line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace torture {

struct Options {
  bool list = false;
  bool short_form = false;
  bool details = false;
  bool seed_given = false;
  std::vector<std::string> only;        // workload names; empty: all
  std::vector<std::string> allocators;  // as find_allocators() takes them
  std::vector<std::string> tolerate;    // allocators whose failures do not fail the program
  std::vector<std::string> traces;      // recorded traces to replay as further workloads
  std::vector<std::string> program;     // with `record`: the program and its arguments
  std::string glebe_library;
  std::string reference;  // name of an allocator; empty: mimalloc when present, else libc
  std::string gate;       // name of an allocator; empty: no gate
  std::string json_file;
  std::string csv_file;
  std::string plot_file;
  std::string record_file;
  double scale = 1;
  double gate_mean = 1.0;
  double gate_row = 1.5;
  std::uint64_t seed = 1;
  unsigned repeat = 3;
  unsigned threads = 2;
  unsigned timeout_s = 120;
  unsigned soak_s = 0;  // 0: compare
};

inline constexpr double kShortScale = 0.15;
inline constexpr unsigned kThreadsMax = 31;  // producers and consumers together stay below 64 workers

// Parses the command line. Returns false when the program is to end with `exit_code` (help was printed, or an
// error).
[[nodiscard]] bool parse_options(int argc, char** argv, Options& options, int& exit_code);

}  // namespace torture
