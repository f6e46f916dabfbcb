// Residency when something refuses: each call of the driver in turn, the disk, the memory of the device.
// Whatever fails, the call says so, everything is where it was, and no word is lost.
#include "platform/cuda/failing.h"
#include "tests/device_residency_rig.h"

namespace device_test {
namespace {

TEST_CASE("X3 B6 a stream that is being captured gets no lease and ends none", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    ResidentRig at(gpu, {});
    const cuda::Stream stream = rig.stream();
    const cuda::DevicePointer address = at.make(2);
    REQUIRE(fill(at, rig.driver, address, 5, stream).ok());
    REQUIRE(at.heap.sleep(0, 1).ok());
    const ChunkUse use{address, 0, Access::read};
    Lease lease;
    for (const bool is_resident : {false, true}) {
      for (const cuda::CaptureStatus status :
           {cuda::CaptureStatus::active, cuda::CaptureStatus::invalidated}) {
        rig.emulated->set_capture_status(stream, status);
        const ResidencyStats before = at.heap.stats();
        CHECK(at.acquire(address, Access::read, stream, &lease).status == Status::unsupported);
        CHECK(at.heap.prefetch({&use, 1}, stream).status == Status::unsupported);
        CHECK(at.heap.stats().live_leases == 0);
        CHECK(at.heap.stats().leases == before.leases);
        CHECK(in_state(at, ChunkState::resident) == (is_resident ? 2 : 0));
      }
      rig.emulated->set_capture_status(stream, cuda::CaptureStatus::none);
      REQUIRE(at.acquire(address, Access::read, stream, &lease).ok());
      rig.emulated->set_capture_status(stream, cuda::CaptureStatus::active);
      const std::uint64_t records = failing.calls(cuda::Call::event_record);
      CHECK(at.heap.release(lease).status == Status::unsupported);
      CHECK(failing.calls(cuda::Call::event_record) == records);
      CHECK(at.heap.stats().live_leases == 1);  // it is still held
      rig.emulated->set_capture_status(stream, cuda::CaptureStatus::none);
      CHECK(at.heap.release(lease).ok());
    }
    // The default stream, which refuses the question while another one is captured.
    failing.fail({cuda::Call::stream_is_capturing, 1, 1, static_cast<cuda::Result>(906)});
    CHECK(at.acquire(address, Access::read, nullptr, &lease).status == Status::unsupported);
    CHECK(holds(at, rig.driver, address, 5, stream));
    CHECK(at.heap.validate());
    CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
  });
}

struct Picture {
  std::uint64_t chunks[kChunkStates];
  std::uint64_t used_slots, file_chunks, idle_handles, handles;

  explicit Picture(ResidentRig& at) {
    const ResidencyStats stats = at.heap.stats();
    std::copy(std::begin(stats.chunks), std::end(stats.chunks), std::begin(chunks));
    used_slots = stats.used_slots;
    file_chunks = stats.file_chunks;
    idle_handles = at.pool.stats().idle_chunks;
    handles = at.pool.stats().chunks;
  }
  [[nodiscard]] bool operator==(const Picture& other) const {
    return std::equal(std::begin(chunks), std::end(chunks), std::begin(other.chunks)) &&
           used_slots == other.used_slots && file_chunks == other.file_chunks &&
           handles - idle_handles == other.handles - other.idle_handles;
  }
};

constexpr cuda::Call kCalls[] = {
    cuda::Call::mem_create,         cuda::Call::mem_map,           cuda::Call::mem_set_access,
    cuda::Call::mem_unmap,          cuda::Call::memcpy_d2h_async,  cuda::Call::memcpy_h2d_async,
    cuda::Call::event_create,       cuda::Call::event_record,      cuda::Call::event_query,
    cuda::Call::event_synchronize,  cuda::Call::stream_wait_event, cuda::Call::stream_get_id,
    cuda::Call::stream_synchronize,
};

// What a program does, in steps of which each may be refused. A write notes what it wrote only when it was
// accepted, so that the contents tell whether a refusal changed anything.
class Program {
 public:
  static constexpr unsigned kPieces = 4;
  // Discard, Write, Read a piece; s sleep, w wake; b and B a small and the whole budget.
  static constexpr char kSteps[] = "D0D1D2R0R1W0s.w.R2b.R0D3B.R1R3s.";
  static constexpr unsigned kStepCount = sizeof kSteps / 2;

  Program(Rig& rig, ResidentRig& at, const cuda::Driver& plain) : at_(at), plain_(plain) {
    for (std::uint32_t i = 0; i < kPieces; ++i) pieces_[i] = at.make(2, i % 2);
    stream_ = rig.stream();
  }
  ~Program() { CHECK(plain_.stream_destroy(stream_) == Result::success); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  Outcome step(unsigned number) {
    const auto which = static_cast<unsigned>(kSteps[2 * number + 1] - '0');
    switch (kSteps[2 * number]) {
      case 's':
        return at_.heap.sleep(1, 1);
      case 'w':
        return at_.heap.wake(1);
      case 'b':
        return at_.heap.set_budget(2 * kGranule);
      case 'B':
        return at_.heap.set_budget(4 * kGranule);
      case 'R':
        return use(which, Access::read, 0);
      case 'D':
        return use(which, Access::discard, 100 * number + 1);
      default:
        return use(which, Access::write, 100 * number + 1);
    }
  }
  [[nodiscard]] bool is_intact() {
    for (unsigned i = 0; i < kPieces; ++i) {
      if (is_written_[i] && !holds(at_, plain_, pieces_[i], values_[i], stream_)) return false;
    }
    return true;
  }

 private:
  Outcome use(unsigned which, Access access, std::uint32_t value) {
    Lease lease;
    const Outcome outcome = at_.acquire(pieces_[which], access, stream_, &lease);
    if (!outcome.ok()) return outcome;
    if (access != Access::read) {
      CHECK(plain_.memset_d32_async(pieces_[which], value, 2 * kGranule / 4, stream_) == Result::success);
      values_[which] = value;
      is_written_[which] = true;
    }
    return release(lease);
  }
  // A lease that could not be released is still held, and released a second time.
  Outcome release(Lease lease) {
    Outcome outcome = at_.heap.release(lease);
    if (!outcome.ok()) outcome = at_.heap.release(lease);
    CHECK(outcome.ok());
    return outcome;
  }

  ResidentRig& at_;
  const cuda::Driver& plain_;
  cuda::Stream stream_ = nullptr;
  cuda::DevicePointer pieces_[kPieces] = {};
  std::uint32_t values_[kPieces] = {};
  bool is_written_[kPieces] = {};
};

// Runs the program with one call that fails. Returns whether it was reached.
bool run_with_failure(cuda::Call call, std::uint64_t nth, const char* directory) {
  bool was_reached = false;
  on_failing_gpu(gpu_test::small(), [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    HeapSize size;
    size.slots = 3;
    size.directory = directory;
    size.in_flight = 2;
    ResidentRig at(gpu, size);
    Program program(rig, at, rig.driver);
    failing.fail({call, nth, 1, cuda::Result::out_of_memory});
    for (unsigned i = 0; i < Program::kStepCount; ++i) {
      const std::uint64_t failures = failing.failures(call);
      const ResidencyStats stats = at.heap.stats();
      const Picture before(at);
      const Outcome outcome = program.step(i);
      INFO("step " << i << ": " << describe(outcome.status));
      CHECK(at.heap.validate());
      CHECK(at.heap.stats().pinned_chunks == 0);
      CHECK(at.heap.stats().live_leases == 0);
      const bool has_failed = failing.failures(call) != failures;
      if (!has_failed) CHECK(outcome.ok());
      if (outcome.ok()) continue;
      const ResidencyStats after = at.heap.stats();
      CHECK(after.undo_failures == stats.undo_failures);
      // A refusal leaves everything where it was, but for what made room on the host.
      const bool made_room = after.spills != stats.spills || after.dropped_copies != stats.dropped_copies;
      if (!made_room) CHECK(Picture(at) == before);
      CHECK(at.heap.stats().chunks[static_cast<unsigned>(ChunkState::resident)] ==
            before.chunks[static_cast<unsigned>(ChunkState::resident)]);
    }
    was_reached = failing.failures(call) != 0;
    failing.stop_failing();
    REQUIRE(at.heap.set_budget(4 * kGranule).ok());
    CHECK(program.is_intact());
    CHECK(at.heap.validate());
  });
  return was_reached;
}

TEST_CASE("B6 X6 residency: whichever call of the driver fails, nothing changes and nothing is lost",
          "[device]") {
  PageFolder folder;
  for (const cuda::Call call : kCalls) {
    unsigned reached = 0;
    for (std::uint64_t nth = 1; nth <= 100; ++nth) {
      INFO(cuda::symbol_of(call) << ", use " << nth);
      if (!run_with_failure(call, nth, folder.path())) break;
      ++reached;
    }
    INFO(cuda::symbol_of(call));
    if (call != cuda::Call::stream_synchronize) CHECK(reached >= 1);
  }
}

TEST_CASE("B6 residency: a heap that cannot be opened leaves nothing behind", "[device]") {
  constexpr cuda::Call kOpening[] = {cuda::Call::stream_create, cuda::Call::stream_get_id,
                                     cuda::Call::mem_address_reserve, cuda::Call::mem_host_alloc};
  on_failing_gpu(gpu_test::small(), [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    ResidentRig at(gpu, {});
    at.heap.close();
    for (const cuda::Call call : kOpening) {
      for (std::uint64_t nth = 1; nth <= 3; ++nth) {
        const EmulatedGpu::Usage before = rig.emulated->usage();
        const std::uint64_t failures = failing.failures(call);
        failing.fail({call, nth, 1, cuda::Result::out_of_memory});
        const Outcome outcome = at.heap.open(gpu, at.heap_options());
        const bool is_reached = failing.failures(call) != failures;
        failing.stop_failing();
        CHECK(outcome.ok() != is_reached);
        at.heap.close();
        const EmulatedGpu::Usage after = rig.emulated->usage();
        CHECK(after.streams == before.streams);
        CHECK(after.reservations == before.reservations);
        CHECK(after.host_bytes == before.host_bytes);
        if (!is_reached) break;
      }
    }
  });
}

TEST_CASE("B6 residency: a device that lies about its size costs victims, not contents", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ResidentRig at(gpu, {});
    const cuda::Stream stream = rig.stream();
    const cuda::DevicePointer first = at.make(2), second = at.make(2), third = at.make(3);
    REQUIRE(fill(at, rig.driver, first, 1, stream).ok());
    rig.emulated->set_device_bytes(2 * kGranule);  // no fresh memory from here on
    REQUIRE(fill(at, rig.driver, second, 2, stream).ok());
    CHECK(holds(at, rig.driver, first, 1, stream));
    CHECK(holds(at, rig.driver, second, 2, stream));
    Lease lease;
    CHECK(at.acquire(third, Access::write, stream, &lease).status == Status::out_of_memory);
    CHECK(at.heap.validate());
    CHECK(holds(at, rig.driver, second, 2, stream));
    CHECK(holds(at, rig.driver, first, 1, stream));
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("B6 residency: a full or broken disk is told, and nothing is lost", "[device]") {
  PageFolder folder;
  on_gpu(gpu_test::small(), [&](Rig& rig, Gpu& gpu) {
    HeapSize size;
    size.slots = 2;
    size.resident = 2;
    size.directory = folder.path();
    ResidentRig at(gpu, size);
    at.heap.close();
    ResidencyOptions options = at.heap_options();
    options.disk_bytes_max = kGranule + kGranule / 2;  // one chunk, and no other
    REQUIRE(at.heap.open(gpu, options).ok());
    const cuda::Stream stream = rig.stream();
    std::vector<cuda::DevicePointer> all;
    for (std::uint32_t i = 0; i < 6; ++i) all.push_back(at.make(1));
    for (std::uint32_t i = 0; i < 5; ++i) REQUIRE(fill(at, rig.driver, all[i], i, stream).ok());
    CHECK(in_state(at, ChunkState::on_disk) == 1);
    const Picture before(at);
    for (int i = 0; i < 3; ++i) {
      CHECK(fill(at, rig.driver, all[5], 5, stream).status == Status::io_error);
      CHECK(Picture(at) == before);
      CHECK(at.heap.validate());
    }
    // What is on the disk needs a slot on its way: two of them hold the only copy of something so far.
    CHECK(holds(at, rig.driver, all[4], 4, stream));
    REQUIRE(at.heap.free(all[4]).ok());
    REQUIRE(at.heap.free(all[3]).ok());
    for (std::uint32_t i = 3; i-- > 0;) CHECK(holds(at, rig.driver, all[i], i, stream));
    CHECK(at.heap.validate());
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("X6 residency: a lost device ends leases, hangs nowhere and closes", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    ResidentRig at(gpu, {});
    const cuda::Stream stream = rig.stream();
    const cuda::DevicePointer first = at.make(2), second = at.make(4);
    REQUIRE(fill(at, rig.driver, first, 1, stream).ok());
    Lease lease;
    REQUIRE(at.acquire(first, Access::read, stream, &lease).ok());
    failing.fail({cuda::Call::mem_map, 1, 1000, cuda::Result::illegal_address});
    Lease other;
    const ChunkUse use{second, 2 * kGranule, Access::write};
    CHECK(at.heap.acquire({&use, 1}, stream, &other).status == Status::device_lost);
    CHECK(gpu.is_lost());
    CHECK(at.heap.acquire({&use, 1}, stream, &other).status == Status::device_lost);
    CHECK(at.heap.free(second).status == Status::device_lost);
    CHECK(at.heap.sleep(kAllTags, 1).status == Status::device_lost);
    CHECK(at.heap.release(lease).status == Status::device_lost);
    CHECK(at.heap.stats().live_leases == 0);
    CHECK(at.heap.release(lease).status == Status::not_owned);
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

}  // namespace
}  // namespace device_test
