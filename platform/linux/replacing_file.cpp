// Files that replace others on Linux; see replacing_file.h.
#include "platform/replacing_file.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "platform/linux/system.h"
#include "platform/process.h"

namespace glebe::os {
namespace {

constexpr int kMaxInterruptions = 1000;
constexpr int kMaxNames = 16;
constexpr std::size_t kDigits = 16;

// So that the rename itself is on the disk. Failure leaves the old or the new file after a crash: both are
// whole.
void sync_directory_of(const char* path) noexcept {
  char directory[ReplacingFile::kPathMax] = ".";
  const char* const slash = std::strrchr(path, '/');
  if (slash != nullptr) {
    const auto length = static_cast<std::size_t>(slash - path);
    std::memcpy(directory, path, length);
    std::memcpy(directory + length, "/", 2);
  }
  const long descriptor = ::syscall(SYS_openat, AT_FDCWD, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (descriptor < 0) return;
  static_cast<void>(::syscall(SYS_fsync, descriptor));
  ::syscall(SYS_close, descriptor);
}

}  // namespace

int ReplacingFile::open(const char* path) noexcept {
  const ErrnoScope errno_scope;
  abandon();
  const std::size_t length = std::strlen(path);
  if (length == 0) return ENOENT;
  if (length + 1 + kDigits + 1 > kPathMax) return ENAMETOOLONG;
  std::memcpy(path_, path, length + 1);
  std::memcpy(temporary_, path, length);
  temporary_[length] = '.';
  temporary_[length + 1 + kDigits] = '\0';
  for (int tries = 0; tries < kMaxNames; ++tries) {
    std::uint64_t number = entropy();
    for (std::size_t i = 0; i < kDigits; ++i, number >>= 4) {
      temporary_[length + 1 + i] = "0123456789abcdef"[number & 15];
    }
    constexpr int kFlags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC;
    descriptor_ = static_cast<int>(::syscall(SYS_openat, AT_FDCWD, temporary_, kFlags, 0644));
    if (descriptor_ >= 0) return 0;
    if (errno != EEXIST && errno != EINTR) return errno;
  }
  return EEXIST;
}

int ReplacingFile::write(std::uint64_t offset, const std::byte* from, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  std::size_t done = 0;
  for (int interruptions = 0; done < size_bytes;) {
    const long count = ::syscall(SYS_pwrite64, descriptor_, from + done, size_bytes - done, offset + done);
    if (count == 0) return EIO;
    if (count < 0 && (errno != EINTR || ++interruptions == kMaxInterruptions)) return errno;
    if (count > 0) done += static_cast<std::size_t>(count);
  }
  return 0;
}

int ReplacingFile::commit() noexcept {
  const ErrnoScope errno_scope;
  if (::syscall(SYS_fsync, descriptor_) != 0) return errno;
  if (::syscall(SYS_renameat2, AT_FDCWD, temporary_, AT_FDCWD, path_, 0) != 0) return errno;
  ::syscall(SYS_close, descriptor_);
  descriptor_ = -1;
  sync_directory_of(path_);
  return 0;
}

void ReplacingFile::abandon() noexcept {
  if (!is_open()) return;
  const ErrnoScope errno_scope;
  ::syscall(SYS_close, descriptor_);
  ::syscall(SYS_unlinkat, AT_FDCWD, temporary_, 0);
  descriptor_ = -1;
}

}  // namespace glebe::os
