// Marks: points in streams that somebody will want to be passed (namespace glebe::device). A mark is a pooled
// event and how often it is referred to; the event goes back to the pool with the last reference. The chunks
// of one lease share one mark.
//
// Not thread-safe: the owner's lock guards all of it. The event of a mark may be waited for without the lock
// by whoever holds a reference.
#pragma once

#include <cstdint>

#include "src/base/check.h"
#include "src/device/event_pool.h"
#include "src/paging/growing_memory.h"

namespace glebe::device {

using MarkIndex = std::uint32_t;  // 0: none

class StreamMarks {
 public:
  static constexpr std::uint32_t kMarksMax = EventPool::kEventsMax;

  constexpr StreamMarks() noexcept = default;
  StreamMarks(const StreamMarks&) = delete;
  StreamMarks& operator=(const StreamMarks&) = delete;

  // `events` outlives this.
  [[nodiscard]] bool open(EventPool& events) noexcept {
    events_ = &events;
    used_ = free_ = live_ = 0;
    last_number_ = 0;
    return memory_.reserve(kMarksMax * sizeof(Mark), kMarksMax * sizeof(Mark), 4 * kKiB);
  }
  void close() noexcept {
    CHECK(live_ == 0);
    memory_.release();
  }

  // Before an event is recorded that add() will be told of. Threads record without a lock around it, so the
  // order of two marks of one stream is known only if one was added before the other was begun.
  [[nodiscard]] std::uint64_t begin() noexcept { return ++last_number_; }
  // A mark for an event that was recorded in the stream of this id, with one reference; 0: no memory. Later
  // marks have higher numbers.
  [[nodiscard]] MarkIndex add(cuda::Event event, std::uint64_t stream_id, std::uint64_t begun) noexcept {
    MarkIndex index = free_;
    if (index != 0) {
      free_ = at(index).next_free;
    } else {
      if (used_ == kMarksMax || !memory_.grow_to((used_ + 1) * sizeof(Mark))) return 0;
      index = ++used_;
    }
    at(index) = Mark{event, stream_id, begun, ++last_number_, 1, 0, false};
    ++live_;
    return index;
  }
  void refer(MarkIndex index) noexcept { ++at(index).references; }
  void drop(MarkIndex index) noexcept {
    if (index == 0) return;
    Mark& mark = at(index);
    CHECK(mark.references > 0);
    if (--mark.references != 0) return;
    events_->give(mark.event);
    mark.next_free = free_;
    free_ = index;
    --live_;
  }

  [[nodiscard]] cuda::Event event(MarkIndex index) noexcept { return at(index).event; }
  [[nodiscard]] std::uint64_t stream_id(MarkIndex index) noexcept { return at(index).stream_id; }
  [[nodiscard]] std::uint64_t number(MarkIndex index) noexcept { return at(index).number; }
  // Whether `first` lies before `second`, which is of the same stream. Neither may: then nobody knows.
  [[nodiscard]] bool is_before(MarkIndex first, MarkIndex second) noexcept {
    return at(first).number < at(second).begun;
  }
  [[nodiscard]] bool is_passed(MarkIndex index) noexcept { return index == 0 || at(index).is_passed; }
  void set_passed(MarkIndex index) noexcept { at(index).is_passed = true; }
  [[nodiscard]] std::uint32_t live() const noexcept { return live_; }

 private:
  struct Mark {
    cuda::Event event;
    std::uint64_t stream_id, begun, number;
    std::uint32_t references, next_free;
    bool is_passed;
  };
  [[nodiscard]] Mark& at(MarkIndex index) noexcept {
    CHECK(index != 0 && index <= used_);
    return reinterpret_cast<Mark*>(memory_.base())[index - 1];
  }

  EventPool* events_ = nullptr;
  paging::GrowingMemory memory_;
  std::uint32_t used_ = 0, free_ = 0, live_ = 0;
  std::uint64_t last_number_ = 0;
};

}  // namespace glebe::device
