// glebe in C++: unified buffers of a GPU. Header-only over device_unified.h, which says what each call means
// and what it may answer, and which threads may make it.
//
//   glebe::UnifiedMemory memory;  glebe::UnifiedBuffer buffer;
//   memory.open(device);  buffer.create(memory, 1 << 20);
//   { glebe::HostWrite guard;  buffer.all().overwrite(&guard);  ... guard.elements<float>() ... }
//   { glebe::DeviceUse guard;  buffer.all().read(stream, &guard);  launch(stream, guard.address()); }
//
// Nothing here throws. A UnifiedMemory outlives its buffers, and a buffer the guards of it.
#pragma once

#include <glebe/device_unified.h>
#include <glebe/device.hpp>

#include <cstring>
#include <type_traits>

namespace glebe {

// An access to a range of a buffer, until end() or the end of its scope. It stays where it is: not moved.
class UnifiedGuard {
 public:
  UnifiedGuard() noexcept = default;
  ~UnifiedGuard() { end(); }
  UnifiedGuard(const UnifiedGuard&) = delete;
  UnifiedGuard& operator=(const UnifiedGuard&) = delete;

  [[nodiscard]] bool is_open() const noexcept { return guard_.size != 0; }
  [[nodiscard]] std::uint64_t size_bytes() const noexcept { return guard_.size; }
  void end() noexcept { glebe_unified_end(&guard_); }

 protected:
  friend class UnifiedSlice;
  glebe_unified_guard guard_ = {};
};

class HostRead : public UnifiedGuard {
 public:
  [[nodiscard]] const std::byte* data() const noexcept { return static_cast<const std::byte*>(guard_.data); }
  // As whole elements.
  template <class T>
  [[nodiscard]] std::span<const T> elements() const noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    return {static_cast<const T*>(guard_.data), guard_.size / sizeof(T)};
  }
};

class HostWrite : public UnifiedGuard {
 public:
  [[nodiscard]] std::byte* data() const noexcept { return static_cast<std::byte*>(guard_.data); }
  template <class T>
  [[nodiscard]] std::span<T> elements() const noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    return {static_cast<T*>(guard_.data), guard_.size / sizeof(T)};
  }
};

// The address may be used by work in the stream of the guard.
class DeviceUse : public UnifiedGuard {
 public:
  [[nodiscard]] DeviceAddress address() const noexcept { return guard_.address; }
};

// Gives calls up that were made with it, from any thread.
class CancelFlag {
 public:
  CancelFlag() noexcept = default;
  CancelFlag(const CancelFlag&) = delete;
  CancelFlag& operator=(const CancelFlag&) = delete;

  void set(bool is_cancelled = true) noexcept { glebe_cancel_flag_set(&flag_, is_cancelled ? 1 : 0); }
  [[nodiscard]] const glebe_cancel_flag* flag() const noexcept { return &flag_; }

 private:
  glebe_cancel_flag flag_ = {};
};

class UnifiedMemory : public DeviceOwner<glebe_unified, glebe_unified_close> {
 public:
  [[nodiscard]] DeviceResult open(const Device& device, glebe_unified_options options = {}) noexcept {
    close();
    options.struct_bytes = sizeof options;
    return glebe_unified_open(device.handle(), &options, &handle_);
  }
  [[nodiscard]] glebe_unified_stats stats() const noexcept {
    glebe_unified_stats result = {};
    glebe_unified_get_stats(handle_, &result);
    return result;
  }
};

// A part of a buffer: owns nothing, is copied like a pointer. Used after the buffer was closed it answers
// not_owned.
class UnifiedSlice {
 public:
  UnifiedSlice() noexcept = default;
  UnifiedSlice(glebe_unified* memory, const glebe_unified_range& range) noexcept
      : memory_(memory), range_(range) {}

  [[nodiscard]] std::uint64_t size_bytes() const noexcept { return range_.size; }
  [[nodiscard]] std::uint64_t offset_bytes() const noexcept { return range_.offset; }  // in the buffer
  [[nodiscard]] DeviceResult slice(std::uint64_t offset, std::uint64_t size,
                                   UnifiedSlice* part) const noexcept {
    const DeviceResult result = glebe_unified_slice(&range_, offset, size, &part->range_);
    if (result == glebe_device_ok) part->memory_ = memory_;
    return result;
  }

  // Guards: of the host for any bytes, for some, for all of the range; then the same of the device.
  [[nodiscard]] DeviceResult read(HostRead* guard, const CancelFlag* cancel = nullptr) const noexcept {
    return access(glebe_unified_host_read, nullptr, cancel, guard);
  }
  [[nodiscard]] DeviceResult write(HostWrite* guard, const CancelFlag* cancel = nullptr) const noexcept {
    return access(glebe_unified_host_write, nullptr, cancel, guard);
  }
  [[nodiscard]] DeviceResult overwrite(HostWrite* guard, const CancelFlag* cancel = nullptr) const noexcept {
    return access(glebe_unified_host_overwrite, nullptr, cancel, guard);
  }
  [[nodiscard]] DeviceResult read(void* stream, DeviceUse* guard,
                                  const CancelFlag* cancel = nullptr) const noexcept {
    return access(glebe_unified_device_read, stream, cancel, guard);
  }
  [[nodiscard]] DeviceResult write(void* stream, DeviceUse* guard,
                                   const CancelFlag* cancel = nullptr) const noexcept {
    return access(glebe_unified_device_write, stream, cancel, guard);
  }
  [[nodiscard]] DeviceResult overwrite(void* stream, DeviceUse* guard,
                                       const CancelFlag* cancel = nullptr) const noexcept {
    return access(glebe_unified_device_overwrite, stream, cancel, guard);
  }

  DeviceResult prefetch(glebe_unified_side side, void* stream = nullptr) const noexcept {
    return glebe_unified_prefetch(memory_, &range_, side, stream);
  }
  // A value of 1, 2, 4, 8 or 16 bytes, again and again.
  template <class T>
  [[nodiscard]] DeviceResult fill(const T& value, glebe_unified_side side,
                                  void* stream = nullptr) const noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    return glebe_unified_fill(memory_, &range_, &value, sizeof value, side, stream);
  }
  // From another part of the same UnifiedMemory, of the same size.
  [[nodiscard]] DeviceResult copy_from(const UnifiedSlice& from, glebe_unified_side side,
                                       void* stream = nullptr) const noexcept {
    if (memory_ != from.memory_) return glebe_device_bad_argument;
    return glebe_unified_copy(memory_, &range_, &from.range_, side, stream);
  }

 private:
  // A guard that is open is ended first.
  DeviceResult access(glebe_unified_use use, void* stream, const CancelFlag* cancel,
                      UnifiedGuard* guard) const noexcept {
    if (guard == nullptr) return glebe_device_bad_argument;
    guard->end();
    return glebe_unified_access(memory_, &range_, use, stream, cancel != nullptr ? cancel->flag() : nullptr,
                                &guard->guard_);
  }

  glebe_unified* memory_ = nullptr;
  glebe_unified_range range_ = {};
};

// Owns a buffer, alone or with others that share() made; the last one closes it. If there are guards when the
// destructor runs, the last of them closes the buffer.
class UnifiedBuffer {
 public:
  UnifiedBuffer() noexcept = default;
  ~UnifiedBuffer() { abandon(); }
  UnifiedBuffer(UnifiedBuffer&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)), buffer_(std::exchange(other.buffer_, 0)) {}
  UnifiedBuffer& operator=(UnifiedBuffer&& other) noexcept {
    if (this != &other) {
      abandon();
      memory_ = std::exchange(other.memory_, nullptr);
      buffer_ = std::exchange(other.buffer_, 0);
    }
    return *this;
  }
  UnifiedBuffer(const UnifiedBuffer&) = delete;
  UnifiedBuffer& operator=(const UnifiedBuffer&) = delete;

  // All three: in_use: this object owns a buffer already.
  [[nodiscard]] DeviceResult create(const UnifiedMemory& memory, std::uint64_t size,
                                    bool is_pinned = true) noexcept {
    if (memory_ != nullptr) return glebe_device_in_use;
    return keep(memory.handle(), glebe_unified_create(memory.handle(), size, is_pinned ? 1 : 0, &buffer_));
  }
  [[nodiscard]] DeviceResult adopt(const UnifiedMemory& memory, std::span<std::byte> host,
                                   DeviceAddress address = 0) noexcept {
    if (memory_ != nullptr) return glebe_device_in_use;
    return keep(memory.handle(),
                glebe_unified_adopt(memory.handle(), host.size(), host.data(), address, &buffer_));
  }
  // Memory of the device alone.
  [[nodiscard]] DeviceResult adopt(const UnifiedMemory& memory, DeviceAddress address,
                                   std::uint64_t size) noexcept {
    if (memory_ != nullptr) return glebe_device_in_use;
    return keep(memory.handle(), glebe_unified_adopt(memory.handle(), size, nullptr, address, &buffer_));
  }
  // Another owner of the same buffer, in an object that owns nothing.
  [[nodiscard]] DeviceResult share(UnifiedBuffer* other) const noexcept {
    if (memory_ == nullptr) return glebe_device_not_owned;
    if (other == nullptr || other->memory_ != nullptr) return glebe_device_in_use;
    const DeviceResult result = glebe_unified_retain(memory_, buffer_);
    if (result != glebe_device_ok) return result;
    other->memory_ = memory_;
    other->buffer_ = buffer_;
    return result;
  }
  // Gives the buffer up. in_use, timed_out, or an error of the driver: it is still owned.
  DeviceResult close() noexcept {
    if (memory_ == nullptr) return glebe_device_ok;
    const DeviceResult result = glebe_unified_release(memory_, buffer_);
    if (result == glebe_device_ok || result == glebe_device_not_owned) memory_ = nullptr;
    return result;
  }

  explicit operator bool() const noexcept { return memory_ != nullptr; }
  [[nodiscard]] glebe_unified_buffer handle() const noexcept { return buffer_; }
  // All of it, at the size that it has now. Empty when it is closed.
  [[nodiscard]] UnifiedSlice all() const noexcept { return {memory_, {buffer_, 0, info().size}}; }
  // Zeros when it is closed.
  [[nodiscard]] glebe_unified_info info() const noexcept {
    glebe_unified_info result = {};
    static_cast<void>(glebe_unified_get_info(memory_, buffer_, &result));
    return result;
  }
  [[nodiscard]] DeviceResult evict(glebe_unified_side side,
                                   const CancelFlag* cancel = nullptr) const noexcept {
    return glebe_unified_evict(memory_, buffer_, side, cancel != nullptr ? cancel->flag() : nullptr);
  }
  [[nodiscard]] DeviceResult discard() const noexcept { return glebe_unified_discard(memory_, buffer_); }
  [[nodiscard]] DeviceResult resize(std::uint64_t size) const noexcept {
    return glebe_unified_resize(memory_, buffer_, size);
  }
  [[nodiscard]] DeviceResult attach(DeviceAddress address) const noexcept {
    return glebe_unified_attach(memory_, buffer_, address);
  }
  [[nodiscard]] DeviceResult detach(DeviceAddress* address) const noexcept {
    return glebe_unified_detach(memory_, buffer_, address);
  }
  [[nodiscard]] DeviceResult mark_written(glebe_unified_side side) const noexcept {
    return glebe_unified_mark_written(memory_, buffer_, side);
  }
  [[nodiscard]] DeviceResult wait_idle() const noexcept { return glebe_unified_wait_idle(memory_, buffer_); }

 private:
  DeviceResult keep(glebe_unified* memory, DeviceResult result) noexcept {
    if (result == glebe_device_ok) memory_ = memory;
    return result;
  }
  void abandon() noexcept {
    if (memory_ != nullptr) glebe_unified_abandon(std::exchange(memory_, nullptr), buffer_);
  }

  glebe_unified* memory_ = nullptr;
  glebe_unified_buffer buffer_ = 0;
};

// A buffer that two processes have. The UnifiedMemory outlives it.
class UnifiedShare : public DeviceOwner<glebe_unified_share, glebe_unified_share_close> {
 public:
  [[nodiscard]] DeviceResult create(const UnifiedMemory& memory,
                                    glebe_unified_share_options options) noexcept {
    close();
    memory_ = memory.handle();
    options.struct_bytes = sizeof options;
    return glebe_unified_share_create(memory_, &options, &handle_);
  }
  [[nodiscard]] DeviceResult receive(const UnifiedMemory& memory, int socket,
                                     bool is_pinned = true) noexcept {
    close();
    memory_ = memory.handle();
    return glebe_unified_share_receive(memory_, socket, is_pinned ? 0 : 1, &handle_);
  }
  [[nodiscard]] DeviceResult send(int socket) const noexcept {
    return glebe_unified_share_send(handle_, socket);
  }
  [[nodiscard]] DeviceResult hand_over() const noexcept { return glebe_unified_share_hand_over(handle_); }
  [[nodiscard]] DeviceResult take_over() const noexcept { return glebe_unified_share_take_over(handle_); }
  [[nodiscard]] UnifiedSlice all() const noexcept {
    glebe_unified_info now = {};
    const glebe_unified_buffer buffer = glebe_unified_share_buffer(handle_);
    static_cast<void>(glebe_unified_get_info(memory_, buffer, &now));
    return {memory_, {buffer, 0, now.size}};
  }

 private:
  glebe_unified* memory_ = nullptr;
};

}  // namespace glebe
