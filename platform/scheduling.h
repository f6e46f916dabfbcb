// On which CPU threads run, and before or behind which others (namespace glebe::os). Linux only.
//
// A thread is named by its number in this process, gettid(2). Nothing here allocates; errno is preserved;
// thread-safe.
#pragma once

namespace glebe::os {

[[nodiscard]] int current_thread() noexcept;

// The CPU that a thread of this process runs on, or ran on last (proc_pid_stat(5)). -1: no such thread, or no
// /proc.
[[nodiscard]] int cpu_of_thread(int thread) noexcept;

// Asks the scheduler to run a thread soon after it is woken: short slices (sched_setattr(2), Linux 6.12), and
// a better nice value where the process may have one. 0: the calling thread. False: nothing was changed. That
// matters only for a thread that runs behind all others.
bool answer_quickly(int thread) noexcept;

// Whether a thread, once it runs behind all others, may be made an ordinary one again by answer_quickly().
// That takes CAP_SYS_NICE, or a resource limit (RLIMIT_NICE, sched(7)).
[[nodiscard]] bool may_return_from_behind(int thread) noexcept;
// The thread runs when no ordinary thread wants its CPU (SCHED_IDLE, sched(7)). False: refused.
[[nodiscard]] bool run_behind_others(int thread) noexcept;

// The thread runs on that CPU only; on any that `like_thread` (0: the calling one) may use but this one; on
// any that it may use. False: refused, for instance because there is no other.
[[nodiscard]] bool run_only_on(int thread, int cpu) noexcept;
[[nodiscard]] bool run_not_on(int thread, int cpu, int like_thread = 0) noexcept;
void run_anywhere(int thread, int like_thread = 0) noexcept;

}  // namespace glebe::os
