// G12: tiles of a sparse array get memory and contents, many with one call of the driver against one call for
// each. Without a GPU the calls are counted and nothing is timed.
#include <cstring>

#include <fmt/core.h>

#include "bench/device_bench.h"
#include "platform/cuda/failing.h"
#include "src/device/sparse_tiles.h"

namespace device_bench {
namespace {

constexpr std::uint32_t kBatches[] = {1, 4, 16, 64, 256, 1024};
constexpr std::uint32_t kBatchMax = 1024;
constexpr std::uint64_t kSide = 8192;  // texels: 64 tiles of RGBA8

// A driver that counts, and on it a texture with memory for two batches: those that leave and those that
// come.
class Texture {
 public:
  explicit Texture(Bench& bench) : counting_(bench.driver()) {
    require(gpu_.open(counting_.driver()), "opening the device");
    require(gpu_.driver().stream_create(&stream_, cuda::kStreamNonBlocking), "a stream");
    require(arenas_.open(gpu_, {.chunk_bytes = kTileArenaBytes, .is_tile_pool = true}), "the arenas");
    require(pool_.open({.chunk_bytes = kTileArenaBytes, .max_bytes = 4 * kTileArenaBytes, .gpu = &gpu_},
                       {&arenas_}, {.unit_bytes = kTileBytes}),
            "the pool of tiles");
    SparseArrayOptions options;
    options.width = options.height = kSide;
    options.tiles_max = kBatchMax;
    options.stream = stream_;
    require(array_.open(gpu_, pool_, options), "the sparse array");
    require(gpu_.driver().mem_host_alloc(reinterpret_cast<void**>(&source_), kTileBytes, 0), "pinned memory");
    for (std::uint64_t i = 0; i < kTileBytes; ++i) source_[i] = static_cast<std::byte>(i * 7 >> 3);
  }
  ~Texture() {
    static_cast<void>(array_.close());
    static_cast<void>(gpu_.driver().mem_free_host(source_));
    static_cast<void>(gpu_.driver().stream_destroy(stream_));
    static_cast<void>(pool_.close());
    arenas_.close();
    gpu_.close();
  }
  Texture(const Texture&) = delete;
  Texture& operator=(const Texture&) = delete;

  // `tiles` pages come, `batch` at a time, and take the memory of those that came before.
  void exchange_and_fill(std::uint32_t tiles, std::uint32_t batch) {
    std::vector<TilePage> out, in;
    for (std::uint32_t done = 0; done < tiles; done += batch) {
      in.clear();
      for (std::uint32_t i = 0; i < batch; ++i) in.push_back(next_page());
      require(array_.exchange(out, in), "an exchange");
      for (const TilePage page : in) require(array_.write(page, source_), "filling a page");
      out.swap(in);
    }
    wait();
    verify(out.back());
    require(array_.exchange(out, {}), "taking the last pages away");
    wait();
  }

  // The same with one map info and one copy for each tile, straight to the driver.
  void one_by_one(std::uint32_t tiles) {
    TileRun run;
    require(pool_.allocate_tiles(1, &run), "a tile");
    cuda::Array level = nullptr;
    require(gpu_.driver().mipmapped_array_get_level(&level, array_.array(), 0), "the level");
    TilePage before;
    for (std::uint32_t i = 0; i < tiles; ++i) {
      const TilePage page = next_page();
      cuda::ArrayMapInfo infos[2] = {info_of(before), info_of(page)};
      infos[1].operation = cuda::MemoryOperation::map;
      infos[1].handle = run.handle;
      infos[1].offset_bytes = run.offset_bytes;
      const bool is_first = before == TilePage();
      require(gpu_.driver().mem_map_array_async(infos + (is_first ? 1 : 0), is_first ? 1 : 2, stream_),
              "mapping");
      require(array_write(level, page), "filling");
      before = page;
    }
    wait();
    cuda::ArrayMapInfo last = info_of(before);
    require(gpu_.driver().mem_map_array_async(&last, 1, stream_), "unmapping");
    wait();
    require(pool_.free(run.address), "giving the tile back");
  }

  [[nodiscard]] std::uint64_t calls() const {
    return counting_.calls(cuda::Call::mem_map_array_async) + counting_.calls(cuda::Call::memcpy_3d_async);
  }

 private:
  TilePage next_page() {
    constexpr std::uint32_t kColumns = 64;
    const std::uint32_t number = page_++ % (kColumns * kColumns);
    return {0, 0, number % kColumns, number / kColumns};
  }
  [[nodiscard]] cuda::ArrayMapInfo info_of(TilePage page) const {
    const TileShape& shape = array_.shape();
    cuda::ArrayMapInfo info = {};
    info.resource_type = cuda::ResourceType::mipmapped_array;
    info.resource.mipmap = array_.array();
    info.part.level = {0,
                       0,
                       static_cast<unsigned>(page.column()) * shape.tile_width,
                       static_cast<unsigned>(page.row()) * shape.tile_height,
                       0,
                       shape.tile_width,
                       shape.tile_height,
                       1};
    info.operation = cuda::MemoryOperation::unmap;
    info.device_mask = 1;
    return info;
  }
  [[nodiscard]] cuda::Copy3D box_of(cuda::Array level, TilePage page) const {
    const TileShape& shape = array_.shape();
    cuda::Copy3D copy = {};
    copy.from.type = cuda::MemoryType::host;
    copy.from.host = source_;
    copy.from.pitch_bytes = std::size_t{shape.tile_width} * shape.texel_bytes;
    copy.to.type = cuda::MemoryType::array;
    copy.to.array = level;
    copy.to.x_bytes = page.column() * copy.from.pitch_bytes;
    copy.to.y = page.row() * shape.tile_height;
    copy.width_bytes = copy.from.pitch_bytes;
    copy.height = shape.tile_height;
    copy.depth = 1;
    return copy;
  }
  [[nodiscard]] cuda::Result array_write(cuda::Array level, TilePage page) const {
    const cuda::Copy3D copy = box_of(level, page);
    return gpu_.driver().memcpy_3d_async(&copy, stream_);
  }
  void verify(TilePage page) const {
    cuda::Array level = nullptr;
    require(gpu_.driver().mipmapped_array_get_level(&level, array_.array(), 0), "the level");
    std::vector<std::byte> back(kTileBytes);
    cuda::Copy3D copy = box_of(level, page);
    std::swap(copy.from, copy.to);
    copy.to.host = back.data();
    require(gpu_.driver().memcpy_3d(&copy), "reading a tile back");
    require(std::memcmp(back.data(), source_, kTileBytes) == 0, "a tile has other bytes than were sent");
  }
  void wait() const { require(gpu_.driver().stream_synchronize(stream_), "waiting"); }

  cuda::FailingDriver counting_;
  Gpu gpu_;
  ChunkPool arenas_;
  TilePool pool_;
  SparseArray array_;
  cuda::Stream stream_ = nullptr;
  std::byte* source_ = nullptr;
  std::uint32_t page_ = 0;
};

}  // namespace

void run_tiles(Bench& bench) {
  if (!bench.gpu.facts().has_sparse_arrays) {
    bench.report.skip("this device has no sparse arrays");
    return;
  }
  Texture texture(bench);
  const std::uint32_t tiles = bench.count(4096, 1024);
  const auto measure = [&](const std::string& what, const auto& work) {
    const std::uint64_t before = texture.calls();
    work();
    const auto calls = static_cast<double>(texture.calls() - before);
    bench.report.add(what + ": calls of the driver for a tile", "calls", {calls / tiles});
    if (bench.is_real) bench.report.add(what, "tiles/s", rate(tiles, repeat(bench, work)));
  };
  measure("one by one", [&] { texture.one_by_one(tiles); });
  for (const std::uint32_t batch : kBatches) {
    measure(fmt::format("ours, {} at a time", batch), [&] { texture.exchange_and_fill(tiles, batch); });
  }
  bench.report.note(
      "calls: cuMemMapArrayAsync and cuMemcpy3DAsync; a call for a batch names every tile in it");
  if (!bench.is_real)
    bench.report.note("nothing was timed: tiles a second need a GPU (" + bench.why_no_gpu + ")");
}

}  // namespace device_bench
