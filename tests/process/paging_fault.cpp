// Fails chosen system calls of a program from outside: a seccomp filter asks this process about each matching
// call (SECCOMP_RET_USER_NOTIF), which answers with an error or lets it go on. Unlike fault_inject.cpp it
// reaches threads that block all signals, as those of the pager do, and it can tell the kinds of ioctl apart.
//   paging_fault CALL once|from|every N ERRNO -- program arguments
// CALL is one of the names below. The exit status is the program's, 128 + n for a signal; on standard error
// "paging_fault: matched M failed F". x86-64 and aarch64 Linux 5.19 or newer, as root or with no_new_privs.
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr std::uint32_t kAnyRequest = 0;

struct Call {
  const char* name;
  int number;
  std::uint32_t request;  // of ioctl
  bool is_of_file = false;
};

// Not in the headers of Linux 6.1.
constexpr std::uint32_t kMove = 0xc028aa05, kPoison = 0xc020aa08;

const Call kCalls[] = {
    {"userfaultfd", SYS_userfaultfd, kAnyRequest},
    {"uffd_new", SYS_ioctl, static_cast<std::uint32_t>(_IO(0xAA, 0x00))},
    {"uffd_api", SYS_ioctl, static_cast<std::uint32_t>(UFFDIO_API)},
    {"uffd_register", SYS_ioctl, static_cast<std::uint32_t>(UFFDIO_REGISTER)},
    {"uffd_copy", SYS_ioctl, static_cast<std::uint32_t>(UFFDIO_COPY)},
    {"uffd_zero", SYS_ioctl, static_cast<std::uint32_t>(UFFDIO_ZEROPAGE)},
    {"uffd_wake", SYS_ioctl, static_cast<std::uint32_t>(UFFDIO_WAKE)},
    {"uffd_move", SYS_ioctl, kMove},
    {"uffd_poison", SYS_ioctl, kPoison},
    {"pread", SYS_pread64, kAnyRequest, true},
    {"pwrite", SYS_pwrite64, kAnyRequest, true},
    {"preadv", SYS_preadv, kAnyRequest, true},
    {"pwritev", SYS_pwritev, kAnyRequest, true},
    {"fallocate", SYS_fallocate, kAnyRequest, true},
    {"ftruncate", SYS_ftruncate, kAnyRequest, true},
    {"io_uring_setup", SYS_io_uring_setup, kAnyRequest},
    {"io_uring_enter", SYS_io_uring_enter, kAnyRequest},
    {"madvise", SYS_madvise, kAnyRequest},
    {"mmap", SYS_mmap, kAnyRequest},
    {"mprotect", SYS_mprotect, kAnyRequest},
    {"openat", SYS_openat, kAnyRequest},
    {"clone3", SYS_clone3, kAnyRequest},
};

const Call* find_call(const char* name) {
  for (const Call& call : kCalls) {
    if (std::strcmp(call.name, name) == 0) return &call;
  }
  return nullptr;
}

// A signal must not take a question back that we have read: Linux 5.19, not in older headers.
constexpr unsigned kWaitKillable = 1u << 5;

// Returns the descriptor on which the kernel asks, or -1.
int install_filter(const Call& call) {
  const auto word = static_cast<std::uint16_t>(BPF_LD | BPF_W | BPF_ABS);
  const auto equal = static_cast<std::uint16_t>(BPF_JMP | BPF_JEQ | BPF_K);
  const auto answer = static_cast<std::uint16_t>(BPF_RET | BPF_K);
  constexpr auto kRequest = static_cast<std::uint32_t>(offsetof(seccomp_data, args) + 8);
  sock_filter code[] = {
      {word, 0, 0, static_cast<std::uint32_t>(offsetof(seccomp_data, nr))},
      {equal, 0, 3, static_cast<std::uint32_t>(call.number)},
      {word, 0, 0,
       call.request == kAnyRequest ? static_cast<std::uint32_t>(offsetof(seccomp_data, arch)) : kRequest},
      {equal, 0, 1, call.request},
      {answer, 0, 0, SECCOMP_RET_USER_NOTIF},
      {answer, 0, 0, SECCOMP_RET_ALLOW},
  };
  if (call.request == kAnyRequest) code[3] = {equal, 0, 0, 0};  // both ways lead to the question
  const sock_fprog program{sizeof code / sizeof code[0], code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
  return static_cast<int>(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                                  SECCOMP_FILTER_FLAG_NEW_LISTENER | kWaitKillable, &program));
}

bool send_descriptor(int socket, int descriptor) {
  char byte = 'd';
  iovec vector{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  return sendmsg(socket, &message, 0) == 1;
}

int receive_descriptor(int socket) {
  char byte = 0;
  iovec vector{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1) return -1;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) return -1;
  int descriptor = -1;
  std::memcpy(&descriptor, CMSG_DATA(header), sizeof descriptor);
  return descriptor;
}

struct Plan {
  const char* mode;
  long n;
  int error;
  long matched = 0, failed = 0;

  [[nodiscard]] bool must_fail() const {
    if (std::strcmp(mode, "once") == 0) return matched == n;
    return std::strcmp(mode, "from") == 0 ? matched >= n : matched % n == 0;
  }
};

// Calls on files count only for files without a name, which is what page files are: the loader reads its
// libraries by the same calls.
bool is_counted(const Call& call, const seccomp_notif& question) {
  if (!call.is_of_file) return true;
  char path[64], target[512];
  std::snprintf(path, sizeof path, "/proc/%u/fd/%llu", question.pid,
                static_cast<unsigned long long>(question.data.args[0]));
  const ssize_t length = readlink(path, target, sizeof target - 1);
  if (length <= 0) return false;
  target[length] = '\0';
  return std::strstr(target, "(deleted)") != nullptr;
}

void answer_one(int listener, const Call& call, Plan& plan) {
  seccomp_notif question{};
  if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &question) != 0) return;  // the caller was killed meanwhile
  seccomp_notif_resp reply{};
  reply.id = question.id;
  const bool counted = is_counted(call, question);
  plan.matched += counted;
  if (counted && plan.must_fail()) {
    ++plan.failed;
    reply.error = -plan.error;
  } else {
    reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
  }
  if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &reply) != 0 && errno != ENOENT)
    std::perror("paging_fault: reply");
}

[[noreturn]] void become(const Call& call, int socket, char** command) {
  const int listener = install_filter(call);
  if (listener < 0 || !send_descriptor(socket, listener)) {
    std::perror("paging_fault: no filter");
    _exit(125);
  }
  close(listener);
  close(socket);
  execvp(command[0], command);
  std::perror(command[0]);
  _exit(127);
}

int serve(pid_t child, int listener, const Call& call, Plan& plan) {
  for (;;) {
    pollfd waiting{listener, POLLIN, 0};
    const int ready = poll(&waiting, 1, 20);
    if (ready > 0 && (waiting.revents & POLLIN) != 0) answer_one(listener, call, plan);
    int status = 0;
    if (waitpid(child, &status, WNOHANG) != child) continue;
    std::fprintf(stderr, "paging_fault: matched %ld failed %ld\n", plan.matched, plan.failed);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const Call* call = argc > 6 ? find_call(argv[1]) : nullptr;
  if (call == nullptr || std::strcmp(argv[5], "--") != 0) {
    std::fprintf(stderr, "usage: paging_fault CALL once|from|every N ERRNO -- program arguments\n");
    return 125;
  }
  Plan plan{argv[2], std::atol(argv[3]), std::atoi(argv[4])};
  int ends[2];
  if (plan.n <= 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return 125;
  const pid_t child = fork();
  if (child == 0) become(*call, ends[1], argv + 6);
  close(ends[1]);
  const int listener = receive_descriptor(ends[0]);
  if (listener < 0) return 125;
  return serve(child, listener, *call, plan);
}
