// Threads of our own with descriptors of their own (platform/service.h): what they say must arrive. What
// would break: the report of a pager thread before the process ends is lost, or written over by the program.
#include "platform/service.h"

#include <unistd.h>

#include <string>
#include <string_view>

#include "src/base/check.h"
#include "tests/heap_child.h"

#include "tests/catch.h"

using namespace glebe;

namespace {

std::atomic<std::uint32_t> is_said{0};

void say_from_own_table(void* is_panic) noexcept {
  static_cast<void>(os::take_private_descriptors());
  constexpr std::string_view kText = "said by a thread\n";
  if (is_panic != nullptr) panic("file.cpp", 7, "a condition");
  os::write_error_of_program(kText.data(), kText.size());
  is_said.store(1);
}

// What is in the file that stands for standard error after a thread and then the program wrote to it.
std::string said(bool is_panic) {
  char name[] = "/tmp/glebe-said-XXXXXX";
  const int file = ::mkstemp(name);
  static_cast<void>(in_child([&] {
    ::dup2(file, STDERR_FILENO);
    static_cast<void>(!::write(STDERR_FILENO, "first\n", 6));
    static_cast<void>(os::start_service_thread(say_from_own_table, is_panic ? &is_said : nullptr, "test"));
    while (is_said.load() == 0) ::usleep(1000);
    static_cast<void>(!::write(STDERR_FILENO, "last\n", 5));
    return 0;
  }));
  char text[400] = {};
  static_cast<void>(!::pread(file, text, sizeof text - 1, 0));
  ::close(file);
  ::unlink(name);
  return text;
}

}  // namespace

TEST_CASE("What a thread with descriptors of its own says stands between what the program says",
          "[platform]") {
  CHECK(said(false) == "first\nsaid by a thread\nlast\n");
}

TEST_CASE("A panic in a thread with descriptors of its own is reported", "[platform]") {
  CHECK(said(true) == "first\nglebe: internal error: a condition at file.cpp:7\n");
}
