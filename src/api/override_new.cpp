// operator new and delete in all their forms. Linux only.
//
// The fast path is that of malloc and free. On failure the new-handler is called until there is memory or no
// handler; then std::bad_alloc is thrown. The library must not need a C++ library, because C programs are
// preloaded too: the functions of the C++ runtime are weak references, which the loader resolves when the
// program has one. A runtime that came by dlopen is looked up when it is needed (find_in_runtime, preload
// library only). A program that fails here and has none is ended with a message.
#include <glebe/glebe.h>

#include <bit>
#include <cerrno>
#include <cstddef>
#include <new>

#include "platform/process.h"
#include "src/api/entry.h"
#include "src/api/override_new.h"
#include "src/base/bits.h"

namespace glebe::api {

// Of libstdc++ or of libc++, null unless the program has one: std::get_new_handler(), and what a
// throw-expression with std::bad_alloc{} calls (Itanium C++ ABI). A static program has them when anything in
// it throws and refers to bad_alloc.
extern "C" {
[[gnu::weak]] GLEBE_API std::new_handler runtime_get_new_handler() __asm__("_ZSt15get_new_handlerv");
[[gnu::weak]] GLEBE_API void* runtime_new_exception(std::size_t size) __asm__("__cxa_allocate_exception");
[[gnu::weak, noreturn]] GLEBE_API void runtime_throw(void* object, void* type, void (*destroy)(void*))
    __asm__("__cxa_throw");
[[gnu::weak]] GLEBE_API void runtime_destroy_bad_alloc(void* object) __asm__("_ZNSt9bad_allocD1Ev");
[[gnu::weak]] GLEBE_API extern void* runtime_type_of_bad_alloc __asm__("_ZTISt9bad_alloc");
[[gnu::weak]] GLEBE_API extern void* runtime_vtable_of_bad_alloc[] __asm__("_ZTVSt9bad_alloc");
}

namespace {

using BadAllocThrower = void (*)();
using HandlerGetter = std::new_handler (*)();

// A function of a runtime that came by dlopen, or nullptr.
template <class Function>
Function loaded(const char* name) noexcept {
  return &find_in_runtime != nullptr ? reinterpret_cast<Function>(find_in_runtime(name)) : nullptr;
}

std::new_handler current_handler() noexcept {
  HandlerGetter get = &runtime_get_new_handler;
  if (get == nullptr) get = loaded<HandlerGetter>("_ZSt15get_new_handlerv");
  return get != nullptr ? get() : nullptr;
}

// throw std::bad_alloc{} when the program was linked with a runtime; otherwise returns.
void throw_if_linked() {
  if (&runtime_throw == nullptr || &runtime_destroy_bad_alloc == nullptr) return;
  void* object = runtime_new_exception(sizeof(void*));  // a bad_alloc holds one pointer, to its vtable
  *static_cast<void**>(object) = &runtime_vtable_of_bad_alloc[2];
  runtime_throw(object, &runtime_type_of_bad_alloc, &runtime_destroy_bad_alloc);
}

[[noreturn]] void throw_bad_alloc() {
  throw_if_linked();
  const auto thrower = loaded<BadAllocThrower>("_ZSt17__throw_bad_allocv");  // std::__throw_bad_alloc()
  if (thrower != nullptr) thrower();
  constexpr char kMessage[] = "glebe: operator new: out of memory, and no C++ runtime to throw bad_alloc\n";
  os::write_error(kMessage, sizeof kMessage - 1);
  os::abort_process();
}

// `align_bytes` 0 is the default. An alignment that is no power of two can never be had.
void* allocate_once(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  if (align_bytes == 0) return allocate(size_bytes);
  if (is_power_of_two(align_bytes)) return allocate_aligned(size_bytes, align_bytes);
  errno = EINVAL;
  return nullptr;
}

// The loop ends when the handler frees memory, removes itself or throws: the standard sets no other bound.
[[gnu::noinline]] void* new_slow(std::size_t size_bytes, std::size_t align_bytes) {
  for (;;) {
    if (void* block = allocate_once(size_bytes, align_bytes)) return block;
    const std::new_handler handler = current_handler();
    if (handler == nullptr) throw_bad_alloc();
    handler();
  }
}

[[gnu::noinline]] void* new_nothrow_slow(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  for (;;) {
    if (void* block = allocate_once(size_bytes, align_bytes)) return block;
    const std::new_handler handler = current_handler();
    if (handler == nullptr || !handler_returns(handler)) return nullptr;
  }
}

inline void* new_block(std::size_t size_bytes) {
  if (void* block = heap::allocate_fast(size_bytes)) [[likely]] return block;
  return new_slow(size_bytes, 0);
}
inline void* new_block_nothrow(std::size_t size_bytes) noexcept {
  if (void* block = heap::allocate_fast(size_bytes)) [[likely]] return block;
  return new_nothrow_slow(size_bytes, 0);
}

constexpr std::size_t bytes_of(std::align_val_t value) noexcept { return static_cast<std::size_t>(value); }

}  // namespace
}  // namespace glebe::api

using namespace glebe::api;
using std::align_val_t;
using std::nothrow_t;
using std::size_t;

GLEBE_API void* operator new(size_t size) { return new_block(size); }
GLEBE_API void* operator new[](size_t size) { return new_block(size); }
GLEBE_API void* operator new(size_t size, const nothrow_t&) noexcept { return new_block_nothrow(size); }
GLEBE_API void* operator new[](size_t size, const nothrow_t&) noexcept { return new_block_nothrow(size); }
GLEBE_API void* operator new(size_t size, align_val_t alignment) {
  return new_slow(size, bytes_of(alignment));
}
GLEBE_API void* operator new[](size_t size, align_val_t alignment) {
  return new_slow(size, bytes_of(alignment));
}
GLEBE_API void* operator new(size_t size, align_val_t alignment, const nothrow_t&) noexcept {
  return new_nothrow_slow(size, bytes_of(alignment));
}
GLEBE_API void* operator new[](size_t size, align_val_t alignment, const nothrow_t&) noexcept {
  return new_nothrow_slow(size, bytes_of(alignment));
}

GLEBE_API void operator delete(void* block) noexcept { free_block(block); }
GLEBE_API void operator delete[](void* block) noexcept { free_block(block); }
GLEBE_API void operator delete(void* block, const nothrow_t&) noexcept { free_block(block); }
GLEBE_API void operator delete[](void* block, const nothrow_t&) noexcept { free_block(block); }
GLEBE_API void operator delete(void* block, size_t size) noexcept { free_block_sized(block, size, 0); }
GLEBE_API void operator delete[](void* block, size_t size) noexcept { free_block_sized(block, size, 0); }
GLEBE_API void operator delete(void* block, align_val_t) noexcept { free_block(block); }
GLEBE_API void operator delete[](void* block, align_val_t) noexcept { free_block(block); }
GLEBE_API void operator delete(void* block, size_t size, align_val_t alignment) noexcept {
  free_block_sized(block, size, bytes_of(alignment));
}
GLEBE_API void operator delete[](void* block, size_t size, align_val_t alignment) noexcept {
  free_block_sized(block, size, bytes_of(alignment));
}
GLEBE_API void operator delete(void* block, align_val_t, const nothrow_t&) noexcept { free_block(block); }
GLEBE_API void operator delete[](void* block, align_val_t, const nothrow_t&) noexcept { free_block(block); }
