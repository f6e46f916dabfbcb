// Signals every 100 us, without SA_RESTART, while threads allocate: system calls are interrupted everywhere.
// malloc must not return NULL, lose a block or change errno on success. Run as: signal_storm SECONDS.
#include <sys/time.h>

#include <csignal>
#include <cstdlib>
#include <thread>

#include "tests/process/expect.h"

namespace {

using process_test::expect;
using process_test::fill;
using process_test::holds;
using process_test::opaque;
using process_test::pattern_of;
using process_test::Random;

std::atomic<std::size_t> signals_seen{0};
std::atomic<bool> stop{false};

void on_signal(int) { signals_seen.fetch_add(1, std::memory_order_relaxed); }

void churn(std::uint64_t seed) {
  Random random(seed);
  struct {
    void* block;
    std::size_t size;
  } held[64] = {};
  while (!stop.load(std::memory_order_relaxed)) {
    auto& place = held[random.below(64)];
    if (place.block != nullptr) {
      expect(holds(place.block, place.size, pattern_of(place.block, place.size)), "contents kept",
             place.size);
      std::free(place.block);
    }
    place.size = random.below(100) == 0 ? 33'000'000 + random.below(9'000'000) : random.below(200'000);
    errno = 7;
    place.block = opaque(std::malloc(place.size));
    if (!expect(place.block != nullptr, "malloc succeeds in a storm of signals", place.size)) return;
    expect(errno == 7, "errno is kept on success", place.size);
    fill(place.block, place.size, pattern_of(place.block, place.size));
  }
  for (auto& place : held) std::free(place.block);
}

}  // namespace

int main(int argc, char** argv) {
  const long seconds = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 2;
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGALRM, &action, nullptr);
  sigaction(SIGPROF, &action, nullptr);
  const itimerval every{{0, 100}, {0, 100}};
  setitimer(ITIMER_REAL, &every, nullptr);
  setitimer(ITIMER_PROF, &every, nullptr);
  std::thread threads[3];
  for (std::size_t i = 0; i < 3; ++i) threads[i] = std::thread(churn, i + 1);
  process_test::sleep_ms(seconds * 1000);
  stop.store(true);
  for (std::thread& thread : threads) thread.join();
  const itimerval never{};
  setitimer(ITIMER_REAL, &never, nullptr);
  setitimer(ITIMER_PROF, &never, nullptr);
  expect(signals_seen.load() > 100, "signals came", signals_seen.load());
  process_test::say("%zu signals\n", signals_seen.load());
  return process_test::finish("signal_storm");
}
