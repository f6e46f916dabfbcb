// Blocks straight from the driver: cuMemAlloc and cuMemFree (namespace glebe::device). The slowest source,
// and the one without any state: for baselines, and for programs that want a thin layer only. Unlike the
// others it cannot tell a foreign address from a double free; the driver refuses both. Alignments above 512
// bytes are refused, because the driver promises no more.
#pragma once

#include "src/device/block_source.h"

namespace glebe::device {

inline constexpr std::uint64_t kDriverAlignBytes = 512;

// `gpu` outlives the table.
[[nodiscard]] inline BlockSource driver_source(Gpu& gpu) noexcept {
  BlockSource source;
  source.self = &gpu;
  source.allocate = [](void* self, std::uint64_t size_bytes, std::uint64_t align_bytes,
                       cuda::DevicePointer* address) -> Outcome {
    auto& owner = *static_cast<Gpu*>(self);
    if (size_bytes == 0 || align_bytes > kDriverAlignBytes || (align_bytes & (align_bytes - 1)) != 0) {
      return Status::bad_argument;
    }
    const CurrentContext current(owner);
    return owner.check(owner.driver().mem_alloc(address, size_bytes));
  };
  source.free = [](void* self, cuda::DevicePointer address) -> Outcome {
    auto& owner = *static_cast<Gpu*>(self);
    const CurrentContext current(owner);
    const cuda::Result answer = owner.driver().mem_free(address);
    return answer == cuda::Result::invalid_value ? Outcome(Status::not_owned, answer) : owner.check(answer);
  };
  source.trim = [](void*, std::uint64_t) -> std::uint64_t { return 0; };  // it holds nothing back
  return source;
}

}  // namespace glebe::device
