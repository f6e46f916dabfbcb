// A growing range of units; see space.h.
#include "src/paging/space.h"

#include "platform/vm.h"
#include "src/base/bits.h"
#include "src/base/check.h"

namespace glebe::paging {
namespace {

constexpr std::size_t kStepBytes = 2 * kMiB;  // least growth, of units

// Makes `wanted` bytes from `base` on accessible; `limit` is what is reserved.
bool commit_to(std::byte* base, std::size_t wanted, std::size_t limit, std::size_t& committed) noexcept {
  if (wanted <= committed) return true;
  std::size_t end = align_up(wanted, os::page_bytes());
  if (end > limit) end = limit;
  if (!os::commit(base + committed, end - committed)) return false;
  committed = end;
  return true;
}

}  // namespace

bool Space::open(std::uint32_t capacity_units, std::size_t unit_bytes, std::uint32_t least_units) noexcept {
  CHECK(base_ == nullptr);
  const std::size_t page = os::page_bytes();
  unit_bytes_ = unit_bytes;
  for (std::uint32_t units = capacity_units; units >= least_units && units != 0; units /= 2) {
    base_bytes_ = align_up(std::size_t{units} * unit_bytes, page);
    tag_bytes_ = align_up(std::size_t{units} * sizeof(placement::Tag), page);
    void* base = os::reserve(base_bytes_, page);
    if (base == nullptr) continue;
    void* tags = os::reserve(tag_bytes_, page);
    if (tags == nullptr) {
      os::release(base, base_bytes_);
      continue;
    }
    base_ = static_cast<std::byte*>(base);
    tags_ = static_cast<placement::Tag*>(tags);
    capacity_ = units;
    engine_.attach(tags_, capacity_);
    return true;
  }
  return false;
}

void Space::close() noexcept {
  if (base_ == nullptr) return;
  os::release(base_, base_bytes_);
  os::release(tags_, tag_bytes_);
  base_ = nullptr;
  tags_ = nullptr;
  base_committed_ = tags_committed_ = 0;
  capacity_ = 0;
}

// Adds at least `count` units behind those that are there.
bool Space::grow(std::uint32_t count) noexcept {
  const std::uint32_t known = engine_.range_units();
  const std::uint32_t room = capacity_ - known;
  if (count > room) return false;
  // An eighth more each time, so that a space of any size grows in few steps.
  std::uint64_t extra = divide_up(kStepBytes, unit_bytes_);
  if (extra < known / 8) extra = known / 8;
  if (extra < count) extra = count;
  if (extra > room) extra = room;
  const std::size_t end = known + extra;
  if (!commit_to(reinterpret_cast<std::byte*>(tags_), end * sizeof(placement::Tag), tag_bytes_,
                 tags_committed_)) {
    return false;
  }
  if (!commit_to(base_, end * unit_bytes_, base_bytes_, base_committed_)) return false;
  const auto added = static_cast<std::uint32_t>(extra);
  const placement::Status status =
      known == 0 ? engine_.add_range(0, added) : engine_.extend_range(0, known, added);
  CHECK(status == placement::Status::ok);
  return true;
}

placement::Run Space::take(std::uint32_t count) noexcept {
  const os::Lock hold(lock_);
  placement::Run run = engine_.allocate(count);
  if (run.empty() && run.status == placement::Status::exhausted && grow(count)) run = engine_.allocate(count);
  return run;
}

bool Space::give_back(std::uint32_t first) noexcept {
  const os::Lock hold(lock_);
  return engine_.free(first).status == placement::Status::ok;
}

bool Space::resize(std::uint32_t first, std::uint32_t count) noexcept {
  const os::Lock hold(lock_);
  const std::uint32_t length = engine_.run_length(first);
  if (count == length) return true;
  if (count < length) return engine_.shrink(first, count).status == placement::Status::ok;
  if (!engine_.grow_in_place(first, count).empty()) return true;
  // The last run of all can grow with the space.
  const std::uint32_t behind = engine_.next_run(first);
  const bool is_last = behind == placement::kNoUnit ||
                       (engine_.is_free_start(behind) && engine_.next_run(behind) == placement::kNoUnit);
  return is_last && grow(count - length) && !engine_.grow_in_place(first, count).empty();
}

std::uint32_t Space::used_units() noexcept {
  const os::Lock hold(lock_);
  return engine_.range_units() - engine_.free_units();
}

std::uint32_t Space::known_units() noexcept {
  const os::Lock hold(lock_);
  return engine_.range_units();
}

}  // namespace glebe::paging
