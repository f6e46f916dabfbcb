// Explicit buffers, one thread: contents through every pair of tiers, pins, what moving costs, failures.
#include <algorithm>
#include <cstring>
#include <vector>

#include "platform/vm.h"
#include "tests/buffer_rig.h"

#include "tests/catch.h"
#include "tests/random.h"

#include "tests/buffer_checks.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

constexpr std::size_t kSize = 5 * kExtent + 8000;  // a short last extent, and a page that is not full
constexpr ByteRange kAll{0, kSize};

const char* name_of(Tier tier) {
  constexpr const char* kNames[] = {"host", "compressed", "device", "file"};
  return kNames[static_cast<unsigned>(tier)];
}

}  // namespace

TEST_CASE("G1 0-9 mut-A01 every pair of tiers round-trips with identical content", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  std::uint64_t seed = 1;
  for (const Tier from : kAllTiers) {
    for (const Tier to : kAllTiers) {
      if (from == to) continue;
      for (const Operation operation : {Operation::page_to, Operation::swap_to}) {
        INFO(name_of(from) << " to " << name_of(to) << ", swap " << (operation == Operation::swap_to));
        const BufferHandle buffer = make(pager, kSize);
        REQUIRE(fill(pager, buffer, kAll, ++seed));
        REQUIRE(pager.move(buffer, {}, Operation::swap_to, from) == Result::ok);
        REQUIRE(valid_in(pager, buffer, from) == kSize);
        REQUIRE((from == Tier::host || valid_in(pager, buffer, Tier::host) == 0));
        REQUIRE(pager.move(buffer, {}, operation, to) == Result::ok);
        REQUIRE(valid_in(pager, buffer, to) == kSize);
        REQUIRE(valid_in(pager, buffer, from) == (operation == Operation::page_to ? kSize : 0));
        // From the new copy alone, and then from the host.
        REQUIRE(pager.move(buffer, {}, Operation::swap_to, to) == Result::ok);
        REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::host) == Result::ok);
        REQUIRE(holds(pager, buffer, kAll, seed));
        require_balance(pager);
        REQUIRE(pager.close_buffer(buffer) == Result::ok);
        require_balance(pager);
      }
    }
  }
  REQUIRE(pager.stats().total_bytes == 0);
  REQUIRE(rig.device.used_bytes() == 0);
  REQUIRE(pager.store_stats().objects == 0);
  REQUIRE(pager.store_stats().file_objects == 0);
}

TEST_CASE("G1 paging keeps the memory, swapping gives it back to the system", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  const BufferHandle buffer = make(pager, 4 * kMiB);
  const ByteRange all{0, 4 * kMiB};
  std::byte* const address = info_of(pager, buffer).address;
  REQUIRE(os::resident_bytes(address, 4 * kMiB) == 0);
  REQUIRE(pager.host_budget().used_bytes() == 0);
  REQUIRE(fill(pager, buffer, all, 7));
  REQUIRE(os::resident_bytes(address, 4 * kMiB) == 4 * kMiB);
  REQUIRE(pager.host_budget().used_bytes() == 4 * kMiB);
  REQUIRE(pager.move(buffer, {}, Operation::page_to, Tier::file) == Result::ok);
  REQUIRE(os::resident_bytes(address, 4 * kMiB) == 4 * kMiB);
  REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
  REQUIRE(os::resident_bytes(address, 4 * kMiB) == 0);
  REQUIRE(pager.host_budget().used_bytes() == 0);
  REQUIRE(holds(pager, buffer, all, 7));
  REQUIRE(info_of(pager, buffer).address == address);
}

TEST_CASE("B3 0-8 mut-A08 a second page-out of a clean extent costs no I/O", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  const BufferHandle buffer = make(pager, kSize);
  REQUIRE(fill(pager, buffer, kAll, 3));
  REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
  REQUIRE(holds(pager, buffer, kAll, 3));
  const BufferPagerStats before = pager.stats();
  const StoreStats store_before = pager.store_stats();
  REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
  REQUIRE(pager.stats().bytes_out == before.bytes_out);
  REQUIRE(pager.stats().clean_drops == before.clean_drops + 6);
  REQUIRE(pager.store_stats().writes == store_before.writes);
  REQUIRE(holds(pager, buffer, kAll, 3));
  // One extent written: one extent goes out again.
  REQUIRE(fill(pager, buffer, {kExtent, 8}, 99));
  REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
  REQUIRE(pager.stats().bytes_out == before.bytes_out + kExtent);
  REQUIRE(holds(pager, buffer, {kExtent, 8}, 99));
  REQUIRE(holds(pager, buffer, {2 * kExtent, kExtent}, 3));
}

TEST_CASE("G2 discarding from each tier, and from none, leaves zeros and no copies", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  for (const Tier tier : kAllTiers) {
    const BufferHandle buffer = make(pager, kSize);
    REQUIRE(fill(pager, buffer, kAll, 11));
    REQUIRE(pager.move(buffer, {}, Operation::swap_to, tier) == Result::ok);
    REQUIRE(pager.move(buffer, {}, Operation::discard, Tier::host) == Result::ok);
    for (const Tier other : kAllTiers) {
      REQUIRE(valid_in(pager, buffer, other) == 0);
      REQUIRE(pager.move(buffer, {}, Operation::evict, other) == Result::ok);       // absent: harmless
      REQUIRE(pager.move(buffer, {}, Operation::invalidate, other) == Result::ok);  // absent: harmless
    }
    REQUIRE(info_of(pager, buffer).unbacked_bytes == kSize);
    const PinnedRange pinned = pager.pin(buffer, {}, Access::read);
    REQUIRE(pinned.result == Result::ok);
    REQUIRE(is_zero(pinned.data, kSize));
    REQUIRE(pager.unpin(buffer, {}, Access::read) == Result::ok);
    REQUIRE(pager.close_buffer(buffer) == Result::ok);
    require_balance(pager);
  }
}

TEST_CASE("G3 implicit page-ins are counted, and refused when they are off", "[paging]") {
  BufferRig rig;
  BufferPagerOptions options = rig.options();
  SECTION("on") {
    REQUIRE(rig.pager.open(options) == Result::ok);
    const BufferHandle buffer = make(rig.pager, kSize);
    REQUIRE(fill(rig.pager, buffer, kAll, 5));
    REQUIRE(rig.pager.stats().implicit_page_ins == 0);
    REQUIRE(rig.pager.move(buffer, {}, Operation::swap_to, Tier::compressed) == Result::ok);
    REQUIRE(holds(rig.pager, buffer, kAll, 5));
    REQUIRE(rig.pager.stats().implicit_page_ins == 6);
    REQUIRE(holds(rig.pager, buffer, kAll, 5));
    REQUIRE(rig.pager.stats().implicit_page_ins == 6);
    std::uint64_t timed = 0;
    for (const std::uint64_t bucket : rig.pager.stats().page_in_ns) timed += bucket;
    REQUIRE(timed == 6);
  }
  SECTION("off") {
    options.implicit_page_in = false;
    REQUIRE(rig.pager.open(options) == Result::ok);
    const BufferHandle buffer = make(rig.pager, kSize);
    REQUIRE(fill(rig.pager, buffer, kAll, 5));
    REQUIRE(rig.pager.move(buffer, {2 * kExtent, kExtent}, Operation::swap_to, Tier::file) == Result::ok);
    const PinnedRange pinned = rig.pager.pin(buffer, {}, Access::read);
    REQUIRE(pinned.result == Result::not_resident);
    REQUIRE(pinned.data == nullptr);
    REQUIRE(info_of(rig.pager, buffer).pinned_bytes == 0);
    REQUIRE(holds(rig.pager, buffer, {0, 2 * kExtent}, 5));
    REQUIRE(rig.pager.move(buffer, {}, Operation::page_to, Tier::host) == Result::ok);
    REQUIRE(holds(rig.pager, buffer, kAll, 5));
    REQUIRE(rig.pager.stats().implicit_page_ins == 0);
  }
}

TEST_CASE("B9 pins nest, and what is pinned does not leave", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  const BufferHandle buffer = make(pager, kSize);
  REQUIRE(fill(pager, buffer, kAll, 21));
  const ByteRange second{kExtent + 100, 10};
  const PinnedRange outer = pager.pin(buffer, second, Access::read);
  const PinnedRange inner = pager.pin(buffer, second, Access::read);
  REQUIRE(outer.data == inner.data);
  REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::pinned);
  REQUIRE(info_of(pager, buffer).pinned_bytes == kExtent);
  REQUIRE(valid_in(pager, buffer, Tier::host) == kExtent);  // the others left
  REQUIRE(pager.unpin(buffer, second, Access::read) == Result::ok);
  REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::pinned);
  REQUIRE(pager.unpin(buffer, second, Access::read) == Result::ok);
  REQUIRE(pager.unpin(buffer, second, Access::read) == Result::bad_argument);
  REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
  REQUIRE(valid_in(pager, buffer, Tier::host) == 0);
  REQUIRE(holds(pager, buffer, kAll, 21));
  // What is being written is not copied; what is read only may be.
  REQUIRE(pager.pin(buffer, second, Access::write).result == Result::ok);
  REQUIRE(pager.move(buffer, second, Operation::page_to, Tier::compressed) == Result::pinned);
  REQUIRE(pager.unpin(buffer, second, Access::write) == Result::ok);
  REQUIRE(pager.pin(buffer, second, Access::read).result == Result::ok);
  REQUIRE(pager.move(buffer, second, Operation::page_to, Tier::compressed) == Result::ok);
  REQUIRE(pager.unpin(buffer, second, Access::read) == Result::ok);
  require_balance(pager);
}

TEST_CASE("B4 a write after a copy makes the copies invalid, and the next reader sees the new bytes",
          "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  const BufferHandle buffer = make(pager, kExtent);
  const ByteRange all{0, kExtent};
  REQUIRE(fill(pager, buffer, all, 1));
  REQUIRE(pager.move(buffer, {}, Operation::synchronise, Tier::device) == Result::ok);
  REQUIRE(info_of(pager, buffer).dirty_bytes == 0);
  REQUIRE(fill(pager, buffer, all, 2));
  REQUIRE(info_of(pager, buffer).dirty_bytes == kExtent);
  REQUIRE(valid_in(pager, buffer, Tier::device) == 0);
  // On the device: it sees the second version, writes a third, and the host sees that one.
  REQUIRE(pager.pin_device(buffer, all, Access::write) == Result::ok);
  DeviceAddress address = 0;
  REQUIRE(pager.device_address(buffer, 0, &address) == Result::ok);
  REQUIRE(has_words(rig.device.host_view(address), 0, kExtent, 2));
  REQUIRE(valid_in(pager, buffer, Tier::host) == 0);
  write_words(rig.device.host_view(address), 0, kExtent, 3);
  REQUIRE(pager.pin(buffer, all, Access::read).result == Result::pinned);  // being written over there
  REQUIRE(pager.unpin_device(buffer, all, Access::write) == Result::ok);
  REQUIRE(holds(pager, buffer, all, 3));
  REQUIRE(valid_in(pager, buffer, Tier::device) == kExtent);
  REQUIRE(pager.device_address(buffer, 0, &address) == Result::not_resident);
  require_balance(pager);
}

TEST_CASE("B5 the only valid copy is invalidated by nobody", "[paging]") {
  OpenRig rig;
  const BufferHandle buffer = make(rig.pager, kSize);
  REQUIRE(fill(rig.pager, buffer, kAll, 4));
  REQUIRE(rig.pager.move(buffer, {}, Operation::invalidate, Tier::host) == Result::last_copy);
  REQUIRE(rig.pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::ok);
  REQUIRE(rig.pager.move(buffer, {}, Operation::invalidate, Tier::file) == Result::last_copy);
  REQUIRE(rig.pager.move(buffer, {}, Operation::evict, Tier::compressed) == Result::ok);
  REQUIRE(holds(rig.pager, buffer, kAll, 4));
  REQUIRE(rig.pager.move(buffer, {}, Operation::invalidate, Tier::host) == Result::ok);
  REQUIRE(holds(rig.pager, buffer, kAll, 4));
}

TEST_CASE("B6 a device that refuses memory or transfers leaves the old state intact", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  const BufferHandle buffer = make(pager, kExtent);
  const ByteRange all{0, kExtent};
  REQUIRE(fill(pager, buffer, all, 8));
  for (unsigned which = 0; which < 2; ++which) {  // the allocation, then the transfer
    if (which == 1) REQUIRE(pager.device_budget().used_bytes() == 0);
    rig.device.fail_next(1);
    REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::device) == Result::device_error);
    REQUIRE(info_of(pager, buffer).dirty_bytes == kExtent);
    require_balance(pager);
    REQUIRE(rig.device.used_bytes() == 0);
  }
  REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::device) == Result::ok);
  rig.device.fail_next(1);
  REQUIRE(pager.pin(buffer, all, Access::read).result == Result::device_error);
  require_balance(pager);
  REQUIRE(pager.stats().failed_copies == 3);
  REQUIRE(holds(pager, buffer, all, 8));
}

TEST_CASE("G13 mut-A02 parts and wholes go out and come back in any mixture", "[paging]") {
  const std::uint64_t seed = test_seed();
  INFO("GLEBE_TEST_SEED=" << seed);
  Random random(seed);
  OpenRig rig;
  BufferPager& pager = rig.pager;
  constexpr unsigned kParts = 24;
  const std::size_t part = 20'000 / 8 * 8;  // parts and extents do not coincide
  const BufferHandle buffer = make(pager, kParts * part);
  std::vector<std::uint64_t> versions(kParts, 0);
  const auto range_of = [&](std::size_t i) { return ByteRange{i * part, part}; };
  for (unsigned i = 0; i < kParts; ++i) REQUIRE(fill(pager, buffer, range_of(i), versions[i] = i + 1));
  constexpr Operation kMoves[] = {Operation::page_to, Operation::swap_to, Operation::evict};
  Expect expect;
  for (unsigned step = 0; step < 4000; ++step) {
    const std::size_t i = random.below(kParts);
    const Tier tier = kAllTiers[random.below(kTiers)];
    switch (random.below(4)) {
      case 0:
        expect(fill(pager, buffer, range_of(i), versions[i] = 1000 + step));
        break;
      case 1:
        expect(holds(pager, buffer, range_of(i), versions[i]));
        break;
      case 2:
        expect(pager.move(buffer, range_of(i), kMoves[random.below(3)], tier) == Result::ok);
        break;
      default:
        expect(pager.move(buffer, {}, kMoves[random.below(3)], tier) == Result::ok);
    }
  }
  REQUIRE(expect.failed_line() == 0);
  for (unsigned i = 0; i < kParts; ++i) REQUIRE(holds(pager, buffer, range_of(i), versions[i]));
  require_balance(pager);
}

namespace {

// Run lengths of bytes; refuses content that begins with 0xEE.
std::size_t encode_runs(void* context, const void* from, std::size_t size, void* to, std::size_t capacity) {
  ++*static_cast<unsigned*>(context);
  const auto* in = static_cast<const unsigned char*>(from);
  auto* out = static_cast<unsigned char*>(to);
  if (in[0] == 0xEE) return 0;
  std::size_t length = 0;
  for (std::size_t i = 0; i < size;) {
    std::size_t run = 1;
    while (i + run < size && run < 255 && in[i + run] == in[i]) ++run;
    if (length + 2 > capacity) return 0;
    out[length++] = static_cast<unsigned char>(run);
    out[length++] = in[i];
    i += run;
  }
  return length;
}
int decode_runs(void* context, const void* from, std::size_t size, void* to, std::size_t capacity) {
  ++*static_cast<unsigned*>(context);
  const auto* in = static_cast<const unsigned char*>(from);
  auto* out = static_cast<unsigned char*>(to);
  std::size_t length = 0;
  for (std::size_t i = 0; i + 1 < size; i += 2) {
    if (in[i] > capacity - length) return 0;
    std::memset(out + length, in[i + 1], in[i]);
    length += in[i];
  }
  return length == capacity ? 1 : 0;
}

}  // namespace

TEST_CASE("G14 mut-A14 a codec stores its own form; what it refuses stays, another type is refused",
          "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  unsigned calls = 0;
  const BufferCodec codec{encode_runs, decode_runs, &calls};
  BufferOptions options;
  options.codec = &codec;
  options.type_id = 42;
  options.name = "runs";
  const BufferHandle buffer = make(pager, 2 * kExtent, options);
  PinnedRange pinned = pager.pin(buffer, {}, Access::write);
  REQUIRE(pinned.result == Result::ok);
  std::memset(pinned.data, 1, kExtent / 2);
  std::memset(pinned.data + kExtent / 2, 2, kExtent / 2);
  std::memset(pinned.data + kExtent, 0xEE, kExtent);
  REQUIRE(pager.unpin(buffer, {}, Access::write) == Result::ok);
  for (const Tier tier : {Tier::file, Tier::compressed}) {
    REQUIRE(pager.move(buffer, {}, Operation::swap_to, tier) == Result::codec_error);
    REQUIRE(valid_in(pager, buffer, tier) == kExtent);
    REQUIRE(valid_in(pager, buffer, Tier::host) == kExtent);
  }
  REQUIRE(calls >= 3);
  REQUIRE(pager.file_budget().used_bytes() == 0);
  REQUIRE(pager.move(buffer, {0, kExtent}, Operation::swap_to, Tier::file) == Result::ok);
  REQUIRE(pager.file_budget().used_bytes() < 1024);  // runs, not bytes
  pinned = pager.pin(buffer, {}, Access::read);
  REQUIRE(pinned.result == Result::ok);
  const auto all_are = [&](std::size_t from, std::size_t count, unsigned value) {
    return std::all_of(pinned.data + from, pinned.data + from + count,
                       [&](std::byte byte) { return byte == std::byte(value); });
  };
  REQUIRE(all_are(0, kExtent / 2, 1));
  REQUIRE(all_are(kExtent / 2, kExtent / 2, 2));
  REQUIRE(all_are(kExtent, kExtent, 0xEE));
  REQUIRE(pager.unpin(buffer, {}, Access::read) == Result::ok);
  BufferHandle again = 0;
  bool is_new = true;
  options.type_id = 43;
  REQUIRE(pager.open_or_create(kExtent, options, &again, &is_new) == Result::wrong_type);
  require_balance(pager);
}

TEST_CASE("B1 sizes, ranges and handles that make no sense are refused", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  BufferHandle handle = 0;
  REQUIRE(pager.create(0, {}, &handle) == Result::bad_argument);
  REQUIRE(pager.create(~std::size_t{0}, {}, &handle) == Result::bad_argument);
  REQUIRE(pager.create(9 * kGiB, {}, &handle) == Result::bad_argument);
  REQUIRE(handle == 0);
  const BufferHandle buffer = make(pager, 1);
  REQUIRE(pager.pin(buffer, {1, 0}, Access::read).result == Result::bad_argument);
  REQUIRE(pager.pin(buffer, {0, 2}, Access::read).result == Result::bad_argument);
  REQUIRE(pager.pin(buffer, {~std::size_t{0}, 2}, Access::read).result == Result::bad_argument);
  REQUIRE(pager.pin(0, {}, Access::read).result == Result::bad_handle);
  REQUIRE(pager.pin(buffer + 1, {}, Access::read).result == Result::bad_handle);
  REQUIRE(pager.pin(~std::uint64_t{0}, {}, Access::read).result == Result::bad_handle);
  REQUIRE(pager.unpin(buffer, {}, Access::read) == Result::bad_argument);
  REQUIRE(pager.move(buffer, {}, static_cast<Operation>(99), Tier::host) == Result::bad_argument);
  REQUIRE(pager.move(buffer, {}, Operation::page_to, static_cast<Tier>(9)) == Result::bad_argument);
  REQUIRE(pager.close_buffer(buffer) == Result::ok);
  REQUIRE(pager.close_buffer(buffer) == Result::bad_handle);
  REQUIRE(pager.pin(buffer, {}, Access::read).result == Result::bad_handle);
  // The record serves another buffer now: the old handle does not reach it.
  const BufferHandle next = make(pager, 1);
  REQUIRE(static_cast<std::uint32_t>(next) == static_cast<std::uint32_t>(buffer));
  REQUIRE(next != buffer);
  REQUIRE(pager.move(buffer, {}, Operation::discard, Tier::host) == Result::bad_handle);
}

TEST_CASE("mut-B13 a buffer that is closed while it is pinned stays until it is unpinned", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  const BufferHandle buffer = make(pager, kSize);
  const PinnedRange pinned = pager.pin(buffer, {}, Access::write);
  REQUIRE(pinned.result == Result::ok);
  REQUIRE(pager.close_buffer(buffer) == Result::ok);
  REQUIRE(pager.move(buffer, {}, Operation::swap_to, Tier::file) == Result::bad_handle);
  std::memset(pinned.data, 1, kSize);
  REQUIRE(pager.stats().buffers == 1);
  REQUIRE(pager.unpin(buffer, {}, Access::write) == Result::ok);
  REQUIRE(pager.stats().buffers == 0);
  require_balance(pager);
}

TEST_CASE("G1 without a tier its operations say so, and nothing is lost", "[paging]") {
  OpenRig rig([](BufferPagerOptions& options) {
    options.directory = nullptr;
    options.compressed_bytes = 0;
    options.device = nullptr;
  });
  const BufferHandle buffer = make(rig.pager, kSize);
  REQUIRE(fill(rig.pager, buffer, kAll, 6));
  for (const Tier tier : {Tier::compressed, Tier::device, Tier::file}) {
    REQUIRE(rig.pager.move(buffer, {}, Operation::swap_to, tier) == Result::no_tier);
  }
  REQUIRE(rig.pager.move(buffer, {}, Operation::evict, Tier::host) == Result::last_copy);
  REQUIRE(rig.pager.pin_device(buffer, {}, Access::read) == Result::no_tier);
  REQUIRE(rig.pager.reclaim(kMiB) == 0);
  REQUIRE(holds(rig.pager, buffer, kAll, 6));
  REQUIRE(rig.pager.validate());
}

TEST_CASE("the compressed tier refuses what does not shrink; eviction goes on to the file", "[paging]") {
  OpenRig rig;
  BufferPager& pager = rig.pager;
  const BufferHandle buffer = make(pager, kExtent);
  PinnedRange pinned = pager.pin(buffer, {}, Access::write);
  Random random(1);
  auto* words = reinterpret_cast<std::uint64_t*>(pinned.data);
  for (std::size_t i = 0; i < kExtent / 8; ++i) words[i] = random.next();
  REQUIRE(pager.unpin(buffer, {}, Access::write) == Result::ok);
  REQUIRE(pager.move(buffer, {}, Operation::page_to, Tier::compressed) == Result::incompressible);
  REQUIRE(valid_in(pager, buffer, Tier::host) == kExtent);
  REQUIRE(pager.move(buffer, {}, Operation::evict, Tier::host) == Result::ok);
  REQUIRE(valid_in(pager, buffer, Tier::file) == kExtent);
  pinned = pager.pin(buffer, {}, Access::read);
  Random again(1);
  words = reinterpret_cast<std::uint64_t*>(pinned.data);
  Expect expect;
  for (std::size_t i = 0; i < kExtent / 8; ++i) expect(words[i] == again.next());
  REQUIRE(expect.failed_line() == 0);
  REQUIRE(pager.unpin(buffer, {}, Access::read) == Result::ok);
  require_balance(pager);
}
