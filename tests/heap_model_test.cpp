// A million random calls against a model that knows which addresses are live and what they hold.
#include <cmath>
#include <map>
#include <vector>

#include "tests/heap_calls.h"

#include "tests/catch.h"
#include "tests/random.h"

using namespace glebe;
using namespace glebe::heap;

namespace {

constexpr std::size_t kLiveBytesMax = 256 * kMiB;
constexpr std::size_t kSizeMax = 80'000'000;
constexpr std::size_t kFullPatternBytes =
    512;  // larger blocks carry the pattern at their ends and in between

class Model {
 public:
  explicit Model(std::uint64_t seed) : random_(seed) {
    for (Heap*& heap : heaps_) heap = create_heap();
  }

  // One random call. Everything that it promises is checked.
  void step() {
    const std::uint64_t dice = random_.below(1000);
    const bool is_full = live_.size() > 20'000 || live_bytes_ > kLiveBytesMax * 3 / 4;
    if (live_.empty() || (!is_full && dice < 450)) return add();
    if (dice < 850 || (is_full && dice < 990)) return remove(random_.below(live_.size()));
    if (dice < 998) return resize(random_.below(live_.size()));
    replace_heap(random_.below(kHeaps));
  }

  void check_all() {
    for (const Block& block : live_) expect(holds_pattern(block));
    expect(validate());
  }

  void finish() {
    while (!live_.empty()) remove(live_.size() - 1);
    for (Heap* heap : heaps_) destroy_heap(heap);
  }

  Expect expect;

 private:
  static constexpr unsigned kHeaps = 3;
  static constexpr unsigned kNoHeap = kHeaps;
  struct Block {
    unsigned char* at;
    std::size_t size, seed;
    unsigned heap;
  };

  // Log-uniform: as many sizes between 1 and 10 as between 1 million and 10 millions; most blocks are small,
  // as in programs.
  std::size_t random_size() {
    const double top = std::log(random_.one_in(16) ? static_cast<double>(kSizeMax) : 40'000.0);
    const double unit = static_cast<double>(random_.next() >> 11) / 9007199254740992.0;
    return static_cast<std::size_t>(std::exp(unit * top));
  }

  // Calls visit(offset) for the bytes that carry the pattern.
  template <class Visit>
  static void for_pattern(std::size_t size, Visit visit) {
    if (size <= kFullPatternBytes) {
      for (std::size_t i = 0; i < size; ++i) visit(i);
      return;
    }
    for (std::size_t i = 0; i < 64; ++i) visit(i);
    for (std::size_t i = size - 64; i < size; ++i) visit(i);
    for (unsigned part = 1; part < 4; ++part) visit(size / 4 * part);
  }
  static void fill_pattern(const Block& block) {
    for_pattern(block.size, [&](std::size_t i) { block.at[i] = pattern_byte(block.seed, i); });
  }
  static bool holds_pattern(const Block& block) {
    bool is_right = true;
    for_pattern(block.size, [&](std::size_t i) { is_right &= block.at[i] == pattern_byte(block.seed, i); });
    return is_right;
  }

  // The block overlaps no other: its neighbours by address end before it and start behind it.
  void insert(const Block& block, std::size_t index) {
    const auto start = reinterpret_cast<std::uintptr_t>(block.at);
    expect(start % (block.size >= 16 ? 16 : 8) == 0);
    const auto [place, is_new] = by_address_.emplace(start, index);
    expect(is_new);
    if (place != by_address_.begin()) {
      const Block& before = live_[std::prev(place)->second];
      expect(reinterpret_cast<std::uintptr_t>(before.at) + before.size <= start);
    }
    if (std::next(place) != by_address_.end()) expect(start + block.size <= std::next(place)->first);
  }

  void add() {
    Block block{nullptr, random_size(), static_cast<std::size_t>(random_.next()), kNoHeap};
    if (live_bytes_ + block.size > kLiveBytesMax) return;
    const std::uint64_t kind = random_.below(100);
    std::size_t align = 0;
    if (kind < 15) align = std::size_t{1} << random_.below(random_.one_in(50) ? 25 : 14);
    bool is_zeroed = false;
    void* at = nullptr;
    if (kind < 10) {
      at = allocate_aligned(block.size, align);
    } else if (kind < 20) {
      block.heap = random_.below32(kHeaps);
      at = allocate_from(heaps_[block.heap], block.size, align);
    } else if (kind < 30) {
      at = allocate_zeroed(block.size);
      is_zeroed = true;
    } else {
      at = allocate(block.size);
    }
    if (!expect(at != nullptr)) return;
    block.at = static_cast<unsigned char*>(at);
    expect(align == 0 || reinterpret_cast<std::uintptr_t>(at) % align == 0);
    expect(usable_bytes(at) >= block.size);
    expect(heap_of(at) == (block.heap == kNoHeap ? nullptr : heaps_[block.heap]));
    if (is_zeroed) for_pattern(block.size, [&](std::size_t i) { expect(block.at[i] == 0); });
    fill_pattern(block);
    insert(block, live_.size());
    live_.push_back(block);
    live_bytes_ += block.size;
  }

  // Takes the block out of the model; the last one moves to its index.
  void forget(std::size_t index) {
    by_address_.erase(reinterpret_cast<std::uintptr_t>(live_[index].at));
    live_bytes_ -= live_[index].size;
    if (index + 1 != live_.size()) {
      live_[index] = live_.back();
      by_address_[reinterpret_cast<std::uintptr_t>(live_[index].at)] = index;
    }
    live_.pop_back();
  }

  void remove(std::size_t index) {
    const Block block = live_[index];
    expect(holds_pattern(block));
    forget(index);
    release(block.at);
  }

  void resize(std::size_t index) {
    Block block = live_[index];
    std::size_t size = random_.one_in(2) ? random_size() : block.size + block.size / 8 + 1;
    if (live_bytes_ + size > kLiveBytesMax || size > kSizeMax) size = block.size / 2 + 1;
    expect(holds_pattern(block));
    forget(index);
    auto* moved = static_cast<unsigned char*>(reallocate(block.at, size));
    if (!expect(moved != nullptr && usable_bytes(moved) >= size)) return;
    for_pattern(block.size,
                [&](std::size_t i) { expect(i >= size || moved[i] == pattern_byte(block.seed, i)); });
    const Heap* now = heap_of(moved);
    block.heap = kNoHeap;
    for (unsigned h = 0; h < kHeaps; ++h) {
      if (now == heaps_[h]) block.heap = h;
    }
    block.at = moved;
    block.size = size;
    fill_pattern(block);
    insert(block, live_.size());
    live_.push_back(block);
    live_bytes_ += size;
  }

  void replace_heap(std::size_t which) {
    for (std::size_t i = live_.size(); i-- > 0;) {
      if (live_[i].heap == which) {
        expect(holds_pattern(live_[i]));
        forget(i);
      }
    }
    destroy_heap(heaps_[which]);
    heaps_[which] = create_heap();
  }

  Random random_;
  Heap* heaps_[kHeaps];
  std::vector<Block> live_;
  std::map<std::uintptr_t, std::size_t> by_address_;  // to the index in live_
  std::size_t live_bytes_ = 0;
};

}  // namespace

TEST_CASE("P11 P12 a million random calls agree with the model", "[heap]") {
  const HeapCounts before = trimmed_counts();
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Model model(seed);
  for (unsigned step = 0; step < 1'000'000 && model.expect.failed_line() == 0; ++step) {
    model.step();
    if (step % 100'000 == 99'999) model.check_all();
    if (step % 250'000 == 249'999) static_cast<void>(trim());
  }
  REQUIRE(model.expect.failed_line() == 0);
  model.check_all();
  model.finish();
  REQUIRE(model.expect.failed_line() == 0);
  REQUIRE(validate());
  REQUIRE(trimmed_counts() == before);
}
