// Several reads and writes of page files at once (namespace glebe::os): io_uring where the kernel has it and
// allows it, one after the other where not. Linux only.
//
// A queue belongs to one thread at a time. It keeps nothing between two calls of run(): when that returns,
// the kernel is done with every buffer. A queue whose descriptor was closed by the program, or that was
// inherited by a forked child, is not used again. Nothing allocates (liburing maps its rings); errno is
// preserved.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "platform/page_file.h"

namespace glebe::os {

struct IoRequest {
  PageFile* file;
  std::uint64_t offset;
  std::byte* data;  // is only read when this is a write
  std::size_t size_bytes;
  bool is_write;
  int error;  // out: as PageFile::read() and write() answer
};

// Does the requests one after the other.
void run_in_turn(std::span<IoRequest> requests) noexcept;

class IoQueue {
 public:
  static constexpr unsigned kDepth = 32;

  IoQueue() noexcept = default;
  ~IoQueue() { close(); }
  IoQueue(const IoQueue&) = delete;
  IoQueue& operator=(const IoQueue&) = delete;

  [[nodiscard]] bool open() noexcept;  // false: no io_uring here
  void close() noexcept;
  [[nodiscard]] bool is_open() const noexcept { return is_open_; }

  // Does all requests, in any order and at once, and returns when all of them are done. Short counts are
  // resumed. What the queue cannot do is done in turn.
  void run(std::span<IoRequest> requests) noexcept;

 private:
  void run_some(std::span<IoRequest> requests) noexcept;
  [[nodiscard]] unsigned submit(std::span<IoRequest> requests) noexcept;
  unsigned reap(std::span<IoRequest> requests) noexcept;
  void wait_without_kernel(std::span<IoRequest> requests, unsigned missing) noexcept;

  alignas(8) std::byte ring_[256] = {};  // struct io_uring
  OwnedDescriptor descriptor_;           // of the ring
  bool is_open_ = false;
};

}  // namespace glebe::os
