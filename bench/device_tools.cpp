// The tools of the rows; see device_bench.h.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>

#include <fmt/core.h>

#include "bench/device_bench.h"

namespace device_bench {

void fail(const std::string& what) { throw std::runtime_error(what); }

void require(bool condition, const char* what) {
  if (!condition) fail(what);
}

void require(Outcome outcome, const char* what) {
  if (outcome.ok()) return;
  fail(fmt::format("{}: {} (driver: {})", what, describe(outcome.status), cuda::name_of(outcome.driver)));
}

void require(cuda::Result result, const char* what) {
  if (result != cuda::Result::success) fail(fmt::format("{}: {}", what, cuda::name_of(result)));
}

std::uint64_t Bench::bytes(std::uint64_t real, std::uint64_t tiny, std::uint64_t unit) const {
  if (options.is_smoke) return tiny;
  const auto scaled = static_cast<std::uint64_t>(static_cast<double>(real) * options.scale);
  return std::max(scaled / unit, std::uint64_t{1}) * unit;
}

double median_of(std::vector<double> runs) {
  if (runs.empty()) return 0;
  std::sort(runs.begin(), runs.end());
  const std::size_t middle = runs.size() / 2;
  return runs.size() % 2 != 0 ? runs[middle] : (runs[middle - 1] + runs[middle]) / 2;
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<double> repeat_cold(const Bench& bench, const std::function<void()>& work) {
  std::vector<double> runs;
  for (unsigned i = 0; i < bench.rounds(); ++i) runs.push_back(seconds_of(work));
  return runs;
}

std::vector<double> repeat(const Bench& bench, const std::function<void()>& work) {
  work();
  return repeat_cold(bench, work);
}

std::vector<double> rate(double numerator, std::vector<double> seconds) {
  for (double& value : seconds) value = value > 0 ? numerator / value : 0;
  return seconds;
}

std::vector<double> times(double factor, std::vector<double> values) {
  for (double& value : values) value *= factor;
  return values;
}

std::string size_text(std::uint64_t size_bytes) {
  if (size_bytes >= kGiB && size_bytes % kGiB == 0) return fmt::format("{} GiB", size_bytes / kGiB);
  if (size_bytes >= kMiB) return fmt::format("{} MiB", size_bytes / kMiB);
  return size_bytes >= kKiB ? fmt::format("{} KiB", size_bytes / kKiB) : fmt::format("{} B", size_bytes);
}

BenchStream::BenchStream(const Bench& bench) : driver_(bench.driver()) {
  require(driver_.stream_create(&stream_, cuda::kStreamNonBlocking), "a stream");
}
BenchStream::~BenchStream() { static_cast<void>(driver_.stream_destroy(stream_)); }
void BenchStream::wait() const { require(driver_.stream_synchronize(stream_), "waiting for a stream"); }

DeviceBytes::DeviceBytes(const Bench& bench, std::uint64_t size_bytes) : driver_(bench.driver()) {
  require(driver_.mem_alloc(&address_, size_bytes), "cuMemAlloc");
}
DeviceBytes::~DeviceBytes() { static_cast<void>(driver_.mem_free(address_)); }

PinnedBytes::PinnedBytes(const Bench& bench, std::uint64_t size_bytes) : driver_(bench.driver()) {
  require(driver_.mem_host_alloc(&address_, size_bytes, 0), "cuMemHostAlloc");
}
PinnedBytes::~PinnedBytes() { static_cast<void>(driver_.mem_free_host(address_)); }

bool has_driver_pools(const Bench& bench) {
  int is_supported = 0;
  return bench.driver().device_get_attribute(&is_supported, cuda::DeviceAttribute::memory_pools_supported,
                                             bench.gpu.device()) == cuda::Result::success &&
         is_supported != 0;
}

void set_release_threshold(const Bench& bench, std::uint64_t threshold_bytes) {
  const cuda::Driver& driver = bench.driver();
  cuda::MemoryPool pool = nullptr;
  require(driver.device_get_default_mem_pool(&pool, bench.gpu.device()), "cuDeviceGetDefaultMemPool");
  require(driver.mem_pool_set_attribute(pool, cuda::PoolAttribute::release_threshold, &threshold_bytes),
          "cuMemPoolSetAttribute");
  if (threshold_bytes == 0) require(driver.mem_pool_trim_to(pool, 0), "cuMemPoolTrimTo");
}

CopyRates calibrate(const Bench& bench) {
  const std::uint64_t size = bench.bytes(256 * kMiB, 2 * kMiB, 2 * kMiB);
  const unsigned copies = bench.count(8, 1);
  const BenchStream stream(bench);
  const PinnedBytes host(bench, size);
  const DeviceBytes there(bench, size), here(bench, size);
  const auto best = [&](const std::function<cuda::Result()>& copy) {
    const std::vector<double> runs = repeat(bench, [&] {
      for (unsigned i = 0; i < copies; ++i) require(copy(), "a copy");
      stream.wait();
    });
    const double least = *std::min_element(runs.begin(), runs.end());
    return static_cast<double>(size) * copies / std::max(least, 1e-9);
  };
  const cuda::Driver& driver = bench.driver();
  CopyRates rates{};
  rates.upload = best([&] { return driver.memcpy_h2d_async(there.get(), host.get(), size, stream.get()); });
  rates.download = best([&] { return driver.memcpy_d2h_async(host.get(), there.get(), size, stream.get()); });
  rates.device = best([&] { return driver.memcpy_d2d_async(here.get(), there.get(), size, stream.get()); });
  return rates;
}

}  // namespace device_bench
