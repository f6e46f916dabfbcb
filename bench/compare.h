// The comparison: every workload under every allocator, repetitions interleaved, and the statistics over
// them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bench/allocators.h"
#include "bench/options.h"
#include "bench/protocol.h"

namespace torture {

struct Summary {
  double median;
  double minimum;
  double maximum;
  [[nodiscard]] double spread() const { return median > 0 ? (maximum - minimum) / median : 0; }
};

// A figure that is compared. All are "less is better".
struct Metric {
  const char* key;      // in JSON
  const char* heading;  // of a column
  const char* title;    // of a table
  const char* unit;
  int decimals;
  double (*value)(const Message&);
};

inline constexpr std::size_t kWall = 0;
inline constexpr std::size_t kPeakRss = 1;
[[nodiscard]] const std::vector<Metric>& all_metrics();

// One workload under one allocator.
struct Cell {
  std::vector<Message> runs;
  std::string failure;  // empty: all runs passed
  [[nodiscard]] bool passed() const { return failure.empty() && !runs.empty(); }
  [[nodiscard]] Summary summary(const Metric& metric) const;
};

struct Row {
  std::string name;
  std::vector<Cell> cells;  // one for each allocator
};

struct Mean {
  double ratio;
  std::size_t rows;  // rows in which both passed
};

struct Comparison {
  std::vector<Allocator> allocators;  // those present
  std::vector<Allocator> absent;
  std::size_t reference = 0;
  std::vector<Row> rows;
  std::vector<std::string> skipped;  // "workload: why"

  // Median of a cell divided by that of the reference; empty when either failed or the reference is 0.
  [[nodiscard]] std::optional<double> ratio(const Row& row, std::size_t allocator,
                                            const Metric& metric) const;
  [[nodiscard]] std::optional<Mean> geometric_mean(std::size_t allocator, const Metric& metric) const;
  // Whether every run passed, those of the `tolerated` allocators aside.
  [[nodiscard]] bool passed(const std::vector<std::string>& tolerated) const;
};

// Finds the allocators and the reference. Throws std::invalid_argument for names that do not exist.
[[nodiscard]] Comparison prepare_comparison(const Options& options);

// Runs every workload under every allocator and adds the rows. Throws std::invalid_argument for bad traces.
void run_comparison(const Options& options, Comparison& comparison);

}  // namespace torture
