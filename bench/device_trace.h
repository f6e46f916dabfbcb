// Traces of allocations and frees for the bench of device memory: generated, so that a seed repeats them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace device_bench {

struct Step {
  std::uint32_t block = 0;       // counted from 0 in the order of allocation
  std::uint64_t size_bytes = 0;  // 0: the block is freed
};

struct Trace {
  std::string name, what;
  std::vector<Step> steps;
  std::vector<std::uint64_t> sizes;  // of the blocks
  std::uint64_t live_bytes = 0;      // after the last step so far
  std::uint64_t peak_bytes = 0;      // of requested bytes that were live at the same time

  std::uint32_t allocate(std::uint64_t size_bytes);
  void free(std::uint32_t block);
};

// Appends one step of training: on the way forward every layer computes something that is kept until the way
// back, with a workspace that lives only meanwhile; on the way back one gradient makes the next. `layers`:
// the bytes that each keeps for one item of the batch; not empty.
void train(Trace& trace, const std::vector<std::uint64_t>& layers, std::uint64_t batch);

// The four traces that minimum memory is measured with. `is_small`: a few hundred steps of each, to see that
// the code works.
[[nodiscard]] std::vector<Trace> make_traces(std::uint64_t seed, bool is_small);

}  // namespace device_bench
