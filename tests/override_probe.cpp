// Exits 0 only when every allocation entry point that this process can reach lies in the library that also
// defines glebe_version and glebe_malloc, and a block from each of them is known to that library. Exits 2
// when no glebe is loaded, 1 when one is loaded but does not own every entry point. Not linked with glebe:
// symbols come by dlsym.
#include <dlfcn.h>
#include <malloc.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

namespace {

using Owns = int (*)(const void*);

const char* const kNames[] = {"malloc",
                              "free",
                              "calloc",
                              "realloc",
                              "reallocarray",
                              "posix_memalign",
                              "aligned_alloc",
                              "memalign",
                              "valloc",
                              "pvalloc",
                              "malloc_usable_size",
                              "malloc_trim",
                              "mallinfo2",
                              "mallopt",
                              "_Znwm",
                              "_Znam",
                              "_ZnwmSt11align_val_t",
                              "_ZnamSt11align_val_t",
                              "_ZnwmRKSt9nothrow_t",
                              "_ZnamRKSt9nothrow_t",
                              "_ZdlPv",
                              "_ZdaPv",
                              "_ZdlPvm",
                              "_ZdaPvm",
                              "_ZdlPvSt11align_val_t",
                              "_ZdaPvSt11align_val_t"};

const void* base_of(const void* address) {
  Dl_info info{};
  return dladdr(address, &info) != 0 ? info.dli_fbase : nullptr;
}

bool names_are_ours(const void* base) {
  bool all = true;
  for (const char* name : kNames) {
    const void* found = dlsym(RTLD_DEFAULT, name);
    if (found != nullptr && base_of(found) == base) continue;
    std::fprintf(stderr, "override_probe: %s is not in the library\n", name);
    all = false;
  }
  // What this program itself was bound to may differ from what dlsym finds.
  volatile auto bound = reinterpret_cast<void* (*)(std::size_t)>(&malloc);
  return all && base_of(reinterpret_cast<const void*>(bound)) == base;
}

bool owned(Owns owns, const char* what, const void* block) {
  if (block != nullptr && owns(block) == 1) return true;
  std::fprintf(stderr, "override_probe: the block of %s is not ours\n", what);
  return false;
}

bool blocks_are_ours(Owns owns) {
  bool all = true;
  void* plain = malloc(100);
  void* aligned = aligned_alloc(64, 128);
  void* large = malloc(40u << 20);
  char* text = strdup("a text that libc copies");
  auto* object = ::operator new(48);
  auto* cache_line = ::operator new (256, std::align_val_t{128});
  std::vector<int> numbers(1000);
  const std::string string(500, 'x');
  all = owned(owns, "malloc", plain) && all;
  all = owned(owns, "aligned_alloc", aligned) && all;
  all = owned(owns, "malloc (large)", large) && all;
  all = owned(owns, "strdup", text) && all;
  all = owned(owns, "operator new", object) && all;
  all = owned(owns, "aligned operator new", cache_line) && all;
  all = owned(owns, "std::vector", numbers.data()) && all;
  all = owned(owns, "std::string", string.data()) && all;
  free(plain);
  free(aligned);
  free(large);
  free(text);
  ::operator delete(object);
  ::operator delete (cache_line, std::align_val_t{128});
  const int on_stack = 0;
  static int in_data = 0;
  return all && owns(&on_stack) == 0 && owns(&in_data) == 0 && owns(nullptr) == 0;
}

}  // namespace

int main() {
  const void* version = dlsym(RTLD_DEFAULT, "glebe_version");
  const void* prefixed = dlsym(RTLD_DEFAULT, "glebe_malloc");
  void* owns_address = dlsym(RTLD_DEFAULT, "glebe_owns");
  if (version == nullptr || prefixed == nullptr || owns_address == nullptr) return 2;
  const void* base = base_of(version);
  if (base == nullptr || base_of(prefixed) != base) return 1;
  const bool names = names_are_ours(base);
  const bool blocks = blocks_are_ours(reinterpret_cast<Owns>(owns_address));
  return names && blocks ? 0 : 1;
}
