// A file that takes the place of another one all at once, or not at all (namespace glebe::os). Linux only.
//
// It is written under a name of its own in the same directory, brought to the disk, and renamed: whoever
// opens the path finds the old file or the complete new one, also after a crash. A file that is not
// committed is removed again. Belongs to one thread. Errors are errno values, 0 when all went well.
#pragma once

#include <cstddef>
#include <cstdint>

namespace glebe::os {

class ReplacingFile {
 public:
  static constexpr std::size_t kPathMax = 4096;

  ReplacingFile() noexcept = default;
  ~ReplacingFile() { abandon(); }
  ReplacingFile(const ReplacingFile&) = delete;
  ReplacingFile& operator=(const ReplacingFile&) = delete;

  [[nodiscard]] int open(const char* path) noexcept;  // mode 0644 and the umask of the process
  [[nodiscard]] bool is_open() const noexcept { return descriptor_ >= 0; }
  // All of it, resumed after short counts.
  [[nodiscard]] int write(std::uint64_t offset, const std::byte* from, std::size_t size_bytes) noexcept;
  [[nodiscard]] int commit() noexcept;
  void abandon() noexcept;

 private:
  int descriptor_ = -1;
  char path_[kPathMax] = {};
  char temporary_[kPathMax] = {};
};

}  // namespace glebe::os
