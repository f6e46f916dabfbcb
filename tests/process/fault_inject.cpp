// A preloaded library that fails chosen system calls of the process, wherever they are issued
// (hardening 3.2): a seccomp filter traps every matching call and a SIGSYS handler either fails it or issues
// it again through one instruction that the filter lets pass. Needs libc only and no memory from the
// allocator under test; it is linked with -z initfirst, so that its constructor runs before all others.
// x86-64 Linux.
//   FAULT_CALL   mmap, munmap, mprotect, madvise or mremap
//   FAULT_MODE   once (the N-th), from (the N-th and all later ones) or every (each N-th)
//   FAULT_N      N, counted from 1 over all threads; a forked child goes on from its parent's count
//   FAULT_ERRNO  the error number to return
// At exit the process prints "fault_inject: matched M failed F" on stderr.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

extern "C" {
long fault_inject_syscall(long number, long a, long b, long c, long d, long e, long f);
extern const char fault_inject_allowed[];
}

// The one place from which a matching call passes; the filter compares the address after the syscall
// instruction.
asm(R"(
  .text
  .globl fault_inject_syscall
  .type fault_inject_syscall, @function
fault_inject_syscall:
  mov %rdi, %rax
  mov %rsi, %rdi
  mov %rdx, %rsi
  mov %rcx, %rdx
  mov %r8, %r10
  mov %r9, %r8
  mov 8(%rsp), %r9
  syscall
  .globl fault_inject_allowed
fault_inject_allowed:
  ret
  .size fault_inject_syscall, . - fault_inject_syscall
)");

namespace {

enum class Mode { kOnce, kFrom, kEvery };

struct Plan {
  long call = -1;
  Mode mode = Mode::kOnce;
  long n = 0;
  long error = 0;
};

constinit Plan plan;
constinit std::atomic<long> matched{0};
constinit std::atomic<long> failed{0};

long call_number(const char* name) {
  if (std::strcmp(name, "mmap") == 0) return SYS_mmap;
  if (std::strcmp(name, "munmap") == 0) return SYS_munmap;
  if (std::strcmp(name, "mprotect") == 0) return SYS_mprotect;
  if (std::strcmp(name, "madvise") == 0) return SYS_madvise;
  if (std::strcmp(name, "mremap") == 0) return SYS_mremap;
  return -1;
}

bool must_fail(long count) {
  switch (plan.mode) {
    case Mode::kOnce:
      return count == plan.n;
    case Mode::kFrom:
      return count >= plan.n;
    default:
      return count % plan.n == 0;
  }
}

void on_sigsys(int, siginfo_t*, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const long count = matched.fetch_add(1, std::memory_order_relaxed) + 1;
  if (must_fail(count)) {
    failed.fetch_add(1, std::memory_order_relaxed);
    registers[REG_RAX] = -plan.error;
    return;
  }
  registers[REG_RAX] =
      fault_inject_syscall(plan.call, registers[REG_RDI], registers[REG_RSI], registers[REG_RDX],
                           registers[REG_R10], registers[REG_R8], registers[REG_R9]);
}

bool install_filter() {
  const auto allowed = reinterpret_cast<std::uintptr_t>(fault_inject_allowed);
  constexpr auto kPointer = static_cast<std::uint32_t>(offsetof(seccomp_data, instruction_pointer));
  const auto word = static_cast<std::uint16_t>(BPF_LD | BPF_W | BPF_ABS);
  const auto equal = static_cast<std::uint16_t>(BPF_JMP | BPF_JEQ | BPF_K);
  const auto answer = static_cast<std::uint16_t>(BPF_RET | BPF_K);
  sock_filter code[] = {
      {word, 0, 0, static_cast<std::uint32_t>(offsetof(seccomp_data, arch))},
      {equal, 0, 6, AUDIT_ARCH_X86_64},
      {word, 0, 0, static_cast<std::uint32_t>(offsetof(seccomp_data, nr))},
      {equal, 0, 4, static_cast<std::uint32_t>(plan.call)},
      {word, 0, 0, kPointer},
      {equal, 0, 3, static_cast<std::uint32_t>(allowed)},
      {word, 0, 0, kPointer + 4},
      {equal, 0, 1, static_cast<std::uint32_t>(allowed >> 32)},
      {answer, 0, 0, SECCOMP_RET_ALLOW},
      {answer, 0, 0, SECCOMP_RET_TRAP},
  };
  const sock_fprog program{sizeof code / sizeof code[0], code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// libc's own environ is not set yet when the first constructor runs, so the loader's argument is searched.
const char* value_of(char** environment, const char* name) {
  const std::size_t length = std::strlen(name);
  for (char** entry = environment; *entry != nullptr; ++entry) {
    if (std::strncmp(*entry, name, length) == 0 && (*entry)[length] == '=') return *entry + length + 1;
  }
  return nullptr;
}

long number_of(char** environment, const char* name) {
  const char* text = value_of(environment, name);
  return text == nullptr ? 0 : std::strtol(text, nullptr, 10);
}

Mode mode_of(const char* name) {
  if (std::strcmp(name, "from") == 0) return Mode::kFrom;
  return std::strcmp(name, "every") == 0 ? Mode::kEvery : Mode::kOnce;
}

__attribute__((constructor)) void start(int, char**, char** environment) {
  const char* call = value_of(environment, "FAULT_CALL");
  const char* mode = value_of(environment, "FAULT_MODE");
  if (call == nullptr || mode == nullptr) return;
  plan.call = call_number(call);
  plan.mode = mode_of(mode);
  plan.n = number_of(environment, "FAULT_N");
  plan.error = number_of(environment, "FAULT_ERRNO");
  struct sigaction action {};
  action.sa_sigaction = on_sigsys;
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
  const bool ready =
      plan.call >= 0 && plan.n > 0 && sigaction(SIGSYS, &action, nullptr) == 0 && install_filter();
  if (!ready) _exit(125);
}

__attribute__((destructor)) void report() {
  if (plan.call < 0) return;
  char text[96];
  const int length = std::snprintf(text, sizeof text, "fault_inject: matched %ld failed %ld\n",
                                   matched.load(), failed.load());
  if (write(STDERR_FILENO, text, static_cast<std::size_t>(length)) < 0) _exit(126);
}

}  // namespace
