// Finding the memory control group of the process, and the way up from it; see memory_group.h.
#include "platform/linux/memory_group.h"

#include <cstdint>
#include <cstring>

#include "platform/linux/system.h"
#include "src/base/bits.h"

namespace glebe::os {
namespace {

// Characters [text, text + length).
struct Part {
  const char* text;
  std::size_t length;
};

// What stands before the next `separator` in `rest`, which then begins behind it.
Part cut(Part& rest, char separator) noexcept {
  const auto* found =
      rest.length == 0 ? nullptr : static_cast<const char*>(std::memchr(rest.text, separator, rest.length));
  const std::size_t length = found != nullptr ? static_cast<std::size_t>(found - rest.text) : rest.length;
  const Part before = {rest.text, length};
  const std::size_t passed = found != nullptr ? length + 1 : length;
  rest = {rest.text + passed, rest.length - passed};
  return before;
}

bool has_word(Part list, const char* word) noexcept {
  while (list.length != 0) {
    const Part one = cut(list, ',');
    if (one.length == std::strlen(word) && std::memcmp(one.text, word, one.length) == 0) return true;
  }
  return false;
}

// Version 2 tells its controllers in every group, version 1 has no such file.
bool is_version_2(const char* mount) noexcept {
  constexpr char kFile[] = "/cgroup.controllers";
  char path[256], text[8];
  const std::size_t length = std::strlen(mount);
  if (length + sizeof kFile > sizeof path) return false;
  std::memcpy(path, mount, length);
  std::memcpy(path + length, kFile, sizeof kFile);
  return read_system_file(path, text, sizeof text) != 0;
}

}  // namespace

MemoryGroup::MemoryGroup(const GroupPlaces& places) noexcept {
  char text[4 * kKiB];
  Part rest = {text, read_system_file(places.names, text, sizeof text)};
  Part unified = {nullptr, 0};
  // A line is "12:cpu,memory:/name" of version 1 or "0::/name" of version 2. Whichever version has the
  // controller, the other one does not.
  while (rest.length != 0) {
    Part line = cut(rest, '\n');
    static_cast<void>(cut(line, ':'));
    const Part controllers = cut(line, ':');
    if (has_word(controllers, "memory")) {
      is_version_1_ = true;
      place(places.version_1, line.text, line.length);
      return;
    }
    if (controllers.length == 0 && line.length != 0) unified = line;
  }
  if (unified.text == nullptr) return;
  const char* const mount = is_version_2(places.version_2) ? places.version_2 : places.hybrid;
  place(mount, unified.text, unified.length);
}

void MemoryGroup::place(const char* mount, const char* name, std::size_t length) noexcept {
  const std::size_t mount_length = std::strlen(mount);
  if (mount_length > kPathMax) return;
  if (mount_length + length > kPathMax) length = 0;  // only the mount point then
  std::memcpy(path_, mount, mount_length);
  if (length != 0) std::memcpy(path_ + mount_length, name, length);
  mount_length_ = mount_length;
  length_ = mount_length + length;
  while (length_ > mount_length_ && path_[length_ - 1] == '/') --length_;
}

std::size_t MemoryGroup::read(const char* file, char* to, std::size_t capacity) noexcept {
  char path[kPathMax + kFileMax];  // a copy: what lies below is needed again after the way up
  std::memcpy(path, path_, length_);
  std::memcpy(path + length_, file, std::strlen(file) + 1);
  return read_system_file(path, to, capacity);
}

std::size_t MemoryGroup::number(const char* file) noexcept {
  char text[64];
  return read(file, text, sizeof text) != 0 ? parse_limit(text) : SIZE_MAX;
}

std::size_t MemoryGroup::limit_here() noexcept {
  if (is_version_1_) return number("/memory.limit_in_bytes");
  const std::size_t high = number("/memory.high"), max = number("/memory.max");
  return high < max ? high : max;
}

bool MemoryGroup::go_up() noexcept {
  if (length_ == mount_length_) return false;
  while (length_ > mount_length_ && path_[length_ - 1] != '/') --length_;
  while (length_ > mount_length_ && path_[length_ - 1] == '/') --length_;
  return true;
}

MemoryGroup::Usage MemoryGroup::nearest() noexcept {
  Usage innermost = {0, SIZE_MAX};
  if (!is_found()) return innermost;
  const std::size_t whole = length_;
  bool is_first = true;
  do {
    const std::size_t used = number(is_version_1_ ? "/memory.usage_in_bytes" : "/memory.current");
    if (used == SIZE_MAX) continue;
    const std::size_t limit = limit_here();
    if (is_first || limit != SIZE_MAX) innermost = {used, limit};
    is_first = false;
  } while (innermost.limit == SIZE_MAX && go_up());
  length_ = whole;
  return innermost;
}

std::size_t MemoryGroup::smallest_limit() noexcept {
  std::size_t smallest = SIZE_MAX;
  if (!is_found()) return smallest;
  const std::size_t whole = length_;
  do {
    const std::size_t here = limit_here();
    if (here < smallest) smallest = here;
  } while (go_up());
  length_ = whole;
  return smallest;
}

std::size_t MemoryGroup::pressure(char* to, std::size_t capacity) noexcept {
  if (!is_found() || is_version_1_) return 0;
  const std::size_t whole = length_;
  std::size_t got = 0;
  do {
    got = read("/memory.pressure", to, capacity);
  } while (got == 0 && go_up());
  length_ = whole;
  return got;
}

}  // namespace glebe::os
