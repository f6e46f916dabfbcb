// glebe in C++: memory pools. Header-only over device_memory_pool.h, which says what each call means and what
// it may answer. Nothing here throws.
#pragma once

#include <glebe/device_memory_pool.h>
#include <glebe/device.hpp>

namespace glebe {

class MemoryPool : public DeviceOwner<glebe_memory_pool, glebe_memory_pool_close> {
 public:
  // Without a device: memory of the host, and numbers.
  [[nodiscard]] DeviceResult open(glebe_memory_pool_options options) noexcept {
    return open_on(nullptr, options);
  }
  [[nodiscard]] DeviceResult open(const Device& device, glebe_memory_pool_options options) noexcept {
    return open_on(device.handle(), options);
  }

  [[nodiscard]] DeviceResult allocate(std::uint64_t size, DeviceAddress* address,
                                      std::uint64_t alignment = 0) const noexcept {
    return glebe_memory_pool_allocate(handle_, size, alignment, address);
  }
  [[nodiscard]] DeviceResult allocate_item(DeviceAddress* address) const noexcept {
    return glebe_memory_pool_allocate_item(handle_, address);
  }
  // Room for `count` objects, which are not constructed; of the source device *first is an address there.
  template <class T>
  [[nodiscard]] DeviceResult allocate_objects(std::uint64_t count, T** first) const noexcept {
    DeviceAddress address = 0;
    const DeviceResult result =
        glebe_memory_pool_allocate_objects(handle_, count, sizeof(T), alignof(T), &address);
    if (result == glebe_device_ok) *first = reinterpret_cast<T*>(static_cast<std::uintptr_t>(address));
    return result;
  }
  [[nodiscard]] DeviceResult allocate_tiles(std::uint64_t count, glebe_tile_run* run) const noexcept {
    return glebe_memory_pool_allocate_tiles(handle_, count, run);
  }
  DeviceResult free(DeviceAddress address) const noexcept { return glebe_memory_pool_free(handle_, address); }
  DeviceResult free_after(void* stream, std::span<const DeviceAddress> addresses) const noexcept {
    return glebe_memory_pool_free_after(handle_, stream, addresses.data(), addresses.size());
  }
  DeviceResult retire() const noexcept { return glebe_memory_pool_retire(handle_); }
  DeviceResult synchronize() const noexcept { return glebe_memory_pool_synchronize(handle_); }
  std::uint64_t trim(std::uint64_t keep = 0) const noexcept { return glebe_memory_pool_trim(handle_, keep); }
  DeviceResult set_max(std::uint64_t max_bytes) const noexcept {
    return glebe_memory_pool_set_max(handle_, max_bytes);
  }
  [[nodiscard]] std::uint64_t usable_size(DeviceAddress address) const noexcept {
    return glebe_memory_pool_usable_size(handle_, address);
  }
  [[nodiscard]] glebe_memory_pool_stats stats() const noexcept {
    glebe_memory_pool_stats result = {};
    glebe_memory_pool_get_stats(handle_, &result);
    return result;
  }

 private:
  DeviceResult open_on(glebe_device* device, glebe_memory_pool_options& options) noexcept {
    close();
    options.struct_bytes = sizeof options;
    return glebe_memory_pool_open(device, &options, &handle_);
  }
};

}  // namespace glebe
