// Every pairing of a source and an engine behind one table of functions (namespace glebe::api): the caller of
// the C interface chooses at run time what MemoryPool is told at compile time.
#pragma once

#include <glebe/device_memory_pool.h>

#include <span>

#include "src/api/device_handles.h"
#include "src/device/async_source.h"
#include "src/device/memory_pool.h"
#include "src/device/pool_bins.h"

namespace glebe::api {

// nullptr where this pairing cannot do it.
struct PoolCalls {
  void* (*make)() noexcept;  // nullptr: no memory
  void (*end)(void* pool) noexcept;
  dev::Outcome (*open)(void* pool, const dev::PoolOptions& common, const glebe_memory_pool_options& from,
                       dev::ChunkPool* chunks) noexcept;
  dev::Outcome (*close)(void* pool) noexcept;
  dev::Outcome (*allocate)(void* pool, std::uint64_t size, std::uint64_t alignment,
                           std::uint64_t* address) noexcept;
  dev::Outcome (*allocate_item)(void* pool, std::uint64_t* address) noexcept;
  dev::Outcome (*allocate_tiles)(void* pool, std::uint64_t count, dev::TileRun* run) noexcept;
  dev::Outcome (*free)(void* pool, std::uint64_t address) noexcept;
  dev::Outcome (*free_after)(void* pool, cuda::Stream stream,
                             std::span<const std::uint64_t> addresses) noexcept;
  dev::Outcome (*retire)(void* pool) noexcept;
  dev::Outcome (*synchronize)(void* pool) noexcept;
  std::uint64_t (*trim)(void* pool, std::uint64_t keep) noexcept;
  dev::Outcome (*set_max)(void* pool, std::uint64_t max_bytes) noexcept;
  std::uint64_t (*size_of)(void* pool, std::uint64_t address) noexcept;
  dev::PoolStats (*stats)(void* pool) noexcept;
  bool has_addresses;
};

template <class Engine>
typename Engine::Options engine_options(const glebe_memory_pool_options& from) noexcept {
  typename Engine::Options to;
  if constexpr (requires { to.block_bytes; }) to.block_bytes = from.block_bytes;
  if constexpr (requires { to.align_bytes; }) {
    if (from.align_bytes != 0) to.align_bytes = from.align_bytes;
  }
  if constexpr (requires { to.blocks_max; }) {
    if (from.blocks_max != 0) to.blocks_max = from.blocks_max;
  }
  if constexpr (requires { to.unit_bytes; }) {
    if (from.source == glebe_source_numbers) to.unit_bytes = 1;
    if (from.unit_bytes != 0) to.unit_bytes = from.unit_bytes;
  }
  if constexpr (requires { to.bin_count; }) {
    if (from.bin_count != 0) to.bin_count = from.bin_count;
    if (from.slab_bytes != 0) to.slab_bytes = from.slab_bytes;
  }
  return to;
}

template <class Source>
typename Source::Options source_options(const glebe_memory_pool_options& from, dev::Gpu* gpu,
                                        dev::ChunkPool* chunks) noexcept {
  typename Source::Options to;
  if constexpr (requires { to.gpu; }) to.gpu = gpu;
  if constexpr (requires { to.chunks; }) to.chunks = chunks;
  if constexpr (requires { to.release_threshold_bytes; }) {
    to.stream = static_cast<cuda::Stream>(from.stream);
    to.release_threshold_bytes = from.release_threshold_bytes;
  }
  return to;
}

template <class Source, class Engine>
class PairedCalls {
  using Pool = dev::MemoryPool<Source, Engine>;
  static Pool& of(void* pool) noexcept { return *static_cast<Pool*>(pool); }

  static void* make() noexcept { return make_own<Pool>(); }
  static void end(void* pool) noexcept { end_own(static_cast<Pool*>(pool)); }
  static dev::Outcome open(void* pool, const dev::PoolOptions& common, const glebe_memory_pool_options& from,
                           dev::ChunkPool* chunks) noexcept {
    return of(pool).open(common, source_options<Source>(from, common.gpu, chunks),
                         engine_options<Engine>(from));
  }
  static dev::Outcome close(void* pool) noexcept { return of(pool).close(); }
  static dev::Outcome allocate(void* pool, std::uint64_t size, std::uint64_t alignment,
                               std::uint64_t* address) noexcept {
    return of(pool).allocate(size, alignment, address);
  }
  static dev::Outcome allocate_item(void* pool,
                                    std::uint64_t* address) noexcept requires dev::OneSizeEngine<Engine> {
    return of(pool).allocate_item(address);
  }
  static dev::Outcome allocate_tiles(void* pool, std::uint64_t count,
                                     dev::TileRun* run) noexcept requires dev::TiledSource<Source> {
    return of(pool).allocate_tiles(count, run);
  }
  static dev::Outcome free(void* pool, std::uint64_t address) noexcept { return of(pool).free(address); }
  static dev::Outcome free_after(void* pool, cuda::Stream stream,
                                 std::span<const std::uint64_t> addresses) noexcept {
    return of(pool).free_after(stream, addresses);
  }
  static dev::Outcome retire(void* pool) noexcept { return of(pool).retire(); }
  static dev::Outcome synchronize(void* pool) noexcept { return of(pool).synchronize(); }
  static std::uint64_t trim(void* pool, std::uint64_t keep) noexcept { return of(pool).trim(keep); }
  static dev::Outcome set_max(void* pool, std::uint64_t bytes) noexcept { return of(pool).set_max(bytes); }
  static std::uint64_t size_of(void* pool, std::uint64_t at) noexcept { return of(pool).size_of(at); }
  static dev::PoolStats stats(void* pool) noexcept { return of(pool).stats(); }

  static constexpr PoolCalls table() noexcept {
    PoolCalls calls = {
        make,       end,    open,        close, allocate, nullptr, nullptr, free,
        free_after, retire, synchronize, trim,  set_max,  size_of, stats,   Source::kHasAddresses};
    if constexpr (dev::OneSizeEngine<Engine>) calls.allocate_item = allocate_item;
    if constexpr (dev::TiledSource<Source>) calls.allocate_tiles = allocate_tiles;
    return calls;
  }

 public:
  static constexpr PoolCalls kTable = table();
};

// The table of a source with an engine that is one of glebe_engine.
template <class Source>
const PoolCalls& calls_with(glebe_engine engine) noexcept {
  switch (engine) {
    case glebe_engine_fixed:
      return PairedCalls<Source, dev::FixedEngine>::kTable;
    case glebe_engine_bins:
      return PairedCalls<Source, dev::BinnedEngine>::kTable;
    case glebe_engine_ring:
      return PairedCalls<Source, dev::RingEngine>::kTable;
    case glebe_engine_none:
      return PairedCalls<Source, dev::PassEngine>::kTable;
    default:
      return PairedCalls<Source, dev::HeapEngine>::kTable;
  }
}

}  // namespace glebe::api
