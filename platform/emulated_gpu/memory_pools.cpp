// Entries of the emulated driver: pools, and memory that is allocated and freed in the order of streams; see
// machine.h.
//
// A block of a pool is whole granules with addresses of their own. Its address is known when it is asked for;
// the device may use it from where its allocation stands in one stream to where its free stands in another,
// and the access of its pages is what says so: whoever comes too early or too late faults. A freed block is
// idle once its free was reached. The pool keeps idle blocks for requests of their size until somebody waits
// for a stream, an event or the context and the pool has more than its threshold. It makes no stream wait for
// another one to get at a block, as the driver may: where nothing is idle, and nothing was freed in the same
// stream before, a full device is full.
#include <sys/mman.h>

#include "platform/emulated_gpu/machine.h"
#include "platform/memory_calls.h"

namespace glebe::os::emulated {

using cuda::LocationType;
using cuda::Result;

PoolBlock* Machine::pool_block_at(DevicePointer address) noexcept {
  for (std::uint32_t i = 0; i < pool_blocks_.used(); ++i) {
    PoolBlock* block = pool_blocks_.find(i);
    if (block != nullptr && block->address == address) return block;
  }
  return nullptr;
}

bool Machine::is_idle(const PoolBlock& block) noexcept {
  return block.state == PoolBlock::State::freed && queues_.is_reached(block.allocated_at) &&
         queues_.is_reached(block.freed_at);
}

std::uint64_t Machine::used_bytes(MemoryPool pool) noexcept {
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < pool_blocks_.used(); ++i) {
    const PoolBlock* block = pool_blocks_.find(i);
    if (block != nullptr && block->pool == pool && !is_idle(*block)) bytes += block->size_bytes;
  }
  return bytes;
}

void Machine::release(PoolBlock* block) noexcept {
  CHECK(addresses_.unmap(block->address, block->size_bytes) == Result::success);
  CHECK(addresses_.free(block->address, block->size_bytes) == Result::success);
  block->pool->reserved_bytes -= block->size_bytes;
  pool_blocks_.give_back(block);
}

void Machine::release_idle(MemoryPool pool, std::uint64_t keep_bytes) noexcept {
  for (std::uint32_t i = 0; i < pool_blocks_.used(); ++i) {
    PoolBlock* block = pool_blocks_.find(i);
    if (block == nullptr || block->pool != pool || !is_idle(*block)) continue;
    if (pool->reserved_bytes - block->size_bytes >= keep_bytes) release(block);
  }
}

// Pools that were destroyed give back what is idle, and go with the last of it.
void Machine::end_pools() noexcept {
  for (std::uint32_t i = 0; i < pools_.used(); ++i) {
    cuda::MemoryPoolObject* pool = pools_.find(i);
    if (pool == nullptr || !pool->is_destroyed) continue;
    release_idle(pool, 0);
    if (pool->reserved_bytes == 0) pools_.give_back(pool);
  }
}

// What every wait does: pools give back what they have above their threshold.
void Machine::settle_pools() noexcept {
  for (std::uint32_t i = 0; i < pools_.used(); ++i) {
    cuda::MemoryPoolObject* pool = pools_.find(i);
    if (pool != nullptr && pool->reserved_bytes > pool->threshold_bytes) {
      release_idle(pool, pool->threshold_bytes);
    }
  }
  end_pools();
}

// Whether a place lies before whatever is queued in the stream next.
bool Machine::is_before(const cuda::StreamPlace& place, const cuda::StreamObject* stream) noexcept {
  return (place.stream == stream && place.stream_id == stream->id) || queues_.is_reached(place);
}

// A block of this size that is free where the stream is: idle, or freed in it.
PoolBlock* Machine::find_freed(MemoryPool pool, std::size_t size_bytes,
                               const cuda::StreamObject* stream) noexcept {
  for (std::uint32_t i = 0; i < pool_blocks_.used(); ++i) {
    PoolBlock* block = pool_blocks_.find(i);
    if (block == nullptr || block->pool != pool || block->size_bytes != size_bytes) continue;
    if (block->state != PoolBlock::State::freed) continue;
    if (is_before(block->allocated_at, stream) && is_before(block->freed_at, stream)) return block;
  }
  return nullptr;
}

// A block that the device may not use yet. Where the device is full, idle blocks of other sizes go first.
Result Machine::take_block(MemoryPool pool, std::size_t size_bytes, const cuda::StreamObject* stream,
                           PoolBlock** taken) noexcept {
  PoolBlock* block = find_freed(pool, size_bytes, stream);
  if (block == nullptr) {
    if (pool->max_bytes != 0 && pool->reserved_bytes + size_bytes > pool->max_bytes) release_idle(pool, 0);
    if (pool->max_bytes != 0 && pool->reserved_bytes + size_bytes > pool->max_bytes) {
      return Result::out_of_memory;
    }
    DevicePointer address = 0;
    Result result = allocate_granules(size_bytes, &address);
    if (result == Result::out_of_memory) {
      release_idle(pool, 0);
      result = allocate_granules(size_bytes, &address);
    }
    if (result != Result::success) return result;
    block = pool_blocks_.take();
    if (block == nullptr) {
      CHECK(addresses_.unmap(address, size_bytes) == Result::success);
      CHECK(addresses_.free(address, size_bytes) == Result::success);
      return Result::out_of_memory;
    }
    CHECK(protect_call(addresses_.shadow(address), size_bytes, PROT_NONE) == 0);
    *block = {address, size_bytes, pool, {}, {}, PoolBlock::State::changing};
    pool->reserved_bytes += size_bytes;
    if (pool->reserved_bytes > pool->reserved_high_bytes) pool->reserved_high_bytes = pool->reserved_bytes;
  }
  block->state = PoolBlock::State::changing;
  *taken = block;
  return Result::success;
}

// Queues the operation from which on the device may use a block, or may not.
Result Machine::queue_access(PoolBlock* block, bool is_given, cuda::StreamObject* stream) noexcept {
  Operation* operation = queues_.make(Operation::Kind::protect, stream);
  if (operation == nullptr) return queues_.error();
  operation->to = addresses_.shadow(block->address);
  operation->size = block->size_bytes;
  operation->value = is_given ? 1 : 0;
  (is_given ? block->allocated_at : block->freed_at) = queues_.next_place(stream);
  block->state = is_given ? PoolBlock::State::live : PoolBlock::State::freed;
  return queues_.queue(operation);
}

Result Machine::mem_alloc_from_pool_async(DevicePointer* address, std::size_t size_bytes, MemoryPool pool,
                                          Stream handle) noexcept {
  if (address == nullptr || size_bytes == 0) return Result::invalid_value;
  const Lock hold(lock_);
  if (!pools_.holds(pool) || pool->is_destroyed) return Result::invalid_value;
  cuda::StreamObject* stream = queues_.find(handle);
  if (stream == nullptr) return Result::invalid_handle;
  // A node of a graph, which is not emulated.
  if (stream->capture != CaptureStatus::none) return Result::not_supported;
  if (size_bytes > addresses_.size_bytes()) return Result::out_of_memory;
  PoolBlock* block = nullptr;
  Result result = take_block(pool, align_up(size_bytes, kEmulatedGranuleBytes), stream, &block);
  if (result != Result::success) return result;
  const DevicePointer start = block->address;
  result = queue_access(block, true, stream);
  if (result != Result::success) {
    block->state = PoolBlock::State::freed;
    return result;
  }
  const std::uint64_t used = used_bytes(pool);
  if (used > pool->used_high_bytes) pool->used_high_bytes = used;
  *address = start;
  return Result::success;
}

Result Machine::mem_alloc_async(DevicePointer* address, std::size_t size_bytes, Stream stream) noexcept {
  return mem_alloc_from_pool_async(address, size_bytes, default_pool_, stream);
}

Result Machine::mem_free_async(DevicePointer address, Stream handle) noexcept {
  const Lock hold(lock_);
  cuda::StreamObject* stream = queues_.find(handle);
  if (stream == nullptr) return Result::invalid_handle;
  if (stream->capture != CaptureStatus::none) return Result::invalid_value;
  PoolBlock* block = pool_block_at(address);
  if (block == nullptr || block->state != PoolBlock::State::live) return Result::invalid_value;
  block->state = PoolBlock::State::changing;
  const Result result = queue_access(block, false, stream);
  if (result != Result::success) block->state = PoolBlock::State::live;
  return result;
}

// cuMemFree of such memory: it waits for the device and is done when it returns.
Result Machine::free_pooled(PoolBlock* block) noexcept {
  if (block->state != PoolBlock::State::live) return Result::invalid_value;
  block->state = PoolBlock::State::changing;
  const Result result = queues_.synchronize_all();
  block->state = result == Result::success ? PoolBlock::State::freed : PoolBlock::State::live;
  if (result != Result::success) return result;
  block->freed_at = {};
  CHECK(protect_call(addresses_.shadow(block->address), block->size_bytes, PROT_NONE) == 0);
  settle_pools();
  return Result::success;
}

// --- Pools ---

Result Machine::device_get_default_mem_pool(MemoryPool* pool, Device device) noexcept {
  if (pool == nullptr) return Result::invalid_value;
  if (device != 0) return Result::invalid_device;
  *pool = default_pool_;
  return Result::success;
}

// Memory of the device that no other process sees: all other kinds of pools are not emulated.
Result Machine::mem_pool_create(MemoryPool* pool, const PoolProperties* properties) noexcept {
  if (pool == nullptr || properties == nullptr || properties->type != cuda::AllocationType::pinned) {
    return Result::invalid_value;
  }
  if (properties->location.type != LocationType::device || properties->location.id != 0) {
    return Result::invalid_value;
  }
  if (properties->handle_types != HandleType::none || properties->usage != 0) return Result::not_supported;
  for (const unsigned char value : properties->reserved) {
    if (value != 0) return Result::invalid_value;
  }
  const Lock hold(lock_);
  cuda::MemoryPoolObject* made = pools_.take();
  if (made == nullptr) return Result::out_of_memory;
  made->max_bytes = properties->max_bytes;
  *pool = made;
  return Result::success;
}

// What was not freed yet stays until it is; the last of it takes the pool along.
Result Machine::mem_pool_destroy(MemoryPool pool) noexcept {
  const Lock hold(lock_);
  if (!pools_.holds(pool) || pool->is_destroyed || pool == default_pool_) return Result::invalid_value;
  pool->is_destroyed = true;
  end_pools();
  return Result::success;
}

Result Machine::mem_pool_set_attribute(MemoryPool pool, PoolAttribute attribute, void* value) noexcept {
  if (value == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  if (!pools_.holds(pool) || pool->is_destroyed) return Result::invalid_value;
  const std::uint64_t wanted = *static_cast<const std::uint64_t*>(value);
  switch (attribute) {
    case PoolAttribute::release_threshold:
      pool->threshold_bytes = wanted;
      return Result::success;
    case PoolAttribute::reserved_mem_high:
      if (wanted != 0) return Result::invalid_value;
      pool->reserved_high_bytes = pool->reserved_bytes;
      return Result::success;
    case PoolAttribute::used_mem_high:
      if (wanted != 0) return Result::invalid_value;
      pool->used_high_bytes = used_bytes(pool);
      return Result::success;
    default:
      return Result::invalid_value;
  }
}

Result Machine::mem_pool_get_attribute(MemoryPool pool, PoolAttribute attribute, void* value) noexcept {
  if (value == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  if (!pools_.holds(pool) || pool->is_destroyed) return Result::invalid_value;
  auto& answer = *static_cast<std::uint64_t*>(value);
  switch (attribute) {
    case PoolAttribute::release_threshold:
      answer = pool->threshold_bytes;
      return Result::success;
    case PoolAttribute::reserved_mem_current:
      answer = pool->reserved_bytes;
      return Result::success;
    case PoolAttribute::reserved_mem_high:
      answer = pool->reserved_high_bytes;
      return Result::success;
    case PoolAttribute::used_mem_current:
      answer = used_bytes(pool);
      return Result::success;
    case PoolAttribute::used_mem_high:
      answer = pool->used_high_bytes;
      return Result::success;
    default:
      return Result::invalid_value;
  }
}

Result Machine::mem_pool_trim_to(MemoryPool pool, std::size_t keep_bytes) noexcept {
  const Lock hold(lock_);
  if (!pools_.holds(pool) || pool->is_destroyed) return Result::invalid_value;
  release_idle(pool, keep_bytes);
  return Result::success;
}

}  // namespace glebe::os::emulated
