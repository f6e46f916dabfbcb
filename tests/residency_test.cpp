// The residency machine: every pair of state and operation, the invariants over all states, and random walks
// of plans that are carried out on a model of copies, where each copy knows which write it holds.
#include <cstdint>

#include "src/paging/residency_word.h"

#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe::paging;

namespace {

constexpr std::uint8_t H = bit_of(Tier::host), Z = bit_of(Tier::compressed), D = bit_of(Tier::device),
                       F = bit_of(Tier::file);

Residency state_of(unsigned valid, Owner dirty = Owner::none) {
  Residency state;
  state.valid = static_cast<std::uint8_t>(valid);
  state.dirty = dirty;
  return state;
}

// Copies of one extent: which version of the content each tier holds. A version is a write; 0 is zero bytes.
struct Model {
  unsigned version[kTiers] = {};
  unsigned latest = 0;
};

// What begins as `state` and goes through without anybody in between.
Residency carry_out(const Residency& state, const Plan& plan, Model* model) {
  if (plan.copies) {
    model->version[static_cast<unsigned>(plan.to)] = model->version[static_cast<unsigned>(plan.from)];
  }
  if (plan.fills) {
    model->version[static_cast<unsigned>(plan.to)] = 0;
  }
  Residency flying = state;
  flying.flight = Flight::copy;
  Landing landing = land(flying, plan);
  landing.after.flight = Flight::none;
  return landing.after;
}

struct Row {
  const char* name;
  unsigned valid;
  Owner dirty;
};
// The states of the table of the design; "Disk" once for each kind of store.
constexpr Row kStates[] = {{"Unbacked", 0, Owner::none},   {"HostOnly", H, Owner::none},
                           {"DeviceOnly", D, Owner::none}, {"Synchronized", H | D, Owner::none},
                           {"HostDirty", H, Owner::host},  {"DeviceDirty", D, Owner::device},
                           {"Disk", F, Owner::none},       {"Compressed", Z, Owner::none}};
constexpr unsigned kStateCount = 8;

struct Column {
  const char* name;
  Operation operation;
  Tier tier;
  // For each state: the valid bits afterwards, or one of the marks.
  unsigned after[kStateCount];
};
constexpr unsigned kLast = 100;  // refused: the last copy

constexpr Column kTable[] = {
    {"ensure host", Operation::read, Tier::host, {H, H, H | D, H | D, H, H | D, H | F, H | Z}},
    {"ensure device", Operation::read, Tier::device, {D, H | D, D, H | D, H | D, D, D | F, D | Z}},
    {"write host", Operation::write, Tier::host, {H, H, H, H, H, H, H, H}},
    {"write device", Operation::write, Tier::device, {D, D, D, D, D, D, D, D}},
    {"invalidate host", Operation::invalidate, Tier::host, {0, kLast, D, D, kLast, D, F, Z}},
    {"invalidate device", Operation::invalidate, Tier::device, {0, H, kLast, H, H, kLast, F, Z}},
    {"synchronise", Operation::synchronise, Tier::host, {0, H | D, H | D, H | D, H | D, H | D, F, Z}},
    {"page to disk", Operation::page_to, Tier::file, {0, H | F, D | F, H | D | F, H | F, D | F, F, Z | F}},
    {"page to compressed",
     Operation::page_to,
     Tier::compressed,
     {0, H | Z, D | Z, H | D | Z, H | Z, D | Z, F | Z, Z}},
    {"swap to disk", Operation::swap_to, Tier::file, {0, F, F, F, F, F, F, F}},
    {"swap to compressed", Operation::swap_to, Tier::compressed, {0, Z, Z, Z, Z, Z, Z, Z}},
    {"swap to host", Operation::swap_to, Tier::host, {H, H, H, H, H, H, H, H}},
    {"swap to device", Operation::swap_to, Tier::device, {D, D, D, D, D, D, D, D}},
    {"evict host", Operation::evict, Tier::host, {0, F, D, D, F, D, F, Z}},
    {"evict device", Operation::evict, Tier::device, {0, H, F, H, H, F, F, Z}},
    {"release", Operation::discard, Tier::host, {0, 0, 0, 0, 0, 0, 0, 0}},
};

// What the invariants say of an operation that was not refused, whatever it was.
void expect_invariants(Expect& expect, const Residency& before, const Residency& after, Operation operation) {
  expect(after.valid != 0 || before.valid == 0 || operation == Operation::discard);
  expect(after.dirty != Owner::host || after.valid == H);
  expect(after.dirty != Owner::device || after.valid == D);
  expect((before.pinned() & ~unsigned{after.valid}) == 0);
  expect(is_legal(after));
}

// Calls act(state) for each legal state with nothing in flight and no more than one pin of a kind.
template <class Act>
void for_each_state(Act act) {
  for (unsigned number = 0; number < 16 * 3 * 2 * 16; ++number) {
    Residency state = state_of(number % 16, static_cast<Owner>(number / 16 % 3));
    state.failed = number / 48 % 2 != 0;
    const unsigned pins = number / 96;
    state.host_readers = pins & 1;
    state.host_writers = pins >> 1 & 1;
    state.device_readers = pins >> 2 & 1;
    state.device_writers = pins >> 3 & 1;
    if (is_legal(state)) act(state);
  }
}

}  // namespace

TEST_CASE("B2 B5 B9 the invariants hold after every operation in every legal state", "[paging]") {
  Expect expect;
  unsigned carried_out = 0, refused = 0;
  for_each_state([&](const Residency& state) {
    for (unsigned number = 0; number < kOperations * kTiers * 2; ++number) {
      const auto operation = static_cast<Operation>(number % kOperations);
      const auto tier = static_cast<Tier>(number / kOperations % kTiers);
      const Tier spill = number / kOperations / kTiers == 0 ? Tier::file : Tier::compressed;
      const Plan result = plan(state, operation, tier, spill);
      ++(result.refusal == Refusal::none ? carried_out : refused);
      if (result.refusal != Refusal::none) {
        expect(result.after == state);
        continue;
      }
      expect_invariants(expect, state, result.after, operation);
      Model model;
      if (!result.is_nothing()) expect_invariants(expect, state, carry_out(state, result, &model), operation);
    }
  });
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(carried_out > 1000);
  REQUIRE(refused > 1000);
}

TEST_CASE("B2 every state and operation has the result of the table", "[paging]") {
  for (const Column& column : kTable) {
    for (unsigned i = 0; i < kStateCount; ++i) {
      INFO(kStates[i].name << ", " << column.name);
      const Residency state = state_of(kStates[i].valid, kStates[i].dirty);
      const Plan result = plan(state, column.operation, column.tier, Tier::file);
      if (column.after[i] == kLast) {
        REQUIRE(result.refusal == Refusal::last_copy);
        REQUIRE(result.after == state);
        continue;
      }
      REQUIRE(result.refusal == Refusal::none);
      REQUIRE(unsigned{result.after.valid} == column.after[i]);
      REQUIRE(is_legal(result.after));
      Model model;
      const Residency after = carry_out(state, result, &model);
      if (!result.is_nothing()) REQUIRE(unsigned{after.valid} == column.after[i]);
      REQUIRE(is_legal(after));
    }
  }
}

TEST_CASE("B2 reading and writing have a meaning in memory alone", "[paging]") {
  for (const Tier tier : {Tier::compressed, Tier::file}) {
    REQUIRE(plan(state_of(H), Operation::read, tier, Tier::file).refusal == Refusal::wrong_tier);
    REQUIRE(plan(state_of(H), Operation::write, tier, Tier::file).refusal == Refusal::wrong_tier);
  }
}

TEST_CASE("B3 mut-A08 asking twice moves bytes once, and a clean copy is not written again", "[paging]") {
  const Plan first = plan(state_of(H, Owner::host), Operation::page_to, Tier::file, Tier::file);
  REQUIRE(first.copies);
  REQUIRE(plan(first.after, Operation::page_to, Tier::file, Tier::file).is_nothing());
  const Plan out = plan(first.after, Operation::evict, Tier::host, Tier::file);
  REQUIRE_FALSE(out.copies);
  REQUIRE(out.drops == H);
  REQUIRE(plan(state_of(H | D), Operation::read, Tier::device, Tier::file).is_nothing());
}

TEST_CASE("B4 a write makes all other copies invalid and the writer the dirty owner", "[paging]") {
  const Plan result = plan(state_of(H | D | F | Z), Operation::write, Tier::host, Tier::file);
  REQUIRE(result.drops == (D | F | Z));
  REQUIRE(result.after.dirty == Owner::host);
  REQUIRE(unsigned{result.after.valid} == H);
}

TEST_CASE("B9 what is pinned stays, and what is being written is not read", "[paging]") {
  Residency state = state_of(H | F);
  state.host_readers = 1;
  REQUIRE(plan(state, Operation::swap_to, Tier::file, Tier::file).refusal == Refusal::pinned);
  REQUIRE(plan(state, Operation::evict, Tier::host, Tier::file).refusal == Refusal::pinned);
  REQUIRE(plan(state, Operation::discard, Tier::host, Tier::file).refusal == Refusal::pinned);
  REQUIRE(plan(state, Operation::write, Tier::device, Tier::file).refusal == Refusal::pinned);
  REQUIRE(plan(state, Operation::invalidate, Tier::host, Tier::file).refusal == Refusal::pinned);
  REQUIRE(plan(state, Operation::page_to, Tier::compressed, Tier::file).refusal == Refusal::none);
  Residency written = state_of(H, Owner::host);
  written.host_writers = 1;
  REQUIRE(plan(written, Operation::page_to, Tier::file, Tier::file).refusal == Refusal::pinned);
  REQUIRE(plan(written, Operation::read, Tier::device, Tier::file).refusal == Refusal::pinned);
}

TEST_CASE("B9 a copy that is pinned while it is on its way out stays, a spoiled one is thrown away",
          "[paging]") {
  const Residency state = state_of(H, Owner::host);
  const Plan out = plan(state, Operation::swap_to, Tier::file, Tier::file);
  Residency now = state;
  now.flight = Flight::storing;
  now.host_readers = 1;
  Landing landing = land(now, out);
  REQUIRE_FALSE(landing.is_spoiled);
  REQUIRE(unsigned{landing.after.valid} == (H | F));
  REQUIRE(landing.drops == 0);
  now.host_readers = 0;
  now.flight = Flight::spoiled;
  landing = land(now, out);
  REQUIRE(landing.is_spoiled);
  REQUIRE(unsigned{landing.after.valid} == H);
  REQUIRE(landing.after.dirty == Owner::host);
}

TEST_CASE("B2 an unreadable store is refused, a discard makes the extent new", "[paging]") {
  Residency state = state_of(F);
  state.failed = true;
  REQUIRE(plan(state, Operation::read, Tier::host, Tier::file).refusal == Refusal::failed);
  const Plan drop = plan(state, Operation::discard, Tier::host, Tier::file);
  Model model;
  const Residency after = carry_out(state, drop, &model);
  REQUIRE(after.valid == 0);
  REQUIRE_FALSE(after.failed);
}

TEST_CASE("B2 a state packs into its word and back, whatever its fields", "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Expect expect;
  for (unsigned i = 0; i < 100'000; ++i) {
    Residency state;
    state.valid = static_cast<std::uint8_t>(random.below(16));
    state.dirty = static_cast<Owner>(random.below(3));
    state.flight = static_cast<Flight>(random.below(5));
    state.failed = random.one_in(2);
    state.host_readers = static_cast<std::uint16_t>(random.below(kReadersMax + 1));
    state.host_writers = static_cast<std::uint16_t>(random.below(kWritersMax + 1));
    state.device_readers = static_cast<std::uint16_t>(random.below(kReadersMax + 1));
    state.device_writers = static_cast<std::uint16_t>(random.below(kWritersMax + 1));
    state.generation = static_cast<std::uint16_t>(random.below(1 << 14));
    expect(unpack(pack(state)) == state);
  }
  REQUIRE(expect.failed_line() == 0);
}

TEST_CASE("B9 N6 a pin in the word is a pin of the state: every kind, in every state", "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Expect expect;
  unsigned taken = 0, refused = 0;
  for (unsigned i = 0; i < 400'000; ++i) {
    Residency state;
    state.valid = static_cast<std::uint8_t>(random.below(16));
    state.dirty = static_cast<Owner>(random.below(3));
    state.flight = static_cast<Flight>(random.below(5));
    for (std::uint16_t* readers : {&state.host_readers, &state.device_readers}) {
      *readers =
          static_cast<std::uint16_t>(random.one_in(4) ? kReadersMax - random.below(2) : random.below(3));
    }
    for (std::uint16_t* writers : {&state.host_writers, &state.device_writers}) {
      *writers =
          static_cast<std::uint16_t>(random.one_in(4) ? kWritersMax - random.below(2) : random.below(3));
    }
    state.generation = static_cast<std::uint16_t>(random.below(1 << 14));
    const PinKind kind{random.one_in(2), random.one_in(2)};
    const Tier tier = kind.is_device ? Tier::device : Tier::host;
    std::uint16_t Residency::*const counts[] = {&Residency::host_readers, &Residency::host_writers,
                                                &Residency::device_readers, &Residency::device_writers};
    std::uint16_t Residency::*const count = counts[(kind.is_device ? 2 : 0) + (kind.writes ? 1 : 0)];
    const unsigned most = kind.writes ? kWritersMax : kReadersMax;
    // What try_pin() in buffer_access.cpp says, without waiting and without spoiling a flight.
    const bool is_alone = state.valid == bit_of(tier) && state.flight == Flight::none;
    const bool may_come = state.has(tier) && state.*count < most && (!kind.writes || is_alone);
    Residency pinned = state;
    ++(pinned.*count);
    if (kind.writes) pinned.dirty = kind.is_device ? Owner::device : Owner::host;
    expect(with_pin(pack(state), kind) == (may_come ? pack(pinned) : kNoWord));
    ++(may_come ? taken : refused);
    Residency unpinned = state;
    --(unpinned.*count);
    expect(without_pin(pack(state), kind) == (state.*count != 0 ? pack(unpinned) : kNoWord));
  }
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(taken > 10'000);
  REQUIRE(refused > 10'000);
}

TEST_CASE("B2 random operations and pins never lose the last write, in any state that can be reached",
          "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  Expect expect;
  Residency state;
  Model model;
  unsigned writes = 0, refused = 0;
  for (unsigned step = 0; step < 400'000; ++step) {
    const std::uint64_t choice = random.below(10);
    if (choice < 2) {  // pins
      std::uint16_t& pins = random.one_in(2) ? state.host_readers : state.device_readers;
      const bool is_valid = state.has(&pins == &state.host_readers ? Tier::host : Tier::device);
      if (pins != 0 && random.one_in(2)) {
        --pins;
      } else if (is_valid && pins < 3) {
        ++pins;
      }
      continue;
    }
    const auto operation = static_cast<Operation>(random.below(kOperations));
    const auto tier = static_cast<Tier>(random.below(kTiers));
    const Tier spill = random.one_in(2) ? Tier::file : Tier::compressed;
    if (operation == Operation::discard && !random.one_in(20)) continue;
    const Plan next = plan(state, operation, tier, spill);
    if (next.refusal != Refusal::none) {
      ++refused;
      expect(next.after == state);
      continue;
    }
    if (next.copies) expect(state.has(next.from) && !state.has(next.to));
    if (next.fills) expect(state.valid == 0);
    expect((next.drops & state.pinned()) == 0);
    const std::uint8_t before = state.valid;
    if (!next.is_nothing()) state = carry_out(state, next, &model);
    if (operation == Operation::discard) {
      expect(state.valid == 0);
      model = Model{};
    } else {
      expect(before == 0 || state.valid != 0);
    }
    if (operation == Operation::write) {
      expect(state.valid == bit_of(tier));
      if (next.is_nothing()) state.dirty = tier == Tier::host ? Owner::host : Owner::device;
      model.latest = ++writes;
      model.version[static_cast<unsigned>(tier)] = writes;
    }
    expect(is_legal(state));
    for (unsigned i = 0; i < kTiers; ++i) {
      if (state.has(static_cast<Tier>(i))) expect(model.version[i] == model.latest);
    }
  }
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(writes > 1000);
  REQUIRE(refused > 1000);
}
