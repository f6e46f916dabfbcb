// See event_pool.h.
#include "src/device/event_pool.h"

#include "src/base/check.h"

namespace glebe::device {

using os::Lock;

Outcome EventPool::open(Gpu& gpu) noexcept {
  close();
  if (!memory_.reserve(kEventsMax * sizeof(cuda::Event), kEventsMax * sizeof(cuda::Event), 4 * kKiB)) {
    return Status::no_host_memory;
  }
  gpu_ = &gpu;
  return {};
}

void EventPool::close() noexcept {
  if (gpu_ == nullptr) return;
  CHECK(idle_ == created_);
  const CurrentContext current(*gpu_);
  for (; idle_ > 0; --idle_) static_cast<void>(gpu_->check(gpu_->driver().event_destroy(stack()[idle_ - 1])));
  created_ = 0;
  memory_.release();
  gpu_ = nullptr;
}

cuda::Event* EventPool::stack() noexcept { return reinterpret_cast<cuda::Event*>(memory_.base()); }

Outcome EventPool::take(cuda::Event* event) noexcept {
  {
    const Lock lock(mutex_);
    if (idle_ > 0) {
      *event = stack()[--idle_];
      return {};
    }
    if (!memory_.grow_to((created_ + 1) * sizeof(cuda::Event))) return Status::no_host_memory;
    ++created_;  // its place is kept while the driver makes it
  }
  const CurrentContext current(*gpu_);
  const Outcome outcome = gpu_->check(gpu_->driver().event_create(event, cuda::kEventDisableTiming));
  if (outcome.ok()) return outcome;
  const Lock lock(mutex_);
  --created_;
  return outcome;
}

void EventPool::give(cuda::Event event) noexcept {
  const Lock lock(mutex_);
  CHECK(idle_ < created_);
  stack()[idle_++] = event;
}

std::uint64_t EventPool::created() noexcept {
  const Lock lock(mutex_);
  return created_;
}

std::uint64_t EventPool::idle() noexcept {
  const Lock lock(mutex_);
  return idle_;
}

}  // namespace glebe::device
