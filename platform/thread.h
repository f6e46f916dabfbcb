// Threads: one thread-local pointer, an exit hook, fork hooks and a mutex (namespace glebe::os).
//
// Nothing here allocates by itself; what libc allocates on our behalf (key tables) comes back to us as
// ordinary malloc calls, so callers make the heap usable first.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace glebe::os {

// The thread-local pointer of the fast path. `kInitial` is what every thread sees before its first set(): it
// must be valid to use, so that no fast path tests for "initialised". One instantiation in the whole library:
// initial-exec TLS of a library opened by dlopen comes from a small pool.
//
// thread_id() differs between all threads that are alive, is never 0, and is the same in parent and child for
// the thread that forks.
#if defined(_WIN32)
[[nodiscard]] std::uintptr_t thread_id() noexcept;
void* thread_slot_get() noexcept;  // nullptr before the first set in this thread
void thread_slot_set(void* value) noexcept;
template <class T, T* kInitial>
struct ThreadSlot {
  [[nodiscard]] static T* get() noexcept {
    T* value = static_cast<T*>(thread_slot_get());
    return value != nullptr ? value : kInitial;
  }
  static void set(T* value) noexcept { thread_slot_set(value); }
};
#else
[[nodiscard]] inline std::uintptr_t thread_id() noexcept {
  return reinterpret_cast<std::uintptr_t>(__builtin_thread_pointer());
}
template <class T, T* kInitial>
struct ThreadSlot {
  [[nodiscard]] static T* get() noexcept { return value_; }
  static void set(T* value) noexcept { value_ = value; }

 private:
  static inline thread_local constinit T* value_ __attribute__((tls_model("initial-exec"))) = kInitial;
};
#endif

// A second, slower thread-local pointer whose hook runs when the thread ends (after C++ thread_local
// destructors, as far as the system lets us order it). set_exit_value(nullptr) cancels. The hook may call
// set_exit_value() again to run once more. False when the system has no key left: the hook will not run.
[[nodiscard]] bool set_exit_hook(void (*hook)(void* value)) noexcept;  // once per process
[[nodiscard]] bool set_exit_value(void* value) noexcept;
[[nodiscard]] void* exit_value() noexcept;  // nullptr before set_exit_hook()

// Runs `in_child` in the child after every fork(2) made through libc, before fork returns. There is no
// prefork hook on purpose: fork never waits for a lock of ours (docs/design.md, "Fork"). No effect on systems
// without fork.
[[nodiscard]] bool set_fork_hook(void (*in_child)()) noexcept;

// The same with hooks in the parent: before the fork, in the order opposite to that of the calls, and after
// it, whether it succeeded or not. They must not wait without a bound. For the paging tier.
[[nodiscard]] bool set_fork_hooks(void (*before)(), void (*in_parent)(), void (*in_child)()) noexcept;

[[nodiscard]] unsigned cpu_count() noexcept;    // CPUs that this process may use, at least 1; never allocates
[[nodiscard]] unsigned current_cpu() noexcept;  // a hint for sharding; 0 when unknown

// A futex-style mutex: 16 bytes, constant-initialised, never allocates, not recursive. It knows its owner, so
// that a signal handler that re-enters the allocator can be told from contention, and so that a forked child
// can tell the locks it holds from locks whose owners do not exist in the child.
class Mutex {
 public:
  constexpr Mutex() noexcept = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  [[nodiscard]] bool try_lock() noexcept {
    std::uint32_t expected = kFree;
    // Acquire pairs with the release in unlock().
    if (!state_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire,
                                        std::memory_order_relaxed)) {
      return false;
    }
    owner_.store(thread_id(), std::memory_order_relaxed);
    return true;
  }
  void lock() noexcept {
    if (!try_lock()) lock_slow();
  }
  void unlock() noexcept {
    owner_.store(0, std::memory_order_relaxed);
    if (state_.exchange(kFree, std::memory_order_release) == kContended) wake();
  }
  [[nodiscard]] bool held_by_me() const noexcept {
    return owner_.load(std::memory_order_relaxed) == thread_id();
  }
  [[nodiscard]] bool is_held() const noexcept { return state_.load(std::memory_order_relaxed) != kFree; }

  // Only in a forked child, while it has one thread: makes the mutex free whoever held it.
  void reset_in_child() noexcept {
    owner_.store(0, std::memory_order_relaxed);
    state_.store(kFree, std::memory_order_relaxed);
  }

 private:
  static constexpr std::uint32_t kFree = 0, kHeld = 1, kContended = 2;
  void
  lock_slow() noexcept;  // spins briefly, then sleeps in the kernel; aborts with a message on self-deadlock
  void wake() noexcept;

  std::atomic<std::uint32_t> state_{kFree};
  std::atomic<std::uintptr_t> owner_{0};
};

// Holds a mutex for a scope.
class [[nodiscard]] Lock {
 public:
  explicit Lock(Mutex& mutex) noexcept : mutex_(mutex) { mutex_.lock(); }
  ~Lock() { mutex_.unlock(); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  Mutex& mutex_;
};

// Lets another thread run; at most a scheduling quantum.
void yield() noexcept;

}  // namespace glebe::os
