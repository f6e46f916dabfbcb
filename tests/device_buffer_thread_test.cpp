// Unified buffers with somebody else there: guards that do not go together, threads that read and write on
// both sides, ends while work is under way.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "tests/random.h"
#include "tests/unified_rig.h"

namespace device_test {
namespace {

// Keeps a stream busy until open() is called.
class Gate {
 public:
  Gate(Rig& rig, cuda::Stream stream) {
    REQUIRE(rig.driver.launch_host_function(stream, wait, &is_open_) == cuda::Result::success);
  }
  ~Gate() { open(); }
  void open() { is_open_.store(true); }

 private:
  static void wait(void* is_open) {
    while (!static_cast<std::atomic<bool>*>(is_open)->load()) std::this_thread::yield();
  }
  std::atomic<bool> is_open_{false};
};

// A buffer whose newest contents come at the end of work that the gate holds up.
void write_behind_gate(const UnifiedRig& unified, const UnifiedBuffer& buffer, Rig& rig,
                       unsigned char value) {
  DeviceWrite guard;
  REQUIRE(buffer.all().device_write(unified.stream, &guard, Overwrite::full).ok());
  REQUIRE(rig.driver.memset_d8_async(guard.address(), value, guard.size_bytes(), unified.stream) ==
          cuda::Result::success);
}

TEST_CASE("B7 unified buffer: an access is given up while its bytes are on their way", "[device]") {
  on_unified(gpu_test::small(GpuSchedule::threaded), [](UnifiedRig& unified, Rig& rig) {
    UnifiedBuffer buffer;
    REQUIRE(buffer.create(unified.memory, {5 * kUnit}).ok());
    CHECK(unified.on_host(buffer.all()) == Bytes(5 * kUnit));
    Gate gate(rig, unified.stream);
    write_behind_gate(unified, buffer, rig, 7);
    CancelFlag cancel{false};
    std::atomic<Status> status{Status::ok};
    std::thread reader([&] {
      HostRead guard;
      status = buffer.all().host_read(&guard, &cancel).status;
    });
    // The copy is queued, and cannot be done.
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    cancel = true;
    reader.join();
    CHECK(status.load() == Status::cancelled);
    CHECK(unified.info(buffer).state == UnifiedState::device_dirty);
    gate.open();
    CHECK(unified.on_host(buffer.all()) == Bytes(5 * kUnit, 7));
  });
}

TEST_CASE("B12 unified buffer: guards that do not go together wait, or are refused", "[device]") {
  for (const std::uint64_t wait_ns : {std::uint64_t{0}, std::uint64_t{2'000'000}, kWaitForever}) {
    on_gpu(gpu_test::small(GpuSchedule::threaded), [&](Rig& rig, Gpu& gpu) {
      UnifiedRig unified(rig, gpu, wait_ns);
      UnifiedBuffer buffer;
      REQUIRE(buffer.create(unified.memory, {kUnit}).ok());
      HostRead first, second;
      DeviceRead third;
      HostWrite writer;
      REQUIRE(buffer.all().host_read(&first).ok());
      REQUIRE(buffer.all().host_read(&second).ok());
      REQUIRE(buffer.all().device_read(unified.stream, &third).ok());
      CHECK(buffer.all().host_write(&writer).status == Status::in_use);  // its own readers: never waits
      CHECK(buffer.evict(UnifiedSide::device).status == Status::in_use);
      CHECK(buffer.resize(5).status == Status::in_use);
      CHECK(buffer.discard().status == Status::in_use);
      CHECK(buffer.close().status == Status::in_use);
      std::atomic<Status> status{Status::ok};
      std::atomic<bool> is_reader_done{false};
      bool was_reader_done = false;
      std::thread other([&] {
        HostWrite guard;
        status = buffer.all().host_write(&guard).status;
        was_reader_done = is_reader_done;
      });
      if (wait_ns != kWaitForever) other.join();
      third.close();
      second.close();
      is_reader_done = true;
      first.close();
      if (wait_ns == kWaitForever) other.join();
      const Status expected =
          wait_ns == 0 ? Status::in_use : (wait_ns == kWaitForever ? Status::ok : Status::timed_out);
      CHECK(status.load() == expected);
      CHECK((was_reader_done || wait_ns != kWaitForever));
      // A guard that waits can be given up too.
      REQUIRE(buffer.all().host_write(&writer).ok());
      std::thread given_up([&] {
        const CancelFlag cancel{true};
        HostRead guard;
        status = buffer.all().host_read(&guard, &cancel).status;
      });
      given_up.join();
      CHECK(status.load() == (wait_ns == 0 ? Status::in_use : Status::cancelled));
    });
  }
}

TEST_CASE("B12 unified buffer: a copy that waits for a guard keeps nobody from its target", "[device]") {
  on_unified(gpu_test::small(GpuSchedule::threaded), [](UnifiedRig& unified, Rig&) {
    UnifiedBuffer to, from;  // in this order: the target is taken first
    REQUIRE(to.create(unified.memory, {kUnit}).ok());
    REQUIRE(from.create(unified.memory, {kUnit}).ok());
    HostWrite writer;
    REQUIRE(from.all().host_write(&writer, Overwrite::full).ok());
    std::memset(writer.data(), 6, kUnit);
    const UnifiedSlice target = to.all(), source = from.all();
    std::atomic<bool> is_copied{false};
    std::thread copier(
        [&] { is_copied = target.copy_from(source, UnifiedSide::device, unified.stream).ok(); });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CHECK(unified.info(to).size_bytes == kUnit);
    CHECK(UnifiedRig::on_host(to.all()) == Bytes(kUnit));
    CHECK_FALSE(is_copied.load());
    writer.close();
    copier.join();
    CHECK(is_copied.load());
    CHECK(UnifiedRig::on_host(to.all()) == Bytes(kUnit, 6));
  });
}

TEST_CASE("mut-B13 unified buffer: the last guard closes a buffer whose owner is gone", "[device]") {
  for (const std::uint64_t wait_ns : {std::uint64_t{0}, kWaitForever}) {
    on_gpu(gpu_test::small(GpuSchedule::threaded), [&](Rig& rig, Gpu& gpu) {
      UnifiedRig unified(rig, gpu, wait_ns);
      HostRead host;
      DeviceRead device;
      UnifiedSlice slice;
      {
        UnifiedBuffer buffer;
        REQUIRE(buffer.create(unified.memory, {kUnit}).ok());
        slice = buffer.all();
        REQUIRE(slice.host_read(&host).ok());
        REQUIRE(slice.device_read(unified.stream, &device).ok());
      }
      CHECK(unified.memory.stats().buffers == 1);
      CHECK(host.data()[5] == std::byte{0});
      host.close();
      CHECK(unified.memory.stats().buffers == 1);
      device.close();
      CHECK(unified.memory.stats().buffers == 0);
      CHECK(slice.host_read(&host).status == Status::not_owned);
    });
  }
}

TEST_CASE("P9 mut-B13 unified buffer: who shares a buffer that its owner left keeps it", "[device]") {
  on_unified(gpu_test::small(), [](UnifiedRig& unified, Rig&) {
    for (const bool is_early : {false, true}) {
      HostRead guard;
      UnifiedSlice slice;
      UnifiedHandle handle = 0;
      {
        UnifiedBuffer buffer;
        REQUIRE(buffer.create(unified.memory, {kUnit}).ok());
        slice = buffer.all();
        handle = buffer.handle();
        REQUIRE(slice.host_read(&guard).ok());
        if (is_early) REQUIRE(unified.memory.share(handle).ok());
      }
      if (!is_early) REQUIRE(unified.memory.share(handle).ok());
      for (int round = 0; round < 3; ++round) {
        guard.close();
        CHECK(unified.memory.stats().buffers == 1);
        REQUIRE(slice.host_read(&guard).ok());
      }
      // And this owner ends like the first one.
      unified.memory.abandon(handle);
      CHECK(unified.memory.stats().buffers == 1);
      guard.close();
      CHECK(unified.memory.stats().buffers == 0);
    }
  });
}

// Each version of the buffer is one value in all bytes; whoever looks sees one version.
void use_buffer(const UnifiedBuffer& buffer, Rig& rig, cuda::Stream stream, Random random, Expect& expect) {
  Bytes bytes(3 * kUnit);
  for (int round = 0; round < 40; ++round) {
    const auto value = static_cast<unsigned char>(random.next());
    const UnifiedSlice all = buffer.all();
    switch (random.below(5)) {
      case 0: {
        HostWrite guard;
        if (expect(all.host_write(&guard, Overwrite::full).ok()))
          std::memset(guard.data(), value, all.size_bytes());
        break;
      }
      case 1: {
        DeviceWrite guard;
        if (!expect(all.device_write(stream, &guard, Overwrite::full).ok())) break;
        expect(rig.driver.memset_d8_async(guard.address(), value, all.size_bytes(), stream) ==
               cuda::Result::success);
        break;
      }
      case 2: {
        DeviceRead guard;
        if (!expect(all.device_read(stream, &guard).ok())) break;
        expect(rig.driver.memcpy_d2h_async(bytes.data(), guard.address(), bytes.size(), stream) ==
               cuda::Result::success);
        expect(rig.driver.stream_synchronize(stream) == cuda::Result::success);
        expect(std::count(bytes.begin(), bytes.end(), bytes[0]) == static_cast<std::ptrdiff_t>(bytes.size()));
        break;
      }
      case 3: {
        HostRead guard;
        if (!expect(all.host_read(&guard).ok())) break;
        expect(std::count(guard.data(), guard.data() + guard.size_bytes(), guard.data()[0]) ==
               static_cast<std::ptrdiff_t>(guard.size_bytes()));
        break;
      }
      default:
        expect(all.fill(value, random.one_in(2) ? UnifiedSide::host : UnifiedSide::device, stream).ok());
    }
  }
}

TEST_CASE("B12 unified buffer: readers and writers of both sides see whole versions", "[device][race]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  on_unified(gpu_test::small(GpuSchedule::threaded), [&](UnifiedRig& unified, Rig& rig) {
    for (const bool is_pinned : {true, false}) {
      UnifiedBuffer buffer;
      REQUIRE(buffer.create(unified.memory, {3 * kUnit, is_pinned}).ok());
      constexpr int kThreads = 4;
      Expect expect[kThreads];
      std::vector<std::thread> threads;
      std::vector<cuda::Stream> streams;
      for (int i = 0; i < kThreads; ++i) streams.push_back(rig.stream());
      for (int i = 0; i < kThreads; ++i) {
        threads.emplace_back([&, i] {
          expect[i](rig.driver.ctx_set_current(rig.context) == cuda::Result::success);
          use_buffer(buffer, rig, streams[static_cast<unsigned>(i)], Random(seed + static_cast<unsigned>(i)),
                     expect[i]);
        });
      }
      for (std::thread& thread : threads) thread.join();
      for (const Expect& each : expect) CHECK(each.failed_line() == 0);
      CHECK(buffer.close().ok());
      for (const cuda::Stream stream : streams) {
        CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
      }
    }
  });
}

TEST_CASE("B12 unified buffer: two threads that copy both ways do not wait for each other",
          "[device][race]") {
  on_unified(gpu_test::small(GpuSchedule::threaded), [&](UnifiedRig& unified, Rig& rig) {
    UnifiedBuffer buffers[2];
    for (UnifiedBuffer& buffer : buffers) REQUIRE(buffer.create(unified.memory, {kUnit}).ok());
    Expect expect[2];
    const auto copy = [&](int to) {
      expect[to](rig.driver.ctx_set_current(rig.context) == cuda::Result::success);
      for (int round = 0; round < 50; ++round) {
        const UnifiedSide side = round % 2 == 0 ? UnifiedSide::host : UnifiedSide::device;
        expect[to](buffers[to].all().copy_from(buffers[1 - to].all(), side, unified.stream).ok());
      }
    };
    std::thread other(copy, 1);
    copy(0);
    other.join();
    CHECK(expect[0].failed_line() == 0);
    CHECK(expect[1].failed_line() == 0);
    CHECK(unified.on_host(buffers[0].all()) == Bytes(kUnit));
  });
}

TEST_CASE("mut-B13 unified buffer: closing twice, and while bytes are on their way", "[device]") {
  on_unified(gpu_test::small(GpuSchedule::threaded), [](UnifiedRig& unified, Rig& rig) {
    UnifiedBuffer buffer;
    REQUIRE(buffer.create(unified.memory, {5 * kUnit}).ok());
    CHECK(unified.on_host(buffer.all()) == Bytes(5 * kUnit));
    Gate gate(rig, unified.stream);
    write_behind_gate(unified, buffer, rig, 7);
    std::atomic<bool> has_read{false}, has_closed{false};
    std::thread reader([&] {
      HostRead guard;
      const Outcome outcome = buffer.all().host_read(&guard);
      has_read = outcome.ok() && guard.data()[0] == std::byte{7};
    });
    // Closed by its handle, so that this test may look at the object meanwhile.
    const UnifiedHandle handle = buffer.handle();
    std::thread closer([&] { has_closed = unified.memory.release(handle).ok(); });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CHECK_FALSE(has_closed.load());
    gate.open();
    reader.join();
    closer.join();
    CHECK(has_closed.load());
    CHECK(unified.memory.release(handle).status == Status::not_owned);
    CHECK(buffer.close().status == Status::not_owned);
    CHECK(buffer.close().ok());
    static_cast<void>(has_read.load());
  });
}

TEST_CASE("B13 unified buffer: memory goes when the device has done with it, not before", "[device]") {
  on_unified(gpu_test::small(GpuSchedule::adversarial), [](UnifiedRig& unified, Rig& rig) {
    for (int round = 0; round < 50; ++round) {
      UnifiedBuffer buffer;
      REQUIRE(buffer.create(unified.memory, {5 * kUnit, round % 2 == 0}).ok());
      unified.write_host(buffer.all(), numbered(5 * kUnit, 3));
      const cuda::DevicePointer copy = rig.memory(kGranule);
      {
        DeviceRead guard;
        REQUIRE(buffer.all().device_read(unified.stream, &guard).ok());
        REQUIRE(rig.driver.memcpy_d2d_async(copy, guard.address(), 5 * kUnit, unified.stream) ==
                cuda::Result::success);
      }
      REQUIRE((round % 3 == 0 ? buffer.discard() : buffer.close()).ok());
      Bytes bytes(5 * kUnit);
      REQUIRE(rig.driver.memcpy_d2h_async(bytes.data(), copy, bytes.size(), unified.stream) ==
              cuda::Result::success);
      REQUIRE(rig.driver.stream_synchronize(unified.stream) == cuda::Result::success);
      CHECK(bytes == numbered(5 * kUnit, 3));
      rig.give_back(copy, kGranule);
    }
  });
}

}  // namespace
}  // namespace device_test
