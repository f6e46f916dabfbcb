// Physical memory as pieces of a file; see physical.h.
#include "platform/emulated_gpu/physical.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "platform/emulated_gpu/emulated_gpu.h"
#include "platform/memory_calls.h"

namespace glebe::os::emulated {
namespace {

constexpr std::uint32_t kPiecesMax = 1u << 16;
constexpr std::size_t kFileFactor = 8;  // addresses in the file for each byte of capacity

int make_file(std::size_t size_bytes) noexcept {
  const auto file = static_cast<int>(::syscall(SYS_memfd_create, "glebe-gpu", MFD_CLOEXEC));
  if (file < 0) return -1;
  if (::ftruncate(file, static_cast<off_t>(size_bytes)) == 0) return file;
  ::close(file);
  return -1;
}

}  // namespace

bool PhysicalMemory::open(const Options& options) noexcept {
  device_bytes_ = options.device_bytes;
  host_bytes_ = options.host_bytes;
  seed_ = options.seed;
  is_poisoned_ = options.is_poisoned;
  const std::uint64_t units =
      divide_up((device_bytes_ + host_bytes_) * kFileFactor, kEmulatedGranuleBytes) + kFileFactor;
  if (units > placement::kTlsfUnitsMax) return false;
  if (!pieces_.open(kPiecesMax) || !tags_.open(units)) return false;
  units_.attach(tags_.data(), static_cast<std::uint32_t>(units));
  if (units_.add_range(0, static_cast<std::uint32_t>(units)) != placement::Status::ok) return false;
  file_ = make_file(units * kEmulatedGranuleBytes);
  return file_ >= 0;
}

void PhysicalMemory::close() noexcept {
  for (std::uint32_t i = 0; i < pieces_.used(); ++i) {
    Piece* piece = pieces_.find(i);
    if (piece == nullptr) continue;
    close_view(piece);
    if (piece->file >= 0) ::close(piece->file);
  }
  pieces_.close();
  tags_.close();
  if (file_ >= 0) ::close(file_);
  file_ = -1;
}

bool PhysicalMemory::charge(cuda::LocationType type, std::size_t size_bytes) noexcept {
  const bool is_device = type == cuda::LocationType::device;
  const std::size_t limit = is_device ? device_bytes_ : host_bytes_;
  std::size_t& used = is_device ? device_used_ : host_used_;
  if (used > limit || size_bytes > limit - used) return false;
  used += size_bytes;
  return true;
}

void PhysicalMemory::discharge(cuda::LocationType type, std::size_t size_bytes) noexcept {
  std::size_t& used = type == cuda::LocationType::device ? device_used_ : host_used_;
  CHECK(size_bytes <= used);
  used -= size_bytes;
}

// Room in a file.
bool PhysicalMemory::place(Piece& piece) noexcept {
  if (piece.properties.requested_handle_types == cuda::HandleType::posix_file_descriptor) {
    piece.file = make_file(piece.size_bytes);
    return piece.file >= 0;
  }
  piece.file = -1;
  const placement::Run run =
      units_.allocate(static_cast<std::uint32_t>(piece.size_bytes / kEmulatedGranuleBytes));
  if (run.empty()) return false;
  piece.first_unit = run.first;
  piece.file_offset = static_cast<std::int64_t>(run.first * std::uint64_t{kEmulatedGranuleBytes});
  return true;
}

// Fresh memory must be written before it is read: it holds a pattern that differs from piece to piece.
bool PhysicalMemory::poison(const Piece& piece) noexcept {
  if (!is_poisoned_) return true;
  const long view = map_call(
      {nullptr, piece.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_of(&piece), piece.file_offset});
  if (is_failure(view)) return false;
  auto* words = reinterpret_cast<std::uint64_t*>(view);
  const std::uint64_t pattern = (seed_ + created_) * 0x9E3779B97F4A7C15u | 1;
  for (std::size_t i = 0; i < piece.size_bytes / sizeof *words; ++i) words[i] = pattern + i;
  return unmap_call(words, piece.size_bytes) == 0;
}

std::byte* PhysicalMemory::view(Piece* piece) noexcept {
  if (piece->view != nullptr) return piece->view;
  const long view = map_call(
      {nullptr, piece->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_of(piece), piece->file_offset});
  if (!is_failure(view)) piece->view = reinterpret_cast<std::byte*>(view);
  return piece->view;
}

void PhysicalMemory::close_view(Piece* piece) noexcept {
  if (piece->view != nullptr) CHECK(unmap_call(piece->view, piece->size_bytes) == 0);
  piece->view = nullptr;
}

cuda::Result PhysicalMemory::create(const cuda::AllocationProperties& properties, std::size_t size_bytes,
                                    Piece** made) noexcept {
  const cuda::LocationType type = properties.location.type;
  if (!charge(type, size_bytes)) return cuda::Result::out_of_memory;
  Piece* piece = pieces_.take();
  if (piece == nullptr) {
    discharge(type, size_bytes);
    return cuda::Result::out_of_memory;
  }
  piece->properties = properties;
  piece->size_bytes = size_bytes;
  piece->handles = 1;
  if (!place(*piece)) {
    pieces_.give_back(piece);
    discharge(type, size_bytes);
    return cuda::Result::out_of_memory;
  }
  ++created_;
  piece->is_counted = true;
  if (!poison(*piece)) {
    drop_handle(piece);
    return cuda::Result::operating_system;
  }
  *made = piece;
  return cuda::Result::success;
}

void PhysicalMemory::drop_handle(Piece* piece) noexcept {
  --piece->handles;
  drop_unused(piece);
}

void PhysicalMemory::drop_mapping(Piece* piece) noexcept {
  --piece->mappings;
  drop_unused(piece);
}

void PhysicalMemory::drop_unused(Piece* piece) noexcept {
  if (piece->handles != 0 || piece->mappings != 0) return;
  close_view(piece);
  if (piece->file >= 0) {
    ::close(piece->file);
  } else {
    // What cannot be punched keeps its memory until it is used again: a loss for the machine, not for us.
    static_cast<void>(::fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, piece->file_offset,
                                  static_cast<off_t>(piece->size_bytes)));
    CHECK(!units_.free(piece->first_unit).empty());
  }
  if (piece->is_counted) discharge(piece->properties.location.type, piece->size_bytes);
  pieces_.give_back(piece);
}

cuda::MemoryHandle PhysicalMemory::handle_of(const Piece* piece) noexcept {
  return cuda::MemoryHandle{pieces_.generation_of(piece)} << 32 | (pieces_.index_of(piece) + 1u);
}

Piece* PhysicalMemory::find(cuda::MemoryHandle handle) noexcept {
  const auto number = static_cast<std::uint32_t>(handle);
  if (number == 0) return nullptr;
  Piece* piece = pieces_.find(number - 1);
  if (piece == nullptr || piece->handles == 0 || handle_of(piece) != handle) return nullptr;
  return piece;
}

int PhysicalMemory::export_file(const Piece* piece) noexcept {
  return piece->file < 0 ? -1 : ::fcntl(piece->file, F_DUPFD_CLOEXEC, 0);
}

Piece* PhysicalMemory::import_file(int descriptor) noexcept {
  struct stat wanted, known;
  if (::fstat(descriptor, &wanted) != 0 || wanted.st_size <= 0) return nullptr;
  const auto size_bytes = static_cast<std::size_t>(wanted.st_size);
  // Only an anonymous file has seals.
  if (size_bytes % kEmulatedGranuleBytes != 0 || ::fcntl(descriptor, F_GET_SEALS) < 0) return nullptr;
  for (std::uint32_t i = 0; i < pieces_.used(); ++i) {
    Piece* piece = pieces_.find(i);
    if (piece == nullptr || piece->file < 0 || ::fstat(piece->file, &known) != 0) continue;
    if (known.st_ino != wanted.st_ino || known.st_dev != wanted.st_dev) continue;
    ++piece->handles;
    return piece;
  }
  Piece* piece = pieces_.take();
  if (piece == nullptr) return nullptr;
  piece->file = ::fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
  if (piece->file < 0) {
    pieces_.give_back(piece);
    return nullptr;
  }
  // Whoever created it counts it.
  piece->properties.type = cuda::AllocationType::pinned;
  piece->properties.requested_handle_types = cuda::HandleType::posix_file_descriptor;
  piece->properties.location = {cuda::LocationType::device, 0};
  piece->size_bytes = size_bytes;
  piece->handles = 1;
  return piece;
}

}  // namespace glebe::os::emulated
