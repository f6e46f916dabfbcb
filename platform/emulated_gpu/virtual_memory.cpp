// Entries of the emulated driver: reserve, create, map, set access and their opposites; see machine.h. Codes
// for wrong arguments follow the driver's documentation, and where it leaves several open, what NVIDIA's
// devices were seen to answer (tests/gpu_contract.def).
#include "platform/emulated_gpu/machine.h"

namespace glebe::os::emulated {

using cuda::LocationType;
using cuda::Result;

// NOLINTNEXTLINE(readability-function-size): the driver's signature
Result Machine::mem_address_reserve(DevicePointer* address, std::size_t size_bytes, std::size_t align_bytes,
                                    DevicePointer, unsigned long long flags) noexcept {
  if (address == nullptr || flags != 0) return Result::invalid_value;
  // The driver's answer to an alignment that is no power of two (ROCm/hip-tests on NVIDIA devices).
  if (align_bytes != 0 && !is_power_of_two(align_bytes)) return Result::out_of_memory;
  const Lock hold(lock_);
  return addresses_.reserve({size_bytes, align_bytes}, address);
}

Result Machine::mem_address_free(DevicePointer address, std::size_t size_bytes) noexcept {
  const Lock hold(lock_);
  return addresses_.free(address, size_bytes);
}

Result Machine::check(const AllocationProperties* properties) const noexcept {
  if (properties == nullptr || properties->type != cuda::AllocationType::pinned) return Result::invalid_value;
  const LocationType type = properties->location.type;
  const HandleType handles = properties->requested_handle_types;
  if (handles == HandleType::fabric) return Result::not_supported;
  if (handles != HandleType::none && handles != HandleType::posix_file_descriptor)
    return Result::invalid_value;
  if (type == LocationType::device) {
    return properties->location.id == 0 ? Result::success : Result::invalid_value;
  }
  if (type != LocationType::host && type != LocationType::host_numa) return Result::invalid_value;
  if (!options_.has_host_numa) return Result::not_supported;
  if (type == LocationType::host && handles != HandleType::none) return Result::invalid_value;
  // One node: 0, as where there is no NUMA.
  if (type == LocationType::host_numa && properties->location.id != 0) return Result::invalid_value;
  return Result::success;
}

Result Machine::mem_create(MemoryHandle* handle, std::size_t size_bytes,
                           const AllocationProperties* properties, unsigned long long flags) noexcept {
  if (handle == nullptr || flags != 0 || size_bytes == 0) return Result::invalid_value;
  if (size_bytes % kEmulatedGranuleBytes != 0) return Result::invalid_value;
  const Result wrong = check(properties);
  if (wrong != Result::success) return wrong;
  const Lock hold(lock_);
  Piece* piece = nullptr;
  const Result result = physical_.create(*properties, size_bytes, &piece);
  if (result == Result::success) *handle = physical_.handle_of(piece);
  return result;
}

// The driver calls an unknown handle undefined.
Result Machine::mem_release(MemoryHandle handle) noexcept {
  const Lock hold(lock_);
  Piece* piece = physical_.find(handle);
  if (piece == nullptr) {
    undefined_calls_.fetch_add(1, std::memory_order_relaxed);
    return Result::invalid_value;
  }
  physical_.drop_handle(piece);
  return Result::success;
}

// NOLINTNEXTLINE(readability-function-size): the driver's signature
Result Machine::mem_map(DevicePointer address, std::size_t size_bytes, std::size_t offset_bytes,
                        MemoryHandle handle, unsigned long long flags) noexcept {
  if (offset_bytes != 0 || flags != 0) return Result::invalid_value;
  const Lock hold(lock_);
  Piece* piece = physical_.find(handle);
  if (piece == nullptr) return Result::invalid_value;
  // A tile pool is backing of sparse arrays and of nothing else.
  if ((piece->properties.flags.usage & cuda::kUsageTilePool) != 0) return Result::invalid_value;
  return addresses_.map(address, size_bytes, piece);
}

Result Machine::mem_unmap(DevicePointer address, std::size_t size_bytes) noexcept {
  const Lock hold(lock_);
  const Mapping* mapping = addresses_.mapping_at(address);
  if (mapping == nullptr || mapping->is_allocation) return Result::invalid_value;
  return addresses_.unmap(address, size_bytes);
}

Result Machine::mem_set_access(DevicePointer address, std::size_t size_bytes, const AccessDescription* access,
                               std::size_t count) noexcept {
  if (access == nullptr || count == 0) return Result::invalid_value;
  const Lock hold(lock_);
  return addresses_.set_access(address, size_bytes, {access, count});
}

Result Machine::mem_get_access(unsigned long long* flags, const Location* location,
                               DevicePointer address) noexcept {
  if (flags == nullptr || location == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  const Mapping* mapping = addresses_.mapping_at(address);
  if (mapping == nullptr) return Result::invalid_value;
  switch (location->type) {
    case LocationType::device:
      if (location->id != 0) return Result::invalid_value;
      *flags = static_cast<unsigned>(mapping->device);
      return Result::success;
    case LocationType::host:
    case LocationType::host_numa:
      *flags = static_cast<unsigned>(mapping->host);
      return Result::success;
    default:
      return Result::invalid_value;
  }
}

Result Machine::mem_get_granularity(std::size_t* size_bytes, const AllocationProperties* properties,
                                    Granularity option) noexcept {
  if (size_bytes == nullptr) return Result::invalid_value;
  if (option != Granularity::minimum && option != Granularity::recommended) return Result::invalid_value;
  if (properties == nullptr) {
    // NVIDIA's driver crashes here.
    undefined_calls_.fetch_add(1, std::memory_order_relaxed);
    return Result::invalid_value;
  }
  *size_bytes = kEmulatedGranuleBytes;
  return Result::success;
}

Result Machine::mem_get_properties(AllocationProperties* properties, MemoryHandle handle) noexcept {
  if (properties == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  const Piece* piece = physical_.find(handle);
  if (piece == nullptr) return Result::invalid_value;
  *properties = piece->properties;
  return Result::success;
}

Result Machine::mem_retain_handle(MemoryHandle* handle, void* address) noexcept {
  if (handle == nullptr) return Result::invalid_value;
  const Lock hold(lock_);
  const Mapping* mapping = addresses_.mapping_at(reinterpret_cast<std::uintptr_t>(address));
  if (mapping == nullptr || mapping->is_allocation) return Result::invalid_value;
  ++mapping->piece->handles;
  *handle = physical_.handle_of(mapping->piece);
  return Result::success;
}

Result Machine::mem_export_handle(void* shareable, MemoryHandle handle, HandleType type,
                                  unsigned long long flags) noexcept {
  if (shareable == nullptr || flags != 0) return Result::invalid_value;
  if (type != HandleType::posix_file_descriptor) return Result::invalid_value;
  const Lock hold(lock_);
  const Piece* piece = physical_.find(handle);
  if (piece == nullptr || piece->properties.requested_handle_types != type) return Result::invalid_value;
  const int file = physical_.export_file(piece);
  if (file < 0) return Result::operating_system;
  *static_cast<int*>(shareable) = file;
  return Result::success;
}

Result Machine::mem_import_handle(MemoryHandle* handle, void* shareable, HandleType type) noexcept {
  if (handle == nullptr || type != HandleType::posix_file_descriptor) return Result::invalid_value;
  const Lock hold(lock_);
  Piece* piece = physical_.import_file(static_cast<int>(reinterpret_cast<std::intptr_t>(shareable)));
  if (piece == nullptr) return Result::invalid_value;
  *handle = physical_.handle_of(piece);
  return Result::success;
}

}  // namespace glebe::os::emulated
