// Cutting: of a run that is handed out into two, and of the free end of a range. A naive model of units says
// after every call what must be there.
#include <algorithm>
#include <vector>

#include "src/placement/tlsf.h"
#include "tests/random.h"

#include "tests/catch.h"

using namespace glebe::placement;

namespace {

struct Engine {
  explicit Engine(std::uint32_t capacity) : tags(capacity) { tlsf.attach(tags.data(), capacity); }
  bool validate(std::uint32_t units) const {
    const Range range{0, units};
    return tlsf.validate({&range, 1});
  }
  std::vector<Tag> tags;
  Tlsf tlsf;
};

}  // namespace

TEST_CASE("C3 a run that is cut in two is two runs, freed in either order", "[placement]") {
  for (const bool front_first : {false, true}) {
    Engine engine(64);
    REQUIRE(engine.tlsf.add_range(0, 64) == Status::ok);
    const Run whole = engine.tlsf.allocate(10);
    const Run second = engine.tlsf.split(whole.first, 4);
    REQUIRE(second.status == Status::ok);
    REQUIRE(second.first == whole.first + 4);
    REQUIRE(second.length == 6);
    REQUIRE(engine.tlsf.run_length(whole.first) == 4);
    REQUIRE(engine.tlsf.run_length(second.first) == 6);
    REQUIRE(engine.tlsf.free_units() == 54);
    REQUIRE(engine.validate(64));
    engine.tlsf.free(front_first ? whole.first : second.first);
    REQUIRE(engine.validate(64));
    REQUIRE(engine.tlsf.free_units() == 54 + (front_first ? 4 : 6));
    const Run freed = engine.tlsf.free(front_first ? second.first : whole.first);
    REQUIRE(freed.length == 64);
    REQUIRE(engine.validate(64));
  }
}

TEST_CASE("S11 a cut that leaves an empty part, or of what is not handed out, is refused", "[placement]") {
  Engine engine(64);
  REQUIRE(engine.tlsf.add_range(0, 64) == Status::ok);
  const Run run = engine.tlsf.allocate(10);
  for (const std::uint32_t length : {0u, 10u, 11u, ~0u}) {
    REQUIRE(engine.tlsf.split(run.first, length).status == Status::bad_argument);
  }
  REQUIRE(engine.tlsf.split(run.first + 1, 2).status == Status::out_of_range);
  REQUIRE(engine.tlsf.split(1000, 2).status == Status::out_of_range);
  engine.tlsf.free(run.first);
  REQUIRE(engine.tlsf.split(run.first, 2).status == Status::double_free);
  REQUIRE(engine.validate(64));
}

TEST_CASE("C8 a range loses its free end, and nothing that is in use", "[placement]") {
  Engine engine(128);
  REQUIRE(engine.tlsf.add_range(0, 64) == Status::ok);
  const Run run = engine.tlsf.allocate(10);
  REQUIRE(run.first == 0);
  REQUIRE(engine.tlsf.free_at_end(0, 64) == 54);
  REQUIRE(engine.tlsf.free_at_end(0, 63) == 0);
  REQUIRE(engine.tlsf.shrink_range(0, 64, 55) == Status::in_use);
  REQUIRE(engine.tlsf.shrink_range(0, 64, 0) == Status::bad_argument);
  REQUIRE(engine.tlsf.shrink_range(0, 64, 64) == Status::bad_argument);
  REQUIRE(engine.tlsf.shrink_range(0, 60, 4) == Status::out_of_range);
  REQUIRE(engine.tlsf.shrink_range(4, 60, 4) == Status::out_of_range);
  REQUIRE(engine.tlsf.shrink_range(0, 64, 20) == Status::ok);
  REQUIRE(engine.tlsf.range_units() == 44);
  REQUIRE(engine.tlsf.free_units() == 34);
  REQUIRE(engine.validate(44));
  // All of the free end, then the range ends with a run in use.
  REQUIRE(engine.tlsf.shrink_range(0, 44, 34) == Status::ok);
  REQUIRE(engine.tlsf.free_at_end(0, 10) == 0);
  REQUIRE(engine.tlsf.free_units() == 0);
  REQUIRE(engine.validate(10));
  REQUIRE(engine.tlsf.allocate(1).status == Status::exhausted);
  REQUIRE(engine.tlsf.extend_range(0, 10, 100) == Status::ok);
  REQUIRE(engine.validate(110));
  REQUIRE(engine.tlsf.free_at_end(0, 110) == 100);
  REQUIRE(engine.tlsf.free(0).length == 110);
}

TEST_CASE("mut-C10 a range that is cut, grown and filled at random agrees with a model", "[placement]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Expect expect;
  constexpr std::uint32_t kCapacity = 4096;
  Engine engine(kCapacity);
  std::uint32_t units = 256;
  expect(engine.tlsf.add_range(0, units) == Status::ok);
  std::vector<Range> runs;
  const auto used_end = [&] {
    std::uint32_t end = 0;
    for (const Range& run : runs) end = std::max(end, run.first + run.count);
    return end;
  };
  for (int step = 0; step < 30'000 && expect.failed_line() == 0; ++step) {
    const std::uint64_t dice = random.below(100);
    if (dice < 40) {
      const Run run = engine.tlsf.allocate(1 + random.below32(40), random.one_in(3) ? 8 : 1);
      if (!run.empty()) runs.push_back(Range{run.first, run.length});
    } else if (dice < 60 && !runs.empty()) {
      Range& run = runs[random.below(runs.size())];
      if (run.count == 1) continue;
      const std::uint32_t kept = 1 + random.below32(run.count - 1);
      const Run second = engine.tlsf.split(run.first, kept);
      expect(second.first == run.first + kept && second.length == run.count - kept);
      run.count = kept;
      runs.push_back(Range{second.first, second.length});
    } else if (dice < 90 && !runs.empty()) {
      const std::size_t index = random.below(runs.size());
      expect(engine.tlsf.free(runs[index].first).status == Status::ok);
      runs[index] = runs.back();
      runs.pop_back();
    } else if (dice < 95) {
      const std::uint32_t free_end = units - used_end();
      expect(engine.tlsf.free_at_end(0, units) == free_end);
      const std::uint32_t removed = 1 + random.below32(free_end + 4);
      const Status status = engine.tlsf.shrink_range(0, units, removed);
      expect(status == (removed >= units      ? Status::bad_argument
                        : removed <= free_end ? Status::ok
                                              : Status::in_use));
      if (status == Status::ok) units -= removed;
    } else {
      const std::uint32_t extra = std::min(1 + random.below32(200), kCapacity - units);
      if (extra != 0 && engine.tlsf.extend_range(0, units, extra) == Status::ok) units += extra;
    }
    std::uint32_t used = 0;
    for (const Range& run : runs) used += run.count;
    expect(engine.tlsf.free_units() == units - used && engine.tlsf.range_units() == units);
    if (step % 50 == 0) expect(engine.validate(units));
  }
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(engine.validate(units));
}

TEST_CASE("C3 units that are named are taken out of the free run around them", "[placement]") {
  Engine engine(64);
  REQUIRE(engine.tlsf.add_range(0, 64) == Status::ok);
  const Run middle = engine.tlsf.allocate_at(0, 20, 10);
  REQUIRE(middle.status == Status::ok);
  REQUIRE(middle.first == 20);
  REQUIRE(engine.tlsf.run_length(0) == 20);
  REQUIRE(engine.tlsf.run_length(30) == 34);
  REQUIRE(engine.validate(64));
  REQUIRE(engine.tlsf.allocate_at(0, 0, 20).first == 0);    // a whole run
  REQUIRE(engine.tlsf.allocate_at(30, 60, 4).first == 60);  // its end
  REQUIRE(engine.tlsf.allocate_at(30, 30, 1).length == 1);  // its start
  REQUIRE(engine.tlsf.free_units() == 29);
  REQUIRE(engine.validate(64));
}

TEST_CASE("S11 units that are named and not all free are refused", "[placement]") {
  Engine engine(64);
  REQUIRE(engine.tlsf.add_range(0, 64) == Status::ok);
  REQUIRE(engine.tlsf.allocate_at(0, 20, 10).status == Status::ok);
  for (const std::uint32_t first : {11u, 20u, 25u, 40u, ~0u}) {
    REQUIRE(engine.tlsf.allocate_at(0, first, 10).status == Status::exhausted);
  }
  REQUIRE(engine.tlsf.allocate_at(0, 0, 0).status == Status::bad_argument);
  REQUIRE(engine.tlsf.allocate_at(5, 6, 2).status == Status::bad_argument);
  REQUIRE(engine.tlsf.allocate_at(20, 22, 2).status == Status::bad_argument);
  REQUIRE(engine.tlsf.allocate_at(30, 40, 30).status == Status::exhausted);
  REQUIRE(engine.tlsf.free_units() == 54);
  REQUIRE(engine.validate(64));
}

TEST_CASE("C3 a part of a free run that is taken away is neither placed nor merged until it is put back",
          "[placement]") {
  for (const bool front_first : {false, true}) {
    Engine engine(64);
    REQUIRE(engine.tlsf.add_range(0, 64) == Status::ok);
    engine.tlsf.free(engine.tlsf.allocate_at(0, 20, 4).first);  // so that a run started here
    REQUIRE(engine.tlsf.free_before(0) == 0);
    REQUIRE(engine.tlsf.free_before(30) == 0);
    REQUIRE(engine.tlsf.take_at(0, 10, 10).first == 10);
    REQUIRE(engine.tlsf.take_at(20, 20, 8).length == 8);
    REQUIRE(engine.tlsf.free_units() == 46);
    REQUIRE(engine.tlsf.free_before(10) == 10);
    REQUIRE(engine.tlsf.free_before(20) == 0);
    REQUIRE(engine.tlsf.run_length(20) == 8);
    REQUIRE_FALSE(engine.tlsf.is_allocated_start(20));
    REQUIRE(engine.validate(64));
    REQUIRE(engine.tlsf.allocate(37).status == Status::exhausted);
    REQUIRE(engine.tlsf.free(20).status == Status::double_free);
    REQUIRE(engine.tlsf.free(13).status == Status::out_of_range);
    REQUIRE(engine.tlsf.take_at(0, 5, 6).status == Status::exhausted);
    REQUIRE(engine.tlsf.take_at(10, 10, 1).status == Status::bad_argument);
    REQUIRE(engine.tlsf.put_back(front_first ? 10u : 20u).status == Status::ok);
    REQUIRE(engine.validate(64));
    const Run whole = engine.tlsf.put_back(front_first ? 20u : 10u);
    REQUIRE(whole.first == 0);
    REQUIRE(whole.length == 64);
    REQUIRE(engine.validate(64));
  }
}
