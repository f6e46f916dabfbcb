// The less common calls and sizes: realloc, aligned blocks, calloc, blocks of many pages.
#include <algorithm>
#include <bit>

#include "bench/table.h"
#include "bench/workloads.h"

namespace torture {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

struct Shape {
  std::size_t alignment;
  std::size_t size;
};

// Both limits are powers of two.
std::size_t random_power(Random& random, std::size_t low, std::size_t high) {
  return low << random.below(static_cast<std::size_t>(std::countr_zero(high) - std::countr_zero(low)) + 1);
}

void replace_aligned(Context& context, std::size_t steps, Shape (*draw)(Random&)) {
  Worker worker(context.seed, 0);
  Table<Block> table(1000);
  for (; steps != 0; --steps) {
    Block& block = table[worker.random.below(table.size())];
    if (!block.empty()) worker.release(block);
    const Shape shape = draw(worker.random);
    block = worker.allocate_aligned(shape.alignment, shape.size);
  }
  for (Block& block : table) {
    if (!block.empty()) worker.release(block);
  }
  context.peak_live_bytes = worker.peak_live_bytes();
}

}  // namespace

// 64 buffers side by side, each grows by half until it reaches its own limit; some are cut to size before
// they go.
void realloc_growth(Context& context) {
  struct Buffer {
    Block block;
    std::size_t limit;
  };
  Worker worker(context.seed, 0);
  Random& random = worker.random;
  Table<Buffer> buffers(64);
  for (std::size_t step = context.scaled(1'200'000); step != 0; --step) {
    Buffer& buffer = buffers[random.below(buffers.size())];
    if (buffer.block.empty()) {
      buffer.block = worker.allocate(random.between(16, 64));
      buffer.limit = random.chance(1) ? random.between(kMiB, 16 * kMiB) : random.log_between(256, 65536);
    } else if (buffer.block.size < buffer.limit) {
      worker.resize(buffer.block, std::size_t{buffer.block.size} * 3 / 2);
    } else {
      if (random.chance(25)) worker.resize(buffer.block, buffer.block.size / 3);
      worker.release(buffer.block);
    }
  }
  for (Buffer& buffer : buffers) {
    if (!buffer.block.empty()) worker.release(buffer.block);
  }
  context.peak_live_bytes = worker.peak_live_bytes();
}

// Objects of any size on cache lines, vectors or pages.
void aligned(Context& context) {
  replace_aligned(context, context.scaled(12'000'000), [](Random& random) {
    if (random.below(20'000) == 0) return Shape{2 * kMiB, random.log_between(16, 2048)};
    const std::size_t alignment = random.chance(95) ? random_power(random, 16, 512) : 65536;
    // A power of two is left to aligned_exact(): packaged versions of mimalloc misplace such blocks (its
    // issue 700), and this row is to compare speeds.
    const std::size_t size = random.log_between(16, 2048);
    return Shape{alignment, std::has_single_bit(size) ? size + 8 : size};
  });
}

// aligned_alloc as C11 wanted it: the size is a multiple of the alignment, often the alignment itself.
void aligned_exact(Context& context) {
  replace_aligned(context, context.scaled(20'000'000), [](Random& random) {
    const std::size_t alignment = random_power(random, 16, 4096);
    return Shape{alignment, alignment * random.between(1, 3)};
  });
}

// Small zeroed blocks, written in full; zeroed tables of up to 4 MiB, used in places as hash tables are.
void calloc_heavy(Context& context) {
  Worker worker(context.seed, 0);
  Random& random = worker.random;
  Table<Block> blocks(4000);
  Table<Block> tables(16);
  for (std::size_t step = context.scaled(7'500'000); step != 0; --step) {
    if (random.below(500) != 0) {
      Block& block = blocks[random.below(blocks.size())];
      if (!block.empty()) worker.release(block);
      block = worker.allocate_zeroed(random.program_size());
    } else {
      Block& block = tables[random.below(tables.size())];
      if (!block.empty()) worker.release_sparse(block);
      block = worker.allocate_sparse(random.log_between(32768, 4 * kMiB));
    }
  }
  for (Block& block : blocks) {
    if (!block.empty()) worker.release(block);
  }
  for (Block& block : tables) {
    if (!block.empty()) worker.release_sparse(block);
  }
  context.peak_live_bytes = worker.peak_live_bytes();
}

void large_blocks(Context& context) {
  constexpr std::int64_t kBudget = 192 * static_cast<std::int64_t>(kMiB);
  Worker worker(context.seed, 0);
  Random& random = worker.random;
  Table<Block> table(64);
  for (std::size_t step = context.scaled(1000); step != 0; --step) {
    // The smaller of two draws: most are a few hundred KiB, some reach 64 MiB.
    const std::size_t size =
        std::min(random.log_between(65536, 64 * kMiB), random.log_between(65536, 64 * kMiB));
    std::size_t place = random.below(table.size());
    if (!table[place].empty()) worker.release(table[place]);
    Block fresh = worker.allocate(size);
    table[place] = fresh;
    while (worker.live_bytes() > kBudget) {
      place = (place + 1) % table.size();
      if (!table[place].empty()) worker.release(table[place]);
    }
  }
  for (Block& block : table) {
    if (!block.empty()) worker.release(block);
  }
  context.peak_live_bytes = worker.peak_live_bytes();
}

}  // namespace torture
