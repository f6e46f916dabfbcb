#include "src/heap/debug_fill.h"

#include <cstring>

#include "src/heap/allocate.h"
#include "src/heap/misuse.h"
#include "src/heap/registry.h"
#include "src/heap/small.h"

namespace glebe::heap {
namespace {

// The first byte that is not the pattern, or nullptr.
const unsigned char* first_other(const void* block, std::size_t size_bytes, unsigned char pattern) {
  const auto* bytes = static_cast<const unsigned char*>(block);
  for (std::size_t i = 0; i < size_bytes; ++i) {
    if (bytes[i] != pattern) return bytes + i;
  }
  return nullptr;
}

// A free block holds one of two patterns all over: new slab, or freed.
void check_untouched(const void* block, std::size_t size_bytes) {
  const unsigned char first = *static_cast<const unsigned char*>(block);
  const unsigned char expected = first == kFillSlabNew ? kFillSlabNew : kFillFreed;
  const unsigned char* changed = first_other(block, size_bytes, expected);
  if (changed != nullptr) report_misuse(Misuse::write_after_free, changed, size_bytes);
}

}  // namespace

void fill(void* block, std::size_t size_bytes, unsigned char pattern) noexcept {
  std::memset(block, pattern, size_bytes);
}

void* allocate_checked(Heap& heap, unsigned size_class) noexcept {
  void* block = nullptr;
  bool is_zero = false;
  if (!lock_heap(heap)) return nullptr;
  const unsigned taken = take_blocks(heap, size_class, {&block, 1}, &is_zero);
  heap.lock.unlock();
  if (taken == 0) return nullptr;
  const std::size_t bytes = class_infos[size_class].block_bytes;
  if (settings.debug_fill) {
    check_untouched(block, bytes);
    fill(block, bytes, kFillAllocated);
  }
  return block;
}

void free_checked(Heap& heap, unsigned size_class, void* block) noexcept {
  if (heap.state.load(std::memory_order_relaxed) == HeapState::frozen || !lock_heap(heap)) return;
  if (block_state(block, size_class) == BlockState::taken) {
    fill(block, class_infos[size_class].block_bytes, settings.debug_fill ? kFillFreed : 0);
  }
  put_blocks(heap, &block, 1);  // reports what is wrong with the others
  heap.lock.unlock();
}

}  // namespace glebe::heap
