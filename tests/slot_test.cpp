// Slots and the bit tree below them: if this fails, large blocks overlap or slots are lost.
#include "src/placement/slot.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "src/placement/bit_tree.h"
#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;
using namespace glebe::placement;

namespace {

struct OwnedTree {
  explicit OwnedTree(std::uint32_t capacity) : words(BitTree::words_needed(capacity), 0) {
    tree.init(words.data(), capacity);
  }
  std::vector<std::uint64_t> words;
  BitTree tree;
};

struct OwnedSpace {
  explicit OwnedSpace(const SlotLayout& layout) : words(SlotSpace::words_needed(layout), 0) {
    REQUIRE(space.init(layout, words) == Status::ok);
  }
  std::vector<std::uint64_t> words;
  SlotSpace space;
};

// Slots from 64 KiB to 32 MiB, 64 MiB per sub-range, far from 0.
constexpr SlotLayout kLayout{std::uint64_t{1} << 40, 16, 26, 10};

}  // namespace

TEST_CASE("mut-C11 bit tree: set, clear and find at every capacity class", "[placement]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  std::vector<std::uint32_t> capacities = {1, 2, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025, 4095, 4096, 4097};
  for (std::uint32_t i = 0; i < 60; ++i) capacities.push_back(2050 + 41 * i);
  for (std::uint32_t i = 0; i < 60; ++i) capacities.push_back(1 + 41 * i);
  capacities.push_back((std::uint32_t{1} << 18) + 1);  // four levels
  Expect expect;
  for (std::uint32_t capacity : capacities) {
    OwnedTree owned(capacity);
    BitTree& tree = owned.tree;
    expect(tree.find_set_from(0) == BitTree::kNone);
    for (std::uint32_t item = 0; item < capacity; ++item) {  // in order until full
      expect(tree.find_first_clear() == item);
      tree.set(item);
    }
    expect(tree.find_first_clear() == BitTree::kNone);
    expect(tree.validate());
    for (int round = 0; round < 50; ++round) {  // one hole anywhere is found
      const std::uint32_t hole = random.below32(capacity);
      tree.clear(hole);
      expect(tree.find_first_clear() == hole && !tree.test(hole));
      tree.set(hole);
      expect(tree.find_first_clear() == BitTree::kNone);
    }
    for (std::uint32_t item = capacity; item-- > 0;) {
      expect(tree.find_set_from(item) == item);
      tree.clear(item);
      expect(tree.find_first_clear() == item);
    }
    expect(tree.validate());
  }
  REQUIRE(expect.failed_line() == 0);
}

TEST_CASE("mut-C11 bit tree against a model, 1,000,000 operations", "[placement]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Expect expect;
  for (std::uint32_t capacity : {64u, 1000u, 2050u, 4097u, 70'000u}) {
    OwnedTree owned(capacity);
    std::set<std::uint32_t> clear_items, set_items;
    for (std::uint32_t item = 0; item < capacity; ++item) clear_items.insert(clear_items.end(), item);
    for (std::uint32_t step = 0; step < 200'000; ++step) {
      const bool filling = (step / (capacity + 1)) % 2 == 0;
      const std::uint32_t first = owned.tree.find_first_clear();
      expect(first == (clear_items.empty() ? BitTree::kNone : *clear_items.begin()));
      const std::uint32_t item =
          filling && first != BitTree::kNone && !random.one_in(4) ? first : random.below32(capacity);
      expect(owned.tree.test(item) == (set_items.count(item) != 0));
      if (filling ? !random.one_in(16) : random.one_in(16)) {
        owned.tree.set(item);
        set_items.insert(item);
        clear_items.erase(item);
      } else {
        owned.tree.clear(item);
        set_items.erase(item);
        clear_items.insert(item);
      }
      const auto next = set_items.lower_bound(item);
      expect(owned.tree.find_set_from(item) == (next == set_items.end() ? BitTree::kNone : *next));
      if (step % 4096 == 0) expect(owned.tree.validate());
    }
    expect(owned.tree.validate());
  }
  REQUIRE(expect.failed_line() == 0);
}

TEST_CASE("mut-C11 bit tree: validate tells a summary that disagrees", "[placement]") {
  OwnedTree owned(5000);
  REQUIRE(owned.tree.validate());
  owned.words[divide_up(5000, 64)] |= 1;  // level 1 says that the first word is full
  REQUIRE_FALSE(owned.tree.validate());
}

TEST_CASE("L4 slot exponent and mask at the edges", "[placement]") {
  REQUIRE(slot_shift_for(0, 26) == 26);
  REQUIRE(slot_shift_for(1, 26) == 26);
  REQUIRE(slot_shift_for((std::uint64_t{1} << 26) - 1, 26) == 26);
  REQUIRE(slot_shift_for(std::uint64_t{1} << 26, 26) == 26);
  REQUIRE(slot_shift_for((std::uint64_t{1} << 26) + 1, 26) == 27);
  REQUIRE(slot_shift_for(std::uint64_t{1} << 63, 26) == 63);
  REQUIRE(slot_shift_for((std::uint64_t{1} << 63) + 1, 26) == 64);
  REQUIRE(slot_shift_for(~std::uint64_t{0}, 26) == 64);
  for (unsigned shift = 0; shift < 64; ++shift) {
    REQUIRE(slot_shift_for(slot_bytes(shift), 0) == shift);
    REQUIRE(slot_mask(shift) == slot_bytes(shift) - 1);
    if (shift >= 2) REQUIRE(slot_shift_for(slot_bytes(shift) - 1, 0) == shift);
    if (shift < 63) REQUIRE(slot_shift_for(slot_bytes(shift) + 1, 0) == shift + 1);
  }
}

TEST_CASE("L4 slot, start and index agree for every slot", "[placement]") {
  OwnedSpace owned(kLayout);
  const SlotSpace& space = owned.space;
  Expect expect;
  for (unsigned at = 0; at < kLayout.subrange_count; ++at) {
    REQUIRE(space.slot_count(at) == std::uint32_t{1} << (26 - 16 - at));
    for (std::uint32_t index = 0; index < space.slot_count(at); ++index) {
      const std::uint64_t start = space.start_of({at, index});
      expect(start == kLayout.base + (std::uint64_t{at} << 26) + (std::uint64_t{index} << (16 + at)));
      expect((start & slot_mask(16 + at)) == 0);  // aligned to its own length
      for (std::uint64_t inside : {std::uint64_t{0}, std::uint64_t{1}, slot_mask(16 + at)}) {
        const SlotId slot = space.slot_at(start + inside);
        expect(slot.subrange == at && slot.index == index);
        expect(space.is_slot_start(start + inside) == (inside == 0));
      }
    }
  }
  REQUIRE(expect.failed_line() == 0);
  const std::uint64_t length = std::uint64_t{10} << 26;
  REQUIRE(space.contains(kLayout.base));
  REQUIRE(space.contains(kLayout.base + length - 1));
  REQUIRE_FALSE(space.contains(kLayout.base + length));
  REQUIRE_FALSE(space.contains(kLayout.base - 1));
  REQUIRE_FALSE(space.contains(0));
  REQUIRE_FALSE(space.contains(~std::uint64_t{0}));
}

TEST_CASE("L1 a space is made from a valid layout only", "[placement]") {
  REQUIRE(SlotSpace::is_valid(kLayout));
  REQUIRE_FALSE(SlotSpace::is_valid({std::uint64_t{1} << 40, 16, 26, 0}));
  REQUIRE_FALSE(SlotSpace::is_valid({std::uint64_t{1} << 40, 16, 26, 12}));  // slot longer than its sub-range
  REQUIRE_FALSE(SlotSpace::is_valid({(std::uint64_t{1} << 40) + 4096, 16, 26, 10}));  // base not aligned
  REQUIRE_FALSE(SlotSpace::is_valid({0, 0, 26, 1}));                                  // more than 2^24 slots
  REQUIRE_FALSE(SlotSpace::is_valid({0, 60, 58, 1}));
  REQUIRE_FALSE(SlotSpace::is_valid({0, 36, 60, 1}));
  REQUIRE(SlotSpace::is_valid({~std::uint64_t{0} << 30, 16, 26, 10}));
  REQUIRE(SlotSpace::is_valid({std::uint64_t{0} - (std::uint64_t{10} << 26), 16, 26, 10}) ==
          is_aligned(std::uint64_t{0} - (std::uint64_t{10} << 26), slot_bytes(25)));
  REQUIRE_FALSE(SlotSpace::is_valid({std::uint64_t{0} - (std::uint64_t{8} << 26), 16, 26, 10}));  // wraps

  std::vector<std::uint64_t> words(SlotSpace::words_needed(kLayout), 0);
  SlotSpace space;
  REQUIRE(space.allocate(1).status == Status::too_large);  // before init there is no slot
  REQUIRE_FALSE(space.contains(0));
  REQUIRE(space.init(kLayout, {words.data(), words.size() - 1}) == Status::exhausted);
  REQUIRE(space.init(kLayout, words) == Status::ok);
  REQUIRE(space.validate());
  REQUIRE(space.live_count() == 0);
}

TEST_CASE("L2 a slot is handed out and given back", "[placement]") {
  OwnedSpace owned(kLayout);
  const Placement block = owned.space.allocate(100'000);
  REQUIRE(block.offset == kLayout.base + (std::uint64_t{1} << 26));  // first slot of 128 KiB
  REQUIRE(block.size_bytes == 131'072);
  REQUIRE(owned.space.state_of(owned.space.slot_at(block.offset)) == SlotState::live);
  REQUIRE(owned.space.free(block.offset + 4096) == Status::out_of_range);
  REQUIRE(owned.space.free(block.offset - 1) == Status::out_of_range);
  REQUIRE(owned.space.free(0) == Status::out_of_range);
  REQUIRE(owned.space.free(block.offset) == Status::ok);
  REQUIRE(owned.space.free(block.offset) == Status::double_free);
  REQUIRE(owned.space.state_of(owned.space.slot_at(block.offset)) == SlotState::free);
  REQUIRE(owned.space.live_count() == 0);
  REQUIRE(owned.space.validate());
}

TEST_CASE("L3 many slots of every size, then all given back", "[placement]") {
  OwnedSpace owned(kLayout);
  std::vector<std::uint64_t> live;
  std::set<std::uint64_t> distinct;
  for (std::uint64_t size : {64 * kKiB, 128 * kKiB, 256 * kKiB, 512 * kKiB, kMiB, 8 * kMiB, 32 * kMiB}) {
    const unsigned at = log2_floor(size) - 16;
    const std::uint32_t all = owned.space.free_count(at);
    for (std::uint32_t i = 0; i < all; ++i) {
      const Placement block = owned.space.allocate(size);
      REQUIRE(block.size_bytes == size);
      REQUIRE(is_aligned(block.offset, size));
      live.push_back(block.offset);
      distinct.insert(block.offset);
    }
    REQUIRE(owned.space.free_count(at) == 0);
  }
  REQUIRE(distinct.size() == live.size());
  REQUIRE(owned.space.validate());
  for (std::uint64_t offset : live) REQUIRE(owned.space.free(offset) == Status::ok);
  REQUIRE(owned.space.live_count() == 0);
  REQUIRE(owned.space.validate());
}

TEST_CASE("L5 a size above the longest slot is refused, a taken size goes to a longer slot", "[placement]") {
  OwnedSpace owned(kLayout);
  REQUIRE(owned.space.allocate(32 * kMiB + 1).status == Status::too_large);
  REQUIRE(owned.space.allocate(~std::uint64_t{0}).status == Status::too_large);
  REQUIRE(owned.space.allocate(4096, 64 * kMiB).status == Status::too_large);
  REQUIRE(owned.space.allocate(0).status == Status::bad_argument);
  REQUIRE(owned.space.allocate(4096, 3).status == Status::bad_argument);
  REQUIRE(owned.space.allocate(4096, 0).status == Status::bad_argument);
  REQUIRE(owned.space.live_count() == 0);

  REQUIRE(owned.space.allocate(32 * kMiB).size_bytes == 32 * kMiB);
  REQUIRE(owned.space.allocate(32 * kMiB).size_bytes == 32 * kMiB);
  REQUIRE(owned.space.allocate(32 * kMiB).status == Status::exhausted);
  for (int i = 0; i < 4; ++i) REQUIRE(owned.space.allocate(16 * kMiB).size_bytes == 16 * kMiB);
  REQUIRE(owned.space.allocate(16 * kMiB).status == Status::exhausted);
  for (int i = 0; i < 8; ++i) REQUIRE(owned.space.allocate(8 * kMiB).size_bytes == 8 * kMiB);
  REQUIRE(owned.space.allocate(8 * kMiB).status == Status::exhausted);
  for (int i = 0; i < 16; ++i) REQUIRE(owned.space.allocate(4 * kMiB).size_bytes == 4 * kMiB);
  REQUIRE(owned.space.free(owned.space.start_of({9, 1})) == Status::ok);
  const Placement longer = owned.space.allocate(4 * kMiB);
  REQUIRE(longer.size_bytes == 32 * kMiB);
  REQUIRE(longer.offset == owned.space.start_of({9, 1}));
}

TEST_CASE("L5 alignment picks a slot whose start is aligned", "[placement]") {
  OwnedSpace owned(kLayout);
  for (std::uint64_t alignment = 1; alignment <= 32 * kMiB; alignment *= 2) {
    const Placement block = owned.space.allocate(70'000, alignment);
    REQUIRE_FALSE(block.empty());
    REQUIRE(is_aligned(block.offset, alignment));
    REQUIRE(owned.space.free(block.offset) == Status::ok);
  }
}

TEST_CASE("L7 the same requests get the same addresses again", "[placement]") {
  OwnedSpace owned(kLayout);
  const auto round = [&](bool reverse) {
    std::vector<std::uint64_t> offsets;
    for (int i = 0; i < 200; ++i) offsets.push_back(owned.space.allocate(64 * kKiB).offset);
    std::vector<std::uint64_t> order = offsets;
    if (reverse) std::reverse(order.begin(), order.end());
    for (std::uint64_t offset : order) REQUIRE(owned.space.free(offset) == Status::ok);
    return offsets;
  };
  const std::vector<std::uint64_t> first = round(false);
  REQUIRE(std::is_sorted(first.begin(), first.end()));
  REQUIRE(first.back() == kLayout.base + 199 * 64 * kKiB);  // the lowest 200 slots
  REQUIRE(round(true) == first);
  REQUIRE(round(false) == first);
}

TEST_CASE("L1 a withdrawn slot is never handed out and never accepted", "[placement]") {
  OwnedSpace owned(kLayout);
  const std::uint64_t first = owned.space.allocate(32 * kMiB).offset;
  const std::uint64_t second = owned.space.start_of({9, 1});
  REQUIRE(owned.space.withdraw(first) == Status::ok);
  REQUIRE(owned.space.withdraw(first) == Status::out_of_range);
  REQUIRE(owned.space.free(first) == Status::out_of_range);
  REQUIRE(owned.space.withdraw(second + 4096) == Status::out_of_range);
  REQUIRE(owned.space.live_count() == 0);
  REQUIRE(owned.space.withdraw(second) == Status::ok);
  REQUIRE(owned.space.allocate(32 * kMiB).status == Status::exhausted);
  REQUIRE(owned.space.state_of({9, 0}) == SlotState::withdrawn);
  REQUIRE(owned.space.validate());
}

TEST_CASE("L7 slots against a model, 1,000,000 operations", "[placement]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Expect expect;
  OwnedSpace owned(kLayout);
  SlotSpace& space = owned.space;
  std::vector<std::set<std::uint32_t>> free_slots(kLayout.subrange_count);
  for (unsigned at = 0; at < kLayout.subrange_count; ++at) {
    for (std::uint32_t i = 0; i < space.slot_count(at); ++i) free_slots[at].insert(free_slots[at].end(), i);
  }
  std::vector<std::uint64_t> live;
  std::uint32_t exhaustions = 0;
  for (std::uint32_t step = 0; step < 1'000'000; ++step) {
    const std::uint64_t target = ((step >> 15) % 4) * 700;
    if (live.size() < random.below(2 * target + 1)) {
      const std::uint64_t size = 1 + random.below(std::uint64_t{1} << random.below(26));
      const std::uint64_t alignment = std::uint64_t{1} << random.below(25);
      unsigned at = slot_shift_for(std::max(size, alignment), 16) - 16;
      while (at < kLayout.subrange_count && free_slots[at].empty()) ++at;
      const Placement block = space.allocate(size, alignment);
      if (at == kLayout.subrange_count) {
        expect(block.status == Status::exhausted);
        ++exhaustions;
        continue;
      }
      const SlotId wanted{at, *free_slots[at].begin()};
      expect(!block.empty() && block.offset == space.start_of(wanted) &&
             block.size_bytes == slot_bytes(16 + at));
      expect(is_aligned(block.offset, alignment));
      free_slots[at].erase(free_slots[at].begin());
      live.push_back(block.offset);
    } else if (!live.empty()) {
      std::swap(live[random.below(live.size())], live.back());
      expect(space.free(live.back()) == Status::ok);
      if (random.one_in(8)) expect(space.free(live.back()) == Status::double_free);
      if (random.one_in(8)) expect(space.free(live.back() + 1 + random.below(65535)) == Status::out_of_range);
      const SlotId slot = space.slot_at(live.back());
      free_slots[slot.subrange].insert(slot.index);
      live.pop_back();
    }
    expect(space.live_count() == live.size());
    if (step % 8192 == 0) {
      expect(space.validate());
      std::vector<std::uint64_t> listed, sorted = live;
      space.for_each_live([&](SlotId slot) { listed.push_back(space.start_of(slot)); });
      std::sort(sorted.begin(), sorted.end());
      expect(listed == sorted);
    }
  }
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(exhaustions > 100);
}
