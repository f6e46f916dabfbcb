// Where threads run, and behind which (platform/scheduling.h). What would break: a thread of the pager is
// left on one CPU, or behind all others, for good.
#include "platform/scheduling.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "platform/thread.h"
#include "tests/heap_child.h"

#include "tests/catch.h"

using namespace glebe;

namespace {

cpu_set_t cpus_of(int thread) {
  cpu_set_t set;
  CPU_ZERO(&set);
  REQUIRE(::sched_getaffinity(thread, sizeof set, &set) == 0);
  return set;
}

// A thread that runs, or sleeps, until the scope ends.
class Other {
 public:
  explicit Other(bool is_busy)
      : thread_([this, is_busy] {
          number_.store(os::current_thread());
          while (!is_done_.load()) {
            if (!is_busy) ::usleep(1000);
          }
        }) {
    while (number_.load() == 0) os::yield();
  }
  ~Other() {
    is_done_.store(true);
    thread_.join();
  }
  [[nodiscard]] int number() const { return number_.load(); }

 private:
  std::atomic<int> number_{0};
  std::atomic<bool> is_done_{false};
  std::thread thread_;
};

}  // namespace

TEST_CASE("A thread is made to run on one CPU, on all but one, and anywhere again", "[platform]") {
  const Other other(false);
  const cpu_set_t before = cpus_of(0);
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  REQUIRE(os::run_only_on(other.number(), first));
  cpu_set_t now = cpus_of(other.number());
  CHECK(CPU_COUNT(&now) == 1);
  CHECK(CPU_ISSET(first, &now));
  CHECK(os::run_not_on(other.number(), first) == (CPU_COUNT(&before) > 1));
  if (CPU_COUNT(&before) > 1) {
    now = cpus_of(other.number());
    CHECK(CPU_COUNT(&now) == CPU_COUNT(&before) - 1);
    CHECK_FALSE(CPU_ISSET(first, &now));
  }
  os::run_anywhere(other.number());
  now = cpus_of(other.number());
  CHECK(CPU_EQUAL(&now, &before));
  CHECK_FALSE(os::run_only_on(other.number(), 8191));  // there is no such CPU
}

TEST_CASE("Where a thread runs is said, whatever its name is", "[platform]") {
  const Other busy(true);
  const cpu_set_t all = cpus_of(0);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &all)) continue;
    REQUIRE(os::run_only_on(busy.number(), cpu));
    CHECK(os::cpu_of_thread(busy.number()) == cpu);
  }
  REQUIRE(::pthread_setname_np(::pthread_self(), ") S 1 2 (") == 0);
  const int own = os::cpu_of_thread(os::current_thread());
  REQUIRE(own >= 0);
  CHECK(CPU_ISSET(own, &all));
  CHECK(os::cpu_of_thread(1 << 29) == -1);
}

TEST_CASE("A thread goes behind all others, and back where that is said to be allowed", "[platform]") {
  const Other other(false);
  const bool may_return = os::may_return_from_behind(other.number());
  REQUIRE(os::run_behind_others(other.number()));
  CHECK(::sched_getscheduler(other.number()) == SCHED_IDLE);
  os::answer_quickly(other.number());
  CHECK(::sched_getscheduler(other.number()) == (may_return ? SCHED_OTHER : SCHED_IDLE));
  if (::geteuid() == 0) CHECK(may_return);
}

TEST_CASE("Without the right to come back, nobody is told that a thread may go behind", "[platform]") {
  if (::geteuid() != 0) return;  // the test above has it then
  CHECK(in_child([] {
          const rlimit none = {0, 0};
          if (::setrlimit(RLIMIT_NICE, &none) != 0 || ::setuid(65534) != 0) return 1;
          if (os::may_return_from_behind(os::current_thread())) return 2;
          if (!os::run_behind_others(os::current_thread())) return 3;
          os::answer_quickly(0);
          return ::sched_getscheduler(0) == SCHED_IDLE ? 0 : 4;
        }) == 0);
}
