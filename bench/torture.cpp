// The torture bench: compares memory allocators that are loaded with LD_PRELOAD. The program starts itself
// once for each run, so every run has a fresh process, and checks the contents of every block. Exit status:
// 0, all passed; 1, a check failed, a run crashed or a gate was not kept; 2, the command line or the
// surroundings are wrong.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>

#include <fmt/core.h>

#include "bench/child.h"
#include "bench/compare.h"
#include "bench/options.h"
#include "bench/plot.h"
#include "bench/report.h"
#include "bench/soak_run.h"
#include "bench/trace_source.h"
#include "bench/workloads.h"

namespace torture {
namespace {

void print_list(const Options& options) {
  fmt::print("workloads:\n");
  for (const Workload& workload : all_workloads())
    fmt::print("  {:<18} {}\n", workload.name, workload.summary);
  fmt::print("allocators:\n");
  for (const Allocator& allocator : find_allocators(options.allocators, options.glebe_library)) {
    fmt::print("  {:<18} {}\n", allocator.name,
               allocator.present() ? allocator.library : "absent: " + allocator.missing);
  }
}

// A file that cannot be written must be found before an hour of measuring, not after it.
void check_outputs(const Options& options) {
  for (const std::string& file : {options.json_file, options.plot_file}) {
    if (!file.empty()) write_text(file, "");
  }
}

void write_outputs(const Options& options, const nlohmann::json& described, const std::string& picture) {
  if (!options.json_file.empty()) write_text(options.json_file, described.dump(2) + "\n");
  if (!options.plot_file.empty()) write_text(options.plot_file, picture);
}

int compare_allocators(const Options& options) {
  Comparison comparison = prepare_comparison(options);
  check_outputs(options);
  const Machine machine = read_machine();
  print_heading(options, machine);
  run_comparison(options, comparison);
  print_report(options, comparison);
  const bool gate_kept = options.gate.empty() || print_gate(options, comparison);
  nlohmann::json described = describe_run(options, machine);
  described.update(describe_comparison(comparison));
  write_outputs(options, described, plot_comparison(comparison));
  return comparison.passed(options.tolerate) && gate_kept ? 0 : 1;
}

int soak_allocators(const Options& options) {
  std::vector<Soak> soaks = prepare_soaks(options);
  check_outputs(options);
  const Machine machine = read_machine();
  print_heading(options, machine);
  run_soaks(options, soaks);
  nlohmann::json described = describe_run(options, machine);
  described["soak"] = describe_soaks(soaks);
  write_outputs(options, described, plot_soaks(soaks));
  return std::all_of(soaks.begin(), soaks.end(), [](const Soak& soak) { return soak.outcome.passed; }) ? 0
                                                                                                       : 1;
}

int run(const Options& options) {
  if (options.list) {
    print_list(options);
    return 0;
  }
  if (!options.record_file.empty()) {
    record_trace(options.record_file, options.program, {}, false);
    return 0;
  }
  return options.soak_s != 0 ? soak_allocators(options) : compare_allocators(options);
}

}  // namespace
}  // namespace torture

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], torture::kChildArgument) == 0) return torture::run_child(argc, argv);
  torture::Options options;
  int exit_code = 0;
  if (!torture::parse_options(argc, argv, options, exit_code)) return exit_code;
  try {
    return torture::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "torture: {}\n", error.what());
    return 2;
  }
}
