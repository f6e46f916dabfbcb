// Starts the program and stands in its place for whoever started us: signals go on to it, its end is ours.
#pragma once
#include <sys/resource.h>

#include <functional>
#include <string>
#include <vector>

namespace glebe::tool {

struct Launch {
  std::string path;                    // what is executed
  std::vector<std::string> arguments;  // from argv[0] on
  std::vector<std::string> environment;
};

struct Ended {
  int status = 0;  // of waitpid
  double seconds = 0;
  rusage usage{};  // of the program and the children that it waited for
  // That of a shell: the program's own, or kSignalBase + n.
  [[nodiscard]] int exit_status() const;
};

// Runs the program to its end and calls `sample` with its process id at the start and every 100 ms. Signals
// that another process sends to us are sent on to it; those that a terminal sends reach it anyway. One that a
// process sends to our whole group reaches it twice. Throws Problem when it cannot be started.
[[nodiscard]] Ended run_to_end(const Launch& launch, const std::function<void(int process)>& sample);

}  // namespace glebe::tool
