// Orders of events between the pager's threads that hardly ever come about by themselves: each is arranged
// here step by step, with the pager's own functions.
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <array>
#include <cstring>
#include <numeric>
#include <optional>
#include <thread>

#include "platform/process.h"
#include "src/paging/fault_queue.h"
#include "src/paging/pager_state.h"
#include "src/paging/unit_lock.h"

#include "tests/catch.h"
#include "tests/pager_rig.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

// The first page of the blocks for which is_wanted(page).
template <class IsWanted>
std::optional<std::uint64_t> find_page(const std::vector<Block>& blocks, IsWanted is_wanted) {
  const PageTable& table = pager.table;
  for (const Block& block : blocks) {
    const std::uint64_t end = table.page_of(block.words + block.count - 1) + 1;
    for (std::uint64_t page = table.page_of(block.words); page < end; ++page) {
      if (is_wanted(page)) return page;
    }
  }
  return {};
}

// Whether the page is in a file of our own store and nobody reads it.
bool is_quiet_on_file(std::uint64_t page) {
  const PageWord word = pager.table.get(page);
  return word.is_on_file() && !word.is(PageWord::kBusy) && word.store() == pager.own_store;
}

std::uint64_t answered_faults() {
  const PagerStats stats = pager_stats();
  return std::accumulate(std::begin(stats.latency), std::end(stats.latency), std::uint64_t{0});
}

// A pager with pages in files.
std::vector<Block> begin_with_files() {
  PagerOptions options = options_of(kBudget);
  options.directory = "/var/tmp";
  if (start_pager(options) != PagerMode::uffd) return {};
  std::vector<Block> blocks = make_blocks(5 * kBudget);
  if (!eventually([] { return pager_stats().file_bytes > kBudget / 16; })) blocks.clear();
  return blocks;
}

using Page = std::array<std::byte, kPageBytes>;

// While a page is read from a file it is freed, used again, and goes out with its new contents. The reader
// cannot go on before it has the lock of the group, which we hold.
bool reuse_during_read(std::uint64_t page, const Page& contents, Scratch& scratch) {
  Handle handle = kNoObject;
  Store& store = pager.store(pager.own_store);
  if (store.put(contents.data(), contents.size(), scratch, &handle) != PutResult::stored) return false;
  const std::uint64_t answered = answered_faults();
  {
    GroupLock hold(pager.table, page / kGroupPages);
    Fault fault = {page, os::clock_fine_ns(), {}, false};
    if (!is_quiet_on_file(page) || !leave_to_disk_readers(fault)) return false;
    drop_pages(page, page + 1);
    note_out(page);
    pager.table.set(page, PageWord::of(PageState::stored, handle, pager.own_store));
  }
  return eventually([answered] { return answered_faults() != answered; });
}

int reused_during_reads() {
  const std::vector<Block> blocks = begin_with_files();
  Scratch scratch;
  if (blocks.empty() || !scratch.open(pager.options.codec)) return 1;
  for (unsigned round = 1; round <= 20; ++round) {
    Page contents;
    for (std::size_t i = 0; i < contents.size(); ++i) contents[i] = static_cast<std::byte>(round + i % 64);
    const auto page = find_page(blocks, is_quiet_on_file);
    if (!page || !reuse_during_read(*page, contents, scratch)) return 2;
    if (std::memcmp(pager.table.address_of(*page), contents.data(), kPageBytes) != 0) return 3;
  }
  return 0;
}

// A thread waits for a page that is being read, and the page is freed: the thread must not wait for ever.
int freed_under_a_waiting_thread() {
  const std::vector<Block> blocks = begin_with_files();
  if (blocks.empty()) return 1;
  const auto page = find_page(blocks, is_quiet_on_file);
  if (!page) return 2;
  const auto set_busy = [page] {
    GroupLock hold(pager.table, *page / kGroupPages);
    if (!is_quiet_on_file(*page)) return false;
    pager.table.set(*page, pager.table.get(*page).with(PageWord::kBusy));
    return true;
  };
  if (!set_busy()) return 3;
  const std::uint64_t faults = pager_stats().faults;
  std::byte seen{1};
  std::thread waiting([&seen, page] { seen = *pager.table.address_of(*page); });
  if (!eventually([faults] { return pager_stats().faults != faults; })) return 4;
  sleep_ms(20);  // for the server to see that the page is busy; if it is late, nothing waits
  {
    GroupLock hold(pager.table, *page / kGroupPages);
    Fault fault = {*page, os::clock_fine_ns(), {}, false};
    if (!leave_to_disk_readers(fault)) return 5;
    drop_pages(*page, *page + 1);
  }
  waiting.join();
  return seen == std::byte{0} ? 0 : 6;
}

// What happens when the boot thread of a forked child makes its first thread: its parent ends, and then libc
// touches memory that is out. Linked by --wrap, so that it comes in front of libc's function.
struct LostParent {
  pid_t parent;
  std::atomic<pid_t>* child;  // shared memory: the boot thread has no descriptor of ours
  const volatile std::byte* cold;
};
constinit LostParent lost = {};
constinit std::atomic<bool> is_armed{false};

void lose_parent() {
  const pid_t self = ::getpid();
  if (!is_armed || self == lost.parent || ::gettid() == self || !is_armed.exchange(false)) return;
  *lost.child = self;
  ::kill(lost.parent, SIGKILL);
  while (::getppid() == lost.parent) ::usleep(1000);
  static_cast<void>(*lost.cold);
}

int forks_and_is_killed(std::atomic<pid_t>* child) {
  const std::vector<Block> blocks = make_blocks(2 * kBudget);
  const auto is_stored = [](std::uint64_t page) {
    return pager.table.get(page).state() == PageState::stored;
  };
  std::optional<std::uint64_t> page;
  if (!eventually([&] { return (page = find_page(blocks, is_stored)).has_value(); })) return 2;
  lost = {::getpid(), child, pager.table.address_of(*page)};
  ::close(STDERR_FILENO);  // it says why it ends
  is_armed = true;
  if (::fork() == 0) ::_exit(0);  // it has to end before: what was out is lost
  ::pause();
  return 3;
}

// How the process ended, as in_child() says it; -1: it did not, and was killed.
int end_of(pid_t process) {
  int status = 0;
  if (!eventually([&] { return ::waitpid(process, &status, WNOHANG) == process; })) {
    ::kill(process, SIGKILL);
    ::waitpid(process, &status, 0);
    return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

}  // namespace

// NOLINTBEGIN(bugprone-reserved-identifier): the linker's names.
extern "C" int __real_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*),
                                     void* argument);
extern "C" int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*),
                                     void* argument);
int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*),
                          void* argument) {
  lose_parent();
  return __real_pthread_create(thread, attributes, run, argument);
}
// NOLINTEND(bugprone-reserved-identifier)

TEST_CASE("G15 a page that is freed and used again while it is read keeps its new contents", "[paging]") {
  if (may_page()) CHECK(in_child(reused_during_reads) == 0);
}

TEST_CASE("Who waits for a page that is freed while it is read asks again", "[paging]") {
  if (may_page()) CHECK(in_child(freed_under_a_waiting_thread) == 0);
}

TEST_CASE("A child whose parent ends while it makes its threads ends too, and does not wait for ever",
          "[paging]") {
  if (!may_page()) return;
  void* const shared = ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(shared != MAP_FAILED);
  auto* const child = new (shared) std::atomic<pid_t>{0};
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // the child of the child is ours when its parent is gone
  CHECK(in_paging_child([child] { return forks_and_is_killed(child); }) == 1000 + SIGKILL);
  REQUIRE(*child != 0);
  CHECK(end_of(*child) == 1000 + SIGABRT);
  ::prctl(PR_SET_CHILD_SUBREAPER, 0);
  ::munmap(shared, kPageBytes);
}
