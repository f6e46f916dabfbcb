// Unified buffers: what each state means, what each use moves, and what does not move again; slices, views,
// fills, copies, sizes, memory of others. Contents are compared on both sides.
#include <array>

#include "tests/unified_rig.h"

namespace device_test {
namespace {

constexpr std::array kStates = {UnifiedState::host_only, UnifiedState::device_only,
                                UnifiedState::synchronized, UnifiedState::host_dirty,
                                UnifiedState::device_dirty};
constexpr std::array kUses = {UnifiedUse::host_read,      UnifiedUse::host_write,
                              UnifiedUse::host_overwrite, UnifiedUse::device_read,
                              UnifiedUse::device_write,   UnifiedUse::device_overwrite,
                              UnifiedUse::evict_device,   UnifiedUse::evict_host};
static_assert(kStates.size() == kUnifiedStates && kUses.size() == kUnifiedUses);

// The same table from what the words mean: which memory there is, and which copies are valid.
struct Copies {
  bool has_host, has_device, is_host_valid, is_device_valid;
};

Copies copies_of(UnifiedState state) {
  switch (state) {
    case UnifiedState::host_only:
      return {true, false, true, false};
    case UnifiedState::device_only:
      return {false, true, false, true};
    case UnifiedState::synchronized:
      return {true, true, true, true};
    case UnifiedState::host_dirty:
      return {true, true, true, false};
    default:
      return {true, true, false, true};
  }
}

UnifiedState state_of(const Copies& copies) {
  if (!copies.has_device) return UnifiedState::host_only;
  if (!copies.has_host) return UnifiedState::device_only;
  if (copies.is_host_valid && copies.is_device_valid) return UnifiedState::synchronized;
  return copies.is_host_valid ? UnifiedState::host_dirty : UnifiedState::device_dirty;
}

UnifiedStep expected_step(UnifiedState state, UnifiedUse use) {
  Copies copies = copies_of(state);
  UnifiedStep step = {};
  const bool is_eviction = use == UnifiedUse::evict_device || use == UnifiedUse::evict_host;
  const bool on_host = is_host_use(use) || use == UnifiedUse::evict_device;  // where it has to be valid
  const bool needs_contents = use != UnifiedUse::host_overwrite && use != UnifiedUse::device_overwrite;
  bool& has = on_host ? copies.has_host : copies.has_device;
  bool& is_valid = on_host ? copies.is_host_valid : copies.is_device_valid;
  bool& is_other_valid = on_host ? copies.is_device_valid : copies.is_host_valid;
  if (!has) (on_host ? step.makes_host : step.makes_device) = true;
  has = true;
  if (!is_valid && needs_contents) step.moves = on_host ? UnifiedMove::to_host : UnifiedMove::to_device;
  is_valid = true;
  if (!is_read(use) && !is_eviction) is_other_valid = false;
  if (is_eviction) (on_host ? copies.has_device : copies.has_host) = false;
  step.next = state_of(copies);
  return step;
}

TEST_CASE("B2 unified buffer: the table of states is what the states mean", "[device]") {
  for (const UnifiedState state : kStates) {
    for (const UnifiedUse use : kUses) {
      INFO(name_of(state) << ", use " << static_cast<int>(use));
      CHECK(step_of(state, use) == expected_step(state, use));
    }
  }
}

Outcome do_use(UnifiedRig& unified, UnifiedBuffer& buffer, UnifiedUse use, const Bytes& bytes) {
  const UnifiedSlice all = buffer.all();
  switch (use) {
    case UnifiedUse::host_read:
      CHECK(unified.on_host(all) == bytes);
      return {};
    case UnifiedUse::host_write:
      unified.write_host(all, bytes, Overwrite::partial);
      return {};
    case UnifiedUse::host_overwrite:
      unified.write_host(all, bytes);
      return {};
    case UnifiedUse::device_read:
      CHECK(unified.on_device(all) == bytes);
      return {};
    case UnifiedUse::device_write:
      unified.write_device(all, bytes, Overwrite::partial);
      return {};
    case UnifiedUse::device_overwrite:
      unified.write_device(all, bytes);
      return {};
    case UnifiedUse::evict_device:
      return buffer.evict(UnifiedSide::device);
    default:
      return buffer.evict(UnifiedSide::host);
  }
}

void check_step(const UnifiedInfo& before, const UnifiedInfo& after, const UnifiedStep& step) {
  const std::uint64_t size = before.size_bytes;
  CHECK(after.state == step.next);
  CHECK(after.to_host_bytes - before.to_host_bytes == (step.moves == UnifiedMove::to_host ? size : 0));
  CHECK(after.to_device_bytes - before.to_device_bytes == (step.moves == UnifiedMove::to_device ? size : 0));
  CHECK(after.to_host_copies - before.to_host_copies == (step.moves == UnifiedMove::to_host ? 1 : 0));
  CHECK(after.to_device_copies - before.to_device_copies == (step.moves == UnifiedMove::to_device ? 1 : 0));
  CHECK(after.host_allocations - before.host_allocations == (step.makes_host ? 1 : 0));
  CHECK(after.device_allocations - before.device_allocations == (step.makes_device ? 1 : 0));
  const Copies copies = copies_of(step.next);
  CHECK(after.host_bytes == (copies.has_host ? size : 0));
  CHECK(after.device_bytes == (copies.has_device ? size : 0));
  CHECK(after.dirty_bytes == (is_dirty(step.next) ? size : 0));
}

TEST_CASE("B2 mut-D04 unified buffer: each use in each state moves what the table says", "[device]") {
  for (const bool is_pinned : {true, false}) {
    on_unified(gpu_test::small(GpuSchedule::adversarial), [&](UnifiedRig& unified, Rig&) {
      const Bytes bytes = numbered(3 * kUnit + 100);
      for (const UnifiedState state : kStates) {
        for (const UnifiedUse use : kUses) {
          INFO(name_of(state) << ", use " << static_cast<int>(use) << ", pinned " << is_pinned);
          UnifiedBuffer buffer;
          unified.bring_to(state, &buffer, bytes, is_pinned);
          const UnifiedInfo before = unified.info(buffer);
          REQUIRE(do_use(unified, buffer, use, bytes).ok());
          check_step(before, unified.info(buffer), step_of(state, use));
          CHECK(unified.on_device(buffer.all()) == bytes);
          CHECK(unified.on_host(buffer.all()) == bytes);
        }
      }
    });
  }
}

TEST_CASE("B1 unified buffer: creation with and without contents, and limits", "[device]") {
  on_unified(gpu_test::small(), [](UnifiedRig& unified, Rig& rig) {
    UnifiedBuffer buffer;
    CHECK(buffer.create(unified.memory, {0}).status == Status::bad_argument);
    CHECK(buffer.create(unified.memory, {kUnifiedBytesMax + 1}).status == Status::bad_argument);
    CHECK(buffer.create(unified.memory, {UINT64_MAX}).status == Status::bad_argument);
    CHECK(buffer.create(unified.memory, {100}, nullptr).status == Status::bad_argument);
    CHECK_FALSE(buffer.is_open());
    CHECK_FALSE(buffer.all().slice(0, 1, nullptr).ok());
    HostRead guard;
    CHECK(buffer.all().host_read(&guard).status == Status::not_owned);
    REQUIRE(buffer.create(unified.memory, {kUnifiedBytesMax}).ok());  // costs nothing until it is used
    CHECK(unified.info(buffer).state == UnifiedState::host_only);
    CHECK(unified.info(buffer).host_bytes == 0);
    CHECK(rig.emulated->usage().device_bytes == 0);
    CHECK(buffer.all().host_read(&guard).status == Status::out_of_memory);
    CHECK(buffer.create(unified.memory, {1}).status == Status::in_use);
    REQUIRE(buffer.close().ok());
    const Bytes bytes = numbered(100'000);
    REQUIRE(buffer.create(unified.memory, {bytes.size()}, bytes.data()).ok());
    CHECK(unified.on_device(buffer.all()) == bytes);
    REQUIRE(buffer.close().ok());
    UnifiedBuffer zeros[2];
    for (UnifiedBuffer& zero : zeros) REQUIRE(zero.create(unified.memory, {100'000}).ok());
    CHECK(unified.on_host(zeros[0].all()) == Bytes(100'000));
    CHECK(unified.on_device(zeros[1].all()) == Bytes(100'000));
    CHECK(unified.info(zeros[1]).to_device_bytes == 0);  // nothing to move: zeros
    CHECK(unified.memory.close().status == Status::in_use);
  });
}

TEST_CASE("B3 unified buffer: what is valid is not moved again", "[device]") {
  on_unified(gpu_test::small(), [](UnifiedRig& unified, Rig&) {
    UnifiedBuffer buffer;
    const Bytes bytes = numbered(1 * kMiB);
    unified.bring_to(UnifiedState::host_only, &buffer, bytes);
    for (int round = 0; round < 5; ++round) {
      CHECK(unified.on_device(buffer.all()) == bytes);
      CHECK(unified.on_host(buffer.all()) == bytes);
      REQUIRE(buffer.all().prefetch(UnifiedSide::device, unified.stream).ok());
      REQUIRE(buffer.all().prefetch(UnifiedSide::host).ok());
    }
    CHECK(unified.info(buffer).to_device_bytes == bytes.size());
    CHECK(unified.info(buffer).to_host_bytes == 0);
    REQUIRE(buffer.evict(UnifiedSide::device).ok());  // both are equal: dropped without a copy
    CHECK(unified.info(buffer).to_host_bytes == 0);
    CHECK(unified.info(buffer).state == UnifiedState::host_only);
  });
}

TEST_CASE("B4 mut-D05 unified buffer: a host write marks its range, and only that moves", "[device]") {
  on_unified(gpu_test::small(), [](UnifiedRig& unified, Rig&) {
    UnifiedBuffer buffer;
    Bytes bytes = numbered(20 * kUnit + 5);
    unified.bring_to(UnifiedState::synchronized, &buffer, bytes);
    const UnifiedInfo before = unified.info(buffer);
    const auto write = [&](std::uint64_t offset, std::uint64_t size) {
      const Bytes more = numbered(size, static_cast<unsigned>(offset + 7));
      UnifiedSlice part;
      REQUIRE(buffer.all().slice(offset, size, &part).ok());
      unified.write_host(part, more);
      std::copy(more.begin(), more.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
    };
    write(kUnit + 10, 20);    // unit 1
    write(3 * kUnit - 1, 2);  // units 2 and 3: with the first one run of three
    write(9 * kUnit, kUnit);  // unit 9
    write(20 * kUnit, 5);     // the last one, which is short
    CHECK(unified.info(buffer).dirty_bytes == 4 * kUnit + 5);
    CHECK(unified.info(buffer).state == UnifiedState::host_dirty);
    UnifiedSlice first;
    REQUIRE(buffer.all().slice(0, 2 * kUnit, &first).ok());
    CHECK(unified.on_device(first) == Bytes(bytes.begin(), bytes.begin() + 2 * kUnit));
    CHECK(unified.info(buffer).to_device_bytes - before.to_device_bytes == kUnit);
    CHECK(unified.info(buffer).state == UnifiedState::host_dirty);
    CHECK(unified.on_device(buffer.all()) == bytes);
    const UnifiedInfo after = unified.info(buffer);
    CHECK(after.to_device_bytes - before.to_device_bytes == 4 * kUnit + 5);
    CHECK(after.to_device_copies - before.to_device_copies == 4);
    CHECK(after.state == UnifiedState::synchronized);
  });
}

TEST_CASE("B2 unified buffer: a write of the other side brings the rest over first", "[device]") {
  on_unified(gpu_test::small(), [](UnifiedRig& unified, Rig&) {
    UnifiedBuffer buffer;
    Bytes bytes = numbered(4 * kUnit);
    unified.bring_to(UnifiedState::host_dirty, &buffer, bytes);
    const UnifiedInfo before = unified.info(buffer);
    UnifiedSlice part;
    REQUIRE(buffer.all().slice(kUnit / 2, 2 * kUnit, &part).ok());
    const Bytes more = numbered(2 * kUnit, 9);
    unified.write_device(part, more);  // unit 1 is overwritten as a whole: the others move
    std::copy(more.begin(), more.end(), bytes.begin() + kUnit / 2);
    const UnifiedInfo after = unified.info(buffer);
    CHECK(after.to_device_bytes - before.to_device_bytes == 3 * kUnit);
    CHECK(after.to_device_copies - before.to_device_copies == 2);
    CHECK(after.state == UnifiedState::device_dirty);
    CHECK(after.dirty_bytes == 3 * kUnit);
    CHECK(unified.on_host(buffer.all()) == bytes);
    CHECK(unified.info(buffer).to_host_bytes - after.to_host_bytes == 3 * kUnit);
  });
}

TEST_CASE("B5 B8 unified buffer: eviction keeps the only copy, discard drops it", "[device]") {
  on_unified(gpu_test::small(), [](UnifiedRig& unified, Rig& rig) {
    const Bytes bytes = numbered(200'000);
    for (const UnifiedState state : kStates) {
      INFO(name_of(state));
      UnifiedBuffer buffer;
      unified.bring_to(state, &buffer, bytes);
      REQUIRE(buffer.evict(UnifiedSide::device).ok());
      CHECK(unified.info(buffer).device_bytes == 0);
      CHECK(rig.emulated->usage().device_bytes == 0);
      REQUIRE(buffer.evict(UnifiedSide::host).ok());
      CHECK(unified.info(buffer).host_bytes == 0);
      CHECK(rig.emulated->usage().host_bytes == 0);
      CHECK(unified.on_host(buffer.all()) == bytes);
      REQUIRE(buffer.discard().ok());
      CHECK(rig.emulated->usage().host_bytes == 0);
      CHECK(rig.emulated->usage().device_bytes == 0);
      CHECK(unified.info(buffer).state == UnifiedState::host_only);
      CHECK(unified.on_device(buffer.all()) == Bytes(bytes.size()));
    }
  });
}

TEST_CASE("B8 unified buffer: a resize keeps what fits and the rest is zero", "[device]") {
  on_unified(gpu_test::small(), [](UnifiedRig& unified, Rig&) {
    for (const UnifiedState state : kStates) {
      for (const std::uint64_t size : {std::uint64_t{1}, kUnit - 1, 3 * kUnit, 5 * kUnit + 7}) {
        INFO(name_of(state) << " to " << size);
        UnifiedBuffer buffer;
        Bytes bytes = numbered(3 * kUnit + 100);
        unified.bring_to(state, &buffer, bytes);
        const UnifiedSlice old = buffer.all();
        REQUIRE(buffer.resize(size).ok());
        bytes.resize(size);
        CHECK(unified.info(buffer).size_bytes == size);
        CHECK(unified.on_device(buffer.all()) == bytes);
        CHECK(unified.on_host(buffer.all()) == bytes);
        HostRead guard;
        if (size < old.size_bytes()) CHECK(old.host_read(&guard).status == Status::bad_argument);
      }
    }
    UnifiedBuffer fresh;
    REQUIRE(fresh.create(unified.memory, {10}).ok());
    CHECK(fresh.resize(0).status == Status::bad_argument);
    CHECK(fresh.resize(kUnifiedBytesMax + 1).status == Status::bad_argument);
    REQUIRE(fresh.resize(40 * kMiB).ok());  // more units than have bits in place
    REQUIRE(fresh.resize(20 * kMiB).ok());
    CHECK(unified.on_device(fresh.all()) == Bytes(20 * kMiB));
  });
}

TEST_CASE("mut-B10 mut-D06 mut-D07 unified buffer: slices share, honour offsets and end", "[device]") {
  on_unified(gpu_test::small(), [](UnifiedRig& unified, Rig&) {
    UnifiedBuffer buffer;
    Bytes bytes = numbered(4 * kUnit);
    unified.bring_to(UnifiedState::host_only, &buffer, bytes);
    UnifiedSlice part, inner, wrong;
    REQUIRE(buffer.all().slice(1000, 100'000, &part).ok());
    REQUIRE(part.slice(500, 80'000, &inner).ok());
    CHECK(inner.offset_bytes() == 1500);
    CHECK(part.slice(100'000, 1, &wrong).status == Status::bad_argument);
    CHECK(part.slice(1, 100'000, &wrong).status == Status::bad_argument);
    CHECK(part.slice(UINT64_MAX, 2, &wrong).status == Status::bad_argument);
    CHECK(part.slice(0, 0, &wrong).status == Status::bad_argument);
    const Bytes more = numbered(80'000, 3);
    unified.write_host(inner, more);
    std::copy(more.begin(), more.end(), bytes.begin() + 1500);
    CHECK(unified.on_host(buffer.all()) == bytes);  // seen through both, as it is one memory
    CHECK(unified.on_device(inner) == more);
    CHECK(unified.on_device(buffer.all()) == bytes);
    unified.write_device(inner, numbered(80'000, 4));
    CHECK(unified.on_host(inner) == numbered(80'000, 4));
    UnifiedView<std::uint64_t> words, some;
    CHECK(UnifiedView<std::uint64_t>::of(inner, &words).status == Status::bad_argument);  // starts at 4 mod 8
    REQUIRE(part.slice(0, 804, &wrong).ok());
    CHECK(UnifiedView<std::uint64_t>::of(wrong, &words).status == Status::bad_argument);
    REQUIRE(UnifiedView<std::uint64_t>::of(part, &words).ok());
    CHECK(words.size() == 12'500);
    REQUIRE(words.part(100, 10, &some).ok());
    CHECK(words.part(12'500, 1, &some).status == Status::bad_argument);
    {
      HostWrite guard;
      REQUIRE(some.slice().host_write(&guard).ok());
      CHECK(some.elements(guard).size() == 10);
      some.elements(guard)[3] = 0x1122334455667788;
    }
    const Bytes now = unified.on_device(buffer.all());
    std::uint64_t word = 0;
    std::memcpy(&word, now.data() + 1000 + 103 * 8, sizeof word);
    CHECK(word == 0x1122334455667788);
    REQUIRE(buffer.close().ok());
    HostRead guard;
    DeviceWrite writer;
    CHECK(inner.host_read(&guard).status == Status::not_owned);
    CHECK(part.device_write(unified.stream, &writer).status == Status::not_owned);
    UnifiedBuffer next;  // takes the place, and is not what the slice names
    REQUIRE(next.create(unified.memory, {4 * kUnit}).ok());
    CHECK(inner.host_read(&guard).status == Status::not_owned);
    CHECK_FALSE(guard.is_open());
  });
}

template <class T>
void check_fill(UnifiedRig& unified, const T& value) {
  for (const UnifiedSide side : {UnifiedSide::host, UnifiedSide::device}) {
    for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{16}, std::uint64_t{48}, 2 * kUnit}) {
      INFO("pattern of " << sizeof(T) << ", side " << static_cast<int>(side) << ", at " << offset);
      UnifiedBuffer buffer;
      Bytes bytes = numbered(4 * kUnit);
      unified.bring_to(UnifiedState::synchronized, &buffer, bytes);
      UnifiedSlice part;
      REQUIRE(buffer.all().slice(offset + sizeof(T), kUnit + 3 * sizeof(T), &part).ok());
      REQUIRE(part.fill(value, side, unified.stream).ok());
      for (std::uint64_t at = part.offset_bytes(); at < part.offset_bytes() + part.size_bytes();
           at += sizeof(T)) {
        std::memcpy(bytes.data() + at, &value, sizeof value);
      }
      CHECK(unified.on_host(buffer.all()) == bytes);
      CHECK(unified.on_device(buffer.all()) == bytes);
      if (sizeof(T) == 1) continue;
      REQUIRE(buffer.all().slice(0, sizeof(T) + 1, &part).ok());
      CHECK(part.fill(value, side, unified.stream).status == Status::bad_argument);
    }
  }
}

TEST_CASE("mut-B11 unified buffer: fills with patterns of every size on either side", "[device]") {
  on_unified(gpu_test::small(), [](UnifiedRig& unified, Rig&) {
    check_fill(unified, std::uint8_t{0xA5});
    check_fill(unified, std::uint16_t{0x1234});
    check_fill(unified, std::uint32_t{0x12345678});
    check_fill(unified, std::uint64_t{0x123456789ABCDEF0});
    check_fill(unified, std::array<std::uint64_t, 2>{0x123456789ABCDEF0, 0x0FEDCBA987654321});
    check_fill(unified, std::uint64_t{0});
    UnifiedBuffer buffer;
    REQUIRE(buffer.create(unified.memory, {100}).ok());
    struct Odd {
      char bytes[3];
    };
    CHECK(buffer.all().fill(Odd{}, UnifiedSide::host).status == Status::bad_argument);
  });
}

TEST_CASE("mut-B11 unified buffer: copies between and within buffers, with offsets and overlap", "[device]") {
  on_unified(gpu_test::small(), [](UnifiedRig& unified, Rig& rig) {
    const std::uint64_t size = 3 * kUnit;
    for (const UnifiedSide side : {UnifiedSide::host, UnifiedSide::device}) {
      UnifiedBuffer buffers[2];
      Bytes contents[2] = {numbered(size, 1), numbered(size, 2)};
      unified.bring_to(UnifiedState::device_dirty, &buffers[0], contents[0]);
      unified.bring_to(UnifiedState::host_dirty, &buffers[1], contents[1]);
      // {to, offset there, from, offset there, bytes}
      const std::uint64_t copies[][5] = {{1, 0, 0, 0, size},        {0, 1000, 1, kUnit, kUnit},
                                         {1, kUnit + 3, 0, 7, 100}, {0, 100, 0, 0, 2 * kUnit},
                                         {0, 0, 0, 100, 2 * kUnit}, {0, 2 * kUnit, 0, 0, kUnit},
                                         {1, 5, 1, 5, kUnit},       {1, 1, 1, 0, size - 1}};
      for (const auto& copy : copies) {
        INFO("side " << static_cast<int>(side) << ", " << copy[0] << "+" << copy[1] << " from " << copy[2]);
        UnifiedSlice to, from;
        REQUIRE(buffers[copy[0]].all().slice(copy[1], copy[4], &to).ok());
        REQUIRE(buffers[copy[2]].all().slice(copy[3], copy[4], &from).ok());
        REQUIRE(to.copy_from(from, side, unified.stream).ok());
        std::memmove(contents[copy[0]].data() + copy[1], contents[copy[2]].data() + copy[3], copy[4]);
        CHECK(unified.on_host(buffers[0].all()) == contents[0]);
        CHECK(unified.on_device(buffers[1].all()) == contents[1]);
      }
      UnifiedSlice less;
      REQUIRE(buffers[0].all().slice(0, 10, &less).ok());
      CHECK(less.copy_from(buffers[1].all(), side, unified.stream).status == Status::bad_argument);
      CHECK(less.copy_from(UnifiedSlice(), side, unified.stream).status == Status::bad_argument);
      CHECK(rig.emulated->usage().reservations == 2);  // blocks of the buffers, and no others
    }
  });
}

TEST_CASE("X8 unified buffer: adopt, attach, detach, move", "[device]") {
  on_unified(gpu_test::small(), [](UnifiedRig& unified, Rig& rig) {
    const Bytes bytes = numbered(100'000);
    Bytes own = bytes;
    const cuda::DevicePointer address = rig.memory(kGranule);
    {
      UnifiedBuffer buffer;
      CHECK(buffer.adopt(unified.memory, {100}).status == Status::bad_argument);
      REQUIRE(buffer.adopt(unified.memory, {own.size(), reinterpret_cast<std::byte*>(own.data())}).ok());
      CHECK(unified.on_device(buffer.all()) == bytes);
      REQUIRE(buffer.evict(UnifiedSide::host).ok());
      REQUIRE(buffer.all().fill(std::uint8_t{7}, UnifiedSide::device, unified.stream).ok());
      CHECK(unified.on_host(buffer.all()) == Bytes(bytes.size(), 7));
      CHECK(own == Bytes(bytes.size(), 7));  // it went to the memory that was adopted
      CHECK(buffer.resize(5).status == Status::bad_argument);
      CHECK(unified.memory.stats().host_bytes == 0);
      UnifiedBuffer odd;
      REQUIRE(odd.adopt(unified.memory, {96, reinterpret_cast<std::byte*>(own.data()) + 4}).ok());
      UnifiedView<std::uint64_t> words;
      UnifiedView<std::uint32_t> halves;
      CHECK(UnifiedView<std::uint64_t>::of(odd.all(), &words).status == Status::bad_argument);
      CHECK(UnifiedView<std::uint32_t>::of(odd.all(), &halves).ok());
    }
    {
      UnifiedBuffer buffer;
      REQUIRE(buffer.adopt(unified.memory, {bytes.size(), nullptr, address}).ok());
      CHECK(unified.info(buffer).state == UnifiedState::device_only);
      unified.write_host(buffer.all(), bytes);
      CHECK(unified.on_device(buffer.all()) == bytes);
      UnifiedBuffer moved(std::move(buffer));
      CHECK_FALSE(buffer.is_open());
      CHECK(unified.on_host(moved.all()) == bytes);
      buffer = std::move(moved);
      CHECK(unified.on_host(buffer.all()) == bytes);
    }
    UnifiedBuffer buffer;
    REQUIRE(buffer.create(unified.memory, {bytes.size()}, bytes.data()).ok());
    CHECK(unified.memory.attach_device(buffer.handle(), 0).status == Status::bad_argument);
    REQUIRE(unified.memory.attach_device(buffer.handle(), address).ok());
    CHECK(unified.memory.attach_device(buffer.handle(), address).status == Status::in_use);
    CHECK(unified.info(buffer).state == UnifiedState::host_dirty);
    CHECK(unified.on_device(buffer.all()) == bytes);
    CHECK(unified.info(buffer).device_allocations == 0);
    REQUIRE(buffer.all().fill(std::uint8_t{9}, UnifiedSide::device, unified.stream).ok());
    cuda::DevicePointer detached = 0;
    REQUIRE(unified.memory.detach_device(buffer.handle(), &detached).ok());
    CHECK(detached == address);
    CHECK(unified.info(buffer).state == UnifiedState::host_only);
    CHECK(unified.on_host(buffer.all()) == Bytes(bytes.size(), 9));
    CHECK(unified.on_device(buffer.all()) == Bytes(bytes.size(), 9));  // in a block of its own now
    REQUIRE(unified.memory.detach_device(buffer.handle(), &detached).ok());
    CHECK(detached != address);
    CHECK(unified.memory.stats().device_bytes == 0);
    Bytes read(bytes.size());
    REQUIRE(rig.driver.memcpy_d2h(read.data(), detached, read.size()) == cuda::Result::success);
    CHECK(read == Bytes(bytes.size(), 9));
    CHECK(unified.options.source.free(unified.options.source.self, detached).ok());
    rig.give_back(address, kGranule);
  });
}

TEST_CASE("P9 mut-C05 unified buffer: the last owner closes it", "[device]") {
  on_unified(gpu_test::small(), [](UnifiedRig& unified, Rig& rig) {
    const Bytes bytes = numbered(1000);
    UnifiedSlice slice;
    UnifiedBuffer last;
    {
      UnifiedBuffer first, second;
      unified.bring_to(UnifiedState::synchronized, &first, bytes);
      slice = first.all();
      REQUIRE(first.share(&second).ok());
      REQUIRE(second.share(&last).ok());
      CHECK(first.share(&last).status == Status::in_use);
    }
    CHECK(unified.memory.stats().buffers == 1);
    CHECK(unified.on_host(slice) == bytes);
    REQUIRE(last.close().ok());
    CHECK(last.close().ok());
    CHECK(unified.memory.stats().buffers == 0);
    CHECK(rig.emulated->usage().host_bytes == 0);
    CHECK(rig.emulated->usage().device_bytes == 0);
    HostRead guard;
    CHECK(slice.host_read(&guard).status == Status::not_owned);
  });
}

TEST_CASE("mut-B14 unified buffer: what it tells about itself", "[device]") {
  on_unified(gpu_test::small(GpuSchedule::adversarial), [](UnifiedRig& unified, Rig&) {
    UnifiedBuffer buffer;
    REQUIRE(buffer.create(unified.memory, {2 * kUnit + 1}).ok());
    HostRead first, second;
    REQUIRE(buffer.all().host_read(&first).ok());
    REQUIRE(buffer.all().host_read(&second).ok());
    CHECK(unified.info(buffer).readers == 2);
    CHECK(unified.memory.stats().host_bytes == 2 * kUnit + 1);
    first.close();
    second.close();
    DeviceWrite writer;
    REQUIRE(buffer.all().device_write(unified.stream, &writer).ok());
    UnifiedInfo now = unified.info(buffer);
    CHECK(now.writers == 1);
    CHECK(now.pending == 1);  // the copy is queued; nobody waited for it
    CHECK(now.dirty_bytes == 2 * kUnit + 1);
    CHECK(now.to_device_bytes == 2 * kUnit + 1);
    CHECK(std::string(name_of(now.state)) == "device_dirty");
    writer.close();
    CHECK(unified.info(buffer).pending == 2);
    REQUIRE(unified.memory.wait_idle(buffer.handle()).ok());
    CHECK(unified.info(buffer).pending == 0);
  });
}

TEST_CASE("K2 unified buffer: memory of the host is charged to a budget", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    glebe::paging::Budget budget;
    REQUIRE(budget.open("host", 100'000, glebe::paging::BudgetAction::enforce, {}) ==
            glebe::paging::BudgetResult::ok);
    UnifiedMemory memory;
    UnifiedOptions options;
    options.source = driver_source(gpu);
    options.budget = &budget;
    REQUIRE(memory.open(gpu, options).ok());
    UnifiedBuffer small, large;
    REQUIRE(small.create(memory, {60'000}).ok());
    REQUIRE(large.create(memory, {60'000, false}).ok());
    HostRead guard, refused;
    REQUIRE(small.all().host_read(&guard).ok());
    CHECK(budget.used_bytes() == 60'000);
    CHECK(large.all().host_read(&refused).status == Status::over_budget);
    guard.close();
    REQUIRE(small.evict(UnifiedSide::host).ok());
    CHECK(large.all().host_read(&refused).ok());
    refused.close();
    CHECK(small.close().ok());
    CHECK(large.close().ok());
    CHECK(budget.used_bytes() == 0);
    CHECK(memory.close().ok());
    static_cast<void>(rig);
  });
}

TEST_CASE("P14 mut-D03 unified buffer: memory of both sides is aligned, fresh, resized or back again",
          "[device]") {
  on_unified(gpu_test::small(), [](UnifiedRig& unified, Rig&) {
    for (const bool is_pinned : {false, true}) {
      UnifiedBuffer buffer;
      REQUIRE(buffer.create(unified.memory, {100, is_pinned}).ok());
      for (const std::uint64_t size : {std::uint64_t{1}, kUnit + 5, std::uint64_t{7}}) {
        REQUIRE(buffer.resize(size).ok());
        for (const UnifiedSide side : {UnifiedSide::host, UnifiedSide::device}) {
          const std::uint64_t align_bytes = UnifiedRig::info(buffer).align_bytes;
          CHECK(align_bytes == kDeviceAlignBytes);
          HostRead host;
          DeviceRead device;
          REQUIRE(buffer.all().host_read(&host).ok());
          REQUIRE(buffer.all().device_read(unified.stream, &device).ok());
          CHECK(reinterpret_cast<std::uintptr_t>(host.data()) % align_bytes == 0);
          CHECK(device.address() % align_bytes == 0);
          host.close();
          device.close();
          REQUIRE(buffer.evict(side).ok());
        }
      }
    }
  });
}

}  // namespace
}  // namespace device_test
