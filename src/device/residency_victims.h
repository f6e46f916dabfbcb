// Which chunk leaves the device next (namespace glebe::device): the concept of src/paging/policy.h, two of
// its policies, and two more that fit chunks, with a choice at run time.
//
// A chunk is large (32 MiB by default) and few of them fit on a device: a policy that looks at all of them
// pays some microseconds per victim, where the move itself takes hundreds. So age and cost keep one list and
// scan it. Their clock counts leases; the owner writes VictimItem::last_use at each use, and
// VictimItem::size_bytes is not a size here but what it costs to have the chunk away and back: nanoseconds.
//
//   lru    longest not leased first
//   clock  second chance: leased since the hand passed last time -> passed over once
//   age    not leased for kAgeSpan leases or more, in the order in which they came; if there is none, the one
//          that was not leased for longest. A lease writes one number and reorders nothing
//   cost   highest age divided by cost: among chunks of the same age those go first that are clean, and those
//          whose copy is on the host before those that must come from the disk
//
// Not thread-safe: the heap's lock guards policy and items.
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/paging/policy.h"

namespace glebe::device {

enum class VictimOrder : std::uint8_t { lru, clock, age, cost };
inline constexpr unsigned kVictimOrders = 4;

// The list that AgeVictims and CostVictims scan; `now` is the owner's count of leases.
class ScannedVictims {
 public:
  static constexpr bool kTouchIsFree = true;
  void insert(paging::VictimItem* item) noexcept;
  void put_back(paging::VictimItem* item) noexcept;
  void remove(paging::VictimItem* item) noexcept;
  void touch(paging::VictimItem*) noexcept {}
  [[nodiscard]] std::size_t count() const noexcept { return count_; }
  void set_now(std::uint32_t now) noexcept { now_ = now; }

 protected:
  // Leases since the last use; the count may have wrapped once.
  [[nodiscard]] std::uint32_t age_of(const paging::VictimItem* item) const noexcept {
    return now_ - item->last_use.load(std::memory_order_relaxed);
  }
  [[nodiscard]] paging::VictimList& list() noexcept { return list_; }

 private:
  paging::VictimList list_;  // the one that came first, first
  std::size_t count_ = 0;
  std::uint32_t now_ = 0;
};

class AgeVictims : public ScannedVictims {
 public:
  static constexpr std::uint32_t kAgeSpan = 1024;
  [[nodiscard]] paging::VictimItem* take(const paging::Acceptor& acceptor) noexcept;
};

class CostVictims : public ScannedVictims {
 public:
  [[nodiscard]] paging::VictimItem* take(const paging::Acceptor& acceptor) noexcept;
};

static_assert(paging::VictimPolicy<AgeVictims> && paging::VictimPolicy<CostVictims>);

// One of the four, chosen at run time.
class ChunkVictims {
 private:
  template <typename F>
  decltype(auto) dispatch(F&& call) noexcept {
    switch (order_) {
      case VictimOrder::lru:
        return call(lru_);
      case VictimOrder::clock:
        return call(clock_);
      case VictimOrder::age:
        return call(age_);
      case VictimOrder::cost:
        break;
    }
    return call(cost_);
  }

 public:
  explicit ChunkVictims(VictimOrder order) noexcept : order_(order) {}

  [[nodiscard]] VictimOrder order() const noexcept { return order_; }
  void set_order(VictimOrder order) noexcept { order_ = order; }  // while it is empty
  void set_now(std::uint32_t now) noexcept {
    age_.set_now(now);
    cost_.set_now(now);
  }
  void insert(paging::VictimItem* item) noexcept {
    dispatch([item](auto& policy) { policy.insert(item); });
  }
  void put_back(paging::VictimItem* item) noexcept {
    dispatch([item](auto& policy) { policy.put_back(item); });
  }
  void remove(paging::VictimItem* item) noexcept {
    dispatch([item](auto& policy) { policy.remove(item); });
  }
  void touch(paging::VictimItem* item) noexcept {
    dispatch([item](auto& policy) { policy.touch(item); });
  }
  [[nodiscard]] paging::VictimItem* take(const paging::Acceptor& acceptor) noexcept {
    return dispatch([&acceptor](auto& policy) { return policy.take(acceptor); });
  }
  [[nodiscard]] std::size_t count() noexcept {
    return dispatch([](auto& policy) { return policy.count(); });
  }

 private:
  VictimOrder order_;
  paging::Lru lru_;
  paging::Clock clock_;
  AgeVictims age_;
  CostVictims cost_;
};

}  // namespace glebe::device
