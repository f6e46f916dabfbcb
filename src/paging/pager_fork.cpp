// Forked children of a process whose pages are out.
//
// fork(2) copies page tables, and a page that is out is missing in the child as well. The kernel gives us a
// descriptor for the child's faults with the event of the fork, and the forking thread waits until we have
// read it. From then on the children server answers the child's faults from our own table and journal: the
// child sees each page as it was at the fork. That must end before we do, because a missing page that nobody
// answers for reads as zero. So the first thing a child does (the hook after fork) is to take over: its new
// pager thread connects to the handover thread here, is given the descriptor of its faults and those of the
// page files, and serves itself from its own copy of the page table, the compressed tier and the staging
// area, which fork copied along with everything else (docs/design.md, "Paging and fork"). The connection
// stays open as the child's lease on our page files. A child that calls exec or ends without taking over is
// noticed by its memory being gone.
#include "src/paging/pager_fork.h"

#include <cerrno>
#include <cstring>
#include <string_view>

#include "platform/process.h"
#include "platform/service.h"
#include "platform/thread.h"
#include "platform/vm.h"
#include "src/base/check.h"
#include "src/paging/mapped_zone.h"
#include "src/paging/own_memory.h"
#include "src/paging/page_in.h"
#include "src/paging/pager_state.h"

namespace glebe::paging {
namespace {

constexpr unsigned kChildrenMax = 1000;
constexpr unsigned kLeasesMax = 4096;
constexpr unsigned kPendingMax = 32;
constexpr unsigned kBeaconPages = 1024;
constexpr std::uint64_t kEventWaitNs = 500'000'000;
constexpr std::uint64_t kClaimWaitNs = 5'000'000'000;

enum class ChildState : std::uint8_t { unused, served, claimed };
struct Child {
  os::UserFault faults;
  std::uint32_t sequence = 0;
  // Changes under the lock of the list. Whoever reads it without sees, by acquire, what was written before.
  std::atomic<ChildState> state{ChildState::unused};

  [[nodiscard]] bool is(ChildState asked) const noexcept {
    return state.load(std::memory_order_acquire) == asked;
  }
};

// What a parent offers: `descriptors` of the message are the child's faults, then page files, then leases on
// our own ancestors' files. No descriptors: there is no child that nobody claimed.
struct Offer {
  std::uint32_t file_count = 0;
  std::uint32_t lease_count = 0;
  std::int32_t file_numbers[os::kPassedMax] = {};
};
struct Answer {
  std::uint32_t is_mine;
};

struct Children {
  os::Mutex lock;  // of `list`
  Child list[kChildrenMax];
  std::atomic<std::uint32_t> adopted{0};  // children since the start
  std::atomic<std::uint32_t> changes{0};  // futex: a child was adopted, claimed or removed
  std::uint32_t adopted_before = 0;
  std::uint64_t process = 0;  // in a child: its parent
  int event = -1;             // wakes the children server
  int listener = -1;          // for children who take over
  std::uint64_t name = 0;
  std::uint64_t parents_name = 0;
  os::Mutex lease_lock;
  int leases[kLeasesMax] = {};
  unsigned lease_count = 0;
  int inherited[kStoreMax] = {};  // our leases on our ancestors' files
  unsigned inherited_count = 0;
  std::byte* beacons = nullptr;  // pages that nobody touches: who can fill them, has our descriptor
};
constinit Children children;

struct Pending {
  unsigned child;
  std::uintptr_t address;
};

// --- the parent's side ---

// The contents of a page as of the fork. Takes the lock of the group.
void copy_as_of_fork(std::uint64_t page, std::uint32_t sequence, std::byte* to, Scratch& scratch) noexcept {
  GroupLock hold(pager.table, page / kGroupPages);
  PageWord word = pager.table.get(page);
  if (!word.is_out()) static_cast<void>(pager.journal.find(page, sequence, &word));
  copy_contents(page, word, to, scratch);
}

// Answers one fault of a child. False: the child is forking, try again later.
bool answer_child(const Child& child, std::uintptr_t fault_address, std::byte* buffer,
                  Scratch& scratch) noexcept {
  auto* address = reinterpret_cast<std::byte*>(fault_address);
  if (pager.table.contains(address)) {
    copy_as_of_fork(pager.table.page_of(address), child.sequence, buffer, scratch);
  } else {
    std::memset(buffer, 0, kPageBytes);
  }
  const int error = child.faults.copy(address, buffer, kPageBytes);
  if (error == -EAGAIN) return false;
  if (error != 0 && error != -ESRCH) child.faults.wake(address, kPageBytes);
  return true;
}

void note_change() noexcept {
  children.changes.fetch_add(1, std::memory_order_release);
  os::wake_all(children.changes);
}

void remove_child(Child& child) noexcept {
  os::Lock hold(children.lock);
  child.faults.close();
  if (child.is(ChildState::served)) pager.unclaimed_children.fetch_sub(1, std::memory_order_release);
  child.state.store(ChildState::unused, std::memory_order_release);
  note_change();
}

bool try_adopt(int descriptor, std::uint32_t sequence) noexcept {
  os::Lock hold(children.lock);
  for (Child& child : children.list) {
    if (!child.is(ChildState::unused)) continue;
    child.faults = os::UserFault(descriptor);
    child.sequence = sequence;
    child.state.store(ChildState::served, std::memory_order_release);
    pager.unclaimed_children.fetch_add(1, std::memory_order_release);
    children.adopted.fetch_add(1, std::memory_order_release);
    return true;
  }
  return false;
}

void adopt(int descriptor, std::uint32_t sequence) noexcept {
  // Without a place for it: closing the descriptor would give the child zeros.
  while (!try_adopt(descriptor, sequence)) os::yield();
  os::signal_event(children.event);
  note_change();
  count(pager.counters.forks);
}

// Ends leases whose holders are gone.
void sweep_leases() noexcept {
  os::Lock hold(children.lease_lock);
  for (unsigned i = 0; i < children.lease_count;) {
    if (!os::is_hung_up(children.leases[i])) {
      ++i;
      continue;
    }
    os::close_descriptor(children.leases[i]);
    children.leases[i] = children.leases[--children.lease_count];
    pager.store(pager.own_store).release();
  }
}

struct ChildrenServer {
  Scratch scratch;
  Pending pending[kPendingMax] = {};
  unsigned pending_count = 0;
  int polled[kChildrenMax + 1] = {};
  unsigned numbers[kChildrenMax + 1] = {};
  bool readable[kChildrenMax + 1] = {};
  alignas(64) std::byte buffer[kPageBytes] = {};

  void serve_pending() noexcept {
    const unsigned waiting = pending_count;
    pending_count = 0;
    for (unsigned i = 0; i < waiting; ++i) serve(pending[i].child, pending[i].address);
  }
  void serve(unsigned number, std::uintptr_t address) noexcept {
    const Child& child = children.list[number];
    if (!child.is(ChildState::served) || answer_child(child, address, buffer, scratch)) return;
    CHECK(pending_count < kPendingMax);
    pending[pending_count++] = {number, address};
  }
  void read(unsigned number) noexcept {
    os::FaultEvent events[8];
    const Child& child = children.list[number];
    const unsigned room = kPendingMax - pending_count;
    const unsigned got = child.faults.read_events(events, room < 8 ? room : 8);
    for (unsigned i = 0; i < got; ++i) {
      if (events[i].kind == os::FaultEvent::Kind::forked) adopt(events[i].child, child.sequence);
      if (events[i].kind == os::FaultEvent::Kind::page_fault) serve(number, events[i].address);
    }
  }
};

void run_children_server(void* server_memory) noexcept {
  auto& server = *static_cast<ChildrenServer*>(server_memory);
  wait_at_gate();
  std::uint64_t last_sweep_ms = 0;
  for (;;) {
    unsigned count = 0;
    server.polled[count++] = children.event;
    for (unsigned i = 0; i < kChildrenMax; ++i) {
      Child& child = children.list[i];
      if (child.is(ChildState::claimed)) remove_child(child);
      if (!child.is(ChildState::served)) continue;
      server.numbers[count] = i;
      server.polled[count++] = child.faults.descriptor();
    }
    const bool is_quiet = count == 1 && server.pending_count == 0;
    os::wait_readable(server.polled, count, server.readable,
                      is_quiet                    ? 100
                      : server.pending_count != 0 ? 1
                                                  : 10);
    if (server.readable[0]) os::clear_event(children.event);
    for (unsigned i = 1; i < count; ++i) {
      if (server.readable[i]) server.read(server.numbers[i]);
    }
    server.serve_pending();
    answer_postponed_faults(server.scratch, server.buffer);
    const std::uint64_t now_ms = os::clock_coarse_ms();
    if (now_ms - last_sweep_ms < 10) continue;
    last_sweep_ms = now_ms;
    for (unsigned i = 1; i < count; ++i) {
      Child& child = children.list[server.numbers[i]];
      if (child.is(ChildState::served) && !child.faults.is_alive()) remove_child(child);
    }
    sweep_leases();
  }
}

// The page files of all stores and our leases on our ancestors', behind the child's descriptor. 0: too many.
unsigned fill_offer(int child_descriptor, Offer& offer, int* passed) noexcept {
  unsigned count = 0;
  passed[count++] = child_descriptor;
  for (unsigned i = 0; i <= pager.own_store; ++i) {
    if (!pager.store(i).is_open()) continue;
    count += pager.store(i).file_descriptors(passed + count, os::kPassedMax - count);
    if (count + children.inherited_count >= os::kPassedMax) return 0;
  }
  offer.file_count = count - 1;
  for (unsigned i = 0; i < offer.file_count; ++i) offer.file_numbers[i] = passed[1 + i];
  offer.lease_count = children.inherited_count;
  for (unsigned i = 0; i < children.inherited_count; ++i) passed[count++] = children.inherited[i];
  return count;
}

template <class IsOver>
void wait_for_children(std::uint64_t limit_ns, IsOver is_over) noexcept {
  const std::uint64_t start = os::clock_fine_ns();
  for (;;) {
    const std::uint32_t seen = children.changes.load(std::memory_order_acquire);
    if (is_over() || os::clock_fine_ns() - start > limit_ns) return;
    os::wait_on(children.changes, seen, limit_ns / 8);
  }
}

// The child serves itself from now on. False: it is gone.
bool claim(Child& child) noexcept {
  os::Lock hold(children.lock);
  if (!child.is(ChildState::served)) return false;
  // The hold before the claim: from the claim on the journal lets go of what the child may read.
  pager.store(pager.own_store).hold();
  child.state.store(ChildState::claimed, std::memory_order_release);
  pager.unclaimed_children.fetch_sub(1, std::memory_order_release);
  note_change();
  return true;
}

enum class Offered : std::uint8_t { taken, refused, broken };

// A descriptor of a child's faults that stays open, whatever becomes of the child meanwhile. -1: it is gone.
int descriptor_of(Child& child) noexcept {
  os::Lock hold(children.lock);
  return child.is(ChildState::served) ? os::duplicate_descriptor(child.faults.descriptor()) : -1;
}

// Offers one child to whoever connected.
Offered offer_child(int connection, Child& child) noexcept {
  Offer offer;
  int passed[os::kPassedMax];
  const int descriptor = descriptor_of(child);
  // Gone a moment ago: not the one that connected, which waits for us.
  if (descriptor < 0) return Offered::refused;
  const unsigned count = fill_offer(descriptor, offer, passed);
  const bool is_sent = count != 0 && os::send_message(connection, &offer, sizeof offer, {passed, count});
  os::close_descriptor(descriptor);
  Answer answer = {};
  int none[os::kPassedMax];
  if (!is_sent || os::receive_message(connection, &answer, sizeof answer, none) < 0) return Offered::broken;
  if (answer.is_mine == 0) return Offered::refused;
  if (!claim(child)) return Offered::broken;
  // Only when the children server does not read from it any more may it become a descriptor that blocks.
  os::signal_event(children.event);
  wait_for_children(kClaimWaitNs, [&child] { return !child.is(ChildState::claimed); });
  // If it is gone by now, so is its lease, which is noticed as for every other.
  static_cast<void>(os::send_message(connection, &answer, sizeof answer, {}));
  return Offered::taken;
}

// Offers one child after the other to whoever connected. The child may be faster than the thread that read
// the event of its fork, so what is not there yet is waited for. True: one was taken.
bool hand_over(int connection) noexcept {
  constexpr std::uint64_t kNapNs = 50'000'000;
  const std::uint64_t start = os::clock_fine_ns();
  while (os::clock_fine_ns() - start < kClaimWaitNs) {
    const std::uint32_t seen = children.changes.load(std::memory_order_acquire);
    for (unsigned i = kChildrenMax; i-- > 0;) {
      if (!children.list[i].is(ChildState::served)) continue;
      const Offered result = offer_child(connection, children.list[i]);
      if (result != Offered::refused) return result == Offered::taken;
    }
    if (os::is_hung_up(connection)) return false;
    os::wait_on(children.changes, seen, kNapNs);
  }
  const Offer nothing;
  static_cast<void>(os::send_message(connection, &nothing, sizeof nothing, {}));
  return false;
}

void run_handover(void*) noexcept {
  wait_at_gate();
  for (;;) {
    const int connection = os::accept_connection(children.listener);
    if (connection < 0) {
      constexpr std::uint64_t kPauseNs = 10'000'000;
      os::sleep_ns(kPauseNs);
      continue;
    }
    if (!hand_over(connection)) {
      os::close_descriptor(connection);
      continue;
    }
    os::signal_event(children.event);
    os::Lock hold(children.lease_lock);
    CHECK(children.lease_count < kLeasesMax);
    children.leases[children.lease_count++] = connection;
  }
}

// --- hooks of fork(2) ---

void before_fork() noexcept {
  mapped_zone_before_fork();
  if (pager_mode() != PagerMode::uffd) return;
  pager.forks_under_way.fetch_add(1, std::memory_order_seq_cst);
  children.process = os::process_id();
  pager.fork_sequence.fetch_add(1, std::memory_order_relaxed);
  children.adopted_before = children.adopted.load(std::memory_order_relaxed);
  // A heap lock that the evictor holds would be frozen in the child (heap/fork.h): worth a moment, not more.
  constexpr unsigned kTurns = 1000;
  for (unsigned i = 0; i < kTurns && pager.evictor_in_heap.load(std::memory_order_seq_cst); ++i) os::yield();
}

// Whether a child of this fork still depends on our answers.
bool is_child_served(std::uint32_t sequence) noexcept {
  os::Lock hold(children.lock);
  for (const Child& child : children.list) {
    if (!child.is(ChildState::unused) && child.sequence == sequence) return true;
  }
  return false;
}

void after_fork_in_parent() noexcept {
  mapped_zone_after_fork();
  if (pager_mode() != PagerMode::uffd) return;
  if (pager.is_staging_watched.load(std::memory_order_acquire)) {
    // The journal may let go only when the child is known. When fork failed, none comes.
    wait_for_children(kEventWaitNs, [] {
      return children.adopted.load(std::memory_order_acquire) != children.adopted_before;
    });
    // A program that forks in order to end (daemons do) must not end before its child serves itself.
    const std::uint32_t sequence = pager.fork_sequence.load(std::memory_order_relaxed);
    wait_for_children(kClaimWaitNs, [sequence] { return !is_child_served(sequence); });
  }
  pager.forks_under_way.fetch_sub(1, std::memory_order_seq_cst);
}

void touch_unit(std::uint64_t unit) noexcept {
  constexpr std::uint64_t kUnitPages = kUnitBytes / kPageBytes;
  for (std::uint64_t page = unit * kUnitPages; page < (unit + 1) * kUnitPages; ++page) {
    if (!pager.table.get(page).is_out()) continue;
    static_cast<void>(*reinterpret_cast<volatile std::byte*>(pager.table.address_of(page)));
  }
}

// Reads every page that is out, so that whoever answers now is not needed any more.
void touch_everything() noexcept {
  for (std::uint64_t unit = 0; unit < pager.table.size_bytes() / kUnitBytes; ++unit) {
    if (pager.table.unit(unit).pages_out.load(std::memory_order_relaxed) != 0) touch_unit(unit);
  }
}

void after_fork_in_child() noexcept {
  mapped_zone_in_child();
  if (pager_mode() != PagerMode::uffd) return;
  pager.table.free_locks_in_child();
  pager.journal.reset_in_child(
      [](std::uint64_t page) { pager.table.set(page, pager.table.get(page).without(PageWord::kJournaled)); });
  forget_reads_in_child();
  forget_batch_in_child();
  children.lock.reset_in_child();
  children.lease_lock.reset_in_child();
  for (Child& child : children.list) {
    child.faults = os::UserFault();  // in the table of the parent's threads
    child.state.store(ChildState::unused, std::memory_order_relaxed);
  }
  children.lease_count = 0;
  children.parents_name = children.name;
  pager.forks_under_way.store(0, std::memory_order_relaxed);
  pager.unclaimed_children.store(0, std::memory_order_relaxed);
  pager.evictor_in_heap.store(false, std::memory_order_relaxed);
  restart_in_child();
}

// --- the child's side ---

// Whether a descriptor answers for our memory: what it puts into a beacon has to appear there. Another
// child's beacon would be filled, and reading ours would wait for an answer that is not this number.
bool is_ours(const os::UserFault& faults, unsigned attempt, std::byte* buffer) noexcept {
  const std::uint64_t number = os::entropy() | 1;
  std::byte* const beacon = children.beacons + (number + attempt) % kBeaconPages * kPageBytes;
  std::memset(buffer, 0, kPageBytes);
  std::memcpy(buffer, &number, sizeof number);
  if (faults.copy(beacon, buffer, kPageBytes) != 0) return false;
  std::uint64_t seen = 0;
  std::memcpy(&seen, beacon, sizeof seen);
  return seen == number;
}

// Puts what came with an offer to its places. All numbers are out of the way first, because they may overlap.
bool accept_offer(const Offer& offer, int* passed, unsigned count) noexcept {
  constexpr int kAway = 700;
  for (unsigned i = 0; i < count; ++i) {
    if (!os::move_descriptor(passed[i], kAway + static_cast<int>(i))) return false;
    passed[i] = kAway + static_cast<int>(i);
  }
  for (unsigned i = 0; i < offer.file_count; ++i) {
    if (!os::move_descriptor(passed[1 + i], offer.file_numbers[i])) return false;
  }
  pager.faults = os::UserFault(passed[0]);
  children.inherited_count = 0;
  for (unsigned i = 0; i < offer.lease_count; ++i) {
    children.inherited[children.inherited_count++] = passed[1 + offer.file_count + i];
  }
  return true;
}

}  // namespace

bool Takeover::find_ours(std::byte* buffer) noexcept {
  constexpr std::uint64_t kConnectMs = 2000;
  connection_ = os::connect_by_name(children.parents_name, kConnectMs);
  for (unsigned attempt = 0; connection_ >= 0; ++attempt) {
    Offer offer;
    int passed[os::kPassedMax];
    const int got = os::receive_message(connection_, &offer, sizeof offer, passed);
    if (got < 1 || static_cast<unsigned>(got) != 1 + offer.file_count + offer.lease_count ||
        offer.lease_count >= kStoreMax)
      return false;
    if (is_ours(os::UserFault(passed[0]), attempt, buffer)) {
      return accept_offer(offer, passed, static_cast<unsigned>(got));
    }
    for (int i = 0; i < got; ++i) os::close_descriptor(passed[i]);
    const Answer no = {0};
    if (!os::send_message(connection_, &no, sizeof no, {})) return false;
  }
  return false;
}

void Takeover::finish() noexcept {
  Answer answer = {1};
  int none[os::kPassedMax];
  // The answer to the answer means that the parent does not read our faults any more. So does its end: we
  // have all we need, and what it answered until then was right.
  static_cast<void>(os::send_message(connection_, &answer, sizeof answer, {}) &&
                    os::receive_message(connection_, &answer, sizeof answer, none) >= 0);
  constexpr int kLeaseNumber = 900;
  const int number = kLeaseNumber + static_cast<int>(children.inherited_count);
  children.inherited[children.inherited_count++] =
      os::move_descriptor(connection_, number) ? number : connection_;
  count(pager.counters.takeovers);
  pager.faults.make_blocking();
  // A fault that the parent read and did not answer is reported again.
  pager.faults.wake(pager.table.base(), pager.table.size_bytes());
}

void bring_back_everything() noexcept { touch_everything(); }

void finish_without_parent() noexcept {
  touch_everything();
  if (os::parent_process_id() == children.process) return;  // it was there to answer
  constexpr std::string_view kMessage =
      "glebe: the process that forked this one ended before its paged-out memory was handed over; this one "
      "ends too\n";
  os::write_error_of_program(kMessage.data(), kMessage.size());
  os::abort_process();
}

bool open_beacons() noexcept {
  constexpr std::size_t kBytes = kBeaconPages * kPageBytes;
  if (children.beacons != nullptr) return true;
  children.beacons = static_cast<std::byte*>(os::reserve(kBytes, os::page_bytes()));
  return children.beacons != nullptr && os::commit(children.beacons, kBytes);
}

bool watch_beacons() noexcept { return pager.faults.watch(children.beacons, kBeaconPages * kPageBytes) == 0; }

void adopt_child(int descriptor) noexcept {
  adopt(descriptor, pager.fork_sequence.load(std::memory_order_relaxed));
}

bool set_fork_hooks() noexcept {
  return os::set_fork_hooks(before_fork, after_fork_in_parent, after_fork_in_child);
}

bool open_children_sockets() noexcept {
  children.event = os::make_event();
  children.name = os::entropy();
  children.listener = os::listen_by_name(children.name);
  return children.event >= 0 && children.listener >= 0;
}

bool start_children_server() noexcept {
  auto* server = make_own<ChildrenServer>();
  return server != nullptr && server->scratch.open(pager.options.codec) &&
         os::start_service_thread(run_children_server, server, "glebe-forks") &&
         os::start_service_thread(run_handover, nullptr, "glebe-handover");
}

}  // namespace glebe::paging
