// A body that runs in a forked child and is judged by its exit status (Linux). One that hangs is killed.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

inline constexpr unsigned kChildSeconds = 90;

// The status that `body` returned, or 1000 + the signal that ended the child.
template <class Body>
int in_child(Body body) {
  const pid_t child = ::fork();
  if (child == 0) {
    for (const int number : {SIGSEGV, SIGABRT, SIGBUS, SIGALRM}) std::signal(number, SIG_DFL);
    ::alarm(kChildSeconds);
    ::_exit(body());
  }
  int status = -1;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}
