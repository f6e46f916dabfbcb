// Parsing GLEBE_OPTIONS and handing the settings down. The parser is a pure function over the text.
#include "src/api/options.h"

#include <iterator>

#include "platform/process.h"
#include "platform/thread.h"
#include "src/base/text.h"
#include "src/heap/allocate.h"
#include "src/heap/misuse.h"
#include "src/heap/reclaim.h"
#include "src/paging/pager.h"
#include "src/paging/policy.h"
#include "src/vm/chunk.h"
#include "src/vm/region.h"

namespace glebe::api {

constinit std::atomic<Configured> configured{Configured::no};

namespace {

constinit Options options_in_force{};

constexpr OptionInfo kTable[] = {
#define OPTION(kind, name, standard, lowest, highest, help) \
  {#name, OptionKind::kind, &Options::name, lowest, highest},
#include "src/api/options.def"
#undef OPTION
};

constexpr std::string_view kMisuseWords[] = {"abort", "warn", "ignore"};
constexpr std::string_view kPagingWords[] = {"off", "auto", "uffd", "kernel"};
constexpr std::string_view kCodecWords[] = {"lz4", "zstd"};
constexpr std::string_view kVictimWords[] = {"lru", "clock", "s3fifo", "fifo", "oldest", "largest"};

// The order of the words is the order of the actions.
static_assert(static_cast<unsigned>(heap::MisuseAction::abort) == 0);
static_assert(static_cast<unsigned>(heap::MisuseAction::warn) == 1);
static_assert(static_cast<unsigned>(heap::MisuseAction::ignore) == 2);

static_assert(static_cast<unsigned>(paging::PagerWish::kernel) == 3);
static_assert(static_cast<unsigned>(paging::Codec::zstd) == 1);
// The last one, 2Q, is for explicit buffers: it needs to know of every use.
static_assert(std::size(kVictimWords) == paging::kVictimKinds - 1);
static_assert(static_cast<unsigned>(paging::VictimKind::two_q) == paging::kVictimKinds - 1);
static_assert(static_cast<unsigned>(paging::VictimKind::clock) == 1);
static_assert(static_cast<unsigned>(paging::VictimKind::largest) == 5);

// Characters [begin, end) of the text. Unlike substr() it cannot throw, so that no C++ library is needed.
constexpr std::string_view part(std::string_view text, std::size_t begin, std::size_t end) noexcept {
  return {text.data() + begin, end - begin};
}

// A value, or why there is none.
struct Value {
  std::uint64_t number = 0;
  const char* problem = nullptr;
};

// Digits only: no sign, no space, no other base.
Value parse_number(std::string_view text) noexcept {
  Value value;
  if (text.empty()) return {0, "a number is missing"};
  for (const char character : text) {
    if (character < '0' || character > '9') return {0, "not a decimal number"};
    const auto digit = static_cast<std::uint64_t>(character - '0');
    if (value.number > (UINT64_MAX - digit) / 10) return {0, "the number is too large"};
    value.number = value.number * 10 + digit;
  }
  return value;
}

// A number of bytes, or of the unit that a last letter names.
Value parse_size(std::string_view text) noexcept {
  constexpr std::string_view kUnits = "KMGT";
  const std::size_t unit = text.empty() ? std::string_view::npos : kUnits.find(text.back());
  if (unit == std::string_view::npos) return parse_number(text);
  Value value = parse_number(part(text, 0, text.size() - 1));
  const unsigned shift = 10 * static_cast<unsigned>(unit + 1);
  if (value.problem == nullptr && value.number > (UINT64_MAX >> shift)) return {0, "the number is too large"};
  value.number <<= shift;
  return value;
}

// A size, or a percentage with up to four decimals.
Value parse_budget(std::string_view text) noexcept {
  if (text.empty() || text.back() != '%') return parse_size(text);
  constexpr std::uint64_t kPercent = 10'000, kWhole = 100 * kPercent;
  constexpr std::size_t kDecimals = 4;
  constexpr const char* kProblem = "a percentage lies above 0 and is at most 100";
  const std::size_t point = text.find('.'), end = text.size() - 1;
  Value share = parse_number(part(text, 0, point < end ? point : end));
  if (share.problem != nullptr) return share;
  if (share.number > kWhole / kPercent) return {0, kProblem};
  share.number *= kPercent;
  if (point < end) {
    const std::size_t decimals = end - point - 1;
    if (decimals > kDecimals) return {0, "a percentage has at most four decimals"};
    Value fraction = parse_number(part(text, point + 1, end));
    if (fraction.problem != nullptr) return fraction;
    for (std::size_t i = decimals; i < kDecimals; ++i) fraction.number *= 10;
    share.number += fraction.number;
  }
  if (share.number == 0 || share.number > kWhole) return {0, kProblem};
  return {kShareBit | share.number, nullptr};
}

Value parse_word(std::string_view text, std::span<const std::string_view> words,
                 const char* problem) noexcept {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (text == words[i]) return {i, nullptr};
  }
  return {0, problem};
}

// Where the text stands: its offset in `whole`, plus 1, and its length.
constexpr unsigned kLengthBits = 16;
Value parse_text(std::string_view text, std::string_view whole) noexcept {
  if (text.empty()) return {0, "a text is missing"};
  if (text.size() >= std::size_t{1} << kLengthBits) return {0, "the text is too long"};
  const auto offset = static_cast<std::uint64_t>(text.data() - whole.data());
  return {(offset + 1) << kLengthBits | text.size(), nullptr};
}

Value parse_value(OptionKind kind, std::string_view text, std::string_view whole) noexcept {
  switch (kind) {
    case OptionKind::misuse:
      return parse_word(text, kMisuseWords, "the value is none of abort, warn, ignore");
    case OptionKind::paging:
      return parse_word(text, kPagingWords, "the value is none of off, auto, uffd, kernel");
    case OptionKind::codec:
      return parse_word(text, kCodecWords, "the value is none of lz4, zstd");
    case OptionKind::victim:
      return parse_word(text, kVictimWords, "the value is none of lru, clock, s3fifo, fifo, oldest, largest");
    case OptionKind::text:
      return parse_text(text, whole);
    case OptionKind::budget:
      return parse_budget(text);
    case OptionKind::size:
      return parse_size(text);
    case OptionKind::flag:
    case OptionKind::milliseconds:
      break;
  }
  return parse_number(text);
}

// Sets what one entry "name=value" says, or tells why not.
const char* apply_entry(std::string_view entry, std::string_view whole, Options& options) noexcept {
  const std::size_t equals = entry.find('=');
  if (equals == std::string_view::npos) return "there is no '='";
  const OptionInfo* option = find_option(part(entry, 0, equals));
  if (option == nullptr) return "there is no option of that name";
  const Value value = parse_value(option->kind, part(entry, equals + 1, entry.size()), whole);
  if (value.problem != nullptr) return value.problem;
  // The limits are those of a number of bytes; where a share leads depends on the system.
  const bool is_share = option->kind == OptionKind::budget && (value.number & kShareBit) != 0;
  if (option->kind == OptionKind::text || is_share) return options.*option->value = value.number, nullptr;
  if (value.number < option->lowest) return "the value is below the lowest allowed";
  if (value.number > option->highest) return "the value is above the highest allowed";
  options.*option->value = value.number;
  return nullptr;
}

void report_problem(const OptionProblem& problem) noexcept {
  constexpr std::size_t kShownMax = 80;  // of an entry that may be anything
  char buffer[256];
  Text text(buffer);
  text.append("glebe: GLEBE_OPTIONS, character ").append_unsigned(problem.position + 1).append(": \"");
  const std::size_t shown = problem.entry.size() < kShownMax ? problem.entry.size() : kShownMax;
  text.append(part(problem.entry, 0, shown)).append("\" is ignored: ").append(problem.reason).append("\n");
  os::write_error(text.c_str(), text.size());
}

void report_problems(const ParsedOptions& parsed) noexcept {
  const unsigned kept = parsed.problem_count < kProblemMax ? parsed.problem_count : kProblemMax;
  for (unsigned i = 0; i < kept; ++i) report_problem(parsed.problems[i]);
  if (parsed.problem_count == kept) return;
  char buffer[96];
  Text text(buffer);
  text.append("glebe: GLEBE_OPTIONS: ").append_unsigned(parsed.problem_count - kept);
  text.append(" more problems\n");
  os::write_error(text.c_str(), text.size());
}

void hand_down(const Options& options) noexcept {
  heap::misuse_action = static_cast<heap::MisuseAction>(options.on_misuse);
  heap::settings.debug_fill = options.debug != 0;
  heap::settings.zero_on_free = options.zero_on_free != 0;
  heap::purge_delay_ms = static_cast<std::uint32_t>(options.purge_delay_ms);
  vm::chunk_policy.huge_pages = options.huge_pages != 0;
  vm::chunk_policy.huge_minimum_bytes = static_cast<std::size_t>(options.huge_minimum);
  vm::requested_chunk_space_bytes = static_cast<std::size_t>(options.reserve);
}

// Copies the texts to where they stay: the environment may be changed by the program.
void keep_texts(std::string_view text, Options& options) noexcept {
  static constinit char kept[4 * kKiB];
  std::size_t used = 0;
  for (const OptionInfo& option : kTable) {
    if (option.kind != OptionKind::text || options.*option.value == 0) continue;
    const std::uint64_t place = options.*option.value;
    const std::size_t offset = (place >> kLengthBits) - 1, length = place & ((1u << kLengthBits) - 1);
    options.*option.value = 0;
    if (used + length + 1 > sizeof kept) continue;
    for (std::size_t i = 0; i < length; ++i) kept[used + i] = text[offset + i];
    kept[used + length] = '\0';
    options.*option.value = reinterpret_cast<std::uintptr_t>(kept + used);
    used += length + 1;
  }
}

// Waits until the thread that is reading the options is done. A signal handler may have interrupted that very
// thread, or we are in a child forked meanwhile: after kYieldMax turns the settings made so far have to do.
void wait_for_reader() noexcept {
  constexpr unsigned kYieldMax = 10'000;
  for (unsigned i = 0; i < kYieldMax; ++i) {
    // Acquire pairs with the release in configure().
    if (configured.load(std::memory_order_acquire) == Configured::yes) return;
    os::yield();
  }
  configured.store(Configured::yes, std::memory_order_release);  // nobody waits a second time
}

}  // namespace

std::span<const OptionInfo> option_table() noexcept { return kTable; }

const OptionInfo* find_option(std::string_view name) noexcept {
  for (const OptionInfo& option : kTable) {
    if (name == option.name) return &option;
  }
  return nullptr;
}

ParsedOptions parse_options(std::string_view text) noexcept {
  ParsedOptions parsed;
  if (text.empty()) return parsed;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t comma = text.find(',', begin);
    const std::size_t end = comma == std::string_view::npos ? text.size() : comma;
    const std::string_view entry = part(text, begin, end);
    const char* reason = apply_entry(entry, text, parsed.options);
    if (reason != nullptr) {
      if (parsed.problem_count < kProblemMax) parsed.problems[parsed.problem_count] = {entry, begin, reason};
      ++parsed.problem_count;
    }
    begin = end + 1;
  }
  return parsed;
}

const Options& current_options() noexcept { return options_in_force; }

void configure() noexcept {
  Configured expected = Configured::no;
  // Acquire pairs with the release below, for the thread that finds the options read.
  if (!configured.compare_exchange_strong(expected, Configured::reading, std::memory_order_acquire)) {
    if (expected == Configured::reading) wait_for_reader();
    return;
  }
  const char* text = os::environment("GLEBE_OPTIONS");
  if (text != nullptr) {
    const ParsedOptions parsed = parse_options(text);
    report_problems(parsed);
    options_in_force = parsed.options;
    keep_texts(text, options_in_force);
  }
  hand_down(options_in_force);
  configured.store(Configured::yes, std::memory_order_release);  // pairs with acquire in ensure_configured()
}

}  // namespace glebe::api
