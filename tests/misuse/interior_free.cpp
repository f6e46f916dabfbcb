// Frees a pointer into the middle of a live block. The variant chooses the block's size and the distance.
#include "tests/misuse/misuse.h"

namespace {

struct Case {
  std::size_t size, distance;
};
constexpr Case kCases[] = {{64, 16},           {64, 32},
                           {1000, 16},         {1000, 512},
                           {5000, 4096},       {20'000, 16'384},
                           {100'000, 16},      {100'000, 65'536},
                           {1'500'000, 4096},  {1'500'000, 1u << 20},
                           {50'000'000, 4096}, {50'000'000, 32u << 20}};

}  // namespace

int main(int argc, char** argv) {
  const Case& chosen = kCases[static_cast<std::size_t>(misuse::variant(argc, argv)) % 12];
  auto* block = static_cast<char*>(misuse::opaque(std::malloc(chosen.size)));
  misuse::announce(block + chosen.distance);
  std::free(misuse::opaque(block + chosen.distance));
  return misuse::survived(chosen.size);
}
