// The transparent pager in whole runs: contents, budget, forks, signals, system calls.
#include "src/paging/pager.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "src/paging/pager_state.h"
#include "src/vm/pageable.h"

#include "tests/catch.h"
#include "tests/pager_rig.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

// Not before the pager has looked: until then it has seen nothing that is above the budget.
bool is_within_budget() {
  const PagerStats stats = pager_stats();
  if (kHasShadow) return stats.page_outs * kPageBytes > kBudget / 2;
  return stats.page_outs != 0 && stats.used_bytes <= kBudget + kBudget / 4;
}

// Whole runs; 0 when all is right.
int keeps_contents(const PagerOptions& options) {
  if (start_pager(options) != PagerMode::uffd) return 1;
  const std::vector<Block> blocks = make_blocks(3 * kBudget);
  if (!eventually(is_within_budget)) return 2;
  for (int round = 0; round < 2; ++round) {
    if (wrong_words(blocks) != 0) return 3;
  }
  const PagerStats stats = pager_stats();
  if (stats.page_outs == 0 || stats.page_ins == 0 || stats.faults == 0) return 4;
  if (options.directory != nullptr && (stats.file_bytes == 0 || stats.file_page_ins == 0)) return 5;
  return stats.store_errors == 0 ? 0 : 6;
}

int drops_unread() {
  const std::vector<Block> blocks = make_blocks(3 * kBudget);
  if (!eventually(is_within_budget)) return 2;
  const PagerStats before = pager_stats();
  for (const Block& block : blocks) release(block.words);
  heap::trim();
  const PagerStats after = pager_stats();
  if (after.page_ins != before.page_ins || after.file_page_ins != before.file_page_ins) return 3;
  if (after.dropped_pages == before.dropped_pages) return 4;
  // What was dropped reads as zero where the heap says so.
  for (int i = 0; i < 40; ++i) {
    auto* fresh = static_cast<unsigned char*>(heap::allocate_zeroed(1'000'000));
    if (std::any_of(fresh, fresh + 1'000'000, [](unsigned char byte) { return byte != 0; })) return 5;
  }
  return eventually([] { return pager_stats().out_bytes < 8 * kMiB; }) ? 0 : 6;
}

int threads_and_writers() {
  const std::vector<Block> blocks = make_blocks(2 * kBudget);
  std::atomic<std::size_t> wrong{0};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 3; ++round) {
        // Each thread changes blocks of its own and puts them back, while the others read and the pager
        // evicts.
        for (std::size_t b = t; b < blocks.size(); b += 4) {
          for (std::size_t i = 0; i < blocks[b].count; ++i) blocks[b].words[i] += 1;
        }
        for (std::size_t b = t; b < blocks.size(); b += 4) {
          for (std::size_t i = 0; i < blocks[b].count; ++i) blocks[b].words[i] -= 1;
        }
        for (std::size_t b = t; b < blocks.size(); b += 4) {
          for (std::size_t i = 0; i < blocks[b].count; ++i)
            wrong += blocks[b].words[i] != word_of(b, i) ? 1u : 0u;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return wrong == 0 ? 0 : 2;
}

int forks() {
  std::vector<Block> blocks = make_blocks(2 * kBudget);
  if (!eventually(is_within_budget)) return 2;
  for (int round = 0; round < 6; ++round) {
    const int status = in_child([&] {
      if (wrong_words(blocks, 3) != 0) return 1;
      if (pager_mode() != PagerMode::uffd || pager_stats().takeovers != 1) return 2;
      // A grandchild whose parent ends at once.
      const int inner = in_child([&] { return wrong_words(blocks, 5) == 0 ? 0 : 1; });
      return inner == 0 ? 0 : 3;
    });
    if (status != 0) return 10 + status;
    for (std::size_t b = 0; b < blocks.size(); b += 2) fill_block(blocks[b], b);
  }
  return wrong_words(blocks) == 0 ? 0 : 3;
}

// One word of each page of the blocks that do not compress, and so are in files when they are out.
std::size_t wrong_pages_of_files(const std::vector<Block>& blocks, std::size_t first) {
  std::size_t wrong = 0;
  for (std::size_t b = first * 7; b < blocks.size(); b += 7) {
    for (std::size_t i = 0; i < blocks[b].count; i += kPageBytes / 8)
      wrong += blocks[b].words[i] != word_of(b, i) ? 1u : 0u;
  }
  return wrong;
}

bool is_any_journaled(const std::vector<Block>& blocks) {
  const PageTable& table = pager.table;
  for (const Block& block : blocks) {
    const std::uint64_t end = table.page_of(block.words + block.count - 1) + 1;
    for (std::uint64_t page = table.page_of(block.words); page < end; ++page) {
      if (table.get(page).is(PageWord::kJournaled)) return true;
    }
  }
  return false;
}

// Forks while other threads have pages read from files and the evictor writes some. What is under way then is
// under way nowhere in the child, and what the parent keeps for the child is kept by nobody there.
int forks_during_reads(const char* directory) {
  PagerOptions options = options_of(kBudget);
  options.directory = directory;
  if (start_pager(options) != PagerMode::uffd) return 1;
  const std::vector<Block> blocks = make_blocks(5 * kBudget);
  if (!eventually([] { return pager_stats().file_bytes > kBudget / 16; })) return 2;
  std::atomic<bool> stop{false};
  std::atomic<std::size_t> wrong{0};
  std::vector<std::thread> readers;
  for (std::size_t t = 0; t < 3; ++t) {
    readers.emplace_back([&, t] {
      while (!stop.load()) wrong += wrong_pages_of_files(blocks, t * 50);
    });
  }
  int failed = 0;
  for (int round = 0; round < 10 && failed == 0; ++round) {
    const int status = in_child([&blocks] {
      if (wrong_pages_of_files(blocks, 0) != 0) return 1;
      return eventually([&blocks] { return !is_any_journaled(blocks); }) ? 0 : 2;
    });
    if (status != 0) failed = 10 + status;
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  return wrong != 0 ? 3 : failed;
}

// A handler that touches cold memory, while the thread that it interrupts frees and purges.
const std::vector<Block>* touched_blocks = nullptr;
std::atomic<std::size_t> handler_calls{0}, handler_wrong{0};
void touch_some(int) {
  const std::size_t call = handler_calls.fetch_add(1);
  for (std::size_t i = 0; i < 40; ++i) {
    const std::size_t number = (call * 7919 + i * 104'729) % touched_blocks->size();
    if ((*touched_blocks)[number].words[0] != word_of(number, 0)) handler_wrong.fetch_add(1);
  }
}

int signals_while_freeing() {
  const std::vector<Block> blocks = make_blocks(2 * kBudget);
  touched_blocks = &blocks;
  struct sigaction action = {};
  action.sa_handler = touch_some;
  ::sigaction(SIGVTALRM, &action, nullptr);
  const itimerval often = {{0, 1000}, {0, 1000}};
  ::setitimer(ITIMER_VIRTUAL, &often, nullptr);
  // The timer counts the program's own time, in steps of the scheduler: at least until it rang.
  constexpr int kRounds = kHasShadow ? 10 : 300, kRoundsMax = 10'000;
  for (int round = 0; round < kRounds || (handler_calls == 0 && round < kRoundsMax); ++round) {
    void* some[24];
    for (void*& block : some) {
      block = allocate(200'000);
      std::memset(block, round, 200'000);
    }
    for (void* block : some) release(block);
    heap::trim();
  }
  const itimerval never = {};
  ::setitimer(ITIMER_VIRTUAL, &never, nullptr);
  if (handler_calls == 0) return 2;
  return handler_wrong == 0 ? 0 : 3;
}

// Takes the memory of staged pages away, as when a page was purged between the look of the evictor and its
// move. Returns the addresses whose words go on to say that they are staged.
std::vector<const volatile std::byte*> empty_staged_pages(const std::vector<Block>& blocks) {
  std::vector<const volatile std::byte*> emptied;
  const PageTable& table = pager.table;
  for (const Block& block : blocks) {
    const std::uint64_t end = table.page_of(block.words + block.count - 1) + 1;
    for (std::uint64_t page = table.page_of(block.words); page < end; ++page) {
      GroupLock hold(table, page / kGroupPages);
      const PageWord word = table.get(page);
      if (word.state() != PageState::staged || word.is(PageWord::kBusy)) continue;
      if (::madvise(pager.staged(page), kPageBytes, MADV_DONTNEED) == 0)
        emptied.push_back(table.address_of(page));
    }
  }
  return emptied;
}

// Every fault server may be busy with such a page at once, and the evictor as well: none of them may wait for
// another fault to be answered.
int staged_without_memory() {
  const std::vector<Block> blocks = make_blocks(2 * kBudget);
  if (!eventually(is_within_budget)) return 2;
  std::size_t emptied_count = 0, wrong_count = 0;
  for (int round = 0; round < 10; ++round) {
    const auto emptied = empty_staged_pages(blocks);
    emptied_count += emptied.size();
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&emptied, t] {
        for (std::size_t i = t; i < emptied.size(); i += 4) static_cast<void>(*emptied[i]);
      });
    }
    for (std::thread& thread : threads) thread.join();
    wrong_count += wrong_words(blocks, 3);  // what was in memory goes out, and new pages are staged
  }
  return emptied_count != 0 && wrong_count != 0 ? 0 : 3;
}

int system_calls() {
  constexpr std::size_t kBytes = 4 * kMiB;
  auto* text = static_cast<char*>(allocate(kBytes));
  for (std::size_t i = 0; i < kBytes; ++i) text[i] = static_cast<char>(i * 31 % 251);
  const std::vector<Block> cold = make_blocks(2 * kBudget);
  std::FILE* file = std::tmpfile();
  const int descriptor = ::fileno(file);
  for (int round = 0; round < 2; ++round) {
    if (wrong_words(cold) != 0) return 2;  // drives `text` out
    for (std::size_t done = 0; done < kBytes;) {
      const ssize_t wrote = ::pwrite(descriptor, text + done, kBytes - done, static_cast<off_t>(done));
      if (wrote <= 0) return 3;
      done += static_cast<std::size_t>(wrote);
    }
    if (wrong_words(cold, 2) != 0) return 4;
    for (std::size_t done = 0; done < kBytes;) {
      const ssize_t got = ::pread(descriptor, text + done, kBytes - done, static_cast<off_t>(done));
      if (got <= 0) return 5;
      done += static_cast<std::size_t>(got);
    }
    for (std::size_t i = 0; i < kBytes; ++i) {
      if (text[i] != static_cast<char>(i * 31 % 251)) return 6;
    }
  }
  return 0;
}

// Slabs first, at the lower addresses, then medium blocks; of those a half has to go.
int takes_largest_first() {
  PagerOptions options = options_of(3 * kBudget);
  options.victim = VictimKind::largest;
  if (start_pager(options) != PagerMode::uffd) return 1;
  constexpr std::size_t kSmall = 1000, kMedium = 300'000;
  std::vector<char*> small, medium;
  for (std::size_t done = 0; done < kBudget / 2; done += kSmall) {
    small.push_back(static_cast<char*>(allocate(kSmall)));
    std::memset(small.back(), 1, kSmall);
  }
  for (std::size_t done = 0; done < 5 * kBudget; done += kMedium) {
    medium.push_back(static_cast<char*>(allocate(kMedium)));
    std::memset(medium.back(), 2, kMedium);
  }
  if (!eventually([] { return pager_stats().used_bytes <= 3 * kBudget && pager_stats().page_outs != 0; }))
    return 2;
  const auto pages_out = [](char* block, std::size_t size) {
    return vm::paging()->paged_out_pages(
        reinterpret_cast<std::byte*>(align_down(reinterpret_cast<std::uintptr_t>(block), kPageBytes)),
        static_cast<unsigned>(divide_up(size, kPageBytes)));
  };
  std::size_t small_out = 0, medium_out = 0;
  for (char* block : small) small_out += pages_out(block, kSmall);
  for (char* block : medium) medium_out += pages_out(block, kMedium);
  if (medium_out < kBudget / kPageBytes) return 3;
  return small_out * 50 < small.size() ? 0 : 4;
}

int remembers_what_was_saved() {
  const std::vector<Block> blocks = make_blocks(3 * kBudget);
  if (!eventually([] { return pager_stats().saved_bytes_peak >= kBudget / 2; })) return 2;
  const PagerStats then = pager_stats();
  for (const Block& block : blocks) release(block.words);
  heap::trim();
  if (!eventually([&] { return pager_stats().out_bytes < kBudget / 4; })) return 3;
  const PagerStats now = pager_stats();
  if (now.saved_bytes_peak < then.saved_bytes_peak) return 4;
  return now.saved_bytes_average != 0 && now.saved_bytes_average < now.saved_bytes_peak ? 0 : 5;
}

// A memory control group for one child, where the user may make one.
class TestGroup {
 public:
  TestGroup() {
    const std::string name = "glebe-test-" + std::to_string(::getpid());
    const std::string v1 = "/sys/fs/cgroup/memory/", v2 = "/sys/fs/cgroup/";
    for (const std::string& mount : {v1, v2}) {
      const std::string folder = mount + name, file = mount == v1 ? "memory.limit_in_bytes" : "memory.max";
      if (::access((mount + "cgroup.procs").c_str(), W_OK) != 0 || ::mkdir(folder.c_str(), 0755) != 0)
        continue;
      folder_ = folder;
      limit_file_ = folder + "/" + file;
      if (::access(limit_file_.c_str(), W_OK) == 0) return;
      ::rmdir(folder.c_str());
      folder_.clear();
    }
  }
  TestGroup(const TestGroup&) = delete;
  TestGroup& operator=(const TestGroup&) = delete;
  ~TestGroup() {
    if (is_made()) ::rmdir(folder_.c_str());
  }
  [[nodiscard]] bool is_made() const { return !folder_.empty(); }
  [[nodiscard]] bool set_limit(std::size_t bytes) const { return write(limit_file_, std::to_string(bytes)); }
  [[nodiscard]] bool enter() const { return write(folder_ + "/cgroup.procs", std::to_string(::getpid())); }

 private:
  [[nodiscard]] static bool write(const std::string& path, const std::string& text) {
    std::ofstream file(path);
    file << text << std::flush;
    return file.good();
  }
  std::string folder_, limit_file_;
};

int follows_the_limit(const TestGroup& group) {
  if (!group.set_limit(kGiB) || !group.enter()) return 1;
  PagerOptions options = options_of(0);
  options.budget_share = 250'000;
  if (start_pager(options) != PagerMode::uffd) return 2;
  if (pager_stats().budget_bytes != 256 * kMiB) return 3;
  if (!group.set_limit(512 * kMiB)) return 4;
  if (!eventually([] { return pager_stats().budget_bytes == 128 * kMiB; })) return 5;
  // A forked child follows too.
  const int status = in_child([&] {
    if (pager_stats().budget_bytes != 128 * kMiB || !group.set_limit(768 * kMiB)) return 1;
    return eventually([] { return pager_stats().budget_bytes == 192 * kMiB; }) ? 0 : 2;
  });
  return status == 0 ? 0 : 10 + status;
}

}  // namespace

TEST_CASE("G18 G15 three times the budget stays right in RAM and in files", "[paging]") {
  if (!may_page()) return;
  PagerOptions options = options_of(kBudget);
  CHECK(in_child([&] { return keeps_contents(options); }) == 0);
  options.directory = "/tmp";
  options.codec = Codec::zstd;
  CHECK(in_child([&] { return keeps_contents(options); }) == 0);
}

TEST_CASE("G18 every order of victims keeps contents and budget", "[paging]") {
  if (!may_page()) return;
  for (unsigned kind = 0; kind < kVictimKinds; ++kind) {
    PagerOptions options = options_of(kBudget);
    options.victim = static_cast<VictimKind>(kind);
    INFO(kind);
    CHECK(in_child([&] { return keeps_contents(options); }) == 0);
  }
}

TEST_CASE("largest takes medium blocks before slabs, though slabs lie first", "[paging]") {
  if (!may_page()) return;
  if (kHasShadow) {
    WARN("the sanitizer's shadow exceeds any budget: everything goes out, and no order shows");
    return;
  }
  CHECK(in_child(takes_largest_first) == 0);
}

TEST_CASE("What was saved is told after it came back", "[paging]") {
  if (may_page()) CHECK(in_paging_child(remembers_what_was_saved) == 0);
}

TEST_CASE("A budget that is a share follows the limit of the control group", "[paging]") {
  if (!may_page()) return;
  const TestGroup group;
  if (!group.is_made()) {
    WARN("no memory control group may be made here: not tested");
    return;
  }
  CHECK(in_child([&] { return follows_the_limit(group); }) == 0);
}

TEST_CASE("Blocks that are freed while they are out are never read", "[paging]") {
  if (may_page()) CHECK(in_paging_child(drops_unread) == 0);
}

TEST_CASE("G15 mut-A13 writers on four threads lose nothing to page-outs", "[paging]") {
  if (may_page()) CHECK(in_paging_child(threads_and_writers) == 0);
}

TEST_CASE("Forked children and their children see every byte and serve themselves", "[paging]") {
  if (may_page()) CHECK(in_paging_child(forks) == 0);
}

TEST_CASE("A child does not wait for reads and writes that its parent had under way", "[paging]") {
  if (!may_page()) return;
  if (kHasShadow) {
    WARN("not under a sanitizer: it has stopped there without an end, for a reason that is not known yet");
    return;
  }
  CHECK(in_child([] { return forks_during_reads("/var/tmp"); }) == 0);
}

TEST_CASE("A signal handler may touch cold memory while its thread frees", "[paging]") {
  if (may_page()) CHECK(in_paging_child(signals_while_freeing) == 0);
}

TEST_CASE("A staged page that has no memory reads as zero and keeps nobody waiting", "[paging]") {
  if (may_page()) CHECK(in_paging_child(staged_without_memory) == 0);
}

TEST_CASE("System calls work on memory that is out", "[paging]") {
  if (may_page()) CHECK(in_paging_child(system_calls) == 0);
}

TEST_CASE("A directory that is missing keeps paging off", "[paging]") {
  if (!may_page()) return;
  CHECK(in_child([] {
          PagerOptions options;
          options.wish = PagerWish::uffd;
          options.budget_bytes = kBudget;
          options.directory = "/nowhere/at/all";
          options.say_what_is_missing = false;
          return start_pager(options) == PagerMode::off && pager_mode() == PagerMode::off ? 0 : 1;
        }) == 0);
}
