// Chunks for a pool from a pool of the driver, in the order of one stream (namespace glebe::device):
// cuMemAllocFromPoolAsync, cuMemFreeAsync.
//
// A chunk is the device's from where take() stands in the stream to where give() stands there. So it is with
// the blocks of a MemoryPool over this source: a block is for work behind allocate() in that stream, or in a
// stream that waits for it, and free() may be called as soon as such work is queued there: nobody waits.
// free_after() is for blocks that another stream still uses and the source's stream does not wait for.
//
// The driver's pool is the source's own. What is given back stays in it for the next take() up to a
// threshold, whatever is above goes back to the device when somebody waits for a stream or an event.
#pragma once

#include <cstddef>
#include <cstdint>

#include "platform/thread.h"
#include "src/device/pool_source.h"
#include "src/paging/growing_memory.h"

namespace glebe::device {

class DeviceAsyncSource {
 public:
  struct Options {
    Gpu* gpu = nullptr;  // outlives the source
    // Outlives the source; nullptr: the default stream. Not the stream of threads (kStreamPerThread), which
    // is another one in each of them.
    cuda::Stream stream = nullptr;
    std::uint64_t release_threshold_bytes = 0;  // that the driver's pool keeps
  };
  static constexpr std::uint64_t kGrainBytes = 1;
  static constexpr std::uint64_t kAlignMaxBytes = 512;  // the driver promises no more
  static constexpr bool kHasAddresses = true, kSpansChunks = true, kIsCleared = true, kClearsOnHost = false;

  DeviceAsyncSource() noexcept = default;
  ~DeviceAsyncSource() { close(); }
  DeviceAsyncSource(const DeviceAsyncSource&) = delete;
  DeviceAsyncSource& operator=(const DeviceAsyncSource&) = delete;

  // unsupported: the device has no memory pools.
  Outcome open(const Options& options, const PoolSpace& space) noexcept;
  void close() noexcept;
  // unsupported, as from clear(): the stream is being captured, and the work would belong to the graph.
  Outcome take(PoolChunk chunk) noexcept;
  bool give(PoolChunk chunk) noexcept;  // false in a capture too
  // In the order of the stream, as all that is done with the memory.
  Outcome clear(PoolChunk part) noexcept;
  [[nodiscard]] std::uint64_t granule_bytes() const noexcept { return kAlignMaxBytes; }
  [[nodiscard]] std::uint64_t free_bytes() noexcept;

  [[nodiscard]] std::uint64_t address_of(std::uint64_t offset) const noexcept {
    return slots()[offset / chunk_bytes_] + offset % chunk_bytes_;
  }
  [[nodiscard]] std::uint64_t offset_of(std::uint64_t address) noexcept;

 private:
  struct Range {
    std::uint64_t address, offset, size_bytes;
  };
  [[nodiscard]] std::uint64_t* slots() const noexcept {
    return reinterpret_cast<std::uint64_t*>(slots_.base());
  }
  [[nodiscard]] Range* ranges() const noexcept { return reinterpret_cast<Range*>(ranges_.base()); }
  [[nodiscard]] std::uint64_t behind(std::uint64_t address) const noexcept;
  [[nodiscard]] Outcome make_pool(std::uint64_t threshold_bytes) noexcept;

  Gpu* gpu_ = nullptr;
  cuda::Stream stream_ = nullptr;
  cuda::MemoryPool pool_ = nullptr;
  std::uint64_t chunk_bytes_ = 1;
  // By offset / chunk_bytes_: the address there. Written before a block can be in that chunk.
  paging::GrowingMemory slots_;
  os::Mutex mutex_;  // guards what follows; the driver is not called with it
  paging::GrowingMemory ranges_;
  std::uint64_t range_count_ = 0;  // sorted by address
};

static_assert(ChunkSource<DeviceAsyncSource>);

}  // namespace glebe::device
