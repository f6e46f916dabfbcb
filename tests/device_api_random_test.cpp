// Random calls of the whole interface to a GPU, sensible and senseless, with handles that are alive, stale or
// none at all. A model says what each must answer. What would break: a call that takes what it should refuse,
// or refuses what it should take, because of calls of other parts before it; a block that two own.
#include <glebe/device_transfer.h>
#include <glebe/device_unified.h>

#include <algorithm>

#include "tests/device_api_blocks.h"

namespace api_test {
namespace {

// Unified buffers: owners, guards that go with each other or not, contents, stale handles.
class UnifiedPart {
 public:
  UnifiedPart(const glebe::Device& device, Random& random, Expect& expect)
      : device_(device), random_(random), expect_(expect), stream_(device) {
    REQUIRE(glebe_unified_open(device.handle(), nullptr, &unified_) == glebe_device_ok);
  }

  void step() {
    if (buffers_.empty()) return create();
    switch (random_.below(8)) {
      case 0:
        return buffers_.size() < 12 ? create() : release();
      case 1:
        return release();
      case 2:
        return change();
      case 3:
        return use_stale();
      case 4:
        return end_guard(random_.below(kGuards));
      default:
        return access();
    }
  }
  void end() {
    for (unsigned i = 0; i < kGuards; ++i) end_guard(i);
    expect_(glebe_unified_close(unified_) == (buffers_.empty() ? glebe_device_ok : glebe_device_in_use));
    if (buffers_.empty()) return;
    while (!buffers_.empty()) release();
    expect_(glebe_unified_close(unified_) == glebe_device_ok);
  }

 private:
  static constexpr unsigned kGuards = 4;
  struct Buffer {
    std::vector<unsigned char> bytes;
    unsigned owners = 1, readers = 0, writers = 0;
  };
  struct Guarded {
    glebe_unified_guard guard = {};
    glebe_unified_buffer buffer = 0;
    bool is_read = false;
  };

  void create() {
    glebe_unified_buffer made = 3;
    expect_(glebe_unified_create(unified_, 0, 1, &made) == glebe_device_bad_argument && made == 3);
    const std::uint64_t size = 1 + random_.below(200000);
    const int is_pinned = random_.one_in(2) ? 1 : 0;
    if (!expect_(glebe_unified_create(unified_, size, is_pinned, &made) == glebe_device_ok)) return;
    expect_(made != stale_ && buffers_.emplace(made, Buffer{std::vector<unsigned char>(size)}).second);
  }
  void release() {
    const auto at = any_of(random_, buffers_);
    Buffer& buffer = at->second;
    if (random_.one_in(4) && glebe_unified_retain(unified_, at->first) == glebe_device_ok) ++buffer.owners;
    const bool is_refused = buffer.owners == 1 && buffer.readers + buffer.writers != 0;
    const glebe_device_result wanted = is_refused ? glebe_device_in_use : glebe_device_ok;
    if (!expect_(glebe_unified_release(unified_, at->first) == wanted) || is_refused) return;
    if (--buffer.owners != 0) return;
    stale_ = at->first;
    buffers_.erase(at);
  }
  void change() {
    const auto at = any_of(random_, buffers_);
    Buffer& buffer = at->second;
    glebe_unified_info info = {};
    expect_(glebe_unified_get_info(unified_, at->first, &info) == glebe_device_ok);
    expect_(info.size == buffer.bytes.size() && info.readers == buffer.readers &&
            info.writers == buffer.writers);
    const glebe_device_result wanted =
        buffer.readers + buffer.writers != 0 ? glebe_device_in_use : glebe_device_ok;
    const auto side = static_cast<glebe_unified_side>(random_.below(2));
    const std::uint64_t size = 1 + random_.below(200000);
    switch (random_.below(4)) {
      case 0:
        expect_(glebe_unified_resize(unified_, at->first, size) == wanted);
        if (wanted == glebe_device_ok) buffer.bytes.resize(size);
        return;
      case 1:
        expect_(glebe_unified_discard(unified_, at->first) == wanted);
        if (wanted == glebe_device_ok) buffer.bytes.assign(buffer.bytes.size(), 0);
        return;
      case 2: {
        const glebe_unified_range all = {at->first, 0, 0};
        const auto value = static_cast<unsigned char>(random_.below(256));
        expect_(glebe_unified_fill(unified_, &all, &value, 1, side, stream_) == wanted);
        if (wanted == glebe_device_ok) buffer.bytes.assign(buffer.bytes.size(), value);
        return;
      }
      default:
        expect_(glebe_unified_evict(unified_, at->first, side, nullptr) == wanted);
    }
  }
  void use_stale() {
    if (stale_ == 0) return;
    const glebe_unified_range range = {stale_, 0, random_.below(2)};
    glebe_unified_guard guard = {};
    std::uint64_t address = 0;
    expect_(glebe_unified_access(unified_, &range, glebe_unified_host_read, nullptr, nullptr, &guard) ==
            glebe_device_not_owned);
    expect_(guard.size == 0);
    expect_(glebe_unified_retain(unified_, stale_) == glebe_device_not_owned);
    expect_(glebe_unified_release(unified_, stale_) == glebe_device_not_owned);
    expect_(glebe_unified_detach(unified_, stale_, &address) == glebe_device_not_owned);
    expect_(glebe_unified_resize(unified_, stale_, 5) == glebe_device_not_owned);
    glebe_unified_abandon(unified_, stale_);
  }
  void access() {
    const auto at = any_of(random_, buffers_);
    Buffer& buffer = at->second;
    Guarded& slot = guards_[random_.below(kGuards)];
    const auto use = static_cast<glebe_unified_use>(random_.below(6));
    const bool is_read = use == glebe_unified_host_read || use == glebe_unified_device_read;
    const std::uint64_t size = buffer.bytes.size(), offset = random_.below(size + 2);
    const glebe_unified_range range = {at->first, offset, 1 + random_.below(size)};
    const glebe_device_result answer =
        glebe_unified_access(unified_, &range, use, stream_, nullptr, &slot.guard);
    if (slot.buffer != 0 || buffer.writers != 0 || (!is_read && buffer.readers != 0)) {
      expect_(answer == glebe_device_in_use);
    } else if (offset > size || range.size > size - offset) {
      expect_(answer == glebe_device_bad_argument && slot.guard.size == 0);
    } else if (expect_(answer == glebe_device_ok && slot.guard.size == range.size)) {
      slot.buffer = at->first;
      slot.is_read = is_read;
      ++(is_read ? buffer.readers : buffer.writers);
      work(slot.guard, &buffer.bytes[offset], is_read);
    }
  }
  // Looks at all of the range, or writes all of it.
  void work(const glebe_unified_guard& guard, unsigned char* bytes, bool is_read) {
    const auto value = static_cast<unsigned char>(random_.below(256));
    if (is_read && guard.data != nullptr) {
      expect_(std::memcmp(guard.data, bytes, guard.size) == 0);
    } else if (is_read) {
      std::vector<unsigned char> seen(guard.size);
      expect_(glebe_device_queue_read(device_.handle(), seen.data(), guard.address, guard.size, stream_) ==
              glebe_device_ok);
      expect_(glebe_device_stream_synchronize(device_.handle(), stream_) == glebe_device_ok);
      expect_(std::memcmp(seen.data(), bytes, guard.size) == 0);
    } else {
      std::memset(bytes, value, guard.size);
      if (guard.data != nullptr) std::memset(guard.data, value, guard.size);
      if (guard.data == nullptr) {
        expect_(glebe_device_queue_fill(device_.handle(), guard.address, value, guard.size, stream_) ==
                glebe_device_ok);
      }
    }
  }
  void end_guard(std::uint64_t which) {
    Guarded& slot = guards_[which];
    glebe_unified_end(&slot.guard);
    expect_(slot.guard.size == 0);
    if (slot.buffer == 0) return;
    Buffer& buffer = buffers_.at(slot.buffer);
    --(slot.is_read ? buffer.readers : buffer.writers);
    slot.buffer = 0;
  }

  const glebe::Device& device_;
  Random& random_;
  Expect& expect_;
  Stream stream_;
  glebe_unified* unified_ = nullptr;
  std::map<glebe_unified_buffer, Buffer> buffers_;
  Guarded guards_[kGuards];
  glebe_unified_buffer stale_ = 0;
};

// Transfers: each ticket has a place of its own on the device and on the host.
class TransferPart {
 public:
  TransferPart(const glebe::Device& device, Random& random, Expect& expect)
      : device_(device), random_(random), expect_(expect) {
    glebe_memory_pool_options pool = {};
    pool.struct_bytes = sizeof pool;
    pool.source = glebe_source_device;
    pool.max_bytes = 2 * kMiB;
    REQUIRE(glebe_memory_pool_open(device.handle(), &pool, &pool_) == glebe_device_ok);
    REQUIRE(glebe_memory_pool_allocate(pool_, kPlaces * kPlaceBytes, 0, &base_) == glebe_device_ok);
    glebe_transfer_queue_options options = {};
    options.struct_bytes = sizeof options;
    options.ring_bytes = 16 * kKiB;
    options.transfers_max = kPlaces - 1;
    REQUIRE(glebe_transfer_queue_open(device.handle(), &options, &queue_) == glebe_device_ok);
    bytes_.resize(kPlaces * kPlaceBytes);
  }

  void step() {
    const std::uint64_t which = random_.below(kPlaces);
    glebe_transfer_ticket& ticket = tickets_[which];
    if (random_.one_in(6)) return use_stale();
    if (ticket == 0) return submit(which);
    glebe_transfer_result result = {};
    const glebe_device_result polled = glebe_transfer_poll(queue_, ticket);
    expect_(polled == glebe_device_ok || polled == glebe_device_not_ready);
    if (random_.one_in(3)) {
      const glebe_device_result cancelled = glebe_transfer_cancel(queue_, ticket);
      expect_(cancelled == glebe_device_ok || cancelled == glebe_device_cancelled);
    }
    const glebe_device_result answer = glebe_transfer_wait(queue_, ticket, UINT64_MAX);
    expect_(glebe_transfer_get_result(queue_, ticket, 0, &result) == glebe_device_ok);
    expect_(result.result == answer);
    expect_(glebe_transfer_get_result(queue_, ticket, 1, &result) == glebe_device_bad_argument);
    expect_(answer == wanted_[which] || answer == glebe_device_cancelled);
    const std::span<std::byte> sent = std::span(bytes_).subspan(which * kPlaceBytes, result.moved_bytes);
    std::vector<std::byte> seen(sent.size());
    expect_(device_.read(seen, base_ + which * kPlaceBytes) == glebe_device_ok);
    expect_(std::equal(seen.begin(), seen.end(), sent.begin()));
    expect_(glebe_transfer_release(queue_, ticket) == glebe_device_ok);
    stale_ = std::exchange(ticket, 0);
    --live_;
  }
  void end() {
    const glebe_device_result closed = glebe_transfer_queue_close(
        queue_, random_.one_in(2) ? glebe_transfer_end_wait : glebe_transfer_end_cancel);
    expect_(closed == glebe_device_ok);
    expect_(glebe_memory_pool_close(pool_) == glebe_device_ok);
  }

 private:
  static constexpr std::uint64_t kPlaces = 8, kPlaceBytes = 64 * kKiB;

  void submit(std::uint64_t which) {
    glebe_transfer transfer = {};
    transfer.struct_bytes = sizeof transfer;
    transfer.priority = static_cast<glebe_transfer_priority>(static_cast<int>(random_.below(3)) - 1);
    transfer.device = base_ + which * kPlaceBytes;
    transfer.from = bytes_.data() + which * kPlaceBytes;
    transfer.size = random_.below(kPlaceBytes + 1);
    transfer.is_verified = random_.one_in(2) ? 1 : 0;
    wanted_[which] = glebe_device_ok;
    if (random_.one_in(4) && transfer.size != 0) {
      transfer.from = nullptr;
      wanted_[which] = glebe_device_bad_argument;
    }
    const std::span<std::byte> place = std::span(bytes_).subspan(which * kPlaceBytes, transfer.size);
    for (std::byte& byte : place) byte = static_cast<std::byte>(random_.next());
    glebe_transfer_ticket ticket = 0;
    const glebe_device_result answer = glebe_transfer_submit(queue_, &transfer, 1, &ticket);
    if (live_ == kPlaces - 1) {
      expect_(answer == glebe_device_over_budget && ticket == 0);
      return;
    }
    if (!expect_(answer == glebe_device_ok && ticket != 0 && ticket != stale_)) return;
    tickets_[which] = ticket;
    ++live_;
  }
  void use_stale() {
    glebe_transfer_result result = {};
    for (const glebe_transfer_ticket wrong : {stale_, random_.next() | std::uint64_t{1} << 63}) {
      expect_(glebe_transfer_poll(queue_, wrong) == glebe_device_not_owned);
      expect_(glebe_transfer_cancel(queue_, wrong) == glebe_device_not_owned);
      expect_(glebe_transfer_wait(queue_, wrong, UINT64_MAX) == glebe_device_not_owned);
      expect_(glebe_transfer_release(queue_, wrong) == glebe_device_not_owned);
      expect_(glebe_transfer_get_result(queue_, wrong, SIZE_MAX, &result) == glebe_device_not_owned);
    }
  }

  const glebe::Device& device_;
  Random& random_;
  Expect& expect_;
  glebe_memory_pool* pool_ = nullptr;
  glebe_transfer_queue* queue_ = nullptr;
  glebe::DeviceAddress base_ = 0;
  std::vector<std::byte> bytes_;
  glebe_transfer_ticket tickets_[kPlaces] = {}, stale_ = 0;
  glebe_device_result wanted_[kPlaces] = {};
  unsigned live_ = 0;
};

TEST_CASE("S11 P11 random calls of the interface answer as a model says", "[device]") {
  const std::uint64_t first_seed = test_seed();
  for (std::uint64_t seed = first_seed; seed < first_seed + 8; ++seed) {
    INFO("GLEBE_TEST_SEED=" << seed);
    Random random(seed);
    Expect expect;
    const glebe::Device device = opened(128 * kMiB);
    {
      HeapPart heap(device, random, expect);
      PoolPart pools(device, random, expect);
      UnifiedPart unified(device, random, expect);
      TransferPart transfers(device, random, expect);
      unsigned step = 0;
      for (; step < 2000 && expect.failed_line() == 0; ++step) {
        const std::uint64_t part = random.below(4);
        if (part == 0) heap.step();
        if (part == 1) pools.step();
        if (part == 2) unified.step();
        if (part == 3) transfers.step();
      }
      INFO("step " << step);
      REQUIRE(expect.failed_line() == 0);
      transfers.end();
      unified.end();
      pools.end();
      heap.end();
    }
    REQUIRE(expect.failed_line() == 0);
    CHECK(device.info().free_bytes == device.info().total_bytes);
  }
}

}  // namespace
}  // namespace api_test
