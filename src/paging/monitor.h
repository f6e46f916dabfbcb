// How full the machine is: resident memory of the process, memory and limits of its control group, and the
// kernel's pressure figures (namespace glebe::paging). The budgets count our own bytes; this adds what others
// take. Reading costs a few small files, so a sample is kept for kSampleMs. Thread-safe.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace glebe::paging {

class SystemMonitor {
 public:
  static constexpr std::uint64_t kSampleMs = 100;

  struct Sample {
    std::uint64_t resident_bytes;     // of this process
    std::uint64_t group_bytes;        // in use in the control group that has a limit, or else on the machine
    std::uint64_t group_limit_bytes;  // of that group, or the memory of the machine
    std::uint32_t stalled;  // share of the last 10 s in which some task waited for memory, millionths
  };

  // The last sample, taken again when it is old.
  [[nodiscard]] Sample sample() noexcept;
  // Use / limit in millionths, of the control group or of the machine; above "severe" when tasks
  // wait for memory for more than a tenth of the time.
  [[nodiscard]] std::uint32_t pressure() noexcept;

 private:
  std::atomic<std::uint64_t> taken_ms_{0};
  std::atomic<std::uint64_t> resident_{0}, group_{0}, limit_{0};
  std::atomic<std::uint32_t> stalled_{0};
};

}  // namespace glebe::paging
