// Asynchronous moves; see worker.h.
#include "src/paging/worker.h"

#include "platform/service.h"
#include "src/base/check.h"
#include "src/paging/buffer_use.h"

namespace glebe::paging {
namespace {

constexpr std::uint64_t kWaitNs = 100'000'000;  // looks again at the latest after this time

}  // namespace

bool Requests::open(unsigned workers) noexcept {
  if (!records_.open(kRequestsMax, sizeof(Request), kRequestsMax)) return false;
  is_open_ = true;
  is_ending_.store(false, std::memory_order_relaxed);
  for (unsigned i = 0; i < workers; ++i) {
    threads_.fetch_add(1, std::memory_order_relaxed);
    if (os::start_service_thread(enter, this, "glebe-mover")) continue;
    threads_.fetch_sub(1, std::memory_order_relaxed);
    break;
  }
  return true;
}

void Requests::close() noexcept {
  if (!is_open_) return;
  wait_all();
  is_ending_.store(true, std::memory_order_release);
  work_.change();
  for (;;) {
    const std::uint32_t left = threads_.load(std::memory_order_acquire);
    if (left == 0) break;
    os::wait_on(threads_, left, kWaitNs);
  }
  records_.close();
  is_open_ = false;
}

// The threads do not exist here; their locks and requests are of no use.
void Requests::forget_in_child() noexcept {
  if (!is_open_) return;
  lock_.reset_in_child();
  waiting_.forget_all();
  prefetches_.forget_all();
  threads_.store(0, std::memory_order_relaxed);
  records_.close();
  is_open_ = false;
}

Result Requests::submit(const Request& request, Ticket* ticket) noexcept {
  total_.fetch_add(1, std::memory_order_relaxed);
  pending_.fetch_add(1, std::memory_order_relaxed);
  const bool is_async = threads_.load(std::memory_order_relaxed) != 0;
  const placement::Run run = is_async || ticket != nullptr ? records_.take(1) : placement::Run{};
  Result result = Result::ok;
  if (!is_async || run.empty()) run_now(request, &result);
  if (ticket != nullptr) *ticket = 0;
  if (run.empty()) {
    pending_.fetch_sub(1, std::memory_order_release);
    done_.change();
    return request.completion.tell != nullptr ? Result::ok : result;
  }
  {
    const os::Lock hold(lock_);
    Request& record = *reinterpret_cast<Request*>(records_.at(run.first));
    const std::uint32_t generation = record.generation + 1;
    record = request;
    record.generation = generation;
    record.has_ticket = ticket != nullptr;
    record.waiters = 0;
    if (ticket != nullptr) *ticket = std::uint64_t{generation} << 32 | (std::uint64_t{run.first} + 1);
    if (!is_async) {
      finish(record, result);
    } else {
      record.state = Request::kWaiting;
      (record.is_prefetch ? prefetches_ : waiting_).push_back(&record);
    }
  }
  (is_async ? work_ : done_).change();
  return Result::ok;
}

void Requests::enter(void* self) noexcept { static_cast<Requests*>(self)->work(); }

void Requests::work() noexcept {
  Group group;
  for (;;) {
    const std::uint32_t word = work_.word.load(std::memory_order_acquire);
    take_group(group);
    if (group.count != 0) {
      run_group(group);
      continue;
    }
    if (is_ending_.load(std::memory_order_acquire)) break;
    work_.sleep(word);
  }
  // The last access; see BufferPager::run_crawler().
  threads_.fetch_sub(1, std::memory_order_release);
  os::wake_all(threads_);
}

// The next request, and behind it those that leave with the same write.
void Requests::take_group(Group& group) noexcept {
  group.count = 0;
  const os::Lock hold(lock_);
  Request* request = waiting_.pop_front();
  if (request == nullptr) request = prefetches_.pop_front();
  std::size_t total = 0;
  while (request != nullptr) {
    request->state = Request::kRunning;
    group.requests[group.count++] = request;
    const std::size_t bytes = pager_.shared_bytes(*request);
    total += bytes;
    if (bytes == 0 || group.count == kBatchObjectsMax) break;
    request = waiting_.first();
    const std::size_t more = request != nullptr ? pager_.shared_bytes(*request) : 0;
    request = more != 0 && more <= kBatchBytes - total ? waiting_.pop_front() : nullptr;
  }
}

void Requests::run_group(Group& group) noexcept {
  if (group.count == 1) {
    run_now(*group.requests[0], &group.results[0]);
  } else {
    move_together(group);
    for (unsigned i = 0; i < group.count; ++i) complete(*group.requests[i], group.results[i]);
  }
  {
    const os::Lock hold(lock_);
    for (unsigned i = 0; i < group.count; ++i) finish(*group.requests[i], group.results[i]);
  }
  done_.change();
}

void Requests::move_together(Group& group) noexcept {
  Mover mover(pager_);
  for (unsigned i = 0; i < group.count; ++i) {
    const Request& request = *group.requests[i];
    Result& result = group.results[i] = Result::ok;
    mover.note_failures_in(&result);
    const ByteRange range{request.offset_bytes, request.size_bytes};
    const Result failure = pager_.move_with(mover, *request.buffer, range, request.what);
    if (result == Result::ok) result = failure;
  }
}

void Requests::run_now(const Request& request, Result* result) noexcept {
  const ByteRange range{request.offset_bytes, request.size_bytes};
  *result = pager_.move_range(*request.buffer, range, request.what);
  complete(request, *result);
}

// The work is done: lets go of the buffer and tells who wanted to know. The record is still in use.
void Requests::complete(const Request& request, Result result) noexcept {
  const Completion completion = request.completion;
  pager_.let_go(*request.buffer);
  if (completion.tell != nullptr) completion.tell(completion, result);
}

// Under lock_; done_ changes afterwards. Without a ticket the record goes at once.
void Requests::finish(Request& request, Result result) noexcept {
  request.state = Request::kDone;
  request.result = result;
  if (!request.has_ticket && request.waiters == 0) recycle(request);
  pending_.fetch_sub(1, std::memory_order_release);
}

void Requests::recycle(Request& request) noexcept {
  request.state = Request::kFree;
  CHECK(records_.give_back(records_.unit_of(&request)));
}

// As in BufferPager::wait_flight(): either the change of the word is seen, or the sleeper.
void Requests::Signal::change() noexcept {
  word.fetch_add(1, std::memory_order_seq_cst);  // pairs with the acquire of those who wait
  if (sleepers.load(std::memory_order_seq_cst) != 0) os::wake_all(word);
}

void Requests::Signal::sleep(std::uint32_t seen) noexcept {
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  if (word.load(std::memory_order_seq_cst) == seen) os::wait_on(word, seen, kWaitNs);
  sleepers.fetch_sub(1, std::memory_order_relaxed);
}

// Under lock_. The request of a ticket that was given out and not given back; nullptr: none.
Request* Requests::find(Ticket ticket) noexcept {
  const auto index = static_cast<std::uint32_t>(ticket) - 1;
  if (!is_open_ || index >= records_.known_units()) return nullptr;
  Request& request = *reinterpret_cast<Request*>(records_.at(index));
  const bool is_it = request.state != Request::kFree && request.has_ticket &&
                     request.generation == static_cast<std::uint32_t>(ticket >> 32);
  return is_it ? &request : nullptr;
}

// One look by a waiter; the first one counts it. True: its wait is over.
bool Requests::has_ended(Ticket ticket, bool is_counted, Result* result) noexcept {
  const os::Lock hold(lock_);
  Request* const request = find(ticket);
  *result = Result::bad_handle;
  if (request == nullptr) return true;
  if (!is_counted) ++request->waiters;
  if (request->state != Request::kDone) return false;
  *result = request->result;
  // The last of several waiters gives the record back; a later wait() finds no such ticket.
  if (--request->waiters == 0) recycle(*request);
  return true;
}

Result Requests::wait(Ticket ticket) noexcept {
  for (bool is_counted = false;;) {
    const std::uint32_t seen = done_.word.load(std::memory_order_acquire);
    Result result = Result::ok;
    if (has_ended(ticket, is_counted, &result)) return result;
    is_counted = true;
    done_.sleep(seen);
  }
}

bool Requests::is_done(Ticket ticket) noexcept {
  const os::Lock hold(lock_);
  const Request* const request = find(ticket);
  return request == nullptr || request->state == Request::kDone;
}

Result Requests::cancel(Ticket ticket) noexcept {
  Request* request = nullptr;
  {
    const os::Lock hold(lock_);
    request = find(ticket);
    if (request == nullptr) return Result::bad_handle;
    if (request->state != Request::kWaiting) return Result::busy;
    waiting_.remove(request);
    request->state = Request::kRunning;  // nobody else takes it
  }
  complete(*request, Result::cancelled);
  {
    const os::Lock hold(lock_);
    finish(*request, Result::cancelled);
  }
  done_.change();
  return Result::ok;
}

void Requests::release(Ticket ticket) noexcept {
  const os::Lock hold(lock_);
  Request* const request = find(ticket);
  if (request == nullptr) return;
  if (request->state == Request::kDone && request->waiters == 0) return recycle(*request);
  request->has_ticket = request->waiters != 0;
}

void Requests::wait_all() noexcept {
  for (;;) {
    const std::uint32_t seen = done_.word.load(std::memory_order_acquire);
    if (pending_.load(std::memory_order_acquire) == 0) return;
    done_.sleep(seen);
  }
}

}  // namespace glebe::paging
