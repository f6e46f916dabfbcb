// What can only be seen in a process that has not used the heap yet: the cost of the start, small address
// spaces, exhaustion, a system that refuses memory, the debug options. Each hidden test case runs in a
// process of its own, started by the visible one of the same name, and ends with pass() when all of its
// assertions held.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <string>
#include <vector>

#include "platform/process.h"
#include "platform/vm.h"
#include "src/heap/debug_fill.h"
#include "src/heap/granule_pool.h"
#include "src/heap/small.h"
#include "src/vm/chunk.h"
#include "src/vm/directory.h"
#include "src/vm/region.h"
#include "tests/heap_calls.h"

#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;
using namespace glebe::heap;

namespace {

constexpr int kPassed = 77;

[[noreturn]] void pass() { ::_exit(kPassed); }

// Runs one hidden test case in a fresh process; its exit status, 1000 + number for a signal.
int run_fresh(const std::string& name) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    ::execl("/proc/self/exe", "unit", name.c_str(), static_cast<char*>(nullptr));
    ::_exit(126);
  }
  int status = -1;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

// For a scope, the data of this process cannot grow: mprotect to writable fails. Nothing else may allocate
// meanwhile.
class NoMoreMemory {
 public:
  NoMoreMemory() {
    ::getrlimit(RLIMIT_DATA, &before_);
    rlimit none = before_;
    none.rlim_cur = 4096;  // 0 is not a limit, for the sake of Valgrind (mm/mmap.c)
    ::setrlimit(RLIMIT_DATA, &none);
  }
  ~NoMoreMemory() { ::setrlimit(RLIMIT_DATA, &before_); }
  NoMoreMemory(const NoMoreMemory&) = delete;
  NoMoreMemory& operator=(const NoMoreMemory&) = delete;

 private:
  rlimit before_;
};

// Said, not silent: where this test cannot run.
bool is_without_refusals() {
  if (kThreadSanitizer) WARN("not run: the thread sanitizer does not survive that the system refuses memory");
  return kThreadSanitizer;
}

}  // namespace

TEST_CASE("V5 mut-C04 the start reserves much and costs little", "[heap]") {
  REQUIRE(run_fresh("fresh start costs") == kPassed);
}
TEST_CASE("fresh start costs", "[.fresh]") {
  static_cast<void>(os::process_memory());
  const std::size_t resident = os::process_memory().resident;
  REQUIRE(vm::ensure_primary());
  if (vm::requested_chunk_space_bytes == 0 && os::address_space_limit() == SIZE_MAX) {
    REQUIRE(vm::ledger.reserved_bytes.load() >= 640 * kGiB);
  }
  REQUIRE(vm::ledger.committed_bytes.load() == 0);
  REQUIRE(os::process_memory().resident < resident + kMiB);
  for (std::size_t size = 16; size <= 100'000; size *= 4) release(allocate(size));
  // Of the committed memory most is the summary of the chunk sets, which is not touched.
  REQUIRE(committed_for_blocks() < 2 * kMiB);
  REQUIRE(os::process_memory().resident < resident + kMiB);
  pass();
}

TEST_CASE("V5 the option reserve bounds chunks, large slots, and the mapped zone", "[heap]") {
  REQUIRE(run_fresh("fresh reserve") == kPassed);
}
TEST_CASE("fresh reserve", "[.fresh]") {
  vm::requested_chunk_space_bytes = 2 * kGiB;
  REQUIRE(vm::ensure_primary());
  const vm::Region& region = vm::regions[0];
  REQUIRE(std::size_t{region.chunk_count} * vm::kChunkBytes == 2 * kGiB);
  REQUIRE(region.large.base != nullptr);
  REQUIRE(region.large.size_bytes() <= 2 * kGiB);
  REQUIRE(region.large.size_bytes() > kGiB / 2);
  REQUIRE(region.mapped_zone_bytes <= 2 * kGiB);
  REQUIRE(vm::ledger.reserved_bytes.load() < 7 * kGiB);
  // One more than there are slots for: the last ones have reservations of their own.
  std::vector<std::byte*> blocks;
  for (unsigned i = 0; i < 20; ++i) {
    blocks.push_back(static_cast<std::byte*>(allocate(60 * kMiB)));
    REQUIRE(blocks.back() != nullptr);
    blocks.back()[0] = blocks.back()[60 * kMiB - 1] = std::byte{1};
  }
  for (std::byte* block : blocks) release(block);
  REQUIRE(validate());
  pass();
}

TEST_CASE("P3 P8 V2 a small address space grows by regions, is exhausted and serves again", "[heap]") {
  REQUIRE(run_fresh("fresh small regions") == kPassed);
}
TEST_CASE("fresh small regions", "[.fresh]") {
  vm::requested_chunk_space_bytes = 4 * kMiB;
  vm::chunk_policy.huge_pages = false;
  const HeapCounts before = trimmed_counts();
  std::vector<void*> blocks;
  for (unsigned round = 0; round < 3; ++round) {
    for (unsigned i = 0; i < 1'000'000; ++i) {
      void* block = allocate(i % 4 == 0 ? 1'000'000 : 30'000);
      if (block == nullptr) break;
      blocks.push_back(block);
    }
    REQUIRE(blocks.size() > 300);
    REQUIRE(vm::region_count.load() == vm::kRegionMax);
    std::size_t space = 0;
    for (const vm::Region& region : vm::regions) space += region.chunk_count * vm::kChunkBytes;
    REQUIRE(space >= vm::kRegionMax * 4 * kMiB);
    REQUIRE(allocate(4 * kMiB) == nullptr);
    REQUIRE(committed_for_blocks() <= space);
    REQUIRE(committed_for_blocks() > space / 10 * 9);
    Expect expect;
    for (void* block : blocks) expect(vm::region_of(block) != nullptr && usable_bytes(block) >= 30'000);
    REQUIRE(expect.failed_line() == 0);
    REQUIRE(validate());
    release(blocks.back());
    blocks.pop_back();
    void* again = allocate(30'000);
    REQUIRE(again != nullptr);
    blocks.push_back(again);
    for (void* block : blocks) release(block);
    blocks.clear();
    REQUIRE(validate());
    REQUIRE(trimmed_counts() == before);
  }
  pass();
}

TEST_CASE("V7 P8 when the system refuses memory the call fails, the state stays, and later it works",
          "[heap]") {
  if (is_without_refusals()) return;
  REQUIRE(run_fresh("fresh refused memory") == kPassed);
}
TEST_CASE("fresh refused memory", "[.fresh]") {
  Heap* heap = create_heap();
  void* kept = allocate(5000);
  write_pattern(kept, 5000, 1);
  static_cast<void>(allocate_from(heap, 64, 0));
  const HeapCounts before = trimmed_counts();
  void* results[6];
  bool commits = true;
  vm::ChunkRecord* chunk = vm::acquire_chunks(1, vm::ChunkKind::small, 0);
  const std::size_t committed = vm::ledger.committed_bytes.load();
  std::size_t committed_after = 0;
  {
    NoMoreMemory no_more_memory;
    commits = vm::commit_prefix(*chunk, vm::kChunkBytes);
    committed_after = vm::ledger.committed_bytes.load();
    results[0] = allocate(3 * kMiB);
    results[1] = allocate(100 * kMiB);
    results[2] = allocate_zeroed(5 * kMiB);
    results[3] = allocate_aligned(kMiB, 4 * kMiB);
    results[4] = allocate_from(heap, 3 * kMiB, 0);
    results[5] = reallocate(kept, 6 * kMiB);
  }
  REQUIRE_FALSE(commits);
  REQUIRE(committed_after == committed);
  REQUIRE(chunk->committed_bytes == 0);
  vm::release_chunks(chunk, 1);
  for (void* result : results) REQUIRE(result == nullptr);
  REQUIRE(has_pattern(kept, 5000, 1));
  REQUIRE(validate());
  REQUIRE(trimmed_counts() == before);
  void* now = allocate(3 * kMiB);
  REQUIRE(now != nullptr);
  std::memset(now, 1, 3 * kMiB);
  release(now);
  destroy_heap(heap);
  pass();
}

TEST_CASE("P8 small allocations without memory fail one by one and lose nothing", "[heap]") {
  if (is_without_refusals()) return;
  REQUIRE(run_fresh("fresh small blocks without memory") == kPassed);
}
TEST_CASE("fresh small blocks without memory", "[.fresh]") {
  void* first = allocate(16);
  const HeapCounts before = trimmed_counts();
  static void* blocks[100'000];
  unsigned count = 0, refused = 0;
  {
    NoMoreMemory no_more_memory;
    while (count < 100'000 && refused < 100) {
      void* block = allocate(16 + count % 60 * 100);
      if (block != nullptr)
        blocks[count++] = block;
      else
        ++refused;
    }
  }
  REQUIRE(refused == 100);
  for (unsigned i = 0; i < count; ++i) release(blocks[i]);
  REQUIRE(validate());
  REQUIRE(trimmed_counts() == before);
  release(first);
  pass();
}

TEST_CASE("S11 P15 with debug fill misuse is found when it happens, and patterns are written", "[heap]") {
  REQUIRE(run_fresh("fresh debug fill") == kPassed);
}
TEST_CASE("fresh debug fill", "[.fresh]") {
  settings.debug_fill = true;
  MisuseScope misuse;
  auto* block = static_cast<unsigned char*>(allocate(100));
  REQUIRE(is_all(block, usable_bytes(block), kFillAllocated));
  auto* neighbour = static_cast<unsigned char*>(allocate(100));
  REQUIRE(is_all(neighbour + usable_bytes(neighbour), 16, kFillSlabNew));
  release(block);
  REQUIRE(is_all(block, 112, kFillFreed));
  release(block);
  REQUIRE(misuse.reports(Misuse::double_free) == 1);
  release(neighbour + 16);
  REQUIRE(misuse.reports(Misuse::interior_pointer) == 1);
  REQUIRE(is_all(neighbour, 112, kFillAllocated));
  block[5] = 0;  // write after free
  REQUIRE(allocate(100) == block);
  REQUIRE(misuse.reports(Misuse::write_after_free) == 1);
  REQUIRE(is_all(block, 112, kFillAllocated));
  release(block);
  REQUIRE(allocate(100) == block);
  REQUIRE(misuse.reports(Misuse::write_after_free) == 1);
  auto* zeroed = static_cast<unsigned char*>(allocate_zeroed(100));
  REQUIRE(is_all(zeroed, 100, 0));
  auto* medium = static_cast<unsigned char*>(allocate(100'000));
  release(medium);
  release(medium);
  REQUIRE(misuse.reports(Misuse::double_free) == 2);
  void* grown = reallocate(neighbour, 5000);
  REQUIRE(grown != nullptr);
  REQUIRE(is_all(grown, 112, kFillAllocated));
  REQUIRE(misuse.all_reports() == 4);
  REQUIRE(ThreadBank::get() == &closed_bank);
  REQUIRE(validate());
  pass();
}

TEST_CASE("P15 with zero_on_free the contents of freed blocks are gone", "[heap]") {
  REQUIRE(run_fresh("fresh zero on free") == kPassed);
}
TEST_CASE("fresh zero on free", "[.fresh]") {
  settings.zero_on_free = true;
  for (const std::size_t size : {16u, 100u, 5000u, 30'000u}) {
    void* holds_slab = allocate(size);
    auto* block = static_cast<unsigned char*>(allocate(size));
    std::memset(block, 0x5C, size);
    release(block);
    REQUIRE(is_all(block, size, 0));
    release(holds_slab);
  }
  auto* medium = static_cast<unsigned char*>(allocate(100'000));
  std::memset(medium, 0x5C, 100'000);
  release(medium);
  REQUIRE(is_all(medium, 100'000, 0));
  pass();
}

TEST_CASE("S11 misuse ends the process unless the options say otherwise", "[heap]") {
  REQUIRE(run_fresh("fresh abort on double free") == 1000 + SIGABRT);
}
TEST_CASE("fresh abort on double free", "[.fresh]") {
  std::signal(SIGABRT, SIG_DFL);
  ::rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  void* block = allocate(1'000'000);
  release(block);
  release(block);
  pass();
}

TEST_CASE("P2 a program that never allocates costs nothing, and freed null does nothing", "[heap]") {
  REQUIRE(run_fresh("fresh questions without a heap") == kPassed);
}
TEST_CASE("fresh questions without a heap", "[.fresh]") {
  int on_stack = 0;
  release(nullptr);
  REQUIRE(usable_bytes(&on_stack) == 0);
  REQUIRE_FALSE(owns(&on_stack));
  REQUIRE(heap_of(&on_stack) == nullptr);
  REQUIRE(vm::entry_of(&on_stack) == vm::kEntryNone);
  REQUIRE(vm::entry_of(nullptr) == vm::kEntryNone);
  {
    MisuseScope misuse;
    release(&on_stack);
    REQUIRE(misuse.reports(Misuse::foreign_pointer) == 1);
  }
  REQUIRE(vm::region_count.load() == 0);
  REQUIRE(vm::ledger.reserved_bytes.load() == 0);
  REQUIRE(validate());
  pass();
}
