#include "src/heap/remote.h"

#include "src/heap/registry.h"
#include "src/heap/small.h"
#include "src/vm/metadata.h"

namespace glebe::heap {
namespace {

constexpr std::uint32_t kRingBytesMax = 64 * kKiB;  // blocks that wait in one ring
constexpr std::uint32_t kInboxBlocksMax =
    4096;  // more than this, and the sender waits for the lock to drain it
constexpr unsigned kRingsPerGrowth = 8;

// Empty rings, for all threads.
struct RingPool {
  os::Mutex lock;
  Ring* spare = nullptr;
};
constinit RingPool ring_pool;

Ring* next_spare(Ring* ring) { return PushStack<Ring>::next(ring); }

void recycle(Ring* ring) {
  ring->count = 0;
  ring->size_bytes = 0;
  os::Lock hold(ring_pool.lock);
  PushStack<Ring>::set_next(ring, ring_pool.spare);
  ring_pool.spare = ring;
}

Ring* new_ring() {
  {
    os::Lock hold(ring_pool.lock);
    if (Ring* ring = ring_pool.spare) {
      ring_pool.spare = next_spare(ring);
      return ring;
    }
  }
  auto* rings = static_cast<Ring*>(vm::metadata_allocate(kRingsPerGrowth * sizeof(Ring), 64));
  if (rings == nullptr) return nullptr;
  for (unsigned i = 1; i < kRingsPerGrowth; ++i) recycle(&rings[i]);
  return &rings[0];
}

unsigned ring_index(const Heap& destination) {
  const auto address = reinterpret_cast<std::uintptr_t>(&destination) / kHeapAlign;
  return static_cast<unsigned>((address ^ (address >> 4)) % kRingCount);
}

// Empties the ring; it may be replaced by another one, or by none when there is no memory.
void send(Ring*& ring) {
  if (ring->count == 0) return;
  Heap& destination = *ring->heap;
  if (destination.state.load(std::memory_order_relaxed) == HeapState::frozen) {
    ring->count = ring->size_bytes = 0;
    return;
  }
  if (destination.lock.try_lock()) {
    put_blocks(destination, ring->blocks, ring->count);
    destination.lock.unlock();
    ring->count = ring->size_bytes = 0;
    return;
  }
  const std::uint32_t waiting = destination.inbox_blocks.fetch_add(ring->count, std::memory_order_relaxed);
  destination.inbox.push(ring);
  ring = nullptr;
  if (waiting < kInboxBlocksMax || !lock_heap(destination)) return;
  drain_inbox(destination);
  destination.lock.unlock();
}

}  // namespace

void free_remote(Heap& own, Heap& destination, void* block, std::uint32_t size_bytes) noexcept {
  Ring*& ring = own.rings[ring_index(destination)];
  if (ring != nullptr && ring->heap != &destination) send(ring);
  if (ring == nullptr) ring = new_ring();
  if (ring == nullptr) return free_into(destination, block);
  ring->heap = &destination;
  ring->blocks[ring->count++] = block;
  ring->size_bytes += size_bytes;
  if (ring->count == kRingBlocks || ring->size_bytes >= kRingBytesMax) send(ring);
}

void send_all_rings(Heap& own) noexcept {
  for (Ring*& ring : own.rings) {
    if (ring != nullptr) send(ring);
  }
}

void drain_inbox(Heap& heap) noexcept {
  Ring* next = nullptr;
  for (Ring* ring = heap.inbox.take_all(); ring != nullptr; ring = next) {
    next = next_spare(ring);
    put_blocks(heap, ring->blocks, ring->count);
    heap.inbox_blocks.fetch_sub(ring->count, std::memory_order_relaxed);
    recycle(ring);
  }
}

void free_into(Heap& destination, void* block) noexcept {
  if (destination.state.load(std::memory_order_relaxed) == HeapState::frozen) return;
  // A signal handler that interrupted this heap's slow path leaks the block rather than wait for itself.
  if (!lock_heap(destination)) return;
  put_blocks(destination, &block, 1);
  destination.lock.unlock();
}

void rings_in_child() noexcept {
  if (!ring_pool.lock.is_held() || ring_pool.lock.held_by_me()) return;
  ring_pool.lock.reset_in_child();
  ring_pool.spare = nullptr;
}

}  // namespace glebe::heap
