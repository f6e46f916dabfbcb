// Entries of the emulated driver: copies, fills and values written in a stream; see machine.h.
//
// Operands are checked when the call is made: what is not mapped, or not for this access, is INVALID_VALUE at
// once. The bytes move when the stream gets there; unmapping in between is a fault of the device.
#include <cstring>

#include "platform/emulated_gpu/machine.h"

namespace glebe::os::emulated {

using cuda::Result;

namespace {

cuda::DevicePointer address_of(const void* host) noexcept { return reinterpret_cast<std::uintptr_t>(host); }

}  // namespace

std::byte* Machine::locate(DevicePointer address, std::size_t size_bytes, Operand kind,
                           cuda::AccessFlags access) noexcept {
  using Side = AddressSpace::Side;
  const auto number = static_cast<std::uintptr_t>(address);
  auto* plain = reinterpret_cast<std::byte*>(number);
  if (addresses_.is_ours(address)) {
    const Reservation range = {address, size_bytes};
    if (kind != Operand::host && addresses_.covers(range, Side::device, access)) {
      return addresses_.shadow(address);
    }
    // Memory of the host that the CPU may use at this address.
    return kind != Operand::device && addresses_.covers(range, Side::host, access) ? plain : nullptr;
  }
  if (kind != Operand::device) return plain;
  const HostRange* pinned = host_range_at(number);
  const bool is_inside = pinned != nullptr && size_bytes <= pinned->size_bytes - (number - pinned->base);
  return is_inside ? plain : nullptr;
}

bool Machine::is_pageable(DevicePointer address) noexcept {
  return !addresses_.is_ours(address) && host_range_at(static_cast<std::uintptr_t>(address)) == nullptr;
}

Result Machine::queue_copy(const Copy& copy, cuda::StreamObject* stream) noexcept {
  std::byte* to = locate(copy.to, copy.size_bytes, copy.to_kind, cuda::kAccessReadWrite);
  const std::byte* from = locate(copy.from, copy.size_bytes, copy.from_kind, cuda::kAccessRead);
  if (copy.size_bytes == 0) return Result::success;
  if (to == nullptr || from == nullptr) return Result::invalid_value;
  Operation* operation = queues_.make(Operation::Kind::copy, stream);
  if (operation == nullptr) return queues_.error();
  operation->to = to;
  operation->from = from;
  operation->size = copy.size_bytes;
  // A small source in pageable memory is taken at once; any other is read when its turn comes.
  const bool is_small = copy.size_bytes <= Staging::kBytes && is_pageable(copy.from);
  operation->staging = is_small ? queues_.take_staging() : nullptr;
  if (operation->staging != nullptr) {
    std::memcpy(operation->staging->bytes, from, copy.size_bytes);
    operation->from = operation->staging->bytes;
  }
  const bool has_staging = operation->staging != nullptr;
  const Result result = queues_.queue(operation);
  // A copy to pageable memory returns when it is done; so does one whose source there is no room to keep.
  const bool must_wait = is_pageable(copy.to) || (is_small && !has_staging);
  return result == Result::success && must_wait ? queues_.synchronize(stream) : result;
}

Result Machine::copy_async(const Copy& copy, Stream handle) noexcept {
  const Lock hold(lock_);
  cuda::StreamObject* stream = queues_.find(handle);
  return stream != nullptr ? queue_copy(copy, stream) : Result::invalid_handle;
}

// On the default stream, and done when it returns.
Result Machine::copy_now(const Copy& copy) noexcept {
  const Lock hold(lock_);
  cuda::StreamObject* stream = queues_.find(nullptr);
  const Result result = queue_copy(copy, stream);
  return result != Result::success ? result : queues_.synchronize(stream);
}

Result Machine::memcpy_h2d(DevicePointer to, const void* from, std::size_t size_bytes) noexcept {
  return copy_now({to, address_of(from), size_bytes, Operand::device, Operand::host});
}

Result Machine::memcpy_d2h(void* to, DevicePointer from, std::size_t size_bytes) noexcept {
  return copy_now({address_of(to), from, size_bytes, Operand::host, Operand::device});
}

Result Machine::memcpy_h2d_async(DevicePointer to, const void* from, std::size_t size_bytes,
                                 Stream stream) noexcept {
  return copy_async({to, address_of(from), size_bytes, Operand::device, Operand::host}, stream);
}

Result Machine::memcpy_d2h_async(void* to, DevicePointer from, std::size_t size_bytes,
                                 Stream stream) noexcept {
  return copy_async({address_of(to), from, size_bytes, Operand::host, Operand::device}, stream);
}

Result Machine::memcpy_d2d_async(DevicePointer to, DevicePointer from, std::size_t size_bytes,
                                 Stream stream) noexcept {
  return copy_async({to, from, size_bytes, Operand::device, Operand::device}, stream);
}

Result Machine::memset_d8_async(DevicePointer to, unsigned char value, std::size_t count,
                                Stream stream) noexcept {
  return fill_async({to, value, count, 1, Operation::Kind::fill8}, stream);
}

Result Machine::memset_d32_async(DevicePointer to, unsigned value, std::size_t count,
                                 Stream stream) noexcept {
  return fill_async({to, value, count, 4, Operation::Kind::fill32}, stream);
}

Result Machine::stream_write_value32(Stream stream, DevicePointer address, std::uint32_t value,
                                     unsigned flags) noexcept {
  if ((flags & ~unsigned{cuda::kWriteValueNoMemoryBarrier}) != 0) return Result::invalid_value;
  return fill_async({address, value, 1, 4, Operation::Kind::write32}, stream);
}

Result Machine::stream_write_value64(Stream stream, DevicePointer address, std::uint64_t value,
                                     unsigned flags) noexcept {
  if ((flags & ~unsigned{cuda::kWriteValueNoMemoryBarrier}) != 0) return Result::invalid_value;
  return fill_async({address, value, 1, 8, Operation::Kind::write64}, stream);
}

Result Machine::fill_async(const Fill& fill, Stream handle) noexcept {
  if (fill.to % fill.unit_bytes != 0) return Result::invalid_value;
  if (fill.count > SIZE_MAX / fill.unit_bytes) return Result::invalid_value;
  const Lock hold(lock_);
  cuda::StreamObject* stream = queues_.find(handle);
  if (stream == nullptr) return Result::invalid_handle;
  if (fill.count == 0) return Result::success;
  std::byte* to = locate(fill.to, fill.count * fill.unit_bytes, Operand::device, cuda::kAccessReadWrite);
  if (to == nullptr) return Result::invalid_value;
  Operation* operation = queues_.make(fill.kind, stream);
  if (operation == nullptr) return queues_.error();
  operation->to = to;
  operation->size = fill.count;
  operation->value = fill.value;
  return queues_.queue(operation);
}

}  // namespace glebe::os::emulated
