// Children of a process whose memory is partly paged out. Each kind of child must find every byte, whatever
// its parent does meanwhile. Called by a thread on its own blocks, which nobody else changes during the fork.
#pragma once
#include "tests/process/paging_blocks.h"

namespace paging_test {

enum class ForkKind : unsigned {
  sample,      // compares a sample, allocates and frees, exits
  everything,  // compares all blocks, changes some, compares them again
  threads,     // the same with threads of its own
  no_files,    // closes all descriptors first
  grandchild,  // the child forks and exits at once, the grandchild compares (a daemon's start)
  raw,         // the system call fork without libc's handlers: only reads, then exits
  vfork_exec,  // vfork and exec, arguments in heap blocks
  spawn,       // posix_spawn, arguments in heap blocks
};
inline constexpr unsigned kForkKinds = 8;
[[nodiscard]] const char* name_of(ForkKind kind);

// Runs one child to its end; `program` is the path of this program for the kinds that exec it. A child that
// does not end within 120 s is killed and counts as a failure.
void run_child(ForkKind kind, Blocks& blocks, Random& random, const char* program);

// What the exec'd program does: compares its arguments with the seed in the first one. Returns its status.
[[nodiscard]] int check_arguments(int count, char** arguments);

// Compares all blocks, writes and frees in the calling process, which nobody needs afterwards. Returns the
// number of failed expectations.
[[nodiscard]] int inspect_as_child(Blocks& blocks, Random& random, bool all);

}  // namespace paging_test
