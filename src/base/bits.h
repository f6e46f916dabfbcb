// Arithmetic on powers of two and on words of bits. Pure functions: no state, no system calls.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace glebe {

inline constexpr std::size_t kKiB = std::size_t{1} << 10;
inline constexpr std::size_t kMiB = std::size_t{1} << 20;
inline constexpr std::size_t kGiB = std::size_t{1} << 30;
inline constexpr std::size_t kTiB = std::size_t{1} << 40;

// (std::has_single_bit counts bits, for which a machine without that instruction calls a function.)
[[nodiscard]] constexpr bool is_power_of_two(std::uint64_t value) noexcept {
  return value != 0 && (value & (value - 1)) == 0;
}

// Rounds to a multiple of `alignment`, a power of two. align_up wraps past the end of the type: callers that
// take sizes from users bound them first.
[[nodiscard]] constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) noexcept {
  return (value + alignment - 1) & ~(alignment - 1);
}
[[nodiscard]] constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t alignment) noexcept {
  return value & ~(alignment - 1);
}
[[nodiscard]] constexpr bool is_aligned(std::uint64_t value, std::uint64_t alignment) noexcept {
  return (value & (alignment - 1)) == 0;
}

[[nodiscard]] constexpr std::uint64_t divide_up(std::uint64_t value, std::uint64_t divisor) noexcept {
  return (value + divisor - 1) / divisor;
}

// Exponent of the largest power of two <= value, and of the smallest >= value. `value` is not 0.
[[nodiscard]] constexpr unsigned log2_floor(std::uint64_t value) noexcept {
  return 63u - static_cast<unsigned>(std::countl_zero(value));
}
[[nodiscard]] constexpr unsigned log2_ceil(std::uint64_t value) noexcept {
  return value <= 1 ? 0u : log2_floor(value - 1) + 1u;
}

// Number of set bits. (std::popcount is a call of a function that looks bytes up, where the machine type has
// no such instruction.)
[[nodiscard]] constexpr unsigned count_bits(std::uint64_t word) noexcept {
  word -= (word >> 1) & 0x5555555555555555u;
  word = (word & 0x3333333333333333u) + ((word >> 2) & 0x3333333333333333u);
  word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return static_cast<unsigned>((word * 0x0101010101010101u) >> 56);
}

// A word with bits [first, first + count) set; count <= 64 - first.
[[nodiscard]] constexpr std::uint64_t bit_range(unsigned first, unsigned count) noexcept {
  return (count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1) << first;
}

}  // namespace glebe
