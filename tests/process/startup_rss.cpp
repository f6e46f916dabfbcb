// Allocates 100 KB in blocks of 100 bytes, frees them and prints its own peak RSS in KiB to stdout. Linked
// against libc only, so that the figure is the allocator's and not the C++ runtime's. With "idle" it
// allocates nothing.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/process/proc_memory.h"

int main(int argc, char** argv) {
  static void* blocks[1000];
  if (argc < 2 || std::strcmp(argv[1], "idle") != 0) {
    for (void*& block : blocks) {
      block = std::malloc(100);
      if (block == nullptr) return 1;
      std::memset(block, 1, 100);
    }
    for (void* block : blocks) std::free(block);
  }
  char text[32];
  const int length = std::snprintf(text, sizeof text, "%zu\n", process_test::peak_rss_kib());
  return write(STDOUT_FILENO, text, static_cast<std::size_t>(length)) == length ? 0 : 1;
}
