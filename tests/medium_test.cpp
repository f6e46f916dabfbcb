// The medium heap: what breaks here overlaps blocks of 32 KiB to 32 MiB, loses their contents, hands out
// dirty memory as zero, or keeps memory that nobody uses.
#include "src/heap/medium.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

#include "platform/process.h"
#include "platform/vm.h"
#include "src/base/bits.h"
#include "src/vm/directory.h"
#include "src/vm/ledger.h"
#include "tests/catch.h"
#include "tests/random.h"

using glebe::kKiB;
using glebe::kMiB;
using glebe::heap::FreeStatus;
using glebe::heap::kMediumMaxBytes;
using glebe::heap::medium_allocate;
using glebe::heap::medium_free;
using glebe::heap::medium_resize;
using glebe::heap::medium_stats;
using glebe::heap::medium_trim;
using glebe::heap::medium_usable;
using glebe::heap::medium_validate;
using glebe::heap::MediumStats;

namespace {

constexpr std::size_t kPage = 4096;

std::byte* take(std::size_t size_bytes, std::size_t align_bytes = kPage, std::uint16_t owner = 0) {
  bool is_zero = false;
  return static_cast<std::byte*>(medium_allocate(size_bytes, align_bytes, owner, &is_zero));
}

bool is_all_zero(const std::byte* block, std::size_t size_bytes) {
  for (std::size_t i = 0; i < size_bytes; i += 64) {
    if (block[i] != std::byte{0}) return false;
  }
  return block[size_bytes - 1] == std::byte{0};
}

// Bytes that are committed apart from metadata and tables.
std::size_t committed_for_blocks() {
  return glebe::vm::ledger.committed_bytes.load() - glebe::vm::ledger.metadata_bytes.load();
}

}  // namespace

TEST_CASE("a medium block has its size, its alignment and a directory entry, and comes back", "[heap]") {
  static_cast<void>(medium_trim());
  const MediumStats before = medium_stats();
  const std::size_t sizes[] = {
      32 * kKiB + 1, 36 * kKiB, 100'000,   256 * kKiB,          kMiB - 1,       2 * kMiB, 2 * kMiB + 1,
      5 * kMiB + 77, 16 * kMiB, 31 * kMiB, kMediumMaxBytes - 1, kMediumMaxBytes};
  for (const std::size_t size : sizes) {
    std::byte* block = take(size);
    REQUIRE(block != nullptr);
    CHECK(medium_usable(block) == glebe::align_up(size, kPage));
    CHECK(glebe::vm::entry_of(block) == glebe::vm::kEntryMedium);
    CHECK(glebe::vm::entry_of(block + size - 1) == glebe::vm::kEntryMedium);
    block[0] = block[size / 2] = block[size - 1] = std::byte{0x5a};
    CHECK(medium_stats().live_bytes - before.live_bytes == medium_usable(block));
    CHECK(medium_stats().live_blocks - before.live_blocks == 1);
    CHECK(medium_validate());
    CHECK(medium_free(block) == FreeStatus::ok);
    CHECK(medium_validate());
  }
  CHECK(medium_stats().live_bytes == before.live_bytes);
  CHECK(medium_stats().allocations - before.allocations == std::size(sizes));
  CHECK(medium_stats().frees - before.frees == std::size(sizes));
}

TEST_CASE("P14 medium blocks have every alignment up to 32 MiB", "[heap]") {
  for (std::size_t align = kPage; align <= kMediumMaxBytes; align *= 2) {
    for (const std::size_t size : {std::size_t{1}, 40 * kKiB, 3 * kMiB, kMediumMaxBytes}) {
      std::byte* block = take(size, align);
      REQUIRE(block != nullptr);
      CHECK(glebe::is_aligned(reinterpret_cast<std::uintptr_t>(block), align));
      block[0] = block[size - 1] = std::byte{1};
      CHECK(medium_free(block) == FreeStatus::ok);
    }
  }
  CHECK(medium_validate());
}

TEST_CASE("S11 a medium pointer that is wrong is told apart and changes nothing", "[heap]") {
  std::byte* block = take(200 * kKiB);
  std::byte* other = take(200 * kKiB);
  REQUIRE(other != nullptr);
  const MediumStats before = medium_stats();
  CHECK(medium_free(block + 1) == FreeStatus::interior);
  CHECK(medium_free(block + 16) == FreeStatus::interior);
  CHECK(medium_free(block + kPage) == FreeStatus::interior);
  CHECK(medium_free(block + 196 * kKiB) == FreeStatus::interior);
  CHECK(medium_usable(block + kPage) == 0);
  CHECK(medium_usable(block + 1) == 0);
  std::byte local{};
  CHECK(medium_free(&local) == FreeStatus::foreign);
  CHECK(medium_usable(&local) == 0);
  CHECK_FALSE(medium_resize(&local, 100));
  CHECK(medium_stats().live_bytes == before.live_bytes);
  CHECK(medium_free(block) == FreeStatus::ok);
  CHECK(medium_free(block) == FreeStatus::double_free);
  CHECK(medium_usable(block) == 0);
  CHECK_FALSE(medium_resize(block, 300 * kKiB));
  CHECK(medium_free(other) == FreeStatus::ok);
  CHECK(medium_free(other) == FreeStatus::double_free);  // merged into a longer free run by now
  CHECK(medium_stats().frees - before.frees == 2);
  CHECK(medium_validate());
}

TEST_CASE("a medium block is called zero only when it is", "[heap]") {
  static_cast<void>(medium_trim());
  constexpr std::size_t kSize = 3 * kMiB + 12345;
  bool is_zero = false;
  auto* block = static_cast<std::byte*>(medium_allocate(kSize, kPage, 0, &is_zero));
  REQUIRE(block != nullptr);
  CHECK(is_zero);  // after a trim nothing dirty is left
  CHECK(is_all_zero(block, kSize));
  std::memset(block, 0xff, kSize);
  REQUIRE(medium_free(block) == FreeStatus::ok);

  auto* again = static_cast<std::byte*>(medium_allocate(kSize, kPage, 0, &is_zero));
  REQUIRE(again != nullptr);
  CHECK((is_zero || again == block));
  CHECK((!is_zero || is_all_zero(again, kSize)));
  std::memset(again, 0xff, kSize);
  std::byte* guard = take(40 * kKiB);  // keeps the range, so that pages are purged and not decommitted
  REQUIRE(medium_free(again) == FreeStatus::ok);
  CHECK(glebe::heap::medium_purge(glebe::os::clock_coarse_ms(), 0, 100) >= glebe::align_up(kSize, kPage));
  auto* purged = static_cast<std::byte*>(medium_allocate(kSize, kPage, 0, &is_zero));
  REQUIRE(purged != nullptr);
  CHECK(is_zero);
  CHECK(is_all_zero(purged, kSize));
  CHECK(medium_free(purged) == FreeStatus::ok);
  CHECK(medium_free(guard) == FreeStatus::ok);
  CHECK(medium_validate());
}

TEST_CASE("a medium block grows and shrinks where it is and keeps its contents", "[heap]") {
  static_cast<void>(medium_trim());
  std::byte* block = take(512 * kKiB);
  REQUIRE(block != nullptr);
  for (std::size_t i = 0; i < 512 * kKiB; i += 8) std::memcpy(block + i, &i, sizeof i);
  CHECK(medium_resize(block, 512 * kKiB - 40 * kKiB));  // less than 64 KiB and a quarter: nothing changes
  CHECK(medium_usable(block) == 512 * kKiB);
  CHECK(medium_resize(block, 448 * kKiB));
  CHECK(medium_usable(block) == 448 * kKiB);
  CHECK(medium_resize(block, 3 * kMiB));  // the only block: what lies behind is free
  CHECK(medium_usable(block) == 3 * kMiB);
  std::memset(block + 512 * kKiB, 0x11, 2 * kMiB);
  bool same = true;
  for (std::size_t i = 0; i < 448 * kKiB; i += 8) same = std::memcmp(block + i, &i, sizeof i) == 0 && same;
  CHECK(same);
  CHECK_FALSE(medium_resize(block, kMediumMaxBytes + 1));
  CHECK_FALSE(medium_resize(block, 0));
  CHECK(medium_validate());

  // A block behind it is in the way.
  CHECK(medium_resize(block, 100 * kKiB));
  CHECK(medium_usable(block) == 100 * kKiB);
  std::byte* neighbour = take(60 * kKiB);
  REQUIRE(neighbour == block + 100 * kKiB);
  CHECK_FALSE(medium_resize(block, 101 * kKiB));
  CHECK(medium_usable(block) == 100 * kKiB);
  CHECK(medium_free(neighbour) == FreeStatus::ok);
  CHECK(medium_resize(block, 101 * kKiB));
  CHECK(medium_resize(block, 40 * kKiB));
  CHECK(medium_usable(block) == 40 * kKiB);
  CHECK(medium_validate());
  CHECK(medium_free(block) == FreeStatus::ok);
}

TEST_CASE("V2 P6 medium memory is back at the baseline after free-all and trim", "[heap]") {
  static_cast<void>(medium_trim());
  const MediumStats before = medium_stats();
  const std::size_t committed_before = committed_for_blocks();
  const std::size_t dirty_before = glebe::vm::ledger.dirty_bytes.load();
  std::vector<std::byte*> blocks;
  for (std::size_t i = 0; i < 200; ++i) {
    blocks.push_back(take(33 * kKiB + i * 4000));
    REQUIRE(blocks.back() != nullptr);
    std::memset(blocks.back(), 0x77, 33 * kKiB + i * 4000);
  }
  std::byte* kept = blocks[100];
  for (std::byte* block : blocks) {
    if (block != kept) REQUIRE(medium_free(block) == FreeStatus::ok);
  }
  static_cast<void>(medium_trim());
  // A trim takes only what is free: the block that is left keeps its contents.
  CHECK(medium_stats().dirty_bytes == 0);
  CHECK(medium_usable(kept) >= 33 * kKiB + 100 * 4000);
  bool same = true;
  for (std::size_t i = 0; i < 33 * kKiB + 100 * 4000; ++i) same = same && kept[i] == std::byte{0x77};
  CHECK(same);
  CHECK(medium_stats().range_bytes > before.range_bytes);
  REQUIRE(medium_free(kept) == FreeStatus::ok);
  CHECK(medium_trim() > 0);
  CHECK(medium_stats().range_bytes == before.range_bytes);
  CHECK(medium_stats().dirty_bytes == before.dirty_bytes);
  CHECK(committed_for_blocks() == committed_before);
  CHECK(glebe::vm::ledger.dirty_bytes.load() == dirty_before);
  CHECK(medium_validate());
}

TEST_CASE("V2 dirty medium pages are purged when they have been free long enough, not before", "[heap]") {
  static_cast<void>(medium_trim());
  constexpr std::size_t kSize = 8 * kMiB;
  std::byte* block = take(2 * kSize);
  REQUIRE(medium_resize(block, kSize));
  std::byte* guard = take(kSize);  // keeps the range
  REQUIRE(guard == block + kSize);
  std::memset(block, 1, kSize);
  std::memset(guard, 1, kSize);
  CHECK(glebe::os::resident_bytes(block, kSize) == kSize);
  REQUIRE(medium_free(block) == FreeStatus::ok);
  CHECK(medium_stats().dirty_bytes == kSize);
  std::uint64_t now = glebe::os::clock_coarse_ms();
  CHECK(glebe::heap::medium_purge(now, 1000, 100) == 0);
  CHECK(glebe::os::resident_bytes(block, kSize) == kSize);
  std::size_t purged = 0;
  for (int delays = 0; delays < 5; ++delays) purged += glebe::heap::medium_purge(now += 1001, 1000, 100);
  CHECK(purged == kSize);
  CHECK(glebe::os::resident_bytes(block, kSize) == 0);
  CHECK(glebe::os::resident_bytes(guard, kSize) == kSize);
  CHECK(medium_stats().dirty_bytes == 0);
  CHECK(medium_validate());
  REQUIRE(medium_free(guard) == FreeStatus::ok);
}

TEST_CASE("the blocks of one owner go together, all others stay", "[heap]") {
  const MediumStats before = medium_stats();
  std::vector<std::byte*> kept;
  for (std::uint16_t i = 0; i < 60; ++i) {
    const auto owner = static_cast<std::uint16_t>(i % 3);
    std::byte* block = take(50 * kKiB + i * kPage, kPage, owner);
    REQUIRE(block != nullptr);
    CHECK(glebe::heap::medium_owner(block) == owner);
    block[0] = static_cast<std::byte>(i);
    if (owner != 2) kept.push_back(block);
  }
  struct Seen {
    std::size_t blocks[3] = {};
  } seen;
  const auto visit = [](void* context, void*, std::size_t, std::uint16_t owner) {
    if (owner < 3) ++static_cast<Seen*>(context)->blocks[owner];
  };
  glebe::heap::medium_walk(visit, &seen);
  CHECK(seen.blocks[1] == 20);
  CHECK(seen.blocks[2] == 20);
  glebe::heap::medium_free_owner(2);
  seen = Seen{};
  glebe::heap::medium_walk(visit, &seen);
  CHECK(seen.blocks[1] == 20);
  CHECK(seen.blocks[2] == 0);
  CHECK(medium_stats().live_blocks - before.live_blocks == kept.size());
  CHECK(medium_validate());
  for (std::byte* block : kept) REQUIRE(medium_free(block) == FreeStatus::ok);
  CHECK(medium_stats().live_bytes == before.live_bytes);
}

struct Held {
  std::size_t size;
  std::uint64_t stamp;
};

TEST_CASE("P11 random medium blocks never overlap and keep their contents", "[heap]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  const MediumStats before = medium_stats();
  std::map<std::byte*, Held> held;
  Expect expect;
  const auto write = [](std::byte* block, const Held& is) {
    std::memcpy(block, &is.stamp, 8);
    std::memcpy(block + is.size - 8, &is.stamp, 8);
  };
  const auto check = [&](std::byte* block, const Held& is) {
    expect(std::memcmp(block, &is.stamp, 8) == 0);
    expect(std::memcmp(block + is.size - 8, &is.stamp, 8) == 0);
  };
  for (std::uint32_t i = 0; i < 30000; ++i) {
    const std::uint32_t dice = random.below32(100);
    if (dice < 50 && held.size() < 300) {
      const std::size_t size = 32 * kKiB + 1 + random.below(std::uint64_t{1} << (14 + random.below(9)));
      const std::size_t align = random.one_in(5) ? kPage << random.below(10) : kPage;
      bool is_zero = false;
      auto* block = static_cast<std::byte*>(medium_allocate(size, align, 0, &is_zero));
      if (!expect(block != nullptr)) break;
      expect(glebe::is_aligned(reinterpret_cast<std::uintptr_t>(block), align));
      if (is_zero) expect(block[0] == std::byte{0} && block[size - 1] == std::byte{0});
      const auto next = held.lower_bound(block);
      expect(next == held.end() || block + size <= next->first);
      expect(next == held.begin() || std::prev(next)->first + std::prev(next)->second.size <= block);
      write(block, held[block] = {size, random.next()});
    } else if (!held.empty()) {
      auto victim = held.lower_bound(
          std::next(held.begin(), random.below32(static_cast<std::uint32_t>(held.size())))->first);
      check(victim->first, victim->second);
      if (dice < 80) {
        expect(medium_free(victim->first) == FreeStatus::ok);
        held.erase(victim);
      } else {
        const std::size_t size = 32 * kKiB + 1 + random.below(2 * victim->second.size);
        std::memset(victim->first + victim->second.size - 8, 0, 8);
        const bool resized = size <= kMediumMaxBytes && medium_resize(victim->first, size);
        expect(resized || size > victim->second.size);
        if (resized) victim->second.size = size;
        expect(medium_usable(victim->first) >= victim->second.size);
        write(victim->first, victim->second);
      }
    }
    if (random.one_in(400)) glebe::heap::medium_purge(glebe::os::clock_coarse_ms(), 0, 2);
    if (random.one_in(2000)) static_cast<void>(medium_trim());
    if (random.one_in(200)) expect(medium_validate());
  }
  for (const auto& [block, is] : held) {
    check(block, is);
    expect(medium_free(block) == FreeStatus::ok);
  }
  REQUIRE(expect.failed_line() == 0);
  CHECK(medium_validate());
  CHECK(medium_stats().live_bytes == before.live_bytes);
}

TEST_CASE("P16 threads that free each other's medium blocks leave exact counters", "[heap]") {
  const MediumStats before = medium_stats();
  constexpr unsigned kThreads = 4;
  constexpr unsigned kSlots = 64;
  constexpr unsigned kSteps = 3000;
  std::atomic<std::byte*> slots[kSlots] = {};
  std::atomic<unsigned> wrong{0};
  const auto work = [&](unsigned index) {
    Random random(test_seed() + index);
    for (unsigned i = 0; i < kSteps; ++i) {
      const std::size_t size = 33 * kKiB + random.below(400 * kKiB);
      std::byte* block = take(size);
      if (block == nullptr) {
        ++wrong;
        continue;
      }
      // Both ends say which block this is; whoever takes it out of its slot looks at them.
      std::memcpy(block, &block, 8);
      std::memcpy(block + medium_usable(block) - 8, &block, 8);
      block = slots[random.below(kSlots)].exchange(block);
      if (block == nullptr) continue;
      if (std::memcmp(block, &block, 8) != 0) ++wrong;
      if (std::memcmp(block + medium_usable(block) - 8, &block, 8) != 0) ++wrong;
      if (medium_free(block) != FreeStatus::ok) ++wrong;
      if (i % 500 == 0) glebe::heap::medium_purge(glebe::os::clock_coarse_ms(), 0, 4);
      if (i % 1000 == 0) static_cast<void>(medium_trim());
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong.load() == 0);
  CHECK(medium_validate());
  for (std::atomic<std::byte*>& slot : slots) {
    if (slot.load() != nullptr) CHECK(medium_free(slot.load()) == FreeStatus::ok);
  }
  const MediumStats after = medium_stats();
  CHECK(after.live_bytes == before.live_bytes);
  CHECK(after.live_blocks == before.live_blocks);
  CHECK(after.allocations - before.allocations == kThreads * kSteps);
  CHECK(after.frees - before.frees == kThreads * kSteps);
  CHECK(medium_validate());
}
