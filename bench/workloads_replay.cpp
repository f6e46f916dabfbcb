// Replays a prepared trace (trace_format.h). Each worker reads the whole file through a small buffer, so that
// the trace does not count as memory of the process, and executes the operations of its threads. An operation
// waits until the earlier ones on its slot are done; the first unexecuted operation of the trace never waits,
// so the replay moves on.
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "bench/protocol.h"
#include "bench/table.h"
#include "bench/trace_format.h"
#include "bench/workloads.h"

namespace torture {
namespace {

struct Slot {
  Block block;
  std::atomic<std::uint32_t> turn;
};

class Reader {
 public:
  explicit Reader(const char* path) : file_(::open(path, O_RDONLY | O_CLOEXEC)), buffer_(2048) {
    if (file_ < 0 || ::read(file_, &header_, sizeof header_) != static_cast<ssize_t>(sizeof header_)) {
      fail("the prepared trace %s cannot be read", path);
    }
  }
  ~Reader() { ::close(file_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  [[nodiscard]] const PreparedHeader& header() const noexcept { return header_; }

  // The next operation, or null at the end.
  const PreparedOp* next() {
    if (place_ == filled_) {
      const ssize_t bytes = ::read(file_, &buffer_[0], buffer_.size() * sizeof(PreparedOp));
      if (bytes < 0 || bytes % static_cast<ssize_t>(sizeof(PreparedOp)) != 0)
        fail("the prepared trace is damaged");
      place_ = 0;
      filled_ = static_cast<std::size_t>(bytes) / sizeof(PreparedOp);
      if (filled_ == 0) return nullptr;
    }
    return &buffer_[place_++];
  }

 private:
  int file_;
  PreparedHeader header_;
  Table<PreparedOp> buffer_;
  std::size_t place_ = 0;
  std::size_t filled_ = 0;
};

void execute(Worker& worker, const PreparedOp& op, Block& block) {
  switch (op.kind) {
    case TraceKind::kAllocate:
      block = worker.allocate(op.size);
      return;
    case TraceKind::kZeroed:
      block = worker.allocate_zeroed(op.size);
      return;
    case TraceKind::kFree:
      worker.release(block);
      return;
    case TraceKind::kResize:
      worker.resize(block, op.size);
      return;
    case TraceKind::kAligned:
      block = worker.allocate_aligned(std::size_t{1} << op.alignment_log2, op.size);
      return;
  }
  fail("the prepared trace holds an unknown operation");
}

void replay_share(const Context& context, Table<Slot>& slots, unsigned index, unsigned workers) {
  Worker worker(context.seed, index);
  Reader reader(context.trace);
  while (const PreparedOp* op = reader.next()) {
    if (op->thread % workers != index) continue;
    Slot& slot = slots[op->slot];
    // Pairs with the release below: the block was written by the thread of the operation before. The wait
    // ends because that thread is ahead in the trace; should it have failed, the process is gone.
    while (slot.turn.load(std::memory_order_acquire) != op->turn) ::sched_yield();
    execute(worker, *op, slot.block);
    slot.turn.store(op->turn + 1, std::memory_order_release);
  }
}

}  // namespace

void replay(Context& context) {
  constexpr std::size_t kOperations = 60'000'000;
  const PreparedHeader header = Reader(context.trace).header();
  const unsigned workers = std::min(context.threads, header.threads);
  const std::size_t rounds = std::max<std::size_t>(context.scaled(kOperations) / header.operations, 1);
  Table<Slot> slots(header.slots);
  for (std::size_t round = 0; round < rounds; ++round) {
    for (Slot& slot : slots) slot.turn.store(0, std::memory_order_relaxed);
    run_threads(workers, [&](unsigned index) { replay_share(context, slots, index, workers); });
  }
}

}  // namespace torture
