// The device tier as a table of functions, and one implementation in host memory (namespace glebe::paging).
//
// A device gives memory by address in its own space and copies to and from the host; what lies there cannot
// be read by the host in any other way. All functions are called by any thread, without locks held, and may
// block. EmulatedDevice keeps its memory in a mapping of its own, so that bytes really move and memory given
// back really goes; its capacity is exact. It serves tests and machines without a device.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "src/paging/space.h"

namespace glebe::paging {

using DeviceAddress = std::uint64_t;
inline constexpr DeviceAddress kNoDeviceAddress = ~DeviceAddress{0};

struct DeviceMemory {
  void* context;
  // kNoDeviceAddress: no room. Contents are undefined.
  DeviceAddress (*allocate)(void* context, std::size_t size_bytes);
  void (*free)(void* context, DeviceAddress address, std::size_t size_bytes);
  // False: the transfer failed; then the destination is undefined and the source unchanged.
  bool (*copy_in)(void* context, DeviceAddress to, const void* from, std::size_t size_bytes);
  bool (*copy_out)(void* context, void* to, DeviceAddress from, std::size_t size_bytes);
  std::size_t (*capacity_bytes)(void* context);
};

class EmulatedDevice {
 public:
  EmulatedDevice() noexcept = default;
  EmulatedDevice(const EmulatedDevice&) = delete;
  EmulatedDevice& operator=(const EmulatedDevice&) = delete;

  // False: no addresses. The capacity is rounded up to os pages.
  [[nodiscard]] bool open(std::size_t capacity_bytes) noexcept;
  [[nodiscard]] DeviceMemory table() noexcept;
  [[nodiscard]] std::size_t used_bytes() noexcept;
  // How the host sees an address, for kernels of an emulated device: the memory is there.
  [[nodiscard]] std::byte* host_view(DeviceAddress address) noexcept { return space_.at(0) + address; }
  // The next `count` transfers or allocations fail (tests).
  void fail_next(unsigned count) noexcept { failures_.store(count, std::memory_order_relaxed); }

 private:
  [[nodiscard]] bool is_failing() noexcept;

  Space space_;
  std::atomic<unsigned> failures_{0};
};

}  // namespace glebe::paging
