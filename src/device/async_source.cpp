// Chunks in the order of a stream; see async_source.h.
#include "src/device/async_source.h"

#include <cstring>

#include "src/base/check.h"

namespace glebe::device {

// The pool of the driver, which keeps up to the threshold.
Outcome DeviceAsyncSource::make_pool(std::uint64_t threshold_bytes) noexcept {
  const cuda::Driver& driver = gpu_->driver();
  const CurrentContext current(*gpu_);
  int is_supported = 0;
  Outcome outcome = gpu_->check(driver.device_get_attribute(
      &is_supported, cuda::DeviceAttribute::memory_pools_supported, gpu_->device()));
  if (!outcome.ok()) return outcome;
  if (is_supported == 0) return Status::unsupported;
  cuda::PoolProperties properties = {};
  properties.type = cuda::AllocationType::pinned;
  properties.location = {cuda::LocationType::device, gpu_->device()};
  outcome = gpu_->check(driver.mem_pool_create(&pool_, &properties));
  if (!outcome.ok()) {
    pool_ = nullptr;
    return outcome;
  }
  return gpu_->check(
      driver.mem_pool_set_attribute(pool_, cuda::PoolAttribute::release_threshold, &threshold_bytes));
}

Outcome DeviceAsyncSource::open(const Options& options, const PoolSpace& space) noexcept {
  close();
  const bool is_of_threads = reinterpret_cast<std::uintptr_t>(options.stream) == cuda::kStreamPerThread;
  if (options.gpu == nullptr || is_of_threads || space.chunk_bytes % kAlignMaxBytes != 0) {
    return Status::bad_argument;
  }
  gpu_ = options.gpu;
  stream_ = options.stream;
  chunk_bytes_ = space.chunk_bytes;
  const std::uint64_t count = space.size_bytes / space.chunk_bytes;
  const std::uint64_t slot_bytes = count * sizeof(std::uint64_t), range_bytes = count * sizeof(Range);
  Outcome outcome = Status::no_host_memory;
  if (slots_.reserve(slot_bytes, slot_bytes, 4 * kKiB) &&
      ranges_.reserve(range_bytes, range_bytes, 4 * kKiB)) {
    outcome = make_pool(options.release_threshold_bytes);
  }
  if (!outcome.ok()) close();
  return outcome;
}

void DeviceAsyncSource::close() noexcept {
  if (gpu_ == nullptr) return;
  if (pool_ != nullptr) {
    // What was given back in the stream and is not there yet keeps the driver's pool until it is.
    const CurrentContext current(*gpu_);
    static_cast<void>(gpu_->check(gpu_->driver().mem_pool_destroy(pool_)));
  }
  slots_.release();
  ranges_.release();
  range_count_ = 0;
  pool_ = nullptr;
  gpu_ = nullptr;
}

// Number of the first range that starts behind an address. Under the lock.
std::uint64_t DeviceAsyncSource::behind(std::uint64_t address) const noexcept {
  std::uint64_t low = 0, high = range_count_;
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    if (ranges()[middle].address <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

std::uint64_t DeviceAsyncSource::offset_of(std::uint64_t address) noexcept {
  const os::Lock lock(mutex_);
  const std::uint64_t next = behind(address);
  if (next == 0) return kUnknownBytes;
  const Range& range = ranges()[next - 1];
  const std::uint64_t inside = address - range.address;
  return inside < range.size_bytes ? range.offset + inside : kUnknownBytes;
}

Outcome DeviceAsyncSource::take(PoolChunk chunk) noexcept {
  if (gpu_->is_lost()) return Status::device_lost;
  const std::uint64_t first = chunk.offset / chunk_bytes_;
  const std::uint64_t end = divide_up(chunk.offset + chunk.size_bytes, chunk_bytes_);
  if (!slots_.grow_to(end * sizeof(std::uint64_t))) return Status::no_host_memory;
  {
    const os::Lock lock(mutex_);
    if (!ranges_.grow_to((range_count_ + 1) * sizeof(Range))) return Status::no_host_memory;
  }
  cuda::DevicePointer address = 0;
  {
    const CurrentContext current(*gpu_);
    Outcome outcome = gpu_->check_not_captured(stream_);
    if (outcome.ok()) {
      outcome =
          gpu_->check(gpu_->driver().mem_alloc_from_pool_async(&address, chunk.size_bytes, pool_, stream_));
    }
    if (!outcome.ok()) return outcome;
  }
  for (std::uint64_t i = first; i < end; ++i) slots()[i] = address + (i - first) * chunk_bytes_;
  const os::Lock lock(mutex_);
  const std::uint64_t at = behind(address);
  std::memmove(ranges() + at + 1, ranges() + at, (range_count_ - at) * sizeof(Range));
  ranges()[at] = {address, chunk.offset, chunk.size_bytes};
  ++range_count_;
  return {};
}

bool DeviceAsyncSource::give(PoolChunk chunk) noexcept {
  const std::uint64_t address = address_of(chunk.offset);
  {
    const CurrentContext current(*gpu_);
    Outcome outcome = gpu_->check_not_captured(stream_);
    if (outcome.ok()) outcome = gpu_->check(gpu_->driver().mem_free_async(address, stream_));
    if (!outcome.ok() && !gpu_->is_lost()) return false;
  }
  const os::Lock lock(mutex_);
  const std::uint64_t next = behind(address);
  CHECK(next != 0);
  CHECK(ranges()[next - 1].address == address);
  std::memmove(ranges() + next - 1, ranges() + next, (range_count_ - next) * sizeof(Range));
  --range_count_;
  return true;
}

Outcome DeviceAsyncSource::clear(PoolChunk part) noexcept {
  const CurrentContext current(*gpu_);
  const Outcome outcome = gpu_->check_not_captured(stream_);
  if (!outcome.ok()) return outcome;
  return gpu_->check(gpu_->driver().memset_d8_async(address_of(part.offset), 0, part.size_bytes, stream_));
}

// The device's and what idles in the driver's pool; a driver that does not tell of the pool: the device's.
std::uint64_t DeviceAsyncSource::free_bytes() noexcept {
  std::uint64_t reserved_bytes = 0, used_bytes = 0;
  {
    const CurrentContext current(*gpu_);
    const cuda::Driver& driver = gpu_->driver();
    const cuda::PoolAttribute reserved = cuda::PoolAttribute::reserved_mem_current;
    const cuda::PoolAttribute used = cuda::PoolAttribute::used_mem_current;
    Outcome outcome = gpu_->check(driver.mem_pool_get_attribute(pool_, reserved, &reserved_bytes));
    if (outcome.ok()) outcome = gpu_->check(driver.mem_pool_get_attribute(pool_, used, &used_bytes));
    if (!outcome.ok() || used_bytes > reserved_bytes) reserved_bytes = used_bytes = 0;
  }
  return gpu_->free_bytes() + reserved_bytes - used_bytes;
}

}  // namespace glebe::device
