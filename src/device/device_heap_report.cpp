// What a heap can be asked: tags, statistics, blocks, the trace, whether its tables agree. See device_heap.h.
#include "platform/process.h"
#include "src/base/check.h"
#include "src/base/text.h"
#include "src/device/device_heap.h"

namespace glebe::device {

using os::Lock;

namespace {

constexpr unsigned kThousandths = 1000;

unsigned rest_in_thousandths(std::uint64_t part, std::uint64_t whole) noexcept {
  return whole == 0 ? 0 : kThousandths - static_cast<unsigned>(part * kThousandths / whole);
}

// HH:MM:SS:microseconds, of a clock that starts with the machine.
void append_time(Text& text) noexcept {
  const std::uint64_t us = os::clock_fine_ns() / 1000;
  const std::uint64_t seconds = us / 1'000'000;
  text.append_padded(seconds / 3600 % 24, 2).append_char(':').append_padded(seconds / 60 % 60, 2);
  text.append_char(':').append_padded(seconds % 60, 2).append_char(':').append_padded(us % 1'000'000, 6);
}

}  // namespace

void DeviceHeap::count(const HeapBlock& block) noexcept {
  counts_.live_bytes += block.size_bytes;
  counts_.requested_bytes += block.requested_bytes;
  ++counts_.live_blocks;
  if (counts_.live_bytes > counts_.peak_live_bytes) counts_.peak_live_bytes = counts_.live_bytes;
  Tagged& tagged = tagged_[block.tag];
  tagged.live_bytes += block.size_bytes;
  ++tagged.live_blocks;
  if (tagged.live_bytes > tagged.peak_bytes) tagged.peak_bytes = tagged.live_bytes;
}

void DeviceHeap::discount(const HeapBlock& block) noexcept {
  counts_.live_bytes -= block.size_bytes;
  counts_.requested_bytes -= block.requested_bytes;
  --counts_.live_blocks;
  tagged_[block.tag].live_bytes -= block.size_bytes;
  --tagged_[block.tag].live_blocks;
}

void DeviceHeap::write_trace(Event event, cuda::DevicePointer address, std::uint64_t size_bytes) noexcept {
  if (options_.trace == nullptr) return;
  constexpr const char* kActions[] = {"allocate", "allocate failure", "free"};
  char buffer[128];
  Text text(buffer);
  text.append_unsigned(os::thread_id()).append_char(',');
  append_time(text);
  text.append_char(',').append(kActions[static_cast<unsigned>(event)]).append_char(',').append_hex(address);
  text.append_char(',').append_unsigned(size_bytes).append(",0");
  options_.trace(options_.context, text.view());
}

Outcome DeviceHeap::tag(std::string_view name, HeapTag* tag) noexcept {
  if (name.empty() || name.size() > kHeapTagNameMax) return Status::bad_argument;
  const Lock lock(space_.table_lock());
  for (unsigned i = 0; i < tag_count_; ++i) {
    if (name != tagged_[i].name) continue;
    *tag = static_cast<HeapTag>(i);
    return {};
  }
  if (tag_count_ == kHeapTagsMax) return Status::bad_argument;
  Tagged& made = tagged_[tag_count_];
  made = {};
  for (std::size_t i = 0; i < name.size(); ++i) made.name[i] = name[i];
  *tag = static_cast<HeapTag>(tag_count_++);
  return {};
}

HeapTagStats DeviceHeap::tag_stats(HeapTag tag) noexcept {
  const Lock lock(space_.table_lock());
  if (tag >= tag_count_) return {};
  const Tagged& tagged = tagged_[tag];
  return {tagged.name, tagged.live_bytes, tagged.peak_bytes, tagged.live_blocks};
}

DeviceHeapStats DeviceHeap::stats() noexcept {
  const DeviceSpaceStats space = space_.stats();
  const Lock lock(space_.table_lock());
  DeviceHeapStats stats = counts_;
  stats.space = space;
  stats.free_bytes = (engine_.free_units() + hidden_units_) * kHeapUnitBytes;
  stats.largest_free_bytes = engine_.largest_free() * kHeapUnitBytes;
  stats.idle_bytes = space.idle_bytes + space.empty_bytes;
  stats.external_fragmentation = rest_in_thousandths(stats.largest_free_bytes, stats.free_bytes);
  stats.internal_fragmentation = rest_in_thousandths(stats.requested_bytes, stats.live_bytes);
  return stats;
}

// Without the table lock: the largest request that needs no new memory of the device.
std::uint64_t DeviceHeap::largest_possible() noexcept {
  const DeviceHeapStats now = stats();
  const std::uint64_t movable_bytes = now.space.idle_bytes + now.space.cached_bytes;
  return movable_bytes > now.largest_free_bytes ? movable_bytes : now.largest_free_bytes;
}

void DeviceHeap::reset_peaks() noexcept {
  const Lock lock(space_.table_lock());
  counts_.peak_live_bytes = counts_.live_bytes;
  for (unsigned i = 0; i < tag_count_; ++i) tagged_[i].peak_bytes = tagged_[i].live_bytes;
}

void DeviceHeap::walk(bool (*visit)(void* context, const HeapBlock& block), void* context) noexcept {
  const Lock lock(space_.table_lock());
  if (frontier_ == 0) return;
  for (std::uint32_t at = 0; at != placement::kNoUnit; at = engine_.next_run(at)) {
    if (!is_live(at)) continue;
    if (!visit(context, block_at(at))) return;
  }
}

// The blocks, once more, by their runs: what they say of each chunk is what the table says, and exactly the
// chunks that hold none are out of the engine.
bool DeviceHeap::validate() noexcept {
  const Lock lock(space_.table_lock());
  if (!space_.validate()) return false;
  if (frontier_ == 0) return counts_.live_blocks == 0;
  const placement::Range all{0, frontier_ * units_in_chunk_};
  if (!engine_.validate({&all, 1})) return false;
  std::uint64_t live_bytes = 0, live_blocks = 0;
  std::uint32_t chunk = 0;       // the next one to compare
  std::uint64_t chunk_live = 0;  // of blocks in that chunk
  for (std::uint32_t at = 0; at != placement::kNoUnit; at = engine_.next_run(at)) {
    const std::uint32_t end = at + engine_.run_length(at);
    const bool is_allocated = engine_.is_allocated_start(at);
    if (is_live(at)) {
      live_bytes += block_at(at).size_bytes;
      ++live_blocks;
    }
    for (std::uint32_t from = at; from < end;) {
      const std::uint32_t border = (chunk + 1) * units_in_chunk_;
      const std::uint32_t until = border < end ? border : end;
      if (is_allocated) chunk_live += (until - from) * kHeapUnitBytes;
      from = until;
      if (until != border) continue;
      if (space_.entry(chunk).live_bytes != chunk_live) return false;
      ++chunk;
      chunk_live = 0;
    }
  }
  return live_bytes == counts_.live_bytes && live_blocks == counts_.live_blocks;
}

}  // namespace glebe::device
