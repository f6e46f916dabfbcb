// Compaction of the device heap: what did not fit fits afterwards, contents are where the moves say, figures
// are those of what happened, and a copy that fails changes nothing.
#include <algorithm>
#include <map>

#include "src/device/defragment.h"
#include "tests/heap_rig.h"
#include "tests/random.h"

namespace device_test {
namespace {

// A program that knows its blocks: each is full of words of its own, and its pointers follow the moves.
struct Program {
  struct Block {
    std::uint32_t number = 0;
    std::uint64_t size_bytes = 0, align_bytes = 0;
  };
  Rig* rig = nullptr;
  DeviceHeap* heap = nullptr;
  std::map<cuda::DevicePointer, Block> blocks;
  std::uint32_t added = 0;
  std::uint64_t moved_bytes = 0, moves = 0;

  cuda::DevicePointer add(std::uint64_t size_bytes, std::uint64_t align_bytes = 0) {
    const cuda::DevicePointer address = take(*heap, size_bytes, align_bytes);
    const Block block{++added, size_bytes, align_bytes};
    fill(*rig, *heap, address, block.number);
    blocks[address] = block;
    return address;
  }
  void remove(cuda::DevicePointer address) {
    REQUIRE(heap->free(address).ok());
    blocks.erase(address);
  }
  void verify() const {
    for (const auto& [address, block] : blocks) {
      const std::uint64_t usable_bytes = glebe::align_up(block.size_bytes, 256);
      REQUIRE(heap->size_of(address) == usable_bytes);
      REQUIRE(holds(*rig, address, block.number, usable_bytes));
      REQUIRE((block.align_bytes == 0 || address % block.align_bytes == 0));
    }
  }
  void end() {
    while (!blocks.empty()) remove(blocks.begin()->first);
  }
  DefragmentOptions options() {
    DefragmentOptions options;
    options.context = this;
    options.may_move = [](void*, const HeapBlock&) { return true; };
    options.moved = [](void* context, const HeapMove& move) {
      auto& own = *static_cast<Program*>(context);
      const auto node = own.blocks.extract(move.from);
      own.blocks[move.to] = node.mapped();
      own.moved_bytes += move.size_bytes;
      ++own.moves;
    };
    return options;
  }
};

template <class Body>
void on_program(Body body) {
  on_heap(small_heap(), [&](Rig& rig, DeviceHeap& heap) {
    Program program;
    program.rig = &rig;
    program.heap = &heap;
    body(program, heap);
    program.verify();
    program.end();
  });
}

// One block of `size_bytes` in each of the 16 chunks of the device.
void scatter(Program& program, std::uint64_t size_bytes) {
  std::vector<cuda::DevicePointer> fillers;
  for (int i = 0; i < 16; ++i) {
    program.add(size_bytes);
    fillers.push_back(program.add(kGranule - glebe::align_up(size_bytes, 256)));
  }
  for (const cuda::DevicePointer filler : fillers) program.remove(filler);
}

TEST_CASE("mut-C06 K1 defragmentation: what failed before succeeds after, contents intact", "[device]") {
  on_program([](Program& program, DeviceHeap& heap) {
    scatter(program, 200 * kKiB);
    CHECK(refusal(heap, 4 * kMiB) == Status::out_of_memory);
    const std::uint64_t live_bytes = heap.stats().live_bytes;
    const DefragmentResult result = defragment(heap, program.options());
    CHECK(result.outcome.ok());
    program.verify();
    CHECK(heap.validate());
    // 16 blocks of 200 KiB fill two chunks.
    CHECK(result.chunks_emptied == 14);
    CHECK(result.blocks_moved == program.moves);
    CHECK(result.bytes_moved == program.moved_bytes);
    CHECK(result.bytes_moved >= 14 * 200 * kKiB);
    CHECK(result.largest_before_bytes == kGranule - 200 * kKiB);
    CHECK(result.largest_after_bytes == 28 * kMiB);
    CHECK(heap.stats().live_bytes == live_bytes);
    CHECK(heap.stats().frees == 16);  // a move is none
    const cuda::DevicePointer large = take(heap, 28 * kMiB);
    CHECK(heap.free(large).ok());
    const DefragmentResult again = defragment(heap, program.options());
    CHECK(again.blocks_moved == 0);
    CHECK(again.bytes_moved == 0);
    CHECK(again.chunks_emptied == 0);
    CHECK(again.largest_before_bytes == again.largest_after_bytes);
  });
}

TEST_CASE("1-6 defragmentation: what must stay stays, and no more is copied than allowed", "[device]") {
  on_program([](Program& program, DeviceHeap& heap) {
    scatter(program, 200 * kKiB - 100);  // all bytes of a block are copied, asked for or not
    const cuda::DevicePointer pinned = program.blocks.rbegin()->first;
    REQUIRE(heap.pin(pinned).ok());
    DefragmentOptions options = program.options();
    options.max_bytes = 3 * 200 * kKiB;
    DefragmentResult result = defragment(heap, options);
    CHECK(result.bytes_moved == 3 * 200 * kKiB);
    CHECK(result.chunks_emptied == 3);
    CHECK(program.blocks.count(pinned) == 1);
    options = program.options();
    options.may_move = [](void*, const HeapBlock&) { return false; };
    result = defragment(heap, options);
    CHECK(result.bytes_moved == 0);
    options = program.options();
    options.fill_max_percent = 5;
    CHECK(defragment(heap, options).bytes_moved == 0);
    options.fill_max_percent = 101;
    CHECK(defragment(heap, options).outcome.status == Status::bad_argument);
    options.moved = nullptr;
    CHECK(defragment(heap, options).outcome.status == Status::bad_argument);
    CHECK(defragment(heap, program.options()).outcome.ok());
    CHECK(program.blocks.count(pinned) == 1);
    REQUIRE(heap.unpin(pinned).ok());
  });
}

TEST_CASE("1-6 defragmentation: between the two ends of a pass the blocks of it are held", "[device]") {
  on_program([](Program& program, DeviceHeap& heap) {
    scatter(program, 200 * kKiB);
    HeapMove moves[8];
    std::size_t count = 0;
    REQUIRE(heap.begin_pass({}, moves, &count).ok());
    REQUIRE(count == 8);
    std::size_t none = 0;
    CHECK(heap.begin_pass({}, moves, &none).status == Status::in_use);
    CHECK(heap.free(moves[0].from).status == Status::in_use);
    CHECK(heap.free(moves[0].to).status == Status::not_owned);
    CHECK(heap.shrink(moves[0].from, 100).status == Status::in_use);
    CHECK(heap.grow_in_place(moves[0].from, kMiB).status == Status::in_use);
    CHECK(heap.pin(moves[0].from).status == Status::in_use);
    CHECK(heap.validate());
    CHECK(heap.stats().live_blocks == 16);
    // Nobody gets what is to become empty.
    std::vector<cuda::DevicePointer> others;
    for (int i = 0; i < 20; ++i) others.push_back(take(heap, 100 * kKiB));
    for (const HeapMove& move : moves) {
      const std::uint64_t chunk = (move.from - heap.space().base()) / kGranule;
      for (const cuda::DevicePointer other : others) {
        CHECK((other - heap.space().base()) / kGranule != chunk);
      }
    }
    for (std::size_t i = 0; i < count; ++i) {
      moves[i].is_cancelled = i % 2 == 0;
      if (moves[i].is_cancelled) continue;
      REQUIRE(program.rig->driver.memcpy_d2d_async(moves[i].to, moves[i].from, moves[i].size_bytes,
                                                   nullptr) == cuda::Result::success);
      program.options().moved(&program, moves[i]);
    }
    const HeapPassResult result = heap.end_pass(moves);
    CHECK(result.blocks_moved == 4);
    CHECK(result.bytes_moved == 4 * 200 * kKiB);
    CHECK(result.chunks_emptied == 4);
    CHECK(heap.validate());
    program.verify();
    for (const cuda::DevicePointer other : others) CHECK(heap.free(other).ok());
  });
}

// What a program does in the callback of a move: it asks for both addresses and takes memory.
struct Told {
  Program* program = nullptr;
  std::vector<cuda::DevicePointer> left, taken;
  unsigned wrong = 0, freed = 0;

  void moved(const HeapMove& move) {
    DeviceHeap& heap = *program->heap;
    const auto expect = [this](bool is_so) { wrong += is_so ? 0 : 1; };
    expect(heap.size_of(move.to) == move.size_bytes);
    expect(heap.size_of(move.from) == 0);
    expect(heap.free(move.from).status == Status::not_owned);
    expect(heap.finish_relocation(move.from).status == Status::not_owned);
    expect(heap.pin(move.to).ok());
    expect(heap.unpin(move.to).ok());
    expect(heap.validate());
    left.push_back(move.from);
    program->options().moved(program, move);
    if (program->moves % 4 == 0) {
      expect(heap.free(move.to).ok());
      program->blocks.erase(move.to);
      ++freed;
    }
    cuda::DevicePointer other = 0;
    // The pointers to the other blocks are not changed yet: nobody is given what lies there.
    for (const std::uint64_t size : {200 * kKiB, kGranule}) {
      if (!heap.allocate({size, 0, 0}, &other).ok()) continue;
      taken.push_back(other);
      expect(program->blocks.count(other) == 0);
      for (const cuda::DevicePointer from : left) expect(other != from);
    }
  }
};

TEST_CASE("1-6 defragmentation: in the callback the new address is the block, the old one nobody's",
          "[device]") {
  on_program([](Program& program, DeviceHeap& heap) {
    scatter(program, 200 * kKiB);
    Told told;
    told.program = &program;
    DefragmentOptions options = program.options();
    options.context = &told;
    options.moved = [](void* context, const HeapMove& move) { static_cast<Told*>(context)->moved(move); };
    options.may_move = [](void* context, const HeapBlock& block) {
      return static_cast<Told*>(context)->program->blocks.count(block.address) != 0;
    };
    options.max_bytes = 10 * 200 * kKiB;
    const DefragmentResult result = defragment(heap, options);
    CHECK(result.outcome.ok());
    CHECK(told.wrong == 0);
    CHECK(result.blocks_moved == program.moves);
    CHECK(told.freed == program.moves / 4);
    CHECK(told.freed > 0);
    CHECK(heap.stats().frees == 16 + told.freed);
    CHECK(heap.validate());
    program.verify();
    for (const cuda::DevicePointer block : told.taken) CHECK(heap.free(block).ok());
  });
}

TEST_CASE("V7 defragmentation: a copy that fails leaves all blocks where they were", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    DeviceHeap heap;
    REQUIRE(heap.open(gpu, small_heap()).ok());
    Program program;
    program.rig = &rig;
    program.heap = &heap;
    scatter(program, 200 * kKiB);
    for (const cuda::Call call : {cuda::Call::memcpy_d2d_async, cuda::Call::stream_synchronize}) {
      for (std::uint64_t n = 1; n <= (call == cuda::Call::memcpy_d2d_async ? 14u : 1u); ++n) {
        const auto before = program.blocks;
        const DeviceHeapStats stats = heap.stats();
        failing.fail({call, n, 1, cuda::Result::unknown});
        const DefragmentResult result = defragment(heap, program.options());
        CHECK(result.outcome.status == Status::failed);
        CHECK(result.bytes_moved == 0);
        CHECK(result.largest_after_bytes == result.largest_before_bytes);
        CHECK(heap.stats().live_bytes == stats.live_bytes);
        CHECK(heap.stats().free_bytes == stats.free_bytes);
        CHECK(heap.validate());
        CHECK(std::equal(before.begin(), before.end(), program.blocks.begin(),
                         [](const auto& a, const auto& b) { return a.first == b.first; }));
        program.verify();
        failing.stop_failing();
      }
    }
    CHECK(defragment(heap, program.options()).chunks_emptied == 14);
    program.verify();
    program.end();
  });
}

// Work that was queued before a wait failed may be done at any time: others fill all memory that they are
// given, then the work is done.
void fail_to_wait(std::uint64_t seed, bool is_context_failing) {
  INFO("seed " << seed << ", the context answers " << !is_context_failing);
  on_failing_gpu(gpu_test::small(GpuSchedule::adversarial, seed),
                 [is_context_failing](Rig& rig, Gpu& gpu, FailingDriver& failing) {
                   DeviceHeap heap;
                   REQUIRE(heap.open(gpu, small_heap()).ok());
                   Program program;
                   program.rig = &rig;
                   program.heap = &heap;
                   scatter(program, 200 * kKiB);
                   DefragmentOptions options = program.options();
                   options.stream = rig.stream();
                   failing.fail({cuda::Call::stream_synchronize, 1, 1, cuda::Result::unknown});
                   if (is_context_failing)
                     failing.fail({cuda::Call::ctx_synchronize, 1, 1, cuda::Result::unknown});
                   CHECK(defragment(heap, options).outcome.status == Status::failed);
                   CHECK(program.moves == 0);
                   failing.stop_failing();
                   CHECK(heap.validate());
                   cuda::DevicePointer probe = 0;
                   while (heap.allocate({200 * kKiB, 0, 0}, &probe).ok()) {
                     REQUIRE(heap.free(probe).ok());
                     program.add(200 * kKiB);
                   }
                   // 160 blocks fill the chunks; what 14 copies may write to is nobody's while nobody knows
                   // that they are done.
                   CHECK(program.blocks.size() == (is_context_failing ? 160 - 14 : 160));
                   while (rig.emulated->run(64) != 0) {
                   }
                   program.verify();
                   program.end();
                   CHECK(heap.validate());
                   CHECK(heap.close() == 0);
                   REQUIRE(rig.driver.stream_destroy(options.stream) == cuda::Result::success);
                 });
}

TEST_CASE("V7 defragmentation: what a copy may still write to is given to nobody", "[device]") {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    for (const bool is_context_failing : {false, true}) fail_to_wait(seed, is_context_failing);
  }
}

TEST_CASE("V7 defragmentation: a stream that is captured is refused", "[device]") {
  on_failing_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    DeviceHeap heap;
    REQUIRE(heap.open(gpu, small_heap()).ok());
    Program program;
    program.rig = &rig;
    program.heap = &heap;
    scatter(program, 200 * kKiB);
    DefragmentOptions options = program.options();
    const cuda::Stream captured = rig.stream();
    options.stream = captured;
    rig.emulated->set_capture_status(captured, cuda::CaptureStatus::active);
    CHECK(defragment(heap, options).outcome.status == Status::unsupported);
    CHECK(failing.calls(cuda::Call::memcpy_d2d_async) == 0);
    CHECK(failing.calls(cuda::Call::stream_synchronize) == 0);
    rig.emulated->set_capture_status(captured, cuda::CaptureStatus::none);
    // What the default stream answers while a stream that it joins is captured.
    constexpr auto kImplicit = static_cast<cuda::Result>(906);
    failing.fail({cuda::Call::stream_is_capturing, 1, 1, kImplicit});
    options.stream = nullptr;
    const DefragmentResult refused = defragment(heap, options);
    CHECK(refused.outcome.status == Status::unsupported);
    CHECK(refused.outcome.driver == kImplicit);
    CHECK(failing.calls(cuda::Call::memcpy_d2d_async) == 0);
    failing.stop_failing();
    CHECK(program.moves == 0);
    CHECK(defragment(heap, options).chunks_emptied == 14);
    program.verify();
    program.end();
    REQUIRE(rig.driver.stream_destroy(captured) == cuda::Result::success);
  });
}

TEST_CASE("P11 defragmentation: random blocks keep contents and alignment", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  for (std::uint64_t round = 0; round < 8; ++round) {
    on_program([&](Program& program, DeviceHeap& heap) {
      Random random(seed + round);
      for (int i = 0; i < 6; ++i) {
        while (heap.stats().live_bytes < 26 * kMiB) {
          const std::uint64_t size = 4 + random.below(std::uint64_t{1} << (10 + random.below(12)));
          cuda::DevicePointer probe = 0;
          if (!heap.allocate({size, 0, 0}, &probe).ok()) break;
          REQUIRE(heap.free(probe).ok());
          program.add(size, random.one_in(5) ? std::uint64_t{256} << random.below(8) : 0);
        }
        std::vector<cuda::DevicePointer> all;
        for (const auto& [address, block] : program.blocks) all.push_back(address);
        for (const cuda::DevicePointer address : all) {
          if (!random.one_in(6)) program.remove(address);
        }
        DefragmentOptions options = program.options();
        options.fill_max_percent = static_cast<unsigned>(random.below(101));
        const std::uint64_t busy_before = heap.stats().live_bytes + heap.stats().free_bytes;
        program.moves = program.moved_bytes = 0;
        const DefragmentResult result = defragment(heap, options);
        REQUIRE(result.outcome.ok());
        REQUIRE(result.bytes_moved == program.moved_bytes);
        REQUIRE(result.blocks_moved == program.moves);
        REQUIRE(heap.stats().live_bytes + heap.stats().free_bytes ==
                busy_before - result.chunks_emptied * kGranule);
        REQUIRE(heap.validate());
        program.verify();
      }
    });
  }
}

}  // namespace
}  // namespace device_test
