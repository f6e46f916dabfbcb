// A forked child of a process whose threads were allocating: what was being changed is frozen, everything
// else works, and nothing waits for a thread that does not exist. Children report by their exit status.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <thread>
#include <vector>

#include "src/heap/small.h"
#include "src/vm/chunk.h"
#include "src/vm/directory.h"
#include "src/vm/region.h"
#include "tests/heap_calls.h"
#include "tests/heap_child.h"

#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;
using namespace glebe::heap;

namespace {

// Another thread that holds something while it is wanted.
class Holder {
 public:
  template <class Take, class Drop>
  Holder(Take take, Drop drop)
      : thread_([this, take, drop] {
          take();
          step_.store(1, std::memory_order_release);
          while (step_.load(std::memory_order_acquire) == 1) sleep_ms(1);
          drop();
        }) {
    while (step_.load(std::memory_order_acquire) == 0) sleep_ms(1);
  }
  ~Holder() {
    step_.store(2, std::memory_order_release);
    thread_.join();
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;

 private:
  std::atomic<int> step_{0};
  std::thread thread_;
};

// Uses every part of the heap in a child; 0 when all of it works.
int exercise() {
  constexpr unsigned kBlocks = 160;
  static unsigned char* blocks[kBlocks];
  static std::size_t sizes[kBlocks];
  for (unsigned round = 0; round < 2; ++round) {
    for (unsigned i = 0; i < kBlocks; ++i) {
      sizes[i] = i % 40 == 39 ? 50'000 + i * 100 : 1 + i * 13 % 4000;
      blocks[i] = static_cast<unsigned char*>(allocate(sizes[i]));
      if (blocks[i] == nullptr) return 10;
      write_pattern(blocks[i], sizes[i], i);
    }
    for (unsigned i = 0; i < kBlocks; ++i) {
      if (!has_pattern(blocks[i], sizes[i], i)) return 11;
      release(blocks[i]);
    }
  }
  void* large = allocate(40 * kMiB);
  if (large == nullptr) return 12;
  release(large);
  static_cast<void>(trim());
  return 0;
}

// A thread's heap with `count` blocks of `size` bytes, all with a pattern.
struct ThreadBlocks {
  std::vector<void*> blocks;
  Heap* heap = nullptr;
  void fill(unsigned count, std::size_t size) {
    for (unsigned i = 0; i < count; ++i) {
      blocks.push_back(allocate(size));
      write_pattern(blocks.back(), size, i);
    }
    heap = own_heap();
  }
  [[nodiscard]] bool is_intact(std::size_t size) const {
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      if (!has_pattern(blocks[i], size, i)) return false;
    }
    return true;
  }
};

}  // namespace

TEST_CASE("a forked child allocates, frees what it inherited and validates", "[heap]") {
  release(allocate(10));  // installs the hook
  ThreadBlocks mine;
  mine.fill(300, 200);
  const int status = in_child([&] {
    if (!mine.is_intact(200)) return 1;
    for (void* block : mine.blocks) release(block);
    if (const int failed = exercise()) return failed;
    return validate() ? 0 : 2;
  });
  REQUIRE(status == 0);
  REQUIRE(mine.is_intact(200));
  for (void* block : mine.blocks) release(block);
}

TEST_CASE("in a forked child the heaps of other threads are orphans and are adopted", "[heap]") {
  release(allocate(10));
  ThreadBlocks theirs;
  int status = -1;
  {
    Holder holder([&] { theirs.fill(300, 100); }, [] {});
    status = in_child([&] {
      if (theirs.heap->state.load() != HeapState::orphan) return 1;
      if (!theirs.is_intact(100)) return 2;
      for (void* block : theirs.blocks) release(block);
      Heap* adopted = nullptr;
      std::thread thread([&] {
        release(allocate(100));
        adopted = own_heap();
      });
      thread.join();
      if (adopted == nullptr) return 3;
      if (const int failed = exercise()) return failed;
      return validate() ? 0 : 4;
    });
    for (void* block : theirs.blocks) release(block);
  }
  REQUIRE(status == 0);
}

TEST_CASE("a heap whose lock was held is frozen in the child: blocks stay, frees are dropped", "[heap]") {
  release(allocate(10));
  ThreadBlocks theirs;
  int status = -1;
  {
    Holder holder([&] { theirs.fill(500, 100), theirs.heap->lock.lock(); },
                  [&] { theirs.heap->lock.unlock(); });
    status = in_child([&] {
      if (theirs.heap->state.load() != HeapState::frozen) return 1;
      if (!theirs.is_intact(100)) return 2;
      for (void* block : theirs.blocks) {
        if (usable_bytes(block) == 0) return 3;
        release(block);  // dropped
      }
      static_cast<void>(trim());
      if (!theirs.is_intact(100)) return 4;
      if (const int failed = exercise()) return failed;
      if (!theirs.is_intact(100)) return 5;  // nothing was placed over them
      return validate() ? 0 : 6;
    });
  }
  REQUIRE(status == 0);
  for (void* block : theirs.blocks) release(block);
}

// As a thread holds it that gives blocks back to us.
TEST_CASE("the forking thread's own heap with its lock held by another thread is replaced in the child",
          "[heap]") {
  void* before = allocate(64);
  write_pattern(before, 64, 5);
  Heap* own = own_heap();
  REQUIRE(own != nullptr);
  int status = 0;
  {
    Holder holder([own] { own->lock.lock(); }, [own] { own->lock.unlock(); });
    status = in_child([&] {
      if (!has_pattern(before, 64, 5)) return 1;
      if (own->state.load() != HeapState::frozen) return 2;
      release(before);
      if (const int wrong = exercise(); wrong != 0) return wrong;
      if (own_heap() == own || own_heap() == nullptr) return 3;
      std::thread other([] { static_cast<void>(exercise()); });  // in a child of a child: it forks as usual
      other.join();
      return in_child([] { return exercise(); });
    });
  }
  CHECK(status == 0);
  CHECK(own_heap() == own);
  release(before);
  CHECK(validate());
}

TEST_CASE("with the lock of the regions and of the granule pool held the child goes on in new memory",
          "[heap]") {
  release(allocate(10));
  static_cast<void>(trim());  // or the chunks that other tests left would do
  ThreadBlocks mine;
  mine.fill(200, 3000);
  constexpr unsigned kGrow = 4000;  // blocks of 32 KiB, which need new chunks
  std::vector<void*> grown;
  std::atomic<unsigned> taken{0};
  std::atomic<bool> may_grow{false};
  std::thread grower;
  int status = -1;
  bool was_waiting = false;
  {
    grower = std::thread([&] {
      for (unsigned i = 0; i < kGrow; ++i) {
        grown.push_back(allocate(32'768));
        taken.fetch_add(1);
        while (!may_grow.load()) sleep_ms(1);
      }
    });
    while (taken.load() == 0) sleep_ms(1);  // its heap is made
    Holder regions([] { vm::region_lock.lock(); }, [] { vm::region_lock.unlock(); });
    may_grow.store(true);  // from here on it will wait for the regions with the lock of the pool held
    for (unsigned seen = ~0u; seen != taken.load(); sleep_ms(50)) seen = taken.load();
    status = in_child([&] {
      if (!mine.is_intact(3000)) return 1;
      if (const int failed = exercise()) return failed;
      for (void* block : mine.blocks) release(block);
      if (const int failed = exercise()) return failed + 10;
      return validate() ? 0 : 2;
    });
    was_waiting = taken.load() < kGrow;
  }
  grower.join();
  for (void* block : grown) release(block);
  for (void* block : mine.blocks) release(block);
  REQUIRE(was_waiting);
  REQUIRE(status == 0);
}

TEST_CASE("with shard and large locks held by a walk in another thread the child goes on", "[heap]") {
  release(allocate(10));
  void* medium = allocate(100'000);
  write_pattern(medium, 100'000, 1);
  static std::atomic<int> step{0};
  step.store(0);
  std::thread walker([] {
    medium_walk(
        [](void*, void*, std::size_t, std::uint16_t) {
          if (step.load() == 0) step.store(1);
          while (step.load() == 1) sleep_ms(1);
        },
        nullptr);
  });
  while (step.load() == 0) sleep_ms(1);
  const int status = in_child([&] {
    if (!has_pattern(medium, 100'000, 1)) return 1;
    if (const int failed = exercise()) return failed;
    release(medium);
    if (const int failed = exercise()) return failed + 10;
    return validate() ? 0 : 2;
  });
  step.store(2);
  walker.join();
  REQUIRE(status == 0);
  release(medium);
}

TEST_CASE("200 forks under four allocating threads: every child works, the parent too", "[heap]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  release(allocate(10));
  std::atomic<bool> is_done{false};
  std::atomic<unsigned> failures{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Random random(seed + t);
      void* blocks[64] = {};
      std::size_t sizes[64] = {};
      while (!is_done.load(std::memory_order_relaxed)) {
        const std::size_t at = random.below(64);
        if (blocks[at] != nullptr && !has_pattern(blocks[at], sizes[at], at)) failures.fetch_add(1);
        release(blocks[at]);
        sizes[at] = 1 + random.below(random.one_in(20) ? 200'000 : 2000);
        blocks[at] = allocate(sizes[at]);
        if (blocks[at] == nullptr) return static_cast<void>(failures.fetch_add(1));
        if (sizes[at] > 4096) sizes[at] = 4096;
        write_pattern(blocks[at], sizes[at], at);
      }
      for (void* block : blocks) release(block);
    });
  }
  int failed = 0;
  for (unsigned i = 0; i < 200 && failed == 0; ++i) {
    failed = in_child([&] {
      const int result = exercise();
      if (result != 0) return result;
      return i % 10 != 0 || validate() ? 0 : 99;
    });
  }
  is_done.store(true);
  for (std::thread& thread : threads) thread.join();
  REQUIRE(failed == 0);
  REQUIRE(failures.load() == 0);
  REQUIRE(validate());
}
