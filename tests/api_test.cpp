// The API layer: option parser, C interface, C++ wrappers. Linked without the override of malloc.
#include <glebe/glebe.h>
#include <glebe/heap.hpp>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <list>
#include <map>
#include <memory_resource>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "src/api/options.h"
#include "src/heap/misuse.h"
#include "tests/catch.h"

namespace {

using glebe::api::kShareBit;
using glebe::api::Options;
using glebe::api::parse_options;

constexpr std::size_t kMiB = std::size_t{1} << 20;

// Misuse is reported without output and without an end for the scope of a test.
struct IgnoreMisuse {
  glebe::heap::MisuseAction saved;
  IgnoreMisuse() : saved(prepare()) { glebe::heap::misuse_action = glebe::heap::MisuseAction::ignore; }
  ~IgnoreMisuse() { glebe::heap::misuse_action = saved; }
  IgnoreMisuse(const IgnoreMisuse&) = delete;
  IgnoreMisuse& operator=(const IgnoreMisuse&) = delete;

  // The options are read before, so that they do not set the action again.
  static glebe::heap::MisuseAction prepare() {
    glebe_free(glebe_malloc(1));
    return glebe::heap::misuse_action;
  }
};

std::size_t misuses(glebe::heap::Misuse kind) { return glebe::heap::misuse_count(kind); }

std::uint64_t live_bytes() {
  glebe_stats stats{};
  stats.struct_bytes = sizeof stats;
  glebe_stats_get(&stats);
  return stats.live_bytes;
}

bool is_filled(const void* block, unsigned char value, std::size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(block);
  for (std::size_t i = 0; i < size; ++i) {
    if (bytes[i] != value) return false;
  }
  return true;
}

bool is_aligned_to(const void* block, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(block) % alignment == 0;
}

// What the parser says about the first problem of a text, empty when there is none.
std::string problem_of(const char* text) {
  const auto parsed = parse_options(text);
  return parsed.problem_count == 0 ? "" : parsed.problems[0].reason;
}

}  // namespace

TEST_CASE("options: an empty text gives the defaults", "[api]") {
  const auto parsed = parse_options("");
  CHECK(parsed.problem_count == 0);
  CHECK(parsed.options.on_misuse == 0);
  CHECK(parsed.options.purge_delay_ms == 250);
  CHECK(parsed.options.huge_pages == 1);
  CHECK(parsed.options.huge_minimum == 32 * kMiB);
  CHECK(parsed.options.reserve == 0);
}

TEST_CASE("options: every kind of value is understood", "[api]") {
  const auto parsed = parse_options(
      "on_misuse=ignore,debug=1,purge_delay_ms=12,reserve=64G,huge_minimum=3K,"
      "stats=1,huge_pages=0,zero_on_free=1");
  CHECK(parsed.problem_count == 0);
  CHECK(parsed.options.on_misuse == 2);
  CHECK(parsed.options.debug == 1);
  CHECK(parsed.options.purge_delay_ms == 12);
  CHECK(parsed.options.reserve == std::uint64_t{64} << 30);
  CHECK(parsed.options.huge_minimum == 3072);
  CHECK(parsed.options.stats == 1);
  CHECK(parsed.options.huge_pages == 0);
  CHECK(parsed.options.zero_on_free == 1);
  CHECK(parse_options("reserve=2T").options.reserve == std::uint64_t{2} << 40);
  CHECK(parse_options("reserve=20971520").options.reserve == 20 * kMiB);
}

TEST_CASE("options: the last valid entry of a name counts", "[api]") {
  const auto parsed = parse_options("purge_delay_ms=1,purge_delay_ms=2,purge_delay_ms=x");
  CHECK(parsed.options.purge_delay_ms == 2);
  CHECK(parsed.problem_count == 1);
}

TEST_CASE("options: what is unknown or malformed is reported, with its place, and never guessed", "[api]") {
  CHECK(problem_of("on_misus=warn") == "there is no option of that name");
  CHECK(problem_of("ON_MISUSE=warn") == "there is no option of that name");
  CHECK(problem_of(" debug=1") == "there is no option of that name");
  CHECK(problem_of("=1") == "there is no option of that name");
  CHECK(problem_of("debug") == "there is no '='");
  CHECK(problem_of(",debug=1") == "there is no '='");
  CHECK(problem_of("debug=1,") == "there is no '='");
  CHECK(problem_of("on_misuse=warning") == "the value is none of abort, warn, ignore");
  CHECK(problem_of("on_misuse=") == "the value is none of abort, warn, ignore");
  CHECK(problem_of("debug=") == "a number is missing");
  CHECK(problem_of("reserve=G") == "a number is missing");
  for (const char* text : {"debug=yes", "debug= 1", "debug=+1", "debug=-1", "debug=0x1", "debug=1 ",
                           "debug==1", "reserve=64g", "reserve=64GB", "reserve=1.5G", "purge_delay_ms=1K"}) {
    INFO(text);
    CHECK(problem_of(text) == "not a decimal number");
  }
  const auto parsed = parse_options("debug=1,nonsense=2,stats=1");
  REQUIRE(parsed.problem_count == 1);
  CHECK(parsed.problems[0].entry == "nonsense=2");
  CHECK(parsed.problems[0].position == 8);
  CHECK(parsed.options.debug == 1);
  CHECK(parsed.options.stats == 1);
}

TEST_CASE("options: a budget is a size or a percentage with up to four decimals", "[api]") {
  const auto memory = [](const char* text) { return parse_options(text).options.memory; };
  CHECK(memory("memory=512M") == 512 * kMiB);
  CHECK(memory("memory=50%") == (kShareBit | 500'000));
  CHECK(memory("memory=100%") == (kShareBit | 1'000'000));
  CHECK(memory("memory=12.5%") == (kShareBit | 125'000));
  CHECK(memory("memory=0.0001%") == (kShareBit | 1));
  CHECK(memory("memory=7.0625%") == (kShareBit | 70'625));
  for (const char* text : {"memory=0%", "memory=0.0%", "memory=101%", "memory=100.0001%"}) {
    INFO(text);
    CHECK(problem_of(text) == "a percentage lies above 0 and is at most 100");
    CHECK(memory(text) == 0);
  }
  CHECK(problem_of("memory=1.00001%") == "a percentage has at most four decimals");
  CHECK(problem_of("memory=%") == "a number is missing");
  CHECK(problem_of("memory=5.%") == "a number is missing");
  CHECK(problem_of("memory=.5%") == "a number is missing");
  CHECK(problem_of("memory=-5%") == "not a decimal number");
  CHECK(problem_of("memory=5%%") == "not a decimal number");
  CHECK(problem_of("memory=4194303") == "the value is below the lowest allowed");
  CHECK(problem_of("reserve=50%") == "not a decimal number");  // only a budget is a share of something
}

TEST_CASE("options: the orders of victims are words", "[api]") {
  CHECK(parse_options("").options.page_victim == 1);
  const char* const words[] = {"lru", "clock", "s3fifo", "fifo", "oldest", "largest"};
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(parse_options(std::string("page_victim=") + words[i]).options.page_victim == i);
  }
  CHECK(problem_of("page_victim=random") == "the value is none of lru, clock, s3fifo, fifo, oldest, largest");
}

TEST_CASE("options: values outside of the limits are refused", "[api]") {
  CHECK(problem_of("debug=2") == "the value is above the highest allowed");
  CHECK(problem_of("purge_delay_ms=3600000").empty());
  CHECK(problem_of("purge_delay_ms=3600001") == "the value is above the highest allowed");
  CHECK(problem_of("reserve=16777215") == "the value is below the lowest allowed");
  CHECK(problem_of("reserve=16M").empty());
  CHECK(problem_of("reserve=64T").empty());
  CHECK(problem_of("reserve=65T") == "the value is above the highest allowed");
  CHECK(problem_of("reserve=18446744073709551615") == "the value is above the highest allowed");
  CHECK(problem_of("reserve=18446744073709551616") == "the number is too large");
  CHECK(problem_of("reserve=99999999999999999999999") == "the number is too large");
  CHECK(problem_of("reserve=16777216T") == "the number is too large");
  CHECK(parse_options("debug=2").options.debug == 0);
}

TEST_CASE("options: more problems than are kept are counted", "[api]") {
  std::string text = "bad";
  for (unsigned i = 1; i < 40; ++i) text += ",bad";
  CHECK(parse_options(text).problem_count == 40);
}

TEST_CASE("K5 a parsed set of options is independent of the one in force", "[api]") {
  std::uint64_t before = 0, after = 0;
  REQUIRE(glebe_option_get("purge_delay_ms", &before) == 0);
  auto parsed = parse_options("purge_delay_ms=77");
  Options copy = parsed.options;
  copy.purge_delay_ms = 78;
  REQUIRE(glebe_option_get("purge_delay_ms", &after) == 0);
  CHECK(before == after);
  CHECK(parsed.options.purge_delay_ms == 77);
  CHECK(copy.purge_delay_ms == 78);
}

TEST_CASE("options can be listed and asked for by name", "[api]") {
  std::set<std::string> names;
  std::size_t count = 0;
  for (const char* name; (name = glebe_option_name(count)) != nullptr; ++count) {
    std::uint64_t value = 0;
    CHECK(glebe_option_get(name, &value) == 0);
    names.insert(name);
  }
  CHECK(names.size() == count);
  CHECK(names.count("on_misuse") == 1);
  CHECK(glebe_option_name(SIZE_MAX) == nullptr);
  std::uint64_t value = 0;
  errno = 0;
  CHECK(glebe_option_get("no_such_option", &value) == -1);
  CHECK(errno == EINVAL);
  CHECK(glebe_option_get(nullptr, &value) == -1);
  CHECK(glebe_option_get("debug", nullptr) == -1);
}

TEST_CASE("P13 sizes at the edges have a defined result", "[api]") {
  for (const std::size_t size : {SIZE_MAX, SIZE_MAX - 15, std::size_t{PTRDIFF_MAX} + 1}) {
    errno = 0;
    CHECK(glebe_malloc(size) == nullptr);
    CHECK(errno == ENOMEM);
    errno = 0;
    CHECK(glebe_calloc(1, size) == nullptr);
    CHECK(errno == ENOMEM);
    errno = 0;
    CHECK(glebe_aligned_alloc(64, size) == nullptr);
    CHECK(errno == ENOMEM);
    CHECK(glebe_good_size(size) == 0);
  }
  errno = 0;
  CHECK(glebe_calloc(SIZE_MAX / 2, 3) == nullptr);
  CHECK(errno == ENOMEM);
  errno = 0;
  CHECK(glebe_aligned_alloc(std::size_t{1} << 63, 1) == nullptr);
  CHECK(errno == ENOMEM);
  void* first = glebe_malloc(0);
  void* second = glebe_malloc(0);
  CHECK(first != nullptr);
  CHECK(first != second);
  glebe_free(first);
  glebe_free(second);
}

TEST_CASE("P14 every alignment that is a power of two is kept, others are refused", "[api]") {
  for (std::size_t alignment = 1; alignment <= 64 * kMiB; alignment *= 2) {
    for (const std::size_t size : {std::size_t{1}, std::size_t{32}, alignment + 1}) {
      void* block = glebe_aligned_alloc(alignment, size);
      REQUIRE(block != nullptr);
      CHECK(is_aligned_to(block, alignment));
      CHECK(glebe_usable_size(block) >= size);
      glebe_free(block);
    }
  }
  for (const std::size_t alignment : {0u, 3u, 24u, 100u, 4097u}) {
    errno = 0;
    CHECK(glebe_aligned_alloc(alignment, 10) == nullptr);
    CHECK(errno == EINVAL);
  }
}

TEST_CASE("errno is kept by free and by calls that succeed", "[api]") {
  errno = 1234;
  void* small = glebe_malloc(10);
  void* medium = glebe_malloc(100'000);
  void* large = glebe_calloc(1, 40 * kMiB);
  medium = glebe_realloc(medium, 300'000);
  glebe_free(small);
  glebe_free(medium);
  glebe_free(large);
  glebe_free(nullptr);
  glebe_trim();
  CHECK(errno == 1234);
}

TEST_CASE("realloc: nullptr allocates, 0 frees, a failure leaves the block", "[api]") {
  auto* block = static_cast<unsigned char*>(glebe_realloc(nullptr, 100));
  REQUIRE(block != nullptr);
  std::memset(block, 7, 100);
  errno = 0;
  CHECK(glebe_realloc(block, SIZE_MAX) == nullptr);
  CHECK(errno == ENOMEM);
  CHECK(is_filled(block, 7, 100));
  for (const std::size_t size : {200u, 40'000u, 2'000'000u, 50'000'000u, 3'000'000u, 50'000u, 100u}) {
    block = static_cast<unsigned char*>(glebe_realloc(block, size));
    REQUIRE(block != nullptr);
    CHECK(is_filled(block, 7, 100));
    CHECK(glebe_usable_size(block) >= size);
  }
  const std::uint64_t before = live_bytes();
  const std::size_t usable = glebe_usable_size(block);
  CHECK(glebe_realloc(block, 0) == nullptr);
  CHECK(live_bytes() == before - usable);
}

TEST_CASE("calloc gives zeros in reused memory as well", "[api]") {
  for (const std::size_t size : {1u, 100u, 5000u, 100'000u, 3'000'000u, 40'000'000u}) {
    INFO(size);
    void* block = glebe_malloc(size);
    REQUIRE(block != nullptr);
    std::memset(block, 0xEE, size);
    glebe_free(block);
    block = glebe_calloc(size, 1);
    REQUIRE(block != nullptr);
    CHECK(is_filled(block, 0, size));
    glebe_free(block);
  }
}

TEST_CASE("good size, usable size and ownership agree", "[api]") {
  for (const std::size_t size : {0u, 1u, 17u, 300u, 32768u, 32769u, 1'000'000u, 40'000'000u}) {
    INFO(size);
    void* block = glebe_malloc(size);
    REQUIRE(block != nullptr);
    CHECK(glebe_usable_size(block) == glebe_good_size(size));
    CHECK(glebe_owns(block) == 1);
    CHECK(glebe_heap_of(block) == nullptr);
    glebe_free_sized(block, size);
  }
  const int local = 0;
  CHECK(glebe_owns(&local) == 0);
  CHECK(glebe_owns(nullptr) == 0);
  CHECK(glebe_usable_size(&local) == 0);
  CHECK(glebe_usable_size(nullptr) == 0);
  CHECK(glebe_heap_of(&local) == nullptr);
  CHECK(glebe_heap_of(nullptr) == nullptr);
  CHECK(std::string(glebe_version()).size() >= 5);
}

TEST_CASE("first-class heaps: blocks belong to them and go at once", "[api]") {
  const std::uint64_t before = live_bytes();
  glebe_heap* heap = glebe_heap_new();
  glebe_heap* other = glebe_heap_new();
  REQUIRE(heap != nullptr);
  REQUIRE(other != nullptr);
  CHECK(heap != other);
  for (const std::size_t size : {1u, 100u, 20'000u, 100'000u, 3'000'000u, 40'000'000u}) {
    for (int i = 0; i < 3; ++i) {
      void* block = glebe_heap_malloc(heap, size);
      REQUIRE(block != nullptr);
      CHECK(glebe_heap_of(block) == heap);
      CHECK(glebe_usable_size(block) >= size);
      std::memset(block, 1, size);
    }
  }
  void* zeroed = glebe_heap_calloc(heap, 10, 1000);
  void* aligned = glebe_heap_aligned_alloc(heap, 8192, 100);
  void* elsewhere = glebe_heap_malloc(other, 100);
  CHECK(is_filled(zeroed, 0, 10'000));
  CHECK(is_aligned_to(aligned, 8192));
  CHECK(glebe_heap_of(elsewhere) == other);
  glebe_free(aligned);
  glebe_heap_free(heap);
  CHECK(glebe_heap_of(elsewhere) == other);
  glebe_heap_free(other);
  glebe_heap_free(nullptr);
  CHECK(live_bytes() == before);
  CHECK(glebe_heap_validate() == 1);
}

TEST_CASE("first-class heaps refuse what the process heap refuses", "[api]") {
  glebe_heap* heap = glebe_heap_new();
  REQUIRE(heap != nullptr);
  errno = 0;
  CHECK(glebe_heap_malloc(heap, SIZE_MAX) == nullptr);
  CHECK(errno == ENOMEM);
  errno = 0;
  CHECK(glebe_heap_calloc(heap, SIZE_MAX, 2) == nullptr);
  CHECK(errno == ENOMEM);
  errno = 0;
  CHECK(glebe_heap_aligned_alloc(heap, 24, 10) == nullptr);
  CHECK(errno == EINVAL);
  glebe_heap_free(heap);
}

TEST_CASE("P16 a heap that is gone is a misuse, not a crash", "[api]") {
  const IgnoreMisuse ignore;
  glebe_heap* heap = glebe_heap_new();
  REQUIRE(heap != nullptr);
  glebe_heap_free(heap);
  const std::size_t before = misuses(glebe::heap::Misuse::bad_heap);
  errno = 0;
  CHECK(glebe_heap_malloc(heap, 10) == nullptr);
  CHECK(errno == EINVAL);
  glebe_heap_free(heap);
  int nothing = 0;
  CHECK(glebe_heap_malloc(reinterpret_cast<glebe_heap*>(&nothing), 10) == nullptr);
  CHECK(glebe_heap_malloc(nullptr, 10) == nullptr);
  CHECK(misuses(glebe::heap::Misuse::bad_heap) == before + 4);
}

TEST_CASE("a pointer that is not a block is a misuse of free and realloc", "[api]") {
  const IgnoreMisuse ignore;
  int local = 0;
  const std::size_t foreign = misuses(glebe::heap::Misuse::foreign_pointer);
  glebe_free(&local);
  CHECK(misuses(glebe::heap::Misuse::foreign_pointer) == foreign + 1);
  CHECK(glebe_realloc(&local, 100) == nullptr);
  CHECK(misuses(glebe::heap::Misuse::foreign_pointer) == foreign + 2);

  auto* large = static_cast<char*>(glebe_malloc(40 * kMiB));
  REQUIRE(large != nullptr);
  const std::size_t interior = misuses(glebe::heap::Misuse::interior_pointer);
  glebe_free(large + 4096);
  CHECK(misuses(glebe::heap::Misuse::interior_pointer) == interior + 1);
  glebe_free(large);
}

TEST_CASE("a sized free with an impossible size is a misuse and frees nothing", "[api]") {
  const IgnoreMisuse ignore;
  void* block = glebe_malloc(100'000);
  REQUIRE(block != nullptr);
  const std::size_t before = misuses(glebe::heap::Misuse::size_mismatch);
  const std::uint64_t live = live_bytes();
  glebe_free_sized(block, 50 * kMiB);
  CHECK(misuses(glebe::heap::Misuse::size_mismatch) == before + 1);
  CHECK(live_bytes() == live);
  const std::size_t usable = glebe_usable_size(block);
  glebe_free_sized(block, 100'000);
  CHECK(misuses(glebe::heap::Misuse::size_mismatch) == before + 1);
  CHECK(live_bytes() == live - usable);
}

TEST_CASE("K4 the walk finds exactly the blocks that are live", "[api]") {
  std::vector<std::size_t> sizes = {24, 333, 5000, 70'000, 2'000'000, 40'000'000};
  std::vector<void*> blocks;
  for (const std::size_t size : sizes) blocks.push_back(glebe_malloc(size));
  struct Seen {
    const std::vector<void*>* wanted;
    std::size_t found = 0, freed_found = 0;
    const void* freed;
  };
  void* freed = glebe_malloc(333);
  glebe_free(freed);
  Seen seen{&blocks, 0, 0, freed};
  glebe_heap_walk(
      [](void* context, const glebe_block* block) {
        auto& to = *static_cast<Seen*>(context);
        for (void* wanted : *to.wanted) to.found += wanted == block->address && block->size >= 24;
        to.freed_found += block->address == to.freed;
      },
      &seen);
  CHECK(seen.found == blocks.size());
  CHECK(seen.freed_found == 0);
  for (void* block : blocks) glebe_free(block);
}

TEST_CASE("P7 a Heap moves and ends with its scope", "[api]") {
  const std::uint64_t before = live_bytes();
  {
    glebe::Heap first;
    void* block = first.allocate(100);
    CHECK(first.owns(block));
    glebe_heap* handle = first.handle();
    glebe::Heap second(std::move(first));
    CHECK_FALSE(first.is_valid());
    CHECK_FALSE(first.owns(block));
    CHECK(second.handle() == handle);
    CHECK(second.owns(block));
    glebe::Heap third;
    void* gone = third.allocate(5000, 4096);
    CHECK(is_aligned_to(gone, 4096));
    third = std::move(second);
    CHECK(third.handle() == handle);
    CHECK(third.owns(block));
    CHECK_FALSE(second.is_valid());
    glebe::Heap& self = third;
    third = std::move(self);
    CHECK(third.owns(block));
    glebe::Heap::deallocate(block);
    CHECK_THROWS_AS(third.allocate(SIZE_MAX), std::bad_alloc);
    CHECK(third.try_allocate(SIZE_MAX) == nullptr);
  }
  CHECK(live_bytes() == before);
}

TEST_CASE("P7 an Arena gives distinct aligned blocks, moves, and releases everything", "[api]") {
  const std::uint64_t before = live_bytes();
  {
    glebe::Arena arena;
    std::vector<std::pair<unsigned char*, std::size_t>> blocks;
    std::size_t asked = 0;
    for (std::size_t i = 0; i < 3000; ++i) {
      const std::size_t size = 1 + (i * 7919) % 3000, alignment = std::size_t{1} << (i % 9);
      auto* block = static_cast<unsigned char*>(arena.allocate(size, alignment));
      REQUIRE(is_aligned_to(block, alignment));
      std::memset(block, static_cast<int>(i % 251), size);
      blocks.emplace_back(block, size);
      asked += size;
    }
    CHECK(arena.used_bytes() == asked);
    glebe::Arena moved(std::move(arena));
    CHECK(arena.used_bytes() == 0);
    bool intact = true;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      intact = intact && is_filled(blocks[i].first, static_cast<unsigned char>(i % 251), blocks[i].second);
    }
    CHECK(intact);
    void* big = moved.allocate(3 * kMiB);
    std::memset(big, 1, 3 * kMiB);
    CHECK(moved.allocate(0) != moved.allocate(0));
    moved.release();
    CHECK(moved.used_bytes() == 0);
    CHECK(live_bytes() == before);
    CHECK(moved.allocate(10) != nullptr);
    arena = std::move(moved);
    CHECK(arena.used_bytes() == 10);
  }
  CHECK(live_bytes() == before);
}

TEST_CASE("std::pmr containers live in the process heap or in a Heap", "[api]") {
  glebe::MemoryResource process;
  glebe::Heap heap;
  glebe::MemoryResource resource(heap);
  CHECK(process == process);
  CHECK(process != resource);
  {
    std::pmr::vector<std::pmr::string> strings(&resource);
    for (int i = 0; i < 1000; ++i) strings.emplace_back(100, static_cast<char>('a' + i % 26));
    CHECK(heap.owns(strings.data()));
    CHECK(heap.owns(strings[500].data()));
    std::pmr::map<int, std::pmr::string> map(&process);
    for (int i = 0; i < 1000; ++i) map.emplace(i, "too long to be kept inside of the object");
    CHECK(glebe_owns(map.at(3).data()) == 1);
    CHECK(glebe_heap_of(map.at(3).data()) == nullptr);
    CHECK(map.size() == 1000);
  }
  const volatile std::size_t too_large = SIZE_MAX / 2 + 1;  // volatile: the compiler would warn of it
  CHECK_THROWS_AS(process.allocate(too_large), std::bad_alloc);
}

TEST_CASE("containers work with the allocators", "[api]") {
  std::vector<int, glebe::Allocator<int>> vector;
  for (int i = 0; i < 100'000; ++i) vector.push_back(i);
  CHECK(vector[99'999] == 99'999);
  CHECK(glebe_owns(vector.data()) == 1);
  glebe::Heap heap;
  using Pair = std::pair<const int, int>;
  std::map<int, int, std::less<int>, glebe::HeapAllocator<Pair>> map(heap);
  std::list<int, glebe::HeapAllocator<int>> list(heap);
  for (int i = 0; i < 1000; ++i) {
    map[i] = 2 * i;
    list.push_back(i);
  }
  CHECK(map.at(700) == 1400);
  glebe::Heap other;
  CHECK(glebe::HeapAllocator<int>(heap) == glebe::HeapAllocator<char>(heap));
  CHECK(glebe::HeapAllocator<int>(heap) != glebe::HeapAllocator<int>(other));
  CHECK(glebe::Allocator<int>() == glebe::Allocator<char>());
  std::list<int, glebe::HeapAllocator<int>> moved(std::move(list), glebe::HeapAllocator<int>(other));
  CHECK(moved.size() == 1000);
  struct alignas(128) Wide {
    char data[128];
  };
  std::vector<Wide, glebe::Allocator<Wide>> wide(3);
  CHECK(is_aligned_to(wide.data(), 128));
  CHECK_THROWS_AS(glebe::Allocator<int>().allocate(SIZE_MAX / 2), std::bad_array_new_length);
}

TEST_CASE("P16 threads share a Heap, and its statistics balance", "[api]") {
  const std::uint64_t before = live_bytes();
  {
    glebe::Heap heap;
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t) {
      threads.emplace_back([&heap, t] {
        for (unsigned i = 0; i < 2000; ++i) {
          void* block = heap.try_allocate(1 + (i * 37 + t) % 2000);
          if (i % 2 == 0) glebe_free(block);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(live_bytes() > before);
  }
  CHECK(live_bytes() == before);
}
