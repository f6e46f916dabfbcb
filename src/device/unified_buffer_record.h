// What is known of one unified buffer, inside of UnifiedMemory (namespace glebe::device).
//
// The lock guards `generation`, `users`, `waiters`, `guards`, `is_abandoned`, `late_touches` and
// `is_changing`. Everything else belongs to the thread that set is_changing, which makes calls of the driver
// without the lock. `change` rises under the lock when a guard or a change ends; who waits for that sleeps on
// it.
#pragma once

#include <atomic>
#include <cstdint>

#include "src/device/unified_buffer_memory.h"

namespace glebe::device {

// What work on the device does with the two copies of a buffer.
enum Touch : unsigned {
  kReadsHost = 1,
  kWritesHost = 2,
  kReadsDevice = 4,
  kWritesDevice = 8,
  kTouchesHost = kReadsHost | kWritesHost,
  kTouchesDevice = kReadsDevice | kWritesDevice,
  kTouchesAll = kTouchesHost | kTouchesDevice,
};

// Work in a stream that may be under way.
struct PendingUse {
  cuda::Event event;        // behind it; nullptr: no event could be recorded, the whole device is waited for
  std::uint64_t stream_id;  // 0: not known
  unsigned touches;
};

struct UnifiedRecord {
  static constexpr unsigned kPendingMax = 16;

  os::Mutex mutex;
  std::atomic<std::uint32_t> change{0};
  std::uint32_t index = 0, generation = 0;
  std::uint32_t vacant = 0;   // index + 1 of the next vacant record
  std::uint32_t users = 0;    // owners; 0: vacant, or being closed
  std::uint32_t waiters = 0;  // threads that sleep on `change`, or are about to
  bool is_changing = false;
  bool is_abandoned = false;  // an owner left who could not close it: the last guard or change does
  unsigned late_touches =
      0;  // of guards that ended while somebody else changed it; the next change notes them
  List<UnifiedGuard> guards;

  UnifiedState state = UnifiedState::host_only;
  bool is_blank = true;    // all zeros, written nowhere yet
  bool is_broken = false;  // a copy to the host was lost with the device
  bool is_pinned = true;
  bool is_host_foreign = false, is_device_foreign = false;  // adopted or attached: the address is kept
  bool has_host = false, has_device = false;
  std::uint64_t size_bytes = 0;
  std::byte* host = nullptr;
  cuda::DevicePointer device = 0;
  DirtyMap dirty;
  unsigned pending_count = 0;
  PendingUse pending[kPendingMax] = {};  // in the order in which they were noted
  UnifiedInfo counts;                    // the counters in it
};

// An access, resolved: what it needs and what it will change.
struct UnifiedMemory::Work {
  UnifiedUse use = UnifiedUse::host_read;
  std::uint64_t offset_bytes = 0, size_bytes = 0;
  UnitRange units;                // that it touches
  UnitRange covered;              // of these, those of which no byte is needed
  cuda::Stream stream = nullptr;  // for copies to the device, and of the body
  const CancelFlag* cancel = nullptr;
  bool waits = true;  // until the bytes are on the host
  Body body = nullptr;
  void* context = nullptr;

  [[nodiscard]] bool is_cancelled() const noexcept {
    return cancel != nullptr && cancel->load(std::memory_order_relaxed);
  }
};

}  // namespace glebe::device
