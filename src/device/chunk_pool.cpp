// Chunks are counted, and the stack has room for them, before the driver makes them. See chunk_pool.h.
#include "src/device/chunk_pool.h"

#include "src/base/check.h"

namespace glebe::device {

using os::Lock;

Outcome ChunkPool::open(Gpu& gpu, const ChunkPoolOptions& options) noexcept {
  close();
  const bool is_host = options.location == cuda::LocationType::host_numa;
  if (!is_host && options.location != cuda::LocationType::device) return Status::bad_argument;
  const std::size_t granule = is_host ? gpu.facts().host_granule_bytes : gpu.facts().granule_bytes;
  if (granule == 0) return Status::unsupported;
  if (options.chunk_bytes == 0 || options.chunk_bytes % granule != 0 || options.chunks_max == 0) {
    return Status::bad_argument;
  }
  const std::uint64_t table_bytes = options.chunks_max * sizeof(cuda::MemoryHandle);
  if (table_bytes / sizeof(cuda::MemoryHandle) != options.chunks_max) return Status::bad_argument;
  if (!stack_.reserve(table_bytes, table_bytes, 4 * kKiB)) return Status::no_host_memory;
  gpu_ = &gpu;
  options_ = options;
  idle_count_ = excess_bytes_ = 0;
  stats_ = {};
  return {};
}

void ChunkPool::close() noexcept {
  if (gpu_ == nullptr) return;
  trim(0);
  stack_.release();
  gpu_ = nullptr;
}

cuda::MemoryHandle* ChunkPool::idle() noexcept {
  return reinterpret_cast<cuda::MemoryHandle*>(stack_.base());
}

bool ChunkPool::take_idle(cuda::MemoryHandle* handle) noexcept {
  const Lock lock(mutex_);
  if (idle_count_ == 0) return false;
  *handle = idle()[--idle_count_];
  ++stats_.reused;
  return true;
}

Outcome ChunkPool::take(cuda::MemoryHandle* handle) noexcept {
  if (take_idle(handle)) return {};
  const Outcome outcome = create(handle);
  if (outcome.ok()) return outcome;
  const Lock lock(mutex_);
  ++stats_.refused;
  return outcome;
}

bool ChunkPool::charge(bool* is_excess) noexcept {
  *is_excess = false;
  if (options_.budget == nullptr) return true;
  const paging::BudgetResult result =
      options_.calls_back ? options_.budget->charge(options_.tag, options_.chunk_bytes, nullptr)
                          : options_.budget->charge_held(options_.tag, options_.chunk_bytes, is_excess);
  return result == paging::BudgetResult::ok;
}

Outcome ChunkPool::create(cuda::MemoryHandle* handle) noexcept {
  if (gpu_->is_lost()) return Status::device_lost;
  {
    const Lock lock(mutex_);
    if (stats_.chunks == options_.chunks_max) return Status::over_budget;
    if (!stack_.grow_to((stats_.chunks + 1) * sizeof(cuda::MemoryHandle))) return Status::no_host_memory;
    if (++stats_.chunks > stats_.peak_chunks) stats_.peak_chunks = stats_.chunks;
  }
  bool is_excess = false;
  Outcome outcome = Status::over_budget;
  if (charge(&is_excess)) {
    cuda::AllocationProperties wanted = gpu_->properties(options_.location);
    if (options_.is_shareable) wanted.requested_handle_types = cuda::HandleType::posix_file_descriptor;
    if (options_.is_tile_pool) wanted.flags.usage = cuda::kUsageTilePool;
    const CurrentContext current(*gpu_);
    outcome = gpu_->check(gpu_->driver().mem_create(handle, options_.chunk_bytes, &wanted, 0));
    if (!outcome.ok() && options_.budget != nullptr) {
      CHECK(options_.budget->discharge(options_.tag, options_.chunk_bytes) == paging::BudgetResult::ok);
    }
  }
  const Lock lock(mutex_);
  if (outcome.ok()) {
    ++stats_.created;
    if (is_excess) excess_bytes_ += options_.chunk_bytes;
  } else {
    --stats_.chunks;
  }
  return outcome;
}

void ChunkPool::give(cuda::MemoryHandle handle) noexcept {
  const Lock lock(mutex_);
  CHECK(idle_count_ < stats_.chunks);
  idle()[idle_count_++] = handle;
}

void ChunkPool::release(cuda::MemoryHandle handle) noexcept {
  {
    // A device that is lost refuses, and has lost the memory too.
    const CurrentContext current(*gpu_);
    static_cast<void>(gpu_->check(gpu_->driver().mem_release(handle)));
  }
  if (options_.budget != nullptr) {
    CHECK(options_.budget->discharge(options_.tag, options_.chunk_bytes) == paging::BudgetResult::ok);
  }
  const Lock lock(mutex_);
  ++stats_.released;
  --stats_.chunks;
}

void ChunkPool::discard(cuda::MemoryHandle handle) noexcept { release(handle); }

std::uint64_t ChunkPool::trim(std::uint64_t keep_bytes) noexcept {
  std::uint64_t released_bytes = 0;
  for (;;) {
    cuda::MemoryHandle handle;
    {
      const Lock lock(mutex_);
      if (idle_count_ * options_.chunk_bytes <= keep_bytes) return released_bytes;
      handle = idle()[--idle_count_];
    }
    release(handle);
    released_bytes += options_.chunk_bytes;
  }
}

Outcome ChunkPool::prewarm(std::uint64_t idle_bytes) noexcept {
  while (stats().idle_chunks * options_.chunk_bytes < idle_bytes) {
    cuda::MemoryHandle handle;
    const Outcome outcome = create(&handle);
    if (!outcome.ok()) return outcome;
    give(handle);
  }
  return {};
}

std::uint64_t ChunkPool::take_excess() noexcept {
  const Lock lock(mutex_);
  const std::uint64_t excess_bytes = excess_bytes_;
  excess_bytes_ = 0;
  return excess_bytes;
}

ChunkPoolStats ChunkPool::stats() noexcept {
  const Lock lock(mutex_);
  ChunkPoolStats stats = stats_;
  stats.idle_chunks = idle_count_;
  return stats;
}

}  // namespace glebe::device
