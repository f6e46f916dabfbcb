// The C interface of include/glebe/device.h: checks pointers, converts types. State is what the handles point
// to: a device with what it stands on, heaps, pools, resident memory.
#include <glebe/device.h>

#include <cstring>

#include "platform/emulated_gpu/emulated_gpu.h"
#include "src/base/bits.h"
#include "src/base/text.h"
#include "src/device/device_heap.h"
#include "src/device/residency.h"
#include "src/device/stream_pool.h"
#include "src/paging/own_memory.h"

namespace glebe::api {
namespace {

namespace dev = glebe::device;
namespace cuda = os::cuda;
using paging::end_own;
using paging::make_own;

struct OwnDevice {
  os::EmulatedGpu emulated;
  dev::Gpu gpu;  // last: it ends first
  bool is_emulated = false;
};
struct OwnHeap {
  glebe_device_heap_options options;
  dev::DeviceHeap heap;
};
struct OwnPool {
  dev::StreamPool pool;
};
struct OwnResident {
  dev::ChunkPool chunks;
  dev::ResidentHeap heap;  // ends before the chunks that it gives back
};

OwnDevice& own(glebe_device* device) noexcept { return *reinterpret_cast<OwnDevice*>(device); }
OwnHeap& own(glebe_device_heap* heap) noexcept { return *reinterpret_cast<OwnHeap*>(heap); }
OwnPool& own(glebe_device_pool* pool) noexcept { return *reinterpret_cast<OwnPool*>(pool); }
OwnResident& own(glebe_device_resident* heap) noexcept { return *reinterpret_cast<OwnResident*>(heap); }
cuda::Stream to_stream(void* stream) noexcept { return static_cast<cuda::Stream>(stream); }

static_assert(glebe_device_failed == static_cast<int>(dev::Status::failed));
static_assert(glebe_device_lost == static_cast<int>(dev::Status::device_lost));
static_assert(glebe_device_in_use == static_cast<int>(dev::Status::in_use));
glebe_device_result to_c(dev::Outcome outcome) noexcept {
  return static_cast<glebe_device_result>(outcome.status);
}

void copy_text(const Text& from, char* to, std::size_t to_bytes) noexcept {
  if (to == nullptr || to_bytes == 0) return;
  const std::size_t count = from.size() < to_bytes - 1 ? from.size() : to_bytes - 1;
  std::memcpy(to, from.c_str(), count);
  to[count] = '\0';
}

// Finds the table of functions and tells in `text` why there is none.
dev::Outcome find_driver(OwnDevice& device, const glebe_device_options& options, cuda::Driver* driver,
                         Text& text) noexcept {
  if (options.kind == glebe_device_real) {
    const cuda::LoadedDriver loaded = cuda::load_driver();
    *driver = loaded.driver;
    if (loaded.support == cuda::Support::present) return {};
    cuda::explain(loaded, text);
    return {dev::Status::unsupported, loaded.result};
  }
  os::EmulatedGpu::Options emulated;
  emulated.device_bytes = options.emulated_bytes;
  emulated.host_bytes = options.emulated_host_bytes;
  device.is_emulated = true;
  if (!device.emulated.open(emulated)) {
    text.append("the system has no memory or addresses for an emulated device of this size");
    return dev::Status::no_host_memory;
  }
  *driver = device.emulated.driver();
  return device.gpu.check(driver->init(0));
}

bool is_valid(const glebe_device_options& options) noexcept {
  constexpr std::uint64_t kGranule = 2 * kMiB;
  if (options.struct_bytes < sizeof options) return false;
  if (options.kind == glebe_device_real) return options.ordinal >= 0;
  return options.kind == glebe_device_emulated && options.emulated_bytes != 0 &&
         options.emulated_bytes % kGranule == 0 && options.emulated_host_bytes % kGranule == 0;
}

dev::DeviceHeapOptions convert(OwnHeap& heap) noexcept {
  const glebe_device_heap_options& from = heap.options;
  dev::DeviceHeapOptions to;
  if (from.limit_bytes != 0) to.limit_bytes = from.limit_bytes;
  if (from.chunk_bytes != 0) to.fine_bytes = from.chunk_bytes;
  if (from.coarse_bytes != 0) to.coarse_bytes = from.coarse_bytes;
  to.headroom_bytes = from.headroom_bytes;
  to.reserve_bytes = from.reserve_bytes;
  if (from.reclaim != nullptr) {
    to.context = &heap;
    to.reclaim = [](void* context, std::uint64_t needed_bytes) {
      const glebe_device_heap_options& own_options = static_cast<OwnHeap*>(context)->options;
      return own_options.reclaim(own_options.context, needed_bytes) != 0;
    };
  }
  return to;
}

constexpr std::size_t kUsesMax = 1024;  // of one call
dev::Outcome convert(const glebe_device_use* from, std::size_t count, dev::ChunkUse* to) noexcept {
  if (from == nullptr || count == 0 || count > kUsesMax) return dev::Status::bad_argument;
  for (std::size_t i = 0; i < count; ++i) {
    if (from[i].access < glebe_device_access_read || from[i].access > glebe_device_access_discard) {
      return dev::Status::bad_argument;
    }
    to[i] = {from[i].address, from[i].size, static_cast<dev::Access>(from[i].access)};
  }
  return {};
}

// A call of the driver in the device's context.
template <class Call>
glebe_device_result with_context(glebe_device* device, Call call) noexcept {
  dev::Gpu& gpu = own(device).gpu;
  if (gpu.is_lost()) return glebe_device_lost;
  const dev::CurrentContext current(gpu);
  const cuda::Result answer = call(gpu.driver());
  if (answer == cuda::Result::invalid_value) return glebe_device_bad_argument;
  if (answer == cuda::Result::invalid_handle) return glebe_device_bad_argument;
  return to_c(gpu.check(answer));
}

}  // namespace
}  // namespace glebe::api

using namespace glebe::api;

extern "C" {

// The numbers of parameters are those of the published interface.
// NOLINTBEGIN(readability-function-size)

const char* glebe_device_result_text(glebe_device_result result) {
  return describe(static_cast<dev::Status>(result));
}

glebe_device_result glebe_device_open(const glebe_device_options* options, glebe_device** device,
                                      char* message, size_t message_bytes) {
  char buffer[512];
  glebe::Text text(buffer);
  glebe_device_options given = {};
  given.struct_bytes = sizeof given;
  if (options != nullptr) given = *options;
  if (device == nullptr || !is_valid(given)) {
    text.append(
        "options: struct_bytes is sizeof(glebe_device_options), and the bytes of an emulated device are "
        "multiples of 2 MiB");
    copy_text(text, message, message_bytes);
    return glebe_device_bad_argument;
  }
  OwnDevice* const made = make_own<OwnDevice>();
  if (made == nullptr) return glebe_device_no_host_memory;
  cuda::Driver driver;
  dev::Outcome outcome = find_driver(*made, given, &driver, text);
  if (outcome.ok()) {
    outcome = made->gpu.open(driver, given.ordinal);
    if (!outcome.ok()) text.append("the device cannot be opened: ").append(describe(outcome.status));
  }
  copy_text(text, message, message_bytes);
  if (!outcome.ok()) {
    end_own(made);
    return to_c(outcome);
  }
  *device = reinterpret_cast<glebe_device*>(made);
  return glebe_device_ok;
}

void glebe_device_close(glebe_device* device) {
  if (device != nullptr) end_own(&own(device));
}

glebe_device_result glebe_device_get_info(glebe_device* device, glebe_device_info* info) {
  if (device == nullptr || info == nullptr) return glebe_device_bad_argument;
  dev::Gpu& gpu = own(device).gpu;
  *info = {};
  std::memcpy(info->name, gpu.facts().name, sizeof info->name);
  info->driver_version = gpu.facts().driver_version;
  info->is_emulated = own(device).is_emulated ? 1 : 0;
  info->total_bytes = gpu.facts().total_bytes;
  info->free_bytes = gpu.free_bytes();
  info->granule_bytes = gpu.facts().granule_bytes;
  return glebe_device_ok;
}

glebe_device_result glebe_device_write(glebe_device* device, uint64_t to, const void* from, size_t size) {
  if (device == nullptr || (from == nullptr && size != 0)) return glebe_device_bad_argument;
  if (size == 0) return glebe_device_ok;
  return with_context(device, [=](const cuda::Driver& driver) { return driver.memcpy_h2d(to, from, size); });
}

glebe_device_result glebe_device_read(glebe_device* device, void* to, uint64_t from, size_t size) {
  if (device == nullptr || (to == nullptr && size != 0)) return glebe_device_bad_argument;
  if (size == 0) return glebe_device_ok;
  return with_context(device, [=](const cuda::Driver& driver) { return driver.memcpy_d2h(to, from, size); });
}

glebe_device_result glebe_device_stream_open(glebe_device* device, void** stream) {
  if (device == nullptr || stream == nullptr) return glebe_device_bad_argument;
  cuda::Stream made = nullptr;
  const glebe_device_result result = with_context(device, [&made](const cuda::Driver& driver) {
    return driver.stream_create(&made, cuda::kStreamNonBlocking);
  });
  if (result == glebe_device_ok) *stream = made;
  return result;
}

glebe_device_result glebe_device_stream_synchronize(glebe_device* device, void* stream) {
  if (device == nullptr) return glebe_device_bad_argument;
  return with_context(
      device, [=](const cuda::Driver& driver) { return driver.stream_synchronize(to_stream(stream)); });
}

glebe_device_result glebe_device_stream_close(glebe_device* device, void* stream) {
  if (device == nullptr || stream == nullptr) return glebe_device_bad_argument;
  return with_context(device,
                      [=](const cuda::Driver& driver) { return driver.stream_destroy(to_stream(stream)); });
}

glebe_device_result glebe_device_queue_write(glebe_device* device, uint64_t to, const void* from, size_t size,
                                             void* stream) {
  if (device == nullptr || (from == nullptr && size != 0)) return glebe_device_bad_argument;
  if (size == 0) return glebe_device_ok;
  return with_context(device, [=](const cuda::Driver& driver) {
    return driver.memcpy_h2d_async(to, from, size, to_stream(stream));
  });
}

glebe_device_result glebe_device_queue_read(glebe_device* device, void* to, uint64_t from, size_t size,
                                            void* stream) {
  if (device == nullptr || (to == nullptr && size != 0)) return glebe_device_bad_argument;
  if (size == 0) return glebe_device_ok;
  return with_context(device, [=](const cuda::Driver& driver) {
    return driver.memcpy_d2h_async(to, from, size, to_stream(stream));
  });
}

glebe_device_result glebe_device_queue_fill(glebe_device* device, uint64_t to, uint8_t value, size_t size,
                                            void* stream) {
  if (device == nullptr) return glebe_device_bad_argument;
  if (size == 0) return glebe_device_ok;
  return with_context(device, [=](const cuda::Driver& driver) {
    return driver.memset_d8_async(to, value, size, to_stream(stream));
  });
}

glebe_device_result glebe_device_heap_open(glebe_device* device, const glebe_device_heap_options* options,
                                           glebe_device_heap** heap) {
  glebe_device_heap_options given = {};
  given.struct_bytes = sizeof given;
  if (options != nullptr) given = *options;
  if (device == nullptr || heap == nullptr || given.struct_bytes < sizeof given) {
    return glebe_device_bad_argument;
  }
  OwnHeap* const made = make_own<OwnHeap>();
  if (made == nullptr) return glebe_device_no_host_memory;
  made->options = given;
  const dev::Outcome outcome = made->heap.open(own(device).gpu, convert(*made));
  if (!outcome.ok()) {
    end_own(made);
    return to_c(outcome);
  }
  *heap = reinterpret_cast<glebe_device_heap*>(made);
  return glebe_device_ok;
}

uint64_t glebe_device_heap_close(glebe_device_heap* heap) {
  if (heap == nullptr) return 0;
  const std::uint64_t left = own(heap).heap.close();
  end_own(&own(heap));
  return left;
}

glebe_device_result glebe_device_heap_allocate(glebe_device_heap* heap, uint64_t size, uint64_t alignment,
                                               uint64_t* address) {
  if (heap == nullptr || address == nullptr) return glebe_device_bad_argument;
  cuda::DevicePointer made = 0;
  const dev::Outcome outcome = own(heap).heap.allocate({size, alignment, 0}, &made);
  if (outcome.ok()) *address = made;
  return to_c(outcome);
}

glebe_device_result glebe_device_heap_free(glebe_device_heap* heap, uint64_t address) {
  return heap != nullptr ? to_c(own(heap).heap.free(address)) : glebe_device_bad_argument;
}

glebe_device_result glebe_device_heap_resize(glebe_device_heap* heap, uint64_t address, uint64_t size) {
  if (heap == nullptr || size == 0) return glebe_device_bad_argument;
  dev::DeviceHeap& own_heap = own(heap).heap;
  const std::uint64_t now = own_heap.size_of(address);
  if (now == 0) return glebe_device_not_owned;
  return to_c(size > now ? own_heap.grow_in_place(address, size) : own_heap.shrink(address, size));
}

uint64_t glebe_device_heap_usable_size(glebe_device_heap* heap, uint64_t address) {
  return heap != nullptr ? own(heap).heap.size_of(address) : 0;
}

uint64_t glebe_device_heap_trim(glebe_device_heap* heap, uint64_t keep) {
  return heap != nullptr ? own(heap).heap.trim(keep) : 0;
}

glebe_device_result glebe_device_heap_set_limit(glebe_device_heap* heap, uint64_t limit) {
  return heap != nullptr ? to_c(own(heap).heap.set_limit(limit)) : glebe_device_bad_argument;
}

void glebe_device_heap_get_stats(glebe_device_heap* heap, glebe_device_heap_stats* stats) {
  if (heap == nullptr || stats == nullptr) return;
  const dev::DeviceHeapStats from = own(heap).heap.stats();
  *stats = {};
  stats->live_bytes = from.live_bytes;
  stats->peak_live_bytes = from.peak_live_bytes;
  stats->requested_bytes = from.requested_bytes;
  stats->live_blocks = from.live_blocks;
  stats->allocations = from.allocations;
  stats->frees = from.frees;
  stats->failures = from.failures;
  stats->hits = from.hits;
  stats->misses = from.misses;
  stats->free_bytes = from.free_bytes;
  stats->largest_free_bytes = from.largest_free_bytes;
  stats->idle_bytes = from.idle_bytes;
  stats->physical_bytes = from.space.held_bytes;
  stats->mapped_bytes = from.space.mapped_bytes;
  stats->peak_mapped_bytes = from.space.peak_mapped_bytes;
  stats->created_chunks = from.space.creates;
}

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

glebe_device_result glebe_device_resident_open(glebe_device* device,
                                               const glebe_device_resident_options* options,
                                               glebe_device_resident** resident) {
  if (device == nullptr || options == nullptr || resident == nullptr ||
      options->struct_bytes < sizeof *options) {
    return glebe_device_bad_argument;
  }
  constexpr std::size_t kChunkBytes = 32 * glebe::kMiB;
  OwnResident* const made = make_own<OwnResident>();
  if (made == nullptr) return glebe_device_no_host_memory;
  dev::ChunkPoolOptions chunks;
  chunks.chunk_bytes = options->chunk_bytes != 0 ? options->chunk_bytes : kChunkBytes;
  dev::Outcome outcome = made->chunks.open(own(device).gpu, chunks);
  if (outcome.ok()) {
    dev::ResidencyOptions wanted;
    wanted.pool = &made->chunks;
    wanted.address_bytes = options->address_bytes;
    wanted.budget_bytes = options->budget_bytes;
    wanted.host_bytes = options->host_bytes;
    wanted.directory = options->directory;
    outcome = made->heap.open(own(device).gpu, wanted);
  }
  if (!outcome.ok()) {
    end_own(made);
    return to_c(outcome);
  }
  *resident = reinterpret_cast<glebe_device_resident*>(made);
  return glebe_device_ok;
}

void glebe_device_resident_close(glebe_device_resident* resident) {
  if (resident != nullptr) end_own(&own(resident));
}

glebe_device_result glebe_device_resident_allocate(glebe_device_resident* resident, uint64_t size,
                                                   uint32_t tag, uint64_t* address) {
  if (resident == nullptr || address == nullptr || tag == dev::kAllTags) return glebe_device_bad_argument;
  cuda::DevicePointer made = 0;
  const dev::Outcome outcome = own(resident).heap.allocate(size, tag, &made);
  if (outcome.ok()) *address = made;
  return to_c(outcome);
}

glebe_device_result glebe_device_resident_free(glebe_device_resident* resident, uint64_t address) {
  return resident != nullptr ? to_c(own(resident).heap.free(address)) : glebe_device_bad_argument;
}

glebe_device_result glebe_device_acquire(glebe_device_resident* resident, const glebe_device_use* uses,
                                         size_t count, void* stream, glebe_device_lease* lease, char* message,
                                         size_t message_bytes) {
  dev::ChunkUse converted[kUsesMax];
  dev::Outcome outcome = convert(uses, count, converted);
  if (resident == nullptr || lease == nullptr || !outcome.ok()) return glebe_device_bad_argument;
  dev::Lease made;
  dev::Shortfall shortfall;
  outcome = own(resident).heap.acquire({converted, count}, to_stream(stream), &made, &shortfall);
  if (outcome.ok()) *lease = {made.number, made.generation};
  if (outcome.status == dev::Status::over_budget || outcome.status == dev::Status::out_of_memory) {
    char buffer[256];
    glebe::Text text(buffer);
    shortfall.describe(text);
    copy_text(text, message, message_bytes);
  }
  return to_c(outcome);
}

glebe_device_result glebe_device_release(glebe_device_resident* resident, glebe_device_lease lease) {
  return resident != nullptr ? to_c(own(resident).heap.release({lease.number, lease.generation}))
                             : glebe_device_bad_argument;
}

glebe_device_result glebe_device_prefetch(glebe_device_resident* resident, const glebe_device_use* uses,
                                          size_t count, void* stream) {
  dev::ChunkUse converted[kUsesMax];
  const dev::Outcome outcome = convert(uses, count, converted);
  if (resident == nullptr || !outcome.ok()) return glebe_device_bad_argument;
  return to_c(own(resident).heap.prefetch({converted, count}, to_stream(stream)));
}

glebe_device_result glebe_device_resident_set_budget(glebe_device_resident* resident, uint64_t budget) {
  return resident != nullptr ? to_c(own(resident).heap.set_budget(budget)) : glebe_device_bad_argument;
}

glebe_device_result glebe_device_sleep(glebe_device_resident* resident, uint32_t tag, unsigned level) {
  return resident != nullptr ? to_c(own(resident).heap.sleep(tag, level)) : glebe_device_bad_argument;
}

glebe_device_result glebe_device_wake(glebe_device_resident* resident, uint32_t tag) {
  return resident != nullptr ? to_c(own(resident).heap.wake(tag)) : glebe_device_bad_argument;
}

void glebe_device_resident_get_stats(glebe_device_resident* resident, glebe_device_resident_stats* stats) {
  if (resident == nullptr || stats == nullptr) return;
  const dev::ResidencyStats from = own(resident).heap.stats();
  const auto in_state = [&from](dev::ChunkState state) {
    return from.chunks[static_cast<unsigned>(state)] * from.chunk_bytes;
  };
  *stats = {};
  stats->chunk_bytes = from.chunk_bytes;
  stats->budget_bytes = from.budget_bytes;
  stats->resident_bytes = in_state(dev::ChunkState::resident);
  stats->peak_resident_bytes = from.resident_peak * from.chunk_bytes;
  stats->host_bytes = in_state(dev::ChunkState::in_host);
  stats->disk_bytes = in_state(dev::ChunkState::on_disk);
  stats->clean_evictions = from.evictions_clean;
  stats->dirty_evictions = from.evictions_dirty;
  stats->host_fetches = from.fetches_host;
  stats->disk_fetches = from.fetches_disk;
  stats->created_chunks = own(resident).chunks.stats().created;
}

// NOLINTEND(readability-function-size)

}  // extern "C"
