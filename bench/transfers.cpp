// Transfers between the host and a GPU (src/device/transfer.h) through the staging rings, next to one
// synchronous copy of the driver and to memcpy. Every byte that arrives is compared; a difference ends the
// program with status 1.
//
//   build/bench/transfers [--driver emulated|real] [--rounds 20] [--ring-mib 16] [--piece-kib 1024]
//
// The emulated GPU is host memory: its figures tell what our own work costs, not what a device does. The time
// of a row goes from the call to the end of the ticket; p50 and p99 are of all rounds and transfers.
#include "src/device/transfer.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "bench/random.h"
#include "platform/emulated_gpu/emulated_gpu.h"

namespace {

using namespace glebe::device;
using glebe::kKiB;
using glebe::kMiB;
using glebe::os::EmulatedGpu;
using glebe::os::GpuSchedule;

constexpr std::size_t kTotalBytes = 64 * kMiB;

struct Options {
  std::string driver = "emulated";
  unsigned rounds = 20;
  std::size_t ring_mib = 16, piece_kib = 1024;
  unsigned in_flight = 4, threads = 1;
};

[[noreturn]] void fail(const std::string& what) {
  fmt::print(stderr, "transfers: {}\n", what);
  std::exit(1);
}
void require(const Outcome& outcome, const char* what) {
  if (!outcome.ok())
    fail(fmt::format("{}: {} (driver {})", what, describe(outcome.status), static_cast<int>(outcome.driver)));
}

double ms_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

// What all rows share: a GPU, a queue, memory of both sides.
struct Bench {
  Gpu& gpu;
  TransferQueue& queue;
  cuda::DevicePointer device;
  std::byte* pageable;
  std::byte* pinned;
  std::byte* target;
  unsigned rounds;
};

void print_row(const char* way, std::size_t size, std::vector<double>& times_ms, std::uint64_t stalls) {
  std::sort(times_ms.begin(), times_ms.end());
  const double p50 = times_ms[times_ms.size() / 2], p99 = times_ms[(times_ms.size() * 99) / 100];
  double sum = 0;
  for (const double time : times_ms) sum += time;
  const double mib = static_cast<double>(size) / static_cast<double>(kMiB);
  fmt::print("{:<34} {:>9} {:>10.3f} {:>10.3f} {:>10.0f} {:>8}\n", way, size / kKiB, p50, p99,
             1e3 * mib * static_cast<double>(times_ms.size()) / sum, stalls);
}

// The device has what `from` has.
void compare(const Bench& bench, const std::byte* from, std::size_t size) {
  std::memset(bench.target, 0, size);
  const CurrentContext current(bench.gpu);
  require(bench.gpu.check(bench.gpu.driver().memcpy_d2h(bench.target, bench.device, size)), "reading back");
  if (std::memcmp(bench.target, from, size) != 0) fail("contents differ");
}

template <class Work>
void row(const Bench& bench, const char* way, std::size_t size, const std::byte* from, Work work) {
  std::vector<double> times_ms;
  const std::uint64_t before = bench.queue.stats(TransferDirection::upload).stalls;
  for (unsigned round = 0; round < bench.rounds; ++round) {
    for (std::size_t at = 0; at < kTotalBytes; at += std::max<std::size_t>(size, kMiB)) {
      const auto start = std::chrono::steady_clock::now();
      work(at);
      times_ms.push_back(ms_since(start));
    }
  }
  const std::uint64_t stalls = bench.queue.stats(TransferDirection::upload).stalls - before;
  if (from != nullptr && size == kTotalBytes) compare(bench, from, size);
  print_row(way, size, times_ms, stalls);
}

void measure(const Bench& bench) {
  fmt::print("{:<34} {:>9} {:>10} {:>10} {:>10} {:>8}\n", "way", "KiB", "p50 ms", "p99 ms", "MiB/s",
             "stalls");
  for (const std::size_t size : {4 * kKiB, 64 * kKiB, kMiB, 16 * kMiB, kTotalBytes}) {
    TransferOptions verified;
    verified.is_verified = true;
    row(bench, "memcpy, host to host", size, nullptr,
        [&](std::size_t at) { std::memcpy(bench.target + at, bench.pageable + at, size); });
    row(bench, "one synchronous copy, pageable", size, bench.pageable, [&](std::size_t at) {
      const CurrentContext current(bench.gpu);
      require(bench.gpu.check(bench.gpu.driver().memcpy_h2d(bench.device + at, bench.pageable + at, size)),
              "copy");
    });
    row(bench, "upload, pageable, staging ring", size, bench.pageable, [&](std::size_t at) {
      require(bench.queue.upload(bench.device + at, bench.pageable + at, size).wait(), "upload");
    });
    row(bench, "upload, pinned", size, bench.pinned, [&](std::size_t at) {
      require(bench.queue.upload(bench.device + at, bench.pinned + at, size).wait(), "upload");
    });
    row(bench, "upload, pageable, verified", size, bench.pageable, [&](std::size_t at) {
      require(bench.queue.upload(bench.device + at, bench.pageable + at, size, verified).wait(), "upload");
    });
    row(bench, "download, pageable, staging ring", size, nullptr, [&](std::size_t at) {
      require(bench.queue.download(bench.target + at, bench.device + at, size).wait(), "download");
      if (std::memcmp(bench.target + at, bench.pageable + at, size) != 0) fail("contents differ");
    });
  }
}

void run(const Options& options, const cuda::Driver& driver) {
  Gpu gpu;
  require(gpu.open(driver), "opening the GPU");
  EventPool events;
  require(events.open(gpu), "events");
  TransferQueueOptions wanted;
  wanted.threads = options.threads;
  wanted.ring_bytes = options.ring_mib * kMiB;
  wanted.piece_bytes = options.piece_kib * kKiB;
  wanted.in_flight_max = options.in_flight;
  TransferQueue queue;
  require(queue.open(gpu, events, wanted), "opening the queue");
  {
    const CurrentContext current(gpu);
    cuda::DevicePointer device = 0;
    void* pinned = nullptr;
    require(gpu.check(driver.mem_alloc(&device, kTotalBytes)), "device memory");
    require(gpu.check(driver.mem_host_alloc(&pinned, kTotalBytes, 0)), "pinned memory");
    std::vector<std::byte> pageable(kTotalBytes), target(kTotalBytes);
    torture::Random random(1);
    for (std::size_t i = 0; i < kTotalBytes; i += 8) {
      const std::uint64_t word = random.next();
      std::memcpy(pageable.data() + i, &word, 8);
    }
    std::memcpy(pinned, pageable.data(), kTotalBytes);
    fmt::print("{}; ring {} MiB, pieces {} KiB, {} in flight, {} threads, {} rounds\n", gpu.facts().name,
               options.ring_mib, options.piece_kib, options.in_flight, options.threads, options.rounds);
    measure({gpu, queue, device, pageable.data(), static_cast<std::byte*>(pinned), target.data(),
             options.rounds});
    queue.close(TransferClose::wait);
    require(gpu.check(driver.mem_free(device)), "device memory");
    require(gpu.check(driver.mem_free_host(pinned)), "pinned memory");
  }
  events.close();
  gpu.close();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Transfers between the host and a GPU");
  app.add_option("--driver", options.driver)->check(CLI::IsMember({"emulated", "real"}));
  app.add_option("--rounds", options.rounds)->check(CLI::PositiveNumber);
  app.add_option("--ring-mib", options.ring_mib)->check(CLI::PositiveNumber);
  app.add_option("--piece-kib", options.piece_kib)->check(CLI::PositiveNumber);
  app.add_option("--in-flight", options.in_flight);
  app.add_option("--threads", options.threads);
  CLI11_PARSE(app, argc, argv);
  if (options.driver == "real") {
    const cuda::LoadedDriver loaded = cuda::load_driver();
    if (loaded.support != cuda::Support::present) {
      char text[256];
      glebe::Text why(text);
      cuda::explain(loaded, why);
      fail(std::string(why.view()));
    }
    run(options, loaded.driver);
    return 0;
  }
  for (const GpuSchedule schedule : {GpuSchedule::threaded, GpuSchedule::eager}) {
    EmulatedGpu emulated;
    EmulatedGpu::Options small;
    small.schedule = schedule;
    if (!emulated.open(small)) fail("no emulated GPU");
    const cuda::Driver driver = emulated.driver();
    if (driver.init(0) != cuda::Result::success) fail("no emulated GPU");
    fmt::print("\nschedule {}\n", schedule == GpuSchedule::threaded ? "threaded" : "eager");
    run(options, driver);
  }
  return 0;
}
