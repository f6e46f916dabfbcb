// What the heap says about its memory: freed, purged, decommitted (src/vm/pageable.h). Nothing here reads
// what a page held, waits for a disk, or makes a system call on a descriptor: the callers are threads of the
// program, with locks of the heap. Pages that are out are dropped by changing their words; what they named is
// given up later by the evictor.
#include "platform/process.h"
#include "platform/vm.h"
#include "src/paging/unit_lock.h"
#include "src/vm/pageable.h"

namespace glebe::paging {
namespace {

// Makes one page that is out resident, unread. Lock of its group held.
void drop(std::uint64_t page, PageWord word) noexcept {
  leave_out(page, word, PageWord::resident(0));
  count(pager.counters.dropped_pages);
}

// Of pages [begin, end) of one group, what is out, unless its lock is taken. Returns a mask of the pages
// dropped.
std::uint64_t drop_in_group(std::uint64_t begin, std::uint64_t end) noexcept {
  if (pager.table.unit_of_page(begin).pages_out.load(std::memory_order_relaxed) == 0) return 0;
  bool is_any = false;
  for (std::uint64_t page = begin; page < end; ++page) is_any = is_any || pager.table.get(page).is_out();
  if (!is_any) return 0;
  const os::SignalsBlocked no_signals;
  if (!pager.table.try_lock(begin / kGroupPages)) return 0;
  std::uint64_t dropped = 0;
  for (std::uint64_t page = begin; page < end; ++page) {
    const PageWord word = pager.table.get(page);
    if (!word.is_out()) continue;
    drop(page, word);
    dropped |= std::uint64_t{1} << (page - begin);
  }
  pager.table.unlock(begin / kGroupPages);
  return dropped;
}

}  // namespace

void drop_pages(std::uint64_t first_page, std::uint64_t end_page) noexcept {
  for (std::uint64_t page = first_page; page < end_page; ++page) {
    const PageWord word = pager.table.get(page);
    if (word.is_out()) drop(page, word);
  }
}

bool purge_range(void* base, std::size_t size_bytes) noexcept {
  if (!pager.table.contains(base)) return os::purge(base, size_bytes);
  return for_each_unit(base, size_bytes, [](UnitRecord&, std::byte* at, std::size_t bytes) {
           return os::purge(at, bytes) ? 0 : 1;
         }) == 0;
}

bool decommit_range(void* base, std::size_t size_bytes) noexcept {
  if (!pager.table.contains(base)) return os::decommit(base, size_bytes);
  return for_each_unit(base, size_bytes, [](UnitRecord& record, std::byte* at, std::size_t bytes) {
           note_replaced(record);
           return os::decommit(at, bytes) ? 0 : 1;
         }) == 0;
}

std::uint64_t drop_freed(std::byte* first_page, unsigned page_count) noexcept {
  if (!pager.table.contains(first_page)) return 0;
  const std::uint64_t first = pager.table.page_of(first_page), end = first + page_count;
  // A fork that is under way copies what a page held before: not now.
  if (pager.forks_under_way.load(std::memory_order_acquire) != 0) return 0;
  std::uint64_t dropped = 0;
  for (std::uint64_t page = first; page < end;) {
    const std::uint64_t group_end = (page / kGroupPages + 1) * kGroupPages;
    const std::uint64_t stop = group_end < end ? group_end : end;
    dropped |= drop_in_group(page, stop) << (page - first);
    page = stop;
  }
  return dropped;
}

unsigned count_out(const std::byte* first_page, unsigned page_count) noexcept {
  if (!pager.table.contains(first_page)) return 0;
  const std::uint64_t first = pager.table.page_of(first_page);
  if (pager.table.unit_of_page(first).pages_out.load(std::memory_order_relaxed) == 0) return 0;
  unsigned out = 0;
  for (unsigned i = 0; i < page_count; ++i) out += pager.table.get(first + i).is_out() ? 1u : 0u;
  return out;
}

bool is_room_short() noexcept {
  return pager.room.is_above(0) &&
         os::clock_coarse_ms() >= pager.no_pressure_until_ms.load(std::memory_order_relaxed);
}

void wait_for_room(std::uint64_t limit_ns) noexcept {
  constexpr std::uint64_t kRoundNs = 200'000;
  constexpr std::uint64_t kPauseMs = 2'000;
  constexpr std::uint64_t kNsPerPage = 10'000'000;  // slower than 100 pages a second is not worth waiting for
  if (!is_room_short()) return;
  const std::uint64_t start = os::clock_fine_ns();
  const std::uint64_t outs_before = pager.counters.page_outs.load(std::memory_order_relaxed);
  const std::uint32_t rounds_before = pager.rounds.load(std::memory_order_relaxed);
  while (is_room_short() && os::clock_fine_ns() - start <= limit_ns) {
    const std::uint32_t round = pager.rounds.load(std::memory_order_acquire);
    pager.calls.fetch_add(1, std::memory_order_release);
    os::wake_one(pager.calls);
    os::wait_on(pager.rounds, round, kRoundNs);
  }
  const std::uint64_t waited_ns = os::clock_fine_ns() - start;
  const std::uint64_t outs = pager.counters.page_outs.load(std::memory_order_relaxed) - outs_before;
  // Waiting does not help: hardly anything can go out. The program goes on, above its budget. Not so when the
  // evictor just had no CPU, as on a busy machine: then whole rounds would have been too few too.
  const bool had_its_turn = pager.rounds.load(std::memory_order_relaxed) - rounds_before >= 2 ||
                            pager.is_evictor_writing.load(std::memory_order_relaxed);
  if (waited_ns > limit_ns && outs < limit_ns / kNsPerPage && had_its_turn)
    pager.no_pressure_until_ms.store(os::clock_coarse_ms() + kPauseMs, std::memory_order_relaxed);
  count(pager.counters.throttles);
  count(pager.counters.throttle_ns, waited_ns);
}

void publish_room() noexcept {
  constexpr auto kWait = [] {
    constexpr std::uint64_t kLimitNs = 20'000'000;
    wait_for_room(kLimitNs);
  };
  vm::wait_for_room.store(is_room_short() ? +kWait : nullptr, std::memory_order_relaxed);
}

}  // namespace glebe::paging
