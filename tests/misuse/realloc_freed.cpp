// Calls realloc on a block that was freed. Variant = 2 * size index + (1 when the caches were flushed
// between).
#include "tests/misuse/misuse.h"

namespace {

constexpr std::size_t kSizes[] = {16, 1000, 32'768, 100'000, 1'500'000, 50'000'000};

}  // namespace

int main(int argc, char** argv) {
  const int variant = misuse::variant(argc, argv);
  const std::size_t size = kSizes[static_cast<std::size_t>(variant / 2) % 6];
  void* block = misuse::opaque(std::malloc(size));
  misuse::announce(block);
  std::free(misuse::opaque(block));
  if (variant % 2 == 1) misuse::flush(size);
  void* moved = misuse::opaque(std::realloc(misuse::opaque(block), size * 4));
  std::free(moved);
  return misuse::survived(size);
}
