// Explicit buffers: fills and copies against plain vectors, what is refused and how it is said, and where
// the bytes are in the end.
#include <cstring>
#include <string>
#include <vector>

#include "src/base/text.h"
#include "tests/buffer_rig.h"

#include "tests/catch.h"
#include "tests/random.h"

#include "tests/buffer_checks.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

constexpr std::size_t kSize = 3 * kExtent + 5000;

using Bytes = std::vector<std::byte>;

// A buffer and what it should hold.
struct Pair {
  BufferHandle buffer;
  Bytes model;

  Pair(BufferPager& pager, std::size_t size, std::uint64_t seed) : buffer(make(pager, size)), model(size) {
    for (std::size_t i = 0; i < size; ++i) {
      model[i] = static_cast<std::byte>(word_at(seed, i / 8) >> (i % 8 * 8));
    }
    const PinnedRange pinned = pager.pin(buffer, {}, Access::write);
    REQUIRE(pinned.result == Result::ok);
    std::memcpy(pinned.data, model.data(), size);
    REQUIRE(pager.unpin(buffer, {}, Access::write) == Result::ok);
  }
  bool is_right(BufferPager& pager) const {
    const PinnedRange pinned = pager.pin(buffer, {}, Access::read);
    if (pinned.result != Result::ok) return false;
    const bool is_equal = std::memcmp(pinned.data, model.data(), model.size()) == 0;
    return pager.unpin(buffer, {}, Access::read) == Result::ok && is_equal;
  }
};

Bytes element_of(std::size_t size, Random& random) {
  Bytes element(size);
  for (std::byte& byte : element) byte = static_cast<std::byte>(random.next());
  return element;
}

std::string text_of(const RangeError& error) {
  char buffer[256];
  Text text(buffer);
  error.describe(text);
  return std::string(text.view());
}

}  // namespace

TEST_CASE("mut-B11 fill of whole buffers and of ranges, for every element size, from every tier",
          "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  OpenRig rig;
  BufferPager& pager = rig.pager;
  for (const std::size_t size : {1u, 2u, 3u, 4u, 8u, 12u, 16u, 32u, 64u, 100u, 4096u, 70'000u}) {
    INFO("element of " << size << " bytes");
    const Bytes element = element_of(size, random);
    // A size that is a whole number of elements.
    Pair whole(pager, (kSize + size - 1) / size * size, random.next());
    const Tier tier = kAllTiers[random.below(4)];
    REQUIRE(pager.move(whole.buffer, {}, Operation::swap_to, tier) == Result::ok);
    REQUIRE(pager.fill(whole.buffer, {}, element, nullptr) == Result::ok);
    for (std::size_t i = 0; i < whole.model.size(); ++i) whole.model[i] = element[i % size];
    REQUIRE(whole.is_right(pager));
    // Ranges that begin anywhere: elements lie across pages and extents.
    for (unsigned round = 0; round < 12; ++round) {
      const Bytes other = element_of(size, random);
      const std::size_t offset = random.below(whole.model.size() - size + 1);
      const std::size_t count = 1 + random.below((whole.model.size() - offset) / size);
      if (random.one_in(2)) {
        const Result moved = pager.move(whole.buffer, {}, Operation::swap_to, kAllTiers[random.below(4)]);
        REQUIRE((moved == Result::ok || moved == Result::incompressible));
      }
      REQUIRE(pager.fill(whole.buffer, {offset, count * size}, other, nullptr) == Result::ok);
      for (std::size_t i = 0; i < count * size; ++i) whole.model[offset + i] = other[i % size];
      REQUIRE(whole.is_right(pager));
    }
    REQUIRE(pager.close_buffer(whole.buffer) == Result::ok);
  }
  require_balance(pager);
}

TEST_CASE("B8 clear: exactly the range reads as zero, and whole extents give their memory back", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  constexpr std::byte kZero[8] = {};
  for (const Tier tier : kAllTiers) {
    Pair pair(pager, kSize, 4);
    REQUIRE(pager.move(pair.buffer, {}, Operation::swap_to, tier) == Result::ok);
    // From the middle of the first extent to the middle of the last one.
    REQUIRE(pager.fill(pair.buffer, {1000, 3 * kExtent}, kZero, nullptr) == Result::ok);
    std::memset(pair.model.data() + 1000, 0, 3 * kExtent);
    REQUIRE(info_of(pager, pair.buffer).unbacked_bytes == 2 * kExtent);
    REQUIRE(pair.is_right(pager));
    // Of what is pinned the memory stays, and it reads as zero all the same.
    const PinnedRange pinned = pager.pin(pair.buffer, {0, 100}, Access::read);
    REQUIRE(pager.fill(pair.buffer, {}, kZero, nullptr) == Result::ok);
    REQUIRE(is_zero(pinned.data, 100));
    REQUIRE(pager.unpin(pair.buffer, {0, 100}, Access::read) == Result::ok);
    std::memset(pair.model.data(), 0, kSize);
    REQUIRE(info_of(pager, pair.buffer).unbacked_bytes == kSize - kExtent);
    REQUIRE(pair.is_right(pager));
    REQUIRE(pager.close_buffer(pair.buffer) == Result::ok);
  }
  require_balance(pager);
}

TEST_CASE("mut-B11 copies between and within buffers: full, partial, offsets, overlapping, self",
          "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  BufferRig rig;
  BufferPagerOptions options = rig.options();
  SECTION("room for everything") {}
  SECTION("room for one extent") { options.host_bytes = kExtent; }
  REQUIRE(rig.pager.open(options) == Result::ok);
  BufferPager& pager = rig.pager;
  const bool is_tight = options.host_bytes == kExtent;
  // is_right() pins whole buffers, so a tight budget has to be widened for it.
  const auto is_right = [&](const Pair& pair) {
    REQUIRE(pager.host_budget().set_limit(64 * kExtent) == BudgetResult::ok);
    const bool answer = pair.is_right(pager);
    REQUIRE(pager.move(pair.buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
    REQUIRE(pager.host_budget().set_limit(options.host_bytes) == BudgetResult::ok);
    return answer;
  };
  REQUIRE(pager.host_budget().set_limit(64 * kExtent) == BudgetResult::ok);
  Pair pairs[] = {Pair(pager, kSize, 1), Pair(pager, kSize, 2)};
  REQUIRE((is_right(pairs[0]) && is_right(pairs[1])));
  const auto copy_model = [&](std::size_t from, std::size_t to, const CopyRanges& what) {
    std::memmove(pairs[to].model.data() + what.to_offset, pairs[from].model.data() + what.from_offset,
                 what.size_bytes);
  };
  // Full, and onto itself.
  REQUIRE(pager.copy({pairs[0].buffer, pairs[1].buffer}, nullptr) == Result::ok);
  copy_model(0, 1, {0, 0, 0, 0, kSize});
  REQUIRE((is_right(pairs[0]) && is_right(pairs[1])));
  REQUIRE(pager.copy({pairs[0].buffer, pairs[0].buffer}, nullptr) == Result::ok);
  REQUIRE(is_right(pairs[0]));
  for (unsigned round = 0; round < (is_tight ? 60u : 300u); ++round) {
    const std::size_t from = random.below(2), to = random.below(2);
    CopyRanges what;
    what.from = pairs[from].buffer;
    what.to = pairs[to].buffer;
    what.size_bytes = 1 + random.below(random.one_in(2) ? 300 : kSize);
    what.from_offset = random.below(kSize - what.size_bytes + 1);
    what.to_offset = random.below(kSize - what.size_bytes + 1);
    if (random.one_in(3)) {  // near each other, so that they overlap
      const std::size_t room = kSize - what.size_bytes - what.from_offset;
      what.to_offset = what.from_offset + random.below((room < 2000 ? room : 2000) + 1);
      if (random.one_in(2)) std::swap(what.from_offset, what.to_offset);
    }
    INFO("round " << round << ": " << what.size_bytes << " bytes from " << what.from_offset << " to "
                  << what.to_offset << (from == to ? ", same buffer" : ""));
    REQUIRE(pager.copy(what, nullptr) == Result::ok);
    copy_model(from, to, what);
    REQUIRE(is_right(pairs[to]));
  }
  REQUIRE((is_right(pairs[0]) && is_right(pairs[1])));
  REQUIRE(pager.host_budget().peak_bytes() <= 64 * kExtent);
  require_balance(pager);
}

TEST_CASE("mut-B11 sizes that do not match are refused, and the error says what and where", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  const Pair big(pager, kSize, 1), small(pager, 1000, 2);
  RangeError error;
  // Whole buffers of different sizes.
  REQUIRE(pager.copy({big.buffer, small.buffer}, &error) == Result::bad_argument);
  REQUIRE(error.problem == RangeProblem::lengths_differ);
  REQUIRE(text_of(error) ==
          "the source has 201608 bytes from 0 on, the destination 1000: name a size, or "
          "resize one of them");
  REQUIRE(pager.copy({big.buffer, small.buffer, 5, 6, 995}, &error) == Result::bad_argument);
  REQUIRE(error.problem == RangeProblem::outside);
  REQUIRE(text_of(error) ==
          "the range, 995 bytes from 6 on, is empty or ends behind the buffer, which has "
          "1000: shorten it, or resize the buffer");
  REQUIRE(pager.copy({small.buffer, big.buffer, 6, 5, 995}, &error) == Result::bad_argument);
  REQUIRE(error.problem == RangeProblem::source_outside);
  REQUIRE(text_of(error).substr(0, 44) == "the range to read, 995 bytes from 6 on, is e");
  REQUIRE(pager.copy({small.buffer, big.buffer, 1, 0, SIZE_MAX}, &error) == Result::bad_argument);
  REQUIRE(pager.copy({small.buffer, big.buffer, SIZE_MAX, 0, 1}, &error) == Result::bad_argument);
  REQUIRE(pager.copy({small.buffer, 0, 0, 0, 1}, &error) == Result::bad_handle);
  REQUIRE(error.problem == RangeProblem::none);
  const std::byte element[3] = {};
  REQUIRE(pager.fill(small.buffer, {100, 0}, element, &error) == Result::ok);  // 900 bytes
  REQUIRE(pager.fill(small.buffer, {}, element, &error) == Result::bad_argument);
  REQUIRE(text_of(error) == "the range, 1000 bytes from 0 on, is no multiple of an element of 3");
  REQUIRE(pager.fill(small.buffer, {1000, 0}, element, &error) == Result::bad_argument);
  REQUIRE(error.problem == RangeProblem::outside);
  REQUIRE(pager.fill(small.buffer, {998, 3}, element, &error) == Result::bad_argument);
  REQUIRE(pager.fill(small.buffer, {0, 3}, {}, &error) == Result::bad_argument);
  REQUIRE(big.is_right(pager));
  // Parts that fit are copied whatever the sizes of the buffers.
  REQUIRE(pager.copy({big.buffer, small.buffer, kSize - 1000, 0, 1000}, &error) == Result::ok);
  Bytes expected(big.model.end() - 1000, big.model.end());
  const PinnedRange pinned = pager.pin(small.buffer, {}, Access::read);
  REQUIRE(std::memcmp(pinned.data, expected.data(), 1000) == 0);
  REQUIRE(pager.unpin(small.buffer, {}, Access::read) == Result::ok);
  require_balance(pager);
}
