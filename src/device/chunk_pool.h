// Physical memory of one kind in equal chunks, which are kept and used again (namespace glebe::device).
//
// Creating physical memory is the driver's slowest call (about 0.2 ms for 2 MiB), so a chunk that nobody uses
// stays here, and in the steady state nothing is created. A chunk is a handle: it has no address, whoever
// took it maps it. The pool charges a budget for every chunk that exists, idle or taken; several pools (fine
// and coarse chunks of one device) share one budget, and what idles in one can be given back for another by
// trim(). No driver call is made while the lock is held.
#pragma once

#include <cstddef>
#include <cstdint>

#include "platform/thread.h"
#include "src/device/gpu.h"
#include "src/paging/budget.h"
#include "src/paging/growing_memory.h"

namespace glebe::device {

struct ChunkPoolOptions {
  std::size_t chunk_bytes = 0;  // a multiple of the granule of the location
  cuda::LocationType location = cuda::LocationType::device;
  std::uint64_t chunks_max = 65536;  // of this pool, idle and taken
  paging::Budget* budget = nullptr;  // charged by tag; outlives the pool; nullptr: no limit but chunks_max
  paging::BudgetTag tag = 0;         // of that budget
  // Whether take() and prewarm() call the budget's callbacks. Otherwise the owner does, when he holds no lock
  // that they may want: what does not fit is refused, and take_excess() tells what exceeds.
  bool calls_back = true;
  bool is_shareable = false;  // can be exported to other processes
  bool is_tile_pool = false;  // backs sparse arrays, nothing else
};

struct ChunkPoolStats {
  std::uint64_t chunks = 0, idle_chunks = 0, peak_chunks = 0;  // that exist; the part that nobody has
  std::uint64_t created = 0, released = 0, reused = 0;         // in all
  std::uint64_t refused = 0;                                   // takes that found no room
};

class ChunkPool {
 public:
  constexpr ChunkPool() noexcept = default;
  ~ChunkPool() { close(); }
  ChunkPool(const ChunkPool&) = delete;
  ChunkPool& operator=(const ChunkPool&) = delete;

  // `gpu` outlives the pool. bad_argument, no_host_memory, unsupported (memory of the host cannot be mapped).
  Outcome open(Gpu& gpu, const ChunkPoolOptions& options) noexcept;
  // Releases the idle chunks. All others were given back before: whoever keeps one keeps its memory.
  void close() noexcept;

  // A chunk: an idle one, otherwise a new one. over_budget, out_of_memory: none; nothing has changed.
  Outcome take(cuda::MemoryHandle* handle) noexcept;
  // An idle chunk; false: there is none. Never calls the driver.
  [[nodiscard]] bool take_idle(cuda::MemoryHandle* handle) noexcept;
  // Takes a chunk back, which is mapped nowhere. Never fails and never calls the driver.
  void give(cuda::MemoryHandle handle) noexcept;
  // Releases a chunk that was taken (it was exported, say, and must not be used again).
  void discard(cuda::MemoryHandle handle) noexcept;

  // Releases idle chunks until at most `keep_bytes` are idle; returns the bytes released.
  std::uint64_t trim(std::uint64_t keep_bytes) noexcept;
  // Creates chunks until `idle_bytes` are idle. Keeps what it made when it fails.
  Outcome prewarm(std::uint64_t idle_bytes) noexcept;

  // Bytes that a budget which only warns counted above its limit, since the last call.
  [[nodiscard]] std::uint64_t take_excess() noexcept;

  [[nodiscard]] std::size_t chunk_bytes() const noexcept { return options_.chunk_bytes; }
  [[nodiscard]] Gpu& gpu() const noexcept { return *gpu_; }
  [[nodiscard]] bool is_tile_pool() const noexcept { return options_.is_tile_pool; }
  [[nodiscard]] ChunkPoolStats stats() noexcept;

 private:
  [[nodiscard]] bool charge(bool* is_excess) noexcept;
  [[nodiscard]] Outcome create(cuda::MemoryHandle* handle) noexcept;
  void release(cuda::MemoryHandle handle) noexcept;
  [[nodiscard]] cuda::MemoryHandle* idle() noexcept;

  Gpu* gpu_ = nullptr;
  ChunkPoolOptions options_;
  os::Mutex mutex_;
  // Under the lock. The stack of idle handles has room for every chunk that exists, so give() cannot fail.
  paging::GrowingMemory stack_;
  std::uint64_t idle_count_ = 0;
  std::uint64_t excess_bytes_ = 0;
  ChunkPoolStats stats_;
};

}  // namespace glebe::device
