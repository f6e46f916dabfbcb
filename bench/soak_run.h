// The parent's side of the long mode: runs it under each allocator in turn and reports the time series.
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

#include "bench/launch.h"
#include "bench/options.h"

namespace torture {

struct Soak {
  Allocator allocator;
  std::vector<Message> samples;
  Outcome outcome;
};

// RSS above the start of the workload per live requested byte; 0 while nothing is alive.
[[nodiscard]] double rss_overhead(const Message& sample);

// The allocators of the options, none of them run yet. Throws std::invalid_argument for those that do not
// exist.
[[nodiscard]] std::vector<Soak> prepare_soaks(const Options& options);

// Runs them one after the other. Prints the samples as CSV while they arrive, to options.csv_file or to the
// screen, and a summary at the end. Throws std::runtime_error when the file cannot be written.
void run_soaks(const Options& options, std::vector<Soak>& soaks);

[[nodiscard]] nlohmann::json describe_soaks(const std::vector<Soak>& soaks);

}  // namespace torture
