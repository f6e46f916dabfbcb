// Frees a block twice. Variant = 4 * size index + way: 0 twice in a row, 1 with another free between, 2 after
// the caches of the size were flushed, 3 the second time on another thread.
#include <pthread.h>

#include "tests/misuse/misuse.h"

namespace {

constexpr std::size_t kSizes[] = {16, 100, 1000, 32'768, 100'000, 1'500'000, 50'000'000};

void* free_on_thread(void* block) {
  std::free(block);
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  const int variant = misuse::variant(argc, argv);
  const std::size_t size = kSizes[static_cast<std::size_t>(variant / 4) % 7];
  void* other = misuse::opaque(std::malloc(size));
  void* block = misuse::opaque(std::malloc(size));
  misuse::announce(block);
  std::free(misuse::opaque(block));
  if (variant % 4 == 1) std::free(misuse::opaque(other));
  if (variant % 4 == 2) misuse::flush(size);
  if (variant % 4 == 3) {
    pthread_t thread;
    if (pthread_create(&thread, nullptr, free_on_thread, block) != 0) return 8;
    pthread_join(thread, nullptr);
  } else {
    std::free(misuse::opaque(block));
  }
  return misuse::survived(size);
}
