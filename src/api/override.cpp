// malloc, free and the other allocation functions of the C library, for the preload library and for static
// replacement. Linux only; compiled with -fno-builtin, or the compiler would turn calloc into a call of
// calloc.
//
// malloc and free are the fast path of heap/allocate.h and a jump to the slow half (entry.h). errno and the
// edge cases are glibc's: ENOMEM on every failure, realloc(p, 0) frees, memalign rounds its alignment up.
// aligned_alloc follows glibc 2.38 and C17: an alignment that is not a power of two gives EINVAL (earlier
// versions rounded it up).
#include <glebe/glebe.h>

#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "platform/vm.h"
#include "src/api/entry.h"
#include "src/base/bits.h"

using glebe::is_power_of_two;
namespace api = glebe::api;

extern "C" {

GLEBE_API void* malloc(std::size_t size) noexcept { return api::allocate(size); }

GLEBE_API void free(void* block) noexcept { api::free_block(block); }

GLEBE_API void* calloc(std::size_t count, std::size_t size) noexcept {
  return api::allocate_zeroed(count, size);
}

GLEBE_API void* realloc(void* block, std::size_t size) noexcept { return api::reallocate(block, size); }

GLEBE_API void* reallocarray(void* block, std::size_t count, std::size_t size) noexcept {
  std::size_t product = 0;
  // A product that is too large is asked for as a size that cannot be had: the answer is the same.
  if (__builtin_mul_overflow(count, size, &product)) product = SIZE_MAX;
  return api::reallocate(block, product);
}

GLEBE_API void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  if (is_power_of_two(alignment)) [[likely]] return api::allocate_aligned(size, alignment);
  errno = EINVAL;
  return nullptr;
}

GLEBE_API void* memalign(std::size_t alignment, std::size_t size) noexcept {
  constexpr std::size_t kAlignMax = SIZE_MAX / 2 + 1;  // the largest power of two
  if (alignment <= kAlignMax) [[likely]] return api::allocate_aligned(size, std::bit_ceil(alignment));
  errno = EINVAL;
  return nullptr;
}

// Reports by its result alone: errno and *result stay as they are on failure.
GLEBE_API int posix_memalign(void** result, std::size_t alignment, std::size_t size) noexcept {
  if (!is_power_of_two(alignment) || alignment < sizeof(void*)) return EINVAL;
  const int before = errno;
  void* block = api::allocate_aligned(size, alignment);
  if (block == nullptr) {
    errno = before;
    return ENOMEM;
  }
  *result = block;
  return 0;
}

GLEBE_API void* valloc(std::size_t size) noexcept {
  return api::allocate_aligned(size, glebe::os::page_bytes());
}

GLEBE_API void* pvalloc(std::size_t size) noexcept {
  const std::size_t page_bytes = glebe::os::page_bytes();
  // Sizes that rounding would wrap are left as they are: they fail all the same.
  const bool can_round = size <= api::kSizeMax;
  const std::size_t rounded = can_round ? static_cast<std::size_t>(glebe::align_up(size, page_bytes)) : size;
  return api::allocate_aligned(rounded, page_bytes);
}

GLEBE_API std::size_t malloc_usable_size(void* block) noexcept { return glebe_usable_size(block); }

// C23.
GLEBE_API void free_sized(void* block, std::size_t size) noexcept { api::free_block_sized(block, size, 0); }

GLEBE_API void free_aligned_sized(void* block, std::size_t alignment, std::size_t size) noexcept {
  api::free_block_sized(block, size, alignment);
}

}  // extern "C"

// Other names under which glibc exports the same functions, some of them for old binaries only. Written for
// the assembler, because the compiler wants an alias to repeat every attribute that a header gave its target.
#define ALIAS(name, target) __asm__(".globl " #name "\n.type " #name ", %function\n.set " #name ", " #target)
ALIAS(cfree, free);
ALIAS(__libc_cfree, free);
ALIAS(__libc_free, free);
ALIAS(__libc_malloc, malloc);
ALIAS(__libc_calloc, calloc);
ALIAS(__libc_realloc, realloc);
ALIAS(__libc_reallocarray, reallocarray);
ALIAS(__libc_memalign, memalign);
ALIAS(__libc_valloc, valloc);
ALIAS(__libc_pvalloc, pvalloc);
ALIAS(__posix_memalign, posix_memalign);
#undef ALIAS
