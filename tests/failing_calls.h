// System calls of this process that answer as broken disks do (Linux, seccomp). For forked children only:
// what is installed stays for the rest of the process. Calls are trapped, and the handler makes the real call
// by another number, or none.
#pragma once

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <initializer_list>
#include <vector>

enum class CallFault { half, interrupted, one_sector, io_error, stuck };

namespace failing_calls {

inline CallFault fault = CallFault::half;
inline volatile unsigned count = 0;
inline std::atomic<bool> is_stuck{false}, may_go_on{false};

#if defined(__x86_64__)
inline long argument(const ucontext_t* context, int number) {
  constexpr int kRegisters[] = {REG_RDI, REG_RSI, REG_RDX, REG_R10};
  return context->uc_mcontext.gregs[kRegisters[number]];
}
inline void answer(ucontext_t* context, long value) { context->uc_mcontext.gregs[REG_RAX] = value; }
#else
inline long argument(const ucontext_t* context, int number) {
  return static_cast<long>(context->uc_mcontext.regs[number]);
}
inline void answer(ucontext_t* context, long value) {
  context->uc_mcontext.regs[0] = static_cast<unsigned long long>(value);
}
#endif

// A part of what was asked for: preadv and pwritev are not trapped.
inline long move_part(const siginfo_t* info, const ucontext_t* context, std::size_t size_bytes) {
  iovec part{reinterpret_cast<void*>(argument(context, 1)), size_bytes};
  const long number = info->si_syscall == SYS_pread64 ? SYS_preadv : SYS_pwritev;
  const long moved = ::syscall(number, argument(context, 0), &part, 1, argument(context, 3), 0);
  return moved < 0 ? -errno : moved;
}

inline void handle(int, siginfo_t* info, void* opaque) {
  auto* const context = static_cast<ucontext_t*>(opaque);
  const int saved = errno;
  const auto size_bytes = static_cast<std::size_t>(argument(context, 2));
  constexpr std::size_t kSector = 512;
  count = count + 1;
  switch (fault) {
    case CallFault::half:
      answer(context, move_part(info, context, size_bytes > 1 ? size_bytes / 2 : size_bytes));
      break;
    case CallFault::one_sector:
      answer(context, move_part(info, context, size_bytes < kSector ? size_bytes : kSector));
      break;
    case CallFault::interrupted:
      answer(context, count % 3 != 0 ? -EINTR : move_part(info, context, size_bytes));
      break;
    case CallFault::io_error:
      answer(context, -EIO);
      break;
    case CallFault::stuck:
      is_stuck = true;
      while (!may_go_on) ::usleep(1000);
      answer(context, move_part(info, context, size_bytes));
      break;
  }
  errno = saved;
}

inline bool install(std::vector<sock_filter> filter) {
  sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

inline sock_filter load(std::size_t offset) {
  return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(offset));
}
inline sock_filter give(unsigned verdict) { return BPF_STMT(BPF_RET | BPF_K, verdict); }

}  // namespace failing_calls

// From now on these calls fail in this way. False: the system does not allow it.
inline bool fail_calls(std::initializer_list<long> numbers, CallFault how) {
  using namespace failing_calls;
  fault = how;
  struct sigaction action {};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGSYS, &action, nullptr);
  std::vector<sock_filter> filter{load(offsetof(seccomp_data, nr))};
  for (const long number : numbers) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 1));
    filter.push_back(give(SECCOMP_RET_TRAP));
  }
  filter.push_back(give(SECCOMP_RET_ALLOW));
  return install(filter);
}

// How many calls were trapped.
inline unsigned failed_calls() { return failing_calls::count; }

// From now on this call is refused with this error.
inline bool refuse_call(long number, int error) {
  using namespace failing_calls;
  return install({load(offsetof(seccomp_data, nr)),
                  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 1),
                  give(SECCOMP_RET_ERRNO | static_cast<unsigned>(error)), give(SECCOMP_RET_ALLOW)});
}

// From now on openat(2) knows no O_TMPFILE, as on file systems that have none.
inline bool fail_tmpfile() {
  using namespace failing_calls;
  constexpr unsigned kFlag = static_cast<unsigned>(O_TMPFILE) & ~static_cast<unsigned>(O_DIRECTORY);
  return install({load(offsetof(seccomp_data, nr)),
                  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(SYS_openat), 0, 3),
                  load(offsetof(seccomp_data, args) + 2 * sizeof(std::uint64_t)),
                  BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, kFlag, 0, 1), give(SECCOMP_RET_ERRNO | EOPNOTSUPP),
                  give(SECCOMP_RET_ALLOW)});
}
