// dlopen without RTLD_DEEPBIND; only in the preload library, x86-64 Linux.
//
// A library that is opened with that flag binds to libc before it looks at preloaded libraries. It would then
// pass blocks of this heap to libc's free and the other way round. The stub clears the flag and jumps to the
// real dlopen. It has to jump: dlopen looks at its return address to find the caller's search path, which a
// function that calls it would change. dlmopen is left alone: a namespace of its own has a libc of its own,
// and its blocks stay inside.
//
// real_dlopen starts at a resolver, so that the stub works in constructors that run before any of ours.
#include <dlfcn.h>

#include <atomic>

#include "src/base/check.h"

using Dlopen = void*(const char* path, int mode);

extern "C" {

// In the assembly below. They have C names because the assembler has to find them; the map keeps them inside.
[[gnu::visibility("hidden")]] void* glebe_resolve_dlopen(const char* path, int mode);
[[gnu::visibility("hidden")]] Dlopen* glebe_find_dlopen() noexcept;
[[gnu::visibility("hidden")]] extern std::atomic<Dlopen*> glebe_real_dlopen;

constinit std::atomic<Dlopen*> glebe_real_dlopen{&glebe_resolve_dlopen};

// Finds the next dlopen behind this library and remembers it. Several threads may do so: they find the same.
Dlopen* glebe_find_dlopen() noexcept {
  auto* found = reinterpret_cast<Dlopen*>(dlsym(RTLD_NEXT, "dlopen"));
  CHECK(found != nullptr);
  glebe_real_dlopen.store(found, std::memory_order_relaxed);  // one word, and nothing else depends on it
  return found;
}

}  // extern "C"

// 8 is RTLD_DEEPBIND. The resolver keeps both arguments over its call and the stack aligned to 16.
static_assert(RTLD_DEEPBIND == 8);
__asm__(R"(
  .pushsection .text
  .p2align 4
  .globl dlopen
  .type dlopen, @function
dlopen:
  .cfi_startproc
  endbr64
  andl $~8, %esi
  jmp *glebe_real_dlopen(%rip)
  .cfi_endproc
  .size dlopen, .-dlopen

  .p2align 4
  .globl glebe_resolve_dlopen
  .hidden glebe_resolve_dlopen
  .type glebe_resolve_dlopen, @function
glebe_resolve_dlopen:
  .cfi_startproc
  endbr64
  pushq %rdi
  .cfi_adjust_cfa_offset 8
  pushq %rsi
  .cfi_adjust_cfa_offset 8
  subq $8, %rsp
  .cfi_adjust_cfa_offset 8
  call glebe_find_dlopen
  addq $8, %rsp
  .cfi_adjust_cfa_offset -8
  popq %rsi
  .cfi_adjust_cfa_offset -8
  popq %rdi
  .cfi_adjust_cfa_offset -8
  jmp *%rax
  .cfi_endproc
  .size glebe_resolve_dlopen, .-glebe_resolve_dlopen
  .popsection
)");
