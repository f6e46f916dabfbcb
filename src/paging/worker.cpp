// Asynchronous moves; see worker.h.
#include "src/paging/worker.h"

#include "platform/service.h"
#include "src/base/check.h"
#include "src/paging/buffer_pager.h"

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
  work_word_.fetch_add(1, std::memory_order_release);
  os::wake_all(work_word_);
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
    notify(done_word_);
    return result;
  }
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
    return Result::ok;
  }
  record.state = Request::kWaiting;
  (record.is_prefetch ? prefetches_ : waiting_).push_back(&record);
  work_word_.fetch_add(1, std::memory_order_release);
  os::wake_all(work_word_);
  return Result::ok;
}

void Requests::enter(void* self) noexcept { static_cast<Requests*>(self)->work(); }

void Requests::work() noexcept {
  for (;;) {
    const std::uint32_t word = work_word_.load(std::memory_order_acquire);
    Request* request = next_request();
    if (request != nullptr) {
      Result result = Result::ok;
      run_now(*request, &result);
      const os::Lock hold(lock_);
      finish(*request, result);
      continue;
    }
    if (is_ending_.load(std::memory_order_acquire)) break;
    os::wait_on(work_word_, word, kWaitNs);
  }
  // The last access; see BufferPager::run_crawler().
  threads_.fetch_sub(1, std::memory_order_release);
  os::wake_all(threads_);
}

Request* Requests::next_request() noexcept {
  const os::Lock hold(lock_);
  Request* request = waiting_.pop_front();
  if (request == nullptr) request = prefetches_.pop_front();
  if (request != nullptr) request->state = Request::kRunning;
  return request;
}

void Requests::run_now(const Request& request, Result* result) noexcept {
  const ByteRange range{request.offset_bytes, request.size_bytes};
  *result = pager_.move_range(*request.buffer, range, request.what);
  pager_.let_go(*request.buffer, 0, 1);
}

// Under lock_. Whoever waits sees the state change; without a ticket the record goes at once.
void Requests::finish(Request& request, Result result) noexcept {
  request.state = Request::kDone;
  request.result = result;
  if (!request.has_ticket && request.waiters == 0) recycle(request);
  pending_.fetch_sub(1, std::memory_order_release);
  notify(done_word_);
}

void Requests::recycle(Request& request) noexcept {
  request.state = Request::kFree;
  CHECK(records_.give_back(records_.unit_of(&request)));
}

void Requests::notify(std::atomic<std::uint32_t>& word) noexcept {
  word.fetch_add(1, std::memory_order_release);  // pairs with the acquire of those who wait
  os::wake_all(word);
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
    const std::uint32_t seen = done_word_.load(std::memory_order_acquire);
    Result result = Result::ok;
    if (has_ended(ticket, is_counted, &result)) return result;
    is_counted = true;
    os::wait_on(done_word_, seen, kWaitNs);
  }
}

bool Requests::is_done(Ticket ticket) noexcept {
  const os::Lock hold(lock_);
  const Request* const request = find(ticket);
  return request == nullptr || request->state == Request::kDone;
}

Result Requests::cancel(Ticket ticket) noexcept {
  Buffer* buffer = nullptr;
  {
    const os::Lock hold(lock_);
    Request* const request = find(ticket);
    if (request == nullptr) return Result::bad_handle;
    if (request->state != Request::kWaiting) return Result::busy;
    waiting_.remove(request);
    buffer = request->buffer;
    finish(*request, Result::cancelled);
  }
  pager_.let_go(*buffer, 0, 1);
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
    const std::uint32_t seen = done_word_.load(std::memory_order_acquire);
    if (pending_.load(std::memory_order_acquire) == 0) return;
    os::wait_on(done_word_, seen, kWaitNs);
  }
}

}  // namespace glebe::paging
