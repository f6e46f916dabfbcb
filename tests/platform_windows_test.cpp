// The platform layer on Windows (and wine): the state of pages as VirtualQuery tells it, and what needs a
// process of its own. A child is this program with the name of a hidden test case; it reports by its exit
// status.
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>

#include "platform/file.h"
#include "platform/process.h"
#include "platform/thread.h"
#include "platform/vm.h"
#include "src/base/bits.h"
#include "tests/catch.h"

namespace os = glebe::os;
using glebe::kGiB;
using glebe::kMiB;

namespace {

constexpr DWORD kChildMs = 60'000;  // a child that hangs is killed: a failure, not a stop
constexpr UINT kChildPassed = 42;  // not 0, which is also what a program with a misspelt test name exits with

// State and protection of the page at `address`, for example MEM_COMMIT and PAGE_READWRITE.
struct PageState {
  DWORD state, protection;
  bool operator==(const PageState&) const = default;
};
PageState state_of(const void* address) {
  MEMORY_BASIC_INFORMATION info{};
  if (::VirtualQuery(address, &info, sizeof info) == 0) return {0, 0};
  return {info.State, info.State == MEM_COMMIT ? info.Protect : 0};
}
constexpr PageState kReserved{MEM_RESERVE, 0};
constexpr PageState kUsable{MEM_COMMIT, PAGE_READWRITE};
constexpr PageState kGuarded{MEM_COMMIT, PAGE_NOACCESS};

// Runs one hidden test case of this program and returns its exit status.
DWORD run_child(const std::string& test_name) {
  char program[MAX_PATH];
  ::GetModuleFileNameA(nullptr, program, sizeof program);
  std::string command = "\"" + std::string(program) + "\" \"" + test_name + "\"";
  STARTUPINFOA startup{};
  startup.cb = sizeof startup;
  PROCESS_INFORMATION process{};
  if (::CreateProcessA(program, command.data(), nullptr, nullptr, FALSE, 0, nullptr, nullptr, &startup,
                       &process) == 0) {
    return MAXDWORD;
  }
  if (::WaitForSingleObject(process.hProcess, kChildMs) != WAIT_OBJECT_0) {
    ::TerminateProcess(process.hProcess, MAXDWORD);
    ::WaitForSingleObject(process.hProcess, kChildMs);
  }
  DWORD status = MAXDWORD;
  ::GetExitCodeProcess(process.hProcess, &status);
  ::CloseHandle(process.hThread);
  ::CloseHandle(process.hProcess);
  return status;
}

// Ends a hidden test case whose requirements all held.
void pass_child() { ::TerminateProcess(::GetCurrentProcess(), kChildPassed); }

}  // namespace

TEST_CASE("V1 V4 pages are reserved, committed and decommitted in the eyes of the system", "[platform]") {
  auto* base = static_cast<unsigned char*>(os::reserve(8 * kMiB, 2 * kMiB));
  REQUIRE(base != nullptr);
  CHECK(state_of(base) == kReserved);
  CHECK(state_of(base + 8 * kMiB - 1) == kReserved);
  REQUIRE(os::commit(base + 2 * kMiB, 4 * kMiB));
  CHECK(state_of(base + 2 * kMiB - 1) == kReserved);
  CHECK(state_of(base + 2 * kMiB) == kUsable);
  CHECK(state_of(base + 6 * kMiB - 1) == kUsable);
  CHECK(state_of(base + 6 * kMiB) == kReserved);
  REQUIRE(os::decommit(base + 3 * kMiB, kMiB));
  CHECK(state_of(base + 3 * kMiB - 1) == kUsable);
  CHECK(state_of(base + 3 * kMiB) == kReserved);
  CHECK(state_of(base + 4 * kMiB) == kUsable);
  REQUIRE(os::purge(base + 4 * kMiB, kMiB));
  CHECK(state_of(base + 4 * kMiB) == kUsable);
  REQUIRE(os::protect_none(base + 5 * kMiB, kMiB));
  CHECK(state_of(base + 5 * kMiB) == kGuarded);
  REQUIRE(os::unprotect(base + 5 * kMiB, kMiB));
  CHECK(state_of(base + 5 * kMiB) == kUsable);
  os::release(base, 8 * kMiB);
  CHECK(state_of(base).state == MEM_FREE);
}

TEST_CASE("V5 a reservation of 640 GB commits nothing", "[platform]") {
  constexpr std::size_t kSize = 640 * kGiB;
  auto* base = static_cast<unsigned char*>(os::reserve(kSize, os::page_bytes()));
  REQUIRE(base != nullptr);
  MEMORY_BASIC_INFORMATION info{};
  REQUIRE(::VirtualQuery(base, &info, sizeof info) != 0);
  CHECK(info.State == MEM_RESERVE);
  CHECK(info.RegionSize == kSize);  // one region: no page of it is committed
  os::release(base, kSize);
}

TEST_CASE("Windows cannot move pages and says so", "[platform]") {
  auto* base = static_cast<unsigned char*>(os::reserve(4 * kMiB, 2 * kMiB));
  REQUIRE(base != nullptr);
  REQUIRE(os::commit(base, kMiB));
  base[0] = 7;
  CHECK_FALSE(os::move_pages(base, base + 2 * kMiB, kMiB));
  CHECK(base[0] == 7);
  CHECK(state_of(base + 2 * kMiB) == kReserved);
  CHECK_FALSE(os::huge_pages_on_advice());
  os::release(base, 4 * kMiB);
}

TEST_CASE("V7 a failed commit leaves the state as it was", "[platform]") {
  auto* base = static_cast<unsigned char*>(os::reserve(4 * kMiB, 2 * kMiB));
  REQUIRE(base != nullptr);
  REQUIRE(os::commit(base, kMiB));
  base[0] = 7;
  CHECK_FALSE(os::commit(base + 2 * kMiB, 4 * kMiB));  // beyond the reservation
  CHECK(state_of(base + 2 * kMiB) == kReserved);
  CHECK(base[0] == 7);
  os::release(base, 4 * kMiB);
}

TEST_CASE("No call of the platform changes the last error", "[platform]") {
  constexpr DWORD kMark = 4242;
  std::string changed_by;
  const auto check = [&](const char* name, auto&& call) {
    ::SetLastError(kMark);
    static_cast<void>(call());
    if (::GetLastError() != kMark) changed_by += std::string(name) + " ";
  };
  check("reserve", [] { return os::reserve(std::size_t{1} << 60, kGiB); });
  check("commit", [] { return os::commit(nullptr, std::size_t{1} << 60); });
  check("decommit", [] { return os::decommit(nullptr, os::page_bytes()); });
  check("thread_slot_set", [] { return os::thread_slot_set(nullptr), 0; });
  check("thread_slot_get", [] { return os::thread_slot_get(); });
  check("exit_value", [] { return os::exit_value(); });
  check("entropy", [] { return os::entropy(); });
  check("limits", [] { return os::memory_limits(); });
  check("process_memory", [] { return os::process_memory(); });
  check("open_read", [] { return os::File::open_read("Z:\\no\\such\\file"); });
  INFO("last error changed by: " << changed_by);
  CHECK(changed_by.empty());
}

namespace {

constinit int initial_value = 0;
constinit int other_value = 1;
using TestSlot = os::ThreadSlot<int, &initial_value>;

// What the exit hook saw, in the children below.
constinit std::atomic<int> hook_runs{0};
constinit std::atomic<void*> hook_value{nullptr};
void count_exit(void* value) {
  hook_runs.fetch_add(1);
  hook_value.store(value);
}
void run_twice(void* value) {
  if (hook_runs.fetch_add(1) == 0) static_cast<void>(os::set_exit_value(value));
}

}  // namespace

TEST_CASE("child: thread slot", "[.child]") {
  REQUIRE(TestSlot::get() == &initial_value);
  TestSlot::set(&other_value);
  REQUIRE(TestSlot::get() == &other_value);
  bool was_initial = false;
  std::thread([&] { was_initial = TestSlot::get() == &initial_value; }).join();
  REQUIRE(was_initial);
  pass_child();
}

TEST_CASE("child: exit hook", "[.child]") {
  REQUIRE(os::exit_value() == nullptr);
  REQUIRE_FALSE(os::set_exit_value(&other_value));
  REQUIRE(os::set_exit_hook(count_exit));
  std::thread([] { static_cast<void>(os::exit_value()); }).join();
  REQUIRE(hook_runs.load() == 0);
  bool kept = false;
  std::thread([&] {
    const bool set = os::set_exit_value(&other_value);
    kept = set && os::exit_value() == &other_value;
  }).join();
  REQUIRE(kept);
  REQUIRE(hook_runs.load() == 1);
  REQUIRE(hook_value.load() == &other_value);
  std::thread([] {
    if (os::set_exit_value(&other_value)) static_cast<void>(os::set_exit_value(nullptr));
  }).join();
  REQUIRE(hook_runs.load() == 1);
  pass_child();
}

TEST_CASE("child: exit hook twice", "[.child]") {
  REQUIRE(os::set_exit_hook(run_twice));
  std::thread([] { static_cast<void>(os::set_exit_value(&other_value)); }).join();
  REQUIRE(hook_runs.load() == 2);
  pass_child();
}

TEST_CASE("child: lock twice", "[.child]") {
  os::Mutex mutex;
  mutex.lock();
  mutex.lock();
}

TEST_CASE("A thread slot starts with its initial value in every thread", "[platform]") {
  CHECK(run_child("child: thread slot") == kChildPassed);
}

TEST_CASE("The exit hook runs at the end of a thread", "[platform]") {
  CHECK(run_child("child: exit hook") == kChildPassed);
  CHECK(run_child("child: exit hook twice") == kChildPassed);
}

TEST_CASE("Locking a mutex twice ends the process", "[platform]") {
  CHECK(run_child("child: lock twice") == 3);
}
