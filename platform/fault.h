// Faults answered in user space, and what memory is present (namespace glebe::os). Linux only: userfaultfd(2)
// with UFFDIO_MOVE (Linux 6.8) and PAGEMAP_SCAN (6.7), see ioctl_userfaultfd(2) and PAGEMAP_SCAN(2const).
//
// Nothing here allocates; errno is preserved. Results that are int or long are 0 or a count, or -errno.
// Addresses and sizes are multiples of the os page. Thread-safe: the objects are descriptors. While a fork of
// the process is under way, until one thread has read the event and the forking thread runs again, move, copy
// and zero answer -EAGAIN: nothing of the memory that is being copied changes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace glebe::os {

struct FaultEvent {
  enum class Kind : std::uint8_t { page_fault, forked, other };
  Kind kind;
  bool is_write;
  std::uintptr_t address;  // page_fault: start of the page
  int thread;              // page_fault: that waits, as gettid(2) numbers it
  int child;               // forked: a new descriptor, the child's faults and memory; ours to close
};

// Why faults cannot be answered here. kept apart because each asks for something else from the administrator.
enum class FaultSupport : std::uint8_t {
  full,
  not_built,      // the kernel has no userfaultfd, or a filter hides it (ENOSYS)
  no_permission,  // vm.unprivileged_userfaultfd is 0 and we may not open /dev/userfaultfd (EPERM, EACCES)
  no_fork_event,  // no CAP_SYS_PTRACE: the memory of forked children would read as zero
  no_move,        // Linux before 6.8
  other,
};

// Whether who waits for a page that is put in place is woken at once, or by wake() later.
enum class Wake : std::uint8_t { now, later };

class UserFault {
 public:
  constexpr UserFault() noexcept = default;
  explicit constexpr UserFault(int descriptor) noexcept : descriptor_(descriptor) {}

  // Opens a descriptor for the memory of this process, or says why not.
  [[nodiscard]] FaultSupport open() noexcept;
  void close() noexcept;
  [[nodiscard]] bool is_open() const noexcept { return descriptor_ >= 0; }
  [[nodiscard]] int descriptor() const noexcept { return descriptor_; }
  // Reading waits from now on: a descriptor of a forked child does not at first.
  void make_blocking() const noexcept;

  // Missing pages of the range are reported here from now on. A range that is registered here already is
  // fine.
  [[nodiscard]] int watch(void* base, std::size_t size_bytes) const noexcept;
  int unwatch(void* base, std::size_t size_bytes) const noexcept;

  // Moves whole pages of a private anonymous mapping to a place where none are, atomically: afterwards the
  // source is missing. Returns bytes moved (possibly fewer than asked for) or -errno when none was: -EBUSY
  // when the first page is pinned or shared with another process, -ENOENT when there is none, -EEXIST when
  // the destination has one. With holes, pages that are missing in the source are passed over and count as
  // moved.
  struct MoveHow {
    bool with_holes = false;
    Wake wake = Wake::now;
  };
  [[nodiscard]] long move(void* to, void* from, std::size_t size_bytes, MoveHow how) const noexcept;
  [[nodiscard]] long move(void* to, void* from, std::size_t size_bytes) const noexcept {
    return move(to, from, size_bytes, MoveHow{});
  }
  // Puts pages with contents in place. -EEXIST: there is one already (nobody is woken). -ESRCH: the process
  // is gone.
  [[nodiscard]] int copy(void* to, const void* from, std::size_t size_bytes,
                         Wake wake = Wake::now) const noexcept;
  [[nodiscard]] int zero(void* to, std::size_t size_bytes, Wake wake = Wake::now) const noexcept;
  // Accesses to the page end in SIGBUS from now on.
  int poison(void* page, std::size_t size_bytes) const noexcept;
  void wake(void* base, std::size_t size_bytes) const noexcept;

  // Reads up to `count` events, waiting for the first (of a forked child's descriptor: without waiting).
  // Returns how many; 0 when interrupted or nothing came.
  [[nodiscard]] unsigned read_events(FaultEvent* events, unsigned count) const noexcept;

  // Whether a fault waits that nobody has read. (proc_pid_fdinfo(5); by a thread whose descriptor it is.)
  [[nodiscard]] bool has_unread_fault() const noexcept;

  // Whether the process whose memory this is still has it (it ended or called exec otherwise).
  [[nodiscard]] bool is_alive() const noexcept;

 private:
  int descriptor_ = -1;
};

// Present pages of this process, by kernel's page tables.
class PageScan {
 public:
  struct Run {
    std::uintptr_t begin, end;
  };
  [[nodiscard]] bool open() noexcept;
  // Runs of present pages with contents of their own (not the shared zero page, not a file's) in `range`,
  // lowest first, as many as fit into `runs`; *scanned is where it stopped. Returns the number of runs, -1 on
  // failure.
  [[nodiscard]] int present(const Run& range, std::span<Run> runs, std::uintptr_t* scanned) const noexcept;
  // Which of the first `count` pages (at most 64) from `base` have nothing, neither in RAM nor in swap space:
  // a touch would be a fault. Bit i stands for page i. None when that cannot be told.
  [[nodiscard]] std::uint64_t missing(const void* base, unsigned count) const noexcept;

 private:
  int descriptor_ = -1;
};

// Anonymous memory of this process in RAM, as of now, from a file that stays open: cheap enough for each
// millisecond.
class ResidentMeter {
 public:
  [[nodiscard]] bool open() noexcept;
  [[nodiscard]] std::size_t anonymous_bytes() const noexcept;  // 0 when it cannot be told

 private:
  int descriptor_ = -1;
};

// Makes the pages of a present range writable and private, as if each had been written to, without changing a
// byte: pages shared with a forked process are copied. (madvise(2), MADV_POPULATE_WRITE.)
bool unshare_pages(void* base, std::size_t size_bytes) noexcept;

// munlock(2): the range may be paged, and is not filled, although mlockall(2) was called.
void unlock_memory(void* base, std::size_t size_bytes) noexcept;

}  // namespace glebe::os
