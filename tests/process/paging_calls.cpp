// The system calls of the paging torture. Each operation copies bytes of one block into the beginning of
// another by way of the kernel, compares what arrived with what the seed says, and restores the target.
#include "tests/process/paging_calls.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>

namespace paging_test {

using process_test::expect;
using process_test::say;

struct CallFiles::Row {
  const char* name;
  Operation operation;
  std::size_t least_bytes;  // both blocks are at least this long
  std::size_t most_bytes;
};

const CallFiles::Row CallFiles::kRows[] = {
    {"read and write of a pipe", &CallFiles::pipe_copy, 1, 60'000},
    {"readv and writev of a pipe", &CallFiles::pipe_vectors, 24, 60'000},
    {"vmsplice", &CallFiles::splice_copy, 16, 32'768},
    {"pread and pwrite of a file", &CallFiles::file_copy, 1, 1 << 20},
    {"direct I/O", &CallFiles::direct_copy, 3 * 4096, 256 * 1024},
    {"process_vm_readv", &CallFiles::process_copy, 1, 1 << 20},
    {"sendmsg and recvmsg", &CallFiles::message_copy, 16, 30'000},
    {"futex", &CallFiles::futex_word, 16, 16},
    {"sigaltstack", &CallFiles::signal_stack, 128 * 1024, 128 * 1024},
    {"stat, uname, getrandom, poll", &CallFiles::small_results, 1024, 1024},
    {"getcwd, open and readlink", &CallFiles::names, 4096, 4096},
    {"mlock and munlock", &CallFiles::locked, 4096, 64 * 1024},
};

namespace {

// A call that a signal interrupted is made again.
template <class Call>
auto again(Call call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

bool succeeded(long result, long expected, const char* what) {
  if (result == expected) return true;
  const int error = errno;
  expect(false, what, static_cast<std::size_t>(result < 0 ? error : result));
  say("  %s: result %ld instead of %ld, errno %d (%s)\n", what, result, expected, error,
      std::strerror(error));
  return false;
}

// Everything that is asked for, in as many calls as the pipe needs.
template <class Call>
long whole(std::size_t bytes, Call call) {
  std::size_t done = 0;
  while (done < bytes) {
    const long count = again([&] { return call(done, bytes - done); });
    if (count <= 0) return count == 0 ? static_cast<long>(done) : -1;
    done += static_cast<std::size_t>(count);
  }
  return static_cast<long>(done);
}

// The target now begins with content of the source: compares, and gives the target its own content back.
void arrived(const Block& from, const Block& to, std::size_t bytes, const char* what) {
  const Block copy{to.bytes, bytes, from.seed};
  check(copy, 0, bytes, what);
  write_content(to.bytes, to.seed, 0, bytes);
}

}  // namespace

bool CallFiles::open(const char* directory) {
  std::snprintf(directory_, sizeof directory_, "%s", directory);
  bool ok = pipe2(pipe_, O_CLOEXEC) == 0;
  ok = ok && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets_) == 0;
  file_ = ::open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  direct_ = ::open(directory, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
  if (direct_ < 0) say("note: no direct I/O in %s (errno %d), that call is left out\n", directory, errno);
  if (!ok || file_ < 0) say("cannot open the files of the test in %s: errno %d\n", directory, errno);
  return ok && file_ >= 0;
}

int CallFiles::highest() const {
  return std::max({pipe_[0], pipe_[1], sockets_[0], sockets_[1], file_, direct_});
}

void CallFiles::perform(Blocks& blocks, Random& random) {
  const Row& row = kRows[random.below(std::size(kRows))];
  const Block *from = nullptr, *to = nullptr;
  for (int tries = 0; tries < 400 && (from == nullptr || to == nullptr); ++tries) {
    const Block& block = blocks.pick_any(random);
    if (block.size < row.least_bytes) continue;
    if (from == nullptr) {
      from = &block;
    } else if (&block != from) {
      to = &block;
    }
  }
  if (to == nullptr) return;  // no two blocks of that size
  const std::size_t most = std::min({from->size, to->size, row.most_bytes});
  const std::size_t bytes = row.least_bytes + random.below(most - row.least_bytes + 1);
  (this->*row.operation)(*from, *to, bytes, random);
  ++calls_;
}

// The pipe holds 64 KiB, so one thread can write and read in turn.
void CallFiles::pipe_copy(const Block& from, const Block& to, std::size_t bytes, Random&) {
  const long sent =
      whole(bytes, [&](std::size_t at, std::size_t left) { return write(pipe_[1], from.bytes + at, left); });
  if (!succeeded(sent, static_cast<long>(bytes), "write to a pipe")) return;
  const long got =
      whole(bytes, [&](std::size_t at, std::size_t left) { return read(pipe_[0], to.bytes + at, left); });
  if (succeeded(got, static_cast<long>(bytes), "read from a pipe")) arrived(from, to, bytes, "after a pipe");
}

void CallFiles::pipe_vectors(const Block& from, const Block& to, std::size_t bytes, Random& random) {
  const std::size_t first = random.below(bytes - 1) + 1;
  iovec out[2] = {{from.bytes, first}, {from.bytes + first, bytes - first}};
  const long sent = again([&] { return writev(pipe_[1], out, 2); });
  if (!succeeded(sent, static_cast<long>(bytes), "writev")) return;
  const std::size_t other = random.below(bytes - 1) + 1;
  iovec in[2] = {{to.bytes, other}, {to.bytes + other, bytes - other}};
  const long got = again([&] { return readv(pipe_[0], in, 2); });
  if (succeeded(got, static_cast<long>(bytes), "readv")) arrived(from, to, bytes, "after readv");
}

// The pipe holds references to the pages of the source, which must not be lost while they are there.
void CallFiles::splice_copy(const Block& from, const Block& to, std::size_t bytes, Random& random) {
  const iovec out{from.bytes, bytes};
  const long sent = again([&] { return vmsplice(pipe_[1], &out, 1, 0); });
  if (!succeeded(sent, static_cast<long>(bytes), "vmsplice")) return;
  if (random.below(4) == 0) process_test::sleep_ms(2);
  const long got =
      whole(bytes, [&](std::size_t at, std::size_t left) { return read(pipe_[0], to.bytes + at, left); });
  if (succeeded(got, static_cast<long>(bytes), "read after vmsplice"))
    arrived(from, to, bytes, "after vmsplice");
}

void CallFiles::file_copy(const Block& from, const Block& to, std::size_t bytes, Random& random) {
  const auto offset = static_cast<off_t>(random.below(1 << 20));
  const long sent = again([&] { return pwrite(file_, from.bytes, bytes, offset); });
  if (!succeeded(sent, static_cast<long>(bytes), "pwrite")) return;
  const std::size_t first = random.below(bytes);
  iovec in[2] = {{to.bytes, first}, {to.bytes + first, bytes - first}};
  const long got = again([&] { return preadv(file_, in, 2, offset); });
  if (succeeded(got, static_cast<long>(bytes), "preadv")) arrived(from, to, bytes, "after preadv");
}

// The device reads and writes the pages themselves, while they are pinned: whole pages inside the blocks.
void CallFiles::direct_copy(const Block& from, const Block& to, std::size_t bytes, Random&) {
  if (direct_ < 0) return;
  constexpr std::size_t kPage = 4096;
  const auto skip = [](const Block& block) {
    return (kPage - reinterpret_cast<std::uintptr_t>(block.bytes) % kPage) % kPage;
  };
  const std::size_t count = (bytes - kPage) / kPage * kPage, out = skip(from), in = skip(to);
  const long sent = again([&] { return pwrite(direct_, from.bytes + out, count, 0); });
  if (!succeeded(sent, static_cast<long>(count), "direct pwrite")) return;
  const long got = again([&] { return pread(direct_, to.bytes + in, count, 0); });
  if (!succeeded(got, static_cast<long>(count), "direct pread")) return;
  const bool same = std::memcmp(to.bytes + in, from.bytes + out, count) == 0;
  expect(same, "bytes read by direct I/O are those that were written", count);
  check(from, out & ~std::size_t{7}, out + count, "source of direct I/O");
  fill(to);
}

void CallFiles::process_copy(const Block& from, const Block& to, std::size_t bytes, Random&) {
  const iovec local{to.bytes, bytes}, remote{from.bytes, bytes};
  const long got = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
  if (got < 0 && errno == EPERM) return;  // ptrace is restricted here
  if (succeeded(got, static_cast<long>(bytes), "process_vm_readv"))
    arrived(from, to, bytes, "process_vm_readv");
}

// The header and the vector lie in the heap too.
void CallFiles::message_copy(const Block& from, const Block& to, std::size_t bytes, Random&) {
  struct Message {
    msghdr header;
    iovec vector;
  };
  auto* message = static_cast<Message*>(process_test::opaque(std::calloc(1, sizeof(Message))));
  if (!expect(message != nullptr, "calloc of a message")) return;
  message->header.msg_iov = &message->vector;
  message->header.msg_iovlen = 1;
  message->vector = {from.bytes, bytes};
  const long sent = again([&] { return sendmsg(sockets_[0], &message->header, 0); });
  if (succeeded(sent, static_cast<long>(bytes), "sendmsg")) {
    const long got = whole(bytes, [&](std::size_t at, std::size_t left) {
      message->vector = {to.bytes + at, left};
      return recvmsg(sockets_[1], &message->header, 0);
    });
    if (succeeded(got, static_cast<long>(bytes), "recvmsg")) arrived(from, to, bytes, "after recvmsg");
  }
  std::free(message);
}

void CallFiles::futex_word(const Block& from, const Block&, std::size_t, Random& random) {
  const std::size_t at = random.below(from.size - 8) & ~std::size_t{7};
  auto* word = reinterpret_cast<std::uint32_t*>(from.bytes + at);
  const auto value = static_cast<std::uint32_t>(word_of(from.seed, at / 8));
  const timespec none{0, 1};
  const int operation = random.below(2) == 0 ? FUTEX_WAIT_PRIVATE : FUTEX_WAIT;
  long result = again([&] { return syscall(SYS_futex, word, operation, value + 1, &none, nullptr, 0); });
  expect(result == -1 && errno == EAGAIN, "futex wait on another value says EAGAIN",
         static_cast<std::size_t>(errno));
  result = again([&] { return syscall(SYS_futex, word, operation, value, &none, nullptr, 0); });
  expect(result == -1 && errno == ETIMEDOUT, "futex wait on the value times out",
         static_cast<std::size_t>(errno));
  result = syscall(SYS_futex, word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  expect(result == 0, "futex wake finds nobody", static_cast<std::size_t>(errno));
}

namespace {
std::atomic<std::uint64_t> stack_signals{0};
void on_stack_signal(int) {
  char use[2048];
  std::memset(use, 7, sizeof use);
  process_test::opaque(use);
  stack_signals.fetch_add(1, std::memory_order_relaxed);
}
}  // namespace

// The kernel writes the frame of the signal into the block.
void CallFiles::signal_stack(const Block& from, const Block&, std::size_t, Random&) {
  struct sigaction action {};
  action.sa_handler = on_stack_signal;
  action.sa_flags = SA_ONSTACK | SA_RESTART;
  sigaction(SIGUSR2, &action, nullptr);
  stack_t stack{};
  stack.ss_sp = from.bytes;
  stack.ss_size = 64 * 1024;
  stack_t before{};
  if (!succeeded(sigaltstack(&stack, &before), 0, "sigaltstack")) return;
  const std::uint64_t seen = stack_signals.load(std::memory_order_relaxed);
  pthread_kill(pthread_self(), SIGUSR2);
  expect(stack_signals.load(std::memory_order_relaxed) > seen, "the signal arrived");
  succeeded(sigaltstack(&before, nullptr), 0, "sigaltstack back");
  check(from, stack.ss_size, from.size, "behind a signal stack");
  write_content(from.bytes, from.seed, 0, stack.ss_size);
}

void CallFiles::small_results(const Block&, const Block& to, std::size_t, Random& random) {
  switch (random.below(5)) {
    case 0: {
      auto* info =
          reinterpret_cast<struct stat*>(to.bytes + (-reinterpret_cast<std::uintptr_t>(to.bytes) & 7));
      if (succeeded(fstat(file_, info), 0, "fstat")) expect(S_ISREG(info->st_mode), "fstat tells a file");
      break;
    }
    case 1:
      succeeded(uname(reinterpret_cast<utsname*>(to.bytes)), 0, "uname");
      expect(std::memcmp(to.bytes, "Linux", 6) == 0, "uname says Linux");
      break;
    case 2:
      succeeded(again([&] { return getrandom(to.bytes, 200, 0); }), 200, "getrandom");
      break;
    case 3: {
      auto* time = reinterpret_cast<timespec*>(to.bytes);
      *time = {0, 1000};
      expect(again([&] { return nanosleep(time, time); }) == 0, "nanosleep", static_cast<std::size_t>(errno));
      break;
    }
    default: {
      auto* waiting = reinterpret_cast<pollfd*>(to.bytes);
      waiting[0] = {pipe_[1], POLLOUT, 0};
      waiting[1] = {pipe_[0], POLLIN, 0};
      if (succeeded(again([&] { return poll(waiting, 2, 0); }), 1, "poll")) {
        expect(waiting[0].revents == POLLOUT && waiting[1].revents == 0, "poll tells what is ready");
      }
    }
  }
  write_content(to.bytes, to.seed, 0, 1024);
}

// Paths are read from heap memory and written to it.
void CallFiles::names(const Block& from, const Block& to, std::size_t, Random&) {
  char here[512];
  if (getcwd(here, sizeof here) == nullptr) return;
  auto* text = reinterpret_cast<char*>(to.bytes);
  if (expect(getcwd(text, 4096) != nullptr, "getcwd", static_cast<std::size_t>(errno))) {
    expect(std::strcmp(text, here) == 0, "getcwd tells the folder");
  }
  auto* path = reinterpret_cast<char*>(from.bytes);
  std::memcpy(path, directory_, std::strlen(directory_) + 1);
  expect(again([&] { return access(path, R_OK); }) == 0, "access", static_cast<std::size_t>(errno));
  std::snprintf(path, 64, "/proc/self/fd/%d", file_);
  expect(readlink(path, text, 4096) > 0, "readlink", static_cast<std::size_t>(errno));
  write_content(from.bytes, from.seed, 0, 4096);
  write_content(to.bytes, to.seed, 0, 4096);
}

void CallFiles::locked(const Block& from, const Block&, std::size_t bytes, Random&) {
  if (mlock(from.bytes, bytes) != 0) {
    expect(errno == ENOMEM || errno == EPERM || errno == EAGAIN, "mlock", static_cast<std::size_t>(errno));
    return;
  }
  check(from, 0, bytes, "while locked");
  succeeded(munlock(from.bytes, bytes), 0, "munlock");
}

}  // namespace paging_test
