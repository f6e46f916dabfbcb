// Checks that the tests of explicit buffers share; included after catch.h and random.h.
#pragma once

#include <vector>

#include "tests/buffer_rig.h"

inline constexpr glebe::paging::ByteRange kOne{0, kExtent};
inline constexpr glebe::paging::Tier kAllTiers[] = {glebe::paging::Tier::host,
                                                    glebe::paging::Tier::compressed,
                                                    glebe::paging::Tier::device, glebe::paging::Tier::file};

// A rig whose pager is open; change(options) says what is other than in BufferRig::options().
struct OpenRig : BufferRig {
  OpenRig() : OpenRig([](glebe::paging::BufferPagerOptions&) {}) {}
  template <class Change>
  explicit OpenRig(Change change) {
    glebe::paging::BufferPagerOptions wanted = options();
    change(wanted);
    REQUIRE(pager.open(wanted) == glebe::paging::Result::ok);
  }
};

inline glebe::paging::BufferHandle make(glebe::paging::BufferPager& pager, std::size_t size_bytes,
                                        const glebe::paging::BufferOptions& options = {}) {
  glebe::paging::BufferHandle handle = 0;
  REQUIRE(pager.create(size_bytes, options, &handle) == glebe::paging::Result::ok);
  return handle;
}

// `count` buffers of an extent each, filled with their index.
inline std::vector<glebe::paging::BufferHandle> make_filled(
    glebe::paging::BufferPager& pager, std::size_t count,
    glebe::paging::Usage usage = glebe::paging::Usage::static_use) {
  std::vector<glebe::paging::BufferHandle> buffers;
  glebe::paging::BufferOptions options;
  options.usage = usage;
  for (std::size_t i = 0; i < count; ++i) {
    buffers.push_back(make(pager, kExtent, options));
    REQUIRE(fill(pager, buffers.back(), kOne, i));
  }
  return buffers;
}

inline glebe::paging::BufferInfo info_of(glebe::paging::BufferPager& pager,
                                         glebe::paging::BufferHandle buffer) {
  glebe::paging::BufferInfo info;
  REQUIRE(pager.info(buffer, &info) == glebe::paging::Result::ok);
  return info;
}
inline std::size_t valid_in(glebe::paging::BufferPager& pager, glebe::paging::BufferHandle buffer,
                            glebe::paging::Tier tier) {
  return info_of(pager, buffer).valid_bytes[static_cast<unsigned>(tier)];
}
inline bool is_resident(glebe::paging::BufferPager& pager, glebe::paging::BufferHandle buffer) {
  return valid_in(pager, buffer, glebe::paging::Tier::host) != 0;
}

inline void require_balance(glebe::paging::BufferPager& pager) {
  const glebe::paging::BufferPagerStats stats = pager.stats();
  REQUIRE(stats.resident_bytes + stats.paged_out_bytes + stats.unbacked_bytes == stats.total_bytes);
  REQUIRE(pager.validate());
}

inline void require_contents(glebe::paging::BufferPager& pager,
                             const std::vector<glebe::paging::BufferHandle>& buffers) {
  Expect expect;
  for (std::size_t i = 0; i < buffers.size(); ++i) expect(holds(pager, buffers[i], kOne, i));
  REQUIRE(expect.failed_line() == 0);
}
