// What the tests of the transparent pager in whole runs share; included after catch.h. Each run is in a child
// of its own, because a process starts a pager once and for good. Where the system does not allow userfaultfd
// they are passed over with a warning.
#pragma once

#include <cstdint>
#include <vector>

#include "platform/fault.h"
#include "src/base/bits.h"
#include "src/paging/pager.h"
#include "tests/heap_calls.h"
#include "tests/heap_child.h"

// A sanitizer's shadow is anonymous memory too, several times as much as the blocks: no budget is ever
// reached. So there is less of everything, and the pager presses all the time.
inline constexpr bool kHasShadow = kThreadSanitizer || kAddressSanitizer;
inline constexpr std::size_t kBudget = kHasShadow ? 4 * glebe::kMiB : 24 * glebe::kMiB;

inline bool may_page() {
  glebe::os::UserFault faults;
  const bool is_allowed = faults.open() == glebe::os::FaultSupport::full;
  faults.close();
  if (!is_allowed) WARN("userfaultfd is not allowed here: the pager is not tested");
  return is_allowed;
}

inline glebe::paging::PagerOptions options_of(std::size_t budget_bytes) {
  glebe::paging::PagerOptions options;
  options.wish = glebe::paging::PagerWish::uffd;
  options.budget_bytes = budget_bytes;
  return options;
}

// The status that `body` returned in a child that pages, as in_child() says it; 1 as well when the child does
// not page.
template <class Body>
int in_paging_child(Body body) {
  return in_child([body] {
    const bool is_paging = glebe::paging::start_pager(options_of(kBudget)) == glebe::paging::PagerMode::uffd;
    return is_paging ? body() : 1;
  });
}

// Blocks whose contents follow from their number.
struct Block {
  std::uint64_t* words;
  std::size_t count;
};
inline std::uint64_t word_of(std::size_t block, std::size_t index) {
  const std::uint64_t value = block * 0x9e3779b97f4a7c15u + index / 8;
  return block % 7 == 0 ? value * (index + 1) * 0xbf58476d1ce4e5b9u
                        : value;  // one in seven does not compress
}
inline void fill_block(const Block& block, std::size_t number) {
  for (std::size_t i = 0; i < block.count; ++i) block.words[i] = word_of(number, i);
}
inline std::size_t wrong_words(const std::vector<Block>& blocks, std::size_t step = 1) {
  std::size_t wrong = 0;
  for (std::size_t b = 0; b < blocks.size(); b += step) {
    for (std::size_t i = 0; i < blocks[b].count; ++i) wrong += blocks[b].words[i] != word_of(b, i) ? 1u : 0u;
  }
  return wrong;
}

inline std::vector<Block> make_blocks(std::size_t total_bytes) {
  constexpr std::size_t kSizes[] = {48, 1000, 4096, 20'000, 300'000};
  std::vector<Block> blocks;
  blocks.reserve(total_bytes / 1000);
  for (std::size_t done = 0, i = 0; done < total_bytes; ++i) {
    const std::size_t size = kSizes[i % std::size(kSizes)];
    blocks.push_back({static_cast<std::uint64_t*>(allocate(size)), size / 8});
    fill_block(blocks.back(), blocks.size() - 1);
    done += size;
  }
  return blocks;
}

// Waits until `is_true`, for as long as a slow machine may need.
template <class Condition>
bool eventually(Condition is_true) {
  for (int i = 0; i < 1500; ++i) {
    if (is_true()) return true;
    sleep_ms(10);
  }
  return false;
}
