// Each thread of a soak owns a table and works on it in phases of about two seconds. A phase has a kind,
// drawn at random, that says which sizes it takes and how many bytes it keeps alive; at its end the thread
// dies and a new one takes the table over, and during a phase some blocks change hands between the tables. A
// sampler on the main thread reads the counters, which are written by one thread each.
#include "bench/soak.h"

#include <malloc.h>

#include <atomic>
#include <bit>
#include <chrono>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "bench/machine.h"
#include "bench/protocol.h"
#include "bench/table.h"

namespace torture {
namespace {

constexpr std::size_t kSlots = 200'000;     // blocks that one thread can keep
constexpr std::size_t kShared = 1024;       // blocks in transit between threads
constexpr unsigned kTransitAccount = 64;    // the account that holds their bytes; threads are 0 to 63
constexpr std::int64_t kBudget = 48 << 20;  // live bytes of one thread at most
constexpr std::uint64_t kPhaseNs = 2'000'000'000;
constexpr unsigned kClockStep = 64;  // operations between two looks at the clock

enum class PhaseKind { kSteady, kSizeShift, kSawtooth, kBomb, kLarge };

struct Phase {
  PhaseKind kind;
  std::uint64_t start_ns;
  std::size_t bomb_size;
};

struct alignas(64) Counters {
  std::atomic<std::int64_t> live_bytes;
  std::atomic<std::uint64_t> operations;
};

struct Shared {
  // Touches all its pages, so that the bench's own tables are part of the RSS at the start and not of the
  // overhead.
  explicit Shared(unsigned threads) {
    for (unsigned index = 0; index < threads; ++index) {
      tables.push_back(std::make_unique<Table<Block>>(kSlots));
      for (Block& block : *tables.back()) {
        block = Block{};
        escape(&block);
      }
    }
  }

  std::mutex mutex;  // guards `transit` and writes to its account
  Table<Block> transit{kShared};
  Table<Counters> counters{kTransitAccount + 1};
  std::vector<std::unique_ptr<Table<Block>>> tables;  // one for each chain of threads
  std::uint64_t end_ns = 0;
};

// Bytes that the phase wants alive after `elapsed_ns` of its time.
std::int64_t target_bytes(const Phase& phase, std::uint64_t elapsed_ns) {
  switch (phase.kind) {
    case PhaseKind::kSteady:
      return kBudget / 2;
    case PhaseKind::kSizeShift:
      return kBudget;
    case PhaseKind::kSawtooth:
      return elapsed_ns / 250'000'000 % 2 == 0 ? kBudget : kBudget / 16;
    case PhaseKind::kBomb:
      return kBudget * 3 / 4;
    case PhaseKind::kLarge:
      return kBudget;
  }
  return 0;
}

std::size_t next_size(Random& random, Phase& phase, std::uint64_t elapsed_ns) {
  switch (phase.kind) {
    case PhaseKind::kSteady:
      return random.program_size();
    case PhaseKind::kSizeShift: {
      // Up from 32 bytes to 64 KiB in the first half of the phase, and down again in the second.
      const std::uint64_t step = elapsed_ns * 24 / kPhaseNs % 24;
      const std::size_t low = std::size_t{32} << (step < 12 ? step : 23 - step);
      return random.between(low, 2 * low);
    }
    case PhaseKind::kSawtooth:
      return random.log_between(16, 8192);
    case PhaseKind::kBomb:
      return phase.bomb_size + random.below(phase.bomb_size / 16 + 1);
    case PhaseKind::kLarge:
      return random.log_between(32768, 4 << 20);
  }
  return 16;
}

class Churner {
 public:
  Churner(Shared& shared, Table<Block>& table, unsigned index, std::uint64_t seed)
      : shared_(shared), table_(table), worker_(seed, index), counters_(shared.counters[index]) {}

  void run_phase() {
    const std::uint64_t start_ns = monotonic_ns();
    Phase phase{static_cast<PhaseKind>(worker_.random.below(5)), start_ns, 48};
    begin_live_ = counters_.live_bytes.load(std::memory_order_relaxed);
    for (unsigned count = 0;; ++count) {
      if (count % kClockStep == 0) {
        elapsed_ns_ = monotonic_ns() - start_ns;
        publish(kClockStep);
        if (elapsed_ns_ >= kPhaseNs || start_ns + elapsed_ns_ >= shared_.end_ns) break;
      }
      step(phase);
    }
    publish(0);
  }

  void release_all(Table<Block>& blocks) {
    begin_live_ = counters_.live_bytes.load(std::memory_order_relaxed);
    for (Block& block : blocks) {
      if (!block.empty()) worker_.release(block);
    }
    publish(0);
  }

 private:
  [[nodiscard]] std::int64_t live() const { return begin_live_ + worker_.live_bytes() + passed_; }

  void publish(std::uint64_t operations) {
    // This thread is the only writer; the sampler needs no order between counters.
    counters_.live_bytes.store(live(), std::memory_order_relaxed);
    counters_.operations.store(counters_.operations.load(std::memory_order_relaxed) + operations,
                               std::memory_order_relaxed);
  }

  void step(Phase& phase) {
    Random& random = worker_.random;
    const std::int64_t target = target_bytes(phase, elapsed_ns_);
    if (phase.kind == PhaseKind::kBomb && (live() >= target || ++since_perforation_ >= kSlots))
      return perforate(phase);
    Block& block = table_[random.below(table_.size())];
    const std::uint32_t dice = random.below(1000);
    if (block.empty()) {
      if (live() < target) block = take(next_size(random, phase, elapsed_ns_));
    } else if (live() >= target || dice < 300) {
      worker_.release(block);
    } else if (dice < 400) {
      worker_.resize(block, next_size(random, phase, elapsed_ns_));
    } else if (dice < 420) {
      pass_on(block);
    }
    // At the top of a phase most slots are taken, at the bottom few: look for something to free.
    for (unsigned look = 0; look < 8 && live() > target; ++look) {
      Block& other = table_[random.below(table_.size())];
      if (!other.empty()) worker_.release(other);
    }
  }

  Block take(std::size_t size) {
    const std::uint32_t dice = worker_.random.below(100);
    if (dice < 80) return worker_.allocate(size);
    if (dice < 90) return worker_.allocate_zeroed(size);
    const std::size_t alignment = std::size_t{16} << worker_.random.below(9);
    // Not powers of two, as in the workload `aligned` and for the same reason.
    return worker_.allocate_aligned(alignment, std::has_single_bit(size) ? size + 8 : size);
  }

  // Frees every second block of the table and goes on with blocks that just do not fit the holes.
  void perforate(Phase& phase) {
    since_perforation_ = 0;
    bool odd = false;
    for (Block& block : table_) {
      if (block.empty()) continue;
      odd = !odd;
      if (odd) worker_.release(block);
    }
    phase.bomb_size += phase.bomb_size / 5;
    if (phase.bomb_size > 16384) phase.bomb_size = 48;
  }

  // Swaps `block` with one in transit; another thread will take that over and free it.
  void pass_on(Block& block) {
    const std::size_t place = worker_.random.below(kShared);
    const std::int64_t given = block.size;
    const std::lock_guard lock(shared_.mutex);
    std::swap(block, shared_.transit[place]);
    const std::int64_t gain = (block.empty() ? 0 : static_cast<std::int64_t>(block.size)) - given;
    passed_ += gain;
    std::atomic<std::int64_t>& in_transit = shared_.counters[kTransitAccount].live_bytes;
    in_transit.store(in_transit.load(std::memory_order_relaxed) - gain, std::memory_order_relaxed);
  }

  Shared& shared_;
  Table<Block>& table_;
  Worker worker_;
  Counters& counters_;
  std::uint64_t elapsed_ns_ = 0;
  std::int64_t begin_live_ = 0;
  std::size_t since_perforation_ = 0;
  std::int64_t passed_ = 0;  // bytes received from other threads minus bytes given to them
};

// One chain of threads: each runs a phase on the same table.
void run_chain(Shared& shared, const Context& context, unsigned index) {
  Table<Block>& table = *shared.tables[index];
  for (std::uint64_t phase = 1; monotonic_ns() < shared.end_ns; ++phase) {
    std::thread([&] { Churner(shared, table, index, context.seed + phase * 64).run_phase(); }).join();
  }
  Churner(shared, table, index, context.seed).release_all(table);
}

Message sample_now(Shared& shared, std::uint64_t start_ns) {
  Message sample{};
  sample.kind = MessageKind::kSample;
  sample.wall_ns = monotonic_ns() - start_ns;
  const MemoryNow memory = memory_now();
  sample.rss_kib = memory.rss_kib;
  sample.peak_rss_kib = memory.peak_rss_kib;
  for (Counters& counters : shared.counters) {
    sample.live_bytes += counters.live_bytes.load(std::memory_order_relaxed);
    sample.operations += counters.operations.load(std::memory_order_relaxed);
  }
  return sample;
}

}  // namespace

void run_soak(Context& context, unsigned seconds) {
  const auto shared = std::make_unique<Shared>(context.threads);
  const std::uint64_t start_rss_kib = memory_now().rss_kib;
  const std::uint64_t start_ns = monotonic_ns();
  shared->end_ns = start_ns + seconds * std::uint64_t{1'000'000'000};
  std::thread churn(
      [&] { run_threads(context.threads, [&](unsigned index) { run_chain(*shared, context, index); }); });
  for (unsigned second = 1; second <= seconds; ++second) {
    const std::uint64_t due_ns = start_ns + second * std::uint64_t{1'000'000'000};
    const std::uint64_t now_ns = monotonic_ns();
    if (due_ns > now_ns) std::this_thread::sleep_for(std::chrono::nanoseconds(due_ns - now_ns));
    Message sample = sample_now(*shared, start_ns);
    sample.start_rss_kib = start_rss_kib;
    send_message(sample);
  }
  churn.join();
  Churner(*shared, shared->transit, kTransitAccount, context.seed).release_all(shared->transit);
  Message result = sample_now(*shared, start_ns);
  if (result.live_bytes != 0)
    fail("everything was freed, yet %lld bytes count as alive", static_cast<long long>(result.live_bytes));
  ::malloc_trim(0);
  result.kind = MessageKind::kResult;
  result.start_rss_kib = start_rss_kib;
  result.trimmed_rss_kib = memory_now().rss_kib;
  send_message(result);
}

}  // namespace torture
