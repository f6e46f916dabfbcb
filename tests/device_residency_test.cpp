// Oversubscription behind stable addresses: leases, evictions with and without a copy, the host and the disk
// behind the device, sleeping and waking. Contents are looked at, not counters alone.
#include "tests/device_residency_rig.h"

namespace device_test {
namespace {

TEST_CASE("B2 the table of a chunk's moves: each pair is allowed or refused", "[device]") {
  // From, move, to: everything that is allowed. All other pairs are refused.
  struct Row {
    ChunkState from;
    ChunkMove move;
    ChunkState to;
  };
  using enum ChunkState;
  constexpr Row kAllowed[] = {
      {absent, ChunkMove::allocate, unbacked},       {unbacked, ChunkMove::begin_fetch, fetching},
      {in_host, ChunkMove::begin_fetch, fetching},   {on_disk, ChunkMove::begin_fetch, fetching},
      {fetching, ChunkMove::arrive, resident},       {resident, ChunkMove::begin_evict, evicting},
      {evicting, ChunkMove::stay, resident},         {evicting, ChunkMove::leave_to_host, in_host},
      {fetching, ChunkMove::leave_to_host, in_host}, {evicting, ChunkMove::leave_to_disk, on_disk},
      {fetching, ChunkMove::leave_to_disk, on_disk}, {evicting, ChunkMove::leave_blank, unbacked},
      {fetching, ChunkMove::leave_blank, unbacked},  {in_host, ChunkMove::spill, on_disk},
      {on_disk, ChunkMove::load, in_host},           {evicting, ChunkMove::discard, unbacked},
      {in_host, ChunkMove::discard, unbacked},       {on_disk, ChunkMove::discard, unbacked},
      {unbacked, ChunkMove::free, absent},
  };
  unsigned allowed = 0;
  for (unsigned from = 0; from < kChunkStates; ++from) {
    for (unsigned move = 0; move < kChunkMoves; ++move) {
      const Row* expected = nullptr;
      for (const Row& row : kAllowed) {
        const bool is_it =
            row.from == static_cast<ChunkState>(from) && row.move == static_cast<ChunkMove>(move);
        if (is_it) expected = &row;
      }
      ChunkState to = ChunkState::absent;
      const bool is_allowed = next_state(static_cast<ChunkState>(from), static_cast<ChunkMove>(move), &to);
      INFO(name_of(static_cast<ChunkState>(from)) << ", move " << move);
      CHECK(is_allowed == (expected != nullptr));
      if (is_allowed && expected != nullptr) CHECK(to == expected->to);
      allowed += is_allowed ? 1 : 0;
    }
  }
  CHECK(allowed == std::size(kAllowed));
  CHECK(is_consistent(in_host, {false, true, true}));
  CHECK_FALSE(is_consistent(in_host, {false, false, true}));
  CHECK_FALSE(is_consistent(on_disk, {false, true, true}));
  CHECK_FALSE(is_consistent(resident, {false, true, false}));
  CHECK_FALSE(is_consistent(unbacked, {true, false, false}));
}

TEST_CASE("1-4 residency: wrong options and arguments are refused", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ResidentRig at(gpu, {});
    ResidencyOptions options = at.heap_options();
    ResidentHeap other;
    options.pool = nullptr;
    CHECK(other.open(gpu, options).status == Status::bad_argument);
    options = at.heap_options();
    options.budget_bytes = kGranule - 1;
    CHECK(other.open(gpu, options).status == Status::bad_argument);
    options = at.heap_options();
    options.host_bytes = 0;
    CHECK(other.open(gpu, options).status == Status::bad_argument);
    options = at.heap_options();
    options.in_flight = 5;
    CHECK(other.open(gpu, options).status == Status::bad_argument);
    options = at.heap_options();
    options.directory = "/nowhere/at/all";
    CHECK(other.open(gpu, options).status == Status::io_error);
    cuda::DevicePointer address = 0;
    CHECK(other.allocate(kGranule, 0, &address).status == Status::bad_argument);

    CHECK(at.heap.allocate(0, 0, &address).status == Status::bad_argument);
    CHECK(at.heap.allocate(UINT64_MAX, 0, &address).status == Status::out_of_addresses);
    CHECK(at.heap.allocate(17 * kGranule, 0, &address).status == Status::out_of_addresses);
    address = at.make(2);
    Lease lease;
    const cuda::Stream stream = rig.stream();
    CHECK(at.heap.acquire({}, stream, &lease).status == Status::bad_argument);
    CHECK(at.acquire(address + 4 * kGranule, Access::read, stream, &lease).status == Status::not_owned);
    CHECK(at.acquire(7, Access::read, stream, &lease).status == Status::not_owned);
    const ChunkUse beyond{address, 3 * kGranule, Access::read};
    CHECK(at.heap.acquire({&beyond, 1}, stream, &lease).status == Status::bad_argument);
    CHECK(at.heap.release(Lease{}).status == Status::not_owned);
    CHECK(at.heap.free(address + kGranule).status == Status::not_owned);
    REQUIRE(at.acquire(address, Access::write, stream, &lease).ok());
    CHECK(at.heap.free(address).status == Status::in_use);
    REQUIRE(at.heap.release(lease).ok());
    CHECK(at.heap.release(lease).status == Status::not_owned);
    CHECK(at.heap.free(address).ok());
    CHECK(at.heap.free(address).status == Status::double_free);
    CHECK(at.heap.validate());
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("G18 more than the device and the host hold, and each word is right", "[device]") {
  PageFolder folder;
  for (const unsigned in_flight : {1u, 3u, 4u}) {
    on_gpu(gpu_test::small(), [&](Rig& rig, Gpu& gpu) {
      HeapSize size;
      size.chunks = 24;
      size.directory = folder.path();
      size.in_flight = in_flight;
      ResidentRig at(gpu, size);
      const cuda::Stream stream = rig.stream();
      std::vector<cuda::DevicePointer> all;
      for (std::uint32_t i = 0; i < 12; ++i) {
        all.push_back(at.make(2));
        REQUIRE(fill(at, rig.driver, all.back(), 1000 + i, stream).ok());
        CHECK(at.heap.validate());
      }
      CHECK(in_state(at, ChunkState::resident) == 4);
      CHECK(in_state(at, ChunkState::in_host) == 8);
      CHECK(in_state(at, ChunkState::on_disk) == 12);
      for (int round = 0; round < 2; ++round) {
        for (std::uint32_t i = 0; i < 12; ++i) CHECK(holds(at, rig.driver, all[i], 1000 + i, stream));
        CHECK(at.heap.validate());
      }
      CHECK(at.pool.stats().created == 4);
      CHECK(at.pool.stats().released == 0);
      CHECK(at.heap.stats().fetches_disk > 0);
      CHECK(at.heap.stats().disk_bytes_written > 0);
      for (const cuda::DevicePointer address : all) CHECK(at.heap.free(address).ok());
      CHECK(at.heap.validate());
      CHECK(at.heap.stats().file_chunks == 0);
      CHECK(rig.driver.stream_destroy(stream) == Result::success);
    });
  }
}

TEST_CASE("B3 a clean chunk leaves without a copy, and asking twice moves once", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ResidentRig at(gpu, {});
    const cuda::Stream stream = rig.stream();
    const cuda::DevicePointer first = at.make(4), second = at.make(4);
    REQUIRE(fill(at, rig.driver, first, 1, stream).ok());
    REQUIRE(fill(at, rig.driver, second, 2, stream).ok());
    CHECK(at.heap.stats().evictions_dirty == 4);
    REQUIRE(holds(at, rig.driver, first, 1, stream));   // second leaves: dirty
    REQUIRE(holds(at, rig.driver, second, 2, stream));  // first leaves: clean
    const ResidencyStats before = at.heap.stats();
    for (int i = 0; i < 3; ++i) {
      CHECK(holds(at, rig.driver, first, 1, stream));
      CHECK(holds(at, rig.driver, first, 1, stream));
      CHECK(holds(at, rig.driver, second, 2, stream));
    }
    const ResidencyStats after = at.heap.stats();
    CHECK(after.mover.bytes_out == before.mover.bytes_out);
    CHECK(after.evictions_clean == before.evictions_clean + 24);
    CHECK(after.mover.copies_in == before.mover.copies_in + 24);
    CHECK(after.hits == before.hits + 3);
    // A write lease makes the copy on the host stale: the next eviction copies.
    Lease lease;
    REQUIRE(at.acquire(second, Access::write, stream, &lease).ok());
    REQUIRE(rig.driver.memset_d32_async(second, 3, kGranule, stream) == Result::success);
    REQUIRE(at.heap.release(lease).ok());
    CHECK(holds(at, rig.driver, first, 1, stream));
    CHECK(at.heap.stats().evictions_dirty == before.evictions_dirty + 4);
    CHECK(holds(at, rig.driver, second, 3, stream));
    CHECK(at.heap.validate());
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("B3 what will be overwritten is not fetched, but for chunks covered in part", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ResidentRig at(gpu, {});
    const cuda::Stream stream = rig.stream();
    const cuda::DevicePointer first = at.make(3), second = at.make(4);
    REQUIRE(fill(at, rig.driver, first, 1, stream).ok());
    REQUIRE(fill(at, rig.driver, second, 2, stream).ok());
    const std::uint64_t before = at.heap.stats().mover.copies_in;
    Lease lease;
    const ChunkUse use{first + kGranule / 2, 2 * kGranule, Access::discard};
    REQUIRE(at.heap.acquire({&use, 1}, stream, &lease).ok());
    CHECK(at.heap.stats().mover.copies_in == before + 2);
    CHECK(at.heap.stats().fetches_discard == 1);
    REQUIRE(rig.driver.memset_d32_async(use.address, 9, 2 * kGranule / 4, stream) == Result::success);
    REQUIRE(at.heap.release(lease).ok());
    REQUIRE(holds(at, rig.driver, second, 2, stream));
    REQUIRE(at.acquire(first, Access::read, stream, &lease).ok());
    CHECK(rig.read_word(first) == 1);
    CHECK(rig.read_word(first + kGranule / 2 - 4) == 1);
    CHECK(rig.read_word(first + kGranule / 2) == 9);
    CHECK(rig.read_word(first + 2 * kGranule) == 9);
    CHECK(rig.read_word(first + 3 * kGranule - 4) == 1);
    REQUIRE(at.heap.release(lease).ok());
    CHECK(at.heap.validate());
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("P3 a working set above the budget is refused with numbers and changes nothing", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ResidentRig at(gpu, {});
    const cuda::Stream stream = rig.stream();
    const cuda::DevicePointer held = at.make(2), large = at.make(3), huge = at.make(5);
    REQUIRE(fill(at, rig.driver, held, 1, stream).ok());
    REQUIRE(fill(at, rig.driver, large, 2, stream).ok());
    Lease lease, other;
    REQUIRE(at.acquire(held, Access::read, stream, &lease).ok());
    const ResidencyStats before = at.heap.stats();
    Shortfall shortfall;
    ChunkUse use{huge, 0, Access::read};
    CHECK(at.heap.acquire({&use, 1}, stream, &other, &shortfall).status == Status::over_budget);
    CHECK(shortfall.needed_bytes == 5 * kGranule);
    CHECK(shortfall.pinned_bytes == 2 * kGranule);
    CHECK(shortfall.budget_bytes == 4 * kGranule);
    char memory[200];
    glebe::Text text(memory);
    shortfall.describe(text);
    CHECK(std::string(text.c_str()) ==
          "10.0 MiB needed, 4.0 MiB pinned by others, of a budget of 8.0 MiB; 12.0 MiB of 16.0 MiB free on "
          "the host");
    use.address = large;
    CHECK(at.heap.acquire({&use, 1}, stream, &other, &shortfall).status == Status::over_budget);
    const ResidencyStats after = at.heap.stats();
    CHECK(std::equal(std::begin(before.chunks), std::end(before.chunks), std::begin(after.chunks)));
    CHECK(after.mover.copies_out == before.mover.copies_out);
    CHECK(after.over_budget == before.over_budget + 2);
    CHECK(after.pinned_chunks == 2);
    CHECK(at.heap.validate());
    REQUIRE(at.heap.release(lease).ok());
    CHECK(holds(at, rig.driver, large, 2, stream));
    CHECK(holds(at, rig.driver, held, 1, stream));
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("P3 without a file the host tier is the end, and nothing is lost", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    HeapSize size;
    size.slots = 2;
    size.resident = 3;
    ResidentRig at(gpu, size);
    const cuda::Stream stream = rig.stream();
    std::vector<cuda::DevicePointer> all;
    for (std::uint32_t i = 0; i < 6; ++i) all.push_back(at.make(1));
    for (std::uint32_t i = 0; i < 5; ++i) REQUIRE(fill(at, rig.driver, all[i], i, stream).ok());
    const ResidencyStats before = at.heap.stats();
    Lease lease;
    CHECK(at.acquire(all[5], Access::write, stream, &lease).status == Status::out_of_memory);
    const ResidencyStats after = at.heap.stats();
    CHECK(std::equal(std::begin(before.chunks), std::end(before.chunks), std::begin(after.chunks)));
    CHECK(at.heap.validate());
    // A dirty chunk cannot leave while both slots hold the only copy of others; what is there is right.
    for (std::uint32_t i = 2; i < 5; ++i) CHECK(holds(at, rig.driver, all[i], i, stream));
    CHECK(at.heap.free(all[4]).ok());
    for (std::uint32_t i = 0; i < 4; ++i) CHECK(holds(at, rig.driver, all[i], i, stream));
    CHECK(at.heap.validate());
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("X9 set_budget shrinks by eviction and grows again", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ResidentRig at(gpu, {});
    const cuda::Stream stream = rig.stream();
    const cuda::DevicePointer first = at.make(2), second = at.make(2);
    REQUIRE(fill(at, rig.driver, first, 1, stream).ok());
    REQUIRE(fill(at, rig.driver, second, 2, stream).ok());
    CHECK(at.heap.set_budget(kGranule - 1).status == Status::bad_argument);
    REQUIRE(at.heap.set_budget(2 * kGranule).ok());
    CHECK(in_state(at, ChunkState::resident) == 2);
    CHECK(at.pool.stats().idle_chunks == 2);
    CHECK(at.pool.trim(0) == 2 * kGranule);
    CHECK(rig.emulated->usage().device_bytes == 2 * kGranule);
    Lease lease;
    REQUIRE(at.acquire(first, Access::read, stream, &lease).ok());
    CHECK(at.heap.set_budget(kGranule).status == Status::over_budget);
    CHECK(at.heap.stats().budget_bytes == 2 * kGranule);
    REQUIRE(at.heap.release(lease).ok());
    CHECK(holds(at, rig.driver, second, 2, stream));
    CHECK(holds(at, rig.driver, first, 1, stream));
    REQUIRE(at.heap.set_budget(4 * kGranule).ok());
    CHECK(holds(at, rig.driver, second, 2, stream));
    CHECK(in_state(at, ChunkState::resident) == 4);
    CHECK(at.heap.validate());
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("X9 sleep and wake keep addresses and contents, by tag; level 2 gives contents up", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ResidentRig at(gpu, {});
    const cuda::Stream stream = rig.stream();
    const cuda::DevicePointer weights = at.make(2, 7), cache = at.make(2, 8);
    REQUIRE(fill(at, rig.driver, weights, 1, stream).ok());
    REQUIRE(fill(at, rig.driver, cache, 2, stream).ok());
    Lease lease;
    REQUIRE(at.acquire(weights, Access::read, stream, &lease).ok());
    CHECK(at.heap.sleep(7, 1).status == Status::in_use);
    CHECK(at.heap.sleep(7, 2).status == Status::in_use);
    CHECK(at.heap.sleep(7, 3).status == Status::bad_argument);
    REQUIRE(at.heap.release(lease).ok());
    REQUIRE(at.heap.sleep(7, 1).ok());
    CHECK(at.heap.state_of(weights) == ChunkState::in_host);
    CHECK(at.heap.state_of(cache) == ChunkState::resident);
    REQUIRE(at.heap.sleep(8, 2).ok());
    CHECK(at.heap.state_of(cache) == ChunkState::unbacked);
    CHECK(at.pool.trim(0) == 4 * kGranule);
    CHECK(rig.emulated->usage().device_bytes == 0);
    REQUIRE(at.heap.wake(7).ok());
    CHECK(at.heap.state_of(weights) == ChunkState::resident);
    CHECK(at.heap.state_of(cache) == ChunkState::unbacked);
    REQUIRE(at.heap.wake(kAllTags).ok());
    CHECK(at.heap.state_of(cache + kGranule) == ChunkState::resident);
    const std::uint64_t moved = at.heap.stats().mover.copies_in;
    REQUIRE(at.heap.wake(kAllTags).ok());  // nothing sleeps any more
    CHECK(at.heap.stats().mover.copies_in == moved);
    CHECK(moved == 2);
    CHECK(holds(at, rig.driver, weights, 1, stream));
    // Read only since: the second sleep moves nothing.
    const std::uint64_t out = at.heap.stats().mover.copies_out;
    REQUIRE(at.heap.sleep(7, 1).ok());
    CHECK(at.heap.stats().mover.copies_out == out);
    REQUIRE(at.heap.set_budget(kGranule).ok());
    Shortfall shortfall;
    CHECK(at.heap.wake(7, &shortfall).status == Status::over_budget);
    CHECK(shortfall.needed_bytes == 2 * kGranule);
    REQUIRE(at.heap.set_budget(2 * kGranule).ok());
    CHECK(at.heap.wake(7).ok());
    CHECK(holds(at, rig.driver, weights, 1, stream));
    CHECK(at.heap.validate());
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("X9 a physical pin keeps the memory behind an address", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ResidentRig at(gpu, {});
    const cuda::Stream stream = rig.stream();
    const cuda::DevicePointer shared = at.make(2), other = at.make(2), third = at.make(2);
    REQUIRE(fill(at, rig.driver, shared, 1, stream).ok());
    CHECK(at.heap.pin_physical(shared + kGranule).status == Status::not_owned);
    CHECK(at.heap.unpin_physical(shared).status == Status::not_owned);
    REQUIRE(at.heap.pin_physical(shared).ok());
    REQUIRE(at.heap.pin_physical(shared).ok());
    const std::uint32_t generation = at.heap.generation_of(shared);
    for (std::uint32_t round = 0; round < 3; ++round) {
      REQUIRE(fill(at, rig.driver, other, 2 + round, stream).ok());
      REQUIRE(fill(at, rig.driver, third, 9, stream).ok());
      REQUIRE(holds(at, rig.driver, other, 2 + round, stream));
    }
    CHECK(at.heap.generation_of(shared) == generation);
    CHECK(at.heap.free(shared).status == Status::in_use);
    CHECK(at.heap.sleep(kAllTags, 1).status == Status::in_use);
    CHECK(at.heap.set_budget(kGranule).status == Status::over_budget);
    REQUIRE(at.heap.unpin_physical(shared).ok());
    CHECK(at.heap.set_budget(kGranule).status == Status::over_budget);
    REQUIRE(at.heap.unpin_physical(shared).ok());
    REQUIRE(at.heap.set_budget(kGranule).ok());
    CHECK(at.heap.generation_of(shared) != generation);
    REQUIRE(at.heap.set_budget(2 * kGranule).ok());
    CHECK(holds(at, rig.driver, shared, 1, stream));
    CHECK(at.heap.validate());
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

struct Notes {
  std::vector<MoveNote> told;
};

TEST_CASE("X9 moves are told before and after, with the generation", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ResidentRig at(gpu, {});
    Notes notes;
    ResidencyOptions options = at.heap_options();
    options.context = &notes;
    options.on_move = [](void* context, const MoveNote& note) {
      static_cast<Notes*>(context)->told.push_back(note);
    };
    REQUIRE(at.heap.open(gpu, options).ok());
    const cuda::Stream stream = rig.stream();
    const cuda::DevicePointer address = at.make(1, 3);
    REQUIRE(fill(at, rig.driver, address, 1, stream).ok());
    REQUIRE(at.heap.sleep(3, 1).ok());
    REQUIRE(at.heap.wake(3).ok());
    REQUIRE(notes.told.size() == 6);
    for (unsigned i = 0; i < 6; ++i) {
      CHECK(notes.told[i].address == address);
      CHECK(notes.told[i].size_bytes == kGranule);
      CHECK(notes.told[i].is_done == (i % 2 == 1));
      CHECK(notes.told[i].is_leaving == (i == 2 || i == 3));
      CHECK(notes.told[i].generation == (i + 1) / 2);
    }
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

// Which of five chunks of a budget of three are resident after a fixed order of uses.
std::string resident_after(VictimOrder order, const char* uses) {
  std::string names;
  on_gpu(gpu_test::small(), [&](Rig& rig, Gpu& gpu) {
    HeapSize size;
    size.resident = 3;
    size.order = order;
    ResidentRig at(gpu, size);
    const cuda::Stream stream = rig.stream();
    std::vector<cuda::DevicePointer> all;
    for (int i = 0; i < 5; ++i) all.push_back(at.make(1));
    for (const char* use = uses; *use != 0; ++use) {
      const bool is_write = *use >= 'A' && *use <= 'E';
      const cuda::DevicePointer address = all[static_cast<unsigned>(*use - (is_write ? 'A' : 'a'))];
      Lease lease;
      REQUIRE(at.acquire(address, is_write ? Access::write : Access::read, stream, &lease).ok());
      REQUIRE(at.heap.release(lease).ok());
    }
    for (unsigned i = 0; i < 5; ++i) {
      if (at.heap.state_of(all[i]) == ChunkState::resident) names += static_cast<char>('a' + i);
    }
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
  return names;
}

TEST_CASE("G6 which chunk leaves: lru, clock, age and cost", "[device]") {
  CHECK(resident_after(VictimOrder::lru, "ABCaD") == "acd");
  CHECK(resident_after(VictimOrder::lru, "ABCabD") == "abd");
  CHECK(resident_after(VictimOrder::clock, "ABCaD") == "acd");
  CHECK(resident_after(VictimOrder::age, "ABCaD") == "acd");
  // A written chunk costs two copies to have away and back, a clean one costs one: c came back and was only
  // read.
  CHECK(resident_after(VictimOrder::cost, "ABCDc").find('c') != std::string::npos);
  CHECK(resident_after(VictimOrder::cost, "CABDcBDcBE").find('c') == std::string::npos);
  CHECK(resident_after(VictimOrder::lru, "CABDcBDcBE").find('c') != std::string::npos);
}

TEST_CASE("X9 prefetch brings chunks without a pin, and moves nothing twice", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    ResidentRig at(gpu, {});
    const cuda::Stream stream = rig.stream();
    const cuda::DevicePointer first = at.make(4), second = at.make(4);
    REQUIRE(fill(at, rig.driver, first, 1, stream).ok());
    REQUIRE(fill(at, rig.driver, second, 2, stream).ok());
    const ChunkUse use{first, 2 * kGranule, Access::write};
    REQUIRE(at.heap.prefetch({&use, 1}, stream).ok());
    CHECK(at.heap.stats().pinned_chunks == 0);
    CHECK(at.heap.stats().live_leases == 0);
    CHECK(at.heap.state_of(first) == ChunkState::resident);
    CHECK(at.heap.state_of(first + 2 * kGranule) == ChunkState::in_host);
    const std::uint64_t moved = at.heap.stats().mover.copies_in;
    CHECK(moved == 2);
    CHECK(holds(at, rig.driver, first, 1, stream));
    CHECK(at.heap.stats().mover.copies_in == 4);
    // A hint is no write: what was prefetched is clean.
    CHECK(holds(at, rig.driver, second, 2, stream));
    CHECK(at.heap.stats().evictions_clean == 4);
    CHECK(at.heap.validate());
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  });
}

}  // namespace
}  // namespace device_test
