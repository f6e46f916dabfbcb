// Explicit buffers with extents of all sizes: from a page to 2 MiB, which the store holds in parts.
#include <atomic>
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

constexpr std::size_t kLarge = 512 * kKiB;

// Of a budget of few extents others may have all but one in their hands for a moment: then the budget
// refuses, and the same call is made again.
struct Patient {
  BufferPager& pager;
  std::atomic<std::uint64_t>& wrong;

  PinnedRange pin(BufferHandle buffer, Access access) const {
    for (unsigned tries = 0;; ++tries) {
      const PinnedRange pinned = pager.pin(buffer, {0, kLarge}, access);
      if (pinned.result != Result::over_budget || tries == 100'000) return pinned;
      std::this_thread::yield();
    }
  }
  void check(BufferHandle buffer, std::uint64_t version) const {
    const PinnedRange pinned = pin(buffer, Access::read);
    if (pinned.result != Result::ok || !has_words(pinned.data, 0, kLarge, version)) wrong.fetch_add(1);
    if (pinned.result == Result::ok) static_cast<void>(pager.unpin(buffer, {0, kLarge}, Access::read));
  }
  void write(BufferHandle buffer, std::uint64_t version) const {
    const PinnedRange pinned = pin(buffer, Access::write);
    if (pinned.result != Result::ok) return static_cast<void>(wrong.fetch_add(1));
    write_words(pinned.data, 0, kLarge, version);
    static_cast<void>(pager.unpin(buffer, {0, kLarge}, Access::write));
  }
};

void require_empty(BufferRig& rig) {
  require_balance(rig.pager);
  REQUIRE(rig.pager.stats().total_bytes == 0);
  REQUIRE(rig.pager.store_stats().objects == 0);
  REQUIRE(rig.pager.store_stats().file_objects == 0);
  REQUIRE(rig.pager.compressed_budget().used_bytes() == 0);
  REQUIRE(rig.pager.file_budget().used_bytes() == 0);
  REQUIRE(rig.device.used_bytes() == 0);
}

// Halves the size, so that what is stored has another number of parts than the extent.
BufferCodec halving() {
  return {[](void*, const void* from, std::size_t size, void* to, std::size_t) {
            const auto* bytes = static_cast<const std::byte*>(from);
            for (std::size_t i = 0; i < size / 2; ++i) {
              if (bytes[2 * i] != bytes[2 * i + 1]) return std::size_t{0};
              static_cast<std::byte*>(to)[i] = bytes[2 * i];
            }
            return size / 2;
          },
          [](void*, const void* from, std::size_t size, void* to, std::size_t capacity) {
            if (2 * size != capacity) return 0;
            for (std::size_t i = 0; i < capacity; ++i) {
              static_cast<std::byte*>(to)[i] = static_cast<const std::byte*>(from)[i / 2];
            }
            return 1;
          },
          nullptr};
}

}  // namespace

TEST_CASE("0-5 G1 extents of 4 KiB to 2 MiB go through every pair of tiers", "[paging]") {
  for (const std::size_t extent : {4 * kKiB, 64 * kKiB, 128 * kKiB, 512 * kKiB, 2 * kMiB}) {
    INFO("extents of " << extent << " bytes");
    BufferRig rig;
    BufferPagerOptions options = rig.options();
    options.extent_bytes = extent;
    REQUIRE(rig.pager.open(options) == Result::ok);
    BufferPager& pager = rig.pager;
    const std::size_t size = 2 * extent + extent / 2 + 8;
    std::uint64_t seed = 0;
    for (const Tier from : kAllTiers) {
      for (const Tier to : kAllTiers) {
        const BufferHandle buffer = make(pager, size);
        REQUIRE(fill(pager, buffer, {0, size}, ++seed));
        REQUIRE(pager.move(buffer, {}, Operation::swap_to, from) == Result::ok);
        REQUIRE(pager.move(buffer, {}, Operation::page_to, to) == Result::ok);
        REQUIRE(pager.validate());
        REQUIRE(pager.move(buffer, {}, Operation::swap_to, to) == Result::ok);
        REQUIRE(holds(pager, buffer, {0, size}, seed));
        // One extent is written: one goes out again.
        REQUIRE(fill(pager, buffer, {extent, 8}, seed + 1000));
        REQUIRE(pager.move(buffer, {}, Operation::swap_to, to) == Result::ok);
        REQUIRE(holds(pager, buffer, {extent, 8}, seed + 1000));
        REQUIRE(holds(pager, buffer, {2 * extent, extent / 2}, seed));
        REQUIRE(pager.close_buffer(buffer) == Result::ok);
      }
    }
    require_empty(rig);
  }
  for (const std::size_t extent : {2 * kKiB, 96 * kKiB, 4 * kMiB}) {
    BufferRig rig;
    BufferPagerOptions options = rig.options();
    options.extent_bytes = extent;
    REQUIRE(rig.pager.open(options) == Result::bad_argument);
  }
}

TEST_CASE("G14 a codec makes other numbers of parts of large extents", "[paging]") {
  OpenRig rig([](BufferPagerOptions& options) { options.extent_bytes = 512 * kKiB; });
  BufferPager& pager = rig.pager;
  BufferCodec codec = halving();
  BufferOptions of_buffer;
  of_buffer.codec = &codec;
  // Half of it is eight parts less one; of the second buffer one part.
  for (const std::size_t size : {512 * kKiB + 300 * kKiB, 100 * kKiB}) {
    const BufferHandle buffer = make(pager, size, of_buffer);
    const PinnedRange pinned = pager.pin(buffer, {}, Access::write);
    for (std::size_t i = 0; i < size; ++i) pinned.data[i] = static_cast<std::byte>(i / 2 / 100);
    REQUIRE(pager.unpin(buffer, {}, Access::write) == Result::ok);
    for (const Tier tier : {Tier::compressed, Tier::file, Tier::compressed, Tier::device, Tier::file}) {
      REQUIRE(pager.move(buffer, {}, Operation::swap_to, tier) == Result::ok);
      REQUIRE(pager.validate());
      REQUIRE(pager.move(buffer, {}, Operation::page_to, Tier::host) == Result::ok);
      const PinnedRange seen = pager.pin(buffer, {}, Access::read);
      REQUIRE(seen.result == Result::ok);
      bool is_right = true;
      for (std::size_t i = 0; i < size; ++i)
        is_right = is_right && seen.data[i] == static_cast<std::byte>(i / 2 / 100);
      REQUIRE(is_right);
      REQUIRE(pager.unpin(buffer, {}, Access::read) == Result::ok);
    }
    REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
    REQUIRE(pager.file_budget().used_bytes() == size / 2);
    REQUIRE(pager.close_buffer(buffer) == Result::ok);
  }
  require_empty(rig);
}

TEST_CASE("B6 a large extent of which one part is refused stays as it was, and no part is left behind",
          "[paging]") {
  OpenRig rig([](BufferPagerOptions& options) {
    options.extent_bytes = 2 * kMiB;
    options.compressed_bytes = 512 * kKiB;
  });
  BufferPager& pager = rig.pager;
  const BufferHandle buffer = make(pager, 2 * kMiB);
  // Part number 20 does not shrink.
  REQUIRE(fill(pager, buffer, {0, 2 * kMiB}, 1));
  Random random(test_seed());
  const ByteRange bad{20 * 64 * kKiB, 64 * kKiB};
  const PinnedRange pinned = pager.pin(buffer, bad, Access::write);
  for (std::size_t i = 0; i < bad.size_bytes; ++i) pinned.data[i] = static_cast<std::byte>(random.next());
  REQUIRE(pager.unpin(buffer, bad, Access::write) == Result::ok);
  REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::compressed) == Result::incompressible);
  REQUIRE(pager.store_stats().objects == 0);
  REQUIRE(is_resident(pager, buffer));
  require_balance(pager);
  // The tier fills up within an extent: eviction goes on to the file.
  REQUIRE(fill(pager, buffer, bad, 1));
  std::vector<BufferHandle> more;
  bool was_full = false;
  for (std::uint64_t i = 0; i < 12 && !was_full; ++i) {
    more.push_back(make(pager, 2 * kMiB));
    REQUIRE(fill(pager, more[i], {0, 2 * kMiB}, i));
    const Result result = pager.move(more[i], {}, Operation::swap_to, Tier::compressed);
    was_full = result == Result::tier_full;
    REQUIRE((was_full || result == Result::ok));
  }
  REQUIRE(was_full);
  REQUIRE(pager.store_stats().objects == 32 * (more.size() - 1));
  REQUIRE(pager.move(more.back(), {}, Operation::evict, Tier::host) == Result::ok);
  REQUIRE(pager.store_stats().file_objects == 32);
  for (std::uint64_t i = 0; i < more.size(); ++i) REQUIRE(holds(pager, more[i], {0, 2 * kMiB}, i));
  // The budget of the files refuses all of an extent or nothing.
  REQUIRE(pager.file_budget().set_limit(3 * kMiB) == BudgetResult::ok);
  REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::over_budget);
  REQUIRE(is_resident(pager, buffer));
  require_balance(pager);
  for (const BufferHandle each : more) REQUIRE(pager.close_buffer(each) == Result::ok);
  REQUIRE(pager.close_buffer(buffer) == Result::ok);
  require_empty(rig);
}

TEST_CASE("G15 G18 threads use three times the budget in large extents: every read is right", "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  constexpr std::size_t kCount = 24;
  BufferRig rig;
  BufferPagerOptions options = rig.options();
  options.extent_bytes = kLarge;
  options.host_bytes = kCount / 3 * kLarge;
  options.compressed_bytes = 512 * kKiB;
  options.workers = 2;
  REQUIRE(rig.pager.open(options) == Result::ok);
  BufferPager& pager = rig.pager;
  std::vector<BufferHandle> buffers;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    buffers.push_back(make(pager, kLarge));
    REQUIRE(fill(pager, buffers[i], {0, kLarge}, i));
  }
  std::atomic<std::uint64_t> wrong{0};
  const Patient patient{pager, wrong};
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&, thread] {
      Random random(seed + thread);
      std::uint64_t version[kCount];
      for (std::uint64_t i = 0; i < kCount; ++i) version[i] = i;
      for (unsigned step = 0; step < 150; ++step) {
        const std::size_t which = random.below(kCount / 3) * 3 + thread;  // its own
        patient.check(buffers[which], version[which]);
        if (random.one_in(3)) {
          version[which] = random.next();
          patient.write(buffers[which], version[which]);
        }
        Ticket ticket = 0;
        const AsyncMove what(Operation::swap_to, kAllTiers[random.below(4)]);
        if (random.one_in(3) &&
            pager.move_async(buffers[random.below(kCount)], {}, what, &ticket) == Result::ok) {
          pager.release_ticket(ticket);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  pager.wait_all();
  REQUIRE(wrong.load() == 0);
  REQUIRE(pager.host_budget().peak_bytes() <= options.host_bytes);
  require_balance(pager);
}
