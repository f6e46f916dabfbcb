// The memory control group of this process, version 1 or 2: what it uses, what bounds it, its pressure.
// Private to platform/linux. Nothing here allocates or takes a lock; thread-safe; errno may change.
//
// A group has a folder below the mount point of its hierarchy. The groups above it bound it as well, so a
// limit is looked for on the whole way up. Inside a container the name that the kernel tells may be the
// host's, for which there is no folder: then the mount point answers, which is the container's own group.
#pragma once

#include <cstddef>

namespace glebe::os {

// Where the system shows its groups. Tests give folders of their own.
struct GroupPlaces {
  const char* names = "/proc/self/cgroup";
  const char* version_1 = "/sys/fs/cgroup/memory";
  const char* version_2 = "/sys/fs/cgroup";
  const char* hybrid = "/sys/fs/cgroup/unified";  // version 2 beside version 1
};

class MemoryGroup {
 public:
  // Reads where the process is now; it may be moved later.
  explicit MemoryGroup(const GroupPlaces& places = {}) noexcept;

  struct Usage {
    std::size_t used, limit;  // bytes; limit is the smaller of memory.high and memory.max
  };
  // The nearest group on the way up that has a limit, and what it uses; without one the innermost group that
  // tells its usage, with limit SIZE_MAX. {0, SIZE_MAX}: there is no group.
  [[nodiscard]] Usage nearest() noexcept;

  // The smallest limit on the way up; SIZE_MAX: none.
  [[nodiscard]] std::size_t smallest_limit() noexcept;

  // The text of memory.pressure of the innermost group that has it; 0: none. `capacity` counts the '\0'.
  [[nodiscard]] std::size_t pressure(char* to, std::size_t capacity) noexcept;

 private:
  static constexpr std::size_t kPathMax = 512;  // of a group, with its mount point
  static constexpr std::size_t kFileMax = 64;   // of a file in it

  void place(const char* mount, const char* name, std::size_t length) noexcept;
  [[nodiscard]] std::size_t read(const char* file, char* to, std::size_t capacity) noexcept;
  [[nodiscard]] std::size_t number(const char* file) noexcept;
  [[nodiscard]] std::size_t limit_here() noexcept;
  [[nodiscard]] bool go_up() noexcept;  // false: this is the mount point
  [[nodiscard]] bool is_found() const noexcept { return mount_length_ != 0; }

  char path_[kPathMax];  // the part that counts now is length_ long
  std::size_t length_ = 0, mount_length_ = 0;
  bool is_version_1_ = false;
};

}  // namespace glebe::os
