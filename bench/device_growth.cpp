// G6: what the calls cost that back addresses with memory, and what the heap adds to them. G7: an array that
// grows where it is, beside one that moves to a larger place each time.
#include <algorithm>

#include <fmt/core.h>

#include "bench/device_bench.h"
#include "src/device/device_heap.h"

namespace device_bench {
namespace {

// Seconds of each call for one handle.
struct CallTimes {
  std::vector<double> create, map, access, unmap, release, all;
};

void time_handle(const Bench& bench, cuda::DevicePointer address, std::uint64_t size, CallTimes& times) {
  const cuda::Driver& driver = bench.driver();
  const cuda::AllocationProperties properties = bench.gpu.properties(cuda::LocationType::device);
  const cuda::AccessDescription access = bench.gpu.device_access();
  cuda::MemoryHandle handle = 0;
  const double create =
      seconds_of([&] { require(driver.mem_create(&handle, size, &properties, 0), "cuMemCreate"); });
  const double map = seconds_of([&] { require(driver.mem_map(address, size, 0, handle, 0), "cuMemMap"); });
  const double allow =
      seconds_of([&] { require(driver.mem_set_access(address, size, &access, 1), "cuMemSetAccess"); });
  const double unmap = seconds_of([&] { require(driver.mem_unmap(address, size), "cuMemUnmap"); });
  const double release = seconds_of([&] { require(driver.mem_release(handle), "cuMemRelease"); });
  times.create.push_back(create);
  times.map.push_back(map);
  times.access.push_back(allow);
  times.unmap.push_back(unmap);
  times.release.push_back(release);
  times.all.push_back(create + map + allow + unmap + release);
}

CallTimes time_calls(Bench& bench, cuda::DevicePointer address, std::uint64_t size) {
  CallTimes times, warm;
  time_handle(bench, address, size, warm);
  for (unsigned i = 0; i < 4 * bench.rounds(); ++i) time_handle(bench, address, size, times);
  const std::string text = size_text(size);
  bench.report.add(text + ": cuMemCreate", "us", device_bench::times(1e6, times.create));
  bench.report.add(text + ": cuMemMap", "us", device_bench::times(1e6, times.map));
  bench.report.add(text + ": cuMemSetAccess", "us", device_bench::times(1e6, times.access));
  bench.report.add(text + ": cuMemUnmap", "us", device_bench::times(1e6, times.unmap));
  bench.report.add(text + ": cuMemRelease", "us", device_bench::times(1e6, times.release));
  return times;
}

// 16 handles next to each other: rights for all in one call, and one unmap for all.
void time_batch(Bench& bench, cuda::DevicePointer address) {
  constexpr unsigned kHandles = 16;
  constexpr std::uint64_t kSize = 2 * kMiB;
  const cuda::Driver& driver = bench.driver();
  const cuda::AllocationProperties properties = bench.gpu.properties(cuda::LocationType::device);
  const cuda::AccessDescription access = bench.gpu.device_access();
  cuda::MemoryHandle handles[kHandles];
  for (cuda::MemoryHandle& handle : handles)
    require(driver.mem_create(&handle, kSize, &properties, 0), "cuMemCreate");
  std::vector<double> allow, unmap;
  for (unsigned i = 0; i < bench.rounds(); ++i) {
    for (unsigned k = 0; k < kHandles; ++k)
      require(driver.mem_map(address + k * kSize, kSize, 0, handles[k], 0), "cuMemMap");
    allow.push_back(1e6 * seconds_of([&] {
                      require(driver.mem_set_access(address, kHandles * kSize, &access, 1), "cuMemSetAccess");
                    }));
    unmap.push_back(1e6 *
                    seconds_of([&] { require(driver.mem_unmap(address, kHandles * kSize), "cuMemUnmap"); }));
  }
  for (const cuda::MemoryHandle handle : handles) require(driver.mem_release(handle), "cuMemRelease");
  bench.report.add("16 handles of 2 MiB in one call: cuMemSetAccess", "us", allow);
  bench.report.add("16 handles of 2 MiB in one call: cuMemUnmap", "us", unmap);
}

// A block that needs a coarse chunk, with everything given back in between; `raw` are the same calls alone.
void time_heap(Bench& bench, const std::vector<double>& raw) {
  constexpr std::uint64_t kSize = 32 * kMiB;
  DeviceHeap heap;
  require(heap.open(bench.gpu, {}), "opening a heap");
  const auto cycle = [&](bool gives_back) {
    cuda::DevicePointer block = 0;
    require(heap.allocate({kSize, 0, 0}, &block), "an allocation");
    require(heap.free(block), "a free");
    if (gives_back) require(heap.trim(0) >= kSize, "nothing was given back");
  };
  std::vector<double> cold;
  cycle(true);
  for (unsigned i = 0; i < 4 * bench.rounds(); ++i) cold.push_back(seconds_of([&] { cycle(true); }));
  bench.report.add("32 MiB: the five calls above", "us", device_bench::times(1e6, raw));
  bench.report.add("32 MiB: heap, allocate, free and give back", "us", device_bench::times(1e6, cold));
  bench.report.add("32 MiB: heap / calls", "x", {median_of(cold) / std::max(median_of(raw), 1e-12)});
  cycle(false);
  const std::uint64_t before = heap.stats().space.creates;
  for (unsigned i = 0; i < 100; ++i) cycle(false);
  require(heap.stats().space.creates == before, "memory was created in the steady state");
  bench.report.note("steady state: 100 pairs of allocation and free, no cuMemCreate");
  require(heap.close() == 0, "blocks are left in the heap");
}

// Seconds and the most memory that was used.
struct Grown {
  double seconds;
  std::uint64_t peak_bytes;
};

Grown grow_in_heap(const Bench& bench, const BenchStream& stream, std::uint64_t total, std::uint64_t step) {
  DeviceHeap heap;
  require(heap.open(bench.gpu, {}), "opening a heap");
  cuda::DevicePointer array = 0;
  const double seconds = seconds_of([&] {
    require(heap.allocate({step, 0, 0}, &array), "the first piece");
    for (std::uint64_t size = step;; size += step) {
      require(bench.driver().memset_d32_async(array + size - step, 1, step / 4, stream.get()), "a memset");
      if (size >= total) break;
      require(heap.grow_in_place(array, size + step), "growing in place");
    }
    stream.wait();
  });
  const std::uint64_t peak = heap.stats().space.peak_mapped_bytes;
  require(heap.free(array), "a free");
  require(heap.close() == 0, "blocks are left in the heap");
  return {seconds, peak};
}

Grown grow_by_moving(const Bench& bench, const BenchStream& stream, std::uint64_t total, std::uint64_t step) {
  const cuda::Driver& driver = bench.driver();
  cuda::DevicePointer array = 0;
  std::uint64_t peak = step;
  const double seconds = seconds_of([&] {
    require(driver.mem_alloc(&array, step), "cuMemAlloc");
    for (std::uint64_t size = step;; size += step) {
      require(driver.memset_d32_async(array + size - step, 1, step / 4, stream.get()), "a memset");
      if (size >= total) break;
      cuda::DevicePointer larger = 0;
      require(driver.mem_alloc(&larger, size + step), "cuMemAlloc");
      peak = std::max(peak, 2 * size + step);
      require(driver.memcpy_d2d_async(larger, array, size, stream.get()), "a copy");
      stream.wait();
      require(driver.mem_free(array), "cuMemFree");
      array = larger;
    }
    stream.wait();
  });
  require(driver.mem_free(array), "cuMemFree");
  return {seconds, peak};
}

}  // namespace

void run_mapping(Bench& bench) {
  const cuda::Driver& driver = bench.driver();
  const std::uint64_t reserved = 512 * kMiB;
  cuda::DevicePointer address = 0;
  require(driver.mem_address_reserve(&address, reserved, 0, 0, 0), "cuMemAddressReserve");
  std::vector<double> raw;
  for (const std::uint64_t size : {2 * kMiB, 8 * kMiB, 32 * kMiB, 64 * kMiB, 512 * kMiB}) {
    const CallTimes times = time_calls(bench, address, size);
    if (size == 32 * kMiB) raw = times.all;
  }
  time_batch(bench, address);
  require(driver.mem_address_free(address, reserved), "cuMemAddressFree");
  time_heap(bench, raw);
}

void run_growth(Bench& bench) {
  const std::uint64_t step = bench.bytes(512 * kMiB, 2 * kMiB, 2 * kMiB);
  const std::uint64_t total = bench.options.is_smoke ? 4 * step : 96 * step;
  const BenchStream stream(bench);
  std::vector<double> ours, moving;
  std::uint64_t our_peak = 0, moving_peak = 0;
  for (unsigned i = 0; i < bench.rounds(); ++i) {
    const Grown grown = grow_in_heap(bench, stream, total, step);
    const Grown moved = grow_by_moving(bench, stream, total, step);
    ours.push_back(grown.seconds);
    moving.push_back(moved.seconds);
    our_peak = grown.peak_bytes;
    moving_peak = moved.peak_bytes;
  }
  const std::string what = fmt::format("to {} in steps of {}", size_text(total), size_text(step));
  bench.report.add("grow in place " + what, "ms", times(1e3, ours));
  bench.report.add("cuMemAlloc, copy, cuMemFree " + what, "ms", times(1e3, moving));
  bench.report.add("grow in place: most memory / size", "x",
                   {static_cast<double>(our_peak) / static_cast<double>(total)});
  bench.report.add("cuMemAlloc, copy, cuMemFree: most memory / size", "x",
                   {static_cast<double>(moving_peak) / static_cast<double>(total)});
}

}  // namespace device_bench
