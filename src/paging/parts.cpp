// The table of handles of large extents; see parts.h.
#include "src/paging/parts.h"

#include "src/base/check.h"

namespace glebe::paging {

bool PartTable::open(std::size_t extent_bytes, std::uint64_t address_bytes) noexcept {
  if (extent_bytes <= kObjectBytesMax) return true;
  const std::uint64_t wanted = 2 * (address_bytes / kObjectBytesMax) + 2 * kPartsMax;
  const auto units =
      static_cast<std::uint32_t>(wanted < placement::kTlsfUnitsMax ? wanted : placement::kTlsfUnitsMax);
  return handles_.open(units, sizeof(Handle), 2 * kPartsMax);
}

bool PartTable::take(std::size_t stored_bytes, Handle* kept) noexcept {
  *kept = kNoObject;
  const unsigned count = part_count(stored_bytes);
  if (count == 1) return true;
  const placement::Run run = handles_.take(count);
  if (run.empty()) return false;
  *kept = Handle{run.first} + 1;
  for (Handle& handle : of(stored_bytes, *kept)) handle = kNoObject;
  return true;
}

void PartTable::give_back(std::size_t stored_bytes, Handle* kept) noexcept {
  if (part_count(stored_bytes) > 1) CHECK(handles_.give_back(static_cast<std::uint32_t>(*kept - 1)));
  *kept = kNoObject;
}

std::span<Handle> PartTable::of(std::size_t stored_bytes, Handle& kept) noexcept {
  const unsigned count = part_count(stored_bytes);
  if (count == 1) return {&kept, 1};
  return {reinterpret_cast<Handle*>(handles_.at(static_cast<std::uint32_t>(kept - 1))), count};
}

}  // namespace glebe::paging
