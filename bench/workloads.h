// The workloads: what a child process can be asked to run. Each is a fixed amount of work that depends only
// on seed, scale and thread count, frees everything it took, and ends the process through fail() when a check
// fails.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "bench/block.h"

namespace torture {

struct Context {
  std::uint64_t seed;
  double scale;  // 1 is about one second on a current machine
  unsigned threads;
  const char* trace;                 // path of a prepared trace; only for workloads that replay
  std::int64_t peak_live_bytes = 0;  // set by workloads of one thread, else 0

  [[nodiscard]] std::size_t scaled(std::size_t count) const noexcept {
    const double product = static_cast<double>(count) * scale;
    return product < 1 ? 1 : static_cast<std::size_t>(product);
  }
};

struct Workload {
  const char* name;
  const char* summary;
  void (*run)(Context&);
  const char* trace;  // the program whose trace is replayed, kTraceFromFile, or null
};

inline constexpr char kTraceFromFile[] = "";  // one row for each file that the user names

[[nodiscard]] std::span<const Workload> all_workloads() noexcept;

// Runs body(0) .. body(count - 1) on `count` new threads and waits for them.
void run_threads(unsigned count, const std::function<void(unsigned)>& body);

// workloads_order.cpp: one or more threads, each frees what it took, in different orders.
void pair_tight(Context& context);
void pair_threads(Context& context);
void order_lifo(Context& context);
void order_fifo(Context& context);
void order_random(Context& context);
void random_threads(Context& context);
void small_program(Context& context);

// workloads_passing.cpp: blocks that another thread frees, and threads that come and go.
void pass_one_to_one(Context& context);
void pass_many_to_many(Context& context);
void exchange(Context& context);
void server_churn(Context& context);
void thread_turnover(Context& context);

// workloads_shape.cpp: populations whose sizes change; what counts is memory.
void size_shift(Context& context);
void sawtooth(Context& context);
void fragmentation_bomb(Context& context);

// workloads_sharing.cpp: cache lines shared by mistake.
void cache_scratch(Context& context);
void cache_thrash(Context& context);

// workloads_sizes.cpp: the less common calls and sizes.
void realloc_growth(Context& context);
void aligned(Context& context);
void aligned_exact(Context& context);
void calloc_heavy(Context& context);
void large_blocks(Context& context);

// workloads_program.cpp: C++ programs in small; they check their own results.
void containers(Context& context);
void word_count(Context& context);
void trees(Context& context);
void big_numbers(Context& context);

// workloads_replay.cpp: the calls of a recorded program.
void replay(Context& context);

}  // namespace torture
