// Paging by the kernel's own swap, where userfaultfd is not allowed, or where swap in RAM (zram, zswap) is
// wished for: the kernel answers a fault without a switch to another thread. Needs no privilege. The kernel
// moves the pages and brings them back; this thread decides when and adds what the kernel cannot know: free
// memory is given back before anything is written, so that no free page ever goes to swap, and the budget is
// the process's own. Compressed pages count: as much RAM as zram and zswap take for a page that is out, on
// average over the machine.
//
// With a budget, a clock hand goes round the present pages of the whole process, and hands ranges of them
// over (MADV_PAGEOUT) until the process is within it. Without one, the hand marks them as cold (MADV_COLD) as
// it passes, once in kSweepMs: pages that are used until the kernel needs memory are spared, the others go
// first.
#include <span>

#include "platform/fault.h"
#include "platform/process.h"
#include "platform/service.h"
#include "platform/swap.h"
#include "platform/vm.h"
#include "src/base/bits.h"
#include "src/heap/reclaim.h"
#include "src/paging/pager_state.h"
#include "src/vm/ledger.h"
#include "src/vm/pageable.h"

namespace glebe::paging {
namespace {

constexpr std::uint64_t kNapNs = 2'000'000, kIdleNapNs = 20'000'000;
constexpr std::uint64_t kSweepMs = 60'000;
constexpr unsigned kRuns = 128;
constexpr std::size_t kStepBytes = kMiB;  // in one call, which takes microseconds a page
constexpr std::size_t kGapBytes = 64 * kKiB;
constexpr std::uintptr_t kBegin = 64 * kKiB,
                         kEnd = (std::uintptr_t{1} << 47) - kPageBytes;  // where processes have memory

void give_back_free_memory() noexcept {
  if (vm::ledger.dirty_bytes.load(std::memory_order_relaxed) < kGroupBytes) return;
  constexpr unsigned kChunks = 64;
  heap::purge_dirty(kChunks);
}

// Goes round the present pages of the process. What lies close together is advised in one call, with the
// holes between: a call for a single page costs ten times as much as a page in a long range.
class Hand {
 public:
  // Calls advise for the next present pages until about `wanted_bytes` were passed, once round at most.
  // Returns bytes.
  std::size_t pass(std::size_t wanted_bytes, bool (*advise)(void*, std::size_t)) noexcept {
    std::size_t passed = 0;
    for (bool is_round = false; passed < wanted_bytes && !is_round;) {
      os::PageScan::Run runs[kRuns];
      std::uintptr_t scanned = kEnd;
      const int found = pager.scan.present({at_, kEnd}, runs, &scanned);
      if (found < 0) return passed;
      at_ = scanned;
      for (int i = 0; i < found && passed < wanted_bytes;) {
        i = take({runs + i, static_cast<std::size_t>(found - i)}, &passed, advise) + i;
      }
      is_round = at_ >= kEnd;
      if (is_round) at_ = kBegin;
    }
    return passed;
  }

 private:
  // Advises the runs that the first step holds. Returns how many they are; the hand stands behind them.
  int take(std::span<os::PageScan::Run> runs, std::size_t* passed,
           bool (*advise)(void*, std::size_t)) noexcept {
    const std::uintptr_t begin = runs[0].begin;
    std::uintptr_t end = begin;
    int count = 0;
    for (os::PageScan::Run& run : runs) {
      if (run.begin - end > kGapBytes && end != begin) break;
      if (run.begin - begin >= kStepBytes) break;
      const std::uintptr_t stop = run.end - begin < kStepBytes ? run.end : begin + kStepBytes;
      *passed += stop - run.begin;
      end = stop;
      if (stop < run.end) {
        run.begin = stop;  // the next step goes on here
        break;
      }
      ++count;
    }
    static_cast<void>(advise(reinterpret_cast<void*>(begin), end - begin));
    return count;
  }

  std::uintptr_t at_ = kBegin;
};
constinit Hand hand;

// What the process takes of RAM: what is present, and its part of what zram and zswap hold.
class Usage {
 public:
  [[nodiscard]] std::size_t bytes(std::uint64_t now_ms) noexcept {
    constexpr std::uint64_t kOwnMs = 5, kMachineMs = 20;
    if (now_ms - own_ms_ >= kOwnMs) {
      own_ms_ = now_ms;
      swapped_ = os::swapped_bytes();
      pager.out_pages.store(swapped_ / kPageBytes, std::memory_order_relaxed);
    }
    if (now_ms - machine_ms_ >= kMachineMs) {
      machine_ms_ = now_ms;
      swap_ = os::look_at_swap();
    }
    const std::size_t share = swap_.used_bytes == 0
                                  ? 0
                                  : static_cast<std::size_t>(static_cast<double>(swapped_) *
                                                             (static_cast<double>(swap_.ram_bytes) /
                                                              static_cast<double>(swap_.used_bytes)));
    return pager.meter.anonymous_bytes() + (share < swapped_ ? share : swapped_);
  }

 private:
  std::uint64_t own_ms_ = 0, machine_ms_ = 0;
  std::size_t swapped_ = 0;
  os::SwapSpace swap_ = {};
};
constinit Usage usage;

void run_kernel_pager(void*) noexcept {
  std::uint64_t last_ms = os::clock_coarse_ms(), refreshed_ms = last_ms;
  for (;;) {
    const std::uint64_t now_ms = os::clock_coarse_ms();
    const std::uint32_t calls = pager.calls.load(std::memory_order_acquire);
    if (now_ms - refreshed_ms >= 1000) {
      refreshed_ms = now_ms;
      refresh_budget();
    }
    const std::size_t budget = pager.budget_bytes.load(std::memory_order_relaxed);
    const std::size_t used = usage.bytes(now_ms);
    pager.used_bytes.store(used, std::memory_order_relaxed);
    pager.room.look(used, budget);
    publish_room();
    pager.counters.evictor_cpu_ns.store(os::thread_cpu_ns(), std::memory_order_relaxed);
    std::size_t passed = 0;
    const std::size_t slack = budget / 64;
    if (budget != 0 && used + slack > budget) {
      give_back_free_memory();
      passed = hand.pass(used + 2 * slack - budget, os::page_out_by_kernel);
      count(pager.counters.page_outs, passed / kPageBytes);
    }
    if (budget == 0 && now_ms - last_ms >= 250) {
      static_cast<void>(hand.pass(used * (now_ms - last_ms) / kSweepMs, os::mark_cold));
      last_ms = now_ms;
    }
    pager.rounds.fetch_add(1, std::memory_order_release);
    os::wake_all(pager.rounds);
    // Handed over is not yet out: what the kernel did not take must not be offered again at full speed.
    const bool is_near = budget != 0 && used + used / 4 > budget;
    os::wait_on(pager.calls, calls, passed != 0 ? kNapNs / 4 : is_near ? kNapNs : kIdleNapNs);
  }
}

}  // namespace

bool start_kernel_pager() noexcept {
  return os::start_service_thread(run_kernel_pager, nullptr, "glebe-evict");
}

}  // namespace glebe::paging
