// See pool_bins.h.
#include "src/device/pool_bins.h"

#include "src/base/bits.h"
#include "src/base/check.h"

namespace glebe::device {

using placement::FixedSlab;
using placement::no_placement;
using placement::Placement;

namespace {
constexpr std::uint64_t kSlabBlocksMax = std::uint64_t{1} << 20;
}

Outcome BinnedEngine::open(const Options& options, const PoolSpace& space) noexcept {
  close();
  if (!is_power_of_two(options.unit_bytes) || !is_power_of_two(options.slab_bytes))
    return Status::bad_argument;
  if (options.bin_count == 0 || options.bin_count > kBinsMax) return Status::bad_argument;
  if (options.slab_bytes >> (options.bin_count - 1) < options.unit_bytes) return Status::bad_argument;
  if (space.chunk_bytes % options.slab_bytes != 0) return Status::bad_argument;
  const std::uint64_t blocks = options.slab_bytes / options.unit_bytes;
  if (blocks > kSlabBlocksMax) return Status::bad_argument;
  const Outcome outcome = heap_.open({options.unit_bytes, placement::TlsfPolicy::first}, space);
  if (!outcome.ok()) return outcome;
  record_bytes_ = sizeof(Slab) + FixedSlab::word_count(static_cast<std::uint32_t>(blocks)) * 8;
  const std::uint64_t table_bytes = space.size_bytes / options.slab_bytes * record_bytes_;
  if (!slabs_.reserve(table_bytes, table_bytes, 4 * kKiB)) {
    heap_.close();
    return Status::no_host_memory;
  }
  unit_bytes_ = options.unit_bytes;
  slab_bytes_ = options.slab_bytes;
  bin_count_ = options.bin_count;
  return {};
}

void BinnedEngine::close() noexcept {
  heap_.close();
  slabs_.release();
  for (std::uint32_t& first : first_) first = kNone;
  slab_count_ = binned_count_ = binned_bytes_ = record_count_ = 0;
}

unsigned BinnedEngine::bin_for(std::uint64_t size_bytes, std::uint64_t align_bytes) const noexcept {
  const std::uint64_t bytes = size_bytes > align_bytes ? size_bytes : align_bytes;
  if (bytes > block_bytes(bin_count_ - 1)) return bin_count_;
  return bytes <= unit_bytes_ ? 0 : log2_ceil(bytes) - log2_floor(unit_bytes_);
}

std::uint64_t BinnedEngine::chunk_bytes_for(std::uint64_t size_bytes,
                                            std::uint64_t align_bytes) const noexcept {
  const bool is_binned = bin_for(size_bytes, align_bytes) < bin_count_;
  return is_binned ? slab_bytes_ : heap_.chunk_bytes_for(size_bytes, align_bytes);
}

bool BinnedEngine::prepare(PoolChunk chunk) noexcept {
  const std::uint64_t end = (chunk.offset + chunk.size_bytes) / slab_bytes_;
  if (!heap_.prepare(chunk) || !slabs_.grow_to(end * record_bytes_)) return false;
  if (end > record_count_) record_count_ = end;
  return true;
}

void BinnedEngine::link(std::uint32_t number, unsigned bin) noexcept {
  slab(number).previous = kNone;
  slab(number).next = first_[bin];
  if (first_[bin] != kNone) slab(first_[bin] - 1).previous = number + 1;
  first_[bin] = number + 1;
}

void BinnedEngine::unlink(std::uint32_t number, unsigned bin) noexcept {
  const Slab& gone = slab(number);
  (gone.previous == kNone ? first_[bin] : slab(gone.previous - 1).next) = gone.next;
  if (gone.next != kNone) slab(gone.next - 1).previous = gone.previous;
}

void BinnedEngine::make_slab(std::uint64_t offset, unsigned bin) noexcept {
  const auto number = static_cast<std::uint32_t>(offset / slab_bytes_);
  Slab& made = slab(number);
  made.bin = bin + 1;
  made.blocks.init(words(made), static_cast<std::uint32_t>(slab_bytes_ / block_bytes(bin)));
  link(number, bin);
  ++slab_count_;
}

// Of a bin that has a free block.
Placement BinnedEngine::take_block(unsigned bin) noexcept {
  const std::uint32_t number = first_[bin] - 1;
  Slab& from = slab(number);
  const std::uint32_t index = from.blocks.take(words(from));
  if (from.blocks.is_full()) unlink(number, bin);
  ++binned_count_;
  binned_bytes_ += block_bytes(bin);
  return {number * slab_bytes_ + index * block_bytes(bin), block_bytes(bin), placement::Status::ok};
}

Placement BinnedEngine::allocate(std::uint64_t size_bytes, std::uint64_t align_bytes) noexcept {
  if (size_bytes == 0 || !is_power_of_two(align_bytes)) return no_placement(placement::Status::bad_argument);
  const unsigned bin = bin_for(size_bytes, align_bytes);
  if (bin == bin_count_) return heap_.allocate(size_bytes, align_bytes);
  if (first_[bin] == kNone) {
    const Placement made = heap_.allocate(slab_bytes_, slab_bytes_);
    if (made.empty()) return made;
    make_slab(made.offset, bin);
  }
  return take_block(bin);
}

Placement BinnedEngine::allocate_in(PoolChunk chunk, std::uint64_t size_bytes,
                                    std::uint64_t align_bytes) noexcept {
  const unsigned bin = bin_for(size_bytes, align_bytes);
  if (bin == bin_count_) return heap_.allocate_in(chunk, size_bytes, align_bytes);
  const Placement made = heap_.allocate_in(chunk, slab_bytes_, slab_bytes_);
  if (made.empty()) return made;
  make_slab(made.offset, bin);
  return take_block(bin);
}

BinnedEngine::Slab* BinnedEngine::slab_at(std::uint64_t offset) const noexcept {
  const std::uint64_t number = offset / slab_bytes_;
  if (number >= record_count_ || slab(number).bin == 0) return nullptr;
  return &slab(number);
}

placement::Status BinnedEngine::free(std::uint64_t offset) noexcept {
  Slab* const home = slab_at(offset);
  if (home == nullptr) return heap_.free(offset);
  const unsigned bin = home->bin - 1;
  const std::uint64_t inside = offset % slab_bytes_;
  if (inside % block_bytes(bin) != 0) return placement::Status::out_of_range;
  const bool was_full = home->blocks.is_full();
  const auto index = static_cast<std::uint32_t>(inside / block_bytes(bin));
  const placement::Status status = home->blocks.put(words(*home), index);
  if (status != placement::Status::ok) return status;
  --binned_count_;
  binned_bytes_ -= block_bytes(bin);
  const auto number = static_cast<std::uint32_t>(offset / slab_bytes_);
  if (was_full) link(number, bin);
  if (!home->blocks.is_empty()) return status;
  unlink(number, bin);
  home->bin = 0;
  --slab_count_;
  CHECK(heap_.free(number * slab_bytes_) == placement::Status::ok);
  return status;
}

std::uint64_t BinnedEngine::size_of(std::uint64_t offset) const noexcept {
  Slab* const home = slab_at(offset);
  if (home == nullptr) return heap_.size_of(offset);
  const std::uint64_t bytes = block_bytes(home->bin - 1);
  const std::uint64_t inside = offset % slab_bytes_;
  if (inside % bytes != 0) return 0;
  return home->blocks.is_free(words(*home), static_cast<std::uint32_t>(inside / bytes)) ? 0 : bytes;
}

bool BinnedEngine::validate() const noexcept {
  std::uint64_t slabs = 0, blocks = 0, bytes = 0;
  for (std::uint64_t number = 0; number < record_count_; ++number) {
    Slab& one = slab(number);
    if (one.bin == 0) continue;
    if (!one.blocks.validate(words(one)) || one.blocks.is_empty()) return false;
    const std::uint64_t live = one.blocks.block_count - one.blocks.free_count;
    ++slabs;
    blocks += live;
    bytes += live * block_bytes(one.bin - 1);
  }
  return heap_.validate() && slabs == slab_count_ && blocks == binned_count_ && bytes == binned_bytes_;
}

}  // namespace glebe::device
