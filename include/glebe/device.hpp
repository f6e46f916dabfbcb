// glebe in C++: devices, heaps, pools and resident memory of a GPU that end with their scope. Header-only
// over device.h, which says what each call means and what it may answer.
//
// Nothing here throws but std::bad_alloc of a std::string: what can fail answers with a DeviceResult. Objects
// are movable; an empty one was not opened, or was moved from. A Device outlives what was opened on it, a
// heap its pools and blocks. Unified buffers, transfers and memory pools: device_unified.hpp,
// device_transfer.hpp, device_memory_pool.hpp.
#pragma once

#include <glebe/device.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace glebe {

using DeviceResult = glebe_device_result;
using DeviceAddress = std::uint64_t;
[[nodiscard]] inline const char* text_of(DeviceResult result) noexcept {
  return glebe_device_result_text(result);
}

// Owns what a handle stands for. kClose is called once.
template <class Handle, auto kClose>
class DeviceOwner {
 public:
  DeviceOwner() noexcept = default;
  ~DeviceOwner() { close(); }
  DeviceOwner(DeviceOwner&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  DeviceOwner& operator=(DeviceOwner&& other) noexcept {
    if (this != &other) {
      close();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  DeviceOwner(const DeviceOwner&) = delete;
  DeviceOwner& operator=(const DeviceOwner&) = delete;

  [[nodiscard]] Handle* handle() const noexcept { return handle_; }
  explicit operator bool() const noexcept { return handle_ != nullptr; }
  void close() noexcept {
    if (handle_ != nullptr) static_cast<void>(kClose(std::exchange(handle_, nullptr)));
  }

 protected:
  Handle* handle_ = nullptr;
};

class Device : public DeviceOwner<glebe_device, glebe_device_close> {
 public:
  // The GPU with this number. *why gets a sentence when there is none.
  [[nodiscard]] DeviceResult open(int ordinal = 0, std::string* why = nullptr) {
    glebe_device_options options = {};
    options.kind = glebe_device_real;
    options.ordinal = ordinal;
    return open(options, why);
  }
  // Host memory that behaves like a device with so many bytes, multiples of 2 MiB.
  [[nodiscard]] DeviceResult open_emulated(std::uint64_t device_bytes, std::uint64_t host_bytes,
                                           std::string* why = nullptr) {
    glebe_device_options options = {};
    options.kind = glebe_device_emulated;
    options.emulated_bytes = device_bytes;
    options.emulated_host_bytes = host_bytes;
    return open(options, why);
  }
  [[nodiscard]] glebe_device_info info() const noexcept {
    glebe_device_info result = {};
    static_cast<void>(glebe_device_get_info(handle_, &result));
    return result;
  }
  [[nodiscard]] DeviceResult write(DeviceAddress to, std::span<const std::byte> from) const noexcept {
    return glebe_device_write(handle_, to, from.data(), from.size());
  }
  [[nodiscard]] DeviceResult read(std::span<std::byte> to, DeviceAddress from) const noexcept {
    return glebe_device_read(handle_, to.data(), from, to.size());
  }

 private:
  DeviceResult open(glebe_device_options& options, std::string* why) {
    close();
    options.struct_bytes = sizeof options;
    char message[512] = "";
    const DeviceResult result = glebe_device_open(&options, &handle_, message, sizeof message);
    if (why != nullptr) *why = message;
    return result;
  }
};

class DeviceHeap : public DeviceOwner<glebe_device_heap, glebe_device_heap_close> {
 public:
  [[nodiscard]] DeviceResult open(const Device& device, glebe_device_heap_options options = {}) noexcept {
    close();
    options.struct_bytes = sizeof options;
    return glebe_device_heap_open(device.handle(), &options, &handle_);
  }
  [[nodiscard]] DeviceResult allocate(std::uint64_t size, DeviceAddress* address,
                                      std::uint64_t alignment = 0) const noexcept {
    return glebe_device_heap_allocate(handle_, size, alignment, address);
  }
  [[nodiscard]] DeviceResult allocate_tagged(std::uint64_t size, std::uint32_t tag, DeviceAddress* address,
                                             std::uint64_t alignment = 0) const noexcept {
    return glebe_device_heap_allocate_tagged(handle_, size, alignment, tag, address);
  }
  DeviceResult free(DeviceAddress address) const noexcept { return glebe_device_heap_free(handle_, address); }
  [[nodiscard]] DeviceResult resize(DeviceAddress address, std::uint64_t size) const noexcept {
    return glebe_device_heap_resize(handle_, address, size);
  }
  [[nodiscard]] std::uint64_t usable_size(DeviceAddress address) const noexcept {
    return glebe_device_heap_usable_size(handle_, address);
  }
  std::uint64_t trim(std::uint64_t keep = 0) const noexcept { return glebe_device_heap_trim(handle_, keep); }
  DeviceResult set_limit(std::uint64_t limit) const noexcept {
    return glebe_device_heap_set_limit(handle_, limit);
  }
  DeviceResult prewarm(std::uint64_t size) const noexcept { return glebe_device_heap_prewarm(handle_, size); }
  void reset_peaks() const noexcept { glebe_device_heap_reset_peaks(handle_); }
  [[nodiscard]] DeviceResult tag(const char* name, std::uint32_t* tag) const noexcept {
    return glebe_device_heap_tag(handle_, name, tag);
  }
  [[nodiscard]] DeviceResult tag_stats(std::uint32_t tag, glebe_device_tag_stats* stats) const noexcept {
    return glebe_device_heap_get_tag_stats(handle_, tag, stats);
  }
  // `visit` takes a const glebe_device_block& and returns whether to go on; it throws nothing.
  template <class Visit>
  DeviceResult walk(Visit visit) const noexcept {
    return glebe_device_heap_walk(
        handle_,
        [](void* context, const glebe_device_block* block) -> int {
          return (*static_cast<Visit*>(context))(*block) ? 1 : 0;
        },
        &visit);
  }
  [[nodiscard]] DeviceResult pin(DeviceAddress address) const noexcept {
    return glebe_device_heap_pin(handle_, address);
  }
  DeviceResult unpin(DeviceAddress address) const noexcept {
    return glebe_device_heap_unpin(handle_, address);
  }
  [[nodiscard]] DeviceResult relocate(DeviceAddress address, DeviceAddress* new_address) const noexcept {
    return glebe_device_heap_relocate(handle_, address, new_address);
  }
  DeviceResult finish_relocation(DeviceAddress old_address) const noexcept {
    return glebe_device_heap_finish_relocation(handle_, old_address);
  }
  // `may_move` takes a const glebe_device_block& and returns a bool, `moved` a const glebe_device_move&; both
  // throw nothing. `options` needs no callbacks.
  template <class MayMove, class Moved>
  DeviceResult defragment(MayMove may_move, Moved moved, glebe_device_defragment_result* result = nullptr,
                          glebe_device_defragment_options options = {}) const noexcept {
    struct Calls {
      MayMove& may_move;
      Moved& moved;
    } calls = {may_move, moved};
    options.struct_bytes = sizeof options;
    options.context = &calls;
    options.may_move = [](void* context, const glebe_device_block* block) -> int {
      return static_cast<Calls*>(context)->may_move(*block) ? 1 : 0;
    };
    options.moved = [](void* context, const glebe_device_move* move) {
      static_cast<Calls*>(context)->moved(*move);
    };
    return glebe_device_heap_defragment(handle_, &options, result);
  }
  [[nodiscard]] glebe_device_heap_stats stats() const noexcept {
    glebe_device_heap_stats result = {};
    glebe_device_heap_get_stats(handle_, &result);
    return result;
  }
};

// In the order of streams. Closing waits for the device; a pool that cannot be closed (its streams are being
// captured, say) keeps its memory.
class DevicePool : public DeviceOwner<glebe_device_pool, glebe_device_pool_close> {
 public:
  [[nodiscard]] DeviceResult open(const DeviceHeap& heap) noexcept {
    close();
    return glebe_device_pool_open(heap.handle(), &handle_);
  }
  [[nodiscard]] DeviceResult allocate(std::uint64_t size, void* stream,
                                      DeviceAddress* address) const noexcept {
    return glebe_device_pool_allocate(handle_, size, stream, address);
  }
  DeviceResult free(DeviceAddress address, void* stream) const noexcept {
    return glebe_device_pool_free(handle_, address, stream);
  }
  DeviceResult record_use(DeviceAddress address, void* stream) const noexcept {
    return glebe_device_pool_record_use(handle_, address, stream);
  }
  DeviceResult forget_stream(void* stream) const noexcept {
    return glebe_device_pool_forget_stream(handle_, stream);
  }
  [[nodiscard]] glebe_device_pool_stats stats() const noexcept {
    glebe_device_pool_stats result = {};
    glebe_device_pool_get_stats(handle_, &result);
    return result;
  }
};

class ResidentMemory;

// Keeps allocations on the device for a scope. Released at its end, after the work was queued.
class DeviceLease {
 public:
  DeviceLease() noexcept = default;
  ~DeviceLease() { release(); }
  DeviceLease(DeviceLease&& other) noexcept
      : owner_(std::exchange(other.owner_, nullptr)), lease_(other.lease_) {}
  DeviceLease& operator=(DeviceLease&& other) noexcept {
    if (this != &other) {
      release();
      owner_ = std::exchange(other.owner_, nullptr);
      lease_ = other.lease_;
    }
    return *this;
  }
  DeviceLease(const DeviceLease&) = delete;
  DeviceLease& operator=(const DeviceLease&) = delete;

  explicit operator bool() const noexcept { return owner_ != nullptr; }
  DeviceResult release() noexcept {
    if (owner_ == nullptr) return glebe_device_ok;
    const DeviceResult result = glebe_device_release(owner_, lease_);
    if (result == glebe_device_ok || result == glebe_device_lost) owner_ = nullptr;
    return result;
  }

 private:
  friend class ResidentMemory;
  glebe_device_resident* owner_ = nullptr;
  glebe_device_lease lease_ = {};
};

class ResidentMemory : public DeviceOwner<glebe_device_resident, glebe_device_resident_close> {
 public:
  [[nodiscard]] DeviceResult open(const Device& device, glebe_device_resident_options options) noexcept {
    close();
    options.struct_bytes = sizeof options;
    return glebe_device_resident_open(device.handle(), &options, &handle_);
  }
  [[nodiscard]] DeviceResult allocate(std::uint64_t size, std::uint32_t tag,
                                      DeviceAddress* address) const noexcept {
    return glebe_device_resident_allocate(handle_, size, tag, address);
  }
  DeviceResult free(DeviceAddress address) const noexcept {
    return glebe_device_resident_free(handle_, address);
  }
  // An earlier lease of the object is released first. *why gets a sentence when there is no room.
  [[nodiscard]] DeviceResult acquire(std::span<const glebe_device_use> uses, void* stream, DeviceLease* lease,
                                     std::string* why = nullptr) const {
    const DeviceResult before = lease->release();
    if (before != glebe_device_ok) return before;
    char message[256] = "";
    const DeviceResult result = glebe_device_acquire(handle_, uses.data(), uses.size(), stream,
                                                     &lease->lease_, message, sizeof message);
    if (result == glebe_device_ok) lease->owner_ = handle_;
    if (why != nullptr) *why = message;
    return result;
  }
  DeviceResult prefetch(std::span<const glebe_device_use> uses, void* stream) const noexcept {
    return glebe_device_prefetch(handle_, uses.data(), uses.size(), stream);
  }
  DeviceResult sleep(std::uint32_t tag, unsigned level) const noexcept {
    return glebe_device_sleep(handle_, tag, level);
  }
  [[nodiscard]] DeviceResult wake(std::uint32_t tag) const noexcept {
    return glebe_device_wake(handle_, tag);
  }
  [[nodiscard]] glebe_device_resident_stats stats() const noexcept {
    glebe_device_resident_stats result = {};
    glebe_device_resident_get_stats(handle_, &result);
    return result;
  }
};

}  // namespace glebe
