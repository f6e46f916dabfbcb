// Blocks whose every byte can be told from a seed, for the tests of the paging tier. The table of a thread's
// blocks lies in memory of its own (a bare mmap, past the library), never in the heap under test: what is
// known about a block must not depend on the pager. Word i of a block is random in one of six places and one
// constant of the block elsewhere, so that pages compress about four to one, and every page of every block
// differs. A Blocks object belongs to one thread; a forked child may use its copy.
#pragma once
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "tests/process/expect.h"

namespace paging_test {

using process_test::Random;

inline std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 33)) * 0xff51afd7ed558ccdu;
  value = (value ^ (value >> 29)) * 0xc4ceb9fe1a85ec53u;
  return value ^ (value >> 32);
}

inline std::uint64_t word_of(std::uint64_t seed, std::size_t index) {
  return index % 6 == 0 ? mix(seed + index) : (seed & 0xffff) * 0x10001;
}

// Writes or compares bytes [from, to) of a block of that seed. `from` is a multiple of 8.
inline void write_content(unsigned char* bytes, std::uint64_t seed, std::size_t from, std::size_t to) {
  std::size_t at = from;
  for (; at + 8 <= to; at += 8) {
    const std::uint64_t word = word_of(seed, at / 8);
    std::memcpy(bytes + at, &word, 8);
  }
  const std::uint64_t last = word_of(seed, at / 8);
  std::memcpy(bytes + at, &last, to - at);
}

// Returns the position of the first wrong byte, or `to`.
inline std::size_t first_wrong(const unsigned char* bytes, std::uint64_t seed, std::size_t from,
                               std::size_t to) {
  for (std::size_t at = from; at < to; at += 8) {
    const std::uint64_t word = word_of(seed, at / 8);
    std::uint64_t found = word;
    const std::size_t count = std::min<std::size_t>(8, to - at);
    std::memcpy(&found, bytes + at, count);
    if (found != word) return at;
  }
  return to;
}

// Where a process and its children tell the watching process that they go on; -1: nobody watches.
inline int progress_pipe = -1;

// Called with every comparison, so that only a process that waits for something is taken for one that hangs.
inline void tell_progress() {
  static std::atomic<std::int64_t> last_second{0};
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  if (progress_pipe < 0 || last_second.exchange(now.tv_sec, std::memory_order_relaxed) == now.tv_sec) return;
  if (write(progress_pipe, ".", 1) != 1) _exit(72);  // the watching process is gone
}

struct Block {
  unsigned char* bytes = nullptr;
  std::size_t size = 0;
  std::uint64_t seed = 0;
};

inline void fill(const Block& block) { write_content(block.bytes, block.seed, 0, block.size); }

// Compares [from, to) and says what is wrong: the word that was found tells zeros from stale content.
inline bool check(const Block& block, std::size_t from, std::size_t to, const char* when) {
  tell_progress();
  const std::size_t wrong = first_wrong(block.bytes, block.seed, from, to);
  if (wrong == to) return true;
  std::uint64_t found = 0;
  std::memcpy(&found, block.bytes + wrong, std::min<std::size_t>(8, block.size - wrong));
  if (process_test::failure_count.fetch_add(1) < process_test::kShownFailures) {
    process_test::say(
        "WRONG BYTES %s: process %d block %p size %zu at %zu: found %016llx, expected %016llx\n", when,
        static_cast<int>(getpid()), static_cast<void*>(block.bytes), block.size, wrong,
        static_cast<unsigned long long>(found),
        static_cast<unsigned long long>(word_of(block.seed, wrong / 8)));
  }
  return false;
}

inline bool check_all(const Block& block, const char* when) { return check(block, 0, block.size, when); }

// A few pages of a large block, all of a small one. Returns the bytes that were compared.
inline std::size_t check_some(const Block& block, Random& random, const char* when) {
  constexpr std::size_t kWholeBytes = 16 * 1024, kPieceBytes = 4096;
  if (block.size <= kWholeBytes) {
    check_all(block, when);
    return block.size;
  }
  for (int piece = 0; piece < 3; ++piece) {
    const std::size_t from = random.below(block.size - kPieceBytes) & ~std::size_t{7};
    check(block, from, from + kPieceBytes, when);
  }
  return 3 * kPieceBytes;
}

// Sizes of all heaps: by bytes about two fifths small blocks, two fifths medium and one fifth of 1 to 8 MiB;
// in sets of 1 GiB and more also blocks above 32 MiB.
inline std::size_t random_size(Random& random, std::size_t set_bytes) {
  const std::size_t pick = random.below(100'000);
  const auto in_range = [&](unsigned low, unsigned high) {
    const std::size_t base = std::size_t{1} << (low + random.below(high - low));
    return base + random.below(base);
  };
  const bool fits = set_bytes >= (std::size_t{64} << 20);
  if (pick < 98'000) return in_range(4, 15);
  if (pick < 99'900 || !fits) return in_range(15, 20);
  if (pick >= 99'998 && set_bytes >= (std::size_t{1} << 30)) return in_range(25, 26);
  return in_range(20, 23);
}

// The blocks of one thread.
class Blocks {
 public:
  static constexpr std::size_t kMost = std::size_t{1} << 20;

  explicit Blocks(std::size_t bytes_wanted) : bytes_wanted_(bytes_wanted) {
    const long memory =
        syscall(SYS_mmap, 0L, kMost * sizeof(Block), static_cast<long>(PROT_READ | PROT_WRITE),
                static_cast<long>(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE), -1L, 0L);
    if (memory == -1) std::abort();
    table_ = reinterpret_cast<Block*>(memory);
  }
  Blocks(const Blocks&) = delete;
  Blocks& operator=(const Blocks&) = delete;
  ~Blocks() { munmap(table_, kMost * sizeof(Block)); }

  [[nodiscard]] bool is_full() const { return bytes_ >= bytes_wanted_ || count_ >= kMost; }
  [[nodiscard]] std::size_t count() const { return count_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] std::size_t bytes_wanted() const { return bytes_wanted_; }
  Block& operator[](std::size_t index) { return table_[index]; }

  // The low numbers are chosen far more often than the high ones, so that there are hot and cold blocks.
  Block& pick(Random& random) {
    const double at = static_cast<double>(random.below(1u << 20)) / (1u << 20);
    return table_[static_cast<std::size_t>(at * at * at * static_cast<double>(count_))];
  }
  Block& pick_any(Random& random) { return table_[random.below(count_)]; }

  void add(const Block& block) {
    if (count_ >= kMost) std::abort();  // is_full() was not asked
    table_[count_++] = block;
    bytes_ += block.size;
  }

  // Takes a block out of the table; its place is filled by the last one.
  Block take(std::size_t index) {
    const Block taken = table_[index];
    bytes_ -= taken.size;
    table_[index] = table_[--count_];
    return taken;
  }
  void resized(std::size_t before, std::size_t after) { bytes_ = bytes_ - before + after; }

 private:
  Block* table_;
  std::size_t count_ = 0, bytes_ = 0, bytes_wanted_;
};

}  // namespace paging_test
