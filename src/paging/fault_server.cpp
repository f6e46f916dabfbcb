// The threads that answer faults. One, the listener, reads events and answers from memory: a page that is
// staged moves back, one that is compressed is expanded into a buffer and put in place, one that was never
// touched reads as zero. It is the only one that reads, because the kernel wakes every thread that does. It
// never waits for anything but the next event; what would make it wait goes on to others:
//
//   helpers       faults that came together with another, and those on groups whose lock is taken
//   brake         faults of a program that is above its budget wait there until there is room
//   disk readers  what lies in a page file, so that no fault waits behind a disk that it does not need
//
// While a fork is under way the kernel refuses to put pages in place until somebody reads the event of the
// fork. So a server that is refused never waits: it lays the fault aside and reads on.
#include "platform/process.h"
#include "platform/scheduling.h"
#include "platform/service.h"
#include "platform/thread.h"
#include "src/base/check.h"
#include "src/paging/fault_queue.h"
#include "src/paging/follower.h"
#include "src/paging/own_memory.h"
#include "src/paging/page_in.h"
#include "src/paging/pager_state.h"

namespace glebe::paging {
namespace {

constexpr unsigned kHelpersMax = 32;
constexpr std::uint64_t kLongNs = 3'600'000'000'000;

constinit FaultQueue later_queue;  // refused because of a fork
constinit FaultQueue help_queue;   // for the helpers
constinit FaultQueue brake_queue;  // until there is room

struct Server {
  Scratch scratch;
  alignas(64) std::byte buffer[kPageBytes];
};

Server* make_server() noexcept {
  auto* server = make_own<Server>();
  return server != nullptr && server->scratch.open(pager.options.codec) ? server : nullptr;
}

// With the lock of the group, which is let go: answers a fault, and wakes who waits. In this order, because
// the woken thread may run in place of this one at once. False: a fork is under way, nothing was done.
bool answer_and_unlock(Fault& fault, Scratch& scratch, std::byte* buffer) noexcept {
  const std::uint64_t group = fault.page / kGroupPages;
  const PageWord word = pager.table.get(fault.page);
  if (word.is_on_file()) {
    // When a disk reader is at it already, that one wakes everybody.
    const bool is_left = word.is(PageWord::kBusy) || leave_to_disk_readers(fault);
    pager.table.unlock(group);
    return is_left;
  }
  const PageIn result = page_in(fault.page, fault.is_write, scratch, buffer);
  pager.table.unlock(group);
  if (result == PageIn::later) return false;
  note_answered(fault);
  follower.note_busy(false);
  pager.faults.wake(pager.table.address_of(fault.page), kPageBytes);
  if (result == PageIn::expanded && pager.table.try_lock(group)) {
    const std::uint64_t end = read_ahead(fault.page, scratch, buffer);
    pager.table.unlock(group);
    const std::uint64_t count = end - fault.page;
    if (count > 1) pager.faults.wake(pager.table.address_of(fault.page), count * kPageBytes);
  }
  return true;
}

bool answer(Fault& fault, Scratch& scratch, std::byte* buffer) noexcept {
  pager.table.lock(fault.page / kGroupPages);
  return answer_and_unlock(fault, scratch, buffer);
}

void postpone(const Fault& fault, Server& server) noexcept {
  while (!later_queue.push(fault)) os::yield();
  // Once more: if the fork was over by now, nobody else would look.
  answer_postponed_faults(server.scratch, server.buffer);
}

// By the listener: answers at once, or leaves the fault to a thread that may wait.
void take_fault(Fault& fault, bool is_alone, Server& server) noexcept {
  const std::uint64_t group = fault.page / kGroupPages;
  // Whoever touches pages faster than they can go out again does not get far. What is staged is in RAM.
  const bool is_braked = is_room_short() && pager.table.get(fault.page).state() != PageState::staged;
  if (is_braked && brake_queue.push(fault)) return;
  if (!is_alone && help_queue.push(fault)) return;
  if (!pager.table.try_lock(group)) {
    if (help_queue.push(fault)) return;
    pager.table.lock(group);
  }
  if (!answer_and_unlock(fault, server.scratch, server.buffer)) postpone(fault, server);
}

void take_event(const os::FaultEvent& event, bool is_alone, Server& server) noexcept {
  if (event.kind == os::FaultEvent::Kind::forked) adopt_child(event.child);
  if (event.kind != os::FaultEvent::Kind::page_fault) return;
  auto* address = reinterpret_cast<std::byte*>(event.address);
  if (!pager.table.contains(address)) {
    // A beacon: nobody but us looks there, and what is missing there is empty. In the staging area nobody
    // reads what is missing: the reader would hold the lock of a group that each fault server may be waiting
    // for.
    if (pager.faults.zero(address, kPageBytes) != 0) pager.faults.wake(address, kPageBytes);
    return;
  }
  count(pager.counters.faults);
  follower.note_fault(event.thread);
  Fault fault = {pager.table.page_of(address), os::clock_fine_ns(), {}, event.is_write};
  take_fault(fault, is_alone, server);
}

void listen() noexcept {
  os::answer_quickly(0);
  follower.start(os::current_thread());
  Server* server = make_server();
  CHECK(server != nullptr);
  for (const int self = os::current_thread(); follower.is_listener(self);) {
    constexpr unsigned kEvents = 16;
    os::FaultEvent events[kEvents];
    const unsigned read = pager.faults.read_events(events, kEvents);
    follower.note_busy(true);
    // The last one is ours, after the others are on their way.
    for (unsigned i = 0; i < read; ++i) take_event(events[i], i + 1 == read, *server);
    if (!later_queue.is_empty()) answer_postponed_faults(server->scratch, server->buffer);
    follower.note_busy(false);
  }
  for (;;) os::sleep_ns(kLongNs);  // another thread listens
}

void run_listener(void*) noexcept {
  wait_at_gate();
  listen();
}

void run_helper(void*) noexcept {
  wait_at_gate();
  os::answer_quickly(0);
  Server* server = make_server();
  CHECK(server != nullptr);
  for (;;) {
    Fault fault;
    help_queue.wait(&fault);
    if (!answer(fault, server->scratch, server->buffer)) postpone(fault, *server);
  }
}

void run_brake(void*) noexcept {
  constexpr std::uint64_t kWaitNs = 100'000'000;  // a program that cannot get under its budget goes on
  wait_at_gate();
  Server* server = make_server();
  CHECK(server != nullptr);
  for (;;) {
    Fault fault;
    brake_queue.wait(&fault);
    const std::uint64_t waited = os::clock_fine_ns() - fault.start_ns;
    if (waited < kWaitNs) wait_for_room(kWaitNs - waited);
    if (!answer(fault, server->scratch, server->buffer)) postpone(fault, *server);
  }
}

void run_follower(void*) noexcept {
  wait_at_gate();
  follower.run();
  listen();
}

bool start_threads(void (*run)(void*), unsigned thread_count, const char* name) noexcept {
  for (unsigned i = 0; i < thread_count; ++i) {
    if (!os::start_service_thread(run, nullptr, name)) return false;
  }
  return true;
}

}  // namespace

void note_answered(const Fault& fault) noexcept {
  const std::uint64_t ns = os::clock_fine_ns() - fault.start_ns;
  count(pager.counters.stall_ns, ns);
  unsigned bucket = 0;
  while (bucket + 1 < kLatencyBuckets && (ns >> (bucket + 1)) != 0) ++bucket;
  count(pager.counters.latency[bucket]);
}

bool start_fault_servers() noexcept {
  for (FaultQueue* queue : {&later_queue, &help_queue, &brake_queue}) queue->reset_in_child();
  unsigned helpers = os::cpu_count() - 1;
  if (helpers > kHelpersMax) helpers = kHelpersMax;
  // At least one, for what the listener must not wait for.
  if (helpers < 1) helpers = 1;
  return start_threads(run_helper, helpers, "glebe-help") && start_threads(run_brake, 1, "glebe-brake") &&
         start_disk_readers() && start_threads(run_follower, 1, "glebe-follow") &&
         start_threads(run_listener, 1, "glebe-fault");
}

void answer_postponed_faults(Scratch& scratch, std::byte* buffer) noexcept {
  Fault fault;
  for (unsigned i = 0; i < kQueueMax && later_queue.pop(&fault); ++i) {
    if (answer(fault, scratch, buffer)) continue;
    while (!later_queue.push(fault)) os::yield();
    return;
  }
}

}  // namespace glebe::paging
