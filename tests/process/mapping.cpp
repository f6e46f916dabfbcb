// Memory that the program maps itself, under a library that pages it: every call answers as the kernel does,
// and no byte is lost. Exit status judges; the same program runs without the library and without paging.
//   mapping cases                         each call by itself, with pages that are out
//   mapping random THREADS SECONDS SEED   a random order of all of them against a shadow, with forks
// What would break: DONTNEED that leaves a page out, a hole that the kernel fills, a partial munmap that
// takes its neighbour along, an mremap that moves missing pages, a guard page that is touched.
#include <fcntl.h>
#include <sys/wait.h>

#include "tests/process/mapping_pages.h"

namespace mapping_test {

// Ballast of the kernel's own: it is in the budget and cannot go out, so everything else has to.
void push_out(std::size_t bytes, bool is_staged_enough) {
  if (!is_paged()) return;
  const auto out = [is_staged_enough] {
    const std::uint64_t staged = is_staged_enough ? paging_test::number("paging_staged_bytes") : 0;
    return paging_test::number("paging_out_bytes") + staged;
  };
  const std::size_t budget = paging_test::number("paging_budget_bytes");
  const long base =
      syscall(SYS_mmap, 0L, budget, static_cast<long>(kReadWrite), static_cast<long>(kPrivate), -1L, 0L);
  if (!expect(base != -1, "the ballast is mapped")) return;
  auto* const ballast = reinterpret_cast<unsigned char*>(base);
  for (std::size_t at = 0; at < budget; at += kPage) ballast[at] = 1;
  const double end = process_test::now_seconds() + 60;
  std::size_t most = out();  // a later look may find fewer: pages are read ahead
  while (most < bytes && process_test::now_seconds() < end) {
    process_test::sleep_ms(10);
    most = out();
  }
  expect(most >= bytes, "pages go out", bytes >> 10);
  syscall(SYS_munmap, base, budget);
}

namespace {

constexpr std::size_t kCount = 1024;  // pages of a mapping: two units of the pager
constexpr std::size_t kBytes = kCount * kPage;

unsigned char* filled(std::uint64_t seed) {
  unsigned char* base = map(kBytes);
  expect_pages(base, kCount, 0, "of a fresh mapping");
  write_pages(base, kCount, seed);
  return base;
}

void unmap(unsigned char* base, std::size_t pages) {
  expect(munmap(base, pages * kPage) == 0, "munmap succeeds", pages);
}

void placed_and_counted() {
  const std::uint64_t before = paging_test::number("paging_maps");
  unsigned char* base = map(kBytes);
  if (is_paged()) {
    expect(paging_test::number("paging_maps") == before + 1, "the mapping is served by the zone");
    expect(paging_test::number("paging_mapped_bytes") >= kBytes, "and counted");
    using Owns = int (*)(const void*);
    const auto owns = reinterpret_cast<Owns>(dlsym(RTLD_DEFAULT, "glebe_owns"));
    expect(owns != nullptr && owns(base) == 0, "it is no block");
  }
  unmap(base, kCount);
  expect(!can_read(base), "nothing can be read where it was");
}

void contents_after_page_out() {
  unsigned char* base = filled(100);
  push_out(kBytes / 2);
  expect_pages(base, kCount, 100, "after page-out");
  unmap(base, kCount);
}

// Twice the length is mapped and head and tail unmapped, as for an aligned arena; then a piece in the middle.
void partial_unmaps() {
  unsigned char* base = filled(2000);
  push_out(kBytes / 2);
  unmap(base, 3);
  unmap(base + kBytes - 5 * kPage, 5);
  unmap(base + 500 * kPage, 20);
  expect_pages(base + 3 * kPage, 497, 2003, "before the hole");
  expect_pages(base + 520 * kPage, kCount - 525, 2520, "behind the hole");
  expect(!can_read(base + 2 * kPage) && !can_read(base + 519 * kPage), "the holes cannot be read");
  unmap(base, kCount);
  for (int i = 0; i < 200; ++i) {  // addresses are used again
    unsigned char* again = map(kBytes);
    expect_page(again + 2 * kPage, 0, "of addresses used again");
    write_page(again + 2 * kPage, 7);
    unmap(again, kCount);
  }
}

void protections() {
  unsigned char* base = filled(3000);
  push_out(kBytes / 2);
  expect(mprotect(base + 100 * kPage, 50 * kPage, PROT_NONE) == 0, "guard pages on contents");
  expect(mprotect(base + 200 * kPage, 50 * kPage, PROT_READ) == 0, "read only");
  expect(!can_read(base + 120 * kPage), "a guard page cannot be read");
  push_out(kBytes / 2);
  expect_pages(base + 200 * kPage, 50, 3200, "read only");
  expect(mprotect(base, kBytes, kReadWrite) == 0, "and back");
  expect_pages(base, kCount, 3000, "after mprotect and back");
  write_pages(base, kCount, 3500);
  push_out(kBytes / 2);
  expect_pages(base, kCount, 3500, "written after mprotect");
  unmap(base, kCount);
}

// Addresses first, memory later, as garbage collectors do; and given back by mapping nothing over it.
void reserve_and_commit() {
  unsigned char* base = map(kBytes, PROT_NONE, kPrivate | MAP_NORESERVE);
  expect(!can_read(base), "reserved addresses cannot be read");
  expect(mprotect(base, kBytes / 2, kReadWrite) == 0, "the first half is committed");
  unsigned char* half = base + kBytes / 2;
  expect(mmap(half, kBytes / 2, kReadWrite, kPrivate | MAP_FIXED, -1, 0) == half,
         "the second half is mapped");
  expect_pages(base, kCount, 0, "fresh");
  write_pages(base, kCount, 4000);
  push_out(kBytes / 2);
  expect_pages(base, kCount, 4000, "committed piece by piece");
  push_out(kBytes / 2);
  expect(mmap(base, kBytes / 2, PROT_NONE, kPrivate | MAP_FIXED | MAP_NORESERVE, -1, 0) == base,
         "reserved again");
  expect(!can_read(base), "what is reserved again cannot be read");
  expect_pages(half, kCount / 2, 4000 + kCount / 2, "beside it");
  expect(mprotect(base, kBytes / 2, kReadWrite) == 0, "committed again");
  expect_pages(base, kCount / 2, 0, "committed again");
  unmap(base, kCount);
}

void discards() {
  unsigned char* base = filled(5000);
  auto* const block = static_cast<unsigned char*>(std::aligned_alloc(kPage, kBytes));
  write_pages(block, kCount, 6000);
  push_out(kBytes);
  for (unsigned char* memory : {base, block}) {
    expect(madvise(memory + 10 * kPage, 100 * kPage, MADV_DONTNEED) == 0, "MADV_DONTNEED");
    expect(madvise(memory + 600 * kPage, 100 * kPage, MADV_FREE) == 0, "MADV_FREE");
  }
  push_out(kBytes / 2);
  expect_pages(base + 10 * kPage, 100, 0, "after MADV_DONTNEED");
  expect_pages(block + 10 * kPage, 100, 0, "of a block after MADV_DONTNEED");
  for (std::size_t i = 600; i < 700; ++i) {
    expect(is_page(base + i * kPage, 0) || is_page(base + i * kPage, 5000 + i), "after MADV_FREE", i);
    expect(is_page(block + i * kPage, 0) || is_page(block + i * kPage, 6000 + i), "of a block", i);
  }
  expect_pages(base, 10, 5000, "before it");
  expect_pages(base + 110 * kPage, 490, 5110, "behind it");
  expect_pages(block + 700 * kPage, kCount - 700, 6700, "of a block behind it");
  unmap(base, kCount);
  std::free(block);
}

void moves() {
  unsigned char* base = filled(7000);
  push_out(kBytes / 2);
  auto* grown = static_cast<unsigned char*>(mremap(base, kBytes, 3 * kBytes, MREMAP_MAYMOVE));
  expect(grown != MAP_FAILED, "mremap grows");
  expect_pages(grown, kCount, 7000, "after it grew");
  expect_pages(grown + kBytes, 2 * kCount, 0, "the new part");
  write_pages(grown + kBytes, 2 * kCount, 7000 + kCount);
  unsigned char* wall = map(kBytes);  // the next place is likely to be taken now
  push_out(kBytes / 2);
  auto* moved = static_cast<unsigned char*>(mremap(grown, 3 * kBytes, 5 * kBytes, MREMAP_MAYMOVE));
  expect(moved != MAP_FAILED, "mremap moves");
  expect_pages(moved, 3 * kCount, 7000, "after it moved");
  expect_pages(moved + 3 * kBytes, 2 * kCount, 0, "the new part after the move");
  expect(moved == grown || !can_read(grown), "the old place is unmapped");
  push_out(kBytes / 2);
  expect(mremap(moved, 5 * kBytes, kBytes, 0) == moved, "mremap shrinks");
  expect(!can_read(moved + kBytes), "what was cut off is unmapped");
  expect_pages(moved, kCount, 7000, "after it shrank");
  push_out(kBytes / 4);
  expect(mremap(moved, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, wall) == wall, "to a fixed place");
  expect_pages(wall, kCount, 7000, "at the fixed place");
  expect(!can_read(moved), "the source is unmapped");
  push_out(kBytes / 4);
  const auto outside =
      syscall(SYS_mmap, 0L, kBytes, static_cast<long>(PROT_NONE), static_cast<long>(kPrivate), -1L, 0L);
  auto* const there = reinterpret_cast<unsigned char*>(outside);
  expect(mremap(wall, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, there) == there, "out of the zone");
  expect_pages(there, kCount, 7000, "out of the zone");
  base = map(kBytes);
  expect(mremap(there, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, base) == base, "into the zone");
  push_out(0);
  expect_pages(base, kCount, 7000, "into the zone");
  unmap(base, kCount);
}

// A file takes the place of some pages, and private memory again the place of the file.
void files() {
  unsigned char* base = filled(8000);
  const int file = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  static unsigned char page[kPage];
  for (std::size_t i = 0; i < 40; ++i) {
    write_page(page, 9000 + i);
    if (!expect(pwrite(file, page, kPage, static_cast<off_t>(i * kPage)) == static_cast<long>(kPage),
                "a file"))
      return;
  }
  push_out(kBytes / 2);
  unsigned char* middle = base + 300 * kPage;
  expect(
      mmap(middle, 40 * kPage, kReadWrite, MAP_SHARED | MAP_FIXED, 99999, 0) == MAP_FAILED && errno == EBADF,
      "a bad descriptor is refused");
  expect_pages(base, kCount, 8000, "after a refused mmap");
  push_out(kBytes / 2);
  expect(mmap(middle, 40 * kPage, kReadWrite, MAP_PRIVATE | MAP_FIXED, file, 0) == middle, "a file over it");
  expect_pages(middle, 40, 9000, "of the file");
  write_page(middle, 1);
  push_out(kBytes / 4);
  expect_page(middle, 1, "written over the file");
  expect_pages(middle + kPage, 39, 9001, "of the file, later");
  expect_pages(base, 300, 8000, "before the file");
  expect_pages(base + 340 * kPage, kCount - 340, 8340, "behind the file");
  expect(mmap(middle, 40 * kPage, kReadWrite, kPrivate | MAP_FIXED, -1, 0) == middle, "memory again");
  expect_pages(middle, 40, 0, "memory again");
  write_pages(middle, 40, 8300);
  push_out(kBytes / 2);
  expect_pages(base, kCount, 8000, "at last");
  unmap(base, kCount);
  close(file);
}

}  // namespace

void forks_with_mappings() {
  unsigned char* shared = filled(10'000);
  unsigned char* private_page = map(kBytes);
  write_pages(private_page, kCount, 12'000);
  expect(madvise(private_page, kBytes / 2, MADV_WIPEONFORK) == 0, "MADV_WIPEONFORK");
  push_out(kBytes / 2);
  const pid_t child = fork();
  if (child == 0) {
    expect_pages(shared, kCount, 10'000, "in the child");
    expect_pages(private_page, kCount / 2, 0, "wiped in the child");
    expect_pages(private_page + kBytes / 2, kCount / 2, 12'000 + kCount / 2, "beside what is wiped");
    write_pages(shared, kCount / 2, 14'000);
    unmap(shared + kBytes / 2, 10);
    unsigned char* more = filled(15'000);
    push_out(kBytes / 2);
    expect_pages(more, kCount, 15'000, "mapped in the child");
    expect_pages(shared, kCount / 2, 14'000, "written in the child");
    expect_pages(shared + kBytes / 2 + 10 * kPage, kCount / 2 - 10, 10'010 + kCount / 2, "kept in the child");
    _exit(process_test::finish("child"));
  }
  write_pages(shared, 100, 16'000);
  int status = -1;
  expect(waitpid(child, &status, 0) == child && status == 0, "the child ends well",
         static_cast<std::size_t>(status));
  push_out(kBytes / 2);
  expect_pages(shared, 100, 16'000, "written by the parent");
  expect_pages(shared + 100 * kPage, kCount - 100, 10'100, "of the parent after the fork");
  expect_pages(private_page, kCount, 12'000, "not wiped in the parent");
  unmap(shared, kCount);
  unmap(private_page, kCount);
}

}  // namespace mapping_test

int main(int count, char** arguments) {
  using namespace mapping_test;
  if (count == 5 && std::strcmp(arguments[1], "random") == 0) {
    random_calls(static_cast<unsigned>(std::atoi(arguments[2])), std::atof(arguments[3]),
                 std::strtoull(arguments[4], nullptr, 10));
    return process_test::finish("mapping random");
  }
  struct Case {
    const char* name;
    void (*run)();
  };
  const Case cases[] = {{"placed", placed_and_counted},
                        {"page-out", contents_after_page_out},
                        {"unmap", partial_unmaps},
                        {"protect", protections},
                        {"reserve", reserve_and_commit},
                        {"discard", discards},
                        {"move", moves},
                        {"file", files},
                        {"fork", forks_with_mappings},
                        {"calls", calls_like_the_kernel}};
  for (const Case& each : cases) {
    if (count == 3 && std::strcmp(arguments[2], each.name) != 0) continue;
    const int before = process_test::failure_count.load();
    each.run();
    say("%-10s %s\n", each.name, process_test::failure_count.load() == before ? "ok" : "FAILED");
  }
  return process_test::finish("mapping");
}
