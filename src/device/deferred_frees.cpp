// One call of defer(), step by step: places for the blocks are taken, so that nothing can fail behind the
// event; the event is recorded; the blocks are appended to the list of the stream. See deferred_frees.h.
#include "src/device/deferred_frees.h"

#include "src/base/check.h"

namespace glebe::device {

using os::Lock;

namespace {

Outcome wait_for(Gpu& gpu, cuda::Event event) noexcept {
  const CurrentContext current(gpu);
  return gpu.check(gpu.driver().event_synchronize(event));
}

}  // namespace

Outcome DeferredFrees::open(Gpu& gpu) noexcept {
  close();
  const std::size_t blocks_bytes = std::size_t{kBlocksMax} * sizeof(Block);
  const std::size_t lists_bytes = std::size_t{kStreamsMax} * sizeof(StreamList);
  if (!blocks_.reserve(blocks_bytes, blocks_bytes, 4 * kKiB)) return Status::no_host_memory;
  const bool is_ready = lists_.reserve(lists_bytes, lists_bytes, 4 * kKiB) && events_.open(gpu).ok();
  if (!is_ready) {
    blocks_.release();
    lists_.release();
    return Status::no_host_memory;
  }
  gpu_ = &gpu;
  return {};
}

void DeferredFrees::close() noexcept {
  if (gpu_ == nullptr) return;
  CHECK(waiting_ == 0);
  events_.close();
  blocks_.release();
  lists_.release();
  block_count_ = list_count_ = free_ = 0;
  gpu_ = nullptr;
}

std::uint64_t DeferredFrees::count() noexcept {
  const Lock lock(mutex_);
  return waiting_;
}

// A chain of as many; kNone: no room for all of them. Under the lock.
std::uint32_t DeferredFrees::take_blocks(std::span<const std::uint64_t> blocks) noexcept {
  std::uint32_t chain = kNone;
  for (std::size_t i = blocks.size(); i-- > 0;) {
    std::uint32_t link = free_;
    if (link != kNone) {
      free_ = at(link).next;
    } else if (block_count_ < kBlocksMax && blocks_.grow_to((block_count_ + 1) * sizeof(Block))) {
      link = ++block_count_;
    } else {
      give_blocks(chain);
      return kNone;
    }
    at(link) = {blocks[i], nullptr, chain};
    chain = link;
  }
  return chain;
}

void DeferredFrees::give_blocks(std::uint32_t first) noexcept {
  while (first != kNone) {
    const std::uint32_t next = at(first).next;
    at(first).next = free_;
    free_ = first;
    first = next;
  }
}

// The list of a stream; an empty one of another stream if it has none. nullptr: too many. Under the lock.
DeferredFrees::StreamList* DeferredFrees::use_list(std::uint64_t stream_id) noexcept {
  StreamList* unused = nullptr;
  for (std::uint32_t i = 0; i < list_count_; ++i) {
    StreamList& list = lists()[i];
    const bool is_unused = list.first == kNone && list.users == 0;
    if (list.stream_id == stream_id && !is_unused) {
      ++list.users;
      return &list;
    }
    if (is_unused) unused = &list;
  }
  if (unused == nullptr) {
    if (list_count_ == kStreamsMax || !lists_.grow_to((list_count_ + 1) * sizeof(StreamList))) return nullptr;
    unused = lists() + list_count_++;
  }
  *unused = {stream_id, kNone, kNone, 1};
  return unused;
}

Outcome DeferredFrees::record(cuda::Stream stream, cuda::Event* event) noexcept {
  Outcome outcome = events_.take(event);
  if (!outcome.ok()) return outcome;
  const CurrentContext current(*gpu_);
  outcome = gpu_->check_not_captured(stream);
  if (outcome.ok()) outcome = gpu_->check(gpu_->driver().event_record(*event, stream));
  if (!outcome.ok()) events_.give(*event);
  return outcome;
}

Outcome DeferredFrees::defer(cuda::Stream stream, std::span<const std::uint64_t> blocks) noexcept {
  if (gpu_->is_lost()) return Status::device_lost;
  unsigned long long stream_id = 0;
  {
    const CurrentContext current(*gpu_);
    const Outcome outcome = gpu_->check(gpu_->driver().stream_get_id(stream, &stream_id));
    if (!outcome.ok()) return outcome;
  }
  StreamList* list = nullptr;
  std::uint32_t chain = kNone;
  {
    const Lock lock(mutex_);
    chain = take_blocks(blocks);
    if (chain == kNone) return block_count_ == kBlocksMax ? Status::over_budget : Status::no_host_memory;
    list = use_list(stream_id);
    if (list == nullptr) {
      give_blocks(chain);
      return list_count_ == kStreamsMax ? Status::over_budget : Status::no_host_memory;
    }
  }
  cuda::Event event = nullptr;
  const Outcome outcome = record(stream, &event);
  const Lock lock(mutex_);
  --list->users;
  if (!outcome.ok()) {
    give_blocks(chain);
    return outcome;
  }
  at(chain).event = event;
  (list->first == kNone ? list->first : at(list->last).next) = chain;
  list->last = chain;
  while (at(list->last).next != kNone) list->last = at(list->last).next;
  waiting_ += blocks.size();
  return {};
}

// The event of the oldest call that waits in a list; nullptr: none does.
cuda::Event DeferredFrees::first_event(std::uint32_t number) noexcept {
  const Lock lock(mutex_);
  const std::uint32_t first = lists()[number].first;
  return first == kNone ? nullptr : at(first).event;
}

// Frees the blocks of the oldest call that waits in a list, if the stream has passed them, or the device is
// lost and all is to go.
DeferredFrees::Step DeferredFrees::step(std::uint32_t number, bool is_last_look, const Sink& sink,
                                        Outcome* outcome) noexcept {
  StreamList& list = lists()[number];
  std::uint32_t first = kNone;
  cuda::Event event = nullptr;
  {
    const Lock lock(mutex_);
    first = list.first;
    if (first == kNone) return Step::none;
    event = at(first).event;
  }
  {
    const CurrentContext current(*gpu_);
    *outcome = gpu_->check(gpu_->driver().event_query(event));
  }
  const bool is_dropped = is_last_look && gpu_->is_lost();
  if (outcome->status == Status::not_ready && !is_dropped) return Step::waiting;
  if (!outcome->ok() && !is_dropped) return Step::failed;
  // Nobody else takes blocks out of a list, so these stay while the lock is not held.
  std::uint32_t last = first;
  std::uint64_t freed = 1;
  sink.free(sink.self, at(first).block);
  for (std::uint32_t next = kNone;; last = next, ++freed) {
    {
      const Lock lock(mutex_);
      next = at(last).next;
    }
    if (next == kNone || at(next).event != nullptr) break;
    sink.free(sink.self, at(next).block);
  }
  const Lock lock(mutex_);
  list.first = at(last).next;
  if (list.first == kNone) list.last = kNone;
  at(last).next = kNone;
  give_blocks(first);
  waiting_ -= freed;
  events_.give(event);
  return Step::passed;
}

DeferredFrees::Extent DeferredFrees::extent() noexcept {
  const Lock lock(mutex_);
  return {list_count_, waiting_};
}

// Each stream for itself: one that is slow does not keep the others.
Outcome DeferredFrees::retire(const Sink& sink) noexcept {
  if (gpu_ == nullptr) return {};
  const Lock lock(retire_mutex_);
  const Extent now = extent();
  Outcome first_failure;
  for (std::uint32_t i = 0; i < now.lists; ++i) {
    Outcome outcome;
    Step done = Step::passed;
    for (std::uint64_t j = 0; j < now.blocks && done == Step::passed; ++j) {
      done = step(i, false, sink, &outcome);
    }
    if (done == Step::failed && first_failure.ok()) first_failure = outcome;
  }
  return first_failure;
}

// The lock is not held while a stream is waited for: others may free what other streams have passed. An event
// that they give back meanwhile is at worst waited for once more than needed.
Outcome DeferredFrees::wait_all(const Sink& sink) noexcept {
  if (gpu_ == nullptr) return {};
  const Extent now = extent();
  Outcome first_failure;
  for (std::uint32_t i = 0; i < now.lists; ++i) {
    Outcome outcome;
    for (std::uint64_t j = 0; j < now.blocks && outcome.ok(); ++j) {
      const cuda::Event event = first_event(i);
      if (event == nullptr) break;
      outcome = wait_for(*gpu_, event);
      if (!outcome.ok() && !gpu_->is_lost()) break;
      const Lock lock(retire_mutex_);
      const Step done = step(i, true, sink, &outcome);
      if (done != Step::failed) outcome = {};
    }
    if (!outcome.ok() && first_failure.ok()) first_failure = outcome;
  }
  return gpu_->is_lost() ? Outcome(Status::device_lost) : first_failure;
}

}  // namespace glebe::device
