// The stream pool under an order of work that is as bad as it can be, under threads, and with each call of
// the driver failing. Every block is filled with a number of its own, and read before it is freed.
#include "src/device/device_heap.h"
#include "tests/device_stream_rig.h"
#include "tests/random.h"

namespace device_test {
namespace {

using cuda::Call;
using cuda::Result;

// One thread does all of it, so the thread sanitizer need not see every seed.
#if defined(__SANITIZE_THREAD__)
constexpr unsigned kSeeds = 60, kHeapSeeds = 20, kLeftOutSeeds = 40, kFailuresMax = 10;
#else
constexpr unsigned kSeeds = 600, kHeapSeeds = 60, kLeftOutSeeds = 200, kFailuresMax = 100;
#endif
constexpr std::size_t kArena = 2 * kMiB;
constexpr std::uint64_t kSizes[] = {256, 512, 1024};
constexpr std::uint32_t kWordsMax = 256;

// A program with several streams that writes down what it should find.
class Program {
 public:
  struct Options {
    bool use_timeline = false;
    unsigned streams = 3, steps = 60;
    std::size_t limit_bytes = 6 * kKiB;  // of the arena
    std::uint64_t scale = 1;             // blocks are that much larger; only their first words are used
  };

  Program(Rig& rig, Gpu& gpu, ArenaSource& arena, const Options& options)
      : Program(rig, gpu, arena.table(), options) {
    arena.set_limit(options.limit_bytes);
  }
  Program(Rig& rig, Gpu& gpu, const BlockSource& source, const Options& options)
      : rig_(rig), options_(options), pinned_(rig.pinned(2 * options.steps * kWordsMax)) {
    StreamPoolOptions pool;
    pool.source = source;
    pool.use_timeline = options.use_timeline;
    pool.streams_max = 8;
    pool.blocks_max = 1u << 16;
    REQUIRE(pool_.open(gpu, pool).ok());
    for (unsigned i = 0; i < options.streams; ++i) streams_.push_back(rig.stream());
  }
  // Waits for all and gives back what it took; the number of blocks with wrong contents.
  unsigned finish() {
    CHECK(rig_.driver.ctx_synchronize() == Result::success);
    unsigned wrong = 0;
    for (const Expected& read : expected_) {
      bool is_right = true;
      for (std::uint32_t i = 0; i < read.words; ++i) is_right &= pinned_[read.at + i] == read.number;
      wrong += is_right ? 0 : 1;
    }
    CHECK(is_balanced(pool_));
    CHECK(pool_.stats().live_blocks == live_.size());
    CHECK(pool_.close().ok());
    for (const cuda::Stream stream : streams_) CHECK(rig_.driver.stream_destroy(stream) == Result::success);
    for (const cuda::Event event : events_) CHECK(rig_.driver.event_destroy(event) == Result::success);
    CHECK(rig_.driver.mem_free_host(pinned_) == Result::success);
    return wrong;
  }

  // Calls may be refused where the driver is made to fail; otherwise all must succeed.
  void run(Random& random, bool may_fail = false) {
    may_fail_ = may_fail;
    for (unsigned step = 0; step < options_.steps; ++step) {
      const std::uint64_t what = random.below(100);
      if (what < 50) {
        allocate(random);
      } else if (what < 60) {
        use_elsewhere(random);
      } else if (what < 94) {
        free_one(random);
      } else if (what < 96) {
        expect(pool_.synchronize());
      } else if (what < 98) {
        static_cast<void>(pool_.trim(random.below(4096)));
      } else {
        replace_stream(random);
      }
    }
  }
  StreamPool& pool() { return pool_; }

 private:
  struct Live {
    cuda::DevicePointer address;
    std::uint32_t words, number;
    cuda::Stream home;
  };
  struct Expected {
    std::size_t at;
    std::uint32_t words, number;
  };

  void expect(Outcome outcome) { is_fine_ &= expect_(outcome.ok() || may_fail_); }
  cuda::Stream any_stream(Random& random) { return streams_[random.below(streams_.size())]; }

  void allocate(Random& random) {
    const std::uint64_t size = kSizes[random.below(3)];
    const cuda::Stream stream = any_stream(random);
    Live block = {0, static_cast<std::uint32_t>(size / 4), ++last_number_, stream};
    const std::uint64_t bytes = size * options_.scale;
    Outcome outcome = pool_.allocate(bytes, 0, stream, &block.address);
    const bool is_full = outcome.status == Status::out_of_memory || outcome.status == Status::over_budget;
    if (is_full && !may_fail_) {
      // The program has it all.
      REQUIRE(pool_.last_failure().idle_blocks == 0);
      while (!live_.empty() && !outcome.ok()) {
        free_one(random);
        outcome = pool_.allocate(bytes, 0, stream, &block.address);
      }
    }
    expect(outcome);
    if (!outcome.ok()) return;
    for (const Live& other : live_) {
      const bool is_apart =
          block.address + size <= other.address || other.address + other.words * 4 <= block.address;
      REQUIRE(is_apart);
    }
    REQUIRE(rig_.driver.memset_d32_async(block.address, block.number, block.words, stream) ==
            Result::success);
    live_.push_back(block);
  }

  void read(const Live& block, cuda::Stream in) {
    const Expected read = {expected_.size() * kWordsMax, block.words, block.number};
    REQUIRE(rig_.driver.memcpy_d2h_async(pinned_ + read.at, block.address, block.words * 4, in) ==
            Result::success);
    expected_.push_back(read);
  }
  void order(cuda::Stream first, cuda::Stream second) {
    events_.push_back(rig_.event());
    REQUIRE(rig_.driver.event_record(events_.back(), first) == Result::success);
    REQUIRE(rig_.driver.stream_wait_event(second, events_.back(), 0) == Result::success);
  }

  void use_elsewhere(Random& random) {
    if (live_.empty() || expected_.size() + 1 >= 2 * options_.steps) return;
    const Live& block = live_[random.below(live_.size())];
    const cuda::Stream other = any_stream(random);
    const Outcome outcome = pool_.record_use(block.address, other);
    expect(outcome);
    if (!outcome.ok()) return;
    order(block.home, other);
    read(block, other);
  }

  void free_one(Random& random) {
    if (live_.empty()) return;
    const std::size_t chosen = random.below(live_.size());
    const Live block = live_[chosen];
    cuda::Stream in = block.home;
    read(block, in);
    if (random.one_in(5)) {
      in = any_stream(random);
      order(block.home, in);
    }
    Outcome outcome = pool_.deallocate(block.address, in);
    // Refused only because the stream was not found; then it is still there.
    if (!outcome.ok() && may_fail_) outcome = pool_.deallocate(block.address, in);
    expect(outcome);
    if (!outcome.ok()) return;
    live_[chosen] = live_.back();
    live_.pop_back();
  }

  void replace_stream(Random& random) {
    cuda::Stream& stream = streams_[random.below(streams_.size())];
    const cuda::Stream next = rig_.stream();
    for (Live& block : live_) {
      if (block.home != stream) continue;
      order(stream, next);
      block.home = next;
    }
    const Outcome outcome = pool_.forget_stream(stream);
    if (outcome.status != Status::bad_argument) expect(outcome);  // it was never used
    REQUIRE(rig_.driver.stream_destroy(stream) == Result::success);
    stream = next;
  }

  Rig& rig_;
  Options options_;
  StreamPool pool_;
  std::vector<cuda::Stream> streams_;
  std::vector<cuda::Event> events_;
  std::uint32_t* pinned_;
  std::vector<Live> live_;
  std::vector<Expected> expected_;
  std::uint32_t last_number_ = 0;
  bool may_fail_ = false, is_fine_ = true;
  Expect expect_;

 public:
  bool is_fine() const { return is_fine_; }
};

EmulatedGpu::Options machine(GpuSchedule schedule, std::uint64_t seed) {
  EmulatedGpu::Options options = gpu_test::small(schedule, seed);
  options.device_bytes = 4 * kMiB;
  options.host_bytes = 4 * kMiB;
  return options;
}

// Counts the waits of streams for each other that the pool asks for, and leaves one of them out.
struct Waits {
  cuda::Driver inner;
  unsigned left_out = 0;  // number of the wait, counted from 1; 0: none
  unsigned asked = 0;

  static Result wait(void* self, cuda::Stream stream, cuda::Event event, unsigned flags) {
    auto& waits = *static_cast<Waits*>(self);
    if (++waits.asked == waits.left_out) return Result::success;
    return waits.inner.stream_wait_event(stream, event, flags);
  }
};

// The wrong blocks of one run, where streams wait for each other as the pool says, but for one of the waits.
unsigned wrong_blocks(std::uint64_t seed, bool use_timeline, unsigned left_out, StreamPoolStats* sum,
                      unsigned* asked = nullptr) {
  unsigned wrong = 0;
  gpu_test::on_emulator(machine(GpuSchedule::adversarial, seed), [&](Rig& rig) {
    Waits waits = {rig.driver, left_out};
    cuda::Driver driver = rig.driver;
    driver.stream_wait_event = {&waits, Waits::wait};
    Gpu gpu;
    REQUIRE(gpu.open(driver).ok());
    {
      ArenaSource arena(rig, kArena);
      Program::Options options;
      options.use_timeline = use_timeline;
      Program program(rig, gpu, arena, options);
      Random random(seed);
      program.run(random);
      CHECK(program.is_fine());
      const StreamPoolStats stats = program.pool().stats();
      for (unsigned i = 0; i < kBlockOrigins; ++i) sum->origins[i] += stats.origins[i];
      sum->host_waits += stats.host_waits;
      wrong = program.finish();
    }
    gpu.close();
    if (asked != nullptr) *asked = waits.asked;
  });
  return wrong;
}

TEST_CASE("X3 X4 a stream pool under the adversarial order, 600 seeds", "[device]") {
  const std::uint64_t first = test_seed();
  StreamPoolStats sum;
  for (std::uint64_t seed = first; seed < first + kSeeds; ++seed) {
    INFO("GLEBE_TEST_SEED=" << seed);
    REQUIRE(wrong_blocks(seed, seed % 2 != 0, 0, &sum) == 0);
  }
  // Every way was gone.
  for (const BlockOrigin way : {BlockOrigin::same_stream, BlockOrigin::completed, BlockOrigin::waited_for,
                                BlockOrigin::source, BlockOrigin::reclaimed}) {
    INFO("origin " << static_cast<int>(way));
    CHECK(sum.origins[static_cast<unsigned>(way)] > kSeeds / 6);
  }
  CHECK(sum.host_waits > kSeeds / 6);
}

// Chunks come and go below, and move to other addresses when nothing lives in them.
TEST_CASE("X3 X4 a stream pool over the device heap under the adversarial order", "[device]") {
  const std::uint64_t first = test_seed();
  std::uint64_t reclaimed = 0;
  for (std::uint64_t seed = first; seed < first + kHeapSeeds; ++seed) {
    INFO("GLEBE_TEST_SEED=" << seed);
    on_gpu(gpu_test::small(GpuSchedule::adversarial, seed), [&](Rig& rig, Gpu& gpu) {
      DeviceHeap heap;
      DeviceHeapOptions limits;
      limits.reserve_bytes = 256 * kMiB;
      limits.limit_bytes = 6 * kMiB;
      REQUIRE(heap.open(gpu, limits).ok());
      {
        Program::Options options;
        options.use_timeline = seed % 2 != 0;
        options.scale = kKiB;
        Program program(rig, gpu, heap.source(), options);
        Random random(seed);
        program.run(random);
        CHECK(program.is_fine());
        reclaimed += origin(program.pool(), BlockOrigin::reclaimed);
        REQUIRE(program.finish() == 0);
      }
      CHECK(heap.validate());
      CHECK(heap.stats().live_blocks == 0);
      CHECK(heap.close() == 0);
    });
  }
  CHECK(reclaimed > kHeapSeeds / 6);
}

TEST_CASE("X3 the adversarial order finds a stream that does not wait for another one", "[device]") {
  // Each run as it should be, and then with one wait left out: not every one of them matters in every order.
  unsigned runs = 0, found = 0;
  StreamPoolStats sum;
  for (std::uint64_t seed = 1; seed <= kLeftOutSeeds; ++seed) {
    INFO("seed " << seed);
    unsigned asked = 0;
    REQUIRE(wrong_blocks(seed, false, 0, &sum, &asked) == 0);
    if (asked == 0) continue;
    ++runs;
    const auto left_out = static_cast<unsigned>(1 + seed % asked);
    found += wrong_blocks(seed, false, left_out, &sum) != 0 ? 1 : 0;
  }
  INFO(found << " of " << runs << " runs with one wait left out were found");
  CHECK(runs > kLeftOutSeeds / 2);
  CHECK(found > 0);
}

// --- Each call fails once ---

bool fails_at(Call call, unsigned nth, bool use_timeline, std::uint64_t seed) {
  bool has_failed = false;
  on_failing_gpu(machine(GpuSchedule::eager, seed), [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    ArenaSource arena(rig, kArena);
    Program::Options options;
    options.use_timeline = use_timeline;
    options.steps = 150;
    Program program(rig, gpu, arena, options);
    Random random(seed);
    failing.fail({call, nth, 1, Result::unknown});
    program.run(random, true);
    has_failed = failing.failures(call) != 0;
    failing.stop_failing();
    CHECK(is_balanced(program.pool()));
    CHECK(program.pool().synchronize().ok());
    CHECK(program.finish() == 0);
    CHECK(arena.blocks() == 0);
  });
  return has_failed;
}

TEST_CASE("X6 whichever call of the driver fails, a stream pool keeps its blocks and its account",
          "[device]") {
  const Call call = GENERATE(Call::stream_get_id, Call::stream_is_capturing, Call::event_create,
                             Call::event_record, Call::event_query, Call::event_synchronize,
                             Call::stream_wait_event, Call::stream_write_value64, Call::ctx_synchronize);
  INFO(cuda::symbol_of(call));
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  unsigned failed = 0;
  for (unsigned nth = 1; nth <= kFailuresMax; ++nth) {
    const bool is_of_timeline = call == Call::stream_write_value64;
    if (!fails_at(call, nth, is_of_timeline || nth % 2 == 0, seed) && nth > 2) break;
    ++failed;
  }
  CHECK(failed > 0);
}

}  // namespace
}  // namespace device_test
