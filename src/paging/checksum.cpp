// Checksums; see checksum.h. XXH_INLINE_ALL makes a private copy, so that no library is needed.
#include "src/paging/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace glebe::paging {

std::uint64_t checksum(const std::byte* data, std::size_t size_bytes, std::uint64_t identity) noexcept {
  return XXH3_64bits_withSeed(data, size_bytes, identity);
}

}  // namespace glebe::paging
