// Staging rings when the driver refuses or the device is lost: what arrives is right, and no memory is used
// again that the device may still read.
#include <optional>

#include "tests/device_staging_rig.h"

namespace device_test {
namespace {

using glebe::paging::Budget;
using glebe::paging::BudgetAction;
using glebe::paging::BudgetResult;

TEST_CASE("2-16 X6 uploads through a driver that fails now and then arrive", "[device]") {
  using cuda::Call;
  for (const Call call :
       {Call::event_create, Call::event_record, Call::event_query, Call::event_synchronize}) {
    bool is_reached = true;
    for (std::uint64_t nth = 1; nth <= 100 && is_reached; ++nth) {
      on_failing_gpu(gpu_test::small(GpuSchedule::adversarial, nth),
                     [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
                       Random random(nth);
                       const std::vector<std::uint8_t> wanted = noise(random, 24 * kKiB);
                       failing.fail({call, nth, 1, cuda::Result::unknown});
                       Staged staged(rig, gpu, small_ring(4 * kKiB, StagingPolicy::split));
                       for (std::size_t at = 0; at < wanted.size(); at += 1024) {
                         Outcome outcome = staged.upload(staged.memory + at, wanted.data() + at, 1024);
                         for (int tries = 0; !outcome.ok() && tries < 5; ++tries) {
                           CHECK(outcome.driver == cuda::Result::unknown);
                           outcome = staged.upload(staged.memory + at, wanted.data() + at, 1024);
                         }
                         REQUIRE(outcome.ok());
                         if (at % 5120 == 0) static_cast<void>(staged.ring.wait(staged.fences.recorded()));
                       }
                       CHECK_FALSE(gpu.is_lost());
                       CHECK((staged.read(wanted.size()) == wanted));
                       is_reached = failing.failures(call) > 0;
                     });
    }
  }
}

TEST_CASE("X6 a fence that cannot be recorded is a wait for the stream, or there is none", "[device]") {
  using cuda::Call;
  on_failing_gpu(gpu_test::small(GpuSchedule::adversarial), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    Staged staged(rig, gpu, small_ring(4 * kKiB));
    const std::vector<std::uint8_t> bytes(1024, 0x77);
    const cuda::Stream other = rig.stream();
    StagingBlock block;
    REQUIRE(staged.ring.take(1024, &block).ok());
    std::memcpy(block.data, bytes.data(), bytes.size());
    REQUIRE(rig.driver.memcpy_h2d_async(staged.memory, block.data, 1024, other) == cuda::Result::success);
    failing.fail({Call::event_record, 1, 2, cuda::Result::unknown});
    failing.fail({Call::stream_synchronize, 1, 1, cuda::Result::unknown});
    Fence fence = 0;
    CHECK(staged.ring.submit({&block, 1}, other, &fence).driver == cuda::Result::unknown);
    CHECK(staged.ring.stats().live_bytes == 1024);
    CHECK(staged.ring.stats().bytes_in_flight == 0);
    REQUIRE(staged.ring.submit({&block, 1}, other, &fence).ok());
    CHECK((staged.read(1024) == bytes));  // it was waited for
    // The fence knows no stream: this one may go.
    CHECK(rig.driver.stream_destroy(other) == cuda::Result::success);
    REQUIRE(staged.ring.poll().ok());
    CHECK(staged.fences.is_reached(fence));
    CHECK(staged.ring.stats().live_bytes == 0);
    CHECK(staged.events.idle() == staged.events.created());
  });
}

TEST_CASE("X6 errors are no proof that a device is done: neither the block nor the slab is used again",
          "[device]") {
  using cuda::Call;
  EmulatedGpu emulated;
  REQUIRE(emulated.open(gpu_test::small(GpuSchedule::adversarial)));
  FailingDriver failing(emulated.driver());
  REQUIRE(failing.driver().init(0) == cuda::Result::success);
  Gpu gpu;
  REQUIRE(gpu.open(failing.driver()).ok());
  Budget budget;
  REQUIRE(budget.open("host visible", kMiB, BudgetAction::enforce, {}) == BudgetResult::ok);
  EventPool events;
  REQUIRE(events.open(gpu).ok());
  FenceQueue fences;
  fences.open(gpu, events);
  StagingRing ring;
  StagingOptions options = small_ring(4 * kKiB, StagingPolicy::fail);
  options.budget = &budget;
  REQUIRE(ring.open(gpu, fences, options).ok());
  const CurrentContext current(gpu);
  cuda::DevicePointer memory = 0;
  cuda::Stream stream = nullptr;
  REQUIRE(failing.driver().mem_alloc(&memory, kGranule) == cuda::Result::success);
  REQUIRE(failing.driver().stream_create(&stream, cuda::kStreamNonBlocking) == cuda::Result::success);
  StagingBlock block, second;
  REQUIRE(ring.take(4 * kKiB, &block).ok());
  std::memset(block.data, 0x42, block.size_bytes);
  REQUIRE(failing.driver().memcpy_h2d_async(memory, block.data, 4 * kKiB, stream) == cuda::Result::success);
  Fence fence = 0;
  REQUIRE(ring.submit({&block, 1}, stream, &fence).ok());
  for (const Call call : {Call::event_query, Call::event_synchronize, Call::stream_synchronize}) {
    failing.fail({call, 1, ~std::uint64_t{0} / 2, cuda::Result::unknown});
  }
  for (int i = 0; i < 200; ++i) {
    CHECK(ring.poll().driver == cuda::Result::unknown);
    CHECK(ring.wait(fence).driver == cuda::Result::unknown);
    CHECK(ring.take(1, &second).driver == cuda::Result::unknown);
  }
  CHECK_FALSE(gpu.is_lost());
  CHECK_FALSE(fences.is_reached(fence));
  CHECK(ring.stats().live_bytes == 4 * kKiB);
  ring.close();
  CHECK(budget.used_bytes() == 4 * kKiB);
  CHECK(emulated.usage().host_bytes == 4 * kKiB);
  fences.close();
  CHECK(events.idle() == events.created());
  events.close();
  gpu.close();
}

// A ring of which a block is with the device and has no fence, and whose owner leaves it there.
struct Unfenced {
  Unfenced() {
    REQUIRE(emulated.open(gpu_test::small(GpuSchedule::adversarial)));
    cuda::Driver table = emulated.driver();
    inner = table;
    table.mem_free_host = {this, [](void* self, void* address) {
                             auto& seen = *static_cast<Unfenced*>(self);
                             ++seen.frees;
                             seen.waiting_at_free += seen.emulated.usage().waiting_operations;
                             return seen.inner.mem_free_host(address);
                           }};
    failing.emplace(table);
    REQUIRE(failing->driver().init(0) == cuda::Result::success);
    REQUIRE(gpu.open(failing->driver()).ok());
    REQUIRE(budget.open("host visible", kMiB, BudgetAction::enforce, {}) == BudgetResult::ok);
    REQUIRE(events.open(gpu).ok());
    fences.open(gpu, events);
    StagingOptions options = small_ring(4 * kKiB);
    options.budget = &budget;
    REQUIRE(ring.open(gpu, fences, options).ok());
    const CurrentContext current(gpu);
    cuda::DevicePointer memory = 0;
    cuda::Stream stream = nullptr;
    REQUIRE(inner.mem_alloc(&memory, kGranule) == cuda::Result::success);
    REQUIRE(inner.stream_create(&stream, cuda::kStreamNonBlocking) == cuda::Result::success);
    StagingBlock block;
    REQUIRE(ring.take(kKiB, &block).ok());
    std::memset(block.data, 0x42, block.size_bytes);
    REQUIRE(inner.memcpy_h2d_async(memory, block.data, kKiB, stream) == cuda::Result::success);
    failing->fail({cuda::Call::event_record, 1, 1, cuda::Result::unknown});
    failing->fail({cuda::Call::stream_synchronize, 1, 1, cuda::Result::unknown});
    Fence fence = 0;
    CHECK(ring.submit({&block, 1}, stream, &fence).driver == cuda::Result::unknown);
    CHECK(fences.is_reached(fences.recorded()));
    CHECK(emulated.usage().waiting_operations != 0);
    ring.abandon();
  }
  ~Unfenced() {
    ring.close();
    fences.close();
    events.close();
    gpu.close();
  }
  Unfenced(const Unfenced&) = delete;
  Unfenced& operator=(const Unfenced&) = delete;

  EmulatedGpu emulated;
  cuda::Driver inner;
  std::optional<FailingDriver> failing;
  Gpu gpu;
  Budget budget;
  EventPool events;
  FenceQueue fences;
  StagingRing ring;
  std::uint64_t frees = 0, waiting_at_free = 0;
};

TEST_CASE("X6 a staging slab goes when the device has let go of it, with or without a fence", "[device]") {
  Unfenced parts;
  parts.ring.close();
  CHECK(parts.frees == 1);
  CHECK(parts.waiting_at_free == 0);
  CHECK(parts.budget.used_bytes() == 0);
  CHECK(parts.emulated.usage().host_bytes == 0);
}

TEST_CASE("X6 a staging slab stays, and in its budget, where nobody can tell or it is not taken back",
          "[device]") {
  using cuda::Call;
  for (const Call call : {Call::ctx_synchronize, Call::mem_free_host}) {
    for (const cuda::Result answer : {cuda::Result::unknown, cuda::Result::illegal_address}) {
      INFO(cuda::symbol_of(call) << " answers " << static_cast<int>(answer));
      Unfenced parts;
      parts.failing->fail({call, 1, ~std::uint64_t{0} / 2, answer});
      parts.ring.close();
      CHECK(parts.gpu.is_lost() == (answer == cuda::Result::illegal_address));
      CHECK(parts.frees == 0);  // that reached the driver
      CHECK(parts.emulated.usage().host_bytes == 4 * kKiB);
      CHECK(parts.budget.used_bytes() == 4 * kKiB);
    }
  }
}

TEST_CASE("X3 X6 a stream that is being captured makes no fence", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    Staged staged(rig, gpu, small_ring(4 * kKiB));
    StagingBlock block;
    REQUIRE(staged.ring.take(kKiB, &block).ok());
    rig.emulated->set_capture_status(staged.stream, cuda::CaptureStatus::active);
    const std::uint64_t records = failing.calls(cuda::Call::event_record);
    Fence fence = 0;
    CHECK(staged.ring.submit({&block, 1}, staged.stream, &fence).status == Status::unsupported);
    CHECK(failing.calls(cuda::Call::event_record) == records);
    CHECK(staged.fences.recorded() == 0);
    CHECK(staged.ring.stats().live_bytes == kKiB);  // it is still the taker's
    rig.emulated->set_capture_status(staged.stream, cuda::CaptureStatus::none);
    REQUIRE(staged.ring.submit({&block, 1}, staged.stream, &fence).ok());
    REQUIRE(staged.ring.wait(fence).ok());
    CHECK(staged.ring.stats().live_bytes == 0);
    CHECK(staged.events.idle() == staged.events.created());
  });
}

TEST_CASE("X6 a lost device holds no staging block", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    Staged staged(rig, gpu, small_ring(4 * kKiB));
    const std::vector<std::uint8_t> bytes(1024, 1);
    for (int i = 0; i < 4; ++i) REQUIRE(staged.upload(staged.memory, bytes.data(), bytes.size()).ok());
    failing.fail({cuda::Call::event_query, 1, 1, cuda::Result::illegal_address});
    CHECK(staged.ring.poll().status == Status::device_lost);
    CHECK(gpu.is_lost());
    CHECK(staged.ring.stats().live_bytes == 0);
    CHECK(staged.fences.in_flight() == 0);
  });
}

}  // namespace
}  // namespace device_test
