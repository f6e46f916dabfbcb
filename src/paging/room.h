// Whether the process is above its budget, known exactly between two looks at the figure of the system
// (namespace glebe::paging). The evictor looks at it every few milliseconds, in which a program could fill
// tens of megabytes; what the pager itself puts in place or gives back meanwhile is counted here.
//
// Thread-safe. Only the evictor looks, sets the budget and gives relief.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "src/paging/store.h"

namespace glebe::paging {

class Room {
 public:
  // What the system says now, in bytes, and the budget; budget 0: there is always room.
  void look(std::size_t used_bytes, std::size_t budget_bytes) noexcept {
    const std::int64_t used = static_cast<std::int64_t>(used_bytes / kPageBytes);
    base_.store(used - change_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    limit_.store(budget_bytes == 0 ? INT64_MAX : static_cast<std::int64_t>(budget_bytes / kPageBytes),
                 std::memory_order_relaxed);
  }
  void note_placed(std::uint64_t pages) noexcept {
    change_.fetch_add(static_cast<std::int64_t>(pages), std::memory_order_relaxed);
  }
  void note_freed(std::uint64_t pages) noexcept {
    change_.fetch_sub(static_cast<std::int64_t>(pages), std::memory_order_relaxed);
  }

  // Above the budget by more than so many bytes; negative: nearer to it than that.
  [[nodiscard]] bool is_above(std::int64_t bytes) const noexcept {
    const std::int64_t limit = limit_.load(std::memory_order_relaxed);
    if (limit == INT64_MAX) return false;
    const std::int64_t used = base_.load(std::memory_order_relaxed) + change_.load(std::memory_order_relaxed);
    return used - limit > bytes / static_cast<std::int64_t>(kPageBytes);
  }

 private:
  std::atomic<std::int64_t> base_{0}, change_{0};
  std::atomic<std::int64_t> limit_{INT64_MAX};
};

}  // namespace glebe::paging
