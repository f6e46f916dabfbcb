// Watches the memory of a process and all its descendants while they run.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>

namespace glebe::tool {

// Bytes. A page that a forked child shares with its parent counts for both, as the system does in RSS.
class Sampler {
 public:
  // Adds up the tree below `process` as of now. A process that was orphaned is no longer part of the tree.
  void sample(int process);

  struct Figures {
    std::uint64_t samples = 0;
    std::uint64_t peak_rss = 0, peak_anonymous = 0;  // of the whole tree
    std::uint64_t sum_rss = 0, sum_anonymous = 0;    // over the samples, for the average
    std::uint64_t peak_swapped = 0;                  // what the kernel swapped out
    std::size_t peak_processes = 0;
    std::optional<std::uint64_t> cgroup_limit, cgroup_peak;  // seen; of the group that the program is in
    [[nodiscard]] std::uint64_t average_rss() const { return samples == 0 ? 0 : sum_rss / samples; }
    [[nodiscard]] std::uint64_t average_anonymous() const {
      return samples == 0 ? 0 : sum_anonymous / samples;
    }
  };
  [[nodiscard]] const Figures& figures() const { return figures_; }

 private:
  Figures figures_;
};

}  // namespace glebe::tool
