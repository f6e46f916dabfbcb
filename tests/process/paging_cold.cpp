// What an allocator that pages knows and a kernel does not: cold blocks are freed, replaced and overwritten
// without being read back. Exit status judges. Runs under the library with a budget; every mode first makes
// blocks and waits until most of them are out.
//   paging_cold free small|medium|large MIB    free of cold blocks causes no page-in, nor do calloc and
//   malloc paging_cold idle MIB SECONDS SHARE         RSS falls to SHARE percent while a fifth of the data is
//   in use paging_cold hold MIB                       says "ready", waits for a line, compares every byte
// What would break: a free list in freed blocks, a header before a block, a calloc that clears what is known
// to be zero, an allocation that takes a block from a slab that is out.
#include <malloc.h>
#include <pthread.h>

#include "tests/process/paging_blocks.h"
#include "tests/process/paging_stats.h"
#include "tests/process/proc_memory.h"

namespace {

using paging_test::Block;
using paging_test::Blocks;
using paging_test::kNoNumber;
using paging_test::number;
using process_test::expect;
using process_test::now_seconds;
using process_test::opaque;
using process_test::Random;
using process_test::say;

constexpr double kColdSecondsMax = 180;

std::size_t size_of(const char* kind, Random& random) {
  if (std::strcmp(kind, "small") == 0) return 16 + random.below(4000);
  if (std::strcmp(kind, "medium") == 0) return 40'000 + random.below(1'000'000);
  return (std::size_t{33} << 20) + random.below(std::size_t{8} << 20);
}

void make(Blocks& blocks, const char* kind, Random& random) {
  while (!blocks.is_full()) {
    Block block;
    block.size = size_of(kind, random);
    block.seed = random.next();
    block.bytes = static_cast<unsigned char*>(opaque(std::malloc(block.size)));
    if (!expect(block.bytes != nullptr, "an allocation succeeds", block.size)) return;
    fill(block);
    blocks.add(block);
  }
}

// Waits until the library holds at least that part of the blocks outside of memory. False after a limit.
bool wait_until_out(std::size_t bytes, const char* name) {
  const double end = now_seconds() + kColdSecondsMax;
  while (now_seconds() < end) {
    const std::uint64_t out = number(name);
    if (out == kNoNumber) break;
    if (out >= bytes) return true;
    process_test::sleep_ms(50);
  }
  say("%s: %llu of %zu MiB wanted, RSS %zu MiB\n", name, static_cast<unsigned long long>(number(name) >> 20),
      bytes >> 20, process_test::rss_kib() >> 10);
  return false;
}

struct Moment {
  std::uint64_t page_ins = number("paging_page_ins"), faults = number("paging_faults"),
                dropped = number("paging_dropped_pages"), out = number("paging_out_bytes");
};

void expect_no_page_in(const Moment& before, const char* what) {
  const Moment after;
  say("%s: %llu page-ins, %llu faults, %llu pages dropped, %llu MiB still out\n", what,
      static_cast<unsigned long long>(after.page_ins - before.page_ins),
      static_cast<unsigned long long>(after.faults - before.faults),
      static_cast<unsigned long long>(after.dropped - before.dropped),
      static_cast<unsigned long long>(after.out >> 20));
  expect(after.page_ins == before.page_ins, what, after.page_ins - before.page_ins);
}

int free_cold(const char* kind, std::size_t bytes) {
  Random random(5);
  Blocks blocks(bytes);
  make(blocks, kind, random);
  // What the pager may keep staged or as not yet cold is the rest.
  if (!expect(wait_until_out(bytes / 2, "paging_out_bytes"), "half of the blocks go out")) return 1;
  const std::uint64_t out = number("paging_out_bytes");
  // The loader looks a function up at its first call, in tables of its own on the heap.
  std::free(opaque(std::calloc(1, 100)));
  Moment before;
  while (blocks.count() > 1) std::free(blocks.take(random.below(blocks.count())).bytes);
  expect_no_page_in(before, "free of cold blocks");
  // Threads keep some free blocks for their next allocations; malloc_trim gives those back too.
  malloc_trim(0);
  const Moment freed;
  expect_no_page_in(before, "malloc_trim");
  expect(freed.out <= out / 16 + blocks[0].size, "what was freed is no longer held", freed.out >> 20);
  expect(freed.dropped > before.dropped, "stored pages were dropped unread");
  // The freed memory again: none of it may be read before it is written.
  before = Moment();
  Blocks again(bytes / 2);
  for (int round = 0; !again.is_full(); ++round) {
    Block block;
    block.size = size_of(kind, random);
    block.seed = random.next();
    const bool cleared = round % 4 == 0;
    void* given = cleared ? std::calloc(1, block.size) : std::malloc(block.size);
    block.bytes = static_cast<unsigned char*>(opaque(given));
    if (!expect(block.bytes != nullptr, "an allocation succeeds", block.size)) return 1;
    if (cleared) {
      for (std::size_t at = 0; at < block.size; at += 61) {
        if (!expect(block.bytes[at] == 0, "calloc gives zeros", at)) break;
      }
    }
    again.add(block);
  }
  expect_no_page_in(before, "malloc and calloc of freed memory");
  for (std::size_t i = 0; i < again.count(); ++i) fill(again[i]);
  for (std::size_t i = 0; i < again.count(); ++i) check_all(again[i], "after the second use");
  check_all(blocks[0], "the block that was never freed");
  return process_test::finish("paging_cold free");
}

struct Hot {
  Blocks* blocks;
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> rounds{0};
};

void* use_hot(void* given) {
  Hot& hot = *static_cast<Hot*>(given);
  while (!hot.stop.load(std::memory_order_relaxed)) {
    for (std::size_t i = 0; i < hot.blocks->count(); ++i) check_all((*hot.blocks)[i], "of the hot part");
    hot.rounds.fetch_add(1, std::memory_order_relaxed);
    process_test::sleep_ms(100);
  }
  return nullptr;
}

// A service: a fifth of its data in use all the time, the rest not at all.
int idle(std::size_t bytes, double seconds, std::size_t share) {
  Random random(6);
  Blocks cold(bytes / 5 * 4), hot_blocks(bytes / 5);
  make(cold, "small", random);
  make(hot_blocks, "small", random);
  // With a small budget much of it is out already.
  const std::size_t before = std::max(process_test::rss_kib(), (cold.bytes() + hot_blocks.bytes()) >> 10);
  Hot hot;
  hot.blocks = &hot_blocks;
  pthread_t thread;
  if (!expect(pthread_create(&thread, nullptr, use_hot, &hot) == 0, "a thread starts")) return 1;
  const double start = now_seconds();
  std::size_t now = before, lowest = before;
  while (now_seconds() < start + seconds && now * 100 > before * share) {
    process_test::sleep_ms(200);
    now = process_test::rss_kib();
    lowest = std::min(lowest, now);
  }
  say("idle: data and RSS %zu MiB, after %.1f s %zu MiB (%zu %%), lowest %zu MiB, %llu hot rounds\n",
      before >> 10, now_seconds() - start, now >> 10, now * 100 / before, lowest >> 10,
      static_cast<unsigned long long>(hot.rounds.load()));
  expect(now * 100 <= before * share, "RSS of an idle program falls", now * 100 / before);
  hot.stop.store(true);
  pthread_join(thread, nullptr);
  for (std::size_t i = 0; i < cold.count(); ++i) check_all(cold[i], "of the cold part");
  return process_test::finish("paging_cold idle");
}

int hold(std::size_t bytes) {
  Random random(7);
  Blocks blocks(bytes);
  make(blocks, "small", random);
  constexpr std::uint64_t kKernelMode = 2;
  const bool is_swap = number("paging_mode") == kKernelMode;  // the kernel keeps no page files
  const char* where = is_swap ? "paging_out_bytes" : "paging_file_bytes";
  if (!expect(wait_until_out(bytes / 16, where), "blocks leave memory")) return 1;
  if (write(STDOUT_FILENO, "ready\n", 6) != 6) return 2;
  char line;
  if (read(STDIN_FILENO, &line, 1) < 0) return 2;
  for (std::size_t i = 0; i < blocks.count(); ++i) check_all(blocks[i], "after the wait");
  return process_test::finish("paging_cold hold");
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t mib =
      argc > 2 ? std::strtoull(argv[std::strcmp(argv[1], "free") == 0 ? 3 : 2], nullptr, 10) : 0;
  if (argc == 4 && std::strcmp(argv[1], "free") == 0) return free_cold(argv[2], mib << 20);
  if (argc == 5 && std::strcmp(argv[1], "idle") == 0) {
    return idle(mib << 20, std::atof(argv[3]), std::strtoull(argv[4], nullptr, 10));
  }
  if (argc == 3 && std::strcmp(argv[1], "hold") == 0) return hold(mib << 20);
  say("usage: paging_cold free small|medium|large MIB | idle MIB SECONDS PERCENT | hold MIB\n");
  return 2;
}
