// A driver whose calls fail on demand, in front of any other (namespace glebe::os::cuda).
//
// The n-th call of a name from now on answers with a given result and never reaches the driver behind it.
// With it a test proves that whatever makes several calls undoes the first ones when a later one fails; it
// works in front of the real driver too. Thread-safe: calls are counted in the order in which they arrive.
#pragma once

#include <atomic>
#include <cstdint>

#include "platform/cuda/driver.h"

namespace glebe::os::cuda {

template <Call kCall, auto kMember, class Signature>
struct FailingCall;

class FailingDriver {
 public:
  // `inner` is copied; what it works on, and this object, outlive every use of driver().
  explicit FailingDriver(const Driver& inner) noexcept : inner_(inner) {}
  FailingDriver(const FailingDriver&) = delete;
  FailingDriver& operator=(const FailingDriver&) = delete;

  [[nodiscard]] Driver driver() noexcept;

  // From now on the `nth` call (1 is the next one) and the `count` - 1 after it fail with `result`. One plan
  // for each entry: a new one replaces the old one. Not while other threads call the same entry.
  struct Plan {
    Call call;
    std::uint64_t nth = 1;
    std::uint64_t count = 1;
    Result result = Result::out_of_memory;
  };
  void fail(const Plan& plan) noexcept;
  void stop_failing() noexcept;  // forgets all plans

  // How often the entry was called, and how many of these calls were made to fail.
  [[nodiscard]] std::uint64_t calls(Call call) const noexcept;
  [[nodiscard]] std::uint64_t failures(Call call) const noexcept;

 private:
  template <Call kCall, auto kMember, class Signature>
  friend struct FailingCall;

  struct Counter {
    std::atomic<std::uint64_t> calls{0}, failures{0};
    std::atomic<std::uint64_t> first{0}, end{0};  // calls [first, end), counted from 1, fail
    std::atomic<Result> result{Result::success};
  };
  // The result to fail with, or success: go on.
  [[nodiscard]] Result count_call(Call call) noexcept;

  Driver inner_;
  Counter counters_[kCallCount];
};

}  // namespace glebe::os::cuda
