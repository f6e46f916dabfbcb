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
  odd_answers_.store(0, std::memory_order_relaxed);
}

void FenceQueue::close() noexcept {
  if (gpu_ == nullptr) return;
  // A driver that goes on answering something else is taken for lost after kOddAnswersMax tries.
  for (std::uint32_t tries = 0; in_flight() != 0 && tries <= kFencesMax * kOddAnswersMax; ++tries) {
    static_cast<void>(wait(recorded()));
  }
  CHECK(in_flight() == 0);
  gpu_ = nullptr;
}

Outcome FenceQueue::record(cuda::Stream stream, std::uint64_t size_bytes, Fence* fence) noexcept {
  cuda::Event event = nullptr;
  bool has_event = events_->take(&event).ok();
  if (has_event) {
    const CurrentContext current(*gpu_);
    if (!gpu_->check(gpu_->driver().event_record(event, stream)).ok()) {
      events_->give(event);
      has_event = false;
    }
  }
  const Entry entry = {has_event ? event : nullptr, stream, size_bytes};
  for (;;) {
    *fence = push(entry);
    if (*fence != 0) return {};
    const Fence first = reached() + 1;
    const Outcome outcome = wait(first);
    if (is_reached(first)) continue;
    if (has_event) events_->give(event);
    return outcome;
  }
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
  if (gpu_->is_lost()) return {};
  const CurrentContext current(*gpu_);
  const cuda::Driver& driver = gpu_->driver();
  Outcome outcome;
  if (entry.event != nullptr) {
    outcome =
        gpu_->check(must_wait ? driver.event_synchronize(entry.event) : driver.event_query(entry.event));
  } else {
    outcome =
        gpu_->check(must_wait ? driver.stream_synchronize(entry.stream) : driver.stream_query(entry.stream));
  }
  if (outcome.ok() || outcome.status == Status::not_ready || outcome.status == Status::device_lost) {
    odd_answers_.store(0, std::memory_order_relaxed);
    return outcome.status == Status::device_lost ? Outcome() : outcome;
  }
  // Neither done nor under way: the stream is asked, for as long as it takes.
  const Outcome second = gpu_->check(driver.stream_synchronize(entry.stream));
  if (second.ok() || second.status == Status::device_lost) return {};
  if (odd_answers_.fetch_add(1, std::memory_order_relaxed) + 1 < kOddAnswersMax) return outcome;
  static_cast<void>(gpu_->check(cuda::Result::deinitialized));  // the GPU is lost from here on
  return {};
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
