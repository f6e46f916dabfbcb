// Victim policies; see policy.h for the orders. Every loop of take() is bounded by the number of items: a
// step either returns, or takes a reference away, or passes over an item that was refused.
#include "src/paging/policy.h"

#include "src/base/check.h"

namespace glebe::paging {
namespace {

void join(VictimList& list, VictimItem* item, VictimItem::Queue queue) noexcept {
  CHECK(!item->is_queued());
  list.push_back(item);
  item->queue = queue;
  item->references.store(0, std::memory_order_relaxed);
}

void rejoin(VictimList& list, VictimItem* item, VictimItem::Queue queue) noexcept {
  CHECK(!item->is_queued());
  list.push_front(item);
  item->queue = queue;
}

void leave(VictimList& list, VictimItem* item) noexcept {
  CHECK(item->is_queued());
  list.remove(item);
  item->queue = VictimItem::kNone;
}

void to_back(VictimList& list, VictimItem* item) noexcept {
  list.remove(item);
  list.push_back(item);
}

}  // namespace

void Lru::insert(VictimItem* item) noexcept {
  join(list_, item, VictimItem::kFirst);
  ++count_;
}

void Lru::put_back(VictimItem* item) noexcept {
  rejoin(list_, item, VictimItem::kFirst);
  ++count_;
}

void Lru::remove(VictimItem* item) noexcept {
  leave(list_, item);
  --count_;
}

void Lru::touch(VictimItem* item) noexcept { to_back(list_, item); }

VictimItem* Lru::take(const Acceptor& acceptor) noexcept {
  for (std::size_t left = count_; left != 0; --left) {
    VictimItem* item = list_.first();
    if (acceptor(item)) {
      remove(item);
      return item;
    }
    to_back(list_, item);
  }
  return nullptr;
}

void Clock::insert(VictimItem* item) noexcept {
  join(list_, item, VictimItem::kFirst);
  ++count_;
}

void Clock::put_back(VictimItem* item) noexcept {
  rejoin(list_, item, VictimItem::kFirst);
  ++count_;
}

void Clock::remove(VictimItem* item) noexcept {
  leave(list_, item);
  --count_;
}

VictimItem* Clock::take(const Acceptor& acceptor) noexcept {
  for (std::size_t left = 2 * count_; left != 0; --left) {
    VictimItem* item = list_.first();
    if (item->references.load(std::memory_order_relaxed) != 0) {
      item->references.store(0, std::memory_order_relaxed);
    } else if (acceptor(item)) {
      remove(item);
      return item;
    }
    to_back(list_, item);
  }
  return nullptr;
}

void S3Fifo::insert(VictimItem* item) noexcept {
  // The ghost queue is a window of numbers, as in section 4.2 of the paper: an item is in it until as many
  // others have left the small queue as the second queue is meant to hold.
  const std::size_t all = count() + 1;
  const bool is_ghost =
      item->queue == VictimItem::kGhost && evictions_ - item->number < all - all / kSmallShare;
  join(is_ghost ? main_ : small_, item, is_ghost ? VictimItem::kSecond : VictimItem::kFirst);
  ++(is_ghost ? main_count_ : small_count_);
}

void S3Fifo::put_back(VictimItem* item) noexcept {
  // take() left a ghost of what came from the small queue.
  const bool from_small = item->queue == VictimItem::kGhost;
  rejoin(from_small ? small_ : main_, item, from_small ? VictimItem::kFirst : VictimItem::kSecond);
  ++(from_small ? small_count_ : main_count_);
}

void S3Fifo::remove(VictimItem* item) noexcept {
  const bool in_main = item->queue == VictimItem::kSecond;
  leave(in_main ? main_ : small_, item);
  --(in_main ? main_count_ : small_count_);
}

VictimItem* S3Fifo::step_small(const Acceptor& acceptor) noexcept {
  VictimItem* item = small_.first();
  const bool is_hot = item->references.load(std::memory_order_relaxed) > 1;
  const bool is_taken = !is_hot && acceptor(item);
  remove(item);
  if (is_taken) {
    item->queue = VictimItem::kGhost;
    item->number = ++evictions_;
    return item;
  }
  join(main_, item, VictimItem::kSecond);
  ++main_count_;
  return nullptr;
}

VictimItem* S3Fifo::step_main(const Acceptor& acceptor) noexcept {
  VictimItem* item = main_.first();
  const std::uint8_t references = item->references.load(std::memory_order_relaxed);
  if (references != 0) {
    item->references.store(static_cast<std::uint8_t>(references - 1), std::memory_order_relaxed);
  } else if (acceptor(item)) {
    remove(item);
    return item;
  }
  to_back(main_, item);
  return nullptr;
}

VictimItem* S3Fifo::take(const Acceptor& acceptor) noexcept {
  // Everything in the small queue may be refused and move over: then the second queue gets all its rounds.
  std::size_t left = (kReferencesMax + 2) * count() + small_count_;
  // As in the paper: once the small queue is chosen it gives something up, unless all of it moves over.
  for (bool from_small = false; left != 0; --left) {
    from_small =
        small_count_ != 0 && (from_small || main_count_ == 0 || small_count_ * kSmallShare >= count());
    VictimItem* item = from_small ? step_small(acceptor) : step_main(acceptor);
    if (item != nullptr) return item;
  }
  // What is left in the small queue is within its share, and all of the other one was refused.
  for (left = small_count_; left != 0; --left) {
    if (VictimItem* item = step_small(acceptor)) return item;
  }
  return nullptr;
}

void TwoQ::insert(VictimItem* item) noexcept {
  // As in S3Fifo: the ghosts are a window of numbers.
  const bool is_ghost =
      item->queue == VictimItem::kGhost && evictions_ - item->number < count() / kGhostShare + 1;
  join(is_ghost ? second_ : first_, item, is_ghost ? VictimItem::kSecond : VictimItem::kFirst);
  ++(is_ghost ? second_count_ : first_count_);
}

void TwoQ::put_back(VictimItem* item) noexcept {
  const bool from_first = item->queue == VictimItem::kGhost;  // take() left one
  rejoin(from_first ? first_ : second_, item, from_first ? VictimItem::kFirst : VictimItem::kSecond);
  ++(from_first ? first_count_ : second_count_);
}

void TwoQ::remove(VictimItem* item) noexcept {
  const bool in_second = item->queue == VictimItem::kSecond;
  leave(in_second ? second_ : first_, item);
  --(in_second ? second_count_ : first_count_);
}

void TwoQ::touch(VictimItem* item) noexcept {
  if (item->queue == VictimItem::kSecond) to_back(second_, item);
}

VictimItem* TwoQ::take_first(const Acceptor& acceptor) noexcept {
  for (std::size_t left = first_count_; left != 0; --left) {
    VictimItem* item = first_.first();
    if (acceptor(item)) {
      remove(item);
      item->queue = VictimItem::kGhost;
      item->number = ++evictions_;
      return item;
    }
    to_back(first_, item);
  }
  return nullptr;
}

VictimItem* TwoQ::take_second(const Acceptor& acceptor) noexcept {
  for (std::size_t left = second_count_; left != 0; --left) {
    VictimItem* item = second_.first();
    if (acceptor(item)) {
      remove(item);
      return item;
    }
    to_back(second_, item);
  }
  return nullptr;
}

VictimItem* TwoQ::take(const Acceptor& acceptor) noexcept {
  const bool is_first = first_count_ * kFirstShare > count();
  VictimItem* const item = is_first ? take_first(acceptor) : take_second(acceptor);
  if (item != nullptr) return item;
  return is_first ? take_second(acceptor) : take_first(acceptor);
}

void Fifo::insert(VictimItem* item) noexcept {
  join(list_, item, VictimItem::kFirst);
  ++count_;
}

void Fifo::put_back(VictimItem* item) noexcept {
  rejoin(list_, item, VictimItem::kFirst);
  ++count_;
}

void Fifo::remove(VictimItem* item) noexcept {
  leave(list_, item);
  --count_;
}

VictimItem* Fifo::take(const Acceptor& acceptor) noexcept {
  for (VictimItem* item = list_.first(); item != nullptr; item = VictimList::next(item)) {
    if (!acceptor(item)) continue;
    remove(item);
    return item;
  }
  return nullptr;
}

void Victims::insert(VictimItem* item) noexcept {
  if (item->is_streaming) {
    streaming_.insert(item);
    item->queue = VictimItem::kStreaming;
    return;
  }
  dispatch([item](auto& policy) noexcept { policy.insert(item); });
}

void Victims::put_back(VictimItem* item) noexcept {
  if (item->is_streaming) {
    streaming_.put_back(item);
    item->queue = VictimItem::kStreaming;
    return;
  }
  dispatch([item](auto& policy) noexcept { policy.put_back(item); });
}

void Victims::remove(VictimItem* item) noexcept {
  if (item->queue == VictimItem::kStreaming) return streaming_.remove(item);
  dispatch([item](auto& policy) noexcept { policy.remove(item); });
}

VictimItem* Victims::take(const Acceptor& acceptor) noexcept {
  if (VictimItem* item = streaming_.take(acceptor)) return item;
  return dispatch([&acceptor](auto& policy) noexcept { return policy.take(acceptor); });
}

std::size_t Victims::count() const noexcept {
  return streaming_.count() + lru_.count() + clock_.count() + s3_fifo_.count() + fifo_.count() +
         oldest_.count() + largest_.count() + two_q_.count();
}

}  // namespace glebe::paging
