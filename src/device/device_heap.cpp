// Allocate, free, and what changes a block where it is. See device_heap.h.
//
// allocate(): under the table lock the block is placed and counted in its chunks, which nobody else can take
// away from then on. When they are mapped, that is all. Otherwise the lock is let go and the chunks are
// mapped; when that fails the block is taken back. Until then it is marked as pending, and no other call
// takes it for a block.
#include "src/device/device_heap.h"

#include "src/base/check.h"

namespace glebe::device {

using os::Lock;
using placement::Run;
using placement::Tag;

namespace {

constexpr std::uint64_t kAddressesMax = std::uint64_t{placement::kTlsfUnitsMax} * kHeapUnitBytes;
constexpr std::uint64_t kAddressFactor = 4;

// Fields of a tag that belong to the caller.
std::uint32_t& slack_of(Tag& tag) noexcept { return tag.previous; }  // bytes of the block not asked for
std::uint32_t& pins_of(Tag& tag) noexcept { return tag.next; }

}  // namespace

Outcome DeviceHeap::open(Gpu& gpu, const DeviceHeapOptions& options) noexcept {
  close();
  if (options.limit_bytes == 0) return Status::bad_argument;
  options_ = options;
  space_options_ = {};
  std::uint64_t reserve_bytes = options.reserve_bytes;
  if (reserve_bytes == 0) reserve_bytes = gpu.facts().total_bytes * kAddressFactor;
  if (reserve_bytes > kAddressesMax) {
    if (options.reserve_bytes != 0) return Status::bad_argument;
    reserve_bytes = kAddressesMax;
  }
  space_options_.reserve_bytes = reserve_bytes;
  space_options_.fine_bytes = options.fine_bytes;
  space_options_.coarse_bytes = options.coarse_bytes;
  space_options_.headroom_bytes = options.headroom_bytes;
  space_options_.budget = options.budget != nullptr ? options.budget : &budget_;
  space_options_.budget_tag = options.budget != nullptr ? options.budget_tag : 0;
  if (budget_.open("device heap", options.limit_bytes, paging::BudgetAction::enforce, {}) !=
      paging::BudgetResult::ok) {
    return Status::bad_argument;
  }
  const Outcome outcome = space_.open(gpu, space_options_);
  if (!outcome.ok()) return outcome;
  units_in_chunk_ = static_cast<std::uint32_t>(options.fine_bytes / kHeapUnitBytes);
  const std::uint64_t units = space_.reserved_bytes() / kHeapUnitBytes;
  if (units > placement::kTlsfUnitsMax ||
      !tags_memory_.reserve(units * sizeof(Tag), units * sizeof(Tag), 4 * kKiB)) {
    space_.close();
    return units > placement::kTlsfUnitsMax ? Status::bad_argument : Status::no_host_memory;
  }
  engine_.attach(reinterpret_cast<Tag*>(tags_memory_.base()), static_cast<std::uint32_t>(units),
                 placement::TlsfPolicy::best_fit);
  frontier_ = 0;
  is_pass_open_ = false;
  source_count_ = 0;
  hidden_units_ = 0;
  counts_ = {};
  tag_count_ = 1;
  tagged_[0].live_bytes = tagged_[0].peak_bytes = tagged_[0].live_blocks = 0;
  return {};
}

std::uint64_t DeviceHeap::close() noexcept {
  if (!space_.is_open()) return 0;
  const std::uint64_t leaked = counts_.live_blocks;
  if (leaked != 0 && options_.leak != nullptr) {
    walk(
        [](void* self, const HeapBlock& block) {
          const DeviceHeapOptions& options = static_cast<DeviceHeap*>(self)->options_;
          options.leak(options.context, block);
          return true;
        },
        this);
  }
  space_.close();
  tags_memory_.release();
  return leaked;
}

// Units of a block of that size; 0: none can be so large.
std::uint32_t DeviceHeap::length_of(std::uint64_t size_bytes) const noexcept {
  if (size_bytes > space_.reserved_bytes()) return 0;
  return static_cast<std::uint32_t>(divide_up(size_bytes, kHeapUnitBytes));
}

// What a request asks of the engine, or why it makes no sense.
Outcome DeviceHeap::examine(const HeapRequest& request, Wanted* wanted) const noexcept {
  const std::uint64_t align = request.align_bytes > kHeapUnitBytes ? request.align_bytes : kHeapUnitBytes;
  const bool is_aligned = request.align_bytes == 0 || is_power_of_two(request.align_bytes);
  if (request.size_bytes == 0 || !is_aligned || align > options_.coarse_bytes) return Status::bad_argument;
  wanted->length = length_of(request.size_bytes);
  wanted->align_units = static_cast<std::uint32_t>(align / kHeapUnitBytes);
  return wanted->length != 0 ? Outcome() : Outcome(Status::out_of_addresses);
}

Outcome DeviceHeap::allocate(const HeapRequest& request, cuda::DevicePointer* address) noexcept {
  Wanted wanted;
  Outcome outcome = examine(request, &wanted);
  const bool is_possible = outcome.ok();
  Shortage shortage;
  for (unsigned round = 0; is_possible && round < kHeapReclaimRounds;) {
    outcome = try_allocate(request, wanted, address, &shortage);
    const bool is_full = outcome.status == Status::over_budget || outcome.status == Status::out_of_memory ||
                         outcome.status == Status::out_of_addresses;
    if (!is_full) break;
    if (space_.reclaim(&shortage)) continue;
    ++round;
    if (options_.reclaim == nullptr) break;
    if (!options_.reclaim(options_.context, request.size_bytes)) break;
  }
  if (outcome.ok()) return outcome;
  const Lock lock(space_.table_lock());
  ++counts_.failures;
  write_trace(Event::refused, 0, request.size_bytes);
  return outcome;
}

Outcome DeviceHeap::allocate_mapped(const HeapRequest& request, cuda::DevicePointer* address) noexcept {
  Wanted wanted;
  const Outcome outcome = examine(request, &wanted);
  if (!outcome.ok()) return outcome;
  wanted.must_be_mapped = true;
  Shortage shortage;
  return try_allocate(request, wanted, address, &shortage);
}

Outcome DeviceHeap::try_allocate(const HeapRequest& request, Wanted wanted, cuda::DevicePointer* address,
                                 Shortage* shortage) noexcept {
  shortage->missing_bytes = 0;
  if (gpu().is_lost()) return Status::device_lost;
  Run run;
  ChunkRange chunks;
  {
    const Lock lock(space_.table_lock());
    if (request.tag >= tag_count_) return Status::bad_argument;
    const Outcome outcome = place(wanted, &run);
    if (!outcome.ok()) return outcome;
    Tag& tag = engine_.tag(run.first);
    tag.owner = request.tag;
    slack_of(tag) = static_cast<std::uint32_t>(run.length * kHeapUnitBytes - request.size_bytes);
    pins_of(tag) = 0;
    tag.mark = static_cast<std::uint8_t>(log2_floor(wanted.align_units) << kAlignShift);
    space_.add_live(bytes_of(run.first, run.length), 1);
    chunks = space_.chunks_of(bytes_of(run.first, run.length));
    if (space_.is_mapped(chunks)) {
      ++counts_.hits;
      count(block_at(run.first));
      ++counts_.allocations;
      *address = space_.base() + run.first * kHeapUnitBytes;
      write_trace(Event::allocated, *address, request.size_bytes);
      return {};
    }
    if (wanted.must_be_mapped) {
      withdraw(run.first);
      return Status::out_of_memory;
    }
    tag.mark |= kPending;
  }
  const Outcome outcome = space_.back(chunks, shortage);
  const Lock lock(space_.table_lock());
  if (!outcome.ok()) {
    withdraw(run.first);
    return outcome;
  }
  engine_.tag(run.first).mark &= static_cast<std::uint8_t>(~unsigned{kPending});
  ++counts_.misses;
  ++counts_.allocations;
  count(block_at(run.first));
  *address = space_.base() + run.first * kHeapUnitBytes;
  write_trace(Event::allocated, *address, request.size_bytes);
  return {};
}

Outcome DeviceHeap::free(cuda::DevicePointer address) noexcept {
  const Lock lock(space_.table_lock());
  std::uint32_t unit = 0;
  if (!is_block(address, &unit)) return misuse(address);
  if (is_held(unit)) return Status::in_use;
  const HeapBlock block = block_at(unit);
  discount(block);
  ++counts_.frees;
  give_back(unit);
  write_trace(Event::freed, address, block.requested_bytes);
  return {};
}

// Why an address is not a block.
Outcome DeviceHeap::misuse(cuda::DevicePointer address) noexcept {
  ++counts_.misuses;
  const std::uint64_t offset = address - space_.base();
  if (offset >= space_.reserved_bytes() || offset % kHeapUnitBytes != 0) return Status::not_owned;
  const auto unit = static_cast<std::uint32_t>(offset / kHeapUnitBytes);
  return engine_.was_freed(unit) ? Status::double_free : Status::not_owned;
}

bool DeviceHeap::is_block(cuda::DevicePointer address, std::uint32_t* unit) const noexcept {
  const std::uint64_t offset = address - space_.base();
  if (offset >= space_.reserved_bytes() || offset % kHeapUnitBytes != 0) return false;
  *unit = static_cast<std::uint32_t>(offset / kHeapUnitBytes);
  return is_live(*unit);
}

HeapBlock DeviceHeap::block_at(std::uint32_t unit) const noexcept {
  const Tag& tag = engine_.tag(unit);
  HeapBlock block;
  block.address = space_.base() + unit * kHeapUnitBytes;
  block.size_bytes = tag.length * kHeapUnitBytes;
  block.requested_bytes = block.size_bytes - tag.previous;
  block.tag = tag.owner;
  block.pins = tag.next;
  return block;
}

std::uint64_t DeviceHeap::size_of(cuda::DevicePointer address) noexcept {
  const Lock lock(space_.table_lock());
  std::uint32_t unit = 0;
  return is_block(address, &unit) ? block_at(unit).size_bytes : 0;
}

Outcome DeviceHeap::grow_in_place(cuda::DevicePointer address, std::uint64_t new_bytes) noexcept {
  std::uint32_t unit = 0;
  HeapBlock before;
  ChunkRange chunks;
  {
    const Lock lock(space_.table_lock());
    if (!is_block(address, &unit)) return misuse(address);
    before = block_at(unit);
    if (is_held(unit)) return Status::in_use;
    const std::uint32_t length = length_of(new_bytes);
    if (length == 0) return new_bytes == 0 ? Status::bad_argument : Status::out_of_addresses;
    if (length < engine_.run_length(unit)) return Status::bad_argument;
    if (length > engine_.run_length(unit)) {
      const Outcome outcome = grow(unit, length);
      if (!outcome.ok()) return outcome;
    }
    chunks = space_.chunks_of(bytes_of(unit, length));
    if (space_.is_mapped(chunks)) {
      resized(before, new_bytes);
      return {};
    }
    engine_.tag(unit).mark |= kMoving;  // nobody frees or pins it while the lock is let go
  }
  Shortage shortage;
  Outcome outcome;
  do {
    outcome = space_.back(chunks, &shortage);
  } while (!outcome.ok() && space_.reclaim(&shortage));
  const Lock lock(space_.table_lock());
  engine_.tag(unit).mark &= static_cast<std::uint8_t>(~unsigned{kMoving});
  if (!outcome.ok()) {
    cut(unit, static_cast<std::uint32_t>(before.size_bytes / kHeapUnitBytes));
    return outcome;
  }
  resized(before, new_bytes);
  return {};
}

// A block has its new length: what was asked for, the counts and the trace follow.
void DeviceHeap::resized(const HeapBlock& before, std::uint64_t new_bytes) noexcept {
  const std::uint32_t unit = unit_of(before.address);
  discount(before);
  slack_of(engine_.tag(unit)) =
      static_cast<std::uint32_t>(engine_.run_length(unit) * kHeapUnitBytes - new_bytes);
  count(block_at(unit));
  write_trace(Event::freed, before.address, before.requested_bytes);
  write_trace(Event::allocated, before.address, new_bytes);
}

Outcome DeviceHeap::shrink(cuda::DevicePointer address, std::uint64_t new_bytes) noexcept {
  const Lock lock(space_.table_lock());
  std::uint32_t unit = 0;
  if (!is_block(address, &unit)) return misuse(address);
  const HeapBlock before = block_at(unit);
  if (is_held(unit)) return Status::in_use;
  if (new_bytes == 0 || new_bytes > before.size_bytes) return Status::bad_argument;
  const std::uint32_t length = length_of(new_bytes);
  if (length < engine_.run_length(unit)) cut(unit, length);
  resized(before, new_bytes);
  return {};
}

Outcome DeviceHeap::pin(cuda::DevicePointer address) noexcept {
  const Lock lock(space_.table_lock());
  std::uint32_t unit = 0;
  if (!is_block(address, &unit)) return misuse(address);
  if ((engine_.tag(unit).mark & kMoving) != 0) return Status::in_use;
  ++pins_of(engine_.tag(unit));
  space_.pin(space_.chunks_of(bytes_of(unit, engine_.run_length(unit))));
  return {};
}

Outcome DeviceHeap::unpin(cuda::DevicePointer address) noexcept {
  const Lock lock(space_.table_lock());
  std::uint32_t unit = 0;
  if (!is_block(address, &unit)) return misuse(address);
  if (pins_of(engine_.tag(unit)) == 0) return Status::bad_argument;
  --pins_of(engine_.tag(unit));
  space_.unpin(space_.chunks_of(bytes_of(unit, engine_.run_length(unit))));
  return {};
}

Outcome DeviceHeap::set_limit(std::uint64_t limit_bytes) noexcept {
  if (options_.budget != nullptr || budget_.set_limit(limit_bytes) != paging::BudgetResult::ok) {
    return Status::bad_argument;
  }
  const DeviceSpaceStats now = space_.stats();
  if (now.held_bytes <= limit_bytes) return {};
  const std::uint64_t spare = now.idle_bytes + now.cached_bytes;
  const std::uint64_t above = now.held_bytes - limit_bytes;
  space_.trim(spare > above ? spare - above : 0);
  return budget_.used_bytes() <= limit_bytes ? Outcome() : Status::in_use;
}

BlockSource DeviceHeap::source() noexcept {
  BlockSource source;
  source.self = this;
  source.allocate = [](void* self, std::uint64_t size_bytes, std::uint64_t align_bytes,
                       cuda::DevicePointer* address) -> Outcome {
    return static_cast<DeviceHeap*>(self)->allocate({size_bytes, align_bytes, 0}, address);
  };
  source.free = [](void* self, cuda::DevicePointer address) -> Outcome {
    return static_cast<DeviceHeap*>(self)->free(address);
  };
  source.allocate_idle = [](void* self, std::uint64_t size_bytes, std::uint64_t align_bytes,
                            cuda::DevicePointer* address) -> Outcome {
    return static_cast<DeviceHeap*>(self)->allocate_mapped({size_bytes, align_bytes, 0}, address);
  };
  source.trim = [](void* self, std::uint64_t keep_bytes) -> std::uint64_t {
    return static_cast<DeviceHeap*>(self)->trim(keep_bytes);
  };
  return source;
}

}  // namespace glebe::device
