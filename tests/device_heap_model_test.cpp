// The device heap against a model, and from many threads: blocks never overlap, keep their contents while the
// chunks around them move, and every count is what the model counts.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <thread>
#include <type_traits>

#include "tests/heap_rig.h"
#include "tests/random.h"

namespace device_test {
namespace {

// The catalogue's mut-B10: a heap cannot be moved from, and so not forget its tables.
static_assert(!std::is_move_constructible_v<DeviceHeap> && !std::is_copy_constructible_v<DeviceHeap>);

class Model {
 public:
  Model(Rig& rig, DeviceHeap& heap, std::uint64_t seed) : rig_(rig), heap_(heap), random_(seed) {}

  void step() {
    switch (random_.below(16)) {
      case 0:
        return grow();
      case 1:
        return shrink();
      case 2:
        if (random_.one_in(8)) heap_.trim(random_.below(12) * kGranule);
        return;
      case 3:
        if (random_.one_in(16)) static_cast<void>(heap_.prewarm(random_.below(4) * kGranule));
        return;
      case 4:
      case 5:
      case 6:
      case 7:
      case 8:
      case 9:
        return allocate();
      default:
        return free();
    }
  }

  void check() {
    std::uint64_t live = 0, requested = 0;
    for (const auto& [address, block] : blocks_) {
      live += block.size_bytes;
      requested += block.requested_bytes;
    }
    const DeviceHeapStats stats = heap_.stats();
    REQUIRE(heap_.validate());
    REQUIRE(stats.live_bytes == live);
    REQUIRE(stats.requested_bytes == requested);
    REQUIRE(stats.live_blocks == blocks_.size());
    REQUIRE(stats.space.mapped_bytes + stats.space.idle_bytes == stats.space.held_bytes);
    REQUIRE(stats.space.held_bytes == rig_.emulated->usage().device_bytes);
    REQUIRE(stats.space.held_bytes == heap_.budget().used_bytes());
    REQUIRE(stats.live_bytes + stats.free_bytes + stats.idle_bytes == stats.space.held_bytes);
    REQUIRE(stats.hits + stats.misses == stats.allocations);
    coarse_seen_ |= stats.space.coarse_chunks != 0;
  }
  bool coarse_seen() const { return coarse_seen_; }

  void end() {
    while (!blocks_.empty()) free();
  }

 private:
  struct Block {
    std::uint64_t size_bytes, requested_bytes;
    std::uint32_t word;
  };
  using Blocks = std::map<cuda::DevicePointer, Block>;

  // Some are so large that they get coarse chunks; shrunk, they leave these in part to others.
  std::uint64_t size() {
    if (random_.one_in(12)) return 8 * kMiB + random_.below(6 * kMiB);
    const std::uint64_t most = std::uint64_t{256} << random_.below(15);
    return 1 + random_.below(most);
  }

  // The ends, and the first word of each chunk, hold the block's word.
  void fill(cuda::DevicePointer address, const Block& block) {
    for_each_word(address, block, [&](cuda::DevicePointer at) {
      REQUIRE(rig_.store_word(at, block.word, nullptr) == cuda::Result::success);
    });
  }
  void verify(cuda::DevicePointer address, const Block& block) {
    for_each_word(address, block, [&](cuda::DevicePointer at) { REQUIRE(rig_.read_word(at) == block.word); });
  }
  template <class Body>
  void for_each_word(cuda::DevicePointer address, const Block& block, Body body) {
    body(address);
    body(address + block.size_bytes - 4);
    for (cuda::DevicePointer at = glebe::align_up(address, kGranule); at < address + block.size_bytes;
         at += kGranule) {
      body(at);
    }
  }

  void allocate() {
    const std::uint64_t align = random_.one_in(4) ? std::uint64_t{1} << random_.below(22) : 0;
    const std::uint64_t wanted = size();
    cuda::DevicePointer address = 0;
    const Outcome outcome = heap_.allocate({wanted, align, 0}, &address);
    if (!outcome.ok()) {
      REQUIRE((outcome.status == Status::over_budget || outcome.status == Status::out_of_memory ||
               outcome.status == Status::out_of_addresses));
      return;
    }
    REQUIRE((align == 0 || address % align == 0));
    const Block block{heap_.size_of(address), wanted, ++words_};
    REQUIRE(block.size_bytes == glebe::align_up(wanted, 256));
    const auto behind = blocks_.lower_bound(address);
    REQUIRE((behind == blocks_.end() || address + block.size_bytes <= behind->first));
    if (behind != blocks_.begin()) {
      const auto before = std::prev(behind);
      REQUIRE(before->first + before->second.size_bytes <= address);
    }
    fill(address, block);
    blocks_.emplace(address, block);
  }

  Blocks::iterator any() {
    auto at = blocks_.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_.below(blocks_.size())));
    return at;
  }

  void free() {
    if (blocks_.empty()) return;
    const auto at = any();
    verify(at->first, at->second);
    REQUIRE(heap_.free(at->first).ok());
    REQUIRE(heap_.free(at->first).status != Status::ok);
    blocks_.erase(at);
  }

  void grow() {
    if (blocks_.empty()) return;
    const auto at = any();
    const std::uint64_t wanted = at->second.size_bytes + size();
    if (!heap_.grow_in_place(at->first, wanted).ok()) {
      REQUIRE(heap_.size_of(at->first) == at->second.size_bytes);
      return;
    }
    verify(at->first, at->second);
    at->second = {heap_.size_of(at->first), wanted, at->second.word};
    REQUIRE(at->second.size_bytes == glebe::align_up(wanted, 256));
    const auto behind = std::next(at);
    REQUIRE((behind == blocks_.end() || at->first + at->second.size_bytes <= behind->first));
    fill(at->first, at->second);
  }

  void shrink() {
    if (blocks_.empty()) return;
    const auto at = any();
    const std::uint64_t wanted = 1 + random_.below(at->second.size_bytes);
    REQUIRE(heap_.shrink(at->first, wanted).ok());
    at->second = {heap_.size_of(at->first), wanted, at->second.word};
    fill(at->first, at->second);
  }

  Rig& rig_;
  DeviceHeap& heap_;
  Random random_;
  std::uint32_t words_ = 0;
  bool coarse_seen_ = false;
  Blocks blocks_;
};

TEST_CASE("P11 P10 device heap: random calls agree with a model", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  for (std::uint64_t round = 0; round < 6; ++round) {
    DeviceHeapOptions options = small_heap();
    if (round % 2 == 1) options.limit_bytes = 9 * kGranule;
    if (round % 3 == 2) options.coarse_bytes = options.fine_bytes;  // no coarse chunks
    if (round % 3 == 2) options.reserve_bytes = 64 * kMiB;
    on_heap(options, [&](Rig& rig, DeviceHeap& heap) {
      Model model(rig, heap, seed + round);
      for (int i = 0; i < 3000; ++i) {
        model.step();
        if (i % 20 == 0) model.check();
      }
      model.check();
      CHECK(model.coarse_seen() == (round % 3 != 2));
      model.end();
    });
  }
}

// Frees `blocks` in the order that a pattern asks for.
enum class Order { forward, backward, shuffled };

TEST_CASE("P11 P12 device heap: fill to 95 %, free half, fill again, in any order", "[device]") {
  for (const Order order : {Order::forward, Order::backward, Order::shuffled}) {
    on_heap(small_heap(), [order](Rig&, DeviceHeap& heap) {
      Random random(test_seed());
      for (int round = 0; round < 5; ++round) {
        std::vector<cuda::DevicePointer> blocks;
        const auto fill = [&] {
          while (heap.stats().live_bytes < 32 * kMiB / 100 * 95) {
            blocks.push_back(take(heap, (1 + random.below(4)) * 50 * kKiB));
          }
        };
        fill();
        if (order == Order::shuffled) {
          for (std::size_t i = blocks.size(); i > 1; --i) std::swap(blocks[i - 1], blocks[random.below(i)]);
        }
        if (order == Order::backward) std::reverse(blocks.begin(), blocks.end());
        for (std::size_t i = 0; i < blocks.size() / 2; ++i) REQUIRE(heap.free(blocks[i]).ok());
        blocks.erase(blocks.begin(), blocks.begin() + static_cast<std::ptrdiff_t>(blocks.size() / 2));
        fill();
        REQUIRE(heap.validate());
        for (const cuda::DevicePointer block : blocks) REQUIRE(heap.free(block).ok());
        REQUIRE(heap.stats().live_bytes == 0);
      }
    });
  }
}

// One of several users of a heap: each writes its own words and finds them.
void use(Rig& rig, DeviceHeap& heap, std::uint64_t seed, Expect& expect) {
  expect(rig.driver.ctx_set_current(rig.context) == cuda::Result::success);
  Random random(seed);
  std::vector<std::pair<cuda::DevicePointer, std::uint32_t>> blocks;
  const auto free = [&](std::size_t at) {
    std::uint32_t word = 0;
    expect(rig.driver.memcpy_d2h(&word, blocks[at].first, sizeof word) == cuda::Result::success);
    expect(word == blocks[at].second);
    expect(heap.free(blocks[at].first).ok());
    blocks[at] = blocks.back();
    blocks.pop_back();
  };
  for (std::uint32_t i = 0; i < 1500; ++i) {
    if (blocks.size() > 12 || (!blocks.empty() && random.one_in(3))) {
      free(random.below(blocks.size()));
      continue;
    }
    cuda::DevicePointer address = 0;
    const Outcome outcome =
        heap.allocate({1 + random.below(random.one_in(6) ? 5 * kMiB : 200 * kKiB), 0, 0}, &address);
    if (!outcome.ok()) {
      expect(outcome.status == Status::out_of_memory || outcome.status == Status::over_budget);
      continue;
    }
    const auto word = static_cast<std::uint32_t>(seed * 100'000 + i);
    expect(rig.driver.memcpy_h2d(address, &word, sizeof word) == cuda::Result::success);
    blocks.emplace_back(address, word);
    if (random.one_in(50)) heap.trim(random.below(8) * kGranule);
    if (random.one_in(50)) expect(heap.stats().live_blocks > 0);
  }
  while (!blocks.empty()) free(blocks.size() - 1);
}

TEST_CASE("P16 mut-B11 device heap: many threads, and the counts still balance", "[device]") {
  on_heap(small_heap(), [](Rig& rig, DeviceHeap& heap) {
    constexpr int kThreads = 4;
    Expect expects[kThreads];
    std::thread threads[kThreads];
    for (int i = 0; i < kThreads; ++i) {
      threads[i] =
          std::thread([&, i] { use(rig, heap, test_seed() % 1000 + static_cast<unsigned>(i), expects[i]); });
    }
    for (std::thread& thread : threads) thread.join();
    for (const Expect& expect : expects) CHECK(expect.failed_line() == 0);
    const DeviceHeapStats stats = heap.stats();
    CHECK(stats.allocations == stats.frees);
    CHECK(stats.hits + stats.misses == stats.allocations);
    CHECK(stats.live_bytes == 0);
    CHECK(stats.live_blocks == 0);
    CHECK(stats.space.held_bytes == rig.emulated->usage().device_bytes);
  });
}

TEST_CASE("K1 mut-B11 device heap: whoever reads the statistics waits for the lock", "[device]") {
  on_heap(small_heap(), [](Rig&, DeviceHeap& heap) {
    std::atomic<bool> has_started{false};
    heap.space().table_lock().lock();
    std::atomic<int> done{0};
    std::thread reader([&] {
      has_started = true;
      static_cast<void>(heap.stats());
      ++done;
    });
    std::thread reader_of_tag([&] {
      static_cast<void>(heap.tag_stats(0));
      ++done;
    });
    while (!has_started) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    CHECK(done == 0);
    heap.space().table_lock().unlock();
    reader.join();
    reader_of_tag.join();
  });
}

}  // namespace
}  // namespace device_test
