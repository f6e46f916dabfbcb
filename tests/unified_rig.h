// What the tests of unified buffers share: a UnifiedMemory over the driver's own blocks with a stream, and
// looks at both copies of a buffer.
#pragma once

#include <cstring>
#include <vector>

#include "src/device/driver_source.h"
#include "src/device/unified_buffer.h"
#include "tests/device_rig.h"

namespace device_test {
struct Bytes;
}

namespace Catch {
template <>
struct StringMaker<device_test::Bytes> {
  static std::string convert(const device_test::Bytes& bytes);
};
}  // namespace Catch

namespace device_test {

// A type of its own, so that a comparison that fails prints its size and not all of it.
struct Bytes : std::vector<unsigned char> {
  using std::vector<unsigned char>::vector;
};
inline constexpr std::uint64_t kUnit = kUnifiedUnitBytes;

inline Bytes numbered(std::size_t size_bytes, unsigned seed = 1) {
  Bytes bytes(size_bytes);
  std::uint32_t word = seed * 2654435761u;
  for (unsigned char& byte : bytes) {
    word = word * 1664525u + 1013904223u;
    byte = static_cast<unsigned char>(word >> 24);
  }
  return bytes;
}

// Blocks of one piece of device memory, of which the last one that was given back goes out first: whoever
// still uses a block that he gave back meets the next owner at once. One thread.
class SlabSource {
 public:
  static constexpr std::uint64_t kBlockBytes = 6 * kUnit;

  explicit SlabSource(Rig& rig) : rig_(rig), base_(rig.memory(kBytes)) {
    for (std::uint64_t at = 0; at + kBlockBytes <= kBytes; at += kBlockBytes) idle_.push_back(base_ + at);
    count_ = idle_.size();
  }
  ~SlabSource() {
    CHECK(idle_.size() == count_);
    rig_.give_back(base_, kBytes);
  }
  [[nodiscard]] BlockSource source() {
    BlockSource source;
    source.self = this;
    source.allocate = [](void* self, std::uint64_t size_bytes, std::uint64_t, cuda::DevicePointer* address) {
      auto& idle = static_cast<SlabSource*>(self)->idle_;
      if (size_bytes > kBlockBytes || idle.empty()) return Outcome(Status::out_of_memory);
      *address = idle.back();
      idle.pop_back();
      return Outcome();
    };
    source.free = [](void* self, cuda::DevicePointer address) {
      static_cast<SlabSource*>(self)->idle_.push_back(address);
      return Outcome();
    };
    source.trim = [](void*, std::uint64_t) -> std::uint64_t { return 0; };
    return source;
  }

 private:
  static constexpr std::uint64_t kBytes = 4 * kMiB;

  Rig& rig_;
  cuda::DevicePointer base_;
  std::vector<cuda::DevicePointer> idle_;
  std::size_t count_ = 0;
};

class UnifiedRig {
 public:
  UnifiedRig(Rig& rig, Gpu& gpu, std::uint64_t wait_ns = kWaitForever)
      : UnifiedRig(rig, gpu, driver_source(gpu), wait_ns) {}
  UnifiedRig(Rig& rig, Gpu& gpu, const BlockSource& source, std::uint64_t wait_ns) : rig_(rig) {
    options.source = source;
    options.wait_ns = wait_ns;
    REQUIRE(memory.open(gpu, options).ok());
    stream = rig.stream();
  }
  ~UnifiedRig() {
    CHECK(memory.stats().buffers == 0);
    CHECK(memory.stats().host_bytes == 0);
    CHECK(memory.stats().device_bytes == 0);
    CHECK(memory.close().ok());
    CHECK(rig_.driver.stream_destroy(stream) == cuda::Result::success);
  }

  UnifiedOptions options;
  UnifiedMemory memory;
  cuda::Stream stream;

  [[nodiscard]] static UnifiedInfo info(const UnifiedBuffer& buffer) {
    UnifiedInfo now;
    REQUIRE(buffer.info(&now).ok());
    return now;
  }
  // Through guards. Both bring the copy of that side up to date.
  [[nodiscard]] static Bytes on_host(const UnifiedSlice& slice) {
    HostRead guard;
    REQUIRE(slice.host_read(&guard).ok());
    const auto* data = reinterpret_cast<const unsigned char*>(guard.data());
    return Bytes(data, data + guard.size_bytes());
  }
  [[nodiscard]] Bytes on_device(const UnifiedSlice& slice) const {
    DeviceRead guard;
    REQUIRE(slice.device_read(stream, &guard).ok());
    Bytes bytes(guard.size_bytes());
    REQUIRE(rig_.driver.memcpy_d2h_async(bytes.data(), guard.address(), bytes.size(), stream) ==
            cuda::Result::success);
    REQUIRE(rig_.driver.stream_synchronize(stream) == cuda::Result::success);
    return bytes;
  }
  static void write_host(const UnifiedSlice& slice, const Bytes& bytes,
                         Overwrite overwrite = Overwrite::full) {
    HostWrite guard;
    REQUIRE(slice.host_write(&guard, overwrite).ok());
    REQUIRE(guard.size_bytes() == bytes.size());
    std::memcpy(guard.data(), bytes.data(), bytes.size());
  }
  // By a copy in the stream, whose source is kept until it is done.
  void write_device(const UnifiedSlice& slice, const Bytes& bytes,
                    Overwrite overwrite = Overwrite::full) const {
    DeviceWrite guard;
    REQUIRE(slice.device_write(stream, &guard, overwrite).ok());
    REQUIRE(guard.size_bytes() == bytes.size());
    REQUIRE(rig_.driver.memcpy_h2d_async(guard.address(), bytes.data(), bytes.size(), stream) ==
            cuda::Result::success);
    guard.close();
    REQUIRE(rig_.driver.stream_synchronize(stream) == cuda::Result::success);
  }
  // A buffer in that state with these contents.
  void bring_to(UnifiedState state, UnifiedBuffer* buffer, const Bytes& bytes, bool is_pinned = true) {
    REQUIRE(buffer->create(memory, {bytes.size(), is_pinned}).ok());
    const bool is_on_device = state == UnifiedState::device_only || state == UnifiedState::device_dirty;
    if (is_on_device) {
      write_device(buffer->all(), bytes);
      if (state == UnifiedState::device_dirty) {
        CHECK(on_host(buffer->all()) == bytes);
        write_device(buffer->all(), bytes);
      }
    } else {
      write_host(buffer->all(), bytes);
      if (state != UnifiedState::host_only) CHECK(on_device(buffer->all()) == bytes);
      if (state == UnifiedState::host_dirty) write_host(buffer->all(), bytes);
    }
    REQUIRE(info(*buffer).state == state);
  }

 private:
  Rig& rig_;
};

// Runs body(unified, rig) with a UnifiedMemory on an emulator.
template <class Body>
void on_unified(const EmulatedGpu::Options& options, Body body) {
  on_gpu(options, [&](Rig& rig, Gpu& gpu) {
    UnifiedRig unified(rig, gpu);
    body(unified, rig);
  });
}

}  // namespace device_test

inline std::string Catch::StringMaker<device_test::Bytes>::convert(const device_test::Bytes& bytes) {
  return std::to_string(bytes.size()) + " bytes";
}
