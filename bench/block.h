// Blocks with an identity. Every block that a workload takes is marked with words derived from its tag and
// the marks are compared before it is freed or resized, so a block that overlaps another, moved wrongly, was
// handed out twice or was written by the allocator is found. The work per block is the same for every
// allocator:
//   below 16 bytes   the first word or byte and the last byte
//   to 4 KiB         the first and last word; above 64 bytes one more at a place that the tag selects
//   above            the first and last word; in each whole page one at a place that tag and page select
// A Worker belongs to one thread; blocks may pass from one worker to another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "bench/random.h"

namespace torture {

// Hides what happens to `address` from the compiler: an allocation whose result escapes cannot be elided.
inline void escape(void* address) noexcept { asm volatile("" : : "r"(address) : "memory"); }

struct Block {
  std::byte* address;
  std::uint32_t size;
  std::uint32_t tag;
  [[nodiscard]] bool empty() const noexcept { return address == nullptr; }
};

inline constexpr std::size_t kPageBytes = 4096;
inline constexpr std::size_t kProbeBytes = 64;  // blocks above get a mark inside

[[nodiscard]] constexpr std::uint64_t pattern_of(std::uint32_t tag) noexcept {
  return (std::uint64_t{tag} + 1) * 0x9E3779B97F4A7C15u;
}

// Number of whole pages in front of the last word: those that carry a mark.
[[nodiscard]] constexpr std::size_t marked_pages(std::size_t size) noexcept {
  return size > kPageBytes ? (size - 8) / kPageBytes : 0;
}

// Offset of the mark in page `page`, in [8, 4088], so that it touches neither the first word nor the next
// page.
[[nodiscard]] constexpr std::size_t page_mark(std::uint32_t tag, std::size_t page) noexcept {
  const std::uint64_t mixed = (pattern_of(tag) + page * 0xD1B54A32D192ED03u) >> 32;
  return page * kPageBytes + 8 + 8 * (mixed % 511);
}

// Offset of the inner mark of a block of kProbeBytes to kPageBytes: between the first and the last word.
[[nodiscard]] constexpr std::size_t inner_mark(std::uint32_t tag, std::size_t size) noexcept {
  return 8 + 8 * (((pattern_of(tag) >> 32) * ((size - 16) / 8)) >> 32);
}

class Worker {
 public:
  // Workers of one process differ in `index` (below 64), which gives each its own range of tags, or in
  // `seed`, which sets where in the range the tags begin.
  Worker(std::uint64_t seed, unsigned index) noexcept
      : random(scramble(seed + index)),
        next_tag_((std::uint32_t{index} << 26) | static_cast<std::uint32_t>(scramble(seed) >> 38)) {}

  Random random;

  Block allocate(std::size_t size) noexcept {
    return adopt(static_cast<std::byte*>(std::malloc(size)), size, natural_alignment(size));
  }
  // aligned_alloc or posix_memalign; `alignment` is a power of two.
  Block allocate_aligned(std::size_t alignment, std::size_t size) noexcept;
  // calloc. Checks for zero: all words up to a page; beyond, the words that fill() is about to mark.
  Block allocate_zeroed(std::size_t size) noexcept;
  // calloc of a table that the program will use in places: a sample of 1/8 of the pages is checked and
  // written.
  Block allocate_sparse(std::size_t size) noexcept;
  // realloc; the contents that must survive are compared on the way. The identity stays.
  void resize(Block& block, std::size_t size) noexcept;

  void release(Block& block) noexcept {
    verify(block);
    live_bytes_ -= block.size;
    std::free(block.address);
    block.address = nullptr;
  }
  // Counterpart of allocate_sparse().
  void release_sparse(Block& block) noexcept;

  // Requested bytes that this worker took minus those that it gave back; negative when it frees for others.
  [[nodiscard]] std::int64_t live_bytes() const noexcept { return live_bytes_; }
  [[nodiscard]] std::int64_t peak_live_bytes() const noexcept { return peak_live_bytes_; }

  // What malloc owes a block of this size: an object that fits must be aligned, not more.
  [[nodiscard]] static constexpr std::size_t natural_alignment(std::size_t size) noexcept {
    return size >= 16 ? 16 : size >= 8 ? 8 : size >= 4 ? 4 : size >= 2 ? 2 : 1;
  }

  static void verify(const Block& block) noexcept;
  static void fill(const Block& block) noexcept;

 private:
  Block adopt(std::byte* address, std::size_t size, std::size_t alignment) noexcept {
    Block block = enrol(address, size, alignment);
    fill(block);
    return block;
  }
  Block enrol(std::byte* address, std::size_t size, std::size_t alignment) noexcept;
  void resize_large(Block& block, std::size_t size) noexcept;
  void account(std::int64_t bytes) noexcept {
    live_bytes_ += bytes;
    if (live_bytes_ > peak_live_bytes_) peak_live_bytes_ = live_bytes_;
  }

  std::uint32_t next_tag_;
  std::int64_t live_bytes_ = 0;
  std::int64_t peak_live_bytes_ = 0;
};

[[noreturn]] void fail_mark(const Block& block, std::size_t offset) noexcept __attribute__((cold));
[[noreturn]] void fail_address(const void* address, std::size_t size, std::size_t alignment) noexcept
    __attribute__((cold));
void fill_pages(const Block& block, std::size_t first_page) noexcept;
void verify_pages(const Block& block) noexcept;
void fill_tiny(const Block& block) noexcept;
void verify_tiny(const Block& block) noexcept;

inline void put_mark(const Block& block, std::size_t offset) noexcept {
  const std::uint64_t pattern = pattern_of(block.tag);
  std::memcpy(block.address + offset, &pattern, sizeof pattern);
}

inline void check_mark(const Block& block, std::size_t offset) noexcept {
  std::uint64_t found;
  std::memcpy(&found, block.address + offset, sizeof found);
  if (found != pattern_of(block.tag)) [[unlikely]] {
    fail_mark(block, offset);
  }
}

inline void Worker::fill(const Block& block) noexcept {
  if (block.size < 16) return fill_tiny(block);
  put_mark(block, 0);
  if (block.size > kPageBytes) {
    fill_pages(block, 0);
  } else if (block.size > kProbeBytes) {
    put_mark(block, inner_mark(block.tag, block.size));
  }
  put_mark(block, block.size - 8);
}

inline void Worker::verify(const Block& block) noexcept {
  if (block.size < 16) return verify_tiny(block);
  check_mark(block, 0);
  if (block.size > kPageBytes) {
    verify_pages(block);
  } else if (block.size > kProbeBytes) {
    check_mark(block, inner_mark(block.tag, block.size));
  }
  check_mark(block, block.size - 8);
}

inline Block Worker::enrol(std::byte* address, std::size_t size, std::size_t alignment) noexcept {
  if (address == nullptr || (reinterpret_cast<std::uintptr_t>(address) & (alignment - 1)) != 0) [[unlikely]] {
    fail_address(address, size, alignment);
  }
  escape(address);
  account(static_cast<std::int64_t>(size));
  return Block{address, static_cast<std::uint32_t>(size), next_tag_++};
}

}  // namespace torture
