// What the tests of the heap share: malloc and free as the override makes them, and counts of the whole heap
// to compare with. The heap lives as long as the process, so a test compares with counts that it took at its
// start.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstring>
#include <thread>

#include "src/heap/allocate.h"
#include "src/heap/large.h"
#include "src/heap/medium.h"
#include "src/heap/misuse.h"
#include "src/heap/registry.h"
#include "src/heap/small_stats.h"
#include "src/vm/ledger.h"

// The thread sanitizer's runtime needs memory and addresses of its own.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#elif defined(__has_feature)
inline constexpr bool kThreadSanitizer = __has_feature(thread_sanitizer);
#else
inline constexpr bool kThreadSanitizer = false;
#endif
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kAddressSanitizer = true;
#elif defined(__has_feature)
inline constexpr bool kAddressSanitizer = __has_feature(address_sanitizer);
#else
inline constexpr bool kAddressSanitizer = false;
#endif

[[nodiscard]] inline void* allocate(std::size_t size_bytes) {
  void* block = glebe::heap::allocate_fast(size_bytes);
  return block != nullptr ? block : glebe::heap::allocate_slow(size_bytes);
}

inline void release(void* block) {
  if (block != nullptr && !glebe::heap::free_fast(block)) glebe::heap::free_slow(block);
}

[[nodiscard]] inline std::size_t committed_for_blocks() {
  return glebe::vm::ledger.committed_bytes.load() - glebe::vm::ledger.metadata_bytes.load();
}

// What is live in the whole heap, after everything that is free was given back.
struct HeapCounts {
  std::size_t small_blocks, small_bytes, medium_blocks, medium_bytes, large_blocks, large_bytes,
      committed_bytes;

  friend bool operator==(const HeapCounts&, const HeapCounts&) = default;
};

[[nodiscard]] inline HeapCounts trimmed_counts() {
  static_cast<void>(glebe::heap::trim());
  glebe::heap::SmallStats small;
  glebe::heap::small_stats(small);
  const glebe::heap::MediumStats medium = glebe::heap::medium_stats();
  const glebe::heap::LargeStats large = glebe::heap::large_stats();
  return {small.live_blocks, small.live_bytes, medium.live_blocks,    medium.live_bytes,
          large.live_blocks, large.live_bytes, committed_for_blocks()};
}

inline void sleep_ms(unsigned ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

// Lets the thread's fast path serve again: gives free memory back, then passes the slow path until it has
// looked at the clock. True when the thread takes blocks from its ordinary magazines.
inline bool open_fast_path() {
  for (unsigned tries = 0; tries < 100; ++tries) {
    static_cast<void>(glebe::heap::trim());
    void* block = glebe::heap::allocate_slow(16);
    release(block);
    const glebe::heap::Heap* own = glebe::heap::own_heap();
    if (own != nullptr && glebe::heap::ThreadBank::get() == &own->slots) return true;
    sleep_ms(5);
  }
  return false;
}

// For a scope: misuse is counted and reported as asked, and does not end the process.
class MisuseScope {
 public:
  explicit MisuseScope(glebe::heap::MisuseAction action = glebe::heap::MisuseAction::ignore)
      : before_(glebe::heap::misuse_action) {
    glebe::heap::misuse_action = action;
    for (unsigned i = 0; i < glebe::heap::kMisuseKinds; ++i) counts_[i] = count(i);
  }
  ~MisuseScope() { glebe::heap::misuse_action = before_; }
  MisuseScope(const MisuseScope&) = delete;
  MisuseScope& operator=(const MisuseScope&) = delete;

  // Reports of this kind, and of all kinds, since the scope began.
  [[nodiscard]] std::size_t reports(glebe::heap::Misuse kind) const {
    const auto at = static_cast<unsigned>(kind);
    return count(at) - counts_[at];
  }
  [[nodiscard]] std::size_t all_reports() const {
    std::size_t sum = 0;
    for (unsigned i = 0; i < glebe::heap::kMisuseKinds; ++i) sum += count(i) - counts_[i];
    return sum;
  }

 private:
  static std::size_t count(unsigned kind) {
    return glebe::heap::misuse_count(static_cast<glebe::heap::Misuse>(kind));
  }
  glebe::heap::MisuseAction before_;
  std::size_t counts_[glebe::heap::kMisuseKinds];
};

// Content that names the block: a byte that is in the wrong place or of another block is found.
inline unsigned char pattern_byte(std::size_t seed, std::size_t at) {
  return static_cast<unsigned char>((at * 131 + (at >> 8) * 17 + seed * 29) >> 1);
}
inline void write_pattern(void* block, std::size_t size_bytes, std::size_t seed) {
  auto* bytes = static_cast<unsigned char*>(block);
  for (std::size_t i = 0; i < size_bytes; ++i) bytes[i] = pattern_byte(seed, i);
}
[[nodiscard]] inline bool has_pattern(const void* block, std::size_t size_bytes, std::size_t seed) {
  const auto* bytes = static_cast<const unsigned char*>(block);
  for (std::size_t i = 0; i < size_bytes; ++i) {
    if (bytes[i] != pattern_byte(seed, i)) return false;
  }
  return true;
}
[[nodiscard]] inline bool is_all(const void* block, std::size_t size_bytes, unsigned char value) {
  const auto* bytes = static_cast<const unsigned char*>(block);
  return size_bytes == 0 || (bytes[0] == value && std::memcmp(bytes, bytes + 1, size_bytes - 1) == 0);
}
