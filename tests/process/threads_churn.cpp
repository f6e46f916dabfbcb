// Threads born and dying: their caches and heaps are used again, their blocks stay valid for others.
// Run as: threads_churn COUNT. COUNT threads run one after the other (two at a time), each allocates, frees
// part and hands the rest to its successor or to the main thread. RSS must not grow after the first tenth
// (P9).
#include <pthread.h>

#include <cstdlib>

#include "tests/process/expect.h"
#include "tests/process/proc_memory.h"

namespace {

using process_test::expect;
using process_test::fill;
using process_test::holds;
using process_test::opaque;
using process_test::Random;

constexpr std::size_t kHanded = 50;
// Less than one KiB for each thread of the full run; what is allowed is caches of more heaps in use at once.
constexpr std::size_t kGrowthKib = 6 * 1024;

struct Parcel {
  void* block = nullptr;
  std::size_t size = 0;
};

struct Job {
  Parcel parcels[kHanded];
  std::size_t seed = 0;
};

void empty(Parcel& parcel) {
  if (parcel.block == nullptr) return;
  expect(holds(parcel.block, parcel.size, 0x61), "a block outlives its thread", parcel.size);
  std::free(parcel.block);
  parcel = {};
}

void* work(void* argument) {
  auto* job = static_cast<Job*>(argument);
  Random random(job->seed);
  void* own[100];
  for (void*& block : own) block = opaque(std::malloc(16 + random.below(3000)));
  for (Parcel& parcel : job->parcels) {
    empty(parcel);
    parcel.size = 16 + random.below(random.below(10) == 0 ? 100'000 : 2000);
    parcel.block = opaque(std::malloc(parcel.size));
    if (expect(parcel.block != nullptr, "malloc in a new thread", parcel.size))
      fill(parcel.block, parcel.size, 0x61);
  }
  for (void* block : own) std::free(block);
  return nullptr;
}

void run_pair(Job* jobs, std::size_t round) {
  pthread_t threads[2];
  for (std::size_t i = 0; i < 2; ++i) {
    jobs[i].seed = round * 2 + i;
    if (!expect(pthread_create(&threads[i], nullptr, work, &jobs[i]) == 0, "pthread_create", round))
      std::_Exit(1);
  }
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
  // The successor of one thread frees what the other made.
  for (std::size_t i = 0; i < kHanded; i += 2) {
    const Parcel kept = jobs[0].parcels[i];
    jobs[0].parcels[i] = jobs[1].parcels[i];
    jobs[1].parcels[i] = kept;
  }
  if (round % 3 == 0) {
    for (Parcel& parcel : jobs[0].parcels) empty(parcel);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t count = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 10'000;
  static Job jobs[2];
  const std::size_t rounds = count / 2;
  for (std::size_t round = 0; round < rounds / 10; ++round) run_pair(jobs, round);
  const std::size_t before = process_test::rss_kib();
  for (std::size_t round = rounds / 10; round < rounds; ++round) run_pair(jobs, round);
  const std::size_t after = process_test::rss_kib();
  process_test::say("RSS after a tenth %zu KiB, at the end %zu KiB\n", before, after);
  expect(after <= before + kGrowthKib, "RSS does not grow with dead threads, KiB", after);
  for (Job& job : jobs) {
    for (Parcel& parcel : job.parcels) empty(parcel);
  }
  return process_test::finish("threads_churn");
}
