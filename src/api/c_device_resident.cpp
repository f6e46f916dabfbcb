// The C interface of include/glebe/device.h, resident memory: checks pointers, converts types. State is what
// the handle points to.
#include <glebe/device.h>

#include "src/api/device_handles.h"
#include "src/base/bits.h"
#include "src/device/residency.h"

namespace glebe::api {
namespace {

struct OwnResident {
  dev::ChunkPool chunks;
  dev::ResidentHeap heap;  // ends before the chunks that it gives back
};

OwnResident& own(glebe_device_resident* heap) noexcept { return *reinterpret_cast<OwnResident*>(heap); }

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

}  // namespace
}  // namespace glebe::api

using namespace glebe::api;

extern "C" {

// The numbers of parameters are those of the published interface.
// NOLINTBEGIN(readability-function-size)

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
