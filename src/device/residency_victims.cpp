// See residency_victims.h.
#include "src/device/residency_victims.h"

namespace glebe::device {

using paging::Acceptor;
using paging::VictimItem;
using paging::VictimList;

void ScannedVictims::insert(VictimItem* item) noexcept {
  list_.push_back(item);
  item->queue = VictimItem::kFirst;
  ++count_;
}

void ScannedVictims::put_back(VictimItem* item) noexcept {
  list_.push_front(item);
  item->queue = VictimItem::kFirst;
  ++count_;
}

void ScannedVictims::remove(VictimItem* item) noexcept {
  list_.remove(item);
  item->queue = VictimItem::kNone;
  --count_;
}

VictimItem* AgeVictims::take(const Acceptor& acceptor) noexcept {
  VictimItem* oldest = nullptr;
  for (VictimItem* at = list().first(); at != nullptr; at = VictimList::next(at)) {
    if ((oldest != nullptr && age_of(at) <= age_of(oldest)) || !acceptor(at)) continue;
    oldest = at;
    if (age_of(at) >= kAgeSpan) break;
  }
  if (oldest != nullptr) remove(oldest);
  return oldest;
}

VictimItem* CostVictims::take(const Acceptor& acceptor) noexcept {
  VictimItem* best = nullptr;
  for (VictimItem* at = list().first(); at != nullptr; at = VictimList::next(at)) {
    // a / b > c / d without division. Ages have 32 bits and costs are cut to as many.
    const auto gain_of = [this](const VictimItem* whose, const VictimItem* other) {
      const std::uint64_t cost = other->size_bytes < UINT32_MAX ? other->size_bytes : UINT32_MAX;
      return (std::uint64_t{age_of(whose)} + 1) * (cost + 1);
    };
    if ((best != nullptr && gain_of(at, best) <= gain_of(best, at)) || !acceptor(at)) continue;
    best = at;
  }
  if (best != nullptr) remove(best);
  return best;
}

}  // namespace glebe::device
