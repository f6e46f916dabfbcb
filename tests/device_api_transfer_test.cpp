// Transfers by the C and C++ interface. What would break: a function that reaches the wrong thing or takes a
// bad argument, an option that is not passed on, a ticket that is taken for another one.
#include <glebe/device_transfer.hpp>
#include <thread>

#include "tests/device_api_rig.h"

namespace api_test {
namespace {

constexpr std::uint64_t kSize = 3 * kMiB + 17;

struct Opened {
  explicit Opened(glebe_transfer_queue_options options = {}) {
    glebe_device_heap_options small = {};
    small.coarse_bytes = 4 * kMiB;
    REQUIRE(heap.open(device, small) == glebe_device_ok);
    REQUIRE(heap.allocate(kSize, &block) == glebe_device_ok);
    REQUIRE(heap.allocate(kSize, &other) == glebe_device_ok);
    if (options.ring_bytes == 0) options.ring_bytes = 2 * kMiB;
    REQUIRE(queue.open(device, options) == glebe_device_ok);
  }
  glebe::Device device = opened();
  glebe::DeviceHeap heap;
  glebe::DeviceAddress block = 0, other = 0;
  glebe::TransferQueue queue;
};

TEST_CASE("T6 a queue of transfers of the interface opens, or says why not", "[device]") {
  const glebe::Device device = opened();
  glebe_transfer_queue* queue = nullptr;
  glebe_transfer_queue_options options = {};
  CHECK(glebe_transfer_queue_open(device.handle(), &options, &queue) == glebe_device_bad_argument);
  options.struct_bytes = sizeof options;
  CHECK(glebe_transfer_queue_open(nullptr, &options, &queue) == glebe_device_bad_argument);
  CHECK(glebe_transfer_queue_open(device.handle(), &options, nullptr) == glebe_device_bad_argument);
  const auto refuses = [&](auto change) {
    glebe_transfer_queue_options wrong = options;
    wrong.ring_bytes = kMiB;
    change(wrong);
    return glebe_transfer_queue_open(device.handle(), &wrong, &queue) == glebe_device_bad_argument;
  };
  CHECK(refuses([](auto& wrong) { wrong.threads = -2; }));
  CHECK(refuses([](auto& wrong) { wrong.threads = 9; }));
  CHECK(refuses([](auto& wrong) { wrong.rings = 9; }));
  CHECK(refuses([](auto& wrong) { wrong.ring_bytes = kMiB + 1; }));
  CHECK(refuses([](auto& wrong) { wrong.piece_bytes = 2 * kMiB; }));
  CHECK(refuses([](auto& wrong) { wrong.in_flight_max = 17; }));
  CHECK(refuses([](auto& wrong) { wrong.backoff_ns = 20'000'000; }));
  CHECK(queue == nullptr);
  options.ring_bytes = 64 * kKiB;  // less than the usual piece
  options.threads = -1;
  REQUIRE(glebe_transfer_queue_open(device.handle(), &options, &queue) == glebe_device_ok);
  const auto no_end = nameless<glebe_transfer_end>(2);
  CHECK(glebe_transfer_queue_stop(queue, no_end) == glebe_device_bad_argument);
  CHECK(glebe_transfer_queue_stop(nullptr, glebe_transfer_end_wait) == glebe_device_bad_argument);
  CHECK(glebe_transfer_queue_close(queue, no_end) == glebe_device_bad_argument);
  CHECK(glebe_transfer_queue_close(queue, glebe_transfer_end_cancel) == glebe_device_ok);
  CHECK(glebe_transfer_queue_close(nullptr, glebe_transfer_end_wait) == glebe_device_ok);
  // Pinned memory that the machine does not have.
  options.ring_bytes = 64 * kMiB;
  CHECK(glebe_transfer_queue_open(device.handle(), &options, &queue) == glebe_device_out_of_memory);
}

TEST_CASE("X2 T7 transfers of the interface arrive, and are counted by direction", "[device]") {
  Opened rig;
  const std::vector<std::byte> sent = pattern(kSize, 1);
  std::vector<std::byte> seen(kSize);
  glebe::TransferTicket ticket;
  glebe_transfer verified = {};
  verified.is_verified = 1;
  REQUIRE(rig.queue.upload(rig.block, sent, &ticket, verified) == glebe_device_ok);
  CHECK(ticket.wait() == glebe_device_ok);
  CHECK(ticket.poll() == glebe_device_ok);
  glebe_transfer_result result = {};
  REQUIRE(ticket.result(&result) == glebe_device_ok);
  CHECK(result.result == glebe_device_ok);
  CHECK(result.moved_bytes == kSize);
  CHECK(result.pieces >= 3);
  CHECK(result.is_direct == 0);
  CHECK(ticket.result(&result, 1) == glebe_device_bad_argument);
  CHECK(ticket.result(nullptr) == glebe_device_bad_argument);
  CHECK(on_device(rig.device, rig.block, kSize) == sent);

  glebe_transfer more[2] = {};
  more[0].kind = glebe_transfer_copy;
  more[0].source = rig.block;
  more[0].device = rig.other;
  more[0].size = 1000;
  more[1].kind = glebe_transfer_fill;
  more[1].device = rig.other + 1000;
  more[1].size = 500;
  more[1].value = 0x77;
  REQUIRE(rig.queue.submit(more, &ticket) == glebe_device_ok);
  CHECK(ticket.wait() == glebe_device_ok);
  REQUIRE(rig.queue.download(std::span(seen).first(1500), rig.other, &ticket) == glebe_device_ok);
  CHECK(ticket.wait() == glebe_device_ok);
  CHECK(std::equal(seen.begin(), seen.begin() + 1000, sent.begin()));
  CHECK(std::count(seen.begin() + 1000, seen.begin() + 1500, std::byte{0x77}) == 500);

  const glebe_transfer_stats up = rig.queue.stats(glebe_transfer_to_device);
  CHECK(up.accepted == 1);
  CHECK(up.succeeded == 1);
  CHECK(up.bytes == kSize);
  CHECK(up.staged_bytes == kSize);
  CHECK(up.verified_bytes == kSize);
  CHECK(up.corrupt == 0);
  CHECK(up.peak_in_flight >= 1);
  CHECK(rig.queue.stats(glebe_transfer_to_host).bytes == 1500);
  CHECK(rig.queue.stats(glebe_transfer_on_device).bytes == 1500);
  CHECK(rig.queue.stats(glebe_transfer_on_device).succeeded == 2);
  CHECK(rig.queue.pending() == 0);
  glebe_transfer_stats stats = {};
  CHECK(glebe_transfer_get_stats(rig.queue.handle(), nameless<glebe_transfer_direction>(3), &stats) ==
        glebe_device_bad_argument);
  CHECK(glebe_transfer_get_stats(nullptr, glebe_transfer_to_host, &stats) == glebe_device_bad_argument);
  CHECK(glebe_transfer_get_stats(rig.queue.handle(), glebe_transfer_to_host, nullptr) ==
        glebe_device_bad_argument);
}

TEST_CASE("T1 T6 transfers of the interface refuse what makes no sense", "[device]") {
  Opened rig;
  glebe_transfer_queue* const queue = rig.queue.handle();
  const std::vector<std::byte> sent = pattern(100, 2);
  glebe_transfer good = {};
  good.struct_bytes = sizeof good;
  good.device = rig.block;
  good.from = sent.data();
  good.size = 100;
  glebe_transfer_ticket ticket = 0;
  const auto refuses = [&](auto change) {
    glebe_transfer wrong = good;
    change(wrong);
    return glebe_transfer_submit(queue, &wrong, 1, &ticket) == glebe_device_bad_argument;
  };
  CHECK(refuses([](auto& wrong) { wrong.struct_bytes = 8; }));
  CHECK(refuses([](auto& wrong) { wrong.kind = nameless<glebe_transfer_kind>(4); }));
  CHECK(refuses([](auto& wrong) { wrong.priority = nameless<glebe_transfer_priority>(2); }));
  CHECK(refuses([](auto& wrong) { wrong.priority = nameless<glebe_transfer_priority>(-2); }));
  CHECK(refuses([](auto& wrong) { wrong.memory = nameless<glebe_transfer_memory>(3); }));
  CHECK(refuses([](auto& wrong) { wrong.retries_max = -2; }));
  CHECK(glebe_transfer_submit(nullptr, &good, 1, &ticket) == glebe_device_bad_argument);
  CHECK(glebe_transfer_submit(queue, nullptr, 1, &ticket) == glebe_device_bad_argument);
  CHECK(glebe_transfer_submit(queue, &good, 0, &ticket) == glebe_device_bad_argument);
  CHECK(glebe_transfer_submit(queue, &good, 1, nullptr) == glebe_device_bad_argument);
  CHECK(glebe_transfer_submit(queue, &good, SIZE_MAX / 2, &ticket) == glebe_device_over_budget);
  CHECK(ticket == 0);

  // Each that makes no sense by itself has a result of its own.
  glebe_transfer two[2] = {good, good};
  two[1].device = 0;
  REQUIRE(glebe_transfer_submit(queue, two, 2, &ticket) == glebe_device_ok);
  CHECK(glebe_transfer_wait(queue, ticket, UINT64_MAX) == glebe_device_bad_argument);
  glebe_transfer_result result = {};
  REQUIRE(glebe_transfer_get_result(queue, ticket, 0, &result) == glebe_device_ok);
  CHECK(result.result == glebe_device_ok);
  REQUIRE(glebe_transfer_get_result(queue, ticket, 1, &result) == glebe_device_ok);
  CHECK(result.result == glebe_device_bad_argument);
  CHECK(glebe_transfer_get_result(queue, ticket, 2, &result) == glebe_device_bad_argument);

  const glebe_transfer_ticket old = ticket;
  CHECK(glebe_transfer_release(queue, ticket) == glebe_device_ok);
  REQUIRE(glebe_transfer_submit(queue, &good, 1, &ticket) == glebe_device_ok);  // where the old one was
  CHECK(ticket != old);
  for (const glebe_transfer_ticket stale : {old, glebe_transfer_ticket{0}, ticket + 1, UINT64_MAX}) {
    CHECK(glebe_transfer_wait(queue, stale, 0) == glebe_device_not_owned);
    CHECK(glebe_transfer_poll(queue, stale) == glebe_device_not_owned);
    CHECK(glebe_transfer_cancel(queue, stale) == glebe_device_not_owned);
    CHECK(glebe_transfer_get_result(queue, stale, SIZE_MAX, &result) == glebe_device_not_owned);
    CHECK(glebe_transfer_release(queue, stale) == glebe_device_not_owned);
  }
  CHECK(glebe_transfer_wait(nullptr, ticket, 0) == glebe_device_bad_argument);
  CHECK(glebe_transfer_poll(nullptr, ticket) == glebe_device_bad_argument);
  CHECK(glebe_transfer_cancel(nullptr, ticket) == glebe_device_bad_argument);
  CHECK(glebe_transfer_release(nullptr, ticket) == glebe_device_bad_argument);
  CHECK(glebe_transfer_help(nullptr) == 0);
  CHECK(glebe_transfer_pending(nullptr) == 0);
  CHECK(glebe_transfer_release(queue, ticket) == glebe_device_ok);
}

TEST_CASE("T3 T5 transfers of the interface wait, are late, are cancelled and go by priority", "[device]") {
  glebe_transfer_queue_options options = {};
  options.threads = -1;  // whoever waits or polls does the work: nothing has begun before
  options.piece_bytes = 64 * kKiB;
  options.in_flight_max = 1;
  Opened rig(options);
  const std::vector<std::byte> sent = pattern(kSize, 3), first = pattern(64 * kKiB, 4);
  glebe::TransferTicket low, high, late;
  glebe_transfer how = {};
  how.priority = glebe_transfer_low;
  REQUIRE(rig.queue.upload(rig.block, sent, &low, how) == glebe_device_ok);
  how.priority = glebe_transfer_high;
  REQUIRE(rig.queue.upload(rig.other, first, &high, how) == glebe_device_ok);
  how.timeout_ns = 1;
  REQUIRE(rig.queue.upload(rig.other, first, &late, how) == glebe_device_ok);
  CHECK(rig.queue.pending() == 3);
  CHECK(low.wait(0) == glebe_device_not_ready);
  glebe_transfer_result result = {};
  REQUIRE(low.result(&result) == glebe_device_ok);
  CHECK(result.result == glebe_device_not_ready);
  CHECK(high.wait() == glebe_device_ok);
  CHECK(late.wait() == glebe_device_timed_out);
  REQUIRE(low.result(&result) == glebe_device_ok);
  CHECK(result.moved_bytes < kSize);  // the other one came first
  CHECK(low.cancel() == glebe_device_cancelled);
  CHECK(low.cancel() == glebe_device_ok);  // all has ended
  REQUIRE(low.result(&result) == glebe_device_ok);
  CHECK(result.result == glebe_device_cancelled);
  const std::vector<std::byte> arrived = on_device(rig.device, rig.block, result.moved_bytes + 1);
  CHECK(std::equal(arrived.begin(), arrived.end() - 1, sent.begin()));
  const glebe_transfer_stats stats = rig.queue.stats(glebe_transfer_to_device);
  CHECK(stats.succeeded == 1);
  CHECK(stats.cancelled == 1);
  CHECK(stats.timed_out == 1);
  CHECK_FALSE(rig.queue.help());

  REQUIRE(rig.queue.upload(rig.block, sent, &low) == glebe_device_ok);
  while (low.poll() == glebe_device_not_ready) continue;
  CHECK(low.wait(0) == glebe_device_ok);
  REQUIRE(rig.queue.stop(glebe_transfer_end_wait) == glebe_device_ok);
  REQUIRE(low.result(&result) == glebe_device_ok);  // what there was can be read still
  CHECK(result.moved_bytes == kSize);
  CHECK(rig.queue.upload(rig.block, sent, &high) == glebe_device_cancelled);
  CHECK_FALSE(high);
  CHECK(rig.queue.stats(glebe_transfer_to_device).succeeded == 2);
}

TEST_CASE("2-10 tickets of the interface are as many as transfers, and come back", "[device]") {
  glebe_transfer_queue_options options = {};
  options.transfers_max = 40;
  Opened rig(options);
  const std::vector<std::byte> sent = pattern(40 * 64, 5);
  std::vector<glebe_transfer> transfers(40);
  for (unsigned i = 0; i < 40; ++i) {
    transfers[i].device = rig.block + 64 * i;
    transfers[i].from = sent.data() + 64 * i;
    transfers[i].size = 64;
  }
  glebe::TransferTicket all, one;
  for (unsigned round = 0; round < 3; ++round) {
    REQUIRE(rig.queue.submit(transfers, &all) == glebe_device_ok);  // more than are converted at once
    CHECK(rig.queue.submit(std::span(transfers).first(1), &one) == glebe_device_over_budget);
    CHECK(all.wait() == glebe_device_ok);
    all.release();
  }
  CHECK(on_device(rig.device, rig.block, sent.size()) == sent);
  std::vector<glebe::TransferTicket> tickets(40);
  for (unsigned i = 0; i < 40; ++i) {
    REQUIRE(rig.queue.submit(std::span(transfers).subspan(i, 1), &tickets[i]) == glebe_device_ok);
  }
  CHECK(rig.queue.submit(std::span(transfers).first(1), &one) == glebe_device_over_budget);
  tickets.pop_back();
  CHECK(rig.queue.submit(std::span(transfers).first(1), &one) == glebe_device_ok);
}

TEST_CASE("2-10 a ticket of the interface is not released under a thread that waits", "[device]") {
  glebe_transfer_queue_options options = {};
  options.threads = -1;
  Opened rig(options);
  glebe_transfer fill = {};
  fill.struct_bytes = sizeof fill;
  fill.kind = glebe_transfer_fill;
  fill.device = rig.block;
  fill.size = 0;  // it has ended at once
  glebe_transfer_ticket ticket = 0;
  REQUIRE(glebe_transfer_submit(rig.queue.handle(), &fill, 1, &ticket) == glebe_device_ok);
  CHECK(glebe_transfer_poll(rig.queue.handle(), ticket) == glebe_device_ok);
  CHECK(glebe_transfer_release(rig.queue.handle(), ticket) == glebe_device_ok);

  // Threads wait for tickets that the owner releases when he may.
  for (unsigned round = 0; round < 20; ++round) {
    fill.size = kMiB;
    REQUIRE(glebe_transfer_submit(rig.queue.handle(), &fill, 1, &ticket) == glebe_device_ok);
    glebe_device_result seen = glebe_device_failed;
    std::thread waiter([&] { seen = glebe_transfer_wait(rig.queue.handle(), ticket, UINT64_MAX); });
    glebe_device_result released = glebe_device_in_use;
    while (released == glebe_device_in_use) released = glebe_transfer_release(rig.queue.handle(), ticket);
    waiter.join();
    CHECK(released == glebe_device_ok);
    CHECK((seen == glebe_device_ok || seen == glebe_device_not_owned));
  }
}

}  // namespace
}  // namespace api_test
