// The budget ledger: exact counts, what is refused and how it is said, and 16 threads at the limit.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "src/base/bits.h"
#include "src/paging/budget.h"

#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

std::string text_of_error(const BudgetError& error) {
  char buffer[512];
  Text text(buffer);
  error.describe(text);
  return std::string(text.view());
}

BudgetTag tag_of(Budget& budget, const char* name) {
  BudgetTag tag = 0;
  REQUIRE(budget.tag(name, &tag) == BudgetResult::ok);
  return tag;
}

}  // namespace

TEST_CASE("K2 a budget is enforced by default and the error names everything", "[paging]") {
  Budget budget;
  REQUIRE(budget.open("textures", 100 * kMiB, BudgetAction::enforce, {}) == BudgetResult::ok);
  const BudgetTag meshes = tag_of(budget, "meshes"), maps = tag_of(budget, "maps");
  REQUIRE(budget.charge(meshes, 70 * kMiB, nullptr) == BudgetResult::ok);
  REQUIRE(budget.charge(maps, 20 * kMiB, nullptr) == BudgetResult::ok);
  BudgetError error;
  REQUIRE(budget.charge(maps, 20 * kMiB, &error) == BudgetResult::exceeded);
  REQUIRE(error.requested_bytes == 20 * kMiB);
  REQUIRE(error.used_bytes == 90 * kMiB);
  REQUIRE(error.limit_bytes == 100 * kMiB);
  REQUIRE(error.top_count == 2);
  REQUIRE(std::string(error.top[0].name) == "meshes");
  REQUIRE(error.top[1].bytes == 20 * kMiB);
  REQUIRE(
      text_of_error(error) ==
      "budget 'textures': 20.0 MiB requested, 90.0 MiB of 100.0 MiB in use; most by meshes 70.0 MiB, maps "
      "20.0 MiB: raise the limit, or unpin or free something");
  REQUIRE(budget.used_bytes() == 90 * kMiB);
  REQUIRE(budget.refused() == 1);
  // Exactly to the limit is allowed.
  REQUIRE(budget.charge(maps, 10 * kMiB, nullptr) == BudgetResult::ok);
  REQUIRE(budget.charge(maps, 1, nullptr) == BudgetResult::exceeded);
}

TEST_CASE("G10 mut-A12 giving back more than was taken is refused, counted and never clamped", "[paging]") {
  Budget budget;
  REQUIRE(budget.open("host", 1000, BudgetAction::enforce, {}) == BudgetResult::ok);
  const BudgetTag tag = tag_of(budget, "a");
  REQUIRE(budget.charge(tag, 300, nullptr) == BudgetResult::ok);
  REQUIRE(budget.charge(0, 300, nullptr) == BudgetResult::ok);
  REQUIRE(budget.discharge(tag, 301) == BudgetResult::over_release);
  REQUIRE(budget.used_bytes() == 600);
  REQUIRE(budget.tag_bytes(tag) == 300);
  REQUIRE(budget.over_releases() == 1);
  REQUIRE(budget.discharge(tag, 300) == BudgetResult::ok);
  REQUIRE(budget.discharge(tag, 1) == BudgetResult::over_release);
  REQUIRE(budget.discharge(0, 300) == BudgetResult::ok);
  REQUIRE(budget.used_bytes() == 0);
  REQUIRE(budget.peak_bytes() == 600);
}

TEST_CASE("K2 values are validated and nothing changes when they are wrong", "[paging]") {
  Budget budget;
  REQUIRE(budget.open("x", 0, BudgetAction::enforce, {}) == BudgetResult::bad_argument);
  REQUIRE(budget.open("x", 10, BudgetAction::reclaim, {}) == BudgetResult::bad_argument);
  REQUIRE(budget.open("x", 10, static_cast<BudgetAction>(9), {}) == BudgetResult::bad_argument);
  REQUIRE(budget.open("", 10, BudgetAction::enforce, {}) == BudgetResult::bad_argument);
  REQUIRE(budget.open("x", 10, BudgetAction::enforce, {}) == BudgetResult::ok);
  REQUIRE(budget.set_limit(0) == BudgetResult::bad_argument);
  REQUIRE(budget.limit_bytes() == 10);
  REQUIRE(budget.set_action(BudgetAction::reclaim) == BudgetResult::bad_argument);
  REQUIRE(budget.action() == BudgetAction::enforce);
  REQUIRE(budget.charge(7, 1, nullptr) == BudgetResult::unknown_tag);
  REQUIRE(budget.discharge(7, 1) == BudgetResult::unknown_tag);
  BudgetTag tag = 0;
  REQUIRE(budget.tag("", &tag) == BudgetResult::bad_argument);
  REQUIRE(budget.tag(std::string(kBudgetNameMax + 1, 'n'), &tag) == BudgetResult::bad_argument);
  REQUIRE(budget.charge(0, ~std::uint64_t{0}, nullptr) == BudgetResult::exceeded);
  REQUIRE(budget.set_action(BudgetAction::warn) == BudgetResult::ok);
  REQUIRE(budget.charge(0, ~std::uint64_t{0}, nullptr) == BudgetResult::exceeded);
  REQUIRE(budget.used_bytes() == 0);
}

TEST_CASE("K2 tags have one number per name, and a table that ends", "[paging]") {
  Budget budget;
  REQUIRE(tag_of(budget, "one") == tag_of(budget, "one"));
  REQUIRE(tag_of(budget, "other") == 0);
  BudgetTag tag = 0;
  for (unsigned i = 2; i < kBudgetTagsMax; ++i) REQUIRE(tag_of(budget, std::to_string(i).c_str()) == i);
  REQUIRE(budget.tag("one more", &tag) == BudgetResult::too_many_tags);
  REQUIRE(budget.tag("63", &tag) == BudgetResult::ok);
}

TEST_CASE("K2 warn counts what exceeds and tells, and the limit changes at run time", "[paging]") {
  struct Seen {
    unsigned calls = 0;
    std::uint64_t requested = 0;
  } seen;
  BudgetCallbacks callbacks;
  callbacks.context = &seen;
  callbacks.warn = [](void* context, const BudgetError& error) {
    ++static_cast<Seen*>(context)->calls;
    static_cast<Seen*>(context)->requested = error.requested_bytes;
  };
  Budget budget;
  REQUIRE(budget.open("warned", 100, BudgetAction::warn, callbacks) == BudgetResult::ok);
  REQUIRE(budget.charge(0, 100, nullptr) == BudgetResult::ok);
  REQUIRE(seen.calls == 0);
  REQUIRE(budget.charge(0, 50, nullptr) == BudgetResult::ok);
  REQUIRE(seen.calls == 1);
  REQUIRE(seen.requested == 50);
  REQUIRE(budget.used_bytes() == 150);
  REQUIRE(budget.warnings() == 1);
  REQUIRE(budget.set_limit(200) == BudgetResult::ok);
  REQUIRE(budget.charge(0, 50, nullptr) == BudgetResult::ok);
  REQUIRE(seen.calls == 1);
  // Below what is in use: everything stays, nothing more comes in, until enough has gone.
  REQUIRE(budget.set_action(BudgetAction::enforce) == BudgetResult::ok);
  REQUIRE(budget.set_limit(100) == BudgetResult::ok);
  REQUIRE(budget.charge(0, 1, nullptr) == BudgetResult::exceeded);
  REQUIRE(budget.discharge(0, 150) == BudgetResult::ok);
  REQUIRE(budget.charge(0, 50, nullptr) == BudgetResult::ok);
}

TEST_CASE("K2 reclaim is asked for what is missing, tried again, and given up", "[paging]") {
  struct Cache {
    Budget* budget = nullptr;
    BudgetTag tag = 0;
    std::uint64_t held = 0, asked = 0;
    unsigned calls = 0;
  } cache;
  BudgetCallbacks callbacks;
  callbacks.context = &cache;
  callbacks.reclaim = [](void* context, std::uint64_t needed) {
    Cache& own = *static_cast<Cache*>(context);
    ++own.calls;
    own.asked = needed;
    const std::uint64_t step = own.held < 30 ? own.held : 30;
    if (step == 0) return false;
    own.held -= step;
    return own.budget->discharge(own.tag, step) == BudgetResult::ok;
  };
  Budget budget;
  REQUIRE(budget.open("cached", 100, BudgetAction::reclaim, callbacks) == BudgetResult::ok);
  cache.budget = &budget;
  cache.tag = tag_of(budget, "cache");
  cache.held = 90;
  REQUIRE(budget.charge(cache.tag, 90, nullptr) == BudgetResult::ok);
  REQUIRE(budget.charge(0, 60, nullptr) == BudgetResult::ok);  // two steps of 30
  REQUIRE(cache.calls == 2);
  REQUIRE(budget.used_bytes() == 90);
  REQUIRE(budget.charge(0, 41, nullptr) == BudgetResult::exceeded);
  REQUIRE(cache.held == 0);
  REQUIRE(cache.asked == 1);
  REQUIRE(budget.used_bytes() == 60);
  REQUIRE(budget.charge(0, 40, nullptr) == BudgetResult::ok);
  // Nothing that is asked to go makes room for more than the limit: nobody is asked.
  const unsigned calls = cache.calls;
  REQUIRE(budget.charge(0, 101, nullptr) == BudgetResult::exceeded);
  REQUIRE(cache.calls == calls);
}

// Tags with one byte each until the end: a report made after everybody else has let go still names a
// consumer.
static std::vector<BudgetTag> tags_with_a_byte(Budget& budget, unsigned count) {
  std::vector<BudgetTag> tags;
  for (unsigned i = 0; i < count; ++i) {
    tags.push_back(tag_of(budget, std::string("t").append(std::to_string(i)).c_str()));
    REQUIRE(budget.charge(tags.back(), 1, nullptr) == BudgetResult::ok);
  }
  return tags;
}

TEST_CASE("N16 K2 16 threads at the limit: no sample is above it, and the sum is exact", "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  constexpr unsigned kThreads = 16;
  constexpr std::uint64_t kLimit = 512 * kMiB;
  Budget budget;
  REQUIRE(budget.open("host-visible", kLimit, BudgetAction::enforce, {}) == BudgetResult::ok);
  const std::vector<BudgetTag> tags = tags_with_a_byte(budget, kThreads);
  std::atomic<bool> is_done{false};
  std::atomic<std::uint64_t> above{0}, wrong{0}, refused{0}, samples{0};
  std::thread watcher([&] {
    while (!is_done.load()) {
      if (budget.used_bytes() > kLimit) above.fetch_add(1);
      samples.fetch_add(1);
    }
  });
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      Random random(seed + i);
      std::vector<std::uint64_t> mine;
      for (unsigned step = 0; step < 30'000; ++step) {
        if (mine.empty() || random.below(100) < 55) {
          const std::uint64_t size = 1 + random.below(4 * kMiB);
          BudgetError error;
          if (budget.charge(tags[i], size, &error) == BudgetResult::ok) {
            mine.push_back(size);
          } else {
            refused.fetch_add(1);
            if (error.top_count == 0 || error.limit_bytes != kLimit) wrong.fetch_add(1);
            const std::size_t half = mine.size() / 2;
            while (mine.size() > half) {
              if (budget.discharge(tags[i], mine.back()) != BudgetResult::ok) wrong.fetch_add(1);
              mine.pop_back();
            }
          }
        } else {
          if (budget.discharge(tags[i], mine.back()) != BudgetResult::ok) wrong.fetch_add(1);
          mine.pop_back();
        }
        if (budget.used_bytes() > kLimit) above.fetch_add(1);
      }
      for (const std::uint64_t size : mine) {
        if (budget.discharge(tags[i], size) != BudgetResult::ok) wrong.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const BudgetTag tag : tags) REQUIRE(budget.discharge(tag, 1) == BudgetResult::ok);
  is_done.store(true);
  watcher.join();
  REQUIRE(above.load() == 0);
  REQUIRE(wrong.load() == 0);
  REQUIRE((samples.load() > 0 && refused.load() == budget.refused()));
  REQUIRE(refused.load() > 0);
  REQUIRE(budget.used_bytes() == 0);
  REQUIRE(budget.peak_bytes() <= kLimit);
  for (const BudgetTag tag : tags) REQUIRE(budget.tag_bytes(tag) == 0);
}
