// One shard of the medium heap: ranges of pages, the engines that place runs in them, and the list of chunks
// with dirty pages (namespace glebe::heap). Used by medium.cpp only.
//
// A range is a run of chunks of one region; its chunk records name it in used[0]. The engine of a region
// counts pages
// ("units") from a multiple of kMediumMaxBytes, so that every alignment up to that is an alignment of unit
// numbers. `lock` guards the shard, the chunk records and the page tags of its ranges. Every function needs
// it unless it says otherwise; none takes another lock but those of vm.
#pragma once

#include <cstddef>
#include <cstdint>

#include "platform/thread.h"
#include "src/base/list.h"
#include "src/heap/medium.h"
#include "src/placement/tlsf.h"
#include "src/vm/chunk.h"

namespace glebe::heap {

struct MediumRange : ListNode<> {
  vm::Region* region = nullptr;
  vm::ChunkRecord* first_chunk = nullptr;
  std::uint32_t first_unit = 0;
  std::uint32_t chunk_count = 0;
  std::uint32_t opened_chunks = 0;  // given to the engine so far, from the front

  [[nodiscard]] std::uint32_t unit_count() const noexcept { return opened_chunks * vm::kPagesPerChunk; }
};

// Pages and units of a region.
[[nodiscard]] inline std::uintptr_t unit_origin(const vm::Region& region) noexcept {
  return align_down(reinterpret_cast<std::uintptr_t>(region.chunk_base), kMediumMaxBytes);
}
[[nodiscard]] inline std::uint32_t unit_of(const vm::Region& region, const void* address) noexcept {
  const std::uintptr_t offset_bytes = reinterpret_cast<std::uintptr_t>(address) - unit_origin(region);
  return static_cast<std::uint32_t>(offset_bytes / vm::kPageBytes);
}
[[nodiscard]] inline std::byte* unit_address(const vm::Region& region, std::uint32_t unit) noexcept {
  return reinterpret_cast<std::byte*>(unit_origin(region) + placement::unit_offset(unit, vm::kPageBytes));
}

struct MediumRequest {
  std::uint32_t pages;
  std::uint32_t align_pages;
  std::uint16_t owner;
};

// Adjacent chunks in which the request fits wherever they are.
[[nodiscard]] std::uint32_t chunks_for(const MediumRequest& request) noexcept;

enum class MediumPlaced : std::uint8_t { placed, no_room, no_memory };
struct MediumBlock {
  std::byte* address = nullptr;
  bool is_zero = false;
  MediumPlaced status = MediumPlaced::no_room;
};

using MediumVisit = void (*)(void* context, void* address, std::size_t size_bytes, std::uint16_t owner);

class MediumShard {
 public:
  os::Mutex lock;

  // Places a block in the ranges that are there. no_memory: there is a place, but the system commits nothing
  // there.
  [[nodiscard]] MediumBlock place(const MediumRequest& request) noexcept;

  // Adds chunks that were acquired for this shard and opens those that the request needs. False: no metadata
  // memory; the chunks are still the caller's.
  [[nodiscard]] bool add_range(vm::ChunkRecord* first_chunk, std::uint32_t chunk_count,
                               const MediumRequest& request) noexcept;
  [[nodiscard]] std::uint32_t chunk_count() const noexcept { return chunk_count_; }

  // The block that may start at `address`, a multiple of the page size in a range of this shard.
  [[nodiscard]] FreeStatus give_back(const vm::Region& region, void* address) noexcept;
  [[nodiscard]] bool resize(const vm::Region& region, void* address, std::uint32_t new_pages) noexcept;

  // Purges free pages of up to `budget` chunks that have been dirty for delay_ms; returns bytes. delay_ms 0:
  // whatever is dirty, small pieces and huge pages too. A range that is wholly free is taken out of the shard
  // instead and appended to `free_ranges`: the caller releases its chunks without the lock and then recycles
  // the records.
  std::size_t purge(std::uint32_t now_ms, std::uint32_t delay_ms, unsigned budget,
                    List<MediumRange>& free_ranges) noexcept;
  void take_free_ranges(List<MediumRange>& free_ranges) noexcept;
  void recycle(List<MediumRange>& free_ranges) noexcept { spare_.append_all(free_ranges); }

  void free_owner(std::uint16_t owner) noexcept;

  // In a forked child: nothing is known about the ranges any more. `index` is the number of this shard.
  void forget(std::uint8_t index) noexcept;

  void walk(MediumVisit visit, void* context) const noexcept;
  void add_stats(MediumStats& stats) const noexcept;
  [[nodiscard]] bool validate(std::uint8_t index) const noexcept;

 private:
  struct Counted;

  [[nodiscard]] placement::Tlsf& engine_of(const vm::Region& region) const noexcept {
    return *engines_[&region - vm::regions];
  }
  [[nodiscard]] bool has_engine(const vm::Region& region) const noexcept {
    return engines_[&region - vm::regions] != nullptr;
  }
  [[nodiscard]] MediumBlock place_in_open(const MediumRequest& request) noexcept;
  [[nodiscard]] bool open_more(const MediumRequest& request) noexcept;
  void open_chunks(MediumRange& range, std::uint32_t count) noexcept;
  [[nodiscard]] bool open_behind(const vm::Region& region, std::uint32_t unit,
                                 std::uint32_t new_pages) noexcept;
  void attach_engine(const vm::Region& region) noexcept;
  [[nodiscard]] bool ensure_engine(const vm::Region& region) noexcept;
  [[nodiscard]] MediumRange* new_range_record() noexcept;
  [[nodiscard]] MediumBlock open(vm::Region& region, placement::Run run, std::uint16_t owner) noexcept;
  [[nodiscard]] bool take(const vm::Region& region, std::uint32_t unit, std::uint32_t count) noexcept;
  void give(const vm::Region& region, std::uint32_t unit, std::uint32_t count) noexcept;
  std::size_t purge_chunk(vm::ChunkRecord& chunk, bool everything) noexcept;
  void purge_runs(vm::ChunkRecord& chunk, const vm::Region& region, bool everything) noexcept;
  void free_owner_in(const MediumRange& range, std::uint16_t owner) noexcept;
  [[nodiscard]] bool is_free(const MediumRange& range) const noexcept;
  void take_out(MediumRange& range, List<MediumRange>& free_ranges) noexcept;
  [[nodiscard]] bool validate_chunks(const MediumRange& range, std::uint8_t index,
                                     Counted& counted) const noexcept;

  placement::Tlsf* engines_[vm::kRegionMax] = {};
  List<MediumRange> ranges_;
  List<MediumRange> spare_;
  vm::DirtyList dirty_;
  std::uint32_t chunk_count_ = 0;
  std::uint32_t open_chunk_count_ = 0;
  std::size_t live_pages_ = 0, live_blocks_ = 0;
  std::size_t allocations_ = 0, frees_ = 0;
};

}  // namespace glebe::heap
