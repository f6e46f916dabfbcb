// A budget ledger: an exact count of bytes with a limit, and who they belong to (namespace glebe::paging).
//
// charge() before memory is taken, discharge() after it was given back: then the count is never below what is
// held. With Action::enforce or reclaim the count never exceeds the limit either, in no sample by any thread,
// because a charge that does not fit is refused before it is counted; lowering the limit below the count
// keeps the count and refuses charges until it has fallen. Action::warn counts everything and reports what
// exceeds. Bytes are charged to a tag (a subsystem, a buffer class), so that an error names the largest ones.
//
// Thread-safe: any thread may call any function at any time; charge() and discharge() are lock-free, unless
// the callback is called. Holds no resources. A tag, once named, lasts as long as the budget.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "platform/thread.h"
#include "src/base/text.h"

namespace glebe::paging {

enum class BudgetAction : std::uint8_t {
  enforce,  // a charge above the limit is refused
  warn,     // it is counted; the warning callback is told
  reclaim,  // the reclaim callback is asked to free bytes, then it is tried again, then refused
};

enum class BudgetResult : std::uint8_t {
  ok,
  exceeded,      // refused; nothing was counted
  over_release,  // more was given back than the tag holds; nothing was counted
  unknown_tag,   // no such tag
  bad_argument,  // a limit of 0, an unknown action, reclaim without a callback, a tag name that is empty or
                 // too long
  too_many_tags,
};

inline constexpr unsigned kBudgetTagsMax = 64;
inline constexpr std::size_t kBudgetNameMax = 31;  // bytes of a label or tag name
inline constexpr unsigned kBudgetTopMax = 4;
inline constexpr unsigned kReclaimRounds = 16;  // tries of one charge at most
inline constexpr std::uint64_t kNoLimit = UINT64_MAX;

using BudgetTag = unsigned;  // index; 0 is "other" and always there

struct BudgetConsumer {
  char name[kBudgetNameMax + 1];
  std::uint64_t bytes;
};

// A refused or excessive charge, as it was seen at that moment.
struct BudgetError {
  char label[kBudgetNameMax + 1] = {};
  std::uint64_t requested_bytes = 0, used_bytes = 0, limit_bytes = 0;
  unsigned top_count = 0;
  BudgetConsumer top[kBudgetTopMax] = {};  // the largest first

  // "budget 'host': 64.0 KiB requested, 1.0 GiB of 1.0 GiB in use; most by meshes 700.0 MiB, ...: raise the
  // limit, or unpin or free something"
  void describe(Text& text) const noexcept;
};

// Called without any lock held, by the thread that charges. It may charge and discharge other budgets, and
// discharge this one.
struct BudgetCallbacks {
  // Frees at least `needed_bytes` if it can. False: nothing more can be freed, do not ask again.
  bool (*reclaim)(void* context, std::uint64_t needed_bytes) = nullptr;
  void (*warn)(void* context, const BudgetError& error) = nullptr;
  void* context = nullptr;
};

class Budget {
 public:
  constexpr Budget() noexcept = default;
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  // Before the first use, and not while it is used. The label is cut to kBudgetNameMax bytes.
  [[nodiscard]] BudgetResult open(std::string_view label, std::uint64_t limit_bytes, BudgetAction action,
                                  const BudgetCallbacks& callbacks) noexcept;

  // Both at any time.
  [[nodiscard]] BudgetResult set_limit(std::uint64_t limit_bytes) noexcept;
  [[nodiscard]] BudgetResult set_action(BudgetAction action) noexcept;

  // The tag of that name, made when it is new.
  [[nodiscard]] BudgetResult tag(std::string_view name, BudgetTag* tag) noexcept;

  // ok, exceeded, unknown_tag. *error (may be nullptr) is filled when it is exceeded.
  [[nodiscard]] BudgetResult charge(BudgetTag tag, std::uint64_t size_bytes, BudgetError* error) noexcept;
  // The same without callbacks: for those who reclaim themselves.
  [[nodiscard]] bool try_charge(BudgetTag tag, std::uint64_t size_bytes) noexcept;
  // charge() in three parts, for those who must not call anybody back while they charge, because they hold a
  // lock. charge_held() never does. exceeded: it does not fit, and with reclaim nobody was asked yet. With
  // warn what exceeds is counted, and *is_excess says so: tell_excess() is due, with or after others.
  [[nodiscard]] BudgetResult charge_held(BudgetTag tag, std::uint64_t size_bytes, bool* is_excess) noexcept;
  // Asks the reclaim callback, once. False: nothing more can be freed, or the action is another one.
  [[nodiscard]] bool reclaim(std::uint64_t needed_bytes) noexcept;
  // Tells the warning callback that so many bytes were counted above the limit. *error as in charge().
  void tell_excess(std::uint64_t size_bytes, BudgetError* error) noexcept;
  // ok, over_release, unknown_tag.
  [[nodiscard]] BudgetResult discharge(BudgetTag tag, std::uint64_t size_bytes) noexcept;

  [[nodiscard]] std::uint64_t used_bytes() const noexcept { return used_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t peak_bytes() const noexcept { return peak_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t limit_bytes() const noexcept { return limit_.load(std::memory_order_relaxed); }
  [[nodiscard]] BudgetAction action() const noexcept { return action_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t tag_bytes(BudgetTag tag) const noexcept;
  [[nodiscard]] std::string_view name_of(BudgetTag tag) const noexcept;  // empty: no such tag
  [[nodiscard]] unsigned tag_count() const noexcept { return tag_count_.load(std::memory_order_acquire); }
  [[nodiscard]] std::uint64_t refused() const noexcept { return refused_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t warnings() const noexcept { return warnings_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t over_releases() const noexcept {
    return over_releases_.load(std::memory_order_relaxed);
  }

  // The tags that hold most now, at most `count_max` <= kBudgetTopMax of them; returns how many.
  unsigned top(BudgetConsumer* to, unsigned count_max) const noexcept;
  // What an error about `requested_bytes` would say now.
  void report(std::uint64_t requested_bytes, BudgetError* error) const noexcept;

 private:
  struct Tag {
    char name[kBudgetNameMax + 1];
    std::atomic<std::uint64_t> bytes;
  };

  void count_excess(BudgetTag tag, std::uint64_t size_bytes) noexcept;
  void count(BudgetTag tag, std::uint64_t size_bytes, std::uint64_t used_before) noexcept;
  [[nodiscard]] BudgetResult refuse(std::uint64_t size_bytes, BudgetError* error) noexcept;
  [[nodiscard]] static bool is_limit(std::uint64_t bytes) noexcept { return bytes != 0; }
  [[nodiscard]] bool is_action(BudgetAction action) const noexcept;

  char label_[kBudgetNameMax + 1] = "budget";
  std::atomic<std::uint64_t> used_{0}, peak_{0}, limit_{kNoLimit};
  std::atomic<BudgetAction> action_{BudgetAction::enforce};
  BudgetCallbacks callbacks_;
  os::Mutex tags_lock_;  // guards adding a tag
  std::atomic<unsigned> tag_count_{1};
  Tag tags_[kBudgetTagsMax] = {{"other", 0}};
  std::atomic<std::uint64_t> refused_{0}, warnings_{0}, over_releases_{0};
};

}  // namespace glebe::paging
