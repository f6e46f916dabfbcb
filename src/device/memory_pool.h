// A pool: one source of chunks and one engine that places blocks in them (namespace glebe::device).
//
//   MemoryPool<DeviceSource, HeapEngine> pool;
//   pool.open({.chunk_bytes = 2 * kMiB, .max_bytes = kGiB, .gpu = &gpu}, {&chunks}, {});
//   pool.allocate(1000, 256, &address);  ...  pool.free_after(stream, {&address, 1});
//
// Any source goes with any engine. A block that finds no room takes one chunk more, never beyond the cap and
// never for nothing: a request that fails leaves the pool as it was. Chunks go back by trim(), and only those
// without a block. free_after() frees when a stream has come that far; a slow stream keeps nobody else's
// blocks.
//
// Thread-safe but for open() and close(). mutex_ guards the engine and the counters; the source, and with it
// the driver, is called with growth_mutex_ alone, so who finds room in the pool never waits for the driver.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "platform/thread.h"
#include "src/base/bits.h"
#include "src/base/check.h"
#include "src/device/block_source.h"
#include "src/device/deferred_frees.h"
#include "src/device/pool_chunks.h"
#include "src/device/pool_engine.h"
#include "src/device/pool_marks.h"
#include "src/device/pool_options.h"
#include "src/device/pool_source.h"

namespace glebe::device {

template <ChunkSource Source, PlacementEngine Engine>
class MemoryPool {
 public:
  MemoryPool() noexcept = default;
  ~MemoryPool();
  // Blocks, threads and the driver hold on to the place of a pool: it does not move.
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool(MemoryPool&&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;
  MemoryPool& operator=(MemoryPool&&) = delete;

  // bad_argument, no_host_memory, out_of_addresses, or as the driver answers. A failure leaves nothing.
  Outcome open(const PoolOptions& options, const typename Source::Options& source,
               const typename Engine::Options& engine) noexcept;
  // Waits for what free_after() holds, then gives all memory back, also that of blocks which were not freed.
  // May be called twice. When the driver refuses, it can be called again, and nothing else.
  Outcome close() noexcept;
  [[nodiscard]] bool is_open() const noexcept { return is_open_; }

  // A block at a multiple of `align_bytes`, a power of two (0: as the engine likes). over_budget: the cap;
  // bad_argument: a size or alignment that this engine or source cannot do, or the pool is not open;
  // out_of_memory and others: the source. A failure changes nothing.
  Outcome allocate(std::uint64_t size_bytes, std::uint64_t align_bytes, std::uint64_t* address) noexcept;
  // A block of an engine that has one size.
  Outcome allocate_item(std::uint64_t* address) noexcept requires requires(const Engine& one_size) {
    one_size.item_bytes();
  }
  { return allocate(is_open_ ? engine_.item_bytes() : 0, 0, address); }
  // Room for `count` objects, aligned as they need; they are not constructed.
  template <class T>
  Outcome allocate_objects(std::uint64_t count, T** first) noexcept requires Source::kHasAddresses {
    if (count > ~std::uint64_t{0} / sizeof(T)) return Status::bad_argument;
    std::uint64_t address = 0;
    const Outcome outcome = allocate(count * sizeof(T), alignof(T), &address);
    if (outcome.ok()) *first = reinterpret_cast<T*>(static_cast<std::uintptr_t>(address));
    return outcome;
  }
  // Contiguous tiles of 64 KiB inside one handle.
  Outcome allocate_tiles(std::uint64_t count, TileRun* run) noexcept requires TiledSource<Source>;

  // Where the tile at an address is that the caller has: its handle, and the offset in it. Thread-safe.
  [[nodiscard]] auto place_of(std::uint64_t address) const noexcept requires TiledSource<Source> {
    return source_.place_of(source_.offset_of(address));
  }

  // Frees the block that starts there; the caller has proved that nothing uses it. not_owned, double_free:
  // nothing has changed. With is_cleared also as the driver answers.
  Outcome free(std::uint64_t address) noexcept;
  // Frees blocks, one at least, after the work that is in the stream now. All or none. unsupported: opened
  // without a GPU, is_cleared on a device, or the stream is being captured; not_owned, double_free; else as
  // DeferredFrees::defer().
  Outcome free_after(cuda::Stream stream, std::span<const std::uint64_t> addresses) noexcept;
  // Frees what the streams have passed. allocate() does so when it finds no room.
  Outcome retire() noexcept;
  // Waits until all that free_after() holds now is freed.
  Outcome synchronize() noexcept;

  // Gives back chunks without blocks until at most `keep_bytes` of them are left; returns the bytes.
  std::uint64_t trim(std::uint64_t keep_bytes) noexcept;
  // The cap from now on. Below what there is: nothing is taken until chunks were given back. bad_argument:
  // above address_bytes.
  Outcome set_max(std::uint64_t max_bytes) noexcept;

  // Bytes of the block that starts there; 0: none does.
  [[nodiscard]] std::uint64_t size_of(std::uint64_t address) noexcept;
  [[nodiscard]] PoolStats stats() noexcept;
  [[nodiscard]] bool validate() noexcept;  // for tests

  // The pool as a source of device memory for what is built on blocks.
  [[nodiscard]] BlockSource block_source() noexcept requires Source::kHasAddresses;

 private:
  using Placement = placement::Placement;

  [[nodiscard]] bool is_possible(std::uint64_t size_bytes, std::uint64_t align_bytes) const noexcept;
  [[nodiscard]] bool place(std::uint64_t size_bytes, std::uint64_t align_bytes, Placement* placed) noexcept;
  void count_block() noexcept;
  Outcome grow(std::uint64_t size_bytes, std::uint64_t align_bytes, Placement* placed) noexcept;
  Outcome length_of_chunk(std::uint64_t size_bytes, std::uint64_t align_bytes, std::uint64_t* bytes) noexcept;
  Outcome take_chunk(std::uint64_t size_bytes, PoolChunk* chunk) noexcept;
  void add_chunk(PoolChunk chunk) noexcept;
  [[nodiscard]] bool remove_chunk(PoolChunk chunk) noexcept;
  [[nodiscard]] bool take_empty(PoolChunk chunk, std::uint64_t keep_bytes,
                                std::uint64_t* kept_bytes) noexcept;
  bool give_or_add(PoolChunk chunk) noexcept;
  Outcome give_chunks() noexcept;

  Outcome mark(std::uint64_t offset) noexcept;
  [[nodiscard]] placement::Status free_block(std::uint64_t offset, PoolChunk* emptied) noexcept;
  Outcome free_and_clear(std::uint64_t offset) noexcept;
  void finish_free(PoolChunk emptied) noexcept;
  [[nodiscard]] DeferredFrees::Sink sink() noexcept;
  [[nodiscard]] static Status status_of(placement::Status status) noexcept;

  bool is_open_ = false;
  PoolOptions options_;
  PoolSpace space_;
  std::uint64_t granule_bytes_ = 1;
  DeferredFrees deferred_;
  os::Mutex growth_mutex_;  // guards the source and chunks_; taken before mutex_
  Source source_;
  PoolChunks chunks_;
  os::Mutex mutex_;
  Engine engine_;
  PoolMarks marks_;  // blocks that are being freed, or wait for a stream
  PoolStats stats_;
};

// --- Opening and closing ---

template <ChunkSource Source, PlacementEngine Engine>
MemoryPool<Source, Engine>::~MemoryPool() {
  constexpr int kTries = 3;
  for (int i = 0; i < kTries && !close().ok(); ++i) {
  }
}

template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::open(const PoolOptions& options, const typename Source::Options& source,
                                         const typename Engine::Options& engine) noexcept {
  Outcome outcome = close();
  if (!outcome.ok()) return outcome;
  constexpr std::uint64_t kBytesMax = std::uint64_t{1} << 46;
  if (options.chunk_bytes == 0 || options.max_bytes == 0 || options.max_bytes > kBytesMax ||
      options.chunk_bytes > kBytesMax || options.address_bytes > kBytesMax ||
      !is_power_of_two(options.align_max_bytes) || (options.is_cleared && !Source::kIsCleared)) {
    return Status::bad_argument;
  }
  std::uint64_t address_bytes = options.address_bytes;
  if (address_bytes == 0) address_bytes = options.max_bytes * (Source::kHasAddresses ? 2 : 1);
  if (address_bytes < options.max_bytes) return Status::bad_argument;
  std::uint64_t align_bytes = Source::kHasAddresses ? options.align_max_bytes : kBytesMax;
  if (align_bytes > Source::kAlignMaxBytes) align_bytes = Source::kAlignMaxBytes;
  const PoolSpace space = {divide_up(address_bytes, options.chunk_bytes) * options.chunk_bytes,
                           options.chunk_bytes, align_bytes};
  outcome = source_.open(source, space);
  if (outcome.ok()) outcome = engine_.open(engine, space);
  if (outcome.ok()) outcome = chunks_.open(space, options.max_bytes);
  if (outcome.ok() && !marks_.open(space.size_bytes, engine_.step_bytes())) outcome = Status::no_host_memory;
  if (outcome.ok() && options.gpu != nullptr) outcome = deferred_.open(*options.gpu);
  if (outcome.ok()) {
    const std::uint64_t one = source_.granule_bytes(), other = engine_.grain_bytes();
    granule_bytes_ = !Engine::kKeepsChunks ? options.chunk_bytes : one > other ? one : other;
    if (granule_bytes_ % one != 0 || granule_bytes_ % other != 0 ||
        options.chunk_bytes % granule_bytes_ != 0) {
      outcome = Status::bad_argument;
    }
  }
  options_ = options;
  space_ = space;
  stats_ = {};
  is_open_ = true;
  if (!outcome.ok()) static_cast<void>(close());
  return outcome;
}

template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::close() noexcept {
  if (!is_open_) return {};
  if (options_.gpu != nullptr) {
    const Outcome outcome = deferred_.wait_all(sink());
    if (!outcome.ok() && outcome.status != Status::device_lost) return outcome;
  }
  const Outcome outcome = give_chunks();
  if (!outcome.ok()) return outcome;
  deferred_.close();
  marks_.close();
  chunks_.close();
  engine_.close();
  source_.close();
  is_open_ = false;
  return {};
}

// All of them, whatever lives in them.
template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::give_chunks() noexcept {
  const os::Lock growth(growth_mutex_);
  PoolChunk chunk = chunks_.next(0);
  for (; chunk.size_bytes != 0; chunk = chunks_.next(chunk.offset)) {
    if (!source_.give(chunk)) return Status::failed;
    chunks_.give(chunk);
  }
  return {};
}

// --- Blocks ---

template <ChunkSource Source, PlacementEngine Engine>
bool MemoryPool<Source, Engine>::is_possible(std::uint64_t size_bytes,
                                             std::uint64_t align_bytes) const noexcept {
  if (!is_open_ || size_bytes == 0 || size_bytes % Source::kGrainBytes != 0) return false;
  if (!is_power_of_two(align_bytes)) return false;
  return align_bytes <= (Source::kHasAddresses ? space_.align_bytes : space_.size_bytes);
}

template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::allocate(std::uint64_t size_bytes, std::uint64_t align_bytes,
                                             std::uint64_t* address) noexcept {
  if (align_bytes == 0) align_bytes = 1;
  if (!is_possible(size_bytes, align_bytes)) return Status::bad_argument;
  Placement placed;
  bool is_placed = place(size_bytes, align_bytes, &placed);
  if (!is_placed && options_.gpu != nullptr && deferred_.count() != 0) {
    static_cast<void>(retire());  // a stream that cannot be asked frees nothing
    is_placed = place(size_bytes, align_bytes, &placed);
  }
  if (!is_placed) {
    const Outcome outcome = grow(size_bytes, align_bytes, &placed);
    if (!outcome.ok()) {
      const os::Lock lock(mutex_);
      ++stats_.requests;
      ++stats_.misses;
      ++stats_.failures;
      return outcome;
    }
  }
  *address = source_.address_of(placed.offset);
  return {};
}

template <ChunkSource Source, PlacementEngine Engine>
bool MemoryPool<Source, Engine>::place(std::uint64_t size_bytes, std::uint64_t align_bytes,
                                       Placement* placed) noexcept {
  const os::Lock lock(mutex_);
  *placed = engine_.allocate(size_bytes, align_bytes);
  if (placed->empty()) return false;
  ++stats_.hits;
  count_block();
  return true;
}

template <ChunkSource Source, PlacementEngine Engine>
void MemoryPool<Source, Engine>::count_block() noexcept {
  ++stats_.requests;
  ++stats_.allocated;
  if (engine_.live_bytes() > stats_.peak_live_bytes) stats_.peak_live_bytes = engine_.live_bytes();
}

template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::allocate_tiles(std::uint64_t count,
                                                   TileRun* run) noexcept requires TiledSource<Source> {
  if (count > ~std::uint64_t{0} / kTileBytes) return Status::bad_argument;
  std::uint64_t address = 0;
  const Outcome outcome = allocate(count * kTileBytes, 0, &address);
  if (!outcome.ok()) return outcome;
  const auto where = source_.place_of(address);
  *run = {address, where.handle, where.offset_bytes, count};
  return {};
}

template <ChunkSource Source, PlacementEngine Engine>
Status MemoryPool<Source, Engine>::status_of(placement::Status status) noexcept {
  switch (status) {
    case placement::Status::ok:
      return Status::ok;
    case placement::Status::double_free:
      return Status::double_free;
    default:
      return Status::not_owned;
  }
}

// Under the lock. *emptied is a chunk that goes with its only block.
template <ChunkSource Source, PlacementEngine Engine>
placement::Status MemoryPool<Source, Engine>::free_block(std::uint64_t offset, PoolChunk* emptied) noexcept {
  const std::uint64_t size_bytes = Engine::kKeepsChunks ? 0 : engine_.size_of(offset);
  const placement::Status status = engine_.free(offset);
  if (status != placement::Status::ok) return status;
  ++stats_.freed;
  if constexpr (!Engine::kKeepsChunks) {
    *emptied = {offset, size_bytes};
    CHECK(remove_chunk(*emptied));
  }
  return status;
}

template <ChunkSource Source, PlacementEngine Engine>
void MemoryPool<Source, Engine>::finish_free(PoolChunk emptied) noexcept {
  if (emptied.size_bytes == 0) return;
  const os::Lock growth(growth_mutex_);
  give_or_add(emptied);
}

template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::free(std::uint64_t address) noexcept {
  const std::uint64_t offset = source_.offset_of(address);
  if (!is_open_ || offset >= space_.size_bytes) return Status::not_owned;
  if (options_.is_cleared) return free_and_clear(offset);
  PoolChunk emptied;
  {
    const os::Lock lock(mutex_);
    if (marks_.test(offset)) return engine_.size_of(offset) != 0 ? Status::double_free : Status::not_owned;
    const placement::Status status = free_block(offset, &emptied);
    if (status != placement::Status::ok) return status_of(status);
  }
  finish_free(emptied);
  return {};
}

// Marks a live block as one that is being freed, or says why it cannot be.
template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::mark(std::uint64_t offset) noexcept {
  if (offset >= space_.size_bytes) return Status::not_owned;
  const os::Lock lock(mutex_);
  if (engine_.size_of(offset) == 0) return status_of(engine_.free(offset));  // says what is wrong with it
  if (marks_.test(offset)) return Status::double_free;
  return marks_.set(offset) ? Status::ok : Status::no_host_memory;
}

// The mark keeps a second free out while the block is cleared without the lock.
template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::free_and_clear(std::uint64_t offset) noexcept {
  Outcome outcome = mark(offset);
  if (!outcome.ok()) return outcome;
  std::uint64_t size_bytes = 0;
  {
    const os::Lock lock(mutex_);
    size_bytes = engine_.size_of(offset);
  }
  outcome = source_.clear({offset, size_bytes});
  PoolChunk emptied;
  {
    const os::Lock lock(mutex_);
    marks_.reset(offset);
    if (!outcome.ok()) return outcome;
    CHECK(free_block(offset, &emptied) == placement::Status::ok);
  }
  finish_free(emptied);
  return {};
}

// --- Frees that wait for a stream ---

template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::free_after(cuda::Stream stream,
                                               std::span<const std::uint64_t> addresses) noexcept {
  if (!is_open_) return Status::not_owned;
  if (options_.gpu == nullptr || (options_.is_cleared && !Source::kClearsOnHost)) return Status::unsupported;
  if (addresses.empty()) return Status::bad_argument;
  Outcome outcome;
  std::size_t marked = 0;
  for (; marked < addresses.size() && outcome.ok(); ++marked)
    outcome = mark(source_.offset_of(addresses[marked]));
  if (!outcome.ok()) --marked;  // the last one was refused
  if (outcome.ok()) outcome = deferred_.defer(stream, addresses);
  if (outcome.ok()) return {};
  const os::Lock lock(mutex_);
  for (std::size_t i = 0; i < marked; ++i) marks_.reset(source_.offset_of(addresses[i]));
  return outcome;
}

template <ChunkSource Source, PlacementEngine Engine>
DeferredFrees::Sink MemoryPool<Source, Engine>::sink() noexcept {
  return {this, [](void* self, std::uint64_t address) {
            auto& pool = *static_cast<MemoryPool*>(self);
            const std::uint64_t offset = pool.source_.offset_of(address);
            PoolChunk emptied;
            if constexpr (Source::kClearsOnHost) {
              if (pool.options_.is_cleared) CHECK(pool.source_.clear({offset, pool.size_of(address)}).ok());
            }
            {
              const os::Lock lock(pool.mutex_);
              pool.marks_.reset(offset);
              CHECK(pool.free_block(offset, &emptied) == placement::Status::ok);
            }
            pool.finish_free(emptied);
          }};
}

template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::retire() noexcept {
  return is_open_ && options_.gpu != nullptr ? deferred_.retire(sink()) : Outcome();
}

template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::synchronize() noexcept {
  return is_open_ && options_.gpu != nullptr ? deferred_.wait_all(sink()) : Outcome();
}

// --- Chunks ---

// How long a chunk for this block is: the usual length, what is left of the cap, or longer for a long block.
template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::length_of_chunk(std::uint64_t size_bytes, std::uint64_t align_bytes,
                                                    std::uint64_t* bytes) noexcept {
  const std::uint64_t max_bytes = chunks_.max_bytes();
  if (size_bytes > max_bytes) return Status::over_budget;
  const std::uint64_t needed = engine_.chunk_bytes_for(size_bytes, align_bytes);
  if (needed == 0) return Status::bad_argument;
  *bytes = divide_up(needed, granule_bytes_) * granule_bytes_;
  if (!Source::kSpansChunks && *bytes > options_.chunk_bytes) return Status::bad_argument;
  const std::uint64_t room = max_bytes > chunks_.bytes() ? max_bytes - chunks_.bytes() : 0;
  if (*bytes > room) return Status::over_budget;
  if (Engine::kKeepsChunks && *bytes < options_.chunk_bytes) {
    *bytes = room < options_.chunk_bytes ? room / granule_bytes_ * granule_bytes_ : options_.chunk_bytes;
  }
  if (options_.headroom_bytes == 0) return {};
  const std::uint64_t free_bytes = source_.free_bytes();
  const bool has_room = free_bytes >= *bytes && free_bytes - *bytes >= options_.headroom_bytes;
  return has_room ? Status::ok : Status::out_of_memory;
}

// Counted, with tables and memory; not yet known to the engine.
template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::take_chunk(std::uint64_t size_bytes, PoolChunk* chunk) noexcept {
  Outcome outcome = chunks_.take(size_bytes, chunk);
  if (!outcome.ok()) return outcome;
  {
    const os::Lock lock(mutex_);
    if (!engine_.prepare(*chunk)) outcome = Status::no_host_memory;
  }
  if (outcome.ok()) outcome = source_.take(*chunk);
  if (!outcome.ok()) chunks_.give(*chunk);
  return outcome;
}

template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::grow(std::uint64_t size_bytes, std::uint64_t align_bytes,
                                         Placement* placed) noexcept {
  const os::Lock growth(growth_mutex_);
  if (place(size_bytes, align_bytes, placed)) return {};  // another thread took a chunk meanwhile
  std::uint64_t chunk_bytes = 0;
  Outcome outcome = length_of_chunk(size_bytes, align_bytes, &chunk_bytes);
  if (!outcome.ok()) return outcome;
  PoolChunk chunk;
  outcome = take_chunk(chunk_bytes, &chunk);
  if (!outcome.ok()) return outcome;
  const os::Lock lock(mutex_);
  add_chunk(chunk);
  ++stats_.chunks_taken;
  *placed = engine_.allocate_in(chunk, size_bytes, align_bytes);
  CHECK(!placed->empty());
  ++stats_.misses;
  count_block();
  return {};
}

// Both under the lock.
template <ChunkSource Source, PlacementEngine Engine>
void MemoryPool<Source, Engine>::add_chunk(PoolChunk chunk) noexcept {
  engine_.add(chunk);
  ++stats_.chunks;
  stats_.chunk_bytes += chunk.size_bytes;
  if (stats_.chunk_bytes > stats_.peak_chunk_bytes) stats_.peak_chunk_bytes = stats_.chunk_bytes;
}

template <ChunkSource Source, PlacementEngine Engine>
bool MemoryPool<Source, Engine>::remove_chunk(PoolChunk chunk) noexcept {
  if (engine_.remove(chunk) != placement::Status::ok) return false;
  --stats_.chunks;
  stats_.chunk_bytes -= chunk.size_bytes;
  return true;
}

// Takes a chunk without blocks from the engine. False: it has blocks, or is kept and counted.
template <ChunkSource Source, PlacementEngine Engine>
bool MemoryPool<Source, Engine>::take_empty(PoolChunk chunk, std::uint64_t keep_bytes,
                                            std::uint64_t* kept_bytes) noexcept {
  const os::Lock lock(mutex_);
  if (!remove_chunk(chunk)) return false;
  if (chunk.size_bytes > keep_bytes) return true;
  *kept_bytes += chunk.size_bytes;
  add_chunk(chunk);
  return false;
}

// Gives a chunk back that the engine knows no more. Where the driver refuses, the engine has it again: for
// the next block that fits, or the next trim().
template <ChunkSource Source, PlacementEngine Engine>
bool MemoryPool<Source, Engine>::give_or_add(PoolChunk chunk) noexcept {
  const bool is_given = source_.give(chunk);
  if (is_given) chunks_.give(chunk);
  const os::Lock lock(mutex_);
  if (is_given) {
    ++stats_.chunks_given;
  } else {
    add_chunk(chunk);
  }
  return is_given;
}

template <ChunkSource Source, PlacementEngine Engine>
std::uint64_t MemoryPool<Source, Engine>::trim(std::uint64_t keep_bytes) noexcept {
  if (!is_open_) return 0;
  static_cast<void>(retire());
  const os::Lock growth(growth_mutex_);
  std::uint64_t kept_bytes = 0, given_bytes = 0;
  PoolChunk chunk = chunks_.next(0);
  for (; chunk.size_bytes != 0; chunk = chunks_.next(chunk.offset + chunk.size_bytes)) {
    if (!take_empty(chunk, keep_bytes - kept_bytes, &kept_bytes)) continue;
    if (give_or_add(chunk)) given_bytes += chunk.size_bytes;
  }
  return given_bytes;
}

template <ChunkSource Source, PlacementEngine Engine>
Outcome MemoryPool<Source, Engine>::set_max(std::uint64_t max_bytes) noexcept {
  if (!is_open_ || max_bytes > space_.size_bytes) return Status::bad_argument;
  const os::Lock growth(growth_mutex_);
  chunks_.set_max(max_bytes);
  return {};
}

// --- What there is ---

template <ChunkSource Source, PlacementEngine Engine>
std::uint64_t MemoryPool<Source, Engine>::size_of(std::uint64_t address) noexcept {
  const std::uint64_t offset = source_.offset_of(address);
  if (!is_open_ || offset >= space_.size_bytes) return 0;
  const os::Lock lock(mutex_);
  return engine_.size_of(offset);
}

template <ChunkSource Source, PlacementEngine Engine>
PoolStats MemoryPool<Source, Engine>::stats() noexcept {
  const os::Lock lock(mutex_);
  PoolStats stats = stats_;
  if (!is_open_) return stats;
  stats.live_blocks = engine_.live_count();
  stats.live_bytes = engine_.live_bytes();
  stats.waiting_blocks = marks_.count();
  stats.capacity_bytes = engine_.capacity_bytes();
  stats.largest_free_bytes = engine_.largest_free();
  return stats;
}

template <ChunkSource Source, PlacementEngine Engine>
bool MemoryPool<Source, Engine>::validate() noexcept {
  const os::Lock growth(growth_mutex_);
  const os::Lock lock(mutex_);
  if (!is_open_) return true;
  std::uint64_t chunk_bytes = 0;
  PoolChunk chunk = chunks_.next(0);
  for (; chunk.size_bytes != 0; chunk = chunks_.next(chunk.offset + chunk.size_bytes)) {
    chunk_bytes += chunk.size_bytes;
  }
  if (chunk_bytes != chunks_.bytes() || chunk_bytes != stats_.chunk_bytes) return false;
  return engine_.validate() && engine_.capacity_bytes() <= chunk_bytes &&
         stats_.allocated - stats_.freed == engine_.live_count();
}

template <ChunkSource Source, PlacementEngine Engine>
BlockSource MemoryPool<Source, Engine>::block_source() noexcept requires Source::kHasAddresses {
  BlockSource source;
  source.self = this;
  source.allocate = [](void* self, std::uint64_t size_bytes, std::uint64_t align_bytes,
                       cuda::DevicePointer* address) {
    std::uint64_t block = 0;
    const std::uint64_t align = align_bytes == 0 ? kDeviceAlignBytes : align_bytes;
    const Outcome outcome = static_cast<MemoryPool*>(self)->allocate(size_bytes, align, &block);
    if (outcome.ok()) *address = block;
    return outcome;
  };
  source.free = [](void* self, cuda::DevicePointer address) {
    return static_cast<MemoryPool*>(self)->free(address);
  };
  source.trim = [](void* self, std::uint64_t keep_bytes) {
    return static_cast<MemoryPool*>(self)->trim(keep_bytes);
  };
  return source;
}

}  // namespace glebe::device
