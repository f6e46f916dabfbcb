// The workloads of bench/paging.py that are programs of ours: run under any allocator and any way of paging,
// they compare every byte that they touch and print one line of JSON.
//   paging_load zipf MIB OPERATIONS      objects of 32 to 512 bytes, clusters of 8, popularity 1 / rank
//   paging_load phases MIB OPERATIONS    four phases, each works on a quarter of the objects
//   paging_load latency MIB TOUCHES      times single touches of pages that are not resident
//   paging_load disk FOLDER READS        times direct reads of 4 KiB from a file, for comparison
// Exit status 0, or 1 when a byte was wrong.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kPage = 4096, kCluster = 8;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdu;
  return x ^ (x >> 33);
}

struct Object {
  std::uint64_t seed;
  std::uint32_t words, version;
  std::uint64_t content[1];

  // One word in six is random: pages compress about four to one.
  [[nodiscard]] std::uint64_t word(std::uint32_t i) const {
    return i % 6 == 0 ? mix(seed + i * 8 + version) : (seed & 0xff) * 0x100 + 0x7f0000000000u;
  }
  void fill() {
    for (std::uint32_t i = 0; i < words; ++i) content[i] = word(i);
  }
  [[nodiscard]] bool is_right() const {
    for (std::uint32_t i = 0; i < words; ++i) {
      if (content[i] != word(i)) return false;
    }
    return true;
  }
};

// The table of pointers comes from mmap, so that reading it touches no page of the objects.
class Objects {
 public:
  explicit Objects(std::size_t bytes) : random_(1) {
    constexpr std::size_t kLeast = 32 + sizeof(Object);
    table_bytes_ = bytes / kLeast * sizeof(Object*) + kPage;
    void* table = mmap(nullptr, table_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED) std::abort();
    table_ = static_cast<Object**>(table);
    for (std::size_t total = 0; total < bytes;) {
      const auto words = static_cast<std::uint32_t>(4u << (random_() % 5));
      const std::size_t size = sizeof(Object) + words * 8;
      auto* object = static_cast<Object*>(std::malloc(size));
      if (object == nullptr) std::abort();
      object->seed = random_();
      object->words = words;
      object->version = 0;
      object->fill();
      table_[count_++] = object;
      total += size;
    }
  }
  Objects(const Objects&) = delete;
  Objects& operator=(const Objects&) = delete;
  ~Objects() { munmap(table_, table_bytes_); }

  [[nodiscard]] std::size_t count() const { return count_; }
  Object& operator[](std::size_t index) { return *table_[index]; }
  std::mt19937_64& random() { return random_; }

  // One operation in five writes.
  bool use(std::size_t index) {
    Object& object = *table_[index];
    const bool right = object.is_right();
    if (random_() % 5 == 0) {
      ++object.version;
      object.fill();
    }
    return right;
  }
  std::size_t wrong() {
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < count_; ++i) wrong += !table_[i]->is_right();
    return wrong;
  }

 private:
  std::mt19937_64 random_;
  Object** table_ = nullptr;
  std::size_t table_bytes_ = 0, count_ = 0;
};

int report_run(double build, double run, double scan, std::size_t operations, std::size_t wrong) {
  std::printf("{\"build_s\": %.4f, \"run_s\": %.4f, \"scan_s\": %.4f, \"operations\": %zu, \"wrong\": %zu}\n",
              build, run, scan, operations, wrong);
  return wrong == 0 ? 0 : 1;
}

// Inverse of the distribution function of rank ** -0.99, continuous form. Neighbours in allocation order
// share their popularity in clusters, as the fields of a structure do.
int zipf(std::size_t bytes, std::size_t operations) {
  const Clock::time_point start = Clock::now();
  Objects objects(bytes);
  const double build = since(start);
  std::vector<std::uint32_t> order(objects.count() / kCluster);
  for (std::uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), objects.random());
  constexpr double kPower = 0.01;
  const double total = (std::pow(static_cast<double>(order.size()), kPower) - 1) / kPower;
  std::size_t wrong = 0;
  const Clock::time_point run_start = Clock::now();
  for (std::size_t i = 0; i < operations; ++i) {
    const double share = static_cast<double>(objects.random()() >> 11) * 0x1p-53;
    const auto rank = static_cast<std::size_t>(std::pow(share * total * kPower + 1, 1 / kPower) - 1);
    const std::size_t cluster = order[std::min(rank, order.size() - 1)];
    wrong += !objects.use(cluster * kCluster + objects.random()() % kCluster);
  }
  const double run = since(run_start);
  const Clock::time_point scan_start = Clock::now();
  wrong += objects.wrong();
  return report_run(build, run, since(scan_start), operations, wrong);
}

int phases(std::size_t bytes, std::size_t operations) {
  constexpr std::size_t kPhases = 4;
  const Clock::time_point start = Clock::now();
  Objects objects(bytes);
  const double build = since(start);
  const std::size_t part = objects.count() / kPhases;
  std::size_t wrong = 0;
  const Clock::time_point run_start = Clock::now();
  for (std::size_t phase = 0; phase < kPhases; ++phase) {
    for (std::size_t i = 0; i < operations / kPhases; ++i) {
      const bool elsewhere = objects.random()() % 2000 == 0;
      const std::size_t index =
          elsewhere ? objects.random()() % objects.count() : phase * part + objects.random()() % part;
      wrong += !objects.use(index);
    }
  }
  const double run = since(run_start);
  const Clock::time_point scan_start = Clock::now();
  wrong += objects.wrong();
  return report_run(build, run, since(scan_start), operations, wrong);
}

double percentile(std::vector<double>& sorted, double share) {
  if (sorted.empty()) return 0;
  return sorted[std::min(sorted.size() - 1,
                         static_cast<std::size_t>(share * static_cast<double>(sorted.size())))];
}

void print_times(const char* name, std::vector<double>& times) {
  std::sort(times.begin(), times.end());
  double sum = 0;
  for (const double time : times) sum += time;
  std::printf(
      "\"%s\": {\"count\": %zu, \"p50_us\": %.2f, \"p90_us\": %.2f, \"p99_us\": %.2f, \"mean_us\": %.2f}",
      name, times.size(), percentile(times, 0.5), percentile(times, 0.9), percentile(times, 0.99),
      times.empty() ? 0 : sum / static_cast<double>(times.size()));
}

std::size_t resident_pages() {
  std::ifstream file("/proc/self/statm");
  std::size_t size = 0, resident = 0;
  file >> size >> resident;
  return resident;
}

// Until the resident size has not fallen for two seconds, at most a minute.
void wait_until_settled() {
  std::size_t lowest = resident_pages();
  int quiet = 0;
  for (int i = 0; i < 600 && quiet < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const std::size_t now = resident_pages();
    quiet = now + 256 < lowest ? 0 : quiet + 1;
    lowest = std::min(lowest, now);
  }
}

bool is_resident(const void* address) {
  unsigned char state = 1;
  const auto page = reinterpret_cast<std::uintptr_t>(address) & ~(kPage - 1);
  return mincore(reinterpret_cast<void*>(page), 1, &state) == 0 && (state & 1) != 0;
}

// Touches random pages, then all in heap order; pages that are resident before the touch are not counted, but
// the time of the second walk is that of all pages.
int latency(std::size_t bytes, std::size_t touches) {
  Objects objects(bytes);
  wait_until_settled();
  std::vector<double> missing;
  missing.reserve(touches);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < touches * 20 && missing.size() < touches; ++i) {
    Object& object = objects[objects.random()() % objects.count()];
    if (is_resident(&object)) continue;
    const Clock::time_point start = Clock::now();
    const std::uint64_t seed = *const_cast<volatile std::uint64_t*>(&object.seed);
    missing.push_back(since(start) * 1e6);
    wrong += seed != object.seed;
  }
  wait_until_settled();
  std::size_t absent = 0, pages = 0;
  std::uintptr_t last = 0;
  double walk = 0;
  for (std::size_t i = 0; i < objects.count(); ++i) {
    Object& object = objects[i];
    const std::uintptr_t page = reinterpret_cast<std::uintptr_t>(&object) / kPage;
    const bool is_new = page != last;
    absent += is_new && !is_resident(&object);
    pages += is_new;
    last = page;
    const Clock::time_point start = Clock::now();
    wrong += !object.is_right();
    if (is_new) walk += since(start) * 1e6;
  }
  std::printf("{");
  print_times("random", missing);
  std::printf(", \"heap_order\": {\"pages\": %zu, \"absent\": %zu, \"mean_us\": %.3f}, \"wrong\": %zu}\n",
              pages, absent, pages == 0 ? 0 : walk / static_cast<double>(pages), wrong);
  return wrong == 0 ? 0 : 1;
}

int disk(const char* folder, std::size_t reads) {
  constexpr std::size_t kFileBytes = std::size_t{256} << 20, kPiece = std::size_t{1} << 20;
  const int file = open(folder, O_TMPFILE | O_RDWR | O_DIRECT, 0600);
  void* buffer = std::aligned_alloc(kPage, kPiece);
  if (file < 0 || buffer == nullptr) return 2;
  std::mt19937_64 random(3);
  auto* words = static_cast<std::uint64_t*>(buffer);
  for (std::size_t i = 0; i < kPiece / 8; ++i) words[i] = random();
  for (std::size_t at = 0; at < kFileBytes; at += kPiece) {
    if (pwrite(file, buffer, kPiece, static_cast<off_t>(at)) != static_cast<ssize_t>(kPiece)) return 2;
  }
  std::vector<double> times;
  for (std::size_t i = 0; i < reads; ++i) {
    const auto at = static_cast<off_t>(random() % (kFileBytes / kPage) * kPage);
    const Clock::time_point start = Clock::now();
    if (pread(file, buffer, kPage, at) != static_cast<ssize_t>(kPage)) return 2;
    times.push_back(since(start) * 1e6);
  }
  std::printf("{");
  print_times("random", times);
  std::printf(", \"wrong\": 0}\n");
  std::free(buffer);
  close(file);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc == 4 ? argv[1] : "";
  const std::size_t count = argc == 4 ? std::strtoull(argv[3], nullptr, 10) : 0;
  const std::size_t bytes = argc == 4 ? std::strtoull(argv[2], nullptr, 10) << 20 : 0;
  if (mode == "zipf") return zipf(bytes, count);
  if (mode == "phases") return phases(bytes, count);
  if (mode == "latency") return latency(bytes, count);
  if (mode == "disk") return disk(argv[2], count);
  std::fprintf(stderr,
               "usage: paging_load zipf|phases MIB OPERATIONS | latency MIB TOUCHES | disk FOLDER READS\n");
  return 2;
}
