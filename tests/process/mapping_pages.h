// Pages of the program's own mappings whose contents follow from a seed, for the tests of mapping calls under
// the paging tier. Nothing here allocates. Reading goes by a system call where a page may have no access.
#pragma once
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/process/paging_blocks.h"
#include "tests/process/paging_stats.h"

namespace mapping_test {

using process_test::expect;
using process_test::say;

inline constexpr std::size_t kPage = 4096;
inline constexpr int kReadWrite = PROT_READ | PROT_WRITE;
inline constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;

inline unsigned char* map(std::size_t bytes, int protection = kReadWrite, int flags = kPrivate) {
  void* base = mmap(nullptr, bytes, protection, flags, -1, 0);
  if (!expect(base != MAP_FAILED, "mmap succeeds", bytes)) std::abort();
  return static_cast<unsigned char*>(base);
}

// Seed 0 stands for zeros.
inline void write_page(unsigned char* page, std::uint64_t seed) {
  if (seed == 0) {
    std::memset(page, 0, kPage);
  } else {
    paging_test::write_content(page, seed, 0, kPage);
  }
}

inline bool is_page(const unsigned char* page, std::uint64_t seed) {
  static const unsigned char zeros[kPage] = {};
  if (seed == 0) return std::memcmp(page, zeros, kPage) == 0;
  return paging_test::first_wrong(page, seed, 0, kPage) == kPage;
}

inline void write_pages(unsigned char* base, std::size_t count, std::uint64_t seed) {
  for (std::size_t i = 0; i < count; ++i) write_page(base + i * kPage, seed + i);
}

inline bool expect_page(const unsigned char* page, std::uint64_t seed, const char* when) {
  paging_test::tell_progress();
  if (is_page(page, seed)) return true;
  std::uint64_t found = 0;
  std::memcpy(&found, page, 8);
  if (process_test::failure_count.fetch_add(1) < process_test::kShownFailures) {
    say("WRONG BYTES %s: process %d page %p seed %llx, found %016llx\n", when, static_cast<int>(getpid()),
        static_cast<const void*>(page), static_cast<unsigned long long>(seed),
        static_cast<unsigned long long>(found));
  }
  return false;
}

inline void expect_pages(const unsigned char* base, std::size_t count, std::uint64_t seed, const char* when) {
  for (std::size_t i = 0; i < count; ++i) expect_page(base + i * kPage, seed == 0 ? 0 : seed + i, when);
}

// What a look at the page without a signal gives: true when it can be read; then `to` has its contents.
inline bool look(const unsigned char* page, unsigned char* to) {
  const iovec here{to, kPage}, there{const_cast<unsigned char*>(page), kPage};
  return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == static_cast<long>(kPage);
}
inline bool can_read(const unsigned char* page) {
  static unsigned char to[kPage];
  return look(page, to);
}

inline bool is_paged() {
  const std::uint64_t mode = paging_test::number("paging_mode");
  return mode == 1;
}

// Takes memory until at least `bytes` are out, compressed or only staged. Without the pager nothing happens.
void push_out(std::size_t bytes, bool is_staged_enough = false);

// The parts of the program.
void calls_like_the_kernel();
void forks_with_mappings();
void random_calls(unsigned threads, double seconds, std::uint64_t seed);

}  // namespace mapping_test
