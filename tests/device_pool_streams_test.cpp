// Frees that wait for a stream. What would break: a block that a stream still uses is handed out or given
// back, one slow stream keeps the memory of all, a block is freed twice.
#include "tests/device_pool_rig.h"

namespace device_test {
namespace {

TEST_CASE("1-15 P15 R11 blocks are freed after a stream, with few events", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::adversarial, 3), [](Rig& rig, Gpu& gpu) {
    ChunkPool chunks;
    REQUIRE(chunks.open(gpu, handles()).ok());
    MemoryPool<DeviceSource, RingEngine> pool;
    REQUIRE(pool.open(with(gpu), {&chunks}, {.blocks_max = 64}).ok());
    const cuda::Stream stream = rig.stream();
    std::uint64_t address = 0;
    for (unsigned i = 0; i < 1000; ++i) {
      REQUIRE(pool.allocate(64 * kKiB, 0, &address).ok());
      REQUIRE(rig.driver.memset_d32_async(address, i, 16 * kKiB, stream) == cuda::Result::success);
      REQUIRE(pool.free_after(stream, {&address, 1}).ok());
      if (pool.stats().waiting_blocks >= 30) REQUIRE(pool.retire().ok());
      while (pool.stats().waiting_blocks >= 30) {
        static_cast<void>(rig.emulated->run(8));
        REQUIRE(pool.retire().ok());
      }
    }
    CHECK(rig.emulated->usage().events <= 30);
    CHECK(pool.stats().chunk_bytes <= 2 * kGranule);
    CHECK(pool.synchronize().ok());
    CHECK(pool.stats().waiting_blocks == 0);
    CHECK(pool.stats().live_blocks == 0);
    CHECK(pool.stats().freed == 1000);
    CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);

    MemoryPool<DeviceSource, HeapEngine> cleared;
    PoolOptions options = with(gpu);
    options.is_cleared = true;
    REQUIRE(cleared.open(options, {&chunks}, {}).ok());
    REQUIRE(cleared.allocate(4096, 0, &address).ok());
    REQUIRE(rig.store_word(address + 4092, 9, nullptr) == cuda::Result::success);
    REQUIRE(rig.driver.ctx_synchronize() == cuda::Result::success);
    CHECK(cleared.free_after(nullptr, {&address, 1}).status == Status::unsupported);
    CHECK(cleared.free(address).ok());
    CHECK(rig.read_word(address + 4092) == 0);
  });
}

TEST_CASE("X3 mut-B08 a slow stream keeps its own blocks and nobody else's", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::threaded), [](Rig& rig, Gpu& gpu) {
    ChunkPool chunks;
    REQUIRE(chunks.open(gpu, handles()).ok());
    DevicePool pool;
    REQUIRE(pool.open(with(gpu), {&chunks}, {}).ok());
    const cuda::Stream slow = rig.stream(), quick = rig.stream();
    Gate gate(rig, slow);
    std::uint64_t held[2], free_soon[3];
    for (std::uint64_t& block : held) REQUIRE(pool.allocate(kMiB, 0, &block).ok());
    for (std::uint64_t& block : free_soon) REQUIRE(pool.allocate(kMiB, 0, &block).ok());
    REQUIRE(pool.free_after(slow, held).ok());
    REQUIRE(pool.free_after(quick, free_soon).ok());
    CHECK(pool.stats().waiting_blocks == 5);
    REQUIRE(rig.driver.stream_synchronize(quick) == cuda::Result::success);
    CHECK(pool.retire().ok());
    CHECK(pool.stats().waiting_blocks == 2);
    CHECK(pool.stats().live_blocks == 2);
    // A request that finds no room looks by itself.
    std::uint64_t address = 0;
    REQUIRE(pool.set_max(2 * kGranule).ok());
    CHECK(pool.trim(0) == 2 * kGranule);  // the held blocks share a chunk
    for (int i = 0; i < 2; ++i) REQUIRE(pool.allocate(kMiB, 0, &address).ok());
    CHECK(pool.allocate(kMiB, 0, &address).status == Status::over_budget);
    gate.open();
    REQUIRE(rig.driver.stream_synchronize(slow) == cuda::Result::success);
    CHECK(pool.allocate(kMiB, 0, &address).ok());
    CHECK(pool.stats().waiting_blocks == 0);
    CHECK(pool.close().ok());
    CHECK(rig.driver.stream_destroy(slow) == cuda::Result::success);
    CHECK(rig.driver.stream_destroy(quick) == cuda::Result::success);
  });
}

TEST_CASE("B13 T8 mut-B09 closing a pool waits for the streams that use its memory", "[device]") {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    INFO("seed " << seed);
    on_gpu(gpu_test::small(GpuSchedule::adversarial, seed), [](Rig& rig, Gpu& gpu) {
      ChunkPool chunks;
      REQUIRE(chunks.open(gpu, handles()).ok());
      const cuda::Stream stream = rig.stream(), other = rig.stream();
      std::uint32_t* seen = rig.pinned(2);
      {
        DevicePool pool;
        REQUIRE(pool.open(with(gpu), {&chunks}, {}).ok());
        std::uint64_t one = 0, two = 0;
        REQUIRE(pool.allocate(4096, 0, &one).ok());
        REQUIRE(pool.allocate(4096, 0, &two).ok());
        REQUIRE(rig.store_word(one, 7, stream) == cuda::Result::success);
        REQUIRE(rig.driver.memcpy_d2h_async(seen, one, 4, stream) == cuda::Result::success);
        REQUIRE(rig.store_word(two, 8, other) == cuda::Result::success);
        REQUIRE(rig.driver.memcpy_d2h_async(seen + 1, two, 4, other) == cuda::Result::success);
        REQUIRE(pool.free_after(stream, {&one, 1}).ok());
        REQUIRE(pool.free_after(other, {&two, 1}).ok());
      }
      CHECK(seen[0] == 7);
      CHECK(seen[1] == 8);
      CHECK(rig.driver.ctx_synchronize() == cuda::Result::success);
      CHECK(rig.driver.mem_free_host(seen) == cuda::Result::success);
      CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
      CHECK(rig.driver.stream_destroy(other) == cuda::Result::success);
    });
  }
}

TEST_CASE("X3 X6 a pool frees nothing after a stream that is being captured", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ChunkPool chunks;
    REQUIRE(chunks.open(gpu, handles()).ok());
    DevicePool pool;
    REQUIRE(pool.open(with(gpu), {&chunks}, {}).ok());
    const cuda::Stream stream = rig.stream();
    std::uint64_t address = 0;
    REQUIRE(pool.allocate(4096, 0, &address).ok());
    rig.emulated->set_capture_status(stream, cuda::CaptureStatus::active);
    CHECK(pool.free_after(stream, {&address, 1}).status == Status::unsupported);
    cuda::CaptureStatus status = cuda::CaptureStatus::none;
    REQUIRE(rig.driver.stream_is_capturing(stream, &status) == cuda::Result::success);
    CHECK(status == cuda::CaptureStatus::active);
    rig.emulated->set_capture_status(stream, cuda::CaptureStatus::none);
    CHECK(pool.stats().waiting_blocks == 0);
    CHECK(pool.free_after(stream, {&address, 1}).ok());
    CHECK(pool.synchronize().ok());
    CHECK(pool.stats().live_blocks == 0);
    CHECK(pool.close().ok());
    CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
  });
}

TEST_CASE("S11 mut-B14 a block that waits for a stream is freed once", "[device]") {
  on_failing_gpu(gpu_test::small(GpuSchedule::adversarial), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    ChunkPool chunks;
    REQUIRE(chunks.open(gpu, handles()).ok());
    DevicePool pool;
    REQUIRE(pool.open(with(gpu), {&chunks}, {}).ok());
    const cuda::Stream stream = rig.stream();
    std::uint64_t blocks[3];
    for (std::uint64_t& block : blocks) REQUIRE(pool.allocate(4096, 0, &block).ok());
    REQUIRE(rig.store_word(blocks[0], 1, stream) == cuda::Result::success);
    REQUIRE(pool.free_after(stream, {blocks, 1}).ok());
    CHECK(pool.free(blocks[0]).status == Status::double_free);
    CHECK(pool.free(blocks[0] + 256).status == Status::not_owned);
    CHECK(pool.free_after(stream, {blocks, 1}).status == Status::double_free);
    // All or none: the second of them waits already, or is named twice, or is nobody's.
    const std::uint64_t with_waiting[] = {blocks[1], blocks[0]};
    const std::uint64_t twice[] = {blocks[1], blocks[2], blocks[1]};
    const std::uint64_t foreign[] = {blocks[1], blocks[2], blocks[2] + 256};
    CHECK(pool.free_after(stream, with_waiting).status == Status::double_free);
    CHECK(pool.free_after(stream, twice).status == Status::double_free);
    CHECK(pool.free_after(stream, foreign).status == Status::not_owned);
    CHECK(pool.free_after(stream, {}).status == Status::bad_argument);
    failing.fail({cuda::Call::event_record, 1, 1, cuda::Result::out_of_memory});
    CHECK(pool.free_after(stream, {blocks + 1, 2}).status == Status::out_of_memory);
    CHECK(pool.stats().waiting_blocks == 1);
    CHECK(pool.free(blocks[1]).ok());
    CHECK(pool.free_after(stream, {blocks + 2, 1}).ok());
    CHECK(pool.synchronize().ok());
    CHECK(pool.stats().live_blocks == 0);
    CHECK_FALSE(pool.free(blocks[2]).ok());
    CHECK(pool.close().ok());
    MemoryPool<HostSource, HeapEngine> without;
    REQUIRE(without.open({.chunk_bytes = 64 * kKiB, .max_bytes = kMiB}, {}, {}).ok());
    REQUIRE(without.allocate(64, 0, blocks).ok());
    CHECK(without.free_after(stream, {blocks, 1}).status == Status::unsupported);
    CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
  });
}

// Each block is filled by its stream with its number and verified there before it is freed. A block that is
// handed out too early is overwritten by another stream.
void run_streams(std::uint64_t seed, GpuSchedule schedule) {
  on_gpu(gpu_test::small(schedule, seed), [seed](Rig& rig, Gpu& gpu) {
    constexpr unsigned kSteps = 200;
    Random random(seed);
    ChunkPool chunks;
    REQUIRE(chunks.open(gpu, handles()).ok());
    DevicePool pool;
    PoolOptions options = with(gpu);
    options.max_bytes = kGranule;
    REQUIRE(pool.open(options, {&chunks}, {.unit_bytes = 64 * kKiB}).ok());
    const cuda::Stream streams[] = {rig.stream(), rig.stream(), rig.stream()};
    std::uint32_t* seen = rig.pinned(kSteps);
    unsigned placed = 0;
    std::vector<unsigned> steps;
    for (unsigned step = 1; step < kSteps; ++step) {
      std::uint64_t address = 0;
      const std::uint64_t size_bytes = (1 + random.below(8)) * 64 * kKiB;
      if (!pool.allocate(size_bytes, 0, &address).ok()) {
        if (rig.is_concurrent) {
          CHECK(rig.driver.stream_synchronize(streams[random.below(3)]) == cuda::Result::success);
        }
        static_cast<void>(rig.emulated->run(1));
        continue;
      }
      ++placed;
      steps.push_back(step);
      const cuda::Stream stream = streams[random.below(3)];
      REQUIRE(rig.driver.memset_d32_async(address, step, size_bytes / 4, stream) == cuda::Result::success);
      REQUIRE(rig.copy_words(address + size_bytes - 4, address, 1, stream) == cuda::Result::success);
      REQUIRE(rig.driver.memcpy_d2h_async(seen + step, address + size_bytes - 4, 4, stream) ==
              cuda::Result::success);
      REQUIRE(pool.free_after(stream, {&address, 1}).ok());
    }
    CHECK(pool.close().ok());
    unsigned wrong = 0;
    for (const unsigned step : steps) wrong += seen[step] == step ? 0 : 1;
    CHECK(wrong == 0);
    CHECK(placed > 20);
    CHECK(rig.driver.mem_free_host(seen) == cuda::Result::success);
    for (const cuda::Stream stream : streams) {
      CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
    }
  });
}

TEST_CASE("X4 memory that was freed after a stream is handed out when the stream has passed", "[device]") {
  const std::uint64_t seed = test_seed();
  for (std::uint64_t i = 0; i < 20; ++i) {
    INFO("GLEBE_TEST_SEED=" << seed + i);
    run_streams(seed + i, GpuSchedule::adversarial);
  }
  run_streams(seed, GpuSchedule::threaded);
  run_streams(seed, GpuSchedule::eager);
}

}  // namespace
}  // namespace device_test
