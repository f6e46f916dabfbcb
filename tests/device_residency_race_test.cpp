// Races of leases, each held open at the point where it hurts: two releases of one stream, a free under an
// acquire that waits, a release by another thread, a heap that is closed under a lease.
#include <atomic>
#include <thread>

#include "tests/device_residency_rig.h"

namespace device_test {
namespace {

// A driver of which one thread can be held right behind its next event_record().
struct HeldRecord {
  Driver inner;
  std::atomic<std::uintptr_t> thread{0};
  std::atomic<bool> is_held{false}, may_go{false};

  [[nodiscard]] Driver driver() {
    Driver made = inner;
    made.event_record.self = this;
    made.event_record.function = [](void* self, cuda::Event event, cuda::Stream stream) {
      auto& held = *static_cast<HeldRecord*>(self);
      const Result answer = held.inner.event_record(event, stream);
      std::uintptr_t wanted = glebe::os::thread_id();
      if (held.thread.compare_exchange_strong(wanted, 0)) {
        held.is_held = true;
        while (!held.may_go) std::this_thread::yield();
      }
      return answer;
    };
    return made;
  }
};

TEST_CASE("X3 two threads release leases of one stream: the later point counts", "[device]") {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    gpu_test::on_emulator(gpu_test::small(GpuSchedule::adversarial, seed), [](Rig& rig) {
      HeldRecord held;
      held.inner = rig.driver;
      Gpu gpu;
      REQUIRE(gpu.open(held.driver()).ok());
      {
        ResidentRig at(gpu, {});
        const cuda::Stream stream = rig.stream(), other = rig.stream();
        const cuda::DevicePointer shared = at.make(1), large = at.make(4);
        Lease first, second;
        REQUIRE(at.acquire(shared, Access::write, stream, &first).ok());
        REQUIRE(at.acquire(shared, Access::write, stream, &second).ok());
        std::atomic<bool> is_released{false};
        std::thread thread([&] {
          held.thread = glebe::os::thread_id();
          is_released = at.heap.release(first).ok();
        });
        while (!held.is_held) std::this_thread::yield();
        // Work behind the first event, and an event behind that, which is noted earlier.
        for (std::uint32_t i = 0; i < 20; ++i) {
          REQUIRE(rig.store_word(shared + 4 * i, 500 + i, stream) == Result::success);
        }
        REQUIRE(at.heap.release(second).ok());
        held.may_go = true;
        thread.join();
        CHECK(is_released);
        REQUIRE(fill(at, rig.driver, large, 1, other).ok());
        CHECK(at.heap.state_of(shared) == ChunkState::in_host);
        REQUIRE(rig.driver.stream_synchronize(stream) == Result::success);
        REQUIRE(at.acquire(shared, Access::read, stream, &first).ok());
        REQUIRE(rig.driver.stream_synchronize(stream) == Result::success);
        for (std::uint32_t i = 0; i < 20; ++i) CHECK(rig.read_word(shared + 4 * i) == 500 + i);
        REQUIRE(at.heap.release(first).ok());
        CHECK(rig.driver.stream_destroy(stream) == Result::success);
        CHECK(rig.driver.stream_destroy(other) == Result::success);
      }
      gpu.close();
    });
  }
}

// Holds whoever moves chunks until a lease was begun by somebody else, who then waits for the mover.
struct HeldMove {
  ResidentHeap* heap = nullptr;
  std::atomic<bool> is_armed{false}, is_moving{false};
};

TEST_CASE("X3 what is freed while a lease on it waits is not leased", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ResidentRig at(gpu, {});
    HeldMove held;
    held.heap = &at.heap;
    ResidencyOptions options = at.heap_options();
    options.context = &held;
    options.on_move = [](void* context, const MoveNote& note) {
      auto& move = *static_cast<HeldMove*>(context);
      if (!note.is_leaving || note.is_done || !move.is_armed) return;
      move.is_moving = true;
      while (move.heap->stats().live_leases == 0) std::this_thread::yield();
    };
    REQUIRE(at.heap.open(gpu, options).ok());
    const cuda::Stream stream = rig.stream();
    const cuda::DevicePointer address = at.make(2);
    REQUIRE(fill(at, rig.driver, address, 1, stream).ok());
    held.is_armed = true;
    std::atomic<bool> is_freed{false};
    std::thread thread([&] { is_freed = at.heap.free(address).ok(); });
    while (!held.is_moving) std::this_thread::yield();
    Lease lease;
    CHECK(at.acquire(address, Access::read, stream, &lease).status == Status::not_owned);
    thread.join();
    CHECK(is_freed);
    CHECK(at.heap.stats().live_leases == 0);
    CHECK(at.heap.validate());
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("X3 a lease on the stream of a thread may be released by another thread", "[device]") {
  auto* const of_thread = reinterpret_cast<cuda::Stream>(cuda::kStreamPerThread);
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    on_gpu(gpu_test::small(GpuSchedule::adversarial, seed), [&](Rig& rig, Gpu& gpu) {
      ResidentRig at(gpu, {});
      const cuda::Stream stream = rig.stream();
      const cuda::DevicePointer address = at.make(1), large = at.make(4);
      Lease lease;
      REQUIRE(at.acquire(address, Access::write, of_thread, &lease).ok());
      for (std::uint32_t i = 0; i < 20; ++i) {
        REQUIRE(rig.store_word(address + 4 * i, 700 + i, of_thread) == Result::success);
      }
      bool is_released = false;
      std::thread thread([&] { is_released = at.heap.release(lease).ok(); });
      thread.join();
      CHECK(is_released);
      REQUIRE(fill(at, rig.driver, large, 1, stream).ok());
      REQUIRE(rig.driver.stream_synchronize(of_thread) == Result::success);
      REQUIRE(at.acquire(address, Access::read, stream, &lease).ok());
      REQUIRE(rig.driver.stream_synchronize(stream) == Result::success);
      for (std::uint32_t i = 0; i < 20; ++i) CHECK(rig.read_word(address + 4 * i) == 700 + i);
      REQUIRE(at.heap.release(lease).ok());
      CHECK(rig.driver.stream_destroy(stream) == Result::success);
    });
  }
}

TEST_CASE("X6 a heap that is closed under a lease waits for the work", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::adversarial, 3), [](Rig& rig, Gpu& gpu) {
    ResidentRig at(gpu, {});
    const cuda::Stream stream = rig.stream();
    const cuda::DevicePointer address = at.make(2);
    Lease lease;
    REQUIRE(at.acquire(address, Access::write, stream, &lease).ok());
    for (std::uint32_t i = 0; i < 20; ++i) {
      REQUIRE(rig.store_word(address + 4 * i, i, stream) == Result::success);
    }
    at.heap.close();
    CHECK(rig.driver.stream_synchronize(stream) == Result::success);
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

}  // namespace
}  // namespace device_test
