// The rarer and longer parts of marking and checking blocks, and the messages when a check fails.
#include "bench/block.h"

#include "bench/protocol.h"

namespace torture {
namespace {

constexpr std::size_t kSparseStep = 8;  // allocate_sparse() uses one page in this many
constexpr unsigned kResizeProbes = 4;   // pages compared after a large block was resized

constexpr std::byte kZeros[kPageBytes] = {};

// `count` is at most kPageBytes.
void check_zero(const Block& block, std::size_t offset, std::size_t count) noexcept {
  if (std::memcmp(block.address + offset, kZeros, count) == 0) return;
  std::size_t at = offset;
  while (block.address[at] == std::byte{0}) ++at;
  fail("calloc of %u bytes at %p: byte %zu is 0x%02x, not 0", block.size, static_cast<void*>(block.address),
       at, static_cast<unsigned>(block.address[at]));
}

}  // namespace

void fail_mark(const Block& block, std::size_t offset) noexcept {
  std::uint64_t found;
  std::memcpy(&found, block.address + offset, sizeof found);
  fail(
      "contents of the block of %u bytes at %p changed: offset %zu holds 0x%016llx, written was 0x%016llx "
      "(tag 0x%x)",
      block.size, static_cast<void*>(block.address), offset, static_cast<unsigned long long>(found),
      static_cast<unsigned long long>(pattern_of(block.tag)), block.tag);
}

void fail_address(const void* address, std::size_t size, std::size_t alignment) noexcept {
  if (address == nullptr) fail("an allocation of %zu bytes (alignment %zu) returned null", size, alignment);
  fail("the block of %zu bytes at %p is not aligned to %zu", size, address, alignment);
}

void fill_tiny(const Block& block) noexcept {
  const std::uint64_t pattern = pattern_of(block.tag);
  std::memcpy(block.address, &pattern, block.size < 8 ? 1 : 8);
  if (block.size > 1 && block.size != 8) block.address[block.size - 1] = static_cast<std::byte>(pattern);
}

void verify_tiny(const Block& block) noexcept {
  const std::uint64_t pattern = pattern_of(block.tag);
  const bool first = std::memcmp(block.address, &pattern, block.size < 8 ? 1 : 8) == 0;
  const bool last =
      block.size <= 1 || block.size == 8 || block.address[block.size - 1] == static_cast<std::byte>(pattern);
  if (!first || !last) {
    fail("contents of the block of %u bytes at %p changed (tag 0x%x)", block.size,
         static_cast<void*>(block.address), block.tag);
  }
}

void fill_pages(const Block& block, std::size_t first_page) noexcept {
  const std::size_t pages = marked_pages(block.size);
  for (std::size_t page = first_page; page < pages; ++page) put_mark(block, page_mark(block.tag, page));
}

void verify_pages(const Block& block) noexcept {
  const std::size_t pages = marked_pages(block.size);
  for (std::size_t page = 0; page < pages; ++page) check_mark(block, page_mark(block.tag, page));
}

Block Worker::allocate_aligned(std::size_t alignment, std::size_t size) noexcept {
  void* address = nullptr;
  // aligned_alloc is asked only for what C11 allows: a multiple of the alignment.
  if (size % alignment == 0) {
    address = std::aligned_alloc(alignment, size);
  } else if (::posix_memalign(&address, alignment < sizeof(void*) ? sizeof(void*) : alignment, size) != 0) {
    address = nullptr;
  }
  return adopt(static_cast<std::byte*>(address), size, alignment);
}

Block Worker::allocate_zeroed(std::size_t size) noexcept {
  Block block = enrol(static_cast<std::byte*>(std::calloc(1, size)), size, natural_alignment(size));
  check_zero(block, 0, size < kPageBytes ? size : kPageBytes);
  for (std::size_t page = 1; page < marked_pages(size); ++page)
    check_zero(block, page_mark(block.tag, page), 8);
  if (size > kPageBytes) check_zero(block, size - 8, 8);
  fill(block);
  return block;
}

Block Worker::allocate_sparse(std::size_t size) noexcept {
  Block block = enrol(static_cast<std::byte*>(std::calloc(size / 16, 16)), size / 16 * 16, 16);
  for (std::size_t page = block.tag % kSparseStep; page < marked_pages(block.size); page += kSparseStep) {
    check_zero(block, page_mark(block.tag, page), 8);
    put_mark(block, page_mark(block.tag, page));
  }
  return block;
}

void Worker::release_sparse(Block& block) noexcept {
  for (std::size_t page = block.tag % kSparseStep; page < marked_pages(block.size); page += kSparseStep) {
    check_mark(block, page_mark(block.tag, page));
  }
  live_bytes_ -= block.size;
  std::free(block.address);
  block.address = nullptr;
}

void Worker::resize(Block& block, std::size_t size) noexcept {
  if (block.size > kPageBytes && size > kPageBytes) return resize_large(block, size);
  verify(block);
  const std::size_t kept = block.size < size ? block.size : size;
  const std::int64_t growth = static_cast<std::int64_t>(size) - static_cast<std::int64_t>(block.size);
  Block moved{static_cast<std::byte*>(std::realloc(block.address, size)), block.size, block.tag};
  if (moved.empty() ||
      (reinterpret_cast<std::uintptr_t>(moved.address) & (natural_alignment(size) - 1)) != 0) {
    fail_address(moved.address, size, natural_alignment(size));
  }
  escape(moved.address);
  if (kept >= 16) check_mark(moved, 0);
  if (kept == moved.size) verify(moved);
  moved.size = static_cast<std::uint32_t>(size);
  fill(moved);
  account(growth);
  block = moved;
}

// Reading every page at each step would hide the difference between moving page tables and copying, which is
// what large reallocs are about: some pages are compared here, all of them when the block is freed.
void Worker::resize_large(Block& block, std::size_t size) noexcept {
  const std::size_t old_pages = marked_pages(block.size);
  const std::size_t kept_pages = old_pages < marked_pages(size) ? old_pages : marked_pages(size);
  const std::int64_t growth = static_cast<std::int64_t>(size) - static_cast<std::int64_t>(block.size);
  check_mark(block, 0);
  check_mark(block, block.size - 8);
  Block moved{static_cast<std::byte*>(std::realloc(block.address, size)), block.size, block.tag};
  if (moved.empty() || (reinterpret_cast<std::uintptr_t>(moved.address) & 15) != 0) {
    fail_address(moved.address, size, 16);
  }
  escape(moved.address);
  check_mark(moved, 0);
  if (growth >= 0) check_mark(moved, moved.size - 8);
  for (unsigned probe = 0; probe < kResizeProbes && kept_pages != 0; ++probe) {
    check_mark(moved, page_mark(moved.tag, random.below(kept_pages)));
  }
  moved.size = static_cast<std::uint32_t>(size);
  fill_pages(moved, kept_pages);
  put_mark(moved, size - 8);
  account(growth);
  block = moved;
}

}  // namespace torture
