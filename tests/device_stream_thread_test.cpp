// The stream pool under threads: streams of their own and shared ones, blocks that one thread allocates and
// another one frees, and threads that wait, trim and count meanwhile. Run it under TSan.
#include "tests/device_stream_rig.h"
#include "tests/random.h"

namespace device_test {
namespace {

using cuda::Result;

constexpr std::size_t kArena = 4 * kMiB;
constexpr unsigned kThreads = 4, kSteps = 400, kWords = 64;

// What all threads see.
struct Shared {
  Shared(Rig& the_rig, StreamPool& the_pool, cuda::DevicePointer the_base)
      : rig(the_rig), pool(the_pool), base(the_base) {}

  Rig& rig;
  StreamPool& pool;
  cuda::DevicePointer base;
  std::vector<cuda::Stream> streams;  // one for each thread, and one for all
  std::vector<std::atomic<std::uint32_t>> owners = std::vector<std::atomic<std::uint32_t>>(kArena / 256);
  struct Handed {
    cuda::DevicePointer address;
    cuda::Stream home;
    std::uint32_t number;
  };
  std::mutex mutex;
  std::vector<Handed> handed;
  std::atomic<unsigned> errors{0}, running{kThreads};
  std::atomic<std::uint64_t> allocations{0}, frees{0};
};

// One thread of the program: fills what it allocates, reads what it frees.
class Worker {
 public:
  Worker(Shared& shared, unsigned which, std::uint64_t seed)
      : shared_(shared), which_(which), random_(seed + which), pinned_(shared.rig.pinned(kSteps * kWords)) {}
  ~Worker() { CHECK(shared_.rig.driver.mem_free_host(pinned_) == Result::success); }

  void run() {
    expect(shared_.rig.driver.ctx_set_current(shared_.rig.context) == Result::success);
    for (unsigned step = 0; step < kSteps; ++step) {
      if (random_.below(2) == 0) {
        allocate(step);
      } else {
        free_one();
      }
    }
    while (free_one()) {
    }
    expect(shared_.rig.driver.ctx_set_current(nullptr) == Result::success);
    shared_.running.fetch_sub(1);
  }
  // When the device is done.
  unsigned wrong() const {
    unsigned wrong = 0;
    for (std::size_t i = 0; i < read_.size(); ++i) {
      const std::uint32_t* words = pinned_ + i * kWords;
      wrong += words[0] == read_[i] && words[kWords - 1] == read_[i] ? 0 : 1;
    }
    return wrong;
  }

 private:
  void expect(bool condition) {
    if (!condition) shared_.errors.fetch_add(1);
  }
  void allocate(unsigned step) {
    Shared::Handed block = {0, shared_.streams[random_.one_in(3) ? kThreads : which_],
                            which_ * kSteps + step + 1};
    const bool is_done = shared_.pool.allocate(kWords * 4, 0, block.home, &block.address).ok();
    expect(is_done);
    if (!is_done) return;
    shared_.allocations.fetch_add(1);
    expect(owner(block.address).exchange(block.number) == 0);
    expect(shared_.rig.driver.memset_d32_async(block.address, block.number, kWords, block.home) ==
           Result::success);
    const std::lock_guard lock(shared_.mutex);
    shared_.handed.push_back(block);
  }
  bool free_one() {
    Shared::Handed block;
    {
      const std::lock_guard lock(shared_.mutex);
      if (shared_.handed.empty() || read_.size() == kSteps) return false;
      const std::size_t chosen = random_.below(shared_.handed.size());
      block = shared_.handed[chosen];
      shared_.handed[chosen] = shared_.handed.back();
      shared_.handed.pop_back();
    }
    expect(shared_.rig.driver.memcpy_d2h_async(pinned_ + read_.size() * kWords, block.address, kWords * 4,
                                               block.home) == Result::success);
    read_.push_back(block.number);
    // Another stream reads it as well, behind the one that filled it.
    if (random_.one_in(8)) use_elsewhere(block);
    expect(owner(block.address).exchange(0) == block.number);
    expect(shared_.pool.deallocate(block.address, block.home).ok());
    shared_.frees.fetch_add(1);
    return true;
  }
  void use_elsewhere(const Shared::Handed& block) {
    const cuda::Driver& driver = shared_.rig.driver;
    const cuda::Stream other = shared_.streams[random_.below(shared_.streams.size())];
    cuda::Event event = nullptr;
    if (read_.size() == kSteps || driver.event_create(&event, 2) != Result::success) return;
    expect(driver.event_record(event, block.home) == Result::success);
    expect(driver.stream_wait_event(other, event, 0) == Result::success);
    expect(driver.event_destroy(event) == Result::success);
    expect(driver.memcpy_d2h_async(pinned_ + read_.size() * kWords, block.address, kWords * 4, other) ==
           Result::success);
    read_.push_back(block.number);
    expect(shared_.pool.record_use(block.address, other).ok());
  }
  std::atomic<std::uint32_t>& owner(cuda::DevicePointer address) {
    return shared_.owners[(address - shared_.base) / 256];
  }

  Shared& shared_;
  unsigned which_;
  Random random_;
  std::uint32_t* pinned_;
  std::vector<std::uint32_t> read_;
};

// Everything that other threads may do meanwhile.
void disturb(Shared& shared, std::uint64_t seed) {
  static_cast<void>(shared.rig.driver.ctx_set_current(shared.rig.context));
  Random random(seed);
  unsigned wrong = 0;
  std::uint64_t requests = 0;
  while (shared.running.load() != 0) {
    const StreamPoolStats stats = shared.pool.stats();
    wrong += stats.requests >= requests && stats.live_blocks <= stats.held_blocks ? 0 : 1;
    requests = stats.requests;
    switch (random.below(4)) {
      case 0:
        wrong += shared.pool.synchronize().ok() ? 0 : 1;
        break;
      case 1:
        static_cast<void>(shared.pool.trim(random.below(16 * kKiB)));
        break;
      case 2: {
        cuda::Stream stream = nullptr;
        cuda::DevicePointer address = 0;
        wrong +=
            shared.rig.driver.stream_create(&stream, cuda::kStreamNonBlocking) == Result::success ? 0 : 1;
        if (shared.pool.allocate(kWords * 4, 0, stream, &address).ok()) {
          wrong += shared.pool.deallocate(address, stream).ok() ? 0 : 1;
          wrong += shared.pool.forget_stream(stream).ok() ? 0 : 1;
        }
        wrong += shared.rig.driver.stream_destroy(stream) == Result::success ? 0 : 1;
        break;
      }
      default:
        std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
  shared.errors.fetch_add(wrong);
  static_cast<void>(shared.rig.driver.ctx_set_current(nullptr));
}

TEST_CASE("P16 X3 K1 threads and streams: no block has two owners, and the numbers agree", "[device]") {
  const bool use_timeline = GENERATE(false, true);
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  on_gpu(gpu_test::small(GpuSchedule::threaded), [&](Rig& rig, Gpu& gpu) {
    ArenaSource arena(rig, kArena);
    StreamPool pool;
    REQUIRE(pool.open(gpu, over(arena, use_timeline)).ok());
    Shared shared(rig, pool, arena.base());
    for (unsigned i = 0; i <= kThreads; ++i) shared.streams.push_back(rig.stream());
    {
      std::vector<std::unique_ptr<Worker>> workers;
      for (unsigned i = 0; i < kThreads; ++i) {
        workers.push_back(std::make_unique<Worker>(shared, i, seed));
      }
      std::vector<std::thread> threads;
      for (const auto& worker : workers) threads.emplace_back([&worker] { worker->run(); });
      threads.emplace_back([&] { disturb(shared, seed); });
      for (std::thread& thread : threads) thread.join();
      REQUIRE(rig.driver.ctx_synchronize() == Result::success);
      CHECK(shared.errors.load() == 0);
      for (const auto& worker : workers) CHECK(worker->wrong() == 0);
    }
    const StreamPoolStats stats = pool.stats();
    CHECK(is_balanced(pool));
    CHECK(stats.live_blocks == shared.handed.size());
    CHECK(stats.requests >= shared.allocations.load());
    CHECK(stats.failures == 0);
    for (const Shared::Handed& block : shared.handed) {
      CHECK(pool.deallocate(block.address, block.home).ok());
    }
    CHECK(pool.stats().live_bytes == 0);
    CHECK(pool.synchronize().ok());
    const std::uint64_t idle_bytes = pool.stats().idle_bytes;
    CHECK(pool.trim(0) == idle_bytes);
    CHECK(pool.stats().held_bytes == 0);
    CHECK(pool.close().ok());
    for (const cuda::Stream stream : shared.streams) {
      CHECK(rig.driver.stream_destroy(stream) == Result::success);
    }
  });
}

TEST_CASE("S11 two threads free one block: one of them does", "[device]") {
  on_gpu(gpu_test::small(), [&](Rig& rig, Gpu& gpu) {
    ArenaSource arena(rig, kArena);
    StreamPool pool;
    REQUIRE(pool.open(gpu, over(arena)).ok());
    const cuda::Stream streams[2] = {rig.stream(), rig.stream()};
    const StreamRef refs[2] = {ref_of(pool, streams[0]), ref_of(pool, streams[1])};
    std::atomic<unsigned> round{0}, done{0}, freed{0}, doubled{0};
    std::atomic<cuda::DevicePointer> address{0};
    constexpr unsigned kRounds = 500;
    const auto free_it = [&](unsigned which) {
      static_cast<void>(rig.driver.ctx_set_current(rig.context));
      for (unsigned i = 1; i <= kRounds; ++i) {
        while (round.load() < i) std::this_thread::yield();
        const Status status = pool.deallocate(address.load(), refs[which]).status;
        if (status == Status::ok) freed.fetch_add(1);
        if (status == Status::double_free) doubled.fetch_add(1);
        done.fetch_add(1);
      }
      static_cast<void>(rig.driver.ctx_set_current(nullptr));
    };
    std::thread first(free_it, 0u), second(free_it, 1u);
    for (unsigned i = 1; i <= kRounds; ++i) {
      address.store(get(pool, refs[i % 2], 512));
      round.store(i);
      while (done.load() < 2 * i) std::this_thread::yield();
    }
    first.join();
    second.join();
    CHECK(freed.load() == kRounds);
    CHECK(doubled.load() == kRounds);
    CHECK(pool.stats().refused_frees == kRounds);
    CHECK(is_balanced(pool));
    REQUIRE(pool.close().ok());
    for (const cuda::Stream stream : streams) REQUIRE(rig.driver.stream_destroy(stream) == Result::success);
  });
}

}  // namespace
}  // namespace device_test
