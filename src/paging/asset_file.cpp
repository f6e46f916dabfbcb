// Reading asset files; see asset_file.h and asset_format.h.
#include "src/paging/asset_file.h"

#include <cstring>

#include "src/base/check.h"
#include "src/paging/checksum.h"

namespace glebe::paging {
namespace {

constexpr std::size_t kCheckedHeaderBytes = offsetof(AssetHeader, header_checksum);

std::uint64_t blocks_for(std::uint64_t size_bytes) noexcept {
  return size_bytes / kObjectBytesMax + (size_bytes % kObjectBytesMax != 0 ? 1 : 0);
}

}  // namespace

const char* asset_problem_text(AssetProblem problem) noexcept {
  switch (problem) {
    case AssetProblem::none:
      return "no problem";
    case AssetProblem::cannot_open:
      return "the file cannot be opened: is the path right, and may this user read it?";
    case AssetProblem::cannot_read:
      return "the system failed to read the file: look for errors of the disk";
    case AssetProblem::not_an_asset:
      return "this is no asset file of glebe";
    case AssetProblem::unknown_version:
      return "the file was made by another version of glebe: make it again with this one";
    case AssetProblem::corrupt_header:
      return "the header of the file is damaged: copy or make the file again";
    case AssetProblem::wrong_length:
      return "the file is not as long as it was: copy it again";
    case AssetProblem::corrupt_directory:
      return "the directory of the file is damaged: copy or make the file again";
    case AssetProblem::no_memory:
      return "no memory for the directory of the file";
    case AssetProblem::bad_name:
      return "the name of an object is empty, too long, or used twice";
    case AssetProblem::cannot_write:
      return "the file cannot be written: is there space, and may this user write there?";
  }
  return "unknown problem";
}

AssetProblem AssetFile::open(const char* path) noexcept {
  close();
  file_ = os::File::open_read(path);
  if (!file_.is_open()) return AssetProblem::cannot_open;
  AssetProblem problem = read_header();
  if (problem == AssetProblem::none) problem = read_directory();
  if (problem != AssetProblem::none) close();
  return problem;
}

void AssetFile::close() noexcept {
  file_.close();
  directory_.release();
  header_ = AssetHeader{};
}

AssetProblem AssetFile::read_header() noexcept {
  const std::uint64_t length = file_.size_bytes();
  if (length < sizeof header_) return AssetProblem::not_an_asset;
  if (!file_.read_at(0, &header_, sizeof header_)) return AssetProblem::cannot_read;
  if (std::memcmp(header_.magic, kAssetMagic, sizeof kAssetMagic) != 0) return AssetProblem::not_an_asset;
  if (header_.version != kAssetVersion) return AssetProblem::unknown_version;
  const std::uint64_t sum = checksum(reinterpret_cast<const std::byte*>(&header_), kCheckedHeaderBytes, 0);
  if (sum != header_.header_checksum) return AssetProblem::corrupt_header;
  if (header_.header_bytes != sizeof header_) return AssetProblem::corrupt_header;
  if (header_.file_bytes != length) return AssetProblem::wrong_length;
  // Written so that nothing can wrap around.
  const bool is_inside = header_.directory_offset >= sizeof header_ && header_.directory_offset <= length &&
                         header_.directory_bytes == length - header_.directory_offset;
  const std::uint64_t entries = std::uint64_t{header_.object_count} * sizeof(AssetObject) +
                                std::uint64_t{header_.block_count} * sizeof(AssetBlock);
  const bool is_whole = header_.object_count != kNone && entries <= header_.directory_bytes;
  return is_inside && is_whole ? AssetProblem::none : AssetProblem::corrupt_header;
}

AssetProblem AssetFile::read_directory() noexcept {
  const std::size_t bytes = header_.directory_bytes;
  if (bytes == 0) return AssetProblem::none;
  if (!directory_.reserve(bytes, bytes, os::page_bytes()) || !directory_.grow_to(bytes)) {
    return AssetProblem::no_memory;
  }
  if (!file_.read_at(header_.directory_offset, directory_.base(), bytes)) return AssetProblem::cannot_read;
  if (checksum(directory_.base(), bytes, header_.file_bytes) != header_.directory_checksum) {
    return AssetProblem::corrupt_directory;
  }
  std::uint32_t next_block = 0;
  for (std::uint32_t index = 0; index < header_.object_count; ++index) {
    const AssetObject& object = objects()[index];
    if (object.first_block != next_block || !is_object_valid(index)) return AssetProblem::corrupt_directory;
    next_block += object.block_count;
  }
  return next_block == header_.block_count ? AssetProblem::none : AssetProblem::corrupt_directory;
}

std::uint64_t AssetFile::names_bytes() const noexcept {
  return header_.directory_bytes - std::uint64_t{header_.object_count} * sizeof(AssetObject) -
         std::uint64_t{header_.block_count} * sizeof(AssetBlock);
}

// Its blocks and its name lie where they may, and it stands behind the object in front of it.
bool AssetFile::is_object_valid(std::uint32_t index) const noexcept {
  const AssetObject& object = objects()[index];
  if (object.name_bytes == 0 || object.name_bytes > kAssetNameBytesMax) return false;
  if (object.name_offset > names_bytes() || object.name_bytes > names_bytes() - object.name_offset)
    return false;
  if (index != 0 && name(index - 1) >= name(index)) return false;
  if (object.first_block > header_.block_count) return false;
  if (object.block_count > header_.block_count - object.first_block) return false;
  if (object.block_count != blocks_for(object.size_bytes)) return false;
  std::uint64_t left = object.size_bytes;
  for (std::uint32_t i = 0; i < object.block_count; ++i) {
    const std::uint64_t size = left < kObjectBytesMax ? left : kObjectBytesMax;
    if (!is_block_valid(blocks()[object.first_block + i], size)) return false;
    left -= size;
  }
  return true;
}

bool AssetFile::is_block_valid(const AssetBlock& block, std::uint64_t size_bytes) const noexcept {
  if (block.offset < sizeof(AssetHeader) || block.offset > header_.directory_offset) return false;
  if (block.stored_bytes == 0 || block.stored_bytes > kObjectBytesMax) return false;
  if (block.stored_bytes > header_.directory_offset - block.offset) return false;
  if ((block.reserved[0] | block.reserved[1] | block.reserved[2]) != 0) return false;
  if (block.form == Form::raw) return block.stored_bytes == size_bytes;
  return block.form == Form::fill || block.form == Form::lz4 || block.form == Form::zstd;
}

std::string_view AssetFile::name(std::uint32_t index) const noexcept {
  CHECK(index < header_.object_count);
  return {names() + objects()[index].name_offset, objects()[index].name_bytes};
}

std::uint64_t AssetFile::size_bytes(std::uint32_t index) const noexcept {
  CHECK(index < header_.object_count);
  return objects()[index].size_bytes;
}

std::uint32_t AssetFile::find(std::string_view wanted) const noexcept {
  std::uint32_t low = 0;
  std::uint32_t high = header_.object_count;
  while (low < high) {
    const std::uint32_t middle = low + (high - low) / 2;
    if (name(middle) < wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < header_.object_count && name(low) == wanted ? low : kNone;
}

GetResult AssetFile::read(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to,
                          Scratch& scratch) const noexcept {
  CHECK(index < header_.object_count);
  const AssetObject& object = objects()[index];
  CHECK(offset <= object.size_bytes);
  CHECK(to.size() <= object.size_bytes - offset);
  while (!to.empty()) {
    const std::uint64_t number = offset / kObjectBytesMax;
    const std::uint64_t begin = number * kObjectBytesMax;
    const std::uint64_t left = object.size_bytes - begin;
    const std::size_t block_bytes = left < kObjectBytesMax ? left : kObjectBytesMax;
    const std::size_t skipped = offset - begin;
    const std::size_t wanted = block_bytes - skipped < to.size() ? block_bytes - skipped : to.size();
    // A whole block is unpacked where it is wanted, a part of one beside it.
    std::byte* const at = wanted == block_bytes ? to.data() : ScratchParts(scratch).packed;
    const auto block = static_cast<std::uint32_t>(object.first_block + number);
    const GetResult result = read_block(block, block_bytes, at, scratch);
    if (result != GetResult::ok) return result;
    if (at != to.data()) std::memcpy(to.data(), at + skipped, wanted);
    offset += wanted;
    to = to.subspan(wanted);
  }
  return GetResult::ok;
}

GetResult AssetFile::read_block(std::uint32_t number, std::size_t size_bytes, std::byte* to,
                                Scratch& scratch) const noexcept {
  const AssetBlock& block = blocks()[number];
  std::byte* const from = ScratchParts(scratch).sectors;
  if (!file_.read_at(block.offset, from, block.stored_bytes)) return GetResult::io_error;
  if (checksum(from, block.stored_bytes, block.offset) != block.checksum) return GetResult::corrupt;
  const Stored stored{from, block.stored_bytes, static_cast<std::uint32_t>(size_bytes), block.form};
  return expand(stored, to, scratch) ? GetResult::ok : GetResult::corrupt;
}

}  // namespace glebe::paging
