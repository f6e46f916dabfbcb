#include "bench/options.h"

#include <chrono>

#include <CLI/CLI.hpp>

namespace torture {
namespace {

void add_choices(CLI::App& app, Options& options) {
  app.add_flag("--list", options.list, "Print the workloads and the allocators that were found, then end");
  app.add_option("--only", options.only, "Run only these workloads, separated by commas")->delimiter(',');
  app.add_option("--allocators", options.allocators,
                 "glebe, libc, mimalloc, jemalloc, tcmalloc, or NAME=/path/library.so, separated by commas "
                 "(default: the five; with --soak: glebe)")
      ->delimiter(',');
  app.add_option("--glebe", options.glebe_library,
                 "The library to run as glebe (default: libglebe.so of this build)");
  app.add_option("--reference", options.reference,
                 "The allocator that the others are divided by (default: mimalloc when present, else libc)");
  app.add_option("--trace", options.traces, "Also replay this trace, made by --record; may be repeated");
}

void add_numbers(CLI::App& app, Options& options) {
  app.add_flag("--short", options.short_form, "About 0.15 s for each run instead of 1 s");
  app.add_option("--repeat", options.repeat, "Runs of each workload and allocator; the median counts")
      ->check(CLI::Range(1u, 1000u))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "Threads of the workloads that use several")
      ->check(CLI::Range(1u, kThreadsMax))
      ->capture_default_str();
  app.add_option("--seed", options.seed,
                 "Decides every random choice (default: 1; with --soak: from the clock)")
      ->check([](const std::string& text) {
        return text.find_first_not_of("0123456789") == std::string::npos ? "" : text + " is not a number";
      });
  app.add_option("--timeout", options.timeout_s, "Seconds after which a run counts as failed")
      ->check(CLI::Range(1u, 1000000u))
      ->capture_default_str();
  app.add_option("--soak", options.soak_s, "Long mode: churn for so many seconds, sample memory each second")
      ->check(CLI::Range(1u, 1000000u));
  app.add_option("--tolerate", options.tolerate,
                 "Allocators whose failures are shown but do not set the exit status, separated by commas")
      ->delimiter(',');
  app.add_option("--gate", options.gate, "Fail unless this allocator keeps the two limits below");
  app.add_option("--gate-mean", options.gate_mean, "Limit of its geometric means of time and of peak RSS")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--gate-row", options.gate_row, "Limit of its time ratio in every row")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

void add_outputs(CLI::App& app, Options& options) {
  app.add_flag("--details", options.details,
               "Also print the tables of CPU time, page faults and retained memory");
  app.add_option("--json", options.json_file, "Write every figure of every run to this file");
  app.add_option("--plot", options.plot_file, "Write a picture (SVG) to this file");
  app.add_option("--csv", options.csv_file,
                 "With --soak: write the time series to this file instead of the screen");
  app.add_option("--record", options.record_file,
                 "Record the allocator calls of PROGRAM to this file, then end");
  app.add_option("program", options.program, "With --record, after --: the program and its arguments");
}

// Returns what is wrong with the combination, or an empty string.
std::string contradiction(const Options& options) {
  if (options.record_file.empty() != options.program.empty()) {
    return options.record_file.empty()
               ? "unexpected argument \"" + options.program[0] + "\""
               : "--record needs a program: torture --record FILE -- PROGRAM ARGUMENTS";
  }
  if (options.soak_s == 0 && !options.csv_file.empty()) return "--csv belongs to --soak";
  if (options.soak_s != 0 && (!options.only.empty() || !options.gate.empty() || !options.traces.empty())) {
    return "--soak runs its own workload: --only, --gate and --trace do not go with it";
  }
  return {};
}

}  // namespace

bool parse_options(int argc, char** argv, Options& options, int& exit_code) {
  CLI::App app("torture: compares memory allocators as LD_PRELOAD libraries, contents verified", "torture");
  add_choices(app, options);
  add_numbers(app, options);
  add_outputs(app, options);
  try {
    app.parse(argc, argv);
    const std::string wrong = contradiction(options);
    if (!wrong.empty()) throw CLI::ValidationError(wrong);
  } catch (const CLI::ParseError& error) {
    exit_code = app.exit(error) == 0 ? 0 : 2;
    return false;
  }
  options.seed_given = app.count("--seed") != 0;
  if (options.short_form) options.scale = kShortScale;
  if (options.allocators.empty()) {
    options.allocators = options.soak_s != 0
                             ? std::vector<std::string>{"glebe"}
                             : std::vector<std::string>{"glebe", "mimalloc", "jemalloc", "tcmalloc", "libc"};
  }
  if (options.soak_s != 0 && !options.seed_given) {
    options.seed = static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  }
  return true;
}

}  // namespace torture
