// Bits, lists and text: if this fails, everything above is built on sand.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <list>
#include <string>
#include <thread>
#include <vector>

#include "src/base/bits.h"
#include "src/base/list.h"
#include "src/base/text.h"
#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;

namespace {

struct OtherTag;
struct Item : ListNode<>, ListNode<OtherTag>, StackNode<> {
  std::uint32_t number = 0;
  std::uint32_t producer = 0;
};

std::vector<std::uint32_t> numbers(const List<Item>& list) {
  std::vector<std::uint32_t> result;
  for (Item* at = list.first(); at != nullptr; at = List<Item>::next(at)) result.push_back(at->number);
  return result;
}

std::array<Item, 5> make_items() {
  std::array<Item, 5> items;
  for (std::uint32_t i = 0; i < 5; ++i) items[i].number = i;
  return items;
}

// The text that `write` produces in a buffer of ample size.
template <typename Write>
std::string written(Write write) {
  char buffer[256];
  Text text(buffer);
  write(text);
  REQUIRE_FALSE(text.is_truncated());
  REQUIRE(std::string(text.c_str()) == std::string(text.view()));
  return text.c_str();
}

std::string size_text(std::uint64_t bytes) {
  return written([&](Text& text) { text.append_size(bytes); });
}
std::string ratio_text(std::uint64_t numerator, std::uint64_t denominator, unsigned decimals) {
  return written([&](Text& text) { text.append_ratio(numerator, denominator, decimals); });
}
std::string percent_text(std::uint64_t numerator, std::uint64_t denominator, unsigned decimals) {
  return written([&](Text& text) { text.append_percent(numerator, denominator, decimals); });
}

}  // namespace

TEST_CASE("M2 align up, align down and divide up against plain arithmetic", "[base]") {
  Expect expect;
  for (std::uint64_t alignment = 1; alignment <= 4096; alignment *= 2) {
    for (std::uint64_t value = 0; value < 10'000; ++value) {
      std::uint64_t up = value;
      while (up % alignment != 0) ++up;
      expect(align_up(value, alignment) == up);
      expect(align_down(value, alignment) == value / alignment * alignment);
      expect(is_aligned(value, alignment) == (value % alignment == 0));
      if (value < 1000)
        expect(divide_up(value, alignment + 2) == value / (alignment + 2) + (value % (alignment + 2) != 0));
    }
  }
  REQUIRE(expect.failed_line() == 0);
  const std::uint64_t top = std::uint64_t{1} << 63;
  REQUIRE(align_up(top - 1, top) == top);
  REQUIRE(align_down(~std::uint64_t{0}, top) == top);
  REQUIRE(align_up(top + 1, 4096) == top + 4096);
}

TEST_CASE("M2 powers of two and logarithms at every bit", "[base]") {
  REQUIRE_FALSE(is_power_of_two(0));
  REQUIRE(log2_floor(1) == 0);
  REQUIRE(log2_ceil(0) == 0);
  REQUIRE(log2_ceil(1) == 0);
  for (unsigned bit = 0; bit < 64; ++bit) {
    const std::uint64_t power = std::uint64_t{1} << bit;
    REQUIRE(is_power_of_two(power));
    REQUIRE(log2_floor(power) == bit);
    REQUIRE(log2_ceil(power) == bit);
    if (bit < 2) continue;
    REQUIRE_FALSE(is_power_of_two(power - 1));
    REQUIRE_FALSE(is_power_of_two(power + 1));
    REQUIRE(log2_floor(power - 1) == bit - 1);
    REQUIRE(log2_ceil(power - 1) == bit);
    REQUIRE(log2_floor(power + 1) == bit);
    REQUIRE(log2_ceil(power + 1) == (bit == 63 ? 64 : bit + 1));
  }
  REQUIRE(log2_floor(~std::uint64_t{0}) == 63);
  REQUIRE(log2_ceil(~std::uint64_t{0}) == 64);
}

TEST_CASE("mut-C11 bit ranges: every first and every count", "[base]") {
  Expect expect;
  for (unsigned first = 0; first < 64; ++first) {
    for (unsigned count = 0; count <= 64 - first; ++count) {
      std::uint64_t wanted = 0;
      for (unsigned bit = first; bit < first + count; ++bit) wanted |= std::uint64_t{1} << bit;
      expect(bit_range(first, count) == wanted);
    }
  }
  REQUIRE(expect.failed_line() == 0);
}

TEST_CASE("mut-C12 list: insert at both ends and in the middle", "[base]") {
  auto items = make_items();
  List<Item> list;
  REQUIRE(list.is_empty());
  REQUIRE(list.first() == nullptr);
  REQUIRE(list.last() == nullptr);
  REQUIRE(list.pop_front() == nullptr);
  REQUIRE(list.pop_back() == nullptr);
  list.push_back(&items[2]);
  REQUIRE(list.contains(&items[2]));
  REQUIRE_FALSE(list.contains(&items[3]));
  list.push_front(&items[0]);
  list.push_back(&items[4]);
  list.insert_before(&items[2], &items[1]);
  list.insert_after(&items[2], &items[3]);
  REQUIRE(numbers(list) == std::vector<std::uint32_t>{0, 1, 2, 3, 4});
  REQUIRE(list.count() == 5);
  REQUIRE(list.validate(5));
  REQUIRE_FALSE(list.validate(4));
  REQUIRE(list.first() == &items[0]);
  REQUIRE(list.last() == &items[4]);
  REQUIRE(List<Item>::previous(&items[3]) == &items[2]);
}

TEST_CASE("mut-C12 list: remove head, tail, middle, single", "[base]") {
  auto items = make_items();
  List<Item> list;
  for (Item& item : items) list.push_back(&item);
  list.remove(&items[0]);
  REQUIRE(numbers(list) == std::vector<std::uint32_t>{1, 2, 3, 4});
  list.remove(&items[4]);
  REQUIRE(numbers(list) == std::vector<std::uint32_t>{1, 2, 3});
  list.remove(&items[2]);
  REQUIRE(numbers(list) == std::vector<std::uint32_t>{1, 3});
  REQUIRE(list.validate(2));
  REQUIRE(list.pop_back() == &items[3]);
  REQUIRE(list.pop_front() == &items[1]);
  REQUIRE(list.is_empty());
  REQUIRE(list.last() == nullptr);
  for (Item& item : items) REQUIRE_FALSE(list.contains(&item));
  list.push_front(&items[3]);  // a removed element can be used again
  list.remove(&items[3]);
  REQUIRE(list.is_empty());
  REQUIRE(list.validate(0));
}

TEST_CASE("mut-C12 list: an element is in two lists through two nodes", "[base]") {
  auto items = make_items();
  List<Item> plain;
  List<Item, OtherTag> other;
  for (Item& item : items) {
    plain.push_back(&item);
    other.push_front(&item);
  }
  plain.remove(&items[2]);
  REQUIRE(other.contains(&items[2]));
  REQUIRE(other.count() == 5);
  REQUIRE(other.first() == &items[4]);
  REQUIRE(plain.count() == 4);

  List<Item> second;
  second.push_back(&items[2]);
  second.append_all(plain);
  REQUIRE(plain.is_empty());
  REQUIRE(numbers(second) == std::vector<std::uint32_t>{2, 0, 1, 3, 4});
  second.append_all(plain);
  plain.append_all(second);
  REQUIRE(numbers(plain) == std::vector<std::uint32_t>{2, 0, 1, 3, 4});
  REQUIRE(plain.validate(5));
  REQUIRE(second.is_empty());
}

TEST_CASE("mut-C12 list against a model, 200,000 operations", "[base]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Expect expect;
  std::vector<Item> items(64);
  for (std::uint32_t i = 0; i < 64; ++i) items[i].number = i;
  List<Item> list;
  std::list<std::uint32_t> model;
  for (std::uint32_t step = 0; step < 200'000; ++step) {
    Item& item = items[random.below(64)];
    const auto at = std::find(model.begin(), model.end(), item.number);
    expect(list.contains(&item) == (at != model.end()));
    if (at != model.end()) {
      list.remove(&item);
      model.erase(at);
    } else if (model.empty() || random.one_in(3)) {
      list.push_front(&item);
      model.push_front(item.number);
    } else if (random.one_in(2)) {
      list.push_back(&item);
      model.push_back(item.number);
    } else {
      const auto before = std::next(model.begin(), static_cast<std::ptrdiff_t>(random.below(model.size())));
      list.insert_before(&items[*before], &item);
      model.insert(before, item.number);
    }
    if (step % 64 == 0) {
      expect(list.validate(64));
      expect(numbers(list) == std::vector<std::uint32_t>(model.begin(), model.end()));
    }
  }
  REQUIRE(expect.failed_line() == 0);
}

TEST_CASE("mut-C12 stack: taken in reverse order, chains stay together", "[base]") {
  auto items = make_items();
  PushStack<Item> stack;
  REQUIRE(stack.looks_empty());
  REQUIRE(stack.take_all() == nullptr);
  stack.push(&items[0]);
  PushStack<Item>::set_next(&items[2], &items[1]);
  stack.push_chain(&items[2], &items[1]);
  stack.push(&items[3]);
  REQUIRE_FALSE(stack.looks_empty());
  std::uint32_t number = 3;
  Item* at = stack.take_all();
  for (; at != nullptr; at = PushStack<Item>::next(at)) REQUIRE(at->number == number--);
  REQUIRE(number == ~0u);
  REQUIRE(stack.looks_empty());
  REQUIRE(stack.take_all() == nullptr);
}

TEST_CASE("mut-C12 stack: four producers and two takers lose nothing, duplicate nothing", "[base]") {
  constexpr std::uint32_t kProducers = 4, kPerProducer = 50'000, kTakers = 2;
  std::vector<std::vector<Item>> items(kProducers, std::vector<Item>(kPerProducer));
  PushStack<Item> stack;
  std::atomic<std::uint32_t> running{kProducers};
  std::vector<std::vector<std::uint32_t>> taken(kTakers,
                                                std::vector<std::uint32_t>(kProducers * kPerProducer));
  std::vector<std::uint32_t> order_errors(kTakers);
  std::vector<std::thread> threads;
  for (std::uint32_t producer = 0; producer < kProducers; ++producer) {
    threads.emplace_back([&, producer] {
      for (std::uint32_t i = 0; i < kPerProducer; ++i) {
        Item& item = items[producer][i];
        item.producer = producer;
        item.number = i + 1;
        stack.push(&item);
      }
      running.fetch_sub(1, std::memory_order_release);
    });
  }
  for (std::uint32_t taker = 0; taker < kTakers; ++taker) {
    threads.emplace_back([&, taker] {
      bool last_round = false;
      while (!last_round) {
        last_round = running.load(std::memory_order_acquire) == 0;
        std::vector<std::uint32_t> previous(kProducers, kPerProducer + 1);
        for (Item* at = stack.take_all(); at != nullptr; at = PushStack<Item>::next(at)) {
          // Within one chain the elements of one producer come newest first, with their contents visible.
          if (at->number == 0 || at->number >= previous[at->producer]) ++order_errors[taker];
          previous[at->producer] = at->number;
          ++taken[taker][at->producer * kPerProducer + at->number - 1];
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(stack.take_all() == nullptr);
  REQUIRE(order_errors == std::vector<std::uint32_t>(kTakers, 0));
  Expect expect;
  for (std::size_t i = 0; i < kProducers * kPerProducer; ++i) expect(taken[0][i] + taken[1][i] == 1);
  REQUIRE(expect.failed_line() == 0);
}

TEST_CASE("text: numbers in all forms", "[base]") {
  REQUIRE(written([](Text& text) { text.append("a").append_char('b').append("").append_repeated('c', 3); }) ==
          "abccc");
  REQUIRE(written([](Text& text) {
            text.append_unsigned(0).append_char(' ').append_unsigned(~std::uint64_t{0});
          }) == "0 18446744073709551615");
  REQUIRE(written([](Text& text) { text.append_signed(-1).append_char(' ').append_signed(42); }) == "-1 42");
  REQUIRE(written([](Text& text) { text.append_signed(std::numeric_limits<std::int64_t>::min()); }) ==
          "-9223372036854775808");
  REQUIRE(written([](Text& text) { text.append_hex(0).append_char(' ').append_hex(0xDEADBEEFu); }) ==
          "0x0 0xdeadbeef");
  REQUIRE(written([](Text& text) { text.append_hex(~std::uint64_t{0}); }) == "0xffffffffffffffff");
  REQUIRE(written([](Text& text) { text.append_address(reinterpret_cast<void*>(std::uintptr_t{0x1000})); }) ==
          "0x1000");
  REQUIRE(written([](Text& text) { text.append_address(nullptr); }) == "0x0");
  REQUIRE(written([](Text& text) { text.append_padded(7, 3).append_padded(1234, 2).append_padded(0, 0); }) ==
          "0071234");
  REQUIRE(written([](Text& text) { text.append_padded(1, 99); }) == "00000000000000000001");
}

TEST_CASE("text: sizes have the unit that leaves 1 to 1023.9", "[base]") {
  REQUIRE(size_text(0) == "0 B");
  REQUIRE(size_text(1023) == "1023 B");
  REQUIRE(size_text(1024) == "1.0 KiB");
  REQUIRE(size_text(1536) == "1.5 KiB");
  REQUIRE(size_text(12 * kMiB + 300 * kKiB) == "12.3 MiB");
  REQUIRE(size_text(1024 * kKiB - 52) == "1023.9 KiB");
  REQUIRE(size_text(1024 * kKiB - 51) == "1.0 MiB");  // would round to 1024.0 KiB
  REQUIRE(size_text(kGiB - 1) == "1.0 GiB");
  REQUIRE(size_text(3 * kTiB) == "3.0 TiB");
  REQUIRE(size_text(~std::uint64_t{0}) == "16.0 EiB");
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  for (int i = 0; i < 2000; ++i) {  // the printed number is within half a last place and below 1024
    const std::uint64_t bytes = random.next() >> random.below(54);
    const std::string text = size_text(bytes);
    const double value = std::stod(text);
    const std::string unit = text.substr(text.find(' ') + 1);
    const auto power = std::string("BKMGTPE").find(unit[0]);
    const double scale = static_cast<double>(std::uint64_t{1} << (10 * power));
    INFO(bytes << " printed as " << text);
    REQUIRE(value < 1024);
    REQUIRE(std::abs(value - static_cast<double>(bytes) / scale) <= 0.0500001);
  }
}

TEST_CASE("text: ratios and percentages are rounded, never overflow", "[base]") {
  REQUIRE(ratio_text(1, 3, 3) == "0.333");
  REQUIRE(ratio_text(2, 3, 3) == "0.667");
  REQUIRE(ratio_text(5, 2, 0) == "3");
  REQUIRE(ratio_text(999, 1000, 2) == "1.00");
  REQUIRE(ratio_text(1, 1000, 2) == "0.00");
  REQUIRE(ratio_text(7, 0, 2) == "-");
  REQUIRE(ratio_text(123, 1, 6) == "123.000000");
  REQUIRE(ratio_text(123, 1, 60) == "123.000000");
  REQUIRE(ratio_text(~std::uint64_t{0}, 1, 1) == "18446744073709551615.0");
  REQUIRE(ratio_text(~std::uint64_t{0}, ~std::uint64_t{0}, 6) == "1.000000");
  REQUIRE(ratio_text(std::uint64_t{1} << 63, ~std::uint64_t{0}, 3) == "0.500");
  REQUIRE(percent_text(1, 8, 1) == "12.5 %");
  REQUIRE(percent_text(0, 8, 1) == "0.0 %");
  REQUIRE(percent_text(1, 200, 2) == "0.50 %");
  REQUIRE(percent_text(2, 3, 0) == "67 %");
  REQUIRE(percent_text(1, 1, 2) == "100.00 %");
  REQUIRE(percent_text(9'999, 10'000, 1) == "100.0 %");
  REQUIRE(percent_text(5, 4, 0) == "125 %");
  REQUIRE(percent_text(201, 200, 1) == "100.5 %");
  REQUIRE(percent_text(1, 0, 1) == "- %");
  REQUIRE(percent_text(std::uint64_t{1} << 60, 100, 1) == "1152921504606846976.0 %");
  REQUIRE(percent_text(std::uint64_t{1} << 62, ~std::uint64_t{0}, 9) == "25.0000 %");
}

TEST_CASE("text: columns and alignment", "[base]") {
  REQUIRE(written([](Text& text) { text.append("a").pad_to(4).append("b").pad_to(3).append("c"); }) ==
          "a   bc");
  REQUIRE(written([](Text& text) { text.append("long\nx").pad_to(3).append("y"); }) == "long\nx  y");
  REQUIRE(written([](Text& text) {
            text.append("n:");
            const std::size_t start = text.size();
            text.append_unsigned(42).align_right(start, 5).append("|");
          }) == "n:   42|");
  REQUIRE(written([](Text& text) { text.append("12345").align_right(0, 3).align_right(9, 20); }) == "12345");
}

TEST_CASE("text: JSON strings are escaped", "[base]") {
  REQUIRE(written([](Text& text) { text.append_json_string("a\"b\\c"); }) == "\"a\\\"b\\\\c\"");
  REQUIRE(written([](Text& text) { text.append_json_string("\n\x1f"); }) == "\"\\u000a\\u001f\"");
  REQUIRE(written([](Text& text) { text.append_json_string("\xc3\xa9"); }) == "\"\xc3\xa9\"");
  REQUIRE(written([](Text& text) { text.append_json_string(""); }) == "\"\"");
}

TEST_CASE("text: what does not fit is cut, the end is terminated, nothing is overrun", "[base]") {
  for (std::size_t capacity = 0; capacity <= 40; ++capacity) {
    std::vector<char> memory(capacity + 8, '#');
    Text text({memory.data(), capacity});
    text.append("value ").append_unsigned(123456).pad_to(20).append_hex(0xabc).append_repeated('.', 3);
    const std::size_t start = text.size();
    text.append_unsigned(7).align_right(start, 6);
    const std::string whole = "value 123456        0xabc...     7";
    REQUIRE(text.is_truncated() == (capacity < whole.size() + 1));
    REQUIRE(text.view() == std::string_view(text.c_str()));
    REQUIRE(text.size() == (capacity == 0 ? 0 : std::min(capacity - 1, whole.size())));
    // The part in front of the last field, which a cut may leave unaligned, is a prefix of the whole.
    const std::size_t exact = std::min<std::size_t>(text.size(), 28);
    REQUIRE(text.view().substr(0, exact) == whole.substr(0, exact));
    for (std::size_t i = capacity; i < memory.size(); ++i) REQUIRE(memory[i] == '#');
    text.clear();
    REQUIRE(text.size() == 0);
    REQUIRE_FALSE(text.is_truncated());
    REQUIRE(std::string(text.c_str()).empty());
  }
}
