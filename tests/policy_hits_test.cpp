// Hit rates of the victim policies on traces for which the literature says who wins, and s3_fifo step by step
// against the algorithm of its paper (Yang et al., SOSP 2023) written down with plain queues. A cache of
// items is simulated: a hit touches, a miss takes a victim when the cache is full and inserts.
#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "src/paging/policy.h"

#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe::paging;

namespace {

constexpr std::size_t kItems = 4000, kCapacity = 400, kAccesses = 120'000;

using Trace = std::vector<std::uint32_t>;

// Item i is asked for in proportion to 1 / (i + 1)^0.9.
class Zipf {
 public:
  explicit Zipf(std::size_t count) : sums_(count) {
    double sum = 0;
    for (std::size_t i = 0; i < count; ++i) sums_[i] = sum += 1 / std::pow(static_cast<double>(i + 1), 0.9);
  }
  std::uint32_t pick(Random& random) const {
    const double at = static_cast<double>(random.next() >> 11) / 9007199254740992.0 * sums_.back();
    return static_cast<std::uint32_t>(std::upper_bound(sums_.begin(), sums_.end() - 1, at) - sums_.begin());
  }

 private:
  std::vector<double> sums_;
};

Trace zipf(Random& random) {
  const Zipf picks(kItems);
  Trace trace(kAccesses);
  for (auto& item : trace) item = picks.pick(random);
  return trace;
}
// Every other item is used once and never again.
Trace scan_and_zipf(Random& random) {
  const Zipf picks(kItems / 2);
  Trace trace;
  std::uint32_t next = kItems / 2;
  while (trace.size() < kAccesses) {
    trace.push_back(picks.pick(random));
    trace.push_back(next++);
  }
  return trace;
}
// Round and round over a quarter more than there is room for.
Trace loop(Random&) {
  Trace trace(kAccesses);
  for (std::size_t i = 0; i < trace.size(); ++i)
    trace[i] = static_cast<std::uint32_t>(i % (kCapacity * 5 / 4));
  return trace;
}
// Popular items that are others after each tenth of the trace.
Trace phases(Random& random) {
  const Zipf picks(kItems / 4);
  Trace trace(kAccesses);
  for (std::size_t i = 0; i < trace.size(); ++i) {
    trace[i] = static_cast<std::uint32_t>(i * 10 / kAccesses * (kItems / 4)) + picks.pick(random);
  }
  return trace;
}

const Acceptor kAnything{[](void*, VictimItem*) noexcept { return true; }, nullptr};

double hit_rate(VictimKind kind, const Trace& trace) {
  Victims policy(kind);
  const std::size_t count = *std::max_element(trace.begin(), trace.end()) + std::size_t{1};
  const auto items = std::make_unique<VictimItem[]>(count);
  for (std::size_t i = 0; i < count; ++i) {
    items[i].birth = i;
    items[i].size_bytes = 4096 + i % 8;
  }
  std::size_t hits = 0;
  for (const std::uint32_t which : trace) {
    VictimItem& item = items[which];
    if (item.is_queued()) {
      ++hits;
      policy.touch(&item);
      continue;
    }
    if (policy.count() == kCapacity) static_cast<void>(policy.take(kAnything));
    policy.insert(&item);
  }
  return static_cast<double>(hits) / static_cast<double>(trace.size());
}

struct Rates {
  explicit Rates(const Trace& trace) {
    for (unsigned kind = 0; kind < kVictimKinds; ++kind)
      of[kind] = hit_rate(static_cast<VictimKind>(kind), trace);
  }
  double operator[](VictimKind kind) const { return of[static_cast<unsigned>(kind)]; }
  std::string text() const {
    constexpr const char* kNames[] = {"lru", "clock", "s3_fifo", "fifo", "oldest", "largest", "two_q"};
    std::string line;
    for (unsigned kind = 0; kind < kVictimKinds; ++kind) {
      line += std::string(kNames[kind]) + " " + std::to_string(of[kind]) + "  ";
    }
    return line;
  }
  double of[kVictimKinds];
};

// The algorithm of the paper, with its names: queues S, M and G, two bits of frequency. As in its published
// code, what moves to M does not evict from there: one miss takes one item out.
class PaperS3Fifo {
 public:
  explicit PaperS3Fifo(std::size_t capacity) : capacity_(capacity) {}
  bool read(std::uint32_t x) {
    if (const auto found = frequency_.find(x); found != frequency_.end()) {
      found->second = std::min(found->second + 1, 3u);
      return true;
    }
    while (s_.size() + m_.size() >= capacity_) evict();
    const auto ghost = std::find(g_.begin(), g_.end(), x);
    (ghost != g_.end() ? m_ : s_).push_front(x);
    if (ghost != g_.end()) *ghost = kNone;  // its place in the queue stays: places count what left S
    frequency_[x] = 0;
    return false;
  }

 private:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};

  void evict() { s_.size() * 10 >= capacity_ ? evict_s() : evict_m(); }
  void evict_s() {
    while (!s_.empty()) {
      const std::uint32_t t = s_.back();
      s_.pop_back();
      if (frequency_[t] > 1) {
        m_.push_front(t);
        frequency_[t] = 0;
        continue;
      }
      g_.push_front(t);
      if (g_.size() > capacity_ - capacity_ / 10) g_.pop_back();
      frequency_.erase(t);
      return;
    }
    evict_m();
  }
  void evict_m() {
    while (!m_.empty()) {
      const std::uint32_t t = m_.back();
      m_.pop_back();
      if (frequency_[t] > 0) {
        m_.push_front(t);
        --frequency_[t];
        continue;
      }
      frequency_.erase(t);
      return;
    }
  }

  const std::size_t capacity_;
  std::deque<std::uint32_t> s_, m_, g_;
  std::unordered_map<std::uint32_t, unsigned> frequency_;
};

}  // namespace

TEST_CASE("G6 0-12 hit rates: who wins on skewed use, scans, loops and changes of phase", "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  using enum VictimKind;
  {
    const Rates rates(zipf(random));
    INFO("zipf: " << rates.text());
    CHECK(rates[lru] > rates[fifo] + 0.01);
    CHECK(rates[clock] > rates[fifo] + 0.01);
    CHECK(rates[s3_fifo] > rates[lru] + 0.02);
    CHECK(rates[two_q] > rates[lru] + 0.02);
    for (const VictimKind blind : {oldest, largest}) CHECK(rates[blind] < rates[lru]);
  }
  {
    const Rates rates(scan_and_zipf(random));
    INFO("scan and zipf: " << rates.text());
    CHECK(rates[s3_fifo] > rates[lru] + 0.05);
    CHECK(rates[two_q] > rates[lru] + 0.02);
    CHECK(rates[lru] > rates[fifo]);
  }
  {
    const Rates rates(loop(random));
    INFO("loop: " << rates.text());
    // Whoever goes by time alone throws away what comes next.
    for (const VictimKind timed : {lru, clock, fifo}) CHECK(rates[timed] == 0);
    CHECK(rates[two_q] > 0.2);
  }
  {
    const Rates rates(phases(random));
    INFO("phases: " << rates.text());
    CHECK(rates[lru] > rates[fifo]);
    CHECK(rates[clock] > rates[fifo]);
    // Those that remember what was used often are behind for a moment after each change, and not far.
    for (const VictimKind slow : {s3_fifo, two_q}) {
      CHECK(rates[slow] > rates[fifo] + 0.01);
      CHECK(rates[slow] > rates[lru] - 0.02);
    }
    for (const VictimKind blind : {oldest, largest}) CHECK(rates[blind] < rates[fifo] - 0.2);
  }
}

TEST_CASE("G6 0-12 s3_fifo does what its paper says, access by access", "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  for (const Trace& trace : {zipf(random), scan_and_zipf(random), loop(random), phases(random)}) {
    constexpr std::size_t kRoom = 100;
    PaperS3Fifo paper(kRoom);
    S3Fifo policy;
    const auto items =
        std::make_unique<VictimItem[]>(*std::max_element(trace.begin(), trace.end()) + std::size_t{1});
    Expect expect;
    for (std::size_t i = 0; i < trace.size() / 4; ++i) {
      VictimItem& item = items[trace[i]];
      const bool is_hit = item.is_queued();
      if (is_hit) {
        policy.touch(&item);
      } else {
        if (policy.count() == kRoom) expect(policy.take(kAnything) != nullptr);
        policy.insert(&item);
      }
      if (!expect(paper.read(trace[i]) == is_hit)) break;
    }
    REQUIRE(expect.failed_line() == 0);
  }
}
