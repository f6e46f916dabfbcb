// The persistent form of read-mostly objects, version 1 (namespace glebe::paging).
//
//   AssetHeader           at 0
//   blocks                compressed or raw, one behind the other
//   AssetObject[objects]  at directory_offset, sorted by name (bytes, unsigned), no name twice
//   AssetBlock[blocks]    in the order of the objects
//   names                 without terminators
//
// An object is cut into blocks of kObjectBytesMax; the last one holds the rest. An empty object has none. All
// numbers are little-endian, all reserved bytes are 0, the file ends with the names. Nothing in a file is
// believed before its checksum and its bounds were verified.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "src/paging/codec.h"

namespace glebe::paging {

static_assert(std::endian::native == std::endian::little);

inline constexpr char kAssetMagic[8] = {'G', 'L', 'E', 'B', 'E', 'A', 'S', 'T'};
inline constexpr std::uint32_t kAssetVersion = 1;
inline constexpr std::uint32_t kAssetNameBytesMax = 4096;

struct AssetHeader {
  char magic[8];
  std::uint32_t version;
  std::uint32_t header_bytes;  // sizeof(AssetHeader)
  std::uint64_t file_bytes;
  std::uint64_t directory_offset, directory_bytes;
  std::uint32_t object_count, block_count;
  std::uint64_t directory_checksum;  // identity: file_bytes
  std::uint64_t header_checksum;     // of all that stands in front of it; identity: 0
};
static_assert(sizeof(AssetHeader) == 64);

struct AssetObject {
  std::uint64_t size_bytes;
  std::uint32_t first_block, block_count;
  std::uint32_t name_offset, name_bytes;  // in the names
};
static_assert(sizeof(AssetObject) == 24);

struct AssetBlock {
  std::uint64_t offset;    // in the file
  std::uint64_t checksum;  // of what is stored; identity: its offset
  std::uint32_t stored_bytes;
  Form form;
  std::uint8_t reserved[3];
};
static_assert(sizeof(AssetBlock) == 24);

}  // namespace glebe::paging
