// Frees memory that never came from the allocator. Variant: 0 stack, 1 static data, 2 own mapping, 3 code, 4
// a small integer, 5 a non-canonical address, 6 realloc of a stack address, 7 malloc_usable_size of a static
// address.
#include <sys/mman.h>

#include "tests/misuse/misuse.h"

namespace {

alignas(64) char static_bytes[256];

void* foreign_address(int variant, void* stack) {
  switch (variant) {
    case 0:
    case 6:
      return stack;
    case 2:
      return mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    case 3:
      return reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(&misuse::survived) &
                                     ~std::uintptr_t{15});
    case 4:
      return reinterpret_cast<void*>(0x1230);
    case 5:
      return reinterpret_cast<void*>(std::uintptr_t{0x8000'0000'0000'1000});
    default:
      return static_bytes + 64;
  }
}

}  // namespace

int main(int argc, char** argv) {
  alignas(64) char stack[256] = {};
  const int variant = misuse::variant(argc, argv);
  std::free(misuse::opaque(std::malloc(100)));
  void* address = misuse::opaque(foreign_address(variant, stack + 64));
  misuse::announce(address);
  if (variant == 6) {
    void* moved = misuse::opaque(std::realloc(address, 500));
    std::free(moved);
  } else if (variant == 7) {
    if (malloc_usable_size(address) > 192) return 4;
  } else {
    std::free(address);
  }
  return misuse::survived(100);
}
