// Expectations for the process-level test programs. Each program runs under the allocator that it tests, so
// nothing here allocates: text goes through a stack buffer and write(2). A failed expectation is counted and
// named, the program goes on, and finish() turns the count into the exit status. All functions may be called
// by any thread.
#pragma once
#include <unistd.h>
#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>

#include <atomic>

namespace process_test {

inline std::atomic<int> failure_count{0};

__attribute__((format(printf, 1, 2))) inline void say(const char* format, ...) {
  char text[512];
  va_list list;
  va_start(list, format);
  const int length = std::vsnprintf(text, sizeof text, format, list);
  va_end(list);
  const std::size_t count = length < 0 ? 0 : static_cast<std::size_t>(length);
  const std::size_t shown = count < sizeof text ? count : sizeof text - 1;
  if (write(STDERR_FILENO, text, shown) < 0) failure_count.fetch_add(1);
}

// After this many failures the program stays silent, because one defect usually shows at every size.
constexpr int kShownFailures = 40;

inline bool expect(bool ok, const char* what, std::size_t detail = 0, int line = __builtin_LINE()) {
  if (ok) return true;
  const int before = failure_count.fetch_add(1);
  if (before < kShownFailures) say("FAILED line %d: %s [%zu]\n", line, what, detail);
  return false;
}

inline int finish(const char* program) {
  const int failures = failure_count.load();
  if (failures != 0) say("%s: %d expectations failed\n", program, failures);
  return failures == 0 ? 0 : 1;
}

// Hides a pointer's origin from the optimiser, which may otherwise remove a malloc and its free together.
template <class T>
T* opaque(T* pointer) {
  asm volatile("" : "+r"(pointer) : : "memory");
  return pointer;
}

inline std::size_t opaque_size(std::size_t value) {
  asm volatile("" : "+r"(value));
  return value;
}

// A small generator so that a test's random choices come from one seed (xorshift64*).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 2654435769u + 0x9E3779B97F4A7C15u) {}
  std::uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545F4914F6CDD1Du;
  }
  std::size_t below(std::size_t bound) { return static_cast<std::size_t>((next() >> 11) % bound); }

 private:
  std::uint64_t state_;
};

// The pattern depends on the address and the size, so that a block which was handed out twice shows.
inline unsigned char pattern_of(const void* block, std::size_t size) {
  const auto mixed = (reinterpret_cast<std::uintptr_t>(block) >> 4) * 31 + size * 7;
  return static_cast<unsigned char>(mixed ^ (mixed >> 8) ^ (mixed >> 16)) | 1u;
}

// Large blocks are written at one byte per os page and at their end, which is enough to see an overlap.
constexpr std::size_t kFullPatternBytes = 16384;

inline void fill(void* block, std::size_t size, unsigned char value) {
  auto* bytes = static_cast<unsigned char*>(block);
  if (size <= kFullPatternBytes) {
    std::memset(bytes, value, size);
    return;
  }
  for (std::size_t at = 0; at < size; at += 4096) bytes[at] = value;
  bytes[size - 1] = value;
}

inline bool holds(const void* block, std::size_t size, unsigned char value) {
  const auto* bytes = static_cast<const unsigned char*>(block);
  if (size <= kFullPatternBytes) {
    for (std::size_t at = 0; at < size; ++at) {
      if (bytes[at] != value) return false;
    }
    return true;
  }
  for (std::size_t at = 0; at < size; at += 4096) {
    if (bytes[at] != value) return false;
  }
  return bytes[size - 1] == value;
}

inline void sleep_ms(long milliseconds) {
  timespec wait{milliseconds / 1000, (milliseconds % 1000) * 1'000'000};
  while (nanosleep(&wait, &wait) != 0 && errno == EINTR) {
  }
}

inline double now_seconds() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

}  // namespace process_test
