// Blocks of the interface to a GPU with a model of each: the heap, and pools. For the test of random calls.
#pragma once

#include <glebe/device_memory_pool.h>

#include <map>

#include "tests/device_api_rig.h"
#include "tests/random.h"

namespace api_test {

// One of them; the map is not empty.
template <class Map>
auto any_of(Random& random, Map& map) {
  return std::next(map.begin(), static_cast<std::ptrdiff_t>(random.below(map.size())));
}

// Blocks of the heap: tags, pins, sizes, contents at both ends.
class HeapPart {
 public:
  HeapPart(const glebe::Device& device, Random& random, Expect& expect)
      : device_(device), random_(random), expect_(expect) {
    glebe_device_heap_options options = {};
    options.coarse_bytes = 4 * kMiB;
    REQUIRE(heap_.open(device, options) == glebe_device_ok);
    REQUIRE(heap_.tag("one", &tag_) == glebe_device_ok);
  }

  void step() {
    switch (random_.below(10)) {
      case 0:
      case 1:
      case 2:
        return allocate();
      case 3:
      case 4:
        return free();
      case 5:
        return pin();
      case 6:
        return misuse();
      case 7:
        return resize();
      default:
        return random_.one_in(20) ? compact() : look();
    }
  }
  void end() {
    for (auto& [address, block] : blocks_) {
      for (; block.pins > 0; --block.pins) expect_(heap_.unpin(address) == glebe_device_ok);
      expect_(heap_.free(address) == glebe_device_ok);
    }
    blocks_.clear();
    expect_(heap_.stats().live_blocks == 0);
  }

 private:
  struct Block {
    std::uint64_t size;
    std::uint32_t tag, pins;
    unsigned char mark;
  };

  void allocate() {
    static constexpr std::uint64_t kSizes[] = {0, 1, 256, 1000, 65536, 300000, UINT64_MAX};
    static constexpr std::uint64_t kAligns[] = {0, 1, 3, 4096, 2 * kMiB, 8 * kMiB};
    const std::uint64_t size = kSizes[random_.below(7)], alignment = kAligns[random_.below(6)];
    const std::uint32_t tag = random_.one_in(8) ? 77 : random_.one_in(2) ? tag_ : 0;
    if (blocks_.size() > 40) return free();
    glebe::DeviceAddress address = 1;
    const glebe::DeviceResult result = heap_.allocate_tagged(size, tag, &address, alignment);
    if (size == UINT64_MAX) {
      expect_(result != glebe_device_ok && address == 1);
      return;
    }
    if (size == 0 || alignment == 3 || alignment == 8 * kMiB || tag == 77) {
      expect_(result == glebe_device_bad_argument && address == 1);
      return;
    }
    if (!expect_(result == glebe_device_ok)) return;
    expect_(address % (alignment > 256 ? alignment : 256) == 0);
    const auto next = blocks_.lower_bound(address);
    expect_(next == blocks_.end() || address + size <= next->first);
    expect_(next == blocks_.begin() || std::prev(next)->first + std::prev(next)->second.size <= address);
    const Block block = {size, tag, 0, static_cast<unsigned char>(random_.below(256))};
    blocks_[address] = block;
    write(address, block);
    last_freed_ = 0;
  }
  void free() {
    if (blocks_.empty()) return;
    const auto at = any_of(random_, blocks_);
    check(at->first, at->second);
    const bool is_pinned = at->second.pins != 0;
    const glebe::DeviceAddress address = at->first;
    expect_(heap_.free(address) == (is_pinned ? glebe_device_in_use : glebe_device_ok));
    if (is_pinned) return;
    blocks_.erase(at);
    last_freed_ = address;
    expect_(heap_.free(address) != glebe_device_ok);
  }
  void pin() {
    if (blocks_.empty()) return;
    const auto at = any_of(random_, blocks_);
    if (random_.one_in(2)) {
      expect_(heap_.pin(at->first) == glebe_device_ok);
      ++at->second.pins;
    } else {
      const bool is_pinned = at->second.pins != 0;
      expect_(heap_.unpin(at->first) == (is_pinned ? glebe_device_ok : glebe_device_bad_argument));
      if (is_pinned) --at->second.pins;
    }
  }
  // Of what is no block.
  void misuse() {
    const glebe::DeviceAddress inside = blocks_.empty() ? 12345 : any_of(random_, blocks_)->first + 1;
    const glebe::DeviceAddress wrong[] = {inside, 0, UINT64_MAX, 256};
    const glebe::DeviceAddress address = wrong[random_.below(4)];
    glebe::DeviceAddress moved = 1;
    expect_(heap_.free(address) == glebe_device_not_owned);
    expect_(heap_.pin(address) == glebe_device_not_owned);
    expect_(heap_.unpin(address) == glebe_device_not_owned);
    expect_(heap_.resize(address, 100) == glebe_device_not_owned);
    expect_(heap_.relocate(address, &moved) == glebe_device_not_owned && moved == 1);
    expect_(heap_.finish_relocation(address) == glebe_device_not_owned);
    expect_(heap_.usable_size(address) == 0);
    if (last_freed_ == 0) return;
    expect_(heap_.free(last_freed_) != glebe_device_ok);
    expect_(heap_.usable_size(last_freed_) == 0);
  }
  void resize() {
    if (blocks_.empty()) return;
    const auto at = any_of(random_, blocks_);
    const std::uint64_t size = 1 + random_.below(400000);
    const glebe::DeviceResult result = heap_.resize(at->first, size);
    expect_(heap_.resize(at->first, 0) == glebe_device_bad_argument);
    if (result == glebe_device_ok) {
      if (size < at->second.size) at->second.size = size;
      expect_(heap_.usable_size(at->first) >= size);
      last_freed_ = 0;
      write(at->first, at->second);
    } else {
      // Shorter always works, unless it is pinned.
      expect_(size > at->second.size || at->second.pins != 0);
      check(at->first, at->second);
    }
  }
  void compact() {
    std::map<glebe::DeviceAddress, Block> moved;
    glebe_device_defragment_result result = {};
    std::uint64_t count = 0;
    const glebe::DeviceResult answer = heap_.defragment(
        [&](const glebe_device_block& block) { return block.tag == tag_; },
        [&](const glebe_device_move& move) {
          ++count;
          const auto node = blocks_.extract(move.from);
          if (!expect_(!node.empty() && node.mapped().tag == tag_ && node.mapped().pins == 0)) return;
          blocks_[move.to] = node.mapped();
        },
        &result);
    expect_(answer == glebe_device_ok && result.blocks_moved == count);
    last_freed_ = 0;
    for (const auto& [address, block] : blocks_) check(address, block);
  }
  void look() {
    auto at = blocks_.begin();
    std::uint64_t tagged = 0;
    expect_(heap_.walk([&](const glebe_device_block& block) {
      const bool is_known = at != blocks_.end() && at->first == block.address &&
                            at->second.tag == block.tag && at->second.pins == block.pins &&
                            block.size >= at->second.size;
      if (block.tag == tag_) tagged += block.size;
      if (is_known) ++at;
      return expect_(is_known);
    }) == glebe_device_ok);
    expect_(at == blocks_.end());
    glebe_device_tag_stats stats = {};
    expect_(heap_.tag_stats(tag_, &stats) == glebe_device_ok && stats.live_bytes == tagged);
    expect_(heap_.stats().live_blocks == blocks_.size());
    if (random_.one_in(4)) heap_.trim(random_.below(3) * 2 * kMiB);
  }
  void write(glebe::DeviceAddress address, const Block& block) {
    const std::byte mark{block.mark};
    expect_(device_.write(address, {&mark, 1}) == glebe_device_ok);
    expect_(device_.write(address + block.size - 1, {&mark, 1}) == glebe_device_ok);
  }
  void check(glebe::DeviceAddress address, const Block& block) {
    std::byte first{}, last{};
    expect_(device_.read({&first, 1}, address) == glebe_device_ok && first == std::byte{block.mark});
    expect_(device_.read({&last, 1}, address + block.size - 1) == glebe_device_ok);
    expect_(last == std::byte{block.mark});
  }

  const glebe::Device& device_;
  Random& random_;
  Expect& expect_;
  glebe::DeviceHeap heap_;
  std::uint32_t tag_ = 0;
  std::map<glebe::DeviceAddress, Block> blocks_;
  glebe::DeviceAddress last_freed_ = 0;  // no block since; 0: not known
};

// Pools: in stream order on a heap of their own, and one of a source and an engine drawn by lot.
class PoolPart {
 public:
  PoolPart(const glebe::Device& device, Random& random, Expect& expect)
      : random_(random), expect_(expect), streams_{Stream(device), Stream(device)} {
    glebe_device_heap_options small = {};
    small.coarse_bytes = 4 * kMiB;
    REQUIRE(heap_.open(device, small) == glebe_device_ok);
    REQUIRE(glebe_device_pool_open(heap_.handle(), &stream_pool_) == glebe_device_ok);
    options_.source = static_cast<glebe_source>(random.below(3));
    options_.engine = static_cast<glebe_engine>(random.below(5));
    options_.struct_bytes = sizeof options_;
    options_.chunk_bytes = 2 * kMiB;
    options_.max_bytes = 8 * kMiB;
    options_.block_bytes = 4096;
    REQUIRE(glebe_memory_pool_open(device.handle(), &options_, &pool_) == glebe_device_ok);
  }

  void step() {
    void* const stream = streams_[random_.below(2)];
    if (random_.one_in(2)) return random_.one_in(2) ? take_ordered(stream) : give_ordered(stream);
    random_.one_in(2) ? take() : give(stream);
  }
  void end() {
    while (!ordered_.empty()) give_ordered(streams_[0]);
    expect_(glebe_device_pool_close(stream_pool_) == glebe_device_ok);
    expect_(heap_.stats().live_blocks == 0);
    expect_(glebe_memory_pool_synchronize(pool_) == glebe_device_ok);
    glebe_memory_pool_stats stats = {};
    glebe_memory_pool_get_stats(pool_, &stats);
    expect_(stats.live_blocks == blocks_.size());
    expect_(glebe_memory_pool_close(pool_) == glebe_device_ok);
  }

 private:
  void take_ordered(void* stream) {
    glebe::DeviceAddress address = 0;
    expect_(glebe_device_pool_allocate(stream_pool_, 0, stream, &address) == glebe_device_bad_argument);
    if (ordered_.size() > 20) return;
    const std::uint64_t size = 1 + random_.below(100000);
    if (!expect_(glebe_device_pool_allocate(stream_pool_, size, stream, &address) == glebe_device_ok)) return;
    expect_(ordered_.emplace(address, 0).second);  // nobody else has it
  }
  void give_ordered(void* stream) {
    expect_(glebe_device_pool_free(stream_pool_, 1, stream) == glebe_device_not_owned);
    if (ordered_.empty()) return;
    const auto at = any_of(random_, ordered_);
    expect_(glebe_device_pool_record_use(stream_pool_, at->first, streams_[random_.below(2)]) ==
            glebe_device_ok);
    expect_(glebe_device_pool_free(stream_pool_, at->first, stream) == glebe_device_ok);
    expect_(glebe_device_pool_free(stream_pool_, at->first, stream) == glebe_device_double_free);
    ordered_.erase(at);
  }
  void take() {
    glebe::DeviceAddress address = 1;
    expect_(glebe_memory_pool_allocate(pool_, 0, 0, &address) == glebe_device_bad_argument && address == 1);
    const glebe_device_result item = glebe_memory_pool_allocate_item(pool_, &address);
    if (options_.engine != glebe_engine_fixed) {
      expect_(item == glebe_device_unsupported && address == 1);
      if (glebe_memory_pool_allocate(pool_, 1 + random_.below(4096), 256, &address) != glebe_device_ok) {
        return expect_full();
      }
    } else if (item != glebe_device_ok) {
      return expect_full();
    }
    expect_(glebe_memory_pool_usable_size(pool_, address) != 0);
    expect_(blocks_.emplace(address, 0).second);
  }
  // The only reason for a refusal: everything that was taken is used.
  void expect_full() {
    glebe_memory_pool_stats stats = {};
    glebe_memory_pool_get_stats(pool_, &stats);
    expect_(stats.chunk_bytes == options_.max_bytes);
  }
  void give(void* stream) {
    expect_(glebe_memory_pool_free(pool_, 1) == glebe_device_not_owned);
    if (random_.one_in(10)) static_cast<void>(glebe_memory_pool_trim(pool_, random_.below(4) * kMiB));
    if (blocks_.empty()) return;
    const auto at = any_of(random_, blocks_);
    const glebe::DeviceAddress address = at->first;
    const glebe::DeviceAddress twice[] = {address, address};
    expect_(glebe_memory_pool_free_after(pool_, stream, twice, 2) == glebe_device_double_free);
    if (random_.one_in(2)) {
      expect_(glebe_memory_pool_free_after(pool_, stream, twice, 1) == glebe_device_ok);
      expect_(glebe_memory_pool_synchronize(pool_) == glebe_device_ok);
    } else {
      expect_(glebe_memory_pool_free(pool_, address) == glebe_device_ok);
    }
    expect_(glebe_memory_pool_free(pool_, address) != glebe_device_ok);
    blocks_.erase(at);
  }

  Random& random_;
  Expect& expect_;
  Stream streams_[2];
  glebe::DeviceHeap heap_;
  glebe_device_pool* stream_pool_ = nullptr;
  glebe_memory_pool_options options_ = {};
  glebe_memory_pool* pool_ = nullptr;
  std::map<glebe::DeviceAddress, int> ordered_, blocks_;
};

}  // namespace api_test
