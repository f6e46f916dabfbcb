// Read-mostly objects in a file that stays: named, compressed, verified (namespace glebe::paging).
//
// AssetWriter makes a file, which appears under its path when it is finished and not before. AssetFile opens
// one: header and directory are verified at once and in full, each block when it is read. The format is in
// asset_format.h. Neither calls malloc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "platform/file.h"
#include "platform/replacing_file.h"
#include "src/paging/asset_format.h"
#include "src/paging/growing_memory.h"
#include "src/paging/store.h"

namespace glebe::paging {

enum class AssetProblem : std::uint8_t {
  none,
  cannot_open,        // missing, or no permission
  cannot_read,        // the system failed to read it
  not_an_asset,       // too short for a header, or another magic
  unknown_version,    // made by another version of this library
  corrupt_header,     // its checksum is wrong
  wrong_length,       // cut off, or something was appended
  corrupt_directory,  // its checksum is wrong, or an entry lies outside of the file
  no_memory,
  bad_name,  // empty, longer than kAssetNameBytesMax, or used before
  cannot_write,
};
// One sentence for the user: what is wrong, and what to do.
[[nodiscard]] const char* asset_problem_text(AssetProblem problem) noexcept;

// An open asset file. After open() any thread may call any function but close(); a Scratch each.
class AssetFile {
 public:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};

  AssetFile() noexcept = default;
  AssetFile(const AssetFile&) = delete;
  AssetFile& operator=(const AssetFile&) = delete;

  [[nodiscard]] AssetProblem open(const char* path) noexcept;
  void close() noexcept;
  [[nodiscard]] bool is_open() const noexcept { return file_.is_open(); }

  // Objects are numbered in the order of their names.
  [[nodiscard]] std::uint32_t count() const noexcept { return header_.object_count; }
  [[nodiscard]] std::uint32_t find(std::string_view name) const noexcept;  // kNone: there is none
  [[nodiscard]] std::string_view name(std::uint32_t index) const noexcept;
  [[nodiscard]] std::uint64_t size_bytes(std::uint32_t index) const noexcept;

  // Copies bytes [offset, offset + to.size()) of an object, which lie inside of it. Only the blocks that
  // hold them are read, and all of these are verified. A Scratch for zstd reads files of both codecs; one for
  // lz4 calls blocks of zstd corrupt.
  [[nodiscard]] GetResult read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to,
                               Scratch& scratch) const noexcept;

 private:
  [[nodiscard]] AssetProblem read_header() noexcept;
  [[nodiscard]] AssetProblem read_directory() noexcept;
  [[nodiscard]] bool is_object_valid(std::uint32_t index) const noexcept;
  [[nodiscard]] bool is_block_valid(const AssetBlock& block, std::uint64_t size_bytes) const noexcept;
  [[nodiscard]] std::uint64_t names_bytes() const noexcept;
  [[nodiscard]] const AssetObject* objects() const noexcept {
    return reinterpret_cast<const AssetObject*>(directory_.base());
  }
  [[nodiscard]] const AssetBlock* blocks() const noexcept {
    return reinterpret_cast<const AssetBlock*>(objects() + header_.object_count);
  }
  [[nodiscard]] const char* names() const noexcept {
    return reinterpret_cast<const char*>(blocks() + header_.block_count);
  }
  [[nodiscard]] GetResult read_block(std::uint32_t number, std::size_t size_bytes, std::byte* to,
                                     Scratch& scratch) const noexcept;

  os::File file_;
  AssetHeader header_ = {};
  GrowingMemory directory_;
};

// Makes an asset file. Belongs to one thread.
class AssetWriter {
 public:
  AssetWriter() noexcept = default;
  AssetWriter(const AssetWriter&) = delete;
  AssetWriter& operator=(const AssetWriter&) = delete;

  // `path` is not touched before finish(). The codec is that of the Scratch given to add().
  [[nodiscard]] AssetProblem open(const char* path, Codec codec) noexcept;
  // After a failure, but bad_name, nothing can be added any more, and finish() refuses.
  [[nodiscard]] AssetProblem add(std::string_view name, const std::byte* data, std::uint64_t size_bytes,
                                 Scratch& scratch) noexcept;
  // Writes the directory, brings everything to the disk and puts the file in its place. Without it, the
  // destructor leaves nothing behind.
  [[nodiscard]] AssetProblem finish() noexcept;

 private:
  [[nodiscard]] AssetProblem add_block(const std::byte* data, std::size_t size_bytes,
                                       Scratch& scratch) noexcept;
  [[nodiscard]] AssetProblem fail(AssetProblem problem) noexcept;
  [[nodiscard]] AssetObject* objects() const noexcept {
    return reinterpret_cast<AssetObject*>(objects_.base());
  }
  [[nodiscard]] std::string_view name_of(const AssetObject& object) const noexcept;
  [[nodiscard]] bool sort_objects() noexcept;
  [[nodiscard]] AssetProblem write_directory(AssetHeader& header) noexcept;

  os::ReplacingFile file_;
  GrowingMemory objects_, blocks_, names_, directory_;
  std::uint32_t object_count_ = 0, block_count_ = 0, names_bytes_ = 0;
  std::uint64_t end_ = 0;  // of what was written
  Codec codec_ = Codec::lz4;
};

}  // namespace glebe::paging
