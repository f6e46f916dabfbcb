// Codecs: how an object is written down (namespace glebe::paging). raw: as it is; fill: the eight bytes that
// it repeats; lz4 and zstd: compressed as one block or frame. All working memory comes from a Scratch; no
// call reaches malloc. Pure functions of their arguments, so threads need no care beyond a Scratch each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "src/paging/store.h"

namespace glebe::paging {

enum class Form : std::uint8_t { raw, fill, lz4, zstd };

// What is written down for an object: `stored_bytes` bytes at `data` in this form stand for `size_bytes`.
struct Stored {
  const std::byte* data = nullptr;
  std::uint32_t stored_bytes = 0;
  std::uint32_t size_bytes = 0;
  Form form = Form::raw;
};

// The parts of a Scratch.
struct ScratchParts {
  explicit ScratchParts(Scratch& scratch) noexcept;

  std::byte* packed;   // kObjectBytesMax, for what a codec makes
  std::byte* sectors;  // kObjectBytesMax, aligned to a page: what was read from a file
  void* lz4;           // nullptr when the Scratch was opened for zstd
  void* zstd_compress;
  void* zstd_expand;  // nullptr when it was opened for lz4
};

// Whether the bytes repeat their first eight; then *word is those.
[[nodiscard]] bool is_filled(const std::byte* data, std::size_t size_bytes, std::uint64_t* word) noexcept;
// Writes `word` again and again; the last one may be cut.
void fill(std::byte* to, std::size_t size_bytes, std::uint64_t word) noexcept;

// Compresses to at most `limit_bytes`; the result lies in the scratch until its next use. Nothing: it does
// not fit into that. `codec` is the one that the scratch was opened for.
[[nodiscard]] std::optional<Stored> compress(Codec codec, std::span<const std::byte> data,
                                             std::size_t limit_bytes, Scratch& scratch) noexcept;

// Makes the object again. False: what is stored does not stand for an object of that size, or the scratch has
// not the codec; what is at `to` is then unspecified, but nothing outside of it was touched.
[[nodiscard]] bool expand(const Stored& stored, std::byte* to, Scratch& scratch) noexcept;

}  // namespace glebe::paging
