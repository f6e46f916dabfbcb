// Fork under allocating threads (hardening rule 1): no child and no parent may hang or see a damaged heap.
// Run as: fork_test threads|signal|stdio|daemon|spawn COUNT. Every child has a time limit; one that passes it
// is killed, named and counted. What would break: a lock that another thread holds at the fork and nobody
// ever frees.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "tests/process/expect.h"

extern char** environ;

namespace {

using process_test::expect;
using process_test::fill;
using process_test::holds;
using process_test::opaque;
using process_test::Random;

constexpr int kThreads = 8;
constexpr std::size_t kShared = 64;
constexpr double kChildLimit = 10.0;

// A block is published only when it is complete and taken back before it changes, so whatever a child finds
// here at the moment of the fork is a whole block of the parent's.
struct alignas(16) Block {
  std::size_t size;
  unsigned char value;
};
std::atomic<Block*> shared_blocks[kShared];
std::atomic<bool> stop{false};

Block* make_block(Random& random) {
  const std::size_t size = sizeof(Block) + random.below(std::size_t{64} << random.below(14));
  auto* block = static_cast<Block*>(opaque(std::malloc(size)));
  if (block == nullptr) return nullptr;
  block->size = size;
  block->value = static_cast<unsigned char>(random.below(255) + 1);
  fill(block + 1, size - sizeof(Block), block->value);
  return block;
}

bool block_is_whole(const Block* block) {
  return block->size == sizeof(Block) || holds(block + 1, block->size - sizeof(Block), block->value);
}

void churn(std::uint64_t seed) {
  Random random(seed);
  void* own[32] = {};
  while (!stop.load(std::memory_order_relaxed)) {
    void*& place = own[random.below(32)];
    std::free(place);
    place = opaque(std::malloc(random.below(std::size_t{32} << random.below(16))));
    Block* fresh = make_block(random);
    Block* old = shared_blocks[random.below(kShared)].exchange(fresh);
    if (old == nullptr) continue;
    expect(block_is_whole(old), "a block kept its contents", old->size);
    std::free(old);
  }
  for (void* block : own) std::free(block);
}

class Churners {
 public:
  explicit Churners(int count) {
    stop.store(false);
    for (int i = 0; i < count; ++i) threads_.emplace_back(churn, static_cast<std::uint64_t>(i) + 1);
  }
  ~Churners() {
    stop.store(true);
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  std::vector<std::thread> threads_;
};

bool wait_for(pid_t child, const char* what, std::size_t round) {
  const double end = process_test::now_seconds() + kChildLimit;
  for (;;) {
    int status = 0;
    const pid_t got = waitpid(child, &status, WNOHANG);
    if (got == child)
      return expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, what, static_cast<size_t>(status));
    if (got < 0 && errno != EINTR) return expect(false, "waitpid", round);
    if (process_test::now_seconds() > end) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      return expect(false, "a child hangs, killed after 10 s; round", round);
    }
    process_test::sleep_ms(1);
  }
}

void* child_thread(void* seed) {
  Random random(reinterpret_cast<std::uintptr_t>(seed));
  for (int i = 0; i < 200; ++i) {
    Block* block = make_block(random);
    if (block == nullptr || !block_is_whole(block)) return seed;
    std::free(block);
  }
  return nullptr;
}

// Exit statuses tell what went wrong: 2 contents, 3 allocation, 4 thread.
int child_work(std::size_t round) {
  Random random(round + 77);
  for (auto& place : shared_blocks) {
    Block* block = place.exchange(nullptr);
    if (block == nullptr) continue;
    if (!block_is_whole(block)) return 2;
    std::free(block);
  }
  Block* mine[100];
  for (auto*& block : mine) {
    block = make_block(random);
    if (block == nullptr) return 3;
  }
  pthread_t thread;
  void* result = nullptr;
  if (pthread_create(&thread, nullptr, child_thread, reinterpret_cast<void*>(round + 1)) != 0) return 4;
  if (pthread_join(thread, &result) != 0 || result != nullptr) return 4;
  for (auto* block : mine) {
    if (!block_is_whole(block)) return 2;
    std::free(block);
  }
  return 0;
}

void fork_under_threads(std::size_t count) {
  const Churners churners(kThreads);
  Random random(4711);
  for (std::size_t round = 0; round < count; ++round) {
    void* held = opaque(std::malloc(random.below(100'000)));
    const pid_t child = fork();
    if (child == 0) {
      std::free(held);
      _exit(child_work(round));
    }
    if (!expect(child > 0, "fork succeeds", round)) break;
    std::free(held);
    if (!wait_for(child, "a child ends well (2 contents, 3 malloc, 4 thread)", round)) {
      if (process_test::failure_count.load() > 5) break;
    }
  }
}

std::atomic<std::size_t> signal_forks{0};

// The handler may interrupt malloc itself, so the allocator's lock may belong to the very thread that forks.
void fork_in_handler(int) {
  const int saved = errno;
  const pid_t child = fork();
  if (child == 0) _exit(0);
  int status = 0;
  if (child > 0) {
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    signal_forks.fetch_add(1);
  }
  errno = saved;
}

void fork_in_signal_handler(std::size_t count) {
  const Churners churners(2);
  struct sigaction action {};
  action.sa_handler = fork_in_handler;
  sigaction(SIGALRM, &action, nullptr);
  const itimerval every{{0, 2000}, {0, 2000}};
  setitimer(ITIMER_REAL, &every, nullptr);
  const double end = process_test::now_seconds() + kChildLimit + static_cast<double>(count) * 0.05;
  Random random(99);
  while (signal_forks.load() < count && process_test::now_seconds() < end) {
    Block* block = make_block(random);
    if (block != nullptr) expect(block_is_whole(block), "contents around a fork in a handler");
    std::free(block);
  }
  const itimerval never{};
  setitimer(ITIMER_REAL, &never, nullptr);
  expect(signal_forks.load() >= count, "forks in the signal handler", signal_forks.load());
}

// fopen, fprintf and fflush(NULL) allocate while they hold stdio's locks, which fork takes after the atfork
// handlers.
void use_stdio() {
  while (!stop.load(std::memory_order_relaxed)) {
    FILE* file = fopen("/dev/null", "w");
    if (file == nullptr) continue;
    fprintf(file, "%s %d\n", "some text that fills a buffer", 42);
    fflush(nullptr);
    fclose(file);
    char* text = nullptr;
    std::size_t length = 0;
    FILE* memory = open_memstream(&text, &length);
    if (memory == nullptr) continue;
    for (int i = 0; i < 50; ++i) fprintf(memory, "line %d of a stream in memory\n", i);
    fflush(nullptr);
    fclose(memory);
    std::free(text);
  }
}

void fork_under_stdio(std::size_t count) {
  const Churners churners(2);
  std::thread first(use_stdio);
  std::thread second(use_stdio);
  for (std::size_t round = 0; round < count; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      FILE* file = fopen("/dev/null", "w");
      const bool written = file != nullptr && fprintf(file, "child\n") > 0 && fclose(file) == 0;
      _exit(written ? child_work(round) : 3);
    }
    if (!expect(child > 0, "fork succeeds", round)) break;
    if (!wait_for(child, "a child that uses stdio ends well", round) &&
        process_test::failure_count.load() > 5)
      break;
  }
  stop.store(true);
  first.join();
  second.join();
}

// The grandchild outlives its parent, runs exit handlers, and reports through the pipe.
void daemonize(std::size_t count) {
  const Churners churners(4);
  for (std::size_t round = 0; round < count; ++round) {
    int ends[2];
    if (!expect(pipe(ends) == 0, "pipe")) return;
    const pid_t child = fork();
    if (child == 0) {
      setsid();
      if (fork() != 0) _exit(0);
      const char answer = child_work(round) == 0 ? 'y' : 'n';
      if (write(ends[1], &answer, 1) != 1) _exit(1);
      exit(0);
    }
    close(ends[1]);
    wait_for(child, "the first child of a daemon ends", round);
    char answer = 0;
    timeval limit{10, 0};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    const bool ready = select(ends[0] + 1, &set, nullptr, nullptr, &limit) == 1;
    expect(ready && read(ends[0], &answer, 1) == 1 && answer == 'y', "the daemon works", round);
    close(ends[0]);
  }
}

void spawn_programs(std::size_t count) {
  const Churners churners(4);
  char name[] = "/bin/true";
  char* arguments[] = {name, nullptr};
  for (std::size_t round = 0; round < count; ++round) {
    pid_t child = 0;
    if (round % 2 == 0) {
      if (!expect(posix_spawn(&child, name, nullptr, nullptr, arguments, environ) == 0, "posix_spawn"))
        continue;
    } else {
      child = vfork();
      if (child == 0) {
        execv(name, arguments);
        _exit(127);
      }
    }
    wait_for(child, "a spawned program ends well", round);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const char* part = argc > 1 ? argv[1] : "";
  const std::size_t count = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 100;
  if (std::strcmp(part, "threads") == 0) {
    fork_under_threads(count);
  } else if (std::strcmp(part, "signal") == 0) {
    fork_in_signal_handler(count);
  } else if (std::strcmp(part, "stdio") == 0) {
    fork_under_stdio(count);
  } else if (std::strcmp(part, "daemon") == 0) {
    daemonize(count);
  } else if (std::strcmp(part, "spawn") == 0) {
    spawn_programs(count);
  } else {
    process_test::say("usage: fork_test threads|signal|stdio|daemon|spawn COUNT\n");
    return 2;
  }
  return process_test::finish(part);
}
