// The ledger: how many bytes are reserved, committed, dirty and purged, exactly (namespace glebe::vm).
//
// Every function of this layer that changes the state of memory adjusts the ledger in the same step, after
// the system agreed. Relaxed atomics: each number is exact, a snapshot of several is as of slightly different
// moments.
#pragma once

#include <atomic>
#include <cstddef>

namespace glebe::vm {

struct Ledger {
  std::atomic<std::size_t> reserved_bytes{0};   // addresses taken from the system
  std::atomic<std::size_t> committed_bytes{0};  // readable and writable: blocks and metadata
  std::atomic<std::size_t> committed_peak_bytes{0};
  std::atomic<std::size_t> metadata_bytes{
      0};  // the part of committed_bytes that holds tables and heap objects
  // Of the chunks: committed, and pages that may hold data (in use or dirty).
  std::atomic<std::size_t> chunk_committed_bytes{0};
  std::atomic<std::size_t> chunk_touched_bytes{0};
  // Free memory that still holds physical pages: was handed out since it was committed or purged last.
  std::atomic<std::size_t> dirty_bytes{0};
  std::atomic<std::size_t> purged_bytes_total{0};  // given back by purging, all in all
  std::atomic<std::size_t> huge_chunks{0};         // chunks for which huge pages were asked
};

extern constinit Ledger ledger;

// Adds to committed_bytes and keeps the peak.
void ledger_commit(std::size_t size_bytes) noexcept;
void ledger_decommit(std::size_t size_bytes) noexcept;

// Committed bytes that may hold physical pages: everything but the untouched part of chunks. What RSS
// follows.
[[nodiscard]] inline std::size_t footprint_bytes() noexcept {
  const std::size_t committed = ledger.committed_bytes.load(std::memory_order_relaxed);
  const std::size_t touched = ledger.chunk_touched_bytes.load(std::memory_order_relaxed);
  const std::size_t of_chunks = ledger.chunk_committed_bytes.load(std::memory_order_relaxed);
  const std::size_t untouched = of_chunks > touched ? of_chunks - touched : 0;  // read at different moments
  return committed > untouched ? committed - untouched : 0;
}

}  // namespace glebe::vm
