// Large blocks: if this fails, big buffers overlap, lose their contents, are copied without need, or keep
// memory.
#include "src/heap/large.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "platform/process.h"
#include "platform/vm.h"
#include "src/heap/large_table.h"
#include "src/heap/reclaim.h"
#include "src/vm/chunk.h"
#include "src/vm/ledger.h"
#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;
using heap::FreeStatus;

namespace {

constexpr std::size_t kPage = vm::kPageBytes;
constexpr std::size_t kSlot = 64 * kMiB;

// Huge pages would make resident bytes depend on the machine.
struct SmallPages {
  SmallPages() { vm::chunk_policy.huge_pages = false; }
  ~SmallPages() { vm::chunk_policy.huge_pages = true; }
};

std::byte* allocate(std::size_t size_bytes, std::size_t align_bytes = kPage, std::uint16_t owner = 0) {
  bool is_zero = false;
  return static_cast<std::byte*>(heap::large_allocate(size_bytes, align_bytes, owner, &is_zero));
}

// A number at the start of every `stride` bytes and at the end.
void write_marks(std::byte* block, std::size_t size_bytes, std::size_t stride, std::uint64_t mark) {
  for (std::size_t at = 0; at + 8 <= size_bytes; at += stride) {
    const std::uint64_t value = mark + at;
    std::memcpy(block + at, &value, 8);
  }
}
bool marks_hold(const std::byte* block, std::size_t size_bytes, std::size_t stride, std::uint64_t mark) {
  for (std::size_t at = 0; at + 8 <= size_bytes; at += stride) {
    std::uint64_t value = 0;
    std::memcpy(&value, block + at, 8);
    if (value != mark + at) return false;
  }
  return true;
}

std::size_t committed() { return vm::ledger.committed_bytes.load() - vm::ledger.metadata_bytes.load(); }
std::size_t dirty() { return vm::ledger.dirty_bytes.load(); }

bool has_slots() { return vm::ensure_primary() && vm::regions[0].large.base != nullptr; }

// Gives back what earlier tests left free anywhere, so that a test starts from nothing: a large block that is
// refused would give it back in the middle.
struct CleanHeap {
  CleanHeap() {
    static_cast<void>(vm::ensure_primary());
    static_cast<void>(heap::release_free_memory());
  }
  ~CleanHeap() { heap::large_trim(); }
  SmallPages small_pages;
};

}  // namespace

TEST_CASE("L1 a large block is given out, used to its last byte and given back", "[heap]") {
  CleanHeap clean;
  const std::size_t before = committed();
  bool is_zero = false;
  auto* block = static_cast<std::byte*>(heap::large_allocate(40 * kMiB + 1, kPage, 7, &is_zero));
  REQUIRE(block != nullptr);
  REQUIRE(is_zero);
  REQUIRE(heap::large_usable(block) == 40 * kMiB + kPage);
  REQUIRE(heap::large_owner(block) == 7);
  REQUIRE(heap::large_contains(block));
  REQUIRE(heap::large_contains(block + 40 * kMiB));
  REQUIRE(block[0] == std::byte{0});
  REQUIRE(block[40 * kMiB + kPage - 1] == std::byte{0});
  write_marks(block, 40 * kMiB + kPage, kMiB, 1);
  REQUIRE(committed() == before + 40 * kMiB + kPage);
  REQUIRE(heap::large_validate());
  REQUIRE(heap::large_free(block) == FreeStatus::ok);
  REQUIRE(heap::large_usable(block) == 0);
  heap::large_trim();
  REQUIRE(committed() == before);  // V2
  REQUIRE(heap::large_validate());
}

TEST_CASE("S11 wrong pointers to large blocks are told apart", "[heap]") {
  CleanHeap clean;
  int local = 0;
  REQUIRE(heap::large_free(&local) == FreeStatus::foreign);
  REQUIRE(heap::large_free(nullptr) == FreeStatus::foreign);
  REQUIRE_FALSE(heap::large_contains(&local));
  REQUIRE_FALSE(heap::large_contains(nullptr));
  std::byte* block = allocate(40 * kMiB);
  REQUIRE(block != nullptr);
  REQUIRE(heap::large_free(block + 16) == FreeStatus::interior);
  REQUIRE(heap::large_free(block + 40 * kMiB - 1) == FreeStatus::interior);
  REQUIRE(heap::large_usable(block + 16) == 0);
  REQUIRE(heap::large_owner(block + 16) == 0);
  REQUIRE(heap::large_free(block) == FreeStatus::ok);
  REQUIRE(heap::large_free(block) == FreeStatus::double_free);  // idle
  REQUIRE(heap::large_free(block + 16) == FreeStatus::foreign);
  heap::large_trim();
  REQUIRE(heap::large_free(block) == (has_slots() ? FreeStatus::double_free : FreeStatus::foreign));
  REQUIRE_FALSE(heap::large_resize(block, 41 * kMiB));
  REQUIRE(heap::large_move(block, 500 * kMiB) == nullptr);
  REQUIRE(heap::large_validate());
}

TEST_CASE("P13 sizes that no system can give return nullptr and change nothing", "[heap]") {
  CleanHeap clean;
  const std::size_t before = committed();
  const std::size_t reserved = vm::ledger.reserved_bytes.load();
  const std::size_t max = ~std::size_t{0};
  for (std::size_t size : {std::size_t{0}, max, max / 2, max / 2 + 1, max - 4096, max / 2 - kPage, max / 4}) {
    REQUIRE(allocate(size) == nullptr);
  }
  std::byte* block = allocate(40 * kMiB);
  REQUIRE_FALSE(heap::large_resize(block, max));
  REQUIRE_FALSE(heap::large_resize(block, 0));
  REQUIRE(heap::large_move(block, max / 2) == nullptr);
  REQUIRE(heap::large_usable(block) == 40 * kMiB);
  REQUIRE(heap::large_free(block) == FreeStatus::ok);
  heap::large_trim();
  REQUIRE(committed() == before);
  if (has_slots()) REQUIRE(vm::ledger.reserved_bytes.load() == reserved);
  REQUIRE(heap::large_validate());
}

TEST_CASE("P14 every power-of-two alignment up to 4 GiB is honoured", "[heap]") {
  CleanHeap clean;
  const std::size_t align_max = has_slots() ? 4 * kGiB : 64 * kMiB;
  std::vector<std::byte*> blocks;
  for (std::size_t align = kPage; align <= align_max; align *= 2) {
    std::byte* block = allocate(align < kMiB ? 33 * kMiB : 100'000, align);
    REQUIRE(block != nullptr);
    REQUIRE(is_aligned(reinterpret_cast<std::uintptr_t>(block), align));
    block[0] = std::byte{1};
    block[99'999] = std::byte{1};
    blocks.push_back(block);
  }
  for (std::byte* block : blocks) REQUIRE(heap::large_free(block) == FreeStatus::ok);
  REQUIRE(heap::large_validate());
}

TEST_CASE("L6 only what was asked for and touched is resident, and it comes back", "[heap]") {
  CleanHeap clean;
  std::byte* block = allocate(200 * kMiB);
  REQUIRE(block != nullptr);
  REQUIRE(os::resident_bytes(block, 200 * kMiB) < 64 * kKiB);
  std::memset(block, 1, 8 * kMiB);
  const std::size_t resident = os::resident_bytes(block, 200 * kMiB);
  REQUIRE(resident >= 8 * kMiB);
  REQUIRE(resident < 9 * kMiB);
  REQUIRE(heap::large_resize(block, 4 * kMiB));
  REQUIRE(heap::large_stats().live_bytes >= 4 * kMiB);
  REQUIRE(os::resident_bytes(block, 4 * kMiB) == 4 * kMiB);
  const std::size_t before = committed();
  REQUIRE(heap::large_free(block) == FreeStatus::ok);
  heap::large_trim();
  REQUIRE(committed() == before - 4 * kMiB);
}

TEST_CASE("L6 a block grows in place to the end of its slot and keeps its contents", "[heap]") {
  if (!has_slots()) return;
  CleanHeap clean;
  std::byte* block = allocate(33 * kMiB);
  write_marks(block, 33 * kMiB, kPage, 5);
  const std::size_t grown = heap::large_stats().grown_in_place;
  REQUIRE(heap::large_resize(block, 50 * kMiB));
  REQUIRE(heap::large_usable(block) == 50 * kMiB);
  REQUIRE(block[50 * kMiB - 1] == std::byte{0});
  REQUIRE(heap::large_resize(block, kSlot));
  REQUIRE_FALSE(heap::large_resize(block, kSlot + 1));  // mut-E07
  REQUIRE(heap::large_usable(block) == kSlot);
  REQUIRE(heap::large_stats().grown_in_place == grown + 2);
  REQUIRE(marks_hold(block, 33 * kMiB, kPage, 5));
  REQUIRE(heap::large_resize(block, kSlot));  // the same size again
  REQUIRE(heap::large_resize(block, kSlot - 3 * kPage));
  REQUIRE(heap::large_usable(block) == kSlot - 3 * kPage);
  REQUIRE(heap::large_validate());
  REQUIRE(heap::large_free(block) == FreeStatus::ok);
}

TEST_CASE("L6 shrinking takes the tail away, and growing again finds zeros", "[heap]") {
  CleanHeap clean;
  std::byte* block = allocate(60 * kMiB);
  std::memset(block, 0xAB, 60 * kMiB);
  const std::size_t before = committed();
  REQUIRE(heap::large_resize(block, 40 * kMiB));
  REQUIRE(committed() == before - 20 * kMiB);
  REQUIRE(heap::large_resize(block, 60 * kMiB));
  REQUIRE(committed() == before);
  REQUIRE(block[40 * kMiB - 1] == std::byte{0xAB});
  REQUIRE(block[40 * kMiB] == std::byte{0});
  REQUIRE(block[60 * kMiB - 1] == std::byte{0});
  REQUIRE(heap::large_validate());
  REQUIRE(heap::large_free(block) == FreeStatus::ok);
}

TEST_CASE("L6 beyond its slot a block moves without losing a byte, many times over", "[heap]") {
  CleanHeap clean;
  std::byte* block = allocate(40 * kMiB);
  write_marks(block, 40 * kMiB, 64 * kKiB, 9);
  std::size_t size = 40 * kMiB;
  std::size_t moves = 0;
  while (size < 900 * kMiB) {
    const std::size_t new_size = size * 2 - 5 * kPage;
    const std::size_t before = committed();
    if (!heap::large_resize(block, new_size)) {
      auto* moved = static_cast<std::byte*>(heap::large_move(block, new_size));
      REQUIRE(heap::large_validate());
      if (moved == nullptr) break;  // a system that cannot move pages, see the check below
      REQUIRE(moved != block);
      REQUIRE(heap::large_usable(block) == 0);
      block = moved;
      ++moves;
    }
    REQUIRE(heap::large_usable(block) == new_size);
    REQUIRE(committed() == before + (new_size - size));
    REQUIRE(marks_hold(block, size, 64 * kKiB, 9));
    REQUIRE(block[new_size - 1] == std::byte{0});
    write_marks(block, new_size, 64 * kKiB, 9);
    size = new_size;
  }
#if defined(_WIN32)
  REQUIRE(moves == 0);
  REQUIRE(heap::large_usable(block) == size);
#else
  REQUIRE(moves >= 3);
#endif
  REQUIRE(marks_hold(block, size, 64 * kKiB, 9));
  REQUIRE(heap::large_free(block) == FreeStatus::ok);
  heap::large_trim();
  REQUIRE(heap::large_validate());
}

TEST_CASE("L7 the same large requests get the same addresses again", "[heap]") {
  if (!has_slots()) return;
  CleanHeap clean;
  std::vector<std::byte*> first;
  for (int round = 0; round < 3; ++round) {
    std::vector<std::byte*> blocks;
    for (int i = 0; i < 20; ++i) blocks.push_back(allocate(40 * kMiB));
    for (std::byte* block : blocks) REQUIRE(heap::large_free(block) == FreeStatus::ok);
    heap::large_trim();
    std::sort(blocks.begin(), blocks.end());
    REQUIRE(std::adjacent_find(blocks.begin(), blocks.end()) == blocks.end());
    if (round == 0) first = blocks;
    REQUIRE(blocks == first);
  }
}

TEST_CASE("V2 a freed block keeps its pages for a while, in bounds, and a loop does not fault them again",
          "[heap]") {
  CleanHeap clean;
  std::byte* block = allocate(40 * kMiB);
  std::memset(block, 1, 40 * kMiB);
  REQUIRE(heap::large_free(block) == FreeStatus::ok);
  REQUIRE(heap::large_stats().idle_bytes == 40 * kMiB);
  REQUIRE(dirty() == 40 * kMiB);
  const std::size_t decommits = os::vm_calls().decommit;
  bool is_zero = true;
  auto* again = static_cast<std::byte*>(heap::large_allocate(40 * kMiB, kPage, 0, &is_zero));
  REQUIRE(again == block);
  REQUIRE_FALSE(is_zero);
  REQUIRE(again[5 * kMiB] == std::byte{1});  // the pages were never given back
  REQUIRE(heap::large_stats().idle_bytes == 0);
  REQUIRE(dirty() == 0);
  REQUIRE(os::vm_calls().decommit == decommits);
  REQUIRE(heap::large_free(again) == FreeStatus::ok);
  std::byte* longer = allocate(63 * kMiB);  // more than a quarter would be missing
  REQUIRE(longer != again);
  REQUIRE(heap::large_free(longer) == FreeStatus::ok);
  REQUIRE(heap::large_stats().idle_bytes == 63 * kMiB);  // together above 64 MiB: the older one went
  heap::large_trim();
  REQUIRE(heap::large_stats().idle_bytes == 0);
  REQUIRE(heap::large_validate());
}

TEST_CASE("V2 the idle cache holds at most 64 MiB or an eighth of what is live", "[heap]") {
  CleanHeap clean;
  std::byte* huge = allocate(1600 * kMiB);
  REQUIRE(huge != nullptr);
  std::vector<std::byte*> blocks;
  for (int i = 0; i < 10; ++i) blocks.push_back(allocate(40 * kMiB));
  for (std::byte* block : blocks) {
    REQUIRE(heap::large_free(block) == FreeStatus::ok);
    const heap::LargeStats stats = heap::large_stats();
    REQUIRE(stats.idle_bytes <= stats.live_bytes / 8);
  }
  REQUIRE(heap::large_stats().idle_bytes == 200 * kMiB);
  REQUIRE(heap::large_free(huge) == FreeStatus::ok);  // above 1 GiB: never kept
  REQUIRE(heap::large_stats().idle_bytes == 200 * kMiB);
  REQUIRE(heap::large_validate());
  std::byte* next = allocate(100 * kMiB);
  REQUIRE(heap::large_free(next) == FreeStatus::ok);
  REQUIRE(heap::large_stats().idle_bytes <= 64 * kMiB);
}

TEST_CASE("V2 idle blocks go when they are due and not before", "[heap]") {
  CleanHeap clean;
  std::byte* block = allocate(40 * kMiB);
  std::memset(block, 1, 40 * kMiB);
  REQUIRE(heap::large_free(block) == FreeStatus::ok);
  const std::size_t before = committed();
  const std::size_t purged = vm::ledger.purged_bytes_total.load();
  const std::uint64_t now = os::clock_coarse_ms();
  REQUIRE(heap::large_purge(now + 100, 60'000) == 0);
  REQUIRE(heap::large_purge(now - 50, 1) == 0);  // a clock that is behind
  REQUIRE(committed() == before);
  REQUIRE(heap::large_purge(now + 60'001, 60'000) == 40 * kMiB);
  REQUIRE(committed() == before - 40 * kMiB);
  REQUIRE(vm::ledger.purged_bytes_total.load() == purged + 40 * kMiB);
  REQUIRE(dirty() == 0);
  bool is_zero = false;
  auto* fresh = static_cast<std::byte*>(heap::large_allocate(40 * kMiB, kPage, 0, &is_zero));
  REQUIRE(is_zero);
  REQUIRE(fresh[0] == std::byte{0});
  REQUIRE(fresh[40 * kMiB - 1] == std::byte{0});
  REQUIRE(heap::large_free(fresh) == FreeStatus::ok);
}

TEST_CASE("L1 the blocks of one owner are freed at once, those of others stay", "[heap]") {
  CleanHeap clean;
  std::vector<std::byte*> mine, other;
  for (int i = 0; i < 10; ++i) {
    mine.push_back(allocate(33 * kMiB, kPage, 3));
    other.push_back(allocate(33 * kMiB, kPage, 4));
  }
  const std::size_t live = heap::large_stats().live_blocks;
  struct Seen {
    std::size_t blocks[5] = {};
    bool sizes_agree = true;
  } seen;
  heap::large_walk(
      [](void* context, void* address, std::size_t size, std::uint16_t owner) {
        auto& result = *static_cast<Seen*>(context);
        ++result.blocks[owner < 5 ? owner : 0];
        result.sizes_agree = result.sizes_agree && size == 33 * kMiB && address != nullptr;
      },
      &seen);
  REQUIRE(seen.blocks[3] == 10);
  REQUIRE(seen.blocks[4] == 10);
  REQUIRE(seen.sizes_agree);
  heap::large_free_owner(3);
  REQUIRE(heap::large_stats().live_blocks == live - 10);
  for (std::byte* block : mine) REQUIRE(heap::large_usable(block) == 0);
  for (std::byte* block : other) {
    REQUIRE(heap::large_owner(block) == 4);
    REQUIRE(heap::large_free(block) == FreeStatus::ok);
  }
  REQUIRE(heap::large_validate());
}

TEST_CASE("L5 where no slot is left a block has a reservation of its own", "[heap]") {
  CleanHeap clean;
  const vm::LargeSpace& space = vm::regions[0].large;
  const std::size_t align = has_slots() ? std::size_t{1} << space.subrange_shift : kSlot;
  std::byte* slot = allocate(40 * kMiB, align);  // the only slot of the longest kind
  REQUIRE(slot != nullptr);
  const std::size_t reserved = vm::ledger.reserved_bytes.load();
  std::byte* own = allocate(40 * kMiB, align);
  REQUIRE(own != nullptr);
  REQUIRE(is_aligned(reinterpret_cast<std::uintptr_t>(own), align));
  REQUIRE(vm::ledger.reserved_bytes.load() == reserved + 40 * kMiB);
  REQUIRE(heap::large_contains(own));
  REQUIRE(heap::large_contains(own + 40 * kMiB - 1));
  REQUIRE_FALSE(heap::large_contains(own + 40 * kMiB));
  REQUIRE_FALSE(heap::large_contains(own - 1));
  REQUIRE(heap::large_usable(own) == 40 * kMiB);
  REQUIRE(heap::large_free(own + 16) == FreeStatus::interior);
  write_marks(own, 40 * kMiB, kMiB, 3);
  REQUIRE_FALSE(heap::large_resize(own, 41 * kMiB));
  REQUIRE(heap::large_resize(own, 39 * kMiB));
  REQUIRE(marks_hold(own, 39 * kMiB, kMiB, 3));
  REQUIRE(heap::large_validate());
  if (auto* moved = static_cast<std::byte*>(heap::large_move(own, 50 * kMiB))) {
    REQUIRE(marks_hold(moved, 39 * kMiB, kMiB, 3));
    REQUIRE_FALSE(heap::large_contains(own));
    own = moved;
  }
  REQUIRE(heap::large_free(own) == FreeStatus::ok);
  REQUIRE(heap::large_free(slot) == FreeStatus::ok);
  heap::large_trim();
  if (has_slots()) REQUIRE(vm::ledger.reserved_bytes.load() == reserved);
  REQUIRE(heap::large_validate());
}

TEST_CASE("L1 a frozen table finds its reservations again and places no slot", "[heap]") {
  static constinit heap::LargeTable table;
  std::vector<heap::LargeRecord*> slots, own;
  for (int i = 0; i < 3; ++i) {
    if (has_slots()) slots.push_back(table.place(40 * kMiB, kPage));
  }
  const std::size_t align = has_slots() ? std::size_t{1} << vm::regions[0].large.subrange_shift : kSlot;
  while (own.size() < 5) {
    heap::LargeRecord* record = table.place(kMiB, align);
    REQUIRE(record != nullptr);
    record->state = heap::LargeState::live;
    (record->is(heap::LargeRecord::kReservation) ? own : slots).push_back(record);
  }
  REQUIRE(table.validate());
  own[1]->state = heap::LargeState::closing;
  table.freeze();
  REQUIRE(table.is_frozen());
  for (heap::LargeRecord* record : slots) REQUIRE(table.find(record->base) == record);
  for (heap::LargeRecord* record : own) {
    REQUIRE(table.find(record->base + 5) == (record == own[1] ? nullptr : record));
  }
  heap::LargeRecord* later = table.place(40 * kMiB, kPage);
  REQUIRE(later != nullptr);
  REQUIRE(later->is(heap::LargeRecord::kReservation));
  own.push_back(later);
  for (heap::LargeRecord* record : own) {
    const heap::LargeTable::Addresses left{record->base, record->capacity_bytes};
    if (record != own[1]) {
      record->state = heap::LargeState::closing;
      REQUIRE(table.remove(*record).base == left.base);
      REQUIRE(table.find(left.base) == nullptr);
    }
    os::release(left.base, left.size_bytes);
    vm::ledger.reserved_bytes.fetch_sub(left.size_bytes);
  }
  REQUIRE_FALSE(table.may_contain(later->base));
}

TEST_CASE("L3 random large operations with contents, counters and validation", "[heap]") {
  CleanHeap clean;
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Expect expect;
  struct Block {
    std::byte* base;
    std::size_t size;
    std::uint64_t mark;
  };
  std::vector<Block> blocks;
  constexpr std::size_t kStride = kMiB;
  for (std::uint32_t step = 0; step < 3000; ++step) {
    const std::uint32_t dice = random.below32(10);
    if (dice < 4 && blocks.size() < 24) {
      const std::size_t size = kPage + random.below(random.one_in(8) ? 300 * kMiB : 80 * kMiB);
      const std::size_t align = kPage << random.below(random.one_in(4) ? 16 : 2);
      bool is_zero = false;
      auto* base = static_cast<std::byte*>(heap::large_allocate(size, align, 1, &is_zero));
      if (!expect(base != nullptr)) break;
      expect(is_aligned(reinterpret_cast<std::uintptr_t>(base), align));
      if (is_zero) expect(base[0] == std::byte{0} && base[random.below(size)] == std::byte{0});
      blocks.push_back({base, heap::large_usable(base), random.next()});
      expect(blocks.back().size == align_up(size, kPage));
      write_marks(base, blocks.back().size, kStride, blocks.back().mark);
      continue;
    }
    if (blocks.empty()) continue;
    std::swap(blocks[random.below(blocks.size())], blocks.back());
    Block& block = blocks.back();
    expect(marks_hold(block.base, block.size, kStride, block.mark));
    if (dice < 7) {
      const std::size_t size = align_up(1 + random.below(2 * block.size), kPage);
      std::byte* base = block.base;
      if (!heap::large_resize(base, size)) base = static_cast<std::byte*>(heap::large_move(base, size));
      if (base != nullptr) {
        expect(heap::large_usable(base) == size);
        expect(marks_hold(base, std::min(size, block.size), kStride, block.mark));
        block.base = base;
        block.size = size;
        write_marks(base, size, kStride, block.mark);
      }
    } else {
      expect(heap::large_free(block.base) == FreeStatus::ok);
      blocks.pop_back();
      if (random.one_in(8)) heap::large_purge(os::clock_coarse_ms(), random.one_in(2) ? 0 : 5);
    }
    if (step % 16 == 0) expect(heap::large_validate());
  }
  for (const Block& block : blocks) {
    expect(marks_hold(block.base, block.size, kStride, block.mark));
    expect(heap::large_free(block.base) == FreeStatus::ok);
  }
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(heap::large_stats().live_blocks == 0);
  heap::large_trim();
  REQUIRE(heap::large_stats().live_bytes == 0);
  REQUIRE(heap::large_validate());
}

TEST_CASE("P16 four threads with large blocks, frees by other threads, balanced in the end", "[heap]") {
  CleanHeap clean;
  const heap::LargeStats before = heap::large_stats();
  constexpr unsigned kThreads = 4, kRounds = 200;
  std::atomic<std::byte*> handed[kThreads] = {};
  std::atomic<unsigned> errors{0};
  std::vector<std::thread> threads;
  for (unsigned self = 0; self < kThreads; ++self) {
    threads.emplace_back([&, self] {
      for (unsigned round = 0; round < kRounds; ++round) {
        const std::size_t size = (33 + (round * 7 + self) % 60) * kMiB;
        std::byte* block = allocate(size, kPage, static_cast<std::uint16_t>(self));
        if (block == nullptr) {
          ++errors;
          continue;
        }
        write_marks(block, size, 4 * kMiB, self);
        if (round % 5 == 0 && !heap::large_resize(block, size - kMiB)) ++errors;
        if (!marks_hold(block, size - kMiB, 4 * kMiB, self)) ++errors;
        block = handed[(self + 1) % kThreads].exchange(block);
        if (block != nullptr && heap::large_free(block) != FreeStatus::ok) ++errors;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::atomic<std::byte*>& block : handed) REQUIRE(heap::large_free(block.load()) == FreeStatus::ok);
  REQUIRE(errors.load() == 0);
  const heap::LargeStats after = heap::large_stats();
  REQUIRE(after.live_blocks == before.live_blocks);
  REQUIRE(after.live_bytes == before.live_bytes);
  REQUIRE(after.allocations - before.allocations == kThreads * kRounds);
  REQUIRE(after.frees - before.frees == kThreads * kRounds);
  REQUIRE(heap::large_validate());
}
