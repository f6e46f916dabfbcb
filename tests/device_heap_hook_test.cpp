// A device heap while a call of the driver is under way, and when the driver did a part of what it was asked.
// What would break: a block that somebody else pins while it grows, or a mapping that is gone and counts as
// kept.
#include <algorithm>
#include <chrono>
#include <functional>
#include <future>

#include "tests/heap_rig.h"

namespace device_test {
namespace {

// Stands in front of a driver and has something done within its calls.
struct HookedDriver {
  cuda::Driver inner;
  std::function<void()> on_map;  // once, before the next mapping is made
  std::function<void()> on_unmap;
  bool is_map_failing = false;    // then that mapping is not made
  bool is_unmap_partial = false;  // the next row of mappings loses its first one, and the call fails
  std::size_t first_bytes = kGranule;

  [[nodiscard]] cuda::Driver driver() {
    cuda::Driver table = inner;
    table.mem_map = {this, [](void* self, cuda::DevicePointer address, std::size_t size_bytes,
                              std::size_t offset_bytes, cuda::MemoryHandle handle, unsigned long long flags) {
                       auto& own = *static_cast<HookedDriver*>(self);
                       const std::function<void()> hook = std::exchange(own.on_map, nullptr);
                       if (hook) hook();
                       if (hook && own.is_map_failing) return cuda::Result::unknown;
                       return own.inner.mem_map(address, size_bytes, offset_bytes, handle, flags);
                     }};
    table.mem_unmap = {this, [](void* self, cuda::DevicePointer address, std::size_t size_bytes) {
                         auto& own = *static_cast<HookedDriver*>(self);
                         if (const auto hook = std::exchange(own.on_unmap, nullptr)) hook();
                         if (!own.is_unmap_partial || size_bytes <= own.first_bytes) {
                           return own.inner.mem_unmap(address, size_bytes);
                         }
                         own.is_unmap_partial = false;
                         CHECK(own.inner.mem_unmap(address, own.first_bytes) == cuda::Result::success);
                         return cuda::Result::unknown;
                       }};
    return table;
  }
};

template <class Body>
void on_hooked(Body body) {
  gpu_test::on_emulator(gpu_test::small(), [&](Rig& rig) {
    HookedDriver hooked;
    hooked.inner = rig.driver;
    Gpu gpu;
    REQUIRE(gpu.open(hooked.driver()).ok());
    {
      DeviceHeap heap;
      REQUIRE(heap.open(gpu, small_heap()).ok());
      body(rig, heap, hooked);
      CHECK(heap.validate());
      CHECK(heap.close() == 0);
    }
    gpu.close();
    CHECK(rig.emulated->usage().undefined_calls == 0);
  });
}

TEST_CASE("L6 P16 device heap: nobody pins or frees a block while it grows", "[device]") {
  for (const bool is_failing : {false, true}) {
    INFO("the growth fails: " << is_failing);
    on_hooked([is_failing](Rig& rig, DeviceHeap& heap, HookedDriver& hooked) {
      const cuda::DevicePointer block = take(heap, kMiB);
      fill(rig, heap, block, 3);
      hooked.is_map_failing = is_failing;
      bool was_called = false;
      hooked.on_map = [&] {  // as another thread may
        was_called = true;
        cuda::DevicePointer moved = 0;
        CHECK(heap.pin(block).status == Status::in_use);
        CHECK(heap.free(block).status == Status::in_use);
        CHECK(heap.shrink(block, 100).status == Status::in_use);
        CHECK(heap.grow_in_place(block, 20 * kMiB).status == Status::in_use);
        CHECK(heap.relocate(block, &moved).status == Status::in_use);
        CHECK(heap.finish_relocation(block).status == Status::not_owned);
        HeapMove move;
        std::size_t count = 0;
        HeapPassOptions all;
        all.fill_max_percent = 100;
        CHECK(heap.begin_pass(all, {&move, 1}, &count).ok());
        CHECK(count == 0);
        heap.end_pass({});
      };
      CHECK(heap.grow_in_place(block, 5 * kMiB).ok() == !is_failing);
      CHECK(was_called);
      CHECK(heap.validate());
      CHECK(heap.size_of(block) == (is_failing ? kMiB : 5 * kMiB));
      CHECK(holds(rig, block, 3, kMiB));
      CHECK(heap.pin(block).ok());
      CHECK(heap.unpin(block).ok());
      CHECK(heap.free(block).ok());
      CHECK(heap.stats().space.cached_bytes == heap.stats().space.mapped_bytes);
    });
  }
}

// Bytes that the chunks of no run have, counted one by one; `other` are places that belong to nobody yet.
std::uint64_t idle_by_count(DeviceHeap& heap, const std::vector<HeapMove>& other) {
  std::vector<bool> is_used(heap.space().chunk_count());
  const auto mark = [&](cuda::DevicePointer address, std::uint64_t size_bytes) {
    const ChunkRange chunks = heap.space().chunks_of({address - heap.space().base(), size_bytes});
    for (std::uint32_t at = chunks.first; at < chunks.end; ++at) is_used[at] = true;
  };
  std::vector<HeapBlock> blocks;
  heap.walk(
      [](void* context, const HeapBlock& block) {
        static_cast<std::vector<HeapBlock>*>(context)->push_back(block);
        return true;
      },
      &blocks);
  for (const HeapBlock& block : blocks) mark(block.address, block.size_bytes);
  for (const HeapMove& move : other) {
    mark(move.from, move.size_bytes);
    mark(move.to, move.size_bytes);
  }
  std::uint64_t used_bytes = 0;
  for (std::uint32_t at = 0; at < heap.space().chunk_count(); ++at) {
    if (is_used[at] && heap.space().is_mapped({at, at + 1})) used_bytes += kGranule;
  }
  return heap.stats().space.held_bytes - used_bytes;
}

TEST_CASE("K1 device heap: what idles, counted again while blocks move and grow", "[device]") {
  on_hooked([](Rig&, DeviceHeap& heap, HookedDriver& hooked) {
    std::vector<cuda::DevicePointer> blocks, fillers;
    for (int i = 0; i < 10; ++i) {
      blocks.push_back(take(heap, 200 * kKiB));
      fillers.push_back(take(heap, kGranule - 200 * kKiB));
    }
    const cuda::DevicePointer large = take(heap, 8 * kMiB);  // a coarse chunk
    CHECK(heap.shrink(large, 3 * kMiB).ok());
    const auto check = [&heap](const std::vector<HeapMove>& other) {
      const DeviceHeapStats stats = heap.stats();
      CHECK(stats.idle_bytes == idle_by_count(heap, other));
      return stats.idle_bytes;
    };
    check({});
    for (const cuda::DevicePointer filler : fillers) CHECK(heap.free(filler).ok());
    check({});
    std::vector<HeapMove> moves(16);
    std::size_t count = 0;
    CHECK(heap.begin_pass({}, moves, &count).ok());
    CHECK(count > 4);
    moves.resize(count);
    check(moves);
    moves[0].is_cancelled = true;
    heap.commit_pass(moves);
    check(moves);
    heap.end_pass(moves);
    for (const HeapMove& move : moves) {
      if (!move.is_cancelled) *std::find(blocks.begin(), blocks.end(), move.from) = move.to;
    }
    const std::uint64_t idle_bytes = check({});
    // A request of that size is met by what is there, but for what the coarse chunk keeps.
    CHECK(idle_bytes == heap.stats().space.idle_bytes + heap.stats().space.cached_bytes + 4 * kMiB);
    CHECK(heap.trim(0) == idle_bytes - 4 * kMiB);
    hooked.on_map = [&heap] { CHECK(heap.stats().idle_bytes <= 4 * kMiB); };  // what is being mapped does not
    const cuda::DevicePointer other = take(heap, 14 * kMiB);
    CHECK(hooked.on_map == nullptr);  // its chunks were mapped
    check({});
    CHECK(heap.free(other).ok());
    CHECK(heap.free(large).ok());
    for (const cuda::DevicePointer block : blocks) CHECK(heap.free(block).ok());
    CHECK(check({}) == heap.stats().space.held_bytes);
  });
}

TEST_CASE("V7 device heap: a row of which the driver unmapped a part", "[device]") {
  on_hooked([](Rig& rig, DeviceHeap& heap, HookedDriver& hooked) {
    const cuda::DevicePointer block = take(heap, 6 * kMiB);
    CHECK(heap.free(block).ok());
    hooked.is_unmap_partial = true;
    CHECK(heap.trim(0) == 6 * kMiB);
    CHECK(rig.emulated->usage().mappings == 0);
    CHECK(rig.emulated->usage().handles == 0);
    CHECK(heap.stats().space.mapped_bytes == 0);
    CHECK(heap.validate());
    // Nothing is placed where nothing is mapped.
    const cuda::DevicePointer again = take(heap, 6 * kMiB);
    fill(rig, heap, again, 1);
    CHECK(holds(rig, again, 1, 6 * kMiB));
    CHECK(heap.free(again).ok());
  });
}

namespace {

struct Relocated {
  cuda::DevicePointer block, moved;
};

// A block of 6 MiB, filled with pattern 2, that has a second address where another one was.
Relocated relocated(Rig& rig, DeviceHeap& heap) {
  const cuda::DevicePointer low = take(heap, 6 * kMiB);
  const cuda::DevicePointer block = take(heap, 6 * kMiB);
  CHECK(heap.free(low).ok());
  fill(rig, heap, block, 2);
  cuda::DevicePointer moved = 0;
  REQUIRE(heap.relocate(block, &moved).ok());
  return {block, moved};
}

}  // namespace

TEST_CASE("1-6 relocation: two threads finish the same one", "[device]") {
  on_hooked([](Rig& rig, DeviceHeap& heap, HookedDriver& hooked) {
    const Relocated both = relocated(rig, heap);
    const cuda::DevicePointer block = both.block, moved = both.moved;
    std::future<Outcome> other;
    hooked.on_unmap = [&] {
      other = std::async(std::launch::async, [&] { return heap.finish_relocation(block); });
      CHECK(other.wait_for(std::chrono::seconds(2)) == std::future_status::ready);  // waits for nothing
    };
    CHECK(heap.finish_relocation(block).ok());
    REQUIRE(other.valid());
    CHECK(other.get().status == Status::not_owned);
    CHECK(heap.validate());
    CHECK(holds(rig, moved, 2, 6 * kMiB));
    CHECK(heap.free(moved).ok());
  });
}

TEST_CASE("V7 relocation: an old address of which the driver unmapped a part", "[device]") {
  on_hooked([](Rig& rig, DeviceHeap& heap, HookedDriver& hooked) {
    const Relocated both = relocated(rig, heap);
    const cuda::DevicePointer block = both.block, moved = both.moved;
    hooked.is_unmap_partial = true;
    CHECK(heap.finish_relocation(block).ok());
    CHECK(heap.validate());
    CHECK(rig.emulated->usage().mappings == 3);
    CHECK(holds(rig, moved, 2, 6 * kMiB));
    CHECK(heap.free(moved).ok());
  });
}

}  // namespace
}  // namespace device_test
