#include "tools/glebe/summary.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tools/glebe/memory_limit.h"

namespace glebe::tool {
namespace {

const char* const kModes[] = {"off", "userfaultfd", "kernel swap"};

// The sum over the processes; nothing when no process has such a number.
std::optional<std::uint64_t> total(const Summary& summary, const char* name) {
  std::optional<std::uint64_t> sum;
  for (const nlohmann::json& process : summary.counted) {
    if (process.contains(name) && process[name].is_number())
      sum = sum.value_or(0) + process[name].get<std::uint64_t>();
  }
  return sum;
}

std::string line(std::string label, const std::string& text) {
  constexpr std::size_t kColumn = 17;
  label.resize(std::max(kColumn, label.size()), ' ');
  return "  " + label + text + "\n";
}

std::string mode_text(const Summary& summary) {
  std::uint64_t mode = 0;
  for (const nlohmann::json& process : summary.counted) {
    mode = std::max<std::uint64_t>(mode, process.value("paging_mode", std::uint64_t{0}));
  }
  if (mode == 0)
    return "off; the lines \"glebe: paging stays off\" above say why, docs/paging.md what to enable";
  return mode < std::size(kModes) ? kModes[mode] : "unknown";
}

std::string counted_text(const Summary& summary) {
  if (summary.counted.empty()) {
    return line("paging", "no numbers: no process ended by exit(); a signal, _exit() and exec leave none");
  }
  const auto number = [&](const char* name) { return total(summary, name).value_or(0); };
  std::string text = line("paging", mode_text(summary));
  if (!total(summary, "paging_mode") || number("paging_mode") == 0) return text;
  const std::uint64_t out = number("paging_out_bytes"), held = number("paging_compressed_bytes");
  text += line("paged out", fmt::format("{} at exit, held in {} of memory and {} of files", shown_bytes(out),
                                        shown_bytes(held), shown_bytes(number("paging_file_bytes"))));
  text += line("saved", fmt::format("{} at the peak, {} on average; each process by itself, added up",
                                    shown_bytes(number("paging_saved_peak_bytes")),
                                    shown_bytes(number("paging_saved_average_bytes"))));
  text += line("pages", fmt::format("{} out, {} in, {} dropped unread because they were freed",
                                    number("paging_page_outs"), number("paging_page_ins"),
                                    number("paging_dropped_pages")));
  const double stalled = static_cast<double>(number("paging_stall_ns_total")) * 1e-9;
  const std::uint64_t faults = number("paging_faults");
  text += line("faults", fmt::format("{}, threads stalled {:.3f} s in all, {:.1f} us each", faults, stalled,
                                     faults == 0 ? 0.0 : stalled * 1e6 / static_cast<double>(faults)));
  if (number("paging_throttles") != 0) {
    text += line("held back",
                 fmt::format("{} allocations, {:.3f} s in all, because memory was far above the budget",
                             number("paging_throttles"),
                             static_cast<double>(number("paging_throttle_ns_total")) * 1e-9));
  }
  if (number("paging_store_errors") != 0) {
    text += line("store errors",
                 fmt::format("{}; see the program's error output", number("paging_store_errors")));
  }
  return text;
}

}  // namespace

std::vector<nlohmann::json> read_statistics(const std::string& folder) {
  std::vector<nlohmann::json> all;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    std::ifstream file(entry.path());
    // A process that was killed while it wrote leaves a torn text, which counts as none.
    nlohmann::json one = nlohmann::json::parse(file, nullptr, false);
    if (one.is_object()) all.push_back(std::move(one));
  }
  return all;
}

std::string summary_text(const Summary& summary) {
  const Ended& ended = summary.ended;
  const std::string how = WIFSIGNALED(ended.status)
                              ? fmt::format("ended by signal {} ({})", WTERMSIG(ended.status),
                                            ::strsignal(WTERMSIG(ended.status)))
                              : fmt::format("exit status {}", WEXITSTATUS(ended.status));
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  const Sampler::Figures& seen = summary.seen;
  std::string text = fmt::format("glebe run: {}, {:.2f} s (user {:.2f}, system {:.2f})\n", how, ended.seconds,
                                 seconds(ended.usage.ru_utime), seconds(ended.usage.ru_stime));
  text += line("resident", fmt::format("peak {}, average {}, of {} process{}", shown_bytes(seen.peak_rss),
                                       shown_bytes(seen.average_rss()), seen.peak_processes,
                                       seen.peak_processes == 1 ? "" : "es at once"));
  text += line("largest process",
               shown_bytes(static_cast<std::uint64_t>(ended.usage.ru_maxrss) * 1024) + " at its peak");
  if (summary.memory_bytes)
    text += line("budget", shown_bytes(*summary.memory_bytes) + " for the anonymous memory of each process");
  if (seen.cgroup_limit) {
    text += line("memory cgroup", fmt::format("limit {}, peak {} seen", shown_bytes(*seen.cgroup_limit),
                                              shown_bytes(seen.cgroup_peak.value_or(0))));
  }
  if (seen.peak_swapped != 0) text += line("kernel swap", shown_bytes(seen.peak_swapped) + " at the peak");
  return text + counted_text(summary);
}

nlohmann::json summary_json(const Summary& summary) {
  const Sampler::Figures& seen = summary.seen;
  nlohmann::json json = {
      {"command", summary.command},
      {"options", summary.options},
      {"exit_status", summary.ended.exit_status()},
      {"signal", WIFSIGNALED(summary.ended.status) ? WTERMSIG(summary.ended.status) : 0},
      {"seconds", summary.ended.seconds},
      {"samples", seen.samples},
      {"peak_resident_bytes", seen.peak_rss},
      {"average_resident_bytes", seen.average_rss()},
      {"peak_anonymous_bytes", seen.peak_anonymous},
      {"average_anonymous_bytes", seen.average_anonymous()},
      {"peak_swapped_bytes", seen.peak_swapped},
      {"peak_processes", seen.peak_processes},
      {"largest_process_bytes", static_cast<std::uint64_t>(summary.ended.usage.ru_maxrss) * 1024},
      {"processes", summary.counted},
  };
  if (summary.memory_bytes) json["memory_bytes"] = *summary.memory_bytes;
  if (seen.cgroup_limit) json["cgroup_limit_bytes"] = *seen.cgroup_limit;
  if (seen.cgroup_peak) json["cgroup_peak_bytes"] = *seen.cgroup_peak;
  return json;
}

}  // namespace glebe::tool
