// Which pages of the mapped zone are mapped, and how (namespace glebe::paging). Used by mapped_zone.cpp and
// zone_moves.cpp, which guard it with the lock of the zone. Makes no system calls but for its own memory.
//
// Mapped pages are runs of the placement engine; a bitmap of their first pages finds the run of any page.
// Runs are cut where an operation takes a part of one, and never joined again.
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/placement/tlsf.h"

namespace glebe::paging {

// What is known of a run, in the mark of its tag: bits of mmap's protection, and kOwn (mapped_zone.h).
inline constexpr std::uint8_t kProtectionBits = 7, kOwn = 8;

// Consecutive pages with one answer.
struct Piece {
  std::uint32_t begin, end;
  std::uint32_t run;  // where the run starts that holds them, mapped or free
  bool is_mapped;
  std::uint8_t mark;
};

class ZoneTable {
 public:
  // For zones of `page_count` pages, all free. False: no memory.
  [[nodiscard]] bool open(std::uint32_t page_count) noexcept;
  void unlock_memory() const noexcept;

  [[nodiscard]] std::uint32_t page_count() const noexcept { return page_count_; }
  [[nodiscard]] std::uint64_t mapped_pages() const noexcept {
    return space_.range_units() - space_.free_units();
  }

  // The longest piece from `page` on that ends at `end` or before. page < end.
  [[nodiscard]] Piece piece_at(std::uint32_t page, std::uint32_t end) const noexcept;
  // Where the pages from `begin` on stop being mapped; at most `end`.
  [[nodiscard]] std::uint32_t mapped_until(std::uint32_t begin, std::uint32_t end) const noexcept;

  // A run for a new mapping; kNoUnit when there is no room. With a hint below page_count() there if possible.
  [[nodiscard]] std::uint32_t place(std::uint32_t length, std::uint32_t hint, std::uint8_t mark) noexcept;
  // All pages [begin, end) are mapped with this mark, those that were not included.
  void claim(std::uint32_t begin, std::uint32_t end, std::uint8_t mark) noexcept;
  // Makes a mapped piece a run of its own, and gives it free.
  void release(const Piece& piece) noexcept;
  // The run that ends before `end` gets `extra` free pages behind it, if there are.
  [[nodiscard]] bool extend(std::uint32_t end, std::uint32_t extra) noexcept;

 private:
  void cut(std::uint32_t page) noexcept;
  [[nodiscard]] std::uint32_t last_start(std::uint32_t page) const noexcept;
  [[nodiscard]] std::uint32_t next_start(std::uint32_t page, std::uint32_t end) const noexcept;
  void set_start(std::uint32_t page) noexcept { starts_[page / 64] |= std::uint64_t{1} << page % 64; }
  void clear_start(std::uint32_t page) noexcept { starts_[page / 64] &= ~(std::uint64_t{1} << page % 64); }
  void add_run(std::uint32_t first, std::uint32_t length, std::uint8_t mark) noexcept;

  placement::Tlsf space_;
  placement::Tag* tags_ = nullptr;
  std::uint64_t* starts_ = nullptr;  // one bit per page
  std::uint32_t page_count_ = 0;
  std::uint32_t highest_ = 0;  // no run ever reached beyond this page
};

}  // namespace glebe::paging
