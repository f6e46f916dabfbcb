#include "src/paging/zone_table.h"

#include <bit>

#include "platform/fault.h"
#include "platform/vm.h"
#include "src/base/check.h"
#include "src/paging/page_table.h"

namespace glebe::paging {
namespace {

// A mapping that covers units of the pager does so from the start of one, a short one at least whole groups.
std::uint32_t alignment_of(std::uint32_t length) noexcept {
  constexpr std::uint32_t kUnitPages = kUnitBytes / kPageBytes;
  return length >= kUnitPages ? kUnitPages : kGroupPages;
}

void* open_memory(std::size_t size_bytes) noexcept {
  void* base = os::reserve(size_bytes, os::page_bytes());
  if (base == nullptr || os::commit(base, size_bytes)) return base;
  os::release(base, size_bytes);
  return nullptr;
}

std::size_t start_bytes(std::uint32_t page_count) noexcept {
  return align_up(page_count / std::size_t{8}, kPageBytes);
}

}  // namespace

bool ZoneTable::open(std::uint32_t page_count) noexcept {
  const std::size_t tag_bytes = std::size_t{page_count} * sizeof(placement::Tag);
  tags_ = static_cast<placement::Tag*>(open_memory(tag_bytes));
  starts_ = static_cast<std::uint64_t*>(open_memory(start_bytes(page_count)));
  if (tags_ == nullptr || starts_ == nullptr) {
    if (tags_ != nullptr) os::release(tags_, tag_bytes);
    if (starts_ != nullptr) os::release(starts_, start_bytes(page_count));
    return false;
  }
  space_.attach(tags_, page_count, placement::TlsfPolicy::best_fit);
  CHECK(space_.add_range(0, page_count) == placement::Status::ok);
  page_count_ = page_count;
  return true;
}

void ZoneTable::unlock_memory() const noexcept {
  os::unlock_memory(tags_, std::size_t{page_count_} * sizeof(placement::Tag));
  os::unlock_memory(starts_, start_bytes(page_count_));
}

// The highest start at or before `page`.
std::uint32_t ZoneTable::last_start(std::uint32_t page) const noexcept {
  if (highest_ == 0) return placement::kNoUnit;
  if (page >= highest_) page = highest_ - 1;
  std::uint32_t word = page / 64;
  std::uint64_t bits = starts_[word] & (~std::uint64_t{0} >> (63 - page % 64));
  while (bits == 0) {
    if (word == 0) return placement::kNoUnit;
    bits = starts_[--word];
  }
  return word * 64 + 63 - static_cast<std::uint32_t>(std::countl_zero(bits));
}

// The lowest start behind `page`, or `end` when there is none before it.
std::uint32_t ZoneTable::next_start(std::uint32_t page, std::uint32_t end) const noexcept {
  const std::uint32_t stop = end < highest_ ? end : highest_;
  for (std::uint32_t at = page + 1; at < stop; at = (at / 64 + 1) * 64) {
    const std::uint64_t bits = starts_[at / 64] >> (at % 64);
    if (bits == 0) continue;
    const std::uint32_t found = at + static_cast<std::uint32_t>(std::countr_zero(bits));
    return found < end ? found : end;
  }
  return end;
}

Piece ZoneTable::piece_at(std::uint32_t page, std::uint32_t end) const noexcept {
  const std::uint32_t start = last_start(page);
  std::uint32_t behind = 0;
  if (start != placement::kNoUnit) {
    behind = start + space_.run_length(start);
    if (page < behind) return {page, behind < end ? behind : end, start, true, space_.tag(start).mark};
  }
  return {page, next_start(page, end), behind, false, 0};
}

std::uint32_t ZoneTable::mapped_until(std::uint32_t begin, std::uint32_t end) const noexcept {
  while (begin < end) {
    const Piece piece = piece_at(begin, end);
    if (!piece.is_mapped) return begin;
    begin = piece.end;
  }
  return end;
}

void ZoneTable::add_run(std::uint32_t first, std::uint32_t length, std::uint8_t mark) noexcept {
  space_.tag(first).mark = mark;
  set_start(first);
  if (first + length > highest_) highest_ = first + length;
}

std::uint32_t ZoneTable::place(std::uint32_t length, std::uint32_t hint, std::uint8_t mark) noexcept {
  placement::Run run;
  if (hint < page_count_ && length <= page_count_ - hint) {
    const Piece there = piece_at(hint, hint + length);
    if (!there.is_mapped) run = space_.allocate_at(there.run, hint, length);
  }
  if (run.empty()) run = space_.allocate(length, alignment_of(length));
  if (run.empty()) return placement::kNoUnit;
  add_run(run.first, length, mark);
  return run.first;
}

// A run starts at `page` afterwards, if the page lies in one.
void ZoneTable::cut(std::uint32_t page) noexcept {
  if (page >= page_count_) return;
  const Piece piece = piece_at(page, page + 1);
  if (!piece.is_mapped || piece.run == page) return;
  const placement::Run second = space_.split(piece.run, page - piece.run);
  CHECK(!second.empty());
  space_.tag(page).mark = piece.mark;
  set_start(page);
}

void ZoneTable::claim(std::uint32_t begin, std::uint32_t end, std::uint8_t mark) noexcept {
  while (begin < end) {
    const Piece piece = piece_at(begin, end);
    if (!piece.is_mapped) {
      CHECK(!space_.allocate_at(piece.run, piece.begin, piece.end - piece.begin).empty());
      add_run(piece.begin, piece.end - piece.begin, mark);
    } else if (piece.mark != mark) {
      cut(piece.begin);
      cut(piece.end);
      space_.tag(piece.begin).mark = mark;
    }
    begin = piece.end;
  }
}

void ZoneTable::release(const Piece& piece) noexcept {
  cut(piece.begin);
  cut(piece.end);
  clear_start(piece.begin);
  CHECK(!space_.free(piece.begin).empty());
}

bool ZoneTable::extend(std::uint32_t end, std::uint32_t extra) noexcept {
  const Piece last = piece_at(end - 1, end);
  if (!last.is_mapped || last.run + space_.run_length(last.run) != end || extra > page_count_ - end)
    return false;
  if (space_.grow_in_place(last.run, end - last.run + extra).empty()) return false;
  if (end + extra > highest_) highest_ = end + extra;
  return true;
}

}  // namespace glebe::paging
