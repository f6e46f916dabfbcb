// Allocation at the limits that a system sets: address space, committed memory, a memory cgroup, number of
// mappings. Run as: limit_test fill CAP_MIB LEAST_MIB  allocates up to CAP_MIB or until NULL, must reach
// LEAST_MIB, frees half,
//                                            must get blocks of the freed sizes back, and checks all contents
//         limit_test maps LEFT               leaves LEFT mappings below vm.max_map_count and goes on
//         allocating
// What would break: a crash, a hang or a wrong errno where the system says no; memory that is lost after it
// said no.
#include <sys/mman.h>

#include <cstdlib>

#include "tests/process/expect.h"

namespace {

using process_test::expect;
using process_test::fill;
using process_test::holds;
using process_test::opaque;
using process_test::pattern_of;
using process_test::Random;

constexpr std::size_t kMiB = 1u << 20;
constexpr std::size_t kMostBlocks = 1u << 17;

struct Entry {
  void* block;
  std::size_t size;
};
Entry entries[kMostBlocks];
std::size_t entry_count = 0;
std::size_t freed_sizes[kMostBlocks];
std::size_t freed_count = 0;

std::size_t draw_size(Random& random) {
  return random.below(50) == 0 ? 40'000 + random.below(200'000) : 16 + random.below(8000);
}

// False when there is no memory; that has to come with ENOMEM.
bool allocate(std::size_t size) {
  errno = 0;
  void* block = opaque(std::malloc(size));
  if (block == nullptr) {
    expect(errno == ENOMEM, "errno is ENOMEM at the limit", size);
    return false;
  }
  fill(block, size, pattern_of(block, size));
  entries[entry_count++] = {block, size};
  return true;
}

// Returns the bytes that it got until the first NULL.
std::size_t fill_up(std::size_t cap, Random& random) {
  std::size_t total = 0;
  while (total < cap && entry_count < kMostBlocks) {
    const std::size_t size = draw_size(random);
    if (!allocate(size)) break;
    total += size;
  }
  return total;
}

// The sizes of the freed blocks again, in another order: each has a hole that fits. (A size that was never
// used may need a slab of its own, and there may be none.)
std::size_t fill_holes() {
  std::size_t total = 0;
  for (std::size_t i = freed_count; i-- > 0;) {
    if (!allocate(freed_sizes[i])) break;
    total += freed_sizes[i];
  }
  return total;
}

std::size_t release(std::size_t keep_every) {
  std::size_t freed = 0;
  std::size_t kept = 0;
  freed_count = 0;
  for (std::size_t i = 0; i < entry_count; ++i) {
    const Entry entry = entries[i];
    expect(holds(entry.block, entry.size, pattern_of(entry.block, entry.size)), "contents kept", entry.size);
    if (keep_every != 0 && i % keep_every == 0) {
      entries[kept++] = entry;
      continue;
    }
    freed += entry.size;
    freed_sizes[freed_count++] = entry.size;
    std::free(entry.block);
  }
  entry_count = kept;
  return freed;
}

void fill_to_limit(std::size_t cap, std::size_t least) {
  Random random(5);
  const std::size_t reached = fill_up(cap, random);
  expect(reached >= least, "MiB reached before the first NULL", reached / kMiB);
  const std::size_t freed = release(2);
  const std::size_t again = fill_holes();
  expect(again >= freed / 10 * 9, "freed memory can be had again, MiB", again / kMiB);
  release(0);
  process_test::say("reached %zu MiB, freed %zu MiB, again %zu MiB\n", reached / kMiB, freed / kMiB,
                    again / kMiB);
}

// Splits one reservation into single pages of alternating rights, so that each page is a mapping of its own.
constexpr std::size_t kHogPages = 80'000;
unsigned char* hog_base = nullptr;

std::size_t hog_maps(std::size_t leave) {
  void* area = mmap(nullptr, kHogPages * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!expect(area != MAP_FAILED, "room for the hog")) return 0;
  hog_base = static_cast<unsigned char*>(area);
  std::size_t page = 1;
  while (page < kHogPages && mprotect(hog_base + page * 4096, 4096, PROT_READ) == 0) page += 2;
  expect(page < kHogPages, "the limit of mappings was reached", page);
  // Each page that becomes like its neighbours again gives two mappings back.
  for (std::size_t i = 0; i < leave / 2 && page > 2; ++i) {
    page -= 2;
    mprotect(hog_base + page * 4096, 4096, PROT_NONE);
  }
  return page;
}

void allocate_without_maps(std::size_t left) {
  Random random(8);
  fill_up(4 * kMiB, random);
  const std::size_t hogged = hog_maps(left);
  const std::size_t small = fill_up(64 * kMiB, random);
  std::size_t large_count = 0;
  for (int i = 0; i < 40; ++i) {
    errno = 0;
    auto* block = static_cast<unsigned char*>(opaque(std::malloc(40 * kMiB)));
    if (block == nullptr) {
      expect(errno == ENOMEM, "errno is ENOMEM without mappings");
      continue;
    }
    block[0] = block[40 * kMiB - 1] = 1;
    std::free(block);
    ++large_count;
  }
  release(3);
  if (hog_base != nullptr) munmap(hog_base, kHogPages * 4096);
  void* block = opaque(std::malloc(40 * kMiB));
  expect(block != nullptr, "malloc works again when there are mappings");
  std::free(block);
  release(0);
  process_test::say("%zu pages hogged, then %zu MiB in small blocks and %zu of 40 large ones\n", hogged,
                    small / kMiB, large_count);
}

}  // namespace

int main(int argc, char** argv) {
  const char* part = argc > 2 ? argv[1] : "";
  if (std::strcmp(part, "fill") == 0 && argc > 3) {
    fill_to_limit(std::strtoul(argv[2], nullptr, 10) * kMiB, std::strtoul(argv[3], nullptr, 10) * kMiB);
  } else if (std::strcmp(part, "maps") == 0) {
    allocate_without_maps(std::strtoul(argv[2], nullptr, 10));
  } else {
    process_test::say("usage: limit_test fill CAP_MIB LEAST_MIB | maps LEFT\n");
    return 2;
  }
  return process_test::finish(part);
}
