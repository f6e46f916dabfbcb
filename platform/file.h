// Files as byte ranges (namespace glebe::os): reports today, page files of the paging tier later.
// Nothing here allocates or uses stdio. A File is owned by one object and may be used by many threads at
// once, because every operation names its offset.
#pragma once

#include <cstddef>
#include <cstdint>

namespace glebe::os {

class File {
 public:
  File() noexcept = default;
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  // Each returns a File for which is_open() is false when the system refuses.
  [[nodiscard]] static File open_read(const char* path) noexcept;
  [[nodiscard]] static File create(const char* path) noexcept;  // truncates; mode 0644
  [[nodiscard]] static File temporary(
      const char* directory) noexcept;  // has no name: nothing is left after a crash

  [[nodiscard]] bool is_open() const noexcept { return handle_ != kClosed; }

  // Move `size_bytes` at `offset`, resuming after short counts and interruptions. False on an error or at the
  // end of the file; how far it came is unspecified.
  [[nodiscard]] bool read_at(std::uint64_t offset, void* to, std::size_t size_bytes) const noexcept;
  [[nodiscard]] bool write_at(std::uint64_t offset, const void* from, std::size_t size_bytes) noexcept;

  // Gives the storage of a range back; it reads as zero. False where the file system cannot.
  [[nodiscard]] bool punch_hole(std::uint64_t offset, std::uint64_t size_bytes) noexcept;
  [[nodiscard]] bool truncate(std::uint64_t size_bytes) noexcept;
  [[nodiscard]] std::uint64_t size_bytes() const noexcept;       // logical length; 0 on failure
  [[nodiscard]] std::uint64_t allocated_bytes() const noexcept;  // storage in use; 0 on failure

  void close() noexcept;

 private:
  static constexpr std::intptr_t kClosed = -1;
  std::intptr_t handle_ = kClosed;
};

}  // namespace glebe::os
