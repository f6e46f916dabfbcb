// Calls that fail on demand; see failing.h. The counters are relaxed: they order nothing but themselves.
#include "platform/cuda/failing.h"

namespace glebe::os::cuda {

template <Call kCall, auto kMember, class... Arguments>
struct FailingCall<kCall, kMember, Result(Arguments...)> {
  static Result call(void* self, Arguments... arguments) noexcept {
    auto& failing = *static_cast<FailingDriver*>(self);
    const Result result = failing.count_call(kCall);
    return result != Result::success ? result : (failing.inner_.*kMember)(arguments...);
  }
};

Driver FailingDriver::driver() noexcept {
  Driver driver;
#define GPU_CALL(name, symbol, version, ...) \
  driver.name = {this, FailingCall<Call::name, &Driver::name, __VA_ARGS__>::call};
#include "platform/cuda/driver.def"
#undef GPU_CALL
  return driver;
}

Result FailingDriver::count_call(Call call) noexcept {
  Counter& counter = counters_[static_cast<unsigned>(call)];
  const std::uint64_t number = counter.calls.fetch_add(1, std::memory_order_relaxed) + 1;
  if (number < counter.first.load(std::memory_order_relaxed)) return Result::success;
  if (number >= counter.end.load(std::memory_order_relaxed)) return Result::success;
  counter.failures.fetch_add(1, std::memory_order_relaxed);
  return counter.result.load(std::memory_order_relaxed);
}

void FailingDriver::fail(const Plan& plan) noexcept {
  Counter& counter = counters_[static_cast<unsigned>(plan.call)];
  const std::uint64_t first = counter.calls.load(std::memory_order_relaxed) + plan.nth;
  counter.end.store(0, std::memory_order_relaxed);
  counter.result.store(plan.result, std::memory_order_relaxed);
  counter.first.store(first, std::memory_order_relaxed);
  counter.end.store(first + plan.count, std::memory_order_relaxed);
}

void FailingDriver::stop_failing() noexcept {
  for (Counter& counter : counters_) counter.end.store(0, std::memory_order_relaxed);
}

std::uint64_t FailingDriver::calls(Call call) const noexcept {
  return counters_[static_cast<unsigned>(call)].calls.load(std::memory_order_relaxed);
}

std::uint64_t FailingDriver::failures(Call call) const noexcept {
  return counters_[static_cast<unsigned>(call)].failures.load(std::memory_order_relaxed);
}

}  // namespace glebe::os::cuda
