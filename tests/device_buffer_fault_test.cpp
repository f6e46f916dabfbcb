// Unified buffers when something goes wrong: calls of the driver that fail, accesses that are given up,
// streams that are captured, devices that are lost.
#include <array>
#include <functional>
#include <optional>

#include "tests/unified_rig.h"

namespace device_test {
namespace {

constexpr cuda::Call kCalls[] = {
    cuda::Call::mem_alloc,          cuda::Call::mem_free,         cuda::Call::mem_host_alloc,
    cuda::Call::mem_free_host,      cuda::Call::memcpy_h2d_async, cuda::Call::memcpy_d2h_async,
    cuda::Call::memcpy_d2d_async,   cuda::Call::memset_d8_async,  cuda::Call::memset_d32_async,
    cuda::Call::event_create,       cuda::Call::event_record,     cuda::Call::event_query,
    cuda::Call::event_synchronize,  cuda::Call::stream_get_id,    cuda::Call::stream_wait_event,
    cuda::Call::stream_synchronize, cuda::Call::ctx_synchronize,  cuda::Call::stream_is_capturing,
};

constexpr std::uint64_t kSize = 3 * kUnit + 5;

// A program in steps. Each step either is done, or answers with an error and leaves contents, owners and
// memory as they were; then it is done again, and has to succeed.
class Program {
 public:
  Program(UnifiedRig& unified, Rig& rig) : unified_(unified), rig_(rig) {
    other_ = rig.stream();
    for (UnifiedBuffer& buffer : buffers_) REQUIRE(buffer.create(unified.memory, {kSize}).ok());
  }
  ~Program() {
    for (UnifiedBuffer& buffer : buffers_) CHECK(buffer.close().ok());
    CHECK(rig_.driver.stream_destroy(other_) == cuda::Result::success);
  }

  static constexpr int kSteps = 22;
  Outcome step(int number) {
    const UnifiedSlice first = buffers_[0].all(), second = buffers_[1].all();
    UnifiedSlice part, later;
    REQUIRE(first.slice(100, kUnit, &part).ok());
    REQUIRE(first.slice(200, kUnit, &later).ok());
    switch (number) {
      case 0:
        return write_host(first, 0, kSize, 1);
      case 1:
        return read_device(first, unified_.stream);
      case 2:
        return write_host(first, 100, kUnit, 2);
      case 3:
        return read_device(first, other_);
      case 4:
        return fill(part, std::uint32_t{0x01020304}, other_);
      case 5:
        return read_host(first);
      case 6:
        return buffers_[0].evict(UnifiedSide::host);
      case 7:
        return read_device(first, unified_.stream);
      case 8:
        return copy(0, 200, 0, 100, other_);
      case 9:
        return copy(1, 0, 0, 0, unified_.stream);
      case 10:
        return read_host(second);
      case 11:
        return buffers_[1].evict(UnifiedSide::device);
      case 12:
        return copy(0, 0, 1, 50, other_);
      case 13:
        return buffers_[0].all().prefetch(UnifiedSide::host);
      case 14:
        return read_host(first);
      case 15:
        return resize(0, kSize + kUnit);
      case 16:
        return read_device(buffers_[0].all(), other_);
      case 17:
        return resize(1, kUnit / 2);
      case 18:
        return read_host(buffers_[0].all());
      case 19:
        return detach();
      case 20:
        return discard(1);
      default:
        return read_device(buffers_[1].all(), unified_.stream);
    }
  }

  // Both sides, without any failure.
  void check() {
    for (int i = 0; i < 2; ++i) {
      REQUIRE(unified_.on_host(buffers_[i].all()) == contents_[i]);
      REQUIRE(unified_.on_device(buffers_[i].all()) == contents_[i]);
    }
  }
  // Of the host alone, whatever is lost; a buffer that needs the device may say so.
  [[nodiscard]] const Bytes& contents(int i) const { return contents_[i]; }
  [[nodiscard]] UnifiedBuffer& buffer(int i) { return buffers_[i]; }

 private:
  [[nodiscard]] Bytes& contents_of(const UnifiedSlice& slice) {
    return contents_[slice.range().buffer == buffers_[0].handle() ? 0 : 1];
  }
  Outcome write_host(const UnifiedSlice& slice, std::uint64_t offset, std::uint64_t size, unsigned seed) {
    UnifiedSlice part;
    REQUIRE(slice.slice(offset, size, &part).ok());
    HostWrite guard;
    const Outcome outcome = part.host_write(&guard, Overwrite::full);
    if (!outcome.ok()) return outcome;
    const Bytes bytes = numbered(size, seed);
    std::memcpy(guard.data(), bytes.data(), size);
    std::memcpy(contents_of(slice).data() + offset, bytes.data(), size);
    return outcome;
  }
  Outcome read_host(const UnifiedSlice& slice) {
    HostRead guard;
    const Outcome outcome = slice.host_read(&guard);
    if (!outcome.ok()) return outcome;
    REQUIRE(std::memcmp(guard.data(), contents_of(slice).data(), guard.size_bytes()) == 0);
    return outcome;
  }
  // By the driver behind the one that fails.
  Outcome read_device(const UnifiedSlice& slice, cuda::Stream stream) {
    DeviceRead guard;
    const Outcome outcome = slice.device_read(stream, &guard);
    if (!outcome.ok()) return outcome;
    Bytes bytes(guard.size_bytes());
    REQUIRE(rig_.driver.memcpy_d2h_async(bytes.data(), guard.address(), bytes.size(), stream) ==
            cuda::Result::success);
    REQUIRE(rig_.driver.stream_synchronize(stream) == cuda::Result::success);
    REQUIRE(bytes == contents_of(slice));
    return outcome;
  }
  template <class T>
  Outcome fill(const UnifiedSlice& slice, T value, cuda::Stream stream) {
    const Outcome outcome = slice.fill(value, UnifiedSide::device, stream);
    if (!outcome.ok()) return outcome;
    for (std::uint64_t at = 0; at < slice.size_bytes(); at += sizeof value) {
      std::memcpy(contents_of(slice).data() + slice.offset_bytes() + at, &value, sizeof value);
    }
    return outcome;
  }
  Outcome copy(int to, std::uint64_t to_offset, int from, std::uint64_t from_offset, cuda::Stream stream) {
    UnifiedSlice target, source;
    REQUIRE(buffers_[to].all().slice(to_offset, 2 * kUnit, &target).ok());
    REQUIRE(buffers_[from].all().slice(from_offset, 2 * kUnit, &source).ok());
    const Outcome outcome = target.copy_from(source, UnifiedSide::device, stream);
    if (!outcome.ok()) return outcome;
    std::memmove(contents_[to].data() + to_offset, contents_[from].data() + from_offset, 2 * kUnit);
    return outcome;
  }
  Outcome resize(int i, std::uint64_t size) {
    const Outcome outcome = buffers_[i].resize(size);
    if (outcome.ok()) contents_[i].resize(size);
    return outcome;
  }
  Outcome discard(int i) {
    const Outcome outcome = buffers_[i].discard();
    if (outcome.ok()) std::fill(contents_[i].begin(), contents_[i].end(), 0);
    return outcome;
  }
  Outcome detach() {
    cuda::DevicePointer address = 0;
    const Outcome outcome = unified_.memory.detach_device(buffers_[0].handle(), &address);
    if (outcome.ok()) REQUIRE(rig_.driver.mem_free(address) == cuda::Result::success);
    return outcome;
  }

  UnifiedRig& unified_;
  Rig& rig_;
  cuda::Stream other_ = nullptr;
  UnifiedBuffer buffers_[2];
  Bytes contents_[2] = {Bytes(kSize), Bytes(kSize)};
};

// Runs the program with the n-th call failing; false: there is no n-th call.
bool run_with_failure(GpuSchedule schedule, cuda::Call call, std::uint64_t nth) {
  bool has_failed = false;
  EmulatedGpu::Options options = gpu_test::small(schedule, nth);
  options.is_poisoned = schedule == GpuSchedule::eager;  // the pattern takes most of the time
  on_failing_gpu(options, [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    UnifiedRig unified(rig, gpu);
    {
      Program program(unified, rig);
      failing.fail({call, nth, 1, cuda::Result::out_of_memory});
      int errors = 0;
      for (int step = 0; step < Program::kSteps; ++step) {
        Outcome outcome = program.step(step);
        if (outcome.ok()) continue;
        ++errors;
        REQUIRE(outcome.status == Status::out_of_memory);
        outcome = program.step(step);
        REQUIRE(outcome.ok());
      }
      has_failed = failing.failures(call) != 0;
      CHECK(errors <= (has_failed ? 1 : 0));
      failing.stop_failing();
      program.check();
    }
    CHECK(unified.memory.stats().host_bytes == 0);
    CHECK(unified.memory.stats().device_bytes == 0);
  });
  return has_failed;
}

TEST_CASE("B6 unified buffer: whichever call of the driver fails, contents and memory are exact",
          "[device]") {
  for (const GpuSchedule schedule : {GpuSchedule::eager, GpuSchedule::adversarial}) {
    for (const cuda::Call call : kCalls) {
      std::uint64_t nth = 1;
      for (; nth <= 100; ++nth) {
        INFO(cuda::symbol_of(call) << " call " << nth << ", schedule " << static_cast<int>(schedule));
        if (!run_with_failure(schedule, call, nth)) break;
      }
      CHECK(nth <= 100);  // the program makes fewer calls of each kind
    }
  }
}

TEST_CASE("B6 unified buffer: nothing opens halfway when the driver has no stream or event", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig&, Gpu& gpu, FailingDriver& failing) {
    UnifiedMemory memory;
    UnifiedOptions options;
    CHECK(memory.open(gpu, options).status == Status::bad_argument);
    options.source = driver_source(gpu);
    options.piece_bytes = 1;
    CHECK(memory.open(gpu, options).status == Status::bad_argument);
    options.piece_bytes = kMiB;
    options.buffers_max = 2;
    failing.fail({cuda::Call::stream_create, 1, 1, cuda::Result::out_of_memory});
    CHECK(memory.open(gpu, options).status == Status::out_of_memory);
    REQUIRE(memory.open(gpu, options).ok());
    UnifiedBuffer buffers[3];
    REQUIRE(buffers[0].create(memory, {1}).ok());
    REQUIRE(buffers[1].create(memory, {1}).ok());
    CHECK(buffers[2].create(memory, {1}).status == Status::over_budget);
    REQUIRE(buffers[0].close().ok());
    REQUIRE(buffers[2].create(memory, {1}).ok());
    CHECK(buffers[1].close().ok());
    CHECK(buffers[2].close().ok());
    CHECK(memory.close().ok());
    CHECK(memory.close().ok());
  });
}

TEST_CASE("B6 unified buffer: what was queued before a failure is done before its memory goes", "[device]") {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    INFO("seed " << seed);
    on_failing_gpu(
        gpu_test::small(GpuSchedule::adversarial, seed), [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
          SlabSource slab(rig);
          UnifiedOptions options;
          options.source = slab.source();
          options.piece_bytes = kUnit;
          UnifiedMemory memory;
          REQUIRE(memory.open(gpu, options).ok());
          const cuda::Stream streams[] = {rig.stream(), rig.stream()};
          UnifiedBuffer first, second;
          const Bytes bytes = numbered(3 * kUnit);
          REQUIRE(first.create(memory, {bytes.size()}, bytes.data()).ok());
          REQUIRE(second.create(memory, {bytes.size()}).ok());
          failing.fail({cuda::Call::memcpy_h2d_async, 3, 1, cuda::Result::out_of_memory});
          CHECK(first.all().prefetch(UnifiedSide::device, streams[0]).status == Status::out_of_memory);
          CHECK(UnifiedRig::info(first).state == UnifiedState::host_only);
          CHECK(UnifiedRig::info(first).device_bytes == 0);
          // In the block that the first one gave back.
          REQUIRE(second.all().fill(std::uint8_t{5}, UnifiedSide::device, streams[1]).ok());
          REQUIRE(rig.driver.stream_synchronize(streams[1]) == cuda::Result::success);
          REQUIRE(rig.driver.stream_synchronize(streams[0]) == cuda::Result::success);
          CHECK(UnifiedRig::on_host(second.all()) == Bytes(bytes.size(), 5));
          CHECK(UnifiedRig::on_host(first.all()) == bytes);
          CHECK(first.close().ok());
          CHECK(second.close().ok());
          CHECK(memory.close().ok());
          for (const cuda::Stream stream : streams) {
            CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
          }
        });
  }
}

TEST_CASE("B7 unified buffer: an access that is given up leaves a valid state", "[device]") {
  on_unified(gpu_test::small(GpuSchedule::adversarial), [](UnifiedRig& unified, Rig&) {
    const Bytes bytes = numbered(5 * kUnit);
    for (const UnifiedState state : {UnifiedState::device_only, UnifiedState::device_dirty}) {
      UnifiedBuffer buffer;
      unified.bring_to(state, &buffer, bytes);
      const CancelFlag cancelled{true};
      HostRead guard;
      HostWrite writer;
      CHECK(buffer.all().host_read(&guard, &cancelled).status == Status::cancelled);
      CHECK(buffer.all().host_write(&writer, Overwrite::partial, &cancelled).status == Status::cancelled);
      CHECK(buffer.evict(UnifiedSide::device, &cancelled).status == Status::cancelled);
      CHECK(unified.info(buffer).state == state);
      CHECK(unified.info(buffer).to_host_bytes == (state == UnifiedState::device_only ? 0 : bytes.size()));
      const CancelFlag goes_on{false};
      CHECK(buffer.all().host_read(&guard, &goes_on).ok());
      guard.close();
      CHECK(unified.on_host(buffer.all()) == bytes);
    }
  });
}

struct Reclaimer {
  UnifiedBuffer* buffers[2] = {};
  Status answers[2] = {};
  UnifiedInfo now;
};

TEST_CASE("K2 unified buffer: who is asked to free memory may evict, and is never locked out", "[device]") {
  on_gpu(gpu_test::small(), [](Rig&, Gpu& gpu) {
    Reclaimer reclaimer;
    glebe::paging::BudgetCallbacks callbacks;
    callbacks.context = &reclaimer;
    callbacks.reclaim = [](void* context, std::uint64_t) {
      auto& self = *static_cast<Reclaimer*>(context);
      for (int i = 0; i < 2; ++i) self.answers[i] = self.buffers[i]->evict(UnifiedSide::host).status;
      CHECK(self.buffers[0]->info(&self.now).status == Status::in_use);
      return self.answers[1] == Status::ok;
    };
    glebe::paging::Budget budget;
    REQUIRE(budget.open("host", 100'000, glebe::paging::BudgetAction::reclaim, callbacks) ==
            glebe::paging::BudgetResult::ok);
    UnifiedMemory memory;
    UnifiedOptions options;
    options.source = driver_source(gpu);
    options.budget = &budget;
    REQUIRE(memory.open(gpu, options).ok());
    UnifiedBuffer asking, idle;
    REQUIRE(asking.create(memory, {60'000}).ok());
    REQUIRE(idle.create(memory, {60'000}).ok());
    reclaimer.buffers[0] = &asking;
    reclaimer.buffers[1] = &idle;
    CHECK(UnifiedRig::on_host(idle.all()) == Bytes(60'000));
    CHECK(UnifiedRig::on_host(asking.all()) == Bytes(60'000));
    CHECK(reclaimer.answers[0] == Status::in_use);  // the one that memory is asked for
    CHECK(reclaimer.answers[1] == Status::ok);
    CHECK(asking.close().ok());
    CHECK(idle.close().ok());
    CHECK(memory.close().ok());
  });
}

// A budget of which one buffer has most, and a program that is asked to free memory when another one needs
// it.
struct Asked {
  Asked(Gpu& gpu, std::uint64_t size_bytes) {
    glebe::paging::BudgetCallbacks callbacks;
    callbacks.context = this;
    callbacks.reclaim = [](void* self, std::uint64_t) {
      auto& asked = *static_cast<Asked*>(self);
      ++asked.calls;
      asked.answer();
      return asked.idle.evict(UnifiedSide::host).ok();
    };
    REQUIRE(budget.open("host", size_bytes * 3 / 2, glebe::paging::BudgetAction::reclaim, callbacks) ==
            glebe::paging::BudgetResult::ok);
    UnifiedOptions options;
    options.source = driver_source(gpu);
    options.budget = &budget;
    REQUIRE(memory.open(gpu, options).ok());
    REQUIRE(idle.create(memory, {size_bytes}).ok());
    CHECK(UnifiedRig::on_host(idle.all()) == Bytes(size_bytes));
  }
  ~Asked() {
    CHECK(idle.close().ok());
    CHECK(memory.stats().buffers == 0);
    CHECK(memory.close().ok());
  }
  Asked(const Asked&) = delete;
  Asked& operator=(const Asked&) = delete;

  glebe::paging::Budget budget;
  UnifiedMemory memory;
  UnifiedBuffer idle;
  std::function<void()> answer;
  int calls = 0;
};

TEST_CASE("K2 unified buffer: who is asked to free memory may close guards, and their work counts",
          "[device]") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    INFO("seed " << seed);
    on_gpu(gpu_test::small(GpuSchedule::adversarial, seed), [&](Rig& rig, Gpu& gpu) {
      Asked asked(gpu, kUnit);
      const cuda::Stream streams[] = {rig.stream(), rig.stream()};
      const cuda::DevicePointer copy = rig.memory(kGranule);
      UnifiedBuffer buffer;
      REQUIRE(buffer.create(asked.memory, {kUnit}).ok());
      REQUIRE(buffer.all().fill(std::uint8_t{7}, UnifiedSide::device, streams[0]).ok());
      REQUIRE(rig.driver.stream_synchronize(streams[0]) == cuda::Result::success);
      DeviceRead reader;
      REQUIRE(buffer.all().device_read(streams[0], &reader).ok());
      REQUIRE(rig.driver.memcpy_d2d_async(copy, reader.address(), kUnit, streams[0]) ==
              cuda::Result::success);
      asked.answer = [&] { reader.close(); };  // of the buffer that this thread asks memory for
      CHECK(UnifiedRig::on_host(buffer.all()) == Bytes(kUnit, 7));
      CHECK(asked.calls == 1);
      CHECK_FALSE(reader.is_open());
      CHECK(UnifiedRig::info(buffer).readers == 0);
      REQUIRE(buffer.all().fill(std::uint8_t{9}, UnifiedSide::device, streams[1]).ok());
      REQUIRE(rig.driver.stream_synchronize(streams[1]) == cuda::Result::success);
      REQUIRE(rig.driver.stream_synchronize(streams[0]) == cuda::Result::success);
      Bytes bytes(kUnit);
      REQUIRE(rig.driver.memcpy_d2h(bytes.data(), copy, kUnit) == cuda::Result::success);
      CHECK(bytes == Bytes(kUnit, 7));  // the reader came first
      CHECK(buffer.close().ok());
      rig.give_back(copy, kGranule);
      for (const cuda::Stream stream : streams) {
        CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
      }
    });
  }
}

TEST_CASE("K2 mut-B13 unified buffer: an owner that ends while memory is asked for its buffer", "[device]") {
  for (const bool is_room_made : {false, true}) {
    INFO("room is made " << is_room_made);
    on_gpu(gpu_test::small(), [&](Rig&, Gpu& gpu) {
      Asked asked(gpu, kUnit);
      std::optional<UnifiedBuffer> buffer(std::in_place);
      REQUIRE(buffer->create(asked.memory, {kUnit}).ok());
      const UnifiedSlice slice = buffer->all();
      HostRead keeper;
      if (!is_room_made) REQUIRE(asked.idle.all().host_read(&keeper).ok());
      asked.answer = [&] { buffer.reset(); };
      HostRead reader;
      CHECK(slice.host_read(&reader).status == (is_room_made ? Status::ok : Status::over_budget));
      CHECK(asked.calls == 1);
      CHECK(asked.memory.stats().buffers == (is_room_made ? 2 : 1));
      reader.close();
      CHECK(asked.memory.stats().buffers == 1);
      CHECK(slice.host_read(&reader).status == Status::not_owned);
    });
  }
}

TEST_CASE("B6 unified buffer: a fill that fails in the middle leaves one truth", "[device]") {
  using Pattern = std::array<std::uint32_t, 4>;
  for (const UnifiedState state : {UnifiedState::synchronized, UnifiedState::host_dirty,
                                   UnifiedState::host_only, UnifiedState::device_dirty}) {
    for (std::uint64_t nth = 1; nth <= 6; ++nth) {
      INFO(name_of(state) << ", call " << nth);
      on_failing_gpu(gpu_test::small(), [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
        UnifiedRig unified(rig, gpu);
        UnifiedBuffer buffer;
        const Bytes bytes = numbered(2 * kUnit);
        unified.bring_to(state, &buffer, bytes);
        failing.fail({nth <= 4 ? cuda::Call::memset_d32_async : cuda::Call::memcpy_d2d_async,
                      nth <= 4 ? nth : nth - 4, 1, cuda::Result::out_of_memory});
        UnifiedSlice part;
        REQUIRE(buffer.all().slice(1600, 3200, &part).ok());
        CHECK(part.fill(Pattern{1, 2, 3, 4}, UnifiedSide::device, unified.stream).status ==
              Status::out_of_memory);
        const Bytes now = unified.on_host(buffer.all());
        CHECK(unified.on_device(buffer.all()) == now);
        if (state != UnifiedState::device_dirty) CHECK(now == bytes);
      });
    }
  }
}

TEST_CASE("B6 unified buffer: a stream that is being captured is refused", "[device]") {
  on_unified(gpu_test::small(), [](UnifiedRig& unified, Rig& rig) {
    UnifiedBuffer buffer;
    REQUIRE(buffer.create(unified.memory, {100}).ok());
    rig.emulated->set_capture_status(unified.stream, cuda::CaptureStatus::active);
    DeviceRead guard;
    CHECK(buffer.all().device_read(unified.stream, &guard).status == Status::unsupported);
    CHECK(buffer.all().fill(std::uint8_t{1}, UnifiedSide::device, unified.stream).status ==
          Status::unsupported);
    CHECK(unified.info(buffer).device_bytes == 0);
    rig.emulated->set_capture_status(unified.stream, cuda::CaptureStatus::none);
    CHECK(buffer.all().device_read(unified.stream, &guard).ok());
  });
}

TEST_CASE("B6 unified buffer: a guard that ends in a capture stands for all that the device does",
          "[device]") {
  on_failing_gpu(gpu_test::small(GpuSchedule::adversarial), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    UnifiedRig unified(rig, gpu);
    UnifiedBuffer buffer;
    REQUIRE(buffer.create(unified.memory, {kUnit}).ok());
    DeviceWrite guard;
    REQUIRE(buffer.all().device_write(unified.stream, &guard, Overwrite::full).ok());
    REQUIRE(rig.driver.memset_d8_async(guard.address(), 3, kUnit, unified.stream) == cuda::Result::success);
    rig.emulated->set_capture_status(unified.stream, cuda::CaptureStatus::active);
    const std::uint64_t records = failing.calls(cuda::Call::event_record);
    guard.close();
    CHECK(failing.calls(cuda::Call::event_record) == records);  // it would belong to the graph
    CHECK(unified.info(buffer).pending == 1);
    rig.emulated->set_capture_status(unified.stream, cuda::CaptureStatus::none);
    CHECK(unified.on_host(buffer.all()) == Bytes(kUnit, 3));
    CHECK(buffer.close().ok());
  });
}

TEST_CASE("B3 unified buffer: many streams make the host wait once, not each time", "[device]") {
  on_failing_gpu(gpu_test::small(GpuSchedule::adversarial), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    SlabSource slab(rig);
    UnifiedRig unified(rig, gpu, slab.source(), kWaitForever);
    std::vector<cuda::Stream> streams;
    for (int i = 0; i < 40; ++i) streams.push_back(rig.stream());
    UnifiedBuffer buffer;
    REQUIRE(buffer.create(unified.memory, {3 * kUnit}).ok());
    const std::uint64_t before = failing.calls(cuda::Call::ctx_synchronize);
    for (const cuda::Stream stream : streams) {
      DeviceRead guard;
      REQUIRE(buffer.all().device_read(stream, &guard).ok());
    }
    REQUIRE(buffer.all().fill(std::uint8_t{9}, UnifiedSide::device, streams[0]).ok());
    for (int i = 0; i < 10; ++i) {
      DeviceRead guard;
      REQUIRE(buffer.all().device_read(streams[1], &guard).ok());
    }
    CHECK(failing.calls(cuda::Call::ctx_synchronize) - before <= 3);
    CHECK(UnifiedRig::on_host(buffer.all()) == Bytes(3 * kUnit, 9));
    CHECK(buffer.close().ok());
    for (const cuda::Stream stream : streams) {
      CHECK(rig.driver.stream_destroy(stream) == cuda::Result::success);
    }
  });
}

TEST_CASE("B6 unified buffer: on a lost device the host keeps what it has", "[device]") {
  EmulatedGpu gpu_of_test;
  REQUIRE(gpu_of_test.open(gpu_test::small()));
  Rig rig(gpu_of_test.driver(), &gpu_of_test);
  rig.start();
  Gpu gpu;
  REQUIRE(gpu.open(rig.driver).ok());
  {
    UnifiedMemory memory;
    UnifiedOptions options;
    options.source = driver_source(gpu);
    REQUIRE(memory.open(gpu, options).ok());
    const cuda::Stream stream = rig.stream();
    const Bytes bytes = numbered(2 * kUnit);
    UnifiedBuffer here, both, there;
    REQUIRE(here.create(memory, {bytes.size()}, bytes.data()).ok());
    REQUIRE(both.create(memory, {bytes.size()}, bytes.data()).ok());
    REQUIRE(both.all().prefetch(UnifiedSide::device, stream).ok());
    REQUIRE(there.create(memory, {bytes.size()}).ok());
    REQUIRE(there.all().fill(std::uint8_t{1}, UnifiedSide::device, stream).ok());
    const cuda::DevicePointer nowhere = rig.reserve(kGranule);
    REQUIRE(rig.store_word(nowhere, 1, stream) == cuda::Result::success);
    CHECK(rig.driver.stream_synchronize(stream) == cuda::Result::illegal_address);
    DeviceRead reader;
    CHECK(here.all().device_read(stream, &reader).status == Status::device_lost);
    CHECK(gpu.is_lost());
    CHECK(UnifiedRig::on_host(here.all()) == bytes);
    CHECK(UnifiedRig::on_host(both.all()) == bytes);
    HostWrite writer;
    REQUIRE(both.all().host_write(&writer).ok());
    writer.close();
    HostRead guard;
    CHECK(there.all().host_read(&guard).status == Status::device_lost);
    CHECK(there.all().host_read(&guard).status == Status::device_lost);
    CHECK(there.evict(UnifiedSide::device).status == Status::device_lost);
    CHECK(both.evict(UnifiedSide::device).ok());
    CHECK(here.close().ok());
    CHECK(both.close().ok());
    CHECK(there.close().ok());
    CHECK(memory.stats().host_bytes == 0);
    CHECK(memory.stats().device_bytes == 0);
    CHECK(memory.close().ok());
  }
  gpu.close();
  gpu_of_test.close();
}

}  // namespace
}  // namespace device_test
