// The oldest fence is looked at without the lock and taken out under it, if it is still the oldest. An event
// that was given back meanwhile may tell about other work, but then its answer is not used. See
// transfer_fence.h.
#include "src/device/transfer_fence.h"

#include "src/base/check.h"

namespace glebe::device {

using os::Lock;

void FenceQueue::open(Gpu& gpu, EventPool& events) noexcept {
  close();
  gpu_ = &gpu;
  events_ = &events;
}

void FenceQueue::close() noexcept {
  if (gpu_ == nullptr) return;
  for (std::uint32_t tries = 0; in_flight() != 0 && tries < kCloseTries; ++tries) {
    static_cast<void>(wait(recorded()));
  }
  for (; count_ > 0; --count_) {
    if (entries_[first_].event != nullptr) events_->give(entries_[first_].event);
    first_ = (first_ + 1) % kFencesMax;
  }
  bytes_in_flight_ = 0;
  gpu_ = nullptr;
}

// An event behind the work in the stream; nullptr when the work is done already.
Outcome FenceQueue::mark(cuda::Stream stream, cuda::Event* event) noexcept {
  Outcome outcome = events_->take(event);
  const CurrentContext current(*gpu_);
  if (outcome.ok()) {
    outcome = gpu_->check(gpu_->driver().event_record(*event, stream));
    if (outcome.ok()) return outcome;
    events_->give(*event);
  }
  *event = nullptr;
  if (gpu_->is_lost()) return {};
  outcome = gpu_->check(gpu_->driver().stream_synchronize(stream));
  return outcome.status == Status::device_lost ? Outcome() : outcome;
}

Outcome FenceQueue::record(cuda::Stream stream, std::uint64_t size_bytes, Fence* fence) noexcept {
  Entry entry;
  entry.size_bytes = size_bytes;
  Outcome outcome = mark(stream, &entry.event);
  while (outcome.ok()) {
    *fence = push(entry);
    if (*fence != 0) return {};
    const Fence first = reached() + 1;
    outcome = wait(first);
    if (is_reached(first)) outcome = {};
  }
  if (entry.event != nullptr) events_->give(entry.event);
  return outcome;
}

// 0: there is no room.
Fence FenceQueue::push(const Entry& entry) noexcept {
  const Lock lock(mutex_);
  if (count_ == kFencesMax) return 0;
  entries_[(first_ + count_++) % kFencesMax] = entry;
  bytes_in_flight_ += entry.size_bytes;
  return reached_.load(std::memory_order_relaxed) + count_;
}

bool FenceQueue::oldest(Entry* entry, Fence* fence) noexcept {
  const Lock lock(mutex_);
  if (count_ == 0) return false;
  *entry = entries_[first_];
  *fence = reached_.load(std::memory_order_relaxed) + 1;
  return true;
}

// ok: what lies before the fence is done.
Outcome FenceQueue::ask(const Entry& entry, bool must_wait) noexcept {
  if (entry.event == nullptr || gpu_->is_lost()) return {};
  const CurrentContext current(*gpu_);
  const cuda::Driver& driver = gpu_->driver();
  const Outcome outcome =
      gpu_->check(must_wait ? driver.event_synchronize(entry.event) : driver.event_query(entry.event));
  return outcome.status == Status::device_lost ? Outcome() : outcome;
}

void FenceQueue::pop(Fence fence) noexcept {
  cuda::Event event = nullptr;
  {
    const Lock lock(mutex_);
    if (count_ == 0 || reached_.load(std::memory_order_relaxed) + 1 != fence) return;  // by somebody else
    const Entry& entry = entries_[first_];
    event = entry.event;
    CHECK(bytes_in_flight_ >= entry.size_bytes);
    bytes_in_flight_ -= entry.size_bytes;
    first_ = (first_ + 1) % kFencesMax;
    --count_;
    reached_.store(fence, std::memory_order_release);  // pairs with reached()
  }
  if (event != nullptr) events_->give(event);
}

Outcome FenceQueue::poll() noexcept {
  Entry entry;
  Fence fence = 0;
  while (oldest(&entry, &fence)) {
    const Outcome outcome = ask(entry, false);
    if (outcome.status == Status::not_ready) return {};
    if (!outcome.ok()) return outcome;
    pop(fence);
  }
  return gpu_->is_lost() ? Outcome(Status::device_lost) : Outcome();
}

Outcome FenceQueue::wait(Fence wanted) noexcept {
  Entry entry;
  Fence fence = 0;
  while (!is_reached(wanted) && oldest(&entry, &fence)) {
    const Outcome outcome = ask(entry, true);
    if (!outcome.ok()) return outcome;
    pop(fence);
  }
  return gpu_->is_lost() ? Outcome(Status::device_lost) : Outcome();
}

std::uint64_t FenceQueue::recorded() noexcept {
  const Lock lock(mutex_);
  return reached_.load(std::memory_order_relaxed) + count_;
}

std::uint32_t FenceQueue::in_flight() noexcept {
  const Lock lock(mutex_);
  return count_;
}

std::uint64_t FenceQueue::bytes_in_flight() noexcept {
  const Lock lock(mutex_);
  return bytes_in_flight_;
}

}  // namespace glebe::device
