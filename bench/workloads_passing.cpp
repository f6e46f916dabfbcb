// Blocks that are freed by another thread than the one that took them, and threads that are born and die
// while their blocks live on.
#include <algorithm>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

#include "bench/table.h"
#include "bench/workloads.h"

namespace torture {
namespace {

struct Batch {
  std::uint32_t count;
  Block blocks[100];
};

// A bounded queue of batches. Its memory is the bench's own: only the blocks come from the allocator under
// test.
class Channel {
 public:
  explicit Channel(unsigned producers) : ring_(64), producers_(producers) {}

  void push(const Batch& batch) {
    std::unique_lock lock(mutex_);
    not_full_.wait(lock, [&] { return filled_ < ring_.size(); });
    ring_[(first_ + filled_) % ring_.size()] = batch;
    ++filled_;
    not_empty_.notify_one();
  }

  // False when the queue is empty and every producer has ended.
  bool pop(Batch& batch) {
    std::unique_lock lock(mutex_);
    not_empty_.wait(lock, [&] { return filled_ != 0 || producers_ == 0; });
    if (filled_ == 0) return false;
    batch = ring_[first_];
    first_ = (first_ + 1) % ring_.size();
    --filled_;
    not_full_.notify_one();
    return true;
  }

  void producer_ends() {
    const std::lock_guard lock(mutex_);
    --producers_;
    not_empty_.notify_all();
  }

 private:
  std::mutex mutex_;  // guards everything below
  std::condition_variable not_full_;
  std::condition_variable not_empty_;
  Table<Batch> ring_;
  std::size_t first_ = 0;
  std::size_t filled_ = 0;
  unsigned producers_;
};

void produce(Worker& worker, Channel& channel, std::size_t batches) {
  Batch batch;
  for (; batches != 0; --batches) {
    batch.count = 100;
    for (Block& block : batch.blocks) block = worker.allocate(worker.random.log_between(16, 1024));
    channel.push(batch);
  }
  channel.producer_ends();
}

void consume(Worker& worker, Channel& channel) {
  Batch batch;
  while (channel.pop(batch)) {
    for (std::uint32_t index = 0; index < batch.count; ++index) worker.release(batch.blocks[index]);
  }
}

void pass(const Context& context, unsigned producers, unsigned consumers, std::size_t batches) {
  Channel channel(producers);
  run_threads(producers + consumers, [&](unsigned index) {
    Worker worker(context.seed, index);
    if (index < producers) {
      produce(worker, channel, std::max<std::size_t>(batches / producers, 1));
    } else {
      consume(worker, channel);
    }
  });
}

// Slots through which threads swap blocks; a few locks guard them all, so that the locks are rarely
// contended.
class SharedSlots {
 public:
  SharedSlots() : slots_(4096) {}

  // Leaves `block` in a slot and returns what lay there, possibly nothing.
  Block swap(Random& random, Block block) {
    const std::size_t place = random.below(slots_.size());
    const std::lock_guard lock(locks_[place % std::size(locks_)]);
    std::swap(slots_[place], block);
    return block;
  }

  void drain(Worker& worker) {
    for (Block& block : slots_) {
      if (!block.empty()) worker.release(block);
    }
  }

 private:
  std::mutex locks_[64];  // lock i guards the slots whose number is i modulo 64
  Table<Block> slots_;
};

void exchange_blocks(Worker& worker, SharedSlots& slots, std::size_t rounds) {
  Block own[64];
  for (; rounds != 0; --rounds) {
    for (Block& block : own) block = worker.allocate(worker.random.program_size());
    for (Block& block : own) {
      if (worker.random.chance(50)) block = slots.swap(worker.random, block);
    }
    for (Block& block : own) {
      if (!block.empty()) worker.release(block);
    }
  }
}

void replace_at_random(Worker& worker, Table<Block>& table, std::size_t count) {
  for (; count != 0; --count) {
    Block& block = table[worker.random.below(table.size())];
    if (!block.empty()) worker.release(block);
    block = worker.allocate(worker.random.log_between(16, 1000));
  }
}

void release_rest(Worker& worker, Table<Block>& table) {
  for (Block& block : table) {
    if (!block.empty()) worker.release(block);
  }
}

// Of 200 blocks 150 are freed at once; 50 take the place of blocks that an earlier thread left on `shelf`.
void live_briefly(Worker& worker, std::span<Block> shelf) {
  Block own[150];
  for (Block& block : own) block = worker.allocate(worker.random.program_size());
  for (Block& block : shelf) {
    if (!block.empty()) worker.release(block);
    block = worker.allocate(worker.random.program_size());
  }
  for (Block& block : own) worker.release(block);
}

}  // namespace

void pass_one_to_one(Context& context) { pass(context, 1, 1, context.scaled(250'000)); }

void pass_many_to_many(Context& context) {
  pass(context, context.threads, context.threads, context.scaled(250'000));
}

void exchange(Context& context) {
  const auto slots = std::make_unique<SharedSlots>();
  const std::size_t rounds = context.scaled(630'000) / context.threads;
  run_threads(context.threads, [&](unsigned index) {
    Worker worker(context.seed, index);
    exchange_blocks(worker, *slots, rounds);
  });
  Worker worker(context.seed, context.threads);
  slots->drain(worker);
}

// Each of `threads` tables is worked on by one thread at a time. A thread ends after its share and a new one,
// born while the others run, goes on with the table: blocks outlive the thread that took them, as in a
// server.
void server_churn(Context& context) {
  constexpr std::size_t kGenerations = 50;
  const std::size_t share =
      std::max<std::size_t>(context.scaled(80'000'000) / context.threads / kGenerations, 1);
  run_threads(context.threads, [&](unsigned index) {
    Table<Block> table(2000);
    for (std::size_t generation = 0; generation < kGenerations; ++generation) {
      Worker worker(context.seed + generation * 64, index);
      std::thread(replace_at_random, std::ref(worker), std::ref(table), share).join();
    }
    Worker worker(context.seed, index);
    release_rest(worker, table);
  });
}

// Short threads, each of which leaves blocks for a later one to free.
void thread_turnover(Context& context) {
  constexpr std::size_t kShelves = 8;
  constexpr std::size_t kShelfBlocks = 50;
  const std::size_t births = std::max<std::size_t>(context.scaled(28'000) / context.threads, 1);
  run_threads(context.threads, [&](unsigned index) {
    Table<Block> left(kShelves * kShelfBlocks);
    for (std::size_t birth = 0; birth < births; ++birth) {
      Worker worker(context.seed + birth * 64, index);
      const std::span<Block> shelf(left.begin() + birth % kShelves * kShelfBlocks, kShelfBlocks);
      std::thread(live_briefly, std::ref(worker), shelf).join();
    }
    Worker worker(context.seed, index);
    release_rest(worker, left);
  });
}

}  // namespace torture
