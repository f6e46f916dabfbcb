// Small blocks as seen through the front of the heap: size classes, alignment, slabs that come and go,
// misuse, calloc and realloc.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "platform/vm.h"
#include "src/heap/granule_pool.h"
#include "src/heap/small.h"
#include "src/vm/chunk.h"
#include "tests/heap_calls.h"

#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;
using namespace glebe::heap;

namespace {

// First-class heaps have no magazines: each call reaches the slabs, so that a test sees them at once.
struct DirectHeap {
  Heap* heap = create_heap();
  DirectHeap() = default;
  ~DirectHeap() { destroy_heap(heap); }
  DirectHeap(const DirectHeap&) = delete;
  DirectHeap& operator=(const DirectHeap&) = delete;
  [[nodiscard]] void* take(std::size_t size_bytes) const { return allocate_from(heap, size_bytes, 0); }
};

std::uintptr_t number(const void* address) { return reinterpret_cast<std::uintptr_t>(address); }

// Huge pages make memory resident that nobody touched.
struct NoHugePages {
  vm::ChunkPolicy before = vm::chunk_policy;
  NoHugePages() { vm::chunk_policy.huge_pages = false; }
  ~NoHugePages() { vm::chunk_policy = before; }
  NoHugePages(const NoHugePages&) = delete;
  NoHugePages& operator=(const NoHugePages&) = delete;
};

}  // namespace

TEST_CASE("S9 every size gets the smallest class that holds it, within the stated waste", "[heap]") {
  Expect expect;
  for (std::size_t size = 1; size <= kSmallMaxBytes; ++size) {
    const unsigned size_class = class_of(size);
    const std::size_t bytes = class_bytes(size_class);
    expect(size_class < kClassCount && bytes >= size);
    expect(size_class == 0 || class_bytes(size_class - 1) < size);
    expect(class_offset_of(size) == size_class * sizeof(Slot));
    expect(class_infos[size_class].block_bytes == bytes);
    expect(size <= 256 ? bytes - size < 16 : (bytes - size) * 9 <= bytes);
  }
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(class_bytes(class_of(10)) == 16);
  REQUIRE(class_bytes(class_of(17)) == 32);
  REQUIRE(class_bytes(class_of(257)) == 288);
  REQUIRE(class_bytes(class_of(32769 - 1)) == 32768);
}

TEST_CASE("S9 mut-E01 blocks of every size 1 to 32 KiB hold what was asked and do not overlap", "[heap]") {
  const HeapCounts before = trimmed_counts();
  struct Block {
    unsigned char* at;
    std::size_t size;
  };
  std::vector<Block> blocks;
  Expect expect;
  for (std::size_t size = 1; size <= kSmallMaxBytes + 64; size += size < 2048 ? 1 : 37) {
    auto* at = static_cast<unsigned char*>(allocate(size));
    if (!expect(at != nullptr)) break;
    expect(number(at) % (size >= 16 ? 16 : 8) == 0);
    expect(usable_bytes(at) >= size);
    expect(size > kSmallMaxBytes || usable_bytes(at) == class_bytes(class_of(size)));
    expect(rounded_bytes(size) == usable_bytes(at));
    write_pattern(at, size, size);
    blocks.push_back({at, size});
  }
  for (const Block& block : blocks) expect(has_pattern(block.at, block.size, block.size));
  for (const Block& block : blocks) release(block.at);
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("mut-D02 a request above the largest small class is a medium block of full size", "[heap]") {
  for (const std::size_t size :
       {kSmallMaxBytes + 1, 2 * kSmallMaxBytes, kMediumMaxBytes, kMediumMaxBytes + 1}) {
    auto* block = static_cast<unsigned char*>(allocate(size));
    REQUIRE(block != nullptr);
    REQUIRE(usable_bytes(block) >= size);
    block[0] = 1;
    block[size - 1] = 2;
    REQUIRE((block[0] == 1 && block[size - 1] == 2));
    release(block);
  }
}

TEST_CASE("mut-E02 blocks of a slab are distinct, inside it and found again by their address", "[heap]") {
  DirectHeap direct;
  Expect expect;
  for (unsigned c = 0; c < kClassCount; ++c) {
    const ClassInfo& info = class_infos[c];
    std::vector<std::uintptr_t> starts;
    for (unsigned i = 0; i < info.blocks + 1u; ++i) starts.push_back(number(direct.take(info.block_bytes)));
    std::sort(starts.begin(), starts.end());
    for (std::size_t i = 1; i < starts.size(); ++i) expect(starts[i] - starts[i - 1] >= info.block_bytes);
    const std::size_t slab_bytes = info.granules * vm::kGranuleBytes;
    for (const std::uintptr_t start : starts) {
      const SlabRecord& slab = *slab_of(reinterpret_cast<void*>(start), c);
      const std::uintptr_t slab_start = number(slab.start);
      expect(slab_start % slab_bytes == 0);
      expect(start >= slab_start && start + info.block_bytes <= slab_start + slab_bytes);
      expect((start - slab_start) % info.block_bytes == 0);
      expect(block_state(reinterpret_cast<void*>(start), c) == BlockState::taken);
      expect(block_state(reinterpret_cast<void*>(start + 8), c) == BlockState::interior);
    }
  }
  REQUIRE(expect.failed_line() == 0);
}

TEST_CASE("S10 mut-E08 a full slab serves again as soon as one of its blocks is free", "[heap]") {
  DirectHeap direct;
  const unsigned c = class_of(1024);
  std::vector<void*> blocks;
  for (unsigned i = 0; i < class_infos[c].blocks; ++i) blocks.push_back(direct.take(1024));
  REQUIRE(slab_of(blocks.front(), c) == slab_of(blocks.back(), c));
  REQUIRE(slab_of(blocks.front(), c)->blocks.is_full());
  REQUIRE(direct.heap->available[c] == nullptr);
  void* const chosen = blocks[blocks.size() / 2];
  release(chosen);
  REQUIRE(direct.heap->available[c] == slab_of(chosen, c));
  REQUIRE(direct.take(1024) == chosen);
  REQUIRE(direct.heap->available[c] == nullptr);
}

TEST_CASE("S10 an empty slab is released unless it is the last with room, and trim takes that one",
          "[heap]") {
  DirectHeap direct;
  const unsigned c = class_of(4096);
  const GranuleStats before = granule_stats();
  const unsigned per_slab = class_infos[c].blocks;
  std::vector<void*> blocks;
  for (unsigned i = 0; i < 3 * per_slab; ++i) blocks.push_back(direct.take(4096));
  REQUIRE(direct.heap->slab_count == 3);
  const std::size_t slab_bytes = class_infos[c].granules * vm::kGranuleBytes;
  REQUIRE(granule_stats().used_bytes == before.used_bytes + 3 * slab_bytes);
  for (unsigned i = 0; i < per_slab; ++i) release(blocks[i]);
  REQUIRE(direct.heap->slab_count == 3);  // the only one with room
  for (unsigned i = per_slab; i < 2 * per_slab; ++i) release(blocks[i]);
  REQUIRE(direct.heap->slab_count == 2);
  for (unsigned i = 2 * per_slab; i < 3 * per_slab; ++i) release(blocks[i]);
  REQUIRE(direct.heap->slab_count == 1);
  static_cast<void>(trim());
  REQUIRE(direct.heap->slab_count == 0);
  REQUIRE(granule_stats().used_bytes <= before.used_bytes);
}

TEST_CASE("S10 mut-E03 mut-E12 P6 trim gives back what is free and nothing else", "[heap]") {
  const HeapCounts before = trimmed_counts();
  std::vector<unsigned char*> blocks;
  for (unsigned i = 0; i < 4096; ++i) {
    blocks.push_back(static_cast<unsigned char*>(allocate(4096)));
    write_pattern(blocks.back(), 4096, i);
  }
  for (unsigned i = 0; i < 4096; ++i) {
    if (i % 512 != 0) release(blocks[i]);
  }
  REQUIRE(trim() > 8 * kMiB);
  Expect expect;
  for (unsigned i = 0; i < 4096; i += 512) expect(has_pattern(blocks[i], 4096, i));
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(vm::ledger.dirty_bytes.load() == 0);
  for (unsigned i = 0; i < 4096; i += 512) release(blocks[i]);
  REQUIRE(trimmed_counts() == before);
  REQUIRE(trim() == 0);
}

TEST_CASE("S11 a small double free is found when the batch returns", "[heap]") {
  REQUIRE(open_fast_path());
  const HeapCounts before = trimmed_counts();
  void* block = allocate(200);
  void* other = allocate(200);
  {
    MisuseScope misuse(MisuseAction::warn);
    release(block);
    release(block);
    static_cast<void>(trim());
    REQUIRE(misuse.reports(Misuse::double_free) == 1);
    REQUIRE(misuse.all_reports() == 1);
    release(block);  // its slab may be gone by now, or still be there
    static_cast<void>(trim());
    REQUIRE(misuse.reports(Misuse::double_free) == 2);
  }
  release(other);
  REQUIRE(validate());
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("S11 interior, foreign, medium and large misuse is reported at once or at the flush", "[heap]") {
  const HeapCounts before = trimmed_counts();
  auto* small = static_cast<unsigned char*>(allocate(100));
  auto* medium = static_cast<unsigned char*>(allocate(100'000));
  auto* large = static_cast<unsigned char*>(allocate(40 * kMiB));
  {
    MisuseScope misuse;
    release(small + 16);
    static_cast<void>(trim());
    REQUIRE(misuse.reports(Misuse::interior_pointer) == 1);
    release(medium + 4096);
    release(medium + 16);
    release(large + 4096);
    REQUIRE(misuse.reports(Misuse::interior_pointer) == 4);
    int on_stack = 0;
    release(&on_stack);
    release(reinterpret_cast<void*>(std::uintptr_t{8}));
    release(reinterpret_cast<void*>(~std::uintptr_t{0}));
    REQUIRE(misuse.reports(Misuse::foreign_pointer) == 3);
    release(medium);
    release(medium);
    release(large);
    release(large);
    REQUIRE(misuse.reports(Misuse::double_free) == 2);
    REQUIRE(misuse.all_reports() == 9);
  }
  release(small);
  REQUIRE(validate());
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("S11 the bytes behind the last block of a slab are no block", "[heap]") {
  DirectHeap direct;
  const unsigned c = class_of(48);  // 341 blocks and 16 bytes more in 16 KiB
  auto* first = static_cast<std::byte*>(direct.take(48));
  std::byte* const behind = slab_of(first, c)->start + std::size_t{class_infos[c].blocks} * 48;
  REQUIRE(class_infos[c].granules * vm::kGranuleBytes == std::size_t{class_infos[c].blocks} * 48 + 16);
  MisuseScope misuse;
  REQUIRE(usable_bytes(behind) == 0);
  release(behind);
  release(first + 24);
  REQUIRE(misuse.reports(Misuse::interior_pointer) == 2);
  REQUIRE(misuse.all_reports() == 2);
  REQUIRE(validate());
}

TEST_CASE("S11 a double free of a first-class block is found at once and changes nothing", "[heap]") {
  DirectHeap direct;
  void* block = direct.take(64);
  void* other = direct.take(64);
  MisuseScope misuse;
  release(block);
  release(block);
  REQUIRE(misuse.reports(Misuse::double_free) == 1);
  REQUIRE(direct.take(64) == block);
  REQUIRE(usable_bytes(other) == 64);
  REQUIRE(validate());
}

TEST_CASE("P13 sizes at the limits have a defined result", "[heap]") {
  void* nothing = allocate(0);
  REQUIRE(nothing != nullptr);
  REQUIRE(usable_bytes(nothing) == 16);
  release(nothing);
  constexpr std::size_t kPtrdiffMax = static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max());
  for (const std::size_t size : {SIZE_MAX, SIZE_MAX - 15, SIZE_MAX - 4096, kPtrdiffMax + 1, kPtrdiffMax,
                                 kPtrdiffMax - 4095, static_cast<std::size_t>(-1024)}) {
    INFO(size);
    REQUIRE(allocate(size) == nullptr);
    REQUIRE(allocate_zeroed(size) == nullptr);
    REQUIRE(allocate_aligned(size, 64) == nullptr);
    REQUIRE(allocate_aligned(size, 2 * kMiB) == nullptr);
  }
  REQUIRE(allocate_aligned(16, kPtrdiffMax + 1) == nullptr);
  unsigned char* block = static_cast<unsigned char*>(allocate(100));
  write_pattern(block, 100, 7);
  REQUIRE(reallocate(block, SIZE_MAX) == nullptr);
  REQUIRE(reallocate(block, kPtrdiffMax) == nullptr);
  REQUIRE(has_pattern(block, 100, 7));
  release(block);
  REQUIRE(rounded_bytes(kPtrdiffMax + 1) == 0);
  REQUIRE(validate());
}

TEST_CASE("P14 mut-D03 every alignment and size: aligned, large enough, freed without a rest", "[heap]") {
  const HeapCounts before = trimmed_counts();
  Expect expect;
  for (unsigned shift = 0; shift <= 30; ++shift) {
    const std::size_t align = std::size_t{1} << shift;
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{1}, align / 2 + 1, align - 1, align, align + 1, align * 3 / 2,
          std::size_t{100}, std::size_t{5000}, std::size_t{32768}, std::size_t{40'000}}) {
      if (size > 2 * kGiB) continue;
      auto* block = static_cast<unsigned char*>(allocate_aligned(size, align));
      if (!expect(block != nullptr)) continue;
      expect(number(block) % align == 0 && number(block) % 16 == 0);
      expect(usable_bytes(block) >= size && usable_bytes(block) > 0);
      expect(size_fits(block, size, align));
      if (size != 0) block[0] = block[size - 1] = 0x5A;
      expect(size == 0 || (block[0] == 0x5A && block[size - 1] == 0x5A));
      release(block);
    }
  }
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(validate());
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("P14 many aligned blocks that live together stay apart", "[heap]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  struct Block {
    void* at;
    std::size_t size, seed;
  };
  std::vector<Block> blocks;
  Expect expect;
  for (unsigned i = 0; i < 3000; ++i) {
    const std::size_t align = std::size_t{1} << random.below(17);
    const std::size_t size = 1 + random.below(std::uint64_t{1} << random.below(16));
    void* at = allocate_aligned(size, align);
    if (!expect(at != nullptr && number(at) % align == 0)) break;
    write_pattern(at, size, i);
    blocks.push_back({at, size, i});
  }
  for (const Block& block : blocks) expect(has_pattern(block.at, block.size, block.seed));
  for (const Block& block : blocks) release(block.at);
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(validate());
}

TEST_CASE("P15 calloc leaves fresh blocks of 2 KiB and more untouched", "[heap]") {
  NoHugePages no_huge_pages;
  static_cast<void>(trim());
  for (const std::size_t size :
       {std::size_t{2048}, std::size_t{4096}, std::size_t{20'000}, std::size_t{32'768}, std::size_t{100'000},
        std::size_t{1} << 20, std::size_t{40} << 20}) {
    INFO(size);
    auto* block = static_cast<unsigned char*>(allocate_zeroed(size));
    REQUIRE(block != nullptr);
    auto* page = reinterpret_cast<unsigned char*>(align_down(number(block), vm::kPageBytes));
    const std::size_t span = align_up(number(block) + size, vm::kPageBytes) - number(page);
    REQUIRE(os::resident_bytes(page, span) == 0);
    REQUIRE(is_all(block, size, 0));
    release(block);
    static_cast<void>(trim());  // so that the next block is fresh again
  }
}

TEST_CASE("P15 calloc clears memory that was used before", "[heap]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Expect expect;
  for (const std::size_t size :
       {1u, 16u, 100u, 1000u, 2048u, 5000u, 20'000u, 32'768u, 33'000u, 200'000u, 3'000'000u}) {
    void* blocks[20];
    for (void*& block : blocks) {
      block = allocate(size);
      std::memset(block, 0xFF, usable_bytes(block));
    }
    for (void* block : blocks) release(block);
    if (random.one_in(2)) static_cast<void>(trim());
    for (void*& block : blocks) {
      block = allocate_zeroed(size);
      expect(is_all(block, size, 0));
      std::memset(block, 0xFF, size);
    }
    for (void* block : blocks) release(block);
  }
  REQUIRE(expect.failed_line() == 0);
}

TEST_CASE("P8 realloc keeps contents while a block grows from 1 byte to 64 MiB and shrinks back", "[heap]") {
  const HeapCounts before = trimmed_counts();
  std::size_t size = 1;
  void* block = allocate(size);
  write_pattern(block, size, 3);
  Expect expect;
  while (size < 64 * kMiB) {
    const std::size_t next = size + size / 2 + 1;
    block = reallocate(block, next);
    expect(block != nullptr && usable_bytes(block) >= next && has_pattern(block, size, 3));
    write_pattern(block, next, 3);
    size = next;
  }
  while (size > 1) {
    size = size * 2 / 3;
    if (size == 0) size = 1;
    block = reallocate(block, size);
    expect(block != nullptr && usable_bytes(block) >= size && has_pattern(block, size, 3));
    expect(size < 64 || usable_bytes(block) <= size * 2 + 64 * kKiB);
  }
  release(block);
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(trimmed_counts() == before);
}

TEST_CASE("P8 realloc stays in place within the class, and where the neighbour is free", "[heap]") {
  void* small = allocate(1000);
  REQUIRE(reallocate(small, usable_bytes(small)) == small);
  REQUIRE(reallocate(small, 520) == small);
  void* moved = reallocate(small, 100);
  REQUIRE(moved != small);
  REQUIRE(usable_bytes(moved) == class_bytes(class_of(100)));
  release(moved);
  void* medium = allocate(4 * kMiB);
  REQUIRE(reallocate(medium, kMiB) == medium);
  REQUIRE(usable_bytes(medium) == kMiB);
  REQUIRE(reallocate(medium, 3 * kMiB) == medium);
  REQUIRE(usable_bytes(medium) == 3 * kMiB);
  release(medium);
  MisuseScope misuse;
  int on_stack = 0;
  REQUIRE(reallocate(&on_stack, 10) == nullptr);
  REQUIRE(misuse.reports(Misuse::foreign_pointer) == 1);
}

TEST_CASE("usable size and owns answer for any address", "[heap]") {
  auto* small = static_cast<unsigned char*>(allocate(48));
  auto* medium = static_cast<unsigned char*>(allocate(65'536));
  auto* large = static_cast<unsigned char*>(allocate(33 * kMiB));
  REQUIRE(usable_bytes(small) == 48);
  REQUIRE(usable_bytes(small + 16) == 0);
  REQUIRE(usable_bytes(medium) == 65'536);
  REQUIRE(usable_bytes(medium + 4096) == 0);
  REQUIRE(usable_bytes(large) == 33 * kMiB);
  REQUIRE(usable_bytes(large + 4096) == 0);
  int on_stack = 0;
  REQUIRE(usable_bytes(&on_stack) == 0);
  REQUIRE(usable_bytes(nullptr) == 0);
  REQUIRE((owns(small) && owns(medium + 5) && owns(large + 4096)));
  REQUIRE_FALSE((owns(&on_stack) || owns(nullptr)));
  REQUIRE_FALSE(size_fits(small, 49, 0));
  REQUIRE(size_fits(small, 40, 16));
  for (void* block : {small, medium, large}) release(block);
}
