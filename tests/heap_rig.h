// What the tests of the device heap share: an emulated GPU of 32 MiB with a heap on it that has coarse chunks
// of 8 MiB, so that both kinds meet; and the look at the end that the heap's tables agree.
#pragma once

#include "src/device/device_heap.h"
#include "tests/device_rig.h"

namespace device_test {

inline DeviceHeapOptions small_heap() {
  DeviceHeapOptions options;
  options.reserve_bytes = 256 * kMiB;
  options.coarse_bytes = 8 * kMiB;
  return options;
}

// Runs body(rig, heap) on a machine and a heap with these options. All blocks are freed by the body.
template <class Body>
void on_heap(const DeviceHeapOptions& options, Body body,
             const EmulatedGpu::Options& machine = gpu_test::small()) {
  on_gpu(machine, [&](Rig& rig, Gpu& gpu) {
    DeviceHeap heap;
    REQUIRE(heap.open(gpu, options).ok());
    body(rig, heap);
    CHECK(heap.validate());
    CHECK(heap.close() == 0);
  });
}

inline cuda::DevicePointer take(DeviceHeap& heap, std::uint64_t size_bytes, std::uint64_t align_bytes = 0,
                                HeapTag tag = 0) {
  cuda::DevicePointer address = 0;
  const Outcome outcome = heap.allocate({size_bytes, align_bytes, tag}, &address);
  INFO("size " << size_bytes << " outcome " << describe(outcome.status));
  REQUIRE(outcome.ok());
  return address;
}

// Words that differ by block and by place.
inline std::vector<std::uint32_t> words_of(std::uint32_t number, std::uint64_t size_bytes) {
  std::vector<std::uint32_t> words(size_bytes / 4);
  for (std::size_t i = 0; i < words.size(); ++i) {
    words[i] = number * 0x9e3779b9u + static_cast<std::uint32_t>(i);
  }
  return words;
}
// Fills all bytes that a block may use with them, those behind the requested ones too.
inline void fill(Rig& rig, DeviceHeap& heap, cuda::DevicePointer block, std::uint32_t number) {
  const std::vector<std::uint32_t> words = words_of(number, heap.size_of(block));
  REQUIRE(!words.empty());
  REQUIRE(rig.driver.memcpy_h2d(block, words.data(), words.size() * 4) == cuda::Result::success);
}
// Whether they are still there, up to a size.
inline bool holds(Rig& rig, cuda::DevicePointer block, std::uint32_t number, std::uint64_t size_bytes) {
  std::vector<std::uint32_t> found(size_bytes / 4);
  REQUIRE(!found.empty());
  REQUIRE(rig.driver.memcpy_d2h(found.data(), block, found.size() * 4) == cuda::Result::success);
  return found == words_of(number, size_bytes);
}

inline Status refusal(DeviceHeap& heap, std::uint64_t size_bytes, std::uint64_t align_bytes = 0) {
  cuda::DevicePointer address = 0;
  return heap.allocate({size_bytes, align_bytes, 0}, &address).status;
}

}  // namespace device_test
