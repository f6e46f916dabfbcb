// The allocator at the edges of a process's and a thread's life: before constructors, in thread-local
// destructors, in pthread key destructors (with re-arming), in exit handlers and static destructors. Exits 0
// when all went well; the last word is spoken in a destructor by _exit. What would break: an allocator that
// needs its constructor to have run, or that tears down its thread cache and is called once more.
#include <pthread.h>

#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "tests/process/expect.h"

namespace {

using process_test::expect;
using process_test::fill;
using process_test::holds;
using process_test::opaque;

constexpr std::size_t kSizes[] = {8, 100, 5000, 60'000, 2'000'000, 40'000'000};

// Filled by a constructor that runs before those of C++ objects.
void* early_blocks[6];
std::atomic<int> stages{0};

void allocate_and_free(const char* where) {
  void* blocks[6];
  for (int i = 0; i < 6; ++i) {
    blocks[i] = opaque(std::malloc(kSizes[i]));
    if (expect(blocks[i] != nullptr, where, kSizes[i])) fill(blocks[i], kSizes[i], 0x2D);
  }
  for (int i = 0; i < 6; ++i) {
    expect(holds(blocks[i], kSizes[i], 0x2D), where, kSizes[i]);
    blocks[i] = opaque(std::realloc(blocks[i], kSizes[i] * 2));
    std::free(blocks[i]);
  }
  stages.fetch_add(1);
}

__attribute__((constructor(101))) void before_everything() {
  for (int i = 0; i < 6; ++i) {
    early_blocks[i] = opaque(std::malloc(kSizes[i]));
    if (early_blocks[i] != nullptr) fill(early_blocks[i], kSizes[i], 0x77);
  }
}

struct Static {
  std::string text = std::string(1000, 's');
  ~Static() {
    expect(text.size() == 1000 && text[999] == 's', "a static object's memory is whole in its destructor");
    allocate_and_free("allocation in a static destructor");
  }
};

// Destroyed last, because it is constructed first: it ends the process with the verdict.
struct Verdict {
  ~Verdict() {
    allocate_and_free("allocation in the last static destructor");
    expect(stages.load() >= 12, "every stage ran", static_cast<std::size_t>(stages.load()));
    _exit(process_test::finish("startup"));
  }
};
__attribute__((init_priority(200))) Verdict verdict;
__attribute__((init_priority(300))) Static static_object;

struct ThreadLocal {
  std::vector<int> numbers = std::vector<int>(5000, 3);
  ~ThreadLocal() {
    expect(numbers[4999] == 3, "a thread-local object's memory is whole in its destructor");
    allocate_and_free("allocation in a thread-local destructor");
  }
};
thread_local ThreadLocal thread_object;

pthread_key_t early_key, late_key;

// Re-arms itself as often as POSIX allows, so that one call comes after any destructor of the allocator's own
// key.
void on_key(void* value) {
  const auto left = reinterpret_cast<std::uintptr_t>(value);
  allocate_and_free("allocation in a key destructor");
  if (left > 1) pthread_setspecific(late_key, reinterpret_cast<void*>(left - 1));
}

void* thread_with_keys(void*) {
  thread_object.numbers[0] = 3;
  pthread_setspecific(early_key, reinterpret_cast<void*>(std::uintptr_t{1}));
  pthread_setspecific(late_key, reinterpret_cast<void*>(std::uintptr_t{4}));
  return opaque(std::malloc(1234));
}

void at_exit() { allocate_and_free("allocation in an exit handler"); }

}  // namespace

int main() {
  for (int i = 0; i < 6; ++i) {
    expect(early_blocks[i] != nullptr, "malloc works before constructors", kSizes[i]);
    expect(holds(early_blocks[i], kSizes[i], 0x77), "early blocks are whole", kSizes[i]);
    std::free(early_blocks[i]);
  }
  pthread_key_create(&early_key, on_key);
  pthread_key_create(&late_key, on_key);
  std::atexit(at_exit);
  thread_object.numbers[1] = 3;
  for (int i = 0; i < 3; ++i) {
    pthread_t thread;
    void* block = nullptr;
    pthread_create(&thread, nullptr, thread_with_keys, nullptr);
    pthread_join(thread, &block);
    expect(block != nullptr, "a thread's block outlives it");
    std::free(block);
  }
  // This thread detaches and may still run while the process exits.
  std::thread([] {
    for (;;) std::free(opaque(std::malloc(500)));
  }).detach();
  process_test::sleep_ms(20);
  return 0;
}
