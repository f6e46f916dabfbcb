// Populations of blocks whose sizes or number change over time. An allocator that cannot use the room of
// freed blocks for other sizes, or cannot give it back, shows it here in peak memory; one that gives back too
// eagerly, in time.
#include "bench/table.h"
#include "bench/workloads.h"

namespace torture {
namespace {

// A population with a budget of live bytes. Blocks lie in the order of their allocation until one is removed.
class Population {
 public:
  Population(Worker& worker, std::size_t capacity) : worker_(worker), blocks_(capacity) {}

  // Adds blocks of low..high bytes until `bytes` are alive or the table is full.
  void grow(std::int64_t bytes, std::size_t low, std::size_t high) {
    while (worker_.live_bytes() < bytes && count_ < blocks_.size()) {
      blocks_[count_++] = worker_.allocate(worker_.random.log_between(low, high));
    }
  }

  // Frees blocks in random order until at most `bytes` are alive.
  void shrink(std::int64_t bytes) {
    while (worker_.live_bytes() > bytes && count_ != 0) remove(worker_.random.below(count_));
  }

  // Frees every second of the blocks from position `first` on.
  void perforate(std::size_t first) {
    std::size_t kept = first;
    for (std::size_t place = first; place < count_; ++place) {
      if ((place - first) % 2 == 0) {
        worker_.release(blocks_[place]);
      } else {
        blocks_[kept++] = blocks_[place];
      }
    }
    count_ = kept;
  }

  [[nodiscard]] std::size_t count() const noexcept { return count_; }

 private:
  void remove(std::size_t place) {
    worker_.release(blocks_[place]);
    blocks_[place] = blocks_[--count_];
  }

  Worker& worker_;
  Table<Block> blocks_;
  std::size_t count_ = 0;
};

constexpr std::int64_t kMiB = 1 << 20;

}  // namespace

void size_shift(Context& context) {
  struct Range {
    std::size_t low, high;
  };
  constexpr Range kRanges[] = {{32, 128}, {128, 512}, {512, 4096}, {4096, 32768}, {32768, 262144}};
  constexpr std::size_t kSteps = 2 * (std::size(kRanges) - 1);
  constexpr std::int64_t kBudget = 40 * kMiB;
  Worker worker(context.seed, 0);
  Population population(worker, 1'000'000);
  for (std::size_t round = context.scaled(10 * kSteps); round != 0; --round) {
    const std::size_t step = round % kSteps;
    const Range& range = kRanges[step < std::size(kRanges) ? step : kSteps - step];
    population.shrink(kBudget / 20);
    population.grow(kBudget, range.low, range.high);
  }
  population.shrink(0);
  context.peak_live_bytes = worker.peak_live_bytes();
}

void sawtooth(Context& context) {
  constexpr std::int64_t kTop = 64 * kMiB;
  Worker worker(context.seed, 0);
  Population population(worker, 500'000);
  for (std::size_t tooth = context.scaled(200); tooth != 0; --tooth) {
    population.grow(kTop, 16, 8192);
    population.shrink(kTop / 16);
  }
  population.shrink(0);
  context.peak_live_bytes = worker.peak_live_bytes();
}

// The holes of each step are slightly too small for the next, and the survivors keep their pages busy.
void fragmentation_bomb(Context& context) {
  constexpr std::int64_t kBudget = 24 * kMiB;
  Worker worker(context.seed, 0);
  Population population(worker, 2'000'000);
  for (std::size_t round = context.scaled(3); round != 0; --round) {
    for (std::size_t size = 48; size < 20'000; size += size / 5) {
      const std::size_t first = population.count();
      population.grow(kBudget, size, size + size / 16);
      population.perforate(first);
      if (worker.live_bytes() > kBudget * 3 / 4) population.shrink(kBudget / 2);
    }
    population.shrink(kBudget / 16);
  }
  population.shrink(0);
  context.peak_live_bytes = worker.peak_live_bytes();
}

}  // namespace torture
