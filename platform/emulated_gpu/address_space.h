// The addresses of the emulated GPU (namespace glebe::os::emulated): reservations, mappings and access.
//
// Two windows of addresses, one at a constant distance from the other. The first holds the numbers that the
// program gets: nobody may touch them, so the CPU faults there as on a device behind a bus, unless memory of
// the host was made accessible to it. The second is what the device sees: mapped memory, with the device's
// access rights; copies and kernels work there. A granule of 2 MiB belongs to at most one reservation and one
// mapping, so tables by granule answer every question.
//
// Not thread-safe: the lock of the machine guards it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "platform/cuda/types.h"
#include "platform/emulated_gpu/physical.h"
#include "platform/emulated_gpu/store.h"
#include "src/placement/tlsf.h"

namespace glebe::os::emulated {

struct Reservation {
  cuda::DevicePointer base;
  std::size_t size_bytes;
};

struct Mapping {
  cuda::DevicePointer base;
  std::size_t size_bytes;
  Piece* piece;
  cuda::AccessFlags device, host;
  std::uint64_t id;
  bool is_allocation;  // by cuMemAlloc: reservation, piece and mapping are one
};

class AddressSpace {
 public:
  [[nodiscard]] bool open(std::size_t size_bytes, PhysicalMemory* physical) noexcept;
  void close() noexcept;

  struct Request {
    std::size_t size_bytes, align_bytes;
  };
  [[nodiscard]] cuda::Result reserve(const Request& request, cuda::DevicePointer* address) noexcept;
  [[nodiscard]] cuda::Result free(cuda::DevicePointer address, std::size_t size_bytes) noexcept;
  [[nodiscard]] cuda::Result map(cuda::DevicePointer address, std::size_t size_bytes, Piece* piece) noexcept;
  [[nodiscard]] cuda::Result unmap(cuda::DevicePointer address, std::size_t size_bytes) noexcept;
  [[nodiscard]] cuda::Result set_access(cuda::DevicePointer address, std::size_t size_bytes,
                                        std::span<const cuda::AccessDescription> access) noexcept;

  // What an address belongs to, or nullptr.
  [[nodiscard]] Mapping* mapping_at(cuda::DevicePointer address) noexcept;
  [[nodiscard]] Reservation* reservation_at(cuda::DevicePointer address) noexcept;

  [[nodiscard]] bool is_ours(cuda::DevicePointer address) const noexcept {
    return static_cast<std::uintptr_t>(address) - begin_ < size_bytes_;
  }
  enum class Side : std::uint8_t { device, host };
  // Whether every byte of the range is mapped with at least this access for the side.
  [[nodiscard]] bool covers(const Reservation& range, Side side, cuda::AccessFlags access) noexcept;

  [[nodiscard]] std::byte* shadow(cuda::DevicePointer address) const noexcept {
    return reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(address) +
                                        static_cast<std::uintptr_t>(distance_));
  }
  [[nodiscard]] std::uintptr_t begin() const noexcept { return begin_; }
  [[nodiscard]] std::size_t size_bytes() const noexcept { return size_bytes_; }
  [[nodiscard]] std::ptrdiff_t distance() const noexcept { return distance_; }
  [[nodiscard]] std::uint32_t reservations() const noexcept { return reservations_.live(); }
  [[nodiscard]] std::uint32_t mappings() const noexcept { return mappings_.live(); }

 private:
  [[nodiscard]] std::uint32_t granule_of(cuda::DevicePointer address) const noexcept;
  [[nodiscard]] bool is_bare(cuda::DevicePointer address, std::size_t size_bytes) noexcept;
  [[nodiscard]] bool is_whole(cuda::DevicePointer address, std::size_t size_bytes) noexcept;
  [[nodiscard]] bool holds_device_memory(cuda::DevicePointer address, std::size_t size_bytes) noexcept;
  [[nodiscard]] bool make_bare(cuda::DevicePointer address, std::size_t size_bytes) noexcept;
  [[nodiscard]] bool apply(Mapping& mapping, const cuda::AccessDescription& access) noexcept;

  PhysicalMemory* physical_ = nullptr;
  std::uintptr_t begin_ = 0;
  std::size_t size_bytes_ = 0;
  std::ptrdiff_t distance_ = 0;
  std::uint64_t next_id_ = 0;
  Store<Reservation> reservations_;
  Store<Mapping> mappings_;
  Table<std::uint32_t> reservation_of_, mapping_of_;  // by granule: number + 1
  Table<placement::Tag> tags_;
  placement::Tlsf granules_;
};

}  // namespace glebe::os::emulated
