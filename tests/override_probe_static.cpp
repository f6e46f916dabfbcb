// The probe for a statically linked program: there is no dlsym, so ownership is asked of the C interface. The
// interface is declared weak, so that a link in which the override was dropped still builds; it then exits 2.
// Exits 0 only when malloc, libc's own callers of malloc and operator new all return blocks of glebe's
// reservation.
#include <malloc.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

extern "C" {
__attribute__((weak)) int glebe_owns(const void* block);
__attribute__((weak)) std::size_t glebe_usable_size(const void* block);
}

namespace {

bool ours(const char* what, void* block, std::size_t size) {
  const bool owned = block != nullptr && glebe_owns(block) == 1;
  const bool same_size = owned && glebe_usable_size(block) == malloc_usable_size(block);
  if (owned && same_size && malloc_usable_size(block) >= size) return true;
  std::fprintf(stderr, "override_probe_static: the block of %s is not ours\n", what);
  return false;
}

}  // namespace

int main() {
  if (glebe_owns == nullptr || glebe_usable_size == nullptr) return 2;
  bool all = true;
  for (const std::size_t size : {1u, 16u, 24u, 40u, 1000u, 40'000u, 4'000'000u, 80'000'000u}) {
    void* volatile block = malloc(size);
    all = ours("malloc", block, size) && all;
    free(block);
  }
  void* volatile object = ::operator new(100);
  char* volatile text = strdup("a text that libc copies");
  std::string string(300, 'x');
  all = ours("operator new", object, 100) && all;
  all = ours("strdup", text, 10) && all;
  all = ours("std::string", string.data(), 300) && all;
  // glibc gives 24 usable bytes for one; a class of 16-byte steps gives 16.
  void* volatile tiny = malloc(1);
  all = malloc_usable_size(tiny) == 16 && all;
  free(tiny);
  free(text);
  ::operator delete(object);
  int on_stack = 0;
  return all && glebe_owns(&on_stack) == 0 ? 0 : 1;
}
