// C++ programs in small: standard containers, strings, trees and long numbers, through operator new and
// malloc. Their blocks carry data instead of marks; the data is compared with what it must be.
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "bench/protocol.h"
#include "bench/workloads.h"

namespace torture {
namespace {

// The value that belongs to a key: 4 to 67 characters, all of them derived from the key.
std::string value_of(std::uint64_t key) {
  const std::uint64_t mixed = scramble(key + 1);
  std::string value(4 + mixed % 64, static_cast<char>('a' + mixed % 26));
  value.back() = static_cast<char>('A' + (mixed >> 8) % 26);
  return value;
}

void check_value(std::uint64_t key, const std::string& value) {
  if (value != value_of(key)) {
    fail("the string of key %llu changed: \"%.60s\"", static_cast<unsigned long long>(key), value.c_str());
  }
}

void check_node(const void* node, std::size_t alignment) {
  if (reinterpret_cast<std::uintptr_t>(node) % alignment != 0) {
    fail("the node at %p is not aligned to %zu", node, alignment);
  }
}

struct Store {
  std::map<std::uint64_t, std::string> ordered;
  std::unordered_map<std::uint64_t, std::string> hashed;
  std::deque<std::pair<std::uint64_t, std::string>> recent;
  std::vector<std::vector<std::string>> rows;
};

void insert_or_erase(Store& store, std::uint64_t key) {
  auto [place, fresh] = store.ordered.try_emplace(key, value_of(key));
  check_node(&place->second, alignof(std::string));
  if (!fresh) {
    check_value(key, place->second);
    store.ordered.erase(place);
  }
  const auto found = store.hashed.find(key);
  if (found == store.hashed.end()) {
    store.hashed.emplace(key, value_of(key));
  } else {
    check_value(key, found->second);
    store.hashed.erase(found);
  }
}

void push_row(Store& store, std::uint64_t key) {
  store.recent.emplace_back(key, value_of(key));
  if (store.recent.size() > 2000) {
    check_value(store.recent.front().first, store.recent.front().second);
    store.recent.pop_front();
  }
  std::vector<std::string>& row = store.rows[key % store.rows.size()];
  row.push_back(value_of(key % store.rows.size()));
  if (row.size() <= 30) return;
  for (const std::string& value : row) check_value(key % store.rows.size(), value);
  std::vector<std::string>().swap(row);
}

struct Node {
  Node* left;
  Node* right;
  std::uint64_t value;
};

Node* build_tree(unsigned depth, std::uint64_t value) {
  Node* node = new Node{nullptr, nullptr, value};
  escape(node);
  check_node(node, alignof(Node));
  if (depth != 0) {
    node->left = build_tree(depth - 1, 2 * value);
    node->right = build_tree(depth - 1, 2 * value + 1);
  }
  return node;
}

// Checks that each node holds its number in the tree, frees it, and returns how many there were.
std::size_t drop_tree(Node* node, std::uint64_t value) {
  if (node == nullptr) return 0;
  if (node->value != value) {
    fail("the tree node at %p holds %llu instead of %llu", static_cast<void*>(node),
         static_cast<unsigned long long>(node->value), static_cast<unsigned long long>(value));
  }
  const std::size_t count = 1 + drop_tree(node->left, 2 * value) + drop_tree(node->right, 2 * value + 1);
  delete node;
  return count;
}

// A natural number in one block of malloc, least significant word first.
struct Number {
  std::uint32_t* words;
  std::size_t count;
};

// number * factor + addend in a new block; the old one is freed.
Number multiply_add(Number number, std::uint32_t factor, std::uint32_t addend) {
  Number result{static_cast<std::uint32_t*>(std::malloc((number.count + 1) * sizeof(std::uint32_t))),
                number.count};
  if (result.words == nullptr) fail("malloc of %zu words returned null", number.count + 1);
  escape(result.words);
  std::uint64_t carry = addend;
  for (std::size_t index = 0; index < number.count; ++index) {
    carry += std::uint64_t{number.words[index]} * factor;
    result.words[index] = static_cast<std::uint32_t>(carry);
    carry >>= 32;
  }
  if (carry != 0) result.words[result.count++] = static_cast<std::uint32_t>(carry);
  std::free(number.words);
  return result;
}

std::uint64_t remainder(const Number& number, std::uint64_t modulus) {
  std::uint64_t rest = 0;
  for (std::size_t index = number.count; index-- != 0;) rest = ((rest << 32) | number.words[index]) % modulus;
  return rest;
}

}  // namespace

void containers(Context& context) {
  Random random(context.seed);
  Store store;
  store.rows.resize(500);
  for (std::size_t step = context.scaled(3'300'000); step != 0; --step) {
    insert_or_erase(store, random.below(20'000));
    push_row(store, random.below(1'000'000));
  }
  for (const auto& [key, value] : store.ordered) check_value(key, value);
  for (const auto& [key, value] : store.hashed) check_value(key, value);
  for (const auto& [key, value] : store.recent) check_value(key, value);
}

// Sentences are put together from words, cut again and counted; the counts must be those of the words put in.
void word_count(Context& context) {
  constexpr std::size_t kWords = 5000;
  Random random(context.seed);
  std::vector<std::uint64_t> expected(kWords);
  std::map<std::string, std::uint64_t> counts;
  for (std::size_t sentence = context.scaled(310'000); sentence != 0; --sentence) {
    std::string text;
    for (std::size_t word = 0; word < 20; ++word) {
      const std::size_t number = random.below(kWords);
      ++expected[number];
      text += "the-word-with-number-" + std::to_string(number) + " ";
    }
    for (std::size_t start = 0; start < text.size();) {
      const std::size_t end = text.find(' ', start);
      ++counts[text.substr(start, end - start)];
      start = end + 1;
    }
  }
  for (std::size_t number = 0; number < kWords; ++number) {
    const std::string word = "the-word-with-number-" + std::to_string(number);
    const auto found = counts.find(word);
    const std::uint64_t counted = found == counts.end() ? 0 : found->second;
    if (counted != expected[number]) {
      fail("the word \"%s\" was counted %llu times instead of %llu", word.c_str(),
           static_cast<unsigned long long>(counted), static_cast<unsigned long long>(expected[number]));
    }
  }
}

// One tree stays alive while many small ones come and go.
void trees(Context& context) {
  constexpr unsigned kKeptDepth = 16;
  Node* kept = build_tree(kKeptDepth, 1);
  for (std::size_t round = context.scaled(20'000); round != 0; --round) {
    const unsigned depth = 8 + static_cast<unsigned>(round % 6);
    if (drop_tree(build_tree(depth, round), round) != (std::size_t{2} << depth) - 1)
      fail("a tree lost nodes");
  }
  if (drop_tree(kept, 1) != (std::size_t{2} << kKeptDepth) - 1) fail("the tree that was kept lost nodes");
}

void big_numbers(Context& context) {
  constexpr std::uint64_t kModulus = 2147483647;
  Random random(context.seed);
  for (std::size_t chain = context.scaled(150'000); chain != 0; --chain) {
    Number number{nullptr, 0};
    std::uint64_t rest = 0;
    for (std::size_t step = 0; step < 120; ++step) {
      const std::uint32_t factor = random.below(1u << 31) + 1;
      const std::uint32_t addend = random.below(1u << 31);
      number = multiply_add(number, factor, addend);
      rest = (rest * (factor % kModulus) + addend) % kModulus;
    }
    if (remainder(number, kModulus) != rest) fail("a number of %zu words changed", number.count);
    std::free(number.words);
  }
}

}  // namespace torture
