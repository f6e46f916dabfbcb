// glebe in C++: transfers between the host and a GPU. Header-only over device_transfer.h, which says what
// each call means and what it may answer.
//
//   glebe::TransferQueue queue;  glebe::TransferTicket ticket;
//   queue.open(device);  queue.upload(address, bytes, &ticket);  ...  ticket.wait();
//
// Nothing here throws. A queue is closed after its tickets are gone, and not moved while it has some.
#pragma once

#include <glebe/device_transfer.h>
#include <glebe/device.hpp>

namespace glebe {

// The transfers of one call. When it goes it waits for their end.
class TransferTicket {
 public:
  static constexpr std::uint64_t kForever = UINT64_MAX;

  TransferTicket() noexcept = default;
  ~TransferTicket() { release(); }
  TransferTicket(TransferTicket&& other) noexcept
      : queue_(std::exchange(other.queue_, nullptr)), ticket_(std::exchange(other.ticket_, 0)) {}
  TransferTicket& operator=(TransferTicket&& other) noexcept {
    if (this != &other) {
      release();
      queue_ = std::exchange(other.queue_, nullptr);
      ticket_ = std::exchange(other.ticket_, 0);
    }
    return *this;
  }
  TransferTicket(const TransferTicket&) = delete;
  TransferTicket& operator=(const TransferTicket&) = delete;

  explicit operator bool() const noexcept { return queue_ != nullptr; }
  [[nodiscard]] DeviceResult wait(std::uint64_t timeout_ns = kForever) const noexcept {
    return glebe_transfer_wait(queue_, ticket_, timeout_ns);
  }
  [[nodiscard]] DeviceResult poll() const noexcept { return glebe_transfer_poll(queue_, ticket_); }
  DeviceResult cancel() const noexcept { return glebe_transfer_cancel(queue_, ticket_); }
  // Of one of them; without an index of all together. bad_argument: an empty ticket, or no such index.
  [[nodiscard]] DeviceResult result(glebe_transfer_result* result,
                                    std::size_t index = SIZE_MAX) const noexcept {
    return glebe_transfer_get_result(queue_, ticket_, index, result);
  }
  void release() noexcept {
    if (queue_ != nullptr) static_cast<void>(glebe_transfer_release(queue_, ticket_));
    queue_ = nullptr;
  }

 private:
  friend class TransferQueue;
  glebe_transfer_queue* queue_ = nullptr;
  glebe_transfer_ticket ticket_ = 0;
};

namespace detail {
inline glebe_device_result close_transfers(glebe_transfer_queue* queue) noexcept {
  return glebe_transfer_queue_close(queue, glebe_transfer_end_wait);
}
}  // namespace detail

class TransferQueue : public DeviceOwner<glebe_transfer_queue, detail::close_transfers> {
 public:
  [[nodiscard]] DeviceResult open(const Device& device, glebe_transfer_queue_options options = {}) noexcept {
    close();
    options.struct_bytes = sizeof options;
    return glebe_transfer_queue_open(device.handle(), &options, &handle_);
  }
  DeviceResult stop(glebe_transfer_end how) const noexcept { return glebe_transfer_queue_stop(handle_, how); }

  // An earlier ticket of the object is released first. struct_bytes is set here.
  [[nodiscard]] DeviceResult submit(std::span<glebe_transfer> transfers,
                                    TransferTicket* ticket) const noexcept {
    ticket->release();
    for (glebe_transfer& transfer : transfers) transfer.struct_bytes = sizeof transfer;
    const DeviceResult result =
        glebe_transfer_submit(handle_, transfers.data(), transfers.size(), &ticket->ticket_);
    if (result == glebe_device_ok) ticket->queue_ = handle_;
    return result;
  }
  // `options`: priority, memory, is_verified, retries_max and timeout_ns of it are looked at.
  [[nodiscard]] DeviceResult upload(DeviceAddress to, std::span<const std::byte> from, TransferTicket* ticket,
                                    glebe_transfer options = {}) const noexcept {
    options.kind = glebe_transfer_upload;
    options.device = to;
    options.from = from.data();
    options.size = from.size();
    return submit({&options, 1}, ticket);
  }
  [[nodiscard]] DeviceResult download(std::span<std::byte> to, DeviceAddress from, TransferTicket* ticket,
                                      glebe_transfer options = {}) const noexcept {
    options.kind = glebe_transfer_download;
    options.device = from;
    options.to = to.data();
    options.size = to.size();
    return submit({&options, 1}, ticket);
  }
  bool help() const noexcept { return glebe_transfer_help(handle_) != 0; }
  [[nodiscard]] std::uint64_t pending() const noexcept { return glebe_transfer_pending(handle_); }
  [[nodiscard]] glebe_transfer_stats stats(glebe_transfer_direction direction) const noexcept {
    glebe_transfer_stats result = {};
    static_cast<void>(glebe_transfer_get_stats(handle_, direction, &result));
    return result;
  }
};

}  // namespace glebe
