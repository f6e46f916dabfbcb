// G5: how little memory a trace can be completed with, as a part of what it has live at most. Nothing is
// timed and nothing is written to, so an emulated GPU may be larger than the machine.
#include <algorithm>
#include <map>
#include <memory>

#include <fmt/core.h>

#include "bench/device_bench.h"
#include "bench/device_policies.h"
#include "bench/device_trace.h"
#include "platform/emulated_gpu/emulated_gpu.h"
#include "src/device/device_heap.h"

namespace device_bench {
namespace {

constexpr std::uint64_t kStepBytes = 2 * kMiB;  // between the limits that are tried
constexpr double kHopeless = 3;                 // times the peak; a policy that needs more is shown as 3

// Our heap under a limit, as one more policy.
class Heap final : public Policy {
 public:
  Heap(Gpu& gpu, std::uint64_t limit_bytes, std::uint64_t reserve_bytes) {
    DeviceHeapOptions options;
    options.limit_bytes = limit_bytes;
    options.reserve_bytes = reserve_bytes;
    require(heap_.open(gpu, options), "opening a heap");
  }
  bool allocate(std::uint64_t size_bytes, std::uint64_t* address) override {
    cuda::DevicePointer block = 0;
    const Outcome outcome = heap_.allocate({size_bytes, 0, 0}, &block);
    if (outcome.status != Status::over_budget) require(outcome, "an allocation");
    *address = block;
    return outcome.ok();
  }
  void free(std::uint64_t address) override { require(heap_.free(address), "a free"); }
  DeviceHeapStats stats() { return heap_.stats(); }
  void validate() { require(heap_.validate(), "the tables of the heap do not agree"); }

 private:
  DeviceHeap heap_;
};

// Fails when a block that is given out lies in another one that is live.
class NoOverlap {
 public:
  void add(std::uint64_t start, std::uint64_t size) {
    const auto next = live_.lower_bound(start);
    const bool meets_next = next != live_.end() && next->first < start + size;
    const bool meets_previous = next != live_.begin() && std::prev(next)->second > start;
    require(!meets_next && !meets_previous, "two live blocks overlap");
    live_.insert({start, start + size});
  }
  void remove(std::uint64_t start) { live_.erase(start); }

 private:
  std::map<std::uint64_t, std::uint64_t> live_;  // start and end
};

bool completes(const Trace& trace, Policy& policy) {
  std::vector<std::uint64_t> blocks(trace.sizes.size());
  NoOverlap live;
  for (const Step& step : trace.steps) {
    std::uint64_t& block = blocks[step.block];
    if (step.size_bytes == 0) {
      live.remove(block);
      policy.free(block);
    } else if (policy.allocate(step.size_bytes, &block)) {
      live.add(block, step.size_bytes);
    } else {
      return false;
    }
  }
  return true;
}

using MakePolicy = std::function<std::unique_ptr<Policy>(std::uint64_t limit_bytes)>;

// The smallest limit that bisection finds, in bytes; 0: not even kHopeless times the peak is enough.
std::uint64_t minimum_of(const Trace& trace, const MakePolicy& make) {
  const auto hopeless = static_cast<std::uint64_t>(kHopeless * static_cast<double>(trace.peak_bytes));
  std::uint64_t low = (trace.peak_bytes - 1) / kStepBytes, high = hopeless / kStepBytes + 1;
  if (!completes(trace, *make(high * kStepBytes))) return 0;
  while (high - low > 1) {
    const std::uint64_t middle = (low + high) / 2;
    (completes(trace, *make(middle * kStepBytes)) ? high : low) = middle;
  }
  return high * kStepBytes;
}

double ratio_of(const Trace& trace, std::uint64_t size_bytes) {
  return static_cast<double>(size_bytes) / static_cast<double>(trace.peak_bytes);
}

std::uint64_t reserve_for(const Trace& trace) { return glebe::align_up(4 * trace.peak_bytes, kGiB); }

// What the heap has mapped at most when nothing limits it.
double unlimited_ratio(const Trace& trace, Gpu& gpu) {
  Heap heap(gpu, glebe::paging::kNoLimit, reserve_for(trace));
  require(completes(trace, heap), "the trace does not complete without a limit");
  heap.validate();
  return ratio_of(trace, heap.stats().space.peak_mapped_bytes);
}

// Adds the ratios of one trace to `runs`: of everybody, then of our heap without a limit.
void measure(const Trace& trace, std::vector<std::vector<double>>& runs) {
  glebe::os::EmulatedGpu emulated;
  glebe::os::EmulatedGpu::Options machine;
  machine.device_bytes = glebe::align_up(4 * trace.peak_bytes, kGiB);
  machine.address_bytes = 64 * kGiB + 8 * machine.device_bytes;
  machine.is_poisoned = false;  // nothing may be written
  require(emulated.open(machine), "the emulated GPU cannot be opened");
  const cuda::Driver driver = emulated.driver();
  require(driver.init(0), "cuInit");
  Gpu gpu;
  require(gpu.open(driver), "opening the emulated GPU");
  const MakePolicy makers[] = {
      [&](std::uint64_t limit) { return std::make_unique<Heap>(gpu, limit, reserve_for(trace)); },
      [](std::uint64_t limit) { return simulate_segments(limit); },
      [](std::uint64_t limit) { return simulate_arena(limit, Fit::best); },
      [](std::uint64_t limit) { return simulate_arena(limit, Fit::first); },
  };
  for (std::size_t i = 0; i < std::size(makers); ++i) {
    const std::uint64_t found = minimum_of(trace, makers[i]);
    runs[i].push_back(found == 0 ? kHopeless : ratio_of(trace, found));
  }
  runs[std::size(makers)].push_back(unlimited_ratio(trace, gpu));
  gpu.close();
  require(emulated.usage().handles == 0, "physical memory is left");
}

}  // namespace

// Always on emulated GPUs of its own, which have as much memory as the search wants: the question is where
// blocks are placed, and the heap does that with the code that runs on a real one. Each run has another seed.
void run_minimum_memory(Bench& bench) {
  constexpr const char* kWho[] = {"glebe device heap (chunks of 2 and 32 MiB)",
                                  "caching segments, as PyTorch", "single arena, best fit",
                                  "single arena, first fit", "glebe without a limit: most mapped"};
  constexpr std::size_t kTraces = 4;
  for (std::size_t which = 0; which < kTraces; ++which) {
    std::vector<std::vector<double>> runs(std::size(kWho));
    for (unsigned round = 0; round < bench.rounds(); ++round) {
      const Trace trace = make_traces(bench.options.seed + round, bench.options.is_smoke)[which];
      measure(trace, runs);
      if (round != 0) continue;
      bench.report.note(fmt::format("{}: {}", trace.name, trace.what));
      bench.report.note(fmt::format("  {} calls, peak {} MiB; seeds {} to {}", trace.steps.size(),
                                    trace.peak_bytes / kMiB, bench.options.seed,
                                    bench.options.seed + bench.rounds() - 1));
    }
    const std::string name = make_traces(bench.options.seed, true)[which].name;
    for (std::size_t i = 0; i < std::size(kWho); ++i) {
      const bool is_simulated = i >= 1 && i <= 3;
      bench.report.add(fmt::format("{}: {}", name, kWho[i]), "x", runs[i], is_simulated ? "simulated" : "");
    }
  }
}

}  // namespace device_bench
