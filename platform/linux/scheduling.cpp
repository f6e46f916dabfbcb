// sched_setattr(2), sched_setaffinity(2) and /proc/self/task.
#include "platform/scheduling.h"

#include <linux/capability.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "platform/linux/system.h"
#include "src/base/text.h"

namespace glebe::os {
namespace {

constexpr int kNice = -10;

// As the kernel has it in its first version; libc of Debian 12 does not declare it.
struct Attributes {
  std::uint32_t size, policy;
  std::uint64_t flags;
  std::int32_t nice;
  std::uint32_t priority;
  std::uint64_t runtime, deadline, period;
};

bool set_attributes(int thread, int policy, int nice, std::uint64_t slice_ns) noexcept {
  Attributes attributes = {48, static_cast<std::uint32_t>(policy), 0, nice, 0, slice_ns, 0, 0};
  return ::syscall(SYS_sched_setattr, thread, &attributes, 0) == 0;
}

// CPUs; 8192 are the most that the kernel knows.
struct CpuMask {
  unsigned long words[8192 / 64] = {};
  long size_bytes = 0;

  // Those that a thread may use; 0: the calling one.
  [[nodiscard]] bool get(int thread) noexcept {
    size_bytes = ::syscall(SYS_sched_getaffinity, thread, sizeof words, words);
    return size_bytes > 0;
  }
  [[nodiscard]] unsigned long& word_of(int cpu) noexcept { return words[static_cast<unsigned>(cpu) / 64]; }
  [[nodiscard]] bool give_to(int thread) const noexcept {
    return ::syscall(SYS_sched_setaffinity, thread, static_cast<std::size_t>(size_bytes), words) == 0;
  }
};

unsigned long bit_of(int cpu) noexcept { return 1ul << (static_cast<unsigned>(cpu) % 64); }

bool has_capability(int capability) noexcept {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (::syscall(SYS_capget, &header, data) != 0) return false;
  return (data[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability)) != 0;
}

}  // namespace

int current_thread() noexcept { return static_cast<int>(::syscall(SYS_gettid)); }

int cpu_of_thread(int thread) noexcept {
  const ErrnoScope errno_scope;
  char path_space[64], content[512];
  Text path(path_space);
  path.append("/proc/self/task/").append_unsigned(static_cast<std::uint64_t>(thread)).append("/stat");
  if (read_system_file(path.c_str(), content, sizeof content) == 0) return -1;
  // The name, in parentheses, may hold anything; the state is the field behind it, the CPU the 39th.
  const char* at = std::strrchr(content, ')');
  if (at == nullptr) return -1;
  constexpr unsigned kStateField = 3, kCpuField = 39;
  at = field_at(at + 1, kCpuField - kStateField);
  return at != nullptr ? static_cast<int>(std::strtol(at, nullptr, 10)) : -1;
}

bool answer_quickly(int thread) noexcept {
  const ErrnoScope errno_scope;
  constexpr std::uint64_t kSliceNs = 100'000;
  return set_attributes(thread, SCHED_OTHER, kNice, kSliceNs) ||
         set_attributes(thread, SCHED_OTHER, ::getpriority(PRIO_PROCESS, static_cast<id_t>(thread)),
                        kSliceNs);
}

bool may_return_from_behind(int thread) noexcept {
  const ErrnoScope errno_scope;
  if (has_capability(CAP_SYS_NICE)) return true;
  // The limit counts from 20 downwards: 20 allows nice 0.
  rlimit limit = {};
  const int nice = ::getpriority(PRIO_PROCESS, static_cast<id_t>(thread));
  return ::getrlimit(RLIMIT_NICE, &limit) == 0 && limit.rlim_cur >= static_cast<rlim_t>(20 - nice);
}

bool run_behind_others(int thread) noexcept {
  const ErrnoScope errno_scope;
  return set_attributes(thread, SCHED_IDLE, 0, 0);
}

bool run_only_on(int thread, int cpu) noexcept {
  const ErrnoScope errno_scope;
  CpuMask mask;
  mask.size_bytes = sizeof mask.words;
  mask.word_of(cpu) = bit_of(cpu);
  return mask.give_to(thread);
}

bool run_not_on(int thread, int cpu, int like_thread) noexcept {
  const ErrnoScope errno_scope;
  CpuMask mask;
  if (!mask.get(like_thread)) return false;
  mask.word_of(cpu) &= ~bit_of(cpu);
  return mask.give_to(thread);  // EINVAL when none is left
}

void run_anywhere(int thread, int like_thread) noexcept {
  const ErrnoScope errno_scope;
  CpuMask mask;
  if (mask.get(like_thread)) static_cast<void>(mask.give_to(thread));
}

}  // namespace glebe::os
