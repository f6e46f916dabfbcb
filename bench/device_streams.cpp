// G4: a block that one stream has written goes to another stream. Our pool makes the second one wait on the
// device by an event; the same by hand, and the driver's pool, stand beside it.
#include <fmt/core.h>

#include "bench/device_bench.h"
#include "src/device/device_heap.h"
#include "src/device/stream_pool.h"

namespace device_bench {
namespace {

constexpr std::uint64_t kBlockBytes = 4 * kMiB;

struct HandOver {
  std::vector<double> host, wall;  // us each: until everything was queued, until everything was done
};

// `round` hands a block from the first stream to the second and back: two each.
HandOver time_rounds(const Bench& bench, const BenchStream (&streams)[2],
                     const std::function<void()>& round) {
  const unsigned rounds = bench.count(200, 3);
  HandOver times;
  for (unsigned i = 0; i <= bench.rounds(); ++i) {
    double host = 0;
    const double wall = seconds_of([&] {
      host = seconds_of([&] {
        for (unsigned k = 0; k < rounds; ++k) round();
      });
      streams[0].wait();
      streams[1].wait();
    });
    if (i == 0) continue;  // warms up
    times.host.push_back(host * 1e6 / (2 * rounds));
    times.wall.push_back(wall * 1e6 / (2 * rounds));
  }
  return times;
}

void add(Bench& bench, const char* who, const HandOver& times) {
  bench.report.add(fmt::format("{}: host, each hand-over", who), "us", times.host);
  bench.report.add(fmt::format("{}: until the device is done, each hand-over", who), "us", times.wall);
}

void measure_pool(Bench& bench, const BenchStream (&streams)[2]) {
  DeviceHeap heap;
  require(heap.open(bench.gpu, {}), "opening a heap");
  {
    StreamPoolOptions options;
    options.source = heap.source();
    // What is measured is the way with a wait on the device, so the ways around it are closed.
    options.reuse_source_idle = false;
    options.reuse_completed = false;
    StreamPool pool;
    require(pool.open(bench.gpu, options), "opening the pool");
    StreamRef refs[2];
    for (unsigned i = 0; i < 2; ++i) require(pool.find_stream(streams[i].get(), &refs[i]), "a stream");
    const HandOver times = time_rounds(bench, streams, [&] {
      for (unsigned i = 0; i < 2; ++i) {
        cuda::DevicePointer block = 0;
        require(pool.allocate(kBlockBytes, 0, refs[i], &block), "an allocation");
        require(bench.driver().memset_d8_async(block, 1, kBlockBytes, streams[i].get()), "a memset");
        require(pool.deallocate(block, refs[i]), "a free");
      }
    });
    add(bench, "stream pool", times);
    const StreamPoolStats stats = pool.stats();
    require(stats.stream_waits > 0, "no stream was made to wait: this is another way than the one meant");
    bench.report.note(fmt::format("{} blocks taken from the heap, {} waits of streams, {} of the host",
                                  stats.held_blocks, stats.stream_waits, stats.host_waits));
    require(pool.close(), "closing the pool");
  }
  require(heap.close() == 0, "blocks are left in the heap");
}

void measure_events(Bench& bench, const BenchStream (&streams)[2]) {
  const cuda::Driver& driver = bench.driver();
  const DeviceBytes block(bench, kBlockBytes);
  cuda::Event events[2];
  for (cuda::Event& event : events)
    require(driver.event_create(&event, cuda::kEventDisableTiming), "an event");
  add(bench, "events by hand", time_rounds(bench, streams, [&] {
        for (unsigned i = 0; i < 2; ++i) {
          require(driver.memset_d8_async(block.get(), 1, kBlockBytes, streams[i].get()), "a memset");
          require(driver.event_record(events[i], streams[i].get()), "cuEventRecord");
          require(driver.stream_wait_event(streams[1 - i].get(), events[i], 0), "cuStreamWaitEvent");
        }
      }));
  for (const cuda::Event event : events) require(driver.event_destroy(event), "cuEventDestroy");
}

void measure_driver_pool(Bench& bench, const BenchStream (&streams)[2]) {
  const cuda::Driver& driver = bench.driver();
  add(bench, "cuMemAllocAsync", time_rounds(bench, streams, [&] {
        for (unsigned i = 0; i < 2; ++i) {
          cuda::DevicePointer block = 0;
          require(driver.mem_alloc_async(&block, kBlockBytes, streams[i].get()), "cuMemAllocAsync");
          require(driver.memset_d8_async(block, 1, kBlockBytes, streams[i].get()), "a memset");
          require(driver.mem_free_async(block, streams[i].get()), "cuMemFreeAsync");
        }
      }));
}

}  // namespace

void run_streams(Bench& bench) {
  const BenchStream streams[2] = {BenchStream(bench), BenchStream(bench)};
  measure_events(bench, streams);
  measure_pool(bench, streams);
  if (!has_driver_pools(bench)) {
    bench.report.note("cuMemAllocAsync: not measured, the device has no memory pools");
    return;
  }
  set_release_threshold(bench, UINT64_MAX);
  measure_driver_pool(bench, streams);
  set_release_threshold(bench, 0);
}

}  // namespace device_bench
