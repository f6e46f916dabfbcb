// The state of the machine, sampled; see monitor.h.
#include "src/paging/monitor.h"

#include "platform/pressure.h"
#include "platform/process.h"
#include "src/paging/trigger.h"

namespace glebe::paging {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::uint32_t kStalledTooLong = kFullPressure / 10;  // of the last ten seconds

}  // namespace

SystemMonitor::Sample SystemMonitor::sample() noexcept {
  const std::uint64_t now = os::clock_coarse_ms() + 1;  // never 0
  std::uint64_t taken = taken_ms_.load(kRelaxed);
  // One thread reads, the others use what was there.
  if ((taken == 0 || now - taken >= kSampleMs) && taken_ms_.compare_exchange_strong(taken, now, kRelaxed)) {
    const os::MemoryPressure system = os::memory_pressure();
    resident_.store(os::process_memory().resident, kRelaxed);
    const bool has_group = system.group_used != 0 && system.group_limit != SIZE_MAX;
    // Without a limited group the machine is what can become full.
    group_.store(has_group ? system.group_used : system.machine_total - system.machine_available, kRelaxed);
    limit_.store(has_group ? system.group_limit : system.machine_total, kRelaxed);
    stalled_.store(system.stalled, kRelaxed);
  }
  return {resident_.load(kRelaxed), group_.load(kRelaxed), limit_.load(kRelaxed), stalled_.load(kRelaxed)};
}

std::uint32_t SystemMonitor::pressure() noexcept {
  const Sample now = sample();
  const std::uint32_t full = pressure_of(now.group_bytes, now.group_limit_bytes);
  const std::uint32_t stalled = now.stalled > kStalledTooLong ? TriggerLimits{}.severe + 1 : 0;
  return full > stalled ? full : stalled;
}

}  // namespace glebe::paging
