// Threads on Windows. No thread_local: with mingw it goes through emutls, which calls malloc. Two TLS slots
// hold the pointers, an FLS slot exists only for its callback, which Windows calls when a thread ends. State:
// the indices, each taken once and never given back.
#include "platform/thread.h"

#include <bit>

#include "platform/windows/system.h"
#include "src/base/check.h"

namespace glebe::os {
namespace {

constexpr int kSpins = 100;      // about a microsecond: shorter than a sleep and a wake-up
constexpr int kMaxHookRuns = 4;  // for one thread, as often as POSIX asks for
constexpr DWORD kFallbackSleepMs = 1;

// An index + 1; 0 while there is none.
constinit std::atomic<DWORD> slot_index{0};
constinit std::atomic<DWORD> exit_index{0};
constinit std::atomic<DWORD> exit_callback_index{0};
constinit std::atomic<void (*)(void*)> exit_hook{nullptr};

// Threads that look at the same time take one index each and the first to store it wins.
DWORD take_tls_index(std::atomic<DWORD>& index) noexcept {
  DWORD known = index.load(std::memory_order_acquire);
  if (known != 0) return known;
  const DWORD mine = ::TlsAlloc();
  if (mine == TLS_OUT_OF_INDEXES) return 0;
  if (index.compare_exchange_strong(known, mine + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
    return mine + 1;
  }
  static_cast<void>(::TlsFree(mine));
  return known;
}

void* tls_get(const std::atomic<DWORD>& index) noexcept {
  const LastErrorScope last_error_scope;
  const DWORD known = index.load(std::memory_order_acquire);
  return known != 0 ? ::TlsGetValue(known - 1) : nullptr;
}

// When the process ends, Windows stops the other threads wherever they are and then calls back: they may hold
// locks.
bool process_is_ending() noexcept {
  return system_functions.process_is_ending != nullptr && system_functions.process_is_ending() != 0;
}

// Wine holds a lock of its own during this call, which a starting thread may be waiting for with the loader's
// lock in its hands: nothing in here may take the loader's lock.
void WINAPI run_exit_hook(void*) noexcept {
  const LastErrorScope last_error_scope;
  if (process_is_ending()) return;
  const DWORD index = exit_index.load(std::memory_order_acquire);
  for (int runs = 0; runs < kMaxHookRuns; ++runs) {
    void* value = ::TlsGetValue(index - 1);
    if (value == nullptr) return;
    static_cast<void>(::TlsSetValue(index - 1, nullptr));
    exit_hook.load(std::memory_order_relaxed)(value);
  }
}

}  // namespace

void* thread_slot_get() noexcept { return tls_get(slot_index); }

void thread_slot_set(void* value) noexcept {
  const LastErrorScope last_error_scope;
  const DWORD index = take_tls_index(slot_index);
  // Without an index every thread goes on with its initial value.
  if (index != 0) static_cast<void>(::TlsSetValue(index - 1, value));
}

std::uintptr_t thread_id() noexcept { return ::GetCurrentThreadId(); }

bool set_exit_hook(void (*hook)(void* value)) noexcept {
  const LastErrorScope last_error_scope;
  if (take_tls_index(exit_index) == 0) return false;
  exit_hook.store(hook, std::memory_order_relaxed);
  const DWORD index = ::FlsAlloc(run_exit_hook);
  if (index == FLS_OUT_OF_INDEXES) return false;
  // Release pairs with the acquire in set_exit_value().
  exit_callback_index.store(index + 1, std::memory_order_release);
  return true;
}

bool set_exit_value(void* value) noexcept {
  const LastErrorScope last_error_scope;
  const DWORD callback = exit_callback_index.load(std::memory_order_acquire);
  if (callback == 0) return false;
  const DWORD index = exit_index.load(std::memory_order_acquire);
  if (::TlsSetValue(index - 1, value) == 0) return false;
  // Any value that is not null makes Windows call back. Inside the hook the loop above looks again by itself.
  return value == nullptr || ::FlsSetValue(callback - 1, &exit_index) != 0;
}

void* exit_value() noexcept { return tls_get(exit_index); }

bool set_fork_hook(void (*)()) noexcept { return true; }

unsigned cpu_count() noexcept {
  const LastErrorScope last_error_scope;
  DWORD_PTR mine = 0, all = 0;
  // Both masks are 0 for a process that spans several groups of processors.
  if (::GetProcessAffinityMask(::GetCurrentProcess(), &mine, &all) != 0 && mine != 0) {
    return static_cast<unsigned>(std::popcount(static_cast<std::uint64_t>(mine)));
  }
  SYSTEM_INFO info{};
  ::GetSystemInfo(&info);
  return info.dwNumberOfProcessors != 0 ? info.dwNumberOfProcessors : 1;
}

unsigned current_cpu() noexcept { return ::GetCurrentProcessorNumber(); }

void Mutex::lock_slow() noexcept {
  if (held_by_me()) panic(__FILE__, __LINE__, "a mutex is locked again by the thread that holds it");
  for (int i = 0; i < kSpins; ++i) {
    if (state_.load(std::memory_order_relaxed) == kFree && try_lock()) return;
    YieldProcessor();
  }
  const LastErrorScope last_error_scope;
  // Whoever slept takes the mutex as contended, because it cannot know whether others sleep too; at worst
  // unlock() wakes nobody. Acquire pairs with the release in unlock().
  while (state_.exchange(kContended, std::memory_order_acquire) != kFree) {
    std::uint32_t contended = kContended;
    if (system_functions.wait_on_address != nullptr) {
      static_cast<void>(system_functions.wait_on_address(&state_, &contended, sizeof contended, INFINITE));
    } else {
      ::Sleep(kFallbackSleepMs);
    }
  }
  owner_.store(thread_id(), std::memory_order_relaxed);
}

void Mutex::wake() noexcept {
  const LastErrorScope last_error_scope;
  // Without WaitOnAddress nobody sleeps for longer than kFallbackSleepMs.
  if (system_functions.wake_by_address != nullptr) system_functions.wake_by_address(&state_);
}

void yield() noexcept {
  const LastErrorScope last_error_scope;
  static_cast<void>(::SwitchToThread());
}

}  // namespace glebe::os
