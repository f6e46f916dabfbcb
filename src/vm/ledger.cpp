#include "src/vm/ledger.h"

#include "src/base/check.h"

namespace glebe::vm {

constinit Ledger ledger;

void ledger_commit(std::size_t size_bytes) noexcept {
  const std::size_t now =
      ledger.committed_bytes.fetch_add(size_bytes, std::memory_order_relaxed) + size_bytes;
  std::size_t peak = ledger.committed_peak_bytes.load(std::memory_order_relaxed);
  while (peak < now &&
         !ledger.committed_peak_bytes.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
  }
}

void ledger_decommit(std::size_t size_bytes) noexcept {
  const std::size_t before = ledger.committed_bytes.fetch_sub(size_bytes, std::memory_order_relaxed);
  CHECK(before >= size_bytes);  // a negative balance is our defect, never clamped away
}

}  // namespace glebe::vm
