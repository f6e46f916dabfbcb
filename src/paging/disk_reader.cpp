// The threads that read page files. A page that is read is marked busy: whoever touches it meanwhile waits
// for the same read, and who frees it leaves the stored object to us.
//
// Pages that went out together lie together in the file, and reading sixteen takes little longer than reading
// one. So the second touch of a group within a short time may bring all of it. Whether that is worth it
// depends on the program, and what is not touched then costs another page its place. Nobody reports touches
// of present pages; so each time one page of the group, the probe, is left out: whether it is touched soon
// says what became of the others.
#include <cerrno>

#include "platform/process.h"
#include "src/base/check.h"
#include "src/paging/fault_queue.h"
#include "src/paging/own_memory.h"
#include "src/paging/page_in.h"
#include "src/paging/pager_state.h"

namespace glebe::paging {
namespace {

constexpr unsigned kDiskReaders = 2;

constinit FaultQueue disk_queue;
// What the disk readers are at: page + 1, or 0.
constinit std::atomic<std::uint64_t> reading[kDiskReaders] = {};

// The fate of the probes. Thread-safe.
class Probes {
 public:
  // A page of a group is left out.
  void set(std::uint64_t page) noexcept {
    const os::Lock hold(lock_);
    Probe& probe = probes_[page % kProbes];
    if (probe.page != 0) note(false);
    probe = {page, pager.victims.epoch()};
  }
  // A page is read for a fault.
  void note_read(std::uint64_t page) noexcept {
    const os::Lock hold(lock_);
    Probe& probe = probes_[page % kProbes];
    if (probe.page != page) return;
    note(pager.victims.is_lately(probe.epoch));
    probe = {};
  }
  // Whether most pages that were left out were touched soon.
  [[nodiscard]] bool are_touched() noexcept {
    const os::Lock hold(lock_);
    return share_ > kWhole / 2;
  }
  void reset_in_child() noexcept { lock_.reset_in_child(); }

 private:
  static constexpr unsigned kProbes = 256;
  static constexpr std::uint32_t kWhole = 1 << 16, kWeight = 32;
  struct Probe {
    std::uint64_t page = 0;  // page 0 is never one: no harm
    std::uint8_t epoch = 0;
  };
  void note(bool is_hit) noexcept { share_ += (is_hit ? kWhole / kWeight : 0) - share_ / kWeight; }

  os::Mutex lock_;
  std::uint32_t share_ = kWhole / 2 + kWhole / 8;  // moving average of hits
  Probe probes_[kProbes] = {};
};
constinit Probes probes;

struct Reader {
  Scratch scratch;
  Batch room;
  // What is being read, all of one group: the pages, their words as they were marked, the reads.
  unsigned count = 0;
  std::uint64_t pages[kGroupPages] = {};
  PageWord words[kGroupPages] = {};
  ObjectRead reads[kGroupPages] = {};
  alignas(64) std::byte buffer[kGroupBytes];
};

Reader* make_reader() noexcept {
  auto* reader = make_own<Reader>();
  if (reader == nullptr) return nullptr;
  return reader->scratch.open(pager.options.codec) && reader->room.open() ? reader : nullptr;
}

// A page that was read goes in place, unless it was freed or changed meanwhile. Lock of the group held.
// False: a fork is under way.
bool finish_page(const Reader& reader, unsigned index, const Fault& fault) noexcept {
  const std::uint64_t page = reader.pages[index];
  const PageWord old = reader.words[index];
  const ObjectRead& read = reader.reads[index];
  const bool is_wanted = page == fault.page;
  if (!(pager.table.get(page) == old)) {
    // Freed while it was read, and perhaps used again since: the object was left to us, and who waits for the
    // page asks again.
    pager.store(old.store()).drop(old.handle());
    pager.faults.wake(pager.table.address_of(page), kPageBytes);
    return true;
  }
  if (read.result != GetResult::ok) {
    if (is_wanted) fail_page_in(page, read.result);
    // Nobody asked for it so far. Who did meanwhile, asks again.
    pager.table.set(page, old.without(PageWord::kBusy));
    pager.faults.wake(pager.table.address_of(page), kPageBytes);
    return true;
  }
  if (put_in_place(page, read.to, os::Wake::now) == -EAGAIN) return false;
  count(pager.counters.page_ins);
  count(pager.counters.file_page_ins);
  if (!is_wanted) {
    count(pager.counters.read_ahead_pages);
  } else if (pager.victims.went_just_now(page)) {
    pager.near_file_reads.fetch_add(1, std::memory_order_relaxed);
  }
  leave_out(page, old.without(PageWord::kBusy),
            is_wanted ? resident_again(page, VictimOrder::Return::stored) : PageWord::resident(0));
  return true;
}

// Adds the page to what is read.
void plan(Reader& reader, std::uint64_t page, PageWord marked) noexcept {
  const unsigned i = reader.count++;
  reader.pages[i] = page;
  reader.words[i] = marked;
  reader.reads[i] = {marked.handle(), reader.buffer + i * kPageBytes, kPageBytes, GetResult::ok};
}

// What is read for a fault: its page, and when the group was read from lately, the rest of it that is on
// file.
void plan_for(Reader& reader, const Fault& fault) noexcept {
  const std::uint64_t group = fault.page / kGroupPages;
  reader.count = 0;
  plan(reader, fault.page, fault.old);
  const GroupLock hold(pager.table, group);
  GroupRecord& record = pager.table.group(group);
  const bool was_lately = pager.victims.is_lately(record.read_epoch);
  record.read_epoch = pager.victims.epoch();
  probes.note_read(fault.page);
  if (!was_lately) return;
  const bool is_worth_it = probes.are_touched();
  bool has_probe = false;
  // From the page that was touched, so that the probe is any of the others.
  for (unsigned i = 1; i < kGroupPages; ++i) {
    const std::uint64_t page = group * kGroupPages + (fault.page + i) % kGroupPages;
    const PageWord word = pager.table.get(page);
    if (!word.is_on_file() || word.is(PageWord::kBusy) || word.store() != fault.old.store()) continue;
    if (!has_probe) {
      probes.set(page);
      if (!is_worth_it) return;
      has_probe = true;
      continue;
    }
    pager.table.set(page, word.with(PageWord::kBusy));
    plan(reader, page, word.with(PageWord::kBusy));
  }
}

void read_from_disk(Reader& reader, const Fault& fault) noexcept {
  plan_for(reader, fault);
  Store& store = pager.store(fault.old.store());
  store.get_many({reader.reads, reader.count}, reader.room, reader.scratch);
  for (unsigned done = 0; done < reader.count;) {
    {
      const GroupLock hold(pager.table, fault.page / kGroupPages);
      while (done < reader.count && finish_page(reader, done, fault)) ++done;
    }
    if (done < reader.count) os::yield();  // the listener reads the event of the fork
  }
  note_answered(fault);
  const std::uint64_t before = pager.file_read_ns.load(std::memory_order_relaxed);
  const std::uint64_t taken = os::clock_fine_ns() - fault.start_ns;
  pager.file_read_ns.store(before - before / 16 + taken / 16, std::memory_order_relaxed);
}

void run_disk_reader(void* reading_argument) noexcept {
  auto& own_reading = *static_cast<std::atomic<std::uint64_t>*>(reading_argument);
  wait_at_gate();
  Reader* reader = make_reader();
  CHECK(reader != nullptr);
  for (;;) {
    Fault fault;
    disk_queue.wait(&fault);
    own_reading.store(fault.page + 1, std::memory_order_release);
    read_from_disk(*reader, fault);
    own_reading.store(0, std::memory_order_release);
  }
}

}  // namespace

bool leave_to_disk_readers(Fault& fault) noexcept {
  fault.old = pager.table.get(fault.page).with(PageWord::kBusy);
  // In the queue before the mark, so that a forked child that has the mark finds it there. Whoever takes it
  // out waits for our lock.
  if (!disk_queue.push(fault)) return false;
  pager.table.set(fault.page, fault.old);
  return true;
}

bool start_disk_readers() noexcept {
  disk_queue.reset_in_child();
  probes.reset_in_child();
  for (std::atomic<std::uint64_t>& own_reading : reading) {
    if (!os::start_service_thread(run_disk_reader, &own_reading, "glebe-disk")) return false;
  }
  return true;
}

void forget_reads_in_child() noexcept {
  disk_queue.visit_in_child(forget_busy_in_child);
  for (std::atomic<std::uint64_t>& page : reading) {
    const std::uint64_t page_and_one = page.exchange(0, std::memory_order_relaxed);
    if (page_and_one == 0) continue;
    // Whichever of its group were read along.
    const std::uint64_t first = (page_and_one - 1) / kGroupPages * kGroupPages;
    for (unsigned i = 0; i < kGroupPages; ++i) forget_busy_in_child(first + i);
  }
}

}  // namespace glebe::paging
