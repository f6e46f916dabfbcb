// Which parts of a pool's space are chunks (namespace glebe::device): finds a free place for a chunk,
// keeps the length of each, and counts their bytes against the cap. Memory and blocks are not its affair.
// Not thread-safe: the lock of the pool's growth guards it.
#pragma once

#include <cstdint>

#include "src/device/pool_source.h"
#include "src/paging/growing_memory.h"
#include "src/placement/tlsf.h"

namespace glebe::device {

class PoolChunks {
 public:
  static constexpr std::uint64_t kChunksMax = std::uint64_t{1} << 24;

  // bad_argument: more than kChunksMax chunks; no_host_memory.
  Outcome open(const PoolSpace& space, std::uint64_t max_bytes) noexcept;
  void close() noexcept;

  // A place for `size_bytes`, counted from now on. over_budget: the cap; out_of_addresses: no room between
  // the chunks; no_host_memory. A failure changes nothing.
  Outcome take(std::uint64_t size_bytes, PoolChunk* chunk) noexcept;
  void give(PoolChunk chunk) noexcept;

  // The first chunk at `offset` or behind; size_bytes 0: there is none.
  [[nodiscard]] PoolChunk next(std::uint64_t offset) const noexcept;
  // The chunk that starts at `offset`.
  [[nodiscard]] PoolChunk at(std::uint64_t offset) const noexcept {
    return {offset, lengths()[offset / space_.chunk_bytes]};
  }

  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] std::uint64_t max_bytes() const noexcept { return max_bytes_; }
  void set_max(std::uint64_t max_bytes) noexcept { max_bytes_ = max_bytes; }

 private:
  [[nodiscard]] std::uint64_t* lengths() const noexcept {
    return reinterpret_cast<std::uint64_t*>(lengths_.base());
  }
  [[nodiscard]] bool extend(std::uint32_t units) noexcept;

  PoolSpace space_;
  std::uint64_t max_bytes_ = 0, bytes_ = 0;
  std::uint32_t units_ = 0;  // that have tables; the others of the space come later
  placement::Tlsf places_;
  paging::GrowingMemory tags_, lengths_;  // by offset / chunk_bytes
};

}  // namespace glebe::device
