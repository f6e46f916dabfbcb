// Asynchronous moves: tickets, a bounded queue and a bounded number of threads (namespace glebe::paging).
//
// A request is a move of a range. Workers take requests in order, prefetches only when nothing else waits.
// When there are no workers, or the queue is full, the caller does the work before its call returns, so a
// queue never grows without bound and nothing is refused. Workers block all signals and never call malloc.
// Thread-safe, except open() and close().
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "platform/thread.h"
#include "src/base/list.h"
#include "src/paging/buffer.h"
#include "src/paging/space.h"

namespace glebe::paging {

class BufferPager;
struct ByteRange;

using Ticket = std::uint64_t;  // 0 names nothing
inline constexpr unsigned kWorkersMax = 64;
inline constexpr std::uint32_t kRequestsMax = 1u << 16;  // tickets and prefetches at a time

struct Request : ListNode<> {
  enum State : std::uint8_t { kFree, kWaiting, kRunning, kDone };
  // Guarded by the lock of the queue; the rest is constant while it waits and runs.
  State state;
  bool has_ticket;  // somebody will wait for it or release it
  bool is_prefetch;
  Result result;
  std::uint32_t generation;
  std::uint32_t waiters;  // threads in wait() on it
  Buffer* buffer;         // held
  std::size_t offset_bytes, size_bytes;
  Move what;
};

class Requests {
 public:
  explicit Requests(BufferPager& pager) noexcept : pager_(pager) {}
  Requests(const Requests&) = delete;
  Requests& operator=(const Requests&) = delete;

  // False: no memory. Fewer threads than asked for are accepted when the system has no more.
  [[nodiscard]] bool open(unsigned workers) noexcept;
  // Completes all requests and ends the threads.
  void close() noexcept;
  void forget_in_child() noexcept;

  // Takes over the caller's hold of request.buffer. ticket == nullptr: nobody waits. With all tickets given
  // out (kRequestsMax) the work is done at once, *ticket is 0 and the answer is the result of the work; in
  // all other cases the answer is ok.
  [[nodiscard]] Result submit(const Request& request, Ticket* ticket) noexcept;
  // Waits for the end, gives the ticket back and returns the result; bad_handle: no such ticket.
  [[nodiscard]] Result wait(Ticket ticket) noexcept;
  [[nodiscard]] bool is_done(Ticket ticket) noexcept;  // also of tickets that are unknown
  // ok: it will not run, and its result is `cancelled`; pinned: it runs or ran already.
  [[nodiscard]] Result cancel(Ticket ticket) noexcept;
  void release(Ticket ticket) noexcept;  // the operation goes on
  void wait_all() noexcept;

  [[nodiscard]] std::uint64_t pending() const noexcept { return pending_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t total() const noexcept { return total_.load(std::memory_order_relaxed); }

 private:
  static void enter(void* self) noexcept;
  void work() noexcept;
  [[nodiscard]] Request* next_request() noexcept;
  [[nodiscard]] Request* find(Ticket ticket) noexcept;
  [[nodiscard]] bool has_ended(Ticket ticket, bool is_counted, Result* result) noexcept;
  void run_now(const Request& request, Result* result) noexcept;
  void finish(Request& request, Result result) noexcept;
  void recycle(Request& request) noexcept;
  void notify(std::atomic<std::uint32_t>& word) noexcept;

  BufferPager& pager_;
  os::Mutex lock_;  // guards the lists and the requests
  Space records_;
  List<Request> waiting_, prefetches_;
  std::atomic<std::uint32_t> work_word_{0};  // changes when a request was queued, or the end was asked for
  std::atomic<std::uint32_t> done_word_{0};  // changes when a request has ended
  std::atomic<std::uint32_t> threads_{0};
  std::atomic<bool> is_ending_{false};
  std::atomic<std::uint64_t> pending_{0}, total_{0};
  bool is_open_ = false;
};

}  // namespace glebe::paging
