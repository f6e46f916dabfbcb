// Filling ranges and copying between them; see buffer_pager.h.
//
// Both go extent by extent and pin no more than one of each side at a time, so that neither side need fit in
// memory. Where the budget has room for one extent only, the bytes take a detour through memory that is
// mapped for the length of one piece.
#include <cstring>

#include "platform/vm.h"
#include "src/base/text.h"
#include "src/paging/buffer_use.h"

namespace glebe::paging {
namespace {

// A pin for a scope.
class Held {
 public:
  Held(BufferPager& pager, BufferHandle handle, const ByteRange& range, Access access) noexcept
      : pager_(pager),
        handle_(handle),
        range_(range),
        access_(access),
        pinned_(pager.pin(handle, range, access)) {}
  ~Held() {
    if (pinned_.data != nullptr) static_cast<void>(pager_.unpin(handle_, range_, access_));
  }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  [[nodiscard]] std::byte* data() const noexcept { return pinned_.data; }
  [[nodiscard]] Result result() const noexcept { return pinned_.result; }

 private:
  BufferPager& pager_;
  const BufferHandle handle_;
  const ByteRange range_;
  const Access access_;
  const PinnedRange pinned_;
};

// Repeats `element` over [to, to + size_bytes), beginning with its byte number `phase`. Each step copies what
// is there already, so that small elements cost few of them.
void repeat(std::byte* to, std::size_t size_bytes, std::span<const std::byte> element,
            std::size_t phase) noexcept {
  const std::size_t period = element.size();
  std::size_t done = 0;
  for (; done < size_bytes && done < period; ++done) to[done] = element[(phase + done) % period];
  while (done < size_bytes) {
    const std::size_t count = done < size_bytes - done ? done : size_bytes - done;
    std::memcpy(to + done, to, count);
    done += count;
  }
}

bool is_zero(std::span<const std::byte> element) noexcept {
  for (const std::byte byte : element) {
    if (byte != std::byte{0}) return false;
  }
  return true;
}

std::size_t least(std::size_t a, std::size_t b) noexcept { return a < b ? a : b; }

Result refuse(RangeError* error, const RangeError& what) noexcept {
  if (error != nullptr) *error = what;
  return Result::bad_argument;
}

}  // namespace

struct BufferPager::Span {
  std::size_t offset_bytes = 0, size_bytes = 0, buffer_bytes = 0;
};

struct BufferPager::Pattern {
  std::span<const std::byte> element;
  std::size_t origin_bytes;  // where its first byte goes
  bool is_zero;
  std::size_t buffer_bytes;
};

void RangeError::describe(Text& text) const noexcept {
  const auto range = [&]() noexcept -> Text& {
    return text.append_unsigned(size_bytes)
        .append(" bytes from ")
        .append_unsigned(offset_bytes)
        .append(" on");
  };
  switch (problem) {
    case RangeProblem::none:
      text.append("the range is right");
      return;
    case RangeProblem::outside:
    case RangeProblem::source_outside:
      text.append(problem == RangeProblem::outside ? "the range, " : "the range to read, ");
      range().append(", is empty or ends behind the buffer, which has ").append_unsigned(limit_bytes);
      text.append(": shorten it, or resize the buffer");
      return;
    case RangeProblem::lengths_differ:
      text.append("the source has ");
      range().append(", the destination ").append_unsigned(limit_bytes);
      text.append(": name a size, or resize one of them");
      return;
    case RangeProblem::not_whole_elements:
      text.append("the range, ");
      range().append(", is no multiple of an element of ").append_unsigned(limit_bytes);
      return;
  }
}

// The range with its size spelled out.
Result BufferPager::find_range(BufferHandle handle, const ByteRange& range, Span* found,
                               RangeError* error) noexcept {
  std::size_t bytes = 0;
  if (const Result result = size_of(handle, &bytes); result != Result::ok) return result;
  *found = {range.offset_bytes, range.size_bytes, bytes};
  const bool is_inside = range.offset_bytes < bytes && range.size_bytes <= bytes - range.offset_bytes;
  if (!is_inside) {
    return refuse(error, {RangeProblem::outside, range.offset_bytes, range.size_bytes, bytes});
  }
  if (range.size_bytes == 0) found->size_bytes = bytes - range.offset_bytes;
  return Result::ok;
}

Result BufferPager::fill(BufferHandle handle, const ByteRange& range, std::span<const std::byte> element,
                         RangeError* error) noexcept {
  if (error != nullptr) *error = {};
  if (element.empty()) return Result::bad_argument;
  Span span;
  if (const Result result = find_range(handle, range, &span, error); result != Result::ok) return result;
  if (span.size_bytes % element.size() != 0) {
    return refuse(error,
                  {RangeProblem::not_whole_elements, span.offset_bytes, span.size_bytes, element.size()});
  }
  const Pattern pattern{element, span.offset_bytes, is_zero(element), span.buffer_bytes};
  const std::size_t end = span.offset_bytes + span.size_bytes;
  for (std::size_t at = span.offset_bytes; at < end;) {
    const std::size_t in_extent = options_.extent_bytes - (at & (options_.extent_bytes - 1));
    const ByteRange part{at, least(in_extent, end - at)};
    if (const Result result = fill_part(handle, part, pattern); result != Result::ok) return result;
    at += part.size_bytes;
  }
  return Result::ok;
}

// A part of one extent.
Result BufferPager::fill_part(BufferHandle handle, const ByteRange& part, const Pattern& pattern) noexcept {
  const std::size_t end = part.offset_bytes + part.size_bytes;
  const bool is_whole = (part.offset_bytes & (options_.extent_bytes - 1)) == 0 &&
                        (part.size_bytes == options_.extent_bytes || end == pattern.buffer_bytes);
  if (pattern.is_zero && is_whole) {
    const Result result = move(handle, part, Operation::discard, Tier::host);
    if (result != Result::pinned) return result;
  }
  const Held held(*this, handle, part, Access::write);
  if (held.result() != Result::ok) return held.result();
  const std::size_t phase = (part.offset_bytes - pattern.origin_bytes) % pattern.element.size();
  repeat(held.data(), part.size_bytes, pattern.element, phase);
  return Result::ok;
}

Result BufferPager::copy(const CopyRanges& what, RangeError* error) noexcept {
  if (error != nullptr) *error = {};
  Span from, to;
  Result result = find_range(what.from, {what.from_offset, what.size_bytes}, &from, error);
  if (result == Result::bad_argument && error != nullptr) error->problem = RangeProblem::source_outside;
  if (result == Result::ok) result = find_range(what.to, {what.to_offset, what.size_bytes}, &to, error);
  if (result != Result::ok) return result;
  if (from.size_bytes != to.size_bytes) {
    return refuse(error, {RangeProblem::lengths_differ, from.offset_bytes, from.size_bytes, to.size_bytes});
  }
  const std::size_t mask = options_.extent_bytes - 1;
  // Backwards where the destination lies behind the source, so that nothing is read after it was written.
  const bool is_backwards = what.from == what.to && to.offset_bytes > from.offset_bytes;
  for (std::size_t left = from.size_bytes; left != 0;) {
    CopyRanges part = what;
    if (is_backwards) {
      const std::size_t from_end = from.offset_bytes + left, to_end = to.offset_bytes + left;
      part.size_bytes = least(left, least(((from_end - 1) & mask) + 1, ((to_end - 1) & mask) + 1));
      part.from_offset = from_end - part.size_bytes;
      part.to_offset = to_end - part.size_bytes;
    } else {
      const std::size_t done = from.size_bytes - left;
      part.from_offset = from.offset_bytes + done;
      part.to_offset = to.offset_bytes + done;
      const std::size_t rooms =
          least(mask + 1 - (part.from_offset & mask), mask + 1 - (part.to_offset & mask));
      part.size_bytes = least(left, rooms);
    }
    if (result = copy_part(part); result != Result::ok) return result;
    left -= part.size_bytes;
  }
  return Result::ok;
}

// From one extent to one extent.
Result BufferPager::copy_part(const CopyRanges& part) noexcept {
  if (part.from == part.to && part.from_offset >> extent_shift_ == part.to_offset >> extent_shift_) {
    const std::size_t begin = least(part.from_offset, part.to_offset);
    const std::size_t end = part.from_offset + part.to_offset - begin + part.size_bytes;
    const Held held(*this, part.from, {begin, end - begin}, Access::write);
    if (held.result() != Result::ok) return held.result();
    std::memmove(held.data() + (part.to_offset - begin), held.data() + (part.from_offset - begin),
                 part.size_bytes);
    return Result::ok;
  }
  {
    const Held from(*this, part.from, {part.from_offset, part.size_bytes}, Access::read);
    if (from.result() != Result::ok) return from.result();
    const Held to(*this, part.to, {part.to_offset, part.size_bytes}, Access::write);
    if (to.result() == Result::ok) std::memcpy(to.data(), from.data(), part.size_bytes);
    if (to.result() != Result::over_budget) return to.result();
  }
  return copy_by_bounce(part);
}

// One side after the other, for budgets that do not hold two extents.
Result BufferPager::copy_by_bounce(const CopyRanges& part) noexcept {
  const std::size_t room_bytes = options_.extent_bytes;
  void* const room = os::reserve(room_bytes, os::page_bytes());
  if (room == nullptr) return Result::no_memory;
  Result result = os::commit(room, room_bytes) ? Result::ok : Result::no_memory;
  if (result == Result::ok) {
    const Held from(*this, part.from, {part.from_offset, part.size_bytes}, Access::read);
    result = from.result();
    if (result == Result::ok) std::memcpy(room, from.data(), part.size_bytes);
  }
  if (result == Result::ok) {
    const Held to(*this, part.to, {part.to_offset, part.size_bytes}, Access::write);
    result = to.result();
    if (result == Result::ok) std::memcpy(to.data(), room, part.size_bytes);
  }
  os::release(room, room_bytes);
  return result;
}

}  // namespace glebe::paging
