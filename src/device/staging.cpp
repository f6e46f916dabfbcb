// A request first looks for room, then asks the driver which fences are reached and looks again, and so on
// with short sleeps, which end at once when a thread gives a block back. See staging.h.
#include "src/device/staging.h"

#include <memory>

#include "platform/process.h"
#include "platform/service.h"
#include "src/base/check.h"

namespace glebe::device {

using os::Lock;

namespace {

constexpr std::uint64_t kLookNs = 20'000'000;  // who waits for another thread looks again so often
constexpr std::uint64_t kPollNs = 50'000;      // and so often who waits for the device
constexpr unsigned kYieldRounds = 64;          // looks before the first sleep

}  // namespace

Outcome StagingRing::check(const StagingOptions& options) const noexcept {
  if (options.rings == 0 || options.rings > kRingsMax) return Status::bad_argument;
  if (options.ring_bytes < kSplitParts * kStagingAlignBytes) return Status::bad_argument;
  if (options.ring_bytes % kStagingAlignBytes != 0) return Status::bad_argument;
  if (options.ring_bytes > SIZE_MAX / 2 / kRingsMax || options.blocks_max == 0) return Status::bad_argument;
  if (options.policy > StagingPolicy::split) return Status::bad_argument;
  if (options.direction > StagingDirection::download) return Status::bad_argument;
  if (options.is_write_combined && options.direction == StagingDirection::download) {
    return Status::bad_argument;
  }
  return {};
}

Outcome StagingRing::open(Gpu& gpu, FenceQueue& fences, const StagingOptions& options) noexcept {
  close();
  Outcome outcome = check(options);
  if (!outcome.ok()) return outcome;
  const std::size_t entries = std::size_t{options.blocks_max} * options.rings;
  const std::size_t table_bytes = entries * sizeof(placement::RingEntry);
  if (!entries_.reserve(table_bytes, table_bytes, 4 * kKiB) || !entries_.grow_to(table_bytes)) {
    entries_.release();
    return Status::no_host_memory;
  }
  gpu_ = &gpu;
  fences_ = &fences;
  options_ = options;
  // The engine anew: the numbers of these fences may be lower than those it has seen.
  std::destroy_at(&ring_);
  std::construct_at(&ring_, ranges_);
  outcome = pin(options.ring_bytes * options.rings);
  if (!outcome.ok()) {
    entries_.release();
    gpu_ = nullptr;
    return outcome;
  }
  auto* table = reinterpret_cast<placement::RingEntry*>(entries_.base());
  for (unsigned i = 0; i < options.rings; ++i) {
    const std::span<placement::RingEntry> part(table + std::size_t{i} * options.blocks_max,
                                               options.blocks_max);
    CHECK(ring_.add_range(std::uint64_t{i} * options.ring_bytes, options.ring_bytes, part) ==
          placement::Status::ok);
  }
  stats_ = {};
  is_stopped_.store(false, std::memory_order_relaxed);
  is_abandoned_.store(false, std::memory_order_relaxed);
  has_unfenced_.store(false, std::memory_order_relaxed);
  return {};
}

// The budget first: what is held is never more than what was counted.
Outcome StagingRing::pin(std::size_t size_bytes) noexcept {
  if (options_.budget != nullptr &&
      options_.budget->charge(options_.tag, size_bytes, nullptr) != paging::BudgetResult::ok) {
    return Status::over_budget;
  }
  void* slab = nullptr;
  const CurrentContext current(*gpu_);
  const unsigned flags = cuda::kHostPortable | (options_.is_write_combined ? cuda::kHostWriteCombined : 0u);
  const Outcome outcome = gpu_->check(gpu_->driver().mem_host_alloc(&slab, size_bytes, flags));
  if (!outcome.ok()) {
    if (options_.budget != nullptr) {
      CHECK(options_.budget->discharge(options_.tag, size_bytes) == paging::BudgetResult::ok);
    }
    return outcome;
  }
  slab_ = static_cast<std::byte*>(slab);
  slab_bytes_ = size_bytes;
  return outcome;
}

// The device uses the slab no more. What the driver does not take back stays in the budget.
void StagingRing::unpin() noexcept {
  {
    const CurrentContext current(*gpu_);
    if (!gpu_->check(gpu_->driver().mem_free_host(slab_)).ok()) return;
  }
  if (options_.budget != nullptr) {
    CHECK(options_.budget->discharge(options_.tag, slab_bytes_) == paging::BudgetResult::ok);
  }
}

// Whether everything that was queued is done, also what has no fence.
bool StagingRing::is_idle() noexcept {
  const Fence last = fences_->recorded();
  for (std::uint32_t tries = 0; !fences_->is_reached(last) && tries < FenceQueue::kCloseTries; ++tries) {
    static_cast<void>(wait(last));
  }
  settle();
  if (!fences_->is_reached(last)) return false;
  const bool is_abandoned = is_abandoned_.load(std::memory_order_relaxed);
  CHECK(is_abandoned || ring_.live_count() == 0);
  if (!is_abandoned && !has_unfenced_.load(std::memory_order_relaxed)) return true;
  const CurrentContext current(*gpu_);
  return gpu_->check(gpu_->driver().ctx_synchronize()).ok();
}

void StagingRing::close() noexcept {
  if (gpu_ == nullptr) return;
  stop();
  if (is_idle()) unpin();
  slab_ = nullptr;
  slab_bytes_ = 0;
  entries_.release();
  gpu_ = nullptr;
}

void StagingRing::stop() noexcept {
  is_stopped_.store(true, std::memory_order_release);  // pairs with the acquire in take_slow()
  tell_change();
}

std::size_t StagingRing::block_max_bytes() const noexcept {
  const std::size_t part = options_.ring_bytes / kSplitParts;
  return options_.policy == StagingPolicy::split ? align_down(part, kStagingAlignBytes) : options_.ring_bytes;
}

placement::Status StagingRing::place(std::size_t size_bytes, StagingBlock* block) noexcept {
  const Lock lock(mutex_);
  const placement::Placement found = ring_.allocate(size_bytes, kStagingAlignBytes);
  if (found.empty()) return found.status;
  *block = {slab_ + found.offset, size_bytes};
  ++stats_.taken;
  if (ring_.live_bytes() > stats_.peak_live_bytes) stats_.peak_live_bytes = ring_.live_bytes();
  return found.status;
}

Outcome StagingRing::take(std::size_t size_bytes, StagingBlock* block) noexcept {
  *block = {};
  const std::size_t max_bytes = block_max_bytes();
  const bool is_split = size_bytes > max_bytes && options_.policy == StagingPolicy::split;
  if (size_bytes == 0 || (size_bytes > max_bytes && !is_split)) {
    refuse();
    return Status::bad_argument;
  }
  const std::size_t wanted_bytes = is_split ? max_bytes : size_bytes;
  if (is_stopped_.load(std::memory_order_relaxed)) {
    refuse();
    return Status::cancelled;
  }
  Outcome outcome;
  if (place(wanted_bytes, block) != placement::Status::ok) outcome = take_slow(wanted_bytes, block);
  if (!outcome.ok()) {
    refuse();
  } else if (is_split) {
    const Lock lock(mutex_);
    ++stats_.splits;
  }
  return outcome;
}

Outcome StagingRing::take_slow(std::size_t size_bytes, StagingBlock* block) noexcept {
  Outcome outcome = poll();
  {
    const Lock lock(mutex_);
    ++stats_.stalls;
  }
  const std::uint64_t start_ns = os::clock_fine_ns();
  for (unsigned rounds = 0;; ++rounds) {
    const std::uint32_t seen = change_.load(std::memory_order_acquire);  // pairs with tell_change()
    if (place(size_bytes, block) == placement::Status::ok) break;
    if (!outcome.ok()) return outcome;
    if (options_.policy == StagingPolicy::fail) return Status::not_ready;
    if (is_stopped_.load(std::memory_order_acquire)) return Status::cancelled;
    wait_for_change(seen, rounds);
    outcome = poll();
  }
  const std::uint64_t waited_ns = os::clock_fine_ns() - start_ns;
  const Lock lock(mutex_);
  stats_.waited_ns += waited_ns;
  if (waited_ns > stats_.longest_wait_ns) stats_.longest_wait_ns = waited_ns;
  return {};
}

// Until a block was given back, or it is time to ask the device again.
void StagingRing::wait_for_change(std::uint32_t seen, unsigned rounds) noexcept {
  if (fences_->in_flight() == 0) {
    os::wait_on(change_, seen, kLookNs);
  } else if (rounds < kYieldRounds) {
    os::yield();
  } else {
    os::wait_on(change_, seen, kPollNs);
  }
}

void StagingRing::give(const StagingBlock& block) noexcept {
  {
    const Lock lock(mutex_);
    CHECK(ring_.free(offset_of(block)) == placement::Status::ok);
    ++stats_.given;
  }
  tell_change();
}

Outcome StagingRing::submit(std::span<const StagingBlock> blocks, cuda::Stream stream,
                            Fence* fence) noexcept {
  CHECK(options_.direction == StagingDirection::upload);
  std::uint64_t total_bytes = 0;
  for (const StagingBlock& block : blocks) total_bytes += block.size_bytes;
  const Outcome outcome = fences_->record(stream, total_bytes, fence);
  if (!outcome.ok()) {
    has_unfenced_.store(true, std::memory_order_relaxed);
    return outcome;
  }
  {
    // Another thread may have seen the fence reached already; then the ring frees them at once.
    const Lock lock(mutex_);
    for (const StagingBlock& block : blocks) {
      CHECK(ring_.submit(offset_of(block), *fence) == placement::Status::ok);
    }
    stats_.submitted += blocks.size();
  }
  tell_change();
  return outcome;
}

// Frees the blocks whose fences are reached, oldest first.
void StagingRing::settle() noexcept {
  bool is_changed = false;
  {
    const Lock lock(mutex_);
    const std::uint64_t before = ring_.live_count();
    ring_.complete(fences_->reached());
    is_changed = ring_.live_count() != before;
  }
  if (is_changed) tell_change();
}

Outcome StagingRing::poll() noexcept {
  const Outcome outcome = fences_->poll();
  settle();
  return outcome;
}

Outcome StagingRing::wait(Fence fence) noexcept {
  const Outcome outcome = fences_->wait(fence);
  settle();
  return outcome;
}

void StagingRing::refuse() noexcept {
  const Lock lock(mutex_);
  ++stats_.refused;
}

std::uint64_t StagingRing::offset_of(const StagingBlock& block) const noexcept {
  return static_cast<std::uint64_t>(block.data - slab_);
}

void StagingRing::tell_change() noexcept {
  change_.fetch_add(1, std::memory_order_release);  // pairs with the acquire in take_slow()
  os::wake_all(change_);
}

StagingStats StagingRing::stats() noexcept {
  const Lock lock(mutex_);
  StagingStats stats = stats_;
  stats.live_bytes = ring_.live_bytes();
  stats.bytes_in_flight = ring_.bytes_in_flight();
  stats.moves = ring_.move_count();
  return stats;
}

bool StagingRing::validate() noexcept {
  const Lock lock(mutex_);
  return ring_.validate();
}

}  // namespace glebe::device
