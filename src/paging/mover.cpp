// Carries out plans; see mover.h. Order: the life of a flight, the four destinations, reading copies,
// dropping them, the pool of working memory.
#include "src/paging/mover.h"

#include <cstring>
#include <new>

#include "platform/process.h"
#include "platform/service.h"
#include "platform/vm.h"
#include "src/base/bits.h"
#include "src/base/check.h"
#include "src/paging/buffer_pager.h"

namespace glebe::paging {
namespace {

constexpr std::uint64_t kWaitNs = 100'000'000;  // looks again at the latest after this time

Result result_of(Refusal refusal) noexcept {
  switch (refusal) {
    case Refusal::none:
    case Refusal::busy:
      return Result::ok;
    case Refusal::pinned:
      return Result::pinned;
    case Refusal::last_copy:
      return Result::last_copy;
    case Refusal::wrong_tier:
      return Result::bad_argument;
    case Refusal::failed:
      break;
  }
  return Result::corrupt;
}

Result result_of(GetResult got) noexcept {
  if (got == GetResult::ok) return Result::ok;
  return got == GetResult::corrupt ? Result::corrupt : Result::io_error;
}

// Whether those who need room in the host may wait for this: what goes to a store waits for nobody's budget.
bool frees_host_soon(const Plan& plan) noexcept {
  const bool needs_memory = (plan.copies || plan.fills) && (plan.to == Tier::host || plan.to == Tier::device);
  return (plan.drops & bit_of(Tier::host)) != 0 && !needs_memory;
}

// Adds the pin to a state in which the copy is valid; false: it cannot be held (yet).
bool take_pin(Residency& state, Mover::Pin& pin) noexcept {
  if (!state.has(pin.tier)) return false;
  std::uint16_t& readers = pin.tier == Tier::host ? state.host_readers : state.device_readers;
  std::uint16_t& writers = pin.tier == Tier::host ? state.host_writers : state.device_writers;
  if (!pin.writes) {
    if (readers == kReadersMax) return false;
    ++readers;
    return true;
  }
  if (state.valid != bit_of(pin.tier) || writers == kWritersMax) return false;
  state.dirty = pin.tier == Tier::host ? Owner::host : Owner::device;
  ++writers;
  return true;
}

}  // namespace

Result Mover::move(Extent& extent, const Move& what, Pin* pin, Refusal* refusal) noexcept {
  const Tier spill = pager_.spill_tier(what.tier);
  Plan plan;
  for (;;) {
    const Residency state = extent.load();
    plan = paging::plan(state, what.operation, what.tier, spill);
    *refusal = plan.refusal;
    if (plan.refusal != Refusal::none) {
      if (plan.refusal == Refusal::pinned) pager_.count(BufferPager::kRefusedPinned);
      return result_of(plan.refusal);
    }
    if (plan.is_nothing()) return Result::ok;
    if ((plan.copies || plan.fills) && !pager_.has_tier(plan.to)) return Result::no_tier;
    Residency begun = state;
    begun.flight = Flight::copy;
    if (extent.exchange(state, begun)) break;
  }
  if (frees_host_soon(plan)) pager_.leaving_.fetch_add(1, std::memory_order_relaxed);
  bool is_pending = false;
  const Result result = carry_out(extent, plan, &is_pending);
  if (!is_pending) land(extent, plan, result, pin);
  return result;
}

Result Mover::carry_out(Extent& extent, Plan& plan, bool* is_pending) noexcept {
  if (plan.fills || plan.copies) {
    switch (plan.to) {
      case Tier::host:
        return to_host(extent, plan);
      case Tier::device:
        return to_device(extent, plan);
      case Tier::compressed:
      case Tier::file:
        return to_store(extent, plan, is_pending);
    }
  }
  if ((plan.drops & bit_of(Tier::host)) != 0) pager_.count(BufferPager::kCleanDrops);
  return Result::ok;
}

void Mover::land(Extent& extent, const Plan& plan, Result result, Pin* pin) noexcept {
  std::uint8_t drops = 0;
  Residency before, after;
  for (;;) {
    before = extent.load();
    drops = 0;
    if (before.flight == Flight::spoiled && result == Result::ok) {
      discard_copy(extent, plan.to);
      pager_.count(BufferPager::kSpoiled);
      result = Result::pinned;
    }
    after = before;
    after.flight = Flight::none;
    if (result == Result::ok) {
      const Landing landing = paging::land(before, plan);
      after = landing.after;
      drops = landing.drops;
    } else if (result == Result::corrupt) {
      after.failed = true;
    }
    if (drops == 0 && pin != nullptr && result == Result::ok) pin->is_taken = take_pin(after, *pin);
    if (extent.exchange(before, after)) break;
  }
  pager_.account(extent, before.valid, after.valid);
  if (drops != 0) {
    drop_copies(extent, drops);
    do {
      before = after = extent.load();
      after.flight = Flight::none;
      if (pin != nullptr) pin->is_taken = take_pin(after, *pin);
    } while (!extent.exchange(before, after));
  }
  if (result != Result::ok) {
    pager_.count(BufferPager::kFailedCopies);
    if (*noted_ == Result::ok) *noted_ = result;
  }
  pager_.queue_victim(extent);
  if (frees_host_soon(plan)) pager_.leaving_.fetch_sub(1, std::memory_order_release);
  if ((drops & bit_of(Tier::host)) != 0) pager_.announce_release();
  pager_.wake_flight(extent);
}

// handle == kNoObject: it was not written. The copy is good when all parts were.
void Mover::land_pending(const PendingCopy& copy, Handle handle) noexcept {
  Extent& extent = *copy.extent;
  const std::span<Handle> parts = pager_.part_table_.of(extent.file_bytes, extent.file);
  parts[copy.part] = handle;
  if (copy.part + 1 != parts.size()) return;
  Result result = Result::ok;
  for (const Handle part : parts) {
    if (part == kNoObject) result = Result::tier_full;
  }
  if (result != Result::ok) {
    drop_parts(extent, Tier::file);
  } else {
    pager_.count(BufferPager::kPageOuts);
    pager_.count(BufferPager::kBytesOut, extent.size_bytes);
  }
  Result* const noted = noted_;
  noted_ = copy.failure;
  land(extent, copy.plan, result, nullptr);
  noted_ = noted;
}

Result Mover::flush() noexcept {
  if (memory_ != nullptr && pending_count_ != 0) {
    pager_.store_.write(memory_->batch);
    const unsigned count = pending_count_;
    pending_count_ = 0;
    for (unsigned i = 0; i < count; ++i) land_pending(memory_->pending[i], memory_->batch.written(i));
    memory_->batch.clear();
  }
  const Result first = failure_;
  failure_ = Result::ok;
  return first;
}

Result Mover::charge_memory(Tier tier, const Extent& extent) noexcept {
  return pager_.charge(tier, *extent.buffer, extent.memory_bytes);
}

Result Mover::to_host(Extent& extent, const Plan& plan) noexcept {
  if (memory_ != nullptr) {  // room may have to be made by others, who need working memory too
    const Result failed = flush();
    failure_ = failed;
    release_memory();
  }
  const std::uint64_t started_ns = plan.copies ? os::clock_fine_ns() : 0;
  if (const Result charged = charge_memory(Tier::host, extent); charged != Result::ok) return charged;
  if (plan.fills) {
    pager_.count(BufferPager::kZeroFills);
    return Result::ok;
  }
  const Result result = read_copy(extent, plan.from, extent.address);
  if (result != Result::ok) {
    discard_copy(extent, Tier::host);
    return result;
  }
  pager_.count(BufferPager::kPageIns);
  pager_.count(BufferPager::kBytesIn, extent.size_bytes);
  pager_.count_latency(started_ns);
  return Result::ok;
}

Result Mover::to_device(Extent& extent, const Plan& plan) noexcept {
  const DeviceMemory& device = pager_.device_;
  if (memory_ != nullptr) {
    const Result failed = flush();
    failure_ = failed;
    release_memory();
  }
  if (const Result charged = charge_memory(Tier::device, extent); charged != Result::ok) return charged;
  extent.device = device.allocate(device.context, extent.memory_bytes);
  if (extent.device == kNoDeviceAddress) {
    pager_.discharge(Tier::device, *extent.buffer, extent.memory_bytes);
    return Result::device_error;
  }
  Result result = Result::ok;
  const std::byte* data = extent.address;
  if (plan.fills || plan.from != Tier::host) {
    if (!need_memory()) {
      result = Result::no_memory;
    } else if (plan.fills) {
      std::memset(memory_->bounce, 0, extent.size_bytes);
    } else {
      result = read_copy(extent, plan.from, memory_->bounce);
    }
    data = memory_ != nullptr ? memory_->bounce : nullptr;
  }
  if (result == Result::ok && !device.copy_in(device.context, extent.device, data, extent.size_bytes)) {
    result = Result::device_error;
  }
  if (result != Result::ok) {
    discard_copy(extent, Tier::device);
    return result;
  }
  pager_.count(BufferPager::kDeviceIn, extent.size_bytes);
  return Result::ok;
}

Result Mover::to_store(Extent& extent, Plan& plan, bool* is_pending) noexcept {
  if (can_write_in_place(extent, plan)) {
    const Result result = write_in_place(extent, plan);
    *is_pending = result == Result::ok;  // and it has landed
    return result;
  }
  if (!need_memory()) return Result::no_memory;
  if (plan.from == Tier::compressed) {  // to the file, as it lies there
    *is_pending = true;
    const Result result = put_file(extent, plan, nullptr, extent.compressed_bytes);
    if (result != Result::ok) *is_pending = false;
    return result;
  }
  const std::byte* data = extent.address;
  std::uint32_t stored_bytes = extent.size_bytes;
  if (plan.from == Tier::file) {
    stored_bytes = extent.file_bytes;
    if (const Result result = read_stored(extent, Tier::file, memory_->bounce); result != Result::ok) {
      return result;
    }
    data = memory_->bounce;
  } else if (plan.from == Tier::device) {
    if (const Result result = read_copy(extent, Tier::device, memory_->bounce); result != Result::ok) {
      return result;
    }
    data = memory_->bounce;
  }
  if (plan.from != Tier::file && extent.buffer->has_codec) {
    const BufferCodec& codec = extent.buffer->codec;
    const std::size_t coded =
        codec.encode(codec.context, data, extent.size_bytes, memory_->coded, extent.size_bytes);
    if (coded == 0 || coded > extent.size_bytes) return Result::codec_error;
    stored_bytes = static_cast<std::uint32_t>(coded);
    data = memory_->coded;
  }
  if (plan.to == Tier::compressed) {
    const Result result = put_compressed(extent, data, stored_bytes);
    if (result == Result::ok || !has_fallback_ || !pager_.has_tier(Tier::file)) return result;
    plan.to = Tier::file;
  }
  const Result result = put_file(extent, plan, data, stored_bytes);
  *is_pending = result == Result::ok;
  return result;
}

Result Mover::put_compressed(Extent& extent, const std::byte* data, std::uint32_t stored_bytes) noexcept {
  if (!pager_.part_table_.take(stored_bytes, &extent.compressed)) return Result::no_memory;
  extent.compressed_bytes = stored_bytes;
  const Result result = put_parts(extent, data);
  if (result != Result::ok) {
    drop_parts(extent, Tier::compressed);
    return result;
  }
  pager_.count(BufferPager::kPageOuts);
  pager_.count(BufferPager::kBytesOut, extent.size_bytes);
  return Result::ok;
}

// Until one of them is refused.
Result Mover::put_parts(Extent& extent, const std::byte* data) noexcept {
  const BudgetTag tag = extent.buffer->tags[static_cast<unsigned>(Tier::compressed)];
  const std::uint32_t stored_bytes = extent.compressed_bytes;
  unsigned index = 0;
  for (Handle& part : pager_.part_table_.of(stored_bytes, extent.compressed)) {
    Handle handle = kNoObject;
    const std::size_t bytes = part_bytes(stored_bytes, index);
    switch (pager_.store_.put(data + index * kObjectBytesMax, bytes, memory_->scratch, &handle)) {
      case PutResult::incompressible:
        return Result::incompressible;
      case PutResult::full:
        return Result::tier_full;
      case PutResult::stored:
        break;
    }
    const std::size_t slot_bytes = pager_.store_.slot_bytes(handle);
    if (pager_.compressed_budget_.charge(tag, slot_bytes, nullptr) != BudgetResult::ok) {
      pager_.store_.drop(handle);
      return Result::tier_full;
    }
    part = handle;
    ++index;
  }
  return Result::ok;
}

// To the batch. False: it is full.
bool Mover::add_part(Extent& extent, const std::byte* data, unsigned index) noexcept {
  if (pending_count_ == kBatchObjectsMax) return false;
  if (data == nullptr) {
    return pager_.store_.add(memory_->batch,
                             pager_.part_table_.of(extent.file_bytes, extent.compressed)[index]);
  }
  return pager_.store_.add(memory_->batch, data + index * kObjectBytesMax,
                           part_bytes(extent.file_bytes, index));
}

Result Mover::take_file_room(Extent& extent, std::uint32_t stored_bytes) noexcept {
  const BudgetTag tag = extent.buffer->tags[static_cast<unsigned>(Tier::file)];
  if (pager_.file_budget_.charge(tag, stored_bytes, nullptr) != BudgetResult::ok) return Result::over_budget;
  if (!pager_.part_table_.take(stored_bytes, &extent.file)) {
    pager_.discharge(Tier::file, *extent.buffer, stored_bytes);
    return Result::no_memory;
  }
  extent.file_bytes = stored_bytes;
  return Result::ok;
}

// The source has been read: writers may come from here on, and spoil the flight.
void Mover::begin_storing(Extent& extent) noexcept {
  Residency before, after;
  do {
    before = after = extent.load();
    after.flight = Flight::storing;
  } while (!extent.exchange(before, after));
  pager_.wake_flight(extent);
}

bool Mover::can_write_in_place(const Extent& extent, const Plan& plan) const noexcept {
  return is_alone_ && pending_count_ == 0 && plan.from == Tier::host && plan.to == Tier::file &&
         !extent.buffer->has_codec && part_count(extent.size_bytes) == 1;
}

// The object of the store is made of the memory of the extent. The system reads that memory while writers may
// come: then the flight is spoiled, and what was written is thrown away whatever it became.
Result Mover::write_in_place(Extent& extent, const Plan& plan) noexcept {
  if (const Result result = take_file_room(extent, extent.size_bytes); result != Result::ok) return result;
  struct Context {
    Mover& mover;
    Extent& extent;
  } context{*this, extent};
  const WriteBegun begun{[](void* raw) noexcept {
                           const Context& own = *static_cast<Context*>(raw);
                           own.mover.begin_storing(own.extent);
                         },
                         &context};
  const Handle handle = pager_.store_.write_one(extent.address, extent.size_bytes, begun);
  land_pending({&extent, plan, noted_, 0}, handle);
  return Result::ok;
}

// Adds the extent to the batch; it lands with flush(). data == nullptr: the copy of the compressed tier.
Result Mover::put_file(Extent& extent, const Plan& plan, const std::byte* data,
                       std::uint32_t stored_bytes) noexcept {
  if (const Result result = take_file_room(extent, stored_bytes); result != Result::ok) return result;
  for (unsigned index = 0; index < part_count(stored_bytes); ++index) {
    if (!add_part(extent, data, index)) {
      const Result failed = flush();
      failure_ = failed;
      CHECK(add_part(extent, data, index));
    }
    memory_->pending[pending_count_++] = {&extent, plan, noted_, index};
  }
  begin_storing(extent);
  return Result::ok;
}

Result Mover::read_copy(Extent& extent, Tier from, std::byte* to) noexcept {
  if (from == Tier::host) {
    std::memcpy(to, extent.address, extent.size_bytes);
    return Result::ok;
  }
  if (from == Tier::device) {
    const DeviceMemory& device = pager_.device_;
    if (!device.copy_out(device.context, to, extent.device, extent.size_bytes)) return Result::device_error;
    pager_.count(BufferPager::kDeviceOut, extent.size_bytes);
    return Result::ok;
  }
  if (!need_memory()) return Result::no_memory;
  if (!extent.buffer->has_codec) return read_stored(extent, from, to);
  if (const Result result = read_stored(extent, from, memory_->coded); result != Result::ok) return result;
  const BufferCodec& codec = extent.buffer->codec;
  const std::size_t coded = from == Tier::file ? extent.file_bytes : extent.compressed_bytes;
  return codec.decode(codec.context, memory_->coded, coded, to, extent.size_bytes) != 0 ? Result::ok
                                                                                        : Result::codec_error;
}

Result Mover::read_stored(Extent& extent, Tier from, std::byte* to) noexcept {
  const bool is_file = from == Tier::file;
  const std::uint32_t stored_bytes = is_file ? extent.file_bytes : extent.compressed_bytes;
  unsigned index = 0;
  for (const Handle part : pager_.part_table_.of(stored_bytes, is_file ? extent.file : extent.compressed)) {
    const GetResult got = pager_.store_.get(part, to + index * kObjectBytesMax,
                                            part_bytes(stored_bytes, index), memory_->scratch);
    if (got != GetResult::ok) return result_of(got);
    ++index;
  }
  return Result::ok;
}

void Mover::drop_copies(Extent& extent, std::uint8_t drops) noexcept {
  for (unsigned i = 0; i < kTiers; ++i) {
    const Tier tier = static_cast<Tier>(i);
    if ((drops & bit_of(tier)) == 0) continue;
    discard_copy(extent, tier);
    if (tier == Tier::host || tier == Tier::device) freed_bytes_ += extent.memory_bytes;
  }
}

// Gives the memory or the stored object of one copy back; no state, no counters.
void Mover::discard_copy(Extent& extent, Tier tier) noexcept {
  switch (tier) {
    case Tier::host:
      pager_.forget_memory(extent.address, extent.memory_bytes);
      break;
    case Tier::device:
      pager_.device_.free(pager_.device_.context, extent.device, extent.memory_bytes);
      extent.device = kNoDeviceAddress;
      break;
    case Tier::compressed:
    case Tier::file:
      drop_parts(extent, tier);
      return;
  }
  pager_.discharge(tier, *extent.buffer, extent.memory_bytes);
}

// Gives back what the store has of an extent in that tier, complete or not.
void Mover::drop_parts(Extent& extent, Tier tier) noexcept {
  const bool is_file = tier == Tier::file;
  Handle& kept = is_file ? extent.file : extent.compressed;
  const std::uint32_t stored_bytes = is_file ? extent.file_bytes : extent.compressed_bytes;
  for (const Handle part : pager_.part_table_.of(stored_bytes, kept)) {
    if (part == kNoObject) continue;
    if (!is_file) pager_.discharge(tier, *extent.buffer, pager_.store_.slot_bytes(part));
    pager_.store_.drop(part);
  }
  if (is_file) pager_.discharge(tier, *extent.buffer, stored_bytes);
  pager_.part_table_.give_back(stored_bytes, &kept);
}

bool Mover::need_memory() noexcept {
  if (memory_ == nullptr) memory_ = pager_.movers_.take();
  return memory_ != nullptr;
}

void Mover::release_memory() noexcept {
  if (memory_ == nullptr) return;
  CHECK(pending_count_ == 0);
  pager_.movers_.give_back(memory_);
  memory_ = nullptr;
}

bool MoverPool::open(unsigned count, Codec codec, std::size_t extent_bytes) noexcept {
  CHECK(count != 0 && count <= kMoversMax && all_ == nullptr);
  size_bytes_ = align_up(count * sizeof(MoverMemory), os::page_bytes());
  void* memory = os::reserve(size_bytes_, os::page_bytes());
  if (memory == nullptr) return false;
  if (!os::commit(memory, size_bytes_)) {
    os::release(memory, size_bytes_);
    return false;
  }
  all_ = static_cast<MoverMemory*>(memory);
  for (unsigned i = 0; i < count; ++i) new (&all_[i]) MoverMemory;
  count_ = count;
  codec_ = codec;
  extent_bytes_ = extent_bytes;
  return true;
}

void MoverPool::close() noexcept {
  if (all_ == nullptr) return;
  for (unsigned i = 0; i < count_; ++i) {
    if (all_[i].bounce != nullptr) os::release(all_[i].bounce, 2 * extent_bytes_);
    all_[i].~MoverMemory();
  }
  os::release(all_, size_bytes_);
  all_ = nullptr;
}

bool MoverPool::prepare(MoverMemory& memory) noexcept {
  if (memory.is_open) return true;
  if (memory.bounce == nullptr) {
    void* buffers = os::reserve(2 * extent_bytes_, os::page_bytes());
    if (buffers == nullptr) return false;
    if (!os::commit(buffers, 2 * extent_bytes_)) {
      os::release(buffers, 2 * extent_bytes_);
      return false;
    }
    memory.bounce = static_cast<std::byte*>(buffers);
    memory.coded = memory.bounce + extent_bytes_;
  }
  if (!memory.scratch.open(codec_) || !memory.batch.open()) return false;
  memory.is_open = true;
  return true;
}

// Marks it as taken. nullptr: all are.
MoverMemory* MoverPool::take_free() noexcept {
  const os::Lock hold(lock_);
  for (unsigned i = 0; i < count_; ++i) {
    if (all_[i].is_taken) continue;
    all_[i].is_taken = true;
    return &all_[i];
  }
  return nullptr;
}

MoverMemory* MoverPool::take() noexcept {
  for (;;) {
    const std::uint32_t seen = word_.load(std::memory_order_acquire);
    if (MoverMemory* const found = take_free(); found != nullptr) {
      if (prepare(*found)) return found;
      give_back(found);
      return nullptr;
    }
    // As in BufferPager::wait_flight(): either the change of the word is seen, or the waiter.
    waiters_.fetch_add(1, std::memory_order_seq_cst);
    if (word_.load(std::memory_order_seq_cst) == seen) os::wait_on(word_, seen, kWaitNs);
    waiters_.fetch_sub(1, std::memory_order_relaxed);
  }
}

void MoverPool::give_back(MoverMemory* memory) noexcept {
  {
    const os::Lock hold(lock_);
    memory->is_taken = false;
  }
  word_.fetch_add(1, std::memory_order_seq_cst);
  if (waiters_.load(std::memory_order_seq_cst) != 0) os::wake_all(word_);
}

}  // namespace glebe::paging
