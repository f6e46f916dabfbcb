#include "src/vm/metadata.h"

#include "platform/vm.h"
#include "src/base/check.h"
#include "src/vm/ledger.h"
#include "src/vm/region.h"

namespace glebe::vm {
namespace {

constexpr std::size_t kMetadataAlignMax = 64 * kKiB;
constexpr std::size_t kCommitStepBytes = 32 * kKiB;

void* take_from(Region& region, std::size_t size_bytes, std::size_t align_bytes) {
  const std::size_t start = align_up(region.metadata_used, align_bytes);
  if (start > region.metadata_bytes || size_bytes > region.metadata_bytes - start) return nullptr;
  const std::size_t end = start + size_bytes;
  if (end > region.metadata_committed) {
    std::size_t wanted = align_up(end, kCommitStepBytes);
    if (wanted > region.metadata_bytes) wanted = region.metadata_bytes;
    const std::size_t grown = wanted - region.metadata_committed;
    if (!os::commit(region.metadata + region.metadata_committed, grown)) return nullptr;
    ledger_commit(grown);
    ledger.metadata_bytes.fetch_add(grown, std::memory_order_relaxed);
    region.metadata_committed = wanted;
  }
  region.metadata_used = end;
  return region.metadata + start;
}

}  // namespace

void* metadata_allocate(std::size_t size_bytes, std::size_t align_bytes) noexcept {
  CHECK(is_power_of_two(align_bytes));
  CHECK(align_bytes <= kMetadataAlignMax);
  if (!ensure_primary()) return nullptr;
  os::Lock hold(region_lock);
  const unsigned count = region_count.load(std::memory_order_relaxed);
  for (unsigned i = 0; i < count; ++i) {
    if (void* memory = take_from(regions[i], size_bytes, align_bytes)) return memory;
  }
  if (size_bytes > kMiB / 2) return nullptr;  // a region's arena may be as small as 1 MiB
  Region* added = add_region(1);
  return added != nullptr ? take_from(*added, size_bytes, align_bytes) : nullptr;
}

}  // namespace glebe::vm
