// The word that a residency state is kept in (namespace glebe::paging). Its layout is known here alone.
//
// Everything but a pin works on an unpacked Residency. A pin of what is there is the one operation that has
// to be quick: with_pin() and without_pin() are the machine's answer for the common case in the word itself,
// a few instructions each; the tests compare them with what the unpacked state says.
#pragma once

#include <cstdint>

#include "src/paging/residency.h"

namespace glebe::paging {

// A part of the word.
struct WordField {
  unsigned at, width;

  [[nodiscard]] constexpr std::uint64_t unit() const noexcept { return std::uint64_t{1} << at; }
  [[nodiscard]] constexpr std::uint64_t mask() const noexcept {
    return ((std::uint64_t{1} << width) - 1) << at;
  }
  [[nodiscard]] constexpr std::uint64_t put(std::uint64_t value) const noexcept { return value << at; }
  [[nodiscard]] constexpr std::uint16_t get(std::uint64_t word) const noexcept {
    return static_cast<std::uint16_t>((word & mask()) >> at);
  }
};

inline constexpr WordField kValidField{0, 4}, kDirtyField{4, 2}, kFlightField{6, 3}, kFailedField{9, 1};
inline constexpr WordField kHostReadersField{10, 12}, kHostWritersField{22, 8};
inline constexpr WordField kDeviceReadersField{30, 12}, kDeviceWritersField{42, 8};
inline constexpr WordField kGenerationField{50, 14};
static_assert(kReadersMax == kHostReadersField.mask() >> kHostReadersField.at);
static_assert(kWritersMax == kHostWritersField.mask() >> kHostWritersField.at);

[[nodiscard]] constexpr std::uint64_t pack(const Residency& state) noexcept {
  return kValidField.put(state.valid) | kDirtyField.put(static_cast<std::uint64_t>(state.dirty)) |
         kFlightField.put(static_cast<std::uint64_t>(state.flight)) | kFailedField.put(state.failed ? 1 : 0) |
         kHostReadersField.put(state.host_readers) | kHostWritersField.put(state.host_writers) |
         kDeviceReadersField.put(state.device_readers) | kDeviceWritersField.put(state.device_writers) |
         kGenerationField.put(state.generation);
}

[[nodiscard]] constexpr Residency unpack(std::uint64_t word) noexcept {
  Residency state;
  state.valid = static_cast<std::uint8_t>(kValidField.get(word));
  state.dirty = static_cast<Owner>(kDirtyField.get(word));
  state.flight = static_cast<Flight>(kFlightField.get(word));
  state.failed = kFailedField.get(word) != 0;
  state.host_readers = kHostReadersField.get(word);
  state.host_writers = kHostWritersField.get(word);
  state.device_readers = kDeviceReadersField.get(word);
  state.device_writers = kDeviceWritersField.get(word);
  state.generation = kGenerationField.get(word);
  return state;
}

// Pins of one kind in the host or on the device.
struct PinKind {
  bool is_device, writes;

  [[nodiscard]] constexpr WordField field() const noexcept {
    if (is_device) return writes ? kDeviceWritersField : kDeviceReadersField;
    return writes ? kHostWritersField : kHostReadersField;
  }
};

inline constexpr std::uint64_t kNoWord = 0;  // no word with a pin in it: the copy that it holds is valid

// The word with one more pin, when that takes nothing else: the copy is valid, the count has room and, for a
// writer, the copy is the only one and in no flight; the writer becomes the dirty owner. Otherwise kNoWord.
[[nodiscard]] constexpr std::uint64_t with_pin(std::uint64_t word, PinKind kind) noexcept {
  const WordField pins = kind.field();
  const std::uint64_t valid = bit_of(kind.is_device ? Tier::device : Tier::host);
  if ((word & pins.mask()) == pins.mask()) return kNoWord;
  if (!kind.writes) return (word & valid) != 0 ? word + pins.unit() : kNoWord;
  if ((word & (kValidField.mask() | kFlightField.mask())) != valid) return kNoWord;
  const Owner owner = kind.is_device ? Owner::device : Owner::host;
  return ((word & ~kDirtyField.mask()) | kDirtyField.put(static_cast<std::uint64_t>(owner))) + pins.unit();
}

// The word with one pin less; kNoWord when there is none of that kind.
[[nodiscard]] constexpr std::uint64_t without_pin(std::uint64_t word, PinKind kind) noexcept {
  const WordField pins = kind.field();
  return (word & pins.mask()) != 0 ? word - pins.unit() : kNoWord;
}

}  // namespace glebe::paging
