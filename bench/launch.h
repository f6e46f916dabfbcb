// Starts programs: children of this bench with an allocator in LD_PRELOAD, and programs whose calls are
// recorded.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "bench/allocators.h"
#include "bench/child.h"
#include "bench/protocol.h"

namespace torture {

struct Outcome {
  bool passed = false;
  Message result{};    // valid when passed
  std::string reason;  // why not, otherwise
};

// Runs `task` under `allocator` and waits at most `timeout_s`; then the child is killed and the outcome says
// so. `on_sample` sees every sample as it arrives and may be empty.
[[nodiscard]] Outcome run_task(const ChildTask& task, const Allocator& allocator, unsigned timeout_s,
                               const std::function<void(const Message&)>& on_sample);

struct Program {
  std::vector<std::string> arguments;    // the first is the path of the program
  std::vector<std::string> environment;  // NAME=value, added to ours without LD_PRELOAD
  bool quiet;                            // output goes to /dev/null
};

// Runs the program to its end. Returns an empty string when it exited with 0, else what happened.
[[nodiscard]] std::string run_program(const Program& program);

}  // namespace torture
