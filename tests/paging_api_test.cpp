// Pageable buffers through the public headers alone: what a program sees of pagers, buffers, tickets, views
// and budgets in C and C++, and what wrong arguments get.
#include <glebe/paging.hpp>

#include <algorithm>
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
  options.victims = 6;
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
