// The slow halves of the allocation calls. No state.
#include "src/api/entry.h"

#include <cerrno>

#include "src/api/options.h"
#include "src/heap/misuse.h"
#include "src/observe/observe.h"

namespace glebe::api {
namespace {

// Keeps errno as it was over calls that may disturb it: free() has to, and successful calls do it as well.
class KeepErrno {
 public:
  KeepErrno() noexcept : saved_(errno) {}
  ~KeepErrno() { errno = saved_; }
  KeepErrno(const KeepErrno&) = delete;
  KeepErrno& operator=(const KeepErrno&) = delete;
  void replace(int value) noexcept { saved_ = value; }

 private:
  int saved_;
};

void* checked(void* block, KeepErrno& keep) noexcept {
  if (block == nullptr) [[unlikely]] {
    keep.replace(ENOMEM);
    observe::count_failed_allocation();
  }
  return block;
}

}  // namespace

void* allocate_slow(std::size_t size_bytes) noexcept {
  KeepErrno keep;
  ensure_configured();
  return checked(heap::allocate_slow(size_bytes), keep);
}

void* allocate_zeroed(std::size_t count, std::size_t size_bytes) noexcept {
  KeepErrno keep;
  ensure_configured();
  std::size_t product = 0;
  const bool is_too_large = __builtin_mul_overflow(count, size_bytes, &product) || product > kSizeMax;
  if (is_too_large) return checked(nullptr, keep);
  return checked(heap::allocate_zeroed(product), keep);
}

void* allocate_aligned(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  if (align_bytes <= kDefaultAlignBytes) return allocate(size_bytes);
  KeepErrno keep;
  ensure_configured();
  // The sum of both must be addressable, whatever the heap does to find an aligned place.
  if (align_bytes > kSizeMax || size_bytes > kSizeMax - align_bytes) return checked(nullptr, keep);
  return checked(heap::allocate_aligned(size_bytes, align_bytes), keep);
}

void* reallocate(void* block, std::size_t size_bytes) noexcept {
  if (block == nullptr) return allocate(size_bytes);
  if (size_bytes == 0) {
    free_block(block);
    return nullptr;
  }
  KeepErrno keep;
  ensure_configured();
  if (size_bytes > kSizeMax) return checked(nullptr, keep);
  return checked(heap::reallocate(block, size_bytes), keep);
}

void free_slow(void* block) noexcept {
  if (block == nullptr) return;
  const KeepErrno keep;
  ensure_configured();
  heap::free_slow(block);
}

void free_sized_slow(void* block, std::size_t size_bytes, std::size_t align_bytes) noexcept {
  if (block == nullptr) return;
  const KeepErrno keep;
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
