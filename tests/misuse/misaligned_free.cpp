// Frees a pointer that no allocator returns, because it is not a multiple of 16: the variant chooses block
// and offset.
#include "tests/misuse/misuse.h"

namespace {

struct Case {
  std::size_t size, distance;
};
constexpr Case kCases[] = {{16, 1},      {64, 8},        {1000, 3},       {32'768, 8},
                           {100'000, 1}, {1'500'000, 8}, {50'000'000, 24}};

}  // namespace

int main(int argc, char** argv) {
  const Case& chosen = kCases[static_cast<std::size_t>(misuse::variant(argc, argv)) % 7];
  auto* block = static_cast<char*>(misuse::opaque(std::malloc(chosen.size)));
  misuse::announce(block + chosen.distance);
  std::free(misuse::opaque(block + chosen.distance));
  return misuse::survived(chosen.size);
}
