// The C interface of include/glebe/device.h, heaps: checks pointers, converts types. State is what the handle
// points to.
#include <glebe/device.h>

#include "src/api/device_handles.h"
#include "src/device/defragment.h"

namespace glebe::api {
namespace {

glebe_device_block to_c(const dev::HeapBlock& from) noexcept {
  return {from.address, from.size_bytes, from.requested_bytes, from.tag, from.pins};
}

dev::DeviceHeapOptions convert(OwnHeap& heap) noexcept {
  const glebe_device_heap_options& from = heap.options;
  dev::DeviceHeapOptions to;
  if (from.limit_bytes != 0) to.limit_bytes = from.limit_bytes;
  if (from.chunk_bytes != 0) to.fine_bytes = from.chunk_bytes;
  if (from.coarse_bytes != 0) to.coarse_bytes = from.coarse_bytes;
  to.headroom_bytes = from.headroom_bytes;
  to.reserve_bytes = from.reserve_bytes;
  to.context = &heap;
  if (from.trace != nullptr) {
    to.trace = [](void* context, std::string_view line) {
      const glebe_device_heap_options& own_options = static_cast<OwnHeap*>(context)->options;
      own_options.trace(own_options.context, line.data(), line.size());
    };
  }
  if (from.leak != nullptr) {
    to.leak = [](void* context, const dev::HeapBlock& block) {
      const glebe_device_heap_options& own_options = static_cast<OwnHeap*>(context)->options;
      const glebe_device_block converted = to_c(block);
      own_options.leak(own_options.context, &converted);
    };
  }
  if (from.reclaim != nullptr) {
    to.reclaim = [](void* context, std::uint64_t needed_bytes) {
      const glebe_device_heap_options& own_options = static_cast<OwnHeap*>(context)->options;
      return own_options.reclaim(own_options.context, needed_bytes) != 0;
    };
  }
  return to;
}

// The callbacks of one defragment call.
struct Compaction {
  const glebe_device_defragment_options* options;

  static bool may_move(void* self, const dev::HeapBlock& block) noexcept {
    const auto& options = *static_cast<const Compaction*>(self)->options;
    const glebe_device_block converted = to_c(block);
    return options.may_move(options.context, &converted) != 0;
  }
  static void moved(void* self, const dev::HeapMove& move) noexcept {
    const auto& options = *static_cast<const Compaction*>(self)->options;
    const glebe_device_move converted = {move.from, move.to, move.size_bytes, move.tag};
    options.moved(options.context, &converted);
  }
};

bool is_valid(const glebe_device_defragment_options* options) noexcept {
  return options != nullptr && options->struct_bytes >= sizeof *options && options->may_move != nullptr &&
         options->moved != nullptr && options->fill_max_percent <= 100;
}

}  // namespace
}  // namespace glebe::api

using namespace glebe::api;

extern "C" {

// The numbers of parameters are those of the published interface.
// NOLINTBEGIN(readability-function-size)

glebe_device_result glebe_device_heap_open(glebe_device* device, const glebe_device_heap_options* options,
                                           glebe_device_heap** heap) {
  const glebe_device_heap_options given = given_or_defaults(options);
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
  return glebe_device_heap_allocate_tagged(heap, size, alignment, 0, address);
}

glebe_device_result glebe_device_heap_allocate_tagged(glebe_device_heap* heap, uint64_t size,
                                                      uint64_t alignment, uint32_t tag, uint64_t* address) {
  if (heap == nullptr || address == nullptr || tag > UINT16_MAX) return glebe_device_bad_argument;
  cuda::DevicePointer made = 0;
  const auto own_tag = static_cast<dev::HeapTag>(tag);
  const dev::Outcome outcome = own(heap).heap.allocate({size, alignment, own_tag}, &made);
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
  stats->misuses = from.misuses;
  stats->external_fragmentation = from.external_fragmentation;
  stats->internal_fragmentation = from.internal_fragmentation;
}

void glebe_device_heap_reset_peaks(glebe_device_heap* heap) {
  if (heap != nullptr) own(heap).heap.reset_peaks();
}

glebe_device_result glebe_device_heap_prewarm(glebe_device_heap* heap, uint64_t size) {
  return heap != nullptr ? to_c(own(heap).heap.prewarm(size)) : glebe_device_bad_argument;
}

glebe_device_result glebe_device_heap_tag(glebe_device_heap* heap, const char* name, uint32_t* tag) {
  if (heap == nullptr || name == nullptr || tag == nullptr) return glebe_device_bad_argument;
  dev::HeapTag made = 0;
  const dev::Outcome outcome = own(heap).heap.tag(name, &made);
  if (outcome.ok()) *tag = made;
  return to_c(outcome);
}

glebe_device_result glebe_device_heap_get_tag_stats(glebe_device_heap* heap, uint32_t tag,
                                                    glebe_device_tag_stats* stats) {
  if (heap == nullptr || stats == nullptr || tag > UINT16_MAX) return glebe_device_bad_argument;
  const dev::HeapTagStats from = own(heap).heap.tag_stats(static_cast<dev::HeapTag>(tag));
  if (from.name.empty()) return glebe_device_bad_argument;
  static_assert(sizeof stats->name > dev::kHeapTagNameMax);
  *stats = {};
  std::memcpy(stats->name, from.name.data(), from.name.size());
  stats->live_bytes = from.live_bytes;
  stats->peak_bytes = from.peak_bytes;
  stats->live_blocks = from.live_blocks;
  return glebe_device_ok;
}

glebe_device_result glebe_device_heap_walk(glebe_device_heap* heap,
                                           int (*visit)(void* context, const glebe_device_block* block),
                                           void* context) {
  if (heap == nullptr || visit == nullptr) return glebe_device_bad_argument;
  struct Visitor {
    int (*visit)(void* context, const glebe_device_block* block);
    void* context;
  } visitor = {visit, context};
  own(heap).heap.walk(
      [](void* self, const dev::HeapBlock& block) {
        const auto& to = *static_cast<const Visitor*>(self);
        const glebe_device_block converted = to_c(block);
        return to.visit(to.context, &converted) != 0;
      },
      &visitor);
  return glebe_device_ok;
}

glebe_device_result glebe_device_heap_pin(glebe_device_heap* heap, uint64_t address) {
  return heap != nullptr ? to_c(own(heap).heap.pin(address)) : glebe_device_bad_argument;
}

glebe_device_result glebe_device_heap_unpin(glebe_device_heap* heap, uint64_t address) {
  return heap != nullptr ? to_c(own(heap).heap.unpin(address)) : glebe_device_bad_argument;
}

glebe_device_result glebe_device_heap_relocate(glebe_device_heap* heap, uint64_t address,
                                               uint64_t* new_address) {
  if (heap == nullptr || new_address == nullptr) return glebe_device_bad_argument;
  cuda::DevicePointer made = 0;
  const dev::Outcome outcome = own(heap).heap.relocate(address, &made);
  if (outcome.ok()) *new_address = made;
  return to_c(outcome);
}

glebe_device_result glebe_device_heap_finish_relocation(glebe_device_heap* heap, uint64_t old_address) {
  return heap != nullptr ? to_c(own(heap).heap.finish_relocation(old_address)) : glebe_device_bad_argument;
}

glebe_device_result glebe_device_heap_defragment(glebe_device_heap* heap,
                                                 const glebe_device_defragment_options* options,
                                                 glebe_device_defragment_result* result) {
  if (heap == nullptr || !is_valid(options)) return glebe_device_bad_argument;
  Compaction compaction = {options};
  dev::DefragmentOptions wanted;
  if (options->max_bytes != 0) wanted.max_bytes = options->max_bytes;
  if (options->fill_max_percent != 0) wanted.fill_max_percent = options->fill_max_percent;
  wanted.may_move = Compaction::may_move;
  wanted.moved = Compaction::moved;
  wanted.context = &compaction;
  wanted.stream = to_stream(options->stream);
  const dev::DefragmentResult from = dev::defragment(own(heap).heap, wanted);
  if (result != nullptr) {
    *result = {from.passes,         from.blocks_moved,         from.bytes_moved,
               from.chunks_emptied, from.largest_before_bytes, from.largest_after_bytes,
               from.duration_us};
  }
  return to_c(from.outcome);
}

// NOLINTEND(readability-function-size)

}  // extern "C"
