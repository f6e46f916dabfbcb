// Blocks of whole chunks that move to another address without a copy: contents stay, what did not fit into
// the addresses fits afterwards, and a call that fails leaves the block where it was.
#include "tests/heap_rig.h"

namespace device_test {
namespace {

// As many addresses as memory, all of them used by blocks of a chunk, of which each second one is gone.
DeviceHeapOptions tight() {
  DeviceHeapOptions options = small_heap();
  options.reserve_bytes = 32 * kMiB;
  return options;
}
std::vector<cuda::DevicePointer> comb(Rig& rig, DeviceHeap& heap) {
  std::vector<cuda::DevicePointer> blocks, left;
  for (unsigned i = 0; i < 16; ++i) blocks.push_back(take(heap, kGranule - 100));
  for (unsigned i = 0; i < 16; ++i) {
    if (i % 2 == 0) {
      REQUIRE(heap.free(blocks[i]).ok());
      continue;
    }
    fill(rig, heap, blocks[i], i);
    left.push_back(blocks[i]);
  }
  return left;
}

TEST_CASE("1-6 relocation: addresses that are fragmented become one piece, without a copy", "[device]") {
  on_heap(tight(), [](Rig& rig, DeviceHeap& heap) {
    std::vector<cuda::DevicePointer> blocks = comb(rig, heap);
    CHECK(refusal(heap, 8 * kMiB) == Status::out_of_addresses);
    const DeviceHeapStats before = heap.stats();
    for (std::size_t i = blocks.size(); i-- > 4;) {
      cuda::DevicePointer moved = 0;
      REQUIRE(heap.relocate(blocks[i], &moved).ok());
      CHECK(moved < blocks[i]);
      const auto number = static_cast<std::uint32_t>(2 * i + 1);
      CHECK(heap.size_of(moved) == kGranule);
      CHECK(holds(rig, moved, number, kGranule));
      // The old address leads there as well.
      REQUIRE(rig.store_word(blocks[i] + 4 * number, 80 + number, nullptr) == cuda::Result::success);
      CHECK(rig.read_word(moved + 4 * number) == 80 + number);
      CHECK(heap.size_of(blocks[i]) == 0);
      CHECK(heap.free(blocks[i]).status == Status::not_owned);
      CHECK(heap.validate());
      CHECK(heap.finish_relocation(blocks[i]).ok());
      CHECK(heap.finish_relocation(blocks[i]).status == Status::not_owned);
      CHECK(heap.validate());
      blocks[i] = moved;
    }
    const DeviceHeapStats after = heap.stats();
    CHECK(after.live_bytes == before.live_bytes);
    CHECK(after.frees == before.frees);
    CHECK(after.space.creates == before.space.creates);
    CHECK(after.space.held_bytes == before.space.held_bytes);
    CHECK(after.space.mapped_bytes + after.space.idle_bytes == after.space.held_bytes);
    const cuda::DevicePointer large = take(heap, 16 * kMiB);
    CHECK(rig.read_word(blocks[7] + 4 * 15) == 80 + 15);
    CHECK(heap.free(large).ok());
    for (const cuda::DevicePointer block : blocks) CHECK(heap.free(block).ok());
  });
}

TEST_CASE("1-6 relocation: what cannot move stays", "[device]") {
  on_heap(tight(), [](Rig& rig, DeviceHeap& heap) {
    std::vector<cuda::DevicePointer> blocks = comb(rig, heap);
    cuda::DevicePointer moved = 0;
    CHECK(heap.relocate(blocks[0] + 256, &moved).status == Status::not_owned);
    const cuda::DevicePointer small = take(heap, 1000);  // in the chunk in front of all
    CHECK(heap.relocate(small, &moved).status == Status::bad_argument);
    CHECK(heap.relocate(blocks[0], &moved).status == Status::out_of_addresses);
    REQUIRE(heap.pin(blocks[7]).ok());
    CHECK(heap.relocate(blocks[7], &moved).status == Status::in_use);
    REQUIRE(heap.unpin(blocks[7]).ok());
    CHECK(heap.finish_relocation(blocks[7]).status == Status::not_owned);
    // The block may go before its old address does, and close() takes what was forgotten.
    REQUIRE(heap.relocate(blocks[7], &moved).ok());
    CHECK(heap.free(moved).ok());
    CHECK(heap.validate());
    REQUIRE(heap.relocate(blocks[6], &moved).ok());
    CHECK(heap.free(moved).ok());
    CHECK(heap.free(small).ok());
    CHECK(heap.finish_relocation(blocks[7]).ok());
    for (unsigned i = 0; i < 6; ++i) CHECK(heap.free(blocks[i]).ok());
    CHECK(heap.stats().live_bytes == 0);
  });
}

TEST_CASE("V7 relocation: each call of the driver may fail", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    DeviceHeap heap;
    REQUIRE(heap.open(gpu, small_heap()).ok());
    const cuda::DevicePointer low = take(heap, 10 * kMiB);
    const cuda::DevicePointer block = take(heap, 10 * kMiB - 100);  // a coarse chunk and a fine one
    fill(rig, heap, block, 5);
    REQUIRE(heap.free(low).ok());
    // What is cached at the new place is unmapped first; then both chunks are mapped, and access is allowed
    // once.
    constexpr std::pair<cuda::Call, std::uint64_t> kSteps[] = {{cuda::Call::mem_unmap, 1},
                                                               {cuda::Call::mem_unmap, 2},
                                                               {cuda::Call::mem_map, 1},
                                                               {cuda::Call::mem_map, 2},
                                                               {cuda::Call::mem_set_access, 1}};
    for (const auto& [call, nth] : kSteps) {
      INFO("call " << static_cast<int>(call) << " use " << nth);
      failing.fail({call, nth, 1, cuda::Result::unknown});
      cuda::DevicePointer moved = 0;
      CHECK(heap.relocate(block, &moved).status == Status::failed);
      failing.stop_failing();
      CHECK(heap.validate());
      CHECK(heap.size_of(block) == 10 * kMiB);
      CHECK(holds(rig, block, 5, 10 * kMiB));
    }
    cuda::DevicePointer moved = 0;
    REQUIRE(heap.relocate(block, &moved).ok());
    // The row of both mappings is refused, then each by itself; or only the first one.
    failing.fail({cuda::Call::mem_unmap, 1, 3, cuda::Result::unknown});
    CHECK(heap.finish_relocation(block).status == Status::failed);
    CHECK(holds(rig, block, 5, 10 * kMiB));
    failing.fail({cuda::Call::mem_unmap, 1, 2, cuda::Result::unknown});
    CHECK(heap.finish_relocation(block).status == Status::failed);
    CHECK(holds(rig, block, 5, 8 * kMiB));
    CHECK(heap.validate());
    CHECK(heap.finish_relocation(block).ok());
    CHECK(holds(rig, moved, 5, 10 * kMiB));
    CHECK(heap.free(moved).ok());
    CHECK(heap.validate());
  });
}

}  // namespace
}  // namespace device_test
