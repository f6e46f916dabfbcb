// Which pages are there, and a number for each (namespace glebe::device): a hash table of as much memory as
// pages can be there, however many the texture has. Open addressing, at most half full; an entry that goes
// is closed up by those behind it, so every entry is found from its own place without a gap.
//
// The entries are plain pairs, so a copy of them can be looked up on the device: index hash(page) & mask,
// then the next one, until the page or an entry of 0 is met. Not thread-safe.
#pragma once

#include <cstdint>
#include <span>

#include "src/base/check.h"
#include "src/device/tile_page.h"
#include "src/paging/growing_memory.h"

namespace glebe::device {

struct TileEntry {
  std::uint64_t page;  // TilePage::bits() + 1; 0: nothing
  std::uint64_t value;
};

class TileTable {
 public:
  // Room for `count_max` pages. False: no memory.
  [[nodiscard]] bool open(std::uint64_t count_max) noexcept {
    close();
    const std::uint64_t capacity = std::uint64_t{2} << log2_ceil(count_max < 4 ? 4 : count_max);
    const std::uint64_t size_bytes = capacity * sizeof(TileEntry);
    if (!memory_.reserve(size_bytes, size_bytes, 4 * kKiB) || !memory_.grow_to(size_bytes)) return false;
    capacity_ = capacity;
    return true;
  }
  void close() noexcept {
    memory_.release();
    capacity_ = count_ = 0;
    changed_ = {};
  }

  // The value of a page, or nullptr. Valid until the table changes.
  [[nodiscard]] std::uint64_t* find(TilePage page) const noexcept {
    for (std::uint64_t at = start_of(page.bits() + 1);; at = next(at)) {
      if (entries()[at].page == 0) return nullptr;  // first: TilePage() looks like an entry of nothing
      if (entries()[at].page == page.bits() + 1) return &entries()[at].value;
    }
  }
  // False: it is there already. There is room.
  [[nodiscard]] bool insert(TilePage page, std::uint64_t value) noexcept {
    std::uint64_t at = start_of(page.bits() + 1);
    for (; entries()[at].page != 0; at = next(at)) {
      if (entries()[at].page == page.bits() + 1) return false;
    }
    CHECK(count_ < capacity_ / 2);
    ++count_;
    put(at, {page.bits() + 1, value});
    return true;
  }
  // False: it is not there.
  bool erase(TilePage page) noexcept {
    std::uint64_t at = start_of(page.bits() + 1);
    for (; entries()[at].page != page.bits() + 1; at = next(at)) {
      if (entries()[at].page == 0) return false;
    }
    --count_;
    // Who comes later and may stand here moves up.
    for (std::uint64_t from = next(at); entries()[from].page != 0; from = next(from)) {
      const std::uint64_t wanted = start_of(entries()[from].page);
      if (((from - wanted) & (capacity_ - 1)) < ((from - at) & (capacity_ - 1))) continue;
      put(at, entries()[from]);
      at = from;
    }
    put(at, {});
    return true;
  }

  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  [[nodiscard]] std::span<const TileEntry> all() const noexcept { return {entries(), capacity_}; }

  // Entries that changed since the last call: [first, end).
  struct Range {
    std::uint64_t first = 0, end = 0;
  };
  [[nodiscard]] Range changed() const noexcept { return changed_; }
  void forget_changed() noexcept { changed_ = {}; }

  // As on the device.
  [[nodiscard]] static constexpr std::uint64_t hash(std::uint64_t page) noexcept {
    page *= 0x9E3779B97F4A7C15u;
    return page ^ page >> 32;
  }

 private:
  [[nodiscard]] TileEntry* entries() const noexcept { return reinterpret_cast<TileEntry*>(memory_.base()); }
  [[nodiscard]] std::uint64_t start_of(std::uint64_t page) const noexcept {
    return hash(page) & (capacity_ - 1);
  }
  [[nodiscard]] std::uint64_t next(std::uint64_t at) const noexcept { return (at + 1) & (capacity_ - 1); }
  void put(std::uint64_t at, const TileEntry& entry) noexcept {
    entries()[at] = entry;
    if (changed_.first == changed_.end) changed_ = {at, at + 1};
    if (at < changed_.first) changed_.first = at;
    if (at >= changed_.end) changed_.end = at + 1;
  }

  paging::GrowingMemory memory_;
  std::uint64_t capacity_ = 0, count_ = 0;  // capacity: entries, a power of two
  Range changed_;
};

}  // namespace glebe::device
