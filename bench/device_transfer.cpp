// G11: pageable memory of the host to the device through the staging rings. G13: copies on the device.
#include <algorithm>
#include <cstring>

#include <fmt/core.h>

#include "bench/device_bench.h"
#include "src/device/transfer.h"

namespace device_bench {
namespace {

// A queue as programs open it, with a ring of 64 MiB.
class Queue {
 public:
  explicit Queue(const Bench& bench) {
    require(events_.open(bench.gpu), "the events");
    TransferQueueOptions options;
    options.ring_bytes = bench.bytes(64 * kMiB, 4 * kMiB, kMiB);
    require(queue_.open(bench.gpu, events_, options), "opening the queue");
  }
  ~Queue() { queue_.close(TransferClose::wait); }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  TransferQueue& operator*() { return queue_; }
  TransferQueue* operator->() { return &queue_; }

 private:
  EventPool events_;
  TransferQueue queue_;
};

constexpr std::uint64_t kPieces[] = {4 * kKiB, 64 * kKiB, kMiB, 4 * kMiB, 16 * kMiB, 64 * kMiB};

struct Upload {
  const std::vector<std::byte>& from;
  const DeviceBytes& to;
  std::uint64_t piece_bytes;
};

// All pieces under one ticket.
void upload_all(TransferQueue& queue, const Upload& upload) {
  std::vector<Transfer> transfers;
  for (std::uint64_t at = 0; at < upload.from.size(); at += upload.piece_bytes) {
    Transfer transfer;
    transfer.device = upload.to.get() + at;
    transfer.from = upload.from.data() + at;
    transfer.size_bytes = std::min(upload.piece_bytes, upload.from.size() - at);
    transfers.push_back(transfer);
  }
  Ticket ticket = queue.submit(transfers);
  require(ticket.wait(), "an upload");
}

// The 99th percentile of uploads one after the other, in ms.
double slowest_of(TransferQueue& queue, const Upload& upload, unsigned count) {
  std::vector<double> each;
  for (unsigned i = 0; i < count; ++i) {
    const std::uint64_t at = i * upload.piece_bytes % (upload.from.size() - upload.piece_bytes + 1);
    each.push_back(1e3 * seconds_of([&] {
                     Ticket ticket =
                         queue.upload(upload.to.get() + at, upload.from.data() + at, upload.piece_bytes);
                     require(ticket.wait(), "an upload");
                   }));
  }
  std::sort(each.begin(), each.end());
  return each[each.size() * 99 / 100];
}

void verify(const Bench& bench, const Upload& upload) {
  std::vector<std::byte> back(upload.from.size());
  require(bench.driver().memcpy_d2h(back.data(), upload.to.get(), back.size()), "reading back");
  require(back == upload.from, "the device has other bytes than were sent");
}

void measure_piece(Bench& bench, Queue& queue, const Upload& upload, double link) {
  const auto total = static_cast<double>(upload.from.size());
  const std::string text = size_text(upload.piece_bytes);
  const std::vector<double> ours = rate(1e-9 * total, repeat(bench, [&] { upload_all(*queue, upload); }));
  verify(bench, upload);
  bench.report.add(text + " pieces, pageable, through the ring", "GB/s", ours);
  bench.report.add(text + " pieces: part of the link's rate", "x", times(1e9 / link, ours));
  bench.report.add(text + " pieces one by one: 99th percentile", "ms",
                   {slowest_of(*queue, upload, bench.count(500, 4))});
  const cuda::Driver& driver = bench.driver();
  const double part = std::min(total, static_cast<double>(2000 * upload.piece_bytes));
  const auto for_part = [&](const std::function<void(std::uint64_t)>& copy) {
    return rate(1e-9 * part, repeat(bench, [&] {
                  for (std::uint64_t at = 0; at + upload.piece_bytes <= static_cast<std::uint64_t>(part);
                       at += upload.piece_bytes) {
                    copy(at);
                  }
                }));
  };
  bench.report.add(
      text + " pieces: cuMemcpyHtoD from pageable memory", "GB/s", for_part([&](std::uint64_t at) {
        require(driver.memcpy_h2d(upload.to.get() + at, upload.from.data() + at, upload.piece_bytes),
                "cuMemcpyHtoD");
      }));
  const BenchStream stream(bench);
  bench.report.add(
      text + " pieces: cuMemHostAlloc for each", "GB/s", for_part([&](std::uint64_t at) {
        const PinnedBytes pinned(bench, upload.piece_bytes);
        std::memcpy(pinned.get(), upload.from.data() + at, upload.piece_bytes);
        require(driver.memcpy_h2d_async(upload.to.get() + at, pinned.get(), upload.piece_bytes, stream.get()),
                "cuMemcpyHtoDAsync");
        stream.wait();
      }));
}

}  // namespace

void run_staging(Bench& bench) {
  const CopyRates rates = calibrate(bench);
  bench.report.add("calibration: upload from pinned memory", "GB/s", {rates.upload / 1e9});
  const std::uint64_t total = bench.bytes(256 * kMiB, 2 * kMiB, 64 * kMiB);
  std::vector<std::byte> from(total);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 131 + (i >> 12));
  const DeviceBytes to(bench, total);
  Queue queue(bench);
  for (const std::uint64_t piece : kPieces) {
    if (piece > total) continue;
    measure_piece(bench, queue, {from, to, piece}, rates.upload);
  }
}

void run_copies(Bench& bench) {
  const CopyRates rates = calibrate(bench);
  bench.report.add("calibration: copy on the device, bytes copied", "GB/s", {rates.device / 1e9});
  const std::uint64_t total = bench.bytes(4 * kGiB, 4 * kMiB, 256 * kMiB);
  const DeviceBytes from(bench, total), to(bench, total);
  Queue queue(bench);
  for (const std::uint64_t block : {kMiB, 16 * kMiB, 64 * kMiB, 256 * kMiB}) {
    if (block > total) continue;
    const std::vector<double> ours = rate(1e-9 * static_cast<double>(total), repeat(bench, [&] {
                                            std::vector<Transfer> transfers;
                                            for (std::uint64_t at = 0; at < total; at += block) {
                                              Transfer transfer;
                                              transfer.kind = TransferKind::copy;
                                              transfer.device = to.get() + at;
                                              transfer.source = from.get() + at;
                                              transfer.size_bytes = block;
                                              transfers.push_back(transfer);
                                            }
                                            Ticket ticket = queue->submit(transfers);
                                            require(ticket.wait(), "a copy");
                                          }));
    bench.report.add(size_text(block) + " blocks", "GB/s", ours);
    bench.report.add(size_text(block) + " blocks: part of the calibrated rate", "x",
                     times(1e9 / rates.device, ours));
  }
}

}  // namespace device_bench
