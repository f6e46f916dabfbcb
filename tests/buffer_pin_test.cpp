// Pins of what is in memory: they take no lock, so what they rely on is tested under many threads: a pinned
// buffer stays where it is and what it is, whoever moves it out, resizes it or closes it meanwhile; every pin
// is counted; and the policy hears of every use in the order of one thread although it is told later.
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "tests/buffer_rig.h"
#include "tests/heap_calls.h"

#include "tests/catch.h"
#include "tests/random.h"

#include "tests/buffer_checks.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

// Buffers that come and go behind a table of handles. A buffer holds the same word everywhere; the word of
// the next one in its place is another.
struct Crowd {
  static constexpr unsigned kPlaces = 24, kPinners = 6;
  static constexpr std::size_t kLeast = 2 * kExtent, kMost = 5 * kExtent + 4096;

  BufferPager& pager;
  std::uint64_t seed;
  unsigned steps;
  std::atomic<BufferHandle> places[kPlaces] = {};
  std::atomic<std::uint64_t> wrong{0}, failed{0}, pins{0}, gone{0}, refused{0}, resized{0}, ended{0};
  std::atomic<bool> is_done{false};

  static std::uint64_t word_of(const std::byte* data, std::size_t offset) {
    return reinterpret_cast<const std::uint64_t*>(data + offset)[0];
  }

  void make(unsigned place, std::uint64_t word) {
    BufferHandle buffer = 0;
    if (pager.create(kLeast, {}, &buffer) != Result::ok) return static_cast<void>(failed.fetch_add(1));
    const PinnedRange pinned = pager.pin(buffer, {}, Access::write);
    if (pinned.result != Result::ok) return static_cast<void>(failed.fetch_add(1));
    pins.fetch_add(kLeast / kExtent);
    std::fill_n(reinterpret_cast<std::uint64_t*>(pinned.data), kLeast / 8, word);
    if (pager.unpin(buffer, {}, Access::write) != Result::ok) failed.fetch_add(1);
    const BufferHandle before = places[place].exchange(buffer);
    if (before == 0) return;
    if (pager.close_buffer(before) != Result::ok) failed.fetch_add(1);
    ended.fetch_add(1);
  }

  // While the pin lasts nothing may change: not the bytes, not the address.
  void pin(unsigned number) {
    Random random(seed + number);
    for (unsigned step = 0; step < steps; ++step) {
      const BufferHandle buffer = places[random.below(kPlaces)].load();
      const std::size_t first = random.below(2), count = 1 + random.below(2 - first);
      const ByteRange range{first * kExtent, count * kExtent};
      const PinnedRange pinned = pager.pin(buffer, range, Access::read);
      if (pinned.result == Result::bad_handle) {
        gone.fetch_add(1);
        continue;
      }
      if (pinned.result != Result::ok) {
        failed.fetch_add(1);
        continue;
      }
      pins.fetch_add(count);
      const std::uint64_t word = word_of(pinned.data, 0);
      for (unsigned look = 0; look < 4; ++look) {
        for (std::size_t at = 0; at < range.size_bytes; at += 4096 - 8) {
          if (word_of(pinned.data, at & ~std::size_t{7}) != word || word == 0) wrong.fetch_add(1);
        }
        if (random.one_in(8)) std::this_thread::yield();
      }
      if (pager.unpin(buffer, range, Access::read) != Result::ok) failed.fetch_add(1);
    }
  }
  void move() {
    Random random(seed + 100);
    constexpr Operation kMoves[] = {Operation::swap_to, Operation::evict, Operation::page_to};
    while (!is_done.load()) {
      const BufferHandle buffer = places[random.below(kPlaces)].load();
      const Operation operation = kMoves[random.below(3)];
      const Tier tier = operation == Operation::evict ? Tier::host : Tier::file;
      const Result result = pager.move(buffer, {}, operation, tier);
      if (result == Result::pinned) refused.fetch_add(1);
      if (result != Result::ok && result != Result::pinned && result != Result::bad_handle)
        failed.fetch_add(1);
      if (random.one_in(8)) pager.reclaim(4 * kExtent);
    }
  }
  void resize() {
    Random random(seed + 200);
    while (!is_done.load()) {
      const BufferHandle buffer = places[random.below(kPlaces)].load();
      const std::size_t size = kLeast + random.below((kMost - kLeast) / 4096) * 4096;
      const Result result = pager.resize(buffer, size);
      if (result == Result::ok) resized.fetch_add(1);
      const bool is_known = result == Result::ok || result == Result::pinned || result == Result::busy ||
                            result == Result::bad_handle || result == Result::over_budget;
      if (!is_known) failed.fetch_add(1);
    }
  }
  void replace() {
    Random random(seed + 300);
    while (!is_done.load()) {
      make(static_cast<unsigned>(random.below(kPlaces)), random.next() | 1);
      std::this_thread::yield();
    }
  }
};

void run_crowd(VictimKind victims) {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  BufferRig rig;
  BufferPagerOptions options = rig.options();
  options.victims = victims;
  options.host_bytes = 96 * kExtent;  // of 48 to 144 extents in use
  REQUIRE(rig.pager.open(options) == Result::ok);
  Crowd crowd{rig.pager, seed, kThreadSanitizer ? 400u : 3000u};
  for (unsigned place = 0; place < Crowd::kPlaces; ++place) crowd.make(place, seed | 1);
  std::vector<std::thread> pinners, others;
  for (unsigned i = 0; i < Crowd::kPinners; ++i) pinners.emplace_back([&crowd, i] { crowd.pin(i); });
  others.emplace_back([&crowd] { crowd.move(); });
  others.emplace_back([&crowd] { crowd.resize(); });
  others.emplace_back([&crowd] { crowd.replace(); });
  for (std::thread& thread : pinners) thread.join();
  crowd.is_done.store(true);
  for (std::thread& thread : others) thread.join();
  REQUIRE(crowd.wrong.load() == 0);
  REQUIRE(crowd.failed.load() == 0);
  REQUIRE(crowd.ended.load() != 0);
  REQUIRE(rig.pager.stats().pins >= crowd.pins.load());  // a resize pins, too
  require_balance(rig.pager);
  for (const auto& place : crowd.places) REQUIRE(rig.pager.close_buffer(place.load()) == Result::ok);
  REQUIRE(rig.pager.stats().buffers == 0);
  REQUIRE(rig.pager.host_budget().used_bytes() == 0);
  require_balance(rig.pager);
}

}  // namespace

TEST_CASE("B9 N6 mut-B13 what is pinned stays while others move, resize and close it", "[paging]") {
  run_crowd(VictimKind::s3_fifo);
}

TEST_CASE("B9 N6 the same with a policy in the order of use", "[paging]") { run_crowd(VictimKind::lru); }

TEST_CASE("N6 K1 pins of many threads are all counted", "[paging]") {
  BufferRig rig;
  REQUIRE(rig.pager.open(rig.options()) == Result::ok);
  const std::vector<BufferHandle> buffers = make_filled(rig.pager, 4);
  const std::uint64_t before = rig.pager.stats().pins;
  constexpr unsigned kThreads = 8, kPins = 20'000;
  std::atomic<unsigned> failed{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (unsigned step = 0; step < kPins; ++step) {
        const BufferHandle buffer = buffers[step % buffers.size()];
        if (rig.pager.pin(buffer, {}, Access::read).result != Result::ok) failed.fetch_add(1);
        if (rig.pager.unpin(buffer, {}, Access::read) != Result::ok) failed.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(failed.load() == 0);
  REQUIRE(rig.pager.stats().pins == before + std::uint64_t{kThreads} * kPins);
  // Nothing is pinned any more, and what is not pinned is not unpinned.
  for (const BufferHandle buffer : buffers) {
    REQUIRE(rig.pager.unpin(buffer, {}, Access::read) == Result::bad_argument);
    REQUIRE(rig.pager.unpin(buffer, {}, Access::write) == Result::bad_argument);
    REQUIRE(rig.pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
  }
}

TEST_CASE("G6 N6 uses that are noted without a lock reach lru in their order", "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  BufferRig rig;
  BufferPagerOptions options = rig.options();
  options.victims = VictimKind::lru;
  REQUIRE(rig.pager.open(options) == Result::ok);
  BufferPager& pager = rig.pager;
  constexpr std::size_t kCount = 64;
  const std::vector<BufferHandle> buffers = make_filled(pager, kCount);
  std::vector<std::size_t> order;  // of use, of what is resident, the longest ago first
  for (std::size_t i = 0; i < kCount; ++i) order.push_back(i);
  Expect expect;
  for (unsigned step = 0; step < 2000; ++step) {
    for (std::uint64_t uses = random.below(70); uses != 0; --uses) {  // a stripe of the log holds 30
      const std::size_t which = random.below(kCount);
      expect(holds(pager, buffers[which], kOne, which));
      const auto found = std::find(order.begin(), order.end(), which);
      if (found != order.end()) order.erase(found);
      order.push_back(which);
    }
    if (random.one_in(3)) continue;
    expect(pager.reclaim(kExtent) != 0);
    for (std::size_t left = order.size(); left != 0; --left) {  // what left is the front of the order
      if (is_resident(pager, buffers[order.front()])) break;
      order.erase(order.begin());
    }
    for (const std::size_t which : order) expect(is_resident(pager, buffers[which]));
  }
  REQUIRE(expect.failed_line() == 0);
  require_balance(pager);
}
