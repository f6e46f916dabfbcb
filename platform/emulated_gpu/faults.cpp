// Device-side faults; see faults.h. State of the process: the handlers that were there before ours.
//
// A handler can take no lock, and a record of the size of a sigaction cannot be written at once. So each
// handler that was met is kept in a place of its own, which is never written again, and the handler reads
// which place counts.
#include "platform/emulated_gpu/faults.h"

#include <atomic>
#include <csetjmp>
#include <csignal>

#include "platform/linux/system.h"
#include "platform/thread.h"
#include "src/base/check.h"

namespace glebe::os::emulated {
namespace {

struct Guard {
  sigjmp_buf back;
  GuardedRange range;
};
using CurrentGuard = ThreadSlot<Guard, nullptr>;

constexpr int kSignals[] = {SIGSEGV, SIGBUS};
constexpr unsigned kKnownMax = 64;  // handlers of one signal that a process ever puts in place of ours

struct Previous {
  struct sigaction known[kKnownMax];  // [0 .. count) are filled
  std::atomic<unsigned> count;
  std::atomic<unsigned> current;  // number + 1; 0: none yet
};
constinit Mutex lock;  // of those who write `previous`
constinit Previous previous[2] = {};

bool is_same(const struct sigaction& one, const struct sigaction& other) noexcept {
  if (one.sa_flags != other.sa_flags) return false;
  const bool has_info = (one.sa_flags & SA_SIGINFO) != 0;
  if (has_info ? one.sa_sigaction != other.sa_sigaction : one.sa_handler != other.sa_handler) return false;
  for (int number = 1; number < NSIG; ++number) {
    if (::sigismember(&one.sa_mask, number) != ::sigismember(&other.sa_mask, number)) return false;
  }
  return true;
}

// Under the lock.
void remember(Previous& to, const struct sigaction& met) noexcept {
  const unsigned count = to.count.load(std::memory_order_relaxed);
  unsigned at = 0;
  while (at < count && !is_same(to.known[at], met)) ++at;
  if (at == count) {
    CHECK(count < kKnownMax);
    to.known[at] = met;
    to.count.store(count + 1, std::memory_order_relaxed);
  }
  to.current.store(at + 1, std::memory_order_release);  // pairs with acquire in on_fault()
}

void on_fault(int number, siginfo_t* info, void* context) noexcept {
  Guard* guard = CurrentGuard::get();
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  const bool is_fault = info->si_code > 0;  // not sent by kill(2)
  if (guard != nullptr && is_fault && address - guard->range.begin < guard->range.size_bytes) {
    // The thread sanitizer blocks all signals around every handler, and the jump leaves the mask alone.
    ::pthread_sigmask(SIG_SETMASK, &static_cast<const ucontext_t*>(context)->uc_sigmask, nullptr);
    siglongjmp(guard->back, 1);
  }
  // Somebody else's: their handler takes the place of ours, and the fault happens again. The next guard puts
  // ours in front again.
  Previous& before = previous[number == SIGBUS ? 1 : 0];
  const unsigned current = before.current.load(std::memory_order_acquire);
  CHECK(current != 0);  // set before our handler was
  ::sigaction(number, &before.known[current - 1], nullptr);
  if (!is_fault) ::raise(number);
}

// Test frameworks and runtimes put handlers of their own in place of ours: looked at each time.
void install() noexcept {
  for (int i = 0; i < 2; ++i) {
    struct sigaction now;
    if (::sigaction(kSignals[i], nullptr, &now) != 0) continue;
    if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_fault) continue;
    const Lock hold(lock);
    struct sigaction ours = {};
    ours.sa_sigaction = on_fault;
    // Not deferred: the handler may end by a jump.
    ours.sa_flags = SA_SIGINFO | SA_NODEFER;
    ::sigemptyset(&ours.sa_mask);
    ::sigaction(kSignals[i], nullptr, &now);
    if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_fault) continue;
    remember(previous[i], now);
    ::sigaction(kSignals[i], &ours, nullptr);
  }
}

}  // namespace

bool run_guarded(const GuardedRange& range, void (*body)(void* argument), void* argument) noexcept {
  const ErrnoScope errno_scope;
  install();
  Guard guard;
  guard.range = range;
  if (sigsetjmp(guard.back, 0) != 0) {
    CurrentGuard::set(nullptr);
    return false;
  }
  CurrentGuard::set(&guard);
  body(argument);
  CurrentGuard::set(nullptr);
  return true;
}

void allow_fault_signals() noexcept {
  sigset_t faults;
  ::sigemptyset(&faults);
  for (const int number : kSignals) ::sigaddset(&faults, number);
  ::pthread_sigmask(SIG_UNBLOCK, &faults, nullptr);
}

}  // namespace glebe::os::emulated
