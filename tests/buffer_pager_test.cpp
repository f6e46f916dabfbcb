// The pager of explicit buffers as a whole: names, budgets and victims, crawling, sums.
#include <cstring>
#include <string>
#include <vector>

#include "platform/process.h"
#include "tests/buffer_rig.h"
#include "tests/heap_calls.h"

#include "tests/catch.h"
#include "tests/random.h"

#include "tests/buffer_checks.h"

using namespace glebe;
using namespace glebe::paging;

TEST_CASE("G18 three times the budget: everything readable, never above the budget", "[paging]") {
  BufferRig rig;
  BufferPagerOptions options = rig.options();
  options.host_bytes = 4 * kMiB;
  for (unsigned kind = 0; kind < kVictimKinds; ++kind) {
    BufferPager pager;
    options.victims = static_cast<VictimKind>(kind);
    REQUIRE(pager.open(options) == Result::ok);
    const std::vector<BufferHandle> buffers = make_filled(pager, 3 * 64);
    REQUIRE(pager.stats().evictions >= 2 * 64);
    require_contents(pager, buffers);
    require_contents(pager, buffers);
    REQUIRE(pager.host_budget().peak_bytes() <= 4 * kMiB);
    REQUIRE(pager.host_budget().over_releases() == 0);
    require_balance(pager);
  }
}

TEST_CASE("G18 resident memory of the process stays within the budget and a constant", "[paging]") {
  OpenRig rig([](BufferPagerOptions& options) {
    options.host_bytes = 32 * kMiB;
    options.compressed_bytes = 0;
  });
  const std::size_t before = os::process_memory().resident;
  const BufferHandle buffer = make(rig.pager, 192 * kMiB);
  std::size_t most = 0;
  for (std::size_t at = 0; at < 192 * kMiB; at += kExtent) {
    REQUIRE(fill(rig.pager, buffer, {at, kExtent}, at));
    const std::size_t now = os::process_memory().resident;
    if (now > most) most = now;
  }
  for (std::size_t at = 0; at < 192 * kMiB; at += kExtent)
    REQUIRE(holds(rig.pager, buffer, {at, kExtent}, at));
  if (!kThreadSanitizer) REQUIRE(most - before <= (32 + 16) * kMiB);
}

TEST_CASE("K2 what is pinned cannot leave: the budget refuses, and the error names the consumers",
          "[paging]") {
  OpenRig rig([](BufferPagerOptions& options) { options.host_bytes = 4 * kExtent; });
  BufferPager& pager = rig.pager;
  BufferOptions mesh;
  REQUIRE(pager.host_budget().tag("meshes", &mesh.tag) == BudgetResult::ok);
  const BufferHandle big = make(pager, 3 * kExtent, mesh);
  const BufferHandle small = make(pager, 2 * kExtent);
  REQUIRE(pager.pin(big, {}, Access::write).result == Result::ok);
  REQUIRE(pager.pin(small, {}, Access::write).result == Result::over_budget);
  REQUIRE(info_of(pager, small).pinned_bytes == 0);
  BudgetError error;
  pager.host_budget().report(kExtent, &error);
  REQUIRE(std::string(error.top[0].name) == "meshes");
  REQUIRE(error.top[0].bytes == 3 * kExtent);
  REQUIRE(pager.host_budget().refused() == 1);
  REQUIRE(pager.unpin(big, {}, Access::write) == Result::ok);
  REQUIRE(pager.pin(small, {}, Access::write).result == Result::ok);
  REQUIRE(pager.unpin(small, {}, Access::write) == Result::ok);
  // More than the whole budget at once never fits.
  const BufferHandle huge = make(pager, 5 * kExtent);
  REQUIRE(pager.pin(huge, {}, Access::read).result == Result::over_budget);
  REQUIRE(pager.host_budget().set_limit(5 * kExtent) == BudgetResult::ok);
  REQUIRE(pager.pin(huge, {}, Access::read).result == Result::ok);
  REQUIRE(pager.unpin(huge, {}, Access::read) == Result::ok);
  require_balance(pager);
}

TEST_CASE("the device tier has a budget of its own, and its victims go elsewhere", "[paging]") {
  OpenRig rig([](BufferPagerOptions& options) { options.device_bytes = 4 * kExtent; });
  const std::vector<BufferHandle> buffers = make_filled(rig.pager, 12);
  for (const BufferHandle buffer : buffers) {
    REQUIRE(rig.pager.move(buffer, {}, Operation::swap_to, Tier::device) == Result::ok);
  }
  REQUIRE(rig.pager.device_budget().peak_bytes() == 4 * kExtent);
  REQUIRE(rig.device.used_bytes() == 4 * kExtent);
  require_balance(rig.pager);
  require_contents(rig.pager, buffers);
}

TEST_CASE("with host and device full and no store a swap is refused at once, and nothing is lost",
          "[paging]") {
  OpenRig rig([](BufferPagerOptions& options) {
    options.compressed_bytes = 0;
    options.directory = nullptr;
    options.host_bytes = 4 * kExtent;
    options.device_bytes = 4 * kExtent;
  });
  BufferPager& pager = rig.pager;
  std::vector<BufferHandle> buffers = make_filled(pager, 4);
  for (const BufferHandle buffer : buffers) {
    REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::device) == Result::ok);
  }
  for (std::size_t i = 4; i < 8; ++i) {
    buffers.push_back(make(pager, kExtent));
    REQUIRE(fill(pager, buffers.back(), kOne, i));
  }
  // There is room for a ninth nowhere; exchanging two would need it for a moment.
  REQUIRE(pager.move(buffers[4], {}, Operation::swap_to, Tier::device) == Result::over_budget);
  REQUIRE(pager.pin(buffers[0], kOne, Access::read).result == Result::over_budget);
  REQUIRE(pager.close_buffer(buffers[7]) == Result::ok);
  buffers.pop_back();
  require_contents(pager, {buffers[0]});
  require_balance(pager);
}

TEST_CASE("a full disk keeps everything in memory and says so", "[paging]") {
  OpenRig rig([](BufferPagerOptions& options) {
    options.compressed_bytes = 0;
    options.file_bytes = 4 * kExtent;
    options.host_bytes = 8 * kExtent;
  });
  BufferPager& pager = rig.pager;
  const std::vector<BufferHandle> buffers = make_filled(pager, 8);
  REQUIRE(pager.reclaim(8 * kExtent) == 4 * kExtent);
  REQUIRE(pager.file_budget().used_bytes() == 4 * kExtent);
  const BufferHandle more = make(pager, 5 * kExtent);
  REQUIRE(pager.pin(more, {}, Access::write).result == Result::over_budget);
  REQUIRE(pager.close_buffer(more) == Result::ok);
  require_contents(pager, buffers);
  REQUIRE(pager.move(buffers[7], {}, Operation::swap_to, Tier::file) == Result::over_budget);
  REQUIRE(is_resident(pager, buffers[7]));
  require_balance(pager);
}

TEST_CASE("G6 reclaim takes the victims of the policy, and no more than asked for", "[paging]") {
  BufferRig rig;
  for (const VictimKind kind : {VictimKind::lru, VictimKind::fifo, VictimKind::oldest}) {
    BufferPagerOptions options = rig.options();
    options.victims = kind;
    BufferPager pager;
    REQUIRE(pager.open(options) == Result::ok);
    const std::vector<BufferHandle> buffers = make_filled(pager, 40);
    for (unsigned i = 0; i < 10; ++i) REQUIRE(holds(pager, buffers[i], kOne, i));  // now the last used ones
    REQUIRE(pager.reclaim(1) == kMiB);  // at least a megabyte at a time
    for (unsigned i = 0; i < 40; ++i) {
      INFO("policy " << static_cast<unsigned>(kind) << ", buffer " << i);
      const bool left = kind == VictimKind::lru ? i >= 10 && i < 26 : i < 16;
      REQUIRE(is_resident(pager, buffers[i]) == !left);
    }
  }
}

TEST_CASE("0-7 fixed buffers stay, streaming ones go first, dynamic ones only under severe pressure",
          "[paging]") {
  OpenRig rig([](BufferPagerOptions& options) {
    options.host_bytes = 100 * kExtent;
    options.trigger = TriggerKind::pressure;
  });
  BufferPager& pager = rig.pager;
  const auto fixed = make_filled(pager, 30, Usage::fixed);
  const auto dynamic = make_filled(pager, 30, Usage::dynamic_use);
  const auto still = make_filled(pager, 15, Usage::static_use);
  const auto streaming = make_filled(pager, 10, Usage::streaming);
  REQUIRE(pager.pressure(Tier::host) == 850'000);
  pager.crawl(100);
  unsigned streaming_out = 0, dynamic_out = 0, fixed_out = 0, still_out = 0;
  const auto count_out = [&] {
    streaming_out = dynamic_out = fixed_out = still_out = 0;
    for (const BufferHandle buffer : streaming) streaming_out += is_resident(pager, buffer) ? 0 : 1;
    for (const BufferHandle buffer : dynamic) dynamic_out += is_resident(pager, buffer) ? 0 : 1;
    for (const BufferHandle buffer : still) still_out += is_resident(pager, buffer) ? 0 : 1;
    for (const BufferHandle buffer : fixed) fixed_out += is_resident(pager, buffer) ? 0 : 1;
  };
  count_out();
  REQUIRE(streaming_out == 5);  // down to 80 extents of 100
  REQUIRE(dynamic_out == 0);
  REQUIRE(still_out == 0);
  REQUIRE(pager.host_budget().set_limit(80 * kExtent) ==
          BudgetResult::ok);  // severe: all that are left may go
  pager.crawl(100);
  count_out();
  REQUIRE(fixed_out == 0);
  REQUIRE(dynamic_out > 0);
  REQUIRE(pager.pressure(Tier::host) <= 950'000);
  require_balance(pager);
}

TEST_CASE("G7 a crawl does nothing below the threshold and reaches the target above it", "[paging]") {
  OpenRig rig([](BufferPagerOptions& options) {
    options.trigger = TriggerKind::pressure;
    options.victims = VictimKind::lru;
    options.host_bytes = 200 * kExtent;
  });
  BufferPager& pager = rig.pager;
  std::vector<BufferHandle> buffers = make_filled(pager, 160);
  REQUIRE(pager.pressure(Tier::host) == 800'000);
  REQUIRE(pager.crawl(100) == 0);  // mut-A07: no gate above the thresholds, and none below
  for (unsigned i = 0; i < 30; ++i) {
    buffers.push_back(make(pager, kExtent));
    REQUIRE(fill(pager, buffers.back(), kOne, 160 + i));
  }
  REQUIRE(pager.crawl(100) == 30 * kExtent);  // and it stops at the target
  REQUIRE(pager.pressure(Tier::host) == 800'000);
  REQUIRE(pager.crawl(100) == 0);
  for (unsigned i = 0; i < 190; ++i) REQUIRE(is_resident(pager, buffers[i]) == (i >= 30));
  require_contents(pager, buffers);
}

TEST_CASE("G7 a crawl looks at the percentage asked for, and at ten at least", "[paging]") {
  for (const unsigned percent : {10u, 25u, 50u, 75u, 100u}) {
    BufferRig rig;
    BufferPagerOptions options = rig.options();
    options.trigger = TriggerKind::age;
    options.host_bytes = 512 * kExtent;
    REQUIRE(rig.pager.open(options) == Result::ok);
    const std::vector<BufferHandle> buffers = make_filled(rig.pager, 200);
    for (unsigned i = 0; i < 21; ++i) rig.pager.advance_epoch();
    INFO("percent " << percent);
    REQUIRE(rig.pager.crawl(percent) == percent * 2 * kExtent);
    REQUIRE(rig.pager.stats().crawled_extents == percent * 2);
    require_contents(rig.pager, buffers);
    require_balance(rig.pager);
  }
  OpenRig rig([](BufferPagerOptions& options) { options.trigger = TriggerKind::age; });
  const std::vector<BufferHandle> buffers = make_filled(rig.pager, 40);
  for (unsigned i = 0; i < 21; ++i) rig.pager.advance_epoch();
  REQUIRE(rig.pager.crawl(10) == 10 * kExtent);
}

TEST_CASE("G9 epochs advance, a use makes an extent young, and age decides at its limit", "[paging]") {
  OpenRig rig([](BufferPagerOptions& options) { options.trigger = TriggerKind::age; });
  BufferPager& pager = rig.pager;
  const std::vector<BufferHandle> buffers = make_filled(pager, 20);
  for (unsigned i = 1; i <= 20; ++i) REQUIRE(pager.advance_epoch() == i);
  REQUIRE(info_of(pager, buffers[0]).age == 20);
  REQUIRE(pager.crawl(100) == 0);  // not above the limit of 20
  REQUIRE(holds(pager, buffers[3], kOne, 3));
  REQUIRE(info_of(pager, buffers[3]).age == 0);
  pager.advance_epoch();
  REQUIRE(pager.crawl(100) == 19 * kExtent);
  REQUIRE(is_resident(pager, buffers[3]));
}

TEST_CASE("G12 mut-A09 names: found, missing, removed; creating again returns what is there", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  BufferOptions options;
  options.name = "terrain";
  BufferHandle first = 0, second = 0, found = 0;
  bool is_new = false;
  REQUIRE(pager.find("terrain", &found) == Result::bad_handle);
  REQUIRE(pager.open_or_create(kExtent, options, &first, &is_new) == Result::ok);
  REQUIRE(is_new);
  REQUIRE(pager.open_or_create(9 * kExtent, options, &second, &is_new) == Result::ok);
  REQUIRE_FALSE(is_new);
  REQUIRE(second == first);
  REQUIRE(pager.create(kExtent, options, &second) == Result::bad_argument);
  REQUIRE(pager.find("terrain", &found) == Result::ok);
  REQUIRE(found == first);
  REQUIRE(pager.find("terrai", &found) == Result::bad_handle);
  REQUIRE(pager.find("", &found) == Result::bad_argument);
  REQUIRE(fill(pager, first, kOne, 77));
  REQUIRE(pager.close_buffer(first) == Result::ok);
  REQUIRE(pager.close_buffer(first) == Result::ok);
  REQUIRE(holds(pager, first, kOne, 77));  // one reference is left
  REQUIRE(pager.remove_name("terrain") == Result::ok);
  REQUIRE(pager.remove_name("terrain") == Result::bad_handle);
  REQUIRE(pager.open_or_create(kExtent, options, &second, &is_new) == Result::ok);
  REQUIRE(is_new);
  REQUIRE(second != first);
  REQUIRE(pager.close_buffer(first) == Result::ok);
  REQUIRE(pager.stats().buffers == 1);
  REQUIRE(pager.close_buffer(second) == Result::ok);
  REQUIRE(pager.find("terrain", &found) == Result::bad_handle);
  options.name = std::string_view("a name that is longer than the sixty-three bytes which a name may have");
  REQUIRE(pager.create(kExtent, options, &first) == Result::bad_argument);
  require_balance(pager);
}

TEST_CASE("G16 the sums hold after each step", "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  OpenRig rig([](BufferPagerOptions& options) {
    options.host_bytes = 20 * kExtent;
    options.device_bytes = 8 * kExtent;
  });
  BufferPager& pager = rig.pager;
  struct Entry {
    BufferHandle handle;
    std::size_t size;
    std::uint64_t version;
  };
  std::vector<Entry> entries;
  for (unsigned step = 0; step < 3000; ++step) {
    if (entries.size() < 30 && random.one_in(4)) {
      Entry entry{0, 8 * (1 + random.below(3 * kExtent / 8)), 0};
      entry.handle = make(pager, entry.size);
      entry.version = random.next();
      REQUIRE(fill(pager, entry.handle, {0, entry.size}, entry.version));
      entries.push_back(entry);
    } else if (!entries.empty()) {
      Entry& entry = entries[random.below(entries.size())];
      switch (random.below(6)) {
        case 0:
          REQUIRE(pager.close_buffer(entry.handle) == Result::ok);
          entry = entries.back();
          entries.pop_back();
          break;
        case 1:
          REQUIRE(holds(pager, entry.handle, {0, entry.size}, entry.version));
          break;
        case 2:
          entry.version = random.next();
          REQUIRE(fill(pager, entry.handle, {0, entry.size}, entry.version));
          break;
        case 3:
          pager.reclaim(1);
          break;
        default: {
          const Operation operation = random.one_in(2) ? Operation::swap_to : Operation::page_to;
          REQUIRE(pager.move(entry.handle, {}, operation, static_cast<Tier>(random.below(kTiers))) ==
                  Result::ok);
        }
      }
    }
    require_balance(pager);
  }
  for (const Entry& entry : entries) REQUIRE(holds(pager, entry.handle, {0, entry.size}, entry.version));
}

TEST_CASE("0-3 several pagers in one directory do not know of each other", "[paging]") {
  BufferRig rig;
  BufferPagerOptions options = rig.options();
  options.device = nullptr;
  BufferPager one, two;
  REQUIRE(one.open(options) == Result::ok);
  REQUIRE(two.open(options) == Result::ok);
  BufferOptions named;
  named.name = "same";
  const BufferHandle in_one = make(one, kExtent, named), in_two = make(two, kExtent, named);
  REQUIRE(fill(one, in_one, kOne, 1));
  REQUIRE(fill(two, in_two, kOne, 2));
  REQUIRE(one.move(in_one, {}, Operation::swap_to, Tier::file) == Result::ok);
  REQUIRE(two.move(in_two, {}, Operation::swap_to, Tier::file) == Result::ok);
  REQUIRE(holds(one, in_one, kOne, 1));
  REQUIRE(one.move(in_one, {}, Operation::swap_to, Tier::file) == Result::ok);
  one.close();
  REQUIRE(holds(two, in_two, kOne, 2));
  REQUIRE(two.validate());
}

TEST_CASE("options that make no sense are refused, and the pager can be opened afterwards", "[paging]") {
  BufferRig rig;
  const auto refused = [&](auto change) {
    BufferPagerOptions options = rig.options();
    change(options);
    return rig.pager.open(options);
  };
  REQUIRE(refused([](auto& options) { options.host_bytes = 0; }) == Result::bad_argument);
  REQUIRE(refused([](auto& options) { options.extent_bytes = 5000; }) == Result::bad_argument);
  REQUIRE(refused([](auto& options) { options.extent_bytes = 4 * kMiB; }) == Result::bad_argument);
  REQUIRE(refused([](auto& options) { options.workers = 65; }) == Result::bad_argument);
  REQUIRE(refused([](auto& options) { options.address_bytes = 4096; }) == Result::bad_argument);
  REQUIRE(refused([](auto& options) { options.limits.severe = 1; }) == Result::bad_argument);
  REQUIRE(refused([](auto& options) { options.victims = static_cast<VictimKind>(77); }) ==
          Result::bad_argument);
  REQUIRE(refused([](auto& options) { options.directory = "/nowhere/at/all"; }) == Result::no_tier);
  REQUIRE(rig.pager.open(rig.options()) == Result::ok);
  REQUIRE(rig.pager.open(rig.options()) == Result::bad_argument);
  for (unsigned i = 0; i < kResults; ++i) {
    REQUIRE(std::strlen(text_of(static_cast<Result>(i))) > 3);
    REQUIRE(std::string(text_of(static_cast<Result>(i))) != "unknown result");
  }
}

TEST_CASE("0-17 the monitor reads the machine, and its pressure counts when it is asked for", "[paging]") {
  SystemMonitor monitor;
  const SystemMonitor::Sample sample = monitor.sample();
  REQUIRE(sample.resident_bytes > 1 * kMiB);
  REQUIRE(sample.group_bytes > 1 * kMiB);
  REQUIRE(sample.group_limit_bytes >= sample.group_bytes);
  REQUIRE(monitor.pressure() > 0);
  OpenRig rig([](BufferPagerOptions& options) { options.watch_system = true; });
  REQUIRE(rig.pager.host_budget().used_bytes() == 0);
  REQUIRE(rig.pager.pressure(Tier::host) > 0);
}
