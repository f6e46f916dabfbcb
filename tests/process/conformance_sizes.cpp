// Properties that hold for every size (P13, P14, S9, mut-D02, mut-D03): the usable size covers the request
// and can be written, blocks do not overlap, calloc is zero after dirty reuse, realloc keeps contents,
// alignment is what was asked. What would break: a size-class table with one wrong entry, an aligned path
// that loses its alignment. Run as: conformance_sizes PART, where PART is usable, zero, realloc, aligned or
// overlap.
#include <malloc.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "tests/process/expect.h"

namespace {

using process_test::expect;
using process_test::fill;
using process_test::holds;
using process_test::opaque;
using process_test::pattern_of;

constexpr std::size_t kMiB = 1u << 20;

bool is_aligned(const void* block, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(block) % alignment == 0;
}

// Keeps the last blocks alive with their pattern, so that an overlap with a later block is seen when one
// leaves.
class Window {
 public:
  void add(void* block, std::size_t size) {
    Entry& entry = entries_[next_++ % kCount];
    leave(entry);
    entry = {block, size};
    fill(block, size, pattern_of(block, size));
  }
  ~Window() {
    for (Entry& entry : entries_) leave(entry);
  }

 private:
  static constexpr std::size_t kCount = 24;
  struct Entry {
    void* block = nullptr;
    std::size_t size = 0;
  };
  static void leave(const Entry& entry) {
    if (entry.block == nullptr) return;
    expect(holds(entry.block, entry.size, pattern_of(entry.block, entry.size)), "contents kept", entry.size);
    free(entry.block);
  }
  Entry entries_[kCount];
  std::size_t next_ = 0;
};

void check_usable(Window& window, std::size_t size) {
  void* block = opaque(malloc(size));
  if (!expect(block != nullptr, "S9 malloc succeeds", size)) return;
  const std::size_t usable = malloc_usable_size(block);
  expect(usable >= size, "mut-D02 usable size covers the request", size);
  expect(is_aligned(block, 16), "P14 malloc is 16-byte aligned", size);
  window.add(block, usable);
}

void usable_sizes() {
  Window window;
  for (std::size_t size = 0; size <= 70'000; ++size) check_usable(window, size);
  for (std::size_t power = 1u << 17; power <= (std::size_t{32} << 20); power *= 2) {
    for (std::size_t shift = 0; shift <= 33; ++shift) check_usable(window, power + shift - 17);
    check_usable(window, power + power / 2);
  }
}

// Too large for the window: one at a time, first and last bytes written.
void usable_huge() {
  for (std::size_t power = std::size_t{64} << 20; power <= (std::size_t{1} << 30); power *= 2) {
    for (std::size_t shift = 0; shift <= 6; ++shift) {
      const std::size_t size = power + shift - 3;
      auto* block = static_cast<unsigned char*>(opaque(malloc(size)));
      if (!expect(block != nullptr, "S9 malloc of a huge block succeeds", size)) continue;
      const std::size_t usable = malloc_usable_size(block);
      expect(usable >= size, "mut-D02 usable size covers the request", size);
      for (std::size_t at = 0; at < usable; at += kMiB) block[at] = 7;
      block[usable - 1] = 7;
      free(block);
    }
  }
}

bool all_zero(const void* block, std::size_t size) {
  static const unsigned char zeros[65'536] = {};
  const auto* bytes = static_cast<const unsigned char*>(block);
  for (std::size_t at = 0; at < size; at += sizeof zeros) {
    const std::size_t part = size - at < sizeof zeros ? size - at : sizeof zeros;
    if (std::memcmp(bytes + at, zeros, part) != 0) return false;
  }
  return true;
}

void check_zero(std::size_t size, std::size_t count) {
  void* dirty[8];
  for (std::size_t i = 0; i < count; ++i) {
    dirty[i] = opaque(malloc(size));
    if (dirty[i] != nullptr) std::memset(dirty[i], 0xA5, malloc_usable_size(dirty[i]));
  }
  for (std::size_t i = 0; i < count; ++i) free(dirty[i]);
  void* fresh[8];
  for (std::size_t i = 0; i < count; ++i) {
    fresh[i] = opaque(calloc(1, size));
    if (expect(fresh[i] != nullptr, "calloc succeeds", size)) {
      expect(all_zero(fresh[i], size), "calloc is zero after dirty reuse", size);
    }
  }
  for (std::size_t i = 0; i < count; ++i) free(fresh[i]);
}

void zeroed_after_reuse() {
  for (std::size_t size = 1; size <= 40'000; ++size) check_zero(size, 2);
  for (const std::size_t size : {16u, 48u, 256u, 1000u, 4096u, 20'000u, 65'536u, 100'000u, 131'072u}) {
    for (int round = 0; round < 20; ++round) check_zero(size, 8);
  }
  for (std::size_t size = 200'000; size <= 300 * kMiB; size = size * 2 + 12'345) check_zero(size, 2);
  for (const std::size_t size : {kMiB, 32 * kMiB, 32 * kMiB + 1, 64 * kMiB}) check_zero(size, 2);
}

std::size_t pair_sizes(std::size_t* sizes) {
  std::size_t count = 0;
  for (std::size_t size = 1; size <= 300'000; size = size * 5 / 4 + 3) sizes[count++] = size;
  for (const std::size_t size :
       {16u, 32u, 256u, 257u, 1024u, 4096u, 16'384u, 32'768u, 32'769u, 65'536u, 131'072u}) {
    sizes[count++] = size;
  }
  for (const std::size_t size : {kMiB, 2 * kMiB + 5, 5 * kMiB, 31 * kMiB, 33 * kMiB, 70 * kMiB})
    sizes[count++] = size;
  return count;
}

// Up to this size every byte of the old block is compared after realloc, above it one byte per os page.
constexpr std::size_t kDenseBytes = 512u << 10;

bool realloc_kept(const unsigned char* bytes, std::size_t from, std::size_t kept, unsigned char value) {
  const std::size_t step = from <= kDenseBytes ? 1 : 4096;
  for (std::size_t at = 0; at < kept; at += step) {
    if (bytes[at] != value) return false;
  }
  return true;
}

void check_realloc(std::size_t from, std::size_t to) {
  auto* block = static_cast<unsigned char*>(opaque(malloc(from)));
  if (!expect(block != nullptr, "malloc before realloc", from)) return;
  const unsigned char value = pattern_of(&from, from + to);
  if (from <= kDenseBytes) std::memset(block, value, from);
  for (std::size_t at = 0; at < from; at += 4096) block[at] = value;
  auto* moved = static_cast<unsigned char*>(opaque(realloc(block, to)));
  if (!expect(moved != nullptr, "realloc succeeds", to)) return;
  expect(realloc_kept(moved, from, from < to ? from : to, value), "realloc keeps contents", from);
  expect(malloc_usable_size(moved) >= to, "usable size after realloc", to);
  fill(moved, malloc_usable_size(moved), 1);
  free(moved);
}

void realloc_pairs() {
  std::size_t sizes[128];
  const std::size_t count = pair_sizes(sizes);
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t j = 0; j < count; ++j) {
      const bool both_huge = sizes[i] >= 5 * kMiB && sizes[j] >= 5 * kMiB;
      const bool odd_huge = (sizes[i] >= 5 * kMiB || sizes[j] >= 5 * kMiB) && (i + j) % 5 != 0;
      if (both_huge || !odd_huge) check_realloc(sizes[i], sizes[j]);
    }
  }
}

// One block grown and shrunk again; every page start is compared after each step.
void realloc_chain() {
  std::size_t size = 1;
  auto* block = static_cast<unsigned char*>(opaque(malloc(size)));
  block[0] = 0;
  while (size < 200 * kMiB) {
    const std::size_t larger = size + size / 2 + 7;
    block = static_cast<unsigned char*>(opaque(realloc(block, larger)));
    if (!expect(block != nullptr, "realloc grows", larger)) return;
    for (std::size_t at = 0; at < size; at += 4096) {
      if (!expect(block[at] == static_cast<unsigned char>(at / 4096), "growth keeps contents", at)) break;
    }
    for (std::size_t at = (size + 4095) / 4096 * 4096; at < larger; at += 4096) {
      block[at] = static_cast<unsigned char>(at / 4096);
    }
    size = larger;
  }
  for (; size > 10; size = size / 3 * 2) {
    block = static_cast<unsigned char*>(opaque(realloc(block, size)));
    if (!expect(block != nullptr, "realloc shrinks", size)) return;
    for (std::size_t at = 0; at < size; at += 4096) {
      if (!expect(block[at] == static_cast<unsigned char>(at / 4096), "shrinking keeps contents", at)) break;
    }
  }
  free(block);
}

std::size_t boundary_sizes(std::size_t* sizes) {
  std::size_t count = 0;
  const auto around = [&](std::size_t size) {
    sizes[count++] = size - 1;
    sizes[count++] = size;
    sizes[count++] = size + 1;
  };
  for (std::size_t size = 16; size <= 256; size += 16) around(size);
  for (std::size_t base = 256; base < 65'536; base *= 2) {
    for (std::size_t step = 1; step <= 8; ++step) around(base + base / 8 * step);
  }
  for (const std::size_t size : {100'000u, 262'144u, 1'048'576u, 3'000'000u}) around(size);
  return count;
}

void check_aligned(Window& window, std::size_t alignment, std::size_t size) {
  void* block = opaque(aligned_alloc(alignment, size));
  if (!expect(block != nullptr, "aligned_alloc succeeds", size)) return;
  expect(is_aligned(block, alignment), "mut-D03 the block is aligned", alignment);
  expect(malloc_usable_size(block) >= size, "usable size of an aligned block", size);
  window.add(block, size);
}

void aligned_blocks() {
  std::size_t sizes[512];
  const std::size_t count = boundary_sizes(sizes);
  Window window;
  for (std::size_t alignment = 8; alignment <= 2 * kMiB; alignment *= 2) {
    for (std::size_t i = 0; i < count; ++i) check_aligned(window, alignment, sizes[i]);
  }
  for (std::size_t alignment = 4 * kMiB; alignment <= (std::size_t{1} << 30); alignment *= 2) {
    for (const std::size_t size : {std::size_t{1}, std::size_t{100}, std::size_t{4096}, kMiB, 33 * kMiB}) {
      check_aligned(window, alignment, size);
    }
  }
}

// An aligned block may be reallocated and freed like any other; its contents move with it.
void aligned_then_realloc() {
  for (std::size_t alignment = 8; alignment <= 2 * kMiB; alignment *= 4) {
    for (const std::size_t size : {1u, 40u, 1000u, 9000u, 16'000u}) {
      void* block = opaque(aligned_alloc(alignment, size));
      fill(block, size, 0x6B);
      block = opaque(realloc(block, size * 3));
      expect(block != nullptr && holds(block, size, 0x6B), "realloc of an aligned block", size);
      free(block);
    }
  }
}

// Many blocks of mixed sizes alive at once, each with its own pattern; replaced at random 200,000 times.
void no_overlap() {
  const char* text = std::getenv("GLEBE_TEST_SEED");
  const std::uint64_t seed = text != nullptr ? std::strtoull(text, nullptr, 10) : 20'240'901;
  process_test::say("seed %llu\n", static_cast<unsigned long long>(seed));
  process_test::Random random(seed);
  constexpr std::size_t kLive = 3000;
  static void* blocks[kLive];
  static std::size_t sizes[kLive];
  for (int round = 0; round < 200'000; ++round) {
    const std::size_t i = random.below(kLive);
    if (blocks[i] != nullptr) {
      expect(holds(blocks[i], sizes[i], pattern_of(blocks[i], sizes[i])), "blocks do not overlap", sizes[i]);
      free(blocks[i]);
    }
    sizes[i] = random.below(std::size_t{16} << random.below(15));
    blocks[i] = opaque(malloc(sizes[i]));
    if (expect(blocks[i] != nullptr, "malloc succeeds", sizes[i])) {
      fill(blocks[i], sizes[i], pattern_of(blocks[i], sizes[i]));
    }
  }
  for (std::size_t i = 0; i < kLive; ++i) {
    if (blocks[i] == nullptr) continue;
    expect(holds(blocks[i], sizes[i], pattern_of(blocks[i], sizes[i])), "blocks do not overlap", sizes[i]);
    free(blocks[i]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const char* part = argc > 1 ? argv[1] : "";
  if (std::strcmp(part, "usable") == 0) {
    usable_sizes();
    usable_huge();
  } else if (std::strcmp(part, "zero") == 0) {
    zeroed_after_reuse();
  } else if (std::strcmp(part, "realloc") == 0) {
    realloc_pairs();
    realloc_chain();
  } else if (std::strcmp(part, "aligned") == 0) {
    aligned_blocks();
    aligned_then_realloc();
  } else if (std::strcmp(part, "overlap") == 0) {
    no_overlap();
  } else {
    process_test::say("usage: conformance_sizes usable|zero|realloc|aligned|overlap\n");
    return 2;
  }
  return process_test::finish(part);
}
