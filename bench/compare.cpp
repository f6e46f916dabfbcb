#include "bench/compare.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <stdexcept>

#include <fmt/core.h>

#include "bench/launch.h"
#include "bench/trace_source.h"
#include "bench/workloads.h"

namespace torture {
namespace {

// A workload that will be run, with its trace if it needs one.
struct Job {
  std::string name;
  std::string workload;
  std::unique_ptr<PreparedTrace> trace;
};

double seconds(std::uint64_t nanoseconds) { return static_cast<double>(nanoseconds) / 1e9; }
double mebibytes(std::uint64_t kibibytes) { return static_cast<double>(kibibytes) / 1024; }

void check_names(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const auto workloads = all_workloads();
    const bool known = std::any_of(workloads.begin(), workloads.end(),
                                   [&](const Workload& workload) { return name == workload.name; });
    if (!known) throw std::invalid_argument("unknown workload \"" + name + "\": see --list");
  }
}

void choose_reference(const Options& options, Comparison& comparison) {
  const auto place_of = [&](const std::string& name) {
    const auto found = std::find_if(comparison.allocators.begin(), comparison.allocators.end(),
                                    [&](const Allocator& allocator) { return allocator.name == name; });
    return static_cast<std::size_t>(found - comparison.allocators.begin());
  };
  if (!options.reference.empty()) {
    comparison.reference = place_of(options.reference);
    if (comparison.reference == comparison.allocators.size()) {
      throw std::invalid_argument("the reference " + options.reference +
                                  " is not among the allocators present");
    }
    return;
  }
  comparison.reference = place_of("mimalloc");
  if (comparison.reference == comparison.allocators.size()) comparison.reference = place_of("libc");
  if (comparison.reference == comparison.allocators.size()) comparison.reference = 0;
}

void add_user_traces(const Options& options, const char* workload, std::vector<Job>& jobs) {
  for (const std::string& file : options.traces) {
    Job job{"replay-" + std::filesystem::path(file).filename().string(), workload, nullptr};
    try {
      job.trace = prepare_trace(file);
    } catch (const std::runtime_error& error) {
      throw std::invalid_argument(error.what());
    }
    jobs.push_back(std::move(job));
  }
}

// Recording a program can fail (it is not installed, the recorder is not built); then the row is named as
// skipped.
void add_known_workload(const Workload& workload, Comparison& comparison, std::vector<Job>& jobs) {
  Job job{workload.name, workload.name, nullptr};
  try {
    if (workload.trace != nullptr) job.trace = record_known_program(workload.trace);
    jobs.push_back(std::move(job));
  } catch (const std::runtime_error& error) {
    comparison.skipped.push_back(job.name + ": " + error.what());
  }
}

std::vector<Job> collect_jobs(const Options& options, Comparison& comparison) {
  std::vector<Job> jobs;
  for (const Workload& workload : all_workloads()) {
    const bool named =
        std::find(options.only.begin(), options.only.end(), workload.name) != options.only.end();
    if (workload.trace != nullptr && std::strcmp(workload.trace, kTraceFromFile) == 0) {
      add_user_traces(options, workload.name, jobs);
    } else if (options.only.empty() || named) {
      add_known_workload(workload, comparison, jobs);
    }
  }
  return jobs;
}

class Progress {
 public:
  explicit Progress(std::size_t total) : total_(total), terminal_(::isatty(STDERR_FILENO) != 0) {}

  void run_begins(const std::string& workload, const std::string& allocator) {
    ++done_;
    if (terminal_) fmt::print(stderr, "\r\033[K[{}/{}] {} under {}", done_, total_, workload, allocator);
  }
  void workload_ends(const std::string& workload) const {
    if (!terminal_) fmt::print(stderr, "[{}/{}] {}\n", done_, total_, workload);
  }
  void all_end() const {
    if (terminal_) fmt::print(stderr, "\r\033[K");
  }

 private:
  std::size_t total_;
  std::size_t done_ = 0;
  bool terminal_;
};

// One more run of the job under the allocator; none after the first failure.
void run_cell(const Options& options, const Job& job, const Allocator& allocator, Cell& cell) {
  if (!cell.failure.empty()) return;
  ChildTask task{};
  task.workload = job.workload;
  task.library = allocator.library;
  if (job.trace) task.trace = job.trace->path();
  task.seed = options.seed;
  task.scale = options.scale;
  task.threads = options.threads;
  const Outcome outcome = run_task(task, allocator, options.timeout_s, {});
  cell.failure = outcome.reason;
  if (outcome.passed) cell.runs.push_back(outcome.result);
}

Row run_job(const Options& options, const Job& job, const std::vector<Allocator>& allocators,
            Progress& progress) {
  Row row{job.name, std::vector<Cell>(allocators.size())};
  for (unsigned repetition = 0; repetition < options.repeat; ++repetition) {
    for (std::size_t index = 0; index < allocators.size(); ++index) {
      progress.run_begins(job.name, allocators[index].name);
      run_cell(options, job, allocators[index], row.cells[index]);
    }
  }
  progress.workload_ends(job.name);
  return row;
}

}  // namespace

const std::vector<Metric>& all_metrics() {
  static const std::vector<Metric> metrics = {
      {"wall_s", "time", "time (wall clock)", "s", 3,
       [](const Message& run) { return seconds(run.wall_ns); }},
      {"peak_rss_mib", "peak RSS", "peak RSS of the process", "MiB", 1,
       [](const Message& run) { return mebibytes(run.peak_rss_kib); }},
      {"cpu_s", "CPU time", "CPU time, all threads", "s", 3,
       [](const Message& run) { return seconds(run.cpu_ns); }},
      {"page_faults", "faults", "page faults", "", 0,
       [](const Message& run) { return static_cast<double>(run.minor_faults + run.major_faults); }},
      {"retained_rss_mib", "retained", "RSS after everything was freed", "MiB", 1,
       [](const Message& run) { return mebibytes(run.rss_kib); }},
      {"trimmed_rss_mib", "trimmed", "RSS after malloc_trim", "MiB", 1,
       [](const Message& run) { return mebibytes(run.trimmed_rss_kib); }},
  };
  return metrics;
}

Summary Cell::summary(const Metric& metric) const {
  std::vector<double> values;
  for (const Message& run : runs) values.push_back(metric.value(run));
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  const double median = values.size() % 2 != 0 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return Summary{median, values.front(), values.back()};
}

std::optional<double> Comparison::ratio(const Row& row, std::size_t allocator, const Metric& metric) const {
  if (!row.cells[allocator].passed() || !row.cells[reference].passed()) return std::nullopt;
  const double base = row.cells[reference].summary(metric).median;
  if (base <= 0) return std::nullopt;
  return row.cells[allocator].summary(metric).median / base;
}

std::optional<Mean> Comparison::geometric_mean(std::size_t allocator, const Metric& metric) const {
  double logarithms = 0;
  std::size_t count = 0;
  for (const Row& row : rows) {
    const std::optional<double> value = ratio(row, allocator, metric);
    if (!value || *value <= 0) continue;
    logarithms += std::log(*value);
    ++count;
  }
  if (count == 0) return std::nullopt;
  return Mean{std::exp(logarithms / static_cast<double>(count)), count};
}

bool Comparison::passed(const std::vector<std::string>& tolerated) const {
  for (std::size_t place = 0; place < allocators.size(); ++place) {
    if (std::find(tolerated.begin(), tolerated.end(), allocators[place].name) != tolerated.end()) continue;
    const bool all =
        std::all_of(rows.begin(), rows.end(), [&](const Row& row) { return row.cells[place].passed(); });
    if (!all) return false;
  }
  return true;
}

Comparison prepare_comparison(const Options& options) {
  check_names(options.only);
  Comparison comparison;
  std::vector<Allocator> allocators = find_allocators(options.allocators, options.glebe_library);
  std::vector<std::string> judged = options.tolerate;
  if (!options.gate.empty()) judged.push_back(options.gate);
  for (const std::string& name : judged) {
    const bool known = std::any_of(allocators.begin(), allocators.end(),
                                   [&](const Allocator& allocator) { return allocator.name == name; });
    if (!known) throw std::invalid_argument("--gate or --tolerate names " + name + ", which is not compared");
  }
  for (Allocator& allocator : allocators) {
    (allocator.present() ? comparison.allocators : comparison.absent).push_back(std::move(allocator));
  }
  if (comparison.allocators.empty()) throw std::invalid_argument("none of the allocators is present");
  choose_reference(options, comparison);
  return comparison;
}

void run_comparison(const Options& options, Comparison& comparison) {
  const std::vector<Job> jobs = collect_jobs(options, comparison);
  Progress progress(jobs.size() * options.repeat * comparison.allocators.size());
  for (const Job& job : jobs) {
    comparison.rows.push_back(run_job(options, job, comparison.allocators, progress));
  }
  progress.all_end();
}

}  // namespace torture
