// The C and C++ interface to memory of a GPU: what it refuses, and that each part reaches what stands behind
// it. Contents are checked by the example (device_example.cpp), which is a test as well.
#include "tests/device_api_rig.h"

namespace api_test {
namespace {

TEST_CASE("X1 the interface opens a device, or says why not", "[device]") {
  const glebe::Device device = opened();
  CHECK(device.info().is_emulated == 1);
  CHECK(device.info().total_bytes == 32 * kMiB);
  CHECK(device.info().free_bytes == 32 * kMiB);
  glebe::Device other;
  std::string why;
  CHECK(other.open_emulated(3 * kMiB, 2 * kMiB, &why) == glebe_device_bad_argument);
  CHECK(why.find("2 MiB") != std::string::npos);
  CHECK_FALSE(other);
  glebe_device* handle = nullptr;
  glebe_device_options options = {};
  CHECK(glebe_device_open(&options, &handle, nullptr, 0) == glebe_device_bad_argument);
  options.struct_bytes = sizeof options;
  options.ordinal = -1;
  CHECK(glebe_device_open(&options, &handle, nullptr, 0) == glebe_device_bad_argument);
  CHECK(glebe_device_open(&options, nullptr, nullptr, 0) == glebe_device_bad_argument);
  CHECK(handle == nullptr);
  // Too short a buffer is cut, and ends.
  char message[8];
  CHECK(glebe_device_open(&options, &handle, message, sizeof message) == glebe_device_bad_argument);
  CHECK(std::strlen(message) == 7);
  for (int result = 0; result <= glebe_device_failed; ++result) {
    CHECK(std::strlen(glebe::text_of(static_cast<glebe_device_result>(result))) > 0);
  }
}

TEST_CASE("X1 P13 the heap of the interface", "[device]") {
  const glebe::Device device = opened();
  glebe::DeviceHeap heap;
  glebe_device_heap_options options = {};
  options.limit_bytes = 8 * kMiB;
  options.coarse_bytes = 4 * kMiB;
  REQUIRE(heap.open(device, options) == glebe_device_ok);
  glebe::DeviceAddress block = 0, other = 0;
  CHECK(heap.allocate(0, &block) == glebe_device_bad_argument);
  CHECK(heap.allocate(100, &block, 3) == glebe_device_bad_argument);
  CHECK(heap.allocate(9 * kMiB, &block) == glebe_device_over_budget);
  CHECK(heap.allocate(UINT64_MAX, &block) != glebe_device_ok);
  CHECK(block == 0);
  REQUIRE(heap.allocate(100, &block, 4096) == glebe_device_ok);
  CHECK(block % 4096 == 0);
  CHECK(heap.usable_size(block) == 256);
  CHECK(heap.usable_size(block + 256) == 0);
  CHECK(heap.resize(block, 1000) == glebe_device_ok);
  CHECK(heap.usable_size(block) == 1024);
  CHECK(heap.resize(block, 10) == glebe_device_ok);
  CHECK(heap.usable_size(block) == 256);
  CHECK(heap.resize(block + 256, 10) == glebe_device_not_owned);
  REQUIRE(heap.allocate(kMiB, &other) == glebe_device_ok);
  CHECK(heap.stats().live_blocks == 2);
  CHECK(heap.free(block) == glebe_device_ok);
  CHECK(heap.free(block) == glebe_device_double_free);
  CHECK(heap.free(other + 1) == glebe_device_not_owned);
  CHECK(heap.free(other) == glebe_device_ok);
  const glebe_device_heap_stats stats = heap.stats();
  CHECK(stats.live_bytes == 0);
  CHECK(stats.allocations == stats.frees);
  CHECK(stats.physical_bytes > 0);
  CHECK(heap.trim() == stats.physical_bytes);
  CHECK(device.info().free_bytes == 32 * kMiB);
}

TEST_CASE("P8 the heap of the interface asks the program for room", "[device]") {
  struct Program {
    glebe_device_heap* heap;
    glebe::DeviceAddress spare;
    unsigned asked;
  };
  const glebe::Device device = opened();
  Program program = {};
  glebe_device_heap_options options = {};
  options.struct_bytes = sizeof options;
  options.limit_bytes = 8 * kMiB;
  options.coarse_bytes = 4 * kMiB;
  options.context = &program;
  options.reclaim = [](void* context, std::uint64_t) {
    auto& asked = *static_cast<Program*>(context);
    ++asked.asked;
    if (asked.spare == 0) return 0;
    const bool is_freed =
        glebe_device_heap_free(asked.heap, std::exchange(asked.spare, 0)) == glebe_device_ok;
    return is_freed ? 1 : 0;
  };
  REQUIRE(glebe_device_heap_open(device.handle(), &options, &program.heap) == glebe_device_ok);
  glebe::DeviceAddress block = 0;
  REQUIRE(glebe_device_heap_allocate(program.heap, 6 * kMiB, 0, &program.spare) == glebe_device_ok);
  CHECK(glebe_device_heap_allocate(program.heap, 4 * kMiB, 0, &block) == glebe_device_ok);
  CHECK(program.asked == 1);
  CHECK(glebe_device_heap_allocate(program.heap, 6 * kMiB, 0, &block) == glebe_device_over_budget);
  CHECK(program.asked == 2);
  CHECK(glebe_device_heap_close(program.heap) == 1);  // the block that is left
  CHECK(device.info().free_bytes == 32 * kMiB);
}

TEST_CASE("X4 the pool and the resident memory of the interface refuse what makes no sense", "[device]") {
  const glebe::Device device = opened();
  glebe::DeviceHeap heap;
  REQUIRE(heap.open(device) == glebe_device_ok);
  glebe::DevicePool pool;
  REQUIRE(pool.open(heap) == glebe_device_ok);
  glebe::DeviceAddress block = 0;
  CHECK(pool.allocate(0, nullptr, &block) == glebe_device_bad_argument);
  CHECK(pool.free(4096, nullptr) == glebe_device_not_owned);
  REQUIRE(pool.allocate(100, nullptr, &block) == glebe_device_ok);
  CHECK(pool.free(block, nullptr) == glebe_device_ok);
  CHECK(pool.free(block, nullptr) == glebe_device_double_free);
  CHECK(pool.stats().requests == 2 - 1);

  glebe::ResidentMemory memory;
  glebe_device_resident_options options = {};
  CHECK(memory.open(device, options) == glebe_device_bad_argument);
  options.chunk_bytes = 2 * kMiB;
  options.address_bytes = 16 * kMiB;
  options.budget_bytes = 4 * kMiB;
  options.host_bytes = 16 * kMiB;
  REQUIRE(memory.open(device, options) == glebe_device_ok);
  glebe::DeviceAddress all = 0;
  CHECK(memory.allocate(2 * kMiB, UINT32_MAX, &all) == glebe_device_bad_argument);
  REQUIRE(memory.allocate(8 * kMiB, 7, &all) == glebe_device_ok);
  glebe_device_use use = {all, 0, glebe_device_access_write};
  glebe::DeviceLease lease;
  std::string why;
  CHECK(memory.acquire({&use, 1}, nullptr, &lease, &why) == glebe_device_over_budget);
  CHECK(why.find("8.0 MiB needed") != std::string::npos);
  CHECK(memory.acquire({}, nullptr, &lease) == glebe_device_bad_argument);
  use.access = nameless<glebe_device_access>(3);
  CHECK(memory.acquire({&use, 1}, nullptr, &lease) == glebe_device_bad_argument);
  use = {all, 4 * kMiB, glebe_device_access_write};
  REQUIRE(memory.acquire({&use, 1}, nullptr, &lease) == glebe_device_ok);
  CHECK(memory.sleep(7, 1) == glebe_device_in_use);
  CHECK(memory.free(all) == glebe_device_in_use);
  CHECK(lease.release() == glebe_device_ok);
  CHECK(memory.sleep(7, 1) == glebe_device_ok);
  CHECK(memory.stats().resident_bytes == 0);
  CHECK(memory.wake(7) == glebe_device_ok);
  CHECK(memory.stats().resident_bytes == 4 * kMiB);
  CHECK(memory.free(all) == glebe_device_ok);
}

}  // namespace
}  // namespace api_test
