// Uses of extents that the policy has not heard of yet, and the count of pins (namespace glebe::paging).
//
// A policy in the order of use moves an item with each use, under the lock of the victims. A pin does not
// wait for that lock: it notes the item here, and whoever holds the lock next because it inserts or takes a
// victim, or because a stripe is full, drains all stripes first. So what one thread does reaches the policy
// completely and in order. Threads share stripes by chance: then a use may be lost or count twice, and uses
// of different threads between two drains arrive stripe by stripe. That changes who leaves next, nothing
// else.
//
// An item that is noted may be gone by the time of the drain, or stand for another extent: its record is
// still there (records are never given back to the system), and the lock under which records begin and end
// is held then.
#pragma once

#include <atomic>
#include <cstdint>

#include "platform/thread.h"
#include "src/paging/policy.h"

namespace glebe::paging {

class UseLog {
 public:
  // Lock-free and exact.
  void count_pin() noexcept { mine().pins.fetch_add(1, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t pins() const noexcept {
    std::uint64_t sum = 0;
    for (const Stripe& stripe : stripes_) sum += stripe.pins.load(std::memory_order_relaxed);
    return sum;
  }

  // False: the stripe is full, and nothing was noted.
  [[nodiscard]] bool note(VictimItem* item) noexcept {
    Stripe& stripe = mine();
    // Acquire and release: whoever sees a count sees all that was noted below it, by whatever thread.
    const std::uint32_t count = stripe.count.load(std::memory_order_acquire);
    if (count != 0 && stripe.items[count - 1].load(std::memory_order_relaxed) == item) return true;
    if (count == kNotedMax) return false;
    stripe.items[count].store(item, std::memory_order_relaxed);
    stripe.count.store(count + 1, std::memory_order_release);
    return true;
  }

  // Tells the policy, and forgets. With the lock of the victims held.
  void drain(Victims& victims) noexcept {
    for (Stripe& stripe : stripes_) {
      const std::uint32_t count = stripe.count.load(std::memory_order_acquire);
      if (count == 0) continue;
      for (std::uint32_t i = 0; i < count; ++i)
        victims.touch(stripe.items[i].load(std::memory_order_relaxed));
      stripe.count.store(0, std::memory_order_relaxed);
    }
  }

 private:
  static constexpr unsigned kStripesLog2 = 4;
  static constexpr std::uint32_t kNotedMax = 30;

  struct alignas(64) Stripe {
    std::atomic<std::uint64_t> pins{0};
    std::atomic<std::uint32_t> count{0};
    std::atomic<VictimItem*> items[kNotedMax] = {};
  };
  static_assert(sizeof(Stripe) == 256);

  // That of this thread.
  [[nodiscard]] Stripe& mine() noexcept {
    constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15u;
    return stripes_[(std::uint64_t{os::thread_id()} * kGolden) >> (64 - kStripesLog2)];
  }

  Stripe stripes_[1u << kStripesLog2];
};

}  // namespace glebe::paging
