// The ledger: how many bytes are reserved, committed, dirty and purged, exactly (namespace glebe::vm).
//
// Every function of this layer that changes the state of memory adjusts the ledger in the same step, after the system
// agreed. Relaxed atomics: each number is exact, a snapshot of several is as of slightly different moments.
#pragma once

#include <atomic>
#include <cstddef>

namespace glebe::vm {

struct Ledger {
  std::atomic<std::size_t> reserved_bytes{0};   // addresses taken from the system
  std::atomic<std::size_t> committed_bytes{0};  // readable and writable: blocks and metadata
  std::atomic<std::size_t> committed_peak_bytes{0};
  std::atomic<std::size_t> metadata_bytes{0};  // the part of committed_bytes that holds tables and heap objects
  // Free memory that still holds physical pages: was handed out since it was committed or purged last.
  std::atomic<std::size_t> dirty_bytes{0};
  std::atomic<std::size_t> purged_bytes_total{0};  // given back by purging, all in all
  std::atomic<std::size_t> huge_chunks{0};         // chunks for which huge pages were asked
};

extern constinit Ledger ledger;

// Adds to committed_bytes and keeps the peak.
void ledger_commit(std::size_t size_bytes) noexcept;
void ledger_decommit(std::size_t size_bytes) noexcept;

}  // namespace glebe::vm
