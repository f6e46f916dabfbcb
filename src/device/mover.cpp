// See mover.h.
#include "src/device/mover.h"

namespace glebe::device {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

void add_one(std::atomic<std::uint64_t>& counter) noexcept { counter.fetch_add(1, kRelaxed); }

}  // namespace

Outcome ChunkMover::open(Gpu& gpu, std::size_t chunk_bytes) noexcept {
  close();
  gpu_ = &gpu;
  chunk_bytes_ = chunk_bytes;
  is_broken_.store(false, kRelaxed);
  for (auto* counter : {&copies_out_, &copies_in_, &maps_, &unmaps_, &undone_maps_}) {
    counter->store(0, kRelaxed);
  }
  const CurrentContext current(gpu);
  const cuda::Driver& driver = gpu.driver();
  unsigned long long out_id = 0, in_id = 0;
  Outcome outcome = gpu.check(driver.stream_create(&out_, cuda::kStreamNonBlocking));
  if (!outcome.ok()) out_ = nullptr;
  if (outcome.ok()) {
    outcome = gpu.check(driver.stream_create(&in_, cuda::kStreamNonBlocking));
    if (!outcome.ok()) in_ = nullptr;
  }
  if (outcome.ok()) outcome = gpu.check(driver.stream_get_id(out_, &out_id));
  if (outcome.ok()) outcome = gpu.check(driver.stream_get_id(in_, &in_id));
  out_id_ = out_id;
  in_id_ = in_id;
  if (!outcome.ok()) close();
  return outcome;
}

void ChunkMover::close() noexcept {
  if (gpu_ == nullptr) return;
  const CurrentContext current(*gpu_);
  for (cuda::Stream* stream : {&out_, &in_}) {
    if (*stream == nullptr) continue;
    static_cast<void>(drain(*stream));
    static_cast<void>(gpu_->check(gpu_->driver().stream_destroy(*stream)));
    *stream = nullptr;
  }
  gpu_ = nullptr;
}

Outcome ChunkMover::out_after(cuda::Event event) noexcept {
  const CurrentContext current(*gpu_);
  return gpu_->check(gpu_->driver().stream_wait_event(out_, event, 0));
}

Outcome ChunkMover::in_after(cuda::Event event) noexcept {
  const CurrentContext current(*gpu_);
  return gpu_->check(gpu_->driver().stream_wait_event(in_, event, 0));
}

Outcome ChunkMover::copy_out(std::byte* to, cuda::DevicePointer from, cuda::Event done) noexcept {
  const CurrentContext current(*gpu_);
  const cuda::Driver& driver = gpu_->driver();
  Outcome outcome = gpu_->check(driver.memcpy_d2h_async(to, from, chunk_bytes_, out_));
  if (!outcome.ok()) return outcome;
  outcome = gpu_->check(driver.event_record(done, out_));
  if (!outcome.ok()) {
    static_cast<void>(drain_out());
    return outcome;
  }
  add_one(copies_out_);
  return outcome;
}

Outcome ChunkMover::copy_in(cuda::DevicePointer to, const std::byte* from) noexcept {
  const CurrentContext current(*gpu_);
  const Outcome outcome = gpu_->check(gpu_->driver().memcpy_h2d_async(to, from, chunk_bytes_, in_));
  if (outcome.ok()) add_one(copies_in_);
  return outcome;
}

Outcome ChunkMover::record_in(cuda::Event done) noexcept {
  const CurrentContext current(*gpu_);
  return gpu_->check(gpu_->driver().event_record(done, in_));
}

Outcome ChunkMover::wait(cuda::Event event) noexcept {
  const CurrentContext current(*gpu_);
  return gpu_->check(gpu_->driver().event_synchronize(event));
}

Outcome ChunkMover::drain_in() noexcept { return drain(in_); }

Outcome ChunkMover::drain_out() noexcept { return drain(out_); }

// The whole context is waited for where the stream cannot be.
Outcome ChunkMover::drain(cuda::Stream stream) noexcept {
  const CurrentContext current(*gpu_);
  Outcome outcome = gpu_->check(gpu_->driver().stream_synchronize(stream));
  if (!outcome.ok()) outcome = gpu_->check(gpu_->driver().ctx_synchronize());
  if (!outcome.ok()) set_broken();
  return outcome;
}

Outcome ChunkMover::map(cuda::DevicePointer address, cuda::MemoryHandle handle) noexcept {
  const CurrentContext current(*gpu_);
  const cuda::Driver& driver = gpu_->driver();
  Outcome outcome = gpu_->check(driver.mem_map(address, chunk_bytes_, 0, handle, 0));
  if (!outcome.ok()) return outcome;
  // Access goes with each unmapping, so it is set each time.
  const cuda::AccessDescription access = gpu_->device_access();
  outcome = gpu_->check(driver.mem_set_access(address, chunk_bytes_, &access, 1));
  if (outcome.ok()) {
    add_one(maps_);
    return outcome;
  }
  if (driver.mem_unmap(address, chunk_bytes_) != cuda::Result::success) set_broken();
  add_one(undone_maps_);
  return outcome;
}

Outcome ChunkMover::unmap(cuda::DevicePointer address) noexcept {
  const CurrentContext current(*gpu_);
  const Outcome outcome = gpu_->check(gpu_->driver().mem_unmap(address, chunk_bytes_));
  if (outcome.ok()) add_one(unmaps_);
  return outcome;
}

MoverStats ChunkMover::stats() const noexcept {
  MoverStats stats;
  stats.copies_out = copies_out_.load(kRelaxed);
  stats.copies_in = copies_in_.load(kRelaxed);
  stats.bytes_out = stats.copies_out * chunk_bytes_;
  stats.bytes_in = stats.copies_in * chunk_bytes_;
  stats.maps = maps_.load(kRelaxed);
  stats.unmaps = unmaps_.load(kRelaxed);
  stats.undone_maps = undone_maps_.load(kRelaxed);
  return stats;
}

}  // namespace glebe::device
