// Trigger policies: whether an item should leave its tier now (namespace glebe::paging).
//
// A trigger is asked twice. is_active() says whether anything may have to go at this pressure, so that a
// crawl ends as soon as its target is reached; wants() decides about one item. Pressure is use / limit in
// millionths (1'000'000 is full; 0 without a limit); age is epochs since the last use.
//
//   age           age > age_limit
//   pressure      pressure > start of the tier
//   conservative  age > 2 * age_limit and pressure > severe
//   hybrid        pressure > low_memory, or age > age_limit and pressure > start of the tier
//   watermark     from pressure > low_memory on, until pressure <= start of the tier
//
// Items in dynamic use (rewritten often) go only while the pressure is severe; that holds for every trigger.
// Pure functions of their arguments, except that a watermark remembers whether it has started: one object for
// each tier, and one thread at a time.
#pragma once

#include <concepts>
#include <cstdint>

namespace glebe::paging {

inline constexpr std::uint32_t kFullPressure = 1'000'000;

struct TriggerLimits {
  std::uint32_t age_limit = 20;          // epochs
  std::uint32_t host_start = 800'000;    // host items begin to leave
  std::uint32_t device_start = 500'000;  // device items begin to leave
  std::uint32_t low_memory = 900'000;
  std::uint32_t severe = 950'000;
};

struct TriggerInput {
  std::uint32_t age = 0;
  std::uint32_t pressure = 0;
  bool on_device = false;
  bool is_dynamic = false;
};

[[nodiscard]] constexpr std::uint32_t start_of(const TriggerLimits& limits, bool on_device) noexcept {
  return on_device ? limits.device_start : limits.host_start;
}

// Use / limit in millionths; what lies above the limit counts as twice full at most.
[[nodiscard]] constexpr std::uint32_t pressure_of(std::uint64_t used, std::uint64_t limit) noexcept {
  if (limit == 0 || limit == UINT64_MAX) return 0;
  if (used / 2 >= limit) return 2 * kFullPressure;
  // Both shifted until the product fits: 44 bits leave room for the factor.
  while (limit >> 43 != 0) {
    limit >>= 1;
    used >>= 1;
  }
  return static_cast<std::uint32_t>(used * kFullPressure / limit);
}

// The most that may be used at a pressure of `pressure`.
[[nodiscard]] constexpr std::uint64_t used_at(std::uint64_t limit, std::uint32_t pressure) noexcept {
  return limit / kFullPressure * pressure + limit % kFullPressure * pressure / kFullPressure;
}

template <typename T>
concept TriggerPolicy = requires(T trigger, const TriggerLimits& limits, const TriggerInput& input) {
  { trigger.is_active(limits, input) }
  noexcept->std::same_as<bool>;  // age and is_dynamic are not read
  { trigger.wants(limits, input) }
  noexcept->std::same_as<bool>;
};

[[nodiscard]] constexpr bool is_held_back(const TriggerLimits& limits, const TriggerInput& input) noexcept {
  return input.is_dynamic && input.pressure <= limits.severe;
}

struct AgeTrigger {
  bool is_active(const TriggerLimits&, const TriggerInput&) const noexcept { return true; }
  bool wants(const TriggerLimits& limits, const TriggerInput& input) const noexcept {
    return input.age > limits.age_limit && !is_held_back(limits, input);
  }
};

struct PressureTrigger {
  bool is_active(const TriggerLimits& limits, const TriggerInput& input) const noexcept {
    return input.pressure > start_of(limits, input.on_device);
  }
  bool wants(const TriggerLimits& limits, const TriggerInput& input) const noexcept {
    return is_active(limits, input) && !is_held_back(limits, input);
  }
};

struct ConservativeTrigger {
  bool is_active(const TriggerLimits& limits, const TriggerInput& input) const noexcept {
    return input.pressure > limits.severe;
  }
  bool wants(const TriggerLimits& limits, const TriggerInput& input) const noexcept {
    return is_active(limits, input) && input.age > std::uint64_t{2} * limits.age_limit;
  }
};

struct HybridTrigger {
  bool is_active(const TriggerLimits& limits, const TriggerInput& input) const noexcept {
    return input.pressure > limits.low_memory || input.pressure > start_of(limits, input.on_device);
  }
  bool wants(const TriggerLimits& limits, const TriggerInput& input) const noexcept {
    if (is_held_back(limits, input)) return false;
    if (input.pressure > limits.low_memory) return true;
    return input.age > limits.age_limit && input.pressure > start_of(limits, input.on_device);
  }
};

struct WatermarkTrigger {
  bool is_active(const TriggerLimits& limits, const TriggerInput& input) noexcept {
    if (input.pressure > limits.low_memory) is_started = true;
    if (input.pressure <= start_of(limits, input.on_device)) is_started = false;
    return is_started;
  }
  bool wants(const TriggerLimits& limits, const TriggerInput& input) noexcept {
    return is_active(limits, input) && !is_held_back(limits, input);
  }
  bool is_started = false;
};

static_assert(TriggerPolicy<AgeTrigger> && TriggerPolicy<PressureTrigger>);
static_assert(TriggerPolicy<ConservativeTrigger> && TriggerPolicy<HybridTrigger>);
static_assert(TriggerPolicy<WatermarkTrigger>);

enum class TriggerKind : std::uint8_t { age, pressure, conservative, hybrid, watermark };
inline constexpr unsigned kTriggerKinds = 5;

// One trigger, chosen at run time. Satisfies the concept.
class Trigger {
 public:
  explicit constexpr Trigger(TriggerKind kind) noexcept : kind_(kind) {}
  [[nodiscard]] TriggerKind kind() const noexcept { return kind_; }
  bool is_active(const TriggerLimits& limits, const TriggerInput& input) noexcept {
    return dispatch([&](auto& trigger) noexcept { return trigger.is_active(limits, input); });
  }
  bool wants(const TriggerLimits& limits, const TriggerInput& input) noexcept {
    return dispatch([&](auto& trigger) noexcept { return trigger.wants(limits, input); });
  }

 private:
  template <typename F>
  bool dispatch(F&& call) noexcept {
    switch (kind_) {
      case TriggerKind::age: {
        AgeTrigger trigger;
        return call(trigger);
      }
      case TriggerKind::pressure: {
        PressureTrigger trigger;
        return call(trigger);
      }
      case TriggerKind::conservative: {
        ConservativeTrigger trigger;
        return call(trigger);
      }
      case TriggerKind::hybrid: {
        HybridTrigger trigger;
        return call(trigger);
      }
      case TriggerKind::watermark:
        break;
    }
    return call(watermark_);
  }

  TriggerKind kind_;
  WatermarkTrigger watermark_;
};

static_assert(TriggerPolicy<Trigger>);

}  // namespace glebe::paging
