// What the GPU driver promises about sparse arrays, on the emulated driver and on a real one. What would
// break: tiles that are laid out otherwise on a device, or an emulator that lets wrong map infos pass.
#include "src/base/bits.h"
#include "tests/gpu_rig.h"

using namespace gpu_test;

namespace {

constexpr std::size_t kTile = 64 * kKiB;

bool has_sparse_arrays(const Rig& rig) {
  int answer = 0;
  REQUIRE(rig.driver.device_get_attribute(&answer, DeviceAttribute::sparse_cuda_array_supported, 0) ==
          Result::success);
  return answer != 0;
}

ArrayDescription rgba8(std::size_t width, std::size_t height, std::size_t layers = 0) {
  const unsigned layered = layers != 0 ? unsigned{kArrayLayered} : 0;
  return {width, height, layers, ArrayFormat::unsigned8, 4, kArraySparse | layered};
}

// A mipmapped array of RGBA8 and a piece of a tile pool.
struct Sparse {
  Sparse(Rig& a_rig, const ArrayDescription& wanted, unsigned levels, std::size_t pool_bytes = 2 * kGranule)
      : rig(a_rig) {
    REQUIRE(rig.driver.mipmapped_array_create(&array, &wanted, levels) == Result::success);
    REQUIRE(rig.driver.mipmapped_array_get_sparse_properties(&properties, array) == Result::success);
    AllocationProperties pool_properties = Rig::properties();
    pool_properties.flags.usage = kUsageTilePool;
    REQUIRE(rig.driver.mem_create(&pool, pool_bytes, &pool_properties, 0) == Result::success);
    stream = rig.stream();
  }
  ~Sparse() {
    CHECK(rig.driver.stream_synchronize(stream) == Result::success);
    CHECK(rig.driver.mipmapped_array_destroy(array) == Result::success);
    CHECK(rig.driver.mem_release(pool) == Result::success);
    CHECK(rig.driver.stream_destroy(stream) == Result::success);
  }
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;

  // One tile of a level; the tile of the pool with this number behind it.
  [[nodiscard]] ArrayMapInfo tile(unsigned level, unsigned column, unsigned row, std::size_t number) const {
    ArrayMapInfo info = {};
    info.resource_type = ResourceType::mipmapped_array;
    info.resource.mipmap = array;
    info.part.level = {level,
                       0,
                       column * properties.tile.width,
                       row * properties.tile.height,
                       0,
                       properties.tile.width,
                       properties.tile.height,
                       1};
    info.operation = MemoryOperation::map;
    info.handle = pool;
    info.offset_bytes = number * kTile;
    info.device_mask = 1;
    return info;
  }
  [[nodiscard]] ArrayMapInfo tail() const {
    ArrayMapInfo info = tile(0, 0, 0, 0);
    info.subresource_type = SubresourceType::mip_tail;
    info.part.tail = {0, 0, properties.tail_bytes};
    return info;
  }
  [[nodiscard]] static ArrayMapInfo without_memory(ArrayMapInfo info) {
    info.operation = MemoryOperation::unmap;
    info.handle = 0;
    info.offset_bytes = 0;
    return info;
  }
  [[nodiscard]] Result map(ArrayMapInfo info) const {
    return rig.driver.mem_map_array_async(&info, 1, stream);
  }

  // Words of a level: written from, or read to, pinned rows of `width` words.
  [[nodiscard]] Copy3D box(unsigned level, std::size_t x, std::size_t y, std::size_t width,
                           std::size_t height) const {
    Copy3D copy = {};
    copy.to.type = MemoryType::array;
    REQUIRE(rig.driver.mipmapped_array_get_level(&copy.to.array, array, level) == Result::success);
    copy.to.x_bytes = x * 4;
    copy.to.y = y;
    copy.from.type = MemoryType::host;
    copy.from.pitch_bytes = width * 4;
    copy.width_bytes = width * 4;
    copy.height = height;
    copy.depth = 1;
    return copy;
  }
  void write(const Copy3D& where, const std::uint32_t* words) const {
    Copy3D copy = where;
    copy.from.host = words;
    REQUIRE(rig.driver.memcpy_3d_async(&copy, stream) == Result::success);
  }
  void read(const Copy3D& where, std::uint32_t* words) const {
    Copy3D copy = {};
    copy.from = where.to;
    copy.to = where.from;
    copy.to.host = words;
    copy.width_bytes = where.width_bytes;
    copy.height = where.height;
    copy.depth = where.depth;
    REQUIRE(rig.driver.memcpy_3d_async(&copy, stream) == Result::success);
    REQUIRE(rig.driver.stream_synchronize(stream) == Result::success);
  }

  Rig& rig;
  MipmappedArray array = nullptr;
  SparseProperties properties = {};
  MemoryHandle pool = 0;
  Stream stream = nullptr;
};

template <class Case>
void for_each_sparse(Case body) {
  static Case kept = body;
  for_each_driver([](Rig& rig) {
    if (has_sparse_arrays(rig)) kept(rig);
  });
}

}  // namespace

TEST_CASE("X contract: a tile of a sparse array is 64 KiB, and small levels lie in the tail", "[gpu]") {
  for_each_sparse([](Rig& rig) {
    {
      Sparse sparse(rig, rgba8(1000, 600), 16);
      CHECK(sparse.properties.tile.width == 128);
      CHECK(sparse.properties.tile.height == 128);
      CHECK(sparse.properties.tile.depth == 1);
      CHECK(sparse.properties.tail_first_level == 3);  // 1000 x 600, 500 x 300, 250 x 150, 125 x 75
      CHECK(sparse.properties.tail_bytes % kTile == 0);
      CHECK(sparse.properties.tail_bytes != 0);
    }
    Array array = nullptr;
    const ArrayDescription single = rgba8(1000, 600);
    REQUIRE(rig.driver.array3d_create(&array, &single) == Result::success);
    SparseProperties properties = {};
    CHECK(rig.driver.array_get_sparse_properties(&properties, array) == Result::success);
    CHECK(properties.tile.width * properties.tile.height * 4 == kTile);
    CHECK(rig.driver.array_destroy(array) == Result::success);
  });
}

TEST_CASE("X contract: sparse arrays refuse what they cannot be", "[gpu]") {
  for_each_sparse([](Rig& rig) {
    const Driver& driver = rig.driver;
    MipmappedArray array = nullptr;
    ArrayDescription wanted = rgba8(512, 512);
    rig.expect(Probe::array_null, driver.mipmapped_array_create(nullptr, &wanted, 1));
    rig.expect(Probe::array_no_description, driver.mipmapped_array_create(&array, nullptr, 1));
    wanted.channels = 3;
    rig.expect(Probe::array_channels, driver.mipmapped_array_create(&array, &wanted, 1));
    wanted = rgba8(0, 512);
    rig.expect(Probe::array_width_0, driver.mipmapped_array_create(&array, &wanted, 1));
    wanted = rgba8(std::size_t{1} << 20, 512);
    rig.expect(Probe::array_too_wide, driver.mipmapped_array_create(&array, &wanted, 1));
    CHECK(array == nullptr);
    Sparse sparse(rig, rgba8(512, 512), 4);
    Array level = nullptr;
    rig.expect(Probe::array_level_behind, driver.mipmapped_array_get_level(&level, sparse.array, 4));
    REQUIRE(driver.mipmapped_array_get_level(&level, sparse.array, 0) == Result::success);
    SparseProperties properties = {};
    rig.expect(Probe::sparse_properties_of_level, driver.array_get_sparse_properties(&properties, level));
  });
}

TEST_CASE("X contract: map infos are refused for each thing that is wrong with them", "[gpu]") {
  for_each_sparse([](Rig& rig) {
    Sparse sparse(rig, rgba8(512, 512), 4);
    const ArrayMapInfo good = sparse.tile(0, 1, 1, 0);
    ArrayMapInfo info = good;
    rig.expect(Probe::map_array_count_0, rig.driver.mem_map_array_async(&info, 0, sparse.stream));
    rig.expect(Probe::map_array_null, rig.driver.mem_map_array_async(nullptr, 1, sparse.stream));
    info.part.level.x += 4;
    rig.expect(Probe::map_array_odd_place, sparse.map(info));
    info = good;
    info.part.level.width -= 4;
    rig.expect(Probe::map_array_odd_extent, sparse.map(info));
    info = good;
    info.part.level.depth = 0;
    rig.expect(Probe::map_array_depth_0, sparse.map(info));
    info = sparse.tile(0, 4, 0, 0);
    rig.expect(Probe::map_array_outside, sparse.map(info));
    info = sparse.tile(sparse.properties.tail_first_level, 0, 0, 0);
    rig.expect(Probe::map_array_level_of_tail, sparse.map(info));
    info = good;
    info.offset_bytes = 4096;
    rig.expect(Probe::map_array_odd_offset, sparse.map(info));
    info = sparse.tile(0, 1, 1, 2 * kGranule / kTile);
    rig.expect(Probe::map_array_beyond_handle, sparse.map(info));
    info = good;
    info.device_mask = 3;
    rig.expect(Probe::map_array_two_devices, sparse.map(info));
    info = good;
    info.flags = 1;
    rig.expect(Probe::map_array_flags, sparse.map(info));
    info = good;
    info.resource_type = ResourceType::array;
    REQUIRE(rig.driver.mipmapped_array_get_level(&info.resource.array, sparse.array, 0) == Result::success);
    rig.expect(Probe::map_array_level_array, sparse.map(info));
    info = Sparse::without_memory(good);
    info.handle = sparse.pool;
    rig.expect(Probe::map_array_unmap_handle, sparse.map(info));
    info = sparse.tail();
    info.part.tail.size_bytes -= 1024;
    rig.expect(Probe::map_array_odd_tail, sparse.map(info));
    const MemoryHandle plain = rig.create(kGranule);
    info = good;
    info.handle = plain;
    rig.expect(Probe::map_array_no_tile_pool, sparse.map(info));
    CHECK(rig.driver.mem_release(plain) == Result::success);
    const DevicePointer address = rig.reserve(kGranule);
    rig.expect(Probe::map_tile_pool, rig.driver.mem_map(address, kGranule, 0, sparse.pool, 0));
    CHECK(rig.driver.mem_address_free(address, kGranule) == Result::success);
  });
}

TEST_CASE("X contract: a list of map infos with a wrong one maps nothing", "[gpu]") {
  for_each_sparse([](Rig& rig) {
    Sparse sparse(rig, rgba8(512, 512), 1);
    std::uint32_t* word = rig.pinned(2);
    word[0] = 7;
    ArrayMapInfo infos[2] = {sparse.tile(0, 0, 0, 0), sparse.tile(0, 9, 0, 1)};
    rig.expect(Probe::map_array_second_wrong, rig.driver.mem_map_array_async(infos, 2, sparse.stream));
    sparse.write(sparse.box(0, 0, 0, 1, 1), &word[0]);
    word[1] = 99;
    sparse.read(sparse.box(0, 0, 0, 1, 1), &word[1]);
    CHECK(word[1] == 0);  // there is no memory
    CHECK(rig.driver.mem_free_host(word) == Result::success);
  });
}

TEST_CASE("X contract: what has no memory reads as zero, and what is written there is lost", "[gpu]") {
  for_each_sparse([](Rig& rig) {
    Sparse sparse(rig, rgba8(300, 200), 1);  // the last tiles are cut by the end of the array
    constexpr std::size_t kWords = 300 * 200;
    std::uint32_t* words = rig.pinned(2 * kWords);
    std::uint32_t* back = words + kWords;
    for (std::uint32_t i = 0; i < kWords; ++i) words[i] = i + 1;
    const auto whole = sparse.box(0, 0, 0, 300, 200);
    REQUIRE(sparse.map(sparse.tile(0, 0, 0, 3)) == Result::success);
    rig.expect(Probe::map_array_edge, sparse.map(sparse.tile(0, 2, 1, 0)));
    sparse.write(whole, words);
    sparse.read(whole, back);
    std::size_t wrong = 0;
    for (std::uint32_t i = 0; i < kWords; ++i) {
      const std::uint32_t x = i % 300 / 128, y = i / 300 / 128;
      const bool has_memory = (x == 0 && y == 0) || (x == 2 && y == 1);
      if (back[i] != (has_memory ? words[i] : 0)) ++wrong;
    }
    CHECK(wrong == 0);
    rig.expect(Probe::unmap_array_not_mapped, sparse.map(Sparse::without_memory(sparse.tile(0, 1, 0, 0))));
    CHECK(rig.driver.mem_free_host(words) == Result::success);
  });
}

TEST_CASE("X contract: a box of tiles takes the tiles of the pool row by row", "[gpu]") {
  for_each_sparse([](Rig& rig) {
    Sparse sparse(rig, rgba8(512, 512), 1);
    std::uint32_t* word = rig.pinned(4);
    ArrayMapInfo info = sparse.tile(0, 1, 0, 8);
    info.part.level.width *= 2;
    info.part.level.height *= 2;
    REQUIRE(sparse.map(info) == Result::success);
    for (std::uint32_t i = 0; i < 4; ++i) {
      word[i] = 10 + i;
      sparse.write(sparse.box(0, 128 * (1 + i % 2), 128 * (i / 2), 1, 1), &word[i]);
    }
    REQUIRE(rig.driver.stream_synchronize(sparse.stream) == Result::success);
    // The same tiles of the pool, one by one, in another place: an alias.
    for (std::uint32_t i = 0; i < 4; ++i) {
      word[i] = 0;
      REQUIRE(sparse.map(sparse.tile(0, i, 3, 8 + i)) == Result::success);
      sparse.read(sparse.box(0, 128 * i, 128 * 3, 1, 1), &word[i]);
      CHECK(word[i] == 10 + i);
    }
    CHECK(rig.driver.mem_free_host(word) == Result::success);
  });
}

TEST_CASE("X3 contract: tiles change hands in the order of the stream", "[gpu]") {
  for_each_sparse([](Rig& rig) {
    Sparse sparse(rig, rgba8(512, 512), 1);
    std::uint32_t* word = rig.pinned(3);
    word[0] = 1;
    word[1] = 2;
    // One tile of memory serves two places, one after the other, without a wait in between.
    REQUIRE(sparse.map(sparse.tile(0, 0, 0, 5)) == Result::success);
    sparse.write(sparse.box(0, 3, 3, 1, 1), &word[0]);
    REQUIRE(sparse.map(Sparse::without_memory(sparse.tile(0, 0, 0, 0))) == Result::success);
    REQUIRE(sparse.map(sparse.tile(0, 2, 2, 5)) == Result::success);
    sparse.read(sparse.box(0, 259, 259, 1, 1), &word[2]);
    CHECK(word[2] == 1);  // memory keeps its contents
    sparse.write(sparse.box(0, 259, 259, 1, 1), &word[1]);
    sparse.read(sparse.box(0, 3, 3, 1, 1), &word[2]);
    CHECK(word[2] == 0);
    sparse.read(sparse.box(0, 259, 259, 1, 1), &word[2]);
    CHECK(word[2] == 2);
    CHECK(rig.driver.mem_free_host(word) == Result::success);
  });
}

TEST_CASE("X contract: levels of the tail, and layers, keep their own contents", "[gpu]") {
  for_each_sparse([](Rig& rig) {
    Sparse sparse(rig, rgba8(256, 256, 3), 9, 4 * kGranule);
    std::uint32_t* word = rig.pinned(64);
    const unsigned first = sparse.properties.tail_first_level;
    const bool is_single = (sparse.properties.flags & kSingleMipTail) != 0;
    const auto tail_tiles = sparse.properties.tail_bytes / kTile;
    for (unsigned layer = 0; layer < (is_single ? 1u : 3u); ++layer) {
      ArrayMapInfo info = sparse.tail();
      info.part.tail.layer = layer;
      info.offset_bytes = layer * tail_tiles * kTile;
      REQUIRE(sparse.map(info) == Result::success);
    }
    unsigned count = 0;
    for (unsigned level = first; level < 9; ++level) {
      for (unsigned layer = 0; layer < 3; ++layer) {
        auto where = sparse.box(level, 0, 0, 1, 1);
        where.to.z = layer;
        word[count] = 100 + count;
        sparse.write(where, &word[count++]);
      }
    }
    count = 0;
    for (unsigned level = first; level < 9; ++level) {
      for (unsigned layer = 0; layer < 3; ++layer) {
        auto where = sparse.box(level, 0, 0, 1, 1);
        where.to.z = layer;
        sparse.read(where, &word[63]);
        CHECK(word[63] == 100 + count++);
      }
    }
    CHECK(rig.driver.mem_free_host(word) == Result::success);
  });
}

TEST_CASE("X contract: the memory of tiles is that of the pool, and stays while it is mapped", "[gpu]") {
  for_each_sparse([](Rig& rig) {
    std::size_t before = 0, now = 0, total = 0;
    REQUIRE(rig.driver.mem_get_info(&before, &total) == Result::success);
    {
      const ArrayDescription wanted = rgba8(512, 512);
      MipmappedArray array = nullptr;
      REQUIRE(rig.driver.mipmapped_array_create(&array, &wanted, 1) == Result::success);
      CHECK(rig.driver.mipmapped_array_destroy(array) == Result::success);
    }
    Sparse sparse(rig, rgba8(512, 512), 1);
    std::size_t with_pool = 0;
    REQUIRE(rig.driver.mem_get_info(&with_pool, &total) == Result::success);
    CHECK(before - with_pool >= 2 * kGranule);
    for (unsigned i = 0; i < 16; ++i) REQUIRE(sparse.map(sparse.tile(0, i % 4, i / 4, i)) == Result::success);
    REQUIRE(rig.driver.stream_synchronize(sparse.stream) == Result::success);
    REQUIRE(rig.driver.mem_get_info(&now, &total) == Result::success);
    CHECK(now == with_pool);
  });
}

TEST_CASE("X contract: copies of boxes refuse what lies outside", "[gpu]") {
  for_each_sparse([](Rig& rig) {
    Sparse sparse(rig, rgba8(300, 200), 1);
    std::uint32_t* word = rig.pinned(512);
    Copy3D copy = sparse.box(0, 299, 0, 2, 1);
    copy.from.host = word;
    rig.expect(Probe::copy_box_outside, rig.driver.memcpy_3d_async(&copy, sparse.stream));
    copy = sparse.box(0, 0, 0, 2, 1);
    copy.from.host = word;
    copy.from.pitch_bytes = 4;
    rig.expect(Probe::copy_box_short_pitch, rig.driver.memcpy_3d_async(&copy, sparse.stream));
    copy = sparse.box(0, 0, 0, 2, 1);
    copy.from.host = word;
    copy.depth = 2;
    copy.from.height = 1;
    rig.expect(Probe::copy_box_too_deep, rig.driver.memcpy_3d_async(&copy, sparse.stream));
    copy = sparse.box(0, 0, 0, 2, 1);
    rig.expect(Probe::copy_box_null, rig.driver.memcpy_3d_async(&copy, sparse.stream));
    CHECK(rig.driver.mem_free_host(word) == Result::success);
  });
}

TEST_CASE("X emulated GPU: without sparse arrays there are none", "[gpu]") {
  EmulatedGpu::Options options = small();
  options.has_sparse_arrays = false;
  on_emulator(options, [](Rig& rig) {
    CHECK_FALSE(has_sparse_arrays(rig));
    MipmappedArray array = nullptr;
    const ArrayDescription wanted = rgba8(512, 512);
    CHECK(rig.driver.mipmapped_array_create(&array, &wanted, 1) == Result::not_supported);
  });
}

TEST_CASE("X emulated GPU: what is forgotten of sparse arrays ends with the context", "[gpu]") {
  on_emulator(small(), [](Rig& rig) {
    const ArrayDescription wanted = rgba8(512, 512);
    MipmappedArray array = nullptr;
    REQUIRE(rig.driver.mipmapped_array_create(&array, &wanted, 1) == Result::success);
    AllocationProperties properties = Rig::properties();
    properties.flags.usage = kUsageTilePool;
    MemoryHandle pool = 0;
    REQUIRE(rig.driver.mem_create(&pool, kGranule, &properties, 0) == Result::success);
    ArrayMapInfo info = {};
    info.resource_type = ResourceType::mipmapped_array;
    info.resource.mipmap = array;
    info.part.level = {0, 0, 0, 0, 0, 128, 128, 1};
    info.operation = MemoryOperation::map;
    info.handle = pool;
    info.device_mask = 1;
    REQUIRE(rig.driver.mem_map_array_async(&info, 1, nullptr) == Result::success);
    CHECK(rig.driver.mem_release(pool) == Result::success);
    CHECK(rig.emulated->usage().handles == 1);  // the tile keeps it
    CHECK(rig.emulated->usage().arrays == 1);
  });
}
