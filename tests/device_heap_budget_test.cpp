// Device heaps on a budget of the program's: one that warns lets them go on, one that reclaims is asked while
// no lock is held, so that its callback may use the very heap that waits for room. What would break: a
// request that is refused although the budget would allow it, or a callback that waits for ever.
#include <thread>

#include "tests/heap_rig.h"
#include "tests/random.h"

namespace device_test {
namespace {

using glebe::paging::Budget;
using glebe::paging::BudgetAction;
using glebe::paging::BudgetCallbacks;
using glebe::paging::BudgetError;
using glebe::paging::BudgetResult;

// A program that holds blocks which it can do without.
struct Holder {
  Budget budget;
  DeviceHeap* heap = nullptr;
  std::vector<cuda::DevicePointer> blocks;  // the last one goes first
  std::vector<std::uint64_t> needed;        // what it was asked for
  std::vector<std::uint64_t> excess;        // what it was warned of
  bool may_free = true, answer_when_empty = false;

  void open(std::uint64_t limit_bytes, BudgetAction action) {
    BudgetCallbacks callbacks;
    callbacks.context = this;
    callbacks.reclaim = [](void* context, std::uint64_t needed_bytes) {
      return static_cast<Holder*>(context)->reclaim(needed_bytes);
    };
    callbacks.warn = [](void* context, const BudgetError& error) {
      auto& own = *static_cast<Holder*>(context);
      own.excess.push_back(error.requested_bytes);
      own.heap->trim(0);
      static_cast<void>(own.heap->validate());
    };
    REQUIRE(budget.open("device", limit_bytes, action, callbacks) == BudgetResult::ok);
  }
  bool reclaim(std::uint64_t needed_bytes) {
    needed.push_back(needed_bytes);
    if (!may_free || blocks.empty()) return answer_when_empty;
    const bool is_freed = heap->free(blocks.back()).ok();
    blocks.pop_back();
    heap->trim(0);
    return is_freed && heap->validate();
  }
};

// Runs body(rig, heap, holder) on a heap with a budget of that action.
template <class Body>
void on_budget(std::uint64_t limit_bytes, BudgetAction action, Body body) {
  Holder holder;
  holder.open(limit_bytes, action);
  DeviceHeapOptions options = small_heap();
  options.budget = &holder.budget;
  on_heap(options, [&](Rig& rig, DeviceHeap& heap) {
    holder.heap = &heap;
    body(rig, heap, holder);
    for (const cuda::DevicePointer block : holder.blocks) CHECK(heap.free(block).ok());
    const std::uint64_t held_bytes = heap.stats().space.held_bytes;
    CHECK(holder.budget.used_bytes() == held_bytes);
    CHECK(heap.trim(0) == held_bytes);
    CHECK(holder.budget.used_bytes() == 0);
  });
}

TEST_CASE("P3 device heap: a budget that warns is exceeded, and the program is told", "[device]") {
  on_budget(8 * kMiB, BudgetAction::warn, [](Rig&, DeviceHeap& heap, Holder& holder) {
    holder.blocks.push_back(take(heap, 8 * kMiB));
    CHECK(holder.excess.empty());
    holder.blocks.push_back(take(heap, 12 * kMiB));
    CHECK(holder.budget.used_bytes() == 20 * kMiB);
    CHECK(holder.budget.warnings() == 3);                           // a coarse chunk and two fine ones
    CHECK(holder.excess == std::vector<std::uint64_t>{12 * kMiB});  // for one request
    CHECK(heap.grow_in_place(holder.blocks.back(), 14 * kMiB).ok());
    CHECK(holder.excess.back() == 2 * kMiB);
    CHECK(heap.prewarm(2 * kMiB).ok());
    CHECK(holder.excess.size() == 3);
    CHECK(heap.stats().failures == 0);
  });
}

TEST_CASE("P8 device heap: the callback of a budget frees and trims the heap that waits", "[device]") {
  on_budget(16 * kMiB, BudgetAction::reclaim, [](Rig&, DeviceHeap& heap, Holder& holder) {
    for (int i = 0; i < 4; ++i) holder.blocks.push_back(take(heap, 4 * kMiB));
    const cuda::DevicePointer block = take(heap, 6 * kMiB);
    CHECK(holder.needed == std::vector<std::uint64_t>{6 * kMiB, 2 * kMiB});
    CHECK(holder.blocks.size() == 2);
    // What can never fit is refused without asking.
    CHECK(refusal(heap, 18 * kMiB) == Status::over_budget);
    CHECK(holder.needed.size() == 2);
    CHECK(heap.grow_in_place(block, 10 * kMiB).ok());
    CHECK(holder.needed.size() == 3);
    CHECK(holder.blocks.size() == 1);
    CHECK(heap.prewarm(4 * kMiB).ok());
    CHECK(holder.needed.size() == 4);
    CHECK(holder.blocks.empty());
    // Nothing is left to free.
    CHECK(refusal(heap, 8 * kMiB) == Status::over_budget);
    CHECK(holder.needed.size() == 5);
    CHECK(heap.grow_in_place(block, 17 * kMiB).status == Status::over_budget);
    CHECK(heap.size_of(block) == 10 * kMiB);
    CHECK(heap.free(block).ok());
  });
}

TEST_CASE("P8 device heap: a hole that the callback frees serves the request", "[device]") {
  on_budget(4 * kMiB, BudgetAction::reclaim, [](Rig&, DeviceHeap& heap, Holder& holder) {
    std::vector<cuda::DevicePointer> kept;
    for (int i = 0; i < 2; ++i) {
      kept.push_back(take(heap, kMiB));
      holder.blocks.push_back(take(heap, kMiB));
    }
    const std::uint64_t maps = heap.stats().space.maps;
    const cuda::DevicePointer block = take(heap, kMiB);
    CHECK(heap.stats().space.maps == maps);
    CHECK(holder.needed.size() == 1);
    CHECK(heap.free(block).ok());
    for (const cuda::DevicePointer each : kept) CHECK(heap.free(each).ok());
  });
}

TEST_CASE("P8 device heap: a callback that frees nothing is asked a bounded number of times", "[device]") {
  on_budget(4 * kMiB, BudgetAction::reclaim, [](Rig&, DeviceHeap& heap, Holder& holder) {
    holder.blocks.push_back(take(heap, 4 * kMiB));
    holder.may_free = false;
    holder.answer_when_empty = true;
    CHECK(refusal(heap, kMiB) == Status::over_budget);
    CHECK(holder.needed.size() == kHeapReclaimRounds);
    CHECK(heap.prewarm(kMiB).status == Status::over_budget);
    CHECK(holder.needed.size() == 2 * kHeapReclaimRounds);
    holder.answer_when_empty = false;
    CHECK(refusal(heap, kMiB) == Status::over_budget);
    CHECK(holder.needed.size() == 2 * kHeapReclaimRounds + 1);
    CHECK(heap.stats().failures == 2);
  });
}

// Two heaps share a budget that either fills alone; each gives back what idles in the other one.
TEST_CASE("P8 P16 device heap: two heaps reclaim from each other", "[device]") {
  struct Pair {
    Budget budget;
    DeviceHeap heaps[2];
  } pair;
  BudgetCallbacks callbacks;
  callbacks.context = &pair;
  callbacks.reclaim = [](void* context, std::uint64_t) {
    auto& own = *static_cast<Pair*>(context);
    return own.heaps[0].trim(0) + own.heaps[1].trim(0) != 0;
  };
  REQUIRE(pair.budget.open("both", 16 * kMiB, BudgetAction::reclaim, callbacks) == BudgetResult::ok);
  on_gpu(gpu_test::small(), [&](Rig&, Gpu& gpu) {
    DeviceHeapOptions options = small_heap();
    options.budget = &pair.budget;
    for (DeviceHeap& heap : pair.heaps) REQUIRE(heap.open(gpu, options).ok());
    const auto use = [&pair](unsigned which, Expect& expect) {
      DeviceHeap& heap = pair.heaps[which];
      int served = 0;
      for (int tries = 0; served < 50 && tries < 10'000'000; ++tries) {
        cuda::DevicePointer block = 0;
        const Outcome outcome = heap.allocate({10 * kMiB, 0, 0}, &block);
        if (outcome.ok()) {
          expect(heap.free(block).ok());
          ++served;
        } else {
          expect(outcome.status == Status::over_budget);  // the other one has it now
          std::this_thread::yield();
        }
      }
      expect(served == 50);
    };
    Expect expects[2];
    std::thread other([&] { use(1, expects[1]); });
    use(0, expects[0]);
    other.join();
    for (const Expect& expect : expects) CHECK(expect.failed_line() == 0);
    for (DeviceHeap& heap : pair.heaps) {
      CHECK(heap.validate());
      heap.close();
    }
    CHECK(pair.budget.used_bytes() == 0);
  });
}

}  // namespace
}  // namespace device_test
