// Memory of a GPU by <glebe/device.hpp> and its companions, as a program uses it: blocks of a heap, and of
// one that is compacted; blocks in the order of a stream; a buffer that host and device share; transfers that
// go on by themselves; and twice as much resident memory as the device gives. Runs on the first GPU; where
// there is none, on an emulated one, and says so. Ends with 1 when a byte is not what it should be. Also a
// test.
//   device_example [real | emulated]     (no argument: real if there is one)
#include <cstdio>
#include <cstring>
#include <glebe/device.hpp>
#include <glebe/device_transfer.hpp>
#include <glebe/device_unified.hpp>
#include <map>
#include <vector>

namespace {

constexpr std::uint64_t kMiB = 1u << 20;

bool succeeded(glebe::DeviceResult result, const char* what, const std::string& why = {}) {
  if (result == glebe_device_ok) return true;
  std::printf("%s: %s%s%s\n", what, glebe::text_of(result), why.empty() ? "" : ": ", why.c_str());
  return false;
}

bool open_device(const char* wish, glebe::Device& device) {
  std::string why;
  if (std::strcmp(wish, "emulated") != 0) {
    if (device.open(0, &why) == glebe_device_ok) return true;
    std::printf("no GPU: %s\n", why.c_str());
    if (std::strcmp(wish, "real") == 0) return false;
  }
  return succeeded(device.open_emulated(64 * kMiB, 64 * kMiB, &why), "emulated device", why);
}

std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 31 + seed);
  return bytes;
}

// A block at a stable address that becomes longer where it is.
bool use_heap(const glebe::Device& device, const glebe::DeviceHeap& heap) {
  const std::vector<std::byte> sent = pattern(3 * kMiB, 1);
  std::vector<std::byte> seen(sent.size());
  glebe::DeviceAddress block = 0;
  const bool is_right = succeeded(heap.allocate(sent.size(), &block), "a block") &&
                        succeeded(device.write(block, sent), "write") &&
                        succeeded(heap.resize(block, 5 * kMiB), "a longer block") &&
                        succeeded(device.read(seen, block), "read") && seen == sent;
  return succeeded(heap.free(block), "free") && is_right;
}

// Small blocks that are left over in many chunks move together, and the program's pointers follow them.
bool compact_heap(const glebe::Device& device, const glebe::DeviceHeap& heap) {
  constexpr std::uint64_t kBytes = 64 * 1024;
  std::map<glebe::DeviceAddress, unsigned> blocks;
  std::vector<glebe::DeviceAddress> others;
  for (unsigned i = 0; i < 8; ++i) {
    glebe::DeviceAddress block = 0, other = 0;
    if (!succeeded(heap.allocate(kBytes, &block), "a small block") ||
        !succeeded(heap.allocate(2 * kMiB - kBytes, &other), "a large block") ||
        !succeeded(device.write(block, pattern(kBytes, i)), "write")) {
      return false;
    }
    blocks[block] = i;
    others.push_back(other);
  }
  for (const glebe::DeviceAddress other : others) static_cast<void>(heap.free(other));
  glebe_device_defragment_result result = {};
  const glebe::DeviceResult answer = heap.defragment(
      [](const glebe_device_block&) { return true; },  // nothing on the device uses any of them now
      [&](const glebe_device_move& move) {
        const unsigned seed = blocks.at(move.from);
        blocks.erase(move.from);
        blocks[move.to] = seed;
      },
      &result);
  std::printf("compaction: %llu blocks moved, %llu chunks became free\n",
              static_cast<unsigned long long>(result.blocks_moved),
              static_cast<unsigned long long>(result.chunks_emptied));
  bool is_right = succeeded(answer, "compaction") && result.chunks_emptied > 0;
  std::vector<std::byte> seen(kBytes);
  for (const auto& [block, seed] : blocks) {
    is_right = succeeded(device.read(seen, block), "read") && seen == pattern(kBytes, seed) && is_right;
    is_right = succeeded(heap.free(block), "free") && is_right;
  }
  return is_right;
}

// The same bytes on both sides: the device changes a part, and the host gets that part back.
bool use_unified(const glebe::Device& device, const glebe::DeviceHeap& heap) {
  glebe_unified_options options = {};
  options.heap = heap.handle();
  glebe::UnifiedMemory memory;
  glebe::UnifiedBuffer buffer;
  glebe::UnifiedSlice part;
  if (!succeeded(memory.open(device, options), "unified memory") ||
      !succeeded(buffer.create(memory, kMiB), "a unified buffer") ||
      !succeeded(buffer.all().fill(std::uint32_t{7}, glebe_unified_host), "fill") ||
      !succeeded(buffer.all().slice(0, 64 * 1024, &part), "a slice")) {
    return false;
  }
  {
    glebe::DeviceUse all, some;
    if (!succeeded(buffer.all().read(nullptr, &all), "all of it on the device")) return false;
    all.end();
    if (!succeeded(part.overwrite(nullptr, &some), "a part of it on the device") ||
        !succeeded(glebe_device_queue_fill(device.handle(), some.address(), 1, some.size_bytes(), nullptr),
                   "fill")) {
      return false;
    }
  }
  glebe::HostRead seen;
  if (!succeeded(buffer.all().read(&seen), "all of it on the host")) return false;
  const std::span<const std::uint32_t> words = seen.elements<std::uint32_t>();
  const glebe_unified_info info = buffer.info();
  std::printf("unified: %llu KiB went to the device, %llu KiB came back\n",
              static_cast<unsigned long long>(info.to_device_bytes >> 10),
              static_cast<unsigned long long>(info.to_host_bytes >> 10));
  return words.front() == 0x01010101 && words.back() == 7 && info.to_host_bytes == part.size_bytes();
}

// An upload that goes on by itself, checked byte by byte when it has arrived, and a download.
bool use_transfers(const glebe::Device& device, const glebe::DeviceHeap& heap) {
  const std::vector<std::byte> sent = pattern(5 * kMiB, 9);
  std::vector<std::byte> seen(sent.size());
  glebe_transfer_queue_options options = {};
  options.ring_bytes = 4 * kMiB;
  glebe_transfer verified = {};
  verified.is_verified = 1;
  glebe::TransferQueue queue;
  glebe::TransferTicket up, down;
  glebe::DeviceAddress block = 0;
  const bool is_right = succeeded(queue.open(device, options), "a queue of transfers") &&
                        succeeded(heap.allocate(sent.size(), &block), "a block") &&
                        succeeded(queue.upload(block, sent, &up, verified), "an upload") &&
                        succeeded(up.wait(), "its end") &&
                        succeeded(queue.download(seen, block, &down), "a download") &&
                        succeeded(down.wait(), "its end") && seen == sent;
  down.release();
  up.release();
  return succeeded(heap.free(block), "free") && is_right;
}

// What a stream frees it gets back at once, although the device may still be busy with it.
bool use_pool(const glebe::Device& device, const glebe::DeviceHeap& heap) {
  glebe::DevicePool pool;
  void* stream = nullptr;
  if (!succeeded(pool.open(heap), "a pool") ||
      !succeeded(glebe_device_stream_open(device.handle(), &stream), "a stream")) {
    return false;
  }
  bool is_right = true;
  for (unsigned round = 0; round < 100 && is_right; ++round) {
    glebe::DeviceAddress block = 0;
    is_right = succeeded(pool.allocate(kMiB, stream, &block), "a block in stream order") &&
               succeeded(glebe_device_queue_fill(device.handle(), block, static_cast<std::uint8_t>(round),
                                                 kMiB, stream),
                         "fill") &&
               succeeded(pool.free(block, stream), "free in stream order");
  }
  const glebe_device_pool_stats stats = pool.stats();
  std::printf("pool: %llu of %llu blocks came from the same stream\n",
              static_cast<unsigned long long>(stats.same_stream),
              static_cast<unsigned long long>(stats.requests));
  is_right = is_right && stats.same_stream == 99 && stats.peak_held_bytes < 2 * kMiB;
  static_cast<void>(pool.forget_stream(stream));
  pool.close();
  return succeeded(glebe_device_stream_close(device.handle(), stream), "end of the stream") && is_right;
}

// Eight allocations of which four fit on the device: the others are on the host, and come when they are used.
bool use_resident(const glebe::Device& device) {
  constexpr std::uint64_t kBytes = 4 * kMiB;
  constexpr unsigned kCount = 8;
  glebe_device_resident_options options = {};
  options.chunk_bytes = 2 * kMiB;
  options.address_bytes = kCount * kBytes;
  options.budget_bytes = kCount / 2 * kBytes;
  options.host_bytes = kCount * kBytes;
  glebe::ResidentMemory memory;
  if (!succeeded(memory.open(device, options), "resident memory")) return false;
  glebe::DeviceAddress blocks[kCount] = {};
  std::vector<std::byte> seen(kBytes);
  for (unsigned pass = 0; pass < 2; ++pass) {
    for (unsigned i = 0; i < kCount; ++i) {
      if (pass == 0 && !succeeded(memory.allocate(kBytes, i, &blocks[i]), "an allocation")) return false;
      const glebe_device_use use = {blocks[i], 0,
                                    pass == 0 ? glebe_device_access_discard : glebe_device_access_read};
      glebe::DeviceLease lease;
      std::string why;
      if (!succeeded(memory.acquire({&use, 1}, nullptr, &lease, &why), "a lease", why)) return false;
      if (pass == 0 && !succeeded(device.write(blocks[i], pattern(kBytes, i)), "write")) return false;
      if (pass == 1 && !succeeded(device.read(seen, blocks[i]), "read")) return false;
      if (pass == 1 && seen != pattern(kBytes, i)) return false;
    }
  }
  const glebe_device_resident_stats stats = memory.stats();
  std::printf("resident: %llu MiB of addresses, at most %llu MiB on the device, %llu chunks came back\n",
              static_cast<unsigned long long>(kCount * kBytes / kMiB),
              static_cast<unsigned long long>(stats.peak_resident_bytes / kMiB),
              static_cast<unsigned long long>(stats.host_fetches));
  return stats.peak_resident_bytes <= options.budget_bytes && stats.host_fetches > 0;
}

}  // namespace

int main(int argc, char** argv) {
  glebe::Device device;
  if (!open_device(argc > 1 ? argv[1] : "", device)) return 1;
  const glebe_device_info info = device.info();
  std::printf("%s%s, %llu MiB\n", info.name, info.is_emulated != 0 ? " (emulated)" : "",
              static_cast<unsigned long long>(info.total_bytes / kMiB));
  glebe_device_heap_options options = {};
  options.coarse_bytes = 8 * kMiB;
  glebe::DeviceHeap heap;
  if (!succeeded(heap.open(device, options), "a heap")) return 1;
  const bool is_right = use_heap(device, heap) && compact_heap(device, heap) && use_pool(device, heap) &&
                        use_unified(device, heap) && use_transfers(device, heap) && use_resident(device);
  const std::uint64_t left = heap.stats().live_blocks;
  std::printf("%s, %llu blocks left\n", is_right ? "all bytes right" : "FAILED",
              static_cast<unsigned long long>(left));
  return is_right && left == 0 ? 0 : 1;
}
