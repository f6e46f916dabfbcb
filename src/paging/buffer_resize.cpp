// Changing the size of a buffer; see buffer_pager.h.
//
// What lies in the compressed tier, on the device or in a file stays there: only the records of extents
// change. One extent is different, the seam, where the smaller of the two sizes ends in the middle: it gets
// another size, so it is brought to the host first and held there. After that nobody else may be inside the
// buffer: the buffer is marked as changing when its only use is ours, and whoever comes later waits until it
// is not. Nothing waits for I/O in that time, except for dropping what is cut off.
//
//   bring the seam, charge what it grows   may fail; everything is as before
//   wait until nobody uses the buffer      may end: pinned, busy
//   take room for records and addresses    may fail: no_memory
//   cut off, move, grow                    cannot fail
#include <cstring>

#include "platform/service.h"
#include "platform/vm.h"
#include "src/base/bits.h"
#include "src/base/check.h"
#include "src/paging/buffer_use.h"

namespace glebe::paging {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::uint64_t kFirstSleepNs = 50'000, kLastSleepNs = 10'000'000;
constexpr unsigned kSleeps = 200;  // about two seconds in all
constexpr std::uint64_t kChangedWaitNs = 20'000'000;

// Whether somebody has a pin; of the extent `ours` one is ours.
bool is_pinned(const Buffer& buffer, const Extent* ours) noexcept {
  for (std::uint32_t i = 0; i < buffer.extent_count; ++i) {
    const Residency state = buffer.extents[i].load();
    const unsigned pins =
        unsigned{state.host_readers} + state.host_writers + state.device_readers + state.device_writers;
    if (pins > (&buffer.extents[i] == ours ? 1u : 0u)) return true;
  }
  return false;
}

// What the policies know of an extent, whose record lies somewhere else now: in no queue yet.
void copy_item(const VictimItem& from, VictimItem& to) noexcept {
  to.birth = from.birth;
  to.size_bytes = from.size_bytes;
  to.queue = VictimItem::kNone;
  to.is_streaming = from.is_streaming;
  to.last_use.store(from.last_use.load(kRelaxed), kRelaxed);
  to.references.store(0, kRelaxed);
}

}  // namespace

struct BufferPager::Resizing {
  Buffer& buffer;
  const std::size_t old_bytes, new_bytes;
  std::uint32_t new_count, new_pages;
  // The extent that changes its size; null when both ends lie between two extents.
  Extent* seam = nullptr;
  std::uint32_t seam_bytes = 0;       // that it will have
  std::uint64_t charged = 0;          // for what it grows
  bool is_held = false;               // pinned for writing by us
  placement::Run pages{}, extents{};  // new places; the status is exhausted: they stay where they are
};

// Keeps others out when the only use is ours.
bool BufferPager::try_change(Buffer& buffer) noexcept {
  std::uint64_t word = buffer.life.load(std::memory_order_acquire);
  Life life;
  do {
    life = unpack_life(word);
    if (life.uses != 1 || life.is_changing) return false;
    life.is_changing = true;
  } while (!buffer.life.compare_exchange_weak(word, pack_life(life), std::memory_order_acq_rel));
  return true;
}

// Waits until nobody but us uses the buffer and keeps others out. `ours`: an extent that we hold one pin of.
Result BufferPager::begin_change(Buffer& buffer, const Extent* ours) noexcept {
  std::uint64_t sleep_ns = kFirstSleepNs;
  for (unsigned sleeps = 0; !try_change(buffer); ++sleeps) {
    if (is_pinned(buffer, ours)) return Result::pinned;
    if (sleeps == kSleeps) return Result::busy;
    os::sleep_ns(sleep_ns);
    sleep_ns = sleep_ns * 2 < kLastSleepNs ? sleep_ns * 2 : kLastSleepNs;
  }
  return Result::ok;
}

void BufferPager::end_change(Buffer& buffer) noexcept {
  std::uint64_t word = buffer.life.load(std::memory_order_acquire);
  Life life;
  do {
    life = unpack_life(word);
    life.is_changing = false;
  } while (!buffer.life.compare_exchange_weak(word, pack_life(life), std::memory_order_seq_cst));
  if (changed_.waiters.load(std::memory_order_seq_cst) == 0) return;
  changed_.sequence.fetch_add(1, std::memory_order_seq_cst);
  os::wake_all(changed_.sequence);
}

// As wait_flight().
void BufferPager::wait_changed(Buffer& buffer) noexcept {
  changed_.waiters.fetch_add(1, std::memory_order_seq_cst);
  const std::uint32_t seen = changed_.sequence.load(std::memory_order_seq_cst);
  if (unpack_life(buffer.life.load(std::memory_order_seq_cst)).is_changing) {
    os::wait_on(changed_.sequence, seen, kChangedWaitNs);
  }
  changed_.waiters.fetch_sub(1, kRelaxed);
}

// Brings the seam to the host, unless it has no content, and charges what it will need in addition.
Result BufferPager::pin_seam(Resizing& work) noexcept {
  if (work.seam == nullptr || work.seam->load().valid == 0) return Result::ok;
  const Result result = pin_extent(*work.seam, Access::write, Tier::host, true);
  if (result != Result::ok) return result;
  work.is_held = true;
  const std::uint64_t wanted = align_up(work.seam_bytes, os::page_bytes());
  if (wanted <= work.seam->memory_bytes) return Result::ok;
  const std::uint64_t more = wanted - work.seam->memory_bytes;
  const Result charged = charge(Tier::host, work.buffer, more);
  if (charged == Result::ok) work.charged = more;
  return charged;
}

// Records and addresses for the new size: where they are when possible, else somewhere else.
Result BufferPager::take_room(Resizing& work) noexcept {
  Buffer& buffer = work.buffer;
  work.pages.status = work.extents.status = placement::Status::exhausted;
  if (work.new_bytes <= work.old_bytes) return Result::ok;
  const std::uint32_t old_pages = static_cast<std::uint32_t>(divide_up(work.old_bytes, os::page_bytes()));
  const bool pages_stay = pages_.resize(buffer.page_run, work.new_pages);
  if (!pages_stay) {
    work.pages = pages_.take(work.new_pages);
    if (work.pages.empty()) return Result::no_memory;
  }
  if (extents_.resize(buffer.extent_run, work.new_count)) return Result::ok;
  work.extents = extents_.take(work.new_count);
  if (!work.extents.empty()) return Result::ok;
  if (!pages_stay) {
    CHECK(pages_.give_back(work.pages.first));
  } else {
    CHECK(pages_.resize(buffer.page_run, old_pages));
  }
  return Result::no_memory;
}

// Drops the extents behind the new end.
void BufferPager::cut_off(Resizing& work) noexcept {
  Buffer& buffer = work.buffer;
  std::uint64_t bytes = 0;
  Mover mover(*this);
  for (std::uint32_t i = work.new_count; i < buffer.extent_count; ++i) {
    Extent& extent = buffer.extents[i];
    Refusal refusal = Refusal::none;
    const Result result = mover.move(extent, {Operation::discard, Tier::host}, nullptr, &refusal);
    CHECK(result == Result::ok && refusal == Refusal::none);
    dequeue_victim(extent);
    bytes += extent.size_bytes;
  }
  unbacked_bytes_.fetch_sub(bytes, kRelaxed);
  total_bytes_.fetch_sub(bytes, kRelaxed);
  extent_total_.fetch_sub(buffer.extent_count - work.new_count, kRelaxed);
  buffer.extent_count = work.new_count;
}

// Records that have to lie somewhere else; the seam goes along.
void BufferPager::move_records(Resizing& work) noexcept {
  Buffer& buffer = work.buffer;
  Extent* const from = buffer.extents;
  Extent* const to = reinterpret_cast<Extent*>(extents_.at(work.extents.first));
  for (std::uint32_t i = 0; i < buffer.extent_count; ++i) {
    dequeue_victim(from[i]);
    to[i].state.store(from[i].state.load(kRelaxed), kRelaxed);
    to[i].compressed = from[i].compressed;
    to[i].file = from[i].file;
    to[i].compressed_bytes = from[i].compressed_bytes;
    to[i].file_bytes = from[i].file_bytes;
    to[i].device = from[i].device;
    to[i].buffer = &buffer;
    to[i].address = from[i].address;
    to[i].size_bytes = from[i].size_bytes;
    to[i].memory_bytes = from[i].memory_bytes;
    {
      const os::Lock hold(victims_lock_);  // as in set_extents()
      copy_item(from[i].item(Tier::host), to[i].item(Tier::host));
      copy_item(from[i].item(Tier::device), to[i].item(Tier::device));
    }
    from[i].compressed = from[i].file = kNoObject;
    from[i].device = kNoDeviceAddress;
    Residency left;
    left.generation = unpack(from[i].state.load(kRelaxed)).generation;
    from[i].state.store(pack(left), kRelaxed);
    queue_victim(to[i]);
  }
  if (work.seam != nullptr) work.seam = to + (work.seam - from);
  CHECK(extents_.give_back(buffer.extent_run));
  buffer.extents = to;
  buffer.extent_run = work.extents.first;
}

// Contents in the host go to the new addresses, an extent at a time, so that no more than one is there twice.
void BufferPager::move_memory(Resizing& work) noexcept {
  Buffer& buffer = work.buffer;
  std::byte* const to = pages_.at(work.pages.first);
  for (std::uint32_t i = 0; i < buffer.extent_count; ++i) {
    Extent& extent = buffer.extents[i];
    std::byte* const address = to + (extent.address - buffer.address);
    if (extent.load().has(Tier::host)) {
      std::memcpy(address, extent.address, extent.size_bytes);
      forget_memory(extent.address, extent.memory_bytes);
    }
    extent.address = address;
  }
  CHECK(pages_.give_back(buffer.page_run));
  buffer.address = to;
  buffer.page_run = work.pages.first;
}

// The seam gets its new size. Its content, if it has any, is in the host alone and held by us.
void BufferPager::change_seam(Resizing& work) noexcept {
  Extent& extent = *work.seam;
  const std::uint32_t old_bytes = extent.size_bytes, old_memory = extent.memory_bytes;
  const auto new_memory = static_cast<std::uint32_t>(align_up(work.seam_bytes, os::page_bytes()));
  const std::uint64_t change = std::uint64_t{work.seam_bytes} - old_bytes;  // wraps when it shrinks
  total_bytes_.fetch_add(change, kRelaxed);
  extent.size_bytes = work.seam_bytes;
  extent.memory_bytes = new_memory;
  if (!work.is_held) {
    unbacked_bytes_.fetch_add(change, kRelaxed);
    return;
  }
  resident_bytes_.fetch_add(change, kRelaxed);
  tier_bytes_[static_cast<unsigned>(Tier::host)].fetch_add(change, kRelaxed);
  if (new_memory < old_memory) {
    forget_memory(extent.address + new_memory, old_memory - new_memory);
    discharge(Tier::host, work.buffer, old_memory - new_memory);
  } else {
    std::memset(extent.address + old_bytes, 0, old_memory - old_bytes);  // the rest is new, so it is zero
  }
}

// For the policy that goes by the size of buffers.
void BufferPager::set_victim_sizes(Buffer& buffer) noexcept {
  const bool is_ordered = options_.victims == VictimKind::largest;
  for (std::uint32_t i = 0; i < buffer.extent_count; ++i) {
    Extent& extent = buffer.extents[i];
    if (is_ordered) dequeue_victim(extent);
    {
      const os::Lock hold(victims_lock_);
      extent.item(Tier::host).size_bytes = extent.item(Tier::device).size_bytes = buffer.size_bytes;
    }
    if (is_ordered) queue_victim(extent);
  }
}

Result BufferPager::resize(BufferHandle handle, std::size_t size_bytes) noexcept {
  if (is_in_child()) return Result::in_child;
  if (size_bytes == 0 || size_bytes > options_.address_bytes) return Result::bad_argument;
  const std::uint64_t pages = divide_up(size_bytes, os::page_bytes());
  const std::uint64_t extents = divide_up(size_bytes, options_.extent_bytes);
  if (pages > pages_.capacity_units() || extents > extents_.capacity_units()) return Result::no_memory;
  const Use use(*this, handle);
  if (use.buffer == nullptr) return Result::bad_handle;
  Buffer& buffer = *use.buffer;
  Resizing work{buffer, buffer.size_bytes, size_bytes, static_cast<std::uint32_t>(extents),
                static_cast<std::uint32_t>(pages)};
  if (size_bytes == work.old_bytes) return Result::ok;
  const std::size_t least = size_bytes < work.old_bytes ? size_bytes : work.old_bytes;
  if ((least & (options_.extent_bytes - 1)) != 0) {
    const std::size_t begin = least & ~(options_.extent_bytes - 1), rest = size_bytes - begin;
    work.seam = &buffer.extents[begin >> extent_shift_];
    work.seam_bytes = static_cast<std::uint32_t>(rest < options_.extent_bytes ? rest : options_.extent_bytes);
  }
  const Result result = change_size(work);
  if (work.charged != 0) discharge(Tier::host, buffer, work.charged);
  if (work.is_held) CHECK(unpin_extent(*work.seam, Access::write, Tier::host));
  return result;
}

Result BufferPager::change_size(Resizing& work) noexcept {
  Buffer& buffer = work.buffer;
  for (;;) {
    if (const Result result = pin_seam(work); result != Result::ok) return result;
    const Result result = begin_change(buffer, work.is_held ? work.seam : nullptr);
    if (result != Result::ok) return result;
    // Somebody may have written to the seam that had no content, before the buffer was ours.
    if (work.is_held || work.seam == nullptr || work.seam->load().valid == 0) break;
    end_change(buffer);
  }
  const Result room = take_room(work);
  if (room == Result::ok) {
    const std::uint32_t old_count = buffer.extent_count;
    if (work.new_count < old_count) cut_off(work);
    if (!work.extents.empty()) move_records(work);
    if (!work.pages.empty()) move_memory(work);
    if (work.seam != nullptr) change_seam(work);
    work.charged = 0;
    buffer.size_bytes = work.new_bytes;
    if (work.new_count > old_count) {
      buffer.extent_count = work.new_count;
      set_extents(buffer, old_count);
      const std::size_t begin = std::size_t{old_count} << extent_shift_;
      unbacked_bytes_.fetch_add(work.new_bytes - begin, kRelaxed);
      total_bytes_.fetch_add(work.new_bytes - begin, kRelaxed);
      extent_total_.fetch_add(work.new_count - old_count, kRelaxed);
    }
    if (work.new_bytes < work.old_bytes) {
      CHECK(pages_.resize(buffer.page_run, work.new_pages));
      CHECK(extents_.resize(buffer.extent_run, work.new_count));
    }
    set_victim_sizes(buffer);
  }
  end_change(buffer);
  return room;
}

}  // namespace glebe::paging
