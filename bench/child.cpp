// Checks that the preload is live, then runs and measures one workload.
#include "bench/child.h"

#include <dlfcn.h>
#include <malloc.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bench/machine.h"
#include "bench/protocol.h"
#include "bench/soak.h"
#include "bench/workloads.h"

namespace torture {
namespace {

constexpr int kArgumentCount = 9;

bool same_file(const char* left, const char* right) {
  struct stat one;
  struct stat other;
  return ::stat(left, &one) == 0 && ::stat(right, &other) == 0 && one.st_dev == other.st_dev &&
         one.st_ino == other.st_ino;
}

// Ends the process unless the function that a call of `symbol` reaches lies in the expected library. Without
// this, a preload that the loader refused would be measured as the C library.
void check_symbol(const char* symbol, const std::string& library) {
  Dl_info info;
  void* const address = ::dlsym(RTLD_DEFAULT, symbol);
  if (address == nullptr || ::dladdr(address, &info) == 0) fail("%s is defined nowhere", symbol);
  const bool right = library == kLibc ? std::strstr(info.dli_fname, "libc.so") != nullptr
                                      : same_file(info.dli_fname, library.c_str());
  if (!right) {
    fail("preload is not live: %s comes from %.90s instead of %.90s", symbol, info.dli_fname,
         library.c_str());
  }
}

struct Usage {
  std::uint64_t cpu_ns;
  std::uint64_t minor_faults;
  std::uint64_t major_faults;
};

std::uint64_t nanoseconds(const timeval& time) {
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(time.tv_usec) * 1000u;
}

Usage usage_now() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  return Usage{nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime),
               static_cast<std::uint64_t>(usage.ru_minflt), static_cast<std::uint64_t>(usage.ru_majflt)};
}

void measure(const Workload& workload, Context& context) {
  Message result{};
  result.kind = MessageKind::kResult;
  result.start_rss_kib = memory_now().rss_kib;
  const Usage before = usage_now();
  const std::uint64_t start_ns = monotonic_ns();
  workload.run(context);
  result.wall_ns = monotonic_ns() - start_ns;
  const Usage after = usage_now();
  const MemoryNow memory = memory_now();
  result.cpu_ns = after.cpu_ns - before.cpu_ns;
  result.minor_faults = after.minor_faults;
  result.major_faults = after.major_faults;
  result.peak_rss_kib = memory.peak_rss_kib;
  result.rss_kib = memory.rss_kib;
  result.live_bytes = context.peak_live_bytes;
  ::malloc_trim(0);
  result.trimmed_rss_kib = memory_now().rss_kib;
  send_message(result);
}

const Workload& find_workload(const char* name) {
  for (const Workload& workload : all_workloads()) {
    if (std::strcmp(workload.name, name) == 0) return workload;
  }
  fail("there is no workload \"%s\"", name);
}

}  // namespace

std::vector<std::string> child_arguments(const ChildTask& task) {
  char scale[32];
  std::snprintf(scale, sizeof scale, "%.17g", task.scale);
  return {kChildArgument,
          task.workload,
          task.library,
          task.trace,
          std::to_string(task.seed),
          scale,
          std::to_string(task.threads),
          std::to_string(task.soak_seconds)};
}

int run_child(int argc, char** argv) {
  if (argc != kArgumentCount) {
    std::fprintf(stderr, "torture: %s is for the program's own use\n", kChildArgument);
    return 2;
  }
  // Crashes are expected here, and reported; they need no core files.
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  const std::string library = argv[3];
  for (const char* symbol : {"malloc", "free", "calloc", "realloc", "posix_memalign"})
    check_symbol(symbol, library);
  Context context{std::strtoull(argv[5], nullptr, 10), std::strtod(argv[6], nullptr),
                  static_cast<unsigned>(std::strtoul(argv[7], nullptr, 10)), argv[4]};
  if (std::strcmp(argv[2], kSoakTask) == 0) {
    run_soak(context, static_cast<unsigned>(std::strtoul(argv[8], nullptr, 10)));
  } else {
    measure(find_workload(argv[2]), context);
  }
  return 0;
}

}  // namespace torture
