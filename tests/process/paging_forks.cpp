// The kinds of children of the paging torture. A child tells its result by its exit status; a grandchild in a
// shared page.
#include "tests/process/paging_forks.h"

#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <new>

extern char** environ;

namespace paging_test {

using process_test::expect;
using process_test::failure_count;
using process_test::say;

namespace {

constexpr int kLimitSeconds = 120;
constexpr int kWrong = 70;  // exit status of a child that found wrong bytes
constexpr std::size_t kArguments = 24;

// The end of a child that hangs: the default action of SIGALRM, whatever the parent did with it.
void limit_own_time() {
  failure_count.store(0);
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  sigaction(SIGALRM, &action, nullptr);
  itimerval none{};
  setitimer(ITIMER_REAL, &none, nullptr);
  alarm(kLimitSeconds);
}

// New contents for a part of the blocks, some of them freed, some of another size.
void change_blocks(Blocks& blocks, Random& random) {
  const std::size_t most = std::min<std::size_t>(blocks.count(), 2000);
  for (std::size_t i = 0; i < most; ++i) {
    const std::size_t index = random.below(blocks.count());
    Block& block = blocks[index];
    if (random.below(3) == 0 && blocks.count() > 1) {
      std::free(blocks.take(index).bytes);
      continue;
    }
    block.seed = random.next();
    fill(block);
  }
  for (std::size_t i = 0; i < most / 2 && !blocks.is_full(); ++i) {
    Block block;
    block.size = random_size(random, 0);
    block.seed = random.next();
    block.bytes = static_cast<unsigned char*>(process_test::opaque(std::malloc(block.size)));
    if (!expect(block.bytes != nullptr, "malloc in a child", block.size)) return;
    fill(block);
    blocks.add(block);
  }
}

void* compare_in_thread(void* given) {
  auto& blocks = *static_cast<Blocks*>(given);
  for (std::size_t i = 0; i < blocks.count(); i += 2) check_all(blocks[i], "in a thread of a child");
  return nullptr;
}

void with_threads(Blocks& blocks) {
  pthread_t threads[3];
  int started = 0;
  for (pthread_t& thread : threads)
    started += pthread_create(&thread, nullptr, compare_in_thread, &blocks) == 0;
  expect(started == 3, "threads start in a child", static_cast<std::size_t>(started));
  for (int i = 0; i < started; ++i) pthread_join(threads[i], nullptr);
}

[[noreturn]] void leave() { _exit(failure_count.load() == 0 ? 0 : kWrong); }

// What a fork() child of the kind does. Of the files only the pipe to the watching process is kept.
[[noreturn]] void child_work(ForkKind kind, Blocks& blocks, Random& random) {
  limit_own_time();
  if (kind == ForkKind::no_files) close_range(static_cast<unsigned>(progress_pipe) + 1, ~0u, 0);
  if (kind == ForkKind::threads) with_threads(blocks);
  _exit(inspect_as_child(blocks, random, kind != ForkKind::sample) == 0 ? 0 : kWrong);
}

void judge(const char* name, pid_t child, int status) {
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  const bool hung = WIFSIGNALED(status) && (WTERMSIG(status) == SIGALRM || WTERMSIG(status) == SIGKILL);
  expect(false, hung ? "a child ended in time" : "a child found every byte",
         static_cast<std::size_t>(status));
  say("  kind %s, process %d: wait status 0x%x%s\n", name, static_cast<int>(child),
      static_cast<unsigned>(status),
      WIFEXITED(status) && WEXITSTATUS(status) == kWrong ? " (wrong bytes)" : "");
}

void await(const char* name, pid_t child) {
  const double end = process_test::now_seconds() + kLimitSeconds + 10;
  int status = 0;
  pid_t ended = 0;
  while ((ended = waitpid(child, &status, WNOHANG)) == 0 || (ended < 0 && errno == EINTR)) {
    if (process_test::now_seconds() > end) kill(child, SIGKILL);
    process_test::sleep_ms(1);
  }
  if (!expect(ended == child, "a child can be awaited", static_cast<std::size_t>(errno))) return;
  judge(name, child, status);
}

// The child is gone before its own child looks at the memory, so nobody can await that one: it tells its
// result in a page that all three share. (A pipe would be closed by the parent's close_range.)
void run_grandchild(Blocks& blocks, Random& random) {
  enum : int { kNothing, kWell, kFailed };
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (!expect(page != MAP_FAILED, "a shared page", static_cast<std::size_t>(errno))) return;
  auto* result = new (page) std::atomic<int>(kNothing);
  const pid_t child = fork();
  if (child == 0) {
    const pid_t between = getpid();
    if (fork() != 0) _exit(0);
    limit_own_time();
    while (getppid() == between) process_test::sleep_ms(1);
    process_test::sleep_ms(20);
    result->store(inspect_as_child(blocks, random, true) == 0 ? kWell : kFailed);
    _exit(0);
  }
  if (expect(child > 0, "fork", static_cast<std::size_t>(errno))) {
    await("grandchild", child);
    const double end = process_test::now_seconds() + kLimitSeconds;
    while (result->load() == kNothing && process_test::now_seconds() < end) process_test::sleep_ms(2);
    expect(result->load() != kNothing, "a grandchild ended in time");
    expect(result->load() != kFailed, "a grandchild found every byte");
  }
  munmap(page, 4096);
}

// Printable arguments in heap blocks: "seed" and texts that follow from it.
struct Arguments {
  char* list[kArguments + 4] = {};
  Arguments(const char* program, std::uint64_t seed) {
    list[0] = copy(program);
    list[1] = copy("--check-arguments");
    char text[2048];
    std::snprintf(text, sizeof text, "%llu", static_cast<unsigned long long>(seed));
    list[2] = copy(text);
    for (std::size_t i = 0; i < kArguments; ++i)
      list[3 + i] = copy(argument_text(seed, i, text, sizeof text));
  }
  ~Arguments() {
    for (char* entry : list) std::free(entry);
  }
  static const char* argument_text(std::uint64_t seed, std::size_t number, char* text, std::size_t size) {
    const std::size_t length = mix(seed + number) % (size - 1);
    for (std::size_t i = 0; i < length; ++i) {
      text[i] = static_cast<char>('a' + mix(seed * 31 + number * size + i) % 26);
    }
    text[length] = '\0';
    return text;
  }

 private:
  static char* copy(const char* text) {
    char* bytes = static_cast<char*>(std::malloc(std::strlen(text) + 1));
    if (bytes == nullptr) std::abort();
    return std::strcpy(bytes, text);
  }
};

void run_program(ForkKind kind, Random& random, const char* program) {
  auto* arguments = new Arguments(program, random.next());
  process_test::sleep_ms(static_cast<long>(random.below(200)));  // they may go cold
  pid_t child = 0;
  int error = 0;
  if (kind == ForkKind::spawn) {
    error = posix_spawn(&child, program, nullptr, nullptr, arguments->list, environ);
  } else {
    child = vfork();
    if (child == 0) {
      execve(program, arguments->list, environ);
      _exit(71);
    }
  }
  if (expect(error == 0 && child > 0, "vfork or posix_spawn", static_cast<std::size_t>(error))) {
    await(name_of(kind), child);
  }
  delete arguments;
}

// A child that libc knows nothing about; as after fork in a program with threads, it may only read.
void run_raw(Blocks& blocks) {
  const auto child = static_cast<pid_t>(syscall(SYS_fork));
  if (child == 0) {
    limit_own_time();
    for (std::size_t i = 0; i < blocks.count(); ++i) check_all(blocks[i], "in a child of a raw fork");
    leave();
  }
  if (expect(child > 0, "raw fork", static_cast<std::size_t>(errno))) await("raw", child);
}

}  // namespace

const char* name_of(ForkKind kind) {
  static const char* const kNames[kForkKinds] = {"sample",     "everything", "threads",    "no_files",
                                                 "grandchild", "raw",        "vfork_exec", "spawn"};
  return kNames[static_cast<unsigned>(kind)];
}

int inspect_as_child(Blocks& blocks, Random& random, bool all) {
  if (all) {
    for (std::size_t i = 0; i < blocks.count(); ++i) check_all(blocks[i], "in a child");
  } else {
    for (int i = 0; i < 300; ++i) check_some(blocks.pick_any(random), random, "in a child");
  }
  change_blocks(blocks, random);
  for (std::size_t i = 0; i < blocks.count(); i += all ? 1 : 7) check_all(blocks[i], "in a child, changed");
  return failure_count.load();
}

void run_child(ForkKind kind, Blocks& blocks, Random& random, const char* program) {
  switch (kind) {
    case ForkKind::grandchild:
      return run_grandchild(blocks, random);
    case ForkKind::raw:
      return run_raw(blocks);
    case ForkKind::vfork_exec:
    case ForkKind::spawn:
      return run_program(kind, random, program);
    default:
      break;
  }
  const pid_t child = fork();
  if (child == 0) child_work(kind, blocks, random);
  if (expect(child > 0, "fork", static_cast<std::size_t>(errno))) await(name_of(kind), child);
}

int check_arguments(int count, char** arguments) {
  if (!expect(count == static_cast<int>(kArguments) + 3, "all arguments arrived",
              static_cast<std::size_t>(count))) {
    return 1;
  }
  const std::uint64_t seed = std::strtoull(arguments[2], nullptr, 10);
  char text[2048];
  for (std::size_t i = 0; i < kArguments; ++i) {
    Arguments::argument_text(seed, i, text, sizeof text);
    expect(std::strcmp(arguments[3 + i], text) == 0, "an argument arrived unharmed", i);
  }
  return process_test::finish("paging_torture, started again");
}

}  // namespace paging_test
