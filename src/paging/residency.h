// The residency machine: where valid copies of an extent are, who holds it, and what may be done about it
// (namespace glebe::paging). It serves explicit buffers, and is meant for device chunks and tiles as well.
//
// All of the state is one word (residency_word.h), changed by compare-and-swap: a valid bit for each tier, at
// most one dirty owner (whoever wrote last; then no other copy is valid), pins by tier and kind, the
// operation in flight, an error mark and a generation. plan() is a pure function from a state and an
// operation to what has to be moved and what is given up; the owner of the extent
// (src/paging/buffer_move.cpp) carries it out:
//
//   none --> copy --> storing --> drop --> none     no lock is held; readers use the old copy meanwhile
//                        |  a writer comes
//                        +--> spoiled --> none      the new copy is out of date and is thrown away
//
// Invariants (is_legal): at least one valid copy unless nothing was ever written; a dirty owner's copy is
// valid and the only one; a pinned copy is valid; writers are dirty owners. Only discard() gives the last
// copy up. Thread-safe because there is nothing but values and one atomic word.
#pragma once

#include <cstdint>

namespace glebe::paging {

enum class Tier : std::uint8_t { host, compressed, device, file };
inline constexpr unsigned kTiers = 4;
[[nodiscard]] constexpr std::uint8_t bit_of(Tier tier) noexcept {
  return static_cast<std::uint8_t>(1u << static_cast<unsigned>(tier));
}

// Who wrote last, and has the only valid copy for that reason.
enum class Owner : std::uint8_t { none, host, device };

enum class Flight : std::uint8_t {
  none,
  copy,     // one copy is being made from another; the source may be read by others, not written
  storing,  // the source has been read and the new copy is on its way to the disk: the source is free
  spoiled,  // as storing, but the source was written meanwhile
  drop,     // copies are being given up: short, no I/O
};

inline constexpr unsigned kReadersMax = 4095;  // pins of one kind on one extent
inline constexpr unsigned kWritersMax = 255;

struct Residency {
  std::uint8_t valid = 0;  // bit_of(Tier)
  Owner dirty = Owner::none;
  Flight flight = Flight::none;
  bool failed = false;  // what was stored cannot be read any more
  std::uint16_t host_readers = 0, host_writers = 0, device_readers = 0, device_writers = 0;
  std::uint16_t generation = 0;  // 14 bits; counts the lives of the extent's record

  [[nodiscard]] constexpr bool has(Tier tier) const noexcept { return (valid & bit_of(tier)) != 0; }
  [[nodiscard]] constexpr bool is_pinned(Tier tier) const noexcept {
    if (tier == Tier::host) return host_readers + host_writers != 0;
    if (tier == Tier::device) return device_readers + device_writers != 0;
    return false;
  }
  [[nodiscard]] constexpr std::uint8_t pinned() const noexcept {
    return static_cast<std::uint8_t>((is_pinned(Tier::host) ? bit_of(Tier::host) : 0) |
                                     (is_pinned(Tier::device) ? bit_of(Tier::device) : 0));
  }
  friend constexpr bool operator==(const Residency&, const Residency&) noexcept = default;
};

[[nodiscard]] bool is_legal(const Residency& state) noexcept;

// What can be asked of an extent; a tier goes with it.
enum class Operation : std::uint8_t {
  read,         // a valid copy in the tier (host, device)
  write,        // the same, and it becomes the only one, dirty
  page_to,      // a copy in the tier; the source stays
  swap_to,      // the copy in the tier stays alone
  evict,        // give up the tier's copy, written to `spill` first if it is the only one
  invalidate,   // the tier's copy is out of date; refused for the only one
  synchronise,  // make host and device copies equal, where there is one of them
  discard,      // drop all copies on purpose
};
inline constexpr unsigned kOperations = 8;

struct Move {
  Operation operation;
  Tier tier;
};

enum class Refusal : std::uint8_t {
  none,
  busy,        // another operation is in flight
  pinned,      // a copy that would go, or be read while it is written, is pinned
  last_copy,   // only discard() drops that
  wrong_tier,  // this operation has no meaning in this tier
  failed,      // the stored copy is unreadable
};

// What to do. `copies`: move bytes from `from` to `to`; `fills`: there is no copy at all, `to` starts as
// zero. `drops`: copies given up when `to` is valid. `after`: the state when nobody interferes; flight none.
struct Plan {
  Refusal refusal = Refusal::none;
  bool copies = false;
  bool fills = false;
  Tier from = Tier::host, to = Tier::host;
  std::uint8_t drops = 0;
  Residency after;

  [[nodiscard]] constexpr bool is_nothing() const noexcept { return !copies && !fills && drops == 0; }
};

[[nodiscard]] Plan plan(const Residency& state, Operation operation, Tier tier, Tier spill) noexcept;

// The state at the end of the copy of a plan: what the flight saw when it began may have changed since.
// Copies pinned meanwhile stay. `drops` is what may go now; the flight is drop when that is not empty, else
// none. A spoiled flight adds nothing.
struct Landing {
  Residency after;
  std::uint8_t drops = 0;
  bool is_spoiled = false;
};
[[nodiscard]] Landing land(const Residency& now, const Plan& plan) noexcept;

}  // namespace glebe::paging
