// The five states of a unified buffer, and what each use of it does in each of them (namespace
// glebe::device).
//
// A unified buffer is a range of bytes of which the host, the device or both have a copy. Its state says
// which memory exists and which copy is the newest; a transfer under way is not a state but a pending event.
//
//   host_only      there is no memory on the device
//   device_only    there is no memory on the host
//   synchronized   both have a copy, and they are equal
//   host_dirty     both have memory; what differs was written by the host
//   device_dirty   both have memory; what differs was written by the device
//
// The side that is dirty always has all of the contents: only the other one is out of date, in the units that
// a bitmap names. So writes of both sides never have to be merged. Pure functions and values.
#pragma once

#include <cstdint>

namespace glebe::device {

enum class UnifiedState : std::uint8_t { host_only, device_only, synchronized, host_dirty, device_dirty };
inline constexpr unsigned kUnifiedStates = 5;

enum class UnifiedUse : std::uint8_t {
  host_read,
  host_write,      // some of the bytes
  host_overwrite,  // every byte: nothing of what was there is needed
  device_read,
  device_write,
  device_overwrite,
  evict_device,  // the memory of the device goes, the contents stay
  evict_host,
};
inline constexpr unsigned kUnifiedUses = 8;

enum class UnifiedMove : std::uint8_t { none, to_host, to_device };

struct UnifiedStep {
  bool makes_host, makes_device;  // memory that has to be there first
  UnifiedMove moves;              // what is dirty has to be copied
  UnifiedState next;
  friend constexpr bool operator==(const UnifiedStep&, const UnifiedStep&) noexcept = default;
};

// What a use of the whole buffer does. Where a part is used, only dirty units of that part move on a read.
[[nodiscard]] constexpr UnifiedStep step_of(UnifiedState state, UnifiedUse use) noexcept {
  using enum UnifiedState;
  using Move = UnifiedMove;
  // In the order of UnifiedState and UnifiedUse.
  constexpr UnifiedStep kTable[kUnifiedStates][kUnifiedUses] = {
      {{false, false, Move::none, host_only},
       {false, false, Move::none, host_only},
       {false, false, Move::none, host_only},
       {false, true, Move::to_device, synchronized},
       {false, true, Move::to_device, device_dirty},
       {false, true, Move::none, device_dirty},
       {false, false, Move::none, host_only},
       {false, true, Move::to_device, device_only}},
      {{true, false, Move::to_host, synchronized},
       {true, false, Move::to_host, host_dirty},
       {true, false, Move::none, host_dirty},
       {false, false, Move::none, device_only},
       {false, false, Move::none, device_only},
       {false, false, Move::none, device_only},
       {true, false, Move::to_host, host_only},
       {false, false, Move::none, device_only}},
      {{false, false, Move::none, synchronized},
       {false, false, Move::none, host_dirty},
       {false, false, Move::none, host_dirty},
       {false, false, Move::none, synchronized},
       {false, false, Move::none, device_dirty},
       {false, false, Move::none, device_dirty},
       {false, false, Move::none, host_only},
       {false, false, Move::none, device_only}},
      {{false, false, Move::none, host_dirty},
       {false, false, Move::none, host_dirty},
       {false, false, Move::none, host_dirty},
       {false, false, Move::to_device, synchronized},
       {false, false, Move::to_device, device_dirty},
       {false, false, Move::none, device_dirty},
       {false, false, Move::none, host_only},
       {false, false, Move::to_device, device_only}},
      {{false, false, Move::to_host, synchronized},
       {false, false, Move::to_host, host_dirty},
       {false, false, Move::none, host_dirty},
       {false, false, Move::none, device_dirty},
       {false, false, Move::none, device_dirty},
       {false, false, Move::none, device_dirty},
       {false, false, Move::to_host, host_only},
       {false, false, Move::none, device_only}},
  };
  return kTable[static_cast<unsigned>(state)][static_cast<unsigned>(use)];
}

[[nodiscard]] constexpr bool is_host_use(UnifiedUse use) noexcept {
  return use <= UnifiedUse::host_overwrite;
}
[[nodiscard]] constexpr bool is_read(UnifiedUse use) noexcept {
  return use == UnifiedUse::host_read || use == UnifiedUse::device_read;
}
[[nodiscard]] constexpr bool is_dirty(UnifiedState state) noexcept {
  return state == UnifiedState::host_dirty || state == UnifiedState::device_dirty;
}

// "host_only" and so on.
[[nodiscard]] constexpr const char* name_of(UnifiedState state) noexcept {
  constexpr const char* kNames[kUnifiedStates] = {"host_only", "device_only", "synchronized", "host_dirty",
                                                  "device_dirty"};
  return kNames[static_cast<unsigned>(state)];
}

}  // namespace glebe::device
