// What the pager knows of each page of the heap (namespace glebe::paging).
//
// One 64-bit word per os page, one lock per group of 16 pages (64 KiB), one record per unit of 2 MiB, for the
// whole primary region, at computed addresses. The tables are reserved without memory behind them; only what
// is written is paid for.
//
// A word changes under the lock of its group, and each change is one store that is right by itself: whatever
// moment a forked child's copy of memory shows, the word tells where the contents are (docs/design.md,
// "Paging and fork"). Hence the order of every change: contents first reach the new place, then the word
// names it, then the old place is given up.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "src/paging/store.h"
#include "src/vm/region.h"

namespace glebe::paging {

// resident: in the heap, or never touched, or free: the pager has nothing of it. staged: in the staging area,
// at the same offset. zero: all bytes are zero. stored: the handle names it in a store.
enum class PageState : std::uint8_t { resident, staged, zero, stored };

struct PageWord {
  std::uint64_t bits = 0;

  static constexpr unsigned kStateShift = kHandleBits, kStoreShift = 60;
  static constexpr std::uint64_t kHandleMask = (std::uint64_t{1} << kHandleBits) - 1;
  // The page was paged in or freed a moment ago and its old contents are kept for forked children: it does
  // not go out again before the journal let go of it.
  static constexpr std::uint64_t kJournaled = std::uint64_t{1} << 58;
  // A read or write of a page file for this page is under way, without the lock. Whoever changes the word
  // meanwhile leaves the stored object to whoever set the bit.
  static constexpr std::uint64_t kBusy = std::uint64_t{1} << 59;
  // Of a resident page: it does not go out, because something depends on its place (mapped_pages.h).
  static constexpr std::uint64_t kKept = std::uint64_t{1} << 63;

  [[nodiscard]] PageState state() const noexcept { return static_cast<PageState>(bits >> kStateShift & 3); }
  [[nodiscard]] Handle handle() const noexcept { return bits & kHandleMask; }
  [[nodiscard]] unsigned store() const noexcept { return static_cast<unsigned>(bits >> kStoreShift & 7); }
  [[nodiscard]] bool is(std::uint64_t flag) const noexcept { return (bits & flag) != 0; }
  [[nodiscard]] bool is_out() const noexcept { return state() != PageState::resident; }
  [[nodiscard]] bool is_on_file() const noexcept {
    return state() == PageState::stored && Store::is_on_file(handle());
  }
  // resident: how often the clock hand has to pass before the page is taken.
  [[nodiscard]] unsigned chances() const noexcept { return static_cast<unsigned>(bits & 3); }

  [[nodiscard]] static PageWord resident(unsigned chances) noexcept { return {chances}; }
  [[nodiscard]] static PageWord of(PageState state, Handle handle = 0, unsigned store = 0) noexcept {
    return {handle | static_cast<std::uint64_t>(state) << kStateShift | std::uint64_t{store} << kStoreShift};
  }
  [[nodiscard]] PageWord with(std::uint64_t flag) const noexcept { return {bits | flag}; }
  [[nodiscard]] PageWord without(std::uint64_t flag) const noexcept { return {bits & ~flag}; }
  friend bool operator==(PageWord a, PageWord b) noexcept = default;
};

inline constexpr unsigned kStoreMax = 8;  // a store of our own, and those inherited from up to 7 forks ago
inline constexpr unsigned kGroupPages = 16;
inline constexpr std::size_t kGroupBytes = kGroupPages * kPageBytes;
inline constexpr std::size_t kUnitBytes = vm::kChunkBytes;
inline constexpr unsigned kGroupsPerUnit = kUnitBytes / kGroupBytes;
static_assert(kPageBytes == vm::kPageBytes);

struct GroupRecord {
  std::atomic<std::uint32_t> lock;  // 2 * generation + 1 when held: locks of another process are free
  std::uint8_t queues;              // GroupQueue bits: in which queues of the evictor it is
  std::uint8_t read_epoch;          // of VictimOrder, when a page of it was last read from a file; 0: never
  std::uint16_t staged_tick;        // when the youngest page of it was staged
};
static_assert(sizeof(GroupRecord) == 8);

// Whether the faults of a unit are reported to us: as those of all memory are, surely, or not (a new mapping
// took the place of the old).
enum class WatchState : std::uint8_t { as_all, watched, lost };

struct UnitRecord {
  std::atomic<std::uint16_t> pages_out;  // not resident; at least as many as the words say
  std::atomic<WatchState> watched;
  std::uint8_t spare;
};

class PageTable {
 public:
  // Covers [base, base + size_bytes), a multiple of kUnitBytes. False: no addresses, or no commit charge.
  [[nodiscard]] bool open(std::byte* base, std::size_t size_bytes) noexcept;

  [[nodiscard]] bool contains(const void* address) const noexcept {
    return static_cast<std::size_t>(static_cast<const std::byte*>(address) - base_) < size_bytes_;
  }
  [[nodiscard]] std::byte* base() const noexcept { return base_; }
  [[nodiscard]] std::size_t size_bytes() const noexcept { return size_bytes_; }
  [[nodiscard]] std::uint64_t page_of(const void* address) const noexcept {
    return static_cast<std::uint64_t>(static_cast<const std::byte*>(address) - base_) / kPageBytes;
  }
  [[nodiscard]] std::byte* address_of(std::uint64_t page) const noexcept { return base_ + page * kPageBytes; }

  [[nodiscard]] PageWord get(std::uint64_t page) const noexcept {
    return {words_[page].load(std::memory_order_relaxed)};
  }
  // Only with the lock of the group. Release: a child that sees the word sees what it names.
  void set(std::uint64_t page, PageWord word) const noexcept {
    words_[page].store(word.bits, std::memory_order_release);
  }
  [[nodiscard]] GroupRecord& group(std::uint64_t group) const noexcept { return groups_[group]; }
  [[nodiscard]] UnitRecord& unit(std::uint64_t unit) const noexcept { return units_[unit]; }
  [[nodiscard]] UnitRecord& unit_of_page(std::uint64_t page) const noexcept {
    return units_[page / (kUnitBytes / kPageBytes)];
  }

  // Locks spin, then yield: they are held for microseconds, and never while a disk is waited for.
  [[nodiscard]] bool try_lock(std::uint64_t group) const noexcept;
  void lock(std::uint64_t group) const noexcept;
  void unlock(std::uint64_t group) const noexcept;
  void unlock_memory() const noexcept;  // the tables need not stay in RAM where nothing was written

  // In a forked child: every lock is free from now on.
  void free_locks_in_child() noexcept { held_ += 2; }

 private:
  std::byte* base_ = nullptr;
  std::size_t size_bytes_ = 0;
  std::atomic<std::uint64_t>* words_ = nullptr;
  GroupRecord* groups_ = nullptr;
  UnitRecord* units_ = nullptr;
  std::uint32_t held_ = 1;
};

// Holds the lock of a group for a scope.
class [[nodiscard]] GroupLock {
 public:
  GroupLock(const PageTable& table, std::uint64_t group) noexcept : table_(table), group_(group) {
    table_.lock(group_);
  }
  ~GroupLock() { table_.unlock(group_); }
  GroupLock(const GroupLock&) = delete;
  GroupLock& operator=(const GroupLock&) = delete;

 private:
  const PageTable& table_;
  std::uint64_t group_;
};

}  // namespace glebe::paging
