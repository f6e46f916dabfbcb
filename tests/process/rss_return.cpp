// Memory comes back (V1, V2): after a peak was freed and the program goes on at a low rate of one malloc and
// free every 10 ms, RSS is within 10 MiB of its start two seconds later, without a call to trim. Run as:
// rss_return small|medium|large|mixed|threads [MIB]; prints the figures. What would break: free memory that
// is kept for ever, or given back only by a burst of activity.
#include <pthread.h>

#include <cstdlib>

#include "tests/process/expect.h"
#include "tests/process/proc_memory.h"

namespace {

using process_test::expect;
using process_test::opaque;
using process_test::Random;
using process_test::rss_kib;
using process_test::say;

constexpr std::size_t kMiB = 1u << 20;
constexpr std::size_t kAllowedKib = 10 * 1024;
constexpr std::size_t kTableEntries = 1u << 22;

// Blocks are kept in a table in .bss: its pages are touched before the start is measured.
void* table[kTableEntries];

std::size_t size_of(const char* kind, Random& random) {
  if (std::strcmp(kind, "small") == 0) return 256 + random.below(2048);
  if (std::strcmp(kind, "medium") == 0) return 33'000 + random.below(2 * kMiB);
  if (std::strcmp(kind, "large") == 0) return 33 * kMiB + random.below(60 * kMiB);
  switch (random.below(100)) {
    case 0:
      return 33 * kMiB;
    case 1:
    case 2:
    case 3:
    case 4:
      return 33'000 + random.below(4 * kMiB);
    default:
      return 16 + random.below(8192);
  }
}

std::size_t allocate(const char* kind, std::size_t bytes, std::size_t first, std::size_t last) {
  Random random(first + 17);
  std::size_t total = 0;
  std::size_t count = first;
  for (; total < bytes && count < last; ++count) {
    const std::size_t size = size_of(kind, random);
    auto* block = static_cast<unsigned char*>(opaque(std::malloc(size)));
    if (!expect(block != nullptr, "malloc succeeds", size)) break;
    for (std::size_t at = 0; at < size; at += 4096) block[at] = 1;
    block[size - 1] = 1;
    table[count] = block;
    total += size;
  }
  return count;
}

// Freed in a shuffled order, as programs do.
void release(std::size_t first, std::size_t last) {
  Random random(31);
  for (std::size_t i = last - first; i > 1; --i) {
    const std::size_t j = random.below(i);
    void* kept = table[first + i - 1];
    table[first + i - 1] = table[first + j];
    table[first + j] = kept;
  }
  for (std::size_t i = first; i < last; ++i) {
    std::free(table[i]);
    table[i] = nullptr;
  }
}

void* worker(void* range) {
  const std::size_t first = reinterpret_cast<std::uintptr_t>(range);
  const std::size_t last = allocate("mixed", 128 * kMiB, first, first + kTableEntries / 8);
  // Half by its owner, half by the main thread after this one has ended.
  release(first, first + (last - first) / 2);
  return reinterpret_cast<void*>(last);
}

void peak_in_threads() {
  pthread_t threads[8];
  for (std::uintptr_t i = 0; i < 8; ++i) {
    pthread_create(&threads[i], nullptr, worker, reinterpret_cast<void*>(i * (kTableEntries / 8)));
  }
  for (std::uintptr_t i = 0; i < 8; ++i) {
    void* last = nullptr;
    pthread_join(threads[i], &last);
    release(i * (kTableEntries / 8), reinterpret_cast<std::uintptr_t>(last));
  }
}

void go_on_slowly(double seconds) {
  const double end = process_test::now_seconds() + seconds;
  while (process_test::now_seconds() < end) {
    std::free(opaque(std::malloc(64)));
    process_test::sleep_ms(10);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const char* kind = argc > 1 ? argv[1] : "mixed";
  const std::size_t bytes = (argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1024) * kMiB;
  std::memset(table, 1, sizeof table);
  std::memset(table, 0, sizeof table);
  std::free(opaque(std::malloc(100)));
  const std::size_t start = rss_kib();
  std::size_t peak = 0;
  if (std::strcmp(kind, "threads") == 0) {
    peak_in_threads();
    peak = process_test::peak_rss_kib();
  } else {
    const std::size_t count = allocate(kind, bytes, 0, kTableEntries);
    peak = rss_kib();
    release(0, count);
  }
  const std::size_t freed = rss_kib();
  go_on_slowly(2.0);
  const std::size_t end = rss_kib();
  say("RSS in MiB: start %zu, peak %zu, after free %zu, two seconds later %zu, above start %zu KiB\n",
      start / 1024, peak / 1024, freed / 1024, end / 1024, end > start ? end - start : 0);
  const std::size_t wanted = std::strcmp(kind, "threads") == 0 ? 512 : bytes / kMiB * 9 / 10;
  expect(peak >= start + wanted * 1024, "the peak was really resident", peak);
  expect(end <= start + kAllowedKib, "RSS is within 10 MiB of its start", end);
  return process_test::finish(kind);
}
