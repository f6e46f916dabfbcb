// Random numbers and fast assertions for model tests: one printed seed decides everything a test does.
//
//   const std::uint64_t seed = test_seed();
//   INFO("GLEBE_TEST_SEED=" << seed);
//   Random random(seed);
#pragma once

#include <cstdint>
#include <cstdlib>

// The seed in the environment variable GLEBE_TEST_SEED, or a fixed one, so that a plain run is repeatable.
inline std::uint64_t test_seed() {
  const char* text = std::getenv("GLEBE_TEST_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 0) : 20240229;
}

// SplitMix64 (Steele, Lea, Flood 2014): every seed is good.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    state_ += 0x9E3779B97F4A7C15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  // A number below `bound`; bound > 0. The bias is below bound / 2^64.
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }
  std::uint32_t below32(std::uint32_t bound) { return static_cast<std::uint32_t>(next() % bound); }
  bool one_in(std::uint64_t n) { return below(n) == 0; }

 private:
  std::uint64_t state_;
};

// Collects checks inside loops of millions of steps, where one REQUIRE each would take most of the time. The
// test ends with REQUIRE(expect.failed_line() == 0).
class Expect {
 public:
  bool operator()(bool condition, int line = __builtin_LINE()) {
    if (!condition && failed_line_ == 0) failed_line_ = line;
    return condition;
  }
  // The line of the first check that failed, 0 if none did.
  int failed_line() const { return failed_line_; }

 private:
  int failed_line_ = 0;
};
