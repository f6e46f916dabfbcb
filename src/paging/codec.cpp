// Codecs; see codec.h. ZSTD_STATIC_LINKING_ONLY gives the static contexts: fixed memory, no malloc.
#include "src/paging/codec.h"

#include <lz4.h>
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include <cstring>

#include "platform/vm.h"
#include "src/base/bits.h"
#include "src/base/check.h"

namespace glebe::paging {
namespace {

// Level 3 gains nothing over 1 on heap pages and costs twice the time.
constexpr int kZstdLevel = 1;
constexpr int kLz4Acceleration = 1;
constexpr std::size_t kWordBytes = sizeof(std::uint64_t);

std::size_t zstd_compress_bytes() noexcept { return align_up(ZSTD_estimateCCtxSize(kZstdLevel), 4096); }
std::size_t zstd_expand_bytes() noexcept { return align_up(ZSTD_estimateDCtxSize(), 4096); }

std::size_t compress_lz4(const ScratchParts& parts, std::span<const std::byte> data,
                         std::size_t limit_bytes) noexcept {
  const int made = LZ4_compress_fast_extState(
      parts.lz4, reinterpret_cast<const char*>(data.data()), reinterpret_cast<char*>(parts.packed),
      static_cast<int>(data.size()), static_cast<int>(limit_bytes), kLz4Acceleration);
  return made > 0 ? static_cast<std::size_t>(made) : 0;
}

std::size_t compress_zstd(const ScratchParts& parts, std::span<const std::byte> data,
                          std::size_t limit_bytes) noexcept {
  const std::size_t made = ZSTD_compressCCtx(static_cast<ZSTD_CCtx*>(parts.zstd_compress), parts.packed,
                                             limit_bytes, data.data(), data.size(), kZstdLevel);
  return ZSTD_isError(made) != 0u ? 0 : made;
}

}  // namespace

bool Scratch::open(Codec codec) noexcept {
  CHECK(base_ == nullptr);
  std::size_t size_bytes = 2 * kObjectBytesMax;
  size_bytes += codec == Codec::lz4 ? align_up(static_cast<std::size_t>(LZ4_sizeofState()), 4096)
                                    : zstd_compress_bytes() + zstd_expand_bytes();
  void* const base = os::reserve(size_bytes, os::page_bytes());
  if (base == nullptr) return false;
  base_ = static_cast<std::byte*>(base);
  size_bytes_ = size_bytes;
  codec_ = codec;
  bool is_ready = os::commit(base_, size_bytes_);
  if (is_ready && codec == Codec::zstd) {
    const ScratchParts parts(*this);
    is_ready = ZSTD_initStaticCCtx(parts.zstd_compress, zstd_compress_bytes()) != nullptr &&
               ZSTD_initStaticDCtx(parts.zstd_expand, zstd_expand_bytes()) != nullptr;
  }
  if (!is_ready) close();
  return is_ready;
}

void Scratch::close() noexcept {
  if (base_ != nullptr) os::release(base_, size_bytes_);
  base_ = nullptr;
  size_bytes_ = 0;
}

Scratch::~Scratch() { close(); }

ScratchParts::ScratchParts(Scratch& scratch) noexcept
    : packed(scratch.base_),
      sectors(scratch.base_ + kObjectBytesMax),
      lz4(nullptr),
      zstd_compress(nullptr),
      zstd_expand(nullptr) {
  CHECK(scratch.base_ != nullptr);
  std::byte* const state = sectors + kObjectBytesMax;
  if (scratch.codec_ == Codec::lz4) {
    lz4 = state;
  } else {
    zstd_compress = state;
    zstd_expand = state + zstd_compress_bytes();
  }
}

bool is_filled(const std::byte* data, std::size_t size_bytes, std::uint64_t* word) noexcept {
  if (size_bytes < kWordBytes) return false;
  std::memcpy(word, data, kWordBytes);
  // Most pages differ early: the second word decides before memcmp is called.
  std::uint64_t second;
  if (size_bytes >= 2 * kWordBytes) {
    std::memcpy(&second, data + kWordBytes, kWordBytes);
    if (second != *word) return false;
  }
  return std::memcmp(data, data + kWordBytes, size_bytes - kWordBytes) == 0;
}

void fill(std::byte* to, std::size_t size_bytes, std::uint64_t word) noexcept {
  std::size_t at = 0;
  for (; at + kWordBytes <= size_bytes; at += kWordBytes) std::memcpy(to + at, &word, kWordBytes);
  std::memcpy(to + at, &word, size_bytes - at);
}

std::optional<Stored> compress(Codec codec, std::span<const std::byte> data, std::size_t limit_bytes,
                               Scratch& scratch) noexcept {
  const ScratchParts parts(scratch);
  CHECK(data.size() <= kObjectBytesMax);
  CHECK(limit_bytes <= kObjectBytesMax);
  CHECK((codec == Codec::lz4) == (parts.lz4 != nullptr));
  const std::size_t made =
      codec == Codec::lz4 ? compress_lz4(parts, data, limit_bytes) : compress_zstd(parts, data, limit_bytes);
  if (made == 0) return std::nullopt;
  return Stored{parts.packed, static_cast<std::uint32_t>(made), static_cast<std::uint32_t>(data.size()),
                codec == Codec::lz4 ? Form::lz4 : Form::zstd};
}

bool expand(const Stored& stored, std::byte* to, Scratch& scratch) noexcept {
  const std::size_t size_bytes = stored.size_bytes;
  switch (stored.form) {
    case Form::raw:
      if (stored.stored_bytes != size_bytes) return false;
      if (stored.data != to) std::memcpy(to, stored.data, size_bytes);
      return true;
    case Form::fill: {
      if (stored.stored_bytes != kWordBytes) return false;
      std::uint64_t word;
      std::memcpy(&word, stored.data, kWordBytes);
      fill(to, size_bytes, word);
      return true;
    }
    case Form::lz4:
      return LZ4_decompress_safe(reinterpret_cast<const char*>(stored.data), reinterpret_cast<char*>(to),
                                 static_cast<int>(stored.stored_bytes),
                                 static_cast<int>(size_bytes)) == static_cast<int>(size_bytes);
    case Form::zstd: {
      const ScratchParts parts(scratch);
      if (parts.zstd_expand == nullptr) return false;
      return ZSTD_decompressDCtx(static_cast<ZSTD_DCtx*>(parts.zstd_expand), to, size_bytes, stored.data,
                                 stored.stored_bytes) == size_bytes;
    }
  }
  return false;
}

}  // namespace glebe::paging
