// How others place blocks of device memory, simulated from what they publish, so that a trace can be run
// under their rules on any machine. Only bytes are counted: nothing is allocated, and no time means anything.
#pragma once

#include <cstdint>
#include <memory>

namespace device_bench {

// A way to place blocks in a limited amount of memory.
class Policy {
 public:
  Policy() = default;
  virtual ~Policy() = default;
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;

  // False: there is no room under the limit.
  [[nodiscard]] virtual bool allocate(std::uint64_t size_bytes, std::uint64_t* address) = 0;
  virtual void free(std::uint64_t address) = 0;
};

// Caching segments, as PyTorch's allocator without expandable segments does it: sizes rounded to 512 B;
// up to 1 MiB from segments of 2 MiB, below 10 MiB from segments of 20 MiB, larger ones in a segment of their
// own, rounded to 2 MiB; best fit among the free blocks of the same kind, split when 512 B (small) or more
// than 1 MiB (large) is left; neighbours merge within a segment, never across; segments stay, and those that
// are wholly free are given back when the limit is reached.
[[nodiscard]] std::unique_ptr<Policy> simulate_segments(std::uint64_t limit_bytes);

// One contiguous range of the size of the limit, as pools over a single slab have it (RMM's pool with a fixed
// size): sizes rounded to 256 B, neighbours merge.
enum class Fit { best, first };
[[nodiscard]] std::unique_ptr<Policy> simulate_arena(std::uint64_t limit_bytes, Fit fit);

}  // namespace device_bench
