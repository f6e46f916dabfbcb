// Writing asset files; see asset_file.h and asset_format.h.
#include <algorithm>
#include <cstring>

#include "src/base/check.h"
#include "src/paging/asset_file.h"
#include "src/paging/checksum.h"

namespace glebe::paging {
namespace {

constexpr std::size_t kTableBytes = 16 * kGiB;  // addresses for each table; less where there are less
constexpr std::size_t kTableBytesMin = kMiB;
constexpr unsigned kWorth64ths = 60;  // a block that compresses to more than this is written raw

}  // namespace

AssetProblem AssetWriter::open(const char* path, Codec codec) noexcept {
  codec_ = codec;
  object_count_ = block_count_ = names_bytes_ = 0;
  end_ = sizeof(AssetHeader);
  for (GrowingMemory* table : {&objects_, &blocks_, &names_}) {
    if (!table->reserve(kTableBytes, kTableBytesMin, os::page_bytes())) return AssetProblem::no_memory;
  }
  return file_.open(path) == 0 ? AssetProblem::none : AssetProblem::cannot_write;
}

AssetProblem AssetWriter::fail(AssetProblem problem) noexcept {
  file_.abandon();
  return problem;
}

AssetProblem AssetWriter::add(std::string_view name, const std::byte* data, std::uint64_t size_bytes,
                              Scratch& scratch) noexcept {
  if (!file_.is_open()) return AssetProblem::cannot_write;
  if (name.empty() || name.size() > kAssetNameBytesMax) return AssetProblem::bad_name;
  const std::uint64_t names_end = std::uint64_t{names_bytes_} + name.size();
  if (names_end > UINT32_MAX || object_count_ == AssetFile::kNone - 1) return fail(AssetProblem::no_memory);
  if (!names_.grow_to(names_end) || !objects_.grow_to((object_count_ + 1) * sizeof(AssetObject))) {
    return fail(AssetProblem::no_memory);
  }
  std::memcpy(names_.base() + names_bytes_, name.data(), name.size());
  AssetObject& object = objects()[object_count_];
  object = AssetObject{size_bytes, block_count_, 0, names_bytes_, static_cast<std::uint32_t>(name.size())};
  for (std::uint64_t done = 0; done < size_bytes;) {
    const std::uint64_t left = size_bytes - done;
    const std::size_t bytes = left < kObjectBytesMax ? left : kObjectBytesMax;
    const AssetProblem problem = add_block(data + done, bytes, scratch);
    if (problem != AssetProblem::none) return fail(problem);
    done += bytes;
  }
  object.block_count = block_count_ - object.first_block;
  names_bytes_ = static_cast<std::uint32_t>(names_end);
  ++object_count_;
  return AssetProblem::none;
}

AssetProblem AssetWriter::add_block(const std::byte* data, std::size_t size_bytes,
                                    Scratch& scratch) noexcept {
  if (block_count_ == UINT32_MAX) return AssetProblem::no_memory;
  if (!blocks_.grow_to((std::size_t{block_count_} + 1) * sizeof(AssetBlock))) return AssetProblem::no_memory;
  const auto size = static_cast<std::uint32_t>(size_bytes);
  std::uint64_t word = 0;
  Stored stored{data, size, size, Form::raw};
  if (is_filled(data, size_bytes, &word)) {
    stored = Stored{reinterpret_cast<const std::byte*>(&word), sizeof word, size, Form::fill};
  } else {
    const std::size_t limit = size_bytes * kWorth64ths / 64;
    stored = compress(codec_, {data, size_bytes}, limit, scratch).value_or(stored);
  }
  if (file_.write(end_, stored.data, stored.stored_bytes) != 0) return AssetProblem::cannot_write;
  const std::uint64_t sum = checksum(stored.data, stored.stored_bytes, end_);
  reinterpret_cast<AssetBlock*>(blocks_.base())[block_count_] =
      AssetBlock{end_, sum, stored.stored_bytes, stored.form, {}};
  end_ += stored.stored_bytes;
  ++block_count_;
  return AssetProblem::none;
}

std::string_view AssetWriter::name_of(const AssetObject& object) const noexcept {
  return {reinterpret_cast<const char*>(names_.base()) + object.name_offset, object.name_bytes};
}

// False: a name is used twice.
bool AssetWriter::sort_objects() noexcept {
  const auto is_before = [this](const AssetObject& a, const AssetObject& b) noexcept {
    return name_of(a) < name_of(b);
  };
  std::sort(objects(), objects() + object_count_, is_before);
  for (std::uint32_t i = 1; i < object_count_; ++i) {
    if (name_of(objects()[i - 1]) == name_of(objects()[i])) return false;
  }
  return true;
}

AssetProblem AssetWriter::write_directory(AssetHeader& header) noexcept {
  header.directory_offset = end_;
  header.directory_bytes = std::uint64_t{object_count_} * sizeof(AssetObject) +
                           std::uint64_t{block_count_} * sizeof(AssetBlock) + names_bytes_;
  header.file_bytes = end_ + header.directory_bytes;
  header.object_count = object_count_;
  header.block_count = block_count_;
  const std::size_t bytes = header.directory_bytes;
  if (bytes == 0) {
    header.directory_checksum = 0;
    return AssetProblem::none;
  }
  if (!directory_.reserve(bytes, bytes, os::page_bytes()) || !directory_.grow_to(bytes)) {
    return AssetProblem::no_memory;
  }
  // The blocks go into the order of the objects.
  auto* const sorted = reinterpret_cast<AssetObject*>(directory_.base());
  auto* const sorted_blocks = reinterpret_cast<AssetBlock*>(sorted + object_count_);
  const auto* const blocks = reinterpret_cast<const AssetBlock*>(blocks_.base());
  std::uint32_t next_block = 0;
  for (std::uint32_t i = 0; i < object_count_; ++i) {
    AssetObject object = objects()[i];
    std::memcpy(sorted_blocks + next_block, blocks + object.first_block,
                object.block_count * sizeof(AssetBlock));
    object.first_block = next_block;
    sorted[i] = object;
    next_block += object.block_count;
  }
  std::memcpy(sorted_blocks + block_count_, names_.base(), names_bytes_);
  header.directory_checksum = checksum(directory_.base(), bytes, header.file_bytes);
  const int error = file_.write(end_, directory_.base(), bytes);
  return error == 0 ? AssetProblem::none : AssetProblem::cannot_write;
}

AssetProblem AssetWriter::finish() noexcept {
  if (!file_.is_open()) return AssetProblem::cannot_write;
  if (!sort_objects()) return fail(AssetProblem::bad_name);
  AssetHeader header{};
  std::memcpy(header.magic, kAssetMagic, sizeof kAssetMagic);
  header.version = kAssetVersion;
  header.header_bytes = sizeof header;
  const AssetProblem problem = write_directory(header);
  if (problem != AssetProblem::none) return fail(problem);
  const auto* const bytes = reinterpret_cast<const std::byte*>(&header);
  header.header_checksum = checksum(bytes, offsetof(AssetHeader, header_checksum), 0);
  if (file_.write(0, bytes, sizeof header) != 0 || file_.commit() != 0)
    return fail(AssetProblem::cannot_write);
  return AssetProblem::none;
}

}  // namespace glebe::paging
