// When the evictor takes pages out, and how many: against a fixed budget, or whatever is idle. How it does
// that is in evictor.cpp.
#include "platform/process.h"
#include "platform/scheduling.h"
#include "platform/service.h"
#include "src/paging/evictor.h"
#include "src/paging/follower.h"
#include "src/paging/last_thread.h"
#include "src/paging/pager_state.h"
#include "src/vm/pageable.h"

namespace glebe::paging {

// How much of the budget the compressed tier may take when there are files. Pages in RAM, compressed pages
// and files share the program's touches; where a little more room would save more waiting, there it goes.
std::size_t Evictor::compressed_limit(std::size_t budget) noexcept {
  constexpr std::uint32_t kEventsLeast = 64;
  constexpr std::uint64_t kExpandNs = 12'000;
  constexpr unsigned kStepShare = 64, kLeastShare = 32;
  const std::size_t most = budget / 8 * 5, least = budget / kLeastShare;
  if (compressed_max_ == 0) compressed_max_ = budget / 2;
  const std::uint64_t ram = pager.near_refaults.load(std::memory_order_relaxed);
  const std::uint64_t file = pager.near_file_reads.load(std::memory_order_relaxed);
  if (ram + file >= kEventsLeast) {
    pager.near_refaults.store(0, std::memory_order_relaxed);
    pager.near_file_reads.store(0, std::memory_order_relaxed);
    const StoreStats store = pager.store(pager.own_store).stats();
    const std::uint64_t pages_per_page = store.object_bytes / (store.slot_bytes + 1) + 1;
    const std::uint64_t read_ns = pager.file_read_ns.load(std::memory_order_relaxed);
    const std::uint64_t for_ram = ram * kExpandNs;
    const std::uint64_t for_tier = read_ns > kExpandNs ? file * pages_per_page * (read_ns - kExpandNs) : 0;
    if (for_ram > 2 * for_tier) compressed_max_ -= std::min(compressed_max_, budget / kStepShare);
    if (for_tier > for_ram) compressed_max_ += budget / kStepShare;
  }
  compressed_max_ = std::max(least, std::min(compressed_max_, most));
  return compressed_max_;
}

// A move takes the page away from the other CPUs by an interrupt, which costs more than the move. None is
// needed on the CPU of the only thread that faults, so that is where pages move, a few at a time, while the
// rest of the work is done elsewhere.
unsigned Evictor::stage_beside(std::uint64_t wanted_pages) noexcept {
  const int cpu = follower.followed_cpu();
  if (cpu < 0) return stage(wanted_pages);
  const int self = os::current_thread();
  const bool is_beside = os::run_only_on(self, cpu);
  const unsigned moved = stage(wanted_pages);
  if (is_beside) follower.send_away(self);
  return moved;
}

// One round against a fixed budget, short enough that the next look is not far.
bool Evictor::keep_budget(std::size_t used, std::size_t budget) noexcept {
  // Below the budget, so that nobody has to wait for room all the time.
  const std::size_t slack = std::min<std::size_t>(budget / 64, 4 * kMiB);
  if (used + slack <= budget) return false;
  constexpr std::uint64_t kRoundPages = 128;
  give_back_free_memory();
  const std::uint64_t wanted = std::min(kRoundPages, (used + 2 * slack - budget) / kPageBytes + 16);
  // Small: a page that is staged costs a fault although it is in RAM, and which pages come back soon is known
  // without it (victim.h).
  constexpr std::uint64_t kStagedShare = 32;
  const std::uint64_t stage_target = std::max<std::uint64_t>(256, budget / kPageBytes / kStagedShare);
  std::uint64_t freed = put_away_oldest(wanted, stage_target / 2, 0);
  const std::size_t compressed = pager.store(pager.own_store).compressed_bytes();
  pager.victims.set_resident((used > compressed ? used - compressed : 0) / kPageBytes);
  if (pager.store(pager.own_store).has_files()) {
    // What objects take, not the slabs: a slab goes only when all that was in it went, and what is free in it
    // is taken by the next objects.
    const std::size_t occupied = pager.store(pager.own_store).occupied_bytes();
    const std::size_t occupied_max = compressed_limit(budget);
    if (occupied > occupied_max) write_cold(occupied - occupied_max);
  }
  const std::uint64_t staged = pager.staged_pages.load(std::memory_order_relaxed);
  unsigned moved = 0;
  if (staged < stage_target + wanted) moved = stage_beside(std::max<std::uint64_t>(wanted, 64));
  fruitless_rounds_ = freed != 0 ? 0 : fruitless_rounds_ + 1;
  return freed + moved != 0;
}

// One round without a fixed budget: everything is probed once in a while by staging it; what stays untouched
// for some seconds is put away. Slower when pages come back soon after they went out.
bool Evictor::take_idle(std::uint64_t now_ms) noexcept {
  constexpr std::uint64_t kRoundMs = 250;
  constexpr std::uint64_t kSweepMs = 12'000;     // every page is probed about this often
  constexpr std::uint16_t kStagedTicks = 40;     // 4 s untouched in the staging area
  constexpr std::uint64_t kRefaultShare = 2000;  // of the pages in RAM, may come back per round
  constexpr std::uint64_t kPauseMs = 5'000;
  if (now_ms - last_idle_round_ms_ < kRoundMs) return false;
  last_idle_round_ms_ = now_ms;
  const std::uint64_t resident = pager.used_bytes.load(std::memory_order_relaxed) / kPageBytes;
  const std::uint64_t page_ins = pager.counters.page_ins.load(std::memory_order_relaxed);
  const std::uint64_t came_back = page_ins - last_page_ins_;
  last_page_ins_ = page_ins;
  if (came_back > resident / kRefaultShare + 16) paused_until_ms_ = now_ms + kPauseMs;
  if (now_ms < paused_until_ms_) return false;
  give_back_free_memory();
  put_away_oldest(~std::uint64_t{0}, 0, kStagedTicks);
  // With a directory, what is idle does not fill memory compressed either.
  constexpr std::size_t kCompressedShare = 4;
  const std::size_t compressed = pager.store(pager.own_store).occupied_bytes();
  const std::size_t compressed_max = resident * kPageBytes / kCompressedShare;
  if (pager.store(pager.own_store).has_files() && compressed > compressed_max)
    write_cold(compressed - compressed_max);
  stage(resident * kRoundMs / kSweepMs + 16);
  return false;
}

// The figures of the system, and whether the program has to wait before it grows: not when the last round got
// nothing out, because then there is nothing to wait for.
std::size_t Evictor::look(std::size_t budget, bool is_stuck) noexcept {
  const std::size_t used = pager.meter.anonymous_bytes();
  pager.used_bytes.store(used, std::memory_order_relaxed);
  pager.room.look(used, is_stuck || !pager.may_page_out ? 0 : budget);
  publish_room();
  return used;
}

void Evictor::once_a_second(std::uint64_t now_ms) noexcept {
  if (now_ms - last_trim_ms_ < 1000) return;
  last_trim_ms_ = now_ms;
  refresh_budget();
  pager.store(pager.own_store).trim();
  pager.counters.evictor_cpu_ns.store(os::thread_cpu_ns(), std::memory_order_relaxed);
}

void Evictor::run() noexcept {
  constexpr std::uint64_t kNapNs = 2'000'000, kIdleNapNs = 20'000'000;
  bool is_stuck = false;
  for (;;) {
    const std::uint64_t now_ms = os::clock_coarse_ms();
    const std::size_t budget = pager.budget_bytes.load(std::memory_order_relaxed);
    const std::uint32_t calls = pager.calls.load(std::memory_order_acquire);
    tick_ = static_cast<std::uint16_t>(now_ms / 100);
    pager.victims.set_time(static_cast<std::uint32_t>(now_ms / 100));
    settle_journal(static_cast<std::uint32_t>(now_ms));
    const std::size_t used = look(budget, is_stuck);
    bool is_busy = false;
    if (pager.may_page_out) {
      if (budget != 0) watch_growth(used, budget, now_ms);
      is_busy = budget != 0 ? keep_budget(used, budget) : take_idle(now_ms);
    }
    once_a_second(now_ms);
    watch_for_last_thread(now_ms);
    note_saved(now_ms);
    is_stuck = budget != 0 && used > budget && !is_busy;
    pager.rounds.fetch_add(1, std::memory_order_release);
    os::wake_all(pager.rounds);
    // What goes in circles (pages that do not compress, and nowhere to write them) need not do so at full
    // speed.
    constexpr unsigned kFruitlessMax = 64;
    if (is_busy && fruitless_rounds_ < kFruitlessMax) continue;
    const bool is_near = budget != 0 && used + used / 2 > budget;
    os::wait_on(pager.calls, calls, is_near || !pager.journal.is_empty() ? kNapNs : kIdleNapNs);
  }
}

}  // namespace glebe::paging
