// Forked children, see pager_fork.cpp (namespace glebe::paging). Private to the pager.
#pragma once

#include <cstddef>
#include <new>

namespace glebe::paging {

// A forked child takes its faults over from its parent; in the child's pager thread.
class Takeover {
 public:
  // Gets the descriptor of our own faults and those of the page files. The parent still answers. False: it
  // cannot, or does not talk to us. `buffer` holds a page.
  [[nodiscard]] bool find_ours(std::byte* buffer) noexcept;
  // From here on the parent answers no more.
  void finish() noexcept;

 private:
  int connection_ = -1;
};

// In the child, when that failed: reads all that is out while the parent still answers. If the parent is
// gone, what was out is lost: says so and ends the process.
void finish_without_parent() noexcept;

// Pages that prove to a child that a descriptor is its own.
[[nodiscard]] bool open_beacons() noexcept;
[[nodiscard]] bool watch_beacons() noexcept;

// Reads every page that is out.
void bring_back_everything() noexcept;

// pager.cpp: starts the pager of a forked child; returns when it serves the child's faults, if any page is
// out.
void restart_in_child() noexcept;

}  // namespace glebe::paging
