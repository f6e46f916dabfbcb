// Pins and moves of ranges, and waiting for flights of others; see buffer_pager.h.
//
// A pin of an extent whose copy is valid is one compare-and-swap. Otherwise the extent is brought in first;
// the pin is taken in the step that makes the copy valid, so that nobody evicts it in between.
#include <cstring>

#include "platform/service.h"
#include "platform/vm.h"
#include "src/base/check.h"
#include "src/paging/buffer_use.h"

namespace glebe::paging {
namespace {

constexpr std::uint64_t kWaitNs = 50'000'000;             // looks again at the latest after this time
constexpr unsigned kTriesMax = 100'000;                   // of one extent that others keep taking away
constexpr std::size_t kSharedBytesMax = kBatchBytes / 8;  // of an asynchronous move that leaves with others

enum class Try : std::uint8_t { taken, absent, wait, full };

// Pins a copy that is there. A writer may come while the copy is on its way to the disk: then that flight is
// spoiled and what it stores is thrown away.
Try try_pin(Extent& extent, Access access, Tier tier) noexcept {
  for (;;) {
    const Residency state = extent.load();
    if (!state.has(tier)) return state.flight == Flight::none ? Try::absent : Try::wait;
    Residency after = state;
    std::uint16_t& readers = tier == Tier::host ? after.host_readers : after.device_readers;
    std::uint16_t& writers = tier == Tier::host ? after.host_writers : after.device_writers;
    if (access == Access::read) {
      if (readers == kReadersMax) return Try::full;
      ++readers;
    } else {
      if (writers == kWritersMax) return Try::full;
      const bool is_only = state.valid == bit_of(tier);
      const bool may_come = state.flight != Flight::copy && state.flight != Flight::drop;
      if (!is_only || !may_come) return state.flight == Flight::none ? Try::absent : Try::wait;
      if (state.flight == Flight::storing) after.flight = Flight::spoiled;
      after.dirty = tier == Tier::host ? Owner::host : Owner::device;
      ++writers;
    }
    if (extent.exchange(state, after)) return Try::taken;
  }
}

}  // namespace

void BufferPager::touch_slow(VictimItem& item, Tier tier) noexcept {
  const os::Lock hold(victims_lock_);
  use_log(tier).drain(victims_of(tier));
  victims_of(tier).touch(&item);
}

Result BufferPager::pin_extent_slow(Extent& extent, Access access, Tier tier, bool may_page_in) noexcept {
  const Operation operation = access == Access::read ? Operation::read : Operation::write;
  for (unsigned tries = 0; tries < kTriesMax; ++tries) {
    switch (try_pin(extent, access, tier)) {
      case Try::taken:
        touch(extent, tier);
        return Result::ok;
      case Try::full:
        return Result::too_many_pins;
      case Try::wait:
        wait_flight(extent);
        continue;
      case Try::absent:
        break;
    }
    const Residency state = extent.load();
    const bool is_out = !state.has(tier) && state.valid != 0;
    if (is_out && !may_page_in) return Result::not_resident;
    Mover::Pin pin;
    pin.wanted = true;
    pin.writes = access == Access::write;
    pin.tier = tier;
    Refusal refusal = Refusal::none;
    const Result result = Mover(*this).move(extent, {operation, tier}, &pin, &refusal);
    if (result != Result::ok) return result;
    if (is_out && refusal == Refusal::none) count(kImplicitPageIns);
    if (!pin.is_taken) continue;
    use_log(tier).count_pin();
    extent.item(tier).last_use.store(epoch(), std::memory_order_relaxed);
    return Result::ok;
  }
  return Result::busy;
}

bool BufferPager::covers(const Buffer& buffer, const ByteRange& range, std::uint32_t* first,
                         std::uint32_t* last) const noexcept {
  if (range.offset_bytes >= buffer.size_bytes) return false;
  const std::size_t room = buffer.size_bytes - range.offset_bytes;
  const std::size_t size_bytes = range.size_bytes != 0 ? range.size_bytes : room;
  if (size_bytes > room) return false;
  *first = static_cast<std::uint32_t>(range.offset_bytes >> extent_shift_);
  *last = static_cast<std::uint32_t>((range.offset_bytes + size_bytes - 1) >> extent_shift_);
  return true;
}

Result BufferPager::pin_range(Buffer& buffer, const ByteRange& range, Access access, Tier tier) noexcept {
  std::uint32_t first = 0, last = 0;
  if (!covers(buffer, range, &first, &last)) return Result::bad_argument;
  for (std::uint32_t i = first; i <= last; ++i) {
    const Result result = pin_extent(buffer.extents[i], access, tier, options_.implicit_page_in);
    if (result == Result::ok) continue;
    while (i-- > first) CHECK(unpin_extent(buffer.extents[i], access, tier));
    return result;
  }
  return Result::ok;
}

PinnedRange BufferPager::pin(BufferHandle handle, const ByteRange& range, Access access) noexcept {
  if (is_in_child()) return {nullptr, Result::in_child};
  Use use(*this, handle);
  if (use.buffer == nullptr) return {nullptr, Result::bad_handle};
  const Result result = pin_range(*use.buffer, range, access, Tier::host);
  if (result != Result::ok) return {nullptr, result};
  return {use.keep()->address + range.offset_bytes, Result::ok};
}

Result BufferPager::pin_device(BufferHandle handle, const ByteRange& range, Access access) noexcept {
  if (is_in_child()) return Result::in_child;
  if (!has_tier(Tier::device)) return Result::no_tier;
  Use use(*this, handle);
  if (use.buffer == nullptr) return Result::bad_handle;
  const Result result = pin_range(*use.buffer, range, access, Tier::device);
  if (result == Result::ok) use.keep();
  return result;
}

// The pin holds the buffer, so that it may have been closed meanwhile. What was not pinned is refused as a
// whole; that the right one of several pins is given back is for the caller to see to.
Result BufferPager::unpin_any(BufferHandle handle, const ByteRange& range, Access access,
                              Tier tier) noexcept {
  if (is_in_child()) return Result::in_child;
  Buffer* const buffer = record_of(handle);
  if (buffer == nullptr) return Result::bad_handle;
  const Life life = unpack_life(buffer->life.load(std::memory_order_acquire));
  if (life.generation != static_cast<std::uint32_t>(handle >> 32)) return Result::bad_handle;
  if (life.uses == 0) return life.users == 0 ? Result::bad_handle : Result::bad_argument;
  if (life.is_changing) return Result::bad_argument;  // nothing is pinned
  std::uint32_t first = 0, last = 0;
  if (!covers(*buffer, range, &first, &last)) return Result::bad_argument;
  const PinKind kind{tier == Tier::device, access == Access::write};
  for (std::uint32_t i = first; i < last; ++i) {  // the last one, often the only one, is checked as it goes
    const std::uint64_t word = buffer->extents[i].state.load(std::memory_order_relaxed);
    if (without_pin(word, kind) == kNoWord) return Result::bad_argument;
  }
  for (std::uint32_t i = last + 1; i-- > first;) {
    if (!unpin_extent(buffer->extents[i], access, tier)) return Result::bad_argument;
  }
  let_go(*buffer);
  return Result::ok;
}

Result BufferPager::unpin(BufferHandle handle, const ByteRange& range, Access access) noexcept {
  return unpin_any(handle, range, access, Tier::host);
}

Result BufferPager::unpin_device(BufferHandle handle, const ByteRange& range, Access access) noexcept {
  return unpin_any(handle, range, access, Tier::device);
}

Result BufferPager::device_address(BufferHandle handle, std::size_t offset_bytes,
                                   DeviceAddress* address) noexcept {
  if (is_in_child()) return Result::in_child;
  const Use use(*this, handle);
  if (use.buffer == nullptr) return Result::bad_handle;
  if (offset_bytes >= use.buffer->size_bytes) return Result::bad_argument;
  const Extent& extent = use.buffer->extents[offset_bytes >> extent_shift_];
  if (!extent.load().is_pinned(Tier::device)) return Result::not_resident;
  *address = extent.device + (offset_bytes & (options_.extent_bytes - 1));
  return Result::ok;
}

Result BufferPager::move_range(Buffer& buffer, const ByteRange& range, const Move& what) noexcept {
  Mover mover(*this);
  const std::size_t extent_bytes = options_.extent_bytes;
  const std::size_t begin = range.offset_bytes & (extent_bytes - 1);
  const std::size_t size_bytes = range.size_bytes != 0 ? range.size_bytes : buffer.size_bytes;
  mover.set_alone(size_bytes <= extent_bytes && begin + size_bytes <= extent_bytes);
  const Result failure = move_with(mover, buffer, range, what);
  const Result flushed = mover.flush();
  return failure == Result::ok ? flushed : failure;
}

// The same; copies to files may be pending in the mover.
Result BufferPager::move_with(Mover& mover, Buffer& buffer, const ByteRange& range,
                              const Move& what) noexcept {
  std::uint32_t first = 0, last = 0;
  if (!covers(buffer, range, &first, &last)) return Result::bad_argument;
  return move_extents(mover, {&buffer.extents[first], last - first + 1}, what);
}

// What a request moves when it is small and bound for a file without a detour that may take long: a codec of
// the program, the compressor. Otherwise 0.
std::size_t BufferPager::shared_bytes(const Request& request) const noexcept {
  const Buffer& buffer = *request.buffer;
  std::uint32_t first = 0, last = 0;
  const ByteRange range{request.offset_bytes, request.size_bytes};
  if (buffer.has_codec || !covers(buffer, range, &first, &last)) return 0;
  const std::size_t whole = (std::size_t{last - first} + 1) << extent_shift_;
  const std::size_t bytes = whole < buffer.size_bytes ? whole : buffer.size_bytes;
  const Move& what = request.what;
  const bool is_copied = what.operation == Operation::page_to || what.operation == Operation::swap_to;
  const bool is_evicted = what.operation == Operation::evict && what.tier == Tier::host;
  const bool is_to_file =
      is_copied ? what.tier == Tier::file : is_evicted && spill_tier(Tier::host) == Tier::file;
  return is_to_file && bytes <= kSharedBytesMax ? bytes : 0;
}

// The first failure; copies to files may be pending in the mover.
Result BufferPager::move_extents(Mover& mover, std::span<Extent> extents, const Move& what) noexcept {
  Result failure = Result::ok;
  // Eviction may take either way out; a copy that was asked for by name may not.
  mover.set_fallback(what.operation == Operation::evict);
  for (Extent& extent : extents) {
    const Result result = move_extent(mover, extent, what, &failure);
    if (failure == Result::ok) failure = result;
  }
  return failure;
}

// Waits for flights of others. What is pending may have to be written meanwhile; its first failure goes to
// *earlier when that is ok.
Result BufferPager::move_extent(Mover& mover, Extent& extent, const Move& what, Result* earlier) noexcept {
  for (unsigned tries = 0;; ++tries) {
    Refusal refusal = Refusal::none;
    const Result result = mover.move(extent, what, nullptr, &refusal);
    if (refusal != Refusal::busy) return result;
    if (tries == kTriesMax) return Result::busy;
    // It may be our own batch that the extent waits for, when a range is asked for twice.
    const Result flushed = mover.flush();
    if (*earlier == Result::ok) *earlier = flushed;
    wait_flight(extent);
  }
}

Result BufferPager::move_many(std::span<const BufferHandle> handles, Operation operation,
                              Tier tier) noexcept {
  if (is_in_child()) return Result::in_child;
  if (static_cast<unsigned>(operation) >= kOperations || static_cast<unsigned>(tier) >= kTiers) {
    return Result::bad_argument;
  }
  if (!has_tier(tier)) return Result::no_tier;
  Result failure = Result::ok;
  const auto note = [&failure](Result result) noexcept {
    if (failure == Result::ok) failure = result;
  };
  Mover mover(*this);
  Buffer* held[kBatchObjectsMax];  // until their copies are written
  while (!handles.empty()) {
    const std::size_t count = handles.size() < kBatchObjectsMax ? handles.size() : kBatchObjectsMax;
    std::size_t held_count = 0;
    for (const BufferHandle handle : handles.first(count)) {
      Use use(*this, handle);
      Buffer* const buffer = use.keep();
      note(buffer == nullptr
               ? Result::bad_handle
               : move_extents(mover, {buffer->extents, buffer->extent_count}, {operation, tier}));
      if (buffer != nullptr) held[held_count++] = buffer;
    }
    note(mover.flush());
    while (held_count != 0) let_go(*held[--held_count]);
    handles = handles.subspan(count);
  }
  return failure;
}

Result BufferPager::move(BufferHandle handle, const ByteRange& range, Operation operation,
                         Tier tier) noexcept {
  if (is_in_child()) return Result::in_child;
  if (static_cast<unsigned>(operation) >= kOperations || static_cast<unsigned>(tier) >= kTiers) {
    return Result::bad_argument;
  }
  const Use use(*this, handle);
  if (use.buffer == nullptr) return Result::bad_handle;
  if (!has_tier(tier)) return Result::no_tier;
  return move_range(*use.buffer, range, {operation, tier});
}

Result BufferPager::move_async(BufferHandle handle, const ByteRange& range, const AsyncMove& what,
                               Ticket* ticket) noexcept {
  if (is_in_child()) return Result::in_child;
  if (static_cast<unsigned>(what.operation) >= kOperations || static_cast<unsigned>(what.tier) >= kTiers) {
    return Result::bad_argument;
  }
  Use use(*this, handle);
  std::uint32_t first = 0, last = 0;
  if (use.buffer == nullptr) return Result::bad_handle;
  if (!covers(*use.buffer, range, &first, &last)) return Result::bad_argument;
  if (!has_tier(what.tier)) return Result::no_tier;
  Request request = {};
  request.offset_bytes = range.offset_bytes;
  request.size_bytes = range.size_bytes != 0 ? range.size_bytes : use.buffer->size_bytes - range.offset_bytes;
  request.buffer = use.keep();
  request.what = what;
  request.completion = what.completion;
  return requests_.submit(request, ticket);
}

Result BufferPager::prefetch(BufferHandle handle, const ByteRange& range) noexcept {
  if (is_in_child()) return Result::in_child;
  Use use(*this, handle);
  std::uint32_t first = 0, last = 0;
  if (use.buffer == nullptr) return Result::bad_handle;
  if (!covers(*use.buffer, range, &first, &last)) return Result::bad_argument;
  Request request = {};
  request.is_prefetch = true;
  request.buffer = use.keep();
  request.offset_bytes = range.offset_bytes;
  request.size_bytes = range.size_bytes;
  request.what = {Operation::page_to, Tier::host};
  count(kPrefetches);
  return requests_.submit(request, nullptr);
}

// --- Waiting

void BufferPager::wait_flight(Extent& extent) noexcept {
  ParkingLot& lot = lots_[(reinterpret_cast<std::uintptr_t>(&extent) / sizeof(Extent)) % kParkingLots];
  // Sequentially consistent with the exchange of the state and the load in wake_flight(): either the flight's
  // end is seen here, or the waiter is seen there.
  lot.waiters.fetch_add(1, std::memory_order_seq_cst);
  const std::uint32_t seen = lot.sequence.load(std::memory_order_seq_cst);
  if (extent.load().flight != Flight::none) {
    count(kWaits);
    os::wait_on(lot.sequence, seen, kWaitNs);
  }
  lot.waiters.fetch_sub(1, std::memory_order_relaxed);
}

void BufferPager::wake_flight(Extent& extent) noexcept {
  ParkingLot& lot = lots_[(reinterpret_cast<std::uintptr_t>(&extent) / sizeof(Extent)) % kParkingLots];
  if (lot.waiters.load(std::memory_order_seq_cst) == 0) return;
  lot.sequence.fetch_add(1, std::memory_order_seq_cst);
  os::wake_all(lot.sequence);
}

// The memory goes back to the system and reads as zero.
void BufferPager::forget_memory(std::byte* address, std::size_t size_bytes) noexcept {
  if (os::purge(address, size_bytes)) return;
  std::memset(address, 0, size_bytes);  // locked memory, for example
  count(kFailedPurges);
}

void BufferPager::announce_release() noexcept {
  if (released_.waiters.load(std::memory_order_seq_cst) == 0) return;
  released_.sequence.fetch_add(1, std::memory_order_seq_cst);
  os::wake_all(released_.sequence);
}

}  // namespace glebe::paging
