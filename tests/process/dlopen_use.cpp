// Opens the library at run time in a process that was not preloaded and uses it by its own names: the
// program's malloc stays what it was, blocks of the library work from threads born before and after, and
// dlclose does no harm. Run as: dlopen_use LIBRARY.
#include <dlfcn.h>

#include <cstdlib>
#include <thread>

#include "tests/process/expect.h"

namespace {

using process_test::expect;
using process_test::fill;
using process_test::holds;
using process_test::opaque;
using process_test::Random;

struct Library {
  void* (*allocate)(std::size_t);
  void (*release)(void*);
  std::size_t (*usable_size)(const void*);
  int (*owns)(const void*);
};

template <class Function>
bool find(void* handle, const char* name, Function& function) {
  void* address = dlsym(handle, name);
  function = reinterpret_cast<Function>(address);
  return expect(address != nullptr, name);
}

void churn(const Library& library, std::uint64_t seed) {
  Random random(seed);
  for (int i = 0; i < 2000; ++i) {
    const std::size_t size = random.below(std::size_t{16} << random.below(14));
    void* block = opaque(library.allocate(size));
    if (!expect(block != nullptr, "glebe_malloc succeeds", size)) return;
    fill(block, size, 0x19);
    expect(library.usable_size(block) >= size && library.owns(block) == 1, "the block is the library's",
           size);
    expect(holds(block, size, 0x19), "contents kept", size);
    library.release(block);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  std::atomic<bool> ready{false};
  std::atomic<bool> failed{false};
  Library library{};
  std::thread born_before([&] {
    while (!ready.load() && !failed.load()) process_test::sleep_ms(1);
    if (!failed.load()) churn(library, 1);
  });
  void* handle = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) process_test::say("dlopen: %s\n", dlerror());
  expect(handle != nullptr, "the library can be opened at run time");
  bool complete = handle != nullptr && find(handle, "glebe_malloc", library.allocate);
  complete = complete && find(handle, "glebe_free", library.release);
  complete = complete && find(handle, "glebe_usable_size", library.usable_size);
  complete = complete && find(handle, "glebe_owns", library.owns);
  failed.store(!complete);
  ready.store(complete);
  if (complete) {
    std::thread born_after([&] { churn(library, 2); });
    churn(library, 3);
    born_after.join();
  }
  born_before.join();
  if (!complete) return process_test::finish("dlopen_use");
  void* own = opaque(std::malloc(100));
  expect(library.owns(own) == 0, "malloc of the program is still its own");
  std::free(own);
  void* kept = library.allocate(5000);
  fill(kept, 5000, 0x33);
  expect(dlclose(handle) == 0, "dlclose");
  expect(holds(kept, 5000, 0x33), "blocks survive dlclose");
  std::thread([] {}).join();
  return process_test::finish("dlopen_use");
}
