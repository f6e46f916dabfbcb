// Streams, events and their schedulers (namespace glebe::os::emulated).
//
// A stream is a list of operations that are done in order; an event is a number of recordings, of which some
// have been reached. Whoever waits for an event waits for the recording that was the last one at that moment,
// whatever is recorded later and wherever: the place of that one operation is kept, not the event. Whether
// the first operation of a stream may go on now depends on events, and on the default stream, which joins all
// blocking streams in the order of the calls. Who does the work is the schedule's affair; see GpuSchedule.
//
// All functions are called with the lock of the machine held. Those that say so let it go while work is done
// or waited for, and have it again when they return.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "platform/cuda/types.h"
#include "platform/emulated_gpu/arrays.h"
#include "platform/emulated_gpu/emulated_gpu.h"
#include "platform/emulated_gpu/faults.h"
#include "platform/emulated_gpu/store.h"
#include "platform/thread.h"
#include "src/base/list.h"

namespace glebe::os::emulated {
class Queues;
struct Operation;
}  // namespace glebe::os::emulated

// What the handles of the table point to.
namespace glebe::os::cuda {

// A place in a stream: it is reached when nothing up to that operation is left there.
struct StreamPlace {
  StreamObject* stream;
  std::uint64_t stream_id;  // tells a stream that was made at the same address
  std::uint64_t sequence;
};

struct EventObject {
  unsigned flags;
  bool is_destroyed;
  std::uint32_t waiting;  // queued recordings
  std::uint64_t recorded, reached;
  StreamPlace last;          // of the last recording
  std::uint64_t reached_ns;  // when the last one was reached
};

struct StreamObject {
  emulated::Queues* owner;
  unsigned flags;
  bool is_destroyed, is_running, is_of_thread;
  CaptureStatus capture;
  std::uint64_t id;
  std::uintptr_t thread;                // whose stream it is, if is_of_thread
  std::uintptr_t host_function_thread;  // who runs a host function of it now, or 0
  List<emulated::Operation> waiting;    // the first one may be running
};

}  // namespace glebe::os::cuda

namespace glebe::os::emulated {

struct Staging {
  static constexpr std::size_t kBytes = 64 * kKiB;
  std::byte bytes[kBytes];
};

struct Operation : ListNode<> {
  enum class Kind : std::uint8_t {
    copy,
    fill8,
    fill32,
    write32,
    write64,
    host_function,
    copy_box,
    map_array,
    kernel,
    record,
    wait,
    protect  // of memory of a pool: whether the device may use it from here on
  };
  static constexpr std::size_t kParameterBytes = 128;

  Kind kind;
  cuda::StreamObject* stream;
  std::uint64_t sequence;  // of all operations of the machine
  cuda::EventObject* event;
  std::uint64_t event_number;  // the recording that this one is
  cuda::StreamPlace place;     // what it waits for
  std::byte* to;
  const std::byte* from;
  std::uint64_t size;   // bytes, or words of fill32
  std::uint64_t value;  // of fills and writes; protect: 0 takes the access, 1 gives it
  cuda::HostFunction function;
  void* user_data;
  const EmulatedKernel* kernel;
  KernelCall call;
  Staging* staging;
  ArrayCopy box;
  ArrayMapping mapping;
  std::byte parameters[kParameterBytes];
};

class Queues {
 public:
  struct Options {
    GpuSchedule schedule;
    std::uint64_t seed;
    GuardedRange window;  // what the device sees
  };
  [[nodiscard]] bool open(const Options& options, Mutex* lock) noexcept;
  // Drops what waits and waits for what runs. Lets the lock go.
  void close() noexcept;

  // The stream of a handle that a program handed in: also the special ones. nullptr: there is none.
  [[nodiscard]] cuda::StreamObject* find(cuda::Stream handle) noexcept;
  [[nodiscard]] cuda::StreamObject* create_stream(unsigned flags) noexcept;  // nullptr: too many
  void destroy_stream(cuda::StreamObject* stream) noexcept;
  [[nodiscard]] cuda::EventObject* create_event(unsigned flags) noexcept;
  void destroy_event(cuda::EventObject* event) noexcept;
  [[nodiscard]] bool holds(const cuda::EventObject* event) noexcept {
    return events_.holds(event) && !event->is_destroyed;
  }

  // A fresh operation for a stream, to be filled in and queued. Waits while as many as there can be are
  // queued, as the driver does; nullptr: the context has an error. Lets the lock go.
  [[nodiscard]] Operation* make(Operation::Kind kind, cuda::StreamObject* stream) noexcept;
  // Room for bytes that are copied when a copy is called; nullptr: too many copies wait.
  [[nodiscard]] Staging* take_staging() noexcept { return staging_.take(); }
  // Queues it; eager: does it. Lets the lock go.
  [[nodiscard]] cuda::Result queue(Operation* operation) noexcept;

  // Waits until all that was queued so far in a stream, or in all, is done, or an event reached what was
  // recorded so far. Answers with the error of the context, if it has one then. Let the lock go.
  [[nodiscard]] cuda::Result synchronize(cuda::StreamObject* stream) noexcept;
  [[nodiscard]] cuda::Result synchronize_all() noexcept;
  [[nodiscard]] cuda::Result synchronize(cuda::EventObject* event) noexcept;
  // adversarial: somebody looks whether work is done. Lets the lock go.
  void poll() noexcept;
  unsigned run(unsigned count) noexcept;  // lets the lock go

  // The end of a stream once one more operation was queued in it.
  [[nodiscard]] cuda::StreamPlace next_place(cuda::StreamObject* stream) const noexcept {
    return {stream, stream->id, last_sequence_ + 1};
  }
  [[nodiscard]] bool is_reached(const cuda::StreamPlace& place) noexcept;
  [[nodiscard]] bool is_idle(const cuda::StreamObject* stream) const noexcept {
    return stream->waiting.is_empty();
  }
  // Success, or what every call answers since a fault.
  [[nodiscard]] cuda::Result error() const noexcept { return error_.load(std::memory_order_relaxed); }
  // A context that starts again: streams, events and work are gone, and so is the error. Lets the lock go.
  void reset() noexcept;
  [[nodiscard]] bool is_in_host_function() noexcept;  // whether the calling thread is

  // Captures under way end as invalid; false: there is none.
  bool spoil_captures() noexcept;
  [[nodiscard]] std::uint32_t streams() noexcept;  // that somebody created and did not destroy
  [[nodiscard]] std::uint32_t events() const noexcept { return events_.live(); }
  [[nodiscard]] std::uint32_t waiting() const noexcept { return operations_.live(); }

 private:
  static void work(void* stream) noexcept;  // a thread of the threaded schedule

  [[nodiscard]] Operation* next_of(cuda::StreamObject* stream) noexcept;
  [[nodiscard]] bool is_joined(const Operation& operation) noexcept;
  [[nodiscard]] cuda::StreamObject* choose() noexcept;
  void run_next(cuda::StreamObject* stream) noexcept;  // lets the lock go
  [[nodiscard]] bool execute(Operation& operation) noexcept;
  void finish(Operation* operation) noexcept;
  void drop(Operation* operation) noexcept;
  void drop_waiting() noexcept;
  template <class Condition>
  [[nodiscard]] cuda::Result wait_until(Condition is_met) noexcept;  // lets the lock go
  void wait_for_change() noexcept;                                   // lets the lock go
  void tell_change() noexcept;
  [[nodiscard]] std::uint64_t draw(std::uint64_t bound) noexcept;

  Mutex* lock_ = nullptr;
  GpuSchedule schedule_ = GpuSchedule::eager;
  GuardedRange window_ = {};
  std::uint64_t random_ = 0, last_sequence_ = 0, last_id_ = 0;
  std::atomic<cuda::Result> error_{cuda::Result::success};
  std::atomic<std::uint32_t> change_{0};  // rises whenever something was queued, done or dropped
  unsigned running_ = 0, workers_ = 0, host_functions_ = 0;
  bool is_closing_ = false;
  cuda::StreamObject* legacy_ = nullptr;
  Store<cuda::StreamObject> streams_;
  Store<cuda::EventObject> events_;
  Store<Operation> operations_;
  Store<Staging> staging_;
};

}  // namespace glebe::os::emulated
