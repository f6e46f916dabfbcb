// Unified buffers that two processes have: the same bytes on both sides, whoever wrote them; what is left
// when a call fails; what a message may not say. The second process is a child that has an emulated GPU of
// its own.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/device/unified_share.h"
#include "tests/unified_rig.h"

namespace device_test {
namespace {

constexpr std::uint64_t kShared = 4 * kMiB + 3 * kUnit + 7;  // three chunks

// Chunks of 2 MiB and a UnifiedMemory.
class ShareRig {
 public:
  ShareRig(Rig& rig, Gpu& gpu, std::size_t chunk_bytes = kGranule, bool is_shareable = true)
      : unified(rig, gpu) {
    ChunkPoolOptions options;
    options.chunk_bytes = chunk_bytes;
    options.is_shareable = is_shareable;
    REQUIRE(chunks.open(gpu, options).ok());
  }
  [[nodiscard]] UnifiedShare::Options options(bool has_host, bool has_device) {
    return {kShared, has_host, true, has_device ? &chunks : nullptr};
  }

  UnifiedRig unified;
  ChunkPool chunks;
};

struct Sockets {
  Sockets() { REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0); }
  ~Sockets() {
    for (const int end : ends) ::close(end);
  }
  int ends[2];
};

unsigned open_descriptors() {
  unsigned count = 0;
  for (int i = 0; i < 1024; ++i) count += ::fcntl(i, F_GETFD) >= 0 ? 1 : 0;
  return count;
}

// In the child, where nothing may throw: 0, or what went wrong.
int answer_in_child(int socket) {
  EmulatedGpu emulated;
  if (!emulated.open(gpu_test::small())) return 1;
  const cuda::Driver driver = emulated.driver();
  Gpu gpu;
  if (driver.init(0) != cuda::Result::success || !gpu.open(driver).ok()) return 2;
  UnifiedMemory memory;
  UnifiedOptions options;
  options.source = driver_source(gpu);
  if (!memory.open(gpu, options).ok()) return 3;
  UnifiedShare share;
  if (!share.receive(memory, socket).ok()) return 4;
  const Bytes sent = numbered(kShared, 5);
  {
    HostRead guard;
    if (!share.all().host_read(&guard).ok() || guard.size_bytes() != kShared) return 5;
    if (std::memcmp(guard.data(), sent.data(), kShared) != 0) return 6;
  }
  UnifiedInfo now;
  if (!share.buffer().info(&now).ok() || now.state != UnifiedState::synchronized) return 7;
  // The device's copy came with it: nothing moved.
  {
    const CurrentContext current(gpu);
    DeviceRead guard;
    if (!share.all().device_read(memory.copy_stream(), &guard).ok()) return 8;
    Bytes bytes(kShared);
    if (driver.memcpy_d2h(bytes.data(), guard.address(), kShared) != cuda::Result::success) return 9;
    if (bytes != sent) return 10;
  }
  if (!share.buffer().info(&now).ok() || now.to_device_bytes != 0) return 11;
  if (!share.all().fill(std::uint8_t{0x5A}, UnifiedSide::device, memory.copy_stream()).ok()) return 12;
  if (!share.hand_over().ok() || ::write(socket, "x", 1) != 1) return 13;
  return share.close().ok() && memory.close().ok() ? 0 : 14;
}

TEST_CASE("3-24 unified buffer: two processes have it, on the host and on the device", "[device]") {
  const Sockets sockets;
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) ::_exit(answer_in_child(sockets.ends[1]));
  on_gpu(gpu_test::small(), [&](Rig& rig, Gpu& gpu) {
    ShareRig parts(rig, gpu);
    UnifiedShare share;
    REQUIRE(share.create(parts.unified.memory, parts.options(true, true)).ok());
    CHECK(parts.unified.on_device(share.all()) == Bytes(kShared));
    parts.unified.write_host(share.all(), numbered(kShared, 5));
    REQUIRE(share.send(sockets.ends[0]).ok());
    char told = 0;
    REQUIRE(::read(sockets.ends[0], &told, 1) == 1);
    REQUIRE(share.take_over().ok());
    CHECK(UnifiedRig::on_host(share.all()) == Bytes(kShared, 0x5A));
    CHECK(parts.unified.on_device(share.all()) == Bytes(kShared, 0x5A));
    REQUIRE(share.close().ok());
    CHECK(parts.chunks.stats().chunks == 0);  // what was exported is not used again
  });
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

// One side is shared, the other is memory of each process alone.
void share_one_side(bool has_host, std::size_t chunk_bytes) {
  const unsigned descriptors = open_descriptors();
  on_gpu(gpu_test::small(), [&](Rig& rig, Gpu& gpu) {
    on_gpu(gpu_test::small(), [&](Rig& other_rig, Gpu& other_gpu) {
      const Sockets sockets;
      ShareRig here(rig, gpu, chunk_bytes);
      UnifiedRig there(other_rig, other_gpu);
      UnifiedShare first, second;
      REQUIRE(rig.driver.ctx_set_current(rig.context) == cuda::Result::success);
      REQUIRE(first.create(here.unified.memory, here.options(has_host, !has_host)).ok());
      here.unified.write_host(first.all(), numbered(kShared, 1));
      REQUIRE(first.send(sockets.ends[0]).ok());
      REQUIRE(other_rig.driver.ctx_set_current(other_rig.context) == cuda::Result::success);
      REQUIRE(second.receive(there.memory, sockets.ends[1]).ok());
      CHECK(there.on_device(second.all()) == numbered(kShared, 1));
      CHECK(UnifiedRig::on_host(second.all()) == numbered(kShared, 1));
      there.write_device(second.all(), numbered(kShared, 2));
      REQUIRE(second.hand_over().ok());
      REQUIRE(first.take_over().ok());
      CHECK(UnifiedRig::on_host(first.all()) == numbered(kShared, 2));
      if (has_host)
        CHECK(second.send(sockets.ends[1]).status == Status::bad_argument);  // it is not the maker
      REQUIRE(first.close().ok());
      CHECK(UnifiedRig::on_host(second.all()) == numbered(kShared, 2));  // it lives on
      REQUIRE(second.close().ok());
      CHECK(second.close().ok());
    });
  });
  CHECK(open_descriptors() == descriptors);
}

TEST_CASE("3-24 unified buffer: the host's side alone is shared", "[device]") {
  share_one_side(true, kGranule);
}

TEST_CASE("3-24 mut-B02 unified buffer: the device's side alone is shared, in chunks of any size",
          "[device]") {
  share_one_side(false, kGranule);
  share_one_side(false, 2 * kGranule);  // two chunks
  share_one_side(false, 3 * kGranule);  // one
}

TEST_CASE("3-24 unified buffer: chunks that nobody got are used again", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ShareRig parts(rig, gpu);
    for (int round = 0; round < 3; ++round) {
      UnifiedShare share;
      REQUIRE(share.create(parts.unified.memory, parts.options(true, true)).ok());
      REQUIRE(share.close().ok());
    }
    CHECK(parts.chunks.stats().created == 3);
    UnifiedShare share;
    REQUIRE(share.create(parts.unified.memory, parts.options(false, true)).ok());
    CHECK(share.create(parts.unified.memory, parts.options(false, true)).status == Status::in_use);
    REQUIRE(share.hand_over().ok());
    // Both sides: a turn is taken only from a buffer that was not used since.
    UnifiedShare both;
    REQUIRE(both.create(parts.unified.memory, parts.options(true, true)).ok());
    CHECK(both.take_over().ok());
    parts.unified.write_host(both.all(), numbered(kShared));
    CHECK(both.take_over().status == Status::in_use);
    REQUIRE(both.hand_over().ok());
    CHECK(both.take_over().ok());
  });
}

TEST_CASE("3-24 unified buffer: what a message may not say", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ShareRig parts(rig, gpu), closed(rig, gpu, kGranule, false);
    UnifiedMemory& memory = parts.unified.memory;
    UnifiedShare share;
    CHECK(share.create(memory, {0}).status == Status::bad_argument);
    CHECK(share.create(memory, {kUnifiedBytesMax + 1}).status == Status::bad_argument);
    CHECK(share.create(memory, {1, false}).status == Status::bad_argument);
    CHECK(share.create(memory, {1000 * kMiB, false, true, &parts.chunks}).status == Status::bad_argument);
    CHECK(share.create(memory, {40 * kMiB, true, true, &parts.chunks}).status == Status::out_of_memory);
    CHECK(share.send(-1).status == Status::bad_argument);
    CHECK(share.hand_over().status == Status::not_owned);
    CHECK(share.take_over().status == Status::not_owned);
    const Sockets sockets;
    CHECK(parts.chunks.trim(0) == 16 * kGranule);  // all that the refused one had taken
    REQUIRE(share.create(memory, closed.options(false, true)).ok());
    CHECK_FALSE(share.send(sockets.ends[0]).ok());  // its chunks cannot be exported
    REQUIRE(share.close().ok());

    SharedBlock block;
    REQUIRE(block.create(parts.chunks, 2 * kGranule).ok());
    int descriptors[3] = {-1, -1, -1};
    CHECK(block.export_chunks(std::span(descriptors).first(1)).status == Status::bad_argument);
    REQUIRE(block.export_chunks(std::span(descriptors).subspan(1)).ok());
    const glebe::os::SharedMemory host = glebe::os::make_shared_memory(100);
    REQUIRE(host.base != nullptr);
    descriptors[0] = host.descriptor;
    using Message = UnifiedShare::Message;
    const auto try_import = [&](const Message& message, std::span<const int> some) {
      return share.import(memory, {message, some}).status;
    };
    const std::span<const int> all(descriptors);
    CHECK(try_import({0, kGranule, 2, 1}, all) == Status::bad_argument);
    CHECK(try_import({UINT64_MAX, kGranule, 2, 1}, all) == Status::bad_argument);
    CHECK(try_import({host.size_bytes + 1, kGranule, 2, 1}, all) == Status::bad_argument);
    CHECK(try_import({100, kGranule, 2, 2}, all) == Status::bad_argument);
    CHECK(try_import({100, kGranule, 2, 1}, all.first(2)) == Status::bad_argument);
    CHECK(try_import({100, kGranule, UINT32_MAX, 1}, all) == Status::bad_argument);
    CHECK(try_import({100, kGranule / 2, 2, 1}, all) == Status::bad_argument);
    CHECK(try_import({100, 0, 2, 1}, all) == Status::bad_argument);
    CHECK(try_import({2 * kGranule + 1, kGranule, 2, 0}, all.subspan(1)) == Status::bad_argument);
    CHECK_FALSE(share.import(memory, {{100, 2 * kGranule, 2, 1}, all}).ok());  // chunks are smaller than that
    CHECK_FALSE(share.import(memory, {{100, kGranule, 2, 1}, all.last(3).first(0)}).ok());
    const int wrong[3] = {descriptors[1], host.descriptor, host.descriptor};
    CHECK_FALSE(share.import(memory, {{100, kGranule, 2, 1}, wrong}).ok());
    REQUIRE(share.import(memory, {{100, kGranule, 2, 1}, all}).ok());
    CHECK(share.all().size_bytes() == 100);
    REQUIRE(share.close().ok());
    glebe::os::unmap_shared_memory(host);
    for (const int descriptor : descriptors) glebe::os::close_descriptor(descriptor);
    CHECK(glebe::os::make_shared_memory(0).base == nullptr);
    CHECK(glebe::os::make_shared_memory(SIZE_MAX).base == nullptr);
    CHECK(share.receive(memory, sockets.ends[0] + 1000).status == Status::io_error);
    REQUIRE(block.close().ok());
  });
}

// Makes a share, hands it to another buffer of the same process, ends both. The first that fails is returned.
Outcome share_once(ShareRig& parts, const Sockets& sockets) {
  UnifiedShare first, second;
  Outcome outcome = first.create(parts.unified.memory, parts.options(true, true));
  if (!outcome.ok()) return outcome;
  outcome = first.all().fill(std::uint8_t{3}, UnifiedSide::device, parts.unified.stream);
  if (!outcome.ok()) return outcome;
  outcome = first.send(sockets.ends[0]);
  if (!outcome.ok()) return outcome;
  outcome = second.receive(parts.unified.memory, sockets.ends[1]);
  if (!outcome.ok()) return outcome;
  CHECK(UnifiedRig::on_host(second.all()) == Bytes(kShared, 3));
  outcome = second.close();
  if (!outcome.ok()) CHECK(second.close().ok());
  const Outcome last = first.close();
  if (!last.ok()) CHECK(first.close().ok());
  return outcome.ok() ? last : outcome;
}

TEST_CASE("B6 3-24 unified buffer: whichever call of sharing fails, nothing is left", "[device]") {
  constexpr cuda::Call kCalls[] = {cuda::Call::mem_address_reserve, cuda::Call::mem_address_free,
                                   cuda::Call::mem_create,          cuda::Call::mem_map,
                                   cuda::Call::mem_unmap,           cuda::Call::mem_set_access,
                                   cuda::Call::mem_export_handle,   cuda::Call::mem_import_handle,
                                   cuda::Call::mem_host_register,   cuda::Call::mem_host_unregister};
  const unsigned descriptors = open_descriptors();
  for (const cuda::Call call : kCalls) {
    bool has_failed = true;
    for (std::uint64_t nth = 1; nth <= 100 && has_failed; ++nth) {
      INFO(cuda::symbol_of(call) << " call " << nth);
      on_failing_gpu(gpu_test::small(), [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
        const Sockets sockets;
        ShareRig parts(rig, gpu);
        failing.fail({call, nth, 1, cuda::Result::out_of_memory});
        const Outcome outcome = share_once(parts, sockets);
        has_failed = failing.failures(call) != 0;
        CHECK((outcome.status == Status::out_of_memory) == has_failed);
        const ChunkPoolStats stats = parts.chunks.stats();
        CHECK(stats.chunks == stats.idle_chunks);
      });
    }
    CHECK_FALSE(has_failed);
  }
  CHECK(open_descriptors() == descriptors);
}

}  // namespace
}  // namespace device_test
