// Formatting into a buffer of the caller: messages, the statistics report, JSON.
//
// No allocation, no stdio, no locale, no locks, no global state: usable before constructors run, inside a
// signal handler and while the allocator is broken. What does not fit is cut off; the text is terminated at
// all times.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "src/base/bits.h"

namespace glebe {

// Appends to `buffer`, which outlives the Text. Calls can be chained. Not thread-safe.
class Text {
 public:
  explicit Text(std::span<char> buffer) noexcept : data_(buffer.data()), capacity_(buffer.size()) {
    terminate();
  }
  Text(const Text&) = delete;
  Text& operator=(const Text&) = delete;

  [[nodiscard]] const char* c_str() const noexcept { return capacity_ == 0 ? "" : data_; }
  [[nodiscard]] std::string_view view() const noexcept { return {c_str(), size_}; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool is_truncated() const noexcept { return is_truncated_; }
  void clear() noexcept {
    size_ = 0;
    is_truncated_ = false;
    terminate();
  }

  Text& append(std::string_view text) noexcept {
    const std::size_t count = fitting(text.size());
    if (count != 0) std::memcpy(data_ + size_, text.data(), count);
    size_ += count;
    terminate();
    return *this;
  }
  Text& append_char(char character) noexcept { return append({&character, 1}); }
  Text& append_repeated(char character, std::size_t repeat) noexcept {
    const std::size_t count = fitting(repeat);
    if (count != 0) std::memset(data_ + size_, character, count);
    size_ += count;
    terminate();
    return *this;
  }

  Text& append_unsigned(std::uint64_t value) noexcept { return append_digits(value, 10, 1); }
  Text& append_signed(std::int64_t value) noexcept {
    if (value >= 0) return append_unsigned(static_cast<std::uint64_t>(value));
    append_char('-');
    return append_unsigned(std::uint64_t{0} -
                           static_cast<std::uint64_t>(value));  // right for the minimum as well
  }
  // With leading zeros up to `digit_count`, at most 20.
  Text& append_padded(std::uint64_t value, unsigned digit_count) noexcept {
    return append_digits(value, 10, digit_count);
  }
  Text& append_hex(std::uint64_t value) noexcept {
    append("0x");
    return append_digits(value, 16, 1);
  }
  Text& append_address(const void* address) noexcept {
    return append_hex(static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(address)));
  }

  // numerator / denominator, rounded to `decimals` <= 6 places; "-" when the denominator is 0.
  Text& append_ratio(std::uint64_t numerator, std::uint64_t denominator, unsigned decimals) noexcept {
    return append_fraction(numerator, denominator, {0, decimals > 6 ? 6 : decimals});
  }
  // The same in percent, to at most 4 places: append_percent(1, 8, 1) gives "12.5 %".
  Text& append_percent(std::uint64_t numerator, std::uint64_t denominator, unsigned decimals) noexcept {
    return append_fraction(numerator, denominator, {2, decimals > 4 ? 4 : decimals}).append(" %");
  }
  // "512 B", "12.3 MiB": one decimal and the largest unit that leaves a number from 1 to 1023.9.
  Text& append_size(std::uint64_t size_bytes) noexcept;

  // A JSON string with its quotes. Control characters are escaped, bytes above 127 pass as they are.
  Text& append_json_string(std::string_view text) noexcept;

  // Fills the current line with spaces up to `column`, counted from 0; nothing when the line is longer
  // already.
  Text& pad_to(std::size_t column) noexcept {
    const std::size_t used = size_ - line_start();
    return used < column ? append_repeated(' ', column - used) : *this;
  }
  // Moves what was appended since `start`, an earlier size(), to the right end of a field of `width`.
  Text& align_right(std::size_t start, std::size_t width) noexcept;

 private:
  static constexpr std::size_t kDigitsMax = 20;

  // Digits of a fraction: how many stand left of the point (2 in a percentage) and how many right of it; at
  // most 6.
  struct Places {
    unsigned shifted;
    unsigned decimals;
  };
  Text& append_fraction(std::uint64_t numerator, std::uint64_t denominator, Places places) noexcept;

  // How many of `wanted` characters fit in front of the terminator; notes a cut.
  std::size_t fitting(std::size_t wanted) noexcept {
    const std::size_t room = capacity_ == 0 ? 0 : capacity_ - 1 - size_;
    if (wanted <= room) return wanted;
    is_truncated_ = true;
    return room;
  }
  void terminate() noexcept {
    if (capacity_ != 0) data_[size_] = '\0';
  }
  [[nodiscard]] std::size_t line_start() const noexcept {
    std::size_t start = size_;
    while (start > 0 && data_[start - 1] != '\n') --start;
    return start;
  }
  // Written in place from the last digit to the first; those that do not fit are the last ones.
  Text& append_digits(std::uint64_t value, unsigned base, unsigned digits_min) noexcept {
    std::size_t count = 0;
    for (std::uint64_t rest = value; rest != 0; rest /= base) ++count;
    const std::size_t width = digits_min > kDigitsMax ? kDigitsMax : digits_min;
    if (count < width) count = width;
    const std::size_t room = fitting(count);
    for (std::size_t i = count; i-- > 0; value /= base) {
      if (i < room) data_[size_ + i] = "0123456789abcdef"[value % base];
    }
    size_ += room;
    terminate();
    return *this;
  }

  char* data_;
  std::size_t capacity_;
  std::size_t size_ = 0;
  bool is_truncated_ = false;
};

inline Text& Text::append_fraction(std::uint64_t numerator, std::uint64_t denominator,
                                   Places places) noexcept {
  if (denominator == 0) return append("-");
  constexpr std::uint64_t kPowers[] = {1, 10, 100, 1000, 10'000, 100'000, 1'000'000};
  const unsigned digits = places.shifted + places.decimals;
  std::uint64_t whole = numerator / denominator;
  std::uint64_t rest = numerator % denominator;
  // Keep rest * 10^6 within 64 bits. The bits dropped here are far below the last place printed.
  const unsigned shift = denominator >> 43 == 0 ? 0 : log2_floor(denominator) - 42;
  rest >>= shift;
  denominator >>= shift;
  std::uint64_t fraction = (rest * kPowers[digits] + denominator / 2) / denominator;
  if (fraction >= kPowers[digits]) {
    fraction -= kPowers[digits];
    ++whole;
  }
  // The places left of the point follow the whole part; without a whole part they have no leading zeros.
  const std::uint64_t shifted = fraction / kPowers[places.decimals];
  if (whole != 0 || places.shifted == 0) append_unsigned(whole);
  if (places.shifted != 0) append_padded(shifted, whole != 0 ? places.shifted : 1);
  if (places.decimals == 0) return *this;
  return append_char('.').append_padded(fraction % kPowers[places.decimals], places.decimals);
}

inline Text& Text::append_size(std::uint64_t size_bytes) noexcept {
  constexpr std::string_view kUnits[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
  if (size_bytes < 1024) return append_unsigned(size_bytes).append(kUnits[0]);
  unsigned unit = log2_floor(size_bytes) / 10;
  const std::uint64_t scale = std::uint64_t{1} << (10 * unit);
  // 1023.95 and more would be rounded to 1024.0: that is 1.0 of the next unit.
  if (unit < 6 && size_bytes >= scale * 1024 - scale / 20) ++unit;
  return append_ratio(size_bytes, std::uint64_t{1} << (10 * unit), 1).append(kUnits[unit]);
}

inline Text& Text::append_json_string(std::string_view text) noexcept {
  append_char('"');
  for (const char character : text) {
    const unsigned code = static_cast<unsigned char>(character);
    if (character == '"' || character == '\\') {
      append_char('\\').append_char(character);
    } else if (code < 0x20) {
      append("\\u00").append_digits(code, 16, 2);
    } else {
      append_char(character);
    }
  }
  return append_char('"');
}

inline Text& Text::align_right(std::size_t start, std::size_t width) noexcept {
  if (start > size_ || size_ - start >= width) return *this;
  const std::size_t length = size_ - start;
  const std::size_t shift = fitting(width - length);
  if (shift == 0) return *this;
  std::memmove(data_ + start + shift, data_ + start, length);
  std::memset(data_ + start, ' ', shift);
  size_ += shift;
  terminate();
  return *this;
}

}  // namespace glebe
