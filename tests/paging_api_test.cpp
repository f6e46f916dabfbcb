// Pageable buffers through the public headers alone: what a program sees of pagers, buffers, tickets, views
// and budgets in C and C++, and what wrong arguments get.
#include <glebe/paging.hpp>
#include <glebe/paging_slice.hpp>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "tests/catch.h"
#include "tests/random.h"

using glebe::Access;
using glebe::PagedBuffer;
using glebe::Pager;
using glebe::PagerOptions;
using glebe::Pin;
using glebe::Ticket;
using glebe::Tier;

namespace {

constexpr std::size_t kExtent = 65536;

// A pager with all tiers, two workers and its page files in TMPDIR.
PagerOptions all_tiers() {
  PagerOptions options;
  const char* folder = std::getenv("TMPDIR");
  options.directory = folder != nullptr ? folder : "/tmp";
  options.compressed_bytes = 64 << 20;
  options.emulated_device_bytes = 64 << 20;
  options.host_bytes = 64 << 20;
  return options;
}

void fill(const Pin& pin, unsigned seed) {
  std::size_t i = 0;
  for (std::byte& byte : pin.writable()) byte = static_cast<std::byte>(seed + i++ / 100);
}
bool holds(const Pin& pin, unsigned seed) {
  std::size_t i = 0;
  return pin && std::all_of(pin.bytes().begin(), pin.bytes().end(),
                            [&](std::byte byte) { return byte == static_cast<std::byte>(seed + i++ / 100); });
}

}  // namespace

TEST_CASE("paging API: a buffer goes through the tiers and keeps its bytes", "[paging]") {
  Pager pager(all_tiers());
  REQUIRE(pager);
  PagedBuffer buffer = pager.create(3 * kExtent + 5000);
  REQUIRE(buffer);
  fill(buffer.pin(Access::write), 1);
  for (const Tier tier : {Tier::file, Tier::compressed, Tier::device, Tier::host}) {
    REQUIRE(buffer.swap_to(tier) == glebe_ok);
    const glebe_buffer_info info = buffer.info();
    REQUIRE(info.valid_bytes[static_cast<int>(tier)] == info.size);
    const auto copies = std::count_if(std::begin(info.valid_bytes), std::end(info.valid_bytes),
                                      [](std::uint64_t bytes) { return bytes != 0; });
    REQUIRE(copies == 1);
  }
  REQUIRE(holds(buffer.pin(Access::read), 1));
  REQUIRE(buffer.pin(Access::read).writable().empty());
  REQUIRE(buffer.page_to(Tier::file) == glebe_ok);
  REQUIRE(buffer.evict() == glebe_ok);
  const Pin pin = buffer.pin(Access::read, {kExtent, 10});
  REQUIRE(pin.size_bytes() == 10);
  REQUIRE(buffer.discard() == glebe_pinned);
  REQUIRE(glebe_pager_validate(pager.handle()) == 1);
}

TEST_CASE("paging API: pins and buffers move, and end once", "[paging]") {
  Pager pager(all_tiers());
  PagedBuffer buffer = pager.create(kExtent);
  Pin first = buffer.pin(Access::write);
  Pin second = std::move(first);
  REQUIRE_FALSE(first);
  REQUIRE(second);
  REQUIRE(buffer.info().pinned_bytes == kExtent);
  PagedBuffer moved = std::move(buffer);
  REQUIRE_FALSE(buffer);
  second = Pin();
  REQUIRE(moved.info().pinned_bytes == 0);
  moved = PagedBuffer();
  REQUIRE(pager.stats().buffers == 0);
  // A buffer that is closed while it is pinned lives as long as the pin.
  PagedBuffer other = pager.create(kExtent);
  Pin last = other.pin(Access::write);
  other.close();
  fill(last, 3);
  REQUIRE(pager.stats().buffers == 1);
  last.release();
  REQUIRE(pager.stats().buffers == 0);
}

TEST_CASE("paging API: reading and writing need no room for the whole", "[paging]") {
  PagerOptions options = all_tiers();
  options.host_bytes = 4 * kExtent;
  Pager pager(options);
  PagedBuffer buffer = pager.create(40 * kExtent);
  std::vector<std::byte> data(40 * kExtent - 1000), back(data.size());
  Random random(7);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(random.next() >> i % 8 & 15);
  REQUIRE(buffer.write(500, data) == glebe_ok);
  REQUIRE(buffer.read(500, back) == glebe_ok);
  REQUIRE(back == data);
  REQUIRE(buffer.write(1001, data) == glebe_bad_argument);
  REQUIRE(buffer.read(500, back) == glebe_ok);
  REQUIRE(back == data);
  REQUIRE(pager.stats().tier_peak[glebe_tier_host] <= 4 * kExtent);
  REQUIRE(buffer.pin(Access::read).result() == glebe_over_budget);
  REQUIRE(pager.set_limit(Tier::host, 64 * kExtent) == glebe_ok);
  REQUIRE(buffer.pin(Access::read).result() == glebe_ok);
  REQUIRE(pager.set_limit(Tier::host, 0) == glebe_bad_argument);
}

TEST_CASE("paging API: tickets", "[paging]") {
  Pager pager(all_tiers());
  std::vector<PagedBuffer> buffers;
  std::vector<Ticket> tickets;
  for (unsigned i = 0; i < 20; ++i) {
    buffers.push_back(pager.create(kExtent));
    fill(buffers[i].pin(Access::write), i);
    tickets.push_back(buffers[i].swap_to_async(i % 2 != 0 ? Tier::file : Tier::compressed));
  }
  REQUIRE(tickets[3].wait() == glebe_ok);
  REQUIRE(tickets[3].wait() == glebe_ok);
  REQUIRE(tickets[3].cancel() == glebe_busy);
  pager.wait_all();
  REQUIRE(pager.stats().pending == 0);
  REQUIRE(pager.stats().paged_out_bytes == 20 * kExtent);
  for (Ticket& ticket : tickets) REQUIRE(ticket.is_done());
  REQUIRE(buffers[0].prefetch() == glebe_ok);
  pager.wait_all();
  REQUIRE(buffers[0].info().valid_bytes[0] == kExtent);
  for (unsigned i = 0; i < 20; ++i) REQUIRE(holds(buffers[i].pin(Access::read), i));
  REQUIRE(glebe_ticket_wait(pager.handle(), 12345) == glebe_bad_handle);
}

namespace {

struct Vertex {
  float x, y, z, w;
  friend bool operator==(const Vertex&, const Vertex&) = default;
};

// Keeps x alone when the others are zero; refuses other content.
struct XOnly {
  static std::size_t encode(std::span<const Vertex> elements, std::span<std::byte> room) noexcept {
    for (std::size_t i = 0; i < elements.size(); ++i) {
      const Vertex& vertex = elements[i];
      if (vertex.y != 0 || vertex.z != 0 || vertex.w != 0) return 0;
      std::memcpy(room.data() + i * sizeof(float), &vertex.x, sizeof(float));
    }
    return elements.size() * sizeof(float);
  }
  static bool decode(std::span<const std::byte> coded, std::span<Vertex> to) noexcept {
    if (coded.size() != to.size() * sizeof(float)) return false;
    for (std::size_t i = 0; i < to.size(); ++i) {
      to[i] = Vertex{};
      std::memcpy(&to[i].x, coded.data() + i * sizeof(float), sizeof(float));
    }
    return true;
  }
};
static_assert(glebe::ElementCodec<XOnly, Vertex>);

}  // namespace

TEST_CASE("G14 paging API: typed views know their type and use their codec", "[paging]") {
  Pager pager(all_tiers());
  constexpr std::size_t kCount = 20'000;
  glebe::BufferOptions named;
  named.name = "vertices";
  auto view = pager.create_view<Vertex, XOnly>(kCount, named);
  REQUIRE(view);
  {
    const auto elements = view.pin(Access::write);
    REQUIRE(elements.write().size() == kCount);
    REQUIRE(elements.read()[77] == Vertex{});  // zero at first
    for (std::size_t i = 0; i < kCount; ++i) elements.write()[i].x = static_cast<float>(i);
  }
  REQUIRE(view.buffer().swap_to(Tier::file) == glebe_ok);
  REQUIRE(pager.stats().tier_used[glebe_tier_file] == kCount * sizeof(float));
  const auto some = view.pin(Access::read, 10'000, 3);
  REQUIRE(some.read().size() == 3);
  REQUIRE(some.read()[2] == Vertex{10'002, 0, 0, 0});
  REQUIRE(some.write().empty());
  REQUIRE_FALSE(view.pin(Access::read, kCount, 1));
  // The same name with another type.
  const auto wrong = pager.create_view<double>(kCount, named);
  REQUIRE_FALSE(wrong);
  REQUIRE(wrong.result() == glebe_wrong_type);
  REQUIRE_FALSE(glebe::TypedView<double>(pager.find("vertices")));
  REQUIRE(glebe::TypedView<Vertex>(pager.find("vertices")).element_count() == kCount);
  // Content that the codec does not take stays where it is.
  view.pin(Access::write, 5, 1).write()[0].w = 1;
  REQUIRE(view.buffer().swap_to(Tier::file) == glebe_codec_error);
  REQUIRE(view.pin(Access::read, 5, 1).read()[0] == Vertex{5, 0, 0, 1});
}

TEST_CASE("paging API: a device of the program's own", "[paging]") {
  struct Device {
    std::vector<std::byte> memory = std::vector<std::byte>(16 * kExtent);
    std::size_t used = 0;
    unsigned copies = 0;
  } device;
  glebe_device_memory table{};
  table.context = &device;
  table.allocate = [](void* context, std::size_t size) -> std::uint64_t {
    Device& own = *static_cast<Device*>(context);
    if (size > own.memory.size() - own.used) return UINT64_MAX;
    own.used += size;
    return own.used - size;
  };
  table.free = [](void*, std::uint64_t, std::size_t) {};
  table.copy_in = [](void* context, std::uint64_t to, const void* from, std::size_t size) {
    Device& own = *static_cast<Device*>(context);
    ++own.copies;
    std::memcpy(own.memory.data() + to, from, size);
    return 1;
  };
  table.copy_out = [](void* context, void* to, std::uint64_t from, std::size_t size) {
    std::memcpy(to, static_cast<Device*>(context)->memory.data() + from, size);
    return 1;
  };
  PagerOptions options = all_tiers();
  options.device = &table;
  REQUIRE(Pager(options).result() == glebe_bad_argument);  // and the emulated one
  options.emulated_device_bytes = 0;
  Pager pager(options);
  PagedBuffer buffer = pager.create(2 * kExtent);
  fill(buffer.pin(Access::write), 9);
  REQUIRE(glebe_buffer_pin_device(pager.handle(), buffer.handle(), 0, 0, glebe_read) == glebe_ok);
  REQUIRE(device.copies == 2);
  std::uint64_t address = 0;
  REQUIRE(glebe_buffer_device_address(pager.handle(), buffer.handle(), kExtent + 300, &address) == glebe_ok);
  REQUIRE(device.memory[address] == static_cast<std::byte>((9 + (kExtent + 300) / 100) & 255));
  REQUIRE(buffer.swap_to(Tier::file) == glebe_pinned);
  REQUIRE(glebe_buffer_unpin_device(pager.handle(), buffer.handle(), 0, 0, glebe_read) == glebe_ok);
  REQUIRE(buffer.swap_to(Tier::file) == glebe_ok);
  REQUIRE(holds(buffer.pin(Access::read), 9));
}

TEST_CASE("K2 paging API: budgets say who holds what, and the process goes on", "[paging]") {
  glebe::Budget budget("host-visible", 512 << 20);
  REQUIRE(budget);
  std::uint32_t tag = 0;
  REQUIRE(glebe_budget_tag(budget.handle(), "staging", &tag) == glebe_budget_ok);
  const glebe::Charge most(budget.handle(), tag, 500 << 20);
  REQUIRE(most);
  const glebe::Charge refused(budget.handle(), 0, 20 << 20);
  REQUIRE_FALSE(refused);
  REQUIRE(
      glebe::text_of(refused.error()) ==
      "budget 'host-visible': 20.0 MiB requested, 500.0 MiB of 512.0 MiB in use; most by staging 500.0 MiB: "
      "raise the limit, or unpin or free something");
  { const glebe::Charge fits(budget.handle(), 0, 12 << 20); }
  REQUIRE(glebe_budget_used(budget.handle()) == 500 << 20);
  REQUIRE(glebe_budget_peak(budget.handle()) == 512 << 20);
  REQUIRE(glebe_budget_discharge(budget.handle(), 0, 1) == glebe_budget_over_release);
  REQUIRE(glebe::Budget("x", 0).result() == glebe_budget_bad_argument);
  unsigned asked = 0;
  glebe_budget_callbacks callbacks{};
  callbacks.context = &asked;
  callbacks.reclaim = [](void* context, std::uint64_t needed) {
    *static_cast<unsigned*>(context) += static_cast<unsigned>(needed);
    return 0;
  };
  const glebe::Budget small("small", 10, glebe_budget_reclaim, callbacks);
  REQUIRE(glebe_budget_charge(small.handle(), 0, 8, nullptr) == glebe_budget_ok);
  REQUIRE(glebe_budget_charge(small.handle(), 0, 5, nullptr) == glebe_budget_exceeded);
  REQUIRE(asked == 3);
  char cut[10];
  REQUIRE(glebe_budget_error_text(&refused.error(), cut, sizeof cut) == 9);
  REQUIRE(std::string(cut) == "budget 'h");
}

TEST_CASE("paging API: wrong arguments are answered, not crashed on", "[paging]") {
  glebe_pager* pager = nullptr;
  glebe_pager_options options{};
  REQUIRE(glebe_pager_options_init(&options) == glebe_bad_argument);
  options.struct_bytes = sizeof options;
  REQUIRE(glebe_pager_options_init(&options) == glebe_ok);
  REQUIRE(options.host_bytes == std::uint64_t{2} << 30);
  REQUIRE(options.workers == 2);
  options.victims = glebe_victims_two_q + 1;
  REQUIRE(glebe_pager_new(&options, &pager) == glebe_bad_argument);
  options.victims = 0;
  options.directory = "/nowhere/at/all";
  REQUIRE(glebe_pager_new(&options, &pager) == glebe_no_tier);
  REQUIRE(glebe_pager_new(nullptr, nullptr) == glebe_bad_argument);
  REQUIRE(glebe_pager_new(nullptr, &pager) == glebe_ok);
  glebe_buffer buffer = 0;
  REQUIRE(glebe_buffer_new(pager, 0, nullptr, &buffer) == glebe_bad_argument);
  REQUIRE(glebe_buffer_new(nullptr, 1, nullptr, &buffer) == glebe_bad_argument);
  REQUIRE(glebe_buffer_new(pager, 1, nullptr, &buffer) == glebe_ok);
  void* data = nullptr;
  REQUIRE(glebe_buffer_pin(pager, buffer + 5, 0, 0, glebe_read, &data) == glebe_bad_handle);
  REQUIRE(glebe_buffer_move(pager, buffer, 0, 0, static_cast<glebe_operation>(0), glebe_tier_host) ==
          glebe_bad_argument);
  REQUIRE(glebe_buffer_move(pager, buffer, 0, 0, glebe_page, glebe_tier_file) == glebe_no_tier);
  REQUIRE(glebe_buffer_find(pager, "nobody", &buffer) == glebe_bad_handle);
  REQUIRE(glebe_pager_budget(pager, glebe_tier_compressed) == nullptr);
  glebe_pager_stats stats{};
  REQUIRE(glebe_pager_get_stats(pager, &stats) == glebe_bad_argument);
  stats.struct_bytes = 3 * sizeof(std::uint64_t);  // an older program's structure
  REQUIRE(glebe_pager_get_stats(pager, &stats) == glebe_ok);
  REQUIRE(stats.buffers == 1);
  REQUIRE(stats.total_bytes == 0);
  REQUIRE(std::string(glebe_result_text(glebe_pinned)).find("unpin") != std::string::npos);
  glebe_pager_free(pager);
  glebe_pager_free(nullptr);
  glebe_budget_free(nullptr);
}

TEST_CASE("mut-B10 slices share the bytes of their buffer, nest, and refuse what lies outside", "[paging]") {
  using glebe::Slice;
  Pager pager(all_tiers());
  REQUIRE(pager);
  PagedBuffer buffer = pager.create(2 * kExtent + 800);
  const Slice<> whole(buffer);
  REQUIRE(whole);
  REQUIRE(whole.element_count() == 2 * kExtent + 800);
  const Slice<std::uint32_t> words = whole.as<std::uint32_t>();
  REQUIRE(words.element_count() == (2 * kExtent + 800) / 4);
  // A part of a part: offsets add up.
  const Slice<std::uint32_t> part = words.slice(100, 32'800).slice(50, 32'500);
  REQUIRE(part.offset_bytes() == 600);
  REQUIRE(part.element_count() == 32'500);
  REQUIRE(part.fill(7) == glebe_ok);
  {
    const auto seen = words.pin(Access::read);
    REQUIRE(seen.read()[149] == 0);
    REQUIRE(seen.read()[150] == 7);
    REQUIRE(seen.read()[150 + 32'499] == 7);
    REQUIRE(seen.read()[150 + 32'500] == 0);
  }
  // Written through one, seen through the other, by way of a file.
  words.slice(200, 1).pin(Access::write).write()[0] = 0x01020304;
  REQUIRE(buffer.swap_to(Tier::file) == glebe_ok);
  REQUIRE(part.slice(50, 2).pin(Access::read).read()[0] == 0x01020304);
  REQUIRE(whole.slice(800, 1).pin(Access::read).read()[0] == std::byte{4});
  // What lies outside, or is no whole number of elements.
  REQUIRE(part.slice(0, 32'501).result() == glebe_bad_argument);
  REQUIRE(part.slice(32'501, 0).result() == glebe_bad_argument);
  REQUIRE(part.slice(32'500, 0));
  REQUIRE(part.slice(SIZE_MAX, 2).result() == glebe_bad_argument);
  REQUIRE(part.slice(0, 32'501).slice(0, 1).result() == glebe_bad_argument);
  REQUIRE_FALSE(part.slice(0, 32'501).pin(Access::read));
  REQUIRE(whole.slice(0, 7).as<std::uint32_t>().result() == glebe_bad_argument);
  REQUIRE(whole.slice(2, 8).as<std::uint32_t>().result() == glebe_bad_argument);  // begins between two
  REQUIRE(part.as<std::uint64_t>().element_count() == 16'250);
  REQUIRE(Slice<>(buffer, {2 * kExtent, 801}).result() == glebe_bad_argument);
  // Copies, overlapping too.
  REQUIRE(words.slice(1, 200).copy_from(words.slice(0, 200)) == glebe_ok);
  REQUIRE(words.slice(201, 1).pin(Access::read).read()[0] == 7);
  REQUIRE(words.slice(200, 1).pin(Access::read).read()[0] == 7);
  REQUIRE(words.slice(0, 3).copy_from(words.slice(0, 4)) == glebe_bad_argument);
  // A buffer that was made smaller, and one that is gone.
  REQUIRE(buffer.resize(1000) == glebe_ok);
  REQUIRE(part.pin(Access::read).result() == glebe_bad_argument);
  REQUIRE(part.slice(0, 100).pin(Access::read).read()[1] == 7);
  buffer.close();
  REQUIRE(whole.slice(0, 1).pin(Access::read).result() == glebe_bad_handle);
  REQUIRE(part.fill(1) == glebe_bad_handle);
  const PagedBuffer next = pager.create(2 * kExtent + 800);  // in the same place
  REQUIRE(whole.slice(0, 1).pin(Access::write).result() == glebe_bad_handle);
  REQUIRE(Slice<>(buffer).result() == glebe_bad_handle);
}

TEST_CASE("B8 mut-B11 paging API: fill, clear, copy and resize", "[paging]") {
  Pager pager(all_tiers());
  REQUIRE(pager);
  PagedBuffer one = pager.create(kExtent + 100), two = pager.create(kExtent + 200);
  glebe_range_error error{};
  const std::uint16_t element = 0x0201;
  REQUIRE(one.fill({}, std::as_bytes(std::span(&element, 1)), &error) == glebe_ok);
  REQUIRE(error.problem == glebe_range_right);
  REQUIRE(two.copy_from(one, {}, 0, &error) == glebe_bad_argument);
  REQUIRE(error.problem == glebe_range_lengths_differ);
  char text[200];
  const std::size_t length = glebe_range_error_text(&error, text, sizeof text);
  REQUIRE(length == std::strlen(text));
  REQUIRE(std::string(text) ==
          "the source has 65636 bytes from 0 on, the destination 65736: name a size, or "
          "resize one of them");
  REQUIRE(glebe_range_error_text(&error, text, 5) == 4);
  REQUIRE(std::string(text) == "the ");
  REQUIRE(two.resize(kExtent + 100) == glebe_ok);
  REQUIRE(two.copy_from(one, {}, 0, &error) == glebe_ok);
  REQUIRE(two.pin(Access::read).bytes()[kExtent + 99] == std::byte{2});
  REQUIRE(two.copy_from(one, {0, kExtent}, 101, &error) == glebe_bad_argument);
  REQUIRE(error.problem == glebe_range_outside);
  REQUIRE(error.offset == 101);
  REQUIRE(error.size == kExtent);
  REQUIRE(error.limit == kExtent + 100);
  REQUIRE(two.clear({50, 100}) == glebe_ok);
  {
    const Pin pin = two.pin(Access::read);
    REQUIRE(pin.bytes()[49] == std::byte{2});
    REQUIRE(pin.bytes()[50] == std::byte{0});
    REQUIRE(pin.bytes()[149] == std::byte{0});
    REQUIRE(pin.bytes()[150] == std::byte{1});
    REQUIRE(two.resize(10) == glebe_pinned);
  }
  REQUIRE(two.clear() == glebe_ok);
  REQUIRE(two.info().unbacked_bytes == kExtent + 100);
  Pager other(all_tiers());
  PagedBuffer foreign = other.create(100);
  REQUIRE(foreign.copy_from(one, {0, 100}) == glebe_bad_argument);
  REQUIRE(glebe_buffer_fill(nullptr, 0, 0, 0, &element, 2, nullptr) == glebe_bad_argument);
  REQUIRE(glebe_buffer_fill(pager.handle(), one.handle(), 0, 0, nullptr, 2, nullptr) == glebe_bad_argument);
  REQUIRE(glebe_buffer_fill(pager.handle(), one.handle(), 0, 0, &element, 0, nullptr) == glebe_bad_argument);
  REQUIRE(glebe_buffer_clear(nullptr, 0, 0, 0, nullptr) == glebe_bad_argument);
  REQUIRE(glebe_buffer_copy(pager.handle(), nullptr, nullptr) == glebe_bad_argument);
  REQUIRE(glebe_buffer_resize(nullptr, 0, 1) == glebe_bad_argument);
  REQUIRE(glebe_range_error_text(nullptr, text, sizeof text) == 0);
  REQUIRE(glebe_pager_compact(nullptr) == 0);
  REQUIRE(glebe_pager_validate(pager.handle()) == 1);
}

TEST_CASE("G4 0-14 paging API: completions", "[paging]") {
  Pager pager(all_tiers());
  REQUIRE(pager);
  PagedBuffer buffer = pager.create(3 * kExtent);
  fill(buffer.pin(Access::write), 1);
  struct Seen {
    std::atomic<int> times{0}, last{-1};
  } seen;
  const glebe_completion completion{[](void* context, glebe_result result) {
                                      Seen& own = *static_cast<Seen*>(context);
                                      own.last.store(result);
                                      own.times.fetch_add(1);
                                    },
                                    &seen};
  REQUIRE(buffer.move_notify(glebe_swap, Tier::file, completion) == glebe_ok);
  pager.wait_all();
  REQUIRE(seen.times.load() == 1);
  REQUIRE(seen.last.load() == glebe_ok);
  glebe_ticket ticket = 0;
  {
    const Pin pin = buffer.pin(Access::read, {0, 1});
    REQUIRE(glebe_buffer_move_notify(pager.handle(), buffer.handle(), 0, 0, glebe_swap, glebe_tier_device,
                                     &completion, &ticket) == glebe_ok);
    REQUIRE(glebe_ticket_wait(pager.handle(), ticket) == glebe_pinned);
  }
  REQUIRE(seen.times.load() == 2);
  REQUIRE(seen.last.load() == glebe_pinned);
  const glebe_completion none{nullptr, nullptr};
  REQUIRE(buffer.move_notify(glebe_swap, Tier::file, none) == glebe_bad_argument);
  REQUIRE(glebe_buffer_move_notify(pager.handle(), buffer.handle(), 0, 0, glebe_swap, glebe_tier_file,
                                   nullptr, &ticket) == glebe_bad_argument);
  REQUIRE(buffer.move_notify(glebe_swap, Tier::file, completion, {4 * kExtent, 1}) == glebe_bad_argument);
  pager.wait_all();
  REQUIRE(seen.times.load() == 2);
  REQUIRE(holds(buffer.pin(Access::read), 1));
}

TEST_CASE("N16 K2 every tier knows who holds what, the compressed one too", "[paging]") {
  Pager pager(all_tiers());
  REQUIRE(pager);
  std::uint32_t meshes = 0;
  REQUIRE(glebe_budget_tag(pager.budget(Tier::host), "unused", &meshes) == glebe_budget_ok);
  REQUIRE(glebe_budget_tag(pager.budget(Tier::host), "meshes", &meshes) == glebe_budget_ok);
  glebe::BufferOptions options;
  options.tag = meshes;
  PagedBuffer tagged = pager.create(4 * kExtent, options), plain = pager.create(kExtent);
  fill(tagged.pin(Access::write), 1);
  fill(plain.pin(Access::write), 2);
  for (const Tier tier : {Tier::compressed, Tier::device, Tier::file}) {
    REQUIRE(tagged.swap_to(tier) == glebe_ok);
    REQUIRE(plain.swap_to(tier) == glebe_ok);
    glebe_budget_error error{};
    glebe_budget_report(pager.budget(tier), 1000, &error);
    INFO(glebe::text_of(error));
    REQUIRE(error.top_count == 2);
    REQUIRE(std::string(error.top[0].name) == "meshes");
    REQUIRE(std::string(error.top[1].name) == "other");
    REQUIRE(error.top[0].bytes + error.top[1].bytes == error.used_bytes);
    REQUIRE(error.used_bytes <= pager.stats().tier_used[static_cast<int>(tier)]);
    if (tier != Tier::compressed) REQUIRE(error.top[0].bytes == 4 * kExtent);
  }
  REQUIRE(glebe_budget_used(pager.budget(Tier::compressed)) == 0);
  REQUIRE(glebe_budget_used(pager.budget(Tier::device)) == 0);
  // A limit at run time, of the ledger too: what does not fit stays where it is.
  REQUIRE(pager.set_limit(Tier::compressed, 100) == glebe_ok);
  REQUIRE(glebe_budget_limit(pager.budget(Tier::compressed)) == 100);
  REQUIRE(plain.swap_to(Tier::compressed) == glebe_tier_full);
  REQUIRE(holds(plain.pin(Access::read), 2));
  REQUIRE(glebe_pager_validate(pager.handle()) == 1);
  PagerOptions without = all_tiers();
  without.compressed_bytes = 0;
  Pager bare(without);
  REQUIRE(bare.budget(Tier::compressed) == nullptr);
}
