// Where the memory of a pool comes from (namespace glebe::device): a source owns a space of offsets
// [0, PoolSpace::size_bytes) and puts memory behind parts of it, the chunks, one after the other.
//
// The space of most sources is a range of addresses that is reserved at once, so an address is one sum for as
// long as the pool lives. Where the driver says the addresses (async_source.h) the space is numbers only, and
// the source knows the address of each chunk. Two sources have no addresses: tiles (a handle and an offset,
// for sparse arrays) and numbers (nothing at all: what is counted is the caller's). A source keeps no account
// of what is taken; the pool does, and calls take() and give() one at a time.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "src/device/chunk_pool.h"
#include "src/device/gpu.h"
#include "src/paging/growing_memory.h"

namespace glebe::device {

inline constexpr std::uint64_t kTileBytes = 64 * kKiB;  // of a sparse array
inline constexpr std::uint64_t kUnknownBytes = ~std::uint64_t{0};

struct PoolSpace {
  std::uint64_t size_bytes = 0;   // a multiple of chunk_bytes
  std::uint64_t chunk_bytes = 0;  // chunks start at multiples of this
  std::uint64_t align_bytes = 1;  // offset 0 is at a multiple of this power of two
};

// Starts at a multiple of PoolSpace::chunk_bytes and is a multiple of granule_bytes() long.
struct PoolChunk {
  std::uint64_t offset = 0;
  std::uint64_t size_bytes = 0;
};

// kGrainBytes: sizes of blocks are multiples of it. kAlignMaxBytes: chunks that start at multiples of it in
// the space do so in memory. kHasAddresses: address_of() is of memory. kSpansChunks: a chunk may be longer
// than PoolSpace::chunk_bytes. kIsCleared: clear() works; kClearsOnHost: and cannot fail.
template <class S>
concept ChunkSource = requires(S source, const typename S::Options& options, const PoolSpace& space,
                               PoolChunk chunk) {
  { S::kGrainBytes } -> std::convertible_to<std::uint64_t>;
  { S::kAlignMaxBytes } -> std::convertible_to<std::uint64_t>;
  { S::kHasAddresses } -> std::convertible_to<bool>;
  { S::kSpansChunks } -> std::convertible_to<bool>;
  { S::kIsCleared } -> std::convertible_to<bool>;
  { S::kClearsOnHost } -> std::convertible_to<bool>;
  // bad_argument: sizes that this source cannot do; others as the system or the driver answers. A failure
  // leaves nothing behind. close() may be called twice; all chunks were given back before.
  { source.open(options, space) }
  noexcept->std::same_as<Outcome>;
  { source.close() }
  noexcept;
  // All of the chunk or nothing.
  { source.take(chunk) }
  noexcept->std::same_as<Outcome>;
  // False: the system or the driver refuses, and the chunk is there as before.
  { source.give(chunk) }
  noexcept->std::same_as<bool>;
  // Sets a part of a chunk to zero before whoever gets it next uses it.
  { source.clear(chunk) }
  noexcept->std::same_as<Outcome>;
  // Where an offset in a chunk is, and which offset is at an address; at least PoolSpace::size_bytes: none
  // of a chunk. Both while other chunks are taken and given.
  { source.address_of(std::uint64_t{0}) }
  noexcept->std::same_as<std::uint64_t>;
  { source.offset_of(std::uint64_t{0}) }
  noexcept->std::same_as<std::uint64_t>;
  { source.granule_bytes() }
  noexcept->std::same_as<std::uint64_t>;
  // That could be taken at this moment; kUnknownBytes: nobody tells.
  { source.free_bytes() }
  noexcept->std::same_as<std::uint64_t>;
};

template <class S>
concept TiledSource = requires(const S& source) {
  source.place_of(std::uint64_t{0});
};

// Memory of the host. Chunks may be smaller than a page; a page has memory while a chunk lies in it.
class HostSource {
 public:
  struct Options {};
  static constexpr std::uint64_t kGrainBytes = 1, kAlignMaxBytes = kUnknownBytes;
  static constexpr bool kHasAddresses = true, kSpansChunks = true, kIsCleared = true, kClearsOnHost = true;

  HostSource() noexcept = default;
  ~HostSource() { close(); }
  HostSource(const HostSource&) = delete;
  HostSource& operator=(const HostSource&) = delete;

  Outcome open(const Options& options, const PoolSpace& space) noexcept;
  void close() noexcept;
  Outcome take(PoolChunk chunk) noexcept;
  bool give(PoolChunk chunk) noexcept;
  Outcome clear(PoolChunk part) noexcept;
  [[nodiscard]] std::uint64_t address_of(std::uint64_t offset) const noexcept { return base() + offset; }
  [[nodiscard]] std::uint64_t offset_of(std::uint64_t address) const noexcept { return address - base(); }
  [[nodiscard]] std::uint64_t granule_bytes() const noexcept { return granule_bytes_; }
  [[nodiscard]] std::uint64_t free_bytes() const noexcept { return kUnknownBytes; }

 private:
  [[nodiscard]] std::uint64_t base() const noexcept { return reinterpret_cast<std::uintptr_t>(base_); }
  [[nodiscard]] bool commit_page(std::uint64_t page) noexcept;
  void decommit_page(std::uint64_t page) noexcept;

  std::byte* base_ = nullptr;
  std::uint64_t size_bytes_ = 0, granule_bytes_ = 1;
  paging::GrowingMemory users_;  // of each page, when chunks do not end where pages end
};

// Memory of the host that the device reads and writes by itself: our own pages, registered with the driver
// (cuMemHostRegister), so that they stay in one range and can be given back by chunks.
class PinnedSource {
 public:
  struct Options {
    Gpu* gpu = nullptr;  // outlives the source
  };
  static constexpr std::uint64_t kGrainBytes = 1, kAlignMaxBytes = kUnknownBytes;
  static constexpr bool kHasAddresses = true, kSpansChunks = true, kIsCleared = true, kClearsOnHost = true;

  PinnedSource() noexcept = default;
  ~PinnedSource() { close(); }
  PinnedSource(const PinnedSource&) = delete;
  PinnedSource& operator=(const PinnedSource&) = delete;

  Outcome open(const Options& options, const PoolSpace& space) noexcept;
  void close() noexcept;
  Outcome take(PoolChunk chunk) noexcept;
  bool give(PoolChunk chunk) noexcept;
  Outcome clear(PoolChunk part) noexcept;
  [[nodiscard]] std::uint64_t address_of(std::uint64_t offset) const noexcept { return base() + offset; }
  [[nodiscard]] std::uint64_t offset_of(std::uint64_t address) const noexcept { return address - base(); }
  [[nodiscard]] std::uint64_t granule_bytes() const noexcept { return page_bytes_; }
  [[nodiscard]] std::uint64_t free_bytes() const noexcept { return kUnknownBytes; }

 private:
  [[nodiscard]] std::uint64_t base() const noexcept { return reinterpret_cast<std::uintptr_t>(base_); }
  Gpu* gpu_ = nullptr;
  std::byte* base_ = nullptr;
  std::uint64_t size_bytes_ = 0, page_bytes_ = 1;
};

// Memory of the device: handles of a ChunkPool, mapped one behind the other. The usual chunk is one handle.
class DeviceSource {
 public:
  struct Options {
    ChunkPool* chunks = nullptr;  // its chunk_bytes() is that of the pool; outlives the source
  };
  static constexpr std::uint64_t kGrainBytes = 1, kAlignMaxBytes = kUnknownBytes;
  static constexpr bool kHasAddresses = true, kSpansChunks = true, kIsCleared = true, kClearsOnHost = false;

  DeviceSource() noexcept = default;
  ~DeviceSource() { close(); }
  DeviceSource(const DeviceSource&) = delete;
  DeviceSource& operator=(const DeviceSource&) = delete;

  Outcome open(const Options& options, const PoolSpace& space) noexcept;
  void close() noexcept;
  Outcome take(PoolChunk chunk) noexcept;
  bool give(PoolChunk chunk) noexcept;
  Outcome clear(PoolChunk part) noexcept;
  [[nodiscard]] std::uint64_t address_of(std::uint64_t offset) const noexcept { return base_ + offset; }
  [[nodiscard]] std::uint64_t offset_of(std::uint64_t address) const noexcept { return address - base_; }
  [[nodiscard]] std::uint64_t granule_bytes() const noexcept { return handle_bytes_; }
  [[nodiscard]] std::uint64_t free_bytes() noexcept;

 private:
  [[nodiscard]] cuda::MemoryHandle* handles() const noexcept {
    return reinterpret_cast<cuda::MemoryHandle*>(handles_.base());
  }
  Outcome map(PoolChunk chunk, std::uint64_t* mapped_bytes) noexcept;
  [[nodiscard]] bool unmap(std::uint64_t offset, std::uint64_t size_bytes) noexcept;

  ChunkPool* chunks_ = nullptr;
  cuda::DevicePointer base_ = 0;
  std::uint64_t size_bytes_ = 0, handle_bytes_ = 1;
  cuda::Stream stream_ = nullptr;  // of clear()
  paging::GrowingMemory handles_;  // by offset / handle_bytes_
};

// Backing of sparse arrays: handles of a ChunkPool for tiles, which are mapped nowhere here. Blocks are whole
// tiles inside one handle; place_of() says which one.
class TileSource {
 public:
  struct Options {
    ChunkPool* chunks = nullptr;  // opened with is_tile_pool; its chunk_bytes() is that of the pool
  };
  static constexpr std::uint64_t kGrainBytes = kTileBytes, kAlignMaxBytes = kUnknownBytes;
  static constexpr bool kHasAddresses = false, kSpansChunks = false, kIsCleared = false,
                        kClearsOnHost = false;

  struct Place {
    cuda::MemoryHandle handle = 0;
    std::uint64_t offset_bytes = 0;  // in the handle
  };

  TileSource() noexcept = default;
  ~TileSource() { close(); }
  TileSource(const TileSource&) = delete;
  TileSource& operator=(const TileSource&) = delete;

  Outcome open(const Options& options, const PoolSpace& space) noexcept;
  void close() noexcept;
  Outcome take(PoolChunk chunk) noexcept;
  bool give(PoolChunk chunk) noexcept;
  Outcome clear(PoolChunk) noexcept { return Status::unsupported; }
  [[nodiscard]] std::uint64_t address_of(std::uint64_t offset) const noexcept { return offset; }
  [[nodiscard]] std::uint64_t offset_of(std::uint64_t address) const noexcept { return address; }
  [[nodiscard]] std::uint64_t granule_bytes() const noexcept { return handle_bytes_; }
  [[nodiscard]] std::uint64_t free_bytes() noexcept;

  // Of an offset in a chunk that is there. Thread-safe for whoever holds a block in that chunk.
  [[nodiscard]] Place place_of(std::uint64_t offset) const noexcept {
    const auto* handles = reinterpret_cast<const cuda::MemoryHandle*>(handles_.base());
    return {handles[offset / handle_bytes_], offset % handle_bytes_};
  }

 private:
  ChunkPool* chunks_ = nullptr;
  std::uint64_t handle_bytes_ = 1;
  paging::GrowingMemory handles_;
};

// No memory: numbers 0, 1, 2, ... for resources that the caller keeps. A size is a count of them.
class NumberSource {
 public:
  struct Options {};
  static constexpr std::uint64_t kGrainBytes = 1, kAlignMaxBytes = kUnknownBytes;
  static constexpr bool kHasAddresses = false, kSpansChunks = true, kIsCleared = false, kClearsOnHost = false;

  Outcome open(const Options&, const PoolSpace&) noexcept { return {}; }
  void close() noexcept {}
  Outcome take(PoolChunk) noexcept { return {}; }
  bool give(PoolChunk) noexcept { return true; }
  Outcome clear(PoolChunk) noexcept { return Status::unsupported; }
  [[nodiscard]] std::uint64_t address_of(std::uint64_t offset) const noexcept { return offset; }
  [[nodiscard]] std::uint64_t offset_of(std::uint64_t address) const noexcept { return address; }
  [[nodiscard]] std::uint64_t granule_bytes() const noexcept { return 1; }
  [[nodiscard]] std::uint64_t free_bytes() const noexcept { return kUnknownBytes; }
};

static_assert(ChunkSource<HostSource> && ChunkSource<PinnedSource> && ChunkSource<DeviceSource>);
static_assert(ChunkSource<TileSource> && ChunkSource<NumberSource>);

}  // namespace glebe::device
