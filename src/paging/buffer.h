// The records of explicit buffers: a buffer is a range of host addresses cut into extents, and each extent
// has a residency word of its own (namespace glebe::paging). Who may change what is said at each field; the
// functions are those of BufferPager (buffer_pager.h).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "src/base/list.h"
#include "src/paging/budget.h"
#include "src/paging/device_memory.h"
#include "src/paging/parts.h"
#include "src/paging/policy.h"
#include "src/paging/residency_word.h"
#include "src/paging/store.h"

namespace glebe::paging {

// What a call answers. The numbers are part of the C interface (glebe_result in include/glebe/paging.h).
enum class Result : std::uint8_t {
  ok,
  bad_handle,      // no such buffer or ticket, or not any more
  bad_argument,    // a size, range, tier, name or option that makes no sense
  not_resident,    // the content is elsewhere and implicit page-in is off
  pinned,          // the operation would take a copy that is pinned
  last_copy,       // the only valid copy is dropped by discard alone
  over_budget,     // the budget of the tier refuses, and nothing more can be moved out
  no_memory,       // the system or the tables of the pager have no room
  no_tier,         // the pager has no such tier
  tier_full,       // the compressed tier or the page files take no more
  incompressible,  // the compressed tier does not keep what does not shrink
  io_error,        // the page file cannot be read now; the content is still there
  corrupt,         // what was read is not what was written; the content is lost
  device_error,    // the device refused memory or a transfer
  codec_error,     // the codec of the buffer refused the content
  wrong_type,      // the buffer holds another type than was asked for
  too_many_pins,   // of one extent
  cancelled,       // the ticket was cancelled before its operation began
  busy,            // it has begun already, or others keep the extent in flight
  in_child,        // a forked child: the pager can only be closed
};
inline constexpr unsigned kResults = 20;

// What happened, why, and what to do about it. Static text, one sentence without a full stop.
[[nodiscard]] const char* text_of(Result result) noexcept;

enum class Usage : std::uint8_t {
  static_use,   // written seldom
  dynamic_use,  // rewritten often: leaves only under severe pressure
  streaming,    // used once: leaves first
  fixed,        // leaves only when asked to by name
};

// Turns the content of an extent into fewer bytes and back, for content that the general codecs do not know.
// Called by any thread, on one extent at a time; must not call the pager.
struct BufferCodec {
  // Writes at most `capacity` bytes to `to`, returns how many; 0: refused, the extent stays where it is.
  std::size_t (*encode)(void* context, const void* from, std::size_t size_bytes, void* to,
                        std::size_t capacity);
  // Writes exactly `capacity` bytes. 0: this is not what encode() made. (int: C has this table, too.)
  int (*decode)(void* context, const void* from, std::size_t size_bytes, void* to, std::size_t capacity);
  void* context;
};

struct Buffer;

// The places of an extent in the policies of the two memory tiers.
struct HostItem : VictimItem {};
struct DeviceItem : VictimItem {};

struct Extent : HostItem, DeviceItem {  // both guarded by the lock of the victims
  std::atomic<std::uint64_t> state;     // a Residency, packed
  // These change only by whoever has the extent in flight.
  Handle compressed, file;                     // see parts.h, while that tier is valid
  std::uint32_t compressed_bytes, file_bytes;  // as stored; other than size_bytes with a codec
  DeviceAddress device;
  // Constant while the buffer lives, except that resize() changes them when nobody else uses it.
  Buffer* buffer;
  std::byte* address;
  std::uint32_t size_bytes;    // the last one of a buffer may be shorter than the others
  std::uint32_t memory_bytes;  // size_bytes in whole os pages: what the budgets count

  [[nodiscard]] VictimItem& item(Tier tier) noexcept {
    return tier == Tier::host ? static_cast<VictimItem&>(static_cast<HostItem&>(*this))
                              : static_cast<VictimItem&>(static_cast<DeviceItem&>(*this));
  }
  [[nodiscard]] const VictimItem& item(Tier tier) const noexcept {
    return const_cast<Extent*>(this)->item(tier);
  }
  [[nodiscard]] static Extent& of(VictimItem* item, Tier tier) noexcept {
    return tier == Tier::host ? static_cast<Extent&>(static_cast<HostItem&>(*item))
                              : static_cast<Extent&>(static_cast<DeviceItem&>(*item));
  }

  [[nodiscard]] Residency load() const noexcept { return unpack(state.load(std::memory_order_acquire)); }
  // Acquire and release: whoever sees the new state sees the bytes and handles it stands for.
  [[nodiscard]] bool exchange(Residency from, const Residency& to) noexcept {
    std::uint64_t expected = pack(from);
    return state.compare_exchange_strong(expected, pack(to), std::memory_order_seq_cst);
  }
};

inline constexpr std::size_t kBufferNameMax = 63;

// References of users (create, open, find) and of operations and pins in progress, with the generation in one
// word, so that a stale handle never gets hold of a new buffer in the same record.
struct Life {
  std::uint32_t generation = 0;
  std::uint16_t users = 0;   // 0: closed; what is in progress goes on
  bool is_changing = false;  // its only use is a resize: others wait before they begin
  std::uint32_t uses = 0;    // 23 bits
};
inline constexpr std::uint32_t kGenerations = 1u << 24;
inline constexpr unsigned kUsersMax = 0xffff;
inline constexpr std::uint32_t kUsesMax = (1u << 23) - 1;
inline constexpr std::uint64_t kChangingBit = std::uint64_t{1} << 23;
inline constexpr std::uint64_t kUsersBits = std::uint64_t{kUsersMax} << 24;
[[nodiscard]] constexpr std::uint64_t pack_life(const Life& life) noexcept {
  return std::uint64_t{life.generation} << 40 | std::uint64_t{life.users} << 24 |
         (life.is_changing ? kChangingBit : 0) | life.uses;
}
[[nodiscard]] constexpr Life unpack_life(std::uint64_t word) noexcept {
  return {static_cast<std::uint32_t>(word >> 40), static_cast<std::uint16_t>(word >> 24 & 0xffff),
          (word & kChangingBit) != 0, static_cast<std::uint32_t>(word & kUsesMax)};
}

struct BufferTag;

struct Buffer : ListNode<BufferTag> {  // in the list of all buffers
  std::atomic<std::uint64_t> life;
  // Constant while the buffer lives, except that resize() changes them when nobody else uses it.
  std::byte* address;
  std::size_t size_bytes;
  Extent* extents;
  std::uint32_t extent_count;
  std::uint32_t page_run, extent_run;  // where they are in their spaces
  // Constant while the buffer lives.
  Usage usage;
  BudgetTag tags[kTiers];  // of the same name in the budget of each tier
  std::uint64_t type_id;
  BufferCodec codec;
  bool has_codec;
  // Guarded by the lock of the names.
  char name[kBufferNameMax + 1];
  std::uint64_t name_hash;
  Buffer* name_next;
  bool is_named;
};

}  // namespace glebe::paging
