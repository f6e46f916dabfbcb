// Options: the table of options.def, the text of GLEBE_OPTIONS, and the settings of the layers below that
// follow from it (namespace glebe::api).
//
// GLEBE_OPTIONS=name=value,name=value is read once, before the heap is used first: every slow entry of this
// layer calls ensure_configured(). Nothing here allocates or waits without a bound. An unknown name or a
// malformed value is reported on standard error and that entry has no effect; the last of several entries of
// one name counts. In a set-user-id process the variable is not read.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "src/base/bits.h"

namespace glebe::api {

enum class OptionKind : std::uint8_t {
  misuse,
  flag,
  milliseconds,
  size,
  budget,
  paging,
  codec,
  victim,
  text
};

// A budget is a number of bytes, or this bit and a share, in millionths, of what the system allows.
inline constexpr std::uint64_t kShareBit = std::uint64_t{1} << 63;

// One value per option; a word is its number, a flag 0 or 1, times are milliseconds and sizes bytes. A text
// is, once it is in force, the address of its characters (see text_of), 0 when not set; before that, where it
// stands in the parsed text.
struct Options {
#define OPTION(kind, name, standard, lowest, highest, help) std::uint64_t name = standard;
#include "src/api/options.def"
#undef OPTION
};

struct OptionInfo {
  const char* name;
  OptionKind kind;
  std::uint64_t Options::*value;
  std::uint64_t lowest, highest;
};
[[nodiscard]] std::span<const OptionInfo> option_table() noexcept;

// The row of a name, or nullptr.
[[nodiscard]] const OptionInfo* find_option(std::string_view name) noexcept;

// What was wrong with an entry: which, at which character of the text it begins, and why.
struct OptionProblem {
  std::string_view entry;
  std::size_t position;
  const char* reason;
};
inline constexpr unsigned kProblemMax = 16;  // further problems are counted but not kept

struct ParsedOptions {
  Options options;
  OptionProblem problems[kProblemMax];
  unsigned problem_count = 0;
};
// Pure: no environment, no output. The problems refer to `text`.
[[nodiscard]] ParsedOptions parse_options(std::string_view text) noexcept;

// The characters of a text option in force, or nullptr when it is not set.
[[nodiscard]] inline const char* text_of(std::uint64_t value) noexcept {
  return reinterpret_cast<const char*>(static_cast<std::uintptr_t>(value));
}

// What is in force. Defaults until configure() ran.
[[nodiscard]] const Options& current_options() noexcept;

// Reads the environment, reports problems and hands the settings to the heap; does nothing the second time.
// When another thread is reading, waits for it, but not for ever: that thread may be the one that we
// interrupted.
void configure() noexcept;

enum class Configured : std::uint8_t { no, reading, yes };
extern constinit std::atomic<Configured> configured;

inline void ensure_configured() noexcept {
  // Acquire pairs with the release in configure(): the settings are visible.
  if (configured.load(std::memory_order_acquire) != Configured::yes) [[unlikely]]
    configure();
}

}  // namespace glebe::api
