// Files on Linux. The handle is a descriptor that no child inherits by exec. System calls are made by
// syscall(2), because the wrappers of libc are cancellation points. errno is preserved.
#include "platform/file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "platform/linux/system.h"
#include "platform/process.h"

namespace glebe::os {
namespace {

constexpr int kMaxInterruptions = 1000;  // per call, without progress between them
constexpr int kMaxNames = 16;
constexpr std::size_t kPathMax = 4096;

std::intptr_t open_path(const char* path, int flags, unsigned mode) noexcept {
  for (int tries = 0; tries < kMaxInterruptions; ++tries) {
    const long file = ::syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, mode);
    if (file >= 0 || errno != EINTR) return file;
  }
  return -1;
}

// For file systems without O_TMPFILE: a name that nobody else has, removed at once.
std::intptr_t open_unlinked(const char* directory) noexcept {
  constexpr char kName[] = "/.glebe-";
  constexpr std::size_t kDigits = 16;
  char path[kPathMax];
  const std::size_t length = std::strlen(directory);
  if (length + sizeof kName + kDigits > sizeof path) return -1;
  std::memcpy(path, directory, length);
  std::memcpy(path + length, kName, sizeof kName);
  char* digits = path + length + sizeof kName - 1;
  digits[kDigits] = '\0';
  for (int tries = 0; tries < kMaxNames; ++tries) {
    std::uint64_t number = entropy();
    for (std::size_t i = 0; i < kDigits; ++i, number >>= 4) digits[i] = "0123456789abcdef"[number & 15];
    const std::intptr_t file = open_path(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (file >= 0) ::syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (file >= 0 || errno != EEXIST) return file;
  }
  return -1;
}

// Calls `step(offset, done, left)`, which moves bytes and returns how many, until all are moved.
template <class Step>
bool move_all(std::uint64_t offset, std::size_t size_bytes, Step step) noexcept {
  if (offset > INT64_MAX || size_bytes > INT64_MAX - offset) return false;
  std::size_t done = 0;
  for (int interruptions = 0; done < size_bytes && interruptions < kMaxInterruptions;) {
    const long count = step(offset + done, done, size_bytes - done);
    if (count == 0 || (count < 0 && errno != EINTR)) return false;
    interruptions = count < 0 ? interruptions + 1 : 0;
    if (count > 0) done += static_cast<std::size_t>(count);
  }
  return done == size_bytes;
}

}  // namespace

File::~File() { close(); }

File::File(File&& other) noexcept : handle_(other.handle_) { other.handle_ = kClosed; }

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    close();
    handle_ = other.handle_;
    other.handle_ = kClosed;
  }
  return *this;
}

File File::open_read(const char* path) noexcept {
  const ErrnoScope errno_scope;
  File file;
  file.handle_ = open_path(path, O_RDONLY, 0);
  return file;
}

File File::create(const char* path) noexcept {
  const ErrnoScope errno_scope;
  File file;
  file.handle_ = open_path(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
  return file;
}

File File::temporary(const char* directory) noexcept {
  const ErrnoScope errno_scope;
  File file;
  file.handle_ = open_path(directory, O_RDWR | O_TMPFILE, 0600);
  if (!file.is_open()) file.handle_ = open_unlinked(directory);
  return file;
}

bool File::read_at(std::uint64_t offset, void* to, std::size_t size_bytes) const noexcept {
  const ErrnoScope errno_scope;
  return move_all(offset, size_bytes, [&](std::uint64_t at, std::size_t done, std::size_t left) noexcept {
    return ::syscall(SYS_pread64, handle_, static_cast<char*>(to) + done, left, at);
  });
}

bool File::write_at(std::uint64_t offset, const void* from, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  return move_all(offset, size_bytes, [&](std::uint64_t at, std::size_t done, std::size_t left) noexcept {
    return ::syscall(SYS_pwrite64, handle_, static_cast<const char*>(from) + done, left, at);
  });
}

bool File::punch_hole(std::uint64_t offset, std::uint64_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  constexpr int kMode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  for (int tries = 0; tries < kMaxInterruptions; ++tries) {
    if (::syscall(SYS_fallocate, handle_, kMode, offset, size_bytes) == 0) return true;
    if (errno != EINTR) return false;
  }
  return false;
}

bool File::truncate(std::uint64_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  for (int tries = 0; tries < kMaxInterruptions; ++tries) {
    if (::syscall(SYS_ftruncate, handle_, size_bytes) == 0) return true;
    if (errno != EINTR) return false;
  }
  return false;
}

std::uint64_t File::size_bytes() const noexcept {
  const ErrnoScope errno_scope;
  struct stat status {};
  return ::fstat(static_cast<int>(handle_), &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
}

std::uint64_t File::allocated_bytes() const noexcept {
  const ErrnoScope errno_scope;
  constexpr std::uint64_t kBlockBytes = 512;  // of st_blocks, whatever the file system uses
  struct stat status {};
  return ::fstat(static_cast<int>(handle_), &status) == 0
             ? static_cast<std::uint64_t>(status.st_blocks) * kBlockBytes
             : 0;
}

void File::close() noexcept {
  if (!is_open()) return;
  const ErrnoScope errno_scope;
  // Not repeated after EINTR: Linux has closed the descriptor, and the number may belong to somebody else by
  // now.
  ::syscall(SYS_close, handle_);
  handle_ = kClosed;
}

}  // namespace glebe::os
