// The residency machine; see residency.h. Pure functions.
#include "src/paging/residency.h"

namespace glebe::paging {
namespace {

constexpr std::uint8_t bits(unsigned value) noexcept { return static_cast<std::uint8_t>(value); }

constexpr bool is_memory(Tier tier) noexcept { return tier == Tier::host || tier == Tier::device; }
constexpr bool is_only(const Residency& state, Tier tier) noexcept { return state.valid == bit_of(tier); }

// Where bytes come from, the cheapest first. There is a valid copy.
Tier source_of(const Residency& state, Tier to) noexcept {
  // What is compressed already goes to the file as it is.
  if (to == Tier::file && state.has(Tier::compressed)) return Tier::compressed;
  if (state.has(Tier::host)) return Tier::host;
  if (state.has(Tier::device)) return Tier::device;
  return state.has(Tier::compressed) ? Tier::compressed : Tier::file;
}

Plan refuse(const Residency& state, Refusal refusal) noexcept {
  Plan result;
  result.refusal = refusal;
  result.after = state;
  return result;
}

// Makes `tier` valid. A copy that is being written elsewhere cannot be read.
Plan fetch(const Residency& state, Tier tier) noexcept {
  Plan result;
  result.after = state;
  result.to = tier;
  if (state.has(tier)) return result;
  if (state.valid == 0) {
    if (!is_memory(tier)) return result;  // nothing was ever written: nothing to store
    result.fills = true;
  } else {
    result.from = source_of(state, tier);
    if (result.from == Tier::host && state.host_writers != 0) return refuse(state, Refusal::pinned);
    if (result.from == Tier::device && state.device_writers != 0) return refuse(state, Refusal::pinned);
    if (!is_memory(result.from) && state.failed) return refuse(state, Refusal::failed);
    result.copies = true;
  }
  result.after.valid = bits(state.valid | bit_of(tier));
  result.after.dirty = Owner::none;
  return result;
}

// Gives up `drops` at the end of a plan; refused when one of them is pinned.
Plan give_up(Plan plan, const Residency& state, std::uint8_t drops) noexcept {
  drops = bits(drops & plan.after.valid);
  if ((drops & state.pinned()) != 0) return refuse(state, Refusal::pinned);
  plan.drops = drops;
  plan.after.valid = bits(plan.after.valid & ~unsigned{drops});
  return plan;
}

Plan write(const Residency& state, Tier tier) noexcept {
  Plan result = fetch(state, tier);
  if (result.refusal != Refusal::none) return result;
  result = give_up(result, state, bits(result.after.valid & ~unsigned{bit_of(tier)}));
  if (result.refusal == Refusal::none) result.after.dirty = tier == Tier::host ? Owner::host : Owner::device;
  return result;
}

Plan swap_to(const Residency& state, Tier tier) noexcept {
  if ((state.pinned() & ~unsigned{bit_of(tier)}) != 0) return refuse(state, Refusal::pinned);
  Plan result = fetch(state, tier);
  if (result.refusal != Refusal::none || !result.after.has(tier)) return result;
  return give_up(result, state, bits(result.after.valid & ~unsigned{bit_of(tier)}));
}

Plan evict(const Residency& state, Tier tier, Tier spill) noexcept {
  if (!state.has(tier)) return refuse(state, Refusal::none);
  if (state.is_pinned(tier)) return refuse(state, Refusal::pinned);
  if (is_only(state, tier) && spill == tier) return refuse(state, Refusal::last_copy);
  Plan result = refuse(state, Refusal::none);
  if (is_only(state, tier)) result = fetch(state, spill);
  if (result.refusal != Refusal::none) return result;
  return give_up(result, state, bit_of(tier));
}

Plan invalidate(const Residency& state, Tier tier) noexcept {
  Plan result = refuse(state, Refusal::none);
  if (!state.has(tier)) return result;
  if (is_only(state, tier)) return refuse(state, Refusal::last_copy);
  return give_up(result, state, bit_of(tier));
}

Plan synchronise(const Residency& state) noexcept {
  if (state.has(Tier::host)) return fetch(state, Tier::device);
  if (state.has(Tier::device)) return fetch(state, Tier::host);
  return refuse(state, Refusal::none);
}

Plan discard(const Residency& state) noexcept {
  Plan result = give_up(refuse(state, Refusal::none), state, state.valid);
  if (result.refusal != Refusal::none) return result;
  result.after.dirty = Owner::none;
  result.after.failed = false;
  return result;
}

}  // namespace

bool is_legal(const Residency& state) noexcept {
  if (state.dirty == Owner::host && !is_only(state, Tier::host)) return false;
  if (state.dirty == Owner::device && !is_only(state, Tier::device)) return false;
  if ((state.pinned() & ~unsigned{state.valid}) != 0) return false;
  if (state.host_writers != 0 && state.dirty != Owner::host) return false;
  if (state.device_writers != 0 && state.dirty != Owner::device) return false;
  // A flight that was spoiled left a dirty copy behind.
  return state.flight != Flight::spoiled || state.dirty != Owner::none;
}

Plan plan(const Residency& state, Operation operation, Tier tier, Tier spill) noexcept {
  if (state.flight != Flight::none) return refuse(state, Refusal::busy);
  const bool needs_memory = operation == Operation::read || operation == Operation::write;
  if (needs_memory && !is_memory(tier)) return refuse(state, Refusal::wrong_tier);
  switch (operation) {
    case Operation::read:
    case Operation::page_to:
      return fetch(state, tier);
    case Operation::write:
      return write(state, tier);
    case Operation::swap_to:
      return swap_to(state, tier);
    case Operation::evict:
      return evict(state, tier, spill);
    case Operation::invalidate:
      return invalidate(state, tier);
    case Operation::synchronise:
      return synchronise(state);
    case Operation::discard:
      break;
  }
  return discard(state);
}

Landing land(const Residency& now, const Plan& plan) noexcept {
  Landing result;
  result.after = now;
  result.after.flight = Flight::none;
  if (now.flight == Flight::spoiled) {
    result.is_spoiled = true;
    return result;
  }
  if (plan.copies || plan.fills) {
    result.after.valid = bits(now.valid | bit_of(plan.to));
    result.after.dirty = Owner::none;
  }
  result.drops = bits(plan.drops & result.after.valid & ~unsigned{now.pinned()});
  result.after.valid = bits(result.after.valid & ~unsigned{result.drops});
  if (plan.after.dirty != Owner::none && (result.after.valid & (result.after.valid - 1)) == 0) {
    result.after.dirty = plan.after.dirty;
  }
  if (plan.after.valid == 0 && result.after.valid == 0) {
    result.after.dirty = Owner::none;
    result.after.failed = false;
  }
  if (result.drops != 0) result.after.flight = Flight::drop;
  return result;
}

}  // namespace glebe::paging
