// Unified buffers: bytes that host and device see, with copies on both sides that follow each other
// (namespace glebe::device). This is what all buffers of one GPU share; programs use them by
// unified_buffer.h.
//
// A buffer has memory on a side from its first use there until it is evicted. It is used through guards only:
// opening one makes the copy of that side valid in its range, moves nothing else and nothing twice, and keeps
// others from writing; closing it tells what may have changed (unified_buffer_state.h has the states). A
// fresh buffer is all zeros and has no memory at all.
//
// Work on the device is ordered by events, not by waiting: a guard of the device names a stream, copies to
// the device are queued there, and whatever is still under way in other streams comes first. A guard of the
// host waits until its bytes are there. Errors leave contents, state and accounting as they were.
//
// Thread-safe. Each buffer has a lock for its state, held for no call of the driver, and one thread at a time
// changes it: allocates, moves, evicts. Any number of readers may have guards at the same time, or one
// writer; who does not fit waits, or is refused, as `wait_ns` says. A thread that has a guard and asks for
// one that would wait for it is refused with in_use: it cannot lock itself out. The same holds for what the
// budget or the source call back when they are asked for memory: buffers that nobody has they may evict, for
// others they get in_use. Guards they may close, of any buffer.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "platform/thread.h"
#include "src/base/list.h"
#include "src/device/block_source.h"
#include "src/device/event_pool.h"
#include "src/device/gpu.h"
#include "src/device/unified_buffer_dirty.h"
#include "src/device/unified_buffer_state.h"
#include "src/paging/budget.h"
#include "src/paging/growing_memory.h"

namespace glebe::device {

struct UnifiedRecord;
class UnifiedMemory;

// Names a buffer: what was closed is found out. 0 names none.
using UnifiedHandle = std::uint64_t;

struct UnifiedRange {
  UnifiedHandle buffer = 0;
  std::uint64_t offset_bytes = 0, size_bytes = 0;
};

enum class UnifiedSide : std::uint8_t { host, device };
enum class Overwrite : std::uint8_t {
  partial,  // bytes that are not written keep their contents
  full,     // every byte of the range will be written: what is there need not be copied
};

// Set by the caller, from any thread, to give an access up that waits or moves bytes.
using CancelFlag = std::atomic<bool>;

inline constexpr std::uint64_t kWaitForever = UINT64_MAX;
inline constexpr std::uint64_t kUnifiedBytesMax = std::uint64_t{1} << 46;

struct UnifiedOptions {
  BlockSource source;                    // of memory of the device; outlives the buffers
  std::uint64_t wait_ns = kWaitForever;  // for guards of others; 0: in_use at once; otherwise timed_out
  std::size_t piece_bytes = 16 * kMiB;   // of one copy: a move is cancelled between pieces
  std::uint32_t buffers_max = 65536;     // that exist at the same time
  paging::Budget* budget = nullptr;      // charged for memory of the host; nullptr: no limit
  paging::BudgetTag tag = 0;
};

struct UnifiedBufferOptions {
  std::uint64_t size_bytes = 0;  // 1 .. kUnifiedBytesMax
  bool is_pinned = true;         // memory of the host: the driver's pinned one, or ordinary pages
};

// Memory of somebody else that becomes a buffer: one or both. It is never freed here.
struct UnifiedAdoption {
  std::uint64_t size_bytes = 0;
  std::byte* host = nullptr;        // valid contents, unless there is a device address too
  cuda::DevicePointer address = 0;  // valid contents; with `host`: both are equal
};

// What one buffer has and did. Bytes and copies are those that were queued.
struct UnifiedInfo {
  UnifiedState state = UnifiedState::host_only;
  std::uint64_t size_bytes = 0, host_bytes = 0, device_bytes = 0;  // of its contents; of memory
  std::uint64_t dirty_bytes = 0;                                   // that differ
  std::uint64_t align_bytes = 0;  // memory on both sides starts at a multiple of this, at most 256
  std::uint64_t to_device_bytes = 0, to_device_copies = 0, to_host_bytes = 0, to_host_copies = 0;
  std::uint64_t host_allocations = 0, device_allocations = 0;
  std::uint32_t readers = 0, writers = 0, pending = 0;  // guards; events not known to have passed
};

struct UnifiedStats {
  std::uint64_t buffers = 0;                       // that exist
  std::uint64_t host_bytes = 0, device_bytes = 0;  // memory of all, without what was adopted
};

// An access to a range of a buffer, until close() or its end. Not moved and not shared between threads while
// it is opened or closed. The buffer stays as it is until then: close guards before anything that needs it
// alone. A guard outlives no UnifiedMemory.
class UnifiedGuard : public ListNode<> {
 public:
  constexpr UnifiedGuard() noexcept = default;
  ~UnifiedGuard() { close(); }
  UnifiedGuard(const UnifiedGuard&) = delete;
  UnifiedGuard& operator=(const UnifiedGuard&) = delete;

  [[nodiscard]] bool is_open() const noexcept { return memory_ != nullptr; }
  [[nodiscard]] std::uint64_t size_bytes() const noexcept { return size_bytes_; }
  // On the device: work queued in the stream so far belongs to the access, none after that. Never fails: what
  // cannot be ordered by an event is waited for. May be called twice.
  void close() noexcept;

 protected:
  friend class UnifiedMemory;

  UnifiedMemory* memory_ = nullptr;
  UnifiedRecord* record_ = nullptr;
  std::uintptr_t thread_ = 0;  // that opened it
  UnifiedUse use_ = UnifiedUse::host_read;
  cuda::Stream stream_ = nullptr;
  std::byte* host_ = nullptr;
  cuda::DevicePointer address_ = 0;
  std::uint64_t size_bytes_ = 0;
};

class HostRead : public UnifiedGuard {
 public:
  [[nodiscard]] const std::byte* data() const noexcept { return host_; }
};
class HostWrite : public UnifiedGuard {
 public:
  [[nodiscard]] std::byte* data() const noexcept { return host_; }
};
// The address may be used by work in the stream of the guard.
class DeviceRead : public UnifiedGuard {
 public:
  [[nodiscard]] cuda::DevicePointer address() const noexcept { return address_; }
};
class DeviceWrite : public UnifiedGuard {
 public:
  [[nodiscard]] cuda::DevicePointer address() const noexcept { return address_; }
};

// A pattern that is repeated: 1, 2, 4, 8 or 16 bytes.
struct UnifiedPattern {
  alignas(16) std::byte bytes[16] = {};
  unsigned size_bytes = 1;
};

class UnifiedMemory {
 public:
  UnifiedMemory() noexcept = default;
  ~UnifiedMemory() { static_cast<void>(close()); }
  UnifiedMemory(const UnifiedMemory&) = delete;
  UnifiedMemory& operator=(const UnifiedMemory&) = delete;

  // `gpu` outlives it. bad_argument, no_host_memory, out_of_memory (streams).
  Outcome open(Gpu& gpu, const UnifiedOptions& options) noexcept;
  // in_use: there are buffers; nothing has changed. May be called twice.
  Outcome close() noexcept;

  Outcome create(const UnifiedBufferOptions& options, UnifiedHandle* buffer) noexcept;
  Outcome adopt(const UnifiedAdoption& adoption, UnifiedHandle* buffer) noexcept;
  // One more owner; release() takes one away, and closes the buffer with the last one. It waits for
  // transfers, and for guards of other threads as wait_ns says. not_owned: closed already. After a failure
  // the buffer is there as before. Who shares a buffer that was abandoned takes the place of who left.
  Outcome share(UnifiedHandle buffer) noexcept;
  Outcome release(UnifiedHandle buffer) noexcept;
  // As release(), for an owner who cannot come back: while there are guards, the last of them closes it, and
  // where another thread changes it and must not be waited for, that one does.
  void abandon(UnifiedHandle buffer) noexcept;

  struct Request {
    UnifiedRange range;
    UnifiedUse use = UnifiedUse::host_read;
    cuda::Stream stream = nullptr;  // of uses of the device
    const CancelFlag* cancel = nullptr;
  };
  // not_owned: closed. bad_argument: outside of it, or empty. unsupported: the stream is being captured into
  // a graph (a guard that closes during that stands for all that the device does until then). in_use,
  // timed_out, cancelled; out_of_memory, over_budget, no_host_memory, device_lost, failed: contents are as
  // before.
  Outcome access(const Request& request, UnifiedGuard* guard) noexcept;

  // Starts to make a copy of the range valid on a side and does not wait for it. Copies to the host go
  // through a stream of this object, `stream` is not used then; to memory that is not pinned the driver
  // copies before it returns, so that one waits.
  Outcome prefetch(const UnifiedRange& range, UnifiedSide side, cuda::Stream stream) noexcept;
  // Gives the memory of a side up; the contents stay, on the other one. Waits until the memory is idle.
  Outcome evict(UnifiedHandle buffer, UnifiedSide side, const CancelFlag* cancel) noexcept;
  // Gives contents and memory of both sides up: all zeros, as a fresh buffer.
  Outcome discard(UnifiedHandle buffer) noexcept;
  // Keeps the first min(old, new) bytes; more bytes are zero. The side with the newest copy keeps memory. If
  // the driver cannot even tell when it has copied, the new block of the device stays in use for ever.
  Outcome resize(UnifiedHandle buffer, std::uint64_t size_bytes) noexcept;

  // The range becomes copies of the pattern; a multiple of its size. If the driver fails in the middle of a
  // fill on the device that takes several calls (patterns of 2, 8 and 16 bytes), a part of the range has it.
  Outcome fill(const UnifiedRange& range, const UnifiedPattern& pattern, UnifiedSide side,
               cuda::Stream stream) noexcept;
  // Ranges of the same size, which may overlap; then a copy on the device waits for the device. After a
  // failure `from` may have memory on that side which it had not.
  Outcome copy(const UnifiedRange& to, const UnifiedRange& from, UnifiedSide side,
               cuda::Stream stream) noexcept;

  // Gives memory of the caller's to a buffer that has none on the device; it is never freed here.
  Outcome attach_device(UnifiedHandle buffer, cuda::DevicePointer address) noexcept;
  // Takes the memory of the device away from the buffer, idle and with the newest contents, which stay on the
  // host too. It is the caller's now: to be freed with the source, unless it was attached. After a failure
  // the buffer may have memory on a side where it had none.
  Outcome detach_device(UnifiedHandle buffer, cuda::DevicePointer* address) noexcept;
  // Memory of a side was written from outside: all of its contents are the newest there. bad_argument: there
  // is no memory on that side.
  Outcome mark_written(UnifiedHandle buffer, UnifiedSide side) noexcept;

  // Waits until nothing is under way that touches the buffer.
  Outcome wait_idle(UnifiedHandle buffer) noexcept;
  // Waits for a move that is under way.
  Outcome info(UnifiedHandle buffer, UnifiedInfo* info) noexcept;
  [[nodiscard]] UnifiedStats stats() noexcept;
  [[nodiscard]] Gpu& gpu() const noexcept { return *gpu_; }
  // Where copies to the host are queued; for callers without a stream of their own.
  [[nodiscard]] cuda::Stream copy_stream() const noexcept { return copies_; }
  [[nodiscard]] const UnifiedOptions& options() const noexcept { return options_; }

 private:
  friend class UnifiedGuard;
  struct Work;
  // What is done with a range once its contents are there, by whoever changes the buffer.
  using Body = Outcome (*)(UnifiedMemory& memory, UnifiedRecord& record, const Work& work) noexcept;

  // Records.
  [[nodiscard]] UnifiedRecord* record_of(UnifiedHandle buffer) noexcept;
  [[nodiscard]] Outcome take_record(std::uint64_t size_bytes, UnifiedHandle* buffer) noexcept;
  void put_record(UnifiedRecord& record) noexcept;
  void add_memory(std::int64_t host_bytes, std::int64_t device_bytes) noexcept;

  // Whoever changes a buffer has it alone from begin_change() to end_change().
  struct Claim {
    UnifiedHandle buffer = 0;
    UnifiedUse use = UnifiedUse::host_write;  // guards that do not go with it are waited for
    const CancelFlag* cancel = nullptr;
    bool minds_guards = true;
    bool waits_for_guards = true;  // otherwise: not_ready
  };
  struct Wait {
    std::uint64_t deadline_ns = 0;  // 0: no guard was in the way yet
    std::uint64_t sleep_ns = 0;
    std::uint32_t seen = 0;
    bool is_counted = false;  // as one who waits
    unsigned late_touches = 0;
  };
  [[nodiscard]] Status try_change(UnifiedRecord& record, const Claim& claim, Wait* wait) noexcept;
  [[nodiscard]] Outcome begin_change(const Claim& claim, UnifiedRecord** record) noexcept;
  [[nodiscard]] static Outcome give_up(UnifiedRecord& record) noexcept;
  void end_change(UnifiedRecord& record) noexcept;
  [[nodiscard]] static bool take_due(UnifiedRecord& record) noexcept;
  void end_guard(UnifiedGuard& guard) noexcept;
  struct Deed {
    Body body = nullptr;
    void* context = nullptr;
    bool waits_for_guards = true;
  };
  [[nodiscard]] Outcome access_and_do(const Request& request, const Deed& deed) noexcept;
  [[nodiscard]] Outcome copy_on_device(const Request& read, const Request& write) noexcept;
  // A call of the program's while memory is asked for; a node on the stack of the thread.
  struct Asking : ListNode<> {
    explicit Asking(UnifiedMemory& owner) noexcept;
    ~Asking();
    Asking(const Asking&) = delete;
    Asking& operator=(const Asking&) = delete;
    UnifiedMemory& memory;
    std::uintptr_t thread;
  };
  [[nodiscard]] bool is_asking() noexcept;  // whether the calling thread is

  [[nodiscard]] static Status look_at_guards(const UnifiedRecord& record, UnifiedUse use) noexcept;
  [[nodiscard]] static Outcome resolve(const UnifiedRecord& record, const Request& request,
                                       Work* work) noexcept;

  // Within a change.
  [[nodiscard]] Outcome prepare(UnifiedRecord& record, const Work& work) noexcept;
  [[nodiscard]] Outcome prepare_blank(UnifiedRecord& record, const Work& work) noexcept;
  [[nodiscard]] Outcome move_and_do(UnifiedRecord& record, const Work& work) noexcept;
  [[nodiscard]] Outcome do_body(UnifiedRecord& record, const Work& work) noexcept;
  void publish(UnifiedRecord& record, const Work& work) noexcept;
  [[nodiscard]] Outcome evict_now(UnifiedRecord& record, const Work& work) noexcept;
  [[nodiscard]] Outcome resize_host(UnifiedRecord& record, std::uint64_t size_bytes) noexcept;
  [[nodiscard]] Outcome resize_device(UnifiedRecord& record, std::uint64_t size_bytes) noexcept;
  [[nodiscard]] Outcome detach_now(UnifiedRecord& record) noexcept;
  static Outcome fill_on_device(UnifiedMemory& memory, UnifiedRecord& record, const Work& work) noexcept;
  static Outcome copy_from_address(UnifiedMemory& memory, UnifiedRecord& record, const Work& work) noexcept;
  static Outcome copy_within_host(UnifiedMemory& memory, UnifiedRecord& record, const Work& work) noexcept;
  static Outcome copy_within_device(UnifiedMemory& memory, UnifiedRecord& record, const Work& work) noexcept;

  // Memory of a record and the work in it (unified_buffer_transfer.cpp).
  [[nodiscard]] Outcome allocate_host(UnifiedRecord& record, std::uint64_t size_bytes,
                                      std::byte** base) noexcept;
  [[nodiscard]] Outcome free_host(UnifiedRecord& record, std::byte* base, std::uint64_t size_bytes) noexcept;
  [[nodiscard]] Outcome allocate_device(UnifiedRecord& record, std::uint64_t size_bytes,
                                        cuda::DevicePointer* address) noexcept;
  [[nodiscard]] Outcome free_device(cuda::DevicePointer address, std::uint64_t size_bytes) noexcept;
  [[nodiscard]] Outcome make_host(UnifiedRecord& record) noexcept;
  [[nodiscard]] Outcome make_device(UnifiedRecord& record) noexcept;
  [[nodiscard]] Outcome drop_host(UnifiedRecord& record) noexcept;
  [[nodiscard]] Outcome drop_device(UnifiedRecord& record) noexcept;
  [[nodiscard]] Outcome drop_both(UnifiedRecord& record) noexcept;
  [[nodiscard]] Outcome move(UnifiedRecord& record, const Work& work, UnifiedMove direction) noexcept;
  struct Course {
    UnitRange units;
    UnifiedMove direction;
    cuda::Stream stream;
  };
  [[nodiscard]] Outcome move_units(UnifiedRecord& record, const Work& work, const Course& course) noexcept;
  [[nodiscard]] Outcome wait_for(UnifiedRecord& record, unsigned touches, const CancelFlag* cancel) noexcept;
  [[nodiscard]] Outcome order_after(UnifiedRecord& record, cuda::Stream stream, unsigned touches) noexcept;
  void note_use(UnifiedRecord& record, cuda::Stream stream, unsigned touches) noexcept;
  void note_end(UnifiedRecord& record, cuda::Stream stream, unsigned touches) noexcept;
  void note_unordered(UnifiedRecord& record, unsigned touches) noexcept;
  void forget_use(UnifiedRecord& record, unsigned index) noexcept;
  void make_room_for_use(UnifiedRecord& record) noexcept;

  Gpu* gpu_ = nullptr;
  UnifiedOptions options_;
  EventPool events_;
  cuda::Stream copies_ = nullptr;  // copies to the host, and what a buffer does without a stream
  os::Mutex mutex_;                // guards what follows
  paging::GrowingMemory records_;
  std::atomic<std::uint32_t> record_count_{0};  // ever used; rises under the lock
  std::uint32_t vacant_ = 0;                    // index + 1
  UnifiedStats stats_;
  List<Asking> asking_;
};

}  // namespace glebe::device
