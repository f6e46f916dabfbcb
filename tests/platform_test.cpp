// The platform layer as every system has to provide it. What only one system can show is in
// platform_linux_test.cpp and platform_windows_test.cpp. Resident memory is not judged here: wine does not
// report it.
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "platform/file.h"
#include "platform/process.h"
#include "platform/thread.h"
#include "platform/vm.h"
#include "src/base/bits.h"
#include "tests/catch.h"

namespace os = glebe::os;
using glebe::kGiB;
using glebe::kKiB;
using glebe::kMiB;

namespace {

// A reservation that ends with the scope.
class Range {
 public:
  Range(std::size_t size_bytes, std::size_t align_bytes)
      : base_(static_cast<unsigned char*>(os::reserve(size_bytes, align_bytes))), size_bytes_(size_bytes) {}
  ~Range() {
    if (base_ != nullptr) os::release(base_, size_bytes_);
  }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

  unsigned char* base() const { return base_; }

 private:
  unsigned char* base_;
  std::size_t size_bytes_;
};

bool all_equal(const unsigned char* bytes, std::size_t size_bytes, unsigned char value) {
  for (std::size_t i = 0; i < size_bytes; ++i) {
    if (bytes[i] != value) return false;
  }
  return true;
}

// A directory of this process that ends with the scope.
class Directory {
 public:
  Directory()
      : path_(std::filesystem::temp_directory_path() / ("glebe-test-" + std::to_string(os::process_id()))) {
    std::filesystem::create_directories(path_);
  }
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  std::string path() const { return path_.string(); }
  std::string file(const char* name) const { return (path_ / name).string(); }
  bool is_empty() const { return std::filesystem::is_empty(path_); }

 private:
  std::filesystem::path path_;
};

}  // namespace

TEST_CASE("V1 memory that was decommitted and committed again reads as zero", "[platform]") {
  constexpr std::size_t kSize = 4 * kMiB;
  Range range(kSize, os::page_bytes());
  REQUIRE(range.base() != nullptr);
  REQUIRE(os::commit(range.base(), kSize));
  CHECK(all_equal(range.base(), kSize, 0));
  std::memset(range.base(), 0xab, kSize);
  REQUIRE(os::decommit(range.base(), kSize));
  REQUIRE(os::commit(range.base(), kSize));
  CHECK(all_equal(range.base(), kSize, 0));
}

TEST_CASE("V1 decommit of a part leaves the rest alone", "[platform]") {
  const std::size_t page = os::page_bytes();
  Range range(8 * page, page);
  REQUIRE(range.base() != nullptr);
  REQUIRE(os::commit(range.base(), 8 * page));
  std::memset(range.base(), 0xab, 8 * page);
  REQUIRE(os::decommit(range.base() + 2 * page, 3 * page));
  CHECK(all_equal(range.base(), 2 * page, 0xab));
  CHECK(all_equal(range.base() + 5 * page, 3 * page, 0xab));
  REQUIRE(os::commit(range.base(), 8 * page));
  CHECK(all_equal(range.base(), 2 * page, 0xab));
  CHECK(all_equal(range.base() + 2 * page, 3 * page, 0));
  CHECK(all_equal(range.base() + 5 * page, 3 * page, 0xab));
}

TEST_CASE("V3 commit may be partial, repeated and overlapping, and keeps contents", "[platform]") {
  const std::size_t page = os::page_bytes();
  Range range(16 * page, page);
  REQUIRE(range.base() != nullptr);
  unsigned char* part = range.base() + 4 * page;
  REQUIRE(os::commit(part, 4 * page));
  std::memset(part, 0x5a, 4 * page);
  REQUIRE(os::commit(part, 4 * page));
  CHECK(all_equal(part, 4 * page, 0x5a));
  REQUIRE(os::commit(range.base() + 2 * page, 4 * page));
  REQUIRE(os::commit(range.base() + 6 * page, 8 * page));
  CHECK(all_equal(part, 4 * page, 0x5a));
  CHECK(all_equal(range.base() + 2 * page, 2 * page, 0));
  CHECK(all_equal(range.base() + 8 * page, 6 * page, 0));
}

TEST_CASE("V5 a reservation of 640 GB succeeds and its ends can be used", "[platform]") {
  constexpr std::size_t kSize = 640 * kGiB;
  Range range(kSize, os::page_bytes());
  REQUIRE(range.base() != nullptr);
  const std::size_t page = os::page_bytes();
  unsigned char* last = range.base() + kSize - page;
  REQUIRE(os::commit(range.base(), page));
  REQUIRE(os::commit(last, page));
  range.base()[0] = 1;
  last[page - 1] = 2;
  CHECK(range.base()[0] == 1);
  CHECK(last[page - 1] == 2);
}

TEST_CASE("V5 more than the address space is refused", "[platform]") {
  CHECK(os::reserve(std::size_t{1} << 60, os::page_bytes()) == nullptr);
  CHECK(os::reserve(std::size_t{1} << 60, kGiB) == nullptr);
}

TEST_CASE("V6 reservations are aligned as asked", "[platform]") {
  const std::size_t align_bytes = GENERATE(std::size_t{64 * 1024}, 2 * kMiB, kGiB);
  // Several at once and of odd sizes, so that the system would not hand out aligned addresses by itself.
  std::vector<void*> ranges;
  bool aligned = true;
  const std::size_t size_bytes = 3 * kMiB + os::page_bytes();
  for (int i = 0; i < 8; ++i) {
    void* base = os::reserve(size_bytes, align_bytes);
    if (base == nullptr) break;
    ranges.push_back(base);
    aligned = aligned && glebe::is_aligned(reinterpret_cast<std::uintptr_t>(base), align_bytes);
    const std::size_t last_page = size_bytes - os::page_bytes();
    aligned = aligned && os::commit(static_cast<char*>(base) + last_page, os::page_bytes());
  }
  CHECK(aligned);
  CHECK(ranges.size() == 8);
  CHECK(std::set<void*>(ranges.begin(), ranges.end()).size() == ranges.size());
  for (void* base : ranges) os::release(base, size_bytes);
}

TEST_CASE("V1 purged memory stays committed and reads as zero", "[platform]") {
  const std::size_t page = os::page_bytes();
  Range range(64 * page, page);
  REQUIRE(range.base() != nullptr);
  REQUIRE(os::commit(range.base(), 64 * page));
  std::memset(range.base(), 0xab, 64 * page);
  REQUIRE(os::purge(range.base() + 16 * page, 32 * page));
  CHECK(all_equal(range.base(), 16 * page, 0xab));
  CHECK(all_equal(range.base() + 16 * page, 32 * page, 0));
  CHECK(all_equal(range.base() + 48 * page, 16 * page, 0xab));
  range.base()[20 * page] = 1;
  CHECK(range.base()[20 * page] == 1);
}

TEST_CASE("Contents survive protection and huge page advice", "[platform]") {
  Range range(4 * kMiB, 2 * kMiB);
  REQUIRE(range.base() != nullptr);
  REQUIRE(os::commit(range.base(), 4 * kMiB));
  std::memset(range.base(), 0x77, 4 * kMiB);
  REQUIRE(os::protect_none(range.base(), 2 * kMiB));
  CHECK(all_equal(range.base() + 2 * kMiB, 2 * kMiB, 0x77));
  REQUIRE(os::unprotect(range.base(), 2 * kMiB));
  os::advise_huge(range.base(), 2 * kMiB, true);
  os::advise_huge(range.base() + 2 * kMiB, 2 * kMiB, false);
  CHECK(all_equal(range.base(), 4 * kMiB, 0x77));
  range.base()[0] = 1;
  CHECK(range.base()[0] == 1);
}

TEST_CASE("Moved pages arrive whole, or nothing happens", "[platform]") {
  Range range(8 * kMiB, 2 * kMiB);
  REQUIRE(range.base() != nullptr);
  unsigned char* to = range.base() + 4 * kMiB;
  REQUIRE(os::commit(range.base(), kMiB));
  std::memset(range.base(), 0x3c, kMiB);
  if (os::move_pages(range.base(), to, kMiB)) {
    CHECK(all_equal(to, kMiB, 0x3c));
    to[0] = 1;
    REQUIRE(os::commit(range.base(), kMiB));
    CHECK(all_equal(range.base(), kMiB, 0));
  } else {
    CHECK(all_equal(range.base(), kMiB, 0x3c));
  }
}

TEST_CASE("Calls that reach the system are counted", "[platform]") {
  const os::VmCalls before = os::vm_calls();
  const std::size_t page = os::page_bytes();
  Range range(4 * page, page);
  REQUIRE(range.base() != nullptr);
  REQUIRE(os::commit(range.base(), 4 * page));
  REQUIRE(os::purge(range.base(), page));
  REQUIRE(os::purge(range.base(), page));
  REQUIRE(os::protect_none(range.base(), page));
  REQUIRE(os::decommit(range.base(), 4 * page));
  const os::VmCalls after = os::vm_calls();
  CHECK(after.reserve > before.reserve);
  CHECK(after.commit == before.commit + 1);
  CHECK(after.purge == before.purge + 2);
  CHECK(after.protect == before.protect + 1);
  CHECK(after.decommit == before.decommit + 1);
  CHECK(after.move == before.move);
}

TEST_CASE("A contended mutex loses no update", "[platform]") {
  constexpr int kThreads = 8, kRounds = 20000;
  os::Mutex mutex;
  std::uint64_t plain = 0;  // guarded by mutex
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < kRounds; ++round) {
        const os::Lock lock(mutex);
        plain = plain + 1;
        if (round % 1024 == 0) os::yield();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(plain == std::uint64_t{kThreads} * kRounds);
  CHECK_FALSE(mutex.is_held());
}

TEST_CASE("Threads that sleep on a mutex wake up, each in turn", "[platform]") {
  constexpr int kThreads = 6, kRounds = 10;
  for (int round = 0; round < kRounds; ++round) {
    os::Mutex mutex;
    std::atomic<int> waiting{0}, done{0}, owners{0};
    mutex.lock();
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        waiting.fetch_add(1);
        const os::Lock lock(mutex);
        done.fetch_add(1);
        if (mutex.held_by_me()) owners.fetch_add(1);
      });
    }
    while (waiting.load() != kThreads) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // longer than any spinning
    const int too_early = done.load();
    mutex.unlock();
    for (std::thread& thread : threads) thread.join();
    REQUIRE(too_early == 0);
    REQUIRE(done.load() == kThreads);
    REQUIRE(owners.load() == kThreads);
    REQUIRE_FALSE(mutex.is_held());
  }
}

TEST_CASE("A mutex knows its owner", "[platform]") {
  os::Mutex mutex;
  CHECK_FALSE(mutex.is_held());
  CHECK_FALSE(mutex.held_by_me());
  REQUIRE(mutex.try_lock());
  CHECK(mutex.is_held());
  CHECK(mutex.held_by_me());
  CHECK_FALSE(mutex.try_lock());
  bool held_by_other = true, taken_by_other = true;
  std::thread([&] {
    held_by_other = mutex.held_by_me();
    taken_by_other = mutex.try_lock();
  }).join();
  CHECK_FALSE(held_by_other);
  CHECK_FALSE(taken_by_other);
  mutex.unlock();
  CHECK_FALSE(mutex.held_by_me());
  std::thread([&] { mutex.lock(); }).join();
  CHECK(mutex.is_held());
  mutex.reset_in_child();
  CHECK_FALSE(mutex.is_held());
  CHECK(mutex.try_lock());
  mutex.unlock();
}

TEST_CASE("Threads that are alive have different ids", "[platform]") {
  constexpr std::size_t kThreads = 8;
  std::vector<std::uintptr_t> ids(kThreads);
  std::mutex mutex;
  std::condition_variable all_here;
  std::size_t arrived = 0;
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      ids[i] = os::thread_id();
      std::unique_lock lock(mutex);
      if (++arrived == kThreads) all_here.notify_all();
      all_here.wait(lock, [&] { return arrived == kThreads; });
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<std::uintptr_t> different(ids.begin(), ids.end());
  different.insert(os::thread_id());
  CHECK(different.size() == kThreads + 1);
  CHECK(different.count(0) == 0);
  CHECK(os::thread_id() == os::thread_id());
}

TEST_CASE("The processor count is plausible", "[platform]") {
  CHECK(os::cpu_count() >= 1);
  CHECK(os::cpu_count() <= 8192);
  CHECK(os::current_cpu() < 8192);
}

TEST_CASE("The environment is found by whole names", "[platform]") {
  const char* path = std::getenv("PATH");
  REQUIRE(path != nullptr);
  const char* ours = os::environment("PATH");
  REQUIRE(ours != nullptr);
  CHECK(std::string(ours) == path);
  CHECK(os::environment("PAT") == nullptr);
  CHECK(os::environment("PATH=") == nullptr);
  CHECK(os::environment("GLEBE_NO_SUCH_VARIABLE") == nullptr);
}

TEST_CASE("Both clocks advance with time", "[platform]") {
  const std::uint64_t coarse = os::clock_coarse_ms(), fine = os::clock_fine_ns();
  const auto begin = std::chrono::steady_clock::now();
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  const std::uint64_t coarse_ms = os::clock_coarse_ms() - coarse;
  const std::uint64_t fine_ms = (os::clock_fine_ns() - fine) / 1'000'000;
  const auto bound =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin);
  CHECK(coarse_ms >= 25);  // a tick of the coarse clock is 16 ms at most
  CHECK(fine_ms >= 59);
  CHECK(coarse_ms <= static_cast<std::uint64_t>(bound.count()) + 20);
  CHECK(fine_ms <= static_cast<std::uint64_t>(bound.count()) + 1);
}

TEST_CASE("Entropy does not repeat and uses all bits", "[platform]") {
  std::set<std::uint64_t> values;
  std::uint64_t ones = 0, zeros = 0;
  for (int i = 0; i < 64; ++i) {
    const std::uint64_t value = os::entropy();
    values.insert(value);
    ones |= value;
    zeros |= ~value;
  }
  CHECK(values.size() == 64);
  CHECK(ones == UINT64_MAX);
  CHECK(zeros == UINT64_MAX);
}

TEST_CASE("Limits of the process are plausible", "[platform]") {
  const os::MemoryLimits limits = os::memory_limits();
  CHECK(limits.physical > 16 * kMiB);
  CHECK(limits.physical < SIZE_MAX);
  CHECK(limits.memory > kMiB);
  CHECK(limits.address_space == os::address_space_limit());
  CHECK(os::process_id() != 0);
}

TEST_CASE("M4 what is written to a file is read, also after it was closed", "[platform]") {
  const Directory directory;
  const std::string path = directory.file("data");
  const std::vector<char> pattern(300'000, 'x');
  {
    os::File file = os::File::create(path.c_str());
    REQUIRE(file.is_open());
    REQUIRE(file.write_at(0, "head", 4));
    REQUIRE(file.write_at(1'000'000, pattern.data(), pattern.size()));
    CHECK(file.size_bytes() == 1'300'000);
    char gap[8] = "garbage";
    REQUIRE(file.read_at(500'000, gap, sizeof gap));
    CHECK(std::string(gap, sizeof gap) == std::string(sizeof gap, '\0'));
  }
  os::File file = os::File::open_read(path.c_str());
  REQUIRE(file.is_open());
  CHECK(file.size_bytes() == 1'300'000);
  std::vector<char> read(pattern.size());
  REQUIRE(file.read_at(1'000'000, read.data(), read.size()));
  CHECK(read == pattern);
  char head[4];
  REQUIRE(file.read_at(0, head, 4));
  CHECK(std::string(head, 4) == "head");
  CHECK_FALSE(file.read_at(1'000'001, read.data(), read.size()));
  CHECK_FALSE(file.read_at(UINT64_MAX - 4, read.data(), 4));
  CHECK_FALSE(file.write_at(0, "no", 2));
  file.close();
  CHECK_FALSE(file.is_open());
  CHECK_FALSE(file.read_at(0, head, 4));
  CHECK(file.size_bytes() == 0);
}

TEST_CASE("M4 create truncates, and a missing file is not opened", "[platform]") {
  const Directory directory;
  const std::string path = directory.file("data");
  CHECK_FALSE(os::File::open_read(path.c_str()).is_open());
  CHECK_FALSE(os::File::create((path + "/below").c_str()).is_open());
  CHECK_FALSE(os::File::temporary(path.c_str()).is_open());
  os::File first = os::File::create(path.c_str());
  REQUIRE(first.write_at(0, "old", 3));
  first.close();
  os::File second = os::File::create(path.c_str());
  REQUIRE(second.is_open());
  CHECK(second.size_bytes() == 0);
  REQUIRE(second.truncate(100));
  CHECK(second.size_bytes() == 100);
  REQUIRE(second.truncate(10));
  CHECK(second.size_bytes() == 10);
}

TEST_CASE("M4 a temporary file leaves nothing behind", "[platform]") {
  const Directory directory;
  {
    os::File file = os::File::temporary(directory.path().c_str());
    REQUIRE(file.is_open());
    REQUIRE(file.write_at(10, "abc", 3));
    os::File moved(std::move(file));
    CHECK_FALSE(file.is_open());
    char text[3];
    REQUIRE(moved.read_at(10, text, 3));
    CHECK(std::string(text, 3) == "abc");
    os::File other = os::File::temporary(directory.path().c_str());
    REQUIRE(other.is_open());
    other = std::move(moved);
    CHECK_FALSE(moved.is_open());
    REQUIRE(other.read_at(10, text, 3));
    CHECK(other.size_bytes() == 13);
  }
  CHECK(directory.is_empty());
}

TEST_CASE("M4 a hole reads as zero and its neighbours stay", "[platform]") {
  const Directory directory;
  os::File file = os::File::temporary(directory.path().c_str());
  REQUIRE(file.is_open());
  const std::vector<unsigned char> pattern(4 * kMiB, 0xee);
  REQUIRE(file.write_at(0, pattern.data(), pattern.size()));
  if (!file.punch_hole(kMiB, 2 * kMiB)) {
    WARN("the file system of " << directory.path() << " cannot punch holes");
    return;
  }
  CHECK(file.size_bytes() == 4 * kMiB);
  std::vector<unsigned char> read(4 * kMiB);
  REQUIRE(file.read_at(0, read.data(), read.size()));
  CHECK(all_equal(read.data(), kMiB, 0xee));
  CHECK(all_equal(read.data() + kMiB, 2 * kMiB, 0));
  CHECK(all_equal(read.data() + 3 * kMiB, kMiB, 0xee));
}

TEST_CASE("M4 threads use one file without sharing a position", "[platform]") {
  const Directory directory;
  os::File file = os::File::temporary(directory.path().c_str());
  REQUIRE(file.is_open());
  std::atomic<int> errors{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 4; ++i) {
    threads.emplace_back([&file, &errors, i] {
      std::vector<unsigned char> mine(8 * kKiB, static_cast<unsigned char>(i + 1)), read(mine.size());
      for (unsigned round = 0; round < 64; ++round) {
        const std::uint64_t offset = (std::uint64_t{round} * 4 + i) * mine.size();
        if (!file.write_at(offset, mine.data(), mine.size())) errors.fetch_add(1);
        if (!file.read_at(offset, read.data(), read.size()) || read != mine) errors.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(errors.load() == 0);
  CHECK(file.size_bytes() == 4 * 64 * 8 * kKiB);
}

TEST_CASE("No call of the platform changes errno", "[platform]") {
  constexpr int kMark = 4242;
  const Directory directory;
  const std::string missing = directory.file("missing");
  const std::size_t page = os::page_bytes();
  void* base = os::reserve(4 * page, page);
  REQUIRE(base != nullptr);
  std::string changed_by;
  const auto check = [&](const char* name, auto&& call) {
    errno = kMark;
    static_cast<void>(call());
    if (errno != kMark) changed_by += std::string(name) + " ";
  };
  check("reserve", [&] { return os::reserve(std::size_t{1} << 60, kGiB); });
  check("commit", [&] { return os::commit(base, 4 * page); });
  check("purge", [&] { return os::purge(base, page); });
  check("protect_none", [&] { return os::protect_none(base, page); });
  check("unprotect", [&] { return os::unprotect(base, page); });
  check("advise_huge", [&] { return os::advise_huge(base, page, true), 0; });
  check("huge_pages_on_advice", [] { return os::huge_pages_on_advice(); });
  check("resident_bytes", [&] { return os::resident_bytes(base, page); });
  check("move_pages", [&] { return os::move_pages(base, static_cast<char*>(base) + page, page); });
  check("decommit", [&] { return os::decommit(base, 4 * page); });
  check("release", [&] { return os::release(base, 4 * page), 0; });
  check("environment", [] { return os::environment("GLEBE_NO_SUCH_VARIABLE"); });
  check("entropy", [] { return os::entropy(); });
  check("clocks", [] { return os::clock_coarse_ms() + os::clock_fine_ns(); });
  check("process_memory", [] { return os::process_memory(); });
  check("memory_limits", [] { return os::memory_limits(); });
  check("cpu_count", [] { return os::cpu_count() + os::current_cpu(); });
  check("yield", [] { return os::yield(), 0; });
  check("open_read", [&] { return os::File::open_read(missing.c_str()); });
  check("temporary", [&] { return os::File::temporary(missing.c_str()); });
  os::File file;
  check("create", [&] { return (file = os::File::create(missing.c_str())).is_open(); });
  check("read_at", [&] { return file.read_at(0, &changed_by, 1); });
  check("truncate", [&] { return file.truncate(UINT64_MAX / 2 + 2); });
  check("punch_hole", [&] { return file.punch_hole(UINT64_MAX - 4, 4); });
  check("sizes", [&] { return file.size_bytes() + file.allocated_bytes(); });
  check("close", [&] { return file.close(), 0; });
  INFO("errno changed by: " << changed_by);
  CHECK(changed_by.empty());
}
