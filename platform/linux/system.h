// What the Linux files of this folder share: errno that callers never see changed, and small files of /proc
// and /sys. Private to platform/linux. Nothing here allocates or uses stdio; thread-safe.
#pragma once

#include <cerrno>
#include <cstddef>

namespace glebe::os {

// Puts errno back when the scope ends: malloc must not change it on success, and we run inside malloc.
class ErrnoScope {
 public:
  ErrnoScope() noexcept : saved_(errno) {}
  ~ErrnoScope() { errno = saved_; }
  ErrnoScope(const ErrnoScope&) = delete;
  ErrnoScope& operator=(const ErrnoScope&) = delete;

 private:
  int saved_;
};

// Reads the beginning of a file of the system as text that ends in '\0'. Returns its length; 0 when it cannot
// be read. Changes errno. `capacity` counts the '\0'.
[[nodiscard]] std::size_t read_system_file(const char* path, char* to, std::size_t capacity) noexcept;

// The number at `text`, or SIZE_MAX where there is none ("max") or where it stands for no limit (control
// groups v1: 2^63 - 4096).
[[nodiscard]] std::size_t parse_limit(const char* text) noexcept;

// The field of a line with this number, counted from 0, between spaces; nullptr when there are fewer.
[[nodiscard]] const char* field_at(const char* line, unsigned number) noexcept;

// The number behind `key` in a file like /proc/meminfo, which counts KiB, in bytes; 0 when it is not there.
[[nodiscard]] std::size_t kib_field(const char* text, const char* key) noexcept;

}  // namespace glebe::os
