// Bringing one page back (namespace glebe::paging). Private to the pager. Every function needs the lock of
// the page's group.
#pragma once

#include "platform/fault.h"
#include "src/paging/page_table.h"
#include "src/paging/victim.h"

namespace glebe::paging {

enum class PageIn : std::uint8_t {
  done,      // the page is there
  expanded,  // it is there, and came from the compressed tier
  later,     // a fork is under way, or no memory: nothing was done, try again
};

// Answers a touch of a missing page that is not in a file. `buffer` holds a page. Who waits for the page is
// not woken: the caller does so when it has let the lock go, so that the woken thread finds it free.
[[nodiscard]] PageIn page_in(std::uint64_t page, bool is_write, Scratch& scratch, std::byte* buffer) noexcept;

// Brings pages behind this one back that went out in the same group, when pages were touched in order before.
// Who waits for them is woken by the caller, as above. Returns the page behind the last one that was looked
// at.
[[nodiscard]] std::uint64_t read_ahead(std::uint64_t page, Scratch& scratch, std::byte* buffer) noexcept;

// The word of a page that a thread asked for and that is back, which is noted for the order of victims.
// Read-ahead is no use of a page.
[[nodiscard]] PageWord resident_again(std::uint64_t page, VictimOrder::Return from) noexcept;

// Puts contents in place. 0, or -EAGAIN while a fork is under way or memory is short; when there is none for
// 20 s, says so and ends the process.
[[nodiscard]] int put_in_place(std::uint64_t page, const std::byte* contents, os::Wake wake) noexcept;

// The contents of a page cannot be had: says so, with the address, and ends the process. Wrong bytes would be
// worse.
[[noreturn]] void fail_page_in(std::uint64_t page, GetResult result) noexcept;

// Copies what an out page holds to `to`, leaving it where it is: for a forked child.
void copy_contents(std::uint64_t page, PageWord word, std::byte* to, Scratch& scratch) noexcept;

// Answers what the fault servers laid aside. Takes locks itself.
void answer_postponed_faults(Scratch& scratch, std::byte* buffer) noexcept;

}  // namespace glebe::paging
