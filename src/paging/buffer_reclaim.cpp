// Who leaves: budgets of memory, victims, crawling; see buffer_pager.h.
#include <new>

#include "platform/service.h"
#include "src/base/bits.h"
#include "src/base/check.h"
#include "src/paging/buffer_use.h"

namespace glebe::paging {
namespace {

constexpr unsigned kChargeRounds = 1000;
constexpr std::uint64_t kReleaseWaitNs = 20'000'000;
constexpr std::uint64_t kBatchLeaveBytes = kMiB;  // what leaves at a time, so that files get large writes

}  // namespace

// Charges memory of the host or the device, and makes room by moving others out when it does not fit.
Result BufferPager::charge(Tier tier, const Buffer& buffer, std::uint64_t needed) noexcept {
  const Result result = charge_or_reclaim(tier, buffer, needed);
  if (crawler_running_.load(std::memory_order_relaxed) != 0) watch_pressure(tier);
  return result;
}

Result BufferPager::charge_or_reclaim(Tier tier, const Buffer& buffer, std::uint64_t needed) noexcept {
  Budget& budget = budget_of(tier);
  const BudgetTag tag = buffer.tags[static_cast<unsigned>(tier)];
  for (unsigned round = 0; round < kChargeRounds; ++round) {
    const std::uint32_t seen = released_.sequence.load(std::memory_order_seq_cst);
    if (budget.try_charge(tag, needed)) return Result::ok;
    if (needed > budget.limit_bytes()) break;
    if (reclaim_tier(tier, needed) != 0) continue;
    if (budget.try_charge(tag, needed)) return Result::ok;
    // What others are moving out will come free; with nothing on its way there is nothing to wait for.
    released_.waiters.fetch_add(1, std::memory_order_seq_cst);
    const bool will_come = leaving_.load(std::memory_order_seq_cst) != 0;
    if (will_come) os::wait_on(released_.sequence, seen, kReleaseWaitNs);
    released_.waiters.fetch_sub(1, std::memory_order_relaxed);
    if (!will_come && released_.sequence.load(std::memory_order_seq_cst) == seen) break;
  }
  return budget.charge(tag, needed, nullptr) == BudgetResult::ok ? Result::ok : Result::over_budget;
}

void BufferPager::discharge(Tier tier, const Buffer& buffer, std::uint64_t bytes) noexcept {
  const BudgetTag tag = buffer.tags[static_cast<unsigned>(tier)];
  CHECK(budget_of(tier).discharge(tag, bytes) == BudgetResult::ok);
  if (crawler_running_.load(std::memory_order_relaxed) != 0) watch_pressure(tier);
}

void BufferPager::queue_victim(Extent& extent) noexcept {
  const os::Lock hold(victims_lock_);
  const Residency state = extent.load();
  const bool may_go = extent.buffer->usage != Usage::fixed;
  const auto align = [&](Victims& victims, VictimItem& item, Tier tier) noexcept {
    const bool belongs = may_go && state.has(tier);
    if (item.is_held || belongs == item.is_queued()) return;
    if (belongs) use_log(tier).drain(victims);  // what was used before goes before it
    belongs ? victims.insert(&item) : victims.remove(&item);
  };
  align(*host_victims_, extent.item(Tier::host), Tier::host);
  align(*device_victims_, extent.item(Tier::device), Tier::device);
}

void BufferPager::dequeue_victim(Extent& extent) noexcept {
  const os::Lock hold(victims_lock_);
  if (extent.item(Tier::host).is_queued()) host_victims_->remove(&extent.item(Tier::host));
  if (extent.item(Tier::device).is_queued()) device_victims_->remove(&extent.item(Tier::device));
}

// Takes up to `count_max` extents of the tier in the order of the policy, as long as `bytes` did not come
// free, and evicts those that the trigger wants (all of them when there is no input). What stays is in
// sweep.held until settle() puts it back in its place.
void BufferPager::evict_some(Sweep& sweep, std::uint64_t bytes, unsigned count_max,
                             TriggerInput* input) noexcept {
  struct Context {
    BufferPager& pager;
    Tier tier;
  } context{*this, sweep.tier};
  const Acceptor acceptor{[](void* raw, VictimItem* item) noexcept {
                            const Context& own = *static_cast<Context*>(raw);
                            Extent& extent = Extent::of(item, own.tier);
                            const Residency state = extent.load();
                            if (state.flight != Flight::none || state.is_pinned(own.tier)) return false;
                            return own.pager.hold(*extent.buffer, kAnyGeneration);
                          },
                          &context};
  Victims& victims = victims_of(sweep.tier);
  Mover mover(*this);
  mover.set_fallback(true);
  std::uint64_t promised = 0;
  sweep.looked = 0;
  while (sweep.looked < count_max && promised < bytes) {
    VictimItem* item = nullptr;
    {
      const os::Lock hold(victims_lock_);
      use_log(sweep.tier).drain(victims);
      item = victims.take(acceptor);
      if (item != nullptr) item->is_held = true;
    }
    if (item == nullptr) break;
    ++sweep.looked;
    sweep.held.push_back(item);
    Extent& extent = Extent::of(item, sweep.tier);
    if (input != nullptr) {
      input->age = epoch() - item->last_use.load(std::memory_order_relaxed);
      input->is_dynamic = extent.buffer->usage == Usage::dynamic_use;
      const os::Lock hold(trigger_lock_);
      if (!trigger_of(sweep.tier).wants(options_.limits, *input)) continue;
    }
    Refusal refusal = Refusal::none;
    const Result result = mover.move(extent, {Operation::evict, sweep.tier}, nullptr, &refusal);
    if (result == Result::ok && refusal == Refusal::none) promised += extent.memory_bytes;
  }
  static_cast<void>(mover.flush());
  sweep.freed_bytes += mover.freed_bytes();
  settle(sweep, false);
}

// Lets go of what left; with `all`, puts the rest back as well, the last one taken first.
void BufferPager::settle(Sweep& sweep, bool all) noexcept {
  Victims& victims = victims_of(sweep.tier);
  VictimItem* before = nullptr;
  for (VictimItem* item = sweep.held.last(); item != nullptr; item = before) {
    before = VictimList::previous(item);
    Extent& extent = Extent::of(item, sweep.tier);
    {
      const os::Lock hold(victims_lock_);
      const bool stays = extent.load().has(sweep.tier) && extent.buffer->usage != Usage::fixed;
      if (stays && !all) continue;
      sweep.held.remove(item);
      item->is_held = false;
      if (stays) victims.put_back(item);
      if (!stays) count(kEvictions);
    }
    let_go(*extent.buffer);
  }
}

std::size_t BufferPager::reclaim_tier(Tier tier, std::uint64_t bytes) noexcept {
  const Budget& budget = tier == Tier::host ? host_budget_ : device_budget_;
  std::uint64_t least = budget.limit_bytes() / 16;
  if (least > kBatchLeaveBytes) least = kBatchLeaveBytes;
  if (bytes < least) bytes = least;
  Sweep sweep;
  sweep.tier = tier;
  while (sweep.freed_bytes < bytes) {
    const std::uint64_t before = sweep.freed_bytes;
    const std::uint64_t rest = bytes - before;
    evict_some(sweep, rest < kBatchLeaveBytes ? rest : kBatchLeaveBytes, kBatchObjectsMax, nullptr);
    if (sweep.freed_bytes == before) break;
  }
  settle(sweep, true);
  return sweep.freed_bytes;
}

std::size_t BufferPager::reclaim(std::uint64_t bytes) noexcept {
  return is_in_child() ? 0 : reclaim_tier(Tier::host, bytes);
}

std::size_t BufferPager::crawl(unsigned percent) noexcept {
  if (is_in_child() || percent == 0) return 0;
  if (percent > 100) percent = 100;
  count(kCrawls);
  std::size_t freed = 0;
  for (const Tier tier : {Tier::host, Tier::device}) {
    std::size_t resident = 0;
    {
      const os::Lock hold(victims_lock_);
      resident = victims_of(tier).count();
    }
    std::size_t left = divide_up(resident * percent, 100);
    if (left < kCrawlExtentsMin) left = kCrawlExtentsMin;
    if (left > resident) left = resident;
    freed += crawl_tier(tier, left);
  }
  return freed;
}

// Looks at `left` extents of the tier, a group at a time: the pressure is read again before each group.
std::size_t BufferPager::crawl_tier(Tier tier, std::size_t left) noexcept {
  const Budget& budget = tier == Tier::host ? host_budget_ : device_budget_;
  Sweep sweep;
  sweep.tier = tier;
  while (left != 0) {
    TriggerInput input;
    input.on_device = tier == Tier::device;
    input.pressure = pressure(tier);
    {
      const os::Lock hold(trigger_lock_);
      if (!trigger_of(tier).is_active(options_.limits, input)) break;
    }
    // Not more at a time than leads to the target, so that the decision is made again there.
    const std::uint64_t used = budget.used_bytes();
    const std::uint64_t target = used_at(budget.limit_bytes(), start_of(options_.limits, input.on_device));
    std::uint64_t bytes = used > target ? used - target : kBatchLeaveBytes;
    if (bytes > kBatchLeaveBytes) bytes = kBatchLeaveBytes;
    evict_some(sweep, bytes, static_cast<unsigned>(left < kBatchObjectsMax ? left : kBatchObjectsMax),
               &input);
    if (sweep.looked == 0) break;
    count(kCrawledExtents, sweep.looked);
    left -= sweep.looked;
  }
  settle(sweep, true);
  return sweep.freed_bytes;
}

std::uint32_t BufferPager::pressure(Tier tier) noexcept {
  switch (tier) {
    case Tier::host: {
      const std::uint32_t own = pressure_of(host_budget_.used_bytes(), host_budget_.limit_bytes());
      const std::uint32_t system = options_.watch_system ? monitor_.pressure() : 0;
      return own > system ? own : system;
    }
    case Tier::device:
      return pressure_of(device_budget_.used_bytes(), device_budget_.limit_bytes());
    case Tier::compressed:
      return pressure_of(store_.compressed_bytes(), compressed_limit_.load(std::memory_order_relaxed));
    case Tier::file:
      break;
  }
  return pressure_of(file_budget_.used_bytes(), file_budget_.limit_bytes());
}

Result BufferPager::set_compressed_limit(std::uint64_t bytes) noexcept {
  if (is_in_child()) return Result::in_child;
  if (bytes == 0) return Result::bad_argument;
  if (!has_tier(Tier::compressed)) return Result::no_tier;
  compressed_limit_.store(bytes, std::memory_order_relaxed);
  CHECK(compressed_budget_.set_limit(bytes) == BudgetResult::ok);
  store_.set_compressed_limit(bytes);
  return Result::ok;
}

}  // namespace glebe::paging
