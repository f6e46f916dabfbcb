// Explicit buffers under load: mass page-out of many small buffers next to a plain pwrite loop over the same
// bytes in the same run, threads that access buffers while their budget is half of what they use, crawls, and
// what a view of something resident costs.
// Every byte that comes back is compared; a difference ends the program with status 1.
//
//   build/bench/buffers --directory DIR [--counts 1000,10000,100000] [--rounds 5] [--threads 2,4,8,16]
//
// Times are the best of the rounds, which take turns between the ways. Nothing is synced to the disk by
// either side: both write through the page cache.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <glebe/paging.hpp>
#include <string>
#include <thread>
#include <vector>

#include "bench/random.h"

namespace {

constexpr std::size_t kSmallBytes = 8192;
constexpr std::size_t kExtentBytes = 65536;

struct Options {
  std::string directory = "/tmp";
  std::vector<std::size_t> counts{1'000, 10'000, 100'000};
  std::vector<unsigned> threads{2, 4, 8, 16};
  unsigned rounds = 5;
};

[[noreturn]] void fail(const std::string& what) {
  fmt::print(stderr, "buffers: {}\n", what);
  std::exit(1);
}
void require(glebe_result result, const char* what) {
  if (result != glebe_ok) fail(fmt::format("{}: {}", what, glebe_result_text(result)));
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void write_content(std::byte* data, std::size_t size, std::uint64_t seed) {
  auto* words = reinterpret_cast<std::uint64_t*>(data);
  for (std::size_t i = 0; i < size / 8; ++i) words[i] = (seed + i / 16) * 0x9E3779B97F4A7C15u;
}
bool has_content(const std::byte* data, std::size_t size, std::uint64_t seed) {
  const auto* words = reinterpret_cast<const std::uint64_t*>(data);
  for (std::size_t i = 0; i < size / 8; ++i) {
    if (words[i] != (seed + i / 16) * 0x9E3779B97F4A7C15u) return false;
  }
  return true;
}

glebe::Pager make_pager(const Options& options, std::uint64_t host_bytes, std::uint64_t compressed_bytes,
                        unsigned workers) {
  glebe::PagerOptions settings;
  settings.directory = options.directory.c_str();
  settings.host_bytes = host_bytes;
  settings.compressed_bytes = compressed_bytes;
  settings.workers = workers;
  settings.trigger = glebe_trigger_age;
  settings.victims = glebe_victims_lru;
  glebe::Pager pager(settings);
  require(pager.result(), "pager");
  return pager;
}

std::vector<glebe_buffer> make_buffers(glebe::Pager& pager, std::size_t count, std::size_t size_bytes) {
  std::vector<glebe_buffer> buffers(count);
  for (std::size_t i = 0; i < count; ++i) {
    require(glebe_buffer_new(pager.handle(), size_bytes, nullptr, &buffers[i]), "buffer");
    glebe::Pin pin(pager.handle(), buffers[i], {}, glebe::Access::write);
    require(pin.result(), "pin");
    write_content(pin.writable().data(), size_bytes, i);
  }
  return buffers;
}

void verify(glebe::Pager& pager, const std::vector<glebe_buffer>& buffers, std::size_t size_bytes) {
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const glebe::Pin pin(pager.handle(), buffers[i], {}, glebe::Access::read);
    require(pin.result(), "pin");
    if (!has_content(pin.bytes().data(), size_bytes, i)) fail(fmt::format("wrong content in buffer {}", i));
  }
}

// One way to get `count` small buffers out of memory; the answers are seconds.
struct Times {
  double out = 1e9, in = 1e9;
  void take(double out_seconds, double in_seconds) {
    out = std::min(out, out_seconds);
    in = std::min(in, in_seconds);
  }
};

Times run_pager(const Options& options, std::size_t count, const std::string& way) {
  const std::uint64_t compressed = way == "compressed" ? 2 * count * kSmallBytes + (64 << 20) : 0;
  glebe::Pager pager = make_pager(options, 2 * count * kSmallBytes + (64 << 20), compressed, 2);
  const std::vector<glebe_buffer> buffers = make_buffers(pager, count, kSmallBytes);
  const glebe_tier tier = compressed != 0 ? glebe_tier_compressed : glebe_tier_file;
  const double out = seconds_of([&] {
    if (way == "one by one") {
      for (const glebe_buffer buffer : buffers) {
        require(glebe_buffer_move(pager.handle(), buffer, 0, 0, glebe_swap, tier), "swap");
      }
    } else if (way == "asynchronous") {
      for (const glebe_buffer buffer : buffers) {
        glebe_ticket ticket = 0;
        require(glebe_buffer_move_async(pager.handle(), buffer, 0, 0, glebe_swap, tier, &ticket), "swap");
        if (ticket != 0) glebe_ticket_release(pager.handle(), ticket);
      }
      pager.wait_all();
    } else {
      require(glebe_buffer_move_many(pager.handle(), buffers.data(), buffers.size(), glebe_swap, tier),
              "swap");
    }
  });
  if (pager.stats().paged_out_bytes != count * kSmallBytes) fail(way + ": not everything left memory");
  Times times;
  times.take(out, seconds_of([&] { verify(pager, buffers, kSmallBytes); }));
  return times;
}

// The same by hand: pwrite of each block, the memory given back, pread and compared.
Times run_plain(const Options& options, std::size_t count) {
  std::string path = options.directory + "/glebe-bench-XXXXXX";
  const int file = ::mkstemp(path.data());
  if (file < 0) fail("cannot create a file in " + options.directory);
  ::unlink(path.c_str());
  const std::size_t bytes = count * kSmallBytes;
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("no memory");
  auto* data = static_cast<std::byte*>(memory);
  for (std::size_t i = 0; i < count; ++i) write_content(data + i * kSmallBytes, kSmallBytes, i);
  Times times;
  const double out = seconds_of([&] {
    for (std::size_t i = 0; i < count; ++i) {
      const auto at = static_cast<off_t>(i * kSmallBytes);
      if (::pwrite(file, data + at, kSmallBytes, at) != static_cast<ssize_t>(kSmallBytes)) fail("pwrite");
      if (::madvise(data + at, kSmallBytes, MADV_DONTNEED) != 0) fail("madvise");
    }
  });
  times.take(out, seconds_of([&] {
               for (std::size_t i = 0; i < count; ++i) {
                 const auto at = static_cast<off_t>(i * kSmallBytes);
                 if (::pread(file, data + at, kSmallBytes, at) != static_cast<ssize_t>(kSmallBytes))
                   fail("pread");
                 if (!has_content(data + at, kSmallBytes, i)) fail("wrong content in the plain file");
               }
             }));
  ::munmap(memory, bytes);
  ::close(file);
  return times;
}

void mass_page_out(const Options& options) {
  fmt::print("mass page-out of 8 KiB buffers, then page-in with comparison; best of {}\n", options.rounds);
  fmt::print("{:>9}  {:<14} {:>11} {:>10} {:>9} {:>11}\n", "buffers", "way", "out ms", "out MiB/s",
             "of pwrite", "in ms");
  const std::vector<std::string> ways{"pwrite loop", "together", "one by one", "asynchronous", "compressed"};
  for (const std::size_t count : options.counts) {
    std::vector<Times> best(ways.size());
    for (unsigned round = 0; round < options.rounds; ++round) {
      for (std::size_t i = 0; i < ways.size(); ++i) {
        const Times times = i == 0 ? run_plain(options, count) : run_pager(options, count, ways[i]);
        best[i].take(times.out, times.in);
      }
    }
    for (std::size_t i = 0; i < ways.size(); ++i) {
      const double mib = static_cast<double>(count * kSmallBytes) / (1 << 20);
      fmt::print("{:>9}  {:<14} {:>11.2f} {:>10.0f} {:>9.2f} {:>11.2f}\n", count, ways[i], best[i].out * 1e3,
                 mib / best[i].out, best[i].out / best[0].out, best[i].in * 1e3);
    }
  }
}

// Threads read random extents of which half fit into the budget: skewed, so that the hot ones stay.
void concurrent_access(const Options& options) {
  constexpr std::size_t kBuffers = 1024;
  constexpr unsigned kReads = 4'000;
  fmt::print("\nconcurrent access: 64 KiB buffers, budget half of them, each read compared\n");
  fmt::print("{:>9} {:>14} {:>12} {:>12} {:>14}\n", "threads", "reads/s", "page-ins", "page-outs",
             "peak / budget");
  for (const unsigned threads : options.threads) {
    glebe::Pager pager = make_pager(options, kBuffers / 2 * kExtentBytes, 0, 2);
    const std::vector<glebe_buffer> buffers = make_buffers(pager, kBuffers, kExtentBytes);
    const glebe_pager_stats before = pager.stats();
    std::atomic<std::uint64_t> wrong{0};
    const double seconds = seconds_of([&] {
      std::vector<std::thread> running;
      for (unsigned t = 0; t < threads; ++t) {
        running.emplace_back([&, t] {
          torture::Random random(t + 1);
          for (unsigned i = 0; i < kReads; ++i) {
            const std::size_t which = std::min(random.below(kBuffers), random.below(kBuffers));
            const glebe::Pin pin(pager.handle(), buffers[which], {}, glebe::Access::read);
            if (!pin || !has_content(pin.bytes().data(), kExtentBytes, which)) wrong.fetch_add(1);
          }
        });
      }
      for (std::thread& thread : running) thread.join();
    });
    if (wrong.load() != 0) fail(fmt::format("{} wrong or refused reads", wrong.load()));
    const glebe_pager_stats after = pager.stats();
    fmt::print("{:>9} {:>14.0f} {:>12} {:>12} {:>14.3f}\n", threads, threads * kReads / seconds,
               after.page_ins - before.page_ins, after.page_outs - before.page_outs,
               static_cast<double>(after.tier_peak[0]) / static_cast<double>(after.tier_limit[0]));
  }
}

void free_crawl(const Options& options) {
  constexpr std::size_t kBuffers = 4096;
  fmt::print("\nfree-crawl: {} buffers of 64 KiB, all old enough\n", kBuffers);
  fmt::print("{:>9} {:>11} {:>10} {:>12}\n", "percent", "ms", "MiB/s", "MiB left");
  for (const unsigned percent : {25u, 50u, 75u, 100u}) {
    glebe::Pager pager = make_pager(options, 2 * kBuffers * kExtentBytes, 0, 0);
    const std::vector<glebe_buffer> buffers = make_buffers(pager, kBuffers, kExtentBytes);
    for (unsigned i = 0; i < 21; ++i) pager.advance_epoch();
    std::uint64_t bytes = 0;
    const double seconds = seconds_of([&] { bytes = pager.crawl(percent); });
    if (bytes != (kBuffers * percent + 99) / 100 * kExtentBytes) fail("crawl: not what was asked for");
    verify(pager, buffers, kExtentBytes);
    const double mib = static_cast<double>(bytes) / (1 << 20);
    fmt::print("{:>9} {:>11.1f} {:>10.0f} {:>12.0f}\n", percent, seconds * 1e3, mib / seconds, mib);
  }
}

// What a view of something resident costs (N6), and what a copy of it would.
void resident_access(const Options& options) {
  constexpr unsigned kPins = 500'000, kCopies = 2'000;
  glebe::Pager pager = make_pager(options, 64 << 20, 0, 0);
  const std::vector<glebe_buffer> buffers = make_buffers(pager, 64, kExtentBytes);
  std::vector<std::byte> copy(kExtentBytes);
  double pin = 1e9, touch = 1e9, copied = 1e9;
  unsigned sum = 0;
  for (unsigned round = 0; round < options.rounds; ++round) {
    pin = std::min(pin, seconds_of([&] {
                     for (unsigned i = 0; i < kPins; ++i) {
                       const glebe::Pin held(pager.handle(), buffers[i % 64], {0, 1}, glebe::Access::read);
                       sum += static_cast<unsigned>(held.bytes()[0]);
                     }
                   }));
    const glebe::Pin held(pager.handle(), buffers[0], {0, kExtentBytes}, glebe::Access::read);
    const volatile std::byte* const bytes = held.bytes().data();
    touch = std::min(touch, seconds_of([&] {
                       for (unsigned i = 0; i < kPins; ++i) {
                         sum += static_cast<unsigned>(bytes[i * 64 % kExtentBytes]);
                       }
                     }));
    copied = std::min(
        copied, seconds_of([&] {
          for (unsigned i = 0; i < kCopies; ++i) {
            require(glebe_buffer_read(pager.handle(), buffers[i % 64], 0, copy.data(), kExtentBytes), "read");
            sum += static_cast<unsigned>(copy[i]);
          }
        }));
  }
  fmt::print("\nresident access (N6), one thread; best of {}, sum {}\n", options.rounds, sum);
  fmt::print("  pin, read a byte, unpin       {:>8.1f} ns\n", pin * 1e9 / kPins);
  fmt::print("  read a byte of what is pinned {:>8.1f} ns\n", touch * 1e9 / kPins);
  fmt::print("  copy the 64 KiB out           {:>8.1f} ns\n", copied * 1e9 / kCopies);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Explicit buffers: mass page-out, concurrent access, crawls"};
  app.add_option("--directory", options.directory, "of the page files and the plain file");
  app.add_option("--counts", options.counts, "buffers of a mass page-out")->delimiter(',');
  app.add_option("--threads", options.threads, "of concurrent access")->delimiter(',');
  app.add_option("--rounds", options.rounds, "of each mass page-out")->check(CLI::Range(1u, 1000u));
  CLI11_PARSE(app, argc, argv);
  mass_page_out(options);
  concurrent_access(options);
  free_crawl(options);
  resident_access(options);
  return 0;
}
