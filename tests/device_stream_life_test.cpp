// The stream pool and what comes and goes: streams that are forgotten, destroyed, of threads, captured; a
// device that is lost; the end of the pool while the device works.
#include "platform/emulated_gpu/faults.h"
#include "tests/device_stream_rig.h"

namespace device_test {
namespace {

using cuda::Call;
using cuda::Result;

constexpr std::size_t kArena = 8 * kMiB;

TEST_CASE("X4 the handle of a destroyed stream is not the stream", "[device]") {
  const bool is_forgotten = GENERATE(true, false);
  const bool use_timeline = GENERATE(true, false);
  on_gpu(gpu_test::small(GpuSchedule::threaded), [&](Rig& rig, Gpu& gpu) {
    ArenaSource arena(rig, kArena);
    StreamPoolOptions options = over(arena, use_timeline);
    StreamPool pool;
    REQUIRE(pool.open(gpu, options).ok());
    const cuda::Stream worker = rig.stream(), first = rig.stream();
    const cuda::DevicePointer address = get(pool, ref_of(pool, first), 512);
    const StreamRef old = ref_of(pool, first), worker_ref = ref_of(pool, worker);
    Gate gate(rig, worker);
    const cuda::Event event = rig.event();
    REQUIRE(rig.driver.event_record(event, worker) == Result::success);
    // The work of `first` waits for the gate, and goes on after `first` is gone.
    REQUIRE(rig.driver.stream_wait_event(first, event, 0) == Result::success);
    REQUIRE(rig.store_word(address, 1, first) == Result::success);
    REQUIRE(pool.deallocate(address, old).ok());
    if (is_forgotten) REQUIRE(pool.forget_stream(first).ok());
    REQUIRE(rig.driver.stream_destroy(first) == Result::success);
    std::vector<cuda::Stream> others;
    // Until the handle is used again, or for a while.
    for (int i = 0; i < 50; ++i) {
      others.push_back(rig.stream());
      const StreamRef ref = ref_of(pool, others.back());
      CHECK((ref.slot != old.slot || ref.generation != old.generation));
      cuda::DevicePointer other = 0;
      REQUIRE(pool.allocate(512, 0, ref, &other).ok());
      // Only by waiting on the device, which needs the event of a stream that was forgotten in time.
      if (other == address) {
        REQUIRE(is_forgotten);
        CHECK(origin(pool, BlockOrigin::waited_for) == 1);
        CHECK(rig.driver.stream_query(others.back()) == Result::not_ready);
      }
    }
    CHECK(origin(pool, BlockOrigin::waited_for) == (is_forgotten ? 1 : 0));
    CHECK(origin(pool, BlockOrigin::completed) == 0);
    gate.open();
    REQUIRE(pool.synchronize().ok());
    CHECK(pool.stats().device_waits == (is_forgotten ? 0 : 1));
    if (!is_forgotten) {
      CHECK(get(pool, worker_ref, 512) == address);
      CHECK(origin(pool, BlockOrigin::completed) == 1);
    }
    CHECK(is_balanced(pool));
    REQUIRE(pool.close().ok());
    others.push_back(worker);
    for (const cuda::Stream stream : others) REQUIRE(rig.driver.stream_destroy(stream) == Result::success);
    REQUIRE(rig.driver.event_destroy(event) == Result::success);
  });
}

TEST_CASE("P3 streams that come and go need no more room than those that are there", "[device]") {
  const bool is_forgotten = GENERATE(true, false);
  on_gpu(gpu_test::small(), [&](Rig& rig, Gpu& gpu) {
    ArenaSource arena(rig, kArena);
    StreamPoolOptions options = over(arena);
    options.streams_max = 4;
    StreamPool pool;
    REQUIRE(pool.open(gpu, options).ok());
    for (int round = 0; round < 200; ++round) {
      const cuda::Stream streams[2] = {rig.stream(), rig.stream()};
      for (const cuda::Stream stream : streams) {
        cuda::DevicePointer address = 0;
        REQUIRE(pool.allocate(512, 0, stream, &address).ok());
        REQUIRE(pool.deallocate(address, stream).ok());
      }
      for (const cuda::Stream stream : streams) {
        if (is_forgotten) {
          const StreamRef ref = ref_of(pool, stream);
          REQUIRE(pool.forget_stream(stream).ok());
          CHECK(pool.forget_stream(ref).status == Status::bad_argument);
        }
        REQUIRE(rig.driver.stream_destroy(stream) == Result::success);
        cuda::DevicePointer address = 0;
        CHECK(pool.allocate(512, 0, stream, &address).status == Status::bad_argument);
      }
      CHECK(is_balanced(pool));
    }
    // More than there is room for, all in use.
    std::vector<cuda::Stream> streams;
    std::vector<cuda::DevicePointer> blocks;
    for (unsigned i = 0; i < 4; ++i) {
      streams.push_back(rig.stream());
      const StreamRef ref = ref_of(pool, streams.back());
      REQUIRE(pool.deallocate(get(pool, ref, 512 * (i + 2)), ref).ok());
    }
    streams.push_back(rig.stream());
    StreamRef ref;
    CHECK(pool.find_stream(streams.back(), &ref).status == Status::no_host_memory);
    REQUIRE(pool.forget_stream(streams[2]).ok());
    CHECK(pool.find_stream(streams.back(), &ref).ok());
    CHECK(pool.stats().streams == 4);
    REQUIRE(pool.close().ok());
    for (const cuda::Stream stream : streams) REQUIRE(rig.driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("X3 the default stream is one, and each thread has its own", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::threaded), [](Rig& rig, Gpu& gpu) {
    ArenaSource arena(rig, kArena);
    StreamPool pool;
    REQUIRE(pool.open(gpu, over(arena)).ok());
    const auto legacy = reinterpret_cast<cuda::Stream>(cuda::kStreamLegacy);
    const auto of_thread = reinterpret_cast<cuda::Stream>(cuda::kStreamPerThread);
    const StreamRef one = ref_of(pool, nullptr), same = ref_of(pool, legacy);
    CHECK(one.slot == same.slot);
    CHECK(pool.forget_stream(one).status == Status::bad_argument);
    const StreamRef mine = ref_of(pool, of_thread);
    CHECK(mine.slot != one.slot);
    StreamRef theirs;
    cuda::DevicePointer address = 0;
    bool is_fine = false;
    std::thread other([&] {
      static_cast<void>(rig.driver.ctx_set_current(rig.context));
      is_fine = pool.find_stream(of_thread, &theirs).ok() && pool.allocate(512, 0, theirs, &address).ok() &&
                pool.deallocate(address, of_thread).ok();
      static_cast<void>(rig.driver.ctx_set_current(nullptr));
    });
    other.join();
    REQUIRE(is_fine);
    CHECK(theirs.slot != mine.slot);
    // No event of this thread tells about the other one's stream; the whole device does.
    CHECK(get(pool, mine, 512) != address);
    CHECK(get(pool, one, 512) != address);
    REQUIRE(pool.synchronize().ok());
    CHECK(pool.stats().device_waits == 1);
    CHECK(get(pool, mine, 512) == address);
    CHECK(origin(pool, BlockOrigin::waited_for) == 0);
    REQUIRE(pool.close().ok());
  });
}

TEST_CASE("P3 threads that end leave room for the streams of others", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ArenaSource arena(rig, kArena);
    StreamPoolOptions options = over(arena);
    options.streams_max = 3;
    StreamPool pool;
    REQUIRE(pool.open(gpu, options).ok());
    const auto of_thread = reinterpret_cast<cuda::Stream>(cuda::kStreamPerThread);
    const StreamRef legacy = ref_of(pool, nullptr);
    const cuda::DevicePointer kept = get(pool, legacy, 512);
    std::atomic<unsigned> errors{0};
    for (int i = 0; i < 20; ++i) {
      std::thread([&] {
        errors += rig.driver.ctx_set_current(rig.context) == Result::success ? 0u : 1u;
        cuda::DevicePointer address = 0;
        errors += pool.allocate(512, 0, of_thread, &address).ok() ? 0u : 1u;
        errors += pool.deallocate(address, of_thread).ok() ? 0u : 1u;
        errors += rig.driver.ctx_set_current(nullptr) == Result::success ? 0u : 1u;
      }).join();
    }
    CHECK(errors.load() == 0);
    CHECK(pool.stats().streams <= 3);
    REQUIRE(pool.deallocate(kept, legacy).ok());
    CHECK(get(pool, legacy, 512) == kept);
    CHECK(is_balanced(pool));
    REQUIRE(pool.close().ok());
  });
}

TEST_CASE("X4 what a forgotten stream freed is found when it is done, whoever else used it", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::threaded), [](Rig& rig, Gpu& gpu) {
    ArenaSource arena(rig, kArena);
    StreamPoolOptions options = over(arena);
    options.reuse_with_wait = false;
    StreamPool pool;
    REQUIRE(pool.open(gpu, options).ok());
    const cuda::Stream slow = rig.stream(), user = rig.stream(), asks = rig.stream();
    const StreamRef slow_ref = ref_of(pool, slow), ref = ref_of(pool, asks);
    const cuda::DevicePointer address = get(pool, slow_ref, 512);
    Gate gate(rig, slow);
    REQUIRE(pool.record_use(address, user).ok());
    REQUIRE(pool.deallocate(address, slow_ref).ok());
    REQUIRE(pool.forget_stream(slow_ref).ok());
    // The user is done, the stream is not: the block leaves the limbo, and waits.
    CHECK(get(pool, ref, 512) != address);
    REQUIRE(rig.driver.stream_synchronize(user) == Result::success);
    CHECK(get(pool, ref, 512) != address);
    gate.open();
    REQUIRE(rig.driver.stream_synchronize(slow) == Result::success);
    CHECK(get(pool, ref, 512) == address);
    CHECK(pool.stats().device_waits == 0);
    REQUIRE(pool.close().ok());
    for (const cuda::Stream each : {slow, user, asks}) {
      REQUIRE(rig.driver.stream_destroy(each) == Result::success);
    }
  });
}

TEST_CASE("X4 a capture is not disturbed, and what is freed in it waits for its end", "[device]") {
  const bool use_timeline = GENERATE(true, false);
  on_failing_gpu(gpu_test::small(GpuSchedule::threaded), [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    ArenaSource arena(rig, kArena);
    StreamPool pool;
    REQUIRE(pool.open(gpu, over(arena, use_timeline)).ok());
    const cuda::Stream captured = rig.stream(), other = rig.stream();
    const StreamRef ref = ref_of(pool, captured), other_ref = ref_of(pool, other);
    // An event that was not asked before the capture.
    const cuda::DevicePointer taken = get(pool, ref, 512);
    REQUIRE(pool.deallocate(taken, ref).ok());
    REQUIRE(get(pool, other_ref, 512) == taken);
    const std::uint64_t queries = failing.calls(Call::event_query),
                        waits = failing.calls(Call::stream_wait_event);
    const cuda::DevicePointer before = get(pool, ref, 512), foreign = get(pool, other_ref, 512);
    const cuda::DevicePointer freed = get(pool, ref, 512);
    REQUIRE(pool.deallocate(before, ref).ok());
    REQUIRE(pool.begin_capture(ref).ok());
    CHECK(pool.begin_capture(ref).status == Status::in_use);
    rig.emulated->set_capture_status(captured, cuda::CaptureStatus::active);
    const std::uint64_t records = failing.calls(Call::event_record);
    const std::uint64_t writes = failing.calls(Call::stream_write_value64);
    REQUIRE(pool.deallocate(freed, ref).ok());
    REQUIRE(pool.deallocate(foreign, other_ref).ok());
    const cuda::DevicePointer inside = get(pool, ref, 512);
    CHECK(inside != before);  // freed by work that a launch of the graph does not wait for
    CHECK(inside != freed);
    CHECK(inside != foreign);
    CHECK(get(pool, other_ref, 512) == foreign);
    CHECK(get(pool, other_ref, 512) != freed);
    CHECK(pool.synchronize().status == Status::not_ready);
    CHECK(pool.trim(0) == 0);
    cuda::DevicePointer large = 0;
    CHECK(pool.allocate(kArena, 0, ref, &large).status == Status::out_of_memory);
    CHECK(failing.calls(Call::event_query) == queries);
    CHECK(failing.calls(Call::event_synchronize) == 0);
    CHECK(failing.calls(Call::stream_wait_event) == waits);
    CHECK(failing.calls(Call::ctx_synchronize) == 0);
    CHECK(failing.calls(Call::event_record) == records);
    CHECK(failing.calls(Call::stream_write_value64) == writes);
    rig.emulated->set_capture_status(captured, cuda::CaptureStatus::none);
    REQUIRE(pool.end_capture(ref).ok());
    CHECK(pool.end_capture(ref).status == Status::bad_argument);
    CHECK(get(pool, ref, 512) == freed);
    CHECK(get(pool, ref, 512) == before);
    CHECK(is_balanced(pool));
    REQUIRE(pool.close().ok());
    for (const cuda::Stream each : {captured, other}) {
      REQUIRE(rig.driver.stream_destroy(each) == Result::success);
    }
  });
}

TEST_CASE("X4 a capture that nobody announced is left alone by the slow path", "[device]") {
  const bool use_timeline = GENERATE(true, false);
  on_failing_gpu(gpu_test::small(GpuSchedule::threaded), [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    ArenaSource arena(rig, kArena);
    StreamPool pool;
    REQUIRE(pool.open(gpu, over(arena, use_timeline)).ok());
    const cuda::Stream captured = rig.stream(), other = rig.stream();
    const StreamRef ref = ref_of(pool, captured), other_ref = ref_of(pool, other);
    const cuda::DevicePointer freed = get(pool, ref, 512);
    rig.emulated->set_capture_status(captured, cuda::CaptureStatus::active);
    REQUIRE(pool.deallocate(freed, ref).ok());
    CHECK(get(pool, other_ref, 512) != freed);
    CHECK(pool.synchronize().status == Status::not_ready);
    cuda::DevicePointer large = 0;
    CHECK(pool.allocate(kArena, 0, other_ref, &large).status == Status::out_of_memory);
    CHECK(pool.close().status == Status::not_ready);
    for (const Call call : {Call::event_record, Call::stream_write_value64, Call::event_synchronize,
                            Call::stream_wait_event, Call::ctx_synchronize}) {
      INFO(cuda::symbol_of(call));
      CHECK(failing.calls(call) == 0);
    }
    CHECK(is_balanced(pool));
    rig.emulated->set_capture_status(captured, cuda::CaptureStatus::none);
    REQUIRE(pool.close().ok());
    for (const cuda::Stream each : {captured, other}) {
      REQUIRE(rig.driver.stream_destroy(each) == Result::success);
    }
  });
}

TEST_CASE("X6 a lost device ends every call and nothing hangs", "[device]") {
  const bool use_timeline = GENERATE(true, false);
  const GpuSchedule schedule = GENERATE(GpuSchedule::eager, GpuSchedule::threaded, GpuSchedule::adversarial);
  on_gpu(gpu_test::small(schedule), [&](Rig& rig, Gpu& unused) {
    unused.close();
    struct Pinned {
      cuda::Driver inner;
      void* address = nullptr;
    } pinned{rig.driver};
    cuda::Driver noting = rig.driver;
    noting.mem_host_alloc = {&pinned, [](void* self, void** address, std::size_t bytes, unsigned flags) {
                               auto& note = *static_cast<Pinned*>(self);
                               const Result answer = note.inner.mem_host_alloc(address, bytes, flags);
                               note.address = *address;
                               return answer;
                             }};
    Gpu gpu;
    REQUIRE(gpu.open(noting).ok());
    ArenaSource arena(rig, kArena);
    StreamPool pool;
    REQUIRE(pool.open(gpu, over(arena, use_timeline)).ok());
    const cuda::Stream stream = rig.stream(), other = rig.stream();
    const StreamRef ref = ref_of(pool, stream), other_ref = ref_of(pool, other);
    const cuda::DevicePointer live = get(pool, ref, 512);
    for (unsigned i = 0; i < 100; ++i) {
      const cuda::DevicePointer address = get(pool, other_ref, 1024 * (i % 7 + 1));
      REQUIRE(pool.deallocate(address, i % 2 != 0 ? ref : other_ref).ok());
    }
    // Under TSan a fault that was left by a jump leaves the signal blocked in its thread.
    glebe::os::emulated::allow_fault_signals();
    const cuda::DevicePointer nothing = rig.reserve(kGranule);
    REQUIRE(rig.store_word(nothing, 1, stream) == Result::success);  // nothing is mapped there
    CHECK(pool.synchronize().status == Status::device_lost);
    CHECK(gpu.is_lost());
    cuda::DevicePointer address = 0;
    StreamRef another;
    CHECK(pool.allocate(512, 0, ref, &address).status == Status::device_lost);
    CHECK(pool.allocate(512, 0, stream, &address).status == Status::device_lost);
    CHECK(pool.deallocate(live, ref).status == Status::device_lost);
    CHECK(pool.record_use(live, other_ref).status == Status::device_lost);
    CHECK(pool.forget_stream(ref).status == Status::device_lost);
    CHECK(pool.begin_capture(ref).status == Status::device_lost);
    CHECK(pool.end_capture(ref).status == Status::device_lost);
    CHECK(pool.find_stream(other, &another).status == Status::device_lost);
    CHECK(pool.synchronize().status == Status::device_lost);
    CHECK(pool.trim(0) == 0);
    CHECK(pool.stats().live_blocks == 1);
    CHECK(pool.close().ok());
    CHECK_FALSE(pool.is_open());
    CHECK(arena.blocks() == 0);
    gpu.close();
    REQUIRE(rig.recover());
    // A lost device does not take its pinned memory back before the context ends.
    if (pinned.address != nullptr) CHECK(rig.driver.mem_free_host(pinned.address) == Result::success);
    CHECK(rig.driver.mem_address_free(nothing, kGranule) == Result::success);
  });
}

TEST_CASE("X6 a device that is lost while the pool looks for room", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    ArenaSource arena(rig, kArena);
    StreamPool pool;
    REQUIRE(pool.open(gpu, over(arena)).ok());
    const cuda::Stream stream = rig.stream(), other = rig.stream();
    const StreamRef ref = ref_of(pool, stream), other_ref = ref_of(pool, other);
    REQUIRE(pool.deallocate(get(pool, other_ref, kArena / 2), other_ref).ok());
    failing.fail({Call::event_record, 1, 1, Result::illegal_address});
    cuda::DevicePointer address = 0;
    CHECK(pool.allocate(kArena / 4 * 3, 0, ref, &address).status == Status::device_lost);
    CHECK(pool.stats().failures == 1);
    CHECK(pool.stats().idle_blocks == 1);
    CHECK(pool.deallocate(arena.blocks(), ref).status == Status::device_lost);
    REQUIRE(pool.close().ok());
    CHECK(arena.blocks() == 0);
    for (const cuda::Stream each : {stream, other}) {
      REQUIRE(rig.driver.stream_destroy(each) == Result::success);
    }
  });
}

TEST_CASE("B13 mut-B09 the end of a stream pool waits for what the device still does", "[device]") {
  const bool is_destroyed = GENERATE(false, true);
  const GpuSchedule schedule = GENERATE(GpuSchedule::threaded, GpuSchedule::adversarial);
  on_gpu(gpu_test::small(schedule), [&](Rig& rig, Gpu& gpu) {
    ArenaSource arena(rig, kArena);
    struct Work {
      std::atomic<bool> is_done[3] = {};
      unsigned early = 0, freed = 0;
    } work;
    arena.on_free(
        [](void* user, cuda::DevicePointer) {
          auto& seen = *static_cast<Work*>(user);
          ++seen.freed;
          for (const std::atomic<bool>& is_done : seen.is_done) seen.early += is_done.load() ? 0 : 1;
        },
        &work);
    const cuda::Stream streams[3] = {rig.stream(), rig.stream(), rig.stream()};
    {
      StreamPool pool;
      REQUIRE(pool.open(gpu, over(arena, true)).ok());
      for (unsigned i = 0; i < 3; ++i) {
        const cuda::DevicePointer address = get(pool, ref_of(pool, streams[i]), 4096 * (i + 1));
        for (unsigned k = 0; k < 20; ++k) {
          REQUIRE(rig.driver.memset_d32_async(address, k, 1024, streams[i]) == Result::success);
        }
        REQUIRE(rig.driver.launch_host_function(
                    streams[i],
                    [](void* flag) {
                      std::this_thread::sleep_for(std::chrono::milliseconds(2));
                      static_cast<std::atomic<bool>*>(flag)->store(true);
                    },
                    &work.is_done[i]) == Result::success);
        // One of them stays with the program, which forgot it.
        if (i != 1) REQUIRE(pool.deallocate(address, ref_of(pool, streams[i])).ok());
      }
      if (!is_destroyed) REQUIRE(pool.close().ok());
    }
    CHECK(work.freed == 3);
    CHECK(work.early == 0);
    CHECK(arena.blocks() == 0);
    for (const cuda::Stream stream : streams) REQUIRE(rig.driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("X6 a pool that cannot wait for the device stays as it was", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    ArenaSource arena(rig, kArena);
    StreamPool pool;
    REQUIRE(pool.open(gpu, over(arena)).ok());
    const StreamRef ref = ref_of(pool, nullptr);
    const cuda::DevicePointer address = get(pool, ref, 512);
    failing.fail({Call::ctx_synchronize, 1, 1, Result::not_permitted});
    CHECK(pool.close().status == Status::unsupported);
    CHECK(pool.is_open());
    CHECK(arena.blocks() == 1);
    REQUIRE(pool.deallocate(address, ref).ok());
    CHECK(get(pool, ref, 512) == address);
    CHECK(pool.close().ok());
    CHECK(arena.blocks() == 0);
  });
}

}  // namespace
}  // namespace device_test
