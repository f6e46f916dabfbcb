// What placement engines answer: a place, or the reason why there is none. Values only; shared by all
// engines.
#pragma once

#include <cstdint>

namespace glebe::placement {

enum class Status : std::uint8_t {
  ok,
  double_free,   // The block is free already.
  out_of_range,  // No block of this engine starts there.
  in_use,        // Refused because live blocks would be lost.
  exhausted,     // No room in the range, or in the metadata that the caller supplied.
  too_large,     // Larger than this engine can ever place.
  bad_argument,  // A size, an alignment or a range that makes no sense.
};

// A block in the managed range. A failed allocation is empty and says why in `status`.
struct Placement {
  std::uint64_t offset = 0;
  std::uint64_t size_bytes = 0;
  Status status = Status::exhausted;

  [[nodiscard]] constexpr bool empty() const noexcept { return status != Status::ok; }
};

[[nodiscard]] constexpr Placement no_placement(Status status) noexcept { return Placement{0, 0, status}; }

}  // namespace glebe::placement
