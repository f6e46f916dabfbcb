// What has to be quick in BufferPager, in place: holding a buffer for the length of an operation
// (Buffer::life), and pinning what is in memory (Extent::state). A pin and its unpin are five atomic
// operations and no lock: hold, pin, count; unpin, let go.
#pragma once

#include "src/base/check.h"
#include "src/paging/buffer_pager.h"

namespace glebe::paging {

inline Buffer* BufferPager::record_of(BufferHandle handle) noexcept {
  const auto index = static_cast<std::uint32_t>(handle) - 1;
  // Handles that were given out lie below; others may name memory that is not accessible.
  if (!is_open_ || index >= known_buffers_.load(std::memory_order_acquire)) return nullptr;
  return reinterpret_cast<Buffer*>(buffers_.at(index));
}

// hold() in the common case: alive, not being resized, and nobody else changes the word at the moment.
inline bool BufferPager::try_hold(Buffer& buffer, std::uint32_t generation) noexcept {
  std::uint64_t word = buffer.life.load(std::memory_order_acquire);
  if (word >> 40 != generation || (word & kUsersBits) == 0) return false;
  if ((word & kChangingBit) != 0 || (word & kUsesMax) == kUsesMax) return false;
  return buffer.life.compare_exchange_strong(word, word + 1, std::memory_order_acq_rel);
}

// Gives up what hold() took. Whoever takes the last use of a buffer without users away ends it: the word goes
// to zero uses once only, because nobody holds a buffer without users and uses.
inline void BufferPager::let_go(Buffer& buffer) noexcept {
  const std::uint64_t before = buffer.life.fetch_sub(1, std::memory_order_acq_rel);
  CHECK((before & kUsesMax) != 0);
  if ((before & (kUsersBits | kUsesMax)) == 1) end_buffer(buffer);
}

// Lock-free: one load for the policies that count uses in the item, a note for those in the order of use.
inline void BufferPager::touch(Extent& extent, Tier tier) noexcept {
  VictimItem& item = extent.item(tier);
  use_log(tier).count_pin();
  const std::uint32_t now = epoch();
  if (item.last_use.load(std::memory_order_relaxed) != now) {
    item.last_use.store(now, std::memory_order_relaxed);
  }
  Victims& victims = victims_of(tier);
  if (victims.touch_is_free()) return victims.touch(&item);
  if (!use_log(tier).note(&item)) touch_slow(item, tier);
}

// A copy that is there: one compare-and-swap, which anything that would take the copy away, a flight or a
// resize, has to win against. From then on the pin is in the word, and plan() refuses.
inline Result BufferPager::pin_extent(Extent& extent, Access access, Tier tier, bool may_page_in) noexcept {
  const PinKind kind{tier == Tier::device, access == Access::write};
  std::uint64_t word = extent.state.load(std::memory_order_acquire);
  for (;;) {
    const std::uint64_t pinned = with_pin(word, kind);
    if (pinned == kNoWord) return pin_extent_slow(extent, access, tier, may_page_in);
    // As Extent::exchange().
    if (extent.state.compare_exchange_weak(word, pinned, std::memory_order_seq_cst)) break;
  }
  touch(extent, tier);
  return Result::ok;
}

// False: there is no such pin.
inline bool BufferPager::unpin_extent(Extent& extent, Access access, Tier tier) noexcept {
  const PinKind kind{tier == Tier::device, access == Access::write};
  std::uint64_t word = extent.state.load(std::memory_order_acquire);
  for (;;) {
    const std::uint64_t unpinned = without_pin(word, kind);
    if (unpinned == kNoWord) return false;
    if (extent.state.compare_exchange_weak(word, unpinned, std::memory_order_seq_cst)) return true;
  }
}

struct BufferPager::Use {
  Use(BufferPager& owner, BufferHandle handle) noexcept : pager(owner), buffer(owner.record_of(handle)) {
    if (buffer == nullptr) return;
    const auto generation = static_cast<std::uint32_t>(handle >> 32);
    if (!pager.try_hold(*buffer, generation) && !pager.hold(*buffer, generation)) buffer = nullptr;
  }
  ~Use() {
    if (buffer != nullptr) pager.let_go(*buffer);
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  // The hold goes on after this object; somebody calls let_go().
  Buffer* keep() noexcept {
    Buffer* const kept = buffer;
    buffer = nullptr;
    return kept;
  }

  BufferPager& pager;
  Buffer* buffer;  // nullptr: the handle names nothing
};

}  // namespace glebe::paging
