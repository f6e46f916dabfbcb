// False sharing made by the allocator: small blocks of different threads in one cache line. Blocks are
// written many times and the number of writes is compared at the end, so that a block of two owners is found
// as well.
#include <mutex>

#include "bench/protocol.h"
#include "bench/table.h"
#include "bench/workloads.h"

namespace torture {
namespace {

constexpr std::size_t kSmall = 8;      // several of these fit a cache line
constexpr std::size_t kWrites = 2000;  // writes to a block before it is replaced

// Takes the content of the block as a counter, writes it kWrites times, and puts the mark back.
void write_many(Block& block) {
  Worker::verify(block);
  volatile std::uint64_t* const counter = reinterpret_cast<volatile std::uint64_t*>(block.address);
  *counter = 0;
  for (std::size_t write = 0; write < kWrites; ++write) *counter = *counter + 1;
  if (*counter != kWrites) {
    fail("the block of %u bytes at %p was written %zu times but counts %llu", block.size,
         static_cast<void*>(block.address), kWrites, static_cast<unsigned long long>(*counter));
  }
  Worker::fill(block);
}

void scribble(Worker& worker, std::size_t rounds) {
  for (; rounds != 0; --rounds) {
    Block block = worker.allocate(kSmall);
    write_many(block);
    worker.release(block);
  }
}

}  // namespace

// Passive sharing: neighbouring blocks are handed to different threads, which free them and allocate anew. An
// allocator that gives a thread the line of a neighbour again keeps the line shared.
void cache_scratch(Context& context) {
  const std::size_t rounds = context.scaled(3'000'000) / context.threads;
  Worker parent(context.seed, context.threads);
  Table<Block> gifts(context.threads);
  for (Block& gift : gifts) gift = parent.allocate(kSmall);
  run_threads(context.threads, [&](unsigned index) {
    Worker worker(context.seed, index);
    write_many(gifts[index]);
    worker.release(gifts[index]);
    scribble(worker, rounds);
  });
}

// Active sharing: threads allocate at the same time.
void cache_thrash(Context& context) {
  const std::size_t rounds = context.scaled(3'000'000) / context.threads;
  run_threads(context.threads, [&](unsigned index) {
    Worker worker(context.seed, index);
    scribble(worker, rounds);
  });
}

}  // namespace torture
