// The C interface of include/glebe/device.h, pools in the order of streams: checks pointers, converts types.
// State is what the handle points to.
#include <glebe/device.h>

#include "src/api/device_handles.h"
#include "src/device/stream_pool.h"

namespace glebe::api {
namespace {

struct OwnPool {
  dev::StreamPool pool;
};

OwnPool& own(glebe_device_pool* pool) noexcept { return *reinterpret_cast<OwnPool*>(pool); }

}  // namespace
}  // namespace glebe::api

using namespace glebe::api;

extern "C" {

// The numbers of parameters are those of the published interface.
// NOLINTBEGIN(readability-function-size)

glebe_device_result glebe_device_pool_open(glebe_device_heap* heap, glebe_device_pool** pool) {
  if (heap == nullptr || pool == nullptr) return glebe_device_bad_argument;
  OwnPool* const made = make_own<OwnPool>();
  if (made == nullptr) return glebe_device_no_host_memory;
  dev::StreamPoolOptions options;
  options.source = own(heap).heap.source();
  const dev::Outcome outcome = made->pool.open(own(heap).heap.gpu(), options);
  if (!outcome.ok()) {
    end_own(made);
    return to_c(outcome);
  }
  *pool = reinterpret_cast<glebe_device_pool*>(made);
  return glebe_device_ok;
}

glebe_device_result glebe_device_pool_close(glebe_device_pool* pool) {
  if (pool == nullptr) return glebe_device_ok;
  const dev::Outcome outcome = own(pool).pool.close();
  if (outcome.ok()) end_own(&own(pool));
  return to_c(outcome);
}

glebe_device_result glebe_device_pool_allocate(glebe_device_pool* pool, uint64_t size, void* stream,
                                               uint64_t* address) {
  if (pool == nullptr || address == nullptr) return glebe_device_bad_argument;
  cuda::DevicePointer made = 0;
  const dev::Outcome outcome = own(pool).pool.allocate(size, 0, to_stream(stream), &made);
  if (outcome.ok()) *address = made;
  return to_c(outcome);
}

glebe_device_result glebe_device_pool_free(glebe_device_pool* pool, uint64_t address, void* stream) {
  return pool != nullptr ? to_c(own(pool).pool.deallocate(address, to_stream(stream)))
                         : glebe_device_bad_argument;
}

glebe_device_result glebe_device_pool_record_use(glebe_device_pool* pool, uint64_t address, void* stream) {
  return pool != nullptr ? to_c(own(pool).pool.record_use(address, to_stream(stream)))
                         : glebe_device_bad_argument;
}

glebe_device_result glebe_device_pool_forget_stream(glebe_device_pool* pool, void* stream) {
  return pool != nullptr ? to_c(own(pool).pool.forget_stream(to_stream(stream))) : glebe_device_bad_argument;
}

uint64_t glebe_device_pool_trim(glebe_device_pool* pool, uint64_t keep) {
  return pool != nullptr ? own(pool).pool.trim(keep) : 0;
}

void glebe_device_pool_get_stats(glebe_device_pool* pool, glebe_device_pool_stats* stats) {
  if (pool == nullptr || stats == nullptr) return;
  const dev::StreamPoolStats from = own(pool).pool.stats();
  const auto origin = [&from](dev::BlockOrigin which) { return from.origins[static_cast<unsigned>(which)]; };
  *stats = {};
  stats->requests = from.requests;
  stats->failures = from.failures;
  stats->frees = from.frees;
  stats->same_stream = origin(dev::BlockOrigin::same_stream);
  stats->other_streams = origin(dev::BlockOrigin::completed) + origin(dev::BlockOrigin::waited_for);
  stats->from_heap = from.requests - from.failures - stats->same_stream - stats->other_streams;
  stats->live_blocks = from.live_blocks;
  stats->live_bytes = from.live_bytes;
  stats->idle_blocks = from.idle_blocks;
  stats->idle_bytes = from.idle_bytes;
  stats->peak_held_bytes = from.peak_held_bytes;
}

// NOLINTEND(readability-function-size)

}  // extern "C"
