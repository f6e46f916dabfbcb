// The device in host memory; see device_memory.h. An address is an offset into its space.
#include "src/paging/device_memory.h"

#include <cstring>

#include "platform/vm.h"
#include "src/base/bits.h"
#include "src/base/check.h"

namespace glebe::paging {
namespace {

EmulatedDevice& device_of(void* context) noexcept { return *static_cast<EmulatedDevice*>(context); }

}  // namespace

bool EmulatedDevice::open(std::size_t capacity_bytes) noexcept {
  const std::uint64_t units = divide_up(capacity_bytes, os::page_bytes());
  if (units == 0 || units > placement::kTlsfUnitsMax) return false;
  return space_.open(static_cast<std::uint32_t>(units), os::page_bytes(), static_cast<std::uint32_t>(units));
}

bool EmulatedDevice::is_failing() noexcept {
  unsigned left = failures_.load(std::memory_order_relaxed);
  while (left != 0) {
    if (failures_.compare_exchange_weak(left, left - 1, std::memory_order_relaxed)) return true;
  }
  return false;
}

std::size_t EmulatedDevice::used_bytes() noexcept { return space_.used_units() * os::page_bytes(); }

DeviceMemory EmulatedDevice::table() noexcept {
  DeviceMemory table;
  table.context = this;
  table.allocate = [](void* context, std::size_t size_bytes) noexcept -> DeviceAddress {
    EmulatedDevice& device = device_of(context);
    if (device.is_failing()) return kNoDeviceAddress;
    const std::uint64_t units = divide_up(size_bytes, os::page_bytes());
    if (units == 0 || units > placement::kTlsfUnitsMax) return kNoDeviceAddress;
    const placement::Run run = device.space_.take(static_cast<std::uint32_t>(units));
    return run.empty() ? kNoDeviceAddress : run.first * std::uint64_t{os::page_bytes()};
  };
  table.free = [](void* context, DeviceAddress address, std::size_t size_bytes) noexcept {
    EmulatedDevice& device = device_of(context);
    // A hint: what cannot be purged keeps its pages until it is used again.
    static_cast<void>(os::purge(device.host_view(address), align_up(size_bytes, os::page_bytes())));
    CHECK(device.space_.give_back(static_cast<std::uint32_t>(address / os::page_bytes())));
  };
  table.copy_in = [](void* context, DeviceAddress to, const void* from, std::size_t size_bytes) noexcept {
    EmulatedDevice& device = device_of(context);
    if (device.is_failing()) return false;
    std::memcpy(device.host_view(to), from, size_bytes);
    return true;
  };
  table.copy_out = [](void* context, void* to, DeviceAddress from, std::size_t size_bytes) noexcept {
    EmulatedDevice& device = device_of(context);
    if (device.is_failing()) return false;
    std::memcpy(to, device.host_view(from), size_bytes);
    return true;
  };
  table.capacity_bytes = [](void* context) noexcept -> std::size_t {
    return device_of(context).space_.capacity_units() * os::page_bytes();
  };
  return table;
}

}  // namespace glebe::paging
