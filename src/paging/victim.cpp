// The orders of victims; see victim.h.
#include "src/paging/victim.h"

#include <bit>

#include "platform/fault.h"
#include "src/base/bits.h"
#include "src/paging/own_memory.h"

namespace glebe::paging {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;  // hints: what is lost costs a page-in, nothing else

}  // namespace

bool VictimOrder::open(VictimKind kind, const Groups& groups,
                       std::size_t (*bytes_of)(std::uint64_t group)) noexcept {
  kind_ = kind;
  bytes_of_ = bytes_of;
  const bool has_words = kind == VictimKind::lru || kind == VictimKind::oldest || kind == VictimKind::s3_fifo;
  const std::uint64_t entries_bytes = has_words ? sizeof *words_ : groups.pages * sizeof *epochs_;
  if (!has_words && kind != VictimKind::clock) return true;
  table_bytes_ = align_up(groups.count * entries_bytes, os::page_bytes());
  table_ = map_own(table_bytes_);
  if (table_ == nullptr) return false;
  if (has_words) {
    words_ = static_cast<std::atomic<std::uint32_t>*>(table_);
  } else {
    epochs_ = static_cast<std::atomic<std::uint8_t>*>(table_);
  }
  return true;
}

void VictimOrder::note_gone(std::uint64_t page) noexcept {
  std::uint8_t now = epoch();
  if (epochs_ != nullptr) epochs_[page].store(now, kRelaxed);
  if (++gone_in_epoch_ * kEpochsOfResident < resident_) return;
  gone_in_epoch_ = 0;
  epoch_.store(now == UINT8_MAX ? 1 : ++now, kRelaxed);
}

void VictimOrder::note_moved_on(std::uint64_t page) noexcept {
  if (epochs_ != nullptr) epochs_[page].store(epoch(), kRelaxed);
}

bool VictimOrder::went_just_now(std::uint64_t page) const noexcept {
  if (epochs_ == nullptr) return false;
  return is_within(epochs_[page].load(kRelaxed), 1);
}

bool VictimOrder::went_lately(std::uint64_t page) const noexcept {
  return epochs_ != nullptr && is_lately(epochs_[page].load(kRelaxed));
}

void VictimOrder::note_use(std::uint64_t group, Return from) noexcept {
  if (words_ == nullptr || kind_ == VictimKind::oldest) return;
  std::atomic<std::uint32_t>& word = words_[group];
  if (kind_ == VictimKind::lru) return word.store(tick_.load(kRelaxed) + 1, kRelaxed);
  const std::uint32_t chances = word.load(kRelaxed);
  if (from != Return::fresh && chances < kChancesMax) word.store(chances + 1, kRelaxed);
}

bool VictimOrder::use_chance(std::atomic<std::uint32_t>& chances) const noexcept {
  const std::uint32_t left = chances.load(kRelaxed);
  if (left == 0) return false;
  chances.store(left - 1, kRelaxed);
  return true;
}

// In ticks. A group that is seen for the first time is new.
std::uint32_t VictimOrder::age_of(std::uint64_t group) const noexcept {
  const std::uint32_t now = tick_.load(kRelaxed), since = words_[group].load(kRelaxed);
  if (since != 0) return now - (since - 1);
  words_[group].store(now + 1, kRelaxed);
  return 0;
}

bool VictimOrder::may_go(std::uint64_t group) noexcept {
  if (kind_ == VictimKind::s3_fifo) return !use_chance(words_[group]);
  if (!is_ranked()) return true;
  const std::size_t value = kind_ == VictimKind::largest ? bytes_of_(group) : age_of(group);
  const unsigned rank = rank_of(value < UINT32_MAX ? static_cast<std::uint32_t>(value) : UINT32_MAX);
  if (rank >= limit_) return true;
  ++stayed_[rank];
  return false;
}

void VictimOrder::end_turn() noexcept {
  if (!is_ranked()) return;
  std::uint64_t total = 0;
  for (const std::uint64_t count : stayed_) total += count;
  // When nothing stayed, the next turn counts before anything goes.
  unsigned limit = kRanks;
  for (std::uint64_t released = 0; total != 0 && released * kShareOfTurn < total;)
    released += stayed_[--limit];
  limit_ = limit;
  for (std::uint64_t& count : stayed_) count = 0;
}

void VictimOrder::unlock_memory() const noexcept {
  if (table_ != nullptr) os::unlock_memory(table_, table_bytes_);
}

unsigned VictimOrder::rank_of(std::uint32_t value) noexcept {
  if (value < 4) return value;
  const auto doubling = static_cast<unsigned>(std::bit_width(value)) - 1;  // 2 and more
  return 4 * (doubling - 1) + (value >> (doubling - 2) & 3);
}

}  // namespace glebe::paging
