// io_uring through liburing; see io_queue.h.
#include "platform/io_queue.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "platform/linux/system.h"
#include "platform/process.h"
#include "platform/thread.h"
#include "src/base/check.h"

namespace glebe::os {
namespace {

constexpr int kMaxIdleWaits = 1000;  // io_uring_enter calls without progress
constexpr int kInTurn = -1;          // IoRequest::error while it is not decided: the queue did not do it
constexpr int kUnderWay = -2;
constexpr int kHighDescriptor = 1000;
constexpr std::uint64_t kLostWaitMs = 60'000;

io_uring* ring_of(std::byte* memory) noexcept { return reinterpret_cast<io_uring*>(memory); }

// Out of the range of descriptors that programs close.
void move_up(io_uring* ring) noexcept {
  const long moved = ::syscall(SYS_fcntl, ring->ring_fd, F_DUPFD_CLOEXEC, kHighDescriptor);
  if (moved < 0) return;
  ::syscall(SYS_close, ring->ring_fd);
  ring->ring_fd = static_cast<int>(moved);
  ring->enter_ring_fd = ring->ring_fd;
}

void do_in_turn(IoRequest& request) noexcept {
  request.error = request.is_write ? request.file->write(request.offset, request.data, request.size_bytes)
                                   : request.file->read(request.offset, request.data, request.size_bytes);
}

}  // namespace

void run_in_turn(std::span<IoRequest> requests) noexcept {
  for (IoRequest& request : requests) do_in_turn(request);
}

bool IoQueue::open() noexcept {
  static_assert(sizeof(io_uring) <= sizeof ring_);
  const ErrnoScope errno_scope;
  CHECK(!is_open_);
  if (io_uring_queue_init(kDepth, ring_of(ring_), 0) != 0) return false;
  move_up(ring_of(ring_));
  struct stat status {};
  is_open_ = ::fstat(ring_of(ring_)->ring_fd, &status) == 0;
  // The inode is that of all anonymous files: it tells the queue from files and sockets of the program.
  descriptor_ = OwnedDescriptor{ring_of(ring_)->ring_fd, status.st_dev, status.st_ino};
  return is_open_;
}

void IoQueue::close() noexcept {
  if (!is_open_) return;
  const ErrnoScope errno_scope;
  if (!descriptor_.is_intact()) ring_of(ring_)->ring_fd = -1;  // the number is somebody else's by now
  io_uring_queue_exit(ring_of(ring_));
  is_open_ = false;
}

void IoQueue::run(std::span<IoRequest> requests) noexcept {
  const ErrnoScope errno_scope;
  while (!requests.empty()) {
    const std::size_t count = requests.size() < kDepth ? requests.size() : kDepth;
    const std::span<IoRequest> some = requests.first(count);
    if (is_open_ && !descriptor_.is_intact()) close();
    if (is_open_ && count > 1) {
      run_some(some);
    } else {
      run_in_turn(some);
    }
    requests = requests.subspan(count);
  }
}

// Hands over what may be handed over and returns how many that are. A file that is not ours any more, or a
// write beyond the limit, is left to PageFile, which says so.
unsigned IoQueue::submit(std::span<IoRequest> requests) noexcept {
  const std::uint64_t limit = PageFile::length_limit_bytes();
  unsigned count = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    IoRequest& request = requests[i];
    request.error = kInTurn;
    const std::uint64_t end = request.offset + request.size_bytes;
    if (!request.file->is_ours() || (request.is_write && end > limit)) continue;
    io_uring_sqe* const entry = io_uring_get_sqe(ring_of(ring_));
    if (entry == nullptr) continue;
    const auto size = static_cast<unsigned>(request.size_bytes);
    if (request.is_write) {
      io_uring_prep_write(entry, request.file->descriptor(), request.data, size, request.offset);
    } else {
      io_uring_prep_read(entry, request.file->descriptor(), request.data, size, request.offset);
    }
    io_uring_sqe_set_data64(entry, i);
    request.error = kUnderWay;
    ++count;
  }
  return count;
}

// Takes what is completed. Only what was moved in full is done; all else is left to PageFile, which tries
// again and knows what the error means.
unsigned IoQueue::reap(std::span<IoRequest> requests) noexcept {
  unsigned count = 0;
  unsigned head = 0;
  io_uring_cqe* entry = nullptr;
  io_uring_for_each_cqe(ring_of(ring_), head, entry) {
    ++count;
    IoRequest& request = requests[entry->user_data];
    const bool is_whole = entry->res >= 0 && static_cast<std::size_t>(entry->res) == request.size_bytes;
    request.error = is_whole ? 0 : kInTurn;
  }
  io_uring_cq_advance(ring_of(ring_), count);
  return count;
}

void IoQueue::run_some(std::span<IoRequest> requests) noexcept {
  unsigned missing = submit(requests);
  int idle_waits = 0;
  bool is_lost = false;
  while (missing != 0 && !is_lost) {
    const int result = io_uring_submit_and_wait(ring_of(ring_), missing);
    const unsigned done = reap(requests);
    missing -= done;
    idle_waits = done != 0 ? 0 : idle_waits + 1;
    const bool may_pass = result >= 0 || result == -EINTR || result == -EAGAIN || result == -EBUSY;
    is_lost = missing != 0 && (!may_pass || idle_waits == kMaxIdleWaits);
  }
  if (is_lost) wait_without_kernel(requests, missing);
  for (IoRequest& request : requests) {
    if (request.error == kInTurn) do_in_turn(request);
  }
}

// The descriptor of the ring is gone. What the kernel has taken over is completed all the same, and told in
// memory that we share with it; what it has not taken over never will be. The queue is closed afterwards.
void IoQueue::wait_without_kernel(std::span<IoRequest> requests, unsigned missing) noexcept {
  const unsigned not_taken = io_uring_sq_ready(ring_of(ring_));
  const std::uint64_t begin_ms = clock_coarse_ms();
  while (missing > not_taken) {
    missing -= reap(requests);
    // Until then the kernel may write to our buffers: there is nothing to return to.
    CHECK(clock_coarse_ms() - begin_ms < kLostWaitMs);
    yield();
  }
  for (IoRequest& request : requests) {
    if (request.error == kUnderWay) request.error = kInTurn;
  }
  close();
}

}  // namespace glebe::os
