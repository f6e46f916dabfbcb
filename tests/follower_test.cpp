// The listener on the CPU of the thread that faults (src/paging/follower.h), in whole runs. What would break:
// faults wait for ever or too long because the thread that answers them is behind all others, or on one CPU.
#include "src/paging/follower.h"

#include <dirent.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "platform/fault.h"
#include "platform/process.h"
#include "platform/scheduling.h"
#include "platform/thread.h"
#include "src/paging/pager.h"
#include "src/paging/pager_state.h"
#include "tests/heap_calls.h"
#include "tests/heap_child.h"

#include "tests/catch.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

// A sanitizer's shadow counts as used, so that the pager presses all the time.
constexpr bool kHasShadow = kThreadSanitizer || kAddressSanitizer;
constexpr std::size_t kBudget = kHasShadow ? 4 * kMiB : 24 * kMiB;

bool may_follow() {
  os::UserFault faults;
  const bool is_allowed = faults.open() == os::FaultSupport::full && os::cpu_count() > 1;
  faults.close();
  if (!is_allowed) WARN("userfaultfd is not allowed here, or there is one CPU: nothing is followed");
  return is_allowed;
}

int thread_called(const std::string& name) {
  DIR* folder = ::opendir("/proc/self/task");
  int found = 0;
  while (const dirent* entry = ::readdir(folder)) {
    std::ifstream file("/proc/self/task/" + std::string(entry->d_name) + "/comm");
    std::string text;
    if (std::getline(file, text) && text == name) found = std::atoi(entry->d_name);
  }
  ::closedir(folder);
  return found;
}

int cpus_of(int thread) {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(thread, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
}

struct Listener {
  int thread = thread_called("glebe-fault");

  [[nodiscard]] int cpus() const { return cpus_of(thread); }
  // On one CPU, and behind all others where that can be undone.
  [[nodiscard]] bool is_following() const {
    const bool is_behind = ::sched_getscheduler(thread) == SCHED_IDLE;
    return cpus() == 1 && is_behind == os::may_return_from_behind(thread);
  }
  [[nodiscard]] bool is_ordinary() const {
    return cpus() == static_cast<int>(os::cpu_count()) && ::sched_getscheduler(thread) == SCHED_OTHER;
  }
};

// Pages whose first word is their number, more than the budget holds.
class Pages {
 public:
  Pages() : memory_(static_cast<unsigned char*>(allocate(kCount * kPageBytes))) {
    for (std::size_t i = 0; i < kCount; ++i) word(i) = i;
  }
  // Reads so many, spread over all of them. Returns how many were wrong.
  std::size_t touch(std::size_t count) {
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < count; ++i) {
      at_ = (at_ + 7919) % kCount;
      wrong += word(at_) != at_ ? 1u : 0u;
    }
    return wrong;
  }

 private:
  static constexpr std::size_t kCount = 4 * kBudget / kPageBytes;
  [[nodiscard]] volatile std::size_t& word(std::size_t page) const {
    return *reinterpret_cast<volatile std::size_t*>(memory_ + page * kPageBytes);
  }
  unsigned char* memory_;
  std::size_t at_ = 0;
};

// Calls work() until the condition holds; false: it did not within what a slow machine may need.
template <class Work, class Condition>
bool work_until(Work work, Condition condition) {
  const std::uint64_t end_ms = os::clock_coarse_ms() + 30'000;
  while (!condition()) {
    if (os::clock_coarse_ms() > end_ms) return false;
    work();
  }
  return true;
}

bool begin() {
  PagerOptions options;
  options.wish = PagerWish::uffd;
  options.budget_bytes = kBudget;
  return start_pager(options) == PagerMode::uffd;
}

int follows_and_leaves() {
  if (!begin()) return 1;
  const Listener listener;
  if (!listener.is_ordinary()) return 2;
  Pages pages;
  std::size_t wrong = 0;
  const auto touch = [&] { wrong += pages.touch(200); };
  for (int round = 0; round < 2; ++round) {
    if (!work_until(touch, [&] { return listener.is_following(); })) return 3;
    if (!work_until([] { sleep_ms(5); }, [&] { return listener.is_ordinary(); })) return 4;
    const int evictor = thread_called("glebe-evict");  // was kept away from the thread
    if (!work_until([] { sleep_ms(5); }, [&] { return cpus_of(evictor) == cpus_of(0); })) return 6;
  }
  return wrong == 0 && pager_stats().follows >= 2 ? 0 : 5;
}

// The thread that was followed computes, and another one faults.
int does_not_starve() {
  if (!begin()) return 1;
  const Listener listener;
  Pages pages, others;
  std::size_t wrong = 0;
  if (!work_until([&] { wrong += pages.touch(200); }, [&] { return listener.is_following(); })) return 2;
  std::atomic<std::size_t> rounds{0}, wrong_there{0};
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop.load()) {
      wrong_there += others.touch(100);
      rounds.fetch_add(1);
    }
  });
  const bool is_over = work_until([] {}, [&] { return rounds.load() > 50 && listener.is_ordinary(); });
  stop.store(true);
  other.join();
  return is_over ? (wrong + wrong_there == 0 ? 0 : 3) : 4;
}

// What the parent's listener was, the child's is not.
int child_begins_anew() {
  if (!begin()) return 1;
  const Listener listener;
  Pages pages;
  std::size_t wrong = 0;
  const auto touch = [&] { wrong += pages.touch(200); };
  if (!work_until(touch, [&] { return listener.is_following(); })) return 2;
  const int status = in_child([&] {
    if (pages.touch(1) != 0) return 1;
    const Listener mine;
    if (!work_until(touch, [&] { return mine.is_following() && pager_stats().follows != 0; })) return 2;
    if (!work_until([] { sleep_ms(5); }, [&] { return mine.is_ordinary(); })) return 3;
    return wrong == 0 ? 0 : 4;
  });
  if (status != 0) return 10 + status;
  return work_until([] { sleep_ms(5); }, [&] { return listener.is_ordinary(); }) ? 0 : 3;
}

// With one CPU there is nothing to follow, and nothing to do.
int rests_on_one_cpu() {
  if (!os::run_only_on(0, static_cast<int>(os::current_cpu())) || !begin()) return 1;
  Pages pages;
  const std::size_t wrong = pages.touch(20'000);
  const int follower_thread = thread_called("glebe-follow");
  const auto cpu_ticks = [&] {
    std::ifstream file("/proc/self/task/" + std::to_string(follower_thread) + "/stat");
    std::string text;
    std::getline(file, text);
    std::istringstream fields(text.substr(text.rfind(')') + 2));
    std::string field;
    unsigned long ticks = 0;
    for (int i = 3; i <= 15 && fields >> field; ++i) ticks += i >= 14 ? std::stoul(field) : 0;
    return ticks;
  };
  const unsigned long before = cpu_ticks();
  sleep_ms(500);
  // Of 50 ticks that went by.
  return wrong == 0 && cpu_ticks() - before < 10 && pager_stats().follows == 0 ? 0 : 2;
}

// A program that gives up its rights while it is followed: the listener cannot become an ordinary thread
// again, and another thread listens.
int outlives_its_rights() {
  if (!begin()) return 1;
  Listener listener;
  Pages pages;
  std::size_t wrong = 0;
  const auto touch = [&] { wrong += pages.touch(200); };
  if (!work_until(touch, [&] { return listener.is_following(); })) return 2;
  if (::setuid(65534) != 0) return 3;
  const int stand_in = thread_called("glebe-follow");
  if (!work_until([] { sleep_ms(5); }, [&] { return follower.is_listener(stand_in); })) return 4;
  if (::sched_getscheduler(listener.thread) != SCHED_IDLE) return 5;
  wrong += pages.touch(20'000);
  return wrong == 0 ? 0 : 6;
}

}  // namespace

TEST_CASE("The listener follows the thread that faults, and is an ordinary thread when it stops",
          "[paging]") {
  if (may_follow()) CHECK(in_child(follows_and_leaves) == 0);
}

TEST_CASE("A fault does not wait for a thread that computes where the listener is", "[paging]") {
  if (may_follow()) CHECK(in_child(does_not_starve) == 0);
}

TEST_CASE("A forked child's listener follows for itself, and leaves the parent's alone", "[paging]") {
  if (may_follow()) CHECK(in_child(child_begins_anew) == 0);
}

TEST_CASE("On one CPU nobody is followed, and the follower rests", "[paging]") {
  if (may_follow()) CHECK(in_child(rests_on_one_cpu) == 0);
}

TEST_CASE("A program that gives up its rights while it is followed is served on", "[paging]") {
  if (may_follow() && ::geteuid() == 0) CHECK(in_child(outlives_its_rights) == 0);
}
