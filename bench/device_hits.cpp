// G1 to G3: what a pair of allocation and free costs the host when nothing has to be asked of the driver. Our
// own figures are honest on any machine: the pool stands over a source that hands out numbers, or over the
// heap on an emulated GPU. What the driver's own calls cost is measured on a real one only.
#include <memory>
#include <thread>

#include <fmt/core.h>

#include "bench/device_bench.h"
#include "bench/random.h"
#include "src/device/device_heap.h"
#include "src/device/stream_pool.h"

namespace device_bench {
namespace {

// Addresses with nothing behind them.
struct NullSource {
  std::uint64_t next = std::uint64_t{1} << 40;

  BlockSource table() {
    BlockSource source;
    source.self = this;
    source.allocate = [](void* self, std::uint64_t size, std::uint64_t, cuda::DevicePointer* address) {
      auto& owner = *static_cast<NullSource*>(self);
      *address = owner.next;
      owner.next += glebe::align_up(size, kDeviceAlignBytes);
      return Outcome();
    };
    source.free = [](void*, cuda::DevicePointer) { return Outcome(); };
    source.trim = [](void*, std::uint64_t) -> std::uint64_t { return 0; };
    return source;
  }
};

// A pool, a stream of it and live blocks of one size.
class Live {
 public:
  Live(const Bench& bench, const BlockSource& source, std::uint64_t size_bytes)
      : stream_(bench), size_(size_bytes), random_(bench.options.seed) {
    StreamPoolOptions options;
    options.source = source;
    require(pool_.open(bench.gpu, options), "opening the pool");
    require(pool_.find_stream(stream_.get(), &ref_), "the stream in the pool");
  }
  ~Live() { static_cast<void>(pool_.close()); }
  Live(const Live&) = delete;
  Live& operator=(const Live&) = delete;

  void fill(std::size_t count) {
    blocks_.resize(count);
    for (cuda::DevicePointer& block : blocks_) take(size_, &block);
    cuda::DevicePointer spare = 0;
    take(size_, &spare);
    give(spare);
  }
  // Blocks of many sizes that are free afterwards.
  void leave_free(std::size_t count) {
    std::vector<cuda::DevicePointer> blocks(count);
    for (cuda::DevicePointer& block : blocks) take(random_.log_between(256, kMiB), &block);
    for (const cuda::DevicePointer block : blocks) give(block);
  }
  // Takes a block and frees it again.
  void pairs(unsigned count) {
    bool is_fine = true;
    for (unsigned i = 0; i < count; ++i) {
      cuda::DevicePointer block = 0;
      is_fine &= pool_.allocate(size_, 0, ref_, &block).ok();
      is_fine &= pool_.deallocate(block, ref_).ok();
    }
    require(is_fine, "a pair failed");
  }
  // The same with the handle of the stream, which the driver is asked about.
  void pairs_by_handle(unsigned count) {
    bool is_fine = true;
    for (unsigned i = 0; i < count; ++i) {
      cuda::DevicePointer block = 0;
      is_fine &= pool_.allocate(size_, 0, stream_.get(), &block).ok();
      is_fine &= pool_.deallocate(block, stream_.get()).ok();
    }
    require(is_fine, "a pair failed");
  }
  // Frees one of the live blocks by lot and takes another: the tables are touched everywhere.
  void replace(unsigned count) {
    bool is_fine = true;
    for (unsigned i = 0; i < count; ++i) {
      cuda::DevicePointer& block = blocks_[random_.below(blocks_.size())];
      is_fine &= pool_.deallocate(block, ref_).ok();
      is_fine &= pool_.allocate(size_, 0, ref_, &block).ok();
    }
    require(is_fine, "a replacement failed");
  }
  // Pairs of sizes by lot.
  void mixed_pairs(unsigned count) {
    bool is_fine = true;
    for (unsigned i = 0; i < count; ++i) {
      cuda::DevicePointer block = 0;
      is_fine &= pool_.allocate(random_.log_between(256, kMiB), 0, ref_, &block).ok();
      is_fine &= pool_.deallocate(block, ref_).ok();
    }
    require(is_fine, "a pair failed");
  }

 private:
  void take(std::uint64_t size_bytes, cuda::DevicePointer* block) {
    require(pool_.allocate(size_bytes, 0, ref_, block), "an allocation");
  }
  void give(cuda::DevicePointer block) { require(pool_.deallocate(block, ref_), "a free"); }

  BenchStream stream_;  // outlives the pool
  StreamPool pool_;
  std::uint64_t size_;
  StreamRef ref_;
  torture::Random random_;
  std::vector<cuda::DevicePointer> blocks_;
};

constexpr std::uint64_t kSizes[] = {256, 4 * kKiB, 64 * kKiB, kMiB, 16 * kMiB, 64 * kMiB};

std::vector<double> ns_each(const Bench& bench, unsigned pairs, const std::function<void()>& work) {
  return times(1e9 / pairs, repeat(bench, work));
}

void measure_counts(Bench& bench) {
  const unsigned pairs = bench.count(300'000, 100);
  for (const std::uint64_t size : kSizes) {
    for (const unsigned count : {100u, 1'000u, 10'000u, 100'000u}) {
      if (bench.options.is_smoke && count > 1'000) continue;
      NullSource source;
      Live live(bench, source.table(), size);
      live.fill(count);
      const std::string what = fmt::format("{}, {} live, null source", size_text(size), count);
      bench.report.add(what + ": take and free", "ns", ns_each(bench, pairs, [&] { live.pairs(pairs); }));
      bench.report.add(what + ": replace one by lot", "ns",
                       ns_each(bench, pairs, [&] { live.replace(pairs); }));
    }
  }
}

// The id of a stream comes from the driver, so this is a figure for a GPU.
void measure_by_handle(Bench& bench) {
  const unsigned pairs = bench.count(300'000, 100);
  NullSource source;
  Live live(bench, source.table(), 4 * kKiB);
  live.fill(100);
  bench.report.add("4 KiB, 100 live, null source: by the stream's handle", "ns",
                   ns_each(bench, pairs, [&] { live.pairs_by_handle(pairs); }));
}

void measure_on_heap(Bench& bench) {
  const unsigned pairs = bench.count(300'000, 100);
  for (const std::uint64_t size : kSizes) {
    if (bench.options.is_smoke && size > kMiB) continue;
    DeviceHeap heap;
    DeviceHeapOptions options;
    options.reserve_bytes = bench.count(32, 1) * kGiB;
    require(heap.open(bench.gpu, options), "opening a heap");
    {
      Live live(bench, heap.source(), size);
      live.fill(100);
      bench.report.add(fmt::format("{}, 100 live, device heap: take and free", size_text(size)), "ns",
                       ns_each(bench, pairs, [&] { live.pairs(pairs); }));
    }
    require(heap.close() == 0, "blocks are left in the heap");
  }
}

void measure_driver(Bench& bench) {
  const cuda::Driver& driver = bench.driver();
  const unsigned pairs = bench.count(1'000, 3);
  for (const std::uint64_t size : kSizes) {
    if (bench.options.is_smoke && size > kMiB) continue;
    bench.report.add(fmt::format("{}: cuMemAlloc and cuMemFree", size_text(size)), "ns",
                     ns_each(bench, pairs, [&] {
                       for (unsigned i = 0; i < pairs; ++i) {
                         cuda::DevicePointer block = 0;
                         require(driver.mem_alloc(&block, size), "cuMemAlloc");
                         require(driver.mem_free(block), "cuMemFree");
                       }
                     }));
  }
}

// The driver's own pool, with what it keeps when a stream is waited for.
void measure_driver_pool(Bench& bench, std::uint64_t threshold, const char* name) {
  const cuda::Driver& driver = bench.driver();
  const unsigned pairs = bench.count(10'000, 3);
  set_release_threshold(bench, threshold);
  const BenchStream stream(bench);
  for (const std::uint64_t size : kSizes) {
    bench.report.add(fmt::format("{}: cuMemAllocAsync, {}", size_text(size), name), "ns",
                     ns_each(bench, pairs, [&] {
                       for (unsigned i = 0; i < pairs; ++i) {
                         cuda::DevicePointer block = 0;
                         require(driver.mem_alloc_async(&block, size, stream.get()), "cuMemAllocAsync");
                         require(driver.mem_free_async(block, stream.get()), "cuMemFreeAsync");
                       }
                       stream.wait();
                     }));
  }
  set_release_threshold(bench, 0);
}

}  // namespace

void run_hits(Bench& bench) {
  measure_counts(bench);
  measure_on_heap(bench);
  if (!bench.is_real && !bench.options.is_smoke) {
    bench.report.note("cuMemAlloc, cuMemAllocAsync: not measured, they need a GPU (" + bench.why_no_gpu +
                      ")");
    return;
  }
  measure_by_handle(bench);
  measure_driver(bench);
  if (!has_driver_pools(bench)) {
    bench.report.note("cuMemAllocAsync: not measured, the device has no memory pools");
    return;
  }
  measure_driver_pool(bench, 0, "release threshold 0 (default)");
  measure_driver_pool(bench, UINT64_MAX, "release threshold unlimited");
}

void run_free_blocks(Bench& bench) {
  const unsigned pairs = bench.count(300'000, 100);
  for (const unsigned count : {500u, 5'000u, 50'000u}) {
    if (bench.options.is_smoke && count > 500) continue;
    NullSource source;
    Live live(bench, source.table(), 4 * kKiB);
    live.fill(100);
    live.leave_free(count);
    bench.report.add(fmt::format("256 B to 1 MiB by lot, {} free blocks: take and free", count), "ns",
                     ns_each(bench, pairs, [&] { live.mixed_pairs(pairs); }));
  }
  bench.report.note("includes the drawing of the size; RMM's pool is not part of this program");
}

void run_threads(Bench& bench) {
  const unsigned pairs = bench.count(500'000, 100);
  const unsigned cores = std::thread::hardware_concurrency();
  for (const unsigned count : {1u, 2u, 4u, 16u}) {
    NullSource source;
    StreamPool pool;
    StreamPoolOptions options;
    options.source = source.table();
    std::vector<std::unique_ptr<BenchStream>> streams;
    require(pool.open(bench.gpu, options), "opening the pool");
    std::vector<StreamRef> refs(count);
    for (StreamRef& ref : refs) {
      streams.push_back(std::make_unique<BenchStream>(bench));
      require(pool.find_stream(streams.back()->get(), &ref), "the stream in the pool");
      cuda::DevicePointer block = 0;  // so that no thread asks the source
      require(pool.allocate(4 * kKiB, 0, ref, &block), "an allocation");
      require(pool.deallocate(block, ref), "a free");
    }
    std::vector<int> is_fine(count, 1);
    const auto work = [&](unsigned which) {
      const StreamRef ref = refs[which];
      bool has_worked = true;  // of its own: the threads must share nothing but the pool
      for (unsigned i = 0; i < pairs; ++i) {
        cuda::DevicePointer block = 0;
        has_worked &= pool.allocate(4 * kKiB, 0, ref, &block).ok();
        has_worked &= pool.deallocate(block, ref).ok();
      }
      if (!has_worked) is_fine[which] = 0;
    };
    const std::vector<double> seconds = repeat(bench, [&] {
      std::vector<std::thread> threads;
      for (unsigned i = 0; i < count; ++i) threads.emplace_back(work, i);
      for (std::thread& thread : threads) thread.join();
    });
    for (const int each : is_fine) require(each == 1, "a pair failed");
    bench.report.add(fmt::format("{} threads, a stream each, 4 KiB: pairs in all{}", count,
                                 count > cores ? " (more than cores)" : ""),
                     "M/s", rate(1e-6 * pairs * count, seconds));
    require(pool.close(), "closing the pool");
  }
}

}  // namespace device_bench
