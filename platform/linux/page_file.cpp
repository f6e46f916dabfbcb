// Page files on Linux; see page_file.h. System calls are made by syscall(2), because the wrappers of libc are
// cancellation points.
#include "platform/page_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "platform/linux/system.h"
#include "platform/process.h"
#include "platform/thread.h"

namespace glebe::os {
namespace {

constexpr int kMaxInterruptions = 1000;  // per call, without progress between them
constexpr int kMaxNames = 16;
constexpr std::uint64_t kLeastMark = std::uint64_t{1} << 39;  // of the positions that mark our files
constexpr int kHighDescriptors[] = {1000, 200, 64};           // tried in this order: the limit may be low

int open_at(int directory, const char* path, int flags) noexcept {
  for (int tries = 0; tries < kMaxInterruptions; ++tries) {
    const long file = ::syscall(SYS_openat, directory, path, flags | O_CLOEXEC, 0600);
    if (file >= 0 || errno != EINTR) return static_cast<int>(file);
  }
  return -1;
}

// For file systems without O_TMPFILE: a name that nobody else has, removed at once.
int open_unlinked(int directory, int flags) noexcept {
  char name[] = ".glebe-0123456789abcdef";
  char* const digits = name + sizeof name - 17;
  for (int tries = 0; tries < kMaxNames; ++tries) {
    std::uint64_t number = entropy();
    for (int i = 0; i < 16; ++i, number >>= 4) digits[i] = "0123456789abcdef"[number & 15];
    const int file = open_at(directory, name, flags | O_CREAT | O_EXCL);
    if (file >= 0) ::syscall(SYS_unlinkat, directory, name, 0);
    if (file >= 0 || errno != EEXIST) return file;
  }
  return -1;
}

int open_nameless(int directory, int flags) noexcept {
  const int file = open_at(directory, ".", flags | O_TMPFILE);
  if (file >= 0) return file;
  return errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL || errno == ENOENT
             ? open_unlinked(directory, flags)
             : -1;
}

// Moves a fresh descriptor out of the range that programs use and close.
int move_up(int descriptor) noexcept {
  for (const int lowest : kHighDescriptors) {
    const long moved = ::syscall(SYS_fcntl, descriptor, F_DUPFD_CLOEXEC, lowest);
    if (moved < 0) continue;
    ::syscall(SYS_close, descriptor);
    return static_cast<int>(moved);
  }
  return descriptor;
}

bool adopt(int descriptor, OwnedDescriptor* owned) noexcept {
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) return false;
  *owned = OwnedDescriptor{move_up(descriptor), status.st_dev, status.st_ino};
  return true;
}

// Calls `step(offset, done, left)`, which moves bytes and returns how many, until all are moved.
template <class Step>
int move_all(std::uint64_t offset, std::size_t size_bytes, Step step) noexcept {
  std::size_t done = 0;
  for (int interruptions = 0; done < size_bytes;) {
    const long count = step(offset + done, done, size_bytes - done);
    if (count == 0) return ENODATA;
    if (count > 0) {
      done += static_cast<std::size_t>(count);
      interruptions = 0;
      continue;
    }
    if (errno != EINTR && errno != EAGAIN) return errno;
    if (++interruptions == kMaxInterruptions) return errno;
    if (errno == EAGAIN) yield();
  }
  return 0;
}

}  // namespace

bool OwnedDescriptor::is_intact() const noexcept {
  const ErrnoScope errno_scope;
  struct stat status {};
  return number >= 0 && ::fstat(number, &status) == 0 && status.st_dev == device && status.st_ino == inode;
}

void OwnedDescriptor::close() noexcept {
  if (is_open() && is_intact()) {
    const ErrnoScope errno_scope;
    ::syscall(SYS_close, number);
  }
  number = -1;
}

int PageDirectory::open(const char* path) noexcept {
  const ErrnoScope errno_scope;
  descriptor_.close();
  const int directory = open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
  if (directory < 0) return errno;
  if (adopt(directory, &descriptor_)) return 0;
  const int error = errno;
  ::syscall(SYS_close, directory);
  return error;
}

bool PageDirectory::space(Space* space) const noexcept {
  const ErrnoScope errno_scope;
  struct statvfs status {};
  if (!descriptor_.is_intact() || ::fstatvfs(descriptor_.number, &status) != 0) return false;
  const std::uint64_t unit = status.f_frsize != 0 ? status.f_frsize : status.f_bsize;
  *space = {status.f_bavail * unit, status.f_blocks * unit};
  return true;
}

int PageFile::create(const PageDirectory& directory, bool direct_io) noexcept {
  const ErrnoScope errno_scope;
  close();
  if (!directory.descriptor_.is_intact()) return EBADF;
  int file = direct_io ? open_nameless(directory.descriptor_.number, O_RDWR | O_DIRECT) : -1;
  is_direct_.store(file >= 0, std::memory_order_relaxed);
  if (file < 0) file = open_nameless(directory.descriptor_.number, O_RDWR);
  if (file < 0) return errno;
  if (!adopt(file, &descriptor_)) {
    const int error = errno;
    ::syscall(SYS_close, file);
    return error;
  }
  // Below the largest file of all file systems that have large files; the position need not be in the file.
  const std::uint64_t mark = kLeastMark | (entropy() & (kLeastMark - 1));
  const long position = ::syscall(SYS_lseek, descriptor_.number, mark, SEEK_SET);
  mark_ = position == static_cast<long>(mark) ? mark : 0;
  // A page is read once and alone: read-ahead of the kernel would fill memory that we are emptying.
  static_cast<void>(::syscall(SYS_fadvise64, descriptor_.number, 0, 0, POSIX_FADV_RANDOM));
  return 0;
}

void PageFile::close() noexcept {
  descriptor_.close();
  is_direct_.store(false, std::memory_order_relaxed);
}

// A file of somebody else has this position by a chance of one in 2^39. Ours has another one when somebody
// who found the descriptor moved it: then its identity decides, which takes three times as long to ask for.
bool PageFile::is_ours() const noexcept {
  const ErrnoScope errno_scope;
  if (mark_ != 0 && ::syscall(SYS_lseek, descriptor_.number, 0, SEEK_CUR) == static_cast<long>(mark_)) {
    return true;
  }
  return descriptor_.is_intact();
}

// The device wants larger sectors than 512 bytes, or the file system changed its mind.
bool PageFile::leave_direct() noexcept {
  const long flags = ::syscall(SYS_fcntl, descriptor_.number, F_GETFL);
  if (flags < 0 || ::syscall(SYS_fcntl, descriptor_.number, F_SETFL, flags & ~O_DIRECT) != 0) return false;
  is_direct_.store(false, std::memory_order_relaxed);
  return true;
}

int PageFile::read(std::uint64_t offset, std::byte* to, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  if (!is_ours()) return EBADF;
  const auto step = [&](std::uint64_t at, std::size_t done, std::size_t left) noexcept {
    return ::syscall(SYS_pread64, descriptor_.number, to + done, left, at);
  };
  const int error = move_all(offset, size_bytes, step);
  return error == EINVAL && is_direct() && leave_direct() ? move_all(offset, size_bytes, step) : error;
}

int PageFile::write(std::uint64_t offset, const std::byte* from, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  if (!is_ours()) return EBADF;
  const std::uint64_t limit = length_limit_bytes();
  if (offset > limit || size_bytes > limit - offset) return EFBIG;
  const auto step = [&](std::uint64_t at, std::size_t done, std::size_t left) noexcept {
    return ::syscall(SYS_pwrite64, descriptor_.number, from + done, left, at);
  };
  int error = move_all(offset, size_bytes, step);
  if (error == EINVAL && is_direct() && leave_direct()) error = move_all(offset, size_bytes, step);
  return error == ENODATA ? EIO : error;
}

int PageFile::punch_hole(std::uint64_t offset, std::uint64_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  if (!is_ours()) return EBADF;
  constexpr int kMode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  for (int tries = 0; tries < kMaxInterruptions; ++tries) {
    if (::syscall(SYS_fallocate, descriptor_.number, kMode, offset, size_bytes) == 0) return 0;
    if (errno != EINTR) return errno;
  }
  return EINTR;
}

int PageFile::truncate(std::uint64_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  if (!is_ours()) return EBADF;
  for (int tries = 0; tries < kMaxInterruptions; ++tries) {
    if (::syscall(SYS_ftruncate, descriptor_.number, size_bytes) == 0) return 0;
    if (errno != EINTR) return errno;
  }
  return EINTR;
}

std::uint64_t PageFile::length_limit_bytes() noexcept {
  const ErrnoScope errno_scope;
  rlimit limit{};
  // By the old call where there is one: prlimit(2), which libc uses, takes twice the time.
#if defined(SYS_getrlimit)
  const long error = ::syscall(SYS_getrlimit, RLIMIT_FSIZE, &limit);
#else
  const long error = ::getrlimit(RLIMIT_FSIZE, &limit);
#endif
  if (error != 0 || limit.rlim_cur == RLIM_INFINITY) return INT64_MAX;
  return limit.rlim_cur;
}

PageFile::Size PageFile::size() const noexcept {
  const ErrnoScope errno_scope;
  constexpr std::uint64_t kBlockBytes = 512;  // of st_blocks, whatever the file system uses
  struct stat status {};
  if (::fstat(descriptor_.number, &status) != 0) return {0, 0};
  if (status.st_dev != descriptor_.device || status.st_ino != descriptor_.inode) return {0, 0};
  return {static_cast<std::uint64_t>(status.st_size),
          static_cast<std::uint64_t>(status.st_blocks) * kBlockBytes};
}

}  // namespace glebe::os
