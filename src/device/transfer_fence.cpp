// The oldest fence is looked at without the lock and taken out under it, if it is still the oldest. Its event
// goes back to the pool with the last thread that looks at it: one that was recorded again would make that
// thread wait for other work. See transfer_fence.h.
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
  const CurrentContext current(*gpu_);
  Outcome outcome = gpu_->check_not_captured(stream);
  if (gpu_->is_lost()) return {};
  if (!outcome.ok()) return outcome;
  outcome = events_->take(event);
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

// False: there is none.
bool FenceQueue::begin_look(Look* look) noexcept {
  const Lock lock(mutex_);
  if (count_ == 0) return false;
  look->entry = entries_[first_];
  look->fence = reached_.load(std::memory_order_relaxed) + 1;
  looks_.push_back(look);
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

void FenceQueue::end_look(Look& look, bool is_done) noexcept {
  cuda::Event event = look.entry.event;
  {
    const Lock lock(mutex_);
    looks_.remove(&look);
    if (is_done) pop(look.fence);
    if (look.fence > reached_.load(std::memory_order_relaxed)) event = nullptr;
    for (const Look* other = looks_.first(); other != nullptr; other = looks_.next(other)) {
      if (other->fence == look.fence) event = nullptr;
    }
  }
  if (event != nullptr) events_->give(event);
}

// Under the lock; unless somebody else has taken it out.
void FenceQueue::pop(Fence fence) noexcept {
  if (reached_.load(std::memory_order_relaxed) + 1 != fence) return;
  const Entry& entry = entries_[first_];
  CHECK(bytes_in_flight_ >= entry.size_bytes);
  bytes_in_flight_ -= entry.size_bytes;
  first_ = (first_ + 1) % kFencesMax;
  --count_;
  reached_.store(fence, std::memory_order_release);  // pairs with reached()
}

Outcome FenceQueue::poll() noexcept {
  for (Look look; begin_look(&look);) {
    const Outcome outcome = ask(look.entry, false);
    end_look(look, outcome.ok());
    if (outcome.status == Status::not_ready) return {};
    if (!outcome.ok()) return outcome;
  }
  return gpu_->is_lost() ? Outcome(Status::device_lost) : Outcome();
}

Outcome FenceQueue::wait(Fence wanted) noexcept {
  for (Look look; !is_reached(wanted) && begin_look(&look);) {
    const Outcome outcome = ask(look.entry, true);
    end_look(look, outcome.ok());
    if (!outcome.ok()) return outcome;
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
