// The state of the pager, shared by its parts (namespace glebe::paging). Private to pager*.cpp,
// fault_server.cpp, evictor.cpp and discard.cpp.
//
//   pager.cpp         start, options, statistics
//   fault_server.cpp  threads that answer faults
//   disk_reader.cpp   threads that read page files
//   evictor.cpp       the thread that takes pages out
//   victim.cpp        which pages it takes first
//   discard.cpp       what the heap calls when it frees, purges and decommits
//   pager_fork.cpp    forked children
#pragma once

#include <atomic>

#include "platform/fault.h"
#include "src/paging/journal.h"
#include "src/paging/page_table.h"
#include "src/paging/pager.h"
#include "src/paging/room.h"
#include "src/paging/saved.h"
#include "src/paging/victim.h"

namespace glebe::paging {

struct PagerCounters {
  std::atomic<std::uint64_t> page_outs{0}, page_ins{0}, file_page_ins{0}, faults{0}, zero_fills{0},
      second_chances{0}, read_ahead_pages{0}, dropped_pages{0}, moved_pages{0}, refused_pages{0},
      free_pages{0}, stall_ns{0}, throttles{0}, throttle_ns{0}, evictor_cpu_ns{0}, forks{0}, takeovers{0},
      follows{0};
  std::atomic<std::uint64_t> latency[kLatencyBuckets] = {};
};

struct Pager {
  PagerOptions options;
  std::atomic<PagerMode> mode{PagerMode::off};
  PageTable table;
  std::byte* staging = nullptr;  // of the table's length; a page is staged at its own offset
  Journal journal;

  // Descriptors of the pager threads' own table.
  os::UserFault faults;
  os::PageScan scan;
  os::ResidentMeter meter;

  alignas(Store) std::byte store_memory[kStoreMax][sizeof(Store)] = {};  // never destroyed
  unsigned own_store = 0;                                                // the others are inherited, sealed
  bool may_page_out = true;  // false in a child that could not open a store of its own

  VictimOrder victims;
  SavedBytes saved;

  std::atomic<std::size_t> budget_bytes{0};                  // in force now; 0: no fixed budget
  std::atomic<std::size_t> used_bytes{0};                    // as of the evictor's last look
  std::atomic<std::uint64_t> staged_pages{0}, out_pages{0};  // at least as many as the words say
  std::atomic<std::uint64_t> no_pressure_until_ms{0};        // waiting did not help lately
  std::atomic<bool> is_evictor_writing{false};               // it may be the disk that keeps it
  Room room;
  // Touches since the evictor last looked of pages that a little more room would have kept: in RAM, or in the
  // compressed tier. And how long a read of a page file takes, on average.
  std::atomic<std::uint32_t> near_refaults{0}, near_file_reads{0};
  std::atomic<std::uint64_t> file_read_ns{100'000};
  std::atomic<std::uint32_t> rounds{0};  // futex: counts the evictor's, for those who wait for room
  std::atomic<std::uint32_t> calls{0};   // futex: somebody waits for room, the evictor should come
  std::atomic<std::uint32_t> ready{0};   // futex: 1 when the pager serves, 2 when it cannot
  std::atomic<std::uint32_t> gate{0};    // futex: 1 when the threads may begin
  std::atomic<int> evictor_thread{0};    // its number, when it runs
  std::atomic<std::uint32_t> fork_sequence{0};
  std::atomic<std::uint32_t> forks_under_way{0};     // between the hooks before and after fork(2)
  std::atomic<std::uint32_t> unclaimed_children{0};  // children whose faults we answer
  std::atomic<bool> is_staging_watched{false};       // from the first time that something is staged
  std::atomic<bool> is_all_watched{false};           // first touches of memory are reported to us, too
  std::atomic<std::uint32_t> lost_units{0};          // how often a unit was decommitted
  std::atomic<bool> evictor_in_heap{false};          // holds locks of the heap: fork waits a moment
  PagerCounters counters;

  [[nodiscard]] Store& store(unsigned index) noexcept {
    return *reinterpret_cast<Store*>(store_memory[index]);
  }
  [[nodiscard]] std::byte* staged(std::uint64_t page) const noexcept { return staging + page * kPageBytes; }
  [[nodiscard]] bool is_child_unclaimed() const noexcept {
    return forks_under_way.load(std::memory_order_acquire) +
               unclaimed_children.load(std::memory_order_acquire) !=
           0;
  }
};
extern constinit Pager pager;

inline void count(std::atomic<std::uint64_t>& counter, std::uint64_t by = 1) noexcept {
  counter.fetch_add(by, std::memory_order_relaxed);
}

// Computes the budget in force; where it is a share, from what the system allows now. By the thread that
// keeps it.
void refresh_budget() noexcept;

// Notes how many bytes are saved now.
void note_saved(std::uint64_t now_ms) noexcept;

// A page that was resident is out now, or the other way round. Lock of the group held.
void note_out(std::uint64_t page) noexcept;
void note_back(std::uint64_t page) noexcept;

// The page's contents are back in the heap, or not wanted any more: its word becomes resident, and what it
// had is given up when no child needs it. Lock of the group held.
void leave_out(std::uint64_t page, PageWord old, PageWord next) noexcept;

// Gives up what journal entries name that are old enough. Called by the evictor.
void settle_journal(std::uint32_t now_ms) noexcept;

// discard.cpp
[[nodiscard]] bool purge_range(void* base, std::size_t size_bytes) noexcept;
[[nodiscard]] bool decommit_range(void* base, std::size_t size_bytes) noexcept;
[[nodiscard]] std::uint64_t drop_freed(std::byte* first_page, unsigned count) noexcept;
[[nodiscard]] unsigned count_out(const std::byte* first_page, unsigned count) noexcept;
// Above the budget, and waiting helps.
[[nodiscard]] bool is_room_short() noexcept;
// Makes threads that are about to take memory wait, or not, as is_room_short() says. By the thread that keeps
// the budget.
void publish_room() noexcept;
// Waits while room is short, for at most limit_ns. When hardly anything went out meanwhile, nobody waits for
// the next two seconds.
void wait_for_room(std::uint64_t limit_ns) noexcept;

// fault_server.cpp
// Threads are made before any of them may begin: making one calls malloc, and the page it gets may be out.
void wait_at_gate() noexcept;

[[nodiscard]] bool start_fault_servers() noexcept;

// What was under way in the parent when it forked is under way nowhere in the child: words that say that a
// page is busy are put right before the child serves itself. By the only thread that the child has.
void forget_busy_in_child(std::uint64_t page) noexcept;
void forget_reads_in_child() noexcept;  // disk_reader.cpp
void forget_batch_in_child() noexcept;  // evictor.cpp

// evictor.cpp
[[nodiscard]] bool start_evictor() noexcept;

// kernel_pager.cpp
// Where processes have memory: what it scans.
inline constexpr os::PageScan::Run kProcessMemory = {64 * kKiB, (std::uintptr_t{1} << 47) - kPageBytes};
[[nodiscard]] bool start_kernel_pager() noexcept;

// pager_fork.cpp
[[nodiscard]] bool start_children_server() noexcept;
[[nodiscard]] bool open_children_sockets() noexcept;  // before the gate opens
void adopt_child(int descriptor) noexcept;            // by the thread that read the fork event
[[nodiscard]] bool set_fork_hooks() noexcept;

}  // namespace glebe::paging
