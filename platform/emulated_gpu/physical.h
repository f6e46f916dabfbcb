// Physical memory of the emulated GPU (namespace glebe::os::emulated): pieces of one anonymous file, with an
// exact account for the device and for the host. The file is much larger than both together, so that pieces
// of any order of sizes find room: the real device has no trouble with contiguity either. A piece that may be
// exported is a file of its own.
//
// A piece lives while handles or mappings refer to it. Not thread-safe: the lock of the machine guards it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "platform/cuda/types.h"
#include "platform/emulated_gpu/store.h"
#include "src/placement/tlsf.h"

namespace glebe::os::emulated {

struct Piece {
  cuda::AllocationProperties properties;
  std::size_t size_bytes;
  std::int64_t file_offset;
  int file;                  // of its own, or -1
  std::byte* view;           // of a tile pool: where the process sees it, or nullptr
  std::uint32_t first_unit;  // in the common file
  std::uint32_t handles, mappings;
  bool is_counted;  // in the account of its location
};

class PhysicalMemory {
 public:
  struct Options {
    std::size_t device_bytes, host_bytes;
    std::uint64_t seed;
    bool is_poisoned;
  };
  [[nodiscard]] bool open(const Options& options) noexcept;
  void close() noexcept;

  // Arguments were checked. out_of_memory: above the capacity of the location, or too many pieces;
  // operating_system: no file.
  [[nodiscard]] cuda::Result create(const cuda::AllocationProperties& properties, std::size_t size_bytes,
                                    Piece** piece) noexcept;
  void drop_handle(Piece* piece) noexcept;
  void drop_mapping(Piece* piece) noexcept;

  [[nodiscard]] cuda::MemoryHandle handle_of(const Piece* piece) noexcept;
  // The piece of a handle that somebody still has, or nullptr.
  [[nodiscard]] Piece* find(cuda::MemoryHandle handle) noexcept;

  // A descriptor for another process, the caller's to close, or -1; and the piece behind such a descriptor:
  // one that is known already, or one that another emulator made. nullptr: it is no such descriptor.
  [[nodiscard]] int export_file(const Piece* piece) noexcept;
  [[nodiscard]] Piece* import_file(int descriptor) noexcept;

  [[nodiscard]] int file_of(const Piece* piece) const noexcept {
    return piece->file >= 0 ? piece->file : file_;
  }

  // Where the process sees a piece, for as long as it lives; nullptr: the system refuses.
  [[nodiscard]] std::byte* view(Piece* piece) noexcept;

  // Takes bytes of a location's account; false: above the capacity.
  [[nodiscard]] bool charge(cuda::LocationType type, std::size_t size_bytes) noexcept;
  void discharge(cuda::LocationType type, std::size_t size_bytes) noexcept;

  [[nodiscard]] std::size_t device_used() const noexcept { return device_used_; }
  [[nodiscard]] std::size_t host_used() const noexcept { return host_used_; }
  [[nodiscard]] std::size_t device_bytes() const noexcept { return device_bytes_; }
  void set_device_bytes(std::size_t size_bytes) noexcept { device_bytes_ = size_bytes; }
  [[nodiscard]] std::uint32_t live() const noexcept { return pieces_.live(); }
  [[nodiscard]] std::uint64_t created() const noexcept { return created_; }

 private:
  [[nodiscard]] bool place(Piece& piece) noexcept;
  [[nodiscard]] bool poison(const Piece& piece) noexcept;
  void drop_unused(Piece* piece) noexcept;
  void close_view(Piece* piece) noexcept;

  Store<Piece> pieces_;
  Table<placement::Tag> tags_;
  placement::Tlsf units_;
  int file_ = -1;
  std::size_t device_bytes_ = 0, host_bytes_ = 0, device_used_ = 0, host_used_ = 0;
  std::uint64_t seed_ = 0, created_ = 0;
  bool is_poisoned_ = false;
};

}  // namespace glebe::os::emulated
