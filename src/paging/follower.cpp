#include "src/paging/follower.h"

#include "platform/process.h"
#include "platform/scheduling.h"
#include "platform/service.h"
#include "platform/thread.h"
#include "src/paging/pager_state.h"

namespace glebe::paging {
namespace {
constexpr auto kRelaxed = std::memory_order_relaxed;
}

constinit Follower follower;

void Follower::start(int listener_thread) noexcept {
  // In a forked child what is here is a copy of what the parent had.
  thread_.store(0, kRelaxed);
  streak_.store(0, kRelaxed);
  listener_.store(listener_thread, std::memory_order_release);
}

void Follower::ask() noexcept {
  asked_.fetch_add(1, std::memory_order_release);
  os::wake_one(asked_);
}

// The listener goes where the thread runs, and the evictor elsewhere. False: that cannot be.
bool Follower::go_along() noexcept {
  const int cpu = os::cpu_of_thread(thread_.load(kRelaxed));
  if (cpu < 0) return false;
  if (cpu == followed_cpu()) return true;
  const int evictor = pager.evictor_thread.load(kRelaxed);
  if (evictor == 0 || !os::run_not_on(evictor, cpu)) return false;
  if (!os::run_only_on(listener_.load(kRelaxed), cpu)) return false;
  followed_cpu_.store(cpu);
  return true;
}

// Until the faults stop or come from several threads, or the listener is kept waiting.
Follower::Ended Follower::follow() noexcept {
  constexpr std::uint64_t kTickNs = 2'000'000;
  constexpr unsigned kQuietTicks = 10, kStrangerShare = 4;
  const int listener = listener_.load(std::memory_order_acquire);
  const bool may_be_behind = os::may_return_from_behind(listener);
  std::uint32_t faults = faults_.load(kRelaxed), strangers = strangers_.load(kRelaxed);
  bool did_wait = false;
  for (unsigned quiet = 0; quiet < kQuietTicks && go_along();) {
    if (may_be_behind && !is_behind_) is_behind_ = os::run_behind_others(listener);
    os::sleep_ns(kTickNs);
    const std::uint32_t faults_now = faults_.load(kRelaxed), strangers_now = strangers_.load(kRelaxed);
    const std::uint32_t own = faults_now - faults, others = strangers_now - strangers;
    faults = faults_now;
    strangers = strangers_now;
    if (others * kStrangerShare > own) return Ended::quiet;
    quiet = own != 0 ? 0 : quiet + 1;
    const bool does_wait = is_busy_.load(kRelaxed) || pager.faults.has_unread_fault();
    if (does_wait && did_wait && own + others == 0) return Ended::kept_waiting;
    did_wait = does_wait;
  }
  return Ended::quiet;
}

void Follower::send_away(int evictor_thread) const noexcept {
  for (int cpu = followed_cpu(), now = cpu;; cpu = now) {
    const int like = follower_.load();  // our own mask is what we change
    if (cpu < 0 || !os::run_not_on(evictor_thread, cpu, like)) os::run_anywhere(evictor_thread, like);
    now = followed_cpu();
    if (now == cpu) return;
  }
}

// False: the listener stays behind all others.
bool Follower::leave() noexcept {
  const int listener = listener_.load(kRelaxed);
  const bool is_lost = is_behind_ && !os::answer_quickly(listener);
  is_behind_ = false;
  os::run_anywhere(listener);
  followed_cpu_.store(-1);  // first, so that the evictor sees it when it was on that CPU just now
  os::run_anywhere(pager.evictor_thread.load(kRelaxed));
  is_following_.store(false, kRelaxed);
  return !is_lost;
}

void Follower::run() noexcept {
  constexpr std::uint64_t kPauseNs = 100'000'000, kLongPauseNs = 2'000'000'000, kNapNs = 3'600'000'000'000;
  is_behind_ = false;
  follower_.store(os::current_thread());
  is_following_.store(false, kRelaxed);
  for (std::uint32_t answered = asked_.load(std::memory_order_acquire);;) {
    os::wait_on(asked_, answered, kNapNs);
    const std::uint32_t asked = asked_.load(std::memory_order_acquire);
    if (asked == answered) continue;
    answered = asked;
    if (os::cpu_count() < 2) continue;  // they are together anyway
    is_following_.store(true, kRelaxed);
    count(pager.counters.follows);
    const Ended ended = follow();
    if (!leave()) return;
    os::sleep_ns(ended == Ended::quiet ? kPauseNs : kLongPauseNs);
    answered = asked_.load(std::memory_order_acquire);
  }
}

}  // namespace glebe::paging
