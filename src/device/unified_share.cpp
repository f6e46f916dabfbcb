// Chunks and files that go to another process and come from one. See unified_share.h.
#include "src/device/unified_share.h"

#include "src/base/check.h"

namespace glebe::device {

Outcome SharedBlock::create(ChunkPool& chunks, std::uint64_t size_bytes) noexcept {
  if (address_ != 0 || size_bytes == 0) return Status::bad_argument;
  const std::uint64_t count = divide_up(size_bytes, chunks.chunk_bytes());
  if (count > kChunksMax) return Status::bad_argument;
  gpu_ = &chunks.gpu();
  if (!gpu_->facts().has_shareable_handles) return Status::unsupported;
  chunks_ = &chunks;
  chunk_bytes_ = chunks.chunk_bytes();
  count_ = static_cast<unsigned>(count);
  return map_all({});
}

Outcome SharedBlock::import(Gpu& gpu, std::uint64_t chunk_bytes, std::span<const int> descriptors) noexcept {
  if (address_ != 0 || descriptors.empty() || descriptors.size() > kChunksMax) return Status::bad_argument;
  if (!gpu.facts().has_shareable_handles) return Status::unsupported;
  if (chunk_bytes == 0 || chunk_bytes % gpu.facts().granule_bytes != 0) return Status::bad_argument;
  if (chunk_bytes > kUnifiedBytesMax) return Status::bad_argument;
  gpu_ = &gpu;
  chunks_ = nullptr;
  chunk_bytes_ = chunk_bytes;
  count_ = static_cast<unsigned>(descriptors.size());
  return map_all(descriptors);
}

Outcome SharedBlock::take_chunk(int descriptor, cuda::MemoryHandle* handle) noexcept {
  if (chunks_ != nullptr) return chunks_->take(handle);
  return gpu_->check(gpu_->driver().mem_import_handle(
      handle, reinterpret_cast<void*>(static_cast<std::intptr_t>(descriptor)),
      cuda::HandleType::posix_file_descriptor));
}

// All or nothing: addresses, chunks, mappings, and access to all of it at once.
Outcome SharedBlock::map_all(std::span<const int> descriptors) noexcept {
  const CurrentContext current(*gpu_);
  const cuda::Driver& driver = gpu_->driver();
  Outcome outcome = gpu_->check(
      driver.mem_address_reserve(&address_, count_ * chunk_bytes_, gpu_->facts().granule_bytes, 0, 0));
  if (!outcome.ok()) {
    address_ = 0;
    count_ = 0;
    return outcome;
  }
  for (unsigned i = 0; i < count_ && outcome.ok(); ++i) {
    outcome = take_chunk(chunks_ == nullptr ? descriptors[i] : -1, &handles_[i]);
    if (!outcome.ok()) break;
    ++taken_;
    outcome = gpu_->check(driver.mem_map(address_ + i * chunk_bytes_, chunk_bytes_, 0, handles_[i], 0));
    if (outcome.ok()) ++mapped_;
  }
  const cuda::AccessDescription access = gpu_->device_access();
  if (outcome.ok()) {
    outcome = gpu_->check(driver.mem_set_access(address_, count_ * chunk_bytes_, &access, 1));
  }
  if (!outcome.ok()) static_cast<void>(close());
  return outcome;
}

Outcome SharedBlock::export_chunks(std::span<int> descriptors) noexcept {
  if (address_ == 0 || descriptors.size() < count_) return Status::bad_argument;
  const CurrentContext current(*gpu_);
  for (unsigned i = 0; i < count_; ++i) {
    const Outcome outcome = gpu_->check(gpu_->driver().mem_export_handle(
        &descriptors[i], handles_[i], cuda::HandleType::posix_file_descriptor, 0));
    if (outcome.ok()) continue;
    for (unsigned made = 0; made < i; ++made) os::close_descriptor(descriptors[made]);
    return outcome;
  }
  is_exported_ = true;
  return {};
}

void SharedBlock::give_chunk(cuda::MemoryHandle handle) noexcept {
  if (chunks_ == nullptr) {
    static_cast<void>(gpu_->check(gpu_->driver().mem_release(handle)));
  } else if (is_exported_) {
    chunks_->discard(handle);  // others may have it still
  } else {
    chunks_->give(handle);
  }
}

Outcome SharedBlock::close() noexcept {
  if (address_ == 0) return {};
  const CurrentContext current(*gpu_);
  const cuda::Driver& driver = gpu_->driver();
  if (mapped_ > 0) {
    const Outcome outcome = gpu_->check(driver.mem_unmap(address_, mapped_ * chunk_bytes_));
    if (!outcome.ok() && outcome.status != Status::device_lost) return outcome;
    mapped_ = 0;
  }
  for (; taken_ > 0; --taken_) give_chunk(handles_[taken_ - 1]);
  const Outcome outcome = gpu_->check(driver.mem_address_free(address_, count_ * chunk_bytes_));
  if (!outcome.ok() && outcome.status != Status::device_lost) return outcome;
  address_ = 0;
  count_ = 0;
  is_exported_ = false;
  return {};
}

Outcome UnifiedShare::create(UnifiedMemory& memory, const Options& options) noexcept {
  if (memory_ != nullptr) return Status::in_use;
  if (options.size_bytes == 0 || options.size_bytes > kUnifiedBytesMax) return Status::bad_argument;
  if (!options.has_host && options.chunks == nullptr) return Status::bad_argument;
  memory_ = &memory;
  Outcome outcome;
  if (options.has_host) {
    host_ = os::make_shared_memory(options.size_bytes);
    if (host_.base == nullptr) outcome = Status::no_host_memory;
  }
  if (outcome.ok() && options.chunks != nullptr) outcome = block_.create(*options.chunks, options.size_bytes);
  if (outcome.ok()) outcome = finish(memory, options.size_bytes, options.is_pinned);
  if (!outcome.ok()) {
    close_after_failure();
    return outcome;
  }
  // The host's side is zeros already. Memory of the device is not, and equal to nothing yet.
  if (block_.address() == 0) return outcome;
  outcome = host_.base != nullptr
                ? memory.mark_written(buffer_.handle(), UnifiedSide::host)
                : buffer_.all().fill(std::uint8_t{0}, UnifiedSide::device, memory.copy_stream());
  if (outcome.ok()) outcome = hand_over();
  if (!outcome.ok()) close_after_failure();
  return outcome;
}

Outcome UnifiedShare::import(UnifiedMemory& memory, const Received& received) noexcept {
  if (memory_ != nullptr) return Status::in_use;
  const Message& message = received.message;
  if (message.size_bytes == 0 || message.size_bytes > kUnifiedBytesMax || message.has_host > 1 ||
      message.chunk_count > SharedBlock::kChunksMax) {
    return Status::bad_argument;
  }
  const std::size_t count = std::size_t{message.has_host} + message.chunk_count;
  if (count == 0 || received.descriptors.size() != count) return Status::bad_argument;
  const bool has_room =
      message.chunk_count == 0 || message.chunk_bytes >= divide_up(message.size_bytes, message.chunk_count);
  if (!has_room) return Status::bad_argument;
  memory_ = &memory;
  Outcome outcome;
  if (message.has_host != 0) {
    host_ = os::open_shared_memory(received.descriptors[0], message.size_bytes);
    if (host_.base == nullptr) outcome = Status::bad_argument;
  }
  if (outcome.ok() && message.chunk_count != 0) {
    outcome =
        block_.import(memory.gpu(), message.chunk_bytes, received.descriptors.subspan(message.has_host));
  }
  if (outcome.ok()) outcome = finish(memory, message.size_bytes, received.is_pinned);
  if (!outcome.ok()) close_after_failure();
  return outcome;
}

Outcome UnifiedShare::finish(UnifiedMemory& memory, std::uint64_t size_bytes, bool is_pinned) noexcept {
  Gpu& gpu = memory.gpu();
  if (host_.base != nullptr && is_pinned) {
    const CurrentContext current(gpu);
    const Outcome outcome =
        gpu.check(gpu.driver().mem_host_register(host_.base, host_.size_bytes, cuda::kRegisterPortable));
    if (!outcome.ok()) return outcome;
    is_registered_ = true;
  }
  return buffer_.adopt(memory, {size_bytes, host_.base, block_.address()});
}

// A call that fails once when it gives back is made again.
void UnifiedShare::close_after_failure() noexcept {
  constexpr int kTries = 3;
  for (int i = 0; i < kTries && !close().ok(); ++i) continue;
}

Outcome UnifiedShare::close() noexcept {
  if (memory_ == nullptr) return {};
  Gpu& gpu = memory_->gpu();
  Outcome outcome = buffer_.close();
  if (!outcome.ok()) return outcome;
  if (is_registered_) {
    const CurrentContext current(gpu);
    outcome = gpu.check(gpu.driver().mem_host_unregister(host_.base));
    if (!outcome.ok() && outcome.status != Status::device_lost) return outcome;
    is_registered_ = false;
  }
  outcome = block_.close();
  if (!outcome.ok()) return outcome;
  if (host_.base != nullptr) os::unmap_shared_memory(host_);
  if (host_.descriptor >= 0) os::close_descriptor(host_.descriptor);
  host_ = {};
  memory_ = nullptr;
  return {};
}

Outcome UnifiedShare::send(int socket) noexcept {
  if (memory_ == nullptr || (host_.base != nullptr && host_.descriptor < 0)) return Status::bad_argument;
  Outcome outcome = hand_over();
  if (!outcome.ok()) return outcome;
  UnifiedInfo now;
  outcome = buffer_.info(&now);
  if (!outcome.ok()) return outcome;
  const unsigned hosts = host_.base != nullptr ? 1 : 0;
  int descriptors[os::kPassedMax] = {host_.descriptor};
  if (block_.address() != 0) outcome = block_.export_chunks(std::span(descriptors).subspan(hosts));
  if (!outcome.ok()) return outcome;
  const Message message = {now.size_bytes, block_.chunk_bytes(), block_.chunk_count(), hosts};
  const std::size_t count = std::size_t{hosts} + block_.chunk_count();
  const bool is_sent =
      os::send_message(socket, &message, sizeof message, std::span(descriptors).first(count));
  for (std::size_t i = hosts; i < count; ++i) os::close_descriptor(descriptors[i]);
  return is_sent ? Outcome() : Outcome(Status::io_error);
}

Outcome UnifiedShare::receive(UnifiedMemory& memory, int socket, bool is_pinned) noexcept {
  Message message;
  int descriptors[os::kPassedMax];
  const int count = os::receive_message(socket, &message, sizeof message, descriptors);
  if (count < 0) return Status::io_error;
  const std::span<const int> received(descriptors, static_cast<std::size_t>(count));
  const Outcome outcome = import(memory, {message, received, is_pinned});
  for (const int descriptor : received) os::close_descriptor(descriptor);
  return outcome;
}

Outcome UnifiedShare::hand_over() noexcept {
  if (memory_ == nullptr) return Status::not_owned;
  Outcome outcome;
  if (host_.base != nullptr) outcome = all().prefetch(UnifiedSide::host);
  if (outcome.ok() && block_.address() != 0)
    outcome = all().prefetch(UnifiedSide::device, memory_->copy_stream());
  return outcome.ok() ? memory_->wait_idle(buffer_.handle()) : outcome;
}

Outcome UnifiedShare::take_over() noexcept {
  if (memory_ == nullptr) return Status::not_owned;
  if (host_.base == nullptr) return memory_->mark_written(buffer_.handle(), UnifiedSide::device);
  if (block_.address() == 0) return memory_->mark_written(buffer_.handle(), UnifiedSide::host);
  UnifiedInfo now;
  const Outcome outcome = buffer_.info(&now);
  if (!outcome.ok()) return outcome;
  return now.state == UnifiedState::synchronized ? Outcome() : Outcome(Status::in_use);
}

}  // namespace glebe::device
