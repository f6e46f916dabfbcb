// The coalescing engine against a model: a sorted map of runs that is obviously right and slow. Also the
// parts that a model does not single out: bins, links, growth in place, and runs taken out for purging.
#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "src/placement/tlsf.h"
#include "tests/catch.h"
#include "tests/random.h"

using glebe::placement::kNoUnit;
using glebe::placement::Range;
using glebe::placement::Run;
using glebe::placement::Status;
using glebe::placement::Tag;
using glebe::placement::Tlsf;
using glebe::placement::TlsfPolicy;

namespace {

enum class Use { free, held, taken };
struct ModelRun {
  std::uint32_t length;
  Use use;
};

// Runs by their start. Ranges are told by their ends, which runs never cross.
struct Model {
  std::map<std::uint32_t, ModelRun> runs;
  std::vector<Range> ranges;
  std::uint64_t free_units = 0;

  bool is_range_start(std::uint32_t unit) const {
    return std::any_of(ranges.begin(), ranges.end(), [&](const Range& range) { return range.first == unit; });
  }
  void cut(std::uint32_t first,
           std::uint32_t length) {  // makes [first, ...) of a run a run of `length` units
    auto at = std::prev(runs.upper_bound(first));
    const ModelRun whole = at->second;
    const std::uint32_t start = at->first;
    if (first != start) at->second.length = first - start;
    runs[first] = {length, whole.use};
    const std::uint32_t end = start + whole.length;
    if (first + length != end) runs[first + length] = {end - first - length, whole.use};
  }
  bool hand_out(const Run& run) {
    auto at = runs.upper_bound(run.first);
    if (at == runs.begin()) return false;
    --at;
    const bool inside = run.first + run.length <= at->first + at->second.length;
    if (at->second.use != Use::free || !inside) return false;
    cut(run.first, run.length);
    runs[run.first].use = Use::held;
    free_units -= run.length;
    return true;
  }
  Range give_back(std::uint32_t first) {  // the merged free run
    auto at = runs.find(first);
    at->second.use = Use::free;
    free_units += at->second.length;
    const auto next = std::next(at);
    if (next != runs.end() && next->second.use == Use::free && !is_range_start(next->first)) {
      at->second.length += next->second.length;
      runs.erase(next);
    }
    if (at != runs.begin() && std::prev(at)->second.use == Use::free && !is_range_start(at->first)) {
      const auto left = std::prev(at);
      left->second.length += at->second.length;
      runs.erase(at);
      at = left;
    }
    return {at->first, at->second.length};
  }
  bool has_room(std::uint32_t length, std::uint32_t align) const {
    return std::any_of(runs.begin(), runs.end(), [&](const auto& run) {
      const std::uint64_t start = glebe::align_up(run.first, align);
      return run.second.use == Use::free && start + length <= run.first + run.second.length;
    });
  }
};

// One engine and its model, driven by random numbers; each step returns whether the two agree.
class Duel {
 public:
  Duel(std::uint32_t capacity, TlsfPolicy policy, std::uint64_t seed) : tags_(capacity), random_(seed) {
    engine_.attach(tags_.data(), capacity, policy);
  }
  bool add(std::uint32_t first, std::uint32_t count) {
    if (engine_.add_range(first, count) != Status::ok) return false;
    model_.ranges.push_back({first, count});
    model_.runs[first] = {count, Use::free};
    model_.free_units += count;
    return true;
  }
  bool step() {
    // The share of frees swings, so that the ranges run full and empty in turn.
    const bool is_filling = (steps_++ / 4096) % 2 == 0;
    const std::uint64_t dice = random_() % 100;
    if (dice < (is_filling ? 50u : 30u)) return allocate();
    if (dice < 80) return free();
    if (dice < 86) return grow();
    if (dice < 92) return shrink();
    if (dice < 95) return take();
    if (dice < 98) return put_back();
    if (dice < 99) return misuse();
    return below(2) == 0 ? move_range() : extend();
  }
  bool agree() const {  // everything that can be compared without a walk
    return engine_.free_units() == model_.free_units && engine_.range_count() == model_.ranges.size();
  }
  bool agree_in_full() const {
    if (!agree() || !engine_.validate(model_.ranges)) return false;
    std::uint32_t longest = 0;
    for (const auto& [first, run] : model_.runs) {
      if (engine_.run_length(first) != run.length) return false;
      if (engine_.is_free_start(first) != (run.use == Use::free)) return false;
      if (engine_.is_allocated_start(first) != (run.use == Use::held)) return false;
      if (engine_.run_containing(first + run.length / 2) != first) return false;
      if (run.use == Use::free) longest = std::max(longest, run.length);
    }
    return engine_.largest_free() == longest;
  }
  bool drain() {  // gives everything back
    while (!held_.empty()) {
      if (!free()) return false;
    }
    while (!taken_.empty()) {
      if (!put_back()) return false;
    }
    return agree_in_full() && model_.runs.size() == model_.ranges.size();
  }
  const std::vector<std::uint32_t>& held() const { return held_; }

 private:
  std::uint32_t below(std::uint64_t bound) { return static_cast<std::uint32_t>(random_() % bound); }
  std::uint32_t pick_out(std::vector<std::uint32_t>& from) {
    std::swap(from[below(from.size())], from.back());
    const std::uint32_t value = from.back();
    from.pop_back();
    return value;
  }
  bool allocate() {
    const std::uint32_t length = 1 + below(1u << below(9));
    const std::uint32_t align = below(4) == 0 ? 1u << below(8) : 1;
    const Run run = engine_.allocate(length, align);
    if (run.empty()) return run.status == Status::exhausted && !model_.has_room(length, align);
    held_.push_back(run.first);
    return run.length == length && run.first % align == 0 && model_.hand_out(run);
  }
  bool free() {
    if (held_.empty()) return true;
    const std::uint32_t first = pick_out(held_);
    const Range expected = model_.give_back(first);
    const Run run = engine_.free(first);
    return run.status == Status::ok && run.first == expected.first && run.length == expected.count;
  }
  bool grow() {
    if (held_.empty()) return true;
    const std::uint32_t first = held_[below(held_.size())];
    const auto at = model_.runs.find(first);
    const std::uint32_t extra = below(1u << below(8));
    const auto next = std::next(at);
    const bool has_free_neighbour =
        next != model_.runs.end() && next->second.use == Use::free && !model_.is_range_start(next->first);
    const bool has_room = extra == 0 || (has_free_neighbour && next->second.length >= extra);
    const std::uint32_t new_length = at->second.length + extra;
    const Run run = engine_.grow_in_place(first, new_length);
    if (!has_room) return run.status == Status::exhausted && engine_.run_length(first) == at->second.length;
    if (run.status != Status::ok || run.first != first || run.length != new_length) return false;
    if (extra == 0) return true;
    model_.cut(next->first, extra);
    model_.runs.erase(std::next(at));
    at->second.length = new_length;
    model_.free_units -= extra;
    return true;
  }
  bool shrink() {
    if (held_.empty()) return true;
    const std::uint32_t first = held_[below(held_.size())];
    const std::uint32_t length = model_.runs[first].length;
    const std::uint32_t new_length = 1 + below(length);
    const Run run = engine_.shrink(first, new_length);
    if (new_length == length) return run.status == Status::ok && run.length == 0;
    model_.cut(first, new_length);
    const Range expected = model_.give_back(first + new_length);
    return run.status == Status::ok && run.first == expected.first && run.length == expected.count;
  }
  bool take() {
    auto at = model_.runs.lower_bound(below(tags_.size()));
    if (at == model_.runs.end() || at->second.use != Use::free) return true;
    if (engine_.take_free_run(at->first) != at->second.length) return false;
    at->second.use = Use::taken;
    model_.free_units -= at->second.length;
    taken_.push_back(at->first);
    return true;
  }
  bool put_back() {
    if (taken_.empty()) return true;
    const std::uint32_t first = pick_out(taken_);
    const Range expected = model_.give_back(first);
    const Run run = engine_.put_back(first);
    return run.status == Status::ok && run.first == expected.first && run.length == expected.count;
  }
  // Any unit that is not the start of a held run is refused and nothing changes.
  bool misuse() {
    const std::uint32_t unit = below(tags_.size() + 8);
    const auto at = model_.runs.find(unit);
    if (at != model_.runs.end() && at->second.use == Use::held) return engine_.take_free_run(unit) == 0;
    const Status status = engine_.free(unit).status;
    if (at != model_.runs.end()) return status == Status::double_free;
    const auto around = model_.runs.upper_bound(unit);
    const bool is_inside_held = around != model_.runs.begin() && std::prev(around)->second.use == Use::held;
    return status == Status::out_of_range || (status == Status::double_free && !is_inside_held);
  }
  // Removes a range that is free and adds it again, or sees the removal refused.
  bool move_range() {
    const std::size_t index = below(model_.ranges.size());
    const Range range = model_.ranges[index];
    const ModelRun& run = model_.runs[range.first];
    const bool is_free = run.use == Use::free && run.length == range.count;
    const Status status = engine_.remove_range(range.first, range.count);
    if (!is_free) return status == Status::in_use;
    if (status != Status::ok) return false;
    model_.ranges.erase(model_.ranges.begin() + static_cast<std::ptrdiff_t>(index));
    model_.runs.erase(range.first);
    model_.free_units -= range.count;
    return agree() && add(range.first, range.count);
  }

  // Makes the range that ends last longer, as long as there are units behind it.
  bool extend() {
    const auto at = std::max_element(model_.ranges.begin(), model_.ranges.end(),
                                     [](const Range& a, const Range& b) { return a.first < b.first; });
    const auto left = static_cast<std::uint32_t>(tags_.size()) - at->first - at->count;
    const std::uint32_t extra = 1 + below(3);
    const Status status = engine_.extend_range(at->first, at->count, extra);
    if (extra > left) return status == Status::bad_argument;
    if (status != Status::ok) return false;
    const std::uint32_t end = at->first + at->count;
    at->count += extra;
    model_.runs[end] = {extra, Use::held};
    static_cast<void>(model_.give_back(end));
    return true;
  }

  std::vector<Tag> tags_;
  std::mt19937_64 random_;
  Tlsf engine_;
  Model model_;
  std::vector<std::uint32_t> held_, taken_;
  std::uint64_t steps_ = 0;
};

void add_uneven_ranges(Duel& duel) {
  REQUIRE(duel.add(0, 2048));
  REQUIRE(duel.add(2048, 1));  // a range of one unit: first and last tag are the same
  REQUIRE(duel.add(2049, 2));
  REQUIRE(duel.add(2051, 997));
  REQUIRE(duel.add(4000, 2096));
}

}  // namespace

TEST_CASE("mut-C10 tags, bins and bitmaps agree with a model after each of 100000 operations",
          "[placement]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  for (const TlsfPolicy policy : {TlsfPolicy::first, TlsfPolicy::best_fit}) {
    Duel duel(600, policy, seed);
    REQUIRE(duel.add(0, 256));
    REQUIRE(duel.add(256, 1));
    REQUIRE(duel.add(300, 300));
    for (int i = 0; i < 50000; ++i) {
      const bool agreed = duel.step() && duel.agree_in_full();
      INFO("operation " << i);
      if (!agreed) REQUIRE(agreed);
    }
    REQUIRE(duel.drain());
  }
}

TEST_CASE("P11 mut-C13 a million random operations agree with a model", "[placement]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  for (const TlsfPolicy policy : {TlsfPolicy::first, TlsfPolicy::best_fit}) {
    Duel duel(6200, policy, seed);
    add_uneven_ranges(duel);
    for (int i = 0; i < 600000; ++i) {
      const bool agreed = duel.step() && (i % 1000 == 0 ? duel.agree_in_full() : duel.agree());
      INFO("operation " << i);
      if (!agreed) REQUIRE(agreed);
    }
    REQUIRE(duel.drain());
  }
}

TEST_CASE("the same calls give the same places", "[placement]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Duel one(6200, TlsfPolicy::first, seed);
  Duel two(6200, TlsfPolicy::first, seed);
  add_uneven_ranges(one);
  add_uneven_ranges(two);
  bool agreed = true;
  for (int i = 0; i < 20000 && agreed; ++i) agreed = one.step() && two.step() && one.held() == two.held();
  CHECK(agreed);
}

TEST_CASE("mut-C11 every length has its bin: sorted and random order, capacities 2050 + 41 i",
          "[placement]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  for (std::uint32_t i = 0; i < 64; ++i) {
    const std::uint32_t capacity = 2050 + 41 * i;
    std::vector<Tag> tags(capacity);
    Tlsf engine;
    engine.attach(tags.data(), capacity, TlsfPolicy::best_fit);
    const Range range{0, capacity};
    REQUIRE(engine.add_range(0, capacity) == Status::ok);
    // Runs of length 1, 2, 3, ... with a plug of one unit between them, then what is left over.
    std::vector<std::uint32_t> first{0};
    for (std::uint32_t length = 1; !engine.allocate(1).empty(); ++length) {
      const Run run = engine.allocate(length);
      if (run.empty()) break;
      first.push_back(run.first);
    }
    std::vector<std::uint32_t> lengths;
    for (std::uint32_t length = 1; length < first.size(); ++length) lengths.push_back(length);
    REQUIRE(lengths.size() >= 61);
    if (i % 2 == 1) std::shuffle(lengths.begin(), lengths.end(), random);
    for (const std::uint32_t length : lengths) REQUIRE(engine.free(first[length]).length == length);
    REQUIRE(engine.validate({&range, 1}));
    std::shuffle(lengths.begin(), lengths.end(), random);
    for (const std::uint32_t length : lengths) {
      const Run run = engine.allocate(length);
      REQUIRE(run.first == first[length]);
      REQUIRE(run.length == length);
    }
    REQUIRE(engine.validate({&range, 1}));
  }
}

TEST_CASE("mut-C12 links of a bin survive removal at the head, the tail, the middle and alone",
          "[placement]") {
  constexpr std::uint32_t kLength = 20;
  for (unsigned count = 1; count <= 4; ++count) {
    std::vector<unsigned> order;
    for (unsigned i = 0; i < count; ++i) order.push_back(i);
    do {
      std::vector<Tag> tags(200);
      Tlsf engine;
      engine.attach(tags.data(), 200);
      const Range range{0, 200};
      REQUIRE(engine.add_range(0, 200) == Status::ok);
      std::vector<std::uint32_t> first;
      for (unsigned i = 0; i < count; ++i) {
        first.push_back(engine.allocate(kLength).first);
        REQUIRE_FALSE(engine.allocate(1).empty());
      }
      const std::uint32_t rest = engine.allocate(200 - count * (kLength + 1)).first;
      for (const std::uint32_t start : first) REQUIRE(engine.free(start).length == kLength);
      for (const unsigned index : order) {
        REQUIRE(engine.take_free_run(first[index]) == kLength);
        REQUIRE(engine.validate({&range, 1}));
      }
      REQUIRE(engine.free_units() == 0);
      REQUIRE(engine.allocate(kLength).status == Status::exhausted);
      for (const unsigned index : order) REQUIRE(engine.put_back(first[index]).length == kLength);
      REQUIRE(engine.validate({&range, 1}));
      REQUIRE(engine.is_allocated_start(rest));
    } while (std::next_permutation(order.begin(), order.end()));
  }
}

TEST_CASE("mut-C14 merge, reuse of a hole, no fragments, exhaustion and then reuse", "[placement]") {
  for (const TlsfPolicy policy : {TlsfPolicy::first, TlsfPolicy::best_fit}) {
    std::vector<Tag> tags(1000);
    Tlsf engine;
    engine.attach(tags.data(), 1000, policy);
    const Range range{0, 1000};
    REQUIRE(engine.add_range(0, 1000) == Status::ok);
    std::uint32_t first[10];
    for (std::uint32_t& start : first) start = engine.allocate(100).first;
    CHECK(engine.allocate(1).status == Status::exhausted);
    CHECK(engine.allocate(1, 4).status == Status::exhausted);
    // Two neighbours make a place for what fits in neither.
    CHECK(engine.free(first[3]).length == 100);
    CHECK(engine.allocate(200).status == Status::exhausted);
    CHECK(engine.free(first[4]).length == 200);
    CHECK(engine.allocate(200).first == 300);
    // A hole is filled by smaller runs and is whole again afterwards.
    CHECK(engine.free(first[7]).first == 700);
    const Run small = engine.allocate(30);
    const Run middle = engine.allocate(60);
    const Run last = engine.allocate(10);
    CHECK(engine.allocate(1).status == Status::exhausted);
    CHECK(engine.free(middle.first).length == 60);
    CHECK(engine.free(small.first).length == 90);
    CHECK(engine.free(last.first).length == 100);
    CHECK(engine.largest_free() == 100);
    CHECK(engine.allocate(100).first == 700);
    CHECK(engine.validate({&range, 1}));
    for (const unsigned index : {0u, 9u, 1u, 8u, 2u, 7u, 5u, 6u, 3u}) {
      CHECK(engine.free(first[index]).status == Status::ok);
    }
    CHECK(engine.largest_free() == 1000);
    CHECK(engine.validate({&range, 1}));
  }
}

TEST_CASE("P11 sequential, stack, queue and burst patterns leave no fragments", "[placement]") {
  constexpr std::uint32_t kUnits = 8192;
  for (unsigned pattern = 0; pattern < 4; ++pattern) {
    std::vector<Tag> tags(kUnits);
    Tlsf engine;
    engine.attach(tags.data(), kUnits);
    const Range range{0, kUnits};
    REQUIRE(engine.add_range(0, kUnits) == Status::ok);
    std::vector<std::uint32_t> held;
    for (std::uint32_t i = 0; i < 40000; ++i) {
      const Run run = engine.allocate(1 + i * 7 % 61);
      REQUIRE_FALSE(run.empty());
      held.push_back(run.first);
      const std::size_t keep = pattern == 0 ? 0 : 100;
      const bool is_burst_end = pattern == 3 && i % 100 == 99;
      while (is_burst_end ? !held.empty() : held.size() > keep) {
        const auto victim = pattern == 2 ? held.begin() : held.end() - 1;
        REQUIRE(engine.free(*victim).status == Status::ok);
        held.erase(victim);
      }
    }
    CHECK(engine.validate({&range, 1}));
    for (const std::uint32_t start : held) REQUIRE(engine.free(start).status == Status::ok);
    CHECK(engine.largest_free() == kUnits);
  }
}

TEST_CASE("a request without a run in its own bin is served from the next one", "[placement]") {
  std::vector<Tag> tags(200);
  Tlsf engine;
  engine.attach(tags.data(), 200);
  REQUIRE(engine.add_range(0, 105) == Status::ok);
  std::uint32_t first[3];
  for (unsigned i = 0; i < 3; ++i) {  // 17 is in bin 16 .. 17, 18 in bin 18 .. 19, 67 in 64 .. 71
    first[i] = engine.allocate(std::vector<std::uint32_t>{67, 17, 18}[i]).first;
    REQUIRE_FALSE(engine.allocate(1).empty());
  }
  for (const std::uint32_t start : first) REQUIRE(engine.free(start).status == Status::ok);
  CHECK(engine.allocate(15).first == first[1]);
  CHECK(engine.allocate(15).first == first[2]);
  const Run last = engine.allocate(15);
  CHECK(last.status == Status::ok);
  CHECK(last.first == first[0]);
}

TEST_CASE("best fit takes the shortest run, and the lowest of equals", "[placement]") {
  std::vector<Tag> tags(1000);
  Tlsf engine;
  engine.attach(tags.data(), 1000, TlsfPolicy::best_fit);
  REQUIRE(engine.add_range(0, 1000) == Status::ok);
  std::vector<std::uint32_t> first;
  for (const std::uint32_t length : {71u, 67u, 69u, 67u, 70u}) {  // one bin: 64 .. 71
    first.push_back(engine.allocate(length).first);
    REQUIRE_FALSE(engine.allocate(1).empty());
  }
  for (const std::uint32_t start : first) REQUIRE(engine.free(start).status == Status::ok);
  CHECK(engine.allocate(66).first == first[1]);
  CHECK(engine.allocate(66).first == first[3]);
  CHECK(engine.allocate(66).first == first[2]);
}

TEST_CASE("a run that fits is found behind many in its bin that do not", "[placement]") {
  constexpr std::uint32_t kShort = 200;
  std::vector<Tag> tags(20000);
  Tlsf engine;
  engine.attach(tags.data(), 20000);
  REQUIRE(engine.add_range(0, kShort * 65 + 72) == Status::ok);
  std::vector<std::uint32_t> first;
  const std::uint32_t wanted = engine.allocate(71).first;
  REQUIRE_FALSE(engine.allocate(1).empty());
  for (std::uint32_t i = 0; i < kShort; ++i) {
    first.push_back(engine.allocate(64).first);
    REQUIRE_FALSE(engine.allocate(1).empty());
  }
  REQUIRE(engine.free_units() == 0);
  REQUIRE(engine.free(wanted).status == Status::ok);
  for (const std::uint32_t start : first) REQUIRE(engine.free(start).length == 64);
  const Run run = engine.allocate(71);
  CHECK(run.status == Status::ok);
  CHECK(run.first == wanted);
}

TEST_CASE("runs grow and shrink where they are", "[placement]") {
  std::vector<Tag> tags(300);
  Tlsf engine;
  engine.attach(tags.data(), 300);
  const Range ranges[] = {{0, 100}, {100, 100}};
  for (const Range& range : ranges) REQUIRE(engine.add_range(range.first, range.count) == Status::ok);
  const Run run = engine.allocate(10);
  const std::uint32_t base = run.first;
  engine.tag(base).owner = 77;
  engine.tag(base).previous = 123;
  engine.tag(base).next = 456;
  CHECK(engine.grow_in_place(base, 9).status == Status::bad_argument);
  CHECK(engine.grow_in_place(base, 10).length == 10);
  CHECK(engine.grow_in_place(base, 99).length == 99);
  CHECK(engine.grow_in_place(base, 100).length == 100);
  CHECK(engine.grow_in_place(base, 101).status == Status::exhausted);  // the range ends
  CHECK(engine.grow_in_place(base, 301).status == Status::too_large);
  CHECK(engine.shrink(base, 0).status == Status::bad_argument);
  CHECK(engine.shrink(base, 101).status == Status::bad_argument);
  CHECK(engine.shrink(base, 100).length == 0);
  CHECK(engine.shrink(base, 60).length == 40);
  CHECK(engine.shrink(base, 20).length == 80);  // joins what was given back before
  CHECK(engine.free(base + 20).status == Status::double_free);
  CHECK(engine.validate(ranges));
  CHECK(engine.tag(base).owner == 77);
  CHECK(engine.tag(base).previous == 123);
  CHECK(engine.tag(base).next == 456);
  const Run blocker = engine.allocate(80);
  CHECK(blocker.first == base + 20);
  CHECK(engine.grow_in_place(base, 21).status == Status::exhausted);
  CHECK(engine.run_length(base) == 20);
  CHECK(engine.free(blocker.first).length == 80);
  CHECK(engine.free(base).length == 100);
  CHECK(engine.allocate(10).length == 10);
  CHECK(engine.is_allocated_start(base));
  CHECK(engine.tag(base).owner == 0);
  CHECK(engine.validate(ranges));
}

TEST_CASE("C8 a range that is extended stays one range, and its old end is no barrier any more",
          "[placement]") {
  std::vector<Tag> tags(200);
  Tlsf engine;
  engine.attach(tags.data(), 200);
  REQUIRE(engine.add_range(0, 50) == Status::ok);
  REQUIRE(engine.add_range(150, 50) == Status::ok);
  CHECK(engine.extend_range(0, 40, 10) == Status::out_of_range);
  CHECK(engine.extend_range(10, 40, 10) == Status::out_of_range);
  CHECK(engine.extend_range(0, 50, 0) == Status::bad_argument);
  CHECK(engine.extend_range(0, 50, 151) == Status::bad_argument);
  CHECK(engine.extend_range(0, 50, 101) == Status::in_use);
  CHECK(engine.extend_range(150, 50, 1) == Status::bad_argument);
  CHECK(engine.extend_range(0, 50, 30) == Status::ok);  // behind a free run
  CHECK(engine.largest_free() == 80);
  const Run run = engine.allocate(80);
  CHECK(run.length == 80);
  CHECK(engine.extend_range(0, 80, 1) == Status::ok);  // behind a run in use, and one unit long
  CHECK(engine.free(80).status == Status::double_free);
  CHECK(engine.extend_range(0, 81, 69) == Status::ok);  // up to the next range
  const Range ranges[] = {{0, 150}, {150, 50}};
  CHECK(engine.validate(ranges));
  CHECK(engine.free_units() == 120);
  CHECK(engine.grow_in_place(run.first, 150).length == 150);
  CHECK(engine.grow_in_place(run.first, 151).status == Status::exhausted);
  CHECK(engine.free(run.first).length == 150);
  CHECK(engine.remove_range(0, 50) == Status::out_of_range);
  CHECK(engine.remove_range(0, 150) == Status::ok);
  CHECK(engine.range_units() == 50);
}

TEST_CASE("a free run that was taken out is neither placed nor merged until it is put back", "[placement]") {
  std::vector<Tag> tags(100);
  Tlsf engine;
  engine.attach(tags.data(), 100);
  const Range range{0, 100};
  REQUIRE(engine.add_range(0, 100) == Status::ok);
  std::uint32_t first[3];
  for (std::uint32_t& start : first) start = engine.allocate(20).first;
  REQUIRE(engine.free(first[1]).length == 20);
  CHECK(engine.take_free_run(first[0]) == 0);
  CHECK(engine.take_free_run(first[1] + 1) == 0);
  CHECK(engine.take_free_run(first[1]) == 20);
  CHECK(engine.take_free_run(first[1]) == 0);
  CHECK(engine.take_free_run(60) == 40);
  CHECK(engine.free_units() == 0);
  CHECK(engine.allocate(1).status == Status::exhausted);
  CHECK(engine.free(first[1]).status == Status::double_free);  // the program does not own it
  CHECK(engine.free(60).status == Status::double_free);
  CHECK(engine.free(first[0]).length == 20);
  CHECK(engine.free(first[2]).length == 20);
  CHECK(engine.remove_range(0, 100) == Status::in_use);
  CHECK(engine.put_back(first[0]).status == Status::double_free);
  CHECK(engine.validate({&range, 1}));
  CHECK(engine.put_back(60).length == 60);
  CHECK(engine.put_back(first[1]).length == 100);
  CHECK(engine.validate({&range, 1}));
}
