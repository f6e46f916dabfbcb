// The threads that answer faults. One per CPU reads events and answers from memory: a page that is staged
// moves back, one that is compressed is expanded into a buffer and put in place, one that was never touched
// reads as zero. What lies in a page file goes on to the disk readers, so that no fault waits behind a disk
// that it does not need.
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

constexpr unsigned kServersMax = 64;
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
    os::wake_all(posts_);
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

// Answers a fault. False: a fork is under way, nothing was done.
bool answer(Fault& fault, Scratch& scratch, std::byte* buffer) noexcept {
  const PageTable& table = pager.table;
  GroupLock hold(table, fault.page / kGroupPages);
  const PageWord word = table.get(fault.page);
  if (word.state() == PageState::stored && Store::is_on_file(word.handle())) {
    if (word.is(PageWord::kBusy)) return true;  // a disk reader is at it and wakes everybody
    fault.old = word.with(PageWord::kBusy);
    table.set(fault.page, fault.old);
    if (disk_queue.push(fault)) return true;
    table.set(fault.page, word);
    return false;  // later
  }
  const PageIn result = page_in(fault.page, fault.is_write, scratch, buffer);
  if (result == PageIn::later) return false;
  if (result == PageIn::expanded) read_ahead(fault.page, scratch, buffer);
  note_answered(fault);
  return true;
}

void take_fault(Server& server, const os::FaultEvent& event) noexcept {
  auto* address = reinterpret_cast<std::byte*>(event.address);
  if (!pager.table.contains(address)) {
    // A beacon: nobody but us looks there, and what is missing there is empty. In the staging area nobody
    // reads what is missing: the reader would hold the lock of a group that each fault server may be waiting
    // for.
    if (pager.faults.zero(address, kPageBytes) != 0) pager.faults.wake(address, kPageBytes);
    return;
  }
  Fault fault = {pager.table.page_of(address), os::clock_fine_ns(), {}, event.is_write};
  count(pager.counters.faults);
  const bool is_out = pager.table.get(fault.page).state() == PageState::stored;
  // Whoever touches pages faster than they can go out again does not get far. Not with a lock, and not for
  // long.
  constexpr std::uint64_t kWaitNs = 2'000'000;
  if (is_out) static_cast<void>(wait_while_pressed(kWaitNs));
  if (answer(fault, server.scratch, server.buffer)) return;
  while (!later_queue.push(fault)) os::yield();
  // Once more: if the fork was over by now, nobody else would look.
  answer_postponed_faults(server.scratch, server.buffer);
}

void run_server(void* index_argument) noexcept {
  wait_at_gate();
  os::stay_on_cpu(static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(index_argument)));
  Server* server = make_server();
  CHECK(server != nullptr);
  for (;;) {
    os::FaultEvent event;
    if (pager.faults.read_events(&event, 1) == 0) continue;
    if (event.kind == os::FaultEvent::Kind::forked) adopt_child(event.child);
    if (event.kind == os::FaultEvent::Kind::page_fault) take_fault(*server, event);
    if (!later_queue.is_empty()) answer_postponed_faults(server->scratch, server->buffer);
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
  leave_out(fault.page, fault.old.without(PageWord::kBusy), PageWord::resident(1));
  return true;
}

// Reads one page from its file, without the lock.
void read_from_disk(Server& server, const Fault& fault) noexcept {
  const GetResult result =
      pager.store(fault.old.store()).get(fault.old.handle(), server.buffer, kPageBytes, server.scratch);
  while (!finish_read(server, fault, result)) os::yield();  // the fault servers read the event of the fork
  note_answered(fault);
}

void run_disk_reader(void*) noexcept {
  wait_at_gate();
  Server* server = make_server();
  CHECK(server != nullptr);
  for (;;) {
    Fault fault;
    disk_queue.wait(&fault);
    read_from_disk(*server, fault);
  }
}

}  // namespace

bool start_fault_servers() noexcept {
  disk_queue.reset_in_child();
  later_queue.reset_in_child();
  unsigned count = os::cpu_count();
  if (count > kServersMax) count = kServersMax;
  // At least two, so that one reads on while another is busy.
  if (count < 2) count = 2;
  for (unsigned i = 0; i < count; ++i) {
    if (!os::start_service_thread(run_server, reinterpret_cast<void*>(std::uintptr_t{i}), "glebe-fault"))
      return i != 0;
  }
  for (unsigned i = 0; i < kDiskReaders; ++i) {
    if (!os::start_service_thread(run_disk_reader, nullptr, "glebe-disk")) return i != 0;
  }
  return true;
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
