// Opening, closing, the quick paths and the numbers. See stream_pool.h.
#include "src/device/stream_pool.h"

#include "src/base/check.h"

namespace glebe::device {

using os::Lock;

StreamPool::~StreamPool() {
  if (gpu_ != nullptr && !close().ok() && gpu_ != nullptr) abandon(false);
}

Outcome StreamPool::open(Gpu& gpu, const StreamPoolOptions& options) noexcept {
  if (gpu_ != nullptr) return Status::in_use;
  if (options.source.allocate == nullptr || options.source.free == nullptr || options.streams_max == 0 ||
      options.streams_max > (1u << 20) || options.blocks_max == 0 || options.blocks_max >= (1u << 31)) {
    return Status::bad_argument;
  }
  const Outcome has_events = events_.open(gpu);
  if (!has_events.ok()) return has_events;
  gpu_ = &gpu;
  options_ = options;
  // Twice as many entries as streams, a power of two, so that searches are short.
  entry_count_ = std::uint32_t{2} << log2_ceil(options.streams_max);
  const std::size_t entry_bytes = entry_count_ * sizeof(StreamEntry);
  const std::size_t slot_bytes = options.streams_max * sizeof(StreamSlot);
  if (!slot_memory_.reserve(slot_bytes, slot_bytes, 4 * kKiB) ||
      !entry_memory_.reserve(entry_bytes, entry_bytes, 4 * kKiB) || !entry_memory_.grow_to(entry_bytes) ||
      !blocks_.open(options.blocks_max) || !uses_.open(options.blocks_max)) {
    abandon(true);
    return Status::no_host_memory;
  }
  if (!options.use_timeline || !gpu.facts().has_write_value) return {};
  const CurrentContext current(gpu);
  void* words = nullptr;
  const std::size_t word_bytes = std::size_t{options.streams_max} * kTimelineStride;
  const Outcome outcome =
      gpu.check(gpu.driver().mem_host_alloc(&words, word_bytes, cuda::kHostPortable | cuda::kHostDeviceMap));
  if (!outcome.ok()) {
    abandon(true);
    return outcome;
  }
  timeline_ = static_cast<std::byte*>(words);
  for (std::uint32_t i = 0; i < options.streams_max; ++i) *word_of(i) = 0;
  return {};
}

Outcome StreamPool::close() noexcept {
  if (gpu_ == nullptr) return {};
  Outcome outcome;
  const CurrentContext current(*gpu_);
  if (!gpu_->is_lost()) {
    if (is_any_captured()) return Status::not_ready;
    outcome = gpu_->check(gpu_->driver().ctx_synchronize());
    if (!outcome.ok() && !gpu_->is_lost()) return outcome;
  }
  for (BlockNumber number = 1; number < blocks_.end(); ++number) {
    const Outcome freed = give_live_back(number);
    if (outcome.ok()) outcome = freed;
  }
  abandon(true);
  return outcome;
}

Outcome StreamPool::give_live_back(BlockNumber number) noexcept {
  const Block& block = blocks_[number];
  if (block.word.load(std::memory_order_relaxed) == 0) return {};
  return options_.source.free(options_.source.self, block.address());
}

// Drops the state of the host. Without the blocks, memory that the device may still write to stays too.
void StreamPool::abandon(bool are_blocks_free) noexcept {
  const CurrentContext current(*gpu_);
  for (std::uint32_t i = 0; i < slot_count(); ++i) {
    StreamSlot& slot = slots()[i];
    pop_reached(slot, UINT64_MAX);
  }
  events_.close();
  if (timeline_ != nullptr && are_blocks_free) {
    static_cast<void>(gpu_->check(gpu_->driver().mem_free_host(timeline_)));
  }
  timeline_ = nullptr;
  blocks_.close();
  uses_.close();
  slot_memory_.release();
  entry_memory_.release();
  for (std::atomic<std::uint32_t>* count : {&slot_count_, &known_streams_, &legacy_slot_, &captures_}) {
    count->store(0, std::memory_order_relaxed);
  }
  for (std::atomic<std::uint64_t>* count : {&stamp_, &epochs_closed_, &events_recorded_, &polls_,
                                            &stream_waits_, &host_waits_, &device_waits_, &given_back_}) {
    count->store(0, std::memory_order_relaxed);
  }
  erased_ = 0;
  held_blocks_ = held_bytes_ = peak_held_bytes_ = 0;
  failure_ = {};
  gpu_ = nullptr;
}

// A ref of a thread's own stream may go stale between two calls.
template <class Work>
Outcome StreamPool::with_stream(cuda::Stream stream, const Work& work) noexcept {
  constexpr unsigned kTriesMax = 4;
  Outcome outcome;
  for (unsigned attempt = 0; attempt < kTriesMax; ++attempt) {
    StreamRef ref;
    outcome = find_stream(stream, &ref);
    if (!outcome.ok()) return outcome;
    outcome = work(ref);
    const StreamSlot* slot = slot_of(ref);
    if (outcome.status != Status::bad_argument || slot == nullptr) return outcome;
    if (slot->generation.load(std::memory_order_relaxed) == ref.generation) return outcome;
  }
  return outcome;
}

Outcome StreamPool::check_open() const noexcept {
  if (gpu_ == nullptr) return Status::bad_argument;
  if (gpu_->is_lost()) return Status::device_lost;
  return {};
}

Outcome StreamPool::check_request(Request& request) const noexcept {
  if (request.align_bytes < kDeviceAlignBytes) {
    if ((request.align_bytes & (request.align_bytes - 1)) != 0) return Status::bad_argument;
    request.align_bytes = kDeviceAlignBytes;
  }
  if (request.size_bytes == 0 || request.size_bytes > kPooledMaxBytes ||
      !is_power_of_two(request.align_bytes)) {
    return Status::bad_argument;
  }
  request.size_class = size_class_of(request.size_bytes);
  return {};
}

// The block that the stream freed last is the one whose memory its caches know best.
bool StreamPool::take_newest(const Request& request, StreamSlot& slot,
                             cuda::DevicePointer* address) noexcept {
  BlockList& list = slot.lists[request.size_class];
  const BlockNumber number = list.front;
  if (number == kNoBlock || slot.is_deferring) return false;
  Block& block = blocks_[number];
  const cuda::DevicePointer found = block.address();
  if (!is_aligned(found, request.align_bytes)) return false;
  slot.take(blocks_, list, number);
  slot.hand_out(block, request.size_bytes, BlockOrigin::same_stream);
  *address = found;
  return true;
}

Outcome StreamPool::allocate(std::uint64_t size_bytes, std::uint64_t align_bytes, StreamRef ref,
                             cuda::DevicePointer* address) noexcept {
  Outcome outcome = check_open();
  if (!outcome.ok()) return outcome;
  Request request = {size_bytes, align_bytes, 0};
  outcome = check_request(request);
  if (!outcome.ok()) return outcome;
  StreamSlot* slot = slot_of(ref);
  if (slot == nullptr) return Status::bad_argument;
  {
    const Lock lock(slot->lock);
    if (slot->generation.load(std::memory_order_relaxed) != ref.generation) return Status::bad_argument;
    ++slot->counts.requests;
    if (take_newest(request, *slot, address)) return {};
  }
  return allocate_slow(request, ref, address);
}

Outcome StreamPool::allocate(std::uint64_t size_bytes, std::uint64_t align_bytes, cuda::Stream stream,
                             cuda::DevicePointer* address) noexcept {
  return with_stream(stream, [&](StreamRef ref) { return allocate(size_bytes, align_bytes, ref, address); });
}

Outcome StreamPool::deallocate(cuda::DevicePointer address, StreamRef ref) noexcept {
  const Outcome outcome = check_open();
  if (!outcome.ok()) return outcome;
  StreamSlot* slot = slot_of(ref);
  if (slot == nullptr || slot->generation.load(std::memory_order_relaxed) != ref.generation) {
    return Status::bad_argument;
  }
  const BlockNumber number = blocks_.find(address);
  if (number == kNoBlock) return refuse_free(address, *slot);
  Block& block = blocks_[number];
  std::uint64_t expected = block_word(address, BlockState::live);
  // Acquire pairs with the release of whoever handed it out. One of two frees wins.
  if (!block.word.compare_exchange_strong(expected, block_word(address, BlockState::idle),
                                          std::memory_order_acq_rel, std::memory_order_relaxed)) {
    return refuse_free(address, *slot);
  }
  if (block.uses.load(std::memory_order_relaxed) != kNoUse) return deallocate_used(number, ref);
  bool is_full;
  {
    const Lock lock(slot->lock);
    if (slot->generation.load(std::memory_order_relaxed) != ref.generation) return keep_live(block);
    // The block before counts, not this one: a stream that takes back what it frees never closes an epoch.
    is_full = slot->open_frees >= kEpochFrees || slot->open_bytes >= kEpochBytes;
    BlockList& list = slot->is_deferring ? slot->deferred : slot->lists[block.size_class];
    ++slot->counts.frees;
    --slot->counts.live_blocks;
    slot->counts.live_bytes -= block.size_bytes;
    slot->counts.wanted_bytes -= block.wanted_bytes;
    slot->put(blocks_, list, number);
  }
  if (!is_full || known_streams_.load(std::memory_order_relaxed) < 2 || !slot->slow.try_lock()) return {};
  // Failure means that the epoch stays open. Who wants its blocks tries again.
  const CurrentContext current(*gpu_);
  if (slot->closed_count == StreamSlot::kClosedMax) poll(*slot);
  static_cast<void>(close_epoch(*slot, false));
  slot->slow.unlock();
  return {};
}

Outcome StreamPool::deallocate(cuda::DevicePointer address, cuda::Stream stream) noexcept {
  return with_stream(stream, [&](StreamRef ref) { return deallocate(address, ref); });
}

Outcome StreamPool::refuse_free(cuda::DevicePointer address, StreamSlot& slot) noexcept {
  const BlockNumber number = blocks_.find(address);
  const bool is_ours = number != kNoBlock;
  const Lock lock(slot.lock);
  ++slot.counts.refused_frees;
  return is_ours ? Status::double_free : Status::not_owned;
}

// The stream was forgotten meanwhile.
Outcome StreamPool::keep_live(Block& block) noexcept {
  block.word.store(block_word(block.address(), BlockState::live), std::memory_order_release);
  return Status::bad_argument;
}

// The block waits in the limbo of the stream that freed it until the others have reached their open epochs.
Outcome StreamPool::deallocate_used(BlockNumber number, StreamRef ref) noexcept {
  Block& block = blocks_[number];
  std::uint32_t first;
  {
    const Lock lock(uses_mutex_);
    first = block.uses.load(std::memory_order_relaxed);
  }
  for (std::uint32_t at = first; at != kNoUse; at = uses_[at].next) {
    StreamUse& use = uses_[at];
    StreamSlot& other = slots()[use.slot];
    const Lock lock(other.lock);
    if (other.generation.load(std::memory_order_relaxed) != use.generation) {
      use.epoch = other.last_epoch;  // nothing was queued in it since it was forgotten
    } else if (use.slot == ref.slot) {
      use.epoch = 0;  // the order of the stream itself
    } else {
      use.epoch = other.open_epoch.load(std::memory_order_relaxed);
      other.is_used_open = true;
    }
  }
  StreamSlot& slot = slots()[ref.slot];
  const Lock lock(slot.lock);
  if (slot.generation.load(std::memory_order_relaxed) != ref.generation) return keep_live(block);
  ++slot.counts.frees;
  --slot.counts.live_blocks;
  slot.counts.live_bytes -= block.size_bytes;
  slot.counts.wanted_bytes -= block.wanted_bytes;
  slot.put(blocks_, slot.limbo, number);
  return {};
}

Outcome StreamPool::record_use(cuda::DevicePointer address, StreamRef ref) noexcept {
  const Outcome outcome = check_open();
  if (!outcome.ok()) return outcome;
  StreamSlot* slot = slot_of(ref);
  if (slot == nullptr) return Status::bad_argument;
  const BlockNumber number = blocks_.find(address);
  if (number == kNoBlock) return Status::not_owned;
  const std::uint32_t fresh = uses_.take();
  if (fresh == kNoUse) return Status::no_host_memory;
  StreamUse& use = uses_[fresh];
  use.epoch = UINT64_MAX;  // until the block is freed
  use.slot = ref.slot;
  use.generation = ref.generation;
  bool is_stale;
  {
    const Lock lock(slot->lock);
    is_stale = slot->generation.load(std::memory_order_relaxed) != ref.generation;
    if (!is_stale) slot->uses.fetch_add(1, std::memory_order_relaxed);
  }
  Block& block = blocks_[number];
  bool is_known = is_stale, is_live;
  {
    const Lock lock(uses_mutex_);
    is_live = block.word.load(std::memory_order_relaxed) == block_word(address, BlockState::live);
    const std::uint32_t first = block.uses.load(std::memory_order_relaxed);
    for (std::uint32_t at = is_live ? first : kNoUse; at != kNoUse && !is_known; at = uses_[at].next) {
      is_known = uses_[at].slot == ref.slot && uses_[at].generation == ref.generation;
    }
    use.next = first;
    if (is_live && !is_known) block.uses.store(fresh, std::memory_order_relaxed);
  }
  if (is_live && !is_known) return {};
  use.next = kNoUse;
  if (is_stale) {
    uses_.give(fresh);
    return Status::bad_argument;
  }
  give_uses(fresh);
  return is_live ? Outcome() : Outcome(Status::not_owned);
}

Outcome StreamPool::record_use(cuda::DevicePointer address, cuda::Stream stream) noexcept {
  return with_stream(stream, [&](StreamRef ref) { return record_use(address, ref); });
}

StreamPoolStats StreamPool::stats() noexcept {
  StreamPoolStats stats;
  if (gpu_ == nullptr) return stats;
  // All at once, so that what moves from one stream to another is counted once.
  const std::uint32_t count = slot_count();
  for (std::uint32_t i = 0; i < count; ++i) slots()[i].lock.lock();
  for (std::uint32_t i = 0; i < count; ++i) {
    const SlotCounts& counts = slots()[i].counts;
    stats.requests += counts.requests;
    stats.failures += counts.failures;
    for (unsigned k = 0; k < kBlockOrigins; ++k) stats.origins[k] += counts.origins[k];
    stats.frees += counts.frees;
    stats.refused_frees += counts.refused_frees;
    stats.live_blocks += counts.live_blocks;
    stats.live_bytes += counts.live_bytes;
    stats.wanted_bytes += counts.wanted_bytes;
    stats.idle_blocks += slots()[i].idle_blocks;
    stats.idle_bytes += slots()[i].idle_bytes;
  }
  {
    const Lock lock(held_mutex_);
    stats.held_blocks = held_blocks_;
    stats.held_bytes = held_bytes_;
    stats.peak_held_bytes = peak_held_bytes_;
  }
  for (std::uint32_t i = 0; i < count; ++i) slots()[i].lock.unlock();
  stats.given_back = given_back_.load(std::memory_order_relaxed);
  stats.epochs_closed = epochs_closed_.load(std::memory_order_relaxed);
  stats.events_recorded = events_recorded_.load(std::memory_order_relaxed);
  stats.polls = polls_.load(std::memory_order_relaxed);
  stats.stream_waits = stream_waits_.load(std::memory_order_relaxed);
  stats.host_waits = host_waits_.load(std::memory_order_relaxed);
  stats.device_waits = device_waits_.load(std::memory_order_relaxed);
  stats.streams = known_streams_.load(std::memory_order_relaxed);
  return stats;
}

StreamPoolFailure StreamPool::last_failure() noexcept {
  const Lock lock(held_mutex_);
  return failure_;
}

}  // namespace glebe::device
