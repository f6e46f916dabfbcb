// Transfers when the driver refuses, the device is lost, the budget is short or several threads use one
// queue: every transfer ends with a reason, and nothing is left behind.
#include <atomic>
#include <thread>

#include "tests/device_transfer_rig.h"

namespace device_test {
namespace {

using glebe::paging::Budget;
using glebe::paging::BudgetAction;
using glebe::paging::BudgetResult;

TEST_CASE("X6 T4 whichever call of the driver fails, transfers end with a reason and leave nothing",
          "[device]") {
  using cuda::Call;
  const Call calls[] = {Call::memcpy_h2d_async, Call::memcpy_d2h_async,     Call::memcpy_d2d_async,
                        Call::memset_d8_async,  Call::event_create,         Call::event_record,
                        Call::event_query,      Call::pointer_get_attribute};
  for (const Call call : calls) {
    bool is_reached = true;
    for (std::uint64_t nth = 1; nth <= 100 && is_reached; ++nth) {
      const cuda::Result answer = nth % 2 == 0 ? cuda::Result::out_of_memory : cuda::Result::unknown;
      INFO(cuda::symbol_of(call) << " " << nth);
      on_failing_gpu(gpu_test::small(GpuSchedule::adversarial, nth), [&](Rig& rig, Gpu& gpu,
                                                                         FailingDriver& failing) {
        TransferQueueOptions options = calm();
        options.backoff_ns = 100;
        Moving moving(rig, gpu, options);
        Random random(nth);
        const std::vector<std::uint8_t> wanted = noise(random, 30001);
        std::vector<std::uint8_t> target(wanted.size(), 0xEE);
        TransferOptions verified;
        verified.is_verified = true;
        std::uint64_t failures = 0, expected_bytes[3] = {};
        failing.fail({call, nth, 1, answer});
        const auto wait = [&](Ticket ticket, TransferDirection direction) {
          const Outcome outcome = ticket.wait();
          const TransferResult result = ticket.result();
          failures += outcome.ok() ? 0 : 1;
          if (!outcome.ok()) CHECK(outcome.driver == answer);
          if (outcome.ok()) CHECK(result.moved_bytes == wanted.size());
          expected_bytes[static_cast<unsigned>(direction)] += result.moved_bytes;
          return outcome.ok();
        };
        const bool is_up = wait(moving.queue.upload(moving.memory, wanted.data(), wanted.size(), verified),
                                TransferDirection::upload);
        const bool is_copied = wait(moving.queue.copy(moving.memory + kMiB, moving.memory, wanted.size()),
                                    TransferDirection::device);
        const bool is_down = wait(moving.queue.download(target.data(), moving.memory + kMiB, target.size()),
                                  TransferDirection::download);
        const bool is_filled =
            wait(moving.queue.fill(moving.memory + 2 * kMiB, 7, wanted.size()), TransferDirection::device);
        CHECK(failures <= 1);
        CHECK((is_filled || failures == 1));
        if (answer == cuda::Result::out_of_memory) CHECK(failures == 0);
        if (is_up && is_copied && is_down) CHECK((target == wanted));
        for (unsigned i = 0; i < 3; ++i) {
          CHECK(moving.queue.stats(static_cast<TransferDirection>(i)).bytes == expected_bytes[i]);
          CHECK(moving.queue.stats(static_cast<TransferDirection>(i)).in_flight == 0);
        }
        CHECK(moving.queue.pending() == 0);
        CHECK(moving.events.idle() == moving.events.created());
        is_reached = failing.failures(call) == 1;
        failing.stop_failing();
        REQUIRE(moving.queue.upload(moving.memory, wanted.data(), wanted.size()).wait().ok());
        CHECK((moving.read(0, wanted.size()) == wanted));
      });
    }
  }
}

TEST_CASE("X6 a queue of transfers that cannot be opened leaves nothing", "[device]") {
  using cuda::Call;
  on_failing_gpu(gpu_test::small(), [](Rig& rig, Gpu& gpu, FailingDriver& failing) {
    Budget budget;
    REQUIRE(budget.open("host visible", kMiB, BudgetAction::enforce, {}) == BudgetResult::ok);
    EventPool events;
    REQUIRE(events.open(gpu).ok());
    TransferQueueOptions options = calm();
    options.budget = &budget;
    options.threads = 2;
    for (const Call call : {Call::stream_create, Call::mem_host_alloc}) {
      for (std::uint64_t nth = 1; nth <= (call == Call::stream_create ? 3u : 2u); ++nth) {
        TransferQueue queue;
        failing.fail({call, nth, 1, cuda::Result::out_of_memory});
        CHECK(queue.open(gpu, events, options).status == Status::out_of_memory);
        CHECK(budget.used_bytes() == 0);
        CHECK(rig.emulated->usage().streams == 0);
        CHECK(rig.emulated->usage().host_bytes == 0);
        std::uint8_t byte = 0;
        CHECK(queue.upload(4096, &byte, 1).wait().status == Status::cancelled);
        CHECK_FALSE(queue.help());
        REQUIRE(queue.open(gpu, events, options).ok());
      }
    }
    events.close();
  });
}

TEST_CASE("2-8 mut-C09 the rings of a queue of transfers are in the host-visible budget", "[device]") {
  on_gpu(gpu_test::small(), [](Rig&, Gpu& gpu) {
    Budget budget;
    REQUIRE(budget.open("host visible", 300 * kKiB, BudgetAction::enforce, {}) == BudgetResult::ok);
    EventPool events;
    REQUIRE(events.open(gpu).ok());
    TransferQueueOptions options = calm();
    options.budget = &budget;
    options.rings = 2;
    TransferQueue first, second;
    REQUIRE(first.open(gpu, events, options).ok());
    CHECK(budget.used_bytes() == 256 * kKiB);
    options.rings = 1;
    options.ring_bytes = 32 * kKiB;
    CHECK(second.open(gpu, events, options).status == Status::over_budget);
    CHECK(budget.used_bytes() == 256 * kKiB);
    first.close(TransferClose::wait);
    CHECK(budget.used_bytes() == 0);
    REQUIRE(second.open(gpu, events, options).ok());
    CHECK(budget.used_bytes() == 64 * kKiB);
    second.close(TransferClose::wait);
    events.close();
  });
}

TEST_CASE("T6 only the ring of uploads is write-combined, and only when asked", "[device]") {
  on_gpu(gpu_test::small(), [](Rig& rig, Gpu&) {
    std::vector<unsigned> flags;
    struct Watch {
      cuda::Driver inner;
      std::vector<unsigned>* flags;
    } watch = {rig.driver, &flags};
    cuda::Driver table = rig.driver;
    table.mem_host_alloc = {&watch, [](void* self, void** address, std::size_t size_bytes, unsigned wanted) {
                              auto& seen = *static_cast<Watch*>(self);
                              seen.flags->push_back(wanted & cuda::kHostWriteCombined);
                              return seen.inner.mem_host_alloc(address, size_bytes, wanted);
                            }};
    Gpu gpu;
    REQUIRE(gpu.open(table).ok());
    EventPool events;
    REQUIRE(events.open(gpu).ok());
    for (const bool is_combined : {false, true}) {
      TransferQueue queue;
      TransferQueueOptions options = calm();
      options.is_write_combined = is_combined;
      REQUIRE(queue.open(gpu, events, options).ok());
    }
    const std::vector<unsigned> wanted = {0, 0, cuda::kHostWriteCombined, 0};
    CHECK((flags == wanted));
    events.close();
    gpu.close();
  });
}

TEST_CASE("X6 transfers of a device that is lost end, and nothing is tried again", "[device]") {
  using cuda::Call;
  for (const unsigned threads : {0u, 2u}) {
    on_failing_gpu(
        gpu_test::small(GpuSchedule::adversarial), [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
          TransferQueueOptions options = calm();
          options.threads = threads;
          Moving moving(rig, gpu, options);
          std::vector<std::uint8_t> bytes(200000, 1);
          failing.fail({Call::memcpy_h2d_async, 20, 1000, cuda::Result::illegal_address});
          std::vector<Ticket> tickets;
          for (int i = 0; i < 3; ++i) {
            tickets.push_back(moving.queue.upload(moving.memory, bytes.data(), bytes.size()));
            tickets.push_back(moving.queue.fill(moving.memory + kMiB, 1, bytes.size()));
          }
          CHECK(tickets[0].wait().status == Status::device_lost);
          for (Ticket& ticket : tickets) {
            const Outcome outcome = ticket.wait();
            CHECK((outcome.status == Status::device_lost || outcome.ok()));
            CHECK(ticket.result().retries == 0);
          }
          CHECK(failing.failures(Call::memcpy_h2d_async) == 1);
          CHECK(moving.queue.upload(moving.memory, bytes.data(), 1).wait().status == Status::device_lost);
          CHECK(moving.queue.pending() == 0);
        });
  }
}

TEST_CASE("X6 a driver that does not tell fails the transfers of its direction, and later ones are served",
          "[device]") {
  using cuda::Call;
  for (const unsigned threads : {0u, 2u}) {
    for (const bool is_recorded : {false, true}) {
      for (const bool is_pinned : {false, true}) {
        INFO("threads " << threads << ", recorded " << is_recorded << ", pinned " << is_pinned);
        on_failing_gpu(gpu_test::small(GpuSchedule::threaded), [&](Rig& rig, Gpu& gpu,
                                                                   FailingDriver& failing) {
          TransferQueueOptions options = calm();
          options.threads = threads;
          options.backoff_ns = 1000;
          options.backoff_max_ns = 100'000;
          Moving moving(rig, gpu, options);
          Random random(3);
          const std::vector<std::uint8_t> wanted = noise(random, 200000);
          Host source(rig, wanted.size(), is_pinned), target(rig, wanted.size(), is_pinned);
          std::copy(wanted.begin(), wanted.end(), source.bytes());
          for (int round = 0; round < 3; ++round) {
            const Call told = is_recorded ? Call::event_query : Call::event_record;
            for (const Call call : {told, Call::stream_synchronize}) {
              failing.fail({call, 1, ~std::uint64_t{0} / 2, cuda::Result::unknown});
            }
            const std::uint64_t before = failing.failures(told);
            for (int i = 0; i < 3; ++i) {
              Ticket up = moving.queue.upload(moving.memory, source.bytes(), wanted.size());
              Ticket next = moving.queue.upload(moving.memory + kMiB, source.bytes(), wanted.size());
              CHECK(up.wait().status == Status::failed);
              CHECK(up.result().outcome.driver == cuda::Result::unknown);
              CHECK(up.result().moved_bytes == 0);
              CHECK(next.wait().status == Status::failed);
            }
            // Asked some times for each that failed, not as fast as it answers.
            CHECK(failing.failures(told) - before <= 6 * (TransferQueueOptions::kOddAnswersMax + 1));
            CHECK(moving.queue.download(target.bytes(), moving.memory, 9000).wait().status == Status::failed);
            CHECK_FALSE(gpu.is_lost());
            failing.stop_failing();
            REQUIRE(moving.queue.upload(moving.memory, source.bytes(), wanted.size()).wait().ok());
            CHECK(moving.queue.fill(moving.memory + kMiB, 1, 1000).wait().ok());
            REQUIRE(moving.queue.download(target.bytes(), moving.memory, wanted.size()).wait().ok());
            CHECK(std::equal(wanted.begin(), wanted.end(), target.bytes()));
          }
          moving.queue.close(TransferClose::wait);
          for (unsigned i = 0; i < 3; ++i) {
            CHECK(moving.queue.stats(static_cast<TransferDirection>(i)).in_flight == 0);
          }
        });
      }
    }
  }
}

TEST_CASE("X6 a queue of transfers that were given up closes, and gives its memory back", "[device]") {
  using cuda::Call;
  for (const TransferClose how : {TransferClose::wait, TransferClose::cancel}) {
    on_failing_gpu(gpu_test::small(GpuSchedule::adversarial),
                   [&](Rig& rig, Gpu& gpu, FailingDriver& failing) {
                     TransferQueueOptions options = calm();
                     options.backoff_ns = options.backoff_max_ns = 1000;
                     Moving moving(rig, gpu, options);
                     std::vector<std::uint8_t> bytes(200000, 1);
                     for (const Call call : {Call::event_record, Call::stream_synchronize}) {
                       failing.fail({call, 1, ~std::uint64_t{0} / 2, cuda::Result::unknown});
                     }
                     Ticket up = moving.queue.upload(moving.memory, bytes.data(), bytes.size());
                     Ticket down = moving.queue.download(bytes.data(), moving.memory + kMiB, bytes.size());
                     moving.queue.close(how);
                     CHECK_FALSE(up.wait().ok());
                     CHECK_FALSE(down.wait().ok());
                     CHECK(rig.emulated->usage().host_bytes == 0);  // the context was waited for
                     CHECK(rig.emulated->usage().waiting_operations == 0);
                   });
  }
}

TEST_CASE("T8 whoever closes second waits for the first, and may cancel what it waits for", "[device]") {
  for (const unsigned threads : {0u, 1u}) {
    on_gpu(gpu_test::small(GpuSchedule::threaded), [&](Rig& rig, Gpu& gpu) {
      TransferQueueOptions options = calm();
      options.threads = threads;
      options.backoff_ns = options.backoff_max_ns = 50'000'000;
      FailingDriver failing(gpu.driver());
      Gpu other;
      REQUIRE(other.open(failing.driver()).ok());
      {
        Moving moving(rig, other, options);
        // It is tried again for ever, so that only cancelling ends it.
        failing.fail({cuda::Call::memcpy_h2d_async, 1, ~std::uint64_t{0} / 2, cuda::Result::out_of_memory});
        TransferOptions stubborn;
        stubborn.retries_max = ~0u;
        const std::vector<std::uint8_t> bytes(10000, 1);
        Ticket ticket = moving.queue.upload(moving.memory, bytes.data(), bytes.size(), stubborn);
        std::atomic<bool> is_closed{false};
        std::thread first([&] {
          moving.queue.close(TransferClose::wait);
          is_closed = true;
        });
        while (moving.queue.upload(moving.memory, bytes.data(), 0).wait().ok()) std::this_thread::yield();
        CHECK_FALSE(is_closed);
        moving.queue.close(TransferClose::cancel);
        CHECK(moving.queue.pending() == 0);
        first.join();
        CHECK(ticket.wait().status == Status::cancelled);
        failing.stop_failing();
      }
      other.close();
    });
  }
}

TEST_CASE("2-10 many threads share a queue of transfers", "[device]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  for_each_way(seed, [&](Moving& moving) {
    std::atomic<int> wrong{0};
    std::atomic<std::uint64_t> moved{0};
    std::vector<std::thread> users;
    for (unsigned number = 0; number < 4; ++number) {
      users.emplace_back([&, number] {
        Random random(seed + number);
        const cuda::DevicePointer mine = moving.memory + number * kMiB;
        for (int i = 0; i < 25; ++i) {
          const std::size_t size = 1 + random.below(60000);
          std::vector<std::uint8_t> bytes = noise(random, size), back(size);
          TransferOptions options;
          options.priority = static_cast<TransferPriority>(random.below(3));
          Ticket up = moving.queue.upload(mine, bytes.data(), size, options);
          if (random.one_in(3)) {
            const Outcome outcome = up.cancel();
            const std::uint64_t arrived = up.result().moved_bytes;
            moved += arrived;
            if (outcome.ok() != (arrived == size) && arrived != size) ++wrong;
            if (arrived == 0) continue;
            if (!moving.queue.download(back.data(), mine, arrived).wait().ok()) ++wrong;
            if (std::memcmp(back.data(), bytes.data(), arrived) != 0) ++wrong;
            continue;
          }
          if (!up.wait().ok()) ++wrong;
          moved += size;
          if (!moving.queue.download(back.data(), mine, size, options).wait().ok()) ++wrong;
          if (back != bytes) ++wrong;
        }
      });
    }
    for (std::thread& user : users) user.join();
    CHECK(wrong == 0);
    const TransferStats stats = moving.queue.stats(TransferDirection::upload);
    CHECK(stats.bytes == moved);
    CHECK(stats.accepted == 100);
    CHECK(stats.succeeded + stats.cancelled == 100);
    CHECK(stats.peak_in_flight <= moving.options.in_flight_max);
  });
}

TEST_CASE("T8 a queue is closed while others wait for their tickets", "[device]") {
  for_each_way(test_seed(), [](Moving& moving) {
    const std::vector<std::uint8_t> bytes(400000, 5);
    std::atomic<int> wrong{0}, begun{0};
    std::vector<std::thread> users;
    for (int number = 0; number < 3; ++number) {
      users.emplace_back([&] {
        for (int i = 0; i < 50; ++i) {
          Ticket ticket = moving.queue.upload(moving.memory, bytes.data(), bytes.size());
          ++begun;
          const Status status = ticket.wait().status;
          if (status == Status::cancelled) break;
          if (status != Status::ok || ticket.result().moved_bytes != bytes.size()) ++wrong;
        }
      });
    }
    while (begun < 4) std::this_thread::yield();
    moving.queue.close(TransferClose::cancel);
    for (std::thread& user : users) user.join();
    CHECK(wrong == 0);
    CHECK(moving.queue.pending() == 0);
  });
}

TEST_CASE("T6 memory that the program registered, or says it has, goes without staging", "[device]") {
  for_each_way(test_seed(), [](Moving& moving) {
    Random random(9);
    const std::vector<std::uint8_t> wanted = noise(random, 90001);
    std::vector<std::uint8_t> host = wanted, back(wanted.size());
    REQUIRE(moving.rig.driver.mem_host_register(host.data(), 50000, 0) == cuda::Result::success);
    TransferOptions told;
    const auto upload = [&](std::size_t size, bool is_direct) {
      Ticket ticket = moving.queue.upload(moving.memory, host.data(), size, told);
      REQUIRE(ticket.wait().ok());
      CHECK(ticket.result().is_direct == is_direct);
      REQUIRE(moving.queue.download(back.data(), moving.memory, size).wait().ok());
      CHECK(std::equal(back.begin(), back.begin() + static_cast<std::ptrdiff_t>(size), wanted.begin()));
    };
    upload(50000, true);
    upload(50001, false);  // only a part of it
    told.host = HostMemory::pageable;
    upload(50000, false);
    told.host = HostMemory::pinned;
    upload(90001, true);
    REQUIRE(moving.rig.driver.mem_host_unregister(host.data()) == cuda::Result::success);
  });
}

}  // namespace
}  // namespace device_test
