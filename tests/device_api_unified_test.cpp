// Unified buffers by the C and C++ interface. What would break: a function that reaches the wrong thing,
// takes a bad argument, or moves what need not move; a guard that does not end; a share that shows other
// bytes.
#include <sys/socket.h>
#include <unistd.h>
#include <glebe/device_unified.hpp>

#include "tests/device_api_rig.h"

namespace api_test {
namespace {

constexpr std::uint64_t kSize = 256 * kKiB;

struct Opened {
  explicit Opened(glebe_unified_options options = {}) {
    REQUIRE(memory.open(device, options) == glebe_device_ok);
  }
  [[nodiscard]] glebe::UnifiedBuffer buffer(std::uint64_t size = kSize) const {
    glebe::UnifiedBuffer made;
    REQUIRE(made.create(memory, size) == glebe_device_ok);
    return made;
  }
  glebe::Device device = opened();
  glebe::UnifiedMemory memory;
  Stream stream{device};
};

void write_host(const glebe::UnifiedSlice& slice, const std::vector<std::byte>& bytes) {
  glebe::HostWrite guard;
  REQUIRE(slice.overwrite(&guard) == glebe_device_ok);
  REQUIRE(guard.size_bytes() == bytes.size());
  std::memcpy(guard.data(), bytes.data(), bytes.size());
}
std::vector<std::byte> read_host(const glebe::UnifiedSlice& slice) {
  glebe::HostRead guard;
  REQUIRE(slice.read(&guard) == glebe_device_ok);
  return {guard.data(), guard.data() + guard.size_bytes()};
}
std::vector<std::byte> read_device(const Opened& rig, const glebe::UnifiedSlice& slice) {
  glebe::DeviceUse guard;
  REQUIRE(slice.read(rig.stream, &guard) == glebe_device_ok);
  std::vector<std::byte> bytes(guard.size_bytes());
  REQUIRE(glebe_device_queue_read(rig.device.handle(), bytes.data(), guard.address(), bytes.size(),
                                  rig.stream) == glebe_device_ok);
  guard.end();
  REQUIRE(glebe_device_stream_synchronize(rig.device.handle(), rig.stream) == glebe_device_ok);
  return bytes;
}

TEST_CASE("B1 unified buffers of the interface open, or say why not", "[device]") {
  const glebe::Device device = opened();
  glebe_unified* memory = nullptr;
  glebe_unified_options options = {};
  CHECK(glebe_unified_open(device.handle(), &options, &memory) == glebe_device_bad_argument);
  options.struct_bytes = sizeof options;
  CHECK(glebe_unified_open(nullptr, &options, &memory) == glebe_device_bad_argument);
  CHECK(glebe_unified_open(device.handle(), &options, nullptr) == glebe_device_bad_argument);
  options.piece_bytes = 1;
  CHECK(glebe_unified_open(device.handle(), &options, &memory) == glebe_device_bad_argument);
  options.piece_bytes = 0;
  const glebe::Device other = opened();
  glebe::DeviceHeap foreign;
  REQUIRE(foreign.open(other) == glebe_device_ok);
  options.heap = foreign.handle();  // of another device
  CHECK(glebe_unified_open(device.handle(), &options, &memory) == glebe_device_bad_argument);
  CHECK(memory == nullptr);
  REQUIRE(glebe_unified_open(device.handle(), nullptr, &memory) == glebe_device_ok);
  glebe_unified_buffer buffer = 7;
  CHECK(glebe_unified_create(memory, 0, 1, &buffer) == glebe_device_bad_argument);
  CHECK(glebe_unified_create(memory, (std::uint64_t{1} << 46) + 1, 1, &buffer) == glebe_device_bad_argument);
  CHECK(glebe_unified_create(memory, 1, 1, nullptr) == glebe_device_bad_argument);
  CHECK(glebe_unified_create(nullptr, 1, 1, &buffer) == glebe_device_bad_argument);
  CHECK(glebe_unified_adopt(memory, kSize, nullptr, 0, &buffer) == glebe_device_bad_argument);
  CHECK(buffer == 7);
  REQUIRE(glebe_unified_create(memory, 100, 0, &buffer) == glebe_device_ok);
  CHECK(glebe_unified_close(memory) == glebe_device_in_use);
  CHECK(glebe_unified_retain(memory, buffer) == glebe_device_ok);
  CHECK(glebe_unified_release(memory, buffer) == glebe_device_ok);
  CHECK(glebe_unified_release(memory, buffer) == glebe_device_ok);
  CHECK(glebe_unified_release(memory, buffer) == glebe_device_not_owned);
  CHECK(glebe_unified_retain(memory, buffer) == glebe_device_not_owned);
  CHECK(glebe_unified_retain(memory, 0) == glebe_device_not_owned);
  CHECK(glebe_unified_close(memory) == glebe_device_ok);
  CHECK(glebe_unified_close(nullptr) == glebe_device_ok);
  CHECK(std::string(glebe_unified_state_text(glebe_unified_host_dirty)) == "host_dirty");
  CHECK(std::string(glebe_unified_state_text(nameless<glebe_unified_state>(7))) == "unknown");
}

TEST_CASE("X5 B3 a unified buffer of the interface is on both sides, and moves what differs", "[device]") {
  const Opened rig;
  glebe::UnifiedBuffer buffer = rig.buffer();
  CHECK(buffer.info().state == glebe_unified_host_only);
  CHECK(buffer.info().host_bytes == 0);
  const std::vector<std::byte> sent = pattern(kSize, 1);
  write_host(buffer.all(), sent);
  CHECK(buffer.info().host_bytes == kSize);
  CHECK(buffer.info().device_bytes == 0);
  CHECK(read_device(rig, buffer.all()) == sent);
  CHECK(buffer.info().state == glebe_unified_synchronized);
  CHECK(buffer.info().to_device_bytes == kSize);
  CHECK(read_device(rig, buffer.all()) == sent);
  CHECK(buffer.info().to_device_bytes == kSize);  // nothing twice
  {
    glebe::DeviceUse guard;
    glebe::UnifiedSlice part;
    REQUIRE(buffer.all().slice(64 * kKiB, 64 * kKiB, &part) == glebe_device_ok);
    REQUIRE(part.write(rig.stream, &guard) == glebe_device_ok);
    CHECK(buffer.info().writers == 1);
    REQUIRE(glebe_device_queue_fill(rig.device.handle(), guard.address(), 0x5A, 100, rig.stream) ==
            glebe_device_ok);
  }
  CHECK(buffer.info().writers == 0);
  CHECK(buffer.info().state == glebe_unified_device_dirty);
  CHECK(buffer.info().dirty_bytes == 64 * kKiB);
  std::vector<std::byte> wanted = sent;
  std::fill_n(wanted.begin() + 64 * kKiB, 100, std::byte{0x5A});
  CHECK(read_host(buffer.all()) == wanted);
  CHECK(buffer.info().to_host_bytes == 64 * kKiB);

  REQUIRE(buffer.evict(glebe_unified_device) == glebe_device_ok);
  CHECK(buffer.info().device_bytes == 0);
  CHECK(read_host(buffer.all()) == wanted);
  REQUIRE(buffer.resize(kSize + 8) == glebe_device_ok);
  wanted.resize(kSize + 8);
  CHECK(read_device(rig, buffer.all()) == wanted);
  REQUIRE(buffer.discard() == glebe_device_ok);
  CHECK(read_host(buffer.all()) == std::vector<std::byte>(kSize + 8));
  const glebe_unified_stats stats = rig.memory.stats();
  CHECK(stats.buffers == 1);
  CHECK(stats.host_bytes == kSize + 8);
  CHECK(buffer.close() == glebe_device_ok);
  CHECK(rig.memory.stats().buffers == 0);
  CHECK(rig.memory.stats().host_bytes == 0);
}

TEST_CASE("B12 guards of the interface refuse what makes no sense", "[device]") {
  const Opened rig;
  glebe::UnifiedBuffer buffer = rig.buffer();
  glebe_unified* const memory = rig.memory.handle();
  const glebe_unified_range all = {buffer.handle(), 0, 0};
  const glebe_unified_range behind = {buffer.handle(), kSize, 0}, long_one = {buffer.handle(), 1, kSize};
  const glebe_unified_range foreign = {buffer.handle() + 1, 0, 0};
  glebe_unified_guard guard = {};
  const auto access = [&](const glebe_unified_range* range, int use) {
    return glebe_unified_access(memory, range, nameless<glebe_unified_use>(use), nullptr, nullptr, &guard);
  };
  CHECK(access(nullptr, 0) == glebe_device_bad_argument);
  CHECK(access(&behind, 0) == glebe_device_bad_argument);
  CHECK(access(&long_one, 0) == glebe_device_bad_argument);
  CHECK(access(&foreign, 0) == glebe_device_not_owned);
  CHECK(access(&all, 6) == glebe_device_bad_argument);
  CHECK(glebe_unified_access(nullptr, &all, glebe_unified_host_read, nullptr, nullptr, &guard) ==
        glebe_device_bad_argument);
  CHECK(glebe_unified_access(memory, &all, glebe_unified_host_read, nullptr, nullptr, nullptr) ==
        glebe_device_bad_argument);
  CHECK(guard.size == 0);
  REQUIRE(access(&all, glebe_unified_host_write) == glebe_device_ok);
  CHECK(guard.size == kSize);
  CHECK(guard.data != nullptr);
  CHECK(guard.address == 0);
  CHECK(access(&all, glebe_unified_host_write) == glebe_device_in_use);  // this guard is open
  glebe_unified_guard second = {};
  CHECK(glebe_unified_access(memory, &all, glebe_unified_device_read, rig.stream, nullptr, &second) ==
        glebe_device_in_use);  // this thread would wait for itself
  CHECK(glebe_unified_evict(memory, buffer.handle(), glebe_unified_host, nullptr) == glebe_device_in_use);
  CHECK(glebe_unified_resize(memory, buffer.handle(), 1) == glebe_device_in_use);
  CHECK(glebe_unified_release(memory, buffer.handle()) == glebe_device_in_use);
  CHECK(glebe_unified_release(memory, buffer.handle() + 1) == glebe_device_not_owned);
  glebe_unified_end(&guard);
  glebe_unified_end(&guard);
  glebe_unified_end(nullptr);
  CHECK(guard.size == 0);
  CHECK(guard.data == nullptr);
  REQUIRE(glebe_unified_access(memory, &all, glebe_unified_device_read, rig.stream, nullptr, &second) ==
          glebe_device_ok);
  CHECK(second.address != 0);
  CHECK(second.data == nullptr);
  glebe_unified_end(&second);

  glebe::CancelFlag cancel;
  cancel.set();
  glebe::HostRead refused;
  write_host(buffer.all(), pattern(kSize, 2));
  REQUIRE(buffer.evict(glebe_unified_host) == glebe_device_ok);
  CHECK(buffer.all().read(&refused, &cancel) == glebe_device_cancelled);
  CHECK_FALSE(refused.is_open());
  cancel.set(false);
  CHECK(buffer.all().read(&refused, &cancel) == glebe_device_ok);
  glebe_cancel_flag_set(nullptr, 1);
}

TEST_CASE("B1 what is done with unified buffers of the interface refuses what makes no sense", "[device]") {
  const Opened rig;
  glebe::UnifiedBuffer buffer = rig.buffer();
  glebe_unified* const memory = rig.memory.handle();
  const glebe_unified_buffer handle = buffer.handle(), none = 0;
  const auto no_side = nameless<glebe_unified_side>(2);
  const glebe_unified_range all = {handle, 0, 0}, lost = {none, 0, 0}, odd = {handle, 0, 5};
  std::uint64_t address = 3;
  glebe_unified_info info = {};
  CHECK(glebe_unified_prefetch(memory, &all, no_side, nullptr) == glebe_device_bad_argument);
  CHECK(glebe_unified_prefetch(memory, &lost, glebe_unified_host, nullptr) == glebe_device_not_owned);
  CHECK(glebe_unified_evict(memory, handle, no_side, nullptr) == glebe_device_bad_argument);
  CHECK(glebe_unified_evict(memory, none, glebe_unified_host, nullptr) == glebe_device_not_owned);
  CHECK(glebe_unified_discard(memory, none) == glebe_device_not_owned);
  CHECK(glebe_unified_resize(memory, handle, 0) == glebe_device_bad_argument);
  CHECK(glebe_unified_resize(memory, none, 1) == glebe_device_not_owned);
  CHECK(glebe_unified_fill(memory, &all, nullptr, 1, glebe_unified_host, nullptr) ==
        glebe_device_bad_argument);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{3}, std::size_t{17}, SIZE_MAX}) {
    CHECK(glebe_unified_fill(memory, &all, "0123456789abcdefg", bytes, glebe_unified_host, nullptr) ==
          glebe_device_bad_argument);
  }
  CHECK(glebe_unified_fill(memory, &odd, "01", 2, glebe_unified_host, nullptr) == glebe_device_bad_argument);
  CHECK(glebe_unified_fill(memory, &all, "01", 2, no_side, nullptr) == glebe_device_bad_argument);
  CHECK(glebe_unified_copy(memory, &all, &odd, glebe_unified_host, nullptr) == glebe_device_bad_argument);
  CHECK(glebe_unified_copy(memory, &all, nullptr, glebe_unified_host, nullptr) == glebe_device_bad_argument);
  CHECK(glebe_unified_copy(memory, &all, &lost, glebe_unified_host, nullptr) == glebe_device_not_owned);
  CHECK(glebe_unified_copy(memory, &all, &all, no_side, nullptr) == glebe_device_bad_argument);
  CHECK(glebe_unified_attach(memory, handle, 0) == glebe_device_bad_argument);
  CHECK(glebe_unified_attach(memory, none, 4096) == glebe_device_not_owned);
  CHECK(glebe_unified_detach(memory, none, &address) == glebe_device_not_owned);
  CHECK(glebe_unified_detach(memory, handle, nullptr) == glebe_device_bad_argument);
  CHECK(address == 3);
  CHECK(glebe_unified_mark_written(memory, handle, glebe_unified_device) == glebe_device_bad_argument);
  CHECK(glebe_unified_mark_written(memory, handle, no_side) == glebe_device_bad_argument);
  CHECK(glebe_unified_wait_idle(memory, none) == glebe_device_not_owned);
  CHECK(glebe_unified_wait_idle(memory, handle) == glebe_device_ok);
  CHECK(glebe_unified_get_info(memory, none, &info) == glebe_device_not_owned);
  CHECK(glebe_unified_get_info(memory, handle, nullptr) == glebe_device_bad_argument);
  for (const auto call :
       {glebe_unified_retain, glebe_unified_release, glebe_unified_discard, glebe_unified_wait_idle}) {
    CHECK(call(nullptr, handle) == glebe_device_bad_argument);
  }
  glebe_unified_range part = {};
  CHECK(glebe_unified_slice(&odd, 1, 4, &part) == glebe_device_ok);
  CHECK(part.offset == 1);
  CHECK(part.size == 4);
  CHECK(glebe_unified_slice(&odd, 1, 5, &part) == glebe_device_bad_argument);
  CHECK(glebe_unified_slice(&odd, 6, 1, &part) == glebe_device_bad_argument);
  CHECK(glebe_unified_slice(&odd, 0, 0, &part) == glebe_device_bad_argument);
  CHECK(glebe_unified_slice(nullptr, 0, 1, &part) == glebe_device_bad_argument);
  CHECK(glebe_unified_slice(&odd, 0, 1, nullptr) == glebe_device_bad_argument);
  CHECK(glebe_unified_slice(&all, UINT64_MAX, 2, &part) == glebe_device_bad_argument);
  CHECK(part.size == 4);
}

TEST_CASE("X5 unified buffers of the interface are filled and copied", "[device]") {
  const Opened rig;
  glebe::UnifiedBuffer one = rig.buffer(), other = rig.buffer();
  for (const glebe_unified_side side : {glebe_unified_host, glebe_unified_device}) {
    void* const stream = rig.stream;
    REQUIRE(one.all().fill(std::uint64_t{0x0102030405060708}, side, stream) == glebe_device_ok);
    {
      glebe::HostRead guard;
      REQUIRE(one.all().read(&guard) == glebe_device_ok);
      const std::span<const std::uint64_t> words = guard.elements<std::uint64_t>();
      REQUIRE(words.size() == kSize / 8);
      CHECK(words[0] == 0x0102030405060708);
      CHECK(words[words.size() - 1] == 0x0102030405060708);
    }
    write_host(one.all(), pattern(kSize, side == glebe_unified_host ? 5 : 6));
    glebe::UnifiedSlice from, to;
    REQUIRE(one.all().slice(100, 1000, &from) == glebe_device_ok);
    REQUIRE(other.all().slice(0, 1000, &to) == glebe_device_ok);
    REQUIRE(to.copy_from(from, side, stream) == glebe_device_ok);
    CHECK(read_host(to) == read_host(from));
    CHECK(one.all().copy_from(from, side, stream) == glebe_device_bad_argument);
    REQUIRE(one.all().prefetch(side, stream) == glebe_device_ok);
    CHECK(one.info().state ==
          (side == glebe_unified_host ? glebe_unified_host_only : glebe_unified_synchronized));
  }
}

TEST_CASE("X8 the interface adopts memory, and gives memory of the device away", "[device]") {
  const Opened rig;
  std::vector<std::byte> host = pattern(kSize, 7);
  glebe::DeviceHeap heap;
  REQUIRE(heap.open(rig.device) == glebe_device_ok);
  glebe::DeviceAddress block = 0, taken = 0;
  REQUIRE(heap.allocate(kSize, &block) == glebe_device_ok);
  {
    glebe::UnifiedBuffer buffer;
    REQUIRE(buffer.adopt(rig.memory, host) == glebe_device_ok);
    CHECK(buffer.adopt(rig.memory, host) == glebe_device_in_use);
    CHECK(buffer.info().align_bytes >= 8);
    REQUIRE(buffer.attach(block) == glebe_device_ok);
    CHECK(buffer.attach(block) == glebe_device_in_use);
    CHECK(read_device(rig, buffer.all()) == pattern(kSize, 7));
    REQUIRE(rig.device.write(block, pattern(kSize, 8)) == glebe_device_ok);
    REQUIRE(buffer.mark_written(glebe_unified_device) == glebe_device_ok);
    CHECK(read_host(buffer.all()) == pattern(kSize, 8));
    CHECK(host == pattern(kSize, 8));
    REQUIRE(buffer.detach(&taken) == glebe_device_ok);
    CHECK(taken == block);
    CHECK(buffer.info().state == glebe_unified_host_only);
  }
  CHECK(host == pattern(kSize, 8));  // not freed
  {
    glebe::UnifiedBuffer buffer, second;
    REQUIRE(buffer.adopt(rig.memory, block, kSize) == glebe_device_ok);
    CHECK(buffer.info().state == glebe_unified_device_only);
    CHECK(read_host(buffer.all()) == pattern(kSize, 8));
    REQUIRE(buffer.share(&second) == glebe_device_ok);
    CHECK(buffer.share(&second) == glebe_device_in_use);
    CHECK(buffer.close() == glebe_device_ok);
    CHECK_FALSE(buffer);
    CHECK(buffer.share(&second) == glebe_device_not_owned);
    CHECK(read_host(second.all()) == pattern(kSize, 8));
    glebe::UnifiedBuffer moved = std::move(second);
    CHECK(moved.info().size == kSize);
    CHECK_FALSE(second);
  }
  CHECK(rig.memory.stats().buffers == 0);
  CHECK(heap.free(block) == glebe_device_ok);
}

TEST_CASE("K2 unified buffers of the interface stay in their limits", "[device]") {
  const glebe::Device device = opened();
  glebe_device_heap_options small = {};
  small.coarse_bytes = 4 * kMiB;
  small.limit_bytes = 4 * kMiB;
  glebe::DeviceHeap heap;
  REQUIRE(heap.open(device, small) == glebe_device_ok);
  glebe_unified_options options = {};
  options.heap = heap.handle();
  options.host_limit_bytes = 6 * kMiB;
  options.buffers_max = 2;
  options.refuses_to_wait = 1;
  glebe::UnifiedMemory memory;
  REQUIRE(memory.open(device, options) == glebe_device_ok);
  glebe::UnifiedBuffer one, other, third;
  REQUIRE(one.create(memory, 6 * kMiB) == glebe_device_ok);
  REQUIRE(other.create(memory, 2 * kMiB) == glebe_device_ok);
  CHECK(third.create(memory, 1) == glebe_device_over_budget);
  glebe::HostWrite guard, more;
  REQUIRE(one.all().write(&guard) == glebe_device_ok);
  CHECK(other.all().write(&more) == glebe_device_over_budget);
  CHECK_FALSE(more.is_open());
  guard.end();
  glebe::DeviceUse use;
  CHECK(one.all().read(nullptr, &use) == glebe_device_over_budget);  // the heap's limit
  REQUIRE(other.all().read(nullptr, &use) == glebe_device_ok);
  CHECK(heap.stats().live_blocks == 1);  // it came from there
  use.end();
  REQUIRE(one.discard() == glebe_device_ok);
  CHECK(other.all().write(&more) == glebe_device_ok);
}

TEST_CASE("3-24 a unified buffer of the interface that two have", "[device]") {
  const Opened rig;
  const Opened second;  // as another process has one
  int ends[2] = {-1, -1};
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  glebe_unified_share_options options = {};
  glebe::UnifiedShare share, received;
  CHECK(share.create(rig.memory, options) == glebe_device_bad_argument);  // no size
  options.size = kSize;
  CHECK(share.create(rig.memory, options) == glebe_device_bad_argument);  // no side
  glebe_unified_share* raw = nullptr;
  options.has_host = 1;
  CHECK(glebe_unified_share_create(rig.memory.handle(), &options, &raw) == glebe_device_bad_argument);
  options.struct_bytes = sizeof options;
  CHECK(glebe_unified_share_create(rig.memory.handle(), &options, nullptr) == glebe_device_bad_argument);
  CHECK(glebe_unified_share_create(nullptr, &options, &raw) == glebe_device_bad_argument);
  CHECK(glebe_unified_share_receive(rig.memory.handle(), -1, 0, &raw) == glebe_device_bad_argument);
  options.has_device = 1;
  options.chunk_bytes = 3;
  CHECK(glebe_unified_share_create(rig.memory.handle(), &options, &raw) == glebe_device_bad_argument);
  CHECK(raw == nullptr);
  options.chunk_bytes = 0;
  options.has_device = 0;
  REQUIRE(share.create(rig.memory, options) == glebe_device_ok);
  CHECK(share.send(-1) == glebe_device_bad_argument);
  const std::vector<std::byte> sent = pattern(kSize, 9), answer = pattern(kSize, 10);
  write_host(share.all(), sent);
  REQUIRE(share.send(ends[0]) == glebe_device_ok);
  REQUIRE(received.receive(second.memory, ends[1]) == glebe_device_ok);
  CHECK(received.all().size_bytes() == kSize);
  CHECK(read_device(second, received.all()) == sent);
  write_host(received.all(), answer);
  REQUIRE(received.hand_over() == glebe_device_ok);
  REQUIRE(share.take_over() == glebe_device_ok);
  CHECK(read_device(rig, share.all()) == answer);
  CHECK(glebe_unified_close(rig.memory.handle()) == glebe_device_in_use);
  CHECK(glebe_unified_share_close(nullptr) == glebe_device_ok);
  CHECK(glebe_unified_share_buffer(nullptr) == 0);
  CHECK(glebe_unified_share_hand_over(nullptr) == glebe_device_bad_argument);
  CHECK(glebe_unified_share_take_over(nullptr) == glebe_device_bad_argument);
  CHECK(glebe_unified_share_send(nullptr, ends[0]) == glebe_device_bad_argument);
  ::close(ends[0]);
  CHECK(glebe_unified_share_receive(second.memory.handle(), ends[1], 0, &raw) == glebe_device_io_error);
  ::close(ends[1]);

  // The side of the device as well, in chunks of 2 MiB.
  glebe_unified_share_options both = {};
  both.size = 3 * kMiB;
  both.has_host = both.has_device = 1;
  glebe::UnifiedShare on_both;
  REQUIRE(on_both.create(rig.memory, both) == glebe_device_ok);
  write_host(on_both.all(), pattern(3 * kMiB, 11));
  REQUIRE(on_both.hand_over() == glebe_device_ok);
  CHECK(read_device(rig, on_both.all()) == pattern(3 * kMiB, 11));
}

}  // namespace
}  // namespace api_test
