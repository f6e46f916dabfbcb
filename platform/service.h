// Threads of our own and what they need (namespace glebe::os). Linux only.
//
// The library starts threads only where an option asks for them (the paging tier). They block every signal,
// so that no handler of the program runs on them, and can have a table of descriptors of their own, so that
// nothing the program closes is theirs.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

namespace glebe::os {

// Starts a detached thread that runs run(argument) with all signals blocked. `name` (at most 15 characters)
// is what ps and debuggers show. Its stack is mapped by libc, not taken from the heap. False: the system has
// no thread left.
[[nodiscard]] bool start_service_thread(void (*run)(void* argument), void* argument,
                                        const char* name) noexcept;

// In a forked child, where the threads of start_service_thread() do not exist.
void forget_service_threads_in_child() noexcept;

// Tells when the program has no thread left. The C library ends a process with its last thread, as by exit(0)
// (pthread_exit(3)), but it counts ours too.
class ThreadWatch {
 public:
  constexpr ThreadWatch() noexcept = default;
  ThreadWatch(const ThreadWatch&) = delete;
  ThreadWatch& operator=(const ThreadWatch&) = delete;

  // Opens /proc/self/stat in the calling thread's table of descriptors, which every caller below shares. In a
  // forked child it is opened again; what was open belongs to the parent's table. False: no such file.
  [[nodiscard]] bool open() noexcept;
  // Whether the first thread has ended and none is left but those of start_service_thread().
  [[nodiscard]] bool is_program_over() const noexcept;

 private:
  int descriptor_ = -1;
};

// Ends the process as exit(3) does: handlers run in the calling thread.
[[noreturn]] void exit_process(int status) noexcept;

// Gives the calling thread a table of descriptors of its own, empty: descriptors that the program opens or
// closes are not ours any more, nor ours the program's. Threads started from here on by this thread share the
// table. (unshare(2), CLONE_FILES.) False: refused; then the table is still the program's.
[[nodiscard]] bool take_private_descriptors() noexcept;

// Sleeps until `word` is not `expected` any more and somebody woke it, or the time is over. (futex(2),
// private.)
void wait_on(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::uint64_t timeout_ns) noexcept;
void wake_one(std::atomic<std::uint32_t>& word) noexcept;
void wake_all(std::atomic<std::uint32_t>& word) noexcept;
void sleep_ns(std::uint64_t duration_ns) noexcept;

// CPU time of the calling thread.
[[nodiscard]] std::uint64_t thread_cpu_ns() noexcept;

// Sockets for handing descriptors from one process to another: stream sockets with names that are no files
// (unix(7), abstract). Each returns a descriptor, or -1. The name is a number.
[[nodiscard]] int listen_by_name(std::uint64_t name) noexcept;
[[nodiscard]] int connect_by_name(std::uint64_t name, std::uint64_t timeout_ms) noexcept;
[[nodiscard]] int accept_connection(
    int listener) noexcept;  // does not block; only from processes of the same user
// One message: bytes and up to kPassedMax descriptors. Blocks, up to the socket's time limit. False: the
// other side is gone or too slow.
inline constexpr unsigned kPassedMax = 64;
[[nodiscard]] bool send_message(int socket, const void* data, std::size_t size_bytes,
                                std::span<const int> descriptors) noexcept;
// Returns the number of descriptors received, -1 on failure (then none was kept).
[[nodiscard]] int receive_message(int socket, void* data, std::size_t size_bytes, int* descriptors) noexcept;
[[nodiscard]] bool is_hung_up(int socket) noexcept;  // the other side closed it, or ended

// No signal is delivered to the calling thread within the scope, except those that a fault of its own raises.
class [[nodiscard]] SignalsBlocked {
 public:
  SignalsBlocked() noexcept;
  ~SignalsBlocked();
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  std::uint64_t before_[2];  // the kernel's set of 64 signals
};

// A descriptor on which one thread waits for others (eventfd(2)), or -1.
[[nodiscard]] int make_event() noexcept;
void signal_event(int event) noexcept;
void clear_event(int event) noexcept;

// Writes to the program's standard error, from a thread with descriptors of its own too.
void write_error_of_program(const char* text, std::size_t size_bytes) noexcept;

// The process that started this one; another once that one has ended.
[[nodiscard]] std::uint64_t parent_process_id() noexcept;

void close_descriptor(int descriptor) noexcept;
// Another descriptor of the same open file, the caller's to close, or -1.
[[nodiscard]] int duplicate_descriptor(int descriptor) noexcept;
// Makes `descriptor` known as number `number` and closes it. False: the system refused; nothing changed.
[[nodiscard]] bool move_descriptor(int descriptor, int number) noexcept;

// Waits until one of the descriptors can be read, for at most timeout_ms. Sets readable[i].
void wait_readable(const int* descriptors, unsigned count, bool* readable, int timeout_ms) noexcept;

}  // namespace glebe::os
