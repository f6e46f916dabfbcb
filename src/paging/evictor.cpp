// The thread that takes pages out. Three steps, each on runs of pages:
//
//   stage     a clock hand goes round the present pages; pages without chances left move to the staging area
//             (UFFDIO_MOVE: atomic, refuses pages that are pinned). A touch there is answered by moving the
//             page back.
//   put away  groups that stayed untouched in the staging area are compressed, and the staged pages purged.
//   write     when the compressed tier holds more than it may, its oldest groups go to the page files, a
//             batch at a time; so does at once what does not compress.
//
// Before anything moves, free memory of the heap is given back: what is free is never stored. When and how
// much: evictor_rounds.cpp.
#include <cerrno>

#include "platform/process.h"
#include "platform/scheduling.h"
#include "platform/service.h"
#include "platform/vm.h"
#include "src/base/check.h"
#include "src/heap/reclaim.h"
#include "src/heap/small.h"
#include "src/paging/evictor.h"
#include "src/paging/own_memory.h"
#include "src/paging/pager_fork.h"
#include "src/paging/pager_state.h"
#include "src/vm/ledger.h"

namespace glebe::paging {
namespace {

constexpr std::uint8_t kInStageQueue = 1, kInColdQueue = 2;
constexpr std::uint32_t kJournalAgeMs = 20;

// The one of this process; in a forked child until it starts its own, a copy of its parent's.
constinit Evictor* evictor = nullptr;

// A staged page that nothing takes goes back, to be tried again after the clock hand passed some times.
void give_up(std::uint64_t page) noexcept {
  if (pager.faults.move(pager.table.address_of(page), pager.staged(page), kPageBytes) !=
      static_cast<long>(kPageBytes))
    return;  // shared with a child: a touch brings it back
  note_back(page);
  pager.staged_pages.fetch_sub(1, std::memory_order_relaxed);
  pager.table.set(page, PageWord::resident(3));
}

bool is_zero(const std::byte* page) noexcept {
  const auto* words = reinterpret_cast<const std::uint64_t*>(page);
  for (unsigned i = 0; i < kPageBytes / 8; ++i) {
    if (words[i] != 0) return false;
  }
  return true;
}

std::uint64_t first_page(std::uint64_t group) noexcept { return group * kGroupPages; }

// Makes pages [first, first + page_count) our own that are or were shared with a forked child. Only when all
// are present: the fault of a missing one would wait for the lock that we hold.
bool unshare(std::uint64_t first, unsigned page_count) noexcept {
  const auto begin = reinterpret_cast<std::uintptr_t>(pager.table.address_of(first));
  const std::uintptr_t end = begin + page_count * kPageBytes;
  os::PageScan::Run run = {};
  std::uintptr_t scanned = 0;
  if (pager.scan.present({begin, end}, {&run, 1}, &scanned) != 1 || run.begin != begin || run.end != end)
    return false;
  return os::unshare_pages(pager.table.address_of(first), end - begin);
}

// The faults of the staging area become ours, before those of any other memory.
bool watch_staging() noexcept {
  if (pager.is_staging_watched.load(std::memory_order_relaxed)) return true;
  if (pager.faults.watch(pager.staging, pager.table.size_bytes()) != 0 || !watch_beacons()) return false;
  pager.is_staging_watched.store(true, std::memory_order_release);
  return true;
}

// Makes the faults of the unit that holds a page ours. Lock of one of its groups held.
bool watch_unit(std::uint64_t page) noexcept {
  UnitRecord& unit = pager.table.unit_of_page(page);
  const WatchState state = unit.watched.load(std::memory_order_relaxed);
  const bool is_all = pager.is_all_watched.load(std::memory_order_relaxed);
  if (state == WatchState::watched || (state == WatchState::as_all && is_all)) return true;
  if (!watch_staging()) return false;
  std::byte* const start = pager.table.base() + page / (kUnitBytes / kPageBytes) * kUnitBytes;
  if (pager.faults.watch(start, kUnitBytes) != 0) return false;
  unit.watched.store(WatchState::watched, std::memory_order_relaxed);
  return true;
}

}  // namespace

bool GroupQueue::open(std::uint64_t capacity) noexcept {
  ring_ = static_cast<std::uint64_t*>(map_own(capacity * sizeof *ring_));
  if (ring_ == nullptr) return false;
  capacity_ = capacity;
  return true;
}

bool Evictor::open(const Evictor* parents) noexcept {
  // A group is in a queue at most once.
  constexpr std::uint64_t kQueueMax = std::uint64_t{1} << 24;
  std::uint64_t groups = pager.table.size_bytes() / kGroupBytes;
  if (groups > kQueueMax) groups = kQueueMax;
  const vm::Region& region = vm::regions[0];
  const auto chunks = reinterpret_cast<std::uintptr_t>(region.chunk_base);
  ClockHand::Range slots = {chunks, chunks};
  if (region.large.base != nullptr) {
    const auto large = reinterpret_cast<std::uintptr_t>(region.large.base);
    slots = {large, large + region.large.size_bytes() + region.mapped_zone_bytes};
  }
  hand_.open(slots, {chunks, chunks + std::uintptr_t{region.chunk_count} * kUnitBytes});
  if (parents != nullptr) {
    staged_ = parents->staged_;
    cold_ = parents->cold_;
  } else if (!staged_.open(groups) || !cold_.open(groups)) {
    return false;
  }
  return batch_.open() && scratch_.open(pager.options.codec);
}

void Evictor::give_back_free_memory() noexcept {
  if (vm::ledger.dirty_bytes.load(std::memory_order_relaxed) < kGroupBytes) return;
  if (pager.forks_under_way.load(std::memory_order_acquire) != 0) return;
  constexpr unsigned kChunks = 64;
  pager.evictor_in_heap.store(true, std::memory_order_seq_cst);
  // Again after the store: either this sees the fork, or the fork sees the flag and waits a moment.
  if (pager.forks_under_way.load(std::memory_order_seq_cst) == 0) {
    heap::purge_dirty(kChunks);
  }
  pager.evictor_in_heap.store(false, std::memory_order_seq_cst);
}

// Whether a present page may be staged now. One that may not loses a chance. Lock of its group held.
bool Evictor::is_candidate(std::uint64_t page) noexcept {
  const PageWord word = pager.table.get(page);
  // Present, but said to be out: our parent brought it in for us, right after the fork.
  if (word.is_out() && !word.is(PageWord::kBusy)) leave_out(page, word, PageWord::resident(1));
  if (word.bits == 0) return true;
  if (!word.is_out() && word.chances() != 0) pager.table.set(page, PageWord{word.bits - 1});
  return false;
}

// Says of the candidates among pages [begin, end) of the span that they are staged, or that they are resident
// after all.
void Evictor::mark(const Span& span, unsigned begin, unsigned end, bool is_staged) noexcept {
  for (unsigned i = begin; i < end; ++i) {
    if ((span.candidates >> i & 1) == 0) continue;
    const std::uint64_t page = span.first + i;
    if (is_staged) {
      note_out(page);
      pager.staged_pages.fetch_add(1, std::memory_order_relaxed);
      pager.table.set(page, PageWord::of(PageState::staged));
    } else {
      note_back(page);
      pager.staged_pages.fetch_sub(1, std::memory_order_relaxed);
      pager.table.set(page, PageWord::resident(0));
    }
  }
}

// How many candidates follow each other from `begin`, itself one, up to `end`.
unsigned Evictor::candidates_from(const Span& span, unsigned begin, unsigned end) noexcept {
  unsigned stop = begin + 1;
  while (stop < end && (span.candidates >> stop & 1) != 0) ++stop;
  return stop - begin;
}

// Behind the last candidate among pages [begin, end), of which the first is one.
unsigned Evictor::end_of_candidates(const Span& span, unsigned begin, unsigned end) noexcept {
  while (end > begin + 1 && (span.candidates >> (end - 1) & 1) == 0) --end;
  return end;
}

// Moves the candidates among pages [begin, end) of a span to the staging area; the others there are out
// already, so that one move carries all. Both ends are candidates. Locks of the groups held. Returns pages
// moved.
unsigned Evictor::stage_run(const Span& span, unsigned begin, unsigned end) noexcept {
  const PageTable& table = pager.table;
  unsigned moved = 0;
  unsigned stop = end;
  for (unsigned refusals = 0; begin < end;) {
    // The words first: a child that is forked in between finds the page in the heap, or where its word says.
    mark(span, begin, stop, true);
    const std::uint64_t page = span.first + begin;
    const std::size_t bytes = (stop - begin) * kPageBytes;
    long result = pager.faults.move(pager.staged(page), table.address_of(page), bytes, {.with_holes = true});
    if (result == -EBUSY && unshare(page, candidates_from(span, begin, stop))) {
      result = pager.faults.move(pager.staged(page), table.address_of(page), bytes, {.with_holes = true});
    }
    const unsigned done = result > 0 ? static_cast<unsigned>(result / static_cast<long>(kPageBytes)) : 0;
    mark(span, begin + done, stop, false);
    for (unsigned i = begin; i < begin + done; ++i) moved += span.candidates >> i & 1;
    if (result == -EEXIST) static_cast<void>(os::purge(pager.staged(page), kPageBytes));  // left by a fork
    if (result == -EAGAIN) break;  // a fork is under way
    if (result == -EINVAL) {
      // Locked or protected memory, or the border of two mappings of the kernel: smaller steps find where.
      constexpr unsigned kRefusalsMax = 16;
      if (++refusals == kRefusalsMax) break;
    }
    if (const unsigned half = (stop - begin) / 2; result == -EINVAL && half != 0) {
      stop = end_of_candidates(span, begin, begin + half);
      continue;
    }
    if (result <= 0 && result != -ENOENT && result != -EEXIST) {
      count(pager.counters.refused_pages);
      table.set(page, PageWord::resident(kChancesRefused));
    }
    // The kernel stops where something is in the way: the next turn says what.
    begin += result > 0 ? done : 1;
    while (begin < end && (span.candidates >> begin & 1) == 0) ++begin;
    stop = end;
  }
  count(pager.counters.moved_pages, moved);
  return moved;
}

// Pages of slabs whose blocks are all free are given back instead of stored. Lock of the group held.
void Evictor::give_back_free_pages(std::uint64_t group) noexcept {
  if (pager.forks_under_way.load(std::memory_order_acquire) != 0) return;
  const auto give_back = [](void*, std::byte* address, unsigned page_count) {
    const std::uint64_t first = pager.table.page_of(address);
    unsigned given = 0;
    for (unsigned i = 0; i < page_count; ++i) given += pager.table.get(first + i).is_out() ? 0u : 1u;
    // Only when all of them are in the heap: what is out is dropped when the slab becomes free.
    if (given != page_count || !os::purge(address, page_count * kPageBytes)) return;
    count(pager.counters.free_pages, page_count);
  };
  pager.evictor_in_heap.store(true, std::memory_order_seq_cst);
  if (pager.forks_under_way.load(std::memory_order_seq_cst) == 0) {
    std::byte* const start = pager.table.address_of(first_page(group));
    for (std::size_t offset = 0; offset < kGroupBytes; offset += vm::kGranuleBytes) {
      heap::visit_free_pages(start + offset, give_back, nullptr);
    }
  }
  pager.evictor_in_heap.store(false, std::memory_order_seq_cst);
}

// The runs of a span in which everything is a candidate or out already, each moved at once. Locks held.
unsigned Evictor::stage_candidates(const Span& span, std::uint64_t passable) noexcept {
  unsigned moved = 0;
  for (unsigned begin = 0; begin < kSpanPages;) {
    if ((span.candidates >> begin & 1) == 0) {
      ++begin;
      continue;
    }
    unsigned end = begin + 1;
    for (unsigned i = end; i < kSpanPages && (passable >> i & 1) != 0; ++i) {
      if ((span.candidates >> i & 1) != 0) end = i + 1;
    }
    moved += stage_run(span, begin, end);
    begin = end;
  }
  return moved;
}

// Stages what has no chances left among the present pages of a span. The locks of its groups are held at
// once, because a move costs as much for one page as for many.
unsigned Evictor::stage_span(Span& span) noexcept {
  if (span.present == 0) return 0;
  const PageTable& table = pager.table;
  const std::uint64_t first_group = span.first / kGroupPages;
  unsigned groups = 0;
  while (groups < kSpanPages / kGroupPages && table.try_lock(first_group + groups)) ++groups;
  unsigned moved = 0;
  if (groups != 0 && watch_unit(span.first)) {
    const bool may_be_slabs =
        reinterpret_cast<std::uintptr_t>(table.address_of(span.first)) >= hand_.range(1).begin;
    for (unsigned i = 0; may_be_slabs && i < groups; ++i) give_back_free_pages(first_group + i);
    std::uint64_t out = 0, passed_over = 0;
    for (unsigned i = 0; i < groups; ++i) {
      const std::uint64_t pages = bit_range(i * kGroupPages, kGroupPages);
      if ((span.present & pages) != 0 && !pager.victims.may_go(first_group + i)) passed_over |= pages;
    }
    for (unsigned i = 0; i < groups * kGroupPages; ++i) {
      const bool is_present = (span.present >> i & 1) != 0, may_go = (passed_over >> i & 1) == 0;
      if (is_present && may_go && is_candidate(span.first + i)) span.candidates |= std::uint64_t{1} << i;
      if (!is_present && table.get(span.first + i).is_out()) out |= std::uint64_t{1} << i;
    }
    moved = stage_candidates(span, span.candidates | out);
  }
  for (unsigned i = 0; i < groups; ++i) {
    GroupRecord& record = table.group(first_group + i);
    if ((span.candidates >> (i * kGroupPages) & 0xffff) != 0) {
      record.staged_tick = tick_;
      if ((record.queues & kInStageQueue) == 0 && staged_.push(first_group + i))
        record.queues |= kInStageQueue;
    }
    table.unlock(first_group + i);
  }
  return moved;
}

// Stages what it may among the present pages of the runs, span by span, until enough were moved. Returns
// pages moved; when that is enough, *reached is behind the last span.
unsigned Evictor::stage_runs(std::span<const os::PageScan::Run> runs, std::uint64_t wanted_pages,
                             std::uintptr_t* reached) noexcept {
  const auto base = reinterpret_cast<std::uintptr_t>(pager.table.base());
  unsigned moved = 0;
  Span span;
  for (const os::PageScan::Run& run : runs) {
    const std::uint64_t end = (run.end - base) / kPageBytes;
    std::uint64_t page = (run.begin - base) / kPageBytes;
    while (page < end && moved < wanted_pages) {
      const std::uint64_t first = page / kSpanPages * kSpanPages;
      if (first != span.first) moved += stage_span(span);
      if (moved >= wanted_pages) *reached = base + first * kPageBytes;
      if (first != span.first) span = {first, 0, 0};
      const std::uint64_t stop = first + kSpanPages < end ? first + kSpanPages : end;
      span.present |= bit_range(static_cast<unsigned>(page - first), static_cast<unsigned>(stop - page));
      page = stop;
    }
  }
  return moved < wanted_pages ? moved + stage_span(span) : moved;
}

unsigned Evictor::stage(std::uint64_t wanted_pages) noexcept {
  std::uint64_t moved = 0;
  // Twice round at most: the first time may only take chances away.
  for (unsigned turns = 0; moved < wanted_pages && turns < 2;) {
    constexpr unsigned kRuns = 128;
    os::PageScan::Run runs[kRuns];
    const ClockHand::Range ahead = hand_.ahead();
    std::uintptr_t reached = 0;
    const int found = pager.scan.present({ahead.begin, ahead.end}, runs, &reached);
    if (found < 0) return 0;
    moved += stage_runs({runs, static_cast<unsigned>(found)}, wanted_pages - moved, &reached);
    if (!hand_.go_to(reached)) continue;
    ++turns;
    pager.victims.end_turn();
  }
  return static_cast<unsigned>(moved);
}

// One staged page: into the compressed tier, or into the batch for the files. Lock of the group held. False:
// it stays staged because nothing takes it.
bool Evictor::put_away_page(std::uint64_t page, bool is_missing) noexcept {
  const std::byte* contents = pager.staged(page);
  const PageTable& table = pager.table;
  if (is_missing || is_zero(contents)) {
    table.set(page, PageWord::of(PageState::zero));
    return true;
  }
  Store& store = pager.store(pager.own_store);
  Handle handle = kNoObject;
  const PutResult result = store.put(contents, kPageBytes, scratch_, &handle);
  if (result == PutResult::stored) {
    table.set(page, PageWord::of(PageState::stored, handle, pager.own_store));
    return true;
  }
  if (!store.has_files() || store.is_degraded()) {
    give_up(page);
    return false;
  }
  if (!store.add(batch_, contents, kPageBytes)) return false;
  batch_pages_[batch_.count() - 1] = {page, table.get(page).with(PageWord::kBusy)};
  table.set(page, table.get(page).with(PageWord::kBusy));
  return false;
}

// The staged copy of a page that is elsewhere by now is given back, together with its neighbours: a system
// call per run costs less than one per page. Nothing is staged in between, so that no new copy is in the way.
void Evictor::purge_later(std::uint64_t page) noexcept {
  bool is_near = purge_end_ != 0 && page >= purge_end_ && page - purge_end_ < kSpanPages;
  // Pages in between that have no staged copy do no harm: nobody but this thread stages.
  for (std::uint64_t between = purge_end_; is_near && between < page; ++between) {
    const PageWord word = pager.table.get(between);
    is_near = word.state() != PageState::staged && !word.is(PageWord::kJournaled);
  }
  if (!is_near) {
    purge_now();
    purge_begin_ = page;
  }
  purge_end_ = page + 1;
}

void Evictor::purge_now() noexcept {
  if (purge_begin_ != purge_end_) {
    static_cast<void>(os::purge(pager.staged(purge_begin_), (purge_end_ - purge_begin_) * kPageBytes));
  }
  purge_begin_ = purge_end_ = 0;
}

unsigned Evictor::put_away(std::uint64_t group) noexcept {
  const PageTable& table = pager.table;
  unsigned freed = 0;
  GroupLock hold(table, group);
  GroupRecord& record = table.group(group);
  record.queues &= static_cast<std::uint8_t>(~kInStageQueue);
  std::uint32_t gone = 0;
  bool is_left = false;
  // A page that was purged before it could move left nothing. Reading it would need a fault server, and they
  // may all wait for the lock that we hold.
  const std::uint64_t missing = pager.scan.missing(pager.staged(first_page(group)), kGroupPages);
  for (unsigned i = 0; i < kGroupPages; ++i) {
    const std::uint64_t page = first_page(group) + i;
    const PageWord word = table.get(page);
    if (word.state() != PageState::staged || word.is(PageWord::kBusy)) continue;
    if (put_away_page(page, (missing >> i & 1) != 0)) {
      pager.victims.note_gone(page);
      gone |= 1u << i;
      ++freed;
    } else {
      is_left = is_left || table.get(page).state() == PageState::staged;
    }
  }
  for (unsigned i = 0; i < kGroupPages; ++i) {
    if ((gone >> i & 1) != 0) purge_later(first_page(group) + i);
  }
  pager.staged_pages.fetch_sub(freed, std::memory_order_relaxed);
  pager.room.note_freed(freed);
  count(pager.counters.page_outs, freed);
  if (freed != 0 && (record.queues & kInColdQueue) == 0 && cold_.push(group)) record.queues |= kInColdQueue;
  if (is_left && staged_.push(group)) record.queues |= kInStageQueue;
  return freed;
}

// After a write: a page whose word is as it was when it joined the batch is in the file now. Whether it left
// RAM.
bool Evictor::finish_page(const BatchPage& item, Handle written) noexcept {
  Store& store = pager.store(pager.own_store);
  GroupLock hold(pager.table, item.page / kGroupPages);
  const PageWord word = pager.table.get(item.page);
  if (!(word == item.word)) {
    if (written != kNoObject) store.drop(written);  // touched or freed meanwhile
    return false;
  }
  if (written == kNoObject) {
    pager.table.set(item.page, word.without(PageWord::kBusy));  // stays where it is
    return false;
  }
  pager.table.set(item.page, PageWord::of(PageState::stored, written, pager.own_store));
  if (word.state() == PageState::staged) {
    pager.victims.note_gone(item.page);
    purge_later(item.page);
    pager.staged_pages.fetch_sub(1, std::memory_order_relaxed);
    pager.room.note_freed(1);
    count(pager.counters.page_outs);
  } else {
    pager.victims.note_moved_on(item.page);
    store.drop(word.handle());
  }
  return true;
}

unsigned Evictor::finish_batch() noexcept {
  if (batch_.count() == 0) return 0;
  pager.is_evictor_writing.store(true, std::memory_order_relaxed);
  pager.store(pager.own_store).write(batch_);
  pager.is_evictor_writing.store(false, std::memory_order_relaxed);
  unsigned freed = 0;
  for (unsigned i = 0; i < batch_.count(); ++i)
    freed += finish_page(batch_pages_[i], batch_.written(i)) ? 1u : 0u;
  batch_.clear();
  return freed;
}

unsigned Evictor::put_away_oldest(std::uint64_t wanted_pages, std::uint64_t keep_pages,
                                  std::uint16_t minimum_age) noexcept {
  unsigned freed = 0;
  for (std::uint64_t left = staged_.count(); left != 0 && freed < wanted_pages; --left) {
    if (pager.staged_pages.load(std::memory_order_relaxed) <= keep_pages) break;
    const std::uint64_t group = staged_.front();
    const auto age = static_cast<std::uint16_t>(tick_ - pager.table.group(group).staged_tick);
    if (age < minimum_age) break;
    staged_.pop();
    freed += put_away(group);
    if (batch_.count() + kGroupPages > kBatchObjectsMax) freed += finish_batch();
  }
  freed += finish_batch();
  purge_now();
  return freed;
}

// The compressed pages of a group join the batch.
void Evictor::add_cold(std::uint64_t group) noexcept {
  Store& store = pager.store(pager.own_store);
  GroupLock hold(pager.table, group);
  pager.table.group(group).queues &= static_cast<std::uint8_t>(~kInColdQueue);
  for (unsigned i = 0; i < kGroupPages; ++i) {
    const std::uint64_t page = first_page(group) + i;
    const PageWord word = pager.table.get(page);
    const bool is_cold = word.state() == PageState::stored && !word.is(PageWord::kBusy) &&
                         word.store() == pager.own_store && !Store::is_on_file(word.handle());
    if (!is_cold || !store.add(batch_, word.handle())) continue;
    batch_pages_[batch_.count() - 1] = {page, word.with(PageWord::kBusy)};
    pager.table.set(page, word.with(PageWord::kBusy));
  }
}

void Evictor::write_cold(std::size_t wanted_bytes) noexcept {
  Store& store = pager.store(pager.own_store);
  const std::size_t before = store.occupied_bytes();
  const std::size_t goal = before > wanted_bytes ? before - wanted_bytes : 0;
  while (cold_.count() != 0 && !store.is_degraded() && store.occupied_bytes() > goal) {
    add_cold(cold_.pop());
    if (batch_.count() + kGroupPages > kBatchObjectsMax) finish_batch();
  }
  finish_batch();
  purge_now();
}

// Near the budget every first touch of memory is reported to us, so that whoever fills memory faster than it
// goes out waits for it. Memory that was decommitted and is used again has lost that, and gets it back here.
void Evictor::watch_growth(std::size_t used, std::size_t budget, std::uint64_t now_ms) noexcept {
  constexpr std::uint64_t kAgainMs = 10;
  if (used < budget - budget / 4) return;
  const std::uint32_t lost = pager.lost_units.load(std::memory_order_relaxed);
  const bool is_first = !pager.is_all_watched.load(std::memory_order_relaxed);
  if (now_ms - last_watch_ms_ < kAgainMs || (!is_first && lost == seen_lost_)) return;
  seen_lost_ = lost;
  last_watch_ms_ = now_ms;
  if (!watch_staging()) return;
  bool is_done = true;
  for (const ClockHand::Range& range : {hand_.range(0), hand_.range(1)}) {
    if (range.begin == range.end) continue;
    is_done =
        pager.faults.watch(reinterpret_cast<void*>(range.begin), range.end - range.begin) == 0 && is_done;
  }
  if (is_done) pager.is_all_watched.store(true, std::memory_order_relaxed);
}

void settle_journal(std::uint32_t now_ms) noexcept {
  if (pager.is_child_unclaimed()) return;
  JournalEntry entry;
  while (pager.journal.oldest(now_ms, kJournalAgeMs, &entry)) {
    GroupLock hold(pager.table, entry.page / kGroupPages);
    if (entry.old.state() == PageState::staged) {
      static_cast<void>(os::purge(pager.staged(entry.page), kPageBytes));
      pager.staged_pages.fetch_sub(1, std::memory_order_relaxed);
    } else if (entry.old.state() == PageState::stored) {
      pager.store(entry.old.store()).drop(entry.old.handle());
    }
    pager.table.set(entry.page, pager.table.get(entry.page).without(PageWord::kJournaled));
    pager.journal.pop();
  }
}

void Evictor::forget_batch() const noexcept {
  // All that ever were in a batch, not only those that are: clearing a bit that is not there does no harm.
  for (const BatchPage& item : batch_pages_) forget_busy_in_child(item.page);
}

void forget_batch_in_child() noexcept {
  if (evictor != nullptr) evictor->forget_batch();
}

bool start_evictor() noexcept {
  auto* made = make_own<Evictor>();
  if (made == nullptr) return false;
  if (!made->open(evictor)) return false;
  evictor = made;
  pager.is_evictor_writing.store(false, std::memory_order_relaxed);
  return os::start_service_thread(
      [](void* started) {
        wait_at_gate();
        os::answer_quickly(0);
        pager.evictor_thread.store(os::current_thread(), std::memory_order_relaxed);
        static_cast<Evictor*>(started)->run();
      },
      evictor, "glebe-evict");
}

}  // namespace glebe::paging
