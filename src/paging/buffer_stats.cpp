// Numbers of the pager and its walk over everything; see buffer_pager.h.
#include "platform/process.h"
#include "src/base/bits.h"
#include "src/paging/buffer_use.h"

namespace glebe::paging {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::uint8_t kMemoryBits = static_cast<std::uint8_t>(bit_of(Tier::host) | bit_of(Tier::device));

// Where the bytes of an extent count: each in exactly one of the three.
enum class Place : std::uint8_t { resident, paged_out, unbacked };
Place place_of(std::uint8_t valid) noexcept {
  if (valid == 0) return Place::unbacked;
  return (valid & kMemoryBits) != 0 ? Place::resident : Place::paged_out;
}

// What validate() counts.
struct Census {
  // False: the extent breaks an invariant.
  [[nodiscard]] bool add(Extent& extent, const Store& store, PartTable& parts) noexcept {
    const Residency state = extent.load();
    if (!is_legal(state) || state.flight != Flight::none) return false;
    if (state.has(Tier::compressed) != (extent.compressed != kNoObject)) return false;
    if (state.has(Tier::file) != (extent.file != kNoObject)) return false;
    if (state.has(Tier::device) != (extent.device != kNoDeviceAddress)) return false;
    const bool is_victim = state.has(Tier::host) && extent.buffer->usage != Usage::fixed;
    if (extent.item(Tier::host).is_queued() != is_victim) return false;
    victims += is_victim ? 1 : 0;
    places[static_cast<unsigned>(place_of(state.valid))] += extent.size_bytes;
    for (unsigned tier = 0; tier < kTiers; ++tier) {
      if (state.has(static_cast<Tier>(tier))) tiers[tier] += extent.size_bytes;
    }
    if (state.has(Tier::host)) host += extent.memory_bytes;
    if (state.has(Tier::device)) device += extent.memory_bytes;
    if (state.has(Tier::compressed)) {
      for (const Handle part : parts.of(extent.compressed_bytes, extent.compressed)) {
        compressed += store.slot_bytes(part);
      }
    }
    if (state.has(Tier::file)) file += extent.file_bytes;
    return true;
  }

  std::uint64_t total = 0, extents = 0, buffers = 0, host = 0, compressed = 0, device = 0, file = 0,
                victims = 0;
  std::uint64_t places[3] = {}, tiers[kTiers] = {};
};

}  // namespace

// The bytes of an extent whose valid copies changed move from one counter to another.
void BufferPager::account(const Extent& extent, std::uint8_t before, std::uint8_t after) noexcept {
  if (before == after) return;
  const std::uint64_t bytes = extent.size_bytes;
  for (unsigned i = 0; i < kTiers; ++i) {
    const std::uint8_t bit = bit_of(static_cast<Tier>(i));
    if ((before & bit) == (after & bit)) continue;
    (after & bit) != 0 ? tier_bytes_[i].fetch_add(bytes, kRelaxed)
                       : tier_bytes_[i].fetch_sub(bytes, kRelaxed);
  }
  const auto counter = [this](Place place) noexcept -> std::atomic<std::uint64_t>& {
    if (place == Place::unbacked) return unbacked_bytes_;
    return place == Place::resident ? resident_bytes_ : paged_out_bytes_;
  };
  if (place_of(before) == place_of(after)) return;
  counter(place_of(before)).fetch_sub(bytes, kRelaxed);
  counter(place_of(after)).fetch_add(bytes, kRelaxed);
}

void BufferPager::count_latency(std::uint64_t started_ns) noexcept {
  const std::uint64_t ns = os::clock_fine_ns() - started_ns;
  const unsigned bucket = log2_floor(ns | 1);
  latency_[bucket < kLatencyBuckets ? bucket : kLatencyBuckets - 1].fetch_add(1, kRelaxed);
}

Result BufferPager::size_of(BufferHandle handle, std::size_t* size_bytes) noexcept {
  if (is_in_child()) return Result::in_child;
  const Use use(*this, handle);
  if (use.buffer == nullptr) return Result::bad_handle;
  *size_bytes = use.buffer->size_bytes;
  return Result::ok;
}

Result BufferPager::info(BufferHandle handle, BufferInfo* info) noexcept {
  if (is_in_child()) return Result::in_child;
  const Use use(*this, handle);
  if (use.buffer == nullptr) return Result::bad_handle;
  const Buffer& buffer = *use.buffer;
  *info = {};
  info->address = buffer.address;
  info->size_bytes = buffer.size_bytes;
  info->extents = buffer.extent_count;
  info->usage = buffer.usage;
  info->type_id = buffer.type_id;
  std::uint32_t last_use = 0;
  for (std::uint32_t i = 0; i < buffer.extent_count; ++i) {
    const Extent& extent = buffer.extents[i];
    const Residency state = extent.load();
    for (unsigned tier = 0; tier < kTiers; ++tier) {
      if (state.has(static_cast<Tier>(tier))) info->valid_bytes[tier] += extent.size_bytes;
    }
    if (state.dirty != Owner::none) info->dirty_bytes += extent.size_bytes;
    if (state.valid == 0) info->unbacked_bytes += extent.size_bytes;
    if (state.pinned() != 0) info->pinned_bytes += extent.size_bytes;
    for (const VictimItem* item : {&extent.item(Tier::host), &extent.item(Tier::device)}) {
      const std::uint32_t used = item->last_use.load(kRelaxed);
      if (used > last_use) last_use = used;
    }
  }
  info->age = epoch() - last_use;
  return Result::ok;
}

BufferPagerStats BufferPager::stats() noexcept {
  BufferPagerStats stats = {};
  stats.buffers = buffer_total_.load(kRelaxed);
  stats.extents = extent_total_.load(kRelaxed);
  stats.total_bytes = total_bytes_.load(kRelaxed);
  stats.resident_bytes = resident_bytes_.load(kRelaxed);
  stats.paged_out_bytes = paged_out_bytes_.load(kRelaxed);
  stats.unbacked_bytes = unbacked_bytes_.load(kRelaxed);
  for (unsigned i = 0; i < kTiers; ++i) stats.tier_bytes[i] = tier_bytes_[i].load(kRelaxed);
  const auto budget = [&stats](Tier tier, const Budget& from) noexcept {
    const auto i = static_cast<unsigned>(tier);
    stats.tier_used[i] = from.used_bytes();
    stats.tier_limit[i] = from.limit_bytes();
    stats.tier_peak[i] = from.peak_bytes();
  };
  budget(Tier::host, host_budget_);
  budget(Tier::device, device_budget_);
  budget(Tier::file, file_budget_);
  const auto compressed = static_cast<unsigned>(Tier::compressed);
  stats.tier_used[compressed] = stats.tier_peak[compressed] = is_open_ ? store_.compressed_bytes() : 0;
  stats.tier_limit[compressed] = compressed_limit_.load(kRelaxed);
  const auto counter = [this](Counter which) noexcept { return counters_[which].load(kRelaxed); };
  stats.pins = use_logs_[0].pins() + use_logs_[1].pins();
  stats.page_ins = counter(kPageIns);
  stats.implicit_page_ins = counter(kImplicitPageIns);
  stats.page_outs = counter(kPageOuts);
  stats.zero_fills = counter(kZeroFills);
  stats.clean_drops = counter(kCleanDrops);
  stats.bytes_in = counter(kBytesIn);
  stats.bytes_out = counter(kBytesOut);
  stats.device_in = counter(kDeviceIn);
  stats.device_out = counter(kDeviceOut);
  stats.evictions = counter(kEvictions);
  stats.refused_pinned = counter(kRefusedPinned);
  stats.spoiled = counter(kSpoiled);
  stats.failed_copies = counter(kFailedCopies);
  stats.waits = counter(kWaits);
  stats.failed_purges = counter(kFailedPurges);
  stats.crawls = counter(kCrawls);
  stats.crawled_extents = counter(kCrawledExtents);
  stats.prefetches = counter(kPrefetches);
  stats.requests = requests_.total();
  stats.pending = requests_.pending();
  stats.epoch = epoch();
  for (unsigned i = 0; i < kLatencyBuckets; ++i) stats.page_in_ns[i] = latency_[i].load(kRelaxed);
  return stats;
}

bool BufferPager::validate() noexcept {
  Census census;
  const os::Lock names(names_lock_);
  const os::Lock victims(victims_lock_);
  for (const Buffer* buffer = all_.first(); buffer != nullptr; buffer = all_.next(buffer)) {
    ++census.buffers;
    census.total += buffer->size_bytes;
    census.extents += buffer->extent_count;
    for (std::uint32_t i = 0; i < buffer->extent_count; ++i) {
      if (!census.add(buffer->extents[i], store_, part_table_)) return false;
    }
  }
  for (unsigned tier = 0; tier < kTiers; ++tier) {
    if (census.tiers[tier] != tier_bytes_[tier].load(kRelaxed)) return false;
  }
  return census.total == total_bytes_.load(kRelaxed) && census.extents == extent_total_.load(kRelaxed) &&
         census.buffers == buffer_total_.load(kRelaxed) && census.victims == host_victims_->count() &&
         census.host == host_budget_.used_bytes() && census.device == device_budget_.used_bytes() &&
         census.compressed == compressed_budget_.used_bytes() && census.file == file_budget_.used_bytes() &&
         census.places[0] == resident_bytes_.load(kRelaxed) &&
         census.places[1] == paged_out_bytes_.load(kRelaxed) &&
         census.places[2] == unbacked_bytes_.load(kRelaxed);
}

}  // namespace glebe::paging
