// What a pair of allocation and free costs in the stream pool when the stream has a block of the size, in
// nanoseconds: no call of the driver is made then, so this is the library's own time. It says nothing about a
// GPU: the driver is the emulated one.
//
//   build/bench/device_stream [--rounds 5] [--pairs 200000] [--threads 1,2]
//
// Columns: `pair` frees the block that it just got, `random` frees one of the live blocks by lot and
// allocates another one, both with a StreamRef; `handle` is `pair` with the stream's handle, which asks the
// emulated driver for its id each time. Of the rounds, which take turns, the median, least and most. The
// source is a counter that hands out addresses (`null`), or the emulated driver (`driver`) as long as its
// memory lasts.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bench/random.h"
#include "platform/emulated_gpu/emulated_gpu.h"
#include "src/device/driver_source.h"
#include "src/device/stream_pool.h"

namespace {

using namespace glebe::device;
using glebe::kGiB;
using glebe::kKiB;
using glebe::kMiB;
using glebe::os::EmulatedGpu;

struct Options {
  unsigned rounds = 5;
  unsigned pairs = 200'000;
  std::vector<unsigned> threads{1, 2};
};

void require(bool condition, const char* what) {
  if (condition) return;
  fmt::print(stderr, "device_stream: {}\n", what);
  std::exit(1);
}

// Addresses without memory behind them.
struct NullSource {
  std::uint64_t next = std::uint64_t{1} << 40;

  BlockSource table() {
    BlockSource source;
    source.self = this;
    source.allocate = [](void* self, std::uint64_t size, std::uint64_t, cuda::DevicePointer* address) {
      auto& owner = *static_cast<NullSource*>(self);
      *address = owner.next;
      owner.next += size;
      return Outcome();
    };
    source.free = [](void*, cuda::DevicePointer) { return Outcome(); };
    source.trim = [](void*, std::uint64_t) -> std::uint64_t { return 0; };
    return source;
  }
};

struct Bench {
  Gpu& gpu;
  const Options& options;
};

class Live {
 public:
  Live(const Bench& bench, const BlockSource& source, std::uint64_t size_bytes)
      : bench_(bench), size_(size_bytes) {
    StreamPoolOptions options;
    options.source = source;
    require(pool_.open(bench.gpu, options).ok(), "the pool cannot be opened");
    require(bench.gpu.driver().stream_create(&stream_, cuda::kStreamNonBlocking) == cuda::Result::success,
            "no stream");
    require(pool_.find_stream(stream_, &ref_).ok(), "no stream in the pool");
  }
  ~Live() {
    require(pool_.close().ok(), "the pool cannot be closed");
    static_cast<void>(bench_.gpu.driver().stream_destroy(stream_));
  }
  // False: the source has no room.
  bool fill(std::size_t count) {
    blocks_.resize(count);
    for (cuda::DevicePointer& address : blocks_) {
      if (!pool_.allocate(size_, 0, ref_, &address).ok()) return false;
    }
    cuda::DevicePointer spare = 0;
    return pool_.allocate(size_, 0, ref_, &spare).ok() && pool_.deallocate(spare, ref_).ok();
  }

  template <class Stream>
  void pairs(Stream stream) {
    bool is_fine = true;
    for (unsigned i = 0; i < bench_.options.pairs; ++i) {
      cuda::DevicePointer address = 0;
      is_fine &= pool_.allocate(size_, 0, stream, &address).ok();
      is_fine &= pool_.deallocate(address, stream).ok();
    }
    require(is_fine, "a pair failed");
  }
  void replace() {
    bool is_fine = true;
    for (unsigned i = 0; i < bench_.options.pairs; ++i) {
      cuda::DevicePointer& address = blocks_[random_.below(blocks_.size())];
      is_fine &= pool_.deallocate(address, ref_).ok();
      is_fine &= pool_.allocate(size_, 0, ref_, &address).ok();
    }
    require(is_fine, "a replacement failed");
  }
  StreamRef ref() const { return ref_; }
  cuda::Stream stream() const { return stream_; }

 private:
  const Bench& bench_;
  std::uint64_t size_;
  StreamPool pool_;
  cuda::Stream stream_ = nullptr;
  StreamRef ref_;
  std::vector<cuda::DevicePointer> blocks_;
  torture::Random random_{1};
};

template <class Work>
double ns_of(const Work& work, unsigned pairs) {
  const auto start = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
  return spent.count() / pairs;
}

std::string column(std::vector<double> all) {
  std::sort(all.begin(), all.end());
  return fmt::format("{:6.1f} ({:.1f}-{:.1f})", all[all.size() / 2], all.front(), all.back());
}

std::string bytes(std::uint64_t size) {
  if (size >= kMiB) return fmt::format("{} MiB", size / kMiB);
  return size >= kKiB ? fmt::format("{} KiB", size / kKiB) : fmt::format("{} B", size);
}

void measure(const Bench& bench, const BlockSource& source, const char* name) {
  fmt::print("{:8} {:>8} {:>8}  {:22} {:22} {}\n", "source", "size", "live", "pair", "random", "handle");
  for (const std::uint64_t size : {std::size_t{256}, 4 * kKiB, 64 * kKiB, kMiB, 64 * kMiB}) {
    for (const std::size_t count : {100u, 1'000u, 10'000u, 100'000u}) {
      Live live(bench, source, size);
      if (!live.fill(count)) continue;
      std::vector<double> pair, random, handle;
      for (unsigned i = 0; i < bench.options.rounds; ++i) {
        pair.push_back(ns_of([&] { live.pairs(live.ref()); }, bench.options.pairs));
        random.push_back(ns_of([&] { live.replace(); }, bench.options.pairs));
        handle.push_back(ns_of([&] { live.pairs(live.stream()); }, bench.options.pairs));
      }
      fmt::print("{:8} {:>8} {:>8}  {:22} {:22} {}\n", name, bytes(size), count, column(pair), column(random),
                 column(handle));
    }
  }
}

// Each thread with a stream of its own, in one pool: the time of a pair as each of them sees it.
void measure_threads(const Bench& bench, unsigned count) {
  NullSource source;
  StreamPoolOptions options;
  options.source = source.table();
  StreamPool pool;
  require(pool.open(bench.gpu, options).ok(), "the pool cannot be opened");
  std::vector<cuda::Stream> streams(count);
  std::vector<StreamRef> refs(count);
  for (unsigned i = 0; i < count; ++i) {
    require(
        bench.gpu.driver().stream_create(&streams[i], cuda::kStreamNonBlocking) == cuda::Result::success &&
            pool.find_stream(streams[i], &refs[i]).ok(),
        "no stream");
  }
  const auto work = [&](unsigned which) {
    static_cast<void>(bench.gpu.driver().ctx_set_current(bench.gpu.context()));
    for (unsigned i = 0; i < bench.options.pairs; ++i) {
      cuda::DevicePointer address = 0;
      require(
          pool.allocate(4096, 0, refs[which], &address).ok() && pool.deallocate(address, refs[which]).ok(),
          "a pair failed");
    }
  };
  std::vector<double> all;
  for (unsigned round = 0; round < bench.options.rounds; ++round) {
    all.push_back(ns_of(
        [&] {
          std::vector<std::thread> threads;
          for (unsigned i = 0; i < count; ++i) threads.emplace_back(work, i);
          for (std::thread& thread : threads) thread.join();
        },
        bench.options.pairs));
  }
  fmt::print("{} threads, a stream each: {}\n", count, column(all));
  require(pool.close().ok(), "the pool cannot be closed");
  for (const cuda::Stream stream : streams) static_cast<void>(bench.gpu.driver().stream_destroy(stream));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Pairs of allocation and free in the stream pool, on the emulated driver");
  Options options;
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 1000));
  app.add_option("--pairs", options.pairs)->check(CLI::Range(1, 1'000'000'000));
  app.add_option("--threads", options.threads)->delimiter(',');
  CLI11_PARSE(app, argc, argv);

  EmulatedGpu emulated;
  require(emulated.open({}), "the emulated GPU cannot be opened");
  glebe::os::cuda::Driver driver = emulated.driver();
  require(driver.init(0) == cuda::Result::success, "cuInit");
  {
    Gpu gpu;
    require(gpu.open(driver).ok(), "the device cannot be opened");
    require(driver.ctx_set_current(gpu.context()) == cuda::Result::success, "no context");
    const Bench bench = {gpu, options};
    NullSource source;
    measure(bench, source.table(), "null");
    measure(bench, driver_source(gpu), "driver");
    for (const unsigned count : options.threads) measure_threads(bench, count);
  }
  return 0;
}
