// What the tests of staging rings share: a ring with fences, events, a stream and memory of the device.
#pragma once

#include "src/device/event_pool.h"
#include "src/device/staging.h"
#include "tests/device_rig.h"
#include "tests/random.h"

namespace device_test {

// One ring with what it stands on, a stream and a piece of device memory.
struct Staged {
  Staged(Rig& a_rig, Gpu& gpu, const StagingOptions& options, std::size_t a_device_bytes = 2 * kGranule)
      : rig(a_rig),
        device_bytes(a_device_bytes),
        stream(a_rig.stream()),
        memory(a_rig.memory(a_device_bytes)) {
    REQUIRE(events.open(gpu).ok());
    fences.open(gpu, events);
    REQUIRE(ring.open(gpu, fences, options).ok());
  }
  ~Staged() {
    ring.close();
    fences.close();
    events.close();
    CHECK(rig.driver.stream_synchronize(stream) == cuda::Result::success);
    CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
    rig.give_back(memory, device_bytes);
  }

  // Queues one upload of bytes through the ring.
  Outcome upload(cuda::DevicePointer to, const std::uint8_t* from, std::size_t size_bytes) {
    for (std::size_t done = 0; done < size_bytes;) {
      StagingBlock block;
      const Outcome outcome = ring.take(size_bytes - done, &block);
      if (!outcome.ok()) return outcome;
      std::memcpy(block.data, from + done, block.size_bytes);
      REQUIRE(rig.driver.memcpy_h2d_async(to + done, block.data, block.size_bytes, stream) ==
              cuda::Result::success);
      Fence fence = 0;
      REQUIRE(ring.submit({&block, 1}, stream, &fence).ok());
      done += block.size_bytes;
    }
    return {};
  }
  [[nodiscard]] std::vector<std::uint8_t> read(std::size_t size_bytes) const {
    REQUIRE(rig.driver.stream_synchronize(stream) == cuda::Result::success);
    std::vector<std::uint8_t> bytes(size_bytes);
    REQUIRE(rig.driver.memcpy_d2h(bytes.data(), memory, size_bytes) == cuda::Result::success);
    return bytes;
  }

  Rig& rig;
  std::size_t device_bytes;
  EventPool events;
  FenceQueue fences;
  StagingRing ring;
  cuda::Stream stream;
  cuda::DevicePointer memory;
};

inline StagingOptions small_ring(std::size_t ring_bytes, StagingPolicy policy = StagingPolicy::wait) {
  StagingOptions options;
  options.ring_bytes = ring_bytes;
  options.policy = policy;
  options.blocks_max = 64;
  return options;
}

inline std::vector<std::uint8_t> noise(Random& random, std::size_t size_bytes) {
  std::vector<std::uint8_t> bytes(size_bytes);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random.below(256));
  return bytes;
}

}  // namespace device_test
