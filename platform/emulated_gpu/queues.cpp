// Streams, events and their schedulers; see queues.h.
#include "platform/emulated_gpu/queues.h"

#include <sys/mman.h>

#include <cstring>

#include "platform/memory_calls.h"
#include "platform/process.h"
#include "platform/service.h"

namespace glebe::os::emulated {
namespace {

using cuda::EventObject;
using cuda::Result;
using cuda::StreamObject;

constexpr std::uint32_t kStreamsMax = 4096;
constexpr std::uint32_t kEventsMax = 1u << 16;
constexpr std::uint32_t kOperationsMax = 1u << 15;
constexpr std::uint32_t kStagingMax = 256;
constexpr std::uint64_t kLookNs = 50'000'000;  // who waits looks again at least so often
constexpr unsigned kPollStepsMax = 3;

bool is_blocking(const StreamObject* stream) noexcept {
  return (stream->flags & cuda::kStreamNonBlocking) == 0;
}

// What a copy, fill or kernel does with memory; it may be left in the middle by a fault.
void touch_memory(void* argument) noexcept {
  Operation& operation = *static_cast<Operation*>(argument);
  switch (operation.kind) {
    case Operation::Kind::copy:
      std::memmove(operation.to, operation.from, operation.size);
      return;
    case Operation::Kind::fill8:
      std::memset(operation.to, static_cast<int>(operation.value), operation.size);
      return;
    case Operation::Kind::fill32: {
      auto* words = reinterpret_cast<std::uint32_t*>(operation.to);
      for (std::uint64_t i = 0; i < operation.size; ++i)
        words[i] = static_cast<std::uint32_t>(operation.value);
      return;
    }
    // The host polls these: release pairs with its acquire.
    case Operation::Kind::write32:
      __atomic_store_n(reinterpret_cast<std::uint32_t*>(operation.to),
                       static_cast<std::uint32_t>(operation.value), __ATOMIC_RELEASE);
      return;
    case Operation::Kind::write64:
      __atomic_store_n(reinterpret_cast<std::uint64_t*>(operation.to), operation.value, __ATOMIC_RELEASE);
      return;
    case Operation::Kind::kernel:
      operation.call.parameters = operation.parameters;
      operation.kernel->run(operation.call);
      return;
    case Operation::Kind::copy_box:
      copy_box(operation.box);
      return;
    case Operation::Kind::host_function:
    case Operation::Kind::map_array:
    case Operation::Kind::record:
    case Operation::Kind::wait:
    case Operation::Kind::protect:
      return;
  }
}

}  // namespace

bool Queues::open(const Options& options, Mutex* lock) noexcept {
  lock_ = lock;
  schedule_ = options.schedule;
  random_ = options.seed;
  window_ = options.window;
  if (!streams_.open(kStreamsMax) || !events_.open(kEventsMax) || !operations_.open(kOperationsMax) ||
      !staging_.open(kStagingMax)) {
    return false;
  }
  legacy_ = create_stream(cuda::kStreamDefault);
  return legacy_ != nullptr;
}

void Queues::close() noexcept {
  is_closing_ = true;
  if (legacy_ != nullptr) drop_waiting();
  tell_change();
  while (running_ != 0 || workers_ != 0) wait_for_change();
  streams_.close();
  events_.close();
  operations_.close();
  staging_.close();
}

StreamObject* Queues::create_stream(unsigned flags) noexcept {
  StreamObject* stream = streams_.take();
  if (stream == nullptr) return nullptr;
  stream->owner = this;
  stream->flags = flags;
  stream->id = ++last_id_;
  if (schedule_ != GpuSchedule::threaded) return stream;
  ++workers_;
  if (start_service_thread(work, stream, "glebe-gpu")) return stream;
  --workers_;
  streams_.give_back(stream);
  return nullptr;
}

StreamObject* Queues::find(cuda::Stream handle) noexcept {
  const auto number = reinterpret_cast<std::uintptr_t>(handle);
  if (number == 0 || number == cuda::kStreamLegacy) return legacy_;
  if (number != cuda::kStreamPerThread) {
    if (!streams_.holds(handle) || handle == legacy_ || handle->is_of_thread) return nullptr;
    return handle->is_destroyed ? nullptr : handle;
  }
  for (std::uint32_t i = 0; i < streams_.used(); ++i) {
    StreamObject* stream = streams_.find(i);
    if (stream != nullptr && stream->is_of_thread && stream->thread == thread_id()) return stream;
  }
  StreamObject* made = create_stream(cuda::kStreamDefault);
  if (made != nullptr) {
    made->is_of_thread = true;
    made->thread = thread_id();
  }
  return made;
}

// What waits in it is still done; its worker, or whoever does the last of it, gives it back.
void Queues::destroy_stream(StreamObject* stream) noexcept {
  stream->is_destroyed = true;
  tell_change();
  if (schedule_ != GpuSchedule::threaded && stream->waiting.is_empty()) streams_.give_back(stream);
}

EventObject* Queues::create_event(unsigned flags) noexcept {
  EventObject* event = events_.take();
  if (event != nullptr) event->flags = flags;
  return event;
}

void Queues::destroy_event(EventObject* event) noexcept {
  event->is_destroyed = true;
  if (event->waiting == 0) events_.give_back(event);
}

bool Queues::spoil_captures() noexcept {
  bool is_any = false;
  for (std::uint32_t i = 0; i < streams_.used(); ++i) {
    cuda::StreamObject* stream = streams_.find(i);
    if (stream == nullptr || stream->capture != cuda::CaptureStatus::active) continue;
    stream->capture = cuda::CaptureStatus::invalidated;
    is_any = true;
  }
  return is_any;
}

std::uint32_t Queues::streams() noexcept {
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < streams_.used(); ++i) {
    const StreamObject* stream = streams_.find(i);
    if (stream != nullptr && stream != legacy_ && !stream->is_destroyed && !stream->is_of_thread) ++count;
  }
  return count;
}

Result Queues::queue(Operation* operation) noexcept {
  StreamObject* stream = operation->stream;
  operation->sequence = ++last_sequence_;
  if (operation->kind == Operation::Kind::record) {
    ++operation->event->waiting;
    operation->event->last = {stream, stream->id, operation->sequence};
  }
  stream->waiting.push_back(operation);
  tell_change();
  // A fault is told by the next call that asks, as by the driver.
  if (schedule_ == GpuSchedule::eager) static_cast<void>(synchronize(stream));
  return Result::success;
}

// The default stream waits for all that was queued in blocking streams before, and they for it.
bool Queues::is_joined(const Operation& operation) noexcept {
  if (!is_blocking(operation.stream)) return true;
  if (operation.stream != legacy_) {
    const Operation* first = legacy_->waiting.first();
    return first == nullptr || first->sequence > operation.sequence;
  }
  for (std::uint32_t i = 0; i < streams_.used(); ++i) {
    const StreamObject* stream = streams_.find(i);
    if (stream == nullptr || stream == legacy_ || !is_blocking(stream)) continue;
    const Operation* first = stream->waiting.first();
    if (first != nullptr && first->sequence < operation.sequence) return false;
  }
  return true;
}

bool Queues::is_reached(const cuda::StreamPlace& place) noexcept {
  // The stream may be destroyed meanwhile, and its place used by another one.
  if (!streams_.holds(place.stream) || place.stream->id != place.stream_id) return true;
  const Operation* first = place.stream->waiting.first();
  return first == nullptr || first->sequence > place.sequence;
}

// The first operation of a stream, if nothing is in its way.
Operation* Queues::next_of(StreamObject* stream) noexcept {
  Operation* first = stream->waiting.first();
  if (first == nullptr || stream->is_running || !is_joined(*first)) return nullptr;
  const bool must_wait = first->kind == Operation::Kind::wait && !is_reached(first->place);
  return must_wait ? nullptr : first;
}

// By lot among the streams that can go on; eager takes the one that waits longest.
StreamObject* Queues::choose() noexcept {
  StreamObject* chosen = nullptr;
  std::uint64_t count = 0;
  for (std::uint32_t i = 0; i < streams_.used(); ++i) {
    StreamObject* stream = streams_.find(i);
    const Operation* next = stream != nullptr ? next_of(stream) : nullptr;
    if (next == nullptr) continue;
    ++count;
    const bool is_better = schedule_ == GpuSchedule::adversarial
                               ? draw(count) == 0
                               : chosen == nullptr || next->sequence < chosen->waiting.first()->sequence;
    if (is_better) chosen = stream;
  }
  return chosen;
}

void Queues::run_next(StreamObject* stream) noexcept {
  Operation* operation = stream->waiting.first();
  stream->is_running = true;
  ++running_;
  const bool is_function = operation->kind == Operation::Kind::host_function;
  if (is_function) {
    stream->host_function_thread = thread_id();
    ++host_functions_;
  }
  lock_->unlock();
  const bool is_done = execute(*operation);
  lock_->lock();
  if (is_function) {
    stream->host_function_thread = 0;
    --host_functions_;
  }
  stream->is_running = false;
  --running_;
  if (!is_done && error() == Result::success) {
    error_.store(Result::illegal_address, std::memory_order_relaxed);
  }
  finish(operation);
  if (error() != Result::success) drop_waiting();
  tell_change();
}

bool Queues::execute(Operation& operation) noexcept {
  switch (operation.kind) {
    case Operation::Kind::map_array:  // finish() does it, under the lock
    case Operation::Kind::record:
    case Operation::Kind::wait:
      return true;
    case Operation::Kind::host_function:
      operation.function(operation.user_data);
      return true;
    case Operation::Kind::protect:
      CHECK(protect_call(operation.to, operation.size,
                         operation.value != 0 ? PROT_READ | PROT_WRITE : PROT_NONE) == 0);
      return true;
    default:
      return run_guarded(window_, touch_memory, &operation);
  }
}

void Queues::finish(Operation* operation) noexcept {
  if (operation->kind == Operation::Kind::record && error() == Result::success) {
    EventObject* event = operation->event;
    // An earlier recording in a slower stream may be reached later; it says nothing about the last one.
    if (operation->event_number > event->reached) {
      event->reached = operation->event_number;
      event->reached_ns = clock_fine_ns();
    }
  }
  if (operation->kind == Operation::Kind::map_array) apply(operation->mapping);
  drop(operation);
}

// Takes it out of its stream and gives back what it holds.
void Queues::drop(Operation* operation) noexcept {
  StreamObject* stream = operation->stream;
  stream->waiting.remove(operation);
  if (operation->event != nullptr) {
    EventObject* event = operation->event;
    --event->waiting;
    if (event->is_destroyed && event->waiting == 0) events_.give_back(event);
  }
  if (operation->kind == Operation::Kind::map_array) give_up(operation->mapping);
  if (operation->staging != nullptr) staging_.give_back(operation->staging);
  operations_.give_back(operation);
  if (schedule_ != GpuSchedule::threaded && stream->is_destroyed && stream->waiting.is_empty()) {
    streams_.give_back(stream);
  }
}

void Queues::drop_waiting() noexcept {
  for (std::uint32_t i = 0; i < streams_.used(); ++i) {
    StreamObject* stream = streams_.find(i);
    if (stream == nullptr) continue;
    const Operation* kept = stream->is_running ? stream->waiting.first() : nullptr;
    while (stream->waiting.last() != kept) {
      Operation* last = stream->waiting.last();
      const bool is_only = stream->waiting.first() == last;
      drop(last);
      if (is_only) break;  // the stream may be gone
    }
  }
}

template <class Condition>
Result Queues::wait_until(Condition is_met) noexcept {
  while (error() == Result::success && !is_closing_ && !is_met()) {
    StreamObject* next = schedule_ == GpuSchedule::threaded ? nullptr : choose();
    if (next != nullptr) {
      run_next(next);
      continue;
    }
    // Waits refer to what was queued before, so something can always go on unless it is going on.
    CHECK(schedule_ == GpuSchedule::threaded || running_ != 0);
    wait_for_change();
  }
  return error();
}

Operation* Queues::make(Operation::Kind kind, StreamObject* stream) noexcept {
  Operation* operation = operations_.take();
  while (operation == nullptr) {
    if (wait_until([this] { return operations_.live() < kOperationsMax; }) != Result::success) return nullptr;
    operation = operations_.take();
  }
  operation->kind = kind;
  operation->stream = stream;
  return operation;
}

Result Queues::synchronize(StreamObject* stream) noexcept {
  const cuda::StreamPlace end = {stream, stream->id, last_sequence_};
  return wait_until([=, this] { return is_reached(end); });
}

Result Queues::synchronize_all() noexcept {
  const std::uint64_t until = last_sequence_;
  return wait_until([=, this] {
    for (std::uint32_t i = 0; i < streams_.used(); ++i) {
      const StreamObject* stream = streams_.find(i);
      const Operation* first = stream != nullptr ? stream->waiting.first() : nullptr;
      if (first != nullptr && first->sequence <= until) return false;
    }
    return true;
  });
}

Result Queues::synchronize(EventObject* event) noexcept {
  if (event->reached >= event->recorded) return error();
  // The event is not looked at again: it may be destroyed meanwhile, or recorded anew.
  const cuda::StreamPlace end = event->last;
  return wait_until([=, this] { return is_reached(end); });
}

void Queues::poll() noexcept {
  if (schedule_ == GpuSchedule::adversarial) run(static_cast<unsigned>(draw(kPollStepsMax + 1)));
}

unsigned Queues::run(unsigned count) noexcept {
  unsigned done = 0;
  for (; done < count && error() == Result::success && schedule_ != GpuSchedule::threaded; ++done) {
    StreamObject* next = choose();
    if (next == nullptr) break;
    run_next(next);
  }
  return done;
}

void Queues::reset() noexcept {
  drop_waiting();
  while (running_ != 0) wait_for_change();
  for (std::uint32_t i = 0; i < streams_.used(); ++i) {
    StreamObject* stream = streams_.find(i);
    if (stream == nullptr || stream == legacy_ || stream->is_of_thread || stream->is_destroyed) continue;
    destroy_stream(stream);
  }
  for (std::uint32_t i = 0; i < events_.used(); ++i) {
    EventObject* event = events_.find(i);
    if (event != nullptr) destroy_event(event);
  }
  error_.store(Result::success, std::memory_order_relaxed);
}

bool Queues::is_in_host_function() noexcept {
  if (host_functions_ == 0) return false;
  for (std::uint32_t i = 0; i < streams_.used(); ++i) {
    const StreamObject* stream = streams_.find(i);
    if (stream != nullptr && stream->host_function_thread == thread_id()) return true;
  }
  return false;
}

void Queues::work(void* argument) noexcept {
  auto* stream = static_cast<StreamObject*>(argument);
  Queues& queues = *stream->owner;
  allow_fault_signals();
  queues.lock_->lock();
  while (!queues.is_closing_ && !(stream->is_destroyed && stream->waiting.is_empty())) {
    if (queues.next_of(stream) != nullptr) {
      queues.run_next(stream);
    } else {
      queues.wait_for_change();
    }
  }
  if (!queues.is_closing_) queues.streams_.give_back(stream);
  --queues.workers_;
  queues.tell_change();
  queues.lock_->unlock();
}

void Queues::wait_for_change() noexcept {
  const std::uint32_t seen = change_.load(std::memory_order_relaxed);
  lock_->unlock();
  wait_on(change_, seen, kLookNs);
  lock_->lock();
}

void Queues::tell_change() noexcept {
  change_.fetch_add(1, std::memory_order_relaxed);
  wake_all(change_);
}

// SplitMix64 (Steele, Lea, Flood 2014).
std::uint64_t Queues::draw(std::uint64_t bound) noexcept {
  random_ += 0x9E3779B97F4A7C15u;
  std::uint64_t z = random_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return (z ^ (z >> 31)) % bound;
}

}  // namespace glebe::os::emulated
