// The threads that answer faults. One, the listener, reads events and answers from memory: a page that is
// staged moves back, one that is compressed is expanded into a buffer and put in place, one that was never
// touched reads as zero. It is the only one that reads, because the kernel wakes every thread that does. It
// never waits for anything but the next event; what would make it wait goes on to others:
//
//   helpers       faults that came together with another, and those on groups whose lock is taken
//   brake         faults of a program that is far above its budget wait there until there is room
//   disk readers  what lies in a page file, so that no fault waits behind a disk that it does not need
//
// While a fork is under way the kernel refuses to put pages in place until somebody reads the event of the
// fork. So a server that is refused never waits: it lays the fault aside and reads on.
#include <cerrno>

#include "platform/process.h"
#include "platform/service.h"
#include "platform/thread.h"
#include "platform/vm.h"
#include "src/base/check.h"
#include "src/base/text.h"
#include "src/paging/page_in.h"
#include "src/paging/pager_state.h"

namespace glebe::paging {
namespace {

constexpr unsigned kHelpersMax = 32;
constexpr unsigned kDiskReaders = 2;
constexpr unsigned kQueueMax = 4096;

struct Fault {
  std::uint64_t page;
  std::uint64_t start_ns;
  PageWord old;  // disk readers: the word that was marked busy
  bool is_write;
};

// Faults on their way from one thread to another.
class FaultQueue {
 public:
  [[nodiscard]] bool push(const Fault& fault) noexcept {
    {
      os::Lock hold(lock_);
      if (count_ == kQueueMax) return false;
      faults_[(first_ + count_++) % kQueueMax] = fault;
    }
    posts_.fetch_add(1, std::memory_order_release);
    os::wake_one(posts_);
    return true;
  }
  [[nodiscard]] bool pop(Fault* fault) noexcept {
    os::Lock hold(lock_);
    if (count_ == 0) return false;
    *fault = faults_[first_];
    first_ = (first_ + 1) % kQueueMax;
    --count_;
    return true;
  }
  void wait(Fault* fault) noexcept {
    for (;;) {
      const std::uint32_t seen = posts_.load(std::memory_order_acquire);
      if (pop(fault)) return;
      constexpr std::uint64_t kNapNs = 1'000'000'000;
      os::wait_on(posts_, seen, kNapNs);
    }
  }
  [[nodiscard]] bool is_empty() noexcept {
    os::Lock hold(lock_);
    return count_ == 0;
  }
  // Calls visit(page) for each fault that waits or that was taken out lately.
  template <class Visit>
  void visit_in_child(Visit visit) const noexcept {
    constexpr unsigned kTaken = 64;
    static_assert(kTaken < kQueueMax);
    const unsigned visited = count_ + kTaken < kQueueMax ? count_ + kTaken : kQueueMax;
    for (unsigned i = 0; i < visited; ++i) visit(faults_[(first_ + kQueueMax - kTaken + i) % kQueueMax].page);
  }
  void reset_in_child() noexcept {
    lock_.reset_in_child();
    first_ = count_ = 0;
  }

 private:
  os::Mutex lock_;
  std::atomic<std::uint32_t> posts_{0};
  unsigned first_ = 0, count_ = 0;
  Fault faults_[kQueueMax] = {};
};
constinit FaultQueue disk_queue;   // pages in files
constinit FaultQueue later_queue;  // refused because of a fork
constinit FaultQueue help_queue;   // for the helpers
constinit FaultQueue brake_queue;  // until there is room

struct Server {
  Scratch scratch;
  alignas(64) std::byte buffer[kPageBytes];
};
static_assert(alignof(Server) <= 4096);

Server* make_server() noexcept {
  const std::size_t bytes = align_up(sizeof(Server), os::page_bytes());
  void* memory = os::reserve(bytes, os::page_bytes());
  if (memory == nullptr || !os::commit(memory, bytes)) return nullptr;
  auto* server = new (memory) Server;
  return server->scratch.open(pager.options.codec) ? server : nullptr;
}

void note_answered(const Fault& fault) noexcept {
  const std::uint64_t ns = os::clock_fine_ns() - fault.start_ns;
  count(pager.counters.stall_ns, ns);
  unsigned bucket = 0;
  while (bucket + 1 < kLatencyBuckets && (ns >> (bucket + 1)) != 0) ++bucket;
  count(pager.counters.latency[bucket]);
}

// Answers a fault whose group is locked, and unlocks it. False: a fork is under way, nothing was done.
bool answer_locked(Fault& fault, Scratch& scratch, std::byte* buffer) noexcept {
  const PageTable& table = pager.table;
  const PageWord word = table.get(fault.page);
  if (word.state() == PageState::stored && Store::is_on_file(word.handle())) {
    if (word.is(PageWord::kBusy)) return true;  // a disk reader is at it and wakes everybody
    fault.old = word.with(PageWord::kBusy);
    if (!disk_queue.push(fault)) return false;  // later
    // After the push, so that a child that sees the bit finds the page in the queue. The reader waits for our
    // lock before it looks at the word.
    table.set(fault.page, fault.old);
    return true;
  }
  const PageIn result = page_in(fault.page, fault.is_write, scratch, buffer);
  if (result == PageIn::later) return false;
  if (result == PageIn::expanded) read_ahead(fault.page, scratch, buffer);
  note_answered(fault);
  return true;
}

bool answer(Fault& fault, Scratch& scratch, std::byte* buffer) noexcept {
  GroupLock hold(pager.table, fault.page / kGroupPages);
  return answer_locked(fault, scratch, buffer);
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
  const bool is_answered = answer_locked(fault, server.scratch, server.buffer);
  pager.table.unlock(group);
  if (!is_answered) postpone(fault, server);
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
  Fault fault = {pager.table.page_of(address), os::clock_fine_ns(), {}, event.is_write};
  take_fault(fault, is_alone, server);
}

void run_listener(void*) noexcept {
  wait_at_gate();
  os::answer_quickly();
  Server* server = make_server();
  CHECK(server != nullptr);
  for (;;) {
    constexpr unsigned kEvents = 16;
    os::FaultEvent events[kEvents];
    const unsigned read = pager.faults.read_events(events, kEvents);
    // The last one is ours, after the others are on their way.
    for (unsigned i = 0; i < read; ++i) take_event(events[i], i + 1 == read, *server);
    if (!later_queue.is_empty()) answer_postponed_faults(server->scratch, server->buffer);
  }
}

void run_helper(void*) noexcept {
  wait_at_gate();
  os::answer_quickly();
  Server* server = make_server();
  CHECK(server != nullptr);
  for (;;) {
    Fault fault;
    help_queue.wait(&fault);
    if (!answer(fault, server->scratch, server->buffer)) postpone(fault, *server);
  }
}

void run_brake(void*) noexcept {
  constexpr std::uint64_t kWaitNs = 100'000'000;  // at most: a program that cannot get under its budget goes on
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

// What was read goes in place, unless the page was freed meanwhile. False: a fork is under way.
bool finish_read(Server& server, const Fault& fault, GetResult result) noexcept {
  GroupLock hold(pager.table, fault.page / kGroupPages);
  if (!(pager.table.get(fault.page) == fault.old)) {
    // Freed while it was read: the object was left to us.
    if (!fill_with_zeros(fault.page, fault.is_write)) return false;
    pager.store(fault.old.store()).drop(fault.old.handle());
    return true;
  }
  if (result != GetResult::ok) fail_page_in(fault.page, result);
  if (put_in_place(fault.page, server.buffer) == -EAGAIN) return false;
  count(pager.counters.page_ins);
  count(pager.counters.file_page_ins);
  leave_out(fault.page, fault.old.without(PageWord::kBusy),
            resident_again(fault.page, VictimOrder::Return::stored));
  return true;
}

// What the disk readers are at: page + 1, or 0.
constinit std::atomic<std::uint64_t> reading[kDiskReaders] = {};

// Reads one page from its file, without the lock.
void read_from_disk(Server& server, const Fault& fault) noexcept {
  const GetResult result =
      pager.store(fault.old.store()).get(fault.old.handle(), server.buffer, kPageBytes, server.scratch);
  while (!finish_read(server, fault, result)) os::yield();  // the fault servers read the event of the fork
  note_answered(fault);
}

void run_disk_reader(void* reading_argument) noexcept {
  auto& own_reading = *static_cast<std::atomic<std::uint64_t>*>(reading_argument);
  wait_at_gate();
  Server* server = make_server();
  CHECK(server != nullptr);
  for (;;) {
    Fault fault;
    disk_queue.wait(&fault);
    own_reading.store(fault.page + 1, std::memory_order_release);
    read_from_disk(*server, fault);
    own_reading.store(0, std::memory_order_release);
  }
}

bool start_threads(void (*run)(void*), unsigned thread_count, const char* name) noexcept {
  for (unsigned i = 0; i < thread_count; ++i) {
    if (!os::start_service_thread(run, nullptr, name)) return false;
  }
  return true;
}

bool start_disk_readers() noexcept {
  for (std::atomic<std::uint64_t>& own_reading : reading) {
    if (!os::start_service_thread(run_disk_reader, &own_reading, "glebe-disk")) return false;
  }
  return true;
}

}  // namespace

bool start_fault_servers() noexcept {
  for (FaultQueue* queue : {&disk_queue, &later_queue, &help_queue, &brake_queue}) queue->reset_in_child();
  unsigned helpers = os::cpu_count() - 1;
  if (helpers > kHelpersMax) helpers = kHelpersMax;
  // At least one, for what the listener must not wait for.
  if (helpers < 1) helpers = 1;
  return start_threads(run_helper, helpers, "glebe-help") && start_threads(run_brake, 1, "glebe-brake") &&
         start_disk_readers() && start_threads(run_listener, 1, "glebe-fault");
}

void forget_reads_in_child() noexcept {
  disk_queue.visit_in_child(forget_busy_in_child);
  for (std::atomic<std::uint64_t>& page : reading) {
    const std::uint64_t page_and_one = page.exchange(0, std::memory_order_relaxed);
    if (page_and_one != 0) forget_busy_in_child(page_and_one - 1);
  }
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
