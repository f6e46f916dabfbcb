// Victim policies and triggers: the orders that policy.h promises, one against the other, and against models
// where the order is simple enough to be computed by sorting; the table of trigger.h at its thresholds.
#include <algorithm>
#include <memory>
#include <vector>

#include "src/paging/policy.h"
#include "src/paging/trigger.h"

#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe::paging;

namespace {

const Acceptor kAnything{[](void*, VictimItem*) noexcept { return true; }, nullptr};

// Items with births 0, 1, 2 ... that do not move.
std::unique_ptr<VictimItem[]> make_items(std::size_t count) {
  auto items = std::make_unique<VictimItem[]>(count);
  for (std::size_t i = 0; i < count; ++i) {
    items[i].birth = i;
    items[i].size_bytes = 4096;
  }
  return items;
}

// Births of what take() gives, in order, until it gives nothing.
template <typename Policy>
std::vector<std::uint64_t> take_all(Policy& policy, const Acceptor& acceptor = kAnything) {
  std::vector<std::uint64_t> births;
  while (VictimItem* item = policy.take(acceptor)) births.push_back(item->birth);
  return births;
}

using Births = std::vector<std::uint64_t>;

// Refuses the births in a set.
struct Refused {
  std::vector<std::uint64_t> births;
  unsigned asked = 0;
  Acceptor acceptor() {
    return {[](void* raw, VictimItem* item) noexcept {
              auto& own = *static_cast<Refused*>(raw);
              ++own.asked;
              return std::find(own.births.begin(), own.births.end(), item->birth) == own.births.end();
            },
            this};
  }
};

}  // namespace

TEST_CASE("G6 lru gives the item that was touched the longest ago, and is not oldest first (mut-A15)",
          "[paging]") {
  auto items = make_items(5);
  Lru lru;
  Oldest oldest;
  for (std::size_t i = 0; i < 5; ++i) lru.insert(&items[i]);
  for (const unsigned touched : {0u, 3u, 1u}) lru.touch(&items[touched]);
  REQUIRE(take_all(lru) == Births{2, 4, 0, 3, 1});
  for (const unsigned at : {4u, 2u, 0u, 3u, 1u}) oldest.insert(&items[at]);
  for (const unsigned touched : {0u, 3u, 1u}) oldest.touch(&items[touched]);
  REQUIRE(take_all(oldest) == Births{0, 1, 2, 3, 4});
}

TEST_CASE("G6 fifo gives the order of insertion, whatever is touched and whatever the births (mut-A15)",
          "[paging]") {
  auto items = make_items(6);
  Fifo fifo;
  const Births order{3, 0, 5, 1, 4, 2};
  for (const std::uint64_t at : order) fifo.insert(&items[at]);
  for (std::size_t i = 0; i < 6; ++i) fifo.touch(&items[5 - i]);
  REQUIRE(fifo.count() == 6);
  REQUIRE(take_all(fifo) == order);
  REQUIRE(fifo.count() == 0);
}

TEST_CASE("G6 largest gives the largest first, the older one first among equals", "[paging]") {
  auto items = make_items(6);
  const std::uint64_t sizes[] = {8192, 65536, 4096, 65536, 1 << 20, 8192};
  Largest largest;
  for (const std::size_t at : {5u, 3u, 0u, 2u, 4u, 1u}) {
    items[at].size_bytes = sizes[at];
    largest.insert(&items[at]);
  }
  REQUIRE(take_all(largest) == Births{4, 1, 3, 0, 5, 2});
}

TEST_CASE("G6 clock gives a touched item one more round", "[paging]") {
  auto items = make_items(5);
  Clock clock;
  for (std::size_t i = 0; i < 5; ++i) clock.insert(&items[i]);
  clock.touch(&items[0]);
  clock.touch(&items[2]);
  REQUIRE(take_all(clock) == Births{1, 3, 4, 0, 2});
}

TEST_CASE("G6 s3_fifo: what is used once leaves before what is used often, and a ghost comes back hot",
          "[paging]") {
  auto items = make_items(40);
  S3Fifo policy;
  for (std::size_t i = 0; i < 20; ++i) policy.insert(&items[i]);
  // Two touches make an item of the small queue hot; one does not.
  for (const unsigned hot : {0u, 1u, 2u, 3u}) {
    policy.touch(&items[hot]);
    policy.touch(&items[hot]);
  }
  policy.touch(&items[4]);
  for (std::uint64_t expected = 4; expected < 16; ++expected) {
    VictimItem* item = policy.take(kAnything);
    REQUIRE(item != nullptr);
    REQUIRE(item->birth == expected);
  }
  // A scan of new items passes by without driving out the hot ones.
  policy.insert(&items[15]);  // left last: a ghost, so it goes to the second queue
  REQUIRE(items[15].queue == VictimItem::kSecond);
  for (std::size_t i = 20; i < 40; ++i) policy.insert(&items[i]);
  for (unsigned i = 0; i < 18; ++i) {
    VictimItem* item = policy.take(kAnything);
    REQUIRE(item != nullptr);
    REQUIRE(item->birth > 15);
  }
  REQUIRE(policy.count() == 4 + 1 + 6);
}

TEST_CASE("G6 0-12 two_q: a scan passes through the first queue, what came back soon is in the order of use",
          "[paging]") {
  auto items = make_items(40);
  TwoQ policy;
  for (std::size_t i = 0; i < 8; ++i) policy.insert(&items[i]);
  policy.touch(&items[0]);  // in the first queue a touch does not matter
  for (std::uint64_t expected = 0; expected < 4; ++expected) {
    REQUIRE(policy.take(kAnything)->birth == expected);
  }
  // Ghosts: as many as half of what is queued, and one.
  for (const unsigned back : {0u, 2u, 3u}) policy.insert(&items[back]);
  REQUIRE(items[0].queue == VictimItem::kFirst);  // three left after it did: too long ago
  REQUIRE(items[2].queue == VictimItem::kSecond);
  REQUIRE(items[3].queue == VictimItem::kSecond);
  policy.touch(&items[2]);
  // A scan does not reach the second list as long as it fills more than a quarter.
  for (std::size_t i = 20; i < 32; ++i) policy.insert(&items[i]);
  Births left;
  while (policy.count() != 4) left.push_back(policy.take(kAnything)->birth);
  REQUIRE(left == Births{4, 5, 6, 7, 0, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29});
  REQUIRE(take_all(policy) == Births{30, 31, 3, 2});
}

TEMPLATE_TEST_CASE("G6 a refused item is passed over and nothing is lost", "[paging]", Lru, Clock, S3Fifo,
                   Fifo, Oldest, Largest, TwoQ) {
  auto items = make_items(100);
  TestType policy;
  for (std::size_t i = 0; i < 100; ++i) policy.insert(&items[i]);
  Refused refused;
  for (std::uint64_t birth = 0; birth < 100; birth += 3) refused.births.push_back(birth);
  Births taken = take_all(policy, refused.acceptor());
  std::sort(taken.begin(), taken.end());
  Births expected;
  for (std::uint64_t birth = 0; birth < 100; ++birth) {
    if (birth % 3 != 0) expected.push_back(birth);
  }
  REQUIRE(taken == expected);
  REQUIRE(policy.count() == refused.births.size());
  Births rest = take_all(policy);
  std::sort(rest.begin(), rest.end());
  REQUIRE(rest == refused.births);
}

TEMPLATE_TEST_CASE("G6 selection is O(k): ten victims of a million look at few items", "[paging]", Lru, Clock,
                   S3Fifo, Fifo, Oldest, Largest, TwoQ) {
  constexpr std::size_t kCount = 1'000'000;
  auto items = make_items(kCount);
  TestType policy;
  for (std::size_t i = 0; i < kCount; ++i) policy.insert(&items[i]);
  Refused none;
  for (unsigned i = 0; i < 10; ++i) REQUIRE(policy.take(none.acceptor()) != nullptr);
  REQUIRE(none.asked == 10);
}

TEMPLATE_TEST_CASE("G6 what was taken and put back comes in the same order again", "[paging]", Lru, Clock,
                   S3Fifo, Fifo, Oldest, Largest, TwoQ) {
  auto items = make_items(50);
  TestType policy;
  for (std::size_t i = 0; i < 50; ++i) {
    items[i].size_bytes = 4096 * (1 + i * 7 % 11);
    policy.insert(&items[i]);
  }
  std::vector<VictimItem*> first;
  for (unsigned i = 0; i < 20; ++i) first.push_back(policy.take(kAnything));
  for (auto at = first.rbegin(); at != first.rend(); ++at) policy.put_back(*at);
  REQUIRE(policy.count() == 50);
  for (VictimItem* expected : first) REQUIRE(policy.take(kAnything) == expected);
}

TEST_CASE("G6 random inserts, removals, touches and takes against sorted models", "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Expect expect;
  for (const VictimKind kind : {VictimKind::lru, VictimKind::fifo, VictimKind::oldest, VictimKind::largest}) {
    constexpr std::size_t kCount = 300;
    auto items = make_items(kCount);
    std::vector<std::uint64_t> stamp(kCount, 0);  // of the insertion, or of the last touch for lru
    Victims victims(kind);
    std::uint64_t now = 0;
    std::size_t queued = 0;
    const auto is_before = [&](const VictimItem& a, const VictimItem& b) {
      if (kind == VictimKind::oldest) return a.birth < b.birth;
      if (kind == VictimKind::largest && a.size_bytes != b.size_bytes) return a.size_bytes > b.size_bytes;
      if (kind == VictimKind::largest) return a.birth < b.birth;
      return stamp[a.birth] < stamp[b.birth];
    };
    for (unsigned step = 0; step < 60'000; ++step) {
      VictimItem& item = items[random.below(kCount)];
      if (random.one_in(6)) {
        VictimItem* best = nullptr;
        for (std::size_t i = 0; i < kCount; ++i) {
          if (items[i].is_queued() && (best == nullptr || is_before(items[i], *best))) best = &items[i];
        }
        expect(victims.take(kAnything) == best);
        queued -= best != nullptr ? 1 : 0;
      } else if (!item.is_queued()) {
        item.size_bytes = 4096 * (1 + random.below(20));
        victims.insert(&item);
        stamp[item.birth] = ++now;
        ++queued;
      } else if (random.one_in(4)) {
        victims.remove(&item);
        --queued;
      } else {
        victims.touch(&item);
        if (kind == VictimKind::lru) stamp[item.birth] = ++now;
      }
      expect(victims.count() == queued);
    }
  }
  REQUIRE(expect.failed_line() == 0);
}

TEST_CASE("G6 streaming items leave before all others, in the order they came", "[paging]") {
  for (unsigned kind = 0; kind < kVictimKinds; ++kind) {
    auto items = make_items(6);
    Victims victims(static_cast<VictimKind>(kind));
    items[3].is_streaming = items[5].is_streaming = true;
    for (const unsigned at : {0u, 5u, 1u, 3u, 2u, 4u}) victims.insert(&items[at]);
    victims.touch(&items[5]);
    REQUIRE(victims.take(kAnything) == &items[5]);
    REQUIRE(victims.take(kAnything) == &items[3]);
    REQUIRE(victims.count() == 4);
  }
}

// --- Triggers

namespace {

struct Row {
  TriggerKind kind;
  TriggerInput input;
  bool expected;
};

constexpr TriggerInput host(std::uint32_t age, std::uint32_t pressure, bool is_dynamic = false) {
  return {age, pressure, false, is_dynamic};
}
constexpr TriggerInput device(std::uint32_t age, std::uint32_t pressure) {
  return {age, pressure, true, false};
}

constexpr std::uint32_t kAge = 20, kHost = 800'000, kDevice = 500'000, kLow = 900'000, kSevere = 950'000;

constexpr Row kRows[] = {
    {TriggerKind::age, host(kAge, 0), false},
    {TriggerKind::age, host(kAge + 1, 0), true},
    {TriggerKind::age, host(kAge - 1, kFullPressure), false},
    {TriggerKind::age, host(kAge + 1, kSevere, true), false},
    {TriggerKind::age, host(kAge + 1, kSevere + 1, true), true},
    {TriggerKind::pressure, host(0, kHost), false},
    {TriggerKind::pressure, host(0, kHost + 1), true},
    {TriggerKind::pressure, host(1000, kHost - 1), false},
    {TriggerKind::pressure, device(0, kDevice), false},
    {TriggerKind::pressure, device(0, kDevice + 1), true},
    {TriggerKind::pressure, host(0, kDevice + 1), false},
    {TriggerKind::pressure, host(0, kSevere, true), false},
    {TriggerKind::pressure, host(0, kSevere + 1, true), true},
    {TriggerKind::conservative, host(2 * kAge, kSevere + 1), false},
    {TriggerKind::conservative, host(2 * kAge + 1, kSevere), false},
    {TriggerKind::conservative, host(2 * kAge + 1, kSevere + 1), true},
    {TriggerKind::conservative, host(2 * kAge + 1, kLow), false},
    {TriggerKind::hybrid, host(kAge + 1, kHost), false},
    {TriggerKind::hybrid, host(kAge, kHost + 1), false},
    {TriggerKind::hybrid, host(kAge + 1, kHost + 1), true},
    {TriggerKind::hybrid, host(0, kLow), false},
    {TriggerKind::hybrid, host(0, kLow + 1), true},
    {TriggerKind::hybrid, device(kAge + 1, kDevice + 1), true},
    {TriggerKind::hybrid, device(kAge + 1, kDevice), false},
    {TriggerKind::hybrid, host(0, kSevere, true), false},
    {TriggerKind::watermark, host(1000, kLow), false},
    {TriggerKind::watermark, host(0, kLow + 1), true},
};

}  // namespace

TEST_CASE("G5 triggers decide as tabulated at their thresholds and at the age limit", "[paging]") {
  const TriggerLimits limits;
  REQUIRE(limits.age_limit == kAge);
  for (const Row& row : kRows) {
    Trigger trigger(row.kind);
    INFO("trigger " << static_cast<unsigned>(row.kind) << " age " << row.input.age << " pressure "
                    << row.input.pressure << " dynamic " << row.input.is_dynamic);
    REQUIRE(trigger.wants(limits, row.input) == row.expected);
    // Whatever is wanted is wanted while the trigger is active: a crawl ends on is_active().
    if (row.expected) REQUIRE(Trigger(row.kind).is_active(limits, row.input));
  }
}

TEST_CASE("G5 a watermark goes on until the start of the tier is reached, and does not start there",
          "[paging]") {
  const TriggerLimits limits;
  Trigger trigger(TriggerKind::watermark);
  REQUIRE_FALSE(trigger.wants(limits, host(0, kHost + 1)));
  REQUIRE(trigger.wants(limits, host(0, kLow + 1)));
  REQUIRE(trigger.wants(limits, host(0, kHost + 1)));
  REQUIRE_FALSE(trigger.wants(limits, host(0, kHost)));
  REQUIRE_FALSE(trigger.wants(limits, host(0, kHost + 1)));
}

TEST_CASE("G10 pressure is use over limit in millionths, at all sizes", "[paging]") {
  REQUIRE(pressure_of(0, 100) == 0);
  REQUIRE(pressure_of(80, 100) == 800'000);
  REQUIRE(pressure_of(100, 100) == kFullPressure);
  REQUIRE(pressure_of(300, 100) == 2 * kFullPressure);
  REQUIRE(pressure_of(50, 0) == 0);
  REQUIRE(pressure_of(50, UINT64_MAX) == 0);
  REQUIRE(pressure_of(UINT64_MAX / 4, UINT64_MAX / 2) <= 500'000);
  REQUIRE(pressure_of(UINT64_MAX / 4, UINT64_MAX / 2) >= 499'990);
}
