// What glibc offers to look into and to tune its malloc, answered for this heap. Linux only.
//
// The knobs of glibc's heap have no counterpart here: mallopt accepts them and changes nothing, as glibc does
// with a parameter that it does not know. The figures come from one snapshot (docs/stats.md).
#include <glebe/glebe.h>
#include <malloc.h>

#include <cerrno>
#include <climits>
#include <cstdio>

#include "src/api/options.h"
#include "src/observe/observe.h"

namespace glebe::api {
namespace {

using observe::Snapshot;

std::uint64_t difference(std::uint64_t a, std::uint64_t b) noexcept { return a > b ? a - b : 0; }

// Committed memory for blocks outside of large slots, which glibc counts apart.
std::uint64_t arena_bytes(const Snapshot& snapshot) noexcept {
  return difference(snapshot.committed_bytes, snapshot.metadata_bytes + snapshot.large_live_bytes);
}

// The fields of mallinfo and mallinfo2, which differ in the type of the numbers only.
struct mallinfo2 info_of(const Snapshot& snapshot) noexcept {
  struct mallinfo2 info {};
  info.arena = arena_bytes(snapshot);
  info.ordblks = snapshot.small_free_blocks;
  info.smblks = snapshot.small_cached_blocks;
  info.fsmblks = snapshot.small_cached_bytes;
  info.hblks = snapshot.large_live_blocks;
  info.hblkhd = snapshot.large_live_bytes;
  info.uordblks = snapshot.small_live_bytes + snapshot.medium_live_bytes;
  info.fordblks = difference(info.arena, info.uordblks);
  info.keepcost = snapshot.dirty_bytes;
  return info;
}

// A number that an int cannot hold becomes the largest int. glibc lets it wrap.
int narrowed(std::size_t value) noexcept { return value > INT_MAX ? INT_MAX : static_cast<int>(value); }

// All heaps together, in the elements that the text of glibc has.
bool write_info(const Snapshot& snapshot, std::FILE* stream) noexcept {
  const auto number = [](std::uint64_t value) { return static_cast<unsigned long long>(value); };
  const unsigned long long arena = number(arena_bytes(snapshot));
  const int written = std::fprintf(
      stream,
      "<malloc version=\"1\">\n"
      "<total type=\"fast\" count=\"%llu\" size=\"%llu\"/>\n"
      "<total type=\"rest\" count=\"%llu\" size=\"%llu\"/>\n"
      "<total type=\"mmap\" count=\"%llu\" size=\"%llu\"/>\n"
      "<system type=\"current\" size=\"%llu\"/>\n"
      "<system type=\"max\" size=\"%llu\"/>\n"
      "<aspace type=\"total\" size=\"%llu\"/>\n"
      "<aspace type=\"mprotect\" size=\"%llu\"/>\n"
      "</malloc>\n",
      number(snapshot.small_cached_blocks), number(snapshot.small_cached_bytes),
      number(snapshot.small_free_blocks), number(snapshot.small_free_bytes + snapshot.medium_free_bytes),
      number(snapshot.large_live_blocks), number(snapshot.large_live_bytes), arena,
      number(snapshot.committed_peak_bytes), number(snapshot.reserved_bytes),
      number(snapshot.committed_bytes));
  return written > 0;
}

}  // namespace
}  // namespace glebe::api

using namespace glebe;

extern "C" {

GLEBE_API int mallopt(int, int) noexcept { return 1; }

GLEBE_API struct mallinfo2 mallinfo2(void) noexcept {
  observe::Snapshot snapshot;
  observe::take_snapshot(snapshot);
  return api::info_of(snapshot);
}

GLEBE_API struct mallinfo mallinfo(void) noexcept {
  const struct mallinfo2 wide = mallinfo2();
  struct mallinfo info {};
  info.arena = api::narrowed(wide.arena);
  info.ordblks = api::narrowed(wide.ordblks);
  info.smblks = api::narrowed(wide.smblks);
  info.hblks = api::narrowed(wide.hblks);
  info.hblkhd = api::narrowed(wide.hblkhd);
  info.fsmblks = api::narrowed(wide.fsmblks);
  info.uordblks = api::narrowed(wide.uordblks);
  info.fordblks = api::narrowed(wide.fordblks);
  info.keepcost = api::narrowed(wide.keepcost);
  return info;
}

// The text is written after the snapshot was taken, with no lock of ours held: stdio may allocate its buffer.
GLEBE_API int malloc_info(int options, std::FILE* stream) noexcept {
  if (options != 0) return EINVAL;
  observe::Snapshot snapshot;
  observe::take_snapshot(snapshot);
  return api::write_info(snapshot, stream) ? 0 : EIO;
}

GLEBE_API void malloc_stats(void) noexcept { glebe_stats_print(); }

// The pad is a figure of glibc's contiguous heap and means nothing here.
GLEBE_API int malloc_trim(std::size_t) noexcept { return glebe_trim() != 0 ? 1 : 0; }

// Saving the heap of a process and restoring it in another was given up by glibc as well.
GLEBE_API void* malloc_get_state(void) noexcept {
  errno = ENOSYS;
  return nullptr;
}
GLEBE_API int malloc_set_state(void*) noexcept {
  errno = ENOSYS;
  return -1;
}

}  // extern "C"

__asm__(".globl __libc_mallopt\n.type __libc_mallopt, %function\n.set __libc_mallopt, mallopt\n"
        ".globl __libc_mallinfo\n.type __libc_mallinfo, %function\n.set __libc_mallinfo, mallinfo\n");
