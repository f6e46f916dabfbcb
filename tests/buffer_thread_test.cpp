// Explicit buffers and threads: tickets, what goes on at the same time, the crawler, forks.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/buffer_rig.h"
#include "tests/heap_calls.h"

#include "tests/catch.h"
#include "tests/random.h"

#include "tests/buffer_checks.h"

using namespace glebe;
using namespace glebe::paging;

TEST_CASE("G12 mut-A10 threads that open one name get one buffer, and the last one out ends it", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  constexpr unsigned kThreads = 8;
  const unsigned rounds = kThreadSanitizer ? 500 : 20'000;
  std::atomic<std::uint64_t> failures{0}, created{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      Random random(i);
      for (unsigned round = 0; round < rounds; ++round) {
        const std::string name = std::string("n").append(std::to_string(random.below(3)));
        BufferOptions options;
        options.name = name;
        BufferHandle handle = 0, again = 0;
        bool is_new = false;
        if (pager.open_or_create(4096, options, &handle, &is_new) != Result::ok) failures.fetch_add(1);
        if (is_new) created.fetch_add(1);
        // As long as this thread has it, everybody finds the same one.
        if (pager.find(name, &again) != Result::ok || again != handle) failures.fetch_add(1);
        const PinnedRange pinned = pager.pin(handle, {}, Access::write);
        if (pinned.result != Result::ok) failures.fetch_add(1);
        if (pinned.data != nullptr) std::atomic_ref<char>(*reinterpret_cast<char*>(pinned.data)).fetch_add(1);
        if (pager.unpin(handle, {}, Access::write) != Result::ok) failures.fetch_add(1);
        if (pager.close_buffer(again) != Result::ok) failures.fetch_add(1);
        if (pager.close_buffer(handle) != Result::ok) failures.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(failures.load() == 0);
  REQUIRE(created.load() >= 3);
  REQUIRE(pager.stats().buffers == 0);
  require_balance(pager);
}

TEST_CASE("G4 mut-A11 asynchronous moves: results, mixed order, and waiting for all of them", "[paging]") {
  for (const unsigned workers : {0u, 1u, 4u}) {
    INFO("workers " << workers);
    OpenRig rig([&](BufferPagerOptions& options) { options.workers = workers; });
    BufferPager& pager = rig.pager;
    const std::vector<BufferHandle> buffers = make_filled(pager, 60);
    std::vector<Ticket> tickets;
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const Tier tier = i % 3 == 0 ? Tier::file : i % 3 == 1 ? Tier::compressed : Tier::device;
      Ticket ticket = 0;
      REQUIRE(pager.move_async(buffers[i], {}, {Operation::swap_to, tier}, &ticket) == Result::ok);
      REQUIRE(ticket != 0);
      tickets.push_back(ticket);
    }
    for (std::size_t i = 0; i < buffers.size(); i += 2) REQUIRE(pager.wait(tickets[59 - i]) == Result::ok);
    pager.wait_all();
    REQUIRE(pager.stats().pending == 0);
    for (std::size_t i = 0; i < buffers.size(); i += 2) {
      REQUIRE(pager.is_done(tickets[i]));
      REQUIRE(pager.wait(tickets[i]) == Result::ok);
      REQUIRE(pager.wait(tickets[i]) == Result::bad_handle);  // given back
    }
    for (const BufferHandle buffer : buffers) REQUIRE_FALSE(is_resident(pager, buffer));
    for (const BufferHandle buffer : buffers) REQUIRE(pager.prefetch(buffer, {}) == Result::ok);
    pager.wait_all();
    for (const BufferHandle buffer : buffers) REQUIRE(is_resident(pager, buffer));
    REQUIRE(pager.stats().implicit_page_ins == 0);
    require_contents(pager, buffers);
    // A result that is a failure.
    Ticket ticket = 0;
    REQUIRE(pager.pin(buffers[0], {}, Access::read).result == Result::ok);
    REQUIRE(pager.move_async(buffers[0], {}, {Operation::swap_to, Tier::file}, &ticket) == Result::ok);
    REQUIRE(pager.wait(ticket) == Result::pinned);
    REQUIRE(pager.unpin(buffers[0], {}, Access::read) == Result::ok);
    REQUIRE(pager.move_async(buffers[0], {}, {Operation::swap_to, Tier::file}, &ticket) == Result::ok);
    pager.release_ticket(ticket);
    REQUIRE(pager.close_buffer(buffers[1]) == Result::ok);
    pager.wait_all();
    require_balance(pager);
  }
}

namespace {

// A codec that waits until it is let through, to hold a worker in the middle of an operation.
struct Gate {
  std::atomic<unsigned> arrived{0};
  std::atomic<bool> is_open{false};
  BufferCodec codec{[](void* context, const void* from, std::size_t size, void* to, std::size_t) {
                      Gate& gate = *static_cast<Gate*>(context);
                      gate.arrived.fetch_add(1);
                      while (!gate.is_open.load()) std::this_thread::yield();
                      std::memcpy(to, from, size);
                      return size;
                    },
                    [](void*, const void* from, std::size_t size, void* to, std::size_t capacity) {
                      if (size != capacity) return 0;
                      std::memcpy(to, from, size);
                      return 1;
                    },
                    this};
  void wait_for(unsigned count) {
    while (arrived.load() < count) std::this_thread::yield();
  }
};

// A buffer of an extent, filled with 1, whose page-outs stop at the gate.
BufferHandle make_gated(BufferPager& pager, const Gate& gate) {
  BufferOptions options;
  options.codec = &gate.codec;
  const BufferHandle buffer = make(pager, kExtent, options);
  REQUIRE(fill(pager, buffer, kOne, 1));
  return buffer;
}

}  // namespace

TEST_CASE("G4 B7 a call returns while its work goes on; what did not begin can be cancelled", "[paging]") {
  Gate gate;
  OpenRig rig([](BufferPagerOptions& options) { options.workers = 1; });
  BufferPager& pager = rig.pager;
  const BufferHandle first = make_gated(pager, gate), second = make(pager, kExtent);
  REQUIRE(fill(pager, second, kOne, 2));
  Ticket running = 0, waiting = 0, cancelled = 0;
  REQUIRE(pager.move_async(first, {}, {Operation::swap_to, Tier::file}, &running) == Result::ok);
  gate.wait_for(1);
  REQUIRE(pager.move_async(second, {}, {Operation::swap_to, Tier::file}, &cancelled) == Result::ok);
  REQUIRE(pager.move_async(second, {}, {Operation::page_to, Tier::compressed}, &waiting) == Result::ok);
  REQUIRE_FALSE(pager.is_done(running));
  REQUIRE_FALSE(pager.is_done(waiting));
  REQUIRE(pager.stats().pending == 3);
  REQUIRE(pager.cancel(running) == Result::busy);
  REQUIRE(pager.cancel(cancelled) == Result::ok);
  REQUIRE(pager.wait(cancelled) == Result::cancelled);
  REQUIRE(is_resident(pager, second));
  // An extent that is being copied can still be read meanwhile (G15, mut-A13).
  REQUIRE(holds(pager, first, kOne, 1));
  // wait_all returns only when nothing is left, and takes nothing off the count itself.
  std::atomic<bool> are_done{false};
  std::thread waiter([&] {
    pager.wait_all();
    are_done.store(pager.is_done(running) && pager.is_done(waiting));
  });
  REQUIRE(pager.stats().pending == 2);
  gate.is_open.store(true);
  waiter.join();
  REQUIRE(are_done.load());
  REQUIRE(pager.stats().pending == 0);
  REQUIRE(pager.wait(running) == Result::ok);
  REQUIRE(pager.wait(waiting) == Result::ok);
  REQUIRE(holds(pager, first, kOne, 1));
  REQUIRE(holds(pager, second, kOne, 2));
  require_balance(pager);
}

TEST_CASE("N19 0-14 asynchronous page-outs that queue up leave with one write, each with its own result",
          "[paging]") {
  Gate gate;
  OpenRig rig([](BufferPagerOptions& options) { options.workers = 1; });
  BufferPager& pager = rig.pager;
  const BufferHandle first = make_gated(pager, gate);
  constexpr std::size_t kCount = 300, kSmall = 8192;
  constexpr std::size_t kPinned = 77, kCancelled = 130;
  std::vector<BufferHandle> buffers;
  for (std::size_t i = 0; i < kCount; ++i) {
    buffers.push_back(make(pager, kSmall));
    REQUIRE(fill(pager, buffers[i], {0, kSmall}, i));
  }
  Ticket running = 0;
  REQUIRE(pager.move_async(first, {}, {Operation::swap_to, Tier::file}, &running) == Result::ok);
  gate.wait_for(1);  // the worker is busy, and everything else queues up
  REQUIRE(pager.pin(buffers[kPinned], {}, Access::write).result == Result::ok);
  std::vector<Ticket> tickets(kCount);
  for (std::size_t i = 0; i < kCount; ++i) {
    const AsyncMove what(i % 3 == 0 ? Operation::page_to : Operation::swap_to, Tier::file);
    REQUIRE(pager.move_async(buffers[i], {}, what, &tickets[i]) == Result::ok);
  }
  REQUIRE(pager.cancel(tickets[kCancelled]) == Result::ok);
  const std::uint64_t writes = pager.store_stats().writes;
  gate.is_open.store(true);
  for (std::size_t i = 0; i < kCount; ++i) {
    const Result expected = i == kPinned ? Result::pinned : i == kCancelled ? Result::cancelled : Result::ok;
    INFO(i);
    REQUIRE(pager.wait(tickets[i]) == expected);
  }
  // 298 of 8 KiB are 2.3 MiB, and a batch carries up to 1 MiB; the store may split one to fill gaps in a
  // file.
  REQUIRE(pager.store_stats().writes - writes <= 12);
  REQUIRE(pager.store_stats().written_objects == kCount - 2 + 1);
  REQUIRE(pager.unpin(buffers[kPinned], {}, Access::write) == Result::ok);
  for (std::size_t i = 0; i < kCount; ++i)
    REQUIRE(is_resident(pager, buffers[i]) == (i % 3 == 0 || i == kPinned || i == kCancelled));
  for (std::size_t i = 0; i < kCount; ++i) REQUIRE(holds(pager, buffers[i], {0, kSmall}, i));
  REQUIRE(pager.wait(running) == Result::ok);
  require_balance(pager);
}

namespace {

// What completions say, and in which state they find the pager.
struct Told {
  BufferPager* pager = nullptr;
  std::atomic<unsigned> times{0};
  std::atomic<int> result{-1};
  std::atomic<bool> goes_on{false};  // the completion starts another move
  BufferHandle buffer = 0;
  Completion completion() {
    Completion made;
    made.context = this;
    made.tell = [](const Completion& self, Result got) {
      Told& own = *static_cast<Told*>(self.context);
      own.result.store(static_cast<int>(got));
      own.times.fetch_add(1);
      if (!own.goes_on.exchange(false)) return;
      // No lock is held: everything that does not wait for a ticket may be called, for the same buffer too.
      if (!holds(*own.pager, own.buffer, kOne, 5)) own.result.store(-2);
      if (own.pager->move_async(own.buffer, {}, {Operation::swap_to, Tier::file, own.completion()},
                                nullptr) != Result::ok) {
        own.result.store(-3);
      }
    };
    return made;
  }
};

}  // namespace

TEST_CASE("G4 0-14 a completion is told once, with the result, before its ticket is done", "[paging]") {
  for (const unsigned workers : {0u, 1u, 4u}) {
    INFO("workers " << workers);
    OpenRig rig([&](BufferPagerOptions& options) { options.workers = workers; });
    BufferPager& pager = rig.pager;
    const std::vector<BufferHandle> buffers = make_filled(pager, 40);
    std::vector<std::unique_ptr<Told>> told;
    std::vector<Ticket> tickets(40);
    REQUIRE(pager.pin(buffers[7], {}, Access::read).result == Result::ok);
    for (std::size_t i = 0; i < 40; ++i) {
      told.push_back(std::make_unique<Told>());
      const Tier tier = i % 2 == 0 ? Tier::device : Tier::file;
      const AsyncMove what(Operation::swap_to, tier, told[i]->completion());
      REQUIRE(pager.move_async(buffers[i], {}, what, i % 4 == 3 ? nullptr : &tickets[i]) == Result::ok);
    }
    for (std::size_t i = 0; i < 40; ++i) {
      if (i % 4 == 3) continue;
      REQUIRE(pager.wait(tickets[i]) == Result::ok);
      REQUIRE(told[i]->times.load() == 1);
      REQUIRE(told[i]->result.load() == static_cast<int>(Result::ok));
    }
    pager.wait_all();  // counts completions as work
    for (std::size_t i = 3; i < 40; i += 4) {
      REQUIRE(told[i]->times.load() == 1);
      REQUIRE(told[i]->result.load() == static_cast<int>(i == 7 ? Result::pinned : Result::ok));
    }
    REQUIRE(pager.unpin(buffers[7], {}, Access::read) == Result::ok);
    // One that uses the pager and starts the next one.
    Told chain;
    chain.pager = &pager;
    chain.buffer = buffers[5];
    chain.goes_on.store(true);
    REQUIRE(pager.move_async(buffers[5], {}, {Operation::swap_to, Tier::compressed, chain.completion()},
                             nullptr) == Result::ok);
    pager.wait_all();
    REQUIRE(chain.times.load() == 2);
    REQUIRE(chain.result.load() == static_cast<int>(Result::ok));
    REQUIRE_FALSE(is_resident(pager, buffers[5]));
    // What is refused before it begins is told to nobody.
    REQUIRE(pager.move_async(buffers[5], {kExtent, 1}, {Operation::discard, Tier::host, chain.completion()},
                             nullptr) == Result::bad_argument);
    pager.wait_all();
    REQUIRE(chain.times.load() == 2);
    require_contents(pager, buffers);
    require_balance(pager);
  }
}

TEST_CASE("B7 0-14 whoever cancels is told by the completion before the call returns", "[paging]") {
  Gate gate;
  OpenRig rig([](BufferPagerOptions& options) { options.workers = 1; });
  BufferPager& pager = rig.pager;
  const BufferHandle first = make_gated(pager, gate), second = make(pager, kExtent);
  REQUIRE(fill(pager, second, kOne, 2));
  Told running, waiting;
  Ticket one = 0, two = 0;
  REQUIRE(pager.move_async(first, {}, {Operation::swap_to, Tier::file, running.completion()}, &one) ==
          Result::ok);
  gate.wait_for(1);
  REQUIRE(pager.move_async(second, {}, {Operation::swap_to, Tier::file, waiting.completion()}, &two) ==
          Result::ok);
  REQUIRE(pager.cancel(one) == Result::busy);
  REQUIRE(running.times.load() == 0);
  REQUIRE(pager.cancel(two) == Result::ok);
  REQUIRE(waiting.times.load() == 1);
  REQUIRE(waiting.result.load() == static_cast<int>(Result::cancelled));
  REQUIRE(pager.is_done(two));
  REQUIRE(pager.cancel(two) == Result::busy);
  REQUIRE(pager.wait(two) == Result::cancelled);
  gate.is_open.store(true);
  REQUIRE(pager.wait(one) == Result::ok);
  REQUIRE(running.times.load() == 1);
  REQUIRE(waiting.times.load() == 1);
  REQUIRE(is_resident(pager, second));
  require_balance(pager);
}

TEST_CASE("mut-B13 a buffer that is closed, and a pager that ends, while transfers are on their way",
          "[paging]") {
  Gate gate;
  Told told_coded, told;
  {
    OpenRig rig([](BufferPagerOptions& options) { options.workers = 2; });
    BufferPager& pager = rig.pager;
    const BufferHandle first = make_gated(pager, gate), second = make(pager, kExtent);
    REQUIRE(fill(pager, second, kOne, 2));
    REQUIRE(pager.move_async(first, {}, {Operation::swap_to, Tier::file, told_coded.completion()}, nullptr) ==
            Result::ok);
    gate.wait_for(1);
    REQUIRE(pager.move_async(second, {}, {Operation::swap_to, Tier::file, told.completion()}, nullptr) ==
            Result::ok);
    REQUIRE(pager.close_buffer(first) == Result::ok);
    REQUIRE(pager.close_buffer(first) == Result::bad_handle);  // twice is harmless
    REQUIRE(pager.close_buffer(second) == Result::ok);
    REQUIRE(pager.stats().buffers >= 1);  // the transfer keeps it
    BufferInfo info;
    REQUIRE(pager.info(first, &info) == Result::bad_handle);
    std::thread opener([&gate] {
      std::this_thread::yield();
      gate.is_open.store(true);
    });
    pager.close();  // waits for both
    opener.join();
    REQUIRE(told_coded.times.load() == 1);
    REQUIRE(told_coded.result.load() == static_cast<int>(Result::ok));
    REQUIRE(told.times.load() == 1);
    pager.close();  // twice is harmless
    REQUIRE(pager.pin(second, {}, Access::read).result == Result::bad_handle);
  }
}

TEST_CASE("mut-A06 a slow page-out of one extent holds up nobody else", "[paging]") {
  Gate gate;
  OpenRig rig([](BufferPagerOptions& options) { options.workers = 1; });
  BufferPager& pager = rig.pager;
  const BufferHandle slow = make_gated(pager, gate);
  Ticket ticket = 0;
  REQUIRE(pager.move_async(slow, {}, {Operation::swap_to, Tier::file}, &ticket) == Result::ok);
  gate.wait_for(1);
  // All of it goes through while that one is under way.
  const std::vector<BufferHandle> buffers = make_filled(pager, 20);
  for (const BufferHandle buffer : buffers) {
    REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
  }
  REQUIRE(pager.reclaim(kMiB) == 0);
  require_contents(pager, buffers);
  pager.crawl(100);
  REQUIRE(pager.stats().buffers == 21);
  gate.is_open.store(true);
  REQUIRE(pager.wait(ticket) == Result::ok);
  REQUIRE(holds(pager, slow, kOne, 1));
}

TEST_CASE("G8 the crawler starts, changes, stops, and is not there after the end", "[paging]") {
  OpenRig rig([](BufferPagerOptions& options) { options.trigger = TriggerKind::age; });
  BufferPager& pager = rig.pager;
  const std::vector<BufferHandle> buffers = make_filled(pager, 30);
  for (unsigned i = 0; i < 30; ++i) pager.advance_epoch();
  REQUIRE(pager.start_crawler(0, 10) == Result::bad_argument);
  REQUIRE(pager.start_crawler(1, 101) == Result::bad_argument);
  REQUIRE(pager.start_crawler(600'000, 100) == Result::ok);
  REQUIRE(pager.stats().crawls == 0);
  REQUIRE(pager.start_crawler(1, 100) == Result::ok);  // faster from now on
  while (pager.stats().paged_out_bytes < 30 * kExtent) std::this_thread::yield();
  pager.stop_crawler();
  const std::uint64_t crawls = pager.stats().crawls;
  REQUIRE(crawls > 0);
  pager.stop_crawler();
  REQUIRE(pager.start_crawler(1, 100) == Result::ok);
  while (pager.stats().crawls == crawls) std::this_thread::yield();
  require_contents(pager, buffers);
  pager.close();  // with the crawler running
  pager.close();
}

namespace {

// Readers and writers of some buffers, and one that moves them about. Each thread pins one at a time; the
// first half is only read, each writer has buffers of its own and knows what it wrote last.
struct Storm {
  static constexpr unsigned kReaders = 8, kWriters = 2, kBuffers = 48;

  BufferPager& pager;
  const std::vector<BufferHandle>& buffers;
  std::uint64_t seed;
  unsigned steps;
  std::atomic<std::uint64_t> wrong{0}, failed{0}, reads{0};
  std::atomic<bool> is_done{false};

  void read(unsigned number) {
    Random random(seed + number);
    for (unsigned step = 0; step < steps; ++step) {
      const std::size_t which = random.below(kBuffers / 2);
      const PinnedRange pinned = pager.pin(buffers[which], kOne, Access::read);
      if (pinned.result != Result::ok) {
        failed.fetch_add(1);
        continue;
      }
      if (!has_words(pinned.data, 0, kExtent, which)) wrong.fetch_add(1);
      reads.fetch_add(1);
      if (pager.unpin(buffers[which], kOne, Access::read) != Result::ok) failed.fetch_add(1);
    }
  }
  void write(unsigned number) {
    Random random(seed + 100 + number);
    std::vector<std::uint64_t> version(kBuffers);
    for (unsigned at = 0; at < kBuffers; ++at) version[at] = at;
    for (unsigned step = 0; step < steps; ++step) {
      const std::size_t which = kBuffers / 2 + random.below(kBuffers / 4) * 2 + number;
      if (!holds(pager, buffers[which], kOne, version[which])) wrong.fetch_add(1);
      version[which] = random.next();
      if (!fill(pager, buffers[which], kOne, version[which])) failed.fetch_add(1);
    }
  }
  void move() {
    Random random(seed + 200);
    while (!is_done.load()) {
      const BufferHandle buffer = buffers[random.below(kBuffers)];
      const Tier tier = static_cast<Tier>(1 + random.below(3));
      constexpr Operation kMoves[] = {Operation::swap_to, Operation::page_to, Operation::synchronise};
      const Operation operation = kMoves[random.below(3)];
      Ticket ticket = 0;
      const Result result = random.one_in(4) ? pager.move_async(buffer, {}, {operation, tier}, &ticket)
                                             : pager.move(buffer, {}, operation, tier);
      if (result != Result::ok && result != Result::pinned) failed.fetch_add(1);
      if (ticket != 0) pager.release_ticket(ticket);
      if (random.one_in(16)) pager.reclaim(4 * kExtent);
      if (random.one_in(16)) pager.crawl(50);
    }
  }
};

}  // namespace

TEST_CASE("G15 mut-B12 0-23 mut-A13 threads read and write while others page out: every read is right",
          "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  BufferRig rig;
  BufferPagerOptions options = rig.options();
  options.workers = 2;
  options.host_bytes = 24 * kExtent;  // of 48
  REQUIRE(rig.pager.open(options) == Result::ok);
  BufferPager& pager = rig.pager;
  const std::vector<BufferHandle> buffers = make_filled(pager, Storm::kBuffers);
  Storm storm{pager, buffers, seed, kThreadSanitizer ? 300u : 1500u};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < Storm::kReaders; ++i) threads.emplace_back([&storm, i] { storm.read(i); });
  for (unsigned i = 0; i < Storm::kWriters; ++i) threads.emplace_back([&storm, i] { storm.write(i); });
  std::thread mover([&storm] { storm.move(); });
  for (std::thread& thread : threads) thread.join();
  storm.is_done.store(true);
  mover.join();
  pager.wait_all();
  REQUIRE(storm.wrong.load() == 0);
  REQUIRE(storm.failed.load() == 0);
  REQUIRE(storm.reads.load() == Storm::kReaders * storm.steps);
  REQUIRE(pager.stats().page_ins > 100);
  REQUIRE(pager.host_budget().peak_bytes() <= 24 * kExtent);
  require_balance(pager);
}

TEST_CASE("a forked child can only close the pager; what was pinned is still there, the parent is unharmed",
          "[paging]") {
  OpenRig rig([](BufferPagerOptions& options) { options.workers = 2; });
  BufferPager& pager = rig.pager;
  const std::vector<BufferHandle> buffers = make_filled(pager, 10);
  REQUIRE(pager.start_crawler(1, 10) == Result::ok);
  for (std::size_t i = 1; i < 10; ++i) {
    REQUIRE(pager.move(buffers[i], {}, Operation::swap_to, Tier::file) == Result::ok);
  }
  const PinnedRange pinned = pager.pin(buffers[0], kOne, Access::read);
  REQUIRE(pinned.result == Result::ok);
  const pid_t child = ::fork();
  if (child == 0) {
    BufferHandle handle = 0;
    Ticket ticket = 0;
    bool is_right = pager.pin(buffers[1], kOne, Access::read).result == Result::in_child;
    is_right = is_right && pager.create(1, {}, &handle) == Result::in_child;
    is_right = is_right && pager.move(buffers[1], {}, Operation::discard, Tier::host) == Result::in_child;
    is_right = is_right && pager.move_async(buffers[1], {}, {Operation::discard, Tier::host}, &ticket) ==
                               Result::in_child;
    is_right = is_right && has_words(pinned.data, 0, kExtent, 0);
    pager.close();
    ::_exit(is_right ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(status == 0);
  REQUIRE(pager.unpin(buffers[0], kOne, Access::read) == Result::ok);
  require_contents(pager, buffers);
  pager.stop_crawler();
  require_balance(pager);
}
