// The chunk table: what is live, what is cached, what is mapped. The calls of the driver are in
// device_space_map.cpp; see device_space.h.
#include "src/device/device_space.h"

#include <bit>

#include "src/base/check.h"

namespace glebe::device {

using os::Lock;

namespace {

constexpr std::uint64_t kReserveFactor = 4;  // addresses for each byte of the device, unless told
constexpr std::uint32_t kCoarseMax = 1024;   // fine chunks in a coarse one
constexpr std::uint32_t kChunksMax = std::uint32_t{1} << 24;

// The lowest bit of [from, end) that has the wanted value, or `end`.
std::uint32_t next_bit(const std::uint64_t* words, bool wanted, ChunkRange range) noexcept {
  for (std::uint32_t at = range.first; at < range.end; at = (at / 64 + 1) * 64) {
    const std::uint64_t word = (wanted ? words[at / 64] : ~words[at / 64]) & (~std::uint64_t{0} << (at % 64));
    if (word == 0) continue;
    const std::uint32_t found = at / 64 * 64 + static_cast<std::uint32_t>(std::countr_zero(word));
    return found < range.end ? found : range.end;
  }
  return range.end;
}

void write_bit(std::uint64_t* words, std::uint32_t bit, bool value) noexcept {
  const std::uint64_t mask = std::uint64_t{1} << (bit % 64);
  words[bit / 64] = value ? words[bit / 64] | mask : words[bit / 64] & ~mask;
}

}  // namespace

Outcome DeviceSpace::open(Gpu& gpu, const DeviceSpaceOptions& options) noexcept {
  close();
  const std::size_t granule = gpu.facts().granule_bytes;
  if (!is_power_of_two(options.fine_bytes) || !is_power_of_two(options.coarse_bytes) ||
      options.fine_bytes % granule != 0 || options.fine_bytes > kGiB) {
    return Status::bad_argument;
  }
  if (options.coarse_bytes < options.fine_bytes || options.coarse_bytes / options.fine_bytes > kCoarseMax) {
    return Status::bad_argument;
  }
  const std::uint64_t wanted =
      options.reserve_bytes != 0 ? options.reserve_bytes : gpu.facts().total_bytes * kReserveFactor;
  if (wanted / options.fine_bytes > kChunksMax - options.coarse_bytes / options.fine_bytes) {
    return Status::bad_argument;
  }
  options_ = options;
  shift_ = log2_floor(options.fine_bytes);
  reserved_bytes_ = align_up(wanted, options.coarse_bytes);
  chunk_count_ = static_cast<std::uint32_t>(reserved_bytes_ >> shift_);
  coarse_chunks_ = static_cast<std::uint32_t>(options.coarse_bytes >> shift_);
  gpu_ = &gpu;
  Outcome outcome = open_table();
  if (outcome.ok()) outcome = open_pools();
  if (outcome.ok()) {
    const CurrentContext current(gpu);
    outcome =
        gpu.check(gpu.driver().mem_address_reserve(&base_, reserved_bytes_, options.coarse_bytes, 0, 0));
    if (outcome.status == Status::out_of_memory) outcome.status = Status::out_of_addresses;
    if (!outcome.ok()) base_ = 0;
  }
  if (!outcome.ok()) close();
  return outcome;
}

Outcome DeviceSpace::open_table() noexcept {
  const std::uint64_t words = divide_up(chunk_count_, 64);
  const std::uint64_t entries_bytes = align_up(chunk_count_ * sizeof(ChunkEntry), 64);
  const std::uint64_t table_bytes = entries_bytes + 3 * words * sizeof(std::uint64_t);
  if (!table_.reserve(table_bytes, table_bytes, 4 * kKiB) || !table_.grow_to(table_bytes)) {
    return Status::no_host_memory;
  }
  entries_ = reinterpret_cast<ChunkEntry*>(table_.base());
  empty_ = reinterpret_cast<std::uint64_t*>(table_.base() + entries_bytes);
  mapped_ = empty_ + words;
  planned_ = mapped_ + words;
  for (std::uint64_t i = 0; i < words; ++i) empty_[i] = ~std::uint64_t{0};
  cached_[0] = cached_[1] = {};
  mapped_bytes_ = peak_mapped_bytes_ = cached_bytes_ = 0;
  maps_ = set_accesses_ = unmaps_ = remapped_ = 0;
  return {};
}

Outcome DeviceSpace::open_pools() noexcept {
  ChunkPoolOptions options;
  options.chunk_bytes = options_.fine_bytes;
  options.chunks_max = chunk_count_;
  options.budget = options_.budget;
  options.tag = options_.budget_tag;
  options.calls_back = false;
  const Outcome outcome = fine_pool_.open(*gpu_, options);
  if (!outcome.ok() || coarse_chunks_ == 1) return outcome;
  options.chunk_bytes = options_.coarse_bytes;
  options.chunks_max = chunk_count_ / coarse_chunks_;
  return coarse_pool_.open(*gpu_, options);
}

std::uint32_t DeviceSpace::next_empty(std::uint32_t from, std::uint32_t end) const noexcept {
  return next_bit(empty_, true, {from, end});
}
std::uint32_t DeviceSpace::next_busy(std::uint32_t from, std::uint32_t end) const noexcept {
  return next_bit(empty_, false, {from, end});
}
std::uint32_t DeviceSpace::next_mapped(std::uint32_t from, std::uint32_t end) const noexcept {
  return next_bit(mapped_, true, {from, end});
}
std::uint32_t DeviceSpace::next_unmapped(std::uint32_t from, std::uint32_t end) const noexcept {
  return next_bit(mapped_, false, {from, end});
}
std::uint32_t DeviceSpace::next_planned(std::uint32_t from, std::uint32_t end) const noexcept {
  return next_bit(planned_, true, {from, end});
}
std::uint32_t DeviceSpace::next_unplanned(std::uint32_t from, std::uint32_t end) const noexcept {
  return next_bit(planned_, false, {from, end});
}

bool DeviceSpace::is_mapped(ChunkRange chunks) const noexcept {
  if (chunks.end - chunks.first == 1) return is_mapped_bit(chunks.first);
  return next_unmapped(chunks.first, chunks.end) == chunks.end;
}

std::uint32_t DeviceSpace::unmapped_count(ChunkRange chunks) const noexcept {
  std::uint32_t count = 0;
  for (std::uint32_t at = chunks.first; at < chunks.end; at = (at / 64 + 1) * 64) {
    const unsigned rest = 64 - at % 64;
    const unsigned wanted = chunks.end - at < rest ? chunks.end - at : rest;
    count += count_bits(~mapped_[at / 64] & bit_range(at % 64, wanted));
  }
  return count;
}

void DeviceSpace::add_live(ByteRange bytes, std::uint32_t blocks) noexcept {
  const std::uint64_t end = bytes.offset_bytes + bytes.size_bytes;
  for (std::uint64_t at = bytes.offset_bytes; at < end;) {
    const auto chunk = static_cast<std::uint32_t>(at >> shift_);
    const std::uint64_t chunk_end = std::uint64_t{chunk + 1} << shift_;
    const std::uint64_t until = end < chunk_end ? end : chunk_end;
    ChunkEntry& own = entries_[chunk];
    if (own.live_blocks == 0 && own.pins == 0) set_busy(chunk);
    own.live_bytes += static_cast<std::uint32_t>(until - at);
    own.live_blocks += blocks;
    ASSERT(own.live_bytes <= options_.fine_bytes);
    at = until;
  }
}

ChunkRange DeviceSpace::remove_live(ByteRange bytes, std::uint32_t blocks) noexcept {
  const std::uint64_t end = bytes.offset_bytes + bytes.size_bytes;
  ChunkRange emptied{chunk_count_, 0};
  for (std::uint64_t at = bytes.offset_bytes; at < end;) {
    const auto chunk = static_cast<std::uint32_t>(at >> shift_);
    const std::uint64_t chunk_end = std::uint64_t{chunk + 1} << shift_;
    const std::uint64_t until = end < chunk_end ? end : chunk_end;
    ChunkEntry& own = entries_[chunk];
    own.live_bytes -= static_cast<std::uint32_t>(until - at);
    own.live_blocks -= blocks;
    at = until;
    if (own.live_blocks != 0 || own.pins != 0) continue;
    set_empty(chunk);
    if (chunk < emptied.first) emptied.first = chunk;
    emptied.end = chunk + 1;
  }
  return emptied;
}

void DeviceSpace::pin(ChunkRange chunks) noexcept {
  for (std::uint32_t at = chunks.first; at < chunks.end; ++at) {
    ChunkEntry& own = entries_[at];
    CHECK(own.live_blocks != 0);  // so it is busy already
    ++own.pins;
  }
}

void DeviceSpace::unpin(ChunkRange chunks) noexcept {
  for (std::uint32_t at = chunks.first; at < chunks.end; ++at) {
    CHECK(entries_[at].pins != 0);
    CHECK(entries_[at].live_blocks != 0);
    --entries_[at].pins;
  }
}

// An entry that held nothing gets a block.
void DeviceSpace::set_busy(std::uint32_t chunk) noexcept {
  write_bit(empty_, chunk, false);
  if (!is_mapped_bit(chunk)) return;
  const std::uint32_t first = chunk - entries_[chunk].part;
  if (entries_[first].busy++ == 0) leave_cached(first);
}

void DeviceSpace::set_empty(std::uint32_t chunk) noexcept {
  write_bit(empty_, chunk, true);
  if (!is_mapped_bit(chunk)) return;
  const std::uint32_t first = chunk - entries_[chunk].part;
  if (--entries_[first].busy == 0) join_cached(first);
}

void DeviceSpace::join_cached(std::uint32_t first) noexcept {
  ChunkEntry& own = entries_[first];
  Cached& list = cached_of(own.kind);
  own.is_cached = true;
  own.previous = list.newest;
  own.next = 0;
  if (list.newest != 0) {
    entries_[list.newest - 1].next = first + 1;
  } else {
    list.oldest = first + 1;
  }
  list.newest = first + 1;
  ++list.count;
  cached_bytes_ += bytes_in(own.kind);
}

void DeviceSpace::leave_cached(std::uint32_t first) noexcept {
  ChunkEntry& own = entries_[first];
  CHECK(own.is_cached);
  Cached& list = cached_of(own.kind);
  (own.previous != 0 ? entries_[own.previous - 1].next : list.oldest) = own.next;
  (own.next != 0 ? entries_[own.next - 1].previous : list.newest) = own.previous;
  own.is_cached = false;
  --list.count;
  cached_bytes_ -= bytes_in(own.kind);
}

// The mapping that starts at `first` counts from now on, or does not; it is in no list.
void DeviceSpace::set_mapped(std::uint32_t first, bool is_mapped) noexcept {
  ChunkEntry& own = entries_[first];
  own.busy = 0;
  for (std::uint32_t at = first; at < first + entries_in(own.kind); ++at) {
    write_bit(mapped_, at, is_mapped);
    ++entries_[at].generation;
    if (!is_empty(at)) ++own.busy;
  }
  if (!is_mapped) {
    if (!own.is_alias) mapped_bytes_ -= bytes_in(own.kind);
    own.is_alias = false;
    return;
  }
  mapped_bytes_ += bytes_in(own.kind);
  if (mapped_bytes_ > peak_mapped_bytes_) peak_mapped_bytes_ = mapped_bytes_;
  if (own.busy == 0) join_cached(first);
}

bool DeviceSpace::validate() const noexcept {
  std::uint64_t mapped_bytes = 0, cached_bytes = 0;
  for (std::uint32_t at = 0; at < chunk_count_; ++at) {
    const ChunkEntry& own = entries_[at];
    if (is_empty(at) != (own.live_blocks == 0 && own.pins == 0)) return false;
    if ((own.live_blocks == 0) != (own.live_bytes == 0) || own.live_bytes > options_.fine_bytes) return false;
    if (!is_mapped_bit(at)) continue;
    const ChunkEntry& head = entries_[at - own.part];
    if (!head.is_alias) mapped_bytes += options_.fine_bytes;
    if (head.part != 0 || head.handle == 0 || own.part >= entries_in(head.kind)) return false;
    if (own.part != 0) continue;
    std::uint32_t busy = 0;
    for (std::uint32_t i = at; i < at + entries_in(own.kind); ++i) {
      if (!is_mapped_bit(i) || entries_[i].part != i - at) return false;
      if (!is_empty(i)) ++busy;
    }
    if (busy != own.busy || own.is_cached != (busy == 0)) return false;
    if (busy == 0) cached_bytes += bytes_in(own.kind);
  }
  return mapped_bytes == mapped_bytes_ && cached_bytes == cached_bytes_ && validate_lists();
}

bool DeviceSpace::validate_lists() const noexcept {
  for (unsigned kind = 0; kind < 2; ++kind) {
    std::uint32_t count = 0, previous = 0;
    for (std::uint32_t link = cached_[kind].oldest; link != 0; link = entries_[link - 1].next) {
      const ChunkEntry& own = entries_[link - 1];
      if (!own.is_cached || static_cast<unsigned>(own.kind) != kind || own.previous != previous) return false;
      if (++count > chunk_count_) return false;
      previous = link;
    }
    if (count != cached_[kind].count || cached_[kind].newest != previous) return false;
  }
  return true;
}

// Entries that are mapped and hold nothing.
std::uint64_t DeviceSpace::empty_count() const noexcept {
  std::uint64_t count = 0;
  for (std::uint32_t word = 0; word < divide_up(chunk_count_, 64); ++word) {
    count += count_bits(mapped_[word] & empty_[word]);
  }
  return count;
}

DeviceSpaceStats DeviceSpace::stats() noexcept {
  DeviceSpaceStats stats;
  if (gpu_ == nullptr) return stats;
  const ChunkPoolStats fine = fine_pool_.stats();
  const ChunkPoolStats coarse = coarse_chunks_ > 1 ? coarse_pool_.stats() : ChunkPoolStats{};
  const Lock lock(table_lock_);
  stats.reserved_bytes = reserved_bytes_;
  stats.mapped_bytes = mapped_bytes_;
  stats.peak_mapped_bytes = peak_mapped_bytes_;
  stats.cached_bytes = cached_bytes_;
  stats.empty_bytes = empty_count() * options_.fine_bytes;
  stats.fine_chunks = fine.chunks;
  stats.coarse_chunks = coarse.chunks;
  stats.idle_bytes = fine.idle_chunks * options_.fine_bytes + coarse.idle_chunks * options_.coarse_bytes;
  stats.held_bytes = fine.chunks * options_.fine_bytes + coarse.chunks * options_.coarse_bytes;
  stats.creates = fine.created + coarse.created;
  stats.releases = fine.released + coarse.released;
  stats.maps = maps_.load(std::memory_order_relaxed);
  stats.set_accesses = set_accesses_.load(std::memory_order_relaxed);
  stats.unmaps = unmaps_.load(std::memory_order_relaxed);
  stats.chunks_remapped = remapped_.load(std::memory_order_relaxed);
  return stats;
}

}  // namespace glebe::device
