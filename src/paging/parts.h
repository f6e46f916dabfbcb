// What the store has of an extent (namespace glebe::paging).
//
// An object of the store holds up to kObjectBytesMax. An extent that fits is one object, and the handle kept
// for it is that object's. A larger extent is cut into parts, an object each; then the handle kept is the
// place of a run of handles in a table, plus one. Which of the two it is follows from the bytes that are
// stored, so nothing else is kept. Thread-safe; the handles of a run belong to whoever has the extent in
// flight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "src/base/bits.h"
#include "src/paging/space.h"
#include "src/paging/store.h"

namespace glebe::paging {

inline constexpr std::size_t kExtentBytesMax = 2 * kMiB;
inline constexpr unsigned kPartsMax = kExtentBytesMax / kObjectBytesMax;

[[nodiscard]] constexpr unsigned part_count(std::size_t stored_bytes) noexcept {
  return static_cast<unsigned>(divide_up(stored_bytes, kObjectBytesMax));
}
// Bytes of part number `index`: all are full but the last one.
[[nodiscard]] constexpr std::size_t part_bytes(std::size_t stored_bytes, unsigned index) noexcept {
  const std::size_t left = stored_bytes - index * kObjectBytesMax;
  return left < kObjectBytesMax ? left : kObjectBytesMax;
}

class PartTable {
 public:
  // For extents of up to `extent_bytes` in at most `address_bytes`, in two tiers. False: no addresses.
  // Without large extents there is no table.
  [[nodiscard]] bool open(std::size_t extent_bytes, std::uint64_t address_bytes) noexcept;
  void close() noexcept { handles_.close(); }

  // Makes room for the handles of what is about to be stored, all kNoObject. False: no memory.
  [[nodiscard]] bool take(std::size_t stored_bytes, Handle* kept) noexcept;
  // The room alone; the objects are somebody else's business. *kept is kNoObject afterwards.
  void give_back(std::size_t stored_bytes, Handle* kept) noexcept;
  // The handles of the parts, in order.
  [[nodiscard]] std::span<Handle> of(std::size_t stored_bytes, Handle& kept) noexcept;

 private:
  Space handles_;
};

}  // namespace glebe::paging
