// The C interface of include/glebe/device_memory_pool.h: checks pointers, converts types. State is what the
// handle points to.
#include <glebe/device_memory_pool.h>

#include "src/api/memory_pool_calls.h"

namespace glebe::api {
namespace {

struct OwnMemoryPool {
  ~OwnMemoryPool() {
    if (pool != nullptr) calls->end(pool);
  }
  dev::ChunkPool chunks;  // of device and tiles; ends after the pool, which gives them back
  const PoolCalls* calls = nullptr;
  void* pool = nullptr;
};

OwnMemoryPool& own(glebe_memory_pool* pool) noexcept { return *reinterpret_cast<OwnMemoryPool*>(pool); }

const PoolCalls& calls_of(glebe_source source, glebe_engine engine) noexcept {
  switch (source) {
    case glebe_source_pinned:
      return calls_with<dev::PinnedSource>(engine);
    case glebe_source_device:
      return calls_with<dev::DeviceSource>(engine);
    case glebe_source_tiles:
      return calls_with<dev::TileSource>(engine);
    case glebe_source_numbers:
      return calls_with<dev::NumberSource>(engine);
    case glebe_source_device_async:
      return calls_with<dev::DeviceAsyncSource>(engine);
    default:
      return calls_with<dev::HostSource>(engine);
  }
}

bool is_valid(const glebe_device* device, const glebe_memory_pool_options* options) noexcept {
  if (options == nullptr || options->struct_bytes < sizeof *options) return false;
  if (options->source < glebe_source_host || options->source > glebe_source_device_async) return false;
  if (options->engine < glebe_engine_heap || options->engine > glebe_engine_none) return false;
  const bool needs_device = options->source != glebe_source_host && options->source != glebe_source_numbers;
  return device != nullptr || !needs_device;
}

dev::PoolOptions convert(dev::Gpu* gpu, const glebe_memory_pool_options& from) noexcept {
  dev::PoolOptions to;
  to.chunk_bytes = from.chunk_bytes != 0 ? from.chunk_bytes : 2 * kMiB;
  to.max_bytes = from.max_bytes;
  to.address_bytes = from.address_bytes;
  if (from.align_max_bytes != 0) to.align_max_bytes = from.align_max_bytes;
  to.headroom_bytes = from.headroom_bytes;
  to.gpu = gpu;
  to.is_cleared = from.is_cleared != 0;
  return to;
}

dev::Outcome open_chunks(dev::Gpu& gpu, const glebe_memory_pool_options& from, std::uint64_t chunk_bytes,
                         dev::ChunkPool* chunks) noexcept {
  dev::ChunkPoolOptions options;
  options.chunk_bytes = chunk_bytes;
  options.is_tile_pool = from.source == glebe_source_tiles;
  return chunks->open(gpu, options);
}

dev::Outcome open_pool(OwnMemoryPool& made, dev::Gpu* gpu, const glebe_memory_pool_options& from) noexcept {
  made.calls = &calls_of(from.source, from.engine);
  made.pool = made.calls->make();
  if (made.pool == nullptr) return dev::Status::no_host_memory;
  const dev::PoolOptions common = convert(gpu, from);
  dev::Outcome outcome;
  if (from.source == glebe_source_device || from.source == glebe_source_tiles) {
    outcome = open_chunks(*gpu, from, common.chunk_bytes, &made.chunks);
  }
  return outcome.ok() ? made.calls->open(made.pool, common, from, &made.chunks) : outcome;
}

}  // namespace
}  // namespace glebe::api

using namespace glebe::api;

extern "C" {

// The numbers of parameters are those of the published interface.
// NOLINTBEGIN(readability-function-size)

glebe_device_result glebe_memory_pool_open(glebe_device* device, const glebe_memory_pool_options* options,
                                           glebe_memory_pool** pool) {
  if (pool == nullptr || !is_valid(device, options)) return glebe_device_bad_argument;
  OwnMemoryPool* const made = make_own<OwnMemoryPool>();
  if (made == nullptr) return glebe_device_no_host_memory;
  const dev::Outcome outcome = open_pool(*made, device != nullptr ? &own(device).gpu : nullptr, *options);
  if (!outcome.ok()) {
    end_own(made);
    return to_c(outcome);
  }
  *pool = reinterpret_cast<glebe_memory_pool*>(made);
  return glebe_device_ok;
}

glebe_device_result glebe_memory_pool_close(glebe_memory_pool* pool) {
  if (pool == nullptr) return glebe_device_ok;
  const dev::Outcome outcome = own(pool).calls->close(own(pool).pool);
  if (outcome.ok()) end_own(&own(pool));
  return to_c(outcome);
}

glebe_device_result glebe_memory_pool_allocate(glebe_memory_pool* pool, uint64_t size, uint64_t alignment,
                                               uint64_t* address) {
  if (pool == nullptr || address == nullptr) return glebe_device_bad_argument;
  return to_c(own(pool).calls->allocate(own(pool).pool, size, alignment, address));
}

glebe_device_result glebe_memory_pool_allocate_item(glebe_memory_pool* pool, uint64_t* address) {
  if (pool == nullptr || address == nullptr) return glebe_device_bad_argument;
  const auto allocate = own(pool).calls->allocate_item;
  return allocate != nullptr ? to_c(allocate(own(pool).pool, address)) : glebe_device_unsupported;
}

glebe_device_result glebe_memory_pool_allocate_objects(glebe_memory_pool* pool, uint64_t count,
                                                       uint64_t object_bytes, uint64_t alignment,
                                                       uint64_t* address) {
  if (pool == nullptr || address == nullptr || count == 0 || object_bytes == 0 ||
      !glebe::is_power_of_two(alignment) || count > UINT64_MAX / object_bytes) {
    return glebe_device_bad_argument;
  }
  if (!own(pool).calls->has_addresses) return glebe_device_unsupported;
  return to_c(own(pool).calls->allocate(own(pool).pool, count * object_bytes, alignment, address));
}

glebe_device_result glebe_memory_pool_allocate_tiles(glebe_memory_pool* pool, uint64_t count,
                                                     glebe_tile_run* run) {
  if (pool == nullptr || run == nullptr) return glebe_device_bad_argument;
  const auto allocate = own(pool).calls->allocate_tiles;
  if (allocate == nullptr) return glebe_device_unsupported;
  dev::TileRun made;
  const dev::Outcome outcome = allocate(own(pool).pool, count, &made);
  if (outcome.ok()) *run = {made.address, made.handle, made.offset_bytes, made.count};
  return to_c(outcome);
}

glebe_device_result glebe_memory_pool_free(glebe_memory_pool* pool, uint64_t address) {
  if (pool == nullptr) return glebe_device_bad_argument;
  return to_c(own(pool).calls->free(own(pool).pool, address));
}

glebe_device_result glebe_memory_pool_free_after(glebe_memory_pool* pool, void* stream,
                                                 const uint64_t* addresses, size_t count) {
  if (pool == nullptr || addresses == nullptr || count == 0) return glebe_device_bad_argument;
  return to_c(own(pool).calls->free_after(own(pool).pool, to_stream(stream), {addresses, count}));
}

glebe_device_result glebe_memory_pool_retire(glebe_memory_pool* pool) {
  return pool != nullptr ? to_c(own(pool).calls->retire(own(pool).pool)) : glebe_device_bad_argument;
}

glebe_device_result glebe_memory_pool_synchronize(glebe_memory_pool* pool) {
  return pool != nullptr ? to_c(own(pool).calls->synchronize(own(pool).pool)) : glebe_device_bad_argument;
}

uint64_t glebe_memory_pool_trim(glebe_memory_pool* pool, uint64_t keep) {
  return pool != nullptr ? own(pool).calls->trim(own(pool).pool, keep) : 0;
}

glebe_device_result glebe_memory_pool_set_max(glebe_memory_pool* pool, uint64_t max_bytes) {
  if (pool == nullptr) return glebe_device_bad_argument;
  return to_c(own(pool).calls->set_max(own(pool).pool, max_bytes));
}

uint64_t glebe_memory_pool_usable_size(glebe_memory_pool* pool, uint64_t address) {
  return pool != nullptr ? own(pool).calls->size_of(own(pool).pool, address) : 0;
}

void glebe_memory_pool_get_stats(glebe_memory_pool* pool, glebe_memory_pool_stats* stats) {
  if (pool == nullptr || stats == nullptr) return;
  const dev::PoolStats from = own(pool).calls->stats(own(pool).pool);
  *stats = {};
  stats->requests = from.requests;
  stats->hits = from.hits;
  stats->misses = from.misses;
  stats->failures = from.failures;
  stats->allocated = from.allocated;
  stats->freed = from.freed;
  stats->live_blocks = from.live_blocks;
  stats->live_bytes = from.live_bytes;
  stats->peak_live_bytes = from.peak_live_bytes;
  stats->waiting_blocks = from.waiting_blocks;
  stats->capacity_bytes = from.capacity_bytes;
  stats->largest_free_bytes = from.largest_free_bytes;
  stats->chunks = from.chunks;
  stats->chunk_bytes = from.chunk_bytes;
  stats->peak_chunk_bytes = from.peak_chunk_bytes;
  stats->chunks_taken = from.chunks_taken;
  stats->chunks_given = from.chunks_given;
}

// NOLINTEND(readability-function-size)

}  // extern "C"
