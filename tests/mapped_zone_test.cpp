// What a program does to its own mappings while their pages are out: unmap, discard, move, protect, replace,
// keep. By the functions of the zone, which the preload library calls; whole programs:
// tests/process/mapping.cpp.
#include "src/paging/mapped_zone.h"

#include <sys/mman.h>

#include <cstring>

#include "src/paging/mapped_pages.h"
#include "src/paging/pager_state.h"

#include "tests/catch.h"
#include "tests/pager_rig.h"

using namespace glebe;
using namespace glebe::paging;

namespace {

constexpr unsigned kPages = 1024;  // two units of the pager
constexpr std::size_t kBytes = kPages * kPageBytes;
constexpr int kReadWrite = PROT_READ | PROT_WRITE, kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;

// Pages [begin, end) of a mapping.
struct Part {
  unsigned begin, end;
};
constexpr Part kAll{0, kPages}, kMiddle{300, 700};

std::byte* at(std::byte* base, unsigned page) { return base + page * kPageBytes; }
std::size_t bytes_of(Part part) { return (part.end - part.begin) * kPageBytes; }

void fill(std::byte* base, Part part, std::size_t seed) {
  for (unsigned i = part.begin; i < part.end; ++i) write_pattern(at(base, i), kPageBytes, seed + i);
}
bool holds(const std::byte* base, Part part, std::size_t seed) {
  for (unsigned i = part.begin; i < part.end; ++i) {
    if (!has_pattern(base + i * kPageBytes, kPageBytes, seed + i)) return false;
  }
  return true;
}
bool is_zero(std::byte* base, Part part) { return is_all(at(base, part.begin), bytes_of(part), 0); }

unsigned pages_out(const std::byte* base, Part part) {
  const std::uint64_t first = pager.table.page_of(base);
  unsigned out = 0;
  for (unsigned i = part.begin; i < part.end; ++i) out += pager.table.get(first + i).is_out() ? 1u : 0u;
  return out;
}

// Memory of the kernel's own, as much as the budget, so that everything else has to go out, until `is_done`.
template <class IsDone>
bool press_until(IsDone is_done) {
  void* const ballast = ::mmap(nullptr, kBudget, kReadWrite, kPrivate, -1, 0);
  if (ballast == MAP_FAILED) return false;
  std::memset(ballast, 1, kBudget);
  const bool is_out = eventually(is_done);
  ::munmap(ballast, kBudget);
  return is_out;
}
bool push_out(std::byte* base, Part part = kAll) {
  return press_until([=] { return pages_out(base, part) == part.end - part.begin; });
}

// A mapping of the zone, filled and all out; nullptr where that does not come about.
std::byte* mapping_that_is_out(std::size_t seed) {
  auto* const base = static_cast<std::byte*>(zone_map(kBytes, nullptr, kReadWrite));
  if (base == nullptr) return nullptr;
  fill(base, kAll, seed);
  return push_out(base) ? base : nullptr;
}

bool map_over(std::byte* base, Part part, int flags = kPrivate) {
  std::byte* const start = at(base, part.begin);
  const long answer = zone_map_fixed({start, bytes_of(part), kReadWrite, flags | MAP_FIXED, -1, 0});
  return answer == static_cast<long>(reinterpret_cast<std::uintptr_t>(start));
}

std::byte* remap(std::byte* base, std::size_t new_bytes, int flags, std::byte* to = nullptr) {
  const long answer = zone_remap({base, kBytes, new_bytes, flags, to});
  return os::is_failure(answer) ? nullptr : reinterpret_cast<std::byte*>(answer);
}

bool can_write(std::byte* page) {
  constexpr int kAdvicePopulateWrite = 23;
  return os::advise_call(page, kPageBytes, kAdvicePopulateWrite) == 0;
}

int unmaps_a_part() {
  std::byte* const base = mapping_that_is_out(1000);
  if (base == nullptr) return 2;
  const std::uint64_t mapped = zone_stats().bytes;
  if (zone_unmap(at(base, kMiddle.begin), bytes_of(kMiddle)) != 0) return 3;
  if (pages_out(base, kMiddle) != 0 || pages_out(base, {0, kMiddle.begin}) != kMiddle.begin) return 4;
  if (zone_stats().bytes != mapped - bytes_of(kMiddle)) return 5;
  if (!zone_is_mapped(base, kMiddle.begin * kPageBytes) ||
      !zone_is_mapped(at(base, kMiddle.end), bytes_of({kMiddle.end, kPages})) ||
      zone_is_mapped(at(base, kMiddle.begin), kPageBytes))
    return 6;
  if (!map_over(base, kMiddle) || !is_zero(base, kMiddle)) return 7;
  if (!holds(base, {0, kMiddle.begin}, 1000) || !holds(base, {kMiddle.end, kPages}, 1000)) return 8;
  return 0;
}

int discards_a_part() {
  std::byte* const base = mapping_that_is_out(2000);
  if (base == nullptr) return 2;
  if (discard_pages(at(base, kMiddle.begin), bytes_of(kMiddle), MADV_DONTNEED) != 0) return 3;
  if (!is_zero(base, kMiddle)) return 4;
  return holds(base, {0, kMiddle.begin}, 2000) && holds(base, {kMiddle.end, kPages}, 2000) ? 0 : 5;
}

int moves() {
  std::byte* const base = mapping_that_is_out(3000);
  if (base == nullptr) return 2;
  auto* const wall = static_cast<std::byte*>(zone_map(kBytes, base + kBytes, kReadWrite));
  std::byte* const moved = remap(base, 2 * kBytes, MREMAP_MAYMOVE);
  if (moved == nullptr || moved == base || wall != base + kBytes) return 3;
  if (!holds(moved, kAll, 3000) || !is_zero(moved, {kPages, 2 * kPages})) return 4;
  if (zone_is_mapped(base, kPageBytes) || pages_out(base, kAll) != 0) return 5;
  if (!push_out(moved) || remap(moved, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, wall) != wall) return 6;
  return holds(wall, kAll, 3000) ? 0 : 7;
}

// A mapping with a flag of which nothing is known is moved by the kernel, which knows nothing of what is out.
int moves_by_the_kernel() {
  constexpr int kUnknownFlag = 0x800;  // MAP_DENYWRITE, of no effect
  auto* const base = static_cast<std::byte*>(zone_map(kBytes, nullptr, kReadWrite));
  auto* const target = static_cast<std::byte*>(zone_map(kBytes, nullptr, kReadWrite));
  if (base == nullptr || target == nullptr || !map_over(base, kAll, kPrivate | kUnknownFlag)) return 2;
  fill(base, kAll, 4000);
  if (!push_out(base) || remap(base, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, target) != target) return 3;
  return holds(target, kAll, 4000) && !zone_is_mapped(base, kPageBytes) ? 0 : 4;
}

int protects() {
  std::byte* const base = mapping_that_is_out(5000);
  if (base == nullptr) return 2;
  if (zone_protect(at(base, kMiddle.begin), bytes_of(kMiddle), PROT_NONE) != 0) return 3;
  if (can_write(at(base, kMiddle.begin)) || !can_write(base)) return 4;
  if (zone_protect(base, kBytes, PROT_READ) != 0 || !holds(base, kAll, 5000)) return 5;
  if (can_write(base) || can_write(at(base, kMiddle.begin))) return 6;
  // It is as it was where it goes.
  auto* const target = static_cast<std::byte*>(zone_map(kBytes, nullptr, kReadWrite));
  if (target == nullptr || remap(base, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, target) != target) return 7;
  if (!holds(target, kAll, 5000) || can_write(target)) return 8;
  if (zone_protect(target, kBytes, kReadWrite) != 0) return 9;
  fill(target, kAll, 5500);
  return push_out(target) && holds(target, kAll, 5500) ? 0 : 10;
}

// The faults of a new mapping are not ours until the pager asks for them again.
int replaces_a_part() {
  std::byte* const base = mapping_that_is_out(6000);
  if (base == nullptr) return 2;
  for (std::size_t seed = 7000; seed < 10'000; seed += 1000) {
    if (!map_over(base, kMiddle) || pages_out(base, kMiddle) != 0 || !is_zero(base, kMiddle)) return 3;
    fill(base, kMiddle, seed);
    if (!push_out(base, kMiddle)) return 4;
    if (!holds(base, kMiddle, seed)) return 5;
  }
  return holds(base, {0, kMiddle.begin}, 6000) && holds(base, {kMiddle.end, kPages}, 6000) ? 0 : 6;
}

int keeps_a_part() {
  std::byte* const base = mapping_that_is_out(8000);
  if (base == nullptr) return 2;
  if (zone_keep(at(base, kMiddle.begin), bytes_of(kMiddle)) != 0 || pages_out(base, kMiddle) != 0) return 3;
  if (!holds(base, kAll, 8000)) return 4;
  // Both sides go out again, and what is kept stays.
  if (!push_out(base, {0, kMiddle.begin}) || !push_out(base, {kMiddle.end, kPages})) return 5;
  if (pages_out(base, kMiddle) != 0) return 6;
  // What takes its place may go.
  if (!map_over(base, kMiddle)) return 7;
  fill(base, kMiddle, 9000);
  return push_out(base, kMiddle) && holds(base, kMiddle, 9000) ? 0 : 8;
}

}  // namespace

TEST_CASE("munmap of a part that is out leaves nothing of it, and the rest as it was", "[paging]") {
  if (may_page()) CHECK(in_paging_child(unmaps_a_part) == 0);
}

TEST_CASE("MADV_DONTNEED of a part that is out leaves zeros, and the rest as it was", "[paging]") {
  if (may_page()) CHECK(in_paging_child(discards_a_part) == 0);
}

TEST_CASE("mremap takes pages along that are out", "[paging]") {
  if (may_page()) CHECK(in_paging_child(moves) == 0);
}

TEST_CASE("mremap of what the kernel moves takes pages along that are out", "[paging]") {
  if (may_page()) CHECK(in_paging_child(moves_by_the_kernel) == 0);
}

TEST_CASE("mprotect of pages that are out keeps contents, and holds where mremap takes them", "[paging]") {
  if (may_page()) CHECK(in_paging_child(protects) == 0);
}

TEST_CASE("mmap over pages that are out gives zeros, and what is written there can go out", "[paging]") {
  if (may_page()) CHECK(in_paging_child(replaces_a_part) == 0);
}

TEST_CASE("What a child must not get comes back and stays, until something takes its place", "[paging]") {
  if (may_page()) CHECK(in_paging_child(keeps_a_part) == 0);
}
