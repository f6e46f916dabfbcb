// Threads of our own, their descriptors, futexes, and descriptors that travel between processes.
#include "platform/service.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "platform/linux/system.h"
#include "platform/process.h"
#include "platform/thread.h"
#include "src/base/bits.h"
#include "src/base/text.h"

namespace glebe::os {
namespace {

constexpr std::size_t kStackBytes = 256 * kKiB;
constexpr int kMessageTimeoutS = 10;

struct Start {
  void (*run)(void*);
  void* argument;
  const char* name;
  std::atomic<std::uint32_t> taken;
};

// How many threads of ours have started and ended: each counts itself, so never more than there are.
constinit std::atomic<std::uint32_t> threads_started{0}, threads_ended{0};

void* begin(void* start_argument) noexcept {
  threads_started.fetch_add(1, std::memory_order_seq_cst);
  auto* start = static_cast<Start*>(start_argument);
  const Start mine = {start->run, start->argument, start->name, {}};
  ::prctl(PR_SET_NAME, mine.name);
  start->taken.store(1, std::memory_order_release);  // pairs with acquire below; `start` is gone from here on
  wake_all(start->taken);
  mine.run(mine.argument);
  threads_ended.fetch_add(1, std::memory_order_seq_cst);
  return nullptr;
}

// A name in the abstract namespace: a zero byte, then text.
socklen_t address_of(std::uint64_t name, sockaddr_un* address) noexcept {
  std::memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  char buffer[64];
  Text text(buffer);
  text.append("glebe-").append_hex(name);
  std::memcpy(address->sun_path + 1, text.c_str(), text.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
}

int make_socket() noexcept {
  const int made = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (made < 0) return -1;
  const timeval limit = {kMessageTimeoutS, 0};
  ::setsockopt(made, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ::setsockopt(made, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  return made;
}

union ControlBuffer {
  cmsghdr header;
  char bytes[CMSG_SPACE(kPassedMax * sizeof(int))];
};

// Whether some threads of this process, or of one that forked it, have a table of descriptors of their own.
constinit std::atomic<bool> has_private_descriptors{false};

// A descriptor of the program's standard error in this thread's table, or -1. Not kept open: whoever reads
// the other end of a pipe waits for its last writer.
int open_error_of_program() noexcept {
  constexpr long kPidfdOpen = 434, kPidfdGetfd = 438;  // Linux 5.3 and 5.6
  // By the process, which means the table of its first thread. The same open file: what the program writes
  // after our message goes behind it and not over it.
  const auto process = static_cast<int>(::syscall(kPidfdOpen, ::getpid(), 0u));
  if (process >= 0) {
    const auto file = static_cast<int>(::syscall(kPidfdGetfd, process, STDERR_FILENO, 0u));
    ::close(process);
    if (file >= 0) return file;
  }
  return ::open("/proc/self/fd/2", O_WRONLY | O_APPEND | O_CLOEXEC);
}

}  // namespace

bool start_service_thread(void (*run)(void* argument), void* argument, const char* name) noexcept {
  const ErrnoScope errno_scope;
  sigset_t all, before;
  ::sigfillset(&all);
  // The thread inherits the mask; the creator is not interrupted meanwhile.
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, kStackBytes);
  ::pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  Start start = {run, argument, name, {}};
  pthread_t thread;
  const bool is_started = ::pthread_create(&thread, &attributes, begin, &start) == 0;
  ::pthread_attr_destroy(&attributes);
  while (is_started && start.taken.load(std::memory_order_acquire) == 0) wait_on(start.taken, 0, 100'000'000);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return is_started;
}

void forget_service_threads_in_child() noexcept {
  threads_started.store(0, std::memory_order_relaxed);
  threads_ended.store(0, std::memory_order_relaxed);
}

bool ThreadWatch::open() noexcept {
  const ErrnoScope errno_scope;
  // By bare calls: to a sanitizer a number of this table is the same file as that number in the program's.
  descriptor_ = static_cast<int>(::syscall(SYS_openat, AT_FDCWD, "/proc/self/stat", O_RDONLY | O_CLOEXEC, 0));
  return descriptor_ >= 0;
}

bool ThreadWatch::is_program_over() const noexcept {
  constexpr unsigned kState = 0, kThreads = 17;  // fields 3 and 20 of proc_pid_stat(5), behind the name
  const ErrnoScope errno_scope;
  const std::uint32_t started = threads_started.load(std::memory_order_seq_cst);
  const std::uint32_t ended = threads_ended.load(std::memory_order_seq_cst);
  char line[1024];
  const long got = ::syscall(SYS_pread64, descriptor_, line, sizeof line - 1, 0L);
  if (got <= 0) return false;
  line[got] = '\0';
  const char* behind_name = std::strrchr(line, ')');
  if (behind_name == nullptr || behind_name[1] != ' ') return false;
  const char* state = field_at(behind_name + 2, kState);
  const char* threads = field_at(behind_name + 2, kThreads);
  if (state == nullptr || threads == nullptr || *state != 'Z') return false;
  // A number of ours that changed meanwhile says nothing; there is a next time.
  if (threads_started.load(std::memory_order_seq_cst) != started) return false;
  if (threads_ended.load(std::memory_order_seq_cst) != ended) return false;
  return parse_limit(threads) ==
         std::size_t{started} - ended + 1;  // the first one counts until the process ends
}

void exit_process(int status) noexcept { std::exit(status); }

bool take_private_descriptors() noexcept {
  const ErrnoScope errno_scope;
  if (::unshare(CLONE_FILES) != 0) return false;
  has_private_descriptors.store(true, std::memory_order_relaxed);
  constexpr unsigned kCloseRange = 436;  // SYS_close_range, Linux 5.9
  if (::syscall(kCloseRange, 0u, ~0u, 0u) == 0) return true;
  for (int i = 0; i < 65536; ++i) ::close(i);
  return true;
}

void wait_on(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::uint64_t timeout_ns) noexcept {
  const ErrnoScope errno_scope;
  const timespec timeout = {static_cast<time_t>(timeout_ns / 1'000'000'000),
                            static_cast<long>(timeout_ns % 1'000'000'000)};
  ::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, &timeout, nullptr, 0);
}

void wake_one(std::atomic<std::uint32_t>& word) noexcept {
  const ErrnoScope errno_scope;
  ::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

void wake_all(std::atomic<std::uint32_t>& word) noexcept {
  const ErrnoScope errno_scope;
  ::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

void sleep_ns(std::uint64_t duration_ns) noexcept {
  const ErrnoScope errno_scope;
  const timespec duration = {static_cast<time_t>(duration_ns / 1'000'000'000),
                             static_cast<long>(duration_ns % 1'000'000'000)};
  ::syscall(SYS_nanosleep, &duration, nullptr);
}

std::uint64_t thread_cpu_ns() noexcept {
  const ErrnoScope errno_scope;
  timespec time = {};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(time.tv_nsec);
}

int listen_by_name(std::uint64_t name) noexcept {
  const ErrnoScope errno_scope;
  const int made = make_socket();
  if (made < 0) return -1;
  sockaddr_un address;
  const socklen_t length = address_of(name, &address);
  if (::bind(made, reinterpret_cast<sockaddr*>(&address), length) == 0 && ::listen(made, 64) == 0)
    return made;
  ::close(made);
  return -1;
}

int connect_by_name(std::uint64_t name, std::uint64_t timeout_ms) noexcept {
  const ErrnoScope errno_scope;
  const int made = make_socket();
  if (made < 0) return -1;
  sockaddr_un address;
  const socklen_t length = address_of(name, &address);
  constexpr std::uint64_t kPauseNs = 1'000'000;
  for (std::uint64_t tried = 0; tried <= timeout_ms; ++tried) {
    if (::connect(made, reinterpret_cast<sockaddr*>(&address), length) == 0) return made;
    if (errno != EAGAIN && errno != EINTR) break;  // EAGAIN: the queue of the listener is full
    sleep_ns(kPauseNs);
  }
  ::close(made);
  return -1;
}

int accept_connection(int listener) noexcept {
  const ErrnoScope errno_scope;
  const int connection = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (connection < 0) return -1;
  ucred peer = {};
  socklen_t length = sizeof peer;
  const bool is_ours = ::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
                       (peer.uid == ::geteuid() || peer.uid == ::getuid() || peer.uid == 0);
  if (!is_ours) {
    ::close(connection);
    return -1;
  }
  const timeval limit = {kMessageTimeoutS, 0};
  ::setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  ::setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  return connection;
}

bool send_message(int socket, const void* data, std::size_t size_bytes,
                  std::span<const int> descriptors) noexcept {
  const ErrnoScope errno_scope;
  iovec part = {const_cast<void*>(data), size_bytes};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  ControlBuffer control = {};
  if (!descriptors.empty()) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  }
  return ::sendmsg(socket, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(size_bytes);
}

int receive_message(int socket, void* data, std::size_t size_bytes, int* descriptors) noexcept {
  const ErrnoScope errno_scope;
  iovec part = {data, size_bytes};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  ControlBuffer control = {};
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  ssize_t got = 0;
  do {
    got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_WAITALL);
  } while (got < 0 && errno == EINTR);
  int count = 0;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); got > 0 && header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const auto here = static_cast<int>((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    std::memcpy(descriptors + count, CMSG_DATA(header), static_cast<std::size_t>(here) * sizeof(int));
    count += here;
  }
  if (got == static_cast<ssize_t>(size_bytes)) return count;
  for (int i = 0; i < count; ++i) ::close(descriptors[i]);
  return -1;
}

bool is_hung_up(int socket) noexcept {
  const ErrnoScope errno_scope;
  pollfd poll_one = {socket, POLLIN, 0};
  if (::poll(&poll_one, 1, 0) <= 0) return false;
  if ((poll_one.revents & (POLLHUP | POLLERR)) != 0) return true;
  char byte = 0;
  return ::recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

SignalsBlocked::SignalsBlocked() noexcept : before_{} {
  const ErrnoScope errno_scope;
  const std::uint64_t all = ~std::uint64_t{0};
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, before_, sizeof all);
}
SignalsBlocked::~SignalsBlocked() {
  const ErrnoScope errno_scope;
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, before_, nullptr, sizeof before_[0]);
}

int make_event() noexcept {
  const ErrnoScope errno_scope;
  return ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}
void signal_event(int event) noexcept {
  const ErrnoScope errno_scope;
  const std::uint64_t one = 1;
  static_cast<void>(!::write(event, &one, sizeof one));
}
void clear_event(int event) noexcept {
  const ErrnoScope errno_scope;
  std::uint64_t value = 0;
  static_cast<void>(!::read(event, &value, sizeof value));
}

void write_error_of_program(const char* text, std::size_t size_bytes) noexcept {
  const ErrnoScope errno_scope;
  if (!has_private_descriptors.load(std::memory_order_relaxed)) return write_error(text, size_bytes);
  const int file = open_error_of_program();
  if (file < 0) return write_error(text, size_bytes);
  static_cast<void>(!::write(file, text, size_bytes));
  ::close(file);
}

std::uint64_t parent_process_id() noexcept { return static_cast<std::uint64_t>(::getppid()); }

void close_descriptor(int descriptor) noexcept {
  const ErrnoScope errno_scope;
  if (descriptor >= 0) ::close(descriptor);
}

int duplicate_descriptor(int descriptor) noexcept {
  const ErrnoScope errno_scope;
  return ::fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
}

bool move_descriptor(int descriptor, int number) noexcept {
  const ErrnoScope errno_scope;
  if (descriptor == number) return true;
  if (::dup3(descriptor, number, O_CLOEXEC) < 0) return false;
  ::close(descriptor);
  return true;
}

void wait_readable(const int* descriptors, unsigned count, bool* readable, int timeout_ms) noexcept {
  const ErrnoScope errno_scope;
  constexpr unsigned kMax = 1024;
  pollfd polled[kMax];
  const unsigned used = count < kMax ? count : kMax;
  for (unsigned i = 0; i < used; ++i) polled[i] = {descriptors[i], POLLIN, 0};
  for (unsigned i = 0; i < count; ++i) readable[i] = false;
  if (::poll(polled, used, timeout_ms) <= 0) return;
  for (unsigned i = 0; i < used; ++i) readable[i] = polled[i].revents != 0;
}

}  // namespace glebe::os
