// Explicit buffers that change their size: contents in every tier, addresses that have to move, what is
// refused, other threads meanwhile; and giving back what nothing lies in.
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "platform/vm.h"
#include "tests/buffer_rig.h"
#include "tests/heap_calls.h"

#include "tests/catch.h"
#include "tests/random.h"

#include "tests/buffer_checks.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kSizes[] = {
    1,           100,         kPage,           kPage + 8,           kExtent - 8, kExtent,
    kExtent + 8, 2 * kExtent, 2 * kExtent + 5, 3 * kExtent - kPage, 5 * kExtent, 9 * kExtent + 1234};

std::uint8_t byte_at(std::uint64_t seed, std::size_t index) {
  return static_cast<std::uint8_t>(word_at(seed, index / 8) >> (index % 8 * 8) | 1);  // never zero
}

bool write_bytes(BufferPager& pager, BufferHandle buffer, std::size_t from, std::size_t to,
                 std::uint64_t seed) {
  const PinnedRange pinned = pager.pin(buffer, {from, to - from}, Access::write);
  if (pinned.result != Result::ok) return false;
  for (std::size_t i = from; i < to; ++i) pinned.data[i - from] = std::byte{byte_at(seed, i)};
  return pager.unpin(buffer, {from, to - from}, Access::write) == Result::ok;
}

// The first `written` bytes are those of the seed, the others zero.
bool has_bytes(BufferPager& pager, BufferHandle buffer, std::size_t written, std::uint64_t seed) {
  std::size_t size = 0;
  if (pager.size_of(buffer, &size) != Result::ok) return false;
  const PinnedRange pinned = pager.pin(buffer, {}, Access::read);
  if (pinned.result != Result::ok) return false;
  bool is_right = true;
  for (std::size_t i = 0; i < size && is_right; ++i) {
    is_right = pinned.data[i] == (i < written ? std::byte{byte_at(seed, i)} : std::byte{0});
  }
  return pager.unpin(buffer, {}, Access::read) == Result::ok && is_right;
}

}  // namespace

TEST_CASE("B8 resize keeps min(old, new) bytes in every residency state, and what is new is zero",
          "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  std::uint64_t seed = 1;
  for (const Tier tier : kAllTiers) {
    for (const Operation operation : {Operation::swap_to, Operation::page_to}) {
      for (const std::size_t old_bytes : kSizes) {
        for (const std::size_t new_bytes : kSizes) {
          INFO("tier " << static_cast<int>(tier) << " swap " << (operation == Operation::swap_to) << " from "
                       << old_bytes << " to " << new_bytes);
          const BufferHandle buffer = make(pager, old_bytes);
          REQUIRE(write_bytes(pager, buffer, 0, old_bytes, ++seed));
          const Result moved = pager.move(buffer, {}, operation, tier);
          REQUIRE((moved == Result::ok || moved == Result::incompressible));  // few bytes do not shrink
          REQUIRE(pager.resize(buffer, new_bytes) == Result::ok);
          REQUIRE(pager.validate());
          const std::size_t kept = old_bytes < new_bytes ? old_bytes : new_bytes;
          REQUIRE(has_bytes(pager, buffer, kept, seed));
          // And it is a buffer like any other.
          REQUIRE(write_bytes(pager, buffer, 0, new_bytes, ++seed));
          REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
          REQUIRE(has_bytes(pager, buffer, new_bytes, seed));
          REQUIRE(pager.close_buffer(buffer) == Result::ok);
        }
      }
    }
  }
  require_balance(pager);
  REQUIRE(pager.stats().total_bytes == 0);
  REQUIRE(pager.host_budget().used_bytes() == 0);
  REQUIRE(rig.device.used_bytes() == 0);
}

TEST_CASE("B8 resize leaves what is out where it is, and gives back what is cut off", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  const BufferHandle buffer = make(pager, 8 * kExtent);
  REQUIRE(write_bytes(pager, buffer, 0, 8 * kExtent, 3));
  REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
  const BufferPagerStats before = pager.stats();
  REQUIRE(pager.resize(buffer, 16 * kExtent) == Result::ok);
  REQUIRE(pager.resize(buffer, 4 * kExtent) == Result::ok);
  REQUIRE(pager.stats().page_ins == before.page_ins);  // both ends lie between extents
  REQUIRE(pager.host_budget().used_bytes() == 0);
  REQUIRE(pager.store_stats().file_objects == 4);
  REQUIRE(pager.resize(buffer, 4 * kExtent - kPage) == Result::ok);
  REQUIRE(pager.stats().page_ins == before.page_ins + 1);  // the extent that was cut
  REQUIRE(pager.host_budget().used_bytes() == kExtent - kPage);
  REQUIRE(pager.store_stats().file_objects == 3);
  // A resident buffer gives memory back to the system.
  REQUIRE(has_bytes(pager, buffer, 4 * kExtent - kPage, 3));
  REQUIRE(os::resident_bytes(info_of(pager, buffer).address, 4 * kExtent) == 4 * kExtent - kPage);
  REQUIRE(pager.resize(buffer, kPage + 1) == Result::ok);
  REQUIRE(os::resident_bytes(info_of(pager, buffer).address, 4 * kExtent) == 2 * kPage);
  REQUIRE(pager.host_budget().used_bytes() == 2 * kPage);
  // What was cut off does not come back with the next growth.
  REQUIRE(pager.resize(buffer, 4 * kExtent) == Result::ok);
  REQUIRE(has_bytes(pager, buffer, kPage + 1, 3));
  require_balance(pager);
}

TEST_CASE("B8 random sizes of many buffers against models: places run out and buffers move", "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  for (const VictimKind kind :
       {VictimKind::lru, VictimKind::s3_fifo, VictimKind::largest, VictimKind::two_q}) {
    Random random(seed);
    OpenRig rig([&](BufferPagerOptions& options) {
      options.host_bytes = 40 * kExtent;
      options.victims = kind;
    });
    BufferPager& pager = rig.pager;
    constexpr std::size_t kCount = 12;
    BufferHandle buffers[kCount];
    std::size_t sizes[kCount], written[kCount];
    unsigned moved = 0;
    for (std::size_t i = 0; i < kCount; ++i) {
      sizes[i] = written[i] = 1 + random.below(4 * kExtent);
      buffers[i] = make(pager, sizes[i]);
      REQUIRE(write_bytes(pager, buffers[i], 0, sizes[i], i));
    }
    for (unsigned step = 0; step < 1500; ++step) {
      const std::size_t i = random.below(kCount);
      INFO("step " << step << " buffer " << i);
      const std::byte* const before = info_of(pager, buffers[i]).address;
      const std::size_t size =
          random.one_in(4) ? kSizes[random.below(std::size(kSizes))] : 1 + random.below(6 * kExtent);
      REQUIRE(pager.resize(buffers[i], size) == Result::ok);
      moved += info_of(pager, buffers[i]).address != before ? 1 : 0;
      sizes[i] = size;
      if (written[i] > size) written[i] = size;
      const std::size_t other = random.below(kCount);
      REQUIRE(has_bytes(pager, buffers[other], written[other], other));
      if (random.one_in(3)) {
        const Result result = pager.move(buffers[other], {}, Operation::swap_to, kAllTiers[random.below(4)]);
        REQUIRE((result == Result::ok || result == Result::incompressible));  // few bytes do not shrink
      } else if (random.one_in(2) && written[other] < sizes[other]) {
        const std::size_t end = written[other] + 1 + random.below(sizes[other] - written[other]);
        REQUIRE(write_bytes(pager, buffers[other], written[other], end, other));
        written[other] = end;
      }
      if (step % 50 == 0) require_balance(pager);
    }
    REQUIRE(moved > 20);
    for (std::size_t i = 0; i < kCount; ++i) REQUIRE(has_bytes(pager, buffers[i], written[i], i));
    for (const BufferHandle buffer : buffers) REQUIRE(pager.close_buffer(buffer) == Result::ok);
    require_balance(pager);
    REQUIRE(pager.stats().total_bytes == 0);
    REQUIRE(pager.host_budget().used_bytes() == 0);
  }
}

TEST_CASE("B8 B6 a resize that is refused has changed nothing", "[paging]") {
  BufferRig rig;
  BufferPagerOptions options = rig.options();
  options.host_bytes = 4 * kExtent;
  REQUIRE(rig.pager.open(options) == Result::ok);
  BufferPager& pager = rig.pager;
  const BufferHandle buffer = make(pager, kExtent + kPage);
  REQUIRE(write_bytes(pager, buffer, 0, kExtent + kPage, 9));
  const auto is_unchanged = [&] {
    std::size_t size = 0;
    return pager.size_of(buffer, &size) == Result::ok && size == kExtent + kPage &&
           has_bytes(pager, buffer, size, 9) && pager.validate();
  };
  REQUIRE(pager.resize(buffer, 0) == Result::bad_argument);
  REQUIRE(pager.resize(buffer, SIZE_MAX) == Result::bad_argument);
  REQUIRE(pager.resize(buffer, options.address_bytes) == Result::no_memory);
  REQUIRE(pager.resize(0, 5) == Result::bad_handle);
  REQUIRE(is_unchanged());
  for (const std::size_t offset : {std::size_t{0}, kExtent}) {
    REQUIRE(pager.pin(buffer, {offset, 1}, Access::read).result == Result::ok);
    REQUIRE(pager.resize(buffer, 5) == Result::pinned);
    REQUIRE(pager.resize(buffer, 5 * kExtent) == Result::pinned);
    REQUIRE(is_unchanged());
    REQUIRE(pager.unpin(buffer, {offset, 1}, Access::read) == Result::ok);
  }
  // The extent that grows has to be in the host, and there is no room for what it grows by.
  const BufferHandle other = make(pager, 2 * kExtent + 60 * 1024);
  REQUIRE(pager.pin(other, {}, Access::write).result == Result::ok);
  REQUIRE(pager.host_budget().set_limit(2 * kExtent + 60 * 1024 + 2 * kPage) == BudgetResult::ok);
  REQUIRE(pager.resize(buffer, 2 * kExtent) == Result::over_budget);
  REQUIRE(pager.unpin(other, {}, Access::write) == Result::ok);
  REQUIRE(is_unchanged());
  REQUIRE(pager.resize(buffer, 2 * kExtent) == Result::ok);
  REQUIRE(has_bytes(pager, buffer, kExtent + kPage, 9));
  require_balance(pager);
}

// Tries of a resize among readers. One with a pin may be off its CPU through all of them: then it goes on.
constexpr unsigned kSteps = kThreadSanitizer ? 200 : 2000;

TEST_CASE("B8 mut-B12 readers and page-outs go on while a buffer is resized: every read is right",
          "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  OpenRig rig([](BufferPagerOptions& options) {
    options.workers = 2;
    options.host_bytes = 12 * kExtent;
  });
  BufferPager& pager = rig.pager;
  constexpr std::size_t kLeast = 2 * kExtent + 100;  // always there
  const BufferHandle buffer = make(pager, 4 * kExtent);
  REQUIRE(write_bytes(pager, buffer, 0, kLeast, 1));
  std::atomic<bool> is_done{false};
  std::atomic<std::uint64_t> wrong{0}, reads{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] {
      Random random(seed + i);
      while (!is_done.load()) {
        const std::size_t at = random.below(kLeast - 8);
        const PinnedRange pinned = pager.pin(buffer, {at, 8}, Access::read);
        bool is_right = pinned.result == Result::ok;
        for (std::size_t j = 0; j < 8 && is_right; ++j) {
          is_right = pinned.data[j] == std::byte{byte_at(1, at + j)};
        }
        if (pinned.result == Result::ok && pager.unpin(buffer, {at, 8}, Access::read) != Result::ok) {
          is_right = false;
        }
        if (!is_right) wrong.fetch_add(1);
        reads.fetch_add(1);
        std::this_thread::yield();
      }
    });
  }
  threads.emplace_back([&] {
    Random random(seed + 10);
    while (!is_done.load()) {
      const Result result = pager.move(buffer, {}, Operation::swap_to, kAllTiers[1 + random.below(3)]);
      if (result != Result::ok && result != Result::pinned) wrong.fetch_add(1);
      pager.reclaim(kExtent);
      std::this_thread::yield();
    }
  });
  while (reads.load() == 0) std::this_thread::yield();
  Random random(seed + 20);
  unsigned resized = 0;
  for (unsigned step = 0; step < kSteps || (resized == 0 && step < 1000 * kSteps); ++step) {
    const Result result = pager.resize(buffer, kLeast + random.below(6 * kExtent));
    if (result == Result::ok) ++resized;
    if (step >= kSteps) std::this_thread::yield();
    if (result != Result::ok && result != Result::pinned && result != Result::busy) wrong.fetch_add(1);
  }
  is_done.store(true);
  for (std::thread& thread : threads) thread.join();
  REQUIRE(wrong.load() == 0);
  REQUIRE(resized != 0);
  REQUIRE(pager.resize(buffer, kLeast) == Result::ok);
  REQUIRE(has_bytes(pager, buffer, kLeast, 1));
  require_balance(pager);
}

TEST_CASE("B8 0-20 compact gives back what nothing lies in", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  const std::vector<BufferHandle> buffers = make_filled(pager, 200);
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const Tier tier = i % 2 == 0 ? Tier::compressed : Tier::file;
    REQUIRE(pager.move(buffers[i], {}, Operation::swap_to, tier) == Result::ok);
  }
  const StoreStats before = pager.store_stats();
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    if (i >= 20) REQUIRE(pager.close_buffer(buffers[i]) == Result::ok);
  }
  REQUIRE(pager.compact() != 0);
  const StoreStats after = pager.store_stats();
  REQUIRE(after.slab_bytes < before.slab_bytes);
  REQUIRE(after.slab_bytes >= after.slot_bytes);
  REQUIRE(after.file_allocated_bytes < before.file_allocated_bytes);
  REQUIRE(pager.compact() == 0);
  for (std::size_t i = 0; i < 20; ++i) REQUIRE(holds(pager, buffers[i], kOne, i));
}
