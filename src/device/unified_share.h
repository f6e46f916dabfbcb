// A unified buffer that two processes have (namespace glebe::device): its memory on the host, on the device,
// or both, is the same in each of them.
//
// The host's side is a sealed file without a name, the device's side are chunks that the driver exports; what
// is handed over, by a socket, are descriptors and a few numbers. Each process has a buffer of its own on
// that memory, with states of its own, so one of them uses it at a time, and they tell each other whose turn
// it is by means of their own:
//
//   hand_over()   all work of this process is done, and all shared sides have all of the contents
//   take_over()   the other process did that; what this one has besides is out of date
//
// A side that is not shared is memory of this process alone. Not thread-safe, but guards of its buffer are
// used as those of any other. On the device: where GpuFacts::has_shareable_handles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "platform/service.h"
#include "platform/shared_memory.h"
#include "src/device/chunk_pool.h"
#include "src/device/unified_buffer.h"

namespace glebe::device {

// Device memory made of chunks that other processes map too. Its addresses are this process's alone.
class SharedBlock {
 public:
  static constexpr unsigned kChunksMax = os::kPassedMax - 1;  // descriptors of one message, less the host's

  constexpr SharedBlock() noexcept = default;
  ~SharedBlock() { static_cast<void>(close()); }
  SharedBlock(const SharedBlock&) = delete;
  SharedBlock& operator=(const SharedBlock&) = delete;

  // At least `size_bytes` of chunks of a pool that is_shareable, which outlives the block. bad_argument: more
  // than kChunksMax of them. A failure leaves nothing.
  Outcome create(ChunkPool& chunks, std::uint64_t size_bytes) noexcept;
  // The same memory from its descriptors, which stay the caller's.
  Outcome import(Gpu& gpu, std::uint64_t chunk_bytes, std::span<const int> descriptors) noexcept;
  // One descriptor per chunk, the caller's to close, written to `descriptors`. After a failure there are
  // none.
  Outcome export_chunks(std::span<int> descriptors) noexcept;
  // Nothing on the device uses it. A chunk that was exported is not used again. May be called again after a
  // failure, and twice.
  Outcome close() noexcept;

  [[nodiscard]] cuda::DevicePointer address() const noexcept { return address_; }  // 0: none
  [[nodiscard]] unsigned chunk_count() const noexcept { return count_; }
  [[nodiscard]] std::uint64_t chunk_bytes() const noexcept { return chunk_bytes_; }

 private:
  [[nodiscard]] Outcome take_chunk(int descriptor, cuda::MemoryHandle* handle) noexcept;
  [[nodiscard]] Outcome map_all(std::span<const int> descriptors) noexcept;
  void give_chunk(cuda::MemoryHandle handle) noexcept;

  Gpu* gpu_ = nullptr;
  ChunkPool* chunks_ = nullptr;  // nullptr: imported
  std::uint64_t chunk_bytes_ = 0;
  unsigned count_ = 0;   // chunks that it has room for
  unsigned taken_ = 0;   // handles
  unsigned mapped_ = 0;  // of these
  bool is_exported_ = false;
  cuda::DevicePointer address_ = 0;
  cuda::MemoryHandle handles_[kChunksMax] = {};
};

class UnifiedShare {
 public:
  struct Options {
    std::uint64_t size_bytes = 0;
    bool has_host = true;         // the host's side is shared
    bool is_pinned = true;        // registered with the driver, so that copies need no staging
    ChunkPool* chunks = nullptr;  // of the device's side; nullptr: that is not shared
  };
  // What goes with the descriptors. The host's comes first.
  struct Message {
    std::uint64_t size_bytes = 0, chunk_bytes = 0;
    std::uint32_t chunk_count = 0, has_host = 0;
  };

  UnifiedShare() noexcept = default;
  ~UnifiedShare() { static_cast<void>(close()); }
  UnifiedShare(const UnifiedShare&) = delete;
  UnifiedShare& operator=(const UnifiedShare&) = delete;

  // Both leave nothing when they fail. `memory` outlives it. bad_argument; unsupported; no_host_memory; as
  // the driver answers.
  Outcome create(UnifiedMemory& memory, const Options& options) noexcept;
  // From a message and its descriptors, which stay the caller's. Sizes that do not fit are bad_argument.
  struct Received {
    Message message;
    std::span<const int> descriptors;
    bool is_pinned = true;
  };
  Outcome import(UnifiedMemory& memory, const Received& received) noexcept;

  // Through a stream socket of the domain AF_UNIX, connected to the other process. io_error: it is gone.
  Outcome send(int socket) noexcept;
  Outcome receive(UnifiedMemory& memory, int socket, bool is_pinned = true) noexcept;

  Outcome hand_over() noexcept;
  // in_use: this process used both sides since it handed them over.
  Outcome take_over() noexcept;

  [[nodiscard]] UnifiedBuffer& buffer() noexcept { return buffer_; }
  [[nodiscard]] UnifiedSlice all() const noexcept { return buffer_.all(); }
  // Waits for the device; the memory lives on where others have it. As UnifiedBuffer::close(); may be called
  // again.
  Outcome close() noexcept;

 private:
  [[nodiscard]] Outcome finish(UnifiedMemory& memory, std::uint64_t size_bytes, bool is_pinned) noexcept;
  void close_after_failure() noexcept;

  UnifiedMemory* memory_ = nullptr;
  os::SharedMemory host_;
  bool is_registered_ = false;
  SharedBlock block_;
  UnifiedBuffer buffer_;
};

}  // namespace glebe::device
