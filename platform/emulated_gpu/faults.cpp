// Device-side faults; see faults.h. State of the process: the handlers that were there before ours.
#include "platform/emulated_gpu/faults.h"

#include <csetjmp>
#include <csignal>

#include "platform/linux/system.h"
#include "platform/thread.h"

namespace glebe::os::emulated {
namespace {

struct Guard {
  sigjmp_buf back;
  GuardedRange range;
};
using CurrentGuard = ThreadSlot<Guard, nullptr>;

constexpr int kSignals[] = {SIGSEGV, SIGBUS};
constinit Mutex lock;  // guards `previous`, except in the handler: see install()
constinit struct sigaction previous[2] = {};

void on_fault(int number, siginfo_t* info, void*) noexcept {
  Guard* guard = CurrentGuard::get();
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  const bool is_fault = info->si_code > 0;  // not sent by kill(2)
  if (guard != nullptr && is_fault && address - guard->range.begin < guard->range.size_bytes) {
    siglongjmp(guard->back, 1);
  }
  // Somebody else's: their handler takes the place of ours, and the fault happens again. The next guard puts
  // ours in front again.
  ::sigaction(number, &previous[number == SIGBUS ? 1 : 0], nullptr);
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
    // Not deferred: the jump out of the handler leaves the mask as it was.
    ours.sa_flags = SA_SIGINFO | SA_NODEFER;
    ::sigemptyset(&ours.sa_mask);
    ::sigaction(kSignals[i], nullptr, &now);
    if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_fault) continue;
    previous[i] = now;
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
