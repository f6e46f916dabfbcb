// Threads that make every call on their own mappings, in a random order, and compare each page they touch
// with what they wrote there. A page's shadow is its seed, 0 for zeros; kGone stands for what is unmapped,
// kUnknown for what may be anything (MADV_FREE). Now and then a thread forks, and the child goes on for a
// while.
#include <pthread.h>
#include <sys/wait.h>

#include "tests/process/mapping_pages.h"

namespace mapping_test {
namespace {

using process_test::Random;

constexpr std::size_t kMappingsMax = 24;
constexpr std::size_t kPagesMax = 2048;
constexpr std::uint64_t kGone = UINT64_MAX, kUnknown = UINT64_MAX - 1;

struct Mapping {
  unsigned char* base = nullptr;
  std::size_t pages = 0;
  bool is_whole = false;  // was never cut in any way, so that mremap takes it
  std::uint64_t seeds[kPagesMax] = {};
  bool is_closed[kPagesMax] = {};  // no access
};

struct Range {
  std::size_t begin, end;
};

class Player {
 public:
  Player(std::uint64_t seed, Mapping* mappings) : random_(seed), mappings_(mappings) {}

  void play(double end, bool may_fork) {
    while (process_test::now_seconds() < end && process_test::failure_count.load() == 0) step(may_fork);
  }
  void finish() {
    for (std::size_t i = 0; i < kMappingsMax; ++i) {
      Mapping& mapping = mappings_[i];
      if (mapping.base == nullptr) continue;
      for (std::size_t at = 0; at < mapping.pages; ++at) check(mapping, at, "at the end");
      unmap_all(mapping);
    }
  }

 private:
  void step(bool may_fork) {
    Mapping& mapping = mappings_[random_.below(kMappingsMax)];
    if (mapping.base == nullptr) return open(mapping);
    switch (random_.below(may_fork ? 41 : 40)) {
      case 0:
        return unmap_all(mapping);
      case 1:
        return unmap_part(mapping);
      case 2:
      case 3:
        return resize(mapping);
      case 4:
        return discard(mapping, MADV_DONTNEED, 0);
      case 5:
        return discard(mapping, MADV_FREE, kUnknown);
      case 6:
        return replace(mapping);
      case 7:
      case 8:
        return close_part(mapping);
      case 9:
      case 10:
        return open_all(mapping);
      case 40:
        return random_.below(8) == 0 ? fork_here() : void();
      default:
        break;
    }
    touch(mapping);
  }

  Range pick(const Mapping& mapping) {
    const std::size_t begin = random_.below(mapping.pages);
    const std::size_t most = mapping.pages - begin < 64 ? mapping.pages - begin : 64;
    return {begin, begin + 1 + random_.below(most)};
  }

  void open(Mapping& mapping) {
    mapping.pages = 16 + random_.below(random_.below(4) == 0 ? kPagesMax / 2 : 256);
    const bool is_reserved = random_.below(4) == 0;
    mapping.base = map(mapping.pages * kPage, is_reserved ? PROT_NONE : kReadWrite);
    mapping.is_whole = true;
    for (std::size_t i = 0; i < mapping.pages; ++i) {
      mapping.seeds[i] = 0;
      mapping.is_closed[i] = is_reserved;
    }
  }

  void check(Mapping& mapping, std::size_t at, const char* when) {
    const std::uint64_t seed = mapping.seeds[at];
    if (seed == kGone || seed == kUnknown || mapping.is_closed[at]) return;
    if (!expect_page(mapping.base + at * kPage, seed, when)) {
      say("  page %zu of %zu, whole %d\n", at, mapping.pages, mapping.is_whole);
    }
  }

  void touch(Mapping& mapping) {
    const Range range = pick(mapping);
    for (std::size_t at = range.begin; at < range.end; ++at) {
      check(mapping, at, "touched");
      if (mapping.seeds[at] == kGone || mapping.is_closed[at] || random_.below(2) == 0) continue;
      mapping.seeds[at] = random_.below(5) == 0 ? 0 : random_.next() >> 2 | 1;
      write_page(mapping.base + at * kPage, mapping.seeds[at]);
    }
  }

  void unmap_all(Mapping& mapping) {
    // Holes may be other threads' by now: piece by piece.
    for (std::size_t at = 0; at < mapping.pages;) {
      std::size_t end = at;
      while (end < mapping.pages && mapping.seeds[end] != kGone) ++end;
      if (end != at) expect(munmap(mapping.base + at * kPage, (end - at) * kPage) == 0, "munmap");
      at = end + 1;
    }
    mapping.base = nullptr;
  }

  void unmap_part(Mapping& mapping) {
    const Range range = pick(mapping);
    for (std::size_t at = range.begin; at < range.end; ++at) {
      if (mapping.seeds[at] == kGone) continue;
      expect(munmap(mapping.base + at * kPage, kPage) == 0, "munmap of a page");
      mapping.seeds[at] = kGone;
    }
    mapping.is_whole = false;
  }

  void discard(Mapping& mapping, int advice, std::uint64_t seed) {
    const Range range = pick(mapping);
    for (std::size_t at = range.begin; at < range.end; ++at) {
      if (mapping.seeds[at] == kGone) return;
    }
    const int result = madvise(mapping.base + range.begin * kPage, (range.end - range.begin) * kPage, advice);
    expect(result == 0, "madvise", static_cast<std::size_t>(errno));
    for (std::size_t at = range.begin; at < range.end; ++at) mapping.seeds[at] = seed;
  }

  void replace(Mapping& mapping) {
    const Range range = pick(mapping);
    for (std::size_t at = range.begin; at < range.end; ++at) {
      if (mapping.seeds[at] == kGone) return;
    }
    unsigned char* const at = mapping.base + range.begin * kPage;
    expect(mmap(at, (range.end - range.begin) * kPage, kReadWrite, kPrivate | MAP_FIXED, -1, 0) == at,
           "mmap over it");
    for (std::size_t i = range.begin; i < range.end; ++i) {
      mapping.seeds[i] = 0;
      mapping.is_closed[i] = false;
    }
    mapping.is_whole = false;
  }

  void close_part(Mapping& mapping) {
    const Range range = pick(mapping);
    for (std::size_t at = range.begin; at < range.end; ++at) {
      if (mapping.seeds[at] == kGone) return;
    }
    const int result =
        mprotect(mapping.base + range.begin * kPage, (range.end - range.begin) * kPage, PROT_NONE);
    expect(result == 0, "mprotect", static_cast<std::size_t>(errno));
    for (std::size_t at = range.begin; at < range.end; ++at) mapping.is_closed[at] = true;
    mapping.is_whole = false;
  }

  void open_all(Mapping& mapping) {
    bool is_any_gone = false;
    for (std::size_t at = 0; at < mapping.pages; ++at)
      is_any_gone = is_any_gone || mapping.seeds[at] == kGone;
    if (is_any_gone) return;
    expect(mprotect(mapping.base, mapping.pages * kPage, kReadWrite) == 0, "mprotect back");
    for (bool& is_closed : mapping.is_closed) is_closed = false;
  }

  void resize(Mapping& mapping) {
    if (!mapping.is_whole) return;
    const std::size_t pages = 1 + random_.below(random_.below(2) == 0 ? kPagesMax : mapping.pages);
    void* const moved = mremap(mapping.base, mapping.pages * kPage, pages * kPage, MREMAP_MAYMOVE);
    if (!expect(moved != MAP_FAILED, "mremap", static_cast<std::size_t>(errno))) return;
    mapping.base = static_cast<unsigned char*>(moved);
    for (std::size_t at = mapping.pages; at < pages; ++at) {
      mapping.seeds[at] = 0;
      mapping.is_closed[at] = mapping.is_closed[0];
    }
    mapping.pages = pages;
  }

  void fork_here() {
    const pid_t child = fork();
    if (child == 0) {
      for (int i = 0; i < 200 && process_test::failure_count.load() == 0; ++i) step(false);
      finish();
      _exit(process_test::finish("a child"));
    }
    int status = -1;
    for (int i = 0; i < 50; ++i) step(false);
    const bool is_fine = child > 0 && waitpid(child, &status, 0) == child && status == 0;
    expect(is_fine, "a child ends well", static_cast<std::size_t>(status));
  }

  Random random_;
  Mapping* mappings_;
};

struct Job {
  Player* player;
  double end;
};

void* run(void* job) {
  auto* const mine = static_cast<Job*>(job);
  mine->player->play(mine->end, true);
  mine->player->finish();
  return nullptr;
}

}  // namespace

void random_calls(unsigned threads, double seconds, std::uint64_t seed) {
  constexpr unsigned kThreadsMax = 16;
  if (!expect(threads >= 1 && threads <= kThreadsMax, "1 to 16 threads", threads)) return;
  pthread_t started[kThreadsMax];
  Job jobs[kThreadsMax];
  for (unsigned i = 0; i < threads; ++i) {
    // What is known must not depend on the pager: memory that it does not page.
    const long table = syscall(SYS_mmap, 0L, kMappingsMax * sizeof(Mapping) + sizeof(Player),
                               static_cast<long>(kReadWrite), static_cast<long>(kPrivate), -1L, 0L);
    if (!expect(table != -1, "the shadow is mapped")) return;
    auto* const mappings = reinterpret_cast<Mapping*>(table);
    jobs[i] = {new (mappings + kMappingsMax) Player(seed * 100 + i, mappings),
               process_test::now_seconds() + seconds};
    expect(pthread_create(&started[i], nullptr, run, &jobs[i]) == 0, "a thread starts");
  }
  for (unsigned i = 0; i < threads; ++i) pthread_join(started[i], nullptr);
  say("maps %llu, pages out %llu, in %llu\n",
      static_cast<unsigned long long>(paging_test::number("paging_maps")),
      static_cast<unsigned long long>(paging_test::number("paging_page_outs")),
      static_cast<unsigned long long>(paging_test::number("paging_page_ins")));
}

}  // namespace mapping_test
