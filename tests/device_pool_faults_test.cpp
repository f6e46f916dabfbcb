// Pools under failures and threads. What would break: a call that fails leaves a handle, a mapping or a wrong
// account behind; two threads get one block; statistics do not belong together.
#include "src/device/async_source.h"
#include "tests/device_pool_rig.h"

namespace device_test {
namespace {

struct Failure {
  cuda::Call call;
  cuda::Result result;
};
constexpr Failure kFailures[] = {
    {cuda::Call::mem_address_reserve, cuda::Result::out_of_memory},
    {cuda::Call::stream_create, cuda::Result::out_of_memory},
    {cuda::Call::mem_create, cuda::Result::out_of_memory},
    {cuda::Call::mem_map, cuda::Result::out_of_memory},
    {cuda::Call::mem_set_access, cuda::Result::out_of_memory},
    {cuda::Call::mem_unmap, cuda::Result::unknown},
    {cuda::Call::mem_get_info, cuda::Result::unknown},
    {cuda::Call::mem_host_register, cuda::Result::out_of_memory},
    {cuda::Call::mem_host_unregister, cuda::Result::unknown},
    {cuda::Call::stream_get_id, cuda::Result::invalid_handle},
    {cuda::Call::event_create, cuda::Result::out_of_memory},
    {cuda::Call::event_record, cuda::Result::out_of_memory},
    {cuda::Call::event_query, cuda::Result::unknown},
    {cuda::Call::event_synchronize, cuda::Result::unknown},
    {cuda::Call::memset_d8_async, cuda::Result::unknown},
    {cuda::Call::stream_synchronize, cuda::Result::unknown},
    {cuda::Call::device_get_attribute, cuda::Result::unknown},
    {cuda::Call::mem_pool_create, cuda::Result::out_of_memory},
    {cuda::Call::mem_pool_set_attribute, cuda::Result::unknown},
    {cuda::Call::mem_pool_get_attribute, cuda::Result::unknown},
    {cuda::Call::stream_is_capturing, cuda::Result::unknown},
    {cuda::Call::mem_alloc_from_pool_async, cuda::Result::out_of_memory},
    {cuda::Call::mem_free_async, cuda::Result::unknown},
};

bool is_ok(const Outcome& outcome) { return outcome.ok(); }

// A pool from open to close while calls fail. Whatever is refused has changed nothing; in the end all is
// gone.
template <class Source, class Engine>
std::uint64_t live_through(const Failure& failure, std::uint64_t nth, bool is_cleared) {
  std::uint64_t failures = 0;
  EmulatedGpu::Options machine = gpu_test::small();
  machine.is_poisoned = false;  // filling each new chunk would take most of the time
  on_failing_gpu(machine, [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    ChunkPool chunks;
    REQUIRE(chunks.open(gpu, handles()).ok());
    const cuda::Stream stream = rig.stream();
    MemoryPool<Source, Engine> pool;
    typename Source::Options source;
    if constexpr (std::is_same_v<Source, DeviceSource>) source.chunks = &chunks;
    if constexpr (std::is_same_v<Source, PinnedSource>) source.gpu = &gpu;
    if constexpr (std::is_same_v<Source, DeviceAsyncSource>) source = {&gpu, stream, kGranule};
    PoolOptions options = with(gpu);
    options.is_cleared = is_cleared;
    options.headroom_bytes = kMiB;
    failing.fail({failure.call, nth, 3, failure.result});
    while (!is_ok(pool.open(options, source, engine_options<Engine>(64 * kKiB)))) CHECK_FALSE(pool.is_open());
    std::map<std::uint64_t, bool> live;
    for (unsigned step = 0; step < 16; ++step) {
      const std::uint64_t chunk_bytes = pool.stats().chunk_bytes;
      std::uint64_t address = 0;
      if (is_ok(pool.allocate(step % 5 == 4 ? 3 * kGranule : kMiB, 0, &address))) {
        REQUIRE(live.emplace(address, true).second);
      } else {
        REQUIRE(pool.stats().chunk_bytes <= chunk_bytes);
      }
      REQUIRE(pool.stats().live_blocks - pool.stats().waiting_blocks == live.size());
      if (step % 3 != 2 || live.empty()) continue;
      const std::uint64_t first = live.begin()->first;
      const bool is_freed =
          step % 2 == 0 || is_cleared ? is_ok(pool.free(first)) : is_ok(pool.free_after(stream, {&first, 1}));
      if (is_freed) live.erase(first);
      static_cast<void>(pool.trim(0));
      REQUIRE(pool.validate());
    }
    for (const auto& block : live) {
      while (!is_ok(is_cleared ? pool.free(block.first) : pool.free_after(stream, {&block.first, 1}))) {
      }
    }
    for (int i = 0; i < 4 && !is_ok(pool.synchronize()); ++i) {
    }
    REQUIRE(pool.stats().live_blocks == 0);
    for (int i = 0; i < 4 && pool.stats().chunks != 0; ++i) static_cast<void>(pool.trim(0));
    REQUIRE(pool.stats().chunks == 0);
    for (int i = 0; i < 4 && !is_ok(pool.close()); ++i) {
    }
    CHECK_FALSE(pool.is_open());
    failures = failing.failures(failure.call);
    failing.stop_failing();
    CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
  });
  return failures;
}

TEST_CASE("X6 B6 whichever call of the driver fails, a pool is as it was before", "[device]") {
  for (const Failure& failure : kFailures) {
    std::uint64_t failures = 0;
    for (std::uint64_t nth = 1; nth <= 100; ++nth) {
      INFO(cuda::symbol_of(failure.call) << " number " << nth);
      std::uint64_t now = live_through<DeviceSource, HeapEngine>(failure, nth, nth % 4 == 0);
      now += live_through<DeviceSource, PassEngine>(failure, nth, false);
      now += live_through<PinnedSource, HeapEngine>(failure, nth, nth % 4 == 1);
      now += live_through<DeviceAsyncSource, HeapEngine>(failure, nth, nth % 4 == 2);
      failures += now;
      if (now == 0 && nth > 8) break;  // there are no more calls of it
    }
    INFO(cuda::symbol_of(failure.call));
    CHECK(failures > 0);
  }
}

TEST_CASE("X6 a pool whose device is lost says so and gives back what is the host's", "[device]") {
  gpu_test::on_emulator(gpu_test::small(), [](Rig& rig) {
    Gpu gpu;
    REQUIRE(gpu.open(rig.driver).ok());
    {
      ChunkPool chunks;
      REQUIRE(chunks.open(gpu, handles()).ok());
      DevicePool pool;
      REQUIRE(pool.open(with(gpu), {&chunks}, {}).ok());
      std::uint64_t address = 0, more = 0;
      const cuda::Stream stream = rig.stream();
      REQUIRE(pool.allocate(4096, 0, &address).ok());
      REQUIRE(pool.allocate(4096, 0, &more).ok());
      REQUIRE(pool.free_after(stream, {&address, 1}).ok());
      CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
      CHECK(pool.synchronize().ok());
      CHECK(gpu.check(cuda::Result::illegal_address).status == Status::device_lost);
      CHECK(pool.free_after(nullptr, {&more, 1}).status == Status::device_lost);
      CHECK(pool.allocate(3 * kGranule, 0, &address).status == Status::device_lost);
      CHECK(pool.close().ok());
      CHECK_FALSE(pool.is_open());
    }
    gpu.close();
  });
}

TEST_CASE("P16 mut-B11 threads with streams of their own share a pool", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::threaded), [](Rig& rig, Gpu& gpu) {
    constexpr unsigned kThreads = 3, kRounds = 300;
    ChunkPool chunks;
    REQUIRE(chunks.open(gpu, handles()).ok());
    MemoryPool<DeviceSource, BinnedEngine> pool;
    REQUIRE(pool.open(with(gpu), {&chunks}, {}).ok());
    std::atomic<unsigned> wrong{0}, running{kThreads};
    cuda::Stream streams[kThreads];
    std::uint32_t* seen[kThreads];
    for (unsigned i = 0; i < kThreads; ++i) {
      streams[i] = rig.stream();
      seen[i] = rig.pinned(kRounds);
    }
    std::vector<std::thread> threads;
    for (unsigned number = 0; number < kThreads; ++number) {
      threads.emplace_back([&, number] {
        static_cast<void>(rig.driver.ctx_set_current(rig.context));
        Random random(number);
        for (std::uint32_t round = 1; round < kRounds; ++round) {
          std::uint64_t address = 0;
          const std::uint64_t words = 64 * (1 + random.below(2000));
          seen[number][round] = round;
          if (!pool.allocate(4 * words, 0, &address).ok()) continue;
          const std::uint32_t value = number * 1000 + round;
          seen[number][round] = 0;
          const bool is_done =
              rig.driver.memset_d32_async(address, value, words, streams[number]) == cuda::Result::success &&
              rig.driver.memcpy_d2h_async(seen[number] + round, address + 4 * (words - 1), 4,
                                          streams[number]) == cuda::Result::success &&
              pool.free_after(streams[number], {&address, 1}).ok();
          if (!is_done) ++wrong;
          if (round % 50 == 0) static_cast<void>(pool.trim(0));
        }
        --running;
      });
    }
    while (running != 0) {
      const PoolStats stats = pool.stats();
      if (stats.hits + stats.misses != stats.requests) ++wrong;
      if (stats.allocated - stats.freed != stats.live_blocks) ++wrong;
      if (stats.waiting_blocks > stats.live_blocks) ++wrong;
      std::this_thread::yield();
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(pool.synchronize().ok());
    CHECK(pool.stats().live_blocks == 0);
    CHECK(pool.validate());
    CHECK(pool.close().ok());
    for (unsigned number = 0; number < kThreads; ++number) {
      for (std::uint32_t round = 1; round < kRounds; ++round) {
        const std::uint32_t got = seen[number][round];
        if (got != round && got != number * 1000 + round) ++wrong;
      }
      CHECK(rig.driver.mem_free_host(seen[number]) == cuda::Result::success);
      CHECK(rig.driver.stream_destroy(streams[number]) == cuda::Result::success);
    }
    CHECK(wrong == 0);
  });
}

// Threads that allocate, write, verify and free, while one trims and one reads the statistics.
template <class Engine>
void run_threads() {
  constexpr unsigned kThreads = 4, kRounds = 2000;
  MemoryPool<HostSource, Engine> pool;
  REQUIRE(pool.open({.chunk_bytes = 16 * kKiB, .max_bytes = kMiB}, {}, engine_options<Engine>(64)).ok());
  std::atomic<unsigned> wrong{0}, running{kThreads};
  std::vector<std::thread> threads;
  for (unsigned number = 0; number < kThreads; ++number) {
    threads.emplace_back([&, number] {
      Random random(number);
      std::vector<std::pair<std::uint64_t, std::uint64_t>> mine;
      for (unsigned round = 0; round < kRounds; ++round) {
        std::uint64_t address = 0;
        const std::uint64_t size_bytes = 1 + random.below(2000);
        if (mine.size() < 20 && pool.allocate(size_bytes, 64, &address).ok()) {
          std::memset(pointer(address), static_cast<int>(number + 1), size_bytes);
          mine.emplace_back(address, size_bytes);
          continue;
        }
        if (mine.empty()) continue;
        const std::size_t at = random.below(mine.size());
        for (std::uint64_t i = 0; i < mine[at].second; ++i) {
          if (pointer(mine[at].first)[i] != static_cast<std::byte>(number + 1)) ++wrong;
        }
        if (!pool.free(mine[at].first).ok()) ++wrong;
        mine[at] = mine.back();
        mine.pop_back();
      }
      for (const auto& block : mine) wrong += pool.free(block.first).ok() ? 0 : 1;
      --running;
    });
  }
  while (running != 0) {
    const PoolStats stats = pool.stats();
    if (stats.hits + stats.misses != stats.requests) ++wrong;
    if (stats.allocated - stats.freed != stats.live_blocks) ++wrong;
    if (stats.live_bytes > stats.chunk_bytes || stats.capacity_bytes > stats.chunk_bytes) ++wrong;
    if (stats.requests - stats.failures != stats.allocated) ++wrong;
    static_cast<void>(pool.trim(16 * kKiB));
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  const PoolStats stats = pool.stats();
  CHECK(stats.live_blocks == 0);
  CHECK(stats.allocated == stats.freed);
  CHECK(pool.validate());
  static_cast<void>(pool.trim(0));
  CHECK(pool.stats().chunks == 0);
}

TEST_CASE("P16 mut-B11 threads, trim and statistics at once, with every engine", "[device]") {
  run_threads<FixedEngine>();
  run_threads<HeapEngine>();
  run_threads<RingEngine>();
  run_threads<BinnedEngine>();
  run_threads<PassEngine>();
}

}  // namespace
}  // namespace device_test
