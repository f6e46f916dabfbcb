// Statistics: each number moves when what it counts happens, and JSON, structure and document agree. These
// tests use what several threads share, and so expect no other thread of the test program to allocate from
// glebe meanwhile.
#include <glebe/glebe.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "src/heap/misuse.h"
#include "src/observe/observe.h"
#include "src/vm/region.h"
#include "tests/catch.h"

namespace {

constexpr std::size_t kKiB = std::size_t{1} << 10;
constexpr std::size_t kMiB = std::size_t{1} << 20;

glebe_stats now() {
  glebe_stats stats{};
  stats.struct_bytes = sizeof stats;
  glebe_stats_get(&stats);
  return stats;
}

// With these options every block goes back where it came from at once.
bool has_caches() {
  std::uint64_t debug = 0, zero_on_free = 0;
  glebe_option_get("debug", &debug);
  glebe_option_get("zero_on_free", &zero_on_free);
  return debug == 0 && zero_on_free == 0;
}

std::string json() {
  std::string text(glebe_stats_json(nullptr, 0) + 1024, '\0');
  text.resize(glebe_stats_json(text.data(), text.size()));
  return text;
}

// The number of a member at the top of the JSON text.
std::uint64_t member(const std::string& text, const std::string& name) {
  std::smatch match;
  if (!std::regex_search(text, match, std::regex("\n  \"" + name + "\": ([0-9]+)"))) return UINT64_MAX;
  return std::stoull(match[1]);
}

std::set<std::string> member_names(const std::string& text) {
  const std::regex name("\"([a-z_]+)\": ");
  std::set<std::string> names;
  for (std::sregex_iterator at(text.begin(), text.end(), name), end; at != end; ++at) names.insert((*at)[1]);
  return names;
}

// The source tree: from the environment, or the folder above this file as the compiler was told its name.
std::string source_root() {
  const char* root = std::getenv("GLEBE_SOURCE_ROOT");
  if (root != nullptr) return root;
  const std::string file = __FILE__;
  const std::size_t end = file.rfind("tests");
  return end == 0 || end == std::string::npos ? "." : file.substr(0, end - 1);
}

// One step of the classic JSON grammar; enough to tell well-formed text from other text.
struct JsonReader {
  const std::string& text;
  std::size_t at = 0;

  void skip() {
    while (at < text.size() && std::strchr(" \n", text[at]) != nullptr) ++at;
  }
  bool eat(char character) {
    skip();
    if (at >= text.size() || text[at] != character) return false;
    ++at;
    return true;
  }
  bool string() {
    if (!eat('"')) return false;
    while (at < text.size() && text[at] != '"') at += text[at] == '\\' ? 2 : 1;
    return eat('"');
  }
  bool number() {
    skip();
    const std::size_t start = at;
    while (at < text.size() && text[at] >= '0' && text[at] <= '9') ++at;
    return at > start;
  }
  bool value() {
    skip();
    if (at >= text.size()) return false;
    if (text[at] == '{') return sequence('{', '}', true);
    if (text[at] == '[') return sequence('[', ']', false);
    return text[at] == '"' ? string() : number();
  }
  bool sequence(char open, char close, bool is_object) {
    if (!eat(open)) return false;
    if (eat(close)) return true;
    do {
      if (is_object && !(string() && eat(':'))) return false;
      if (!value()) return false;
    } while (eat(','));
    return eat(close);
  }
};

bool is_well_formed(const std::string& text) {
  JsonReader reader{text};
  const bool is_value = reader.value();
  reader.skip();
  return is_value && reader.at == text.size();
}

}  // namespace

TEST_CASE("K1 small blocks move their numbers exactly", "[observe]") {
  glebe_free(glebe_malloc(1000));
  const glebe_stats before = now();
  std::vector<void*> blocks;
  for (int i = 0; i < 500; ++i) blocks.push_back(glebe_malloc(1000));
  const glebe_stats during = now();
  CHECK(during.small_live_blocks == before.small_live_blocks + 500);
  CHECK(during.small_live_bytes == before.small_live_bytes + 500 * 1024);
  CHECK(during.live_blocks == before.live_blocks + 500);
  CHECK(during.live_bytes == before.live_bytes + 500 * 1024);
  CHECK(during.small_slab_bytes > before.small_slab_bytes);
  CHECK(during.medium_live_blocks == before.medium_live_blocks);
  CHECK(during.large_live_blocks == before.large_live_blocks);
  for (void* block : blocks) glebe_free(block);
  const glebe_stats after = now();
  CHECK(after.small_live_blocks == before.small_live_blocks);
  CHECK(after.small_live_bytes == before.small_live_bytes);
  CHECK((after.small_cached_blocks > 0) == has_caches());
  CHECK((after.small_cached_bytes > 0) == has_caches());
}

TEST_CASE("K1 the numbers of one size class move with its blocks", "[observe]") {
  glebe::observe::Snapshot before, during;
  void* warm = glebe_malloc(5000);
  glebe::observe::take_snapshot(before);
  void* block = glebe_malloc(5000);
  glebe::observe::take_snapshot(during);
  const unsigned own = glebe::heap::class_of(5000);
  for (unsigned c = 0; c < glebe::heap::kClassCount; ++c) {
    INFO(c);
    CHECK(during.classes[c].live_blocks == before.classes[c].live_blocks + (c == own ? 1 : 0));
  }
  CHECK(during.classes[own].slabs >= 1);
  const auto& row = during.classes[own];
  const std::size_t per_slab = glebe::heap::class_infos[own].blocks;
  CHECK(row.live_blocks + row.cached_blocks + row.free_blocks == row.slabs * per_slab);
  glebe_free(block);
  glebe_free(warm);
}

TEST_CASE("K1 medium blocks move their numbers exactly", "[observe]") {
  const glebe_stats before = now();
  void* block = glebe_malloc(500 * kKiB);
  std::memset(block, 1, 500 * kKiB);
  const glebe_stats during = now();
  CHECK(during.medium_live_blocks == before.medium_live_blocks + 1);
  CHECK(during.medium_live_bytes == before.medium_live_bytes + 500 * kKiB);
  CHECK(during.medium_allocations == before.medium_allocations + 1);
  CHECK(during.medium_frees == before.medium_frees);
  CHECK(during.medium_range_bytes ==
        during.medium_live_bytes + during.medium_cached_bytes + during.medium_free_bytes);
  CHECK(during.medium_largest_free_bytes <= during.medium_free_bytes);
  CHECK(during.small_live_blocks == before.small_live_blocks);
  glebe_free(block);
  const glebe_stats after = now();
  CHECK(after.medium_live_bytes == before.medium_live_bytes);
  CHECK(after.medium_frees == before.medium_frees + 1);
  CHECK(after.medium_dirty_bytes >= 500 * kKiB);
  CHECK(after.medium_largest_free_bytes >= 500 * kKiB);
  CHECK(after.dirty_bytes >= 500 * kKiB);
  glebe_trim();
  const glebe_stats trimmed = now();
  CHECK(trimmed.medium_dirty_bytes == 0);
  CHECK(trimmed.dirty_bytes < after.dirty_bytes);
}

TEST_CASE("K1 a medium block that a thread keeps for reuse is cached, not live", "[observe]") {
  glebe_trim();
  const glebe_stats before = now();
  CHECK(before.medium_cached_blocks == 0);
  void* block = glebe_malloc(100 * kKiB);
  CHECK(now().medium_live_bytes == before.medium_live_bytes + 100 * kKiB);
  glebe_free(block);
  const glebe_stats after = now();
  CHECK(after.medium_live_bytes == before.medium_live_bytes);
  CHECK(after.medium_live_blocks == before.medium_live_blocks);
  CHECK(after.medium_cached_blocks == (has_caches() ? 1 : 0));
  CHECK(after.medium_cached_bytes == (has_caches() ? 100 * kKiB : 0));
  glebe_trim();
  CHECK(now().medium_cached_bytes == 0);
}

TEST_CASE("K1 large blocks move their numbers exactly", "[observe]") {
  const glebe_stats before = now();
  void* block = glebe_malloc(40 * kMiB);
  REQUIRE(block != nullptr);
  const glebe_stats during = now();
  CHECK(during.large_live_blocks == before.large_live_blocks + 1);
  CHECK(during.large_live_bytes == before.large_live_bytes + 40 * kMiB);
  CHECK(during.large_allocations == before.large_allocations + 1);
  CHECK(during.live_bytes == before.live_bytes + 40 * kMiB);
  CHECK(during.committed_bytes >= during.live_bytes);
  CHECK(during.committed_peak_bytes >= during.committed_bytes);
  glebe_free(block);
  const glebe_stats after = now();
  CHECK(after.large_live_bytes == before.large_live_bytes);
  CHECK(after.large_frees == before.large_frees + 1);
  CHECK(after.large_idle_bytes + after.decommit_calls + after.purge_calls >
        before.large_idle_bytes + before.decommit_calls + before.purge_calls);
  CHECK(after.committed_peak_bytes >= during.committed_peak_bytes);
}

TEST_CASE("K1 growing a large block in place or by its pages is counted", "[observe]") {
  const glebe_stats before = now();
  void* block = glebe_malloc(40 * kMiB);
  block = glebe_realloc(block, 60 * kMiB);
  const glebe_stats grown = now();
  // Where the system gives few addresses (ulimit -v), blocks have no room behind them.
  const bool has_slots = glebe::vm::regions[0].large.base != nullptr;
  CHECK(grown.large_grown_in_place == before.large_grown_in_place + (has_slots ? 1 : 0));
  block = glebe_realloc(block, 300 * kMiB);
  REQUIRE(block != nullptr);
  const glebe_stats moved = now();
  CHECK(moved.large_moved + moved.large_allocations > grown.large_moved + grown.large_allocations);
  glebe_free(block);
}

TEST_CASE("K1 failed allocations and misuses are counted", "[observe]") {
  const glebe_stats before = now();
  CHECK(glebe_malloc(SIZE_MAX) == nullptr);
  CHECK(glebe_calloc(SIZE_MAX, 2) == nullptr);
  CHECK(glebe_aligned_alloc(4096, SIZE_MAX) == nullptr);
  const glebe_stats failed = now();
  CHECK(failed.failed_allocations == before.failed_allocations + 3);
  CHECK(failed.misuse_reports == before.misuse_reports);
  const auto saved = glebe::heap::misuse_action;
  glebe::heap::misuse_action = glebe::heap::MisuseAction::ignore;
  int local = 0;
  glebe_free(&local);
  glebe::heap::misuse_action = saved;
  CHECK(now().misuse_reports == before.misuse_reports + 1);
  CHECK(now().failed_allocations == failed.failed_allocations);
}

TEST_CASE("K1 heaps are counted when they come and go", "[observe]") {
  glebe_free(glebe_malloc(1));
  const glebe_stats before = now();
  glebe_heap* heap = glebe_heap_new();
  const glebe_stats with_heap = now();
  CHECK(with_heap.first_class_heaps == before.first_class_heaps + 1);
  CHECK(with_heap.heaps == before.heaps + 1);
  glebe_heap_free(heap);
  CHECK(now().first_class_heaps == before.first_class_heaps);
  CHECK(now().heaps == before.heaps);

  glebe_stats in_thread{};
  std::thread thread([&in_thread] {
    glebe_free(glebe_malloc(100));
    in_thread = now();
  });
  thread.join();
  const glebe_stats ended = now();
  CHECK(in_thread.heaps + in_thread.orphan_heaps >= before.heaps + before.orphan_heaps);
  CHECK(in_thread.heaps == before.heaps + 1);
  CHECK(ended.heaps == before.heaps);
  CHECK(ended.orphan_heaps == in_thread.orphan_heaps + 1);
}

TEST_CASE("K1 memory of the system is counted, and given back it counts as purged", "[observe]") {
  const glebe_stats before = now();
  std::vector<void*> blocks;
  for (int i = 0; i < 64; ++i) {
    blocks.push_back(glebe_malloc(kMiB));
    std::memset(blocks.back(), 1, kMiB);
  }
  const glebe_stats during = now();
  CHECK(during.committed_bytes >= 64 * kMiB);
  CHECK(during.reserved_bytes >= during.committed_bytes);
  CHECK(during.metadata_bytes < during.committed_bytes);
  CHECK(during.metadata_bytes > 0);
  CHECK(during.commit_calls > 0);
  CHECK(during.reserve_calls > 0);
  for (void* block : blocks) glebe_free(block);
  const std::size_t given_back = glebe_trim();
  const glebe_stats after = now();
  CHECK(given_back >= 60 * kMiB);
  CHECK(after.committed_bytes + after.dirty_bytes < during.committed_bytes + during.dirty_bytes);
  CHECK(after.committed_peak_bytes >= during.committed_bytes);
  CHECK(after.purge_calls + after.decommit_calls > before.purge_calls + before.decommit_calls);
  CHECK(after.live_bytes == before.live_bytes);
}

TEST_CASE("K1 a snapshot is independent of what follows", "[observe]") {
  const glebe_stats snapshot = now();
  const glebe_stats copy = snapshot;
  void* block = glebe_malloc(100);
  CHECK(std::memcmp(&snapshot, &copy, sizeof copy) == 0);
  glebe_free(block);
}

TEST_CASE("K1 snapshots under concurrency are sane, and exact afterwards", "[observe]") {
  const glebe_stats before = now();
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t) {
    threads.emplace_back([&stop, t] {
      while (!stop.load()) {
        void* blocks[20];
        for (unsigned i = 0; i < 20; ++i) blocks[i] = glebe_malloc(1 + (i * 4099 + t) % 50'000);
        for (void* block : blocks) glebe_free(block);
      }
    });
  }
  const std::uint64_t peak_before = before.committed_peak_bytes;
  bool is_sane = true;
  for (int i = 0; i < 200; ++i) {
    const glebe_stats stats = now();
    is_sane = is_sane && stats.committed_peak_bytes >= peak_before && stats.reserved_bytes > 0;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(is_sane);
  CHECK(now().live_bytes == before.live_bytes);
  CHECK(now().live_blocks == before.live_blocks);
}

TEST_CASE("stats_get fills as many fields as the caller has", "[observe]") {
  glebe_stats part;
  std::memset(&part, 0xAB, sizeof part);
  part.struct_bytes = 3 * sizeof(std::uint64_t);
  CHECK(glebe_stats_get(&part) == 0);
  CHECK(part.struct_bytes == 3 * sizeof(std::uint64_t));
  CHECK(part.live_bytes == now().live_bytes);
  CHECK(part.reserved_bytes == 0xABABABABABABABAB);

  struct {
    glebe_stats known;
    std::uint64_t later[2];
  } longer;
  std::memset(&longer, 0xAB, sizeof longer);
  longer.known.struct_bytes = sizeof longer;
  CHECK(glebe_stats_get(&longer.known) == 0);
  CHECK(longer.known.advise_calls == now().advise_calls);
  CHECK(longer.later[0] == 0);
  CHECK(longer.later[1] == 0);

  glebe_stats bad{};
  errno = 0;
  CHECK(glebe_stats_get(&bad) == -1);
  CHECK(errno == EINVAL);
  CHECK(glebe_stats_get(nullptr) == -1);
}

TEST_CASE("the JSON text is well-formed and has the numbers of the structure", "[observe]") {
  void* block = glebe_malloc(12'345);
  const glebe_stats stats = now();
  const std::string text = json();
  CHECK(is_well_formed(text));
  CHECK_FALSE(is_well_formed(text.substr(0, text.size() - 3)));
  CHECK(member(text, "live_bytes") == stats.live_bytes);
  CHECK(member(text, "live_blocks") == stats.live_blocks);
  CHECK(member(text, "small_live_bytes") == stats.small_live_bytes);
  CHECK(member(text, "committed_peak_bytes") == stats.committed_peak_bytes);
  CHECK(member(text, "medium_allocations") == stats.medium_allocations);
  CHECK(member(text, "failed_allocations") == stats.failed_allocations);
  CHECK(member(text, "advise_calls") == stats.advise_calls);
  CHECK(member(text, "no_such_number") == UINT64_MAX);
  CHECK(text.find("\"block_bytes\": 32768") != std::string::npos);
  CHECK(text.find("\"state\": \"thread\"") != std::string::npos);
  glebe_free(block);
}

TEST_CASE("the JSON text is cut off at the end of the buffer", "[observe]") {
  const std::size_t length = glebe_stats_json(nullptr, 0);
  CHECK(length > 1000);
  char buffer[64];
  std::memset(buffer, 'x', sizeof buffer);
  CHECK(glebe_stats_json(buffer, 40) >= 1000);
  CHECK(std::strlen(buffer) == 39);
  CHECK(buffer[40] == 'x');
  CHECK(glebe_stats_json(buffer, 1) >= 1000);
  CHECK(buffer[0] == '\0');
}

TEST_CASE("every name of the JSON text stands in docs/stats.md", "[observe]") {
  glebe_free(glebe_malloc(1));  // at least one heap is listed
  const std::string path = source_root() + "/docs/stats.md";
  std::ifstream file(path);
  INFO(path << ": set GLEBE_SOURCE_ROOT when the sources are elsewhere");
  REQUIRE(file.good());
  const std::string document((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::set<std::string> names = member_names(json());
  CHECK(names.size() > 50);
  for (const std::string& name : names) {
    INFO(name);
    CHECK(document.find("`" + name + "`") != std::string::npos);
  }
}

TEST_CASE("the readable report tells the same numbers", "[observe]") {
  glebe::observe::Snapshot snapshot;
  snapshot.live_bytes = 3 * kMiB;
  snapshot.live_blocks = 1234;
  snapshot.committed_bytes = 8 * kMiB;
  snapshot.metadata_bytes = 2 * kMiB;
  snapshot.misuse_reports = 9;
  snapshot.classes[0] = {1, 22, 33, 44};
  std::string text;
  const glebe::observe::Sink sink{
      [](void* context, std::string_view part) { static_cast<std::string*>(context)->append(part); }, &text};
  glebe::observe::write_report(snapshot, "1.2.3", sink);
  CHECK(text.find("glebe 1.2.3") == 0);
  CHECK(text.find("3.0 MiB          1234 blocks") != std::string::npos);
  CHECK(text.find("not in use 50.0 %") != std::string::npos);
  CHECK(text.find("misuse reports 9\n") != std::string::npos);
  CHECK(text.find("16           1          22          33          44\n") != std::string::npos);
  CHECK(text.find("\n           32 ") == std::string::npos);  // classes without slabs are left out
}
