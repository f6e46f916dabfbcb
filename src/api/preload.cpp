// What only the preload library has: the report at exit, and the way to a C++ runtime that came by dlopen.
// Linux only.
#include <dlfcn.h>
#include <glebe/glebe.h>

#include "src/api/options.h"
#include "src/api/override_new.h"

namespace glebe::api {

// Only a runtime that is loaded already; nothing is loaded here. It then stays loaded.
void* find_in_runtime(const char* name) noexcept {
  for (const char* library : {"libstdc++.so.6", "libc++.so.1"}) {
    void* handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    if (handle != nullptr) return dlsym(handle, name);
  }
  return nullptr;
}

}  // namespace glebe::api

namespace {

// Runs at exit, after the program's own destructors: the blocks it reports as live are those that were never
// freed and those of other threads. Nothing is torn down.
[[gnu::destructor]] void report_at_exit() noexcept {
  glebe::api::ensure_configured();
  if (glebe::api::current_options().stats != 0) glebe_stats_print();
}

}  // namespace
