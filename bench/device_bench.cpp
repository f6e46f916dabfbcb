// The bench of device memory, rows G1 to G14 of the plan (bench/README.md): what calls cost, how much memory
// traces need, what moves at which rate.
//
// Rows that need a GPU are measured on a real driver only. Without one they say so and claim nothing.
#include <algorithm>
#include <cstdio>
#include <exception>

#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include "bench/device_bench.h"
#include "bench/machine.h"
#include "commit.h"
#include "platform/emulated_gpu/emulated_gpu.h"

namespace device_bench {
namespace {

struct Row {
  const char* id;
  const char* title;
  bool needs_gpu;  // otherwise it tells about the host, or counts bytes
  void (*run)(Bench& bench);
};

constexpr Row kRows[] = {
    {"G1", "a pair of allocation and free on a stream that has a block of the size", false, run_hits},
    {"G2", "the same with many free blocks of other sizes", false, run_free_blocks},
    {"G3", "the same by several threads", false, run_threads},
    {"G4", "a block goes from one stream to another, 4 MiB written by each", true, run_streams},
    {"G5", "minimum memory to complete a trace / peak of its live bytes (less is better)", false,
     run_minimum_memory},
    {"G6", "calls that back addresses with memory", true, run_mapping},
    {"G7", "an array that grows", true, run_growth},
    {"G8", "everything on the device was written, leaves it and comes back", true, run_eviction},
    {"G9", "what was only read leaves the device and comes back", true, run_clean_eviction},
    {"G10", "working sets of 0.5 to 3 times the budget, every access writes a chunk", true,
     run_oversubscription},
    {"G11", "uploads from pageable memory", true, run_staging},
    {"G12", "tiles of a sparse array get memory and contents", false, run_tiles},
    {"G13", "copies on the device, as a compaction makes them", true, run_copies},
    {"G14", "a whole heap sleeps and wakes, at the same addresses", true, run_sleep},
};

struct Machine {
  glebe::os::EmulatedGpu emulated;
  cuda::Driver driver;
  bool is_real = false;
  std::string why_no_gpu;
};

std::string open_real(Machine& machine) {
  const cuda::LoadedDriver loaded = cuda::load_driver();
  char buffer[256];
  glebe::Text text(buffer);
  cuda::explain(loaded, text);
  machine.is_real = loaded.support == cuda::Support::present;
  machine.driver = loaded.driver;
  return std::string(text.view());
}

// What is measured on: the real driver where there is one and it is wanted, otherwise an emulated GPU, large
// enough for what rows without a GPU do there.
void open_driver(const Options& options, Machine& machine) {
  const std::string found = options.driver == "emulated" ? "no GPU: --driver=emulated" : open_real(machine);
  if (machine.is_real) return;
  machine.why_no_gpu = found;
  if (options.driver == "real") fail(found);
  glebe::os::EmulatedGpu::Options emulated;
  emulated.device_bytes = 32 * kGiB;
  emulated.host_bytes = 4 * kGiB;
  emulated.address_bytes = 512 * kGiB;
  emulated.is_poisoned = false;
  require(machine.emulated.open(emulated), "the emulated GPU cannot be opened");
  machine.driver = machine.emulated.driver();
  require(machine.driver.init(0), "cuInit");
}

std::string describe_machine(const Options& options, const Machine& machine, const Gpu& gpu,
                             nlohmann::json* json) {
  const torture::Machine host = torture::read_machine();
  const GpuFacts& facts = gpu.facts();
  *json = {{"commit", torture::kCommit},
           {"cpu", host.cpu},
           {"cores", host.cores},
           {"memory_mib", host.memory_mib},
           {"kernel", host.kernel},
           {"governor", host.governor},
           {"gpu", machine.is_real ? facts.name : "none"},
           {"seed", options.seed},
           {"rounds", options.rounds},
           {"smoke", options.is_smoke}};
  std::string text =
      fmt::format("device_bench {} · {} · {} cores · {} MiB\n{} · governor {}\n", torture::kCommit, host.cpu,
                  host.cores, host.memory_mib, host.kernel, host.governor);
  if (machine.is_real) {
    (*json)["driver_version"] = facts.driver_version;
    (*json)["gpu_memory_mib"] = facts.total_bytes / kMiB;
    text += fmt::format("{} · {} MiB · driver {}.{}\n", facts.name, facts.total_bytes / kMiB,
                        facts.driver_version / 1000, facts.driver_version % 1000 / 10);
  } else {
    (*json)["why_no_gpu"] = machine.why_no_gpu;
    text += fmt::format("{}; nothing is claimed about one\n", machine.why_no_gpu);
  }
  return text + fmt::format("seed {} · median of {} runs (least to most)", options.seed, options.rounds);
}

bool is_wanted(const Options& options, const Row& row) {
  if (options.only.empty()) return true;
  return std::find(options.only.begin(), options.only.end(), row.id) != options.only.end();
}

// False: it failed.
bool run_row(const Row& row, Bench& bench) {
  const bool is_honest = bench.is_real || !row.needs_gpu;
  bench.report.begin(row.id, row.title, is_honest && !bench.options.is_smoke);
  if (!is_honest && !bench.options.is_smoke) {
    bench.report.skip("needs a GPU (" + bench.why_no_gpu + ")");
    bench.report.end("");
    return true;
  }
  std::string failure;
  try {
    row.run(bench);
  } catch (const std::exception& error) {
    failure = error.what();
  }
  bench.report.end(failure);
  return failure.empty();
}

int run(const Options& options) {
  Machine machine;
  open_driver(options, machine);
  Gpu gpu;
  require(gpu.open(machine.driver), "opening the GPU");
  require(machine.driver.ctx_set_current(gpu.context()), "cuCtxSetCurrent");
  nlohmann::json json;
  const std::string text = describe_machine(options, machine, gpu, &json);
  Report report(options, text, json);
  Bench bench{options, report, gpu, machine.is_real, machine.why_no_gpu};
  bool is_fine = true;
  for (const Row& row : kRows) {
    if (is_wanted(options, row)) is_fine &= run_row(row, bench);
  }
  gpu.close();
  if (!machine.is_real) {
    const glebe::os::EmulatedGpu::Usage left = machine.emulated.usage();
    if (left.handles != 0 || left.reservations != 0 || left.mappings != 0 || left.undefined_calls != 0) {
      fmt::print("FAILED: a row left something in the emulated GPU\n");
      is_fine = false;
    }
  }
  return is_fine ? 0 : 1;
}

}  // namespace
}  // namespace device_bench

int main(int argc, char** argv) {
  device_bench::Options options;
  CLI::App app{"Device memory: cost of calls, minimum memory, rates of moves; rows G1 to G14"};
  app.add_option("--driver", options.driver, "auto, real or emulated")
      ->check(CLI::IsMember({"auto", "real", "emulated"}))
      ->capture_default_str();
  app.add_flag("--smoke", options.is_smoke, "Run every row once with tiny sizes and show no figures");
  app.add_option("--rounds", options.rounds, "Runs of each figure; the median counts")
      ->check(CLI::Range(1u, 1000u))
      ->capture_default_str();
  app.add_option("--only", options.only, "Only these rows, separated by commas")->delimiter(',');
  app.add_option("--json", options.json, "Write every run to this file");
  app.add_option("--directory", options.directory, "Of page files")->capture_default_str();
  app.add_option("--seed", options.seed, "Decides every random choice")->capture_default_str();
  app.add_option("--scale", options.scale, "Of the bytes that rows for a GPU move")
      ->check(CLI::Range(0.001, 100.0))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    return device_bench::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "device_bench: {}\n", error.what());
    return 2;
  }
}
