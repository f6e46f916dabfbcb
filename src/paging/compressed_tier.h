// The compressed tier: objects in RAM, as the codec wrote them (namespace glebe::paging).
//
// A handle says all: an object that repeats a word of 32 bits, or a small number of 64 bits, is in the handle
// itself and costs no memory; any other is in a slot whose place the handle names, behind a head of 8 bytes
// with its sizes and its form. Slots up to 4160 bytes lie in slabs of 32 KiB, larger ones in slabs of 256
// KiB. Nothing is searched for: reading takes no lock.
//
// Thread-safe as store.h says. One lock guards the slabs; it is held for some tens of nanoseconds, never
// during a copy, a codec or a system call other than the one that commits more slabs.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "platform/thread.h"
#include "src/paging/codec.h"
#include "src/paging/slab_arena.h"
#include "src/paging/store.h"

namespace glebe::paging {

// The two low bits of a handle tell what the others mean. 0 is kNoObject.
enum class HandleKind : std::uint8_t { none, fill, slot, file };
inline constexpr unsigned kHandleKindBits = 2;
[[nodiscard]] constexpr HandleKind handle_kind(Handle handle) noexcept {
  return static_cast<HandleKind>(handle & 3);
}

// The handle of an object that repeats `word`, or kNoObject when the word does not fit into one.
[[nodiscard]] Handle fill_handle(std::uint64_t word, std::size_t size_bytes) noexcept;
struct FillObject {
  std::uint64_t word;
  std::size_t size_bytes;
};
[[nodiscard]] FillObject fill_object(Handle handle) noexcept;

class CompressedTier {
 public:
  CompressedTier() noexcept = default;
  CompressedTier(const CompressedTier&) = delete;
  CompressedTier& operator=(const CompressedTier&) = delete;

  // False: no addresses.
  [[nodiscard]] bool open(std::size_t limit_bytes) noexcept;

  // Copies what is stored into a slot. `full`: beyond the limit, or no memory.
  [[nodiscard]] PutResult put(const Stored& stored, Handle* handle) noexcept;
  // Counts an object that is in its handle.
  void count_fill(std::size_t size_bytes) noexcept;

  // What lies in a slot; valid until the object is dropped.
  [[nodiscard]] Stored stored(Handle handle) const noexcept;

  // Of the kind slot.
  [[nodiscard]] std::size_t slot_bytes(Handle handle) const noexcept;

  // Handles of the kinds fill and slot.
  void drop(Handle handle) noexcept;
  std::size_t trim() noexcept;

  void set_limit(std::size_t bytes) noexcept { limit_.store(bytes, std::memory_order_relaxed); }
  [[nodiscard]] std::size_t limit_bytes() const noexcept { return limit_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::size_t slab_bytes() const noexcept {
    return slab_bytes_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::size_t slot_bytes() const noexcept {
    return slot_bytes_.load(std::memory_order_relaxed);
  }
  void add_to(StoreStats& stats) const noexcept;

  // In a forked child with one thread; afterwards drop() only counts.
  void seal_in_child() noexcept;

 private:
  struct Head;
  using Counter = std::atomic<std::size_t>;

  [[nodiscard]] std::uint64_t take_slot(SlabArena& arena, std::size_t size_bytes) noexcept;
  [[nodiscard]] bool add_slab(SlabArena& arena, std::uint32_t class_index) noexcept;
  [[nodiscard]] std::size_t purge_idle(SlabArena& arena, std::size_t kept) noexcept;
  [[nodiscard]] const SlabArena& arena_of(Handle handle) const noexcept;
  void count(const Head& head, std::size_t slot_bytes, bool is_added) noexcept;

  os::Mutex lock_;
  SlabArena arenas_[2];  // of small slots, of large slots
  bool is_sealed_ = false;
  Counter limit_{0}, slab_bytes_{0};
  Counter objects_{0}, object_bytes_{0}, fill_objects_{0}, compressed_bytes_{0}, slot_bytes_{0};
};

}  // namespace glebe::paging
