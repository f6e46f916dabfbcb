// Files that hold pages: without a name, out of the program's way, with errors as numbers (namespace
// glebe::os). Linux only, like the layer that uses them.
//
// A PageFile is removed before anybody could write to it, so that nothing is left after a crash, and no name
// of somebody else is ever opened, renamed or deleted. Programs close descriptors that they do not know
// (closefrom(3), daemons), and the number may then become a file of theirs: descriptors lie above 1000 where
// the limit allows it, and each operation first asks whether the descriptor is still our file. A PageFile is
// known by its position, which nothing here uses or moves: a secret number, so that asking is the cheapest
// system call there is.
//
// Nothing here allocates or uses stdio; errno is preserved. A PageFile may be used by many threads at once,
// because every operation names its offset. Errors are errno values, 0 when all went well.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace glebe::os {

// Errors that need an explanation: EBADF, the descriptor is not ours any more; ENODATA, the file ends before
// what should be read; EFBIG, a write beyond RLIMIT_FSIZE, which is refused without the signal SIGXFSZ.

// A descriptor and the identity of what it was opened for.
struct OwnedDescriptor {
  int number = -1;
  std::uint64_t device = 0, inode = 0;

  [[nodiscard]] bool is_open() const noexcept { return number >= 0; }
  // Whether the number still names the file that was opened.
  [[nodiscard]] bool is_intact() const noexcept;
  void close() noexcept;  // does not touch a number that belongs to somebody else by now
};

// The directory in which page files are created, held open: chdir, chroot and renames do not change it.
class PageDirectory {
 public:
  PageDirectory() noexcept = default;
  ~PageDirectory() { descriptor_.close(); }
  PageDirectory(const PageDirectory&) = delete;
  PageDirectory& operator=(const PageDirectory&) = delete;

  [[nodiscard]] int open(const char* path) noexcept;
  void close() noexcept { descriptor_.close(); }
  [[nodiscard]] bool is_open() const noexcept { return descriptor_.is_open(); }

  // Of the file system: what an unprivileged user may still store, and its size. False when it does not tell.
  struct Space {
    std::uint64_t free_bytes, total_bytes;
  };
  [[nodiscard]] bool space(Space* space) const noexcept;

 private:
  friend class PageFile;
  OwnedDescriptor descriptor_;
};

class PageFile {
 public:
  PageFile() noexcept = default;
  ~PageFile() { close(); }
  PageFile(const PageFile&) = delete;
  PageFile& operator=(const PageFile&) = delete;

  // An empty file without a name in `directory`, mode 0600. With `direct_io` the page cache is bypassed where
  // the file system can: is_direct() tells.
  [[nodiscard]] int create(const PageDirectory& directory, bool direct_io) noexcept;
  void close() noexcept;
  [[nodiscard]] bool is_open() const noexcept { return descriptor_.is_open(); }
  [[nodiscard]] int descriptor() const noexcept { return descriptor_.number; }
  [[nodiscard]] bool is_direct() const noexcept { return is_direct_.load(std::memory_order_relaxed); }

  // Move `size_bytes`, resuming after short counts and interruptions. When direct, offset, address and size
  // are multiples of 512. How far a failed call came is unspecified.
  [[nodiscard]] int read(std::uint64_t offset, std::byte* to, std::size_t size_bytes) noexcept;
  [[nodiscard]] int write(std::uint64_t offset, const std::byte* from, std::size_t size_bytes) noexcept;

  // Gives the storage of a range back; it reads as zero.
  [[nodiscard]] int punch_hole(std::uint64_t offset, std::uint64_t size_bytes) noexcept;
  [[nodiscard]] int truncate(std::uint64_t size_bytes) noexcept;
  struct Size {
    std::uint64_t length_bytes, allocated_bytes;  // st_size; st_blocks in bytes
  };
  [[nodiscard]] Size size() const noexcept;  // zeros when it cannot be told

  // Length that a file of this process may have (RLIMIT_FSIZE), as of now.
  [[nodiscard]] static std::uint64_t length_limit_bytes() noexcept;

 private:
  friend class IoQueue;
  [[nodiscard]] bool is_ours() const noexcept;
  [[nodiscard]] bool leave_direct() noexcept;

  OwnedDescriptor descriptor_;
  std::uint64_t mark_ = 0;  // the position of the file; 0: it has none that could be set
  std::atomic<bool> is_direct_{false};
};

}  // namespace glebe::os
