// Figures on the terminal and in the JSON file; see device_bench.h.
#include <algorithm>
#include <cstdio>
#include <fstream>

#include <fmt/core.h>

#include "bench/device_bench.h"

namespace device_bench {

Report::Report(const Options& options, std::string machine_text, nlohmann::json machine) : options_(options) {
  all_["machine"] = std::move(machine);
  all_["rows"] = nlohmann::json::array();
  fmt::print("{}\n", machine_text);
}

void Report::begin(const std::string& id, const std::string& title, bool has_figures) {
  row_ = {{"id", id}, {"title", title}};
  has_figures_ = has_figures;
  figures_ = 0;
  fmt::print("\n{} {}\n", id, title);
  std::fflush(stdout);
}

void Report::add(const Figure& figure) {
  if (figure.runs.empty()) fail("a figure without a run: " + figure.what);
  ++figures_;
  if (!has_figures_) return;
  const auto [least, most] = std::minmax_element(figure.runs.begin(), figure.runs.end());
  const double median = median_of(figure.runs);
  const int digits = median >= 1000 ? 0 : median >= 10 ? 1 : 3;
  std::string line = fmt::format("  {:<58} {:>10.{}f} {:<5}", figure.what, median, digits, figure.unit);
  if (figure.runs.size() > 1) line += fmt::format(" ({:.{}f} to {:.{}f})", *least, digits, *most, digits);
  if (!figure.note.empty()) line += "  " + figure.note;
  fmt::print("{}\n", line);
  std::fflush(stdout);
  nlohmann::json described = {{"what", figure.what}, {"unit", figure.unit}, {"median", median},
                              {"minimum", *least},   {"maximum", *most},    {"runs", figure.runs}};
  if (!figure.note.empty()) described["note"] = figure.note;
  row_["figures"].push_back(described);
}

void Report::note(const std::string& text) {
  if (!has_figures_) return;
  fmt::print("  {}\n", text);
  row_["notes"].push_back(text);
}

void Report::skip(const std::string& reason) {
  fmt::print("  not measured: {}\n", reason);
  row_["not_measured"] = reason;
}

void Report::end(const std::string& failure) {
  if (!failure.empty()) {
    fmt::print("  FAILED: {}\n", failure);
    row_["failure"] = failure;
  } else if (!has_figures_ && row_.find("not_measured") == row_.end()) {
    fmt::print("  ran; {} figures, not shown\n", figures_);
    row_["not_measured"] = "ran to see that it works; its figures are not written";
  }
  all_["rows"].push_back(row_);
  write();
  std::fflush(stdout);
}

// After each row, so that a run that is cut off has lost one row.
void Report::write() const {
  if (options_.json.empty()) return;
  std::ofstream stream(options_.json, std::ios::binary);
  stream << all_.dump(2) << "\n";
  stream.close();
  if (!stream) fail("the file " + options_.json + " cannot be written");
}

}  // namespace device_bench
