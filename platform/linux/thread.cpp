// Threads on Linux: an exit hook on a pthread key, a fork hook by pthread_atfork, and the slow half of the
// mutex on a private futex. State: the key, once. The slow half of Mutex may run inside a signal handler or a
// forked child.
#include "platform/thread.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>

#include "platform/linux/system.h"
#include "src/base/check.h"

namespace glebe::os {
namespace {

constexpr int kSpins = 100;  // about a microsecond: shorter than a sleep and a wake-up

// 0 until set_exit_hook(), then the key + 1.
constinit std::atomic<std::uintptr_t> exit_key{0};

void pause_cpu() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

}  // namespace

bool set_exit_hook(void (*hook)(void* value)) noexcept {
  const ErrnoScope errno_scope;
  pthread_key_t key;
  if (::pthread_key_create(&key, hook) != 0) return false;
  // Release pairs with the acquire in set_exit_value() and exit_value().
  exit_key.store(std::uintptr_t{key} + 1, std::memory_order_release);
  return true;
}

bool set_exit_value(void* value) noexcept {
  const ErrnoScope errno_scope;
  const std::uintptr_t key = exit_key.load(std::memory_order_acquire);
  return key != 0 && ::pthread_setspecific(static_cast<pthread_key_t>(key - 1), value) == 0;
}

void* exit_value() noexcept {
  const std::uintptr_t key = exit_key.load(std::memory_order_acquire);
  return key != 0 ? ::pthread_getspecific(static_cast<pthread_key_t>(key - 1)) : nullptr;
}

bool set_fork_hook(void (*in_child)()) noexcept {
  const ErrnoScope errno_scope;
  return ::pthread_atfork(nullptr, nullptr, in_child) == 0;
}

bool set_fork_hooks(void (*before)(), void (*in_parent)(), void (*in_child)()) noexcept {
  const ErrnoScope errno_scope;
  return ::pthread_atfork(before, in_parent, in_child) == 0;
}

unsigned cpu_count() noexcept {
  const ErrnoScope errno_scope;
  // Called directly: sysconf() reads files with stdio on some systems. 8192 CPUs are the most that the kernel
  // knows.
  unsigned long mask[8192 / 64];
  const long size = ::syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
  if (size <= 0) return 1;
  unsigned count = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(size) / sizeof mask[0]; ++i) {
    count += static_cast<unsigned>(std::popcount(mask[i]));
  }
  return count != 0 ? count : 1;
}

unsigned current_cpu() noexcept {
  const ErrnoScope errno_scope;
  const int cpu = ::sched_getcpu();
  return cpu < 0 ? 0 : static_cast<unsigned>(cpu);
}

void Mutex::lock_slow() noexcept {
  if (held_by_me()) panic(__FILE__, __LINE__, "a mutex is locked again by the thread that holds it");
  for (int i = 0; i < kSpins; ++i) {
    if (state_.load(std::memory_order_relaxed) == kFree && try_lock()) return;
    pause_cpu();
  }
  const ErrnoScope errno_scope;
  // Whoever slept takes the mutex as contended, because it cannot know whether others sleep too; at worst
  // unlock() makes one system call for nobody. Acquire pairs with the release in unlock().
  while (state_.exchange(kContended, std::memory_order_acquire) != kFree) {
    const long result = ::syscall(SYS_futex, &state_, FUTEX_WAIT_PRIVATE, kContended, nullptr, nullptr, 0);
    // A sandbox may refuse futex(2): then the scheduler is all the waiting there is.
    if (result != 0 && errno != EAGAIN && errno != EINTR) yield();
  }
  owner_.store(thread_id(), std::memory_order_relaxed);
}

void Mutex::wake() noexcept {
  const ErrnoScope errno_scope;
  ::syscall(SYS_futex, &state_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

void yield() noexcept {
  const ErrnoScope errno_scope;
  ::sched_yield();
}

}  // namespace glebe::os
