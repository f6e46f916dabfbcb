// The list of workloads, in the order in which they are run and printed.
#include "bench/workloads.h"

#include <thread>
#include <vector>

namespace torture {
namespace {

constexpr Workload kWorkloads[] = {
    {"small-program", "100 KB alive and churned: start-up cost in memory", small_program, nullptr},
    {"pair-tight", "malloc and free of 16..1024 bytes in turn", pair_tight, nullptr},
    {"pair-threads", "the same on every thread", pair_threads, nullptr},
    {"order-lifo", "100 blocks, freed last first", order_lifo, nullptr},
    {"order-fifo", "a queue of 1000 blocks, freed oldest first", order_fifo, nullptr},
    {"order-random", "random replacement among 10,000 blocks", order_random, nullptr},
    {"random-threads", "random replacement on every thread", random_threads, nullptr},
    {"pass-1to1", "one thread allocates, another frees", pass_one_to_one, nullptr},
    {"pass-ntom", "several producers and consumers on one queue", pass_many_to_many, nullptr},
    {"exchange", "threads swap blocks through shared slots and free what they get", exchange, nullptr},
    {"server-churn", "random replacement, the table inherited by a new thread again and again", server_churn,
     nullptr},
    {"thread-turnover", "many short threads that leave blocks behind", thread_turnover, nullptr},
    {"size-shift", "a population that moves from small to large blocks and back", size_shift, nullptr},
    {"sawtooth", "the heap grows and shrinks again and again", sawtooth, nullptr},
    {"frag-bomb", "every second block freed, then slightly larger ones", fragmentation_bomb, nullptr},
    {"cache-scratch", "writes to small blocks that came from another thread", cache_scratch, nullptr},
    {"cache-thrash", "writes to small blocks taken by several threads at once", cache_thrash, nullptr},
    {"realloc-growth", "buffers that grow by realloc, up to 16 MiB", realloc_growth, nullptr},
    {"aligned", "any size, alignments of 16 bytes to 64 KiB, some of 2 MiB", aligned, nullptr},
    {"aligned-exact", "aligned_alloc of one to three times the alignment", aligned_exact, nullptr},
    {"calloc-heavy", "calloc of all sizes, zero contents checked", calloc_heavy, nullptr},
    {"large", "blocks of 64 KiB to 64 MiB", large_blocks, nullptr},
    {"containers", "std::map, unordered_map, deque and vector of strings", containers, nullptr},
    {"word-count", "strings cut, joined and counted", word_count, nullptr},
    {"trees", "binary trees built and dropped by new and delete", trees, nullptr},
    {"big-numbers", "arithmetic on short-lived numbers of many words", big_numbers, nullptr},
    {"replay-python3", "trace of python3: json, dict, sort, classes, two threads", replay, "python3"},
    {"replay-perl", "trace of perl: hashes, regular expressions, sort", replay, "perl"},
    {"replay-sqlite3", "trace of sqlite3: insert, index, join in memory", replay, "sqlite3"},
    {"replay-file", "the traces given with --trace", replay, kTraceFromFile},
};

}  // namespace

std::span<const Workload> all_workloads() noexcept { return kWorkloads; }

void run_threads(unsigned count, const std::function<void(unsigned)>& body) {
  std::vector<std::thread> threads;
  threads.reserve(count);
  for (unsigned index = 0; index < count; ++index) threads.emplace_back(body, index);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace torture
