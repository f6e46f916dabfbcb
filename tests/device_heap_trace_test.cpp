// How much memory the device heap needs to complete a trace, as a part of what the trace has live at most.
// What would break: a placement that spreads blocks over more chunks, or chunks that do not move to where
// they are needed. Nothing is timed, and the memory is never touched, so the machine may be larger than the
// host.
#include "bench/device_trace.h"
#include "tests/heap_rig.h"
#include "tests/random.h"

namespace device_test {
namespace {

using device_bench::Step;
using device_bench::Trace;

std::uint64_t log_uniform(Random& random, std::uint64_t low, std::uint64_t high) {
  const unsigned doublings = glebe::log2_floor(high / low);
  const std::uint64_t base = low << random.below(doublings);
  return base + random.below(base);
}

Trace batches(std::uint64_t seed, bool is_growing) {
  Random random(seed);
  Trace trace;
  std::vector<std::uint64_t> layers;
  for (int i = 0; i < 30; ++i) trace.allocate(log_uniform(random, 64 * kKiB, 8 * kMiB));
  for (int i = 0; i < 24; ++i) layers.push_back(log_uniform(random, 32 * kKiB, kMiB));
  for (std::uint64_t i = 1; i <= 24; ++i) train(trace, layers, is_growing ? i : 1 + random.below(24));
  return trace;
}

Trace mixture(std::uint64_t seed) {
  Random random(seed);
  Trace trace;
  std::vector<std::uint32_t> live;
  for (int i = 0; i < 6000; ++i) {
    const bool is_full = trace.live_bytes > 256 * kMiB;
    if (live.empty() || (!is_full && random.below(2) == 0)) {
      live.push_back(trace.allocate(log_uniform(random, 4 * kKiB, 16 * kMiB)));
    } else {
      const std::size_t at = random.below(live.size());
      trace.free(live[at]);
      live[at] = live.back();
      live.pop_back();
    }
  }
  return trace;
}

// Whether the trace can be completed with so much memory.
bool completes(Gpu& gpu, const Trace& trace, std::uint64_t limit_bytes, DeviceHeapStats* stats) {
  DeviceHeapOptions options;
  options.limit_bytes = limit_bytes;
  options.reserve_bytes = 4 * kGiB;
  DeviceHeap heap;
  REQUIRE(heap.open(gpu, options).ok());
  std::vector<cuda::DevicePointer> blocks(trace.sizes.size());
  bool is_complete = true;
  for (const Step& step : trace.steps) {
    cuda::DevicePointer& block = blocks[step.block];
    const Outcome outcome =
        step.size_bytes == 0 ? heap.free(block) : heap.allocate({step.size_bytes, 0, 0}, &block);
    if (outcome.ok()) continue;
    REQUIRE(outcome.status == Status::over_budget);
    is_complete = false;
    break;
  }
  REQUIRE(heap.validate());
  *stats = heap.stats();
  heap.close();
  return is_complete;
}

// Thousandths of the peak that the smallest cap is.
std::uint64_t need_of(const Trace& trace, const char* name) {
  std::uint64_t found = 0;
  EmulatedGpu::Options machine;
  machine.device_bytes = 2 * kGiB;
  machine.kernels = gpu_test::kKernels;
  on_gpu(machine, [&](Rig&, Gpu& gpu) {
    std::uint64_t low = trace.peak_bytes / kGranule, high = 2 * low;  // in chunks: too little, enough
    DeviceHeapStats stats, enough;
    REQUIRE(completes(gpu, trace, high * kGranule, &enough));
    while (high - low > 1) {
      const std::uint64_t middle = (low + high) / 2;
      const bool is_enough = completes(gpu, trace, middle * kGranule, &stats);
      (is_enough ? high : low) = middle;
      if (is_enough) enough = stats;
    }
    found = high * kGranule * 1000 / trace.peak_bytes;
    UNSCOPED_INFO(name << ": " << found << " thousandths of " << trace.peak_bytes / kMiB << " MiB, "
                       << trace.steps.size() << " calls, " << enough.space.maps << " maps, "
                       << enough.space.unmaps << " unmaps, " << enough.space.creates << " creates");
  });
  return found;
}

TEST_CASE("1-6 device heap: memory needed for batches of growing size", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  CHECK(need_of(batches(seed, true), "growing") <= 1080);
}

TEST_CASE("1-6 device heap: memory needed for batches of random size", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  CHECK(need_of(batches(seed, false), "random") <= 1080);
}

TEST_CASE("1-6 device heap: memory needed for a mixture of sizes", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  CHECK(need_of(mixture(seed), "mixture") <= 1130);
}

}  // namespace
}  // namespace device_test
