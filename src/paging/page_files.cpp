// The page files of one store; see page_files.h.
#include "src/paging/page_files.h"

#include <cerrno>
#include <new>

#include "platform/process.h"
#include "src/base/check.h"

namespace glebe::paging {
namespace {

constexpr std::uint32_t kStepMin = static_cast<std::uint32_t>(kMiB / kUnitBytes);
constexpr std::uint32_t kStepMax = static_cast<std::uint32_t>(64 * kMiB / kUnitBytes);
constexpr std::uint64_t kFreeShare = 20;  // 1/20 of the file system is left alone, at most kFreeMax of it
constexpr std::uint64_t kFreeMax = kGiB;
constexpr std::uint32_t kIdleBlocksMax = 1024;  // 64 MiB that hold nothing

std::uint64_t min_of(std::uint64_t a, std::uint64_t b) noexcept { return a < b ? a : b; }

}  // namespace

StoreProblem PageFiles::open(const StoreOptions& options) noexcept {
  constexpr std::uint64_t kUnitsMax = placement::kTlsfUnitsMax - kBlockUnits;
  file_units_max_ = static_cast<std::uint32_t>(min_of(options.file_bytes_max / kUnitBytes, kUnitsMax));
  total_units_max_ = options.total_bytes_max / kUnitBytes;
  wants_direct_ = options.direct_io;
  const std::size_t slots_bytes = kFilesMax * sizeof(Slot);
  if (!memory_.reserve(slots_bytes, slots_bytes, os::page_bytes())) return StoreProblem::no_memory;
  if (directory_.open(options.directory) != 0) return StoreProblem::no_directory;
  if (!memory_.grow_to(sizeof(Slot))) return StoreProblem::no_memory;
  Slot* const slot = ::new (&slots()[0]) Slot;
  const int error = slot->file.create(directory_, wants_direct_);
  const bool has_space = error == 0 && slot->space.open(file_units_max_);
  if (!has_space) slot->~Slot();
  if (error == EACCES || error == EROFS || error == ENOTDIR) return StoreProblem::no_directory;
  if (error != 0) return StoreProblem::no_file;
  if (!has_space) return StoreProblem::no_memory;
  count_.store(1, std::memory_order_release);
  return StoreProblem::none;
}

void PageFiles::close() noexcept {
  const std::uint32_t count = file_count();
  for (std::uint32_t number = 0; number < count; ++number) slots()[number].~Slot();
  count_.store(0, std::memory_order_relaxed);
  directory_.close();
  memory_.release();
}

bool PageFiles::is_usable(const Slot& slot, std::uint64_t now_ms) const noexcept {
  return slot.failed_at_ms == 0 || now_ms - slot.failed_at_ms >= kRetryMs;
}

bool PageFiles::take(std::uint32_t units, std::uint32_t align_units, FilePlace* place) noexcept {
  const std::uint64_t now_ms = os::clock_coarse_ms();
  const std::uint32_t count = file_count();
  for (std::uint32_t number = 0; number < count; ++number) {
    Slot& slot = slots()[number];
    if (slot.space.free_units() < units || !is_usable(slot, now_ms)) continue;
    const FileSpace::Run run = slot.space.take(units, align_units);
    if (run.empty()) continue;
    *place = FilePlace{number, run.first, run.length};
    return true;
  }
  return false;
}

void PageFiles::failed(std::uint32_t number, int error) noexcept {
  const std::uint64_t now_ms = os::clock_coarse_ms();
  slots()[number].failed_at_ms = now_ms != 0 ? now_ms : 1;
  if (error == ENOSPC || error == EDQUOT) no_growth_until_ms_ = now_ms + kRetryMs;
}

std::uint64_t PageFiles::all_units() noexcept {
  std::uint64_t units = 0;
  const std::uint32_t count = file_count();
  for (std::uint32_t number = 0; number < count; ++number) units += slots()[number].space.units();
  return units;
}

bool PageFiles::has_many_gaps() noexcept {
  std::uint64_t free_units = 0;
  const std::uint32_t count = file_count();
  for (std::uint32_t number = 0; number < count; ++number) free_units += slots()[number].space.free_units();
  return free_units > all_units() / 4;
}

// How many units the files own and have no storage for yet: they will need it, and statvfs does not know.
std::uint64_t PageFiles::unbacked_units() noexcept {
  std::uint64_t units = 0;
  const std::uint32_t count = file_count();
  for (std::uint32_t number = 0; number < count; ++number) {
    const Slot& slot = slots()[number];
    const std::uint64_t backed = slot.allocated_bytes.load(std::memory_order_relaxed) / kUnitBytes;
    if (slot.space.units() > backed) units += slot.space.units() - backed;
  }
  return units;
}

// How many units all files together may grow by now.
std::uint64_t PageFiles::room_units() noexcept {
  os::PageDirectory::Space space{};
  std::uint64_t room = UINT64_MAX;
  const std::uint64_t now_ms = os::clock_coarse_ms();
  const bool is_known = directory_.space(&space);
  os::Lock hold(lock_);
  if (now_ms < no_growth_until_ms_) return 0;
  if (is_known) {
    const std::uint64_t kept_bytes = min_of(divide_up(space.total_bytes, kFreeShare), kFreeMax);
    const std::uint64_t kept = divide_up(kept_bytes, kUnitBytes) + unbacked_units();
    room = space.free_bytes / kUnitBytes > kept ? space.free_bytes / kUnitBytes - kept : 0;
  }
  const std::uint64_t used = all_units();
  return min_of(room, total_units_max_ > used ? total_units_max_ - used : 0);
}

bool PageFiles::grow_for(std::uint32_t units) noexcept {
  os::Lock growing(growth_);
  const std::uint64_t room = room_units();
  return room >= units && (grow_existing(units, room) || add_file(units, room));
}

bool PageFiles::grow_existing(std::uint32_t units, std::uint64_t room) noexcept {
  const std::uint64_t limit = min_of(file_units_max_, os::PageFile::length_limit_bytes() / kUnitBytes);
  const std::uint64_t now_ms = os::clock_coarse_ms();
  os::Lock hold(lock_);
  const std::uint32_t count = file_count();
  for (std::uint32_t number = 0; number < count; ++number) {
    Slot& slot = slots()[number];
    const std::uint64_t used = slot.space.units();
    if (!is_usable(slot, now_ms) || used >= limit || limit - used < units) continue;
    std::uint64_t step = used / 8;
    step = step < kStepMin ? kStepMin : min_of(step, kStepMax);
    step = align_up(step < units ? units : step, kBlockUnits);
    step = min_of(min_of(step, limit - used), room);
    if (slot.space.grow(static_cast<std::uint32_t>(step))) return true;
  }
  return false;
}

bool PageFiles::add_file(std::uint32_t units, std::uint64_t room) noexcept {
  const std::uint32_t number = file_count();
  const std::uint64_t limit = min_of(file_units_max_, os::PageFile::length_limit_bytes() / kUnitBytes);
  if (number == kFilesMax || units > limit) return false;
  if (!memory_.grow_to((std::size_t{number} + 1) * sizeof(Slot))) return false;
  Slot* const slot = ::new (&slots()[number]) Slot;
  const std::uint64_t step = min_of(min_of(units > kStepMin ? units : kStepMin, limit), room);
  const int error = slot->file.create(directory_, wants_direct_);
  if (error != 0 || !slot->space.open(file_units_max_) ||
      !slot->space.grow(static_cast<std::uint32_t>(step))) {
    slot->~Slot();
    os::Lock hold(lock_);
    no_growth_until_ms_ = os::clock_coarse_ms() + kRetryMs;
    return false;
  }
  count_.store(number + 1, std::memory_order_release);
  return true;
}

// Punches holes where nothing is. What is being punched is nobody's meanwhile.
std::size_t PageFiles::punch(Slot& slot) noexcept {
  const std::uint64_t before = slot.file.size().allocated_bytes;
  std::uint32_t block = 0;
  bool was_punched = false;
  for (bool is_possible = true; is_possible;) {
    FileSpace::Hole hole{};
    {
      os::Lock hold(lock_);
      if (!slot.space.take_hole(&block, &hole)) break;
    }
    is_possible = slot.file.punch_hole(hole.first_block * kBlockBytes, hole.count * kBlockBytes) == 0;
    was_punched = was_punched || is_possible;
    os::Lock hold(lock_);
    slot.space.put_hole(hole, is_possible);
  }
  const std::uint64_t after = was_punched ? slot.file.size().allocated_bytes : before;
  return before > after ? before - after : 0;
}

std::size_t PageFiles::cut(Slot& slot) noexcept {
  os::Lock growing(growth_);
  std::uint64_t end = 0;
  {
    os::Lock hold(lock_);
    if (slot.space.shrink() == 0) return 0;
    end = slot.space.units() * kUnitBytes;
  }
  const os::PageFile::Size before = slot.file.size();
  if (before.length_bytes <= end || slot.file.truncate(end) != 0) return 0;
  const std::uint64_t after = slot.file.size().allocated_bytes;
  return before.allocated_bytes > after ? before.allocated_bytes - after : 0;
}

std::size_t PageFiles::trim() noexcept {
  if (is_sealed_ || !trim_.try_lock()) return 0;  // another thread is at it
  std::size_t bytes = 0;
  const std::uint32_t count = file_count();
  for (std::uint32_t number = 0; number < count; ++number) {
    bytes += cut(slots()[number]);
    bytes += punch(slots()[number]);
    measure(number);
  }
  trim_.unlock();
  return bytes;
}

void PageFiles::measure(std::uint32_t number) noexcept {
  Slot& slot = slots()[number];
  const os::PageFile::Size size = slot.file.size();
  slot.length_bytes.store(size.length_bytes, std::memory_order_relaxed);
  slot.allocated_bytes.store(size.allocated_bytes, std::memory_order_relaxed);
}

void PageFiles::note_length(std::uint32_t number, std::uint64_t end_bytes) noexcept {
  std::atomic<std::uint64_t>& length = slots()[number].length_bytes;
  std::uint64_t known = length.load(std::memory_order_relaxed);
  while (known < end_bytes && !length.compare_exchange_weak(known, end_bytes, std::memory_order_relaxed)) {
  }
}

unsigned PageFiles::descriptors(int* out, unsigned max) noexcept {
  const std::uint32_t count = file_count();
  for (std::uint32_t number = 0; number < count && number < max; ++number) {
    out[number] = slots()[number].file.descriptor();
  }
  return count;
}

bool PageFiles::should_trim() noexcept {
  os::Lock hold(lock_);
  std::uint64_t idle = 0;
  const std::uint32_t count = file_count();
  for (std::uint32_t number = 0; number < count; ++number) idle += slots()[number].space.idle_blocks();
  return idle > kIdleBlocksMax;
}

void PageFiles::add_to(StoreStats& stats) noexcept {
  const std::uint32_t count = file_count();
  stats.files = count;
  for (std::uint32_t number = 0; number < count; ++number) {
    stats.file_length_bytes += slots()[number].length_bytes.load(std::memory_order_relaxed);
    stats.file_allocated_bytes += slots()[number].allocated_bytes.load(std::memory_order_relaxed);
    stats.direct_files += slots()[number].file.is_direct() ? 1 : 0;
    if (is_sealed_) continue;  // the space may have been changing when the process was forked
    os::Lock hold(lock_);
    FileSpace& space = slots()[number].space;
    stats.file_space_bytes += space.units() * kUnitBytes;
    stats.file_free_bytes += space.free_units() * kUnitBytes;
    const std::size_t largest = space.largest_free_units() * kUnitBytes;
    if (largest > stats.file_largest_free_bytes) stats.file_largest_free_bytes = largest;
  }
}

void PageFiles::seal_in_child() noexcept {
  is_sealed_ = true;
  lock_.reset_in_child();
  growth_.reset_in_child();
  trim_.reset_in_child();
}

}  // namespace glebe::paging
