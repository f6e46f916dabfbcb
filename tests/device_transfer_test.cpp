// Transfers: every byte arrives, whatever the length, the order of the device and the answers of the driver;
// what is cancelled, late or refused tells how far it came and touches nothing any more.
#include "src/device/transfer.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/device_transfer_rig.h"

namespace device_test {
namespace {

TEST_CASE("X2 T2 uploads and downloads of any length, pinned and pageable, arrive whole", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  for_each_way(seed, [&](Moving& moving) {
    Random random(seed);
    for (const std::size_t size : {std::size_t{1}, std::size_t{3}, 4 * kKiB - 1, 4 * kKiB, 4 * kKiB + 1,
                                   33 * kKiB + 7, 200 * kKiB + 13}) {
      for (const bool is_pinned : {false, true}) {
        const std::vector<std::uint8_t> wanted = noise(random, size);
        Host from(moving.rig, size, is_pinned), to(moving.rig, size, is_pinned);
        std::memcpy(from.bytes(), wanted.data(), size);
        Ticket up = moving.queue.upload(moving.memory, from.bytes(), size);
        REQUIRE(up.wait().ok());
        const TransferResult result = up.result();
        CHECK(result.moved_bytes == size);
        CHECK(result.is_direct == is_pinned);
        CHECK(result.retries == 0);
        const std::size_t piece = is_pinned ? moving.options.direct_bytes : moving.options.piece_bytes;
        CHECK(result.pieces == (size + piece - 1) / piece);
        CHECK((moving.read(0, size) == wanted));
        REQUIRE(moving.queue.download(to.bytes(), moving.memory, size).wait().ok());
        CHECK(std::memcmp(to.bytes(), wanted.data(), size) == 0);
      }
    }
    CHECK(moving.queue.pending() == 0);
  });
}

TEST_CASE("X2 copies and fills on the device", "[device]") {
  for_each_way(test_seed(), [](Moving& moving) {
    Random random(4);
    const std::vector<std::uint8_t> wanted = noise(random, 100001);
    REQUIRE(moving.queue.upload(moving.memory, wanted.data(), wanted.size()).wait().ok());
    TransferOptions verified;
    verified.is_verified = true;
    REQUIRE(moving.queue.copy(moving.memory + kMiB, moving.memory, wanted.size(), verified).wait().ok());
    CHECK((moving.read(kMiB, wanted.size()) == wanted));
    REQUIRE(moving.queue.fill(moving.memory + 17, 0xA5, 70001, verified).wait().ok());
    std::vector<std::uint8_t> filled = wanted;
    std::fill(filled.begin() + 17, filled.begin() + 17 + 70001, std::uint8_t{0xA5});
    CHECK((moving.read(0, wanted.size()) == filled));
    // Ranges that overlap have no meaning on a device.
    CHECK(moving.queue.copy(moving.memory, moving.memory + 5, 6).wait().status == Status::bad_argument);
    CHECK(moving.queue.copy(moving.memory, moving.memory + 5, 5).wait().ok());
  });
}

TEST_CASE("X2 T2 random transfers of 0 to 1 MiB agree with a model", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  for_each_way(seed, [&](Moving& moving) {
    Random random(seed);
    std::vector<std::uint8_t> model = noise(random, Moving::kDeviceBytes);
    REQUIRE(moving.queue.upload(moving.memory, model.data(), model.size()).wait().ok());
    std::vector<std::vector<std::uint8_t>> hosts(12);
    for (int round = 0; round < 6; ++round) {
      // Ranges that do not overlap, so that the order does not matter; the model is changed at once.
      std::vector<Ticket> tickets;
      std::vector<std::pair<std::size_t, std::vector<std::uint8_t>>> expected;  // of downloads
      std::size_t at = 0;
      for (std::vector<std::uint8_t>& host : hosts) {
        const std::size_t size = random.one_in(10) ? 0 : random.below(random.one_in(2) ? kMiB / 3 : 5000);
        TransferOptions options;
        options.priority = static_cast<TransferPriority>(random.below(3));
        options.is_verified = random.one_in(4);
        const bool is_upload = random.one_in(2);
        host = noise(random, size);
        if (is_upload) {
          std::copy(host.begin(), host.end(), model.begin() + static_cast<std::ptrdiff_t>(at));
          tickets.push_back(moving.queue.upload(moving.memory + at, host.data(), size, options));
        } else {
          tickets.push_back(moving.queue.download(host.data(), moving.memory + at, size, options));
        }
        expected.emplace_back(at, std::vector<std::uint8_t>());
        at += size;
      }
      for (Ticket& ticket : tickets) REQUIRE(ticket.wait().ok());
      for (std::size_t i = 0; i < hosts.size(); ++i) {
        CHECK(std::equal(hosts[i].begin(), hosts[i].end(),
                         model.begin() + static_cast<std::ptrdiff_t>(expected[i].first)));
      }
      CHECK((moving.read(0, model.size()) == model));
    }
  });
}

TEST_CASE("T1 a batch reports each of its transfers, those that failed too", "[device]") {
  for_each_way(test_seed(), [](Moving& moving) {
    Random random(5);
    const std::vector<std::uint8_t> bytes = noise(random, 10000);
    std::vector<Transfer> batch(6);
    for (std::size_t i = 0; i < batch.size(); ++i) {
      batch[i].device = moving.memory + i * 10000;
      batch[i].from = reinterpret_cast<const std::byte*>(bytes.data());
      batch[i].size_bytes = 10000;
    }
    batch[1].from = nullptr;                                        // refused by us
    batch[3].device = moving.memory + Moving::kDeviceBytes + kMiB;  // refused by the driver
    batch[4].size_bytes = 0;
    batch[5].device = ~cuda::DevicePointer{0} - 100;
    Ticket ticket = moving.queue.submit(batch);
    CHECK(ticket.size() == 6);
    CHECK(ticket.wait().status == Status::bad_argument);  // of the first one that failed
    CHECK(ticket.done());
    for (const std::size_t i : {0u, 2u}) {
      CHECK(ticket.item(i).outcome.ok());
      CHECK(ticket.item(i).moved_bytes == 10000);
      CHECK(ticket.item(i).duration_ns > 0);
      CHECK((moving.read(i * 10000, 10000) == bytes));
    }
    CHECK(ticket.item(1).outcome.status == Status::bad_argument);
    CHECK(ticket.item(3).outcome.status == Status::failed);
    CHECK(ticket.item(3).outcome.driver == cuda::Result::invalid_value);
    CHECK(ticket.item(3).moved_bytes == 0);
    CHECK(ticket.item(4).outcome.ok());
    CHECK(ticket.item(4).moved_bytes == 0);
    CHECK(ticket.item(5).outcome.status == Status::bad_argument);
    CHECK(ticket.result().moved_bytes == 20000);
    const TransferStats stats = moving.queue.stats(TransferDirection::upload);
    CHECK(stats.accepted == 6);
    CHECK(stats.succeeded == 3);
    CHECK(stats.failed == 3);
    CHECK(stats.bytes == 20000);
    // A transfer that leaves its block in the middle tells how far it came.
    Ticket half = moving.queue.fill(moving.memory + Moving::kDeviceBytes - 5000, 1, 10000);
    CHECK(half.wait().status == Status::failed);
    Ticket empty = moving.queue.submit({});
    CHECK(empty.wait().ok());
  });
}

TEST_CASE("T3 a transfer that is cancelled before it began moves nothing", "[device]") {
  on_moving(gpu_test::small(GpuSchedule::adversarial), calm(), [](Moving& moving) {
    const std::vector<std::uint8_t> before = moving.read(0, 100000);
    std::vector<std::uint8_t> bytes(100000, 1);
    Ticket ticket = moving.queue.upload(moving.memory, bytes.data(), bytes.size());
    CHECK_FALSE(ticket.wait(0).ok());
    CHECK(ticket.cancel().status == Status::cancelled);
    CHECK(ticket.result().outcome.status == Status::cancelled);
    CHECK(ticket.result().moved_bytes == 0);
    while (moving.queue.help()) {
    }
    CHECK((moving.read(0, 100000) == before));
    CHECK(moving.queue.stats(TransferDirection::upload).cancelled == 1);
    // After the end it changes nothing.
    Ticket done = moving.queue.upload(moving.memory, bytes.data(), bytes.size());
    REQUIRE(done.wait().ok());
    CHECK(done.cancel().ok());
    CHECK(done.result().outcome.ok());
    CHECK(done.result().moved_bytes == 100000);
  });
}

TEST_CASE("T3 a transfer that is cancelled under way tells what arrived, and touches nothing more",
          "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  int under_way = 0;
  for (std::uint64_t round = 0; round < 80; ++round) {
    on_moving(gpu_test::small(GpuSchedule::adversarial, seed + round), calm(), [&](Moving& moving) {
      Random random(seed + round);
      const bool is_download = round % 2 == 0, is_pinned = round % 4 >= 2;
      const std::size_t size = 150001;
      const std::vector<std::uint8_t> wanted = noise(random, size);
      Host host(moving.rig, size, is_pinned);
      if (is_download) {
        REQUIRE(moving.queue.upload(moving.memory, wanted.data(), size).wait().ok());
        std::memset(host.bytes(), 0xEE, size);
      } else {
        REQUIRE(moving.queue.fill(moving.memory, 0xEE, size).wait().ok());
        std::memcpy(host.bytes(), wanted.data(), size);
      }
      Ticket ticket = is_download ? moving.queue.download(host.bytes(), moving.memory, size)
                                  : moving.queue.upload(moving.memory, host.bytes(), size);
      for (std::uint64_t i = random.below(40); i > 0; --i) static_cast<void>(ticket.done());
      const Outcome outcome = ticket.cancel();
      const TransferResult result = ticket.result();
      CHECK(outcome.status == result.outcome.status);
      CHECK(result.moved_bytes <= size);
      if (outcome.status == Status::cancelled && result.moved_bytes > 0) ++under_way;
      // What was moved is right, what was not is untouched, and stays so.
      const auto is_right = [&] {
        const std::vector<std::uint8_t> there =
            is_download ? std::vector<std::uint8_t>(host.bytes(), host.bytes() + size) : moving.read(0, size);
        return std::equal(there.begin(), there.begin() + static_cast<std::ptrdiff_t>(result.moved_bytes),
                          wanted.begin()) &&
               std::all_of(there.begin() + static_cast<std::ptrdiff_t>(result.moved_bytes), there.end(),
                           [](std::uint8_t byte) { return byte == 0xEE; });
      };
      CHECK(is_right());
      if (!is_download) std::memset(host.bytes(), 0x11, size);
      while (rigged_run(moving.rig) != 0) {
      }
      static_cast<void>(moving.queue.help());
      CHECK(is_right());
    });
  }
  CHECK(under_way > 10);
}

TEST_CASE("T3 a deadline ends what waits and what is half done", "[device]") {
  on_moving(gpu_test::small(GpuSchedule::adversarial), calm(), [](Moving& moving) {
    std::vector<std::uint8_t> bytes(300000, 1);
    TransferOptions late;
    late.timeout_ns = 1;
    late.priority = TransferPriority::low;
    Ticket first = moving.queue.upload(moving.memory, bytes.data(), bytes.size());
    Ticket second = moving.queue.upload(moving.memory + kMiB, bytes.data(), bytes.size(), late);
    CHECK(second.wait().status == Status::timed_out);
    CHECK(second.result().moved_bytes == 0);
    REQUIRE(first.wait().ok());
    CHECK(moving.queue.stats(TransferDirection::upload).timed_out == 1);
    late.timeout_ns = ~std::uint64_t{0};
    CHECK(moving.queue.upload(moving.memory, bytes.data(), bytes.size(), late).wait().ok());
    // The time of a wait is not that of the transfer.
    Ticket third = moving.queue.upload(moving.memory, bytes.data(), bytes.size());
    CHECK(third.wait(0).status == Status::not_ready);
    CHECK(third.wait().ok());
  });
}

TEST_CASE("T4 what may pass is tried again, so often and not more", "[device]") {
  using cuda::Call;
  on_failing_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    TransferQueueOptions options = calm();
    options.backoff_ns = 1000;
    options.backoff_max_ns = 20000;
    Moving moving(rig, gpu, options);
    Random random(6);
    const std::vector<std::uint8_t> wanted = noise(random, 50000);
    TransferOptions three;
    three.retries_max = 3;
    failing.fail({Call::memcpy_h2d_async, 5, 3, cuda::Result::out_of_memory});
    Ticket ticket = moving.queue.upload(moving.memory, wanted.data(), wanted.size(), three);
    REQUIRE(ticket.wait().ok());
    CHECK(ticket.result().retries == 3);
    CHECK((moving.read(0, wanted.size()) == wanted));
    CHECK(moving.queue.stats(TransferDirection::upload).retries == 3);

    failing.fail({Call::memcpy_h2d_async, 3, 4, cuda::Result::out_of_memory});
    ticket = moving.queue.upload(moving.memory, wanted.data(), wanted.size(), three);
    CHECK(ticket.wait().status == Status::out_of_memory);
    CHECK(ticket.result().retries == 3);
    CHECK(ticket.result().moved_bytes == 2 * options.piece_bytes);
    CHECK(failing.failures(Call::memcpy_h2d_async) == 7);

    // Other answers are no reason to wait.
    failing.fail({Call::memcpy_h2d_async, 2, 1, cuda::Result::invalid_value});
    ticket = moving.queue.upload(moving.memory, wanted.data(), wanted.size(), three);
    CHECK(ticket.wait().status == Status::failed);
    CHECK(ticket.result().retries == 0);
    failing.stop_failing();
    REQUIRE(moving.queue.upload(moving.memory, wanted.data(), wanted.size(), three).wait().ok());
  });
}

TEST_CASE("T5 the highest priority goes first, piece by piece", "[device]") {
  on_moving(gpu_test::small(), calm(), [](Moving& moving) {
    TransferQueueOptions options = moving.options;
    options.in_flight_max = 1;
    moving.queue.close(TransferClose::wait);
    REQUIRE(moving.queue.open(moving.gpu, moving.events, options).ok());
    std::vector<std::uint8_t> bytes(5 * options.piece_bytes, 3);
    moving.order.clear();
    std::vector<Ticket> tickets;
    for (const TransferPriority priority :
         {TransferPriority::low, TransferPriority::normal, TransferPriority::low, TransferPriority::high,
          TransferPriority::normal}) {
      TransferOptions wanted;
      wanted.priority = priority;
      tickets.push_back(
          moving.queue.upload(moving.memory + tickets.size() * kMiB / 4, bytes.data(), bytes.size(), wanted));
    }
    for (Ticket& ticket : tickets) REQUIRE(ticket.wait().ok());
    std::vector<int> order;
    for (const cuda::DevicePointer to : moving.order) {
      order.push_back(static_cast<int>((to - moving.memory) / (kMiB / 4)));
    }
    const std::vector<int> wanted = {3, 3, 3, 3, 3, 1, 1, 1, 1, 1, 4, 4, 4,
                                     4, 4, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2};
    CHECK((order == wanted));
  });
}

TEST_CASE("T6 mut-D10 options of transfers are validated, copied and read", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu) {
    EventPool events;
    REQUIRE(events.open(gpu).ok());
    TransferQueue queue;
    const auto status = [&](auto change) {
      TransferQueueOptions options = calm();
      change(options);
      return queue.open(gpu, events, options).status;
    };
    using Options = TransferQueueOptions;
    CHECK(status([](Options& o) { o.threads = Options::kThreadsMax + 1; }) == Status::bad_argument);
    CHECK(status([](Options& o) { o.piece_bytes = 0; }) == Status::bad_argument);
    CHECK(status([](Options& o) { o.direct_bytes = 0; }) == Status::bad_argument);
    CHECK(status([](Options& o) { o.piece_bytes = o.ring_bytes + 1; }) == Status::bad_argument);
    CHECK(status([](Options& o) { o.in_flight_max = 0; }) == Status::bad_argument);
    CHECK(status([](Options& o) { o.in_flight_max = Options::kInFlightMax + 1; }) == Status::bad_argument);
    CHECK(status([](Options& o) { o.transfers_max = 0; }) == Status::bad_argument);
    CHECK(status([](Options& o) { o.backoff_ns = 0; }) == Status::bad_argument);
    CHECK(status([](Options& o) { o.backoff_max_ns = o.backoff_ns - 1; }) == Status::bad_argument);
    CHECK(status([](Options& o) { o.rings = 0; }) == Status::bad_argument);
    CHECK(status([](Options& o) { o.ring_bytes += 1; }) == Status::bad_argument);
    CHECK(status([](Options& o) { o.ring_bytes = kGiB; }) == Status::out_of_memory);
    const EmulatedGpu::Usage usage = rig.emulated->usage();
    CHECK(usage.streams == 0);
    CHECK(usage.host_bytes == 0);

    const cuda::DevicePointer memory = rig.memory(kGranule);
    std::uint8_t byte = 1;
    CHECK(queue.upload(memory, &byte, 1).wait().status == Status::cancelled);  // not open
    TransferQueueOptions options = calm();
    options.transfers_max = 2;
    REQUIRE(queue.open(gpu, events, options).ok());
    options.transfers_max = 0;  // ours, not the queue's
    TransferOptions wrong;
    wrong.priority = static_cast<TransferPriority>(3);
    CHECK(queue.upload(memory, &byte, 1, wrong).wait().status == Status::bad_argument);
    wrong = {};
    wrong.host = static_cast<HostMemory>(3);
    CHECK(queue.upload(memory, &byte, 1, wrong).wait().status == Status::bad_argument);
    CHECK(queue.upload(0, &byte, 1).wait().status == Status::bad_argument);
    CHECK(queue.download(nullptr, memory, 1).wait().status == Status::bad_argument);
    CHECK(queue.upload(memory, &byte, SIZE_MAX).wait().status == Status::bad_argument);
    {
      Ticket first = queue.upload(memory, &byte, 1), second = queue.upload(memory, &byte, 1);
      Ticket third = queue.upload(memory, &byte, 1);
      CHECK(third.wait().status == Status::over_budget);
      CHECK(third.size() == 0);
      CHECK(first.wait().ok());
      CHECK(second.wait().ok());
    }
    CHECK(queue.upload(memory, &byte, 1).wait().ok());  // exhaustion, then recovery
    queue.close(TransferClose::wait);
    rig.give_back(memory, kGranule);
    events.close();
  });
}

TEST_CASE("T7 mut-D10 never more submissions in flight than allowed, and all of them used", "[device]") {
  for (const unsigned limit : {1u, 2u, 5u, 16u}) {
    on_moving(gpu_test::small(GpuSchedule::adversarial, limit), calm(), [&](Moving& moving) {
      TransferQueueOptions options = moving.options;
      options.in_flight_max = limit;
      options.ring_bytes = kMiB;
      moving.queue.close(TransferClose::wait);
      REQUIRE(moving.queue.open(moving.gpu, moving.events, options).ok());
      const std::vector<std::uint8_t> bytes(kMiB, 3);
      Ticket up = moving.queue.upload(moving.memory, bytes.data(), bytes.size());
      Ticket fill = moving.queue.fill(moving.memory + kMiB, 1, kMiB);
      REQUIRE(up.wait().ok());
      REQUIRE(fill.wait().ok());
      const TransferStats stats = moving.queue.stats(TransferDirection::upload);
      CHECK(stats.peak_in_flight == limit);
      CHECK(stats.in_flight == 0);
      CHECK(moving.events.created() <= 2 * limit);
      CHECK(moving.events.created() >= limit);
      CHECK(stats.bytes == kMiB);
      CHECK(stats.staged_bytes == kMiB);
      CHECK(stats.pieces == kMiB / options.piece_bytes);
      CHECK(stats.submissions == stats.pieces);
      CHECK(stats.busy_ns > 0);
      CHECK(stats.bytes_per_second() > 0);
      const TransferStats device = moving.queue.stats(TransferDirection::device);
      CHECK(device.bytes == kMiB);
      CHECK(device.staged_bytes == 0);
      CHECK(moving.queue.stats(TransferDirection::download).bytes == 0);
    });
  }
}

TEST_CASE("2-16 small transfers share submissions, and a ring that is full is waited for", "[device]") {
  on_moving(gpu_test::small(GpuSchedule::adversarial), calm(), [](Moving& moving) {
    Random random(7);
    const std::vector<std::uint8_t> wanted = noise(random, 256 * 100);
    std::vector<Transfer> batch(100);
    for (std::size_t i = 0; i < batch.size(); ++i) {
      batch[i].device = moving.memory + i * 256;
      batch[i].from = reinterpret_cast<const std::byte*>(wanted.data()) + i * 256;
      batch[i].size_bytes = 256;
    }
    REQUIRE(moving.queue.submit(batch).wait().ok());
    CHECK((moving.read(0, wanted.size()) == wanted));
    TransferStats stats = moving.queue.stats(TransferDirection::upload);
    CHECK(stats.pieces == 100);
    CHECK(stats.submissions == 7);  // 16 of 256 bytes in 4 KiB
    // Four submissions may be in flight, and the ring holds two and a half.
    TransferQueueOptions options = moving.options;
    options.ring_bytes = 10 * kKiB;
    moving.queue.close(TransferClose::wait);
    REQUIRE(moving.queue.open(moving.gpu, moving.events, options).ok());
    REQUIRE(moving.queue.upload(moving.memory, wanted.data(), wanted.size()).wait().ok());
    stats = moving.queue.stats(TransferDirection::upload);
    CHECK(stats.stalls > 0);
    CHECK(stats.stalled_ns > 0);
    CHECK((moving.read(0, wanted.size()) == wanted));
  });
}

TEST_CASE("T8 mut-B13 a queue that is closed with work left waits for it or cancels it", "[device]") {
  for_each_way(test_seed(), [](Moving& moving) {
    Random random(8);
    const std::vector<std::uint8_t> wanted = noise(random, 600001);
    TransferOptions verified;
    verified.is_verified = true;
    Ticket ticket = moving.queue.upload(moving.memory, wanted.data(), wanted.size(), verified);
    moving.queue.close(TransferClose::wait);
    CHECK(ticket.done());
    CHECK(ticket.wait().ok());
    CHECK((moving.read(0, wanted.size()) == wanted));
    CHECK(moving.queue.upload(moving.memory, wanted.data(), 1).wait().status == Status::cancelled);
    CHECK(moving.queue.open(moving.gpu, moving.events, moving.options).status == Status::in_use);
    ticket.release();
    ticket.release();
    moving.queue.close(TransferClose::cancel);

    REQUIRE(moving.queue.open(moving.gpu, moving.events, moving.options).ok());
    std::vector<std::uint8_t> target(wanted.size(), 0xEE);
    std::vector<Ticket> tickets;
    for (int i = 0; i < 5; ++i) {
      tickets.push_back(moving.queue.upload(moving.memory, wanted.data(), wanted.size(), verified));
      tickets.push_back(moving.queue.download(target.data(), moving.memory, target.size(), verified));
    }
    Ticket moved = std::move(tickets.back());
    tickets.pop_back();
    moving.queue.close(TransferClose::cancel);
    const std::vector<std::uint8_t> kept = target;
    for (Ticket& one : tickets) {
      CHECK(one.done());
      const TransferResult result = one.result();
      CHECK((result.outcome.ok() || result.outcome.status == Status::cancelled));
      if (result.outcome.ok()) CHECK(result.moved_bytes == wanted.size());
    }
    moved = Ticket();
    CHECK(moving.queue.pending() == 0);
    while (rigged_run(moving.rig) != 0) {
    }
    CHECK((target == kept));
    tickets.clear();
    REQUIRE(moving.queue.open(moving.gpu, moving.events, moving.options).ok());
    // A ticket that is dropped waits.
    { Ticket dropped = moving.queue.upload(moving.memory, wanted.data(), wanted.size()); }
    CHECK((moving.read(0, wanted.size()) == wanted));
  });
}

TEST_CASE("T9 mut-D09 the integrity check finds one flipped bit anywhere", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  on_moving(gpu_test::small(), calm(), [&](Moving& moving) {
    Random random(seed);
    const std::size_t size = 40003;  // ten pieces, the last one short
    std::vector<std::uint8_t> wanted = noise(random, size), target(size);
    TransferOptions verified;
    verified.is_verified = true;
    int missed = 0, silent = 0;
    for (int round = 0; round < 400; ++round) {
      // Every part of the range in turn, the first and the last byte among them.
      const std::size_t at = round == 0 ? 0 : round == 1 ? size - 1 : random.below(size);
      const auto flip = [&](TransferDirection direction) {
        moving.flip = {direction, at, static_cast<std::uint8_t>(1u << random.below(8)), true};
      };
      flip(TransferDirection::upload);
      missed +=
          moving.queue.upload(moving.memory, wanted.data(), size, verified).wait().status == Status::corrupt
              ? 0
              : 1;
      flip(TransferDirection::upload);
      silent += moving.queue.upload(moving.memory, wanted.data(), size).wait().ok() ? 1 : 0;
      REQUIRE(moving.queue.upload(moving.memory, wanted.data(), size, verified).wait().ok());
      flip(TransferDirection::download);
      missed +=
          moving.queue.download(target.data(), moving.memory, size, verified).wait().status == Status::corrupt
              ? 0
              : 1;
      flip(TransferDirection::device);
      missed += moving.queue.copy(moving.memory + kMiB, moving.memory, size, verified).wait().status ==
                        Status::corrupt
                    ? 0
                    : 1;
      flip(TransferDirection::device);
      missed +=
          moving.queue.fill(moving.memory + kMiB, 9, size, verified).wait().status == Status::corrupt ? 0 : 1;
    }
    CHECK(missed == 0);
    CHECK(silent == 400);  // without the option nobody looks
    CHECK(moving.queue.stats(TransferDirection::upload).corrupt == 400);
    CHECK(moving.queue.stats(TransferDirection::download).corrupt == 400);
    CHECK(moving.queue.stats(TransferDirection::device).corrupt == 800);
  });
}

}  // namespace
}  // namespace device_test
