// Carries out plans: begins flights, moves bytes between tiers, lands (namespace glebe::paging).
//
// A Mover belongs to one thread for the length of one call. Copies to page files gather in its batch, so that
// many extents leave with one large write; flush() writes it and lands them. It never waits for a flight of
// somebody else. Working memory (batch, codec state, two buffers of an extent) comes from the pager's pool;
// a Mover holds none while it waits for budget, so that threads cannot wait for each other in a circle.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "platform/thread.h"
#include "src/paging/buffer.h"
#include "src/paging/store.h"

namespace glebe::paging {

class BufferPager;

// A part of a copy in the batch.
struct PendingCopy {
  Extent* extent;
  Plan plan;
  Result* failure;  // where its failure is noted
  unsigned part;    // which one; with the last one the extent lands
};

// Working memory of one thread that moves bytes.
struct MoverMemory {
  Scratch scratch;
  Batch batch;
  std::byte* bounce = nullptr;  // an extent on its way between two tiers that are not host memory
  std::byte* coded = nullptr;   // an extent as its codec made it
  bool is_open = false;
  bool is_taken = false;
  PendingCopy pending[kBatchObjectsMax] = {};
};

class MoverPool {
 public:
  MoverPool() noexcept = default;
  MoverPool(const MoverPool&) = delete;
  MoverPool& operator=(const MoverPool&) = delete;

  // count <= kMoversMax; extent_bytes: the largest extent.
  [[nodiscard]] bool open(unsigned count, Codec codec, std::size_t extent_bytes) noexcept;
  void close() noexcept;
  // Waits until one is free. nullptr: no memory.
  [[nodiscard]] MoverMemory* take() noexcept;
  void give_back(MoverMemory* memory) noexcept;

  static constexpr unsigned kMoversMax = 80;

 private:
  [[nodiscard]] MoverMemory* take_free() noexcept;
  [[nodiscard]] bool prepare(MoverMemory& memory) noexcept;

  os::Mutex lock_;  // guards is_taken
  MoverMemory* all_ = nullptr;
  unsigned count_ = 0;
  std::size_t size_bytes_ = 0;
  Codec codec_ = Codec::lz4;
  std::size_t extent_bytes_ = 0;
  std::atomic<std::uint32_t> word_{0};  // changes when one was given back
  std::atomic<std::uint32_t> waiters_{0};
};

class Mover {
 public:
  explicit Mover(BufferPager& pager) noexcept : pager_(pager) {}
  ~Mover() {
    flush();
    release_memory();
  }
  Mover(const Mover&) = delete;
  Mover& operator=(const Mover&) = delete;

  // How the extent is to be held when the flight ends, if the copy got there.
  struct Pin {
    bool wanted = false, writes = false;
    Tier tier = Tier::host;
    bool is_taken = false;  // set when it was
  };

  // Does the operation on one extent. `busy` flights of others: Refusal::busy in *refusal, result ok, nothing
  // done. A copy to a file may be pending until flush(); its failure is then in first_failure().
  [[nodiscard]] Result move(Extent& extent, const Move& what, Pin* pin, Refusal* refusal) noexcept;
  // Writes what is pending. Returns the first failure since the last flush, or ok.
  Result flush() noexcept;
  // Bytes of host or device memory that came free by this mover so far.
  [[nodiscard]] std::size_t freed_bytes() const noexcept { return freed_bytes_; }
  // For operations that have more than one way out (evict): with fallback, what the compressed tier does not
  // take goes on to the file.
  void set_fallback(bool on) noexcept { has_fallback_ = on; }
  // Nothing else is going to be moved until flush(): a copy to a file need not wait for others in the batch,
  // and is written from where it lies.
  void set_alone(bool on) noexcept { is_alone_ = on; }
  // Notes the first failure of what is moved from here on in *failure, which is ok at first and outlives the
  // next flush(); that then knows nothing of it.
  void note_failures_in(Result* failure) noexcept { noted_ = failure; }

 private:
  [[nodiscard]] Result carry_out(Extent& extent, Plan& plan, bool* is_pending) noexcept;
  [[nodiscard]] Result charge_memory(Tier tier, const Extent& extent) noexcept;
  [[nodiscard]] Result to_host(Extent& extent, const Plan& plan) noexcept;
  [[nodiscard]] Result to_device(Extent& extent, const Plan& plan) noexcept;
  [[nodiscard]] Result to_store(Extent& extent, Plan& plan, bool* is_pending) noexcept;
  [[nodiscard]] Result put_compressed(Extent& extent, const std::byte* data,
                                      std::uint32_t stored_bytes) noexcept;
  [[nodiscard]] Result put_parts(Extent& extent, const std::byte* data) noexcept;
  void drop_parts(Extent& extent, Tier tier) noexcept;
  [[nodiscard]] bool add_part(Extent& extent, const std::byte* data, unsigned index) noexcept;
  [[nodiscard]] bool can_write_in_place(const Extent& extent, const Plan& plan) const noexcept;
  [[nodiscard]] Result write_in_place(Extent& extent, const Plan& plan) noexcept;
  void begin_storing(Extent& extent) noexcept;
  [[nodiscard]] Result take_file_room(Extent& extent, std::uint32_t stored_bytes) noexcept;
  [[nodiscard]] Result put_file(Extent& extent, const Plan& plan, const std::byte* data,
                                std::uint32_t stored_bytes) noexcept;
  [[nodiscard]] Result read_copy(Extent& extent, Tier from, std::byte* to) noexcept;
  [[nodiscard]] Result read_stored(Extent& extent, Tier from, std::byte* to) noexcept;
  void land_pending(const PendingCopy& copy, Handle handle) noexcept;
  void land(Extent& extent, const Plan& plan, Result result, Pin* pin) noexcept;
  void drop_copies(Extent& extent, std::uint8_t drops) noexcept;
  void discard_copy(Extent& extent, Tier tier) noexcept;
  [[nodiscard]] bool need_memory() noexcept;
  void release_memory() noexcept;

  BufferPager& pager_;
  MoverMemory* memory_ = nullptr;
  Result failure_ = Result::ok;
  Result* noted_ = &failure_;
  bool has_fallback_ = false;
  bool is_alone_ = false;
  unsigned pending_count_ = 0;
  std::size_t freed_bytes_ = 0;
};

}  // namespace glebe::paging
