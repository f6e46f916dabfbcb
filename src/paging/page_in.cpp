#include "src/paging/page_in.h"

#include <cerrno>
#include <cstring>

#include "platform/process.h"
#include "platform/service.h"
#include "src/base/check.h"
#include "src/base/text.h"
#include "src/paging/pager_state.h"

namespace glebe::paging {
namespace {

alignas(4096) constinit std::byte zero_pages[kGroupBytes] = {};  // never written: no memory, nor in the file

using Return = VictimOrder::Return;

// Streams of touches in ascending order. Racy on purpose: a lost update costs a page of read-ahead.
struct Stream {
  std::atomic<std::uint64_t> next{0};
  std::atomic<unsigned> window{0};
};
constexpr unsigned kStreams = 64, kWindowMax = kGroupPages;
constinit Stream streams[kStreams];
constinit std::atomic<unsigned> next_stream{0};

// Behind the last of the pages to bring along with this one: in its group, and more of them the longer a
// stream goes on.
std::uint64_t end_of_window(std::uint64_t page) noexcept {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  const std::uint64_t group_end = (page / kGroupPages + 1) * kGroupPages;
  for (Stream& stream : streams) {
    const std::uint64_t next = stream.next.load(kRelaxed);
    if (next == 0 || page < next || page > next + 2) continue;
    const unsigned doubled = stream.window.load(kRelaxed) * 2;
    const unsigned window = doubled < kWindowMax ? doubled : kWindowMax;
    const std::uint64_t end = page + 1 + window < group_end ? page + 1 + window : group_end;
    stream.window.store(window, kRelaxed);
    stream.next.store(end, kRelaxed);
    return end;
  }
  Stream& stream = streams[next_stream.fetch_add(1, kRelaxed) % kStreams];
  stream.next.store(page + 1, kRelaxed);
  stream.window.store(1, kRelaxed);
  return page + 1;
}

// Since when the system has refused memory for pages that somebody waits for; 0: it does not.
constinit std::atomic<std::uint64_t> no_memory_since_ms{0};

[[noreturn]] void fail_without_memory(std::uint64_t page) noexcept {
  char space[256];
  Text text(space);
  text.append("glebe: the page at ").append_address(pager.table.address_of(page));
  text.append(" is out, and the system has no memory to bring it back; the process ends\n");
  os::write_error_of_program(text.c_str(), text.size());
  os::abort_process();
}

// What follows from the result of putting a page in place: 0, or -EAGAIN when it has to be tried again. That
// is so during a fork, and when there is no memory just now: to go on without the page would make it zeros.
int after_filling(std::uint64_t page, int error) noexcept {
  constexpr std::uint64_t kNoMemoryMaxMs = 20'000;
  constexpr auto kRelaxed = std::memory_order_relaxed;
  if (error == -EAGAIN) return error;
  if (error == -ENOMEM) {
    const std::uint64_t now_ms = os::clock_coarse_ms();
    std::uint64_t since_ms = 0;
    if (!no_memory_since_ms.compare_exchange_strong(since_ms, now_ms, kRelaxed) &&
        now_ms - since_ms > kNoMemoryMaxMs)
      fail_without_memory(page);
    return -EAGAIN;
  }
  if (no_memory_since_ms.load(kRelaxed) != 0) no_memory_since_ms.store(0, kRelaxed);
  // There already (-EEXIST), or not to be had any more (the program is ending): nobody may wait for ever.
  if (error != 0) pager.faults.wake(pager.table.address_of(page), kPageBytes);
  return 0;
}

// The page reads as zero. False: try again.
bool fill_with_zeros(std::uint64_t page, bool is_write) noexcept {
  if (is_write) return put_in_place(page, zero_pages, os::Wake::later) == 0;
  return after_filling(page, pager.faults.zero(pager.table.address_of(page), kPageBytes, os::Wake::later)) ==
         0;
}

// A staged page moves back; where it is shared with a forked child it is copied, and the staged one stays for
// a while. One that was purged between the evictor's look and its move left nothing there, which means zeros:
// whoever reads it there waits for a fault server, and would do so with the lock of the group.
PageIn take_back(std::uint64_t page, PageWord word, bool is_write) noexcept {
  std::byte* const address = pager.table.address_of(page);
  const long moved = pager.faults.move(address, pager.staged(page), kPageBytes, {.wake = os::Wake::later});
  if (moved == -EAGAIN) return PageIn::later;
  bool is_left = false;
  if (moved == -EEXIST) {
    is_left = true;
  } else if (moved == -ENOENT) {
    if (!fill_with_zeros(page, is_write)) return PageIn::later;
  } else if (moved != static_cast<long>(kPageBytes)) {
    const int error = put_in_place(page, pager.staged(page), os::Wake::later);
    if (error == -EAGAIN) return PageIn::later;
    is_left = true;
  }
  count(pager.counters.second_chances);
  const PageWord next = resident_again(page, Return::staged);
  if (is_left) {
    leave_out(page, word.without(PageWord::kBusy), next);
  } else {
    note_back(page);
    pager.staged_pages.fetch_sub(1, std::memory_order_relaxed);
    pager.table.set(page, next);
  }
  return PageIn::done;
}

// A stored page comes back. False: a fork is under way.
struct Expander {
  Scratch& scratch;
  std::byte* buffer;

  bool operator()(std::uint64_t page, PageWord word, bool is_wanted) const noexcept {
    const GetResult result = pager.store(word.store()).get(word.handle(), buffer, kPageBytes, scratch);
    if (result != GetResult::ok) fail_page_in(page, result);
    if (put_in_place(page, buffer, os::Wake::later) == -EAGAIN) return false;
    count(pager.counters.page_ins);
    if (is_wanted && pager.victims.went_just_now(page)) {
      pager.near_refaults.fetch_add(1, std::memory_order_relaxed);
    }
    leave_out(page, word.without(PageWord::kBusy),
              is_wanted ? resident_again(page, Return::stored) : PageWord::resident(0));
    return true;
  }
};

// Memory that is touched for the first time: when that goes on in order, zeros come for the pages behind it
// too, as far as their group goes and nothing of them is out. False: a fork is under way.
bool fill_fresh(std::uint64_t page) noexcept {
  const std::uint64_t wanted = end_of_window(page);
  std::uint64_t end = page + 1;
  while (end < wanted && !pager.table.get(end).is_out()) ++end;
  const int error =
      pager.faults.copy(pager.table.address_of(page), zero_pages, (end - page) * kPageBytes, os::Wake::later);
  pager.room.note_placed(error == 0 ? end - page : 1);
  return after_filling(page, error) == 0;  // that one of the others is there already does no harm
}

}  // namespace

PageWord resident_again(std::uint64_t page, VictimOrder::Return from) noexcept {
  pager.victims.note_use(page / kGroupPages, from);
  return PageWord::resident(pager.victims.chances(page, from));
}

int put_in_place(std::uint64_t page, const std::byte* contents, os::Wake wake) noexcept {
  const int error = pager.faults.copy(pager.table.address_of(page), contents, kPageBytes, wake);
  if (error == 0) pager.room.note_placed(1);
  return after_filling(page, error);
}

PageIn page_in(std::uint64_t page, bool is_write, Scratch& scratch, std::byte* buffer) noexcept {
  const PageWord word = pager.table.get(page);
  switch (word.state()) {
    case PageState::resident:
      if (!(is_write ? fill_fresh(page) : fill_with_zeros(page, is_write))) return PageIn::later;
      count(pager.counters.zero_fills);
      pager.victims.note_use(page / kGroupPages, Return::fresh);
      return PageIn::done;
    case PageState::zero:
      if (!fill_with_zeros(page, is_write)) return PageIn::later;
      count(pager.counters.zero_fills);
      leave_out(page, word, resident_again(page, Return::stored));
      return PageIn::done;
    case PageState::staged:
      return take_back(page, word, is_write);
    case PageState::stored:
      break;
  }
  return Expander{scratch, buffer}(page, word, true) ? PageIn::expanded : PageIn::later;
}

std::uint64_t read_ahead(std::uint64_t page, Scratch& scratch, std::byte* buffer) noexcept {
  const std::uint64_t end = end_of_window(page);
  for (std::uint64_t next = page + 1; next < end; ++next) {
    const PageWord word = pager.table.get(next);
    if (word.state() != PageState::stored || Store::is_on_file(word.handle())) continue;
    if (!Expander{scratch, buffer}(next, word, false)) return next;
    count(pager.counters.read_ahead_pages);
  }
  return end;
}

void fail_page_in(std::uint64_t page, GetResult result) noexcept {
  char space[256];
  Text text(space);
  text.append("glebe: the contents of the page at ").append_address(pager.table.address_of(page));
  text.append(result == GetResult::corrupt ? " are damaged in the page file (checksum)"
                                           : " cannot be read from the page file");
  text.append(" in ").append(pager.options.directory != nullptr ? pager.options.directory : "RAM");
  text.append("; the process ends\n");
  os::write_error_of_program(text.c_str(), text.size());
  os::abort_process();
}

void copy_contents(std::uint64_t page, PageWord word, std::byte* to, Scratch& scratch) noexcept {
  switch (word.state()) {
    case PageState::resident:
    case PageState::zero:
      std::memset(to, 0, kPageBytes);
      return;
    case PageState::staged:
      if (pager.scan.missing(pager.staged(page), 1) != 0)
        std::memset(to, 0, kPageBytes);
      else
        std::memcpy(to, pager.staged(page), kPageBytes);
      return;
    case PageState::stored:
      break;
  }
  const GetResult result = pager.store(word.store()).get(word.handle(), to, kPageBytes, scratch);
  if (result != GetResult::ok) fail_page_in(page, result);
}

}  // namespace glebe::paging
