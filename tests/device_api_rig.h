// What the tests of the C and C++ interface to a GPU share.
#pragma once

#include <cstring>
#include <glebe/device.hpp>
#include <string>
#include <vector>

#include "src/base/bits.h"
#include "tests/catch.h"

namespace api_test {

using glebe::kKiB;
using glebe::kMiB;

// An emulated device.
inline glebe::Device opened(std::uint64_t device_bytes = 32 * kMiB) {
  glebe::Device device;
  std::string why;
  REQUIRE(device.open_emulated(device_bytes, 32 * kMiB, &why) == glebe_device_ok);
  CHECK(why.empty());
  return device;
}

inline std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 31 + (i >> 8) + seed);
  return bytes;
}
inline std::vector<std::byte> on_device(const glebe::Device& device, glebe::DeviceAddress from,
                                        std::size_t size) {
  std::vector<std::byte> bytes(size);
  REQUIRE(device.read(bytes, from) == glebe_device_ok);
  return bytes;
}

// A value of an enumeration of C that has no name, as a caller in C can make one.
template <class Enum>
Enum nameless(int value) {
  Enum result;
  static_assert(sizeof result == sizeof value);
  std::memcpy(&result, &value, sizeof result);
  return result;
}

// A stream for a scope.
class Stream {
 public:
  explicit Stream(const glebe::Device& device) : device_(device) {
    REQUIRE(glebe_device_stream_open(device.handle(), &stream_) == glebe_device_ok);
  }
  ~Stream() { CHECK(glebe_device_stream_close(device_.handle(), stream_) == glebe_device_ok); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator void*() const { return stream_; }  // NOLINT: what the interface takes

 private:
  const glebe::Device& device_;
  void* stream_ = nullptr;
};

}  // namespace api_test
