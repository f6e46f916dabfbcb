#include "bench/report.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>

#include <fmt/core.h>

#include "commit.h"

namespace torture {
namespace {

constexpr std::size_t kColumnsPerTable = 8;  // name, reference, spread and eight columns fit 120 characters

// Settings that change how an allocator behaves; a run that has them says so.
constexpr const char* kVariables[] = {"GLEBE_OPTIONS",          "MALLOC_CONF",
                                      "GLIBC_TUNABLES",         "MALLOC_ARENA_MAX",
                                      "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_",
                                      "MIMALLOC_PURGE_DELAY",   "MIMALLOC_PAGE_RESET",
                                      "TCMALLOC_RELEASE_RATE"};

std::string cut(const std::string& text, std::size_t width) {
  return text.size() <= width ? text : text.substr(0, width - 1) + "~";
}

// The cell of an allocator: its ratio, or its own value when the reference failed.
std::string cell_text(const Comparison& comparison, const Row& row, std::size_t allocator,
                      const Metric& metric) {
  const Cell& cell = row.cells[allocator];
  if (!cell.passed()) return "FAIL";
  const std::optional<double> ratio = comparison.ratio(row, allocator, metric);
  if (ratio) return fmt::format("{:.2f}", *ratio);
  return fmt::format("{:.{}f} {}", cell.summary(metric).median, metric.decimals, metric.unit);
}

std::string reference_text(const Cell& cell, const Metric& metric) {
  if (!cell.passed()) return "FAIL";
  return fmt::format("{:.{}f}", cell.summary(metric).median, metric.decimals);
}

double worst_spread(const Row& row, const Metric& metric) {
  double worst = 0;
  for (const Cell& cell : row.cells) {
    if (cell.passed()) worst = std::max(worst, cell.summary(metric).spread());
  }
  return worst;
}

std::string mean_text(const Comparison& comparison, std::size_t allocator, const Metric& metric) {
  const std::optional<Mean> mean = comparison.geometric_mean(allocator, metric);
  if (!mean) return "-";
  return fmt::format("{:.3f}{}", mean->ratio, mean->rows == comparison.rows.size() ? "" : "*");
}

std::vector<std::size_t> others(const Comparison& comparison) {
  std::vector<std::size_t> places;
  for (std::size_t place = 0; place < comparison.allocators.size(); ++place) {
    if (place != comparison.reference) places.push_back(place);
  }
  return places;
}

void print_columns(const Comparison& comparison, const Metric& metric,
                   const std::vector<std::size_t>& columns) {
  const std::string& reference = comparison.allocators[comparison.reference].name;
  fmt::print("{:<18} {:>11} {:>7}", "", cut(reference, 11), "spread");
  for (const std::size_t column : columns) fmt::print(" {:>9}", cut(comparison.allocators[column].name, 9));
  fmt::print("\n");
  for (const Row& row : comparison.rows) {
    fmt::print("{:<18} {:>11} {:>6.0f}%", cut(row.name, 18),
               reference_text(row.cells[comparison.reference], metric), 100 * worst_spread(row, metric));
    for (const std::size_t column : columns) fmt::print(" {:>9}", cell_text(comparison, row, column, metric));
    fmt::print("\n");
  }
  fmt::print("{:<18} {:>11} {:>7}", "geometric mean", "1.000", "");
  for (const std::size_t column : columns) fmt::print(" {:>9}", mean_text(comparison, column, metric));
  fmt::print("\n");
}

void print_table(const Comparison& comparison, const Metric& metric) {
  const std::string& reference = comparison.allocators[comparison.reference].name;
  fmt::print("\n{}: {}{}{}, the others divided by it\n", metric.title, reference,
             *metric.unit == '\0' ? "" : " in ", metric.unit);
  const std::vector<std::size_t> columns = others(comparison);
  for (std::size_t first = 0; first == 0 || first < columns.size(); first += kColumnsPerTable) {
    const std::size_t last = std::min(first + kColumnsPerTable, columns.size());
    print_columns(comparison, metric,
                  {columns.begin() + static_cast<std::ptrdiff_t>(first),
                   columns.begin() + static_cast<std::ptrdiff_t>(last)});
  }
}

void print_means(const Comparison& comparison) {
  fmt::print("\ngeometric means over {} workloads, divided by {}\n{:<18}", comparison.rows.size(),
             comparison.allocators[comparison.reference].name, "");
  for (const Metric& metric : all_metrics()) fmt::print(" {:>11}", metric.heading);
  fmt::print("\n");
  for (std::size_t place = 0; place < comparison.allocators.size(); ++place) {
    fmt::print("{:<18}", cut(comparison.allocators[place].name, 18));
    for (const Metric& metric : all_metrics()) fmt::print(" {:>11}", mean_text(comparison, place, metric));
    fmt::print("\n");
  }
}

void print_failures(const Comparison& comparison) {
  for (const Row& row : comparison.rows) {
    for (std::size_t place = 0; place < row.cells.size(); ++place) {
      if (row.cells[place].passed()) continue;
      fmt::print("FAIL: {} under {}: {}\n", row.name, comparison.allocators[place].name,
                 row.cells[place].failure);
    }
  }
}

nlohmann::json describe_cell(const Cell& cell) {
  nlohmann::json described;
  described["passed"] = cell.passed();
  if (!cell.passed()) {
    described["failure"] = cell.failure;
    return described;
  }
  for (const Metric& metric : all_metrics()) {
    const Summary summary = cell.summary(metric);
    nlohmann::json runs = nlohmann::json::array();
    for (const Message& run : cell.runs) runs.push_back(metric.value(run));
    described[metric.key] = {{"median", summary.median},
                             {"minimum", summary.minimum},
                             {"maximum", summary.maximum},
                             {"spread", summary.spread()},
                             {"runs", runs}};
  }
  const Message& run = cell.runs.front();
  described["start_rss_kib"] = run.start_rss_kib;
  if (run.live_bytes > 0) {
    const double grown_kib = static_cast<double>(run.peak_rss_kib) - static_cast<double>(run.start_rss_kib);
    described["peak_live_bytes"] = run.live_bytes;
    described["rss_overhead"] = grown_kib * 1024 / static_cast<double>(run.live_bytes);
  }
  return described;
}

bool print_limit(const std::string& what, std::optional<double> value, double limit) {
  const bool kept = value && *value <= limit;
  const std::string shown = value ? fmt::format("{:.3f}", *value) : "missing";
  fmt::print("gate: {}: {} (limit {:.3f}): {}\n", what, shown, limit, kept ? "kept" : "NOT KEPT");
  return kept;
}

}  // namespace

void print_heading(const Options& options, const Machine& machine) {
  fmt::print("torture {} · {} · {} cores · {} MiB\n", kCommit, machine.cpu, machine.cores,
             machine.memory_mib);
  fmt::print("{} · governor {} · huge pages {}\n", machine.kernel, machine.governor, machine.huge_pages);
  fmt::print("seed {} · {} threads · scale {}", options.seed, options.threads, options.scale);
  if (options.soak_s == 0) fmt::print(" · median of {} interleaved runs", options.repeat);
  if (options.threads > machine.cores) fmt::print(" · more threads than cores");
  fmt::print("\n");
  for (const char* variable : kVariables) {
    const char* value = std::getenv(variable);
    if (value != nullptr) fmt::print("environment: {}={}\n", variable, value);
  }
  std::fflush(stdout);
}

void print_report(const Options& options, const Comparison& comparison) {
  const std::vector<Metric>& metrics = all_metrics();
  const std::size_t tables = options.details ? metrics.size() : kPeakRss + 1;
  for (std::size_t table = 0; table < tables; ++table) print_table(comparison, metrics[table]);
  print_means(comparison);
  fmt::print("\nspread: (maximum - minimum) / median of the worst allocator of the row");
  fmt::print("\n* not over all rows, because some failed or were 0\n");
  for (const Allocator& allocator : comparison.absent) {
    fmt::print("absent: {}: {}\n", allocator.name, allocator.missing);
  }
  for (const std::string& reason : comparison.skipped) fmt::print("not run: {}\n", reason);
  print_failures(comparison);
}

bool print_gate(const Options& options, const Comparison& comparison) {
  const auto& allocators = comparison.allocators;
  const auto found = std::find_if(allocators.begin(), allocators.end(),
                                  [&](const Allocator& allocator) { return allocator.name == options.gate; });
  if (found == allocators.end()) {
    fmt::print("gate: {} was not run: NOT KEPT\n", options.gate);
    return false;
  }
  const auto place = static_cast<std::size_t>(found - allocators.begin());
  bool kept = true;
  for (const std::size_t index : {kWall, kPeakRss}) {
    const Metric& metric = all_metrics()[index];
    const std::optional<Mean> mean = comparison.geometric_mean(place, metric);
    kept &= print_limit(fmt::format("geometric mean of {} of {}", metric.title, options.gate),
                        mean ? std::optional<double>(mean->ratio) : std::nullopt, options.gate_mean);
  }
  for (const Row& row : comparison.rows) {
    // A row in which the reference itself failed has no ratio; there the allocator must pass, nothing more.
    const std::optional<double> ratio = comparison.ratio(row, place, all_metrics()[kWall]);
    if (ratio ? *ratio <= options.gate_row : row.cells[place].passed()) continue;
    kept &= print_limit("time of " + row.name, ratio, options.gate_row);
  }
  return kept;
}

nlohmann::json describe_run(const Options& options, const Machine& machine) {
  nlohmann::json environment = nlohmann::json::object();
  for (const char* variable : kVariables) {
    const char* value = std::getenv(variable);
    if (value != nullptr) environment[variable] = value;
  }
  return {{"commit", kCommit},
          {"machine",
           {{"cpu", machine.cpu},
            {"cores", machine.cores},
            {"memory_mib", machine.memory_mib},
            {"kernel", machine.kernel},
            {"governor", machine.governor},
            {"transparent_huge_pages", machine.huge_pages}}},
          {"seed", options.seed},
          {"repeat", options.repeat},
          {"threads", options.threads},
          {"scale", options.scale},
          {"environment", environment}};
}

nlohmann::json describe_comparison(const Comparison& comparison) {
  nlohmann::json described;
  described["reference"] = comparison.allocators[comparison.reference].name;
  for (std::size_t place = 0; place < comparison.allocators.size(); ++place) {
    const Allocator& allocator = comparison.allocators[place];
    nlohmann::json means;
    for (const Metric& metric : all_metrics()) {
      const std::optional<Mean> mean = comparison.geometric_mean(place, metric);
      if (mean) means[metric.key] = {{"ratio", mean->ratio}, {"rows", mean->rows}};
    }
    described["allocators"].push_back(
        {{"name", allocator.name}, {"library", allocator.library}, {"geometric_mean", means}});
  }
  described["absent"] = nlohmann::json::array();
  for (const Allocator& allocator : comparison.absent) described["absent"].push_back(allocator.name);
  described["not_run"] = comparison.skipped;
  described["workloads"] = nlohmann::json::array();
  for (const Row& row : comparison.rows) {
    nlohmann::json cells;
    for (std::size_t place = 0; place < row.cells.size(); ++place) {
      cells[comparison.allocators[place].name] = describe_cell(row.cells[place]);
    }
    described["workloads"].push_back({{"name", row.name}, {"results", cells}});
  }
  return described;
}

void write_text(const std::string& file, const std::string& text) {
  std::ofstream stream(file, std::ios::binary);
  stream << text;
  stream.close();
  if (!stream) throw std::runtime_error("the file " + file + " cannot be written");
}

}  // namespace torture
