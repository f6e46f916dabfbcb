// See residency_file.h.
#include "src/device/residency_file.h"

#include "src/base/check.h"

namespace glebe::device {

using os::Lock;
using paging::Handle;
using paging::kNoObject;
using paging::kObjectBytesMax;

Outcome ChunkFile::open(const Options& options) noexcept {
  close();
  CHECK(options.chunk_bytes % kObjectBytesMax == 0);
  object_count_ = options.chunk_bytes / kObjectBytesMax;
  places_max_ = options.chunks_max;
  const std::size_t table_bytes = (object_count_ + 1) * sizeof(Handle) * places_max_;
  paging::StoreOptions wanted;
  wanted.compressed_limit_bytes = 0;
  wanted.directory = options.directory;
  wanted.total_bytes_max = options.bytes_max;
  switch (store_.open(wanted)) {
    case paging::StoreProblem::none:
      break;
    case paging::StoreProblem::no_memory:
      return Status::no_host_memory;
    case paging::StoreProblem::no_directory:
    case paging::StoreProblem::no_file:
      return Status::io_error;
  }
  // The working memory stays until the end of this object.
  has_batch_ = has_batch_ || batch_.open();
  has_scratch_ = has_scratch_ || scratch_.open(wanted.codec);
  if (has_batch_ && has_scratch_ && table_.reserve(table_bytes, table_bytes, 4 * kKiB)) return {};
  close();
  return Status::no_host_memory;
}

void ChunkFile::close() noexcept {
  store_.close();
  table_.release();
  used_ = free_ = retired_ = live_ = 0;
}

std::uint64_t* ChunkFile::row(FilePlaceIndex place) noexcept {
  return reinterpret_cast<std::uint64_t*>(table_.base()) + (place - 1) * (object_count_ + 1);
}

bool ChunkFile::take_place(FilePlaceIndex* place) noexcept {
  const Lock lock(mutex_);
  if (free_ != 0) {
    *place = free_;
    free_ = static_cast<FilePlaceIndex>(*row(free_));
  } else {
    if (used_ == places_max_) return false;
    if (!table_.grow_to((used_ + 1) * (object_count_ + 1) * sizeof(Handle))) return false;
    *place = ++used_;
  }
  ++live_;
  for (std::size_t i = 0; i < object_count_; ++i) objects(*place)[i] = kNoObject;
  return true;
}

// Handles of the objects in the batch, in their order.
Outcome ChunkFile::write_batch(Handle* handles) noexcept {
  const unsigned count = batch_.count();
  const unsigned written = store_.write(batch_);
  for (unsigned i = 0; i < count; ++i) handles[i] = batch_.written(i);
  batch_.clear();
  return written == count ? Outcome() : Outcome(Status::io_error);
}

Outcome ChunkFile::write(const std::byte* from, FilePlaceIndex* place) noexcept {
  if (!is_open()) return Status::io_error;
  FilePlaceIndex taken = 0;
  if (!take_place(&taken)) return Status::no_host_memory;
  Outcome outcome;
  std::size_t begin = 0;
  batch_.clear();
  for (std::size_t i = 0; i < object_count_ && outcome.ok();) {
    const bool is_added = store_.add(batch_, from + i * kObjectBytesMax, kObjectBytesMax);
    if (is_added) ++i;
    if (is_added && i < object_count_) continue;
    outcome = write_batch(objects(taken) + begin);
    begin = i;
  }
  if (outcome.ok() && batch_.count() != 0) outcome = write_batch(objects(taken) + begin);
  if (outcome.ok()) {
    *place = taken;
  } else {
    drop(taken);
  }
  return outcome;
}

Outcome ChunkFile::read(FilePlaceIndex place, std::byte* to) noexcept {
  constexpr std::size_t kTogether = paging::kBatchBytes / kObjectBytesMax;
  paging::ObjectRead reads[kTogether];
  const Handle* handles = objects(place);
  for (std::size_t begin = 0; begin < object_count_; begin += kTogether) {
    const std::size_t count = object_count_ - begin < kTogether ? object_count_ - begin : kTogether;
    for (std::size_t i = 0; i < count; ++i) {
      reads[i] = {handles[begin + i], to + (begin + i) * kObjectBytesMax, kObjectBytesMax,
                  paging::GetResult::ok};
    }
    store_.get_many({reads, count}, batch_, scratch_);
    for (std::size_t i = 0; i < count; ++i) {
      if (reads[i].result == paging::GetResult::corrupt) return Status::corrupt;
      if (reads[i].result != paging::GetResult::ok) return Status::io_error;
    }
  }
  return {};
}

void ChunkFile::drop(FilePlaceIndex place) noexcept {
  if (place == 0) return;
  // Nobody else knows the row: its objects are dropped without the lock.
  for (std::size_t i = 0; i < object_count_; ++i) {
    const Handle handle = objects(place)[i];
    if (handle != kNoObject) store_.drop(handle);
  }
  const Lock lock(mutex_);
  *row(place) = free_;
  free_ = place;
  --live_;
}

void ChunkFile::retire(FilePlaceIndex place) noexcept {
  if (place == 0) return;
  const Lock lock(mutex_);
  *row(place) = retired_;
  retired_ = place;
}

void ChunkFile::sweep() noexcept {
  FilePlaceIndex place = 0;
  {
    const Lock lock(mutex_);
    place = retired_;
    retired_ = 0;
  }
  while (place != 0) {
    const auto next = static_cast<FilePlaceIndex>(*row(place));
    drop(place);
    place = next;
  }
}

std::uint32_t ChunkFile::places() noexcept {
  const Lock lock(mutex_);
  return live_;
}

}  // namespace glebe::device
