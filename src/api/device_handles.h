// What the handles of include/glebe/device*.h point to, and the conversions that the files of that interface
// share (namespace glebe::api).
#pragma once

#include <glebe/device.h>

#include <cstring>

#include "platform/emulated_gpu/emulated_gpu.h"
#include "src/base/text.h"
#include "src/device/device_heap.h"
#include "src/paging/own_memory.h"

namespace glebe::api {

namespace dev = glebe::device;
namespace cuda = os::cuda;
using paging::end_own;
using paging::make_own;

struct OwnDevice {
  os::EmulatedGpu emulated;
  dev::Gpu gpu;  // last: it ends first
  bool is_emulated = false;
};
struct OwnHeap {
  glebe_device_heap_options options;
  dev::DeviceHeap heap;
};

[[nodiscard]] inline OwnDevice& own(glebe_device* device) noexcept {
  return *reinterpret_cast<OwnDevice*>(device);
}
[[nodiscard]] inline OwnHeap& own(glebe_device_heap* heap) noexcept {
  return *reinterpret_cast<OwnHeap*>(heap);
}
[[nodiscard]] inline cuda::Stream to_stream(void* stream) noexcept {
  return static_cast<cuda::Stream>(stream);
}

static_assert(glebe_device_failed == static_cast<int>(dev::Status::failed));
static_assert(glebe_device_lost == static_cast<int>(dev::Status::device_lost));
static_assert(glebe_device_in_use == static_cast<int>(dev::Status::in_use));
[[nodiscard]] inline glebe_device_result to_c(dev::Outcome outcome) noexcept {
  return static_cast<glebe_device_result>(outcome.status);
}

// The options that the caller gave, or the defaults.
template <class Options>
[[nodiscard]] Options given_or_defaults(const Options* options) noexcept {
  if (options != nullptr) return *options;
  Options defaults = {};
  defaults.struct_bytes = sizeof defaults;
  return defaults;
}

inline void copy_text(const Text& from, char* to, std::size_t to_bytes) noexcept {
  if (to == nullptr || to_bytes == 0) return;
  const std::size_t count = from.size() < to_bytes - 1 ? from.size() : to_bytes - 1;
  std::memcpy(to, from.c_str(), count);
  to[count] = '\0';
}

}  // namespace glebe::api
