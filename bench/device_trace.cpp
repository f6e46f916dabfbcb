// Where the traces come from; see device_trace.h. None of them is a recording: each is a program's habit,
// written down with numbers that were chosen before anything was measured with them.
#include "bench/device_trace.h"

#include <algorithm>

#include "bench/random.h"
#include "src/base/bits.h"

namespace device_bench {
namespace {

using glebe::kKiB;
using glebe::kMiB;
using torture::Random;

enum class Batches { growing, random };

// A model of 60 parameter tensors, which stay, and of layers that keep so many bytes for each item of a
// batch.
void add_training(Trace& trace, Random& random, Batches order, bool is_small) {
  const unsigned batches = is_small ? 4 : 32;
  std::vector<std::uint64_t> layers;
  for (unsigned i = 0; i < 60; ++i) trace.allocate(random.log_between(64 * kKiB, 32 * kMiB));
  for (unsigned i = 0; i < 48; ++i) layers.push_back(random.log_between(64 * kKiB, 4 * kMiB));
  for (unsigned i = 1; i <= batches; ++i) {
    train(trace, layers, order == Batches::growing ? i : 1 + random.below(batches));
  }
}

Trace growing_batch(std::uint64_t seed, bool is_small) {
  Trace trace;
  trace.name = "growing batch";
  trace.what = "32 training steps with batches of 1 to 32, each larger than the one before";
  Random random(seed);
  add_training(trace, random, Batches::growing, is_small);
  return trace;
}

Trace random_batch(std::uint64_t seed, bool is_small) {
  Trace trace;
  trace.name = "random batch";
  trace.what = "32 training steps with batches of 1 to 32 by lot";
  Random random(seed);
  add_training(trace, random, Batches::random, is_small);
  return trace;
}

// Columns of a table: values of 1 to 8 bytes for each row, and a bit mask for every second one.
std::vector<std::uint32_t> make_table(Trace& trace, Random& random, std::uint64_t rows) {
  std::vector<std::uint32_t> columns;
  for (unsigned i = 0; i < 12; ++i) {
    columns.push_back(trace.allocate(rows << random.below(4)));
    if (i % 2 == 0) columns.push_back(trace.allocate(rows / 8));
  }
  return columns;
}

void drop(Trace& trace, const std::vector<std::uint32_t>& blocks) {
  for (const std::uint32_t block : blocks) trace.free(block);
}

// What RMM's issue 1245 tells of: queries of a data frame library, whose temporary tables of any size go
// away while some of the results, made in between, stay.
Trace queries(std::uint64_t seed, bool is_small) {
  Trace trace;
  trace.name = "queries";
  trace.what = "96 joins like those of RMM issue 1245: inputs and temporaries go, the last 8 results stay";
  Random random(seed);
  std::vector<std::vector<std::uint32_t>> results;
  for (unsigned i = 0; i < (is_small ? 8u : 96u); ++i) {
    const std::uint64_t rows = random.log_between(256 * kKiB, 8 * kMiB);
    const std::vector<std::uint32_t> left = make_table(trace, random, rows);
    const std::vector<std::uint32_t> right = make_table(trace, random, rows / (2 + random.below(8)));
    const std::uint32_t hashes = trace.allocate(rows * 12);
    const std::uint32_t indices = trace.allocate(rows * 8);
    trace.free(hashes);
    results.push_back(
        make_table(trace, random, std::max<std::uint64_t>(rows * (5 + random.below(56)) / 100, 64)));
    drop(trace, left);
    trace.free(indices);
    drop(trace, right);
    if (results.size() <= 8) continue;
    const std::size_t oldest = random.below(4);  // caches do not go in order
    drop(trace, results[oldest]);
    results.erase(results.begin() + static_cast<std::ptrdiff_t>(oldest));
  }
  return trace;
}

Trace mixture(std::uint64_t seed, bool is_small) {
  Trace trace;
  trace.name = "log-uniform";
  trace.what = "blocks of 4 KiB to 16 MiB, every doubling as likely, up to 1 GiB live, freed by lot";
  Random random(seed);
  const std::uint64_t full = is_small ? 32 * kMiB : 1024 * kMiB;
  std::vector<std::uint32_t> live;
  for (unsigned i = 0; i < (is_small ? 400u : 20'000u); ++i) {
    const bool is_full = trace.live_bytes > full;
    if (live.empty() || (!is_full && random.chance(50))) {
      live.push_back(trace.allocate(random.log_between(4 * kKiB, 16 * kMiB)));
      continue;
    }
    const std::size_t at = random.below(live.size());
    trace.free(live[at]);
    live[at] = live.back();
    live.pop_back();
  }
  return trace;
}

}  // namespace

std::uint32_t Trace::allocate(std::uint64_t size_bytes) {
  const auto block = static_cast<std::uint32_t>(sizes.size());
  steps.push_back({block, size_bytes});
  sizes.push_back(size_bytes);
  live_bytes += size_bytes;
  peak_bytes = std::max(peak_bytes, live_bytes);
  return block;
}

void Trace::free(std::uint32_t block) {
  steps.push_back({block, 0});
  live_bytes -= sizes[block];
}

void train(Trace& trace, const std::vector<std::uint64_t>& layers, std::uint64_t batch) {
  std::vector<std::uint32_t> kept;
  for (const std::uint64_t layer : layers) {
    const std::uint32_t workspace = trace.allocate(layer * batch / 2);
    kept.push_back(trace.allocate(layer * batch));
    trace.free(workspace);
  }
  std::uint32_t gradient = trace.allocate(layers.back() * batch);
  for (std::size_t i = layers.size(); i-- > 0;) {
    const std::uint32_t next = trace.allocate(layers[i] * batch);
    trace.free(gradient);
    trace.free(kept[i]);
    gradient = next;
  }
  trace.free(gradient);
}

std::vector<Trace> make_traces(std::uint64_t seed, bool is_small) {
  return {growing_batch(seed, is_small), random_batch(seed, is_small), queries(seed, is_small),
          mixture(seed, is_small)};
}

}  // namespace device_bench
