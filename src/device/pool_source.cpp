// The sources that have memory; see pool_source.h.
#include "src/device/pool_source.h"

#include <cstring>

#include "platform/vm.h"
#include "src/base/bits.h"
#include "src/base/check.h"

namespace glebe::device {

// --- Memory of the host ---

Outcome HostSource::open(const Options&, const PoolSpace& space) noexcept {
  close();
  const std::uint64_t page = os::page_bytes();
  const std::uint64_t size_bytes = align_up(space.size_bytes, page);
  if (space.chunk_bytes % page != 0) {
    const std::uint64_t table_bytes = size_bytes / page * sizeof(std::uint32_t);
    if (!users_.reserve(table_bytes, table_bytes, page)) return Status::no_host_memory;
  }
  granule_bytes_ = space.chunk_bytes % page == 0 ? page : 1;
  base_ =
      static_cast<std::byte*>(os::reserve(size_bytes, space.align_bytes > page ? space.align_bytes : page));
  if (base_ == nullptr) {
    users_.release();
    return Status::out_of_addresses;
  }
  size_bytes_ = size_bytes;
  return {};
}

void HostSource::close() noexcept {
  if (base_ != nullptr) os::release(base_, size_bytes_);
  base_ = nullptr;
  users_.release();
}

bool HostSource::commit_page(std::uint64_t page) noexcept {
  const std::uint64_t bytes = os::page_bytes();
  if (!users_.grow_to((page + 1) * sizeof(std::uint32_t))) return false;
  auto* users = reinterpret_cast<std::uint32_t*>(users_.base());
  if (users[page] == 0 && !os::commit(base_ + page * bytes, bytes)) return false;
  ++users[page];
  return true;
}

// A page that the system does not take back is committed for the next chunk that lies in it.
void HostSource::decommit_page(std::uint64_t page) noexcept {
  const std::uint64_t bytes = os::page_bytes();
  auto* users = reinterpret_cast<std::uint32_t*>(users_.base());
  CHECK(users[page] != 0);
  if (--users[page] == 0) static_cast<void>(os::decommit(base_ + page * bytes, bytes));
}

Outcome HostSource::take(PoolChunk chunk) noexcept {
  if (granule_bytes_ != 1) {
    return os::commit(base_ + chunk.offset, chunk.size_bytes) ? Status::ok : Status::out_of_memory;
  }
  const std::uint64_t bytes = os::page_bytes();
  const std::uint64_t first = chunk.offset / bytes;
  const std::uint64_t end = divide_up(chunk.offset + chunk.size_bytes, bytes);
  for (std::uint64_t page = first; page < end; ++page) {
    if (commit_page(page)) continue;
    while (page-- > first) decommit_page(page);
    return Status::out_of_memory;
  }
  return {};
}

bool HostSource::give(PoolChunk chunk) noexcept {
  if (granule_bytes_ != 1) return os::decommit(base_ + chunk.offset, chunk.size_bytes);
  const std::uint64_t bytes = os::page_bytes();
  const std::uint64_t end = divide_up(chunk.offset + chunk.size_bytes, bytes);
  for (std::uint64_t page = chunk.offset / bytes; page < end; ++page) decommit_page(page);
  return true;
}

Outcome HostSource::clear(PoolChunk part) noexcept {
  std::memset(base_ + part.offset, 0, part.size_bytes);
  return {};
}

// --- Pinned memory of the host ---

Outcome PinnedSource::open(const Options& options, const PoolSpace& space) noexcept {
  close();
  page_bytes_ = os::page_bytes();
  if (options.gpu == nullptr || space.chunk_bytes % page_bytes_ != 0) return Status::bad_argument;
  const std::uint64_t align_bytes = space.align_bytes > page_bytes_ ? space.align_bytes : page_bytes_;
  base_ = static_cast<std::byte*>(os::reserve(space.size_bytes, align_bytes));
  if (base_ == nullptr) return Status::out_of_addresses;
  gpu_ = options.gpu;
  size_bytes_ = space.size_bytes;
  return {};
}

void PinnedSource::close() noexcept {
  if (base_ != nullptr) os::release(base_, size_bytes_);
  base_ = nullptr;
}

Outcome PinnedSource::take(PoolChunk chunk) noexcept {
  if (gpu_->is_lost()) return Status::device_lost;
  std::byte* const at = base_ + chunk.offset;
  if (!os::commit(at, chunk.size_bytes)) return Status::out_of_memory;
  const CurrentContext current(*gpu_);
  const Outcome outcome =
      gpu_->check(gpu_->driver().mem_host_register(at, chunk.size_bytes, cuda::kRegisterPortable));
  // What the system does not take back now is committed for the next try.
  if (!outcome.ok()) static_cast<void>(os::decommit(at, chunk.size_bytes));
  return outcome;
}

bool PinnedSource::give(PoolChunk chunk) noexcept {
  {
    const CurrentContext current(*gpu_);
    const Outcome outcome = gpu_->check(gpu_->driver().mem_host_unregister(base_ + chunk.offset));
    if (!outcome.ok() && !gpu_->is_lost()) return false;
  }
  static_cast<void>(os::decommit(base_ + chunk.offset, chunk.size_bytes));
  return true;
}

Outcome PinnedSource::clear(PoolChunk part) noexcept {
  std::memset(base_ + part.offset, 0, part.size_bytes);
  return {};
}

// --- Memory of the device ---

Outcome DeviceSource::open(const Options& options, const PoolSpace& space) noexcept {
  close();
  if (options.chunks == nullptr || options.chunks->is_tile_pool() ||
      options.chunks->chunk_bytes() != space.chunk_bytes) {
    return Status::bad_argument;
  }
  Gpu& gpu = options.chunks->gpu();
  const std::uint64_t table_bytes = space.size_bytes / space.chunk_bytes * sizeof(cuda::MemoryHandle);
  if (!handles_.reserve(table_bytes, table_bytes, 4 * kKiB)) return Status::no_host_memory;
  const CurrentContext current(gpu);
  Outcome outcome = gpu.check(gpu.driver().stream_create(&stream_, cuda::kStreamNonBlocking));
  if (outcome.ok()) {
    const std::uint64_t granule = gpu.facts().granule_bytes;
    const std::uint64_t align_bytes = space.align_bytes > granule ? space.align_bytes : granule;
    outcome = gpu.check(gpu.driver().mem_address_reserve(&base_, space.size_bytes, align_bytes, 0, 0));
    if (!outcome.ok()) static_cast<void>(gpu.check(gpu.driver().stream_destroy(stream_)));
  }
  if (!outcome.ok()) {
    handles_.release();
    return outcome.status == Status::out_of_memory ? Outcome(Status::out_of_addresses, outcome.driver)
                                                   : outcome;
  }
  chunks_ = options.chunks;
  size_bytes_ = space.size_bytes;
  handle_bytes_ = space.chunk_bytes;
  return {};
}

void DeviceSource::close() noexcept {
  if (chunks_ == nullptr) return;
  Gpu& gpu = chunks_->gpu();
  const CurrentContext current(gpu);
  static_cast<void>(gpu.check(gpu.driver().stream_destroy(stream_)));
  static_cast<void>(gpu.check(gpu.driver().mem_address_free(base_, size_bytes_)));
  handles_.release();
  base_ = 0;
  chunks_ = nullptr;
}

bool DeviceSource::unmap(std::uint64_t offset, std::uint64_t size_bytes) noexcept {
  if (size_bytes == 0) return true;
  Gpu& gpu = chunks_->gpu();
  const CurrentContext current(gpu);
  return gpu.check(gpu.driver().mem_unmap(base_ + offset, size_bytes)).ok();
}

// Takes and maps handle after handle; *mapped_bytes says how far it came.
Outcome DeviceSource::map(PoolChunk chunk, std::uint64_t* mapped_bytes) noexcept {
  Gpu& gpu = chunks_->gpu();
  for (*mapped_bytes = 0; *mapped_bytes < chunk.size_bytes; *mapped_bytes += handle_bytes_) {
    const std::uint64_t at = chunk.offset + *mapped_bytes;
    cuda::MemoryHandle& handle = handles()[at / handle_bytes_];
    Outcome outcome = chunks_->take(&handle);
    if (!outcome.ok()) return outcome;
    const CurrentContext current(gpu);
    outcome = gpu.check(gpu.driver().mem_map(base_ + at, handle_bytes_, 0, handle, 0));
    if (outcome.ok()) continue;
    chunks_->give(handle);
    return outcome;
  }
  const CurrentContext current(gpu);
  const cuda::AccessDescription access = gpu.device_access();
  return gpu.check(gpu.driver().mem_set_access(base_ + chunk.offset, chunk.size_bytes, &access, 1));
}

Outcome DeviceSource::take(PoolChunk chunk) noexcept {
  const std::uint64_t end = chunk.offset + chunk.size_bytes;
  if (!handles_.grow_to(end / handle_bytes_ * sizeof(cuda::MemoryHandle))) return Status::no_host_memory;
  std::uint64_t mapped_bytes = 0;
  const Outcome outcome = map(chunk, &mapped_bytes);
  if (outcome.ok()) return outcome;
  // A driver that maps and then refuses to unmap, several times, leaves nothing to fall back to.
  constexpr int kTries = 3;
  bool is_unmapped = false;
  for (int i = 0; i < kTries && !is_unmapped; ++i) is_unmapped = unmap(chunk.offset, mapped_bytes);
  for (std::uint64_t at = chunk.offset; at < chunk.offset + mapped_bytes; at += handle_bytes_) {
    if (is_unmapped) {
      chunks_->give(handles()[at / handle_bytes_]);
    } else {
      chunks_->discard(handles()[at / handle_bytes_]);
    }
  }
  return outcome;
}

bool DeviceSource::give(PoolChunk chunk) noexcept {
  const bool is_unmapped = unmap(chunk.offset, chunk.size_bytes);
  if (!is_unmapped && !chunks_->gpu().is_lost()) return false;
  for (std::uint64_t at = chunk.offset; at < chunk.offset + chunk.size_bytes; at += handle_bytes_) {
    chunks_->give(handles()[at / handle_bytes_]);
  }
  return true;
}

Outcome DeviceSource::clear(PoolChunk part) noexcept {
  Gpu& gpu = chunks_->gpu();
  const CurrentContext current(gpu);
  const Outcome outcome =
      gpu.check(gpu.driver().memset_d8_async(base_ + part.offset, 0, part.size_bytes, stream_));
  return outcome.ok() ? gpu.check(gpu.driver().stream_synchronize(stream_)) : outcome;
}

std::uint64_t DeviceSource::free_bytes() noexcept {
  return chunks_->gpu().free_bytes() + chunks_->stats().idle_chunks * handle_bytes_;
}

// --- Tiles ---

Outcome TileSource::open(const Options& options, const PoolSpace& space) noexcept {
  close();
  if (options.chunks == nullptr || !options.chunks->is_tile_pool() ||
      options.chunks->chunk_bytes() != space.chunk_bytes) {
    return Status::bad_argument;
  }
  const std::uint64_t table_bytes = space.size_bytes / space.chunk_bytes * sizeof(cuda::MemoryHandle);
  if (!handles_.reserve(table_bytes, table_bytes, 4 * kKiB)) return Status::no_host_memory;
  chunks_ = options.chunks;
  handle_bytes_ = space.chunk_bytes;
  return {};
}

void TileSource::close() noexcept {
  handles_.release();
  chunks_ = nullptr;
}

Outcome TileSource::take(PoolChunk chunk) noexcept {
  const std::uint64_t index = chunk.offset / handle_bytes_;
  CHECK(chunk.size_bytes == handle_bytes_);
  if (!handles_.grow_to((index + 1) * sizeof(cuda::MemoryHandle))) return Status::no_host_memory;
  return chunks_->take(reinterpret_cast<cuda::MemoryHandle*>(handles_.base()) + index);
}

bool TileSource::give(PoolChunk chunk) noexcept {
  chunks_->give(place_of(chunk.offset).handle);
  return true;
}

std::uint64_t TileSource::free_bytes() noexcept {
  return chunks_->gpu().free_bytes() + chunks_->stats().idle_chunks * handle_bytes_;
}

}  // namespace glebe::device
