// What a glebe_unified points to (namespace glebe::api).
#pragma once

#include <glebe/device_unified.h>

#include "src/api/device_handles.h"
#include "src/device/unified_buffer.h"

namespace glebe::api {

struct OwnUnified {
  paging::Budget budget;
  dev::UnifiedMemory memory;  // ends before what it is charged to
};

[[nodiscard]] inline OwnUnified& own(glebe_unified* unified) noexcept {
  return *reinterpret_cast<OwnUnified*>(unified);
}

}  // namespace glebe::api
