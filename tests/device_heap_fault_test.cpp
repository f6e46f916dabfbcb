// Every call of the driver that the heap makes, made to fail at its n-th use: the request is refused or met
// in another way, nothing else changes, and the heap works on. What would break: a step that is not undone.
#include <array>
#include <string>

#include "tests/heap_rig.h"
#include "tests/random.h"

namespace device_test {
namespace {

// A heap that is used at random, of which every block holds a word of its own at both ends.
class Use {
 public:
  Use(Rig& rig, DeviceHeap& heap, std::uint64_t seed) : rig_(rig), heap_(heap), random_(seed) {}

  void step() {
    if (!blocks_.empty() && random_.below(7) < 3) {
      return free(random_.below(blocks_.size()));
    }
    if (!blocks_.empty() && random_.one_in(8)) return grow(random_.below(blocks_.size()));
    if (random_.one_in(6)) heap_.trim(random_.below(6) * kGranule);
    allocate();
  }
  void end() {
    while (!blocks_.empty()) free(blocks_.size() - 1);
  }

 private:
  struct Block {
    cuda::DevicePointer address;
    std::uint64_t size_bytes;
    std::uint32_t word;
  };

  void allocate() {
    const std::uint64_t size = random_.one_in(3) ? (1 + random_.below(10)) * kMiB : 1 + random_.below(kMiB);
    const DeviceHeapStats before = heap_.stats();
    cuda::DevicePointer address = 0;
    const Outcome outcome = heap_.allocate({size, 0, 0}, &address);
    if (!outcome.ok()) {
      expect_unchanged(before);
      return;
    }
    const Block block{address, heap_.size_of(address), ++words_};
    fill(block);
    blocks_.push_back(block);
  }

  void grow(std::size_t at) {
    Block& block = blocks_[at];
    const DeviceHeapStats before = heap_.stats();
    if (!heap_.grow_in_place(block.address, block.size_bytes + 3 * kMiB).ok()) {
      expect_unchanged(before);
      REQUIRE(heap_.size_of(block.address) == block.size_bytes);
      return;
    }
    REQUIRE(rig_.read_word(block.address + block.size_bytes - 4) == block.word);
    block.size_bytes = heap_.size_of(block.address);
    fill(block);
  }

  void fill(const Block& block) {
    REQUIRE(rig_.store_word(block.address, block.word, nullptr) == cuda::Result::success);
    REQUIRE(rig_.store_word(block.address + block.size_bytes - 4, block.word, nullptr) ==
            cuda::Result::success);
  }

  void free(std::size_t at) {
    const Block block = blocks_[at];
    REQUIRE(rig_.read_word(block.address) == block.word);
    REQUIRE(rig_.read_word(block.address + block.size_bytes - 4) == block.word);
    REQUIRE(heap_.free(block.address).ok());
    blocks_[at] = blocks_.back();
    blocks_.pop_back();
  }

  void expect_unchanged(const DeviceHeapStats& before) {
    const DeviceHeapStats after = heap_.stats();
    REQUIRE(after.live_bytes == before.live_bytes);
    REQUIRE(after.live_blocks == before.live_blocks);
    REQUIRE(after.requested_bytes == before.requested_bytes);
    REQUIRE(after.free_bytes == before.free_bytes);
    REQUIRE(after.largest_free_bytes == before.largest_free_bytes);
    REQUIRE(after.allocations == before.allocations);
    // No mapping is left of the try; what was cached may be idle now.
    REQUIRE(after.space.mapped_bytes <= before.space.mapped_bytes);
    REQUIRE(after.space.mapped_bytes - after.space.cached_bytes ==
            before.space.mapped_bytes - before.space.cached_bytes);
    REQUIRE(heap_.validate());
  }

  Rig& rig_;
  DeviceHeap& heap_;
  Random random_;
  std::uint32_t words_ = 0;
  std::vector<Block> blocks_;
};

struct Fault {
  cuda::Call call;
  cuda::Result result;
  std::uint64_t count;
};

void use_with(Rig& rig, Gpu& gpu, FailingDriver& failing, FailingDriver::Plan plan) {
  DeviceHeap heap;
  REQUIRE(heap.open(gpu, small_heap()).ok());
  failing.fail(plan);
  Use use(rig, heap, 7);
  for (int i = 0; i < 200; ++i) use.step();
  REQUIRE(heap.validate());
  failing.stop_failing();
  use.end();
  REQUIRE(heap.stats().live_bytes == 0);
  REQUIRE(heap.validate());
  const DeviceHeapStats stats = heap.stats();
  REQUIRE(stats.space.mapped_bytes == stats.space.cached_bytes);
  REQUIRE(heap.trim(0) == stats.space.held_bytes);
  REQUIRE(heap.budget().used_bytes() == 0);
  const EmulatedGpu::Usage usage = rig.emulated->usage();
  REQUIRE(usage.mappings == 0);
  REQUIRE(usage.handles == 0);
  heap.close();
}

TEST_CASE("V7 X6 device heap: each use of each call of the driver may fail", "[device]") {
  // Not release and address_free: what the driver does not take back, nobody can.
  const Fault faults[] = {
      {cuda::Call::mem_create, cuda::Result::out_of_memory, 1},
      {cuda::Call::mem_create, cuda::Result::out_of_memory, 5},
      {cuda::Call::mem_map, cuda::Result::out_of_memory, 1},
      {cuda::Call::mem_map, cuda::Result::unknown, 4},
      {cuda::Call::mem_set_access, cuda::Result::out_of_memory, 1},
      {cuda::Call::mem_set_access, cuda::Result::unknown, 3},
      {cuda::Call::mem_unmap, cuda::Result::unknown, 1},
      {cuda::Call::mem_unmap, cuda::Result::unknown, 9},
  };
  EmulatedGpu::Options machine = gpu_test::small();
  machine.is_poisoned = false;  // filling each new chunk would take most of the time
  on_failing_gpu(machine, [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    for (const Fault& fault : faults) {
      std::uint64_t n = 1;
      for (; n <= 100; ++n) {
        INFO("call " << static_cast<int>(fault.call) << " use " << n << " count " << fault.count);
        const std::uint64_t before = failing.failures(fault.call);
        use_with(rig, gpu, failing, {fault.call, n, fault.count, fault.result});
        if (failing.failures(fault.call) == before) break;  // there is no n-th use
      }
      INFO("call " << static_cast<int>(fault.call) << " uses " << n - 1);
      CHECK(n > 12);
    }
  });
}

TEST_CASE("V7 device heap: a mapping without access is undone, and its memory kept", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    DeviceHeap heap;
    REQUIRE(heap.open(gpu, small_heap()).ok());
    const cuda::DevicePointer first = take(heap, kMiB);
    failing.fail({cuda::Call::mem_set_access, 1, 1, cuda::Result::out_of_memory});
    CHECK(refusal(heap, 20 * kMiB) == Status::out_of_memory);
    CHECK(rig.emulated->usage().mappings == 1);
    CHECK(heap.stats().space.idle_bytes == 20 * kMiB);
    CHECK(heap.stats().space.held_bytes == 22 * kMiB);
    const std::uint64_t creates = heap.stats().space.creates;
    const cuda::DevicePointer second = take(heap, 20 * kMiB);
    CHECK(heap.stats().space.creates == creates);
    CHECK(heap.free(first).ok());
    CHECK(heap.free(second).ok());
    heap.close();
    failing.fail({cuda::Call::mem_address_reserve, 1, 1, cuda::Result::out_of_memory});
    CHECK(heap.open(gpu, small_heap()).status == Status::out_of_addresses);
    CHECK(heap.open(gpu, small_heap()).ok());
  });
}

TEST_CASE("X6 device heap: a device that is lost answers so, and close still works", "[device]") {
  // Not by on_gpu(): a context that is gone takes nothing back, so there is something left.
  EmulatedGpu machine;
  REQUIRE(machine.open(gpu_test::small()));
  Rig rig(machine.driver(), &machine);
  rig.start();
  Gpu gpu;
  REQUIRE(gpu.open(rig.driver).ok());
  DeviceHeap heap;
  REQUIRE(heap.open(gpu, small_heap()).ok());
  const cuda::DevicePointer block = take(heap, kMiB);
  // A kernel that touches what is not mapped.
  static_cast<void>(rig.store_word(block + 64 * kMiB, 1, nullptr));
  CHECK(refusal(heap, 8 * kMiB) == Status::device_lost);
  CHECK(gpu.is_lost());
  CHECK(refusal(heap, 100) == Status::device_lost);
  CHECK(heap.free(block).ok());
  CHECK(heap.validate());
  CHECK(heap.close() == 0);
  CHECK(machine.usage().undefined_calls == 0);
  gpu.close();
  rig.stop();
}

}  // namespace
}  // namespace device_test
