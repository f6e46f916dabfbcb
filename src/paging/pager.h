// The transparent pager: takes cold pages of the heaps out of memory and brings them back when they are
// touched (namespace glebe::paging).
//
// Two mechanisms, chosen by probing when it starts (docs/paging.md says what each needs):
//   uffd    our own: pages move out atomically by userfaultfd(2) into a staging area, from there into the
//   page store;
//           a touch of a missing page is answered by threads of ours. The text of docs/design.md, "Paging",
//           follows one page.
//   kernel  the kernel's swap, driven by what the heap knows: free pages are given back first, then runs of
//   pages are handed
//           to madvise(2), MADV_PAGEOUT, until the process is within its budget.
// Without either paging stays off, and a message says what to enable.
//
// Linux only. Started once per process, before the program's main(); it never stops. Pager threads block all
// signals, have descriptors of their own, call no malloc, and touch no memory that can be paged out.
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/base/bits.h"
#include "src/paging/policy.h"
#include "src/paging/store.h"

namespace glebe::paging {

enum class PagerMode : std::uint8_t { off, uffd, kernel };
enum class PagerWish : std::uint8_t { off, automatic, uffd, kernel };

struct PagerOptions {
  PagerWish wish = PagerWish::off;
  // Anonymous memory of the process that the pager aims at, compressed pages included. 0: no fixed budget,
  // idle memory is taken out while nobody misses it.
  std::size_t budget_bytes = 0;
  // Instead of budget_bytes, in millionths: a share of the smallest limit of the control groups of this
  // process, or of the machine's memory when that is less. Read again every second. At least kBudgetLeast.
  std::uint32_t budget_share = 0;
  VictimKind victim = VictimKind::clock;  // mode uffd only (victim.h)
  const char* directory = nullptr;        // of page files; nullptr: compressed in RAM only
  std::uint64_t file_limit_bytes = 0;     // all page files together; 0: as much as the file system gives
  Codec codec = Codec::lz4;
  bool direct_io = false;
  bool say_what_is_missing = true;  // a message on standard error when the wish cannot be granted
};

inline constexpr std::size_t kBudgetLeast = 4 * kMiB;

// Starts the pager. Returns the mode in force. Not thread-safe: called once.
PagerMode start_pager(const PagerOptions& options) noexcept;
[[nodiscard]] PagerMode pager_mode() noexcept;

// After mlockall(2): the pager's own tables, which are long and empty, are unlocked, and everything that is
// out is brought back. Locked pages do not go out again (the kernel refuses to move them). Blocks while it
// reads.
void keep_everything() noexcept;

// Times in powers of two: bucket i counts times of [2^i, 2^(i+1)) ns.
inline constexpr unsigned kLatencyBuckets = 40;

// Bytes and counts since the start of the process; of a forked child since the fork.
struct PagerStats {
  PagerMode mode;
  std::size_t budget_bytes;
  std::size_t used_bytes;        // anonymous memory of the process, as of the last look
  std::size_t staged_bytes;      // in the staging area: out of the heap, still in RAM
  std::size_t out_bytes;         // heap bytes that are not in RAM as they are: compressed, zero, in files
  std::size_t compressed_bytes;  // RAM of the compressed tier
  std::size_t stored_bytes;      // of it, what the codec made of the pages
  std::size_t file_bytes;        // live bytes in page files
  // out_bytes less compressed_bytes: what the process takes less than it holds. The average is over the time
  // since the pager started.
  std::size_t saved_bytes_peak, saved_bytes_average;
  std::uint64_t page_outs;       // pages compressed or written
  std::uint64_t page_ins;        // pages brought back from the compressed tier or a file
  std::uint64_t file_page_ins;   // of these from a file
  std::uint64_t faults;          // touches of missing pages that a thread waited for
  std::uint64_t zero_fills;      // of these, pages that were never touched or all zero
  std::uint64_t second_chances;  // of these, pages that were still in the staging area
  std::uint64_t read_ahead_pages;
  std::uint64_t dropped_pages;           // freed while out: never read
  std::uint64_t moved_pages;             // into staging
  std::uint64_t refused_pages;           // pinned, locked or shared with a child: stayed
  std::uint64_t free_pages;              // of slabs, without a block in use: given back instead of stored
  std::uint64_t stall_ns;                // from reading a fault to answering it, summed over faults
  std::uint64_t throttles, throttle_ns;  // waits of allocating threads far above the budget
  std::uint64_t evictor_cpu_ns;
  std::uint64_t forks, takeovers;
  std::uint64_t follows;  // times that the listener went to the CPU of the thread that faults
  std::uint64_t store_errors;
  std::uint64_t mapped_bytes;        // that the program mapped itself and that can go out (mapped_zone.h)
  std::uint64_t maps, maps_refused;  // calls of mmap that got such memory; that did not, for want of room
  std::uint64_t latency[kLatencyBuckets];  // of faults, as stall_ns
};
[[nodiscard]] PagerStats pager_stats() noexcept;

}  // namespace glebe::paging
