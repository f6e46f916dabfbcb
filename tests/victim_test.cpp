// The orders in which the transparent pager takes pages, and the account of what it saves.
#include "src/paging/victim.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "src/paging/saved.h"

#include "tests/catch.h"

using namespace glebe::paging;

namespace {

constexpr std::uint64_t kGroups = 800;
constexpr unsigned kGroupPages = 16;
using Return = VictimOrder::Return;

// Sizes as block_bytes() of the pager tells them: slabs, medium blocks, slots of two lengths.
std::size_t size_of(std::uint64_t group) {
  constexpr std::size_t kSizes[] = {
      48, 4096, 32'768, std::size_t{1} << 20, std::size_t{1} << 26, std::size_t{1} << 30};
  return kSizes[group * 7 % std::size(kSizes)];
}

// Groups that are present, and the clock hand that goes round them.
struct Heap {
  std::unique_ptr<VictimOrder> order = std::make_unique<VictimOrder>();
  std::vector<bool> is_present = std::vector<bool>(kGroups, true);

  explicit Heap(VictimKind kind) { REQUIRE(order->open(kind, {kGroups, kGroupPages}, size_of)); }

  // One turn; what went, in the order in which it went.
  std::vector<std::uint64_t> turn() {
    std::vector<std::uint64_t> gone;
    for (std::uint64_t group = 0; group < kGroups; ++group) {
      if (!is_present[group] || !order->may_go(group)) continue;
      is_present[group] = false;
      gone.push_back(group);
    }
    order->end_turn();
    return gone;
  }
  void come_back(std::uint64_t group) {
    is_present[group] = true;
    order->note_use(group, Return::stored);
  }
  [[nodiscard]] std::size_t present() const {
    return static_cast<std::size_t>(std::count(is_present.begin(), is_present.end(), true));
  }
};

// Whether every group that went ranks at least as high as every group that stayed.
template <class Value>
bool went_by_rank(const Heap& heap, const std::vector<std::uint64_t>& gone, Value value_of) {
  unsigned lowest_gone = VictimOrder::kRanks, highest_left = 0;
  for (const std::uint64_t group : gone)
    lowest_gone = std::min(lowest_gone, VictimOrder::rank_of(value_of(group)));
  for (std::uint64_t group = 0; group < kGroups; ++group) {
    if (heap.is_present[group]) highest_left = std::max(highest_left, VictimOrder::rank_of(value_of(group)));
  }
  return !gone.empty() && lowest_gone > highest_left;
}

}  // namespace

TEST_CASE("Ranks follow the numbers, four to a doubling", "[paging]") {
  unsigned last = 0;
  for (std::uint64_t value = 0; value <= UINT32_MAX; value += value / 64 + 1) {
    const unsigned rank = VictimOrder::rank_of(static_cast<std::uint32_t>(value));
    REQUIRE(rank >= last);
    REQUIRE(rank <= last + 1);
    last = rank;
  }
  REQUIRE(VictimOrder::rank_of(UINT32_MAX) < VictimOrder::kRanks);
  REQUIRE(VictimOrder::rank_of(1024) == VictimOrder::rank_of(512) + 4);
}

TEST_CASE("clock and fifo take every group; only clock gives pages chances", "[paging]") {
  for (const VictimKind kind : {VictimKind::clock, VictimKind::fifo}) {
    Heap heap(kind);
    for (std::uint64_t group = 0; group < kGroups; ++group) heap.order->note_use(group, Return::staged);
    REQUIRE(heap.turn().size() == kGroups);
  }
  const Heap clock(VictimKind::clock), fifo(VictimKind::fifo);
  REQUIRE(clock.order->chances(7, Return::staged) == 3);
  REQUIRE(clock.order->chances(7, Return::stored) == 0);  // when it went is not known
  REQUIRE(fifo.order->chances(7, Return::staged) == 0);
  REQUIRE(fifo.order->chances(7, Return::stored) == 0);
}

TEST_CASE("clock: a page that comes back soon after it went is passed over, one that comes late is not",
          "[paging]") {
  constexpr std::uint64_t kResident = 400, kSoon = 3 * kResident / 8, kLate = 3 * kResident / 4;
  Heap heap(VictimKind::clock);
  heap.order->set_resident(kResident);
  std::uint64_t next = 0;
  for (int round = 0; round < 1000; ++round) {  // the epochs go round several times
    const std::uint64_t page = next++ % (kGroups * kGroupPages);
    heap.order->note_gone(page);
    for (std::uint64_t i = 0; i < kSoon; ++i) heap.order->note_gone(next++ % (kGroups * kGroupPages));
    REQUIRE(heap.order->chances(page, Return::stored) == 3);
    for (std::uint64_t i = kSoon; i < kLate; ++i) heap.order->note_gone(next++ % (kGroups * kGroupPages));
    REQUIRE(heap.order->chances(page, Return::stored) == 0);
  }
}

TEST_CASE("s3fifo: a group earns a chance each time it comes back, three at most", "[paging]") {
  Heap heap(VictimKind::s3_fifo);
  heap.order->note_use(5, Return::fresh);  // of no weight: new memory passes the staging area first
  REQUIRE(heap.turn().size() == kGroups);  // nothing has a chance at first
  for (unsigned times : {1u, 2u, 3u, 9u}) {
    const std::uint64_t group = 100 + times;
    for (unsigned i = 0; i < times; ++i) heap.come_back(group);
    for (unsigned i = 0; i < std::min(times, 3u); ++i) {
      INFO(times << " times, turn " << i);
      REQUIRE(heap.turn().empty());
    }
    REQUIRE(heap.turn() == std::vector<std::uint64_t>{group});
  }
}

TEST_CASE("lru: the groups that came back longest ago go first", "[paging]") {
  Heap heap(VictimKind::lru);
  constexpr std::uint32_t kNow = 100'000;
  heap.order->set_time(1);
  REQUIRE(heap.turn().empty());  // counts first
  const auto last_use = [](std::uint64_t group) {
    return static_cast<std::uint32_t>(2 + group * 7919 % 90'000);
  };
  for (std::uint64_t group = 0; group < kGroups; ++group) {
    heap.order->set_time(last_use(group));
    heap.order->note_use(group, Return::staged);
  }
  heap.order->set_time(kNow);
  static_cast<void>(heap.turn());  // by the counts from before the uses
  for (std::uint64_t group = 0; group < kGroups; ++group) heap.is_present[group] = true;
  while (heap.turn().empty()) {
  }
  for (int turn = 0; turn < 3; ++turn) {
    const auto gone = heap.turn();
    REQUIRE(went_by_rank(heap, gone, [&](std::uint64_t group) { return kNow - last_use(group); }));
  }
  // One that comes back, or gets a fresh page, is the youngest and outlives the rest.
  const auto gone = std::find(heap.is_present.begin(), heap.is_present.end(), false);
  REQUIRE(gone != heap.is_present.end());
  const auto back = static_cast<std::uint64_t>(gone - heap.is_present.begin());
  heap.come_back(back);
  while (heap.present() > 1) static_cast<void>(heap.turn());
  REQUIRE(heap.is_present[back]);
}

TEST_CASE("oldest: groups that were seen first go first, however often they come back", "[paging]") {
  Heap heap(VictimKind::oldest);
  std::fill(heap.is_present.begin(), heap.is_present.end(), false);
  const auto seen_at = [](std::uint64_t group) { return static_cast<std::uint32_t>(1 + group / 100 * 1000); };
  // Eight generations; the hand passes each as it appears.
  for (std::uint64_t group = 0; group < kGroups; ++group) {
    heap.order->set_time(seen_at(group));
    REQUIRE_FALSE(heap.order->may_go(group));
    heap.is_present[group] = true;
    heap.order->set_time(9000);
    heap.order->note_use(group, Return::staged);  // does not matter
  }
  REQUIRE(heap.turn().empty());  // counts
  const auto gone = heap.turn();
  REQUIRE(went_by_rank(heap, gone, [&](std::uint64_t group) { return 9000 - seen_at(group); }));
  REQUIRE(std::find(gone.begin(), gone.end(), 0u) != gone.end());
  heap.come_back(0);
  REQUIRE_FALSE(heap.turn().empty());
  REQUIRE_FALSE(heap.is_present[0]);  // as old as it was
}

TEST_CASE("largest: groups of large blocks go first, slabs of small ones last", "[paging]") {
  Heap heap(VictimKind::largest);
  std::size_t last = SIZE_MAX;
  REQUIRE(heap.turn().empty());
  while (heap.present() != 0) {
    const auto gone = heap.turn();
    if (gone.empty()) continue;
    REQUIRE(went_by_rank(heap, gone,
                         [](std::uint64_t group) { return static_cast<std::uint32_t>(size_of(group)); }));
    std::size_t largest = 0;
    for (const std::uint64_t group : gone) largest = std::max(largest, size_of(group));
    REQUIRE(largest <= last);
    last = largest;
  }
  REQUIRE(last == 48);
}

TEST_CASE("Every order takes everything in a bounded number of turns", "[paging]") {
  for (unsigned kind = 0; kind <= static_cast<unsigned>(VictimKind::largest); ++kind) {
    Heap heap(static_cast<VictimKind>(kind));
    INFO(kind);
    // New groups appear while others go, as in a program that allocates.
    unsigned turns = 0;
    for (std::uint32_t tick = 1; heap.present() != 0; ++tick, ++turns) {
      heap.order->set_time(tick);
      static_cast<void>(heap.turn());
      if (tick < 20) heap.is_present[tick * 31] = true;
      REQUIRE(turns < 200);
    }
  }
}

TEST_CASE("What was saved is known at its peak and on average over time", "[paging]") {
  SavedBytes saved;
  REQUIRE(saved.peak() == 0);
  REQUIRE(saved.average() == 0);
  saved.note(1000, 0);
  saved.note(2000, 800);  // nothing for a second
  saved.note(2500, 400);  // 800 for half a second
  saved.note(4000, 0);    // 400 for one and a half
  REQUIRE(saved.peak() == 800);
  REQUIRE(saved.average() == (800 * 500 + 400 * 1500) / 3000);
  saved.note(4000, 900);
  saved.note(4000, 0);  // within one tick of the clock
  REQUIRE(saved.peak() == 900);
  REQUIRE(saved.average() == (800 * 500 + 400 * 1500) / 3000);
  saved.reset();
  saved.note(9000, 7);
  REQUIRE(saved.peak() == 7);
  REQUIRE(saved.average() == 0);
}
