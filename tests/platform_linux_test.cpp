// The platform layer on Linux: what needs child processes, resident memory, or system calls that fail on
// demand. A child reports by its exit status; assertions stay in the parent.
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
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

constexpr unsigned kChildSeconds = 60;  // a child that hangs is killed: a failure, not a stop
constexpr int kSkipped = 77;            // exit status of a child on a system that cannot do what it needs

// Runs `body` in a child process and returns its wait status; `body` returns the exit status.
template <class Body>
int status_of_child(Body body) {
  const pid_t child = ::fork();
  if (child == 0) {
    for (const int signal_number : {SIGSEGV, SIGABRT, SIGBUS, SIGALRM}) std::signal(signal_number, SIG_DFL);
    ::alarm(kChildSeconds);
    ::_exit(body());
  }
  int status = -1;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

bool exited_with(int status, int code) { return WIFEXITED(status) && WEXITSTATUS(status) == code; }
bool died_of(int status, int signal_number) {
  return WIFSIGNALED(status) && WTERMSIG(status) == signal_number;
}

// A system call and what it fails with. With `bits`, only calls that have one of them set in that argument
// fail.
struct Failure {
  long number;
  int error;
  unsigned argument = 0;
  std::uint32_t bits = 0;
};

// From now on such calls of this process fail. False where that is not allowed.
bool fail_calls(const Failure& failure) {
  const auto number = static_cast<std::uint32_t>(failure.number);
  const auto error = static_cast<std::uint32_t>(failure.error);
  const auto argument_at = static_cast<std::uint32_t>(offsetof(seccomp_data, args) + 8 * failure.argument);
  const std::uint8_t skip_test = failure.bits == 0 ? 2 : 0;
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offsetof(seccomp_data, nr))),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, skip_test, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument_at),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, failure.bits, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{static_cast<unsigned short>(sizeof filter / sizeof filter[0]), filter};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// Runs `body` in a child in which one system call always fails; `body` returns whether all was as it should
// be.
template <class Body>
void check_with_failing(const Failure& failure, Body body) {
  const int status = status_of_child([&] {
    if (!fail_calls(failure)) return kSkipped;
    errno = 4242;
    return body() && errno == 4242 ? 0 : 1;
  });
  if (exited_with(status, kSkipped)) {
    WARN("system calls cannot be made to fail here");
    return;
  }
  INFO("system call " << failure.number << " failing with " << failure.error << ", wait status " << status);
  CHECK(exited_with(status, 0));
}

unsigned char* reserve_or_fail(std::size_t size_bytes) {
  void* base = os::reserve(size_bytes, 2 * kMiB);
  REQUIRE(base != nullptr);
  return static_cast<unsigned char*>(base);
}

bool all_equal(const unsigned char* bytes, std::size_t size_bytes, unsigned char value) {
  for (std::size_t i = 0; i < size_bytes; ++i) {
    if (bytes[i] != value) return false;
  }
  return true;
}

void touch(unsigned char* address) { *const_cast<volatile unsigned char*>(address) = 1; }

// A figure of /proc/self/status in bytes, read independently of the code under test.
std::size_t status_kib_as_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key + ":", 0) == 0) return std::stoul(line.substr(key.size() + 1)) * kKiB;
  }
  return 0;
}

}  // namespace

TEST_CASE("V1 resident memory rises and falls with use", "[platform]") {
  constexpr std::size_t kSize = 64 * kMiB;
  unsigned char* base = reserve_or_fail(kSize);
  const os::ProcessMemory before = os::process_memory();
  REQUIRE(os::commit(base, kSize));
  CHECK(os::resident_bytes(base, kSize) == 0);
  std::memset(base, 1, kSize);
  const os::ProcessMemory full = os::process_memory();
  CHECK(os::resident_bytes(base, kSize) == kSize);
  REQUIRE(os::purge(base, kSize / 2));
  CHECK(os::resident_bytes(base, kSize) == kSize / 2);
  REQUIRE(os::decommit(base, kSize));
  CHECK(os::resident_bytes(base, kSize) == 0);
  const os::ProcessMemory after = os::process_memory();
  os::release(base, kSize);
  CHECK(full.resident >= before.resident + kSize - 2 * kMiB);
  CHECK(full.resident <= before.resident + kSize + 2 * kMiB);
  CHECK(after.resident <= before.resident + 2 * kMiB);
  CHECK(after.resident_peak >= full.resident - 2 * kMiB);
  CHECK(full.minor_faults >= before.minor_faults + kSize / (2 * kMiB));
}

TEST_CASE("V5 a reservation of 640 GB costs less than 1 MB", "[platform]") {
  constexpr std::size_t kSize = 640 * kGiB;
  const std::size_t resident = status_kib_as_bytes("VmRSS"), tables = status_kib_as_bytes("VmPTE");
  const std::size_t virtual_size = os::process_memory().virtual_size;
  unsigned char* base = reserve_or_fail(kSize);
  CHECK(os::process_memory().virtual_size == virtual_size + kSize);
  CHECK(status_kib_as_bytes("VmRSS") < resident + kMiB);
  CHECK(status_kib_as_bytes("VmPTE") < tables + kMiB);
  os::release(base, kSize);
  CHECK(os::process_memory().virtual_size == virtual_size);
}

TEST_CASE("V6 an aligned reservation keeps no more addresses than asked", "[platform]") {
  const std::size_t before = os::process_memory().virtual_size;
  void* base = os::reserve(3 * kMiB, kGiB);
  REQUIRE(base != nullptr);
  CHECK(os::process_memory().virtual_size == before + 3 * kMiB);
  os::release(base, 3 * kMiB);
  CHECK(os::process_memory().virtual_size == before);
}

TEST_CASE("V4 access to memory that is not committed traps", "[platform]") {
  unsigned char* base = reserve_or_fail(8 * kMiB);
  REQUIRE(os::commit(base + 2 * kMiB, 6 * kMiB));
  std::memset(base + 2 * kMiB, 1, 6 * kMiB);
  REQUIRE(os::decommit(base + 4 * kMiB, kMiB));
  REQUIRE(os::protect_none(base + 6 * kMiB, kMiB));
  REQUIRE(os::move_pages(base + 7 * kMiB, base, kMiB));
  struct Probe {
    const char* what;
    std::size_t offset;
    bool traps;
  };
  const Probe probes[] = {
      {"reserved", kMiB, true},
      {"end of reserved", 2 * kMiB - 1, true},
      {"committed", 2 * kMiB, false},
      {"end of committed", 4 * kMiB - 1, false},
      {"decommitted", 4 * kMiB, true},
      {"end of decommitted", 5 * kMiB - 1, true},
      {"after decommitted", 5 * kMiB, false},
      {"guarded", 6 * kMiB, true},
      {"moved away", 7 * kMiB, true},
      {"moved to", 0, false},
  };
  for (const Probe& probe : probes) {
    const int status = status_of_child([&] { return touch(base + probe.offset), 0; });
    INFO(probe.what << ", wait status " << status);
    CHECK(probe.traps == died_of(status, SIGSEGV));
    CHECK(probe.traps != exited_with(status, 0));
  }
  os::release(base, 8 * kMiB);
  CHECK(died_of(status_of_child([&] { return touch(base + 2 * kMiB), 0; }), SIGSEGV));
}

TEST_CASE("Moving pages copies nothing", "[platform]") {
  constexpr std::size_t kSize = 64 * kMiB;
  unsigned char* base = reserve_or_fail(2 * kSize);
  unsigned char* to = base + kSize;
  REQUIRE(os::commit(base, kSize));
  for (std::size_t i = 0; i < kSize; i += 4 * kKiB) base[i] = static_cast<unsigned char>(i >> 12);
  const std::size_t faults = os::process_memory().minor_faults;
  REQUIRE(os::move_pages(base, to, kSize));
  CHECK(os::process_memory().minor_faults < faults + 16);  // a copy takes a fault for every new page
  CHECK(os::resident_bytes(base, kSize) == 0);
  CHECK(os::resident_bytes(to, kSize) == kSize);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < kSize; i += 4 * kKiB) wrong += to[i] != static_cast<unsigned char>(i >> 12);
  CHECK(wrong == 0);
  REQUIRE(os::commit(base, kSize));
  CHECK(all_equal(base, kMiB, 0));
  os::release(base, 2 * kSize);
}

TEST_CASE("Pages in several kernel mappings move whole or stay", "[platform]") {
  constexpr std::size_t kSize = 8 * kMiB;
  unsigned char* base = reserve_or_fail(2 * kSize);
  unsigned char* to = base + kSize;
  REQUIRE(os::commit(base, kSize));
  os::advise_huge(base + 2 * kMiB, 2 * kMiB, true);
  std::memset(base, 0x42, kSize);
  REQUIRE(os::commit(to, kMiB));
  std::memset(to, 0x24, kMiB);
  if (os::move_pages(base, to, kSize)) {
    CHECK(all_equal(to, kSize, 0x42));
  } else {
    CHECK(all_equal(base, kSize, 0x42));
    CHECK(all_equal(to, kMiB, 0x24));
    CHECK(died_of(status_of_child([&] { return touch(to + kMiB), 0; }), SIGSEGV));
  }
  os::release(base, 2 * kSize);
}

TEST_CASE("V7 a system that refuses leaves the state as it was", "[platform]") {
  constexpr std::size_t kSize = 2 * kMiB;
  unsigned char* base = reserve_or_fail(2 * kSize);
  REQUIRE(os::commit(base, kSize));
  std::memset(base, 0x42, kSize);
  check_with_failing({SYS_mmap, ENOMEM}, [&] {
    return os::reserve(kSize, kSize) == nullptr && !os::decommit(base, kSize) && all_equal(base, kSize, 0x42);
  });
  for (const int error : {ENOMEM, EAGAIN, EPERM}) {
    check_with_failing({SYS_mprotect, error}, [&] {
      return !os::commit(base, 2 * kSize) && !os::protect_none(base, kSize) && all_equal(base, kSize, 0x42);
    });
  }
  for (const int error : {EAGAIN, EINVAL, EINTR}) {
    check_with_failing({SYS_madvise, error}, [&] {
      os::advise_huge(base, kSize, true);
      return !os::purge(base, kSize) && all_equal(base, kSize, 0x42);
    });
  }
  for (const int error : {ENOMEM, EINVAL, EFAULT}) {
    check_with_failing({SYS_mremap, error}, [&] {
      return !os::move_pages(base, base + kSize, kSize) && all_equal(base, kSize, 0x42);
    });
  }
  check_with_failing({SYS_munmap, ENOMEM}, [&] {
    os::release(base, kSize);
    return os::resident_bytes(base, kSize) == 0;
  });
  check_with_failing({SYS_mincore, EAGAIN}, [&] { return os::resident_bytes(base, kSize) == 0; });
  CHECK(all_equal(base, kSize, 0x42));
  os::release(base, 2 * kSize);
}

TEST_CASE("V7 an address space limit is reported and refuses reservations", "[platform]") {
  const int status = status_of_child([] {
    const rlimit limit{512 * kMiB, 512 * kMiB};
    if (::setrlimit(RLIMIT_AS, &limit) != 0) return kSkipped;
    errno = 4242;
    if (os::address_space_limit() != 512 * kMiB) return 1;
    if (os::memory_limits().address_space != 512 * kMiB) return 2;
    if (os::reserve(kGiB, os::page_bytes()) != nullptr) return 3;
    return errno == 4242 ? 0 : 4;
  });
  CHECK(exited_with(status, 0));
}

TEST_CASE("The process helpers do without the calls that a sandbox refuses", "[platform]") {
  check_with_failing({SYS_getrandom, ENOSYS}, [] { return os::entropy() != os::entropy(); });
  check_with_failing({SYS_openat, EMFILE}, [] {
    return os::process_memory().resident == 0 && os::memory_limits().memory == SIZE_MAX &&
           !os::File::temporary("/tmp").is_open();
  });
  check_with_failing({SYS_sched_getaffinity, EPERM}, [] { return os::cpu_count() == 1; });
  check_with_failing({SYS_write, EAGAIN}, [] { return os::write_error("x", 1), true; });
  check_with_failing({SYS_pwrite64, ENOSPC}, [] {
    os::File file = os::File::temporary("/tmp");
    return file.is_open() && !file.write_at(0, "x", 1);
  });
  check_with_failing({SYS_pread64, EINTR}, [] {
    os::File file = os::File::temporary("/tmp");
    char byte;
    return file.write_at(0, "x", 1) && !file.read_at(0, &byte, 1);
  });
  check_with_failing({SYS_fallocate, EOPNOTSUPP}, [] {
    os::File file = os::File::temporary("/tmp");
    return file.write_at(0, "x", 1) && !file.punch_hole(0, 1);
  });
}

TEST_CASE("A file gives back the storage of a hole", "[platform]") {
  os::File file = os::File::temporary("/tmp");
  REQUIRE(file.is_open());
  const std::vector<char> pattern(4 * kMiB, 'x');
  REQUIRE(file.write_at(0, pattern.data(), pattern.size()));
  const std::uint64_t full = file.allocated_bytes();
  CHECK(full >= 4 * kMiB);
  REQUIRE(file.punch_hole(0, 3 * kMiB));
  CHECK(file.allocated_bytes() <= full - 3 * kMiB);
  CHECK(file.size_bytes() == 4 * kMiB);
}

TEST_CASE("M4 a temporary file needs no support for nameless files", "[platform]") {
  char directory[] = "/tmp/glebe-test-XXXXXX";
  REQUIRE(::mkdtemp(directory) != nullptr);
  check_with_failing({SYS_openat, EOPNOTSUPP, 2, O_TMPFILE & ~O_DIRECTORY}, [&] {
    os::File file = os::File::temporary(directory);
    char text[3];
    return file.write_at(0, "abc", 3) && file.read_at(0, text, 3) && std::memcmp(text, "abc", 3) == 0;
  });
  CHECK(::rmdir(directory) == 0);  // only succeeds when nothing was left in it
}

TEST_CASE("M4 a read that stops half way is not repeated from the start", "[platform]") {
  const std::size_t page = os::page_bytes();
  os::File file = os::File::temporary("/tmp");
  REQUIRE(file.write_at(0, std::vector<char>(page, 'a').data(), page));
  REQUIRE(file.write_at(page, std::vector<char>(page, 'b').data(), page));
  unsigned char* base = reserve_or_fail(2 * page);
  REQUIRE(os::commit(base, page));
  // The kernel fills the first page, reports a short count, and is then asked to fill a page without access.
  CHECK_FALSE(file.read_at(0, base, 2 * page));
  CHECK(all_equal(base, page, 'a'));
  os::release(base, 2 * page);
}

TEST_CASE("Locking a mutex twice ends with a message", "[platform]") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const int status = status_of_child([&] {
    ::dup2(ends[1], STDERR_FILENO);
    os::Mutex mutex;
    mutex.lock();
    mutex.lock();
    return 0;
  });
  ::close(ends[1]);
  char text[256] = {};
  const ssize_t length = ::read(ends[0], text, sizeof text - 1);
  ::close(ends[0]);
  CHECK(died_of(status, SIGABRT));
  REQUIRE(length > 0);
  CHECK(std::string(text).find("glebe: internal error: a mutex is locked again") == 0);
  CHECK(std::string(text).find("thread.cpp:") != std::string::npos);
}

TEST_CASE("A mutex works where futex(2) is refused", "[platform]") {
  // Only private futexes are refused: join() needs one that is shared with the kernel.
  check_with_failing({SYS_futex, EPERM, 1, FUTEX_PRIVATE_FLAG}, [] {
    os::Mutex mutex;
    int plain = 0;  // guarded by mutex
    const auto work = [&] {
      for (int i = 0; i < 2000; ++i) {
        const os::Lock lock(mutex);
        plain = plain + 1;
        if (i % 100 == 0) os::yield();
      }
    };
    std::thread first(work), second(work);
    first.join();
    second.join();
    errno = 4242;  // the threads of libc may have changed it
    return plain == 4000;
  });
}

TEST_CASE("A thread that waits for a mutex sleeps", "[platform]") {
  os::Mutex mutex;
  std::atomic<bool> ready{false};
  timespec cpu_time{};
  mutex.lock();
  std::thread sleeper([&] {
    ready.store(true);
    const os::Lock lock(mutex);
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu_time);
  });
  while (!ready.load()) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  mutex.unlock();
  sleeper.join();
  CHECK(cpu_time.tv_sec == 0);
  CHECK(cpu_time.tv_nsec < 100'000'000);  // of 300 ms: a thread that spins uses most of them
}

namespace {

// What the exit hook saw, in the children of the test below.
constinit std::atomic<int> hook_runs{0};
constinit std::atomic<int> hook_sum{0};
constinit std::atomic<int> runs_at_destructor{-1};
int hook_value = 5;

void count_exit(void* value) {
  hook_runs.fetch_add(1);
  hook_sum.fetch_add(*static_cast<int*>(value));
}
void run_twice(void* value) {
  if (hook_runs.fetch_add(1) == 0) static_cast<void>(os::set_exit_value(value));
}

struct SeesHook {
  ~SeesHook() { runs_at_destructor.store(hook_runs.load()); }
};
thread_local SeesHook sees_hook;

constinit int initial_value = 0;
using TestSlot = os::ThreadSlot<int, &initial_value>;

}  // namespace

TEST_CASE("The exit hook runs at the end of a thread, after thread_local destructors", "[platform]") {
  const int status = status_of_child([] {
    if (os::exit_value() != nullptr || os::set_exit_value(&hook_value)) return 1;
    if (!os::set_exit_hook(count_exit)) return 2;
    std::thread([] { static_cast<void>(os::exit_value()); }).join();
    if (hook_runs.load() != 0) return 3;  // no value, no call
    bool kept = false;
    std::thread([&] {
      static_cast<void>(&sees_hook);
      const bool set = os::set_exit_value(&hook_value);
      kept = set && os::exit_value() == &hook_value;
    }).join();
    if (!kept || hook_runs.load() != 1 || hook_sum.load() != 5) return 4;
    if (runs_at_destructor.load() != 0) return 5;
    std::thread([] {
      if (os::set_exit_value(&hook_value)) static_cast<void>(os::set_exit_value(nullptr));
    }).join();
    return hook_runs.load() == 1 ? 0 : 6;
  });
  INFO("wait status " << status);
  CHECK(exited_with(status, 0));
}

TEST_CASE("The exit hook runs again when it asks for it", "[platform]") {
  const int status = status_of_child([] {
    if (!os::set_exit_hook(run_twice)) return 1;
    std::thread([] { static_cast<void>(os::set_exit_value(&hook_value)); }).join();
    return hook_runs.load() == 2 ? 0 : 2;
  });
  CHECK(exited_with(status, 0));
}

TEST_CASE("The exit hook reports that no key is left", "[platform]") {
  const int status = status_of_child([] {
    pthread_key_t key;
    while (::pthread_key_create(&key, nullptr) == 0) {
    }
    return os::set_exit_hook(count_exit) || os::set_exit_value(&hook_value) || os::exit_value() != nullptr;
  });
  CHECK(exited_with(status, 0));
}

TEST_CASE("A thread slot starts with its initial value in every thread", "[platform]") {
  int mine = 1;
  CHECK(TestSlot::get() == &initial_value);
  TestSlot::set(&mine);
  CHECK(TestSlot::get() == &mine);
  bool was_initial = false;
  std::thread([&] { was_initial = TestSlot::get() == &initial_value; }).join();
  CHECK(was_initial);
  TestSlot::set(&initial_value);
}

TEST_CASE("The fork hook runs in the child, and the thread keeps its id", "[platform]") {
  const int status = status_of_child([] {
    static std::atomic<int> runs{0};
    const std::uintptr_t id = os::thread_id();
    const std::uint64_t process = os::process_id();
    if (!os::set_fork_hook([] { runs.fetch_add(1); })) return 1;
    const int inner = status_of_child([&] {
      const bool same = os::thread_id() == id && os::process_id() != process;
      return runs.load() == 1 && same ? 0 : 1;
    });
    return exited_with(inner, 0) && runs.load() == 0 ? 0 : 2;
  });
  CHECK(exited_with(status, 0));
}

TEST_CASE("A forked child frees the locks of threads that it does not have", "[platform]") {
  os::Mutex mutex;
  std::atomic<int> stage{0};
  std::thread holder([&] {
    const os::Lock lock(mutex);
    stage.store(1);
    while (stage.load() != 2) std::this_thread::yield();
  });
  while (stage.load() != 1) std::this_thread::yield();
  const int status = status_of_child([&] {
    if (!mutex.is_held() || mutex.held_by_me()) return 1;
    mutex.reset_in_child();
    const os::Lock lock(mutex);
    return mutex.held_by_me() ? 0 : 2;
  });
  stage.store(2);
  holder.join();
  CHECK(exited_with(status, 0));
}

TEST_CASE("The environment follows setenv, and may be missing", "[platform]") {
  REQUIRE(::setenv("GLEBE_TEST_VARIABLE", "one=two", 1) == 0);
  const char* value = os::environment("GLEBE_TEST_VARIABLE");
  REQUIRE(value != nullptr);
  CHECK(std::string(value) == "one=two");
  REQUIRE(::setenv("GLEBE_TEST_VARIABLE", "", 1) == 0);
  value = os::environment("GLEBE_TEST_VARIABLE");
  REQUIRE(value != nullptr);
  CHECK(*value == '\0');
  REQUIRE(::unsetenv("GLEBE_TEST_VARIABLE") == 0);
  CHECK(os::environment("GLEBE_TEST_VARIABLE") == nullptr);
  const int status = status_of_child([] {
    environ = nullptr;
    return os::environment("PATH") == nullptr ? 0 : 1;
  });
  CHECK(exited_with(status, 0));
}

TEST_CASE("The processor count follows the affinity of the process", "[platform]") {
  const int status = status_of_child([] {
    cpu_set_t mine, one;
    CPU_ZERO(&mine);
    CPU_ZERO(&one);
    if (::sched_getaffinity(0, sizeof mine, &mine) != 0) return kSkipped;
    if (os::cpu_count() != static_cast<unsigned>(CPU_COUNT(&mine))) return 1;
    int cpu = 0;
    while (!CPU_ISSET(cpu, &mine)) ++cpu;
    CPU_SET(cpu, &one);
    if (::sched_setaffinity(0, sizeof one, &one) != 0) return kSkipped;
    return os::cpu_count() == 1 && os::current_cpu() == static_cast<unsigned>(cpu) ? 0 : 2;
  });
  CHECK((exited_with(status, 0) || exited_with(status, kSkipped)));
}

TEST_CASE("Limits agree with what the system says", "[platform]") {
  const os::MemoryLimits limits = os::memory_limits();
  std::ifstream meminfo("/proc/meminfo"), overcommit("/proc/sys/vm/overcommit_memory");
  std::string word;
  std::size_t total_kib = 0;
  int mode = -1;
  meminfo >> word >> total_kib;
  overcommit >> mode;
  CHECK(limits.physical == total_kib * kKiB);
  CHECK(limits.strict_overcommit == (mode == 2));
  std::ifstream huge("/sys/kernel/mm/transparent_hugepage/enabled");
  const std::string modes((std::istreambuf_iterator<char>(huge)), std::istreambuf_iterator<char>());
  CHECK(os::huge_pages_on_advice() == (modes.find("[madvise]") != std::string::npos));
}

TEST_CASE("A message is written whole through a smaller pipe that does not block", "[platform]") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  REQUIRE(::fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
  std::string message, received;
  for (int i = 0; i < 30'000; ++i) message += std::to_string(i) + ' ';
  const int saved = ::dup(STDERR_FILENO);
  std::thread reader([&] {
    char buffer[4096];
    for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;)
      received.append(buffer, static_cast<std::size_t>(n));
  });
  ::dup2(ends[1], STDERR_FILENO);
  os::write_error(message.data(), message.size());
  ::dup2(saved, STDERR_FILENO);
  ::close(saved);
  ::close(ends[1]);
  reader.join();
  ::close(ends[0]);
  CHECK((received == message));  // not printed when it fails
}
