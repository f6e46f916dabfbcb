// The emulated GPU as such: what it does to find bugs that a device would hide. What would break: code with a
// missing dependency, a leak or a read of fresh memory passes its tests here and fails on a device.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <thread>
#include <vector>

#include "platform/cuda/failing.h"
#include "tests/gpu_rig.h"
#include "tests/random.h"

using namespace gpu_test;

namespace {

// Stream A produces, stream B consumes; true if B saw what A made. Without the event nothing orders them.
bool consumer_sees_product(Rig& rig, bool with_event) {
  const Driver& driver = rig.driver;
  const DevicePointer address = rig.memory(kGranule);
  const Stream producer = rig.stream(), consumer = rig.stream();
  const Event made = rig.event();
  REQUIRE(driver.memset_d32_async(address, 0, 2, producer) == Result::success);
  REQUIRE(driver.stream_synchronize(producer) == Result::success);
  REQUIRE(rig.store_word(address, 5, producer) == Result::success);
  REQUIRE(driver.event_record(made, producer) == Result::success);
  if (with_event) REQUIRE(driver.stream_wait_event(consumer, made, 0) == Result::success);
  REQUIRE(rig.copy_words(address + 4, address, 1, consumer) == Result::success);
  REQUIRE(driver.ctx_synchronize() == Result::success);
  const bool is_seen = rig.read_word(address + 4) == 5;
  CHECK(driver.event_destroy(made) == Result::success);
  CHECK(driver.stream_destroy(producer) == Result::success);
  CHECK(driver.stream_destroy(consumer) == Result::success);
  rig.give_back(address, kGranule);
  return is_seen;
}

// An event that is recorded again, in a stream that has nothing else to do, while a consumer waits for it.
bool consumer_waits_for_the_first(Rig& rig) {
  const Driver& driver = rig.driver;
  const DevicePointer address = rig.memory(kGranule);
  const Stream producer = rig.stream(), consumer = rig.stream(), idle = rig.stream();
  const Event made = rig.event();
  REQUIRE(driver.memset_d32_async(address, 0, 2, producer) == Result::success);
  REQUIRE(driver.stream_synchronize(producer) == Result::success);
  REQUIRE(rig.store_word(address, 5, producer) == Result::success);
  REQUIRE(driver.event_record(made, producer) == Result::success);
  REQUIRE(driver.stream_wait_event(consumer, made, 0) == Result::success);
  REQUIRE(rig.copy_words(address + 4, address, 1, consumer) == Result::success);
  REQUIRE(driver.event_record(made, idle) == Result::success);
  REQUIRE(driver.ctx_synchronize() == Result::success);
  const bool is_seen = rig.read_word(address + 4) == 5;
  CHECK(driver.event_destroy(made) == Result::success);
  for (const Stream stream : {producer, consumer, idle}) {
    CHECK(driver.stream_destroy(stream) == Result::success);
  }
  rig.give_back(address, kGranule);
  return is_seen;
}

// A host function that says that it runs and goes on when it may.
struct Halt {
  std::atomic<bool> is_reached{false}, may_go_on{false};
  static void hold(void* self) {
    auto& halt = *static_cast<Halt*>(self);
    halt.is_reached = true;
    while (!halt.may_go_on) std::this_thread::yield();
  }
};

// A thread waits for an event. While it does work of another stream, the event is reached and destroyed, and
// a new one, which is never recorded, takes its place. False: by lot the event was reached before that work.
bool event_is_replaced_under_a_waiter(Rig& rig) {
  const Driver& driver = rig.driver;
  const Stream held = rig.stream(), quick = rig.stream();
  const Event event = rig.event();
  Halt halt;
  REQUIRE(driver.launch_host_function(held, Halt::hold, &halt) == Result::success);
  REQUIRE(driver.event_record(event, quick) == Result::success);
  std::atomic<bool> is_back{false};
  Result answer = Result::unknown;
  std::thread waiter([&] {
    static_cast<void>(driver.ctx_set_current(rig.context));
    answer = driver.event_synchronize(event);
    is_back = true;
  });
  while (!halt.is_reached && !is_back) std::this_thread::yield();
  const bool is_replaced = halt.is_reached && !is_back;
  Event other = event;
  if (is_replaced) {
    while (rig.emulated->run(1) != 0) {
    }
    CHECK(driver.event_destroy(event) == Result::success);
    other = rig.event();
    CHECK(other == event);
  }
  halt.may_go_on = true;
  waiter.join();
  CHECK(answer == Result::success);
  CHECK(driver.ctx_synchronize() == Result::success);
  CHECK(driver.event_destroy(other) == Result::success);
  CHECK(driver.stream_destroy(held) == Result::success);
  CHECK(driver.stream_destroy(quick) == Result::success);
  return is_replaced;
}

// Whether a child process that does `body` is ended by SIGSEGV.
template <class ChildBody>
bool is_killed(ChildBody body) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    for (const int number : {SIGSEGV, SIGBUS, SIGABRT}) std::signal(number, SIG_DFL);
    ::alarm(30);
    body();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

}  // namespace

TEST_CASE("X3 emulated GPU: the adversarial order finds a missing dependency, and none where there is one",
          "[gpu]") {
  unsigned missed = 0, missed_with_event = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    on_emulator(small(GpuSchedule::adversarial, seed), [&](Rig& rig) {
      missed += consumer_sees_product(rig, false) ? 0 : 1;
      missed_with_event += consumer_sees_product(rig, true) ? 0 : 1;
    });
  }
  CHECK(missed >= 20);
  CHECK(missed_with_event == 0);
}

TEST_CASE("X emulated GPU: a wait is for the recording that it saw, whatever is recorded later", "[gpu]") {
  unsigned wrong = 0, replaced = 0;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    on_emulator(small(GpuSchedule::adversarial, seed), [&](Rig& rig) {
      wrong += consumer_waits_for_the_first(rig) ? 0 : 1;
      replaced += event_is_replaced_under_a_waiter(rig) ? 1 : 0;
    });
  }
  CHECK(wrong == 0);
  CHECK(replaced >= 5);
}

TEST_CASE("X emulated GPU: one seed gives one order", "[gpu]") {
  const auto order = [](std::uint64_t seed) {
    std::vector<int> seen;
    on_emulator(small(GpuSchedule::adversarial, seed), [&](Rig& rig) {
      struct Note {
        std::vector<int>* seen;
        int number;
      } notes[4];
      Stream streams[4];
      for (int i = 0; i < 4; ++i) {
        streams[i] = rig.stream();
        notes[i] = {&seen, i};
      }
      for (int round = 0; round < 8; ++round) {
        for (int i = 0; i < 4; ++i) {
          const auto note = [](void* data) {
            static_cast<Note*>(data)->seen->push_back(static_cast<Note*>(data)->number);
          };
          REQUIRE(rig.driver.launch_host_function(streams[i], note, &notes[i]) == Result::success);
        }
      }
      REQUIRE(rig.driver.ctx_synchronize() == Result::success);
      for (const Stream stream : streams) CHECK(rig.driver.stream_destroy(stream) == Result::success);
    });
    return seen;
  };
  const std::vector<int> first = order(7);
  CHECK(first.size() == 32);
  CHECK(first == order(7));
  CHECK(first != order(8));
}

TEST_CASE("X emulated GPU: nothing is done in the adversarial order until somebody waits or polls", "[gpu]") {
  on_emulator(small(GpuSchedule::adversarial), [](Rig& rig) {
    const Stream in = rig.stream();
    int calls = 0;
    const auto count = [](void* data) { ++*static_cast<int*>(data); };
    for (int i = 0; i < 10; ++i) {
      REQUIRE(rig.driver.launch_host_function(in, count, &calls) == Result::success);
    }
    CHECK(calls == 0);
    CHECK(rig.emulated->run(4) == 4);
    CHECK(calls == 4);
    unsigned polls = 0, pending = 0;
    for (; polls < 1000 && rig.driver.stream_query(in) == Result::not_ready; ++polls) ++pending;
    CHECK(calls == 10);
    CHECK(pending > 0);
    CHECK(rig.driver.stream_destroy(in) == Result::success);
  });
}

TEST_CASE("X emulated GPU: pinned memory is read when the copy's turn comes", "[gpu]") {
  on_emulator(small(GpuSchedule::adversarial), [](Rig& rig) {
    const DevicePointer address = rig.memory(kGranule);
    std::uint32_t* source = rig.pinned(4);
    const Stream in = rig.stream();
    source[0] = 1;
    REQUIRE(rig.driver.memcpy_h2d_async(address, source, 4, in) == Result::success);
    source[0] = 2;  // too early: a staging buffer used again without a fence
    REQUIRE(rig.driver.stream_synchronize(in) == Result::success);
    CHECK(rig.read_word(address) == 2);
    CHECK(rig.driver.stream_destroy(in) == Result::success);
    CHECK(rig.driver.mem_free_host(source) == Result::success);
    rig.give_back(address, kGranule);
  });
}

TEST_CASE("X emulated GPU: more work than queues hold is waited for, and sources that were taken stay",
          "[gpu]") {
  for (const GpuSchedule schedule : {GpuSchedule::threaded, GpuSchedule::adversarial}) {
    on_emulator(small(schedule), [](Rig& rig) {
      const DevicePointer address = rig.memory(kGranule);
      const Stream in = rig.stream();
      unsigned failed = 0;
      for (std::uint32_t i = 0; i < 40'000; ++i) {
        failed += rig.driver.memset_d32_async(address, i, 1, in) != Result::success;
      }
      CHECK(failed == 0);
      // More small copies than there is room for their sources.
      for (std::uint32_t i = 0; i < 1000; ++i) {
        std::uint32_t source = i;
        failed += rig.driver.memcpy_h2d_async(address + 4 + 4 * i, &source, 4, in) != Result::success;
        source = ~0u;
      }
      CHECK(failed == 0);
      CHECK(rig.driver.stream_synchronize(in) == Result::success);
      CHECK(rig.read_word(address) == 39'999);
      for (std::uint32_t i = 0; i < 1000; ++i) failed += rig.read_word(address + 4 + 4 * i) != i;
      CHECK(failed == 0);
      CHECK(rig.driver.stream_destroy(in) == Result::success);
      rig.give_back(address, kGranule);
    });
  }
}

TEST_CASE("X emulated GPU: fresh memory holds a pattern that differs each time", "[gpu]") {
  on_emulator(small(), [](Rig& rig) {
    const DevicePointer first = rig.memory(kGranule), second = rig.memory(kGranule);
    CHECK(rig.read_word(first) != 0);
    CHECK(rig.read_word(first + kGranule - 8) != 0);
    CHECK(rig.read_word(first) != rig.read_word(second));
    REQUIRE(rig.driver.memset_d8_async(first, 0, kGranule, nullptr) == Result::success);
    rig.give_back(first, kGranule);
    const DevicePointer again = rig.memory(kGranule);
    CHECK(rig.read_word(again) != 0);
    rig.give_back(again, kGranule);
    rig.give_back(second, kGranule);
  });
  EmulatedGpu::Options zeroed = small();
  zeroed.is_poisoned = false;
  on_emulator(zeroed, [](Rig& rig) {
    const DevicePointer address = rig.memory(kGranule);
    CHECK(rig.read_word(address + 4096) == 0);
    rig.give_back(address, kGranule);
  });
}

TEST_CASE("X emulated GPU: the CPU faults when it touches device memory", "[gpu]") {
  on_emulator(small(), [](Rig& rig) {
    const DevicePointer address = rig.memory(kGranule);
    auto* word = reinterpret_cast<volatile std::uint32_t*>(static_cast<std::uintptr_t>(address));
    CHECK(is_killed([=] { *word = 1; }));
    CHECK(is_killed([=] { static_cast<void>(*word); }));
    CHECK_FALSE(is_killed([] {}));
    // Also after work of the device went through the handler of faults.
    REQUIRE(rig.store_word(address, 3, nullptr) == Result::success);
    CHECK(is_killed([=] { *word = 1; }));
    CHECK(rig.read_word(address) == 3);
    rig.give_back(address, kGranule);
  });
}

std::atomic<unsigned> signals_seen{0};
void on_plain_signal(int) { ++signals_seen; }
void on_told_signal(int, siginfo_t* info, void*) { signals_seen += info->si_signo == SIGSEGV ? 1 : 1000; }

TEST_CASE("X emulated GPU: signals of others reach their handlers while kernels put ours in front", "[gpu]") {
  constexpr unsigned kRounds = 2000;
  struct sigaction before = {};
  REQUIRE(::sigaction(SIGSEGV, nullptr, &before) == 0);
  signals_seen = 0;
  on_emulator(small(), [](Rig& rig) {
    const DevicePointer address = rig.memory(kGranule);
    std::atomic<bool> is_over{false};
    std::thread other([&] {
      struct sigaction plain = {}, told = {};
      plain.sa_handler = on_plain_signal;
      plain.sa_flags = SA_NODEFER;
      told.sa_sigaction = on_told_signal;
      told.sa_flags = SA_SIGINFO;
      for (unsigned round = 0; round < kRounds; ++round) {
        ::sigaction(SIGSEGV, round % 2 == 0 ? &plain : &told, nullptr);
        ::raise(SIGSEGV);
      }
      is_over = true;
    });
    Result result = Result::success;
    while (!is_over) {
      const Result now = rig.store_word(address, 3, nullptr);
      if (now != Result::success) result = now;
    }
    other.join();
    CHECK(result == Result::success);
    CHECK(rig.read_word(address) == 3);
    rig.give_back(address, kGranule);
  });
  REQUIRE(::sigaction(SIGSEGV, &before, nullptr) == 0);
  CHECK(signals_seen == kRounds);
}

TEST_CASE("X emulated GPU: memory of the host loses the CPU's access when it is unmapped", "[gpu]") {
  on_emulator(small(), [](Rig& rig) {
    const DevicePointer address = rig.reserve(kGranule);
    const MemoryHandle handle = rig.create(kGranule, LocationType::host);
    auto* word = reinterpret_cast<volatile std::uint32_t*>(static_cast<std::uintptr_t>(address));
    rig.map(address, kGranule, handle);
    CHECK(is_killed([=] { *word = 1; }));
    REQUIRE(rig.set_access(address, kGranule, kAccessReadWrite, LocationType::host) == Result::success);
    *word = 17;
    REQUIRE(rig.set_access(address, kGranule, kAccessRead) == Result::success);
    CHECK(rig.read_word(address) == 17);
    REQUIRE(rig.driver.mem_unmap(address, kGranule) == Result::success);
    CHECK(is_killed([=] { *word = 1; }));
    CHECK(rig.driver.mem_release(handle) == Result::success);
    CHECK(rig.driver.mem_address_free(address, kGranule) == Result::success);
  });
}

TEST_CASE("X emulated GPU: several of them share nothing", "[gpu]") {
  on_emulator(small(), [](Rig& first) {
    on_emulator(small(GpuSchedule::threaded), [&](Rig& second) {
      const DevicePointer here = first.memory(kGranule), there = second.memory(kGranule);
      CHECK(here != there);
      REQUIRE(first.driver.memset_d32_async(here, 1, 1, nullptr) == Result::success);
      REQUIRE(second.driver.memset_d32_async(there, 2, 1, nullptr) == Result::success);
      CHECK(first.read_word(here) == 1);
      CHECK(second.read_word(there) == 2);
      std::uint32_t word = 0;
      CHECK(first.driver.memcpy_d2d_async(here, there, 4, nullptr) == Result::invalid_value);
      // A fault of one leaves the other alone.
      REQUIRE(second.store_word(there + kGranule, 1, nullptr) == Result::success);
      CHECK(second.driver.ctx_synchronize() == Result::illegal_address);
      CHECK(first.driver.memcpy_d2h(&word, here, 4) == Result::success);
      CHECK(second.recover());
      second.give_back(there, kGranule);
      first.give_back(here, kGranule);
    });
  });
}

TEST_CASE("X6 emulated GPU: the capacity is exact, can shrink, and comes back", "[gpu]") {
  on_emulator(small(), [](Rig& rig) {
    const AllocationProperties wanted = Rig::properties();
    std::vector<MemoryHandle> handles;
    MemoryHandle handle = 0;
    for (int round = 0; round < 3; ++round) {
      while (rig.driver.mem_create(&handle, 2 * kGranule, &wanted, 0) == Result::success)
        handles.push_back(handle);
      CHECK(handles.size() == 8);
      CHECK(rig.driver.mem_create(&handle, kGranule, &wanted, 0) == Result::out_of_memory);
      for (const MemoryHandle made : handles) CHECK(rig.driver.mem_release(made) == Result::success);
      handles.clear();
    }
    rig.emulated->set_device_bytes(kGranule);
    CHECK(rig.driver.mem_create(&handle, 2 * kGranule, &wanted, 0) == Result::out_of_memory);
    CHECK(rig.driver.mem_create(&handle, kGranule, &wanted, 0) == Result::success);
    CHECK(rig.driver.mem_release(handle) == Result::success);
    CHECK(rig.emulated->usage().total_creates == 25);
  });
}

TEST_CASE("X emulated GPU: calls that the driver leaves undefined are counted", "[gpu]") {
  on_emulator(small(), [](Rig& rig) {
    const MemoryHandle handle = rig.create(kGranule);
    CHECK(rig.driver.mem_release(handle) == Result::success);
    CHECK(rig.emulated->usage().undefined_calls == 0);
    CHECK(rig.driver.mem_release(handle) == Result::invalid_value);
    const MemoryHandle other = rig.create(kGranule);
    CHECK(other != handle);  // a handle that was released is not given out again
    CHECK(rig.driver.mem_release(handle) == Result::invalid_value);
    CHECK(rig.emulated->usage().undefined_calls == 2);
    std::size_t size_bytes = 0;
    CHECK(rig.driver.mem_get_granularity(&size_bytes, nullptr, Granularity::minimum) ==
          Result::invalid_value);
    CHECK(rig.emulated->usage().undefined_calls == 3);
    CHECK(rig.driver.mem_release(other) == Result::success);
  });
}

TEST_CASE("X emulated GPU: capture of a stream can be faked; streams of threads are their own", "[gpu]") {
  on_emulator(small(GpuSchedule::threaded), [](Rig& rig) {
    const Stream in = rig.stream();
    rig.emulated->set_capture_status(in, CaptureStatus::active);
    CaptureStatus status = CaptureStatus::none;
    CHECK(rig.driver.stream_is_capturing(in, &status) == Result::success);
    CHECK(status == CaptureStatus::active);
    CHECK(rig.driver.stream_destroy(in) == Result::success);
    const auto of_thread = reinterpret_cast<Stream>(kStreamPerThread);
    unsigned long long here = 0, again = 0, there = 0;
    CHECK(rig.driver.stream_get_id(of_thread, &here) == Result::success);
    CHECK(rig.driver.stream_get_id(of_thread, &again) == Result::success);
    std::thread([&] {
      static_cast<void>(rig.driver.ctx_set_current(rig.context));
      static_cast<void>(rig.driver.stream_get_id(of_thread, &there));
    }).join();
    CHECK(here == again);
    CHECK(there != 0);
    CHECK(here != there);
  });
}

TEST_CASE("X emulated GPU: a device without memory of the host says so", "[gpu]") {
  EmulatedGpu::Options options = small();
  options.has_host_numa = false;
  on_emulator(options, [](Rig& rig) {
    int is_supported = 1;
    CHECK(rig.driver.device_get_attribute(&is_supported,
                                          DeviceAttribute::host_numa_virtual_memory_management_supported,
                                          0) == Result::success);
    CHECK(is_supported == 0);
    const AllocationProperties wanted = Rig::properties(LocationType::host_numa);
    MemoryHandle handle = 0;
    CHECK(rig.driver.mem_create(&handle, kGranule, &wanted, 0) == Result::not_supported);
  });
}

TEST_CASE("X emulated GPU: a device without memory pools says so, and every call of them does", "[gpu]") {
  EmulatedGpu::Options options = small();
  options.has_memory_pools = false;
  on_emulator(options, [](Rig& rig) {
    const Driver& driver = rig.driver;
    int is_supported = 1;
    CHECK(driver.device_get_attribute(&is_supported, DeviceAttribute::memory_pools_supported, 0) ==
          Result::success);
    CHECK(is_supported == 0);
    MemoryPool pool = nullptr;
    DevicePointer address = 0;
    std::uint64_t value = 0;
    CHECK(driver.device_get_default_mem_pool(&pool, 0) == Result::not_supported);
    CHECK(driver.mem_alloc_async(&address, kMiB, nullptr) == Result::not_supported);
    CHECK(driver.mem_free_async(kMiB, nullptr) == Result::not_supported);
    CHECK(driver.mem_pool_set_attribute(pool, PoolAttribute::release_threshold, &value) ==
          Result::not_supported);
    CHECK(driver.mem_pool_get_attribute(pool, PoolAttribute::release_threshold, &value) ==
          Result::not_supported);
    CHECK(driver.mem_pool_trim_to(pool, 0) == Result::not_supported);
    const PoolProperties properties = {};
    CHECK(driver.mem_pool_create(&pool, &properties) == Result::not_supported);
    CHECK(driver.mem_pool_destroy(pool) == Result::not_supported);
    CHECK(driver.mem_alloc_from_pool_async(&address, kMiB, pool, nullptr) == Result::not_supported);
    CHECK(pool == nullptr);
    CHECK(address == 0);
    CHECK(rig.emulated->usage().undefined_calls == 0);
  });
}

TEST_CASE("X emulated GPU: what a program forgets goes when it is closed", "[gpu]") {
  for (const GpuSchedule schedule : {GpuSchedule::eager, GpuSchedule::threaded, GpuSchedule::adversarial}) {
    EmulatedGpu gpu;
    for (int round = 0; round < 3; ++round) {
      REQUIRE(gpu.open(small(schedule)));
      Rig rig(gpu.driver(), &gpu);
      rig.start();
      const DevicePointer address = rig.memory(kGranule);
      const Stream in = rig.stream();
      static_cast<void>(rig.event());
      static_cast<void>(rig.pinned(10));
      for (std::uint32_t i = 0; i < 20; ++i) REQUIRE(rig.store_word(address, i, in) == Result::success);
      CHECK(gpu.usage().mappings == 1);
      gpu.close();
    }
  }
}

TEST_CASE("X emulated GPU: threads that call it at once keep the accounts exact", "[gpu]") {
  for (const GpuSchedule schedule : {GpuSchedule::eager, GpuSchedule::threaded, GpuSchedule::adversarial}) {
    on_emulator(small(schedule), [](Rig& rig) {
      std::atomic<unsigned> wrong{0};
      const auto work = [&](std::uint32_t number) {
        const Driver& driver = rig.driver;
        const AllocationProperties wanted = Rig::properties();
        const AccessDescription access = {{LocationType::device, 0}, kAccessReadWrite};
        static_cast<void>(driver.ctx_set_current(rig.context));
        Stream in = nullptr;
        wrong += driver.stream_create(&in, kStreamNonBlocking) != Result::success;
        for (std::uint32_t i = 0; i < 100; ++i) {
          DevicePointer address = 0;
          MemoryHandle handle = 0;
          std::uint32_t seen = 0;
          wrong += driver.mem_address_reserve(&address, kGranule, 0, 0, 0) != Result::success;
          wrong += driver.mem_create(&handle, kGranule, &wanted, 0) != Result::success;
          wrong += driver.mem_map(address, kGranule, 0, handle, 0) != Result::success;
          wrong += driver.mem_release(handle) != Result::success;
          wrong += driver.mem_set_access(address, kGranule, &access, 1) != Result::success;
          wrong += rig.store_word(address + 4 * i, 1000 * number + i, in) != Result::success;
          wrong += driver.memcpy_d2h_async(&seen, address + 4 * i, 4, in) != Result::success;
          wrong += driver.stream_synchronize(in) != Result::success;
          wrong += seen != 1000 * number + i;
          wrong += driver.mem_unmap(address, kGranule) != Result::success;
          wrong += driver.mem_address_free(address, kGranule) != Result::success;
        }
        wrong += driver.stream_destroy(in) != Result::success;
        static_cast<void>(driver.ctx_set_current(nullptr));
      };
      std::vector<std::thread> threads;
      for (std::uint32_t i = 1; i <= 4; ++i) threads.emplace_back(work, i);
      for (std::thread& thread : threads) thread.join();
      CHECK(wrong.load() == 0);
    });
  }
}

TEST_CASE("X emulated GPU: whichever call fails, a mapping that is undone leaves nothing", "[gpu]") {
  // Reserve, create, map, release, set access, as one step that takes back what it did when a call fails.
  const auto make = [](const Driver& driver) -> Result {
    const AllocationProperties wanted = Rig::properties();
    const AccessDescription access = {{LocationType::device, 0}, kAccessReadWrite};
    DevicePointer address = 0;
    MemoryHandle handle = 0;
    Result result = driver.mem_address_reserve(&address, kGranule, 0, 0, 0);
    if (result != Result::success) return result;
    result = driver.mem_create(&handle, kGranule, &wanted, 0);
    if (result == Result::success) {
      result = driver.mem_map(address, kGranule, 0, handle, 0);
      const bool is_mapped = result == Result::success;
      if (is_mapped) result = driver.mem_set_access(address, kGranule, &access, 1);
      static_cast<void>(driver.mem_release(handle));
      if (is_mapped) static_cast<void>(driver.mem_unmap(address, kGranule));
    }
    static_cast<void>(driver.mem_address_free(address, kGranule));
    return result;
  };
  on_emulator(small(), [&](Rig& rig) {
    FailingDriver failing(rig.driver);
    const Driver driver = failing.driver();
    for (const Call call :
         {Call::mem_address_reserve, Call::mem_create, Call::mem_map, Call::mem_set_access}) {
      for (std::uint64_t nth = 1; nth <= 10; ++nth) {
        failing.fail({call, nth, 1, Result::out_of_memory});
        for (std::uint64_t i = 1; i <= 10; ++i) {
          CHECK(make(driver) == (i == nth ? Result::out_of_memory : Result::success));
        }
        CHECK(rig.emulated->usage().mappings == 0);
        CHECK(rig.emulated->usage().handles == 0);
      }
      CHECK(failing.failures(call) == 10);
    }
  });
}
