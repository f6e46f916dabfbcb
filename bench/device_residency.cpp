// G8, G9, G14: whole heaps that leave the device and come back. G10: working sets larger than the budget.
// What comes back is compared: the first and the last word of every chunk.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <list>
#include <memory>
#include <unordered_map>

#include <fmt/core.h>

#include "bench/device_bench.h"
#include "bench/random.h"
#include "src/device/residency.h"

namespace device_bench {
namespace {

// A heap in which every chunk is an allocation of its own, so that leases name single chunks.
class Resident {
 public:
  Resident(const Bench& bench, std::uint64_t total_bytes, std::uint64_t budget_bytes)
      : bench_(bench), stream_(bench), chunk_bytes_(chunk_bytes_of(bench)) {
    ChunkPoolOptions pool;
    pool.chunk_bytes = chunk_bytes_;
    require(pool_.open(bench.gpu, pool), "the chunks");
    ResidencyOptions options;
    options.pool = &pool_;
    options.address_bytes = total_bytes;
    options.budget_bytes = budget_bytes;
    options.host_bytes = total_bytes;
    require(heap_.open(bench.gpu, options), "opening the heap");
    chunks_.resize(total_bytes / chunk_bytes_);
    for (cuda::DevicePointer& chunk : chunks_) require(heap_.allocate(chunk_bytes_, 0, &chunk), "a chunk");
    values_.resize(chunks_.size());
  }
  ~Resident() {
    heap_.close();
    pool_.close();
  }
  Resident(const Resident&) = delete;
  Resident& operator=(const Resident&) = delete;

  [[nodiscard]] static std::uint64_t chunk_bytes_of(const Bench& bench) {
    return bench.options.is_smoke ? 2 * kMiB : 32 * kMiB;
  }
  [[nodiscard]] ResidentHeap& heap() { return heap_; }
  [[nodiscard]] const BenchStream& stream() const { return stream_; }
  [[nodiscard]] std::size_t chunks() const { return chunks_.size(); }
  [[nodiscard]] std::uint64_t bytes() const { return chunks_.size() * chunk_bytes_; }

  // Work on a chunk under a lease; what writes fills it with a number of its own.
  void use(std::size_t which, Access access) {
    const ChunkUse wanted{chunks_[which], 0, access};
    Lease lease;
    require(heap_.acquire({&wanted, 1}, stream_.get(), &lease), "a lease");
    if (access != Access::read) {
      values_[which] = ++last_value_;
      require(bench_.driver().memset_d32_async(chunks_[which], last_value_, chunk_bytes_ / 4, stream_.get()),
              "a memset");
    }
    require(heap_.release(lease), "the end of a lease");
  }
  // Leases on all, which brings them to the device.
  void use_all(Access access) {
    for (std::size_t i = 0; i < chunks_.size(); ++i) use(i, access);
    stream_.wait();
  }
  void verify() {
    for (std::size_t i = 0; i < chunks_.size(); ++i) verify(i);
  }

 private:
  void verify(std::size_t which) {
    const ChunkUse wanted{chunks_[which], 0, Access::read};
    Lease lease;
    require(heap_.acquire({&wanted, 1}, stream_.get(), &lease), "a lease");
    stream_.wait();
    std::uint32_t first = 0, last = 0;
    const cuda::Driver& driver = bench_.driver();
    require(driver.memcpy_d2h(&first, chunks_[which], 4), "reading back");
    require(driver.memcpy_d2h(&last, chunks_[which] + chunk_bytes_ - 4, 4), "reading back");
    require(first == values_[which] && last == values_[which], "a chunk came back with other contents");
    require(heap_.release(lease), "the end of a lease");
  }

  const Bench& bench_;
  BenchStream stream_;
  std::uint64_t chunk_bytes_;
  ChunkPool pool_;
  ResidentHeap heap_;
  std::vector<cuda::DevicePointer> chunks_;
  std::vector<std::uint32_t> values_;  // that each chunk was filled with last
  std::uint32_t last_value_ = 0;
};

void add_rate(Bench& bench, const std::string& what, const std::vector<double>& seconds, double bytes,
              double link) {
  const std::vector<double> rates = rate(1e-9 * bytes, seconds);
  bench.report.add(what, "GB/s", rates);
  bench.report.add(what + ": part of the link's rate", "x", times(1e9 / link, rates));
}

void add_calibration(Bench& bench, const CopyRates& rates) {
  bench.report.add("calibration: upload from pinned memory", "GB/s", {rates.upload / 1e9});
  bench.report.add("calibration: download to pinned memory", "GB/s", {rates.download / 1e9});
}

struct MoveTimes {
  std::vector<double> out, in;  // seconds
};

// How a loop that copies each allocation and waits does it.
MoveTimes time_copy_loop(const Bench& bench, std::uint64_t total, std::byte* host) {
  const std::uint64_t chunk = Resident::chunk_bytes_of(bench);
  const DeviceBytes device(bench, total);
  MoveTimes times;
  for (unsigned i = 0; i <= bench.rounds(); ++i) {
    const double out = seconds_of([&] {
      for (std::uint64_t at = 0; at < total; at += chunk)
        require(bench.driver().memcpy_d2h(host + at, device.get() + at, chunk), "cuMemcpyDtoH");
    });
    const double in = seconds_of([&] {
      for (std::uint64_t at = 0; at < total; at += chunk)
        require(bench.driver().memcpy_h2d(device.get() + at, host + at, chunk), "cuMemcpyHtoD");
    });
    if (i == 0) continue;  // the host's pages are touched first
    times.out.push_back(out);
    times.in.push_back(in);
  }
  return times;
}

void add_copy_loops(Bench& bench, const CopyRates& rates) {
  const std::uint64_t total = bench.bytes(2 * kGiB, 4 * kMiB, 32 * kMiB);
  const auto bytes = static_cast<double>(total);
  {
    const PinnedBytes pinned(bench, total);
    const MoveTimes times = time_copy_loop(bench, total, pinned.get());
    add_rate(bench, "copy loop, pinned, out", times.out, bytes, rates.download);
    add_rate(bench, "copy loop, pinned, in", times.in, bytes, rates.upload);
  }
  std::vector<std::byte> pageable(total);
  const MoveTimes times = time_copy_loop(bench, total, pageable.data());
  add_rate(bench, "copy loop, pageable, out", times.out, bytes, rates.download);
  add_rate(bench, "copy loop, pageable, in", times.in, bytes, rates.upload);
}

// Working sets and their accesses.
enum class Pattern { sequential, zipf };

std::vector<std::size_t> make_accesses(Pattern pattern, std::size_t chunks, std::uint64_t seed) {
  std::vector<std::size_t> accesses;
  if (pattern == Pattern::sequential) {
    for (std::size_t i = 0; i < chunks; ++i) accesses.push_back(i);
    return accesses;
  }
  std::vector<double> sums(chunks);
  double sum = 0;
  for (std::size_t i = 0; i < chunks; ++i) sums[i] = sum += 1 / std::pow(static_cast<double>(i + 1), 0.99);
  torture::Random random(seed);
  for (std::size_t i = 0; i < 4 * chunks; ++i) {
    const double drawn = sum * static_cast<double>(random.next() >> 11) / 9007199254740992.0;
    const auto rank =
        static_cast<std::size_t>(std::lower_bound(sums.begin(), sums.end(), drawn) - sums.begin());
    accesses.push_back(std::min(rank, chunks - 1) * 7919 % chunks);  // neighbours are not alike
  }
  return accesses;
}

// The part of the accesses that an exact LRU of `room` chunks would find, from the second pass on.
double lru_hits(const std::vector<std::size_t>& accesses, std::size_t room) {
  std::list<std::size_t> order;
  std::unordered_map<std::size_t, std::list<std::size_t>::iterator> where;
  std::size_t hits = 0;
  for (unsigned pass = 0; pass < 2; ++pass) {
    for (const std::size_t which : accesses) {
      const auto found = where.find(which);
      if (found != where.end()) {
        hits += pass;
        order.erase(found->second);
      }
      order.push_front(which);
      where[which] = order.begin();
      if (order.size() <= room) continue;
      where.erase(order.back());
      order.pop_back();
    }
  }
  return static_cast<double>(hits) / static_cast<double>(accesses.size());
}

struct Budget {
  std::uint64_t bytes;
  double part;  // working set / budget
};

void measure_pattern(Bench& bench, Resident& resident, Pattern pattern, const Budget& budget,
                     const CopyRates& rates) {
  const std::vector<std::size_t> accesses = make_accesses(pattern, resident.chunks(), bench.options.seed);
  const auto pass = [&] {
    for (const std::size_t which : accesses) resident.use(which, Access::write);
    resident.stream().wait();
  };
  pass();
  std::vector<double> seconds, slowness, hits;
  for (unsigned i = 0; i < bench.rounds(); ++i) {
    const ResidencyStats before = resident.heap().stats();
    seconds.push_back(seconds_of(pass));
    const ResidencyStats after = resident.heap().stats();
    const double least = static_cast<double>(after.mover.bytes_in - before.mover.bytes_in) / rates.upload +
                         static_cast<double>(after.mover.bytes_out - before.mover.bytes_out) / rates.download;
    if (least > 0) slowness.push_back(seconds.back() / least);
    hits.push_back(static_cast<double>(after.hits - before.hits) / static_cast<double>(accesses.size()));
  }
  const std::string what =
      fmt::format("{} times the budget, {}", budget.part, pattern == Pattern::zipf ? "zipf" : "sequential");
  bench.report.add(what + ": time of an access", "us",
                   times(1e6 / static_cast<double>(accesses.size()), seconds));
  if (slowness.size() == seconds.size())
    bench.report.add(what + ": time / (bytes moved / link)", "x", slowness);
  bench.report.add(what + ": found on the device", "of 1", hits);
  const std::size_t room = budget.bytes / Resident::chunk_bytes_of(bench);
  bench.report.add(what + ": an exact LRU would find", "of 1", {lru_hits(accesses, room)}, "simulated");
}

// Every access copies its chunk in, works on it and copies it out, with two buffers that take turns.
void measure_double_buffer(Bench& bench) {
  const std::uint64_t chunk = Resident::chunk_bytes_of(bench);
  const unsigned accesses = bench.count(128, 4);
  const PinnedBytes host(bench, 2 * chunk);
  const DeviceBytes device(bench, 2 * chunk);
  const BenchStream streams[2] = {BenchStream(bench), BenchStream(bench)};
  const cuda::Driver& driver = bench.driver();
  const std::vector<double> seconds = repeat(bench, [&] {
    for (unsigned i = 0; i < accesses; ++i) {
      const cuda::Stream stream = streams[i % 2].get();
      std::byte* const there = host.get() + i % 2 * chunk;
      const cuda::DevicePointer here = device.get() + i % 2 * chunk;
      require(driver.memcpy_h2d_async(here, there, chunk, stream), "a copy");
      require(driver.memset_d32_async(here, i, chunk / 4, stream), "a memset");
      require(driver.memcpy_d2h_async(there, here, chunk, stream), "a copy");
    }
    for (const BenchStream& stream : streams) stream.wait();
  });
  bench.report.add("copy everything, two buffers: time of an access", "us", times(1e6 / accesses, seconds));
}

}  // namespace

// Every chunk was written, so every byte has to be copied. The budget of one chunk sends the others away.
void run_eviction(Bench& bench) {
  const CopyRates rates = calibrate(bench);
  add_calibration(bench, rates);
  const std::uint64_t total = bench.bytes(32 * kGiB, 8 * kMiB, 32 * kMiB);
  const std::uint64_t chunk = Resident::chunk_bytes_of(bench);
  MoveTimes times;
  {
    Resident resident(bench, total, total);
    for (unsigned i = 0; i < bench.rounds(); ++i) {
      resident.use_all(Access::discard);
      times.out.push_back(
          seconds_of([&] { require(resident.heap().set_budget(chunk), "a smaller budget"); }));
      require(resident.heap().set_budget(total), "a larger budget");
      times.in.push_back(seconds_of([&] { resident.use_all(Access::read); }));
    }
    resident.verify();
  }
  const auto moved = static_cast<double>(total - chunk);
  const std::string text = size_text(total);
  add_rate(bench, "residency, " + text + " dirty, out", times.out, moved, rates.download);
  add_rate(bench, "residency, " + text + ", in", times.in, moved, rates.upload);
  add_copy_loops(bench, rates);
}

void run_clean_eviction(Bench& bench) {
  const std::uint64_t total = bench.bytes(8 * kGiB, 8 * kMiB, 32 * kMiB);
  const std::uint64_t chunk = Resident::chunk_bytes_of(bench);
  std::vector<double> dirty, clean, in;
  {
    Resident resident(bench, total, total);
    const auto per_chunk = 1e6 / static_cast<double>(resident.chunks() - 1);
    const auto evict = [&] {
      const double seconds =
          seconds_of([&] { require(resident.heap().set_budget(chunk), "a smaller budget"); });
      require(resident.heap().set_budget(total), "a larger budget");
      return seconds * per_chunk;
    };
    for (unsigned i = 0; i < bench.rounds(); ++i) {
      resident.use_all(Access::discard);
      dirty.push_back(evict());
      in.push_back(per_chunk * seconds_of([&] { resident.use_all(Access::read); }));
      const std::uint64_t before = resident.heap().stats().mover.bytes_out;
      clean.push_back(evict());
      const std::uint64_t copied = resident.heap().stats().mover.bytes_out - before;
      require(copied <= chunk, "clean chunks were copied");
      resident.use_all(Access::read);
    }
    resident.verify();
  }
  const std::string text = size_text(chunk) + " chunk";
  bench.report.add(text + ": written, evicted", "us", dirty);
  bench.report.add(text + ": read only, evicted", "us", clean);
  bench.report.add(text + ": fetched", "us", in);
  bench.report.add("evicted: written / read only", "x", {median_of(dirty) / median_of(clean)});
}

void run_oversubscription(Bench& bench) {
  const CopyRates rates = calibrate(bench);
  add_calibration(bench, rates);
  measure_double_buffer(bench);
  const std::uint64_t chunk = Resident::chunk_bytes_of(bench);
  const std::uint64_t budget = bench.bytes(16 * kGiB, 4 * chunk, 2 * chunk);
  for (const double part : {0.5, 1.0, 1.5, 2.0, 3.0}) {
    const auto total = static_cast<std::uint64_t>(part * static_cast<double>(budget)) / chunk * chunk;
    Resident resident(bench, total, budget);
    resident.use_all(Access::discard);
    for (const Pattern pattern : {Pattern::sequential, Pattern::zipf}) {
      measure_pattern(bench, resident, pattern, {budget, part}, rates);
    }
    resident.verify();
  }
}

void run_sleep(Bench& bench) {
  const CopyRates rates = calibrate(bench);
  add_calibration(bench, rates);
  const std::uint64_t total = bench.bytes(64 * kGiB, 8 * kMiB, 32 * kMiB);
  std::vector<double> sleep, wake, again;
  {
    Resident resident(bench, total, total);
    for (unsigned i = 0; i < bench.rounds(); ++i) {
      resident.use_all(Access::discard);
      sleep.push_back(seconds_of([&] { require(resident.heap().sleep(0, 1), "sleep"); }));
      wake.push_back(seconds_of([&] {
        require(resident.heap().wake(0), "wake");
        resident.use_all(Access::read);
      }));
      again.push_back(seconds_of([&] { require(resident.heap().sleep(0, 1), "sleep"); }));
      require(resident.heap().wake(0), "wake");
    }
    resident.verify();
  }
  const auto bytes = static_cast<double>(total);
  const std::string text = size_text(total);
  bench.report.add(text + ", written: sleep", "s", sleep);
  bench.report.add(text + ": wake", "s", wake);
  bench.report.add(text + ", only read since: sleep", "s", again);
  bench.report.add(text + ", written: sleep / (bytes / link)", "x", times(rates.download / bytes, sleep));
  bench.report.add(text + ": wake / (bytes / link)", "x", times(rates.upload / bytes, wake));
}

}  // namespace device_bench
