// The crawler: a thread that moves out what the trigger wants, so that others find room; see buffer_pager.h.
//
// It crawls when its interval is over and, without waiting for that, when the use of a budget rises over one
// of the three marks of the trigger: start of the tier, low memory, severe. Crossing a mark wakes it once.
// Then it crawls until use is below all marks or nothing more goes, and remembers the highest mark that is
// still passed: what is left there is pinned, young or in dynamic use, and crawling again is for the timer,
// or for the next mark. The marks are of the budgets; what the machine says (watch_system) is for the timer
// alone.
#include "platform/process.h"
#include "platform/service.h"
#include "src/paging/buffer_pager.h"

namespace glebe::paging {
namespace {

constexpr std::uint64_t kNsPerMs = 1'000'000;
constexpr std::uint64_t kEndWaitNs = 20'000'000;
constexpr unsigned kCrawlsMax = 1000;  // in a row, each of which freed something

}  // namespace

// How many marks the budget of the tier has passed.
unsigned BufferPager::passed_marks(Tier tier) noexcept {
  const Budget& budget = budget_of(tier);
  const std::uint32_t now = pressure_of(budget.used_bytes(), budget.limit_bytes());
  const TriggerLimits& limits = options_.limits;
  return (now > start_of(limits, tier == Tier::device) ? 1u : 0u) + (now > limits.low_memory ? 1u : 0u) +
         (now > limits.severe ? 1u : 0u);
}

// After a charge: wakes the crawler when a mark was passed that it does not know of. After a discharge: so
// that passing the mark again counts.
void BufferPager::watch_pressure(Tier tier) noexcept {
  if (tier != Tier::host && tier != Tier::device) return;
  // Either this sees the marks that the crawler has stored, or the crawler, which looks once more after it
  // has stored them, sees the charge: sequentially consistent fences on both sides.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  std::atomic<unsigned>& known = known_marks_[tier == Tier::host ? 0 : 1];
  const unsigned before = known.load(std::memory_order_relaxed), now = passed_marks(tier);
  if (now == before) return;
  known.store(now, std::memory_order_relaxed);
  if (now < before || crawler_is_urgent_.exchange(true, std::memory_order_acq_rel)) return;
  wake_crawler();
}

void BufferPager::wake_crawler() noexcept {
  crawler_word_.fetch_add(2, std::memory_order_release);
  os::wake_all(crawler_word_);
}

// Until no mark is passed, or what is left does not go.
void BufferPager::crawl_until_calm() noexcept {
  for (unsigned crawls = 0; crawls < kCrawlsMax; ++crawls) {
    const std::size_t freed = crawl(crawler_percent_.load(std::memory_order_relaxed));
    bool has_risen = false, is_calm = true;
    for (const Tier tier : {Tier::host, Tier::device}) {
      std::atomic<unsigned>& known = known_marks_[tier == Tier::host ? 0 : 1];
      const unsigned seen = passed_marks(tier);
      known.store(seen, std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_seq_cst);  // see watch_pressure()
      has_risen = has_risen || passed_marks(tier) > seen;
      is_calm = is_calm && seen == 0;
    }
    const bool has_to_end = (crawler_word_.load(std::memory_order_relaxed) & 1) != 0;
    if (has_to_end || (!has_risen && (is_calm || freed == 0))) return;
  }
}

Result BufferPager::start_crawler(unsigned interval_ms, unsigned percent) noexcept {
  if (is_in_child()) return Result::in_child;
  if (interval_ms == 0 || percent == 0 || percent > 100) return Result::bad_argument;
  const os::Lock hold(crawler_lock_);
  crawler_interval_ms_.store(interval_ms, std::memory_order_relaxed);
  crawler_percent_.store(percent, std::memory_order_relaxed);
  if (crawler_running_.load(std::memory_order_acquire) != 0) {
    wake_crawler();  // a new interval counts from now
    return Result::ok;
  }
  crawler_word_.store(0, std::memory_order_relaxed);
  for (std::atomic<unsigned>& known : known_marks_) known.store(0, std::memory_order_relaxed);
  crawler_is_urgent_.store(false, std::memory_order_relaxed);
  crawler_running_.store(1, std::memory_order_seq_cst);
  const auto enter = [](void* self) noexcept { static_cast<BufferPager*>(self)->run_crawler(); };
  if (!os::start_service_thread(enter, this, "glebe-crawler")) {
    crawler_running_.store(0, std::memory_order_relaxed);
    return Result::no_memory;
  }
  for (const Tier tier : {Tier::host, Tier::device}) watch_pressure(tier);  // what was used before
  return Result::ok;
}

void BufferPager::run_crawler() noexcept {
  for (;;) {
    const std::uint32_t word = crawler_word_.load(std::memory_order_acquire);
    if ((word & 1) != 0) break;
    // Acquire pairs with the exchange in watch_pressure().
    if (crawler_is_urgent_.exchange(false, std::memory_order_acq_rel)) {
      crawl_until_calm();
      continue;
    }
    os::wait_on(crawler_word_, word, crawler_interval_ms_.load(std::memory_order_relaxed) * kNsPerMs);
    if (crawler_word_.load(std::memory_order_acquire) != word) continue;
    crawl(crawler_percent_.load(std::memory_order_relaxed));
  }
  // The last access: whoever waits may take the pager's memory away from here on, waking needs only the
  // address.
  crawler_running_.store(0, std::memory_order_release);
  os::wake_all(crawler_running_);
}

void BufferPager::stop_crawler() noexcept {
  if (is_in_child()) return;
  const os::Lock hold(crawler_lock_);
  if (crawler_running_.load(std::memory_order_acquire) == 0) return;
  crawler_word_.fetch_or(1, std::memory_order_release);
  os::wake_all(crawler_word_);
  while (crawler_running_.load(std::memory_order_acquire) != 0) {
    os::wait_on(crawler_running_, 1, kEndWaitNs);
  }
}

}  // namespace glebe::paging
