// Entries of the emulated driver: plain allocations, memory of the host, what is known about an address; see
// machine.h.
#include "platform/emulated_gpu/machine.h"
#include "platform/vm.h"

namespace glebe::os::emulated {

using cuda::LocationType;
using cuda::Result;

Result Machine::mem_get_info(std::size_t* free_bytes, std::size_t* total_bytes) noexcept {
  if (free_bytes == nullptr || total_bytes == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  const std::size_t used = physical_.device_used();
  *total_bytes = physical_.device_bytes();
  *free_bytes = *total_bytes > used ? *total_bytes - used : 0;
  return Result::success;
}

// A reservation, a piece and a mapping in one.
Result Machine::allocate_granules(std::size_t bytes, DevicePointer* address) noexcept {
  AllocationProperties properties = {};
  properties.type = cuda::AllocationType::pinned;
  properties.location = {LocationType::device, 0};
  const AccessDescription access = {properties.location, cuda::kAccessReadWrite};
  Result result = addresses_.reserve({bytes, 0}, address);
  if (result != Result::success) return result;
  Piece* piece = nullptr;
  result = physical_.create(properties, bytes, &piece);
  if (result == Result::success) {
    result = addresses_.map(*address, bytes, piece);
    // The mapping keeps it.
    physical_.drop_handle(piece);
  }
  if (result == Result::success) {
    result = addresses_.set_access(*address, bytes, {&access, 1});
    addresses_.mapping_at(*address)->is_allocation = true;
    if (result != Result::success) CHECK(addresses_.unmap(*address, bytes) == Result::success);
  }
  if (result != Result::success) CHECK(addresses_.free(*address, bytes) == Result::success);
  return result;
}

// It takes whole granules.
Result Machine::mem_alloc(DevicePointer* address, std::size_t size_bytes) noexcept {
  if (address == nullptr || size_bytes == 0) return Result::invalid_value;
  const Lock hold(lock_);
  if (size_bytes > addresses_.size_bytes()) return Result::out_of_memory;
  return allocate_granules(align_up(size_bytes, kEmulatedGranuleBytes), address);
}

// Waits for the device first, as the driver does.
Result Machine::mem_free(DevicePointer address) noexcept {
  const Lock hold(lock_);
  PoolBlock* block = pool_block_at(address);
  if (block != nullptr) return free_pooled(block);
  const Mapping* mapping = addresses_.mapping_at(address);
  if (mapping == nullptr || !mapping->is_allocation || mapping->base != address) return Result::invalid_value;
  const std::uint64_t id = mapping->id;
  const std::size_t size_bytes = mapping->size_bytes;
  const Result result = queues_.synchronize_all();
  if (result != Result::success) return result;
  mapping = addresses_.mapping_at(address);
  if (mapping == nullptr || mapping->id != id) return Result::invalid_value;
  const Result unmapped = addresses_.unmap(address, size_bytes);
  return unmapped != Result::success ? unmapped : addresses_.free(address, size_bytes);
}

HostRange* Machine::host_range_at(std::uintptr_t address) noexcept {
  for (std::uint32_t i = 0; i < host_ranges_.used(); ++i) {
    HostRange* range = host_ranges_.find(i);
    if (range != nullptr && address - range->base < range->size_bytes) return range;
  }
  return nullptr;
}

bool Machine::overlaps_host_range(std::uintptr_t base, std::size_t size_bytes) noexcept {
  for (std::uint32_t i = 0; i < host_ranges_.used(); ++i) {
    const HostRange* range = host_ranges_.find(i);
    if (range != nullptr && base < range->base + range->size_bytes && range->base < base + size_bytes) {
      return true;
    }
  }
  return false;
}

Result Machine::mem_host_alloc(void** address, std::size_t size_bytes, unsigned flags) noexcept {
  constexpr unsigned kFlags = cuda::kHostPortable | cuda::kHostDeviceMap | cuda::kHostWriteCombined;
  if (address == nullptr || size_bytes == 0 || (flags & ~kFlags) != 0) return Result::invalid_value;
  const Lock hold(lock_);
  const std::size_t bytes = align_up(size_bytes, page_bytes());
  if (bytes < size_bytes || !physical_.charge(LocationType::host, bytes)) return Result::out_of_memory;
  HostRange* range = host_ranges_.take();
  void* base = range != nullptr ? os::reserve(bytes, page_bytes()) : nullptr;
  if (base != nullptr && os::commit(base, bytes)) {
    *range = {reinterpret_cast<std::uintptr_t>(base), size_bytes, bytes};
    *address = base;
    return Result::success;
  }
  if (base != nullptr) os::release(base, bytes);
  if (range != nullptr) host_ranges_.give_back(range);
  physical_.discharge(LocationType::host, bytes);
  return Result::out_of_memory;
}

// Waits for the device first, as the driver does.
Result Machine::mem_free_host(void* address) noexcept {
  const auto base = reinterpret_cast<std::uintptr_t>(address);
  const Lock hold(lock_);
  HostRange* range = host_range_at(base);
  if (range == nullptr || range->base != base || range->mapped_bytes == 0) return Result::invalid_value;
  const Result result = queues_.synchronize_all();
  if (result != Result::success) return result;
  range = host_range_at(base);
  if (range == nullptr || range->base != base) return Result::invalid_value;
  os::release(address, range->mapped_bytes);
  physical_.discharge(LocationType::host, range->mapped_bytes);
  host_ranges_.give_back(range);
  return Result::success;
}

Result Machine::mem_host_register(void* address, std::size_t size_bytes, unsigned flags) noexcept {
  constexpr unsigned kFlags =
      cuda::kRegisterPortable | cuda::kRegisterDeviceMap | cuda::kRegisterIoMemory | cuda::kRegisterReadOnly;
  const auto base = reinterpret_cast<std::uintptr_t>(address);
  if (address == nullptr || size_bytes == 0 || (flags & ~kFlags) != 0) return Result::invalid_value;
  const Lock hold(lock_);
  if (base + size_bytes < base || addresses_.is_ours(base)) return Result::invalid_value;
  if (overlaps_host_range(base, size_bytes)) return Result::host_memory_already_registered;
  HostRange* range = host_ranges_.take();
  if (range == nullptr) return Result::out_of_memory;
  *range = {base, size_bytes, 0};
  return Result::success;
}

Result Machine::mem_host_unregister(void* address) noexcept {
  const auto base = reinterpret_cast<std::uintptr_t>(address);
  if (address == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  HostRange* range = host_range_at(base);
  if (range == nullptr || range->base != base || range->mapped_bytes != 0) {
    return Result::host_memory_not_registered;
  }
  host_ranges_.give_back(range);
  return Result::success;
}

// Of one mapping, not of the reservation: callers that want all of a heap ask for its attributes.
Result Machine::mem_get_address_range(DevicePointer* base, std::size_t* size_bytes,
                                      DevicePointer address) noexcept {
  const Lock hold(lock_);
  const Mapping* mapping = addresses_.mapping_at(address);
  const HostRange* range = host_range_at(static_cast<std::uintptr_t>(address));
  if (mapping == nullptr && range == nullptr) return Result::invalid_value;
  if (base != nullptr) *base = mapping != nullptr ? mapping->base : range->base;
  if (size_bytes != nullptr) *size_bytes = mapping != nullptr ? mapping->size_bytes : range->size_bytes;
  return Result::success;
}

Result Machine::pointer_get_attribute(void* value, PointerAttribute wanted, DevicePointer address) noexcept {
  if (value == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  const Reservation* reservation = addresses_.reservation_at(address);
  const Mapping* mapping = addresses_.mapping_at(address);
  const HostRange* host = host_range_at(static_cast<std::uintptr_t>(address));
  if (reservation == nullptr && host == nullptr) return Result::invalid_value;
  const bool is_on_device =
      mapping != nullptr && mapping->piece->properties.location.type == LocationType::device;
  switch (wanted) {
    case PointerAttribute::range_start:
      *static_cast<DevicePointer*>(value) = reservation != nullptr ? reservation->base : host->base;
      return Result::success;
    case PointerAttribute::range_size:
      *static_cast<std::size_t*>(value) = reservation != nullptr ? reservation->size_bytes : host->size_bytes;
      return Result::success;
    case PointerAttribute::mapped:
      *static_cast<int*>(value) = mapping != nullptr || host != nullptr ? 1 : 0;
      return Result::success;
    case PointerAttribute::is_managed:
      *static_cast<int*>(value) = 0;
      return Result::success;
    default:
      break;
  }
  if (mapping == nullptr && host == nullptr) return Result::invalid_value;
  switch (wanted) {
    case PointerAttribute::memory_type:
      *static_cast<unsigned*>(value) =
          static_cast<unsigned>(is_on_device ? cuda::MemoryType::device : cuda::MemoryType::host);
      return Result::success;
    case PointerAttribute::device_pointer:
      *static_cast<DevicePointer*>(value) = address;
      return Result::success;
    case PointerAttribute::device_ordinal:
      *static_cast<int*>(value) = 0;
      return Result::success;
    case PointerAttribute::mapping_base:
      *static_cast<DevicePointer*>(value) = mapping != nullptr ? mapping->base : host->base;
      return Result::success;
    case PointerAttribute::mapping_size:
      *static_cast<std::size_t*>(value) = mapping != nullptr ? mapping->size_bytes : host->size_bytes;
      return Result::success;
    default:
      return Result::invalid_value;
  }
}

}  // namespace glebe::os::emulated
