// The ring: if this fails, a staging buffer is overwritten while the device still reads it, or the ring
// leaks.
#include "src/placement/ring.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "src/base/bits.h"
#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;
using namespace glebe::placement;

namespace {

// A ring together with the memory for its metadata.
class OwnedRing {
 public:
  explicit OwnedRing(std::size_t ranges_max) : table_(ranges_max), ring(table_) {}

  Status add(std::uint64_t offset, std::uint64_t size_bytes, std::size_t blocks_max = 1024) {
    entries_.emplace_back(blocks_max);
    return ring.add_range(offset, size_bytes, entries_.back());
  }

 private:
  std::vector<RingRange> table_;
  std::vector<std::vector<RingEntry>> entries_;

 public:
  Ring ring;
};

// A Ring beside a naive model of it: a map of blocks. Epoch 0 in the model means that the block is not
// submitted.
class RingModel {
 public:
  RingModel(Random& random, Expect& expect) : random_(random), expect_(expect) {
    REQUIRE(owned_.add(0, 65'536, 300) == Status::ok);
    REQUIRE(owned_.add(100'001, 30'011, 100) == Status::ok);
    REQUIRE(owned_.add(kFar, 4096, 50) == Status::ok);
  }

  void step(std::uint32_t number) {
    const std::uint32_t dice = random_.below32(100);
    if (dice < 45) {
      take();
    } else if (dice < 95) {
      end_one(dice < 70);
    } else if (random_.one_in(2)) {
      ++epoch_;
    } else if (random_.one_in(3)) {
      complete();
    }
    expect_(owned_.ring.live_bytes() == live_bytes_ && owned_.ring.bytes_in_flight() == in_flight_);
    expect_(owned_.ring.live_count() == model_.size() && owned_.ring.stall_count() == stalls);
    if (number % 512 == 0) expect_(owned_.ring.validate());
  }

  std::uint64_t stalls = 0, successes = 0, completions = 0;

 private:
  static constexpr std::uint64_t kFar = std::uint64_t{1} << 50;
  struct Block {
    std::uint64_t size_bytes, epoch;
  };

  static bool is_inside(std::uint64_t offset, std::uint64_t end) {
    return end <= 65'536 || (offset >= 100'001 && end <= 130'012) || (offset >= kFar && end <= kFar + 4096);
  }

  void take() {
    const std::uint64_t size = 1 + random_.below(random_.one_in(10) ? 5000 : 700);
    const std::uint64_t alignment = std::uint64_t{1} << random_.below(9);
    const Placement block = owned_.ring.allocate(size, alignment);
    stalls += block.status == Status::exhausted ? 1u : 0u;
    if (block.empty()) return;
    ++successes;
    expect_(block.size_bytes == size && is_aligned(block.offset, alignment));
    expect_(is_inside(block.offset, block.offset + size));
    const auto next = model_.lower_bound(block.offset);
    expect_(next == model_.end() || next->first >= block.offset + size);
    expect_(next == model_.begin() ||
            std::prev(next)->first + std::prev(next)->second.size_bytes <= block.offset);
    model_.emplace_hint(next, block.offset, Block{size, 0});
    live_bytes_ += size;
  }

  void end_one(bool by_submitting) {
    auto at = model_.lower_bound(random_.below(130'012));
    if (at == model_.end() || random_.one_in(50)) at = model_.begin();
    if (at == model_.end()) return;
    if (at->second.epoch != 0) {
      expect_(owned_.ring.free(at->first) == Status::double_free);
    } else if (by_submitting) {
      expect_(owned_.ring.submit(at->first, epoch_) == Status::ok);
      at->second.epoch = epoch_;
      in_flight_ += at->second.size_bytes;
    } else {
      expect_(owned_.ring.free(at->first) == Status::ok);
      expect_(owned_.ring.free(at->first) != Status::ok);
      live_bytes_ -= at->second.size_bytes;
      model_.erase(at);
    }
  }

  void complete() {
    done_ += random_.below(epoch_ - done_);  // stays below the epoch that is being submitted
    owned_.ring.complete(done_);
    ++completions;
    for (auto at = model_.begin(); at != model_.end();) {
      const bool is_done = at->second.epoch != 0 && at->second.epoch <= done_;
      live_bytes_ -= is_done ? at->second.size_bytes : 0;
      in_flight_ -= is_done ? at->second.size_bytes : 0;
      at = is_done ? model_.erase(at) : std::next(at);
    }
  }

  Random& random_;
  Expect& expect_;
  OwnedRing owned_{3};
  std::map<std::uint64_t, Block> model_;
  std::uint64_t live_bytes_ = 0, in_flight_ = 0, epoch_ = 1, done_ = 0;
};

}  // namespace

TEST_CASE("R1 the first block starts at offset 0, the next ones follow, aligned", "[placement]") {
  OwnedRing owned(1);
  REQUIRE(owned.add(0, 1024) == Status::ok);
  REQUIRE(owned.ring.allocate(32, 32).offset == 0);
  REQUIRE(owned.ring.allocate(32, 32).offset == 32);
  REQUIRE(owned.ring.allocate(1, 1).offset == 64);
  REQUIRE(owned.ring.allocate(1, 1).offset == 65);
  REQUIRE(owned.ring.allocate(10, 32).offset == 96);
  REQUIRE(owned.ring.live_bytes() == 76);
  REQUIRE(owned.ring.live_count() == 5);

  OwnedRing odd(1);
  REQUIRE(odd.add(1001, 200) == Status::ok);
  REQUIRE(odd.ring.allocate(32, 32).offset == 1024);
  REQUIRE(odd.ring.allocate(32, 64).offset == 1088);
  REQUIRE(odd.ring.validate());
}

TEST_CASE("R1 bad arguments are refused", "[placement]") {
  OwnedRing owned(1);
  REQUIRE(owned.add(0, 0) == Status::bad_argument);
  REQUIRE(owned.add(~std::uint64_t{0} - 10, 12) == Status::bad_argument);
  REQUIRE(owned.add(0, 100, 0) == Status::bad_argument);
  REQUIRE(owned.add(0, 1024) == Status::ok);
  REQUIRE(owned.ring.allocate(0, 1).status == Status::bad_argument);
  REQUIRE(owned.ring.allocate(1, 0).status == Status::bad_argument);
  REQUIRE(owned.ring.allocate(1, 24).status == Status::bad_argument);
  REQUIRE(owned.ring.live_count() == 0);
}

TEST_CASE("R2 at the end a block wraps to the start, or counts a stall", "[placement]") {
  OwnedRing owned(1);
  REQUIRE(owned.add(4096, 1000) == Status::ok);
  REQUIRE(owned.ring.allocate(400, 1).offset == 4096);
  REQUIRE(owned.ring.allocate(400, 1).offset == 4496);
  REQUIRE(owned.ring.stall_count() == 0);
  REQUIRE(owned.ring.allocate(300, 1).status ==
          Status::exhausted);  // 200 at the end, nothing free at the start
  REQUIRE(owned.ring.stall_count() == 1);
  REQUIRE(owned.ring.free(4096) == Status::ok);
  REQUIRE(owned.ring.allocate(300, 1).offset == 4096);  // skips the 200 at the end
  REQUIRE(owned.ring.allocate(100, 1).offset == 4396);
  REQUIRE(owned.ring.allocate(1, 1).status == Status::exhausted);
  REQUIRE(owned.ring.stall_count() == 2);
  REQUIRE(owned.ring.free(4496) == Status::ok);
  REQUIRE(owned.ring.allocate(601, 1).status == Status::exhausted);
  REQUIRE(owned.ring.allocate(600, 1).offset == 4496);
  REQUIRE(owned.ring.validate());
}

TEST_CASE("R3 what was submitted is not used again before its epoch completes", "[placement]") {
  OwnedRing owned(1);
  REQUIRE(owned.add(0, 256) == Status::ok);
  for (std::uint64_t i = 0; i < 4; ++i) REQUIRE(owned.ring.allocate(64, 64).offset == i * 64);
  REQUIRE(owned.ring.submit(0, 7) == Status::ok);
  REQUIRE(owned.ring.submit(64, 8) == Status::ok);
  REQUIRE(owned.ring.submit(64, 9) == Status::double_free);
  REQUIRE(owned.ring.free(0) == Status::double_free);  // the device has it
  REQUIRE(owned.ring.submit(65, 9) == Status::out_of_range);
  REQUIRE(owned.ring.allocate(64, 64).status == Status::exhausted);
  owned.ring.complete(6);
  REQUIRE(owned.ring.allocate(64, 64).status == Status::exhausted);
  owned.ring.complete(7);
  REQUIRE(owned.ring.allocate(64, 64).offset == 0);
  REQUIRE(owned.ring.allocate(64, 64).status == Status::exhausted);
  owned.ring.complete(6);  // an older epoch changes nothing
  REQUIRE(owned.ring.allocate(64, 64).status == Status::exhausted);
  owned.ring.complete(9);
  REQUIRE(owned.ring.allocate(64, 64).offset == 64);
  REQUIRE(owned.ring.submit(128, 9) == Status::ok);  // complete already: free at once
  REQUIRE(owned.ring.bytes_in_flight() == 0);
  REQUIRE(owned.ring.allocate(64, 64).offset == 128);
  REQUIRE(owned.ring.validate());
}

TEST_CASE("R3 epoch 0 waits for its completion like any other", "[placement]") {
  OwnedRing owned(1);
  REQUIRE(owned.add(0, 64) == Status::ok);
  REQUIRE(owned.ring.allocate(64, 1).offset == 0);
  REQUIRE(owned.ring.submit(0, 0) == Status::ok);
  REQUIRE(owned.ring.bytes_in_flight() == 64);
  REQUIRE(owned.ring.allocate(64, 1).status == Status::exhausted);
  owned.ring.complete(0);
  REQUIRE(owned.ring.allocate(64, 1).offset == 0);
}

TEST_CASE("R4 bytes in flight rise on submit and fall on completion, exactly", "[placement]") {
  OwnedRing owned(1);
  REQUIRE(owned.add(0, 10'000) == Status::ok);
  std::uint64_t in_flight = 0;
  std::vector<std::uint64_t> sizes = {100, 1, 999, 64, 128};
  for (std::uint64_t i = 0; i < sizes.size(); ++i) {
    const Placement block = owned.ring.allocate(sizes[i], 64);
    REQUIRE(owned.ring.bytes_in_flight() == in_flight);
    REQUIRE(owned.ring.submit(block.offset, i + 1) == Status::ok);
    in_flight += sizes[i];
    REQUIRE(owned.ring.bytes_in_flight() == in_flight);
  }
  const Placement last = owned.ring.allocate(50, 1);
  for (std::uint64_t i = 0; i < sizes.size(); ++i) {
    owned.ring.complete(i + 1);
    in_flight -= sizes[i];
    REQUIRE(owned.ring.bytes_in_flight() == in_flight);
    REQUIRE(owned.ring.live_bytes() == in_flight + 50);
    owned.ring.complete(i + 1);
    REQUIRE(owned.ring.bytes_in_flight() == in_flight);
  }
  REQUIRE(owned.ring.free(last.offset) == Status::ok);
  REQUIRE(owned.ring.live_bytes() == 0);
  REQUIRE(owned.ring.live_count() == 0);
}

TEST_CASE("R5 frees in any order give everything back once the oldest are free", "[placement]") {
  std::vector<std::uint64_t> order = {0, 1, 2, 3};
  do {
    OwnedRing owned(1);
    REQUIRE(owned.add(0, 400) == Status::ok);
    for (int i = 0; i < 4; ++i) REQUIRE_FALSE(owned.ring.allocate(100, 1).empty());
    std::vector<bool> is_free(4, false);
    for (std::uint64_t block : order) {
      REQUIRE(owned.ring.free(block * 100) == Status::ok);
      is_free[block] = true;
      REQUIRE(owned.ring.free(block * 100) != Status::ok);
      REQUIRE(owned.ring.validate());
    }
    REQUIRE(owned.ring.live_bytes() == 0);
    REQUIRE(owned.ring.allocate(400, 1).offset == 0);
  } while (std::next_permutation(order.begin(), order.end()));

  // A freed block waits for the older ones: its place is not handed out before.
  OwnedRing owned(1);
  REQUIRE(owned.add(0, 400) == Status::ok);
  for (int i = 0; i < 4; ++i) REQUIRE_FALSE(owned.ring.allocate(100, 1).empty());
  REQUIRE(owned.ring.free(100) == Status::ok);
  REQUIRE(owned.ring.free(100) == Status::double_free);
  REQUIRE(owned.ring.allocate(100, 1).status == Status::exhausted);
  REQUIRE(owned.ring.free(0) == Status::ok);
  REQUIRE(owned.ring.allocate(200, 1).offset == 0);
}

TEST_CASE("R6 2^20 blocks pass through a small ring without growth", "[placement]") {
  OwnedRing owned(1);
  REQUIRE(owned.add(0, 4096, 64) == Status::ok);
  Expect expect;
  std::uint64_t previous = owned.ring.allocate(100, 32).offset;
  for (std::uint32_t i = 0; i < (std::uint32_t{1} << 20); ++i) {
    const Placement block = owned.ring.allocate(1 + i % 300, 32);
    expect(!block.empty() && block.offset + block.size_bytes <= 4096 && block.offset != previous);
    expect(owned.ring.free(previous) == Status::ok);
    previous = block.offset;
  }
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(owned.ring.stall_count() == 0);
  REQUIRE(owned.ring.live_count() == 1);
  REQUIRE(owned.ring.free(previous) == Status::ok);
  REQUIRE(owned.ring.allocate(4096, 1).offset == 0);
}

TEST_CASE("R7 oversize is refused without a side effect", "[placement]") {
  OwnedRing owned(2);
  REQUIRE(owned.ring.allocate(1, 1).empty());
  REQUIRE(owned.add(0, 1000) == Status::ok);
  REQUIRE(owned.add(2048, 500) == Status::ok);
  REQUIRE(owned.ring.allocate(100, 1).offset == 0);
  for (std::uint64_t size : {std::uint64_t{1001}, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    REQUIRE(owned.ring.allocate(size, 1).status == Status::too_large);
  }
  REQUIRE(owned.ring.allocate(500, 4096).status == Status::exhausted);  // fits at offset 0 when that is free
  REQUIRE(owned.ring.allocate(1, std::uint64_t{1} << 63).status == Status::exhausted);
  REQUIRE(owned.ring.stall_count() == 2);
  REQUIRE(owned.ring.move_count() == 0);
  REQUIRE(owned.ring.live_bytes() == 100);
  REQUIRE(owned.ring.current_range() == 0);
  REQUIRE(owned.ring.allocate(100, 1).offset == 100);  // the position has not moved either

  OwnedRing odd(1);
  REQUIRE(odd.add(100, 1000) == Status::ok);
  REQUIRE(odd.ring.allocate(877, 1024).status == Status::too_large);  // 1024 + 77 is the end
  REQUIRE(odd.ring.allocate(1, 2048).status == Status::too_large);
  REQUIRE(odd.ring.stall_count() == 0);
  REQUIRE(odd.ring.allocate(76, 1024).offset == 1024);
}

TEST_CASE("R7 more blocks than entries are a stall, not an overflow", "[placement]") {
  OwnedRing owned(1);
  REQUIRE(owned.add(0, 1000, 3) == Status::ok);
  for (std::uint64_t i = 0; i < 3; ++i) REQUIRE(owned.ring.allocate(10, 1).offset == i * 10);
  REQUIRE(owned.ring.allocate(10, 1).status == Status::exhausted);
  REQUIRE(owned.ring.stall_count() == 1);
  REQUIRE(owned.ring.free(0) == Status::ok);
  REQUIRE(owned.ring.allocate(10, 1).offset == 30);
  REQUIRE(owned.ring.validate());
}

TEST_CASE("R8 rings of 2, 3, 4 and 8 ranges move on in order and wrap", "[placement]") {
  for (std::uint64_t count : {2u, 3u, 4u, 8u}) {
    OwnedRing owned(count);
    for (std::uint64_t i = 0; i < count; ++i) REQUIRE(owned.add(i * 10'000, 1000) == Status::ok);
    for (std::uint64_t i = 0; i < 5 * count; ++i) {
      const Placement block = owned.ring.allocate(900, 1);
      REQUIRE(block.offset == i % count * 10'000);
      REQUIRE(owned.ring.current_range() == i % count);  // R2: index < count
      REQUIRE(owned.ring.move_count() == i);
      REQUIRE(owned.ring.submit(block.offset, i) == Status::ok);
      if (i + 1 >= count) owned.ring.complete(i + 1 - count);
    }
    REQUIRE(owned.ring.stall_count() == 0);
    REQUIRE(owned.ring.bytes_in_flight() == (count - 1) * 900);
    REQUIRE_FALSE(owned.ring.allocate(900, 1).empty());
    REQUIRE(owned.ring.allocate(900, 1).status == Status::exhausted);
    REQUIRE(owned.ring.stall_count() == 1);
    REQUIRE(owned.ring.validate());
  }
}

TEST_CASE("R10 a range is removed when its blocks are freed, the others go on", "[placement]") {
  OwnedRing owned(3);
  for (std::uint64_t i = 0; i < 3; ++i) REQUIRE(owned.add(i * 1000, 1000) == Status::ok);
  REQUIRE(owned.add(5000, 10) == Status::exhausted);
  REQUIRE(owned.add(2500, 10) == Status::bad_argument);  // overlaps
  for (int i = 0; i < 3; ++i) REQUIRE(owned.ring.allocate(600, 1).offset == std::uint64_t(i) * 1000);
  REQUIRE(owned.ring.remove_range(1000, 1000) == Status::in_use);
  REQUIRE(owned.ring.remove_range(1000, 999) == Status::out_of_range);
  REQUIRE(owned.ring.remove_range(1001, 999) == Status::out_of_range);
  REQUIRE(owned.ring.free(1000) == Status::ok);
  REQUIRE(owned.ring.remove_range(1000, 1000) == Status::ok);
  REQUIRE(owned.ring.capacity_bytes() == 2000);
  REQUIRE(owned.ring.free(1000) == Status::out_of_range);
  REQUIRE(owned.ring.current_range() == 1);  // still the range at 2000
  REQUIRE(owned.ring.allocate(400, 1).offset == 2600);
  REQUIRE(owned.ring.allocate(300, 1).offset == 600);
  REQUIRE(owned.ring.free(2000) == Status::ok);
  REQUIRE(owned.ring.free(2600) == Status::ok);
  REQUIRE(owned.ring.remove_range(2000, 1000) == Status::ok);
  REQUIRE(owned.ring.validate());
  REQUIRE(owned.ring.live_bytes() == 900);
  REQUIRE(owned.ring.free(0) == Status::ok);
  REQUIRE(owned.ring.free(600) == Status::ok);
  REQUIRE(owned.ring.remove_range(0, 1000) == Status::ok);
  REQUIRE(owned.ring.range_count() == 0);
  REQUIRE(owned.ring.allocate(1, 1).status == Status::too_large);
}

TEST_CASE("R5 ring against a model, 1,000,000 operations", "[placement]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Expect expect;
  RingModel model(random, expect);
  for (std::uint32_t step = 0; step < 1'000'000; ++step) model.step(step);
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(model.successes > 50'000);
  REQUIRE(model.stalls > 1000);
  REQUIRE(model.completions > 1000);
}
