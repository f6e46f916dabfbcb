// Deletes a block with a size of another class than it was allocated with. Variant 0 to 7:
// the pair of sizes, by operator delete(pointer, size); 8 to 15 the same by free_sized where the library has
// it.
#include <new>

#include "tests/misuse/misuse.h"

extern "C" __attribute__((weak)) void free_sized(void* block, std::size_t size);

namespace {

struct Case {
  std::size_t size, claimed;
};
constexpr Case kCases[] = {{64, 640},
                           {640, 64},
                           {1000, 5000},
                           {32'768, 100},
                           {100'000, 400'000},
                           {200, 100'000},
                           {50'000'000, 90'000'000},
                           {100, 50'000'000}};

}  // namespace

int main(int argc, char** argv) {
  const int variant = misuse::variant(argc, argv);
  const Case& chosen = kCases[static_cast<std::size_t>(variant) % 8];
  void* block = misuse::opaque(::operator new(chosen.size));
  misuse::announce(block);
  if (variant >= 8 && free_sized != nullptr) {
    free_sized(block, chosen.claimed);
  } else {
    ::operator delete(block, chosen.claimed);
  }
  return misuse::survived(chosen.size);
}
