// Victim policies: which item leaves a tier next (namespace glebe::paging).
//
// An item is an intrusive node; what it stands for (an extent of a buffer, a run of pages, a tile) only its
// owner knows. A policy is a type that satisfies VictimPolicy, fixed at compile time; Victims chooses one of
// them at run time. take() removes the next victim from the policy; whoever could not move it inserts it
// again.
//
// The seven orders, which the tests hold them to:
//   lru       by the last touch, the longest ago first
//   clock     by insertion; a touched item gets one more round (second chance)
//   s3_fifo   new items pass a small queue (a tenth of all) and leave from there unless touched twice; the
//             rest is a second queue where a touch is worth one more round, up to three; an item that comes
//             back soon after it left goes straight to the second queue: as many are remembered as that queue
//             is meant to hold (Yang et al., SOSP 2023)
//   fifo      by insertion, touches do not matter
//   oldest    by creation of the item (birth), however often it left and came back
//   largest   by size, the largest first; the older one first among equals
//   two_q     new items pass a queue by insertion, touches do not matter there; items leave it as long as
//             it has more than a quarter of all. An item that comes back soon goes to a second list, which is
//             in the order of lru (Johnson and Shasha, VLDB 1994)
//
// put_back() undoes take(): items taken and not moved are put back in the opposite order, and the policy is
// as it was, except for references that take() used up.
//
// An item that take() may not have (the acceptor says no: it is pinned) counts as touched in lru, clock and
// s3_fifo, and goes to the end of its list in two_q; in the other three it keeps its place and is passed
// over. So k victims cost O(k) steps plus the items refused, O(k log n) for oldest and largest.
//
// Not thread-safe: the caller's lock guards policy and items, except that touch() of a policy with
// kTouchIsFree may be called by any thread at any time.
#pragma once

#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>

#include "src/base/list.h"
#include "src/paging/ordered.h"

namespace glebe::paging {

struct VictimTag;

struct VictimItem : ListNode<VictimTag> {
  enum Queue : std::uint8_t { kNone, kFirst, kSecond, kStreaming, kGhost };

  VictimItem* parent = nullptr;            // of the ordered policies
  std::uint64_t birth = 0;                 // by the owner, before the first insert: different for all items
  std::uint64_t size_bytes = 0;            // by the owner, before an insert
  std::uint64_t number = 0;                // of the policy: when it was inserted, or evicted
  std::atomic<std::uint32_t> last_use{0};  // by the owner: epoch of the last use; no policy reads it
  std::atomic<std::uint8_t> references{0};
  Queue queue = kNone;
  bool is_held = false;       // by the owner: taken out for now, and to be put back or inserted again
  bool is_streaming = false;  // by the owner: used once, so it goes before all others (see Victims)

  [[nodiscard]] bool is_queued() const noexcept { return queue != kNone && queue != kGhost; }
};

using VictimList = List<VictimItem, VictimTag>;

// Whether take() may have an item. It is asked once for each item that is next in order.
struct Acceptor {
  bool (*accept)(void* context, VictimItem* item);
  void* context;
  [[nodiscard]] bool operator()(VictimItem* item) const noexcept { return accept(context, item); }
};

template <typename P>
concept VictimPolicy = requires(P policy, const P& view, VictimItem* item, const Acceptor& acceptor) {
  { policy.insert(item) }
  noexcept->std::same_as<void>;  // not queued so far; it counts as not touched
  { policy.put_back(item) }
  noexcept->std::same_as<void>;  // the last one that take() gave and was not put back
  { policy.remove(item) }
  noexcept->std::same_as<void>;  // queued in this policy
  { policy.touch(item) }
  noexcept->std::same_as<void>;  // queued, or with kTouchIsFree any item
  { policy.take(acceptor) }
  noexcept->std::same_as<VictimItem*>;  // nullptr: none that is accepted
  { view.count() }
  noexcept->std::same_as<std::size_t>;
  { P::kTouchIsFree } -> std::convertible_to<bool>;
};

class Lru {
 public:
  static constexpr bool kTouchIsFree = false;
  void insert(VictimItem* item) noexcept;
  void put_back(VictimItem* item) noexcept;
  void remove(VictimItem* item) noexcept;
  void touch(VictimItem* item) noexcept;
  [[nodiscard]] VictimItem* take(const Acceptor& acceptor) noexcept;
  [[nodiscard]] std::size_t count() const noexcept { return count_; }

 private:
  VictimList list_;  // the coldest first
  std::size_t count_ = 0;
};

class Clock {
 public:
  static constexpr bool kTouchIsFree = true;
  void insert(VictimItem* item) noexcept;
  void put_back(VictimItem* item) noexcept;
  void remove(VictimItem* item) noexcept;
  void touch(VictimItem* item) noexcept { item->references.store(1, std::memory_order_relaxed); }
  [[nodiscard]] VictimItem* take(const Acceptor& acceptor) noexcept;
  [[nodiscard]] std::size_t count() const noexcept { return count_; }

 private:
  VictimList list_;  // the hand points to the first; behind it the others in the order it will meet them
  std::size_t count_ = 0;
};

class S3Fifo {
 public:
  static constexpr bool kTouchIsFree = true;
  static constexpr std::size_t kSmallShare = 10;  // the small queue holds one part in this many
  static constexpr std::uint8_t kReferencesMax = 3;
  void insert(VictimItem* item) noexcept;
  void put_back(VictimItem* item) noexcept;
  void remove(VictimItem* item) noexcept;
  // Two threads at once may count once: a hint lost, nothing else.
  void touch(VictimItem* item) noexcept {
    const std::uint8_t seen = item->references.load(std::memory_order_relaxed);
    if (seen < kReferencesMax) {
      item->references.store(static_cast<std::uint8_t>(seen + 1), std::memory_order_relaxed);
    }
  }
  [[nodiscard]] VictimItem* take(const Acceptor& acceptor) noexcept;
  [[nodiscard]] std::size_t count() const noexcept { return small_count_ + main_count_; }

 private:
  [[nodiscard]] VictimItem* step_small(const Acceptor& acceptor) noexcept;
  [[nodiscard]] VictimItem* step_main(const Acceptor& acceptor) noexcept;

  VictimList small_, main_;
  std::size_t small_count_ = 0, main_count_ = 0;
  std::uint64_t evictions_ = 0;  // from the small queue; numbers the ghosts
};

class Fifo {
 public:
  static constexpr bool kTouchIsFree = true;
  void insert(VictimItem* item) noexcept;
  void put_back(VictimItem* item) noexcept;
  void remove(VictimItem* item) noexcept;
  void touch(VictimItem*) noexcept {}
  [[nodiscard]] VictimItem* take(const Acceptor& acceptor) noexcept;
  [[nodiscard]] std::size_t count() const noexcept { return count_; }

 private:
  VictimList list_;
  std::size_t count_ = 0;
};

class TwoQ {
 public:
  static constexpr bool kTouchIsFree = false;
  static constexpr std::size_t kFirstShare = 4;  // the first queue holds one part in this many
  static constexpr std::size_t kGhostShare = 2;  // as many ghosts as one part in this many of all
  void insert(VictimItem* item) noexcept;
  void put_back(VictimItem* item) noexcept;
  void remove(VictimItem* item) noexcept;
  void touch(VictimItem* item) noexcept;
  [[nodiscard]] VictimItem* take(const Acceptor& acceptor) noexcept;
  [[nodiscard]] std::size_t count() const noexcept { return first_count_ + second_count_; }

 private:
  [[nodiscard]] VictimItem* take_first(const Acceptor& acceptor) noexcept;
  [[nodiscard]] VictimItem* take_second(const Acceptor& acceptor) noexcept;

  VictimList first_, second_;
  std::size_t first_count_ = 0, second_count_ = 0;
  std::uint64_t evictions_ = 0;  // from the first queue; numbers the ghosts
};

// Oldest and Largest: a set in the order of a key.
template <typename Key>
class Ordered {
 public:
  static constexpr bool kTouchIsFree = true;
  void insert(VictimItem* item) noexcept {
    set_.insert(item);
    item->queue = VictimItem::kFirst;
  }
  void put_back(VictimItem* item) noexcept { insert(item); }
  void remove(VictimItem* item) noexcept {
    set_.remove(item);
    item->queue = VictimItem::kNone;
  }
  void touch(VictimItem*) noexcept {}
  [[nodiscard]] VictimItem* take(const Acceptor& acceptor) noexcept {
    for (VictimItem* at = set_.first(); at != nullptr; at = set_.next(at)) {
      if (!acceptor(at)) continue;
      remove(at);
      return at;
    }
    return nullptr;
  }
  [[nodiscard]] std::size_t count() const noexcept { return set_.count(); }

 private:
  OrderedSet<VictimItem, ListNode<VictimTag>, Key> set_;
};

struct BirthKey {
  static std::uint64_t major(const VictimItem* item) noexcept { return item->birth; }
  static std::uint64_t minor(const VictimItem* item) noexcept { return item->birth; }
};
struct SizeKey {
  static std::uint64_t major(const VictimItem* item) noexcept { return ~item->size_bytes; }
  static std::uint64_t minor(const VictimItem* item) noexcept { return item->birth; }
};
using Oldest = Ordered<BirthKey>;
using Largest = Ordered<SizeKey>;

static_assert(VictimPolicy<Lru> && VictimPolicy<Clock> && VictimPolicy<S3Fifo>);
static_assert(VictimPolicy<Fifo> && VictimPolicy<Oldest> && VictimPolicy<Largest> && VictimPolicy<TwoQ>);

enum class VictimKind : std::uint8_t { lru, clock, s3_fifo, fifo, oldest, largest, two_q };
inline constexpr unsigned kVictimKinds = 7;

// One policy, chosen at run time, and in front of it a queue of streaming items in the order of their
// insertion. Satisfies the concept except that whether touch() is free is a question to the object.
class Victims {
 public:
  explicit Victims(VictimKind kind) noexcept : kind_(kind) {}

  [[nodiscard]] VictimKind kind() const noexcept { return kind_; }
  [[nodiscard]] bool touch_is_free() const noexcept {
    return kind_ != VictimKind::lru && kind_ != VictimKind::two_q;
  }

  void insert(VictimItem* item) noexcept;
  void put_back(VictimItem* item) noexcept;
  void remove(VictimItem* item) noexcept;
  void touch(VictimItem* item) noexcept {
    // Streaming items are not reordered; for the others a free touch needs no look at the queue.
    if (kind_ == VictimKind::lru) {
      if (item->queue == VictimItem::kFirst) lru_.touch(item);
    } else if (kind_ == VictimKind::two_q) {
      if (item->is_queued() && item->queue != VictimItem::kStreaming) two_q_.touch(item);
    } else if (kind_ == VictimKind::clock) {
      clock_.touch(item);
    } else if (kind_ == VictimKind::s3_fifo) {
      s3_fifo_.touch(item);
    }
  }
  [[nodiscard]] VictimItem* take(const Acceptor& acceptor) noexcept;
  [[nodiscard]] std::size_t count() const noexcept;

 private:
  template <typename F>
  decltype(auto) dispatch(F&& call) noexcept {
    switch (kind_) {
      case VictimKind::lru:
        return call(lru_);
      case VictimKind::clock:
        return call(clock_);
      case VictimKind::s3_fifo:
        return call(s3_fifo_);
      case VictimKind::fifo:
        return call(fifo_);
      case VictimKind::oldest:
        return call(oldest_);
      case VictimKind::largest:
        return call(largest_);
      case VictimKind::two_q:
        break;
    }
    return call(two_q_);
  }

  const VictimKind kind_;
  Fifo streaming_;
  Lru lru_;
  Clock clock_;
  S3Fifo s3_fifo_;
  Fifo fifo_;
  Oldest oldest_;
  Largest largest_;
  TwoQ two_q_;
};

}  // namespace glebe::paging
