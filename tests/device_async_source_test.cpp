// Pools over memory that the driver gives in the order of a stream. What would break: a block whose memory is
// not there yet or not any more when its stream comes to it, an address that is taken for another block's,
// and memory that stays with the driver's pool for ever.
#include "src/device/async_source.h"

#include "tests/device_pool_rig.h"

namespace device_test {
namespace {

using cuda::Result;
template <class Engine>
using AsyncPool = MemoryPool<DeviceAsyncSource, Engine>;

constexpr PoolOptions kAsync = {.chunk_bytes = kGranule, .max_bytes = 8 * kGranule};

template <class Engine>
typename Engine::Options of_64_kib() {
  if constexpr (std::is_same_v<Engine, FixedEngine>) return {.block_bytes = 64 * kKiB};
  if constexpr (std::is_same_v<Engine, RingEngine>) return {.blocks_max = 64, .align_bytes = 512};
  return engine_options<Engine>(64 * kKiB);
}

// Blocks that live as long as their stream's work: written, read back and freed, and nobody waits in between.
template <class Engine>
void run_in_stream(Rig& rig, Gpu& gpu) {
  constexpr std::uint32_t kBlocks = 60;
  const cuda::Stream stream = rig.stream();
  std::uint32_t* seen = rig.pinned(kBlocks);
  AsyncPool<Engine> pool;
  REQUIRE(pool.open(kAsync, {&gpu, stream, 0}, of_64_kib<Engine>()).ok());
  std::vector<std::uint64_t> live;
  for (std::uint32_t i = 0; i < kBlocks; ++i) {
    std::uint64_t address = 0;
    REQUIRE(pool.allocate(64 * kKiB, 0, &address).ok());
    CHECK(pool.size_of(address) >= 64 * kKiB);
    REQUIRE(rig.store_word(address + 64 * kKiB - 4, i + 1, stream) == Result::success);
    REQUIRE(rig.driver.memcpy_d2h_async(seen + i, address + 64 * kKiB - 4, 4, stream) == Result::success);
    live.push_back(address);
    if (live.size() < 4) continue;
    for (const std::uint64_t block : live) REQUIRE(pool.free(block).ok());
    live.clear();
    if (i % 8 == 7) static_cast<void>(pool.trim(0));
  }
  REQUIRE(pool.validate());
  REQUIRE(pool.close().ok());
  REQUIRE(rig.driver.stream_synchronize(stream) == Result::success);
  for (std::uint32_t i = 0; i < kBlocks; ++i) CHECK(seen[i] == i + 1);
  CHECK(rig.driver.stream_destroy(stream) == Result::success);
  CHECK(rig.driver.mem_free_host(seen) == Result::success);
}

TEST_CASE("1-5 X3 blocks in the order of a stream are used and freed without a wait, with every engine",
          "[device]") {
  for (const GpuSchedule schedule : {GpuSchedule::eager, GpuSchedule::threaded, GpuSchedule::adversarial}) {
    for (std::uint64_t seed = 1; seed <= (schedule == GpuSchedule::adversarial ? 20 : 1); ++seed) {
      INFO("schedule " << static_cast<int>(schedule) << ", seed " << seed);
      on_gpu(gpu_test::small(schedule, seed), [](Rig& rig, Gpu& gpu) {
        run_in_stream<FixedEngine>(rig, gpu);
        run_in_stream<HeapEngine>(rig, gpu);
        run_in_stream<RingEngine>(rig, gpu);
        run_in_stream<BinnedEngine>(rig, gpu);
        run_in_stream<PassEngine>(rig, gpu);
      });
    }
  }
}

TEST_CASE("1-5 P3 device-async: the cap, long blocks over several chunks, addresses that lie anywhere",
          "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    AsyncPool<HeapEngine> pool;
    REQUIRE(pool.open(kAsync, {&gpu, nullptr, 0}, {}).ok());
    std::map<std::uint64_t, std::uint64_t> blocks;
    std::uint64_t address = 0;
    REQUIRE(pool.allocate(3 * kGranule, 0, &address).ok());
    REQUIRE(rig.store_word(address + 3 * kGranule - 4, 18, nullptr) == Result::success);
    CHECK(rig.read_word(address + 3 * kGranule - 4) == 18);
    blocks[address] = 3 * kGranule;
    Random random(7);
    Outcome outcome;
    for (;;) {
      const std::uint64_t size_bytes = 256 * (1 + random.below(1024));
      outcome = pool.allocate(size_bytes, 256, &address);
      if (!outcome.ok()) break;
      REQUIRE(address % 256 == 0);
      const auto next = blocks.lower_bound(address);
      REQUIRE((next == blocks.end() || address + size_bytes <= next->first));
      REQUIRE((next == blocks.begin() || std::prev(next)->first + std::prev(next)->second <= address));
      blocks[address] = size_bytes;
    }
    CHECK(outcome.status == Status::over_budget);
    CHECK(pool.stats().chunk_bytes == 8 * kGranule);
    CHECK(rig.emulated->usage().device_bytes == 8 * kGranule);
    for (const auto& [block, size_bytes] : blocks) {
      CHECK(pool.size_of(block) >= size_bytes);
      CHECK(pool.size_of(block + 256) == (blocks.count(block + 256) != 0 ? pool.size_of(block + 256) : 0));
    }
    for (const auto& block : blocks) REQUIRE(pool.free(block.first).ok());
    CHECK(pool.trim(0) == 8 * kGranule);
    CHECK(pool.validate());
  });
}

TEST_CASE("1-5 device-async: what is given back stays with the driver up to the threshold", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    for (const std::uint64_t threshold_bytes : {std::uint64_t{0}, 2 * kGranule, std::uint64_t{UINT64_MAX}}) {
      INFO("threshold " << threshold_bytes);
      AsyncPool<HeapEngine> pool;
      REQUIRE(pool.open(kAsync, {&gpu, nullptr, threshold_bytes}, {}).ok());
      std::vector<std::uint64_t> blocks(6);
      for (std::uint64_t& block : blocks) REQUIRE(pool.allocate(kGranule, 0, &block).ok());
      const std::uint64_t created = rig.emulated->usage().total_creates;
      for (const std::uint64_t block : blocks) REQUIRE(pool.free(block).ok());
      CHECK(pool.trim(0) == 6 * kGranule);
      CHECK(pool.stats().chunk_bytes == 0);
      REQUIRE(rig.driver.ctx_synchronize() == Result::success);
      const std::uint64_t kept_bytes = std::min<std::uint64_t>(threshold_bytes, 6 * kGranule);
      CHECK(rig.emulated->usage().device_bytes == kept_bytes);
      for (std::uint64_t& block : blocks) REQUIRE(pool.allocate(kGranule, 0, &block).ok());
      CHECK(rig.emulated->usage().total_creates - created == 6 - kept_bytes / kGranule);
      for (const std::uint64_t block : blocks) REQUIRE(pool.free(block).ok());
      REQUIRE(pool.close().ok());
      REQUIRE(rig.driver.ctx_synchronize() == Result::success);
      CHECK(rig.emulated->usage().device_bytes == 0);
      CHECK(rig.emulated->usage().pools == 0);
    }
  });
}

TEST_CASE("P15 device-async: a block is zero for whoever gets it next, in the order of the stream",
          "[device]") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    INFO("seed " << seed);
    on_gpu(gpu_test::small(GpuSchedule::adversarial, seed), [](Rig& rig, Gpu& gpu) {
      const cuda::Stream stream = rig.stream();
      std::uint32_t* seen = rig.pinned(1);
      *seen = 1;
      AsyncPool<HeapEngine> pool;
      PoolOptions options = with(gpu, kAsync);
      options.is_cleared = true;
      REQUIRE(pool.open(options, {&gpu, stream, 0}, {}).ok());
      std::uint64_t one = 0, next = 0;
      REQUIRE(pool.allocate(kMiB, 0, &one).ok());
      REQUIRE(rig.store_word(one + kMiB - 4, 77, stream) == Result::success);
      CHECK(pool.free_after(stream, {&one, 1}).status == Status::unsupported);
      REQUIRE(pool.free(one).ok());
      REQUIRE(pool.allocate(kMiB, 0, &next).ok());
      CHECK(next == one);
      REQUIRE(rig.driver.memcpy_d2h_async(seen, next + kMiB - 4, 4, stream) == Result::success);
      REQUIRE(rig.driver.stream_synchronize(stream) == Result::success);
      CHECK(*seen == 0);
      CHECK(pool.free(next).ok());
      CHECK(pool.close().ok());
      CHECK(rig.driver.ctx_synchronize() == Result::success);
      CHECK(rig.driver.stream_destroy(stream) == Result::success);
      CHECK(rig.driver.mem_free_host(seen) == Result::success);
    });
  }
}

TEST_CASE("1-5 1-15 device-async: a block that another stream uses waits for that stream", "[device]") {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    INFO("seed " << seed);
    on_gpu(gpu_test::small(GpuSchedule::adversarial, seed), [](Rig& rig, Gpu& gpu) {
      const cuda::Stream own = rig.stream(), other = rig.stream();
      const cuda::Event made = rig.event();
      std::uint32_t* seen = rig.pinned(8);
      {
        AsyncPool<HeapEngine> pool;
        REQUIRE(pool.open(with(gpu, kAsync), {&gpu, own, 0}, {.unit_bytes = kMiB}).ok());
        for (std::uint32_t i = 0; i < 8; ++i) {
          std::uint64_t address = 0;
          REQUIRE(pool.allocate(kGranule, 0, &address).ok());
          REQUIRE(rig.driver.event_record(made, own) == Result::success);
          REQUIRE(rig.driver.stream_wait_event(other, made, 0) == Result::success);
          REQUIRE(rig.store_word(address, i + 1, other) == Result::success);
          REQUIRE(rig.driver.memcpy_d2h_async(seen + i, address, 4, other) == Result::success);
          REQUIRE(pool.free_after(other, {&address, 1}).ok());
          CHECK(pool.free(address).status == Status::double_free);
          static_cast<void>(pool.trim(0));
        }
      }
      REQUIRE(rig.driver.ctx_synchronize() == Result::success);
      for (std::uint32_t i = 0; i < 8; ++i) CHECK(seen[i] == i + 1);
      CHECK(rig.driver.event_destroy(made) == Result::success);
      CHECK(rig.driver.mem_free_host(seen) == Result::success);
      CHECK(rig.driver.stream_destroy(own) == Result::success);
      CHECK(rig.driver.stream_destroy(other) == Result::success);
    });
  }
}

TEST_CASE("S11 device-async: wrong options, sizes and frees are refused and change nothing", "[device]") {
  EmulatedGpu::Options without = gpu_test::small();
  without.has_memory_pools = false;
  on_gpu(without, [](Rig&, Gpu& gpu) {
    AsyncPool<HeapEngine> pool;
    CHECK(pool.open(kAsync, {&gpu, nullptr, 0}, {}).status == Status::unsupported);
    CHECK_FALSE(pool.is_open());
  });
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    AsyncPool<HeapEngine> pool;
    const auto of_threads = reinterpret_cast<cuda::Stream>(cuda::kStreamPerThread);
    CHECK(pool.open(kAsync, {nullptr, nullptr, 0}, {}).status == Status::bad_argument);
    CHECK(pool.open(kAsync, {&gpu, of_threads, 0}, {}).status == Status::bad_argument);
    PoolOptions odd = kAsync;
    odd.chunk_bytes = 1000 * 100;
    CHECK(pool.open(odd, {&gpu, nullptr, 0}, {.unit_bytes = 4}).status == Status::bad_argument);
    AsyncPool<FixedEngine> fixed;
    const FixedEngine::Options too_aligned = {.block_bytes = kKiB, .align_bytes = kKiB};
    CHECK(fixed.open(kAsync, {&gpu, nullptr, 0}, too_aligned).status == Status::bad_argument);
    AsyncPool<RingEngine> ring;
    const RingEngine::Options aligned_ring = {.blocks_max = 8, .align_bytes = kKiB};
    CHECK(ring.open(kAsync, {&gpu, nullptr, 0}, aligned_ring).status == Status::bad_argument);
    CHECK(rig.emulated->usage().pools == 0);

    REQUIRE(pool.open(kAsync, {&gpu, nullptr, 0}, {}).ok());
    std::uint64_t address = 0;
    CHECK(pool.free(4096).status == Status::not_owned);
    CHECK(pool.allocate(0, 0, &address).status == Status::bad_argument);
    CHECK(pool.allocate(4096, 1024, &address).status == Status::bad_argument);  // the driver promises 512
    CHECK(pool.allocate(9 * kGranule, 0, &address).status == Status::over_budget);
    REQUIRE(pool.allocate(4096, 512, &address).ok());
    CHECK(address % 512 == 0);
    CHECK(pool.free(address + 256).status == Status::not_owned);
    CHECK(pool.free(address - 256).status == Status::not_owned);
    CHECK(pool.free(address + kGranule).status == Status::not_owned);
    CHECK(pool.size_of(address + kGranule) == 0);
    CHECK(pool.free(0).status == Status::not_owned);
    CHECK(pool.free(UINT64_MAX).status == Status::not_owned);
    CHECK(pool.free(address).ok());
    CHECK(pool.free(address).status == Status::double_free);
    CHECK(pool.close().ok());
    CHECK(rig.emulated->usage().undefined_calls == 0);
  });
}

TEST_CASE("X3 X6 device-async: while the stream is captured, what the pool has serves", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    AsyncPool<HeapEngine> pool;
    std::uint64_t address = 0, other = 0;
    REQUIRE(pool.open(kAsync, {&gpu, nullptr, 0}, {}).ok());
    REQUIRE(pool.allocate(4096, 0, &address).ok());
    REQUIRE(pool.free(address).ok());
    // More would belong to the graph.
    rig.emulated->set_capture_status(nullptr, cuda::CaptureStatus::active);
    CHECK(pool.allocate(4096, 0, &address).ok());
    CHECK(pool.allocate(2 * kGranule, 0, &other).status == Status::unsupported);
    CHECK(pool.free(address).ok());
    CHECK(pool.trim(0) == 0);
    rig.emulated->set_capture_status(nullptr, cuda::CaptureStatus::none);
    CHECK(pool.trim(0) == kGranule);
    CHECK(pool.free(address).status == Status::not_owned);
    CHECK(pool.close().ok());

    AsyncPool<HeapEngine> cleared;
    PoolOptions clearing = kAsync;
    clearing.is_cleared = true;
    REQUIRE(cleared.open(clearing, {&gpu, nullptr, 0}, {}).ok());
    REQUIRE(cleared.allocate(4096, 0, &address).ok());
    rig.emulated->set_capture_status(nullptr, cuda::CaptureStatus::active);
    CHECK(cleared.free(address).status == Status::unsupported);
    rig.emulated->set_capture_status(nullptr, cuda::CaptureStatus::none);
    CHECK(cleared.free(address).ok());
    CHECK(cleared.close().ok());
    CHECK(rig.emulated->usage().undefined_calls == 0);
  });
}

}  // namespace
}  // namespace device_test
