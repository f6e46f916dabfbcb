// What the tests of residency share: a heap over a small device, words in chunks, and the look that nothing
// is left and everything agrees.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "src/device/residency.h"
#include "tests/device_rig.h"
#include "tests/random.h"

namespace device_test {

using cuda::Driver;
using cuda::Result;

// A directory that goes with the object.
class PageFolder {
 public:
  PageFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "glebe-residency-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~PageFolder() { std::filesystem::remove_all(path_); }
  PageFolder(const PageFolder&) = delete;
  PageFolder& operator=(const PageFolder&) = delete;
  [[nodiscard]] const char* path() const { return path_.c_str(); }

 private:
  std::string path_;
};

struct HeapSize {
  std::uint64_t chunks = 16;  // of addresses
  std::uint64_t resident = 4, slots = 8;
  VictimOrder order = VictimOrder::lru;
  const char* directory = nullptr;
  unsigned in_flight = 3;
};

// A pool and a heap of chunks of one granule.
struct ResidentRig {
  ChunkPool pool;
  ResidentHeap heap;
  HeapSize size;

  ResidentRig(Gpu& gpu, const HeapSize& wanted) : size(wanted) {
    ChunkPoolOptions options;
    options.chunk_bytes = kGranule;
    options.chunks_max = wanted.resident;
    REQUIRE(pool.open(gpu, options).ok());
    REQUIRE(heap.open(gpu, heap_options()).ok());
  }
  ~ResidentRig() {
    heap.close();
    CHECK(pool.stats().idle_chunks == pool.stats().chunks);
    pool.close();
  }
  ResidentRig(const ResidentRig&) = delete;
  ResidentRig& operator=(const ResidentRig&) = delete;

  [[nodiscard]] ResidencyOptions heap_options() {
    ResidencyOptions options;
    options.pool = &pool;
    options.address_bytes = size.chunks * kGranule;
    options.budget_bytes = size.resident * kGranule;
    options.host_bytes = size.slots * kGranule;
    options.directory = size.directory;
    options.order = size.order;
    options.in_flight = size.in_flight;
    return options;
  }
  [[nodiscard]] cuda::DevicePointer make(std::uint64_t chunks, std::uint32_t tag = 0) {
    cuda::DevicePointer address = 0;
    REQUIRE(heap.allocate(chunks * kGranule, tag, &address).ok());
    return address;
  }
  Outcome acquire(cuda::DevicePointer address, Access access, cuda::Stream stream, Lease* lease) {
    const ChunkUse use{address, 0, access};
    return heap.acquire({&use, 1}, stream, lease);
  }
};

// Fills whole chunks with a number of their own, under a lease that discards.
inline Outcome fill(ResidentRig& rig, const Driver& driver, cuda::DevicePointer address, std::uint32_t value,
                    cuda::Stream stream) {
  Lease lease;
  const Outcome outcome = rig.acquire(address, Access::discard, stream, &lease);
  if (!outcome.ok()) return outcome;
  const std::uint64_t words = rig.heap.size_of(address) / 4;
  const cuda::Result answer = driver.memset_d32_async(address, value, words, stream);
  const Outcome released = rig.heap.release(lease);
  CHECK(answer == cuda::Result::success);
  return released;
}

// Whether all words of an allocation are `value`, read under a lease.
inline bool holds(ResidentRig& rig, const Driver& driver, cuda::DevicePointer address, std::uint32_t value,
                  cuda::Stream stream) {
  Lease lease;
  REQUIRE(rig.acquire(address, Access::read, stream, &lease).ok());
  std::vector<std::uint32_t> words(rig.heap.size_of(address) / 4);
  REQUIRE(driver.memcpy_d2h_async(words.data(), address, words.size() * 4, stream) == cuda::Result::success);
  REQUIRE(driver.stream_synchronize(stream) == cuda::Result::success);
  REQUIRE(rig.heap.release(lease).ok());
  return std::all_of(words.begin(), words.end(), [value](std::uint32_t word) { return word == value; });
}

inline std::uint64_t in_state(ResidentRig& rig, ChunkState state) {
  return rig.heap.stats().chunks[static_cast<unsigned>(state)];
}

}  // namespace device_test
