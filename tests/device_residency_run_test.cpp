// Long runs over a small device: many accesses that hit and some that move, several streams in a hostile
// order, several threads. Every word is known, and looked at in the end.
#include <atomic>
#include <thread>

#include "tests/device_residency_rig.h"

namespace device_test {
namespace {

// Random accesses of a few words, with a mirror on the host.
class Accesses {
 public:
  static constexpr std::uint32_t kWords = kGranule / 4;
  static constexpr unsigned kHot = 10;

  Accesses(Rig& rig, ResidentRig& at, unsigned pieces, std::uint64_t seed)
      : rig_(rig), at_(at), random_(seed), mirror_(pieces) {
    stream_ = rig.stream();
    for (unsigned i = 0; i < pieces; ++i) {
      addresses_.push_back(at.make(1));
      mirror_[i].assign(kWords, i);
      REQUIRE(fill(at, rig.driver, addresses_[i], i, stream_).ok());
    }
    for (unsigned& hot : hot_) hot = draw(pieces);
  }
  ~Accesses() { CHECK(rig_.driver.stream_destroy(stream_) == Result::success); }
  Accesses(const Accesses&) = delete;
  Accesses& operator=(const Accesses&) = delete;

  // One access in 48 takes a piece that may be anywhere into the hot ones. A third of the pieces is only
  // read.
  void access() {
    if (draw(48) == 0) hot_[draw(kHot)] = draw(static_cast<unsigned>(addresses_.size()));
    const unsigned which = hot_[draw(kHot)];
    const std::uint32_t first = draw(kWords - 8);
    const bool is_write = which % 3 != 0 && draw(3) == 0;
    const ChunkUse use{addresses_[which] + first * 4, 8 * 4, is_write ? Access::write : Access::read};
    Lease lease;
    expect_(at_.heap.acquire({&use, 1}, stream_, &lease).ok());
    std::uint32_t words[8];
    if (is_write) {
      for (unsigned i = 0; i < 8; ++i) words[i] = mirror_[which][first + i] = draw(1u << 30);
      expect_(rig_.driver.memcpy_h2d_async(use.address, words, sizeof words, stream_) == Result::success);
    } else {
      expect_(rig_.driver.memcpy_d2h_async(words, use.address, sizeof words, stream_) == Result::success);
      expect_(rig_.driver.stream_synchronize(stream_) == Result::success);
      expect_(std::equal(words, words + 8, mirror_[which].begin() + first));
    }
    expect_(at_.heap.release(lease).ok());
  }
  [[nodiscard]] int failed_line() const { return expect_.failed_line(); }
  [[nodiscard]] bool is_right(unsigned which) {
    Lease lease;
    REQUIRE(at_.acquire(addresses_[which], Access::read, stream_, &lease).ok());
    std::vector<std::uint32_t> words(kWords);
    REQUIRE(rig_.driver.memcpy_d2h_async(words.data(), addresses_[which], kGranule, stream_) ==
            Result::success);
    REQUIRE(rig_.driver.stream_synchronize(stream_) == Result::success);
    REQUIRE(at_.heap.release(lease).ok());
    return words == mirror_[which];
  }

 private:
  unsigned draw(unsigned limit) { return static_cast<unsigned>(random_.next() % limit); }

  Rig& rig_;
  ResidentRig& at_;
  Random random_;
  cuda::Stream stream_ = nullptr;
  std::vector<cuda::DevicePointer> addresses_;
  std::vector<std::vector<std::uint32_t>> mirror_;
  unsigned hot_[kHot] = {};
  Expect expect_;
};

TEST_CASE("G18 96 MiB behind 24 of the device and 32 of the host: 100,000 accesses", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  PageFolder folder;
  EmulatedGpu::Options machine = gpu_test::small();
  machine.device_bytes = 24 * kMiB;
  on_gpu(machine, [&](Rig& rig, Gpu& gpu) {
    HeapSize size;
    size.chunks = 48;
    size.resident = 12;
    size.slots = 16;
    size.directory = folder.path();
    ResidentRig at(gpu, size);
    Accesses accesses(rig, at, 48, seed);
    const std::uint64_t created = rig.emulated->usage().total_creates;
    const ResidencyStats before = at.heap.stats();
    for (int i = 0; i < 100'000; ++i) accesses.access();
    CHECK(accesses.failed_line() == 0);
    const ResidencyStats stats = at.heap.stats();
    CHECK(at.heap.validate());
    CHECK(stats.evictions_dirty - before.evictions_dirty > 300);
    CHECK(stats.evictions_clean - before.evictions_clean > 100);
    CHECK(stats.fetches_disk - before.fetches_disk > 100);
    CHECK(stats.resident_peak == 12);
    for (unsigned i = 0; i < 48; ++i) CHECK(accesses.is_right(i));
    // The steady state creates and releases nothing.
    CHECK(rig.emulated->usage().total_creates == created);
    CHECK(at.pool.stats().created == 12);
    CHECK(at.pool.stats().released == 0);
  });
}

// Pieces that belong to a stream each, so that the order of uses is the stream's; the heap's own moves are
// the only thing that has to be ordered across streams. Work is queued and not waited for.
class Hostile {
 public:
  static constexpr unsigned kPieces = 6, kStreams = 3, kSpots = 4;

  Hostile(Rig& rig, ResidentRig& at, std::uint64_t seed) : rig_(rig), at_(at), random_(seed) {
    for (unsigned i = 0; i < kPieces; ++i) pieces_[i] = at.make(1 + i % 2, i % 2);
    for (cuda::Stream& stream : streams_) stream = rig.stream();
    results_ = rig.pinned(4096);
  }
  ~Hostile() {
    for (const cuda::Stream stream : streams_) CHECK(rig_.driver.stream_destroy(stream) == Result::success);
    CHECK(rig_.driver.mem_free_host(results_) == Result::success);
  }
  Hostile(const Hostile&) = delete;
  Hostile& operator=(const Hostile&) = delete;

  void step() {
    switch (draw(12)) {
      case 0:
        accept(at_.heap.sleep(draw(2), 1));
        return;
      case 1:
        accept(at_.heap.wake(draw(2)));
        return;
      case 2:
        accept(at_.heap.set_budget((3 + draw(2)) * kGranule));
        return;
      case 3: {
        const unsigned which = draw(kPieces);
        const ChunkUse use{pieces_[which], 0, Access::read};
        accept(at_.heap.prefetch({&use, 1}, stream_of(which)));
        return;
      }
      default:
        return work(draw(kPieces));
    }
  }
  void finish() {
    while (held_ != 0) release(0);
    for (const cuda::Stream stream : streams_) {
      REQUIRE(rig_.driver.stream_synchronize(stream) == Result::success);
    }
    for (unsigned i = 0; i < reads_; ++i) CHECK(results_[i] == expected_[i]);
  }

 private:
  unsigned draw(unsigned limit) { return static_cast<unsigned>(random_.next() % limit); }
  [[nodiscard]] cuda::Stream stream_of(unsigned which) const { return streams_[which % kStreams]; }
  [[nodiscard]] cuda::DevicePointer spot(unsigned which, unsigned number) {
    const std::uint64_t size = at_.heap.size_of(pieces_[which]);
    return pieces_[which] + (number == kSpots - 1 ? size - 4 : number * (size / kSpots));
  }
  // What others hold may be in the way.
  static void accept(Outcome outcome) {
    CHECK((outcome.ok() || outcome.status == Status::in_use || outcome.status == Status::over_budget));
  }
  void release(unsigned place) {
    REQUIRE(at_.heap.release(leases_[place]).ok());
    leases_[place] = leases_[--held_];
  }
  void work(unsigned which) {
    if (held_ == 2) release(draw(2));
    const bool is_write = draw(2) == 0;
    const ChunkUse use{pieces_[which], 0, is_write ? Access::write : Access::read};
    Lease lease;
    const Outcome outcome = at_.heap.acquire({&use, 1}, stream_of(which), &lease);
    accept(outcome);
    if (!outcome.ok()) return;
    const unsigned number = draw(kSpots);
    std::uint32_t& word = words_[which][number];
    if (is_write) {
      word = static_cast<std::uint32_t>(random_.next());
      is_known_[which][number] = true;
      CHECK(rig_.store_word(spot(which, number), word, stream_of(which)) == Result::success);
    } else if (is_known_[which][number] && reads_ < 4096) {
      expected_[reads_] = word;
      CHECK(rig_.driver.memcpy_d2h_async(&results_[reads_++], spot(which, number), 4, stream_of(which)) ==
            Result::success);
    }
    leases_[held_++] = lease;
    if (draw(2) == 0) release(held_ - 1);
  }

  Rig& rig_;
  ResidentRig& at_;
  Random random_;
  cuda::DevicePointer pieces_[kPieces] = {};
  cuda::Stream streams_[kStreams] = {};
  std::uint32_t words_[kPieces][kSpots] = {};
  bool is_known_[kPieces][kSpots] = {};
  std::uint32_t* results_ = nullptr;
  std::uint32_t expected_[4096] = {};
  unsigned reads_ = 0, held_ = 0;
  Lease leases_[2];
};

TEST_CASE("X3 leases on several streams in a hostile order: no move is early", "[device]") {
  const std::uint64_t first = test_seed();
  PageFolder folder;
  for (std::uint64_t seed = first; seed < first + 60; ++seed) {
    INFO("GLEBE_TEST_SEED=" << seed);
    on_gpu(gpu_test::small(GpuSchedule::adversarial, seed), [&](Rig& rig, Gpu& gpu) {
      HeapSize size;
      size.slots = 3;
      size.directory = folder.path();
      size.order = static_cast<VictimOrder>(seed % kVictimOrders);
      size.in_flight = 1 + static_cast<unsigned>(seed % ResidentHeap::kInFlightMax);
      ResidentRig at(gpu, size);
      Hostile hostile(rig, at, seed);
      for (int i = 0; i < 60; ++i) hostile.step();
      CHECK(at.heap.validate());
      hostile.finish();
      CHECK(at.heap.validate());
    });
  }
}

TEST_CASE("X3 a chunk that more streams use than it remembers leaves after all of them", "[device]") {
  constexpr unsigned kMany = ResidentHeap::kUsesMax + 3;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    INFO("seed " << seed);
    on_gpu(gpu_test::small(GpuSchedule::adversarial, seed), [](Rig& rig, Gpu& gpu) {
      ResidentRig at(gpu, {});
      const cuda::DevicePointer shared = at.make(1), other = at.make(4);
      cuda::Stream streams[kMany];
      for (cuda::Stream& stream : streams) stream = rig.stream();
      Lease lease;
      for (unsigned i = 0; i < kMany; ++i) {
        REQUIRE(at.acquire(shared, Access::write, streams[i], &lease).ok());
        // The first and the last streams are slow: their last store counts, and comes late.
        const unsigned stores = i == 0 || i >= ResidentHeap::kUsesMax ? 80 : 1;
        for (unsigned j = 1; j <= stores; ++j) {
          REQUIRE(rig.store_word(shared + 4 * i, 100 + i + j - stores, streams[i]) == Result::success);
        }
        REQUIRE(at.heap.release(lease).ok());
      }
      CHECK(at.heap.stats().stalls[static_cast<unsigned>(StallCause::streams)] <=
            kMany - ResidentHeap::kUsesMax);
      REQUIRE(fill(at, rig.driver, other, 1, streams[0]).ok());
      CHECK(at.heap.state_of(shared) == ChunkState::in_host);
      REQUIRE(at.acquire(shared, Access::read, streams[1], &lease).ok());
      std::uint32_t words[kMany];
      REQUIRE(rig.driver.memcpy_d2h_async(words, shared, sizeof words, streams[1]) == Result::success);
      REQUIRE(rig.driver.stream_synchronize(streams[1]) == Result::success);
      REQUIRE(at.heap.release(lease).ok());
      for (unsigned i = 0; i < kMany; ++i) CHECK(words[i] == 100 + i);
      for (const cuda::Stream stream : streams) CHECK(rig.driver.stream_destroy(stream) == Result::success);
    });
  }
}

// One thread with a stream and pieces of its own. Others make it wait, or take the budget for a while.
void work_in_thread(Rig& rig, ResidentRig& at, std::uint64_t seed, std::atomic<unsigned>& wrong) {
  if (rig.driver.ctx_set_current(rig.context) != Result::success) ++wrong;
  Random random(seed);
  cuda::Stream stream = nullptr;
  if (rig.driver.stream_create(&stream, cuda::kStreamNonBlocking) != Result::success) ++wrong;
  cuda::DevicePointer pieces[3] = {};
  std::uint32_t words[3] = {};
  bool is_known[3] = {};
  for (cuda::DevicePointer& piece : pieces) {
    if (!at.heap.allocate(kGranule, 0, &piece).ok()) ++wrong;
  }
  for (int i = 0; i < 120; ++i) {
    const auto which = static_cast<unsigned>(random.next() % 3);
    const bool is_write = random.next() % 2 == 0;
    const ChunkUse use{pieces[which], 0, is_write ? Access::write : Access::read};
    Lease lease;
    Shortfall shortfall;
    const Outcome outcome = at.heap.acquire({&use, 1}, stream, &lease, &shortfall);
    if (outcome.status == Status::over_budget) continue;
    if (!outcome.ok()) {
      ++wrong;
      continue;
    }
    std::uint32_t word = static_cast<std::uint32_t>(random.next());
    if (is_write) {
      words[which] = word;
      is_known[which] = true;
      if (rig.driver.memset_d32_async(pieces[which] + 4096, word, 1, stream) != Result::success) ++wrong;
    } else {
      if (rig.driver.memcpy_d2h_async(&word, pieces[which] + 4096, 4, stream) != Result::success) ++wrong;
      if (rig.driver.stream_synchronize(stream) != Result::success) ++wrong;
      if (is_known[which] && word != words[which]) ++wrong;
    }
    if (!at.heap.release(lease).ok()) ++wrong;
    if (i % 40 == 0 && !at.heap.validate()) ++wrong;
  }
  if (!at.heap.free(pieces[0]).ok()) ++wrong;
  if (rig.driver.stream_destroy(stream) != Result::success) ++wrong;
}

TEST_CASE("X3 threads lease, write, read and free side by side", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  PageFolder folder;
  on_gpu(gpu_test::small(GpuSchedule::threaded), [&](Rig& rig, Gpu& gpu) {
    HeapSize size;
    size.slots = 3;
    size.directory = folder.path();
    ResidentRig at(gpu, size);
    std::atomic<unsigned> wrong{0};
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 3; ++i) {
      threads.emplace_back([&, i] { work_in_thread(rig, at, seed + i, wrong); });
    }
    for (unsigned i = 0; i < 20; ++i) {
      const Outcome outcome = at.heap.set_budget((3 + i % 2) * kGranule);
      CHECK((outcome.ok() || outcome.status == Status::over_budget));
      static_cast<void>(at.heap.stats());
      std::this_thread::yield();
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
    CHECK(at.heap.validate());
    CHECK(at.heap.stats().live_leases == 0);
  });
}

}  // namespace
}  // namespace device_test
