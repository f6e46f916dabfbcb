// Opening and closing, allocations, and what the other parts share. See residency.h.
#include "src/device/residency.h"

#include <new>

#include "src/base/check.h"
#include "src/device/residency_internal.h"

namespace glebe::device {

using os::Lock;

Outcome ResidentHeap::open(Gpu& gpu, const ResidencyOptions& options) noexcept {
  close();
  if (options.pool == nullptr) return Status::bad_argument;
  const std::size_t chunk_bytes = options.pool->chunk_bytes();
  const std::uint64_t chunk_count = chunk_bytes != 0 ? options.address_bytes / chunk_bytes : 0;
  const bool is_right = chunk_count != 0 && chunk_count <= kChunksMax &&
                        options.address_bytes % chunk_bytes == 0 && options.budget_bytes >= chunk_bytes &&
                        options.host_bytes >= chunk_bytes && options.host_bytes / chunk_bytes <= kChunksMax &&
                        options.in_flight != 0 && options.in_flight <= kInFlightMax &&
                        static_cast<unsigned>(options.order) < kVictimOrders;
  if (!is_right) return Status::bad_argument;
  gpu_ = &gpu;
  options_ = options;
  chunk_bytes_ = chunk_bytes;
  chunk_count_ = static_cast<std::uint32_t>(chunk_count);
  slot_count_ = static_cast<std::uint32_t>(options.host_bytes / chunk_bytes);
  const std::uint64_t budget = options.budget_bytes / chunk_bytes;
  budget_chunks_ = static_cast<std::uint32_t>(budget < chunk_count ? budget : chunk_count);
  Outcome outcome = open_tables(options);
  if (outcome.ok()) outcome = open_device();
  if (!outcome.ok()) close();
  return outcome;
}

Outcome ResidentHeap::open_tables(const ResidencyOptions& options) noexcept {
  const std::size_t chunk_table = chunk_count_ * sizeof(Chunk);
  const std::size_t tag_table = chunk_count_ * sizeof(placement::Tag);
  const std::size_t slot_table = slot_count_ * sizeof(Slot);
  // A lease on everything, over and over; more leases than that at one time are refused.
  const std::size_t lease_table = (std::size_t{chunk_count_} + 65536) * sizeof(LeaseRecord);
  const std::size_t range_table = (std::size_t{chunk_count_} + 65536) * sizeof(LeaseRange) * 4;
  constexpr std::size_t kPage = 4 * kKiB;
  const bool is_reserved =
      chunks_.reserve(chunk_table, chunk_table, kPage) && tags_.reserve(tag_table, tag_table, kPage) &&
      slots_.reserve(slot_table, slot_table, kPage) && leases_.reserve(lease_table, lease_table, kPage) &&
      ranges_.reserve(range_table, range_table, kPage);
  if (!is_reserved || !tags_.grow_to(tag_table) || !slots_.grow_to(slot_table) || !marks_.open(events_)) {
    return Status::no_host_memory;
  }
  placement_.attach(reinterpret_cast<placement::Tag*>(tags_.base()), chunk_count_);
  CHECK(placement_.add_range(0, chunk_count_) == placement::Status::ok);
  free_slots_ = kNone;
  for (std::uint32_t i = slot_count_; i-- > 0;) {
    slot(i) = Slot{kNone, free_slots_, 0, false};
    free_slots_ = i;
  }
  victims_.set_order(options.order);
  if (options.directory == nullptr) return {};
  ChunkFile::Options wanted;
  wanted.directory = options.directory;
  wanted.bytes_max = options.disk_bytes_max;
  wanted.chunk_bytes = chunk_bytes_;
  wanted.chunks_max = chunk_count_;
  return file_.open(wanted);
}

Outcome ResidentHeap::open_device() noexcept {
  Outcome outcome = events_.open(*gpu_);
  if (outcome.ok()) outcome = mover_.open(*gpu_, chunk_bytes_);
  if (!outcome.ok()) return outcome;
  const CurrentContext current(*gpu_);
  const cuda::Driver& driver = gpu_->driver();
  const std::size_t address_bytes = chunk_count_ * chunk_bytes_;
  outcome = gpu_->check(driver.mem_address_reserve(&base_, address_bytes, 0, 0, 0));
  if (!outcome.ok()) {
    base_ = 0;
    return outcome.status == Status::out_of_memory ? Outcome(Status::out_of_addresses, outcome.driver)
                                                   : outcome;
  }
  void* slab = nullptr;
  outcome = gpu_->check(driver.mem_host_alloc(&slab, slot_count_ * chunk_bytes_, cuda::kHostPortable));
  if (outcome.ok()) slab_ = static_cast<std::byte*>(slab);
  return outcome;
}

void ResidentHeap::close() noexcept {
  if (gpu_ == nullptr) return;
  // A lease that was not released has no mark: whatever is queued may use its chunks.
  if (stats_.live_leases != 0) wait_for_all();
  for (std::uint32_t i = 0; i < chunks_made_; ++i) {
    Chunk& which = chunk(i);
    // A device that is lost refuses all of this, and has lost the memory too.
    if (!wait_idle(which).ok()) wait_for_all();
    const bool is_unmapped =
        !which.has_memory || mover_.unmap(address_of(i)).ok() || mover_.unmap(address_of(i)).ok();
    const Lock lock(mutex_);
    forget_uses(which);
    if (which.is_queued()) victims_.remove(&which);
    if (which.handle != 0 && is_unmapped) options_.pool->give(which.handle);
    if (which.handle != 0 && !is_unmapped) options_.pool->discard(which.handle);
  }
  mover_.close();
  for (std::uint32_t i = 0; i < slot_count_ && slab_ != nullptr; ++i) marks_.drop(slot(i).mark);
  marks_.close();
  events_.close();
  file_.close();
  const CurrentContext current(*gpu_);
  const cuda::Driver& driver = gpu_->driver();
  if (slab_ != nullptr) static_cast<void>(gpu_->check(driver.mem_free_host(slab_)));
  if (base_ != 0) static_cast<void>(gpu_->check(driver.mem_address_free(base_, chunk_count_ * chunk_bytes_)));
  for (paging::GrowingMemory* table : {&chunks_, &tags_, &slots_, &leases_, &ranges_}) table->release();
  slab_ = nullptr;
  base_ = 0;
  held_ = chunks_made_ = used_slots_ = pinned_ = now_ = stamp_ = 0;
  leases_made_ = free_leases_ = ranges_made_ = free_ranges_ = 0;
  stats_ = {};
  gpu_ = nullptr;
}

void ResidentHeap::wait_for_all() noexcept {
  const CurrentContext current(*gpu_);
  static_cast<void>(gpu_->check(gpu_->driver().ctx_synchronize()));
}

Outcome ResidentHeap::usable() const noexcept {
  if (gpu_ == nullptr) return Status::bad_argument;
  return gpu_->is_lost() || mover_.is_broken() ? Outcome(Status::device_lost) : Outcome();
}

std::uint32_t ResidentHeap::chunk_at(cuda::DevicePointer address) const noexcept {
  const std::uint64_t offset = address - base_;
  return address >= base_ && offset / chunk_bytes_ < chunk_count_
             ? static_cast<std::uint32_t>(offset / chunk_bytes_)
             : kNone;
}

// The first chunk of the allocation that starts there; kNone: none does.
std::uint32_t ResidentHeap::start_at(cuda::DevicePointer address) noexcept {
  const std::uint32_t index = chunk_at(address);
  const bool is_start = index < chunks_made_ && address == address_of(index) &&
                        chunk(index).state != ChunkState::absent && chunk(index).first == index;
  return is_start ? index : kNone;
}

Outcome ResidentHeap::allocate(std::uint64_t size_bytes, std::uint32_t tag,
                               cuda::DevicePointer* address) noexcept {
  const Outcome outcome = usable();
  if (!outcome.ok()) return outcome;
  if (size_bytes == 0 || tag == kAllTags) return Status::bad_argument;
  if (size_bytes > chunk_count_ * std::uint64_t{chunk_bytes_}) return Status::out_of_addresses;
  const auto count = static_cast<std::uint32_t>(divide_up(size_bytes, chunk_bytes_));
  const Lock lock(mutex_);
  const placement::Run run = placement_.allocate(count);
  if (run.empty()) return Status::out_of_addresses;
  if (!chunks_.grow_to((std::size_t{run.first} + count) * sizeof(Chunk))) {
    placement_.free(run.first);
    return Status::no_host_memory;
  }
  for (; chunks_made_ < run.first + count; ++chunks_made_) ::new (&chunk(chunks_made_)) Chunk;
  for (std::uint32_t i = run.first; i < run.first + count; ++i) {
    Chunk& which = chunk(i);
    change(which, ChunkMove::allocate);
    which.first = run.first;
    which.run = i == run.first ? count : 0;
    which.tag = tag;
    which.is_blank = true;
    which.is_asleep = which.was_start = false;
    ++which.birth;
  }
  *address = address_of(run.first);
  return {};
}

std::uint64_t ResidentHeap::size_of(cuda::DevicePointer address) noexcept {
  if (!usable().ok()) return 0;
  const Lock lock(mutex_);
  const std::uint32_t first = start_at(address);
  return first == kNone ? 0 : chunk(first).run * std::uint64_t{chunk_bytes_};
}

Outcome ResidentHeap::free(cuda::DevicePointer address) noexcept {
  Outcome outcome = usable();
  if (!outcome.ok()) return outcome;
  const Mover mover(*this);
  ChunkList list;
  std::uint32_t first = kNone;
  {
    const Lock lock(mutex_);
    first = start_at(address);
    if (first == kNone) {
      const std::uint32_t index = chunk_at(address);
      const bool was_start = index < chunks_made_ && address == address_of(index) && chunk(index).was_start;
      return was_start ? Status::double_free : Status::not_owned;
    }
    for (std::uint32_t i = first; i < first + chunk(first).run; ++i) append(list, i);
  }
  outcome = drop_memory(list);
  if (!outcome.ok()) return outcome;
  drop_contents(list);
  const Lock lock(mutex_);
  for (std::uint32_t i = list.first; i != kNone; i = chunk(i).next) change(chunk(i), ChunkMove::free);
  chunk(first).was_start = true;
  placement_.free(first);
  return {};
}

// Unmaps what is resident in the list: all or nothing, as far as the driver lets it. The chunks keep their
// handles and stay `evicting` until drop_contents().
Outcome ResidentHeap::drop_memory(const ChunkList& list) noexcept {
  {
    const Lock lock(mutex_);
    for (std::uint32_t i = list.first; i != kNone; i = chunk(i).next) {
      if (chunk(i).pins != 0) return Status::in_use;
    }
    for (std::uint32_t i = list.first; i != kNone; i = chunk(i).next) {
      if (chunk(i).state != ChunkState::resident) continue;
      victims_.remove(&chunk(i));
      change(chunk(i), ChunkMove::begin_evict);
    }
  }
  Outcome outcome;
  for (std::uint32_t i = list.first; i != kNone && outcome.ok(); i = chunk(i).next) {
    if (chunk(i).state != ChunkState::evicting) continue;
    outcome = wait_idle(chunk(i));
    if (outcome.ok()) note(i, true, false);
    if (outcome.ok()) outcome = mover_.unmap(address_of(i));
    if (outcome.ok()) chunk(i).has_memory = false;
  }
  if (outcome.ok()) return outcome;
  for (std::uint32_t i = list.first; i != kNone; i = chunk(i).next) {
    Chunk& which = chunk(i);
    if (which.state != ChunkState::evicting) continue;
    if (!which.has_memory) which.has_memory = mover_.map(address_of(i), which.handle).ok();
    const cuda::MemoryHandle handle = which.handle;
    const Lock lock(mutex_);
    if (which.has_memory) {
      change(which, ChunkMove::stay);
      victims_.insert(&which);
      continue;
    }
    // What was to be given up is given up.
    ++stats_.undo_failures;
    forget_uses(which);
    which.handle = 0;
    which.is_blank = !has_copy(which);
    change(which, which.is_blank        ? ChunkMove::leave_blank
                  : which.slot != kNone ? ChunkMove::leave_to_host
                                        : ChunkMove::leave_to_disk);
    give_handle(handle);
  }
  return outcome;
}

// Gives up all copies. Cannot fail.
void ResidentHeap::drop_contents(const ChunkList& list) noexcept {
  for (std::uint32_t i = list.first; i != kNone; i = chunk(i).next) {
    const bool has_left = chunk(i).state == ChunkState::evicting;
    if (has_left) give_handle(chunk(i).handle);
    file_.drop(forget_contents(chunk(i)));
    if (has_left) note(i, true, true);
  }
}

// The answer is its place in the file, which the caller drops.
FilePlaceIndex ResidentHeap::forget_contents(Chunk& which) noexcept {
  const Lock lock(mutex_);
  if (which.state == ChunkState::evicting) {
    forget_uses(which);
    which.handle = 0;
    ++which.generation;
  }
  free_slot(which);
  const FilePlaceIndex place = which.place;
  which.place = 0;
  which.is_blank = true;
  if (which.state != ChunkState::unbacked) change(which, ChunkMove::discard);
  return place;
}

void ResidentHeap::note(std::uint32_t index, bool is_leaving, bool is_done) noexcept {
  if (options_.on_move == nullptr) return;
  const MoveNote told{address_of(index), chunk_bytes_, chunk(index).generation, is_leaving, is_done};
  options_.on_move(options_.context, told);
}

void ResidentHeap::change(Chunk& which, ChunkMove move) noexcept {
  const ChunkState from = which.state;
  CHECK(next_state(from, move, &which.state));
  if (from != ChunkState::absent) --stats_.chunks[static_cast<unsigned>(from)];
  if (which.state != ChunkState::absent) ++stats_.chunks[static_cast<unsigned>(which.state)];
  const std::uint64_t resident = stats_.chunks[static_cast<unsigned>(ChunkState::resident)];
  if (resident > stats_.resident_peak) stats_.resident_peak = resident;
}

void ResidentHeap::pin(Chunk& which) noexcept {
  if (which.pins++ == 0) ++pinned_;
}

void ResidentHeap::unpin(Chunk& which) noexcept {
  CHECK(which.pins > 0);
  if (--which.pins == 0) --pinned_;
}

// They have passed, or the chunk is gone.
void ResidentHeap::forget_uses(Chunk& which) noexcept {
  for (MarkIndex& use : which.uses) {
    marks_.drop(use);
    use = 0;
  }
  marks_.drop(which.ready);
  which.ready = 0;
}

// The slot may still be read by the copy that fills the chunk.
void ResidentHeap::free_slot(Chunk& which) noexcept {
  if (which.slot == kNone) return;
  Slot& freed = slot(which.slot);
  if (which.ready != 0 && !marks_.is_passed(which.ready)) {
    marks_.drop(freed.mark);
    freed.mark = which.ready;
    marks_.refer(freed.mark);
  }
  give_slot(which.slot);
  which.slot = kNone;
}

// What it costs to have the chunk away and back, by what such copies took last.
void ResidentHeap::set_cost(Chunk& which) noexcept {
  std::uint64_t cost_ns = 0;
  if (!which.is_blank) cost_ns = has_copy(which) ? copy_ns_ : 2 * copy_ns_;
  if (which.place != 0 && which.slot == kNone) cost_ns += disk_ns_;
  which.size_bytes = cost_ns;
}

void ResidentHeap::append(ChunkList& list, std::uint32_t index) noexcept {
  chunk(index).next = kNone;
  if (list.last != kNone) {
    chunk(list.last).next = index;
  } else {
    list.first = index;
  }
  list.last = index;
  ++list.count;
}

}  // namespace glebe::device
