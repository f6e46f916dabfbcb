// What a handle of include/glebe/paging.h points to, and the conversions that the files of that interface
// share (namespace glebe::api).
#pragma once

#include <glebe/paging.h>

#include "src/paging/buffer_pager.h"

namespace glebe::api {

namespace pg = glebe::paging;

void to_c(const pg::BudgetError& from, glebe_budget_error* to) noexcept;
[[nodiscard]] inline glebe_result to_c(pg::Result result) noexcept {
  return static_cast<glebe_result>(result);
}

// What the callbacks of C are called by; the context of the ledger.
struct CallbackBridge {
  glebe_budget_callbacks callbacks;

  pg::BudgetCallbacks table() noexcept {
    pg::BudgetCallbacks result;
    result.context = this;
    if (callbacks.reclaim != nullptr) {
      result.reclaim = [](void* context, std::uint64_t needed_bytes) {
        const auto& own = static_cast<CallbackBridge*>(context)->callbacks;
        return own.reclaim(own.context, needed_bytes) != 0;
      };
    }
    if (callbacks.warn != nullptr) {
      result.warn = [](void* context, const pg::BudgetError& error) {
        const auto& own = static_cast<CallbackBridge*>(context)->callbacks;
        glebe_budget_error converted;
        to_c(error, &converted);
        own.warn(own.context, &converted);
      };
    }
    return result;
  }
};

// A device of C as a table of ours.
struct DeviceBridge {
  glebe_device_memory device;

  pg::DeviceMemory table() noexcept {
    pg::DeviceMemory result{};
    result.context = this;
    result.allocate = [](void* context, std::size_t size) {
      const auto& own = static_cast<DeviceBridge*>(context)->device;
      return own.allocate(own.context, size);
    };
    result.free = [](void* context, pg::DeviceAddress address, std::size_t size) {
      const auto& own = static_cast<DeviceBridge*>(context)->device;
      own.free(own.context, address, size);
    };
    result.copy_in = [](void* context, pg::DeviceAddress to, const void* from, std::size_t size) {
      const auto& own = static_cast<DeviceBridge*>(context)->device;
      return own.copy_in(own.context, to, from, size) != 0;
    };
    result.copy_out = [](void* context, void* to, pg::DeviceAddress from, std::size_t size) {
      const auto& own = static_cast<DeviceBridge*>(context)->device;
      return own.copy_out(own.context, to, from, size) != 0;
    };
    return result;
  }
};

struct OwnPager {
  pg::EmulatedDevice emulated;
  DeviceBridge device{};
  pg::DeviceMemory table{};
  CallbackBridge bridge{};
  pg::BufferPager pager;  // last: it ends first
};

inline OwnPager& own(glebe_pager* pager) noexcept { return *reinterpret_cast<OwnPager*>(pager); }

[[nodiscard]] inline pg::BufferPager& pager_of(glebe_pager* pager) noexcept {
  return reinterpret_cast<OwnPager*>(pager)->pager;
}

}  // namespace glebe::api
