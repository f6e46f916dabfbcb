// See last_thread.h.
#include "src/paging/last_thread.h"

#include <atomic>

#include "platform/service.h"

namespace glebe::paging {
namespace {

constexpr std::uint64_t kLookMs = 50;

constinit os::ThreadWatch watch;
enum : std::uint32_t { kRuns, kIsOver, kNotNeeded };
constinit std::atomic<std::uint32_t> state{kRuns};  // futex

void tell(std::uint32_t news) noexcept {
  state.store(news, std::memory_order_release);
  os::wake_all(state);
}

// Handlers of atexit(3) run here, with every signal blocked, and what is buffered is written: what this
// thread touches may be out like what any other thread touches.
void run_last_thread(void*) noexcept {
  constexpr std::uint64_t kNapNs = 3'600'000'000'000;
  while (state.load(std::memory_order_acquire) == kRuns) os::wait_on(state, kRuns, kNapNs);
  if (state.load(std::memory_order_relaxed) == kIsOver) os::exit_process(0);
}

}  // namespace

bool start_last_thread() noexcept {
  state.store(kRuns, std::memory_order_relaxed);
  return os::start_service_thread(run_last_thread, nullptr, "glebe-last");
}

void stop_last_thread() noexcept { tell(kNotNeeded); }

bool open_thread_watch() noexcept { return watch.open(); }

void watch_for_last_thread(std::uint64_t now_ms) noexcept {
  static constinit std::uint64_t looked_ms = 0;
  if (now_ms - looked_ms < kLookMs) return;
  looked_ms = now_ms;
  if (watch.is_program_over()) tell(kIsOver);
}

}  // namespace glebe::paging
