// Unified buffers against plain arrays: random operations on two buffers in two streams, nothing waited for
// that need not be. What would break: an order between streams that no single test thought of, a range that
// moves too little, memory that is used again too early.
#include <algorithm>
#include <string>

#include "tests/random.h"
#include "tests/unified_rig.h"

namespace device_test {
namespace {

class UnifiedModel {
 public:
  UnifiedModel(UnifiedRig& unified, Rig& rig, std::uint64_t seed)
      : unified_(unified), rig_(rig), random_(seed) {
    streams_[0] = unified.stream;
    streams_[1] = rig.stream();
    slots_ = reinterpret_cast<unsigned char*>(rig.pinned(kSlots * kBytesMax / 4));
    for (int i = 0; i < 2; ++i) {
      contents_[i].resize(1 + random_.below(kBytesMax));
      REQUIRE(buffers_[i].create(unified.memory, {contents_[i].size(), random_.one_in(2)}).ok());
    }
  }

  void step() {
    which_ = random_.below32(2);
    stream_ = streams_[random_.below(2)];
    switch (random_.below(16)) {
      case 0:
      case 1:
      case 2:
        return write_host();
      case 3:
      case 4:
        return read_host();
      case 5:
      case 6:
      case 7:
        return write_device();
      case 8:
      case 9:
        return read_device();
      case 10:
        return fill();
      case 11:
      case 12:
        return copy();
      case 13:
        expect_(buffers_[which_].evict(side()).ok());
        return;
      case 14:
        expect_(part(range()).prefetch(side(), stream_).ok());
        return;
      default:
        return change_all();
    }
  }

  // The line of the first thing that was wrong, 0: nothing.
  [[nodiscard]] int end() {
    settle();
    for (which_ = 0; which_ < 2; ++which_) {
      read({0, contents().size()});
      expect_(unified_.on_device(buffers_[which_].all()) == contents());
      expect_(buffers_[which_].close().ok());
    }
    expect_(rig_.driver.stream_destroy(streams_[1]) == cuda::Result::success);
    expect_(rig_.driver.mem_free_host(slots_) == cuda::Result::success);
    return expect_.failed_line();
  }

 private:
  static constexpr std::size_t kBytesMax = 4 * kUnit + 1000, kSlots = 6;
  struct Part {
    std::uint64_t offset, size;
  };
  struct Look {
    std::size_t slot;
    Bytes expected;
  };

  [[nodiscard]] Bytes& contents() { return contents_[which_]; }
  [[nodiscard]] UnifiedSide side() { return random_.one_in(2) ? UnifiedSide::host : UnifiedSide::device; }
  [[nodiscard]] Overwrite overwrite() { return random_.one_in(2) ? Overwrite::full : Overwrite::partial; }
  // Often all, often at the border of a unit.
  [[nodiscard]] Part range() {
    const std::uint64_t size = contents().size();
    if (random_.one_in(4)) return {0, size};
    std::uint64_t first = random_.below(size), end = first + 1 + random_.below(size - first);
    if (random_.one_in(3)) first = first / kUnit * kUnit;
    if (random_.one_in(3)) end = std::min<std::uint64_t>((end + kUnit - 1) / kUnit * kUnit, size);
    return {first, end - first};
  }
  [[nodiscard]] UnifiedSlice part(const Part& range) {
    UnifiedSlice slice;
    const std::uint64_t before = random_.below(range.offset + 1);  // by way of another slice
    REQUIRE(buffers_[which_].all().slice(before, contents().size() - before, &slice).ok());
    REQUIRE(slice.slice(range.offset - before, range.size, &slice).ok());
    return slice;
  }

  void write_host() {
    const Part all = range();
    const Overwrite how = overwrite();
    HostWrite guard;
    if (!expect_(part(all).host_write(&guard, how).ok())) return;
    const Part some = how == Overwrite::full ? all : within(all);
    const Bytes bytes = numbered(some.size, random_.below32(1000));
    std::memcpy(guard.data() + (some.offset - all.offset), bytes.data(), some.size);
    std::copy(bytes.begin(), bytes.end(), contents().begin() + static_cast<std::ptrdiff_t>(some.offset));
  }
  [[nodiscard]] Part within(const Part& all) {
    const std::uint64_t first = random_.below(all.size);
    return {all.offset + first, 1 + random_.below(all.size - first)};
  }
  void read(const Part& range) {
    HostRead guard;
    if (!expect_(part(range).host_read(&guard).ok())) return;
    expect_(std::memcmp(guard.data(), contents().data() + range.offset, range.size) == 0);
  }
  void read_host() { read(range()); }
  void write_device() {
    const Part all = range();
    const Overwrite how = overwrite();
    DeviceWrite guard;
    if (!expect_(part(all).device_write(stream_, &guard, how).ok())) return;
    const Part some = how == Overwrite::full ? all : within(all);
    const auto value = static_cast<unsigned char>(random_.next());
    expect_(rig_.driver.memset_d8_async(guard.address() + (some.offset - all.offset), value, some.size,
                                        stream_) == cuda::Result::success);
    std::fill_n(contents().begin() + static_cast<std::ptrdiff_t>(some.offset), some.size, value);
  }
  // Compared much later.
  void read_device() {
    if (looks_.size() == kSlots) settle();
    const Part all = range();
    DeviceRead guard;
    if (!expect_(part(all).device_read(stream_, &guard).ok())) return;
    const std::size_t slot = looks_.size();
    expect_(rig_.driver.memcpy_d2h_async(slots_ + slot * kBytesMax, guard.address(), all.size, stream_) ==
            cuda::Result::success);
    const auto* from = contents().data() + all.offset;
    looks_.push_back({slot, Bytes(from, from + all.size)});
  }
  void settle() {
    for (const cuda::Stream stream : streams_) {
      expect_(rig_.driver.stream_synchronize(stream) == cuda::Result::success);
    }
    for (const Look& look : looks_) {
      expect_(std::memcmp(slots_ + look.slot * kBytesMax, look.expected.data(), look.expected.size()) == 0);
    }
    looks_.clear();
  }
  void fill() {
    Part all = range();
    const std::uint64_t value = random_.next();
    if (all.size < sizeof value) return;
    all.size = all.size / sizeof value * sizeof value;
    const UnifiedSide where = side();
    if (!expect_(part(all).fill(value, where, stream_).ok())) return;
    for (std::uint64_t at = 0; at < all.size; at += sizeof value) {
      std::memcpy(contents().data() + all.offset + at, &value, sizeof value);
    }
  }
  void copy() {
    Part to = range();
    const UnifiedSlice target = part(to);
    const std::uint32_t target_buffer = which_;
    which_ = random_.below32(2);
    Part from = range();
    const std::uint64_t size = std::min(to.size, from.size);
    UnifiedSlice source = part(from), less;
    REQUIRE(source.slice(0, size, &source).ok());
    REQUIRE(target.slice(0, size, &less).ok());
    if (!expect_(less.copy_from(source, side(), stream_).ok())) return;
    std::memmove(contents_[target_buffer].data() + to.offset, contents().data() + from.offset, size);
  }
  void change_all() {
    if (random_.one_in(3)) {
      expect_(buffers_[which_].discard().ok());
      std::fill(contents().begin(), contents().end(), static_cast<unsigned char>(0));
      return;
    }
    const std::uint64_t size = 1 + random_.below(kBytesMax);
    expect_(buffers_[which_].resize(size).ok());
    contents().resize(size);
  }

  UnifiedRig& unified_;
  Rig& rig_;
  Random random_;
  Expect expect_;
  cuda::Stream streams_[2] = {};
  cuda::Stream stream_ = nullptr;
  unsigned char* slots_ = nullptr;
  std::vector<Look> looks_;
  std::uint32_t which_ = 0;
  UnifiedBuffer buffers_[2];
  Bytes contents_[2];
};

void run_model(GpuSchedule schedule, std::uint64_t seeds, int steps) {
  const std::uint64_t first = test_seed();
  for (std::uint64_t seed = first; seed < first + seeds; ++seed) {
    INFO("GLEBE_TEST_SEED=" << seed);
    on_gpu(gpu_test::small(schedule, seed), [&](Rig& rig, Gpu& gpu) {
      SlabSource slab(rig);
      UnifiedRig unified(rig, gpu, slab.source(), kWaitForever);
      UnifiedModel model(unified, rig, seed);
      for (int step = 0; step < steps; ++step) model.step();
      REQUIRE(model.end() == 0);
    });
  }
}

TEST_CASE("B2 X5 unified buffer: random operations, done at once", "[device]") {
  run_model(GpuSchedule::eager, 100, 80);
}

TEST_CASE("B2 X5 unified buffer: random operations, done in any order that is allowed", "[device]") {
  run_model(GpuSchedule::adversarial, 200, 80);
}

TEST_CASE("B2 X5 unified buffer: random operations, done by threads", "[device][race]") {
  run_model(GpuSchedule::threaded, 100, 40);
}

}  // namespace
}  // namespace device_test
