#include "src/heap/registry.h"

#include "src/base/check.h"
#include "src/heap/fork.h"
#include "src/heap/small.h"
#include "src/heap/thread_cache.h"
#include "src/vm/metadata.h"

namespace glebe::heap {

constinit NullMagazine null_magazine{};

namespace {

constexpr Bank make_closed_bank() {
  Bank bank{};
  for (Slot& slot : bank.slot) slot = {kNullCell, kNullCell};
  return bank;
}

constexpr std::uint16_t kFirstClassMax = 65000;

struct Registry {
  os::Mutex lock;
  std::atomic<Heap*> all{nullptr};
  Heap* unused = nullptr;
  Heap* orphans = nullptr;
  std::uint16_t ids_used = 0;
  std::atomic<Heap*> shared{nullptr};
  std::atomic<bool> hooks_installed{false};
};
constinit Registry registry;

// What exit_value() holds once the exit hook ran: the thread has no heap of its own any more.
constinit char exited_marker;

void reset(Heap& heap) {
  for (Slot& slot : heap.slots.slot) slot = {kNullCell, kNullCell};
  for (Slot& slot : heap.metered.slot) slot = {kNullCell, kNullCell};
}

// Caller holds the registry's lock. The heap has no slabs and no caches.
Heap* new_heap(HeapState state) {
  Heap* heap = registry.unused;
  if (heap != nullptr) {
    registry.unused = heap->next_free;
  } else {
    heap = static_cast<Heap*>(vm::metadata_allocate(sizeof(Heap), kHeapAlign));
    if (heap == nullptr) return nullptr;
    reset(*heap);
    heap->next_heap = registry.all.load(std::memory_order_relaxed);
    registry.all.store(heap, std::memory_order_release);  // pairs with the acquire in first_heap()
  }
  heap->next_free = nullptr;
  heap->state.store(state, std::memory_order_relaxed);
  return heap;
}

void on_thread_exit(void* value) {
  if (value != &exited_marker) {
    Heap* heap = static_cast<Heap*>(value);
    ThreadBank::set(&closed_bank);
    heap->in_slow_path = true;
    flush_caches(*heap);
    if (lock_heap(*heap)) {
      static_cast<void>(release_empty_slabs(*heap));
      heap->lock.unlock();
    }
    heap->in_slow_path = false;
    os::Lock hold(registry.lock);
    heap->state.store(HeapState::orphan, std::memory_order_relaxed);
    heap->next_free = registry.orphans;
    registry.orphans = heap;
  }
  // Keeps later destructors of this thread off a heap of their own; the system stops asking after a few
  // rounds.
  static_cast<void>(os::set_exit_value(&exited_marker));
}

Heap* adopt_or_make() {
  os::Lock hold(registry.lock);
  Heap* heap = registry.orphans;
  if (heap == nullptr) return new_heap(HeapState::thread_owned);
  registry.orphans = heap->next_free;
  heap->next_free = nullptr;
  heap->state.store(HeapState::thread_owned, std::memory_order_relaxed);
  return heap;
}

void give_up(Heap& heap) {
  os::Lock hold(registry.lock);
  heap.state.store(HeapState::orphan, std::memory_order_relaxed);
  heap.next_free = registry.orphans;
  registry.orphans = &heap;
}

Heap* first_use() {
  Heap* heap = adopt_or_make();
  if (heap == nullptr) return nullptr;
  // From here on malloc works in this thread, which the calls below may need.
  ThreadBank::set(&heap->slots);
  if (!registry.hooks_installed.exchange(true, std::memory_order_relaxed)) {
    static_cast<void>(os::set_exit_hook(on_thread_exit));
    static_cast<void>(os::set_fork_hook(repair_in_child));
  }
  // A heap that was left behind by fork may still hold the caches of its former thread.
  flush_caches(*heap);
  if (os::set_exit_value(heap)) return heap;
  ThreadBank::set(&closed_bank);
  flush_caches(*heap);
  give_up(*heap);
  return nullptr;
}

}  // namespace

constinit Bank closed_bank = make_closed_bank();

Heap* own_heap() noexcept {
  Bank* bank = ThreadBank::get();
  if (bank != &closed_bank) return heap_of_bank(bank);
  void* value = os::exit_value();
  if (value == nullptr) return first_use();
  return value == &exited_marker ? nullptr : static_cast<Heap*>(value);
}

Heap* shared_heap() noexcept {
  Heap* heap = registry.shared.load(std::memory_order_acquire);
  if (heap != nullptr) return heap;
  os::Lock hold(registry.lock);
  heap = registry.shared.load(std::memory_order_relaxed);
  if (heap == nullptr) {
    heap = new_heap(HeapState::shared);
    registry.shared.store(heap, std::memory_order_release);  // pairs with the acquire above
  }
  return heap;
}

Heap* new_first_class_heap() noexcept {
  os::Lock hold(registry.lock);
  Heap* heap = new_heap(HeapState::first_class);
  if (heap == nullptr || heap->id != 0) return heap;  // a reused heap keeps its id
  if (registry.ids_used == kFirstClassMax) {
    heap->state.store(HeapState::unused, std::memory_order_relaxed);
    heap->next_free = registry.unused;
    registry.unused = heap;
    return nullptr;
  }
  heap->id = ++registry.ids_used;
  return heap;
}

void retire_first_class_heap(Heap& heap) noexcept {
  os::Lock hold(registry.lock);
  heap.state.store(HeapState::unused, std::memory_order_relaxed);
  heap.next_free = registry.unused;
  registry.unused = &heap;
}

Heap* first_class_heap(std::uint16_t id) noexcept {
  if (id == 0) return nullptr;
  for (Heap* heap = first_heap(); heap != nullptr; heap = heap->next_heap) {
    if (heap->id == id && heap->state.load(std::memory_order_relaxed) == HeapState::first_class) return heap;
  }
  return nullptr;
}

Heap* first_heap() noexcept { return registry.all.load(std::memory_order_acquire); }

namespace {

// What its thread kept is lost: the arrays may be half changed.
void drop_caches_in_child(Heap& heap) {
  reset(heap);
  for (unsigned c = 0; c < kClassCount; ++c) heap.depots[c] = nullptr, heap.depot_counts[c] = 0;
  for (Ring*& ring : heap.rings) ring = nullptr;
  for (Span& span : heap.spans) span = {};
  heap.span_pages = heap.depot_bytes = 0;
  heap.spare_magazines = nullptr;
  heap.in_slow_path = false;
}

// Another thread was changing slabs when the copy was made. Blocks stay valid; nothing else is known.
void freeze_in_child(Heap& heap) {
  heap.lock.reset_in_child();
  heap.state.store(HeapState::frozen, std::memory_order_relaxed);
  heap.slabs = nullptr;
  for (SlabRecord*& list : heap.available) list = nullptr;
}

// The heap of the thread that forked: another thread may have been giving blocks back to it. Then that heap
// is frozen as well, and the thread takes another one when it needs one, unless it is in the middle of using
// it (fork in a signal handler).
void own_heap_in_child(Heap& heap) {
  if (!heap.lock.is_held() || heap.lock.held_by_me()) return;
  freeze_in_child(heap);
  if (heap.in_slow_path) return;
  drop_caches_in_child(heap);
  ThreadBank::set(&closed_bank);
  static_cast<void>(os::set_exit_value(nullptr));
}

}  // namespace

void registry_in_child() noexcept {
  if (!registry.lock.held_by_me()) registry.lock.reset_in_child();
  void* const value = os::exit_value();
  Heap* own = value == &exited_marker ? nullptr : static_cast<Heap*>(value);
  if (own != nullptr) own_heap_in_child(*own);
  for (Heap* heap = first_heap(); heap != nullptr; heap = heap->next_heap) {
    if (heap == own || heap->lock.held_by_me()) continue;
    if (heap->lock.is_held()) freeze_in_child(*heap);
    const HeapState state = heap->state.load(std::memory_order_relaxed);
    if (state == HeapState::frozen || heap->in_slow_path) drop_caches_in_child(*heap);
    if (state != HeapState::thread_owned) continue;
    heap->state.store(HeapState::orphan, std::memory_order_relaxed);
    heap->next_free = registry.orphans;
    registry.orphans = heap;
  }
}

}  // namespace glebe::heap
