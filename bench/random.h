// The generator behind every random choice of the bench: 64 bits of state, the same sequence on every machine
// and compiler, so that a printed seed repeats a run. One object belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace torture {

// Bijective scrambling of a word: neighbouring inputs give unrelated outputs.
[[nodiscard]] constexpr std::uint64_t scramble(std::uint64_t value) noexcept {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

class Random {
 public:
  explicit Random(std::uint64_t seed) noexcept : state_(seed) {}

  std::uint64_t next() noexcept {
    state_ += 0x9E3779B97F4A7C15u;
    return scramble(state_);
  }

  // Uniform in [0, limit); limit is not 0 and fits 32 bits. The bias of at most limit / 2^32 is irrelevant
  // here.
  std::uint32_t below(std::size_t limit) noexcept {
    return static_cast<std::uint32_t>(((next() >> 32) * limit) >> 32);
  }

  // Uniform in [low, high].
  std::size_t between(std::size_t low, std::size_t high) noexcept { return low + below(high - low + 1); }

  bool chance(unsigned percent) noexcept { return below(100) < percent; }

  // Every doubling between low and high is equally likely: small sizes dominate, as they do in programs.
  std::size_t log_between(std::size_t low, std::size_t high) noexcept {
    unsigned doublings = 0;
    while ((low << (doublings + 1)) <= high) ++doublings;
    const std::size_t start = low << below(doublings + 1);
    const std::size_t end = start * 2 - 1;
    return between(start, end < high ? end : high);
  }

  // The mixture of an ordinary program: mostly tens to hundreds of bytes, a few buffers of up to 32 KiB.
  std::size_t program_size() noexcept {
    const std::uint32_t dice = below(1000);
    if (dice < 900) return log_between(16, 512);
    if (dice < 990) return log_between(512, 4096);
    return log_between(4096, 32768);
  }

 private:
  std::uint64_t state_;
};

}  // namespace torture
