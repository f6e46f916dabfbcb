// A program that lives with failing memory calls: every allocation may return NULL, errno must then be
// ENOMEM, and no block may lose its contents. Threads and a forked child take part. Exit status: 0 well, 1 a
// failed expectation. Run as: fault_workload [recover]; with recover the last part must succeed, because the
// injected fault is over. Threads run on stacks of their own, so that injected faults hit the allocator and
// not the thread library.
#include <malloc.h>
#include <pthread.h>
#include <sys/wait.h>

#include <cstdlib>

#include "tests/process/expect.h"

// Asked where the library has it: all structures are consistent and all counters equal a recount.
extern "C" __attribute__((weak)) int glebe_heap_validate(void);

namespace {

using process_test::expect;
using process_test::opaque;
using process_test::pattern_of;
using process_test::Random;

constexpr std::size_t kBlocks = 400;
constexpr std::size_t kMiB = 1u << 20;

struct Holder {
  unsigned char* block = nullptr;
  std::size_t size = 0;
};

std::atomic<std::size_t> null_count{0};

// Blocks beyond this are written and compared at one byte in 64 KiB, so that a run takes well under a second.
constexpr std::size_t kSparseBytes = 4096;
constexpr std::size_t kSparseStep = 65'536;

void fill(unsigned char* bytes, std::size_t size, unsigned char value) {
  std::memset(bytes, value, size < kSparseBytes ? size : kSparseBytes);
  for (std::size_t at = 0; at < size; at += kSparseStep) bytes[at] = value;
  bytes[size - 1] = value;
}

bool holds(const unsigned char* bytes, std::size_t size, unsigned char value) {
  const std::size_t dense = size < kSparseBytes ? size : kSparseBytes;
  for (std::size_t at = 0; at < dense; ++at) {
    if (bytes[at] != value) return false;
  }
  for (std::size_t at = 0; at < size; at += kSparseStep) {
    if (bytes[at] != value) return false;
  }
  return bytes[size - 1] == value;
}

// Every failure has one meaning here: out of memory.
bool usable(const void* block, std::size_t size) {
  if (block != nullptr) return true;
  expect(errno == ENOMEM, "errno is ENOMEM after NULL", size);
  null_count.fetch_add(1, std::memory_order_relaxed);
  return false;
}

void check_and_free(Holder& holder) {
  if (holder.block == nullptr) return;
  expect(holds(holder.block, holder.size, pattern_of(&holder, holder.size)), "contents kept", holder.size);
  free(holder.block);
  holder = {};
}

std::size_t draw_size(Random& random) {
  switch (random.below(60)) {
    case 0:
      return 33 * kMiB + random.below(40 * kMiB);
    case 1:
    case 2:
    case 3:
      return kMiB + random.below(4 * kMiB);
    case 4:
    case 5:
    case 6:
    case 7:
    case 8:
      return 33'000 + random.below(400'000);
    default:
      return 1 + random.below(std::size_t{16} << random.below(12));
  }
}

void take(Holder& holder, Random& random) {
  const std::size_t size = draw_size(random);
  errno = 0;
  void* block = nullptr;
  const std::size_t way = random.below(4);
  if (way == 0) {
    block = opaque(calloc(1, size));
    if (block != nullptr) expect(holds(static_cast<unsigned char*>(block), size, 0), "calloc is zero", size);
  } else if (way == 1) {
    const std::size_t alignment = std::size_t{16} << random.below(13);
    block = opaque(aligned_alloc(alignment, size));
    expect(reinterpret_cast<std::uintptr_t>(block) % alignment == 0, "the block is aligned", alignment);
  } else {
    block = opaque(malloc(size));
  }
  if (!usable(block, size)) return;
  holder = {static_cast<unsigned char*>(block), size};
  fill(holder.block, size, pattern_of(&holder, size));
}

void resize(Holder& holder, Random& random) {
  const std::size_t size = draw_size(random);
  const unsigned char old_value = pattern_of(&holder, holder.size);
  errno = 0;
  void* moved = opaque(realloc(holder.block, size));
  // After a failure the old block is still there and whole; check_and_free asks for that later.
  if (!usable(moved, size)) return;
  auto* bytes = static_cast<unsigned char*>(moved);
  expect(bytes[0] == old_value, "realloc keeps contents", size);
  holder = {bytes, size};
  fill(bytes, size, pattern_of(&holder, size));
}

void churn(Holder* holders, std::size_t count, std::uint64_t seed) {
  Random random(seed);
  for (int round = 0; round < 2000; ++round) {
    Holder& holder = holders[random.below(count)];
    if (holder.block == nullptr) {
      take(holder, random);
    } else if (random.below(3) == 0) {
      resize(holder, random);
    } else {
      check_and_free(holder);
    }
    if (round % 500 == 499) malloc_trim(0);
  }
}

Holder main_holders[kBlocks];
Holder thread_holders[2][kBlocks / 4];
alignas(4096) char stacks[2][512 * 1024];

void* thread_work(void* index) {
  const std::size_t i = reinterpret_cast<std::uintptr_t>(index);
  churn(thread_holders[i], kBlocks / 4, i + 50);
  return nullptr;
}

void with_threads() {
  pthread_t threads[2];
  bool started[2];
  for (std::uintptr_t i = 0; i < 2; ++i) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stacks[i], sizeof stacks[i]);
    const int error = pthread_create(&threads[i], &attributes, thread_work, reinterpret_cast<void*>(i));
    started[i] = error == 0;
    // A thread needs memory from the allocator too; without it the thread library says so.
    expect(error == 0 || error == EAGAIN || error == ENOMEM, "pthread_create",
           static_cast<std::size_t>(error));
    pthread_attr_destroy(&attributes);
  }
  churn(main_holders, kBlocks, 3);
  for (int i = 0; i < 2; ++i) {
    if (started[i]) pthread_join(threads[i], nullptr);
  }
  // Blocks of a thread that has ended are freed by this one.
  for (auto& holders : thread_holders) {
    for (Holder& holder : holders) check_and_free(holder);
  }
}

void with_child() {
  const pid_t child = fork();
  if (child == 0) {
    for (Holder& holder : main_holders) check_and_free(holder);
    churn(main_holders, kBlocks, 9);
    for (Holder& holder : main_holders) check_and_free(holder);
    _exit(process_test::failure_count.load() == 0 ? 0 : 1);
  }
  if (child < 0) return;
  int status = 0;
  waitpid(child, &status, 0);
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ends well",
         static_cast<std::size_t>(status));
}

// Growth in place and beyond the address slot: 40 MiB to 640 MiB and back.
void grow_large() {
  std::size_t size = 40 * kMiB;
  auto* block = static_cast<unsigned char*>(opaque(malloc(size)));
  if (!usable(block, size)) return;
  fill(block, size, 0x71);
  for (const std::size_t next : {60 * kMiB, 130 * kMiB, 300 * kMiB, 640 * kMiB, 100 * kMiB, 35 * kMiB}) {
    errno = 0;
    auto* moved = static_cast<unsigned char*>(opaque(realloc(block, next)));
    if (usable(moved, next)) {
      const std::size_t kept = size < next ? size : next;
      expect(moved[0] == 0x71 && moved[(kept - 1) / kSparseStep * kSparseStep] == 0x71,
             "large realloc keeps contents");
      block = moved;
      size = next;
      fill(block, size, 0x71);
    }
    expect(holds(block, size, 0x71), "a large block is whole after realloc", size);
  }
  free(block);
}

void recovered() {
  for (const std::size_t size :
       {std::size_t{40}, std::size_t{5000}, std::size_t{200'000}, 3 * kMiB, 50 * kMiB}) {
    auto* block = static_cast<unsigned char*>(opaque(malloc(size)));
    if (!expect(block != nullptr, "malloc works again after one fault", size)) continue;
    fill(block, size, 1);
    free(block);
  }
}

}  // namespace

int main(int argc, char** argv) {
  with_threads();
  with_child();
  grow_large();
  for (Holder& holder : main_holders) check_and_free(holder);
  if (argc > 1 && std::strcmp(argv[1], "recover") == 0) recovered();
  if (glebe_heap_validate != nullptr) expect(glebe_heap_validate() == 1, "the accounting is exact");
  process_test::say("nulls %zu\n", null_count.load());
  return process_test::finish("fault_workload");
}
