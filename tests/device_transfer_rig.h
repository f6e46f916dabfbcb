// What the tests of transfers share: a queue on an emulated GPU with device memory, memory of the host that
// is pinned or not, and a driver that notes the order of uploads and flips a bit on demand.
#pragma once

#include <algorithm>
#include <mutex>

#include "src/device/event_pool.h"
#include "src/device/transfer.h"
#include "tests/device_staging_rig.h"

namespace device_test {

// Small pieces and no threads: whoever waits does the work.
inline TransferQueueOptions calm() {
  TransferQueueOptions options;
  options.threads = 0;
  options.ring_bytes = 64 * kKiB;
  options.piece_bytes = 4 * kKiB;
  options.direct_bytes = 16 * kKiB;
  return options;
}

// Does up to 100 operations of an adversarial schedule; 0: there are none.
inline unsigned rigged_run(Rig& rig) { return rig.emulated->run(100); }

// Memory of the host for one transfer.
class Host {
 public:
  Host(Rig& rig, std::size_t size_bytes, bool is_pinned)
      : rig_(rig), is_pinned_(is_pinned), plain_(size_bytes) {
    if (is_pinned) pinned_ = reinterpret_cast<std::uint8_t*>(rig.pinned((size_bytes + 3) / 4));
  }
  ~Host() {
    if (is_pinned_) CHECK(rig_.driver.mem_free_host(pinned_) == cuda::Result::success);
  }
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;
  [[nodiscard]] std::uint8_t* bytes() { return is_pinned_ ? pinned_ : plain_.data(); }

 private:
  Rig& rig_;
  bool is_pinned_;
  std::uint8_t* pinned_ = nullptr;
  std::vector<std::uint8_t> plain_;
};

struct Moving {
  static constexpr std::size_t kDeviceBytes = 2 * kGranule;

  Moving(Rig& a_rig, const Gpu& outer, const TransferQueueOptions& wanted)
      : rig(a_rig), inner(outer.driver()), options(wanted), memory(a_rig.memory(kDeviceBytes)) {
    cuda::Driver table = inner;
    table.memcpy_h2d_async = {
        this, [](void* self, cuda::DevicePointer to, const void* from, std::size_t size,
                 cuda::Stream stream) { return static_cast<Moving*>(self)->h2d(to, from, size, stream); }};
    table.memcpy_d2h_async = {
        this, [](void* self, void* to, cuda::DevicePointer from, std::size_t size, cuda::Stream stream) {
          return static_cast<Moving*>(self)->d2h(to, from, size, stream);
        }};
    table.memcpy_d2d_async = {this, [](void* self, cuda::DevicePointer to, cuda::DevicePointer from,
                                       std::size_t size, cuda::Stream stream) {
                                auto& moving = *static_cast<Moving*>(self);
                                const cuda::Result result =
                                    moving.inner.memcpy_d2d_async(to, from, size, stream);
                                moving.flip_on_device(to, size);
                                return result;
                              }};
    table.memset_d8_async = {
        this,
        [](void* self, cuda::DevicePointer to, unsigned char value, std::size_t count, cuda::Stream stream) {
          auto& moving = *static_cast<Moving*>(self);
          const cuda::Result result = moving.inner.memset_d8_async(to, value, count, stream);
          moving.flip_on_device(to, count);
          return result;
        }};
    REQUIRE(gpu.open(table).ok());
    REQUIRE(events.open(gpu).ok());
    REQUIRE(queue.open(gpu, events, options).ok());
  }
  ~Moving() {
    queue.close(TransferClose::wait);
    events.close();
    gpu.close();
    rig.give_back(memory, kDeviceBytes);
  }

  // What the device has; nothing is under way.
  [[nodiscard]] std::vector<std::uint8_t> read(std::size_t at, std::size_t size_bytes) const {
    std::vector<std::uint8_t> bytes(size_bytes);
    REQUIRE(rig.driver.memcpy_d2h(bytes.data(), memory + at, size_bytes) == cuda::Result::success);
    return bytes;
  }

  // One bit of byte `at` of the next copy in that direction (under the eager schedule). Copies and fills on
  // the device are looked for at memory + 1 MiB.
  struct Flip {
    TransferDirection direction = TransferDirection::upload;
    std::size_t at = 0;
    std::uint8_t bit = 0;
    bool is_armed = false;
  };

  cuda::Result h2d(cuda::DevicePointer to, const void* from, std::size_t size, cuda::Stream stream) {
    {
      const std::lock_guard<std::mutex> hold(mutex);
      order.push_back(to);
    }
    if (!is_hit(TransferDirection::upload, to - memory, size)) {
      return inner.memcpy_h2d_async(to, from, size, stream);
    }
    const auto* bytes = static_cast<const std::uint8_t*>(from);
    changed.assign(bytes, bytes + size);
    changed[flip.at - (to - memory)] ^= flip.bit;
    return inner.memcpy_h2d_async(to, changed.data(), size, stream);
  }
  cuda::Result d2h(void* to, cuda::DevicePointer from, std::size_t size, cuda::Stream stream) {
    const cuda::Result result = inner.memcpy_d2h_async(to, from, size, stream);
    if (is_hit(TransferDirection::download, from - memory, size)) {
      static_cast<std::uint8_t*>(to)[flip.at - (from - memory)] ^= flip.bit;
    }
    return result;
  }
  void flip_on_device(cuda::DevicePointer to, std::size_t size) {
    if (!is_hit(TransferDirection::device, to - memory - kMiB, size)) return;
    std::uint8_t byte = 0;
    REQUIRE(inner.memcpy_d2h(&byte, memory + kMiB + flip.at, 1) == cuda::Result::success);
    byte ^= flip.bit;
    REQUIRE(inner.memcpy_h2d(memory + kMiB + flip.at, &byte, 1) == cuda::Result::success);
  }
  bool is_hit(TransferDirection direction, std::uint64_t base, std::size_t size) {
    if (!flip.is_armed || flip.direction != direction || flip.at - base >= size) return false;
    flip.is_armed = false;
    return true;
  }

  Rig& rig;
  cuda::Driver inner;
  TransferQueueOptions options;
  cuda::DevicePointer memory;
  Gpu gpu;
  EventPool events;
  TransferQueue queue;
  std::mutex mutex;
  std::vector<cuda::DevicePointer> order;  // of uploads, by where they go
  Flip flip;
  std::vector<std::uint8_t> changed;
};

template <class Body>
void on_moving(const EmulatedGpu::Options& emulated, const TransferQueueOptions& options, Body body) {
  on_gpu(emulated, [&](Rig& rig, Gpu& gpu) {
    Moving moving(rig, gpu, options);
    body(moving);
  });
}

// The device at once, by threads and by lot; the work by the waiting thread, by one thread and by three.
template <class Body>
void for_each_way(std::uint64_t seed, Body body) {
  for (const GpuSchedule schedule : {GpuSchedule::eager, GpuSchedule::adversarial, GpuSchedule::threaded}) {
    for (const unsigned threads : {0u, 1u, 3u}) {
      INFO("schedule " << static_cast<int>(schedule) << ", threads " << threads);
      TransferQueueOptions options = calm();
      options.threads = threads;
      options.rings = 1 + threads;
      on_moving(gpu_test::small(schedule, seed), options, body);
    }
  }
}

}  // namespace device_test
