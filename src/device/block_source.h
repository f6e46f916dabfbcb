// Where device memory comes from, as a table of functions (namespace glebe::device): the interface between
// what hands out blocks and what is built on them (stream order, transfers, buffers). DeviceHeap is the one
// that programs use; DriverSource passes every call through to the driver.
#pragma once

#include <cstdint>

#include "src/device/gpu.h"

namespace glebe::device {

inline constexpr std::uint64_t kDeviceAlignBytes = 256;  // every block starts at a multiple of this

struct BlockSource {
  void* self = nullptr;
  // A block of at least `size_bytes`, not 0, at a multiple of `align_bytes`, a power of two (0 stands for
  // kDeviceAlignBytes). It is mapped; its contents are undefined. Thread-safe. A failure changes nothing.
  Outcome (*allocate)(void* self, std::uint64_t size_bytes, std::uint64_t align_bytes,
                      cuda::DevicePointer* address) = nullptr;
  // The block that starts there; no work on the device uses it any more: the caller has proved that.
  // Thread-safe. not_owned, double_free: nothing has changed.
  Outcome (*free)(void* self, cuda::DevicePointer address) = nullptr;
  // Gives idle memory back to the device until at most `keep_bytes` are held that no block uses; returns the
  // bytes given back. Thread-safe.
  std::uint64_t (*trim)(void* self, std::uint64_t keep_bytes) = nullptr;
  // As allocate, but only from memory that the source has and nobody uses: it never asks the device for more
  // and never waits. out_of_memory: there is none. Thread-safe. nullptr: this source cannot tell.
  Outcome (*allocate_idle)(void* self, std::uint64_t size_bytes, std::uint64_t align_bytes,
                           cuda::DevicePointer* address) = nullptr;
};

}  // namespace glebe::device
