// The stream pool, one behaviour at a time: what is reused when, what is refused, what is counted, and what
// happens to streams and devices that go away.
#include "tests/device_stream_rig.h"

namespace device_test {
namespace {

using cuda::Call;
using cuda::Result;

constexpr std::size_t kArena = 8 * kMiB;

std::uint64_t driver_calls(const FailingDriver& failing) {
  std::uint64_t calls = 0;
  for (unsigned i = 0; i < cuda::kCallCount; ++i) calls += failing.calls(static_cast<Call>(i));
  return calls;
}

// Runs body(rig, gpu, pool, arena) with a pool over an arena.
template <class Body>
void with_pool(const EmulatedGpu::Options& emulator, bool use_timeline, Body body) {
  on_gpu(emulator, [&](Rig& rig, Gpu& gpu) {
    ArenaSource arena(rig, kArena);
    StreamPool pool;
    REQUIRE(pool.open(gpu, over(arena, use_timeline)).ok());
    body(rig, gpu, pool, arena);
    CHECK(is_balanced(pool));
    CHECK(pool.close().ok());
    CHECK(pool.close().ok());
    CHECK(arena.blocks() == 0);
  });
}

TEST_CASE("P14 size classes of a stream pool hold what was asked for and little more", "[device]") {
  std::uint64_t previous = 0;
  for (unsigned i = 0; i < kSizeClasses; ++i) {
    const std::uint64_t bytes = bytes_of_class(i);
    REQUIRE(bytes > previous);
    REQUIRE(bytes % kDeviceAlignBytes == 0);
    REQUIRE(size_class_of(bytes) == i);
    REQUIRE(size_class_of(previous + 1) == i);
    if (bytes > kFineMaxBytes) REQUIRE(bytes - (previous + 1) < bytes / (bytes > kMiddleMaxBytes ? 32 : 8));
    previous = bytes;
  }
  CHECK(previous == kPooledMaxBytes);
}

TEST_CASE("X1 P13 P14 sizes and alignments of a stream pool; what makes no sense is refused", "[device]") {
  with_pool(gpu_test::small(), false, [](Rig& rig, Gpu& gpu, StreamPool& pool, ArenaSource& arena) {
    const cuda::Stream stream = rig.stream();
    const StreamRef ref = ref_of(pool, stream);
    for (const std::uint64_t size : {std::uint64_t{1}, std::uint64_t{255}, std::uint64_t{256},
                                     std::uint64_t{257}, std::uint64_t{5000}, std::uint64_t{kMiB + 1}}) {
      for (std::uint64_t align = 0; align <= 64 * kKiB; align = align == 0 ? 1 : align * 2) {
        cuda::DevicePointer address = 0;
        REQUIRE(pool.allocate(size, align, ref, &address).ok());
        REQUIRE(address % std::max<std::uint64_t>(align, 256) == 0);
        REQUIRE(rig.driver.memset_d8_async(address, 7, size, stream) == Result::success);
        REQUIRE(pool.deallocate(address, ref).ok());
      }
    }
    cuda::DevicePointer address = 0;
    for (const std::uint64_t size :
         {std::uint64_t{0}, std::uint64_t{kPooledMaxBytes + 1}, UINT64_MAX, UINT64_MAX / 2}) {
      CHECK(pool.allocate(size, 0, ref, &address).status == Status::bad_argument);
    }
    for (const std::uint64_t align : {std::uint64_t{3}, std::uint64_t{257}, UINT64_MAX}) {
      CHECK(pool.allocate(64, align, ref, &address).status == Status::bad_argument);
    }
    CHECK(pool.allocate(64, 0, StreamRef{}, &address).status == Status::bad_argument);
    CHECK(pool.allocate(64, 0, StreamRef{5, 1}, &address).status == Status::bad_argument);
    CHECK(pool.allocate(kGiB, 0, ref, &address).status == Status::out_of_memory);
    CHECK(pool.open(gpu, over(arena)).status == Status::in_use);
    REQUIRE(rig.driver.stream_destroy(stream) == Result::success);
    StreamPool closed;
    CHECK(closed.allocate(64, 0, ref, &address).status == Status::bad_argument);
    CHECK(closed.deallocate(64, ref).status == Status::bad_argument);
    CHECK(closed.synchronize().status == Status::bad_argument);
    CHECK(closed.trim(0) == 0);
    StreamPoolOptions nothing;
    CHECK(closed.open(gpu, nothing).status == Status::bad_argument);
  });
}

TEST_CASE("K1 P10 mut-D01 a freed block is its stream's next one, without a call of the driver", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    ArenaSource arena(rig, kArena);
    StreamPool pool;
    REQUIRE(pool.open(gpu, over(arena)).ok());
    const cuda::Stream stream = rig.stream(), other = rig.stream();
    const StreamRef ref = ref_of(pool, stream);
    CHECK(pool.stats().requests == 0);
    static_cast<void>(ref_of(pool, other));
    const cuda::DevicePointer first = get(pool, ref, 1000);
    REQUIRE(pool.deallocate(first, ref).ok());
    const StreamPoolStats before = pool.stats();
    CHECK(before.held_blocks == 1);
    CHECK(before.held_bytes == 1024);
    const std::uint64_t calls = driver_calls(failing);
    for (int i = 0; i < 1000; ++i) {
      REQUIRE(get(pool, ref, 900) == first);
      REQUIRE(pool.stats().wanted_bytes == 900);
      REQUIRE(pool.deallocate(first, ref).ok());
    }
    CHECK(driver_calls(failing) == calls);
    const StreamPoolStats after = pool.stats();
    CHECK(after.requests == before.requests + 1000);
    CHECK(after.frees == before.frees + 1000);
    CHECK(origin(pool, BlockOrigin::same_stream) == 1000);
    CHECK(after.held_blocks == 1);
    CHECK(arena.blocks() == 1);
    // Many blocks come back in full: none is lost on the way.
    std::vector<cuda::DevicePointer> many(200);
    for (int round = 0; round < 3; ++round) {
      for (cuda::DevicePointer& address : many) address = get(pool, ref, 1000);
      for (const cuda::DevicePointer address : many) REQUIRE(pool.deallocate(address, ref).ok());
      CHECK(arena.blocks() == 200);
      CHECK(is_balanced(pool));
    }
    CHECK(origin(pool, BlockOrigin::source) == 200);
    REQUIRE(pool.close().ok());
    REQUIRE(rig.driver.stream_destroy(stream) == Result::success);
    REQUIRE(rig.driver.stream_destroy(other) == Result::success);
  });
}

TEST_CASE("S11 mut-B14 double frees and foreign addresses in a stream pool", "[device]") {
  with_pool(gpu_test::small(), false, [](Rig&, Gpu&, StreamPool& pool, ArenaSource& arena) {
    const StreamRef ref = ref_of(pool, nullptr);
    const cuda::DevicePointer address = get(pool, ref, 4096);
    CHECK(pool.deallocate(0, ref).status == Status::not_owned);
    CHECK(pool.deallocate(address + 256, ref).status == Status::not_owned);
    CHECK(pool.deallocate(address + 1, ref).status == Status::not_owned);
    CHECK(pool.record_use(address + 256, ref).status == Status::not_owned);
    REQUIRE(pool.deallocate(address, ref).ok());
    CHECK(pool.deallocate(address, ref).status == Status::double_free);
    CHECK(pool.record_use(address, ref).status == Status::not_owned);
    CHECK(pool.stats().refused_frees == 4);
    CHECK(pool.stats().idle_blocks == 1);
    CHECK(pool.trim(0) == 4096);
    CHECK(pool.deallocate(address, ref).status == Status::not_owned);
    CHECK(arena.blocks() == 0);
    CHECK(arena.trimmed_to() == 0);
  });
}

// A stream that stands still keeps its block; one that is done gives its block away.
void check_busy_stream(bool use_timeline) {
  on_gpu(gpu_test::small(GpuSchedule::threaded), [&](Rig& rig, Gpu& gpu) {
    ArenaSource arena(rig, kArena);
    StreamPoolOptions options = over(arena, use_timeline);
    options.reuse_with_wait = false;
    StreamPool pool;
    REQUIRE(pool.open(gpu, options).ok());
    const cuda::Stream busy = rig.stream(), done = rig.stream(), asks = rig.stream();
    const StreamRef busy_ref = ref_of(pool, busy), done_ref = ref_of(pool, done), ref = ref_of(pool, asks);
    Gate gate(rig, busy);
    std::vector<cuda::DevicePointer> kept(70), given(70);
    for (cuda::DevicePointer& address : kept) address = get(pool, busy_ref, 512);
    for (cuda::DevicePointer& address : given) address = get(pool, done_ref, 512);
    for (const cuda::DevicePointer address : kept) REQUIRE(pool.deallocate(address, busy_ref).ok());
    for (const cuda::DevicePointer address : given) REQUIRE(pool.deallocate(address, done_ref).ok());
    CHECK(pool.stats().epochs_closed == 2);
    REQUIRE(rig.driver.stream_synchronize(done) == Result::success);
    const auto is_one_of = [](const std::vector<cuda::DevicePointer>& all, cuda::DevicePointer address) {
      return std::find(all.begin(), all.end(), address) != all.end();
    };
    for (int i = 0; i < 65; ++i) REQUIRE(is_one_of(given, get(pool, ref, 512)));
    CHECK(origin(pool, BlockOrigin::completed) == 65);
    for (int i = 0; i < 5; ++i) REQUIRE_FALSE(is_one_of(kept, get(pool, ref, 512)));
    gate.open();
    REQUIRE(pool.synchronize().ok());
    for (int i = 0; i < 70; ++i) REQUIRE((is_one_of(kept, get(pool, ref, 512)) || i >= 70));
    CHECK(is_balanced(pool));
    REQUIRE(pool.close().ok());
    for (const cuda::Stream stream : {busy, done, asks}) {
      REQUIRE(rig.driver.stream_destroy(stream) == Result::success);
    }
  });
}
TEST_CASE("X4 X3 mut-B08 a busy stream keeps its blocks and hides none of the others'", "[device]") {
  check_busy_stream(false);
}
TEST_CASE("X4 X3 a busy stream, when the device writes how far it is", "[device]") {
  check_busy_stream(true);
}

TEST_CASE("X3 X4 a stream takes another one's block and waits for it on the device", "[device]") {
  const bool use_timeline = GENERATE(false, true);
  with_pool(gpu_test::small(GpuSchedule::threaded), use_timeline,
            [](Rig& rig, Gpu&, StreamPool& pool, ArenaSource& arena) {
              const cuda::Stream from = rig.stream(), to = rig.stream();
              const StreamRef from_ref = ref_of(pool, from), to_ref = ref_of(pool, to);
              const cuda::DevicePointer address = get(pool, from_ref, 2048);
              {
                Gate gate(rig, from);
                REQUIRE(rig.store_word(address, 1, from) == Result::success);
                REQUIRE(pool.deallocate(address, from_ref).ok());
                REQUIRE(get(pool, to_ref, 2048) == address);
                CHECK(origin(pool, BlockOrigin::waited_for) == 1);
                CHECK(pool.stats().stream_waits == 1);
                REQUIRE(rig.store_word(address, 2, to) == Result::success);
                for (int i = 0; i < 20; ++i) {
                  REQUIRE(rig.driver.stream_query(to) == Result::not_ready);
                  std::this_thread::sleep_for(std::chrono::microseconds(100));
                }
                gate.open();
                REQUIRE(rig.driver.stream_synchronize(to) == Result::success);
              }
              CHECK(rig.read_word(address) == 2);
              CHECK(arena.blocks() == 1);
              REQUIRE(pool.deallocate(address, to_ref).ok());
              for (const cuda::Stream stream : {from, to}) {
                REQUIRE(pool.forget_stream(stream).ok());
                REQUIRE(rig.driver.stream_destroy(stream) == Result::success);
              }
            });
}

TEST_CASE("X4 every kind of reuse can be switched off", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ArenaSource arena(rig, kArena);
    for (unsigned mask = 0; mask < 8; ++mask) {
      StreamPoolOptions options = over(arena);
      options.source = arena.telling_table();
      options.reuse_source_idle = (mask & 1) != 0;
      options.reuse_completed = (mask & 2) != 0;
      options.reuse_with_wait = (mask & 4) != 0;
      StreamPool pool;
      REQUIRE(pool.open(gpu, options).ok());
      const cuda::Stream from = rig.stream(), to = rig.stream();
      const StreamRef from_ref = ref_of(pool, from), to_ref = ref_of(pool, to);
      const unsigned calls = arena.idle_calls();
      // One block idle in a stream; the source has none.
      REQUIRE(pool.deallocate(get(pool, from_ref, kMiB), from_ref).ok());
      arena.set_limit(kMiB);
      const cuda::DevicePointer address = get(pool, to_ref, kMiB);
      const bool is_reclaimed = (mask & 6) == 0;
      CHECK(origin(pool, BlockOrigin::waited_for) == ((mask & 4) != 0 ? 1 : 0));
      CHECK(origin(pool, BlockOrigin::reclaimed) == (is_reclaimed || mask == 2 || mask == 3 ? 1 : 0));
      CHECK((arena.idle_calls() > calls) == ((mask & 1) != 0));
      REQUIRE(pool.deallocate(address, to_ref).ok());
      // A closed epoch that is done: now 2 finds it.
      REQUIRE(pool.synchronize().ok());
      REQUIRE(pool.deallocate(get(pool, from_ref, kMiB), from_ref).ok());
      CHECK(origin(pool, BlockOrigin::completed) == ((mask & 2) != 0 ? 1 : 0));
      // The source has it: 1 finds it, where it is on.
      CHECK(pool.trim(0) == kMiB);
      REQUIRE(pool.deallocate(get(pool, to_ref, kMiB), to_ref).ok());
      CHECK(origin(pool, BlockOrigin::source_idle) >= ((mask & 1) != 0 ? 1 : 0));
      CHECK(is_balanced(pool));
      REQUIRE(pool.close().ok());
      arena.set_limit(kArena);
      REQUIRE(rig.driver.stream_destroy(from) == Result::success);
      REQUIRE(rig.driver.stream_destroy(to) == Result::success);
    }
  });
}

TEST_CASE("X4 a block that another stream uses too waits for both", "[device]") {
  const bool use_timeline = GENERATE(false, true);
  with_pool(gpu_test::small(GpuSchedule::threaded), use_timeline,
            [](Rig& rig, Gpu&, StreamPool& pool, ArenaSource&) {
              const cuda::Stream home = rig.stream(), user = rig.stream();
              const StreamRef home_ref = ref_of(pool, home), user_ref = ref_of(pool, user);
              const cuda::DevicePointer address = get(pool, home_ref, 512);
              REQUIRE(pool.record_use(address, user).ok());
              REQUIRE(pool.record_use(address, user_ref).ok());
              REQUIRE(pool.record_use(address, home_ref).ok());
              {
                Gate gate(rig, user);
                REQUIRE(rig.store_word(address, 3, user) == Result::success);
                REQUIRE(pool.deallocate(address, home_ref).ok());
                CHECK(pool.deallocate(address, home_ref).status == Status::double_free);
                CHECK(get(pool, home_ref, 512) != address);
                CHECK(get(pool, user_ref, 512) != address);
                gate.open();
              }
              REQUIRE(rig.driver.stream_synchronize(user) == Result::success);
              CHECK(get(pool, home_ref, 512) == address);
              // One user is forgotten, and destroyed, before the block is freed.
              REQUIRE(pool.record_use(address, user_ref).ok());
              {
                Gate gate(rig, user);
                REQUIRE(rig.store_word(address, 4, user) == Result::success);
                REQUIRE(pool.forget_stream(user_ref).ok());
                REQUIRE(rig.driver.stream_destroy(user) == Result::success);
                CHECK(pool.record_use(address, user_ref).status == Status::bad_argument);
                REQUIRE(pool.deallocate(address, home_ref).ok());
                CHECK(get(pool, home_ref, 512) != address);
                gate.open();
                REQUIRE(pool.synchronize().ok());
              }
              CHECK(get(pool, home_ref, 512) == address);
              CHECK(rig.read_word(address) == 4);
              REQUIRE(rig.driver.stream_destroy(home) == Result::success);
            });
}

TEST_CASE("R11 thirty asynchronous frees in flight need memory for little more than thirty", "[device]") {
  const bool use_timeline = GENERATE(false, true);
  with_pool(gpu_test::small(GpuSchedule::threaded), use_timeline,
            [](Rig& rig, Gpu&, StreamPool& pool, ArenaSource& arena) {
              const cuda::Stream streams[2] = {rig.stream(), rig.stream()};
              const StreamRef refs[2] = {ref_of(pool, streams[0]), ref_of(pool, streams[1])};
              const cuda::Event written = rig.event();
              std::vector<std::pair<cuda::DevicePointer, unsigned>> flight;  // and who writes it
              const auto free_in = [&](unsigned where, std::size_t at) {
                const auto [address, home] = flight[at];
                if (home != where) {
                  REQUIRE(rig.driver.event_record(written, streams[home]) == Result::success);
                  REQUIRE(rig.driver.stream_wait_event(streams[where], written, 0) == Result::success);
                }
                REQUIRE(pool.deallocate(address, refs[where]).ok());
                flight.erase(flight.begin() + static_cast<std::ptrdiff_t>(at));
              };
              for (unsigned i = 0; i < 1000; ++i) {
                const cuda::DevicePointer address = get(pool, refs[i % 2], 64 * kKiB);
                REQUIRE(rig.driver.memset_d32_async(address, i, 64, streams[i % 2]) == Result::success);
                flight.emplace_back(address, i % 2);
                if (flight.size() >= 30) free_in((i + 1) % 2, i % 30);
              }
              CHECK(arena.peak_bytes() <= 32 * 64 * kKiB);
              while (!flight.empty()) free_in(0, 0);
              REQUIRE(pool.synchronize().ok());
              REQUIRE(rig.driver.event_destroy(written) == Result::success);
              CHECK(pool.stats().live_blocks == 0);
              for (const cuda::Stream stream : streams)
                REQUIRE(rig.driver.stream_destroy(stream) == Result::success);
            });
}

struct PressedProgram {
  StreamPool pool;
  StreamRef ref;
  cuda::DevicePointer spare = 0;
  std::uint64_t missing_bytes = 0;

  static bool give_up(void* user, std::uint64_t missing_bytes) {
    auto& asked = *static_cast<PressedProgram*>(user);
    asked.missing_bytes = missing_bytes;
    if (asked.spare == 0) return false;
    CHECK(asked.pool.deallocate(asked.spare, asked.ref).ok());
    asked.spare = 0;
    return true;
  }
};

TEST_CASE("X6 P8 a stream pool out of memory waits, asks and then tells where it is", "[device]") {
  on_gpu(gpu_test::small(GpuSchedule::adversarial), [](Rig& rig, Gpu& gpu) {
    ArenaSource arena(rig, kArena);
    arena.set_limit(4 * kMiB);
    PressedProgram program;
    StreamPool& pool = program.pool;
    StreamPoolOptions options = over(arena);
    options.user = &program;
    options.on_pressure = PressedProgram::give_up;
    REQUIRE(pool.open(gpu, options).ok());
    const cuda::Stream stream = rig.stream(), other = rig.stream();
    const StreamRef ref = ref_of(pool, stream), other_ref = ref_of(pool, other);
    program.ref = ref;
    // Small blocks of two streams with work in them; a large one needs all of that memory.
    for (unsigned i = 0; i < 12; ++i) {
      const cuda::DevicePointer address = get(pool, i % 2 != 0 ? ref : other_ref, 128 * kKiB + i * 16 * kKiB);
      const cuda::Stream in = i % 2 != 0 ? stream : other;
      REQUIRE(rig.driver.memset_d32_async(address, 1, 1000, in) == Result::success);
      REQUIRE(pool.deallocate(address, i % 2 != 0 ? ref : other_ref).ok());
    }
    cuda::DevicePointer large = get(pool, ref, 3 * kMiB);
    CHECK(origin(pool, BlockOrigin::reclaimed) == 1);
    CHECK(pool.stats().host_waits > 0);
    CHECK(is_balanced(pool));
    // Nothing idle: the program gives something up.
    program.spare = get(pool, other_ref, kMiB);
    cuda::DevicePointer address = 0;
    REQUIRE(pool.allocate(500 * kKiB, 0, ref, &address).ok());
    CHECK(program.missing_bytes == 512 * kKiB);
    CHECK(program.spare == 0);
    // Nothing at all.
    CHECK(pool.allocate(2 * kMiB, 512, ref, &large).status == Status::out_of_memory);
    const StreamPoolFailure failure = pool.last_failure();
    CHECK(failure.size_bytes == 2 * kMiB);
    CHECK(failure.align_bytes == 512);
    CHECK(failure.outcome.status == Status::out_of_memory);
    CHECK(failure.live_blocks == 2);
    CHECK(failure.live_bytes == 3 * kMiB + 512 * kKiB);
    CHECK(failure.idle_bytes == 0);
    CHECK(failure.held_bytes == failure.live_bytes);
    CHECK(failure.streams == 2);
    CHECK(pool.stats().failures == 1);
    CHECK(is_balanced(pool));
    REQUIRE(pool.deallocate(large, ref).ok());
    REQUIRE(pool.allocate(2 * kMiB, 512, other_ref, &large).ok());
    REQUIRE(pool.close().ok());
    for (const cuda::Stream each : {stream, other}) {
      REQUIRE(rig.driver.stream_destroy(each) == Result::success);
    }
  });
}

TEST_CASE("X6 a source that refuses a block leaves it where it was", "[device]") {
  with_pool(gpu_test::small(), false, [](Rig&, Gpu&, StreamPool& pool, ArenaSource& arena) {
    const StreamRef ref = ref_of(pool, nullptr);
    cuda::DevicePointer blocks[3];
    for (cuda::DevicePointer& address : blocks) address = get(pool, ref, 512);
    for (const cuda::DevicePointer address : blocks) REQUIRE(pool.deallocate(address, ref).ok());
    arena.refuse_frees(1);
    CHECK(pool.trim(0) == 0);
    CHECK(pool.stats().idle_blocks == 3);
    CHECK(is_balanced(pool));
    CHECK(pool.deallocate(blocks[0], ref).status == Status::double_free);
    CHECK(pool.trim(600) == 1024);
    CHECK(pool.stats().idle_blocks == 1);
    CHECK(arena.blocks() == 1);
    CHECK(arena.trimmed_to() == 600 - 512);
  });
}

}  // namespace
}  // namespace device_test
