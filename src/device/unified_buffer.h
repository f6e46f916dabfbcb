// A unified buffer as programs hold it: an owner, slices of it, and typed views (namespace glebe::device).
// What they do and cost is in unified_buffer_memory.h.
//
//   UnifiedBuffer buffer;
//   buffer.create(memory, {.size_bytes = 1 << 20});
//   { HostWrite guard; buffer.all().host_write(&guard, Overwrite::full); ... guard.data() ... }
//   { DeviceRead guard; buffer.all().device_read(stream, &guard); launch(stream, guard.address()); }
#pragma once

#include <cstring>
#include <span>
#include <type_traits>

#include "src/device/unified_buffer_memory.h"

namespace glebe::device {

// A part of a buffer: shares its memory and state, owns nothing, is copied like a pointer. Each use answers
// not_owned once the buffer is closed, and bad_argument where the buffer became too small. It outlives no
// UnifiedMemory. Thread-safe as the buffer is.
class UnifiedSlice {
 public:
  constexpr UnifiedSlice() noexcept = default;
  constexpr UnifiedSlice(UnifiedMemory& memory, const UnifiedRange& range) noexcept
      : memory_(&memory), range_(range) {}

  [[nodiscard]] std::uint64_t size_bytes() const noexcept { return range_.size_bytes; }
  [[nodiscard]] std::uint64_t offset_bytes() const noexcept { return range_.offset_bytes; }  // in the buffer
  [[nodiscard]] const UnifiedRange& range() const noexcept { return range_; }
  [[nodiscard]] UnifiedMemory* memory() const noexcept { return memory_; }

  // A part of this part. bad_argument: empty or not inside; *part is as before.
  Outcome slice(std::uint64_t offset_bytes, std::uint64_t size_bytes, UnifiedSlice* part) const noexcept {
    if (memory_ == nullptr || size_bytes == 0 || offset_bytes > range_.size_bytes ||
        size_bytes > range_.size_bytes - offset_bytes) {
      return Status::bad_argument;
    }
    *part = UnifiedSlice(*memory_, {range_.buffer, range_.offset_bytes + offset_bytes, size_bytes});
    return {};
  }

  // The guards. See UnifiedMemory::access() for what they answer.
  Outcome host_read(HostRead* guard, const CancelFlag* cancel = nullptr) const noexcept {
    return open({range_, UnifiedUse::host_read, nullptr, cancel}, guard);
  }
  Outcome host_write(HostWrite* guard, Overwrite overwrite = Overwrite::partial,
                     const CancelFlag* cancel = nullptr) const noexcept {
    const bool is_full = overwrite == Overwrite::full;
    return open({range_, is_full ? UnifiedUse::host_overwrite : UnifiedUse::host_write, nullptr, cancel},
                guard);
  }
  Outcome device_read(cuda::Stream stream, DeviceRead* guard,
                      const CancelFlag* cancel = nullptr) const noexcept {
    return open({range_, UnifiedUse::device_read, stream, cancel}, guard);
  }
  Outcome device_write(cuda::Stream stream, DeviceWrite* guard, Overwrite overwrite = Overwrite::partial,
                       const CancelFlag* cancel = nullptr) const noexcept {
    const bool is_full = overwrite == Overwrite::full;
    return open({range_, is_full ? UnifiedUse::device_overwrite : UnifiedUse::device_write, stream, cancel},
                guard);
  }

  // `stream` matters on the device only.
  Outcome prefetch(UnifiedSide side, cuda::Stream stream = nullptr) const noexcept {
    return memory_ != nullptr ? memory_->prefetch(range_, side, stream) : Outcome(Status::not_owned);
  }
  // A value of 1, 2, 4, 8 or 16 bytes, again and again.
  template <class T>
  Outcome fill(const T& value, UnifiedSide side, cuda::Stream stream = nullptr) const noexcept {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(UnifiedPattern::bytes));
    if (memory_ == nullptr) return Status::not_owned;
    UnifiedPattern pattern;
    pattern.size_bytes = sizeof(T);
    std::memcpy(pattern.bytes, &value, sizeof value);
    return memory_->fill(range_, pattern, side, stream);
  }
  // From another part of the same UnifiedMemory, of the same size.
  Outcome copy_from(const UnifiedSlice& from, UnifiedSide side,
                    cuda::Stream stream = nullptr) const noexcept {
    if (memory_ == nullptr || memory_ != from.memory_) return Status::bad_argument;
    return memory_->copy(range_, from.range_, side, stream);
  }

 private:
  Outcome open(const UnifiedMemory::Request& request, UnifiedGuard* guard) const noexcept {
    return memory_ != nullptr ? memory_->access(request, guard) : Outcome(Status::not_owned);
  }

  UnifiedMemory* memory_ = nullptr;
  UnifiedRange range_;
};

// A part as elements: all of them, none cut, none misplaced.
template <class T>
class UnifiedView {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  constexpr UnifiedView() noexcept = default;

  // bad_argument: the part is not an exact multiple of the element, or does not start at its alignment (also
  // where the memory was adopted). not_owned: the buffer is closed.
  static Outcome of(const UnifiedSlice& slice, UnifiedView* view) noexcept {
    const bool is_exact = slice.size_bytes() % sizeof(T) == 0 && slice.offset_bytes() % alignof(T) == 0;
    if (!is_exact || slice.size_bytes() == 0) return Status::bad_argument;
    UnifiedInfo now;
    const Outcome outcome = slice.memory()->info(slice.range().buffer, &now);
    if (!outcome.ok()) return outcome;
    if (now.align_bytes < alignof(T)) return Status::bad_argument;
    view->slice_ = slice;
    return {};
  }

  [[nodiscard]] std::uint64_t size() const noexcept { return slice_.size_bytes() / sizeof(T); }  // elements
  [[nodiscard]] const UnifiedSlice& slice() const noexcept { return slice_; }
  // `count` elements from `first` on. bad_argument: not inside.
  Outcome part(std::uint64_t first, std::uint64_t count, UnifiedView* view) const noexcept {
    if (first > size() || count > size() - first) return Status::bad_argument;
    return slice_.slice(first * sizeof(T), count * sizeof(T), &view->slice_);
  }

  // What guards of this view's part, or of its parts, give access to.
  [[nodiscard]] static std::span<const T> elements(const HostRead& guard) noexcept {
    return {reinterpret_cast<const T*>(guard.data()), guard.size_bytes() / sizeof(T)};
  }
  [[nodiscard]] static std::span<T> elements(const HostWrite& guard) noexcept {
    return {reinterpret_cast<T*>(guard.data()), guard.size_bytes() / sizeof(T)};
  }

 private:
  UnifiedSlice slice_;
};

// Owns a buffer, alone or with others that share() made; the last one closes it. Moved, not copied. If there
// are guards when the destructor runs, the last of them closes the buffer; what the driver does not let go of
// then stays.
class UnifiedBuffer {
 public:
  UnifiedBuffer() noexcept = default;
  ~UnifiedBuffer() {
    if (memory_ != nullptr) memory_->abandon(handle_);
  }
  UnifiedBuffer(UnifiedBuffer&& other) noexcept : memory_(other.memory_), handle_(other.handle_) {
    other.memory_ = nullptr;
    other.handle_ = 0;
  }
  UnifiedBuffer& operator=(UnifiedBuffer&& other) noexcept {
    UnifiedBuffer old(static_cast<UnifiedBuffer&&>(*this));
    memory_ = other.memory_;
    handle_ = other.handle_;
    other.memory_ = nullptr;
    other.handle_ = 0;
    return *this;
  }
  UnifiedBuffer(const UnifiedBuffer&) = delete;
  UnifiedBuffer& operator=(const UnifiedBuffer&) = delete;

  // in_use: this object owns a buffer already. Otherwise as UnifiedMemory answers.
  Outcome create(UnifiedMemory& memory, const UnifiedBufferOptions& options) noexcept {
    if (memory_ != nullptr) return Status::in_use;
    return keep(memory, memory.create(options, &handle_));
  }
  // With contents.
  Outcome create(UnifiedMemory& memory, const UnifiedBufferOptions& options, const void* contents) noexcept {
    if (contents == nullptr) return Status::bad_argument;
    Outcome outcome = create(memory, options);
    if (!outcome.ok()) return outcome;
    HostWrite guard;
    outcome = memory.access({{handle_, 0, options.size_bytes}, UnifiedUse::host_overwrite}, &guard);
    if (outcome.ok()) {
      std::memcpy(guard.data(), contents, options.size_bytes);
    } else {
      static_cast<void>(close());  // it has no memory: nothing can fail
    }
    return outcome;
  }
  Outcome adopt(UnifiedMemory& memory, const UnifiedAdoption& adoption) noexcept {
    if (memory_ != nullptr) return Status::in_use;
    return keep(memory, memory.adopt(adoption, &handle_));
  }
  // Another owner of the same buffer, in an object that owns nothing.
  Outcome share(UnifiedBuffer* other) const noexcept {
    if (memory_ == nullptr) return Status::not_owned;
    if (other == nullptr || other->memory_ != nullptr) return Status::in_use;
    const Outcome outcome = memory_->share(handle_);
    if (!outcome.ok()) return outcome;
    other->memory_ = memory_;
    other->handle_ = handle_;
    return outcome;
  }
  // Gives the buffer up. May be called twice. in_use: this thread has a guard; timed_out; an error of the
  // driver: the buffer is still owned.
  Outcome close() noexcept {
    if (memory_ == nullptr) return {};
    const Outcome outcome = memory_->release(handle_);
    if (!outcome.ok() && outcome.status != Status::not_owned) return outcome;
    memory_ = nullptr;
    handle_ = 0;
    return outcome;
  }

  [[nodiscard]] bool is_open() const noexcept { return memory_ != nullptr; }
  [[nodiscard]] UnifiedHandle handle() const noexcept { return handle_; }
  [[nodiscard]] UnifiedMemory* memory() const noexcept { return memory_; }
  // All of it, at the size that it has now. Empty when it is closed.
  [[nodiscard]] UnifiedSlice all() const noexcept {
    UnifiedInfo now;
    if (memory_ == nullptr || !memory_->info(handle_, &now).ok()) return {};
    return {*memory_, {handle_, 0, now.size_bytes}};
  }
  Outcome info(UnifiedInfo* now) const noexcept {
    return memory_ != nullptr ? memory_->info(handle_, now) : Outcome(Status::not_owned);
  }
  Outcome evict(UnifiedSide side, const CancelFlag* cancel = nullptr) noexcept {
    return memory_ != nullptr ? memory_->evict(handle_, side, cancel) : Outcome(Status::not_owned);
  }
  Outcome discard() noexcept {
    return memory_ != nullptr ? memory_->discard(handle_) : Outcome(Status::not_owned);
  }
  Outcome resize(std::uint64_t size_bytes) noexcept {
    return memory_ != nullptr ? memory_->resize(handle_, size_bytes) : Outcome(Status::not_owned);
  }

 private:
  Outcome keep(UnifiedMemory& memory, const Outcome& outcome) noexcept {
    if (outcome.ok()) memory_ = &memory;
    return outcome;
  }

  UnifiedMemory* memory_ = nullptr;
  UnifiedHandle handle_ = 0;
};

}  // namespace glebe::device
