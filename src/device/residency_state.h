// What can happen to a chunk of a heap that holds more than the device does, as one table (namespace
// glebe::device).
//
// A chunk has up to three copies: on the device (while it is resident), in a slot of pinned host memory, and
// in the page file. It is clean while one of the last two is valid; then leaving the device moves no bytes.
// The table says in which state each move is allowed and where it leads; the heap changes states through it
// alone, so an order of moves that nobody thought of stops the program instead of losing contents.
//
//   absent --allocate--> unbacked --begin_fetch--> fetching --arrive--> resident
//   resident --begin_evict--> evicting --leave_to_host--> in_host --spill--> on_disk
//                                |-- stay: the eviction was undone       (load leads back)
#pragma once

#include <cstdint>

namespace glebe::device {

enum class ChunkState : std::uint8_t {
  absent,    // belongs to no allocation
  unbacked,  // no memory, no contents
  resident,  // mapped; kernels may use it under a lease
  evicting,  // still mapped, being copied out or waited for
  fetching,  // being mapped and filled; becomes resident when all of a lease is there
  in_host,   // contents in a slot of the host, and maybe in the file too
  on_disk,   // contents in the file alone
};
inline constexpr unsigned kChunkStates = 7;

enum class ChunkMove : std::uint8_t {
  allocate,
  begin_fetch,
  arrive,
  begin_evict,
  stay,
  leave_to_host,
  leave_to_disk,
  leave_blank,  // nobody ever wrote to it, or its contents are given up
  spill,
  load,
  discard,
  free,
};
inline constexpr unsigned kChunkMoves = 12;

// Where the move leads, in *to. False: it is not allowed in this state. Pure.
[[nodiscard]] bool next_state(ChunkState from, ChunkMove move, ChunkState* to) noexcept;

// What a chunk has besides its state.
struct ChunkCopies {
  bool has_memory;  // of the device
  bool in_host, on_disk;
};
// Whether a chunk between two calls may be like this.
[[nodiscard]] bool is_consistent(ChunkState state, const ChunkCopies& copies) noexcept;

[[nodiscard]] const char* name_of(ChunkState state) noexcept;

}  // namespace glebe::device
