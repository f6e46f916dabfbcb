// Keeps the listener on the CPU of the thread that faults (namespace glebe::paging).
//
// A fault costs two switches: from the thread to the listener and back. When the two run on different CPUs,
// each switch wakes a CPU that may sleep, which takes several times longer than the answer, most of all in a
// virtual machine. So while one thread makes nearly all the faults, the listener runs on its CPU. There it is
// a thread that runs behind all others (SCHED_IDLE): the scheduler takes a CPU that runs nothing else for an
// idle one, and therefore wakes the thread where it was. The evictor has to go elsewhere meanwhile, because
// beside it the thread would look for another CPU; it comes for moments only, to move pages.
//
// A listener behind all others may be kept waiting by any thread. A thread of its own, the follower, watches
// for that. It makes all the changes, and makes the listener an ordinary thread again when a fault waited for
// a tick, read or not, and nothing was done.
#pragma once

#include <atomic>
#include <cstdint>

namespace glebe::paging {

class Follower {
 public:
  // By the listener: before its first fault, and for each.
  void start(int listener_thread) noexcept;
  void note_fault(int thread) noexcept {
    constexpr auto kRelaxed = std::memory_order_relaxed;
    if (thread != thread_.load(kRelaxed)) {
      strangers_.store(strangers_.load(kRelaxed) + 1, kRelaxed);
      streak_.store(0, kRelaxed);
      if (!is_following_.load(kRelaxed)) thread_.store(thread, kRelaxed);
      return;
    }
    faults_.store(faults_.load(kRelaxed) + 1, kRelaxed);
    const std::uint32_t streak = streak_.load(kRelaxed) + 1;
    streak_.store(streak, kRelaxed);
    if (streak % kStreak == 0 && !is_following_.load(kRelaxed)) ask();
  }
  // By the listener: between reading faults and waking who waits for the last of them.
  void note_busy(bool is_busy) noexcept { is_busy_.store(is_busy, std::memory_order_relaxed); }
  // By the follower. Returns when the listener went behind all others and must stay there, because the
  // program gave up the right to bring it back (setuid(2)); then the caller has to listen in its place.
  void run() noexcept;
  // The CPU of the thread that is followed; -1: none is.
  [[nodiscard]] int followed_cpu() const noexcept { return followed_cpu_.load(); }
  // By the evictor, after it ran on that CPU for a moment: it goes where it belongs now.
  void send_away(int evictor_thread) const noexcept;
  // Before the threads of a forked child start: what is here is a copy of what the parent had.
  void forget_in_child() noexcept { followed_cpu_.store(-1); }
  // Whether it is still this thread that listens; when not, it stops after what it has read.
  [[nodiscard]] bool is_listener(int thread) const noexcept {
    return listener_.load(std::memory_order_acquire) == thread;
  }

 private:
  static constexpr std::uint32_t kStreak = 32;  // faults of one thread in a row
  enum class Ended : std::uint8_t { quiet, kept_waiting };

  void ask() noexcept;
  [[nodiscard]] bool go_along() noexcept;
  [[nodiscard]] Ended follow() noexcept;
  [[nodiscard]] bool leave() noexcept;

  // Written by the listener.
  std::atomic<int> listener_{0}, thread_{0};
  std::atomic<std::uint32_t> faults_{0}, strangers_{0};  // of thread_, and of others
  std::atomic<std::uint32_t> streak_{0};
  std::atomic<std::uint32_t> asked_{0};  // futex
  std::atomic<bool> is_busy_{false};
  // Written by the follower.
  std::atomic<bool> is_following_{false};
  std::atomic<int> followed_cpu_{-1}, follower_{0};  // the second: its thread
  bool is_behind_ = false;
};
extern constinit Follower follower;

}  // namespace glebe::paging
