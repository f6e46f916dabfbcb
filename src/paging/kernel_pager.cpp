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
#include <algorithm>
#include <span>

#include "platform/fault.h"
#include "platform/process.h"
#include "platform/service.h"
#include "platform/swap.h"
#include "platform/vm.h"
#include "src/base/bits.h"
#include "src/heap/reclaim.h"
#include "src/paging/last_thread.h"
#include "src/paging/pager_state.h"
#include "src/vm/ledger.h"
#include "src/vm/pageable.h"

namespace glebe::paging {
namespace {

constexpr std::uint64_t kNapNs = 2'000'000, kIdleNapNs = 20'000'000;
constexpr std::uint64_t kSweepMs = 60'000;
constexpr unsigned kRuns = 128;
constexpr std::size_t kStepBytes = kMiB;  // in one call, which takes microseconds a page
// Between two looks: who waits for room has to hear soon that some was made.
constexpr std::size_t kRoundBytes = 2 * kMiB;
constexpr std::size_t kGapBytes = 64 * kKiB;
constexpr std::uintptr_t kBegin = kProcessMemory.begin, kEnd = kProcessMemory.end;

void give_back_free_memory() noexcept {
  if (vm::ledger.dirty_bytes.load(std::memory_order_relaxed) < kGroupBytes) return;
  constexpr unsigned kChunks = 64;
  heap::purge_dirty(kChunks);
}

// Goes round the present pages of the process. What lies close together is advised in one call, with the
// holes between: a call for a single page costs ten times as much as a page in a long range.
class Hand {
  using Run = os::PageScan::Run;
  using Runs = std::span<const Run>;

 public:
  // Hands present pages over until about `wanted_bytes` have left, once round at most. Returns bytes that
  // left.
  std::size_t page_out(std::size_t wanted_bytes) noexcept {
    return pass(wanted_bytes, [](Runs runs) {
      const std::size_t before = bytes_of(runs);
      const std::uintptr_t begin = runs.front().begin, end = runs.back().end;
      // One that is locked ends the call: then each for itself.
      if (!advise_all(runs, os::page_out_by_kernel)) {
        for (const Run& run : runs) static_cast<void>(advise_all({&run, 1}, os::page_out_by_kernel));
      }
      const std::size_t after = present_bytes(begin, end);
      const std::size_t left = after < before ? before - after : 0;
      count(pager.counters.page_outs, left / kPageBytes);  // each step: who waits for room looks at it
      return left;
    });
  }
  void mark_cold(std::size_t wanted_bytes) noexcept {
    static_cast<void>(pass(wanted_bytes, [](Runs runs) {
      static_cast<void>(advise_all(runs, os::mark_cold));
      return bytes_of(runs);
    }));
  }

 private:
  static bool advise_all(Runs runs, bool (*advise)(void*, std::size_t)) noexcept {
    const std::uintptr_t begin = runs.front().begin;
    return advise(reinterpret_cast<void*>(begin), runs.back().end - begin);
  }

  // Calls take(runs) for the next present pages, those of a step at a time, until what it returned is as much
  // as wanted, or once round. The hand stands behind what was taken.
  template <class Take>
  std::size_t pass(std::size_t wanted_bytes, Take take) noexcept {
    std::size_t taken = 0;
    const std::uintptr_t start = at_;
    for (bool is_second_half = false; taken < wanted_bytes;) {
      Run runs[kRuns];
      std::uintptr_t scanned = kEnd;
      const std::uintptr_t end = is_second_half ? start : kEnd;
      const int found = at_ < end ? pager.scan.present({at_, end}, runs, &scanned) : 0;
      if (found < 0) return taken;
      taken += pass_runs({runs, static_cast<std::size_t>(found)}, wanted_bytes - taken, take);
      if (taken >= wanted_bytes) return taken;
      at_ = found == 0 ? end : scanned;
      if (at_ < end) continue;
      if (is_second_half) return taken;
      is_second_half = true;
      at_ = kBegin;
    }
    return taken;
  }

  template <class Take>
  std::size_t pass_runs(std::span<Run> runs, std::size_t wanted_bytes, Take take) noexcept {
    std::size_t taken = 0;
    while (!runs.empty() && taken < wanted_bytes) {
      if (runs[0].end - runs[0].begin > kStepBytes) {
        const Run first = {runs[0].begin, runs[0].begin + kStepBytes};
        taken += take({&first, 1});
        at_ = runs[0].begin = first.end;
        continue;
      }
      const std::size_t count = runs_of_step(runs);
      taken += take(runs.first(count));
      at_ = runs[count - 1].end;
      runs = runs.subspan(count);
    }
    return taken;
  }

  // How many of the runs, at least one, make a step: close together, and together not longer than it.
  static std::size_t runs_of_step(Runs runs) noexcept {
    std::size_t count = 1;
    while (count < runs.size() && runs[count].end - runs[0].begin <= kStepBytes &&
           runs[count].begin - runs[count - 1].end <= kGapBytes) {
      ++count;
    }
    return count;
  }
  static std::size_t bytes_of(Runs runs) noexcept {
    std::size_t sum = 0;
    for (const Run& run : runs) sum += run.end - run.begin;
    return sum;
  }
  static std::size_t present_bytes(std::uintptr_t begin, std::uintptr_t end) noexcept {
    std::size_t sum = 0;
    while (begin < end) {
      Run runs[kRuns];
      const int found = pager.scan.present({begin, end}, runs, &begin);
      if (found <= 0) break;
      sum += bytes_of({runs, static_cast<std::size_t>(found)});
    }
    return sum;
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
    watch_for_last_thread(now_ms);
    const std::size_t budget = pager.budget_bytes.load(std::memory_order_relaxed);
    const std::size_t used = usage.bytes(now_ms);
    pager.used_bytes.store(used, std::memory_order_relaxed);
    pager.room.look(used, budget);
    publish_room();
    pager.counters.evictor_cpu_ns.store(os::thread_cpu_ns(), std::memory_order_relaxed);
    std::size_t wanted = 0, out = 0;
    const std::size_t slack = budget / 64;
    if (budget != 0 && used + slack > budget) {
      give_back_free_memory();
      wanted = std::min(used + 2 * slack - budget, kRoundBytes);
      pager.is_evictor_writing.store(true, std::memory_order_relaxed);
      out = hand.page_out(wanted);
      pager.is_evictor_writing.store(false, std::memory_order_relaxed);
    }
    if (budget == 0 && now_ms - last_ms >= 250) {
      hand.mark_cold(used * (now_ms - last_ms) / kSweepMs);
      last_ms = now_ms;
    }
    pager.rounds.fetch_add(1, std::memory_order_release);
    os::wake_all(pager.rounds);
    const bool is_near = budget != 0 && used + used / 4 > budget;
    // Above the budget, and hardly anything goes: to try again at full speed, whoever waits, helps nobody.
    constexpr std::size_t kLeastShare = 8;
    if (wanted != 0) {
      if (out < wanted / kLeastShare) os::sleep_ns(kIdleNapNs);
    } else {
      os::wait_on(pager.calls, calls, is_near ? kNapNs : kIdleNapNs);
    }
  }
}

}  // namespace

bool start_kernel_pager() noexcept {
  return os::start_service_thread(run_kernel_pager, nullptr, "glebe-evict");
}

}  // namespace glebe::paging
