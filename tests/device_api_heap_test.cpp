// The heap of the C and C++ interface beyond allocate and free: tags, trace, leaks, walk, pins, relocation
// and compaction. What would break: a callback that gets the wrong block, a bad argument that is taken, a
// figure that is not that of what happened, bytes that are not where a move says.
#include <map>

#include "tests/device_api_rig.h"

namespace api_test {
namespace {

constexpr std::uint64_t kChunk = 2 * kMiB;

glebe_device_heap_options small_heap() {
  glebe_device_heap_options options = {};
  options.coarse_bytes = 4 * kMiB;
  return options;
}

TEST_CASE("K1 the heap of the interface tells tags apart", "[device]") {
  const glebe::Device device = opened();
  glebe::DeviceHeap heap;
  REQUIRE(heap.open(device, small_heap()) == glebe_device_ok);
  std::uint32_t meshes = 99, again = 98;
  CHECK(heap.tag("", &meshes) == glebe_device_bad_argument);
  CHECK(heap.tag(std::string(32, 'x').c_str(), &meshes) == glebe_device_bad_argument);
  CHECK(heap.tag(nullptr, &meshes) == glebe_device_bad_argument);
  CHECK(glebe_device_heap_tag(heap.handle(), "meshes", nullptr) == glebe_device_bad_argument);
  CHECK(glebe_device_heap_tag(nullptr, "meshes", &meshes) == glebe_device_bad_argument);
  CHECK(meshes == 99);
  REQUIRE(heap.tag("meshes", &meshes) == glebe_device_ok);
  REQUIRE(heap.tag("meshes", &again) == glebe_device_ok);
  CHECK(again == meshes);
  CHECK(meshes != 0);
  glebe::DeviceAddress block = 0, other = 0;
  CHECK(heap.allocate_tagged(100, meshes + 1, &block) == glebe_device_bad_argument);
  CHECK(heap.allocate_tagged(100, 65536 + meshes, &block) ==
        glebe_device_bad_argument);  // not cut to 16 bits
  CHECK(glebe_device_heap_allocate_tagged(nullptr, 1, 0, 0, &block) == glebe_device_bad_argument);
  CHECK(glebe_device_heap_allocate_tagged(heap.handle(), 1, 0, 0, nullptr) == glebe_device_bad_argument);
  REQUIRE(heap.allocate_tagged(1000, meshes, &block) == glebe_device_ok);
  REQUIRE(heap.allocate(300, &other) == glebe_device_ok);
  glebe_device_tag_stats stats = {};
  REQUIRE(heap.tag_stats(meshes, &stats) == glebe_device_ok);
  CHECK(std::string(stats.name) == "meshes");
  CHECK(stats.live_bytes == 1024);
  CHECK(stats.live_blocks == 1);
  REQUIRE(heap.tag_stats(0, &stats) == glebe_device_ok);
  CHECK(std::string(stats.name) == "other");
  CHECK(stats.live_bytes == 512);
  CHECK(heap.tag_stats(meshes + 1, &stats) == glebe_device_bad_argument);
  CHECK(heap.tag_stats(65536, &stats) == glebe_device_bad_argument);
  CHECK(heap.tag_stats(0, nullptr) == glebe_device_bad_argument);

  CHECK(heap.free(block) == glebe_device_ok);
  CHECK(heap.stats().peak_live_bytes == 1536);
  heap.reset_peaks();
  CHECK(heap.stats().peak_live_bytes == 512);
  REQUIRE(heap.tag_stats(meshes, &stats) == glebe_device_ok);
  CHECK(stats.live_bytes == 0);
  CHECK(heap.stats().misuses == 0);
  CHECK(heap.free(block) == glebe_device_double_free);
  CHECK(heap.stats().misuses == 1);
  CHECK(heap.stats().internal_fragmentation == 1000 - 300 * 1000 / 512);
  CHECK(heap.free(other) == glebe_device_ok);
}

TEST_CASE("K1 K4 the heap of the interface shows its blocks", "[device]") {
  const glebe::Device device = opened();
  glebe::DeviceHeap heap;
  REQUIRE(heap.open(device, small_heap()) == glebe_device_ok);
  std::uint32_t meshes = 0;
  glebe::DeviceAddress block = 0, other = 0;
  REQUIRE(heap.tag("meshes", &meshes) == glebe_device_ok);
  REQUIRE(heap.allocate_tagged(1000, meshes, &block) == glebe_device_ok);
  REQUIRE(heap.allocate(300, &other) == glebe_device_ok);
  std::vector<glebe_device_block> seen;
  REQUIRE(heap.walk([&](const glebe_device_block& found) {
    seen.push_back(found);
    return true;
  }) == glebe_device_ok);
  REQUIRE(seen.size() == 2);
  CHECK(seen[0].address < seen[1].address);
  const glebe_device_block& tagged = seen[0].address == block ? seen[0] : seen[1];
  CHECK(tagged.address == block);
  CHECK(tagged.size == 1024);
  CHECK(tagged.requested == 1000);
  CHECK(tagged.tag == meshes);
  unsigned visits = 0;
  REQUIRE(heap.walk([&](const glebe_device_block&) { return ++visits == 0; }) == glebe_device_ok);
  CHECK(visits == 1);  // it was told to stop
  CHECK(glebe_device_heap_walk(heap.handle(), nullptr, nullptr) == glebe_device_bad_argument);
}

TEST_CASE("1-20 K4 the heap of the interface writes a trace and tells leaks", "[device]") {
  struct Told {
    std::vector<std::string> lines;
    std::vector<glebe_device_block> leaks;
  } told;
  const glebe::Device device = opened();
  glebe_device_heap_options options = small_heap();
  options.context = &told;
  options.trace = [](void* context, const char* line, std::size_t length) {
    static_cast<Told*>(context)->lines.emplace_back(line, length);
  };
  options.leak = [](void* context, const glebe_device_block* block) {
    static_cast<Told*>(context)->leaks.push_back(*block);
  };
  options.struct_bytes = sizeof options;
  glebe_device_heap* heap = nullptr;
  REQUIRE(glebe_device_heap_open(device.handle(), &options, &heap) == glebe_device_ok);
  glebe::DeviceAddress block = 0, left = 0;
  REQUIRE(glebe_device_heap_allocate(heap, 700, 0, &block) == glebe_device_ok);
  REQUIRE(glebe_device_heap_allocate(heap, 800, 0, &left) == glebe_device_ok);
  REQUIRE(glebe_device_heap_free(heap, block) == glebe_device_ok);
  CHECK(glebe_device_heap_close(heap) == 1);
  REQUIRE(told.lines.size() >= 3);
  CHECK(told.lines[0].find(",allocate,") != std::string::npos);
  CHECK(told.lines[0].find(",700,") != std::string::npos);
  CHECK(told.lines[2].find(",free,") != std::string::npos);
  REQUIRE(told.leaks.size() == 1);
  CHECK(told.leaks[0].address == left);
  CHECK(told.leaks[0].requested == 800);
}

TEST_CASE("S11 the heap of the interface pins blocks and keeps memory ready", "[device]") {
  const glebe::Device device = opened();
  glebe::DeviceHeap heap;
  REQUIRE(heap.open(device, small_heap()) == glebe_device_ok);
  glebe::DeviceAddress block = 0;
  REQUIRE(heap.allocate(1000, &block) == glebe_device_ok);
  CHECK(heap.unpin(block) == glebe_device_bad_argument);
  REQUIRE(heap.pin(block) == glebe_device_ok);
  REQUIRE(heap.pin(block) == glebe_device_ok);
  CHECK(heap.free(block) == glebe_device_in_use);
  CHECK(heap.pin(block + 256) == glebe_device_not_owned);
  CHECK(heap.unpin(block + 256) == glebe_device_not_owned);
  CHECK(heap.unpin(block) == glebe_device_ok);
  CHECK(heap.free(block) == glebe_device_in_use);
  CHECK(heap.unpin(block) == glebe_device_ok);
  CHECK(heap.free(block) == glebe_device_ok);
  CHECK(heap.pin(block) == glebe_device_double_free);
  CHECK(glebe_device_heap_pin(nullptr, block) == glebe_device_bad_argument);
  CHECK(glebe_device_heap_unpin(nullptr, block) == glebe_device_bad_argument);

  heap.trim();
  CHECK(heap.stats().physical_bytes == 0);
  CHECK(heap.prewarm(4 * kMiB) == glebe_device_ok);
  CHECK(heap.stats().physical_bytes >= 4 * kMiB);
  CHECK(heap.set_limit(8 * kMiB) == glebe_device_ok);
  CHECK(heap.prewarm(64 * kMiB) == glebe_device_over_budget);
  CHECK(heap.set_limit(0) == glebe_device_bad_argument);
  CHECK(glebe_device_heap_prewarm(nullptr, kMiB) == glebe_device_bad_argument);
  glebe_device_heap_reset_peaks(nullptr);
}

TEST_CASE("1-6 a block of the interface's heap gets another address and keeps its bytes", "[device]") {
  const glebe::Device device = opened();
  glebe::DeviceHeap heap;
  REQUIRE(heap.open(device, small_heap()) == glebe_device_ok);
  glebe::DeviceAddress low = 0, high = 0, moved = 0;
  REQUIRE(heap.allocate(kChunk, &low, kChunk) == glebe_device_ok);
  REQUIRE(heap.allocate(kChunk, &high, kChunk) == glebe_device_ok);
  if (low > high) std::swap(low, high);
  const std::vector<std::byte> sent = pattern(kChunk, 3);
  REQUIRE(device.write(high, sent) == glebe_device_ok);
  CHECK(heap.relocate(high, &moved) == glebe_device_out_of_addresses);  // nothing is free lower down
  CHECK(heap.relocate(high + 256, &moved) == glebe_device_not_owned);
  CHECK(glebe_device_heap_relocate(nullptr, high, &moved) == glebe_device_bad_argument);
  CHECK(glebe_device_heap_relocate(heap.handle(), high, nullptr) == glebe_device_bad_argument);
  CHECK(heap.finish_relocation(high) == glebe_device_not_owned);
  REQUIRE(heap.free(low) == glebe_device_ok);
  REQUIRE(heap.pin(high) == glebe_device_ok);
  CHECK(heap.relocate(high, &moved) == glebe_device_in_use);
  REQUIRE(heap.unpin(high) == glebe_device_ok);
  CHECK(moved == 0);
  REQUIRE(heap.relocate(high, &moved) == glebe_device_ok);
  CHECK(moved == low);
  CHECK(on_device(device, moved, kChunk) == sent);
  CHECK(on_device(device, high, kChunk) == sent);  // the same memory still
  CHECK(heap.usable_size(moved) == kChunk);
  CHECK(heap.usable_size(high) == 0);
  CHECK(heap.finish_relocation(high) == glebe_device_ok);
  CHECK(heap.finish_relocation(high) == glebe_device_not_owned);
  CHECK(glebe_device_heap_finish_relocation(nullptr, high) == glebe_device_bad_argument);
  CHECK(on_device(device, moved, kChunk) == sent);
  REQUIRE(heap.allocate(1000, &low) == glebe_device_ok);
  CHECK(heap.relocate(low, &moved) == glebe_device_bad_argument);  // not of whole chunks
}

// A block in each of eight chunks; everything else there is free.
std::map<glebe::DeviceAddress, unsigned> scattered(const glebe::Device& device,
                                                   const glebe::DeviceHeap& heap) {
  std::map<glebe::DeviceAddress, unsigned> kept;
  std::vector<glebe::DeviceAddress> fillers;
  for (unsigned i = 0; i < 8; ++i) {
    glebe::DeviceAddress block = 0, filler = 0;
    REQUIRE(heap.allocate(4 * kKiB, &block) == glebe_device_ok);
    REQUIRE(heap.allocate(kChunk - 4 * kKiB, &filler) == glebe_device_ok);
    REQUIRE(device.write(block, pattern(4 * kKiB, i)) == glebe_device_ok);
    kept[block] = i;
    fillers.push_back(filler);
  }
  for (const glebe::DeviceAddress filler : fillers) REQUIRE(heap.free(filler) == glebe_device_ok);
  return kept;
}

TEST_CASE("1-6 K1 compaction by the interface moves what may move, and says what it did", "[device]") {
  const glebe::Device device = opened();
  glebe::DeviceHeap heap;
  REQUIRE(heap.open(device, small_heap()) == glebe_device_ok);
  std::map<glebe::DeviceAddress, unsigned> blocks = scattered(device, heap);
  const glebe::DeviceAddress stays = blocks.rbegin()->first;
  std::uint64_t moves = 0, bytes = 0;
  glebe_device_defragment_result result = {};
  const glebe::DeviceResult answer =
      heap.defragment([&](const glebe_device_block& block) { return block.address != stays; },
                      [&](const glebe_device_move& move) {
                        ++moves;
                        bytes += move.size;
                        const auto node = blocks.extract(move.from);
                        blocks[move.to] = node.mapped();
                      },
                      &result);
  REQUIRE(answer == glebe_device_ok);
  CHECK(moves >= 6);
  CHECK(result.blocks_moved == moves);
  CHECK(result.bytes_moved == bytes);
  CHECK(result.chunks_emptied >= 6);
  CHECK(result.passes >= 1);
  CHECK(result.largest_after_bytes > result.largest_before_bytes);
  CHECK(blocks.count(stays) == 1);
  REQUIRE(blocks.size() == 8);
  for (const auto& [address, seed] : blocks) {
    CHECK(on_device(device, address, 4 * kKiB) == pattern(4 * kKiB, seed));
    CHECK(heap.free(address) == glebe_device_ok);
  }
}

TEST_CASE("T6 compaction by the interface refuses what makes no sense", "[device]") {
  const glebe::Device device = opened();
  glebe::DeviceHeap heap;
  REQUIRE(heap.open(device, small_heap()) == glebe_device_ok);
  glebe_device_defragment_result result = {};
  glebe_device_defragment_options options = {};
  options.struct_bytes = sizeof options;
  options.moved = [](void*, const glebe_device_move*) {};
  CHECK(glebe_device_heap_defragment(heap.handle(), &options, &result) == glebe_device_bad_argument);
  options.may_move = [](void*, const glebe_device_block*) { return 1; };
  CHECK(glebe_device_heap_defragment(heap.handle(), &options, nullptr) == glebe_device_ok);
  CHECK(glebe_device_heap_defragment(nullptr, &options, &result) == glebe_device_bad_argument);
  CHECK(glebe_device_heap_defragment(heap.handle(), nullptr, &result) == glebe_device_bad_argument);
  options.fill_max_percent = 101;
  CHECK(glebe_device_heap_defragment(heap.handle(), &options, &result) == glebe_device_bad_argument);
  options.fill_max_percent = 0;
  options.moved = nullptr;
  CHECK(glebe_device_heap_defragment(heap.handle(), &options, &result) == glebe_device_bad_argument);
  options.moved = [](void*, const glebe_device_move*) {};
  options.struct_bytes = sizeof options - 1;
  CHECK(glebe_device_heap_defragment(heap.handle(), &options, &result) == glebe_device_bad_argument);
  CHECK(result.passes == 0);
}

TEST_CASE("1-6 compaction by the interface copies no more than it may", "[device]") {
  const glebe::Device device = opened();
  glebe::DeviceHeap heap;
  REQUIRE(heap.open(device, small_heap()) == glebe_device_ok);
  std::map<glebe::DeviceAddress, unsigned> blocks = scattered(device, heap);
  glebe_device_defragment_options options = {};
  options.max_bytes = 8 * kKiB;
  glebe_device_defragment_result result = {};
  REQUIRE(heap.defragment([](const glebe_device_block&) { return true; },
                          [&](const glebe_device_move& move) {
                            const auto node = blocks.extract(move.from);
                            blocks[move.to] = node.mapped();
                          },
                          &result, options) == glebe_device_ok);
  CHECK(result.bytes_moved == 8 * kKiB);
  CHECK(result.blocks_moved == 2);
  for (const auto& [address, seed] : blocks) {
    CHECK(on_device(device, address, 4 * kKiB) == pattern(4 * kKiB, seed));
    CHECK(heap.free(address) == glebe_device_ok);
  }
}

}  // namespace
}  // namespace api_test
