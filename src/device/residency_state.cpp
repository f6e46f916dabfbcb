// The table of residency_state.h.
#include "src/device/residency_state.h"

#include <cstddef>

namespace glebe::device {
namespace {

constexpr std::uint8_t kNo = 255;

constexpr std::uint8_t to(ChunkState state) noexcept { return static_cast<std::uint8_t>(state); }

constexpr std::uint8_t kAbsent = to(ChunkState::absent);
constexpr std::uint8_t kUnbacked = to(ChunkState::unbacked);
constexpr std::uint8_t kResident = to(ChunkState::resident);
constexpr std::uint8_t kEvicting = to(ChunkState::evicting);
constexpr std::uint8_t kFetching = to(ChunkState::fetching);
constexpr std::uint8_t kInHost = to(ChunkState::in_host);
constexpr std::uint8_t kOnDisk = to(ChunkState::on_disk);

// A row per move; columns: absent, unbacked, resident, evicting, fetching, in_host, on_disk.
constexpr std::uint8_t kNext[kChunkMoves][kChunkStates] = {
    {kUnbacked, kNo, kNo, kNo, kNo, kNo, kNo},              // allocate
    {kNo, kFetching, kNo, kNo, kNo, kFetching, kFetching},  // begin_fetch
    {kNo, kNo, kNo, kNo, kResident, kNo, kNo},              // arrive
    {kNo, kNo, kEvicting, kNo, kNo, kNo, kNo},              // begin_evict
    {kNo, kNo, kNo, kResident, kNo, kNo, kNo},              // stay
    {kNo, kNo, kNo, kInHost, kInHost, kNo, kNo},            // leave_to_host
    {kNo, kNo, kNo, kOnDisk, kOnDisk, kNo, kNo},            // leave_to_disk
    {kNo, kNo, kNo, kUnbacked, kUnbacked, kNo, kNo},        // leave_blank
    {kNo, kNo, kNo, kNo, kNo, kOnDisk, kNo},                // spill
    {kNo, kNo, kNo, kNo, kNo, kNo, kInHost},                // load
    {kNo, kNo, kNo, kUnbacked, kNo, kUnbacked, kUnbacked},  // discard
    {kNo, kAbsent, kNo, kNo, kNo, kNo, kNo},                // free
};

}  // namespace

bool next_state(ChunkState from, ChunkMove move, ChunkState* to_state) noexcept {
  const std::uint8_t next = kNext[static_cast<std::size_t>(move)][static_cast<std::size_t>(from)];
  if (next == kNo) return false;
  *to_state = static_cast<ChunkState>(next);
  return true;
}

bool is_consistent(ChunkState state, const ChunkCopies& copies) noexcept {
  switch (state) {
    case ChunkState::absent:
    case ChunkState::unbacked:
      return !copies.has_memory && !copies.in_host && !copies.on_disk;
    case ChunkState::resident:
    case ChunkState::evicting:
    case ChunkState::fetching:
      return copies.has_memory;
    case ChunkState::in_host:
      return !copies.has_memory && copies.in_host;
    case ChunkState::on_disk:
      return !copies.has_memory && !copies.in_host && copies.on_disk;
  }
  return false;
}

const char* name_of(ChunkState state) noexcept {
  constexpr const char* kNames[kChunkStates] = {"absent",   "unbacked", "resident", "evicting",
                                                "fetching", "in_host",  "on_disk"};
  return kNames[static_cast<std::size_t>(state)];
}

}  // namespace glebe::device
