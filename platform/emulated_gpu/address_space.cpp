// Reservations, mappings and access; see address_space.h.
#include "platform/emulated_gpu/address_space.h"

#include <sys/mman.h>

#include "platform/emulated_gpu/emulated_gpu.h"
#include "platform/memory_calls.h"

namespace glebe::os::emulated {
namespace {

using cuda::Result;

constexpr std::size_t kWindowAlignBytes = kGiB;  // the largest alignment that a reservation can have
constexpr std::uint32_t kReservationsMax = 1u << 16;
constexpr int kBareFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;

int protection_of(cuda::AccessFlags access) noexcept {
  return access == cuda::kAccessReadWrite ? PROT_READ | PROT_WRITE
                                          : (access == cuda::kAccessRead ? PROT_READ : PROT_NONE);
}

bool is_valid(const cuda::AccessDescription& access) noexcept {
  const bool is_device = access.location.type == cuda::LocationType::device && access.location.id == 0;
  const bool is_host = access.location.type == cuda::LocationType::host ||
                       access.location.type == cuda::LocationType::host_numa;
  const bool is_flag = access.flags == cuda::kAccessNone || access.flags == cuda::kAccessRead ||
                       access.flags == cuda::kAccessReadWrite;
  return (is_device || is_host) && is_flag;
}

bool is_granular(std::uint64_t value) noexcept { return is_aligned(value, kEmulatedGranuleBytes); }

}  // namespace

bool AddressSpace::open(std::size_t size_bytes, PhysicalMemory* physical) noexcept {
  physical_ = physical;
  size_bytes_ = align_up(size_bytes, kWindowAlignBytes);
  const std::size_t count = size_bytes_ / kEmulatedGranuleBytes;
  if (count > placement::kTlsfUnitsMax) return false;
  if (!reservations_.open(kReservationsMax) || !mappings_.open(static_cast<std::uint32_t>(count)) ||
      !reservation_of_.open(count) || !mapping_of_.open(count) || !tags_.open(count)) {
    return false;
  }
  granules_.attach(tags_.data(), static_cast<std::uint32_t>(count));
  if (granules_.add_range(0, static_cast<std::uint32_t>(count)) != placement::Status::ok) return false;
  begin_ = reinterpret_cast<std::uintptr_t>(os::reserve(size_bytes_, kWindowAlignBytes));
  if (begin_ == 0) return false;
  void* seen = os::reserve(size_bytes_, kWindowAlignBytes);
  if (seen == nullptr) return false;
  distance_ = static_cast<std::ptrdiff_t>(reinterpret_cast<std::uintptr_t>(seen) - begin_);
  return true;
}

void AddressSpace::close() noexcept {
  if (begin_ != 0 && distance_ != 0) os::release(shadow(begin_), size_bytes_);
  if (begin_ != 0) os::release(reinterpret_cast<void*>(begin_), size_bytes_);
  begin_ = 0;
  distance_ = 0;
  reservations_.close();
  mappings_.close();
  reservation_of_.close();
  mapping_of_.close();
  tags_.close();
}

std::uint32_t AddressSpace::granule_of(cuda::DevicePointer address) const noexcept {
  return static_cast<std::uint32_t>((static_cast<std::uintptr_t>(address) - begin_) / kEmulatedGranuleBytes);
}

Mapping* AddressSpace::mapping_at(cuda::DevicePointer address) noexcept {
  if (!is_ours(address)) return nullptr;
  const std::uint32_t number = mapping_of_[granule_of(address)];
  return number == 0 ? nullptr : mappings_.find(number - 1);
}

Reservation* AddressSpace::reservation_at(cuda::DevicePointer address) noexcept {
  if (!is_ours(address)) return nullptr;
  const std::uint32_t number = reservation_of_[granule_of(address)];
  Reservation* found = number == 0 ? nullptr : reservations_.find(number - 1);
  // The last granule may be longer than what was reserved of it.
  return found == nullptr || address - found->base < found->size_bytes ? found : nullptr;
}

Result AddressSpace::reserve(const Request& request, cuda::DevicePointer* address) noexcept {
  const std::size_t align =
      request.align_bytes < kEmulatedGranuleBytes ? kEmulatedGranuleBytes : request.align_bytes;
  // The driver says "out of memory" to all of these (ROCm/hip-tests on NVIDIA devices).
  if (request.size_bytes == 0 || request.size_bytes % page_bytes() != 0) return Result::out_of_memory;
  if (!is_power_of_two(align) || align > kWindowAlignBytes) return Result::out_of_memory;
  if (request.size_bytes > size_bytes_) return Result::out_of_memory;
  const auto count = static_cast<std::uint32_t>(divide_up(request.size_bytes, kEmulatedGranuleBytes));
  const placement::Run run =
      granules_.allocate(count, static_cast<std::uint32_t>(align / kEmulatedGranuleBytes));
  if (run.empty()) return Result::out_of_memory;
  Reservation* made = reservations_.take();
  if (made == nullptr) {
    granules_.free(run.first);
    return Result::out_of_memory;
  }
  *made = {begin_ + placement::unit_offset(run.first, kEmulatedGranuleBytes), request.size_bytes};
  for (std::uint32_t i = 0; i < count; ++i) {
    reservation_of_[run.first + i] = reservations_.index_of(made) + 1;
  }
  *address = made->base;
  return Result::success;
}

Result AddressSpace::free(cuda::DevicePointer address, std::size_t size_bytes) noexcept {
  Reservation* found = reservation_at(address);
  if (found == nullptr || found->base != address || found->size_bytes != size_bytes) {
    return Result::invalid_value;
  }
  if (!is_bare(address, size_bytes)) return Result::invalid_value;
  const std::uint32_t first = granule_of(address);
  const auto count = static_cast<std::uint32_t>(divide_up(size_bytes, kEmulatedGranuleBytes));
  for (std::uint32_t i = 0; i < count; ++i) reservation_of_[first + i] = 0;
  reservations_.give_back(found);
  CHECK(!granules_.free(first).empty());
  return Result::success;
}

// Whether nothing is mapped in a range of one reservation.
bool AddressSpace::is_bare(cuda::DevicePointer address, std::size_t size_bytes) noexcept {
  const std::uint32_t first = granule_of(address);
  const std::uint32_t last = granule_of(address + size_bytes - 1);
  for (std::uint32_t i = first; i <= last; ++i) {
    if (mapping_of_[i] != 0) return false;
  }
  return true;
}

// Whether a range is made of whole mappings.
bool AddressSpace::is_whole(cuda::DevicePointer address, std::size_t size_bytes) noexcept {
  if (size_bytes == 0 || !is_ours(address) || size_bytes > begin_ + size_bytes_ - address) return false;
  for (cuda::DevicePointer at = address; at < address + size_bytes;) {
    const Mapping* mapping = mapping_at(at);
    if (mapping == nullptr || mapping->base != at) return false;
    at += mapping->size_bytes;
    if (at > address + size_bytes) return false;
  }
  return true;
}

Result AddressSpace::map(cuda::DevicePointer address, std::size_t size_bytes, Piece* piece) noexcept {
  if (size_bytes == 0 || !is_granular(address) || !is_granular(size_bytes)) return Result::invalid_value;
  if (size_bytes > piece->size_bytes) return Result::invalid_value;
  const Reservation* range = reservation_at(address);
  if (range == nullptr || size_bytes > range->size_bytes - (address - range->base)) {
    return Result::invalid_value;
  }
  if (!is_bare(address, size_bytes)) return Result::invalid_value;
  Mapping* made = mappings_.take();
  if (made == nullptr) return Result::out_of_memory;
  // A mapping begins without any access.
  if (is_failure(map_call({shadow(address), size_bytes, PROT_NONE, MAP_SHARED | MAP_FIXED,
                           physical_->file_of(piece), piece->file_offset}))) {
    mappings_.give_back(made);
    return Result::out_of_memory;
  }
  *made = {address, size_bytes, piece, cuda::kAccessNone, cuda::kAccessNone, ++next_id_, false};
  ++piece->mappings;
  const std::uint32_t first = granule_of(address);
  for (std::uint32_t i = 0; i < size_bytes / kEmulatedGranuleBytes; ++i) {
    mapping_of_[first + i] = mappings_.index_of(made) + 1;
  }
  return Result::success;
}

// Takes memory and access away from both windows.
bool AddressSpace::make_bare(cuda::DevicePointer address, std::size_t size_bytes) noexcept {
  auto* plain = reinterpret_cast<void*>(static_cast<std::uintptr_t>(address));
  return !is_failure(map_call({shadow(address), size_bytes, PROT_NONE, kBareFlags, -1, 0})) &&
         !is_failure(map_call({plain, size_bytes, PROT_NONE, kBareFlags, -1, 0}));
}

Result AddressSpace::unmap(cuda::DevicePointer address, std::size_t size_bytes) noexcept {
  if (!is_whole(address, size_bytes)) return Result::invalid_value;
  for (cuda::DevicePointer at = address; at < address + size_bytes;) {
    Mapping* mapping = mapping_at(at);
    const std::size_t bytes = mapping->size_bytes;
    if (!make_bare(at, bytes)) return Result::operating_system;
    const std::uint32_t first = granule_of(at);
    for (std::uint32_t i = 0; i < bytes / kEmulatedGranuleBytes; ++i) mapping_of_[first + i] = 0;
    physical_->drop_mapping(mapping->piece);
    mappings_.give_back(mapping);
    at += bytes;
  }
  return Result::success;
}

// Whether any of a range of whole mappings is memory of the device.
bool AddressSpace::holds_device_memory(cuda::DevicePointer address, std::size_t size_bytes) noexcept {
  for (cuda::DevicePointer at = address; at < address + size_bytes;) {
    const Mapping& mapping = *mapping_at(at);
    if (mapping.piece->properties.location.type == cuda::LocationType::device) return true;
    at += mapping.size_bytes;
  }
  return false;
}

bool AddressSpace::apply(Mapping& mapping, const cuda::AccessDescription& access) noexcept {
  const int protection = protection_of(access.flags);
  if (access.location.type == cuda::LocationType::device) {
    if (protect_call(shadow(mapping.base), mapping.size_bytes, protection) != 0) return false;
    mapping.device = access.flags;
    return true;
  }
  const Piece& piece = *mapping.piece;
  if (is_failure(
          map_call({reinterpret_cast<void*>(static_cast<std::uintptr_t>(mapping.base)), mapping.size_bytes,
                    protection, MAP_SHARED | MAP_FIXED, physical_->file_of(&piece), piece.file_offset}))) {
    return false;
  }
  mapping.host = access.flags;
  return true;
}

Result AddressSpace::set_access(cuda::DevicePointer address, std::size_t size_bytes,
                                std::span<const cuda::AccessDescription> access) noexcept {
  if (!is_whole(address, size_bytes)) return Result::invalid_value;
  const bool is_of_device = holds_device_memory(address, size_bytes);
  for (const cuda::AccessDescription& entry : access) {
    if (!is_valid(entry)) return Result::invalid_value;
    // Memory of the device cannot be made accessible to the host.
    if (entry.location.type != cuda::LocationType::device && is_of_device) return Result::invalid_value;
  }
  for (cuda::DevicePointer at = address; at < address + size_bytes;) {
    Mapping& mapping = *mapping_at(at);
    for (const cuda::AccessDescription& entry : access) {
      if (!apply(mapping, entry)) return Result::out_of_memory;
    }
    at += mapping.size_bytes;
  }
  return Result::success;
}

bool AddressSpace::covers(const Reservation& range, Side side, cuda::AccessFlags access) noexcept {
  const cuda::DevicePointer end = range.base + range.size_bytes;
  if (end < range.base) return false;
  for (cuda::DevicePointer at = range.base; at < end;) {
    const Mapping* mapping = mapping_at(at);
    if (mapping == nullptr) return false;
    const cuda::AccessFlags has = side == Side::device ? mapping->device : mapping->host;
    if ((has & access) != access) return false;
    at = mapping->base + mapping->size_bytes;
  }
  return true;
}

}  // namespace glebe::os::emulated
