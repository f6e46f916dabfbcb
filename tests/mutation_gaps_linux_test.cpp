// Like mutation_gaps_test.cpp, for bugs that need a forked child to be seen.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <thread>
#include <vector>

#include "src/vm/region.h"
#include "tests/heap_calls.h"
#include "tests/heap_child.h"

#include "tests/catch.h"

using namespace glebe;
using namespace glebe::heap;

namespace {

constexpr std::size_t kSlabBlockBytes = 32'768;

// Takes new slabs of every class. 0 when all of them were to be had.
int take_slabs_in_child() {
  for (std::size_t size = 16; size <= kSlabBlockBytes; size += size / 2) {
    for (unsigned i = 0; i < 40; ++i) {
      void* block = allocate(size);
      if (block == nullptr) return 1;
      std::memset(block, 1, size);
    }
  }
  static_cast<void>(trim());
  return validate() ? 0 : 2;
}

// Holds the lock of the regions for a scope, in a thread of its own: a lock that the forking thread holds
// would stay held in the child.
class RegionHolder {
 public:
  RegionHolder()
      : thread_([this] {
          os::Lock hold(vm::region_lock);
          is_held_.store(true);
          while (is_held_.load()) sleep_ms(1);
        }) {
    while (!is_held_.load()) sleep_ms(1);
  }
  ~RegionHolder() {
    is_held_.store(false);
    thread_.join();
  }
  RegionHolder(const RegionHolder&) = delete;
  RegionHolder& operator=(const RegionHolder&) = delete;

 private:
  std::atomic<bool> is_held_{false};
  std::thread thread_;
};

// Grows slabs without end until it has to wait for the regions, with the lock of the granule pool held: it
// has its heap, and the magazine of the class, before the wait begins.
class Grower {
 public:
  Grower() : thread_([this] { run(); }) {
    while (taken_.load() == 0) sleep_ms(1);
  }
  ~Grower() { thread_.join(); }
  Grower(const Grower&) = delete;
  Grower& operator=(const Grower&) = delete;

  // Lets it grow; true when it waits.
  [[nodiscard]] bool grow_until_it_waits() {
    may_grow_.store(true);
    for (unsigned seen = 0; seen < 2 || seen != taken_.load(); sleep_ms(50)) seen = taken_.load();
    return taken_.load() < kBlocks;
  }

 private:
  static constexpr unsigned kBlocks = 4000;

  void run() {
    std::vector<void*> blocks;
    for (unsigned i = 0; i < kBlocks; ++i) {
      if (i == 1) {
        while (!may_grow_.load()) sleep_ms(1);
      }
      blocks.push_back(allocate(kSlabBlockBytes));
      taken_.fetch_add(1);
    }
    for (void* block : blocks) release(block);
  }

  std::atomic<unsigned> taken_{0};
  std::atomic<bool> may_grow_{false};
  std::thread thread_;
};

}  // namespace

TEST_CASE("mut-G04 a child that was forked while slabs were growing makes slabs of its own", "[heap]") {
  release(allocate(10));
  static_cast<void>(trim());  // or the chunks that other tests left would do
  bool was_waiting = false;
  int status = -1;
  {
    Grower grower;
    RegionHolder holder;
    was_waiting = grower.grow_until_it_waits();
    status = in_child(take_slabs_in_child);
  }
  REQUIRE(was_waiting);
  REQUIRE(status == 0);
}
