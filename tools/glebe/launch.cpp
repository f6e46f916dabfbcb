#include "tools/glebe/launch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include "tools/glebe/problem.h"

namespace glebe::tool {
namespace {

constexpr int kSampleMs = 100;
constexpr int kForwarded[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM,  SIGUSR1,
                              SIGUSR2, SIGALRM, SIGCONT, SIGWINCH, SIGPIPE};

std::vector<char*> pointers_to(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Tells the parent by the pipe why the program could not be executed; a successful exec closes it.
[[noreturn]] void become(const Launch& launch, const sigset_t& mask, int report) {
  std::vector<char*> arguments = pointers_to(launch.arguments), environment = pointers_to(launch.environment);
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
  ::execve(launch.path.c_str(), arguments.data(), environment.data());
  // A text without "#!" is for the shell, as execvp has it.
  if (errno == ENOEXEC) {
    std::vector<char*> shell = {const_cast<char*>("/bin/sh"), const_cast<char*>(launch.path.c_str())};
    shell.insert(shell.end(), arguments.begin() + 1, arguments.end());
    ::execve(shell[0], shell.data(), environment.data());
  }
  const int error = errno;
  if (::write(report, &error, sizeof error) != sizeof error) ::_exit(kBadUse);
  ::_exit(kBadUse);
}

pid_t start(const Launch& launch, const sigset_t& mask) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw Problem(fmt::format("no pipe: {}", std::strerror(errno)));
  const pid_t child = ::fork();
  if (child == 0) become(launch, mask, ends[1]);
  const int fork_error = errno;
  ::close(ends[1]);
  int error = 0;
  const ssize_t count = child < 0 ? 0 : ::read(ends[0], &error, sizeof error);
  ::close(ends[0]);
  if (child < 0) throw Problem(fmt::format("no process: {}", std::strerror(fork_error)));
  if (count == sizeof error) {
    ::waitpid(child, nullptr, 0);
    throw Problem(fmt::format("{}: {}", launch.path, std::strerror(error)),
                  error == ENOENT ? kNotFound : kNotExecutable);
  }
  return child;
}

// A terminal sends its signals to the whole group, of which the program is a member; the kernel is the
// sender.
void pass_signals_on(int signals, pid_t child) {
  signalfd_siginfo info{};
  while (::read(signals, &info, sizeof info) == sizeof info) {
    const auto number = static_cast<int>(info.ssi_signo);
    if (number == SIGCHLD || info.ssi_code == SI_KERNEL) continue;
    ::kill(child, number);
  }
}

// The set of signals that are read from a descriptor while the program runs.
class HeldSignals {
 public:
  HeldSignals() {
    sigset_t set;
    ::sigemptyset(&set);
    for (const int number : kForwarded) ::sigaddset(&set, number);
    ::sigaddset(&set, SIGCHLD);
    ::sigprocmask(SIG_BLOCK, &set, &before_);
    file_ = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  }
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;
  ~HeldSignals() {
    if (file_ >= 0) ::close(file_);
    // SIGCHLD and what came too late stay blocked: the process is about to end.
  }
  [[nodiscard]] int file() const { return file_; }
  [[nodiscard]] const sigset_t& before() const { return before_; }

 private:
  sigset_t before_{};
  int file_ = -1;
};

}  // namespace

int Ended::exit_status() const {
  return WIFSIGNALED(status) ? kSignalBase + WTERMSIG(status) : WEXITSTATUS(status);
}

Ended run_to_end(const Launch& launch, const std::function<void(int process)>& sample) {
  using Clock = std::chrono::steady_clock;
  const HeldSignals signals;
  const Clock::time_point start_time = Clock::now();
  const pid_t child = start(launch, signals.before());
  Ended ended;
  Clock::time_point next = start_time;
  for (;;) {
    if (Clock::now() >= next) {
      sample(child);
      next = Clock::now() + std::chrono::milliseconds(kSampleMs);
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(next - Clock::now()).count();
    pollfd waiting{signals.file(), POLLIN, 0};
    ::poll(&waiting, 1, left < 0 ? 0 : static_cast<int>(left) + 1);
    pass_signals_on(signals.file(), child);
    if (::wait4(child, &ended.status, WNOHANG, &ended.usage) == child) break;
  }
  ended.seconds = std::chrono::duration<double>(Clock::now() - start_time).count();
  return ended;
}

}  // namespace glebe::tool
