// Large blocks: what happens to them. Where they are is the business of large_table.
//
// The lock guards the table, the idle list and the counters. System calls that may take long run without it:
// the record is opening or closing meanwhile, which only the thread that made it so may change. In a child of
// fork such a record stays as it is: its slot is lost there, nothing else.
#include "src/heap/large.h"

#include <cstring>

#include "platform/process.h"
#include "platform/thread.h"
#include "platform/vm.h"
#include "src/base/check.h"
#include "src/heap/large_table.h"
#include "src/heap/reclaim.h"
#include "src/vm/chunk.h"
#include "src/vm/ledger.h"
#include "src/vm/pageable.h"

namespace glebe::heap {
namespace {

constexpr std::size_t kIdleBytesMin = 64 * kMiB;  // the idle cache may hold this much, or
constexpr std::size_t kIdleShareOfLive = 8;       // this part of the live bytes
constexpr std::size_t kIdleBlockMax = kGiB;       // larger blocks are never kept
constexpr std::size_t kIdleCountMax = 64;
constexpr std::size_t kTailBytesMin = 64 * kKiB;  // shorter tails stay committed
constexpr std::size_t kSizeMax = ~std::size_t{0} >> 1;
// Pages move in pieces that end at powers of two from here on, see move_contents().
constexpr std::size_t kPieceBytesMin = std::size_t{1} << vm::kLargeShiftMin;

struct LargeHeap {
  os::Mutex lock;
  LargeTable table;
  List<LargeRecord> idle;  // oldest first
  std::size_t idle_count = 0;
  std::size_t idle_committed_bytes = 0;
  LargeStats stats = {};
};
constinit LargeHeap large;

std::uint32_t short_clock(std::uint64_t now_ms) noexcept { return static_cast<std::uint32_t>(now_ms); }

// --- the idle list; all with the lock ---

void idle_push(LargeRecord& record, std::uint64_t now_ms) noexcept {
  record.state = LargeState::idle;
  record.freed_at_ms = short_clock(now_ms);
  large.idle.push_back(&record);
  ++large.idle_count;
  large.idle_committed_bytes += record.committed_bytes;
  large.stats.idle_bytes += record.touched_bytes;
  vm::ledger.dirty_bytes.fetch_add(record.touched_bytes, std::memory_order_relaxed);
}

void idle_remove(LargeRecord& record, LargeState next_state) noexcept {
  CHECK(record.state == LargeState::idle);
  CHECK(large.idle_committed_bytes >= record.committed_bytes);
  large.idle.remove(&record);
  --large.idle_count;
  large.idle_committed_bytes -= record.committed_bytes;
  large.stats.idle_bytes -= record.touched_bytes;
  vm::ledger.dirty_bytes.fetch_sub(record.touched_bytes, std::memory_order_relaxed);
  record.state = next_state;
}

// Whether the block's pages are worth having for a request: the addresses fit and at most a quarter is too
// much or missing.
bool is_idle_fit(const LargeRecord& record, std::size_t size_bytes, std::size_t align_bytes) noexcept {
  if (record.capacity_bytes < size_bytes) return false;
  if (!is_aligned(reinterpret_cast<std::uintptr_t>(record.base), align_bytes)) return false;
  const std::size_t quarter = size_bytes / 4;
  return record.committed_bytes >= size_bytes - quarter && record.committed_bytes - quarter <= size_bytes;
}

// The youngest idle block that fits: its pages are the likeliest to be in the processor's caches.
LargeRecord* take_idle(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  for (LargeRecord* record = large.idle.last(); record != nullptr;
       record = List<LargeRecord>::previous(record)) {
    if (!is_idle_fit(*record, size_bytes, align_bytes)) continue;
    idle_remove(*record, LargeState::opening);
    record->size_bytes = size_bytes;
    return record;
  }
  return nullptr;
}

// The clock of the caller may be older than that of the thread that freed the block.
bool is_due(const LargeRecord& record, std::uint64_t now_ms, std::uint32_t delay_ms) noexcept {
  const auto age_ms = static_cast<std::int32_t>(short_clock(now_ms) - record.freed_at_ms);
  return delay_ms == 0 || (age_ms > 0 && static_cast<std::uint32_t>(age_ms) >= delay_ms);
}

bool idle_is_over_limit() noexcept {
  const std::size_t share = large.stats.live_bytes / kIdleShareOfLive;
  const std::size_t limit = share < kIdleBytesMin ? kIdleBytesMin : share;
  return large.idle_committed_bytes > limit || large.idle_count > kIdleCountMax;
}

// --- system calls on a record that nobody else may change; without the lock ---

// Gives the memory of a closing record back, and its addresses when nothing of it is committed any more.
// Returns the bytes given back.
std::size_t close(LargeRecord& record) noexcept {
  const std::size_t committed = record.committed_bytes;
  const std::size_t touched = record.touched_bytes;
  // Releasing a reservation takes its memory with it.
  bool is_gone = committed == 0 || record.is(LargeRecord::kReservation);
  bool is_purged = is_gone;
  if (!is_gone) {
    is_gone = vm::decommit_memory(record.base, committed);
    is_purged = is_gone || vm::purge_memory(record.base, committed);
  }
  LargeTable::Addresses released;
  {
    os::Lock hold(large.lock);
    if (is_purged) record.touched_bytes = 0;
    if (is_gone) {
      record.committed_bytes = 0;
      released = large.table.remove(record);
    } else {
      // The system refused. The block is kept, good for use after another commit, and closed again when due.
      record.flags |= LargeRecord::kRecommit;
      if (!large.table.is_frozen()) idle_push(record, os::clock_coarse_ms());
    }
  }
  if (released.base != nullptr) {
    os::release(released.base, released.size_bytes);
    vm::ledger.reserved_bytes.fetch_sub(released.size_bytes, std::memory_order_relaxed);
  }
  if (is_gone) vm::ledger_decommit(committed);
  if (!is_purged) return 0;
  vm::ledger.purged_bytes_total.fetch_add(touched, std::memory_order_relaxed);
  return touched;
}

std::size_t close_all(List<LargeRecord>& records) noexcept {
  std::size_t bytes = 0;
  while (LargeRecord* record = records.pop_front()) bytes += close(*record);
  return bytes;
}

void advise(const LargeRecord& record, std::size_t from_bytes) noexcept {
  if (!vm::chunk_policy.huge_pages || record.committed_bytes < vm::chunk_policy.huge_minimum_bytes) return;
  if (!os::huge_pages_on_advice()) return;
  // All of it, ragged end included: ranges with equal advice stay one mapping of the kernel.
  os::advise_huge(record.base + from_bytes, record.committed_bytes - from_bytes, true);
}

// Makes at least `end_bytes` of the record committed.
bool commit_to(LargeRecord& record, std::size_t end_bytes) noexcept {
  const std::size_t committed = record.committed_bytes;
  const std::size_t from = record.is(LargeRecord::kRecommit) ? 0 : committed;
  if (end_bytes <= from) return true;
  const std::size_t to = end_bytes < committed ? committed : end_bytes;
  if (!os::commit(record.base + from, to - from)) return false;
  record.flags &= static_cast<std::uint8_t>(~LargeRecord::kRecommit);
  if (to == committed) return true;
  vm::ledger_commit(to - committed);
  record.committed_bytes = to;
  advise(record, committed);
  return true;
}

// Takes the memory behind `size_bytes` away when it is worth a system call.
void cut_tail(LargeRecord& record, std::size_t size_bytes) noexcept {
  const std::size_t tail = record.committed_bytes - size_bytes;
  if (record.committed_bytes < size_bytes || tail < kTailBytesMin) return;
  if (vm::decommit_memory(record.base + size_bytes, tail)) {
    vm::ledger_decommit(tail);
    record.committed_bytes = size_bytes;
    if (record.touched_bytes > size_bytes) record.touched_bytes = size_bytes;
  } else {
    record.flags |= LargeRecord::kRecommit;
  }
}

// One try to get a block. nullptr: the system refused addresses or memory.
LargeRecord* open_block(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  LargeRecord* record;
  {
    os::Lock hold(large.lock);
    record = take_idle(size_bytes, align_bytes);
    if (record == nullptr) record = large.table.place(size_bytes, align_bytes);
    if (record == nullptr) return nullptr;
  }
  if (record->committed_bytes < size_bytes) before_growth(size_bytes - record->committed_bytes);
  if (commit_to(*record, size_bytes)) {
    cut_tail(*record, size_bytes);
    return record;
  }
  {
    os::Lock hold(large.lock);
    record->state = LargeState::closing;
  }
  close(*record);
  return nullptr;
}

// --- moving ---

// Moves all that is committed of one block to the start of another, of which nothing is committed there. The
// kernel moves one mapping at a time, and pages that were moved before do not join the mapping of the pages
// behind them. As a block is committed to the end of its slot before it moves, those borders are powers of
// two. Hence: all at once, or else piece by piece between powers of two, copying what cannot be moved;
// move_pieces tells whether memory stayed behind that the system would not take back.
bool move_pieces(const LargeRecord& from, const LargeRecord& to, std::size_t size_bytes) noexcept {
  bool is_left_behind = false;
  std::size_t end = kPieceBytesMin;
  for (std::size_t done = 0; done < size_bytes; end *= 2) {
    const std::size_t piece = (end < size_bytes ? end : size_bytes) - done;
    if (!os::move_pages(from.base + done, to.base + done, piece)) {
      std::memcpy(to.base + done, from.base + done, piece);
      is_left_behind = !os::decommit(from.base + done, piece) || is_left_behind;
    }
    done += piece;
  }
  return is_left_behind;
}

bool move_contents(LargeRecord& from, LargeRecord& to) noexcept {
  const std::size_t size_bytes = from.committed_bytes;
  bool is_left_behind = false;
  if (!os::move_pages(from.base, to.base, size_bytes)) {
    // Only worth it where there are several mappings. With the destination committed no piece can fail.
    if (!from.is(LargeRecord::kMoved) || !os::commit(to.base, size_bytes)) return false;
    is_left_behind = move_pieces(from, to, size_bytes);
  }
  // The memory went along, and with it its place in the ledger, unless the system would not take it back.
  if (to.committed_bytes < size_bytes) to.committed_bytes = size_bytes;
  to.flags |= LargeRecord::kMoved;
  from.committed_bytes = 0;
  if (is_left_behind) {
    from.committed_bytes = size_bytes;
    from.touched_bytes = size_bytes;
    from.flags |= LargeRecord::kRecommit;
    vm::ledger_commit(size_bytes);
  }
  return true;
}

// Moves a block to a longer place and commits the rest of it up to `size_bytes`. False: it is where it was.
bool move_and_grow(LargeRecord& from, LargeRecord& to, std::size_t size_bytes) noexcept {
  // A block whose committed part may trap cannot be moved, one that is shorter than its slot only worse.
  if (!commit_to(from, from.capacity_bytes) && from.is(LargeRecord::kRecommit)) return false;
  const std::size_t moved = from.committed_bytes;
  const std::size_t rest = size_bytes - moved;
  // The rest first: if there is no memory for it, nothing has happened yet.
  if (!os::commit(to.base + moved, rest)) return false;
  vm::ledger_commit(rest);
  to.committed_bytes = size_bytes;
  if (move_contents(from, to)) {
    advise(to, moved);
    return true;
  }
  if (os::decommit(to.base + moved, rest)) {
    vm::ledger_decommit(rest);
    to.committed_bytes = 0;
  } else {
    // It counts as committed from the start until the system takes it back.
    vm::ledger_commit(moved);
    to.flags |= LargeRecord::kRecommit;
  }
  return false;
}

// A block comes into use, or goes out of use, be it for the time of a system call. Lock held.
void count_live(LargeRecord& record) noexcept {
  record.state = LargeState::live;
  large.stats.live_bytes += record.committed_bytes;
  ++large.stats.live_blocks;
}
void uncount_live(LargeRecord& record, LargeState next_state) noexcept {
  CHECK(record.state == LargeState::live);
  CHECK(large.stats.live_bytes >= record.committed_bytes);
  record.state = next_state;
  large.stats.live_bytes -= record.committed_bytes;
  --large.stats.live_blocks;
}

// What a pointer is that large_free() or another function got. Lock held.
LargeRecord* live_record(const void* address) noexcept {
  if (!large.table.may_contain(address)) return nullptr;
  LargeRecord* const record = large.table.find(address);
  return record != nullptr && record->state == LargeState::live && record->base == address ? record : nullptr;
}

// What is paged out of a block that was just freed is dropped unread.
void drop_paged_out(const LargeRecord& record) noexcept {
  const vm::PagingHooks* hooks = vm::paging();
  if (hooks == nullptr) return;
  constexpr std::size_t kStepPages = 64;
  const std::size_t pages = record.committed_bytes / vm::kPageBytes;
  for (std::size_t done = 0; done < pages; done += kStepPages) {
    const std::size_t here = pages - done < kStepPages ? pages - done : kStepPages;
    hooks->drop_paged_out(record.base + done * vm::kPageBytes, static_cast<unsigned>(here));
  }
}

// Takes a live block out of use: it becomes idle, or closing and part of `closing`, together with idle blocks
// that are too much now. Lock held.
void retire(LargeRecord& record, List<LargeRecord>& closing) noexcept {
  uncount_live(record, LargeState::closing);
  ++large.stats.frees;
  drop_paged_out(record);
  record.touched_bytes = record.committed_bytes;
  if (record.committed_bytes > kIdleBlockMax || large.table.is_frozen()) {
    closing.push_back(&record);
    return;
  }
  idle_push(record, os::clock_coarse_ms());
  while (idle_is_over_limit()) {
    LargeRecord* const oldest = large.idle.first();
    idle_remove(*oldest, LargeState::closing);
    closing.push_back(oldest);
  }
}

void* finish_allocate(LargeRecord& record, std::uint16_t owner, bool* is_zero) noexcept {
  os::Lock hold(large.lock);
  *is_zero = record.touched_bytes == 0;
  record.owner = owner;
  count_live(record);
  ++large.stats.allocations;
  return record.base;
}

}  // namespace

void* large_allocate(std::size_t size_bytes, std::size_t align_bytes, std::uint16_t owner,
                     bool* is_zero) noexcept {
  CHECK(is_power_of_two(align_bytes));
  if (size_bytes == 0 || size_bytes > kSizeMax - vm::kPageBytes) return nullptr;
  const std::size_t size = align_up(size_bytes, vm::kPageBytes);
  LargeRecord* record = open_block(size, align_bytes);
  if (record == nullptr) {
    // Memory may lie idle elsewhere: once everything is given back there is nothing more to try.
    if (release_free_memory() == 0) return nullptr;
    record = open_block(size, align_bytes);
  }
  return record == nullptr ? nullptr : finish_allocate(*record, owner, is_zero);
}

bool large_contains(const void* address) noexcept {
  if (!large.table.may_contain(address)) return false;
  const vm::LargeSpace& space = vm::regions[0].large;
  const auto distance = static_cast<std::size_t>(static_cast<const std::byte*>(address) - space.base);
  if (distance < space.size_bytes()) return true;
  os::Lock hold(large.lock);
  return large.table.find(address) != nullptr;
}

FreeStatus large_free(void* address) noexcept {
  List<LargeRecord> closing;
  {
    os::Lock hold(large.lock);
    LargeRecord* const record = large.table.may_contain(address) ? large.table.find(address) : nullptr;
    if (record == nullptr) return FreeStatus::foreign;
    if (record->state != LargeState::live) {
      return record->base == address ? FreeStatus::double_free : FreeStatus::foreign;
    }
    if (record->base != address) return FreeStatus::interior;
    retire(*record, closing);
  }
  close_all(closing);
  return FreeStatus::ok;
}

std::size_t large_usable(const void* address) noexcept {
  os::Lock hold(large.lock);
  const LargeRecord* const record = live_record(address);
  return record == nullptr ? 0 : record->size_bytes;
}

std::uint16_t large_owner(const void* address) noexcept {
  os::Lock hold(large.lock);
  const LargeRecord* const record = live_record(address);
  return record == nullptr ? std::uint16_t{0} : record->owner;
}

bool large_resize(void* address, std::size_t new_size_bytes) noexcept {
  if (new_size_bytes == 0 || new_size_bytes > kSizeMax - vm::kPageBytes) return false;
  const std::size_t size = align_up(new_size_bytes, vm::kPageBytes);
  LargeRecord* record;
  {
    os::Lock hold(large.lock);
    record = live_record(address);
    if (record == nullptr || size > record->capacity_bytes) return false;
    if (size >= record->size_bytes) {
      const std::size_t committed = record->committed_bytes;
      if (!commit_to(*record, size)) return false;
      large.stats.live_bytes += record->committed_bytes - committed;
      if (size > record->size_bytes) ++large.stats.grown_in_place;
      record->size_bytes = size;
      return true;
    }
    uncount_live(*record, LargeState::opening);
    record->size_bytes = size;
  }
  cut_tail(*record, size);
  os::Lock hold(large.lock);
  count_live(*record);
  return true;
}

void* large_move(void* address, std::size_t new_size_bytes) noexcept {
  if (new_size_bytes == 0 || new_size_bytes > kSizeMax - vm::kPageBytes) return nullptr;
  // mremap(2) would take missing pages to a place where nobody knows what belongs there: the caller copies.
  if (vm::paging() != nullptr) return nullptr;
  const std::size_t size = align_up(new_size_bytes, vm::kPageBytes);
  LargeRecord* from;
  LargeRecord* to;
  {
    os::Lock hold(large.lock);
    from = live_record(address);
    if (from == nullptr || size <= from->capacity_bytes) return nullptr;  // large_resize() does that
    to = large.table.place(size, vm::kPageBytes);
    if (to == nullptr) return nullptr;
    uncount_live(*from, LargeState::opening);
  }
  const bool is_moved = move_and_grow(*from, *to, size);
  LargeRecord* const living = is_moved ? to : from;
  LargeRecord* const emptied = is_moved ? from : to;
  {
    os::Lock hold(large.lock);
    living->owner = from->owner;
    count_live(*living);
    large.stats.moved += is_moved ? 1u : 0u;
    emptied->state = LargeState::closing;
  }
  close(*emptied);
  return is_moved ? living->base : nullptr;
}

std::size_t large_purge(std::uint64_t now_ms, std::uint32_t delay_ms) noexcept {
  List<LargeRecord> closing;
  {
    os::Lock hold(large.lock);
    LargeRecord* record = large.idle.first();
    while (record != nullptr && is_due(*record, now_ms, delay_ms)) {
      idle_remove(*record, LargeState::closing);
      closing.push_back(record);
      record = large.idle.first();
    }
  }
  return close_all(closing);
}

std::size_t large_trim() noexcept {
  if (large.lock.held_by_me()) return 0;
  return large_purge(os::clock_coarse_ms(), 0);
}

void large_free_owner(std::uint16_t owner) noexcept {
  bool is_more = true;
  for (std::size_t number = 0; is_more; ++number) {
    List<LargeRecord> closing;
    {
      os::Lock hold(large.lock);
      LargeRecord* const record = large.table.next(&number);
      is_more = record != nullptr;
      if (is_more && record->state == LargeState::live && record->owner == owner) retire(*record, closing);
    }
    close_all(closing);
  }
}

void large_in_child() noexcept {
  if (!large.lock.is_held() || large.lock.held_by_me()) return;
  large.lock.reset_in_child();
  large.idle.forget_all();
  large.idle_count = 0;
  large.idle_committed_bytes = 0;
  large.table.freeze();
  // The counters may be half changed too.
  large.stats.live_bytes = 0;
  large.stats.live_blocks = 0;
  std::size_t number = 0;
  for (LargeRecord* record = large.table.next(&number); record != nullptr;
       ++number, record = large.table.next(&number)) {
    if (record->state != LargeState::live) continue;
    count_live(*record);
    record->next = nullptr;  // what the links of a block say that was on its way to or from the idle list
    record->previous = nullptr;
  }
}

LargeStats large_stats() noexcept {
  os::Lock hold(large.lock);
  return large.stats;
}

void large_walk(void (*visit)(void* context, void* address, std::size_t size_bytes, std::uint16_t owner),
                void* context) noexcept {
  os::Lock hold(large.lock);
  std::size_t number = 0;
  for (LargeRecord* record = large.table.next(&number); record != nullptr;
       ++number, record = large.table.next(&number)) {
    if (record->state == LargeState::live) visit(context, record->base, record->size_bytes, record->owner);
  }
}

bool large_validate() noexcept {
  os::Lock hold(large.lock);
  if (!large.table.validate()) return false;
  if (large.table.is_frozen()) return true;
  std::size_t live_bytes = 0, live_blocks = 0, idle_count = 0, idle_committed = 0, idle_bytes = 0, number = 0;
  for (LargeRecord* record = large.table.next(&number); record != nullptr;
       ++number, record = large.table.next(&number)) {
    if (record->state == LargeState::live) {
      if (record->committed_bytes > record->capacity_bytes || record->size_bytes > record->committed_bytes ||
          large.idle.contains(record))
        return false;
      live_bytes += record->committed_bytes;
      ++live_blocks;
    } else if (record->state == LargeState::idle) {
      ++idle_count;
      idle_committed += record->committed_bytes;
      idle_bytes += record->touched_bytes;
    }
  }
  if (!large.idle.validate(idle_count) || large.idle.count() != idle_count) return false;
  if (live_bytes != large.stats.live_bytes || live_blocks != large.stats.live_blocks) return false;
  return idle_count == large.idle_count && idle_committed == large.idle_committed_bytes &&
         idle_bytes == large.stats.idle_bytes;
}

}  // namespace glebe::heap
