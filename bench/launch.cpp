#include "bench/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/machine.h"

extern char** environ;

namespace torture {
namespace {

std::vector<char*> pointers_to(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Our environment without LD_PRELOAD, and with `added`.
std::vector<std::string> environment_with(const std::vector<std::string>& added) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (::strncmp(*entry, "LD_PRELOAD=", 11) != 0) environment.emplace_back(*entry);
  }
  environment.insert(environment.end(), added.begin(), added.end());
  return environment;
}

// Starts `program` with `pipe_end` as kResultDescriptor, or without a pipe when it is -1. Returns 0 on
// failure.
pid_t spawn(const Program& program, int pipe_end) {
  std::vector<std::string> arguments = program.arguments;
  std::vector<std::string> environment = environment_with(program.environment);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  if (pipe_end >= 0) ::posix_spawn_file_actions_adddup2(&actions, pipe_end, kResultDescriptor);
  if (program.quiet) {
    ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  }
  pid_t child = 0;
  const int error = ::posix_spawn(&child, arguments[0].c_str(), &actions, nullptr,
                                  pointers_to(arguments).data(), pointers_to(environment).data());
  ::posix_spawn_file_actions_destroy(&actions);
  return error == 0 ? child : 0;
}

std::string describe_status(int status) {
  if (WIFSIGNALED(status)) {
    return std::string("killed by signal ") + std::to_string(WTERMSIG(status)) + " (" +
           ::strsignal(WTERMSIG(status)) + ")";
  }
  if (WEXITSTATUS(status) != 0) return "exited with status " + std::to_string(WEXITSTATUS(status));
  return {};
}

// Reads messages until the child closes the pipe. False when the time is over.
bool read_messages(int pipe_end, std::uint64_t end_ns,
                   const std::function<void(const Message&)>& on_message) {
  Message message;
  std::size_t filled = 0;
  for (;;) {
    const std::uint64_t now_ns = monotonic_ns();
    if (now_ns >= end_ns) return false;
    pollfd waiting{pipe_end, POLLIN, 0};
    const int ready = ::poll(&waiting, 1, static_cast<int>((end_ns - now_ns) / 1'000'000 + 1));
    if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    const ssize_t count =
        ::read(pipe_end, reinterpret_cast<char*>(&message) + filled, sizeof message - filled);
    if (count <= 0) return true;
    filled += static_cast<std::size_t>(count);
    if (filled < sizeof message) continue;
    filled = 0;
    message.text[kTextBytes - 1] = '\0';
    on_message(message);
  }
}

}  // namespace

Outcome run_task(const ChildTask& task, const Allocator& allocator, unsigned timeout_s,
                 const std::function<void(const Message&)>& on_sample) {
  Outcome outcome;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    outcome.reason = std::string("no pipe: ") + ::strerror(errno);
    return outcome;
  }
  Program program{{own_path()}, {}, false};
  for (std::string& argument : child_arguments(task)) program.arguments.push_back(std::move(argument));
  if (allocator.library != kLibc) program.environment.push_back("LD_PRELOAD=" + allocator.library);
  const pid_t child = spawn(program, ends[1]);
  ::close(ends[1]);
  if (child == 0) {
    ::close(ends[0]);
    outcome.reason = "the child process could not be started";
    return outcome;
  }
  bool has_result = false;
  const bool in_time = read_messages(ends[0], monotonic_ns() + timeout_s * std::uint64_t{1'000'000'000},
                                     [&](const Message& message) {
                                       if (message.kind == MessageKind::kSample && on_sample)
                                         on_sample(message);
                                       if (message.kind == MessageKind::kFailure)
                                         outcome.reason = message.text;
                                       if (message.kind == MessageKind::kResult) outcome.result = message;
                                       has_result = has_result || message.kind == MessageKind::kResult;
                                     });
  ::close(ends[0]);
  if (!in_time) ::kill(child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!in_time) outcome.reason = "no end after " + std::to_string(timeout_s) + " s, killed";
  if (outcome.reason.empty()) outcome.reason = describe_status(status);
  if (outcome.reason.empty() && !has_result) outcome.reason = "ended without a result";
  outcome.passed = outcome.reason.empty();
  return outcome;
}

std::string run_program(const Program& program) {
  const pid_t child = spawn(program, -1);
  if (child == 0) return "could not be started";
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return describe_status(status);
}

}  // namespace torture
