#include "bench/soak_run.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <stdexcept>

#include <fmt/core.h>

namespace torture {
namespace {

double mebibytes(double bytes) { return bytes / (1 << 20); }

void print_sample(std::FILE* file, const std::string& name, const Message& sample) {
  fmt::print(file, "{},{:.1f},{:.1f},{:.1f},{:.1f},{:.3f},{}\n", name,
             static_cast<double>(sample.wall_ns) / 1e9, static_cast<double>(sample.rss_kib) / 1024,
             static_cast<double>(sample.peak_rss_kib) / 1024,
             mebibytes(static_cast<double>(sample.live_bytes)), rss_overhead(sample), sample.operations);
  std::fflush(file);
}

// Peak RSS above the start per requested byte at the peak of the samples.
double peak_overhead(const Soak& soak) {
  std::int64_t live_bytes = 0;
  for (const Message& sample : soak.samples) live_bytes = std::max(live_bytes, sample.live_bytes);
  if (live_bytes <= 0) return 0;
  const Message& result = soak.outcome.result;
  const double grown_kib =
      static_cast<double>(result.peak_rss_kib) - static_cast<double>(result.start_rss_kib);
  return grown_kib * 1024 / static_cast<double>(live_bytes);
}

void print_summary(const Soak& soak) {
  if (!soak.outcome.passed) {
    fmt::print("FAIL: soak under {}: {}\n", soak.allocator.name, soak.outcome.reason);
    return;
  }
  const Message& result = soak.outcome.result;
  const auto mib = [](std::uint64_t kib) { return static_cast<double>(kib) / 1024; };
  fmt::print(
      "{}: {} operations, all checks passed; RSS in MiB: start {:.1f}, peak {:.1f}, after all was freed "
      "{:.1f}, "
      "after malloc_trim {:.1f}; RSS overhead, peak to peak {:.3f}\n",
      soak.allocator.name, result.operations, mib(result.start_rss_kib), mib(result.peak_rss_kib),
      mib(result.rss_kib), mib(result.trimmed_rss_kib), peak_overhead(soak));
}

}  // namespace

double rss_overhead(const Message& sample) {
  if (sample.live_bytes <= 0) return 0;
  const double grown_kib = static_cast<double>(sample.rss_kib) - static_cast<double>(sample.start_rss_kib);
  return grown_kib * 1024 / static_cast<double>(sample.live_bytes);
}

std::vector<Soak> prepare_soaks(const Options& options) {
  std::vector<Soak> soaks;
  for (const Allocator& allocator : find_allocators(options.allocators, options.glebe_library)) {
    if (!allocator.present()) {
      throw std::invalid_argument("allocator " + allocator.name + " is absent: " + allocator.missing);
    }
    soaks.push_back(Soak{allocator, {}, {}});
  }
  return soaks;
}

void run_soaks(const Options& options, std::vector<Soak>& soaks) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> opened(nullptr, std::fclose);
  if (!options.csv_file.empty()) {
    opened.reset(std::fopen(options.csv_file.c_str(), "w"));
    if (!opened) throw std::runtime_error("the file " + options.csv_file + " cannot be written");
  }
  std::FILE* const csv = opened ? opened.get() : stdout;
  fmt::print(csv, "allocator,second,rss_mib,peak_rss_mib,live_mib,rss_overhead,operations\n");
  for (Soak& soak : soaks) {
    const ChildTask task{kSoakTask,       soak.allocator.library, "", options.seed, 1.0,
                         options.threads, options.soak_s};
    soak.outcome =
        run_task(task, soak.allocator, options.soak_s + options.timeout_s, [&](const Message& sample) {
          soak.samples.push_back(sample);
          print_sample(csv, soak.allocator.name, sample);
        });
  }
  for (const Soak& soak : soaks) print_summary(soak);
}

nlohmann::json describe_soaks(const std::vector<Soak>& soaks) {
  nlohmann::json described = nlohmann::json::array();
  for (const Soak& soak : soaks) {
    nlohmann::json samples = nlohmann::json::array();
    for (const Message& sample : soak.samples) {
      samples.push_back({{"second", static_cast<double>(sample.wall_ns) / 1e9},
                         {"rss_kib", sample.rss_kib},
                         {"peak_rss_kib", sample.peak_rss_kib},
                         {"live_bytes", sample.live_bytes},
                         {"rss_overhead", rss_overhead(sample)},
                         {"operations", sample.operations}});
    }
    nlohmann::json entry = {{"allocator", soak.allocator.name},
                            {"library", soak.allocator.library},
                            {"passed", soak.outcome.passed},
                            {"samples", samples}};
    if (!soak.outcome.passed) entry["failure"] = soak.outcome.reason;
    if (soak.outcome.passed) {
      const Message& result = soak.outcome.result;
      entry["result"] = {{"operations", result.operations},     {"start_rss_kib", result.start_rss_kib},
                         {"peak_rss_kib", result.peak_rss_kib}, {"peak_rss_overhead", peak_overhead(soak)},
                         {"retained_rss_kib", result.rss_kib},  {"trimmed_rss_kib", result.trimmed_rss_kib}};
    }
    described.push_back(entry);
  }
  return described;
}

}  // namespace torture
