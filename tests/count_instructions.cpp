// Counts the user instructions that an allocator's library executes per operation, exactly, by
// single-stepping. Usage: count_instructions LIBRARY (a path to preload, or "libc") prints one JSON object to
// stdout. The program runs itself again as a child under LD_PRELOAD; the child warms each pattern up at full
// speed and brackets the measured part with int3, between which the parent steps it and compares the
// instruction pointer with the library's executable ranges from /proc/PID/maps. x86-64 Linux only; the
// machine's noise cannot change the figures.
#include <dlfcn.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <climits>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

struct Pattern {
  const char* name;
  void (*warm)();
  void (*measured)();
  int operations;
};

void* slots[10'000];
std::uint32_t state = 12345;

std::uint32_t next_random() {
  state = state * 1664525u + 1013904223u;
  return state >> 8;
}

template <class T>
T* opaque(T* pointer) {
  asm volatile("" : "+r"(pointer) : : "memory");
  return pointer;
}

template <std::size_t size, int count>
void tight_pairs() {
  for (int i = 0; i < count; ++i) std::free(opaque(std::malloc(size)));
}

template <int rounds>
void lifo() {
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < 100; ++i) slots[i] = std::malloc(16);
    for (int i = 99; i >= 0; --i) std::free(slots[i]);
  }
}

template <int rounds>
void fifo() {
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < 100; ++i) slots[i] = std::malloc(16);
    for (int i = 0; i < 100; ++i) std::free(slots[i]);
  }
}

template <int count>
void random_replacement() {
  for (int i = 0; i < count; ++i) {
    void*& slot = slots[next_random() % 10'000];
    std::free(slot);
    slot = std::malloc(16);
  }
}

void fill_and_replace() {
  for (void*& slot : slots) slot = std::malloc(16);
  random_replacement<100'000>();
}

template <int count>
void calloc_pairs() {
  for (int i = 0; i < count; ++i) std::free(opaque(std::calloc(1, 64)));
}

template <int count>
void realloc_same() {
  void* block = std::malloc(100);
  for (int i = 0; i < count; ++i) block = opaque(std::realloc(block, 100));
  std::free(block);
}

const Pattern kPatterns[] = {
    {"malloc16_free_tight", tight_pairs<16, 20'000>, tight_pairs<16, 500>, 500},
    {"malloc16_free_lifo100", lifo<200>, lifo<10>, 1000},
    {"malloc16_free_fifo100", fifo<200>, fifo<10>, 1000},
    {"malloc16_free_random10000", fill_and_replace, random_replacement<2000>, 2000},
    {"calloc64_free", calloc_pairs<20'000>, calloc_pairs<500>, 500},
    {"realloc_same_size", realloc_same<20'000>, realloc_same<500>, 500},
    {"malloc1000_free_tight", tight_pairs<1000, 20'000>, tight_pairs<1000, 500>, 500},
    {"malloc8000_free_tight", tight_pairs<8000, 20'000>, tight_pairs<8000, 500>, 500},
};

int run_child() {
  if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) return 10;
  for (const Pattern& pattern : kPatterns) {
    pattern.warm();
    asm volatile("int3" : : : "memory");
    pattern.measured();
    asm volatile("int3" : : : "memory");
  }
  return 0;
}

struct Range {
  std::uintptr_t begin, end;
};

// The executable mappings of the process whose path is the library's.
std::vector<Range> code_of(pid_t child, const std::string& library) {
  std::vector<Range> ranges;
  const std::string name = "/proc/" + std::to_string(child) + "/maps";
  FILE* maps = std::fopen(name.c_str(), "r");
  if (maps == nullptr) return ranges;
  char line[PATH_MAX + 200];
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    Range range{};
    char rights[8] = {};
    int path_at = 0;
    if (std::sscanf(line, "%zx-%zx %7s %*s %*s %*s %n", &range.begin, &range.end, rights, &path_at) < 3)
      continue;
    line[std::strcspn(line, "\n")] = '\0';
    if (rights[2] == 'x' && library == line + path_at) ranges.push_back(range);
  }
  std::fclose(maps);
  return ranges;
}

std::uintptr_t instruction_pointer(pid_t child) {
  user_regs_struct registers{};
  return ptrace(PTRACE_GETREGS, child, nullptr, &registers) == 0 ? registers.rip : 0;
}

// Before this instruction runs: is it the int3 that ends the measured part?
bool at_breakpoint(pid_t child, std::uintptr_t address) {
  const long word = ptrace(PTRACE_PEEKTEXT, child, reinterpret_cast<void*>(address), nullptr);
  return (static_cast<unsigned long>(word) & 0xFF) == 0xCC;
}

struct Count {
  std::uint64_t inside = 0;
  bool finished = false;
};

bool stopped_by_trap(pid_t child) {
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP;
}

Count step_until_breakpoint(pid_t child, const std::vector<Range>& code) {
  constexpr std::uint64_t kMostSteps = 50'000'000;
  Count count;
  for (std::uint64_t steps = 0; steps < kMostSteps; ++steps) {
    const std::uintptr_t at = instruction_pointer(child);
    bool inside = false;
    for (const Range& range : code) inside = inside || (at >= range.begin && at < range.end);
    if (inside) {
      ++count.inside;
    } else if (at_breakpoint(child, at)) {
      count.finished = true;
      return count;
    }
    if (ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0 || !stopped_by_trap(child)) return count;
  }
  return count;
}

bool go_on_to_breakpoint(pid_t child) {
  return ptrace(PTRACE_CONT, child, nullptr, nullptr) == 0 && stopped_by_trap(child);
}

int measure(pid_t child, const std::string& library) {
  if (!stopped_by_trap(child)) return 4;
  std::vector<Range> code = code_of(child, library);
  if (code.empty()) {
    std::fprintf(stderr, "count_instructions: %s is not mapped in the child\n", library.c_str());
    kill(child, SIGKILL);
    return 5;
  }
  std::printf("{");
  const char* separator = "";
  for (const Pattern& pattern : kPatterns) {
    const Count count = step_until_breakpoint(child, code);
    if (!count.finished) {
      kill(child, SIGKILL);
      return 6;
    }
    std::printf("%s\"%s\": %.1f", separator, pattern.name,
                static_cast<double>(count.inside) / pattern.operations);
    separator = ", ";
    // The breakpoint that ends this part, then the one that begins the next.
    if (!go_on_to_breakpoint(child)) return 7;
    const bool last = &pattern == &kPatterns[sizeof kPatterns / sizeof kPatterns[0] - 1];
    if (!last && !go_on_to_breakpoint(child)) return 7;
  }
  std::printf("}\n");
  kill(child, SIGKILL);
  return 0;
}

std::string library_path(const char* argument) {
  if (std::strcmp(argument, "libc") == 0) {
    Dl_info info{};
    return dladdr(reinterpret_cast<void*>(&std::malloc), &info) != 0 ? info.dli_fname : "";
  }
  return argument;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: count_instructions LIBRARY|libc\n");
    return 2;
  }
  if (std::strcmp(argv[1], "--child") == 0) return run_child();
  const std::string found = library_path(argv[1]);
  char resolved[PATH_MAX];
  if (realpath(found.c_str(), resolved) == nullptr) {
    std::fprintf(stderr, "count_instructions: no such library: %s\n", argv[1]);
    return 2;
  }
  const pid_t child = fork();
  if (child == 0) {
    unsetenv("GLEBE_OPTIONS");
    unsetenv("MALLOC_PERTURB_");
    if (std::strcmp(argv[1], "libc") != 0) setenv("LD_PRELOAD", resolved, 1);
    execl("/proc/self/exe", argv[0], "--child", static_cast<char*>(nullptr));
    _exit(11);
  }
  const int result = measure(child, resolved);
  waitpid(child, nullptr, 0);
  return result;
}
