// Asynchronous moves: tickets, a bounded queue and a bounded number of threads (namespace glebe::paging).
//
// A request is a move of a range. Workers take requests in order, prefetches only when nothing else waits.
// Requests next to each other that are small and bound for a page file are taken together and leave with one
// write; while that goes on the next ones queue up, so that groups grow with the load and nobody ever waits
// for a group to fill. When there are no workers, or the queue is full, the caller does the work before its
// call returns, so a queue never grows without bound and nothing is refused. Workers block all signals and
// never call malloc. Thread-safe, except open() and close().
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "platform/thread.h"
#include "src/base/list.h"
#include "src/paging/buffer.h"
#include "src/paging/space.h"
#include "src/paging/store.h"

namespace glebe::paging {

class BufferPager;
struct ByteRange;

using Ticket = std::uint64_t;  // 0 names nothing
inline constexpr unsigned kWorkersMax = 64;
inline constexpr std::uint32_t kRequestsMax = 1u << 16;  // tickets and prefetches at a time

// Told about the end of a request exactly once, with no lock held and before its ticket counts as done: by
// the worker, by whoever cancels it, or by the caller where there is no worker.
struct Completion {
  void (*tell)(const Completion& self, Result result) = nullptr;
  void* context = nullptr;
  void (*function)() = nullptr;  // for tell() alone: what the C interface was given
};

// What an asynchronous call asks for.
struct AsyncMove : Move {
  constexpr AsyncMove(Operation wanted, Tier where, const Completion& told = {}) noexcept
      : Move{wanted, where}, completion(told) {}
  Completion completion;
};

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
  Completion completion;
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
  // out (kRequestsMax) the work is done at once, *ticket is 0 and the answer is the result of the work,
  // unless the completion was told; in all other cases the answer is ok.
  [[nodiscard]] Result submit(const Request& request, Ticket* ticket) noexcept;
  // Waits for the end, gives the ticket back and returns the result; bad_handle: no such ticket.
  [[nodiscard]] Result wait(Ticket ticket) noexcept;
  [[nodiscard]] bool is_done(Ticket ticket) noexcept;  // also of tickets that are unknown
  // ok: it will not run, and its result is `cancelled`; busy: a worker has taken it, or it has ended.
  [[nodiscard]] Result cancel(Ticket ticket) noexcept;
  void release(Ticket ticket) noexcept;  // the operation goes on
  void wait_all() noexcept;

  [[nodiscard]] std::uint64_t pending() const noexcept { return pending_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t total() const noexcept { return total_.load(std::memory_order_relaxed); }

 private:
  // Requests that are carried out together.
  struct Group {
    Request* requests[kBatchObjectsMax];
    Result results[kBatchObjectsMax];
    unsigned count = 0;
  };
  // A word that changes, and how many threads sleep until it does: without any, nobody calls the kernel.
  struct Signal {
    std::atomic<std::uint32_t> word{0};
    std::atomic<std::uint32_t> sleepers{0};
    void change() noexcept;
    void sleep(std::uint32_t seen) noexcept;
  };

  static void enter(void* self) noexcept;
  void work() noexcept;
  void take_group(Group& group) noexcept;
  void run_group(Group& group) noexcept;
  void move_together(Group& group) noexcept;
  [[nodiscard]] Request* find(Ticket ticket) noexcept;
  [[nodiscard]] bool has_ended(Ticket ticket, bool is_counted, Result* result) noexcept;
  void run_now(const Request& request, Result* result) noexcept;
  void complete(const Request& request, Result result) noexcept;
  void finish(Request& request, Result result) noexcept;
  void recycle(Request& request) noexcept;

  BufferPager& pager_;
  os::Mutex lock_;  // guards the lists and the requests
  Space records_;
  List<Request> waiting_, prefetches_;
  Signal work_;  // changes when a request was queued, or the end was asked for
  Signal done_;  // changes when a request has ended
  std::atomic<std::uint32_t> threads_{0};
  std::atomic<bool> is_ending_{false};
  std::atomic<std::uint64_t> pending_{0}, total_{0};
  bool is_open_ = false;
};

}  // namespace glebe::paging
