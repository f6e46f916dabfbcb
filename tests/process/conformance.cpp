// Conformance of the C allocation interface: errno, alignment and edge rules of POSIX, C23 and glibc (P13,
// P14). What would break: programs that rely on malloc(0), on errno after a failure, on realloc keeping the
// old block. Run as: conformance [require-c23]. The C23 functions are newer than glibc 2.36, so only an
// allocator that promises them is asked for them; without the argument their absence is said and does not
// count.
#include <malloc.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/process/expect.h"

extern "C" {
void* reallocarray(void*, std::size_t, std::size_t);
void* pvalloc(std::size_t);
__attribute__((weak)) void free_sized(void*, std::size_t);
__attribute__((weak)) void free_aligned_sized(void*, std::size_t, std::size_t);
}

namespace {

using process_test::expect;
using process_test::fill;
using process_test::holds;
using process_test::opaque;
using process_test::opaque_size;

constexpr std::size_t kTooLarge = static_cast<std::size_t>(PTRDIFF_MAX) + 1;
constexpr std::size_t kPage = 4096;
constexpr int kUntouched = 12345;
const std::size_t kImpossible[] = {kTooLarge, kTooLarge + 4096, SIZE_MAX - 4096, SIZE_MAX - 15, SIZE_MAX};

bool is_aligned(const void* block, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(block) % alignment == 0;
}

void expect_no_memory(const void* result, const char* what, std::size_t size) {
  expect(result == nullptr, what, size);
  expect(errno == ENOMEM, "errno is ENOMEM after a failed allocation", size);
}

void zero_bytes() {
  void* seen[64];
  for (auto*& block : seen) {
    block = opaque(malloc(opaque_size(0)));
    expect(block != nullptr, "malloc(0) is not null");
  }
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < i; ++j) expect(seen[i] != seen[j], "malloc(0) is unique");
  }
  for (auto* block : seen) free(block);
  void* blocks[] = {calloc(opaque_size(0), 8),        calloc(8, opaque_size(0)),
                    realloc(nullptr, opaque_size(0)), memalign(64, opaque_size(0)),
                    valloc(opaque_size(0)),           reallocarray(nullptr, 0, 8),
                    aligned_alloc(64, opaque_size(0))};
  std::size_t index = 0;
  for (void* block : blocks) {
    expect(opaque(block) != nullptr, "zero bytes give a block from every function", index++);
    free(block);
  }
  void* placed = nullptr;
  expect(posix_memalign(&placed, 64, 0) == 0 && placed != nullptr, "posix_memalign of zero bytes");
  free(placed);
}

void plain_failures() {
  for (const std::size_t size : kImpossible) {
    errno = 0;
    expect_no_memory(opaque(malloc(opaque_size(size))), "malloc above PTRDIFF_MAX is null", size);
    errno = 0;
    expect_no_memory(opaque(calloc(1, opaque_size(size))), "calloc above PTRDIFF_MAX is null", size);
    errno = 0;
    expect_no_memory(opaque(calloc(opaque_size(size), 1)), "calloc(n, 1) above PTRDIFF_MAX is null", size);
    errno = 0;
    expect_no_memory(opaque(realloc(nullptr, opaque_size(size))), "realloc(NULL, huge) is null", size);
    errno = 0;
    expect_no_memory(opaque(reallocarray(nullptr, opaque_size(size), 1)), "reallocarray(NULL, huge) is null",
                     size);
    errno = 0;
    expect_no_memory(opaque(aligned_alloc(64, opaque_size(size))), "aligned_alloc above PTRDIFF_MAX is null",
                     size);
    errno = 0;
    expect_no_memory(opaque(memalign(64, opaque_size(size))), "memalign above PTRDIFF_MAX is null", size);
    errno = 0;
    expect_no_memory(opaque(valloc(opaque_size(size))), "valloc above PTRDIFF_MAX is null", size);
    errno = 0;
    expect_no_memory(opaque(pvalloc(opaque_size(size))), "pvalloc above PTRDIFF_MAX is null", size);
  }
  // Possible by the type but not by any address space of 47 bits.
  errno = 0;
  expect_no_memory(opaque(malloc(opaque_size(kTooLarge - 1))), "malloc(PTRDIFF_MAX) is null", kTooLarge - 1);
  errno = 0;
  expect_no_memory(opaque(malloc(opaque_size(std::size_t{1} << 50))), "malloc(2^50) is null", 50);
}

void overflowing_products() {
  const std::size_t half = std::size_t{1} << 32;
  const std::size_t pairs[][2] = {{half, half},         {SIZE_MAX, 2},        {2, SIZE_MAX},
                                  {SIZE_MAX, SIZE_MAX}, {half + 1, half - 1}, {SIZE_MAX / 2 + 2, 2},
                                  {SIZE_MAX / 16, 17},  {kTooLarge / 8, 8},   {half << 16, 65537}};
  void* kept = opaque(malloc(100));
  fill(kept, 100, 0x5A);
  for (const auto& pair : pairs) {
    errno = 0;
    expect_no_memory(opaque(calloc(opaque_size(pair[0]), opaque_size(pair[1]))), "calloc overflow", pair[0]);
    errno = 0;
    void* moved = opaque(reallocarray(opaque(kept), opaque_size(pair[0]), opaque_size(pair[1])));
    expect_no_memory(moved, "reallocarray overflow", pair[0]);
    expect(holds(kept, 100, 0x5A), "reallocarray keeps the block when it fails", pair[0]);
  }
  free(kept);
  auto* product = static_cast<unsigned char*>(opaque(reallocarray(nullptr, 30, 40)));
  expect(product != nullptr && malloc_usable_size(product) >= 1200, "reallocarray multiplies");
  free(product);
}

void realloc_edges() {
  for (const std::size_t size : {std::size_t{1}, std::size_t{100}, std::size_t{5000}, std::size_t{100'000},
                                 std::size_t{3'000'000}, std::size_t{60'000'000}}) {
    void* block = opaque(malloc(size));
    fill(block, size, 0x37);
    errno = 0;
    expect_no_memory(opaque(realloc(block, opaque_size(kTooLarge))), "realloc above PTRDIFF_MAX is null",
                     size);
    errno = 0;
    expect_no_memory(opaque(realloc(block, opaque_size(SIZE_MAX))), "realloc of SIZE_MAX is null", size);
    expect(holds(block, size, 0x37), "realloc keeps the block when it fails", size);
    errno = kUntouched;
    expect(opaque(realloc(block, opaque_size(0))) == nullptr, "realloc(p, 0) frees and returns null", size);
    expect(errno == kUntouched, "realloc(p, 0) leaves errno", size);
  }
  // realloc(p, 0) really freed: 400 rounds of 60 MB would not fit otherwise.
  for (int round = 0; round < 400; ++round) {
    auto* block = static_cast<unsigned char*>(opaque(malloc(60'000'000)));
    if (!expect(block != nullptr, "realloc(p, 0) gives the memory back", static_cast<std::size_t>(round)))
      return;
    block[0] = 1;
    expect(opaque(realloc(block, opaque_size(0))) == nullptr, "realloc(p, 0) returns null");
  }
}

void posix_memalign_rules() {
  int marker = 0;
  for (const std::size_t alignment :
       {0u, 1u, 2u, 3u, 4u, 5u, 7u, 9u, 12u, 24u, 48u, 63u, 100u, 4095u, 4097u}) {
    void* placed = &marker;
    errno = kUntouched;
    expect(posix_memalign(&placed, opaque_size(alignment), 64) == EINVAL, "bad alignment is EINVAL",
           alignment);
    expect(placed == &marker, "posix_memalign leaves *out on EINVAL", alignment);
    expect(errno == kUntouched, "posix_memalign leaves errno on EINVAL", alignment);
  }
  for (const std::size_t size : kImpossible) {
    void* placed = &marker;
    errno = kUntouched;
    expect(posix_memalign(&placed, 64, opaque_size(size)) == ENOMEM, "huge posix_memalign is ENOMEM", size);
    expect(placed == &marker, "posix_memalign leaves *out on ENOMEM", size);
    // glibc's own sets errno here as a side effect; POSIX wants the return value alone.
    expect(errno == kUntouched || errno == ENOMEM, "posix_memalign's errno on ENOMEM", size);
  }
  void* placed = &marker;
  expect(posix_memalign(&placed, std::size_t{1} << 63, 64) != 0, "alignment of 2^63 is refused");
  expect(placed == &marker, "posix_memalign leaves *out on a huge alignment");
  for (std::size_t alignment = sizeof(void*); alignment <= (1u << 21); alignment *= 2) {
    errno = kUntouched;
    expect(posix_memalign(&placed, alignment, 100) == 0, "posix_memalign succeeds", alignment);
    expect(is_aligned(placed, alignment), "P14 posix_memalign is aligned", alignment);
    expect(errno == kUntouched, "posix_memalign leaves errno on success", alignment);
    free(placed);
  }
}

void odd_alignments() {
  const std::size_t wanted[][2] = {{0, 8},       {1, 8},       {3, 8},       {5, 8},
                                   {15, 16},     {24, 32},     {33, 64},     {100, 128},
                                   {1000, 1024}, {4095, 4096}, {5000, 8192}, {70'000, 131'072}};
  for (const auto& pair : wanted) {
    void* block = opaque(memalign(opaque_size(pair[0]), 200));
    expect(block != nullptr, "memalign rounds an odd alignment up", pair[0]);
    expect(is_aligned(block, pair[1]), "memalign's block is aligned to the next power of two", pair[0]);
    expect(malloc_usable_size(block) >= 200, "memalign's usable size", pair[0]);
    free(block);
    // glibc up to 2.37 rounds up here too, later ones and C23 refuse: both are right, a misaligned block is
    // not.
    errno = 0;
    block = opaque(aligned_alloc(opaque_size(pair[0]), 200));
    const bool refused = block == nullptr && errno == EINVAL;
    expect(refused || (block != nullptr && is_aligned(block, pair[1])), "aligned_alloc of odd alignment",
           pair[0]);
    free(block);
  }
  for (const std::size_t alignment : {(std::size_t{1} << 63) + 1, SIZE_MAX}) {
    errno = 0;
    void* block = opaque(memalign(opaque_size(alignment), 8));
    expect(block == nullptr && errno == EINVAL, "memalign beyond 2^63 is EINVAL", alignment);
  }
  errno = 0;
  expect(opaque(memalign(opaque_size(std::size_t{1} << 62), 8)) == nullptr && errno == ENOMEM,
         "memalign(2^62)");
}

void page_functions() {
  for (const std::size_t size : {1u, 100u, 4095u, 4096u, 4097u, 10'000u, 1'000'000u, 50'000'000u}) {
    void* block = opaque(valloc(size));
    expect(is_aligned(block, kPage) && malloc_usable_size(block) >= size, "valloc is page aligned", size);
    fill(block, size, 1);
    free(block);
    block = opaque(pvalloc(size));
    const std::size_t rounded = (size + kPage - 1) / kPage * kPage;
    expect(is_aligned(block, kPage), "pvalloc is page aligned", size);
    expect(malloc_usable_size(block) >= rounded, "pvalloc rounds up to whole pages", size);
    fill(block, rounded, 1);
    free(block);
  }
}

void free_keeps_errno() {
  for (const std::size_t size : {1u, 64u, 5000u, 40'000u, 300'000u, 5'000'000u, 90'000'000u}) {
    void* blocks[40];
    const std::size_t count = size > 1'000'000 ? 3 : 40;
    for (std::size_t i = 0; i < count; ++i) {
      blocks[i] = opaque(malloc(size));
      fill(blocks[i], size, 3);
    }
    for (std::size_t i = 0; i < count; ++i) {
      errno = kUntouched;
      free(blocks[i]);
      expect(errno == kUntouched, "free leaves errno", size);
    }
  }
  errno = kUntouched;
  free(nullptr);
  expect(errno == kUntouched, "free(NULL) leaves errno");
  expect(malloc_usable_size(nullptr) == 0, "malloc_usable_size(NULL) is 0");
}

void sized_frees(bool required) {
  if (free_sized == nullptr || free_aligned_sized == nullptr) {
    if (required) expect(false, "free_sized and free_aligned_sized exist");
    process_test::say("free_sized, free_aligned_sized: absent in this library\n");
    return;
  }
  free_sized(nullptr, 0);
  free_aligned_sized(nullptr, 64, 64);
  for (const std::size_t size :
       {0u, 1u, 16u, 100u, 1024u, 5000u, 32'768u, 100'000u, 5'000'000u, 70'000'000u}) {
    errno = kUntouched;
    free_sized(opaque(malloc(size)), size);
    free_sized(opaque(calloc(1, size)), size);
    free_sized(opaque(realloc(nullptr, size)), size);
    for (std::size_t alignment = 8; alignment <= 65'536; alignment *= 8) {
      void* block = opaque(aligned_alloc(alignment, size));
      expect(block != nullptr && is_aligned(block, alignment), "aligned_alloc before free_aligned_sized",
             size);
      free_aligned_sized(block, alignment, size);
    }
    expect(errno == kUntouched, "free_sized leaves errno", size);
  }
}

void control_functions() {
  constexpr std::size_t kBytes = 10'000'000;
  const struct mallinfo2 before = mallinfo2();
  void* block = opaque(malloc(kBytes));
  fill(block, kBytes, 9);
  const struct mallinfo2 during = mallinfo2();
  expect(during.uordblks + during.hblkhd >= before.uordblks + before.hblkhd + kBytes,
         "mallinfo2 counts what is live", during.uordblks);
  free(block);
  const struct mallinfo2 after = mallinfo2();
  expect(after.uordblks + after.hblkhd < during.uordblks + during.hblkhd, "mallinfo2 counts what was freed",
         after.uordblks);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  const struct mallinfo old = mallinfo();
#pragma GCC diagnostic pop
  expect(old.arena >= 0 && old.ordblks >= 0, "mallinfo answers");
  const int trimmed = malloc_trim(0);
  expect(trimmed == 0 || trimmed == 1, "malloc_trim returns 0 or 1");
  const int option = mallopt(M_MMAP_THRESHOLD, 65'536);
  expect(option == 0 || option == 1, "mallopt returns 0 or 1");
  const int unknown = mallopt(-9999, 1);
  expect(unknown == 0 || unknown == 1, "mallopt of an unknown option returns 0 or 1");
  malloc_stats();
}

void malloc_info_writes_xml() {
  char* text = nullptr;
  std::size_t length = 0;
  FILE* stream = open_memstream(&text, &length);
  if (!expect(stream != nullptr, "open_memstream")) return;
  expect(malloc_info(1, stream) == EINVAL || malloc_info(1, stream) == -1,
         "malloc_info refuses unknown options");
  expect(malloc_info(0, stream) == 0, "malloc_info returns 0");
  fclose(stream);
  expect(text != nullptr && std::strncmp(text, "<malloc", 7) == 0, "malloc_info writes <malloc ...>");
  expect(text != nullptr && std::strstr(text, "</malloc>") != nullptr, "malloc_info closes </malloc>");
  free(text);
}

}  // namespace

int main(int argc, char** argv) {
  const bool require_c23 = argc > 1 && std::strcmp(argv[1], "require-c23") == 0;
  zero_bytes();
  plain_failures();
  overflowing_products();
  realloc_edges();
  posix_memalign_rules();
  odd_alignments();
  page_functions();
  free_keeps_errno();
  sized_frees(require_c23);
  control_functions();
  malloc_info_writes_xml();
  return process_test::finish("conformance");
}
