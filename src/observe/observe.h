// What can be asked: one snapshot of every number, as a structure, as JSON and as a readable report
// (namespace glebe::observe). Counters live in the layers that move them; taking a snapshot adds them up
// under their locks, one at a time. Nothing here allocates. Thread-safe; exact when no other thread runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

#include "src/heap/small_stats.h"

namespace glebe::observe {

// docs/stats.md explains the numbers.
struct Snapshot {
#define NUMBER(name) std::uint64_t name = 0;
#include "src/observe/numbers.def"
#undef NUMBER
  heap::ClassStats classes[heap::kClassCount] = {};
};
void take_snapshot(Snapshot& snapshot) noexcept;

// Where text goes, piece by piece.
struct Sink {
  void (*write)(void* context, std::string_view text);
  void* context;
};

// `version` is the library's. The heaps are listed as they are now, not as they were when the snapshot was
// taken.
void write_json(const Snapshot& snapshot, std::string_view version, const Sink& sink) noexcept;
void write_report(const Snapshot& snapshot, std::string_view version, const Sink& sink) noexcept;

// Calls of the program that failed for want of memory. Counted by the layer above, which is where a request
// fails for good. Relaxed: a counter and nothing else.
extern constinit std::atomic<std::uint64_t> failed_allocations;
inline void count_failed_allocation() noexcept { failed_allocations.fetch_add(1, std::memory_order_relaxed); }

}  // namespace glebe::observe
