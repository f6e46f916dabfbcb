// The driver's side of moving chunks (namespace glebe::device): two copy streams, one per direction, so that
// what leaves and what comes overlap, and mapping with its undoing.
//
// The order of calls is the caller's (residency_moves.cpp): wait for whoever uses the chunk, copy out, wait
// for the copy, unmap; take the handle, map, set access, copy in. The functions here only make sure that each
// step that fails leaves nothing behind: memory that could be mapped but not opened is unmapped again, and a
// copy whose end cannot be recorded is waited for. All calls but stats() belong to one thread at a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "src/device/gpu.h"

namespace glebe::device {

struct MoverStats {
  std::uint64_t copies_out = 0, copies_in = 0;  // queued
  std::uint64_t bytes_out = 0, bytes_in = 0;    // device to host, host to device
  std::uint64_t maps = 0, unmaps = 0;           // that succeeded
  std::uint64_t undone_maps = 0;                // mapped, could not be opened, unmapped again
};

class ChunkMover {
 public:
  constexpr ChunkMover() noexcept = default;
  ~ChunkMover() { close(); }
  ChunkMover(const ChunkMover&) = delete;
  ChunkMover& operator=(const ChunkMover&) = delete;

  // Creates the streams. `gpu` outlives the mover. A failed open leaves nothing behind.
  Outcome open(Gpu& gpu, std::size_t chunk_bytes) noexcept;
  // Waits for what is queued.
  void close() noexcept;

  // What is queued from now on waits for the event, which was recorded.
  Outcome out_after(cuda::Event event) noexcept;
  Outcome in_after(cuda::Event event) noexcept;
  // Queues one chunk from the device to pinned memory and records `done` behind it. A failure leaves nothing
  // under way.
  Outcome copy_out(std::byte* to, cuda::DevicePointer from, cuda::Event done) noexcept;
  // Queues one chunk from pinned memory to the device.
  Outcome copy_in(cuda::DevicePointer to, const std::byte* from) noexcept;
  Outcome record_in(cuda::Event done) noexcept;
  // Block until the event, or all copies to the device, are done.
  Outcome wait(cuda::Event event) noexcept;
  Outcome drain_in() noexcept;
  Outcome drain_out() noexcept;

  // Maps a whole handle at the address and opens it to the device: both or nothing.
  Outcome map(cuda::DevicePointer address, cuda::MemoryHandle handle) noexcept;
  // The caller has proved that nothing on the device uses the chunk any more.
  Outcome unmap(cuda::DevicePointer address) noexcept;

  // Something is under way, or mapped, of which the driver would not tell that it ended: nothing can be
  // proved any more. The owner stops.
  [[nodiscard]] bool is_broken() const noexcept { return is_broken_.load(std::memory_order_relaxed); }
  void set_broken() noexcept { is_broken_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t in_id() const noexcept { return in_id_; }
  [[nodiscard]] std::uint64_t out_id() const noexcept { return out_id_; }
  [[nodiscard]] MoverStats stats() const noexcept;

 private:
  Outcome drain(cuda::Stream stream) noexcept;

  Gpu* gpu_ = nullptr;
  std::size_t chunk_bytes_ = 0;
  cuda::Stream out_ = nullptr, in_ = nullptr;
  std::uint64_t out_id_ = 0, in_id_ = 0;
  std::atomic<bool> is_broken_{false};
  std::atomic<std::uint64_t> copies_out_{0}, copies_in_{0}, maps_{0}, unmaps_{0}, undone_maps_{0};
};

}  // namespace glebe::device
