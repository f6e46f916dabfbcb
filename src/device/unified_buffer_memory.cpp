// The table of buffers: made, shared, found again by their handles, closed. See unified_buffer_memory.h.
#include "src/device/unified_buffer_memory.h"

#include <new>

#include "src/base/check.h"
#include "src/device/unified_buffer_record.h"

namespace glebe::device {

using os::Lock;

Outcome UnifiedMemory::open(Gpu& gpu, const UnifiedOptions& options) noexcept {
  const Outcome closed = close();
  if (!closed.ok()) return closed;
  if (options.source.allocate == nullptr || options.source.free == nullptr) return Status::bad_argument;
  if (options.buffers_max == 0 || options.piece_bytes < kUnifiedUnitBytes) return Status::bad_argument;
  const std::size_t table_bytes = std::size_t{options.buffers_max} * sizeof(UnifiedRecord);
  if (!records_.reserve(table_bytes, table_bytes, 4 * kKiB)) return Status::no_host_memory;
  Outcome outcome = events_.open(gpu);
  if (outcome.ok()) {
    const CurrentContext current(gpu);
    outcome = gpu.check(gpu.driver().stream_create(&copies_, cuda::kStreamNonBlocking));
    if (!outcome.ok()) events_.close();
  }
  if (!outcome.ok()) {
    records_.release();
    return outcome;
  }
  gpu_ = &gpu;
  options_ = options;
  record_count_.store(0, std::memory_order_relaxed);
  vacant_ = 0;
  stats_ = {};
  return {};
}

Outcome UnifiedMemory::close() noexcept {
  if (gpu_ == nullptr) return {};
  if (stats().buffers != 0) return Status::in_use;
  {
    const CurrentContext current(*gpu_);
    static_cast<void>(gpu_->check(gpu_->driver().stream_destroy(copies_)));
  }
  events_.close();
  for (std::uint32_t i = 0; i < record_count_.load(std::memory_order_relaxed); ++i) {
    reinterpret_cast<UnifiedRecord*>(records_.base())[i].~UnifiedRecord();
  }
  records_.release();
  gpu_ = nullptr;
  return {};
}

UnifiedRecord* UnifiedMemory::record_of(UnifiedHandle buffer) noexcept {
  const auto index = static_cast<std::uint32_t>(buffer) - 1;
  // Acquire pairs with the release in take_record(): the record is there.
  if (gpu_ == nullptr || index >= record_count_.load(std::memory_order_acquire)) return nullptr;
  return reinterpret_cast<UnifiedRecord*>(records_.base()) + index;
}

Outcome UnifiedMemory::take_record(std::uint64_t size_bytes, UnifiedHandle* buffer) noexcept {
  if (gpu_ == nullptr || size_bytes == 0 || size_bytes > kUnifiedBytesMax) return Status::bad_argument;
  const Lock lock(mutex_);
  const std::uint32_t count = record_count_.load(std::memory_order_relaxed);
  std::uint32_t index = vacant_ - 1;
  if (vacant_ == 0) {
    index = count;
    if (index == options_.buffers_max) return Status::over_budget;
    if (!records_.grow_to((std::size_t{index} + 1) * sizeof(UnifiedRecord))) return Status::no_host_memory;
    auto* made = new (records_.base() + std::size_t{index} * sizeof(UnifiedRecord)) UnifiedRecord;
    made->index = index;
    record_count_.store(count + 1, std::memory_order_release);
    made->vacant = vacant_;
    vacant_ = index + 1;
  }
  UnifiedRecord& record = reinterpret_cast<UnifiedRecord*>(records_.base())[index];
  const Lock record_lock(record.mutex);
  if (!record.dirty.make_room(size_bytes)) return Status::no_host_memory;
  vacant_ = record.vacant;
  ++stats_.buffers;
  record.dirty.start(size_bytes);
  record.size_bytes = size_bytes;
  record.state = UnifiedState::host_only;
  record.is_blank = record.is_pinned = true;
  record.is_broken = record.is_host_foreign = record.is_device_foreign = false;
  record.counts = {};
  record.is_abandoned = false;
  record.late_touches = 0;
  record.users = 1;
  *buffer = std::uint64_t{++record.generation} << 32 | (index + 1);
  return {};
}

// Within a change, which ends with it: nobody finds the record any more.
void UnifiedMemory::put_record(UnifiedRecord& record) noexcept {
  CHECK(record.pending_count == 0);
  CHECK(!record.has_host);
  CHECK(!record.has_device);
  record.dirty.close();
  const Lock lock(mutex_);
  const Lock record_lock(record.mutex);
  ++record.generation;
  record.vacant = vacant_;
  vacant_ = record.index + 1;
  --stats_.buffers;
}

void UnifiedMemory::add_memory(std::int64_t host_bytes, std::int64_t device_bytes) noexcept {
  const Lock lock(mutex_);
  stats_.host_bytes += static_cast<std::uint64_t>(host_bytes);
  stats_.device_bytes += static_cast<std::uint64_t>(device_bytes);
}

UnifiedStats UnifiedMemory::stats() noexcept {
  const Lock lock(mutex_);
  return stats_;
}

Outcome UnifiedMemory::create(const UnifiedBufferOptions& options, UnifiedHandle* buffer) noexcept {
  if (buffer == nullptr) return Status::bad_argument;
  const Outcome outcome = take_record(options.size_bytes, buffer);
  if (outcome.ok()) record_of(*buffer)->is_pinned = options.is_pinned;
  return outcome;
}

Outcome UnifiedMemory::adopt(const UnifiedAdoption& adoption, UnifiedHandle* buffer) noexcept {
  if (buffer == nullptr || (adoption.host == nullptr && adoption.address == 0)) return Status::bad_argument;
  const Outcome outcome = take_record(adoption.size_bytes, buffer);
  if (!outcome.ok()) return outcome;
  UnifiedRecord& record = *record_of(*buffer);
  record.is_blank = false;
  record.host = adoption.host;
  record.device = adoption.address;
  record.has_host = record.is_host_foreign = adoption.host != nullptr;
  record.has_device = record.is_device_foreign = adoption.address != 0;
  record.state = !record.has_host
                     ? UnifiedState::device_only
                     : (record.has_device ? UnifiedState::synchronized : UnifiedState::host_only);
  return {};
}

Outcome UnifiedMemory::share(UnifiedHandle buffer) noexcept {
  UnifiedRecord* record = record_of(buffer);
  if (record == nullptr) return Status::not_owned;
  const Lock lock(record->mutex);
  if (record->generation != buffer >> 32 || record->users == 0) return Status::not_owned;
  if (record->users == UINT32_MAX) return Status::bad_argument;
  if (!record->is_abandoned) ++record->users;
  record->is_abandoned = false;
  return {};
}

Outcome UnifiedMemory::release(UnifiedHandle buffer) noexcept {
  UnifiedRecord* record = record_of(buffer);
  if (record == nullptr) return Status::not_owned;
  {
    const Lock lock(record->mutex);
    if (record->generation != buffer >> 32 || record->users == 0) return Status::not_owned;
    if (record->users > 1) {
      --record->users;
      return {};
    }
  }
  Outcome outcome = begin_change({.buffer = buffer}, &record);
  if (!outcome.ok()) return outcome;
  std::uint32_t others = 0;  // owners that came meanwhile
  {
    const Lock lock(record->mutex);
    others = --record->users;
  }
  if (others == 0) outcome = drop_both(*record);
  if (others == 0 && outcome.ok()) put_record(*record);
  if (!outcome.ok()) {
    const Lock lock(record->mutex);
    record->users = 1;
  }
  end_change(*record);
  return outcome;
}

void UnifiedMemory::abandon(UnifiedHandle buffer) noexcept {
  UnifiedRecord* record = record_of(buffer);
  if (record == nullptr) return;
  constexpr int kTries = 3;
  for (int i = 0;; ++i) {
    {
      const Lock lock(record->mutex);
      if (record->generation != buffer >> 32 || record->users == 0) return;
      // What the driver does not let go of stays, until somebody uses it again.
      const bool is_last = record->users == 1;
      const bool must_wait = !record->guards.is_empty() || (i != 0 && record->is_changing);
      record->is_abandoned = i == kTries || (is_last && must_wait);
      if (record->is_abandoned) return;
    }
    if (release(buffer).ok()) return;
  }
}

UnifiedMemory::Asking::Asking(UnifiedMemory& owner) noexcept : memory(owner), thread(os::thread_id()) {
  const Lock lock(memory.mutex_);
  memory.asking_.push_back(this);
}

UnifiedMemory::Asking::~Asking() {
  const Lock lock(memory.mutex_);
  memory.asking_.remove(this);
}

bool UnifiedMemory::is_asking() noexcept {
  const Lock lock(mutex_);
  const Asking* asking = asking_.first();
  while (asking != nullptr && asking->thread != os::thread_id()) asking = asking_.next(asking);
  return asking != nullptr;
}

}  // namespace glebe::device
