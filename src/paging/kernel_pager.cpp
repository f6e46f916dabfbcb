// Paging by the kernel's own swap, where userfaultfd is not allowed. Needs no privilege. The kernel moves the
// pages and brings them back; this thread decides when and adds what the kernel cannot know: free memory is
// given back before anything is written, so that no free page ever goes to swap, and the budget is the
// process's own.
//
// With a budget, runs of present pages are handed over (MADV_PAGEOUT) in the order of a clock hand until the
// process is within it. Without one, the hand marks runs as cold (MADV_COLD) as it passes, once in kSweepMs:
// pages that are used until the kernel needs memory are spared, the others go first.
#include <new>

#include "platform/fault.h"
#include "platform/process.h"
#include "platform/service.h"
#include "platform/vm.h"
#include "src/heap/reclaim.h"
#include "src/paging/pager_state.h"
#include "src/vm/ledger.h"
#include "src/vm/region.h"

namespace glebe::paging {
namespace {

constexpr std::uint64_t kNapNs = 5'000'000, kIdleNapNs = 20'000'000;
constexpr std::uint64_t kSweepMs = 60'000;
constexpr unsigned kRuns = 128;
constexpr std::size_t kStepBytes = kMiB;  // handed over at a time: the call takes microseconds a page

void give_back_free_memory() noexcept {
  if (vm::ledger.dirty_bytes.load(std::memory_order_relaxed) < kGroupBytes) return;
  constexpr unsigned kChunks = 64;
  heap::purge_dirty(kChunks);
}

// Goes round the present pages of the heap.
class Hand {
 public:
  void open() noexcept {
    const vm::Region& region = vm::regions[0];
    begin_[1] = reinterpret_cast<std::uintptr_t>(region.chunk_base);
    end_[1] = begin_[1] + std::uintptr_t{region.chunk_count} * vm::kChunkBytes;
    begin_[0] = end_[0] = begin_[1];
    if (region.large.base != nullptr) {
      begin_[0] = reinterpret_cast<std::uintptr_t>(region.large.base);
      end_[0] = begin_[0] + region.large.size_bytes();
    }
    at_ = begin_[0];
  }

  // Calls advise for the next present pages until about `wanted_bytes` were passed, once round at most.
  // Returns bytes.
  std::size_t pass(std::size_t wanted_bytes, bool (*advise)(void*, std::size_t)) noexcept {
    std::size_t passed = 0;
    for (unsigned turns = 0; passed < wanted_bytes && turns < 1;) {
      os::PageScan::Run runs[kRuns];
      const int found = pager.scan.present({at_, end_[part_]}, runs, &at_);
      if (found < 0) return passed;
      for (int i = 0; i < found && passed < wanted_bytes; ++i)
        passed += take(runs[i], wanted_bytes - passed, advise);
      if (at_ < end_[part_] || passed >= wanted_bytes) continue;
      turns += part_;
      part_ = 1 - part_;
      at_ = begin_[part_];
    }
    return passed;
  }

 private:
  std::size_t take(const os::PageScan::Run& run, std::size_t wanted_bytes,
                   bool (*advise)(void*, std::size_t)) noexcept {
    std::uintptr_t from = run.begin;
    while (from < run.end && from - run.begin < wanted_bytes) {
      const std::size_t step = run.end - from < kStepBytes ? run.end - from : kStepBytes;
      static_cast<void>(advise(reinterpret_cast<void*>(from), step));
      from += step;
    }
    if (from < run.end) at_ = from;  // the next pass goes on here
    return from - run.begin;
  }

  std::uintptr_t begin_[2] = {}, end_[2] = {}, at_ = 0;
  unsigned part_ = 0;
};
constinit Hand hand;

void run_kernel_pager(void*) noexcept {
  std::uint64_t last_ms = os::clock_coarse_ms(), refreshed_ms = last_ms;
  for (;;) {
    const std::size_t used = pager.meter.anonymous_bytes();
    pager.used_bytes.store(used, std::memory_order_relaxed);
    pager.counters.evictor_cpu_ns.store(os::thread_cpu_ns(), std::memory_order_relaxed);
    const std::uint64_t now_ms = os::clock_coarse_ms();
    if (now_ms - refreshed_ms >= 1000) {
      refreshed_ms = now_ms;
      refresh_budget();
    }
    const std::size_t budget = pager.budget_bytes.load(std::memory_order_relaxed);
    if (budget != 0 && used > budget) {
      give_back_free_memory();
      const std::size_t passed = hand.pass(used - budget + budget / 64, os::page_out_by_kernel);
      count(pager.counters.page_outs, passed / kPageBytes);
      os::sleep_ns(passed != 0 ? kNapNs / 5 : kIdleNapNs);
      continue;
    }
    if (budget == 0 && now_ms - last_ms >= 250) {
      static_cast<void>(hand.pass(used * (now_ms - last_ms) / kSweepMs, os::mark_cold));
      last_ms = now_ms;
    }
    os::sleep_ns(budget != 0 && used + used / 4 > budget ? kNapNs : kIdleNapNs);
  }
}

}  // namespace

bool start_kernel_pager() noexcept {
  hand.open();
  return os::start_service_thread(run_kernel_pager, nullptr, "glebe-evict");
}

}  // namespace glebe::paging
