// Explicit buffers: what each operation counts, what a buffer tells about itself, and that long use comes
// back to where it began.
#include <cstring>
#include <thread>
#include <vector>

#include "tests/buffer_rig.h"

#include "tests/catch.h"
#include "tests/random.h"

#include "tests/buffer_checks.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

constexpr std::size_t kSize = 2 * kExtent + 100;  // three extents

// The counters since the start, by name, as one row.
struct Counters {
  std::uint64_t pins, page_ins, implicit_page_ins, page_outs, zero_fills, clean_drops, bytes_in, bytes_out,
      device_in, device_out, evictions, refused_pinned, failed_copies, crawls, crawled_extents, prefetches,
      requests;
  friend bool operator==(const Counters&, const Counters&) = default;
};

Counters counters_of(BufferPager& pager) {
  const BufferPagerStats s = pager.stats();
  return {s.pins,          s.page_ins,  s.implicit_page_ins, s.page_outs,  s.zero_fills, s.clean_drops,
          s.bytes_in,      s.bytes_out, s.device_in,         s.device_out, s.evictions,  s.refused_pinned,
          s.failed_copies, s.crawls,    s.crawled_extents,   s.prefetches, s.requests};
}

}  // namespace

TEST_CASE("K1 counters start at 0, and each operation moves exactly its own", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  Counters expected{};
  REQUIRE(counters_of(pager) == expected);
  const BufferHandle buffer = make(pager, kSize);
  REQUIRE(counters_of(pager) == expected);
  REQUIRE(fill(pager, buffer, {0, kSize - 4}, 1));
  expected.pins = expected.zero_fills = 3;
  REQUIRE(counters_of(pager) == expected);
  REQUIRE(pager.move(buffer, {}, Operation::page_to, Tier::compressed) == Result::ok);
  expected.page_outs = 3;
  expected.bytes_out = kSize;
  REQUIRE(counters_of(pager) == expected);
  REQUIRE(pager.move(buffer, {}, Operation::evict, Tier::host) == Result::ok);
  expected.clean_drops = 3;
  REQUIRE(counters_of(pager) == expected);
  REQUIRE(pager.pin(buffer, {0, 1}, Access::read).result == Result::ok);
  expected.pins += 1;
  expected.page_ins = expected.implicit_page_ins = 1;
  expected.bytes_in = kExtent;
  REQUIRE(counters_of(pager) == expected);
  REQUIRE(pager.move(buffer, {0, 1}, Operation::swap_to, Tier::file) == Result::pinned);
  expected.refused_pinned = 1;
  REQUIRE(counters_of(pager) == expected);
  REQUIRE(pager.unpin(buffer, {0, 1}, Access::read) == Result::ok);
  REQUIRE(pager.move(buffer, {}, Operation::page_to, Tier::device) == Result::ok);
  expected.device_in = kSize;
  REQUIRE(counters_of(pager) == expected);
  REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::device) == Result::ok);
  expected.clean_drops += 1;
  REQUIRE(counters_of(pager) == expected);
  REQUIRE(pager.move(buffer, {}, Operation::page_to, Tier::host) == Result::ok);
  expected.device_out = kSize;
  expected.page_ins += 3;
  expected.bytes_in += kSize;
  REQUIRE(counters_of(pager) == expected);
  REQUIRE(pager.move(buffer, {}, Operation::discard, Tier::host) == Result::ok);
  expected.clean_drops += 3;
  REQUIRE(counters_of(pager) == expected);
  REQUIRE(fill(pager, buffer, {0, kExtent}, 2));
  expected.pins += 1;
  expected.zero_fills += 1;
  REQUIRE(counters_of(pager) == expected);
  REQUIRE(pager.reclaim(1) == kExtent);
  expected.evictions = 1;
  expected.page_outs += 1;
  expected.bytes_out += kExtent;
  REQUIRE(counters_of(pager) == expected);
  REQUIRE(pager.prefetch(buffer, {0, kExtent}) == Result::ok);
  expected.prefetches = expected.requests = 1;
  expected.page_ins += 1;
  expected.bytes_in += kExtent;
  REQUIRE(counters_of(pager) == expected);
  REQUIRE(pager.crawl(100) == 0);  // far below the threshold
  expected.crawls = 1;
  REQUIRE(counters_of(pager) == expected);
  require_balance(pager);
}

TEST_CASE("K1 failed copies are counted, page-ins by their time, and a snapshot stays what it was",
          "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  const BufferHandle buffer = make(pager, kSize);
  REQUIRE(fill(pager, buffer, {0, kSize - 4}, 1));
  for (unsigned i = 0; i < 3; ++i) {
    REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
    REQUIRE(holds(pager, buffer, {0, kSize - 4}, 1));
  }
  REQUIRE(pager.move(buffer, {0, kExtent}, Operation::swap_to, Tier::file) == Result::ok);
  REQUIRE(pager.host_budget().used_bytes() == kExtent + 4096);
  const BufferPagerStats snapshot = pager.stats();
  REQUIRE(snapshot.page_ins == 9);
  REQUIRE(pager.host_budget().set_limit(kExtent) == BudgetResult::ok);
  const BufferHandle other = make(pager, 2 * kExtent);
  REQUIRE(pager.pin(other, {}, Access::read).result == Result::over_budget);
  REQUIRE(pager.stats().failed_copies == 1);
  REQUIRE(snapshot.failed_copies == 0);
  std::uint64_t timed = 0;
  for (const std::uint64_t count : snapshot.page_in_ns) timed += count;
  REQUIRE(timed == snapshot.page_ins);
  // The peak is the most that was ever held, and never falls.
  REQUIRE(pager.stats().tier_peak[0] == 2 * kExtent + 4096);
  require_balance(pager);
}

TEST_CASE("mut-B14 a buffer tells bytes by tier, state, dirt and pins", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  BufferOptions options;
  options.usage = Usage::dynamic_use;
  options.type_id = 17;
  const BufferHandle buffer = make(pager, kSize, options);
  const auto info = [&] { return info_of(pager, buffer); };
  const auto in = [&](Tier tier) { return valid_in(pager, buffer, tier); };
  REQUIRE(info().size_bytes == kSize);
  REQUIRE(info().extents == 3);
  REQUIRE(info().usage == Usage::dynamic_use);
  REQUIRE(info().type_id == 17);
  REQUIRE(info().unbacked_bytes == kSize);
  REQUIRE(info().dirty_bytes == 0);
  REQUIRE(fill(pager, buffer, {0, kSize - 4}, 1));
  REQUIRE(in(Tier::host) == kSize);
  REQUIRE(info().dirty_bytes == kSize);
  REQUIRE(info().unbacked_bytes == 0);
  REQUIRE(pager.move(buffer, {0, 1}, Operation::synchronise, Tier::device) == Result::ok);
  REQUIRE(in(Tier::device) == kExtent);
  REQUIRE(in(Tier::host) == kSize);
  REQUIRE(info().dirty_bytes == kSize - kExtent);
  REQUIRE(pager.pin_device(buffer, {0, 1}, Access::write) == Result::ok);
  REQUIRE(info().dirty_bytes == kSize);  // the device is the owner
  REQUIRE(in(Tier::host) == kSize - kExtent);
  REQUIRE(info().pinned_bytes == kExtent);
  REQUIRE(pager.unpin_device(buffer, {0, 1}, Access::write) == Result::ok);
  REQUIRE(info().pinned_bytes == 0);
  REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
  REQUIRE(in(Tier::file) == kSize);
  REQUIRE(in(Tier::host) + in(Tier::device) + in(Tier::compressed) == 0);
  REQUIRE(info().dirty_bytes == 0);
  pager.advance_epoch();
  REQUIRE(info().age == 1);
  REQUIRE(pager.pin(buffer, {kSize - 1, 1}, Access::read).result == Result::ok);
  REQUIRE(info().age == 0);
  REQUIRE(in(Tier::host) == 100);
  REQUIRE(pager.unpin(buffer, {kSize - 1, 1}, Access::read) == Result::ok);
}

TEST_CASE("K3 cycles of frames, resizes and page-outs come back to the baseline", "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  OpenRig rig([](BufferPagerOptions& options) {
    options.workers = 2;
    options.host_bytes = 20 * kExtent;
  });
  BufferPager& pager = rig.pager;
  const std::vector<BufferHandle> scene = make_filled(pager, 8);
  REQUIRE(pager.move_many(scene, Operation::swap_to, Tier::file) == Result::ok);
  const BufferPagerStats before = pager.stats();
  const StoreStats store_before = pager.store_stats();
  for (unsigned frame = 0; frame < 200; ++frame) {
    pager.advance_epoch();
    // Targets of the frame: made, resized once, filled, some paged out, all given back.
    std::vector<BufferHandle> targets;
    for (unsigned i = 0; i < 6; ++i) {
      targets.push_back(make(pager, 1 + random.below(4 * kExtent)));
      REQUIRE(pager.resize(targets[i], kExtent * (1 + random.below(4))) == Result::ok);
      REQUIRE(fill(pager, targets[i], kOne, frame));
      const Tier tier = static_cast<Tier>(1 + random.below(3));
      if (random.one_in(2)) {
        REQUIRE(pager.move_async(targets[i], {}, {Operation::swap_to, tier}, nullptr) == Result::ok);
      }
    }
    for (const BufferHandle target : targets) {
      const PinnedRange pinned = pager.pin(target, kOne, Access::read);
      REQUIRE(pinned.result == Result::ok);
      REQUIRE(has_words(pinned.data, 0, kExtent, frame));
      REQUIRE(pager.unpin(target, kOne, Access::read) == Result::ok);
      REQUIRE(pager.close_buffer(target) == Result::ok);
    }
    REQUIRE(holds(pager, scene[frame % 8], kOne, frame % 8));
  }
  pager.wait_all();
  REQUIRE(pager.move_many(scene, Operation::swap_to, Tier::file) == Result::ok);
  pager.compact();
  const BufferPagerStats after = pager.stats();
  REQUIRE(after.buffers == before.buffers);
  REQUIRE(after.extents == before.extents);
  REQUIRE(after.total_bytes == before.total_bytes);
  REQUIRE(after.resident_bytes == 0);
  for (unsigned tier = 0; tier < kTiers; ++tier) REQUIRE(after.tier_used[tier] == before.tier_used[tier]);
  REQUIRE(pager.store_stats().file_live_bytes == store_before.file_live_bytes);
  REQUIRE(pager.store_stats().objects == 0);
  REQUIRE(rig.device.used_bytes() == 0);
  require_contents(pager, scene);
  require_balance(pager);
}

TEST_CASE("K5 the options of a pager, of a buffer and a codec are copies", "[paging]") {
  BufferRig rig;
  BufferPagerOptions options = rig.options();
  std::string folder = rig.folder.path(), name = "first";
  options.directory = folder.c_str();
  REQUIRE(rig.pager.open(options) == Result::ok);
  folder = "/nowhere/at/all";
  options.host_bytes = 1;
  options.implicit_page_in = false;
  REQUIRE(rig.pager.host_budget().limit_bytes() == 64 * kMiB);
  BufferCodec codec{[](void*, const void* from, std::size_t size, void* to, std::size_t) {
                      std::memcpy(to, from, size);
                      return size;
                    },
                    [](void*, const void* from, std::size_t size, void* to, std::size_t) {
                      std::memcpy(to, from, size);
                      return 1;
                    },
                    nullptr};
  BufferOptions of_buffer;
  of_buffer.name = name;
  of_buffer.codec = &codec;
  const BufferHandle buffer = make(rig.pager, kSize, of_buffer);
  name = "xxxxx";
  of_buffer.name = "other";
  codec.encode = nullptr;
  codec.decode = nullptr;
  BufferHandle found = 0;
  REQUIRE(rig.pager.find("first", &found) == Result::ok);
  REQUIRE(found == buffer);
  REQUIRE(fill(rig.pager, buffer, kOne, 1));
  REQUIRE(rig.pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
  REQUIRE(holds(rig.pager, buffer, kOne, 1));
}
