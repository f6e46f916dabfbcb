// Simulated policies; see device_policies.h.
#include "bench/device_policies.h"

#include <map>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "src/base/bits.h"

namespace device_bench {
namespace {

using glebe::align_up;
using glebe::kKiB;
using glebe::kMiB;

[[noreturn]] void fail_unknown() {
  throw std::runtime_error("a policy was asked to free what it never gave");
}

class Segments final : public Policy {
 public:
  explicit Segments(std::uint64_t limit_bytes) : limit_(limit_bytes) {}

  bool allocate(std::uint64_t size_bytes, std::uint64_t* address) override {
    const std::uint64_t size = align_up(size_bytes, std::uint64_t{512});
    const bool is_small = size <= kMiB;
    if (!place(size, is_small, address) && !(add_segment(size, is_small) && place(size, is_small, address))) {
      return false;
    }
    return true;
  }

  void free(std::uint64_t address) override {
    auto at = blocks_.find(address);
    if (at == blocks_.end() || at->second.is_free) fail_unknown();
    const auto next = std::next(at);
    if (next != blocks_.end() && next->second.segment == at->second.segment && next->second.is_free) {
      take_out(next);
      at->second.size += next->second.size;
      blocks_.erase(next);
    }
    if (at != blocks_.begin()) {
      const auto previous = std::prev(at);
      if (previous->second.segment == at->second.segment && previous->second.is_free) {
        take_out(previous);
        previous->second.size += at->second.size;
        blocks_.erase(at);
        at = previous;
      }
    }
    put_in(at);
  }

 private:
  struct Block {
    std::uint64_t size;
    std::uint64_t segment;  // its address
    bool is_free;
  };
  using Place = std::map<std::uint64_t, Block>::iterator;
  struct Segment {
    std::uint64_t size;
    bool is_small;
  };

  std::set<std::pair<std::uint64_t, std::uint64_t>>& free_of(const Block& block) {
    return free_[segments_.at(block.segment).is_small ? 0 : 1];
  }
  void take_out(Place at) {
    free_of(at->second).erase({at->second.size, at->first});
    at->second.is_free = false;
  }
  void put_in(Place at) {
    at->second.is_free = true;
    free_of(at->second).insert({at->second.size, at->first});
  }

  bool place(std::uint64_t size, bool is_small, std::uint64_t* address) {
    auto& free = free_[is_small ? 0 : 1];
    const auto best = free.lower_bound({size, 0});
    if (best == free.end()) return false;
    const Place at = blocks_.find(best->second);
    take_out(at);
    const std::uint64_t left = at->second.size - size;
    if (is_small ? left >= 512 : left > kMiB) {
      at->second.size = size;
      put_in(blocks_.insert({at->first + size, {left, at->second.segment, true}}).first);
    }
    *address = at->first;
    return true;
  }

  bool add_segment(std::uint64_t size, bool is_small) {
    const std::uint64_t large = size < 10 * kMiB ? 20 * kMiB : align_up(size, std::uint64_t{2 * kMiB});
    const std::uint64_t bytes = is_small ? std::uint64_t{2 * kMiB} : large;
    if (reserved_ + bytes > limit_) give_back();
    if (reserved_ + bytes > limit_) return false;
    reserved_ += bytes;
    const std::uint64_t base = next_address_;
    next_address_ += bytes + kMiB;  // a gap, so that no two segments touch
    segments_.insert({base, {bytes, is_small}});
    put_in(blocks_.insert({base, {bytes, base, true}}).first);
    return true;
  }

  void give_back() {
    for (auto at = blocks_.begin(); at != blocks_.end();) {
      const auto segment = segments_.find(at->second.segment);
      if (!at->second.is_free || at->second.size != segment->second.size) {
        ++at;
        continue;
      }
      take_out(at);
      reserved_ -= segment->second.size;
      at = blocks_.erase(at);
      segments_.erase(segment);
    }
  }

  std::uint64_t limit_, reserved_ = 0, next_address_ = kMiB;
  std::map<std::uint64_t, Block> blocks_;  // by address, free or not
  std::map<std::uint64_t, Segment> segments_;
  std::set<std::pair<std::uint64_t, std::uint64_t>> free_[2];  // size and address; small, large
};

class Arena final : public Policy {
 public:
  Arena(std::uint64_t limit_bytes, Fit fit) : fit_(fit) { add(0, limit_bytes); }

  bool allocate(std::uint64_t size_bytes, std::uint64_t* address) override {
    const std::uint64_t size = align_up(size_bytes, std::uint64_t{256});
    const auto at = find(size);
    if (at == free_.end()) return false;
    const auto [start, length] = *at;
    remove(at);
    if (length > size) add(start + size, length - size);
    used_.insert({start, size});
    *address = start;
    return true;
  }

  void free(std::uint64_t address) override {
    const auto block = used_.find(address);
    if (block == used_.end()) fail_unknown();
    std::uint64_t start = block->first, size = block->second;
    used_.erase(block);
    const auto next = free_.find(start + size);
    if (next != free_.end()) {
      size += next->second;
      remove(next);
    }
    auto previous = free_.lower_bound(start);
    if (previous != free_.begin() && (--previous)->first + previous->second == start) {
      start = previous->first;
      size += previous->second;
      remove(previous);
    }
    add(start, size);
  }

 private:
  using Place = std::map<std::uint64_t, std::uint64_t>::iterator;

  Place find(std::uint64_t size) {
    if (fit_ == Fit::best) {
      const auto best = by_size_.lower_bound({size, 0});
      return best == by_size_.end() ? free_.end() : free_.find(best->second);
    }
    auto at = free_.begin();
    while (at != free_.end() && at->second < size) ++at;
    return at;
  }
  void add(std::uint64_t start, std::uint64_t size) {
    free_.insert({start, size});
    by_size_.insert({size, start});
  }
  void remove(Place at) {
    by_size_.erase({at->second, at->first});
    free_.erase(at);
  }

  Fit fit_;
  std::map<std::uint64_t, std::uint64_t> free_, used_;  // start and size
  std::set<std::pair<std::uint64_t, std::uint64_t>> by_size_;
};

}  // namespace

std::unique_ptr<Policy> simulate_segments(std::uint64_t limit_bytes) {
  return std::make_unique<Segments>(limit_bytes);
}

std::unique_ptr<Policy> simulate_arena(std::uint64_t limit_bytes, Fit fit) {
  return std::make_unique<Arena>(limit_bytes, fit);
}

}  // namespace device_bench
