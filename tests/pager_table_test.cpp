// What the transparent pager knows of pages, without a pager: words, locks and journal, the clock hand, and
// the kernel's scan of what is present.
#include "src/paging/page_table.h"

#include <sys/mman.h>

#include <vector>

#include "platform/fault.h"
#include "src/paging/clock_hand.h"
#include "src/paging/journal.h"

#include "tests/catch.h"

using namespace glebe;
using namespace glebe::paging;

TEST_CASE("Page words keep state, handle, store and flags apart", "[paging]") {
  const Handle handle = (Handle{1} << kHandleBits) - 5;
  const PageWord word = PageWord::of(PageState::stored, handle, 6).with(PageWord::kBusy);
  CHECK(word.state() == PageState::stored);
  CHECK(word.handle() == handle);
  CHECK(word.store() == 6);
  CHECK(word.is(PageWord::kBusy));
  CHECK_FALSE(word.is(PageWord::kJournaled));
  CHECK(word.without(PageWord::kBusy) == PageWord::of(PageState::stored, handle, 6));
  CHECK(PageWord::resident(3).chances() == 3);
  CHECK_FALSE(PageWord::resident(3).is_out());
  CHECK(PageWord{}.state() == PageState::resident);  // a table that nobody wrote to
}

TEST_CASE("Group locks of another process are free in its child", "[paging]") {
  PageTable table;
  auto* base = reinterpret_cast<std::byte*>(std::uintptr_t{1} << 40);
  REQUIRE(table.open(base, 64 * kUnitBytes));
  CHECK(table.contains(base));
  CHECK(table.contains(base + 64 * kUnitBytes - 1));
  CHECK_FALSE(table.contains(base + 64 * kUnitBytes));
  CHECK_FALSE(table.contains(base - 1));
  table.lock(7);
  CHECK_FALSE(table.try_lock(7));
  CHECK(table.try_lock(8));
  table.free_locks_in_child();
  CHECK(table.try_lock(7));
  CHECK_FALSE(table.try_lock(7));
  table.unlock(7);
  CHECK(table.try_lock(7));
}

TEST_CASE("The journal finds what a page held at a fork, and lets go in order of age", "[paging]") {
  static Journal journal;
  REQUIRE(journal.open());
  CHECK(journal.is_empty());
  journal.append(10, PageWord::of(PageState::stored, 100), 1, 1000);
  journal.append(11, PageWord::of(PageState::staged), 2, 1010);
  PageWord old;
  CHECK(journal.find(10, 1, &old));
  CHECK(old == PageWord::of(PageState::stored, 100));
  CHECK_FALSE(journal.find(10, 2, &old));  // changed before that fork
  CHECK(journal.find(11, 2, &old));
  CHECK_FALSE(journal.find(12, 1, &old));
  JournalEntry entry;
  CHECK_FALSE(journal.oldest(1019, 20, &entry));
  REQUIRE(journal.oldest(1020, 20, &entry));
  CHECK(entry.page == 10);
  journal.pop();
  CHECK_FALSE(journal.oldest(1029, 20, &entry));
  REQUIRE(journal.oldest(1030, 20, &entry));
  CHECK(entry.page == 11);
  CHECK_FALSE(journal.is_empty());
  journal.append(12, PageWord::of(PageState::staged), 3, 1040);
  std::vector<std::uint64_t> kept;
  journal.reset_in_child([&kept](std::uint64_t page) { kept.push_back(page); });
  CHECK(kept == std::vector<std::uint64_t>{11, 12});
  CHECK(journal.is_empty());
}

TEST_CASE("The clock hand never stands behind a range that it goes round", "[paging]") {
  constexpr ClockHand::Range kSlots{1000, 1600}, kChunks{5000, 5300};
  // Steps that end before the end of a range, at it, and both.
  for (const std::uintptr_t step : {50u, 70u, 100u, 300u, 600u}) {
    ClockHand hand;
    hand.open(kSlots, kChunks);
    for (unsigned turn = 0; turn < 5; ++turn) {
      for (const ClockHand::Range& range : {kSlots, kChunks}) {
        INFO("step " << step << ", turn " << turn << ", range from " << range.begin);
        bool is_turn_over = false;
        for (std::uintptr_t at = range.begin; at < range.end; at += step) {
          REQUIRE_FALSE(is_turn_over);
          REQUIRE(hand.ahead().begin == at);
          REQUIRE(hand.ahead().end == range.end);
          is_turn_over = hand.go_to(at + step < range.end ? at + step : range.end);
        }
        REQUIRE(is_turn_over == (range.begin == kChunks.begin));
      }
    }
  }
  ClockHand hand;  // a region without large slots
  hand.open({5000, 5000}, kChunks);
  REQUIRE(hand.ahead().end == 5300);
  REQUIRE(hand.go_to(5300));
  REQUIRE(hand.ahead().begin == 5000);
  REQUIRE(hand.ahead().end == 5300);
}

TEST_CASE("A scan tells pages without memory from pages of zeros and of data", "[paging]") {
  constexpr unsigned kPages = 70;  // more than are looked at
  os::PageScan scan;
  if (!scan.open()) return;
  auto* base = static_cast<volatile std::byte*>(
      ::mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  REQUIRE(base != MAP_FAILED);
  auto* const start = const_cast<std::byte*>(base);
  if (std::uintptr_t scanned = 0; scan.present({0, kPageBytes}, {}, &scanned) < 0) {
    WARN("this kernel has no PAGEMAP_SCAN");
    return;
  }
  CHECK(scan.missing(start, kPages) == ~std::uint64_t{0});
  CHECK(scan.missing(start, 3) == 7);
  static_cast<void>(base[kPageBytes]);  // the shared page of zeros
  for (const unsigned page : {0u, 5u, 63u, 64u}) base[page * kPageBytes] = std::byte{1};
  CHECK(scan.missing(start, kPages) == ~(std::uint64_t{1} << 63 | 0b100011));
  CHECK(scan.missing(start + 2 * kPageBytes, 3) == 7);
  CHECK(scan.missing(start + 5 * kPageBytes, 1) == 0);
  ::munmap(start, kPages * kPageBytes);
}
