// Starting the pager, in the process that asked for it and in its forked children, and its numbers.
#include "src/paging/pager.h"

#include "platform/process.h"
#include "platform/service.h"
#include "platform/swap.h"
#include "platform/thread.h"
#include "platform/vm.h"
#include "src/base/text.h"
#include "src/heap/heap.h"
#include "src/paging/follower.h"
#include "src/paging/last_thread.h"
#include "src/paging/mapped_zone.h"
#include "src/paging/pager_fork.h"
#include "src/paging/pager_state.h"
#include "src/vm/directory.h"
#include "src/vm/pageable.h"
#include "src/vm/region.h"

namespace glebe::paging {

constinit Pager pager;

namespace {

constexpr std::uint32_t kStarting = 0, kRunning = 1, kFailed = 2;
constexpr std::uint64_t kBootWaitNs = 1'000'000'000;

constinit const vm::PagingHooks hooks = {purge_range, decommit_range, drop_freed, count_out};

// Why the pager does not run, and what would help.
struct Missing {
  const char* what;
  const char* remedy;
};
constinit std::atomic<const Missing*> missing{nullptr};

constexpr Missing kNotBuilt = {"this kernel has no userfaultfd, or a filter of system calls hides it",
                               "a container needs a seccomp profile that allows userfaultfd"};
constexpr Missing kNoPermission = {"this user may not use userfaultfd",
                                   "run as root or give the program CAP_SYS_PTRACE (docs/paging.md)"};
constexpr Missing kNoForkEvent = {"without CAP_SYS_PTRACE the memory of forked children cannot be served",
                                  "run as root or give the program CAP_SYS_PTRACE (docs/paging.md)"};
constexpr Missing kNoMove = {"this kernel has no UFFDIO_MOVE", "Linux 6.8 or later is needed"};
constexpr Missing kNoScan = {"this kernel has no PAGEMAP_SCAN, or /proc is not mounted",
                             "Linux 6.7 and /proc are needed"};
constexpr Missing kNoDescriptors = {"the system refused a table of descriptors of our own",
                                    "a filter of system calls must allow unshare(CLONE_FILES)"};
constexpr Missing kNoAddresses = {
    "there are no addresses, or no commit charge, for the pager's tables",
    "paging does not work under vm.overcommit_memory=2 or a small ulimit -v or -d"};
constexpr Missing kNoSwap = {"this machine has no swap space",
                             "enable swap (swapon(8)), or allow userfaultfd"};
constexpr Missing kNoDirectory = {"the directory for page files is missing or not writable",
                                  "name a directory in page_directory that this user may write"};
constexpr Missing kNoStore = {"there is no memory for the page store", "check ulimit -v and -d"};
constexpr Missing kNoParent = {"the process that forked this one does not hand its paged-out memory over",
                               "a filter of system calls must allow unix sockets"};
constexpr Missing kNoThreads = {"the system refused threads or sockets", "check ulimit -u and -n"};

const Missing* missing_of(os::FaultSupport support) noexcept {
  switch (support) {
    case os::FaultSupport::full:
      return nullptr;
    case os::FaultSupport::not_built:
      return &kNotBuilt;
    case os::FaultSupport::no_permission:
      return &kNoPermission;
    case os::FaultSupport::no_fork_event:
      return &kNoForkEvent;
    case os::FaultSupport::no_move:
      return &kNoMove;
    case os::FaultSupport::other:
      break;
  }
  return &kNotBuilt;
}

void say_missing(const Missing& reason) noexcept {
  char space[512];
  Text text(space);
  text.append("glebe: paging stays off: ")
      .append(reason.what)
      .append("; ")
      .append(reason.remedy)
      .append("\n");
  os::write_error(text.c_str(), text.size());
}

// The size of the blocks in a group: of a large one that of its slot, of a medium one a size between small
// and large, because what is known of the single block needs a lock of the heap.
std::size_t block_bytes(std::uint64_t group) noexcept {
  constexpr std::size_t kMediumBytes = kMiB;
  const vm::Region& region = vm::regions[0];
  const std::byte* const start = pager.table.address_of(group * kGroupPages);
  if (start < region.chunk_base) {
    const auto offset = static_cast<std::size_t>(start - region.large.base);
    return std::size_t{1} << (vm::kLargeShiftMin + (offset >> region.large.subrange_shift));
  }
  std::size_t largest = 0;
  for (std::size_t offset = 0; offset < kGroupBytes; offset += vm::kGranuleBytes) {
    const std::uintptr_t entry = vm::entry_of(start + offset);
    std::size_t bytes = entry == vm::kEntryMedium ? kMediumBytes : 0;
    if (entry > vm::kEntryMedium) bytes = heap::class_bytes(heap::class_of_entry(entry));
    if (bytes > largest) largest = bytes;
  }
  return largest;
}

void say_victim_is_the_kernels() noexcept {
  constexpr std::string_view kText =
      "glebe: page_victim has no effect with paging by the kernel's swap: there the kernel chooses\n";
  os::write_error(kText.data(), kText.size());
}

// The tables, once per process family: a forked child has copies.
const Missing* open_tables() noexcept {
  const vm::Region& region = vm::regions[0];
  std::byte* const base = region.large.base != nullptr ? region.large.base : region.chunk_base;
  std::byte* const end = region.chunk_base + std::size_t{region.chunk_count} * kUnitBytes;
  const auto size_bytes = static_cast<std::size_t>(end - base);
  if (!pager.table.open(base, size_bytes) || !pager.journal.open() || !open_beacons()) return &kNoAddresses;
  if (!pager.victims.open(pager.options.victim, {size_bytes / kGroupBytes, kGroupPages}, block_bytes))
    return &kNoAddresses;
  pager.staging = static_cast<std::byte*>(os::reserve(size_bytes, kUnitBytes));
  if (pager.staging == nullptr || !os::commit(pager.staging, size_bytes)) return &kNoAddresses;
  return nullptr;
}

const Missing* open_store(unsigned number) noexcept {
  auto* store = new (pager.store_memory[number]) Store;
  StoreOptions options;
  options.codec = pager.options.codec;
  options.directory = pager.options.directory;
  options.direct_io = pager.options.direct_io;
  if (pager.options.file_limit_bytes != 0) options.total_bytes_max = pager.options.file_limit_bytes;
  switch (store->open(options)) {
    case StoreProblem::none:
      return nullptr;
    case StoreProblem::no_memory:
      return &kNoStore;
    case StoreProblem::no_directory:
    case StoreProblem::no_file:
      break;
  }
  return &kNoDirectory;
}

// For scans within `range`.
const Missing* open_descriptors(const os::PageScan::Run& range) noexcept {
  if (!pager.scan.open() || !pager.meter.open() || !open_thread_watch()) return &kNoScan;
  os::PageScan::Run run;
  std::uintptr_t scanned = 0;
  return pager.scan.present(range, {&run, 1}, &scanned) >= 0 ? nullptr : &kNoScan;
}

os::PageScan::Run first_unit() noexcept {
  const auto base = reinterpret_cast<std::uintptr_t>(pager.table.base());
  return {base, base + kUnitBytes};
}

const Missing* start_threads() noexcept {
  return start_fault_servers() && start_children_server() && start_evictor() ? nullptr : &kNoThreads;
}

// In a child: what it inherited is only read, and what it pages out itself goes to a store of its own.
void open_childs_store() noexcept {
  for (unsigned i = 0; i <= pager.own_store; ++i) pager.store(i).seal_in_child();
  pager.may_page_out = pager.own_store + 1 < kStoreMax && open_store(pager.own_store + 1) == nullptr;
  if (pager.may_page_out) ++pager.own_store;
}

void open_gate() noexcept {
  pager.gate.store(1, std::memory_order_release);
  os::wake_all(pager.gate);
}

const Missing* boot() noexcept {
  if (!os::take_private_descriptors()) return &kNoDescriptors;
  if (const Missing* reason = missing_of(pager.faults.open())) return reason;
  if (const Missing* reason = open_descriptors(first_unit())) return reason;
  if (const Missing* reason = open_store(pager.own_store)) return reason;
  if (const Missing* reason = start_threads()) return reason;
  if (!open_children_sockets()) return &kNoThreads;
  open_gate();
  return nullptr;
}

const Missing* boot_in_child() noexcept {
  alignas(64) static constinit std::byte buffer[kPageBytes];
  if (!os::take_private_descriptors()) return &kNoDescriptors;
  // The threads first: making them touches memory of libc, which comes from the heap and may be out. As long
  // as only the parent has the descriptor of our faults, it answers, or its end is noticed.
  if (const Missing* reason = start_threads()) return reason;
  Takeover takeover;
  if (!takeover.find_ours(buffer)) return &kNoParent;
  const Missing* reason = open_descriptors(first_unit());
  open_childs_store();
  if (reason == nullptr && !open_children_sockets()) reason = &kNoThreads;
  if (reason != nullptr) {
    pager.faults.close();  // the parent goes on answering; with ours open, its end would leave faults without
                           // an answer
    return reason;
  }
  takeover.finish();
  open_gate();
  return nullptr;
}

template <const Missing* (*kBoot)() noexcept>
void run_boot(void*) noexcept {
  // With the program's descriptors, so before kBoot() takes others.
  const Missing* reason = start_last_thread() ? kBoot() : &kNoThreads;
  if (reason != nullptr) stop_last_thread();
  missing.store(reason, std::memory_order_relaxed);
  if (reason != nullptr) pager.mode.store(PagerMode::off, std::memory_order_relaxed);
  // Release pairs with the acquire of whoever waits: `missing` is visible.
  pager.ready.store(reason == nullptr ? kRunning : kFailed, std::memory_order_release);
  os::wake_all(pager.ready);
  // The table of descriptors lives as long as one of its threads.
}

bool wait_until_ready() noexcept {
  std::uint32_t state = kStarting;
  while ((state = pager.ready.load(std::memory_order_acquire)) == kStarting) {
    os::wait_on(pager.ready, kStarting, kBootWaitNs);
  }
  return state == kRunning;
}

const Missing* start_uffd() noexcept {
  if (!vm::ensure_primary()) return &kNoAddresses;
  if (const Missing* reason = open_tables()) return reason;
  if (!os::start_service_thread(run_boot<boot>, nullptr, "glebe-boot")) return &kNoThreads;
  if (!wait_until_ready()) return missing.load(std::memory_order_relaxed);
  if (!set_fork_hooks()) return &kNoThreads;
  pager.mode.store(PagerMode::uffd, std::memory_order_release);
  vm::paging_hooks.store(&hooks, std::memory_order_release);  // pairs with the acquire in vm::paging()
  open_mapped_zone();
  return nullptr;
}

const Missing* boot_for_kernel() noexcept {
  if (!os::take_private_descriptors()) return &kNoDescriptors;
  if (const Missing* reason = open_descriptors(kProcessMemory)) return reason;
  return start_kernel_pager() ? nullptr : &kNoThreads;
}

const Missing* start_kernel() noexcept {
  if (!os::has_swap()) return &kNoSwap;
  if (!vm::ensure_primary()) return &kNoAddresses;
  if (!os::start_service_thread(run_boot<boot_for_kernel>, nullptr, "glebe-boot")) return &kNoThreads;
  if (!wait_until_ready()) return missing.load(std::memory_order_relaxed);
  // A child has no pager thread: its memory is the kernel's to manage, and correct without one. Nor does it
  // wait for one.
  if (!os::set_fork_hook([] { vm::wait_for_room.store(nullptr, std::memory_order_relaxed); }))
    return &kNoThreads;
  pager.mode.store(PagerMode::kernel, std::memory_order_release);
  return nullptr;
}

void reset_counters() noexcept {
  PagerCounters& c = pager.counters;
  for (std::atomic<std::uint64_t>* each :
       {&c.page_outs, &c.page_ins, &c.file_page_ins, &c.faults, &c.zero_fills, &c.second_chances,
        &c.read_ahead_pages, &c.dropped_pages, &c.moved_pages, &c.refused_pages, &c.free_pages, &c.stall_ns,
        &c.throttles, &c.throttle_ns, &c.evictor_cpu_ns, &c.forks, &c.takeovers, &c.follows}) {
    each->store(0, std::memory_order_relaxed);
  }
  for (std::atomic<std::uint64_t>& bucket : c.latency) bucket.store(0, std::memory_order_relaxed);
  pager.saved.reset();
}

}  // namespace

PagerMode start_pager(const PagerOptions& options) noexcept {
  pager.options = options;
  refresh_budget();
  const Missing* reason = nullptr;
  if (options.wish == PagerWish::off) return PagerMode::off;
  if (options.wish != PagerWish::kernel) {
    reason = start_uffd();
    if (reason == nullptr) return PagerMode::uffd;
  }
  if (options.wish != PagerWish::uffd) {
    const Missing* kernels = start_kernel();
    if (kernels == nullptr) {
      if (options.victim != VictimKind::clock) say_victim_is_the_kernels();
      return PagerMode::kernel;
    }
    // What automatic would have liked best is the better advice.
    if (reason == nullptr) reason = kernels;
  }
  if (options.say_what_is_missing) say_missing(*reason);
  return PagerMode::off;
}

PagerMode pager_mode() noexcept { return pager.mode.load(std::memory_order_acquire); }

void restart_in_child() noexcept {
  os::forget_service_threads_in_child();
  reset_counters();
  vm::wait_for_room.store(nullptr, std::memory_order_relaxed);
  pager.ready.store(kStarting, std::memory_order_relaxed);
  pager.gate.store(0, std::memory_order_relaxed);
  pager.evictor_thread.store(0, std::memory_order_relaxed);  // a number of the parent's
  follower.forget_in_child();
  const bool is_watched = pager.is_staging_watched.load(std::memory_order_relaxed);
  void (*const run)(void*) = is_watched ? run_boot<boot_in_child> : run_boot<boot>;
  const bool is_started = os::start_service_thread(run, nullptr, "glebe-boot");
  if (!is_watched) return;  // nothing is out: nobody needs to wait
  if (is_started && wait_until_ready()) return;
  finish_without_parent();
  const Missing* reason = missing.load(std::memory_order_relaxed);
  if (reason != nullptr && pager.options.say_what_is_missing) say_missing(*reason);
  pager.mode.store(PagerMode::off, std::memory_order_release);
}

void wait_at_gate() noexcept {
  while (pager.gate.load(std::memory_order_acquire) == 0) os::wait_on(pager.gate, 0, kBootWaitNs);
}

void keep_everything() noexcept {
  if (pager_mode() != PagerMode::uffd) return;
  pager.table.unlock_memory();
  pager.victims.unlock_memory();
  unlock_mapped_zone_tables();
  os::unlock_memory(pager.staging, pager.table.size_bytes());
  bring_back_everything();
}

void refresh_budget() noexcept {
  std::size_t budget = pager.options.budget_bytes;
  if (pager.options.budget_share != 0) {
    constexpr std::uint64_t kWhole = 1'000'000;
    const os::MemoryLimits limits = os::memory_limits();
    const std::size_t allowed = limits.memory < limits.physical ? limits.memory : limits.physical;
    if (allowed == SIZE_MAX) return;  // the files cannot be read right now
    budget = allowed / kWhole * pager.options.budget_share +
             allowed % kWhole * pager.options.budget_share / kWhole;
    if (budget < kBudgetLeast) budget = kBudgetLeast;
  }
  pager.budget_bytes.store(budget, std::memory_order_relaxed);
}

void note_saved(std::uint64_t now_ms) noexcept {
  const std::uint64_t staged = pager.staged_pages.load(std::memory_order_relaxed);
  const std::uint64_t out = pager.out_pages.load(std::memory_order_relaxed);
  const std::uint64_t out_bytes = out > staged ? (out - staged) * kPageBytes : 0;
  const std::uint64_t held_bytes = pager.store(pager.own_store).compressed_bytes();
  pager.saved.note(now_ms, out_bytes > held_bytes ? out_bytes - held_bytes : 0);
}

void note_out(std::uint64_t page) noexcept {
  pager.table.unit_of_page(page).pages_out.fetch_add(1, std::memory_order_relaxed);
  pager.out_pages.fetch_add(1, std::memory_order_relaxed);
}

void note_back(std::uint64_t page) noexcept {
  pager.table.unit_of_page(page).pages_out.fetch_sub(1, std::memory_order_relaxed);
  pager.out_pages.fetch_sub(1, std::memory_order_relaxed);
}

void leave_out(std::uint64_t page, PageWord old, PageWord next) noexcept {
  note_back(page);
  // A disk reader that is at it gives the object up itself.
  const bool is_left = old.is(PageWord::kBusy) && old.is_on_file();
  if (old.state() == PageState::zero || is_left) return pager.table.set(page, next);
  // The entry first: a child that sees the bit finds the entry too.
  pager.journal.append(page, old.without(PageWord::kBusy),
                       pager.fork_sequence.load(std::memory_order_relaxed),
                       static_cast<std::uint32_t>(os::clock_coarse_ms()));
  pager.table.set(page, next.with(PageWord::kJournaled));
}

void forget_busy_in_child(std::uint64_t page) noexcept {
  const PageWord word = pager.table.get(page);
  if (word.is(PageWord::kBusy)) pager.table.set(page, word.without(PageWord::kBusy));
}

PagerStats pager_stats() noexcept {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  const PagerCounters& c = pager.counters;
  PagerStats stats = {};
  stats.mode = pager_mode();
  if (stats.mode == PagerMode::off) return stats;
  // A forked child that had nothing out goes on while its store is being opened. Acquire: it is open.
  const bool has_store =
      stats.mode == PagerMode::uffd && pager.ready.load(std::memory_order_acquire) == kRunning;
  const StoreStats store = has_store ? pager.store(pager.own_store).stats() : StoreStats{};
  const std::uint64_t staged = pager.staged_pages.load(kRelaxed), out = pager.out_pages.load(kRelaxed);
  stats.budget_bytes = pager.budget_bytes.load(kRelaxed);
  stats.saved_bytes_peak = pager.saved.peak();
  stats.saved_bytes_average = pager.saved.average();
  stats.used_bytes = pager.used_bytes.load(kRelaxed);
  stats.staged_bytes = staged * kPageBytes;
  stats.out_bytes = out > staged ? (out - staged) * kPageBytes : 0;
  stats.compressed_bytes = store.slab_bytes;
  stats.stored_bytes = store.compressed_bytes;
  stats.file_bytes = store.file_live_bytes;
  stats.page_outs = c.page_outs.load(kRelaxed);
  stats.page_ins = c.page_ins.load(kRelaxed);
  stats.file_page_ins = c.file_page_ins.load(kRelaxed);
  stats.faults = c.faults.load(kRelaxed);
  stats.zero_fills = c.zero_fills.load(kRelaxed);
  stats.second_chances = c.second_chances.load(kRelaxed);
  stats.read_ahead_pages = c.read_ahead_pages.load(kRelaxed);
  stats.dropped_pages = c.dropped_pages.load(kRelaxed);
  stats.moved_pages = c.moved_pages.load(kRelaxed);
  stats.refused_pages = c.refused_pages.load(kRelaxed);
  stats.free_pages = c.free_pages.load(kRelaxed);
  stats.stall_ns = c.stall_ns.load(kRelaxed);
  stats.throttles = c.throttles.load(kRelaxed);
  stats.throttle_ns = c.throttle_ns.load(kRelaxed);
  stats.evictor_cpu_ns = c.evictor_cpu_ns.load(kRelaxed);
  stats.forks = c.forks.load(kRelaxed);
  stats.takeovers = c.takeovers.load(kRelaxed);
  stats.follows = c.follows.load(kRelaxed);
  const ZoneStats zone = zone_stats();
  stats.mapped_bytes = zone.bytes;
  stats.maps = zone.maps;
  stats.maps_refused = zone.refused;
  stats.store_errors = store.failed_writes + store.failed_reads + store.corrupt_reads;
  for (unsigned i = 0; i < kLatencyBuckets; ++i) stats.latency[i] = c.latency[i].load(kRelaxed);
  return stats;
}

}  // namespace glebe::paging
