// What the tests of the stream pool share: a source of blocks that knows what is out, streams that stand
// still until they are told to go on, and the sums that are always right.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "src/device/stream_pool.h"
#include "tests/device_rig.h"

namespace device_test {

// Blocks of one mapped range, first fit. A free of what is not out is an error that is remembered.
class ArenaSource {
 public:
  ArenaSource(const Rig& rig, std::size_t size_bytes)
      : rig_(rig), base_(rig.memory(size_bytes)), mapped_bytes_(size_bytes), limit_bytes_(size_bytes) {}
  ~ArenaSource() {
    CHECK(blocks_.empty());
    CHECK(wrong_frees_ == 0);
    rig_.give_back(base_, mapped_bytes_);
  }

  BlockSource table() {
    BlockSource source;
    source.self = this;
    source.allocate = [](void* self, std::uint64_t size, std::uint64_t align, cuda::DevicePointer* address) {
      return static_cast<ArenaSource*>(self)->allocate(size, align, address);
    };
    source.free = [](void* self, cuda::DevicePointer address) {
      return static_cast<ArenaSource*>(self)->free(address);
    };
    source.trim = [](void* self, std::uint64_t keep_bytes) -> std::uint64_t {
      static_cast<ArenaSource*>(self)->trimmed_to_ = keep_bytes;
      return 0;
    };
    return source;
  }
  // The same, and it can tell what it has: allocate_idle gives out what was used before.
  BlockSource telling_table() {
    BlockSource source = table();
    source.allocate_idle = [](void* self, std::uint64_t size, std::uint64_t align,
                              cuda::DevicePointer* address) -> Outcome {
      auto& owner = *static_cast<ArenaSource*>(self);
      ++owner.idle_calls_;
      if (owner.used_bytes() + size > owner.peak_bytes_) return Status::out_of_memory;
      return owner.allocate(size, align, address);
    };
    return source;
  }

  // From now on what is taken at the same time is bounded.
  void set_limit(std::size_t limit_bytes) { limit_bytes_ = limit_bytes; }
  // The next `count` calls fail, a free with the driver's error.
  void refuse_frees(unsigned count) { refused_frees_ = count; }
  // Called with each address before it is free.
  void on_free(void (*function)(void* user, cuda::DevicePointer address), void* user) {
    on_free_ = function;
    user_ = user;
  }

  cuda::DevicePointer base() const { return base_; }
  std::size_t blocks() const {
    const std::lock_guard lock(mutex_);
    return blocks_.size();
  }
  std::uint64_t used_bytes() const {
    const std::lock_guard lock(mutex_);
    return used_bytes_;
  }
  std::uint64_t peak_bytes() const { return peak_bytes_; }
  std::uint64_t trimmed_to() const { return trimmed_to_; }
  unsigned idle_calls() const { return idle_calls_; }

 private:
  Outcome allocate(std::uint64_t size, std::uint64_t align, cuda::DevicePointer* address) {
    const std::lock_guard lock(mutex_);
    if (used_bytes_ + size > limit_bytes_) return Status::out_of_memory;
    std::uint64_t at = glebe::align_up(base_, align);
    for (const auto& [begin, bytes] : blocks_) {
      if (begin >= at + size) break;
      at = glebe::align_up(begin + bytes, align);
    }
    if (at + size > base_ + mapped_bytes_) return {Status::out_of_memory, cuda::Result::out_of_memory};
    blocks_[at] = size;
    used_bytes_ += size;
    peak_bytes_ = std::max(peak_bytes_, used_bytes_);
    *address = at;
    return {};
  }
  Outcome free(cuda::DevicePointer address) {
    if (on_free_ != nullptr) on_free_(user_, address);
    const std::lock_guard lock(mutex_);
    if (refused_frees_ > 0) {
      --refused_frees_;
      return {Status::failed, cuda::Result::unknown};
    }
    const auto found = blocks_.find(address);
    if (found == blocks_.end()) {
      ++wrong_frees_;
      return Status::not_owned;
    }
    used_bytes_ -= found->second;
    blocks_.erase(found);
    return {};
  }

  const Rig& rig_;
  cuda::DevicePointer base_;
  std::size_t mapped_bytes_, limit_bytes_;
  mutable std::mutex mutex_;
  std::map<std::uint64_t, std::uint64_t> blocks_;
  std::uint64_t used_bytes_ = 0, peak_bytes_ = 0, trimmed_to_ = UINT64_MAX;
  unsigned refused_frees_ = 0, wrong_frees_ = 0, idle_calls_ = 0;
  void (*on_free_)(void*, cuda::DevicePointer) = nullptr;
  void* user_ = nullptr;
};

inline StreamPoolOptions over(ArenaSource& arena, bool use_timeline = false) {
  StreamPoolOptions options;
  options.source = arena.table();
  options.use_timeline = use_timeline;
  options.streams_max = 64;
  options.blocks_max = 1u << 16;
  return options;
}

inline StreamRef ref_of(StreamPool& pool, cuda::Stream stream) {
  StreamRef ref;
  REQUIRE(pool.find_stream(stream, &ref).ok());
  return ref;
}
inline cuda::DevicePointer get(StreamPool& pool, StreamRef ref, std::uint64_t size_bytes) {
  cuda::DevicePointer address = 0;
  REQUIRE(pool.allocate(size_bytes, 0, ref, &address).ok());
  return address;
}
inline std::uint64_t origin(StreamPool& pool, BlockOrigin which) {
  return pool.stats().origins[static_cast<unsigned>(which)];
}

// What is true at any moment in which no call is under way.
inline bool is_balanced(StreamPool& pool) {
  const StreamPoolStats stats = pool.stats();
  std::uint64_t successes = 0;
  for (const std::uint64_t count : stats.origins) successes += count;
  return stats.requests == successes + stats.failures && successes - stats.frees == stats.live_blocks &&
         stats.live_blocks + stats.idle_blocks == stats.held_blocks &&
         stats.live_bytes + stats.idle_bytes == stats.held_bytes && stats.wanted_bytes <= stats.live_bytes &&
         stats.peak_held_bytes >= stats.held_bytes;
}

}  // namespace device_test
