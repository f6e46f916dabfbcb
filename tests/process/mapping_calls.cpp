// Each row is a call on 64 pages of which some have no access, some are read only and some are unmapped. It
// is made by the library's names on memory that may be paged, and by bare system calls on memory of the
// kernel. Answer, errno and the state of every page afterwards have to be the same.
#include <span>

#include "tests/process/mapping_pages.h"

namespace mapping_test {
namespace {

constexpr std::size_t kPages = 64;
constexpr std::size_t kArena = kPages * kPage;
// In each arena: [8, 12) no access, [20, 24) read only, [32, 40) unmapped, [50, 54) never touched.

struct Calls {
  void* (*map)(void*, std::size_t, int, int, int, off_t);
  int (*unmap)(void*, std::size_t);
  void* (*remap)(void*, std::size_t, std::size_t, int, void*);
  int (*protect)(void*, std::size_t, int);
  int (*advise)(void*, std::size_t, int);
};

const Calls named = {
    [](void* at, std::size_t n, int p, int f, int d, off_t o) { return mmap(at, n, p, f, d, o); },
    [](void* at, std::size_t n) { return munmap(at, n); },
    [](void* at, std::size_t o, std::size_t n, int f, void* to) { return mremap(at, o, n, f, to); },
    [](void* at, std::size_t n, int p) { return mprotect(at, n, p); },
    [](void* at, std::size_t n, int a) { return madvise(at, n, a); },
};
const Calls bare = {
    [](void* at, std::size_t n, int p, int f, int d, off_t o) {
      return reinterpret_cast<void*>(
          syscall(SYS_mmap, at, n, static_cast<long>(p), static_cast<long>(f), static_cast<long>(d), o));
    },
    [](void* at, std::size_t n) { return static_cast<int>(syscall(SYS_munmap, at, n)); },
    [](void* at, std::size_t o, std::size_t n, int f, void* to) {
      return reinterpret_cast<void*>(syscall(SYS_mremap, at, o, n, static_cast<long>(f), to));
    },
    [](void* at, std::size_t n, int p) {
      return static_cast<int>(syscall(SYS_mprotect, at, n, static_cast<long>(p)));
    },
    [](void* at, std::size_t n, int a) {
      return static_cast<int>(syscall(SYS_madvise, at, n, static_cast<long>(a)));
    },
};

using Bytes = unsigned char*;
constexpr long kMoved = -2;  // an address somewhere else

struct Row {
  const char* name;
  long (*call)(const Calls&, Bytes base);
};

// An address as what it is relative to the arena.
long place(const void* answer, Bytes base) {
  if (answer == MAP_FAILED) return -1;
  const auto distance = static_cast<const unsigned char*>(answer) - base;
  return distance >= 0 && distance < static_cast<long>(kArena) ? distance : kMoved;
}
void* page(Bytes base, std::size_t number) { return base + number * kPage; }

const Row kUnmapAndProtect[] = {
    {"munmap, crooked address", [](const Calls& c, Bytes b) -> long { return c.unmap(b + 1, kPage); }},
    {"munmap of nothing", [](const Calls& c, Bytes b) -> long { return c.unmap(b, 0); }},
    {"munmap beyond the end", [](const Calls& c, Bytes b) -> long { return c.unmap(b, SIZE_MAX - 4095); }},
    {"munmap, crooked length", [](const Calls& c, Bytes b) -> long { return c.unmap(page(b, 1), 100); }},
    {"munmap over a hole", [](const Calls& c, Bytes b) -> long { return c.unmap(page(b, 30), 12 * kPage); }},
    {"munmap of a hole", [](const Calls& c, Bytes b) -> long { return c.unmap(page(b, 33), 2 * kPage); }},
    {"mprotect, crooked address",
     [](const Calls& c, Bytes b) -> long { return c.protect(b + 8, kPage, PROT_READ); }},
    {"mprotect of nothing", [](const Calls& c, Bytes b) -> long { return c.protect(b, 0, PROT_READ); }},
    {"mprotect over a hole",
     [](const Calls& c, Bytes b) -> long { return c.protect(page(b, 30), 4 * kPage, PROT_READ); }},
    {"mprotect of a hole",
     [](const Calls& c, Bytes b) -> long { return c.protect(page(b, 33), kPage, kReadWrite); }},
    {"mprotect, hole first",
     [](const Calls& c, Bytes b) -> long { return c.protect(page(b, 38), 4 * kPage, PROT_NONE); }},
    {"mprotect, unknown bits", [](const Calls& c, Bytes b) -> long { return c.protect(b, kPage, 0x100); }},
    {"mprotect, wrapping",
     [](const Calls& c, Bytes b) -> long { return c.protect(b, SIZE_MAX - 4095, PROT_READ); }},
    {"mprotect of three kinds",
     [](const Calls& c, Bytes b) -> long { return c.protect(page(b, 6), 20 * kPage, kReadWrite); }},
};

const Row kAdvise[] = {
    {"DONTNEED, crooked address",
     [](const Calls& c, Bytes b) -> long { return c.advise(b + 8, kPage, MADV_DONTNEED); }},
    {"DONTNEED of nothing", [](const Calls& c, Bytes b) -> long { return c.advise(b, 0, MADV_DONTNEED); }},
    {"DONTNEED over a hole",
     [](const Calls& c, Bytes b) -> long { return c.advise(page(b, 28), 16 * kPage, MADV_DONTNEED); }},
    {"DONTNEED of all kinds",
     [](const Calls& c, Bytes b) -> long { return c.advise(b, 30 * kPage, MADV_DONTNEED); }},
    {"DONTNEED, wrapping",
     [](const Calls& c, Bytes b) -> long { return c.advise(b, SIZE_MAX, MADV_DONTNEED); }},
    {"unknown advice", [](const Calls& c, Bytes b) -> long { return c.advise(b, kPage, 9999); }},
    {"WILLNEED", [](const Calls& c, Bytes b) -> long { return c.advise(b, 4 * kPage, MADV_WILLNEED); }},
    {"SEQUENTIAL over a hole",
     [](const Calls& c, Bytes b) -> long { return c.advise(page(b, 28), 16 * kPage, MADV_SEQUENTIAL); }},
    {"REMOVE", [](const Calls& c, Bytes b) -> long { return c.advise(b, kPage, MADV_REMOVE); }},
    {"DONTFORK", [](const Calls& c, Bytes b) -> long { return c.advise(b, 16 * kPage, MADV_DONTFORK); }},
};

const Row kMap[] = {
    {"mmap of nothing",
     [](const Calls& c, Bytes b) -> long {
       return place(c.map(nullptr, 0, kReadWrite, kPrivate, -1, 0), b);
     }},
    {"mmap of far too much",
     [](const Calls& c, Bytes b) -> long {
       return place(c.map(nullptr, SIZE_MAX / 2, kReadWrite, kPrivate, -1, 0), b);
     }},
    {"mmap without a kind",
     [](const Calls& c, Bytes b) -> long {
       return place(c.map(nullptr, kArena, kReadWrite, MAP_ANONYMOUS, -1, 0), b);
     }},
    {"mmap, crooked offset",
     [](const Calls& c, Bytes b) -> long {
       return place(c.map(nullptr, kArena, kReadWrite, kPrivate, -1, 17), b);
     }},
    {"fixed, crooked address",
     [](const Calls& c, Bytes b) -> long {
       return place(c.map(b + 9, kPage, kReadWrite, kPrivate | MAP_FIXED, -1, 0), b);
     }},
    {"fixed, crooked offset",
     [](const Calls& c, Bytes b) -> long {
       return place(c.map(b, kPage, kReadWrite, kPrivate | MAP_FIXED, -1, 17), b);
     }},
    {"fixed, bad descriptor",
     [](const Calls& c, Bytes b) -> long {
       return place(c.map(b, kPage, PROT_READ, MAP_SHARED | MAP_FIXED, 99999, 0), b);
     }},
    {"fixed, no replacement",
     [](const Calls& c, Bytes b) -> long {
       return place(c.map(b, kPage, kReadWrite, kPrivate | MAP_FIXED_NOREPLACE, -1, 0), b);
     }},
    {"fixed over four kinds",
     [](const Calls& c, Bytes b) -> long {
       return place(c.map(page(b, 10), 40 * kPage, kReadWrite, kPrivate | MAP_FIXED, -1, 0), b);
     }},
    {"fixed without access",
     [](const Calls& c, Bytes b) -> long {
       return place(c.map(page(b, 4), 100, PROT_NONE, kPrivate | MAP_FIXED, -1, 0), b);
     }},
    {"fixed, shared",
     [](const Calls& c, Bytes b) -> long {
       return place(c.map(page(b, 44), 4 * kPage, kReadWrite, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                    b);
     }},
};

const Row kRemap[] = {
    {"mremap from nothing",
     [](const Calls& c, Bytes b) -> long { return place(c.remap(b, 0, kPage, MREMAP_MAYMOVE, nullptr), b); }},
    {"mremap to nothing",
     [](const Calls& c, Bytes b) -> long { return place(c.remap(b, kPage, 0, MREMAP_MAYMOVE, nullptr), b); }},
    {"mremap, crooked address",
     [](const Calls& c, Bytes b) -> long { return place(c.remap(b + 5, kPage, kPage, 0, nullptr), b); }},
    {"mremap, unknown flag",
     [](const Calls& c, Bytes b) -> long { return place(c.remap(b, kPage, kPage, 8, nullptr), b); }},
    {"mremap, fixed alone",
     [](const Calls& c, Bytes b) -> long {
       return place(c.remap(b, kPage, kPage, MREMAP_FIXED, page(b, 44)), b);
     }},
    {"mremap, overlapping",
     [](const Calls& c, Bytes b) -> long {
       return place(c.remap(b, 4 * kPage, 4 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, page(b, 2)), b);
     }},
    {"mremap, crooked target",
     [](const Calls& c, Bytes b) -> long {
       return place(c.remap(b, kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED, b + 44 * kPage + 1), b);
     }},
    {"mremap of a hole",
     [](const Calls& c, Bytes b) -> long {
       return place(c.remap(page(b, 33), kPage, 2 * kPage, MREMAP_MAYMOVE, nullptr), b);
     }},
    {"mremap grows over a border",
     [](const Calls& c, Bytes b) -> long {
       return place(c.remap(page(b, 6), 4 * kPage, 8 * kPage, MREMAP_MAYMOVE, nullptr), b);
     }},
    {"mremap grows into a mapping",
     [](const Calls& c, Bytes b) -> long { return place(c.remap(b, 4 * kPage, 6 * kPage, 0, nullptr), b); }},
    {"mremap to the same length",
     [](const Calls& c, Bytes b) -> long { return place(c.remap(b, 4 * kPage, 4 * kPage, 0, nullptr), b); }},
    {"mremap shrinks",
     [](const Calls& c, Bytes b) -> long { return place(c.remap(b, 8 * kPage, 2 * kPage, 0, nullptr), b); }},
    {"mremap within",
     [](const Calls& c, Bytes b) -> long {
       return place(c.remap(b, 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, page(b, 42)), b);
     }},
    {"mremap of a guard page",
     [](const Calls& c, Bytes b) -> long {
       return place(c.remap(page(b, 8), 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, page(b, 42)), b);
     }},
    {"mremap that stays, two lengths",
     [](const Calls& c, Bytes b) -> long {
       return place(c.remap(b, kPage, 2 * kPage, MREMAP_MAYMOVE | 4, nullptr), b);
     }},
};

// The kernel's arena lies where nothing else does, so that nobody maps into its holes.
Bytes make_arena(const Calls& calls, int flags) {
  auto* const base = static_cast<Bytes>(calls.map(nullptr, kArena, kReadWrite, kPrivate | flags, -1, 0));
  if (!expect(base != MAP_FAILED, "an arena is mapped")) std::abort();
  for (std::size_t i = 0; i < kPages; ++i) {
    if (i < 50 || i >= 54) write_page(base + i * kPage, 77 + i);
  }
  expect(calls.protect(page(base, 8), 4 * kPage, PROT_NONE) == 0, "no access");
  expect(calls.protect(page(base, 20), 4 * kPage, PROT_READ) == 0, "read only");
  expect(calls.unmap(page(base, 32), 8 * kPage) == 0, "a hole");
  return base;
}

struct Answer {
  long value;
  int error;
};

Answer ask(const Row& row, const Calls& calls, Bytes base) {
  errno = 0;
  const long value = row.call(calls, base);
  return {value, value == -1 ? errno : 0};
}

void compare(const Row& row, Bytes ours, Bytes kernels) {
  const Answer found = ask(row, named, ours), wanted = ask(row, bare, kernels);
  if (!expect(found.value == wanted.value && found.error == wanted.error, row.name)) {
    say("  answer %ld errno %d, the kernel's %ld errno %d\n", found.value, found.error, wanted.value,
        wanted.error);
  }
  static unsigned char our_page[kPage], their_page[kPage];
  for (std::size_t i = 0; i < kPages; ++i) {
    const bool is_there = look(ours + i * kPage, our_page);
    if (!expect(is_there == look(kernels + i * kPage, their_page), row.name, i)) return;
    if (is_there && !expect(std::memcmp(our_page, their_page, kPage) == 0, row.name, i)) return;
  }
}

}  // namespace

void calls_like_the_kernel() {
  const std::span<const Row> tables[] = {kUnmapAndProtect, kAdvise, kMap, kRemap};
  for (const std::span<const Row>& rows : tables) {
    for (const Row& row : rows) {
      Bytes ours = make_arena(named, 0), kernels = make_arena(bare, MAP_32BIT);
      push_out(kArena / 2, true);
      compare(row, ours, kernels);
      named.unmap(ours, kArena);
      bare.unmap(kernels, kArena);
    }
  }
}

}  // namespace mapping_test
