// Opens a plugin with RTLD_DEEPBIND and passes blocks both ways. The plugin is opened by its bare name, which
// is found through this program's RUNPATH ($ORIGIN): that works only when dlopen still sees its caller. Exit
// 0 well, 1 not.
#include <dlfcn.h>
#include <malloc.h>

#include <cstdlib>

#include "tests/process/expect.h"

namespace {

using process_test::expect;
using process_test::fill;
using process_test::holds;
using process_test::opaque;

template <class Function>
Function* find(void* library, const char* name) {
  void* address = dlsym(library, name);
  expect(address != nullptr, name);
  return reinterpret_cast<Function*>(address);
}

void pass_blocks(void* plugin) {
  auto* their_malloc = find<void*(std::size_t)>(plugin, "plugin_malloc");
  auto* their_free = find<void(void*)>(plugin, "plugin_free");
  auto* their_realloc = find<void*(void*, std::size_t)>(plugin, "plugin_realloc");
  auto* their_strdup = find<char*(const char*)>(plugin, "plugin_strdup");
  auto* early_block = find<void*()>(plugin, "plugin_early_block");
  if (process_test::failure_count.load() != 0) return;
  std::free(early_block());
  for (const std::size_t size : {10u, 1000u, 50'000u, 3'000'000u, 50'000'000u}) {
    for (int round = 0; round < 20; ++round) {
      void* theirs = opaque(their_malloc(size));
      fill(theirs, size, 0x44);
      expect(malloc_usable_size(theirs) >= size, "the plugin's block is known here", size);
      theirs = opaque(std::realloc(theirs, size * 2));
      expect(theirs != nullptr && holds(theirs, size, 0x44), "realloc of the plugin's block", size);
      std::free(theirs);
      void* ours = opaque(std::malloc(size));
      fill(ours, size, 0x45);
      ours = opaque(their_realloc(ours, size * 2));
      expect(ours != nullptr && holds(ours, size, 0x45), "the plugin's realloc of our block", size);
      their_free(ours);
    }
  }
  std::free(their_strdup("text from the plugin"));
}

}  // namespace

int main() {
  void* plugin = dlopen("libdeepbind_plugin.so", RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (plugin == nullptr) {
    process_test::say("dlopen: %s\n", dlerror());
    return 1;
  }
  pass_blocks(plugin);
  expect(dlclose(plugin) == 0, "dlclose");
  expect(dlopen("no_such_library.so", RTLD_NOW) == nullptr && dlerror() != nullptr,
         "dlopen still reports errors");
  return process_test::finish("deepbind");
}
