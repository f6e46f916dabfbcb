// A process ends with its last thread, as by exit(0): handlers run and what is buffered is written. Run as:
// last_thread main  the first thread ends early, another goes on for a while
//             fork  a second thread forks, and in the child it is the only one and returns
// What would break: threads of the library that count as the program's, so that the process never ends; and a
// library that ends the process while a thread of the program still works.
#include <pthread.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>

#include "tests/process/expect.h"

namespace {

using process_test::expect;

// Longer than several looks of whoever watches for the end.
constexpr int kWorkMs = 400;

// Buffered on purpose: only exit(3) writes it.
void say_later(const char* word) { std::fputs(word, stdout); }

void* work(void*) {
  for (int i = 0; i < kWorkMs; ++i) {
    std::free(process_test::opaque(std::malloc(1000)));
    process_test::sleep_ms(1);
  }
  say_later("done\n");
  return nullptr;
}

void* work_in_child(void* argument) {
  const pid_t child = fork();
  if (child == 0) return work(argument);
  int status = 0;
  expect(waitpid(child, &status, 0) == child, "the child ends");
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "with status 0", static_cast<unsigned>(status));
  say_later("done\n");
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  const bool is_fork = argc > 1 && std::strcmp(argv[1], "fork") == 0;
  if (!is_fork && (argc < 2 || std::strcmp(argv[1], "main") != 0)) {
    process_test::say("usage: last_thread main | fork\n");
    return 2;
  }
  std::atexit([] {
    say_later("handler\n");
    if (process_test::failure_count.load() != 0) std::_Exit(1);
  });
  pthread_t thread;
  if (!expect(pthread_create(&thread, nullptr, is_fork ? work_in_child : work, nullptr) == 0,
              "a thread starts")) {
    return 1;
  }
  pthread_detach(thread);
  pthread_exit(nullptr);
}
