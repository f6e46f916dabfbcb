// What the driver promises about its pools, on every driver: memory that is allocated and freed in the order
// of streams. What would break: memory that is not there when its stream comes to it, that goes while another
// stream uses it, or that a pool keeps for ever.
#include <vector>

#include "tests/gpu_rig.h"

using namespace gpu_test;

namespace {

bool has_pools(const Rig& rig) {
  int is_supported = 0;
  REQUIRE(rig.driver.device_get_attribute(&is_supported, DeviceAttribute::memory_pools_supported, 0) ==
          Result::success);
  return is_supported != 0;
}

PoolProperties of_device() {
  PoolProperties properties = {};
  properties.type = AllocationType::pinned;
  properties.location = {LocationType::device, 0};
  return properties;
}

MemoryPool make_pool(const Rig& rig, std::uint64_t threshold_bytes) {
  const PoolProperties properties = of_device();
  MemoryPool pool = nullptr;
  REQUIRE(rig.driver.mem_pool_create(&pool, &properties) == Result::success);
  REQUIRE(rig.driver.mem_pool_set_attribute(pool, PoolAttribute::release_threshold, &threshold_bytes) ==
          Result::success);
  return pool;
}

DevicePointer take(const Rig& rig, MemoryPool pool, std::size_t size_bytes, Stream stream) {
  DevicePointer address = 0;
  REQUIRE(rig.driver.mem_alloc_from_pool_async(&address, size_bytes, pool, stream) == Result::success);
  return address;
}

std::uint64_t number(const Rig& rig, MemoryPool pool, PoolAttribute attribute) {
  std::uint64_t value = 0;
  REQUIRE(rig.driver.mem_pool_get_attribute(pool, attribute, &value) == Result::success);
  return value;
}

TEST_CASE("X contract: memory of a pool is there in the order of its stream", "[gpu]") {
  for_each_driver([](Rig& rig) {
    if (!has_pools(rig)) return;
    const Driver& driver = rig.driver;
    const MemoryPool pool = make_pool(rig, 0);
    const Stream stream = rig.stream();
    std::uint32_t* seen = rig.pinned(20);
    for (std::uint32_t i = 0; i < 20; ++i) {
      const DevicePointer address = take(rig, pool, 1000 + 100 * kKiB * i, stream);
      CHECK(address % 256 == 0);
      REQUIRE(driver.memset_d8_async(address, 0, 1000, stream) == Result::success);
      REQUIRE(rig.store_word(address + 996, i + 1, stream) == Result::success);
      REQUIRE(driver.memcpy_d2h_async(seen + i, address + 996, 4, stream) == Result::success);
      REQUIRE(driver.mem_free_async(address, stream) == Result::success);
    }
    REQUIRE(driver.stream_synchronize(stream) == Result::success);
    for (std::uint32_t i = 0; i < 20; ++i) CHECK(seen[i] == i + 1);
    CHECK(number(rig, pool, PoolAttribute::used_mem_current) == 0);
    CHECK(driver.mem_pool_destroy(pool) == Result::success);
    CHECK(driver.stream_destroy(stream) == Result::success);
    CHECK(driver.mem_free_host(seen) == Result::success);
  });
}

TEST_CASE("X3 contract: other streams use memory of a pool between two events", "[gpu]") {
  for_each_driver([](Rig& rig) {
    if (!has_pools(rig)) return;
    const Driver& driver = rig.driver;
    const MemoryPool pool = make_pool(rig, UINT64_MAX);
    const Stream maker = rig.stream(), user = rig.stream(), ender = rig.stream();
    const Event made = rig.event(), used = rig.event();
    std::uint32_t* seen = rig.pinned(30);
    for (std::uint32_t i = 0; i < 30; ++i) {
      const DevicePointer address = take(rig, pool, kMiB, maker);
      REQUIRE(driver.event_record(made, maker) == Result::success);
      REQUIRE(driver.stream_wait_event(user, made, 0) == Result::success);
      REQUIRE(rig.store_word(address, i + 1, user) == Result::success);
      REQUIRE(driver.memcpy_d2h_async(seen + i, address, 4, user) == Result::success);
      REQUIRE(driver.event_record(used, user) == Result::success);
      REQUIRE(driver.stream_wait_event(ender, used, 0) == Result::success);
      REQUIRE(driver.mem_free_async(address, ender) == Result::success);
    }
    REQUIRE(driver.ctx_synchronize() == Result::success);
    for (std::uint32_t i = 0; i < 30; ++i) CHECK(seen[i] == i + 1);
    CHECK(driver.mem_pool_destroy(pool) == Result::success);
    for (const Event event : {made, used}) CHECK(driver.event_destroy(event) == Result::success);
    for (const Stream stream : {maker, user, ender}) CHECK(driver.stream_destroy(stream) == Result::success);
    CHECK(driver.mem_free_host(seen) == Result::success);
  });
}

TEST_CASE("X contract: a pool keeps what was freed up to its threshold, and trims below it", "[gpu]") {
  for_each_driver([](Rig& rig) {
    if (!has_pools(rig)) return;
    const Driver& driver = rig.driver;
    const Stream stream = rig.stream();
    for (const std::uint64_t threshold_bytes : {std::uint64_t{0}, std::uint64_t{UINT64_MAX}}) {
      INFO("threshold " << threshold_bytes);
      const MemoryPool pool = make_pool(rig, threshold_bytes);
      const DevicePointer one = take(rig, pool, 4 * kMiB, stream), other = take(rig, pool, 4 * kMiB, stream);
      REQUIRE(driver.mem_free_async(one, stream) == Result::success);
      REQUIRE(driver.stream_synchronize(stream) == Result::success);
      CHECK(number(rig, pool, PoolAttribute::used_mem_current) == 4 * kMiB);
      CHECK(number(rig, pool, PoolAttribute::used_mem_high) == 8 * kMiB);
      CHECK(number(rig, pool, PoolAttribute::reserved_mem_current) >= 4 * kMiB);
      REQUIRE(driver.mem_free_async(other, stream) == Result::success);
      REQUIRE(driver.stream_synchronize(stream) == Result::success);
      const std::uint64_t kept = number(rig, pool, PoolAttribute::reserved_mem_current);
      CHECK((threshold_bytes == 0 ? kept == 0 : kept >= 8 * kMiB));
      // Used again, not made again.
      const DevicePointer again = take(rig, pool, 4 * kMiB, stream);
      if (kept != 0) CHECK(number(rig, pool, PoolAttribute::reserved_mem_current) == kept);
      REQUIRE(driver.mem_free_async(again, stream) == Result::success);
      REQUIRE(driver.stream_synchronize(stream) == Result::success);
      CHECK(driver.mem_pool_trim_to(pool, 0) == Result::success);
      CHECK(number(rig, pool, PoolAttribute::reserved_mem_current) == 0);
      std::uint64_t zero = 0;
      CHECK(driver.mem_pool_set_attribute(pool, PoolAttribute::reserved_mem_high, &zero) == Result::success);
      CHECK(number(rig, pool, PoolAttribute::reserved_mem_high) == 0);
      CHECK(driver.mem_pool_destroy(pool) == Result::success);
    }
    CHECK(driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("X contract: a stream gets back what it freed before it is there itself", "[gpu]") {
  for_each_driver([](Rig& rig) {
    if (!has_pools(rig)) return;
    const Driver& driver = rig.driver;
    const MemoryPool pool = make_pool(rig, UINT64_MAX);
    const Stream stream = rig.stream();
    std::uint64_t first = 0;
    for (std::uint32_t i = 0; i < 100; ++i) {
      const DevicePointer address = take(rig, pool, 4 * kMiB, stream);
      REQUIRE(rig.store_word(address, i, stream) == Result::success);
      REQUIRE(driver.mem_free_async(address, stream) == Result::success);
      if (i == 0) first = number(rig, pool, PoolAttribute::reserved_mem_current);
    }
    CHECK(number(rig, pool, PoolAttribute::reserved_mem_high) == first);
    CHECK(driver.stream_synchronize(stream) == Result::success);
    CHECK(driver.mem_pool_destroy(pool) == Result::success);
    CHECK(driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("X contract: a pool that is destroyed goes with the last of its memory", "[gpu]") {
  for_each_driver([](Rig& rig) {
    if (!has_pools(rig)) return;
    const Driver& driver = rig.driver;
    const MemoryPool pool = make_pool(rig, UINT64_MAX);
    const Stream stream = rig.stream();
    const DevicePointer address = take(rig, pool, 4 * kMiB, stream);
    CHECK(driver.mem_pool_destroy(pool) == Result::success);
    if (rig.emulated != nullptr) CHECK(rig.emulated->usage().pools == 1);
    REQUIRE(rig.store_word(address, 17, stream) == Result::success);
    REQUIRE(driver.stream_synchronize(stream) == Result::success);
    CHECK(rig.read_word(address) == 17);
    REQUIRE(driver.mem_free_async(address, stream) == Result::success);
    REQUIRE(driver.stream_synchronize(stream) == Result::success);
    if (rig.emulated != nullptr) CHECK(rig.emulated->usage().pools == 0);
    if (rig.emulated != nullptr) CHECK(rig.emulated->usage().device_bytes == 0);
    CHECK(driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("X6 contract: pools refuse what makes no sense, and recover from a full device", "[gpu]") {
  for_each_driver([](Rig& rig) {
    if (!has_pools(rig)) return;
    const Driver& driver = rig.driver;
    const MemoryPool pool = make_pool(rig, 0);
    const Stream stream = rig.stream();
    DevicePointer address = 0;
    rig.expect(Probe::pool_alloc_size_0, driver.mem_alloc_from_pool_async(&address, 0, pool, stream));
    rig.expect(Probe::pool_alloc_null, driver.mem_alloc_from_pool_async(nullptr, kMiB, pool, stream));
    rig.expect(Probe::pool_alloc_no_pool, driver.mem_alloc_from_pool_async(&address, kMiB, nullptr, stream));
    std::size_t free_bytes = 0, total_bytes = 0;
    REQUIRE(driver.mem_get_info(&free_bytes, &total_bytes) == Result::success);
    rig.expect(Probe::pool_alloc_too_much,
               driver.mem_alloc_from_pool_async(&address, total_bytes + kGranule, pool, stream));
    CHECK(address == 0);
    const DevicePointer plain = rig.memory(kGranule);
    rig.expect(Probe::pool_free_foreign, driver.mem_free_async(plain, stream));
    rig.give_back(plain, kGranule);
    // Half of what is free fits, also after the other half was refused.
    const DevicePointer half = take(rig, pool, free_bytes / 2, stream);
    REQUIRE(driver.mem_free_async(half, stream) == Result::success);
    const DevicePointer again = take(rig, pool, free_bytes / 2, stream);
    REQUIRE(driver.mem_free_async(again, stream) == Result::success);
    REQUIRE(driver.stream_synchronize(stream) == Result::success);

    MemoryPool other = nullptr, usual = nullptr;
    rig.expect(Probe::pool_create_null, driver.mem_pool_create(&other, nullptr));
    PoolProperties wrong = of_device();
    wrong.type = AllocationType::invalid;
    rig.expect(Probe::pool_create_bad_type, driver.mem_pool_create(&other, &wrong));
    std::uint64_t value = 5;
    rig.expect(Probe::pool_set_used,
               driver.mem_pool_set_attribute(pool, PoolAttribute::used_mem_current, &value));
    rig.expect(Probe::pool_set_high,
               driver.mem_pool_set_attribute(pool, PoolAttribute::used_mem_high, &value));
    REQUIRE(driver.device_get_default_mem_pool(&usual, 0) == Result::success);
    rig.expect(Probe::pool_destroy_default, driver.mem_pool_destroy(usual));
    CHECK(driver.mem_pool_destroy(pool) == Result::success);
    CHECK(driver.stream_destroy(stream) == Result::success);
  });
}

TEST_CASE("X contract: the default pool serves whoever names none, and cuMemFree frees such memory",
          "[gpu]") {
  for_each_driver([](Rig& rig) {
    if (!has_pools(rig)) return;
    const Driver& driver = rig.driver;
    const Stream stream = rig.stream();
    DevicePointer one = 0, other = 0;
    REQUIRE(driver.mem_alloc_async(&one, kMiB, stream) == Result::success);
    REQUIRE(driver.mem_alloc_async(&other, kMiB, stream) == Result::success);
    CHECK(one != other);
    REQUIRE(rig.store_word(one, 5, stream) == Result::success);
    REQUIRE(driver.mem_free_async(one, stream) == Result::success);
    CHECK(driver.mem_free(other) == Result::success);
    CHECK(driver.stream_synchronize(stream) == Result::success);
    CHECK(driver.stream_destroy(stream) == Result::success);
  });
}

// --- What the emulator adds: who uses memory of a pool too early or too late is found ---

// Whether the device went on as if nothing was wrong.
bool goes_well(std::uint64_t seed, bool is_early, bool is_late) {
  bool is_well = false;
  EmulatedGpu gpu;
  REQUIRE(gpu.open(small(GpuSchedule::adversarial, seed)));
  Rig rig(gpu.driver(), &gpu);
  rig.start();
  const MemoryPool pool = make_pool(rig, UINT64_MAX);
  const Stream maker = rig.stream(), user = rig.stream();
  const Event made = rig.event(), used = rig.event();
  const DevicePointer address = take(rig, pool, kMiB, maker);
  REQUIRE(rig.driver.event_record(made, maker) == Result::success);
  if (!is_early) REQUIRE(rig.driver.stream_wait_event(user, made, 0) == Result::success);
  REQUIRE(rig.store_word(address, 1, user) == Result::success);
  REQUIRE(rig.driver.event_record(used, user) == Result::success);
  if (!is_late) REQUIRE(rig.driver.stream_wait_event(maker, used, 0) == Result::success);
  REQUIRE(rig.driver.mem_free_async(address, maker) == Result::success);
  is_well = rig.driver.ctx_synchronize() == Result::success;
  rig.stop();
  return is_well;
}

TEST_CASE("X3 emulated GPU: memory of a pool that is used too early or too late is found", "[gpu]") {
  unsigned early = 0, late = 0;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    INFO("seed " << seed);
    CHECK(goes_well(seed, false, false));
    if (!goes_well(seed, true, false)) ++early;
    if (!goes_well(seed, false, true)) ++late;
  }
  INFO(early << " and " << late << " of 100 orders found it");
  CHECK(early > 10);
  CHECK(late > 10);
}

}  // namespace
