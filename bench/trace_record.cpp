// A library for LD_PRELOAD that writes every allocator call of a program to the file named by TORTURE_TRACE,
// in the recorded form of trace_format.h. Works on glibc, whose allocator it calls by its second names, so
// that nothing has to be looked up while the program starts. One mutex guards the writer; it is held across
// realloc, because between the call and its record another thread could get and record the old address. Only
// the first process that opens the file records: it must not exist, so children of the program run without.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "bench/trace_format.h"

#define TORTURE_EXPORT extern "C" __attribute__((visibility("default")))

extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* address, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
void __libc_free(void* address);
}

namespace torture {
namespace {

constexpr std::size_t kBufferBytes = 1 << 16;
constexpr std::size_t kEventBytesMax = 48;  // four varints of 10 bytes and the first byte, rounded up

class Writer {
 public:
  // Called once before main, when only one thread runs. Calls made earlier were not kept.
  void open() noexcept {
    const char* path = getenv("TORTURE_TRACE");
    if (path == nullptr) return;
    file_ = ::open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    used_ = 0;
    last_units_ = 0;
    for (std::size_t index = 0; index < sizeof kRecordedMagic - 1; ++index) {
      buffer_[used_++] = static_cast<std::uint8_t>(kRecordedMagic[index]);
    }
  }

  void close() noexcept {
    lock();
    flush();
    file_ = -1;
    unlock();
  }

  void lock() noexcept { pthread_mutex_lock(&mutex_); }
  void unlock() noexcept { pthread_mutex_unlock(&mutex_); }

  // The child of a fork goes on without recording.
  void forget() noexcept {
    file_ = -1;
    unlock();
  }

  // The remaining functions are called under the lock.
  void begin(TraceKind kind) noexcept {
    if (file_ >= 0 && used_ + kEventBytesMax > kBufferBytes) flush();
    if (file_ < 0) used_ = 0;
    if (own_number_ == 0) own_number_ = ++threads_;
    const bool changed = own_number_ != current_thread_;
    current_thread_ = own_number_;
    buffer_[used_++] =
        static_cast<std::uint8_t>(static_cast<std::uint8_t>(kind) | (changed ? kThreadChanged : 0));
    if (changed) put(own_number_ - 1);
  }

  void put(std::uint64_t value) noexcept {
    for (; value >= 0x80; value >>= 7) buffer_[used_++] = static_cast<std::uint8_t>(value | 0x80);
    buffer_[used_++] = static_cast<std::uint8_t>(value);
  }

  void put_address(const void* address) noexcept {
    const auto units = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(address) / 16);
    put(zigzag(units - last_units_));
    last_units_ = units;
  }

 private:
  void flush() noexcept {
    const int saved_errno = errno;
    for (std::size_t sent = 0; file_ >= 0 && sent < used_;) {
      const ssize_t count = ::write(file_, buffer_ + sent, used_ - sent);
      if (count <= 0) {
        file_ = -1;  // A full disk ends the trace; the program goes on.
      } else {
        sent += static_cast<std::size_t>(count);
      }
    }
    used_ = 0;
    errno = saved_errno;
  }

  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  int file_ = -1;
  std::size_t used_ = 0;
  std::int64_t last_units_ = 0;
  std::uint32_t threads_ = 0;
  std::uint32_t current_thread_ = 0;
  static inline thread_local constinit std::uint32_t own_number_ = 0;
  std::uint8_t buffer_[kBufferBytes] = {};
};

constinit Writer writer;

void* record_allocation(TraceKind kind, void* address, std::size_t size, std::size_t alignment) noexcept {
  if (address == nullptr) return address;
  writer.lock();
  writer.begin(kind);
  if (kind == TraceKind::kAligned) writer.put(static_cast<std::uint64_t>(__builtin_ctzll(alignment)));
  writer.put(size);
  writer.put_address(address);
  writer.unlock();
  return address;
}

void* allocate_aligned(std::size_t alignment, std::size_t size) noexcept {
  // glibc rounds an odd alignment up to a power of two; the record needs one as well.
  std::size_t power = 16;
  while (power < alignment && power < (std::size_t{1} << 62)) power *= 2;
  return record_allocation(TraceKind::kAligned, __libc_memalign(alignment, size), size, power);
}

[[gnu::constructor]] void start_recording() {
  writer.open();
  pthread_atfork([] { writer.lock(); }, [] { writer.unlock(); }, [] { writer.forget(); });
}

[[gnu::destructor]] void stop_recording() { writer.close(); }

}  // namespace
}  // namespace torture

using torture::TraceKind;

TORTURE_EXPORT void* malloc(std::size_t size) noexcept {
  return torture::record_allocation(TraceKind::kAllocate, __libc_malloc(size), size, 16);
}

TORTURE_EXPORT void* calloc(std::size_t count, std::size_t size) noexcept {
  return torture::record_allocation(TraceKind::kZeroed, __libc_calloc(count, size), count * size, 16);
}

TORTURE_EXPORT void free(void* address) noexcept {
  if (address == nullptr) return;
  torture::writer.lock();
  torture::writer.begin(TraceKind::kFree);
  torture::writer.put_address(address);
  torture::writer.unlock();
  __libc_free(address);
}

TORTURE_EXPORT void* realloc(void* address, std::size_t size) noexcept {
  torture::writer.lock();
  const auto old_address = reinterpret_cast<std::uintptr_t>(address);
  void* const moved = __libc_realloc(address, size);
  // A failed call changes nothing; realloc(p, 0) returns null on glibc and has freed the block.
  if (moved != nullptr || size == 0) {
    torture::writer.begin(TraceKind::kResize);
    torture::writer.put(size);
    torture::writer.put_address(reinterpret_cast<const void*>(old_address));
    torture::writer.put_address(moved);
  }
  torture::writer.unlock();
  return moved;
}

TORTURE_EXPORT void* reallocarray(void* address, std::size_t count, std::size_t size) noexcept {
  std::size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    errno = ENOMEM;
    return nullptr;
  }
  return realloc(address, bytes);
}

TORTURE_EXPORT void* memalign(std::size_t alignment, std::size_t size) noexcept {
  return torture::allocate_aligned(alignment, size);
}

TORTURE_EXPORT void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  return torture::allocate_aligned(alignment, size);
}

TORTURE_EXPORT int posix_memalign(void** result, std::size_t alignment, std::size_t size) noexcept {
  if (alignment < sizeof(void*) || (alignment & (alignment - 1)) != 0) return EINVAL;
  const int saved_errno = errno;
  void* const address = torture::allocate_aligned(alignment, size);
  errno = saved_errno;
  if (address == nullptr) return ENOMEM;
  *result = address;
  return 0;
}

TORTURE_EXPORT void* valloc(std::size_t size) noexcept { return torture::allocate_aligned(4096, size); }

TORTURE_EXPORT void* pvalloc(std::size_t size) noexcept {
  return torture::allocate_aligned(4096, (size + 4095) & ~std::size_t{4095});
}
