// Staging rings: a block is used again only after its fence, whatever the order in which a device works; what
// finds no room waits, answers or is split, and is counted; the slab is in the budget.
#include "src/device/staging.h"

#include <atomic>
#include <numeric>
#include <thread>

#include "tests/device_staging_rig.h"

namespace device_test {
namespace {

using glebe::paging::Budget;
using glebe::paging::BudgetAction;
using glebe::paging::BudgetResult;

TEST_CASE("R1 staging blocks follow one another, aligned, from the start of the slab", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    Staged staged(rig, gpu, small_ring(64 * kKiB));
    StagingBlock first, second, third;
    REQUIRE(staged.ring.take(100, &first).ok());
    REQUIRE(staged.ring.take(256, &second).ok());
    REQUIRE(staged.ring.take(1, &third).ok());
    CHECK(reinterpret_cast<std::uintptr_t>(first.data) % 4096 == 0);
    CHECK(second.data == first.data + 256);
    CHECK(third.data == first.data + 512);
    CHECK(first.size_bytes == 100);
    CHECK(staged.ring.stats().live_bytes == 357);
    CHECK(staged.ring.validate());
    staged.ring.give(second);
    staged.ring.give(first);
    staged.ring.give(third);
    CHECK(staged.ring.stats().live_bytes == 0);
    CHECK(staged.ring.take(0, &first).status == Status::bad_argument);
  });
}

TEST_CASE("R2 mut-C02 a full staging ring moves on to the next or counts a stall", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    StagingOptions options = small_ring(4 * kKiB, StagingPolicy::fail);
    options.rings = 2;
    Staged staged(rig, gpu, options);
    StagingBlock blocks[4], none;
    for (StagingBlock& block : blocks) REQUIRE(staged.ring.take(2 * kKiB, &block).ok());
    CHECK(staged.ring.stats().moves == 1);
    CHECK(staged.ring.stats().stalls == 0);
    CHECK(staged.ring.take(2 * kKiB, &none).status == Status::not_ready);
    CHECK(none.data == nullptr);
    CHECK(staged.ring.stats().stalls == 1);
    CHECK(staged.ring.stats().refused == 1);
    CHECK(staged.ring.stats().taken == 4);
    staged.ring.give(blocks[0]);
    REQUIRE(staged.ring.take(2 * kKiB, &none).ok());
    CHECK(none.data == blocks[0].data);
    staged.ring.give(none);
    for (int i = 1; i < 4; ++i) staged.ring.give(blocks[i]);
  });
}

TEST_CASE("R3 mut-C01 a staging block is not used again before its fence", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  for (const GpuSchedule schedule : {GpuSchedule::adversarial, GpuSchedule::threaded, GpuSchedule::eager}) {
    for (std::uint64_t round = 0; round < 20; ++round) {
      on_gpu(gpu_test::small(schedule, seed + round), [&](Rig& rig, Gpu& gpu) {
        Random random(seed + round);
        Staged staged(rig, gpu, small_ring(16 * kKiB));
        const std::vector<std::uint8_t> wanted = noise(random, 256 * kKiB);
        for (std::size_t at = 0; at < wanted.size();) {
          const std::size_t size = std::min<std::size_t>(1 + random.below(9000), wanted.size() - at);
          REQUIRE(staged.upload(staged.memory + at, wanted.data() + at, size).ok());
          at += size;
        }
        CHECK((staged.read(wanted.size()) == wanted));
        CHECK(staged.ring.validate());
        if (schedule == GpuSchedule::adversarial) CHECK(staged.ring.stats().stalls > 0);
      });
    }
  }
}

TEST_CASE("R4 mut-C03 bytes in flight rise on submit and fall on completion", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::adversarial), [](Rig& rig, Gpu& gpu) {
    Staged staged(rig, gpu, small_ring(64 * kKiB));
    const std::vector<std::uint8_t> bytes(3000, 7);
    for (int round = 0; round < 50; ++round) {
      for (std::uint64_t i = 1; i <= 4; ++i) {
        REQUIRE(staged.upload(staged.memory, bytes.data(), bytes.size()).ok());
        CHECK(staged.ring.stats().bytes_in_flight == 3000 * i);
        CHECK(staged.fences.bytes_in_flight() == 3000 * i);
        CHECK(staged.fences.in_flight() == i);
      }
      const Fence last = staged.fences.recorded();
      REQUIRE(staged.ring.wait(last - 2).ok());
      CHECK(staged.fences.is_reached(last - 2));
      CHECK(staged.ring.stats().bytes_in_flight <= 6000);
      REQUIRE(staged.ring.wait(last).ok());
      CHECK(staged.ring.stats().bytes_in_flight == 0);
      CHECK(staged.fences.bytes_in_flight() == 0);
      CHECK(staged.ring.stats().live_bytes == 0);
    }
  });
}

TEST_CASE("R5 R6 staging blocks given back in any order, a million times, without growth", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  on_gpu(gpu_test::small(), [&](Rig& rig, Gpu& gpu) {
    Staged staged(rig, gpu, small_ring(64 * kKiB));
    Random random(seed);
    const std::uint64_t host_bytes = rig.emulated->usage().host_bytes;
    StagingBlock blocks[32];
    unsigned order[32];
    std::iota(order, order + 32, 0u);
    std::uint64_t failures = 0;
    for (std::size_t i = 0; i < (1 << 20) / 32; ++i) {
      for (StagingBlock& block : blocks) failures += staged.ring.take(1 + i % 1000, &block).ok() ? 0 : 1;
      for (unsigned k = 31; k > 0; --k) std::swap(order[k], order[random.below(k + 1)]);
      for (const unsigned k : order) staged.ring.give(blocks[k]);
    }
    CHECK(failures == 0);
    CHECK(staged.ring.stats().taken == 1 << 20);
    CHECK(staged.ring.stats().live_bytes == 0);
    CHECK(staged.ring.stats().stalls == 0);
    CHECK(staged.ring.validate());
    CHECK(rig.emulated->usage().host_bytes == host_bytes);
  });
}

TEST_CASE("R7 what is larger than a staging ring is refused and takes nothing, or is split", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::adversarial), [](Rig& rig, Gpu& gpu) {
    {
      Staged staged(rig, gpu, small_ring(16 * kKiB));
      StagingBlock block;
      for (int i = 0; i < 100; ++i) {
        CHECK(staged.ring.take(16 * kKiB + 1, &block).status == Status::bad_argument);
      }
      CHECK(staged.ring.stats().live_bytes == 0);
      REQUIRE(staged.ring.take(16 * kKiB, &block).ok());
      staged.ring.give(block);
    }
    Staged staged(rig, gpu, small_ring(64 * kKiB, StagingPolicy::split), 8 * kMiB);
    Random random(1);
    const std::vector<std::uint8_t> wanted = noise(random, 8 * kMiB - 77);
    REQUIRE(staged.upload(staged.memory, wanted.data(), wanted.size()).ok());
    CHECK((staged.read(wanted.size()) == wanted));
    const StagingStats stats = staged.ring.stats();
    CHECK(stats.taken == 512);
    CHECK(stats.splits == 511);
    CHECK(stats.peak_live_bytes <= 64 * kKiB);
    CHECK(stats.peak_live_bytes > 16 * kKiB);  // the next block is filled while others are in flight
  });
}

TEST_CASE("R8 R10 two, three, four and eight staging rings, opened again and again", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::adversarial), [](Rig& rig, Gpu& gpu) {
    Random random(2);
    const std::vector<std::uint8_t> wanted = noise(random, kMiB);
    StagingOptions options = small_ring(8 * kKiB, StagingPolicy::split);
    Staged staged(rig, gpu, options);
    for (const unsigned rings : {1u, 2u, 3u, 4u, 8u, 1u}) {
      options.rings = rings;
      REQUIRE(staged.ring.open(gpu, staged.fences, options).ok());
      CHECK(staged.ring.capacity_bytes() == rings * 8 * kKiB);
      REQUIRE(staged.upload(staged.memory, wanted.data(), wanted.size()).ok());
      CHECK((staged.read(wanted.size()) == wanted));
      CHECK((staged.ring.stats().moves > 0) == (rings > 1));
    }
    staged.ring.close();
    staged.ring.close();
    REQUIRE(staged.ring.open(gpu, staged.fences, options).ok());
  });
}

TEST_CASE("R9 X12 producers and consumers share a staging ring, and stop ends all waiting", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::threaded), [](Rig& rig, Gpu& gpu) {
    Staged staged(rig, gpu, small_ring(4 * kKiB));
    std::atomic<int> taken{0}, cancelled{0};
    std::atomic<bool> is_wrong{false};
    std::vector<std::thread> threads;
    for (int number = 0; number < 4; ++number) {
      threads.emplace_back([&, number] {
        for (int i = 0; i < 2000; ++i) {
          StagingBlock block;
          if (!staged.ring.take(1500, &block).ok()) continue;
          std::memset(block.data, number, block.size_bytes);
          for (std::size_t k = 0; k < block.size_bytes; ++k) {
            if (block.data[k] != std::byte(number)) is_wrong = true;
          }
          ++taken;
          staged.ring.give(block);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    threads.clear();
    CHECK(taken == 8000);
    CHECK_FALSE(is_wrong);

    // Empty: two threads wait, and end when the ring is stopped.
    StagingBlock held;
    REQUIRE(staged.ring.take(4 * kKiB, &held).ok());
    const std::uint64_t stalls = staged.ring.stats().stalls;
    for (int i = 0; i < 2; ++i) {
      threads.emplace_back([&] {
        StagingBlock block;
        cancelled += staged.ring.take(100, &block).status == Status::cancelled ? 1 : 0;
      });
    }
    while (staged.ring.stats().stalls < stalls + 2) std::this_thread::yield();
    staged.ring.stop();
    for (std::thread& thread : threads) thread.join();
    CHECK(cancelled == 2);
    StagingBlock block;
    CHECK(staged.ring.take(100, &block).status == Status::cancelled);
    staged.ring.give(held);
  });
}

TEST_CASE("X12 a taker waits while all is in the hands of others, and gets what is given back", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    Staged staged(rig, gpu, small_ring(4 * kKiB));
    StagingBlock held, got;
    REQUIRE(staged.ring.take(4 * kKiB, &held).ok());
    std::thread taker([&] { CHECK(staged.ring.take(4 * kKiB, &got).ok()); });
    while (staged.ring.stats().stalls == 0) std::this_thread::yield();
    staged.ring.give(held);
    taker.join();
    CHECK(got.data == held.data);
    CHECK(staged.ring.stats().waited_ns > 0);
    CHECK(staged.ring.stats().longest_wait_ns == staged.ring.stats().waited_ns);
    staged.ring.give(got);
  });
}

TEST_CASE("R11 thirty uploads in flight, a thousand of 64 KiB", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::adversarial), [](Rig& rig, Gpu& gpu) {
    Staged staged(rig, gpu, small_ring(30 * 64 * kKiB), 4 * kMiB);
    Random random(3);
    const std::vector<std::uint8_t> wanted = noise(random, 4 * kMiB);
    std::uint32_t most = 0;
    for (std::size_t i = 0; i < 1000; ++i) {
      const std::size_t at = i % 64 * 64 * kKiB;
      REQUIRE(staged.upload(staged.memory + at, wanted.data() + at, 64 * kKiB).ok());
      most = std::max(most, staged.fences.in_flight());
    }
    CHECK(most == 30);
    CHECK((staged.read(wanted.size()) == wanted));
    CHECK(staged.events.created() <= 31);
  });
}

TEST_CASE("2-1 a readback ring keeps its blocks until they are read", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::adversarial), [](Rig& rig, Gpu& gpu) {
    StagingOptions options = small_ring(16 * kKiB);
    options.direction = StagingDirection::download;
    Staged staged(rig, gpu, options);
    StagingBlock block;
    REQUIRE(staged.ring.take(16 * kKiB, &block).ok());
    REQUIRE(rig.driver.memset_d8_async(staged.memory, 0x5A, 16 * kKiB, staged.stream) ==
            cuda::Result::success);
    REQUIRE(rig.driver.memcpy_d2h_async(block.data, staged.memory, 16 * kKiB, staged.stream) ==
            cuda::Result::success);
    Fence fence = 0;
    REQUIRE(staged.fences.record(staged.stream, 16 * kKiB, &fence).ok());
    REQUIRE(staged.ring.wait(fence).ok());
    CHECK(staged.ring.stats().live_bytes == 16 * kKiB);
    CHECK(std::count(block.data, block.data + 16 * kKiB, std::byte{0x5A}) == 16 * kKiB);
    staged.ring.give(block);
    options.is_write_combined = true;
    StagingRing other;
    CHECK(other.open(gpu, staged.fences, options).status == Status::bad_argument);
  });
}

TEST_CASE("2-8 mut-C09 the staging slab is in the host-visible budget", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig&, Gpu& gpu, FailingDriver& failing) {
    Budget budget;
    REQUIRE(budget.open("host visible", kMiB, BudgetAction::enforce, {}) == BudgetResult::ok);
    EventPool events;
    REQUIRE(events.open(gpu).ok());
    FenceQueue fences;
    fences.open(gpu, events);
    StagingRing first, second;
    StagingOptions options = small_ring(256 * kKiB);
    options.rings = 3;
    options.budget = &budget;
    options.is_write_combined = true;
    REQUIRE(first.open(gpu, fences, options).ok());
    CHECK(budget.used_bytes() == 768 * kKiB);
    CHECK(second.open(gpu, fences, options).status == Status::over_budget);
    CHECK(budget.used_bytes() == 768 * kKiB);
    options.rings = 1;
    failing.fail({cuda::Call::mem_host_alloc, 1, 1, cuda::Result::out_of_memory});
    CHECK(second.open(gpu, fences, options).status == Status::out_of_memory);
    CHECK(budget.used_bytes() == 768 * kKiB);
    REQUIRE(second.open(gpu, fences, options).ok());
    CHECK(budget.used_bytes() == kMiB);
    first.close();
    CHECK(budget.used_bytes() == 256 * kKiB);
    second.close();
    CHECK(budget.used_bytes() == 0);
    fences.close();
    events.close();
  });
}

TEST_CASE("T6 bad options of a staging ring are refused", "[device]") {
  on_gpu(gpu_test::small(), [](Rig&, Gpu& gpu) {
    EventPool events;
    REQUIRE(events.open(gpu).ok());
    FenceQueue fences;
    fences.open(gpu, events);
    StagingRing ring;
    const auto status = [&](auto change) {
      StagingOptions options = small_ring(64 * kKiB);
      change(options);
      return ring.open(gpu, fences, options).status;
    };
    CHECK(status([](StagingOptions& o) { o.rings = 0; }) == Status::bad_argument);
    CHECK(status([](StagingOptions& o) { o.rings = StagingRing::kRingsMax + 1; }) == Status::bad_argument);
    CHECK(status([](StagingOptions& o) { o.ring_bytes = 0; }) == Status::bad_argument);
    CHECK(status([](StagingOptions& o) { o.ring_bytes += 1; }) == Status::bad_argument);
    CHECK(status([](StagingOptions& o) { o.ring_bytes = SIZE_MAX & ~std::size_t{255}; }) ==
          Status::bad_argument);
    CHECK(status([](StagingOptions& o) { o.blocks_max = 0; }) == Status::bad_argument);
    CHECK(status([](StagingOptions& o) { o.ring_bytes = 64 * kMiB; }) == Status::out_of_memory);
    CHECK(status([](StagingOptions&) {}) == Status::ok);
    ring.close();
    fences.close();
    events.close();
  });
}

TEST_CASE("R3 a staging ring that is opened with other fences goes by their numbers", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::adversarial), [](Rig& rig, Gpu& gpu) {
    Staged staged(rig, gpu, small_ring(4 * kKiB));
    const std::vector<std::uint8_t> bytes(1024, 1);
    for (int i = 0; i < 10; ++i) REQUIRE(staged.upload(staged.memory, bytes.data(), bytes.size()).ok());
    staged.ring.close();
    FenceQueue others;
    others.open(gpu, staged.events);
    REQUIRE(staged.ring.open(gpu, others, small_ring(4 * kKiB)).ok());
    StagingBlock block;
    REQUIRE(staged.ring.take(1024, &block).ok());
    std::memset(block.data, 2, 1024);
    REQUIRE(rig.driver.memcpy_h2d_async(staged.memory, block.data, 1024, staged.stream) ==
            cuda::Result::success);
    Fence fence = 0;
    REQUIRE(staged.ring.submit({&block, 1}, staged.stream, &fence).ok());
    CHECK(fence == 1);
    CHECK(staged.ring.stats().bytes_in_flight == 1024);
    REQUIRE(staged.ring.wait(fence).ok());
    CHECK(staged.ring.stats().bytes_in_flight == 0);
    staged.ring.close();
  });
}

TEST_CASE("X12 a taker is woken by a block or by the end while the device is busy with something else",
          "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::threaded), [](Rig& rig, Gpu& gpu) {
    StagingOptions options = small_ring(4 * kKiB);
    options.direction = StagingDirection::download;
    Staged staged(rig, gpu, options);
    static std::atomic<bool> is_released;
    is_released = false;
    REQUIRE(rig.driver.launch_host_function(
                staged.stream,
                [](void*) {
                  while (!is_released) std::this_thread::yield();
                },
                nullptr) == cuda::Result::success);
    Fence fence = 0;
    REQUIRE(staged.fences.record(staged.stream, 0, &fence).ok());
    StagingBlock held, got;
    REQUIRE(staged.ring.take(4 * kKiB, &held).ok());
    Outcome outcome = Status::failed;
    std::thread taker([&] { outcome = staged.ring.take(4 * kKiB, &got); });
    while (staged.ring.stats().stalls == 0) std::this_thread::yield();
    staged.ring.give(held);
    taker.join();
    CHECK(outcome.ok());
    CHECK(got.data == held.data);
    std::thread stopped([&] { outcome = staged.ring.take(4 * kKiB, &held); });
    while (staged.ring.stats().stalls < 2) std::this_thread::yield();
    staged.ring.stop();
    stopped.join();
    CHECK(outcome.status == Status::cancelled);
    CHECK_FALSE(staged.fences.is_reached(fence));
    staged.ring.give(got);
    is_released = true;
  });
}

TEST_CASE("2-1 fences are reached in the order of their numbers, and wait when there are too many",
          "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::adversarial), [](Rig& rig, Gpu& gpu) {
    EventPool events;
    REQUIRE(events.open(gpu).ok());
    FenceQueue fences;
    fences.open(gpu, events);
    const cuda::Stream streams[2] = {rig.stream(), rig.stream()};
    const cuda::DevicePointer memory = rig.memory(kGranule);
    const cuda::Event gate = rig.event();
    const cuda::Stream slow = rig.stream();
    // The first stream waits for another one, so the second one's fence has to wait as well.
    REQUIRE(rig.driver.memset_d8_async(memory, 1, 4096, slow) == cuda::Result::success);
    REQUIRE(rig.driver.event_record(gate, slow) == cuda::Result::success);
    REQUIRE(rig.driver.stream_wait_event(streams[0], gate, 0) == cuda::Result::success);
    Fence first = 0, second = 0;
    REQUIRE(fences.record(streams[0], 10, &first).ok());
    REQUIRE(fences.record(streams[1], 20, &second).ok());
    CHECK(first == 1);
    CHECK(second == 2);
    CHECK(fences.bytes_in_flight() == 30);
    while (!fences.is_reached(second)) {
      REQUIRE(fences.poll().ok());
      if (fences.is_reached(first)) {
        CHECK(rig.driver.event_query(gate) == cuda::Result::success);
      } else {
        CHECK_FALSE(fences.is_reached(second));
      }
    }
    CHECK(fences.bytes_in_flight() == 0);
    Fence last = 0;
    for (std::uint32_t i = 0; i < 10 * FenceQueue::kFencesMax; ++i) {
      REQUIRE(rig.driver.memset_d8_async(memory, 1, 16, streams[i % 2]) == cuda::Result::success);
      REQUIRE(fences.record(streams[i % 2], 1, &last).ok());
      REQUIRE(fences.in_flight() <= FenceQueue::kFencesMax);
      REQUIRE(last == i + 3);
    }
    CHECK(fences.in_flight() == FenceQueue::kFencesMax);
    CHECK(events.created() <= FenceQueue::kFencesMax + 1);
    REQUIRE(fences.wait(last).ok());
    CHECK(fences.in_flight() == 0);
    fences.close();
    fences.close();
    events.close();
    CHECK(rig.driver.event_destroy(gate) == cuda::Result::success);
    for (const cuda::Stream stream : {streams[0], streams[1], slow}) {
      CHECK(rig.driver.stream_synchronize(stream) == cuda::Result::success);
      CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
    }
    rig.give_back(memory, kGranule);
  });
}

// What another thread does while the driver waits for an event: it sees the fence and needs an event.
struct Meanwhile {
  cuda::Driver inner;
  FenceQueue* fences = nullptr;
  EventPool* events = nullptr;
  unsigned same = 0, looks = 0;

  void look(cuda::Event waited_for) {
    ++looks;
    if (inner.event_synchronize(waited_for) != cuda::Result::success || !fences->poll().ok()) return;
    cuda::Event taken = nullptr;
    if (!events->take(&taken).ok()) return;
    same += taken == waited_for ? 1 : 0;
    events->give(taken);
  }
};

TEST_CASE("2-1 an event that a thread waits for is not recorded again meanwhile", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::adversarial), [](Rig& rig, Gpu&) {
    Meanwhile meanwhile{rig.driver};
    cuda::Driver table = rig.driver;
    table.event_synchronize = {&meanwhile, [](void* self, cuda::Event event) {
                                 static_cast<Meanwhile*>(self)->look(event);
                                 return static_cast<Meanwhile*>(self)->inner.event_synchronize(event);
                               }};
    Gpu gpu;
    REQUIRE(gpu.open(table).ok());
    EventPool events;
    REQUIRE(events.open(gpu).ok());
    FenceQueue fences;
    fences.open(gpu, events);
    meanwhile.fences = &fences;
    meanwhile.events = &events;
    const cuda::Stream stream = rig.stream();
    for (int round = 0; round < 3; ++round) {
      Fence fence = 0;
      REQUIRE(fences.record(stream, 1, &fence).ok());
      REQUIRE(fences.wait(fence).ok());
      CHECK(fences.is_reached(fence));
      CHECK(events.idle() == events.created());
    }
    CHECK(meanwhile.looks == 3);
    CHECK(meanwhile.same == 0);
    fences.close();
    events.close();
    gpu.close();
    CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
  });
}

TEST_CASE("2-1 fences recorded and waited for by several threads", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::threaded), [](Rig& rig, Gpu& gpu) {
    EventPool events;
    REQUIRE(events.open(gpu).ok());
    FenceQueue fences;
    fences.open(gpu, events);
    const cuda::DevicePointer memory = rig.memory(kGranule);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    std::vector<cuda::Stream> streams;
    for (int i = 0; i < 4; ++i) streams.push_back(rig.stream());
    for (std::size_t number = 0; number < 4; ++number) {
      threads.emplace_back([&, number] {
        const CurrentContext current(gpu);
        for (unsigned i = 0; i < 500; ++i) {
          Fence fence = 0;
          if (rig.driver.memset_d8_async(memory + number * 256, 1, 16, streams[number]) !=
              cuda::Result::success)
            ++wrong;
          if (!fences.record(streams[number], 3, &fence).ok()) ++wrong;
          if (i % 3 == 0 && !fences.poll().ok()) ++wrong;
          if (i % 7 == 0 && (!fences.wait(fence).ok() || !fences.is_reached(fence))) ++wrong;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
    CHECK(fences.recorded() == 2000);
    REQUIRE(fences.wait(2000).ok());
    CHECK(fences.bytes_in_flight() == 0);
    CHECK(events.idle() == events.created());
    fences.close();
    events.close();
    for (const cuda::Stream stream : streams) {
      CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
    }
    rig.give_back(memory, kGranule);
  });
}

}  // namespace
}  // namespace device_test
