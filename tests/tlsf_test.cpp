// The coalescing engine: what breaks here hands one place out twice, loses free space, or merges across a
// barrier.
#include "src/placement/tlsf.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "platform/vm.h"
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

// An engine with its tags and the list of its ranges.
struct Field {
  std::vector<Tag> tags;
  std::vector<Range> ranges;
  Tlsf engine;

  explicit Field(std::uint32_t capacity, TlsfPolicy policy = TlsfPolicy::first) : tags(capacity) {
    engine.attach(tags.data(), capacity, policy);
  }
  Status add(std::uint32_t first, std::uint32_t count) {
    const Status status = engine.add_range(first, count);
    if (status == Status::ok) ranges.push_back({first, count});
    return status;
  }
  Status remove(std::uint32_t first, std::uint32_t count) {
    const Status status = engine.remove_range(first, count);
    if (status == Status::ok) {
      std::erase_if(ranges, [&](const Range& range) { return range.first == first; });
    }
    return status;
  }
  bool valid() const { return engine.validate(ranges); }

  // The free runs of all ranges, as the walk over runs sees them.
  std::vector<Range> free_runs() const {
    std::vector<Range> result;
    for (const Range& range : ranges) {
      for (std::uint32_t at = range.first; at != kNoUnit; at = engine.next_run(at)) {
        if (engine.is_free_start(at)) result.push_back({at, engine.run_length(at)});
      }
    }
    return result;
  }
  bool is_initial() const {
    return valid() && free_runs().size() == ranges.size() && engine.free_units() == engine.range_units();
  }
};

bool same(const Run& run, std::uint32_t first, std::uint32_t length) {
  return run.status == Status::ok && run.first == first && run.length == length;
}

std::vector<std::uint32_t> shuffled(std::vector<std::uint32_t> values, std::mt19937_64& random) {
  std::shuffle(values.begin(), values.end(), random);
  return values;
}

}  // namespace

TEST_CASE("C1 a range that was added is one free run", "[placement]") {
  Field field(1000);
  CHECK(field.engine.free_units() == 0);
  CHECK(field.engine.largest_free() == 0);
  REQUIRE(field.add(100, 900) == Status::ok);
  CHECK(field.engine.free_units() == 900);
  CHECK(field.engine.range_units() == 900);
  CHECK(field.engine.range_count() == 1);
  CHECK(field.engine.largest_free() == 900);
  REQUIRE(field.free_runs().size() == 1);
  CHECK(field.engine.run_length(100) == 900);
  CHECK(field.engine.next_run(100) == kNoUnit);
  CHECK(field.is_initial());
  CHECK(same(field.engine.allocate(900), 100, 900));
  CHECK(field.engine.allocate(1).status == Status::exhausted);
}

TEST_CASE("C2 pairs of allocate and free restore the initial state", "[placement]") {
  for (const TlsfPolicy policy : {TlsfPolicy::first, TlsfPolicy::best_fit}) {
    Field field(5000, policy);
    REQUIRE(field.add(0, 5000) == Status::ok);
    for (std::uint32_t length = 1; length <= 5000; length += 1 + length / 40) {
      const Run run = field.engine.allocate(length);
      REQUIRE(same(run, 0, length));
      REQUIRE(field.engine.free_units() == 5000 - length);
      REQUIRE(same(field.engine.free(run.first), 0, 5000));
      REQUIRE(field.is_initial());
    }
  }
}

TEST_CASE("C3 three runs freed in each of the six orders become one", "[placement]") {
  for (const std::uint32_t rest : {0u, 7u}) {  // with and without a free run behind them
    std::vector<unsigned> order{0, 1, 2};
    do {
      Field field(64);
      REQUIRE(field.add(0, 30 + rest) == Status::ok);
      std::uint32_t first[3];
      for (std::uint32_t& start : first) start = field.engine.allocate(10).first;
      for (const unsigned index : order) {
        REQUIRE(field.engine.free(first[index]).status == Status::ok);
        REQUIRE(field.valid());
      }
      CHECK(field.is_initial());
      CHECK(same(field.engine.allocate(30 + rest), 0, 30 + rest));
    } while (std::next_permutation(order.begin(), order.end()));
  }
}

TEST_CASE("C4 many runs of one length are disjoint and all come back", "[placement]") {
  for (const std::uint32_t length : {1u, 2u, 7u, 8u, 15u, 16u, 17u, 100u, 512u}) {
    Field field(51200);
    REQUIRE(field.add(0, 51200) == Status::ok);
    std::vector<bool> used(51200);
    std::vector<std::uint32_t> starts;
    for (Run run = field.engine.allocate(length); !run.empty(); run = field.engine.allocate(length)) {
      for (std::uint32_t unit = run.first; unit < run.first + length; ++unit) {
        REQUIRE_FALSE(used[unit]);
        used[unit] = true;
      }
      starts.push_back(run.first);
    }
    CHECK(starts.size() == 51200 / length);
    CHECK(field.valid());
    for (const std::uint32_t start : starts) REQUIRE(field.engine.free(start).status == Status::ok);
    CHECK(field.is_initial());
  }
}

TEST_CASE("C5 2^20 runs of one unit", "[placement]") {
  constexpr std::uint32_t kCount = 1u << 20;
  Field field(kCount);
  REQUIRE(field.add(0, kCount) == Status::ok);
  std::vector<bool> used(kCount);
  bool distinct = true;
  for (std::uint32_t i = 0; i < kCount; ++i) {
    const Run run = field.engine.allocate(1);
    distinct = distinct && run.length == 1 && !used[run.first];
    if (!distinct) break;
    used[run.first] = true;
  }
  REQUIRE(distinct);
  CHECK(field.engine.allocate(1).status == Status::exhausted);
  CHECK(field.valid());
  bool all_freed = true;
  for (std::uint32_t unit = 0; unit < kCount; ++unit) {
    all_freed = all_freed && field.engine.free(unit).status == Status::ok;
  }
  CHECK(all_freed);
  CHECK(field.is_initial());
}

TEST_CASE("C6 2^18 runs in random order leave one free run per range", "[placement]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  constexpr std::uint32_t kCount = 1u << 18;
  constexpr std::uint32_t kRange = 1u << 20;
  Field field(4 * kRange);
  for (std::uint32_t i = 0; i < 4; ++i) REQUIRE(field.add(i * kRange, kRange) == Status::ok);
  std::vector<std::uint32_t> starts;
  for (std::uint32_t i = 0; i < kCount; ++i) {
    const Run run = field.engine.allocate(1 + static_cast<std::uint32_t>(random() % 15));
    REQUIRE_FALSE(run.empty());
    starts.push_back(run.first);
  }
  CHECK(field.valid());
  bool all_freed = true;
  for (const std::uint32_t start : shuffled(starts, random)) {
    all_freed = all_freed && field.engine.free(start).status == Status::ok;
  }
  CHECK(all_freed);
  CHECK(field.is_initial());
}

TEST_CASE("C7 alignments that are no power of two are refused", "[placement]") {
  Field field(4096);
  REQUIRE(field.add(0, 4096) == Status::ok);
  for (const std::uint32_t align : {0u, 3u, 5u, 6u, 7u, 24u, 100u, 101u, 1000u, 0x80000001u, 0xffffffffu}) {
    CHECK(field.engine.allocate(1, align).status == Status::bad_argument);
  }
  CHECK(field.is_initial());
}

TEST_CASE("P14 every power of two is honoured and both ends come back", "[placement]") {
  for (const TlsfPolicy policy : {TlsfPolicy::first, TlsfPolicy::best_fit}) {
    for (const std::uint32_t base : {0u, 1u, 13u, 1000u}) {
      Field field(20000, policy);
      REQUIRE(field.add(base, 17000) == Status::ok);
      for (std::uint32_t align = 1; align <= 8192; align *= 2) {
        for (const std::uint32_t length : {1u, 2u, 16u, 33u, align, align + 1}) {
          const Run pad = field.engine.allocate(1);
          const Run run = field.engine.allocate(length, align);
          if (run.empty()) {  // base + 17000 holds no aligned place of this length
            REQUIRE(run.status == Status::exhausted);
            const std::uint64_t place = glebe::align_up(std::uint64_t{base} + 1, align);
            REQUIRE(place + length > std::uint64_t{base} + 17000);
          } else {
            REQUIRE(run.first % align == 0);
            REQUIRE(run.length == length);
            REQUIRE(field.valid());
            REQUIRE(field.engine.free(run.first).status == Status::ok);
          }
          REQUIRE(field.engine.free(pad.first).status == Status::ok);
          REQUIRE(field.is_initial());
        }
      }
    }
  }
}

TEST_CASE("P14 an aligned place is found although its run is shorter than length plus slack", "[placement]") {
  Field field(256);
  REQUIRE(field.add(64, 64) == Status::ok);  // exactly one place of 64 units at alignment 64
  CHECK(same(field.engine.allocate(64, 64), 64, 64));
  CHECK(field.engine.allocate(1, 2048).status == Status::exhausted);
  CHECK(same(field.engine.free(64), 64, 64));
  CHECK(field.engine.allocate(1, 0x80000000u).status == Status::exhausted);
  CHECK(field.is_initial());
}

TEST_CASE("C8 ranges do not merge across their boundary", "[placement]") {
  Field field(300);
  REQUIRE(field.add(100, 100) == Status::ok);
  REQUIRE(field.add(200, 100) == Status::ok);
  REQUIRE(field.add(0, 100) == Status::ok);
  CHECK(field.free_runs().size() == 3);
  CHECK(field.engine.largest_free() == 100);
  CHECK(field.engine.allocate(101).status == Status::exhausted);
  std::vector<std::uint32_t> starts;
  for (int i = 0; i < 6; ++i) starts.push_back(field.engine.allocate(50).first);
  for (const std::uint32_t start : starts) REQUIRE(field.engine.free(start).length <= 100);
  CHECK(field.is_initial());

  for (int i = 0; i < 3; ++i) REQUIRE(field.engine.allocate(100).status == Status::ok);
  REQUIRE(field.engine.free(0).status == Status::ok);
  REQUIRE(field.engine.free(200).status == Status::ok);
  CHECK(field.remove(100, 100) == Status::in_use);
  CHECK(field.remove(200, 100) == Status::ok);
  CHECK(field.valid());
  CHECK(field.engine.free(200).status == Status::out_of_range);
  CHECK(same(field.engine.free(100), 100, 100));
  CHECK(field.engine.free_units() == 200);
  CHECK(field.remove(100, 100) == Status::ok);
  CHECK(field.remove(0, 100) == Status::ok);
  CHECK(field.engine.free_units() == 0);
  CHECK(field.engine.range_units() == 0);
  CHECK(field.engine.allocate(1).status == Status::exhausted);
  CHECK(field.add(150, 150) == Status::ok);  // the units can come back in another shape
  CHECK(field.is_initial());
}

TEST_CASE("C8 a part of a range or of two ranges is not removed", "[placement]") {
  Field field(400);
  REQUIRE(field.add(0, 200) == Status::ok);
  REQUIRE(field.add(200, 200) == Status::ok);
  CHECK(field.engine.remove_range(0, 100) == Status::out_of_range);
  CHECK(field.engine.remove_range(100, 100) == Status::out_of_range);
  CHECK(field.engine.remove_range(0, 0) == Status::out_of_range);
  CHECK(field.engine.remove_range(0, 400) != Status::ok);
  CHECK(field.engine.remove_range(200, 201) == Status::out_of_range);
  CHECK(field.engine.remove_range(200, kNoUnit) == Status::out_of_range);
  CHECK(field.engine.remove_range(kNoUnit, 1) == Status::out_of_range);
  CHECK(field.is_initial());
}

TEST_CASE("C8 ranges that make no sense are refused", "[placement]") {
  Field field(100);
  CHECK(field.engine.add_range(0, 0) == Status::bad_argument);
  CHECK(field.engine.add_range(100, 1) == Status::bad_argument);
  CHECK(field.engine.add_range(0, 101) == Status::bad_argument);
  CHECK(field.engine.add_range(99, 2) == Status::bad_argument);
  CHECK(field.engine.add_range(kNoUnit, kNoUnit) == Status::bad_argument);
  REQUIRE(field.add(10, 20) == Status::ok);
  CHECK(field.engine.add_range(10, 20) == Status::in_use);
  CHECK(field.engine.add_range(29, 5) == Status::in_use);
  CHECK(field.engine.add_range(5, 6) == Status::in_use);
  CHECK(field.is_initial());
}

TEST_CASE("C8 engines that share a table never look at foreign tags", "[placement]") {
  constexpr std::uint32_t kRange = 64;
  constexpr std::uint32_t kEngines = 3;
  std::vector<Tag> tags(kRange * 9);
  Tlsf engines[kEngines];
  std::vector<Range> ranges[kEngines];
  std::uint32_t at = 0;
  for (Tlsf& engine : engines) engine.attach(tags.data(), kRange * 9);
  for (std::uint32_t i = 0; i < 9; ++i, at += kRange) {
    REQUIRE(engines[i % kEngines].add_range(at, kRange) == Status::ok);
    ranges[i % kEngines].push_back({at, kRange});
  }
  // Engine 1 works alone while the tags of the others hold every bit.
  const std::vector<Tag> before = tags;
  for (std::uint32_t unit = 0; unit < tags.size(); ++unit) {
    if (unit / kRange % kEngines != 1) tags[unit] = Tag{~0u, ~0u, ~0u, 0xffff, 0xff, 0xff};
  }
  std::vector<std::uint32_t> starts;
  for (Run run = engines[1].allocate(5); !run.empty(); run = engines[1].allocate(5)) {
    REQUIRE(run.first / kRange % kEngines == 1);
    starts.push_back(run.first);
  }
  CHECK(starts.size() == 3 * (kRange / 5));
  for (const std::uint32_t start : starts) {
    const Run freed = engines[1].free(start);
    REQUIRE(freed.status == Status::ok);
    REQUIRE(freed.first / kRange == (freed.first + freed.length - 1) / kRange);
  }
  CHECK(engines[1].validate(ranges[1]));
  for (std::uint32_t unit = 0; unit < tags.size(); ++unit) {
    if (unit / kRange % kEngines == 1) continue;
    REQUIRE(tags[unit].length == ~0u);
    REQUIRE(tags[unit].state == 0xff);
    tags[unit] = before[unit];
  }
  for (unsigned i = 0; i < kEngines; ++i) CHECK(engines[i].validate(ranges[i]));
}

TEST_CASE("C8 engines on neighbouring ranges may work at the same time", "[placement]") {
  constexpr std::uint32_t kRange = 128;
  std::vector<Tag> tags(kRange * 8);
  Tlsf engines[2];
  std::vector<Range> ranges[2];
  for (Tlsf& engine : engines) engine.attach(tags.data(), kRange * 8);
  bool added = true;
  for (std::uint32_t i = 0; i < 8; ++i) {
    added = engines[i % 2].add_range(i * kRange, kRange) == Status::ok && added;
    ranges[i % 2].push_back({i * kRange, kRange});
  }
  REQUIRE(added);
  bool good[2] = {true, true};
  const auto work = [&](unsigned index) {
    Tlsf& engine = engines[index];
    std::vector<std::uint32_t> held;
    for (std::uint32_t i = 0; i < 20000; ++i) {
      const Run run = engine.allocate(1 + i % 23);
      if (!run.empty()) held.push_back(run.first);
      if (run.empty() || i % 3 == 0) {
        std::swap(held[i % held.size()], held.back());
        good[index] = good[index] && engine.free(held.back()).status == Status::ok;
        held.pop_back();
      }
    }
    for (const std::uint32_t start : held) {
      good[index] = good[index] && engine.free(start).status == Status::ok;
    }
  };
  std::thread other(work, 1);
  work(0);
  other.join();
  for (unsigned i = 0; i < 2; ++i) {
    CHECK(good[i]);
    CHECK(engines[i].validate(ranges[i]));
    CHECK(engines[i].free_units() == 4 * kRange);
  }
}

TEST_CASE("C9 a run freed between runs in use is found again", "[placement]") {
  for (const std::uint32_t length : {1u, 15u, 16u, 17u, 63u, 1000u}) {
    Field field(4096);
    REQUIRE(field.add(0, 3 * length) == Status::ok);
    for (std::uint32_t i = 0; i < 3; ++i) REQUIRE(same(field.engine.allocate(length), i * length, length));
    REQUIRE(same(field.engine.free(length), length, length));
    CHECK(field.valid());
    CHECK(same(field.engine.allocate(length), length, length));
    CHECK(field.engine.allocate(1).status == Status::exhausted);
  }
}

TEST_CASE("S11 a run that was withdrawn leaves what is known of the one before it", "[placement]") {
  Field field(200);
  REQUIRE(field.add(50, 100) == Status::ok);
  const std::uint32_t first = field.engine.allocate(20).first;
  REQUIRE(field.engine.withdraw(first).status == Status::ok);  // nobody was ever given it
  CHECK_FALSE(field.engine.was_freed(first));
  REQUIRE(field.engine.allocate_at(first, first + 10, 20).first == first + 10);
  REQUIRE(field.engine.free(first + 10).status == Status::ok);
  for (int i = 0; i < 2; ++i) {
    REQUIRE(field.engine.allocate_at(first, first + 10, 30).first == first + 10);
    CHECK_FALSE(field.engine.was_freed(first + 10));
    REQUIRE(field.engine.withdraw(first + 10).status == Status::ok);
    CHECK(field.engine.was_freed(first + 10));
    CHECK(field.engine.free(first + 10).status == Status::double_free);
  }
}

TEST_CASE("S11 double frees, inner units and foreign units are told apart", "[placement]") {
  Field field(200);
  REQUIRE(field.add(50, 100) == Status::ok);
  std::uint32_t first[4];
  for (std::uint32_t& start : first) start = field.engine.allocate(20).first;
  CHECK(field.engine.free(first[1] + 1).status == Status::out_of_range);
  CHECK(field.engine.free(first[1] + 19).status == Status::out_of_range);
  for (const std::uint32_t unit : {0u, 49u, 150u, 199u, 200u, 0x80000000u, kNoUnit}) {
    CHECK(field.engine.free(unit).status == Status::out_of_range);
    CHECK(field.engine.run_length(unit) == 0);
    CHECK_FALSE(field.engine.is_allocated_start(unit));
  }
  REQUIRE(field.engine.free(first[1]).status == Status::ok);
  CHECK(field.engine.free(first[1]).status == Status::double_free);
  REQUIRE(field.engine.free(first[2]).status == Status::ok);  // merges to the left: is no run start any more
  CHECK(field.engine.free(first[2]).status == Status::double_free);
  REQUIRE(field.engine.free(first[0]).status == Status::ok);  // absorbs both
  for (int i = 0; i < 3; ++i) CHECK(field.engine.free(first[i]).status == Status::double_free);
  CHECK(field.engine.free(first[3] + 20).status == Status::double_free);  // a free run starts there
  CHECK(field.engine.grow_in_place(first[0], 25).status == Status::double_free);
  CHECK(field.engine.shrink(first[3] + 1, 1).status == Status::out_of_range);
  CHECK(field.valid());
  CHECK(field.engine.free_units() == 80);

  const Run again = field.engine.allocate(60);
  REQUIRE(same(again, 50, 60));
  CHECK(field.engine.free(first[1]).status == Status::out_of_range);  // now inside a run in use
  CHECK(field.engine.free(50).status == Status::ok);
}

TEST_CASE("P13 lengths of zero and beyond the capacity are refused", "[placement]") {
  for (const TlsfPolicy policy : {TlsfPolicy::first, TlsfPolicy::best_fit}) {
    Field field(1000, policy);
    CHECK(field.engine.allocate(1).status == Status::exhausted);
    REQUIRE(field.add(0, 900) == Status::ok);
    CHECK(field.engine.allocate(0).status == Status::bad_argument);
    CHECK(field.engine.allocate(0, 16).status == Status::bad_argument);
    CHECK(field.engine.allocate(901).status == Status::exhausted);
    for (const std::uint32_t length : {1001u, 0x7fffffffu, 0x80000000u, 0x80000001u, 0xffffffffu}) {
      CHECK(field.engine.allocate(length).status == Status::too_large);
      CHECK(field.engine.allocate(length, 2).status == Status::too_large);
    }
    CHECK(field.is_initial());
  }
  Tlsf nothing;  // all-zero memory
  CHECK(nothing.allocate(1).status == Status::too_large);
  CHECK(nothing.free(0).status == Status::out_of_range);
  CHECK(nothing.validate({}));
}

TEST_CASE("P13 unit numbers up to 2^31 - 1 do not wrap", "[placement]") {
  // Tags for 2^31 units, committed only where a run starts or ends.
  constexpr std::uint32_t kUnits = glebe::placement::kTlsfUnitsMax;
  constexpr std::size_t kTableBytes = std::size_t{kUnits} * sizeof(Tag);
  constexpr std::size_t kEdgeBytes = 64 * glebe::kKiB;
  auto* table = static_cast<std::byte*>(glebe::os::reserve(kTableBytes, kEdgeBytes));
  REQUIRE(table != nullptr);
  for (const std::uint32_t unit : {0u, kUnits / 2, kUnits - kUnits / 2 / 2, kUnits - 1}) {
    std::byte* edge = table + glebe::align_down(std::size_t{unit} * sizeof(Tag), kEdgeBytes);
    if (edge != table) edge -= kEdgeBytes;
    REQUIRE(glebe::os::commit(edge, 2 * kEdgeBytes));
  }
  Tlsf engine;
  engine.attach(reinterpret_cast<Tag*>(table), kUnits);
  REQUIRE(engine.add_range(0, kUnits) == Status::ok);
  CHECK(engine.free_units() == kUnits);
  CHECK(engine.largest_free() == kUnits);
  CHECK(engine.allocate(kUnits + 1).status == Status::too_large);
  CHECK(same(engine.allocate(kUnits), 0, kUnits));
  CHECK(engine.allocate(1).status == Status::exhausted);
  CHECK(same(engine.free(0), 0, kUnits));
  CHECK(same(engine.allocate(kUnits / 2, kUnits / 2), 0, kUnits / 2));
  CHECK(same(engine.allocate(kUnits / 2, kUnits / 2), kUnits / 2, kUnits / 2));
  CHECK(engine.free(0).length == kUnits / 2);
  CHECK(same(engine.free(kUnits / 2), 0, kUnits));
  CHECK(same(engine.allocate(1, kUnits), 0, 1));
  CHECK(engine.allocate(1, kUnits).status == Status::exhausted);
  CHECK(same(engine.grow_in_place(0, kUnits), 0, kUnits));
  CHECK(same(engine.shrink(0, kUnits - 1), kUnits - 1, 1));
  CHECK(engine.next_run(0) == kUnits - 1);
  CHECK(engine.next_run(kUnits - 1) == kNoUnit);
  CHECK(same(engine.allocate(1), kUnits - 1, 1));
  CHECK(engine.free(kUnits - 1).first == kUnits - 1);
  CHECK(same(engine.free(0), 0, kUnits));
  CHECK(glebe::placement::unit_offset(kUnits - 1, 2 * glebe::kMiB) == (std::uint64_t{kUnits} - 1) << 21);
  CHECK(engine.remove_range(0, kUnits) == Status::ok);
  glebe::os::release(table, kTableBytes);
}
