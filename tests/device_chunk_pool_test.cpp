// Physical memory in chunks: what is given back is used again, budgets are exact, and a call that fails
// leaves everything as it was.
#include "src/device/chunk_pool.h"

#include "platform/cuda/failing.h"
#include "src/device/driver_source.h"
#include "src/device/event_pool.h"
#include "tests/device_rig.h"

namespace device_test {
namespace {

using glebe::paging::Budget;
using glebe::paging::BudgetAction;
using glebe::paging::BudgetResult;

ChunkPoolOptions fine(Budget* budget = nullptr) {
  ChunkPoolOptions options;
  options.chunk_bytes = kGranule;
  options.budget = budget;
  return options;
}

TEST_CASE("X1 a GPU tells what it is and puts the program's context back", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    CHECK(gpu.facts().total_bytes == 32 * kMiB);
    CHECK(gpu.facts().granule_bytes == kGranule);
    CHECK(gpu.facts().host_granule_bytes == kGranule);
    CHECK(gpu.facts().driver_version >= cuda::kOldestVersion);
    CHECK(std::string(gpu.facts().name) != "");
    REQUIRE(rig.driver.ctx_set_current(nullptr) == cuda::Result::success);
    CHECK(gpu.free_bytes() == 32 * kMiB);
    cuda::Context now = rig.context;
    REQUIRE(rig.driver.ctx_get_current(&now) == cuda::Result::success);
    CHECK(now == nullptr);
    REQUIRE(rig.driver.ctx_set_current(rig.context) == cuda::Result::success);
    Gpu other;
    CHECK(other.open(rig.driver, 7).status == Status::bad_argument);
    CHECK_FALSE(other.is_open());
  });
}

TEST_CASE("X6 a GPU whose context is gone is lost", "[device]") {
  on_gpu(gpu_test::small(), [](Rig&, Gpu& gpu) {
    CHECK(gpu.check(cuda::Result::out_of_memory).status == Status::out_of_memory);
    // 701: a launch asked for too many resources and did not happen.
    for (const int number : {1, 201, 400, 600, 701, 800, 801, 900, 907, 999}) {
      CHECK(gpu.check(static_cast<cuda::Result>(number)).status != Status::device_lost);
    }
    CHECK_FALSE(gpu.is_lost());
    CHECK(gpu.check(cuda::Result::illegal_address).status == Status::device_lost);
    CHECK(gpu.is_lost());
  });
}

TEST_CASE("X6 every error that the context does not survive is known", "[device]") {
  for (const int number : {4, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721}) {
    on_gpu(gpu_test::small(), [number](Rig&, Gpu& gpu) {
      CHECK(gpu.check(static_cast<cuda::Result>(number)).status == Status::device_lost);
      CHECK(gpu.is_lost());
    });
  }
}

TEST_CASE("X3 a call of ours does not spoil what the program captures", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    const cuda::Stream in = rig.stream();
    rig.emulated->set_capture_status(in, cuda::CaptureStatus::active);
    const BlockSource source = driver_source(gpu);
    cuda::DevicePointer address = 0;
    REQUIRE(source.allocate(source.self, 1000, 0, &address).ok());
    CHECK(source.free(source.self, address).ok());
    cuda::CaptureStatus status = cuda::CaptureStatus::none;
    REQUIRE(rig.driver.stream_is_capturing(in, &status) == cuda::Result::success);
    CHECK(status == cuda::CaptureStatus::active);
    // The thread's own mode is back: its calls do.
    CHECK(rig.driver.mem_alloc(&address, 1000) == cuda::Result::stream_capture_unsupported);
    REQUIRE(rig.driver.stream_is_capturing(in, &status) == cuda::Result::success);
    CHECK(status == cuda::CaptureStatus::invalidated);
    CHECK(rig.driver.mem_alloc(&address, 1000) == cuda::Result::success);
    CHECK(rig.driver.mem_free(address) == cuda::Result::success);
    CHECK(rig.driver.stream_destroy(in) == cuda::Result::success);
  });
}

TEST_CASE("X3 X6 a thread has its own context and capture mode back, whichever call failed", "[device]") {
  using cuda::Call;
  for (const Call call : {Call::ctx_get_current, Call::ctx_set_current, Call::thread_exchange_capture_mode}) {
    for (const bool has_context : {false, true}) {
      INFO(cuda::symbol_of(call) << ", has context " << has_context);
      on_failing_gpu(gpu_test::small(), [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
        cuda::CaptureMode mode = cuda::CaptureMode::thread_local_only;
        REQUIRE(rig.driver.thread_exchange_capture_mode(&mode) == cuda::Result::success);
        const cuda::Context other = has_context ? rig.context : nullptr;
        REQUIRE(rig.driver.ctx_set_current(other) == cuda::Result::success);
        failing.fail({call, 1, 1, cuda::Result::unknown});
        { const CurrentContext current(gpu); }
        failing.stop_failing();
        cuda::Context now = nullptr;
        REQUIRE(rig.driver.ctx_get_current(&now) == cuda::Result::success);
        CHECK(now == other);
        REQUIRE(rig.driver.ctx_set_current(rig.context) == cuda::Result::success);
        REQUIRE(rig.driver.thread_exchange_capture_mode(&mode) == cuda::Result::success);
        CHECK(mode == cuda::CaptureMode::thread_local_only);
      });
    }
  }
}

TEST_CASE("1-6 chunks are created once and used again", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ChunkPool pool;
    REQUIRE(pool.open(gpu, fine()).ok());
    cuda::MemoryHandle taken[4];
    for (int round = 0; round < 100; ++round) {
      for (cuda::MemoryHandle& handle : taken) REQUIRE(pool.take(&handle).ok());
      for (const cuda::MemoryHandle handle : taken) pool.give(handle);
    }
    const ChunkPoolStats stats = pool.stats();
    CHECK(stats.created == 4);
    CHECK(stats.reused == 396);
    CHECK(stats.chunks == 4);
    CHECK(stats.idle_chunks == 4);
    CHECK(rig.emulated->usage().total_creates == 4);
    CHECK(pool.trim(kGranule) == 3 * kGranule);
    CHECK(rig.emulated->usage().device_bytes == kGranule);
    CHECK(pool.prewarm(3 * kGranule).ok());
    CHECK(pool.stats().idle_chunks == 3);
    REQUIRE(pool.take(&taken[0]).ok());
    pool.discard(taken[0]);
    CHECK(pool.stats().chunks == 2);
  });
}

TEST_CASE("P3 chunks stop at the cap, at the budget and at the device's end, and go on after", "[device]") {
  on_gpu(gpu_test::small(), [](Rig&, Gpu& gpu) {
    Budget budget;
    REQUIRE(budget.open("device", 4 * kGranule, BudgetAction::enforce, {}) == BudgetResult::ok);
    ChunkPool pool, other;
    ChunkPoolOptions options = fine(&budget);
    options.chunks_max = 3;
    REQUIRE(pool.open(gpu, options).ok());
    REQUIRE(other.open(gpu, fine(&budget)).ok());
    cuda::MemoryHandle taken[3], more;
    for (cuda::MemoryHandle& handle : taken) REQUIRE(pool.take(&handle).ok());
    CHECK(pool.take(&more).status == Status::over_budget);  // the cap of the pool
    REQUIRE(other.take(&more).ok());
    cuda::MemoryHandle refused;
    CHECK(other.take(&refused).status == Status::over_budget);  // the budget of both
    CHECK(budget.used_bytes() == 4 * kGranule);
    pool.give(taken[0]);
    CHECK(pool.trim(0) == kGranule);
    REQUIRE(other.take(&refused).ok());
    other.give(refused);
    other.give(more);
    pool.give(taken[1]);
    pool.give(taken[2]);
    CHECK(pool.stats().refused == 1);
    pool.close();
    other.close();
    CHECK(budget.used_bytes() == 0);

    ChunkPool all;
    REQUIRE(all.open(gpu, fine()).ok());
    std::vector<cuda::MemoryHandle> handles(16);
    for (cuda::MemoryHandle& handle : handles) REQUIRE(all.take(&handle).ok());
    const Outcome full = all.take(&refused);
    CHECK(full.status == Status::out_of_memory);
    CHECK(full.driver == cuda::Result::out_of_memory);
    CHECK(all.stats().chunks == 16);
    for (const cuda::MemoryHandle handle : handles) all.give(handle);
    REQUIRE(all.take(&refused).ok());
    all.give(refused);
  });
}

TEST_CASE("X6 a chunk that cannot be created is not counted", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig&, Gpu& gpu, FailingDriver& failing) {
    Budget budget;
    REQUIRE(budget.open("device", kGiB, BudgetAction::enforce, {}) == BudgetResult::ok);
    ChunkPool pool;
    REQUIRE(pool.open(gpu, fine(&budget)).ok());
    failing.fail({cuda::Call::mem_create, 2, 1, cuda::Result::out_of_memory});
    cuda::MemoryHandle first, second;
    REQUIRE(pool.take(&first).ok());
    CHECK(pool.take(&second).status == Status::out_of_memory);
    CHECK(pool.stats().chunks == 1);
    CHECK(budget.used_bytes() == kGranule);
    CHECK(pool.take(&second).ok());
    pool.give(first);
    pool.give(second);
  });
}

TEST_CASE("1-4 bad options of a pool of chunks are refused", "[device]") {
  EmulatedGpu::Options no_host = gpu_test::small();
  no_host.has_host_numa = false;
  on_gpu(no_host, [](Rig&, Gpu& gpu) {
    ChunkPool pool;
    ChunkPoolOptions options = fine();
    options.chunk_bytes = 0;
    CHECK(pool.open(gpu, options).status == Status::bad_argument);
    options.chunk_bytes = kGranule + 4096;
    CHECK(pool.open(gpu, options).status == Status::bad_argument);
    options = fine();
    options.chunks_max = UINT64_MAX / 4;
    CHECK(pool.open(gpu, options).status == Status::bad_argument);
    options = fine();
    options.location = cuda::LocationType::host_numa;
    CHECK(pool.open(gpu, options).status == Status::unsupported);
  });
}

TEST_CASE("1-4 the driver as a source of blocks", "[device]") {
  on_gpu(gpu_test::small(), [](Rig&, Gpu& gpu) {
    const BlockSource source = driver_source(gpu);
    cuda::DevicePointer address = 0;
    REQUIRE(source.allocate(source.self, 1000, 0, &address).ok());
    CHECK(address % kDeviceAlignBytes == 0);
    CHECK(source.allocate(source.self, 0, 0, &address).status == Status::bad_argument);
    CHECK(source.allocate(source.self, 64, 3, &address).status == Status::bad_argument);
    CHECK(source.allocate(source.self, 64, 4096, &address).status == Status::bad_argument);
    CHECK(source.free(source.self, address).ok());
    CHECK(source.free(source.self, address).status == Status::not_owned);
  });
}

TEST_CASE("1-15 events are created once and used again", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    EventPool pool;
    REQUIRE(pool.open(gpu).ok());
    cuda::Event first, second;
    for (int round = 0; round < 100; ++round) {
      REQUIRE(pool.take(&first).ok());
      REQUIRE(pool.take(&second).ok());
      CHECK(first != second);
      pool.give(first);
      pool.give(second);
    }
    CHECK(pool.created() == 2);
    CHECK(rig.emulated->usage().events == 2);
    REQUIRE(pool.take(&first).ok());
    REQUIRE(pool.take(&second).ok());
    failing.fail({cuda::Call::event_create, 1, 1, cuda::Result::out_of_memory});
    cuda::Event third;
    CHECK(pool.take(&third).status == Status::out_of_memory);
    CHECK(pool.created() == 2);
    pool.give(first);
    pool.give(second);
    CHECK(pool.idle() == 2);
  });
}

}  // namespace
}  // namespace device_test
