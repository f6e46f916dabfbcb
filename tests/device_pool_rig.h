// What the tests of pools share: options for each engine, and a gate that holds a stream.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <thread>
#include <type_traits>
#include <vector>

#include "src/device/memory_pool.h"
#include "src/device/pool_bins.h"
#include "tests/device_rig.h"
#include "tests/random.h"

namespace device_test {

using DevicePool = MemoryPool<DeviceSource, HeapEngine>;

inline constexpr PoolOptions kOptions = {.chunk_bytes = kGranule, .max_bytes = 8 * kGranule};

inline ChunkPoolOptions handles(bool is_tile_pool = false) {
  ChunkPoolOptions options;
  options.chunk_bytes = kGranule;
  options.is_tile_pool = is_tile_pool;
  return options;
}

inline PoolOptions with(Gpu& gpu, PoolOptions options = kOptions) {
  options.gpu = &gpu;
  return options;
}

inline std::byte* pointer(std::uint64_t address) {
  return reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(address));
}

// Options of engines in tests over all of them, for blocks of up to 64 units at multiples of a unit.
template <class Engine>
typename Engine::Options engine_options(std::uint64_t unit_bytes) {
  if constexpr (std::is_same_v<Engine, FixedEngine>) return {.block_bytes = 64 * unit_bytes};
  if constexpr (std::is_same_v<Engine, HeapEngine>) return {.unit_bytes = unit_bytes};
  if constexpr (std::is_same_v<Engine, RingEngine>) return {.blocks_max = 64, .align_bytes = unit_bytes};
  if constexpr (std::is_same_v<Engine, BinnedEngine>) {
    return {.unit_bytes = unit_bytes, .bin_count = 2, .slab_bytes = 4 * unit_bytes};
  }
  if constexpr (std::is_same_v<Engine, PassEngine>) return {};
}

}  // namespace device_test
