// The slow halves of the allocation calls. No state. The layers below preserve errno (platform/vm.h,
// process.h), so it is written here alone, on failure.
#include "src/api/entry.h"

#include <cerrno>

#include "src/api/options.h"
#include "src/heap/misuse.h"
#include "src/observe/observe.h"

namespace glebe::api {

void* out_of_memory() noexcept {
  observe::count_failed_allocation();
  errno = ENOMEM;
  return nullptr;
}

void* allocate_slow(std::size_t size_bytes) noexcept {
  ensure_configured();
  void* block = heap::allocate_slow(size_bytes);
  return block != nullptr ? block : out_of_memory();
}

void* allocate_zeroed(std::size_t count, std::size_t size_bytes) noexcept {
  ensure_configured();
  std::size_t product = 0;
  if (__builtin_mul_overflow(count, size_bytes, &product) || product > kSizeMax) return out_of_memory();
  void* block = heap::allocate_zeroed(product);
  return block != nullptr ? block : out_of_memory();
}

void* allocate_aligned(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  if (align_bytes <= kDefaultAlignBytes) return allocate(size_bytes);
  ensure_configured();
  // The sum of both must be addressable, whatever the heap does to find an aligned place.
  if (align_bytes > kSizeMax || size_bytes > kSizeMax - align_bytes) return out_of_memory();
  void* block = heap::allocate_aligned(size_bytes, align_bytes);
  return block != nullptr ? block : out_of_memory();
}

void* reallocate(void* block, std::size_t size_bytes) noexcept {
  if (block == nullptr) return allocate(size_bytes);
  if (size_bytes == 0) {
    free_block(block);
    return nullptr;
  }
  ensure_configured();
  void* resized = size_bytes <= kSizeMax ? heap::reallocate(block, size_bytes) : nullptr;
  return resized != nullptr ? resized : out_of_memory();
}

void free_slow(void* block) noexcept {
  if (block == nullptr) return;
  ensure_configured();
  heap::free_slow(block);
}

void free_sized_slow(void* block, std::size_t size_bytes, std::size_t align_bytes) noexcept {
  if (block == nullptr) return;
  ensure_configured();
  // What is not a live block is left to free_slow, which knows what else it may be.
  const std::size_t usable = heap::usable_bytes(block);
  if (usable != 0 && !heap::size_fits(block, size_bytes, align_bytes)) {
    heap::report_misuse(heap::Misuse::size_mismatch, block, usable);
    return;
  }
  heap::free_slow(block);
}

}  // namespace glebe::api
