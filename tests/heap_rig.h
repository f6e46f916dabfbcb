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

inline Status refusal(DeviceHeap& heap, std::uint64_t size_bytes, std::uint64_t align_bytes = 0) {
  cuda::DevicePointer address = 0;
  return heap.allocate({size_bytes, align_bytes, 0}, &address).status;
}

}  // namespace device_test
