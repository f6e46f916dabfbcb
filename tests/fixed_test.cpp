// Equal blocks: if this fails, small blocks overlap, get lost, or are handed out twice.
#include "src/placement/fixed.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;
using namespace glebe::placement;

namespace {

// A FixedRange together with the memory for its metadata.
class OwnedRange {
 public:
  OwnedRange(std::uint64_t block_bytes, std::uint64_t alignment, std::size_t ranges_max)
      : table_(ranges_max), range(block_bytes, alignment, table_) {}

  Status add(std::uint64_t offset, std::uint64_t size_bytes) {
    const std::uint64_t blocks = range.blocks_in(offset, size_bytes);
    const std::size_t bytes = FixedRange::bytes_needed(static_cast<std::uint32_t>(blocks));
    memory_.push_back(std::make_unique<std::uint64_t[]>(bytes / 8));
    return range.add_range(offset, size_bytes, {reinterpret_cast<std::byte*>(memory_.back().get()), bytes});
  }

 private:
  std::vector<FixedChunk*> table_;
  std::vector<std::unique_ptr<std::uint64_t[]>> memory_;

 public:
  FixedRange range;
};

struct OwnedSlab {
  // Not inlined, or the compiler warns of accesses that the range checks under test exclude.
  [[gnu::noinline]] explicit OwnedSlab(std::uint32_t blocks) : words(FixedSlab::word_count(blocks)) {
    slab.init(words.data(), blocks);
  }
  std::vector<std::uint64_t> words;
  FixedSlab slab;
};

std::vector<std::uint32_t> take(OwnedSlab& owned, std::uint32_t count) {
  std::vector<std::uint32_t> taken;
  const std::uint32_t got =
      owned.slab.take_batch(owned.words.data(), count, [&](std::uint32_t index) { taken.push_back(index); });
  REQUIRE(got == taken.size());
  return taken;
}

// A FixedRange beside a naive model of it: a set of live blocks and the lengths of the ranges.
class RangeModel {
 public:
  RangeModel(Random& random, Expect& expect) : random_(random), expect_(expect) {}

  void step(std::uint32_t number) {
    // Phases from drained to exhausted, so that ranges can be removed and run full.
    const std::uint64_t target = blocks_ * ((number >> 14) % 5) / 4;
    const std::uint32_t dice = random_.below32(1000);
    if (dice < 4) {
      change_range(random_.below32(kPlaces));
    } else if (dice < 20) {  // something that is not a live block
      const std::uint64_t offset = random_.below(kPlaces * kSpacing);
      if (live_.count(offset) == 0) expect_(owned_.range.free(offset) != Status::ok);
    } else if (live_.size() < random_.below(2 * target + 1)) {
      take();
    } else if (!order_.empty()) {
      give();
    }
    expect_(owned_.range.free_count() == blocks_ - live_.size());
    if (number % 1024 == 0) expect_(owned_.range.validate());
  }

  std::uint32_t removals = 0, exhaustions = 0;

 private:
  static constexpr std::uint64_t kBlockBytes = 96, kAlignment = 48, kSpacing = 100'000;
  static constexpr std::uint32_t kPlaces = 12, kRangesMax = 10;

  static std::uint64_t start_of(std::uint64_t place) { return place * kSpacing + place * 7; }

  void change_range(std::uint32_t place) {
    const std::uint64_t start = start_of(place);
    if (length_[place] == 0) {
      const std::uint64_t bytes = 1 + random_.below(60'000);
      const std::uint64_t first = (start + kAlignment - 1) / kAlignment * kAlignment;
      const std::uint64_t count = start + bytes < first ? 0 : (start + bytes - first) / kBlockBytes;
      const Status full = added_ == kRangesMax ? Status::exhausted : Status::ok;
      const Status wanted = count == 0 ? Status::bad_argument : full;
      expect_(owned_.add(start, bytes) == wanted);
      if (wanted != Status::ok) return;
      length_[place] = bytes;
      blocks_ += count;
      ++added_;
      return;
    }
    const std::uint64_t count = owned_.range.blocks_in(start, length_[place]);
    const auto at = live_.lower_bound(start);
    const bool is_busy = at != live_.end() && *at < start + length_[place];
    expect_(owned_.range.remove_range(start, length_[place]) == (is_busy ? Status::in_use : Status::ok));
    if (is_busy) return;
    length_[place] = 0;
    blocks_ -= count;
    --added_;
    ++removals;
  }

  void take() {
    const Placement block = owned_.range.allocate(1 + random_.below(kBlockBytes), kAlignment);
    expect_(block.empty() == (live_.size() == blocks_));
    if (block.empty()) {
      ++exhaustions;
      return;
    }
    const std::uint64_t place = block.offset / kSpacing;
    expect_(block.offset % kAlignment == 0 && block.offset >= start_of(place));
    expect_(block.offset + kBlockBytes <= start_of(place) + length_[place]);
    const auto next = live_.lower_bound(block.offset);
    expect_(next == live_.end() || *next >= block.offset + kBlockBytes);
    expect_(next == live_.begin() || *std::prev(next) + kBlockBytes <= block.offset);
    live_.insert(next, block.offset);
    order_.push_back(block.offset);
  }

  void give() {
    std::swap(order_[random_.below(order_.size())], order_.back());
    expect_(owned_.range.free(order_.back()) == Status::ok);
    if (random_.one_in(16)) expect_(owned_.range.free(order_.back()) == Status::double_free);
    live_.erase(order_.back());
    order_.pop_back();
  }

  Random& random_;
  Expect& expect_;
  OwnedRange owned_{kBlockBytes, kAlignment, kRangesMax};
  std::set<std::uint64_t> live_;
  std::vector<std::uint64_t> order_;  // live blocks, for picking one
  std::vector<std::uint64_t> length_ = std::vector<std::uint64_t>(kPlaces, 0);
  std::uint64_t blocks_ = 0, added_ = 0;
};

}  // namespace

TEST_CASE("S7 index by multiplication is exact for every block size and offset", "[placement]") {
  // All multiples of 16, a superset of the size classes. `index` and `start` count along without a division.
  Expect expect;
  for (std::uint32_t size = kInverseSizeMin; size <= kInverseSizeMax; size += 16) {
    const std::uint32_t inverse = block_inverse(size);
    std::uint32_t wrong = 0, index = 0, start = 0;
    while (start < kInverseOffsetMax) {
      const std::uint32_t end = std::min(start + size, kInverseOffsetMax);
      for (std::uint32_t offset = start; offset < end; ++offset)
        wrong += block_index(offset, inverse) ^ index;
      wrong += is_block_start(start, index, size) ? 0u : 1u;
      wrong += is_block_start(start + 16, block_index(start + 8, inverse), size) ? 1u : 0u;
      start = end;
      ++index;
    }
    expect(wrong == 0);
  }
  REQUIRE(expect.failed_line() == 0);
}

TEST_CASE("S7 only the first byte of a block is its start", "[placement]") {
  for (std::uint32_t size : {16u, 48u, 112u, 1024u, 20480u, 28672u, 32768u}) {
    const std::uint32_t inverse = block_inverse(size);
    std::uint32_t starts = 0;
    for (std::uint32_t offset = 0; offset < kInverseOffsetMax; ++offset) {
      starts += is_block_start(offset, block_index(offset, inverse), size) ? 1u : 0u;
    }
    REQUIRE(starts == (kInverseOffsetMax + size - 1) / size);
  }
}

TEST_CASE("S1 size and alignment are rounded to the block size", "[placement]") {
  REQUIRE(fixed_block_bytes(128, 512) == 512);
  REQUIRE(fixed_block_bytes(512, 100) == 600);
  REQUIRE(fixed_block_bytes(512, 512) == 512);
  REQUIRE(fixed_block_bytes(513, 512) == 1024);
  REQUIRE(fixed_block_bytes(1, 1) == 1);
  REQUIRE(fixed_block_bytes(0, 16) == 0);
  REQUIRE(fixed_block_bytes(16, 0) == 0);
  REQUIRE(fixed_block_bytes(~std::uint64_t{0}, 2) == 0);
  REQUIRE(fixed_block_bytes(~std::uint64_t{0}, 1) == ~std::uint64_t{0});

  OwnedRange odd(512, 100, 1);
  REQUIRE(odd.add(1050, 6050) == Status::ok);  // aligned start 1100
  REQUIRE(odd.range.block_bytes() == 600);
  REQUIRE(odd.range.block_count() == 10);
  while (!odd.range.is_full()) {
    const Placement block = odd.range.allocate(512, 100);
    REQUIRE(block.offset % 100 == 0);
    REQUIRE(block.offset >= 1100);
    REQUIRE(block.offset + 600 <= 1050 + 6050);
  }
}

TEST_CASE("S2 a range gives 2^20 blocks and then reports exhaustion", "[placement]") {
  constexpr std::uint32_t kBlocks = std::uint32_t{1} << 20;
  constexpr std::uint64_t kBase = std::uint64_t{1} << 45;
  OwnedRange owned(256, 256, 1);
  REQUIRE(owned.add(kBase, std::uint64_t{kBlocks} * 256) == Status::ok);
  Expect expect;
  for (std::uint32_t i = 0; i < kBlocks; ++i) {
    const Placement block = owned.range.allocate(256, 256);
    expect(!block.empty() && block.offset == kBase + std::uint64_t{i} * 256);  // distinct, lowest first
  }
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(owned.range.is_full());
  REQUIRE(owned.range.allocate(1).status == Status::exhausted);
  REQUIRE(owned.range.validate());

  // S3: all of them come back, and the same number is available again.
  for (std::uint32_t i = 0; i < kBlocks; ++i)
    expect(owned.range.free(kBase + std::uint64_t{i} * 256) == Status::ok);
  REQUIRE(owned.range.free_count() == kBlocks);
  for (std::uint32_t i = 0; i < kBlocks; ++i) expect(!owned.range.allocate(256).empty());
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(owned.range.allocate(256).empty());
}

TEST_CASE("S3 after all blocks are freed the same count is available", "[placement]") {
  OwnedSlab owned(1000);
  const std::vector<std::uint32_t> first = take(owned, 2000);
  REQUIRE(first.size() == 1000);
  REQUIRE(owned.slab.is_full());
  for (std::uint32_t index : first) REQUIRE(owned.slab.put(owned.words.data(), index) == Status::ok);
  REQUIRE(owned.slab.is_empty());
  REQUIRE(take(owned, 2000) == first);
}

TEST_CASE("S4 removing a range reduces the free space exactly", "[placement]") {
  OwnedRange owned(64, 64, 3);
  REQUIRE(owned.add(0, 6400) == Status::ok);
  REQUIRE(owned.add(10'000, 640) == Status::ok);  // first block at 10'048, 9 blocks
  REQUIRE(owned.add(20'032, 3200) == Status::ok);
  REQUIRE(owned.range.free_bytes() == 6400 + 9 * 64 + 3200);
  REQUIRE(owned.range.remove_range(0, 6400) == Status::ok);
  REQUIRE(owned.range.free_bytes() == 9 * 64 + 3200);
  REQUIRE(owned.range.block_count() == 9 + 50);
  REQUIRE(owned.range.remove_range(0, 6400) == Status::out_of_range);
  REQUIRE(owned.range.remove_range(10'000, 639) == Status::out_of_range);
  REQUIRE(owned.range.remove_range(10'048, 592) == Status::out_of_range);

  // A range with live blocks stays; afterwards it can go.
  std::vector<std::uint64_t> live;
  while (!owned.range.is_full()) live.push_back(owned.range.allocate(64).offset);
  REQUIRE(live.size() == 59);
  REQUIRE(owned.range.remove_range(20'032, 3200) == Status::in_use);
  REQUIRE(owned.range.validate());
  for (std::uint64_t offset : live) REQUIRE(owned.range.free(offset) == Status::ok);
  REQUIRE(owned.range.remove_range(20'032, 3200) == Status::ok);
  REQUIRE(owned.range.remove_range(10'000, 640) == Status::ok);
  REQUIRE(owned.range.free_bytes() == 0);
  REQUIRE(owned.range.range_count() == 0);
  REQUIRE(owned.range.allocate(1).status == Status::exhausted);
  REQUIRE(owned.range.validate());
}

TEST_CASE("S4 ranges that overlap, wrap or hold no block are refused", "[placement]") {
  OwnedRange owned(64, 64, 2);
  REQUIRE(owned.add(6400, 640) == Status::ok);
  REQUIRE(owned.add(6400, 640) == Status::bad_argument);
  REQUIRE(owned.add(6336, 65) == Status::bad_argument);
  REQUIRE(owned.add(7039, 640) == Status::bad_argument);
  REQUIRE(owned.add(0, 100'000) == Status::bad_argument);
  REQUIRE(owned.add(1, 126) == Status::bad_argument);  // no aligned block inside
  REQUIRE(owned.add(~std::uint64_t{0} - 6399, 6400) == Status::bad_argument);
  REQUIRE(owned.add(7040, 640) == Status::ok);
  REQUIRE(owned.add(100'000'000, 640) == Status::exhausted);  // the table has two entries
  REQUIRE(owned.range.block_count() == 20);
  REQUIRE(owned.range.validate());

  OwnedRange short_metadata(64, 64, 1);
  std::uint64_t memory[64];
  const std::size_t bytes = FixedRange::bytes_needed(100);
  REQUIRE(short_metadata.range.add_range(0, 6400, {reinterpret_cast<std::byte*>(memory), bytes - 1}) ==
          Status::exhausted);
  REQUIRE(short_metadata.range.add_range(0, 6400, {reinterpret_cast<std::byte*>(memory), bytes}) ==
          Status::ok);
}

TEST_CASE("S5 the life of a slab: empty, partly full, full, empty", "[placement]") {
  for (std::uint32_t blocks : {1u, 2u, 16u, 63u, 64u, 65u, 128u, 1000u, 16384u}) {
    OwnedSlab owned(blocks);
    std::uint64_t* const words = owned.words.data();
    for (std::uint32_t used = 0; used < blocks; ++used) {
      REQUIRE(owned.slab.is_empty() == (used == 0));
      REQUIRE_FALSE(owned.slab.is_full());
      REQUIRE(owned.slab.free_count == blocks - used);
      REQUIRE(owned.slab.take(words) == used);
      REQUIRE_FALSE(owned.slab.is_free(words, used));
    }
    REQUIRE(owned.slab.is_full());
    REQUIRE(take(owned, 5).empty());
    REQUIRE(owned.slab.validate(words));
    for (std::uint32_t index = blocks; index-- > 0;) REQUIRE(owned.slab.put(words, index) == Status::ok);
    REQUIRE(owned.slab.is_empty());
    REQUIRE(owned.slab.validate(words));
  }
}

TEST_CASE("S6 batches come in ascending order, lowest first, across words", "[placement]") {
  OwnedSlab owned(200);
  REQUIRE(take(owned, 70).back() == 69);
  REQUIRE(take(owned, 0).empty());
  for (std::uint32_t index : {3u, 64u, 66u}) REQUIRE(owned.slab.put(owned.words.data(), index) == Status::ok);
  REQUIRE(take(owned, 5) == std::vector<std::uint32_t>{3, 64, 66, 70, 71});
  const std::vector<std::uint32_t> rest = take(owned, 1000);
  REQUIRE(rest.size() == 128);
  REQUIRE(rest.front() == 72);
  REQUIRE(rest.back() == 199);
  REQUIRE(std::is_sorted(rest.begin(), rest.end()));
  std::uint32_t used = 0;
  owned.slab.for_each_used(owned.words.data(), [&](std::uint32_t index) { REQUIRE(index == used++); });
  REQUIRE(used == 200);
}

TEST_CASE("S6 a range is used again after it was full, and cleared with blocks live", "[placement]") {
  OwnedRange owned(32, 32, 4);
  for (std::uint64_t at = 0; at < 4; ++at) REQUIRE(owned.add(at * 1000, 320) == Status::ok);
  std::set<std::uint64_t> first, second;
  while (!owned.range.is_full()) first.insert(owned.range.allocate(32).offset);
  REQUIRE(first.size() == owned.range.block_count());
  for (std::uint64_t offset : first) REQUIRE(owned.range.free(offset) == Status::ok);
  while (!owned.range.is_full()) second.insert(owned.range.allocate(32).offset);
  REQUIRE(first == second);
  owned.range.clear();
  REQUIRE(owned.range.range_count() == 0);
  REQUIRE(owned.range.free_count() == 0);
  REQUIRE(owned.range.validate());
  REQUIRE(owned.add(1000, 320) == Status::ok);
  REQUIRE_FALSE(owned.range.allocate(32).empty());
}

TEST_CASE("S8 a request above the block size fails and changes nothing", "[placement]") {
  OwnedRange owned(64, 64, 1);
  REQUIRE(owned.add(0, 640) == Status::ok);
  REQUIRE(owned.range.allocate(65).status == Status::too_large);
  REQUIRE(owned.range.allocate(~std::uint64_t{0}).status == Status::too_large);
  REQUIRE(owned.range.allocate(0).status == Status::bad_argument);
  REQUIRE(owned.range.allocate(64, 128).status == Status::bad_argument);
  REQUIRE(owned.range.allocate(64, 0).status == Status::bad_argument);
  REQUIRE(owned.range.free_count() == 10);
  REQUIRE(owned.range.allocate(64, 32).size_bytes == 64);
}

TEST_CASE("S10 a full range that gets a block back is drawn from again", "[placement]") {
  OwnedRange owned(16, 16, 2);
  REQUIRE(owned.add(0, 16 * 16) == Status::ok);
  REQUIRE(owned.add(1024, 16 * 16) == Status::ok);
  while (!owned.range.is_full()) REQUIRE_FALSE(owned.range.allocate(16).empty());
  REQUIRE(owned.range.free(5 * 16) == Status::ok);
  REQUIRE(owned.range.allocate(16).offset == 5 * 16);
  REQUIRE(owned.range.free(1024) == Status::ok);
  REQUIRE(owned.range.free(0) == Status::ok);
  std::set<std::uint64_t> got{owned.range.allocate(16).offset, owned.range.allocate(16).offset};
  REQUIRE(got == std::set<std::uint64_t>{0, 1024});
  REQUIRE(owned.range.allocate(16).status == Status::exhausted);
  REQUIRE(owned.range.range_at(1024)->slab.is_full());
  REQUIRE(owned.range.range_at(512) == nullptr);
}

TEST_CASE("S11 double frees and pointers that are not ours are told", "[placement]") {
  OwnedRange owned(48, 16, 2);
  REQUIRE(owned.add(160, 480) == Status::ok);
  REQUIRE(owned.range.free(160) == Status::double_free);  // never handed out
  const std::uint64_t block = owned.range.allocate(48).offset;
  for (std::uint64_t wrong : {block + 1, block + 16, block + 47, std::uint64_t{0}, std::uint64_t{159},
                              std::uint64_t{640}, ~std::uint64_t{0}}) {
    REQUIRE(owned.range.free(wrong) == Status::out_of_range);
  }
  REQUIRE(owned.range.free(block) == Status::ok);
  REQUIRE(owned.range.free(block) == Status::double_free);
  REQUIRE(owned.range.free_bytes() == 480);
  REQUIRE(owned.range.validate());

  OwnedSlab slab(70);
  std::uint64_t* const words = slab.words.data();
  REQUIRE(slab.slab.put(words, 70) == Status::out_of_range);
  REQUIRE(slab.slab.put(words, ~0u) == Status::out_of_range);
  REQUIRE(slab.slab.put(words, 69) == Status::double_free);
  REQUIRE(take(slab, 70).size() == 70);
  REQUIRE(slab.slab.put_mask(words, 0, 0b1010) == Status::ok);
  REQUIRE(slab.slab.put_mask(words, 0, 0b0110) == Status::double_free);  // bit 2 must not have gone in
  REQUIRE(slab.slab.put_mask(words, 0, 0b0100) == Status::ok);
  REQUIRE(slab.slab.put_mask(words, 1, 0b1000000) == Status::out_of_range);  // block 70
  REQUIRE(slab.slab.put_mask(words, 2, 1) == Status::out_of_range);
  REQUIRE(slab.slab.put_mask(words, 1, 0b100000) == Status::ok);
  REQUIRE(slab.slab.put_mask(words, 1, 0) == Status::ok);
  REQUIRE(slab.slab.free_count == 4);
  REQUIRE(slab.slab.validate(words));
  REQUIRE(take(slab, 9) == std::vector<std::uint32_t>{1, 2, 3, 69});
}

TEST_CASE("P1 numbered resources: added, handed out, exhausted, freed", "[placement]") {
  OwnedRange ids(1, 1, 2);
  REQUIRE(ids.add(1, 5) == Status::ok);
  REQUIRE(ids.add(std::uint64_t{1} << 40, 3) == Status::ok);
  std::set<std::uint64_t> taken;
  for (int i = 0; i < 8; ++i) taken.insert(ids.range.allocate(1).offset);
  const std::uint64_t big = std::uint64_t{1} << 40;
  REQUIRE(taken == std::set<std::uint64_t>{1, 2, 3, 4, 5, big, big + 1, big + 2});
  REQUIRE(ids.range.allocate(1).status == Status::exhausted);
  REQUIRE(ids.range.free(3) == Status::ok);
  REQUIRE(ids.range.allocate(1).offset == 3);
}

TEST_CASE("S7 validate tells a slab whose counter or bits were changed", "[placement]") {
  OwnedSlab owned(100);
  take(owned, 80);
  REQUIRE(owned.slab.validate(owned.words.data()));
  owned.words[1] |= std::uint64_t{1} << 40;  // behind the last block
  REQUIRE_FALSE(owned.slab.validate(owned.words.data()));
  owned.words[1] &= ~(std::uint64_t{1} << 40);
  owned.words[0] |= 1;  // a block free that nobody counted
  REQUIRE_FALSE(owned.slab.validate(owned.words.data()));
  owned.words[0] &= ~std::uint64_t{1};
  ++owned.slab.free_count;
  REQUIRE_FALSE(owned.slab.validate(owned.words.data()));
}

TEST_CASE("S7 slab against a model, 1,000,000 operations", "[placement]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Expect expect;
  std::uint32_t operations = 0;
  for (std::uint32_t blocks : {1u, 7u, 64u, 100u, 1024u, 2050u, 16384u}) {
    OwnedSlab owned(blocks);
    std::uint64_t* const words = owned.words.data();
    std::set<std::uint32_t> model;  // free blocks
    for (std::uint32_t index = 0; index < blocks; ++index) model.insert(model.end(), index);
    for (std::uint32_t step = 0; step < 150'000; ++step, ++operations) {
      const std::uint32_t index = random.below32(blocks + 2);
      const bool is_free = model.count(index) != 0;
      switch (random.below32(4)) {
        case 0: {
          const std::uint32_t wanted = random.below32(random.one_in(8) ? 200 : 8);
          const std::uint32_t got = owned.slab.take_batch(words, wanted, [&](std::uint32_t taken) {
            if (expect(!model.empty() && *model.begin() == taken)) model.erase(model.begin());
          });
          expect(got == wanted || (got < wanted && model.empty()));
          break;
        }
        case 1: {
          const std::uint32_t at = index / 64;
          std::uint64_t mask = random.next() & random.next();
          const std::uint32_t here = at * 64 >= blocks ? 0 : std::min(64u, blocks - at * 64);
          std::uint64_t taken = 0;
          for (std::uint32_t bit = 0; bit < here; ++bit) {
            if (model.count(at * 64 + bit) == 0) taken |= std::uint64_t{1} << bit;
          }
          if (!random.one_in(4)) mask &= taken;
          const std::uint64_t valid = here == 0 ? 0 : bit_range(0, here);
          const Status wanted = (mask & ~valid) != 0   ? Status::out_of_range
                                : (mask & ~taken) != 0 ? Status::double_free
                                                       : Status::ok;
          expect(owned.slab.put_mask(words, at, mask) == wanted);
          if (wanted != Status::ok) break;
          for (std::uint32_t bit = 0; bit < here; ++bit) {
            if ((mask >> bit & 1) != 0) model.insert(at * 64 + bit);
          }
          break;
        }
        default: {
          const Status wanted = index >= blocks ? Status::out_of_range
                                : is_free       ? Status::double_free
                                                : Status::ok;
          expect(owned.slab.put(words, index) == wanted);
          if (index < blocks) model.insert(index);
          break;
        }
      }
      expect(owned.slab.free_count == model.size());
      if (step % 512 == 0) expect(owned.slab.validate(words));
    }
  }
  REQUIRE(operations >= 1'000'000);
  REQUIRE(expect.failed_line() == 0);
}

TEST_CASE("S7 ranges against a model, 1,000,000 operations", "[placement]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Expect expect;
  RangeModel model(random, expect);
  for (std::uint32_t step = 0; step < 1'000'000; ++step) model.step(step);
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(model.removals > 100);
  REQUIRE(model.exhaustions > 100);
}
