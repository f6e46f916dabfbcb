// The crawler of explicit buffers is told when a budget comes near: with an interval of days nobody waits for
// its timer, nothing is done below the marks, and it does not run in circles over what cannot leave.
#include <atomic>
#include <chrono>
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

constexpr unsigned kNever = 4'000'000'000;  // ms
constexpr std::size_t kRoom = 40;           // extents of the host

BufferPagerOptions small(BufferRig& rig, TriggerKind trigger) {
  BufferPagerOptions options = rig.options();
  options.host_bytes = kRoom * kExtent;
  options.trigger = trigger;
  return options;
}

// Time decides nothing but how long a failure takes.
template <typename Condition>
bool comes_true(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace

TEST_CASE("G8 0-11 the crawler is woken when use rises over a mark, and not before", "[paging]") {
  for (const TriggerKind trigger : {TriggerKind::pressure, TriggerKind::watermark, TriggerKind::hybrid}) {
    BufferRig rig;
    REQUIRE(rig.pager.open(small(rig, trigger)) == Result::ok);
    BufferPager& pager = rig.pager;
    REQUIRE(pager.start_crawler(kNever, 100) == Result::ok);
    std::vector<BufferHandle> buffers = make_filled(pager, 32);  // 80 %: the start, not above it
    REQUIRE(pager.stats().crawls == 0);
    // What is young leaves above low memory only, and a watermark begins there.
    const std::size_t more = trigger == TriggerKind::pressure ? 1 : 5;
    for (std::size_t i = 0; i < more; ++i) {
      buffers.push_back(make(pager, kExtent));
      REQUIRE(fill(pager, buffers.back(), kOne, buffers.size() - 1));
    }
    const std::uint64_t target = trigger == TriggerKind::hybrid ? 36 : 32;
    REQUIRE(comes_true([&] { return pager.host_budget().used_bytes() <= target * kExtent; }));
    REQUIRE(pager.stats().crawls != 0);
    pager.stop_crawler();
    require_contents(pager, buffers);
    require_balance(pager);
  }
}

TEST_CASE("G8 0-11 whoever fills a budget slowly never makes room alone", "[paging]") {
  BufferRig rig;
  REQUIRE(rig.pager.open(small(rig, TriggerKind::pressure)) == Result::ok);
  BufferPager& pager = rig.pager;
  REQUIRE(pager.start_crawler(kNever, 10) == Result::ok);
  std::vector<BufferHandle> buffers;
  for (std::size_t i = 0; i < 10 * kRoom; ++i) {
    buffers.push_back(make(pager, kExtent));
    REQUIRE(fill(pager, buffers.back(), kOne, i));
    // Each time the mark is passed the crawler is told again.
    REQUIRE(comes_true([&] { return pager.pressure(Tier::host) <= 800'000; }));
  }
  REQUIRE(pager.host_budget().refused() == 0);
  pager.stop_crawler();
  require_contents(pager, buffers);
  require_balance(pager);
}

TEST_CASE("G8 0-11 what cannot leave is crawled over once for each mark", "[paging]") {
  BufferRig rig;
  REQUIRE(rig.pager.open(small(rig, TriggerKind::pressure)) == Result::ok);
  BufferPager& pager = rig.pager;
  REQUIRE(pager.start_crawler(kNever, 100) == Result::ok);
  std::vector<BufferHandle> buffers;
  for (std::size_t i = 0; i < kRoom; ++i) {
    buffers.push_back(make(pager, kExtent));
    REQUIRE(pager.pin(buffers.back(), {}, Access::write).result == Result::ok);
  }
  REQUIRE(comes_true([&] { return pager.stats().crawls != 0; }));
  // Charges and discharges that pass no mark.
  for (unsigned i = 0; i < 1000; ++i) REQUIRE(pager.pin(buffers[0], {}, Access::read).result == Result::ok);
  pager.stop_crawler();
  // A mark that is passed during a crawl costs another one; the start is passed when the crawler starts.
  REQUIRE(pager.stats().crawls <= 2 * 3 + 1);
  REQUIRE(pager.host_budget().used_bytes() == kRoom * kExtent);
  for (unsigned i = 0; i < 1000; ++i) REQUIRE(pager.unpin(buffers[0], {}, Access::read) == Result::ok);
  for (const BufferHandle buffer : buffers) REQUIRE(pager.unpin(buffer, {}, Access::write) == Result::ok);
  // It is told of what was there before it started, and of a limit that is lowered.
  REQUIRE(pager.start_crawler(kNever, 100) == Result::ok);
  REQUIRE(comes_true([&] { return pager.pressure(Tier::host) <= 800'000; }));
  REQUIRE(pager.host_budget().set_limit(kRoom / 2 * kExtent) == BudgetResult::ok);
  pager.note_limit(Tier::host);
  REQUIRE(comes_true([&] { return pager.pressure(Tier::host) <= 800'000; }));
  pager.stop_crawler();
  require_balance(pager);
}

TEST_CASE("G5 G8 a watermark of the host says nothing about the device", "[paging]") {
  BufferRig rig;
  BufferPagerOptions options = small(rig, TriggerKind::watermark);
  options.device_bytes = 20 * kExtent;
  REQUIRE(rig.pager.open(options) == Result::ok);
  BufferPager& pager = rig.pager;
  const std::vector<BufferHandle> on_device =
      make_filled(pager, 14);  // 70 %: above the start, below low memory
  for (const BufferHandle buffer : on_device) {
    REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::device) == Result::ok);
  }
  const std::vector<BufferHandle> in_host = make_filled(pager, 38);  // 95 %
  REQUIRE(pager.crawl(100) != 0);
  REQUIRE(pager.host_budget().used_bytes() <= 32 * kExtent);
  REQUIRE(pager.device_budget().used_bytes() == 14 * kExtent);
  require_contents(pager, in_host);
  require_contents(pager, on_device);
}
