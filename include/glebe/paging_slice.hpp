// glebe in C++: parts of pageable buffers as elements of a type. Header-only over paging.hpp.
//
// A Slice names bytes of a buffer and owns nothing: it copies nothing, slices of one buffer see the same
// bytes, and a part of a slice is again a slice. The buffer may end before its slices: then they answer
// glebe_bad_handle, and never with bytes of another buffer; when it was resized and a slice lies outside,
// glebe_bad_argument. Values: copy and use them in any thread; see paging.h for what buffers allow.
#pragma once

#include <glebe/paging.hpp>

#include <cstddef>
#include <span>

namespace glebe {

template <Pageable T = std::byte>
class Slice {
 public:
  using Elements = typename TypedView<T>::Elements;

  Slice() noexcept = default;
  // All of a buffer. Empty when its size is no whole number of elements, or there is no buffer.
  explicit Slice(const PagedBuffer& buffer) noexcept : Slice(buffer, {0, buffer.info().size}) {}
  // A range of it, with its size spelled out; refused when it lies outside or splits an element.
  Slice(const PagedBuffer& buffer, ByteRange range) noexcept
      : pager_(buffer.pager()), handle_(buffer.handle()), range_(range) {
    const std::size_t size = buffer.info().size;
    if (!buffer) {
      result_ = buffer.result() == glebe_ok ? glebe_bad_handle : buffer.result();  // ok: it was closed
    } else if (range.offset_bytes > size || range.size_bytes > size - range.offset_bytes) {
      result_ = glebe_bad_argument;
    } else {
      result_ = fits_elements();
    }
  }

  // Whether it names bytes; if not, result() says what was wrong.
  [[nodiscard]] explicit operator bool() const noexcept { return result_ == glebe_ok; }
  [[nodiscard]] Result result() const noexcept { return result_; }
  [[nodiscard]] std::size_t element_count() const noexcept {
    return *this ? range_.size_bytes / sizeof(T) : 0;
  }
  [[nodiscard]] std::size_t offset_bytes() const noexcept { return range_.offset_bytes; }  // in the buffer

  // `count` elements from `first` on; empty when they do not lie in this slice.
  [[nodiscard]] Slice slice(std::size_t first, std::size_t count) const noexcept {
    Slice part = *this;
    if (!part) return part;
    if (first > element_count() || count > element_count() - first) {
      part.result_ = glebe_bad_argument;
      return part;
    }
    part.range_ = {range_.offset_bytes + first * sizeof(T), count * sizeof(T)};
    return part;
  }
  // The same bytes as elements of U. Empty unless they are a whole number of them and begin where a U may.
  template <Pageable U>
  [[nodiscard]] Slice<U> as() const noexcept {
    Slice<U> other;
    other.pager_ = pager_;
    other.handle_ = handle_;
    other.range_ = range_;
    other.result_ = *this ? other.fits_elements() : result_;
    return other;
  }

  // Keeps the elements in host memory for as long as the answer lives. Empty slices cannot be pinned.
  [[nodiscard]] Elements pin(Access access) const noexcept {
    if (!*this || range_.size_bytes == 0) return Elements(Pin());
    return Elements(Pin(pager_, handle_, range_, access));
  }
  // Sets every element to `value`.
  [[nodiscard]] Result fill(const T& value) const noexcept {
    if (!*this || range_.size_bytes == 0) return result_;
    return glebe_buffer_fill(pager_, handle_, range_.offset_bytes, range_.size_bytes, &value, sizeof(T),
                             nullptr);
  }
  // Copies a slice of the same length, as memmove does; glebe_bad_argument: another length or pager.
  [[nodiscard]] Result copy_from(const Slice& from) const noexcept {
    if (!*this || !from) return *this ? from.result_ : result_;
    if (from.pager_ != pager_ || from.range_.size_bytes != range_.size_bytes) return glebe_bad_argument;
    if (range_.size_bytes == 0) return glebe_ok;
    const glebe_copy_ranges what{from.handle_, handle_, from.range_.offset_bytes, range_.offset_bytes,
                                 range_.size_bytes};
    return glebe_buffer_copy(pager_, &what, nullptr);
  }

 private:
  template <Pageable>
  friend class Slice;

  // Buffers begin at a page, so the offset alone decides about alignment.
  [[nodiscard]] Result fits_elements() const noexcept {
    const bool is_whole = range_.size_bytes % sizeof(T) == 0 && range_.offset_bytes % alignof(T) == 0;
    return is_whole ? glebe_ok : glebe_bad_argument;
  }

  glebe_pager* pager_ = nullptr;
  glebe_buffer handle_ = 0;
  ByteRange range_;
  Result result_ = glebe_bad_handle;
};

}  // namespace glebe
