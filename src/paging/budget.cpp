// The budget ledger; see budget.h. One compare-and-swap loop on the count decides; the tags are counted next
// to it, after a charge and before a discharge, so that a tag never shows less than it must give back.
#include "src/paging/budget.h"

#include <cstring>

namespace glebe::paging {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::uint64_t kChargeMax = std::uint64_t{1} << 62;

void copy_name(char (&to)[kBudgetNameMax + 1], std::string_view from) noexcept {
  const std::size_t length = from.size() < kBudgetNameMax ? from.size() : kBudgetNameMax;
  if (length != 0) std::memcpy(to, from.data(), length);
  to[length] = '\0';
}

// Takes `size_bytes` off the counter; false when it holds less, and then nothing changed.
bool subtract(std::atomic<std::uint64_t>& counter, std::uint64_t size_bytes) noexcept {
  std::uint64_t value = counter.load(kRelaxed);
  do {
    if (value < size_bytes) return false;
  } while (!counter.compare_exchange_weak(value, value - size_bytes, kRelaxed));
  return true;
}

}  // namespace

void BudgetError::describe(Text& text) const noexcept {
  text.append("budget '").append(label).append("': ").append_size(requested_bytes).append(" requested, ");
  text.append_size(used_bytes).append(" of ").append_size(limit_bytes).append(" in use");
  for (unsigned i = 0; i < top_count; ++i) {
    text.append(i == 0 ? "; most by " : ", ").append(top[i].name).append(" ").append_size(top[i].bytes);
  }
  text.append(": raise the limit, or unpin or free something");
}

bool Budget::is_action(BudgetAction action) const noexcept {
  switch (action) {
    case BudgetAction::enforce:
    case BudgetAction::warn:
      return true;
    case BudgetAction::reclaim:
      return callbacks_.reclaim != nullptr;
  }
  return false;
}

BudgetResult Budget::open(std::string_view label, std::uint64_t limit_bytes, BudgetAction action,
                          const BudgetCallbacks& callbacks) noexcept {
  callbacks_ = callbacks;
  if (!is_limit(limit_bytes) || !is_action(action) || label.empty()) return BudgetResult::bad_argument;
  copy_name(label_, label);
  limit_.store(limit_bytes, kRelaxed);
  action_.store(action, kRelaxed);
  return BudgetResult::ok;
}

BudgetResult Budget::set_limit(std::uint64_t limit_bytes) noexcept {
  if (!is_limit(limit_bytes)) return BudgetResult::bad_argument;
  limit_.store(limit_bytes, kRelaxed);
  return BudgetResult::ok;
}

BudgetResult Budget::set_action(BudgetAction action) noexcept {
  if (!is_action(action)) return BudgetResult::bad_argument;
  action_.store(action, kRelaxed);
  return BudgetResult::ok;
}

BudgetResult Budget::tag(std::string_view name, BudgetTag* tag) noexcept {
  if (name.empty() || name.size() > kBudgetNameMax) return BudgetResult::bad_argument;
  const os::Lock hold(tags_lock_);
  const unsigned count = tag_count_.load(kRelaxed);
  for (unsigned i = 0; i < count; ++i) {
    if (name != tags_[i].name) continue;
    *tag = i;
    return BudgetResult::ok;
  }
  if (count == kBudgetTagsMax) return BudgetResult::too_many_tags;
  copy_name(tags_[count].name, name);
  tag_count_.store(count + 1, std::memory_order_release);  // pairs with tag_count(): the name is complete
  *tag = count;
  return BudgetResult::ok;
}

void Budget::count(BudgetTag tag, std::uint64_t size_bytes, std::uint64_t used_before) noexcept {
  tags_[tag].bytes.fetch_add(size_bytes, kRelaxed);
  std::uint64_t peak = peak_.load(kRelaxed);
  const std::uint64_t used = used_before + size_bytes;
  while (peak < used && !peak_.compare_exchange_weak(peak, used, kRelaxed)) {
  }
}

bool Budget::try_charge(BudgetTag tag, std::uint64_t size_bytes) noexcept {
  if (tag >= tag_count()) return false;
  std::uint64_t used = used_.load(kRelaxed);
  do {
    const std::uint64_t limit = limit_.load(kRelaxed);
    if (used > limit || size_bytes > limit - used) return false;
  } while (!used_.compare_exchange_weak(used, used + size_bytes, kRelaxed));
  count(tag, size_bytes, used);
  return true;
}

BudgetResult Budget::refuse(std::uint64_t size_bytes, BudgetError* error) noexcept {
  refused_.fetch_add(1, kRelaxed);
  if (error != nullptr) report(size_bytes, error);
  return BudgetResult::exceeded;
}

void Budget::count_excess(BudgetTag tag, std::uint64_t size_bytes) noexcept {
  const std::uint64_t before = used_.fetch_add(size_bytes, kRelaxed);
  count(tag, size_bytes, before);
  warnings_.fetch_add(1, kRelaxed);
}

void Budget::tell_excess(std::uint64_t size_bytes, BudgetError* error) noexcept {
  BudgetError seen;
  report(size_bytes, &seen);
  if (callbacks_.warn != nullptr) callbacks_.warn(callbacks_.context, seen);
  if (error != nullptr) *error = seen;
}

BudgetResult Budget::charge_held(BudgetTag tag, std::uint64_t size_bytes, bool* is_excess) noexcept {
  *is_excess = false;
  if (tag >= tag_count()) return BudgetResult::unknown_tag;
  if (size_bytes > kChargeMax) return refuse(size_bytes, nullptr);  // the count could wrap
  if (try_charge(tag, size_bytes)) return BudgetResult::ok;
  if (action() != BudgetAction::warn) return refuse(size_bytes, nullptr);
  count_excess(tag, size_bytes);
  *is_excess = true;
  return BudgetResult::ok;
}

bool Budget::reclaim(std::uint64_t needed_bytes) noexcept {
  return action() == BudgetAction::reclaim && callbacks_.reclaim(callbacks_.context, needed_bytes);
}

BudgetResult Budget::charge(BudgetTag tag, std::uint64_t size_bytes, BudgetError* error) noexcept {
  if (tag >= tag_count()) return BudgetResult::unknown_tag;
  if (size_bytes > kChargeMax) return refuse(size_bytes, error);
  for (unsigned round = 0; !try_charge(tag, size_bytes); ++round) {
    if (action() == BudgetAction::warn) {
      count_excess(tag, size_bytes);
      tell_excess(size_bytes, error);
      return BudgetResult::ok;
    }
    const std::uint64_t limit = limit_bytes(), used = used_bytes();
    // Above the limit, freeing everything would not help.
    if (round == kReclaimRounds || size_bytes > limit) return refuse(size_bytes, error);
    const std::uint64_t room = used < limit ? limit - used : 0;
    const std::uint64_t needed = size_bytes > room ? size_bytes - room : 1;
    if (!reclaim(needed)) {
      return try_charge(tag, size_bytes) ? BudgetResult::ok : refuse(size_bytes, error);
    }
  }
  return BudgetResult::ok;
}

BudgetResult Budget::discharge(BudgetTag tag, std::uint64_t size_bytes) noexcept {
  if (tag >= tag_count()) return BudgetResult::unknown_tag;
  if (!subtract(tags_[tag].bytes, size_bytes)) {
    over_releases_.fetch_add(1, kRelaxed);
    return BudgetResult::over_release;
  }
  used_.fetch_sub(size_bytes, kRelaxed);
  return BudgetResult::ok;
}

std::uint64_t Budget::tag_bytes(BudgetTag tag) const noexcept {
  return tag < tag_count() ? tags_[tag].bytes.load(kRelaxed) : 0;
}

std::string_view Budget::name_of(BudgetTag tag) const noexcept {
  return tag < tag_count() ? std::string_view(tags_[tag].name) : std::string_view();
}

unsigned Budget::top(BudgetConsumer* to, unsigned count_max) const noexcept {
  if (count_max > kBudgetTopMax) count_max = kBudgetTopMax;
  unsigned count = 0;
  const unsigned tags = tag_count();
  for (unsigned i = 0; i < tags; ++i) {
    const std::uint64_t bytes = tags_[i].bytes.load(kRelaxed);
    if (bytes == 0) continue;
    unsigned place = count;
    while (place != 0 && to[place - 1].bytes < bytes) --place;
    if (place == count_max) continue;
    if (count < count_max) ++count;
    for (unsigned at = count - 1; at > place; --at) to[at] = to[at - 1];
    copy_name(to[place].name, tags_[i].name);
    to[place].bytes = bytes;
  }
  return count;
}

void Budget::report(std::uint64_t requested_bytes, BudgetError* error) const noexcept {
  copy_name(error->label, label_);
  error->requested_bytes = requested_bytes;
  error->used_bytes = used_bytes();
  error->limit_bytes = limit_bytes();
  error->top_count = top(error->top, kBudgetTopMax);
}

}  // namespace glebe::paging
