#include "src/heap/fork.h"

#include "src/heap/granule_pool.h"
#include "src/heap/large.h"
#include "src/heap/medium.h"
#include "src/heap/registry.h"
#include "src/heap/remote.h"
#include "src/vm/region.h"

namespace glebe::heap {
namespace {

void regions_in_child() {
  if (!vm::region_lock.is_held() || vm::region_lock.held_by_me()) return;
  vm::region_lock.reset_in_child();
  const unsigned count = vm::region_count.load(std::memory_order_acquire);
  for (unsigned i = 0; i < count; ++i) vm::regions[i].frozen = true;
}

}  // namespace

void repair_in_child() noexcept {
  // From the bottom up, so that each step may already use what lies below it.
  regions_in_child();
  granules_in_child();
  medium_in_child();
  large_in_child();
  rings_in_child();
  registry_in_child();
}

}  // namespace glebe::heap
