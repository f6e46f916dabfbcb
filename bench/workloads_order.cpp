// Blocks taken and freed by the same thread in different orders: the paths that a program takes most often.
// Freeing in the order of allocation flatters caches that are stacks, hence the other orders.
#include "bench/table.h"
#include "bench/workloads.h"

namespace torture {
namespace {

// Sizes of 16 to 1024 bytes in steps of 16, in an order that visits all of them.
std::size_t stepped_size(std::size_t index) noexcept { return 16 + (index * 37 % 64) * 16; }

void run_pairs(Worker& worker, std::size_t count) {
  for (std::size_t index = 0; index < count; ++index) {
    Block block = worker.allocate(stepped_size(index));
    worker.release(block);
  }
}

// Fills `table`, replaces one block at random `count` times, empties it.
void run_replacement(Worker& worker, Table<Block>& table, std::size_t count) {
  for (Block& block : table) block = worker.allocate(worker.random.program_size());
  for (std::size_t index = 0; index < count; ++index) {
    Block& block = table[worker.random.below(table.size())];
    worker.release(block);
    block = worker.allocate(worker.random.program_size());
  }
  for (Block& block : table) worker.release(block);
}

}  // namespace

void pair_tight(Context& context) {
  Worker worker(context.seed, 0);
  run_pairs(worker, context.scaled(100'000'000));
  context.peak_live_bytes = worker.peak_live_bytes();
}

void pair_threads(Context& context) {
  const std::size_t count = context.scaled(200'000'000) / context.threads;
  run_threads(context.threads, [&](unsigned index) {
    Worker worker(context.seed, index);
    run_pairs(worker, count);
  });
}

void order_lifo(Context& context) {
  Worker worker(context.seed, 0);
  Table<Block> stack(100);
  for (std::size_t round = context.scaled(1'350'000); round != 0; --round) {
    for (std::size_t index = 0; index < stack.size(); ++index)
      stack[index] = worker.allocate(stepped_size(index));
    for (std::size_t index = stack.size(); index-- != 0;) worker.release(stack[index]);
  }
  context.peak_live_bytes = worker.peak_live_bytes();
}

void order_fifo(Context& context) {
  Worker worker(context.seed, 0);
  Table<Block> queue(1000);
  std::size_t place = 0;
  for (std::size_t index = context.scaled(70'000'000); index != 0; --index) {
    Block& block = queue[place];
    if (!block.empty()) worker.release(block);
    block = worker.allocate(worker.random.log_between(16, 1024));
    place = place + 1 == queue.size() ? 0 : place + 1;
  }
  for (Block& block : queue) {
    if (!block.empty()) worker.release(block);
  }
  context.peak_live_bytes = worker.peak_live_bytes();
}

void order_random(Context& context) {
  Worker worker(context.seed, 0);
  Table<Block> table(10'000);
  run_replacement(worker, table, context.scaled(36'000'000));
  context.peak_live_bytes = worker.peak_live_bytes();
}

void random_threads(Context& context) {
  const std::size_t count = context.scaled(80'000'000) / context.threads;
  run_threads(context.threads, [&](unsigned index) {
    Worker worker(context.seed, index);
    Table<Block> table(5000);
    run_replacement(worker, table, count);
  });
}

void small_program(Context& context) {
  Worker worker(context.seed, 0);
  Table<Block> table(500);
  constexpr std::size_t kLiveBytes = 100 * 1024;
  for (std::size_t index = context.scaled(50'000'000); index != 0; --index) {
    Block& block = table[worker.random.below(table.size())];
    if (!block.empty()) worker.release(block);
    const std::size_t size = worker.random.log_between(16, 1024);
    if (worker.live_bytes() + static_cast<std::int64_t>(size) <= static_cast<std::int64_t>(kLiveBytes)) {
      block = worker.allocate(size);
    }
  }
  for (Block& block : table) {
    if (!block.empty()) worker.release(block);
  }
  context.peak_live_bytes = worker.peak_live_bytes();
}

}  // namespace torture
