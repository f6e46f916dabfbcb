// The file tier; see file_tier.h. Order: write and what it is made of, drop, fork, statistics. Reading is in
// file_tier_read.cpp.
#include "src/paging/file_tier.h"

#include <cerrno>

#include "platform/process.h"
#include "src/base/check.h"
#include "src/paging/checksum.h"

namespace glebe::paging {
namespace {

constexpr std::uint32_t kPageUnits = kPageBytes / kUnitBytes;
// Segments of at least this begin at a page, so that no page of the file is written in two halves.
constexpr std::uint32_t kAlignedUnits = 64;
// Smallest piece that a batch is cut into for the sake of gaps, while the files could grow.
constexpr std::uint32_t kPieceUnits = 64;
constexpr unsigned kStolenMax = 4;           // times that room is lost to other threads before it is given up
constexpr std::uint32_t kReleaseStep = 256;  // parked objects that are freed under one lock

constexpr auto kRelaxed = std::memory_order_relaxed;

std::uint32_t units_of(const BatchParts& parts, unsigned begin, unsigned end) noexcept {
  const BatchEntry& last = parts.entries[end - 1];
  const std::uint32_t bytes = last.offset_bytes - parts.entries[begin].offset_bytes;
  return static_cast<std::uint32_t>(bytes / kUnitBytes) + last.units();
}

bool wants_page_alignment(std::uint32_t units, bool is_direct) noexcept {
  return is_direct || units >= kAlignedUnits;
}

}  // namespace

StoreProblem FileTier::open(const StoreOptions& options) noexcept {
  const std::uint64_t units = options.total_bytes_max / kUnitBytes;
  if (!table_.open(units)) return StoreProblem::no_memory;
  if (!options.io_uring) io_.forbid();
  return files_.open(options);
}

unsigned FileTier::write(Batch& batch) noexcept { return write_parts(BatchParts(batch), nullptr); }

Handle FileTier::write_one(const std::byte* data, std::uint32_t size_bytes,
                           const WriteBegun& begun) noexcept {
  BatchEntry entry{kNoObject, 0, size_bytes, size_bytes, 0, Form::raw};
  static_cast<void>(write_parts(BatchParts(data, &entry), &begun));
  return entry.written;
}

unsigned FileTier::write_parts(const BatchParts& parts, const WriteBegun* begun) noexcept {
  for (unsigned i = 0; i < parts.count; ++i) parts.entries[i].written = kNoObject;
  if (parts.count == 0 || is_sealed_) return 0;
  Plan plan;
  place(parts, plan);
  write_segments(parts, plan, begun);
  const unsigned written = finish(parts, plan);
  if (written == parts.count) {
    degraded_since_ms_.store(0, kRelaxed);
  } else {
    const std::uint64_t now_ms = os::clock_coarse_ms();
    std::uint64_t never = 0;
    degraded_since_ms_.compare_exchange_strong(never, now_ms != 0 ? now_ms : 1, kRelaxed);
  }
  if (files_.should_trim()) static_cast<void>(files_.trim());
  return written;
}

// Finds room for as many objects as possible: in one piece; in pieces when there are many gaps; by growth for
// all of them, for half of them and so on; in the end in whatever pieces there are.
void FileTier::place(const BatchParts& parts, Plan& plan) noexcept {
  unsigned wanted = parts.count;  // objects that the files are to grow for; 0: they cannot
  for (unsigned stolen = 0; plan.objects < parts.count && plan.count < kSegmentsMax;) {
    {
      os::Lock hold(files_.lock());
      if (place_segment(parts, plan, parts.count)) continue;
      const bool is_capped = wanted < parts.count - plan.objects;  // no growth for all of them
      const std::uint32_t piece = wanted == 0 ? 1 : is_capped ? kPageUnits : kPieceUnits;
      if ((is_capped || files_.has_many_gaps()) && place_next(parts, plan, piece)) continue;
      if (wanted == 0) break;
    }
    const unsigned left = parts.count - plan.objects;
    if (wanted > left) wanted = left;
    const std::uint32_t units = growth_for(units_of(parts, plan.objects, plan.objects + wanted));
    if (!files_.grow_for(units)) {
      wanted /= 2;
      continue;
    }
    os::Lock hold(files_.lock());
    // Another thread may have taken what was gained.
    if (!place_segment(parts, plan, plan.objects + wanted) && ++stolen == kStolenMax) wanted = 0;
  }
  if (plan.objects < parts.count) {
    last_error_.store(ENOSPC, kRelaxed);
    failed_writes_.fetch_add(1, kRelaxed);
  }
}

// Places the longest of ever shorter fronts of what is left, down to `units_min`.
bool FileTier::place_next(const BatchParts& parts, Plan& plan, std::uint32_t units_min) noexcept {
  for (unsigned count = parts.count - plan.objects; count > 1;) {
    count -= count / 2;
    if (units_of(parts, plan.objects, plan.objects + count) < units_min) return false;
    if (place_segment(parts, plan, plan.objects + count)) return true;
  }
  return false;
}

// What a file has to grow by so that so many units find a place in it.
std::uint32_t FileTier::growth_for(std::uint32_t units) const noexcept {
  return wants_page_alignment(units, files_.is_direct()) ? units + 2 * (kPageUnits - 1) : units;
}

bool FileTier::place_segment(const BatchParts& parts, Plan& plan, unsigned end) noexcept {
  Segment& segment = plan.segments[plan.count];
  segment = Segment{plan.objects, end, {}, 0, false};
  std::uint32_t units = units_of(parts, segment.begin, end);
  const bool is_aligned_to_page = wants_page_alignment(units, files_.is_direct());
  if (is_aligned_to_page) units = static_cast<std::uint32_t>(align_up(units, kPageUnits));
  if (!files_.take(units, is_aligned_to_page ? kPageUnits : 1, &segment.place)) return false;
  FileSpace& space = files_.space(segment.place.file);
  if (!take_records(parts, segment)) {
    space.put(segment.place.first);
    return false;
  }
  // Each object becomes a run of its own; the last one keeps what the alignment added.
  std::uint32_t first = segment.place.first;
  for (unsigned i = segment.begin; i < end; ++i) {
    table_.at(parts.entries[i].index).unit = first;
    if (i + 1 < end) space.split(first, parts.entries[i].units());
    first += parts.entries[i].units();
  }
  segment.is_new_storage = space.mark_written(segment.place.first, segment.place.units);
  plan.count += 1;
  plan.objects = end;
  return true;
}

bool FileTier::take_records(const BatchParts& parts, const Segment& segment) noexcept {
  for (unsigned i = segment.begin; i < segment.end; ++i) {
    const std::uint32_t index = table_.take();
    if (index == ObjectTable::kNone) {
      for (unsigned taken = segment.begin; taken < i; ++taken) table_.put(parts.entries[taken].index);
      return false;
    }
    parts.entries[i].index = index;
    table_.at(index).hold_stamp = hold_stamp_;
  }
  return true;
}

// Fills in the records of a segment. Nobody else knows them yet.
void FileTier::describe(const BatchParts& parts, const Segment& segment) noexcept {
  for (unsigned i = segment.begin; i < segment.end; ++i) {
    const BatchEntry& entry = parts.entries[i];
    FileObject& object = table_.at(entry.index);
    object.stored_less_1 = static_cast<std::uint16_t>(entry.stored_bytes - 1);
    object.size_less_1 = static_cast<std::uint16_t>(entry.size_bytes - 1);
    object.file = static_cast<std::uint16_t>(segment.place.file);
    object.form = entry.form;
    object.checksum =
        checksum(parts.data + entry.offset_bytes, entry.stored_bytes, object.identity(entry.index));
  }
}

void FileTier::write_segments(const BatchParts& parts, Plan& plan, const WriteBegun* begun) noexcept {
  os::IoRequest requests[kSegmentsMax];
  for (unsigned i = 0; i < plan.count; ++i) {
    const Segment& segment = plan.segments[i];
    describe(parts, segment);
    requests[i] = os::IoRequest{&files_.file(segment.place.file),
                                segment.place.first * kUnitBytes,
                                parts.data + parts.entries[segment.begin].offset_bytes,
                                segment.place.units * kUnitBytes,
                                true,
                                0};
  }
  if (begun != nullptr) begun->tell(begun->context);
  io_.run({requests, plan.count});
  for (unsigned i = 0; i < plan.count; ++i) {
    Segment& segment = plan.segments[i];
    segment.error = requests[i].error;
    if (segment.is_new_storage || segment.error != 0) {
      files_.measure(segment.place.file);
    } else {
      const std::uint64_t end = std::uint64_t{segment.place.first} + segment.place.units;
      files_.note_length(segment.place.file, end * kUnitBytes);
    }
  }
}

// Publishes what was written and gives back what was not. Returns how many objects were written.
unsigned FileTier::finish(const BatchParts& parts, const Plan& plan) noexcept {
  unsigned written = 0;
  os::Lock hold(files_.lock());
  for (unsigned at = 0; at < plan.count; ++at) {
    const Segment& segment = plan.segments[at];
    if (segment.error != 0) {
      files_.failed(segment.place.file, segment.error);
      last_error_.store(segment.error, kRelaxed);
      failed_writes_.fetch_add(1, kRelaxed);
      for (unsigned i = segment.begin; i < segment.end; ++i) free_object(parts.entries[i].index);
    } else {
      files_.succeeded(segment.place.file);
      writes_.fetch_add(1, kRelaxed);
      written_bytes_.fetch_add(segment.place.units * kUnitBytes, kRelaxed);
      written += segment.end - segment.begin;
      for (unsigned i = segment.begin; i < segment.end; ++i) publish(parts.entries[i]);
    }
  }
  written_objects_.fetch_add(written, kRelaxed);
  return written;
}

// With the lock held.
void FileTier::count_object(const FileObject& object, bool is_added) noexcept {
  const std::uint64_t sign = is_added ? 1 : ~std::uint64_t{0};
  objects_.fetch_add(sign, kRelaxed);
  object_bytes_.fetch_add(sign * object.size_bytes(), kRelaxed);
  stored_bytes_.fetch_add(sign * object.stored_bytes(), kRelaxed);
  if (is_sealed_) return;
  live_units_.fetch_add(sign * files_.space(object.file).run_units(object.unit), kRelaxed);
}

// With the lock held.
void FileTier::publish(BatchEntry& entry) noexcept {
  count_object(table_.at(entry.index), true);
  entry.written = table_.handle(entry.index);
}

// With the lock held.
void FileTier::free_object(std::uint32_t index) noexcept {
  const FileObject& object = table_.at(index);
  files_.space(object.file).put(object.unit);
  table_.put(index);
}

void FileTier::drop(Handle handle) noexcept {
  os::Lock hold(files_.lock());
  FileObject* const object = table_.find(handle);
  CHECK(object != nullptr);
  count_object(*object, false);
  const std::uint32_t index = ObjectTable::index_of(handle);
  if (is_sealed_) {
    object->state = ObjectState::parked;
  } else if (holds_ != 0 && object->hold_stamp != hold_stamp_) {
    object->state = ObjectState::parked;
    object->next = parked_;
    parked_ = index + 1;
    parked_units_.fetch_add(files_.space(object->file).run_units(object->unit), kRelaxed);
  } else {
    free_object(index);
  }
}

void FileTier::hold() noexcept {
  os::Lock hold(files_.lock());
  ++holds_;
  ++hold_stamp_;
}

void FileTier::release() noexcept {
  std::uint32_t parked = 0;
  {
    os::Lock hold(files_.lock());
    CHECK(holds_ != 0);
    if (--holds_ != 0) return;
    // A hold that begins meanwhile is about what exists then: these do not.
    parked = parked_;
    parked_ = 0;
  }
  while (parked != 0) {
    os::Lock hold(files_.lock());
    for (std::uint32_t i = 0; parked != 0 && i < kReleaseStep; ++i) {
      const std::uint32_t index = parked - 1;
      const FileObject& object = table_.at(index);
      parked = object.next;
      parked_units_.fetch_sub(files_.space(object.file).run_units(object.unit), kRelaxed);
      free_object(index);
    }
  }
}

void FileTier::add_to(StoreStats& stats) noexcept {
  stats.file_objects = objects_.load(kRelaxed);
  stats.file_object_bytes = object_bytes_.load(kRelaxed);
  stats.file_stored_bytes = stored_bytes_.load(kRelaxed);
  stats.file_live_bytes = live_units_.load(kRelaxed) * kUnitBytes;
  stats.file_parked_bytes = parked_units_.load(kRelaxed) * kUnitBytes;
  stats.writes = writes_.load(kRelaxed);
  stats.written_objects = written_objects_.load(kRelaxed);
  stats.written_bytes = written_bytes_.load(kRelaxed);
  stats.failed_writes = failed_writes_.load(kRelaxed);
  stats.reads = reads_.load(kRelaxed);
  stats.read_bytes = read_bytes_.load(kRelaxed);
  stats.failed_reads = failed_reads_.load(kRelaxed);
  stats.corrupt_reads = corrupt_reads_.load(kRelaxed);
  stats.last_error = last_error_.load(kRelaxed);
  stats.io_rings = io_.open_count();
  files_.add_to(stats);
}

void FileTier::seal_in_child() noexcept {
  is_sealed_ = true;
  io_.forbid();
  files_.seal_in_child();
}

}  // namespace glebe::paging
