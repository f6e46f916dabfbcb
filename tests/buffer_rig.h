// What the tests of explicit buffers share: a pager with all tiers, contents that tell where they belong, and
// short names for the calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "src/base/bits.h"
#include "src/paging/buffer_pager.h"

// A folder of its own under TMPDIR, removed at the end.
class BufferFolder {
 public:
  BufferFolder() {
    const char* base = std::getenv("TMPDIR");
    path_ = std::string(base != nullptr ? base : "/tmp") + "/glebe-buffers-XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) std::abort();
  }
  ~BufferFolder() { static_cast<void>(std::system(("rm -rf '" + path_ + "'").c_str())); }
  const char* path() const { return path_.c_str(); }

 private:
  std::string path_;
};

inline constexpr std::size_t kExtent = 64 * 1024;

struct BufferRig {
  BufferFolder folder;
  glebe::paging::EmulatedDevice device;
  glebe::paging::DeviceMemory table{};
  glebe::paging::BufferPager pager;

  // All tiers, generous budgets, no threads.
  glebe::paging::BufferPagerOptions options() {
    glebe::paging::BufferPagerOptions result;
    result.host_bytes = 64 * glebe::kMiB;
    result.compressed_bytes = 64 * glebe::kMiB;
    result.device_bytes = 64 * glebe::kMiB;
    result.directory = folder.path();
    result.address_bytes = 8 * glebe::kGiB;
    result.workers = 0;
    if (table.context == nullptr && device.open(64 * glebe::kMiB)) table = device.table();
    result.device = &table;
    return result;
  }
};

// Compressible content: every 8 bytes say which buffer, version and place they belong to, in the upper half
// of the words; the rest repeats.
inline std::uint64_t word_at(std::uint64_t seed, std::size_t index) {
  return (seed * 0x9E3779B97F4A7C15u) ^ (index / 8 * 0x100000001u);
}
inline void write_words(std::byte* data, std::size_t offset, std::size_t size, std::uint64_t seed) {
  auto* words = reinterpret_cast<std::uint64_t*>(data);
  for (std::size_t i = 0; i < size / 8; ++i) words[i] = word_at(seed, offset / 8 + i);
}
inline bool has_words(const std::byte* data, std::size_t offset, std::size_t size, std::uint64_t seed) {
  const auto* words = reinterpret_cast<const std::uint64_t*>(data);
  for (std::size_t i = 0; i < size / 8; ++i) {
    if (words[i] != word_at(seed, offset / 8 + i)) return false;
  }
  return true;
}
inline bool is_zero(const std::byte* data, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    if (data[i] != std::byte{0}) return false;
  }
  return true;
}

// Pins, fills or compares, unpins. The answer is whether all of that worked.
inline bool fill(glebe::paging::BufferPager& pager, glebe::paging::BufferHandle buffer,
                 glebe::paging::ByteRange range, std::uint64_t seed) {
  using namespace glebe::paging;
  const PinnedRange pinned = pager.pin(buffer, range, Access::write);
  if (pinned.result != Result::ok) return false;
  write_words(pinned.data, range.offset_bytes, range.size_bytes, seed);
  return pager.unpin(buffer, range, Access::write) == Result::ok;
}
inline bool holds(glebe::paging::BufferPager& pager, glebe::paging::BufferHandle buffer,
                  glebe::paging::ByteRange range, std::uint64_t seed) {
  using namespace glebe::paging;
  const PinnedRange pinned = pager.pin(buffer, range, Access::read);
  if (pinned.result != Result::ok) return false;
  const bool is_right = has_words(pinned.data, range.offset_bytes, range.size_bytes, seed);
  return pager.unpin(buffer, range, Access::read) == Result::ok && is_right;
}
