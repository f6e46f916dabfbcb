// Torture of the paging tier (G15, G18): threads that allocate, free, resize, write and compare blocks of all
// sizes, use them in system calls, pass them to each other and fork, under a storm of signals, while the
// library under test pages their memory out and in. Every byte of every block follows from its seed. Exit
// status 0: no wrong byte, no error that a call would not give on resident memory, no hang.
// What would break: a write that is lost between copying a page out and dropping it, a page that comes back
// as zeros or from the wrong slot, a system call that says EFAULT, a child that reads its parent's later
// content, a pager that waits for itself.
//   paging_torture [--seconds N] [--threads N] [--set-bytes N] [--seed N] [--directory DIR] [--forks-every
//   MS]
//                  [--fork-kind 0..7] [--calls 0|1]
// The program starts itself a second time: the first process only watches. It prints where each thread waits
// and kills all when a minute passes without a comparison, and hears from the last child, which outlives the
// process under torture.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "tests/process/paging_calls.h"
#include "tests/process/paging_forks.h"
#include "tests/process/proc_memory.h"

extern char** environ;

namespace {

using paging_test::Block;
using paging_test::Blocks;
using paging_test::CallFiles;
using paging_test::ForkKind;
using process_test::expect;
using process_test::now_seconds;
using process_test::opaque;
using process_test::Random;
using process_test::say;

constexpr int kThreadsMax = 64;
constexpr int kMessages = 3;          // descriptor of the pipe to the watching process
constexpr double kSilenceMax = 60.0;  // seconds without an operation
constexpr std::size_t kStillBlocks = 512;

struct Settings {
  double seconds = 15;
  int threads = 8;
  std::size_t set_bytes = std::size_t{256} << 20;
  std::uint64_t seed = 1;
  const char* directory = "/tmp";
  long fork_every_ms = 1000;
  int fork_kind = -1;  // one kind only, for the search of an error; -1: all in turn
  bool calls = true;   // off where system calls of the same names are made to fail
};
Settings settings;
const char* own_path = nullptr;

struct Counters {
  std::atomic<std::uint64_t> operations, compared_bytes, calls, forks, exchanged, alarms, closings;
};
Counters counters;
std::atomic<bool> stop{false};
std::atomic<int> highest_file{kMessages};

// Blocks that nobody changes after the start: the signal handler and all threads compare them.
Block still_blocks[kStillBlocks];
// Where threads put blocks for each other. The seed travels in the mailbox and never in the heap.
struct Mailbox {
  std::atomic<int> state{0};  // 0 empty, 1 being changed, 2 full
  Block block;
};
Mailbox mailboxes[32];

Block make_block(std::size_t size, Random& random) {
  Block block;
  block.size = size;
  block.seed = random.next();
  void* bytes = nullptr;
  if (random.below(16) == 0) {
    bytes = std::calloc(1, size);
    const auto* words = static_cast<const unsigned char*>(opaque(bytes));
    for (std::size_t at = 0; bytes != nullptr && at<size; at += size> 65536 ? 509 : 1) {
      if (!expect(words[at] == 0, "calloc gives zeros", at)) break;
    }
  } else if (random.below(16) == 0) {
    if (posix_memalign(&bytes, std::size_t{64} << random.below(8), size) != 0) bytes = nullptr;
  } else {
    bytes = std::malloc(size);
  }
  if (!expect(bytes != nullptr, "an allocation succeeds", size)) _exit(1);
  block.bytes = static_cast<unsigned char*>(opaque(bytes));
  fill(block);
  return block;
}

void resize(Blocks& blocks, Random& random) {
  Block& block = blocks.pick_any(random);
  const std::size_t size = random.below(2) == 0
                               ? std::max<std::size_t>(1, block.size / 2 + random.below(block.size + 1))
                               : paging_test::random_size(random, settings.set_bytes);
  auto* bytes = static_cast<unsigned char*>(opaque(std::realloc(block.bytes, size)));
  if (!expect(bytes != nullptr, "realloc succeeds", size)) _exit(1);
  const Block kept{bytes, std::min(size, block.size), block.seed};
  check_some(kept, random, "after realloc");
  blocks.resized(block.size, size);
  const std::size_t from = kept.size & ~std::size_t{7};
  block.bytes = bytes;
  block.size = size;
  if (size > from) paging_test::write_content(bytes, block.seed, from, size);
}

// Gives a block to whoever comes next and takes what lies there: freed, resized and written by other threads.
void exchange(Blocks& blocks, Random& random) {
  Mailbox& box = mailboxes[random.below(std::size(mailboxes))];
  int state = box.state.load(std::memory_order_relaxed);
  // Acquire and release: what is in the box goes with its state.
  if (state == 1 || !box.state.compare_exchange_strong(state, 1, std::memory_order_acquire)) return;
  const Block given = blocks.take(random.below(blocks.count()));
  if (state == 2) {
    check_some(box.block, random, "from another thread");
    blocks.add(box.block);
  }
  box.block = given;
  box.state.store(2, std::memory_order_release);
  counters.exchanged.fetch_add(1, std::memory_order_relaxed);
}

void operate(Blocks& blocks, CallFiles& files, Random& random) {
  const std::size_t pick = random.below(100);
  if (pick < 55) {
    const std::size_t bytes = check_some(blocks.pick(random), random, "at an access");
    counters.compared_bytes.fetch_add(bytes, std::memory_order_relaxed);
  } else if (pick < 70) {
    Block& block = blocks.pick(random);
    check_some(block, random, "before a write");
    block.seed = random.next();
    fill(block);
  } else if (pick < 84) {
    const Block old = blocks.take(random.below(blocks.count()));
    if (random.below(2) == 0) check_some(old, random, "before free");
    std::free(old.bytes);
    while (!blocks.is_full()) {
      blocks.add(make_block(paging_test::random_size(random, settings.set_bytes), random));
    }
  } else if (pick < 89) {
    resize(blocks, random);
  } else if (pick < 92) {
    exchange(blocks, random);
  } else if (pick < 94) {
    check_some(still_blocks[random.below(kStillBlocks)], random, "of a block that never changes");
  } else if (settings.calls) {
    files.perform(blocks, random);
    counters.calls.fetch_add(1, std::memory_order_relaxed);
  }
  counters.operations.fetch_add(1, std::memory_order_relaxed);
}

// A program that closes what it does not know, in the middle of its life.
void close_unknown_files() {
  close_range(static_cast<unsigned>(highest_file.load()) + 1, ~0u, 0);
  counters.closings.fetch_add(1, std::memory_order_relaxed);
}

struct Worker {
  pthread_t thread;
  int number;
  Blocks* blocks;
  CallFiles* files;
};
Worker workers[kThreadsMax];
std::atomic<int> ready_workers{0};

// Thread 0 forks at once, the others in turn: each second one child somewhere.
void fork_in_turn(Worker& worker, Random& random, double start, unsigned& round) {
  const double due = start + (static_cast<double>(round) * settings.threads + worker.number + 1) *
                                 static_cast<double>(settings.fork_every_ms) / 1000.0;
  if (now_seconds() < due) return;
  const auto in_turn = static_cast<ForkKind>(
      (round * static_cast<unsigned>(settings.threads) + static_cast<unsigned>(worker.number)) %
      paging_test::kForkKinds);
  ++round;
  const ForkKind kind = settings.fork_kind < 0 ? in_turn : static_cast<ForkKind>(settings.fork_kind);
  run_child(kind, *worker.blocks, random, own_path);
  counters.forks.fetch_add(1, std::memory_order_relaxed);
  if (worker.number == 0) close_unknown_files();
}

void* work(void* given) {
  Worker& worker = *static_cast<Worker*>(given);
  Random random(settings.seed * 1000 + static_cast<std::uint64_t>(worker.number));
  while (!worker.blocks->is_full()) {
    worker.blocks->add(make_block(paging_test::random_size(random, settings.set_bytes), random));
    counters.operations.fetch_add(1, std::memory_order_relaxed);
  }
  ready_workers.fetch_add(1);
  while (ready_workers.load() < settings.threads) process_test::sleep_ms(1);
  const double start = now_seconds();
  unsigned round = 0;
  while (!stop.load(std::memory_order_relaxed)) {
    operate(*worker.blocks, *worker.files, random);
    fork_in_turn(worker, random, start, round);
  }
  return nullptr;
}

void on_alarm(int) {
  const int error = errno;
  const std::uint64_t count = counters.alarms.fetch_add(1, std::memory_order_relaxed);
  check(still_blocks[count * 7 % kStillBlocks], 0, 16, "in a signal handler");
  errno = error;
}

void start_alarms() {
  struct sigaction action {};
  action.sa_handler = on_alarm;
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, nullptr);
  const itimerval every{{0, 2000}, {0, 2000}};
  setitimer(ITIMER_REAL, &every, nullptr);
}

void tell(char letter) {
  if (write(kMessages, &letter, 1) != 1) _exit(72);
}

// The child goes on when its parent is gone for good, and tells the watching process by the pipe.
void outlive_parent(Blocks& blocks, Random& random) {
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child != 0) {
    expect(child > 0, "the last fork", static_cast<std::size_t>(errno));
    return;
  }
  alarm(120);
  while (kill(parent, 0) == 0 && getppid() == parent) process_test::sleep_ms(2);
  process_test::sleep_ms(100);
  process_test::failure_count.store(0);
  const int failures = inspect_as_child(blocks, random, true);
  tell(failures == 0 ? 'Y' : 'N');
  _exit(0);
}

void summary() {
  std::size_t bytes = 0, blocks = 0;
  for (int i = 0; i < settings.threads; ++i) {
    bytes += workers[i].blocks->bytes();
    blocks += workers[i].blocks->count();
  }
  say("paging_torture: %llu operations, %llu MiB compared, %llu system calls, %llu children, %llu "
      "exchanges,\n"
      "  %llu signals, %llu times all files closed; %zu blocks of %zu MiB, RSS %zu MiB, peak %zu MiB, seed "
      "%llu\n",
      static_cast<unsigned long long>(counters.operations.load()),
      static_cast<unsigned long long>(counters.compared_bytes.load() >> 20),
      static_cast<unsigned long long>(counters.calls.load()),
      static_cast<unsigned long long>(counters.forks.load()),
      static_cast<unsigned long long>(counters.exchanged.load()),
      static_cast<unsigned long long>(counters.alarms.load()),
      static_cast<unsigned long long>(counters.closings.load()), blocks, bytes >> 20,
      process_test::rss_kib() >> 10, process_test::peak_rss_kib() >> 10,
      static_cast<unsigned long long>(settings.seed));
}

// Every block once more, then freed in an order of its own.
void verify_and_free(Blocks& blocks, Random& random) {
  for (std::size_t i = 0; i < blocks.count(); ++i) {
    check_all(blocks[i], "at the end");
  }
  while (blocks.count() != 0) std::free(blocks.take(random.below(blocks.count())).bytes);
}

int torture() {
  paging_test::progress_pipe = kMessages;
  Random random(settings.seed);
  for (Block& block : still_blocks) block = make_block(16 + random.below(20'000), random);
  for (int i = 0; i < settings.threads; ++i) {
    Worker& worker = workers[i];
    worker.number = i;
    worker.blocks = new Blocks(settings.set_bytes / static_cast<std::size_t>(settings.threads));
    worker.files = new CallFiles;
    if (!worker.files->open(settings.directory)) return 2;
    highest_file.store(std::max(highest_file.load(), worker.files->highest()));
  }
  start_alarms();
  for (int i = 0; i < settings.threads; ++i) {
    if (!expect(pthread_create(&workers[i].thread, nullptr, work, &workers[i]) == 0, "threads start"))
      return 1;
  }
  while (ready_workers.load() < settings.threads) process_test::sleep_ms(20);
  for (const double end = now_seconds() + settings.seconds; now_seconds() < end;) process_test::sleep_ms(100);
  stop.store(true);
  for (int i = 0; i < settings.threads; ++i) pthread_join(workers[i].thread, nullptr);
  summary();
  outlive_parent(*workers[0].blocks, random);
  for (int i = 0; i < settings.threads; ++i) verify_and_free(*workers[i].blocks, random);
  for (Mailbox& box : mailboxes) {
    if (box.state.load() == 2 && check_all(box.block, "in a mailbox")) std::free(box.block.bytes);
  }
  for (const Block& block : still_blocks) check_all(block, "of a block that never changes, at the end");
  return process_test::finish("paging_torture");
}

// --- The watching process ---

void show_file(const char* path) {
  char text[600];
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  const ssize_t count = read(file, text, sizeof text - 1);
  close(file);
  if (count > 0) say("  %s: %.*s\n", path, static_cast<int>(count), text);
}

// Where each thread of the process waits, for the report of a hang.
void show_threads(pid_t process) {
  char path[96];
  int shown = 0;
  for (pid_t task = process; task < process + 400 && shown < 40; ++task) {
    std::snprintf(path, sizeof path, "/proc/%d/task/%d/wchan", static_cast<int>(process),
                  static_cast<int>(task));
    if (access(path, F_OK) != 0) continue;
    ++shown;
    for (const char* what : {"comm", "wchan", "syscall", "stack"}) {
      std::snprintf(path, sizeof path, "/proc/%d/task/%d/%s", static_cast<int>(process),
                    static_cast<int>(task), what);
      show_file(path);
    }
  }
}

pid_t start_again(int argc, char** argv, int message_end) {
  char mode[] = "--under-torture";
  char* arguments[64] = {argv[0], mode};
  for (int i = 1; i < argc && i < 60; ++i) arguments[i + 1] = argv[i];
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, message_end, kMessages);
  pid_t child = 0;
  const int error = posix_spawn(&child, own_path, &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  return error == 0 ? child : -1;
}

int watch(int argc, char** argv) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return 2;
  // Above the number that it gets in the other process, where adddup2 would otherwise keep it closed on exec.
  const int message_end = fcntl(ends[1], F_DUPFD_CLOEXEC, kMessages + 10);
  close(ends[1]);
  const pid_t child = start_again(argc, argv, message_end);
  close(message_end);
  if (child < 0) return 2;
  bool survivor_told = false, survivor_well = false, silent = false;
  for (;;) {
    pollfd waiting{ends[0], POLLIN, 0};
    const int ready = poll(&waiting, 1, static_cast<int>(kSilenceMax * 1000));
    if (ready < 0 && errno == EINTR) continue;
    char text[256];
    const ssize_t count = ready > 0 ? read(ends[0], text, sizeof text) : -1;
    if (count == 0) break;  // both the process and its last child are gone
    if (count < 0) {
      say("HANG: %.0f s without an operation in process %d\n", kSilenceMax, static_cast<int>(child));
      show_threads(child);
      silent = true;
      kill(child, SIGKILL);
      break;
    }
    for (ssize_t i = 0; i < count; ++i) {
      survivor_told = survivor_told || text[i] == 'Y' || text[i] == 'N';
      survivor_well = survivor_well || text[i] == 'Y';
    }
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  expect(!silent, "the process went on");
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the process under torture ended well",
         static_cast<std::size_t>(status));
  expect(silent || survivor_told, "the child that outlived its parent told its result");
  expect(silent || survivor_well, "the child that outlived its parent found every byte");
  return process_test::finish("paging_torture, watching");
}

bool read_arguments(int argc, char** argv) {
  for (int i = 1; i < argc; i += 2) {
    if (i + 1 >= argc) return false;
    const char* value = argv[i + 1];
    if (std::strcmp(argv[i], "--seconds") == 0)
      settings.seconds = std::atof(value);
    else if (std::strcmp(argv[i], "--threads") == 0)
      settings.threads = std::atoi(value);
    else if (std::strcmp(argv[i], "--set-bytes") == 0)
      settings.set_bytes = std::strtoull(value, nullptr, 10);
    else if (std::strcmp(argv[i], "--seed") == 0)
      settings.seed = std::strtoull(value, nullptr, 10);
    else if (std::strcmp(argv[i], "--directory") == 0)
      settings.directory = value;
    else if (std::strcmp(argv[i], "--forks-every") == 0)
      settings.fork_every_ms = std::atol(value);
    else if (std::strcmp(argv[i], "--fork-kind") == 0)
      settings.fork_kind = std::atoi(value);
    else if (std::strcmp(argv[i], "--calls") == 0)
      settings.calls = std::atoi(value) != 0;
    else
      return false;
  }
  return settings.threads > 0 && settings.threads <= kThreadsMax && settings.fork_every_ms > 0 &&
         settings.fork_kind < static_cast<int>(paging_test::kForkKinds);
}

}  // namespace

int main(int argc, char** argv) {
  static char path[512];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  own_path = length > 0 ? path : argv[0];
  if (argc > 1 && std::strcmp(argv[1], "--check-arguments") == 0) {
    return paging_test::check_arguments(argc, argv);
  }
  const bool under_torture = argc > 1 && std::strcmp(argv[1], "--under-torture") == 0;
  const int skipped = under_torture ? 1 : 0;
  if (!read_arguments(argc - skipped, argv + skipped)) {
    say("usage: paging_torture [--seconds N] [--threads N] [--set-bytes N] [--seed N] [--directory DIR]\n"
        "                      [--forks-every MS] [--fork-kind 0..7] [--calls 0|1]\n");
    return 2;
  }
  return under_torture ? torture() : watch(argc, argv);
}
