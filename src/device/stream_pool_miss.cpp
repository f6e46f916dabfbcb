// Where a block comes from when the stream has none of its size, and how blocks go back to the source. See
// stream_pool.h for the order.
#include "src/base/check.h"
#include "src/device/stream_pool.h"

namespace glebe::device {

using os::Lock;

namespace {

// Whether room that others give back would help.
bool is_shortage(Outcome outcome) noexcept {
  return outcome.status == Status::out_of_memory || outcome.status == Status::over_budget ||
         outcome.status == Status::out_of_addresses || outcome.status == Status::no_host_memory;
}

}  // namespace

Outcome StreamPool::allocate_slow(const Request& request, StreamRef ref,
                                  cuda::DevicePointer* address) noexcept {
  StreamSlot& slot = slots()[ref.slot];
  const CurrentContext current(*gpu_);
  {
    // Nobody takes the slot over meanwhile.
    const Lock lock(slot.lock);
    if (slot.generation.load(std::memory_order_relaxed) != ref.generation) {
      --slot.counts.requests;
      return Status::bad_argument;
    }
    slot.uses.fetch_add(1, std::memory_order_relaxed);
  }
  BlockOrigin origin = BlockOrigin::same_stream;
  Outcome outcome;
  const BlockNumber number = look_everywhere(request, slot, &origin, &outcome);
  if (number == kNoBlock) {
    if (gpu_->is_lost()) outcome = Status::device_lost;
    note_failure(request, slot, outcome);
    slot.uses.fetch_sub(1, std::memory_order_relaxed);
    return outcome;
  }
  Block& block = blocks_[number];
  *address = block.address();
  const Lock lock(slot.lock);
  slot.hand_out(block, request.size_bytes, origin);
  slot.uses.fetch_sub(1, std::memory_order_relaxed);
  return {};
}

// A block that is nobody's now, or none and why.
BlockNumber StreamPool::look_everywhere(const Request& request, StreamSlot& slot, BlockOrigin* origin,
                                        Outcome* outcome) noexcept {
  const Reach reached = reach(slot);
  const bool is_captured = [&slot, reached] {
    const Lock lock(slot.lock);
    return slot.is_deferring || reached == Reach::capturing;
  }();
  BlockNumber number = kNoBlock;
  if (!is_captured) {
    *origin = BlockOrigin::same_stream;
    number = take_own(request, slot);
    if (number != kNoBlock) return number;
  }
  if (options_.reuse_source_idle && options_.source.allocate_idle != nullptr) {
    *origin = BlockOrigin::source_idle;
    *outcome = take_from_source(request, options_.source.allocate_idle, &number);
    if (outcome->ok() || outcome->status == Status::device_lost) return number;
  }
  if (options_.reuse_completed) {
    *origin = BlockOrigin::completed;
    number = find_completed(request, slot, !is_captured);
    if (number != kNoBlock) return number;
  }
  if (options_.reuse_with_wait && reached == Reach::ready && !is_captured) {
    *origin = BlockOrigin::waited_for;
    number = find_waiting(request, slot);
    if (number != kNoBlock) return number;
  }
  *origin = BlockOrigin::source;
  *outcome = take_from_source(request, options_.source.allocate, &number);
  if (!is_shortage(*outcome)) return number;
  *origin = BlockOrigin::reclaimed;
  *outcome = reclaim(request, !is_captured, &number);
  return number;
}

// --- Blocks of streams ---

// The oldest block of the class that is aligned as asked; most are, so few are looked at. Under the lock.
BlockNumber StreamPool::oldest_fit(const Request& request, const StreamSlot& from) const noexcept {
  BlockNumber number = from.lists[request.size_class].back;
  for (unsigned look = 0; number != kNoBlock && look < kLooksMax; ++look) {
    if (is_aligned(blocks_[number].address(), request.align_bytes)) return number;
    number = blocks_[number].previous;
  }
  return kNoBlock;
}

// What came out of the limbo meanwhile, or lies below a block that is not aligned as asked.
BlockNumber StreamPool::take_own(const Request& request, StreamSlot& slot) noexcept {
  ask_users(slot);
  settle_limbo(slot);
  const Lock lock(slot.lock);
  const BlockNumber number = oldest_fit(request, slot);
  if (number != kNoBlock) slot.take(blocks_, slot.lists[request.size_class], number);
  return number;
}

BlockNumber StreamPool::take_reached(const Request& request, StreamSlot& from) noexcept {
  const Lock lock(from.lock);
  const BlockNumber number = oldest_fit(request, from);
  if (number == kNoBlock || !from.is_reached(blocks_[number].epoch)) return kNoBlock;
  from.take(blocks_, from.lists[request.size_class], number);
  return number;
}

// Each stream is asked for its own oldest block, so none hides another one's.
BlockNumber StreamPool::find_completed(const Request& request, const StreamSlot& slot,
                                       bool may_poll) noexcept {
  const std::uint32_t count = slot_count();
  for (std::uint32_t i = 0; i < count; ++i) {
    StreamSlot& from = slots()[(slot.index + i) % count];
    BlockNumber number = take_reached(request, from);
    if (number != kNoBlock) return number;
    bool has_some;
    {
      const Lock lock(from.lock);
      has_some = from.lists[request.size_class].back != kNoBlock || from.limbo.back != kNoBlock;
    }
    // Somebody who holds it is doing the same, or waits.
    if (!may_poll || !has_some || !from.slow.try_lock()) continue;
    poll(from);
    from.slow.unlock();
    ask_users(from);
    settle_limbo(from);
    number = take_reached(request, from);
    if (number != kNoBlock) return number;
  }
  return kNoBlock;
}

BlockNumber StreamPool::find_waiting(const Request& request, const StreamSlot& slot) noexcept {
  const std::uint32_t count = slot_count();
  for (std::uint32_t i = 1; i < count; ++i) {
    StreamSlot& from = slots()[(slot.index + i) % count];
    if (!from.slow.try_lock()) continue;
    const BlockNumber number = take_with_wait(request, from, slot.handle.load(std::memory_order_relaxed));
    from.slow.unlock();
    if (number != kNoBlock) return number;
  }
  return kNoBlock;
}

// `slow` of `from` is held.
BlockNumber StreamPool::take_with_wait(const Request& request, StreamSlot& from,
                                       cuda::Stream stream) noexcept {
  std::uint64_t epoch;
  {
    const Lock lock(from.lock);
    const BlockNumber number = oldest_fit(request, from);
    if (number == kNoBlock) return kNoBlock;
    epoch = blocks_[number].epoch;
  }
  const cuda::Event event = event_for(from, epoch);
  if (event == nullptr) return kNoBlock;
  BlockNumber number;
  {
    // Its stream may have taken it meanwhile and put newer ones there.
    const Lock lock(from.lock);
    number = oldest_fit(request, from);
    if (number == kNoBlock || blocks_[number].epoch > epoch) return kNoBlock;
    from.take(blocks_, from.lists[request.size_class], number);
  }
  if (gpu_->check(gpu_->driver().stream_wait_event(stream, event, 0)).ok()) {
    stream_waits_.fetch_add(1, std::memory_order_relaxed);
    return number;
  }
  const Lock lock(from.lock);
  from.put_last(blocks_, number);
  return kNoBlock;
}

// An event that is recorded in the stream behind everything of this epoch, the earliest there is; nullptr:
// there is none and none can be made. It stays valid while `slow` is held.
cuda::Event StreamPool::event_for(StreamSlot& slot, std::uint64_t epoch) noexcept {
  for (std::uint32_t i = 0; i < slot.closed_count; ++i) {
    const ClosedEpoch& closed = slot.at(i);
    if (closed.event != nullptr && closed.number >= epoch) return closed.event;
  }
  if (slot.closed_count == StreamSlot::kClosedMax) poll(slot);
  return close_epoch(slot, true).ok() ? slot.at(slot.closed_count - 1).event : nullptr;
}

// --- The source ---

Outcome StreamPool::take_from_source(const Request& request, SourceCall call, BlockNumber* number) noexcept {
  // The record first: what the source gives is never lost for want of one.
  const BlockNumber made = blocks_.take();
  if (made == kNoBlock) return Status::no_host_memory;
  const std::uint64_t size_bytes = bytes_of_class(request.size_class);
  cuda::DevicePointer address = 0;
  const Outcome outcome = call(options_.source.self, size_bytes, request.align_bytes, &address);
  if (!outcome.ok()) {
    blocks_.give(made);
    return outcome;
  }
  CHECK(is_aligned(address, kDeviceAlignBytes));
  Block& block = blocks_[made];
  block.size_bytes = size_bytes;
  block.size_class = static_cast<std::uint16_t>(request.size_class);
  block.uses.store(kNoUse, std::memory_order_relaxed);
  blocks_.show(made, address, BlockState::idle);
  *number = made;
  const Lock lock(held_mutex_);
  ++held_blocks_;
  held_bytes_ += size_bytes;
  if (held_bytes_ > peak_held_bytes_) peak_held_bytes_ = held_bytes_;
  return {};
}

// False: the source refused, and the block is as it was.
bool StreamPool::give_to_source(BlockNumber number) noexcept {
  const std::uint64_t size_bytes = blocks_[number].size_bytes;
  const cuda::DevicePointer address = blocks_[number].address();
  // First it is not known any more: once the source has it, another thread may get the same address.
  blocks_.hide(number);
  if (!options_.source.free(options_.source.self, address).ok()) {
    blocks_.show(number, address, BlockState::idle);
    return false;
  }
  blocks_.give(number);
  given_back_.fetch_add(1, std::memory_order_relaxed);
  const Lock lock(held_mutex_);
  --held_blocks_;
  held_bytes_ -= size_bytes;
  return true;
}

// Takes the oldest blocks of a class that the device is done with; returns how many.
unsigned StreamPool::take_batch(StreamSlot& slot, unsigned size_class, BlockNumber* batch) noexcept {
  const Lock lock(slot.lock);
  BlockList& list = slot.lists[size_class];
  unsigned count = 0;
  while (count < kBatch && list.back != kNoBlock && slot.is_reached(blocks_[list.back].epoch)) {
    batch[count++] = list.back;
    slot.take(blocks_, list, list.back);
  }
  return count;
}

// At least `bytes_max` of what a stream has and the device is done with, if there is so much.
std::uint64_t StreamPool::give_back_from(StreamSlot& slot, std::uint64_t bytes_max) noexcept {
  std::uint64_t given_bytes = 0;
  for (unsigned size_class = kSizeClasses; size_class > 0;) {
    BlockNumber batch[kBatch];
    const unsigned count = take_batch(slot, size_class - 1, batch);
    unsigned given = 0;
    while (given < count && given_bytes < bytes_max) {
      const std::uint64_t size_bytes = blocks_[batch[given]].size_bytes;
      if (!give_to_source(batch[given])) break;
      given_bytes += size_bytes;
      ++given;
    }
    if (given < count) {
      const Lock lock(slot.lock);
      for (; given < count; ++given) slot.put_last(blocks_, batch[given]);
      return given_bytes;
    }
    if (count < kBatch) --size_class;
  }
  return given_bytes;
}

// Gives back what is idle beyond `keep_bytes` and reached.
std::uint64_t StreamPool::give_back_reached(std::uint64_t keep_bytes, bool may_poll) noexcept {
  const std::uint32_t count = slot_count();
  std::uint64_t idle_bytes = 0, given_bytes = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const Lock lock(slots()[i].lock);
    idle_bytes += slots()[i].idle_bytes;
  }
  for (std::uint32_t i = 0; i < count && idle_bytes - given_bytes > keep_bytes; ++i) {
    StreamSlot& slot = slots()[i];
    if (may_poll && slot.slow.try_lock()) {
      poll(slot);
      slot.slow.unlock();
    }
    if (may_poll) ask_users(slot);
    settle_limbo(slot);
    given_bytes += give_back_from(slot, idle_bytes - given_bytes - keep_bytes);
    if (given_bytes > idle_bytes) break;  // others freed meanwhile
  }
  return given_bytes;
}

// Gives back what is done, waits for more, asks the program: until the source has room or nothing is left.
Outcome StreamPool::reclaim(const Request& request, bool may_wait, BlockNumber* number) noexcept {
  Outcome outcome = Status::out_of_memory;
  unsigned callbacks = 0;
  for (unsigned round = 0; round < kRoundsMax; ++round) {
    const bool was_given = give_back_reached(0, may_wait) != 0;
    if (was_given || round == 0) {
      outcome = take_from_source(request, options_.source.allocate, number);
      if (!is_shortage(outcome)) return outcome;
    }
    if (gpu_->is_lost()) return Status::device_lost;
    if (was_given || (may_wait && wait_for_oldest())) continue;
    if (!may_wait || options_.on_pressure == nullptr || callbacks++ == kCallbacksMax ||
        !options_.on_pressure(options_.user, bytes_of_class(request.size_class))) {
      return outcome;
    }
    outcome = take_from_source(request, options_.source.allocate, number);
    if (!is_shortage(outcome)) return outcome;
  }
  return outcome;
}

std::uint64_t StreamPool::trim(std::uint64_t keep_bytes) noexcept {
  if (!check_open().ok()) return 0;
  const CurrentContext current(*gpu_);
  // What one is asked to make known to others is not waited for: a look tells what is done now.
  for (std::uint32_t i = 0; i < slot_count(); ++i) {
    StreamSlot& slot = slots()[i];
    if (!slot.slow.try_lock()) continue;
    if (has_open(slot)) static_cast<void>(close_epoch(slot, false));
    slot.slow.unlock();
  }
  const std::uint64_t given_bytes = give_back_reached(keep_bytes, true);
  std::uint64_t idle_bytes = 0;
  for (std::uint32_t i = 0; i < slot_count(); ++i) {
    const Lock lock(slots()[i].lock);
    idle_bytes += slots()[i].idle_bytes;
  }
  if (options_.source.trim != nullptr) {
    options_.source.trim(options_.source.self, keep_bytes > idle_bytes ? keep_bytes - idle_bytes : 0);
  }
  return given_bytes;
}

void StreamPool::note_failure(const Request& request, StreamSlot& slot, Outcome outcome) noexcept {
  {
    const Lock lock(slot.lock);
    ++slot.counts.failures;
  }
  const StreamPoolStats now = stats();
  const Lock lock(held_mutex_);
  failure_ = {request.size_bytes, request.align_bytes, outcome,        now.live_blocks, now.live_bytes,
              now.idle_blocks,    now.idle_bytes,      now.held_bytes, now.streams};
}

}  // namespace glebe::device
