// Large blocks where the system refuses memory, and in children of fork.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "src/base/bits.h"
#include "src/heap/large.h"
#include "src/heap/reclaim.h"
#include "src/vm/ledger.h"
#include "tests/catch.h"

using namespace glebe;
using heap::FreeStatus;

namespace {

std::byte* allocate(std::size_t size_bytes) {
  bool is_zero = false;
  return static_cast<std::byte*>(heap::large_allocate(size_bytes, 4096, 0, &is_zero));
}

// Records may be added when a slot is used for the first time.
std::size_t committed() { return vm::ledger.committed_bytes.load() - vm::ledger.metadata_bytes.load(); }

// What a child found: its exit status. 100 + n: killed by signal n.
template <typename Child>
int run_in_child(Child child) {
  const pid_t id = ::fork();
  if (id == 0) {
    ::alarm(30);  // a child that hangs fails the test
    ::_exit(child());
  }
  int status = 0;
  if (::waitpid(id, &status, 0) != id) return 99;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

// Private writable memory of this process may grow by this much from now on: commit fails beyond it.
bool limit_growth(std::size_t bytes) {
  // The limit counts address space that may be written, whether it was touched or not.
  std::size_t data_pages = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return false;
  const int found = std::fscanf(file, "%*u %*u %*u %*u %*u %zu", &data_pages);
  std::fclose(file);
  if (found != 1) return false;
  const rlim_t limit = data_pages * 4096 + bytes;
  const struct rlimit limits = {limit, limit};
  return ::setrlimit(RLIMIT_DATA, &limits) == 0;
}

}  // namespace

TEST_CASE("V7 a commit that is refused leaves large blocks and counters unchanged", "[heap]") {
  const int result = run_in_child([] {
    static_cast<void>(heap::release_free_memory());  // what other tests left
    std::byte* block = allocate(40 * kMiB);
    if (block == nullptr) return 1;
    std::memset(block, 0x5A, 40 * kMiB);
    if (!limit_growth(150 * kMiB)) return 2;
    const std::size_t before = committed();
    if (allocate(200 * kMiB) != nullptr) return 3;
    if (committed() != before) return 4;
    if (heap::large_move(block, 300 * kMiB) != nullptr) return 5;
    if (heap::large_usable(block) != 40 * kMiB || !heap::large_validate()) return 6;
    for (std::size_t at = 0; at < 40 * kMiB; ++at) {
      if (block[at] != std::byte{0x5A}) return 7;
    }
    std::byte* smaller = allocate(100 * kMiB);  // P8: less than the rest is still given out
    if (smaller == nullptr) return 8;
    if (heap::large_resize(smaller, 128 * kMiB)) return 9;
    if (heap::large_usable(smaller) != 100 * kMiB) return 10;
    if (heap::large_free(smaller) != FreeStatus::ok || heap::large_free(block) != FreeStatus::ok) return 11;
    std::byte* all = allocate(120 * kMiB);  // needs what is idle
    if (all == nullptr || !heap::large_validate()) return 12;
    return heap::large_free(all) == FreeStatus::ok ? 0 : 13;
  });
  REQUIRE(result == 0);
}

TEST_CASE("L1 children forked while other threads use large blocks go on and keep the old ones", "[heap]") {
  std::byte* mine = allocate(40 * kMiB);
  REQUIRE(mine != nullptr);
  std::memset(mine, 0x33, 4096);
  std::atomic<bool> is_over{false};
  std::vector<std::thread> threads;
  for (unsigned self = 0; self < 3; ++self) {
    threads.emplace_back([&, self] {
      for (unsigned round = 0; !is_over.load(std::memory_order_relaxed); ++round) {
        std::byte* block = allocate((33 + (round + self) % 40) * kMiB);
        if (block == nullptr) continue;
        block[0] = std::byte{1};
        static_cast<void>(heap::large_resize(block, (20 + round % 60) * kMiB));
        if (round % 3 == 0) heap::large_trim();
        static_cast<void>(heap::large_free(block));
      }
    });
  }
  std::vector<int> results;
  for (int i = 0; i < 60; ++i) {
    results.push_back(run_in_child([&] {
      heap::large_in_child();
      if (mine[4095] != std::byte{0x33} || heap::large_usable(mine) != 40 * kMiB) return 1;
      std::byte* block = allocate(50 * kMiB);
      if (block == nullptr) return 2;
      block[50 * kMiB - 1] = std::byte{2};
      if (!heap::large_resize(block, 45 * kMiB) || heap::large_usable(block) != 45 * kMiB) return 3;
      if (heap::large_free(block) != FreeStatus::ok || heap::large_free(mine) != FreeStatus::ok) return 4;
      if (heap::large_free(mine) == FreeStatus::ok) return 5;
      heap::large_trim();
      return heap::large_validate() ? 0 : 6;
    }));
  }
  is_over.store(true);
  for (std::thread& thread : threads) thread.join();
  REQUIRE(results == std::vector<int>(60, 0));
  REQUIRE(heap::large_free(mine) == FreeStatus::ok);
  heap::large_trim();
  REQUIRE(heap::large_validate());
}
